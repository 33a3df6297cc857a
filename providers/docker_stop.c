/* docker_stop: ending a sandbox: suspend (freeze or stop), destroy, and the end of a home.
 *
 * Stop: the mark first, so that a crash in between leaves one that sleeps, then SIGTERM to init, which ends
 * everything, then the engine's SIGKILL. Freeze: the engine's freezer; memory stays in use, link and watch
 * stay. Destroy: the engine kills and removes, then our folder goes. What is done already is success; a
 * removal that is under way is waited for. */
#include <string.h>

#include "base/core/mem.h"
#include "providers/docker.h"

#define LOOK_AGAIN_MS 100

static void destroy_look(struct docker_job *j);

static int status_of(const struct docker_job *j)
{
    return j->code == 0 ? j->answer.status : 0;
}

/* --- suspend --- */

static void on_paused(struct docker_job *j)
{
    struct slice paused = SL("already paused");
    struct slice said = status_of(j) == 409 ? docker_message(j->answer.body, &j->arena) : SLICE_EMPTY;
    bool is_paused = memmem(said.p, said.n, paused.p, paused.n) != NULL;
    if (status_of(j) == 204 || is_paused)
        docker_job_end(j, 0, NULL);
    else
        docker_job_end_refused(j);
}

static void on_stopped(struct docker_job *j)
{
    if (status_of(j) != 204 && status_of(j) != 304) {
        docker_job_end_refused(j);
        return;
    }
    docker_entry_down(j->e);
    docker_job_end(j, 0, NULL);
}

/* Blocks. */
static void mark_do(struct docker_job *j)
{
    j->code = docker_place_mark_suspended(j->d->root, j->id, &j->err);
}

static void on_marked(struct docker_job *j)
{
    if (j->code == 0 && docker_job_is_over(j))
        j->code = err_set(&j->err, E_CANCELLED, "given up");
    if (j->code != 0)
        docker_job_end(j, j->code, &j->err);
    else
        docker_job_call(j, "POST", docker_target(j, "/stop"), SLICE_EMPTY, on_stopped);
}

static void suspend_looked(struct docker_job *j)
{
    if (docker_job_container(j) != 0) {
        docker_job_end(j, j->code, &j->err);
        return;
    }
    docker_entry_know(j->e, &j->container);
    enum docker_status status = j->container.status;
    bool is_alive = status == DOCKER_RUNNING || status == DOCKER_PAUSED;
    if (j->suspend == SUSPEND_FREEZE && status == DOCKER_RUNNING)
        docker_job_call(j, "POST", docker_target(j, "/pause"), SLICE_EMPTY, on_paused);
    else if (j->suspend == SUSPEND_STOP && is_alive)
        docker_job_work(j, mark_do, on_marked);
    else
        docker_job_end(j, 0, NULL); /* asleep, ended or never started */
}

void docker_suspend_begin(struct docker_job *j)
{
    docker_job_inspect(j, suspend_looked);
}

/* --- destroy --- */

static void on_removed(struct docker_job *j)
{
    docker_job_end(j, j->code, &j->err);
}

/* Blocks. */
static void remove_do(struct docker_job *j)
{
    j->code = docker_place_remove(j->d->root, j->id, &j->err);
}

static void on_deleted(struct docker_job *j)
{
    int status = status_of(j);
    if (status == 204 || status == 404) {
        docker_entry_down(j->e);
        docker_job_work(j, remove_do, on_removed);
    } else if (status == 409) { /* somebody else removes it, or it is just being started */
        docker_job_tick(j, LOOK_AGAIN_MS, destroy_look);
    } else {
        docker_job_end_refused(j);
    }
}

static void destroy_look(struct docker_job *j)
{
    docker_job_call(j, "DELETE", docker_target(j, "?force=1&v=1"), SLICE_EMPTY, on_deleted);
}

void docker_destroy_begin(struct docker_job *j)
{
    destroy_look(j);
}

/* --- homes --- */

static char *home_target(struct docker_job *j)
{
    return arena_printf(&j->arena, "/volumes/" DOCKER_HOME_PREFIX "%.*s", SL_ARG(j->id));
}

static void on_home_deleted(struct docker_job *j)
{
    if (status_of(j) == 204 || status_of(j) == 404)
        docker_job_end(j, 0, NULL);
    else
        docker_job_end_refused(j); /* 409, in use: E_BUSY */
}

static void home_looked(struct docker_job *j)
{
    bool is_ours = false;
    if (status_of(j) == 404) {
        docker_job_end(j, 0, NULL);
        return;
    }
    if (status_of(j) != 200) {
        docker_job_end_refused(j);
        return;
    }
    j->code = docker_volume_parse(j->answer.body, j->id, &is_ours, &j->err);
    if (j->code == 0 && !is_ours)
        j->code = err_set(&j->err, E_FORBIDDEN, "the volume " DOCKER_HOME_PREFIX "%.*s has not our labels",
                          SL_ARG(j->id));
    if (j->code != 0)
        docker_job_end(j, j->code, &j->err);
    else
        docker_job_call(j, "DELETE", home_target(j), SLICE_EMPTY, on_home_deleted);
}

void docker_destroy_home_begin(struct docker_job *j)
{
    docker_job_call(j, "GET", home_target(j), SLICE_EMPTY, home_looked);
}
