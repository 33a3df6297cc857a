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

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_gate),     ON_BOTH(test_next_window_is_not_forgotten),
        ON_BOTH(test_reloads),  ON_BOTH(test_two_controllers),
        ON_BOTH(test_old_news),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
