/* docker_sweep: folders on this host whose container is gone: removed by somebody else, or never made.
 *
 * Happy path: after each list of all containers, the folders are read; those without a container and without
 * anybody who works on them are removed one by one. Failure paths: what cannot be removed stays for the next
 * time; a folder that goes while its sandbox is about to be made is made again by that. */
#include <stdlib.h>

#include "base/core/log.h"
#include "base/core/mem.h"
#include "providers/docker.h"

#define FOLDERS_MAX 1000 /* in one go; the rest at the next list */

static int order(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* Blocks: the folders that have no container, in place of the containers' ids. */
static void list_do(struct docker_job *j)
{
    struct slice *folders = NULL;
    size_t n = 0, n_left = 0;
    j->code = docker_place_list(j->d->root, &j->arena, &folders, &n, &j->err);
    if (j->code != 0)
        return;
    qsort(j->ids, j->n_ids, sizeof(*j->ids), order);
    for (size_t i = 0; i < n; i++)
        if (j->n_ids == 0 || bsearch(&folders[i], j->ids, j->n_ids, sizeof(*j->ids), order) == NULL)
            folders[n_left++] = folders[i];
    j->ids = folders;
    j->n_ids = n_left;
}

/* --- one folder, in its sandbox's own queue: nobody makes the sandbox meanwhile --- */

/* Blocks. */
static void remove_do(struct docker_job *j)
{
    j->code = docker_place_remove(j->d->root, j->id, &j->err);
}

static void on_removed(struct docker_job *j)
{
    docker_job_end(j, j->code, &j->err);
}

static void on_looked(struct docker_job *j)
{
    if (docker_job_container(j) == E_NOT_FOUND)
        docker_job_work(j, remove_do, on_removed);
    else
        docker_job_end(j, j->code, &j->err);
}

static void look(struct docker_job *j)
{
    docker_job_inspect(j, on_looked);
}

static void on_swept(int code, const struct err *err, void *data)
{
    (void)data;
    if (code != 0 && code != E_CANCELLED)
        log_debug("docker.not_swept", LF_STR("reason", err->msg));
}

static struct docker_job *job_new(struct docker *d, bool is_keyed, struct slice id, docker_step begin)
{
    struct docker_job *j = docker_job_new(d, DOCKER_JOB_SWEEP, is_keyed, id, DOCKER_SWEEP_MS, begin, NULL);
    j->cb.done = on_swept;
    return j;
}

/* --- all of them --- */

static void on_listed(struct docker_job *j)
{
    if (j->code == 0 && docker_job_is_over(j))
        j->code = E_CANCELLED;
    for (size_t i = 0; i < j->n_ids && i < FOLDERS_MAX && j->code == 0; i++)
        if (docker_entry_find(j->d, j->ids[i]) == NULL) /* nobody works on it, or is connected to it */
            docker_job_submit(job_new(j->d, true, j->ids[i], look));
    docker_job_end(j, j->code, &j->err);
}

static void sweep_begin(struct docker_job *j)
{
    docker_job_work(j, list_do, on_listed);
}

void docker_sweep_start(struct docker *d, const struct docker_container *items, size_t n)
{
    struct docker_job *j = job_new(d, false, SLICE_EMPTY, sweep_begin);
    j->ids = arena_alloc(&j->arena, (n + 1) * sizeof(*j->ids));
    for (size_t i = 0; i < n; i++)
        j->ids[j->n_ids++] = arena_slice(&j->arena, items[i].name);
    docker_job_submit(j);
}
