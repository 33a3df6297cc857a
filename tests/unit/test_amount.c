/* amount: text to integer and back, sums, overflow, currencies. */
#include "billing/amount.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/clock.h"
#include "base/core/mem.h"

enum { SEED = 20261101 };

static struct amount usd(const char *text)
{
    struct amount a;
    struct err err = {0};
    if (amount_of(slice_str(text), SL("USD"), &a, &err) != 0)
        fail_msg("%s: %s", text, err.msg);
    return a;
}

static void assert_text(struct amount a, const char *expected)
{
    char text[I128_TEXT_MAX];
    assert_int_equal(amount_format(a, text), strlen(expected));
    assert_string_equal(text, expected);
}

static void test_text(void **state)
{
    static const char *const same[] = {"0",
                                       "1",
                                       "-1",
                                       "0.000000000000000001",
                                       "-0.5",
                                       "12.345",
                                       "170000000000000000000",
                                       "0.000002",
                                       "123456789.123456789123456789"};
    static const char *const bad[] = {"",    "+1",   "1.",  ".5",  "1e3",
                                      "01",  " 1",   "1 ",  "1,5", "0.0000000000000000001",
                                      "nan", "0x10", "--1", "-",   "1.2.3"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        assert_text(usd(same[i]), same[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct amount a;
        struct err err = {0};
        if (amount_of(slice_str(bad[i]), SL("USD"), &a, &err) != E_INVALID)
            fail_msg("taken: `%s`", bad[i]);
        assert_true(err.msg[0] != '\0');
    }
    struct amount a;
    assert_int_equal(amount_of(SL("171000000000000000000"), SL("USD"), &a, NULL), E_OVERFLOW);
    static const char *const currencies[] = {"", "usd", "US", "USDX", "U1D"};
    for (size_t i = 0; i < ARRAY_LEN(currencies); i++)
        assert_int_equal(amount_of(SL("1"), slice_str(currencies[i]), &a, NULL), E_INVALID);
}

static void test_sums(void **state)
{
    struct amount a, eur;
    (void)state;
    assert_int_equal(amount_add(usd("0.1"), usd("0.2"), &a), 0);
    assert_text(a, "0.3"); /* what no double can do */
    assert_int_equal(amount_sub(usd("0.1"), usd("0.3"), &a), 0);
    assert_text(a, "-0.2");
    assert_int_equal(amount_times(usd("0.000003"), 1000000, &a), 0);
    assert_text(a, "3");
    assert_true(amount_cmp(usd("1"), usd("2")) < 0 && amount_cmp(usd("2"), usd("1")) > 0);
    assert_int_equal(amount_cmp(usd("-1"), usd("-1")), 0);
    assert_int_equal(amount_of(SL("1"), SL("EUR"), &eur, NULL), 0);
    assert_int_equal(amount_add(usd("1"), eur, &a), E_INVALID);
    assert_int_equal(amount_sub(usd("1"), eur, &a), E_INVALID);
}

static void test_overflow_is_an_error(void **state)
{
    struct amount top = {I128_MAX, "USD"}, low = {I128_MIN, "USD"}, one = {1, "USD"}, a = {7, "USD"};
    (void)state;
    assert_int_equal(amount_add(top, one, &a), E_OVERFLOW);
    assert_int_equal(amount_sub(low, one, &a), E_OVERFLOW);
    assert_int_equal(amount_times(top, 2, &a), E_OVERFLOW);
    assert_int_equal(amount_times(usd("1000"), UINT64_MAX, &a), E_OVERFLOW);
    assert_true(a.v == 7); /* untouched */
    assert_int_equal(amount_times(top, 1, &a), 0);
    assert_int_equal(amount_times(top, 0, &a), 0);
    assert_true(a.v == 0);
}

/* A thousand prices times counts, added in two orders: the same sum, and the same as one multiplication. */
static void test_no_order_matters(void **state)
{
    struct rnd_seeded r;
    struct amount forward = usd("0"), backward = usd("0"), products[1000], total;
    uint64_t n = 0;
    (void)state;
    print_message("seed %d\n", SEED);
    rnd_seeded_init(&r, SEED);
    for (size_t i = 0; i < ARRAY_LEN(products); i++) {
        uint64_t quantity = rnd_below(&r.rnd, 1000000);
        n += quantity;
        assert_int_equal(amount_times(usd("0.000000300000000001"), quantity, &products[i]), 0);
        assert_int_equal(amount_add(forward, products[i], &forward), 0);
    }
    for (size_t i = ARRAY_LEN(products); i-- > 0;)
        assert_int_equal(amount_add(backward, products[i], &backward), 0);
    assert_int_equal(amount_times(usd("0.000000300000000001"), n, &total), 0);
    assert_int_equal(amount_cmp(forward, backward), 0);
    assert_int_equal(amount_cmp(forward, total), 0);
}

static void test_json(void **state)
{
    struct buf b = BUF_INIT(200);
    struct jsonw w;
    (void)state;
    jsonw_init(&w, &b);
    jsonw_object(&w);
    jsonw_amount(&w, "cost", usd("12.345"));
    jsonw_object_end(&w);
    assert_string_equal(buf_cstr(&b), "{\"cost\":{\"amount\":\"12.345\",\"currency\":\"USD\"}}");
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_overflow_is_an_error),
        cmocka_unit_test(test_no_order_matters),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
