/* The HTTP codec against the vector files in tests/unit/data, each connection whole, cut in two at every
 * place and byte by byte, every piece in memory of exactly its size; then what parsed heads mean, limits,
 * writers, URLs. */
#include "base/net/http.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"

/* --- a connection: heads and bodies out of bytes that arrive in pieces --- */

struct feed {
    bool is_response;
    bool is_broken;
    int code; /* of the failure */
    bool in_body;
    struct http_chunks chunks;
    bool is_chunked;
    uint64_t left;
    size_t scanned;
    struct buf pending; /* bytes not yet taken */
    struct buf data;    /* bodies, one behind another */
    unsigned n_messages;
    struct err err;
};

static struct http_request request; /* big, and the tests are one thread */
static struct http_response response;

static void feed_init(struct feed *f, bool is_response)
{
    *f = (struct feed){.is_response = is_response};
    buf_init(&f->pending, 1 << 22);
    buf_init(&f->data, 1 << 22);
}

static void feed_fini(struct feed *f)
{
    buf_fini(&f->pending);
    buf_fini(&f->data);
}

static void feed_fail(struct feed *f, int code)
{
    f->is_broken = true;
    f->code = code;
    assert_int_equal(f->err.code, code); /* every refusal has its sentence */
    assert_true(f->err.msg[0] != '\0');
}

/* A copy in memory of exactly its size, so that a sanitizer sees a read behind the end. */
static char *exact(struct slice s)
{
    char *p = malloc(s.n > 0 ? s.n : 1);
    assert_non_null(p);
    if (s.n > 0)
        memcpy(p, s.p, s.n);
    return p;
}

/* False when more bytes are needed. */
static bool feed_head(struct feed *f)
{
    if (f->pending.n == 0)
        return false;
    char *p = exact(buf_view(&f->pending));
    struct slice in = slice_of(p, f->pending.n);
    size_t n = SIZE_MAX;
    bool has_body;
    int rc;
    if (f->is_response) {
        rc = http_parse_response(in, false, &f->scanned, &response, &n, &f->err);
        f->is_chunked = rc == 0 && response.is_chunked;
        f->left = rc == 0 ? response.length : 0;
        has_body = rc == 0 && !response.has_no_body;
    } else {
        rc = http_parse_request(in, 0, &f->scanned, &request, &n, &f->err);
        f->is_chunked = rc == 0 && request.is_chunked;
        f->left = rc == 0 ? request.length : 0;
        has_body = rc == 0 && (f->is_chunked || f->left > 0);
    }
    free(p);
    if (rc == E_AGAIN)
        return false;
    if (rc != 0) {
        feed_fail(f, rc);
        return false;
    }
    assert_true(n <= f->pending.n);
    buf_consume(&f->pending, n);
    f->scanned = 0;
    f->n_messages++;
    f->in_body = has_body && !f->is_response; /* the vectors of responses are heads only */
    http_chunks_init(&f->chunks);
    return true;
}

static bool feed_body(struct feed *f)
{
    if (!f->is_chunked) {
        size_t n = f->pending.n < f->left ? f->pending.n : (size_t)f->left;
        assert_int_equal(buf_append(&f->data, f->pending.p, n), 0);
        buf_consume(&f->pending, n);
        f->left -= n;
        f->in_body = f->left > 0;
        return !f->in_body;
    }
    if (f->pending.n == 0)
        return false;
    char *p = exact(buf_view(&f->pending));
    size_t used;
    struct slice data;
    int rc = http_chunks_feed(&f->chunks, slice_of(p, f->pending.n), &used, &data, &f->err);
    if (rc < 0) {
        feed_fail(f, rc);
    } else {
        assert_true(used <= f->pending.n && data.n <= used);
        assert_true(rc == 1 || used > 0);
        assert_int_equal(buf_slice(&f->data, data), 0);
        buf_consume(&f->pending, used);
        f->in_body = rc == 0;
    }
    free(p);
    return rc >= 0;
}

static void feed_bytes(struct feed *f, struct slice in)
{
    assert_int_equal(buf_slice(&f->pending, in), 0);
    while (!f->is_broken && (f->in_body ? feed_body(f) : feed_head(f)))
        ;
}

/* "ok", "more", or the status. */
static const char *feed_verdict(const struct feed *f, char out[16])
{
    if (f->is_broken)
        snprintf(out, 16, "%d", err_http_status(f->code));
    else
        snprintf(out, 16, "%s", f->in_body || f->pending.n > 0 ? "more" : "ok");
    return out;
}

/* --- the vector files --- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* C escapes: \r \n \t \\ \xHH (two digits) \OOO (three digits). */
static void unescape(struct slice in, struct buf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        char c = in.p[i];
        if (c == '\\') {
            must(i + 1 < in.n);
            c = in.p[++i];
            if (c == 'x') {
                must(i + 2 < in.n);
                c = (char)(hex_digit(in.p[i + 1]) << 4 | hex_digit(in.p[i + 2]));
                i += 2;
            } else if (c >= '0' && c <= '7') {
                must(i + 2 < in.n);
                c = (char)((c - '0') << 6 | (in.p[i + 1] - '0') << 3 | (in.p[i + 2] - '0'));
                i += 2;
            } else {
                must(c == 'r' || c == 'n' || c == 't' || c == '\\');
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : '\\';
            }
        }
        must(buf_byte(out, c) == 0);
    }
}

static unsigned vector_check(bool is_response, struct slice want, struct slice name, struct slice bytes)
{
    char text[16], whole_data[4096] = "";
    size_t whole_n = 0;
    unsigned failed = 0;
    /* cut: bytes.n + 1 is byte by byte */
    for (size_t cut = 0; cut <= bytes.n + 1; cut++) {
        struct feed f;
        feed_init(&f, is_response);
        if (cut == bytes.n + 1) {
            for (size_t i = 0; i < bytes.n && !f.is_broken; i++)
                feed_bytes(&f, slice_of(bytes.p + i, 1));
        } else {
            feed_bytes(&f, slice_of(bytes.p, cut));
            if (!f.is_broken)
                feed_bytes(&f, slice_from(bytes, cut));
        }
        if (!slice_eq_str(want, feed_verdict(&f, text))) {
            print_error("%.*s (cut at %zu of %zu): expected %.*s, got %s %s\n", SL_ARG(name), cut, bytes.n,
                        SL_ARG(want), text, f.err.msg);
            failed++;
            cut = bytes.n; /* one report of many like it */
        } else if (cut == 0) {
            whole_n = f.data.n;
            must(whole_n <= sizeof(whole_data));
            memcpy(whole_data, f.data.n > 0 ? f.data.p : "", f.data.n);
        } else if (f.data.n != whole_n || (whole_n > 0 && memcmp(f.data.p, whole_data, whole_n) != 0)) {
            print_error("%.*s (cut at %zu): another body than whole\n", SL_ARG(name), cut);
            failed++;
        }
        feed_fini(&f);
    }
    return failed;
}

static void vectors_run(const char *path, bool is_response, unsigned least)
{
    FILE *in = fopen(path, "r");
    if (in == NULL)
        fail_msg("%s: %s (run from the root of the tree)", path, strerror(errno));
    char line[4096];
    unsigned n = 0, failed = 0;
    while (fgets(line, sizeof(line), in) != NULL) {
        struct slice rest = slice_str(line), want, name;
        if (slice_ends(rest, SL("\n")))
            rest.n--;
        if (rest.n == 0 || rest.p[0] == '#')
            continue;
        bool is_whole = slice_cut(&rest, '|', &want);
        is_whole &= slice_cut(&rest, '|', &name);
        assert_true(is_whole && slice_starts(rest, SL(" ")));
        struct buf bytes = BUF_INIT(8192);
        unescape(slice_from(rest, 1), &bytes);
        failed += vector_check(is_response, slice_trim(want), slice_trim(name), buf_view(&bytes));
        buf_fini(&bytes);
        n++;
    }
    fclose(in);
    assert_true(n >= least);
    assert_int_equal(failed, 0);
}

static void request_vectors(void **state)
{
    (void)state;
    vectors_run("tests/unit/data/http-requests.txt", false, 180);
}

static void response_vectors(void **state)
{
    (void)state;
    vectors_run("tests/unit/data/http-responses.txt", true, 40);
}

/* --- what a head means --- */

static int parse(const char *text, unsigned flags)
{
    size_t n;
    return http_parse_request(slice_str(text), flags, NULL, &request, &n, NULL);
}

static void assert_slice(struct slice s, const char *want)
{
    if (!slice_eq_str(s, want))
        fail_msg("\"%.*s\" is not \"%s\"", SL_ARG(s), want);
}

static void request_parts(void **state)
{
    (void)state;
    static const char text[] =
        "POST /w/a/b%20c?x=1&y=%2F HTTP/1.1\r\nHost: reeve.example:8700\r\nX-A:  one \t\r\n"
        "x-a: two\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello";
    size_t n;
    assert_int_equal(http_parse_request(SL(text), 0, NULL, &request, &n, NULL), 0);
    assert_int_equal(n, sizeof(text) - 1 - 5);
    assert_slice(request.method, "POST");
    assert_slice(request.target, "/w/a/b%20c?x=1&y=%2F");
    assert_slice(request.path, "/w/a/b%20c");
    assert_slice(request.query, "x=1&y=%2F");
    assert_slice(request.host, "reeve.example:8700");
    assert_int_equal(request.minor, 1);
    assert_int_equal(request.n_headers, 5);
    assert_slice(request.headers[1].name, "X-A");
    assert_slice(request.headers[1].value, "one");
    assert_true(request.has_length && !request.is_chunked && request.length == 5);
    assert_true(request.expects_continue && request.is_keepalive && !request.wants_upgrade);
    assert_slice(http_find(request.headers, request.n_headers, "x-a"), "one");
    assert_int_equal(http_count(request.headers, request.n_headers, "X-a"), 2);
    assert_null(http_find(request.headers, request.n_headers, "x-b").p);
}

static void request_query_presence(void **state)
{
    (void)state;
    assert_int_equal(parse("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 0), 0);
    assert_null(request.query.p);
    assert_int_equal(parse("GET /a? HTTP/1.1\r\nHost: a\r\n\r\n", 0), 0);
    assert_non_null(request.query.p);
    assert_int_equal(request.query.n, 0);
    assert_int_equal(parse("GET /a?b?c HTTP/1.1\r\nHost: a\r\n\r\n", 0), 0);
    assert_slice(request.path, "/a");
    assert_slice(request.query, "b?c");
}

static void request_keepalive(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_keepalive;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: x,close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(parse(rows[i].text, 0), 0);
        assert_int_equal(request.is_keepalive, rows[i].is_keepalive);
    }
}

static void request_upgrade(void **state)
{
    (void)state;
    assert_int_equal(
        parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n",
              0),
        0);
    assert_true(request.wants_upgrade);
    assert_slice(request.upgrade, "websocket");
    assert_int_equal(parse("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", 0), 0);
    assert_false(request.wants_upgrade);
    assert_null(request.upgrade.p);
    assert_int_equal(parse("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 0), 0);
    assert_false(request.wants_upgrade);
}

static void request_expectation(void **state)
{
    (void)state;
    assert_int_equal(parse("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", 0), 0);
    assert_false(request.expects_continue); /* no body: nothing to continue with */
    assert_int_equal(parse("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", 0), 0);
    assert_false(request.expects_continue);
}

static void request_absolute_form(void **state)
{
    (void)state;
    assert_int_equal(parse("GET HTTP://b.example:81/p?q HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_ALLOW_ABSOLUTE),
                     0);
    assert_slice(request.host, "b.example:81");
    assert_slice(request.path, "/p");
    assert_slice(request.query, "q");
    assert_int_equal(parse("GET https://b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_ALLOW_ABSOLUTE), 0);
    assert_slice(request.host, "b");
    assert_slice(request.path, "/");
    assert_int_equal(parse("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_ALLOW_ABSOLUTE), 0);
    assert_slice(request.path, "/");
    assert_slice(request.query, "q");
    assert_int_equal(parse("GET /p HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_ALLOW_ABSOLUTE), 0);
    assert_slice(request.host, "a");
    static const char *const refused[] = {"http:///p",       "http://u@b/",  "http://b:/",
                                          "ftp://b/",        "http://",      "//b/p#",
                                          "http://b:99999/", "http://b\\c/", "http:/b"};
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        char text[256];
        snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", refused[i]);
        assert_int_equal(parse(text, HTTP_ALLOW_ABSOLUTE), E_SYNTAX);
    }
}

static void request_connect(void **state)
{
    (void)state;
    assert_int_equal(
        parse("CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n", HTTP_ALLOW_CONNECT), 0);
    assert_slice(request.host, "b.example:443");
    assert_int_equal(request.path.n, 0);
    assert_int_equal(parse("CONNECT [::1]:443 HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_ALLOW_CONNECT), 0);
    static const char *const refused[] = {"b",    "b:",     "/",       "*",      "http://b:443/",
                                          ":443", "b:443/", "u@b:443", "b:443:1"};
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        char text[256];
        snprintf(text, sizeof(text), "CONNECT %s HTTP/1.1\r\nHost: a\r\n\r\n", refused[i]);
        assert_int_equal(parse(text, HTTP_ALLOW_CONNECT | HTTP_ALLOW_ABSOLUTE), E_SYNTAX);
    }
    assert_int_equal(
        parse("CONNECT b:443 HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\n", HTTP_ALLOW_CONNECT),
        E_SYNTAX);
    assert_int_equal(parse("CONNECT b:443 HTTP/1.1\r\nHost: b\r\n\r\n", HTTP_ALLOW_ABSOLUTE), E_METHOD);
}

static void respond(const char *text, bool is_head)
{
    size_t n;
    assert_int_equal(http_parse_response(slice_str(text), is_head, NULL, &response, &n, NULL), 0);
    assert_int_equal(n, strlen(text));
}

static void response_framing(void **state)
{
    (void)state;
    respond("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", false);
    assert_int_equal(response.status, 200);
    assert_slice(response.reason, "OK");
    assert_true(response.has_length && response.length == 7 && response.is_keepalive);
    assert_false(response.has_no_body || response.is_until_close || response.is_chunked);
    respond("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true); /* to HEAD */
    assert_true(response.has_no_body && response.is_keepalive);
    respond("HTTP/1.1 200 OK\r\n\r\n", true);
    assert_true(response.has_no_body && !response.is_until_close && response.is_keepalive);
    respond("HTTP/1.1 200 OK\r\n\r\n", false);
    assert_true(response.is_until_close && !response.is_keepalive && !response.has_no_body);
    respond("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false);
    assert_false(response.is_keepalive);
    respond("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n", false);
    assert_true(response.is_chunked && !response.is_keepalive && !response.is_until_close);
    respond("HTTP/1.1 100 Continue\r\n\r\n", false);
    assert_true(response.has_no_body && !response.is_until_close);
    respond("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", false);
    assert_true(response.has_no_body && response.length == 7 && response.is_keepalive);
    respond("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", false);
    assert_slice(response.upgrade, "websocket");
    respond("HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", false);
    assert_null(response.upgrade.p);
}

static void hop_by_hop(void **state)
{
    (void)state;
    respond("HTTP/1.1 200 OK\r\nConnection: x-one , X-Two\r\nConnection: x-three\r\nX-One: 1\r\n\r\n", false);
    static const char *const yes[] = {"connection",
                                      "Keep-Alive",
                                      "TE",
                                      "Transfer-Encoding",
                                      "upgrade",
                                      "Trailer",
                                      "proxy-connection",
                                      "Proxy-Authorization",
                                      "proxy-authenticate",
                                      "x-ONE",
                                      "x-two",
                                      "X-Three"};
    static const char *const no[] = {"x-on", "x-one2", "content-length", "x", ""};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        assert_true(http_is_hop_by_hop(response.headers, response.n_headers, slice_str(yes[i])));
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        assert_false(http_is_hop_by_hop(response.headers, response.n_headers, slice_str(no[i])));
    assert_true(http_list_has(response.headers, response.n_headers, "CONNECTION", "X-three"));
    assert_false(http_list_has(response.headers, response.n_headers, "connection", "x-one , X-Two"));
}

/* --- limits --- */

static void too_many_fields(void **state)
{
    (void)state;
    for (unsigned n = HTTP_HEADERS_MAX; n <= HTTP_HEADERS_MAX + 1; n++) {
        struct buf b = BUF_INIT(HTTP_HEAD_BYTES_MAX);
        buf_str(&b, "GET / HTTP/1.1\r\nHost: a\r\n");
        for (unsigned i = 1; i < n; i++)
            buf_printf(&b, "x%u: y\r\n", i);
        buf_str(&b, "\r\n");
        assert_int_equal(parse(buf_cstr(&b), 0), n > HTTP_HEADERS_MAX ? E_HEADERS_TOO_LARGE : 0);
        buf_fini(&b);
    }
}

/* A head of exactly `n` bytes. */
static void head_of(struct buf *b, size_t n)
{
    buf_init(b, n);
    buf_str(b, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    while (b->n < n - 4)
        buf_byte(b, 'x');
    buf_str(b, "\r\n\r\n");
    assert_int_equal(b->n, n);
}

static void head_too_large(void **state)
{
    (void)state;
    struct buf b;
    head_of(&b, HTTP_HEAD_BYTES_MAX);
    assert_int_equal(parse(buf_cstr(&b), 0), 0);
    buf_fini(&b);
    head_of(&b, HTTP_HEAD_BYTES_MAX + 1);
    assert_int_equal(parse(buf_cstr(&b), 0), E_HEADERS_TOO_LARGE);
    size_t n, scanned = 0;
    assert_int_equal(
        http_parse_request(slice_of(b.p, HTTP_HEAD_BYTES_MAX - 1), 0, &scanned, &request, &n, NULL), E_AGAIN);
    assert_int_equal(http_parse_request(slice_of(b.p, HTTP_HEAD_BYTES_MAX), 0, &scanned, &request, &n, NULL),
                     E_HEADERS_TOO_LARGE);
    buf_fini(&b);
}

static void target_too_large(void **state)
{
    (void)state;
    for (size_t n = HTTP_TARGET_BYTES_MAX; n <= HTTP_TARGET_BYTES_MAX + 1; n++) {
        struct buf b = BUF_INIT(HTTP_HEAD_BYTES_MAX);
        buf_str(&b, "GET /");
        for (size_t i = 1; i < n; i++)
            buf_byte(&b, 'a');
        buf_str(&b, " HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_int_equal(parse(buf_cstr(&b), 0), n > HTTP_TARGET_BYTES_MAX ? E_HEADERS_TOO_LARGE : 0);
        buf_fini(&b);
    }
}

static int chunks_eat(const char *text, size_t times)
{
    struct http_chunks c;
    http_chunks_init(&c);
    size_t used;
    struct slice data;
    int rc = http_chunks_feed(&c, SL("0\r\n"), &used, &data, NULL);
    for (size_t i = 0; i < times && rc == 0; i++)
        rc = http_chunks_feed(&c, slice_str(text), &used, &data, NULL);
    if (rc < 0) /* broken stays broken */
        assert_int_equal(http_chunks_feed(&c, SL("\r\n"), &used, &data, NULL), E_SYNTAX);
    return rc;
}

static void chunk_lines_are_bounded(void **state)
{
    (void)state;
    assert_int_equal(chunks_eat("x: 0123456789\r\n", 100), 0);
    assert_int_equal(chunks_eat("x: 0123456789\r\n", 100000), E_SYNTAX);
    struct http_chunks c;
    http_chunks_init(&c);
    size_t used;
    struct slice data;
    int rc = http_chunks_feed(&c, SL("3;"), &used, &data, NULL);
    for (size_t i = 0; i < 100000 && rc == 0; i++)
        rc = http_chunks_feed(&c, SL("x"), &used, &data, NULL);
    assert_int_equal(rc, E_SYNTAX);
}

static void chunks_leave_what_is_not_theirs(void **state)
{
    (void)state;
    struct http_chunks c;
    http_chunks_init(&c);
    struct slice in = SL("3\r\nabc\r\n0\r\nX: y\r\n\r\nGET / HTTP"), data;
    size_t used, all = 0;
    char body[16];
    size_t n = 0;
    int rc;
    do {
        rc = http_chunks_feed(&c, slice_from(in, all), &used, &data, NULL);
        memcpy(body + n, data.p, data.n);
        n += data.n;
        all += used;
    } while (rc == 0);
    assert_int_equal(rc, 1);
    assert_int_equal(all, 19);
    assert_slice(slice_of(body, n), "abc");
    assert_int_equal(http_chunks_feed(&c, SL("junk"), &used, &data, NULL), 1);
    assert_int_equal(used, 0);
}

/* --- writers --- */

static void heads_are_written(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(4096);
    assert_int_equal(http_write_request(&b, SL("GET"), SL("/a?b")), 0);
    assert_int_equal(http_write_header(&b, SL("Host"), SL("a")), 0);
    assert_int_equal(http_write_header_u64(&b, "Content-Length", UINT64_MAX), 0);
    assert_int_equal(http_write_header_u64(&b, "X-Zero", 0), 0);
    assert_int_equal(http_write_header_str(&b, "X-Empty", ""), 0);
    assert_int_equal(http_write_end(&b), 0);
    assert_slice(buf_view(&b), "GET /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n"
                               "X-Zero: 0\r\nX-Empty: \r\n\r\n");
    buf_reset(&b);
    assert_int_equal(http_write_status(&b, 404, NULL), 0);
    assert_int_equal(http_write_status(&b, 418, "I'm a teapot"), 0);
    assert_slice(buf_view(&b), "HTTP/1.1 404 Not Found\r\nHTTP/1.1 418 I'm a teapot\r\n");
    buf_fini(&b);
}

static void nothing_unchecked_is_written(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(64);
    assert_int_equal(http_write_header(&b, SL("X"), SL("a\r\nY: b")), E_INVALID);
    assert_int_equal(http_write_header(&b, SL("X"), SL("a\nb")), E_INVALID);
    assert_int_equal(http_write_header(&b, SL("X"), SL("a\0b")), E_INVALID);
    assert_int_equal(http_write_header(&b, SL("X: y\r\nZ"), SL("b")), E_INVALID);
    assert_int_equal(http_write_header(&b, SL(""), SL("b")), E_INVALID);
    assert_int_equal(http_write_request(&b, SL("GET /x"), SL("/")), E_INVALID);
    assert_int_equal(http_write_request(&b, SL("GET"), SL("/a b")), E_INVALID);
    assert_int_equal(http_write_request(&b, SL("GET"), SL("/\r\n")), E_INVALID);
    assert_int_equal(http_write_request(&b, SL("GET"), SL("/\xff")), E_INVALID);
    assert_int_equal(http_write_request(&b, SL("GET"), SL("")), E_INVALID);
    assert_int_equal(http_write_status(&b, 200, "OK\r\nX: y"), E_INVALID);
    assert_int_equal(http_write_status(&b, 20, NULL), E_INVALID);
    assert_int_equal(http_write_status(&b, 600, NULL), E_INVALID);
    assert_int_equal(b.n, 0);
    assert_int_equal(
        http_write_header(&b, SL("X"), SL("0123456789012345678901234567890123456789012345678901234567")), 0);
    assert_int_equal(http_write_header(&b, SL("X"), SL("y")), E_TOO_LARGE);
    assert_true(b.is_full);
    buf_fini(&b);
}

static void chunk_heads(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        const char *text;
    } rows[] = {{1, "1\r\n"},
                {15, "f\r\n"},
                {16, "10\r\n"},
                {65536, "10000\r\n"},
                {SIZE_MAX, "ffffffffffffffff\r\n"}};
    char out[HTTP_CHUNK_HEAD_MAX];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_slice(slice_of(out, http_chunk_head(rows[i].n, out)), rows[i].text);
}

/* --- URLs --- */

static void url_escapes(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out; /* NULL: refused */
        bool plus;
    } rows[] = {{"a%20b%2Fc%2f", "a b/c/", false},
                {"a+b", "a+b", false},
                {"a+b%2B", "a b+", true},
                {"%C3%BC", "\xc3\xbc", false},
                {"", "", false},
                {"%", NULL, false},
                {"%4", NULL, false},
                {"%4g", NULL, false},
                {"%g4", NULL, false},
                {"a%00", NULL, false},
                {"%%41", NULL, false},
                {"%2541", "%41", false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT(64);
        buf_str(&b, "=");
        int rc = url_decode(slice_str(rows[i].in), rows[i].plus, &b);
        assert_int_equal(rc, rows[i].out == NULL ? E_INVALID : 0);
        assert_slice(slice_from(buf_view(&b), 1), rows[i].out == NULL ? "" : rows[i].out);
        buf_fini(&b);
    }
    struct buf b = BUF_INIT(2048);
    char every[255];
    for (size_t i = 0; i < sizeof(every); i++)
        every[i] = (char)(i + 1);
    assert_int_equal(url_encode(slice_of(every, sizeof(every)), &b), 0);
    struct buf back = BUF_INIT(2048);
    assert_int_equal(url_decode(buf_view(&b), true, &back), 0);
    assert_true(slice_eq(buf_view(&back), slice_of(every, sizeof(every))));
    buf_reset(&b);
    assert_int_equal(url_encode(SL("a/b c~"), &b), 0);
    assert_slice(buf_view(&b), "a%2Fb%20c~");
    buf_fini(&back);
    buf_fini(&b);
}

static void query_parameters(void **state)
{
    (void)state;
    assert_slice(query_find(SL("a=1&b=2&b=3"), "b"), "2");
    assert_slice(query_find(SL("a=1&bb=2&b"), "b"), "");
    assert_slice(query_find(SL("a=x=y"), "a"), "x=y");
    assert_slice(query_find(SL("access%5Ftoken=t"), "access_token"), "t");
    assert_null(query_find(SL("a=1"), "b").p);
    assert_null(query_find(SL("b%=1&ab=1&b%00=1"), "b").p);
    assert_null(query_find(SLICE_NULL, "b").p);
    static const struct {
        const char *in, *out;
    } rows[] = {{"t=1", ""},      {"a=1&t=2&b=3", "a=1&b=3"}, {"t=1&t=2&a", "a"},
                {"a&t", "a"},     {"a&&b", "a&&b"},           {"", ""},
                {"tt=1", "tt=1"}, {"a=%74&%74=1", "a=%74"},   {"a=+%zz&t", "a=+%zz"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT(64);
        assert_int_equal(query_without(slice_str(rows[i].in), "t", &b), 0);
        assert_slice(buf_view(&b), rows[i].out);
        buf_fini(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_vectors),
        cmocka_unit_test(response_vectors),
        cmocka_unit_test(request_parts),
        cmocka_unit_test(request_query_presence),
        cmocka_unit_test(request_keepalive),
        cmocka_unit_test(request_upgrade),
        cmocka_unit_test(request_expectation),
        cmocka_unit_test(request_absolute_form),
        cmocka_unit_test(request_connect),
        cmocka_unit_test(response_framing),
        cmocka_unit_test(hop_by_hop),
        cmocka_unit_test(too_many_fields),
        cmocka_unit_test(head_too_large),
        cmocka_unit_test(target_too_large),
        cmocka_unit_test(chunk_lines_are_bounded),
        cmocka_unit_test(chunks_leave_what_is_not_theirs),
        cmocka_unit_test(heads_are_written),
        cmocka_unit_test(nothing_unchecked_is_written),
        cmocka_unit_test(chunk_heads),
        cmocka_unit_test(url_escapes),
        cmocka_unit_test(query_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
