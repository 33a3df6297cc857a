/* suspense: what cannot be attributed, priced or believed waits here, in sight, until truth or a person
 * decides.
 *
 * Records live under suspense/<identity>/<facts hash>: in the tenant's partition, or in `fleet` while the
 * tenant is unknown. A repetition of the same report is the same record. Happy path back out: the same event
 * arrives again, can be posted now, and its record goes in the commit that posts it (ledger.c); one in
 * `fleet` is deleted afterwards, by a commit that may be repeated any number of times. Failure path: a commit
 * that fails makes the whole batch fail, and the gateway sends it again. */
#include "billing/internal.h"

#include <string.h>

void event_write(struct jsonw *w, const struct event *e, const struct owner *o)
{
    jsonw_ktime(w, "time", e->time_ms);
    jsonw_kslice(w, "gateway", e->gateway);
    jsonw_kstr(w, "key_hash", e->key_hash);
    jsonw_kslice(w, "id", e->id);
    jsonw_kstr(w, "kind", EVENT_KIND);
    if (o != NULL) {
        jsonw_kslice(w, "namespace", o->namespace);
        jsonw_kslice(w, "workspace", o->workspace);
        jsonw_kslice(w, "workspace_id", o->workspace_id);
        jsonw_kslice(w, "user", o->user);
    }
    jsonw_kslice(w, "model", e->model);
    if (e->model_group.n > 0)
        jsonw_kslice(w, "model_group", e->model_group);
    if (e->provider.n > 0)
        jsonw_kslice(w, "provider", e->provider);
    if (e->call_type.n > 0)
        jsonw_kslice(w, "call_type", e->call_type);
    jsonw_kstr(w, "status", e->status == EVENT_SUCCESS ? "success" : "failure");
    jsonw_kbool(w, "estimated", e->is_estimated);
    if (e->reported_cost.n > 0)
        jsonw_kslice(w, "reported_cost", e->reported_cost);
}

struct slice suspense_write(struct arena *a, const struct suspense_record *r)
{
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    char number[I128_TEXT_MAX];
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kstr(&w, "reason", r->reason);
    jsonw_kstr(&w, "detail", r->detail);
    jsonw_ktime(&w, "received_at", r->received_ms);
    event_write(&w, r->event, r->owner);
    jsonw_key(&w, "tokens");
    jsonw_object(&w);
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (r->event->tokens[k] > 0)
            jsonw_ku64(&w, token_kind_names[k], r->event->tokens[k]);
    }
    jsonw_object_end(&w);
    if (r->has_amount) {
        struct amount amount = {r->amount, {0}};
        memcpy(amount.currency, r->currency, 3);
        jsonw_amount(&w, "cost", amount);
    }
    jsonw_key(&w, "counted");
    jsonw_array(&w);
    for (size_t i = 0; i < r->n_counts; i++) {
        jsonw_object(&w);
        jsonw_kslice(&w, "counter", r->counts[i].counter);
        size_t n = i128_format(r->counts[i].amount, 0, number);
        jsonw_kslice(&w, "units", slice_of(number, n));
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    must(!text.is_full); /* every part of it is bounded */
    struct slice out = arena_slice(a, buf_view(&text));
    buf_fini(&text);
    return out;
}

int suspense_read(struct arena *a, struct slice record, struct slice *ret_reason, struct suspense_count **ret,
                  size_t *ret_n)
{
    struct json *root = NULL;
    if (json_parse(record, NULL, &root, NULL) != 0)
        return E_INVALID;
    const struct json *list = json_get(root, "counted");
    struct suspense_count *counts = arena_zalloc(a, (json_count(list) + 1) * sizeof(*counts));
    size_t n = 0;
    int rc = json_string(json_get(root, "reason")).p != NULL ? 0 : E_INVALID;
    JSON_FOREACH (it, list) {
        struct slice counter = json_string(json_get(it, "counter")),
                     units = json_string(json_get(it, "units"));
        if (counter.p == NULL || units.p == NULL || i128_parse(units, 0, false, &counts[n].amount) != 0) {
            rc = E_INVALID;
            break;
        }
        counts[n++].counter = arena_slice(a, counter);
    }
    if (rc == 0) {
        *ret_reason = arena_slice(a, json_string(json_get(root, "reason")));
        *ret = counts;
        *ret_n = n;
    }
    json_free(root);
    return rc;
}

/* --- the fleet's --- */

static void on_fleet_commit(const struct store_commit_answer *a, void *data)
{
    batch_part_done(data, a->code, a->err);
}

void fleet_suspend_start(struct batch *x, struct item **items, size_t n)
{
    struct store_op *ops = arena_zalloc(&x->arena, (2 * n + 1) * sizeof(*ops));
    size_t n_ops = 0;
    for (size_t i = 0; i < n; i++) {
        struct item *it = items[i];
        struct suspense_record r = {.reason = "unknown_key",
                                    .detail = it->orphan,
                                    .received_ms = x->received_ms,
                                    .event = it->event,
                                    .currency = price_currency(x->book->prices)};
        char mark[128];
        owner_mark_name(it->event->key_hash, mark);
        ops[n_ops++] = store_put(it->event->suspense_key, suspense_write(&x->arena, &r));
        ops[n_ops++] = store_put(slice_str(arena_strdup(&x->arena, mark)), SL("1"));
        /* The key's record may have come while we were on our way: then this process must look for the mark.
         */
        struct owner *o = owner_cache_find(&x->billing->owners, it->event->key_hash);
        if (o != NULL)
            o->had_suspense = true;
    }
    store_commit(x->billing->store, FLEET, ops, n_ops, on_fleet_commit, x);
}

static void on_fleet_found(int code, const struct store_record *r, size_t n, bool has_more,
                           const struct err *err, void *data)
{
    struct batch *x = data;
    (void)has_more; /* an answer to get is whole */
    struct store_op *ops = arena_zalloc(&x->arena, (n + 1) * sizeof(*ops));
    size_t n_ops = 0;
    for (size_t i = 0; code == 0 && i < n; i++) {
        if (r[i].version > 0)
            ops[n_ops++] = store_delete(arena_slice(&x->arena, r[i].key));
    }
    if (code == 0 && n_ops > 0 && !x->billing->is_closing)
        store_commit(x->billing->store, FLEET, ops, n_ops, on_fleet_commit, x);
    else
        batch_part_done(x, code == 0 && n_ops > 0 ? E_CANCELLED : code, err);
}

void fleet_resolve_start(struct batch *x, struct item **items, size_t n)
{
    struct slice *keys = arena_alloc(&x->arena, (n + 1) * sizeof(*keys));
    for (size_t i = 0; i < n; i++)
        keys[i] = items[i]->event->suspense_key;
    store_get(x->billing->store, FLEET, keys, n, on_fleet_found,
              x); /* mostly none: then there is nothing to write */
}

/* --- the list --- */

struct suspense_list {
    struct billing *billing;
    billing_json_cb cb;
    void *data;
};

static void on_suspense(int code, const struct store_record *r, size_t n, bool has_more,
                        const struct err *err, void *data)
{
    struct suspense_list *x = data;
    struct buf text = BUF_INIT(STORE_SCAN_MAX * 4096u);
    struct jsonw w;
    size_t shown = 0;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    for (size_t i = 0; code == 0 && i < n && text.n < text.max / 2; i++, shown++) {
        /* The record is an object of ours: its key goes in front of its members. */
        jsonw_object(&w);
        jsonw_kslice(&w, "key", r[i].key);
        if (r[i].value.n > 2) {
            (void)buf_byte(&text, ',');
            (void)buf_append(&text, r[i].value.p + 1, r[i].value.n - 2);
        }
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    if (shown > 0 && (has_more || shown < n))
        jsonw_kslice(&w, "next", r[shown - 1].key);
    else
        jsonw_kstr(&w, "next", NULL);
    jsonw_object_end(&w);
    if (code == 0 && text.is_full)
        code = E_TOO_LARGE;
    x->cb(code, code == 0 ? buf_view(&text) : SLICE_EMPTY, err, x->data);
    buf_fini(&text);
    billing_unref(x->billing);
    mem_free(x);
}

void billing_suspense(struct billing *b, struct slice tenant, struct slice after, size_t limit,
                      billing_json_cb cb, void *data)
{
    const struct config_tenant *t = tenant.n > 0 ? tenancy_tenant(b->book->tenancy, tenant) : NULL;
    struct suspense_list *x = MEM_NEW(struct suspense_list);
    *x = (struct suspense_list){billing_ref(b), cb, data};
    /* A tenant that is not configured has a partition that does not exist, and so an empty list. */
    struct slice partition = tenant.n == 0 ? FLEET : t != NULL ? slice_str(t->id) : SL("none");
    if (limit == 0 || limit > STORE_SCAN_MAX)
        limit = STORE_SCAN_MAX;
    store_scan(b->store, partition, SL(SUSPENSE_PREFIX), after, limit, on_suspense, x);
}
