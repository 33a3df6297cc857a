/* json: what is JSON and what is not, exact numbers, places of errors, decoding by rows, and the writer. The
 * valid and invalid texts follow the cases of the JSONTestSuite collection. */
#include "base/core/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/clock.h"
#include "base/core/mem.h"

enum { SEED = 777 };

/* NULs are inside some of them, hence the lengths. */
#define T(literal)                                                                                           \
    {                                                                                                        \
        (literal), sizeof(literal) - 1                                                                       \
    }

static const struct slice VALID[] = {
    T("[[]   ]"),
    T("[\"\"]"),
    T("[]"),
    T("[\"a\"]"),
    T("[false]"),
    T("[null, 1, \"1\", {}]"),
    T("[null]"),
    T("[1\n]"),
    T(" [1]"),
    T("[1,null,null,null,2]"),
    T("[2] "),
    T("[123e65]"),
    T("[0e+1]"),
    T("[0e1]"),
    T("[ 4]"),
    T("[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]"),
    T("[20e1]"),
    T("[-0]"),
    T("[-123]"),
    T("[-1]"),
    T("[1E22]"),
    T("[1E-2]"),
    T("[1E+2]"),
    T("[123e45]"),
    T("[123.456e78]"),
    T("[1e-2]"),
    T("[1e+2]"),
    T("[123]"),
    T("[123.456789]"),
    T("{\"asd\":\"sdf\", \"dfg\":\"fgh\"}"),
    T("{\"asd\":\"sdf\"}"),
    T("{}"),
    T("{\"\":0}"),
    T("{\"min\": -1.0e+28, \"max\": 1.0e+28}"),
    T("{\"a\":[]}"),
    T("{\"title\":\"\\u041f\\u043e\\u043b\\u0442\\u043e\\u0440\\u0430\"}"),
    T("{\n\"a\": \"b\"\n}"),
    T("[\"\\u0060\\u012a\\u12AB\"]"),
    T("[\"\\uD801\\udc37\"]"),
    T("[\"\\ud83d\\ude39\\ud83d\\udc8d\"]"),
    T("[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]"),
    T("[\"\\\\u0000\"]"),
    T("[\"\\\"\"]"),
    T("[\"a/*b*/c/*d//e\"]"),
    T("[\"\\\\a\"]"),
    T("[\"\\\\n\"]"),
    T("[\"\\u0012\"]"),
    T("[\"\\uFFFF\"]"),
    T("[ \"asd\"]"),
    T("[\"\xf4\x8f\xbf\xbf\"]"),
    T("[\"\xef\xbf\xbf\"]"),
    T("\" \""),
    T("[\"\\uDBFF\\uDFFF\"]"),
    T("[\"new\\u00A0line\"]"),
    T("[\"\xe2\x80\xa8\"]"),
    T("[\"asd \"]"),
    T("[\"\x7f\"]"),
    T("[\"\\uA66D\"]"),
    T("[\"\xe2\x8d\x82\xe3\x88\xb4\xe2\x8d\x82\"]"),
    T("false"),
    T("42"),
    T("-0.1"),
    T("null"),
    T("\"asd\""),
    T("true"),
    T("\"\""),
    T("[\"a\"]\n"),
    T("[true]"),
    T(" [] "),
    T("\t\r\n1"),
    T("1E400"),
    T("[1,2,[3,{\"a\":{\"b\":[]}}]]"),
    T("{\"a\":1,\"A\":2}"),
    T("{\"a\":{\"a\":1}}"),
};

static const struct slice INVALID[] = {
    T("[1 true]"),
    T("[a\xe5]"),
    T("[\"\": 1]"),
    T("[\"\"],"),
    T("[,1]"),
    T("[1,,2]"),
    T("[\"x\",,]"),
    T("[\"x\"]]"),
    T("[\"\",]"),
    T("[\"x\""),
    T("[x"),
    T("[3[4]]"),
    T("[\xff]"),
    T("[1:2]"),
    T("[,]"),
    T("[-]"),
    T("[   , \"\"]"),
    T("[\"a\",\n4\n,1,"),
    T("[1,]"),
    T("[1,,]"),
    T("[\"\x0b"
      "a\"\\f]"),
    T("[*]"),
    T("[\"\""),
    T("[1,"),
    T("[1,\n1\n,1"),
    T("[{}"),
    T("[fals]"),
    T("[nul]"),
    T("[tru]"),
    T("123\0"),
    T("[++1234]"),
    T("[+1]"),
    T("[+Inf]"),
    T("[-01]"),
    T("[-1.0.]"),
    T("[-2.]"),
    T("[-NaN]"),
    T("[.-1]"),
    T("[.2e-3]"),
    T("[0.1.2]"),
    T("[0.3e+]"),
    T("[0.3e]"),
    T("[0.e1]"),
    T("[0E+]"),
    T("[0E]"),
    T("[0e+]"),
    T("[0e]"),
    T("[1.0e+]"),
    T("[1.0e-]"),
    T("[1.0e]"),
    T("[1 000.0]"),
    T("[1eE2]"),
    T("[2.e+3]"),
    T("[2.e-3]"),
    T("[2.e3]"),
    T("[9.e+]"),
    T("[Inf]"),
    T("[NaN]"),
    T("[\xef\xbc\x91]"),
    T("[1+2]"),
    T("[0x1]"),
    T("[0x42]"),
    T("[Infinity]"),
    T("[0e+-1]"),
    T("[-123.123foo]"),
    T("[123\xe5]"),
    T("[1e1\xe5]"),
    T("[0\xe5]"),
    T("[-Infinity]"),
    T("[-foo]"),
    T("[- 1]"),
    T("[-012]"),
    T("[-.123]"),
    T("[-1x]"),
    T("[1ea]"),
    T("[1e\xe5]"),
    T("[1.]"),
    T("[.123]"),
    T("[1.2a-3]"),
    T("[1.8011670033376514H-308]"),
    T("[012]"),
    T("[\"x\", truth]"),
    T("{[: \"x\"}\n"),
    T("{\"x\", null}"),
    T("{\"x\"::\"b\"}"),
    T("{\xf0\x9f\x87\xa8}"),
    T("{\"a\":\"a\" 123}"),
    T("{key: 'value'}"),
    T("{\"\xb9\":\"0\",}"),
    T("{\"a\" b}"),
    T("{:\"b\"}"),
    T("{\"a\" \"b\"}"),
    T("{\"a\":"),
    T("{\"a\""),
    T("{1:1}"),
    T("{9999E9999:1}"),
    T("{null:null,null:null}"),
    T("{\"id\":0,,,,,}"),
    T("{'a':0}"),
    T("{\"id\":0,}"),
    T("{\"a\":\"b\"}/**/"),
    T("{\"a\":\"b\"}//"),
    T("{\"a\":\"b\"}/"),
    T("{\"a\":\"b\",,\"c\":\"d\"}"),
    T("{a: \"b\"}"),
    T("{\"a\":\"a"),
    T("{ \"foo\" : \"bar\", \"a\" }"),
    T("{\"a\":\"b\"}#"),
    T(" "),
    T(""),
    T("[\"\\uD800\\\"]"),
    T("[\"\\uD800\\u\"]"),
    T("[\"\\uD800\\u1\"]"),
    T("[\"\\uD800\\u1x\"]"),
    T("[\xc3\xa9]"),
    T("[\"\\\0\"]"),
    T("[\"\0\"]"),
    T("[\"\\x00\"]"),
    T("[\"\\\\\\\"]"),
    T("[\"\\\t\"]"),
    T("[\"\\\xf0\x9f\x8c\x80\"]"),
    T("[\"\\\"]"),
    T("[\"\\u00A\"]"),
    T("[\"\\uD834\\uDd\"]"),
    T("[\"\\uD800\\uD800\\x\"]"),
    T("[\"\\u\xe5\"]"),
    T("[\"\\a\"]"),
    T("[\"\\uqqqq\"]"),
    T("[\"\\\xe5\"]"),
    T("[\\u0020\"asd\"]"),
    T("[\\n]"),
    T("\""),
    T("['single quote']"),
    T("abc"),
    T("[\"\\"),
    T("[\"a\0a\"]"),
    T("[\"new\nline\"]"),
    T("[\"\t\"]"),
    T("\"\\UA66D\""),
    T("\"\"x"),
    T("<.>"),
    T("[<null>]"),
    T("[1]x"),
    T("[1]]"),
    T("[\"asd]"),
    T("a\xc3\xa5"),
    T("[True]"),
    T("1]"),
    T("{\"x\": true,"),
    T("[][]"),
    T("]"),
    T("\xef\xbb{}"),
    T("\xe5"),
    T("["),
    T("2@"),
    T("{}}"),
    T("{\"\":"),
    T("{\"a\":/*comment*/\"b\"}"),
    T("{\"a\": true} \"x\""),
    T("['"),
    T("[,"),
    T("[{"),
    T("[\"a"),
    T("[\"a\""),
    T("{"),
    T("{]"),
    T("{,"),
    T("{["),
    T("{\"a"),
    T("{'a'"),
    T("[\"\\{[\"\\{[\"\\{[\"\\{"),
    T("\xe9"),
    T("*"),
    T("{\"a\":\"b\"}#{}"),
    T("[\\u000A\"\"]"),
    T("[1"),
    T("[ false, nul"),
    T("[ true, fals"),
    T("[ false, tru"),
    T("{\"asd\":\"asd\""),
    T("\xc3\xa5"),
    T("[\xe2\x81\xa0]"),
    T("\xef\xbb\xbf{}"),
    T("[\x0c]"),
    T("[\xc2\xa0]"),
    T("\xef\xbb\xbf"),
    T("{\"a\":1]"),
    T("[1}"),
    T("-"),
    T("01"),
    T("1."),
    T("--1"),
    T("nulll"),
    T("truefalse"),
    T("1 2"),
    T("\"a\" \"b\""),
    /* JSON by the grammar, or left open by it, and refused here */
    T("[\"\\uDADA\"]"),
    T("[\"\\uD888\\u1234\"]"),
    T("[\"\\uD800\\n\"]"),
    T("[\"\\uDd1ea\"]"),
    T("[\"\\uD800\\uD800\\n\"]"),
    T("[\"\\ud800\"]"),
    T("[\"\\ud800abc\"]"),
    T("[\"\\uDd1e\\uD834\"]"),
    T("[\"\\uDFAA\"]"),
    T("[\"\\u0000\"]"),
    T("[\"\xe6\x97\xa5\xd1\x88\xfa\"]"),
    T("[\"\xed\xa0\x80\"]"),
    T("[\"\xff\"]"),
    T("[\"\x81\"]"),
    T("[\"\xf4\xbf\xbf\xbf\"]"),
    T("[\"\xc0\xaf\"]"),
    T("[\"\xfc\x83\xbf\xbf\xbf\xbf\"]"),
    T("[\"\xe0\xff\"]"),
    T("\xff\xfe[\0\"\0\xe9\0\"\0]\0"),
    T("{\"a\":\"b\",\"a\":\"c\"}"),
    T("{\"a\":\"b\",\"a\":\"b\"}"),
    T("{\"\":1,\"\":1}"),
    T("{\"a\":1,\"\\u0061\":1}"),
    T("{\"foo\\u0000bar\": 42}"),
    T("[{\"x\":[{\"k\":1,\"k\":1}]}]"),
};

static void test_valid_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(VALID); i++) {
        struct err err = {0};
        struct json *j;

        if (json_parse(VALID[i], NULL, &j, &err) != 0)
            fail_msg("refused: %.*s: %s", SL_ARG(VALID[i]), err.msg);
        json_free(j);
    }
}

static void test_invalid_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(INVALID); i++) {
        struct err err = {0};
        struct json *j = NULL;

        if (json_parse(INVALID[i], NULL, &j, &err) != E_SYNTAX || j != NULL)
            fail_msg("accepted: %.*s", SL_ARG(INVALID[i]));
        assert_true(slice_starts(slice_str(err.msg), SL("line ")));
        assert_true(slice_is_utf8(slice_str(err.msg)));
    }
}

/* The text as it was understood; the caller frees. */
static char *reprint(struct slice text)
{
    struct buf b = BUF_INIT(1 << 20);
    struct err err = {0};
    struct json *j = NULL;
    struct jsonw w;

    if (json_parse(text, NULL, &j, &err) != 0)
        fail_msg("%.*s: %s", SL_ARG(text), err.msg);
    jsonw_init(&w, &b);
    jsonw_value(&w, j);
    assert_false(b.is_full);
    json_free(j);
    return buf_take(&b, NULL);
}

static void assert_reprints(const char *text, const char *expected)
{
    char *got = reprint(slice_str(text));

    assert_string_equal(got, expected);
    mem_free(got);
}

static void test_numbers_stay_as_written(void **state)
{
    (void)state;
    assert_reprints("[9007199254740993, 1.50, -0, 1E400, 0.1e-7]", "[9007199254740993,1.50,-0,1E400,0.1e-7]");
    assert_reprints(
        "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
        "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890");
    assert_reprints("{\"a\":{\"b\":[1,[2,{\"c\":3}],4]},\"d\":5,\"e\":[]}",
                    "{\"a\":{\"b\":[1,[2,{\"c\":3}],4]},\"d\":5,\"e\":[]}");
}

static void test_strings_are_unescaped(void **state)
{
    (void)state;
    assert_reprints("\"\\u0041\\u00e9\\ud83d\\ude00\\/\"", "\"A\xc3\xa9\xf0\x9f\x98\x80/\"");
    assert_reprints("\"\\u0001\\b\\f\\n\\r\\t\\\"\\\\\"", "\"\\u0001\\b\\f\\n\\r\\t\\\"\\\\\"");
    assert_reprints("{\"\\u0041\\n\":\"\"}", "{\"A\\n\":\"\"}");
}

static void assert_place(const char *text, const char *expected)
{
    struct err err = {0};
    struct json *j;

    assert_int_equal(json_parse(slice_str(text), NULL, &j, &err), E_SYNTAX);
    assert_string_equal(err.msg, expected);
}

static void test_errors_name_the_place(void **state)
{
    (void)state;
    assert_place("{\n  \"a\": 01\n}", "line 2 column 9: a number must not begin with a zero");
    assert_place("{\"\xc3\xa9\": tru}", "line 1 column 7: expected a value");
    assert_place("{\"a\":1,\n \"b\":2,\n \"a\":3}", "line 3 column 2: duplicate key `a`");
    assert_place("[1,\n2", "line 2 column 2: expected ',' or ']'");
    assert_place("[\"a\nb\"]", "line 1 column 4: control character in a string: write it as an escape");
    assert_place("{\"k\":{\"a\\u001b[2J\":1,\"a\\u001b[2J\":2}}", "line 1 column 22: duplicate key `a?[2J`");
    assert_place("", "line 1 column 1: the text ends where a value should be");
    assert_place("[\"\xff\"]", "line 1 column 3: invalid UTF-8");
}

static int parse_limited(struct slice text, struct json_limits limits)
{
    struct json *j = NULL;
    int rc = json_parse(text, &limits, &j, NULL);

    json_free(j);
    return rc;
}

static void test_limits(void **state)
{
    struct buf b = BUF_INIT(1 << 20);

    (void)state;
    assert_int_equal(parse_limited(SL("[1,2]"), (struct json_limits){.bytes_max = 5}), 0);
    assert_int_equal(parse_limited(SL("[1,2]"), (struct json_limits){.bytes_max = 4}), E_TOO_LARGE);
    assert_int_equal(parse_limited(SL("[1,2]"), (struct json_limits){.nodes_max = 3}), 0);
    assert_int_equal(parse_limited(SL("[1,2]"), (struct json_limits){.nodes_max = 2}), E_TOO_LARGE);
    assert_int_equal(parse_limited(SL("[[1]]"), (struct json_limits){.depth_max = 2}), 0);
    assert_int_equal(parse_limited(SL("[[{}]]"), (struct json_limits){.depth_max = 2}), E_TOO_LARGE);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf_byte(&b, '['), 0);
    assert_int_equal(parse_limited(buf_view(&b), (struct json_limits){0}), E_TOO_LARGE);
    assert_int_equal(parse_limited(buf_view(&b), (struct json_limits){.depth_max = 4000000000U}),
                     E_TOO_LARGE);
    buf_reset(&b);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buf_str(&b, i == 999 ? "[" : "{\"a\":"), 0);
    for (int i = 999; i >= 0; i--)
        assert_int_equal(buf_str(&b, i == 999 ? "]" : "}"), 0);
    assert_int_equal(parse_limited(buf_view(&b), (struct json_limits){.depth_max = 1000}), 0);
    buf_fini(&b);
}

static void test_many_keys(void **state)
{
    struct json_limits limits = {.bytes_max = 8 << 20};
    struct buf b = BUF_INIT(8 << 20);
    int64_t began = clock_mono_ms(&clock_system), v;
    struct err err = {0};
    struct json *j;

    (void)state;
    assert_int_equal(buf_str(&b, "{\"k0\":0"), 0);
    for (int i = 1; i < 50000; i++)
        assert_int_equal(buf_printf(&b, ",\"k%d\":%d", i, i), 0);
    assert_int_equal(buf_str(&b, "}"), 0);
    assert_int_equal(json_parse(buf_view(&b), &limits, &j, &err), 0);
    assert_int_equal(json_count(j), 50000);
    assert_int_equal(json_i64(json_get(j, "k49999"), &v), 0);
    assert_int_equal(v, 49999);
    json_free(j);

    b.n--;
    assert_int_equal(buf_str(&b, ",\"k25\":1}"), 0);
    assert_int_equal(json_parse(buf_view(&b), &limits, &j, &err), E_SYNTAX);
    assert_non_null(strstr(err.msg, "duplicate key `k25`"));
    buf_fini(&b);
    assert_true(clock_mono_ms(&clock_system) - began < 5000); /* every pair compared would be minutes */
}

static void test_accessors(void **state)
{
    struct json *j;
    int64_t i = 1;
    uint64_t u = 1;

    (void)state;
    assert_int_equal(
        json_parse(SL("{\"s\":\"x\",\"n\":-5,\"big\":18446744073709551615,\"d\":1.0,\"t\":true,\"f\":false,"
                      "\"z\":null,\"a\":[1,2],\"over\":99999999999999999999}"),
                   NULL, &j, NULL),
        0);
    assert_true(slice_eq_str(json_string(json_get(j, "s")), "x"));
    assert_null(json_string(json_get(j, "n")).p);
    assert_null(json_number_text(json_get(j, "s")).p);
    assert_int_equal(json_i64(json_get(j, "n"), &i), 0);
    assert_int_equal(i, -5);
    assert_int_equal(json_u64(json_get(j, "n"), &u), E_INVALID);
    assert_int_equal(json_u64(json_get(j, "big"), &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(json_i64(json_get(j, "big"), &i), E_OVERFLOW);
    assert_int_equal(json_u64(json_get(j, "over"), &u), E_OVERFLOW);
    assert_int_equal(json_i64(json_get(j, "d"), &i), E_INVALID);
    assert_int_equal(json_i64(json_get(j, "s"), &i), E_INVALID);
    assert_int_equal(json_i64(NULL, &i), E_INVALID);
    assert_true(json_is_true(json_get(j, "t")));
    assert_false(json_is_true(json_get(j, "f")));
    assert_int_equal(json_type(json_get(j, "z")), JSON_NULL);
    assert_null(json_get(j, "S")); /* exact names only */
    assert_null(json_get(json_get(j, "a"), "0"));
    assert_null(json_get(NULL, "s"));
    assert_string_equal(json_type_name(json_get(j, "nothing")), "absent");
    assert_string_equal(json_type_name(json_get(j, "t")), "boolean");
    assert_int_equal(json_count(json_get(j, "a")), 2);
    assert_int_equal(json_count(json_get(j, "s")), 0);
    assert_true(slice_eq_str(json_key(json_first(j)), "s"));
    assert_true(slice_eq_str(json_key(json_next(json_first(j))), "n"));
    assert_null(json_key(j).p);
    json_free(j);
    json_free(NULL);
}

struct request {
    struct slice name, price;
    int64_t delta;
    uint64_t count;
    bool is_on;
    const struct json *spec, *tags, *any;
};

#define ROW(name, type, is_required, member)                                                                 \
    {                                                                                                        \
        name, type, is_required, offsetof(struct request, member)                                            \
    }
static const struct json_field REQUEST_ROWS[] = {
    ROW("name", JF_STRING, true, name), ROW("price", JF_DECIMAL, false, price),
    ROW("delta", JF_I64, false, delta), ROW("count", JF_U64, false, count),
    ROW("on", JF_BOOL, false, is_on),   ROW("spec", JF_OBJECT, false, spec),
    ROW("tags", JF_ARRAY, false, tags), ROW("any", JF_ANY, false, any),
};

static void test_decode(void **state)
{
    struct request r = {.count = 3};
    struct json *j;

    (void)state;
    assert_int_equal(json_parse(SL("{\"name\":\"n\",\"price\":0.50,\"delta\":-1,\"on\":true,\"spec\":{},"
                                   "\"tags\":[1],\"any\":null}"),
                                NULL, &j, NULL),
                     0);
    assert_int_equal(json_decode(j, "", REQUEST_ROWS, ARRAY_LEN(REQUEST_ROWS), &r, NULL), 0);
    assert_true(slice_eq_str(r.name, "n"));
    assert_true(slice_eq_str(r.price, "0.50"));
    assert_int_equal(r.delta, -1);
    assert_int_equal(r.count, 3); /* absent: untouched */
    assert_true(r.is_on);
    assert_int_equal(json_type(r.spec), JSON_OBJECT);
    assert_int_equal(json_count(r.tags), 1);
    assert_non_null(r.any);
    json_free(j);
}

static void test_decode_errors(void **state)
{
    static const struct {
        const char *text, *path, *error;
    } ROWS[] = {
        {"{}", "", "missing field `name`"},
        {"{}", "spec.x", "missing field `spec.x.name`"},
        {"[]", "", "expected an object, found array"},
        {"null", "spec", "`spec`: expected an object, found null"},
        {"{\"name\":\"a\",\"nmae\":1}", "", "unknown field `nmae`"},
        {"{\"name\":\"a\",\"x\\u001b\":1}", "spec", "unknown field `spec.x?`"},
        {"{\"name\":5}", "resources", "`resources.name`: expected a string, found number"},
        {"{\"name\":null}", "", "`name`: expected a string, found null"},
        {"{\"name\":\"a\",\"delta\":1.5}", "", "`delta`: expected an integer, found 1.5"},
        {"{\"name\":\"a\",\"delta\":9223372036854775808}", "",
         "`delta`: 9223372036854775808 is out of range"},
        {"{\"name\":\"a\",\"count\":-1}", "", "`count`: expected a non-negative integer, found -1"},
        {"{\"name\":\"a\",\"count\":\"1\"}", "", "`count`: expected a non-negative integer, found string"},
        {"{\"name\":\"a\",\"on\":1}", "", "`on`: expected a boolean, found number"},
        {"{\"name\":\"a\",\"price\":[]}", "", "`price`: expected a decimal, found array"},
        {"{\"name\":\"a\",\"spec\":[]}", "", "`spec`: expected an object, found array"},
        {"{\"name\":\"a\",\"tags\":{}}", "", "`tags`: expected an array, found object"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ROWS); i++) {
        struct err err = {0};
        struct request r;
        struct json *j;

        assert_int_equal(json_parse(slice_str(ROWS[i].text), NULL, &j, NULL), 0);
        assert_int_equal(json_decode(j, ROWS[i].path, REQUEST_ROWS, ARRAY_LEN(REQUEST_ROWS), &r, &err),
                         E_INVALID);
        assert_string_equal(err.msg, ROWS[i].error);
        json_free(j);
    }
    assert_int_equal(json_decode(NULL, "", REQUEST_ROWS, 1, &(struct request){0}, NULL), E_INVALID);
}

static void test_writer(void **state)
{
    struct buf b = BUF_INIT(4096);
    struct json *j;
    struct jsonw w;

    (void)state;
    assert_int_equal(json_parse(SL("{\"q\":[1.50,{}]}"), NULL, &j, NULL), 0);
    jsonw_init(&w, &b);
    jsonw_object(&w);
    jsonw_kstr(&w, "s", "a\"\n\x01");
    jsonw_kstr(&w, "null", NULL);
    jsonw_kslice(&w, "bad", slice_of("x\xff\xc3(y", 5));
    jsonw_ki64(&w, "i", INT64_MIN);
    jsonw_ku64(&w, "u", UINT64_MAX);
    jsonw_kbool(&w, "b", false);
    jsonw_ktime(&w, "t", 1793534400000);
    jsonw_ktime(&w, "never", 0);
    jsonw_key(&w, "list");
    jsonw_array(&w);
    jsonw_array(&w);
    jsonw_array_end(&w);
    jsonw_null(&w);
    jsonw_raw(&w, SL("{\"r\":1}"));
    jsonw_raw(&w, SLICE_NULL);
    jsonw_value(&w, j);
    jsonw_value(&w, NULL);
    jsonw_object(&w);
    jsonw_object_end(&w);
    jsonw_array_end(&w);
    jsonw_key_slice(&w, SL("k\t"));
    jsonw_slice(&w, SLICE_NULL);
    jsonw_object_end(&w);
    json_free(j);
    assert_string_equal(buf_cstr(&b),
                        "{\"s\":\"a\\\"\\n\\u0001\",\"null\":null,\"bad\":\"x\xef\xbf\xbd\xef\xbf\xbd(y\","
                        "\"i\":-9223372036854775808,\"u\":18446744073709551615,\"b\":false,"
                        "\"t\":\"2026-11-01T12:00:00Z\",\"never\":null,"
                        "\"list\":[[],null,{\"r\":1},null,{\"q\":[1.50,{}]},null,{}],\"k\\t\":null}");
    assert_int_equal(json_parse(buf_view(&b), NULL, &j, NULL), 0);
    json_free(j);
    buf_fini(&b);
}

static void test_writer_full(void **state)
{
    struct buf b = BUF_INIT(10);
    struct jsonw w;

    (void)state;
    jsonw_init(&w, &b);
    jsonw_array(&w);
    jsonw_str(&w, "much too long for it");
    jsonw_i64(&w, 1);
    jsonw_array_end(&w);
    assert_true(b.is_full);
    assert_true(b.n <= 10);
    buf_fini(&b);
}

/* Valid texts with a few bytes changed: whatever is still accepted prints to something that is accepted again
 * and prints the same, and nothing reads outside (the sanitizers watch). */
static void test_mutated_texts(void **state)
{
    static const char BYTES[] = "{}[]\",:\\u0019eE+-.tfn \n\x01\xc3\xa9\xff";
    struct rnd_seeded r;
    size_t accepted = 0;

    (void)state;
    print_message("seed %d\n", SEED);
    rnd_seeded_init(&r, SEED);
    for (int i = 0; i < 30000; i++) {
        struct slice from = VALID[rnd_below(&r.rnd, ARRAY_LEN(VALID))];
        char *text = mem_strndup(from.p, from.n), *once, *twice;
        struct json *j;

        for (uint64_t k = rnd_below(&r.rnd, 4); k > 0; k--)
            text[rnd_below(&r.rnd, from.n)] = BYTES[rnd_below(&r.rnd, sizeof(BYTES))];
        if (json_parse(slice_of(text, from.n), NULL, &j, NULL) == 0) {
            json_free(j);
            accepted++;
            once = reprint(slice_of(text, from.n));
            twice = reprint(slice_str(once));
            assert_string_equal(once, twice);
            mem_free(once);
            mem_free(twice);
        }
        mem_free(text);
    }
    assert_true(accepted > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid_texts),
        cmocka_unit_test(test_invalid_texts),
        cmocka_unit_test(test_numbers_stay_as_written),
        cmocka_unit_test(test_strings_are_unescaped),
        cmocka_unit_test(test_errors_name_the_place),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_accessors),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_decode_errors),
        cmocka_unit_test(test_writer),
        cmocka_unit_test(test_writer_full),
        cmocka_unit_test(test_mutated_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
