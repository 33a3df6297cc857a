/* gate: may this call be made? And the budgets as people see them. Both from memory, without I/O.
 *
 * Happy path: each budget that the namespace falls under is looked up in the mirror; with spent + unsettled
 * below the limit everywhere, the call may pass. Failure paths: at or over a limit the answer names the
 * budget and the end of its window; when the mirror is too full to know, the answer is that, not a guess. */
#include "billing/internal.h"

#include <string.h>

struct billing_budget_view budget_view(const struct budget *b, const struct mirror_row *row,
                                       struct slice namespace)
{
    const struct config_budget *c = b->config;
    struct amount zero = {0, {0}};
    memcpy(zero.currency, c->currency, sizeof(zero.currency));
    struct billing_budget_view v = {.name = c->name,
                                    .scope = c->scope,
                                    .namespace = c->scope == SCOPE_NAMESPACE ? namespace : SLICE_EMPTY,
                                    .limit = zero,
                                    .spent = zero,
                                    .held = zero,
                                    .unsettled = zero,
                                    .remaining = zero,
                                    .window = c->window,
                                    .timezone = c->timezone.n > 0 ? c->timezone : SL("UTC"),
                                    .window_start_ms = b->start_ms,
                                    .window_end_ms = b->end_ms,
                                    .is_tenants = b->is_tenants,
                                    .is_override = b->is_override,
                                    .has_file = b->file != NULL,
                                    .file_limit = zero};
    v.limit.v = c->limit;
    if (b->file != NULL)
        v.file_limit.v = b->file->limit;
    i128 left = c->limit;
    if (row != NULL) {
        v.spent.v = row->spent;
        v.unsettled.v = row->unsettled;
        if (i128_sub(left, row->spent, &left) != 0 || i128_sub(left, row->unsettled, &left) != 0)
            left = 0; /* beyond 128 bits: spent for good */
    }
    v.remaining.v = left > 0 ? left : 0;
    return v;
}

/* Below the limit, and by how much: what is left may be negative. */
static i128 left_of(const struct billing_budget_view *v)
{
    i128 left = v->limit.v;
    if (i128_sub(left, v->spent.v, &left) != 0 || i128_sub(left, v->unsettled.v, &left) != 0)
        return I128_MIN;
    return left;
}

static int refuse(const struct billing_budget_view *v, struct err *err)
{
    char limit[I128_TEXT_MAX], spent[I128_TEXT_MAX], unsettled[I128_TEXT_MAX], end[TIME_TEXT_MAX];
    (void)amount_format(v->limit, limit);
    (void)amount_format(v->spent, spent);
    (void)amount_format(v->unsettled, unsettled);
    time_format(v->window_end_ms, end);
    bool has_unsettled = v->unsettled.v != 0;
    return err_set(err, E_BUDGET, "budget `%.*s`%s%.*s: %s of %s %s spent%s%s%s; it starts anew at %s",
                   SL_ARG(v->name), v->namespace.n > 0 ? " of namespace " : "", SL_ARG(v->namespace), spent,
                   limit, v->limit.currency, has_unsettled ? " and " : "", has_unsettled ? unsettled : "",
                   has_unsettled ? " unsettled" : "", end);
}

static struct tenant_budgets *budgets_of(struct billing *b, struct slice tenant)
{
    const struct config_tenant *t = tenancy_tenant(b->book->tenancy, tenant);
    return t != NULL ? budget_set_find(b->book->budgets, slice_str(t->id)) : NULL;
}

int billing_gate(struct billing *b, struct slice tenant, struct slice namespace,
                 struct billing_budget_view *ret_view, struct err *err)
{
    struct tenant_budgets *t = budgets_of(b, tenant);
    struct billing_budget_view tightest = {0};
    i128 least = 0;
    if (ret_view != NULL)
        *ret_view = tightest; /* no budget applies: an empty name */
    for (size_t i = 0; t != NULL && i < t->n; i++) {
        struct budget *budget = &t->items[i];
        if (budget->config->scope == SCOPE_NAMESPACE && namespace.n == 0)
            continue; /* a question about the tenant as a whole */
        budget_follow(b, budget);
        const struct mirror_row *row = mirror_find(&b->mirror, budget, namespace);
        if (row == NULL && b->mirror.is_overfull)
            return err_set(err, E_UNAVAILABLE, "budget `%.*s`: more instances than can be watched at once",
                           SL_ARG(budget->config->name));
        struct billing_budget_view v = budget_view(budget, row, namespace);
        i128 left = left_of(&v);
        if (tightest.name.p == NULL || left < least) {
            tightest = v;
            least = left;
        }
    }
    if (tightest.name.p == NULL)
        return 0;
    if (ret_view != NULL)
        *ret_view = tightest;
    return least > 0 ? 0 : refuse(&tightest, err);
}

size_t billing_budgets(struct billing *b, struct slice tenant, struct billing_budget_view *out, size_t max)
{
    struct tenant_budgets *t = budgets_of(b, tenant);
    size_t n = 0;
    for (size_t i = 0; t != NULL && i < t->n && n < max; i++) {
        struct budget *budget = &t->items[i];
        budget_follow(b, budget);
        bool is_whole = budget->config->scope == SCOPE_TENANT;
        out[n++] =
            budget_view(budget, is_whole ? mirror_find(&b->mirror, budget, SLICE_EMPTY) : NULL, SLICE_EMPTY);
    }
    return n;
}

int billing_budget_find(struct billing *b, struct slice tenant, struct slice name, struct slice namespace,
                        struct billing_budget_view *ret)
{
    struct tenant_budgets *t = budgets_of(b, tenant);
    for (size_t i = 0; t != NULL && i < t->n; i++) {
        struct budget *budget = &t->items[i];
        if (!slice_eq(budget->config->name, name))
            continue;
        budget_follow(b, budget);
        bool is_known = budget->config->scope == SCOPE_TENANT || namespace.n > 0;
        *ret = budget_view(budget, is_known ? mirror_find(&b->mirror, budget, namespace) : NULL, namespace);
        return 0;
    }
    return E_NOT_FOUND;
}

bool billing_wants_model(const struct billing *b)
{
    return b->book->tenancy->prices.deny_unpriced;
}

int billing_admit_model(struct billing *b, struct slice model, struct err *err)
{
    const struct book *k = b->book;
    const struct price_query query = {.model = model};
    if (!k->tenancy->prices.deny_unpriced || price_find(k->prices, &query, NULL) != NULL)
        return 0;
    return err_set(err, E_FORBIDDEN, "model `%.*s` has no price, and models without a price are refused",
                   (int)(model.n < 200 ? model.n : 200), model.p);
}
