/* egress: what a workspace reached lately, and why it may or may not reach a target. */
#include "base/core/mem.h"
#include "controller/edge/egress.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MAX ((size_t)512 * 1024)

/* --- what was decided --- */

static void write_decision(struct jsonw *w, const struct decision *d)
{
    jsonw_object(w);
    jsonw_kstr(w, "target", d->target);
    jsonw_kstr(w, "decision", decision_name(d->kind));
    jsonw_kstr(w, "reason", d->reason);
    jsonw_kstr(w, "detail", d->text);
    if (d->line != 0) {
        jsonw_kstr(w, "rule", d->rule);
        jsonw_ku64(w, "line", d->line);
    }
    jsonw_ku64(w, "count", d->count);
    jsonw_ktime(w, "first_at", d->first_ms);
    jsonw_ktime(w, "last_at", d->last_ms);
    jsonw_object_end(w);
}

static int newest_first(const void *a, const void *b)
{
    const struct decision *x = *(const struct decision *const *)a, *y = *(const struct decision *const *)b;
    return x->last_ms < y->last_ms ? 1 : x->last_ms > y->last_ms ? -1 : 0;
}

static void get_egress(struct request *rq)
{
    static const struct account nothing;
    struct workspace *ws = request_workspace(rq);
    if (ws == NULL)
        return;
    const struct account *a = egress_account(rq->c->egress, ws->id);
    const struct decision *sorted[DECISIONS_MAX] = {NULL};
    struct buf out = BUF_INIT(ANSWER_MAX);
    struct jsonw w;
    if (a == NULL)
        a = &nothing;
    for (size_t i = 0; i < a->n_decisions; i++)
        sorted[i] = &a->decisions[i];
    qsort(sorted, a->n_decisions, sizeof sorted[0], newest_first);
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    for (size_t i = 0; i < a->n_decisions; i++)
        write_decision(&w, sorted[i]);
    jsonw_array_end(&w);
    jsonw_ku64(&w, "open", a->n_open);
    jsonw_ku64(&w, "bytes_in", a->bytes_in);
    jsonw_ku64(&w, "bytes_out", a->bytes_out);
    for (int k = 0; k < DECISION_KINDS; k++)
        jsonw_ku64(&w, decision_name((enum decision_kind)k), a->by_kind[k]);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

/* --- why --- */

struct asking {
    struct request *rq;
    struct egress_open *open;
    struct target target;
};

static void on_gone(struct request *rq, void *data)
{
    struct asking *k = data;
    (void)rq;
    egress_cancel(k->open);
}

static void on_decided(const struct egress_answer *a, void *data)
{
    struct asking *k = data;
    struct request *rq = k->rq;
    const struct verdict *v = a->verdict;
    struct buf out = BUF_INIT(ANSWER_MAX);
    struct jsonw w;
    rq->on_gone = NULL;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kstr(&w, "target", k->target.text);
    jsonw_kstr(&w, "decision",
               decision_name(a->code == 0 ? DECISION_ALLOWED
                             : a->code == E_FORBIDDEN || a->code == E_RATE || a->code == E_QUOTA
                                 ? DECISION_REFUSED
                                 : DECISION_FAILED));
    jsonw_kstr(&w, "reason", v->reason);
    jsonw_kstr(&w, "detail", v->text);
    if (v->rule != NULL) {
        jsonw_key(&w, "rule");
        jsonw_object(&w);
        jsonw_kslice(&w, "entry", v->rule->text);
        if (v->rule->set.n > 0)
            jsonw_kslice(&w, "set", v->rule->set);
        jsonw_ku64(&w, "line", v->rule->line);
        jsonw_ku64(&w, "column", v->rule->column);
        jsonw_object_end(&w);
    }
    jsonw_key(&w, "addresses");
    jsonw_array(&w);
    for (size_t i = 0; i < a->n_addresses; i++) {
        char text[ADDRESS_TEXT_MAX];
        address_format(&a->addresses[i], text);
        jsonw_object(&w);
        jsonw_kstr(&w, "address", text);
        jsonw_kstr(&w, "kind",
                   address_special(&a->addresses[i]) != NULL ? address_special(&a->addresses[i]) : "public");
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void get_why(struct request *rq)
{
    struct workspace *ws = request_workspace(rq);
    struct slice text;
    struct err err = {0};
    if (ws == NULL || !request_query(rq, "target", &text))
        return;
    if (text.p == NULL) {
        request_problem(rq, E_INVALID, "query: `target` is missing: expected host:port");
        return;
    }
    struct asking *k = ARENA_NEW(request_arena(rq), struct asking);
    if (target_parse(text, 0, &k->target, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    k->rq = rq;
    rq->on_gone = on_gone;
    rq->data = k;
    request_own(rq);
    k->open = egress_why(rq->c->egress, slice_str(ws->id), &k->target, on_decided, k);
}

static const struct route rows[] = {
    {"GET", "/v1/workspaces/{namespace}/{name}/egress", ROUTE_TENANT, ROLE_VIEWER, ROUTE_NAMESPACE_FIRST, 0,
     get_egress, "What a workspace reached lately, and what it was refused", NULL, 200},
    {"GET", "/v1/workspaces/{namespace}/{name}/egress/why", ROUTE_TENANT, ROLE_MEMBER, ROUTE_NAMESPACE_FIRST,
     0, get_why, "Why a workspace may or may not reach a target", "target", 200},
};
const struct route_set routes_egress = {rows, ARRAY_LEN(rows)};
