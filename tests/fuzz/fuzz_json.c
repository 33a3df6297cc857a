/* fuzz_json: any bytes into the strict reader. What it accepts must print to a text that it accepts again and
 * that prints the same; every accessor is called on every value; decoding by rows must answer with a code.
 *
 *   clang-14 -std=c11 -D_GNU_SOURCE -I. -g -O1 -fsanitize=fuzzer,address,undefined -o fuzz_json \
 *       tests/fuzz/fuzz_json.c base/core/[a-z]*.c -lcjson -lcrypto -luv
 *   ./fuzz_json -max_len=4096 tests/fuzz/corpus/json
 */
#include <stddef.h>
#include <stdint.h>

#include "base/core/json.h"
#include "base/core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void value_touch(const struct json *j)
{
    struct slice text = json_number_text(j), string = json_string(j);
    size_t children = 0;
    i128 amount;
    uint64_t u;
    int64_t i;

    must((text.p != NULL) == (json_type(j) == JSON_NUMBER));
    must((string.p != NULL) == (json_type(j) == JSON_STRING));
    must(slice_is_utf8(string) && slice_is_utf8(json_key(j)));
    (void)json_i64(j, &i);
    (void)json_u64(j, &u);
    if (text.p != NULL) {
        /* The number parsers agree on what a number looks like. */
        must(text.n > 0);
        (void)i128_parse(text, 18, true, &amount);
        if (json_i64(j, &i) == 0)
            must(i128_parse(text, 0, false, &amount) == 0 && amount == i);
    }
    JSON_FOREACH (child, j) {
        if (json_type(j) == JSON_OBJECT && children < 50)
            must(json_get(j, json_key(child).p) == child); /* no key hides another */
        children++;
        value_touch(child);
    }
    must(children == json_count(j));
}

static void value_decode(const struct json *j)
{
    struct out {
        struct slice a, b;
        int64_t c;
    } out;
    static const struct json_field ROWS[] = {
        {"a", JF_STRING, true, offsetof(struct out, a)},
        {"b", JF_DECIMAL, false, offsetof(struct out, b)},
        {"c", JF_I64, false, offsetof(struct out, c)},
    };
    struct err err = {0};
    int rc = json_decode(j, "path", ROWS, ARRAY_LEN(ROWS), &out, &err);

    must(rc == err.code && (rc == 0 || slice_is_utf8(slice_str(err.msg))));
}

static struct json *parse_and_print(struct slice text, const struct json_limits *limits, struct buf *out)
{
    struct err err = {0};
    struct json *j = NULL;
    struct jsonw w;
    int rc = json_parse(text, limits, &j, &err);

    must(rc == err.code && (rc == 0) == (j != NULL) && slice_is_utf8(slice_str(err.msg)));
    if (j != NULL) {
        jsonw_init(&w, out);
        jsonw_value(&w, j);
        must(!out->is_full);
    }
    return j;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct json_limits limits = {.bytes_max = 1 << 20, .depth_max = 64, .nodes_max = 20000};
    struct buf once = BUF_INIT(8 << 20), twice = BUF_INIT(8 << 20);
    struct json *j = parse_and_print(slice_of(data, n), &limits, &once);

    if (j != NULL) {
        struct json *again;

        value_touch(j);
        value_decode(j);
        limits.bytes_max = 8 << 20;
        again = parse_and_print(buf_view(&once), &limits, &twice);
        must(again != NULL && slice_eq(buf_view(&once), buf_view(&twice)));
        json_free(again);
    }
    json_free(j);
    buf_fini(&once);
    buf_fini(&twice);
    return 0;
}
