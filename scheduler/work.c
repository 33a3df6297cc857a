/* work: one pass of the reconciler over one workspace: its memory, its end, its failure.
 *
 * A failure is counted, shown as the reason, and followed by a backoff with jitter; the fifth in a row makes
 * the workspace `failed`, though it is retried still; one that waiting does not mend makes it `failed` at
 * once. What the store cannot take now is shown from memory only. */
#include "scheduler/entry.h"

#include <stdio.h>

#include "base/core/log.h"
#include "base/core/mem.h"

struct work *work_new(struct entry *e, struct place *p)
{
    struct work *w = MEM_NEW(struct work);
    w->e = e;
    w->s = e->s;
    w->place = p;
    e->work = w;
    scheduler_busy(e->s);
    return w;
}

static void on_work_timer_closed(void *data)
{
    struct work *w = data;
    struct scheduler *s = w->s;
    mem_free(w);
    scheduler_idle(s);
}

void work_free(struct work *w)
{
    struct scheduler *s = w->s;
    start_release(w);
    mem_wipe(w->llm_key, sizeof w->llm_key);
    secrets_free(w->fresh);
    arena_fini(&w->arena);
    w->e->work = NULL;
    if (w->has_timer) {
        timer_close(&w->timer, on_work_timer_closed);
    } else {
        mem_free(w);
        scheduler_idle(s);
    }
}

void work_end(struct work *w)
{
    struct entry *e = w->e;
    scheduler_busy(e->s); /* the close must not end under our feet */
    struct scheduler *s = e->s;
    work_free(w);
    if (e->changes != NULL) {
        e->is_kicked = true;
    } else {
        reconcile_kick(e);
    }
    scheduler_idle(s);
}

int64_t work_backoff_ms(struct scheduler *s, unsigned failures)
{
    const struct scheduler_timing *t = &s->o.timing;
    int64_t ms = t->retry_first_ms;
    for (unsigned i = 1; i < failures && ms < t->retry_max_ms; i++) {
        ms *= 2;
    }
    ms = ms > t->retry_max_ms ? t->retry_max_ms : ms;
    return ms * 3 / 4 + (int64_t)rnd_below(s->loop->rnd, (uint64_t)ms / 2 + 1); /* a quarter either way */
}

static bool is_final_code(int code)
{
    return code == E_INVALID || code == E_AUTH || code == E_NOT_IMPLEMENTED || code == E_FORBIDDEN;
}

static bool is_store_code(int code)
{
    return code == E_STORE || code == E_NO_SPACE || code == E_DRAINING || code == E_CONFLICT;
}

static void on_failure_saved(struct entry *e, int code, const struct err *err, void *data)
{
    (void)code; /* the reason is a courtesy; the retry comes all the same */
    (void)err;
    (void)data;
    reconcile_kick(e);
}

/* "provider local: create: no space left" */
static void reason_make(const struct work *w, const char *doing, const char *story, char out[REASON_MAX])
{
    struct err e; /* cuts what is too long */
    if (w->place != NULL) {
        (void)err_set(&e, E_INTERNAL, "provider %.*s: %s: %s", SL_ARG(w->place->name), doing, story);
    } else {
        (void)err_set(&e, E_INTERNAL, "%s: %s", doing, story);
    }
    (void)snprintf(out, REASON_MAX, "%.*s", REASON_MAX - 1, e.msg);
}

void work_fail_renew(struct work *w, const char *doing, int code, const struct err *err, enum renewal renew)
{
    struct entry *e = w->e;
    struct scheduler *s = w->s;
    const struct scheduler_timing *t = &s->o.timing;
    if (e->ready_ms != 0 && now_mono(s) - e->ready_ms >= t->settled_after_ms) {
        e->failures = 0;
    }
    e->ready_ms = 0;
    if (e->failures < UINT16_MAX) {
        e->failures++;
    }
    s->stats.retries++;
    bool is_final = is_final_code(code) && e->fact.wish == WISH_RUNNING;
    bool is_failed = is_final || (e->failures >= FAILURES_TO_FAILED && e->fact.wish == WISH_RUNNING);
    int64_t after = is_final ? t->retry_max_ms : work_backoff_ms(s, e->failures);
    e->retry_ms = now_mono(s) + after;
    char reason[REASON_MAX];
    reason_make(w, doing, err != NULL && err->msg[0] != '\0' ? err->msg : err_title(code), reason);
    log_debug("workspace.step_failed", LF_STR("workspace", e->ws.id), LF_STR("reason", reason));
    e->fact.retry_at_ms = is_final ? 0 : now_wall(s) + after;
    bool is_adopting = e->fact.state == WS_READY && !is_failed && renew == RENEW_NO;
    if ((w->place == NULL && is_store_code(code)) || is_adopting) {
        e->is_reached = false;
        entry_note(e, reason); /* the record keeps saying what was reached */
    } else {
        const struct edit x = {.state = is_failed ? WS_FAILED : WS_ABSENT,
                               .is_final = is_final,
                               .renew = renew,
                               .retry_at_ms = e->fact.retry_at_ms,
                               .reason = reason};
        entry_change(e, edit_failure, &x, on_failure_saved, NULL);
    }
    work_end(w);
}

void work_fail(struct work *w, const char *doing, int code, const struct err *err)
{
    work_fail_renew(w, doing, code, err, RENEW_NO);
}

void work_wait(struct work *w, const struct err *err)
{
    struct entry *e = w->e;
    char reason[REASON_MAX];
    e->is_attempt_used = false;                                 /* nothing was made under its name */
    e->retry_ms = now_mono(w->s) + w->s->o.timing.retry_max_ms; /* in case the event gets lost */
    reason_make(w, "create", err->msg, reason);
    entry_note(e, reason);
    work_end(w);
}

/* `done` of a change after which the pass is made anew. */
void on_step_saved(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    (void)e;
    if (code != 0) {
        w->place = NULL;
        work_fail(w, "store", code, err);
    } else {
        work_end(w);
    }
}
