/* usage: what was used and what it cost, added up from the daily counters; the log is never read for it.
 *
 * Happy path: day by day, page by page, the counters usage/<day>/<namespace>/<workspace
 * id>/<model>/<kind>/{q|c} are added to their group and to the total, and one JSON text comes out. Names and
 * users of workspaces are read beside them where the question is about them (billed/<workspace id>). Only the
 * groups of the page that was asked for are kept: whatever is sure to lie behind it is dropped on the way, so
 * memory does not grow with the number of groups.
 *
 * Failure paths: a range that is too long, a grouping that does not exist, too many questions at once, and a
 * failed read, each with a code. */
#include "billing/internal.h"

#include <stdio.h>
#include <string.h>

#define DAYS_MAX    430 /* the months that are kept exactly, and the present one */
#define DAY_MS      (INT64_C(86400) * 1000)
#define JSON_MAX    (16u << 20)
#define QUERIES_MAX 32     /* on their way at once */
#define NAMES_MAX   100000 /* workspaces whose names are known at once */
#define BY_MAX      2

enum usage_by { BY_MODEL, BY_KIND, BY_DAY, BY_NAMESPACE, BY_WORKSPACE, BY_USER, BY_N };
static const char *const by_names[] = {
    [BY_MODEL] = "model",         [BY_KIND] = "kind",           [BY_DAY] = "day",
    [BY_NAMESPACE] = "namespace", [BY_WORKSPACE] = "workspace", [BY_USER] = "user"};

/* Parts of a counter's key behind "usage/". */
enum { PART_DAY, PART_NAMESPACE, PART_WORKSPACE, PART_MODEL, PART_KIND, PART_WHAT, PARTS };

struct sums {
    i128 quantity[TOKEN_KINDS];
    i128 bytes[EGRESS_KINDS];
    i128 cost;
};

/* Its key: the groupings' parts as they stand in counters, escaped, with ',' before each; a workspace is
 * "<namespace>/<workspace id>/<name>". */
struct group {
    char *key; /* owned */
    size_t n;
    struct sums sums;
    UT_hash_handle hh;
};

struct workspace_name {
    struct slice id, name, user; /* id escaped */
    UT_hash_handle hh;
};

/* A page of counters that waits for names. */
struct page {
    struct arena arena;
    struct store_counter *counters;
    size_t n;
    bool has_more;
    struct slice *ids; /* escaped; asked for */
    size_t n_ids;
};

struct usage_read {
    struct billing *billing;
    struct book *book;
    struct arena arena, names_arena;
    struct billing_usage_query q; /* filters in the arena */
    struct slice tenant_id;
    enum usage_by by[BY_MAX];
    size_t n_by;
    bool wants_names;
    int64_t day_ms, end_ms; /* the day under way; behind the last */
    struct buf prefix, after, part, key;
    struct page page;
    struct workspace_name *names;
    struct group *groups;
    struct buf cut; /* groups behind it are not of this page; n 0: none is known yet */
    bool has_more;  /* there are such */
    struct sums total;
    struct err err; /* of the call itself */
    billing_json_cb cb;
    void *data;
};

static int group_cmp(const struct group *a, const struct group *b)
{
    return slice_cmp(slice_of(a->key, a->n), slice_of(b->key, b->n));
}

static void group_drop(struct usage_read *x, struct group *g)
{
    HASH_DEL(x->groups, g);
    mem_free(g->key);
    mem_free(g);
}

/* Keeps the first `limit` groups; what is dropped cannot come back, because the cut only moves forward. */
static void groups_trim(struct usage_read *x)
{
    size_t at = 0;
    struct group *g, *next;
    if (HASH_COUNT(x->groups) <= x->q.limit)
        return;
    HASH_SORT(x->groups, group_cmp);
    HASH_ITER (hh, x->groups, g, next) {
        if (++at == x->q.limit) {
            buf_reset(&x->cut);
            (void)buf_append(&x->cut, g->key, g->n);
        } else if (at > x->q.limit) {
            group_drop(x, g);
        }
    }
    x->has_more = true;
}

/* --- the answer --- */

static void sums_write(struct jsonw *w, const struct usage_read *x, const struct sums *s, bool by_kind)
{
    char number[I128_TEXT_MAX];
    i128 all = 0;
    for (int k = 0; k < TOKEN_KINDS; k++) {
        all += s->quantity[k]; /* counts of tokens: far from 128 bits, checked when they were added */
        if (by_kind)
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

static void part_write(struct jsonw *w, struct usage_read *x, const char *name, struct slice escaped)
{
    buf_reset(&x->part);
    (void)key_unescape(&x->part, escaped); /* it is of our making */
    jsonw_kslice(w, name, buf_view(&x->part));
}

static void group_write(struct jsonw *w, struct usage_read *x, const struct group *g)
{
    struct slice rest = slice_of(g->key, g->n), part, namespace, id;
    bool by_kind = false;
    jsonw_object(w);
    (void)slice_cut(&rest, ',', &part);
    for (size_t i = 0; i < x->n_by; i++) {
        (void)slice_cut(&rest, ',', &part); /* the last has none behind it */
        by_kind = by_kind || x->by[i] == BY_KIND;
        if (x->by[i] != BY_WORKSPACE) {
            part_write(w, x, by_names[x->by[i]], part);
            continue;
        }
        (void)slice_cut(&part, '/', &namespace);
        (void)slice_cut(&part, '/', &id);
        if (x->n_by == 1 || x->by[1 - i] != BY_NAMESPACE)
            part_write(w, x, "namespace", namespace);
        part_write(w, x, "workspace", part);
        part_write(w, x, "workspace_id", id);
    }
    sums_write(w, x, &g->sums, by_kind);
    jsonw_object_end(w);
}

static void usage_end(struct usage_read *x, int code, const struct err *err)
{
    struct buf text = BUF_INIT(JSON_MAX), last = BUF_INIT(STORE_KEY_MAX * 3);
    struct jsonw w;
    struct group *g, *next;
    groups_trim(x);
    HASH_SORT(x->groups, group_cmp);
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    HASH_ITER (hh, x->groups, g, next) {
        if (code == 0)
            group_write(&w, x, g);
        buf_reset(&last);
        (void)buf_append(&last, g->key, g->n);
        group_drop(x, g);
    }
    jsonw_array_end(&w);
    jsonw_key(&w, "total");
    jsonw_object(&w);
    sums_write(&w, x, &x->total, false);
    jsonw_object_end(&w);
    jsonw_kslice(&w, "next", x->has_more ? buf_view(&last) : SLICE_NULL);
    jsonw_object_end(&w);
    if (code == 0 && text.is_full)
        code = err_set(&x->err, E_TOO_LARGE, "the answer is too large: ask for fewer at a time with ?limit=");
    x->cb(code, code == 0 ? buf_view(&text) : SLICE_EMPTY, err != NULL ? err : &x->err, x->data);
    struct billing *b = x->billing;
    b->n_queries--;
    HASH_CLEAR(hh, x->names);
    buf_fini(&text);
    buf_fini(&last);
    buf_fini(&x->prefix);
    buf_fini(&x->after);
    buf_fini(&x->part);
    buf_fini(&x->key);
    buf_fini(&x->cut);
    arena_fini(&x->page.arena);
    arena_fini(&x->names_arena);
    arena_fini(&x->arena);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

/* --- one counter --- */

/* Kinds of tokens first, then those of bytes. */
static int sums_add(struct sums *s, int kind, bool is_cost, i128 v)
{
    i128 *to = is_cost ? &s->cost : kind < TOKEN_KINDS ? &s->quantity[kind] : &s->bytes[kind - TOKEN_KINDS];
    return i128_add(*to, v, to);
}

/* The group of that key; NULL: it is not of this page. */
static struct group *group_find(struct usage_read *x, struct slice key)
{
    struct group *g;
    if (x->q.after.n > 0 && slice_cmp(key, x->q.after) <= 0)
        return NULL;
    if (x->cut.n > 0 && slice_cmp(key, buf_view(&x->cut)) > 0) {
        x->has_more = true;
        return NULL;
    }
    HASH_FIND(hh, x->groups, key.p, key.n, g);
    if (g != NULL)
        return g;
    g = MEM_NEW(struct group);
    g->key = mem_strndup(key.p, key.n);
    g->n = key.n;
    HASH_ADD_KEYPTR(hh, x->groups, g->key, g->n, g);
    return g;
}

static bool part_is(struct usage_read *x, struct slice escaped, struct slice wanted)
{
    if (wanted.n == 0)
        return true;
    buf_reset(&x->part);
    return key_unescape(&x->part, escaped) == 0 && slice_eq(buf_view(&x->part), wanted);
}

static const struct workspace_name *name_find(const struct usage_read *x, struct slice id)
{
    static const struct workspace_name none = {.name = {"", 0}, .user = {"", 0}};
    struct workspace_name *name = NULL;
    HASH_FIND(hh, x->names, id.p, id.n, name);
    return name != NULL ? name : &none;
}

static void group_key(struct usage_read *x, const struct slice *parts, const struct workspace_name *name)
{
    static const int at[] = {
        [BY_MODEL] = PART_MODEL, [BY_KIND] = PART_KIND, [BY_DAY] = PART_DAY, [BY_NAMESPACE] = PART_NAMESPACE};
    buf_reset(&x->key);
    for (size_t i = 0; i < x->n_by; i++) {
        (void)buf_byte(&x->key, ',');
        if (x->by[i] == BY_USER) {
            (void)key_escape(&x->key, name->user);
        } else if (x->by[i] == BY_WORKSPACE) {
            (void)buf_printf(&x->key, "%.*s/%.*s/", SL_ARG(parts[PART_NAMESPACE]),
                             SL_ARG(parts[PART_WORKSPACE]));
            (void)key_escape(&x->key, name->name);
        } else {
            (void)buf_slice(&x->key, parts[at[x->by[i]]]);
        }
    }
    must(!x->key.is_full); /* a counter's key and a name at the most, for each grouping */
}

/* Its key says where it belongs. */
static int counter_take(struct usage_read *x, const struct store_counter *c)
{
    struct slice rest = c->key, head, parts[PARTS];
    (void)slice_cut(&rest, '/', &head);
    for (size_t i = 0; i < PARTS; i++) {
        if (slice_cut(&rest, '/', &parts[i]) != (i + 1 < PARTS))
            return E_INTERNAL;
    }
    int kind = 0;
    while (kind < TOKEN_KINDS + EGRESS_KINDS &&
           !slice_eq_str(parts[PART_KIND],
                         kind < TOKEN_KINDS ? token_kind_names[kind] : egress_kind_names[kind - TOKEN_KINDS]))
        kind++;
    if (kind == TOKEN_KINDS + EGRESS_KINDS)
        return 0; /* a kind of a later version */
    if ((x->q.kind.n > 0 && !slice_eq(parts[PART_KIND], x->q.kind)) ||
        !part_is(x, parts[PART_WORKSPACE], x->q.workspace_id) || !part_is(x, parts[PART_MODEL], x->q.model))
        return 0;
    const struct workspace_name *name = x->wants_names ? name_find(x, parts[PART_WORKSPACE]) : NULL;
    if (name != NULL && ((x->q.user.p != NULL && !slice_eq(name->user, x->q.user)) ||
                         (x->q.workspace.n > 0 && !slice_eq(name->name, x->q.workspace))))
        return 0;
    bool is_cost = slice_eq_str(parts[PART_WHAT], "c");
    if (x->n_by > 0) {
        group_key(x, parts, name);
        struct group *g = group_find(x, buf_view(&x->key));
        int rc = g != NULL ? sums_add(&g->sums, kind, is_cost, c->value) : 0;
        if (rc != 0)
            return rc;
        if (HASH_COUNT(x->groups) > 2 * x->q.limit)
            groups_trim(x);
    }
    return sums_add(&x->total, kind, is_cost, c->value);
}

/* --- page by page --- */

static void usage_next(void *data);

static void page_take(struct usage_read *x)
{
    struct page *p = &x->page;
    int code = 0;
    for (size_t i = 0; code == 0 && i < p->n; i++)
        code = counter_take(x, &p->counters[i]);
    if (code != 0) {
        usage_end(x, code, NULL);
        return;
    }
    buf_reset(&x->after);
    if (p->has_more && p->n > 0)
        (void)buf_slice(&x->after, p->counters[p->n - 1].key);
    else
        x->day_ms += DAY_MS;
    usage_next(x);
}

static void name_add(struct usage_read *x, struct slice id, struct slice record)
{
    struct json *j = NULL;
    struct workspace_name *name = ARENA_NEW(&x->names_arena, struct workspace_name);
    *name = (struct workspace_name){arena_slice(&x->names_arena, id), SLICE_EMPTY, SLICE_EMPTY, {0}};
    if (record.n > 0 && json_parse(record, NULL, &j, NULL) == 0) {
        struct slice text = json_string(json_get(j, "workspace")), user = json_string(json_get(j, "user"));
        name->name = arena_slice(&x->names_arena, text.p != NULL ? text : SLICE_EMPTY);
        name->user = arena_slice(&x->names_arena, user.p != NULL ? user : SLICE_EMPTY);
    }
    json_free(j);
    HASH_ADD_KEYPTR(hh, x->names, name->id.p, name->id.n, name);
}

static void on_names(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct usage_read *x = data;
    (void)has_more; /* an answer to get is whole */
    if (code != 0 || x->billing->is_closing) {
        usage_end(x, code != 0 ? code : E_CANCELLED, err);
        return;
    }
    for (size_t i = 0; i < n; i++)
        name_add(x, x->page.ids[i], r[i].version > 0 ? r[i].value : SLICE_EMPTY);
    page_take(x);
}

/* Workspaces of the page whose names are not known yet; counters of one stand together. */
static void names_want(struct usage_read *x)
{
    struct page *p = &x->page;
    struct slice last = SLICE_NULL, *keys = arena_alloc(&p->arena, (p->n + 1) * sizeof(*keys));
    p->ids = arena_alloc(&p->arena, (p->n + 1) * sizeof(*p->ids));
    p->n_ids = 0;
    if (HASH_COUNT(x->names) > NAMES_MAX) {
        HASH_CLEAR(hh, x->names);
        arena_reset(&x->names_arena);
    }
    for (size_t i = 0; i < p->n; i++) {
        struct slice rest = p->counters[i].key, id = SLICE_EMPTY;
        struct workspace_name *known = NULL;
        for (int part = 0; part < 4; part++) /* usage, day, namespace, workspace id */
            (void)slice_cut(&rest, '/', &id);
        if (last.p != NULL && slice_eq(id, last))
            continue;
        last = id;
        HASH_FIND(hh, x->names, id.p, id.n, known);
        if (known != NULL || id.n == 0) /* what was attributed to a namespace alone has no workspace */
            continue;
        keys[p->n_ids] = slice_str(arena_printf(&p->arena, BILLED_PREFIX "%.*s", SL_ARG(id)));
        p->ids[p->n_ids++] = id;
    }
    if (p->n_ids > 0)
        store_get(x->billing->store, x->tenant_id, keys, p->n_ids, on_names, x);
    else
        page_take(x);
}

static void on_usage(int code, const struct store_counter *c, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct usage_read *x = data;
    struct page *p = &x->page;
    if (code != 0 || x->billing->is_closing) {
        usage_end(x, code != 0 ? code : E_CANCELLED, err);
        return;
    }
    arena_reset(&p->arena);
    p->n = n;
    p->has_more = has_more;
    p->counters = (struct store_counter *)(uintptr_t)c; /* read only */
    if (!x->wants_names) {
        page_take(x);
        return;
    }
    p->counters = arena_alloc(&p->arena, (n + 1) * sizeof(*p->counters));
    for (size_t i = 0; i < n; i++)
        p->counters[i] = (struct store_counter){arena_slice(&p->arena, c[i].key), c[i].value};
    names_want(x);
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
    if (x->q.namespace.n > 0) {
        (void)key_escape(&x->prefix, x->q.namespace);
        (void)buf_byte(&x->prefix, '/');
        if (x->q.workspace_id.n > 0) {
            (void)key_escape(&x->prefix, x->q.workspace_id);
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

/* --- the question --- */

static int by_parse(struct slice text, enum usage_by *by, size_t *ret_n)
{
    size_t n = 0;
    struct slice one;
    for (bool more = text.n > 0; more; n++) {
        more = slice_cut(&text, ',', &one);
        size_t k = 0;
        while (k < BY_N && !slice_eq_str(one, by_names[k]))
            k++;
        if (k == BY_N || n == BY_MAX || (n == 1 && by[0] == (enum usage_by)k))
            return E_INVALID;
        by[n] = (enum usage_by)k;
    }
    *ret_n = n;
    return 0;
}

bool billing_usage_by_is_valid(struct slice by)
{
    enum usage_by rows[BY_MAX];
    size_t n;
    return by_parse(by, rows, &n) == 0;
}

/* Whole UTC days: from the day of `from` to the day before `to`, or of `to` when that is not midnight. */
static int query_check(struct usage_read *x, const struct billing_usage_query *q)
{
    const struct config_tenant *t = tenancy_tenant(x->book->tenancy, q->tenant);
    if (t == NULL)
        return err_set(&x->err, E_NOT_FOUND, "no such tenant");
    x->tenant_id = slice_str(t->id); /* of the book, which we hold */
    if (by_parse(q->by, x->by, &x->n_by) != 0)
        return err_set(&x->err, E_INVALID, "by: expected " BILLING_USAGE_BY);
    for (size_t i = 0; i < x->n_by; i++)
        x->wants_names = x->wants_names || x->by[i] == BY_WORKSPACE || x->by[i] == BY_USER;
    x->wants_names = x->wants_names || q->user.p != NULL || q->workspace.n > 0;
    if (q->from_ms < 0 || q->to_ms < q->from_ms)
        return err_set(&x->err, E_INVALID, "from, to: `to` must not be before `from`");
    x->day_ms = q->from_ms - q->from_ms % DAY_MS;
    x->end_ms = q->to_ms;
    if (x->end_ms - x->day_ms > DAYS_MAX * DAY_MS)
        return err_set(&x->err, E_INVALID, "from, to: more than %d days", DAYS_MAX);
    if (x->billing->n_queries > QUERIES_MAX)
        return err_set(&x->err, E_UNAVAILABLE, "%d such questions are under way: ask again", QUERIES_MAX);
    return 0;
}

void billing_usage_query(struct billing *b, const struct billing_usage_query *q, billing_json_cb cb,
                         void *data)
{
    struct usage_read *x = MEM_NEW(struct usage_read);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = x->names_arena = x->page.arena = ARENA_INIT;
    x->q = *q;
    struct slice *texts[] = {&x->q.namespace, &x->q.workspace_id, &x->q.workspace, &x->q.model,
                             &x->q.kind,      &x->q.user,         &x->q.after};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (texts[i]->p != NULL)
            *texts[i] = arena_slice(&x->arena, *texts[i]);
    }
    if (x->q.limit == 0 || x->q.limit > BILLING_USAGE_MAX)
        x->q.limit = BILLING_USAGE_MAX;
    x->cb = cb;
    x->data = data;
    buf_init(&x->prefix, STORE_KEY_MAX);
    buf_init(&x->after, STORE_KEY_MAX);
    buf_init(&x->part, STORE_KEY_MAX);
    buf_init(&x->key, STORE_KEY_MAX * 3);
    buf_init(&x->cut, STORE_KEY_MAX * 3);
    b->n_queries++;
    (void)query_check(x, q); /* what is wrong is in x->err, and told in a later turn */
    loop_defer(b->loop, usage_next, x);
}
