/* local_start: starting a sandbox (or adopting one that runs), and ending one: suspend and destroy.
 *
 * Start: look at record and lock; when it runs, only reach its init; else prepare files and control groups,
 * write that it was started, listen, spawn, and let init start the server. Ending: look; signal init through
 * its pidfd; wait until it is gone and the lock is free; then clear up. Each look decides anew from the
 * record and the kernel's lock, so any step may be repeated after a crash. A sandbox caught between spawn and
 * init (lock held, no process yet) is looked at again until the deadline. */
#include "providers/local_run.h"

#include <signal.h>

#include "base/core/mem.h"

#define LOOK_AGAIN_MS 5
#define GRACE_MS      3000 /* init ends everything after 2 s */

static void start_looked(struct local_job *j);
static void stop_looked(struct local_job *j);

/* --- start --- */

/* Blocks. */
static void start_look(struct local_job *j)
{
    const struct local_place *w = &j->l->place;
    struct local_record *r = &j->record;
    arena_reset(&j->scratch);
    j->code = local_sandbox_read(w, j->id, &j->scratch, r, &j->err);
    if (j->code == E_NOT_FOUND)
        j->code = err_set(&j->err, E_NOT_FOUND, "sandbox %.*s does not exist", SL_ARG(j->id));
    if (j->code == 0)
        j->code = local_life_probe(w, j->id, &j->life, &j->err);
    if (j->code != 0 || j->life.is_held)
        return;
    j->code = local_home_uid(w, r->home_id, &j->uid, &j->err);
    if (j->code == 0)
        j->code = local_sandbox_prepare(w, r, j->uid, &j->err);
    if (j->code == 0)
        j->code = local_limits_prepare(j->l->limits, local_sandbox_folder(w, j->id, &j->scratch), r,
                                       &j->scratch, j->cgroups, &j->n_cgroups, &j->err);
    if (j->code == 0 && r->wish != LOCAL_STARTED) {
        r->wish = LOCAL_STARTED;
        j->code = local_sandbox_write(w, r, &j->err);
    }
}

static void on_server_started(int code, const struct err *err, void *data)
{
    struct local_job *j = data;
    if (code != E_CANCELLED) {
        local_job_end(j, code, err);
        return;
    }
    if (j->code == 0) /* else the outer process ended, and said why */
        j->code = err_set(&j->err, E_UNAVAILABLE, "the sandbox ended while it was being started");
    local_job_end(j, j->code, &j->err);
}

static void server_start(struct local_job *j)
{
    char port[8];
    struct slice argv[HOST_SERVER_ARGV_MAX];
    size_t n = host_server_argv(&j->server.server, port, argv);
    j->code = 0;
    link_start(j->e->reach.link, argv, n, j->server.env, j->server.n_env, local_job_left_ms(j),
               on_server_started, j);
    host_server_wipe(&j->server); /* the link has its own copy */
}

static int start_reach(struct local_job *j)
{
    struct local_entry *e = j->e;
    if (e->pid != j->life.pid)
        local_entry_down(e); /* of a run that ended, and nobody has noticed yet */
    int code = local_entry_link(e, &j->err);
    if (code == 0 && j->life.pid != 0)
        code = local_entry_watch(e, j->life.pid, &j->err);
    if (code != 0 || j->life.pid != 0)
        return code;
    char **command =
        local_command(&j->l->place, j->l->limits, &j->record, j->uid, j->cgroups, j->n_cgroups, &j->scratch);
    code = local_entry_spawn(e, command, &j->err);
    if (code != 0)
        local_entry_down(e);
    j->awaits_init = code == 0;
    return code;
}

static void start_again(struct local_job *j)
{
    if (local_job_is_over(j))
        local_job_end(j, E_TIMEOUT, NULL);
    else
        local_job_work(j, start_look, start_looked);
}

static void start_looked(struct local_job *j)
{
    struct local_entry *e = j->e;
    if (j->code != 0 || local_job_is_over(j)) {
        local_job_end(j, j->code != 0 ? j->code : E_TIMEOUT, &j->err);
        return;
    }
    local_entry_know(e, &j->record);
    if (j->life.is_held && j->life.pid == 0) {
        local_job_tick(j, LOOK_AGAIN_MS, start_again);
        return;
    }
    int code = start_reach(j);
    if (code == E_NOT_FOUND) { /* ended between the look and now */
        local_job_tick(j, LOOK_AGAIN_MS, start_again);
        return;
    }
    if (code != 0) {
        local_job_end(j, code, &j->err);
        return;
    }
    server_start(j);
}

void local_start_begin(struct local_job *j)
{
    local_job_work(j, start_look, start_looked);
}

void local_start_on_outer_exit(struct local_job *j)
{
    struct local_outer *o = j->e->outer;
    struct slice said = slice_trim(slice_of(o->text, o->n_text));
    while (said.n > 0 && said.p[said.n - 1] == '\n')
        said.n--;
    if (said.n > 0)
        j->code = err_set(&j->err, E_UNAVAILABLE, "the sandbox could not be made: %.*s", SL_ARG(said));
    else
        j->code = err_set(&j->err, E_UNAVAILABLE, "the sandbox could not be made: exit status %d, signal %d",
                          (int)o->exit_status, o->exit_signal);
    local_entry_down(j->e); /* link_start ends with E_CANCELLED */
}

/* --- suspend and destroy --- */

/* Blocks. A record that cannot be read must not keep a sandbox from being destroyed. */
static void stop_look(struct local_job *j)
{
    const struct local_place *w = &j->l->place;
    arena_reset(&j->scratch);
    j->code = local_sandbox_read(w, j->id, &j->scratch, &j->record, &j->err);
    if (j->code != 0 && j->kind == JOB_DESTROY)
        j->code = 0;
    if (j->code == 0)
        j->code = local_life_probe(w, j->id, &j->life, &j->err);
}

/* Blocks. */
static void suspend_finish(struct local_job *j)
{
    j->code = local_limits_remove(local_sandbox_folder(&j->l->place, j->id, &j->scratch), &j->err);
    if (j->code == 0 && j->record.wish != LOCAL_SUSPENDED) {
        j->record.wish = LOCAL_SUSPENDED;
        j->code = local_sandbox_write(&j->l->place, &j->record, &j->err);
    }
}

/* Blocks. */
static void destroy_finish(struct local_job *j)
{
    j->code = local_limits_remove(local_sandbox_folder(&j->l->place, j->id, &j->scratch), &j->err);
    if (j->code == 0)
        j->code = local_sandbox_remove(&j->l->place, j->id, &j->err);
}

static void stop_finished(struct local_job *j)
{
    local_job_end(j, j->code, &j->err);
}

static void stop_again(struct local_job *j)
{
    if (local_job_is_over(j))
        local_job_end(j, E_TIMEOUT, NULL);
    else
        local_job_work(j, stop_look, stop_looked);
}

static void stop_kill(struct local_job *j)
{
    if (j->e->pid != 0)
        (void)host_pidfd_kill(j->e->pidfd, SIGKILL); /* fails only when it is gone: the watch says so */
    if (local_job_is_over(j)) /* closing: nobody watches any more, and what was signalled ends by itself */
        local_job_end(j, E_TIMEOUT, NULL);
    else
        local_job_tick(j, local_job_left_ms(j) + 1, stop_again);
}

static void stop_looked(struct local_job *j)
{
    struct local_entry *e = j->e;
    if (j->code != 0 || local_job_is_over(j)) {
        local_job_end(j, j->code != 0 ? j->code : E_TIMEOUT, &j->err);
        return;
    }
    if (!j->life.is_held) {
        local_entry_down(e);
        local_job_work(j, j->kind == JOB_DESTROY ? destroy_finish : suspend_finish, stop_finished);
        return;
    }
    if (e->pid != j->life.pid)
        local_entry_down(e);
    if (j->life.pid == 0 || local_entry_watch(e, j->life.pid, NULL) != 0) {
        local_job_tick(j, LOOK_AGAIN_MS, stop_again);
        return;
    }
    int64_t half = local_job_left_ms(j) / 2;
    if (j->kind == JOB_DESTROY) {
        stop_kill(j);
    } else {
        (void)host_pidfd_kill(e->pidfd, SIGTERM); /* as above */
        local_job_tick(j, half < GRACE_MS ? half : GRACE_MS, stop_kill);
    }
}

void local_stop_begin(struct local_job *j)
{
    local_job_work(j, stop_look, stop_looked);
}

void local_stop_on_exit(struct local_job *j)
{
    if (timer_is_active(&j->tick)) /* else a look is under way and will see it */
        local_job_tick(j, 0, stop_again);
}
