/* doubt: looks again at a workspace that is ready, because somebody says that it may not be well.
 *
 * Two sorts of doubt. A provider's event (the server or the sandbox ended): the first one in a while is
 * believed at once, the workspace leaves `ready` until it was seen healthy. The edge's suspicion (a call went
 * wrong, which a busy server can cause too): the workspace stays ready while it is looked at, and leaves only
 * when the look fails.
 *
 * Whoever is inside can cause both, thousands of times a second. So a doubt opens a time in which no other
 * one is acted on, doubling with each event and each look that found it unwell, until it stayed ready and
 * undoubted for long enough. An event in that time is not lost: the look comes when the time is over, and is
 * a quiet one, as are all but the first. What remains is a few looks a minute. */
#include "scheduler/entry.h"

static bool is_healing(const struct entry *e)
{
    return e->work != NULL && e->work->is_healing;
}

static bool is_seen_ready(const struct entry *e)
{
    return e->fact.state == WS_READY && e->is_reached;
}

/* Calm for long enough: doubts begin anew. */
static void forget(struct entry *e)
{
    int64_t settled = now_mono(e->s) - e->s->o.timing.settled_after_ms;
    if (e->doubts > 0 && is_seen_ready(e) && !e->has_doubt && e->doubt_ms <= settled && e->ready_ms != 0 &&
        e->ready_ms <= settled) {
        e->doubts = 0;
    }
}

static void pace(struct entry *e, bool grows)
{
    const struct scheduler_timing *t = &e->s->o.timing;
    int64_t ms = t->doubt_first_ms;
    int64_t now = now_mono(e->s);
    if (grows) {
        if (e->doubts < UINT16_MAX) {
            e->doubts++;
        }
        e->doubt_ms = now;
    }
    for (unsigned i = 1; i < e->doubts && ms < t->doubt_max_ms; i++) {
        ms *= 2;
    }
    e->doubt_next_ms = now + (ms > t->doubt_max_ms ? t->doubt_max_ms : ms);
}

static void leave_ready(struct entry *e, const char *reason)
{
    e->is_reached = false;
    entry_reason(e, reason);
    entry_view(e, true);
}

static void look(struct entry *e)
{
    e->has_doubt = false;
    e->wants_look = true;
    e->retry_ms = 0;
    if (is_healing(e)) {
        health_stop(e->work); /* it may wait for a server that is dead: look at the sandbox first */
    } else {
        reconcile_kick(e);
    }
}

/* `at_ms` at the earliest; whoever else sets the time of this workspace keeps the doubt in mind. */
static void postpone(struct entry *e, int64_t at_ms)
{
    e->has_doubt = true;
    e->doubt_next_ms = at_ms;
    if (e->due_at == 0 || e->due_ms > at_ms) {
        due_set(e, at_ms);
    }
}

void doubt_event(struct entry *e, const char *reason)
{
    if (!is_healing(e) && !is_seen_ready(e)) {
        return; /* a pass is under way or will come: it looks anyhow */
    }
    forget(e);
    if (e->doubts > 0 && now_mono(e->s) < e->doubt_next_ms) {
        postpone(e, e->doubt_next_ms);
        return;
    }
    bool is_first = e->doubts == 0;
    e->is_hearsay = false;
    pace(e, true);
    if (is_first && is_seen_ready(e)) {
        leave_ready(e, reason);
    }
    look(e);
}

void doubt_suspect(struct entry *e)
{
    if (!is_seen_ready(e) || e->work != NULL || e->changes != NULL || now_mono(e->s) < e->doubt_next_ms) {
        return; /* being looked at, or was just now; who calls in vain once more says so once more */
    }
    forget(e);
    e->is_hearsay = true;
    pace(e, false);
    look(e);
}

void doubt_failed(struct entry *e, const char *reason)
{
    if (e->is_hearsay) { /* an event was counted when it came */
        pace(e, true);
    }
    leave_ready(e, reason);
}

void doubt_later(struct entry *e, int64_t after_ms)
{
    e->wants_look = false;
    postpone(e, now_mono(e->s) + after_ms);
}

void doubt_reset(struct entry *e)
{
    e->doubts = 0;
    e->doubt_next_ms = 0;
    e->has_doubt = e->wants_look = e->is_hearsay = false;
}

bool doubt_due(struct entry *e)
{
    if (!e->has_doubt) {
        return false;
    }
    if (!is_healing(e) && !is_seen_ready(e)) {
        e->has_doubt = false; /* it has shown itself meanwhile */
        return false;
    }
    if (now_mono(e->s) < e->doubt_next_ms) {
        due_set(e, e->doubt_next_ms);
        return false;
    }
    e->is_hearsay = false;
    pace(e, true);
    look(e);
    return true;
}
