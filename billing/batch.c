/* batch: a gateway's report, from its body to its answer.
 *
 * Happy path: the dialect makes events of the body; the owners of keys that we have not met are read from
 * `fleet` in one go; each tenant's events are posted in commits of their own, all tenants at once; what was
 * posted leaves the fleet's suspense if it ever sat there; then the answer. Failure paths: a malformed body
 * is refused as a whole; an event without a tenant goes to the fleet's suspense; if any part fails the answer
 * says "send all again", and the parts that were done answer "duplicate" then. */
#include "billing/internal.h"

#include <string.h>

#define BATCHES_MAX 256 /* on their way at once */

static void batch_end(struct batch *x)
{
    struct billing *b = x->billing;
    b->n_batches--;
    struct billing_batch_answer a = {.code = x->err.code, .err = x->err.code != 0 ? &x->err : NULL};
    struct billing_rejected *rejected = arena_zalloc(&x->arena, (x->n + 1) * sizeof(*rejected));
    for (size_t i = 0; a.code == 0 && i < x->n; i++) {
        const struct outcome *o = &x->items[i].outcome;
        if (o->kind == OUTCOME_POSTED)
            a.accepted++;
        else if (o->kind == OUTCOME_DUPLICATE)
            a.duplicates++;
        else if (o->kind == OUTCOME_REJECTED)
            rejected[a.n_rejected++] = (struct billing_rejected){i, o->code, o->detail};
        if (o->kind == OUTCOME_REJECTED && strcmp(o->code, "conflict") == 0)
            b->stats.conflicts++;
        else if (o->kind == OUTCOME_REJECTED && strcmp(o->code, "invalid") == 0)
            b->stats.invalid++;
        else if (o->kind == OUTCOME_REJECTED)
            b->stats.suspense++;
    }
    a.rejected = rejected;
    b->stats.accepted += a.accepted;
    b->stats.duplicates += a.duplicates;
    b->stats.batches++;
    if (a.code != 0 && !x->is_malformed)
        b->stats.failures++;
    x->cb(&a, x->data);
    for (size_t i = 0; i < x->n; i++) {
        owner_unref(x->items[i].owner);
        owner_unref(x->items[i].known);
    }
    book_unref(x->book);
    arena_fini(&x->arena);
    mem_free(x);
    billing_unref(b);
}

/* --- the parts --- */

static void batch_resolve(struct batch *x)
{
    struct item **items = arena_alloc(&x->arena, (x->n + 1) * sizeof(struct item *));
    size_t n = 0;
    for (size_t i = 0; x->err.code == 0 && i < x->n; i++) {
        const struct item *it = &x->items[i];
        bool is_posted = it->outcome.kind == OUTCOME_POSTED || it->outcome.kind == OUTCOME_DUPLICATE;
        /* Also what is in the tenant's own suspense now: it is attributed, and needs no second record. */
        bool is_kept = it->outcome.kind == OUTCOME_REJECTED && it->tenant != NULL;
        if (it->owner != NULL && it->owner->had_suspense && (is_posted || is_kept))
            items[n++] = &x->items[i];
    }
    if (n == 0 || x->billing->is_closing) {
        if (n > 0)
            err_set(&x->err, E_DRAINING, "shutting down: send it again");
        batch_end(x);
        return;
    }
    x->pending = SIZE_MAX; /* the last part */
    fleet_resolve_start(x, items, n);
}

void batch_part_done(struct batch *x, int code, const struct err *err)
{
    if (code != 0 && x->err.code == 0) {
        /* Whatever it was, for the gateway it means: not all of it is durable, send it again. */
        if (code == E_CANCELLED)
            err_set(&x->err, E_DRAINING, "shutting down: send it again");
        else
            err_set(&x->err, code == E_NO_SPACE ? E_NO_SPACE : E_STORE, "usage was not recorded: %s",
                    err != NULL && err->msg[0] != '\0' ? err->msg : err_title(code));
        if (!x->billing->is_closing && code != E_CANCELLED) /* what did it do? The counters know */
            billing_refresh(x->billing);
    }
    if (x->pending == SIZE_MAX) {
        batch_end(x);
        return;
    }
    must(x->pending > 0);
    if (--x->pending == 0)
        batch_resolve(x);
}

/* One row for each tenant in the batch; few, so a list. */
struct part {
    const struct config_tenant *tenant; /* NULL: the fleet's suspense */
    struct item **items;
    size_t n;
    struct part *next;
};

static struct part *part_of(struct batch *x, struct part **parts, const struct config_tenant *tenant)
{
    for (struct part *p = *parts; p != NULL; p = p->next) {
        if (p->tenant == tenant)
            return p;
    }
    struct part *p = ARENA_NEW(&x->arena, struct part);
    p->tenant = tenant;
    p->items = arena_alloc(&x->arena, x->n * sizeof(struct item *));
    p->next = *parts;
    *parts = p;
    return p;
}

/* Finds the tenant of an item, or says why there is none. */
static void item_attribute(struct batch *x, struct item *it)
{
    struct owner *o = it->known;
    if (o == NULL) {
        it->orphan = "no key with this hash was ever made here";
        return;
    }
    if (o->gateway.n > 0 && !billing_key_is_at(x->book->tenancy, o->gateway, o->tenant, it->event->gateway)) {
        o->had_suspense = true; /* with another configuration it may be its tenant's */
        it->orphan = "the key is of a tenant of another gateway"; /* a gateway vouches for its own only */
        return;
    }
    const struct config_tenant *t = tenancy_tenant(x->book->tenancy, o->tenant);
    if (t == NULL) {
        o->had_suspense = true;
        it->orphan = "the tenant of this key is not configured any more";
        return;
    }
    it->owner = owner_ref(o);
    it->tenant = t;
}

static void batch_split(struct batch *x)
{
    struct part *parts = NULL;
    for (size_t i = 0; i < x->n; i++) {
        struct item *it = &x->items[i];
        if (it->event->invalid != NULL) {
            it->outcome = (struct outcome){OUTCOME_REJECTED, "invalid", it->event->invalid};
            continue;
        }
        if (it->outcome.kind == OUTCOME_DUPLICATE) /* decided in `fleet` */
            continue;
        item_attribute(x, it);
        if (it->tenant == NULL)
            it->outcome = (struct outcome){OUTCOME_REJECTED, "unknown_key", it->orphan};
        if (it->tenant == NULL && it->event->may_be_refused)
            continue; /* there is nothing to decide */
        struct part *p = part_of(x, &parts, it->tenant);
        p->items[p->n++] = it;
    }
    x->pending = 1; /* ours, so that a part that ends at once does not end the batch */
    for (struct part *p = parts; p != NULL; p = p->next) {
        x->pending++;
        if (p->tenant != NULL)
            posting_start(x, p->tenant, p->items, p->n);
        else
            fleet_suspend_start(x, p->items, p->n);
    }
    batch_part_done(x, 0, NULL);
}

/* What came before its key was known may have been decided about in `fleet`. */
static void batch_prepare(struct batch *x)
{
    struct item **items = arena_alloc(&x->arena, (x->n + 1) * sizeof(struct item *));
    size_t n = 0;
    for (size_t i = 0; i < x->n; i++) {
        if (x->items[i].known != NULL && x->items[i].known->had_suspense)
            items[n++] = &x->items[i];
    }
    if (n > 0)
        fleet_decided_start(x, items, n, batch_split);
    else
        batch_split(x);
}

/* --- the owners --- */

struct owners_read {
    struct batch *batch;
    struct item **first; /* one item of each unknown hash */
    size_t n;
};

static void on_owners(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct owners_read *q = data;
    struct batch *x = q->batch;
    (void)has_more; /* an answer to get is whole */
    if (code != 0 || x->billing->is_closing) {
        x->pending = SIZE_MAX;
        batch_part_done(x, code != 0 ? code : E_CANCELLED, err);
        return;
    }
    must(n == 2 * q->n);
    for (size_t i = 0; i < q->n; i++) {
        struct owner *o = NULL;
        if (r[2 * i].version > 0) /* NULL when it is damaged: stays unknown */
            o = owner_cache_add(&x->billing->owners, q->first[i]->event->key_hash, r[2 * i].value,
                                r[2 * i + 1].version > 0);
        for (struct item *it = q->first[i]; o != NULL && it != NULL; it = it->same)
            it->known = owner_ref(o);
    }
    batch_prepare(x);
}

struct hash_row {
    struct item *last; /* of that key */
    UT_hash_handle hh;
};

static void batch_run(void *data)
{
    struct batch *x = data;
    if (x->err.code != 0) {
        batch_end(x);
        return;
    }
    if (x->billing->is_closing) {
        x->pending = SIZE_MAX;
        batch_part_done(x, E_CANCELLED, NULL);
        return;
    }
    struct owners_read *q = ARENA_NEW(&x->arena, struct owners_read);
    struct slice *keys = arena_alloc(&x->arena, (2 * x->n + 1) * sizeof(*keys));
    struct hash_row *seen = NULL;
    q->batch = x;
    q->first = arena_alloc(&x->arena, (x->n + 1) * sizeof(struct item *));
    for (size_t i = 0; i < x->n; i++) {
        const char *hash = x->items[i].event->key_hash;
        struct item *it = &x->items[i];
        if (it->event->invalid != NULL)
            continue;
        struct owner *known = owner_cache_find(&x->billing->owners, hash);
        if (known != NULL) {
            it->known = owner_ref(known);
            continue;
        }
        struct hash_row *row;
        HASH_FIND(hh, seen, hash, SHA256_HEX_SIZE - 1, row);
        if (row != NULL) {
            row->last->same = it;
            row->last = it;
            continue;
        }
        row = ARENA_NEW(&x->arena, struct hash_row);
        row->last = it;
        HASH_ADD_KEYPTR(hh, seen, hash, SHA256_HEX_SIZE - 1, row);
        char name[128], mark[128];
        billing_key_name(hash, name);
        owner_mark_name(hash, mark);
        keys[2 * q->n] = slice_str(arena_strdup(&x->arena, name));
        keys[2 * q->n + 1] = slice_str(arena_strdup(&x->arena, mark));
        q->first[q->n++] = it;
    }
    HASH_CLEAR(hh, seen);
    if (q->n > 0)
        store_get(x->billing->store, FLEET, keys, 2 * q->n, on_owners, q);
    else
        batch_prepare(x);
}

static void repost_run(void *data)
{
    struct batch *x = data;
    struct item **items = ARENA_NEW(&x->arena, struct item *);
    items[0] = &x->items[0];
    x->pending = 1;
    posting_start(x, items[0]->tenant, items, 1);
}

void batch_repost(struct billing *b, const struct repost *r, billing_batch_cb cb, void *data)
{
    struct batch *x = MEM_NEW(struct batch);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = ARENA_INIT;
    x->received_ms = billing_now_ms(b);
    x->extra = r->extra;
    x->n_extra = r->n_extra;
    x->cb = cb;
    x->data = data;
    x->n = 1;
    x->items = ARENA_NEW(&x->arena, struct item);
    x->items[0] = (struct item){.event = r->event,
                                .owner = owner_new(r->event->key_hash, r->owner),
                                .tenant = r->tenant,
                                .verdict = r->verdict,
                                .standing = r->standing};
    b->n_batches++;
    loop_defer(b->loop, repost_run, x);
}

void batch_start(struct billing *b, const struct dialect *d, struct slice gateway, struct slice kept,
                 const struct err *refused, billing_batch_cb cb, void *data)
{
    struct batch *x = MEM_NEW(struct batch);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = ARENA_INIT;
    x->received_ms = billing_now_ms(b);
    x->cb = cb;
    x->data = data;
    struct event_batch events = {NULL, 0};
    if (refused->code != 0)
        x->err = *refused;
    else
        (void)d->parse(&x->arena, arena_slice(&x->arena, gateway), kept, &events, &x->err);
    x->is_malformed = x->err.code != 0;
    if (x->err.code == E_SYNTAX)
        x->err.code = E_INVALID; /* one word for "the body is not what it should be" */
    if (x->err.code == 0 && b->n_batches >= BATCHES_MAX)
        err_set(&x->err, E_UNAVAILABLE, "%d batches are on their way: send it again", BATCHES_MAX);
    b->n_batches++;
    x->n = events.n;
    x->items = arena_zalloc(&x->arena, (x->n + 1) * sizeof(*x->items));
    for (size_t i = 0; i < x->n; i++)
        x->items[i].event = &events.events[i];
    loop_defer(b->loop, batch_run, x);
}
