/* llm_key: the workspace's present LLM key at its gateway, where that has a key API that we may use.
 *
 * Happy path: the record says "may be there" before the gateway is asked for the first time; the key is made
 * there before the sandbox is; "is there" is recorded with the start of the server. Asleep: blocked. Awake
 * again: unblocked, or, when the server process did not outlive the sleep, replaced by a new one. When the
 * tenant's calls go to another gateway, the key is made there and revoked where it was. Failure paths: a
 * gateway that refuses us or is away is a passing reason, retried with backoff; a workspace that is ready
 * stays so meanwhile. A crash finds the record at "may be there" or "blocked or not": the act is repeated. */
#include "scheduler/entry.h"

#include "base/core/mem.h"

struct slice llm_key_gateway(const struct entry *e, bool *ret_is_managed)
{
    const struct gateway_keys *g = e->s->o.gateway_keys;
    bool is_managed = false;
    struct slice name = g == NULL ? SLICE_EMPTY : g->of_tenant(g->data, e->ws.tenant, &is_managed);
    if (ret_is_managed != NULL) {
        *ret_is_managed = is_managed;
    }
    return scheduler_intern(e->s, name);
}

static enum key_step step_awake(const struct entry *e)
{
    if (e->fact.renew != RENEW_NO || e->is_key_live) {
        return KEY_STEP_NONE;
    }
    switch (e->fact.key_state) {
    case KEY_NONE:
        return KEY_STEP_SEND;
    case KEY_SENT:
        return KEY_STEP_MAKE;
    case KEY_LIVE:
        return KEY_STEP_NONE;
    case KEY_UNSURE:
    case KEY_BLOCKED:
        return e->fact.is_frozen ? KEY_STEP_UNBLOCK : KEY_STEP_RENEW;
    }
    return KEY_STEP_NONE;
}

enum key_step llm_key_step(const struct entry *e)
{
    bool is_managed;
    if (e->ws.llm_key_hash[0] == '\0' || e->fact.wish == WISH_DELETED || e->tenant->config == NULL) {
        return KEY_STEP_NONE;
    }
    if (!slice_eq(llm_key_gateway(e, &is_managed), e->fact.key_gateway)) {
        return KEY_STEP_MOVE;
    }
    if (!is_managed) {
        return KEY_STEP_NONE;
    }
    if (e->fact.wish == WISH_RUNNING) {
        return step_awake(e);
    }
    bool is_good = e->fact.key_state != KEY_NONE && e->fact.key_state != KEY_BLOCKED;
    return e->fact.is_asleep && is_good ? KEY_STEP_BLOCK : KEY_STEP_NONE;
}

/* --- the gateway is asked --- */
static void key_fail(struct work *w, int code, const struct err *err)
{
    struct entry *e = w->e;
    struct scheduler *s = w->s;
    struct err story = {0};
    const char *text = err != NULL && err->msg[0] != '\0' ? err->msg : err_title(code);
    if (s->is_closing) {
        work_end(w);
        return;
    }
    s->stats.key_failures++;
    (void)err_set(&story, E_UPSTREAM, "gateway %.*s: %s", SL_ARG(e->fact.key_gateway), text);
    if (e->fact.wish != WISH_RUNNING || e->fact.state != WS_READY || !e->is_reached) {
        struct buf doing = BUF_INIT(128);
        (void)buf_printf(&doing, "gateway %.*s", SL_ARG(e->fact.key_gateway));
        (void)err_set(&story, E_UPSTREAM, "%s", text);
        work_fail(w, buf_cstr(&doing), E_UPSTREAM, &story); /* passes, whatever it was */
        buf_fini(&doing);
        return;
    }
    if (e->key_failures < UINT16_MAX) {
        e->key_failures++;
    }
    s->stats.retries++;
    e->retry_ms = now_mono(s) + work_backoff_ms(s, e->key_failures);
    entry_note(e, story.msg);
    work_end(w);
}

static void key_held(struct work *w)
{
    struct entry *e = w->e;
    e->key_failures = 0;
    if (e->fact.state == WS_READY) { /* no start will come that could record it */
        const struct edit x = {.key_state = KEY_LIVE};
        entry_change(e, edit_key_state, &x, on_step_saved, w);
        return;
    }
    e->is_key_live = e->fact.wish == WISH_RUNNING;
    work_end(w);
}

static void on_acted(int code, const struct err *err, void *data)
{
    struct work *w = data;
    struct entry *e = w->e;
    if (code == 0) {
        key_held(w);
    } else if (code == E_NOT_FOUND && w->is_key_unblock) { /* lost there: made anew, of the same text */
        const struct edit x = {.key_state = KEY_SENT};
        entry_change(e, edit_key_state, &x, on_step_saved, w);
    } else {
        key_fail(w, code, err);
    }
}

static void on_blocked(int code, const struct err *err, void *data)
{
    struct work *w = data;
    if (code != 0) {
        key_fail(w, code, err);
        return;
    }
    w->e->key_failures = 0;
    entry_change(w->e, edit_key_blocked, NULL, on_step_saved, w);
}

static void act(struct work *w, enum gateway_key_act what, gateway_key_done_cb done)
{
    const struct entry *e = w->e;
    const struct gateway_keys *g = w->s->o.gateway_keys;
    struct gateway_key k = {.gateway = e->fact.key_gateway,
                            .hash = e->ws.llm_key_hash,
                            .tenant = e->ws.tenant,
                            .namespace = e->ws.namespace,
                            .workspace = e->ws.name,
                            .workspace_id = slice_str(e->ws.id),
                            .user = e->ws.user,
                            .generation = e->fact.generation};
    if (what == GATEWAY_KEY_MAKE) {
        struct err err = {0};
        if (llm_key_open(e, w->llm_key, &err) < 0) {
            work_fail(w, "credentials", E_INVALID, &err);
            return;
        }
        k.text = w->llm_key;
    }
    g->act(g->data, what, &k, done, w);
    mem_wipe(w->llm_key, sizeof w->llm_key);
}

/* --- steps that only change records --- */
static void on_left(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    if (code != 0) {
        work_fail(w, "leave the former gateway", code, err);
        return;
    }
    entry_change(e, edit_key_moved, NULL, on_step_saved, w);
}

/* After a move to and fro the key may still be about to be revoked here. */
static void on_revocation_read(int code, const struct store_record *r, size_t n, bool has_more,
                               const struct err *err, void *data)
{
    struct work *w = data;
    (void)has_more;
    if (code != 0 || n != 1) {
        work_fail(w, "store", code != 0 ? code : E_STORE, err);
    } else if (r[0].version != 0) {
        struct err busy = {0};
        (void)err_set(&busy, E_BUSY, "the key is still being revoked there");
        key_fail(w, E_BUSY, &busy);
    } else {
        const struct edit x = {.key_state = KEY_SENT};
        entry_change(w->e, edit_key_state, &x, on_step_saved, w);
    }
}

static void send_begin(struct work *w)
{
    char key[REVOKE_KEY_MAX];
    revoke_key(key, w->e->fact.key_gateway, w->e->ws.llm_key_hash);
    struct slice k = slice_str(key);
    store_get(w->s->store, SL("fleet"), &k, 1, on_revocation_read, w);
}

static void on_renewal_recorded(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    if (code != 0) {
        work_fail(w, "record the LLM key", code, err);
        return;
    }
    const struct edit x = {.secrets = w->fresh};
    w->fresh = NULL; /* the change's now */
    entry_change(e, edit_key_renewed, &x, on_step_saved, w);
}

void llm_key_begin(struct entry *e, enum key_step step)
{
    struct work *w = work_new(e, NULL);
    switch (step) {
    case KEY_STEP_MOVE:
        llm_key_revoke_there(e, on_left, w);
        return;
    case KEY_STEP_SEND:
        send_begin(w);
        return;
    case KEY_STEP_MAKE:
        act(w, GATEWAY_KEY_MAKE, on_acted);
        return;
    case KEY_STEP_UNBLOCK:
        w->is_key_unblock = true;
        act(w, GATEWAY_KEY_UNBLOCK, on_acted);
        return;
    case KEY_STEP_RENEW:
        w->fresh = secrets_new(e, false, true);
        llm_key_record(e, w->fresh->llm_key_hash, on_renewal_recorded, w);
        return;
    case KEY_STEP_BLOCK:
        act(w, GATEWAY_KEY_BLOCK, on_blocked);
        return;
    case KEY_STEP_NONE:
        work_end(w);
        return;
    }
}
