/* route: see route.h. Order on each request: parse strictly (the server did), authenticate, authorise,
 * collect the body, act. Workspace traffic under /w/ takes the proxy's road and its own table. */
#include "controller/edge/route.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/edge/proxy.h"

#include <string.h>

#define BODY_MAX_DEFAULT (256 * 1024)

const struct route_set *const route_sets[] = {&routes_workspaces,
                                              &routes_billing,
                                              &routes_egress,
                                              &routes_resources,
                                              &routes_budgets,
                                              &routes_suspense,
                                              &routes_gateways,
                                              &routes_admission,
                                              &routes_keys,
                                              &routes_fleet,
                                              NULL};

bool route_match(const char *pattern, struct slice path, struct slice params[REQUEST_PARAMS_MAX])
{
    struct slice rest = slice_str(pattern);
    size_t n = 0;
    if (path.n == 0 || path.p[0] != '/')
        return false;
    for (;;) {
        struct slice want, got;
        bool want_more = slice_cut(&rest, '/', &want), got_more = slice_cut(&path, '/', &got);
        if (want.n > 0 && want.p[0] == '{') {
            if (got.n == 0 || n == REQUEST_PARAMS_MAX)
                return false;
            params[n++] = got;
        } else if (!slice_eq(want, got)) {
            return false;
        }
        if (want_more != got_more)
            return false;
        if (!want_more)
            return true;
    }
}

static const struct route *route_find(struct slice method, struct slice path, struct slice *params,
                                      struct buf *allow)
{
    for (size_t s = 0; route_sets[s] != NULL; s++) {
        for (size_t i = 0; i < route_sets[s]->n; i++) {
            const struct route *r = &route_sets[s]->rows[i];
            if (!route_match(r->pattern, path, params))
                continue;
            if (slice_eq_str(method, r->method) ||
                (slice_eq_str(method, "HEAD") && strcmp(r->method, "GET") == 0))
                return r;
            (void)buf_printf(allow, "%s%s", allow->n > 0 ? ", " : "", r->method);
        }
    }
    return NULL;
}

/* Unknown query parameters are refused: a misspelt `?wiat=30s` must not look as if it worked. */
static bool query_is_known(struct request *rq)
{
    struct slice query = exchange_request(rq->ex)->query, pair;
    bool more = query.p != NULL && query.n > 0;
    while (more) {
        more = slice_cut(&query, '&', &pair);
        struct slice name, rest = pair, known = slice_str(rq->route->query != NULL ? rq->route->query : ""),
                           word;
        bool is_known = false, more_known = known.n > 0;
        (void)slice_cut(&rest, '=', &name);
        while (more_known && !is_known) {
            more_known = slice_cut(&known, ' ', &word);
            is_known = slice_eq(word, name);
        }
        if (!is_known) {
            request_problem(rq, E_INVALID, "unknown query parameter `%.*s`; this route knows: %s",
                            SL_ARG(name), rq->route->query != NULL ? rq->route->query : "none");
            return false;
        }
    }
    return true;
}

static bool authenticate(struct request *rq)
{
    struct err err = {0};
    if (rq->route->authority == ROUTE_OPEN)
        return true;
    struct slice gateway = rq->route->authority == ROUTE_GATEWAY ? rq->params[0] : SLICE_NULL;
    int code = identity_of_request(rq->c, rq->tenancy, request_arena(rq), exchange_request(rq->ex), gateway,
                                   false, &rq->who, &err);
    if (code != 0)
        request_problem(rq, code, "%s", err.msg);
    return code == 0;
}

static bool authorise(struct request *rq)
{
    const struct route *r = rq->route;
    const struct principal *p = &rq->who;
    if (r->authority == ROUTE_OPEN || r->authority == ROUTE_GATEWAY)
        return true;
    if (r->authority == ROUTE_FLEET && !p->is_fleet) {
        request_problem(rq, E_FORBIDDEN, "a fleet key is wanted here");
        return false;
    }
    if (r->authority == ROUTE_TENANT && p->tenant == NULL) {
        request_problem(rq, E_INVALID, "a fleet key must say whom it acts for: Reeve-Tenant: <tenant>");
        return false;
    }
    if ((r->flags & ROUTE_NAMESPACE_FIRST) != 0) {
        for (int i = 0; i < 2; i++) {
            if (rq->params[i].p != NULL && !name_is_valid(rq->params[i])) {
                request_problem(rq, E_INVALID,
                                "%s: expected [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?, found `%.*s`",
                                i == 0 ? "namespace" : "name", SL_ARG(rq->params[i]));
                return false;
            }
        }
        if (!principal_has_namespace(p, rq->params[0])) {
            request_problem(rq, E_NOT_FOUND, "no such workspace");
            return false;
        }
    }
    if (p->role < r->least) {
        request_problem(rq, E_FORBIDDEN, "role %s is wanted, this key has %s", role_name(r->least),
                        role_name(p->role));
        return false;
    }
    return true;
}

static void act(struct request *rq)
{
    if ((rq->route->flags & ROUTE_BODY_JSON) != 0 &&
        !request_parse_json(rq, (rq->route->flags & ROUTE_BODY_OPTIONAL) != 0))
        return;
    rq->route->handle(rq);
}

static void on_body(struct exchange *ex, int code, struct slice body, void *data)
{
    struct request *rq = data;
    if (code == E_CANCELLED) {
        request_gone(rq);
        return;
    }
    request_own(rq);
    if (code == E_TOO_LARGE) {
        exchange_close_after(ex);
        request_problem(rq, E_TOO_LARGE, "body: more than %zu bytes",
                        rq->route->body_max != 0 ? rq->route->body_max : (size_t)BODY_MAX_DEFAULT);
        return;
    }
    if (code != 0) {
        request_problem(rq, code, "body: cannot be read");
        return;
    }
    rq->body = body;
    if (authenticate(rq)) /* again: the key may have been revoked while the body came */
        act(rq);
}

static void dispatch(struct request *rq, const struct http_request *r)
{
    struct buf allow = BUF_INIT(256);
    rq->route = route_find(r->method, r->path, rq->params, &allow);
    if (rq->route == NULL) {
        if (allow.n > 0)
            request_problem(rq, E_METHOD, "%.*s: this path takes %s", SL_ARG(r->method), buf_cstr(&allow));
        else
            request_problem(rq, E_NOT_FOUND, "no such route; /v1/openapi.json lists them");
        buf_fini(&allow);
        return;
    }
    buf_fini(&allow);
    if (!authenticate(rq))
        return;
    if (!authorise(rq) || !query_is_known(rq))
        return;
    size_t max = rq->route->body_max != 0 ? rq->route->body_max : BODY_MAX_DEFAULT;
    if ((rq->route->flags & ROUTE_BODY_JSON) != 0)
        exchange_body_collect(rq->ex, max, on_body, rq);
    else
        act(rq);
}

void route_request(struct exchange *ex, void *controller)
{
    struct controller *c = controller;
    const struct http_request *r = exchange_request(ex);
    struct request *rq = request_new(c, ex);
    if (slice_starts(r->path, SL("/w/")))
        proxy_request(rq);
    else
        dispatch(rq, r);
}

void route_bad_request(int code, const struct err *err, struct buf *out, void *controller)
{
    struct controller *c = controller;
    struct buf body = BUF_INIT(4096);
    int status = err_http_status(code);
    problem_write(&body, code, slice_str(err->msg), NULL);
    (void)http_write_status(out, status, NULL);
    (void)http_write_header_str(out, "Content-Type", "application/problem+json");
    (void)http_write_header_u64(out, "Content-Length", body.n);
    (void)http_write_header_str(out, "Connection", "close");
    (void)http_write_end(out);
    (void)buf_slice(out, buf_view(&body));
    buf_fini(&body);
    c->requests_total[status / 100 % 6]++;
}
