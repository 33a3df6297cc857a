/* proxy: see proxy.h. The pass object lives in the exchange's arena; the upstream call it holds is cancelled
 * before the exchange goes. */
#include "controller/edge/proxy.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/edge/acp.h"
#include "controller/edge/streams.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define WAKE_WAIT_MS 25000

struct pass {
    struct request *rq;
    struct controller *c;
    struct http_call *call; /* NULL once it ended */
    struct proxy_target to;
    uint64_t body_bytes; /* of the request, so far */
    bool is_sse;
    bool is_counted;  /* among the workspace's streams */
    bool is_held;     /* the workspace is kept awake */
    bool is_answered; /* the answer's head was given */
};

/* --- headers --- */

static bool name_is_one_of(struct slice name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (slice_ieq_str(name, *list))
            return true;
    return false;
}

static bool name_starts(struct slice name, const char *prefix)
{
    size_t n = strlen(prefix);
    return name.n >= n && slice_ieq(slice_of(name.p, n), slice_of(prefix, n));
}

size_t proxy_upstream_headers(struct request *rq, const struct workspace *ws, bool is_upgrade,
                              struct http_header *h)
{
    static const char *const ours[] = {"authorization", "cookie",    "host",   "content-length",
                                       "expect",        "x-api-key", "origin", "forwarded",
                                       "x-real-ip",     "via",       NULL};
    const struct http_request *r = exchange_request(rq->ex);
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers && n < HTTP_HEADERS_MAX - 3; i++) {
        struct slice name = r->headers[i].name;
        if (name_is_one_of(name, ours) || name_starts(name, "x-forwarded-") || name_starts(name, "reeve-") ||
            http_is_hop_by_hop(r->headers, r->n_headers, name))
            continue;
        h[n++] = r->headers[i];
    }
    h[n++] = (struct http_header){SL("Host"), SL("127.0.0.1")};
    h[n++] = (struct http_header){SL("Authorization"),
                                  slice_str(arena_printf(request_arena(rq), "Bearer %s", ws->server_token))};
    if (is_upgrade)
        h[n++] = (struct http_header){SL("Upgrade"), r->upgrade};
    return n;
}

size_t proxy_answer_headers(struct request *rq, const struct http_response *r, struct http_header *h)
{
    /* what frames, identifies or steers: ours to say, or the front proxy's and browser's to be kept from */
    static const char *const dropped[] = {"content-length",
                                          "date",
                                          "vary",
                                          "set-cookie",
                                          "set-cookie2",
                                          "x-content-type-options",
                                          "x-request-id",
                                          "service-worker-allowed",
                                          "clear-site-data",
                                          "strict-transport-security",
                                          "alt-svc",
                                          "nel",
                                          "report-to",
                                          "reporting-endpoints",
                                          "refresh",
                                          "www-authenticate",
                                          "x-sendfile",
                                          "location",
                                          NULL};
    size_t n = request_headers(rq, h);
    for (size_t i = 0; i < r->n_headers && n < HTTP_HEADERS_MAX; i++) {
        struct slice name = r->headers[i].name;
        if (name_is_one_of(name, dropped) || name_starts(name, "access-control-") ||
            name_starts(name, "x-accel-") || http_is_hop_by_hop(r->headers, r->n_headers, name))
            continue;
        h[n++] = r->headers[i];
    }
    return n;
}

/* --- the two directions --- */

static void pass_release(struct pass *p)
{
    if (p->is_held)
        scheduler_unhold(p->c->scheduler, slice_str(p->to.workspace_id));
    if (p->is_counted)
        streams_leave(p->c, p->to.workspace_id);
    p->is_held = p->is_counted = false;
}

/* An event stream begins: false when it was refused. */
static bool stream_enter(struct pass *p)
{
    struct workspace *ws = scheduler_find_id(p->c->scheduler, slice_str(p->to.workspace_id));
    p->is_counted = streams_enter(p->c, p->to.workspace_id);
    if (!p->is_counted) {
        http_call_cancel(p->call);
        p->call = NULL;
        request_problem(p->rq, E_QUOTA, "%d event streams are open on this workspace: close some",
                        STREAMS_MAX);
        return false;
    }
    if (ws != NULL)
        scheduler_hold(p->c->scheduler, ws);
    p->is_held = ws != NULL;
    return true;
}

static void on_answer_head(struct http_call *call, const struct http_response *r, void *data)
{
    (void)call;
    struct pass *p = data;
    struct http_header h[HTTP_HEADERS_MAX + REQUEST_HEADERS_MAX];
    size_t n = proxy_answer_headers(p->rq, r, h);
    uint64_t length = r->has_no_body ? 0 : (r->has_length ? r->length : EXCHANGE_LENGTH_UNKNOWN);
    struct slice type = http_find(r->headers, r->n_headers, "content-type");
    p->is_sse = slice_starts(type, SL("text/event-stream"));
    if (p->is_sse && !stream_enter(p))
        return;
    p->is_answered = true;
    p->c->requests_total[r->status / 100 % 6]++;
    (void)exchange_head(p->rq->ex, r->status, h, n, length); /* a broken client is told by on_abort */
    if (p->is_sse) {
        exchange_endless(p->rq->ex);
        exchange_flush(p->rq->ex);
    }
}

static void on_answer_body(struct http_call *call, struct slice bytes, void *data)
{
    struct pass *p = data;
    if (exchange_write(p->rq->ex, bytes) == E_AGAIN)
        http_call_pause(call);
}

static void on_answer_end(struct http_call *call, void *data)
{
    (void)call;
    struct pass *p = data;
    struct exchange *ex = p->rq->ex;
    p->call = NULL;
    pass_release(p);
    request_gone(p->rq);
    exchange_end(ex);
}

static void on_answer_error(struct http_call *call, int code, const struct err *err, void *data)
{
    (void)call;
    struct pass *p = data;
    struct exchange *ex = p->rq->ex;
    p->call = NULL;
    pass_release(p);
    struct workspace *ws = scheduler_find_id(p->c->scheduler, slice_str(p->to.workspace_id));
    /* a wait in our own queue says nothing about the server */
    if (ws != NULL && code != E_TIMEOUT && code != E_UNAVAILABLE)
        scheduler_suspect(p->c->scheduler, ws);
    if (!p->is_answered) {
        request_problem(p->rq, code == E_TIMEOUT ? E_TIMEOUT : E_UPSTREAM, "the server in the sandbox: %s",
                        err->msg);
        return;
    }
    request_gone(p->rq);
    /* A half answer must not look whole; an event stream has no whole, and its readers reconnect after a
     * clean end. */
    if (p->is_sse)
        exchange_end(ex);
    else
        exchange_abort(ex);
}

static void on_request_drain(struct http_call *call, void *data)
{
    (void)call;
    struct pass *p = data;
    exchange_body_start(p->rq->ex);
}

static void tunnel_open(struct controller *c, const char *workspace_id, struct stream *client,
                        struct stream *upstream, struct slice client_first, struct slice upstream_first);

/* The whole 101 head; false when it does not fit or has an illegal field: half a head would let the sandbox
 * write the rest of it. */
static bool upgrade_head(struct pass *p, const struct http_response *r, struct buf *head)
{
    struct http_header h[HTTP_HEADERS_MAX + REQUEST_HEADERS_MAX];
    size_t n = proxy_answer_headers(p->rq, r, h);
    int code = http_write_status(head, 101, NULL);
    for (size_t i = 0; i < n && code == 0; i++)
        code = http_write_header(head, h[i].name, h[i].value);
    if (code == 0)
        code = http_write_header(head, SL("Upgrade"), r->upgrade);
    if (code == 0)
        code = http_write_header_str(head, "Connection", "Upgrade");
    if (code == 0)
        code = http_write_end(head);
    return code == 0 && !head->is_full;
}

static void on_upgrade(struct http_call *call, const struct http_response *r, struct stream *s,
                       struct slice rest, void *data)
{
    (void)call;
    struct pass *p = data;
    struct buf head = BUF_INIT(HTTP_HEAD_BYTES_MAX + 8192);
    struct slice client_rest = SLICE_EMPTY;
    struct controller *c = p->c;
    char id[sizeof p->to.workspace_id];
    (void)snprintf(id, sizeof id, "%s", p->to.workspace_id);
    p->call = NULL;
    if (c->is_draining || !upgrade_head(p, r, &head)) {
        stream_reset(s);
        buf_fini(&head);
        exchange_close_after(p->rq->ex);
        if (c->is_draining)
            request_problem(p->rq, E_DRAINING, "this controller shuts down");
        else
            request_problem(p->rq, E_UPSTREAM,
                            "the server in the sandbox answered the upgrade with an unusable head");
        return;
    }
    c->requests_total[1]++;
    struct exchange *ex = p->rq->ex;
    request_gone(p->rq);
    struct stream *client = exchange_upgrade(ex, buf_view(&head), &client_rest);
    buf_fini(&head);
    if (client == NULL)
        stream_reset(s);
    else
        tunnel_open(c, id, client, s, client_rest, rest);
}

static const struct http_call_events call_events = {.on_head = on_answer_head,
                                                    .on_body = on_answer_body,
                                                    .on_end = on_answer_end,
                                                    .on_error = on_answer_error,
                                                    .on_drain = on_request_drain,
                                                    .on_upgrade = on_upgrade};

static void on_request_body(struct exchange *ex, struct slice bytes, void *data)
{
    struct pass *p = data;
    p->body_bytes += bytes.n;
    if (p->call == NULL)
        return; /* it answered early; what is left of the body is drained by the server */
    if (p->body_bytes > PROXY_BODY_MAX && !p->is_answered) {
        http_call_cancel(p->call);
        p->call = NULL;
        pass_release(p);
        exchange_close_after(ex);
        request_problem(p->rq, E_TOO_LARGE, "body: the server in the sandbox takes at most %llu bytes",
                        (unsigned long long)PROXY_BODY_MAX);
        return;
    }
    if (http_call_write(p->call, bytes) == E_AGAIN)
        exchange_body_stop(ex);
}

static void on_request_end(struct exchange *ex, void *data)
{
    (void)ex;
    struct pass *p = data;
    if (p->call != NULL)
        http_call_end(p->call);
}

static void on_client_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct pass *p = data;
    if (p->call != NULL)
        http_call_cancel(p->call);
    p->call = NULL;
    pass_release(p);
    request_gone(p->rq);
}

static void on_client_drain(struct exchange *ex, void *data)
{
    (void)ex;
    struct pass *p = data;
    if (p->call != NULL)
        http_call_resume(p->call);
}

static const struct exchange_events exchange_events = {.on_body = on_request_body,
                                                       .on_body_end = on_request_end,
                                                       .on_abort = on_client_gone,
                                                       .on_drain = on_client_drain};

/* An event stream ends cleanly, so that its reader comes back. Others have an end of their own. */
static void on_drain(struct request *rq, void *data)
{
    struct pass *p = data;
    struct exchange *ex = rq->ex;
    if (!p->is_sse)
        return;
    http_call_cancel(p->call);
    p->call = NULL;
    pass_release(p);
    request_gone(rq);
    exchange_end(ex);
}

static void pass_start(struct pass *p)
{
    struct request *rq = p->rq;
    const struct http_request *r = exchange_request(rq->ex);
    struct http_header h[HTTP_HEADERS_MAX];
    bool is_upgrade = p->to.row->kind == PROXIED_WEBSOCKET;
    struct slice target = slice_of(p->to.path.p, (size_t)(r->target.p + r->target.n - p->to.path.p));
    if (is_upgrade && query_find(r->query, "access_token").p != NULL) {
        struct buf out = BUF_INIT(HTTP_TARGET_BYTES_MAX * 2);
        (void)buf_slice(&out, p->to.path);
        size_t path_n = out.n;
        (void)buf_byte(&out, '?');
        (void)query_without(r->query, "access_token", &out);
        target = arena_slice(request_arena(rq), slice_of(out.p, out.n == path_n + 1 ? path_n : out.n));
        buf_fini(&out);
    }
    struct http_call_options o = {
        .method = r->method,
        .target = target,
        .headers = h,
        .n_headers = proxy_upstream_headers(rq, p->to.ws, is_upgrade, h),
        .has_body = r->is_chunked || r->length > 0,
        .length = r->is_chunked ? HTTP_CALL_CHUNKED : r->length,
        .is_upgrade = is_upgrade,
    };
    rq->c->proxied_total++;
    rq->on_drain = on_drain;
    rq->data = p;
    p->call = http_call_start(p->to.ws->server, &o, &call_events, p);
    exchange_own(rq->ex, &exchange_events, p);
    if (o.has_body)
        exchange_body_start(rq->ex);
}

/* --- tunnels --- */

struct open_tunnel {
    struct controller *c;
    struct tunnel *tunnel;
    char workspace_id[40];
    struct open_tunnel *prev, *next;
};

static void on_tunnel_done(void *data)
{
    struct open_tunnel *t = data;
    struct controller *c = t->c;
    scheduler_unhold(c->scheduler, slice_str(t->workspace_id));
    DL_DELETE(c->tunnels, t);
    mem_free(t);
    if (c->tunnels == NULL && c->on_tunnels_closed != NULL)
        c->on_tunnels_closed(c);
}

static void tunnel_open(struct controller *c, const char *workspace_id, struct stream *client,
                        struct stream *upstream, struct slice client_first, struct slice upstream_first)
{
    struct open_tunnel *t = MEM_NEW(struct open_tunnel);
    struct workspace *ws = scheduler_find_id(c->scheduler, slice_str(workspace_id));
    t->c = c;
    (void)snprintf(t->workspace_id, sizeof t->workspace_id, "%s", workspace_id);
    DL_APPEND(c->tunnels, t);
    if (ws != NULL)
        scheduler_hold(c->scheduler, ws);
    t->tunnel = tunnel_start(client, upstream, client_first, upstream_first, on_tunnel_done, t);
}

void proxy_close(struct controller *c, void (*closed)(void *controller))
{
    struct open_tunnel *t;
    c->on_tunnels_closed = closed;
    DL_FOREACH (c->tunnels, t)
        tunnel_close(t->tunnel);
    if (c->tunnels == NULL)
        loop_defer(&c->loop, closed, c);
}

void proxy_drain(struct controller *c)
{
    struct open_tunnel *t;
    DL_FOREACH (c->tunnels, t) {
        tunnel_close(t->tunnel);
    }
    struct request *rq, *next;
    DL_FOREACH_SAFE (c->requests, rq, next) {
        if (rq->on_drain != NULL)
            rq->on_drain(rq, rq->data);
    }
}

/* --- arrival --- */

struct arrival {
    struct request *rq;
    struct proxy_target to;
    struct workspace_wait *wait;
};

/* One place for every refusal after authentication: what an ACP POST gets must not break its client. */
static void refuse(struct arrival *a, const struct err *err)
{
    a->rq->c->refused_total++;
    if (a->to.row != NULL && a->to.row->kind == PROXIED_ACP &&
        slice_eq_str(exchange_request(a->rq->ex)->method, "POST"))
        acp_refuse(a->rq, err);
    else
        request_error(a->rq, err);
}

static void go(struct arrival *a)
{
    struct request *rq = a->rq;
    scheduler_touch(rq->c->scheduler, a->to.ws);
    if (a->to.row->kind == PROXIED_ACP || a->to.row->kind == PROXIED_ACP_LIST) {
        acp_request(rq, &a->to);
        return;
    }
    struct pass *p = ARENA_NEW(request_arena(rq), struct pass);
    p->rq = rq;
    p->c = rq->c;
    p->to = a->to;
    pass_start(p);
}

static void on_awake(const struct workspace_answer *answer, void *data)
{
    struct arrival *a = data;
    a->wait = NULL;
    a->rq->on_gone = NULL;
    a->rq->on_drain = NULL;
    struct workspace *ws = scheduler_find_id(a->rq->c->scheduler, slice_str(a->to.workspace_id));
    if (answer->code != 0) {
        refuse(a, answer->err);
    } else if (ws == NULL || ws->state != WS_READY || ws->server == NULL) {
        struct err err = {0};
        err_set(&err, E_UNAVAILABLE, "the workspace went away while it was woken");
        refuse(a, &err);
    } else {
        a->to.ws = ws;
        go(a);
    }
}

static void on_gone_asleep(struct request *rq, void *data)
{
    (void)rq;
    struct arrival *a = data;
    if (a->wait != NULL)
        workspace_wait_cancel(a->wait);
}

static void on_drain_asleep(struct request *rq, void *data)
{
    struct arrival *a = data;
    struct err err = {0};
    if (a->wait != NULL)
        workspace_wait_cancel(a->wait);
    a->wait = NULL;
    rq->on_gone = NULL;
    rq->on_drain = NULL;
    err_set(&err, E_DRAINING, "this controller shuts down");
    refuse(a, &err);
}

static void on_nudged(const struct workspace_answer *answer, void *data)
{
    (void)answer;
    (void)data; /* the wake was the point; the client asks again */
}

/* Not ready: health says so at once (the SDK asks again), everything else waits, bounded. */
static void wake(struct arrival *a)
{
    struct request *rq = a->rq;
    struct billing_budget_view budget;
    struct err over = {0};
    if (a->to.ws->wish != WISH_RUNNING &&
        billing_gate(rq->c->billing, rq->who.tenant->name, a->to.ws->namespace, &budget, &over) != 0) {
        refuse(a, &over);
        return;
    }
    if (a->to.row->kind == PROXIED_HEALTH) {
        struct workspace *ws = a->to.ws;
        struct err err = {0};
        err_set(&err, E_UNAVAILABLE, "workspace is %s%s%s", workspace_state_name(ws->state),
                ws->reason[0] != '\0' ? ": " : "", ws->reason);
        (void)scheduler_wake(rq->c->scheduler, ws, 0, on_nudged, NULL);
        refuse(a, &err);
        return;
    }
    rq->on_gone = on_gone_asleep;
    rq->on_drain = on_drain_asleep;
    rq->data = a;
    a->wait = scheduler_wake(rq->c->scheduler, a->to.ws, WAKE_WAIT_MS, on_awake, a);
}

/* "/w/{ns}/{name}/rest" into its parts; false when it has not that shape. */
static bool split(struct slice path, struct slice *ns, struct slice *name, struct slice *rest)
{
    struct slice left = slice_from(path, strlen("/w/"));
    if (!slice_cut(&left, '/', ns) || !slice_cut(&left, '/', name))
        return false;
    *rest = slice_of(left.p - 1, left.n + 1);
    return true;
}

static int admit(struct arrival *a, struct err *err)
{
    struct request *rq = a->rq;
    const struct http_request *r = exchange_request(rq->ex);
    struct slice ns, name;
    if (!split(r->path, &ns, &name, &a->to.path))
        return err_set(err, E_NOT_FOUND, "expected /w/{namespace}/{name}/…");
    if (rq->who.tenant == NULL)
        return err_set(err, E_INVALID, "a fleet key must say whom it acts for: Reeve-Tenant: <tenant>");
    if (!name_is_valid(ns) || !name_is_valid(name) || !principal_has_namespace(&rq->who, ns))
        return err_set(err, E_NOT_FOUND, "no such workspace");
    a->to.ws = scheduler_find(rq->c->scheduler, rq->who.tenant->name, ns, name);
    if (a->to.ws == NULL || a->to.ws->state == WS_DELETING)
        return err_set(err, E_NOT_FOUND, "no such workspace");
    (void)snprintf(a->to.workspace_id, sizeof a->to.workspace_id, "%s", a->to.ws->id);
    if (a->to.row == NULL)
        return err_set(err, E_NOT_FOUND, "the path is not among those that Reeve passes on");
    int code = proxied_authorise(a->to.row, rq->who.role, r->query, err);
    if (code != 0)
        return code;
    if ((a->to.row->kind == PROXIED_WEBSOCKET) !=
        (r->wants_upgrade && slice_ieq_str(r->upgrade, "websocket")))
        return err_set(err, E_INVALID,
                       a->to.row->kind == PROXIED_WEBSOCKET ? "this path is a WebSocket"
                                                            : "this path cannot be upgraded");
    if (rq->c->is_draining)
        return err_set(err, E_DRAINING, "this controller shuts down");
    if (r->has_length && r->length > PROXY_BODY_MAX)
        return err_set(err, E_TOO_LARGE,
                       "body: the server in the sandbox takes at most %llu bytes, this has %llu",
                       (unsigned long long)PROXY_BODY_MAX, (unsigned long long)r->length);
    return 0;
}

/* The SDK retries a failing health check for ever and silently: leave a trace for who wonders, one a second.
 */
static void note_unauthenticated(struct request *rq, const struct http_request *r, const struct err *err)
{
    int64_t now = clock_mono_ms(rq->c->loop.clock);
    if (now - rq->c->unauthenticated_noted_ms < 1000)
        return;
    rq->c->unauthenticated_noted_ms = now;
    log_warn("proxy.unauthenticated", LF_STR("request", rq->id), LF_SLICE("path", r->path),
             LF_STR("detail", err->msg));
}

void proxy_request(struct request *rq)
{
    const struct http_request *r = exchange_request(rq->ex);
    struct err err = {0};
    struct arrival *a = ARENA_NEW(request_arena(rq), struct arrival);
    bool is_websocket = r->wants_upgrade && slice_ieq_str(r->upgrade, "websocket");
    a->rq = rq;
    struct slice ns, name;
    if (split(r->path, &ns, &name, &a->to.path))
        a->to.row = proxied_find(r->method, a->to.path, &a->to.param);
    int code = identity_of_request(rq->c, rq->tenancy, request_arena(rq), r, SLICE_NULL, is_websocket,
                                   &rq->who, &err);
    if (code == E_UNAUTHENTICATED) {
        note_unauthenticated(rq, r, &err);
        request_error(rq, &err);
        return;
    }
    if (code != 0) {
        refuse(a, &err);
        return;
    }
    if (admit(a, &err) != 0) {
        if (err.code == E_TOO_LARGE)
            exchange_close_after(rq->ex);
        refuse(a, &err);
    } else if (a->to.row->kind == PROXIED_ACP && slice_eq_str(r->method, "GET")) {
        acp_request(
            rq, &a->to); /* a reader alone neither wakes a workspace nor keeps it awake: its stream is held */
    } else if (a->to.ws->state == WS_READY && a->to.ws->server != NULL) {
        go(a);
    } else {
        wake(a);
    }
}
