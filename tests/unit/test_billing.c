/* billing: usage in, ledger, budgets and exports out; on the memory engine and on SQLite.
 *
 * The largest test is data: 500 mixed events and what a ledger must say after them, worked out by another
 * implementation (data/billing/usage_mixed.py). */
#include "billing/billing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "billing/price.h"

struct mixed_event {
    int key;
    const char *id, *model, *time;
    uint64_t tokens[TOKEN_KINDS];
    bool is_failure;
};
struct mixed_sum {
    const char *tenant, *what, *amount;
    size_t entries;
};
struct mixed_quantity {
    const char *tenant, *kind;
    uint64_t n;
};
struct mixed_budget {
    const char *tenant, *name, *namespace, *spent, *unsettled;
};
#include "tests/unit/data/billing/usage_mixed.inc"

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
};

struct lost {
    store_commit_cb cb;
    void *data;
};

static void on_lost(const struct store_commit_answer *a, void *data)
{
    struct lost *x = data;
    struct err err = {0};
    (void)a; /* it went well, but nobody will hear of it */
    err_set(&err, E_STORE, "connection lost");
    x->cb(&(struct store_commit_answer){.code = E_STORE, .err = &err}, x->data);
    mem_free(x);
}

static void faulty_commit(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                          store_commit_cb cb, void *data)
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

static void faulty_get(struct store *s, struct slice partition, const struct slice *k, size_t n,
                       store_records_cb cb, void *data)
{
    store_get(((struct faulty *)s)->inner, partition, k, n, cb, data);
}

static void faulty_scan(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                        size_t limit, store_records_cb cb, void *data)
{
    store_scan(((struct faulty *)s)->inner, partition, prefix, after, limit, cb, data);
}

static void faulty_counters(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                            size_t limit, store_counters_cb cb, void *data)
{
    store_counters(((struct faulty *)s)->inner, partition, prefix, after, limit, cb, data);
}

static void faulty_log_read(struct store *s, struct slice partition, struct slice log, uint64_t after,
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
        size_t index[BILLING_BATCH_MAX];
        char codes[BILLING_BATCH_MAX][16];
        char detail[256]; /* of the first */
        struct err err;
        size_t answers;
    } batch;
    uint64_t rows;
    struct amount total;
};

static void until(struct fixture *f, const bool *flag)
{
    uint64_t end = uv_hrtime() + (uint64_t)WAIT_S * 1000000000u;
    while (!*flag) {
        if (uv_hrtime() > end)
            fail_msg("nothing happened for %d s", WAIT_S);
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    }
}

static void on_done(int code, const struct err *err, void *data)
{
    struct fixture *f = data;
    f->code = code;
    if (err != NULL)
        f->err = *err;
    f->is_done = true;
}

static void on_commit(const struct store_commit_answer *a, void *data)
{
    on_done(a->code, a->err, data);
}

static void on_closed(void *data)
{
    ((struct fixture *)data)->is_done = true;
}

static void file_write(struct fixture *f, const char *name, const char *text)
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

static struct tenancy *tenancy_of(struct fixture *f, const char *prices, const char *acme_budgets)
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

static void engine_open(struct fixture *f)
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

static void billing_up(struct fixture *f)
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

static void billing_down(struct fixture *f)
{
    billing_close(f->billing);
    f->billing = NULL;
}

static int setup(void **state, bool is_sqlite)
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

static int setup_memory(void **state)
{
    return setup(state, false);
}

static int setup_sqlite(void **state)
{
    return setup(state, true);
}

static int teardown(void **state)
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

static void key_hash(int key, char out[SHA256_HEX_SIZE])
{
    char text[64];
    (void)snprintf(text, sizeof(text), "sk-reeve-%d", key);
    sha256_hex(slice_str(text), out);
}

static void key_put(struct fixture *f, int key, const char *gateway)
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

static void all_keys_put(struct fixture *f)
{
    for (int i = 0; i < (int)ARRAY_LEN(keys); i++)
        key_put(f, i, "gw");
}

static void event_json(struct jsonw *w, const struct mixed_event *e)
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

static void on_batch(const struct billing_batch_answer *a, void *data)
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

static void post_start(struct fixture *f, const char *gateway, struct slice body)
{
    f->is_done = false;
    char *copy = mem_strndup(body.p, body.n);
    billing_usage_post(f->billing, tenancy_gateway(f->tenancy, slice_str(gateway)), slice_of(copy, body.n),
                       on_batch, f);
    mem_free(copy); /* it keeps nothing of it */
    assert_false(f->is_done);
}

static void post_text(struct fixture *f, const char *gateway, const char *body)
{
    post_start(f, gateway, slice_str(body));
    until(f, &f->is_done);
}

static void body_of(struct buf *out, const struct mixed_event *e, size_t n)
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

static void post(struct fixture *f, const struct mixed_event *e, size_t n)
{
    struct buf body = BUF_INIT(4u << 20);
    body_of(&body, e, n);
    post_start(f, "gw", buf_view(&body));
    until(f, &f->is_done);
    buf_fini(&body);
}

static void assert_answer(const struct fixture *f, size_t accepted, size_t duplicates, const char *rejected)
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

static void on_json(int code, struct slice json, const struct err *err, void *data)
{
    struct fixture *f = data;
    buf_reset(&f->text);
    (void)buf_slice(&f->text, json);
    on_done(code, err, data);
}

static const char *usage(struct fixture *f, const char *tenant, const char *namespace, const char *workspace,
                         const char *from, const char *to, const char *by)
{
    struct billing_usage_query q = {slice_str(tenant), slice_str(namespace), slice_str(workspace), 0, 0,
                                    slice_str(by)};
    assert_int_equal(time_parse(slice_str(from), &q.from_ms), 0);
    assert_int_equal(time_parse(slice_str(to), &q.to_ms), 0);
    f->is_done = false;
    billing_usage_query(f->billing, &q, on_json, f);
    until(f, &f->is_done);
    return buf_cstr(&f->text);
}

static size_t suspense(struct fixture *f, const char *tenant, size_t limit)
{
    f->is_done = false;
    billing_suspense(f->billing, slice_str(tenant), SLICE_EMPTY, limit, on_json, f);
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
    const struct mixed_event *post_between; /* after the first page */
};

static void on_part(struct slice bytes, void *data)
{
    struct exporting *x = data;
    assert_int_equal(buf_slice(&x->f->text, bytes), 0);
    x->parts++;
    if (x->export != NULL)
        billing_export_next(x->export);
}

static void on_end(int code, uint64_t rows, struct amount total, const struct err *err, void *data)
{
    struct exporting *x = data;
    x->f->rows = rows;
    x->f->total = total;
    on_done(code, err, x->f);
}

static const char *export(struct fixture *f, const char *tenant, const char *period,
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

static struct amount usd(const char *text)
{
    struct amount a;
    assert_int_equal(amount_of(slice_str(text), SL("USD"), &a, NULL), 0);
    return a;
}

static void assert_amount(struct amount a, const char *expected, const char *what)
{
    char text[I128_TEXT_MAX];
    (void)amount_format(a, text);
    if (strcmp(text, expected) != 0)
        fail_msg("%s: %s, expected %s", what, text, expected);
}

static struct billing_budget_view budget(struct fixture *f, const char *tenant, const char *name,
                                         const char *namespace)
{
    struct billing_budget_view views[20];
    size_t n = billing_budgets(f->billing, slice_str(tenant), views, ARRAY_LEN(views));
    for (size_t i = 0; i < n; i++) {
        if (slice_eq_str(views[i].name, name) && slice_eq_str(views[i].namespace, namespace))
            return views[i];
    }
    return (struct billing_budget_view){.spent = usd("0"), .unsettled = usd("0"), .limit = usd("0")};
}

static void reload(struct fixture *f, const char *prices, const char *acme_budgets)
{
    struct tenancy *t = tenancy_of(f, prices, acme_budgets);
    f->is_done = false;
    billing_reload(f->billing, t, on_done, f);
    assert_false(f->is_done);
    until(f, &f->is_done);
    tenancy_unref(f->tenancy);
    f->tenancy = t;
}

/* --- the tests --- */

static const struct mixed_event plain_call = {
    0, "req-1", "claude-sonnet-4-5", "2026-11-05T11:00:00Z", {1000, 100, 10, 4}, false};
/* 1000 × 0.000003 + 100 × 0.000015 + 10 × 0.0000003 + 4 × 0.00000375 */
#define PLAIN_COST "0.004518"

static void test_one_event(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw");
    post(f, &plain_call, 1);
    assert_answer(f, 1, 0, "");
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");

    assert_string_equal(
        usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "model"),
        "{\"items\":[{\"model\":\"claude-sonnet-4-5\",\"input\":1000,\"output\":100,\"cache_read\":10,"
        "\"cache_write\":4,"
        "\"tokens\":1114,\"cost\":{\"amount\":\"" PLAIN_COST "\",\"currency\":\"USD\"}}],"
        "\"total\":{\"input\":1000,\"output\":100,\"cache_read\":10,\"cache_write\":4,\"tokens\":1114,"
        "\"cost\":{\"amount\":\"" PLAIN_COST "\",\"currency\":\"USD\"}}}");
    assert_non_null(
        strstr(usage(f, "acme", "alice", "ws_0", "2026-11-05T00:00:00Z", "2026-11-06T00:00:00Z", ""),
               "\"amount\":\"" PLAIN_COST "\""));
    assert_non_null(strstr(usage(f, "acme", "bob", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", ""),
                           "\"amount\":\"0\""));
    assert_non_null(strstr(usage(f, "acme", "", "ws_9", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", ""),
                           "\"amount\":\"0\""));
    assert_non_null(strstr(usage(f, "acme", "", "", "2026-11-04T00:00:00Z", "2026-11-05T00:00:00Z", ""),
                           "\"amount\":\"0\""));
    assert_non_null(strstr(usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "kind"),
                           "{\"kind\":\"cache_write\",\"tokens\":4,\"cost\":{\"amount\":\"0.000015\""));

    char hash[SHA256_HEX_SIZE];
    struct buf expected = BUF_INIT(10000);
    key_hash(0, hash);
    (void)buf_str(
        &expected,
        "number,time,posted_at,gateway,key_hash,event_id,namespace,workspace,workspace_id,user,model,"
        "call_type,status,estimated,price_version,token_kind,quantity,unit_price,cost,currency,"
        "reported_cost\r\n");
    static const char *const lines[] = {"input,1000,0.000003,0.003", "output,100,0.000015,0.0015",
                                        "cache_read,10,0.0000003,0.000003",
                                        "cache_write,4,0.00000375,0.000015"};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        (void)buf_printf(&expected,
                         "1,2026-11-05T11:00:00Z," NOW ",gw,%s,req-1,alice,dev,ws_0,alice@example.org,"
                         "claude-sonnet-4-5,,success,false,2026-11-01,%s,USD,\r\n",
                         hash, lines[i]);
    assert_string_equal(export(f, "acme", "2026-11", EXPORT_CSV), buf_cstr(&expected));
    assert_int_equal(f->code, 0);
    assert_int_equal(f->rows, 4);
    assert_amount(f->total, PLAIN_COST, "total");
    buf_fini(&expected);
    const char *line = export(f, "acme", "2026-11", EXPORT_JSONL);
    assert_non_null(
        strstr(line, "{\"number\":1,\"posted_at\":\"" NOW "\",\"time\":\"2026-11-05T11:00:00Z\","));
    assert_int_equal(f->rows, 1);
    assert_non_null(
        strstr(export(f, "acme", "2026-10", EXPORT_CSV), "number,time")); /* an empty period has a header */
    assert_int_equal(f->rows, 0);
    assert_int_equal(f->code, 0);
    const struct billing_stats *s = billing_stats(f->billing);
    assert_int_equal(s->accepted, 1);
    assert_int_equal(s->duplicates, 1);
    assert_int_equal(s->batches, 2);
}

/* The CSV's cost column, added up by its own reading of the file. */
static struct amount csv_sum(const char *csv)
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
        assert_int_equal(column, 21);
        p++;
    }
    return sum;
}

static void mixed_post(struct fixture *f, size_t batch, const size_t counts[6])
{
    static const char *const codes[] = {"", "", "conflict", "unpriced", "out_of_horizon", "unknown_key"};
    size_t found[6] = {0};
    for (size_t i = 0; i < ARRAY_LEN(mixed_events); i += batch) {
        size_t n = ARRAY_LEN(mixed_events) - i < batch ? ARRAY_LEN(mixed_events) - i : batch;
        post(f, &mixed_events[i], n);
        assert_int_equal(f->batch.code, 0);
        found[0] += f->batch.accepted;
        found[1] += f->batch.duplicates;
        for (size_t r = 0; r < f->batch.n_rejected; r++) {
            size_t c = 2;
            while (c < 6 && strcmp(codes[c], f->batch.codes[r]) != 0)
                c++;
            assert_true(c < 6);
            found[c]++;
        }
        assert_int_equal(f->batch.accepted + f->batch.duplicates + f->batch.n_rejected, n);
    }
    for (size_t c = 0; c < 6; c++) {
        if (found[c] != counts[c])
            fail_msg("%zu of kind %zu, expected %zu", found[c], c, counts[c]);
    }
}

static void assert_usage(struct fixture *f, const char *by, const struct mixed_sum *sums, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct buf item = BUF_INIT(1000);
        struct jsonw w;
        jsonw_init(&w, &item);
        jsonw_object(&w);
        jsonw_kstr(&w, by, sums[i].what);
        const char *text =
            usage(f, sums[i].tenant, "", "", "2025-10-01T00:00:00Z", "2026-11-06T00:00:00Z", by);
        assert_int_equal(f->code, 0);
        const char *at = strstr(text, buf_cstr(&item));
        (void)buf_printf(&item, "\"amount\":\"%s\"", sums[i].amount);
        if (strcmp(sums[i].amount, "0") != 0) {
            assert_non_null(at);
            const char *cost = strstr(at, "\"amount\":");
            assert_memory_equal(cost + 10, sums[i].amount, strlen(sums[i].amount));
            assert_int_equal(cost[10 + strlen(sums[i].amount)], '"');
        }
        buf_fini(&item);
    }
}

static void mixed_check(struct fixture *f)
{
    for (size_t i = 0; i < ARRAY_LEN(mixed_periods); i++) {
        const struct mixed_sum *p = &mixed_periods[i];
        const char *csv = export(f, p->tenant, p->what, EXPORT_CSV);
        if (f->code != 0)
            fail_msg("%s", f->err.msg);
        assert_amount(f->total, p->amount, p->what);
        assert_amount(csv_sum(csv), p->amount, p->what);
        (void)export(f, p->tenant, p->what, EXPORT_JSONL);
        assert_int_equal(f->code, 0);
        assert_int_equal(f->rows, p->entries);
        assert_amount(f->total, p->amount, p->what);
    }
    assert_usage(f, "model", mixed_models, ARRAY_LEN(mixed_models));
    assert_usage(f, "day", mixed_days, ARRAY_LEN(mixed_days));
    for (size_t i = 0; i < ARRAY_LEN(mixed_quantities); i++) {
        char expected[64];
        (void)snprintf(expected, sizeof(expected), "{\"kind\":\"%s\",\"tokens\":%llu,",
                       mixed_quantities[i].kind, (unsigned long long)mixed_quantities[i].n);
        assert_non_null(strstr(usage(f, mixed_quantities[i].tenant, "", "", "2025-10-01T00:00:00Z",
                                     "2026-11-06T00:00:00Z", "kind"),
                               expected));
    }
    for (size_t i = 0; i < ARRAY_LEN(mixed_workspaces); i++) {
        const struct mixed_sum *w = &mixed_workspaces[i];
        char expected[100], ws[16] = "";
        for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
            (void)snprintf(expected, sizeof(expected), "%s/%s", keys[k].namespace, keys[k].workspace);
            if (strcmp(keys[k].tenant, w->tenant) == 0 && strcmp(expected, w->what) == 0)
                (void)snprintf(ws, sizeof(ws), "ws_%zu", k);
        }
        (void)snprintf(expected, sizeof(expected), "\"amount\":\"%s\"", w->amount);
        assert_non_null(strstr(
            usage(f, w->tenant, "", ws, "2025-10-01T00:00:00Z", "2026-11-06T00:00:00Z", ""), expected));
    }
    assert_int_equal(suspense(f, "", 1000), mixed_suspense_fleet);
    assert_int_equal(suspense(f, "acme", 1000), mixed_suspense_acme);
    assert_int_equal(suspense(f, "beta", 1000), mixed_suspense_beta);
    assert_int_equal(suspense(f, "acme", 7), 7);
}

static void mixed_budgets_check(struct fixture *f)
{
    for (size_t i = 0; i < ARRAY_LEN(mixed_budgets); i++) {
        const struct mixed_budget *b = &mixed_budgets[i];
        struct billing_budget_view v = budget(f, b->tenant, b->name, b->namespace);
        assert_amount(v.spent, b->spent, b->name);
        assert_amount(v.unsettled, b->unsettled, b->name);
    }
}

static void mixed_run(struct fixture *f, size_t batch)
{
    all_keys_put(f);
    mixed_post(f, batch, mixed_counts_1);
    mixed_post(f, batch, mixed_counts_2); /* all of it once more: nothing is counted twice */
    mixed_check(f);
    mixed_budgets_check(f);
    billing_down(f); /* and after a restart the counters say the same */
    billing_up(f);
    mixed_budgets_check(f);
}

static void test_mixed(void **state)
{
    mixed_run(*state, 100);
}

static void test_mixed_in_one_batch(void **state)
{
    mixed_run(*state, 500);
}

static void test_mixed_one_by_one(void **state)
{
    mixed_run(*state, 1);
}

/* The k-th commit fails, either refused or done with its answer lost; the gateway sends again until all went
 * through. */
static void mixed_with_faults(struct fixture *f, enum fault fault)
{
    size_t found_accepted = 0, failures = 0;
    all_keys_put(f);
    int every = 0;
    for (size_t i = 0; i < ARRAY_LEN(mixed_events); i += 50) {
        bool is_first = true;
        do {
            f->store.fault = fault;
            f->store.commits_left = is_first ? every++ % 4 : 1000;
            post(f, &mixed_events[i], 50);
            f->store.fault = FAULT_NONE;
            if (f->batch.code != 0) {
                assert_int_equal(f->batch.code, E_STORE);
                assert_int_equal(f->batch.n_rejected + f->batch.accepted + f->batch.duplicates, 0);
                failures++;
            }
            is_first = false;
        } while (f->batch.code != 0);
        found_accepted += f->batch.accepted;
    }
    assert_true(failures > 3);
    assert_true(found_accepted <= mixed_counts_1[0]); /* the rest was accepted by answers that were lost */
    mixed_post(f, 100, mixed_counts_2);
    mixed_check(f);
    mixed_budgets_check(f);
    assert_int_equal(billing_stats(f->billing)->failures, failures);
}

static void test_commits_fail(void **state)
{
    mixed_with_faults(*state, FAULT_REFUSED);
}

static void test_answers_are_lost(void **state)
{
    mixed_with_faults(*state, FAULT_ANSWER_LOST);
}

/* The same batch in flight many times at once: each event is accepted exactly once. */
static void test_at_the_same_time(void **state)
{
    struct fixture *f = *state;
    struct buf body = BUF_INIT(4u << 20);
    struct mixed_event events[40];
    size_t accepted = 0, duplicates = 0;
    char ids[40][16];
    all_keys_put(f);
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        events[i] = plain_call;
        events[i].key = (int)(i % 4);
        (void)snprintf(ids[i], sizeof(ids[i]), "same-%zu", i);
        events[i].id = ids[i];
    }
    body_of(&body, events, ARRAY_LEN(events));
    f->batch.answers = 0;
    for (int i = 0; i < 5; i++)
        post_start(f, "gw", buf_view(&body));
    for (size_t i = 1; i <= 5; i++) {
        while (f->batch.answers < i) {
            f->is_done = false;
            until(f, &f->is_done);
        }
        if (f->batch.answers == i) {
            assert_int_equal(f->batch.code, 0);
            accepted += f->batch.accepted;
            duplicates += f->batch.duplicates;
        }
    }
    const struct billing_stats *s = billing_stats(f->billing);
    assert_int_equal(s->accepted, 40);
    assert_int_equal(s->duplicates, 160);
    assert_true(accepted <= 40 && duplicates <= 160);
    (void)export(f, "acme", "2026-11", EXPORT_JSONL);
    assert_int_equal(f->rows, 30);
    assert_int_equal(f->code, 0);
    buf_fini(&body);
}

static void test_conflict_counts_once(void **state)
{
    struct fixture *f = *state;
    struct mixed_event other = plain_call, third = plain_call;
    key_put(f, 0, "gw");
    other.tokens[TOKENS_INPUT] = 2000; /* 0.007518 */
    third.model = "mystery";
    post(f, &plain_call, 1);
    for (int i = 0; i < 3; i++) {
        post(f, &other, 1);
        assert_answer(f, 0, 0, "conflict");
    }
    post(f, &third, 1);
    assert_answer(f, 0, 0, "conflict");
    struct billing_budget_view v = budget(f, "acme", "month", "");
    assert_amount(v.spent, PLAIN_COST, "spent");
    assert_amount(v.unsettled, "0.007518", "unsettled");
    assert_amount(v.remaining, "499.987964", "remaining");
    assert_amount(budget(f, "acme", "each", "alice").unsettled, "0.007518", "each");
    assert_int_equal(suspense(f, "acme", 100), 2);
    assert_non_null(strstr(buf_cstr(&f->text), "\"reason\":\"conflict\""));
    post(f, &plain_call, 1); /* the first word still stands */
    assert_answer(f, 0, 1, "");
    /* What is said about an event, but is no fact, makes no conflict. */
    char hash[SHA256_HEX_SIZE], body[600];
    key_hash(0, hash);
    (void)snprintf(
        body, sizeof(body),
        "{\"events\":[{\"id\":\"req-1\",\"key_hash\":\"%s\",\"model\":\"claude-sonnet-4-5\","
        "\"time\":\"2026-11-05T12:00:00.000+01:00\",\"tokens\":{\"input\":1000,\"output\":100,"
        "\"cache_read\":10,\"cache_write\":4},\"estimated\":true,\"cost\":0.1,\"status\":\"success\"}]}",
        hash);
    post_text(f, "gw", body);
    assert_answer(f, 0, 1, "");
    assert_int_equal(billing_stats(f->billing)->conflicts, 4);
}

static void test_unknown_key_becomes_known(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e[2] = {plain_call, plain_call};
    e[1].id = "req-2";
    post(f, e, 2);
    assert_answer(f, 0, 0, "unknown_key unknown_key");
    post(f, e, 2);
    assert_answer(f, 0, 0, "unknown_key unknown_key");
    assert_int_equal(suspense(f, "", 100), 2);
    key_put(f, 0, "gw");
    post(f, e, 1);
    assert_answer(f, 1, 0, "");
    assert_int_equal(suspense(f, "", 100), 1); /* only what was posted is resolved */
    post(f, e, 2);
    assert_answer(f, 1, 1, "");
    assert_int_equal(suspense(f, "", 100), 0);
    assert_amount(budget(f, "acme", "month", "").spent, "0.009036", "spent");
}

/* The commit that takes an event out of the fleet's suspense fails: the repetition finds the event posted,
 * and resolves. */
static void test_fleet_resolution_fails(void **state)
{
    struct fixture *f = *state;
    post(f, &plain_call, 1);
    assert_int_equal(suspense(f, "", 100), 1);
    key_put(f, 0, "gw");
    f->store.fault = FAULT_REFUSED;
    f->store.commits_left = 1;
    post(f, &plain_call, 1);
    assert_int_equal(f->batch.code, E_STORE);
    f->store.fault = FAULT_NONE;
    assert_int_equal(suspense(f, "", 100), 1);
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");
    assert_int_equal(suspense(f, "", 100), 0);
}

static void test_keys_of_other_gateways_and_tenants(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw2");
    post(f, &plain_call, 1);
    assert_answer(f, 0, 0, "unknown_key");
    assert_non_null(strstr(f->batch.detail, "another gateway"));
    struct buf body = BUF_INIT(10000);
    body_of(&body, &plain_call, 1);
    post_start(f, "gw2", buf_view(&body));
    until(f, &f->is_done);
    assert_answer(f, 1, 0, "");
    assert_int_equal(suspense(f, "", 100), 1);
    buf_fini(&body);
}

static void test_price_comes_later(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e[3] = {plain_call, plain_call, plain_call};
    key_put(f, 0, "gw");
    e[0].model = "newest";
    e[1].model = "openai/gpt-5"; /* has no price for writing to the cache */
    e[1].id = "req-2";
    e[2].id = "req-3";
    e[2].model = "newest";
    e[2].is_failure = true; /* costs nothing, so needs no price */
    post(f, e, 3);
    assert_answer(f, 1, 0, "unpriced unpriced");
    assert_int_equal(suspense(f, "acme", 100), 2);
    assert_non_null(strstr(buf_cstr(&f->text), "no price for cache_write"));
    assert_amount(budget(f, "acme", "month", "").unsettled, "0", "unsettled");
    post(f, e, 3);
    assert_answer(f, 0, 1, "unpriced unpriced");

    reload(f, PRICES "  newest: {input: 1, output: 1, cache_read: 1, cache_write: 1}\n",
           BUDGET_MONTH BUDGET_EACH);
    assert_int_equal(f->code, 0);
    post(f, e, 3);
    assert_answer(f, 1, 1, "unpriced");
    assert_int_equal(suspense(f, "acme", 100), 1);
    assert_amount(budget(f, "acme", "month", "").spent, "0.001114", "spent");
    (void)export(f, "acme", "2026-11", EXPORT_CSV);
    assert_int_equal(f->code, 0);
    assert_amount(csv_sum(buf_cstr(&f->text)), "0.001114", "sum");
}

static void test_horizon(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e[5];
    static const char *const ids[] = {"a", "b", "c", "d", "e"};
    static const char *const times[] = {"2025-09-30T23:59:59Z", "2025-10-01T00:00:00Z",
                                        "2026-11-05T13:00:00Z", "2026-11-05T13:00:01Z",
                                        "9999-12-31T23:59:59Z"};
    key_put(f, 0, "gw");
    for (size_t i = 0; i < ARRAY_LEN(e); i++) {
        e[i] = plain_call;
        e[i].id = ids[i];
        e[i].time = times[i];
    }
    post(f, e, 5);
    assert_answer(f, 2, 0, "out_of_horizon out_of_horizon out_of_horizon");
    /* A report from the future counts in the present window until its time has come. */
    assert_amount(budget(f, "acme", "month", "").unsettled, "0.009036", "unsettled");
    assert_amount(budget(f, "acme", "month", "").spent, PLAIN_COST, "spent");
    clock_manual_advance(&f->clock, 2000);
    post(f, e, 5);
    assert_answer(f, 1, 2, "out_of_horizon out_of_horizon");
    assert_amount(budget(f, "acme", "month", "").unsettled, PLAIN_COST, "unsettled");
    assert_amount(budget(f, "acme", "month", "").spent, "0.009036", "spent");
    assert_int_equal(suspense(f, "acme", 100), 2);
}

static void test_gate(void **state)
{
    struct fixture *f = *state;
    struct billing_budget_view v;
    struct err err = {0};
    struct mixed_event e = plain_call;
    all_keys_put(f);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), 0);
    assert_true(slice_eq_str(v.name, "each")); /* the tightest */
    e.tokens[TOKENS_INPUT] = 0;
    e.tokens[TOKENS_OUTPUT] = 666666; /* 9.99999, and 0.000018 */
    e.tokens[TOKENS_CACHE_READ] = 0;
    post(f, &e, 1);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), E_BUDGET);
    assert_string_equal(err.msg,
                        "budget `each` of namespace alice: 10.000005 of 10 USD spent; it starts anew at "
                        "2026-11-06T05:00:00Z");
    assert_amount(v.remaining, "0", "remaining");
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("bob"), &v, &err), 0);
    assert_int_equal(billing_gate(f->billing, SL("beta"), SL("alice"), &v, &err), 0);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SLICE_EMPTY, &v, &err), 0);
    assert_true(slice_eq_str(v.name, "month"));

    billing_down(f); /* a restart forgets nothing */
    billing_up(f);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), E_BUDGET);

    reload(f, PRICES,
           BUDGET_MONTH "      - {name: each, scope: namespace, limit: 10.00001 USD, window: day, "
                        "timezone: America/New_York}\n");
    assert_int_equal(f->code, 0);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), 0);
    assert_amount(v.remaining, "0.000005", "remaining");

    /* An altered repetition is not free: it counts until somebody decides. */
    e.tokens[TOKENS_CACHE_READ] = 1;
    post(f, &e, 1);
    assert_answer(f, 0, 0, "conflict");
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), E_BUDGET);
    assert_non_null(strstr(err.msg, " and 10.0000053 unsettled"));

    reload(f, PRICES, BUDGET_MONTH BUDGET_EACH); /* back to 10; and the day ends */
    clock_manual_advance(&f->clock, INT64_C(17) * 3600 * 1000 - 1);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), E_BUDGET);
    clock_manual_advance(&f->clock, 1);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), &v, &err), 0);
    assert_amount(v.spent, "0", "spent");
    struct mixed_event late = plain_call; /* of yesterday: yesterday's window */
    late.id = "late";
    post(f, &late, 1);
    assert_amount(budget(f, "acme", "each", "alice").spent, "0", "spent");
    late.id = "today";
    late.time = "2026-11-06T05:00:00Z";
    post(f, &late, 1);
    assert_amount(budget(f, "acme", "each", "alice").spent, PLAIN_COST, "spent");
    assert_amount(budget(f, "acme", "month", "").spent, "10.009041", "month");

    reload(f, PRICES, "      - {name: none, scope: tenant, limit: 0 USD, window: week, timezone: UTC}\n");
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("bob"), &v, &err), E_BUDGET);
    reload(f, PRICES, "");
    v.name = SLICE_NULL;
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("bob"), &v, &err), 0);
    assert_null(v.name.p);
    assert_int_equal(billing_budgets(f->billing, SL("acme"), &v, 1), 0);
}

/* Spent in the next window already, while this one lasts (a gateway's clock may be ahead): it is there when
 * it turns. */
static void test_next_window_is_not_forgotten(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    key_put(f, 0, "gw");
    clock_manual_advance(&f->clock,
                         INT64_C(16) * 3600 * 1000 + 1800 * 1000); /* 04:30, the day turns at 05:00 */
    e.time = "2026-11-06T05:10:00Z";
    post(f, &e, 1);
    assert_answer(f, 1, 0, "");
    assert_amount(budget(f, "acme", "each", "alice").spent, "0", "before");
    clock_manual_advance(&f->clock, INT64_C(1800) * 1000);
    assert_amount(budget(f, "acme", "each", "alice").spent, PLAIN_COST, "after");
}

static void test_overflow(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e[4] = {plain_call, plain_call, plain_call, plain_call};
    static const char *const ids[] = {"a", "b", "c", "d"};
    key_put(f, 0, "gw");
    for (size_t i = 0; i < ARRAY_LEN(e); i++)
        e[i].id = ids[i];
    e[1].model = e[2].model = e[3].model = "huge"; /* 1e20 USD per token */
    e[1].tokens[TOKENS_CACHE_READ] = e[1].tokens[TOKENS_CACHE_WRITE] = 0;
    e[1].tokens[TOKENS_INPUT] = 1;
    e[2] = e[1];
    e[2].id = "c";
    e[3] = e[1];
    e[3].id = "d";
    e[3].tokens[TOKENS_INPUT] = 2; /* too much by itself */
    post(f, e, 4);
    assert_answer(f, 2, 0, "overflow overflow"); /* the second one's sum does not fit */
    assert_int_equal(f->batch.index[0], 2);
    post(f, e, 4);
    assert_answer(f, 0, 2, "overflow overflow");
    (void)export(f, "acme", "2026-11", EXPORT_CSV);
    assert_int_equal(f->code, 0);
    assert_amount(f->total, "100000000000000000000.004618", "total");
    struct err err = {0};
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), NULL, &err), E_BUDGET);
}

static void test_malformed_bodies(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *body, *says;
    } rows[] = {{"", ""},
                {"[]", "expected an object"},
                {"{}", "events"},
                {"{\"events\":{}}", "events"},
                {"{\"events\":[],\"more\":1}", "more"},
                {"{\"events\":[}", ""},
                {"{\"events\":[]} x", ""},
                {"\"events\"", "expected an object"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        post_text(f, "gw", rows[i].body);
        assert_int_equal(f->batch.code, E_INVALID);
        if (f->batch.err.msg[0] == '\0' || strstr(f->batch.err.msg, rows[i].says) == NULL)
            fail_msg("%s: %s", rows[i].body, f->batch.err.msg);
    }
    struct buf body = BUF_INIT(1u << 20);
    (void)buf_str(&body, "{\"events\":[0");
    for (int i = 0; i < BILLING_BATCH_MAX; i++)
        (void)buf_str(&body, ",0");
    (void)buf_str(&body, "]}");
    post_text(f, "gw", buf_cstr(&body));
    assert_int_equal(f->batch.code, E_INVALID);
    assert_non_null(strstr(f->batch.err.msg, "1001"));
    buf_fini(&body);
    post_text(f, "gw", "{\"events\":[]}");
    assert_answer(f, 0, 0, "");
    assert_int_equal(f->store.commits, 1); /* the currency, at start: none of these reached the store */
}

static void test_invalid_events(void **state)
{
    struct fixture *f = *state;
    char hash[SHA256_HEX_SIZE];
    /* What replaces one member of a good event; with where the message must point. */
    static const struct {
        const char *member, *value, *says;
    } rows[] = {
        {"id", "\"\"", "events[1].id"},
        {"id", "7", "events[1].id"},
        {"key_hash", "\"abc\"", "events[1].key_hash"},
        {"model", "\"\"", "events[1].model"},
        {"model", "null", "events[1].model"},
        {"time", "\"yesterday\"", "events[1].time"},
        {"time", "1762340000", "events[1].time"},
        {"time", "\"2026-11-05 12:00:00\"", "events[1].time"},
        {"tokens", "{\"input\":-1}", "events[1].tokens.input"},
        {"tokens", "{\"input\":1.5}", "events[1].tokens.input"},
        {"tokens", "{\"input\":1e3}", "events[1].tokens.input"},
        {"tokens", "{\"output\":1000000000001}", "events[1].tokens.output"},
        {"tokens", "{\"reasoning\":1}", "reasoning"},
        {"tokens", "[]", "events[1].tokens"},
        {"status", "\"maybe\"", "events[1].status"},
        {"estimated", "\"yes\"", "events[1].estimated"},
        {"call_type", "\"\"", "events[1].call_type"},
        {"cost", "\"a lot\"", "events[1].cost"},
        {"surprise", "1", "surprise"},
    };
    key_put(f, 0, "gw");
    key_hash(0, hash);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        static const char *const members[] = {"id", "key_hash", "model", "time", "tokens"};
        struct buf body = BUF_INIT(10000);
        struct mixed_event good = plain_call;
        struct jsonw w;
        good.id = i % 2 == 0 ? "even" : "odd";
        jsonw_init(&w, &body);
        jsonw_object(&w);
        jsonw_key(&w, "events");
        jsonw_array(&w);
        event_json(&w, &good);
        jsonw_object(&w);
        bool is_said = false;
        for (size_t m = 0; m < ARRAY_LEN(members); m++) {
            jsonw_key(&w, members[m]);
            if (strcmp(members[m], rows[i].member) == 0) {
                jsonw_raw(&w, slice_str(rows[i].value));
                is_said = true;
            } else if (strcmp(members[m], "tokens") == 0) {
                jsonw_raw(&w, SL("{\"input\":1}"));
            } else {
                jsonw_str(&w, m == 0 ? "bad" : m == 1 ? hash : m == 2 ? "tiny" : "2026-11-05T11:00:00Z");
            }
        }
        if (!is_said) {
            jsonw_key(&w, rows[i].member);
            jsonw_raw(&w, slice_str(rows[i].value));
        }
        jsonw_object_end(&w);
        jsonw_array_end(&w);
        jsonw_object_end(&w);
        post_text(f, "gw", buf_cstr(&body));
        assert_answer(f, i < 2 ? 1 : 0, i < 2 ? 0 : 1, "invalid"); /* the good one goes its way */
        assert_int_equal(f->batch.index[0], 1);
        if (strstr(f->batch.detail, rows[i].says) == NULL)
            fail_msg("%s: %s says: %s", rows[i].member, rows[i].value, f->batch.detail);
        buf_fini(&body);
    }
    post_text(f, "gw", "{\"events\":[7,\"x\",null,{}]}");
    assert_answer(f, 0, 0, "invalid invalid invalid invalid");
    assert_int_equal(suspense(f, "acme", 100), 0);
    assert_int_equal(suspense(f, "", 100), 0);
}

/* A thousand events of one tenant do not fit one commit; and while they are exported, more are posted. */
static void test_large_batch_and_export(void **state)
{
    struct fixture *f = *state;
    struct mixed_event *e = mem_alloc(BILLING_BATCH_MAX * sizeof(*e));
    char(*ids)[24] = mem_alloc(BILLING_BATCH_MAX * sizeof(*ids));
    key_put(f, 0, "gw");
    key_put(f, 1, "gw");
    for (size_t i = 0; i < BILLING_BATCH_MAX; i++) {
        e[i] = plain_call;
        (void)snprintf(ids[i], sizeof(ids[i]), "%c,\"%zu\"", "=+-@x"[i % 5], i);
        e[i].id = ids[i];
        e[i].key = (int)(i % 2);
    }
    f->store.commits = 0;
    post(f, e, BILLING_BATCH_MAX);
    assert_answer(f, BILLING_BATCH_MAX, 0, "");
    assert_true(f->store.commits >= 2);

    static const struct export_events ev = {on_part, on_end};
    struct exporting x = {.f = f}; /* no next by itself: we pull */
    buf_reset(&f->text);
    f->is_done = false;
    struct billing_export *out =
        billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_CSV, &ev, &x);
    size_t seen = 0;
    struct mixed_event more = plain_call;
    more.id = "between";
    while (!f->is_done) {
        (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        if (x.parts == seen)
            continue;
        seen = x.parts;
        if (seen == 2) {
            post(f, &more, 1);
            assert_answer(f, 1, 0, "");
            f->is_done = false;
        }
        billing_export_next(out);
    }
    assert_int_equal(f->code, 0);
    assert_true(x.parts >= 4); /* the header, two pages, and what came later */
    assert_int_equal(f->rows, 4 * (BILLING_BATCH_MAX + 1));
    assert_amount(f->total, "4.522518", "total");
    assert_amount(csv_sum(buf_cstr(&f->text)), "4.522518", "sum");
    /* Nothing a spreadsheet would run; quotes doubled. */
    assert_null(strstr(buf_cstr(&f->text), ",=") != NULL ? "formula" : NULL);
    assert_non_null(strstr(buf_cstr(&f->text), ",\"'=,\"\"0\"\"\","));
    assert_non_null(strstr(buf_cstr(&f->text), ",'=bob,"));

    f->is_done = false; /* cancelled while it waits for us, and while it reads */
    x = (struct exporting){.f = f};
    out = billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_JSONL, &ev, &x);
    billing_export_cancel(out);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_CANCELLED);
    f->is_done = false;
    out = billing_export_start(f->billing, SL("acme"), SL("2026-11"), EXPORT_CSV, &ev, &x);
    while (x.parts == 0)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    billing_export_cancel(out);
    assert_false(f->is_done);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_CANCELLED);
    mem_free(ids);
    mem_free(e);
}

static void test_questions_that_make_no_sense(void **state)
{
    struct fixture *f = *state;
    (void)usage(f, "nobody", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "");
    assert_int_equal(f->code, E_NOT_FOUND);
    (void)usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "colour");
    assert_int_equal(f->code, E_INVALID);
    (void)usage(f, "acme", "", "", "2026-12-01T00:00:00Z", "2026-11-01T00:00:00Z", "");
    assert_int_equal(f->code, E_INVALID);
    (void)usage(f, "acme", "", "", "2020-12-01T00:00:00Z", "2026-11-01T00:00:00Z", "");
    assert_int_equal(f->code, E_INVALID);
    (void)export(f, "nobody", "2026-11", EXPORT_CSV);
    assert_int_equal(f->code, E_NOT_FOUND);
    static const char *const bad[] = {"",       "2026",    "2026-13",    "2026-00",
                                      "2026-1", "2026/11", "2026-11-01", "x026-11"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        (void)export(f, "acme", bad[i], EXPORT_CSV);
        assert_int_equal(f->code, E_INVALID);
    }
    assert_int_equal(suspense(f, "nobody", 10), 0);
}

/* A ledger whose counter says something else is not exported as if it were whole. */
static void test_export_that_does_not_add_up(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw");
    post(f, &plain_call, 1);
    struct store_op op = store_add(SL("period/2026-11"), 1);
    f->is_done = false;
    store_commit(f->engine, slice_str(tenancy_tenant(f->tenancy, SL("acme"))->id), &op, 1, on_commit, f);
    until(f, &f->is_done);
    (void)export(f, "acme", "2026-11", EXPORT_CSV);
    assert_int_equal(f->code, E_INTERNAL);
    assert_non_null(strstr(f->err.msg, "0.004518000000000001"));
}

static void test_reloads(void **state)
{
    struct fixture *f = *state;
    reload(f, "currency: EUR\nversion: b\nmodels: {m: {input: 1}}\n", "");
    assert_int_equal(f->code, E_INVALID);
    assert_non_null(strstr(f->err.msg, "the price file is in EUR but the ledger in this store is in USD"));
    /* A bad one is told by check, and changes nothing. */
    reload(f, "currency: USD\nversion: b\nmodels: {m: {input: 0.08333333333333334}}\n", "");
    assert_int_equal(f->code, E_INVALID);
    assert_non_null(strstr(f->err.msg, "prices.yaml:3:21: input:"));
    struct config_problems problems;
    config_problems_init(&problems);
    assert_int_equal(billing_check(f->tenancy, &problems), E_INVALID);
    assert_int_equal(problems.n, 1);
    config_problems_fini(&problems);
    key_put(f, 0, "gw");
    post(f, &plain_call, 1); /* at the prices that were good */
    assert_answer(f, 1, 0, "");
}

/* The daemon ends with reports on their way: each is answered, and what was acknowledged is there afterwards.
 */
static void test_close_in_flight(void **state)
{
    struct fixture *f = *state;
    struct buf body = BUF_INIT(1u << 20);
    all_keys_put(f);
    for (int turns = 0; turns < 12; turns++) {
        struct mixed_event e[4];
        char ids[4][32];
        for (int i = 0; i < 4; i++) {
            e[i] = plain_call;
            (void)snprintf(ids[i], sizeof(ids[i]), "t%d-%d", turns, i);
            e[i].id = ids[i];
            e[i].key = i;
        }
        body_of(&body, e, 4);
        post_start(f, "gw", buf_view(&body));
        for (int i = 0; i < turns; i++)
            (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        billing_down(f);
        until(f, &f->is_done);
        bool was_done = f->batch.code == 0;
        assert_true(was_done || f->batch.code == E_CANCELLED);
        billing_up(f);
        post(f, e, 4);
        if (was_done)
            assert_answer(f, 0, 4, "");
        else
            assert_int_equal(f->batch.accepted + f->batch.duplicates, 4);
    }
    (void)export(f, "acme", "2026-11", EXPORT_JSONL);
    assert_int_equal(f->code, 0);
    assert_int_equal(f->rows, 36);
    buf_fini(&body);
}

static void test_key_records(void **state)
{
    struct arena a = ARENA_INIT;
    char hash[SHA256_HEX_SIZE], name[128];
    (void)state;
    key_hash(0, hash);
    struct billing_key_owner o = {.tenant = SL("acme"),
                                  .namespace = SL("n"),
                                  .workspace = SL("w"),
                                  .workspace_id = SL("ws_1"),
                                  .user = SL("\"u\""),
                                  .gateway = SL("gw"),
                                  .is_revoked = true,
                                  .made_at_ms = 77};
    struct billing_key_owner back;
    struct store_op op = billing_key_op(&a, hash, &o);
    billing_key_name(hash, name);
    assert_true(slice_eq_str(op.key, name));
    assert_int_equal(billing_key_parse(&a, op.value, &back), 0);
    assert_true(slice_eq(back.tenant, o.tenant) && slice_eq(back.user, o.user) &&
                slice_eq(back.gateway, o.gateway));
    assert_true(back.is_revoked && back.made_at_ms == 77);
    assert_int_equal(billing_key_parse(&a, SL("{}"), &back), E_INVALID);
    assert_int_equal(billing_key_parse(&a, SL("[1]"), &back), E_INVALID);
    assert_int_equal(billing_key_parse(&a, SL("nonsense"), &back), E_INVALID);
    arena_fini(&a);
}

#define ON_BOTH(test)                                                                                        \
    {#test "/memory", test, setup_memory, teardown, NULL},                                                   \
    {                                                                                                        \
#test "/sqlite", test, setup_sqlite, teardown, NULL                                                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_one_event),
        ON_BOTH(test_mixed),
        ON_BOTH(test_mixed_in_one_batch),
        {"test_mixed_one_by_one/memory", test_mixed_one_by_one, setup_memory, teardown, NULL},
        ON_BOTH(test_commits_fail),
        ON_BOTH(test_answers_are_lost),
        ON_BOTH(test_at_the_same_time),
        ON_BOTH(test_conflict_counts_once),
        ON_BOTH(test_unknown_key_becomes_known),
        ON_BOTH(test_fleet_resolution_fails),
        ON_BOTH(test_keys_of_other_gateways_and_tenants),
        ON_BOTH(test_price_comes_later),
        ON_BOTH(test_horizon),
        ON_BOTH(test_gate),
        ON_BOTH(test_next_window_is_not_forgotten),
        ON_BOTH(test_overflow),
        ON_BOTH(test_malformed_bodies),
        ON_BOTH(test_invalid_events),
        ON_BOTH(test_large_batch_and_export),
        ON_BOTH(test_questions_that_make_no_sense),
        ON_BOTH(test_export_that_does_not_add_up),
        ON_BOTH(test_reloads),
        ON_BOTH(test_close_in_flight),
        {"test_key_records", test_key_records, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
