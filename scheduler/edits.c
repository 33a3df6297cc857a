/* edits: what may be changed in a workspace's record, one function for each kind of change. Pure: draft in,
 * draft out. Each looks at the record as it is when its turn comes, not as it was when it was asked for. */
#include "scheduler/entry.h"

#include <string.h>

static int refuse_deleted(struct err *err)
{
    return err_set(err, E_NOT_FOUND, "the workspace is being deleted");
}

static void reason_set(struct draft *d, const char *reason)
{
    memset(d->reason, 0, sizeof d->reason);
    if (reason != NULL) {
        (void)strncpy(d->reason, reason, sizeof d->reason - 1); /* the rest of the draft's reason is zero */
    }
}

static void calm(struct draft *d)
{
    reason_set(d, NULL);
    d->fact.is_final = false;
    d->fact.retry_at_ms = 0;
}

/* The secrets hold a new key: the present one becomes the former one. */
static void key_replace(const struct entry *e, struct draft *d, struct secrets *x)
{
    bool is_managed;
    d->fresh = x;
    if (x->sealed_key == NULL) {
        return;
    }
    d->fact.old_key_gateway = d->fact.key_gateway;
    d->fact.old_key_state = d->fact.key_state;
    d->fact.key_gateway = llm_key_gateway(e, &is_managed);
    d->fact.key_state = is_managed ? KEY_SENT : KEY_NONE;
}

int edit_delete(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)err;
    if (d->fact.wish == WISH_DELETED) {
        if (!d->fact.keeps_home || x->keep_home) {
            return EDIT_NOTHING;
        }
        d->fact.keeps_home = false;
        return 0;
    }
    d->fact.wish = WISH_DELETED;
    d->fact.state = WS_DELETING;
    d->fact.cause = SUSPEND_NONE;
    d->fact.renew = RENEW_NO;
    d->fact.keeps_home = x->keep_home;
    calm(d);
    return 0;
}

int edit_suspend(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    switch (d->fact.wish) {
    case WISH_DELETED:
        return refuse_deleted(err);
    case WISH_SUSPENDED:
        if (d->fact.cause == x->cause || x->cause == SUSPEND_IDLE) {
            return EDIT_NOTHING;
        }
        d->fact.cause = x->cause; /* from idle to one that traffic does not wake */
        return 0;
    case WISH_RUNNING:
        break;
    }
    if (x->cause == SUSPEND_IDLE && (d->fact.state != WS_READY || e->holds > 0)) {
        return EDIT_NOTHING; /* somebody came */
    }
    d->fact.wish = WISH_SUSPENDED;
    d->fact.cause = x->cause;
    d->fact.state = WS_SUSPENDED;
    d->fact.is_asleep = false;
    calm(d);
    reason_set(d, "suspending");
    return 0;
}

int edit_asleep(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)err;
    if (d->fact.wish != WISH_SUSPENDED || d->fact.is_asleep) {
        return EDIT_NOTHING;
    }
    d->fact.is_asleep = true;
    d->fact.is_frozen = x->is_frozen;
    if (d->fact.key_state == KEY_LIVE) { /* it will be blocked now */
        d->fact.key_state = KEY_UNSURE;
    }
    calm(d);
    return 0;
}

static void run(struct draft *d)
{
    d->is_bounded = d->fact.wish != WISH_RUNNING;
    d->fact.wish = WISH_RUNNING;
    d->fact.cause = SUSPEND_NONE;
    d->fact.is_asleep = false;
    d->fact.state = WS_PROVISIONING;
    if (d->fact.key_state == KEY_BLOCKED) {
        d->fact.key_state = KEY_UNSURE;
    }
    calm(d);
}

int edit_run(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    if (d->fact.wish == WISH_DELETED) {
        return refuse_deleted(err);
    }
    if (d->fact.wish == WISH_RUNNING) {
        return EDIT_NOTHING;
    }
    run(d);
    return 0;
}

int edit_restart(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    if (d->fact.wish == WISH_DELETED) {
        return refuse_deleted(err);
    }
    run(d);
    d->fact.renew = RENEW_CREDENTIALS;
    return 0;
}

int edit_retry(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    (void)err;
    if (d->fact.wish != WISH_RUNNING || d->fact.state != WS_FAILED) {
        return EDIT_NOTHING;
    }
    d->fact.state = WS_PROVISIONING;
    calm(d);
    return 0;
}

int edit_attempt(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    (void)err;
    if (d->fact.wish != WISH_RUNNING) {
        return EDIT_NOTHING;
    }
    d->fact.attempt++;
    return 0;
}

int edit_move_provider(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)err;
    if (d->fact.wish != WISH_RUNNING || d->fact.is_pinned) {
        return EDIT_NOTHING;
    }
    d->fact.provider = x->provider;
    d->fact.attempt++;
    return 0;
}

int edit_pinned(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    (void)err;
    if (d->fact.is_pinned) {
        return EDIT_NOTHING;
    }
    d->fact.is_pinned = true;
    return 0;
}

int edit_generation(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)err;
    if (d->fact.wish != WISH_RUNNING) {
        return EDIT_NOTHING;
    }
    d->fact.generation++;
    d->fact.attempt = 1;
    d->fact.renew = RENEW_NO;
    d->fact.has_sandbox = false;
    if (d->fact.state != WS_FAILED) { /* a slow retry shows itself only when it has got somewhere */
        d->fact.state = WS_PROVISIONING;
    }
    key_replace(e, d, x->secrets);
    return 0;
}

int edit_started(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)x;
    (void)err;
    bool moves =
        d->fact.wish == WISH_RUNNING && (d->fact.state == WS_PROVISIONING || d->fact.state == WS_FAILED);
    if (!moves && d->fact.has_sandbox && d->fact.is_pinned && !e->is_key_live) {
        return EDIT_NOTHING;
    }
    if (e->is_key_live) {
        d->fact.key_state = KEY_LIVE;
    }
    d->fact.has_sandbox = true;
    d->fact.is_pinned = true;
    if (moves) {
        d->fact.state = WS_BOOTSTRAPPING;
        calm(d);
    }
    return 0;
}

int edit_ready(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)x;
    (void)err;
    if (d->fact.wish != WISH_RUNNING || d->fact.state != WS_BOOTSTRAPPING || d->fact.renew != RENEW_NO ||
        e->ws.server == NULL) { /* put to sleep and woken since the server answered */
        return EDIT_NOTHING;
    }
    d->fact.state = WS_READY;
    d->fact.ready_at_ms = now_wall(e->s);
    calm(d);
    return 0;
}

int edit_failure(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)err;
    struct draft was = *d;
    reason_set(d, x->reason);
    if (d->fact.wish == WISH_RUNNING) {
        if (x->state == WS_FAILED) {
            d->fact.state = WS_FAILED;
        } else if (d->fact.state == WS_READY || d->fact.state == WS_BOOTSTRAPPING) {
            d->fact.state = WS_PROVISIONING;
        }
        d->fact.is_final = x->is_final;
        if (x->renew > d->fact.renew) {
            d->fact.renew = x->renew;
        }
    }
    d->fact.retry_at_ms = x->retry_at_ms;
    bool is_same = was.fact.state == d->fact.state && was.fact.is_final == d->fact.is_final &&
                   was.fact.renew == d->fact.renew && strcmp(was.reason, d->reason) == 0;
    return is_same ? EDIT_NOTHING : 0; /* the time of the next retry alone is not worth a commit */
}

int edit_key_state(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)err;
    if (d->fact.key_state == x->key_state) {
        return EDIT_NOTHING;
    }
    d->fact.key_state = x->key_state;
    if (d->fact.state == WS_READY) { /* the gateway's silence was all that there was to say */
        calm(d);
    }
    return 0;
}

int edit_key_blocked(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    (void)err;
    bool is_awake = d->fact.wish != WISH_SUSPENDED; /* it was woken meanwhile: blocked now, to be unblocked */
    d->fact.key_state = is_awake ? KEY_UNSURE : KEY_BLOCKED;
    if (!is_awake) {
        calm(d);
    }
    return 0;
}

int edit_key_moved(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)x;
    (void)err;
    d->fact.key_gateway = llm_key_gateway(e, NULL);
    d->fact.key_state = KEY_NONE;
    return 0;
}

int edit_key_renewed(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)err;
    if (d->fact.wish != WISH_RUNNING) {
        return EDIT_NOTHING;
    }
    key_replace(e, d, x->secrets);
    return 0;
}

int edit_old_key_revoked(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)x;
    (void)err;
    d->forgets_old_key = true;
    d->fact.old_key_gateway = SLICE_EMPTY;
    d->fact.old_key_state = KEY_NONE;
    return e->old_key_hash == NULL ? EDIT_NOTHING : 0;
}

int edit_remove(struct entry *e, struct draft *d, const struct edit *x, struct err *err)
{
    (void)e;
    (void)x;
    (void)err;
    d->is_removal = true;
    return d->fact.wish == WISH_DELETED ? 0 : E_CONFLICT;
}
