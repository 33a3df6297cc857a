/* May a workspace reach a target? A matrix of everything that leads where it should not, against lists that
 * would let all of it through if the addresses were not looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "controller/edge/verdict.h"

struct world {
    struct arena arena;
    struct network_rule allow[16], narrow[8], exempt[8];
    struct network_rules lists[3];
    struct reserved reserved[4];
    struct address local[2];
    struct verdict_rules rules;
};

static void list_add(struct world *w, struct network_rules *l, const char *text)
{
    struct err err = {0};
    if (network_rule_parse(&w->arena, slice_str(text), &l->items[l->n], &err) != 0)
        fail_msg("%s: %s", text, err.msg);
    l->items[l->n].line = (unsigned)(11 + l->n);
    l->n++;
}

static struct address address_of(const char *text)
{
    struct address a;
    if (address_parse(slice_str(text), &a) != 0)
        fail_msg("%s is no address", text);
    return a;
}

/* Lists so wide that nothing but the addresses stands in the way. */
static void world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->arena = ARENA_INIT;
    w->lists[0] = (struct network_rules){w->allow, 0};
    w->lists[1] = (struct network_rules){w->narrow, 0};
    w->lists[2] = (struct network_rules){w->exempt, 0};
    list_add(w, &w->lists[0], "*.test:1-65535");
    list_add(w, &w->lists[0], "any-public:443");
    list_add(w, &w->lists[0], "0.0.0.0/0:1-65535");
    list_add(w, &w->lists[0], "[::/0]:1-65535");
    list_add(w, &w->lists[2], "10.20.0.0/16:5432");
    list_add(w, &w->lists[2], "127.0.0.0/8:8080");
    list_add(w, &w->lists[2], "[::1]:8080");
    list_add(w, &w->lists[2], "127.0.0.0/8:8700"); /* Reeve's own: exempted in vain */
    list_add(w, &w->lists[2], "10.20.0.0/16:4000");
    list_add(w, &w->lists[2], "169.254.0.0/16:80");
    list_add(w, &w->lists[2], "192.0.2.0/24:8700");
    w->reserved[0] =
        (struct reserved){.has_address = true, .is_local = true, .port = 8700, .what = "Reeve itself"};
    w->reserved[0].address = address_of("127.0.0.1");
    w->reserved[1] = (struct reserved){.has_address = true, .port = 4000, .what = "a gateway of model calls"};
    w->reserved[1].address = address_of("10.20.0.9");
    w->reserved[2] = (struct reserved){.name = "reeve.test", .port = 443, .what = "Reeve itself"};
    w->local[0] = address_of("192.0.2.10");
    w->rules = (struct verdict_rules){.allow = &w->lists[0],
                                      .exempt = &w->lists[2],
                                      .template = SL("coding"),
                                      .allow_line = 7,
                                      .reserved = w->reserved,
                                      .n_reserved = 3,
                                      .local = w->local,
                                      .n_local = 1};
}

static struct verdict judged(struct world *w, const char *target, const char *const *answers)
{
    struct target t;
    struct address a[8];
    struct verdict v;
    struct err err = {0};
    size_t n = 0;
    if (target_parse(slice_str(target), 0, &t, &err) != 0)
        fail_msg("%s: %s", target, err.msg);
    if (!verdict_name(&w->rules, &t, &v) || t.is_address)
        return v;
    for (; answers[n] != NULL; n++)
        a[n] = address_of(answers[n]);
    verdict_addresses(&w->rules, &t, a, n, &v);
    return v;
}

/* Addresses that no list opens: as they stand, and as what a listed name resolves to. */
static const struct {
    const char *address, *reason;
} matrix[] = {
    {"0.0.0.0", "private_address"},
    {"0.1.2.3", "private_address"},
    {"0.255.255.255", "private_address"},
    {"10.0.0.0", "private_address"},
    {"10.1.2.3", "private_address"},
    {"10.20.0.1", "private_address"}, /* exempted for another port */
    {"10.255.255.255", "private_address"},
    {"100.64.0.0", "private_address"},
    {"100.127.255.255", "private_address"},
    {"100.100.100.200", "metadata"},
    {"127.0.0.0", "private_address"},
    {"127.0.0.1", "private_address"},
    {"127.1.2.3", "private_address"},
    {"127.255.255.255", "private_address"},
    {"168.63.129.16", "metadata"},
    {"169.254.0.1", "private_address"},
    {"169.254.0.23", "metadata"},
    {"169.254.169.254", "metadata"},
    {"169.254.169.253", "metadata"},
    {"169.254.170.2", "metadata"},
    {"169.254.170.23", "metadata"},
    {"169.254.255.255", "private_address"},
    {"172.16.0.0", "private_address"},
    {"172.17.0.1", "private_address"},
    {"172.31.255.255", "private_address"},
    {"192.0.0.1", "private_address"},
    {"192.0.0.192", "metadata"},
    {"192.0.2.1", "private_address"},
    {"192.88.99.1", "private_address"},
    {"192.168.0.1", "private_address"},
    {"192.168.255.255", "private_address"},
    {"198.18.0.1", "private_address"},
    {"198.19.255.255", "private_address"},
    {"198.51.100.1", "private_address"},
    {"203.0.113.1", "private_address"},
    {"224.0.0.1", "private_address"},
    {"239.255.255.255", "private_address"},
    {"240.0.0.1", "private_address"},
    {"255.255.255.255", "private_address"},
    {"::", "private_address"},
    {"::1", "private_address"},
    {"::2", "private_address"},
    {"::7f00:1", "private_address"},       /* compatible */
    {"::a00:1", "private_address"},        /* 10.0.0.1 */
    {"::a9fe:a9fe", "metadata"},           /* 169.254.169.254 */
    {"::ffff:0.0.0.0", "private_address"}, /* mapped */
    {"::ffff:10.0.0.1", "private_address"},
    {"::ffff:100.64.0.1", "private_address"},
    {"::ffff:127.0.0.1", "private_address"},
    {"::ffff:169.254.169.254", "metadata"},
    {"::ffff:172.16.0.1", "private_address"},
    {"::ffff:192.168.1.1", "private_address"},
    {"::ffff:224.0.0.1", "private_address"},
    {"::ffff:0:127.0.0.1", "private_address"}, /* SIIT */
    {"64:ff9b::127.0.0.1", "private_address"}, /* NAT64 */
    {"64:ff9b::10.0.0.1", "private_address"},
    {"64:ff9b::169.254.169.254", "metadata"},
    {"64:ff9b::192.168.0.1", "private_address"},
    {"64:ff9b::100.64.0.1", "private_address"},
    {"64:ff9b::0.0.0.0", "private_address"},
    {"64:ff9b:1::1", "private_address"}, /* local NAT64 */
    {"64:ff9b:1::a00:1", "private_address"},
    {"2002:7f00:1::", "private_address"}, /* 6to4 of 127.0.0.1 */
    {"2002:7f00:1::1", "private_address"},
    {"2002:a00:1::1", "private_address"},
    {"2002:a9fe:a9fe::1", "metadata"},
    {"2002:c0a8:101::1", "private_address"},
    {"2002:6440:1::1", "private_address"},
    {"2002:0:0::1", "private_address"},
    {"2001::1", "private_address"}, /* Teredo */
    {"2001:0:4136:e378:8000:63bf:3fff:fdd2", "private_address"},
    {"2001:0:a00:1::f5ff:fffe", "private_address"},
    {"2001:10::1", "private_address"},
    {"2001:20::1", "private_address"},
    {"2001:1ff::1", "private_address"},
    {"2001:db8::1", "private_address"},
    {"3fff::1", "private_address"},
    {"2606:4700::5efe:10.0.0.1", "private_address"}, /* ISATAP */
    {"2606:4700::200:5efe:10.0.0.1", "private_address"},
    {"2606:4700::5efe:127.0.0.1", "private_address"},
    {"2606:4700::5efe:169.254.169.254", "metadata"},
    {"100::1", "private_address"}, /* discard-only */
    {"200::1", "private_address"},
    {"5f00::1", "private_address"},
    {"4000::1", "private_address"},
    {"8000::1", "private_address"},
    {"fc00::1", "private_address"},
    {"fd00::1", "private_address"},
    {"fd00:ec2::254", "metadata"},
    {"fd00:ec2::23", "metadata"},
    {"fd20:ce::254", "metadata"},
    {"fdff:ffff::1", "private_address"},
    {"fe80::1", "private_address"},
    {"fe80::a9fe:a9fe", "private_address"},
    {"febf::1", "private_address"},
    {"fec0::1", "private_address"},
    {"feff::1", "private_address"},
    {"ff02::1", "private_address"},
    {"ff0e::1", "private_address"},
    {"ffff::1", "private_address"},
};

static void nothing_of_the_matrix(void **state)
{
    (void)state;
    struct world w;
    size_t tried = 0;
    world_init(&w);
    for (size_t i = 0; i < ARRAY_LEN(matrix); i++) {
        const char *const alone[] = {matrix[i].address, NULL},
                          *const first[] = {matrix[i].address, "1.1.1.1", NULL},
                          *const last[] = {"1.1.1.1", "2606:4700::1", matrix[i].address, NULL};
        const char *const *answers[] = {alone, first, last};
        char literal[80];
        bool is_v6 = strchr(matrix[i].address, ':') != NULL;
        (void)snprintf(literal, sizeof literal, is_v6 ? "[%s]:443" : "%s:443", matrix[i].address);
        struct verdict v = judged(&w, literal, NULL);
        if (v.is_allowed || strcmp(v.reason, matrix[i].reason) != 0)
            fail_msg("%s: %s", literal, v.text);
        for (size_t k = 0; k < ARRAY_LEN(answers); k++, tried++) {
            v = judged(&w, "shop.test:443", answers[k]);
            if (v.is_allowed || strcmp(v.reason, matrix[i].reason) != 0 ||
                strstr(v.text, "shop.test") == NULL)
                fail_msg("shop.test -> %s (%zu): %s", matrix[i].address, k, v.text);
        }
        tried++;
    }
    assert_true(tried >= 120);
    arena_fini(&w.arena);
}

static void metadata_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"metadata.google.internal:80",
                                        "METADATA.Google.internal.:80",
                                        "metadata:80",
                                        "instance-data:80",
                                        "metadata.goog:80",
                                        "metadata.tencentyun.com:80"};
    struct world w;
    world_init(&w);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *const answers[] = {"1.1.1.1", NULL};
        struct verdict v = judged(&w, names[i], answers);
        if (v.is_allowed || strcmp(v.reason, "metadata") != 0)
            fail_msg("%s: %s", names[i], v.text);
    }
    arena_fini(&w.arena);
}

/* No exemption opens what is Reeve's. */
static void reserved_places(void **state)
{
    (void)state;
    static const char *const targets[] = {"127.0.0.1:8700",
                                          "127.0.0.2:8700",
                                          "[::1]:8700",
                                          "[::ffff:127.0.0.1]:8700",
                                          "0.0.0.0:8700",
                                          "[::]:8700",
                                          "192.0.2.10:8700",
                                          "10.20.0.9:4000",
                                          "[::ffff:10.20.0.9]:4000",
                                          "[64:ff9b::10.20.0.9]:4000",
                                          "reeve.test:443"};
    struct world w;
    world_init(&w);
    for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
        const char *const answers[] = {"1.1.1.1", NULL};
        struct verdict v = judged(&w, targets[i], answers);
        if (v.is_allowed || strcmp(v.reason, "reserved") != 0)
            fail_msg("%s: %s", targets[i], v.text);
    }
    const char *const answers[] = {"10.20.0.9", NULL};
    assert_string_equal(judged(&w, "shop.test:4000", answers).reason, "reserved");
    arena_fini(&w.arena);
}

static void what_is_exempted_works(void **state)
{
    (void)state;
    static const struct {
        const char *target, *answer;
    } rows[] = {{"10.20.3.4:5432", NULL},
                {"127.0.0.1:8080", NULL},
                {"127.9.9.9:8080", NULL},
                {"[::1]:8080", NULL},
                {"[::ffff:10.20.0.1]:5432", NULL},
                {"db.test:5432", "10.20.255.255"},
                {"shop.test:8080", "127.0.0.1"},
                {"shop.test:8080", "::1"},
                {"1.1.1.1:443", NULL},
                {"shop.test:443", "1.1.1.1"},
                {"[2606:4700::1]:443", NULL},
                {"10.20.0.8:4000", NULL},
                {"other.example:443", "8.8.8.8"}};
    struct world w;
    world_init(&w);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *const answers[] = {rows[i].answer, NULL};
        struct verdict v = judged(&w, rows[i].target, answers);
        if (!v.is_allowed || v.rule == NULL)
            fail_msg("%s: %s", rows[i].target, v.text);
    }
    /* one port away, one address away */
    const char *const near[] = {"10.21.0.1", NULL};
    assert_false(judged(&w, "10.20.3.4:5433", NULL).is_allowed);
    assert_false(judged(&w, "127.0.0.1:8081", NULL).is_allowed);
    assert_false(judged(&w, "db.test:5432", near).is_allowed);
    assert_false(judged(&w, "[64:ff9b::10.20.3.4]:5432", NULL).is_allowed); /* another form of the address */
    arena_fini(&w.arena);
}

static void lists(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.lists[0].n = 0;
    list_add(&w, &w.lists[0], "shop.test:443");
    list_add(&w, &w.lists[0], "*.cdn.test:443,8443");
    list_add(&w, &w.lists[0], "93.184.0.0/16:80");
    const char *const public[] = {"1.1.1.1", NULL}, *const in[] = {"93.184.1.1", "93.184.2.2", NULL},
                      *const half[] = {"93.184.1.1", "1.1.1.1", NULL};
    struct verdict v = judged(&w, "shop.test:443", public);
    assert_true(v.is_allowed);
    assert_int_equal(v.rule->line, 11);
    assert_non_null(strstr(v.text, "rule `shop.test:443`, line 11"));
    v = judged(&w, "shop.test:80", public);
    assert_string_equal(v.reason, "not_listed");
    assert_true(judged(&w, "a.cdn.test:8443", public).is_allowed);
    v = judged(&w, "cdn.test:443", public);
    assert_string_equal(v.reason, "not_listed");
    assert_non_null(strstr(v.text, "template `coding` (line 7 of the configuration)"));
    assert_true(judged(&w, "any.name:80", in).is_allowed);
    assert_string_equal(judged(&w, "any.name:80", half).reason, "not_listed");
    assert_true(judged(&w, "93.184.0.1:80", NULL).is_allowed);
    assert_string_equal(judged(&w, "93.185.0.1:80", NULL).reason, "not_listed");
    /* the tenant's list narrows, and cannot widen */
    list_add(&w, &w.lists[1], "*.cdn.test:443");
    list_add(&w, &w.lists[1], "more.test:443");
    w.rules.narrow = &w.lists[1];
    w.rules.narrow_line = 30;
    assert_true(judged(&w, "a.cdn.test:443", public).is_allowed);
    v = judged(&w, "shop.test:443", public);
    assert_string_equal(v.reason, "narrowed");
    assert_non_null(strstr(v.text, "line 30"));
    assert_string_equal(judged(&w, "a.cdn.test:8443", public).reason, "narrowed");
    assert_string_equal(judged(&w, "more.test:443", public).reason, "not_listed");
    w.lists[1].n = 0; /* an empty list lets nothing through */
    assert_string_equal(judged(&w, "a.cdn.test:443", public).reason, "narrowed");
    w.lists[0].n = 0;
    w.rules.narrow = NULL;
    assert_string_equal(judged(&w, "1.1.1.1:443", NULL).reason, "not_listed");
    arena_fini(&w.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_of_the_matrix),
        cmocka_unit_test(metadata_by_name),
        cmocka_unit_test(reserved_places),
        cmocka_unit_test(what_is_exempted_works),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
