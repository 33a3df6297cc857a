/* metrics: see metrics.h. Every metric is a row: name, type, help, and how its figure is read. */
#include "controller/api/metrics.h"

#include "base/core/mem.h"
#include "controller/edge/door.h"
#include "controller/edge/egress.h"
#include "controller/listeners.h"

#include <string.h>

struct figures {
    const struct controller *c;
    const struct billing_stats *billing;
    const struct door_stats *door;
    struct scheduler_stats scheduler;
    const struct listeners_stats *listeners;
    const struct server_tls_stats *tls;
};

struct metric {
    const char *name, *type, *help;
    uint64_t (*read)(const struct figures *f);
};

#define READ(fn, expr)                                                                                       \
    static uint64_t fn(const struct figures *f)                                                              \
    {                                                                                                        \
        return (uint64_t)(expr);                                                                             \
    }
READ(read_requests_in_flight, f->c->n_requests)
READ(read_connections, server_connections(f->c->server))
READ(read_proxied, f->c->proxied_total)
READ(read_refused, f->c->refused_total)
READ(read_reloads, f->c->reloads_total)
READ(read_reload_failures, f->c->reload_failures_total)
READ(read_slow_turns, f->c->loop.turns_slow)
READ(read_start, f->c->started_at_ms / 1000)
READ(read_usage_accepted, f->billing->accepted)
READ(read_usage_duplicates, f->billing->duplicates)
READ(read_usage_conflicts, f->billing->conflicts)
READ(read_usage_suspense, f->billing->suspense)
READ(read_usage_invalid, f->billing->invalid)
READ(read_admissions, f->c->admissions_total)
READ(read_admissions_blocked, f->c->admissions_blocked_total)
READ(read_usage_batches, f->billing->batches)
READ(read_usage_failures, f->billing->failures)
READ(read_door_calls, f->door->calls)
READ(read_door_refused, f->door->refused)
READ(read_door_failed, f->door->failed)
READ(read_tls_done, f->tls->done)
READ(read_tls_failed, f->tls->failed)
READ(read_tls_dropped, f->tls->dropped)
READ(read_certificates_applied, f->listeners->certificates_applied)
READ(read_certificates_refused, f->listeners->certificates_refused)
READ(read_certificates_expire, f->listeners->expires_s)
READ(read_created, f->scheduler.created)
READ(read_adopted, f->scheduler.adopted)
READ(read_orphans, f->scheduler.orphans_removed)
READ(read_retries, f->scheduler.retries)
READ(read_provider_errors, f->scheduler.provider_errors)
READ(read_keys_revoked, f->scheduler.keys_revoked)
READ(read_keys_to_revoke, f->scheduler.keys_to_revoke)
READ(read_key_failures, f->scheduler.key_failures)

static const struct metric rows[] = {
    {"reeve_requests_in_flight", "gauge", "Requests that have no answer yet, streams included.",
     read_requests_in_flight},
    {"reeve_connections", "gauge", "Client connections.", read_connections},
    {"reeve_tls_handshakes_total", "counter", "TLS handshakes with clients that succeeded.", read_tls_done},
    {"reeve_tls_handshakes_failed_total", "counter", "TLS handshakes with clients that failed.",
     read_tls_failed},
    {"reeve_tls_handshakes_dropped_total", "counter",
     "TLS handshakes given up for newer ones: too many at once.", read_tls_dropped},
    {"reeve_tls_certificates_applied_total", "counter",
     "Times that changed certificates of a listener were put in force.", read_certificates_applied},
    {"reeve_tls_certificates_refused_total", "counter",
     "Times that changed certificates of a listener were refused; the former stayed in force.",
     read_certificates_refused},
    {"reeve_tls_certificates_expire_seconds", "gauge",
     "Unix time when the first certificate of a listener expires; 0: there is none.",
     read_certificates_expire},
    {"reeve_proxied_requests_total", "counter", "Requests passed on to sandboxes.", read_proxied},
    {"reeve_proxied_refused_total", "counter", "Workspace requests refused after authentication.",
     read_refused},
    {"reeve_reloads_total", "counter", "Configurations applied since the start.", read_reloads},
    {"reeve_reload_failures_total", "counter", "Configurations refused since the start.",
     read_reload_failures},
    {"reeve_loop_slow_turns_total", "counter", "Turns of the event loop over 20 ms.", read_slow_turns},
    {"reeve_start_time_seconds", "gauge", "Unix time of the start.", read_start},
    {"reeve_usage_events_accepted_total", "counter", "Usage events posted to the ledger.",
     read_usage_accepted},
    {"reeve_usage_events_duplicates_total", "counter", "Usage events that were there already.",
     read_usage_duplicates},
    {"reeve_usage_events_conflicts_total", "counter", "Usage events repeated with other facts.",
     read_usage_conflicts},
    {"reeve_usage_events_suspense_total", "counter", "Usage events put into suspense.", read_usage_suspense},
    {"reeve_usage_events_invalid_total", "counter", "Usage events that were malformed, and are kept nowhere.",
     read_usage_invalid},
    {"reeve_admissions_total", "counter", "Gateways' questions before a call that were answered.",
     read_admissions},
    {"reeve_admissions_blocked_total", "counter", "Those of them that were answered with no.",
     read_admissions_blocked},
    {"reeve_usage_batches_total", "counter", "Batches of usage events.", read_usage_batches},
    {"reeve_usage_failures_total", "counter", "Batches that the store failed.", read_usage_failures},
    {"reeve_door_calls_total", "counter", "Model calls passed on to gateways.", read_door_calls},
    {"reeve_door_refused_total", "counter", "Model calls refused at the door.", read_door_refused},
    {"reeve_door_failed_total", "counter", "Model calls whose gateway failed.", read_door_failed},
    {"reeve_sandboxes_created_total", "counter", "Sandboxes created.", read_created},
    {"reeve_sandboxes_adopted_total", "counter", "Sandboxes adopted after a start.", read_adopted},
    {"reeve_orphans_removed_total", "counter", "Sandboxes removed that no workspace wanted.", read_orphans},
    {"reeve_scheduler_retries_total", "counter", "Steps tried again.", read_retries},
    {"reeve_provider_errors_total", "counter", "Provider calls that failed.", read_provider_errors},
    {"reeve_gateway_keys_revoked_total", "counter",
     "LLM keys whose gateway has confirmed that they are gone.", read_keys_revoked},
    {"reeve_gateway_keys_to_revoke", "gauge", "LLM keys that are still to be revoked at their gateways.",
     read_keys_to_revoke},
    {"reeve_gateway_key_failures_total", "counter",
     "Calls to gateways' key APIs that failed; they are repeated.", read_key_failures},
};

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    (void)buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_write(struct controller *c, struct buf *out)
{
    struct figures f = {.c = c,
                        .billing = billing_stats(c->billing),
                        .door = door_stats(c->door),
                        .listeners = listeners_stats(c->listeners),
                        .tls = server_tls_stats(c->server)};
    scheduler_stats(c->scheduler, &f.scheduler);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        head(out, rows[i].name, rows[i].type, rows[i].help);
        (void)buf_printf(out, "%s %llu\n", rows[i].name, (unsigned long long)rows[i].read(&f));
    }
    head(out, "reeve_http_responses_total", "counter", "Answers by class of status.");
    for (int class = 1; class < 6; class ++)
        (void)buf_printf(out, "reeve_http_responses_total{class=\"%dxx\"} %llu\n", class,
                         (unsigned long long)c->requests_total[class]);
    const struct egress_stats *out_stats = egress_stats(c->egress);
    head(out, "reeve_egress_decisions_total", "counter",
         "Attempts to reach the outside, and connections cut.");
    for (int k = 0; k < DECISION_KINDS; k++)
        (void)buf_printf(out, "reeve_egress_decisions_total{decision=\"%s\"} %llu\n",
                         decision_name((enum decision_kind)k), (unsigned long long)out_stats->by_kind[k]);
    head(out, "reeve_egress_bytes_total", "counter", "Bytes that passed the way out.");
    (void)buf_printf(out,
                     "reeve_egress_bytes_total{direction=\"in\"} %llu\n"
                     "reeve_egress_bytes_total{direction=\"out\"} %llu\n",
                     (unsigned long long)out_stats->bytes_in, (unsigned long long)out_stats->bytes_out);
    head(out, "reeve_egress_open", "gauge", "Connections to the outside.");
    (void)buf_printf(out, "reeve_egress_open %zu\n", out_stats->open);
    head(out, "reeve_workspaces", "gauge", "Workspaces by state.");
    for (int s = WS_PROVISIONING; s <= WS_FAILED; s++)
        (void)buf_printf(out, "reeve_workspaces{state=\"%s\"} %zu\n",
                         workspace_state_name((enum workspace_state)s), f.scheduler.by_state[s]);
}
