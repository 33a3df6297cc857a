/* tls_handshake: from a connected stream to one that speaks TLS, or to the reason why not.
 *
 * Happy path: each time bytes come the library is asked to go on; when it is done, `done` gets the stream in
 * a later turn. Handshakes are the dearest work of the loop (a signature is 0.4 ms and more): they get a few
 * milliseconds of each turn, and what exceeds them waits for the next one. Failure paths: the deadline, a
 * cancel, an end of the connection, or the library's refusal, told in words; then the connection is closed.
 */
#include "base/net/tls_stream.h"

#include <openssl/err.h>

#include "base/core/mem.h"

#define TURN_BUDGET_NS ((uint64_t)6 * 1000 * 1000)

struct tls_handshake {
    struct tls_stream *stream;
    struct timer *deadline;
    char *host;
    connect_done_cb done;
    void *data;
    bool is_settled;
    struct err err; /* code 0: it succeeded */
};

struct err *tls_handshake_err(SSL *ssl)
{
    struct tls_stream *s = SSL_get_app_data(ssl);

    return s != NULL && s->handshake != NULL ? &s->handshake->err : NULL;
}

const char *tls_handshake_host(SSL *ssl)
{
    struct tls_stream *s = SSL_get_app_data(ssl);

    return s != NULL && s->handshake != NULL ? s->handshake->host : "";
}

bool tls_handshake_is_open(const struct tls_handshake *h)
{
    return !h->is_settled;
}

static void on_settled(void *data)
{
    struct tls_handshake *h = data;
    struct tls_stream *s = h->stream;

    s->handshake = NULL;
    if (h->err.code != 0) {
        tls_stream_drop(s);
        h->done(h->err.code, NULL, &h->err, h->data);
    } else {
        h->done(0, &s->base, NULL, h->data);
    }
    mem_free(h->host);
    mem_free(h);
}

/* The result is in h->err; `done` gets it in a later turn. */
static void handshake_settle(struct tls_handshake *h)
{
    if (h->is_settled)
        return;
    h->is_settled = true;
    timer_free(h->deadline);
    tls_stream_follow(h->stream);
    loop_defer(h->stream->base.loop, on_settled, h);
}

void tls_handshake_broke(struct tls_handshake *h, const char *text)
{
    if (!h->is_settled)
        (void)err_set(&h->err, E_UPSTREAM, "TLS with %s: %s", h->host, text);
    handshake_settle(h);
}

/* What the library's latest error means, for people. */
static void failure_write(SSL *ssl, struct err *err)
{
    static const struct {
        int reason;
        const char *text; /* after "the server" */
    } known[] = {
        {SSL_R_UNSUPPORTED_PROTOCOL, "speaks no TLS 1.2 or newer"},
        {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "refuses TLS 1.2 and newer"},
        {SSL_R_WRONG_VERSION_NUMBER, "answers in something other than TLS"},
        {SSL_R_HTTP_REQUEST, "speaks HTTP without TLS"},
        {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "finds no common ground (alert: handshake failure)"},
        {SSL_R_NO_SHARED_CIPHER, "shares no strong cipher with us"},
        {SSL_R_TLSV1_ALERT_INTERNAL_ERROR, "failed (alert: internal error)"},
        {SSL_R_TLSV1_UNRECOGNIZED_NAME, "does not serve this name (alert: unrecognized name)"},
        {SSL_R_EXCESSIVE_MESSAGE_SIZE, "sends a handshake message larger than allowed"},
        {SSL_R_CERT_LENGTH_MISMATCH, "sends a malformed certificate message"},
    };
    unsigned long e = ERR_peek_last_error();
    int reason = ERR_GET_REASON(e);
    const char *text = e != 0 ? ERR_reason_error_string(e) : NULL;
    const char *peer = SSL_is_server(ssl) ? "the client" : "the server";
    size_t i;

    for (i = 0; i < ARRAY_LEN(known); i++)
        if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason == known[i].reason) {
            (void)err_set(err, E_UPSTREAM, "TLS with %s: %s %s", tls_handshake_host(ssl), peer,
                          known[i].text);
            return;
        }
    (void)err_set(err, E_UPSTREAM, "TLS with %s: the handshake failed: %s", tls_handshake_host(ssl),
                  text != NULL ? text : "malformed");
}

/* True when this turn has had its share of handshakes; *ret_spent counts them. */
static bool turn_is_over(const struct loop *l, uint64_t **ret_spent)
{
    static _Thread_local uint64_t turn, spent_ns;

    if (turn != l->turn_started_ns) {
        turn = l->turn_started_ns;
        spent_ns = 0;
    }
    *ret_spent = &spent_ns;
    return spent_ns > TURN_BUDGET_NS;
}

/* Who speaks HTTP without TLS to us is told so, in HTTP. */
static void answer_plain_http(struct tls_stream *s)
{
    static const char text[] =
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 38\r\n"
        "Connection: close\r\n\r\nThis port speaks HTTPS: use https://.\n";

    buf_fini(&s->out); /* the alert would be noise */
    must(buf_str(&s->out, text) == 0);
}

void tls_handshake_step(struct tls_handshake *h)
{
    struct tls_stream *s = h->stream;
    uint64_t *spent_ns, from;
    int rc, why;

    if (h->is_settled)
        return;
    if (turn_is_over(s->base.loop, &spent_ns)) {
        tls_stream_defer(s); /* the bytes stay in the stream */
        return;
    }
    from = uv_hrtime();
    ERR_clear_error();
    rc = SSL_do_handshake(s->ssl);
    why = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, rc);
    if (why == SSL_ERROR_NONE)
        err_clear(&h->err);
    else if (why != SSL_ERROR_WANT_READ && h->err.code == 0)
        failure_write(s->ssl, &h->err);
    if (why == SSL_ERROR_SSL && SSL_is_server(s->ssl) &&
        ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_HTTP_REQUEST)
        answer_plain_http(s);
    (void)tls_stream_send(s);
    *spent_ns += uv_hrtime() - from;
    if (why != SSL_ERROR_WANT_READ)
        handshake_settle(h);
}

static void on_deadline(void *data)
{
    struct tls_handshake *h = data;

    (void)err_set(&h->err, E_TIMEOUT, "TLS with %s: no handshake within the deadline", h->host);
    handshake_settle(h);
}

void tls_handshake_cancel(struct tls_handshake *h)
{
    (void)err_set(&h->err, E_CANCELLED, "cancelled");
    handshake_settle(h);
}

struct tls_handshake *tls_handshake_start(SSL *ssl, struct stream *inner, const char *host,
                                          int64_t timeout_ms, connect_done_cb done, void *data)
{
    struct tls_handshake *h = MEM_NEW(struct tls_handshake);
    struct tls_stream *s = tls_stream_new(ssl, inner);

    s->handshake = h;
    h->stream = s;
    h->host = mem_strdup(host);
    h->done = done;
    h->data = data;
    h->deadline = timer_new(inner->loop, on_deadline, h);
    timer_start(h->deadline, timeout_ms);
    if (SSL_is_server(ssl)) {
        tls_stream_follow(s);
        return h;
    }
    s->is_working = true;
    tls_handshake_step(h); /* the first flight */
    s->is_working = false;
    tls_stream_follow(s);
    return h;
}

/* --- what both sides share --- */

void tls_context_tune(SSL_CTX *ctx)
{
    SSL_CTX_set_security_level(ctx, 2); /* 112 bits: no RSA below 2048, no SHA-1 */
    must(SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}
