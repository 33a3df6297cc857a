/* Streams, connecting, listening, tunnels, timers, deferred calls: over loopback sockets. */
#include "net_fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include "base/core/arena.h"

static struct listener *listener;
static struct peer server_side[8];
static size_t n_server_side;
static bool accepts_reading;

static void on_stream(struct listener *l, struct stream *s, void *data)
{
    (void)l;
    (void)data;
    assert_true(n_server_side < ARRAY_LEN(server_side));
    peer_adopt(&server_side[n_server_side++], s, accepts_reading);
}

static uint16_t listen_local(void)
{
    struct endpoint at = local_endpoint(0);

    n_server_side = 0;
    accepts_reading = true;
    assert_int_equal(listener_open(&loop, &at, on_stream, NULL, &listener, NULL), 0);
    assert_true(listener_port(listener) != 0);
    return listener_port(listener);
}

static void listen_end(void)
{
    bool closed = false;
    size_t i;

    for (i = 0; i < n_server_side; i++)
        peer_fini(&server_side[i]);
    listener_close(listener, on_flag, &closed);
    assert_false(closed);
    WAIT_FOR(closed);
}

static void test_echo(void **state)
{
    uint16_t port = listen_local();
    struct peer p;
    char text[STREAM_PEER_MAX];

    (void)state;
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    peer_say(&p, "ping");
    WAIT_FOR(peer_heard(&server_side[0], "ping"));
    peer_say(&server_side[0], "pong");
    WAIT_FOR(peer_heard(&p, "pong"));
    stream_peer(p.stream, text);
    assert_int_equal(strncmp(text, "127.0.0.1:", 10), 0);
    /* half-close: the other direction still works */
    stream_shutdown(p.stream);
    WAIT_FOR(server_side[0].is_eof);
    peer_say(&server_side[0], "late");
    WAIT_FOR(peer_heard(&p, "late"));
    peer_fini(&p);
    listen_end();
}

static void test_pull(void **state)
{
    uint16_t port = listen_local();
    struct peer p;

    (void)state;
    accepts_reading = false;
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    peer_say(&p, "early");
    run_for(30);
    assert_int_equal(server_side[0].in_all, 0);
    stream_read_start(server_side[0].stream);
    WAIT_FOR(peer_heard(&server_side[0], "early"));
    stream_read_stop(server_side[0].stream);
    peer_say(&p, "second");
    run_for(30);
    assert_int_equal(server_side[0].in_all, 5);
    stream_read_start(server_side[0].stream);
    WAIT_FOR(peer_heard(&server_side[0], "second"));
    peer_fini(&p);
    listen_end();
}

/* 50 MiB to a reader that stops now and then: the queue never holds more than one piece. */
static void test_back_pressure(void **state)
{
    const uint64_t all = (uint64_t)50 << 20;
    static char piece[65536];
    uint16_t port = listen_local();
    uint64_t sent = 0;
    struct peer p;
    unsigned pauses = 0;

    (void)state;
    memset(piece, 'x', sizeof(piece));
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    server_side[0].keeps_nothing = true;
    p.is_drained = true;
    while (server_side[0].in_all < all) {
        while (p.is_drained && sent < all) {
            int rc = peer_say_n(&p, piece, sizeof(piece));

            sent += sizeof(piece);
            assert_true(rc == 0 || rc == E_AGAIN);
            p.is_drained = rc == 0;
            assert_true(stream_queued(p.stream) <= sizeof(piece));
            if (rc == E_AGAIN) {
                stream_read_stop(server_side[0].stream);
                pauses++;
            }
        }
        stream_read_start(server_side[0].stream);
        timer_repeat(&guard, 50);
        uv_run(&loop.uv, UV_RUN_ONCE);
    }
    timer_stop(&guard);
    assert_true(pauses > 0);
    assert_int_equal(server_side[0].in_all, all);
    peer_fini(&p);
    listen_end();
}

static void test_close_flushes(void **state)
{
    static char big[4 << 20];
    uint16_t port = listen_local();
    struct peer p;

    (void)state;
    memset(big, 'y', sizeof(big));
    accepts_reading = false;
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    assert_int_equal(peer_say_n(&p, big, sizeof(big)), E_AGAIN);
    stream_close(p.stream);
    p.stream = NULL;
    stream_read_start(server_side[0].stream);
    WAIT_FOR(server_side[0].is_eof);
    assert_int_equal(server_side[0].in_all, sizeof(big));
    peer_fini(&p);
    listen_end();
}

static void test_write_after_reset(void **state)
{
    uint16_t port = listen_local();
    struct peer p;
    int rc = 0, i;

    (void)state;
    peer_connect(&p, port);
    stream_read_stop(p.stream);
    WAIT_FOR(n_server_side == 1);
    stream_reset(server_side[0].stream);
    server_side[0].stream = NULL;
    run_for(20);
    for (i = 0; i < 3 && rc == 0; i++)
        rc = peer_say_n(&p, "x", 1);
    assert_int_not_equal(rc, 0);
    assert_int_equal(p.error, 0); /* not inside the call */
    WAIT_FOR(p.error != 0);
    assert_int_not_equal(peer_say_n(&p, "x", 1), 0);
    peer_fini(&p);
    listen_end();
}

/* An end that the former owner was told is told to the new one too. */
static void test_change_of_hands(void **state)
{
    uint16_t port = listen_local();
    struct peer p, q;

    (void)state;
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    stream_shutdown(server_side[0].stream);
    WAIT_FOR(p.is_eof);
    peer_adopt(&q, p.stream, true);
    assert_false(q.is_eof);
    WAIT_FOR(q.is_eof);
    p.stream = NULL;
    peer_fini(&p);
    peer_fini(&q);
    listen_end();
}

static void test_runaway_writer(void **state)
{
    static char piece[1 << 20];
    uint16_t port = listen_local();
    struct peer p;
    int rc = 0, i;

    (void)state;
    accepts_reading = false;
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    for (i = 0; i < 64 && rc != E_TOO_LARGE; i++)
        rc = peer_say_n(&p, piece, sizeof(piece));
    assert_int_equal(rc, E_TOO_LARGE);
    WAIT_FOR(p.error == E_TOO_LARGE);
    peer_fini(&p);
    listen_end();
}

static void test_connect_fails(void **state)
{
    struct endpoint gone = {.is_unix = true, .host = "/nonexistent/socket"};
    uint16_t port = listen_local();
    struct endpoint e = local_endpoint(port);
    struct connect_op *op;
    struct peer p = {0};

    (void)state;
    listen_end(); /* nobody listens on the port now */
    (void)stream_connect(&loop, &e, 5000, peer_on_connected, &p);
    assert_false(p.is_connected);
    WAIT_FOR(p.is_connected);
    assert_int_not_equal(p.connect_code, 0);
    p = (struct peer){0};
    (void)stream_connect(&loop, &gone, 5000, peer_on_connected, &p);
    assert_false(p.is_connected);
    WAIT_FOR(p.is_connected);
    assert_int_not_equal(p.connect_code, 0);
    p = (struct peer){0};
    op = stream_connect(&loop, &e, 5000, peer_on_connected, &p);
    connect_cancel(op);
    assert_false(p.is_connected);
    WAIT_FOR(p.is_connected);
    assert_int_equal(p.connect_code, E_CANCELLED);
    (void)snprintf(e.host, sizeof(e.host), "no such name.invalid");
    p = (struct peer){0};
    (void)stream_connect(&loop, &e, 9000, peer_on_connected, &p);
    WAIT_FOR(p.is_connected);
    assert_int_not_equal(p.connect_code, 0);
}

static void test_connect_by_name(void **state)
{
    uint16_t port = listen_local();
    struct endpoint e = {.host = "localhost", .port = port};
    struct peer p = {0};
    struct connect_op *op;

    (void)state;
    (void)stream_connect(&loop, &e, 5000, peer_on_connected, &p);
    WAIT_FOR(p.is_connected);
    assert_int_equal(p.connect_code, 0);
    peer_fini(&p);
    p = (struct peer){0};
    op = stream_connect(&loop, &e, 5000, peer_on_connected, &p); /* cancelled while it is looked up */
    connect_cancel(op);
    WAIT_FOR(p.is_connected);
    assert_int_equal(p.connect_code, E_CANCELLED);
    p = (struct peer){0};
    (void)stream_connect(&loop, &e, 0, peer_on_connected, &p); /* no time at all */
    WAIT_FOR(p.is_connected);
    if (p.connect_code == 0) /* the connection may still have been faster */
        peer_fini(&p);
    else
        assert_int_equal(p.connect_code, E_TIMEOUT);
    listen_end();
}

static void test_unix(void **state)
{
    char dir[] = "/tmp/reeve-test-XXXXXX";
    struct endpoint at = {.is_unix = true};
    struct listener *second = NULL;
    struct peer p = {0};
    struct err err;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(at.host, sizeof(at.host), "%s/s", dir);
    n_server_side = 0;
    accepts_reading = true;
    assert_int_equal(listener_open(&loop, &at, on_stream, NULL, &listener, NULL), 0);
    (void)stream_connect(&loop, &at, 5000, peer_on_connected, &p);
    WAIT_FOR(p.is_connected && n_server_side == 1);
    peer_say(&p, "hello");
    WAIT_FOR(peer_heard(&server_side[0], "hello"));
    /* a live name is not taken away */
    assert_int_equal(listener_open(&loop, &at, on_stream, NULL, &second, &err), E_EXISTS);
    peer_fini(&p);
    WAIT_FOR(n_server_side == 2); /* the probe of the second attempt */
    listen_end();
    assert_int_equal(access(at.host, F_OK), -1);
    /* a dead one is */
    {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr a[8];

        assert_true(fd >= 0);
        memset(a, 0, sizeof(a));
        a[0].sa_family = AF_UNIX;
        memcpy((char *)a + sizeof(sa_family_t), at.host, strlen(at.host));
        assert_int_equal(bind(fd, a, (socklen_t)(sizeof(sa_family_t) + strlen(at.host) + 1)), 0);
        close(fd);
    }
    n_server_side = 0;
    assert_int_equal(listener_open(&loop, &at, on_stream, NULL, &listener, &err), 0);
    listen_end();
    assert_int_equal(rmdir(dir), 0);
}

static void test_adopted(void **state)
{
    int pair[2], listening = socket(AF_INET, SOCK_STREAM, 0), flags;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct stream *s;
    struct peer p, q;
    struct err err;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(stream_from_fd(&loop, pair[0], &s, &err), 0);
    peer_adopt(&p, s, true);
    flags = fcntl(pair[0], F_GETFL);
    assert_true((flags & O_NONBLOCK) != 0);
    assert_int_equal(write(pair[1], "abc", 3), 3);
    WAIT_FOR(peer_heard(&p, "abc"));
    close(pair[1]);
    WAIT_FOR(p.is_eof);
    peer_fini(&p);
    /* not a socket, or not a stream: closed and refused */
    assert_int_equal(stream_from_fd(&loop, open("/dev/null", O_RDONLY), &s, &err) < 0, 1);
    assert_int_equal(stream_from_fd(&loop, socket(AF_INET, SOCK_DGRAM, 0), &s, &err), E_INVALID);
    /* a listening socket that somebody else made */
    assert_int_equal(bind(listening, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(listening, 8), 0);
    n_server_side = 0;
    accepts_reading = true;
    assert_int_equal(listener_from_fd(&loop, listening, on_stream, NULL, &listener, &err), 0);
    peer_connect(&q, listener_port(listener));
    WAIT_FOR(n_server_side == 1);
    peer_fini(&q);
    listen_end();
}

/* Out of descriptors: clients wait in the kernel's queue and are served when there are some again. */
static void test_out_of_descriptors(void **state)
{
    struct rlimit old, low;
    uint16_t port = listen_local();
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), probe;

    (void)state;
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    probe = dup(fd);
    low = old;
    low.rlim_cur = (rlim_t)probe;
    close(probe);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    run_for(50);
    assert_int_equal(n_server_side, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    WAIT_FOR(n_server_side == 1);
    assert_false(listener_is_broken(listener));
    close(fd);
    listen_end();
}

/* The peer ended its side, which was told; that it then broke is told, too: a writer must not wait for it. */
static void test_error_after_eof(void **state)
{
    static char big[32 << 20];
    uint16_t port = listen_local();
    struct peer p;
    int rc;

    (void)state;
    peer_connect(&p, port);
    WAIT_FOR(n_server_side == 1);
    stream_read_stop(p.stream);
    stream_shutdown(p.stream);
    WAIT_FOR(server_side[0].is_eof);
    rc = peer_say_n(&server_side[0], big, sizeof(big));
    assert_int_equal(rc, E_AGAIN);
    run_for(20);
    assert_int_equal(server_side[0].error, 0);
    stream_reset(p.stream);
    p.stream = NULL;
    WAIT_FOR(server_side[0].error != 0);
    peer_fini(&p);
    listen_end();
}

static void say_on(int fd)
{
    static const char bytes[4096] = {0};

    (void)send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One side is gone altogether, the other does not stop sending: the tunnel ends all the same. */
static void test_tunnel_one_side_gone(void **state)
{
    int a[2], b[2];
    struct stream *of_a, *of_b;
    bool done = false;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
    assert_int_equal(stream_from_fd(&loop, a[0], &of_a, NULL), 0);
    assert_int_equal(stream_from_fd(&loop, b[0], &of_b, NULL), 0);
    (void)tunnel_start(of_a, of_b, SLICE_EMPTY, SLICE_EMPTY, on_flag, &done);
    assert_int_equal(close(a[1]), 0);
    WAIT_FOR((say_on(b[1]), done));
    assert_int_equal(close(b[1]), 0);
}

static void test_tunnel(void **state)
{
    static char big[8 << 20];
    uint16_t port = listen_local();
    struct peer a, b;
    struct tunnel *t;
    bool done = false;

    (void)state;
    memset(big, 'z', sizeof(big));
    peer_connect(&a, port);
    WAIT_FOR(n_server_side == 1);
    peer_connect(&b, port);
    WAIT_FOR(n_server_side == 2);
    (void)tunnel_start(server_side[0].stream, server_side[1].stream, SL("from a "), SL("from b "), on_flag,
                       &done);
    server_side[0].stream = NULL;
    server_side[1].stream = NULL;
    WAIT_FOR(peer_heard(&a, "from b ") && peer_heard(&b, "from a "));
    stream_read_stop(b.stream); /* b is slow for a while */
    {
        int rc = peer_say_n(&a, big, sizeof(big));

        assert_true(rc == 0 || rc == E_AGAIN);
    }
    run_for(20);
    stream_read_start(b.stream);
    WAIT_FOR(b.in_all == sizeof(big) + 7);
    /* a ends its half: b hears it, and can still answer */
    stream_shutdown(a.stream);
    WAIT_FOR(b.is_eof);
    assert_false(done);
    peer_say(&b, "answer");
    WAIT_FOR(peer_heard(&a, "answer"));
    stream_shutdown(b.stream);
    WAIT_FOR(done && a.is_eof);
    peer_fini(&a);
    peer_fini(&b);
    /* one side breaks: the other hears the end */
    done = false;
    peer_connect(&a, port);
    WAIT_FOR(n_server_side == 3);
    peer_connect(&b, port);
    WAIT_FOR(n_server_side == 4);
    (void)tunnel_start(server_side[2].stream, server_side[3].stream, SLICE_EMPTY, SLICE_EMPTY, on_flag,
                       &done);
    stream_reset(a.stream);
    a.stream = NULL;
    WAIT_FOR(done && (b.is_eof || b.error != 0));
    peer_fini(&a);
    peer_fini(&b);
    /* closed by its owner */
    done = false;
    peer_connect(&a, port);
    WAIT_FOR(n_server_side == 5);
    peer_connect(&b, port);
    WAIT_FOR(n_server_side == 6);
    t = tunnel_start(server_side[4].stream, server_side[5].stream, SLICE_EMPTY, SLICE_EMPTY, on_flag, &done);
    tunnel_close(t);
    assert_false(done);
    WAIT_FOR(done && a.is_eof && b.is_eof);
    peer_fini(&a);
    peer_fini(&b);
    server_side[2].stream = server_side[3].stream = server_side[4].stream = server_side[5].stream = NULL;
    listen_end();
}

static void test_endpoints(void **state)
{
    static const struct {
        const char *text;
        const char *host; /* NULL: refused */
        uint16_t port;
        bool is_unix;
    } rows[] = {
        {"127.0.0.1:80", "127.0.0.1", 80, false},
        {"[::1]:8080", "::1", 8080, false},
        {"host.example:0", "host.example", 0, false},
        {"unix:/run/x.sock", "/run/x.sock", 0, true},
        {"::1:80", NULL, 0, false},
        {"host", NULL, 0, false},
        {"host:", NULL, 0, false},
        {"host:65536", NULL, 0, false},
        {"host:080", NULL, 0, false},
        {":80", NULL, 0, false},
        {"[::1]80", NULL, 0, false},
        {"[]:80", NULL, 0, false},
        {"unix:", NULL, 0, false},
        {"ho st:80", NULL, 0, false},
        {"", NULL, 0, false},
        {"[::1", NULL, 0, false},
    };
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(rows); i++) {
        struct endpoint e;
        struct err err;
        int rc = endpoint_parse(slice_str(rows[i].text), &e, &err);

        if (rows[i].host == NULL) {
            assert_int_equal(rc, E_INVALID);
            assert_true(err.msg[0] != '\0');
            continue;
        }
        assert_int_equal(rc, 0);
        assert_string_equal(e.host, rows[i].host);
        assert_int_equal(e.port, rows[i].port);
        assert_int_equal(e.is_unix, rows[i].is_unix);
    }
}

static char order[16];

static void on_order(void *data)
{
    size_t n = strlen(order);

    assert_true(n + 1 < sizeof(order));
    order[n] = *(const char *)data;
}

static void on_order_again(void *data)
{
    on_order(data);
    loop_defer(&loop, on_order, data);
}

static void on_tick(void *data)
{
    ++*(int *)data;
}

static void test_deferred_and_timers(void **state)
{
    struct timer t;
    int ticks = 0;
    bool closed = false;

    (void)state;
    memset(order, 0, sizeof(order));
    loop_defer(&loop, on_order, (void *)(uintptr_t) "a");
    loop_defer(&loop, on_order_again, (void *)(uintptr_t) "b");
    loop_defer(&loop, on_order, (void *)(uintptr_t) "c");
    assert_string_equal(order, "");
    WAIT_FOR(strlen(order) == 4);
    assert_string_equal(order, "abcb");
    timer_init(&t, &loop, on_tick, &ticks);
    timer_start(&t, -5);
    assert_true(timer_is_active(&t));
    WAIT_FOR(ticks == 1);
    assert_false(timer_is_active(&t));
    timer_repeat(&t, 1);
    WAIT_FOR(ticks == 4);
    timer_stop(&t);
    t.data = &closed;
    timer_close(&t, on_flag);
    WAIT_FOR(closed);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_echo),
        TEST(test_pull),
        TEST(test_back_pressure),
        TEST(test_close_flushes),
        TEST(test_write_after_reset),
        TEST(test_change_of_hands),
        TEST(test_runaway_writer),
        TEST(test_connect_fails),
        TEST(test_connect_by_name),
        TEST(test_unix),
        TEST(test_adopted),
        TEST(test_out_of_descriptors),
        TEST(test_tunnel),
        TEST(test_error_after_eof),
        TEST(test_tunnel_one_side_gone),
        TEST(test_endpoints),
        TEST(test_deferred_and_timers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
