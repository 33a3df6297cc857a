/* controller: see controller.h. */
#include "controller/controller.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/api/audit.h"
#include "controller/edge/door.h"
#include "controller/edge/egress.h"
#include "controller/edge/keyring.h"
#include "controller/edge/proxy.h"
#include "controller/listeners.h"
#include "controller/start.h"

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define DRAIN_MS 10000 /* answers in progress */
#define LAST_S   10
#define UNDO_MS  20000 /* then closing everything in order */

/* --- reload --- */

struct reload {
    struct buf notes;
    unsigned waits; /* parts that still load what they need from the store */
    struct err err; /* the first that failed */
    controller_reload_cb done;
    void *data;
};

static void reload_part(struct reload *r, int code, const struct err *err, const char *part)
{
    if (code != 0 && r->err.code == 0) {
        if (err != NULL)
            r->err = *err;
        (void)err_set(&r->err, code, "the file is applied, but %s cannot be loaded: %s", part,
                      err != NULL ? err->msg : err_title(code));
        log_error("reload.incomplete", LF_STR("part", part), LF_STR("detail", r->err.msg));
    }
    if (--r->waits > 0)
        return;
    if (r->done != NULL)
        r->done(r->err.code, &r->err, buf_view(&r->notes), r->data);
    buf_fini(&r->notes);
    mem_free(r);
}

static void on_billing_reloaded(int code, const struct err *err, void *data)
{
    reload_part(data, code, err, "budgets");
}

static void on_keys_reloaded(int code, const struct err *err, void *data)
{
    reload_part(data, code, err, "service keys");
}

int controller_reload(struct controller *c, struct buf *ret_problems, controller_reload_cb done, void *data)
{
    struct config_problems problems;
    struct tenancy *now = NULL;
    config_problems_init(&problems);
    int code = tenancy_load(c->config_path, &problems, &now);
    if (code == 0)
        code = billing_check(now, &problems);
    if (code != 0) {
        config_problems_print(&problems, ret_problems);
        config_problems_fini(&problems);
        tenancy_unref(now);
        c->reload_failures_total++;
        log_error("config.refused", LF_SLICE("detail", buf_view(ret_problems)));
        return code;
    }
    config_problems_fini(&problems);
    struct reload *r = MEM_NEW(struct reload);
    *r = (struct reload){.notes = BUF_INIT(16384), .waits = 2, .done = done, .data = data};
    tenancy_restart_diff(c->tenancy, now, &r->notes);
    struct tenancy *old = c->tenancy;
    c->tenancy = now;
    c->reloads_total++;
    log_info("config.applied", LF_STR("file", c->config_path),
             LF_SLICE("needs_restart", buf_view(&r->notes)));
    scheduler_reload(c->scheduler, now);
    door_reload(c->door);
    listeners_apply(c->listeners, now);
    egress_reload(c->egress);
    billing_reload(c->billing, now, on_billing_reloaded, r);
    keyring_load(c->keyring, now, on_keys_reloaded, r);
    tenancy_unref(old);
    return 0;
}

static void reload_by_signal(struct controller *c)
{
    struct buf problems = BUF_INIT((size_t)256 * 1024);
    if (!c->is_ready || c->is_draining)
        return;
    if (controller_reload(c, &problems, NULL, NULL) == 0)
        audit_self(c, NULL, "config.reload", c->tenancy->file, SL("SIGHUP"));
    buf_fini(&problems);
}

/* --- end --- */

static void on_drained(void *data)
{
    start_undo(data);
}

/* Crash-only: what cannot be closed in order is left to the next start, which adopts or removes it. */
static void on_drain_late(void *data)
{
    struct controller *c = data;
    log_warn("shutdown_cut_short", LF_INT("requests", c->n_requests));
    _exit(c->exit_code);
}

void controller_drain(struct controller *c)
{
    if (c->is_draining)
        return;
    c->is_draining = true;
    log_info("draining", LF_INT("requests", c->n_requests));
    timer_start(&c->drain_timer, DRAIN_MS + UNDO_MS);
    if (c->server == NULL) {
        start_undo(c);
        return;
    }
    proxy_drain(c);
    server_drain(c->server, DRAIN_MS, on_drained, c);
}

static void on_signal(uv_signal_t *h, int signum)
{
    struct controller *c = h->data;
    if (signum == SIGHUP) {
        reload_by_signal(c);
    } else if (c->is_draining) {
        log_warn("ended_at_once", LF_INT("signal", signum));
        _exit(c->exit_code != 0 ? c->exit_code : 130); /* crash-only: nothing acknowledged is lost by it */
    } else if (c->start == NULL) {
        controller_drain(c);
    } else {
        _exit(130);
    }
}

static void on_started(int code, const struct err *err, struct controller *c)
{
    if (code != 0) {
        (void)fprintf(stderr, "reeve: %s\n", err->msg);
        c->exit_code = 1;
        c->is_draining = true;
        start_undo(c);
        return;
    }
    log_info("ready", LF_STR("controller", c->id), LF_INT("epoch", c->epoch),
             LF_INT("took_ms", clock_wall_ms(c->loop.clock) - c->started_at_ms));
}

static void signals_open(struct controller *c)
{
    static const int wanted[] = {SIGTERM, SIGINT, SIGHUP};
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        must(uv_signal_init(&c->loop.uv, &c->signals[i]) == 0);
        c->signals[i].data = c;
        must(uv_signal_start(&c->signals[i], on_signal, wanted[i]) == 0);
    }
}

/* Every connection is two descriptors or three: take what the system allows. */
static void descriptors_raise(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur == r.rlim_max)
        return;
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0)
        log_warn("descriptors_not_raised", LF_INT("limit", r.rlim_max));
}

int controller_run(const char *config_path)
{
    struct controller *c = MEM_NEW(struct controller);
    struct config_problems problems;
    c->config_path = config_path;
    config_problems_init(&problems);
    if (tenancy_load(config_path, &problems, &c->tenancy) != 0) {
        struct buf out = BUF_INIT((size_t)256 * 1024);
        config_problems_print(&problems, &out);
        (void)fprintf(stderr, "%s", buf_cstr(&out));
        buf_fini(&out);
        config_problems_fini(&problems);
        mem_free(c);
        return 1;
    }
    config_problems_fini(&problems);
    unsigned char random[8];
    rnd_fill(&rnd_system, random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        (void)snprintf(c->request_prefix + 2 * i, 3, "%02x", random[i]);
    must(loop_init(&c->loop, &clock_system, &rnd_system) == 0);
    c->started_at_ms = clock_wall_ms(&clock_system);
    descriptors_raise();
    signals_open(c);
    timer_init(&c->drain_timer, &c->loop, on_drain_late, c);
    start_begin(c, on_started);
    loop_run(&c->loop);
    for (size_t i = 0; i < ARRAY_LEN(c->signals); i++)
        uv_close((uv_handle_t *)&c->signals[i], NULL);
    timer_close(&c->drain_timer, NULL);
    (void)alarm(LAST_S); /* the loop's own end has no timer any more */
    loop_fini(&c->loop);
    (void)alarm(0);
    mem_wipe(&c->seal_key, sizeof c->seal_key);
    tenancy_unref(c->tenancy);
    mem_free(c->providers);
    int code = c->exit_code;
    if (code == 0)
        log_info("stopped");
    mem_free(c);
    return code;
}
