/* roster: the tenants, and of each its workspaces in order of (namespace, name). A sorted array: look-ups by
 * binary search, lists without sorting, eight bytes each. */
#include "scheduler/entry.h"

#include <string.h>

#include "base/core/mem.h"

static int pair_cmp(const struct entry *e, struct slice namespace, struct slice name)
{
    int c = slice_cmp(e->ws.namespace, namespace);
    return c != 0 ? c : slice_cmp(e->ws.name, name);
}

/* First place whose workspace is not before the pair. */
static size_t roster_at(const struct tenant *t, struct slice namespace, struct slice name)
{
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (pair_cmp(t->roster[mid], namespace, name) < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

struct entry *roster_find(const struct tenant *t, struct slice namespace, struct slice name)
{
    must(!t->is_unsorted);
    size_t at = roster_at(t, namespace, name);
    return at < t->n && pair_cmp(t->roster[at], namespace, name) == 0 ? t->roster[at] : NULL;
}

void roster_add(struct entry *e)
{
    struct tenant *t = e->tenant;
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 16 : t->cap * 2;
        t->roster = mem_realloc(t->roster, t->cap * sizeof *t->roster);
    }
    size_t at = t->n;
    if (t->is_loading) {
        t->is_unsorted =
            true; /* the store's order is that of whole keys ('-' before '/'): sorted once at the end */
    } else if (t->n > 0 && pair_cmp(t->roster[t->n - 1], e->ws.namespace, e->ws.name) >= 0) {
        at = roster_at(t, e->ws.namespace, e->ws.name);
        memmove(t->roster + at + 1, t->roster + at, (t->n - at) * sizeof *t->roster);
    }
    t->roster[at] = e;
    t->n++;
    e->s->n_entries++;
    HASH_ADD_STR(e->s->by_id, ws.id, e);
}

void roster_drop(struct entry *e)
{
    struct tenant *t = e->tenant;
    must(!t->is_unsorted);
    size_t at = roster_at(t, e->ws.namespace, e->ws.name);
    must(at < t->n && t->roster[at] == e);
    memmove(t->roster + at, t->roster + at + 1, (t->n - at - 1) * sizeof *t->roster);
    t->n--;
    e->s->n_entries--;
    HASH_DEL(e->s->by_id, e);
}

static int entry_order(const void *a, const void *b)
{
    const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
    return pair_cmp(x, y->ws.namespace, y->ws.name);
}

void roster_sort(struct tenant *t)
{
    if (t->n > 0) {
        qsort(t->roster, t->n, sizeof *t->roster, entry_order);
    }
    t->is_unsorted = false;
}

struct tenant *tenant_find(struct scheduler *s, struct slice name)
{
    struct tenant *t;
    HASH_FIND(hh, s->tenants, name.p, name.n, t);
    return t;
}

void tenants_update(struct scheduler *s)
{
    for (struct tenant *t = s->tenants; t != NULL; t = t->hh.next) {
        t->config = NULL;
    }
    for (size_t i = 0; i < s->tenancy->n_tenants; i++) {
        const struct config_tenant *c = &s->tenancy->tenants[i];
        struct tenant *t = tenant_find(s, c->name);
        if (t == NULL) {
            t = MEM_NEW(struct tenant);
            t->s = s;
            t->name = mem_strndup(c->name.p, c->name.n);
            t->id = mem_strdup(c->id);
            t->bucket_milli = (int64_t)c->quota_creates_per_minute * 1000;
            t->bucket_ms = now_mono(s);
            HASH_ADD_KEYPTR(hh, s->tenants, t->name, c->name.n, t);
            HASH_ADD_KEYPTR(hh_id, s->tenants_by_id, t->id, strlen(t->id), t);
        }
        t->config = c;
    }
}

static void homes_free(struct tenant *t)
{
    struct home *h, *next;
    HASH_ITER (hh, t->homes, h, next) {
        HASH_DEL(t->homes, h);
        mem_free(h->key);
        mem_free(h->id);
        mem_free(h);
    }
}

void tenants_free(struct scheduler *s)
{
    struct tenant *t, *next;
    HASH_CLEAR(hh_id, s->tenants_by_id);
    HASH_CLEAR(hh, s->by_id);
    HASH_ITER (hh, s->tenants, t, next) {
        for (size_t i = 0; i < t->n; i++) {
            entry_free(t->roster[i]);
        }
        homes_free(t);
        HASH_DEL(s->tenants, t);
        mem_free(t->roster);
        mem_free(t->load_after);
        mem_free(t->name);
        mem_free(t->id);
        mem_free(t);
    }
}

/* --- public look-ups --- */
struct workspace *scheduler_find(struct scheduler *s, struct slice tenant, struct slice namespace,
                                 struct slice name)
{
    struct tenant *t = tenant_find(s, tenant);
    if (t == NULL || t->is_unsorted) {
        return NULL;
    }
    struct entry *e = roster_find(t, namespace, name);
    return e == NULL || e->is_new ? NULL : &e->ws;
}

struct workspace *scheduler_find_id(struct scheduler *s, struct slice id)
{
    struct entry *e;
    HASH_FIND(hh, s->by_id, id.p, id.n, e);
    return e == NULL || e->is_new ? NULL : &e->ws;
}

size_t scheduler_list(struct scheduler *s, struct slice tenant, struct slice after_namespace,
                      struct slice after_name, workspace_filter filter, void *data, struct workspace **out,
                      size_t max)
{
    struct tenant *t = tenant_find(s, tenant);
    if (t == NULL || t->is_unsorted) {
        return 0;
    }
    size_t at = roster_at(t, after_namespace, after_name), n = 0;
    if (at < t->n && pair_cmp(t->roster[at], after_namespace, after_name) == 0) {
        at++;
    }
    for (; at < t->n && n < max; at++) {
        struct entry *e = t->roster[at];
        if (!e->is_new && (filter == NULL || filter(&e->ws, data))) {
            out[n++] = &e->ws;
        }
    }
    return n;
}

size_t scheduler_count(struct scheduler *s, struct slice tenant, enum workspace_state state)
{
    struct tenant *t = tenant_find(s, tenant);
    return t == NULL || (size_t)state >= ARRAY_LEN(t->by_state) ? 0 : t->by_state[state];
}

static int home_order(const struct home *a, const struct home *b)
{
    struct slice x = slice_str(a->key), y = slice_str(b->key), x_namespace, y_namespace;
    (void)slice_cut(&x, '/', &x_namespace);
    (void)slice_cut(&y, '/', &y_namespace);
    int c = slice_cmp(x_namespace, y_namespace);
    return c != 0 ? c : slice_cmp(x, y);
}

size_t scheduler_homes(struct scheduler *s, struct slice tenant, struct workspace_home *out, size_t max)
{
    struct tenant *t = tenant_find(s, tenant);
    size_t n = 0;
    if (t == NULL) {
        return 0;
    }
    HASH_SORT(t->homes, home_order);
    for (struct home *h = t->homes; h != NULL; h = h->hh.next, n++) {
        if (n < max) {
            struct slice key = slice_str(h->key);
            (void)slice_cut(&key, '/', &out[n].namespace);
            out[n].name = key;
            out[n].home_id = slice_str(h->id);
            out[n].provider = h->provider;
        }
    }
    return n;
}
