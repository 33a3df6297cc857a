/* suspense: what cannot be attributed, priced or believed waits here, in sight, until truth or a person
 * decides (decision.c).
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
    if (e->extra.n > 0)
        jsonw_kslice(w, "extra", e->extra);
    jsonw_kstr(w, "status", e->status == EVENT_SUCCESS ? "success" : "failure");
    jsonw_kbool(w, "estimated", e->is_estimated);
    if (e->reported_cost.n > 0)
        jsonw_kslice(w, "reported_cost", e->reported_cost);
}

static int kind_find(struct slice name)
{
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (slice_eq_str(name, token_kind_names[k]))
            return k;
    }
    return -1;
}

static int tokens_read(const struct json *j, struct event *e)
{
    JSON_FOREACH (it, json_get(j, "tokens")) {
        int k = kind_find(json_key(it));
        if (k < 0 || json_u64(it, &e->tokens[k]) != 0)
            return E_INVALID;
    }
    JSON_FOREACH (it, json_get(j, "lines")) {
        int k = kind_find(json_string(json_get(it, "kind")));
        if (k < 0 || json_u64(json_get(it, "quantity"), &e->tokens[k]) != 0)
            return E_INVALID;
    }
    return 0;
}

int event_read(struct arena *a, const struct json *j, struct event *ret, struct billing_key_owner *ret_owner)
{
    struct event e = {.invalid = NULL};
    struct billing_key_owner o = {.tenant = SLICE_EMPTY};
    struct slice time = json_string(json_get(j, "time")), hash = json_string(json_get(j, "key_hash")),
                 status = json_string(json_get(j, "status"));
    const struct {
        const char *name;
        struct slice *to;
        bool is_required;
    } rows[] = {{"gateway", &e.gateway, true},
                {"id", &e.id, true},
                {"model", &e.model, true},
                {"model_group", &e.model_group, false},
                {"provider", &e.provider, false},
                {"call_type", &e.call_type, false},
                {"extra", &e.extra, false},
                {"reported_cost", &e.reported_cost, false},
                {"namespace", &o.namespace, false},
                {"workspace", &o.workspace, false},
                {"workspace_id", &o.workspace_id, false},
                {"user", &o.user, false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct slice text = json_string(json_get(j, rows[i].name));
        if (text.p == NULL && rows[i].is_required)
            return E_INVALID;
        *rows[i].to = text.p != NULL ? arena_slice(a, text) : SLICE_EMPTY;
    }
    if (!slice_eq_str(json_string(json_get(j, "kind")), EVENT_KIND) || hash.n != SHA256_HEX_SIZE - 1 ||
        time_parse(time, &e.time_ms) != 0 || tokens_read(j, &e) != 0)
        return E_INVALID;
    memcpy(e.key_hash, hash.p, hash.n);
    e.status = slice_eq_str(status, "failure") ? EVENT_FAILURE : EVENT_SUCCESS;
    e.is_estimated = json_is_true(json_get(j, "estimated"));
    event_finish(a, &e);
    *ret = e;
    if (ret_owner != NULL)
        *ret_owner = o;
    return 0;
}

struct dedupe dedupe_read(struct slice value)
{
    struct dedupe d = {SLICE_NULL, SLICE_NULL, SLICE_NULL};
    struct slice form;
    if (!slice_cut(&value, ' ', &form) || !slice_cut(&value, ' ', &d.facts))
        return (struct dedupe){SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY}; /* damaged: it is there */
    (void)slice_cut(&value, ' ', &d.where);
    d.decided = value;
    return d;
}

bool dedupe_has(const struct dedupe *d, const char *facts)
{
    struct slice rest = d->decided, one;
    if (d->facts.p == NULL)
        return false;
    if (slice_eq_str(d->facts, facts))
        return true;
    while (rest.n > 0) {
        (void)slice_cut(&rest, ' ', &one); /* the last has no blank behind it */
        if (slice_eq_str(one, facts))
            return true;
    }
    return false;
}

size_t dedupe_decided(const struct dedupe *d)
{
    return d->decided.n / SHA256_HEX_SIZE + (d->decided.n > 0 ? 1 : 0);
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

#define ATTEMPTS_MAX        6
#define FLEET_COMMIT_EVENTS 500 /* of one commit */

_Static_assert(3 * FLEET_COMMIT_EVENTS <= STORE_OPS_MAX, "they fit a commit");

/* What was decided about items in `fleet`, read before anything is done with them. */
struct fleet_check {
    struct batch *batch;
    struct item **items;
    size_t n;
    uint64_t *versions; /* of their records; 0: none */
    unsigned attempts;
    void (*then)(struct batch *x);        /* or */
    void (*go_on)(struct fleet_check *x); /* with the check */
};

static void on_decided(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                       void *data)
{
    struct fleet_check *x = data;
    struct batch *b = x->batch;
    (void)has_more; /* an answer to get is whole */
    if (code != 0 || b->billing->is_closing) {
        if (x->then != NULL)
            b->pending = SIZE_MAX; /* no part has begun */
        batch_part_done(b, code != 0 ? code : E_CANCELLED, err);
        return;
    }
    must(n == x->n);
    for (size_t i = 0; i < n; i++) {
        x->versions[i] = r[i].version;
        if (r[i].version == 0)
            continue;
        struct dedupe d = dedupe_read(r[i].value);
        if (dedupe_has(&d, x->items[i]->event->facts))
            x->items[i]->outcome = (struct outcome){OUTCOME_DUPLICATE, NULL, NULL};
    }
    if (x->then != NULL)
        x->then(b);
    else
        x->go_on(x);
}

static void check_read(struct fleet_check *x)
{
    struct slice *keys = arena_alloc(&x->batch->arena, (x->n + 1) * sizeof(*keys));
    for (size_t i = 0; i < x->n; i++)
        keys[i] = x->items[i]->event->dedupe_key;
    store_get(x->batch->billing->store, FLEET, keys, x->n, on_decided, x);
}

static struct fleet_check *check_new(struct batch *x, struct item **items, size_t n)
{
    struct fleet_check *c = ARENA_NEW(&x->arena, struct fleet_check);
    c->batch = x;
    c->items = items;
    c->n = n;
    c->versions = arena_zalloc(&x->arena, (n + 1) * sizeof(*c->versions));
    return c;
}

void fleet_decided_start(struct batch *x, struct item **items, size_t n, void (*then)(struct batch *x))
{
    struct fleet_check *c = check_new(x, items, n);
    c->then = then;
    check_read(c);
}

static void on_fleet_commit(const struct store_commit_answer *a, void *data)
{
    batch_part_done(data, a->code, a->err);
}

static void on_suspended(const struct store_commit_answer *a, void *data)
{
    struct fleet_check *x = data;
    if (a->code == E_CONFLICT && ++x->attempts < ATTEMPTS_MAX) /* somebody decided meanwhile */
        check_read(x);
    else
        batch_part_done(x->batch, a->code, a->err);
}

static void fleet_suspend(struct fleet_check *c)
{
    struct batch *x = c->batch;
    struct store_op *ops = arena_zalloc(&x->arena, (3 * c->n + 1) * sizeof(*ops));
    size_t n_ops = 0;
    for (size_t i = 0; i < c->n; i++) {
        struct item *it = c->items[i];
        if (it->outcome.kind == OUTCOME_DUPLICATE)
            continue;
        struct suspense_record r = {.reason = "unknown_key",
                                    .detail = it->orphan,
                                    .received_ms = x->received_ms,
                                    .event = it->event,
                                    .currency = price_currency(x->book->prices)};
        char mark[128];
        owner_mark_name(it->event->key_hash, mark);
        ops[n_ops++] = store_expect(it->event->dedupe_key, c->versions[i]);
        ops[n_ops++] = store_put(it->event->suspense_key, suspense_write(&x->arena, &r));
        ops[n_ops++] = store_put(slice_str(arena_strdup(&x->arena, mark)), SL("1"));
        /* The key's record may have come while we were on our way: then this process must look for the mark.
         */
        struct owner *o = owner_cache_find(&x->billing->owners, it->event->key_hash);
        if (o != NULL)
            o->had_suspense = true;
    }
    if (n_ops > 0)
        store_commit(x->billing->store, FLEET, ops, n_ops, on_suspended, c);
    else
        batch_part_done(x, 0, NULL);
}

void fleet_suspend_start(struct batch *x, struct item **items, size_t n)
{
    x->pending += (n - 1) / FLEET_COMMIT_EVENTS; /* beside the part that we are */
    for (size_t at = 0; at < n; at += FLEET_COMMIT_EVENTS) {
        size_t some = n - at < FLEET_COMMIT_EVENTS ? n - at : FLEET_COMMIT_EVENTS;
        struct fleet_check *c = check_new(x, items + at, some);
        c->go_on = fleet_suspend;
        check_read(c);
    }
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
