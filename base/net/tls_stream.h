/* tls_stream: the inside of TLS, shared by tls_stream.c, tls_client.c and tls_server.c only. */
#ifndef REEVE_BASE_NET_TLS_STREAM_H
#define REEVE_BASE_NET_TLS_STREAM_H

#include "base/net/tls.h"

#include <openssl/ssl.h>

/* The settings that both sides share: TLS 1.2 or newer, no renegotiation, no compression, buffers given back
 * while idle. */
void tls_context_tune(SSL_CTX *ctx);
/* Where a verification leaves why it failed: the error of the handshake in progress; NULL when there is none
 * (any more). */
struct err *tls_handshake_err(SSL *ssl);
/* The host that a handshake in progress was started for; "" otherwise. */
const char *tls_handshake_host(SSL *ssl);
/* What the library's latest error means, for people; `peer` is "the server" or "the client". */
void tls_describe(SSL *ssl, const char *peer, struct err *err);

/* Shakes hands over `inner`. Takes `ssl` (its role is set) and `inner` over, also when it fails. `done` fires
 * exactly once, never before start has returned: code 0 and a stream with reading stopped, or E_UPSTREAM,
 * E_TIMEOUT, E_CANCELLED (after tls_handshake_cancel) with the story. `host` is copied, for messages. */
struct tls_handshake;
struct tls_handshake *tls_handshake_start(SSL *ssl, struct stream *inner, const char *host,
                                          int64_t timeout_ms, connect_done_cb done, void *data);
void tls_handshake_cancel(struct tls_handshake *h);

#endif
