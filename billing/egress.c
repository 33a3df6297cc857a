/* egress: bytes that sandboxes sent and received, as usage events of their own kind.
 *
 * Happy path: one commit writes an entry of the ledger, the day's counters and a record that makes repeating
 * it harmless. The bytes have no price: the entry's amount is 0. Failure paths: an answer that was lost looks
 * like a failure; the caller sends the same once more, and the record tells that it was posted. */
#include "billing/internal.h"

#include <string.h>

#define EGRESS_REPEAT_MS (INT64_C(86400) * 1000) /* how long a repetition is known */

const char *const egress_kind_names[EGRESS_KINDS] = {"egress_in", "egress_out"};

struct egress_posting {
    struct billing *billing;
    billing_done_cb done;
    void *data;
    struct err err;
};

static void on_posted(const struct store_commit_answer *a, void *data)
{
    struct egress_posting *p = data;
    struct billing *b = p->billing;
    bool is_known = a->code == E_CONFLICT; /* the record is there: it was posted before */
    if (a->code != 0 && !is_known)
        (void)err_set(&p->err, a->code, "%s", a->err != NULL ? a->err->msg : err_title(a->code));
    p->done(p->err.code, &p->err, p->data);
    mem_free(p);
    billing_unref(b);
}

static void on_no_tenant(void *data)
{
    const struct err err = {.code = E_NOT_FOUND, .msg = "no such tenant"};
    const struct store_commit_answer a = {.code = E_NOT_FOUND, .err = &err};
    on_posted(&a, data);
}

static struct slice entry_of(struct arena *a, const struct billing_egress *e, const char *currency,
                             int64_t now_ms)
{
    const uint64_t bytes[EGRESS_KINDS] = {e->bytes_in, e->bytes_out};
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_ktime(&w, "posted_at", now_ms);
    jsonw_ktime(&w, "time", e->to_ms);
    jsonw_kstr(&w, "gateway", "reeve");
    jsonw_kstr(&w, "key_hash", "");
    jsonw_kstr(&w, "id", arena_printf(a, "%.*s/%lld", SL_ARG(e->workspace_id), (long long)e->from_ms));
    jsonw_kstr(&w, "kind", "egress");
    jsonw_kslice(&w, "namespace", e->namespace);
    jsonw_kslice(&w, "workspace", e->workspace);
    jsonw_kslice(&w, "workspace_id", e->workspace_id);
    jsonw_kslice(&w, "user", e->user);
    jsonw_kstr(&w, "model", EGRESS_MODEL);
    jsonw_kstr(&w, "status", "success");
    jsonw_kbool(&w, "estimated", false);
    jsonw_kstr(&w, "price_version", "");
    jsonw_kstr(&w, "currency", currency);
    jsonw_key(&w, "lines");
    jsonw_array(&w);
    for (size_t i = 0; i < EGRESS_KINDS; i++) {
        if (bytes[i] == 0)
            continue;
        jsonw_object(&w);
        jsonw_kstr(&w, "kind", egress_kind_names[i]);
        jsonw_ku64(&w, "quantity", bytes[i]);
        jsonw_kstr(&w, "unit_price", "0");
        jsonw_kstr(&w, "amount", "0");
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_kstr(&w, "amount", "0");
    jsonw_object_end(&w);
    must(!text.is_full); /* names are bounded */
    struct slice out = arena_slice(a, buf_view(&text));
    buf_fini(&text);
    return out;
}

/* usage/<day>/<namespace>/<workspace id>/egress/<kind>/q, as model calls have them. */
static struct slice counter_of(struct arena *a, const struct billing_egress *e, const char *kind)
{
    char day[DAY_TEXT_MAX];
    struct buf k = BUF_INIT(STORE_KEY_MAX);
    day_of(e->to_ms, day);
    (void)buf_printf(&k, "usage/%s/", day);
    (void)key_escape(&k, e->namespace);
    (void)buf_byte(&k, '/');
    (void)key_escape(&k, e->workspace_id);
    (void)buf_printf(&k, "/" EGRESS_MODEL "/%s/q", kind);
    must(!k.is_full); /* names are bounded */
    struct slice out = arena_slice(a, buf_view(&k));
    buf_fini(&k);
    return out;
}

void billing_egress_post(struct billing *b, const struct billing_egress *e, billing_done_cb done, void *data)
{
    struct egress_posting *p = MEM_NEW(struct egress_posting);
    const struct config_tenant *t = tenancy_tenant(b->book->tenancy, e->tenant);
    struct arena a = ARENA_INIT;
    struct store_op ops[6];
    size_t n = 0;
    char period[PERIOD_TEXT_MAX];
    *p = (struct egress_posting){.billing = billing_ref(b), .done = done, .data = data};
    if (t == NULL) {
        loop_defer(b->loop, on_no_tenant, p);
        return;
    }
    period_of(e->to_ms, period);
    struct slice record =
        slice_str(arena_printf(&a, "egress/%.*s/%lld", SL_ARG(e->workspace_id), (long long)e->from_ms));
    ops[n++] = store_expect(record, 0);
    ops[n] = store_put(record, slice_str(period));
    ops[n++].expires_at_ms = billing_now_ms(b) + EGRESS_REPEAT_MS;
    ops[n++] = store_append(slice_str(arena_printf(&a, "ledger/%s", period)),
                            entry_of(&a, e, price_currency(b->book->prices), billing_now_ms(b)));
    ops[n++] = billed_op(&a, e->namespace, e->workspace, e->workspace_id, e->user);
    if (e->bytes_in > 0)
        ops[n++] = store_add(counter_of(&a, e, egress_kind_names[0]), (i128)e->bytes_in);
    if (e->bytes_out > 0)
        ops[n++] = store_add(counter_of(&a, e, egress_kind_names[1]), (i128)e->bytes_out);
    store_commit(b->store, slice_str(t->id), ops, n, on_posted, p);
    arena_fini(&a);
}
