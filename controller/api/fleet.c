/* fleet: health, figures, the API's own description, reload, and what is configured. */
#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/api/audit.h"
#include "controller/api/metrics.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <string.h>

#define DOCUMENT_MAX ((size_t)4 * 1024 * 1024)

static void healthz(struct request *rq)
{
    request_json(rq, 200, SL("{\"status\":\"ok\"}"), NULL, 0);
}

static void readyz(struct request *rq)
{
    if (rq->c->is_ready && !rq->c->is_draining)
        request_json(rq, 200, SL("{\"status\":\"ready\"}"), NULL, 0);
    else
        request_json(rq, 503,
                     rq->c->is_draining ? SL("{\"status\":\"draining\"}") : SL("{\"status\":\"starting\"}"),
                     NULL, 0);
}

static void get_metrics(struct request *rq)
{
    /* open to a scraper without a key only where the operator said so of every listener */
    bool is_open = rq->tenancy->n_listen > 0;
    struct err err = {0};
    for (size_t i = 0; i < rq->tenancy->n_listen; i++)
        is_open = is_open && rq->tenancy->listen[i].probes;
    if (!is_open && identity_of_request(rq->c, rq->tenancy, request_arena(rq), exchange_request(rq->ex),
                                        SLICE_NULL, false, &rq->who, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    if (!is_open && !rq->who.is_fleet) {
        request_problem(rq, E_FORBIDDEN, "a fleet key is wanted here: the figures span tenants");
        return;
    }
    struct buf out = BUF_INIT(DOCUMENT_MAX);
    metrics_write(rq->c, &out);
    request_text(rq, 200, "text/plain; version=0.0.4; charset=utf-8", buf_view(&out));
    buf_fini(&out);
}

/* --- OpenAPI, from the rows --- */

static void openapi_parameters(struct jsonw *w, const struct route *r)
{
    struct slice rest = slice_str(r->pattern), segment, query = slice_str(r->query != NULL ? r->query : "");
    jsonw_key(w, "parameters");
    jsonw_array(w);
    for (bool more = true; more;) {
        more = slice_cut(&rest, '/', &segment);
        if (segment.n < 3 || segment.p[0] != '{')
            continue;
        jsonw_object(w);
        jsonw_kslice(w, "name", slice_of(segment.p + 1, segment.n - 2));
        jsonw_kstr(w, "in", "path");
        jsonw_kbool(w, "required", true);
        jsonw_key(w, "schema");
        jsonw_raw(w, SL("{\"type\":\"string\"}"));
        jsonw_object_end(w);
    }
    for (bool more = query.n > 0; more;) {
        more = slice_cut(&query, ' ', &segment);
        jsonw_object(w);
        jsonw_kslice(w, "name", segment);
        jsonw_kstr(w, "in", "query");
        jsonw_key(w, "schema");
        jsonw_raw(w, SL("{\"type\":\"string\"}"));
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

static void openapi_operation(struct jsonw *w, const struct route *r)
{
    char method[16], status[8];
    size_t i = 0;
    for (; r->method[i] != '\0' && i + 1 < sizeof method; i++)
        method[i] = (char)(r->method[i] + ('a' - 'A'));
    method[i] = '\0';
    (void)snprintf(status, sizeof status, "%d", r->ok_status);
    jsonw_key(w, method);
    jsonw_object(w);
    jsonw_kstr(w, "summary", r->summary);
    openapi_parameters(w, r);
    if ((r->flags & (ROUTE_BODY_JSON | ROUTE_BODY_STREAM)) != 0) {
        jsonw_key(w, "requestBody");
        jsonw_object(w);
        jsonw_kbool(w, "required", (r->flags & ROUTE_BODY_OPTIONAL) == 0);
        jsonw_key(w, "content");
        jsonw_raw(w, SL("{\"application/json\":{\"schema\":{}}}"));
        jsonw_object_end(w);
    }
    jsonw_key(w, "responses");
    jsonw_object(w);
    jsonw_key(w, status);
    jsonw_raw(w, SL("{\"description\":\"Success\"}"));
    jsonw_key(w, "default");
    jsonw_raw(
        w,
        SL("{\"description\":\"A problem\",\"content\":{\"application/problem+json\":{\"schema\":{\"$ref\":"
           "\"#/components/schemas/Problem\"}}}}"));
    jsonw_object_end(w);
    if (r->authority == ROUTE_OPEN)
        jsonw_key(w, "security"), jsonw_raw(w, SL("[]"));
    jsonw_kstr(w, "x-reeve-role", r->authority == ROUTE_GATEWAY ? "gateway" : role_name(r->least));
    jsonw_kstr(w, "x-reeve-authority",
               r->authority == ROUTE_FLEET ? "fleet" : (r->authority == ROUTE_OPEN ? "none" : "tenant"));
    jsonw_object_end(w);
}

static bool is_first_of_path(size_t set, size_t row)
{
    const char *pattern = route_sets[set]->rows[row].pattern;
    for (size_t s = 0; s <= set; s++)
        for (size_t i = 0; (s < set || i < row) && i < route_sets[s]->n; i++)
            if (strcmp(route_sets[s]->rows[i].pattern, pattern) == 0)
                return false;
    return true;
}

static void openapi(struct request *rq)
{
    struct buf out = BUF_INIT(DOCUMENT_MAX);
    struct jsonw w;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kstr(&w, "openapi", "3.0.3");
    jsonw_key(&w, "info");
    jsonw_raw(&w, SL("{\"title\":\"Reeve\",\"version\":\"1\"}"));
    jsonw_key(&w, "security");
    jsonw_raw(&w, SL("[{\"bearer\":[]}]"));
    jsonw_key(&w, "components");
    jsonw_raw(&w, SL("{\"securitySchemes\":{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\"}},"
                     "\"schemas\":{\"Problem\":"
                     "{\"type\":\"object\",\"properties\":{\"type\":{\"type\":\"string\"},\"title\":{"
                     "\"type\":\"string\"},"
                     "\"status\":{\"type\":\"integer\"},\"detail\":{\"type\":\"string\"},\"code\":{\"type\":"
                     "\"string\"},"
                     "\"request_id\":{\"type\":\"string\"}}}}}"));
    jsonw_key(&w, "paths");
    jsonw_object(&w);
    for (size_t s = 0; route_sets[s] != NULL; s++) {
        for (size_t i = 0; i < route_sets[s]->n; i++) {
            const char *pattern = route_sets[s]->rows[i].pattern;
            if (!is_first_of_path(s, i))
                continue;
            jsonw_key(&w, pattern);
            jsonw_object(&w);
            for (size_t s2 = s; route_sets[s2] != NULL; s2++)
                for (size_t k = 0; k < route_sets[s2]->n; k++)
                    if (strcmp(route_sets[s2]->rows[k].pattern, pattern) == 0)
                        openapi_operation(&w, &route_sets[s2]->rows[k]);
            jsonw_object_end(&w);
        }
    }
    jsonw_object_end(&w);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

/* --- reload --- */

static void on_reloaded(int code, const struct err *err, struct slice notes, void *data)
{
    struct request *rq = request_release(data, NULL);
    struct buf out = BUF_INIT((size_t)64 * 1024);
    struct slice rest = slice_trim(notes), line;
    struct jsonw w;
    if (rq == NULL)
        return;
    if (code != 0) {
        request_error(rq, err);
        return;
    }
    audit_request(rq, "config.reload", rq->c->tenancy->file);
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kbool(&w, "applied", true);
    jsonw_key(&w, "needs_restart");
    jsonw_array(&w);
    for (bool more = rest.n > 0; more;) {
        more = slice_cut(&rest, '\n', &line);
        if (line.n > 0)
            jsonw_slice(&w, line);
    }
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void reload(struct request *rq)
{
    struct buf problems = BUF_INIT((size_t)256 * 1024);
    struct request_hold *hold = request_hold(rq, NULL);
    if (controller_reload(rq->c, &problems, on_reloaded, hold) != 0) {
        (void)request_release(hold, NULL);
        request_problem(rq, E_INVALID, "the configuration was not applied:\n%s", buf_cstr(&problems));
    }
    buf_fini(&problems);
}

/* --- what is configured --- */

static void list_begin(struct jsonw *w, struct buf *out)
{
    jsonw_init(w, out);
    jsonw_object(w);
    jsonw_key(w, "items");
    jsonw_array(w);
}

static void list_answer(struct request *rq, struct jsonw *w, struct buf *out)
{
    jsonw_array_end(w);
    jsonw_object_end(w);
    request_json(rq, 200, buf_view(out), NULL, 0);
    buf_fini(out);
}

static void list_providers(struct request *rq)
{
    struct buf out = BUF_INIT(DOCUMENT_MAX);
    struct jsonw w;
    list_begin(&w, &out);
    for (size_t i = 0; i < rq->c->n_providers; i++) {
        struct provider *p = rq->c->providers[i];
        const struct provider_caps *caps = p->ops->caps(p);
        const struct config_provider *config = tenancy_provider(rq->c->tenancy, p->name);
        jsonw_object(&w);
        jsonw_kslice(&w, "name", p->name);
        jsonw_kstr(&w, "kind", provider_kind_name(config != NULL ? config->kind : PROVIDER_LOCAL));
        jsonw_kbool(&w, "sealed", caps->is_sealed);
        jsonw_kbool(&w, "suspend_keeps_memory", caps->suspend_keeps_memory);
        jsonw_kbool(&w, "outlives_controller", caps->outlives_controller);
        jsonw_kstr(&w, "not_enforced", caps->limits_note);
        jsonw_object_end(&w);
    }
    list_answer(rq, &w, &out);
}

static void list_templates(struct request *rq)
{
    struct buf out = BUF_INIT(DOCUMENT_MAX);
    struct jsonw w;
    const struct config_tenant *t = rq->who.tenant;
    list_begin(&w, &out);
    for (size_t i = 0; i < t->n_templates; i++) {
        const struct config_template *x = t->templates[i];
        jsonw_object(&w);
        jsonw_kslice(&w, "name", x->name);
        jsonw_kbool(&w, "default", i == 0);
        jsonw_key(&w, "providers");
        jsonw_array(&w);
        for (size_t k = 0; k < x->n_providers; k++)
            jsonw_slice(&w, x->providers[k]->name);
        jsonw_array_end(&w);
        jsonw_kslice(&w, "image", x->image);
        jsonw_ku64(&w, "memory_bytes", x->memory_bytes);
        jsonw_ku64(&w, "disk_bytes", x->disk_bytes);
        jsonw_ku64(&w, "processes", x->processes);
        jsonw_object_end(&w);
    }
    list_answer(rq, &w, &out);
}

static void list_tenants(struct request *rq)
{
    struct buf out = BUF_INIT(DOCUMENT_MAX);
    struct jsonw w;
    list_begin(&w, &out);
    for (size_t i = 0; i < rq->tenancy->n_tenants; i++) {
        const struct config_tenant *t = &rq->tenancy->tenants[i];
        jsonw_object(&w);
        jsonw_kslice(&w, "name", t->name);
        jsonw_kstr(&w, "id", t->id);
        if (t->gateway != NULL)
            jsonw_kslice(&w, "gateway", t->gateway->name);
        jsonw_ku64(&w, "workspaces_ready", scheduler_count(rq->c->scheduler, t->name, WS_READY));
        jsonw_object_end(&w);
    }
    list_answer(rq, &w, &out);
}

static void on_audit_page(int code, const struct store_entry *e, size_t n, bool has_more,
                          const struct err *err, void *data)
{
    struct request *rq = request_release(data, NULL);
    struct buf out = BUF_INIT((size_t)16 * 1024 * 1024);
    struct jsonw w;
    if (rq == NULL)
        return;
    if (code != 0) {
        request_error(rq, err);
        return;
    }
    list_begin(&w, &out);
    for (size_t i = 0; i < n; i++)
        jsonw_raw(&w, e[i].value);
    jsonw_array_end(&w);
    if (has_more)
        jsonw_kstr(&w, "next", arena_printf(request_arena(rq), "%llu", (unsigned long long)e[n - 1].number));
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void get_audit(struct request *rq)
{
    size_t limit;
    struct slice after;
    uint64_t number = 0;
    if (!request_paging(rq, 500, &limit, &after))
        return;
    if (after.p != NULL && slice_u64(after, &number) != 0) {
        request_problem(rq, E_INVALID, "query parameter `after`: expected what `next` gave");
        return;
    }
    if (!principal_has_namespace(&rq->who, SL("*"))) {
        request_problem(rq, E_FORBIDDEN, "a key with all namespaces is wanted");
        return;
    }
    store_log_read(rq->c->store, rq->who.tenant != NULL ? slice_str(rq->who.tenant->id) : SL("fleet"),
                   SL("audit"), number, limit, on_audit_page, request_hold(rq, NULL));
}

static const struct route rows[] = {
    {"GET", "/healthz", ROUTE_OPEN, ROLE_NONE, 0, 0, healthz, "Is the process alive?", NULL, 200},
    {"GET", "/readyz", ROUTE_OPEN, ROLE_NONE, 0, 0, readyz, "Does it take work?", NULL, 200},
    {"GET", "/metrics", ROUTE_OPEN, ROLE_NONE, 0, 0, get_metrics,
     "Figures for Prometheus; wants a fleet key unless the listener is marked probes", NULL, 200},
    {"GET", "/v1/openapi.json", ROUTE_OPEN, ROLE_NONE, 0, 0, openapi, "This document", NULL, 200},
    {"POST", "/v1/reload", ROUTE_FLEET, ROLE_OWNER, 0, 0, reload, "Read the configuration file again", NULL,
     200},
    {"GET", "/v1/providers", ROUTE_FLEET, ROLE_VIEWER, 0, 0, list_providers, "Providers and what they can do",
     NULL, 200},
    {"GET", "/v1/templates", ROUTE_TENANT, ROLE_VIEWER, 0, 0, list_templates, "The tenant's templates", NULL,
     200},
    {"GET", "/v1/tenants", ROUTE_FLEET, ROLE_VIEWER, 0, 0, list_tenants, "Tenants", NULL, 200},
    {"GET", "/v1/audit", ROUTE_EITHER, ROLE_OWNER, 0, 0, get_audit, "Who did what", "limit after", 200},
};
const struct route_set routes_fleet = {rows, ARRAY_LEN(rows)};
