/* The HTTP client against scripted origins, and server and client together as a proxy. */
#include "net_fixture.h"

#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/net/client.h"
#include "base/net/server.h"

/* --- a scripted origin: the test reads what came and says what it likes --- */

static struct listener *listener;
static struct peer origin[8];
static size_t n_origin;
static uint16_t origin_port;
static struct connector_endpoint to_origin;

static void on_origin_stream(struct listener *l, struct stream *s, void *data)
{
    (void)l;
    (void)data;
    assert_true(n_origin < ARRAY_LEN(origin));
    peer_adopt(&origin[n_origin++], s, true);
}

static void origin_start(void)
{
    struct endpoint at = local_endpoint(0);

    n_origin = 0;
    assert_int_equal(listener_open(&loop, &at, on_origin_stream, NULL, &listener, NULL), 0);
    origin_port = listener_port(listener);
    at = local_endpoint(origin_port);
    connector_endpoint_init(&to_origin, &at);
}

static void origin_end(void)
{
    bool closed = false;
    size_t i;

    for (i = 0; i < n_origin; i++)
        peer_fini(&origin[i]);
    listener_close(listener, on_flag, &closed);
    WAIT_FOR(closed);
}

/* --- a call that remembers all it hears --- */

struct told {
    struct http_call *call;
    int status, code;
    unsigned heads, ends, errors, drains, continues, upgrades;
    struct buf body;
    char header[64]; /* X-Mark */
    char message[ERR_MSG_MAX];
    struct peer upgraded;
    bool pauses;       /* after each piece */
    bool cancels;      /* at the head */
    struct told *then; /* started in on_end */
    struct http_pool *pool;
};

static void on_head(struct http_call *c, const struct http_response *r, void *data)
{
    struct told *t = data;
    struct slice mark = http_find(r->headers, r->n_headers, "x-mark");

    assert_ptr_equal(c, t->call);
    assert_int_equal(t->heads + t->errors + t->ends, 0);
    t->heads++;
    t->status = r->status;
    (void)snprintf(t->header, sizeof(t->header), "%.*s", SL_ARG(mark));
    if (t->cancels) {
        http_call_cancel(c);
        t->call = NULL;
    }
}

static void on_body(struct http_call *c, struct slice bytes, void *data)
{
    struct told *t = data;

    assert_int_equal(t->heads, 1);
    assert_int_equal(t->ends + t->errors, 0);
    assert_int_equal(buf_slice(&t->body, bytes), 0);
    if (t->pauses)
        http_call_pause(c);
}

static void get_start(struct told *t, struct http_pool *p);

static void on_end(struct http_call *c, void *data)
{
    struct told *t = data;

    (void)c;
    assert_int_equal(t->ends + t->errors, 0);
    t->ends++;
    t->call = NULL;
    if (t->then != NULL)
        get_start(t->then, t->pool);
}

static void on_error(struct http_call *c, int code, const struct err *err, void *data)
{
    struct told *t = data;

    (void)c;
    assert_int_equal(t->ends + t->errors, 0);
    assert_int_equal(err->code, code);
    assert_true(err->msg[0] != '\0');
    (void)snprintf(t->message, sizeof(t->message), "%s", err->msg);
    t->errors++;
    t->code = code;
    t->call = NULL;
}

static void on_drain(struct http_call *c, void *data)
{
    struct told *t = data;

    assert_ptr_equal(c, t->call);
    t->drains++;
}

static void on_continue(struct http_call *c, void *data)
{
    struct told *t = data;

    (void)c;
    t->continues++;
}

static void on_upgrade(struct http_call *c, const struct http_response *r, struct stream *s,
                       struct slice rest, void *data)
{
    struct told *t = data;

    (void)c;
    assert_int_equal(r->status, 101);
    t->upgrades++;
    t->call = NULL;
    peer_adopt(&t->upgraded, s, true);
    assert_int_equal(buf_slice(&t->upgraded.in, rest), 0);
}

static const struct http_call_events events = {.on_head = on_head,
                                               .on_body = on_body,
                                               .on_end = on_end,
                                               .on_error = on_error,
                                               .on_drain = on_drain,
                                               .on_continue = on_continue,
                                               .on_upgrade = on_upgrade};

static const struct http_header host[] = {{{"Host", 4}, {"o", 1}}, {{"Content-Length", 14}, {"77", 2}}};

static void told_init(struct told *t)
{
    *t = (struct told){0};
    buf_init(&t->body, (size_t)64 << 20);
}

static void call_start(struct told *t, struct http_pool *p, const struct http_call_options *o)
{
    struct http_call_options mine = *o;

    mine.headers = host;
    mine.n_headers = 2;
    t->pool = p;
    t->call = http_call_start(p, &mine, &events, t);
    assert_non_null(t->call);
    assert_int_equal(t->heads + t->ends + t->errors, 0);
}

static void get_start(struct told *t, struct http_pool *p)
{
    struct http_call_options o = {.method = SL("GET"), .target = SL("/x")};

    call_start(t, p, &o);
}

static void told_fini(struct told *t)
{
    buf_fini(&t->body);
}

/* --- the client alone --- */

static void test_reuse(void **state)
{
    struct http_pool *p;
    struct told a, b;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&a);
    told_init(&b);
    get_start(&a, p);
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "\r\n\r\n"));
    assert_string_equal(buf_cstr(&origin[0].in), "GET /x HTTP/1.1\r\nHost: o\r\n\r\n"); /* lengths are ours */
    peer_say(&origin[0],
             "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nX-Mark: m\r\nContent-Length: 4\r\n\r\nbo");
    WAIT_FOR(a.body.n == 2);
    assert_string_equal(a.header, "m");
    a.then = &b; /* the next call gets the same connection, from inside on_end */
    peer_say(&origin[0], "dy");
    WAIT_FOR(a.ends == 1 && peer_count(&origin[0], "GET /x") == 2);
    assert_string_equal(buf_cstr(&a.body), "body");
    peer_say(&origin[0],
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
    WAIT_FOR(b.ends == 1);
    assert_string_equal(buf_cstr(&b.body), "abcd");
    assert_int_equal(n_origin, 1);
    /* a byte nobody asked for: not used again */
    peer_say(&origin[0], "!");
    WAIT_FOR(origin[0].is_eof || origin[0].error != 0);
    told_fini(&b);
    told_init(&b);
    get_start(&b, p);
    WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "\r\n\r\n"));
    /* bytes behind the response, in one packet with it: the same */
    peer_say(&origin[1], "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    WAIT_FOR(b.ends == 1 && (origin[1].is_eof || origin[1].error != 0));
    told_fini(&a);
    told_fini(&b);
    http_pool_close(p);
    origin_end();
}

static void expect_not_reused(const char *response, bool is_error, size_t body_n)
{
    struct http_pool *p;
    struct told t;

    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    get_start(&t, p);
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "\r\n\r\n"));
    peer_say(&origin[0], response);
    run_for(5);
    stream_shutdown(origin[0].stream);
    WAIT_FOR(t.ends + t.errors == 1);
    assert_int_equal(t.errors, is_error);
    if (is_error)
        assert_int_equal(t.code, E_UPSTREAM);
    assert_int_equal(t.body.n, body_n);
    WAIT_FOR(origin[0].is_eof || origin[0].error != 0);
    told_fini(&t);
    http_pool_close(p);
    origin_end();
}

static void test_ends(void **state)
{
    (void)state;
    expect_not_reused("HTTP/1.1 200 OK\r\n\r\nuntil the end", false, 13);
    expect_not_reused("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", false, 2);
    expect_not_reused("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", false, 2);
    expect_not_reused("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", true, 2);
    expect_not_reused("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", true, 2);
    expect_not_reused("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", true, 0);
    expect_not_reused("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", true, 0);
    expect_not_reused("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", true, 0);
    expect_not_reused("nonsense\r\n\r\n", true, 0);
    expect_not_reused("", true, 0);
}

static void test_bodies(void **state)
{
    struct http_call_options sized = {
        .method = SL("POST"), .target = SL("/p"), .has_body = true, .length = 6};
    struct http_call_options chunked = {
        .method = SL("POST"), .target = SL("/c"), .has_body = true, .length = HTTP_CALL_CHUNKED};
    struct http_call_options whole = {.method = SL("PUT"), .target = SL("/w"), .body = SL("all of it")};
    struct http_pool *p;
    struct told t;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    call_start(&t, p, &sized); /* written before there is a connection */
    assert_int_equal(http_call_write(t.call, SL("abc")), E_AGAIN);
    WAIT_FOR(t.drains == 1);
    assert_int_equal(http_call_write(t.call, SL("def")), 0);
    http_call_end(t.call);
    WAIT_FOR(peer_heard(&origin[0], "\r\n\r\nabcdef"));
    assert_true(peer_heard(&origin[0], "\r\nContent-Length: 6\r\n"));
    assert_int_equal(peer_count(&origin[0], "Content-Length"), 1);
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_FOR(t.ends == 1);
    told_init(&t); /* over the kept connection: at once */
    call_start(&t, p, &chunked);
    assert_int_equal(http_call_write(t.call, SL("abc")), 0);
    assert_int_equal(http_call_write(t.call, SL("0123456789abcdef")), 0);
    http_call_end(t.call);
    WAIT_FOR(peer_heard(&origin[0], "3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"));
    assert_true(peer_heard(&origin[0], "\r\nTransfer-Encoding: chunked\r\n"));
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_FOR(t.ends == 1);
    told_init(&t);
    call_start(&t, p, &whole);
    WAIT_FOR(peer_heard(&origin[0], "\r\nContent-Length: 9\r\n\r\nall of it"));
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_FOR(t.ends == 1);
    assert_int_equal(n_origin, 1);
    /* the head does not wait for a body that takes its time; 100 Continue is told */
    told_init(&t);
    call_start(&t, p, &sized);
    WAIT_FOR(peer_count(&origin[0], "POST /p ") == 2);
    peer_say(&origin[0], "HTTP/1.1 100 Continue\r\n\r\n");
    WAIT_FOR(t.continues == 1);
    /* more than was announced */
    assert_int_equal(http_call_write(t.call, SL("1234567")), E_INVALID);
    WAIT_FOR(t.errors == 1 && t.code == E_INVALID);
    told_init(&t); /* less */
    call_start(&t, p, &sized);
    http_call_end(t.call);
    WAIT_FOR(t.errors == 1 && t.code == E_INVALID);
    told_init(&t); /* a head that cannot be written */
    sized.target = SL("/bad target");
    call_start(&t, p, &sized);
    WAIT_FOR(t.errors == 1 && t.code == E_INVALID);
    http_pool_close(p);
    origin_end();
}

/* The server closes a kept connection just when a call takes it. */
static void stale(const struct http_call_options *o, const char *piece, bool is_repeated)
{
    struct http_pool *p;
    struct told t;

    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    get_start(&t, p);
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "\r\n\r\n"));
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_FOR(t.ends == 1);
    told_init(&t);
    call_start(&t, p, o);
    if (piece != NULL)
        (void)http_call_write(t.call, slice_str(piece));
    WAIT_FOR(peer_heard(&origin[0], slice_eq_str(o->method, "GET") ? "GET" : "/s "));
    stream_reset(origin[0].stream);
    origin[0].stream = NULL;
    if (is_repeated) {
        WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "/s "));
        if (o->has_body) {
            (void)http_call_write(t.call, SL("12"));
            http_call_end(t.call);
            WAIT_FOR(peer_heard(&origin[1], "\r\n\r\n12"));
        }
        peer_say(&origin[1], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        WAIT_FOR(t.ends == 1);
        /* only once: a fresh connection that dies is an error */
        told_init(&t);
        http_pool_drop_idle(p);
        call_start(&t, p, o);
        WAIT_FOR(n_origin == 3 && peer_heard(&origin[2], "/s "));
        stream_reset(origin[2].stream);
        origin[2].stream = NULL;
    }
    WAIT_FOR(t.errors == 1);
    assert_int_equal(t.code, E_UPSTREAM);
    run_for(10);
    assert_int_equal(n_origin, is_repeated ? 3 : 1);
    http_pool_close(p);
    origin_end();
}

static void test_stale(void **state)
{
    struct http_call_options get = {.method = SL("GET"), .target = SL("/s")};
    struct http_call_options put = {.method = SL("PUT"), .target = SL("/s"), .body = SL("whole")};
    struct http_call_options post = {.method = SL("POST"), .target = SL("/s"), .body = SL("whole")};
    struct http_call_options stream = {
        .method = SL("POST"), .target = SL("/s"), .has_body = true, .length = 2};

    (void)state;
    stale(&get, NULL, true);
    stale(&put, NULL, true);
    stale(&post, NULL, false);  /* the server may have acted on it */
    stale(&stream, NULL, true); /* it saw no byte of the body */
    stale(&stream, "1", false);
}

/* 413 and close while we still send: the answer is heard, the connection not used again. */
static void test_early_answer(void **state)
{
    static char piece[65536];
    struct http_call_options o = {
        .method = SL("POST"), .target = SL("/p"), .has_body = true, .length = (uint64_t)1 << 30};
    struct http_pool *p;
    struct told t;
    int i;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    call_start(&t, p, &o);
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "\r\n\r\n"));
    stream_read_stop(origin[0].stream);
    for (i = 0; i < 200 && http_call_write(t.call, slice_of(piece, sizeof(piece))) == 0; i++)
        run_for(0);
    peer_say(&origin[0], "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    stream_close(origin[0].stream); /* with unread bytes: the kernel sends a reset behind the answer */
    origin[0].stream = NULL;
    WAIT_FOR(t.ends + t.errors == 1);
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.status, 413);
    assert_string_equal(buf_cstr(&t.body), "big");
    told_fini(&t);
    told_init(&t);
    get_start(&t, p);
    WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "GET"));
    /* the same while we do not even look: only writing fails at first */
    peer_say(&origin[1], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    WAIT_FOR(t.ends == 1);
    told_init(&t);
    call_start(&t, p, &o);
    WAIT_FOR(peer_heard(&origin[1], "POST"));
    peer_say(&origin[1], "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    stream_reset(origin[1].stream);
    origin[1].stream = NULL;
    for (i = 0; i < 5 && t.call != NULL; i++)
        (void)http_call_write(t.call, slice_of(piece, sizeof(piece)));
    WAIT_FOR(t.ends + t.errors == 1);
    http_pool_close(p);
    origin_end();
}

static void test_cancel(void **state)
{
    struct http_pool *p;
    struct told t;
    size_t seen;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    get_start(&t, p); /* while connecting */
    http_call_cancel(t.call);
    run_for(10);
    get_start(&t, p); /* waiting for the head */
    WAIT_FOR(n_origin >= 1 && peer_heard(&origin[n_origin - 1], "GET"));
    http_call_cancel(t.call);
    WAIT_FOR(origin[n_origin - 1].is_eof || origin[n_origin - 1].error != 0);
    assert_int_equal(t.heads + t.ends + t.errors, 0);
    t.cancels = true; /* inside on_head */
    seen = n_origin;
    get_start(&t, p);
    WAIT_FOR(n_origin > seen && peer_heard(&origin[n_origin - 1], "GET"));
    peer_say(&origin[n_origin - 1], "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
    WAIT_FOR(t.heads == 1);
    WAIT_FOR(origin[n_origin - 1].is_eof || origin[n_origin - 1].error != 0);
    assert_int_equal(t.body.n, 0);
    assert_int_equal(t.ends + t.errors, 0);
    /* closing the pool ends what is in flight */
    told_init(&t);
    seen = n_origin;
    get_start(&t, p);
    WAIT_FOR(n_origin > seen && peer_heard(&origin[n_origin - 1], "GET"));
    http_pool_close(p);
    assert_int_equal(t.errors, 0);
    WAIT_FOR(t.errors == 1 && t.code == E_CANCELLED);
    origin_end();
}

static void test_queue(void **state)
{
    struct http_pool_limits limits = {.connections_max = 1, .queue_max = 2};
    struct http_call_options slow = {.method = SL("GET"), .target = SL("/q"), .connect_timeout_ms = 40};
    struct http_pool *p;
    struct told t[5];
    int i;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, &limits);
    for (i = 0; i < 5; i++)
        told_init(&t[i]);
    for (i = 0; i < 4; i++)
        get_start(&t[i], p);
    WAIT_FOR(t[3].errors == 1); /* one runs, two wait */
    assert_int_equal(t[3].code, E_UNAVAILABLE);
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "GET"));
    http_call_cancel(t[1].call);
    call_start(&t[4], p, &slow);
    WAIT_FOR(t[4].errors == 1);
    assert_int_equal(t[4].code, E_TIMEOUT);
    peer_say(&origin[0], "HTTP/1.1 204 No\r\n\r\n");
    WAIT_FOR(t[0].ends == 1 && peer_count(&origin[0], "GET") == 2);
    /* the running one loses its connection: the next in the queue gets a fresh one */
    told_init(&t[1]);
    get_start(&t[1], p);
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    stream_close(origin[0].stream);
    origin[0].stream = NULL;
    WAIT_FOR(t[2].errors == 1 && n_origin == 2 && peer_heard(&origin[1], "GET"));
    peer_say(&origin[1], "HTTP/1.1 204 No\r\n\r\n");
    WAIT_FOR(t[1].ends == 1);
    http_pool_close(p);
    origin_end();
}

static void test_deadlines(void **state)
{
    struct http_call_options o = {
        .method = SL("GET"), .target = SL("/d"), .head_timeout_ms = 40, .idle_timeout_ms = 40};
    struct http_pool_limits limits = {.idle_timeout_ms = 40};
    struct http_pool *p;
    struct told t;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, &limits);
    told_init(&t);
    call_start(&t, p, &o);
    WAIT_FOR(t.errors == 1);
    assert_int_equal(t.code, E_TIMEOUT);
    assert_int_equal(t.heads, 0);
    told_init(&t);
    call_start(&t, p, &o);
    WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "GET"));
    peer_say(&origin[1], "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1");
    WAIT_FOR(t.errors == 1);
    assert_int_equal(t.code, E_TIMEOUT);
    assert_int_equal(t.heads, 1);
    assert_non_null(strstr(t.message, "rest of the response"));
    told_fini(&t);
    /* our own pause is not the server's silence; a kept connection goes after a while */
    told_init(&t);
    t.pauses = true;
    call_start(&t, p, &o);
    WAIT_FOR(n_origin == 3 && peer_heard(&origin[2], "GET"));
    peer_say(&origin[2], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1");
    WAIT_FOR(t.body.n == 1);
    run_for(120);
    assert_int_equal(t.errors, 0);
    peer_say(&origin[2], "2");
    run_for(10);
    assert_int_equal(t.body.n, 1);
    t.pauses = false;
    http_call_resume(t.call);
    assert_int_equal(t.body.n, 1); /* not inside the call */
    WAIT_FOR(t.ends == 1);
    WAIT_FOR(origin[2].is_eof);
    told_fini(&t);
    http_pool_close(p);
    origin_end();
}

/* A paused reader still gets all that came before the end. */
static void test_pause_and_end(void **state)
{
    struct http_pool *p;
    struct told t;
    int i;

    (void)state;
    for (i = 0; i < 2; i++) {
        origin_start();
        p = http_pool_new(&loop, &to_origin.connector, NULL);
        told_init(&t);
        t.pauses = true;
        get_start(&t, p);
        WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "GET"));
        peer_say(&origin[0],
                 i == 0 ? "HTTP/1.1 200 OK\r\n\r\none" : "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none");
        WAIT_FOR(t.body.n == 3);
        peer_say(&origin[0], "two");
        stream_close(origin[0].stream);
        origin[0].stream = NULL;
        run_for(20);
        assert_int_equal(t.ends + t.errors, 0);
        t.pauses = false;
        http_call_resume(t.call);
        WAIT_FOR(t.ends == 1);
        assert_string_equal(buf_cstr(&t.body), "onetwo");
        told_fini(&t);
        http_pool_close(p);
        origin_end();
    }
}

static void test_upgrade(void **state)
{
    struct http_call_options o = {.method = SL("GET"), .target = SL("/ws"), .is_upgrade = true};
    struct http_pool *p;
    struct told t;

    (void)state;
    origin_start();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    call_start(&t, p, &o);
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "\r\nConnection: Upgrade\r\n\r\n"));
    peer_say(&origin[0], "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe");
    WAIT_FOR(t.upgrades == 1 && peer_heard(&t.upgraded, "frame"));
    peer_say(&t.upgraded, "back");
    WAIT_FOR(peer_heard(&origin[0], "back"));
    peer_say(&origin[0], " again");
    WAIT_FOR(peer_heard(&t.upgraded, "frame again"));
    peer_fini(&t.upgraded);
    /* refused like any request */
    told_init(&t);
    call_start(&t, p, &o);
    WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "GET"));
    peer_say(&origin[1], "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
    WAIT_FOR(t.ends == 1);
    assert_int_equal(t.status, 403);
    told_fini(&t);
    http_pool_close(p);
    origin_end();
}

static void test_no_server(void **state)
{
    struct http_pool *p;
    struct told t;

    (void)state;
    origin_start();
    origin_end();
    p = http_pool_new(&loop, &to_origin.connector, NULL);
    told_init(&t);
    get_start(&t, p);
    WAIT_FOR(t.errors == 1);
    assert_int_not_equal(t.code, E_CANCELLED);
    http_pool_close(p);
}

/* --- server and client together --- */

struct pass {
    struct exchange *ex;
    struct http_call *call;
};
static struct server *proxy;
static struct http_pool *upstream;
static uint16_t proxy_port;
static unsigned n_client_gone, n_passes;

static size_t headers_pass(const struct http_header *from, size_t n, struct http_header *to)
{
    size_t i, at = 0;

    for (i = 0; i < n; i++)
        if (!http_is_hop_by_hop(from, n, from[i].name))
            to[at++] = from[i];
    return at;
}

static void pass_on_head(struct http_call *c, const struct http_response *r, void *data)
{
    struct pass *p = data;
    struct http_header h[HTTP_HEADERS_MAX];
    size_t n = headers_pass(r->headers, r->n_headers, h);

    (void)c;
    assert_int_equal(exchange_head(p->ex, r->status, h, n,
                                   r->has_length || r->has_no_body ? r->length : EXCHANGE_LENGTH_UNKNOWN),
                     0);
    if (!r->has_length)
        exchange_flush(p->ex);
}

static void pass_on_body(struct http_call *c, struct slice bytes, void *data)
{
    struct pass *p = data;

    if (exchange_write(p->ex, bytes) == E_AGAIN)
        http_call_pause(c);
}

static void pass_on_end(struct http_call *c, void *data)
{
    struct pass *p = data;

    (void)c;
    p->call = NULL;
    exchange_end(p->ex);
}

static void pass_on_error(struct http_call *c, int code, const struct err *err, void *data)
{
    struct pass *p = data;

    (void)c;
    p->call = NULL;
    if (exchange_has_head(p->ex))
        exchange_abort(p->ex);
    else
        exchange_send(p->ex, err_http_status(code), NULL, 0, slice_str(err->msg));
}

static void pass_on_drain(struct http_call *c, void *data)
{
    struct pass *p = data;

    (void)c;
    exchange_body_start(p->ex);
}

static void pass_on_upgrade(struct http_call *c, const struct http_response *r, struct stream *s,
                            struct slice rest, void *data)
{
    struct pass *p = data;
    struct slice client_rest;
    struct stream *client;

    (void)c;
    (void)r;
    client = exchange_upgrade(
        p->ex, SL("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), &client_rest);
    assert_non_null(client);
    (void)tunnel_start(client, s, client_rest, rest, NULL, NULL);
}

static const struct http_call_events pass_call_events = {.on_head = pass_on_head,
                                                         .on_body = pass_on_body,
                                                         .on_end = pass_on_end,
                                                         .on_error = pass_on_error,
                                                         .on_drain = pass_on_drain,
                                                         .on_upgrade = pass_on_upgrade};

static void pass_on_request_body(struct exchange *ex, struct slice bytes, void *data)
{
    struct pass *p = data;

    if (p->call != NULL && http_call_write(p->call, bytes) == E_AGAIN)
        exchange_body_stop(ex);
}

static void pass_on_request_end(struct exchange *ex, void *data)
{
    struct pass *p = data;

    (void)ex;
    if (p->call != NULL)
        http_call_end(p->call);
}

static void pass_on_abort(struct exchange *ex, void *data)
{
    struct pass *p = data;

    (void)ex;
    n_client_gone++;
    if (p->call != NULL)
        http_call_cancel(p->call);
}

static void pass_on_answer_drain(struct exchange *ex, void *data)
{
    struct pass *p = data;

    (void)ex;
    if (p->call != NULL)
        http_call_resume(p->call);
}

static const struct exchange_events pass_events = {pass_on_request_body, pass_on_request_end, pass_on_abort,
                                                   pass_on_answer_drain};

static void pass_on_request(struct exchange *ex, void *data)
{
    const struct http_request *r = exchange_request(ex);
    struct pass *p = ARENA_NEW(exchange_arena(ex), struct pass);
    struct http_header h[HTTP_HEADERS_MAX + 1];
    size_t n = headers_pass(r->headers, r->n_headers, h);
    struct http_call_options o = {.method = r->method,
                                  .target = r->target,
                                  .headers = h,
                                  .has_body = r->is_chunked || r->length > 0,
                                  .length = r->is_chunked ? HTTP_CALL_CHUNKED : r->length,
                                  .is_upgrade = r->wants_upgrade};

    (void)data;
    n_passes++;
    if (r->wants_upgrade)
        h[n++] = (struct http_header){SL("Upgrade"), r->upgrade};
    o.n_headers = n;
    p->ex = ex;
    p->call = http_call_start(upstream, &o, &pass_call_events, p);
    exchange_own(ex, &pass_events, p);
    if (o.has_body)
        exchange_body_start(ex);
}

static void proxy_start(void)
{
    struct server_handler h = {.on_request = pass_on_request};
    struct endpoint at = local_endpoint(0);

    n_client_gone = n_passes = 0;
    upstream = http_pool_new(&loop, &to_origin.connector, NULL);
    proxy = server_new(&loop, NULL, &h, NULL);
    assert_int_equal(server_listen(proxy, &at, &proxy_port, NULL), 0);
}

static void proxy_end(void)
{
    bool closed = false;

    server_close(proxy, on_flag, &closed);
    WAIT_FOR(closed);
    http_pool_close(upstream);
}

static void test_proxy(void **state)
{
    struct peer p;
    int i;

    (void)state;
    origin_start();
    proxy_start();
    peer_connect(&p, proxy_port);
    for (i = 1; i < 4; i++) {
        peer_say(&p, "POST /a?b=%20c HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: x-hop\r\nX-Hop: "
                     "1\r\n\r\nbody");
        WAIT_FOR(n_origin == 1 && peer_count(&origin[0], "body") == (size_t)i);
        peer_say(&origin[0],
                 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: 3\r\nX-Mark: m\r\n\r\nhello");
        WAIT_FOR(peer_count(&p, "hello") == (size_t)i);
    }
    assert_true(peer_heard(&origin[0], "POST /a?b=%20c HTTP/1.1\r\n"));
    assert_false(peer_heard(&origin[0], "X-Hop"));
    assert_false(peer_heard(&p, "Keep-Alive"));
    assert_true(peer_heard(&p, "X-Mark: m\r\n"));
    /* events pass as they come, and end well when the server ends well */
    buf_reset(&p.in);
    peer_say(&p, "GET /sse HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&origin[0], "GET /sse"));
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    WAIT_FOR(peer_heard(&p, "\r\n\r\n"));
    peer_say(&origin[0], "6\r\ndata 1\r\n");
    WAIT_FOR(peer_heard(&p, "data 1"));
    peer_say(&origin[0], "6\r\ndata 2\r\n0\r\n\r\n");
    WAIT_FOR(peer_heard(&p, "data 2\r\n0\r\n\r\n"));
    /* the client leaves: the upstream hears it */
    peer_say(&p, "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(peer_heard(&origin[0], "GET /hang"));
    peer_fini(&p);
    WAIT_FOR(n_client_gone == 1 && (origin[0].is_eof || origin[0].error != 0));
    /* the upstream dies: the client hears that its answer is not complete */
    peer_connect(&p, proxy_port);
    peer_say(&p, "GET /half HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "GET /half"));
    peer_say(&origin[1], "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    WAIT_FOR(peer_heard(&p, "12345"));
    stream_close(origin[1].stream);
    origin[1].stream = NULL;
    WAIT_FOR(p.error != 0 || p.is_eof);
    peer_fini(&p);
    /* a web socket */
    peer_connect(&p, proxy_port);
    peer_say(&p, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nclient first");
    WAIT_FOR(n_origin == 3 && peer_heard(&origin[2], "Upgrade: x\r\n"));
    peer_say(&origin[2], "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nserver first");
    WAIT_FOR(peer_heard(&p, "server first") && peer_heard(&origin[2], "client first"));
    peer_fini(&p);
    WAIT_FOR(origin[2].is_eof || origin[2].error != 0);
    proxy_end();
    origin_end();
}

/* 50 MiB down through the proxy to a client that reads in fits: nothing piles up on the way. */
static void test_proxy_back_pressure(void **state)
{
    static char piece[65536];
    const uint64_t all = (uint64_t)50 << 20;
    uint64_t sent = 0, next_stop = 4 << 20;
    size_t before, most = 0;
    struct peer p;

    (void)state;
    origin_start();
    proxy_start();
    peer_connect(&p, proxy_port);
    p.keeps_nothing = true;
    peer_say(&p, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "GET /big"));
    before = mallinfo2().uordblks;
    peer_say(&origin[0], "HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n");
    origin[0].is_drained = true;
    timer_repeat(&guard, 1);
    while (p.in_all < all) {
        size_t used;

        if (origin[0].is_drained && sent < all) {
            origin[0].is_drained = peer_say_n(&origin[0], piece, sizeof(piece)) == 0;
            sent += sizeof(piece);
        }
        if (!origin[0].is_drained || sent >= all) /* full up to the source: the client may read again */
            stream_read_start(p.stream);
        if (p.in_all >= next_stop) {
            stream_read_stop(p.stream);
            next_stop = p.in_all + (4 << 20);
        }
        uv_run(&loop.uv, UV_RUN_NOWAIT);
        used = mallinfo2().uordblks;
        if (used > before && used - before > most)
            most = used - before;
    }
    timer_stop(&guard);
    assert_true(most < (size_t)1 << 20);
    peer_fini(&p);
    proxy_end();
    origin_end();
}

static void test_proxy_early_answer(void **state)
{
    static char piece[65536];
    struct peer p;
    int i;

    (void)state;
    origin_start();
    proxy_start();
    peer_connect(&p, proxy_port);
    peer_say(&p, "PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n");
    WAIT_FOR(n_origin == 1 && peer_heard(&origin[0], "PUT /f"));
    stream_read_stop(origin[0].stream);
    p.is_drained = true;
    for (i = 0; i < 300 && p.is_drained; i++) {
        p.is_drained = peer_say_n(&p, piece, sizeof(piece)) == 0;
        run_for(0);
    }
    peer_say(&origin[0], "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    stream_close(origin[0].stream);
    origin[0].stream = NULL;
    WAIT_FOR(peer_heard(&p, "HTTP/1.1 413 ") && peer_heard(&p, "big"));
    assert_int_equal(p.error, 0);
    peer_fini(&p);
    /* the next request through the same pool is fine */
    peer_connect(&p, proxy_port);
    peer_say(&p, "GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    WAIT_FOR(n_origin == 2 && peer_heard(&origin[1], "GET /next"));
    peer_say(&origin[1], "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine");
    WAIT_FOR(peer_heard(&p, "fine"));
    peer_fini(&p);
    proxy_end();
    origin_end();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reuse),
        TEST(test_ends),
        TEST(test_bodies),
        TEST(test_stale),
        TEST(test_early_answer),
        TEST(test_cancel),
        TEST(test_queue),
        TEST(test_deadlines),
        TEST(test_pause_and_end),
        TEST(test_upgrade),
        TEST(test_no_server),
        TEST(test_proxy),
        TEST(test_proxy_back_pressure),
        TEST(test_proxy_early_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
