/* boot: after a start or a reload every workspace that is not at rest is looked at, BOOT_PARALLEL at a time,
 * while callers are already served; and before the end, all that is under way is stopped. */
#include "scheduler/entry.h"

static void on_boot_pump(void *data)
{
    struct scheduler *s = data;
    s->is_boot_pump_due = false;
    for (unsigned i = 0; i < BOOT_PARALLEL && s->n_boot < BOOT_PARALLEL && s->boot != NULL && !s->is_closing;
         i++) {
        struct entry *e = s->boot;
        DL_DELETE2(s->boot, e, boot_prev, boot_next);
        e->in_boot_queue = false;
        e->is_boot = true;
        s->n_boot++;
        if (e->work == NULL && e->changes == NULL) {
            reconcile_kick(e);
        }
    }
    scheduler_idle(s);
}

static void boot_pump(struct scheduler *s)
{
    if (!s->is_boot_pump_due && s->boot != NULL && !s->is_closing) {
        s->is_boot_pump_due = true;
        scheduler_busy(s);
        loop_defer(s->loop, on_boot_pump, s);
    }
}

/* It rests, or waits for its time: the next one's turn. */
void boot_done(struct entry *e)
{
    struct scheduler *s = e->s;
    if (e->in_boot_queue) {
        DL_DELETE2(s->boot, e, boot_prev, boot_next);
        e->in_boot_queue = false;
    }
    if (e->is_boot) {
        e->is_boot = false;
        s->n_boot--;
        boot_pump(s);
    }
}

void reconcile_boot(struct scheduler *s)
{
    for (struct entry *e = s->by_id; e != NULL; e = e->hh.next) {
        if (e->is_new || e->in_boot_queue || e->is_boot) {
            continue;
        }
        if (e->fact.state == WS_FAILED && e->fact.wish == WISH_RUNNING) {
            e->fact.is_final = false; /* what was wrong in the configuration may be mended */
            e->retry_ms = 0;
        }
        if (!reconcile_is_at_rest(e) || reconcile_idle_after(e) > 0) {
            e->in_boot_queue = true;
            DL_APPEND2(s->boot, e, boot_prev, boot_next);
        }
    }
    boot_pump(s);
}

void reconcile_stop_all(struct scheduler *s)
{
    struct entry *e, *next;
    while (s->boot != NULL) {
        e = s->boot;
        DL_DELETE2(s->boot, e, boot_prev, boot_next);
        e->in_boot_queue = false;
    }
    HASH_ITER (hh, s->by_id, e, next) {
        if (e->work != NULL && e->work->is_queued) {
            work_end(e->work);
        } else if (e->work != NULL) {
            health_stop(e->work);
        }
        if (e->due_at != 0) {
            due_clear(e);
        }
    }
}
