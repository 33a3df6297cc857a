/* scheduler: what should run where, now. Holds every workspace in memory, moves fact to wish, one safe step
 * at a time.
 *
 * Happy path: findOrCreate commits the intent (record, LLM key's hash) and answers the one caller whose
 * commit made it; the reconciler creates the sandbox, starts its server, waits for health and marks it ready;
 * waiters are answered. Failure paths: a passing reason is retried with backoff and shown in state and
 * reason; a crash anywhere leaves a durable intent that the next start adopts, finishes or removes; sandboxes
 * that no record wants are removed after a grace, confirmed by a direct look-up. */
#ifndef REEVE_SCHEDULER_SCHEDULER_H
#define REEVE_SCHEDULER_SCHEDULER_H

#include "base/core/crypto.h"
#include "base/store/store.h"
#include "config/tenancy.h"
#include "providers/provider.h"
#include "scheduler/gateway_keys.h"
#include "scheduler/workspace.h"

struct scheduler;

/* How long things take. Every 0 means the value in brackets. Tests make them short. */
struct scheduler_timing {
    int64_t retry_first_ms, retry_max_ms;     /* backoff after a failure that can pass [500, 60,000] */
    int64_t breaker_first_ms, breaker_max_ms; /* how long a failing provider is left alone [5,000, 60,000] */
    int64_t health_deadline_ms;               /* for the server to become healthy [60,000] */
    int64_t call_ms;                          /* describe, start, list [30,000] */
    int64_t call_long_ms;                     /* create, suspend, resume, destroy [120,000] */
    int64_t settled_after_ms;                 /* ready for so long forgets former failures [60,000] */
    int64_t doubt_first_ms, doubt_max_ms; /* between looks at one that is said to be unwell [1,000, 30,000] */
    int64_t late_ms; /* a gateway may still do what it did not answer; keys are revoked again then [60,000] */
    int64_t close_ms; /* how long close waits for calls in flight [5,000] */
};

struct scheduler_options {
    struct loop *loop;
    struct store *store;
    struct tenancy *tenancy;         /* takes a reference of its own */
    const struct seal_key *seal_key; /* outlives the scheduler */
    struct slice controller;         /* id of this installation */
    uint64_t epoch;                  /* grows with every start */
    struct provider **providers;     /* by configured name; owned by the caller, outlive the scheduler */
    size_t n_providers;
    int64_t orphan_grace_ms; /* 0: 30 s */
    int64_t sweep_every_ms;  /* 0: 20 s */
    struct scheduler_timing timing;
    unsigned starts_max; /* creates and starts at the providers at one time; 0: 2 × CPUs */
    /* The record of the LLM key: one op for partition "fleet" (billing's shape, wired by the controller,
     * because billing and scheduler's neighbours below do not know each other). */
    struct store_op (*llm_key_op)(struct arena *a, const char *hash_hex, struct slice gateway,
                                  const struct workspace *ws, bool is_revoked, void *data);
    const struct gateway_keys *gateway_keys; /* outlives the scheduler; NULL: no gateway is known */
    /* Every state change of a workspace (also of its reason), after it is durable; NULL: none. */
    void (*on_change)(const struct workspace *ws, void *data);
    /* For audit: an orphan was removed, etc. `what` is a fixed word. */
    void (*on_audit)(const char *what, struct slice tenant, struct slice subject, struct slice detail,
                     void *data);
    void *data;
};

int scheduler_new(const struct scheduler_options *o, struct scheduler **ret, struct err *err);
/* Loads all workspaces, adopts what runs, starts the reconciler and the sweep. */
typedef void (*scheduler_done_cb)(int code, const struct err *err, void *data);
void scheduler_start(struct scheduler *s, scheduler_done_cb done, void *data);
void scheduler_reload(struct scheduler *s, struct tenancy *t);
/* Starts no new steps; waits for steps in flight (bounded), closes pools; sandboxes go on. */
void scheduler_close(struct scheduler *s, void (*closed)(void *data), void *data);

/* --- look --- */
struct workspace *scheduler_find(struct scheduler *s, struct slice tenant, struct slice namespace,
                                 struct slice name);
struct workspace *scheduler_find_id(struct scheduler *s, struct slice id);
/* In order of (namespace, name), those after the given pair (both empty: from the start). `filter` may be
 * NULL. */
typedef bool (*workspace_filter)(const struct workspace *ws, void *data);
size_t scheduler_list(struct scheduler *s, struct slice tenant, struct slice after_namespace,
                      struct slice after_name, workspace_filter filter, void *data, struct workspace **out,
                      size_t max);
size_t scheduler_count(struct scheduler *s, struct slice tenant, enum workspace_state state);
/* Homes that outlived their workspace (delete with keep_home), in order of (namespace, name); returns how
 * many there are, of which the first `max` are in `out`. Valid until the loop's next turn. */
struct workspace_home {
    struct slice namespace, name, home_id, provider;
};
size_t scheduler_homes(struct scheduler *s, struct slice tenant, struct workspace_home *out, size_t max);

/* --- act --- */
struct workspace_request {
    struct slice tenant, namespace, name;
    struct slice template, provider, user; /* empty: not given */
    const struct workspace_pair *labels, *env;
    size_t n_labels, n_env;
    bool has_labels, has_env; /* given, maybe empty */
    bool retry;               /* a failed one tries again */
    bool no_make;    /* the caller's budget is exceeded: neither make nor wake: E_BUDGET in those cases */
    int64_t wait_ms; /* how long the answer may wait for ready */
};
struct workspace_answer {
    int code; /* 0; E_CONFLICT (names the field that differs), E_QUOTA, E_RATE, E_CAPACITY, E_BUDGET,
                 E_INVALID, E_STORE… */
    const struct workspace *ws; /* when code is 0 */
    bool is_created;            /* this call's commit made it: 201 */
    bool is_settled;            /* ready or failed: 200/201; else 202 */
    const struct err *err;
};
typedef void (*workspace_answer_cb)(const struct workspace_answer *a, void *data);
/* A handle to give up waiting (the client left): the callback does not fire any more. The operation goes on.
 */
struct workspace_wait;
struct workspace_wait *scheduler_find_or_create(struct scheduler *s, const struct workspace_request *r,
                                                workspace_answer_cb cb, void *data);
void workspace_wait_cancel(struct workspace_wait *w);
/* For these, E_NOT_FOUND when there is none. wait_ms 0: answers as soon as the wish is durable (is_settled
 * false). After a delete that finished, ws is NULL. */
struct workspace_wait *scheduler_delete(struct scheduler *s, struct slice tenant, struct slice namespace,
                                        struct slice name, bool keep_home, int64_t wait_ms,
                                        workspace_answer_cb cb, void *data);
struct workspace_wait *scheduler_suspend(struct scheduler *s, struct workspace *ws, enum suspend_cause cause,
                                         int64_t wait_ms, workspace_answer_cb cb, void *data);
struct workspace_wait *scheduler_resume(struct scheduler *s, struct workspace *ws, int64_t wait_ms,
                                        workspace_answer_cb cb, void *data);
/* A new server process (and fresh credentials in it) in the same home. */
struct workspace_wait *scheduler_restart(struct scheduler *s, struct workspace *ws, int64_t wait_ms,
                                         workspace_answer_cb cb, void *data);
/* Traffic arrived: keeps it awake; wakes one that sleeps because it was idle. Answers when it is ready: code
 * 0; or E_UNAVAILABLE with the reason (asleep by operator or budget, failed, still starting after wait_ms).
 * Cheap when ready: use workspace->state first, then scheduler_touch. */
struct workspace_wait *scheduler_wake(struct scheduler *s, struct workspace *ws, int64_t wait_ms,
                                      workspace_answer_cb cb, void *data);
void scheduler_touch(struct scheduler *s, struct workspace *ws); /* activity: moves its idle time */
/* Long traffic (SSE, WebSocket, a prompt) holds a workspace awake. */
void scheduler_hold(struct scheduler *s, struct workspace *ws);
void scheduler_unhold(struct scheduler *s, struct slice workspace_id);
/* The edge saw the server inside refuse a connection, answer nonsense or not at all: look at it, at most once
 * a second. It stays ready while it is looked at: perhaps it was only busy. */
void scheduler_suspect(struct scheduler *s, struct workspace *ws);
/* From a provider's on_event. May come at any rate: see doubt.c. */
void scheduler_on_provider_event(struct scheduler *s, struct slice sandbox_id, struct slice workspace_id,
                                 const char *what);
/* From a provider's on_progress: the reason that is shown while a create waits. */
void scheduler_on_provider_progress(struct scheduler *s, struct slice sandbox_id, struct slice workspace_id,
                                    const char *text);

/* Figures for /metrics. */
struct scheduler_stats {
    uint64_t created, adopted, orphans_removed, retries, provider_errors, conflicts;
    uint64_t keys_revoked, key_failures; /* at gateways */
    size_t keys_to_revoke;               /* at gateways; counted anew with every round of the revoker */
    size_t workspaces, by_state[8];
};
void scheduler_stats(const struct scheduler *s, struct scheduler_stats *ret);

#endif
