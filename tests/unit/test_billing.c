/* billing: usage in, ledger and suspense out; on the memory engine and on SQLite.
 *
 * The largest test is data: 500 mixed events and what a ledger must say after them, worked out by another
 * implementation (data/billing/usage_mixed.py). */
#include "tests/unit/billing_fixture.h"

#include "billing/internal.h"

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
        "\"cost\":{\"amount\":\"" PLAIN_COST "\",\"currency\":\"USD\"}},\"next\":null}");
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
        "reported_cost,adjusts\r\n");
    static const char *const lines[] = {"input,1000,0.000003,0.003", "output,100,0.000015,0.0015",
                                        "cache_read,10,0.0000003,0.000003",
                                        "cache_write,4,0.00000375,0.000015"};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        (void)buf_printf(&expected,
                         "1,2026-11-05T11:00:00Z," NOW ",gw,%s,req-1,alice,dev,ws_0,alice@example.org,"
                         "claude-sonnet-4-5,,success,false,2026-11-01,%s,USD,,\r\n",
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

/* The cache is full, and a key that is met for the first time pushes out one of the same batch that was known
 * when the batch began: its events are its tenant's all the same. */
static void test_owner_pushed_out(void **state)
{
    struct fixture *f = *state;
    struct owner_cache *cache = &f->billing->owners;
    struct mixed_event events[4] = {plain_call, plain_call, plain_call, plain_call};
    char hash[SHA256_HEX_SIZE];
    key_put(f, 0, "gw");
    key_put(f, 1, "gw");
    post(f, &plain_call, 1); /* key 0 is the oldest that is kept */
    assert_answer(f, 1, 0, "");
    struct slice record =
        SL("{\"tenant\":\"acme\",\"namespace\":\"n\",\"workspace\":\"w\",\"workspace_id\":\"ws\","
           "\"user\":\"\",\"gateway\":\"gw\",\"revoked\":false,\"made_at_ms\":1}");
    for (unsigned i = 0; HASH_COUNT(cache->rows) < OWNERS_MAX; i++) {
        (void)snprintf(hash, sizeof(hash), "%064x", i);
        assert_non_null(owner_cache_add(cache, hash, record, false));
    }
    events[0].id = "a";
    events[1].id = "b";
    events[1].key = 1;
    events[2].id = "c";
    events[2].key = 1;
    events[3].id = "d";
    post(f, events, 4);
    assert_answer(f, 4, 0, "");
    assert_int_equal(HASH_COUNT(cache->rows), OWNERS_MAX);
    key_hash(0, hash);
    assert_null(owner_cache_find(cache, hash)); /* it was */
    assert_int_equal(suspense(f, "acme", 10), 0);
    (void)export(f, "acme", "2026-11", EXPORT_JSONL);
    assert_int_equal(f->rows, 5);
    post(f, events, 4); /* and it is found again */
    assert_answer(f, 0, 4, "");
}

struct crowd {
    unsigned answers, accepted, refused;
};

static void on_one_of_many(const struct billing_batch_answer *a, void *data)
{
    struct crowd *c = data;
    c->answers++;
    if (a->code == 0) {
        c->accepted += (unsigned)a->accepted;
        return;
    }
    assert_int_equal(a->code, E_UNAVAILABLE);
    assert_non_null(a->err);
    assert_int_equal(a->err->code, E_UNAVAILABLE);
    assert_true(strstr(a->err->msg, "send it again") != NULL);
    c->refused++;
}

/* More batches at once than are taken: those too many are refused with a word, none is lost or counted twice,
 * and when all are answered there is room again. */
static void test_too_many_batches(void **state)
{
    enum { N = 600, TAKEN = 256 };
    struct fixture *f = *state;
    struct crowd crowd = {0};
    struct buf body = BUF_INIT(1u << 20);
    key_put(f, 0, "gw");
    for (int round = 0; round < 2; round++) {
        crowd = (struct crowd){0};
        for (unsigned i = 0; i < N; i++) {
            struct mixed_event e = plain_call;
            char id[32];
            (void)snprintf(id, sizeof(id), "many-%d-%u", round, i);
            e.id = id;
            body_of(&body, &e, 1);
            billing_usage_post(f->billing, tenancy_gateway(f->tenancy, SL("gw")), buf_view(&body),
                               on_one_of_many, &crowd);
        }
        assert_int_equal(crowd.answers, 0);
        uint64_t end = uv_hrtime() + (uint64_t)WAIT_S * 1000000000u;
        while (crowd.answers < N && uv_hrtime() < end)
            (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
        assert_int_equal(crowd.answers, N);
        assert_int_equal(crowd.accepted, TAKEN);
        assert_int_equal(crowd.refused, N - TAKEN);
        assert_int_equal(f->billing->n_batches, 0);
    }
    post_text(f, "gw", "nonsense"); /* what is refused for its text is counted off, too */
    assert_int_equal(f->billing->n_batches, 0);
    (void)export(f, "acme", "2026-11", EXPORT_JSONL);
    assert_int_equal(f->rows, 2 * TAKEN);
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

static void post_at(struct fixture *f, const char *gateway, const struct mixed_event *e)
{
    struct buf body = BUF_INIT(10000);
    body_of(&body, e, 1);
    post_start(f, gateway, buf_view(&body));
    until(f, &f->is_done);
    buf_fini(&body);
}

static void test_keys_of_other_gateways_and_tenants(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw");
    post_at(f, "gw2", &plain_call);
    assert_answer(f, 0, 0, "unknown_key");
    assert_non_null(strstr(f->batch.detail, "another gateway"));
    post_at(f, "gw", &plain_call);
    assert_answer(f, 1, 0, "");
    assert_int_equal(suspense(f, "", 100), 1);
}

/* A tenant whose calls went to gw2 when its key was made, and go to gw now: both know it, each counts its
 * own. */
static void test_tenant_that_changed_gateways(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw2");
    post_at(f, "gw", &plain_call);
    assert_answer(f, 1, 0, "");
    post_at(f, "gw2", &plain_call); /* reported late: another gateway's id is another event */
    assert_answer(f, 1, 0, "");
    post_at(f, "gw", &plain_call);
    assert_answer(f, 0, 1, "");
    assert_int_equal(suspense(f, "", 100), 0);
    assert_amount(budget(f, "acme", "month", "").spent, "0.009036", "spent");
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
    /* 1000 × 1.25 + 100 × 10 + 10 × 0.125 for a million: what has a price is not free */
    assert_amount(budget(f, "acme", "month", "").unsettled, "0.00225125", "unsettled");
    post(f, e, 3);
    assert_answer(f, 0, 1, "unpriced unpriced");
    assert_amount(budget(f, "acme", "month", "").unsettled, "0.00225125", "unsettled");

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

/* A repetition of what was posted is a duplicate, also when it could not be posted today. */
static void test_price_goes_away(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "gw");
    post(f, &plain_call, 1);
    reload(f, "currency: USD\nversion: b\nmodels: {other: {input: 1}}\n", BUDGET_MONTH BUDGET_EACH);
    assert_int_equal(f->code, 0);
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");
    clock_manual_advance(&f->clock, INT64_C(395) * 86400 * 1000); /* beyond the 13 months, within the 14 */
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");
    assert_int_equal(suspense(f, "acme", 10), 0);
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
        assert_true(was_done || f->batch.code == E_DRAINING);
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
        ON_BOTH(test_owner_pushed_out),
        ON_BOTH(test_too_many_batches),
        ON_BOTH(test_conflict_counts_once),
        ON_BOTH(test_unknown_key_becomes_known),
        ON_BOTH(test_fleet_resolution_fails),
        ON_BOTH(test_keys_of_other_gateways_and_tenants),
        ON_BOTH(test_tenant_that_changed_gateways),
        ON_BOTH(test_price_comes_later),
        ON_BOTH(test_price_goes_away),
        ON_BOTH(test_horizon),
        ON_BOTH(test_overflow),
        ON_BOTH(test_malformed_bodies),
        ON_BOTH(test_invalid_events),
        ON_BOTH(test_close_in_flight),
        {"test_key_records", test_key_records, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
