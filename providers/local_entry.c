/* local_entry: one known sandbox: its link, the watch on its init, the process that we started, its
 * connectors.
 *
 * Happy path: a start makes the link, then spawns; init connects, the kernel's lock says that it is init, it
 * is watched from then on. Failure paths: the watch sees init's end: everything of that run is let go, a
 * waiting suspend or destroy goes on, else the owner hears of it. What the outer process says before init is
 * there becomes the error's text. */
#include "providers/local_run.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "base/core/mem.h"

/* --- table --- */

struct local_entry *local_entry_find(struct local *l, struct slice id)
{
    struct local_entry *e = NULL;
    HASH_FIND(hh, l->entries, id.p, id.n, e);
    return e;
}

static void on_unref(struct reach *r)
{
    local_entry_maybe_free((struct local_entry *)(void *)((char *)r - offsetof(struct local_entry, reach)));
}

struct local_entry *local_entry_get(struct local *l, const char *prefix, struct slice id)
{
    struct arena a = ARENA_INIT;
    struct slice key = slice_str(arena_printf(&a, "%s%.*s", prefix, SL_ARG(id)));
    struct local_entry *e = local_entry_find(l, key);
    if (e == NULL) {
        e = MEM_NEW(struct local_entry);
        e->l = l;
        e->id = mem_strndup(key.p, key.n);
        e->reach.id = e->id;
        e->reach.on_unref = on_unref;
        e->workspace = e->home_id = SLICE_EMPTY;
        e->pidfd = -1;
        HASH_ADD_KEYPTR(hh, l->entries, e->id, key.n, e);
    }
    arena_fini(&a);
    return e;
}

static void texts_free(struct local_entry *e)
{
    if (e->workspace.n > 0)
        mem_free((void *)(uintptr_t)e->workspace.p);
    if (e->home_id.n > 0)
        mem_free((void *)(uintptr_t)e->home_id.p);
    e->workspace = e->home_id = SLICE_EMPTY;
}

void local_entry_maybe_free(struct local_entry *e)
{
    struct local *l = e->l;
    if (e->queue != NULL || e->reach.link != NULL || e->pid != 0 || e->n_handles > 0 || e->reach.n_refs > 0)
        return;
    HASH_DEL(l->entries, e);
    texts_free(e);
    mem_free(e->id);
    mem_free(e);
    local_maybe_closed(l);
}

static struct slice text_copy(struct slice s)
{
    return s.n == 0 ? SLICE_EMPTY : slice_of(mem_strndup(s.p, s.n), s.n);
}

void local_entry_know(struct local_entry *e, const struct local_record *r)
{
    texts_free(e);
    e->workspace = text_copy(r->labels.workspace);
    e->home_id = text_copy(r->home_id);
}

static void tell(struct local_entry *e, const char *what)
{
    struct local *l = e->l;
    if (!l->is_closing && l->p.on_event != NULL)
        l->p.on_event(slice_str(e->id), e->workspace, what, l->p.data);
}

/* --- the watch --- */

struct watch {
    uv_poll_t poll;
    int pidfd;
    struct local_entry *e;
};

static void on_watch_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    struct local_entry *e = w->e;
    close(w->pidfd);
    mem_free(w);
    e->n_handles--;
    local_entry_maybe_free(e);
}

static void watch_end(struct local_entry *e)
{
    struct watch *w = e->watch;
    if (w == NULL)
        return;
    e->watch = NULL;
    e->pid = 0;
    e->pidfd = -1;
    e->n_handles++;
    uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

static void on_watch(uv_poll_t *h, int status, int events)
{
    struct local_entry *e = ((struct watch *)h->data)->e;
    struct local_job *j = e->queue;
    (void)status;
    (void)events; /* a pidfd becomes readable when the process is gone, and only then */
    local_entry_down(e);
    if (j != NULL && j->is_begun && (j->kind == JOB_SUSPEND || j->kind == JOB_DESTROY))
        local_stop_on_exit(j);
    else
        tell(e, "exited");
}

int local_entry_watch(struct local_entry *e, pid_t pid, struct err *err)
{
    struct local_life life;
    if (e->pid == pid)
        return 0;
    must(e->pid == 0);
    int fd = host_pidfd_open(pid);
    if (fd < 0 && errno != ESRCH) /* out of descriptors */
        return err_set(err, err_from_errno(errno), "cannot watch process %ld: %s", (long)pid,
                       strerror(errno));
    if (fd < 0)
        return err_set(err, E_NOT_FOUND, "process %ld is gone", (long)pid);
    /* It held init's lock before the descriptor was opened and does so now: the descriptor is init's. */
    int code = local_life_probe(&e->l->place, slice_str(e->id), &life, err);
    if (code == 0 && life.pid != pid)
        code = err_set(err, E_NOT_FOUND, "process %ld is not the sandbox's init", (long)pid);
    if (code != 0) {
        close(fd);
        return code;
    }
    struct watch *w = MEM_NEW(struct watch);
    must(uv_poll_init(&e->l->loop->uv, &w->poll, fd) == 0);
    w->poll.data = w;
    w->pidfd = fd;
    w->e = e;
    e->watch = w;
    e->pid = pid;
    e->pidfd = fd;
    must(uv_poll_start(&w->poll, UV_READABLE, on_watch) == 0);
    return 0;
}

/* --- the link's events --- */

static bool is_init(const struct fdpass_peer *peer, void *data)
{
    struct local_entry *e = data;
    struct local_life life;
    if (e->pid != 0 && peer->pid != e->pid)
        return false;
    if (local_life_probe(&e->l->place, slice_str(e->id), &life, NULL) != 0 || life.pid != peer->pid)
        return false;
    return local_entry_watch(e, peer->pid, NULL) == 0;
}

static void outer_maybe_exited(struct local_outer *o, bool is_read);

static void on_up(struct link *k, void *data)
{
    struct local_entry *e = data;
    (void)k;
    if (e->outer == NULL)
        return;
    uv_read_stop((uv_stream_t *)&e->outer->said); /* nothing of interest comes any more */
    outer_maybe_exited(e->outer, true);           /* no end of the output will say so */
}

static void on_down(struct link *k, void *data)
{
    (void)k;
    tell(data, "init_lost");
}

static void on_state(struct link *k, const struct link_state *state, void *data)
{
    (void)k;
    tell(data, state->server == INIT_SERVER_RUNNING ? "server_started" : "server_exited");
}

static void on_door(struct link *k, struct stream *s, void *data)
{
    struct local_entry *e = data;
    struct local *l = e->l;
    (void)k;
    if (l->p.on_door != NULL && !l->is_closing)
        l->p.on_door(slice_str(e->id), e->workspace, s, l->p.data);
    else
        stream_reset(s);
}

static const struct link_events link_events = {
    .is_init = is_init, .on_up = on_up, .on_down = on_down, .on_state = on_state, .on_door = on_door};

int local_entry_link(struct local_entry *e, struct err *err)
{
    if (e->reach.link != NULL)
        return 0;
    struct arena a = ARENA_INIT;
    char *path = arena_printf(&a, "%s/sandboxes/%s/control/" INIT_SOCKET_NAME, e->l->place.root, e->id);
    int code = link_new(e->l->loop, path, &link_events, e, &e->reach.link, err);
    arena_fini(&a);
    return code;
}

/* --- the outer process --- */

static void on_outer_closed(uv_handle_t *h)
{
    struct local_outer *o = h->data;
    struct local_entry *e = o->e;
    if (--o->n_handles > 0)
        return;
    mem_free(o);
    e->n_handles--;
    local_entry_maybe_free(e);
}

static void outer_close(struct local_outer *o)
{
    if (o->is_closing)
        return;
    o->is_closing = true;
    DL_DELETE(o->e->l->outers, o);
    if (o->e->outer == o)
        o->e->outer = NULL;
    uv_close((uv_handle_t *)&o->said, on_outer_closed);
    uv_close((uv_handle_t *)&o->process, on_outer_closed);
}

void local_outers_close(struct local *l)
{
    struct local_outer *o, *next;
    DL_FOREACH_SAFE (l->outers, o, next)
        outer_close(o);
}

/* Waits for what it had to say to be read, so that the error is not empty. */
static void outer_maybe_exited(struct local_outer *o, bool is_read)
{
    struct local_entry *e = o->e;
    struct local_job *j = e->queue;
    if (!o->has_exited || !is_read || o->is_closing)
        return;
    if (e->outer == o && e->pid == 0 && j != NULL && j->awaits_init)
        local_start_on_outer_exit(j);
    outer_close(o);
}

static void on_outer_exit(uv_process_t *h, int64_t status, int signal)
{
    struct local_outer *o = h->data;
    o->has_exited = true;
    o->exit_status = status;
    o->exit_signal = signal;
    outer_maybe_exited(o, !uv_is_active((uv_handle_t *)&o->said));
}

static void on_said_alloc(uv_handle_t *h, size_t n, uv_buf_t *ret)
{
    struct local_outer *o = h->data;
    (void)n;
    *ret = uv_buf_init(o->read_buf, sizeof(o->read_buf));
}

static void on_said(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct local_outer *o = s->data;
    if (n > 0) {
        size_t room = sizeof(o->text) - o->n_text, take = (size_t)n < room ? (size_t)n : room;
        memcpy(o->text + o->n_text, buf->base, take);
        o->n_text += take;
        return;
    }
    if (n == 0)
        return;
    uv_read_stop(s);
    outer_maybe_exited(o, true);
}

int local_entry_spawn(struct local_entry *e, char **command, struct err *err)
{
    struct local_outer *o = MEM_NEW(struct local_outer);
    char *no_env[] = {NULL};
    uv_stdio_container_t io[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE}};
    must(uv_pipe_init(&e->l->loop->uv, &o->said, 0) == 0);
    io[2].data.stream = (uv_stream_t *)&o->said;
    uv_process_options_t options = {.exit_cb = on_outer_exit,
                                    .file = command[0],
                                    .args = command,
                                    .env = no_env,
                                    .cwd = "/",
                                    .flags = UV_PROCESS_DETACHED, /* outlives us, hears no Ctrl-C */
                                    .stdio = io,
                                    .stdio_count = 3};
    o->e = e;
    o->process.data = o->said.data = o;
    o->n_handles = 2;
    e->n_handles++;
    DL_APPEND(e->l->outers, o);
    int rc = uv_spawn(&e->l->loop->uv, &o->process, &options);
    e->outer = o;
    if (rc != 0) {
        outer_close(o);
        return err_set(err, E_UNAVAILABLE, "cannot start %s: %s", command[0], uv_strerror(rc));
    }
    must(uv_read_start((uv_stream_t *)&o->said, on_said_alloc, on_said) == 0);
    return 0;
}

void local_entry_down(struct local_entry *e)
{
    watch_end(e);
    if (e->reach.link != NULL) {
        struct link *k = e->reach.link;
        e->reach.link = NULL;
        link_close(k);
    }
    e->outer = NULL; /* it exits by itself, and is closed then */
}
