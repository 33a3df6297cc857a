/* price_import: a list of floats to exact prices; everything that was not taken as it stands is said. */
#include "billing/price_import.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "billing/event.h"
#include "billing/price_number.h"
#include "config/source.h"
#include "tests/unit/data/prices/import_vectors.inc"

/* --- numbers --- */

static void test_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        enum number_fate fate = NUMBER_EXACT;
        i128 unit = -1;
        char text[I128_TEXT_MAX] = "";
        int rc = price_number_read(slice_str(numbers[i].text), &unit, &fate);
        if (rc == 0)
            (void)i128_format(unit, 0, text);
        if ((rc == 0) != (numbers[i].units != NULL) ||
            (rc == 0 && (strcmp(text, numbers[i].units) != 0 || fate != numbers[i].fate)))
            fail_msg("%s: %d, %s, %d", numbers[i].text, rc, text, (int)fate);
    }
}

static void test_numbers_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "-1",
                                        "-0",
                                        "+1",
                                        ".",
                                        "e",
                                        "1e",
                                        "1e+",
                                        "1.2.3",
                                        "1e5e",
                                        "0x1",
                                        " 1",
                                        "1 ",
                                        "nan",
                                        "inf",
                                        "1e1.5",
                                        "1e99",
                                        "1e21",
                                        "1e-9999999999999999999",
                                        "170141183460469231732"};
    static const char many[] = "1234567890123456789012345678901234567890123456789012345678901234567890e-69";
    (void)state;
    for (size_t i = 0; i <= ARRAY_LEN(texts); i++) {
        struct slice text = i < ARRAY_LEN(texts) ? slice_str(texts[i]) : SL(many);
        enum number_fate fate;
        i128 unit;
        if (price_number_read(text, &unit, &fate) == 0)
            fail_msg("taken: %.*s", SL_ARG(text));
    }
}

/* --- lists --- */

struct fixture {
    struct price_import *import;
    struct buf text, report;
    struct arena arena;
    struct config_problems problems;
    struct price_table *table;
};

/* Imports, writes, and reads what was written as a controller would. */
static void import(struct fixture *f, struct slice json, const struct price_import_options *o)
{
    struct config_price_file file = {.path = SL("imported.yaml")};
    struct config_prices prices = {.files = &file, .n_files = 1};
    struct err err = {0};
    memset(f, 0, sizeof(*f));
    config_problems_init(&f->problems);
    buf_init(&f->text, 1000000);
    buf_init(&f->report, 1000000);
    if (price_import_litellm(json, o, &f->import, &err) != 0)
        fail_msg("%s", err.msg);
    price_import_write(f->import, &f->text);
    price_import_report(f->import, &f->report);
    assert_false(f->text.is_full || f->report.is_full);
    int rc = yaml_parse(&f->arena, "imported.yaml", buf_view(&f->text), &f->problems, &file.root);
    if (rc == 0)
        rc = price_table_new(&prices, &f->problems, &f->table);
    if (rc != 0) {
        config_problems_print(&f->problems, &f->report);
        fail_msg("%s", buf_cstr(&f->report));
    }
}

static void finish(struct fixture *f)
{
    price_table_free(f->table);
    price_import_free(f->import);
    config_problems_fini(&f->problems);
    arena_fini(&f->arena);
    buf_fini(&f->text);
    buf_fini(&f->report);
}

static const struct price_import_options standard, dear_writes = {.is_write_1h = true};

static void test_costs(void **state)
{
    struct fixture f;
    (void)state;
    import(&f, SL(list), &dear_writes);
    assert_int_equal(price_count(f.table), 24);
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        struct event e = {.model = slice_str(calls[i].model)};
        struct event_cost cost;
        const char *missing = "";
        char text[I128_TEXT_MAX] = "";
        memcpy(e.tokens, calls[i].tokens, sizeof(e.tokens));
        int rc = event_price(&e, f.table, &cost, &missing);
        if (rc == 0)
            (void)i128_format(cost.amount, AMOUNT_SCALE, text);
        if (calls[i].cost == NULL ? rc != E_NOT_FOUND || strcmp(missing, "cache_write") != 0
                                  : rc != 0 || strcmp(text, calls[i].cost) != 0)
            fail_msg("call %zu of %s: %d %s %s", i, calls[i].model, rc, text, missing);
    }
    finish(&f);
}

/* The note of that kind, model and field; NULL: there is none. */
static const struct price_note *note(const struct fixture *f, enum price_note_kind kind, const char *model,
                                     const char *field)
{
    for (const struct price_note *n = price_import_notes(f->import); n != NULL; n = n->next) {
        if (n->kind == kind && slice_eq_str(n->model, model) && slice_eq_str(n->field, field))
            return n;
    }
    return NULL;
}

static void assert_note(const struct fixture *f, enum price_note_kind kind, const char *model,
                        const char *field, const char *taken, const char *why, bool is_undercount)
{
    const struct price_note *n = note(f, kind, model, field);
    if (n == NULL)
        fail_msg("nothing says %s of %s of %s:\n%s", price_note_names[kind], field, model,
                 buf_cstr((struct buf *)&f->report));
    if (strcmp(n->taken, taken) != 0 || strstr(n->why, why) == NULL || n->is_undercount != is_undercount)
        fail_msg("%s of %s: taken `%s`, %s, undercount %d", field, model, n->taken, n->why, n->is_undercount);
}

/* A unit price in 1e-18; -1: none. */
static i128 unit(const struct fixture *f, const char *model, enum token_kind kind, uint64_t prompt)
{
    const uint64_t tokens[TOKEN_KINDS] = {[TOKENS_INPUT] = prompt};
    const struct price_query q = {.model = slice_str(model)};
    const struct price_model *m = price_find(f->table, &q, NULL);
    if (m == NULL)
        return -1;
    const struct price_rates *r = price_rates(m, tokens);
    return r->has[kind] ? r->unit[kind] : -1;
}

#define MICRO ((i128)1000000000000) /* 1e-6 a token: 1 for a million */

/* One model for each thing that a list can say otherwise than usual. */
#define ODD "tests/unit/data/prices/odd.json"

static void import_odd(struct fixture *f, const struct price_import_options *o)
{
    struct buf text;
    assert_int_equal(source_read(ODD, 100000, &text, NULL), 0);
    import(f, buf_view(&text), o);
    buf_fini(&text);
}

static void test_taken(void **state)
{
    struct fixture f;
    (void)state;
    import_odd(&f, &standard);
    assert_true(unit(&f, "plain", TOKENS_INPUT, 0) == 2 * MICRO);
    assert_true(unit(&f, "plain", TOKENS_CACHE_READ, 0) == 2 * MICRO);
    assert_true(unit(&f, "plain", TOKENS_CACHE_WRITE, 0) == -1);
    assert_note(&f, NOTE_FILLED, "plain", "cache_read", "0.000002", "that of input", false);
    assert_true(unit(&f, "mended", TOKENS_CACHE_READ, 0) == MICRO * 18 / 100);
    assert_note(&f, NOTE_MENDED, "mended", "cache_read_input_token_cost", "0.00000018", "floating", false);
    assert_true(unit(&f, "rounded", TOKENS_CACHE_READ, 0) == 333333333333);
    assert_note(&f, NOTE_ROUNDED, "rounded", "cache_read_input_token_cost", "0.000000333333333333",
                "half-even", false);
    assert_true(unit(&f, "hour", TOKENS_CACHE_WRITE, 0) == MICRO * 5 / 2);
    assert_note(&f, NOTE_LEFT_OUT, "hour", "cache_creation_input_token_cost_above_1hr", "", "for an hour",
                true);
    assert_true(unit(&f, "reasoning", TOKENS_OUTPUT, 0) == 9 * MICRO);
    assert_note(&f, NOTE_DEAREST, "reasoning", "output_cost_per_reasoning_token", "0.000009", "dearer",
                false);
    assert_true(unit(&f, "thrifty", TOKENS_OUTPUT, 0) == 8 * MICRO);
    assert_null(note(&f, NOTE_DEAREST, "thrifty", "output_cost_per_reasoning_token"));
    assert_true(unit(&f, "priority", TOKENS_INPUT, 200001) == 2 * MICRO);
    assert_note(&f, NOTE_LEFT_OUT, "priority", "input_cost_per_token_priority", "", "priority", true);
    assert_note(&f, NOTE_LEFT_OUT, "priority", "input_cost_per_token_above_200k_tokens_priority", "",
                "priority", true);
    assert_note(&f, NOTE_LEFT_OUT, "flex", "input_cost_per_token_flex", "", "standard rate", false);
    assert_note(&f, NOTE_LEFT_OUT, "flex", "output_cost_per_token_batches", "", "standard rate", false);
    assert_true(unit(&f, "hit", TOKENS_CACHE_READ, 0) == MICRO / 5);
    assert_true(unit(&f, "zero-read", TOKENS_CACHE_READ, 0) == 2 * MICRO);
    assert_note(&f, NOTE_FILLED, "zero-read", "cache_read", "0.000002", "that of input", false);
    assert_true(unit(&f, "zero-write", TOKENS_CACHE_WRITE, 0) == -1);
    assert_note(&f, NOTE_FILLED, "zero-write", "cache_write", "", "not taken for free", false);
    assert_true(unit(&f, "embedding", TOKENS_OUTPUT, 0) == 0);
    assert_true(unit(&f, "null", TOKENS_CACHE_READ, 0) == 2 * MICRO);
    assert_true(unit(&f, "no-request", TOKENS_INPUT, 0) == 2 * MICRO);
    assert_true(unit(&f, "no-mode", TOKENS_INPUT, 0) == MICRO);
    const struct price_query q = {.model = SL("no-mode"), .provider = SL("vertex_ai")};
    assert_non_null(price_find(f.table, &q, NULL));
    finish(&f);
}

static void test_long_prompts(void **state)
{
    struct fixture f;
    (void)state;
    import_odd(&f, &standard);
    assert_true(unit(&f, "long", TOKENS_INPUT, 128000) == 2 * MICRO);
    assert_true(unit(&f, "long", TOKENS_INPUT, 128001) == 3 * MICRO);
    assert_true(unit(&f, "long", TOKENS_OUTPUT, 128001) == 9 * MICRO);
    assert_true(unit(&f, "long", TOKENS_CACHE_READ, 128001) == MICRO / 10);
    assert_note(&f, NOTE_LEFT_OUT, "long", "cache_read", "", "that of shorter prompts stays", true);
    assert_true(unit(&f, "steps", TOKENS_INPUT, 32000) == MICRO);
    assert_true(unit(&f, "steps", TOKENS_INPUT, 32001) == 3 * MICRO);
    assert_true(unit(&f, "steps", TOKENS_OUTPUT, 2000000) == 4 * MICRO);
    assert_true(unit(&f, "steps", TOKENS_CACHE_READ, 32001) == 3 * MICRO); /* input's, at every step */
    finish(&f);
}

static void test_left_out(void **state)
{
    struct fixture f;
    (void)state;
    import_odd(&f, &standard);
    assert_note(&f, NOTE_LEFT_OUT, "audio", "input_cost_per_audio_token", "", "audio", true);
    assert_note(&f, NOTE_LEFT_OUT, "audio", "output_cost_per_audio_token", "", "audio", false); /* as text */
    assert_note(&f, NOTE_LEFT_OUT, "search", "search_context_cost_per_query", "", "searches", true);
    assert_null(note(&f, NOTE_LEFT_OUT, "no-search", "search_context_cost_per_query"));
    assert_note(&f, NOTE_LEFT_OUT, "multiple", "provider_specific_entry", "", "multiplies", true);
    assert_note(&f, NOTE_LEFT_OUT, "news", "cost_per_dream", "", "no kind of price", true);
    finish(&f);
}

static void test_unpriced(void **state)
{
    static const struct {
        const char *model, *field, *why;
    } rows[] = {
        {"request", "input_cost_per_request", "beside the tokens of every call"},
        {"seconds", "input_cost_per_second", "beside the tokens of every call"},
        {"free", "", "every price is 0"},
        {"half", "output_cost_per_token", "not taken for free"},
        {"no-output", "", "no price for tokens of output"},
        {"no-input", "", "no price for tokens of input"},
        {"text", "input_cost_per_token", "not a number"},
        {"negative", "input_cost_per_token", "negative"},
        {"huge", "input_cost_per_token", "too large"},
        {"tiny", "input_cost_per_token", "too small"},
        {"image", "mode", "tokens of text alone"},
        {"n\x01", "", "printable"},
        {"n\xc3\xbc", "", "printable"},
        {"", "", "name"},
        {"provider", "litellm_provider", "printable"},
        {"list", "", "not an object"},
        {"sample_spec", "", "explanation"},
    };
    struct fixture f;
    (void)state;
    import_odd(&f, &standard);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_note(&f, NOTE_UNPRICED, rows[i].model, rows[i].field, "", rows[i].why, false);
        assert_true(unit(&f, rows[i].model, TOKENS_INPUT, 0) == -1);
    }
    assert_int_equal(price_import_count(f.import, NOTE_UNPRICED), ARRAY_LEN(rows));
    assert_int_equal(price_import_listed(f.import), price_count(f.table) + ARRAY_LEN(rows));
    finish(&f);
}

static void test_options(void **state)
{
    const struct price_import_options o = {SL("2026-11"), true, true, true};
    struct fixture f;
    (void)state;
    import_odd(&f, &o);
    assert_true(slice_eq_str(price_version(f.table), "2026-11"));
    assert_true(unit(&f, "hour", TOKENS_CACHE_WRITE, 0) == 4 * MICRO);
    assert_note(&f, NOTE_DEAREST, "hour", "cache_creation_input_token_cost_above_1hr", "0.000004", "as asked",
                false);
    assert_true(unit(&f, "priority", TOKENS_INPUT, 0) == 5 * MICRO);
    assert_true(unit(&f, "priority", TOKENS_INPUT, 200001) == 7 * MICRO);
    assert_true(unit(&f, "priority", TOKENS_OUTPUT, 0) == 8 * MICRO);
    assert_true(unit(&f, "free", TOKENS_INPUT, 0) == 0);
    assert_true(unit(&f, "half", TOKENS_OUTPUT, 0) == 0);
    assert_true(unit(&f, "zero-write", TOKENS_CACHE_WRITE, 0) == 0);
    assert_true(unit(&f, "zero-read", TOKENS_CACHE_READ, 0) == 0);
    finish(&f);
}

static void test_many_steps(void **state)
{
    struct buf text = BUF_INIT(100000);
    struct fixture f;
    (void)state;
    for (int n = PRICE_TIERS_MAX - 1; n <= PRICE_TIERS_MAX; n++) {
        buf_reset(&text);
        (void)buf_str(
            &text, "{\"m\":{\"mode\":\"chat\",\"input_cost_per_token\":1e-6,\"output_cost_per_token\":1e-6");
        for (int i = 1; i <= n; i++)
            (void)buf_printf(&text, ",\"input_cost_per_token_above_%dk_tokens\":%d", i, i);
        (void)buf_str(&text, "}}");
        import(&f, buf_view(&text), &standard);
        assert_int_equal(price_count(f.table), n < PRICE_TIERS_MAX);
        finish(&f);
    }
    buf_fini(&text);
}

static void test_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "[]",
                                        "3",
                                        "null",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":{\"b\":01}}",
                                        "{\"a\":{\"b\":1,}}",
                                        "{\"a\":{\"b\":NaN}}",
                                        "{} {}"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct price_import *x = NULL;
        struct err err = {0};
        assert_true(price_import_litellm(slice_str(texts[i]), &standard, &x, &err) != 0);
        assert_true(err.msg[0] != '\0');
        assert_null(x);
    }
    struct fixture f;
    import(&f, SL("{}"), &standard);
    assert_int_equal(price_count(f.table), 0);
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),      cmocka_unit_test(test_numbers_refused),
        cmocka_unit_test(test_costs),        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_long_prompts), cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_unpriced),     cmocka_unit_test(test_options),
        cmocka_unit_test(test_many_steps),   cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
