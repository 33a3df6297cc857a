/* suspense_list: what waits, a page at a time, by what people look for.
 *
 * Happy path: pages of records are read until enough of them fit the question. Failure paths: a failed read
 * ends it with its code. A question that few of many records fit ends after a bounded number of pages, with a
 * page that may be empty and says where to go on. */
#include "billing/internal.h"

#include <string.h>

#define PAGE_ROWS 250 /* some milliseconds of one turn of the loop */
#define PAGES_MAX 100
#define TEXT_MAX  (4u << 20)

struct suspense_list {
    struct billing *billing;
    struct book *book;
    struct arena arena;
    struct billing_suspense_query q;
    struct slice partition;
    struct buf prefix, after, text;
    struct jsonw w;
    size_t shown;
    unsigned pages;
    billing_json_cb cb;
    void *data;
};

static void list_next(void *data);

static void list_end(struct suspense_list *x, int code, bool has_more, const struct err *err)
{
    struct billing *b = x->billing;
    jsonw_array_end(&x->w);
    jsonw_kslice(&x->w, "next", has_more ? buf_view(&x->after) : SLICE_NULL);
    jsonw_object_end(&x->w);
    if (code == 0 && x->text.is_full)
        code = E_TOO_LARGE;
    x->cb(code, code == 0 ? buf_view(&x->text) : SLICE_EMPTY, err, x->data);
    buf_fini(&x->text);
    buf_fini(&x->after);
    buf_fini(&x->prefix);
    arena_fini(&x->arena);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

static bool text_fits(struct slice wanted, const struct json *record, const char *name)
{
    return wanted.n == 0 || slice_eq(wanted, json_string(json_get(record, name)));
}

static bool record_fits(const struct suspense_list *x, struct slice value)
{
    const struct billing_suspense_query *q = &x->q;
    struct json *j = NULL;
    int64_t time = 0;
    if (q->reason.n + q->gateway.n + q->key_hash.n + q->namespace.n + q->model.n == 0 && q->from_ms == 0 &&
        q->to_ms == 0)
        return true;
    if (json_parse(value, NULL, &j, NULL) != 0)
        return true; /* better seen than not */
    bool fits = text_fits(q->reason, j, "reason") && text_fits(q->gateway, j, "gateway") &&
                text_fits(q->key_hash, j, "key_hash") && text_fits(q->namespace, j, "namespace") &&
                text_fits(q->model, j, "model");
    if (fits && (q->from_ms != 0 || q->to_ms != 0))
        fits = time_parse(json_string(json_get(j, "time")), &time) == 0 && time >= q->from_ms &&
               (q->to_ms == 0 || time < q->to_ms);
    json_free(j);
    return fits;
}

/* The record is an object of ours: its key and id go in front of its members. */
static void record_write(struct suspense_list *x, const struct store_record *r)
{
    struct buf id = BUF_INIT(STORE_KEY_MAX);
    suspense_id_write(&id, r->key);
    jsonw_object(&x->w);
    jsonw_kslice(&x->w, "suspense_id", buf_view(&id));
    jsonw_kslice(&x->w, "key", r->key);
    if (r->value.n > 2) {
        (void)buf_byte(&x->text, ',');
        (void)buf_append(&x->text, r->value.p + 1, r->value.n - 2);
    }
    jsonw_object_end(&x->w);
    buf_fini(&id);
}

static void on_records(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                       void *data)
{
    struct suspense_list *x = data;
    size_t i = 0;
    for (; code == 0 && i < n && x->shown < x->q.limit && x->text.n < TEXT_MAX / 2; i++) {
        if (record_fits(x, r[i].value)) {
            record_write(x, &r[i]);
            x->shown++;
        }
        buf_reset(&x->after);
        (void)buf_slice(&x->after, r[i].key);
    }
    bool is_full = x->shown == x->q.limit || x->text.n >= TEXT_MAX / 2 || ++x->pages == PAGES_MAX;
    has_more = has_more || i < n;
    if (code == 0 && x->billing->is_closing)
        code = E_CANCELLED;
    if (code != 0 || !has_more || is_full)
        list_end(x, code, has_more, err);
    else
        list_next(x);
}

static void list_next(void *data)
{
    struct suspense_list *x = data;
    if (x->prefix.is_full) { /* no such names exist */
        list_end(x, 0, false, NULL);
        return;
    }
    size_t rows = x->q.limit < PAGE_ROWS ? x->q.limit : PAGE_ROWS;
    store_scan(x->billing->store, x->partition, buf_view(&x->prefix), buf_view(&x->after),
               x->pages == 0 ? rows : PAGE_ROWS, on_records, x);
}

void billing_suspense(struct billing *b, const struct billing_suspense_query *q, billing_json_cb cb,
                      void *data)
{
    struct suspense_list *x = MEM_NEW(struct suspense_list);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = ARENA_INIT;
    x->cb = cb;
    x->data = data;
    x->q = *q;
    struct slice *texts[] = {&x->q.reason, &x->q.gateway, &x->q.key_hash, &x->q.namespace, &x->q.model};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        *texts[i] = arena_slice(&x->arena, texts[i]->p != NULL ? *texts[i] : SLICE_EMPTY);
    if (q->limit == 0 || q->limit > STORE_SCAN_MAX)
        x->q.limit = STORE_SCAN_MAX;
    const struct config_tenant *t = q->tenant.n > 0 ? tenancy_tenant(b->book->tenancy, q->tenant) : NULL;
    /* A tenant that is not configured has a partition that does not exist, and so an empty list. */
    x->partition = q->tenant.n == 0 ? FLEET : t != NULL ? slice_str(t->id) : SL("none");
    buf_init(&x->prefix, STORE_KEY_MAX);
    buf_init(&x->after, STORE_KEY_MAX);
    buf_init(&x->text, TEXT_MAX);
    (void)buf_str(&x->prefix, SUSPENSE_PREFIX);
    if (x->q.gateway.n > 0) { /* keys begin with it */
        (void)key_escape(&x->prefix, x->q.gateway);
        (void)buf_byte(&x->prefix, '/');
        if (x->q.key_hash.n > 0)
            (void)buf_slice(&x->prefix, x->q.key_hash);
    }
    if (q->after.n > 0)
        (void)buf_slice(&x->after, q->after);
    jsonw_init(&x->w, &x->text);
    jsonw_object(&x->w);
    jsonw_key(&x->w, "items");
    jsonw_array(&x->w);
    loop_defer(b->loop, list_next, x);
}
