/* account: what a workspace, or a tenant as a whole, has sent and received through the way out, and how much
 * more it may. All in memory; the bytes are metered into the ledger by egress. */
#ifndef REEVE_CONTROLLER_EDGE_ACCOUNT_H
#define REEVE_CONTROLLER_EDGE_ACCOUNT_H

#include "base/core/hash.h"
#include "controller/edge/verdict.h"

#define DECISIONS_MAX 64 /* kept of one workspace; the same one again only counts */

enum decision_kind { DECISION_ALLOWED, DECISION_REFUSED, DECISION_FAILED, DECISION_CUT };
#define DECISION_KINDS 4
const char *decision_name(enum decision_kind k);

struct decision {
    int64_t first_ms, last_ms; /* wall */
    uint64_t count;
    enum decision_kind kind;
    char target[TARGET_TEXT_MAX];
    char reason[32];
    char rule[160]; /* as written; "" */
    unsigned line;  /* of the rule; 0: none */
    char text[512];
};

/* Tokens that come back with time; may be overdrawn. */
struct bucket {
    int64_t left; /* thousandths */
    int64_t at_ms;
    bool is_used;
};

struct account {
    char key[72]; /* workspace id, or tenant's name */
    struct config_egress_limits limits;
    size_t n_open;
    struct bucket opens, bytes;
    int64_t window_at; /* number of the window that window_bytes counts */
    uint64_t window_bytes;
    uint64_t bytes_in, bytes_out; /* since the process started */
    uint64_t by_kind[DECISION_KINDS];
    struct decision *decisions; /* of a workspace; NULL: none yet */
    size_t n_decisions;
    /* of a workspace: whose bytes they are, as usage has it; ours */
    char *tenant, *namespace, *workspace, *user;
    uint64_t posted_in, posted_out;   /* of bytes_in and bytes_out, in the ledger */
    uint64_t posting_in, posting_out; /* under way, or to be sent again */
    int64_t posting_from_ms, posting_to_ms;
    int64_t metered_ms; /* wall: up to where bytes were posted */
    bool is_posting;
    bool has_posting;     /* what is in posting_* is not yet known to be in the ledger */
    bool is_gone;         /* the workspace is: freed when all is settled */
    struct bucket audits; /* entries are rationed; `left` counts whole ones */
    uint64_t audits_left_out;
    UT_hash_handle hh;
};

/* May one more be opened? 0 and it is counted (account_closed takes it back); or E_RATE, E_QUOTA with a
 * sentence that names the limit. `whose`: "this workspace", "tenant acme"; `line`: where its limits stand in
 * the configuration. */
int account_open(struct account *a, const char *whose, unsigned line, int64_t mono_ms, int64_t wall_ms,
                 const char **ret_reason, struct err *err);
void account_closed(struct account *a);
/* Bytes passed, in either direction. */
void account_charge(struct account *a, size_t bytes, int64_t mono_ms, int64_t wall_ms);
/* Must wait before it moves more bytes. */
bool account_is_overdrawn(struct account *a, int64_t mono_ms);
/* Nothing more in this window. */
bool account_is_exhausted(struct account *a, int64_t wall_ms);
/* Notes it; true when it is worth an audit entry (rationed). *ret_left_out: so many before it were not. */
bool account_note(struct account *a, enum decision_kind kind, const struct target *t, const struct verdict *v,
                  int64_t mono_ms, int64_t wall_ms, uint64_t *ret_left_out);
void account_fini(struct account *a);

#endif
