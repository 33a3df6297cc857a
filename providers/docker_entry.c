/* docker_entry: one known sandbox: its link, and the watch on its first process.
 *
 * Happy path: a start makes the link, then has the container started; the engine tells the first process's
 * number; it is held by a descriptor, so that the number cannot come to mean another process, and only what
 * connects from that very process is taken as init. Failure paths: the watch sees init's end: link and watch
 * are let go, the owner hears of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "providers/docker.h"

#define CGROUP_BYTES 8192

/* --- table --- */

struct docker_entry *docker_entry_find(struct docker *d, struct slice id)
{
    struct docker_entry *e = NULL;
    HASH_FIND(hh, d->entries, id.p, id.n, e);
    return e;
}

static void on_unref(struct reach *r)
{
    docker_entry_maybe_free(
        (struct docker_entry *)(void *)((char *)r - offsetof(struct docker_entry, reach)));
}

struct docker_entry *docker_entry_get(struct docker *d, struct slice id)
{
    struct docker_entry *e = docker_entry_find(d, id);
    if (e != NULL)
        return e;
    e = MEM_NEW(struct docker_entry);
    e->d = d;
    e->id = mem_strndup(id.p, id.n);
    e->reach.id = e->id;
    e->reach.on_unref = on_unref;
    HASH_ADD_KEYPTR(hh, d->entries, e->id, id.n, e);
    return e;
}

void docker_entry_maybe_free(struct docker_entry *e)
{
    struct docker *d = e->d;
    if (e->queue != NULL || e->reach.link != NULL || e->pid != 0 || e->n_handles > 0 || e->reach.n_refs > 0)
        return;
    HASH_DEL(d->entries, e);
    mem_free(e->workspace);
    mem_free(e->id);
    mem_free(e);
    docker_maybe_closed(d);
}

void docker_entry_know(struct docker_entry *e, const struct docker_container *c)
{
    mem_free(e->workspace);
    e->workspace = mem_strndup(c->labels.workspace.p, c->labels.workspace.n);
}

void docker_entry_tell(struct docker_entry *e, const char *what)
{
    struct docker *d = e->d;
    if (!d->is_closing && d->p.on_event != NULL && e->workspace != NULL)
        d->p.on_event(slice_str(e->id), slice_str(e->workspace), what, d->p.data);
}

/* --- the watch on init --- */

struct exit_watch {
    uv_poll_t poll;
    int pidfd;
    struct docker_entry *e;
};

static void on_watch_closed(uv_handle_t *h)
{
    struct exit_watch *w = h->data;
    struct docker_entry *e = w->e;
    close(w->pidfd);
    mem_free(w);
    e->n_handles--;
    docker_entry_maybe_free(e);
}

static void watch_end(struct docker_entry *e)
{
    struct exit_watch *w = e->exit_watch;
    if (w == NULL)
        return;
    e->exit_watch = NULL;
    e->pid = 0;
    e->n_handles++;
    uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

/* Is the end of it what the job under way is for? */
static bool is_expected(const struct docker_entry *e)
{
    const struct docker_job *j = e->queue;
    return j != NULL && j->is_begun && (j->kind == DOCKER_JOB_SUSPEND || j->kind == DOCKER_JOB_DESTROY);
}

static void on_init_exit(uv_poll_t *h, int status, int events)
{
    struct docker_entry *e = ((struct exit_watch *)h->data)->e;
    (void)status;
    (void)events; /* a pidfd becomes readable when the process is gone, and only then */
    docker_entry_down(e);
    if (!is_expected(e))
        docker_entry_tell(e, "exited");
}

/* Does the kernel count this process among the container's? Its control groups carry the engine's id. */
static bool is_of_container(pid_t pid, struct slice engine_id)
{
    char path[64], text[CGROUP_BYTES];
    (void)snprintf(path, sizeof(path), "/proc/%ld/cgroup", (long)pid); /* fits */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text));
    close(fd);
    return n > 0 && memmem(text, (size_t)n, engine_id.p, engine_id.n) != NULL;
}

static int watch_begin(struct docker_entry *e, const struct docker_container *c, struct err *err)
{
    int fd = host_pidfd_open(c->pid);
    if (fd < 0 && errno != ESRCH)
        return err_set(err, err_from_errno(errno), "cannot watch process %ld: %s", (long)c->pid,
                       strerror(errno));
    if (fd < 0)
        return err_set(err, E_NOT_FOUND, "process %ld is gone", (long)c->pid);
    if (!is_of_container(c->pid, c->id)) { /* asked while the descriptor is held: the number is still its */
        close(fd);
        return err_set(
            err, E_UNAVAILABLE,
            "process %ld is not the container's here: the engine must run on this host, and Reeve in "
            "the host's process and control group namespaces",
            (long)c->pid);
    }
    struct exit_watch *w = MEM_NEW(struct exit_watch);
    must(uv_poll_init(&e->d->loop->uv, &w->poll, fd) == 0);
    w->poll.data = w;
    w->pidfd = fd;
    w->e = e;
    e->exit_watch = w;
    e->pid = c->pid;
    must(uv_poll_start(&w->poll, UV_READABLE, on_init_exit) == 0);
    return 0;
}

/* --- the link's events --- */

static bool is_init(const struct fdpass_peer *peer, void *data)
{
    struct docker_entry *e = data;
    return e->pid != 0 && peer->pid == e->pid; /* watched: still the same process */
}

static void on_up(struct link *k, void *data)
{
    (void)k;
    (void)data; /* who waits for it has a request in the link */
}

static void on_down(struct link *k, void *data)
{
    (void)k;
    docker_entry_tell(data, "init_lost");
}

static void on_state(struct link *k, const struct link_state *state, void *data)
{
    (void)k;
    docker_entry_tell(data, state->server == INIT_SERVER_RUNNING ? "server_started" : "server_exited");
}

static void on_door(struct link *k, struct stream *s, void *data)
{
    struct docker_entry *e = data;
    struct docker *d = e->d;
    (void)k;
    if (d->p.on_door != NULL && !d->is_closing && e->workspace != NULL)
        d->p.on_door(slice_str(e->id), slice_str(e->workspace), s, d->p.data);
    else
        stream_reset(s);
}

static const struct link_events link_events = {
    .is_init = is_init, .on_up = on_up, .on_down = on_down, .on_state = on_state, .on_door = on_door};

int docker_entry_link(struct docker_entry *e, struct err *err)
{
    if (e->reach.link != NULL)
        return 0;
    struct arena a = ARENA_INIT;
    char *path = arena_printf(&a, "%s/sandboxes/%s/control/" INIT_SOCKET_NAME, e->d->root, e->id);
    int code = link_new(e->d->loop, path, &link_events, e, &e->reach.link, err);
    arena_fini(&a);
    return code;
}

int docker_entry_reach(struct docker_entry *e, const struct docker_container *c, struct err *err)
{
    if (e->pid != 0 && e->pid != c->pid)
        docker_entry_down(e); /* of a run that ended, and nobody has noticed yet */
    int code = docker_entry_link(e, err);
    if (code == 0 && e->pid == 0)
        code = watch_begin(e, c, err);
    return code;
}

void docker_entry_down(struct docker_entry *e)
{
    watch_end(e);
    if (e->reach.link != NULL) {
        struct link *k = e->reach.link;
        e->reach.link = NULL;
        link_close(k);
    }
}
