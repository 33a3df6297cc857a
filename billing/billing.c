/* billing: the counting-house as one object: opening, starting, reloading, closing. See billing.h.
 *
 * Happy path: open reads prices and budgets from the tenancy, start compares the ledger's currency with the
 * prices' and loads the counters; from then on batches are posted (batch.c, ledger.c) and gates answered from
 * memory (gate.c). A reload swaps the book at once; operations under way keep the one they began with.
 * Failure paths: a bad price file is refused with its problems and changes nothing; a price file in another
 * currency than the ledger is refused, because sums cannot mix. */
#include "billing/internal.h"

#include <string.h>

#define REFRESH_MS   15000
#define CURRENCY_KEY SL("billing/currency")

int64_t billing_now_ms(const struct billing *b)
{
    return clock_wall_ms(b->loop->clock);
}

int book_new(struct tenancy *t, const struct override_table *overrides, int64_t now_ms,
             struct config_problems *problems, struct book **ret)
{
    struct book *k = MEM_NEW(struct book);
    k->refs = 1;
    k->tenancy = tenancy_ref(t);
    int rc = price_table_new(&t->prices, problems, &k->prices);
    if (rc == 0) {
        const char *currency = price_currency(k->prices);
        if (!price_is_given(k->prices)) /* nothing is priced: take the budgets' word */
            currency = NULL;
        rc = budget_set_new(t, overrides, currency, now_ms, problems, &k->budgets);
    }
    if (rc != 0)
        book_unref(k);
    else
        *ret = k;
    return rc;
}

struct book *book_ref(struct book *k)
{
    k->refs++;
    return k;
}

void book_unref(struct book *k)
{
    if (k == NULL || --k->refs > 0)
        return;
    budget_set_free(k->budgets);
    price_table_free(k->prices);
    tenancy_unref(k->tenancy);
    mem_free(k);
}

struct billing *billing_ref(struct billing *b)
{
    b->refs++;
    return b;
}

static void on_timer_closed(void *data)
{
    mem_free(data);
}

/* The last operation is over and the owner has closed us: only the timer's handle is left. */
void billing_unref(struct billing *b)
{
    if (--b->refs > 0)
        return;
    must(b->is_closing);
    book_unref(b->book);
    mirror_fini(&b->mirror);
    override_table_fini(&b->overrides);
    owner_cache_fini(&b->owners);
    timer_close(&b->refresh, on_timer_closed);
}

static void on_refreshed(int code, const struct err *err, void *data)
{
    struct billing *b = data;
    (void)err; /* the next round tries again; until then what we know stands */
    if (code != 0)
        b->stats.failures++;
    b->is_refreshing = false;
}

static void on_overrides(int code, const struct err *err, void *data)
{
    struct billing *b = data;
    if (code != 0 || b->is_closing)
        on_refreshed(code, err, b);
    else
        load_start(b, LOAD_ALL, SLICE_EMPTY, NULL, on_refreshed, b);
}

void billing_refresh(struct billing *b)
{
    if (b->is_refreshing)
        return;
    b->is_refreshing = true;
    overrides_load_start(b, on_overrides, b);
}

/* Budgets are also set and spent through other controllers on the same store. */
static void on_refresh(void *data)
{
    struct billing *b = data;
    mirror_drop_ended(&b->mirror, billing_now_ms(b));
    billing_refresh(b);
}

int billing_open(struct loop *l, struct store *s, struct tenancy *t, struct config_problems *problems,
                 struct billing **ret)
{
    struct book *book;
    int rc = book_new(t, NULL, clock_wall_ms(l->clock), problems, &book);
    if (rc != 0)
        return rc;
    struct billing *b = MEM_NEW(struct billing);
    b->refs = 1;
    b->loop = l;
    b->store = s;
    b->book = book;
    timer_init(&b->refresh, l, on_refresh, b);
    uv_unref((uv_handle_t *)&b->refresh.uv); /* keeps no loop alive by itself */
    *ret = b;
    return 0;
}

void billing_close(struct billing *b)
{
    if (b == NULL)
        return;
    b->is_closing = true;
    timer_stop(&b->refresh);
    billing_unref(b);
}

int billing_check(struct tenancy *t, struct config_problems *problems)
{
    struct book *k;
    int rc = book_new(t, NULL, clock_wall_ms(&clock_system), problems, &k);
    if (rc == 0)
        book_unref(k);
    return rc;
}

/* --- start: one currency for one ledger --- */

struct start {
    struct billing *billing;
    struct book *book; /* the new one, of a reload; NULL at start */
    billing_done_cb done;
    void *data;
};

static void start_end(struct start *x, int code, const struct err *err)
{
    struct billing *b = x->billing;
    billing_done_cb done = x->done;
    void *data = x->data;
    book_unref(x->book);
    mem_free(x);
    if (code == 0)
        decisions_resume(b);
    if (done != NULL)
        done(code, err, data);
    billing_unref(b);
}

static void on_loaded(int code, const struct err *err, void *data)
{
    start_end(data, code, err);
}

static void on_overrides_loaded(int code, const struct err *err, void *data)
{
    struct start *x = data;
    if (code != 0)
        start_end(x, code, err);
    else
        load_start(x->billing, LOAD_ALL, SLICE_EMPTY, NULL, on_loaded, x);
}

/* The currency is right: take the new book, if there is one, and load what it needs. */
static void start_load(struct start *x)
{
    struct billing *b = x->billing;
    if (x->book != NULL) {
        book_unref(b->book);
        b->book = x->book;
        x->book = NULL;
    }
    if (!timer_is_active(&b->refresh))
        timer_repeat(&b->refresh, REFRESH_MS);
    overrides_load_start(b, on_overrides_loaded, x);
}

static void currency_read(struct start *x);

static void on_currency_put(const struct store_commit_answer *a, void *data)
{
    struct start *x = data;
    if (x->billing->is_closing)
        start_end(x, E_CANCELLED, NULL);
    else if (a->code == E_CONFLICT) /* another controller was first: what does it say? */
        currency_read(x);
    else if (a->code != 0)
        start_end(x, a->code, a->err);
    else
        start_load(x);
}

static void on_currency(int code, const struct store_record *r, size_t n, bool has_more,
                        const struct err *err, void *data)
{
    struct start *x = data;
    const struct book *k = x->book != NULL ? x->book : x->billing->book;
    const char *currency = price_currency(k->prices);
    (void)has_more; /* an answer to get is whole */
    if (code != 0 || x->billing->is_closing) {
        start_end(x, code != 0 ? code : E_CANCELLED, err);
        return;
    }
    must(n == 1);
    if (r[0].version == 0) {
        struct store_op ops[] = {store_expect(CURRENCY_KEY, 0), store_put(CURRENCY_KEY, slice_str(currency))};
        store_commit(x->billing->store, FLEET, ops, ARRAY_LEN(ops), on_currency_put, x);
    } else if (!slice_eq_str(r[0].value, currency)) {
        struct err e;
        err_clear(&e);
        err_set(&e, E_INVALID,
                "the price file is in %s but the ledger in this store is in %.*s: sums cannot mix", currency,
                SL_ARG(r[0].value));
        start_end(x, e.code, &e);
    } else {
        start_load(x);
    }
}

static void currency_read(struct start *x)
{
    struct slice key = CURRENCY_KEY;
    store_get(x->billing->store, FLEET, &key, 1, on_currency, x);
}

static void start_run(struct billing *b, struct book *book, billing_done_cb done, void *data)
{
    struct start *x = MEM_NEW(struct start);
    *x = (struct start){billing_ref(b), book, done, data};
    const struct book *k = book != NULL ? book : b->book;
    if (price_is_given(k->prices))
        currency_read(x);
    else
        start_load(x); /* nothing can be priced: no currency to agree on */
}

void billing_start(struct billing *b, billing_done_cb done, void *data)
{
    start_run(b, NULL, done, data);
}

struct refused {
    struct billing *billing;
    struct err err;
    billing_done_cb done;
    void *data;
};

static void on_refused(void *data)
{
    struct refused *x = data;
    if (x->done != NULL)
        x->done(x->err.code, &x->err, x->data);
    billing_unref(x->billing);
    mem_free(x);
}

void billing_reload(struct billing *b, struct tenancy *t, billing_done_cb done, void *data)
{
    struct config_problems problems;
    struct book *book = NULL;
    config_problems_init(&problems);
    if (book_new(t, &b->overrides, billing_now_ms(b), &problems, &book) != 0) {
        struct refused *x = MEM_NEW(struct refused);
        struct buf text = BUF_INIT(ERR_MSG_MAX);
        *x = (struct refused){.billing = billing_ref(b), .done = done, .data = data};
        config_problems_print(&problems, &text);
        err_set(&x->err, E_INVALID, "%s", buf_cstr(&text));
        buf_fini(&text);
        loop_defer(b->loop, on_refused, x);
    } else {
        start_run(b, book, done, data);
    }
    config_problems_fini(&problems);
}

const struct billing_stats *billing_stats(const struct billing *b)
{
    return &b->stats;
}
