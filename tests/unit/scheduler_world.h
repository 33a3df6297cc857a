/* A world for the scheduler's tests: a provider and a pool of connections that are scripted, a store that can
 * lose answers, and a model of what callers were told. Everything random comes from one seed.
 *
 * The pool below takes the place of the HTTP client (the same functions): what is tested here is the
 * scheduler, not the wire. A crash is played like this: from one instant nothing that the controller does has
 * an effect any more, neither at the store nor at the provider (but for what was under way, which may or may
 * not), and then it is closed. */
#ifndef REEVE_TESTS_SCHEDULER_WORLD_H
#define REEVE_TESTS_SCHEDULER_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <utlist.h>

#include "base/core/id.h"
#include "base/core/mem.h"
#include "scheduler/scheduler.h"
#include "tests/unit/scheduler_gateway.h"

#define CONTROLLER "ctl-test"

struct fake_sandbox {
    char *id, *workspace, *tenant, *namespace, *name, *home, *controller;
    uint64_t generation, attempt;
    enum sandbox_state state;
    char token[128], key[128], tz[32];
    unsigned starts; /* of its server's process */
    int asks;        /* health questions until it is up */
    bool is_busy;    /* answers no health question in time */
    unsigned asked;  /* health questions in all */
    struct fake_sandbox *prev, *next;
};
struct fake_home {
    char *id;
    bool is_late; /* a create that took effect long after its answer has made it */
    struct fake_home *prev, *next;
};

enum fake_kind {
    F_CREATE,
    F_DESCRIBE,
    F_LIST,
    F_START,
    F_SUSPEND,
    F_RESUME,
    F_DESTROY,
    F_DESTROY_HOME,
    F_KINDS
};

struct fake_provider {
    struct provider base; /* first */
    struct world *w;
    struct fake_sandbox *sandboxes;
    struct fake_home *homes;
    int faults;             /* percent of calls that go wrong */
    int fail_code[F_KINDS]; /* answer this instead (no effect), fail_times[] times */
    int fail_times[F_KINDS];
    bool acts_anyway[F_KINDS]; /* … but with the effect */
    unsigned calls[F_KINDS];
    unsigned running_now, starting_max, starting_now;
    int asks;           /* health questions before a new server is up */
    int delay_ms;       /* of every answer, at most */
    bool keeps_memory;  /* a suspended sandbox keeps its processes */
    bool is_list_empty; /* a short list that looks complete */
};

struct fake_connector {
    struct connector c; /* first */
    struct fake_provider *p;
    char id[128];
};

struct faulty_store {
    struct store store; /* first */
    struct store *inner;
    struct world *w;
    int lose_percent; /* of commits: answer E_STORE, applied or not */
    int lose_next;    /* 1: not applied, 2: applied; once, for the tenant's partition */
    bool is_down;     /* every call fails */
};

#define OWNED_MAX 4096
struct world {
    struct loop loop;
    struct rnd_seeded rnd;
    struct store *memory;
    struct faulty_store store;
    struct tenancy *tenancy;
    struct fake_provider p[2];
    struct fake_gateway gw;
    struct gateway_keys gateway_keys;
    size_t n_providers;
    struct scheduler *s;
    struct seal_key seal;
    struct scheduler_timing timing;
    int64_t grace_ms, sweep_ms;
    bool is_dead; /* the controller has crashed */
    bool is_closed, is_started;
    uint64_t epoch;
    unsigned changes, audits;
    char last_audit[128];
    char folder[64];
    /* the model */
    char created[OWNED_MAX][40]; /* ids that somebody was told to have created */
    size_t n_created;
    char deleted[OWNED_MAX][40]; /* ids whose delete was acknowledged as finished, home included */
    size_t n_deleted;
    char doomed[OWNED_MAX][40]; /* ids that somebody asked to delete */
    size_t n_doomed;
    bool is_simulation;   /* then: no home goes whose workspace nobody asked to delete */
    unsigned outstanding; /* provider calls under way */
};

static inline uint64_t dice(struct world *w, uint64_t n)
{
    return rnd_below(&w->rnd.rnd, n);
}
static inline char *dup_slice(struct slice s)
{
    return mem_strndup(s.n > 0 ? s.p : "", s.n);
}
static inline bool in_list(char (*list)[40], size_t n, const char *id)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i], id) == 0) {
            return true;
        }
    }
    return false;
}
static inline void list_add(char (*list)[40], size_t *n, const char *id)
{
    assert_true(*n < OWNED_MAX);
    (void)snprintf(list[(*n)++], 40, "%.39s", id);
}

/* --- running the loop --- */
struct ticker {
    struct timer timer;
    bool is_over;
};
static void on_tick(void *data)
{
    ((struct ticker *)data)->is_over = true;
}
static inline struct ticker *ticker_new(struct world *w, int64_t ms)
{
    struct ticker *t = MEM_NEW(struct ticker);
    timer_init(&t->timer, &w->loop, on_tick, t);
    timer_start(&t->timer, ms);
    return t;
}
/* Runs until *flag, at most 20 s. */
static inline void run_until(struct world *w, const bool *flag)
{
    struct ticker *t = ticker_new(w, 20000);
    while (!*flag && !t->is_over) {
        (void)uv_run(&w->loop.uv, UV_RUN_ONCE);
    }
    bool is_over = t->is_over;
    timer_close(&t->timer, mem_free);
    if (is_over) {
        fail_msg("waited 20 s for nothing");
    }
}
static void on_done_flag(void *data)
{
    *(bool *)data = true;
}
static inline void run_ms(struct world *w, int64_t ms)
{
    struct ticker *t = ticker_new(w, ms);
    while (!t->is_over) {
        (void)uv_run(&w->loop.uv, UV_RUN_ONCE);
    }
    timer_close(&t->timer, mem_free);
}
/* Runs until cond(w, data), at most 20 s. */
static inline void run_while(struct world *w, bool (*cond)(struct world *w, void *data), void *data)
{
    int64_t end = clock_mono_ms(w->loop.clock) + 20000;
    while (!cond(w, data)) {
        run_ms(w, 1);
        if (clock_mono_ms(w->loop.clock) > end) {
            fail_msg("waited 20 s for nothing");
        }
    }
}

/* --- the provider --- */
struct fake_call {
    struct fake_provider *p;
    enum fake_kind kind;
    char *id, *token, *key, *tz;
    struct fake_sandbox spec; /* create */
    provider_done_cb done;
    provider_info_cb info;
    provider_list_cb list;
    void *data;
    struct timer timer;
    bool is_late; /* answered; the effect comes still */
    uint64_t epoch;
};

static inline struct fake_sandbox *fake_find(struct fake_provider *p, const char *id)
{
    struct fake_sandbox *x;
    DL_FOREACH (p->sandboxes, x) {
        if (strcmp(x->id, id) == 0) {
            return x;
        }
    }
    return NULL;
}
static inline struct fake_home *fake_home_find(struct fake_provider *p, const char *id)
{
    struct fake_home *h;
    DL_FOREACH (p->homes, h) {
        if (strcmp(h->id, id) == 0) {
            return h;
        }
    }
    return NULL;
}
static inline void fake_sandbox_free(struct fake_provider *p, struct fake_sandbox *x)
{
    DL_DELETE(p->sandboxes, x);
    mem_free(x->id);
    mem_free(x->workspace);
    mem_free(x->tenant);
    mem_free(x->namespace);
    mem_free(x->name);
    mem_free(x->home);
    mem_free(x->controller);
    mem_free(x);
}
static inline void fake_spec_fini(struct fake_sandbox *x)
{
    mem_free(x->id);
    mem_free(x->workspace);
    mem_free(x->tenant);
    mem_free(x->namespace);
    mem_free(x->name);
    mem_free(x->home);
    mem_free(x->controller);
}

/* Started sandboxes of a workspace, over all providers: never two at one time. */
static inline unsigned fake_running_of(struct world *w, const char *workspace)
{
    unsigned n = 0;
    for (size_t i = 0; i < w->n_providers; i++) {
        struct fake_sandbox *x;
        DL_FOREACH (w->p[i].sandboxes, x) {
            n += strcmp(x->workspace, workspace) == 0 && x->state == SANDBOX_RUNNING;
        }
    }
    return n;
}

static inline int fake_do_create(struct fake_call *c)
{
    struct fake_provider *p = c->p;
    if (fake_find(p, c->spec.id) != NULL) {
        return E_EXISTS;
    }
    struct fake_sandbox *x = MEM_NEW(struct fake_sandbox);
    *x = c->spec;
    x->id = mem_strdup(c->spec.id);
    x->workspace = mem_strdup(c->spec.workspace);
    x->tenant = mem_strdup(c->spec.tenant);
    x->namespace = mem_strdup(c->spec.namespace);
    x->name = mem_strdup(c->spec.name);
    x->home = mem_strdup(c->spec.home);
    x->controller = mem_strdup(c->spec.controller);
    x->state = SANDBOX_CREATED;
    DL_APPEND(p->sandboxes, x);
    if (fake_home_find(p, x->home) == NULL) {
        struct fake_home *h = MEM_NEW(struct fake_home);
        h->id = mem_strdup(x->home);
        h->is_late = c->is_late;
        DL_APPEND(p->homes, h);
    }
    return 0;
}

static inline void fake_key_check(struct world *w, const char *text)
{
    char hash[SHA256_HEX_SIZE];
    if (!w->gw.is_managed) {
        return;
    }
    sha256_hex(slice_str(text), hash);
    struct fake_key *k = fake_key_find(&w->gw, w->gw.name, hash);
    assert_non_null(k); /* invariant: no server starts with a key that its gateway does not take */
    assert_false(k->is_blocked);
}

static inline int fake_do_start(struct fake_call *c)
{
    struct fake_sandbox *x = fake_find(c->p, c->id);
    if (x == NULL) {
        return E_NOT_FOUND;
    }
    if (x->state == SANDBOX_EXITED) {
        return E_GONE;
    }
    if (x->state != SANDBOX_RUNNING) {
        assert_int_equal(fake_running_of(c->p->w, x->workspace), 0); /* invariant: at most one at a time */
        fake_key_check(c->p->w, c->key);
        x->state = SANDBOX_RUNNING;
        x->starts++;
        x->asks = c->p->asks;
        (void)snprintf(x->token, sizeof x->token, "%s", c->token);
        (void)snprintf(x->key, sizeof x->key, "%s", c->key);
        (void)snprintf(x->tz, sizeof x->tz, "%s", c->tz);
    }
    return 0;
}

static inline int fake_do(struct fake_call *c)
{
    struct fake_provider *p = c->p;
    struct fake_sandbox *x = c->id != NULL ? fake_find(p, c->id) : NULL;
    switch (c->kind) {
    case F_CREATE:
        return fake_do_create(c);
    case F_START:
    case F_RESUME:
        return fake_do_start(c);
    case F_SUSPEND:
        if (x == NULL) {
            return E_NOT_FOUND;
        }
        if (x->state == SANDBOX_RUNNING) {
            x->state = SANDBOX_SUSPENDED;
        }
        return 0;
    case F_DESTROY:
        if (x != NULL) {
            fake_sandbox_free(p, x);
        }
        return 0;
    case F_DESTROY_HOME: {
        struct fake_home *h = fake_home_find(p, c->id);
        assert_true(!p->w->is_simulation || in_list(p->w->doomed, p->w->n_doomed, c->id));
        if (h != NULL) {
            struct fake_sandbox *s;
            DL_FOREACH (p->sandboxes, s) {
                assert_false(strcmp(s->home, c->id) == 0 && s->state == SANDBOX_RUNNING);
            }
            DL_DELETE(p->homes, h);
            mem_free(h->id);
            mem_free(h);
        }
        return 0;
    }
    case F_DESCRIBE:
    case F_LIST:
    case F_KINDS:
        return 0;
    }
    return 0;
}

static inline struct sandbox_info fake_info(const struct fake_sandbox *x)
{
    return (struct sandbox_info){.id = slice_str(x->id),
                                 .labels = {.controller = slice_str(x->controller),
                                            .tenant = slice_str(x->tenant),
                                            .namespace = slice_str(x->namespace),
                                            .name = slice_str(x->name),
                                            .workspace = slice_str(x->workspace),
                                            .generation = x->generation,
                                            .attempt = x->attempt},
                                 .state = x->state,
                                 .reason =
                                     x->state == SANDBOX_EXITED ? SL("killed by signal 9") : SLICE_EMPTY};
}

static inline void fake_answer(struct fake_call *c, int code)
{
    struct err err = {0};
    struct fake_provider *p = c->p;
    if (code != 0) {
        (void)err_set(&err, code, "scripted: %s", err_title(code));
    }
    if (c->kind == F_DESCRIBE) {
        struct fake_sandbox *x = fake_find(p, c->id);
        struct sandbox_info none = {.id = slice_str(c->id), .state = SANDBOX_ABSENT};
        struct sandbox_info info = x != NULL ? fake_info(x) : none;
        c->info(code, code == 0 ? &info : NULL, code != 0 ? &err : NULL, c->data);
    } else if (c->kind == F_LIST) {
        struct sandbox_info *items = mem_zalloc(sizeof *items * 4096);
        size_t n = 0;
        struct fake_sandbox *x;
        DL_FOREACH (p->sandboxes, x) {
            if (strcmp(x->controller, c->id) == 0 && n < 4096 && !p->is_list_empty) {
                items[n++] = fake_info(x);
            }
        }
        c->list(code, items, code == 0 ? n : 0, code != 0 ? &err : NULL, c->data);
        mem_free(items);
    } else {
        c->done(code, code != 0 ? &err : NULL, c->data);
    }
}

static void on_fake_closed(void *data)
{
    struct fake_call *c = data;
    fake_spec_fini(&c->spec);
    mem_free(c->id);
    mem_free(c->token);
    mem_free(c->key);
    mem_free(c->tz);
    mem_free(c);
}

static void on_fake_due(void *data)
{
    struct fake_call *c = data;
    struct fake_provider *p = c->p;
    struct world *w = p->w;
    bool is_dead = w->is_dead;
    if (c->is_late) { /* the effect of a call that was answered long ago */
        (void)fake_do(c);
        w->outstanding--;
        timer_close(&c->timer, on_fake_closed);
        return;
    }
    if (c->kind == F_START || c->kind == F_RESUME || c->kind == F_CREATE) {
        p->starting_now--;
    }
    int code = 0;
    bool acts = true, is_late = false;
    if (is_dead) {
        acts = c->epoch == w->epoch && dice(w, 2) == 0 && c->epoch != 0;
        code = E_CANCELLED;
    } else if (p->fail_times[c->kind] != 0) {
        p->fail_times[c->kind] -= p->fail_times[c->kind] > 0;
        code = p->fail_code[c->kind];
        acts = p->acts_anyway[c->kind];
    } else if (p->faults > 0 && dice(w, 100) < (uint64_t)p->faults) {
        static const int codes[] = {E_UNKNOWN_OUTCOME, E_UNKNOWN_OUTCOME, E_TIMEOUT,
                                    E_UNAVAILABLE,     E_CAPACITY,        E_BUSY};
        code = codes[dice(w, ARRAY_LEN(codes))];
        bool may_have_acted = code == E_UNKNOWN_OUTCOME || code == E_TIMEOUT;
        acts = may_have_acted && dice(w, 2) == 0;
        is_late = may_have_acted && !acts && c->kind == F_CREATE && dice(w, 2) == 0;
    }
    if (acts) {
        int done = fake_do(c);
        code = code == 0 ? done : code;
    }
    fake_answer(c, code);
    if (is_late) {
        c->is_late = true;
        timer_start(&c->timer, (int64_t)dice(w, 60));
        return;
    }
    w->outstanding--;
    timer_close(&c->timer, on_fake_closed);
}

static inline struct fake_call *fake_call(struct provider *base, enum fake_kind kind, struct slice id,
                                          void *data)
{
    struct fake_provider *p = (struct fake_provider *)(void *)base;
    struct fake_call *c = MEM_NEW(struct fake_call);
    p->calls[kind]++;
    p->w->outstanding++;
    c->p = p;
    c->kind = kind;
    c->id = dup_slice(id);
    c->data = data;
    c->epoch = p->w->is_dead ? 0 : p->w->epoch; /* begun after the crash: never has an effect */
    if (kind == F_START || kind == F_RESUME || kind == F_CREATE) {
        p->starting_now++;
        p->starting_max = p->starting_now > p->starting_max ? p->starting_now : p->starting_max;
    }
    timer_init(&c->timer, &p->w->loop, on_fake_due, c);
    timer_start(&c->timer, (int64_t)dice(p->w, (uint64_t)p->delay_ms + 1));
    return c;
}

static void fake_create(struct provider *p, const struct sandbox_spec *spec, int64_t timeout_ms,
                        provider_done_cb done, void *data)
{
    (void)timeout_ms;
    struct fake_call *c = fake_call(p, F_CREATE, spec->id, data);
    c->done = done;
    c->spec.id = dup_slice(spec->id);
    c->spec.workspace = dup_slice(spec->labels.workspace);
    c->spec.tenant = dup_slice(spec->labels.tenant);
    c->spec.namespace = dup_slice(spec->labels.namespace);
    c->spec.name = dup_slice(spec->labels.name);
    c->spec.controller = dup_slice(spec->labels.controller);
    c->spec.home = dup_slice(spec->home_id);
    c->spec.generation = spec->labels.generation;
    c->spec.attempt = spec->labels.attempt;
}
static void fake_describe(struct provider *p, struct slice id, int64_t timeout_ms, provider_info_cb done,
                          void *data)
{
    (void)timeout_ms;
    fake_call(p, F_DESCRIBE, id, data)->info = done;
}
static void fake_list(struct provider *p, struct slice controller, int64_t timeout_ms, provider_list_cb done,
                      void *data)
{
    (void)timeout_ms;
    fake_call(p, F_LIST, controller, data)->list = done;
}
static inline void fake_server(struct fake_call *c, const struct sandbox_server *server)
{
    c->token = dup_slice(server->token);
    for (size_t i = 0; i < server->n_env; i++) {
        if (slice_eq_str(server->env[i].name, "ANTHROPIC_API_KEY")) {
            c->key = dup_slice(server->env[i].value);
        }
        if (slice_eq_str(server->env[i].name, "TZ")) {
            c->tz = dup_slice(server->env[i].value);
        }
    }
    assert_int_equal(server->port, 2468);
    assert_non_null(c->key);
    if (c->tz == NULL) {
        c->tz = mem_strdup("");
    }
}
static void fake_start(struct provider *p, struct slice id, const struct sandbox_server *server,
                       int64_t timeout_ms, provider_done_cb done, void *data)
{
    (void)timeout_ms;
    struct fake_call *c = fake_call(p, F_START, id, data);
    c->done = done;
    fake_server(c, server);
}
static void fake_resume(struct provider *p, struct slice id, const struct sandbox_server *server,
                        int64_t timeout_ms, provider_done_cb done, void *data)
{
    (void)timeout_ms;
    struct fake_call *c = fake_call(p, F_RESUME, id, data);
    c->done = done;
    fake_server(c, server);
}
static void fake_suspend(struct provider *p, struct slice id, enum suspend_kind kind, int64_t timeout_ms,
                         provider_done_cb done, void *data)
{
    (void)timeout_ms;
    (void)kind;
    fake_call(p, F_SUSPEND, id, data)->done = done;
}
static void fake_destroy(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                         void *data)
{
    (void)timeout_ms;
    fake_call(p, F_DESTROY, id, data)->done = done;
}
static void fake_destroy_home(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                              void *data)
{
    (void)timeout_ms;
    fake_call(p, F_DESTROY_HOME, id, data)->done = done;
}
static struct connector *fake_connector(struct provider *p, struct slice id, uint16_t port)
{
    assert_int_equal(port, 2468);
    struct fake_connector *c = MEM_NEW(struct fake_connector);
    c->p = (struct fake_provider *)(void *)p;
    c->c.data = c;
    (void)snprintf(c->id, sizeof c->id, "%.*s", SL_ARG(id));
    return &c->c;
}
static void fake_connector_release(struct provider *p, struct connector *c)
{
    (void)p;
    mem_free(c);
}
static const struct provider_caps *fake_caps(struct provider *p)
{
    static const struct provider_caps keeps = {.suspend_keeps_memory = true, .limits_note = ""};
    static const struct provider_caps loses = {.suspend_keeps_memory = false, .limits_note = ""};
    return ((struct fake_provider *)(void *)p)->keeps_memory ? &keeps : &loses;
}
static const struct provider_ops fake_ops = {.caps = fake_caps,
                                             .create = fake_create,
                                             .describe = fake_describe,
                                             .list = fake_list,
                                             .start = fake_start,
                                             .suspend = fake_suspend,
                                             .resume = fake_resume,
                                             .destroy = fake_destroy,
                                             .destroy_home = fake_destroy_home,
                                             .connector = fake_connector,
                                             .connector_release = fake_connector_release};

/* --- the pool: the functions of base/net/client.h that the scheduler uses --- */
struct http_pool {
    struct loop *l;
    struct fake_connector to;
    struct http_call *calls;
    bool is_closed;
};
struct http_call {
    struct http_pool *pool;
    struct http_call_events ev;
    void *data;
    char bearer[160];
    bool is_cancelled;
    struct http_call *prev, *next;
};

struct http_pool *http_pool_new(struct loop *l, const struct connector *c,
                                const struct http_pool_limits *limits)
{
    (void)limits;
    struct http_pool *p = MEM_NEW(struct http_pool);
    p->l = l;
    p->to = *(struct fake_connector *)c->data;
    return p;
}
static inline void pool_maybe_free(struct http_pool *p)
{
    if (p->is_closed && p->calls == NULL) {
        mem_free(p);
    }
}
void http_pool_close(struct http_pool *p)
{
    assert_false(p->is_closed);
    p->is_closed = true;
    pool_maybe_free(p);
}
void http_pool_drop_idle(struct http_pool *p)
{
    (void)p;
}
static void on_call(void *data)
{
    struct http_call *c = data;
    struct http_pool *p = c->pool;
    static struct http_response r;
    struct err err = {0};
    if (!c->is_cancelled) {
        struct fake_sandbox *x = p->is_closed ? NULL : fake_find(p->to.p, p->to.id);
        if (x != NULL) {
            x->asked++;
        }
        if (x == NULL || x->state != SANDBOX_RUNNING || x->asks > 0) {
            if (x != NULL && x->asks > 0) {
                x->asks--;
            }
            (void)err_set(&err, p->is_closed ? E_CANCELLED : E_UNAVAILABLE, "connection refused");
            c->ev.on_error(c, err.code, &err, c->data);
        } else if (x->is_busy) {
            (void)err_set(&err, E_TIMEOUT, "no answer in time");
            c->ev.on_error(c, err.code, &err, c->data);
        } else {
            char right[160];
            (void)snprintf(right, sizeof right, "Bearer %s", x->token);
            r.status = strcmp(right, c->bearer) == 0 ? 200 : 401;
            c->ev.on_head(c, &r, c->data);
            c->ev.on_body(c, SL("{\"status\":\"ok\"}"), c->data);
            c->ev.on_end(c, c->data);
        }
    }
    DL_DELETE(p->calls, c);
    mem_free(c);
    pool_maybe_free(p);
}
struct http_call *http_call_start(struct http_pool *p, const struct http_call_options *o,
                                  const struct http_call_events *events, void *data)
{
    assert_false(p->is_closed);
    struct http_call *c = MEM_NEW(struct http_call);
    c->pool = p;
    c->ev = *events;
    c->data = data;
    assert_true(slice_eq_str(o->target, "/v1/health"));
    struct slice bearer = http_find(o->headers, o->n_headers, "authorization");
    (void)snprintf(c->bearer, sizeof c->bearer, "%.*s", SL_ARG(bearer));
    DL_APPEND(p->calls, c);
    loop_defer(p->l, on_call, c);
    return c;
}
void http_call_cancel(struct http_call *c)
{
    c->is_cancelled = true;
}

/* --- the store that loses answers --- */
struct lost {
    struct faulty_store *f;
    store_commit_cb cb;
    store_records_cb records;
    void *data;
    int code;
};
static void on_lost(void *data)
{
    struct lost *x = data;
    struct err err = {0};
    (void)err_set(&err, x->code, "scripted: the store is away");
    if (x->cb != NULL) {
        const struct store_commit_answer a = {.code = x->code, .err = &err};
        x->cb(&a, x->data);
    } else {
        x->records(x->code, NULL, 0, false, &err, x->data);
    }
    mem_free(x);
}
static void on_inner_commit(const struct store_commit_answer *a, void *data)
{
    (void)a;
    on_lost(data);
}
static void faulty_commit(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                          store_commit_cb cb, void *data)
{
    struct faulty_store *f = (struct faulty_store *)(void *)s;
    struct world *w = f->w;
    bool is_tenants = !slice_eq_str(partition, "fleet");
    int lose = f->lose_next != 0 && is_tenants ? f->lose_next : 0;
    if (lose != 0) {
        f->lose_next = 0;
    } else if (f->lose_percent > 0 && dice(w, 100) < (uint64_t)f->lose_percent) {
        lose = 1 + (int)dice(w, 2);
    }
    if (!w->is_dead && !f->is_down && lose == 0) {
        store_commit(f->inner, partition, ops, n, cb, data);
        return;
    }
    struct lost *x = MEM_NEW(struct lost);
    *x = (struct lost){.f = f, .cb = cb, .data = data, .code = E_STORE};
    if (!w->is_dead && !f->is_down && lose == 2) {
        store_commit(f->inner, partition, ops, n, on_inner_commit, x);
    } else {
        loop_defer(&w->loop, on_lost, x);
    }
}
static void faulty_get(struct store *s, struct slice partition, const struct slice *keys, size_t n,
                       store_records_cb cb, void *data)
{
    struct faulty_store *f = (struct faulty_store *)(void *)s;
    if (!f->w->is_dead && !f->is_down) {
        store_get(f->inner, partition, keys, n, cb, data);
        return;
    }
    struct lost *x = MEM_NEW(struct lost);
    *x = (struct lost){.f = f, .records = cb, .data = data, .code = E_STORE};
    loop_defer(&f->w->loop, on_lost, x);
}
static void faulty_scan(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                        size_t limit, store_records_cb cb, void *data)
{
    struct faulty_store *f = (struct faulty_store *)(void *)s;
    if (!f->w->is_dead && !f->is_down) {
        store_scan(f->inner, partition, prefix, after, limit, cb, data);
        return;
    }
    struct lost *x = MEM_NEW(struct lost);
    *x = (struct lost){.f = f, .records = cb, .data = data, .code = E_STORE};
    loop_defer(&f->w->loop, on_lost, x);
}
static const struct store_ops faulty_ops = {.commit = faulty_commit, .get = faulty_get, .scan = faulty_scan};

/* --- the controller around it --- */
static struct store_op world_key_op(struct arena *a, const char *hash_hex, struct slice gateway,
                                    const struct workspace *ws, bool is_revoked, void *data)
{
    (void)data;
    (void)gateway;
    char *key = arena_printf(a, "llmkey/%s", hash_hex);
    char *value = arena_printf(a, "%s %s", is_revoked ? "revoked" : "valid", ws->id);
    return store_put(slice_str(key), slice_str(value));
}
static void world_change(const struct workspace *ws, void *data)
{
    struct world *w = data;
    w->changes++;
    assert_non_null(ws->reason);
    if (ws->state == WS_READY) {
        assert_non_null(ws->server);
        assert_true(ws->sandbox_id.n > 0);
    }
}
static void world_audit(const char *what, struct slice tenant, struct slice subject, struct slice detail,
                        void *data)
{
    struct world *w = data;
    (void)tenant;
    (void)detail;
    w->audits++;
    (void)snprintf(w->last_audit, sizeof w->last_audit, "%s %.*s", what, SL_ARG(subject));
}
static void on_world_started(int code, const struct err *err, void *data)
{
    struct world *w = data;
    if (code != 0) {
        fail_msg("start: %s", err->msg);
    }
    w->is_started = true;
}
static struct slice gateway_of_tenant(void *data, struct slice tenant, bool *ret_is_managed)
{
    struct world *w = data;
    (void)tenant;
    *ret_is_managed = w->gw.is_managed;
    return w->gw.name == NULL ? SLICE_EMPTY : slice_str(w->gw.name);
}
static void on_act(void *data)
{
    struct fake_act *a = data;
    struct world *w = a->w;
    struct fake_gateway *g = &w->gw;
    struct err err = {0};
    int code = 0;
    bool acts = true;
    if (a->is_late) {
        (void)fake_act_do(g, a);
        w->outstanding--;
        timer_free(a->timer);
        mem_free(a);
        return;
    }
    if (w->is_dead) {
        acts = a->epoch == w->epoch && a->epoch != 0 && dice(w, 2) == 0;
        code = E_CANCELLED;
    } else if (g->fail_times[a->what] != 0) {
        g->fail_times[a->what] -= g->fail_times[a->what] > 0;
        code = E_UPSTREAM;
        acts = g->acts_anyway;
    } else if (g->away != NULL && strcmp(g->away, a->gateway) == 0) {
        code = E_TIMEOUT;
        acts = false;
    } else if (g->faults > 0 && dice(w, 100) < (uint64_t)g->faults) {
        code = E_TIMEOUT;
        acts = dice(w, 2) == 0;
    }
    if (acts) {
        int done = fake_act_do(g, a);
        code = code == 0 ? done : code;
    }
    if (code != 0) {
        (void)err_set(&err, code, "%s: 401 scripted", act_names[a->what]);
    }
    g->in_flight--;
    a->done(code, code != 0 ? &err : NULL, a->data);
    if (code != 0 && !acts && g->late_ms > 0) {
        a->is_late = true;
        timer_start(a->timer, g->late_ms);
        return;
    }
    w->outstanding--;
    timer_free(a->timer);
    mem_free(a);
}
static void gateway_act(void *data, enum gateway_key_act what, const struct gateway_key *key,
                        gateway_key_done_cb done, void *done_data)
{
    struct world *w = data;
    struct fake_act *a = MEM_NEW(struct fake_act);
    char hash[SHA256_HEX_SIZE];
    if (what == GATEWAY_KEY_MAKE) {
        sha256_hex(slice_str(key->text), hash);
        assert_string_equal(hash, key->hash);
        assert_true(key->workspace_id.n > 0 && key->tenant.n > 0);
    }
    *a = (struct fake_act){.w = w, .what = what, .done = done, .data = done_data};
    a->epoch = w->is_dead ? 0 : w->epoch;
    (void)snprintf(a->gateway, sizeof a->gateway, "%.*s", SL_ARG(key->gateway));
    (void)snprintf(a->hash, sizeof a->hash, "%s", key->hash);
    w->gw.acts[what]++;
    w->outstanding++;
    w->gw.in_flight++;
    if (w->gw.in_flight > w->gw.most_in_flight) {
        w->gw.most_in_flight = w->gw.in_flight;
    }
    a->timer = timer_new(&w->loop, on_act, a);
    timer_start(a->timer, (int64_t)dice(w, 2));
}
static inline void world_start(struct world *w)
{
    struct provider *providers[2] = {&w->p[0].base, &w->p[1].base};
    w->is_dead = w->is_closed = w->is_started = false;
    w->epoch++;
    const struct scheduler_options o = {.loop = &w->loop,
                                        .store = &w->store.store,
                                        .tenancy = w->tenancy,
                                        .seal_key = &w->seal,
                                        .controller = SL(CONTROLLER),
                                        .epoch = w->epoch,
                                        .providers = providers,
                                        .n_providers = w->n_providers,
                                        .orphan_grace_ms = w->grace_ms,
                                        .sweep_every_ms = w->sweep_ms,
                                        .timing = w->timing,
                                        .starts_max = 4,
                                        .llm_key_op = world_key_op,
                                        .gateway_keys = &w->gateway_keys,
                                        .on_change = world_change,
                                        .on_audit = world_audit,
                                        .data = w};
    struct err err;
    assert_int_equal(scheduler_new(&o, &w->s, &err), 0);
    scheduler_start(w->s, on_world_started, w);
    assert_false(w->is_started);
    run_until(w, &w->is_started);
}
static inline void world_stop(struct world *w)
{
    scheduler_close(w->s, on_done_flag, &w->is_closed);
    run_until(w, &w->is_closed);
    w->s = NULL;
}
/* kill -9 and a new start. */
static inline void world_crash(struct world *w)
{
    w->is_dead = true;
    world_stop(w);
    world_start(w);
}

static const char world_yaml[] =
    "listen: 127.0.0.1:0\n"
    "data_dir: data\n"
    "keys: []\n"
    "providers:\n"
    "  one: {kind: local}\n"
    "  two: {kind: local, uid_range: 300000+1000}\n"
    "templates:\n"
    "  coding: {providers: [one, two], server: {agents: [claude], env: {TZ: UTC}}, idle: {suspend: freeze}}\n"
    "  single: {providers: [one]}\n"
    "  sleepy: {providers: [one], idle: {suspend_after: 1s}}\n"
    "tenants:\n"
    "  acme: {templates: [coding, single, sleepy]}\n"
    "  small: {templates: [single], quotas: {workspaces: 3, running: 2, creates_per_minute: 600}}\n"
    "  slow: {templates: [single], quotas: {creates_per_minute: 2}}\n";

static inline struct tenancy *world_tenancy(struct world *w, const char *yaml)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/reeve.yaml", w->folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(yaml, f) >= 0);
    assert_int_equal(fclose(f), 0);
    struct config_problems problems;
    config_problems_init(&problems);
    struct tenancy *t = NULL;
    if (tenancy_load(path, &problems, &t) != 0) {
        struct buf b = BUF_INIT(65536);
        config_problems_print(&problems, &b);
        fail_msg("configuration: %s", buf_cstr(&b));
    }
    config_problems_fini(&problems);
    (void)unlink(path);
    for (size_t i = 0; i < t->n_templates; i++) {
        if (t->templates[i].suspend_after_ms > 0) {
            t->templates[i].suspend_after_ms = 40; /* shorter than the file may say */
        }
    }
    return t;
}

static inline struct world *world_new(uint64_t seed)
{
    struct world *w = MEM_NEW(struct world);
    rnd_seeded_init(&w->rnd, seed);
    assert_int_equal(loop_init(&w->loop, &clock_system, &w->rnd.rnd), 0);
    (void)snprintf(w->folder, sizeof w->folder, "/tmp/reeve-test-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    w->memory = store_memory_open(&w->loop);
    w->store = (struct faulty_store){.store = {&faulty_ops, &w->loop}, .inner = w->memory, .w = w};
    w->tenancy = world_tenancy(w, world_yaml);
    w->n_providers = 2;
    const char *names[] = {"one", "two"};
    for (size_t i = 0; i < 2; i++) {
        w->p[i].base.ops = &fake_ops;
        w->p[i].base.name = slice_str(names[i]);
        w->p[i].w = w;
        w->p[i].asks = 2;
        w->p[i].delay_ms = 1;
    }
    w->gw.w = w;
    w->gateway_keys = (struct gateway_keys){.of_tenant = gateway_of_tenant, .act = gateway_act, .data = w};
    memset(w->seal.bytes, 7, sizeof w->seal.bytes);
    w->timing = (struct scheduler_timing){.retry_first_ms = 4,
                                          .retry_max_ms = 20,
                                          .breaker_first_ms = 10,
                                          .breaker_max_ms = 20,
                                          .health_deadline_ms = 2000,
                                          .settled_after_ms = 5,
                                          .doubt_first_ms = 2,
                                          .doubt_max_ms = 20,
                                          .late_ms = 25};
    w->grace_ms = 30;
    w->sweep_ms = 10;
    world_start(w);
    return w;
}
static bool is_quiet(struct world *w, void *data)
{
    (void)data;
    return w->outstanding == 0;
}
static inline void world_free(struct world *w)
{
    if (w->s != NULL) {
        world_stop(w);
    }
    run_while(w, is_quiet, NULL);
    for (size_t i = 0; i < 2; i++) {
        while (w->p[i].sandboxes != NULL) {
            fake_sandbox_free(&w->p[i], w->p[i].sandboxes);
        }
        while (w->p[i].homes != NULL) {
            struct fake_home *h = w->p[i].homes;
            DL_DELETE(w->p[i].homes, h);
            mem_free(h->id);
            mem_free(h);
        }
    }
    while (w->gw.keys != NULL) {
        fake_key_drop(&w->gw, w->gw.keys);
    }
    bool is_closed = false;
    store_close(w->memory, on_done_flag, &is_closed);
    run_until(w, &is_closed);
    tenancy_unref(w->tenancy);
    loop_fini(&w->loop);
    (void)rmdir(w->folder);
    mem_free(w);
}

/* --- calls --- */
struct answer {
    struct world *w;
    bool is_done, is_created, is_settled, had_ws;
    int code;
    char id[40], msg[512];
    enum workspace_state state;
    bool is_heap, is_delete; /* of the simulation */
};
static inline void answer_take(const struct workspace_answer *a, struct answer *x)
{
    assert_false(x->is_done);
    x->is_done = true;
    x->code = a->code;
    x->is_created = a->is_created;
    x->is_settled = a->is_settled;
    x->had_ws = a->ws != NULL;
    if (a->ws != NULL) {
        (void)snprintf(x->id, sizeof x->id, "%s", a->ws->id);
        x->state = a->ws->state;
    }
    if (a->code != 0) {
        assert_non_null(a->err);
        (void)snprintf(x->msg, sizeof x->msg, "%.500s", a->err->msg);
    }
    if (a->is_created) {
        assert_false(in_list(x->w->created, x->w->n_created, a->ws->id)); /* invariant: one is told so */
        list_add(x->w->created, &x->w->n_created, a->ws->id);
    }
}
static void on_answer(const struct workspace_answer *a, void *data)
{
    answer_take(a, data);
}
static inline struct workspace_request request(const char *tenant, const char *namespace, const char *name)
{
    return (struct workspace_request){.tenant = slice_str(tenant),
                                      .namespace = slice_str(namespace),
                                      .name = slice_str(name),
                                      .template = SLICE_EMPTY,
                                      .provider = SLICE_EMPTY,
                                      .user = SLICE_EMPTY,
                                      .wait_ms = 10000};
}
static inline struct answer put_request(struct world *w, const struct workspace_request *r)
{
    struct answer a = {.w = w};
    (void)scheduler_find_or_create(w->s, r, on_answer, &a);
    assert_false(a.is_done);
    run_until(w, &a.is_done);
    return a;
}
static inline struct answer put(struct world *w, const char *namespace, const char *name)
{
    struct workspace_request r = request("acme", namespace, name);
    return put_request(w, &r);
}
static inline struct answer del(struct world *w, const char *namespace, const char *name, bool keep_home,
                                int64_t wait_ms)
{
    struct answer a = {.w = w};
    (void)scheduler_delete(w->s, SL("acme"), slice_str(namespace), slice_str(name), keep_home, wait_ms,
                           on_answer, &a);
    assert_false(a.is_done);
    run_until(w, &a.is_done);
    return a;
}
static inline struct workspace *find(struct world *w, const char *namespace, const char *name)
{
    return scheduler_find(w->s, SL("acme"), slice_str(namespace), slice_str(name));
}
static inline struct fake_sandbox *sandbox_of(struct world *w, const struct workspace *ws)
{
    for (size_t i = 0; i < w->n_providers; i++) {
        struct fake_sandbox *x;
        DL_FOREACH (w->p[i].sandboxes, x) {
            if (strcmp(x->workspace, ws->id) == 0 && x->generation == ws->generation) {
                return x;
            }
        }
    }
    return NULL;
}

/* --- what is in the store --- */
struct read {
    bool is_done;
    size_t n;
    char text[8192];
    i128 counter;
};
static void on_read(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                    void *data)
{
    struct read *x = data;
    (void)has_more;
    (void)err;
    assert_int_equal(code, 0);
    for (size_t i = 0; i < n; i++) {
        x->n += r[i].version != 0;
    }
    if (n > 0 && r[0].version != 0) {
        (void)snprintf(x->text, sizeof x->text, "%.*s", SL_ARG(r[0].value));
    }
    x->is_done = true;
}
static inline struct read read_record(struct world *w, const char *partition, const char *key)
{
    struct read x = {.n = 0};
    struct slice k = slice_str(key);
    store_get(w->memory, slice_str(partition), &k, 1, on_read, &x);
    run_until(w, &x.is_done);
    return x;
}
static inline struct read read_scan(struct world *w, const char *partition, const char *prefix)
{
    struct read x = {.n = 0};
    store_scan(w->memory, slice_str(partition), slice_str(prefix), SLICE_EMPTY, 1000, on_read, &x);
    run_until(w, &x.is_done);
    return x;
}
static void on_counters(int code, const struct store_counter *c, size_t n, bool has_more,
                        const struct err *err, void *data)
{
    struct read *x = data;
    (void)has_more;
    (void)err;
    assert_int_equal(code, 0);
    x->counter = n > 0 ? c[0].value : 0;
    x->is_done = true;
}
static inline int64_t read_counter(struct world *w, const char *partition, const char *key)
{
    struct read x = {.n = 0};
    store_counters(w->memory, slice_str(partition), slice_str(key), SLICE_EMPTY, 1, on_counters, &x);
    run_until(w, &x.is_done);
    return (int64_t)x.counter;
}
static void on_log(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                   void *data)
{
    struct read *x = data;
    (void)has_more;
    (void)err;
    assert_int_equal(code, 0);
    for (size_t i = 0; i < n; i++) {
        struct json *j;
        assert_int_equal(e[i].number, i + 1);
        assert_int_equal(json_parse(e[i].value, NULL, &j, NULL), 0);
        size_t at = strlen(x->text);
        (void)snprintf(x->text + at, sizeof x->text - at, "%s%.*s", at > 0 ? " " : "",
                       SL_ARG(json_string(json_get(j, "state"))));
        json_free(j);
    }
    x->n = n;
    x->is_done = true;
}
/* The states in the workspace's log of events: "provisioning bootstrapping ready". */
static inline struct read read_events(struct world *w, const char *partition, const char *id)
{
    struct read x = {.n = 0};
    char log[64];
    (void)snprintf(log, sizeof log, "events/%s", id);
    store_log_read(w->memory, slice_str(partition), slice_str(log), 0, 1000, on_log, &x);
    run_until(w, &x.is_done);
    return x;
}
static inline const char *tenant_id(struct world *w, const char *name)
{
    const struct config_tenant *t = tenancy_tenant(w->tenancy, slice_str(name));
    assert_non_null(t);
    return t->id;
}

#endif
