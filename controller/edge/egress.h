/* egress: the way out of sandboxes: decides, connects to the very address that was judged, counts, and cuts
 * what a new configuration no longer allows.
 *
 * Default: deny. docs/egress.md has the rules. Whoever opens a connection gets a stream that already counts,
 * throttles, and reads the TLS hello. */
#ifndef REEVE_CONTROLLER_EDGE_EGRESS_H
#define REEVE_CONTROLLER_EDGE_EGRESS_H

#include "base/net/client_hello.h"
#include "controller/controller.h"
#include "controller/edge/account.h"

struct egress;
struct egress_open;

struct egress *egress_new(struct controller *c);
/* The configuration changed: connections are judged anew. */
void egress_reload(struct egress *e);
/* The workspace is gone: its connections end, its account is settled. */
void egress_workspace_gone(struct egress *e, const char *workspace_id);
/* Cuts all. `closed` fires once, when nothing is left. Nothing is opened any more. */
void egress_close(struct egress *e, void (*closed)(void *data), void *data);

struct egress_answer {
    int code; /* 0; E_FORBIDDEN: a rule refuses; E_RATE, E_QUOTA: a limit; E_UPSTREAM, E_TIMEOUT: it cannot be
                 resolved or reached; E_UNAUTHENTICATED: no such workspace; E_UNAVAILABLE */
    struct stream *stream;           /* the caller's, when code is 0; NULL from egress_why */
    const struct verdict *verdict;   /* valid during the callback */
    const struct address *addresses; /* what was judged */
    size_t n_addresses;
    const struct err *err;
};
typedef void (*egress_done_cb)(const struct egress_answer *a, void *data);
/* `done` fires exactly once, never before this has returned; after egress_cancel it does not fire. */
struct egress_open *egress_open(struct egress *e, struct slice workspace_id, const struct target *t,
                                egress_done_cb done, void *data);
/* Decides as egress_open would, but connects to nothing and counts nothing. */
struct egress_open *egress_why(struct egress *e, struct slice workspace_id, const struct target *t,
                               egress_done_cb done, void *data);
void egress_cancel(struct egress_open *o);

/* NULL: it never used the way out. */
const struct account *egress_account(const struct egress *e, const char *workspace_id);

/* For /metrics. */
struct egress_stats {
    uint64_t by_kind[DECISION_KINDS];
    uint64_t bytes_in, bytes_out;
    size_t open;
};
const struct egress_stats *egress_stats(const struct egress *e);

/* --- egress_meter.c: bytes to the ledger --- */
struct egress_meter {
    struct egress *egress;
    struct billing *billing;
    struct loop *loop;
    struct account **accounts; /* of workspaces */
    struct timer timer;
    bool has_timer;
    size_t n_posting;
};
void egress_meter_init(struct egress_meter *m, struct egress *e, struct controller *c,
                       struct account **accounts);
void egress_meter_moved(struct egress_meter *m);                   /* bytes passed: they will be posted */
void egress_meter_post(struct egress_meter *m, struct account *a); /* now, if there is something */
void egress_meter_close(struct egress_meter *m); /* posts all once more; egress_settled when it is done */
bool egress_meter_is_settled(const struct account *a);    /* nothing to post, nothing under way */
void egress_settled(struct egress *e, struct account *a); /* egress.c: a posting has ended; a may be freed */

/* --- egress_stream.c: an open connection, as a stream over the one to the outside --- */

struct egress_stream {
    struct stream base; /* first */
    struct stream *inner;
    struct egress *egress;
    struct account *workspace, *tenant; /* count it as open */
    struct target target;
    struct address address;        /* connected to */
    int64_t active_ms, touched_ms; /* monotonic: bytes passed; the workspace was told so */
    enum network_sni sni;
    bool is_tls_port;
    struct buf hello; /* what the client sent, until its ClientHello is whole and answered */
    int64_t hello_ms; /* when its first byte came */
    bool awaits_hello;
    bool awaits_answer; /* the server's, to the hello: what comes meanwhile is held back in `hello` */
    bool is_second;     /* the hello that is awaited: the server asked for another */
    char answer[SERVER_HELLO_BYTES];
    size_t n_answer;
    bool wants_read;
    bool is_throttled; /* waits for tokens */
    bool owes_drain;
    bool inner_is_full;                /* its on_drain will come */
    bool is_cut, is_broken, is_closed; /* broken: on_error is due or was told */
    bool is_cut_untold;                /* broken before it had an owner */
    struct egress_stream *prev, *next; /* all that are open */
};

/* The inner stream is its own from now on. The accounts outlive it. */
struct egress_stream *egress_stream_new(struct egress *e, struct account *workspace, struct account *tenant,
                                        const struct target *t, const struct address *at,
                                        enum network_sni sni, bool is_tls_port, struct stream *inner);
/* Ends it as if it had broken: the owner's on_error comes, later. */
void egress_stream_cut(struct egress_stream *s);
/* There are tokens again. */
void egress_stream_go_on(struct egress_stream *s);

/* egress.c, for egress_stream.c */
void egress_moved(struct egress_stream *s, size_t in, size_t out); /* bytes passed */
bool egress_must_wait(struct egress_stream *s);                    /* then egress_stream_go_on comes */
/* The hello is not what the rules want: notes it and cuts. */
void egress_hello_refused(struct egress_stream *s, const char *reason, const char *text);
void egress_ended(struct egress_stream *s); /* it leaves the list, its slots are free */

#endif
