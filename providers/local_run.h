/* local_run: the loop's side of the local provider: calls (jobs), known sandboxes (entries), and what holds
 * them.
 *
 * A job is one call of the provider's interface. Jobs on one sandbox run one after the other, in the order of
 * the calls; each is answered exactly once, by its end or by its deadline, and may go on silently after its
 * deadline until the next safe point. An entry exists while a job, a link, a process, a connector refers to
 * the sandbox. */
#ifndef REEVE_PROVIDERS_LOCAL_RUN_H
#define REEVE_PROVIDERS_LOCAL_RUN_H

#include "base/core/hash.h"
#include "providers/local.h"
#include "providers/reach.h"

#define LOCAL_JOBS_MAX 10000 /* calls waiting and under way */

struct local_entry;
struct local_job;

struct local {
    struct provider p;
    struct loop *loop;
    struct local_place place;
    atomic_bool stop;
    struct local_limits *limits;
    struct local_uids uids; /* root only */
    struct provider_caps caps;
    char *name;
    int lock_fd;
    struct arena leftovers_arena;
    struct slice *leftovers; /* of a crash, removed in the background */
    size_t n_leftovers;
    struct local_outer *outers; /* all that have not exited */
    struct local_entry *entries;
    struct local_job *jobs; /* all */
    size_t n_jobs;
    bool is_closing, closed_once;
    void (*closed)(void *data);
    void *closed_data;
};

enum local_job_kind {
    JOB_CREATE,
    JOB_DESCRIBE,
    JOB_LIST,
    JOB_START,
    JOB_SUSPEND,
    JOB_DESTROY,
    JOB_DESTROY_HOME,
    JOB_SWEEP,
    JOB_USAGE
};

typedef void (*local_step)(struct local_job *j);

struct local_job {
    struct local_job *prev, *next;             /* local.jobs */
    struct local_job *queue_prev, *queue_next; /* entry's queue; its head is the one that runs */
    struct local *l;
    struct local_entry *e; /* NULL: waits for nobody */
    enum local_job_kind kind;
    bool is_submitted, is_begun, is_answered, is_ended;
    bool awaits_init; /* a start that has spawned */
    struct timer deadline, tick;
    int64_t until_ms;
    uv_work_t work;
    local_step blocking; /* on a thread of libuv; touches the job's own members and local.place only */
    local_step step;     /* on the loop, after `blocking`, a tick, or the process's end */
    local_step begin;
    unsigned n_handles;
    struct arena arena;   /* inputs, and what is answered */
    struct arena scratch; /* the last look's */
    int code;             /* of `blocking` */
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
    struct local_record record;
    struct local_life life;
    uid_t uid, uid_taken;
    const char *cgroups[LOCAL_CGROUPS_MAX];
    size_t n_cgroups;
    struct sandbox_usage usage;
    struct sandbox_info info, *items;
    size_t n_items;
    char retired[HOST_ID_MAX + 64];
    /* start: a private copy, wiped */
    struct host_server server;
};

struct local_outer { /* the process we started: `enter`, then bubblewrap's outer half */
    uv_process_t process;
    uv_pipe_t said;                  /* its stderr, until init is there */
    struct local_outer *prev, *next; /* local.outers */
    struct local_entry *e;
    unsigned n_handles;
    bool is_closing, has_exited;
    int64_t exit_status;
    int exit_signal;
    char text[512];
    size_t n_text;
    char read_buf[512];
};

struct local_entry {
    UT_hash_handle hh;
    struct local *l;
    char *id;
    struct slice workspace, home_id; /* owned texts, empty until a job has read the record */
    struct local_job *queue;
    struct reach reach;
    pid_t pid; /* of init, while watched; 0: none */
    int pidfd; /* the watch's; -1: none */
    struct watch *watch;
    struct local_outer *outer; /* of the present run; one of an earlier run ends by itself */
    unsigned n_handles;        /* watches and outers that are closing */
};

/* --- local_job.c --- */
/* Appends to the entry of `key` (NULL: none). The caller sets callbacks and inputs, then calls
 * local_job_submit. */
struct local_job *local_job_new(struct local *l, enum local_job_kind kind, const char *key_prefix,
                                struct slice key, int64_t timeout_ms, local_step begin, void *data);
void local_job_submit(struct local_job *j);
void local_job_work(struct local_job *j, local_step blocking, local_step step);
void local_job_tick(struct local_job *j, int64_t after_ms, local_step step);
void local_job_answer(struct local_job *j, int code, const struct err *err);
/* Answers if nobody has, and lets the next one begin. Nothing may touch the job afterwards. */
void local_job_end(struct local_job *j, int code, const struct err *err);
bool local_job_is_over(const struct local_job *j); /* answered by its deadline, or the provider is closing */
int64_t local_job_left_ms(const struct local_job *j);
void local_jobs_cancel(struct local *l);

/* --- local_entry.c --- */
struct local_entry *local_entry_get(struct local *l, const char *prefix, struct slice id); /* found or made */
struct local_entry *local_entry_find(struct local *l, struct slice id);
void local_entry_maybe_free(struct local_entry *e);
void local_entry_know(struct local_entry *e, const struct local_record *r);
/* Begins to watch init; 0, or E_NOT_FOUND when it is not (any more) the one with that pid. */
int local_entry_watch(struct local_entry *e, pid_t pid, struct err *err);
int local_entry_link(struct local_entry *e, struct err *err); /* listens, if not yet */
int local_entry_spawn(struct local_entry *e, char **command, struct err *err);
void local_outers_close(struct local *l); /* the processes go on, unwatched */
/* Lets go of link, watch and outer process; the sandbox itself is not touched. */
void local_entry_down(struct local_entry *e);

/* --- local_start.c --- */
void local_start_begin(struct local_job *j);
void local_start_on_outer_exit(struct local_job *j); /* before init was there */
void local_stop_begin(struct local_job *j);          /* suspend and destroy */
void local_stop_on_exit(struct local_job *j);        /* the process they wait for is gone */

void local_maybe_closed(struct local *l);

#endif
