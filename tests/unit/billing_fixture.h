/* billing_fixture: a counting-house on either engine, with a store that fails on demand, and the doings of
 * tests. For test_billing.c, test_budget.c and test_export.c. */
#ifndef REEVE_TESTS_BILLING_FIXTURE_H
#define REEVE_TESTS_BILLING_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "billing/billing.h"
#include "billing/price.h"

/* An event as tests write it; `key` counts the rows of `keys`. */
struct mixed_event {
    int key;
    const char *id, *model, *time;
    uint64_t tokens[TOKEN_KINDS];
    bool is_failure;
};

enum { WAIT_S = 20 };
#define NOW "2026-11-05T12:00:00Z"

static const struct {
    const char *tenant, *namespace, *workspace, *user;
} keys[] = {{"acme", "alice", "dev", "alice@example.org"},
            {"acme", "bob", "lab", "=bob"},
            {"acme", "alice", "two", ""},
            {"beta", "zoe", "dev", "zoe, \"z\""}};

/* --- a store that fails on demand --- */

enum fault { FAULT_NONE, FAULT_REFUSED, FAULT_ANSWER_LOST };

struct faulty {
    struct store store; /* first */
    struct store *inner;
    enum fault fault;
    int commits_left; /* before the fault */
    size_t commits;
    struct held *held; /* an answer about counters that is on its way for long */
    bool is_holding;   /* hold the next one */
};

/* What counters said, kept until held_release. */
struct held {
    struct faulty *store;
    struct arena arena;
    struct store_counter *counters;
    size_t n;
    store_counters_cb cb;
    void *data;
};

struct lost {
    store_commit_cb cb;
    void *data;
};

static inline void on_lost(const struct store_commit_answer *a, void *data)
{
    struct lost *x = data;
    struct err err = {0};
    (void)a; /* it went well, but nobody will hear of it */
    err_set(&err, E_STORE, "connection lost");
    x->cb(&(struct store_commit_answer){.code = E_STORE, .err = &err}, x->data);
    mem_free(x);
}

static inline void faulty_commit(struct store *s, struct slice partition, const struct store_op *ops,
                                 size_t n, store_commit_cb cb, void *data)
{
    struct faulty *f = (struct faulty *)s;
    bool is_hit = f->fault != FAULT_NONE && f->commits_left-- == 0;
    f->commits++;
    if (!is_hit) {
        store_commit(f->inner, partition, ops, n, cb, data);
        return;
    }
    struct lost *x = MEM_NEW(struct lost);
    *x = (struct lost){cb, data};
    if (f->fault == FAULT_ANSWER_LOST)
        store_commit(f->inner, partition, ops, n, on_lost, x);
    else /* some read that changes nothing, so that the answer comes in a later turn */
        store_commit(f->inner, partition, ops, 0, on_lost, x);
}

static inline void faulty_get(struct store *s, struct slice partition, const struct slice *k, size_t n,
                              store_records_cb cb, void *data)
{
    store_get(((struct faulty *)s)->inner, partition, k, n, cb, data);
}

static inline void faulty_scan(struct store *s, struct slice partition, struct slice prefix,
                               struct slice after, size_t limit, store_records_cb cb, void *data)
{
    store_scan(((struct faulty *)s)->inner, partition, prefix, after, limit, cb, data);
}

static inline void on_held(int code, const struct store_counter *c, size_t n, bool has_more,
                           const struct err *err, void *data)
{
    struct held *h = data;
    (void)err;
    assert_int_equal(code, 0);
    assert_false(has_more);
    h->counters = arena_alloc(&h->arena, (n + 1) * sizeof(*h->counters));
    h->n = n;
    for (size_t i = 0; i < n; i++)
        h->counters[i] = (struct store_counter){arena_slice(&h->arena, c[i].key), c[i].value};
    h->store->held = h;
}

static inline void held_release(struct faulty *f)
{
    struct held *h = f->held;
    f->held = NULL;
    h->cb(0, h->counters, h->n, false, NULL, h->data);
    arena_fini(&h->arena);
    mem_free(h);
}

static inline void faulty_counters(struct store *s, struct slice partition, struct slice prefix,
                                   struct slice after, size_t limit, store_counters_cb cb, void *data)
{
    struct faulty *f = (struct faulty *)s;
    if (f->is_holding) {
        struct held *h = MEM_NEW(struct held);
        *h = (struct held){.store = f, .arena = ARENA_INIT, .cb = cb, .data = data};
        f->is_holding = false;
        store_counters(f->inner, partition, prefix, after, limit, on_held, h);
        return;
    }
    store_counters(f->inner, partition, prefix, after, limit, cb, data);
}

static inline void faulty_log_read(struct store *s, struct slice partition, struct slice log, uint64_t after,
                                   size_t limit, store_log_cb cb, void *data)
{
    store_log_read(((struct faulty *)s)->inner, partition, log, after, limit, cb, data);
}

static const struct store_ops faulty_ops = {.commit = faulty_commit,
                                            .get = faulty_get,
                                            .scan = faulty_scan,
                                            .counters = faulty_counters,
                                            .log_read = faulty_log_read};

/* --- fixture --- */

struct fixture {
    bool is_sqlite;
    char dir[64];
    struct clock_manual clock;
    struct loop loop;
    struct store *engine;
    struct faulty store;
    struct tenancy *tenancy;
    struct billing *billing;
    bool is_done;
    int code;
    struct err err;
    struct buf text; /* what the last query or export gave */
    /* the last batch's answer */
    struct {
        int code;
        size_t accepted, duplicates, n_rejected;
        size_t index[2 * BILLING_BATCH_MAX]; /* LiteLLM's are larger */
        char codes[2 * BILLING_BATCH_MAX][16];
        char detail[256]; /* of the first */
        struct err err;
        size_t answers;
    } batch;
    uint64_t rows;
    struct amount total;
};

static inline void until(struct fixture *f, const bool *flag)
{
    uint64_t end = uv_hrtime() + (uint64_t)WAIT_S * 1000000000u;
    while (!*flag) {
        if (uv_hrtime() > end)
            fail_msg("nothing happened for %d s", WAIT_S);
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    }
}

static inline void on_done(int code, const struct err *err, void *data)
{
    struct fixture *f = data;
    f->code = code;
    if (err != NULL)
        f->err = *err;
    f->is_done = true;
}

static inline void on_commit(const struct store_commit_answer *a, void *data)
{
    on_done(a->code, a->err, data);
}

static inline void on_closed(void *data)
{
    ((struct fixture *)data)->is_done = true;
}

static inline void file_write(struct fixture *f, const char *name, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_true(fputs(text, out) >= 0);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

#define PRICES_MORE                                                                                          \
    "  openai/gpt-5: {input: 1.25, output: 10, cache_read: 0.125}\n"                                         \
    "  tiny: {input: 0.000000000001, output: 0.002, cache_read: 0.000000000003, cache_write: "               \
    "0.000000000007}\n"                                                                                      \
    "  'odd, \"quoted\"': {input: 0.123456789012, output: 9.876543210987, cache_read: 0.01, cache_write: "   \
    "0.02}\n"                                                                                                \
    "  huge: {input: 100000000000000000000000000, output: 1}\n"
#define PRICES                                                                                               \
    "currency: USD\nversion: \"2026-11-01\"\nmodels:\n"                                                      \
    "  claude-sonnet-4-5: {input: 3, output: 15, cache_read: 0.30, cache_write: 3.75}\n" PRICES_MORE
#define BUDGET_MONTH                                                                                         \
    "      - {name: month, scope: tenant, limit: 500 USD, window: month, timezone: Europe/Berlin}\n"
#define BUDGET_EACH                                                                                          \
    "      - {name: each, scope: namespace, limit: 10 USD, window: day, timezone: America/New_York}\n"

static inline struct tenancy *tenancy_of(struct fixture *f, const char *prices, const char *acme_budgets)
{
    struct buf text = BUF_INIT(100000), said = BUF_INIT(100000);
    char path[128];
    file_write(f, "prices.yaml", prices);
    file_write(f, "secret", "a-secret-of-some-length-0123456789\n");
    (void)buf_str(&text, "listen: 127.0.0.1:8700\ndata_dir: data\nstore: sqlite\n"
                         "providers: {local: {kind: local}}\n"
                         "gateways:\n"
                         "  gw: {kind: plain, url: \"http://127.0.0.1:4000\", secret: file:secret}\n"
                         "  gw2: {kind: plain, url: \"http://127.0.0.1:4001\", secret: file:secret}\n"
                         "  lite: {kind: litellm, url: \"http://127.0.0.1:4002\", secret: file:secret}\n"
                         "prices: {file: prices.yaml, unpriced: deny}\n"
                         "templates: {coding: {providers: [local]}}\n"
                         "tenants:\n  acme:\n    gateway: gw\n    templates: [coding]\n");
    if (acme_budgets[0] != '\0')
        (void)buf_printf(&text, "    budgets:\n%s", acme_budgets);
    (void)buf_printf(&text,
                     "  beta:\n    gateway: gw\n    templates: [coding]\n    budgets:\n"
                     "      - {name: week, scope: tenant, limit: 100 %s, window: week, timezone: UTC}\n",
                     strncmp(prices, "currency: EUR", 13) == 0 ? "EUR" : "USD");
    file_write(f, "reeve.yaml", buf_cstr(&text));
    (void)snprintf(path, sizeof(path), "%s/reeve.yaml", f->dir);
    struct config_problems problems;
    struct tenancy *t = NULL;
    config_problems_init(&problems);
    if (tenancy_load(path, &problems, &t) != 0) {
        config_problems_print(&problems, &said);
        fail_msg("%s", buf_cstr(&said));
    }
    config_problems_fini(&problems);
    buf_fini(&text);
    buf_fini(&said);
    return t;
}

static inline void engine_open(struct fixture *f)
{
    char path[128];
    struct err err = {0};
    (void)snprintf(path, sizeof(path), "%s/reeve.db", f->dir);
    if (!f->is_sqlite)
        f->engine = store_memory_open(&f->loop);
    else if (store_sqlite_open(&f->loop, path, &f->engine, &err) != 0)
        fail_msg("%s", err.msg);
    f->store = (struct faulty){.store = {&faulty_ops, &f->loop}, .inner = f->engine};
}

static inline void billing_up(struct fixture *f)
{
    struct config_problems problems;
    config_problems_init(&problems);
    assert_int_equal(billing_open(&f->loop, &f->store.store, f->tenancy, &problems, &f->billing), 0);
    config_problems_fini(&problems);
    f->is_done = false;
    billing_start(f->billing, on_done, f);
    assert_false(f->is_done);
    until(f, &f->is_done);
}

static inline void billing_down(struct fixture *f)
{
    billing_close(f->billing);
    f->billing = NULL;
}

static inline int setup(void **state, bool is_sqlite)
{
    struct fixture *f = MEM_NEW(struct fixture);
    f->is_sqlite = is_sqlite;
    memcpy(f->dir, "/tmp/reeve-billing-XXXXXX", 26);
    assert_non_null(mkdtemp(f->dir));
    int64_t now = 0;
    assert_int_equal(time_parse(SL(NOW), &now), 0);
    clock_manual_init(&f->clock, now);
    assert_int_equal(loop_init(&f->loop, &f->clock.clock, &rnd_system), 0);
    buf_init(&f->text, 64u << 20);
    engine_open(f);
    f->tenancy = tenancy_of(f, PRICES, BUDGET_MONTH BUDGET_EACH);
    billing_up(f);
    assert_int_equal(f->code, 0);
    *state = f;
    return 0;
}

static inline int setup_memory(void **state)
{
    return setup(state, false);
}

static inline int setup_sqlite(void **state)
{
    return setup(state, true);
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    static const char *const files[] = {"reeve.db",      "reeve.db-wal",  "reeve.db-shm",
                                        "reeve.db.lock", "reeve.db-lock", "reeve.lock",
                                        "reeve.yaml",    "prices.yaml",   "secret"};
    billing_down(f);
    f->is_done = false;
    store_close(f->engine, on_closed, f);
    until(f, &f->is_done);
    loop_fini(&f->loop);
    tenancy_unref(f->tenancy);
    buf_fini(&f->text);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", f->dir, files[i]);
        (void)unlink(path); /* those that are there */
    }
    (void)rmdir(f->dir);
    mem_free(f);
    return 0;
}

/* --- doing things --- */

static inline void key_hash(int key, char out[SHA256_HEX_SIZE])
{
    char text[64];
    (void)snprintf(text, sizeof(text), "sk-reeve-%d", key);
    sha256_hex(slice_str(text), out);
}

static inline void key_put(struct fixture *f, int key, const char *gateway)
{
    struct arena a = ARENA_INIT;
    char hash[SHA256_HEX_SIZE], id[32];
    key_hash(key, hash);
    (void)snprintf(id, sizeof(id), "ws_%d", key);
    struct billing_key_owner o = {.tenant = slice_str(keys[key].tenant),
                                  .namespace = slice_str(keys[key].namespace),
                                  .workspace = slice_str(keys[key].workspace),
                                  .workspace_id = slice_str(id),
                                  .user = slice_str(keys[key].user),
                                  .gateway = slice_str(gateway),
                                  .made_at_ms = f->clock.wall_ms};
    struct store_op op = billing_key_op(&a, hash, &o);
    f->is_done = false;
    store_commit(f->engine, SL("fleet"), &op, 1, on_commit, f);
    until(f, &f->is_done);
    assert_int_equal(f->code, 0);
    arena_fini(&a);
}

static inline void all_keys_put(struct fixture *f)
{
    for (int i = 0; i < (int)ARRAY_LEN(keys); i++)
        key_put(f, i, "gw");
}

static inline void event_json(struct jsonw *w, const struct mixed_event *e)
{
    char hash[SHA256_HEX_SIZE];
    key_hash(e->key, hash);
    jsonw_object(w);
    jsonw_kstr(w, "id", e->id);
    jsonw_kstr(w, "key_hash", hash);
    jsonw_kstr(w, "model", e->model);
    jsonw_kstr(w, "time", e->time);
    jsonw_key(w, "tokens");
    jsonw_object(w);
    for (int k = 0; k < TOKEN_KINDS; k++)
        jsonw_ku64(w, token_kind_names[k], e->tokens[k]);
    jsonw_object_end(w);
    if (e->is_failure)
        jsonw_kstr(w, "status", "failure");
    jsonw_object_end(w);
}

static inline void on_batch(const struct billing_batch_answer *a, void *data)
{
    struct fixture *f = data;
    f->batch.code = a->code;
    f->batch.accepted = a->accepted;
    f->batch.duplicates = a->duplicates;
    f->batch.n_rejected = a->n_rejected;
    for (size_t i = 0; i < a->n_rejected; i++) {
        f->batch.index[i] = a->rejected[i].index;
        (void)snprintf(f->batch.codes[i], sizeof(f->batch.codes[i]), "%s", a->rejected[i].code);
    }
    (void)snprintf(f->batch.detail, sizeof(f->batch.detail), "%s",
                   a->n_rejected > 0 ? a->rejected[0].detail : "");
    if (a->err != NULL)
        f->batch.err = *a->err;
    f->batch.answers++;
    f->is_done = true;
}

static inline void post_start(struct fixture *f, const char *gateway, struct slice body)
{
    f->is_done = false;
    char *copy = mem_strndup(body.p, body.n);
    billing_usage_post(f->billing, tenancy_gateway(f->tenancy, slice_str(gateway)), slice_of(copy, body.n),
                       on_batch, f);
    mem_free(copy); /* it keeps nothing of it */
    assert_false(f->is_done);
}

static inline void post_text(struct fixture *f, const char *gateway, const char *body)
{
    post_start(f, gateway, slice_str(body));
    until(f, &f->is_done);
}

static inline void body_of(struct buf *out, const struct mixed_event *e, size_t n)
{
    struct jsonw w;
    buf_reset(out);
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_key(&w, "events");
    jsonw_array(&w);
    for (size_t i = 0; i < n; i++)
        event_json(&w, &e[i]);
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    assert_false(out->is_full);
}

static inline void post(struct fixture *f, const struct mixed_event *e, size_t n)
{
    struct buf body = BUF_INIT(4u << 20);
    body_of(&body, e, n);
    post_start(f, "gw", buf_view(&body));
    until(f, &f->is_done);
    buf_fini(&body);
}

static inline void assert_answer(const struct fixture *f, size_t accepted, size_t duplicates,
                                 const char *rejected)
{
    char codes[1024] = "";
    for (size_t i = 0; i < f->batch.n_rejected && i < 20; i++) {
        size_t at = strlen(codes);
        (void)snprintf(codes + at, sizeof(codes) - at, "%s%s", i > 0 ? " " : "", f->batch.codes[i]);
    }
    if (f->batch.code != 0)
        fail_msg("batch failed: %s", f->batch.err.msg);
    assert_int_equal(f->batch.accepted, accepted);
    assert_int_equal(f->batch.duplicates, duplicates);
    assert_string_equal(codes, rejected);
}

static inline void on_json(int code, struct slice json, const struct err *err, void *data)
{
    struct fixture *f = data;
    buf_reset(&f->text);
    (void)buf_slice(&f->text, json);
    on_done(code, err, data);
}

static inline const char *usage(struct fixture *f, const char *tenant, const char *namespace,
                                const char *workspace, const char *from, const char *to, const char *by)
{
    struct billing_usage_query q = {.tenant = slice_str(tenant),
                                    .namespace = slice_str(namespace),
                                    .workspace_id = slice_str(workspace),
                                    .by = slice_str(by)};
    assert_int_equal(time_parse(slice_str(from), &q.from_ms), 0);
    assert_int_equal(time_parse(slice_str(to), &q.to_ms), 0);
    f->is_done = false;
    billing_usage_query(f->billing, &q, on_json, f);
    until(f, &f->is_done);
    return buf_cstr(&f->text);
}

static inline size_t suspense(struct fixture *f, const char *tenant, size_t limit)
{
    f->is_done = false;
    struct billing_suspense_query q = {.tenant = slice_str(tenant), .limit = limit};
    billing_suspense(f->billing, &q, on_json, f);
    until(f, &f->is_done);
    assert_int_equal(f->code, 0);
    struct json *root = NULL;
    struct json_limits big = {.bytes_max = 64u << 20, .nodes_max = 1000000};
    assert_int_equal(json_parse(buf_view(&f->text), &big, &root, NULL), 0);
    size_t n = json_count(json_get(root, "items"));
    json_free(root);
    return n;
}

struct exporting {
    struct fixture *f;
    struct billing_export *export;
    size_t parts;
};

static inline void on_part(struct slice bytes, void *data)
{
    struct exporting *x = data;
    assert_int_equal(buf_slice(&x->f->text, bytes), 0);
    x->parts++;
    if (x->export != NULL)
        billing_export_next(x->export);
}

static inline void on_end(int code, uint64_t rows, struct amount total, const struct err *err, void *data)
{
    struct exporting *x = data;
    x->f->rows = rows;
    x->f->total = total;
    on_done(code, err, x->f);
}

static inline const char *export(struct fixture *f, const char *tenant, const char *period,
                                 enum export_format format)
{
    static const struct export_events ev = {on_part, on_end};
    struct exporting x = {.f = f};
    buf_reset(&f->text);
    f->is_done = false;
    x.export = billing_export_start(f->billing, slice_str(tenant), slice_str(period), format, &ev, &x);
    assert_false(f->is_done);
    until(f, &f->is_done);
    return buf_cstr(&f->text);
}

static inline struct amount usd(const char *text)
{
    struct amount a;
    assert_int_equal(amount_of(slice_str(text), SL("USD"), &a, NULL), 0);
    return a;
}

static inline void assert_amount(struct amount a, const char *expected, const char *what)
{
    char text[I128_TEXT_MAX];
    (void)amount_format(a, text);
    if (strcmp(text, expected) != 0)
        fail_msg("%s: %s, expected %s", what, text, expected);
}

static inline struct billing_budget_view budget(struct fixture *f, const char *tenant, const char *name,
                                                const char *namespace)
{
    struct billing_budget_view v;
    if (billing_budget_find(f->billing, slice_str(tenant), slice_str(name), slice_str(namespace), &v) == 0)
        return v;
    return (struct billing_budget_view){.spent = usd("0"), .unsettled = usd("0"), .limit = usd("0")};
}

static inline void reload(struct fixture *f, const char *prices, const char *acme_budgets)
{
    struct tenancy *t = tenancy_of(f, prices, acme_budgets);
    f->is_done = false;
    billing_reload(f->billing, t, on_done, f);
    assert_false(f->is_done);
    until(f, &f->is_done);
    tenancy_unref(f->tenancy);
    f->tenancy = t;
}

static const struct mixed_event plain_call = {
    0, "req-1", "claude-sonnet-4-5", "2026-11-05T11:00:00Z", {1000, 100, 10, 4}, false};
/* 1000 × 0.000003 + 100 × 0.000015 + 10 × 0.0000003 + 4 × 0.00000375 */
#define PLAIN_COST "0.004518"

/* The CSV's cost column, added up by its own reading of the file. */
static inline struct amount csv_sum(const char *csv)
{
    struct amount sum = usd("0");
    const char *p = strchr(csv, '\n') + 1;
    while (*p != '\0') {
        unsigned column = 0;
        bool is_quoted = false;
        const char *cell = p;
        for (;; p++) {
            if (*p == '"')
                is_quoted = !is_quoted;
            if (is_quoted || (*p != ',' && *p != '\n'))
                continue;
            if (column == 18) {
                struct amount a;
                assert_int_equal(amount_of(slice_of(cell, (size_t)(p - cell)), SL("USD"), &a, NULL), 0);
                assert_int_equal(amount_add(sum, a, &sum), 0);
            }
            column++;
            cell = p + 1;
            if (*p == '\n')
                break;
        }
        assert_int_equal(column, 22);
        p++;
    }
    return sum;
}

/* One row of a test list for each engine. */
#define ON_BOTH(test)                                                                                        \
    {#test "/memory", test, setup_memory, teardown, NULL},                                                   \
    {                                                                                                        \
#test "/sqlite", test, setup_sqlite, teardown, NULL                                                  \
    }

#endif
