/* removal: a deleted workspace goes: LLM keys, sandbox, home (unless it is kept), record; in this order, so
 * that a crash in between leaves a record that knows what is still to do. Every step may be repeated: what is
 * absent is done. The keys go first: they are worth money, and a provider that is away would keep them good.
 * At their gateway they are revoked beside all this (revoke.c): a gateway that is away holds up nothing. */
#include "scheduler/entry.h"

static void on_removed(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    if (code != 0) {
        w->place = NULL;
        work_fail(w, "store", code, err);
        return;
    }
    boot_done(e);
    work_free(w);
    due_clear(e);
    roster_drop(e);
    e->fact.state = WS_ABSENT;
    e->fact.has_sandbox = false;
    e->fact.event_seq++;
    entry_reason(e, "");
    entry_view(e, true);
    waits_again(e, WAIT_GONE);
    waits_gone(e);
    entry_free(e);
}

static void on_keys_revoked(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    if (code != 0) {
        work_fail(w, "revoke the LLM key", code, err);
        return;
    }
    e->is_key_revoked = true;
    work_end(w);
}

void remove_keys(struct entry *e)
{
    llm_keys_revoke(e, true, on_keys_revoked, work_new(e, NULL));
}

static void on_home_destroyed(int code, const struct err *err, void *data)
{
    struct work *w = data;
    place_result(w->s, w->place, code, err);
    if (w->s->is_closing) {
        work_end(w);
    } else if (code != 0 && code != E_NOT_FOUND) {
        work_fail(w, "destroy home", code, err);
    } else {
        entry_change(w->e, edit_remove, NULL, on_removed, w);
    }
}

static void on_destroyed_for_delete(int code, const struct err *err, void *data)
{
    struct work *w = data;
    place_result(w->s, w->place, code, err);
    if (w->s->is_closing) {
        work_end(w); /* the next start goes on with it */
    } else if (code != 0 && code != E_NOT_FOUND) {
        work_fail(w, "destroy", code, err);
    } else if (w->e->fact.keeps_home) {
        entry_change(w->e, edit_remove, NULL, on_removed, w);
    } else {
        struct provider *p = w->place->p;
        p->ops->destroy_home(p, w->e->home_id, w->s->o.timing.call_long_ms, on_home_destroyed, w);
    }
}

void remove_begin(struct work *w)
{
    struct provider *p = w->place->p;
    p->ops->destroy(p, slice_str(w->e->sandbox_name), w->s->o.timing.call_long_ms, on_destroyed_for_delete,
                    w);
}
