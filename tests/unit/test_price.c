/* price: price files to exact amounts; every problem with its place. */
#include "billing/price.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"

struct fixture {
    struct tenancy tenancy;
    struct arena arena;
    struct config_problems problems;
    struct price_table *table;
    struct buf text;
};

static int load(struct fixture *f, const char *yaml)
{
    memset(f, 0, sizeof(*f));
    config_problems_init(&f->problems);
    buf_init(&f->text, 100000);
    f->tenancy.prices.file = SL("prices.yaml");
    struct yaml_node *root = NULL;
    assert_int_equal(yaml_parse(&f->arena, "prices.yaml", slice_str(yaml), &f->problems, &root), 0);
    f->tenancy.prices.root = root;
    int rc = price_table_new(&f->tenancy, &f->problems, &f->table);
    config_problems_print(&f->problems, &f->text);
    return rc;
}

static void unload(struct fixture *f)
{
    price_table_free(f->table);
    config_problems_fini(&f->problems);
    arena_fini(&f->arena);
    buf_fini(&f->text);
}

#define HEAD "currency: USD\nversion: \"2026-11-01\"\nmodels:\n"

static void assert_unit(const struct price_model *m, enum token_kind kind, const char *per_token)
{
    struct amount a;
    assert_non_null(m);
    assert_true(m->has[kind]);
    assert_int_equal(amount_of(slice_str(per_token), SL("USD"), &a, NULL), 0);
    assert_true(m->unit[kind] == a.v);
}

static void test_prices(void **state)
{
    struct fixture f;
    (void)state;
    assert_int_equal(load(&f, HEAD
                          "  claude-sonnet-4-5: {input: 3, output: 15, cache_read: 0.30, cache_write: 3.75}\n"
                          "  \"openai/gpt: x\": {input: \"0.075\", output: 0}\n"
                          "  tiny: {input: 0.000000000001, output: 0.002}\n"),
                     0);
    assert_string_equal(price_currency(f.table), "USD");
    assert_true(slice_eq_str(price_version(f.table), "2026-11-01"));
    const struct price_model *m = price_find(f.table, SL("claude-sonnet-4-5"));
    assert_unit(m, TOKENS_INPUT, "0.000003");
    assert_unit(m, TOKENS_OUTPUT, "0.000015");
    assert_unit(m, TOKENS_CACHE_READ, "0.0000003");
    assert_unit(m, TOKENS_CACHE_WRITE, "0.00000375");
    m = price_find(f.table, SL("openai/gpt: x"));
    assert_unit(m, TOKENS_INPUT, "0.000000075");
    assert_unit(m, TOKENS_OUTPUT, "0"); /* free, said so */
    assert_false(m->has[TOKENS_CACHE_READ]);
    m = price_find(f.table, SL("tiny"));
    assert_unit(m, TOKENS_INPUT, "0.000000000000000001"); /* the last digit there is */
    assert_unit(m, TOKENS_OUTPUT, "0.000000002");
    assert_null(price_find(f.table, SL("claude-sonnet-4")));
    assert_null(price_find(f.table, SLICE_EMPTY));
    assert_true(price_is_given(f.table));
    unload(&f);
}

static void test_no_file(void **state)
{
    struct tenancy none = {0};
    struct price_table *t = NULL;
    (void)state;
    assert_int_equal(price_table_new(&none, NULL, &t), 0);
    assert_false(price_is_given(t));
    assert_null(price_find(t, SL("m")));
    assert_string_equal(price_currency(t), "USD");
    price_table_free(t);
}

static void test_problems(void **state)
{
    static const struct {
        const char *yaml, *place, *says;
    } rows[] = {
        {HEAD "  m: {input: 0.08333333333333334}\n", "prices.yaml:4:14:", "floating point"},
        {HEAD "  m: {input: 0.18000000000000002}\n", "prices.yaml:4:14:", "floating point"},
        {HEAD "  m: {input: -3}\n", "prices.yaml:4:14:", "negative"},
        {HEAD "  m: {input: 7.5e-08}\n", "prices.yaml:4:14:", "not a decimal number"},
        {HEAD "  m: {input: three}\n", "prices.yaml:4:14:", "not a decimal number"},
        {HEAD "  m: {input: }\n", "prices.yaml:4:", "not a decimal number"},
        {HEAD "  m: {input: [3]}\n", "prices.yaml:4:14:", "expected a decimal number"},
        {HEAD "  m: {inptu: 3}\n", "prices.yaml:4:7:", "unknown kind of price `inptu`"},
        {HEAD "  m: {}\n", "prices.yaml:4:6:", "expected prices"},
        {HEAD "  m: 3\n", "prices.yaml:4:6:", "expected prices"},
        {HEAD "  m: {input: 99999999999999999999999999999999999}\n", "prices.yaml:4:14:", "too large"},
        {"currency: usd\nversion: a\nmodels: {m: {input: 3}}\n",
         "prices.yaml:1:11:", "three capital letters"},
        {"currency: USD\nmodels: {m: {input: 3}}\n", "prices.yaml:1:1:", "missing key `version`"},
        {"version: a\nmodels: {m: {input: 3}}\n", "prices.yaml:1:1:", "missing key `currency`"},
        {"currency: USD\nversion: a\n", "prices.yaml:1:1:", "missing key `models`"},
        {"currency: USD\nversion: \"\"\nmodels: {m: {input: 3}}\n", "prices.yaml:2:10:", "version"},
        {"currency: USD\nversion: a\nmodels: [m]\n", "prices.yaml:3:9:", "models: expected names"},
        {"currency: USD\nversion: a\nprices: 3\nmodels: {m: {input: 3}}\n",
         "prices.yaml:3:1:", "unknown key `prices`"},
        {"- currency\n", "prices.yaml:1:1:", "expected currency, version and models"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fixture f;
        if (load(&f, rows[i].yaml) != E_INVALID)
            fail_msg("taken:\n%s", rows[i].yaml);
        if (strstr(buf_cstr(&f.text), rows[i].place) == NULL ||
            strstr(buf_cstr(&f.text), rows[i].says) == NULL)
            fail_msg("%s\ndoes not say `%s` at %s", buf_cstr(&f.text), rows[i].says, rows[i].place);
        unload(&f);
    }
}

static void test_all_problems_at_once(void **state)
{
    struct fixture f;
    (void)state;
    assert_int_equal(
        load(&f, "currency: usd\nversion: a\nmodels:\n  a: {input: -1, output: x}\n  b: {in: 1}\n"),
        E_INVALID);
    assert_int_equal(f.problems.n, 4);
    unload(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prices),
        cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_all_problems_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
