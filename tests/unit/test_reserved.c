/* What no exemption opens: names that a reload finds again stand for their addresses all the time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "controller/edge/reserved.h"

static struct controller c;
static struct tenancy tenancy;
static struct config_gateway gateway;

static size_t addresses_of(struct reserved_set *s, uint16_t port)
{
    struct verdict_rules rules = {.n_reserved = 0};
    size_t n = 0;
    reserved_set_view(s, &rules);
    for (size_t i = 0; i < rules.n_reserved; i++)
        n += rules.reserved[i].has_address && rules.reserved[i].port == port;
    return n;
}

static void on_changed(void *data)
{
    *(bool *)data = true;
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void test_reload_keeps_addresses(void **state)
{
    bool is_closed = false, is_changed = false;
    (void)state;
    (void)alarm(120);
    assert_int_equal(loop_init(&c.loop, &clock_system, &rnd_system), 0);
    gateway = (struct config_gateway){.name = SL("main"), .url = SL("http://localhost:4000")};
    tenancy = (struct tenancy){.gateways = &gateway, .n_gateways = 1};
    tenancy.public_url = tenancy.store = SLICE_EMPTY;
    c.tenancy = &tenancy;
    struct reserved_set *s = reserved_set_new(&c, on_changed, &is_changed);
    assert_false(is_changed);
    while (addresses_of(s, 4000) == 0)
        uv_run(&c.loop.uv, UV_RUN_ONCE);
    assert_true(is_changed);
    size_t known = addresses_of(s, 4000);
    reserved_set_reload(s);
    assert_int_equal(addresses_of(s, 4000), known); /* the look-up has not answered yet */
    gateway.url = SL("http://localhost:4001");
    reserved_set_reload(s);
    assert_int_equal(addresses_of(s, 4000), 0);
    assert_int_equal(addresses_of(s, 4001), known);
    reserved_set_close(s, on_closed, &is_closed);
    while (!is_closed)
        uv_run(&c.loop.uv, UV_RUN_ONCE);
    loop_fini(&c.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reload_keeps_addresses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
