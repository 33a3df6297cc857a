/* tls_stream: OpenSSL between two streams.
 *
 * Happy path: what the inner stream reads is the library's input (`window`, read where it lies), what the
 * library writes is gathered in `out` and goes to the inner stream before the call returns; so an idle stream
 * holds no bytes, and nothing here reads or writes a socket. Small slices of one write share a record. Cipher
 * text that the owner does not want yet waits in `in` while the inner stream does not read: one read's worth
 * at most.
 *
 * Failure paths: a broken record, an alert, or an end without close_notify ends reading with E_IO; a write
 * that the library refuses is told in a later turn, as the socket stream does it. The library cannot write
 * while a half-received post-handshake message waits for its rest: the bytes wait in `waiting`, the inner
 * stream reads on for them, and the writer is told to stop. A handshake has its own object and deadline,
 * which go when `done` has fired; until then the stream has no owner. */
#include "base/net/tls_stream.h"

#include <string.h>

#include <openssl/err.h>

#include "base/core/buf.h"
#include "base/core/mem.h"

enum {
    TLS_RECORD_MAX = 16384,
    TLS_RECORD_OVERHEAD = 64, /* more than any cipher adds */
    TLS_SLICES_MAX = 1024,
};

struct tls_stream {
    struct stream base;
    struct stream *inner; /* NULL: closed */
    SSL *ssl;
    struct tls_handshake *handshake; /* NULL: over */

    struct slice window; /* cipher text at hand, while it is worked on */
    struct buf in;       /* cipher text that waits for the owner */
    struct buf out;      /* cipher text that the call in progress made */
    struct buf waiting;  /* plain text that the library could not take */

    bool wants_read;
    int end_code; /* reading ended: E_EOF or an error; 0: not yet */
    const struct stream_events *told_events;
    void *told_data;

    bool owes_drain;
    bool is_choked;      /* what the library itself says piles up: no reading until it drained */
    bool wants_shutdown; /* the owner's */
    bool is_shut;        /* close_notify went out: the inner stream takes no more */
    int write_code;
    bool is_write_told;

    bool is_working;  /* on the stack: not to be freed */
    bool is_deferred; /* deferred_run is pending: likewise */
    bool is_closing;
};

struct tls_handshake {
    struct tls_stream *stream;
    struct timer *deadline;
    char *host;
    connect_done_cb done;
    void *data;
    bool is_settled;
    struct err err; /* code 0: it succeeded */
};

static void deferred_run(void *data);
static void handshake_step(struct tls_stream *s);
static void handshake_settle(struct tls_handshake *h);

static void stream_maybe_free(struct tls_stream *s)
{
    if (!s->is_closing || s->is_working || s->is_deferred || s->handshake != NULL)
        return;
    /* Else the library takes a reset for a reason not to resume the session (TLS 1.0 wanted that). */
    SSL_set_shutdown(s->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(s->ssl);
    buf_fini(&s->in);
    buf_fini(&s->out);
    buf_wipe(&s->waiting);
    mem_free(s);
}

static void stream_defer(struct tls_stream *s)
{
    if (s->is_deferred)
        return;
    s->is_deferred = true;
    loop_defer(s->base.loop, deferred_run, s);
}

/* --- the library's two ends --- */

static int on_bio_read(BIO *b, char *p, int n)
{
    struct tls_stream *s = BIO_get_data(b);
    size_t take = n > 0 ? (size_t)n : 0;

    BIO_clear_retry_flags(b);
    if (s->window.n == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    if (take > s->window.n)
        take = s->window.n;
    memcpy(p, s->window.p, take);
    s->window = slice_from(s->window, take);
    return (int)take;
}

static int on_bio_write(BIO *b, const char *p, int n)
{
    struct tls_stream *s = BIO_get_data(b);

    BIO_clear_retry_flags(b);
    must(n >= 0 && buf_append(&s->out, p, (size_t)n) == 0);
    return n;
}

static long on_bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

static BIO *bio_new(struct tls_stream *s)
{
    static BIO_METHOD *method; /* one for the process */
    BIO *b;

    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stream");
        must(method != NULL && BIO_meth_set_read(method, on_bio_read) == 1 &&
             BIO_meth_set_write(method, on_bio_write) == 1 && BIO_meth_set_ctrl(method, on_bio_ctrl) == 1);
    }
    b = BIO_new(method);
    must(b != NULL);
    BIO_set_data(b, s);
    BIO_set_init(b, 1);
    return b;
}

/* Hands on what the library wrote. A broken inner stream tells by itself. */
static int cipher_send(struct tls_stream *s)
{
    struct slice v = buf_view(&s->out);
    int rc = 0;

    if (v.n > 0 && s->inner != NULL && !s->is_shut)
        rc = stream_write(s->inner, &v, 1);
    buf_fini(&s->out);
    return rc;
}

/* The inner stream reads for the handshake, for the owner, or for a write that waits. */
static void inner_follow(struct tls_stream *s)
{
    bool is_wanted = s->handshake != NULL ? !s->handshake->is_settled
                                          : s->in.n == 0 && (s->wants_read || s->waiting.n > 0);

    if (s->inner == NULL)
        return;
    if (is_wanted && s->end_code == 0 && !s->is_choked)
        stream_read_start(s->inner);
    else
        stream_read_stop(s->inner);
}

/* --- reading --- */

static void end_tell(struct tls_stream *s)
{
    const struct stream_events *events = s->base.events;

    s->wants_read = false;
    s->told_events = events;
    s->told_data = s->base.data;
    if (events == NULL)
        return;
    if (s->end_code == E_EOF)
        events->on_eof(&s->base, s->base.data);
    else
        events->on_error(&s->base, s->end_code, s->base.data);
}

/* Reads records until the buffer has no room for another, or there is none. False: that was all for now. */
static bool plain_read(struct tls_stream *s, char *plain, size_t size, size_t *ret_n)
{
    size_t n = 0, got = 0;
    int rc = 1, why = SSL_ERROR_NONE;

    while (size - n >= TLS_RECORD_MAX) {
        ERR_clear_error();
        rc = SSL_read_ex(s->ssl, plain + n, size - n, &got);
        if (rc != 1)
            break;
        n += got;
    }
    *ret_n = n;
    if (rc == 1)
        return true;
    why = SSL_get_error(s->ssl, rc);
    if (why == SSL_ERROR_ZERO_RETURN)
        s->end_code = E_EOF;
    else if (why != SSL_ERROR_WANT_READ)
        s->end_code = E_IO;
    return false;
}

/* Gives the owner what the cipher text at hand says, as far as he wants it. */
static void plain_pump(struct tls_stream *s)
{
    static _Thread_local char plain[LOOP_READ_BYTES]; /* used before return, like the loop's own */
    bool has_more = true;
    size_t n;

    while (has_more && s->wants_read && s->end_code == 0 && !s->is_choked) {
        has_more = plain_read(s, plain, sizeof(plain), &n);
        s->is_choked = cipher_send(s) == E_AGAIN;
        if (n > 0)
            s->base.events->on_read(&s->base, slice_of(plain, n), s->base.data);
        if (s->is_closing)
            return;
    }
    if (s->end_code != 0 && s->wants_read)
        end_tell(s);
}

static void waiting_send(struct tls_stream *s);

/* Works on cipher text; what is not used stays in `in`. */
static void cipher_use(struct tls_stream *s, struct slice bytes)
{
    bool is_kept = s->in.n > 0;
    size_t all;

    if (is_kept) {
        must(buf_slice(&s->in, bytes) == 0);
        bytes = buf_view(&s->in);
    }
    all = bytes.n;
    s->window = bytes;
    s->is_working = true;
    if (s->handshake != NULL) {
        if (!s->handshake->is_settled)
            handshake_step(s);
    } else {
        waiting_send(s);
        plain_pump(s);
    }
    s->is_working = false;
    if (s->end_code != 0)
        s->window = SLICE_EMPTY; /* what lies behind the end is nobody's */
    if (is_kept)
        buf_consume(&s->in, all - s->window.n);
    else if (s->window.n > 0)
        must(buf_slice(&s->in, s->window) == 0);
    s->window = SLICE_EMPTY;
    if (s->in.n == 0 || s->is_closing)
        buf_fini(&s->in);
    if (s->is_closing)
        stream_maybe_free(s);
    else
        inner_follow(s);
}

static void on_inner_read(struct stream *inner, struct slice bytes, void *data)
{
    (void)inner;
    cipher_use(data, bytes);
}

/* The inner stream ended, or broke: after close_notify nobody cares. */
static void inner_ended(struct tls_stream *s, int code, const char *text)
{
    if (s->handshake != NULL) {
        if (!s->handshake->is_settled)
            (void)err_set(&s->handshake->err, E_UPSTREAM, "TLS with %s: %s", s->handshake->host, text);
        handshake_settle(s->handshake);
        s->end_code = code;
        return;
    }
    if (s->end_code != 0)
        return;
    s->end_code = code;
    if (s->wants_read)
        end_tell(s);
}

static void on_inner_eof(struct stream *inner, void *data)
{
    (void)inner;
    inner_ended(data, E_IO, "the connection was closed within the handshake");
}

static void on_inner_error(struct stream *inner, int code, void *data)
{
    (void)inner;
    inner_ended(data, code, "the connection broke within the handshake");
}

static void tls_read_start(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    if (s->is_closing)
        return;
    if (s->end_code != 0) {
        if (s->told_events != base->events || s->told_data != base->data) {
            s->wants_read = true;
            stream_defer(s);
        }
        return;
    }
    s->wants_read = true;
    if (s->in.n > 0)
        stream_defer(s);
    inner_follow(s);
}

static void tls_read_stop(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    s->wants_read = false;
    if (!s->is_working)
        inner_follow(s);
}

/* --- writing --- */

static void write_break(struct tls_stream *s)
{
    s->write_code = E_IO;
    stream_defer(s);
}

/* 0; E_AGAIN: it cannot write before it has read; E_IO. */
static int plain_write(struct tls_stream *s, const char *p, size_t n)
{
    size_t done = 0;
    int rc;

    if (n == 0)
        return 0;
    ERR_clear_error();
    rc = SSL_write_ex(s->ssl, p, n, &done);
    if (rc == 1) {
        must(done == n);
        return 0;
    }
    return SSL_get_error(s->ssl, rc) == SSL_ERROR_WANT_READ ? E_AGAIN : E_IO;
}

static int waiting_keep(struct tls_stream *s, const char *p, size_t n)
{
    return s->waiting.n > STREAM_QUEUE_MAX ? E_TOO_LARGE : buf_append(&s->waiting, p, n);
}

/* Writes, or keeps what the library cannot take yet. */
static int plain_give(struct tls_stream *s, const char *p, size_t n)
{
    int rc = s->waiting.n > 0 ? E_AGAIN : plain_write(s, p, n);

    return rc == E_AGAIN ? waiting_keep(s, p, n) : rc;
}

/* Records of all slices; small ones share a record. */
static int slices_give(struct tls_stream *s, const struct slice *v, size_t n)
{
    static _Thread_local char record[TLS_RECORD_MAX];
    size_t have = 0, i;
    int rc = 0;

    for (i = 0; rc == 0 && i < n; i++) {
        struct slice rest = v[i];

        while (rc == 0 && rest.n > 0) {
            size_t take = sizeof(record) - have;

            if (have == 0 && rest.n >= sizeof(record)) {
                take = rest.n - rest.n % sizeof(record);
                rc = plain_give(s, rest.p, take);
            } else {
                take = take < rest.n ? take : rest.n;
                memcpy(record + have, rest.p, take);
                have += take;
                if (have == sizeof(record)) {
                    rc = plain_give(s, record, have);
                    have = 0;
                }
            }
            rest = slice_from(rest, take);
        }
    }
    return rc == 0 ? plain_give(s, record, have) : rc;
}

static int tls_write(struct stream *base, const struct slice *v, size_t n)
{
    struct tls_stream *s = (struct tls_stream *)base;
    size_t all = 0, i;
    int rc;

    must(n <= TLS_SLICES_MAX && !s->is_closing && !s->wants_shutdown && s->handshake == NULL);
    if (s->write_code != 0)
        return s->write_code;
    for (i = 0; i < n; i++)
        all += v[i].n;
    if (all == 0)
        return s->waiting.n > 0 ? E_AGAIN : stream_write(s->inner, NULL, 0);
    must(buf_reserve(&s->out, all + (all / TLS_RECORD_MAX + 2) * TLS_RECORD_OVERHEAD) == 0);
    if (slices_give(s, v, n) != 0) {
        (void)cipher_send(s); /* an alert; the write's failure is what is told */
        write_break(s);
        return s->write_code;
    }
    rc = cipher_send(s);
    if (rc == 0 && s->waiting.n > 0)
        rc = E_AGAIN;
    if (rc == E_AGAIN)
        s->owes_drain = true;
    if (s->waiting.n > 0 && !s->is_working)
        inner_follow(s);
    return rc;
}

static void shutdown_send(struct tls_stream *s)
{
    ERR_clear_error();
    (void)SSL_shutdown(s->ssl); /* refused within a post-handshake message: then the end is a cut */
    (void)cipher_send(s);
    s->is_shut = true;
    if (s->inner != NULL)
        stream_shutdown(s->inner);
}

static void drain_tell(struct tls_stream *s)
{
    if (!s->owes_drain || s->waiting.n > 0 || s->is_closing || stream_queued(s->inner) > 0)
        return;
    s->owes_drain = false;
    s->base.events->on_drain(&s->base, s->base.data);
}

/* The library may be able to write now. Within cipher_use. */
static void waiting_send(struct tls_stream *s)
{
    int rc;

    if (s->waiting.n == 0)
        return;
    rc = plain_write(s, s->waiting.p, s->waiting.n);
    if (rc == E_AGAIN)
        return;
    buf_wipe(&s->waiting);
    (void)cipher_send(s);
    if (rc != 0)
        write_break(s);
    else if (s->wants_shutdown)
        shutdown_send(s);
    else
        drain_tell(s);
}

static void tls_shutdown(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    if (s->wants_shutdown || s->is_closing)
        return;
    s->wants_shutdown = true;
    if (s->waiting.n == 0)
        shutdown_send(s);
}

static size_t tls_queued(const struct stream *base)
{
    const struct tls_stream *s = (const struct tls_stream *)base;

    return s->waiting.n + (s->inner != NULL ? stream_queued(s->inner) : 0);
}

static void on_inner_drain(struct stream *inner, void *data)
{
    struct tls_stream *s = data;

    (void)inner;
    if (s->handshake != NULL)
        return;
    s->is_working = true;
    drain_tell(s);
    s->is_working = false;
    if (s->is_closing) {
        stream_maybe_free(s);
        return;
    }
    if (s->is_choked) {
        s->is_choked = false;
        if (s->in.n > 0)
            stream_defer(s);
        inner_follow(s);
    }
}

static void on_inner_write_error(struct stream *inner, int code, void *data)
{
    struct tls_stream *s = data;

    (void)inner;
    if (s->handshake != NULL) /* the server's alert, or its end, tells more */
        return;
    if (s->write_code == 0)
        s->write_code = code;
    stream_defer(s);
}

static const struct stream_events inner_events = {.on_read = on_inner_read,
                                                  .on_eof = on_inner_eof,
                                                  .on_error = on_inner_error,
                                                  .on_drain = on_inner_drain,
                                                  .on_write_error = on_inner_write_error};

static void write_error_tell(struct tls_stream *s)
{
    s->is_write_told = true;
    if (s->base.events->on_write_error != NULL) {
        s->base.events->on_write_error(&s->base, s->write_code, s->base.data);
    } else if (s->end_code == 0 || s->end_code == E_EOF) {
        s->end_code = s->write_code;
        s->told_events = NULL; /* also after an end that was told: now it is broken both ways */
        s->told_data = NULL;
        end_tell(s);
    }
}

/* What may not happen inside the owner's call: errors of writing, an end told again, bytes that waited. */
static void deferred_run(void *data)
{
    struct tls_stream *s = data;

    if (!s->is_closing && s->write_code != 0 && !s->is_write_told)
        write_error_tell(s);
    s->is_deferred = false;
    if (s->is_closing)
        stream_maybe_free(s);
    else if (s->in.n > 0 && s->wants_read && !s->is_choked)
        cipher_use(s, SLICE_EMPTY);
    else if (s->end_code != 0 && s->wants_read)
        end_tell(s);
}

/* --- the end --- */

static void inner_close(struct tls_stream *s, bool is_reset)
{
    struct stream *inner = s->inner;

    s->is_closing = true;
    s->wants_read = false;
    if (inner == NULL)
        return;
    s->inner = NULL;
    if (is_reset)
        stream_reset(inner);
    else
        stream_close(inner);
}

static void tls_close(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    if (s->is_closing)
        return;
    if (!s->is_shut && s->write_code == 0 && s->end_code != E_IO) {
        ERR_clear_error();
        (void)SSL_shutdown(s->ssl); /* as in shutdown_send */
        (void)cipher_send(s);
    }
    inner_close(s, false);
    stream_maybe_free(s);
}

static void tls_reset(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    if (s->is_closing)
        return;
    inner_close(s, true);
    stream_maybe_free(s);
}

static void tls_peer(const struct stream *base, char out[STREAM_PEER_MAX])
{
    const struct tls_stream *s = (const struct tls_stream *)base;

    stream_peer(s->inner, out);
}

static const struct stream_ops tls_ops = {
    .read_start = tls_read_start,
    .read_stop = tls_read_stop,
    .write = tls_write,
    .shutdown = tls_shutdown,
    .close = tls_close,
    .reset = tls_reset,
    .queued = tls_queued,
    .peer = tls_peer,
};

/* --- the handshake --- */

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

static void on_settled(void *data)
{
    struct tls_handshake *h = data;
    struct tls_stream *s = h->stream;

    s->handshake = NULL;
    if (h->err.code != 0) {
        inner_close(s, false);
        stream_maybe_free(s);
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
    inner_follow(h->stream);
    loop_defer(h->stream->base.loop, on_settled, h);
}

static void handshake_step(struct tls_stream *s)
{
    struct tls_handshake *h = s->handshake;
    int rc, why;

    ERR_clear_error();
    rc = SSL_do_handshake(s->ssl);
    why = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, rc);
    if (why != SSL_ERROR_NONE && why != SSL_ERROR_WANT_READ && h->err.code == 0)
        tls_describe(s->ssl, SSL_is_server(s->ssl) ? "the client" : "the server", &h->err);
    if (why == SSL_ERROR_NONE)
        err_clear(&h->err);
    (void)cipher_send(s);
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
    struct tls_stream *s = MEM_NEW(struct tls_stream);
    struct tls_handshake *h = MEM_NEW(struct tls_handshake);
    BIO *bio;

    s->base.ops = &tls_ops;
    s->base.loop = inner->loop;
    s->inner = inner;
    s->ssl = ssl;
    s->handshake = h;
    s->window = SLICE_EMPTY;
    buf_init(&s->in, (size_t)2 * LOOP_READ_BYTES);
    buf_init(&s->out, SIZE_MAX - 1);
    buf_init(&s->waiting, SIZE_MAX - 1);
    h->stream = s;
    h->host = mem_strdup(host);
    h->done = done;
    h->data = data;
    h->deadline = timer_new(inner->loop, on_deadline, h);
    timer_start(h->deadline, timeout_ms);
    SSL_set_app_data(ssl, s);
    bio = bio_new(s);
    must(BIO_up_ref(bio) == 1);
    SSL_set0_rbio(ssl, bio);
    SSL_set0_wbio(ssl, bio);
    stream_own(inner, &inner_events, s);
    s->is_working = true;
    handshake_step(s); /* a client's first flight */
    s->is_working = false;
    inner_follow(s);
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

void tls_describe(SSL *ssl, const char *peer, struct err *err)
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
