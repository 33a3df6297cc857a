/* docker_reply: what a Docker engine answers, taken apart. Without I/O. The engine is trusted to be an
 * engine, but its texts carry what images, registries and processes said: checked, and cut where they are
 * shown. Shapes: Docker Engine API 1.41; only members that newer versions have too. */
#ifndef REEVE_PROVIDERS_DOCKER_REPLY_H
#define REEVE_PROVIDERS_DOCKER_REPLY_H

#include "base/core/arena.h"
#include "providers/provider.h"

#include <sys/types.h>

#define DOCKER_NAME_PREFIX "reeve-"      /* of our containers' names, before the sandbox's id */
#define DOCKER_HOME_PREFIX "reeve-home-" /* of our volumes' names, before the home's id */
#define DOCKER_LABEL       "reeve."      /* of our labels' names */

#define DOCKER_API_MINOR_MIN 41
#define DOCKER_API_MINOR_MAX 47

enum docker_status { DOCKER_CREATED, DOCKER_RUNNING, DOCKER_PAUSED, DOCKER_EXITED, DOCKER_REMOVING };

struct docker_container { /* texts live in the arena */
    struct slice id;      /* the engine's: hex digits */
    struct slice name;    /* the sandbox's id; empty: not a name of ours */
    struct sandbox_labels labels;
    enum docker_status status;
    int64_t created_at_ms;
    /* of one that was inspected */
    struct slice error; /* why it could not be started, or a device failed */
    bool is_oom_killed;
    int64_t exit_code;
    pid_t pid; /* of its first process; 0: does not run */
    uint64_t memory_bytes;
    struct slice home_source; /* folder of the home volume on the engine's host; empty: unknown */
    struct slice init_source, agent_source, control_source; /* what is bound from the host; empty: nothing */
    struct slice *env;                                      /* the image's "NAME=value" */
    size_t n_env;
};

/* All: 0, or E_UPSTREAM saying what is wrong with the answer. */
int docker_inspect_parse(struct slice body, struct arena *a, struct docker_container *ret, struct err *err);
/* The containers that have our labels; others are left out. */
int docker_list_parse(struct slice body, struct arena *a, struct docker_container **ret, size_t *ret_n,
                      struct err *err);
/* The minor version of the API to speak; E_UNAVAILABLE when there is none that both know. */
int docker_version_parse(struct slice body, unsigned *ret_minor, struct err *err);
/* What this engine cannot limit, as a sentence; "" when nothing. */
int docker_info_parse(struct slice body, char ret_note[256], struct err *err);
/* Is it a volume of ours for that home? */
int docker_volume_parse(struct slice body, struct slice home_id, bool *ret_is_ours, struct err *err);

struct docker_event {
    struct slice action; /* "die", "oom", "pause" … */
    struct slice sandbox, workspace;
};
/* One line of the stream of events. E_NOT_FOUND: none of ours. */
int docker_event_parse(struct slice line, struct arena *a, struct docker_event *ret, struct err *err);

/* One line of a pull. */
struct docker_progress {
    struct slice layer, status; /* may be empty */
    uint64_t current, total;    /* bytes; 0: not said */
    struct slice error;         /* the pull failed; empty: no */
};
int docker_progress_parse(struct slice line, struct arena *a, struct docker_progress *ret, struct err *err);

/* The text of an error's answer, one line of plain ASCII; never empty. */
struct slice docker_message(struct slice body, struct arena *a);
/* The last lines of a container's output (frames of 8 bytes of head), one line of plain ASCII. */
struct slice docker_logs_text(struct slice body, struct arena *a);

#endif
