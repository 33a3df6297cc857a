/* What the edge reads from the outside of JSON-RPC messages, whole, cut off and hostile. */
#include "controller/edge/envelope.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/core/json.h"

static void expect(const char *json, bool is_object, const char *id, const char *method, bool has_result)
{
    struct envelope e;
    assert_int_equal(envelope_scan(slice_str(json), &e), is_object);
    if (!is_object)
        return;
    if (id == NULL)
        assert_null(e.id.p);
    else
        assert_true(slice_eq_str(e.id, id));
    if (method == NULL)
        assert_null(e.method.p);
    else
        assert_true(slice_eq_str(e.method, method));
    assert_int_equal(e.has_result, has_result);
}

static void whole_messages(void **state)
{
    (void)state;
    expect("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"session/prompt\",\"params\":{}}", true, "7",
           "session/prompt", false);
    expect(" { \"id\" : \"a\\\"b\" , \"result\" : { \"id\" : 9 , \"x\" : [ 1, \"}\" ] } } ", true,
           "\"a\\\"b\"", NULL, true);
    expect("{\"error\":{\"code\":-1},\"id\":3}", true, "3", NULL, true);
    expect("{\"id\":null,\"method\":\"m\"}", true, NULL, "m", false);
    expect("{\"params\":{\"id\":1,\"method\":\"inner\"},\"method\":\"outer\"}", true, NULL, "outer", false);
    expect("{\"id\":7\n\n,\"method\":\"m\"\r\n}", true, "7", "m", false);
    expect("{}", true, NULL, NULL, false);
    expect("[]", false, NULL, NULL, false);
    expect("", false, NULL, NULL, false);
    expect("nonsense", false, NULL, NULL, false);
}

/* The first bytes of a message that is too large: the id before the cut is found, a number that the cut may
 * have shortened is not believed. */
static void cut_messages(void **state)
{
    (void)state;
    expect("{\"id\":12,\"method\":\"session/prompt\",\"params\":{\"text\":\"aaaa", true, "12",
           "session/prompt", false);
    expect("{\"id\":12", true, NULL, NULL, false);
    expect("{\"method\":\"sess", true, NULL, NULL, false);
    expect("{\"result\":{\"a", true, NULL, NULL, true);
    expect("{\"id\"", true, NULL, NULL, false);
}

static void errors_are_json_rpc(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(8192);
    struct err err = {0};
    struct json *j;
    int64_t n;
    err_set(&err, E_BUDGET, "budget \"month\" is spent");
    envelope_error(&out, SL("\"x\""), &err, "r-1");
    assert_int_equal(json_parse(buf_view(&out), NULL, &j, &err), 0);
    assert_true(slice_eq_str(json_string(json_get(j, "id")), "x"));
    const struct json *e = json_get(j, "error");
    assert_int_equal(json_i64(json_get(e, "code"), &n), 0);
    assert_int_equal(n, -32010);
    assert_true(slice_eq_str(json_string(json_get(e, "message")), "budget \"month\" is spent"));
    assert_true(slice_eq_str(json_string(json_get(json_get(e, "data"), "code")), "budget_exceeded"));
    json_free(j);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_messages),
        cmocka_unit_test(cut_messages),
        cmocka_unit_test(errors_are_json_rpc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
