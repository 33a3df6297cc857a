/* export: a period's ledger as a file, page by page, that adds up to the last digit.
 *
 * Happy path: each page of the log becomes CSV (a row for each kind of tokens) or JSON lines (a line for each
 * entry); the next page is read when the taker asks for it. At the end the period's counter is read, then the
 * log once more: if nothing was posted meanwhile, the counter must equal the sum of what was written. If
 * something was, it is written too and the check is repeated.
 *
 * Failure paths: an entry that cannot be read, or a sum that differs, ends the export with E_INTERNAL: a file
 * that does not add up is never called complete. Cancelled: on_end still comes, with E_CANCELLED. */
#include "billing/internal.h"

#include <string.h>

#define PAGE_ROWS 500 /* entries of one page */
#define PART_MAX  (16u << 20)
#define TAIL_MAX  1000 /* times that postings may get between the last page and the check */
#define CSV_HEADER                                                                                           \
    "number,time,posted_at,gateway,key_hash,event_id,namespace,workspace,workspace_id,user,model,call_type," \
    "status,estimated,price_version,token_kind,quantity,unit_price,cost,currency,reported_cost,"             \
    "adjusts\r\n"

struct billing_export {
    struct billing *billing;
    struct book *book;
    struct buf log, counter; /* "ledger/<period>", "period/<period>" */
    struct slice tenant_id;  /* of the book */
    enum export_format format;
    struct export_events ev;
    void *data;
    struct buf part;
    uint64_t after; /* the last number that was written */
    uint64_t rows;
    i128 sum, expected; /* written; the counter */
    unsigned tails;
    bool is_reading;  /* a read is under way */
    bool is_waiting;  /* for billing_export_next */
    bool is_checking; /* the counter was read; the log is read once more */
    bool is_cancelled;
    struct err err;
};

int billing_period_parse(struct slice s)
{
    if (s.n != 7 || s.p[4] != '-')
        return E_INVALID;
    for (size_t i = 0; i < s.n; i++) {
        if (i != 4 && (s.p[i] < '0' || s.p[i] > '9'))
            return E_INVALID;
    }
    int month = (s.p[5] - '0') * 10 + (s.p[6] - '0');
    return month >= 1 && month <= 12 ? 0 : E_INVALID;
}

static void export_end(struct billing_export *x, int code, const struct err *err)
{
    struct amount total = {x->sum, {0}};
    memcpy(total.currency, price_currency(x->book->prices), 4);
    x->ev.on_end(code, x->rows, total, err, x->data);
    struct billing *b = x->billing;
    buf_fini(&x->log);
    buf_fini(&x->counter);
    buf_fini(&x->part);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

/* --- one entry --- */

struct entry_line {
    struct slice kind, unit_price, amount;
    int64_t quantity; /* negative where something is taken back */
};

static const struct json_field line_rows[] = {
    {"kind", JF_STRING, true, offsetof(struct entry_line, kind)},
    {"quantity", JF_I64, true, offsetof(struct entry_line, quantity)},
    {"unit_price", JF_STRING, true, offsetof(struct entry_line, unit_price)},
    {"amount", JF_STRING, true, offsetof(struct entry_line, amount)},
};

/* A cell of RFC 4180. What a spreadsheet would run as a formula gets an apostrophe in front: ids, models and
 * users are other people's words. */
static void csv_cell(struct buf *out, struct slice s, bool is_foreign)
{
    bool is_formula = is_foreign && s.n > 0 && memchr("=+-@\t\r", s.p[0], 6) != NULL;
    bool is_quoted = false;
    for (size_t i = 0; i < s.n && !is_quoted; i++)
        is_quoted = s.p[i] == ',' || s.p[i] == '"' || s.p[i] == '\r' || s.p[i] == '\n';
    if (is_quoted)
        (void)buf_byte(out, '"');
    if (is_formula)
        (void)buf_byte(out, '\'');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '"')
            (void)buf_byte(out, '"');
        (void)buf_byte(out, s.p[i]);
    }
    if (is_quoted)
        (void)buf_byte(out, '"');
}

/* The columns of an entry's member names, in the header's order between number and token_kind. */
static const struct {
    const char *member;
    bool is_foreign;
} columns[] = {{"time", false},      {"posted_at", false},   {"gateway", true},   {"key_hash", false},
               {"id", true},         {"namespace", true},    {"workspace", true}, {"workspace_id", true},
               {"user", true},       {"model", true},        {"call_type", true}, {"status", false},
               {"estimated", false}, {"price_version", true}};

static void csv_row(struct billing_export *x, uint64_t number, const struct json *entry,
                    const struct entry_line *line)
{
    struct buf *b = &x->part;
    (void)buf_printf(b, "%llu", (unsigned long long)number);
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        const struct json *v = json_get(entry, columns[i].member);
        struct slice s = json_string(v);
        if (json_type(v) == JSON_TRUE || json_type(v) == JSON_FALSE)
            s = json_is_true(v) ? SL("true") : SL("false");
        (void)buf_byte(b, ',');
        csv_cell(b, s.p != NULL ? s : SLICE_EMPTY, columns[i].is_foreign);
    }
    (void)buf_byte(b, ',');
    csv_cell(b, line->kind, false);
    (void)buf_printf(b, ",%lld,%.*s,%.*s,", (long long)line->quantity, SL_ARG(line->unit_price),
                     SL_ARG(line->amount));
    csv_cell(b, json_string(json_get(entry, "currency")), false);
    (void)buf_byte(b, ',');
    struct slice reported = json_string(json_get(entry, "reported_cost"));
    csv_cell(b, reported.p != NULL ? reported : SLICE_EMPTY, true);
    (void)buf_byte(b, ',');
    struct slice adjusts = json_string(json_get(entry, "adjusts"));
    csv_cell(b, adjusts.p != NULL ? adjusts : SLICE_EMPTY, false);
    (void)buf_str(b, "\r\n");
    x->rows++;
}

/* The entry's lines, each a row, checked: they must add up to the entry's amount. */
static int entry_write_csv(struct billing_export *x, uint64_t number, const struct json *entry, i128 amount)
{
    const struct json *lines = json_get(entry, "lines");
    i128 sum = 0;
    JSON_FOREACH (it, lines) {
        struct entry_line line = {SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, 0};
        i128 v;
        if (json_decode(it, "lines", line_rows, ARRAY_LEN(line_rows), &line, &x->err) != 0)
            return E_INTERNAL;
        if (i128_parse(line.amount, AMOUNT_SCALE, false, &v) != 0 || i128_add(sum, v, &sum) != 0)
            return err_set(&x->err, E_INTERNAL, "a line's amount is not a number");
        csv_row(x, number, entry, &line);
    }
    if (sum != amount)
        return err_set(&x->err, E_INTERNAL, "its lines do not add up to its amount");
    if (json_count(lines) == 0) { /* a call without tokens is a fact too */
        struct entry_line none = {SLICE_EMPTY, SL("0"), SL("0"), 0};
        csv_row(x, number, entry, &none);
    }
    return 0;
}

static void entry_write_jsonl(struct billing_export *x, uint64_t number, struct slice value)
{
    (void)buf_printf(&x->part, "{\"number\":%llu,", (unsigned long long)number);
    (void)buf_slice(&x->part, slice_from(value, 1)); /* the entry is an object of ours */
    (void)buf_byte(&x->part, '\n');
    x->rows++;
}

static int entry_take(struct billing_export *x, const struct store_entry *e)
{
    struct json *entry = NULL;
    i128 amount = 0;
    int rc = json_parse(e->value, NULL, &entry, &x->err);
    if (rc == 0 && i128_parse(json_string(json_get(entry, "amount")), AMOUNT_SCALE, false, &amount) != 0)
        rc = err_set(&x->err, E_INTERNAL, "its amount is not a number");
    if (rc == 0 && x->format == EXPORT_CSV)
        rc = entry_write_csv(x, e->number, entry, amount);
    else if (rc == 0)
        entry_write_jsonl(x, e->number, e->value);
    if (rc == 0)
        rc = i128_add(x->sum, amount, &x->sum);
    if (rc == 0 && x->part.is_full)
        rc = err_set(&x->err, E_TOO_LARGE, "a page of the export is too large");
    json_free(entry);
    if (rc != 0) {
        err_prefix(&x->err, "ledger entry %llu", (unsigned long long)e->number);
        return E_INTERNAL;
    }
    x->after = e->number;
    return 0;
}

/* --- page by page --- */

static void page_read(struct billing_export *x);

/* Hands over what was made and waits to be asked for more; without anything to hand over, goes on at once. */
static void part_give(struct billing_export *x)
{
    if (x->part.n == 0) {
        page_read(x);
        return;
    }
    x->is_waiting = true;
    x->ev.on_part(buf_view(&x->part), x->data); /* may call billing_export_next or _cancel */
}

/* Cancelled or closing while a read was under way. */
static bool export_is_over(struct billing_export *x)
{
    if (!x->is_cancelled && !x->billing->is_closing)
        return false;
    export_end(x, E_CANCELLED, NULL);
    return true;
}

static void on_counter(int code, const struct store_counter *c, size_t n, bool has_more,
                       const struct err *err, void *data)
{
    struct billing_export *x = data;
    (void)has_more; /* a whole key is the prefix */
    x->is_reading = false;
    if (export_is_over(x))
        return;
    if (code != 0) {
        export_end(x, code, err);
        return;
    }
    x->expected = n > 0 && slice_eq(c[0].key, buf_view(&x->counter)) ? c[0].value : 0;
    x->is_checking = true;
    page_read(x);
}

/* The log's end was reached: what does the counter say? */
static void check_start(struct billing_export *x)
{
    x->is_reading = true;
    store_counters(x->billing->store, x->tenant_id, buf_view(&x->counter), SLICE_EMPTY, 1, on_counter, x);
}

static void check_end(struct billing_export *x)
{
    if (x->sum == x->expected) {
        export_end(x, 0, NULL);
        return;
    }
    char sum[I128_TEXT_MAX], expected[I128_TEXT_MAX];
    (void)i128_format(x->sum, AMOUNT_SCALE, sum);
    (void)i128_format(x->expected, AMOUNT_SCALE, expected);
    err_set(&x->err, E_INTERNAL, "the entries add up to %s but the ledger's total is %s", sum, expected);
    export_end(x, E_INTERNAL, &x->err);
}

static void on_page(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                    void *data)
{
    struct billing_export *x = data;
    x->is_reading = false;
    if (export_is_over(x))
        return;
    for (size_t i = 0; code == 0 && i < n; i++) {
        code = entry_take(x, &e[i]);
        err = &x->err;
    }
    if (code != 0) {
        export_end(x, code, err);
        return;
    }
    bool was_checking = x->is_checking;
    x->is_checking = false;
    if (was_checking && n == 0) {
        check_end(x);
    } else if (was_checking && ++x->tails > TAIL_MAX) {
        err_set(&x->err, E_BUSY, "the period is being written to all the time: try again");
        export_end(x, E_BUSY, &x->err);
    } else if (has_more || n > 0) {
        part_give(x);
    } else {
        check_start(x);
    }
}

static void page_read(struct billing_export *x)
{
    x->is_reading = true;
    store_log_read(x->billing->store, x->tenant_id, buf_view(&x->log), x->after, PAGE_ROWS, on_page, x);
}

static void on_started(void *data)
{
    struct billing_export *x = data;
    x->is_reading = false;
    if (export_is_over(x))
        return;
    if (x->err.code != 0) {
        export_end(x, x->err.code, &x->err);
        return;
    }
    if (x->format == EXPORT_CSV)
        (void)buf_str(&x->part, CSV_HEADER);
    part_give(x);
}

struct billing_export *billing_export_start(struct billing *b, struct slice tenant, struct slice period,
                                            enum export_format f, const struct export_events *ev, void *data)
{
    struct billing_export *x = MEM_NEW(struct billing_export);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->format = f;
    x->ev = *ev;
    x->data = data;
    x->is_reading = true;
    buf_init(&x->log, STORE_KEY_MAX);
    buf_init(&x->counter, STORE_KEY_MAX);
    buf_init(&x->part, PART_MAX);
    const struct config_tenant *t = tenancy_tenant(x->book->tenancy, tenant);
    if (t == NULL)
        err_set(&x->err, E_NOT_FOUND, "no such tenant");
    else if (billing_period_parse(period) != 0)
        err_set(&x->err, E_INVALID, "period: expected a UTC month such as 2026-11");
    if (x->err.code == 0) {
        x->tenant_id = slice_str(t->id);
        (void)buf_printf(&x->log, "ledger/%.*s", SL_ARG(period));
        (void)buf_printf(&x->counter, "period/%.*s", SL_ARG(period));
    }
    loop_defer(b->loop, on_started, x);
    return x;
}

static void on_next(void *data)
{
    struct billing_export *x = data;
    x->is_reading = false;
    buf_reset(&x->part);
    if (!export_is_over(x))
        page_read(x);
}

void billing_export_next(struct billing_export *x)
{
    if (!x->is_waiting || x->is_cancelled)
        return;
    x->is_waiting = false;
    x->is_reading = true;
    loop_defer(x->billing->loop, on_next, x); /* later: the part that on_part was given must stay valid */
}

void billing_export_cancel(struct billing_export *x)
{
    if (x->is_cancelled)
        return;
    x->is_cancelled = true;
    if (x->is_reading)
        return; /* whoever is under way ends it */
    x->is_waiting = false;
    x->is_reading = true;
    loop_defer(x->billing->loop, on_next, x);
}
