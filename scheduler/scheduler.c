/* scheduler: the object itself: made, started (all workspaces loaded), reloaded, closed. See scheduler.h. */
#include "scheduler/entry.h"

#include <string.h>

#include "base/core/log.h"
#include "base/core/mem.h"

struct slice scheduler_intern(struct scheduler *s, struct slice text)
{
    struct name *n;
    if (text.n == 0) {
        return SLICE_EMPTY;
    }
    HASH_FIND(hh, s->names, text.p, text.n, n);
    if (n == NULL) {
        n = mem_zalloc(sizeof *n + text.n + 1);
        n->n = text.n;
        memcpy(n->text, text.p, text.n);
        HASH_ADD_KEYPTR(hh, s->names, n->text, text.n, n);
    }
    return slice_of(n->text, n->n);
}

static void or_default(int64_t *value, int64_t standard)
{
    if (*value <= 0) {
        *value = standard;
    }
}

static void defaults(struct scheduler_options *o)
{
    or_default(&o->orphan_grace_ms, 30000);
    or_default(&o->sweep_every_ms, 20000);
    or_default(&o->timing.retry_first_ms, 500);
    or_default(&o->timing.retry_max_ms, 60000);
    or_default(&o->timing.breaker_first_ms, 5000);
    or_default(&o->timing.breaker_max_ms, 60000);
    or_default(&o->timing.health_deadline_ms, 60000);
    or_default(&o->timing.call_ms, 30000);
    or_default(&o->timing.call_long_ms, 120000);
    or_default(&o->timing.settled_after_ms, 60000);
    or_default(&o->timing.doubt_first_ms, 1000);
    or_default(&o->timing.doubt_max_ms, 30000);
    or_default(&o->timing.late_ms, 60000);
    or_default(&o->timing.close_ms, 5000);
    if (o->starts_max == 0) {
        o->starts_max = 2 * uv_available_parallelism();
    }
}

static void on_close_deadline(void *data);

int scheduler_new(const struct scheduler_options *o, struct scheduler **ret, struct err *err)
{
    for (size_t i = 0; i < o->n_providers; i++) {
        for (size_t k = 0; k < i; k++) {
            if (slice_eq(o->providers[i]->name, o->providers[k]->name)) {
                return err_set(err, E_INVALID, "provider `%.*s` is there twice",
                               SL_ARG(o->providers[i]->name));
            }
        }
    }
    struct scheduler *s = MEM_NEW(struct scheduler);
    s->o = *o;
    defaults(&s->o);
    s->loop = o->loop;
    s->store = o->store;
    s->tenancy = tenancy_ref(o->tenancy);
    s->controller = mem_strndup(o->controller.p, o->controller.n);
    s->starts_free = s->o.starts_max;
    id_new(s->loop->rnd, "run", s->writer);
    s->n_places = o->n_providers;
    s->places = mem_zalloc((o->n_providers + 1) * sizeof *s->places);
    for (size_t i = 0; i < o->n_providers; i++) {
        s->places[i].p = o->providers[i];
        s->places[i].name = scheduler_intern(s, o->providers[i]->name);
    }
    timer_init(&s->timer, s->loop, on_due_timer, s);
    timer_init(&s->close_timer, s->loop, on_close_deadline, s);
    s->sweep = sweep_new(s);
    s->revoker = revoker_new(s);
    *ret = s;
    return 0;
}

/* --- start --- */
static void start_finish(void *data)
{
    struct scheduler *s = data;
    scheduler_done_cb done = s->start_done;
    s->start_done = NULL;
    if (done == NULL) {
        scheduler_idle(s);
        return;
    }
    struct err err = s->start_err;
    void *start_data = s->start_data;
    if (err.code == 0 && !s->is_closing) {
        s->is_started = true;
        sweep_start(s->sweep);
        revoker_start(s->revoker);
        reconcile_boot(s);
    }
    done(err.code, err.code != 0 ? &err : NULL, start_data);
    scheduler_idle(s);
}

void load_ended(struct scheduler *s, struct tenant *t, int code, const struct err *err)
{
    if (code != 0) {
        log_warn("scheduler.load_failed", LF_STR("tenant", t->name),
                 LF_STR("error", err != NULL ? err->msg : ""));
    }
    if (code != 0 && s->start_err.code == 0) {
        (void)err_set(&s->start_err, code, "workspaces of tenant `%s`: %s", t->name,
                      err != NULL ? err->msg : err_title(code));
    }
    if (--s->n_loading > 0) {
        return;
    }
    if (s->start_done != NULL) {
        scheduler_busy(s);
        start_finish(s);
    } else if (!s->is_closing) {
        reconcile_boot(s);
    }
}

void load_missing(struct scheduler *s)
{
    for (struct tenant *t = s->tenants; t != NULL; t = t->hh.next) {
        if (t->config != NULL && !t->is_loaded && !t->is_loading) {
            s->n_loading++;
            load_tenant(t);
        }
    }
}

void scheduler_start(struct scheduler *s, scheduler_done_cb done, void *data)
{
    must(!s->is_started && s->start_done == NULL);
    s->start_done = done;
    s->start_data = data;
    tenants_update(s);
    load_missing(s);
    if (s->n_loading == 0) {
        scheduler_busy(s);
        loop_defer(s->loop, start_finish, s);
    }
}

void scheduler_reload(struct scheduler *s, struct tenancy *t)
{
    struct tenancy *old = s->tenancy;
    s->tenancy = tenancy_ref(t);
    tenants_update(s);
    tenancy_unref(old);
    if (s->is_started && !s->is_closing) {
        load_missing(s);
        reconcile_boot(s);
        revoker_reload(s->revoker);
    }
}

/* --- close --- */
static void scheduler_free(struct scheduler *s)
{
    tenants_free(s);
    sweep_free(s->sweep);
    revoker_free(s->revoker);
    struct name *n, *next;
    HASH_ITER (hh, s->names, n, next) {
        HASH_DEL(s->names, n);
        mem_free(n);
    }
    tenancy_unref(s->tenancy);
    mem_free(s->due);
    mem_free(s->places);
    mem_free(s->controller);
    mem_free(s);
}

static void close_tell(struct scheduler *s)
{
    if (!s->is_closed_told) {
        s->is_closed_told = true;
        s->closed(s->closed_data);
    }
}

/* Calls that do not answer: the rest is freed when they do. */
static void on_close_deadline(void *data)
{
    struct scheduler *s = data;
    log_warn("scheduler.close_late", LF_INT("outstanding", s->n_busy));
    close_tell(s);
}

static void on_timer_closed(void *data)
{
    struct scheduler *s = data;
    if (--s->n_timers > 0) {
        return;
    }
    bool is_told = s->is_closed_told;
    void (*closed)(void *) = s->closed;
    void *closed_data = s->closed_data;
    scheduler_free(s);
    if (!is_told) {
        closed(closed_data);
    }
}

static void close_finish(void *data)
{
    struct scheduler *s = data;
    if (s->n_busy > 0) { /* something began in the meantime; its end comes back here */
        s->is_finishing = false;
        return;
    }
    s->n_timers = 2;
    timer_close(&s->timer, on_timer_closed);
    timer_close(&s->close_timer, on_timer_closed);
}

void scheduler_busy(struct scheduler *s)
{
    s->n_busy++;
}

void scheduler_idle(struct scheduler *s)
{
    must(s->n_busy > 0);
    s->n_busy--;
    if (s->is_closing && s->n_busy == 0 && !s->is_finishing) {
        s->is_finishing = true;
        loop_defer(s->loop, close_finish, s); /* later: our callers may still use it */
    }
}

void scheduler_close(struct scheduler *s, void (*closed)(void *data), void *data)
{
    must(!s->is_closing);
    scheduler_busy(s);
    s->is_closing = true;
    s->closed = closed;
    s->closed_data = data;
    timer_stop(&s->timer);
    timer_start(&s->close_timer, s->o.timing.close_ms);
    waits_close(s);
    reconcile_stop_all(s);
    for (struct entry *e = s->by_id; e != NULL; e = e->hh.next) {
        entry_disconnect(e);
    }
    sweep_close(s->sweep);
    revoker_close(s->revoker);
    scheduler_idle(s);
}

void scheduler_stats(const struct scheduler *s, struct scheduler_stats *ret)
{
    *ret = s->stats;
    ret->workspaces = s->n_entries;
    ret->keys_to_revoke = revoker_pending(s->revoker);
}
