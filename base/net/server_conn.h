/* server_conn: the inside of the HTTP server, shared by server.c, server_conn.c and exchange.c only.
 *
 * A connection (server_conn) parses what comes in and holds at most one exchange. An exchange may outlive its
 * connection when the client left and nobody asked to be told: then `conn` is NULL and all it does is
 * ignored. */
#ifndef REEVE_BASE_NET_SERVER_CONN_H
#define REEVE_BASE_NET_SERVER_CONN_H

#include "base/net/server.h"

#define SERVER_SKIP_MAX                                                                                      \
    ((size_t)64 << 10)             /* unread request body that is read and dropped to keep a connection */
#define SERVER_LINGER_MS      5000 /* a closing connection's peer may take so long to read the answer */
#define SERVER_HEADS_PER_TURN 16   /* of one connection: a client that pipelines does not stop the loop */
#define SERVER_IN_HIGH        ((size_t)64 << 10) /* bytes that wait for a handler: reading stops there */
#define SERVER_HEADS_KEPT     16
#define SERVER_HEAD_OUT_MAX   ((size_t)256 << 10)

enum conn_state {
    CONN_WAITING,   /* for a request, or in its head */
    CONN_EXCHANGE,  /* a handler has it */
    CONN_SKIPPING,  /* answered; the rest of the request body is dropped */
    CONN_FLUSHING,  /* closes when the queue is written */
    CONN_LINGERING, /* our half is shut; what comes is dropped until the peer ends, so that no reset eats the
                       answer */
    CONN_CLOSED
};

struct server_conn {
    struct server *server;
    struct stream *stream; /* NULL after an upgrade */
    struct server_conn *prev, *next;
    struct exchange *ex; /* CONN_EXCHANGE only */
    enum conn_state state;

    struct buf in;       /* came, not yet used */
    struct slice window; /* while processing: the bytes at hand */
    size_t head_scanned; /* for http_parse_request */
    unsigned n_turn;     /* heads since the last kick */
    bool is_processing;  /* conn_process is on the stack: not to be freed */
    bool is_kicked;      /* a deferred on_kick is pending: not to be freed */
    bool is_expired;     /* a deadline passed: the kick ends it */
    bool is_eof;         /* the client ended its half */
    bool must_linger;

    /* the request body */
    bool is_body_done, is_body_chunked;
    uint64_t body_left; /* with a length */
    struct http_chunks chunks;
    size_t skip_left; /* CONN_SKIPPING: bytes that we still take */

    int64_t active_ms;  /* the last byte came in */
    int64_t since_ms;   /* the head, the skipping or the lingering began */
    size_t queued_seen; /* stall detection: queue length at the last change */
    int64_t queued_ms;  /* when that was */
    char *peer;         /* cached text; NULL: not asked yet */
    char *tag;          /* NULL: none */
};

enum answer_mode { ANSWER_NONE, ANSWER_SIZED, ANSWER_CHUNKED, ANSWER_UNTIL_CLOSE };

struct exchange {
    struct server *server;
    struct server_conn *conn; /* NULL: the client is gone */
    struct exchange *next_spare;
    const struct exchange_events *events;
    void *data;
    exchange_body_cb collect; /* exchange_body_collect in progress */
    void *collect_data;
    size_t collect_max;
    struct buf body; /* collected */
    struct buf head; /* the answer's, not yet written */
    uint64_t left;   /* of a sized answer */
    enum answer_mode mode;
    bool has_head;
    bool is_head_pending;
    bool is_close;   /* Connection: close after this answer */
    bool is_endless; /* exchange_endless was called */
    bool is_broken;  /* the answer cannot be completed */
    bool wants_body;
    bool is_body_end_told;
    bool is_refused; /* the collector's limit is below Content-Length: say so in a later turn */
    bool is_continue_sent;
    bool is_aborting;       /* inside on_abort: the handler's calls are ignored */
    bool is_abort_deferred; /* owned after the client had left: on_abort comes */
    bool is_ended;          /* ended while is_abort_deferred */
    struct arena arena;
    struct slice peer;           /* once the client left */
    char *tag;                   /* in the arena; NULL: none */
    char *reason;                /* in the arena; NULL: the usual phrase */
    struct http_request request; /* last: not cleared between uses */
};

/* A client that shakes hands: not a connection yet. */
struct server_handshake {
    struct server_handshake *prev, *next;
    struct server *server;
    struct tls_handshake *handshake;
    bool is_given_up;
};

struct server_listener {
    struct server_listener *next;
    struct server *server;
    struct tls_server *tls;    /* NULL: plain */
    struct listener *listener; /* NULL: closing */
};

struct server {
    struct loop *loop;
    struct server_limits limits;
    struct server_handler handler;
    void *data;
    struct server_listener *listeners;
    size_t n_listeners;                  /* not yet closed */
    struct server_conn *conns;           /* live */
    size_t n_conns;                      /* live */
    size_t n_conns_held;                 /* allocated */
    struct server_handshake *handshakes; /* oldest first */
    size_t n_handshakes;                 /* those given up and not yet gone, too */
    struct server_tls_stats tls_stats;
    size_t n_exchanges;     /* in handlers' hands */
    struct exchange *spare; /* exchanges to use again */
    size_t n_spare;
    struct buf heads[SERVER_HEADS_KEPT]; /* head buffers to use again */
    size_t n_heads;
    struct timer sweep; /* all deadlines of all connections */
    struct timer drain_deadline;
    bool has_sweep, is_sweeping, is_draining, is_closing, is_settling;
    void (*drained)(void *data);
    void *drained_data;
    void (*closed)(void *data);
    void *closed_data;
    int64_t date_s; /* second of `date` */
    char date[32];  /* IMF-fixdate */
};

/* server.c */
int64_t server_now(const struct server *s);
struct exchange *server_exchange_take(struct server *s);
void server_exchange_give(struct server *s, struct exchange *ex);
void server_head_take(struct server *s, struct buf *ret);
void server_head_give(struct server *s, struct buf *head);
struct slice server_date(struct server *s);
void server_settle(struct server *s); /* something ended: drained? closed? */

/* server_conn.c */
void server_conn_start(struct server *s, struct stream *stream, struct slice tag);
void server_conn_kick(struct server_conn *c); /* looks again at what there is to do, in a later turn */
void server_conn_close(struct server_conn *c, bool is_reset); /* `c` may be gone after it */
void server_conn_answered(struct server_conn *c, bool is_close);
void server_conn_check(struct server_conn *c, int64_t now);    /* deadlines */
struct slice server_conn_waiting(const struct server_conn *c); /* bytes that came and were not used */
const char *server_conn_peer(struct server_conn *c);

/* exchange.c */
void exchange_deliver(struct exchange *ex, struct slice bytes);
void exchange_deliver_end(struct exchange *ex);
void exchange_deliver_refusal(struct exchange *ex);
void exchange_client_left(struct exchange *ex); /* conn is NULL already */

#endif
