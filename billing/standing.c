/* standing: finds the entry that stands for an event: the original, or what a decision has put in its place.
 *
 * Happy path: the log's end is found by doubling and halving, then pages are read backwards: what people
 * decide about is mostly young. The last entry of that identity which is no reversal stands. Failure paths:
 * an entry that cannot be read ends it with E_INTERNAL; when none is found, the answer is NULL. */
#include "billing/internal.h"

#include <string.h>

#define PAGE_ROWS 500

struct search {
    struct billing *billing;
    struct arena *arena; /* the caller's */
    struct slice tenant_id, log;
    const struct event *like;
    uint64_t low, high; /* the log has more than `low` entries, and, once is_closed, not more than `high` */
    bool is_closed;     /* the end lies between them */
    uint64_t end;       /* pages behind it were looked at */
    struct err err;
    standing_cb cb;
    void *data;
};

static void search_end(struct search *x, int code, const struct standing *s, const struct err *err)
{
    struct billing *b = x->billing;
    x->cb(code, s, err, x->data);
    mem_free(x);
    billing_unref(b);
}

static int cost_read(struct arena *a, const struct json *entry, struct event_cost *cost)
{
    struct slice version = json_string(json_get(entry, "price_version"));
    cost->price_version = arena_slice(a, version.p != NULL ? version : SLICE_EMPTY);
    JSON_FOREACH (it, json_get(entry, "lines")) {
        struct slice kind = json_string(json_get(it, "kind"));
        int k = 0;
        while (k < TOKEN_KINDS && !slice_eq_str(kind, token_kind_names[k]))
            k++;
        if (k == TOKEN_KINDS || cost->n_lines == TOKEN_KINDS)
            return E_INVALID;
        struct event_line *line = &cost->lines[cost->n_lines++];
        line->kind = (enum token_kind)k;
        if (json_u64(json_get(it, "quantity"), &line->quantity) != 0 ||
            i128_parse(json_string(json_get(it, "unit_price")), AMOUNT_SCALE, false, &line->unit_price) !=
                0 ||
            i128_parse(json_string(json_get(it, "amount")), AMOUNT_SCALE, false, &line->amount) != 0)
            return E_INVALID;
    }
    return i128_parse(json_string(json_get(entry, "amount")), AMOUNT_SCALE, false, &cost->amount);
}

/* 0 and whether it is the one. */
static int entry_look(struct search *x, const struct store_entry *e, struct standing **ret)
{
    struct json *entry = NULL;
    struct billing_key_owner o = {0};
    int rc = json_parse(e->value, NULL, &entry, NULL);
    const struct json *adjustment = json_get(entry, "adjustment");
    bool is_it = rc == 0 && slice_eq(json_string(json_get(entry, "id")), x->like->id) &&
                 slice_eq_str(json_string(json_get(entry, "key_hash")), x->like->key_hash) &&
                 slice_eq(json_string(json_get(entry, "gateway")), x->like->gateway) &&
                 !slice_eq_str(json_string(adjustment), "reversal");
    if (is_it) {
        struct standing *s = ARENA_NEW(x->arena, struct standing);
        struct slice adjusts = json_string(json_get(entry, "adjusts"));
        s->original = adjustment != NULL && adjusts.p != NULL
                          ? arena_slice(x->arena, adjusts)
                          : slice_str(arena_printf(x->arena, "%.*s/%llu", SL_ARG(slice_from(x->log, 7)),
                                                   (unsigned long long)e->number));
        if (rc == 0)
            rc = event_read(x->arena, entry, &s->event, &o);
        if (rc == 0)
            rc = cost_read(x->arena, entry, &s->cost);
        s->owner = (struct owner){.namespace = o.namespace,
                                  .workspace = o.workspace,
                                  .workspace_id = o.workspace_id,
                                  .user = o.user};
        *ret = s;
    }
    json_free(entry);
    return rc;
}

static void page_read(struct search *x);

static void on_page(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                    void *data)
{
    struct search *x = data;
    struct standing *s = NULL;
    uint64_t first = x->end > PAGE_ROWS ? x->end - PAGE_ROWS : 0;
    /* The hash of the key is in an entry as it is: what does not have it need not be parsed. */
    struct slice needle = slice_str(x->like->key_hash);
    (void)has_more; /* entries behind `end` were looked at */
    for (size_t i = n; code == 0 && s == NULL && i > 0; i--) {
        if (e[i - 1].number > x->end ||
            memmem(e[i - 1].value.p, e[i - 1].value.n, needle.p, needle.n) == NULL)
            continue;
        if (entry_look(x, &e[i - 1], &s) != 0) {
            code = err_set(&x->err, E_INTERNAL, "ledger entry %llu cannot be read",
                           (unsigned long long)e[i - 1].number);
            err = &x->err;
        }
    }
    if (code == 0 && x->billing->is_closing)
        code = E_CANCELLED;
    if (code != 0 || s != NULL || first == 0) {
        search_end(x, code, s, err);
        return;
    }
    x->end = first;
    page_read(x);
}

static void page_read(struct search *x)
{
    uint64_t first = x->end > PAGE_ROWS ? x->end - PAGE_ROWS : 0;
    store_log_read(x->billing->store, x->tenant_id, x->log, first, PAGE_ROWS, on_page, x);
}

static void probe(void *data);

static uint64_t probe_at(const struct search *x)
{
    return x->is_closed ? x->low + (x->high - x->low) / 2 : x->high;
}

static void on_probe(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct search *x = data;
    uint64_t at = probe_at(x);
    (void)e;
    (void)has_more;
    if (code == 0 && x->billing->is_closing)
        code = E_CANCELLED;
    if (code != 0) {
        search_end(x, code, NULL, err);
        return;
    }
    if (n > 0) { /* there are entries behind it */
        x->low = at;
        if (!x->is_closed)
            x->high *= 2;
    } else {
        x->high = at;
        x->is_closed = true;
    }
    probe(x);
}

static void probe(void *data)
{
    struct search *x = data;
    if (x->is_closed && x->high - x->low <= PAGE_ROWS) {
        x->end = x->high;
        page_read(x);
        return;
    }
    store_log_read(x->billing->store, x->tenant_id, x->log, probe_at(x), 1, on_probe, x);
}

void standing_find(struct billing *b, struct arena *a, struct slice tenant_id, struct slice period,
                   const struct event *like, standing_cb cb, void *data)
{
    struct search *x = MEM_NEW(struct search);
    *x = (struct search){.billing = billing_ref(b),
                         .arena = a,
                         .tenant_id = arena_slice(a, tenant_id),
                         .log = slice_str(arena_printf(a, "ledger/%.*s", SL_ARG(period))),
                         .like = like,
                         .high = PAGE_ROWS,
                         .cb = cb,
                         .data = data};
    loop_defer(b->loop, probe, x);
}
