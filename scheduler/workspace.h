/* workspace: the durable record and its life as a table of legal moves.
 *
 * Where it lives in the store: partition = the tenant's id (config_tenant.id), record
 * `ws/<namespace>/<name>`; a home that outlived its workspace `home/<namespace>/<name>`; counters
 * `count/workspaces`, `count/running` and `count/running/<namespace>`. Every change of state or reason is
 * appended, in the commit that makes it, to the log `events/<workspace id>`: {"time":"<RFC
 * 3339>","state":"ready","reason":"…"}; the entry's number is event_seq. The last entry of a workspace says
 * "absent". */
#ifndef REEVE_SCHEDULER_WORKSPACE_H
#define REEVE_SCHEDULER_WORKSPACE_H

#include "base/core/arena.h"
#include "base/core/json.h"
#include "base/net/client.h"

enum workspace_state {
    WS_ABSENT,
    WS_PROVISIONING,  /* the provider is making the sandbox */
    WS_BOOTSTRAPPING, /* the sandbox runs; waiting for a healthy server */
    WS_READY,
    WS_SUSPENDED,
    WS_DELETING,
    WS_FAILED, /* with the reason; retried with backoff when it can pass */
};
enum workspace_wish { WISH_RUNNING, WISH_SUSPENDED, WISH_DELETED };
/* Who put it to sleep decides whether traffic wakes it. */
enum suspend_cause { SUSPEND_NONE, SUSPEND_IDLE, SUSPEND_OPERATOR, SUSPEND_BUDGET };

const char *workspace_state_name(enum workspace_state s);
int workspace_state_parse(struct slice s, enum workspace_state *ret);
bool workspace_move_is_legal(enum workspace_state from, enum workspace_state to); /* the table */

struct workspace_pair {
    struct slice name, value;
};

/* What others read of a workspace. Everything lives in the workspace's memory; read-only outside scheduler/.
 */
struct workspace {
    char id[40];                          /* "ws_…" */
    struct slice tenant, namespace, name; /* tenant: its configured name */
    struct slice template, provider, user;
    struct workspace_pair *labels, *env;
    size_t n_labels, n_env;
    uint64_t generation; /* of the sandbox: grows with every new sandbox */
    uint64_t attempt;
    enum workspace_wish wish;
    enum suspend_cause suspend_cause;
    enum workspace_state state;
    const char *reason;      /* why it is failed, or waits; "" otherwise; never NULL */
    struct slice sandbox_id; /* "" while there is none */
    int64_t created_at_ms, updated_at_ms, ready_at_ms, retry_at_ms;
    uint64_t version;         /* of the record in the store */
    uint64_t event_seq;       /* number of its last state event */
    char server_token[80];    /* of the server inside; never shown */
    struct http_pool *server; /* to the server inside; NULL unless the sandbox runs */
    char llm_key_hash[65];
};

/* Name of its log of events in the tenant's partition. */
#define WORKSPACE_EVENTS_MAX 64
void workspace_events_log(const struct workspace *ws, char out[WORKSPACE_EVENTS_MAX]); /* "events/<id>" */

/* The public JSON of a workspace (contract: GET /v1/workspaces/…). No secrets. */
void workspace_json(const struct workspace *ws, struct slice public_url, struct jsonw *w);

#endif
