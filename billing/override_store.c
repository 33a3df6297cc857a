/* override_store: overrides from the store into memory, and wishes into the store.
 *
 * Happy path of a load: tenant after tenant, the records under override/ are put into the table; where that
 * is a change, the tenant's budgets are made anew. It runs at start, after a reload and with each refresh, so
 * that what was set at another controller is in force here too. Happy path of a wish: the record is read,
 * changed and committed with its audit entry; the budgets are made anew, their counters loaded, and only then
 * is it answered.
 *
 * Failure paths: two wishes at once: one of the commits finds another version, and begins anew. A record that
 * the file has overtaken is deleted, and a record that cannot be read is reported and has no force. */
#include "billing/internal.h"

#include <string.h>

#include "base/core/id.h"
#include "base/core/log.h"

#define ATTEMPTS_MAX 6
#define AUDIT_LOG    SL("audit")

static void tenant_renew(struct billing *b, const char *tenant_id)
{
    const struct config_tenant *t = tenancy_tenant_by_id(b->book->tenancy, slice_str(tenant_id));
    if (t != NULL)
        budget_set_replace(b->book->budgets, t, &b->overrides, billing_now_ms(b));
}

static struct slice record_key(struct arena *a, struct slice name)
{
    return slice_str(arena_printf(a, OVERRIDE_PREFIX "%.*s", SL_ARG(name)));
}

/* --- what the file has overtaken --- */

struct ending {
    struct billing *billing;
    char tenant_id[16];
};

static void on_ended(const struct store_commit_answer *a, void *data)
{
    struct ending *x = data;
    (void)a; /* another controller was first, or the next load tries again */
    billing_unref(x->billing);
    mem_free(x);
}

static void stale_end(struct billing *b, const struct config_tenant *t, const struct override *o)
{
    struct arena a = ARENA_INIT;
    struct buf text = BUF_INIT(1024);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_ktime(&w, "time", billing_now_ms(b));
    jsonw_kstr(&w, "actor", "reeve");
    jsonw_kstr(&w, "action", "budget.override_end");
    jsonw_kslice(&w, "subject", o->name);
    jsonw_kstr(&w, "detail", "the configuration file has another value for it now");
    jsonw_object_end(&w);
    struct slice key = record_key(&a, o->name);
    struct store_op ops[] = {store_expect(key, o->version), store_delete(key),
                             store_add(SL(OVERRIDE_COUNTER), -1), store_append(AUDIT_LOG, buf_view(&text))};
    struct ending *x = MEM_NEW(struct ending);
    x->billing = billing_ref(b);
    store_commit(b->store, slice_str(t->id), ops, ARRAY_LEN(ops), on_ended, x);
    buf_fini(&text);
    arena_fini(&a);
}

/* --- the load --- */

struct overrides_load {
    struct billing *billing;
    struct book *book;
    size_t at; /* tenant of the book's tenancy under way */
    uint64_t since;
    billing_done_cb done;
    void *data;
};

static void load_next(void *data);

static void load_end(struct overrides_load *x, int code, const struct err *err)
{
    struct billing *b = x->billing;
    billing_done_cb done = x->done;
    void *data = x->data;
    book_unref(x->book);
    mem_free(x);
    done(code, err, data);
    billing_unref(b);
}

/* One record; true when it is a change. */
static bool record_take(struct overrides_load *x, const struct config_tenant *t, const struct store_record *r)
{
    struct override_table *table = &x->billing->overrides;
    struct override *o = NULL;
    if (override_parse(r->value, &o) != 0) {
        log_error("budget.override_damaged", LF_SLICE("tenant", t->name), LF_SLICE("key", r->key));
        return false;
    }
    const struct override *there = override_find(table, t->id, o->name);
    if (there != NULL && there->said_at > x->since) {
        override_free(o); /* a commit has said something newer since we began to read */
        return false;
    }
    o->version = r->version;
    return override_put(table, t->id, o);
}

static void on_records(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                       void *data)
{
    struct overrides_load *x = data;
    struct billing *b = x->billing;
    const struct config_tenant *t = &x->book->tenancy->tenants[x->at];
    (void)has_more; /* there are fewer than a page takes */
    if (code != 0) {
        load_end(x, code, err);
        return;
    }
    bool is_change = false;
    struct slice *names = mem_alloc((n + 1) * sizeof(*names));
    for (size_t i = 0; i < n; i++) {
        names[i] = slice_from(r[i].key, strlen(OVERRIDE_PREFIX));
        is_change = record_take(x, t, &r[i]) || is_change;
    }
    is_change = override_retain(&b->overrides, t->id, names, n, x->since) || is_change;
    mem_free(names);
    if (is_change)
        tenant_renew(b, t->id);
    const struct config_tenant *now = tenancy_tenant_by_id(b->book->tenancy, slice_str(t->id));
    for (const struct override *o = override_first(&b->overrides, t->id); o != NULL && now != NULL;
         o = override_next(o)) {
        if (o->version > 0 && override_is_stale(o, budget_of_file(now, o->name)))
            stale_end(b, now, o);
    }
    x->at++;
    load_next(x);
}

static void load_next(void *data)
{
    struct overrides_load *x = data;
    struct billing *b = x->billing;
    if (b->is_closing) {
        load_end(x, E_CANCELLED, NULL);
        return;
    }
    if (x->at == x->book->tenancy->n_tenants) {
        load_end(x, 0, NULL);
        return;
    }
    x->since = ++b->overrides.turn;
    store_scan(b->store, slice_str(x->book->tenancy->tenants[x->at].id), SL(OVERRIDE_PREFIX), SLICE_EMPTY,
               STORE_SCAN_MAX, on_records, x);
}

void overrides_load_start(struct billing *b, billing_done_cb done, void *data)
{
    struct overrides_load *x = MEM_NEW(struct overrides_load);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->done = done;
    x->data = data;
    loop_defer(b->loop, load_next, x);
}

/* --- a wish --- */

struct wishing {
    struct billing *billing;
    struct book *book;
    const struct config_tenant *tenant; /* of the book */
    struct arena arena;
    struct override_wish wish; /* texts in the arena */
    struct slice audit;
    struct override *made; /* NULL: nothing is to be there */
    unsigned attempts;
    struct err err;
    billing_done_cb done;
    void *data;
};

static void wishing_read(void *data);

static void wishing_end(struct wishing *x, int code, const struct err *err)
{
    struct billing *b = x->billing;
    x->done(code, err, x->data);
    override_free(x->made);
    arena_fini(&x->arena);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

static void on_counted(int code, const struct err *err, void *data)
{
    (void)code; /* it is durable and in force; what was spent meanwhile is known with the next refresh */
    (void)err;
    wishing_end(data, 0, NULL);
}

/* It is so in the store: in memory too, and then the counters that the new budgets want. */
static void wishing_take(struct wishing *x, struct override *o, uint64_t version)
{
    struct billing *b = x->billing;
    o->version = version;
    o->said_at = ++b->overrides.turn;
    (void)override_put(&b->overrides, x->tenant->id, o);
    tenant_renew(b, x->tenant->id);
    load_start(b, LOAD_TENANT, slice_str(x->tenant->id), NULL, on_counted, x);
}

static void on_put(const struct store_commit_answer *a, void *data)
{
    struct wishing *x = data;
    if (a->code == E_CONFLICT && ++x->attempts < ATTEMPTS_MAX && !x->billing->is_closing) {
        override_free(x->made);
        x->made = NULL;
        wishing_read(x);
    } else if (a->code == E_BOUND) {
        err_set(&x->err, E_QUOTA, "the tenant has %d budgets that were set over the API: delete some",
                OVERRIDES_MAX);
        wishing_end(x, E_QUOTA, &x->err);
    } else if (a->code != 0) {
        billing_refresh(x->billing); /* what did it do? */
        wishing_end(x, a->code, a->err);
    } else {
        struct override *o = x->made;
        x->made = NULL;
        if (o != NULL)
            wishing_take(x, o, a->results[1].version);
        else
            wishing_take(x, override_gone(x->wish.name), 0);
    }
}

static void on_old(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                   void *data)
{
    struct wishing *x = data;
    struct override *old = NULL;
    const struct price_table *prices = x->book->prices;
    (void)has_more; /* an answer to get is whole */
    (void)n;
    if (code == 0 && x->billing->is_closing)
        code = err_set(&x->err, E_DRAINING, "shutting down");
    if (code != 0) {
        wishing_end(x, code, err != NULL ? err : &x->err);
        return;
    }
    uint64_t version = r[0].version;
    if (version > 0)
        (void)override_parse(r[0].value, &old); /* a damaged one is as good as none, and is replaced */
    code = override_change(old, budget_of_file(x->tenant, x->wish.name), &x->wish,
                           price_is_given(prices) ? price_currency(prices) : NULL, billing_now_ms(x->billing),
                           &x->made, &x->err);
    if (code != 0) {
        override_free(old);
        wishing_end(x, code, &x->err);
        return;
    }
    if (old != NULL && override_same(old, x->made)) { /* asked twice: it is so already */
        wishing_take(x, old, version);
        return;
    }
    override_free(old);
    struct slice key = record_key(&x->arena, x->wish.name);
    struct store_op ops[4] = {store_expect(key, version),
                              x->made != NULL ? store_put(key, override_write(&x->arena, x->made))
                                              : store_delete(key),
                              store_append(AUDIT_LOG, x->audit)};
    size_t n_ops = 3;
    if ((version == 0) == (x->made != NULL)) {
        ops[n_ops] = store_add(SL(OVERRIDE_COUNTER), x->made != NULL ? 1 : -1);
        ops[n_ops].has_bound = true;
        ops[n_ops++].bound = OVERRIDES_MAX;
    }
    store_commit(x->billing->store, slice_str(x->tenant->id), ops, n_ops, on_put, x);
}

static void wishing_read(void *data)
{
    struct wishing *x = data;
    if (x->err.code != 0) {
        wishing_end(x, x->err.code, &x->err);
        return;
    }
    struct slice key = record_key(&x->arena, x->wish.name);
    store_get(x->billing->store, slice_str(x->tenant->id), &key, 1, on_old, x);
}

void billing_budget_change(struct billing *b, struct slice tenant, const struct override_wish *wish,
                           struct slice audit, billing_done_cb done, void *data)
{
    struct wishing *x = MEM_NEW(struct wishing);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = ARENA_INIT;
    x->audit = arena_slice(&x->arena, audit);
    x->wish = *wish;
    struct slice *texts[] = {&x->wish.name,     &x->wish.limit,    &x->wish.scope, &x->wish.window,
                             &x->wish.timezone, &x->wish.at_limit, &x->wish.actor};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (texts[i]->p != NULL)
            *texts[i] = arena_slice(&x->arena, *texts[i]);
    }
    if (x->wish.actor.p == NULL)
        x->wish.actor = SLICE_EMPTY;
    x->done = done;
    x->data = data;
    x->tenant = tenancy_tenant(x->book->tenancy, tenant);
    if (x->tenant == NULL)
        err_set(&x->err, E_NOT_FOUND, "no such tenant");
    else if (!name_is_valid(wish->name))
        err_set(&x->err, E_INVALID, "name: expected [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?");
    loop_defer(b->loop, wishing_read, x);
}
