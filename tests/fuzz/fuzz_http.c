/* libFuzzer target of the HTTP codec. The first byte chooses: a request head, a response head, a chunked
 * body, a query.
 *
 * What must hold for every input: no access outside of the bytes given (ASan); fed in pieces and fed whole
 * agree; an accepted head, written anew from its parts, parses to the same parts, and to a head without a
 * second meaning; what the chunk decoder accepted and is written as one chunk decodes to the same data.
 *
 *   clang-14 -fsanitize=fuzzer,address,undefined … tests/fuzz/fuzz_http.c libreeve.a; run with
 * tests/fuzz/corpus/http */
#include "base/net/http.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *exact(struct slice s)
{
    char *p = mem_alloc(s.n > 0 ? s.n : 1);
    if (s.n > 0)
        memcpy(p, s.p, s.n);
    return p;
}

/* Sizes of pieces, from the input itself. */
static size_t piece(size_t i, uint8_t seed, size_t left)
{
    size_t n = seed == 0 ? 1 : (i * 7 + seed) % 13 + 1;
    return n < left ? n : left;
}

static void same_fields(const struct http_header *a, size_t n, const struct http_header *b, size_t m)
{
    must(n == m);
    for (size_t i = 0; i < n; i++)
        must(slice_eq(a[i].name, b[i].name) && slice_eq(a[i].value, b[i].value));
}

static void write_fields(struct buf *b, const struct http_header *h, size_t n)
{
    for (size_t i = 0; i < n; i++)
        must(http_write_header(b, h[i].name, h[i].value) == 0);
    must(http_write_end(b) == 0);
}

static void fuzz_request(struct slice in, uint8_t seed)
{
    static struct http_request whole, again;
    unsigned flags = seed & 3;
    size_t n = 0, m = 0;
    int rc = http_parse_request(in, flags, NULL, &whole, &n, NULL);
    int rc_pieces = E_AGAIN;
    size_t have = 0, scanned = 0;
    for (size_t i = 0; have < in.n && rc_pieces == E_AGAIN; i++) {
        have += piece(i, seed, in.n - have);
        char *p = exact(slice_of(in.p, have));
        rc_pieces = http_parse_request(slice_of(p, have), flags, &scanned, &again, &m, NULL);
        mem_free(p);
    }
    must(rc_pieces == rc || (in.n == 0 && rc == E_AGAIN));
    if (rc != 0)
        return;
    must(n == m && n <= in.n);
    must(!(whole.is_chunked && whole.has_length));
    must(whole.has_length || whole.length == 0);
    must(whole.host.n > 0 || whole.minor == 0);
    for (size_t i = 0; i < whole.n_headers; i++)
        must(http_is_token(whole.headers[i].name) && http_value_is_valid(whole.headers[i].value));

    if (whole.minor == 0)
        return; /* we write HTTP/1.1 only */
    struct buf b = BUF_INIT(4 * HTTP_HEAD_BYTES_MAX);
    must(http_write_request(&b, whole.method, whole.target) == 0);
    write_fields(&b, whole.headers, whole.n_headers);
    if (b.n <= HTTP_HEAD_BYTES_MAX) { /* "a:b" grows by a blank */
        must(http_parse_request(buf_view(&b), flags, NULL, &again, &m, NULL) == 0);
        must(m == b.n && slice_eq(whole.method, again.method) && slice_eq(whole.target, again.target));
        must(slice_eq(whole.path, again.path) && slice_eq(whole.query, again.query));
        must(slice_eq(whole.host, again.host) && whole.is_chunked == again.is_chunked);
        must(whole.has_length == again.has_length && whole.length == again.length);
        must(whole.is_keepalive == again.is_keepalive && whole.wants_upgrade == again.wants_upgrade);
        same_fields(whole.headers, whole.n_headers, again.headers, again.n_headers);
    }
    buf_fini(&b);
}

static void fuzz_response(struct slice in, uint8_t seed)
{
    static struct http_response whole, again;
    bool is_head = (seed & 1) != 0;
    size_t n = 0, m = 0;
    int rc = http_parse_response(in, is_head, NULL, &whole, &n, NULL);
    int rc_pieces = E_AGAIN;
    size_t have = 0, scanned = 0;
    for (size_t i = 0; have < in.n && rc_pieces == E_AGAIN; i++) {
        have += piece(i, seed, in.n - have);
        char *p = exact(slice_of(in.p, have));
        rc_pieces = http_parse_response(slice_of(p, have), is_head, &scanned, &again, &m, NULL);
        mem_free(p);
    }
    must(rc_pieces == rc || (in.n == 0 && rc == E_AGAIN));
    if (rc != 0)
        return;
    must(n == m && n <= in.n && whole.status >= 100 && whole.status <= 599);
    must(!(whole.is_chunked && whole.has_length));
    must(whole.has_no_body || whole.is_until_close || whole.is_chunked || whole.has_length);
    must(!(whole.is_until_close && whole.is_keepalive));

    if (whole.minor == 0)
        return;
    struct buf b = BUF_INIT(4 * HTTP_HEAD_BYTES_MAX);
    AUTO_FREE char *reason = mem_strndup(whole.reason.p, whole.reason.n);
    must(http_write_status(&b, whole.status, reason) == 0);
    write_fields(&b, whole.headers, whole.n_headers);
    if (b.n <= HTTP_HEAD_BYTES_MAX) {
        must(http_parse_response(buf_view(&b), is_head, NULL, &again, &m, NULL) == 0);
        must(m == b.n && whole.status == again.status && slice_eq(whole.reason, again.reason));
        must(whole.is_chunked == again.is_chunked && whole.length == again.length);
        must(whole.has_no_body == again.has_no_body && whole.is_until_close == again.is_until_close);
        must(whole.is_keepalive == again.is_keepalive && slice_eq(whole.upgrade, again.upgrade));
        same_fields(whole.headers, whole.n_headers, again.headers, again.n_headers);
    }
    buf_fini(&b);
}

/* All of `in`, in pieces (seed) or whole (-1). Gives the last code; *ret_all: bytes used. */
static int decode(struct slice in, int seed, struct buf *out, size_t *ret_all)
{
    struct http_chunks c;
    http_chunks_init(&c);
    size_t all = 0, used;
    int rc = 0;
    for (size_t i = 0; all < in.n && rc == 0; i++) {
        size_t n = seed < 0 ? in.n - all : piece(i, (uint8_t)seed, in.n - all);
        struct slice span;
        char *p = exact(slice_of(in.p + all, n));
        rc = http_chunks_feed(&c, slice_of(p, n), &used, &span, NULL);
        if (rc >= 0) {
            must(used <= n && span.n <= used && (used > 0 || rc == 1));
            must(buf_slice(out, span) == 0);
            all += used;
        }
        mem_free(p);
    }
    *ret_all = all;
    return rc;
}

static void fuzz_chunks(struct slice in, uint8_t seed)
{
    struct buf whole = BUF_INIT(1 << 24), pieces = BUF_INIT(1 << 24), coded = BUF_INIT(1 << 25);
    size_t n, m;
    int rc = decode(in, -1, &whole, &n);
    must(decode(in, seed, &pieces, &m) == rc);
    must(slice_eq(buf_view(&whole), buf_view(&pieces)));
    must(rc < 0 || n == m);
    if (rc == 1) {
        char head[HTTP_CHUNK_HEAD_MAX];
        if (whole.n > 0) {
            buf_append(&coded, head, http_chunk_head(whole.n, head));
            buf_slice(&coded, buf_view(&whole));
            buf_str(&coded, "\r\n");
        }
        buf_str(&coded, HTTP_LAST_CHUNK);
        buf_reset(&pieces);
        must(decode(buf_view(&coded), -1, &pieces, &m) == 1 && m == coded.n);
        must(slice_eq(buf_view(&whole), buf_view(&pieces)));
    }
    buf_fini(&whole);
    buf_fini(&pieces);
    buf_fini(&coded);
}

static void fuzz_query(struct slice in)
{
    struct buf without = BUF_INIT(1 << 24), plain = BUF_INIT(1 << 24), coded = BUF_INIT(1 << 26);
    struct slice value = query_find(in, "t");
    must(query_without(in, "t", &without) == 0);
    must(query_find(buf_view(&without), "t").p == NULL);
    must(value.p != NULL || slice_eq(buf_view(&without), in));
    if (url_decode(in, true, &plain) == 0) {
        struct buf back = BUF_INIT(1 << 24);
        must(url_encode(buf_view(&plain), &coded) == 0);
        must(url_decode(buf_view(&coded), true, &back) == 0);
        must(slice_eq(buf_view(&plain), buf_view(&back)));
        buf_fini(&back);
    }
    buf_fini(&without);
    buf_fini(&plain);
    buf_fini(&coded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 18)
        return 0;
    uint8_t kind = data[0], seed = data[1];
    struct slice rest = slice_of(data + 2, size - 2);
    char *p = exact(rest);
    struct slice in = slice_of(p, rest.n);
    switch (kind & 3) {
    case 0:
        fuzz_request(in, seed);
        break;
    case 1:
        fuzz_response(in, seed);
        break;
    case 2:
        fuzz_chunks(in, seed);
        break;
    default:
        fuzz_query(in);
        break;
    }
    mem_free(p);
    return 0;
}
