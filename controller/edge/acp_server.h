/* acp_server: one server id of one workspace: whose it is, its streams, its requests in flight. Inside acp
 * only. */
#ifndef REEVE_CONTROLLER_EDGE_ACP_SERVER_H
#define REEVE_CONTROLLER_EDGE_ACP_SERVER_H

#include "base/core/hash.h"
#include "controller/edge/acp.h"

#define ACP_SERVER_ID_MAX 128
#define ACP_PENDING_MAX   64    /* requests in flight on one server id */
#define ACP_SERVERS_MAX   20000 /* remembered; idle ones beyond are forgotten (their records stay) */
#define ACP_STREAMS_MAX   16    /* clients' streams on one server id */
#define ACP_IDS_MAX       10000 /* server ids of one workspace that have an owner */
#define ACP_ENVELOPE_MAX  ((size_t)8 * 1024 * 1024) /* an answer or event of the server inside */

struct acp_stream;
struct acp_post;

/* A JSON-RPC request that was passed on and has no answer yet. */
struct acp_pending {
    char *id;              /* JSON text */
    struct acp_post *post; /* that brought it, while it lives */
    struct acp_pending *prev, *next;
};

struct acp_server {
    struct acp *acp;
    char key[40 + 1 + ACP_SERVER_ID_MAX + 1]; /* "<workspace id>/<server id>" */
    char workspace_id[40];
    char tenant_id[16];
    char id[ACP_SERVER_ID_MAX + 1];
    char subject[160]; /* "" until it is known to be claimed */
    struct acp_stream *streams;
    unsigned n_live; /* clients' streams that the server inside feeds */
    struct acp_post *posts;
    struct acp_pending *pending;
    size_t n_pending;
    struct buf late; /* errors for requests whose POST was answered and that no stream could take yet */
    bool is_dead;    /* its agent exited: only a POST that may make it anew is passed on */
    unsigned busy;   /* somebody up the stack still needs it */
    UT_hash_handle hh;
};

struct acp {
    struct controller *c;
    struct acp_server *servers;
    bool is_closed;
};

struct acp_server *acp_server_find(struct acp *a, const char *workspace_id, struct slice id); /* or NULL */
struct acp_server *acp_server_get(struct acp *a, const char *tenant_id, const char *workspace_id,
                                  struct slice id);
void acp_server_maybe_free(struct acp_server *s); /* forgets it when it is idle and there are too many */

/* Whose is it? `may_take`: a POST makes it the subject's when it is nobody's (durable before `done`). Code 0:
 * the subject's; E_NOT_FOUND: nobody's yet (only without may_take); E_FORBIDDEN: another's; E_STORE…. The
 * holder tells whether the caller is still there. */
typedef void (*acp_claim_cb)(int code, const struct err *err, void *data);
void acp_server_claim(struct acp *a, const char *tenant_id, const char *workspace_id, struct slice id,
                      const char *subject, bool may_take, acp_claim_cb done, void *data);
/* Removes the record; the id may be taken anew. */
void acp_server_unclaim(struct acp *a, const char *tenant_id, const char *workspace_id, struct slice id);

/* NULL: in flight already, or too many. */
struct acp_pending *acp_pending_add(struct acp_server *s, struct slice id, struct acp_post *post);
void acp_pending_drop(struct acp_server *s, struct acp_pending *p);
/* Its answer was seen on a stream: it is not in flight any more, and its POST ends. */
void acp_pending_answered(struct acp_server *s, struct slice id, struct slice envelope);
/* A stream of it is fed: requests that wait may be answered 202. */
void acp_server_attached(struct acp_server *s);
/* The agent or its server is gone: every request in flight gets this error. */
void acp_server_fail(struct acp_server *s, const struct err *err);
/* Tells the client about one request whose POST was answered already. */
void acp_server_error(struct acp_server *s, struct slice id, const struct err *err);

/* acp.c: ends the session inside, with nobody waiting: an agent that exited leaves a corpse that answers 502.
 */
void acp_server_bury(struct acp_server *s);
/* acp_post.c */
void acp_post_start(struct request *rq, const struct proxy_target *to, struct acp_server *s);
void acp_post_attached(struct acp_post *p);                        /* answer 202 if that is due */
void acp_post_answered(struct acp_post *p, struct slice envelope); /* its answer came on a stream; frees it */
void acp_post_fail(struct acp_post *p, const struct err *err); /* answer with the error if it still waits */
/* acp_stream.c */
void acp_stream_start(struct request *rq, struct acp_server *s); /* counted by streams_enter before */
void acp_stream_watch(struct acp_server *s);   /* without a client: only to see the agent's end */
void acp_stream_unwatch(struct acp_server *s); /* the watcher is not needed any more */
bool acp_stream_send(struct acp_stream *st, struct slice event); /* whole events; false: it has no client */
bool acp_stream_has_client(const struct acp_stream *st);         /* else it is a watcher */
struct acp_stream *acp_stream_next(const struct acp_stream *st);
struct acp_post *acp_post_next(const struct acp_post *p);
void acp_stream_free_all(struct acp_server *s);
void acp_post_free_all(struct acp_server *s);

#endif
