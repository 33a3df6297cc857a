/* egress: see egress.h.
 *
 * Happy path of an opening: the name is judged, the limits are asked, the name is resolved, all its addresses
 * are judged, one of them is connected to, in their order. Failure paths: each ends with a verdict that names
 * the rule or the limit; it is kept with the workspace's recent decisions, and the refusals are audited,
 * rationed. What is open when the configuration changes is judged again with the address it has. */
#include "controller/edge/egress.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "base/net/resolve.h"
#include "controller/api/audit.h"
#include "controller/edge/reserved.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define CONNECT_MS     ((int64_t)10 * 1000) /* to one address */
#define CONNECT_ALL_MS ((int64_t)30 * 1000) /* to one after another */
#define HELLO_MS       ((int64_t)10 * 1000)
#define LOOKUPS_MAX    4096 /* of all; a workspace has at most its door's connections of them */
#define TICK_MS        50   /* while somebody waits for tokens */
#define SWEEP_MS       1000 /* idle connections */

struct egress {
    struct controller *c;
    struct loop *loop;
    struct resolver *resolver;
    char *servers; /* as the resolver was made with */
    int64_t resolve_timeout_ms;
    size_t n_resolvers; /* not yet closed */
    struct account *workspaces, *tenants;
    struct egress_stream *streams;
    struct egress_open *opens;
    struct timer tick;
    int64_t swept_ms;
    struct reserved_set *reserved; /* NULL once it closes */
    bool has_reserved;             /* it is not yet closed */
    size_t n_throttled;            /* streams that wait for tokens */
    bool has_timer, is_closing, is_closed_told;
    void (*closed)(void *data);
    void *closed_data;
    struct egress_meter meter;
    struct egress_stats stats;
};

struct egress_open {
    struct egress *e;
    struct target target;
    char workspace_id[40];
    struct account *workspace, *tenant; /* counted as open there; NULL: not yet */
    struct verdict verdict;
    struct tenancy *tenancy; /* the rule of the verdict lives in it */
    struct resolve_op *resolving;
    struct connect_op *connecting;
    struct address addresses[RESOLVE_ADDRESSES_MAX];
    size_t n_addresses, at;
    int64_t connect_end_ms; /* monotonic; 0: not yet connecting */
    enum network_sni sni;
    bool is_why, is_cancelled;
    int code;
    struct err err;
    struct stream *stream;
    egress_done_cb done;
    void *data;
    struct egress_open *prev, *next;
};

static int64_t now_mono(const struct egress *e)
{
    return clock_mono_ms(e->loop->clock);
}

static int64_t now_wall(const struct egress *e)
{
    return clock_wall_ms(e->loop->clock);
}

/* --- the rules of a workspace --- */

static bool rules_of(struct egress *e, const struct workspace *ws, struct verdict_rules *ret,
                     const struct config_template **ret_template, const struct config_tenant **ret_tenant)
{
    const struct tenancy *t = e->c->tenancy;
    const struct config_tenant *tenant = tenancy_tenant(t, ws->tenant);
    const struct config_template *template = tenancy_template(t, ws->template);
    if (tenant == NULL || template == NULL || e->reserved == NULL)
        return false;
    *ret = (struct verdict_rules){.allow = &template->network_allow,
                                  .narrow = tenant->narrows_network ? &tenant->network_allow : NULL,
                                  .template = template->name,
                                  .allow_line = template->network_line,
                                  .narrow_line = tenant->network_line,
                                  .exempt = &t->egress.exempt};
    reserved_set_view(e->reserved, ret);
    *ret_template = template;
    *ret_tenant = tenant;
    return true;
}

static struct account *account_in(struct account **table, struct slice key,
                                  const struct config_egress_limits *limits)
{
    struct account *a;
    char text[sizeof a->key];
    (void)snprintf(text, sizeof text, "%.*s", SL_ARG(key));
    HASH_FIND_STR(*table, text, a);
    if (a == NULL) {
        a = MEM_NEW(struct account);
        (void)snprintf(a->key, sizeof a->key, "%s", text);
        HASH_ADD_STR(*table, key, a);
    }
    a->limits = *limits;
    return a;
}

static struct account *account_of(struct egress *e, const struct workspace *ws,
                                  const struct config_egress_limits *limits)
{
    struct account *a = account_in(&e->workspaces, slice_str(ws->id), limits);
    if (a->tenant != NULL)
        return a;
    a->tenant = mem_strndup(ws->tenant.p, ws->tenant.n);
    a->namespace = mem_strndup(ws->namespace.p, ws->namespace.n);
    a->workspace = mem_strndup(ws->name.p, ws->name.n);
    a->user = ws->user.n > 0 ? mem_strndup(ws->user.p, ws->user.n) : mem_strdup("");
    a->metered_ms = now_wall(e);
    return a;
}

static void account_maybe_free(struct egress *e, struct account *a)
{
    if (!a->is_gone || a->n_open > 0 || !egress_meter_is_settled(a))
        return;
    HASH_DEL(e->workspaces, a);
    account_fini(a);
    mem_free(a);
}

/* --- notes --- */

static void note(struct egress *e, struct account *a, const struct workspace *ws, enum decision_kind kind,
                 const struct target *t, const struct verdict *v)
{
    uint64_t left_out = 0;
    e->stats.by_kind[kind]++;
    if (!account_note(a, kind, t, v, now_mono(e), now_wall(e), &left_out) || ws == NULL)
        return;
    const struct config_tenant *tenant = tenancy_tenant(e->c->tenancy, ws->tenant);
    struct buf detail = BUF_INIT(2048), subject = BUF_INIT(256);
    (void)buf_printf(&subject, "%.*s/%.*s", SL_ARG(ws->namespace), SL_ARG(ws->name));
    (void)buf_printf(&detail, "%s: %s", v->reason, v->text);
    if (left_out > 0)
        (void)buf_printf(&detail, " (%llu more were not written)", (unsigned long long)left_out);
    audit_self(e->c, tenant != NULL ? tenant->id : NULL,
               kind == DECISION_CUT ? "egress.cut" : "egress.refused", buf_view(&subject), buf_view(&detail));
    buf_fini(&detail);
    buf_fini(&subject);
}

/* --- opening --- */

static void egress_maybe_closed(struct egress *e);

static void open_free(struct egress_open *o)
{
    struct egress *e = o->e;
    DL_DELETE(e->opens, o);
    tenancy_unref(o->tenancy);
    mem_free(o);
    egress_maybe_closed(e);
}

static void slots_give_back(struct egress_open *o)
{
    struct account *a = o->workspace;
    if (o->tenant != NULL)
        account_closed(o->tenant);
    o->workspace = o->tenant = NULL;
    if (a == NULL)
        return;
    account_closed(a);
    account_maybe_free(o->e, a);
}

static void on_finish(void *data)
{
    struct egress_open *o = data;
    if (o->is_cancelled) {
        if (o->stream != NULL)
            stream_close(o->stream);
        open_free(o);
        return;
    }
    struct egress_answer a = {.code = o->code,
                              .stream = o->stream,
                              .verdict = &o->verdict,
                              .addresses = o->addresses,
                              .n_addresses = o->n_addresses,
                              .err = &o->err};
    o->done(&a, o->data);
    open_free(o);
}

static void finish(struct egress_open *o, int code)
{
    o->code = code;
    if (code != 0)
        slots_give_back(o);
    loop_defer(o->e->loop, on_finish, o);
}

/* A refusal or a failure: noted where the workspace is still known. */
static void fail(struct egress_open *o, enum decision_kind kind, int code)
{
    struct egress *e = o->e;
    struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(o->workspace_id));
    o->verdict.is_allowed = false;
    if (ws != NULL && !o->is_why) {
        const struct config_template *template = tenancy_template(e->c->tenancy, ws->template);
        static const struct config_egress_limits none;
        note(e, account_of(e, ws, template != NULL ? &template->egress_limits : &none), ws, kind, &o->target,
             &o->verdict);
    }
    (void)err_set(&o->err, code, "%s", o->verdict.text);
    finish(o, code);
}

static void fail_with(struct egress_open *o, enum decision_kind kind, int code, const char *reason,
                      const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static void fail_with(struct egress_open *o, enum decision_kind kind, int code, const char *reason,
                      const char *fmt, ...)
{
    va_list ap;
    o->verdict.reason = reason;
    va_start(ap, fmt);
    (void)vsnprintf(o->verdict.text, sizeof o->verdict.text, fmt, ap);
    va_end(ap);
    fail(o, kind, code);
}

static void connect_next(struct egress_open *o);
static bool judge(struct egress_open *o);

static bool is_tls_port(const struct tenancy *t, uint16_t port)
{
    for (size_t i = 0; i < t->egress.n_tls_ports; i++)
        if (t->egress.tls_ports[i] == port)
            return true;
    return false;
}

static void on_connected(int code, struct stream *s, const struct err *err, void *data)
{
    struct egress_open *o = data;
    struct egress *e = o->e;
    o->connecting = NULL;
    if (o->is_cancelled) {
        if (s != NULL)
            stream_close(s);
        open_free(o);
        return;
    }
    if (code != 0 && o->at < o->n_addresses && now_mono(e) < o->connect_end_ms) {
        connect_next(o);
        return;
    }
    if (code != 0) {
        fail_with(o, DECISION_FAILED, code == E_TIMEOUT ? E_TIMEOUT : E_UPSTREAM, "unreachable",
                  "%s: cannot connect: %s", o->target.text, err->msg);
        return;
    }
    if (o->tenancy != e->c->tenancy && !judge(o)) { /* a reload judges what is open, and this was not yet */
        stream_close(s);
        return;
    }
    struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(o->workspace_id));
    struct egress_stream *es =
        egress_stream_new(e, o->workspace, o->tenant, &o->target, &o->addresses[o->at - 1], o->sni,
                          is_tls_port(o->tenancy, o->target.port), s);
    DL_APPEND(e->streams, es);
    e->stats.open++;
    o->stream = &es->base;
    note(e, o->workspace, ws, DECISION_ALLOWED, &o->target, &o->verdict);
    o->workspace = o->tenant = NULL;
    if (!timer_is_active(&e->tick))
        timer_start(&e->tick, SWEEP_MS);
    finish(o, 0);
}

static void connect_next(struct egress_open *o)
{
    struct endpoint to = {.port = o->target.port};
    char text[ADDRESS_TEXT_MAX];
    int64_t now = now_mono(o->e), left;
    if (o->connect_end_ms == 0)
        o->connect_end_ms = now + CONNECT_ALL_MS;
    left = o->connect_end_ms - now;
    address_format(&o->addresses[o->at++], text);
    (void)snprintf(to.host, sizeof to.host, "%s", text);
    o->connecting = stream_connect(o->e->loop, &to, left < CONNECT_MS ? left : CONNECT_MS, on_connected, o);
}

/* Everything is looked at anew: the configuration may have changed while the name was resolved, or while it
 * was connected to. False: the opening has failed with that. */
static bool judge(struct egress_open *o)
{
    struct egress *e = o->e;
    struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(o->workspace_id));
    const struct config_template *template;
    const struct config_tenant *tenant;
    struct verdict_rules rules;
    tenancy_unref(o->tenancy);
    o->tenancy = tenancy_ref(e->c->tenancy);
    o->verdict = (struct verdict){.reason = ""}; /* its rule went with the former configuration */
    if (ws == NULL || !rules_of(e, ws, &rules, &template, &tenant)) {
        fail_with(o, DECISION_REFUSED, E_UNAUTHENTICATED, "gone", "this workspace is gone");
        return false;
    }
    o->sni = template->sni;
    if (verdict_name(&rules, &o->target, &o->verdict))
        verdict_addresses(&rules, &o->target, o->addresses, o->n_addresses, &o->verdict);
    if (!o->verdict.is_allowed)
        fail(o, DECISION_REFUSED, E_FORBIDDEN);
    return o->verdict.is_allowed;
}

/* Its addresses are known. */
static void go_on(struct egress_open *o)
{
    if (!judge(o))
        return;
    if (o->is_why)
        finish(o, 0);
    else
        connect_next(o);
}

static void on_resolved(const struct resolve_answer *a, void *data)
{
    struct egress_open *o = data;
    o->resolving = NULL;
    if (a->code == 0) {
        memcpy(o->addresses, a->addresses, a->n * sizeof *a->addresses);
        o->n_addresses = a->n;
        go_on(o);
        return;
    }
    if (a->code == E_CANCELLED && o->e->resolver != NULL) { /* a reload took another resolver */
        o->resolving = resolver_lookup(o->e->resolver, slice_str(o->target.host), on_resolved, o);
        return;
    }
    fail_with(o, DECISION_FAILED, a->code == E_TIMEOUT || a->code == E_UNAVAILABLE ? a->code : E_UPSTREAM,
              "unresolved", "%s: %s", o->target.host, a->err->msg);
}

static int slots_take(struct egress_open *o, const struct workspace *ws,
                      const struct config_template *template, const struct config_tenant *tenant,
                      struct err *err)
{
    struct egress *e = o->e;
    struct account *of_workspace = account_of(e, ws, &template->egress_limits);
    struct account *of_tenant = account_in(&e->tenants, tenant->name, &tenant->egress_limits);
    char whose[128];
    (void)snprintf(whose, sizeof whose, "tenant %.*s", SL_ARG(tenant->name));
    /* the workspace first: what its own limit refuses must not eat up what the tenant's others may do */
    int code = account_open(of_workspace, "this workspace", template->network_line, now_mono(e), now_wall(e),
                            &o->verdict.reason, err);
    if (code != 0)
        return code;
    o->workspace = of_workspace;
    code = account_open(of_tenant, whose, tenant->network_line, now_mono(e), now_wall(e), &o->verdict.reason,
                        err);
    if (code == 0)
        o->tenant = of_tenant;
    return code;
}

static void open_begin(struct egress_open *o)
{
    struct egress *e = o->e;
    struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(o->workspace_id));
    const struct config_template *template;
    const struct config_tenant *tenant;
    struct verdict_rules rules;
    struct err err = {0};
    o->tenancy = tenancy_ref(e->c->tenancy);
    if (e->is_closing || e->resolver == NULL) {
        fail_with(o, DECISION_FAILED, E_UNAVAILABLE, "unavailable", "the way out is closed just now");
        return;
    }
    if (ws == NULL || ws->state == WS_DELETING || !rules_of(e, ws, &rules, &template, &tenant)) {
        fail_with(o, DECISION_REFUSED, E_UNAUTHENTICATED, "gone", "this workspace is gone");
        return;
    }
    if (!verdict_name(&rules, &o->target, &o->verdict)) {
        fail(o, DECISION_REFUSED, E_FORBIDDEN);
        return;
    }
    if (!o->is_why && slots_take(o, ws, template, tenant, &err) != 0) {
        fail_with(o, DECISION_REFUSED, err.code, o->verdict.reason, "%s", err.msg);
        return;
    }
    if (o->target.is_address) {
        o->addresses[0] = o->target.address;
        o->n_addresses = 1;
        go_on(o);
    } else {
        o->resolving = resolver_lookup(e->resolver, slice_str(o->target.host), on_resolved, o);
    }
}

static struct egress_open *open_new(struct egress *e, struct slice workspace_id, const struct target *t,
                                    bool is_why, egress_done_cb done, void *data)
{
    struct egress_open *o = MEM_NEW(struct egress_open);
    o->e = e;
    o->target = *t;
    (void)snprintf(o->workspace_id, sizeof o->workspace_id, "%.*s", SL_ARG(workspace_id));
    o->is_why = is_why;
    o->done = done;
    o->data = data;
    o->verdict.reason = "";
    DL_APPEND(e->opens, o);
    open_begin(o);
    return o;
}

struct egress_open *egress_open(struct egress *e, struct slice workspace_id, const struct target *t,
                                egress_done_cb done, void *data)
{
    return open_new(e, workspace_id, t, false, done, data);
}

struct egress_open *egress_why(struct egress *e, struct slice workspace_id, const struct target *t,
                               egress_done_cb done, void *data)
{
    return open_new(e, workspace_id, t, true, done, data);
}

void egress_cancel(struct egress_open *o)
{
    o->is_cancelled = true;
    if (o->resolving != NULL) {
        resolve_cancel(o->resolving);
        o->resolving = NULL;
        slots_give_back(o);
        open_free(o);
    } else if (o->connecting != NULL) {
        slots_give_back(o);
        connect_cancel(o->connecting); /* on_connected frees */
    }                                  /* else on_finish does */
}

/* --- while it is open --- */

static void cut(struct egress_stream *s, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void cut(struct egress_stream *s, const char *reason, const char *fmt, ...)
{
    struct egress *e = s->egress;
    struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(s->workspace->key));
    struct verdict v = {.reason = reason};
    va_list ap;
    if (s->is_cut)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(v.text, sizeof v.text, fmt, ap);
    va_end(ap);
    note(e, s->workspace, ws, DECISION_CUT, &s->target, &v);
    egress_stream_cut(s);
}

static void window_check(struct egress_stream *s, int64_t wall)
{
    if (account_is_exhausted(s->workspace, wall) || account_is_exhausted(s->tenant, wall))
        cut(s, "window_bytes", "%s: the bytes of this window (`network.limits.bytes`) are used",
            s->target.text);
}

void egress_moved(struct egress_stream *s, size_t in, size_t out)
{
    struct egress *e = s->egress;
    struct account *both[] = {s->workspace, s->tenant};
    int64_t mono = now_mono(e), wall = now_wall(e);
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        both[i]->bytes_in += in;
        both[i]->bytes_out += out;
        account_charge(both[i], in + out, mono, wall);
    }
    e->stats.bytes_in += in;
    e->stats.bytes_out += out;
    egress_meter_moved(&e->meter);
    s->active_ms = mono;
    if (mono - s->touched_ms >= 1000) { /* traffic keeps it awake; once a second is enough */
        struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(s->workspace->key));
        if (ws != NULL)
            scheduler_touch(e->c->scheduler, ws);
        s->touched_ms = mono;
    }
    window_check(s, wall);
}

bool egress_must_wait(struct egress_stream *s)
{
    int64_t mono = now_mono(s->egress);
    struct egress *e = s->egress;
    if (s->is_throttled)
        return true;
    s->is_throttled = account_is_overdrawn(s->workspace, mono) || account_is_overdrawn(s->tenant, mono);
    if (s->is_throttled && e->n_throttled++ == 0 && !e->is_closing)
        timer_start(&e->tick, TICK_MS);
    return s->is_throttled;
}

void egress_ended(struct egress_stream *s)
{
    struct egress *e = s->egress;
    DL_DELETE(e->streams, s);
    e->n_throttled -= s->is_throttled;
    e->stats.open--;
    account_closed(s->workspace);
    account_closed(s->tenant);
    account_maybe_free(e, s->workspace);
    egress_maybe_closed(e);
}

void egress_settled(struct egress *e, struct account *a)
{
    if (a != NULL)
        account_maybe_free(e, a);
    egress_maybe_closed(e);
}

void egress_hello_refused(struct egress_stream *s, const char *reason, const char *text)
{
    cut(s, reason, "%s", text);
}

static void sweep(struct egress *e, int64_t mono)
{
    struct egress_stream *s, *tmp;
    int64_t wall = now_wall(e);
    DL_FOREACH_SAFE (e->streams, s, tmp) {
        int64_t idle_ms = s->workspace->limits.idle_ms;
        window_check(s, wall);
        if (s->hello_ms != 0 && s->awaits_hello && mono - s->hello_ms > HELLO_MS)
            cut(s, "bad_hello", "%s: the TLS hello is not whole after %lld s", s->target.text,
                (long long)(HELLO_MS / 1000));
        else if (idle_ms != 0 && !s->is_throttled && mono - s->active_ms > idle_ms)
            cut(s, "idle", "%s: nothing passed for %lld s (`network.limits.idle`)", s->target.text,
                (long long)(idle_ms / 1000));
    }
}

static void on_tick(void *data)
{
    struct egress *e = data;
    struct egress_stream *s, *tmp;
    int64_t mono = now_mono(e);
    DL_FOREACH_SAFE (e->streams, s, tmp) {
        if (e->n_throttled == 0)
            break;
        if (!s->is_throttled || account_is_overdrawn(s->workspace, mono) ||
            account_is_overdrawn(s->tenant, mono))
            continue;
        s->is_throttled = false;
        e->n_throttled--;
        egress_stream_go_on(s);
    }
    if (mono - e->swept_ms >= SWEEP_MS) {
        e->swept_ms = mono;
        sweep(e, mono);
    }
    if (e->streams != NULL && !e->is_closing)
        timer_start(&e->tick, e->n_throttled > 0 ? TICK_MS : SWEEP_MS);
}

/* --- life --- */

static void on_resolver_closed(void *data)
{
    struct egress *e = data;
    e->n_resolvers--;
    egress_maybe_closed(e);
}

static void resolver_make(struct egress *e)
{
    const struct config_resolve *r = &e->c->tenancy->resolve;
    struct err err = {0};
    /* those of the system may have changed as well */
    if (e->resolver != NULL && r->servers.n > 0 && slice_eq_str(r->servers, e->servers) &&
        r->timeout_ms == e->resolve_timeout_ms)
        return;
    if (e->resolver != NULL)
        resolver_close(e->resolver, on_resolver_closed, e);
    mem_free(e->servers);
    e->servers = mem_strndup(r->servers.p, r->servers.n);
    e->resolve_timeout_ms = r->timeout_ms;
    e->resolver = NULL;
    struct resolver_options o = {
        .servers = e->servers, .timeout_ms = r->timeout_ms, .inflight_max = LOOKUPS_MAX};
    if (resolver_new(e->loop, &o, &e->resolver, &err) == 0)
        e->n_resolvers++;
    else
        log_error("egress.no_resolver", LF_STR("detail", err.msg));
}

static void judge_open(struct egress *e)
{
    struct egress_stream *s, *tmp;
    DL_FOREACH_SAFE (e->streams, s, tmp) {
        struct workspace *ws = scheduler_find_id(e->c->scheduler, slice_str(s->workspace->key));
        const struct config_template *template;
        const struct config_tenant *tenant;
        struct verdict_rules rules;
        struct verdict v;
        if (ws == NULL || !rules_of(e, ws, &rules, &template, &tenant)) {
            cut(s, "gone", "this workspace is gone");
            continue;
        }
        s->workspace->limits = template->egress_limits;
        s->tenant->limits = tenant->egress_limits;
        if (verdict_name(&rules, &s->target, &v))
            verdict_addresses(&rules, &s->target, &s->address, 1, &v);
        if (!v.is_allowed)
            cut(s, v.reason, "%s", v.text);
    }
}

static void on_reserved_changed(void *data)
{
    judge_open(data);
}

struct egress *egress_new(struct controller *c)
{
    struct egress *e = MEM_NEW(struct egress);
    e->c = c;
    e->loop = &c->loop;
    timer_init(&e->tick, e->loop, on_tick, e);
    e->has_timer = true;
    egress_meter_init(&e->meter, e, c, &e->workspaces);
    e->reserved = reserved_set_new(c, on_reserved_changed, e);
    e->has_reserved = true;
    resolver_make(e);
    return e;
}

void egress_reload(struct egress *e)
{
    if (e->is_closing)
        return;
    reserved_set_reload(e->reserved);
    resolver_make(e);
    judge_open(e);
}

void egress_workspace_gone(struct egress *e, const char *workspace_id)
{
    struct egress_stream *s, *tmp;
    DL_FOREACH_SAFE (e->streams, s, tmp)
        if (strcmp(s->workspace->key, workspace_id) == 0)
            egress_stream_cut(s);
    struct account *a;
    HASH_FIND_STR(e->workspaces, workspace_id, a);
    if (a == NULL)
        return;
    a->is_gone = true;
    egress_meter_post(&e->meter, a);
    account_maybe_free(e, a);
}

static void egress_free(void *data)
{
    struct egress *e = data;
    struct account *a, *tmp;
    struct account **tables[] = {&e->workspaces, &e->tenants};
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        HASH_ITER (hh, *tables[i], a, tmp) {
            HASH_DEL(*tables[i], a);
            account_fini(a);
            mem_free(a);
        }
    }
    void (*closed)(void *) = e->closed;
    void *closed_data = e->closed_data;
    mem_free(e->servers);
    mem_free(e);
    closed(closed_data);
}

static void egress_maybe_closed(struct egress *e)
{
    if (!e->is_closing || e->is_closed_told || e->streams != NULL || e->opens != NULL || e->n_resolvers > 0 ||
        e->has_timer || e->has_reserved)
        return;
    egress_meter_close(&e->meter); /* the counts are final */
    if (e->meter.n_posting > 0)
        return;
    e->is_closed_told = true;
    loop_defer(e->loop, egress_free, e); /* streams that just ended are freed by calls deferred before */
}

static void on_reserved_closed(void *data)
{
    struct egress *e = data;
    e->has_reserved = false;
    egress_maybe_closed(e);
}

static void on_timer_closed(void *data)
{
    struct egress *e = data;
    e->has_timer = false;
    egress_maybe_closed(e);
}

void egress_close(struct egress *e, void (*closed)(void *data), void *data)
{
    struct egress_stream *s, *tmp;
    e->is_closing = true;
    e->closed = closed;
    e->closed_data = data;
    DL_FOREACH_SAFE (e->streams, s, tmp)
        egress_stream_cut(s);
    if (e->resolver != NULL)
        resolver_close(e->resolver, on_resolver_closed, e);
    e->resolver = NULL;
    reserved_set_close(e->reserved, on_reserved_closed, e);
    e->reserved = NULL;
    timer_close(&e->tick, on_timer_closed);
}

const struct account *egress_account(const struct egress *e, const char *workspace_id)
{
    struct account *a;
    HASH_FIND_STR(e->workspaces, workspace_id, a);
    return a;
}

const struct egress_stats *egress_stats(const struct egress *e)
{
    return &e->stats;
}
