/* Names to addresses, against a name server of the test: what is cached and for how long, who shares a
 * look-up, what becomes of silence and of answers that change. */
#include "tests/unit/net_fixture.h"

#include <arpa/inet.h>

#include "base/net/resolve.h"

/* --- a name server: one table for all questions --- */

static struct {
    uv_udp_t udp;
    char address[32];
    const char *answers[40]; /* addresses, in order; a NULL ends them */
    uint32_t ttl;
    bool is_silent, is_unknown;
    unsigned asked; /* questions for A; each look-up asks for A and AAAA */
} dns;

static void on_dns_alloc(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    static char room[4096];
    (void)h, (void)n;
    *b = uv_buf_init(room, sizeof room);
}

static void put16(struct buf *out, unsigned v)
{
    (void)buf_byte(out, (char)(v >> 8));
    (void)buf_byte(out, (char)v);
}

static void on_question(uv_udp_t *h, ssize_t n, const uv_buf_t *b, const struct sockaddr *from,
                        unsigned flags)
{
    (void)flags;
    if (n < 17 || from == NULL || dns.is_silent)
        return;
    size_t end = 12;
    while (b->base[end] != 0)
        end += 1 + (unsigned char)b->base[end];
    unsigned type = (unsigned)(unsigned char)b->base[end + 2], count = 0;
    struct buf out = BUF_INIT(4096), records = BUF_INIT(4096);
    dns.asked += type == 1;
    for (size_t i = 0; !dns.is_unknown && dns.answers[i] != NULL; i++) {
        struct address a;
        assert_int_equal(address_parse(slice_str(dns.answers[i]), &a), 0);
        bool is_v4 = strchr(dns.answers[i], ':') == NULL;
        if ((type == 1) != is_v4)
            continue;
        put16(&records, 0xc00c);
        put16(&records, type);
        put16(&records, 1);
        put16(&records, dns.ttl >> 16);
        put16(&records, dns.ttl & 0xffff);
        put16(&records, is_v4 ? 4 : 16);
        (void)buf_append(&records, a.bytes + (is_v4 ? 12 : 0), is_v4 ? 4 : 16);
        count++;
    }
    (void)buf_append(&out, b->base, 2);
    put16(&out, dns.is_unknown ? 0x8183 : 0x8180);
    put16(&out, 1);
    put16(&out, count);
    put16(&out, 0);
    put16(&out, 0);
    (void)buf_append(&out, b->base + 12, end + 5 - 12);
    (void)buf_slice(&out, buf_view(&records));
    uv_buf_t wire = uv_buf_init(out.p, (unsigned)out.n);
    assert_true(uv_udp_try_send(h, &wire, 1, from) > 0);
    buf_fini(&out);
    buf_fini(&records);
}

static int setup(void **state)
{
    struct sockaddr_in at;
    int n = sizeof at;
    if (fixture_setup(state) != 0)
        return -1;
    memset(&dns, 0, sizeof dns);
    assert_int_equal(uv_udp_init(&loop.uv, &dns.udp), 0);
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &at), 0);
    assert_int_equal(uv_udp_bind(&dns.udp, (const struct sockaddr *)&at, 0), 0);
    assert_int_equal(uv_udp_getsockname(&dns.udp, (struct sockaddr *)&at, &n), 0);
    (void)snprintf(dns.address, sizeof dns.address, "127.0.0.1:%u", (unsigned)ntohs(at.sin_port));
    return uv_udp_recv_start(&dns.udp, on_dns_alloc, on_question);
}

static int teardown(void **state)
{
    uv_close((uv_handle_t *)&dns.udp, NULL);
    return fixture_teardown(state);
}

/* --- who asks --- */

struct asked {
    bool is_done;
    int code;
    size_t n;
    char first[ADDRESS_TEXT_MAX];
};

static void on_done(const struct resolve_answer *a, void *data)
{
    struct asked *k = data;
    assert_false(k->is_done);
    k->is_done = true;
    k->code = a->code;
    k->n = a->n;
    if (a->n > 0)
        address_format(&a->addresses[0], k->first);
    assert_int_equal(a->code != 0, a->err != NULL && a->err->msg[0] != '\0');
}

static struct resolver *made(struct resolver_options o)
{
    struct resolver *r;
    o.servers = dns.address;
    assert_int_equal(resolver_new(&loop, &o, &r, NULL), 0);
    return r;
}

static void closed(void *data)
{
    *(bool *)data = true;
}

static void end(struct resolver *r)
{
    bool is_closed = false;
    resolver_close(r, closed, &is_closed);
    WAIT_FOR(is_closed);
}

static struct asked ask(struct resolver *r, const char *name)
{
    struct asked k = {.is_done = false};
    (void)resolver_lookup(r, slice_str(name), on_done, &k);
    assert_false(k.is_done); /* never before it has returned */
    WAIT_FOR(k.is_done);
    return k;
}

static void an_answer(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){0});
    dns.answers[0] = "192.0.2.1";
    dns.answers[1] = "2001:db8::1";
    dns.answers[2] = "192.0.2.2";
    struct asked k = ask(r, "a.test");
    assert_int_equal(k.code, 0);
    assert_int_equal(k.n, 3);
    end(r);
}

static void kept_as_long_as_it_lives(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){.ttl_min_ms = 1, .ttl_max_ms = 60000});
    dns.answers[0] = "192.0.2.1";
    dns.ttl = 60;
    for (int i = 0; i < 5; i++)
        assert_string_equal(ask(r, "a.test").first, "192.0.2.1");
    assert_int_equal(dns.asked, 1);
    assert_int_equal(resolver_stats(r)->cached, 4);
    dns.ttl = 0;
    assert_int_equal(ask(r, "b.test").code, 0);
    run_for(5);
    dns.answers[0] = "192.0.2.9";
    assert_string_equal(ask(r, "b.test").first, "192.0.2.9"); /* it changed, and is asked anew */
    assert_string_equal(ask(r, "a.test").first, "192.0.2.1");
    end(r);
}

static void many_wait_for_one(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){0});
    struct asked k[50] = {{.is_done = false}};
    dns.answers[0] = "192.0.2.1";
    for (size_t i = 0; i < ARRAY_LEN(k); i++)
        (void)resolver_lookup(r, SL("a.test"), on_done, &k[i]);
    WAIT_FOR(k[49].is_done);
    for (size_t i = 0; i < ARRAY_LEN(k); i++)
        assert_string_equal(k[i].first, "192.0.2.1");
    assert_int_equal(dns.asked, 1);
    end(r);
}

static void failures(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){.timeout_ms = 300, .failed_ms = 60000});
    dns.is_unknown = true;
    assert_int_equal(ask(r, "none.test").code, E_NOT_FOUND);
    assert_int_equal(ask(r, "none.test").code, E_NOT_FOUND);
    assert_int_equal(dns.asked, 1); /* remembered for a moment */
    dns.is_unknown = false;
    assert_int_equal(ask(r, "empty.test").code, E_NOT_FOUND);
    dns.is_silent = true;
    assert_int_equal(ask(r, "silent.test").code, E_TIMEOUT);
    end(r);
}

/* The deadline is for all servers together. */
static void several_servers(void **state)
{
    (void)state;
    char servers[160];
    struct resolver_options o = {.servers = servers, .timeout_ms = 2000};
    struct resolver *r;
    (void)snprintf(servers, sizeof servers, "%s,%s", dns.address, dns.address);
    assert_int_equal(resolver_new(&loop, &o, &r, NULL), 0);
    dns.is_silent = true;
    int64_t from = clock_mono_ms(&clock_system);
    assert_int_equal(ask(r, "silent.test").code, E_TIMEOUT);
    assert_true(clock_mono_ms(&clock_system) - from < 3500);
    end(r);
}

static void too_many_addresses(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){0});
    for (size_t i = 0; i <= RESOLVE_ADDRESSES_MAX; i++)
        dns.answers[i] = "192.0.2.1";
    struct asked k = ask(r, "a.test");
    assert_int_equal(k.code, E_UPSTREAM); /* what is not looked at does not count as good */
    end(r);
}

static void bounds(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){.inflight_max = 2, .names_max = 4});
    struct asked k[3] = {{.is_done = false}};
    char name[32];
    dns.is_silent = true;
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "n%zu.test", i);
        (void)resolver_lookup(r, slice_str(name), on_done, &k[i]);
    }
    WAIT_FOR(k[2].is_done);
    assert_int_equal(k[2].code, E_UNAVAILABLE);
    assert_false(k[0].is_done);
    end(r); /* who waits is told */
    assert_int_equal(k[0].code, E_CANCELLED);
    assert_int_equal(k[1].code, E_CANCELLED);
    r = made((struct resolver_options){.names_max = 4});
    dns.is_silent = false;
    dns.answers[0] = "192.0.2.1";
    dns.ttl = 60;
    for (size_t i = 0; i < 20; i++) {
        (void)snprintf(name, sizeof name, "m%zu.test", i);
        assert_int_equal(ask(r, name).code, 0);
    }
    assert_true(resolver_stats(r)->names <= 4);
    end(r);
}

static void given_up(void **state)
{
    (void)state;
    struct resolver *r = made((struct resolver_options){0});
    struct asked one = {.is_done = false}, two = {.is_done = false};
    dns.answers[0] = "192.0.2.1";
    struct resolve_op *op = resolver_lookup(r, SL("a.test"), on_done, &one);
    (void)resolver_lookup(r, SL("a.test"), on_done, &two);
    resolve_cancel(op);
    WAIT_FOR(two.is_done);
    assert_false(one.is_done);
    end(r);
}

static void servers_that_are_none(void **state)
{
    (void)state;
    struct resolver *r = NULL;
    struct err err = {0};
    struct resolver_options o = {.servers = "not-an-address:53"};
    assert_int_equal(resolver_new(&loop, &o, &r, &err), E_INVALID);
    assert_null(r);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(an_answer),
        T(kept_as_long_as_it_lives),
        T(many_wait_for_one),
        T(failures),
        T(several_servers),
        T(too_many_addresses),
        T(bounds),
        T(given_up),
        T(servers_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
