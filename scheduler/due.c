/* due: when to look at which workspace again: a binary heap and one timer for all of them, because a timer
 * each would cost more than the workspace itself. An entry is in at most once. */
#include "scheduler/entry.h"

#include "base/core/mem.h"

#define DUE_PER_TURN 128 /* so that a crowd does not hold the loop */

static void due_put(struct scheduler *s, size_t at, struct entry *e)
{
    s->due[at] = e;
    e->due_at = (uint32_t)at + 1;
}

static void due_up(struct scheduler *s, size_t at)
{
    struct entry *e = s->due[at];
    while (at > 0 && s->due[(at - 1) / 2]->due_ms > e->due_ms) {
        due_put(s, at, s->due[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    due_put(s, at, e);
}

static void due_down(struct scheduler *s, size_t at)
{
    struct entry *e = s->due[at];
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= s->n_due) {
            break;
        }
        if (child + 1 < s->n_due && s->due[child + 1]->due_ms < s->due[child]->due_ms) {
            child++;
        }
        if (s->due[child]->due_ms >= e->due_ms) {
            break;
        }
        due_put(s, at, s->due[child]);
        at = child;
    }
    due_put(s, at, e);
}

static void due_arm(struct scheduler *s)
{
    if (s->n_due == 0 || s->is_closing) {
        timer_stop(&s->timer);
    } else {
        timer_start(&s->timer, s->due[0]->due_ms - now_mono(s));
    }
}

static void due_remove(struct scheduler *s, struct entry *e)
{
    size_t at = e->due_at - 1;
    e->due_at = 0;
    struct entry *last = s->due[--s->n_due];
    if (last == e) {
        return;
    }
    due_put(s, at, last);
    due_up(s, at);
    due_down(s, last->due_at - 1);
}

void due_set(struct entry *e, int64_t at_ms)
{
    struct scheduler *s = e->s;
    if (s->is_closing) {
        return;
    }
    struct entry *first = s->n_due > 0 ? s->due[0] : NULL;
    int64_t first_ms = first != NULL ? first->due_ms : 0;
    if (e->due_at != 0) {
        due_remove(s, e);
    }
    if (s->n_due == s->cap_due) {
        s->cap_due = s->cap_due == 0 ? 64 : s->cap_due * 2;
        s->due = mem_realloc(s->due, s->cap_due * sizeof(struct entry *));
    }
    e->due_ms = at_ms;
    due_put(s, s->n_due++, e);
    due_up(s, s->n_due - 1);
    if (s->due[0] != first || s->due[0]->due_ms != first_ms) {
        due_arm(s);
    }
}

void due_clear(struct entry *e)
{
    if (e->due_at != 0) {
        due_remove(e->s, e);
        due_arm(e->s);
    }
}

void on_due_timer(void *scheduler)
{
    struct scheduler *s = scheduler;
    int64_t now = now_mono(s);
    for (int i = 0; i < DUE_PER_TURN && s->n_due > 0 && s->due[0]->due_ms <= now; i++) {
        struct entry *e = s->due[0];
        due_remove(s, e);
        reconcile_due(e);
    }
    due_arm(s);
}
