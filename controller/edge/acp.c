/* acp: see acp.h. Here: which of the routes it is, the filtered list of server ids, and DELETE with its
 * deadline. */
#include "controller/edge/acp_server.h"

#include "base/core/mem.h"
#include "controller/edge/streams.h"

#include <stdio.h>
#include <string.h>

#define DELETE_MS      2000 /* the server inside answers a DELETE only when its client has left */
#define LIST_BYTES_MAX ((size_t)1024 * 1024)
#define LIST_IDS_MAX   1000

static bool server_id_is_valid(struct slice id)
{
    if (id.n == 0 || id.n > ACP_SERVER_ID_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        char c = id.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
              c == '_' || c == '.'))
            return false;
    }
    return true;
}

/* --- one side call whose answer is small: the list, the delete --- */

struct side {
    struct request *rq;
    struct acp *acp;
    struct acp_server *server;
    char key[64];
    struct proxy_target to;
    struct http_call *call;
    struct timer *deadline;
    struct buf answer;
    int status;
    bool is_delete;
};

static void side_free(struct side *d)
{
    if (d->call != NULL)
        http_call_cancel(d->call);
    timer_free(d->deadline);
    buf_fini(&d->answer);
    mem_free(d);
}

static void on_side_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct side *d = data;
    request_gone(d->rq);
    side_free(d);
}
static const struct exchange_events side_events = {.on_abort = on_side_gone};

static void delete_done(struct side *d)
{
    struct request *rq = d->rq;
    if (rq == NULL) { /* a burial: the id stays its subject's */
        side_free(d);
        return;
    }
    struct err err = {0};
    struct acp_server *s = acp_server_find(d->acp, d->to.workspace_id, d->to.param);
    acp_server_unclaim(d->acp, rq->who.tenant->id, d->to.workspace_id, d->to.param);
    side_free(d);
    err_set(&err, E_GONE, "the session was closed");
    if (s != NULL)
        acp_server_fail(s, &err);
    request_empty(rq, 204);
}

/* The list as the server gave it, less what belongs to others. */
static void list_write(const struct json *servers, const bool *is_mine, struct buf *out)
{
    struct jsonw w;
    size_t i = 0;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_key(&w, "servers");
    jsonw_array(&w);
    JSON_FOREACH (it, servers) {
        if (i < LIST_IDS_MAX && is_mine[i])
            jsonw_value(&w, it);
        i++;
    }
    jsonw_array_end(&w);
    jsonw_object_end(&w);
}

static void on_owners(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    (void)has_more;
    void *arg;
    struct request *rq = request_release(data, &arg);
    struct json *root = arg;
    bool is_mine[LIST_IDS_MAX] = {false};
    if (rq != NULL && code != 0) {
        request_error(rq, err);
    } else if (rq != NULL) {
        struct buf out = BUF_INIT(LIST_BYTES_MAX * 2);
        for (size_t i = 0; i < n && i < LIST_IDS_MAX; i++)
            is_mine[i] = r[i].version != 0 && slice_eq_str(r[i].value, rq->who.subject);
        list_write(json_get(root, "servers"), is_mine, &out);
        request_json(rq, 200, buf_view(&out), NULL, 0);
        buf_fini(&out);
    }
    json_free(root);
}

static void list_done(struct side *d)
{
    struct request *rq = d->rq;
    struct json *root = NULL;
    struct slice keys[LIST_IDS_MAX];
    size_t n = 0;
    int code = d->status == 200 ? json_parse(buf_view(&d->answer), NULL, &root, NULL) : E_UPSTREAM;
    if (code != 0) {
        request_problem(rq, E_UPSTREAM, "the server in the sandbox answered %d to the list of sessions",
                        d->status);
        side_free(d);
        return;
    }
    JSON_FOREACH (it, json_get(root, "servers")) {
        struct slice id = json_string(json_get(it, "serverId"));
        if (n == LIST_IDS_MAX)
            break;
        keys[n++] = slice_str(arena_printf(request_arena(rq), "acp/%s/%.*s", d->to.workspace_id,
                                           server_id_is_valid(id) ? (int)id.n : 0,
                                           server_id_is_valid(id) ? id.p : ""));
    }
    side_free(d);
    request_own(rq);
    store_get(rq->c->store, slice_str(rq->who.tenant->id), keys, n, on_owners, request_hold(rq, root));
}

static void on_side_head(struct http_call *call, const struct http_response *r, void *data)
{
    (void)call;
    ((struct side *)data)->status = r->status;
}

static void on_side_body(struct http_call *call, struct slice bytes, void *data)
{
    (void)call;
    (void)buf_slice(&((struct side *)data)->answer, bytes); /* too much does not parse */
}

static void on_side_end(struct http_call *call, void *data)
{
    (void)call;
    struct side *d = data;
    d->call = NULL;
    if (d->is_delete)
        delete_done(d);
    else
        list_done(d);
}

static void on_side_error(struct http_call *call, int code, const struct err *err, void *data)
{
    (void)call;
    (void)code;
    struct side *d = data;
    d->call = NULL;
    if (d->is_delete) {
        delete_done(d); /* a server that is gone has no session either */
        return;
    }
    struct request *rq = d->rq;
    side_free(d);
    request_problem(rq, E_UPSTREAM, "the server in the sandbox: %s", err->msg);
}

static const struct http_call_events side_call_events = {
    .on_head = on_side_head, .on_body = on_side_body, .on_end = on_side_end, .on_error = on_side_error};

static void on_deadline(void *data)
{
    struct side *d = data;
    http_call_cancel(d->call); /* the close is what ends the agent */
    d->call = NULL;
    delete_done(d);
}

static void side_start(struct request *rq, const struct proxy_target *to, bool is_delete)
{
    struct http_header h[HTTP_HEADERS_MAX];
    const struct http_request *r = exchange_request(rq->ex);
    struct side *d = MEM_NEW(struct side);
    struct workspace *ws = scheduler_find_id(rq->c->scheduler, slice_str(to->workspace_id));
    if (ws == NULL || ws->server == NULL) {
        side_free(d);
        request_problem(rq, E_UNAVAILABLE, "the workspace went away");
        return;
    }
    d->rq = rq;
    d->acp = rq->c->acp;
    d->to = *to;
    d->answer = BUF_INIT(LIST_BYTES_MAX);
    d->is_delete = is_delete;
    exchange_own(rq->ex, &side_events, d);
    struct http_call_options o = {.method = r->method,
                                  .target = to->path,
                                  .headers = h,
                                  .n_headers = proxy_upstream_headers(rq, ws, false, h),
                                  .is_single = is_delete};
    d->call = http_call_start(ws->server, &o, &side_call_events, d);
    if (is_delete) {
        d->deadline = timer_new(&rq->c->loop, on_deadline, d);
        timer_start(d->deadline, DELETE_MS);
    }
}

void acp_server_bury(struct acp_server *s)
{
    struct controller *c = s->acp->c;
    struct workspace *ws = scheduler_find_id(c->scheduler, slice_str(s->workspace_id));
    char target[ACP_SERVER_ID_MAX + 16], bearer[128];
    if (ws == NULL || ws->server == NULL || c->is_draining)
        return;
    struct side *d = MEM_NEW(struct side);
    (void)snprintf(target, sizeof target, "/v1/acp/%s", s->id);
    (void)snprintf(bearer, sizeof bearer, "Bearer %s", ws->server_token);
    struct http_header h[] = {{SL("Host"), SL("127.0.0.1")}, {SL("Authorization"), slice_str(bearer)}};
    struct http_call_options o = {.method = SL("DELETE"),
                                  .target = slice_str(target),
                                  .headers = h,
                                  .n_headers = ARRAY_LEN(h),
                                  .is_single = true,
                                  .head_timeout_ms = DELETE_MS,
                                  .idle_timeout_ms = DELETE_MS};
    d->acp = s->acp;
    d->answer = BUF_INIT(LIST_BYTES_MAX);
    d->is_delete = true;
    d->call = http_call_start(ws->server, &o, &side_call_events, d);
    mem_wipe(bearer, sizeof bearer);
}

/* --- GET and DELETE: only its owner's --- */

struct asked {
    struct proxy_target to;
    struct acp *acp;
};

static void stream_start(struct request *rq, const struct asked *q, bool is_owned)
{
    struct acp_server *s = acp_server_get(q->acp, rq->who.tenant->id, q->to.workspace_id, q->to.param);
    size_t n = 0;
    for (const struct acp_stream *st = s->streams; st != NULL; st = acp_stream_next(st))
        n += acp_stream_has_client(st);
    if (is_owned)
        (void)snprintf(s->subject, sizeof s->subject, "%s", rq->who.subject);
    if (n >= ACP_STREAMS_MAX)
        request_problem(rq, E_QUOTA, "%d event streams are open on this server id: close some",
                        ACP_STREAMS_MAX);
    else if (!streams_enter(rq->c, q->to.workspace_id))
        request_problem(rq, E_QUOTA, "%d event streams are open on this workspace: close some", STREAMS_MAX);
    else
        acp_stream_start(rq, s);
    acp_server_maybe_free(s); /* refused: nothing was made by asking */
}

static void on_known(int code, const struct err *err, void *data)
{
    void *arg;
    struct request *rq = request_release(data, &arg);
    if (rq == NULL)
        return;
    struct asked *q = arg; /* in the arena */
    bool is_get = slice_eq_str(exchange_request(rq->ex)->method, "GET");
    if (code != 0 && code != E_NOT_FOUND && code != E_FORBIDDEN) {
        request_problem(rq, code, "server id: %s", err != NULL ? err->msg : err_title(code));
    } else if (code == E_FORBIDDEN || (code == E_NOT_FOUND && !is_get)) {
        request_problem(rq, E_NOT_FOUND, "no such server id");
    } else if (is_get) {
        /* nobody's yet: the POST that makes it is under way; its subject is checked again when it is fed */
        stream_start(rq, q, code == 0);
    } else {
        side_start(rq, &q->to, true);
    }
}

void acp_request(struct request *rq, const struct proxy_target *to)
{
    const struct http_request *r = exchange_request(rq->ex);
    if (to->row->kind == PROXIED_ACP_LIST) {
        side_start(rq, to, false);
        return;
    }
    bool is_post = slice_eq_str(r->method, "POST");
    if (!server_id_is_valid(to->param)) {
        struct err err = {0};
        err_set(&err, E_INVALID, "server id: expected 1 to %d of A-Z a-z 0-9 . _ -", ACP_SERVER_ID_MAX);
        if (is_post)
            acp_refuse(rq, &err);
        else
            request_error(rq, &err);
        return;
    }
    if (is_post) {
        acp_post_start(rq, to, acp_server_get(rq->c->acp, rq->who.tenant->id, to->workspace_id, to->param));
        return;
    }
    struct asked *q = ARENA_NEW(request_arena(rq), struct asked);
    q->to = *to;
    q->acp = rq->c->acp;
    acp_server_claim(q->acp, rq->who.tenant->id, q->to.workspace_id, q->to.param, rq->who.subject, false,
                     on_known, request_hold(rq, q));
}
