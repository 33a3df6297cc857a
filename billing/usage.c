/* usage: what was used and what it cost, added up from the daily counters; the log is never read for it.
 *
 * Happy path: day by day, page by page, the counters usage/<day>/<namespace>/<workspace
 * id>/<model>/<kind>/{q|c} are added to their group and to the total, and one JSON text comes out. Failure
 * paths: a range that is too long, a grouping that does not exist, more groups than an answer should have,
 * and a failed read, each with a code. */
#include "billing/internal.h"

#include <stdio.h>
#include <string.h>

#define DAYS_MAX   430 /* the months that are kept exactly, and the present one */
#define GROUPS_MAX 10000
#define DAY_MS     (INT64_C(86400) * 1000)
#define JSON_MAX   (8u << 20)

enum usage_by { BY_TOTAL, BY_MODEL, BY_KIND, BY_DAY, BY_NAMESPACE, BY_WORKSPACE };
static const char *const by_names[] = {
    [BY_TOTAL] = "",  [BY_MODEL] = "model",         [BY_KIND] = "kind",
    [BY_DAY] = "day", [BY_NAMESPACE] = "namespace", [BY_WORKSPACE] = "workspace"};

struct sums {
    i128 quantity[TOKEN_KINDS];
    i128 bytes[EGRESS_KINDS];
    i128 cost;
};

struct group {
    struct slice name;
    struct sums sums;
    UT_hash_handle hh;
};

struct usage_read {
    struct billing *billing;
    struct book *book;
    struct arena arena;
    struct slice tenant_id, namespace, workspace_id;
    enum usage_by by;
    int64_t day_ms, end_ms; /* the day under way; behind the last */
    struct buf prefix, after, part;
    struct group *groups;
    struct sums total;
    struct err err; /* of the call itself */
    billing_json_cb cb;
    void *data;
};

static int group_cmp(const struct group *a, const struct group *b)
{
    return slice_cmp(a->name, b->name);
}

static void sums_write(struct jsonw *w, const struct usage_read *x, const struct sums *s, enum usage_by by)
{
    char number[I128_TEXT_MAX];
    i128 all = 0;
    for (int k = 0; k < TOKEN_KINDS; k++) {
        all += s->quantity[k]; /* counts of tokens: far from 128 bits, checked when they were added */
        if (by == BY_KIND)
            continue;
        jsonw_key(w, token_kind_names[k]);
        jsonw_raw(w, slice_of(number, i128_format(s->quantity[k], 0, number)));
    }
    for (int k = 0; k < EGRESS_KINDS; k++) {
        char name[32];
        if (s->bytes[k] == 0)
            continue;
        (void)snprintf(name, sizeof name, "%s_bytes", egress_kind_names[k]);
        jsonw_key(w, name);
        jsonw_raw(w, slice_of(number, i128_format(s->bytes[k], 0, number)));
    }
    jsonw_key(w, "tokens");
    jsonw_raw(w, slice_of(number, i128_format(all, 0, number)));
    struct amount cost = {s->cost, {0}};
    memcpy(cost.currency, price_currency(x->book->prices), 4);
    jsonw_amount(w, "cost", cost);
}

static void usage_end(struct usage_read *x, int code, const struct err *err)
{
    struct buf text = BUF_INIT(JSON_MAX);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    HASH_SORT(x->groups, group_cmp);
    for (struct group *g = x->groups; code == 0 && g != NULL; g = g->hh.next) {
        jsonw_object(&w);
        jsonw_kslice(&w, by_names[x->by], g->name);
        sums_write(&w, x, &g->sums, x->by);
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_key(&w, "total");
    jsonw_object(&w);
    sums_write(&w, x, &x->total, BY_TOTAL);
    jsonw_object_end(&w);
    jsonw_object_end(&w);
    if (code == 0 && text.is_full)
        code = E_TOO_LARGE;
    x->cb(code, code == 0 ? buf_view(&text) : SLICE_EMPTY, err, x->data);
    struct billing *b = x->billing;
    HASH_CLEAR(hh, x->groups);
    buf_fini(&text);
    buf_fini(&x->prefix);
    buf_fini(&x->after);
    buf_fini(&x->part);
    arena_fini(&x->arena);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

static int group_find(struct usage_read *x, struct slice escaped, struct group **ret)
{
    buf_reset(&x->part);
    if (key_unescape(&x->part, escaped) != 0)
        return E_INTERNAL;
    struct slice name = buf_view(&x->part);
    struct group *g;
    HASH_FIND(hh, x->groups, name.p, name.n, g);
    if (g == NULL) {
        if (HASH_COUNT(x->groups) >= GROUPS_MAX)
            return E_TOO_LARGE;
        g = ARENA_NEW(&x->arena, struct group);
        g->name = arena_slice(&x->arena, name);
        HASH_ADD_KEYPTR(hh, x->groups, g->name.p, g->name.n, g);
    }
    *ret = g;
    return 0;
}

/* Kinds of tokens first, then those of bytes. */
static int sums_add(struct sums *s, int kind, bool is_cost, i128 v)
{
    i128 *to = is_cost ? &s->cost : kind < TOKEN_KINDS ? &s->quantity[kind] : &s->bytes[kind - TOKEN_KINDS];
    return i128_add(*to, v, to);
}

/* One counter: its key says where it belongs. */
static int counter_take(struct usage_read *x, const struct store_counter *c)
{
    struct slice rest = c->key, head, parts[6]; /* day, namespace, workspace id, model, kind, q|c */
    (void)slice_cut(&rest, '/', &head);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (slice_cut(&rest, '/', &parts[i]) != (i + 1 < ARRAY_LEN(parts)))
            return E_INTERNAL;
    }
    int kind = 0;
    while (kind < TOKEN_KINDS + EGRESS_KINDS &&
           !slice_eq_str(parts[4],
                         kind < TOKEN_KINDS ? token_kind_names[kind] : egress_kind_names[kind - TOKEN_KINDS]))
        kind++;
    if (kind == TOKEN_KINDS + EGRESS_KINDS)
        return 0; /* a kind of a later version */
    if (x->workspace_id.n > 0) {
        buf_reset(&x->part);
        if (key_unescape(&x->part, parts[2]) != 0 || !slice_eq(buf_view(&x->part), x->workspace_id))
            return 0;
    }
    bool is_cost = slice_eq_str(parts[5], "c");
    static const int at[] = {
        [BY_MODEL] = 3, [BY_KIND] = 4, [BY_DAY] = 0, [BY_NAMESPACE] = 1, [BY_WORKSPACE] = 2};
    if (x->by != BY_TOTAL) {
        struct group *g;
        int rc = group_find(x, parts[at[x->by]], &g);
        if (rc == 0)
            rc = sums_add(&g->sums, kind, is_cost, c->value);
        if (rc != 0)
            return rc;
    }
    return sums_add(&x->total, kind, is_cost, c->value);
}

static void usage_next(void *data);

static void on_usage(int code, const struct store_counter *c, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct usage_read *x = data;
    for (size_t i = 0; code == 0 && i < n; i++)
        code = counter_take(x, &c[i]);
    if (code == E_TOO_LARGE && err == NULL) {
        err_set(&x->err, code, "more than %d groups: ask for fewer days or another grouping", GROUPS_MAX);
        err = &x->err;
    }
    if (code != 0 || x->billing->is_closing) {
        usage_end(x, code != 0 ? code : E_CANCELLED, err);
        return;
    }
    buf_reset(&x->after);
    if (has_more && n > 0)
        (void)buf_slice(&x->after, c[n - 1].key);
    else
        x->day_ms += DAY_MS;
    usage_next(x);
}

static void usage_next(void *data)
{
    struct usage_read *x = data;
    if (x->err.code != 0 || x->billing->is_closing) {
        usage_end(x, x->err.code != 0 ? x->err.code : E_CANCELLED, &x->err);
        return;
    }
    if (x->day_ms >= x->end_ms) {
        usage_end(x, 0, NULL);
        return;
    }
    char day[DAY_TEXT_MAX];
    day_of(x->day_ms, day);
    buf_reset(&x->prefix);
    (void)buf_printf(&x->prefix, "usage/%s/", day);
    if (x->namespace.n > 0) {
        (void)key_escape(&x->prefix, x->namespace);
        (void)buf_byte(&x->prefix, '/');
        if (x->workspace_id.n > 0) {
            (void)key_escape(&x->prefix, x->workspace_id);
            (void)buf_byte(&x->prefix, '/');
        }
    }
    if (x->prefix.is_full) { /* no such names exist */
        usage_end(x, 0, NULL);
        return;
    }
    store_counters(x->billing->store, x->tenant_id, buf_view(&x->prefix), buf_view(&x->after), STORE_SCAN_MAX,
                   on_usage, x);
}

/* Whole UTC days: from the day of `from` to the day before `to`, or of `to` when that is not midnight. */
static int query_check(struct usage_read *x, const struct billing_usage_query *q)
{
    const struct config_tenant *t = tenancy_tenant(x->book->tenancy, q->tenant);
    if (t == NULL)
        return err_set(&x->err, E_NOT_FOUND, "no such tenant");
    x->tenant_id = slice_str(t->id); /* of the book, which we hold */
    size_t by = 0;
    while (by < ARRAY_LEN(by_names) && !slice_eq_str(q->by, by_names[by]))
        by++;
    if (by == ARRAY_LEN(by_names))
        return err_set(&x->err, E_INVALID, "by: expected model, kind, day, namespace or workspace");
    x->by = (enum usage_by)by;
    if (q->from_ms < 0 || q->to_ms < q->from_ms)
        return err_set(&x->err, E_INVALID, "from, to: `to` must not be before `from`");
    x->day_ms = q->from_ms - q->from_ms % DAY_MS;
    x->end_ms = q->to_ms;
    if (x->end_ms - x->day_ms > DAYS_MAX * DAY_MS)
        return err_set(&x->err, E_INVALID, "from, to: more than %d days", DAYS_MAX);
    return 0;
}

void billing_usage_query(struct billing *b, const struct billing_usage_query *q, billing_json_cb cb,
                         void *data)
{
    struct usage_read *x = MEM_NEW(struct usage_read);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = ARENA_INIT;
    x->namespace = arena_slice(&x->arena, q->namespace.p != NULL ? q->namespace : SLICE_EMPTY);
    x->workspace_id = arena_slice(&x->arena, q->workspace_id.p != NULL ? q->workspace_id : SLICE_EMPTY);
    x->cb = cb;
    x->data = data;
    buf_init(&x->prefix, STORE_KEY_MAX);
    buf_init(&x->after, STORE_KEY_MAX);
    buf_init(&x->part, STORE_KEY_MAX);
    (void)query_check(x, q); /* what is wrong is in x->err, and told in a later turn */
    loop_defer(b->loop, usage_next, x);
}
