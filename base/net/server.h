/* server: HTTP/1.1 connections and their exchanges (one request and its answer).
 *
 * Happy path: the handler is called with a parsed head; it reads the body or not, and answers, streaming or
 * at once; then the connection serves the next request (pipelined bytes wait, one exchange at a time).
 * Failure paths: a malformed head or body is answered with a problem and closed; a client that leaves makes
 * on_abort fire; slow heads, idle connections and stalled writers have deadlines.
 * Memory: an exchange and what its arena holds live until exchange_end (or on_abort) has been handled: after
 * either, the handler must not touch the exchange. */
#ifndef REEVE_BASE_NET_SERVER_H
#define REEVE_BASE_NET_SERVER_H

#include "base/core/arena.h"
#include "base/net/http.h"
#include "base/net/stream.h"
#include "base/net/tls.h"

struct server;
struct exchange;

struct server_limits {
    size_t head_bytes_max;        /* 0: HTTP_HEAD_BYTES_MAX */
    size_t connections_max;       /* 0: 10,000; more are closed at once */
    size_t handshakes_max;        /* TLS, in progress; 0: 512; the oldest gives way to a new one */
    int64_t handshake_timeout_ms; /* 0: 10 s */
    int64_t head_timeout_ms;      /* first byte to end of head; 0: 10 s */
    int64_t idle_timeout_ms;      /* between requests; 0: 75 s */
    int64_t write_timeout_ms;     /* a client that takes no byte for so long is dropped; 0: 60 s */
    int64_t body_timeout_ms;      /* no body byte for so long while we wait for one; 0: 60 s */
    unsigned parse_flags;         /* HTTP_ALLOW_ABSOLUTE, HTTP_ALLOW_CONNECT: for a forward proxy */
};

struct server_handler {
    /* A request whose head is parsed. The handler owns the exchange's answer from now on. */
    void (*on_request)(struct exchange *ex, void *data);
    /* A head that cannot be parsed. `out` is empty: write a whole response with Connection: close into it (or
     * leave it empty for a bare close). May be NULL: a minimal text answer. */
    void (*on_bad_request)(int code, const struct err *err, struct buf *out, void *data);
};

struct server *server_new(struct loop *l, const struct server_limits *limits,
                          const struct server_handler *handler, void *data);
int server_listen(struct server *s, const struct endpoint *at, uint16_t *ret_port, struct err *err);
/* As server_listen; clients speak TLS. `tls` must outlive the server. */
int server_listen_tls(struct server *s, const struct endpoint *at, struct tls_server *tls, uint16_t *ret_port,
                      struct err *err);
int server_listen_fd(struct server *s, int fd, struct err *err); /* adopts a listening socket (a door) */
/* Serves a stream that somebody else accepted (a sandbox's door); owns it from now on. `tag` (at most 63
 * bytes, copied) says whose it is: exchange_tag. */
void server_serve(struct server *s, struct stream *stream, struct slice tag);
struct server_tls_stats {
    uint64_t done, failed, dropped; /* handshakes; dropped: too many at once */
};
const struct server_tls_stats *server_tls_stats(const struct server *s);
/* The TCP ports that it listens on, the real ones; at most `max`. Returns how many. */
size_t server_ports(const struct server *s, uint16_t *out, size_t max);
size_t server_connections(const struct server *s); /* upgraded ones are not counted any more */
/* Stops accepting; idle connections close, others after their exchange (answers say Connection: close).
 * `drained` fires once when none is left or after deadline_ms, when what is left is reset. */
void server_drain(struct server *s, int64_t deadline_ms, void (*drained)(void *data), void *data);
void server_close(struct server *s, void (*closed)(void *data), void *data); /* resets all, frees */

/* --- exchange: request side --- */
const struct http_request *exchange_request(const struct exchange *ex); /* lives as long as the exchange */
struct arena *exchange_arena(struct exchange *ex);
struct server *exchange_server(struct exchange *ex);
void *exchange_server_data(struct exchange *ex); /* what server_new was given */
struct slice exchange_peer(struct exchange *ex); /* "127.0.0.1:5000" or "unix" */
struct slice exchange_tag(struct exchange *ex);  /* as given to server_serve; empty for listeners */

struct exchange_events {
    void (*on_body)(struct exchange *ex, struct slice bytes, void *data);
    void (*on_body_end)(struct exchange *ex, void *data);
    /* The client left, broke the framing, or stalled past a deadline. Once; the exchange is gone after it
     * returns, and whatever is done to it meanwhile is ignored. A client that ends only its own half counts
     * as gone (browsers and SDKs never do that, and a stream must not go on for nobody), unless its request
     * was the last of the connection (Connection: close, or HTTP/1.0 without keep-alive): then it is served
     * until a write fails. */
    void (*on_abort)(struct exchange *ex, void *data);
    void (*on_drain)(struct exchange *ex, void *data); /* the answer may go on after E_AGAIN */
};
/* Must be called by on_request (or before it returns to the loop) unless the exchange is answered there; an
 * exchange without on_abort stays until the handler ends it, and when the client has left, what it writes is
 * dropped. May be called again later, also after exchange_body_collect is done: the newest owner gets the
 * events. */
void exchange_own(struct exchange *ex, const struct exchange_events *events, void *data);
/* Starts (or goes on with) the body; sends 100 Continue where it is expected. on_body_end fires also without
 * a body, in a later turn. */
void exchange_body_start(struct exchange *ex);
void exchange_body_stop(struct exchange *ex);
/* Reads the whole body into memory, at most max bytes, then calls `done` once: code 0 and the body (in the
 * exchange's arena), E_TOO_LARGE (checked against Content-Length before anything is read), or E_CANCELLED
 * when the client left (the exchange is gone). Replaces exchange_own. */
typedef void (*exchange_body_cb)(struct exchange *ex, int code, struct slice body, void *data);
void exchange_body_collect(struct exchange *ex, size_t max, exchange_body_cb done, void *data);

/* --- exchange: answer side --- */
#define EXCHANGE_LENGTH_UNKNOWN UINT64_MAX
/* Begins the answer; the head is kept until the first body bytes and goes out with them in one write.
 * Content-Length, Transfer-Encoding, Connection and Date are ours: do not pass them. length: exact, or
 * EXCHANGE_LENGTH_UNKNOWN (chunked; until close for HTTP/1.0). */
int exchange_head(struct exchange *ex, int status, const struct http_header *h, size_t n, uint64_t length);
/* The reason phrase of the answer's status line; call it before exchange_head. What is not printable ASCII
 * becomes '?'. NULL: the usual one. For CONNECT, whose body clients do not show. */
void exchange_reason(struct exchange *ex, const char *reason);
/* The answer has no end of its own (an event stream): a client that ends its side has left, whatever its
 * request said about the connection. */
void exchange_endless(struct exchange *ex);
/* Sends what exchange_head kept, now (SSE). */
void exchange_flush(struct exchange *ex);
/* 0; E_AGAIN: taken, stop until on_drain; other: broken (on_abort comes). */
int exchange_write(struct exchange *ex, struct slice bytes);
/* Ends the answer. The exchange is gone. Unread request body: drained up to 64 KiB, else the connection
 * closes. */
void exchange_end(struct exchange *ex);
/* head + body + end. */
void exchange_send(struct exchange *ex, int status, const struct http_header *h, size_t n, struct slice body);
/* Breaks the connection (an answer that cannot be completed). The exchange is gone, on_abort does not fire.
 */
void exchange_abort(struct exchange *ex);
bool exchange_has_head(const struct exchange *ex); /* exchange_head was called */
void exchange_close_after(struct exchange *ex);    /* this answer says Connection: close */
/* Turns the connection into a raw stream after writing `head` (a whole 101 response). *ret_rest: bytes
 * already read behind the request head, valid until the next turn. The exchange is gone. NULL when the client
 * has left (only without an on_abort that would have said so). The stream is not reading; own it at once. */
struct stream *exchange_upgrade(struct exchange *ex, struct slice head, struct slice *ret_rest);

#endif
