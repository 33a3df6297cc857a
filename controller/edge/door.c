/* door: see door.h. Prompts and answers pass through and are never kept or logged. */
#include "controller/edge/door.h"

#include "base/core/hash.h"
#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/edge/forward.h"
#include "controller/edge/peek.h"
#include "controller/edge/request.h"
#include "controller/edge/upstream.h"

#include <stdio.h>
#include <string.h>

#define DOOR_CONNECTIONS_MAX 128           /* of one workspace: descriptors are everybody's */
#define HELD_BYTES_MAX       (1024 * 1024) /* of a body whose model is awaited */
#define DOOR_BODY_MAX        ((uint64_t)64 * 1024 * 1024)
/* A model may think for minutes before its first byte; a gateway that is silent for longer is taken for dead.
 */
#define GATEWAY_SILENCE_MS ((int64_t)15 * 60 * 1000)

/* The connections of one workspace have a server of their own, so that their number is limited one by one. */
struct door_server {
    struct door *door;
    char workspace_id[40];
    struct server *server;
    UT_hash_handle hh;
};

struct door {
    struct controller *c;
    struct door_server *servers;
    size_t n_closing;
    struct upstreams *upstreams;
    void (*closed)(void *data); /* while it closes */
    void *closed_data;
    struct door_stats stats;
};

struct door_call {
    struct door *door;
    struct exchange *ex;
    struct http_call *call;
    struct peek *peek; /* NULL: the model does not matter */
    struct buf held;   /* of the body, until its model is known */
    char workspace_id[40];
    uint64_t body_bytes;
    bool is_answered, is_sse, is_held;
};

void door_reload(struct door *d)
{
    upstreams_apply(d->upstreams, d->c->tenancy);
}

/* --- answers of our own, in a shape that both model APIs' clients read --- */

static void refuse(struct door *d, struct exchange *ex, const struct err *err)
{
    struct buf out = BUF_INIT(ERR_MSG_MAX * 8);
    struct jsonw w;
    struct http_header h[] = {{SL("Content-Type"), SL("application/json")}};
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kstr(&w, "type", "error");
    jsonw_key(&w, "error");
    jsonw_object(&w);
    jsonw_kstr(&w, "type", err->code == E_UNAUTHENTICATED ? "authentication_error" : "invalid_request_error");
    jsonw_kstr(&w, "code", err_name(err->code));
    jsonw_kstr(&w, "message", err->msg);
    jsonw_object_end(&w);
    jsonw_object_end(&w);
    d->stats.refused++;
    /* 400 stops a client for good, and is shown; 402 is not known to the vendors' SDKs, 403 is taken for a
     * bad key, 429 and 5xx make them try again */
    bool is_final = err->code == E_BUDGET || err->code == E_FORBIDDEN;
    exchange_send(ex, is_final ? 400 : err_http_status(err->code), h, 1, buf_view(&out));
    buf_fini(&out);
}

/* --- the two directions --- */

static void call_free(struct door_call *dc)
{
    if (dc->is_held)
        scheduler_unhold(dc->door->c->scheduler, slice_str(dc->workspace_id));
    dc->is_held = false;
    buf_fini(&dc->held);
}

static void on_head(struct http_call *call, const struct http_response *r, void *data)
{
    (void)call;
    struct door_call *dc = data;
    struct http_header h[HTTP_HEADERS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers; i++) {
        struct slice name = r->headers[i].name;
        if (http_is_hop_by_hop(r->headers, r->n_headers, name) || slice_ieq_str(name, "content-length") ||
            slice_ieq_str(name, "date") || slice_ieq_str(name, "set-cookie"))
            continue;
        h[n++] = r->headers[i];
    }
    dc->is_answered = true;
    dc->is_sse = slice_starts(http_find(r->headers, r->n_headers, "content-type"), SL("text/event-stream"));
    (void)exchange_head(dc->ex, r->status, h, n,
                        r->has_no_body ? 0 : (r->has_length ? r->length : EXCHANGE_LENGTH_UNKNOWN));
    if (dc->is_sse)
        exchange_flush(dc->ex);
}

static void on_body(struct http_call *call, struct slice bytes, void *data)
{
    struct door_call *dc = data;
    if (exchange_write(dc->ex, bytes) == E_AGAIN)
        http_call_pause(call);
}

static void on_end(struct http_call *call, void *data)
{
    (void)call;
    struct door_call *dc = data;
    dc->call = NULL;
    call_free(dc);
    exchange_end(dc->ex);
}

static void on_error(struct http_call *call, int code, const struct err *cause, void *data)
{
    (void)call;
    struct door_call *dc = data;
    struct err err = {0};
    dc->call = NULL;
    dc->door->stats.failed++;
    call_free(dc);
    if (dc->is_answered) {
        exchange_abort(
            dc->ex); /* a cut stream must not look complete: the agent would take it for the whole answer */
        return;
    }
    err_set(&err, code == E_TIMEOUT ? E_TIMEOUT : E_UPSTREAM, "the gateway: %s", cause->msg);
    refuse(dc->door, dc->ex, &err);
}

static void on_call_drain(struct http_call *call, void *data)
{
    (void)call;
    exchange_body_start(((struct door_call *)data)->ex);
}

static const struct http_call_events call_events = {.on_head = on_head,
                                                    .on_body = on_body,
                                                    .on_end = on_end,
                                                    .on_error = on_error,
                                                    .on_drain = on_call_drain};

/* The body is of no use any more: what came of an answer is cut, else it is refused. */
static void call_refuse(struct door_call *dc, const struct err *err)
{
    if (dc->call != NULL)
        http_call_cancel(dc->call);
    dc->call = NULL;
    call_free(dc);
    if (dc->is_answered) {
        exchange_abort(dc->ex);
        return;
    }
    exchange_close_after(dc->ex);
    refuse(dc->door, dc->ex, err);
}

static int call_begin(struct door_call *dc, struct err *err);

/* Holds the body back until its model is known and may be used. True: the call is under way and `bytes` are
 * to be passed on; false: held, or refused. */
static bool body_judge(struct door_call *dc, struct slice bytes)
{
    struct err err = {0};
    if (peek_feed(dc->peek, bytes, &err) != 0) {
        call_refuse(dc, &err);
        return false;
    }
    if (dc->call != NULL || dc->is_answered)
        return true;
    struct slice model = peek_model(dc->peek);
    if (buf_slice(&dc->held, bytes) != 0)
        err_set(&err, E_TOO_LARGE, "body: `model` must come within its first %d bytes", HELD_BYTES_MAX);
    else if (model.p != NULL && billing_admit_model(dc->door->c->billing, model, &err) == 0)
        (void)call_begin(dc, &err);
    if (err.code != 0) {
        call_refuse(dc, &err);
    } else if (dc->call != NULL) {
        if (http_call_write(dc->call, buf_view(&dc->held)) == E_AGAIN)
            exchange_body_stop(dc->ex);
        buf_fini(&dc->held);
    }
    return false;
}

static void on_request_body(struct exchange *ex, struct slice bytes, void *data)
{
    struct door_call *dc = data;
    struct err err = {0};
    dc->body_bytes += bytes.n;
    if (dc->body_bytes > DOOR_BODY_MAX) {
        err_set(&err, E_TOO_LARGE, "body: more than %llu bytes", (unsigned long long)DOOR_BODY_MAX);
        call_refuse(dc, &err);
        return;
    }
    if (dc->peek != NULL && !body_judge(dc, bytes))
        return;
    if (dc->call != NULL && http_call_write(dc->call, bytes) == E_AGAIN)
        exchange_body_stop(ex);
}

static void on_request_end(struct exchange *ex, void *data)
{
    (void)ex;
    struct door_call *dc = data;
    struct err err = {0};
    if (dc->call != NULL) {
        http_call_end(dc->call);
    } else if (dc->peek != NULL && !dc->is_answered) {
        err_set(&err, E_INVALID, "body: it names no `model`, and models without a price are refused");
        call_refuse(dc, &err);
    }
}

static void on_client_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct door_call *dc = data;
    if (dc->call != NULL)
        http_call_cancel(dc->call); /* the abort travels on: the provider stops generating */
    dc->call = NULL;
    call_free(dc);
}

static void on_client_drain(struct exchange *ex, void *data)
{
    (void)ex;
    struct door_call *dc = data;
    if (dc->call != NULL)
        http_call_resume(dc->call);
}

static const struct exchange_events exchange_events = {.on_body = on_request_body,
                                                       .on_body_end = on_request_end,
                                                       .on_abort = on_client_gone,
                                                       .on_drain = on_client_drain};

/* --- arrival --- */

static const char *const credential_headers[] = {"x-api-key", "authorization", "api-key", "x-goog-api-key",
                                                 "ocp-apim-subscription-key"};

static struct slice bearer_of(struct slice value)
{
    struct slice scheme;
    return slice_cut(&value, ' ', &scheme) && slice_ieq_str(scheme, "bearer") ? slice_trim(value)
                                                                              : SLICE_NULL;
}

/* The key of the request, and under which header it came. Whatever could be taken for a credential must be
 * the same key: a gateway that prefers another header than we looked at would book the call to somebody else.
 */
static int key_of(const struct http_request *r, const struct workspace *ws, size_t *ret_header,
                  struct slice *ret_key, struct err *err)
{
    char hash[SHA256_HEX_SIZE];
    *ret_key = SLICE_NULL;
    for (size_t i = 0; i < ARRAY_LEN(credential_headers); i++) {
        struct slice value = http_find(r->headers, r->n_headers, credential_headers[i]);
        if (value.p == NULL)
            continue;
        if (http_count(r->headers, r->n_headers, credential_headers[i]) > 1)
            return err_set(err, E_UNAUTHENTICATED, "several %s headers", credential_headers[i]);
        if (i == 1)
            value = bearer_of(value);
        if (value.p == NULL || i > 1)
            return err_set(err, E_UNAUTHENTICATED, "the key is wanted as x-api-key or Authorization: Bearer");
        sha256_hex(value, hash);
        if (!crypto_equal(hash, ws->llm_key_hash, SHA256_HEX_SIZE - 1))
            return err_set(err, E_UNAUTHENTICATED, "the key is not this workspace's");
        if (ret_key->p == NULL) {
            *ret_key = value;
            *ret_header = i;
        }
    }
    return ret_key->p != NULL ? 0 : err_set(err, E_UNAUTHENTICATED, "the workspace's key is wanted");
}

static bool name_starts(struct slice name, const char *prefix)
{
    size_t n = strlen(prefix);
    return name.n >= n && slice_ieq(slice_of(name.p, n), slice_of(prefix, n));
}

/* The caller's headers, but for framing, what steers a gateway (call ids, routing, tags are not the agent's
 * to say), and every credential; then the one canonical credential. */
static size_t gateway_headers(struct exchange *ex, const struct upstream *up, size_t header, struct slice key,
                              struct http_header *h)
{
    static const char *const dropped[] = {"host", "content-length", "expect", "cookie", "forwarded", "via"};
    static const char *const dropped_prefixes[] = {
        "x-litellm-", "litellm",       "langfuse",     "x-mcp-",    "x-portkey-", "x-original-",
        "x-rewrite-", "x-http-method", "x-forwarded-", "x-real-ip", "reeve-"};
    const struct http_request *r = exchange_request(ex);
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers && n < HTTP_HEADERS_MAX - 2; i++) {
        struct slice name = r->headers[i].name;
        bool is_dropped = http_is_hop_by_hop(r->headers, r->n_headers, name);
        for (size_t k = 0; k < ARRAY_LEN(dropped_prefixes); k++)
            is_dropped = is_dropped || name_starts(name, dropped_prefixes[k]);
        for (size_t k = 0; k < ARRAY_LEN(dropped); k++)
            is_dropped = is_dropped || slice_ieq_str(name, dropped[k]);
        for (size_t k = 0; k < ARRAY_LEN(credential_headers); k++)
            is_dropped = is_dropped || slice_ieq_str(name, credential_headers[k]);
        if (!is_dropped)
            h[n++] = r->headers[i];
    }
    h[n++] = (struct http_header){SL("Host"), slice_str(up->authority)};
    if (header == 0)
        h[n++] = (struct http_header){SL("x-api-key"), key};
    else
        h[n++] = (struct http_header){
            SL("Authorization"), slice_str(arena_printf(exchange_arena(ex), "Bearer %.*s", SL_ARG(key)))};
    return n;
}

/* Plain segments only, and no credential in the query: what is judged here is what the gateway routes. */
static int target_check(const struct http_request *r, struct err *err)
{
    static const char *const names[] = {"key", "api_key", "api-key", "access_token"};
    for (size_t i = 0; i < r->path.n; i++) {
        char c = r->path.p[i], next = i + 1 < r->path.n ? r->path.p[i + 1] : 'a';
        if (c == '%' || c == '\\' || c == ';' || (c == '/' && (next == '/' || next == '.')))
            return err_set(err, E_INVALID, "path: empty, dotted or encoded segments are not passed on");
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (query_find(r->query, names[i]).p != NULL)
            return err_set(err, E_INVALID, "query: `%s` is not passed on", names[i]);
    return 0;
}

/* 0 and the way to the gateway, or why not. */
static int admit(struct door *d, struct exchange *ex, const struct workspace *ws, const struct upstream **ret,
                 size_t *ret_header, struct slice *ret_key, struct err *err)
{
    const struct http_request *r = exchange_request(ex);
    const struct config_tenant *t = ws != NULL ? tenancy_tenant(d->c->tenancy, ws->tenant) : NULL;
    struct billing_budget_view budget;
    if (t == NULL || ws->state == WS_DELETING)
        return err_set(err, E_UNAUTHENTICATED, "this workspace is gone");
    int code = key_of(r, ws, ret_header, ret_key, err);
    if (code != 0)
        return code;
    if (!slice_starts(r->path, SL("/v1/")) || !slice_eq_str(r->method, "POST"))
        return err_set(err, E_NOT_FOUND, "only POST /v1/… goes through this door");
    code = target_check(r, err);
    if (code != 0)
        return code;
    if (t->gateway == NULL)
        return err_set(err, E_UNAVAILABLE, "tenant %.*s has no gateway", SL_ARG(t->name));
    if (r->has_length && r->length > DOOR_BODY_MAX)
        return err_set(err, E_TOO_LARGE, "body: more than %llu bytes", (unsigned long long)DOOR_BODY_MAX);
    code = billing_gate(d->c->billing, t->name, ws->namespace, &budget, err);
    if (code != 0)
        return code;
    *ret = upstreams_find(d->upstreams, t->gateway, err);
    return *ret != NULL ? 0 : err->code;
}

/* Everything is looked at anew: what was true when the head came may have changed while the model was
 * awaited. */
static int call_begin(struct door_call *dc, struct err *err)
{
    struct door *d = dc->door;
    const struct http_request *r = exchange_request(dc->ex);
    struct workspace *ws = scheduler_find_id(d->c->scheduler, exchange_tag(dc->ex));
    const struct upstream *up = NULL;
    struct slice key = SLICE_NULL;
    size_t key_header = 0;
    struct http_header h[HTTP_HEADERS_MAX];
    int code = admit(d, dc->ex, ws, &up, &key_header, &key, err);
    if (code != 0)
        return code;
    struct http_call_options o = {
        .method = r->method,
        .target = slice_str(arena_printf(exchange_arena(dc->ex), "%s%.*s", up->base, SL_ARG(r->target))),
        .headers = h,
        .n_headers = gateway_headers(dc->ex, up, key_header, key, h),
        .has_body = true,
        .length = r->is_chunked ? HTTP_CALL_CHUNKED : r->length,
        .head_timeout_ms = GATEWAY_SILENCE_MS,
        .idle_timeout_ms = GATEWAY_SILENCE_MS,
    };
    d->stats.calls++;
    scheduler_hold(d->c->scheduler, ws);
    dc->is_held = true;
    dc->call = http_call_start(up->pool, &o, &call_events, dc);
    return 0;
}

static void on_request(struct exchange *ex, void *data)
{
    struct door *d = data;
    const struct http_request *r = exchange_request(ex);
    struct slice tag = exchange_tag(ex);
    const struct upstream *up = NULL;
    struct slice key;
    size_t key_header;
    struct err err = {0};
    if (forward_is_meant(r)) {
        forward_request(d->c, ex);
        return;
    }
    if (slice_eq_str(r->path, "/") && (slice_eq_str(r->method, "HEAD") || slice_eq_str(r->method, "GET"))) {
        exchange_send(ex, 200, NULL, 0, SLICE_EMPTY);
        return;
    }
    struct door_call *dc = ARENA_NEW(exchange_arena(ex), struct door_call);
    dc->door = d;
    dc->ex = ex;
    dc->held = BUF_INIT(HELD_BYTES_MAX);
    (void)snprintf(dc->workspace_id, sizeof dc->workspace_id, "%.*s", SL_ARG(tag));
    if (billing_wants_model(d->c->billing)) {
        dc->peek = ARENA_NEW(exchange_arena(ex), struct peek);
        (void)admit(d, ex, scheduler_find_id(d->c->scheduler, tag), &up, &key_header, &key, &err);
    } else {
        (void)call_begin(dc, &err);
    }
    if (err.code != 0) {
        exchange_close_after(ex);
        refuse(d, ex, &err);
        return;
    }
    exchange_own(ex, &exchange_events, dc);
    exchange_body_start(ex);
}

static const struct server_handler handler = {.on_request = on_request,
                                              .on_bad_request = forward_bad_request};

struct door *door_new(struct controller *c)
{
    struct door *d = MEM_NEW(struct door);
    d->c = c;
    d->upstreams = upstreams_new(&c->loop, c->tenancy);
    return d;
}

void door_accept(struct door *d, struct slice workspace_id, struct stream *s)
{
    static const struct server_limits limits = {.connections_max = DOOR_CONNECTIONS_MAX,
                                                .idle_timeout_ms = 30000,
                                                .parse_flags = HTTP_ALLOW_ABSOLUTE | HTTP_ALLOW_CONNECT};
    char id[40];
    struct door_server *ds;
    (void)snprintf(id, sizeof id, "%.*s", SL_ARG(workspace_id));
    HASH_FIND_STR(d->servers, id, ds);
    if (ds == NULL) {
        ds = MEM_NEW(struct door_server);
        ds->door = d;
        (void)snprintf(ds->workspace_id, sizeof ds->workspace_id, "%s", id);
        ds->server = server_new(&d->c->loop, &limits, &handler, d);
        HASH_ADD_STR(d->servers, workspace_id, ds);
    }
    server_serve(ds->server, s, workspace_id);
}

const struct door_stats *door_stats(const struct door *d)
{
    return &d->stats;
}

static void door_maybe_closed(struct door *d)
{
    if (d->closed == NULL || d->n_closing > 0)
        return;
    upstreams_free(d->upstreams);
    void (*closed)(void *) = d->closed;
    void *data = d->closed_data;
    mem_free(d);
    closed(data);
}

static void on_server_closed(void *data)
{
    struct door_server *ds = data;
    struct door *d = ds->door;
    mem_free(ds);
    d->n_closing--;
    door_maybe_closed(d);
}

static void door_server_close(struct door_server *ds)
{
    HASH_DEL(ds->door->servers, ds);
    ds->door->n_closing++;
    server_close(ds->server, on_server_closed, ds);
}

void door_workspace_gone(struct door *d, const char *workspace_id)
{
    struct door_server *ds;
    HASH_FIND_STR(d->servers, workspace_id, ds);
    if (ds != NULL)
        door_server_close(ds);
}

static void on_nothing_left(void *data)
{
    door_maybe_closed(data);
}

void door_close(struct door *d, void (*closed)(void *data), void *data)
{
    struct door_server *ds, *tmp;
    d->closed = closed;
    d->closed_data = data;
    HASH_ITER (hh, d->servers, ds, tmp)
        door_server_close(ds);
    if (d->n_closing == 0)
        loop_defer(&d->c->loop, on_nothing_left, d);
}
