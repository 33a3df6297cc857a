/* controller: the daemon as one object. Everything that lives as long as the process hangs here.
 *
 * Happy path: controller_start loads the configuration's parts floor by floor (store, seal key, billing,
 * providers, scheduler, keys), then listens. Failure paths: each step that fails ends the start with one
 * sentence and exit 1; SIGTERM and SIGINT drain; SIGHUP reloads; a second signal ends at once. Crash-only:
 * nothing is lost by kill -9. */
#ifndef REEVE_CONTROLLER_CONTROLLER_H
#define REEVE_CONTROLLER_CONTROLLER_H

#include "base/core/crypto.h"
#include "base/core/id.h"
#include "base/net/client.h"
#include "base/net/loop.h"
#include "base/net/server.h"
#include "base/store/store.h"
#include "billing/billing.h"
#include "config/tenancy.h"
#include "providers/provider.h"
#include "scheduler/scheduler.h"

struct acp;
struct door;
struct egress;
struct keyring;
struct listeners;
struct litellm_keys;
struct start;
struct request;
struct open_tunnel;
struct events;
struct stream_count;

struct controller {
    struct loop loop;
    const char *config_path;
    struct tenancy *tenancy; /* the present one; requests hold references of their own */
    struct store *store;
    struct seal_key seal_key;
    char id[ID_TEXT_MAX]; /* of this installation: in the labels of every sandbox */
    uint64_t epoch;       /* of this start */
    struct billing *billing;
    struct provider **providers;
    size_t n_providers;
    struct litellm_keys *litellm_keys;
    struct gateway_keys gateway_keys; /* the scheduler's */
    struct scheduler *scheduler;
    struct keyring *keyring;
    struct server *server;
    struct listeners *listeners;
    struct door *door;
    struct egress *egress; /* the way out of sandboxes */
    struct acp *acp;
    struct request *requests; /* in flight, newest first (utlist) */
    size_t n_requests;
    struct events *event_streams;       /* of workspaces' states (utlist) */
    struct stream_count *stream_counts; /* of workspaces */
    struct open_tunnel *tunnels;        /* WebSockets to sandboxes (utlist) */
    bool is_ready;
    bool is_draining;
    int exit_code;
    int64_t started_at_ms;
    uv_signal_t signals[3];
    struct timer drain_timer; /* the last resort of a shutdown */
    struct start *start;      /* while starting */
    /* figures for /metrics */
    uint64_t requests_total[6]; /* by status class: index status/100 */
    uint64_t proxied_total, refused_total, reloads_total, reload_failures_total;
    uint64_t admissions_total, admissions_blocked_total;
    char request_prefix[20];
    uint64_t request_seq;
    int64_t unauthenticated_noted_ms;
    void (*on_tunnels_closed)(void *controller); /* at the end */
};

/* Runs until the process shall end; gives its exit code. `config_path` outlives the call. */
int controller_run(const char *config_path);

/* Reads the file again and applies it atomically: 0, and `done` (may be NULL) fires once, never before the
 * call has returned, when budgets and keys of the new file are in force; code is not 0 when their counters
 * could not be loaded; restart_notes: what takes effect only after a restart, a line each. On problems
 * E_INVALID: the running configuration stays, ret_problems says why, `done` does not fire. */
typedef void (*controller_reload_cb)(int code, const struct err *err, struct slice restart_notes, void *data);
int controller_reload(struct controller *c, struct buf *ret_problems, controller_reload_cb done, void *data);
void controller_drain(struct controller *c);

#endif
