/* bench_billing: usage events per second, durable on SQLite, from the body to the answer: parsed, attributed,
 * priced, deduplicated, posted. `bench_billing [events [batch [in flight]]]`; prints one line of JSON. */
#include "billing/billing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/core/mem.h"

#define WORKSPACES 50

struct bench {
    struct loop loop;
    struct store *store;
    struct tenancy *tenancy;
    struct billing *billing;
    char dir[64];
    uint64_t events, batch, in_flight;  /* asked for */
    uint64_t next, under_way, accepted; /* events made; batches; events answered */
    bool is_ready, is_closed;
};

static void file_write(struct bench *b, const char *name, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", b->dir, name);
    FILE *out = fopen(path, "w");
    if (out == NULL || fputs(text, out) < 0 || fclose(out) != 0)
        die("cannot write %s", path);
}

static void setup_files(struct bench *b)
{
    memcpy(b->dir, "/tmp/reeve-bench-XXXXXX", 24);
    if (mkdtemp(b->dir) == NULL)
        die("mkdtemp failed");
    file_write(b, "secret", "a-secret-of-some-length-0123456789\n");
    file_write(b, "prices.yaml",
               "currency: USD\nversion: \"2026-11-01\"\nmodels:\n"
               "  claude-sonnet-4-5: {input: 3, output: 15, cache_read: 0.30, cache_write: 3.75}\n");
    file_write(
        b, "reeve.yaml",
        "listen: 127.0.0.1:8700\ndata_dir: data\nstore: sqlite\nproviders: {local: {kind: local}}\n"
        "gateways: {gw: {kind: plain, url: \"http://127.0.0.1:4000\", secret: file:secret}}\n"
        "prices: {file: prices.yaml, unpriced: deny}\ntemplates: {coding: {providers: [local]}}\n"
        "tenants:\n  acme:\n    gateway: gw\n    templates: [coding]\n    budgets:\n"
        "      - {name: month, scope: tenant, limit: 500 USD, window: month, timezone: Europe/Berlin}\n"
        "      - {name: each, scope: namespace, limit: 10 USD, window: day}\n");
}

static void files_remove(struct bench *b)
{
    static const char *const files[] = {"secret",       "prices.yaml",  "reeve.yaml",    "reeve.db",
                                        "reeve.db-wal", "reeve.db-shm", "reeve.db.lock", "reeve.db-lock"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", b->dir, files[i]);
        (void)unlink(path); /* those that are there */
    }
    (void)rmdir(b->dir);
}

static void on_ready(int code, const struct err *err, void *data)
{
    if (code != 0)
        die("start: %s", err != NULL ? err->msg : err_title(code));
    ((struct bench *)data)->is_ready = true;
}

static void on_keys(const struct store_commit_answer *a, void *data)
{
    on_ready(a->code, a->err, data);
}

static void on_closed(void *data)
{
    ((struct bench *)data)->is_closed = true;
}

static void until(struct bench *b, const bool *flag)
{
    while (!*flag)
        (void)uv_run(&b->loop.uv, UV_RUN_ONCE);
}

static void key_hash(uint64_t workspace, char out[SHA256_HEX_SIZE])
{
    char text[64];
    (void)snprintf(text, sizeof(text), "sk-reeve-%llu", (unsigned long long)workspace);
    sha256_hex(slice_str(text), out);
}

static void keys_put(struct bench *b)
{
    struct arena a = ARENA_INIT;
    struct store_op ops[WORKSPACES];
    for (uint64_t i = 0; i < WORKSPACES; i++) {
        char hash[SHA256_HEX_SIZE];
        key_hash(i, hash);
        struct billing_key_owner o = {.tenant = SL("acme"),
                                      .namespace = slice_str(arena_printf(&a, "user-%d", (int)i / 5)),
                                      .workspace = slice_str(arena_printf(&a, "dev-%d", (int)i)),
                                      .workspace_id = slice_str(arena_printf(&a, "ws_%026d", (int)i)),
                                      .user = SL("someone@example.org"),
                                      .gateway = SL("gw"),
                                      .made_at_ms = 1};
        ops[i] = billing_key_op(&a, hash, &o);
    }
    b->is_ready = false;
    store_commit(b->store, SL("fleet"), ops, WORKSPACES, on_keys, b);
    until(b, &b->is_ready);
    arena_fini(&a);
}

static void post_next(struct bench *b);

static void on_batch(const struct billing_batch_answer *a, void *data)
{
    struct bench *b = data;
    if (a->code != 0 || a->n_rejected > 0 || a->duplicates > 0)
        die("batch: %s", a->err != NULL ? a->err->msg : "not all accepted");
    b->accepted += a->accepted;
    b->under_way--;
    post_next(b);
}

static void body_make(struct bench *b, struct buf *out)
{
    char now[TIME_TEXT_MAX];
    struct jsonw w;
    time_format(clock_wall_ms(&clock_system), now);
    buf_reset(out);
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_key(&w, "events");
    jsonw_array(&w);
    for (uint64_t i = 0; i < b->batch && b->next < b->events; i++, b->next++) {
        char hash[SHA256_HEX_SIZE], id[64];
        key_hash(b->next % WORKSPACES, hash);
        (void)snprintf(id, sizeof(id), "chatcmpl-%032llx", (unsigned long long)b->next);
        jsonw_object(&w);
        jsonw_kstr(&w, "id", id);
        jsonw_kstr(&w, "key_hash", hash);
        jsonw_kstr(&w, "model", "claude-sonnet-4-5");
        jsonw_kstr(&w, "time", now);
        jsonw_key(&w, "tokens");
        jsonw_object(&w);
        jsonw_ku64(&w, "input", 1000 + b->next % 977);
        jsonw_ku64(&w, "output", 100 + b->next % 89);
        jsonw_ku64(&w, "cache_read", b->next % 10007);
        jsonw_object_end(&w);
        jsonw_kstr(&w, "call_type", "chat");
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_object_end(&w);
}

static void post_next(struct bench *b)
{
    static struct buf body = {NULL, 0, 0, 4u << 20, false};
    while (b->under_way < b->in_flight && b->next < b->events) {
        body_make(b, &body);
        b->under_way++;
        billing_usage_post(b->billing, tenancy_gateway(b->tenancy, SL("gw")), buf_view(&body), on_batch, b);
    }
    if (b->next >= b->events && b->under_way == 0)
        buf_fini(&body);
}

static uint64_t arg(int argc, char **argv, int i, uint64_t otherwise)
{
    uint64_t v = otherwise;
    if (argc > i && (slice_u64(slice_str(argv[i]), &v) != 0 || v == 0))
        die("usage: bench_billing [events [batch [in flight]]]");
    return v;
}

static double cpu_s(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u); /* cannot fail */
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
    struct bench *b = MEM_NEW(struct bench);
    struct err err = {0};
    struct config_problems problems;
    char path[128];
    b->events = arg(argc, argv, 1, 200000);
    b->batch = arg(argc, argv, 2, 100);
    b->in_flight = arg(argc, argv, 3, 8);
    if (b->batch > BILLING_BATCH_MAX)
        die("a batch has at most %d events", BILLING_BATCH_MAX);
    setup_files(b);
    must(loop_init(&b->loop, &clock_system, &rnd_system) == 0);
    (void)snprintf(path, sizeof(path), "%s/reeve.db", b->dir);
    if (store_sqlite_open(&b->loop, path, &b->store, &err) != 0)
        die("%s", err.msg);
    config_problems_init(&problems);
    (void)snprintf(path, sizeof(path), "%s/reeve.yaml", b->dir);
    if (tenancy_load(path, &problems, &b->tenancy) != 0 ||
        billing_open(&b->loop, b->store, b->tenancy, &problems, &b->billing) != 0)
        die("configuration: %s", problems.n > 0 ? problems.items[0].text : "?");
    billing_start(b->billing, on_ready, b);
    until(b, &b->is_ready);
    keys_put(b);

    double cpu = cpu_s();
    uint64_t start = uv_hrtime();
    post_next(b);
    while (b->accepted < b->events)
        (void)uv_run(&b->loop.uv, UV_RUN_ONCE);
    double took = (double)(uv_hrtime() - start) / 1e9;
    printf("{\"bench\":\"billing\",\"store\":\"sqlite\",\"events\":%llu,\"batch\":%llu,\"in_flight\":%llu,"
           "\"seconds\":%.3f,\"events_per_second\":%.0f,\"cpu_us_per_event\":%.1f,\"slow_turns\":%llu}\n",
           (unsigned long long)b->events, (unsigned long long)b->batch, (unsigned long long)b->in_flight,
           took, (double)b->events / took, (cpu_s() - cpu) * 1e6 / (double)b->events,
           (unsigned long long)b->loop.turns_slow);

    billing_close(b->billing);
    store_close(b->store, on_closed, b);
    until(b, &b->is_closed);
    loop_fini(&b->loop);
    tenancy_unref(b->tenancy);
    config_problems_fini(&problems);
    files_remove(b);
    mem_free(b);
    return 0;
}
