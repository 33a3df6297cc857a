/* billing: the counting-house. Usage events in; one exact ledger, budgets and exports out.
 *
 * Happy path of a batch: a gateway's dialect becomes usage events; each is attributed by the hash of the key
 * it was made with, priced, deduplicated, and posted: ledger entry + deduplication record + every counter it
 * moves, in one commit per tenant. Failure paths: what cannot be attributed or priced goes to suspense, a
 * changed repetition is a conflict (suspense, counted against the budget), a failed commit answers 5xx and
 * the repetition finds the others done. */
#ifndef REEVE_BILLING_BILLING_H
#define REEVE_BILLING_BILLING_H

#include "base/core/json.h"
#include "base/store/store.h"
#include "billing/amount.h"
#include "config/tenancy.h"

struct billing;

/* Who a workspace's LLM key belongs to, as recorded in partition `fleet` under llmkey/<hex hash> by the
 * scheduler's credential code (see billing_key_put) and kept after revocation. */
struct billing_key_owner {
    struct slice tenant, namespace, workspace, workspace_id, user; /* workspace: its name */
    struct slice gateway;
    bool is_revoked;
    int64_t made_at_ms;
};
/* One store op that puts the record of a key (for a commit in partition "fleet"); texts go into the arena. */
struct store_op billing_key_op(struct arena *a, const char *hash_hex, const struct billing_key_owner *owner);
/* 0 and the owner (slices into the arena) or E_INVALID. */
int billing_key_parse(struct arena *a, struct slice record, struct billing_key_owner *ret);
/* Does this gateway vouch for a key of that tenant? The one that the key was made for always does; after a
 * change in the configuration also the one that the tenant's calls go to now. */
bool billing_key_is_at(const struct tenancy *t, struct slice key_gateway, struct slice tenant,
                       struct slice gateway);
void billing_key_name(const char *hash_hex, char out[128]); /* "llmkey/<hex>" */

/* `tenancy` gives prices and budgets; billing keeps its own reference. E_INVALID with problems for a bad
 * price file. */
int billing_open(struct loop *l, struct store *s, struct tenancy *t, struct config_problems *problems,
                 struct billing **ret);
/* Loads the counters of the present windows of every budget, so that billing_gate answers from memory. */
typedef void (*billing_done_cb)(int code, const struct err *err, void *data);
void billing_start(struct billing *b, billing_done_cb done, void *data);
/* Checks the price file of a new tenancy without taking it; then takes it (loading windows it does not know).
 */
int billing_check(struct tenancy *t, struct config_problems *problems);
void billing_reload(struct billing *b, struct tenancy *t, billing_done_cb done, void *data);
void billing_close(struct billing *b);

/* --- usage --- */
#define BILLING_BATCH_MAX 1000
struct billing_rejected {
    size_t index;     /* in the batch */
    const char *code; /* "conflict", "unknown_key", "unpriced", "out_of_horizon", "overflow", "invalid" */
    const char *detail;
};
struct billing_batch_answer {
    int code; /* 0; E_STORE, E_NO_SPACE, E_UNAVAILABLE, E_DRAINING: send all again; E_INVALID, E_TOO_LARGE:
                 the body as a whole (err names the field); E_NOT_IMPLEMENTED: no dialect for this kind of
                 gateway */
    size_t accepted, duplicates;
    const struct billing_rejected *rejected; /* each of them is in suspense, but for "invalid" */
    size_t n_rejected;
    const struct err *err;
};
typedef void (*billing_batch_cb)(const struct billing_batch_answer *a, void *data);
/* The body of POST /v1/gateways/{gateway}/usage in the gateway's dialect (docs/billing.md, docs/litellm.md),
 * piece by piece: of what the dialect does not need (prompts, answers) nothing is kept. `g` must live until
 * it is posted or freed. */
struct billing_report;
struct billing_report *billing_report_new(struct billing *b, const struct config_gateway *g);
void billing_report_free(struct billing_report *r);                /* NULL is fine */
uint64_t billing_report_bytes_max(const struct billing_report *r); /* of a body as it comes, packed or not */
/* 0; or what the post would end with: E_SYNTAX, E_TOO_LARGE, E_NOT_IMPLEMENTED. */
int billing_report_feed(struct billing_report *r, struct slice bytes, struct err *err);
/* The body is complete. Frees the report. */
void billing_report_post(struct billing_report *r, billing_batch_cb cb, void *data);
/* All of it at once. Copied. */
void billing_usage_post(struct billing *b, const struct config_gateway *g, struct slice body,
                        billing_batch_cb cb, void *data);

/* --- bytes of the way out --- */
struct billing_egress {
    struct slice tenant, namespace, workspace, workspace_id, user;
    uint64_t bytes_in, bytes_out; /* in (from_ms, to_ms] of the wall clock */
    int64_t from_ms, to_ms;
};
/* An entry of the ledger without a price, and the day's usage. (workspace_id, from_ms) is its identity: the
 * same once more, within a day, changes nothing and succeeds. 0; E_NOT_FOUND: no such tenant; else send it
 * again. */
void billing_egress_post(struct billing *b, const struct billing_egress *e, billing_done_cb done, void *data);

/* --- budgets --- */
struct billing_budget_view {
    struct slice name, timezone;
    enum budget_scope scope;
    struct slice namespace; /* of the instance; empty for the tenant's */
    struct amount limit, spent, held, unsettled,
        remaining; /* unsettled: conflicts and priced suspense, counted */
    enum budget_window window;
    int64_t window_start_ms, window_end_ms;
    bool is_tenants;  /* set by the tenant itself, else by the operator */
    bool is_override; /* set over the API, in place of file_limit if has_file */
    bool has_file;    /* the configuration file has it */
    struct amount file_limit;
};
/* Texts in a view are valid until the loop's next turn.
 *
 * From memory, no I/O: 0, or E_BUDGET with a message that names budget, limit, spent and window end;
 * *ret_view is the tightest budget that applies; its name is empty when none does. E_UNAVAILABLE: cannot
 * tell. */
int billing_gate(struct billing *b, struct slice tenant, struct slice namespace,
                 struct billing_budget_view *ret_view, struct err *err);
/* May a call of this model be made? 0, or E_FORBIDDEN naming it: it has no price, and the configuration says
 * `unpriced: deny`. From memory. */
int billing_admit_model(struct billing *b, struct slice model, struct err *err);
/* True when models without a price are refused. */
bool billing_wants_model(const struct billing *b);
/* The tenant's budgets, from memory, one view each; what is counted for each namespace apart has no sums
 * here. Returns how many were written to out (<= max). */
size_t billing_budgets(struct billing *b, struct slice tenant, struct billing_budget_view *out, size_t max);
#define BILLING_BUDGETS_MAX 200 /* of one tenant */
/* One of them, for a namespace when it is counted for each (SLICE_EMPTY: without sums). 0 or E_NOT_FOUND. */
int billing_budget_find(struct billing *b, struct slice tenant, struct slice name, struct slice namespace,
                        struct billing_budget_view *ret);

#define BILLING_INSTANCES_MAX 400
/* The present window's sums of each namespace in which something was counted, in the order of the store, from
 * behind `after`; `next` is SLICE_NULL at the end. E_NOT_FOUND: no such budget. */
typedef void (*billing_instances_cb)(int code, const struct billing_budget_view *v, size_t n,
                                     struct slice next, const struct err *err, void *data);
void billing_budget_instances(struct billing *b, struct slice tenant, struct slice name, struct slice after,
                              size_t limit, billing_instances_cb cb, void *data);

struct override_wish; /* billing/override.h */
/* Sets a budget, or takes back what was set, as override_change says. `audit` is an entry for the tenant's
 * log `audit`, of the same commit. Done with 0: it is durable, and in force here at once, in other
 * controllers within 15 s. All is copied. */
void billing_budget_change(struct billing *b, struct slice tenant, const struct override_wish *wish,
                           struct slice audit, billing_done_cb done, void *data);

/* --- queries --- */
/* {"items":[{<groups>, tokens…, "cost":{…}}], "total":{…}, "next":"…"}: the JSON is billing's, valid during
 * the callback. `total` is of everything that was asked for, not of the page. */
typedef void (*billing_json_cb)(int code, struct slice json, const struct err *err, void *data);
#define BILLING_USAGE_BY  "model, kind, day, namespace, workspace or user, or two of them with a comma between"
#define BILLING_USAGE_MAX 5000 /* groups of one answer */
struct billing_usage_query {
    struct slice tenant;
    struct slice namespace, workspace_id; /* empty: all; workspace_id goes with its namespace */
    int64_t from_ms, to_ms;               /* [from, to) in whole UTC days */
    struct slice by;                      /* BILLING_USAGE_BY; empty: the total alone */
    struct slice workspace, model, kind;  /* names; empty: all */
    struct slice user;                    /* p NULL: all; empty: workspaces without one */
    struct slice after;                   /* "next" of the page before */
    size_t limit;                         /* 0: as many as one answer has */
};
bool billing_usage_by_is_valid(struct slice by);
void billing_usage_query(struct billing *b, const struct billing_usage_query *q, billing_json_cb cb,
                         void *data);
/* What waits: {"items":[{"suspense_id","key",…}],"next":"…"}. `tenant` empty: the fleet's, of unknown keys.
 * Texts that are empty do not filter; times 0 neither. A page may be empty and have a next one. */
struct billing_suspense_query {
    struct slice tenant, after, reason, gateway, key_hash, namespace, model;
    int64_t from_ms, to_ms; /* [from, to) of the event's own time */
    size_t limit;
};
void billing_suspense(struct billing *b, const struct billing_suspense_query *q, billing_json_cb cb,
                      void *data);

/* A decision about one of them, by the fleet's authority. */
enum suspense_action {
    SUSPENSE_RETRY,    /* post it now, if it can be */
    SUSPENSE_DISMISS,  /* it is not charged */
    SUSPENSE_ADJUST,   /* a conflict: it is the truth; reversal and correction of what was posted */
    SUSPENSE_ATTRIBUTE /* the fleet's: it is to_tenant's */
};
struct billing_decision {
    enum suspense_action kind;
    struct slice tenant;            /* whose suspense; empty: the fleet's */
    struct slice id;                /* "suspense_id" of the list */
    struct slice reason, actor;     /* why, who */
    struct slice audit;             /* entry of the partition's log `audit`, in the commit that decides */
    struct slice to_tenant;         /* attribute */
    struct billing_key_owner owner; /* attribute: namespace, workspace (may be empty), workspace_id, user */
};
/* The decision's record as JSON; the same again gives the same. E_NOT_FOUND: nothing waits under the id;
 * E_CONFLICT: it was decided otherwise, or cannot be decided so, or stays in suspense; E_INVALID, E_QUOTA.
 * All is copied. */
void billing_suspense_decide(struct billing *b, const struct billing_decision *d, billing_json_cb cb,
                             void *data);

/* --- export --- */
struct billing_export; /* pulls a period's ledger page by page */
enum export_format { EXPORT_CSV, EXPORT_JSONL };
int billing_period_parse(struct slice s); /* "2026-11": 0 or E_INVALID */
/* on_part is called with bytes; the next page is read only after billing_export_next. Ends with on_end: code
 * 0, rows and the exact total (which equals the ledger's counter of the period, else E_INTERNAL). */
struct export_events {
    void (*on_part)(struct slice bytes, void *data);
    void (*on_end)(int code, uint64_t rows, struct amount total, const struct err *err, void *data);
};
struct billing_export *billing_export_start(struct billing *b, struct slice tenant, struct slice period,
                                            enum export_format f, const struct export_events *ev, void *data);
void billing_export_next(struct billing_export *x);
void billing_export_cancel(struct billing_export *x);

/* Figures for /metrics. */
struct billing_stats {
    uint64_t accepted, duplicates, conflicts, suspense, invalid, batches, failures;
};
const struct billing_stats *billing_stats(const struct billing *b);

#endif
