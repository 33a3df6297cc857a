/* workspaces: find or create, list, read, delete, the actions, the events of one, what one cost. */
#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/api/audit.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define WAIT_MAX_MS    ((int64_t)5 * 60 * 1000)
#define PAIRS_MAX      64
#define LIST_MAX       500
#define JSON_BYTES_MAX ((size_t)4 * 1024 * 1024)
#define EVENTS_PAGE    100

/* --- answers --- */

static void answer_workspace(struct request *rq, int status, const struct workspace *ws)
{
    struct buf out = BUF_INIT(JSON_BYTES_MAX);
    struct jsonw w;
    struct http_header extra[2];
    size_t n = 0;
    jsonw_init(&w, &out);
    workspace_json(ws, rq->tenancy->public_url, &w);
    if (status == 202 || status == 201)
        extra[n++] = (struct http_header){
            SL("Location"), slice_str(arena_printf(request_arena(rq), "/v1/workspaces/%.*s/%.*s",
                                                   SL_ARG(ws->namespace), SL_ARG(ws->name)))};
    if (status == 202)
        extra[n++] = (struct http_header){SL("Retry-After"), SL("1")};
    request_json(rq, status, buf_view(&out), extra, n);
    buf_fini(&out);
}

/* A wait for the scheduler: given up when the client leaves; the operation itself goes on. */
struct waiting {
    struct request *rq;
    struct workspace_wait *wait;
    const char *action; /* for audit; NULL: none */
    struct slice subject;
    struct err over; /* the budget that is spent; code 0: none */
};

static void on_gone(struct request *rq, void *data)
{
    (void)rq;
    struct waiting *wt = data;
    if (wt->wait != NULL)
        workspace_wait_cancel(wt->wait);
}

static struct waiting *waiting_new(struct request *rq, const char *action)
{
    struct waiting *wt = ARENA_NEW(request_arena(rq), struct waiting);
    wt->rq = rq;
    wt->action = action;
    rq->on_gone = on_gone;
    rq->data = wt;
    return wt;
}

static void on_settled(const struct workspace_answer *a, void *data)
{
    struct waiting *wt = data;
    struct request *rq = wt->rq;
    wt->wait = NULL;
    rq->on_gone = NULL;
    if (a->code != 0) { /* the scheduler knows that a budget is spent, the gate which one */
        request_error(rq, a->code == E_BUDGET && wt->over.code != 0 ? &wt->over : a->err);
        return;
    }
    if (wt->action != NULL)
        audit_request(rq, wt->action, wt->subject);
    if (a->ws == NULL)
        request_empty(rq, 204);
    else
        answer_workspace(rq, a->is_created ? 201 : (a->is_settled ? 200 : 202), a->ws);
}

static void on_made(const struct workspace_answer *a, void *data)
{
    struct waiting *wt = data;
    if (a->code == 0 && a->is_created)
        audit_request(wt->rq, "workspace.create", wt->subject);
    on_settled(a, data);
}

/* --- find or create --- */

struct wish {
    struct slice namespace, name, template, provider, user;
    const struct json *labels, *env, *resources;
};

static bool read_pairs(struct request *rq, const struct json *object, const char *field,
                       struct workspace_pair **ret, size_t *ret_n)
{
    struct workspace_pair *pairs = arena_zalloc(request_arena(rq), PAIRS_MAX * sizeof *pairs);
    size_t n = 0;
    JSON_FOREACH (it, object) {
        struct slice value = json_string(it);
        if (value.p == NULL || n == PAIRS_MAX || json_key(it).n == 0 || json_key(it).n > 128 ||
            value.n > 4096) {
            request_problem(
                rq, E_INVALID,
                "%s.%.*s: expected at most %d members, each a string of at most 4,096 bytes under a name of "
                "1 to 128",
                field, (int)(json_key(it).n < 128 ? json_key(it).n : 128), json_key(it).p, PAIRS_MAX);
            return false;
        }
        pairs[n++] = (struct workspace_pair){json_key(it), value};
    }
    *ret = pairs;
    *ret_n = n;
    return true;
}

static void find_or_create(struct request *rq, const struct wish *x)
{
    struct workspace_request wr = {.tenant = rq->who.tenant->name,
                                   .namespace = x->namespace,
                                   .name = x->name,
                                   .template = x->template,
                                   .provider = x->provider,
                                   .user = x->user,
                                   .has_labels = x->labels != NULL,
                                   .has_env = x->env != NULL};
    struct workspace_pair *labels = NULL, *env = NULL;
    struct billing_budget_view budget;
    struct slice retry;
    if (!request_duration(rq, "wait", WAIT_MAX_MS, &wr.wait_ms) || !request_query(rq, "retry", &retry) ||
        !read_pairs(rq, x->labels, "labels", &labels, &wr.n_labels) ||
        !read_pairs(rq, x->env, "env", &env, &wr.n_env))
        return;
    if (query_find(exchange_request(rq->ex)->query, "wait").p == NULL)
        wr.wait_ms = 30000;
    wr.labels = labels;
    wr.env = env;
    wr.retry = retry.p != NULL && slice_eq_str(retry, "1");
    if (x->resources != NULL) {
        request_problem(rq, E_NOT_IMPLEMENTED, "resources: are set by the template in this version");
        return;
    }
    if (x->user.n > 256 || !slice_is_utf8(x->user)) {
        request_problem(rq, E_INVALID, "user: expected at most 256 bytes of UTF-8");
        return;
    }
    if (rq->c->is_draining) {
        request_problem(rq, E_DRAINING, "this controller shuts down");
        return;
    }
    struct waiting *wt = waiting_new(rq, NULL);
    wr.no_make = billing_gate(rq->c->billing, rq->who.tenant->name, x->namespace, &budget, &wt->over) != 0;
    wt->subject =
        slice_str(arena_printf(request_arena(rq), "%.*s/%.*s", SL_ARG(x->namespace), SL_ARG(x->name)));
    wt->wait = scheduler_find_or_create(rq->c->scheduler, &wr, on_made, wt);
}

#define WISH_ROWS                                                                                            \
    {"template", JF_STRING, false, offsetof(struct wish, template)},                                         \
        {"provider", JF_STRING, false, offsetof(struct wish, provider)},                                     \
        {"user", JF_STRING, false, offsetof(struct wish, user)},                                             \
        {"labels", JF_OBJECT, false, offsetof(struct wish, labels)},                                         \
        {"env", JF_OBJECT, false, offsetof(struct wish, env)},                                               \
    {                                                                                                        \
        "resources", JF_OBJECT, false, offsetof(struct wish, resources)                                      \
    }

static void put_workspace(struct request *rq)
{
    static const struct json_field rows[] = {WISH_ROWS};
    struct wish x = {.namespace = rq->params[0], .name = rq->params[1]};
    struct err err = {0};
    if (json_decode(rq->json, "", rows, ARRAY_LEN(rows), &x, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    find_or_create(rq, &x);
}

static void post_find_or_create(struct request *rq)
{
    static const struct json_field rows[] = {{"namespace", JF_STRING, true, offsetof(struct wish, namespace)},
                                             {"name", JF_STRING, true, offsetof(struct wish, name)},
                                             WISH_ROWS};
    struct wish x = {0};
    struct err err = {0};
    if (json_decode(rq->json, "", rows, ARRAY_LEN(rows), &x, &err) != 0) {
        request_error(rq, &err);
    } else if (!name_is_valid(x.namespace) || !name_is_valid(x.name)) {
        request_problem(rq, E_INVALID, "%s: expected [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
                        name_is_valid(x.namespace) ? "name" : "namespace");
    } else if (!principal_has_namespace(&rq->who, x.namespace)) {
        request_problem(rq, E_NOT_FOUND, "no such namespace");
    } else {
        find_or_create(rq, &x);
    }
}

/* --- read --- */

static void get_workspace(struct request *rq)
{
    struct workspace *ws = request_workspace(rq);
    if (ws != NULL)
        answer_workspace(rq, 200, ws);
}

struct list_filter {
    const struct principal *who;
    struct slice namespace, label_name, label_value;
    bool has_state;
    enum workspace_state state;
};

static bool list_wants(const struct workspace *ws, void *data)
{
    const struct list_filter *f = data;
    if (!principal_has_namespace(f->who, ws->namespace))
        return false;
    if (f->namespace.p != NULL && !slice_eq(f->namespace, ws->namespace))
        return false;
    if (f->has_state && f->state != ws->state)
        return false;
    if (f->label_name.p == NULL)
        return true;
    for (size_t i = 0; i < ws->n_labels; i++)
        if (slice_eq(ws->labels[i].name, f->label_name) && slice_eq(ws->labels[i].value, f->label_value))
            return true;
    return false;
}

static void list_workspaces(struct request *rq)
{
    struct list_filter f = {.who = &rq->who};
    struct slice state, label, after, after_ns = SLICE_EMPTY;
    size_t limit;
    struct workspace *found[LIST_MAX + 1];
    if (!request_paging(rq, LIST_MAX, &limit, &after) || !request_query(rq, "namespace", &f.namespace) ||
        !request_query(rq, "state", &state) || !request_query(rq, "label", &label))
        return;
    if (state.p != NULL && workspace_state_parse(state, &f.state) != 0) {
        request_problem(rq, E_INVALID, "query parameter `state`: unknown state `%.*s`", SL_ARG(state));
        return;
    }
    f.has_state = state.p != NULL;
    if (label.p != NULL) {
        f.label_value = label;
        if (!slice_cut(&f.label_value, '=', &f.label_name)) {
            request_problem(rq, E_INVALID, "query parameter `label`: expected name=value, found `%.*s`",
                            SL_ARG(label));
            return;
        }
    }
    if (after.p != NULL && !slice_cut(&after, '/', &after_ns)) {
        request_problem(rq, E_INVALID, "query parameter `after`: expected what `next` gave");
        return;
    }
    size_t n = scheduler_list(rq->c->scheduler, rq->who.tenant->name, after_ns,
                              after.p != NULL ? after : SLICE_EMPTY, list_wants, &f, found, limit + 1);
    struct buf out = BUF_INIT(JSON_BYTES_MAX);
    struct jsonw w;
    size_t shown = n < limit ? n : limit;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    for (size_t i = 0; i < shown; i++)
        workspace_json(found[i], rq->tenancy->public_url, &w);
    jsonw_array_end(&w);
    if (n > limit)
        jsonw_kstr(&w, "next",
                   arena_printf(request_arena(rq), "%.*s/%.*s", SL_ARG(found[shown - 1]->namespace),
                                SL_ARG(found[shown - 1]->name)));
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

/* --- actions --- */

static void delete_workspace(struct request *rq)
{
    struct slice keep;
    int64_t wait_ms;
    if (!request_duration(rq, "wait", WAIT_MAX_MS, &wait_ms) || !request_query(rq, "keep_home", &keep))
        return;
    if (keep.p != NULL && !slice_eq_str(keep, "0") && !slice_eq_str(keep, "1")) {
        request_problem(rq, E_INVALID, "query parameter `keep_home`: expected 0 or 1, found `%.*s`",
                        SL_ARG(keep));
        return;
    }
    if (keep.p != NULL && slice_eq_str(keep, "1")) {
        request_problem(rq, E_NOT_IMPLEMENTED, "keep_home: kept homes are not served by this version");
        return;
    }
    struct waiting *wt = waiting_new(rq, "workspace.delete");
    wt->subject =
        slice_str(arena_printf(request_arena(rq), "%.*s/%.*s", SL_ARG(rq->params[0]), SL_ARG(rq->params[1])));
    wt->wait = scheduler_delete(rq->c->scheduler, rq->who.tenant->name, rq->params[0], rq->params[1], false,
                                wait_ms, on_settled, wt);
}

enum action { ACTION_SUSPEND, ACTION_RESUME, ACTION_RESTART };

static void act(struct request *rq, enum action action, const char *audit)
{
    struct scheduler *s = rq->c->scheduler;
    struct workspace *ws = request_workspace(rq);
    struct billing_budget_view budget;
    struct err err = {0};
    int64_t wait_ms;
    if (ws == NULL || !request_duration(rq, "wait", WAIT_MAX_MS, &wait_ms))
        return;
    if (action != ACTION_SUSPEND && ws->state != WS_READY &&
        billing_gate(rq->c->billing, rq->who.tenant->name, ws->namespace, &budget, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    struct waiting *wt = waiting_new(rq, audit);
    wt->subject =
        slice_str(arena_printf(request_arena(rq), "%.*s/%.*s", SL_ARG(ws->namespace), SL_ARG(ws->name)));
    if (action == ACTION_SUSPEND)
        wt->wait = scheduler_suspend(s, ws, SUSPEND_OPERATOR, wait_ms, on_settled, wt);
    else if (action == ACTION_RESUME)
        wt->wait = scheduler_resume(s, ws, wait_ms, on_settled, wt);
    else
        wt->wait = scheduler_restart(s, ws, wait_ms, on_settled, wt);
}

static void suspend_workspace(struct request *rq)
{
    act(rq, ACTION_SUSPEND, "workspace.suspend");
}

static void resume_workspace(struct request *rq)
{
    act(rq, ACTION_RESUME, "workspace.resume");
}

static void restart_workspace(struct request *rq)
{
    act(rq, ACTION_RESTART, "workspace.restart");
}

static void extend_workspace(struct request *rq)
{
    struct workspace *ws = request_workspace(rq);
    if (ws == NULL)
        return;
    scheduler_touch(rq->c->scheduler, ws);
    answer_workspace(rq, 200, ws);
}

/* --- events: the durable list, then what is added to it --- */

struct events {
    struct request *rq;
    struct controller *c;
    char id[40], tenant_id[16], log[64];
    uint64_t after;
    bool is_reading, is_again; /* a page is asked for; another is wanted after it */
    bool is_stalled;           /* the client's connection is full: nothing is read until it drains */
    bool is_last;              /* the workspace is gone: the stream ends with its last event */
    struct events *prev, *next;
};
static void events_read(struct events *e);

/* Ends cleanly: its reader comes back with Last-Event-ID. */
static void events_end(struct events *e)
{
    struct request *rq = e->rq;
    struct exchange *ex = rq->ex;
    DL_DELETE(e->c->event_streams, e);
    request_gone(rq);
    exchange_end(ex);
}

static void on_events_drain(struct request *rq, void *data)
{
    (void)rq;
    events_end(data);
}

static void on_events_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct events *e = data;
    DL_DELETE(e->c->event_streams, e);
    request_gone(e->rq);
}

static void on_events_flow(struct exchange *ex, void *data)
{
    (void)ex;
    struct events *e = data;
    e->is_stalled = false;
    events_read(e);
}

static const struct exchange_events events_events = {.on_abort = on_events_gone, .on_drain = on_events_flow};

static void on_events_page(int code, const struct store_entry *entries, size_t n, bool has_more,
                           const struct err *err, void *data)
{
    void *arg;
    (void)err;
    struct request *rq = request_release(data, &arg);
    if (rq == NULL)
        return; /* the stream went with its request */
    struct events *e = arg;
    e->is_reading = false;
    for (size_t i = 0; code == 0 && i < n; i++) {
        struct buf out = BUF_INIT(STORE_VALUE_MAX + 256);
        (void)buf_printf(&out, "event: state\nid: %llu\ndata: ", (unsigned long long)entries[i].number);
        (void)buf_slice(&out, entries[i].value);
        (void)buf_str(&out, "\n\n");
        e->is_stalled = exchange_write(rq->ex, buf_view(&out)) == E_AGAIN || e->is_stalled;
        buf_fini(&out);
        e->after = entries[i].number;
    }
    if (code != 0 || (e->is_last && !has_more && !e->is_again))
        events_end(e);
    else if (has_more || e->is_again)
        events_read(e);
}

static void events_read(struct events *e)
{
    e->is_again = e->is_reading || e->is_stalled;
    if (e->is_again)
        return;
    e->is_reading = true;
    store_log_read(e->c->store, slice_str(e->tenant_id), slice_str(e->log), e->after, EVENTS_PAGE,
                   on_events_page, request_hold(e->rq, e));
}

void workspace_events_notify(struct controller *c, const struct workspace *ws)
{
    struct events *e, *next;
    DL_FOREACH_SAFE (c->event_streams, e, next) {
        if (strcmp(e->id, ws->id) != 0)
            continue;
        e->is_last = ws->state == WS_ABSENT;
        events_read(e);
    }
}

static void get_events(struct request *rq)
{
    struct workspace *ws = request_workspace(rq);
    struct http_header h[REQUEST_HEADERS_MAX + 3];
    if (ws == NULL)
        return;
    const struct http_request *r = exchange_request(rq->ex);
    struct slice last = http_find(r->headers, r->n_headers, "last-event-id");
    size_t n = request_headers(rq, h);
    struct events *e = ARENA_NEW(request_arena(rq), struct events);
    if (last.p != NULL && slice_u64(last, &e->after) != 0) {
        request_problem(rq, E_INVALID, "Last-Event-ID: expected a number, found `%.*s`", SL_ARG(last));
        return;
    }
    if (slice_eq_str(r->method, "HEAD")) {
        request_empty(rq, 200); /* a stream without a body has no end to wait for */
        return;
    }
    e->rq = rq;
    e->c = rq->c;
    (void)snprintf(e->id, sizeof e->id, "%s", ws->id);
    (void)snprintf(e->tenant_id, sizeof e->tenant_id, "%s", rq->who.tenant->id);
    (void)snprintf(e->log, sizeof e->log, "events/%s", ws->id);
    h[n++] = (struct http_header){SL("Content-Type"), SL("text/event-stream")};
    h[n++] = (struct http_header){SL("Cache-Control"), SL("no-store")};
    h[n++] = (struct http_header){SL("X-Accel-Buffering"), SL("no")};
    rq->on_drain = on_events_drain;
    rq->data = e;
    rq->c->requests_total[2]++;
    exchange_own(rq->ex, &events_events, e);
    DL_APPEND(rq->c->event_streams, e);
    (void)exchange_head(rq->ex, 200, h, n, EXCHANGE_LENGTH_UNKNOWN);
    exchange_endless(rq->ex);
    exchange_flush(rq->ex);
    events_read(e);
}

static const struct route rows[] = {
    {"POST", "/v1/workspaces/find-or-create", ROUTE_TENANT, ROLE_MEMBER, ROUTE_BODY_JSON, 0,
     post_find_or_create, "Find or create a workspace named in the body", "wait retry", 200},
    {"GET", "/v1/workspaces", ROUTE_TENANT, ROLE_VIEWER, 0, 0, list_workspaces, "List workspaces",
     "limit after namespace state label", 200},
    {"PUT", "/v1/workspaces/{namespace}/{name}", ROUTE_TENANT, ROLE_MEMBER,
     ROUTE_BODY_JSON | ROUTE_BODY_OPTIONAL | ROUTE_NAMESPACE_FIRST, 0, put_workspace,
     "Find or create a workspace", "wait retry", 200},
    {"GET", "/v1/workspaces/{namespace}/{name}", ROUTE_TENANT, ROLE_VIEWER, ROUTE_NAMESPACE_FIRST, 0,
     get_workspace, "Read a workspace", NULL, 200},
    {"DELETE", "/v1/workspaces/{namespace}/{name}", ROUTE_TENANT, ROLE_MEMBER, ROUTE_NAMESPACE_FIRST, 0,
     delete_workspace, "Delete a workspace and its home", "wait keep_home", 202},
    {"POST", "/v1/workspaces/{namespace}/{name}/suspend", ROUTE_TENANT, ROLE_MEMBER, ROUTE_NAMESPACE_FIRST, 0,
     suspend_workspace, "Put a workspace to sleep; its home stays", "wait", 200},
    {"POST", "/v1/workspaces/{namespace}/{name}/resume", ROUTE_TENANT, ROLE_MEMBER, ROUTE_NAMESPACE_FIRST, 0,
     resume_workspace, "Wake a workspace", "wait", 200},
    {"POST", "/v1/workspaces/{namespace}/{name}/restart", ROUTE_TENANT, ROLE_MEMBER, ROUTE_NAMESPACE_FIRST, 0,
     restart_workspace, "Start the server in a workspace anew", "wait", 200},
    {"POST", "/v1/workspaces/{namespace}/{name}/extend", ROUTE_TENANT, ROLE_MEMBER, ROUTE_NAMESPACE_FIRST, 0,
     extend_workspace, "Count this moment as activity", NULL, 200},
    {"GET", "/v1/workspaces/{namespace}/{name}/events", ROUTE_TENANT, ROLE_VIEWER, ROUTE_NAMESPACE_FIRST, 0,
     get_events, "State changes as server-sent events", NULL, 200},
};
const struct route_set routes_workspaces = {rows, ARRAY_LEN(rows)};
