/* actions: what callers ask of a workspace that is there: delete, suspend, resume, restart, wake; and the
 * signs of life that keep it awake. The wish is durable before anybody hears of it; the reconciler does the
 * rest. */
#include "scheduler/entry.h"

#include <string.h>

#include "base/core/mem.h"

static struct entry *entry_of(struct workspace *ws)
{
    return (struct entry *)(void *)ws; /* the first member */
}

static struct workspace_wait *act(struct workspace_wait *w, struct entry *e, edit_fn edit,
                                  const struct edit *x)
{
    wait_attach(w, e, WAIT_COMMIT);
    wait_pin(w);
    entry_change(e, edit, x, on_wait_saved, w);
    return wait_begun(w);
}

struct workspace_wait *scheduler_delete(struct scheduler *s, struct slice tenant, struct slice namespace,
                                        struct slice name, bool keep_home, int64_t wait_ms,
                                        workspace_answer_cb cb, void *data)
{
    struct workspace_wait *w = wait_new(s, WAIT_DELETE, wait_ms, cb, data);
    struct tenant *t = tenant_find(s, tenant);
    struct entry *e = t == NULL || !t->is_loaded ? NULL : roster_find(t, namespace, name);
    if (e != NULL && !e->is_new) {
        const struct edit x = {.keep_home = keep_home};
        return act(w, e, edit_delete, &x);
    }
    /* Without a workspace there may still be a home that one left behind. */
    if (e != NULL || t == NULL || !t->is_loaded || s->is_closing || keep_home ||
        !home_delete(t, namespace, name, w)) {
        wait_decide(w, E_NOT_FOUND, NULL);
    }
    return wait_begun(w);
}

struct workspace_wait *scheduler_suspend(struct scheduler *s, struct workspace *ws, enum suspend_cause cause,
                                         int64_t wait_ms, workspace_answer_cb cb, void *data)
{
    const struct edit x = {.cause = cause == SUSPEND_NONE ? SUSPEND_OPERATOR : cause};
    return act(wait_new(s, WAIT_SUSPEND, wait_ms, cb, data), entry_of(ws), edit_suspend, &x);
}

struct workspace_wait *scheduler_resume(struct scheduler *s, struct workspace *ws, int64_t wait_ms,
                                        workspace_answer_cb cb, void *data)
{
    struct entry *e = entry_of(ws);
    e->touched_ms = now_mono(s);
    edit_fn edit = e->fact.wish == WISH_RUNNING ? edit_retry : edit_run;
    return act(wait_new(s, WAIT_RUN, wait_ms, cb, data), e, edit, NULL);
}

struct workspace_wait *scheduler_restart(struct scheduler *s, struct workspace *ws, int64_t wait_ms,
                                         workspace_answer_cb cb, void *data)
{
    return act(wait_new(s, WAIT_RUN, wait_ms, cb, data), entry_of(ws), edit_restart, NULL);
}

struct workspace_wait *scheduler_wake(struct scheduler *s, struct workspace *ws, int64_t wait_ms,
                                      workspace_answer_cb cb, void *data)
{
    struct entry *e = entry_of(ws);
    struct workspace_wait *w = wait_new(s, WAIT_WAKE, wait_ms, cb, data);
    e->touched_ms = now_mono(s);
    if (e->fact.wish == WISH_SUSPENDED && e->fact.cause == SUSPEND_IDLE && !s->is_closing) {
        return act(w, e, edit_run, NULL);
    }
    wait_attach(w, e, WAIT_SETTLE);
    if (e->fact.wish == WISH_RUNNING && e->ws.state != WS_READY && e->retry_ms == 0) {
        reconcile_kick(e);
    }
    return wait_begun(w);
}

void scheduler_touch(struct scheduler *s, struct workspace *ws)
{
    entry_of(ws)->touched_ms = now_mono(s); /* the heap is set right when its time comes */
}

void scheduler_hold(struct scheduler *s, struct workspace *ws)
{
    struct entry *e = entry_of(ws);
    e->holds++;
    e->touched_ms = now_mono(s);
}

void scheduler_unhold(struct scheduler *s, struct slice workspace_id)
{
    struct entry *e;
    HASH_FIND(hh, s->by_id, workspace_id.p, workspace_id.n, e);
    if (e == NULL || e->holds == 0) {
        return; /* deleted meanwhile */
    }
    e->holds--;
    e->touched_ms = now_mono(s);
    int64_t after = reconcile_idle_after(e);
    if (e->holds == 0 && after > 0 && e->is_reached && e->work == NULL) {
        reconcile_rest(e);
    }
}

void scheduler_suspect(struct scheduler *s, struct workspace *ws)
{
    if (!s->is_closing) {
        doubt_suspect(entry_of(ws));
    }
}

void scheduler_on_provider_event(struct scheduler *s, struct slice sandbox_id, struct slice workspace_id,
                                 const char *what)
{
    struct entry *e;
    HASH_FIND(hh, s->by_id, workspace_id.p, workspace_id.n, e);
    if (e == NULL || e->is_new || s->is_closing || !slice_eq_str(sandbox_id, e->sandbox_name)) {
        return; /* a former sandbox's last words */
    }
    if (strcmp(what, "server_started") == 0 && e->work != NULL && e->work->is_healing) {
        return; /* that is what we are waiting for */
    }
    if (strcmp(what, PROVIDER_EVENT_AGAIN) == 0) {
        if (e->fact.wish == WISH_RUNNING && !e->fact.has_sandbox) {
            e->retry_ms = 0;
            reconcile_kick(e);
        }
        return;
    }
    struct buf reason = BUF_INIT(REASON_MAX - 1);
    (void)buf_printf(&reason, "the provider reports: %.100s", what);
    doubt_event(e, buf_cstr(&reason));
    buf_fini(&reason);
}

void scheduler_on_provider_progress(struct scheduler *s, struct slice sandbox_id, struct slice workspace_id,
                                    const char *text)
{
    struct entry *e;
    HASH_FIND(hh, s->by_id, workspace_id.p, workspace_id.n, e);
    if (e == NULL || e->is_new || s->is_closing || !slice_eq_str(sandbox_id, e->sandbox_name) ||
        e->fact.wish != WISH_RUNNING || e->fact.has_sandbox || e->retry_ms == 0) {
        return; /* it waits for something else by now */
    }
    struct buf reason = BUF_INIT(REASON_MAX - 1);
    (void)buf_printf(&reason, "provider %.*s: create: %.300s", SL_ARG(e->fact.provider), text);
    entry_note(e, buf_cstr(&reason));
    buf_fini(&reason);
}
