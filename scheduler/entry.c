/* A workspace in memory: made, shown to others, freed. Its texts that never change lie in one allocation. */
#include "scheduler/entry.h"

#include <string.h>

#include "base/core/mem.h"

static struct slice text_put(char **at, struct slice s)
{
    struct slice r = {*at, s.n};
    if (s.n > 0) {
        memcpy(*at, s.p, s.n);
    }
    (*at)[s.n] = '\0';
    *at += s.n + 1;
    return r;
}

static size_t pairs_bytes(const struct workspace_pair *p, size_t n)
{
    size_t bytes = n * sizeof *p;
    for (size_t i = 0; i < n; i++) {
        bytes += p[i].name.n + p[i].value.n + 2;
    }
    return bytes;
}

static void pairs_put(char **at, struct workspace_pair *to, const struct workspace_pair *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        to[i].name = text_put(at, from[i].name);
        to[i].value = text_put(at, from[i].value);
    }
}

struct entry *entry_new(struct tenant *t, struct slice id, const struct entry_texts *x)
{
    struct entry *e = MEM_NEW(struct entry);
    e->s = t->s;
    e->tenant = t;
    must(id.n < sizeof e->ws.id);
    memcpy(e->ws.id, id.p, id.n);
    bool has_own_home = slice_eq(x->home_id, id);
    size_t bytes = pairs_bytes(x->labels, x->n_labels) + pairs_bytes(x->env, x->n_env) + x->namespace.n +
                   x->name.n + x->user.n + (has_own_home ? 0 : x->home_id.n + 1) + 3;
    e->text = mem_alloc(bytes);
    char *at = e->text;
    /* the arrays first: they want the alignment of the allocation */
    e->ws.labels = (struct workspace_pair *)(void *)at;
    at += x->n_labels * sizeof *e->ws.labels;
    e->ws.env = (struct workspace_pair *)(void *)at;
    at += x->n_env * sizeof *e->ws.env;
    e->ws.n_labels = x->n_labels;
    e->ws.n_env = x->n_env;
    e->ws.namespace = text_put(&at, x->namespace);
    e->ws.name = text_put(&at, x->name);
    e->ws.user = text_put(&at, x->user);
    e->home_id = has_own_home ? slice_str(e->ws.id) : text_put(&at, x->home_id);
    pairs_put(&at, e->ws.labels, x->labels, x->n_labels);
    pairs_put(&at, e->ws.env, x->env, x->n_env);
    must(at == e->text + bytes);
    e->ws.tenant = slice_str(t->name);
    e->ws.template = scheduler_intern(t->s, x->template);
    e->provider_asked = scheduler_intern(t->s, x->provider_asked);
    e->ws.provider = SLICE_EMPTY;
    e->ws.sandbox_id = SLICE_EMPTY;
    e->ws.reason = "";
    e->fact.provider = SLICE_EMPTY;
    return e;
}

void entry_free(struct entry *e)
{
    if (e == NULL) {
        return;
    }
    must(e->work == NULL && e->changes == NULL && e->waits == NULL && e->due_at == 0 && !e->in_boot_queue);
    entry_disconnect(e);
    mem_wipe(e->ws.server_token, sizeof e->ws.server_token);
    mem_free(e->sealed_token);
    mem_free(e->sealed_key);
    mem_free(e->old_key_hash);
    mem_free(e->reason);
    mem_free(e->text);
    mem_free(e);
}

void entry_reason(struct entry *e, const char *reason)
{
    if (strcmp(e->ws.reason, reason) == 0) {
        return;
    }
    mem_free(e->reason);
    e->reason = reason[0] == '\0' ? NULL : mem_strndup(reason, strnlen(reason, REASON_MAX - 1));
    e->ws.reason = e->reason == NULL ? "" : e->reason;
}

void entry_draft(const struct entry *e, struct draft *d)
{
    memset(d, 0, sizeof *d);
    d->fact = e->fact;
    (void)strncpy(d->reason, e->ws.reason, sizeof d->reason - 1);
}

void entry_secrets_take(struct entry *e, struct secrets *x)
{
    if (x->sealed_token != NULL) {
        mem_free(e->sealed_token);
        e->sealed_token = x->sealed_token;
        x->sealed_token = NULL;
        memcpy(e->ws.server_token, x->token, sizeof e->ws.server_token);
    }
    if (x->sealed_key != NULL) {
        mem_free(e->sealed_key);
        e->sealed_key = x->sealed_key;
        x->sealed_key = NULL;
        if (e->ws.llm_key_hash[0] != '\0') {
            mem_free(e->old_key_hash);
            e->old_key_hash = mem_strdup(e->ws.llm_key_hash);
        }
        memcpy(e->ws.llm_key_hash, x->llm_key_hash, sizeof e->ws.llm_key_hash);
    }
}

static enum workspace_state visible_state(const struct entry *e)
{
    /* Only what this process has seen healthy is ready: after a start or a suspicion it is looked at first.
     */
    if (e->fact.state == WS_READY && !e->is_reached) {
        return WS_BOOTSTRAPPING;
    }
    return e->fact.state;
}

void entry_note(struct entry *e, const char *reason)
{
    if (strcmp(e->ws.reason, reason) != 0) {
        entry_reason(e, reason);
        entry_view(e, true);
    }
}

static void sandbox_name_make(struct entry *e)
{
    struct buf b = BUF_INIT(sizeof e->sandbox_name - 1);
    (void)buf_printf(&b, "%s-g%llu", e->ws.id, (unsigned long long)e->fact.generation);
    memset(e->sandbox_name, 0, sizeof e->sandbox_name);
    for (size_t i = 0; i < b.n; i++) {
        e->sandbox_name[i] = b.p[i] == '_' ? '-' : b.p[i];
    }
    buf_fini(&b);
}

void entry_view(struct entry *e, bool is_told)
{
    struct workspace *ws = &e->ws;
    enum workspace_state was = ws->state, now = visible_state(e);
    if (was != now) {
        if (was != WS_ABSENT) {
            e->tenant->by_state[was]--;
            e->s->stats.by_state[was]--;
        }
        if (now != WS_ABSENT) {
            e->tenant->by_state[now]++;
            e->s->stats.by_state[now]++;
        }
    }
    ws->state = now;
    ws->wish = e->fact.wish;
    ws->suspend_cause = e->fact.cause;
    ws->generation = e->fact.generation;
    ws->attempt = e->fact.attempt;
    ws->provider = e->fact.provider;
    ws->updated_at_ms = e->fact.updated_at_ms;
    ws->ready_at_ms = e->fact.ready_at_ms;
    ws->retry_at_ms = e->fact.retry_at_ms;
    ws->event_seq = e->fact.event_seq;
    if (now != WS_READY && now != WS_BOOTSTRAPPING) {
        entry_disconnect(e);
    }
    sandbox_name_make(e);
    ws->sandbox_id = e->fact.has_sandbox ? slice_str(e->sandbox_name) : SLICE_EMPTY;
    if (is_told && e->s->o.on_change != NULL) {
        e->s->o.on_change(ws, e->s->o.data);
    }
}

void entry_take(struct entry *e, const struct draft *d, uint64_t version)
{
    bool is_news = d->fact.state != e->fact.state || strcmp(d->reason, e->ws.reason) != 0 ||
                   d->fact.wish != e->fact.wish;
    if (d->fact.wish != e->fact.wish ||
        (d->fact.renew == RENEW_CREDENTIALS && e->fact.renew != RENEW_CREDENTIALS) ||
        (d->fact.state == WS_PROVISIONING && e->fact.state == WS_FAILED)) {
        e->failures = 0; /* somebody asked: at once, not when the backoff says */
        e->retry_ms = 0;
    }
    if (d->fact.state != WS_READY) {
        e->is_reached = false;
    } else if (e->fact.state != WS_READY) {
        e->is_reached = e->ws.server != NULL; /* a health answer led here; the close may have come since */
        e->ready_ms = now_mono(e->s);
    }
    if (d->fact.generation != e->fact.generation || d->fact.wish != e->fact.wish) {
        e->healing_ms = 0;
    }
    if (d->fact.generation != e->fact.generation) {
        doubt_reset(e); /* of the former sandbox; how often there is a new one is paced by its failures */
    }
    if (d->fact.wish != e->fact.wish || d->fact.key_state != e->fact.key_state || d->fresh != NULL) {
        e->is_key_live = false;
    }
    e->fact = d->fact;
    e->ws.version = version;
    entry_reason(e, d->reason);
    if (d->fresh != NULL) {
        entry_secrets_take(e, d->fresh);
    }
    if (d->forgets_old_key) {
        mem_free(e->old_key_hash);
        e->old_key_hash = NULL;
    }
    entry_view(e, is_news);
}

struct released {
    struct scheduler *s;
    struct provider *p;
    struct connector *c;
};

static void on_release(void *data)
{
    struct released *r = data;
    struct scheduler *s = r->s;
    r->p->ops->connector_release(r->p, r->c);
    mem_free(r);
    scheduler_idle(s);
}

void entry_disconnect(struct entry *e)
{
    if (e->ws.server == NULL) {
        return;
    }
    http_pool_close(e->ws.server);
    e->ws.server = NULL;
    if (e->work != NULL) {
        health_drop(e->work);
    }
    struct place *p = place_find(e->s, e->fact.provider);
    must(p != NULL); /* providers outlive the scheduler */
    /* Later: the pool gives back its connector only after its own calls have been told. */
    struct released *r = MEM_NEW(struct released);
    r->s = e->s;
    r->p = p->p;
    r->c = e->connector;
    e->connector = NULL;
    scheduler_busy(e->s);
    loop_defer(e->s->loop, on_release, r);
}
