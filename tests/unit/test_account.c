/* What a workspace may still do on the way out, by a clock of the test; what of its decisions is kept and
 * audited. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "controller/edge/account.h"

#define DAY INT64_C(86400000)

static int open_one(struct account *a, int64_t now, const char **ret_reason)
{
    struct err err = {0};
    int code = account_open(a, "this workspace", 7, now, now, ret_reason, &err);
    assert_int_equal(code != 0, strstr(err.msg, "line 7 of the configuration") != NULL);
    return code;
}

static void connections_open(void **state)
{
    (void)state;
    struct account a = {.limits = {.tunnels = 2}};
    const char *reason = "";
    assert_int_equal(open_one(&a, 0, &reason), 0);
    assert_int_equal(open_one(&a, 0, &reason), 0);
    assert_int_equal(open_one(&a, 0, &reason), E_RATE);
    assert_string_equal(reason, "tunnels");
    account_closed(&a);
    assert_int_equal(open_one(&a, 0, &reason), 0);
}

static void new_ones_in_a_second(void **state)
{
    (void)state;
    struct account a = {.limits = {.new_per_second = 5}};
    const char *reason = "";
    for (int i = 0; i < 10; i++) /* twice as many at once */
        assert_int_equal(open_one(&a, 1000, &reason), 0);
    assert_int_equal(open_one(&a, 1000, &reason), E_RATE);
    assert_string_equal(reason, "new_per_second");
    assert_int_equal(open_one(&a, 1199, &reason), E_RATE);
    assert_int_equal(open_one(&a, 1200, &reason), 0); /* one in 200 ms */
    assert_int_equal(open_one(&a, 1200, &reason), E_RATE);
    for (int i = 0; i < 10; i++) /* an hour saves no more than that */
        assert_int_equal(open_one(&a, 3600000, &reason), 0);
    assert_int_equal(open_one(&a, 3600000, &reason), E_RATE);
    /* a refused one is not counted as open */
    assert_int_equal(a.n_open, 21);
}

static void bytes_in_a_second(void **state)
{
    (void)state;
    struct account a = {.limits = {.bytes_per_second = 1000}};
    assert_false(account_is_overdrawn(&a, 0));
    account_charge(&a, 1000, 0, 0);
    assert_false(account_is_overdrawn(&a, 0)); /* what was saved is spent, no more */
    account_charge(&a, 2000, 0, 0);
    assert_true(account_is_overdrawn(&a, 0));
    assert_true(account_is_overdrawn(&a, 1999));
    assert_false(account_is_overdrawn(&a, 2000));
    struct account none = {.limits = {.bytes_per_second = 0}};
    account_charge(&none, SIZE_MAX / 4, 0, 0);
    assert_false(account_is_overdrawn(&none, 0));
    /* the largest rate for the longest pause does not overflow */
    struct account most = {.limits = {.bytes_per_second = UINT64_C(1) << 40}};
    account_charge(&most, 1, 0, 0);
    assert_false(account_is_overdrawn(&most, INT64_MAX / 2));
}

static void bytes_in_a_window(void **state)
{
    (void)state;
    struct account a = {.limits = {.window_bytes = 1000, .window_ms = DAY}};
    const char *reason = "";
    int64_t noon = 100 * DAY + DAY / 2;
    account_charge(&a, 999, noon, noon);
    assert_false(account_is_exhausted(&a, noon));
    assert_int_equal(open_one(&a, noon, &reason), 0);
    account_charge(&a, 1, noon, noon);
    assert_true(account_is_exhausted(&a, noon));
    assert_int_equal(open_one(&a, noon, &reason), E_QUOTA);
    assert_string_equal(reason, "window_bytes");
    assert_true(account_is_exhausted(&a, 101 * DAY - 1));
    assert_false(account_is_exhausted(&a, 101 * DAY)); /* a new one */
    assert_int_equal(open_one(&a, 101 * DAY, &reason), 0);
}

static bool note(struct account *a, const char *target, enum decision_kind kind, int64_t now,
                 uint64_t *left_out)
{
    struct target t;
    struct verdict v = {.reason = "not_listed", .text = "no"};
    assert_int_equal(target_parse(slice_str(target), 0, &t, NULL), 0);
    *left_out = 0;
    return account_note(a, kind, &t, &v, now, now, left_out);
}

static void decisions(void **state)
{
    (void)state;
    struct account a = {.n_open = 0};
    uint64_t left_out;
    char name[64];
    assert_true(note(&a, "one.test:1", DECISION_REFUSED, 0, &left_out));
    for (int i = 1; i < 1000; i++) /* a loop of the same only counts */
        assert_false(note(&a, "one.test:1", DECISION_REFUSED, i, &left_out));
    assert_int_equal(a.n_decisions, 1);
    assert_int_equal(a.decisions[0].count, 1000);
    assert_int_equal(a.decisions[0].first_ms, 0);
    assert_int_equal(a.decisions[0].last_ms, 999);
    assert_false(note(&a, "one.test:1", DECISION_ALLOWED, 1000, &left_out)); /* not worth an entry */
    /* rationed: ten at once, then one in half a minute */
    int written = 1;
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof name, "n%d.test:1", i);
        written += note(&a, name, DECISION_REFUSED, 2000, &left_out);
    }
    assert_int_equal(written, 10);
    assert_false(note(&a, "later.test:1", DECISION_REFUSED, 29999, &left_out));
    assert_true(note(&a, "later.test:2", DECISION_REFUSED, 30000, &left_out));
    assert_int_equal(left_out, 91 + 1);             /* since the last entry */
    assert_int_equal(a.n_decisions, DECISIONS_MAX); /* the oldest went */
    for (size_t i = 0; i < a.n_decisions; i++)
        assert_string_not_equal(a.decisions[i].target, "one.test:1");
    assert_int_equal(a.by_kind[DECISION_REFUSED], 1102);
    account_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(connections_open),
                                       cmocka_unit_test(new_ones_in_a_second),
                                       cmocka_unit_test(bytes_in_a_second),
                                       cmocka_unit_test(bytes_in_a_window), cmocka_unit_test(decisions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
