/* docker: sandboxes as sealed containers of a Docker engine on this host.
 *
 * Happy path: open looks at this host only; each call becomes a job, which talks with the engine over its
 * unix socket. What a sandbox is stands in the engine: nothing is decided from memory, so a controller that
 * was killed finds everything again. Failure paths: an engine that is away makes calls fail with
 * E_UNAVAILABLE until it is back; a root in use by another controller is refused; a call that outlasts its
 * deadline is answered E_UNKNOWN_OUTCOME, and the engine goes on with it. */
#include "providers/docker.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "base/net/stream.h"
#include "providers/cgroup.h"

static struct docker *of(struct provider *p)
{
    return (struct docker *)(void *)((char *)p - offsetof(struct docker, p));
}

static const struct provider_caps *op_caps(struct provider *p)
{
    return &of(p)->caps;
}

/* --- create --- */

/* Limits beyond what the engine takes are no limits; a negative one cannot be. */
static int spec_take(struct docker_job *j, const struct sandbox_spec *s, struct err *err)
{
    struct arena *a = &j->arena;
    if (!host_id_is_valid(s->home_id))
        return err_set(err, E_INVALID, "home '%.*s' is not an id",
                       (int)(s->home_id.n < 200 ? s->home_id.n : 200), s->home_id.p);
    if (s->cpus_milli < 0 || s->cpus_milli > INT32_MAX || s->memory_bytes > INT64_MAX ||
        s->processes > INT32_MAX)
        return err_set(err, E_INVALID, "resources out of range");
    j->spec = *s;
    j->spec.id = j->id;
    j->spec.home_id = arena_slice(a, s->home_id);
    j->spec.image = arena_slice(a, s->image);
    j->spec.labels.controller = arena_slice(a, s->labels.controller);
    j->spec.labels.tenant = arena_slice(a, s->labels.tenant);
    j->spec.labels.namespace = arena_slice(a, s->labels.namespace);
    j->spec.labels.name = arena_slice(a, s->labels.name);
    j->spec.labels.workspace = arena_slice(a, s->labels.workspace);
    return 0;
}

static void op_create(struct provider *p, const struct sandbox_spec *spec, int64_t timeout_ms,
                      provider_done_cb done, void *data)
{
    struct docker_job *j =
        docker_job_new(of(p), DOCKER_JOB_CREATE, true, spec->id, timeout_ms, docker_create_begin, data);
    j->cb.done = done;
    if (j->code == 0)
        j->code = spec_take(j, spec, &j->err);
    docker_job_submit(j);
}

/* --- describe --- */

static enum sandbox_state state_of(const struct docker_container *c, bool is_marked)
{
    switch (c->status) {
    case DOCKER_CREATED:
        return SANDBOX_CREATED;
    case DOCKER_RUNNING:
        return SANDBOX_RUNNING;
    case DOCKER_PAUSED:
        return SANDBOX_SUSPENDED;
    case DOCKER_EXITED:
        return is_marked ? SANDBOX_SUSPENDED : SANDBOX_EXITED;
    case DOCKER_REMOVING:
        return SANDBOX_EXITED;
    }
    return SANDBOX_EXITED;
}

/* Was it made by a controller with other folders, or other programs that are needed again? It cannot be
 * reached, or not be started: it is over, and is made anew with its home. */
static bool is_outdated(struct docker_job *j)
{
    const struct docker *d = j->d;
    const struct docker_container *c = &j->container;
    const char *control = arena_printf(&j->arena, "%s/sandboxes/%.*s/control", d->root, SL_ARG(j->id));
    bool is_alive = c->status == DOCKER_RUNNING || c->status == DOCKER_PAUSED;
    return !slice_eq_str(c->control_source, control) ||
           (!is_alive &&
            (!slice_eq_str(c->init_source, d->init_path) || !slice_eq_str(c->agent_source, d->agent_binary)));
}

static struct slice memory_text(const struct docker_container *c, struct arena *a)
{
    if (c->memory_bytes == 0)
        return SL("killed for want of memory");
    return slice_str(arena_printf(a, "killed for want of memory (its limit is %llu MiB)",
                                  (unsigned long long)(c->memory_bytes >> 20)));
}

static struct slice exit_reason(const struct docker_job *j, const struct docker_container *c, struct arena *a)
{
    if (c->status == DOCKER_REMOVING)
        return SL("it is being removed");
    /* Both words stay for as long as it runs, whatever it was in it that was killed. */
    if ((c->is_oom_killed || j->e->has_oom) && c->exit_code == 137)
        return memory_text(c, a);
    if (c->error.n > 0)
        return slice_str(arena_printf(a, "%.*s", SL_ARG(c->error)));
    if (c->exit_code > 128 && c->exit_code < 128 + 65)
        return slice_str(
            arena_printf(a, "its processes were ended by signal %lld", (long long)c->exit_code - 128));
    return slice_str(arena_printf(a, "its processes ended with status %lld", (long long)c->exit_code));
}

/* A server that does not stay up, while the rest runs. */
static struct slice server_reason(struct docker_job *j)
{
    const struct docker_entry *e = j->e;
    struct slice reason = host_server_reason(link_state_last(e->reach.link), &j->arena);
    if (!e->has_oom)
        return reason;
    struct slice memory = memory_text(&j->container, &j->arena);
    return slice_str(
        arena_printf(&j->arena, "something in it was %.*s; %.*s", SL_ARG(memory), SL_ARG(reason)));
}

static void info_fill(struct docker_job *j, const struct docker_container *c, bool is_marked,
                      struct sandbox_info *ret)
{
    *ret = (struct sandbox_info){.id = c->name,
                                 .labels = c->labels,
                                 .state = state_of(c, is_marked),
                                 .reason = SLICE_EMPTY,
                                 .created_at_ms = c->created_at_ms};
    if (j->e == NULL)
        return;
    if (ret->state == SANDBOX_EXITED)
        ret->reason = exit_reason(j, c, &j->arena);
    else if (ret->state == SANDBOX_RUNNING && j->e->reach.link != NULL && link_is_up(j->e->reach.link) &&
             link_state_last(j->e->reach.link)->server == INIT_SERVER_WAITING)
        ret->reason = server_reason(j);
}

static void absent_fill(struct docker_job *j)
{
    j->info = (struct sandbox_info){.id = j->id, .state = SANDBOX_ABSENT, .reason = SLICE_EMPTY};
    j->info.labels =
        (struct sandbox_labels){SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, 0, 0, 0};
}

/* Blocks. */
static void mark_look(struct docker_job *j)
{
    j->is_marked = docker_place_is_suspended(j->d->root, j->id);
}

static void describe_marked(struct docker_job *j)
{
    info_fill(j, &j->container, j->is_marked, &j->info);
    bool is_ours = j->container.labels.controller.n > 0; /* else it is not looked into */
    if (is_ours && j->info.state != SANDBOX_EXITED && is_outdated(j)) {
        j->info.state = SANDBOX_EXITED;
        j->info.reason = SL("it was made with other folders or programs of Reeve");
    }
    docker_job_end(j, 0, NULL);
}

static void describe_looked(struct docker_job *j)
{
    if (docker_job_container(j) == E_NOT_FOUND) {
        absent_fill(j);
        docker_job_end(j, 0, NULL);
    } else if (j->code != 0) {
        docker_job_end(j, j->code, &j->err);
    } else if (j->container.status == DOCKER_EXITED) {
        docker_job_work(j, mark_look, describe_marked);
    } else {
        describe_marked(j);
    }
}

static void describe_begin(struct docker_job *j)
{
    docker_job_inspect(j, describe_looked);
}

static void op_describe(struct provider *p, struct slice id, int64_t timeout_ms, provider_info_cb done,
                        void *data)
{
    struct docker_job *j =
        docker_job_new(of(p), DOCKER_JOB_DESCRIBE, true, id, timeout_ms, describe_begin, data);
    j->cb.info = done;
    docker_job_submit(j);
}

/* --- list --- */

/* Blocks: which of those that ended were ended by us. */
static void list_mark(struct docker_job *j)
{
    for (size_t i = 0; i < j->n_items; i++)
        if (j->items[i].state == SANDBOX_EXITED && docker_place_is_suspended(j->d->root, j->items[i].id))
            j->items[i].state = SANDBOX_SUSPENDED;
}

static void list_marked(struct docker_job *j)
{
    docker_job_end(j, 0, NULL);
}

static void list_looked(struct docker_job *j)
{
    struct docker_container *all = NULL;
    size_t n = 0;
    if (j->code != 0 || j->answer.status != 200) {
        docker_job_end_refused(j);
        return;
    }
    j->code = docker_list_parse(j->answer.body, &j->arena, &all, &n, &j->err);
    if (j->code != 0) {
        docker_job_end(j, j->code, &j->err);
        return;
    }
    j->items = arena_alloc(&j->arena, (n + 1) * sizeof(*j->items));
    for (size_t i = 0; i < n; i++)
        if (slice_eq(all[i].labels.controller, j->controller))
            info_fill(j, &all[i], false, &j->items[j->n_items++]);
    docker_job_work(j, list_mark, list_marked);
}

static void list_begin(struct docker_job *j)
{
    docker_job_call(j, "GET",
                    arena_printf(&j->arena,
                                 "/containers/json?all=1&filters=%%7B%%22label%%22%%3A%%5B%%22" DOCKER_LABEL
                                 "controller%%3D%.*s%%22%%5D%%7D",
                                 SL_ARG(j->controller)),
                    SLICE_EMPTY, list_looked);
}

static void op_list(struct provider *p, struct slice controller, int64_t timeout_ms, provider_list_cb done,
                    void *data)
{
    struct docker_job *j =
        docker_job_new(of(p), DOCKER_JOB_LIST, false, SLICE_EMPTY, timeout_ms, list_begin, data);
    j->cb.list = done;
    j->controller = arena_slice(&j->arena, controller);
    if (j->code == 0 && !host_id_is_valid(controller))
        j->code = err_set(&j->err, E_INVALID, "the controller's id is none");
    docker_job_submit(j);
}

/* --- start, suspend, resume, destroy --- */

static void op_start(struct provider *p, struct slice id, const struct sandbox_server *server,
                     int64_t timeout_ms, provider_done_cb done, void *data)
{
    struct docker_job *j =
        docker_job_new(of(p), DOCKER_JOB_START, true, id, timeout_ms, docker_start_begin, data);
    j->cb.done = done;
    if (j->code == 0)
        j->code = host_server_copy(&j->server, &j->arena, server, &j->err);
    docker_job_submit(j);
}

static void op_suspend(struct provider *p, struct slice id, enum suspend_kind kind, int64_t timeout_ms,
                       provider_done_cb done, void *data)
{
    struct docker_job *j =
        docker_job_new(of(p), DOCKER_JOB_SUSPEND, true, id, timeout_ms, docker_suspend_begin, data);
    j->cb.done = done;
    j->suspend = kind;
    docker_job_submit(j);
}

static void op_destroy(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                       void *data)
{
    struct docker_job *j =
        docker_job_new(of(p), DOCKER_JOB_DESTROY, true, id, timeout_ms, docker_destroy_begin, data);
    j->cb.done = done;
    docker_job_submit(j);
}

static void op_destroy_home(struct provider *p, struct slice home_id, int64_t timeout_ms,
                            provider_done_cb done, void *data)
{
    struct docker_job *j = docker_job_new(of(p), DOCKER_JOB_DESTROY_HOME, false, home_id, timeout_ms,
                                          docker_destroy_home_begin, data);
    j->cb.done = done;
    docker_job_submit(j);
}

/* --- usage: from the kernel; the engine's own answer takes a second and more --- */

/* Blocks. */
static void usage_read(struct docker_job *j)
{
    j->code = cgroup_usage_of(j->container.pid, j->container.id, &j->usage, &j->err);
}

static void usage_done(struct docker_job *j)
{
    docker_job_end(j, j->code, &j->err);
}

static void usage_looked(struct docker_job *j)
{
    if (docker_job_container(j) == 0 && j->container.pid == 0)
        j->code = err_set(&j->err, E_GONE, "sandbox %.*s does not run", SL_ARG(j->id));
    if (j->code != 0)
        docker_job_end(j, j->code == E_NOT_FOUND ? E_GONE : j->code, &j->err);
    else
        docker_job_work(j, usage_read, usage_done);
}

static void usage_begin(struct docker_job *j)
{
    docker_job_inspect(j, usage_looked);
}

static void op_usage(struct provider *p, struct slice id, int64_t timeout_ms, provider_usage_cb done,
                     void *data)
{
    struct docker_job *j = docker_job_new(of(p), DOCKER_JOB_USAGE, true, id, timeout_ms, usage_begin, data);
    j->cb.usage = done;
    docker_job_submit(j);
}

/* --- connectors --- */

static struct connector *op_connector(struct provider *p, struct slice id, uint16_t port)
{
    return reach_connector_new(&docker_entry_get(of(p), id)->reach, port);
}

static void op_connector_release(struct provider *p, struct connector *c)
{
    (void)p;
    reach_connector_release(c);
}

/* --- open, close --- */

static void docker_free(struct docker *d)
{
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    mem_free(d->root);
    mem_free(d->init_path);
    mem_free(d->agent_binary);
    mem_free(d->endpoint);
    mem_free(d->name);
    mem_free(d);
}

static void on_engine_closed(void *data)
{
    struct docker *d = data;
    void (*closed)(void *) = d->closed;
    void *closed_data = d->closed_data;
    docker_free(d);
    if (closed != NULL)
        closed(closed_data);
}

static void on_all_closed(void *data)
{
    struct docker *d = data;
    docker_engine_close(d->engine, on_engine_closed, d);
}

void docker_maybe_closed(struct docker *d)
{
    if (!d->is_closing || d->jobs != NULL || d->entries != NULL || d->n_handles > 0 || d->closed_once)
        return;
    d->closed_once = true;
    loop_defer(d->loop, on_all_closed, d);
}

static void op_close(struct provider *p, void (*closed)(void *data), void *data)
{
    struct docker *d = of(p);
    struct docker_entry *e, *next;
    must(!d->is_closing);
    d->is_closing = true;
    d->closed = closed;
    d->closed_data = data;
    docker_jobs_cancel(d);
    docker_images_close(d);
    docker_watch_close(d);
    HASH_ITER (hh, d->entries, e, next) {
        docker_entry_down(e);
        docker_entry_maybe_free(e);
    }
    docker_maybe_closed(d);
}

static const struct provider_ops docker_ops = {.caps = op_caps,
                                               .create = op_create,
                                               .describe = op_describe,
                                               .list = op_list,
                                               .start = op_start,
                                               .suspend = op_suspend,
                                               .resume = op_start,
                                               .destroy = op_destroy,
                                               .destroy_home = op_destroy_home,
                                               .usage = op_usage,
                                               .connector = op_connector,
                                               .connector_release = op_connector_release,
                                               .close = op_close};

/* The engine binds it by its path: absolute, and there. */
static int program_find(const char *path, const char *what, char **ret, struct err *err)
{
    char *real = realpath(path, NULL);
    int rc = 0;
    if (real == NULL || access(real, X_OK) != 0)
        rc = err_set(err, E_UNAVAILABLE, "%s %s: %s", what, path, strerror(errno));
    else
        *ret = mem_strdup(real);
    free(real);
    return rc;
}

static int docker_setup(struct docker *d, const struct docker_options *o, struct err *err)
{
    int rc = docker_place_open(o->root, err);
    if (rc == 0) {
        char *real = realpath(o->root, NULL);
        d->root = mem_strdup(real != NULL ? real : o->root);
        free(real);
        rc = host_root_lock(d->root, &d->lock_fd, err);
    }
    if (rc == 0)
        rc = program_find(o->init_path, "reeve-init", &d->init_path, err);
    if (rc == 0)
        rc = program_find(o->agent_binary, "the sandbox-agent server", &d->agent_binary, err);
    return rc;
}

int provider_docker_open(struct loop *l, const struct docker_options *o, struct provider **ret,
                         struct err *err)
{
    struct endpoint to;
    if (o->root == NULL || o->root[0] != '/' || o->init_path == NULL || o->agent_binary == NULL ||
        o->endpoint == NULL || endpoint_parse(slice_str(o->endpoint), &to, NULL) != 0 || !to.is_unix) {
        (void)err_set(err, E_INVALID,
                      "root and the engine's socket must be absolute paths, init and server must be "
                      "given");
        return err_prefix(err, "provider %.*s", SL_ARG(o->name));
    }
    struct docker *d = MEM_NEW(struct docker);
    d->loop = l;
    d->lock_fd = -1;
    d->name = mem_strndup(o->name.p, o->name.n);
    const char *path = to.host;
    while (path[0] == '/' && path[1] == '/') /* of "unix:///path" */
        path++;
    d->endpoint = mem_strdup(path);
    int rc = docker_setup(d, o, err);
    if (rc != 0) {
        docker_free(d);
        return err_prefix(err, "provider %.*s", SL_ARG(o->name));
    }
    d->engine = docker_engine_new(l, d->endpoint);
    d->p.ops = &docker_ops;
    d->p.name = slice_str(d->name);
    (void)snprintf(d->note, sizeof(d->note), "disk: not limited"); /* more when the engine has answered */
    d->caps = (struct provider_caps){.has_client_name = true,
                                     .suspend_keeps_memory = true,
                                     .is_list_consistent = true,
                                     .is_sealed = true,
                                     .outlives_controller = true,
                                     .limits_note = d->note};
    docker_watch_start(d);
    *ret = &d->p;
    return 0;
}
