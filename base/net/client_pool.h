/* client_pool: the inside of the HTTP client, shared by client.c (pool and connections) and call.c only. */
#ifndef REEVE_BASE_NET_CLIENT_POOL_H
#define REEVE_BASE_NET_CLIENT_POOL_H

#include "base/net/client.h"

#define CLIENT_HEADS_KEPT        16
#define CLIENT_OUT_MAX           ((size_t)64 << 20) /* a head with a whole body */
#define CLIENT_EARLY_BODY_MAX    ((size_t)1 << 20)  /* streamed body that waits for a connection */
#define CLIENT_IN_HIGH           ((size_t)64 << 10) /* response bytes that wait for a paused reader */
#define CLIENT_INFORMATIONAL_MAX 16
#define CLIENT_EARLY_ANSWER_MS                                                                               \
    5000 /* how long an answer may take after the server stopped taking the request */

enum client_conn_state { CLIENT_CONNECTING, CLIENT_BUSY, CLIENT_IDLE, CLIENT_CLOSED };

struct client_conn {
    struct http_pool *pool;
    enum client_conn_state state;
    struct client_conn *prev, *next; /* in pool->idle or pool->conns */
    struct stream *stream;
    void *connecting;       /* the connector's handle */
    struct http_call *call; /* NULL: idle, or its call was cancelled while connecting */
    struct buf in;          /* came, not yet used */
    struct slice window;    /* while processing: the bytes at hand */
    size_t head_scanned;
    uint64_t uses; /* exchanges before this one */
    int64_t idle_since_ms;
    bool is_processing; /* not to be freed */
    bool is_eof;        /* the server ended its half while the reader paused */
};

enum call_body { CALL_BODY_NONE, CALL_BODY_SIZED, CALL_BODY_CHUNKED, CALL_BODY_UNTIL_CLOSE };

struct http_call {
    struct http_pool *pool;
    struct http_call *prev, *next;             /* in pool->calls */
    struct http_call *queue_prev, *queue_next; /* in pool->queue */
    struct client_conn *conn;                  /* NULL: queued, or none yet */
    const struct http_call_events *events;
    void *data;

    /* the request */
    struct buf
        out; /* head and what of the body waits with it; kept while the request may have to be repeated */
    bool is_out_pending; /* not written yet */
    bool is_queued;
    bool is_idempotent, is_head, is_upgrade, is_single;
    bool is_chunked;
    uint64_t left; /* of a sized body, to come from the caller */
    bool has_body;
    bool is_request_ended;
    bool is_body_sent; /* streamed body bytes went out: not repeatable */
    bool is_unsent;    /* the very first write failed: the server saw nothing */
    bool is_repeated;
    bool is_write_broken;
    bool owes_drain;

    /* the response */
    bool has_bytes; /* its first byte came */
    bool has_head;
    bool is_keepalive;
    bool is_paused;
    enum call_body mode;
    uint64_t body_left;
    struct http_chunks chunks;
    unsigned informational;

    int64_t deadline_ms; /* on the loop's clock; 0: none */
    int64_t connect_timeout_ms, head_timeout_ms, idle_timeout_ms;

    int fail_code; /* to be told in a later turn */
    const char *fail_text;
    bool is_kicked; /* a deferred on_kick is pending: not to be freed */
    bool is_gone;
};

struct http_pool {
    struct loop *loop;
    struct connector connector;
    struct http_pool_limits limits;
    struct client_conn *idle;  /* most recently used first */
    struct client_conn *conns; /* connecting and busy */
    size_t n_idle, n_conns;    /* n_conns: all that count against the limit, idle ones too */
    size_t n_connecting;       /* opens under way, those of cancelled calls too */
    size_t n_conns_held;       /* allocated */
    struct http_call *calls, *queue;
    size_t n_queued, n_calls_held;
    struct http_call *spare;
    size_t n_spare;
    struct buf heads[CLIENT_HEADS_KEPT];
    size_t n_heads;
    struct timer timer; /* all deadlines */
    int64_t armed_ms;   /* when it fires; 0: not armed */
    bool is_closing, is_timer_closed;
    bool is_retiring; /* closes with its last call */
    void (*retired)(void *data);
    void *retired_data;
    struct http_response response; /* the head being parsed */
};

/* client.c */
int64_t pool_now(const struct http_pool *p);
void pool_arm(struct http_pool *p, int64_t at_ms);
void pool_place(struct http_pool *p,
                struct http_call *c); /* gives it a connection, or a place in the queue */
void pool_connect(struct http_pool *p, struct http_call *c); /* a fresh connection for it */
void pool_serve_queue(struct http_pool *p);
void pool_head_take(struct http_pool *p, struct buf *ret);
void pool_head_give(struct http_pool *p, struct buf *head);
struct http_call *pool_call_take(struct http_pool *p);
void pool_call_give(struct http_pool *p, struct http_call *c);
void client_conn_release(struct client_conn *k, bool is_reusable); /* its call is over */
void client_conn_drop(struct client_conn *k);                      /* closes at once, in whatever state */
void client_conn_resume(struct client_conn *k);                    /* works on what waits, reads on */
struct stream *client_conn_give_away(struct client_conn *k);       /* the upgrade: the slot is free */

/* call.c */
void call_attach(struct http_call *c,
                 struct client_conn *k); /* k is connected and idle: the request goes out */
void call_kick(struct http_call *c);
void call_fail(struct http_call *c, int code, const struct err *err); /* tells; the call is gone */
void call_fail_later(struct http_call *c, int code, const char *text);
bool call_step(struct http_call *c,
               struct client_conn *k);                    /* uses k->window; true: there may be more to do */
void call_connection_lost(struct http_call *c, int code); /* EOF is E_EOF */
void call_write_broken(struct http_call *c, int code);
void call_drained(struct http_call *c);

#endif
