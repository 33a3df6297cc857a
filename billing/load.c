/* load: the counters of present windows, from the store into the mirror.
 *
 * Happy path: budget after budget, page after page, every counter under the window's prefix is taken, except
 * where a commit of our own has said something newer since the load began. It runs at start, for budgets that
 * a reload brings, when a window turns, after a commit with an unknown outcome, and now and then because
 * other controllers on the same store spend too. Failure path: a failed read ends the load with its code;
 * what is in the mirror stays. */
#include "billing/internal.h"

#include <string.h>

struct load {
    struct billing *billing;
    struct book *book;
    struct budget **budgets; /* of the book; their keepers are held */
    size_t n, at;
    struct buf prefix, after; /* of the budget under way */
    int64_t window_end_ms;
    uint64_t since; /* the mirror's turn when this budget's reading began */
    billing_done_cb done;
    void *data;
};

static void load_next(void *data);

static void load_end(struct load *x, int code, const struct err *err)
{
    billing_done_cb done = x->done;
    void *data = x->data;
    struct billing *b = x->billing;
    buf_fini(&x->prefix);
    buf_fini(&x->after);
    for (size_t i = 0; i < x->n; i++)
        tenant_budgets_unref(x->budgets[i]->of);
    mem_free(x->budgets);
    book_unref(x->book);
    mem_free(x);
    if (done != NULL)
        done(code, err, data);
    billing_unref(b);
}

static void on_counters(int code, const struct store_counter *c, size_t n, bool has_more,
                        const struct err *err, void *data)
{
    struct load *x = data;
    if (code != 0) {
        load_end(x, code, err);
        return;
    }
    struct slice tenant = slice_str(x->budgets[x->at]->tenant->id);
    for (size_t i = 0; i < n; i++)
        mirror_set(&x->billing->mirror, tenant, c[i].key, c[i].value, x->window_end_ms, x->since);
    if (has_more && n > 0) {
        buf_reset(&x->after);
        (void)buf_slice(&x->after, c[n - 1].key);
    } else {
        x->at++;
        buf_reset(&x->after);
        buf_reset(&x->prefix);
    }
    load_next(x);
}

static void load_next(void *data)
{
    struct load *x = data;
    struct billing *b = x->billing;
    if (b->is_closing) {
        load_end(x, E_CANCELLED, NULL);
        return;
    }
    if (x->at == x->n) {
        load_end(x, 0, NULL);
        return;
    }
    const struct budget *budget = x->budgets[x->at];
    if (x->prefix.n == 0) { /* its window may turn while we read: ours is the one of now */
        (void)buf_slice(&x->prefix, slice_from(buf_view(&budget->prefix), strlen(budget->tenant->id) + 1));
        x->window_end_ms = budget->end_ms;
        x->since = ++b->mirror.turn;
    }
    store_counters(b->store, slice_str(budget->tenant->id), buf_view(&x->prefix), buf_view(&x->after),
                   STORE_SCAN_MAX, on_counters, x);
}

/* All budgets that are asked for; with out NULL only their number. */
static size_t pick(struct billing *b, enum load_what what, struct slice tenant_id, const struct budget *one,
                   struct budget **out)
{
    size_t n = 0;
    for (struct tenant_budgets *t = budget_set_first(b->book->budgets); t != NULL; t = t->hh.next) {
        if (what != LOAD_ALL && !slice_eq_str(tenant_id, t->tenant->id))
            continue;
        for (size_t i = 0; i < t->n; i++) {
            if (what == LOAD_BUDGET && &t->items[i] != one)
                continue;
            if (out != NULL)
                out[n] = &t->items[i];
            n++;
        }
    }
    return n;
}

void load_start(struct billing *b, enum load_what what, struct slice tenant_id, const struct budget *one,
                billing_done_cb done, void *data)
{
    struct load *x = MEM_NEW(struct load);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->n = pick(b, what, tenant_id, one, NULL);
    x->budgets = mem_alloc((x->n + 1) * sizeof(*x->budgets));
    (void)pick(b, what, tenant_id, one, x->budgets);
    int64_t now = billing_now_ms(b);
    for (size_t i = 0; i < x->n; i++) {
        (void)tenant_budgets_ref(x->budgets[i]->of);
        (void)budget_turn(x->budgets[i], now);
    }
    buf_init(&x->prefix, STORE_KEY_MAX);
    buf_init(&x->after, STORE_KEY_MAX);
    x->done = done;
    x->data = data;
    loop_defer(b->loop, load_next, x);
}

void budget_follow(struct billing *b, struct budget *budget)
{
    if (!budget_turn(budget, billing_now_ms(b)))
        return;
    mirror_drop_ended(&b->mirror, billing_now_ms(b));
    if (!b->is_closing)
        load_start(b, LOAD_BUDGET, slice_str(budget->tenant->id), budget, NULL, NULL);
}
