/* budget: the limits in force with their windows, and the counters' picture in memory, see budget.h.
 *
 * Happy path: a set is made with each tenancy, and a tenant's part of it anew when an override comes or goes;
 * its budgets know the present window and the prefix of its counters. The mirror holds, by tenant and
 * counter, what the answers of our own commits and of loads said. Failure paths: a time zone that the system
 * does not know, or a currency that is not the prices', is a problem of the configuration. When the mirror is
 * full it says so, and the gate refuses what it cannot see.
 */
#include "billing/budget.h"

#include <string.h>

#include "base/core/buf.h"
#include "base/core/log.h"
#include "base/core/mem.h"
#include "base/store/store.h"
#include "billing/event.h"
#include "billing/override.h"

#define PREFIX_MAX 512

struct zone_row {
    struct slice name; /* of the tenancy */
    struct zone *zone;
    UT_hash_handle hh;
};

struct budget_set {
    struct zone_row *zones;
    struct tenant_budgets *tenants;
    const char *currency; /* of the prices; NULL: any. Its owner outlives the set */
    struct arena arena;   /* names of zones */
};

static const char *const window_names[] = {
    [WINDOW_DAY] = "day", [WINDOW_WEEK] = "week", [WINDOW_MONTH] = "month"};

/* One zone object for all budgets of that name. */
static int set_zone(struct budget_set *s, struct slice name, struct zone **ret, struct err *err)
{
    struct zone_row *row;
    HASH_FIND(hh, s->zones, name.p, name.n, row);
    if (row == NULL) {
        struct zone *z;
        int rc = zone_load(name, &z, err);
        if (rc != 0)
            return rc;
        row = MEM_NEW(struct zone_row);
        row->name = arena_slice(&s->arena, name);
        row->zone = z;
        HASH_ADD_KEYPTR(hh, s->zones, row->name.p, row->name.n, row);
    }
    *ret = row->zone;
    return 0;
}

static int prefix_write(const struct budget *b, int64_t start_ms, struct buf *out)
{
    char start[TIME_TEXT_MAX];
    time_format(start_ms, start);
    (void)buf_str(out, "budget/");
    (void)key_escape(out, b->config->name);
    (void)buf_printf(out, "/%s@%s/", window_names[b->config->window], start);
    return out->is_full ? E_TOO_LARGE : 0;
}

static void budget_set_window(struct budget *b, int64_t now_ms)
{
    zone_window(b->zone, b->config->window, now_ms, &b->start_ms, &b->end_ms);
    buf_reset(&b->prefix);
    (void)buf_printf(&b->prefix, "%s/", b->tenant->id);
    must(prefix_write(b, b->start_ms, &b->prefix) == 0); /* names were checked when the set was made */
}

bool budget_turn(struct budget *b, int64_t now_ms)
{
    if (now_ms >= b->start_ms && now_ms < b->end_ms)
        return false;
    budget_set_window(b, now_ms);
    return true;
}

int budget_counter(const struct budget *b, struct slice namespace, int64_t at_ms, struct buf *out,
                   int64_t *ret_end_ms)
{
    if (at_ms >= b->start_ms && at_ms < b->end_ms) {
        (void)buf_slice(out, slice_from(buf_view(&b->prefix), strlen(b->tenant->id) + 1));
        *ret_end_ms = b->end_ms;
    } else {
        int64_t start;
        zone_window(b->zone, b->config->window, at_ms, &start, ret_end_ms);
        (void)prefix_write(b, start, out);
    }
    if (b->config->scope == SCOPE_NAMESPACE)
        (void)key_escape(out, namespace);
    else
        (void)buf_str(out, INSTANCE_OF_TENANT);
    (void)buf_byte(out, '/');
    return out->is_full ? E_TOO_LARGE : 0;
}

static int budget_init(struct budget_set *s, struct tenant_budgets *of, const struct config_budget *c,
                       int64_t now_ms, struct budget *b, struct err *err)
{
    int rc = set_zone(s, c->timezone.p != NULL ? c->timezone : SLICE_EMPTY, &b->zone, err);
    if (rc != 0)
        return rc;
    if (s->currency != NULL && strcmp(c->currency, s->currency) != 0)
        return err_set(err, E_INVALID, "its limit is in %s but the prices are in %s", c->currency,
                       s->currency);
    if (c->name.n == 0 || c->name.n > NAME_BYTES_OF_BUDGET_MAX)
        return err_set(err, E_INVALID, "a name has 1 to %d bytes", NAME_BYTES_OF_BUDGET_MAX);
    b->of = of;
    b->tenant = of->tenant;
    b->config = c;
    buf_init(&b->prefix, PREFIX_MAX);
    budget_set_window(b, now_ms);
    return 0;
}

struct tenant_budgets *tenant_budgets_ref(struct tenant_budgets *t)
{
    if (t != NULL)
        t->refs++;
    return t;
}

void tenant_budgets_unref(struct tenant_budgets *t)
{
    if (t == NULL || --t->refs > 0)
        return;
    for (size_t i = 0; i < t->n; i++)
        buf_fini(&t->items[i].prefix);
    mem_free(t->items);
    arena_fini(&t->arena);
    mem_free(t);
}

/* An override in place of what the file says (NULL: in addition). False: there is none, or it cannot be in
 * force. */
static bool override_take(struct budget_set *s, struct tenant_budgets *t, const struct override *o,
                          const struct config_budget *file, int64_t now_ms)
{
    struct config_budget *c = ARENA_NEW(&t->arena, struct config_budget);
    struct budget *b = &t->items[t->n];
    bool is_tenants;
    struct err err = {0};
    if (o == NULL || !override_apply(&t->arena, o, file, c, &is_tenants))
        return false;
    if (budget_init(s, t, c, now_ms, b, &err) != 0) {
        log_warn("budget.override_ignored", LF_SLICE("tenant", t->tenant->name), LF_SLICE("budget", c->name),
                 LF_STR("detail", err.msg));
        return false;
    }
    b->file = file;
    b->is_override = true;
    b->is_tenants = is_tenants;
    t->n++;
    return true;
}

const struct config_budget *budget_of_file(const struct config_tenant *t, struct slice name)
{
    for (size_t i = 0; i < t->n_budgets; i++) {
        if (slice_eq(t->budgets[i].name, name))
            return &t->budgets[i];
    }
    return NULL;
}

/* The tenant's row with all that is in force; NULL when nothing is. problems NULL: the file was checked. */
static int tenant_add(struct budget_set *s, const char *file, const struct config_tenant *tenant,
                      const struct override_table *overrides, int64_t now_ms,
                      struct config_problems *problems)
{
    const struct override *first = override_first(overrides, tenant->id);
    if (tenant->n_budgets > BUDGETS_PER_TENANT_MAX / 2) {
        config_problem_add(problems, file, 0, 0, NULL, "tenants.%.*s.budgets: more than %d",
                           SL_ARG(tenant->name), BUDGETS_PER_TENANT_MAX / 2);
        return E_INVALID;
    }
    if (tenant->n_budgets == 0 && first == NULL)
        return 0;
    struct tenant_budgets *row = MEM_NEW(struct tenant_budgets);
    row->refs = 1;
    row->tenant = tenant;
    row->arena = ARENA_INIT;
    size_t room = tenant->n_budgets + 1;
    for (const struct override *o = first; o != NULL; o = override_next(o))
        room++;
    row->items = mem_zalloc(room * sizeof(*row->items));
    HASH_ADD_KEYPTR(hh, s->tenants, tenant->id, strlen(tenant->id), row);
    int rc = 0;
    for (size_t i = 0; i < tenant->n_budgets; i++) {
        const struct config_budget *c = &tenant->budgets[i];
        struct err err;
        err_clear(&err);
        if (override_take(s, row, override_find(overrides, tenant->id, c->name), c, now_ms))
            continue;
        if (budget_init(s, row, c, now_ms, &row->items[row->n], &err) != 0) {
            must(problems != NULL);
            config_problem_add(problems, file, 0, 0, NULL, "tenants.%.*s.budgets.%.*s: %s",
                               SL_ARG(tenant->name), SL_ARG(c->name), err.msg);
            rc = E_INVALID;
            continue;
        }
        row->items[row->n++].file = c;
    }
    for (const struct override *o = first; o != NULL && row->n < BUDGETS_PER_TENANT_MAX;
         o = override_next(o)) {
        if (budget_of_file(tenant, o->name) == NULL)
            (void)override_take(s, row, o, NULL, now_ms);
    }
    return rc;
}

int budget_set_new(const struct tenancy *t, const struct override_table *overrides, const char *currency,
                   int64_t now_ms, struct config_problems *problems, struct budget_set **ret)
{
    struct budget_set *s = MEM_NEW(struct budget_set);
    s->currency = currency;
    s->arena = ARENA_INIT;
    AUTO_FREE char *file =
        mem_strndup(t->file.n > 0 ? t->file.p : "reeve.yaml", t->file.n > 0 ? t->file.n : 10);
    int rc = 0;
    for (size_t i = 0; i < t->n_tenants; i++) {
        if (tenant_add(s, file, &t->tenants[i], overrides, now_ms, problems) != 0)
            rc = E_INVALID; /* and go on: every problem is told at once */
    }
    if (rc != 0)
        budget_set_free(s);
    else
        *ret = s;
    return rc;
}

static void row_drop(struct budget_set *s, struct tenant_budgets *t)
{
    HASH_DEL(s->tenants, t);
    tenant_budgets_unref(t);
}

void budget_set_free(struct budget_set *s)
{
    if (s == NULL)
        return;
    struct tenant_budgets *t, *next;
    HASH_ITER (hh, s->tenants, t, next)
        row_drop(s, t);
    struct zone_row *z, *next_zone;
    HASH_ITER (hh, s->zones, z, next_zone) {
        HASH_DEL(s->zones, z);
        zone_free(z->zone);
        mem_free(z);
    }
    arena_fini(&s->arena);
    mem_free(s);
}

void budget_set_replace(struct budget_set *s, const struct config_tenant *tenant,
                        const struct override_table *overrides, int64_t now_ms)
{
    struct tenant_budgets *old = budget_set_find(s, slice_str(tenant->id));
    if (old != NULL)
        row_drop(s, old);
    must(tenant_add(s, NULL, tenant, overrides, now_ms, NULL) == 0); /* its part of the file was checked */
}

struct tenant_budgets *budget_set_find(struct budget_set *s, struct slice tenant_id)
{
    struct tenant_budgets *t = NULL;
    HASH_FIND(hh, s->tenants, tenant_id.p, tenant_id.n, t);
    return t;
}

struct tenant_budgets *budget_set_first(struct budget_set *s)
{
    return s->tenants;
}

/* --- mirror --- */

/* "<tenant id>/" + the counter without "/spent" or "/unsettled"; false when it is no budget's counter. */
static bool row_key(struct slice tenant_id, struct slice counter, struct buf *out, bool *ret_is_spent)
{
    static const struct slice spent = {"/spent", 6}, unsettled = {"/unsettled", 10};
    *ret_is_spent = slice_ends(counter, spent);
    if (!*ret_is_spent && !slice_ends(counter, unsettled))
        return false;
    counter.n -= *ret_is_spent ? spent.n : unsettled.n;
    (void)buf_slice(out, tenant_id);
    (void)buf_byte(out, '/');
    (void)buf_slice(out, counter);
    return !out->is_full;
}

static struct mirror_row *row_new(struct mirror *m, struct slice key, int64_t window_end_ms)
{
    if (HASH_COUNT(m->rows) >= MIRROR_ROWS_MAX) {
        m->is_overfull = true;
        return NULL;
    }
    struct mirror_row *row = MEM_NEW(struct mirror_row);
    row->key = mem_strndup(key.p, key.n);
    size_t at = key.n;
    while (at > 0 && key.p[at - 1] != '/')
        at--;
    row->instance = slice_of(row->key + at, key.n - at);
    row->window_end_ms = window_end_ms;
    HASH_ADD_KEYPTR(hh, m->rows, row->key, key.n, row);
    return row;
}

void mirror_set(struct mirror *m, struct slice tenant_id, struct slice counter, i128 value,
                int64_t window_end_ms, uint64_t loaded_since)
{
    struct buf key = BUF_INIT(STORE_KEY_MAX);
    bool is_spent;
    if (row_key(tenant_id, counter, &key, &is_spent)) {
        struct mirror_row *row;
        HASH_FIND(hh, m->rows, key.p, key.n, row);
        if (row == NULL && window_end_ms != WINDOW_UNKNOWN)
            row = row_new(m, buf_view(&key), window_end_ms);
        uint64_t *said_at = row == NULL ? NULL : is_spent ? &row->spent_at : &row->unsettled_at;
        if (row != NULL && (loaded_since == 0 || *said_at <= loaded_since)) {
            *(is_spent ? &row->spent : &row->unsettled) = value;
            if (loaded_since == 0)
                *said_at = m->turn;
        }
    }
    buf_fini(&key);
}

struct mirror_row *mirror_find(struct mirror *m, const struct budget *b, struct slice namespace)
{
    struct buf key = BUF_INIT(STORE_KEY_MAX);
    (void)buf_slice(&key, buf_view(&b->prefix));
    if (b->config->scope == SCOPE_NAMESPACE)
        (void)key_escape(&key, namespace);
    else
        (void)buf_str(&key, INSTANCE_OF_TENANT);
    struct mirror_row *row = NULL;
    if (!key.is_full)
        HASH_FIND(hh, m->rows, key.p, key.n, row);
    buf_fini(&key);
    return row;
}

void mirror_drop_ended(struct mirror *m, int64_t now_ms)
{
    struct mirror_row *row, *next;
    HASH_ITER (hh, m->rows, row, next) {
        if (row->window_end_ms > now_ms)
            continue;
        HASH_DEL(m->rows, row);
        mem_free(row->key);
        mem_free(row);
    }
    if (HASH_COUNT(m->rows) < MIRROR_ROWS_MAX / 2)
        m->is_overfull = false;
}

void mirror_fini(struct mirror *m)
{
    mirror_drop_ended(m, INT64_MAX);
}
