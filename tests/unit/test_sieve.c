/* sieve: what is let through, what is forgotten, and that pieces make no difference. */
#include "base/core/sieve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"

static const struct sieve_row inner[] = {{"n", 0, NULL}, {NULL, 0, NULL}};
static const struct sieve_row rows[] = {
    {"id", 8, NULL}, {"cost", 0, NULL}, {"meta", 0, inner}, {NULL, 0, NULL}};

/* Feeds in pieces of `piece` bytes; the code, and what came out. */
static int run(const char *text, size_t piece, struct buf *out, struct err *err)
{
    struct sieve s;
    struct slice rest = slice_str(text);
    int code = 0;
    sieve_init(&s, rows, 5, 200);
    while (code == 0 && rest.n > 0) {
        struct slice part = slice_of(rest.p, rest.n < piece ? rest.n : piece);
        code = sieve_feed(&s, part, err);
        rest = slice_from(rest, part.n);
    }
    if (code == 0)
        code = sieve_end(&s, err);
    buf_reset(out);
    (void)buf_slice(out, buf_view(&s.out));
    sieve_fini(&s);
    return code;
}

#define LONG_NUMBER "12345678901234567890123456789012345678901234567890"
#define BIG         "{\"id\":\"12345678\",\"meta\":{\"n\":" LONG_NUMBER "}}"

static const struct {
    const char *text;
    int code;
    const char *out;
} cases[] = {
    {"{}", 0, "{}\n"},
    {" [ ] ", 0, ""},
    {"{\"id\":\"a\",\"other\":[{\"id\":\"b\"}],\"cost\":1.2e-05}", 0, "{\"id\":\"a\",\"cost\":1.2e-05}\n"},
    {"[{\"id\":\"a\"},{\"id\":\"b\"}]", 0, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n"},
    {"{\"id\":\"a\"}\n{\"id\":\"b\"}\n", 0, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n"},
    {"{\"id\":\"a\"}{\"id\":\"b\"}", 0, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n"},
    {"{\"meta\":{\"x\":{\"n\":1},\"n\":2,\"y\":[3]}}", 0, "{\"meta\":{\"n\":2}}\n"},
    /* of another kind than wanted */
    {"{\"meta\":[1,2],\"id\":{\"id\":1},\"cost\":[]}", 0, "{\"meta\":[],\"id\":{},\"cost\":[]}\n"},
    {"{\"meta\":\"text\",\"id\":null,\"cost\":true}", 0, "{\"meta\":\"\",\"id\":null,\"cost\":true}\n"},
    {"{\"meta\":7}", 0, "{\"meta\":7}\n"},
    {"[null,{\"id\":\"a\"},[[]],\"x]\",-7]", 0, "null\n{\"id\":\"a\"}\nnull\nnull\nnull\n"},
    /* what writers write that are not strict */
    {"{\"cost\":NaN,\"x\":-Infinity,\"y\":\"\\ud800\\u0000\"}", 0, "{\"cost\":null}\n"},
    {"{\"cost\":-Infinity}", 0, "{\"cost\":null}\n"},
    {"{\"cost\":01}", 0, "{\"cost\":null}\n"},
    /* strings with everything in them */
    {"{\"x\":\"}],{\\\"id\\\":\\\"no\\\"\\\\\",\"id\":\"y\\\"\\\\\"}", 0, "{\"id\":\"y\\\"\\\\\"}\n"},
    {"{\"id\":\"12345678\"}", 0, "{\"id\":\"12345678\"}\n"},
    {"{\"id\":\"123456789\",\"cost\":2}", 0, "{\"id\":\"" SIEVE_TOO_LONG "\",\"cost\":2}\n"},
    {"{\"cost\":" LONG_NUMBER LONG_NUMBER "}", 0, "{\"cost\":\"" SIEVE_TOO_LONG "\"}\n"},
    {"{\"id\":\"a\nb\"}", 0, "{\"id\":\"a\tb\"}\n"}, /* stays one line, and is no JSON either */
    /* names: with escapes, too long, empty; and as values */
    {"{\"i\\u0064\":\"a\",\"a name that goes on for longer than any that is wanted\":1,\"\":2}", 0, "{}\n"},
    {"{\"x\":\"id\",\"y\":\"cost\"}", 0, "{}\n"},
    {"{\"id\":\"a\",\"id\":\"b\"}", 0, "{\"id\":\"a\",\"id\":\"b\"}\n"}, /* for the parser to refuse */
    /* what is no report */
    {"", E_SYNTAX, NULL},
    {"  ", E_SYNTAX, NULL},
    {"{", E_SYNTAX, NULL},
    {"[", E_SYNTAX, NULL},
    {"[{}", E_SYNTAX, NULL},
    {"[{},]", E_SYNTAX, NULL},
    {"[,{}]", E_SYNTAX, NULL},
    {"[{}]x", E_SYNTAX, NULL},
    {"[{}][{}]", E_SYNTAX, NULL},
    {"{},{}", E_SYNTAX, NULL},
    {"{\"id\"}", E_SYNTAX, NULL},
    {"{\"id\":}", E_SYNTAX, NULL},
    {"{\"id\":\"a\"", E_SYNTAX, NULL},
    {"{\"id\":\"a", E_SYNTAX, NULL},
    {"{\"id\":1 2}", E_SYNTAX, NULL},
    {"{\"id\" 1}", E_SYNTAX, NULL},
    {"{id:1}", E_SYNTAX, NULL},
    {"{\"id\":1,}", E_SYNTAX, NULL},
    {"\"text\"", E_SYNTAX, NULL},
    {"7", E_SYNTAX, NULL},
    {"]", E_SYNTAX, NULL},
    {"[{},{},{},{},{},{}]", E_TOO_LARGE, NULL},
    {"[" BIG "," BIG "," BIG "]", E_TOO_LARGE, NULL},
};

static void test_table(void **state)
{
    struct buf out = BUF_INIT(1000);
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t piece = 1; piece < 40; piece++) {
            struct err err = {0};
            int code = run(cases[i].text, piece, &out, &err);
            if (code != cases[i].code)
                fail_msg("%s: %d %s", cases[i].text, code, err.msg);
            if (code == 0)
                assert_string_equal(buf_cstr(&out), cases[i].out);
        }
    }
    buf_fini(&out);
}

/* A value that is not wanted may be as deep and as long as it likes. */
static void test_depth(void **state)
{
    struct buf text = BUF_INIT((size_t)2 << 20), out = BUF_INIT(1000);
    struct err err = {0};
    (void)state;
    (void)buf_str(&text, "[{\"x\":");
    for (int i = 0; i < 100000; i++)
        (void)buf_str(&text, "[{\"id\":");
    (void)buf_str(&text, "0");
    for (int i = 0; i < 100000; i++)
        (void)buf_str(&text, "}]");
    (void)buf_str(&text, ",\"id\":\"a\"}]");
    assert_false(text.is_full);
    assert_int_equal(run(buf_cstr(&text), 4096, &out, &err), 0);
    assert_string_equal(buf_cstr(&out), "{\"id\":\"a\"}\n");
    buf_fini(&text);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_depth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
