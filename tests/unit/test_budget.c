/* budget: windows, gates, alterations of limits, restarts, other controllers; on the memory engine and on
 * SQLite. */
#include "billing/internal.h"

#include "tests/unit/billing_fixture.h"

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

/* Two controllers on one store: what one of them books, the other's gate knows after its next look. */
static void test_two_controllers(void **state)
{
    struct fixture *f = *state;
    struct billing *here = f->billing, *there = NULL;
    struct mixed_event e = plain_call;
    struct err err = {0};
    billing_up(f);
    there = f->billing;
    f->billing = here;
    key_put(f, 0, "gw");
    e.tokens[TOKENS_OUTPUT] = 700000;
    post(f, &e, 1);
    assert_int_equal(billing_gate(here, SL("acme"), SL("alice"), NULL, &err), E_BUDGET);
    assert_int_equal(billing_gate(there, SL("acme"), SL("alice"), NULL, &err), 0);
    billing_refresh(there); /* its timer would, every 15 s */
    while (there->is_refreshing)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_int_equal(billing_gate(there, SL("acme"), SL("alice"), NULL, &err), E_BUDGET);
    billing_close(there);
}

/* A look at the counters that takes long must not undo what commits have said meanwhile. */
static void test_old_news(void **state)
{
    struct fixture *f = *state;
    struct mixed_event e = plain_call;
    key_put(f, 0, "gw");
    post(f, &e, 1);
    f->store.is_holding = true;
    billing_refresh(f->billing);
    while (f->store.held == NULL)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    e.id = "req-2";
    post(f, &e, 1);
    assert_amount(budget(f, "acme", "month", "").spent, "0.009036", "month");
    held_release(&f->store);
    while (f->billing->is_refreshing)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_amount(budget(f, "acme", "month", "").spent, "0.009036", "month");
    assert_amount(budget(f, "acme", "each", "alice").spent, "0.009036", "each");
}

/* Each posting moves the counter of the window that holds its own time: over both changes of the clock, at
 * the borders of days, weeks and months, long after that window has ended. Starts are worked out by hand. */
static const struct {
    const char *time, *starts[3]; /* day in Berlin, week in New York, month in Berlin */
} bordering[] = {
    {"2026-10-24T22:30:00Z", {"2026-10-24T22", "2026-10-19T04", "2026-09-30T22"}}, /* a day of 25 h begins */
    {"2026-10-25T22:30:00Z", {"2026-10-24T22", "2026-10-19T04", "2026-09-30T22"}},
    {"2026-10-25T23:00:00Z", {"2026-10-25T23", "2026-10-19T04", "2026-09-30T22"}},
    {"2026-10-26T03:59:59.999Z", {"2026-10-25T23", "2026-10-19T04", "2026-09-30T22"}},
    {"2026-10-26T04:00:00Z",
     {"2026-10-25T23", "2026-10-26T04", "2026-09-30T22"}}, /* a week of 169 h begins */
    {"2026-11-02T04:59:59.999Z", {"2026-11-01T23", "2026-10-26T04", "2026-10-31T23"}},
    {"2026-11-02T05:00:00Z", {"2026-11-01T23", "2026-11-02T05", "2026-10-31T23"}},
    {"2026-10-31T22:59:59Z", {"2026-10-30T23", "2026-10-26T04", "2026-09-30T22"}},
    {"2026-10-31T23:00:00Z", {"2026-10-31T23", "2026-10-26T04", "2026-10-31T23"}},
    {"2026-03-29T21:59:59Z", {"2026-03-28T23", "2026-03-23T04", "2026-02-28T23"}}, /* a day of 23 h ends */
    {"2026-03-29T22:00:00Z", {"2026-03-29T22", "2026-03-23T04", "2026-02-28T23"}},
    {"2026-03-09T03:59:59Z", {"2026-03-08T23", "2026-03-02T05", "2026-02-28T23"}}, /* a week of 167 h ends */
    {"2026-03-09T04:00:00Z", {"2026-03-08T23", "2026-03-09T04", "2026-02-28T23"}},
    {"2026-03-31T21:59:59Z", {"2026-03-30T22", "2026-03-30T04", "2026-02-28T23"}},
    {"2026-03-31T22:00:00Z", {"2026-03-31T22", "2026-03-30T04", "2026-03-31T22"}},
};

static void on_counter(int code, const struct store_counter *c, size_t n, bool has_more,
                       const struct err *err, void *data)
{
    struct fixture *f = data;
    (void)has_more;
    f->total.v = n == 1 ? c[0].value : -1;
    on_done(code, err, f);
}

static void test_windows(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"day", "week", "month"};
    struct mixed_event e[ARRAY_LEN(bordering)];
    char ids[ARRAY_LEN(bordering)][8];
    reload(f, PRICES,
           "      - {name: day, scope: tenant, limit: 500 USD, window: day, timezone: Europe/Berlin}\n"
           "      - {name: week, scope: tenant, limit: 500 USD, window: week, timezone: America/New_York}\n"
           "      - {name: month, scope: tenant, limit: 500 USD, window: month, timezone: Europe/Berlin}\n");
    assert_int_equal(f->code, 0);
    key_put(f, 0, "gw");
    for (size_t i = 0; i < ARRAY_LEN(bordering); i++) {
        (void)snprintf(ids[i], sizeof(ids[i]), "w%zu", i);
        e[i] = (struct mixed_event){0,    ids[i], "claude-sonnet-4-5", bordering[i].time, {0, 1u << i, 0, 0},
                                    false};
    }
    post(f, e, ARRAY_LEN(bordering));
    assert_answer(f, ARRAY_LEN(bordering), 0, "");
    for (size_t i = 0; i < ARRAY_LEN(bordering); i++) {
        for (size_t b = 0; b < ARRAY_LEN(names); b++) {
            char key[100];
            i128 tokens = 0;
            for (size_t k = 0; k < ARRAY_LEN(bordering); k++)
                tokens += strcmp(bordering[k].starts[b], bordering[i].starts[b]) == 0 ? (i128)(1u << k) : 0;
            (void)snprintf(key, sizeof(key), "budget/%s/%s@%s:00:00Z/-/spent", names[b], names[b],
                           bordering[i].starts[b]);
            f->is_done = false;
            store_counters(f->engine, slice_str(tenancy_tenant(f->tenancy, SL("acme"))->id), slice_str(key),
                           SLICE_EMPTY, 1, on_counter, f);
            until(f, &f->is_done);
            if (f->total.v != tokens * (i128)15000000000000)
                fail_msg("%s: not what belongs there", key);
        }
    }
}

/* --- overrides --- */

static int wish(struct fixture *f, struct billing *b, struct override_wish w)
{
    w.actor = SL("key:acme/owner");
    f->err.msg[0] = '\0';
    f->is_done = false;
    billing_budget_change(b, SL("acme"), &w, SL("{\"action\":\"budget.set\"}"), on_done, f);
    assert_false(f->is_done);
    until(f, &f->is_done);
    return f->code;
}

static int put(struct fixture *f, bool is_fleet, const char *name, const char *limit)
{
    return wish(
        f, f->billing,
        (struct override_wish){.is_fleet = is_fleet, .name = slice_str(name), .limit = slice_str(limit)});
}

static int take_back(struct fixture *f, bool is_fleet, const char *name)
{
    return wish(f, f->billing,
                (struct override_wish){.is_fleet = is_fleet, .is_delete = true, .name = slice_str(name)});
}

static void refresh(struct fixture *f, struct billing *b)
{
    billing_refresh(b);
    while (b->is_refreshing)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
}

static void on_log(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                   void *data)
{
    struct fixture *f = data;
    (void)has_more;
    buf_reset(&f->text);
    for (size_t i = 0; i < n; i++)
        (void)buf_slice(&f->text, e[i].value);
    f->rows = n;
    on_done(code, err, f);
}

static size_t audits(struct fixture *f)
{
    f->is_done = false;
    store_log_read(f->engine, slice_str(tenancy_tenant(f->tenancy, SL("acme"))->id), SL("audit"), 0, 1000,
                   on_log, f);
    until(f, &f->is_done);
    return f->rows;
}

static void assert_limit(struct fixture *f, const char *name, const char *limit, bool is_tenants)
{
    struct billing_budget_view v = budget(f, "acme", name, "alice");
    assert_amount(v.limit, limit, name);
    assert_int_equal(v.is_tenants, is_tenants);
}

static void spend(struct fixture *f, const char *id, uint64_t output)
{
    struct mixed_event e = plain_call;
    e.id = id;
    memset(e.tokens, 0, sizeof(e.tokens));
    e.tokens[TOKENS_OUTPUT] = output;
    post(f, &e, 1);
    assert_answer(f, 1, 0, "");
}

static void test_operator_overrides(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    all_keys_put(f);
    spend(f, "a", 700000); /* 10.5 of each: 10 */
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), NULL, &err), E_BUDGET);
    assert_int_equal(put(f, true, "each", "20 USD"), 0);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), NULL, &err), 0);
    struct billing_budget_view v = budget(f, "acme", "each", "alice");
    assert_amount(v.spent, "10.5", "what was spent stays");
    assert_amount(v.file_limit, "10", "the file's");
    assert_true(v.is_override && v.has_file && !v.is_tenants);
    assert_string_equal(v.timezone.p, "America/New_York"); /* what was not said is as it was */
    assert_int_equal(audits(f), 1);
    assert_int_equal(put(f, true, "each", "20 USD"), 0); /* twice is once */
    assert_int_equal(audits(f), 1);
    assert_int_equal(put(f, true, "each", "5 USD"), 0);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("alice"), NULL, &err), E_BUDGET);
    assert_non_null(strstr(err.msg, "budget `each` of namespace alice: 10.5 of 5 USD spent"));
    assert_int_equal(put(f, true, "each", "30 USD"), 0);

    billing_down(f);
    billing_up(f);
    assert_limit(f, "each", "30", false);
    reload(f, PRICES, BUDGET_MONTH BUDGET_EACH); /* the file says of it what it said */
    assert_limit(f, "each", "30", false);
    reload(f, PRICES,
           BUDGET_EACH
           "      - {name: month, scope: tenant, limit: 400 USD, window: month}\n"); /* not of it */
    assert_limit(f, "each", "30", false);
    reload(
        f, PRICES,
        "      - {name: each, scope: namespace, limit: 11 USD, window: day, timezone: America/New_York}\n");
    assert_limit(f, "each", "11", false);
    uint64_t end = uv_hrtime() + (uint64_t)WAIT_S * 1000000000u;
    while (audits(f) < 4) { /* Reeve's own entry: nobody waits for it */
        assert_true(uv_hrtime() < end);
        (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    }
    assert_int_equal(f->rows, 4);
    assert_non_null(strstr(buf_cstr(&f->text), "budget.override_end"));
    reload(f, PRICES, BUDGET_EACH); /* it is gone for good */
    assert_limit(f, "each", "10", false);
    assert_int_equal(take_back(f, true, "each"), E_CONFLICT);
    assert_non_null(strstr(f->err.msg, "configuration file"));
    assert_int_equal(take_back(f, true, "nothing"), E_NOT_FOUND);

    /* A new one, with all it wants; and no more than its kind of errors. */
    assert_int_equal(put(f, true, "new", "1 USD"), E_INVALID);
    assert_non_null(strstr(f->err.msg, "scope: is wanted"));
    struct override_wish w = {.is_fleet = true,
                              .name = SL("new"),
                              .limit = SL("1 USD"),
                              .scope = SL("tenant"),
                              .window = SL("week"),
                              .timezone = SL("Asia/Kolkata")};
    assert_int_equal(wish(f, f->billing, w), 0);
    spend(f, "b", 66667); /* 1.000005 */
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("bob"), NULL, &err), E_BUDGET);
    assert_non_null(
        strstr(err.msg, "budget `new`: 1.000005 of 1 USD spent; it starts anew at 2026-11-08T18:30:00Z"));
    assert_int_equal(take_back(f, true, "new"), 0);
    assert_int_equal(billing_gate(f->billing, SL("acme"), SL("bob"), NULL, &err), 0);
    assert_int_equal(wish(f, f->billing, w), 0); /* the same window: it counts on */
    assert_amount(budget(f, "acme", "new", "").spent, "1.000005", "spent");
}

static void test_owner_lowers(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(put(f, false, "each", "10.01 USD"), E_FORBIDDEN);
    assert_non_null(strstr(f->err.msg, "limit: is above the operator's 10 USD"));
    assert_int_equal(put(f, false, "each", "4 USD"), 0);
    assert_limit(f, "each", "4", true);
    assert_int_equal(put(f, false, "each", "9 USD"), 0); /* its own it may raise again */
    assert_limit(f, "each", "9", true);
    struct override_wish w = {.name = SL("each"), .limit = SL("1 USD"), .window = SL("month")};
    assert_int_equal(wish(f, f->billing, w), E_FORBIDDEN);
    assert_non_null(strstr(f->err.msg, "window: the budget is the operator's"));
    assert_int_equal(take_back(f, false, "month"), E_FORBIDDEN);

    /* The operator's word replaces it; taking its own back gives that, and no more. */
    assert_int_equal(put(f, true, "each", "6 USD"), 0);
    assert_limit(f, "each", "6", false);
    assert_int_equal(put(f, false, "each", "8 USD"), E_FORBIDDEN);
    assert_int_equal(put(f, false, "each", "2 USD"), 0);
    assert_limit(f, "each", "2", true);
    assert_int_equal(take_back(f, false, "each"), 0);
    assert_limit(f, "each", "6", false);
    assert_int_equal(take_back(f, false, "each"), E_FORBIDDEN);
    assert_int_equal(take_back(f, true, "each"), 0);
    assert_limit(f, "each", "10", false);

    struct override_wish own = {
        .name = SL("own"), .limit = SL("3 USD"), .scope = SL("namespace"), .window = SL("day")};
    assert_int_equal(wish(f, f->billing, own), 0);
    assert_limit(f, "own", "3", true);
    assert_int_equal(put(f, false, "own", "7 USD"), 0);
    assert_int_equal(take_back(f, false, "own"), 0);
    struct billing_budget_view v;
    assert_int_equal(billing_budget_find(f->billing, SL("acme"), SL("own"), SLICE_EMPTY, &v), E_NOT_FOUND);
}

static void test_wishes_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct override_wish w;
        int code;
        const char *says;
    } rows[] = {
        {{.name = {"Each", 4}, .limit = {"1 USD", 5}}, E_INVALID, "name: "},
        {{.name = {"each", 4}, .limit = {"1", 1}}, E_INVALID, "limit: expected"},
        {{.name = {"each", 4}, .limit = {"-1 USD", 6}}, E_INVALID, "limit: "},
        {{.name = {"each", 4}, .limit = {"1 EUR", 5}}, E_INVALID, "limit: is in EUR, but prices are in USD"},
        {{.name = {"each", 4}, .scope = {"user", 4}}, E_INVALID, "scope: "},
        {{.name = {"each", 4}, .window = {"year", 4}}, E_INVALID, "window: "},
        {{.name = {"each", 4}, .timezone = {"Mars/Olympus", 12}}, E_INVALID, "timezone: "},
        {{.name = {"each", 4}, .at_limit = {"suspend", 7}}, E_INVALID, "at_limit: "},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct override_wish w = rows[i].w;
        w.is_fleet = true;
        assert_int_equal(wish(f, f->billing, w), rows[i].code);
        if (strncmp(f->err.msg, rows[i].says, strlen(rows[i].says)) != 0)
            fail_msg("%s, expected %s", f->err.msg, rows[i].says);
    }
    assert_int_equal(audits(f), 0);
    assert_limit(f, "each", "10", false);
    for (int i = 0; i <= OVERRIDES_MAX; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "b%d", i);
        struct override_wish w = {
            .name = slice_str(name), .limit = SL("1 USD"), .scope = SL("tenant"), .window = SL("day")};
        assert_int_equal(wish(f, f->billing, w), i < OVERRIDES_MAX ? 0 : E_QUOTA);
    }
    assert_int_equal(take_back(f, false, "b7"), 0);
    assert_int_equal(put(f, false, "each", "1 USD"), 0); /* a place is free again */
    key_put(f, 0, "gw");
    spend(f, "a", 1); /* every budget there can be takes part in a commit */
    assert_amount(budget(f, "acme", "b99", "").spent, "0.000015", "b99");
}

/* What is set at one controller is in force at the other after its next look, also when both were asked. */
static void test_overrides_elsewhere(void **state)
{
    struct fixture *f = *state;
    struct billing *here = f->billing, *there = NULL;
    struct err err = {0};
    key_put(f, 0, "gw");
    billing_up(f);
    there = f->billing;
    f->billing = here;
    assert_int_equal(put(f, true, "each", "0 USD"), 0);
    assert_int_equal(billing_gate(there, SL("acme"), SL("alice"), NULL, &err), 0);
    refresh(f, there);
    assert_int_equal(billing_gate(there, SL("acme"), SL("alice"), NULL, &err), E_BUDGET);
    f->billing = there;
    assert_int_equal(put(f, true, "each", "12 USD"), 0);
    f->billing = here;
    assert_int_equal(put(f, true, "month", "13 USD"), 0);
    refresh(f, here);
    refresh(f, there);
    for (int i = 0; i < 2; i++) {
        f->billing = i == 0 ? here : there;
        assert_limit(f, "each", "12", false);
        assert_limit(f, "month", "13", false);
    }
    f->billing = here;
    assert_int_equal(take_back(f, true, "each"), 0);
    refresh(f, there);
    f->billing = there;
    assert_limit(f, "each", "10", false);
    f->billing = here;
    billing_close(there);
}

/* The commit fails, or nobody hears of it: the next look, or asking again, gives what the store has. */
static void test_overrides_and_faults(void **state)
{
    struct fixture *f = *state;
    for (int lost = 0; lost < 2; lost++) {
        f->store.fault = lost ? FAULT_ANSWER_LOST : FAULT_REFUSED;
        f->store.commits_left = 0;
        assert_int_equal(put(f, true, "each", "42 USD"), E_STORE);
        f->store.fault = FAULT_NONE;
        while (f->billing->is_refreshing)
            (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
        assert_limit(f, "each", lost ? "42" : "10", false);
    }
    assert_int_equal(put(f, true, "each", "42 USD"), 0);
    assert_limit(f, "each", "42", false);
    assert_int_equal(audits(f), 1);
}

struct page {
    struct fixture *f;
    size_t n;
    char names[500][8], next[16];
    struct amount sum;
};

static void on_instances(int code, const struct billing_budget_view *v, size_t n, struct slice next,
                         const struct err *err, void *data)
{
    struct page *p = data;
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(p->names[p->n++], sizeof(p->names[0]), "%.*s", SL_ARG(v[i].namespace));
        assert_int_equal(amount_add(p->sum, v[i].spent, &p->sum), 0);
    }
    (void)snprintf(p->next, sizeof(p->next), "%.*s", SL_ARG(next));
    on_done(code, err, p->f);
}

static void test_instances(void **state)
{
    struct fixture *f = *state;
    struct page p = {.f = f, .sum = usd("0")};
    all_keys_put(f);
    struct mixed_event e[] = {plain_call, plain_call};
    e[1].key = 1;
    post(f, e, 2);
    e[1].tokens[0] = 5; /* a conflict: unsettled */
    post(f, &e[1], 1);
    do {
        f->is_done = false;
        billing_budget_instances(f->billing, SL("acme"), SL("each"), slice_str(p.next), 1, on_instances, &p);
        until(f, &f->is_done);
        assert_int_equal(f->code, 0);
    } while (p.next[0] != '\0');
    assert_int_equal(p.n, 2);
    assert_string_equal(p.names[0], "alice");
    assert_string_equal(p.names[1], "bob");
    assert_amount(p.sum, "0.009036", "sum");
    f->is_done = false;
    billing_budget_instances(f->billing, SL("acme"), SL("nothing"), SLICE_EMPTY, 1, on_instances, &p);
    until(f, &f->is_done);
    assert_int_equal(f->code, E_NOT_FOUND);
}

/* Shutting down in the middle: everybody is answered, and what was done is done. */
static void test_close_in_flight(void **state)
{
    struct fixture *f = *state;
    struct page p = {.f = f, .sum = usd("0")};
    for (int turns = 0; turns < 10; turns++) {
        char limit[16];
        (void)snprintf(limit, sizeof(limit), "%d USD", turns + 1);
        struct override_wish w = {.is_fleet = true, .name = SL("each"), .limit = slice_str(limit)};
        f->is_done = false;
        billing_budget_change(f->billing, SL("acme"), &w, SL("{}"), on_done, f);
        for (int i = 0; i < turns; i++)
            (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        billing_down(f);
        until(f, &f->is_done);
        bool was_done = f->code == 0;
        billing_up(f);
        if (was_done)
            assert_amount(budget(f, "acme", "each", "alice").limit, strtok(limit, " "), "limit");
        f->is_done = false;
        billing_budget_instances(f->billing, SL("acme"), SL("each"), SLICE_EMPTY, 1, on_instances, &p);
        for (int i = 0; i < turns % 3; i++)
            (void)uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        billing_down(f);
        until(f, &f->is_done);
        billing_up(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_gate),
        ON_BOTH(test_next_window_is_not_forgotten),
        ON_BOTH(test_reloads),
        ON_BOTH(test_two_controllers),
        ON_BOTH(test_old_news),
        ON_BOTH(test_windows),
        ON_BOTH(test_operator_overrides),
        ON_BOTH(test_owner_lowers),
        ON_BOTH(test_wishes_refused),
        ON_BOTH(test_overrides_elsewhere),
        ON_BOTH(test_overrides_and_faults),
        ON_BOTH(test_instances),
        ON_BOTH(test_close_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
