/* tls: TLS 1.2 and 1.3 on top of any stream, by OpenSSL, which never sees a socket.
 *
 * A TLS stream is a stream (stream.h) like any other. An end that the peer did not announce (close_notify) is
 * on_error E_IO, never on_eof: who can reach the wire cannot make a cut answer look complete. stream_shutdown
 * announces our end and leaves the other half open. */
#ifndef REEVE_BASE_NET_TLS_H
#define REEVE_BASE_NET_TLS_H

#include "base/net/client.h"

struct tls_handshake; /* in progress */
/* `done` still fires, with E_CANCELLED, in a later turn. */
void tls_handshake_cancel(struct tls_handshake *h);

/* --- client --- */

/* Whom we believe. */
struct tls_trust;
/* `ca_pem`: the certificates that vouch for servers, and no others; empty: the system's. Reads files in the
 * latter case: call it at the start and on reload. 0 or E_INVALID with a sentence. */
int tls_trust_new(struct slice ca_pem, struct tls_trust **ret, struct err *err);
/* False when the system's list on disk is not the one that was read (reading it takes some 20 ms). */
bool tls_trust_is_current(const struct tls_trust *t);
void tls_trust_free(struct tls_trust *t); /* NULL is fine */

/* A connector that speaks TLS over another: to one server, whose certificate must be valid for `host` (a DNS
 * name, or an IPv4 or IPv6 address without brackets). There is no way to leave the verification out. The
 * connect timeout covers both. A failure says whose certificate is refused and why. Sessions are resumed with
 * the same connector only. */
struct connector_tls {
    struct connector connector;
    struct connector below;
    struct tls_client *client; /* owned */
};
/* Copies `below` and `host`; `trust` may be freed afterwards. */
void connector_tls_init(struct connector_tls *c, const struct connector *below, const struct tls_trust *trust,
                        const char *host);
/* From now on the server is verified against another list; what is connected stays. */
void connector_tls_trust(struct connector_tls *c, const struct tls_trust *trust);
/* Connections and handshakes under way live on. */
void connector_tls_fini(struct connector_tls *c);

/* --- server --- */

/* A certificate with those that lead from it to its root, and its key, as PEM. */
struct tls_pair {
    struct slice cert_pem, key_pem;
};
#define TLS_PAIRS_MAX 64

/* What a listener shows: one certificate or several, the first whose names include what the client asks for
 * (SNI), otherwise the very first. Sessions are resumed by tickets under keys that change every 12 hours and
 * never leave the process. */
struct tls_server;
/* 0; or E_INVALID with a sentence. Copies what it needs. */
int tls_server_new(const struct tls_pair *pairs, size_t n, struct tls_server **ret, struct err *err);
/* From now on these are shown; connections and handshakes under way go on, tickets of before are not taken.
 * After an error all is as it was. */
int tls_server_replace(struct tls_server *s, const struct tls_pair *pairs, size_t n, struct err *err);
/* No handshake may be in progress. */
void tls_server_free(struct tls_server *s);
/* Shakes hands with a client that has just connected; owns `inner` from now on. `done` fires exactly once,
 * never before the call returns: code 0 and a TLS stream with reading stopped, or why not (the connection is
 * closed then). */
struct tls_handshake *tls_server_accept(struct tls_server *s, struct stream *inner, int64_t timeout_ms,
                                        connect_done_cb done, void *data);

#endif
