/* budgets: how much may be spent, how much was, and setting it. */
#include "base/core/mem.h"
#include "billing/override.h"
#include "controller/api/audit.h"
#include "controller/edge/route.h"

#include <string.h>

#define LIST_MAX ((size_t)2 * 1024 * 1024)

static const char *window_name(enum budget_window w)
{
    return w == WINDOW_DAY ? "day" : (w == WINDOW_WEEK ? "week" : "month");
}

/* A budget that is counted for each namespace has sums in its instances only. */
static void budget_json(const struct billing_budget_view *v, struct jsonw *w)
{
    bool is_each = v->scope == SCOPE_NAMESPACE, has_sums = !is_each || v->namespace.n > 0;
    jsonw_object(w);
    jsonw_kslice(w, "name", v->name);
    jsonw_kstr(w, "scope", is_each ? "namespace" : "tenant");
    if (is_each && has_sums)
        jsonw_kslice(w, "namespace", v->namespace);
    jsonw_amount(w, "limit", v->limit);
    if (has_sums) {
        jsonw_amount(w, "spent", v->spent);
        jsonw_amount(w, "held", v->held);
        jsonw_amount(w, "unsettled", v->unsettled);
        jsonw_amount(w, "remaining", v->remaining);
    }
    jsonw_kstr(w, "window", window_name(v->window));
    jsonw_kslice(w, "timezone", v->timezone);
    jsonw_ktime(w, "window_start", v->window_start_ms);
    jsonw_ktime(w, "resets_at", v->window_end_ms);
    jsonw_kstr(w, "at_limit", "block");
    jsonw_kstr(w, "set_by", v->is_tenants ? "tenant" : "operator");
    if (v->is_override && v->has_file)
        jsonw_amount(w, "file_limit", v->file_limit);
    jsonw_object_end(w);
}

static void answer_one(struct request *rq, const struct billing_budget_view *v)
{
    struct buf out = BUF_INIT(8192);
    struct jsonw w;
    jsonw_init(&w, &out);
    budget_json(v, &w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void answer_list(struct request *rq, const struct billing_budget_view *v, size_t n, struct slice next)
{
    struct buf out = BUF_INIT(LIST_MAX);
    struct jsonw w;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    for (size_t i = 0; i < n; i++)
        budget_json(&v[i], &w);
    jsonw_array_end(&w);
    jsonw_kslice(&w, "next", next);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void list_budgets(struct request *rq)
{
    struct billing_budget_view *v = arena_zalloc(request_arena(rq), BILLING_BUDGETS_MAX * sizeof *v);
    size_t n = billing_budgets(rq->c->billing, rq->who.tenant->name, v, BILLING_BUDGETS_MAX);
    answer_list(rq, v, n, SLICE_NULL);
}

static bool budget_find(struct request *rq, struct slice namespace, struct billing_budget_view *ret)
{
    if (billing_budget_find(rq->c->billing, rq->who.tenant->name, rq->params[0], namespace, ret) == 0)
        return true;
    request_problem(rq, E_NOT_FOUND, "no such budget");
    return false;
}

static void get_budget(struct request *rq)
{
    struct billing_budget_view v;
    if (budget_find(rq, SLICE_EMPTY, &v))
        answer_one(rq, &v);
}

static void on_instances(int code, const struct billing_budget_view *v, size_t n, struct slice next,
                         const struct err *err, void *data)
{
    struct request *rq = request_release(data, NULL);
    if (rq == NULL)
        return;
    if (code != 0)
        request_error(rq, err);
    else
        answer_list(rq, v, n, next);
}

static void budget_instances(struct request *rq)
{
    size_t limit;
    struct slice after;
    struct billing_budget_view one;
    if (!request_paging(rq, BILLING_INSTANCES_MAX, &limit, &after) || !budget_find(rq, SLICE_EMPTY, &one))
        return;
    if (one.scope == SCOPE_TENANT) {
        answer_list(rq, &one, 1, SLICE_NULL);
        return;
    }
    if (principal_has_namespace(&rq->who, SL("*"))) {
        billing_budget_instances(rq->c->billing, rq->who.tenant->name, rq->params[0],
                                 after.p != NULL ? after : SLICE_EMPTY, limit, on_instances,
                                 request_hold(rq, NULL));
        return;
    }
    /* a key of some namespaces sees theirs: they are few */
    struct billing_budget_view *v = arena_zalloc(request_arena(rq), (rq->who.n_namespaces + 1) * sizeof *v);
    for (size_t i = 0; i < rq->who.n_namespaces; i++)
        (void)billing_budget_find(rq->c->billing, rq->who.tenant->name, rq->params[0], rq->who.namespaces[i],
                                  &v[i]); /* it was there a moment ago, in this turn */
    answer_list(rq, v, rq->who.n_namespaces, SLICE_NULL);
}

/* --- setting one --- */

struct budget_body {
    const struct json *limit;
    struct slice scope, window, timezone, at_limit;
};
static const struct json_field body_rows[] = {
    {"limit", JF_ANY, false, offsetof(struct budget_body, limit)},
    {"scope", JF_STRING, false, offsetof(struct budget_body, scope)},
    {"window", JF_STRING, false, offsetof(struct budget_body, window)},
    {"timezone", JF_STRING, false, offsetof(struct budget_body, timezone)},
    {"at_limit", JF_STRING, false, offsetof(struct budget_body, at_limit)},
};

/* "20 USD", as in the file, or {"amount":"20","currency":"USD"}, as in answers. */
static bool read_limit(struct request *rq, const struct json *j, struct slice *ret)
{
    struct {
        struct slice amount, currency;
    } in = {SLICE_NULL, SLICE_NULL};
    static const struct json_field rows[] = {{"amount", JF_STRING, true, 0},
                                             {"currency", JF_STRING, true, sizeof(struct slice)}};
    struct err err = {0};
    if (j == NULL)
        return true;
    *ret = json_string(j);
    if (ret->p != NULL)
        return true;
    if (json_type(j) != JSON_OBJECT) {
        request_problem(rq, E_INVALID, "limit: expected an amount such as \"20 USD\", found %s",
                        json_type_name(j));
        return false;
    }
    if (json_decode(j, "limit", rows, ARRAY_LEN(rows), &in, &err) != 0) {
        request_error(rq, &err);
        return false;
    }
    *ret = slice_str(arena_printf(request_arena(rq), "%.*s %.*s", SL_ARG(in.amount), SL_ARG(in.currency)));
    return true;
}

/* What was asked for, as the audit log says it. */
static struct slice wish_text(struct request *rq, const struct override_wish *wish)
{
    const struct {
        const char *name;
        struct slice text;
    } rows[] = {{"limit", wish->limit},
                {"scope", wish->scope},
                {"window", wish->window},
                {"timezone", wish->timezone},
                {"at_limit", wish->at_limit}};
    struct buf b = BUF_INIT(1024);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].text.p != NULL) /* what is too long is refused before it is written */
            (void)buf_printf(&b, "%s%s %.*s", b.n > 0 ? ", " : "", rows[i].name,
                             (int)(rows[i].text.n < 128 ? rows[i].text.n : 128), rows[i].text.p);
    }
    struct slice out = arena_slice(request_arena(rq), buf_view(&b));
    buf_fini(&b);
    return out;
}

static void on_changed(int code, const struct err *err, void *data)
{
    struct request *rq = request_release(data, NULL);
    struct billing_budget_view v;
    if (rq == NULL)
        return;
    if (code != 0)
        request_error(rq, err);
    else if (billing_budget_find(rq->c->billing, rq->who.tenant->name, rq->params[0], SLICE_EMPTY, &v) == 0)
        answer_one(rq, &v);
    else
        request_empty(rq, 204);
}

/* An override of the whole tenant's money: a key of some namespaces has no word in it. */
static void budget_change(struct request *rq, struct override_wish *wish, const char *action)
{
    if (!principal_has_namespace(&rq->who, SL("*"))) {
        request_problem(rq, E_FORBIDDEN, "a key with all namespaces is wanted");
        return;
    }
    wish->name = rq->params[0];
    wish->is_fleet = rq->who.is_fleet;
    wish->actor = slice_str(rq->who.subject);
    billing_budget_change(rq->c->billing, rq->who.tenant->name, wish,
                          audit_entry(rq, action, rq->params[0], wish_text(rq, wish)), on_changed,
                          request_hold(rq, NULL));
}

static void put_budget(struct request *rq)
{
    struct budget_body in = {.limit = NULL};
    struct override_wish wish = {.is_delete = false};
    struct err err = {0};
    if (json_decode(rq->json, "", body_rows, ARRAY_LEN(body_rows), &in, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    if (!read_limit(rq, in.limit, &wish.limit))
        return;
    wish.scope = in.scope;
    wish.window = in.window;
    wish.timezone = in.timezone;
    wish.at_limit = in.at_limit;
    budget_change(rq, &wish, "budget.set");
}

static void delete_budget(struct request *rq)
{
    struct override_wish wish = {.is_delete = true};
    budget_change(rq, &wish, "budget.delete");
}

static const struct route rows[] = {
    {"GET", "/v1/budgets", ROUTE_TENANT, ROLE_VIEWER, 0, 0, list_budgets, "Budgets of the tenant", NULL, 200},
    {"GET", "/v1/budgets/{name}", ROUTE_TENANT, ROLE_VIEWER, 0, 0, get_budget, "One budget", NULL, 200},
    {"PUT", "/v1/budgets/{name}", ROUTE_TENANT, ROLE_OWNER, ROUTE_BODY_JSON, 0, put_budget,
     "Set a budget: the operator any, an owner a lower or an additional one", NULL, 200},
    {"DELETE", "/v1/budgets/{name}", ROUTE_TENANT, ROLE_OWNER, 0, 0, delete_budget,
     "Take back what was set over the API", NULL, 200},
    {"GET", "/v1/budgets/{name}/instances", ROUTE_TENANT, ROLE_VIEWER, 0, 0, budget_instances,
     "A budget's instances, one per namespace where its scope says so", "limit after", 200},
};
const struct route_set routes_budgets = {rows, ARRAY_LEN(rows)};
