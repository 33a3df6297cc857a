/* places: the providers, each with a circuit breaker, and the turns in which sandboxes are created and
 * started.
 *
 * A breaker opens after BREAKER_FAILURES failures in a row that speak of the provider (not of one sandbox),
 * stays open for a growing time, then lets one call through to see. Turns are limited, because starting costs
 * the machine; they go round the tenants that wait, so that one tenant's hundred do not delay another's one.
 */
#include "scheduler/entry.h"

#include <stdio.h>

#include "base/core/mem.h"

struct place *place_find(struct scheduler *s, struct slice name)
{
    for (size_t i = 0; i < s->n_places; i++) {
        if (slice_eq(s->places[i].name, name)) {
            return &s->places[i];
        }
    }
    return NULL;
}

static bool is_open(const struct scheduler *s, const struct place *p)
{
    return p->open_until_ms > now_mono(s) || p->is_probing;
}

struct place *place_choose(struct scheduler *s, const struct config_template *t, struct slice asked,
                           struct slice not_this, struct err *err)
{
    if (asked.n > 0) {
        struct place *p = place_find(s, asked);
        if (p == NULL) {
            (void)err_set(err, E_INVALID, "provider: `%.*s` is not configured", SL_ARG(asked));
        }
        return p;
    }
    struct place *second = NULL; /* one that is backing off is better than none */
    for (size_t i = 0; i < t->n_providers; i++) {
        struct place *p = place_find(s, t->providers[i]->name);
        if (p == NULL || slice_eq(p->name, not_this)) {
            continue;
        }
        if (!is_open(s, p)) {
            return p;
        }
        second = second == NULL ? p : second;
    }
    if (second == NULL) {
        (void)err_set(err, E_UNAVAILABLE, "template `%.*s`: none of its providers runs here",
                      SL_ARG(t->name));
    }
    return second;
}

bool place_allows(struct scheduler *s, struct place *p, int64_t *ret_wait_ms)
{
    if (p->open_until_ms == 0) {
        return true;
    }
    int64_t left = p->open_until_ms - now_mono(s);
    if (left > 0 || p->is_probing) {
        *ret_wait_ms = left > 0 ? left : s->o.timing.breaker_first_ms;
        return false;
    }
    p->is_probing = true;
    return true;
}

/* Does this failure speak of the provider itself? */
static bool is_provider_failure(int code)
{
    return code == E_UNAVAILABLE || code == E_TIMEOUT || code == E_UNKNOWN_OUTCOME || code == E_IO ||
           code == E_EOF || code == E_UPSTREAM || code == E_AUTH || code == E_INTERNAL;
}

void place_result(struct scheduler *s, struct place *p, int code, const struct err *err)
{
    p->is_probing = false;
    if (code == 0) {
        p->failures = 0;
        p->open_until_ms = 0;
        p->open_ms = 0;
        return;
    }
    s->stats.provider_errors++;
    if (!is_provider_failure(code)) {
        return;
    }
    (void)snprintf(p->last, sizeof p->last, "%.250s",
                   err != NULL && err->msg[0] != '\0' ? err->msg : err_title(code));
    bool was_probe = p->open_until_ms != 0;
    p->failures++;
    if (p->failures >= BREAKER_FAILURES && (was_probe || p->open_ms == 0)) {
        p->open_ms = p->open_ms == 0 ? s->o.timing.breaker_first_ms : p->open_ms * 2;
        if (p->open_ms > s->o.timing.breaker_max_ms) {
            p->open_ms = s->o.timing.breaker_max_ms;
        }
        p->open_until_ms = now_mono(s) + p->open_ms;
    }
}

static void turns_pump(struct scheduler *s)
{
    if (s->is_pumping) { /* one who gave up his turn at once: the loop below goes on */
        return;
    }
    s->is_pumping = true;
    while (s->starts_free > 0 && s->ring != NULL) {
        struct tenant *t = s->ring;
        struct work *w = t->queue;
        DL_DELETE(t->queue, w);
        CDL_DELETE2(s->ring, t, ring_prev, ring_next); /* the ring now points to the next tenant */
        t->in_ring = false;
        if (t->queue != NULL) {
            CDL_APPEND2(s->ring, t, ring_prev, ring_next);
            t->in_ring = true;
        }
        s->n_queued--;
        s->starts_free--;
        w->is_queued = false;
        w->has_turn = true;
        w->on_turn(w);
    }
    s->is_pumping = false;
}

void start_ask(struct work *w, void (*on_turn)(struct work *w))
{
    struct tenant *t = w->e->tenant;
    struct scheduler *s = w->s;
    must(!w->has_turn && !w->is_queued);
    w->on_turn = on_turn;
    w->is_queued = true;
    DL_APPEND(t->queue, w);
    s->n_queued++;
    if (!t->in_ring) {
        CDL_APPEND2(s->ring, t, ring_prev, ring_next);
        t->in_ring = true;
    }
    turns_pump(s);
}

void start_release(struct work *w)
{
    struct scheduler *s = w->s;
    if (w->is_queued) {
        struct tenant *t = w->e->tenant;
        DL_DELETE(t->queue, w);
        w->is_queued = false;
        s->n_queued--;
        if (t->queue == NULL) {
            CDL_DELETE2(s->ring, t, ring_prev, ring_next);
            t->in_ring = false;
        }
    } else if (w->has_turn) {
        w->has_turn = false;
        s->starts_free++;
        if (!s->is_closing) {
            turns_pump(s);
        }
    }
}
