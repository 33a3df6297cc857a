/* The HTTP server as a client on the wire sees it. */
#include "net_fixture.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/net/server.h"

static struct server *server;
static struct peer peer;
static uint16_t port;
static struct exchange *held; /* /hang, /sse, /later */
static unsigned n_requests, n_aborts, n_drains, n_body_ends;
static int collect_code;
static size_t collect_n;
static uint64_t big_left;
static bool is_gone, tunnel_done;
static char page[65536];

static void big_go_on(struct exchange *ex)
{
    static char piece[65536];

    while (big_left > 0) {
        size_t n = big_left < sizeof(piece) ? (size_t)big_left : sizeof(piece);
        int rc = exchange_write(ex, slice_of(piece, n));

        big_left -= n;
        if (rc == E_AGAIN)
            return;
        assert_int_equal(rc, 0);
    }
    held = NULL;
    exchange_end(ex);
}

static void on_echo_body(struct exchange *ex, struct slice bytes, void *data)
{
    (void)data;
    if (exchange_write(ex, bytes) == E_AGAIN)
        exchange_body_stop(ex);
}

static void on_echo_end(struct exchange *ex, void *data)
{
    (void)data;
    n_body_ends++;
    exchange_end(ex);
}

static void on_abort(struct exchange *ex, void *data)
{
    (void)data;
    assert_true(exchange_peer(ex).n > 0);
    assert_int_equal(exchange_has_head(ex) ? exchange_write(ex, SL("x")) : E_CANCELLED, E_CANCELLED);
    n_aborts++;
    held = NULL;
}

static void on_echo_drain(struct exchange *ex, void *data)
{
    (void)data;
    exchange_body_start(ex);
}

static void on_big_drain(struct exchange *ex, void *data)
{
    (void)data;
    n_drains++;
    big_go_on(ex);
}

static void on_quiet_body_end(struct exchange *ex, void *data)
{
    (void)ex;
    (void)data;
    n_body_ends++;
}

static const struct exchange_events echo_events = {on_echo_body, on_echo_end, on_abort, on_echo_drain};
static const struct exchange_events big_events = {NULL, NULL, on_abort, on_big_drain};
static const struct exchange_events hang_events = {NULL, on_quiet_body_end, on_abort, NULL};

static void on_collected(struct exchange *ex, int code, struct slice body, void *data)
{
    char text[64];

    (void)data;
    collect_code = code;
    collect_n = body.n;
    if (code == E_CANCELLED)
        return;
    (void)snprintf(text, sizeof(text), "got %zu code %d", body.n, code);
    exchange_send(ex, code == 0 ? 200 : err_http_status(code), NULL, 0, slice_str(text));
}

static void on_tunnel_done(void *data)
{
    (void)data;
    tunnel_done = true;
}

static struct peer far_end; /* what an upgraded connection talks to */

static void do_upgrade(struct exchange *ex)
{
    struct slice rest;
    struct stream *s =
        exchange_upgrade(ex, SL("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n"), &rest);

    peer_adopt(&far_end, s, true);
    assert_int_equal(buf_slice(&far_end.in, rest), 0);
}

static void on_request(struct exchange *ex, void *data)
{
    const struct http_request *r = exchange_request(ex);
    static const struct http_header type[] = {{{"Content-Type", 12}, {"text/plain", 10}},
                                              {{"Content-Length", 14}, {"999", 3}}}; /* ours: dropped */

    assert_ptr_equal(data, &server);
    assert_ptr_equal(exchange_server_data(ex), &server);
    n_requests++;
    if (slice_eq_str(r->path, "/hello")) {
        exchange_send(ex, 200, type, 2, SL("hello"));
    } else if (slice_eq_str(r->path, "/empty")) {
        exchange_send(ex, 204, NULL, 0, SLICE_EMPTY);
    } else if (slice_eq_str(r->path, "/echo")) {
        exchange_own(ex, &echo_events, NULL);
        assert_int_equal(exchange_head(ex, 200, NULL, 0, r->has_length ? r->length : EXCHANGE_LENGTH_UNKNOWN),
                         0);
        exchange_body_start(ex);
    } else if (slice_eq_str(r->path, "/collect")) {
        exchange_body_collect(ex, 1000, on_collected, NULL);
    } else if (slice_eq_str(r->path, "/early")) {
        exchange_send(ex, 413, NULL, 0, SL("too much"));
    } else if (slice_eq_str(r->path, "/big")) {
        held = ex;
        big_left = (uint64_t)50 << 20;
        exchange_own(ex, &big_events, NULL);
        assert_int_equal(
            exchange_head(ex, 200, NULL, 0,
                          slice_eq_str(r->query, "chunked") ? EXCHANGE_LENGTH_UNKNOWN : big_left),
            0);
        big_go_on(ex);
    } else if (slice_eq_str(r->path, "/hang")) {
        held = ex;
        exchange_own(ex, &hang_events, NULL);
    } else if (slice_eq_str(r->path, "/hang-body")) {
        held = ex;
        exchange_own(ex, &hang_events, NULL);
        exchange_body_start(ex);
    } else if (slice_eq_str(r->path, "/sse")) {
        held = ex;
        exchange_own(ex, &hang_events, NULL);
        assert_int_equal(exchange_head(ex, 200, type, 1, EXCHANGE_LENGTH_UNKNOWN), 0);
        exchange_flush(ex);
    } else if (slice_eq_str(r->path, "/endless")) {
        held = ex;
        exchange_own(ex, &hang_events, NULL);
        assert_int_equal(exchange_head(ex, 200, type, 1, EXCHANGE_LENGTH_UNKNOWN), 0);
        exchange_flush(ex);
        exchange_endless(ex);
    } else if (slice_eq_str(r->path, "/page")) {
        exchange_send(ex, 200, NULL, 0, slice_of(page, sizeof(page)));
    } else if (slice_eq_str(r->path, "/later")) {
        held = ex; /* nobody asks to be told */
    } else if (slice_eq_str(r->path, "/upgrade")) {
        do_upgrade(ex);
    } else if (slice_eq_str(r->path, "/upgrade-later")) {
        held = ex;
        exchange_own(ex, &hang_events, NULL);
    } else if (slice_eq_str(r->path, "/short")) {
        assert_int_equal(exchange_head(ex, 200, NULL, 0, 100), 0);
        (void)exchange_write(ex, SL("only this"));
        exchange_end(ex);
    } else if (slice_eq_str(r->path, "/long")) {
        assert_int_equal(exchange_head(ex, 200, NULL, 0, 3), 0);
        assert_int_equal(exchange_write(ex, SL("more than that")), E_INVALID);
        exchange_end(ex);
    } else if (slice_eq_str(r->path, "/injected")) {
        static const struct http_header bad[] = {{{"X-A", 3}, {"b\r\nSet-Cookie: x", 16}}};

        assert_int_equal(exchange_head(ex, 200, bad, 1, 0), E_INVALID);
        assert_false(exchange_has_head(ex));
        exchange_send(ex, 500, NULL, 0, SL("refused"));
    } else if (slice_eq_str(r->path, "/peer")) {
        exchange_send(ex, 200, NULL, 0, exchange_peer(ex));
    } else if (slice_eq_str(r->path, "/tag")) {
        exchange_send(ex, 200, NULL, 0, exchange_tag(ex));
    } else {
        exchange_send(ex, 404, NULL, 0, r->target);
    }
}

static void on_bad_request(int code, const struct err *err, struct buf *out, void *data)
{
    (void)data;
    assert_int_equal(err->code, code);
    (void)buf_printf(out, "HTTP/1.1 %d Bad\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbad",
                     err_http_status(code));
}

static void serve(const struct server_limits *limits)
{
    struct server_handler h = {.on_request = on_request, .on_bad_request = on_bad_request};
    struct endpoint at = local_endpoint(0);

    held = NULL;
    n_requests = n_aborts = n_drains = n_body_ends = 0;
    is_gone = tunnel_done = false;
    server = server_new(&loop, limits, &h, &server);
    assert_int_equal(server_listen(server, &at, &port, NULL), 0);
    peer_connect(&peer, port);
}

static void serve_end(void)
{
    peer_fini(&peer);
    server_close(server, on_flag, &is_gone);
    assert_false(is_gone);
    WAIT_FOR(is_gone);
}

static void test_keep_alive(void **state)
{
    int i;

    (void)state;
    serve(NULL);
    for (i = 0; i < 3; i++) {
        buf_reset(&peer.in);
        peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
        WAIT_FOR(peer_heard(&peer, "\r\n\r\nhello"));
        assert_true(peer_heard(&peer, "HTTP/1.1 200 OK\r\n"));
        assert_true(peer_heard(&peer, "\r\nContent-Type: text/plain\r\n"));
        assert_true(peer_heard(&peer, "\r\nContent-Length: 5\r\n"));
        assert_true(peer_heard(&peer, "\r\nDate: "));
        assert_true(peer_heard(&peer, " GMT\r\n"));
        assert_false(peer_heard(&peer, "999"));
        assert_false(peer_heard(&peer, "Connection:"));
    }
    assert_int_equal(server_connections(server), 1);
    buf_reset(&peer.in);
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    WAIT_FOR(peer.is_eof);
    assert_true(peer_heard(&peer, "\r\nConnection: close\r\n"));
    WAIT_FOR(server_connections(server) == 0);
    serve_end();
}

static void test_pieces(void **state)
{
    static const char text[] = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nX-Sum: t\r\n\r\n";
    size_t i;

    (void)state;
    serve(NULL);
    for (i = 0; i + 1 < sizeof(text); i++) { /* each byte in a packet of its own */
        assert_int_equal(peer_say_n(&peer, text + i, 1), 0);
        run_for(0);
        uv_run(&loop.uv, UV_RUN_NOWAIT);
    }
    WAIT_FOR(peer_heard(&peer, "\r\n0\r\n\r\n"));
    assert_true(peer_heard(&peer, "\r\nTransfer-Encoding: chunked\r\n"));
    assert_int_equal(n_requests, 1);
    assert_int_equal(n_body_ends, 1);
    serve_end();
}

static void test_pipeline(void **state)
{
    struct buf all;
    int i;

    (void)state;
    serve(NULL);
    buf_init(&all, 1 << 20);
    for (i = 0; i < 50; i++)
        (void)buf_str(&all, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\nPOST /echo HTTP/1.1\r\nHost: "
                            "h\r\nContent-Length: 4\r\n\r\nbody");
    assert_int_equal(peer_say_n(&peer, all.p, all.n), 0);
    WAIT_FOR(peer_count(&peer, "body") == 50);
    assert_int_equal(peer_count(&peer, "hello"), 50);
    /* behind an answer that takes its time the rest waits */
    buf_reset(&peer.in);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\n\r\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    run_for(20);
    assert_int_equal(peer.in.n, 0);
    exchange_send(held, 200, NULL, 0, SL("first"));
    assert_int_equal(n_requests, 101); /* the next one not inside our call */
    WAIT_FOR(peer_heard(&peer, "hello"));
    assert_true(strstr(peer.in.p, "first") < strstr(peer.in.p, "hello"));
    buf_fini(&all);
    serve_end();
}

static void expect_refused(const char *request, const char *status)
{
    serve(NULL);
    peer_say(&peer, request);
    WAIT_FOR(peer_heard(&peer, status));
    stream_shutdown(peer.stream);
    WAIT_FOR(peer.is_eof || peer.error != 0);
    assert_int_equal(peer.error, 0); /* no reset ate the answer */
    serve_end();
}

static void test_bad_requests(void **state)
{
    (void)state;
    expect_refused("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ");
    expect_refused("GET / HTTP/1.1\nHost: h\r\n\r\n", "HTTP/1.1 400 ");
    expect_refused("GET / HTTP/3.0\r\nHost: h\r\n\r\n", "HTTP/1.1 505 ");
    expect_refused("GET / HTTP/1.1\r\nHost: h\r\nExpect: 200-fine\r\n\r\n", "HTTP/1.1 417 ");
    expect_refused("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 501 ");
    expect_refused("POST /collect HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                   "HTTP/1.1 400 ");
    assert_int_equal(collect_code, E_CANCELLED);
}

static void test_head_limits(void **state)
{
    struct server_limits limits = {.head_bytes_max = 1000};
    char line[400];

    (void)state;
    memset(line, 'a', sizeof(line));
    serve(&limits);
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n");
    while (!peer_heard(&peer, "431")) {
        peer_say(&peer, "X-");
        assert_int_equal(peer_say_n(&peer, line, sizeof(line)), 0);
        peer_say(&peer, ": 1\r\n");
        run_for(2);
        assert_true(peer.in_all < 100 || peer_heard(&peer, "431"));
    }
    WAIT_FOR(peer.is_eof || (stream_shutdown(peer.stream), true));
    serve_end();
}

static void test_collect(void **state)
{
    (void)state;
    serve(NULL);
    peer_say(&peer, "POST /collect HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345");
    WAIT_FOR(peer_heard(&peer, "got 5 code 0"));
    peer_say(&peer, "POST /collect HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
                    "chunked\r\n\r\n5\r\n12345\r\n2\r\n67\r\n0\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "got 7 code 0"));
    peer_say(&peer, "GET /collect HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "got 0 code 0"));
    /* too much by its own word: refused at once, the small rest is skipped, the connection goes on */
    buf_reset(&peer.in);
    peer_say(&peer, "POST /collect HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "HTTP/1.1 413 "));
    {
        char rest[1001];

        memset(rest, 'r', sizeof(rest));
        assert_int_equal(peer_say_n(&peer, rest, sizeof(rest)), 0);
    }
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "hello"));
    /* too much as it comes */
    buf_reset(&peer.in);
    {
        char chunk[1100];

        memset(chunk, 'c', sizeof(chunk));
        peer_say(&peer, "POST /collect HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n44c\r\n");
        assert_int_equal(peer_say_n(&peer, chunk, sizeof(chunk)), 0);
    }
    WAIT_FOR(peer_heard(&peer, "HTTP/1.1 413 "));
    peer_say(&peer, "\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "hello"));
    serve_end();
    /* the client leaves in the middle */
    serve(NULL);
    collect_code = 0;
    peer_say(&peer, "POST /collect HTTP/1.1\r\nHost: h\r\nContent-Length: 500\r\n\r\n12345");
    WAIT_FOR(n_requests == 1);
    peer_fini(&peer);
    WAIT_FOR(collect_code == E_CANCELLED);
    serve_end();
}

/* 50 MiB to a client that reads in fits: what the server queues stays small. */
static void big(const char *request)
{
    uint64_t stop_at = 1 << 20;

    serve(NULL);
    peer.keeps_nothing = true;
    peer_say(&peer, request);
    while (held != NULL || n_requests == 0 || peer.in_all < (uint64_t)50 << 20) {
        WAIT_FOR(peer.in_all >= stop_at || peer.in_all >= (uint64_t)50 << 20);
        stream_read_stop(peer.stream);
        run_for(3);
        stream_read_start(peer.stream);
        stop_at = peer.in_all + ((uint64_t)8 << 20);
        if (held == NULL && peer.in_all >= (uint64_t)50 << 20)
            break;
    }
    assert_true(n_drains > 0);
    assert_int_equal(n_aborts, 0);
    peer.keeps_nothing = false;
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "hello"));
    serve_end();
}

static void test_big_answer(void **state)
{
    (void)state;
    big("GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    big("GET /big?chunked HTTP/1.1\r\nHost: h\r\n\r\n");
}

static void test_big_upload(void **state)
{
    static char piece[65536];
    uint64_t sent = 0, all = (uint64_t)30 << 20;

    (void)state;
    serve(NULL);
    peer.keeps_nothing = true;
    peer_say(&peer, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 31457280\r\n\r\n");
    peer.is_drained = true;
    while (sent < all) { /* back-pressure reaches us through the echo */
        if (peer.is_drained) {
            peer.is_drained = peer_say_n(&peer, piece, sizeof(piece)) == 0;
            sent += sizeof(piece);
        } else {
            WAIT_FOR(peer.is_drained);
        }
    }
    WAIT_FOR(peer.in_all > all);
    WAIT_FOR(n_body_ends == 1);
    serve_end();
}

static void test_abort(void **state)
{
    static const char *const requests[] = {
        "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n", "GET /sse HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /hang-body HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc",
        "POST /hang HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        "GET /big HTTP/1.1\r\nHost: h\r\n\r\n"};
    size_t i;
    int how;

    (void)state;
    for (i = 0; i < ARRAY_LEN(requests); i++) {
        for (how = 0; how < 2; how++) {
            serve(NULL);
            if (i == 4)
                stream_read_stop(peer.stream);
            peer_say(&peer, requests[i]);
            WAIT_FOR(held != NULL);
            if (how == 0)
                stream_close(peer.stream);
            else
                stream_reset(peer.stream);
            peer.stream = NULL;
            WAIT_FOR(n_aborts == 1);
            assert_int_equal(server_connections(server), 0);
            serve_end();
        }
    }
}

/* Nobody asked to be told: the exchange stays until the handler ends it, or asks late. */
static void test_unowned_exchange(void **state)
{
    static const struct exchange_events events = {.on_abort = on_abort};

    (void)state;
    serve(NULL);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    peer_fini(&peer);
    WAIT_FOR(server_connections(server) == 0);
    assert_true(slice_eq_str(exchange_request(held)->path, "/later"));
    exchange_send(held, 200, NULL, 0, SL("for nobody"));
    held = NULL;
    peer_connect(&peer, port);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    peer_fini(&peer);
    WAIT_FOR(server_connections(server) == 0);
    exchange_own(held, &events, NULL);
    assert_int_equal(n_aborts, 0);
    WAIT_FOR(n_aborts == 1);
    /* closing the server waits for such an exchange */
    peer_connect(&peer, port);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    server_close(server, on_flag, &is_gone);
    run_for(10);
    assert_false(is_gone);
    exchange_abort(held);
    WAIT_FOR(is_gone);
    peer_fini(&peer);
}

/* The end of the client's half: with "Connection: close" it is answered, else the client counts as gone. */
static void test_half_close(void **state)
{
    (void)state;
    serve(NULL);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream_shutdown(peer.stream);
    WAIT_FOR(held != NULL);
    run_for(20);
    exchange_send(held, 200, NULL, 0, SL("answered"));
    WAIT_FOR(peer.is_eof);
    assert_true(peer_heard(&peer, "answered"));
    peer_fini(&peer);
    /* an answer made at once is heard in any case */
    peer_connect(&peer, port);
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    stream_shutdown(peer.stream);
    WAIT_FOR(peer.is_eof);
    assert_true(peer_heard(&peer, "hello"));
    serve_end();
}

/* An answer without an end is for nobody once the client ended its side, whatever it said before. */
static void test_endless(void **state)
{
    (void)state;
    serve(NULL);
    peer_say(&peer, "GET /endless HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "\r\n\r\n"));
    run_for(20);
    assert_int_equal(n_aborts, 0);
    stream_shutdown(peer.stream);
    WAIT_FOR(n_aborts == 1);
    WAIT_FOR(server_connections(server) == 0);
    peer_fini(&peer);
    /* it had left before the handler knew that there will be no end */
    peer_connect(&peer, port);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    WAIT_FOR(held != NULL);
    stream_shutdown(peer.stream);
    run_for(20);
    exchange_own(held, &hang_events, NULL);
    assert_int_equal(exchange_head(held, 200, NULL, 0, EXCHANGE_LENGTH_UNKNOWN), 0);
    exchange_endless(held);
    assert_int_equal(n_aborts, 1); /* not inside our call */
    WAIT_FOR(n_aborts == 2);
    WAIT_FOR(server_connections(server) == 0);
    serve_end();
}

/* It asks for much, reads nothing, ends its side and goes: the answer that is stuck does not keep it. */
static void test_unread_answers(void **state)
{
    int i;

    (void)state;
    serve(NULL);
    stream_read_stop(peer.stream);
    for (i = 0; i < 400; i++)
        peer_say(&peer, "GET /page HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(n_requests > 0);
    run_for(100);
    assert_true(n_requests < 400); /* stuck */
    stream_shutdown(peer.stream);
    run_for(50);
    assert_int_equal(server_connections(server), 1); /* it may still read */
    stream_reset(peer.stream);
    peer.stream = NULL;
    WAIT_FOR(server_connections(server) == 0);
    serve_end();
}

/* Who pipelines thousands of requests gets its answers in turns, and others theirs in between. */
static void test_flood(void **state)
{
    enum { N = 5000 };
    struct peer other;
    struct buf all;
    unsigned before, most = 0;
    int i;

    (void)state;
    serve(NULL);
    peer_connect(&other, port);
    buf_init(&all, 1 << 20);
    for (i = 0; i < N; i++)
        (void)buf_str(&all, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    i = peer_say_n(&peer, all.p, all.n);
    assert_true(i == 0 || i == E_AGAIN);
    buf_fini(&all);
    WAIT_FOR(n_requests > 0);
    peer_say(&other, "GET /peer HTTP/1.1\r\nHost: h\r\n\r\n");
    timer_repeat(&guard, 100);
    while (!peer_heard(&other, "127.0.0.1:")) {
        before = n_requests;
        uv_run(&loop.uv, UV_RUN_ONCE);
        most = n_requests - before > most ? n_requests - before : most;
        assert_true(n_requests < N);
    }
    timer_stop(&guard);
    assert_true(most <= 100); /* a turn of the loop is short */
    WAIT_FOR(n_requests == N + 1);
    WAIT_FOR(peer_count(&peer, "\r\n\r\nhello") == N); /* nothing of it is lost */
    peer_fini(&other);
    serve_end();
}

static void test_continue(void **state)
{
    (void)state;
    serve(NULL);
    peer_say(&peer, "POST /collect HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "HTTP/1.1 100 Continue\r\n\r\n"));
    assert_int_equal(peer_count(&peer, "HTTP/1.1"), 1);
    peer_say(&peer, "abc");
    WAIT_FOR(peer_heard(&peer, "got 3 code 0"));
    /* the body came without waiting: no 100 */
    buf_reset(&peer.in);
    peer_say(&peer,
             "POST /collect HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc");
    WAIT_FOR(peer_heard(&peer, "got 3 code 0"));
    assert_false(peer_heard(&peer, "100 Continue"));
    /* refused unread: nobody knows whether the body comes, so the connection ends */
    buf_reset(&peer.in);
    peer_say(&peer, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "too much"));
    assert_true(peer_heard(&peer, "Connection: close"));
    WAIT_FOR(peer.is_eof);
    serve_end();
}

/* An answer before the body was read reaches a client that is still sending. */
static void test_early_answer(void **state)
{
    static char piece[65536];
    int i;

    (void)state;
    serve(NULL);
    peer_say(&peer, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n");
    for (i = 0; i < 20; i++) {
        int rc = peer_say_n(&peer, piece, sizeof(piece));

        assert_true(rc == 0 || rc == E_AGAIN);
        run_for(1);
    }
    WAIT_FOR(peer_heard(&peer, "too much"));
    assert_true(peer_heard(&peer, "Connection: close"));
    assert_int_equal(peer.error, 0);
    serve_end();
    serve(NULL); /* a small one is skipped and the connection kept */
    peer_say(&peer, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n01234");
    WAIT_FOR(peer_heard(&peer, "too much"));
    peer_say(&peer, "56789GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "hello"));
    serve_end();
}

static void test_framing_of_answers(void **state)
{
    (void)state;
    serve(NULL);
    peer_say(&peer, "HEAD /hello HTTP/1.1\r\nHost: h\r\n\r\nGET /empty HTTP/1.1\r\nHost: h\r\n\r\nGET /x?y "
                    "HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "/x?y"));
    assert_int_equal(peer_count(&peer, "HTTP/1.1 "), 3);
    assert_int_equal(peer_count(&peer, "Content-Length: "), 2); /* none with 204 */
    assert_false(peer_heard(&peer, "hello"));                   /* no body for HEAD */
    buf_reset(&peer.in);
    peer_say(&peer, "GET /injected HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "refused"));
    assert_false(peer_heard(&peer, "Set-Cookie"));
    /* HTTP/1.0: kept alive only when asked for; unknown length ends with the connection */
    buf_reset(&peer.in);
    peer_say(&peer, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "hello"));
    assert_true(peer_heard(&peer, "Connection: keep-alive"));
    buf_reset(&peer.in);
    peer_say(&peer, "GET /sse HTTP/1.0\r\n\r\n");
    WAIT_FOR(held != NULL);
    assert_int_equal(exchange_write(held, SL("data")), 0);
    exchange_end(held);
    WAIT_FOR(peer.is_eof);
    assert_true(peer_heard(&peer, "\r\n\r\ndata"));
    assert_false(peer_heard(&peer, "chunked"));
    peer_fini(&peer);
    /* an answer that is shorter or longer than it said is never taken for complete */
    peer_connect(&peer, port);
    peer_say(&peer, "GET /short HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer.error != 0 || peer.is_eof);
    peer_fini(&peer);
    peer_connect(&peer, port);
    peer_say(&peer, "GET /long HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer.error != 0 || peer.is_eof);
    assert_false(peer_heard(&peer, "more"));
    serve_end();
}

static void test_events(void **state)
{
    (void)state;
    serve(NULL);
    peer_say(&peer, "GET /sse HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "\r\n\r\n")); /* the head does not wait for the first event */
    assert_int_equal(exchange_write(held, SL("data: 1\n\n")), 0);
    WAIT_FOR(peer_heard(&peer, "\r\n9\r\ndata: 1\n\n\r\n"));
    exchange_end(held);
    WAIT_FOR(peer_heard(&peer, "0\r\n\r\n"));
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "hello"));
    serve_end();
}

static void test_upgrade(void **state)
{
    struct slice rest;

    (void)state;
    serve(NULL);
    peer_say(&peer,
             "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframe");
    WAIT_FOR(peer_heard(&peer, "101 Switching") && far_end.is_connected);
    WAIT_FOR(peer_heard(&far_end, "frame"));
    peer_say(&peer, " more");
    WAIT_FOR(peer_heard(&far_end, "frame more"));
    peer_say(&far_end, "answer");
    WAIT_FOR(peer_heard(&peer, "answer"));
    assert_int_equal(server_connections(server), 0);
    peer_fini(&far_end);
    peer_fini(&peer);
    /* later, with bytes waiting, and through a tunnel */
    peer_connect(&peer, port);
    peer_say(&peer,
             "GET /upgrade-later HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nab");
    WAIT_FOR(held != NULL);
    peer_say(&peer, "cd");
    run_for(20);
    {
        int pair[2];
        struct stream *s, *inner, *outer;
        struct peer inside;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(stream_from_fd(&loop, pair[0], &inner, NULL), 0);
        assert_int_equal(stream_from_fd(&loop, pair[1], &outer, NULL), 0);
        peer_adopt(&inside, outer, true);
        s = exchange_upgrade(held, SL("HTTP/1.1 101 Switching Protocols\r\n\r\n"), &rest);
        (void)tunnel_start(s, inner, rest, SLICE_EMPTY, on_tunnel_done, NULL);
        WAIT_FOR(peer_heard(&inside, "abcd"));
        peer_say(&inside, "echo");
        WAIT_FOR(peer_heard(&peer, "echo"));
        stream_close(peer.stream);
        peer.stream = NULL;
        WAIT_FOR(inside.is_eof);
        stream_shutdown(inside.stream);
        WAIT_FOR(tunnel_done);
        peer_fini(&inside);
    }
    serve_end();
}

static void test_deadlines(void **state)
{
    struct server_limits limits = {
        .head_timeout_ms = 60, .idle_timeout_ms = 120, .body_timeout_ms = 60, .write_timeout_ms = 60};
    int i;

    (void)state;
    /* a head that drips in forever */
    serve(&limits);
    peer_say(&peer, "GET /hello HTTP/1.1\r\nHost: h\r\n");
    for (i = 0; i < 1000 && !peer.is_eof && peer.error == 0; i++) {
        (void)peer_say_n(&peer, "X: y\r\n", 6);
        run_for(5);
    }
    assert_true(i < 100);
    assert_int_equal(n_requests, 0);
    serve_end();
    /* silence */
    serve(&limits);
    WAIT_FOR(peer.is_eof || peer.error != 0);
    serve_end();
    /* a body that never comes */
    serve(&limits);
    peer_say(&peer, "POST /hang-body HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n1");
    WAIT_FOR(n_aborts == 1);
    serve_end();
    /* a client that takes nothing */
    serve(&limits);
    stream_read_stop(peer.stream);
    peer_say(&peer, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(n_aborts == 1);
    serve_end();
    /* but a handler may take its time */
    serve(&limits);
    peer_say(&peer, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    run_for(250);
    exchange_send(held, 200, NULL, 0, SL("at last"));
    WAIT_FOR(peer_heard(&peer, "at last"));
    serve_end();
}

static void test_connection_limit(void **state)
{
    struct server_limits limits = {.connections_max = 2};
    struct peer second, third;

    (void)state;
    serve(&limits);
    peer_connect(&second, port);
    peer_connect(&third, port);
    WAIT_FOR(third.is_eof || third.error != 0);
    peer_say(&second, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&second, "hello"));
    peer_fini(&third);
    peer_fini(&second);
    WAIT_FOR(server_connections(server) == 1);
    peer_connect(&third, port);
    peer_say(&third, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&third, "hello"));
    peer_fini(&third);
    serve_end();
}

static void test_drain(void **state)
{
    bool drained = false;
    struct peer busy, refused = {0};
    struct endpoint e;

    (void)state;
    serve(NULL);
    peer_connect(&busy, port);
    peer_say(&busy, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    server_drain(server, 5000, on_flag, &drained);
    WAIT_FOR(peer.is_eof); /* it was idle */
    assert_false(drained);
    e = local_endpoint(port);
    (void)stream_connect(&loop, &e, 2000, peer_on_connected, &refused);
    WAIT_FOR(refused.is_connected);
    assert_int_not_equal(refused.connect_code, 0);
    exchange_send(held, 200, NULL, 0, SL("still answered"));
    WAIT_FOR(busy.is_eof && drained);
    assert_true(peer_heard(&busy, "still answered"));
    assert_true(peer_heard(&busy, "Connection: close"));
    peer_fini(&busy);
    serve_end();
    /* what does not end in time is reset */
    drained = false;
    serve(NULL);
    peer_say(&peer, "GET /sse HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(held != NULL);
    server_drain(server, 30, on_flag, &drained);
    WAIT_FOR(drained);
    assert_int_equal(n_aborts, 1);
    serve_end();
    /* nothing there at all */
    drained = false;
    serve(NULL);
    peer_fini(&peer);
    WAIT_FOR(server_connections(server) == 0);
    server_drain(server, 1000, on_flag, &drained);
    assert_false(drained);
    WAIT_FOR(drained);
    serve_end();
}

static void test_other_sockets(void **state)
{
    char dir[] = "/tmp/reeve-test-XXXXXX";
    struct endpoint at = {.is_unix = true};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    struct peer p = {0};
    struct stream *s;
    int fd = socket(AF_INET, SOCK_STREAM, 0), pair[2];

    (void)state;
    serve(NULL);
    peer_say(&peer, "GET /peer HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&peer, "\r\n\r\n127.0.0.1:"));
    assert_non_null(mkdtemp(dir));
    (void)snprintf(at.host, sizeof(at.host), "%s/s", dir);
    assert_int_equal(server_listen(server, &at, NULL, NULL), 0);
    (void)stream_connect(&loop, &at, 5000, peer_on_connected, &p);
    WAIT_FOR(p.is_connected);
    peer_say(&p, "GET /peer HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&p, "\r\n\r\nunix"));
    peer_fini(&p);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    assert_int_equal(server_listen_fd(server, fd, NULL), 0);
    peer_connect(&p, ntohs(a.sin_port));
    peer_say(&p, "GET /tag HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&p, "\r\nContent-Length: 0\r\n"));
    peer_fini(&p);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(stream_from_fd(&loop, pair[0], &s, NULL), 0);
    server_serve(server, s, SL("workspace-1"));
    assert_int_equal(stream_from_fd(&loop, pair[1], &s, NULL), 0);
    peer_adopt(&p, s, true);
    peer_say(&p, "GET /tag HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&p, "\r\n\r\nworkspace-1"));
    peer_fini(&p);
    serve_end();
    assert_int_equal(rmdir(dir), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_keep_alive),
        TEST(test_pieces),
        TEST(test_pipeline),
        TEST(test_bad_requests),
        TEST(test_head_limits),
        TEST(test_collect),
        TEST(test_big_answer),
        TEST(test_big_upload),
        TEST(test_abort),
        TEST(test_unowned_exchange),
        TEST(test_endless),
        TEST(test_unread_answers),
        TEST(test_flood),
        TEST(test_half_close),
        TEST(test_continue),
        TEST(test_early_answer),
        TEST(test_framing_of_answers),
        TEST(test_events),
        TEST(test_upgrade),
        TEST(test_deadlines),
        TEST(test_connection_limit),
        TEST(test_drain),
        TEST(test_other_sockets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
