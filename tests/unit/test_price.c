/* price: price files to exact amounts; every problem with its place. */
#include "billing/price.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"

struct fixture {
    struct config_prices prices;
    struct config_price_file files[3];
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
    struct yaml_node *root = NULL;
    assert_int_equal(yaml_parse(&f->arena, "prices.yaml", slice_str(yaml), &f->problems, &root), 0);
    f->files[0] = (struct config_price_file){SL("prices.yaml"), root};
    f->prices.files = f->files;
    f->prices.n_files = 1;
    int rc = price_table_new(&f->prices, &f->problems, &f->table);
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

static const struct price_model *find(const struct fixture *f, struct slice model)
{
    return price_find(f->table, &(struct price_query){.model = model}, NULL);
}

static void assert_unit(const struct price_model *m, enum token_kind kind, const char *per_token)
{
    struct amount a;
    assert_non_null(m);
    assert_true(m->tiers[0].rates.has[kind]);
    assert_int_equal(amount_of(slice_str(per_token), SL("USD"), &a, NULL), 0);
    assert_true(m->tiers[0].rates.unit[kind] == a.v);
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
    const struct price_model *m = find(&f, SL("claude-sonnet-4-5"));
    assert_unit(m, TOKENS_INPUT, "0.000003");
    assert_unit(m, TOKENS_OUTPUT, "0.000015");
    assert_unit(m, TOKENS_CACHE_READ, "0.0000003");
    assert_unit(m, TOKENS_CACHE_WRITE, "0.00000375");
    m = find(&f, SL("openai/gpt: x"));
    assert_unit(m, TOKENS_INPUT, "0.000000075");
    assert_unit(m, TOKENS_OUTPUT, "0"); /* free, said so */
    assert_false(m->tiers[0].rates.has[TOKENS_CACHE_READ]);
    m = find(&f, SL("tiny"));
    assert_unit(m, TOKENS_INPUT, "0.000000000000000001"); /* the last digit there is */
    assert_unit(m, TOKENS_OUTPUT, "0.000000002");
    assert_null(find(&f, SL("claude-sonnet-4")));
    assert_null(find(&f, SLICE_EMPTY));
    assert_true(price_is_given(f.table));
    unload(&f);
}

static void test_no_file(void **state)
{
    struct config_prices none = {0};
    struct price_table *t = NULL;
    (void)state;
    assert_int_equal(price_table_new(&none, NULL, &t), 0);
    assert_false(price_is_given(t));
    assert_null(price_find(t, &(struct price_query){.model = SL("m")}, NULL));
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
        {HEAD "  m: {input: 3}\nfactor: 0\n", "prices.yaml:5:9:", "factor: expected"},
        {HEAD "  m: {input: 3}\nfactor: 1.0000001\n", "prices.yaml:5:9:", "factor: expected"},
        {HEAD "  m: {input: 3}\ngroups: [m]\n", "prices.yaml:5:9:", "groups: expected"},
        {HEAD "  m: {input: 3}\ngroups: {g: m}\n", "prices.yaml:5:13:", "expected 1 to 100 names"},
        {HEAD "  m: {input: 3}\ngroups: {g: [m, n]}\n", "prices.yaml:5:17:", "has a model `n`"},
        {HEAD "  m: {input: 3}\ngroups: {g: [m, g]}\n", "prices.yaml:5:17:", "has a model `g`"},
        {HEAD "  m: {input: 3, tiers: 4}\n", "prices.yaml:4:24:", "tiers: expected a list"},
        {HEAD "  m: {input: 3, tiers: [{above: 0, input: 4}]}\n", "prices.yaml:4:25:", "expected `above`"},
        {HEAD "  m: {input: 3, tiers: [{above: 9}]}\n", "prices.yaml:4:25:", "expected `above`"},
        {HEAD "  m: {tiers: [{above: 9, input: 1}, {above: 9, input: 2}]}\n",
         "prices.yaml:4:45:", "must ascend"},
        {HEAD "  m: {input: 3, provider: []}\n", "prices.yaml:4:27:", "provider: expected"},
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

static int load_files(struct fixture *f, const char *const *yaml, size_t n)
{
    static const char *const names[] = {"prices.yaml", "more.yaml", "base.yaml"};
    memset(f, 0, sizeof(*f));
    config_problems_init(&f->problems);
    buf_init(&f->text, 100000);
    for (size_t i = 0; i < n; i++) {
        f->files[i].path = slice_str(names[i]);
        assert_int_equal(yaml_parse(&f->arena, names[i], slice_str(yaml[i]), &f->problems, &f->files[i].root),
                         0);
    }
    f->prices.files = f->files;
    f->prices.n_files = n;
    int rc = price_table_new(&f->prices, &f->problems, &f->table);
    config_problems_print(&f->problems, &f->text);
    return rc;
}

/* Which row prices (model, group, provider), and by what; "" is what was not said. */
static void test_precedence(void **state)
{
    static const char *const yaml[] = {HEAD
                                       "  gpt-4o: {provider: openai, input: 2.5, output: 10}\n"
                                       "  azure/gpt-4o: {provider: azure, input: 3, output: 12}\n"
                                       "  us.anthropic.claude: {provider: bedrock_converse, input: 4}\n"
                                       "  claude-v: {provider: vertex_ai-anthropic_models, input: 5}\n"
                                       "  anyone: {input: 6}\n"
                                       "  anthropic/claude: {provider: anthropic, input: 7}\n"
                                       "  openrouter/anthropic/claude: {provider: openrouter, input: 8}\n"
                                       "  instruct: {provider: text-completion-openai, input: 9}\n"
                                       "groups:\n"
                                       "  fast: [gpt-4o, anyone]\n"
                                       "  anyone: [anyone, anthropic/claude]\n"};
    static const struct {
        const char *model, *group, *provider, *row, *how;
    } rows[] = {
        /* a name alone */
        {"gpt-4o", "", "", "gpt-4o", "the row of this name"},
        {"openai/gpt-4o", "", "", "gpt-4o", "without the provider"},
        {"azure/gpt-4o", "", "", "azure/gpt-4o", "the row of this name"},
        {"groq/gpt-4o", "", "", NULL, "no name"}, /* the row is openai's */
        {"groq/anyone", "", "", "anyone", "without the provider"},
        {"anyone", "", "", "anyone*", "the group"}, /* a group of that name is dearer than the row */
        {"fast", "", "", "fast*", "the group"},
        {"claude", "", "", NULL, "no name"},            /* no provider is guessed */
        {"gpt-4o-2024-08-06", "", "", NULL, "no name"}, /* no date is guessed */
        {"GPT-4o", "", "", NULL, "no name"},
        {"/gpt-4o", "", "", NULL, "no name"},
        {"gpt-4o/", "", "", NULL, "no name"},
        {"", "", "", NULL, "no name"},
        /* as LiteLLM reports */
        {"openai/gpt-4o", "gpt-4o", "openai", "gpt-4o", "without the provider"},
        {"gpt-4o", "gpt-4o", "openai", "gpt-4o", "as it was reported"},
        {"gpt-4o", "gpt-4o", "azure", "azure/gpt-4o", "the provider and the model"},
        {"azure/gpt-4o", "gpt-4o", "azure", "azure/gpt-4o", "the provider and the model"},
        {"azure/my-deployment", "gpt-4o", "azure", "azure/gpt-4o", "provider and the name that"},
        {"my-deployment", "gpt-4o", "openai", "gpt-4o", "the name that the model was called by"},
        {"groq/my-deployment", "gpt-4o", "groq", NULL, "no name"}, /* never the other provider's row */
        {"groq/my-deployment", "fast", "groq", "fast*", "the group"},
        {"groq/my-deployment", "anyone", "groq", "anyone*", "the group"},
        {"groq/anyone", "anyone", "groq", "anyone", "without the provider"}, /* what was called goes first */
        {"bedrock/us.anthropic.claude", "sonnet", "bedrock", "us.anthropic.claude", "without the provider"},
        {"vertex_ai/claude-v", "v", "vertex_ai", "claude-v", "without the provider"},
        {"claude-v", "v", "vertex_ai", "claude-v", "as it was reported"},
        {"claude-v", "v", "gemini", NULL, "no name"},
        {"anthropic/claude", "", "openrouter", "openrouter/anthropic/claude", "provider and the model"},
        {"openrouter/anthropic/claude", "c", "openrouter", "openrouter/anthropic/claude", "the model"},
        {"text-completion-openai/instruct", "", "text-completion-openai", "instruct", "without the provider"},
        {"openai/instruct", "", "openai", "instruct", "without the provider"},
        {"fast", "", "groq", "fast*", "the group"},
        {"openai/unknown", "fast", "", "fast*", "the group"},
    };
    struct fixture f;
    (void)state;
    assert_int_equal(load_files(&f, yaml, 1), 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *how = NULL;
        struct price_query q = {slice_str(rows[i].model), slice_str(rows[i].group),
                                slice_str(rows[i].provider)};
        const struct price_model *m = price_find(f.table, &q, &how);
        char found[300] = "";
        if (m != NULL)
            (void)snprintf(found, sizeof(found), "%.*s%s", SL_ARG(m->name), m->is_group ? "*" : "");
        if (strcmp(found, rows[i].row != NULL ? rows[i].row : "") != 0 || strstr(how, rows[i].how) == NULL)
            fail_msg("(%s, %s, %s): `%s` by %s", rows[i].model, rows[i].group, rows[i].provider, found, how);
    }
    assert_null(price_find(f.table, &(struct price_query){.model = SLICE_NULL}, NULL));
    assert_null(price_find(f.table, &(struct price_query){.provider = SL("openai")}, NULL));
    assert_non_null(price_find(f.table, &(struct price_query){.group = SL("fast")}, NULL));
    char longest[MODEL_NAME_MAX];
    memset(longest, 'a', sizeof(longest));
    struct price_query q = {slice_of(longest, sizeof(longest)), slice_of(longest, sizeof(longest)),
                            slice_of(longest, sizeof(longest))};
    assert_null(price_find(f.table, &q, NULL));
    unload(&f);
}

static i128 unit_at(const struct price_model *m, enum token_kind kind, uint64_t input, uint64_t cache_read)
{
    const uint64_t tokens[TOKEN_KINDS] = {[TOKENS_INPUT] = input, [TOKENS_CACHE_READ] = cache_read};
    const struct price_rates *r = price_rates(m, tokens);
    return r->has[kind] ? r->unit[kind] : -1;
}

#define PER_MILLION(n) ((i128)(n)*1000000000000)

static void test_tiers_and_groups(void **state)
{
    static const char *const yaml[] = {
        HEAD "  long: {input: 3, output: 15, cache_read: 1, tiers: [{above: 200000, input: 6, output: 22},\n"
             "         {above: 400000, input: 9}]}\n"
             "  flat: {input: 5, output: 10}\n"
             "  step: {output: 20, cache_write: 2, tiers: [{above: 300000, cache_write: 4}]}\n"
             "groups: {all: [flat, long, step]}\n"};
    struct fixture f;
    (void)state;
    assert_int_equal(load_files(&f, yaml, 1), 0);
    const struct price_model *m = find(&f, SL("long")), *g = find(&f, SL("all"));
    assert_true(unit_at(m, TOKENS_INPUT, 200000, 0) == PER_MILLION(3));
    assert_true(unit_at(m, TOKENS_INPUT, 200001, 0) == PER_MILLION(6));
    assert_true(unit_at(m, TOKENS_INPUT, 1, 200000) == PER_MILLION(6)); /* the whole prompt counts */
    assert_true(unit_at(m, TOKENS_OUTPUT, 1, 200000) == PER_MILLION(22));
    assert_true(unit_at(m, TOKENS_OUTPUT, 400001, 0) == PER_MILLION(22)); /* as in the tier before */
    assert_true(unit_at(m, TOKENS_CACHE_READ, 400001, 0) == PER_MILLION(1));
    assert_true(unit_at(m, TOKENS_CACHE_WRITE, 1, 0) == -1);
    assert_int_equal(g->n_tiers, 4);
    assert_true(unit_at(g, TOKENS_INPUT, 0, 0) == PER_MILLION(5));
    assert_true(unit_at(g, TOKENS_INPUT, 200001, 0) == PER_MILLION(6));
    assert_true(unit_at(g, TOKENS_INPUT, 400001, 0) == PER_MILLION(9));
    assert_true(unit_at(g, TOKENS_OUTPUT, 1, 0) == PER_MILLION(20));
    assert_true(unit_at(g, TOKENS_OUTPUT, 250000, 0) == PER_MILLION(22));
    assert_true(unit_at(g, TOKENS_CACHE_WRITE, 300000, 0) == PER_MILLION(2));
    assert_true(unit_at(g, TOKENS_CACHE_WRITE, 300001, 0) == PER_MILLION(4));
    assert_true(unit_at(g, TOKENS_CACHE_READ, 300001, 0) == PER_MILLION(1));
    unload(&f);
}

static void test_factor(void **state)
{
    static const char *const yaml[] = {
        "models:\n  m: {input: 3, output: 0.000000000005, cache_read: 0.000000000003, cache_write: 0}\n"
        "factor: 0.85\ncurrency: USD\nversion: a\n",
        HEAD "  m: {input: 1}\n  n: {input: 100000000000000000000000000}\n"};
    struct fixture f;
    (void)state;
    assert_int_equal(load_files(&f, yaml, 2), 0);
    const struct price_model *m = find(&f, SL("m"));
    const struct price_rates *r = &m->tiers[0].rates;
    assert_unit(m, TOKENS_INPUT, "0.00000255");
    assert_true(price_residue(m, r, TOKENS_INPUT) == 0);
    assert_true(r->unit[TOKENS_OUTPUT] == 4); /* 4.25 */
    assert_true(price_residue(m, r, TOKENS_OUTPUT) == 250000);
    assert_true(r->unit[TOKENS_CACHE_READ] == 3); /* 2.55 */
    assert_true(price_residue(m, r, TOKENS_CACHE_READ) == -450000);
    assert_true(r->has[TOKENS_CACHE_WRITE] && r->unit[TOKENS_CACHE_WRITE] == 0);
    assert_true(price_residue(find(&f, SL("n")), &find(&f, SL("n"))->tiers[0].rates, TOKENS_INPUT) == 0);
    unload(&f);
}

/* The first file that names a model prices it, and says the version. */
static void test_files(void **state)
{
    static const char *const yaml[] = {
        "currency: USD\nversion: own\nmodels: {a: {input: 1}}\ngroups: {g: [a, c]}\n",
        "currency: USD\nversion: more\nmodels: {a: {input: 2}, b: {input: 3}}\ngroups: {g: [b], h: [b]}\n",
        "currency: USD\nversion: base\nmodels: {b: {input: 4}, c: {input: 5}}\n"};
    static const char *const euros[] = {"currency: USD\nversion: own\nmodels: {a: {input: 1}}\n",
                                        "currency: EUR\nversion: b\nmodels: {b: {input: 1}}\n"};
    struct fixture f;
    (void)state;
    assert_int_equal(load_files(&f, yaml, 3), 0);
    assert_int_equal(price_count(f.table), 3);
    assert_unit(find(&f, SL("a")), TOKENS_INPUT, "0.000001");
    assert_unit(find(&f, SL("b")), TOKENS_INPUT, "0.000003");
    assert_unit(find(&f, SL("c")), TOKENS_INPUT, "0.000005");
    assert_unit(find(&f, SL("g")), TOKENS_INPUT, "0.000005");
    assert_unit(find(&f, SL("h")), TOKENS_INPUT, "0.000003");
    assert_true(slice_eq_str(find(&f, SL("a"))->version, "own"));
    assert_true(slice_eq_str(find(&f, SL("b"))->version, "more"));
    assert_true(slice_eq_str(find(&f, SL("c"))->version, "base"));
    assert_true(slice_eq_str(price_version(f.table), "own"));
    unload(&f);
    assert_int_equal(load_files(&f, euros, 2), E_INVALID);
    assert_non_null(
        strstr(buf_cstr(&f.text), "more.yaml:1:11: currency: EUR, but the first price file is in USD"));
    unload(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prices),     cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_problems),   cmocka_unit_test(test_all_problems_at_once),
        cmocka_unit_test(test_precedence), cmocka_unit_test(test_tiers_and_groups),
        cmocka_unit_test(test_factor),     cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
