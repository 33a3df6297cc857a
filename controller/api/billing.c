/* billing: usage, and the export of a period. */
#include "base/core/mem.h"
#include "controller/api/audit.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <string.h>

/* --- usage --- */

static void query_usage(struct request *rq, struct billing_usage_query *q, const char *by)
{
    const struct {
        const char *name;
        struct slice *to;
    } filters[] = {{by, &q->by}, {"model", &q->model}, {"kind", &q->kind}};
    int year, month, day;
    int64_t now = clock_wall_ms(rq->c->loop.clock);
    time_civil(now, &year, &month, &day);
    q->tenant = rq->who.tenant->name;
    if (!request_day(rq, "from", time_from_civil(year, month, 1), false, &q->from_ms) ||
        !request_day(rq, "to", now - now % 86400000 + 86400000, true, &q->to_ms) ||
        !request_paging(rq, BILLING_USAGE_MAX, &q->limit, &q->after))
        return;
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        if (!request_query(rq, filters[i].name, filters[i].to))
            return;
    }
    if (!billing_usage_by_is_valid(q->by))
        request_problem(rq, E_INVALID, "query parameter `%s`: expected " BILLING_USAGE_BY ", found `%.*s`",
                        by, (int)(q->by.n < 200 ? q->by.n : 200), q->by.p);
    else
        billing_usage_query(rq->c->billing, q, request_on_json, request_hold(rq, NULL));
}

static void get_usage(struct request *rq)
{
    struct billing_usage_query q = {.namespace = SLICE_EMPTY, .workspace_id = SLICE_EMPTY};
    struct slice ns;
    if (!request_query(rq, "namespace", &ns) || !request_query(rq, "workspace", &q.workspace) ||
        !request_query(rq, "user", &q.user))
        return;
    if (ns.p != NULL)
        q.namespace = ns;
    /* a key that may not see everything sees one namespace at a time */
    if (ns.p == NULL ? !principal_has_namespace(&rq->who, SL("*")) : !principal_has_namespace(&rq->who, ns)) {
        request_problem(rq, ns.p == NULL ? E_INVALID : E_NOT_FOUND,
                        ns.p == NULL ? "this key sees some namespaces: say ?namespace="
                                     : "no such namespace");
        return;
    }
    query_usage(rq, &q, "group_by");
}

static void workspace_usage(struct request *rq)
{
    struct workspace *ws = request_workspace(rq);
    if (ws == NULL)
        return;
    struct billing_usage_query q = {.namespace = ws->namespace, .workspace_id = slice_str(ws->id)};
    query_usage(rq, &q, "by");
}

/* --- export: streamed, a page at a time --- */

struct download {
    struct request *rq; /* NULL: the client left; the export ends later */
    struct billing_export *x;
    bool is_started, is_stalled;
    enum export_format format;
    char period[16];
};

static void download_head(struct download *d)
{
    struct http_header h[REQUEST_HEADERS_MAX + 3];
    size_t n = request_headers(d->rq, h);
    h[n++] = (struct http_header){SL("Content-Type"), d->format == EXPORT_CSV ? SL("text/csv; charset=utf-8")
                                                                              : SL("application/x-ndjson")};
    h[n++] = (struct http_header){
        SL("Content-Disposition"),
        slice_str(arena_printf(request_arena(d->rq), "attachment; filename=\"%.*s-%s.%s\"",
                               SL_ARG(d->rq->who.tenant->name), d->period,
                               d->format == EXPORT_CSV ? "csv" : "jsonl"))};
    d->is_started = true;
    d->rq->c->requests_total[2]++;
    (void)exchange_head(d->rq->ex, 200, h, n, EXCHANGE_LENGTH_UNKNOWN);
}

static void on_part(struct slice bytes, void *data)
{
    struct download *d = data;
    if (d->rq == NULL)
        return;
    if (!d->is_started)
        download_head(d);
    if (exchange_write(d->rq->ex, bytes) == E_AGAIN)
        d->is_stalled = true;
    else
        billing_export_next(d->x);
}

static void on_export_end(int code, uint64_t rows, struct amount total, const struct err *err, void *data)
{
    struct download *d = data;
    struct request *rq = d->rq;
    (void)rows;
    (void)total;
    if (rq != NULL && !d->is_started && code == 0)
        download_head(d);
    bool is_started = d->is_started;
    mem_free(d);
    if (rq == NULL)
        return;
    struct exchange *ex = rq->ex;
    if (!is_started) {
        request_own(rq);
        request_error(rq, err);
        return;
    }
    request_gone(rq);
    /* a file that does not add up to the ledger must not look complete */
    if (code != 0)
        exchange_abort(ex);
    else
        exchange_end(ex);
}

static void on_download_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct download *d = data;
    request_gone(d->rq);
    d->rq = NULL;
    billing_export_cancel(d->x); /* on_export_end frees */
}

static void on_download_drain(struct exchange *ex, void *data)
{
    (void)ex;
    struct download *d = data;
    if (d->is_stalled) {
        d->is_stalled = false;
        billing_export_next(d->x);
    }
}

static const struct exchange_events download_events = {.on_abort = on_download_gone,
                                                       .on_drain = on_download_drain};
static const struct export_events export_events = {.on_part = on_part, .on_end = on_export_end};

static void get_export(struct request *rq)
{
    struct slice format;
    if (!request_query(rq, "format", &format))
        return;
    if (billing_period_parse(rq->params[0]) != 0) {
        request_problem(rq, E_INVALID, "period: expected a month like 2026-11, found `%.*s`",
                        SL_ARG(rq->params[0]));
        return;
    }
    if (format.p != NULL && !slice_eq_str(format, "csv") && !slice_eq_str(format, "jsonl")) {
        request_problem(rq, E_INVALID, "query parameter `format`: expected csv or jsonl, found `%.*s`",
                        SL_ARG(format));
        return;
    }
    if (!principal_has_namespace(&rq->who, SL("*"))) {
        request_problem(rq, E_FORBIDDEN, "a key with all namespaces is wanted: an export shows every one");
        return;
    }
    struct download *d = MEM_NEW(struct download);
    d->rq = rq;
    (void)snprintf(d->period, sizeof d->period, "%.*s", SL_ARG(rq->params[0]));
    d->format = format.p != NULL && slice_eq_str(format, "jsonl") ? EXPORT_JSONL : EXPORT_CSV;
    exchange_own(rq->ex, &download_events, d);
    d->x = billing_export_start(rq->c->billing, rq->who.tenant->name, rq->params[0], d->format,
                                &export_events, d);
}

static const struct route rows[] = {
    {"GET", "/v1/usage", ROUTE_TENANT, ROLE_VIEWER, 0, 0, get_usage, "Query the ledger",
     "from to group_by namespace workspace model kind user limit after", 200},
    {"GET", "/v1/workspaces/{namespace}/{name}/usage", ROUTE_TENANT, ROLE_VIEWER, ROUTE_NAMESPACE_FIRST, 0,
     workspace_usage, "What a workspace cost", "from to by model kind limit after", 200},
    {"GET", "/v1/periods/{period}/export", ROUTE_TENANT, ROLE_OWNER, 0, 0, get_export,
     "The ledger of a UTC month", "format", 200},
};
const struct route_set routes_billing = {rows, ARRAY_LEN(rows)};
