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
 * stream reads on for them, and the writer is told to stop. While
 * it shakes hands (tls_handshake.c) the stream has no owner. */
#include "base/net/tls_stream.h"

#include <string.h>

#include <openssl/err.h>

#include "base/core/mem.h"

enum {
    TLS_RECORD_MAX = 16384,
    TLS_RECORD_OVERHEAD = 64, /* more than any cipher adds */
    TLS_SLICES_MAX = 1024,
};

static void deferred_run(void *data);

void tls_stream_maybe_free(struct tls_stream *s)
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

void tls_stream_defer(struct tls_stream *s)
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

int tls_stream_send(struct tls_stream *s)
{
    struct slice v = buf_view(&s->out);
    int rc = 0;

    if (v.n > 0 && s->inner != NULL && !s->is_shut)
        rc = stream_write(s->inner, &v, 1);
    buf_fini(&s->out);
    return rc;
}

/* It reads for the handshake, for the owner, or for a write that waits. */
void tls_stream_follow(struct tls_stream *s)
{
    bool is_wanted =
        s->handshake != NULL ? tls_handshake_is_open(s->handshake) : s->wants_read || s->waiting.n > 0;

    if (s->inner == NULL)
        return;
    if (is_wanted && s->in.n == 0 && s->end_code == 0 && !s->is_choked)
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
        s->is_choked = tls_stream_send(s) == E_AGAIN;
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
        tls_handshake_step(s->handshake);
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
        tls_stream_maybe_free(s);
    else
        tls_stream_follow(s);
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
        tls_handshake_broke(s->handshake, text);
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
            tls_stream_defer(s);
        }
        return;
    }
    s->wants_read = true;
    if (s->in.n > 0)
        tls_stream_defer(s);
    tls_stream_follow(s);
}

static void tls_read_stop(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    s->wants_read = false;
    if (!s->is_working)
        tls_stream_follow(s);
}

/* --- writing --- */

static void write_break(struct tls_stream *s)
{
    s->write_code = E_IO;
    tls_stream_defer(s);
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
        (void)tls_stream_send(s); /* an alert; the write's failure is what is told */
        write_break(s);
        return s->write_code;
    }
    rc = tls_stream_send(s);
    if (rc == 0 && s->waiting.n > 0)
        rc = E_AGAIN;
    if (rc == E_AGAIN)
        s->owes_drain = true;
    if (s->waiting.n > 0 && !s->is_working)
        tls_stream_follow(s);
    return rc;
}

static void shutdown_send(struct tls_stream *s)
{
    ERR_clear_error();
    (void)SSL_shutdown(s->ssl); /* refused within a post-handshake message: then the end is a cut */
    (void)tls_stream_send(s);
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
    (void)tls_stream_send(s);
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
        tls_stream_maybe_free(s);
        return;
    }
    if (s->is_choked) {
        s->is_choked = false;
        if (s->in.n > 0)
            tls_stream_defer(s);
        tls_stream_follow(s);
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
    tls_stream_defer(s);
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
        tls_stream_maybe_free(s);
    else if (s->handshake != NULL ? tls_handshake_is_open(s->handshake)
                                  : s->in.n > 0 && s->wants_read && !s->is_choked)
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
        (void)SSL_shutdown(
            s->ssl); /* as in shutdown_send; what waits for the library is lost, and seen to be */
        (void)tls_stream_send(s);
    }
    inner_close(s, false);
    tls_stream_maybe_free(s);
}

static void tls_reset(struct stream *base)
{
    struct tls_stream *s = (struct tls_stream *)base;

    if (s->is_closing)
        return;
    inner_close(s, true);
    tls_stream_maybe_free(s);
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

struct tls_stream *tls_stream_new(SSL *ssl, struct stream *inner)
{
    struct tls_stream *s = MEM_NEW(struct tls_stream);
    BIO *bio = bio_new(s);

    s->base.ops = &tls_ops;
    s->base.loop = inner->loop;
    s->inner = inner;
    s->ssl = ssl;
    s->window = SLICE_EMPTY;
    buf_init(&s->in, (size_t)2 * LOOP_READ_BYTES);
    buf_init(&s->out, SIZE_MAX - 1);
    buf_init(&s->waiting, SIZE_MAX - 1);
    SSL_set_app_data(ssl, s);
    must(BIO_up_ref(bio) == 1);
    SSL_set0_rbio(ssl, bio);
    SSL_set0_wbio(ssl, bio);
    stream_own(inner, &inner_events, s);
    return s;
}

void tls_stream_drop(struct tls_stream *s)
{
    inner_close(s, false);
    tls_stream_maybe_free(s);
}
