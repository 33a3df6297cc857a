/* client: a streaming HTTP/1.1 client with a pool of kept-alive connections to one origin.
 *
 * A call's `done`-like event (on_end or on_error) fires exactly once, never before http_call_start has
 * returned. A connection is reused only if the exchange is provably complete and nothing unread remains. A
 * reused connection that turns out dead before any response byte is replaced once, when nothing of the body
 * was sent or the whole request is still in memory; never silently for a non-idempotent request whose body
 * went out. */
#ifndef REEVE_BASE_NET_CLIENT_H
#define REEVE_BASE_NET_CLIENT_H

#include "base/net/http.h"
#include "base/net/stream.h"

/* How a pool gets connections: TCP, unix, or a socket from inside a sandbox. `done` exactly once, never
 * before open returns. `open` returns a handle for cancel (after which done fires with E_CANCELLED). */
struct connector {
    void *(*open)(const struct connector *c, struct loop *l, int64_t timeout_ms, connect_done_cb done,
                  void *data);
    void (*cancel)(const struct connector *c, void *handle);
    void *data;
};
struct connector_endpoint {
    struct connector connector;
    struct endpoint to;
};
void connector_endpoint_init(struct connector_endpoint *c, const struct endpoint *to);

struct http_pool;
struct http_pool_limits {
    size_t connections_max;  /* 0: 256; calls beyond wait in a queue */
    size_t connecting_max;   /* under way at once; 0: 32 */
    size_t queue_max;        /* 0: 1,024; beyond: E_UNAVAILABLE */
    size_t idle_max;         /* 0: 256 */
    int64_t idle_timeout_ms; /* 0: 30 s */
};
struct http_pool *http_pool_new(struct loop *l, const struct connector *c,
                                const struct http_pool_limits *limits);
void http_pool_close(
    struct http_pool *p); /* calls in flight fail with E_CANCELLED; frees when they are gone */
/* Takes no new calls and keeps no connection; those in flight or in the queue go on to their end. Then it
 * frees itself and `retired` (may be NULL) fires, in a later turn. The connector's data must live until then.
 */
void http_pool_retire(struct http_pool *p, void (*retired)(void *data), void *data);
void http_pool_drop_idle(struct http_pool *p); /* the server was restarted: kept connections are stale */

struct http_call; /* opaque; valid from start until on_end/on_error has returned, or http_call_cancel */

struct http_call_events {
    void (*on_head)(struct http_call *c, const struct http_response *r, void *data); /* not for 1xx but 101 */
    void (*on_body)(struct http_call *c, struct slice bytes, void *data);
    void (*on_end)(struct http_call *c, void *data); /* complete */
    void (*on_error)(struct http_call *c, int code, const struct err *err,
                     void *data);                         /* before or after on_head */
    void (*on_drain)(struct http_call *c, void *data);    /* the request body may go on after E_AGAIN */
    void (*on_continue)(struct http_call *c, void *data); /* 100 Continue arrived; may be NULL */
    /* 101: the stream is the owner's now, `rest` was read behind the head; the call is gone. NULL: 101 is an
     * error. */
    void (*on_upgrade)(struct http_call *c, const struct http_response *r, struct stream *s,
                       struct slice rest, void *data);
};

struct http_call_options {
    struct slice method, target;
    const struct http_header
        *headers; /* Content-Length, Transfer-Encoding and Connection are ours; Host is yours */
    size_t n_headers;
    bool has_body;
    uint64_t length;   /* exact, or HTTP_CALL_CHUNKED */
    struct slice body; /* when .n > 0 the whole body, sent with the head; http_call_end is then implied */
    bool is_upgrade;   /* sends Connection: Upgrade; pass the Upgrade header yourself */
    bool is_single;    /* do not put the connection back (Connection: close) */
    int64_t connect_timeout_ms; /* 0: 5 s; includes waiting in the queue */
    int64_t head_timeout_ms;    /* from the end of the request to the response head; 0: none */
    int64_t idle_timeout_ms;    /* between body bytes; 0: none */
};
#define HTTP_CALL_CHUNKED UINT64_MAX

/* Copies what it needs. Never fails at once: errors come by on_error. */
struct http_call *http_call_start(struct http_pool *p, const struct http_call_options *o,
                                  const struct http_call_events *events, void *data);
/* 0; E_AGAIN: taken, stop until on_drain (also while connecting); other: broken, on_error comes. When the
 * server takes no more it is E_AGAIN without on_drain: its early answer (413), or on_error, comes within
 * seconds. */
int http_call_write(struct http_call *c, struct slice bytes);
void http_call_end(struct http_call *c);   /* the request body is complete */
void http_call_pause(struct http_call *c); /* stop reading the response */
void http_call_resume(struct http_call *c);
/* Ends it at once: closes its connection; no event fires any more; the call is gone. */
void http_call_cancel(struct http_call *c);

#endif
