/* instances: one budget's counters of the present window, for each namespace, a page at a time from the
 * store: there may be a hundred thousand of them.
 *
 * Happy path: a page of counters is read, two for each namespace (spent, unsettled), and becomes views.
 * Failure paths: an unknown budget, and a failed read, each with a code. */
#include "billing/internal.h"

#include <string.h>

struct instances_read {
    struct billing *billing;
    struct book *book;
    struct tenant_budgets *budgets; /* a reference */
    struct budget *budget;          /* of these; NULL: err says why */
    size_t limit;
    struct buf prefix, after;
    struct arena arena;
    struct err err;
    billing_instances_cb cb;
    void *data;
};

static void instances_end(struct instances_read *x, int code, const struct billing_budget_view *v, size_t n,
                          struct slice next, const struct err *err)
{
    struct billing *b = x->billing;
    x->cb(code, v, n, next, err, x->data);
    buf_fini(&x->prefix);
    buf_fini(&x->after);
    arena_fini(&x->arena);
    tenant_budgets_unref(x->budgets);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

/* "<prefix><namespace>/<what>": false when it is none of ours. */
static bool counter_split(const struct instances_read *x, struct slice key, struct slice *ret_namespace,
                          bool *ret_is_spent)
{
    struct slice rest = slice_from(key, x->prefix.n);
    if (!slice_cut(&rest, '/', ret_namespace))
        return false;
    *ret_is_spent = slice_eq_str(rest, "spent");
    return *ret_is_spent || slice_eq_str(rest, "unsettled");
}

static void on_counters(int code, const struct store_counter *c, size_t n, bool has_more,
                        const struct err *err, void *data)
{
    struct instances_read *x = data;
    struct billing_budget_view *v = arena_zalloc(&x->arena, (x->limit + 1) * sizeof(*v));
    struct mirror_row sums = {.key = NULL};
    struct slice present = SLICE_NULL, next = SLICE_NULL, namespace;
    size_t n_views = 0;
    bool is_spent;
    (void)has_more; /* more were read than a page shows */
    for (size_t i = 0; code == 0 && i <= n; i++) {
        if (i < n && !counter_split(x, c[i].key, &namespace, &is_spent))
            continue;
        if (present.p != NULL && (i == n || !slice_eq(present, namespace))) {
            if (n_views == x->limit) { /* one more than the page shows */
                next = v[n_views - 1].namespace;
                break;
            }
            v[n_views++] = budget_view(x->budget, &sums, arena_slice(&x->arena, present));
            sums = (struct mirror_row){.key = NULL};
        }
        if (i < n) {
            present = namespace;
            *(is_spent ? &sums.spent : &sums.unsettled) = c[i].value;
        }
    }
    instances_end(x, code, v, n_views, next, err);
}

static void instances_next(void *data)
{
    struct instances_read *x = data;
    if (x->err.code != 0 || x->billing->is_closing) {
        instances_end(x, x->err.code != 0 ? x->err.code : E_CANCELLED, NULL, 0, SLICE_NULL, &x->err);
        return;
    }
    store_counters(x->billing->store, slice_str(x->budget->tenant->id), buf_view(&x->prefix),
                   buf_view(&x->after), 2 * x->limit + 1, on_counters, x);
}

void billing_budget_instances(struct billing *b, struct slice tenant, struct slice name, struct slice after,
                              size_t limit, billing_instances_cb cb, void *data)
{
    struct instances_read *x = MEM_NEW(struct instances_read);
    const struct config_tenant *t = tenancy_tenant(b->book->tenancy, tenant);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->limit = limit > 0 && limit <= BILLING_INSTANCES_MAX ? limit : BILLING_INSTANCES_MAX;
    x->arena = ARENA_INIT;
    x->cb = cb;
    x->data = data;
    buf_init(&x->prefix, STORE_KEY_MAX);
    buf_init(&x->after, STORE_KEY_MAX);
    x->budgets = tenant_budgets_ref(t != NULL ? budget_set_find(b->book->budgets, slice_str(t->id)) : NULL);
    for (size_t i = 0; x->budgets != NULL && i < x->budgets->n; i++) {
        if (slice_eq(x->budgets->items[i].config->name, name))
            x->budget = &x->budgets->items[i];
    }
    if (x->budget == NULL) {
        err_set(&x->err, E_NOT_FOUND, "no such budget");
    } else {
        budget_follow(b, x->budget);
        (void)buf_slice(&x->prefix, slice_from(buf_view(&x->budget->prefix), strlen(t->id) + 1));
        if (after.n > 0) {
            (void)buf_slice(&x->after, buf_view(&x->prefix));
            (void)key_escape(&x->after, after);
            (void)buf_str(&x->after, "/unsettled");
        }
        if (x->after.is_full)
            err_set(&x->err, E_INVALID, "after: not a namespace");
    }
    loop_defer(b->loop, instances_next, x);
}
