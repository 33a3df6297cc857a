/* docker: the parts of the Docker provider. docker.c holds the calls of the interface, docker_job.c their
 * queue and their one answer, docker_entry.c known sandboxes, docker_start.c and docker_stop.c what takes
 * several steps, docker_create.c the hardened container, docker_image.c pulls, docker_watch.c the engine's
 * events.
 *
 * What a sandbox is stands in the engine: a container reeve-<id> with our labels, and a volume
 * reeve-home-<home id>. On this host, under the root (mode 0700):
 *   lock                       held while a controller uses the root
 *   sandboxes/<id>/control/    the folder seen inside; in it Reeve's socket
 *   sandboxes/<id>/suspended   we ended it: it sleeps, it has not died
 * A job is one call of the provider's interface; jobs on one sandbox run one after the other, each with at
 * most one call to the engine under way. An entry exists while a job, a link, a watch or a connector needs
 * it. */
#ifndef REEVE_PROVIDERS_DOCKER_H
#define REEVE_PROVIDERS_DOCKER_H

#include "base/core/hash.h"
#include "providers/docker_engine.h"
#include "providers/docker_reply.h"
#include "providers/host.h"
#include "providers/provider.h"
#include "providers/reach.h"

#define DOCKER_JOBS_MAX 10000 /* calls waiting and under way */
#define DOCKER_UID      1000  /* of everything inside */
#define DOCKER_NOTE_MAX 256
#define DOCKER_SWEEP_MS 60000

struct docker_entry;
struct docker_job;
struct docker_image;

struct docker {
    struct provider p;
    struct loop *loop;
    struct docker_engine *engine;
    char *name, *endpoint; /* the socket's path */
    char *root, *init_path, *agent_binary;
    int lock_fd;
    struct provider_caps caps;
    char note[DOCKER_NOTE_MAX];
    struct docker_entry *entries;
    struct docker_job *jobs;
    size_t n_jobs;
    struct docker_image *images;
    struct docker_watch *watch;
    bool is_closing, closed_once;
    unsigned n_handles; /* timers of images and of the watch that are closing */
    void (*closed)(void *data);
    void *closed_data;
};

enum docker_job_kind {
    DOCKER_JOB_CREATE,
    DOCKER_JOB_DESCRIBE,
    DOCKER_JOB_LIST,
    DOCKER_JOB_START,
    DOCKER_JOB_SUSPEND,
    DOCKER_JOB_DESTROY,
    DOCKER_JOB_DESTROY_HOME,
    DOCKER_JOB_SWEEP,
    DOCKER_JOB_USAGE
};

typedef void (*docker_step)(struct docker_job *j);

struct docker_job {
    struct docker_job *prev, *next;             /* docker.jobs */
    struct docker_job *queue_prev, *queue_next; /* the entry's queue; its head is the one that runs */
    struct docker *d;
    struct docker_entry *e; /* NULL: waits for nobody */
    enum docker_job_kind kind;
    bool is_begun, is_submitted, is_answered, is_ended;
    struct timer deadline, tick;
    int64_t until_ms;
    uv_work_t work;
    docker_step blocking; /* on a thread of libuv; touches the job's own members only */
    docker_step step;     /* on the loop, after an answer of the engine, `blocking`, or a tick */
    docker_step begin;
    struct docker_call *call; /* under way */
    unsigned n_handles;
    struct arena arena;
    struct docker_answer answer; /* for `step`, when code is 0 */
    int code;                    /* of the engine's call, or of `blocking` */
    struct err err;
    union {
        provider_done_cb done;
        provider_info_cb info;
        provider_list_cb list;
        provider_usage_cb usage;
    } cb;
    void *data;
    /* what the kinds work with */
    struct slice id, controller;
    struct sandbox_spec spec; /* texts in the arena */
    enum suspend_kind suspend;
    struct docker_container container; /* as last inspected */
    bool is_container_started;         /* start: this job did it */
    bool is_marked;                    /* the file `suspended` is there */
    struct sandbox_usage usage;
    struct sandbox_info info, *items;
    size_t n_items;
    struct slice *ids; /* sweep: of the containers; then of the folders that go */
    size_t n_ids;
    struct host_server server;
};

struct docker_entry {
    UT_hash_handle hh;
    struct docker *d;
    char *id;
    char *workspace;
    struct docker_job *queue;
    struct reach reach;
    pid_t pid; /* of init, while watched; 0: none */
    struct exit_watch *exit_watch;
    bool has_oom;       /* the engine said that memory ran out since it was started */
    unsigned n_handles; /* watches that are closing */
};

/* --- docker_job.c --- */
/* For the entry of the id (is_keyed) or of nobody. The caller sets callbacks and inputs (and j->code, j->err
 * when they are wrong), then calls docker_job_submit. */
struct docker_job *docker_job_new(struct docker *d, enum docker_job_kind kind, bool is_keyed, struct slice id,
                                  int64_t timeout_ms, docker_step begin, void *data);
void docker_job_submit(struct docker_job *j);
/* Asks the engine; then `step`, with j->code and j->answer. Target and body are copied. */
void docker_job_call(struct docker_job *j, const char *method, const char *target, struct slice body,
                     docker_step step);
void docker_job_work(struct docker_job *j, docker_step blocking, docker_step step);
void docker_job_tick(struct docker_job *j, int64_t after_ms, docker_step step);
/* Answers if nobody has, and lets the next one begin. Nothing may touch the job afterwards. */
void docker_job_end(struct docker_job *j, int code, const struct err *err);
/* Ends it with what the engine said, in code (a call that failed) or in its status. */
void docker_job_end_refused(struct docker_job *j);
bool docker_job_is_over(const struct docker_job *j); /* answered by its deadline, or closing */
int64_t docker_job_left_ms(const struct docker_job *j);
void docker_jobs_cancel(struct docker *d);
/* Asks for its container; `step` begins with docker_job_container: j->container and 0, E_NOT_FOUND, or
 * another failure, with j->err. */
void docker_job_inspect(struct docker_job *j, docker_step step);
int docker_job_container(struct docker_job *j);

/* --- docker_entry.c --- */
struct docker_entry *docker_entry_get(struct docker *d, struct slice id); /* found or made */
struct docker_entry *docker_entry_find(struct docker *d, struct slice id);
void docker_entry_maybe_free(struct docker_entry *e);
void docker_entry_know(struct docker_entry *e, const struct docker_container *c);
/* Listens and watches its first process: 0; E_NOT_FOUND: it is not there any more. */
int docker_entry_reach(struct docker_entry *e, const struct docker_container *c, struct err *err);
int docker_entry_link(struct docker_entry *e, struct err *err); /* listens, if not yet */
void docker_entry_down(struct docker_entry *e);                 /* lets go of link and watch */
void docker_entry_tell(struct docker_entry *e, const char *what);

/* --- docker_place.c: the folders on this host (blocks) --- */
int docker_place_open(const char *root, struct err *err);
int docker_place_prepare(const char *root, struct slice id, struct err *err); /* and no longer suspended */
int docker_place_mark_suspended(const char *root, struct slice id, struct err *err);
bool docker_place_is_suspended(const char *root, struct slice id);
int docker_place_remove(const char *root, struct slice id, struct err *err); /* absent is success */
/* Gives a home that belongs to another to our uid, where we may; else leaves it. */
void docker_place_own(const char *folder);
/* Ids of the folders that are there, in the arena. */
int docker_place_list(const char *root, struct arena *a, struct slice **ret, size_t *ret_n, struct err *err);

/* --- docker_create.c, docker_start.c, docker_stop.c --- */
void docker_create_begin(struct docker_job *j);
void docker_start_begin(struct docker_job *j);
void docker_suspend_begin(struct docker_job *j);
void docker_destroy_begin(struct docker_job *j);
void docker_destroy_home_begin(struct docker_job *j);
/* "/containers/reeve-<id><rest>" */
char *docker_target(struct docker_job *j, const char *rest);

/* --- docker_image.c --- */
/* The image is not there: has it pulled. E_AGAIN: that goes on, an event will say when it ended; else why it
 * cannot be had. */
int docker_image_want(struct docker *d, struct slice image, struct slice id, struct slice workspace,
                      struct err *err);
void docker_images_close(struct docker *d);

/* --- docker_watch.c --- */
void docker_watch_start(struct docker *d);
void docker_watch_close(struct docker *d);

/* --- docker_sweep.c --- */
/* Removes the folders of sandboxes that are not among these and that nobody works on. */
void docker_sweep_start(struct docker *d, const struct docker_container *items, size_t n);

void docker_maybe_closed(struct docker *d);

#endif
