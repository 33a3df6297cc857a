/* waits: callers that wait for an answer. Each answers exactly once, never before the call has returned; or
 * never, after workspace_wait_cancel. It has a deadline of its own; what it waits for goes on without it. */
#include "scheduler/entry.h"

#include "base/core/mem.h"

static void wait_release(struct workspace_wait *w);

static void on_timer_closed(void *data)
{
    struct workspace_wait *w = data;
    struct scheduler *s = w->s;
    w->pins--;
    wait_release(w);
    scheduler_idle(s);
}

/* Frees it when nothing refers to it any more. */
static void wait_release(struct workspace_wait *w)
{
    if (w->phase != WAIT_OVER || w->pins > 0 || w->is_starting) {
        return;
    }
    if (w->has_timer) {
        w->has_timer = false;
        w->pins++;
        scheduler_busy(w->s);
        timer_close(&w->timer, on_timer_closed);
        return;
    }
    arena_fini(&w->arena);
    mem_free(w->err);
    mem_free(w);
}

static void wait_detach(struct workspace_wait *w)
{
    if (w->e != NULL) {
        DL_DELETE(w->e->waits, w);
        w->e = NULL;
    }
}

static void wait_over(struct workspace_wait *w)
{
    wait_detach(w);
    w->phase = WAIT_OVER;
    DL_DELETE2(w->s->all_waits, w, all_prev, all_next);
    w->s->n_waits--;
    wait_release(w);
}

struct workspace_wait *wait_new(struct scheduler *s, enum wait_kind kind, int64_t wait_ms,
                                workspace_answer_cb cb, void *data)
{
    struct workspace_wait *w = MEM_NEW(struct workspace_wait);
    w->s = s;
    w->kind = kind;
    w->cb = cb;
    w->data = data;
    w->is_starting = true;
    w->wait_ms = s->n_waits >= WAITS_MAX ? 0 : wait_ms;
    w->until_ms = now_mono(s) + (w->wait_ms > 0 ? w->wait_ms : 0);
    DL_APPEND2(s->all_waits, w, all_prev, all_next);
    s->n_waits++;
    return w;
}

/* Is what it waits for settled? *ret_code then says how it is answered. */
static bool is_settled(const struct workspace_wait *w, int *ret_code)
{
    const struct entry *e = w->e;
    *ret_code = 0;
    switch (w->kind) {
    case WAIT_FIND:
    case WAIT_RUN:
        return e->ws.state == WS_READY || e->ws.state == WS_FAILED;
    case WAIT_WAKE:
        if (e->ws.state == WS_READY) {
            return true;
        }
        *ret_code = E_UNAVAILABLE;
        return e->ws.state == WS_FAILED || e->ws.wish != WISH_RUNNING;
    case WAIT_SUSPEND:
        return e->fact.wish != WISH_SUSPENDED || e->fact.is_asleep;
    case WAIT_DELETE:
        return false; /* waits_gone answers */
    }
    return false;
}

static void wake_story(const struct workspace *ws, struct err *err)
{
    const char *why = ws->reason[0] != '\0' ? ws->reason : "no reason is known";
    if (ws->wish == WISH_SUSPENDED && ws->suspend_cause == SUSPEND_BUDGET) {
        (void)err_set(err, E_UNAVAILABLE, "the workspace is suspended because its budget is used up");
    } else if (ws->wish == WISH_SUSPENDED) {
        (void)err_set(err, E_UNAVAILABLE, "the workspace was suspended; resume it first");
    } else if (ws->wish == WISH_DELETED) {
        (void)err_set(err, E_UNAVAILABLE, "the workspace is being deleted");
    } else if (ws->state == WS_FAILED) {
        (void)err_set(err, E_UNAVAILABLE, "the workspace has failed: %s", why);
    } else {
        (void)err_set(err, E_UNAVAILABLE, "the workspace is %s%s%s", workspace_state_name(ws->state),
                      ws->reason[0] != '\0' ? ": " : "", ws->reason);
    }
}

static void wait_answer(struct workspace_wait *w)
{
    struct err err = {0};
    struct workspace_answer a = {.code = w->code, .err = w->err};
    if (w->e != NULL) {
        int settled_code;
        a.is_settled = is_settled(w, &settled_code);
        a.ws = &w->e->ws;
        if (w->code == 0 && w->kind == WAIT_WAKE && w->e->ws.state != WS_READY) {
            wake_story(&w->e->ws, &err);
            a.code = E_UNAVAILABLE;
            a.err = &err;
        }
    } else if (w->code == 0 && w->kind == WAIT_DELETE) {
        a.is_settled = true;
    } else if (w->code == 0) {
        a.code = err_set(&err, E_NOT_FOUND, "the workspace was deleted meanwhile");
        a.err = &err;
    }
    if (a.code != 0) {
        a.ws = NULL;
        if (a.err == NULL) {
            (void)err_set(&err, a.code, "%s", err_title(a.code));
            a.err = &err;
        }
    }
    a.is_created = a.code == 0 && w->is_creator;
    workspace_answer_cb cb = w->is_cancelled ? NULL : w->cb;
    void *data = w->data;
    w->pins++;
    if (cb != NULL) {
        w->is_cancelled = true; /* a cancel from inside the callback has nothing left to do */
        cb(&a, data);
    }
    w->pins--;
    wait_over(w);
}

static void on_deferred(void *data)
{
    struct workspace_wait *w = data;
    struct scheduler *s = w->s;
    w->pins--;
    if (w->phase == WAIT_DECIDED) {
        wait_answer(w);
    } else {
        wait_release(w);
    }
    scheduler_idle(s);
}

static void wait_defer(struct workspace_wait *w)
{
    w->pins++;
    scheduler_busy(w->s);
    loop_defer(w->s->loop, on_deferred, w);
}

void wait_decide(struct workspace_wait *w, int code, const struct err *err)
{
    if (w->phase == WAIT_DECIDED || w->phase == WAIT_OVER) {
        return;
    }
    w->code = code;
    if (code != 0 && err != NULL) {
        w->err = mem_alloc(sizeof *err);
        *w->err = *err;
    }
    w->phase = WAIT_DECIDED;
    if (!w->is_starting) {
        wait_defer(w);
    }
}

static void on_deadline(void *data)
{
    struct workspace_wait *w = data;
    struct err err = {0};
    switch (w->phase) {
    case WAIT_COMMIT:
        (void)err_set(&err, E_UNAVAILABLE, "the store has not answered; the outcome is unknown, look again");
        wait_decide(w, E_UNAVAILABLE, &err);
        return;
    case WAIT_GONE:
        (void)err_set(&err, E_UNAVAILABLE,
                      "the former workspace of this name is still being deleted; try again");
        wait_decide(w, E_UNAVAILABLE, &err);
        return;
    case WAIT_SETTLE:
        wait_decide(w, 0, NULL);
        return;
    case WAIT_BEGIN:
    case WAIT_DECIDED:
    case WAIT_OVER:
        return;
    }
}

static void wait_arm(struct workspace_wait *w)
{
    int64_t left = w->until_ms - now_mono(w->s);
    if (w->phase == WAIT_COMMIT && left < COMMIT_DEADLINE_MS) {
        left = COMMIT_DEADLINE_MS; /* an answer before the commit's would have to guess */
    }
    if (!w->has_timer) {
        w->has_timer = true;
        timer_init(&w->timer, w->s->loop, on_deadline, w);
    }
    timer_start(&w->timer, left);
}

static void wait_look(struct workspace_wait *w)
{
    int code;
    if (w->phase == WAIT_SETTLE && (is_settled(w, &code) || w->until_ms <= now_mono(w->s))) {
        wait_decide(w, 0, NULL);
    }
}

void wait_attach(struct workspace_wait *w, struct entry *e, enum wait_phase phase)
{
    if (w->phase == WAIT_DECIDED || w->phase == WAIT_OVER) {
        return;
    }
    if (w->e != e) {
        wait_detach(w);
        w->e = e;
        DL_APPEND(e->waits, w);
    }
    w->phase = phase;
    wait_look(w);
    if (w->phase == phase) {
        wait_arm(w);
    }
}

struct workspace_wait *wait_begun(struct workspace_wait *w)
{
    w->is_starting = false;
    must(w->phase != WAIT_BEGIN && w->phase != WAIT_OVER);
    if (w->phase == WAIT_DECIDED) {
        wait_defer(w);
    }
    return w;
}

void workspace_wait_cancel(struct workspace_wait *w)
{
    if (w == NULL || w->is_cancelled) {
        return;
    }
    w->is_cancelled = true;
    if (w->phase != WAIT_OVER && w->phase != WAIT_DECIDED) {
        wait_over(w);
    }
}

void wait_keep_request(struct workspace_wait *w, const struct workspace_request *r)
{
    if (w->request != NULL) {
        return;
    }
    struct arena *a = &w->arena;
    struct workspace_request *c = ARENA_NEW(a, struct workspace_request);
    *c = *r;
    struct slice *texts[] = {&c->tenant, &c->namespace, &c->name, &c->template, &c->provider, &c->user};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        *texts[i] = arena_slice(a, *texts[i]);
    }
    struct workspace_pair *labels = arena_zalloc(a, (r->n_labels + 1) * sizeof *labels);
    struct workspace_pair *env = arena_zalloc(a, (r->n_env + 1) * sizeof *env);
    for (size_t i = 0; i < r->n_labels; i++) {
        labels[i].name = arena_slice(a, r->labels[i].name);
        labels[i].value = arena_slice(a, r->labels[i].value);
    }
    for (size_t i = 0; i < r->n_env; i++) {
        env[i].name = arena_slice(a, r->env[i].name);
        env[i].value = arena_slice(a, r->env[i].value);
    }
    c->labels = labels;
    c->env = env;
    w->request = c;
}

void wait_pin(struct workspace_wait *w)
{
    w->pins++;
}

void on_wait_saved(struct entry *e, int code, const struct err *err, void *data)
{
    struct workspace_wait *w = data;
    w->pins--;
    if (w->phase == WAIT_OVER) {
        wait_release(w);
    } else if (code != 0) {
        wait_decide(w, code, err);
    } else {
        wait_attach(w, e, WAIT_SETTLE);
    }
}

void waits_look(struct entry *e)
{
    struct workspace_wait *w, *next;
    DL_FOREACH_SAFE (e->waits, w, next) {
        wait_look(w); /* only decides: answers go out in a later turn */
    }
}

void waits_gone(struct entry *e)
{
    while (e->waits != NULL) {
        struct workspace_wait *w = e->waits;
        wait_detach(w);
        wait_decide(w, 0, NULL); /* wait_answer tells the kinds apart */
    }
}

void waits_fail(struct entry *e, enum wait_phase phase, int code, const struct err *err)
{
    struct workspace_wait *w, *next;
    DL_FOREACH_SAFE (e->waits, w, next) {
        if (w->phase == phase) {
            wait_decide(w, code, err);
            wait_detach(w);
        }
    }
}

void waits_again(struct entry *e, enum wait_phase phase)
{
    /* The list may grow again while it is worked off: those that are there now, once. */
    struct workspace_wait *batch = NULL, *w, *next;
    DL_FOREACH_SAFE (e->waits, w, next) {
        if (w->phase == phase && w->request != NULL) {
            DL_DELETE(e->waits, w);
            w->e = NULL;
            DL_APPEND(batch, w);
        }
    }
    DL_FOREACH_SAFE (batch, w, next) {
        DL_DELETE(batch, w);
        struct err err = {0};
        w->is_creator = false;
        w->phase = WAIT_BEGIN;
        int code = find_or_create(w->s, w->request, w, &err);
        if (code != 0) {
            wait_decide(w, code, &err);
        }
    }
}

void waits_close(struct scheduler *s)
{
    struct err err = {0};
    (void)err_set(&err, E_DRAINING, "the controller is shutting down");
    struct workspace_wait *w, *next;
    DL_FOREACH_SAFE2(s->all_waits, w, next, all_next)
    {
        wait_decide(w, E_DRAINING, &err);
    }
}
