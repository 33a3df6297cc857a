/* tls_stream: the inside of TLS, shared by tls_stream.c, tls_handshake.c, tls_client.c and tls_server.c only.
 */
#ifndef REEVE_BASE_NET_TLS_STREAM_H
#define REEVE_BASE_NET_TLS_STREAM_H

#include "base/core/buf.h"
#include "base/net/tls.h"

#include <openssl/ssl.h>

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

/* tls_stream.c */
/* Takes both over; the handshake is the caller's to make. */
struct tls_stream *tls_stream_new(SSL *ssl, struct stream *inner);
void tls_stream_drop(struct tls_stream *s); /* it never got an owner */
/* Hands on what the library wrote; as stream_write. A broken inner stream tells by itself. */
int tls_stream_send(struct tls_stream *s);
void tls_stream_follow(struct tls_stream *s); /* the inner stream reads, or not, as is needed now */
void tls_stream_defer(struct tls_stream *s);  /* looks again, in a later turn */
void tls_stream_maybe_free(struct tls_stream *s);

/* tls_handshake.c */
/* Shakes hands over `inner`. Takes `ssl` (its role is set) and `inner` over, also when it fails. `done` fires
 * exactly once, never before start has returned: code 0 and a stream with reading stopped, or E_UPSTREAM,
 * E_TIMEOUT, E_CANCELLED (after tls_handshake_cancel) with the story. `host` is copied, for messages. */
struct tls_handshake *tls_handshake_start(SSL *ssl, struct stream *inner, const char *host,
                                          int64_t timeout_ms, connect_done_cb done, void *data);
bool tls_handshake_is_open(const struct tls_handshake *h); /* it needs more bytes */
void tls_handshake_step(struct tls_handshake *h);          /* uses the stream's window */
void tls_handshake_broke(struct tls_handshake *h, const char *text);
/* Where a verification leaves why it failed: the error of the handshake in progress; NULL when there is none
 * (any more). */
struct err *tls_handshake_err(SSL *ssl);
const char *tls_handshake_host(SSL *ssl); /* "" when there is none */

/* The settings that both sides share: TLS 1.2 or newer, no renegotiation, no compression, buffers given back
 * while idle. */
void tls_context_tune(SSL_CTX *ctx);

#endif
