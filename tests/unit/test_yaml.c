/* yaml: the tree, its positions, and everything that is refused. */
#include "config/yaml.h"

#include <stdarg.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/err.h"
#include "base/core/mem.h"
#include "config/hint.h"
#include "config/units.h"

struct parsed {
    struct arena arena;
    struct config_problems problems;
    struct buf printed;
    struct yaml_node *root;
    int code;
};

static void parse(struct parsed *p, struct slice text)
{
    p->arena = ARENA_INIT;
    config_problems_init(&p->problems);
    buf_init(&p->printed, 1 << 20);
    p->code = yaml_parse(&p->arena, "f", text, &p->problems, &p->root);
    config_problems_print(&p->problems, &p->printed);
    assert_int_equal(p->code == 0, p->problems.n == 0);
}

static void parsed_fini(struct parsed *p)
{
    arena_fini(&p->arena);
    config_problems_fini(&p->problems);
    buf_fini(&p->printed);
}

static void test_positions(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, SL("a: 1\nmäp:\n  key: 'x'\n  list:\n  - one\n  - {two: \"\"}\nb: |\n  text\n  more\n"));
    assert_int_equal(p.code, 0);
    assert_int_equal(p.root->count, 3);
    const struct yaml_node *map = yaml_get(p.root, "mäp");
    assert_int_equal(map->kind, YAML_MAP);
    assert_int_equal(map->key_line, 2);
    assert_int_equal(map->key_column, 1);
    const struct yaml_node *key = yaml_get(map, "key");
    assert_true(slice_eq_str(key->text, "x"));
    assert_true(key->is_quoted);
    assert_int_equal(key->line, 3);
    assert_int_equal(key->column, 8);
    const struct yaml_node *list = yaml_get(map, "list");
    assert_int_equal(list->kind, YAML_LIST);
    assert_int_equal(list->count, 2);
    assert_false(list->first->is_quoted);
    assert_int_equal(list->first->next->kind, YAML_MAP);
    assert_int_equal(yaml_get(list->first->next, "two")->text.n, 0);
    assert_true(slice_eq_str(yaml_get(p.root, "b")->text, "text\nmore\n"));
    assert_null(yaml_get(p.root, "c"));
    assert_null(yaml_get(list, "two"));
    assert_null(yaml_get(NULL, "two"));
    parsed_fini(&p);
}

static void test_columns_are_characters(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, SL("{ä: 1, ö: *x}\n"));
    assert_string_equal(buf_cstr(&p.printed),
                        "f:1:11: an alias: aliases are not allowed; quote a text that begins with `*`\n");
    parsed_fini(&p);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        struct slice text;
        const char *says; /* all of it, or its beginning */
    } cases[] = {
        {SL(""), "f:1:1: the file is empty\n"},
        {SL("# nothing\n"), "f:1:1: the file is empty\n"},
        {SL("a: 1\nb: 2\na: 3\n"), "f:3:1: duplicate key `a`: it stands already in line 1\n"},
        {SL("a: &x 1\n"), "f:1:4: an anchor"},
        {SL("a: &x [1]\n"), "f:1:4: an anchor"},
        {SL("&x a: 1\n"), "f:1:1: an anchor"},
        {SL("a: *x\n"), "f:1:4: an alias"},
        {SL("*x : 1\n"), "f:1:1: an alias"},
        {SL("a: !!str 1\n"), "f:1:4: a tag"},
        {SL("a: !own {b: 1}\n"), "f:1:4: a tag"},
        {SL("!x a: 1\n"), "f:1:1: a tag"},
        {SL("<<: {a: 1}\n"), "f:1:1: merge key"},
        {SL("? [a]\n: 1\n"), "f:1:3: a key must be plain text"},
        {SL("'': 1\n"), "f:1:1: a key is empty\n"},
        {SL("a: 1\n---\nb: 1\n"), "f:2:1: a second document begins here"},
        {SL("%YAML 1.1\n---\na: 1\n"), "f:1:1: a `%` directive"},
        {SL("a: \"x\\0y\"\n"), "f:1:4: the text contains a NUL"},
        {SL("a: \xff\n"), "f:1:4: byte 0xff is not UTF-8"},
        {SL("a: \xc3"), "f:1:4: byte 0xc3 is not UTF-8"},
        {SL("a: x\x1b[2J\n"), "f:1:5: control character 0x1b"},
        {SL("a:\n\tb: 1\n"), "f:2:1: found character that cannot start any token"},
        {SL("a: [1\nb: 2\n"), "f:2:2: did not find expected ',' or ']'"},
        {SL("a: @x\n"), "f:1:4: found character that cannot start any token"},
        {SL("a: b: c\n"), "f:1:5: mapping values are not allowed in this context"},
        {SL("\xff\xfe"
            "a\0:\0"),
         "f:1:1: byte 0xff is not UTF-8"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct parsed p;
        parse(&p, cases[i].text);
        if (p.code != E_INVALID || strncmp(buf_cstr(&p.printed), cases[i].says, strlen(cases[i].says)) != 0)
            fail_msg("case %zu: %s", i, buf_cstr(&p.printed));
        parsed_fini(&p);
    }
}

static void test_several_mistakes_in_order(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, SL("a: *one\nb: &two 2\na: 3\nc: !t 4\n"));
    assert_int_equal(p.code, E_INVALID);
    assert_int_equal(p.problems.n, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(p.problems.items[i].line, i + 1);
    assert_non_null(p.root); /* a tree in which more can be found */
    assert_true(yaml_get(p.root, "a")->is_bad);
    parsed_fini(&p);
}

static void test_byte_order_mark(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, SL("\xef\xbb\xbf"
                 "a: 1\r\nb: 2\r\n"));
    assert_int_equal(p.code, 0);
    assert_true(slice_eq_str(yaml_get(p.root, "b")->text, "2"));
    parsed_fini(&p);
}

static void test_bounded(void **state)
{
    (void)state;
    struct parsed p;
    struct buf text = BUF_INIT(1 << 20);
    for (int i = 0; i < 100000; i++)
        (void)buf_byte(&text, '[');
    parse(&p, buf_view(&text));
    assert_string_equal(buf_cstr(&p.printed), "f:1:33: nested deeper than 32 levels\n");
    parsed_fini(&p);
    buf_reset(&text);
    for (int i = 0; i < 250000; i++)
        (void)buf_str(&text, "-\n");
    parse(&p, buf_view(&text));
    assert_non_null(strstr(buf_cstr(&p.printed), "more than 200000 values"));
    assert_int_equal(p.problems.n, 1);
    parsed_fini(&p);
    buf_fini(&text);
}

static void test_problems_are_capped_and_counted(void **state)
{
    (void)state;
    struct config_problems p;
    struct buf out = BUF_INIT(1 << 20);
    config_problems_init(&p);
    for (unsigned i = CONFIG_PROBLEMS_MAX + 7; i > 0; i--)
        config_problem_add(&p, "f", i, 1, NULL, "no %u", i);
    assert_int_equal(p.n, CONFIG_PROBLEMS_MAX);
    for (size_t i = 1; i < p.n; i++)
        assert_true(p.items[i - 1].line < p.items[i].line);
    config_problems_print(&p, &out);
    assert_non_null(strstr(buf_cstr(&out), "and 7 more problems\n"));
    buf_fini(&out);
    config_problems_fini(&p);
}

static void test_problems_by_file_and_harmless(void **state)
{
    (void)state;
    struct config_problems p;
    struct buf out = BUF_INIT(4096);
    config_problems_init(&p);
    config_problem_add(&p, "b", 2, 1, "hint\x1b", "second\n\x1b[31m \xc2\x9b");
    config_problem_add(&p, "a", 1, 1, NULL, "third");
    config_problem_add(&p, "b", 1, 9, NULL, "first");
    config_problem_add(&p, "c", 0, 0, NULL, "whole file");
    config_problems_print(&p, &out);
    assert_string_equal(buf_cstr(&out),
                        "b:1:9: first\nb:2:1: second  [31m ??; hint \na:1:1: third\nc: whole file\n");
    buf_fini(&out);
    config_problems_fini(&p);
}

static void test_hints(void **state)
{
    (void)state;
    static const struct {
        const char *word, *best;
    } cases[] = {{"lisen", "listen"},
                 {"Listen", "listen"},
                 {"public-url", "public_url"},
                 {"template", "templates"},
                 {"tempaltes", "templates"},
                 {"kyes", "keys"},
                 {"x", NULL},
                 {"timezone", NULL},
                 {"", NULL}};
    static const char *const known[] = {"listen", "public_url", "templates", "tenants", "keys"};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct hint h;
        hint_init(&h, slice_str(cases[i].word));
        for (size_t j = 0; j < ARRAY_LEN(known); j++)
            hint_offer(&h, slice_str(known[j]));
        if (cases[i].best == NULL)
            assert_null(h.best.p);
        else
            assert_true(slice_eq_str(h.best, cases[i].best));
    }
    assert_int_equal(hint_distance(SL("abcd"), SL("abdc")), 1);
    assert_int_equal(hint_distance(SL("kitten"), SL("sitting")), 3);
    assert_int_equal(hint_distance(SL(""), SL("abc")), 3);
    assert_int_equal(hint_distance(SL("abc"), SL("")), 3);
    assert_int_equal(hint_distance(SL("a"), SL("a")), 0);
    char longest[200];
    memset(longest, 'a', sizeof(longest));
    assert_true(hint_distance(slice_of(longest, sizeof(longest)), SL("a")) == SIZE_MAX);
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"4GiB", 4ull << 30},  {"512 MiB", 512ull << 20},
                {"1.5KiB", 1536},      {"10GB", 10000000000ull},
                {"0.5kB", 500},        {"7B", 7},
                {"16TiB", 16ull << 40}};
    static const char *const bad[] = {"",      "4",      "GiB",   "4G",   "4gib",
                                      "-4GiB", "+4GiB",  "04GiB", "0.3B", ".5GiB",
                                      "1.GiB", "4  GiB", "4GiB ", "1e3B", "0.0000001GiB"};
    uint64_t v = 42;
    char text[SIZE_TEXT_MAX];
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(size_parse(slice_str(good[i].text), &v), 0);
        assert_int_equal(v, good[i].bytes);
        (void)size_format(v, text);
        uint64_t again = 0;
        assert_int_equal(size_parse(slice_str(text), &again), 0);
        assert_int_equal(again, v);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(size_parse(slice_str(bad[i]), &v), E_INVALID);
    assert_int_equal(size_parse(SL("99999999TiB"), &v), E_OVERFLOW);
    (void)size_format(0, text);
    assert_string_equal(text, "0B");
}

static void test_money(void **state)
{
    (void)state;
    i128 v;
    char currency[4], text[I128_TEXT_MAX];
    assert_int_equal(money_parse(SL("500 USD"), &v, currency), 0);
    (void)i128_format(v, 18, text);
    assert_string_equal(text, "500");
    assert_string_equal(currency, "USD");
    assert_int_equal(money_parse(SL("0.000000000000000001 EUR"), &v, currency), 0);
    assert_true(v == 1);
    static const char *const bad[] = {
        "",         "500",    "500 usd", "500USD",   "500  USD",
        "500 USDT", "500 US", "$500",    "5,00 USD", "0.0000000000000000001 USD",
        "1e3 USD",  "USD 500"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(money_parse(slice_str(bad[i]), &v, currency), E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_columns_are_characters),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_several_mistakes_in_order),
        cmocka_unit_test(test_byte_order_mark),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_problems_are_capped_and_counted),
        cmocka_unit_test(test_problems_by_file_and_harmless),
        cmocka_unit_test(test_hints),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_money),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
