/* decision: what people decide about suspense; each of them broken off after each of its commits, and
 * repeated. Afterwards the ledger, the counters and the budgets say what an account kept by hand says. */
#include "billing/internal.h"

#include "tests/unit/billing_fixture.h"

#define OTHER_COST "0.006018" /* of plain_call with 200 of output */

static char waiting[4][STORE_KEY_MAX]; /* ids of the last list */

static size_t list(struct fixture *f, struct billing_suspense_query q)
{
    struct json *root = NULL;
    size_t n = 0;
    f->is_done = false;
    billing_suspense(f->billing, &q, on_json, f);
    until(f, &f->is_done);
    assert_int_equal(f->code, 0);
    assert_int_equal(json_parse(buf_view(&f->text), NULL, &root, NULL), 0);
    JSON_FOREACH (it, json_get(root, "items")) {
        if (n < ARRAY_LEN(waiting))
            (void)snprintf(waiting[n], sizeof(waiting[0]), "%.*s",
                           SL_ARG(json_string(json_get(it, "suspense_id"))));
        n++;
    }
    json_free(root);
    return n;
}

static size_t waits(struct fixture *f, const char *tenant)
{
    return list(f, (struct billing_suspense_query){.tenant = slice_str(tenant)});
}

static int decide(struct fixture *f, enum suspense_action kind, const char *tenant, const char *id)
{
    struct billing_decision d = {.kind = kind,
                                 .tenant = slice_str(tenant),
                                 .id = slice_str(id),
                                 .reason = SL("because"),
                                 .actor = SL("key:fleet/operations"),
                                 .audit = SL("{\"action\":\"suspense\"}")};
    if (kind == SUSPENSE_ATTRIBUTE) {
        d.to_tenant = SL("acme");
        d.owner = (struct billing_key_owner){.namespace = SL("alice"),
                                             .workspace = SL("dev"),
                                             .workspace_id = SL("ws_0"),
                                             .user = SL("alice@example.org")};
    }
    f->err.msg[0] = '\0';
    f->is_done = false;
    billing_suspense_decide(f->billing, &d, on_json, f);
    assert_false(f->is_done);
    until(f, &f->is_done);
    return f->code;
}

static void on_log(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                   void *data)
{
    struct fixture *f = data;
    (void)e;
    (void)has_more;
    f->rows = n;
    on_done(code, err, f);
}

static size_t audits(struct fixture *f, const char *tenant)
{
    f->is_done = false;
    store_log_read(f->engine,
                   tenant[0] == '\0' ? SL("fleet")
                                     : slice_str(tenancy_tenant(f->tenancy, slice_str(tenant))->id),
                   SL("audit"), 0, 1000, on_log, f);
    until(f, &f->is_done);
    return f->rows;
}

/* The ledger, the daily counters and both budgets have it, and nothing waits unsettled. */
static void assert_books(struct fixture *f, const char *total, const char *unsettled)
{
    (void)export(f, "acme", "2026-11", EXPORT_CSV); /* compares with the period's counter by itself */
    assert_int_equal(f->code, 0);
    assert_amount(f->total, total, "ledger");
    assert_amount(csv_sum(buf_cstr(&f->text)), total, "export");
    char expected[128];
    (void)snprintf(expected, sizeof(expected),
                   "\"cost\":{\"amount\":\"%s\",\"currency\":\"USD\"}},\"next\":null}", total);
    const char *text = usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "");
    if (strstr(text, expected) == NULL)
        fail_msg("usage: %s, expected %s", text, total);
    for (int restart = 0; restart < 2; restart++) { /* what commits said, and what the store says */
        assert_amount(budget(f, "acme", "month", "").spent, total, "month");
        assert_amount(budget(f, "acme", "each", "alice").spent, total, "each");
        assert_amount(budget(f, "acme", "month", "").unsettled, unsettled, "unsettled");
        assert_amount(budget(f, "acme", "each", "alice").unsettled, unsettled, "each unsettled");
        if (restart == 0) {
            billing_down(f);
            billing_up(f);
        }
    }
}

/* Makes commit after commit fail, first refused, then done without anybody hearing of it; each time the same
 * call is made again until it succeeds. `kill` also loses the process: a new one goes on by itself. */
static void decide_through_faults(struct fixture *f, enum suspense_action kind, const char *tenant,
                                  const char *id, enum fault fault, int at, bool is_killed)
{
    f->store.fault = fault;
    f->store.commits_left = at;
    int code = decide(f, kind, tenant, id);
    bool was_hit = f->store.commits_left < 0;
    f->store.fault = FAULT_NONE;
    assert_true(code == 0 || (was_hit && code == E_STORE));
    if (is_killed) {
        billing_down(f);
        billing_up(f);
        for (int i = 0; i < 50; i++)
            (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    }
    assert_int_equal(decide(f, kind, tenant, id), 0);
}

static char first[4096];

static void same_answer(struct fixture *f, enum suspense_action kind, const char *tenant, const char *id)
{
    assert_int_equal(decide(f, kind, tenant, id), 0);
    (void)snprintf(first, sizeof(first), "%s", buf_cstr(&f->text));
    assert_int_equal(decide(f, kind, tenant, id), 0);
    assert_string_equal(first, buf_cstr(&f->text));
}

#define FAULTS(body)                                                                                         \
    for (int round = 0; round < 24; round++) {                                                               \
        enum fault fault = round % 2 == 0 ? FAULT_REFUSED : FAULT_ANSWER_LOST;                               \
        int at = round / 4;                                                                                  \
        bool is_killed = round % 4 >= 2;                                                                     \
        struct fixture *f;                                                                                   \
        void *made = NULL;                                                                                   \
        assert_int_equal(setup((void **)&made, false), 0);                                                   \
        f = made;                                                                                            \
        body;                                                                                                \
        assert_int_equal(teardown(&made), 0);                                                                \
    }

/* --- a tenant's --- */

static void conflict_make(struct fixture *f, struct mixed_event *e)
{
    *e = plain_call;
    key_put(f, 0, "gw");
    post(f, e, 1);
    e->tokens[TOKENS_OUTPUT] = 200;
    post(f, e, 1);
    assert_answer(f, 0, 0, "conflict");
    assert_int_equal(waits(f, "acme"), 1);
}

static void test_dismiss_conflict(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e;
    conflict_make(f, &e);
    assert_books(f, PLAIN_COST, OTHER_COST);
    assert_int_equal(decide(f, SUSPENSE_RETRY, "acme", waiting[0]), E_CONFLICT);
    assert_non_null(strstr(f->err.msg, "dismiss it, or adjust"));
    assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "acme", waiting[0]), E_CONFLICT);
    same_answer(f, SUSPENSE_DISMISS, "acme", waiting[0]);
    assert_non_null(strstr(first, "\"decision\":\"dismiss\",\"outcome\":\"dismissed\""));
    assert_non_null(strstr(first, "\"reason\":\"because\",\"by\":\"key:fleet/operations\""));
    assert_int_equal(audits(f, "acme"), 1);
    assert_books(f, PLAIN_COST, "0");
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", waiting[0]), E_CONFLICT);
    assert_non_null(strstr(f->err.msg, "decided already: dismiss by key:fleet/operations"));
    assert_int_equal(waits(f, "acme"), 0);
    post(f, &e, 1); /* the gateway says it again: that is decided */
    assert_answer(f, 0, 1, "");
    e.tokens[TOKENS_OUTPUT] = 201; /* that is not */
    post(f, &e, 1);
    assert_answer(f, 0, 0, "conflict");
    assert_int_equal(waits(f, "acme"), 1);
    assert_int_equal(decide(f, SUSPENSE_DISMISS, "acme", waiting[0]), 0);
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    e.tokens[TOKENS_OUTPUT] = 200;
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    assert_books(f, PLAIN_COST, "0");
}

static void test_adjust_conflict(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e;
    conflict_make(f, &e);
    same_answer(f, SUSPENSE_ADJUST, "acme", waiting[0]);
    assert_books(f, OTHER_COST, "0");
    (void)export(f, "acme", "2026-11", EXPORT_JSONL);
    const char *text = buf_cstr(&f->text);
    assert_int_equal(f->rows, 3);
    assert_non_null(strstr(text, "\"adjustment\":\"reversal\",\"adjusts\":\"2026-11/1\""));
    assert_non_null(strstr(text, "\"adjustment\":\"correction\",\"adjusts\":\"2026-11/1\""));
    assert_non_null(strstr(
        text, "{\"kind\":\"output\",\"quantity\":-100,\"unit_price\":\"0.000015\",\"amount\":\"-0.0015\"}"));
    assert_non_null(strstr(text, "\"amount\":\"-" PLAIN_COST "\"}"));
    (void)export(f, "acme", "2026-11", EXPORT_CSV);
    assert_non_null(strstr(buf_cstr(&f->text), ",output,-100,0.000015,-0.0015,USD,,2026-11/1\r\n"));

    /* Both reports again are duplicates; the truth can change once more, also to another model and day. */
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");
    e.model = "openai/gpt-5";
    e.tokens[TOKENS_CACHE_WRITE] = 0;
    e.time = "2026-11-05T11:30:00Z";
    post(f, &e, 1);
    assert_answer(f, 0, 0, "conflict");
    assert_int_equal(waits(f, "acme"), 1);
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", waiting[0]), 0);
    assert_books(f, "0.00325125", "0"); /* 1000 × 1.25 + 200 × 10 + 10 × 0.125, for a million */
    (void)export(f, "acme", "2026-11", EXPORT_JSONL);
    assert_int_equal(f->rows, 5);
    assert_null(strstr(buf_cstr(&f->text), "2026-11/3")); /* all of them name the original */
    const char *by = usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "model");
    assert_non_null(strstr(by, "\"model\":\"claude-sonnet-4-5\",\"input\":0,\"output\":0"));
}

/* The window and the period of the original are moved, not those of today. */
static void test_adjust_past_window(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    key_put(f, 0, "gw");
    e.time = "2026-10-25T00:30:00Z"; /* in Berlin the night the clocks go back */
    post(f, &e, 1);
    e.tokens[TOKENS_OUTPUT] = 200;
    post(f, &e, 1);
    assert_int_equal(waits(f, "acme"), 1);
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", waiting[0]), 0);
    assert_amount(budget(f, "acme", "month", "").spent, "0", "november");
    (void)export(f, "acme", "2026-11", EXPORT_CSV);
    assert_amount(f->total, "0", "november");
    (void)export(f, "acme", "2026-10", EXPORT_CSV);
    assert_int_equal(f->code, 0);
    assert_amount(f->total, OTHER_COST, "october");
}

static void test_adjust_finds_the_original(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e;
    conflict_make(f, &e);
    char id[STORE_KEY_MAX];
    memcpy(id, waiting[0], sizeof(id));
    struct mixed_event *many = mem_alloc(1000 * sizeof(*many));
    char(*ids)[32] = mem_alloc(1000 * sizeof(*ids));
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 1000; i++) {
            many[i] = plain_call;
            (void)snprintf(ids[i], sizeof(ids[i]), "m%d-%zu", round, i);
            many[i].id = ids[i];
            memset(many[i].tokens, 0, sizeof(many[i].tokens));
        }
        post(f, many, 1000);
    }
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", id), 0);
    assert_books(f, OTHER_COST, "0");
    mem_free(many);
    mem_free(ids);
}

static void test_retry_and_dismiss_unpriced(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e[] = {plain_call, plain_call};
    key_put(f, 0, "gw");
    e[0].model = e[1].model = "late";
    e[1].id = "never";
    post(f, e, 2);
    assert_int_equal(waits(f, "acme"), 2);
    char one[STORE_KEY_MAX];
    bool is_swapped = strstr(waiting[0], "never") != NULL;
    memcpy(one, waiting[is_swapped], sizeof(one));
    const char *never = waiting[!is_swapped];
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", one), E_CONFLICT);
    assert_int_equal(decide(f, SUSPENSE_RETRY, "acme", one), E_CONFLICT);
    assert_non_null(strstr(f->err.msg, "it stays in suspense: unpriced"));
    same_answer(f, SUSPENSE_DISMISS, "acme", never);
    assert_books(f, "0", "0");
    reload(f, PRICES "  late: {input: 1, output: 1, cache_read: 0, cache_write: 0}\n",
           BUDGET_MONTH BUDGET_EACH);
    same_answer(f, SUSPENSE_RETRY, "acme", one);
    assert_non_null(strstr(first, "\"outcome\":\"posted\",\"tenant\":\"acme\",\"namespace\":\"alice\""));
    assert_books(f, "0.0011", "0");
    post(f, e, 2); /* the one that was dismissed is not charged now that it has a price */
    assert_answer(f, 0, 2, "");
    e[1].tokens[0] = 1;
    post(f, &e[1], 1);
    assert_answer(f, 0, 0, "conflict");
    assert_int_equal(waits(f, "acme"), 1);
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", waiting[0]), 0); /* nothing stood: it is posted */
    assert_books(f, "0.001201", "0");
    assert_int_equal(waits(f, "acme"), 0);
}

static void test_nothing_there(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e;
    conflict_make(f, &e);
    static const char *const bad[] = {"", "x", ",,,,", "gw,x,req-1,model_call,y", "../../x", "gw/x/y/z/a"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(decide(f, SUSPENSE_DISMISS, "acme", bad[i]), E_NOT_FOUND);
    assert_int_equal(decide(f, SUSPENSE_DISMISS, "beta", waiting[0]), E_NOT_FOUND);
    assert_int_equal(decide(f, SUSPENSE_DISMISS, "", waiting[0]), E_NOT_FOUND);
    assert_int_equal(decide(f, SUSPENSE_DISMISS, "nobody", waiting[0]), E_NOT_FOUND);
    assert_int_equal(audits(f, "acme"), 0);
}

static void test_tenant_faults(void **state)
{
    (void)state;
    static const enum suspense_action kinds[] = {SUSPENSE_DISMISS, SUSPENSE_ADJUST};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        FAULTS({
            struct mixed_event e;
            conflict_make(f, &e);
            decide_through_faults(f, kinds[i], "acme", waiting[0], fault, at, is_killed);
            assert_books(f, kinds[i] == SUSPENSE_DISMISS ? PLAIN_COST : OTHER_COST, "0");
            assert_int_equal(audits(f, "acme"), 1);
            assert_int_equal(waits(f, "acme"), 0);
        })
    }
}

/* --- the fleet's --- */

static void test_attribute(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    post(f, &e, 1);
    assert_answer(f, 0, 0, "unknown_key");
    assert_int_equal(waits(f, ""), 1);
    assert_int_equal(decide(f, SUSPENSE_RETRY, "", waiting[0]), E_CONFLICT);
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "", waiting[0]), E_CONFLICT);
    same_answer(f, SUSPENSE_ATTRIBUTE, "", waiting[0]);
    assert_non_null(strstr(first, "\"decision\":\"attribute\",\"outcome\":\"posted\",\"tenant\":\"acme\","
                                  "\"namespace\":\"alice\",\"workspace\":\"dev\""));
    assert_int_equal(audits(f, ""), 1);
    assert_books(f, PLAIN_COST, "0");
    assert_int_equal(waits(f, ""), 0);
    assert_int_equal(decide(f, SUSPENSE_DISMISS, "", waiting[0]), E_CONFLICT);
    post(f, &e, 1); /* again from the gateway, with a key that is still unknown; and with one that is not */
    assert_answer(f, 0, 1, "");
    key_put(f, 0, "gw");
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    e.tokens[TOKENS_OUTPUT] = 200;
    post(f, &e, 1); /* it is the tenant's conflict */
    assert_answer(f, 0, 0, "conflict");
    assert_books(f, PLAIN_COST, OTHER_COST);
    assert_int_equal(waits(f, "acme"), 1);
    assert_int_equal(decide(f, SUSPENSE_ADJUST, "acme", waiting[0]), 0);
    assert_books(f, OTHER_COST, "0");
}

/* Attributed, but not to be posted there: it waits in the tenant's suspense, and is decided there. */
static void test_attribute_into_suspense(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    e.model = "late";
    post(f, &e, 1);
    assert_int_equal(waits(f, ""), 1);
    same_answer(f, SUSPENSE_ATTRIBUTE, "", waiting[0]);
    assert_non_null(strstr(first, "\"outcome\":\"suspended\",\"code\":\"unpriced\""));
    assert_int_equal(waits(f, ""), 0);
    assert_int_equal(waits(f, "acme"), 1);
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    reload(f, PRICES "  late: {input: 1, output: 1, cache_read: 0, cache_write: 0}\n",
           BUDGET_MONTH BUDGET_EACH);
    same_answer(f, SUSPENSE_RETRY, "acme", waiting[0]);
    assert_books(f, "0.0011", "0");
}

/* Its key was made for another gateway; its tenant's calls go to this one now. */
static void test_retry_after_a_move(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    post(f, &e, 1);
    assert_int_equal(waits(f, ""), 1);
    key_put(f, 0, "gw2");
    assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "", waiting[0]), E_CONFLICT);
    same_answer(f, SUSPENSE_RETRY, "", waiting[0]);
    assert_books(f, PLAIN_COST, "0");
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    assert_int_equal(waits(f, ""), 0);
}

static void test_attribute_conflicts(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    post(f, &e, 1);
    assert_int_equal(waits(f, ""), 1);
    key_put(f, 0, "gw");
    assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "", waiting[0]), E_CONFLICT);
    assert_non_null(strstr(f->err.msg, "retry it"));
    same_answer(f, SUSPENSE_RETRY, "", waiting[0]); /* whose it is, is known by now */
    assert_int_equal(audits(f, ""), 1);
    assert_books(f, PLAIN_COST, "0");
    post(f, &e, 1);
    assert_answer(f, 0, 1, "");
    /* Another report of an event that one tenant pays does not go to another. */
    e.key = 3;
    e.id = "theirs";
    post(f, &e, 1);
    assert_int_equal(waits(f, ""), 1);
    assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "", waiting[0]), 0);
    e.tokens[0] = 1;
    post(f, &e, 1);
    assert_int_equal(waits(f, ""), 1);
    struct billing_decision d = {.kind = SUSPENSE_ATTRIBUTE,
                                 .id = slice_str(waiting[0]),
                                 .reason = SL("r"),
                                 .to_tenant = SL("beta"),
                                 .owner = {.namespace = SL("zoe")}};
    f->is_done = false;
    billing_suspense_decide(f->billing, &d, on_json, f);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_CONFLICT);
    d.to_tenant = SL("nobody");
    f->is_done = false;
    billing_suspense_decide(f->billing, &d, on_json, f);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_INVALID);
    assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "", waiting[0]), 0);
    assert_non_null(strstr(buf_cstr(&f->text), "\"code\":\"conflict\""));
}

static void test_dismiss_unknown(void **state)
{
    struct fixture *f = *state;
    post(f, &plain_call, 1);
    assert_int_equal(waits(f, ""), 1);
    same_answer(f, SUSPENSE_DISMISS, "", waiting[0]);
    assert_int_equal(audits(f, ""), 1);
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");
    key_put(f, 0, "gw");
    post(f, &plain_call, 1);
    assert_answer(f, 0, 1, "");
    assert_books(f, "0", "0");
}

static void test_fleet_faults(void **state)
{
    (void)state;
    FAULTS({
        struct mixed_event e = plain_call;
        post(f, &e, 1);
        assert_int_equal(waits(f, ""), 1);
        decide_through_faults(f, SUSPENSE_ATTRIBUTE, "", waiting[0], fault, at, is_killed);
        assert_non_null(strstr(buf_cstr(&f->text), "\"outcome\":\"posted\""));
        assert_books(f, PLAIN_COST, "0");
        assert_int_equal(audits(f, ""), 1);
        assert_int_equal(audits(f, "acme"), 1);
        assert_int_equal(waits(f, ""), 0);
        post(f, &e, 1);
        assert_answer(f, 0, 1, "");
    })
    FAULTS({
        struct mixed_event e = plain_call;
        post(f, &e, 1);
        assert_int_equal(waits(f, ""), 1);
        key_put(f, 0, "gw");
        decide_through_faults(f, SUSPENSE_RETRY, "", waiting[0], fault, at, is_killed);
        assert_books(f, PLAIN_COST, "0");
        assert_int_equal(audits(f, ""), 1);
        assert_int_equal(audits(f, "acme"), 1);
        assert_int_equal(waits(f, ""), 0);
    })
}

/* Nobody asks again: the next start finishes what was begun. */
static void test_start_goes_on(void **state)
{
    struct fixture *f = *state;
    for (int at = 1; at <= 2; at++) {
        struct mixed_event e = plain_call;
        e.id = at == 1 ? "one" : "two";
        post(f, &e, 1);
        assert_int_equal(waits(f, ""), 1);
        f->store.fault = FAULT_REFUSED;
        f->store.commits_left = at;
        assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "", waiting[0]), E_STORE);
        f->store.fault = FAULT_NONE;
        char id[STORE_KEY_MAX];
        memcpy(id, waiting[0], sizeof(id));
        billing_down(f);
        billing_up(f);
        uint64_t end = uv_hrtime() + (uint64_t)WAIT_S * 1000000000u;
        while (waits(f, "") > 0)
            assert_true(uv_hrtime() < end);
        assert_int_equal(decide(f, SUSPENSE_ATTRIBUTE, "", id), 0);
        assert_books(f, at == 1 ? PLAIN_COST : "0.009036", "0");
    }
}

/* Shutting down in the middle of each of them: they are answered, and the same again completes them. */
static void test_close_in_flight(void **state)
{
    struct fixture *f = *state;
    static const enum suspense_action actions[] = {SUSPENSE_ATTRIBUTE, SUSPENSE_DISMISS, SUSPENSE_ADJUST};
    char ids[24][16];
    key_put(f, 0, "gw");
    for (int i = 0; i < 24; i++) {
        enum suspense_action action = actions[i % 3];
        const char *tenant = action == SUSPENSE_ATTRIBUTE ? "" : "acme";
        struct mixed_event e = plain_call;
        (void)snprintf(ids[i], sizeof(ids[i]), "c%d", i);
        e.id = ids[i];
        e.key = action == SUSPENSE_ATTRIBUTE ? 2 : 0;
        post(f, &e, 1);
        if (action != SUSPENSE_ATTRIBUTE) {
            e.tokens[TOKENS_OUTPUT] = 200;
            post(f, &e, 1);
        }
        assert_int_equal(waits(f, tenant), 1);
        struct billing_decision d = {.kind = action,
                                     .tenant = slice_str(tenant),
                                     .id = slice_str(waiting[0]),
                                     .reason = SL("because"),
                                     .actor = SL("key:fleet/operations"),
                                     .audit = SL("{}"),
                                     .to_tenant = SL("acme"),
                                     .owner = {.namespace = SL("alice")}};
        f->is_done = false;
        billing_suspense_decide(f->billing, &d, on_json, f);
        for (int turns = 0; turns < i / 3; turns++)
            (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        billing_down(f);
        until(f, &f->is_done);
        billing_up(f);
        char id[STORE_KEY_MAX];
        memcpy(id, waiting[0], sizeof(id));
        d.id = slice_str(id);
        f->is_done = false;
        billing_suspense_decide(f->billing, &d, on_json, f);
        until(f, &f->is_done);
        assert_int_equal(f->code, 0);
        assert_int_equal(waits(f, tenant), 0);
    }
    /* 8 attributed, 8 that stand, 8 adjusted */
    assert_books(f, "0.120432", "0");
}

/* --- the list --- */

static void test_filters(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e[40];
    char ids[40][8];
    all_keys_put(f);
    for (size_t i = 0; i < 40; i++) {
        e[i] = plain_call;
        (void)snprintf(ids[i], sizeof(ids[i]), "u%zu", i);
        e[i].id = ids[i];
        e[i].model = i % 4 == 0 ? "one" : "two";
        e[i].key = i % 8 == 0 ? 1 : 0;
        e[i].time = i < 10 ? "2026-11-04T10:00:00Z" : "2026-11-05T10:00:00Z";
    }
    post(f, e, 40);
    char hash[SHA256_HEX_SIZE];
    key_hash(1, hash);
    int64_t day;
    assert_int_equal(time_parse(SL("2026-11-05T00:00:00Z"), &day), 0);
    const struct {
        struct billing_suspense_query q;
        size_t n;
    } rows[] = {{{.model = {"one", 3}}, 10},
                {{.model = {"none", 4}}, 0},
                {{.namespace = {"bob", 3}}, 5},
                {{.key_hash = {hash, 64}}, 5},
                {{.gateway = {"gw", 2}, .key_hash = {hash, 64}}, 5},
                {{.gateway = {"gw2", 3}}, 0},
                {{.reason = {"unpriced", 8}}, 40},
                {{.reason = {"conflict", 8}}, 0},
                {{.to_ms = day}, 10},
                {{.from_ms = day}, 30},
                {{.from_ms = day, .model = {"one", 3}}, 7}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = 0;
        struct billing_suspense_query q = rows[i].q;
        char after[STORE_KEY_MAX] = "";
        q.tenant = SL("acme");
        q.limit = 3;
        do { /* page after page, each one once */
            struct json *root = NULL;
            q.after = slice_str(after);
            size_t page = list(f, q);
            assert_true(page <= 3);
            n += page;
            assert_int_equal(json_parse(buf_view(&f->text), NULL, &root, NULL), 0);
            struct slice next = json_string(json_get(root, "next"));
            (void)snprintf(after, sizeof(after), "%.*s", SL_ARG(next));
            json_free(root);
        } while (after[0] != '\0');
        assert_int_equal(n, rows[i].n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_dismiss_conflict),
        ON_BOTH(test_adjust_conflict),
        ON_BOTH(test_adjust_past_window),
        ON_BOTH(test_adjust_finds_the_original),
        ON_BOTH(test_retry_and_dismiss_unpriced),
        ON_BOTH(test_nothing_there),
        ON_BOTH(test_attribute),
        ON_BOTH(test_attribute_into_suspense),
        ON_BOTH(test_retry_after_a_move),
        ON_BOTH(test_attribute_conflicts),
        ON_BOTH(test_dismiss_unknown),
        ON_BOTH(test_start_goes_on),
        ON_BOTH(test_close_in_flight),
        ON_BOTH(test_filters),
        cmocka_unit_test(test_tenant_faults),
        cmocka_unit_test(test_fleet_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
