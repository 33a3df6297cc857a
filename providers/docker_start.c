/* docker_start: starting a sandbox, waking a frozen one, or adopting one that runs.
 *
 * Happy path: inspect; when it runs, only reach its init; else prepare the folder, listen, start the
 * container, inspect for the first process, and let init start the server. Failure paths: a first process
 * that ends at once: its exit status and last words; a container that the engine cannot start: the engine's
 * words. Each look decides anew from what the engine says, so any step may be repeated after a crash. */

#include "base/core/mem.h"
#include "providers/docker.h"

#define LOOK_AGAIN_MS  20
#define INIT_MARGIN_MS 500 /* so that "init did not connect" is said before the job's own deadline */

static void start_looked(struct docker_job *j);
static void on_started_look(struct docker_job *j);
static void on_ended_look_again(struct docker_job *j);
static void logs_ask(struct docker_job *j);

/* --- the end: its server --- */

static void ended(struct docker_job *j)
{
    (void)err_set(&j->err, E_GONE, "the sandbox ended while it was being started");
    docker_job_end(j, E_GONE, &j->err);
}

/* The watch saw the end of the first process that this job had made; the engine, which knows why, may learn
 * it later. */
static void on_ended_look(struct docker_job *j)
{
    pid_t seen = j->container.pid; /* of the look before this one */
    if (docker_job_container(j) != 0)
        ended(j);
    else if (j->container.status == DOCKER_EXITED)
        logs_ask(j);
    else if (j->container.status == DOCKER_RUNNING && j->container.pid == seen)
        docker_job_tick(j, LOOK_AGAIN_MS, on_ended_look_again);
    else /* somebody else has begun something new with it */
        ended(j);
}

static void on_ended_look_again(struct docker_job *j)
{
    docker_job_inspect(j, on_ended_look);
}

static void on_server_started(int code, const struct err *err, void *data)
{
    struct docker_job *j = data;
    if (code != E_CANCELLED)
        docker_job_end(j, code, err);
    else if (j->is_container_started && !docker_job_is_over(j))
        docker_job_inspect(j, on_ended_look);
    else /* the watch saw its end, or the provider is being closed */
        ended(j);
}

static void server_start(struct docker_job *j)
{
    char port[8];
    struct slice argv[HOST_SERVER_ARGV_MAX];
    int64_t left = docker_job_left_ms(j);
    size_t n = host_server_argv(&j->server.server, port, argv);
    host_server_defaults(&j->server, &j->arena, j->container.env, j->container.n_env);
    link_start(j->e->reach.link, argv, n, j->server.env, j->server.n_env,
               left > 2 * INIT_MARGIN_MS ? left - INIT_MARGIN_MS : left, on_server_started, j);
    host_server_wipe(&j->server); /* the link has its own copy */
}

static void on_look_again(struct docker_job *j)
{
    docker_job_inspect(j, j->is_container_started ? on_started_look : start_looked);
}

static void reach(struct docker_job *j)
{
    int code = docker_entry_reach(j->e, &j->container, &j->err);
    if (code == 0)
        server_start(j);
    else if (code == E_NOT_FOUND) /* ended between the look and now */
        docker_job_tick(j, LOOK_AGAIN_MS, on_look_again);
    else
        docker_job_end(j, code, &j->err);
}

/* --- a first process that did not stay --- */

static void on_logs(struct docker_job *j)
{
    struct slice said = SLICE_EMPTY;
    if (j->code == 0 && j->answer.status == 200)
        said = docker_logs_text(j->answer.body, &j->arena);
    docker_entry_down(j->e);
    (void)err_set(&j->err, E_GONE, "its first process ended at once with status %lld%s%.*s",
                  (long long)j->container.exit_code, said.n > 0 ? ": " : "", SL_ARG(said));
    docker_job_end(j, E_GONE, &j->err);
}

static void logs_ask(struct docker_job *j)
{
    docker_job_call(j, "GET", docker_target(j, "/logs?stdout=1&stderr=1&tail=5"), SLICE_EMPTY, on_logs);
}

static void on_started_look(struct docker_job *j)
{
    if (docker_job_container(j) != 0) {
        docker_job_end(j, j->code, &j->err);
        return;
    }
    if (j->container.status == DOCKER_RUNNING && j->container.pid != 0) {
        reach(j);
    } else if (j->container.status == DOCKER_PAUSED) {
        (void)err_set(&j->err, E_BUSY, "somebody has paused sandbox %.*s", SL_ARG(j->id));
        docker_job_end(j, E_BUSY, &j->err);
    } else {
        logs_ask(j);
    }
}

/* --- the container --- */

static void on_start(struct docker_job *j)
{
    int status = j->code == 0 ? j->answer.status : 0;
    if (status == 204 || status == 304) {
        j->is_container_started = true;
        docker_job_inspect(j, on_started_look);
        return;
    }
    docker_entry_down(j->e);
    docker_job_end_refused(j);
}

/* Blocks. */
static void prepare_do(struct docker_job *j)
{
    j->code = docker_place_prepare(j->d->root, j->id, &j->err);
    if (j->code == 0 && j->container.home_source.n > 0)
        docker_place_own(j->container.home_source.p);
}

static void on_prepared(struct docker_job *j)
{
    if (j->code == 0 && docker_job_is_over(j))
        j->code = err_set(&j->err, E_CANCELLED, "given up");
    if (j->code == 0) {
        docker_entry_down(j->e); /* of a run that ended, and nobody has noticed yet */
        j->e->has_oom = false;
        j->code = docker_entry_link(j->e, &j->err); /* init connects within the call */
    }
    if (j->code != 0)
        docker_job_end(j, j->code, &j->err);
    else
        docker_job_call(j, "POST", docker_target(j, "/start"), SLICE_EMPTY, on_start);
}

static void on_unpaused(struct docker_job *j)
{
    /* 500: it was not paused any more (so says 20.10); the look decides. */
    if (j->code == 0 && (j->answer.status == 204 || j->answer.status == 500 || j->answer.status == 409))
        docker_job_inspect(j, on_started_look);
    else
        docker_job_end_refused(j);
}

/* Listening before it wakes: it may look for us at once. */
static void unpause(struct docker_job *j)
{
    int code = docker_entry_reach(j->e, &j->container, &j->err);
    if (code == 0)
        docker_job_call(j, "POST", docker_target(j, "/unpause"), SLICE_EMPTY, on_unpaused);
    else if (code == E_NOT_FOUND)
        docker_job_tick(j, LOOK_AGAIN_MS, on_look_again);
    else
        docker_job_end(j, code, &j->err);
}

/* Blocks. A suspend that got no further than its mark: what ends from now on has ended by itself. */
static void unmark_do(struct docker_job *j)
{
    j->code = docker_place_prepare(j->d->root, j->id, &j->err);
}

static void on_unmarked(struct docker_job *j)
{
    if (j->code == 0 && docker_job_is_over(j))
        j->code = err_set(&j->err, E_CANCELLED, "given up");
    if (j->code != 0)
        docker_job_end(j, j->code, &j->err);
    else if (j->container.status == DOCKER_PAUSED)
        unpause(j);
    else
        reach(j);
}

static void start_looked(struct docker_job *j)
{
    if (docker_job_container(j) != 0) {
        docker_job_end(j, j->code, &j->err);
        return;
    }
    docker_entry_know(j->e, &j->container);
    switch (j->container.status) {
    case DOCKER_RUNNING:
    case DOCKER_PAUSED:
        docker_job_work(j, unmark_do, on_unmarked);
        break;
    case DOCKER_CREATED:
    case DOCKER_EXITED:
        docker_job_work(j, prepare_do, on_prepared);
        break;
    case DOCKER_REMOVING:
        (void)err_set(&j->err, E_BUSY, "sandbox %.*s is being removed", SL_ARG(j->id));
        docker_job_end(j, E_BUSY, &j->err);
        break;
    }
}

void docker_start_begin(struct docker_job *j)
{
    docker_job_inspect(j, start_looked);
}
