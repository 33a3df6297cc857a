/* top_read: one snapshot out of the API's answers.
 *
 * Happy path: whoami says whose key it is; a fleet key gets the tenants, and each tenant's workspaces, usage
 * of today and of the month, and budgets are asked for. Failure path: the first call that fails ends the
 * snapshot; the caller keeps the one before. */
#include "controller/cli/top.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/clock.h"
#include "base/core/hash.h"
#include "base/core/id.h"
#include "base/core/mem.h"

#define CALL_MS   10000
#define PAGE_MAX  500
#define PAGES_MAX 200 /* of one list: a controller that never ends it is not followed */

struct spend {
    struct slice id;
    i128 today, month;
    UT_hash_handle hh;
};

struct reading {
    struct top_snapshot *s;
    bool (*should_stop)(void *data);
    void *data;
    struct err *err;
    const char *tenant; /* whom a fleet key acts for; NULL: as the environment says */
    struct slice name;  /* of the tenant being read */
    struct spend *spends;
    size_t cap_workspaces;
};

static int get(struct reading *r, const char *path, struct api_answer *ret)
{
    const struct api_request rq = {.method = "GET",
                                   .path = path,
                                   .tenant = r->tenant,
                                   .deadline_ms = CALL_MS,
                                   .should_stop = r->should_stop,
                                   .data = r->data};
    int code = api_try(&rq, ret, r->err);
    if (code == EXIT_DONE && ret->json == NULL) {
        api_answer_fini(ret);
        code = EXIT_REFUSED;
        (void)err_set(r->err, E_UPSTREAM, "%s: the answer is not JSON", path);
    }
    return code;
}

static struct slice keep(struct reading *r, const struct json *string)
{
    struct slice s = json_string(string);
    return s.p != NULL ? arena_slice(&r->s->arena, s) : SLICE_EMPTY;
}

static i128 money(struct reading *r, const struct json *amount)
{
    struct slice number = json_string(json_get(amount, "amount")),
                 currency = json_string(json_get(amount, "currency"));
    i128 v = 0;
    bool is_currency = currency.n == 3;
    for (size_t i = 0; is_currency && i < 3; i++)
        is_currency = currency.p[i] >= 'A' && currency.p[i] <= 'Z';
    if (is_currency)
        memcpy(r->s->currency, currency.p, 3);
    if (number.p == NULL || i128_parse(number, 18, false, &v) != 0)
        v = 0;
    return v;
}

static i128 sum(i128 a, i128 b)
{
    i128 v = 0;
    return i128_add(a, b, &v) == 0 ? v : I128_MAX;
}

/* --- usage --- */

static struct spend *spend_of(struct reading *r, struct slice id)
{
    struct spend *x = NULL;
    if (id.n == 0)
        return NULL;
    HASH_FIND(hh, r->spends, id.p, id.n, x);
    if (x == NULL) {
        x = ARENA_NEW(&r->s->arena, struct spend);
        x->id = arena_slice(&r->s->arena, id);
        HASH_ADD_KEYPTR(hh, r->spends, x->id.p, x->id.n, x);
    }
    return x;
}

static void usage_take(struct reading *r, const struct json *page, bool is_today)
{
    JSON_FOREACH (it, json_get(page, "items")) {
        struct spend *x = spend_of(r, json_string(json_get(it, "workspace_id")));
        if (x == NULL) /* attributed to no workspace: in the total alone */
            continue;
        i128 cost = money(r, json_get(it, "cost"));
        *(is_today ? &x->today : &x->month) = cost;
    }
}

static int read_usage_of(struct reading *r, struct top_tenant *t, bool is_today, struct slice namespace)
{
    struct buf path = BUF_INIT(4096), after = BUF_INIT(2048);
    i128 *to = is_today ? &t->today : &t->month, before = *to;
    char day[16];
    int year, month, of_month, code, pages = 0;
    time_civil(r->s->at_ms, &year, &month, &of_month);
    (void)snprintf(day, sizeof(day), "%04d-%02d-%02d", year, month, is_today ? of_month : 1);
    do {
        struct api_answer a;
        buf_reset(&path);
        (void)buf_str(&path, "/v1/usage?group_by=workspace");
        api_query_add(&path, "from", day);
        if (namespace.p != NULL)
            (void)buf_printf(&path, "&namespace=%.*s", SL_ARG(namespace));
        api_query_add(&path, "after", after.n > 0 ? buf_cstr(&after) : NULL);
        code = get(r, buf_cstr(&path), &a);
        if (code != EXIT_DONE)
            break;
        usage_take(r, a.json, is_today);
        *to = sum(before, money(r, json_get(json_get(a.json, "total"), "cost"))); /* of all pages */
        struct slice next = json_string(json_get(a.json, "next"));
        buf_reset(&after);
        if (next.p != NULL)
            (void)buf_slice(&after, next);
        api_answer_fini(&a);
    } while (after.n > 0 && ++pages < PAGES_MAX);
    r->s->is_cut = r->s->is_cut || after.n > 0;
    buf_fini(&path);
    buf_fini(&after);
    return code;
}

/* A key that sees some namespaces asks for each of them. */
static int read_usage(struct reading *r, struct top_tenant *t, const struct json *namespaces)
{
    int code = EXIT_DONE;
    for (int today = 0; code == EXIT_DONE && today < 2; today++) {
        if (namespaces == NULL)
            code = read_usage_of(r, t, today, SLICE_NULL);
        JSON_FOREACH (it, namespaces) {
            if (code == EXIT_DONE)
                code = read_usage_of(r, t, today, json_string(it));
        }
    }
    return code;
}

/* --- workspaces --- */

static void workspace_take(struct reading *r, struct top_tenant *t, const struct json *ws)
{
    struct top_snapshot *s = r->s;
    struct slice state = json_string(json_get(ws, "state"));
    size_t *count = slice_eq_str(state, "ready")       ? &t->ready
                    : slice_eq_str(state, "suspended") ? &t->suspended
                    : slice_eq_str(state, "failed")    ? &t->failed
                                                       : &t->others;
    (*count)++;
    if (s->n_workspaces == TOP_WORKSPACES_MAX) {
        s->is_cut = true;
        return;
    }
    if (s->n_workspaces == r->cap_workspaces) {
        r->cap_workspaces = r->cap_workspaces == 0 ? 64 : r->cap_workspaces * 2;
        s->workspaces = mem_realloc(s->workspaces, r->cap_workspaces * sizeof(*s->workspaces));
    }
    struct top_workspace *x = &s->workspaces[s->n_workspaces++];
    *x = (struct top_workspace){.tenant = t->name,
                                .id = keep(r, json_get(ws, "id")),
                                .namespace = keep(r, json_get(ws, "namespace")),
                                .name = keep(r, json_get(ws, "name")),
                                .state = keep(r, json_get(ws, "state")),
                                .provider = keep(r, json_get(ws, "provider")),
                                .reason = keep(r, json_get(ws, "reason"))};
    const struct spend *spent = spend_of(r, x->id);
    if (spent != NULL) {
        x->today = spent->today;
        x->month = spent->month;
    }
}

static int read_workspaces(struct reading *r, struct top_tenant *t)
{
    struct buf path = BUF_INIT(4096), after = BUF_INIT(1024);
    int code, pages = 0;
    do {
        struct api_answer a;
        buf_reset(&path);
        (void)buf_printf(&path, "/v1/workspaces?limit=%d", PAGE_MAX);
        api_query_add(&path, "after", after.n > 0 ? buf_cstr(&after) : NULL);
        code = get(r, buf_cstr(&path), &a);
        if (code != EXIT_DONE)
            break;
        JSON_FOREACH (ws, json_get(a.json, "items"))
            workspace_take(r, t, ws);
        struct slice next = json_string(json_get(a.json, "next"));
        buf_reset(&after);
        if (next.p != NULL && r->s->n_workspaces < TOP_WORKSPACES_MAX)
            (void)buf_slice(&after, next);
        api_answer_fini(&a);
    } while (after.n > 0 && ++pages < PAGES_MAX);
    r->s->is_cut = r->s->is_cut || after.n > 0;
    buf_fini(&path);
    buf_fini(&after);
    return code;
}

/* --- budgets --- */

static int read_budgets(struct reading *r, const struct top_tenant *t)
{
    struct top_snapshot *s = r->s;
    struct api_answer a;
    int code = get(r, "/v1/budgets", &a);
    if (code != EXIT_DONE)
        return code;
    JSON_FOREACH (it, json_get(a.json, "items")) {
        if (json_get(it, "spent") == NULL)
            continue; /* one for each namespace: its instances are not listed here */
        if (s->n_budgets == TOP_BUDGETS_MAX) {
            s->is_cut = true;
            break;
        }
        struct top_budget *x = &s->budgets[s->n_budgets++];
        *x = (struct top_budget){.tenant = t->name,
                                 .name = keep(r, json_get(it, "name")),
                                 .resets_at = keep(r, json_get(it, "resets_at")),
                                 .limit = money(r, json_get(it, "limit")),
                                 .spent = money(r, json_get(it, "spent")),
                                 .unsettled = money(r, json_get(it, "unsettled"))};
    }
    api_answer_fini(&a);
    return EXIT_DONE;
}

/* --- the whole --- */

static int read_tenant(struct reading *r, struct slice name, const struct json *namespaces)
{
    struct top_tenant *t = &r->s->tenants[r->s->n_tenants++];
    *t = (struct top_tenant){.name = name};
    int code = read_usage(r, t, namespaces);
    if (code == EXIT_DONE)
        code = read_workspaces(r, t);
    if (code == EXIT_DONE)
        code = read_budgets(r, t);
    HASH_CLEAR(hh, r->spends);
    return code;
}

static int read_fleet(struct reading *r)
{
    struct api_answer a;
    int code = get(r, "/v1/tenants", &a);
    if (code != EXIT_DONE)
        return code;
    r->s->is_fleet = true;
    JSON_FOREACH (it, json_get(a.json, "items")) {
        if (code != EXIT_DONE)
            break;
        if (r->s->n_tenants == TOP_TENANTS_MAX) {
            r->s->is_cut = true;
            break;
        }
        struct slice name = keep(r, json_get(it, "name"));
        if (!name_is_valid(name)) { /* it will stand in a header */
            code = EXIT_REFUSED;
            (void)err_set(r->err, E_UPSTREAM, "the controller lists a tenant without a legal name");
            break;
        }
        r->tenant = name.p; /* a copy in the arena ends with a NUL */
        code = read_tenant(r, name, NULL);
        if (code == EXIT_REFUSED && r->err->code == E_NOT_FOUND) {
            r->s->n_tenants--; /* taken out of the configuration meanwhile */
            code = EXIT_DONE;
        }
    }
    api_answer_fini(&a);
    return code;
}

int top_read(struct top_snapshot *ret, bool (*should_stop)(void *data), void *data, struct err *err)
{
    struct api_answer a;
    struct top_snapshot s = {.arena = ARENA_INIT, .at_ms = clock_wall_ms(&clock_system)};
    struct reading r = {.s = &s, .should_stop = should_stop, .data = data, .err = err};
    s.tenants = mem_zalloc(TOP_TENANTS_MAX * sizeof(*s.tenants));
    s.budgets = mem_zalloc(TOP_BUDGETS_MAX * sizeof(*s.budgets));
    int code = get(&r, "/v1/whoami", &a);
    if (code == EXIT_DONE) {
        struct slice tenant = json_string(json_get(a.json, "tenant"));
        const struct json *namespaces = json_get(a.json, "namespaces");
        if (slice_eq_str(json_string(json_first(namespaces)), "*"))
            namespaces = NULL;
        code = tenant.n == 0 ? read_fleet(&r) : read_tenant(&r, arena_slice(&s.arena, tenant), namespaces);
        api_answer_fini(&a);
    }
    if (code != EXIT_DONE)
        top_snapshot_fini(&s);
    else
        *ret = s;
    return code;
}

void top_snapshot_fini(struct top_snapshot *s)
{
    mem_free(s->tenants);
    mem_free(s->workspaces);
    mem_free(s->budgets);
    arena_fini(&s->arena);
    *s = (struct top_snapshot){.arena = ARENA_INIT};
}

/* --- two of them --- */

struct known {
    const struct top_workspace *ws;
    UT_hash_handle hh;
};

static void compare_workspaces(struct top_snapshot *s, const struct top_snapshot *before)
{
    struct known *all = mem_zalloc((before->n_workspaces + 1) * sizeof(*all)), *table = NULL;
    for (size_t i = 0; i < before->n_workspaces; i++) {
        all[i].ws = &before->workspaces[i];
        HASH_ADD_KEYPTR(hh, table, all[i].ws->id.p, all[i].ws->id.n, &all[i]);
    }
    for (size_t i = 0; i < s->n_workspaces; i++) {
        struct known *old = NULL;
        HASH_FIND(hh, table, s->workspaces[i].id.p, s->workspaces[i].id.n, old);
        s->workspaces[i].is_spending =
            old != NULL ? s->workspaces[i].month > old->ws->month : s->workspaces[i].month > 0;
    }
    HASH_CLEAR(hh, table);
    mem_free(all);
}

void top_compare(struct top_snapshot *s, const struct top_snapshot *before)
{
    compare_workspaces(s, before);
    /* few, and in the controller's order, which changes with its configuration alone */
    for (size_t i = 0; i < s->n_tenants && i < before->n_tenants; i++)
        s->tenants[i].is_spending = slice_eq(s->tenants[i].name, before->tenants[i].name) &&
                                    s->tenants[i].month > before->tenants[i].month;
    for (size_t i = 0; i < s->n_budgets && i < before->n_budgets; i++)
        s->budgets[i].is_spending = slice_eq(s->budgets[i].name, before->budgets[i].name) &&
                                    slice_eq(s->budgets[i].tenant, before->budgets[i].tenant) &&
                                    s->budgets[i].spent > before->budgets[i].spent;
}

const char *const top_order_names[TOP_ORDERS] = {"spend", "name", "state"};

static int by_name(const void *a, const void *b)
{
    const struct top_workspace *x = a, *y = b;
    int c = slice_cmp(x->tenant, y->tenant);
    if (c == 0)
        c = slice_cmp(x->namespace, y->namespace);
    return c != 0 ? c : slice_cmp(x->name, y->name);
}

static int by_spend(const void *a, const void *b)
{
    const struct top_workspace *x = a, *y = b;
    int c = (y->month > x->month) - (y->month < x->month);
    return c != 0 ? c : by_name(a, b);
}

static int by_state(const void *a, const void *b)
{
    const struct top_workspace *x = a, *y = b;
    int c = slice_cmp(x->state, y->state);
    return c != 0 ? c : by_name(a, b);
}

void top_sort(struct top_snapshot *s, enum top_order order)
{
    static int (*const by[TOP_ORDERS])(const void *a, const void *b) = {by_spend, by_name, by_state};
    if (s->n_workspaces > 0)
        qsort(s->workspaces, s->n_workspaces, sizeof(*s->workspaces), by[order]);
}
