/* The allow list's entries: what each form lets through, and what is no entry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "config/network_rules.h"

static struct network_rule parsed(struct arena *a, const char *text)
{
    struct network_rule r;
    struct err err = {0};
    if (network_rule_parse(a, slice_str(text), &r, &err) != 0)
        fail_msg("%s: %s", text, err.msg);
    return r;
}

static bool has_address(const struct network_rule *r, const char *text)
{
    struct address a;
    assert_int_equal(address_parse(slice_str(text), &a), 0);
    return network_rule_has_address(r, &a);
}

static void names(void **state)
{
    (void)state;
    struct arena a = ARENA_INIT;
    struct network_rule one = parsed(&a, "Example.ORG.:443"),
                        below = parsed(&a, "*.example.org:80,443,8000-8010");
    assert_int_equal(one.kind, NETWORK_NAME);
    assert_true(network_rule_has_name(&one, SL("example.org")));
    assert_false(network_rule_has_name(&one, SL("a.example.org")));
    assert_false(network_rule_has_name(&one, SL("xexample.org")));
    assert_true(network_rule_has_port(&one, 443));
    assert_false(network_rule_has_port(&one, 80));
    assert_int_equal(below.kind, NETWORK_SUFFIX);
    assert_true(network_rule_has_name(&below, SL("a.example.org")));
    assert_true(network_rule_has_name(&below, SL("a.b.example.org")));
    assert_false(network_rule_has_name(&below, SL("example.org")));
    assert_false(network_rule_has_name(&below, SL(".example.org")));
    assert_false(network_rule_has_name(&below, SL("aexample.org")));
    assert_false(network_rule_has_name(&below, SL("a.example.org.evil.test")));
    assert_true(network_rule_has_port(&below, 8000) && network_rule_has_port(&below, 8010));
    assert_false(network_rule_has_port(&below, 7999) || network_rule_has_port(&below, 8011));
    assert_false(has_address(&below, "192.0.2.1"));
    arena_fini(&a);
}

static void addresses(void **state)
{
    (void)state;
    struct arena a = ARENA_INIT;
    struct network_rule v4 = parsed(&a, "10.20.0.0/16:5432"), v6 = parsed(&a, "[2001:db8::/32]:443"),
                        one = parsed(&a, "192.0.2.7:80"), public = parsed(&a, "any-public:443"),
                        all = parsed(&a, "0.0.0.0/0:1-65535");
    assert_true(has_address(&v4, "10.20.255.255"));
    assert_true(has_address(&v4, "::ffff:10.20.0.1"));
    assert_false(has_address(&v4, "10.21.0.0"));
    assert_true(has_address(&v6, "2001:db8:ffff::1"));
    assert_false(has_address(&v6, "2001:db9::1"));
    assert_true(has_address(&one, "192.0.2.7"));
    assert_false(has_address(&one, "192.0.2.6"));
    assert_int_equal(public.kind, NETWORK_PUBLIC);
    assert_true(has_address(&public, "1.1.1.1") && has_address(&public, "2606:4700::1"));
    assert_false(has_address(&public, "10.0.0.1") || has_address(&public, "::1"));
    assert_true(has_address(&all, "1.2.3.4"));
    assert_false(has_address(&all, "2606:4700::1")); /* IPv4 is not all there is */
    assert_false(network_rule_has_name(&public, SL("example.org")));
    arena_fini(&a);
}

static void what_is_no_entry(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        ":",
        "example.org",
        "example.org:",
        ":443",
        "example.org:0",
        "example.org:65536",
        "example.org:x",
        "example.org:080",
        "example.org:443,",
        "example.org:-80",
        "example.org:80-",
        "example.org:9-8",
        "https://example.org",
        "https://a.b:443",
        "*:443",
        "*example.org:443",
        "a.*.org:443",
        "*.*.org:443",
        "*.:443",
        "**.example.org:1",
        "a..b:1",
        ".a.b:1",
        "-a.b:1",
        "a-.b:1",
        "a b.c:1",
        "a/b.c:1",
        "m\xc3\xbcnchen.de:1",
        "127.1:80",
        "0x7f.0.0.1:80",
        "2130706433:80",
        "0177.0.0.1:80",
        "1.2.3.4.5:80",
        "a.1:80",
        "a.0x1:80",
        "1.2.3.4/33:80",
        "1.2.3.4/24:80",
        "1.2.3.4/x:80",
        "1.2.3.4/-1:80",
        "2001:db8::/32:443",
        "[2001:db8::/32]",
        "[2001:db8::/32:443",
        "[1.2.3.4]:80",
        "[::1%lo]:80",
        "[2001:db8::/129]:1",
        "[2001:db8::1/32]:1",
        "any-private:1",
        "example.org:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
    };
    struct arena a = ARENA_INIT;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct network_rule r;
        struct err err = {0};
        if (network_rule_parse(&a, slice_str(bad[i]), &r, &err) != E_INVALID || err.msg[0] == '\0')
            fail_msg("`%s` was taken, or refused without a word", bad[i]);
    }
    arena_fini(&a);
}

static void long_names(void **state)
{
    (void)state;
    char text[400], out[HOST_NAME_MAX_BYTES + 1];
    size_t n = 0;
    for (; n < 252; n++)
        text[n] = n % 50 == 49 ? '.' : 'a';
    text[n++] = 'b';
    assert_int_equal(host_name_parse(slice_of(text, 253), out, NULL), 0);
    text[253] = '.';
    assert_int_equal(host_name_parse(slice_of(text, 254), out, NULL),
                     0); /* the dot at the end is no part of it */
    assert_int_equal(strlen(out), 253);
    text[253] = 'b';
    assert_int_equal(host_name_parse(slice_of(text, 254), out, NULL), E_INVALID);
    memset(text, 'a', sizeof text);
    assert_int_equal(host_name_parse(slice_of(text, 63), out, NULL), 0);
    assert_int_equal(host_name_parse(slice_of(text, 64), out, NULL), E_INVALID);
}

static void exemptions(void **state)
{
    (void)state;
    struct arena a = ARENA_INIT;
    struct network_rule r;
    assert_int_equal(network_exemption_parse(&a, SL("10.0.0.0/8:5432"), &r, NULL), 0);
    assert_int_equal(network_exemption_parse(&a, SL("example.org:443"), &r, NULL), E_INVALID);
    assert_int_equal(network_exemption_parse(&a, SL("any-public:443"), &r, NULL), E_INVALID);
    arena_fini(&a);
}

static void ranges_of_one_kind(void **state)
{
    (void)state;
    static const struct {
        const char *range, *kind;
    } rows[] = {{"10.0.0.0/8", "private"},
                {"10.1.2.0/24", "private"},
                {"192.168.0.0/16", "private"},
                {"192.168.0.0/15", NULL},
                {"127.0.0.1", "loopback"},
                {"0.0.0.0/0", NULL},
                {"100.64.0.0/10", "shared"},
                {"100.0.0.0/8", NULL},
                {"::1", "loopback"},
                {"fc00::/7", "private"},
                {"2000::/3", NULL},
                {"::/0", NULL},
                {"8.8.8.0/24", NULL},
                {"169.254.0.0/16", "link-local"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct address_range r;
        assert_int_equal(address_range_parse(slice_str(rows[i].range), &r, NULL), 0);
        const char *kind = address_range_special(&r);
        if ((kind == NULL) != (rows[i].kind == NULL) || (kind != NULL && strcmp(kind, rows[i].kind) != 0))
            fail_msg("%s: %s", rows[i].range, kind != NULL ? kind : "none");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),      cmocka_unit_test(addresses),  cmocka_unit_test(what_is_no_entry),
        cmocka_unit_test(long_names), cmocka_unit_test(exemptions), cmocka_unit_test(ranges_of_one_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
