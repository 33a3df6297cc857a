/* i128: decimal text against values computed elsewhere, round trips of random values, limits of arithmetic.
 */
#include "base/core/i128.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/clock.h"
#include "base/core/err.h"
#include "base/core/mem.h"

enum { SEED = 20261101 };

static const struct {
    const char *text;
    unsigned scale;
    int rc;
    const char *value;
} VECTORS[] = {
#include "tests/unit/i128_vectors.inc"
};

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(VECTORS); i++) {
        i128 v = 4711;
        char text[I128_TEXT_MAX];
        int rc = i128_parse(slice_str(VECTORS[i].text), VECTORS[i].scale, true, &v);

        if (rc != VECTORS[i].rc)
            fail_msg("row %zu: %s scale %u: %d", i, VECTORS[i].text, VECTORS[i].scale, rc);
        if (rc != 0) {
            assert_true(v == 4711); /* untouched */
            continue;
        }
        (void)i128_format(v, 0, text);
        assert_string_equal(text, VECTORS[i].value);
        if (strpbrk(VECTORS[i].text, "eE") == NULL) {
            assert_int_equal(i128_parse(slice_str(VECTORS[i].text), VECTORS[i].scale, false, &v), 0);
        } else {
            assert_int_equal(i128_parse(slice_str(VECTORS[i].text), VECTORS[i].scale, false, &v), E_INVALID);
        }
    }
}

static void test_refused_texts(void **state)
{
    static const char *const BAD[] = {
        "",      "-",    "+1",    " 1",  "1 ",  "1.",    ".5",       "-.5",   "01",   "00",    "-01",
        "00.5",  "1..2", "1.2.3", "1,5", "0x1", "1e",    "1e+",      "1e-",   "e5",   "1e5.0", "1e 5",
        "1e++5", "--1",  "1-",    "inf", "nan", "1_000", "\xd9\xa1", "1e5e5", "1.e5", "1d",    "١",
    };
    i128 v = 5;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(BAD); i++)
        if (i128_parse(slice_str(BAD[i]), 18, true, &v) != E_INVALID || v != 5)
            fail_msg("accepted: \"%s\"", BAD[i]);
    assert_int_equal(i128_parse(SLICE_NULL, 0, true, &v), E_INVALID);
    assert_int_equal(i128_parse(slice_of("1\0", 2), 0, true, &v), E_INVALID);
    /* a view is not read past its end */
    assert_int_equal(i128_parse(slice_of("123", 2), 0, true, &v), 0);
    assert_true(v == 12);
    assert_int_equal(i128_parse(SL("1e99999999999999999999999999"), 0, true, &v), E_OVERFLOW);
    assert_int_equal(i128_parse(SL("1e-99999999999999999999999999"), 0, true, &v), E_INVALID);
}

static i128 random_i128(const struct rnd *r)
{
    unsigned char bytes[16];
    i128 v;

    rnd_fill(r, bytes, sizeof(bytes));
    v = i128_load(bytes);
    return v >> rnd_below(r, 128); /* all magnitudes */
}

static void test_round_trips(void **state)
{
    struct rnd_seeded r;

    (void)state;
    print_message("seed %d\n", SEED);
    rnd_seeded_init(&r, SEED);
    for (int i = 0; i < 20000; i++) {
        i128 v = i == 0 ? I128_MIN : i == 1 ? I128_MAX : random_i128(&r.rnd), back = 0;
        unsigned scale = (unsigned)rnd_below(&r.rnd, 39);
        char text[I128_TEXT_MAX];
        unsigned char bytes[16];
        size_t n = i128_format(v, scale, text);

        assert_int_equal(n, strlen(text));
        assert_true(n == 1 || strchr(text, '.') == NULL || text[n - 1] != '0');
        assert_int_equal(i128_parse(slice_of(text, n), scale, false, &back), 0);
        assert_true(back == v);
        i128_store(v, bytes);
        assert_true(i128_load(bytes) == v);
    }
}

static void test_format(void **state)
{
    static const struct {
        int64_t v;
        unsigned scale;
        const char *text;
    } ROWS[] = {{0, 0, "0"},          {0, 18, "0"},       {-5, 1, "-0.5"},
                {12345, 3, "12.345"}, {12300, 3, "12.3"}, {12000, 3, "12"},
                {-1, 0, "-1"},        {100, 0, "100"},    {1, 18, "0.000000000000000001"},
                {10, 1, "1"},         {-1000000, 6, "-1"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ROWS); i++) {
        char text[I128_TEXT_MAX];

        (void)i128_format(ROWS[i].v, ROWS[i].scale, text);
        assert_string_equal(text, ROWS[i].text);
    }
}

static void test_arithmetic(void **state)
{
    i128 v = 9;

    (void)state;
    assert_int_equal(i128_add(I128_MAX, 1, &v), E_OVERFLOW);
    assert_int_equal(i128_sub(I128_MIN, 1, &v), E_OVERFLOW);
    assert_int_equal(i128_mul(I128_MIN, -1, &v), E_OVERFLOW);
    assert_int_equal(i128_mul(I128_MAX, 2, &v), E_OVERFLOW);
    assert_true(v == 9);
    assert_int_equal(i128_add(I128_MAX, I128_MIN, &v), 0);
    assert_true(v == -1);
    assert_int_equal(i128_sub(-1, I128_MAX, &v), 0);
    assert_true(v == I128_MIN);
    assert_int_equal(i128_mul(INT64_MAX, INT64_MIN, &v), 0);
    assert_true(v == (i128)INT64_MAX * INT64_MIN);
}

static void test_stored_form_is_little_endian(void **state)
{
    unsigned char bytes[16];

    (void)state;
    i128_store(-2, bytes);
    assert_int_equal(bytes[0], 0xfe);
    for (int i = 1; i < 16; i++)
        assert_int_equal(bytes[i], 0xff);
    i128_store(0x0102, bytes);
    assert_int_equal(bytes[0], 2);
    assert_int_equal(bytes[1], 1);
    assert_int_equal(bytes[2], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),     cmocka_unit_test(test_refused_texts),
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_format),
        cmocka_unit_test(test_arithmetic),  cmocka_unit_test(test_stored_form_is_little_endian),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
