/* Control calls against a small server in the same loop: what arrives, what comes back, and every way to
 * fail. */
#include "base/net/curl.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <cmocka.h>

#include "base/core/mem.h"
#include "base/net/address.h"
#include "base/net/http.h"

#define DEADLINE_MS 10000

/* --- the server: one answer per request, chosen by its path --- */

struct world;

struct peer {
    union {
        uv_tcp_t tcp;
        uv_pipe_t pipe;
        uv_stream_t stream;
        uv_handle_t handle;
    } u;
    struct world *w;
    struct buf in;
    struct peer *next;
};

struct world {
    struct loop loop;
    union {
        uv_tcp_t tcp;
        uv_pipe_t pipe;
        uv_stream_t stream;
        uv_handle_t handle;
    } listener;
    bool is_unix;
    char folder[64], socket_path[96], base[64];
    struct peer *peers;
    unsigned n_connections, n_requests;
    char last[8192]; /* the latest request, head and body */
    struct curl_client *client;
    struct timer deadline;
    unsigned n_done, n_expected;
    bool is_closing, is_closed;
    /* of the latest answer */
    int code, status;
    int64_t retry_after_ms;
    bool maybe_sent;
    char body[256];
    char message[ERR_MSG_MAX];
};

static void on_written(uv_write_t *req, int status)
{
    (void)status;
    free(req->data);
    free(req);
}

static void peer_say(struct peer *p, const char *text)
{
    uv_write_t *req = malloc(sizeof(*req));
    assert_non_null(req);
    char *copy = strdup(text);
    req->data = copy;
    uv_buf_t b = uv_buf_init(copy, (unsigned)strlen(copy));
    assert_int_equal(uv_write(req, &p->u.stream, &b, 1, on_written), 0);
}

static void peer_answer(struct peer *p, struct slice path)
{
    if (slice_eq_str(path, "/hello"))
        peer_say(p, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    else if (slice_eq_str(path, "/busy"))
        peer_say(p, "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
    else if (slice_eq_str(path, "/busy-long"))
        peer_say(p, "HTTP/1.1 429 Busy\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\n\r\n");
    else if (slice_eq_str(path, "/moved"))
        peer_say(p, "HTTP/1.1 302 Found\r\nLocation: /hello\r\nContent-Length: 0\r\n\r\n");
    else if (slice_eq_str(path, "/cut"))
        peer_say(p, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
    else if (slice_eq_str(path, "/head"))
        peer_say(p, "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n");
    else if (slice_eq_str(path, "/junk"))
        peer_say(p, "SSH-2.0-something\r\n");
    /* anything else: never */
}

static void on_peer_closed(uv_handle_t *h)
{
    struct peer *p = h->data;
    buf_fini(&p->in);
    free(p);
}

static void on_peer_alloc(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    static char room[65536];
    (void)h;
    (void)n;
    *b = uv_buf_init(room, sizeof(room));
}

static void on_peer_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    static struct http_request r;
    struct peer *p = s->data;
    struct world *w = p->w;
    if (n < 0) {
        if (!uv_is_closing((uv_handle_t *)s)) {
            struct peer **at = &w->peers;
            while (*at != p)
                at = &(*at)->next;
            *at = p->next;
            uv_close((uv_handle_t *)s, on_peer_closed);
        }
        return;
    }
    must(buf_append(&p->in, b->base, (size_t)n) == 0);
    size_t head;
    while (http_parse_request(buf_view(&p->in), 0, NULL, &r, &head, NULL) == 0 &&
           p->in.n - head >= r.length) {
        size_t all = head + (size_t)r.length;
        must(all < sizeof(w->last));
        memcpy(w->last, p->in.p, all);
        w->last[all] = '\0';
        w->n_requests++;
        peer_answer(p, r.path);
        if (slice_eq_str(r.path, "/cut") || slice_eq_str(r.path, "/junk")) {
            uv_shutdown_t *req = calloc(1, sizeof(*req));
            must(req != NULL && uv_shutdown(req, s, (uv_shutdown_cb)(void *)free) == 0);
        }
        buf_consume(&p->in, all);
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct world *w = listener->data;
    must(status == 0);
    struct peer *p = calloc(1, sizeof(*p));
    must(p != NULL);
    p->w = w;
    buf_init(&p->in, 1 << 20);
    must((w->is_unix ? uv_pipe_init(&w->loop.uv, &p->u.pipe, 0) : uv_tcp_init(&w->loop.uv, &p->u.tcp)) == 0);
    p->u.handle.data = p;
    must(uv_accept(listener, &p->u.stream) == 0);
    must(uv_read_start(&p->u.stream, on_peer_alloc, on_peer_read) == 0);
    p->next = w->peers;
    w->peers = p;
    w->n_connections++;
}

/* --- a world per test --- */

static void on_deadline(void *data)
{
    (void)data;
    fail_msg("nothing happened for %d ms", DEADLINE_MS);
}

static void world_listen(struct world *w, bool is_unix)
{
    w->is_unix = is_unix;
    if (is_unix) {
        snprintf(w->folder, sizeof(w->folder), "/tmp/test-curl-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        snprintf(w->socket_path, sizeof(w->socket_path), "%s/s", w->folder);
        assert_int_equal(uv_pipe_init(&w->loop.uv, &w->listener.pipe, 0), 0);
        assert_int_equal(uv_pipe_bind(&w->listener.pipe, w->socket_path), 0);
        snprintf(w->base, sizeof(w->base), "http://localhost");
    } else {
        struct sockaddr_in a;
        int n = sizeof(a);
        assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &a), 0);
        assert_int_equal(uv_tcp_init(&w->loop.uv, &w->listener.tcp), 0);
        assert_int_equal(uv_tcp_bind(&w->listener.tcp, (const struct sockaddr *)&a, 0), 0);
        assert_int_equal(uv_tcp_getsockname(&w->listener.tcp, (struct sockaddr *)&a, &n), 0);
        snprintf(w->base, sizeof(w->base), "http://127.0.0.1:%d", ntohs(a.sin_port));
    }
    w->listener.handle.data = w;
    assert_int_equal(uv_listen(&w->listener.stream, 128, on_connection), 0);
}

static void world_init(struct world *w, bool is_unix)
{
    *w = (struct world){0};
    assert_int_equal(loop_init(&w->loop, &clock_system, &rnd_system), 0);
    world_listen(w, is_unix);
    timer_init(&w->deadline, &w->loop, on_deadline, w);
    timer_start(&w->deadline, DEADLINE_MS);
    assert_int_equal(curl_client_new(&w->loop, &w->client, NULL), 0);
}

static void on_client_closed(void *data)
{
    struct world *w = data;
    assert_false(w->is_closed);
    w->is_closed = true;
    while (w->peers != NULL) {
        struct peer *p = w->peers;
        w->peers = p->next;
        uv_close(&p->u.handle, on_peer_closed);
    }
    uv_close(&w->listener.handle, NULL);
    timer_close(&w->deadline, NULL);
}

static void world_fini(struct world *w)
{
    w->is_closing = true;
    curl_client_close(w->client, on_client_closed, w);
    assert_false(w->is_closed); /* never before the call returned */
    loop_run(&w->loop);
    assert_true(w->is_closed);
    assert_int_equal(w->n_done, w->n_expected);
    loop_fini(&w->loop);
    if (w->is_unix) {
        (void)unlink(w->socket_path); /* libuv may have removed it */
        assert_int_equal(rmdir(w->folder), 0);
    }
}

static void on_done(int code, const struct curl_answer *a, const struct err *err, void *data)
{
    struct world *w = data;
    w->n_done++;
    w->code = code;
    w->status = a->status;
    w->retry_after_ms = a->retry_after_ms;
    w->maybe_sent = a->maybe_sent;
    snprintf(w->body, sizeof(w->body), "%.*s", SL_ARG(a->body));
    snprintf(w->message, sizeof(w->message), "%s", err != NULL ? err->msg : "");
    assert_int_equal(code == 0, err == NULL);
    assert_true(code == 0 || (err->code == code && err->msg[0] != '\0'));
    if (w->n_done >= w->n_expected && !w->is_closing)
        loop_stop(&w->loop);
}

static struct curl_call *begin(struct world *w, struct curl_options o, const char *path)
{
    char url[256];
    snprintf(url, sizeof(url), "%s%s", path[0] == '/' ? w->base : "", path);
    o.url = url;
    if (o.method == NULL)
        o.method = "GET";
    if (w->is_unix)
        o.unix_socket = w->socket_path;
    unsigned before = w->n_done;
    struct curl_call *call = curl_call_start(w->client, &o, on_done, w);
    assert_int_equal(w->n_done, before); /* not before start returned */
    w->n_expected++;
    return call;
}

static int call(struct world *w, struct curl_options o, const char *path)
{
    (void)begin(w, o, path);
    loop_run(&w->loop);
    assert_int_equal(w->n_done, w->n_expected);
    return w->code;
}

#define OPTIONS(...) ((struct curl_options){__VA_ARGS__})

/* --- tests --- */

static void a_call_and_its_answer(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    assert_int_equal(call(&w, OPTIONS(.method = "GET"), "/hello"), 0);
    assert_int_equal(w.status, 200);
    assert_string_equal(w.body, "hello");
    assert_int_equal(w.retry_after_ms, -1);
    assert_true(w.maybe_sent);
    assert_int_equal(call(&w, OPTIONS(.method = "GET"), "/hello?x=1"), 0);
    assert_int_equal(w.n_connections, 1); /* kept and used again */
    world_fini(&w);
}

static void what_is_sent(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    static const char *const headers[] = {"Authorization: Bearer s3cret", "Content-Type: application/json",
                                          "X-Empty:", NULL};
    assert_int_equal(
        call(&w, OPTIONS(.method = "PUT", .headers = headers, .body = SL("{\"a\":1}")), "/hello"), 0);
    assert_non_null(strstr(w.last, "PUT /hello HTTP/1.1\r\n"));
    assert_non_null(strstr(w.last, "Authorization: Bearer s3cret\r\n"));
    assert_non_null(strstr(w.last, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(w.last, "Content-Length: 7\r\n"));
    assert_non_null(strstr(w.last, "\r\n\r\n{\"a\":1}"));
    assert_null(strstr(w.last, "Expect"));
    assert_int_equal(call(&w, OPTIONS(.method = "POST"), "/hello"), 0);
    assert_non_null(strstr(w.last, "POST /hello HTTP/1.1\r\n"));
    assert_non_null(strstr(w.last, "Content-Length: 0\r\n"));
    assert_int_equal(call(&w, OPTIONS(.method = "DELETE"), "/hello"), 0);
    assert_non_null(strstr(w.last, "DELETE /hello HTTP/1.1\r\n"));
    assert_null(strstr(w.last, "Content-Length"));
    assert_int_equal(call(&w, OPTIONS(.method = "HEAD"), "/head"), 0);
    assert_int_equal(w.status, 200);
    assert_string_equal(w.body, "");
    world_fini(&w);
}

static void any_status_is_an_answer(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    assert_int_equal(call(&w, OPTIONS(0), "/busy"), 0);
    assert_int_equal(w.status, 503);
    assert_int_equal(w.retry_after_ms, 7000);
    assert_int_equal(call(&w, OPTIONS(0), "/busy-long"), 0);
    assert_int_equal(w.retry_after_ms, 24 * 3600 * 1000);
    assert_int_equal(call(&w, OPTIONS(0), "/moved"), 0);
    assert_int_equal(w.status, 302);
    assert_int_equal(w.n_requests, 3);
    world_fini(&w);
}

static void unix_sockets(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, true);
    assert_int_equal(call(&w, OPTIONS(0), "/hello"), 0);
    assert_string_equal(w.body, "hello");
    world_fini(&w);
}

static void answers_are_bounded(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    assert_int_equal(call(&w, OPTIONS(.answer_max = 5), "/hello"), 0);
    assert_int_equal(call(&w, OPTIONS(.answer_max = 4), "/hello"), E_TOO_LARGE);
    world_fini(&w);
}

static void broken_answers(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    assert_int_equal(call(&w, OPTIONS(0), "/cut"), E_UPSTREAM);
    assert_true(w.maybe_sent);
    assert_int_equal(call(&w, OPTIONS(0), "/junk?key=s3cret"), E_UPSTREAM);
    assert_null(strstr(w.message, "s3cret"));
    assert_non_null(strstr(w.message, "/junk"));
    world_fini(&w);
}

static void silence_times_out(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    assert_int_equal(call(&w, OPTIONS(.timeout_ms = 50), "/never"), E_TIMEOUT);
    assert_true(w.maybe_sent);
    assert_int_equal(call(&w, OPTIONS(0), "/hello"), 0); /* the client lives on */
    world_fini(&w);
}

static void nobody_listens(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    /* a port that was just free: bound, not listening */
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", ntohs(a.sin_port));
    assert_int_equal(call(&w, OPTIONS(0), url), E_UPSTREAM);
    assert_false(w.maybe_sent);
    close(fd);
    world_fini(&w);
}

static void what_cannot_be_sent(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    static const char *const urls[] = {
        "file:///etc/hostname", "ftp://127.0.0.1/",   "http://user:pass@127.0.0.1/", "http://",
        "127.0.0.1 /x",         "gopher://127.0.0.1/"};
    for (size_t i = 0; i < ARRAY_LEN(urls); i++)
        assert_int_equal(call(&w, OPTIONS(0), urls[i]), E_INVALID);
    static const char *const injected[] = {"X: a\r\nY: b", NULL}, *const nameless[] = {"X y: z", NULL};
    assert_int_equal(call(&w, OPTIONS(.headers = injected), "/hello"), E_INVALID);
    assert_int_equal(call(&w, OPTIONS(.headers = nameless), "/hello"), E_INVALID);
    assert_int_equal(call(&w, OPTIONS(.method = "GET / HTTP/1.1\r\nX:"), "/hello"), E_INVALID);
    assert_int_equal(w.n_requests, 0);
    world_fini(&w);
}

static void only_public_addresses(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    assert_int_equal(call(&w, OPTIONS(0), "/hello"),
                     0); /* leaves a kept connection, which must not be used */
    assert_int_equal(call(&w, OPTIONS(.is_public_only = true), "/hello"), E_FORBIDDEN);
    assert_false(w.maybe_sent);
    assert_int_equal(w.n_requests, 1);
    assert_int_equal(w.n_connections, 1);
    world_fini(&w);
}

static void cancelling(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    curl_call_cancel(begin(&w, OPTIONS(0), "/hello"));
    assert_int_equal(w.n_done, 0);
    loop_run(&w.loop);
    assert_int_equal(w.code, E_CANCELLED);
    assert_int_equal(w.n_requests, 0);
    struct curl_call *twice = begin(&w, OPTIONS(0), "/never");
    while (w.n_requests == 0)
        uv_run(&w.loop.uv, UV_RUN_ONCE);
    curl_call_cancel(twice);
    curl_call_cancel(twice);
    loop_run(&w.loop);
    assert_int_equal(w.code, E_CANCELLED);
    assert_true(w.maybe_sent);
    assert_int_equal(w.n_done, 2);
    world_fini(&w);
}

static void closing_ends_calls(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    for (int i = 0; i < 20; i++)
        (void)begin(&w, OPTIONS(0), i % 2 == 0 ? "/never" : "/hello");
    while (w.n_requests == 0)
        uv_run(&w.loop.uv, UV_RUN_ONCE);
    unsigned answered = w.n_done;
    world_fini(&w); /* checks that each ended once */
    assert_true(w.n_done > answered);
    assert_int_equal(w.code, E_CANCELLED);
}

static void many_at_once(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    for (int i = 0; i < 200; i++)
        (void)begin(&w, OPTIONS(0), "/hello");
    loop_run(&w.loop);
    assert_int_equal(w.n_done, 200);
    assert_int_equal(w.code, 0);
    assert_true(w.n_connections <= 16);
    world_fini(&w);
}

static void a_queue_of_silence_times_out(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    for (int i = 0; i < 40; i++) /* more than connections: the rest waits within curl, with a deadline too */
        (void)begin(&w, OPTIONS(.timeout_ms = 100), "/never");
    loop_run(&w.loop);
    assert_int_equal(w.n_done, 40);
    assert_int_equal(w.code, E_TIMEOUT);
    world_fini(&w);
}

static void too_many(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    for (int i = 0; i < CURL_CALLS_MAX; i++)
        (void)begin(&w, OPTIONS(0), "/never");
    w.n_expected = 0;
    (void)begin(&w, OPTIONS(0), "/hello");
    loop_run(&w.loop);
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.code, E_UNAVAILABLE);
    w.n_expected = CURL_CALLS_MAX + 1;
    world_fini(&w);
}

static void on_first_done(int code, const struct curl_answer *a, const struct err *err, void *data)
{
    struct world *w = data;
    on_done(code, a, err, data);
    w->n_expected = 2;
    char url[256];
    snprintf(url, sizeof(url), "%s/hello", w->base);
    struct curl_options o = {.method = "GET", .url = url};
    (void)curl_call_start(w->client, &o, on_done, w);
}

static void a_call_from_a_callback(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, false);
    char url[256];
    snprintf(url, sizeof(url), "%s/busy", w.base);
    struct curl_options o = {.method = "GET", .url = url};
    w.n_expected = 2;
    (void)curl_call_start(w.client, &o, on_first_done, &w);
    loop_run(&w.loop);
    assert_int_equal(w.n_done, 2);
    assert_string_equal(w.body, "hello");
    world_fini(&w);
}

static void public_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_public;
    } rows[] = {
        {"1.1.1.1", true},
        {"9.255.255.255", true},
        {"10.0.0.0", false},
        {"10.255.255.255", false},
        {"11.0.0.0", true},
        {"0.0.0.0", false},
        {"127.0.0.1", false},
        {"127.255.255.255", false},
        {"128.0.0.0", true},
        {"100.63.255.255", true},
        {"100.64.0.0", false},
        {"100.127.255.255", false},
        {"100.128.0.0", true},
        {"169.254.169.254", false},
        {"169.253.255.255", true},
        {"172.15.255.255", true},
        {"172.16.0.0", false},
        {"172.31.255.255", false},
        {"172.32.0.0", true},
        {"192.168.1.1", false},
        {"192.169.0.0", true},
        {"198.18.0.1", false},
        {"198.19.255.255", false},
        {"198.20.0.0", true},
        {"223.255.255.255", true},
        {"224.0.0.1", false},
        {"240.0.0.1", false},
        {"255.255.255.255", false},
        {"::", false},
        {"::1", false},
        {"::ffff:127.0.0.1", false},
        {"::ffff:1.1.1.1", true},
        {"::127.0.0.1", false},
        {"64:ff9b::10.0.0.1", false},
        {"64:ff9b::1.1.1.1", true},
        {"64:ff9b:1::1", false},
        {"fe80::1", false},
        {"fc00::1", false},
        {"fdff::1", false},
        {"ff02::1", false},
        {"fec0::1", false},
        {"2001:db8::1", false},
        {"2001::1", false},
        {"2001:1ff::1", false},
        {"2001:200::1", true},
        {"2002:7f00:1::1", false},
        {"2002:101:101::1", true},
        {"2606:4700::1111", true},
        {"3fff::1", false},
        {"3fff:1000::1", true},
        {"4000::1", false},
        {"2a00:1450::1", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct sockaddr_in in = {.sin_family = AF_INET};
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
        bool is_v6 = strchr(rows[i].text, ':') != NULL;
        assert_int_equal(inet_pton(is_v6 ? AF_INET6 : AF_INET, rows[i].text,
                                   is_v6 ? (void *)&in6.sin6_addr : (void *)&in.sin_addr),
                         1);
        const struct sockaddr *a = is_v6 ? (const struct sockaddr *)&in6 : (const struct sockaddr *)&in;
        if (address_is_public(a) != rows[i].is_public)
            fail_msg("%s", rows[i].text);
    }
    assert_false(address_is_public(&(struct sockaddr){.sa_family = AF_UNIX}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_and_its_answer),
        cmocka_unit_test(what_is_sent),
        cmocka_unit_test(any_status_is_an_answer),
        cmocka_unit_test(unix_sockets),
        cmocka_unit_test(answers_are_bounded),
        cmocka_unit_test(broken_answers),
        cmocka_unit_test(silence_times_out),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(what_cannot_be_sent),
        cmocka_unit_test(only_public_addresses),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(closing_ends_calls),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(a_queue_of_silence_times_out),
        cmocka_unit_test(too_many),
        cmocka_unit_test(a_call_from_a_callback),
        cmocka_unit_test(public_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
