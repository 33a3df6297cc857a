/* The model of a streaming call: found in pieces, and not to be changed behind our back. */
#include "controller/edge/peek.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/core/mem.h"

/* The model when fed whole and byte by byte; NULL: none; "!" : refused. */
static void expect(const char *body, const char *model)
{
    struct slice all = slice_str(body);
    for (size_t step = 1; step <= all.n; step += all.n > 1 ? all.n - 1 : 1) {
        struct peek p = {0};
        int code = 0;
        for (size_t at = 0; at < all.n && code == 0; at += step)
            code = peek_feed(&p, slice_of(all.p + at, all.n - at < step ? all.n - at : step), NULL);
        if (model != NULL && model[0] == '!')
            assert_int_equal(code, E_INVALID);
        else if (model == NULL)
            assert_true(code == 0 && peek_model(&p).p == NULL);
        else
            assert_true(code == 0 && slice_eq_str(peek_model(&p), model));
    }
}

static void found(void **state)
{
    (void)state;
    expect("{\"model\":\"m\",\"messages\":[]}", "m");
    expect(" {\n\"a\" : {\"model\":\"inner\",\"b\":[{\"model\":1}]} , \"model\" : \"outer/x\" , "
           "\"z\":\"model\"}",
           "outer/x");
    expect("{\"a\":\"model\",\"model\":\"m\"}", "m");
    expect("{\"text\":\"\\\"model\\\":\\\"x\\\"\",\"model\":\"m\"}", "m");
    expect("{\"a_very_long_name_of_a_member\":1,\"model\":\"m\"}", "m");
    expect("{\"messages\":[{\"content\":\"}]{\\\\\"}],\"model\":\"m\"}", "m");
}

static void absent(void **state)
{
    (void)state;
    expect("{}", NULL);
    expect("{\"models\":\"m\"}", NULL);
    expect("{\"a\":{\"model\":\"m\"}}", NULL);
    expect("{\"model\":\"m", NULL);
}

static void refused(void **state)
{
    (void)state;
    expect("{\"model\":\"cheap\",\"model\":\"dear\"}", "!");
    expect("{\"model\":\"cheap\",\"x\":1,\"mod\\u0065l\":\"dear\"}", "!");
    expect("{\"model\":\"ch\\u0065ap\"}", "!");
    expect("{\"model\":7}", "!");
    expect("{\"model\":[\"m\"]}", "!");
    expect("{\"model\":null}", "!");
    expect("[{\"model\":\"m\"}]", "!");
    expect("x", "!");
    expect("{\"model\":\"cheap\"}{\"model\":\"dear\"}", "!");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(found), cmocka_unit_test(absent),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
