/* acp_post: one POST of a JSON-RPC message to a server id. See acp.h for the rules it keeps.
 *
 * The post outlives its exchange when it was answered 202 while the server inside still holds its own answer
 * back. */
#include "controller/edge/acp_server.h"

#include "base/core/mem.h"
#include "controller/edge/envelope.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define DISCARD_BYTES_MAX                                                                                    \
    ((uint64_t)64 * 1024 * 1024) /* of a body that is too large, read only to answer properly */
#define LINGER_MS        1000
#define PREFIX_BYTES_MAX 65536 /* of it, kept to find the id */

struct acp_post {
    struct acp *acp;
    struct acp_server *server;
    struct request *rq; /* NULL once it was answered or its client left */
    struct proxy_target to;
    struct slice body; /* in the exchange's arena until it was passed on */
    char *id;          /* JSON text; NULL: a notification or a response */
    bool is_prompt;
    bool has_agent;   /* ?agent= was given: the server inside may make the session */
    bool is_claiming; /* the store is asked whose the server id is */
    bool is_passed_on;
    struct acp_pending *pending; /* while it is in the list of requests in flight */
    struct http_call *call;
    struct timer *linger; /* the answer was seen on a stream; the call's own end is waited for a little */
    int status;           /* of the server inside */
    struct buf answer;
    struct acp_post *prev, *next;
};

struct acp_post *acp_post_next(const struct acp_post *p)
{
    return p->next;
}

/* --- answers --- */

static void answer_json(struct request *rq, struct slice json)
{
    request_json(rq, 200, json, NULL, 0);
}

static void answer_error(struct request *rq, struct slice id, bool has_answer, const struct err *err)
{
    struct buf out = BUF_INIT(ERR_MSG_MAX * 8);
    if (!has_answer) {
        request_empty(rq, 202);
        return;
    }
    envelope_error(&out, id, err, rq->id);
    answer_json(rq, buf_view(&out));
    buf_fini(&out);
}

/* The memory and the call, of one that is in no list any more. */
static void post_dispose(struct acp_post *p)
{
    if (p->call != NULL)
        http_call_cancel(p->call);
    timer_free(p->linger);
    mem_free(p->id);
    buf_fini(&p->answer);
    mem_free(p);
}

static void post_free(struct acp_post *p)
{
    struct acp_server *s = p->server;
    DL_DELETE(s->posts, p);
    post_dispose(p);
    acp_stream_unwatch(s);
    acp_server_maybe_free(s);
}

static void pending_end(struct acp_post *p)
{
    if (p->pending != NULL)
        acp_pending_drop(p->server, p->pending);
    p->pending = NULL;
}

/* Ends the post with an error, wherever its client listens: in the POST, or on the event stream. */
static void post_error(struct acp_post *p, const struct err *err)
{
    bool was_pending = p->pending != NULL;
    pending_end(p);
    if (p->rq != NULL) {
        struct request *rq = p->rq;
        p->rq = NULL;
        answer_error(rq, p->id != NULL ? slice_str(p->id) : SLICE_NULL, p->id != NULL, err);
    } else if (was_pending) { /* else the stream has had its answer */
        acp_server_error(p->server, slice_str(p->id), err);
    }
    post_free(p);
}

static void on_lingered(void *data)
{
    post_free(data); /* closing the call is what ends it */
}

void acp_post_answered(struct acp_post *p, struct slice envelope)
{
    pending_end(p);
    if (p->rq != NULL && envelope.p != NULL) {
        struct request *rq = p->rq;
        p->rq = NULL;
        answer_json(rq, envelope);
    }
    /* The server inside may hold its own answer back for ever. Mostly it comes now, and the connection can be
     * kept. */
    if (p->call == NULL || envelope.p == NULL) {
        post_free(p);
    } else {
        p->linger = timer_new(&p->acp->c->loop, on_lingered, p);
        timer_start(p->linger, LINGER_MS);
    }
}

void acp_post_fail(struct acp_post *p, const struct err *err)
{
    if (p->is_passed_on && p->rq != NULL)
        post_error(p, err);
}

void acp_post_attached(struct acp_post *p)
{
    if (p->rq == NULL || !p->is_passed_on || p->id == NULL || p->server->n_live == 0)
        return;
    struct request *rq = p->rq;
    p->rq = NULL;
    request_empty(rq, 202); /* the answer comes on the stream */
}

void acp_post_free_all(struct acp_server *s)
{
    struct acp_post *p, *tmp;
    DL_FOREACH_SAFE (s->posts, p, tmp) {
        DL_DELETE(s->posts, p);
        pending_end(p);
        p->server = NULL;
        if (!p->is_claiming) /* else it ends with the store's answer */
            post_dispose(p);
    }
}

/* --- the server's answer --- */

static void on_head(struct http_call *call, const struct http_response *r, void *data)
{
    (void)call;
    struct acp_post *p = data;
    p->status = r->status;
}

static void on_body(struct http_call *call, struct slice bytes, void *data)
{
    (void)call;
    struct acp_post *p = data;
    (void)buf_slice(&p->answer, bytes); /* too much is seen at the end */
}

/* What a refusal of the server inside means to the client. */
static int refusal(struct acp_post *p, struct err *err)
{
    struct json *j = NULL;
    char detail[512] = "";
    if (json_parse(buf_view(&p->answer), NULL, &j, NULL) == 0) {
        struct slice text = json_string(json_get(j, "detail"));
        if (text.p == NULL)
            text = json_string(json_get(j, "title"));
        (void)snprintf(detail, sizeof detail, "%.*s", (int)(text.n < 400 ? text.n : 400),
                       text.n > 0 ? text.p : "");
    }
    json_free(j);
    if (p->status == 400 && !p->has_agent)
        return err_set(
            err, E_GONE,
            "session lost: the server in the sandbox does not know this server id (it was restarted)%s%s",
            detail[0] != '\0' ? ": " : "", detail);
    return err_set(err, p->status == 413 ? E_TOO_LARGE : E_UPSTREAM,
                   "the server in the sandbox answered %d%s%s", p->status, detail[0] != '\0' ? ": " : "",
                   detail);
}

static void on_end(struct http_call *call, void *data)
{
    (void)call;
    struct acp_post *p = data;
    struct err err = {0};
    p->call = NULL;
    if (p->status / 100 != 2) {
        (void)refusal(p, &err);
        post_error(p, &err);
        return;
    }
    if (p->rq != NULL && p->answer.is_full) {
        err_set(&err, E_TOO_LARGE, "the agent's answer is larger than %zu bytes", ACP_ENVELOPE_MAX);
        post_error(p, &err);
        return;
    }
    pending_end(p);
    if (p->rq != NULL) {
        struct request *rq = p->rq;
        p->rq = NULL;
        if (p->answer.n > 0)
            answer_json(rq, buf_view(&p->answer));
        else
            request_empty(rq, 202);
    }
    post_free(p);
}

static void on_error(struct http_call *call, int code, const struct err *cause, void *data)
{
    (void)call;
    (void)code;
    struct acp_post *p = data;
    struct err err = {0};
    p->call = NULL;
    struct workspace *ws = scheduler_find_id(p->acp->c->scheduler, slice_str(p->to.workspace_id));
    if (ws != NULL)
        scheduler_suspect(p->acp->c->scheduler, ws);
    err_set(&err, E_GONE, "session lost: the server in the sandbox went away: %s", cause->msg);
    post_error(p, &err);
}

static const struct http_call_events call_events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

/* The agent goes on; its answer waits in the server's ring for the stream that the client opens next. */
static void on_drain(struct request *rq, void *data)
{
    struct acp_post *p = data;
    p->rq = NULL;
    request_empty(rq, 202);
}

static void pass_on(struct acp_post *p)
{
    const struct http_request *r = exchange_request(p->rq->ex);
    struct http_header h[HTTP_HEADERS_MAX];
    struct workspace *ws = scheduler_find_id(p->acp->c->scheduler, slice_str(p->to.workspace_id));
    struct err err = {0};
    if (ws == NULL || ws->state != WS_READY || ws->server == NULL) {
        err_set(&err, E_UNAVAILABLE, "the workspace went away");
        post_error(p, &err);
        return;
    }
    if (p->id != NULL) {
        p->pending = acp_pending_add(p->server, slice_str(p->id), p);
        if (p->pending == NULL) {
            /* the server inside wedges both when an id is used twice at a time */
            err_set(&err, E_BUSY, "request id %s is in flight already, or more than %d requests are", p->id,
                    ACP_PENDING_MAX);
            post_error(p, &err);
            return;
        }
    }
    struct http_call_options o = {
        .method = r->method,
        .target = slice_of(p->to.path.p, (size_t)(r->target.p + r->target.n - p->to.path.p)),
        .headers = h,
        .n_headers = proxy_upstream_headers(p->rq, ws, false, h),
        .has_body = true,
        .length = p->body.n,
        .body = p->body,
    };
    p->server->is_dead = false;
    p->acp->c->proxied_total++;
    p->is_passed_on = true;
    p->rq->on_drain = on_drain;
    p->rq->data = p;
    p->call = http_call_start(ws->server, &o, &call_events, p);
    if (p->id != NULL && p->server->streams == NULL)
        acp_stream_watch(p->server);
    acp_post_attached(p);
}

/* --- arrival --- */

static void on_client_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct acp_post *p = data;
    request_gone(p->rq);
    p->rq = NULL;
    pending_end(p);
    if (p->is_passed_on)
        post_free(p); /* closes the upstream connection: the abort travels on */
    /* else a claim is under way and finds it without a request */
}
static const struct exchange_events waiting_events = {.on_abort = on_client_gone};

static void on_claimed(int code, const struct err *cause, void *data)
{
    struct acp_post *p = data;
    struct err err = {0};
    p->is_claiming = false;
    if (p->server == NULL) { /* all of it was closed meanwhile */
        post_dispose(p);
        return;
    }
    if (p->rq == NULL) {
        post_free(p);
        return;
    }
    struct billing_budget_view budget;
    struct workspace *ws = scheduler_find_id(p->acp->c->scheduler, slice_str(p->to.workspace_id));
    if (code == E_FORBIDDEN)
        err_set(&err, E_NOT_FOUND, "this server id belongs to somebody else");
    else if (code != 0)
        err_set(&err, code, "server id: %s", cause != NULL ? cause->msg : err_title(code));
    else if (p->server->is_dead && !p->has_agent)
        err_set(&err, E_GONE, "session lost: the agent exited; initialize again with ?agent=");
    else if (p->is_prompt)
        (void)billing_gate(p->acp->c->billing, p->rq->who.tenant->name,
                           ws != NULL ? ws->namespace : SLICE_EMPTY, &budget, &err);
    if (err.code != 0) {
        p->acp->c->refused_total++;
        post_error(p, &err);
        return;
    }
    pass_on(p);
}

/* Strict: id a number, a string or null; a method, or a result or error. */
static int read_envelope(struct acp_post *p, struct slice body, struct err *err)
{
    struct json *j = NULL;
    struct json_limits limits = {.bytes_max = PROXY_BODY_MAX + 1, .depth_max = 128, .nodes_max = 500000};
    int code = json_parse(body, &limits, &j, err);
    if (code != 0)
        return err_set(err, E_SYNTAX, "body: not a JSON-RPC message: %s", err->msg);
    const struct json *id = json_get(j, "id");
    struct slice method = json_string(json_get(j, "method"));
    bool is_answer = json_get(j, "result") != NULL || json_get(j, "error") != NULL;
    enum json_type t = json_type(id);
    if (json_type(j) != JSON_OBJECT)
        code = err_set(err, E_INVALID, "body: expected one JSON-RPC message, found %s", json_type_name(j));
    else if (!slice_eq_str(json_string(json_get(j, "jsonrpc")), "2.0"))
        code = err_set(err, E_INVALID, "jsonrpc: expected \"2.0\"");
    else if (id != NULL && t != JSON_NUMBER && t != JSON_STRING && t != JSON_NULL)
        code = err_set(err, E_INVALID, "id: expected a number or a string, found %s", json_type_name(id));
    else if (method.p == NULL && !is_answer)
        code = err_set(err, E_INVALID, "method: expected a string, found %s",
                       json_type_name(json_get(j, "method")));
    if (method.p != NULL && (t == JSON_NUMBER || t == JSON_STRING)) {
        struct buf out = BUF_INIT(1024);
        struct jsonw w;
        jsonw_init(&w, &out);
        jsonw_value(&w, id);
        if (out.is_full)
            code = err_set(err, E_INVALID, "id: longer than 1,024 bytes");
        else
            p->id = mem_strndup(out.p, out.n);
        buf_fini(&out);
    }
    p->is_prompt = slice_eq_str(method, "session/prompt");
    json_free(j);
    return code;
}

static void on_collected(struct exchange *ex, int code, struct slice body, void *data)
{
    struct acp_post *p = data;
    struct err err = {0};
    if (code == E_CANCELLED) {
        request_gone(p->rq);
        p->rq = NULL;
        post_free(p);
        return;
    }
    exchange_own(ex, &waiting_events, p);
    p->body = body;
    if (code == E_TOO_LARGE) {
        /* only a chunked body comes here: its head told no length */
        exchange_close_after(ex);
        err_set(&err, E_TOO_LARGE, "body: more than %llu bytes", (unsigned long long)PROXY_BODY_MAX);
    } else if (code != 0) {
        err_set(&err, code, "body: cannot be read");
    } else if (read_envelope(p, body, &err) == 0) {
        p->is_claiming = true;
        acp_server_claim(p->acp, p->server->tenant_id, p->server->workspace_id, slice_str(p->server->id),
                         p->rq->who.subject, true, on_claimed, p);
        return;
    }
    struct request *rq = p->rq;
    struct slice id = p->id != NULL ? slice_str(p->id) : SLICE_NULL;
    p->rq = NULL;
    /* even without an id an error is owed: the sender of nonsense waits for nothing else */
    answer_error(rq, id, true, &err);
    post_free(p);
}

void acp_post_start(struct request *rq, const struct proxy_target *to, struct acp_server *s)
{
    struct acp_post *p = MEM_NEW(struct acp_post);
    p->acp = s->acp;
    p->server = s;
    p->rq = rq;
    p->to = *to;
    p->has_agent = query_find(exchange_request(rq->ex)->query, "agent").p != NULL;
    p->answer = BUF_INIT(ACP_ENVELOPE_MAX);
    DL_APPEND(s->posts, p);
    exchange_body_collect(rq->ex, PROXY_BODY_MAX, on_collected, p);
}

/* --- refusals before a server id is known --- */

struct refusal {
    struct request *rq;
    struct err err;
    struct buf prefix;
    uint64_t seen;
};

static void refusal_end(struct refusal *f)
{
    struct envelope e = {0};
    struct request *rq = f->rq;
    bool is_message = envelope_scan(buf_view(&f->prefix), &e);
    struct slice id = e.id.p != NULL ? arena_slice(request_arena(rq), e.id) : SLICE_NULL;
    bool has_answer =
        !is_message || (e.id.p != NULL && !e.has_result) || (e.method.p == NULL && !e.has_result);
    buf_fini(&f->prefix);
    answer_error(rq, id, has_answer, &f->err);
}

static void on_refused_body(struct exchange *ex, struct slice bytes, void *data)
{
    struct refusal *f = data;
    size_t room = PREFIX_BYTES_MAX - f->prefix.n;
    (void)buf_append(&f->prefix, bytes.p, bytes.n < room ? bytes.n : room); /* fits by construction */
    f->seen += bytes.n;
    if (f->seen > DISCARD_BYTES_MAX) {
        exchange_close_after(ex);
        refusal_end(f);
    }
}

static void on_refused_end(struct exchange *ex, void *data)
{
    (void)ex;
    refusal_end(data);
}

static void on_refused_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct refusal *f = data;
    buf_fini(&f->prefix);
    request_gone(f->rq);
}

static const struct exchange_events refusal_events = {
    .on_body = on_refused_body, .on_body_end = on_refused_end, .on_abort = on_refused_gone};

void acp_refuse(struct request *rq, const struct err *err)
{
    struct refusal *f = ARENA_NEW(request_arena(rq), struct refusal);
    f->rq = rq;
    f->err = *err;
    f->prefix = BUF_INIT(PREFIX_BYTES_MAX);
    exchange_own(rq->ex, &refusal_events, f);
    exchange_body_start(rq->ex);
}
