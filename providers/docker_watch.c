/* docker_watch: follows what the engine says of our containers.
 *
 * Happy path: one stream of events; each is a hint to the owner of that sandbox. Failure paths: the stream
 * ends (the engine was restarted, or is gone): it is opened again, 200 ms to 5 s apart; events in between may
 * be lost, so that after each opening all containers are listed, and whoever we believe to run and does not
 * is told. Nothing waits for this: the calls themselves say when the engine is away. */
#include "base/core/log.h"
#include "base/core/mem.h"
#include "providers/docker.h"

#define RETRY_FIRST_MS 200
#define RETRY_MAX_MS   5000
#define LIST_MS        30000

struct docker_watch {
    struct docker *d;
    struct docker_call *events,
        *look; /* the stream; the list or the engine's properties after it was opened */
    struct timer retry;
    int64_t pause_ms;
    bool is_lost; /* told so */
};

/* "/…?filters={"label":["reeve.controller"]}", the filters encoded */
#define OUR_LABEL     "%22label%22%3A%5B%22" DOCKER_LABEL "controller%22%5D"
#define EVENTS_TARGET "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C" OUR_LABEL "%7D"
#define LIST_TARGET   "/containers/json?all=1&filters=%7B" OUR_LABEL "%7D"

/* --- events --- */

static bool is_own_doing(const struct docker_entry *e)
{
    return e->queue != NULL && e->queue->is_begun && e->queue->kind != DOCKER_JOB_DESCRIBE &&
           e->queue->kind != DOCKER_JOB_USAGE;
}

static void event_tell(struct docker *d, const struct docker_event *v, const char *what)
{
    if (d->p.on_event != NULL && !d->is_closing && v->workspace.n > 0)
        d->p.on_event(v->sandbox, v->workspace, what, d->p.data);
}

static void on_event(struct docker *d, const struct docker_event *v)
{
    struct docker_entry *e = docker_entry_find(d, v->sandbox);
    /* The container may live on, and well: the kernel chose something in it. What it was good for will be
     * missed, and then this says why. */
    if (e != NULL && slice_eq_str(v->action, "oom"))
        e->has_oom = true;
    if (e != NULL && is_own_doing(e))
        return;
    if (slice_eq_str(v->action, "pause"))
        event_tell(d, v, "paused");
    else if (slice_eq_str(v->action, "destroy"))
        event_tell(d, v, "removed");
    else if (slice_eq_str(v->action, "die") && (e == NULL || e->pid == 0))
        event_tell(d, v, "exited"); /* else our own watch says so */
}

static void on_line(struct slice line, void *data)
{
    struct docker_watch *w = data;
    struct arena a = ARENA_INIT;
    struct docker_event v;
    struct err err = {0};
    int rc = docker_event_parse(line, &a, &v, &err);
    if (rc == 0)
        on_event(w->d, &v);
    else if (rc != E_NOT_FOUND)
        log_debug("docker.event_unread", LF_STR("reason", err.msg));
    arena_fini(&a);
}

/* --- after an opening --- */

static void list_compare(struct docker *d, const struct docker_container *items, size_t n)
{
    struct docker_entry *e, *next;
    HASH_ITER (hh, d->entries, e, next) {
        const struct docker_container *c = NULL;
        if (e->reach.link == NULL || is_own_doing(e))
            continue;
        for (size_t i = 0; i < n && c == NULL; i++)
            if (slice_eq_str(items[i].name, e->id))
                c = &items[i];
        if (c == NULL || c->status != DOCKER_RUNNING)
            docker_entry_tell(e, c == NULL ? "removed" : c->status == DOCKER_PAUSED ? "paused" : "exited");
    }
}

static void watch_listed(struct docker *d, const struct docker_container *items, size_t n)
{
    docker_sweep_start(d, items, n);
    list_compare(d, items, n);
}

static void on_list(int code, const struct docker_answer *a, const struct err *err, void *data)
{
    struct docker_watch *w = data;
    struct arena scratch = ARENA_INIT;
    struct docker_container *items = NULL;
    size_t n = 0;
    (void)err; /* the stream's end says so too, and opens anew */
    w->look = NULL;
    if (code == 0 && a->status == 200 && docker_list_parse(a->body, &scratch, &items, &n, NULL) == 0)
        watch_listed(w->d, items, n);
    arena_fini(&scratch);
}

static void on_info(int code, const struct docker_answer *a, const struct err *err, void *data)
{
    struct docker_watch *w = data;
    const struct docker_request list = {.method = "GET",
                                        .target = LIST_TARGET,
                                        .body = SLICE_EMPTY,
                                        .timeout_ms = LIST_MS,
                                        .answer_max = (size_t)64 << 20};
    (void)err;
    if (code == 0 && a->status == 200)
        (void)docker_info_parse(a->body, w->d->note, NULL); /* else the note stays what it was */
    w->look = docker_call_start(w->d->engine, &list, on_list, w);
}

static void on_open(void *data)
{
    struct docker_watch *w = data;
    const struct docker_request info = {
        .method = "GET", .target = "/info", .body = SLICE_EMPTY, .timeout_ms = LIST_MS};
    if (w->is_lost)
        log_info("docker.engine_back", LF_SLICE("provider", w->d->p.name),
                 LF_STR("endpoint", w->d->endpoint));
    w->is_lost = false;
    w->pause_ms = RETRY_FIRST_MS;
    if (w->look == NULL)
        w->look = docker_call_start(w->d->engine, &info, on_info, w);
}

/* --- the stream --- */

static void on_end(int code, const struct docker_answer *a, const struct err *err, void *data)
{
    struct docker_watch *w = data;
    struct err why = {0};
    w->events = NULL;
    docker_engine_reset(w->d->engine); /* another one may answer next */
    if (!w->is_lost) {
        if (code == 0 && a->status != 200)
            (void)docker_answer_error(a, &why);
        else if (code != 0)
            why = *err;
        log_warn("docker.engine_lost", LF_SLICE("provider", w->d->p.name), LF_STR("endpoint", w->d->endpoint),
                 LF_STR("reason", why.msg));
        w->is_lost = true;
    }
    timer_start(&w->retry, w->pause_ms);
    w->pause_ms = w->pause_ms * 2 < RETRY_MAX_MS ? w->pause_ms * 2 : RETRY_MAX_MS;
}

static void events_open(void *data)
{
    struct docker_watch *w = data;
    const struct docker_request r = {.method = "GET",
                                     .target = EVENTS_TARGET,
                                     .body = SLICE_EMPTY,
                                     .on_open = on_open,
                                     .on_line = on_line};
    w->events = docker_call_start(w->d->engine, &r, on_end, w);
}

void docker_watch_start(struct docker *d)
{
    struct docker_watch *w = MEM_NEW(struct docker_watch);
    w->d = d;
    w->pause_ms = RETRY_FIRST_MS;
    d->watch = w;
    timer_init(&w->retry, d->loop, events_open, w);
    timer_start(&w->retry, 0);
}

static void on_retry_closed(void *data)
{
    struct docker_watch *w = data;
    struct docker *d = w->d;
    mem_free(w);
    d->n_handles--;
    docker_maybe_closed(d);
}

void docker_watch_close(struct docker *d)
{
    struct docker_watch *w = d->watch;
    if (w == NULL)
        return;
    d->watch = NULL;
    if (w->events != NULL)
        docker_call_cancel(w->events);
    if (w->look != NULL)
        docker_call_cancel(w->look);
    d->n_handles++;
    timer_close(&w->retry, on_retry_closed);
}
