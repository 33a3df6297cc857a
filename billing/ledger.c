/* ledger: posts a tenant's part of a batch.
 *
 * Happy path: for each event the commit expects neither a deduplication record nor a suspense record of it,
 * and puts the former, appends the entry to the log of its UTC month, and adds to every counter that it
 * moves: the period's total, the usage of its day, each budget's window. Adds to one counter are summed
 * first, so a batch of a hundred events moves few counters. One commit takes as many events as fit; what is
 * left follows in the next one.
 *
 * Failure paths: an expectation fails (some of it was posted before, by a repetition or another controller):
 * the records are read, each event is judged by them (duplicate, conflict, or post and resolve), and the
 * commit is tried again, a bounded number of times. A sum that overflows: events go one by one until the
 * guilty one is found, which goes to suspense. Anything else ends the part with its code; what earlier
 * commits did stays done, and the repetition finds it. */
#include "billing/internal.h"

#include <string.h>

#define CHUNK_EVENTS     250 /* of one commit: a few milliseconds of one turn of the loop */
#define ATTEMPTS_MAX     6   /* the first, and five after a conflict */
#define OPS_OF_EVENT_MAX (20 + 3 * BUDGETS_PER_TENANT_MAX)
#define HORIZON_MONTHS   13
#define HORIZON_AHEAD_MS (INT64_C(3600) * 1000)

_Static_assert(OPS_OF_EVENT_MAX * 2 < STORE_OPS_MAX, "any event fits a commit");

/* What the store said of one item. */
struct known {
    struct dedupe dedupe; /* facts.p NULL: not posted */
    uint64_t dedupe_version;
    int64_t dedupe_expires_ms;
    struct slice reason; /* of its suspense record; p NULL: none */
    uint64_t suspense_version;
    struct suspense_count *counts;
    size_t n_counts;
};

/* One counter of the commit under construction. */
struct add {
    struct slice key;
    i128 amount;
    int64_t window_end_ms; /* a budget's, or WINDOW_UNKNOWN; else 0 */
    UT_hash_handle hh;
};

/* One identity or report that this commit already takes care of. */
struct seen {
    struct slice key;
    const struct event *event;
    struct outcome outcome;
    UT_hash_handle hh;
};

struct posting {
    struct batch *batch;
    const struct config_tenant *tenant;
    struct tenant_budgets *budgets; /* a reference; NULL: none */
    struct item **items;
    size_t n;
    size_t next;      /* first item that is not done */
    size_t end;       /* behind the last item of the commit under way */
    size_t chunk_max; /* items of one commit */
    unsigned attempts;
    struct known *known; /* of items [next, known_end); with a verdict, always */
    size_t known_end;
    /* the commit under construction; everything in `scratch` */
    struct arena scratch;
    struct store_op *ops;
    size_t n_ops, cap_ops;
    struct outcome *outcomes; /* of items [next, end), true once the commit is */
    struct add *adds;
    struct seen *seen;
    bool is_overflow; /* a sum did not fit already here */
    struct buf key;   /* scratch for building keys */
};

static void posting_step(struct posting *p);

static void chunk_reset(struct posting *p)
{
    HASH_CLEAR(hh, p->adds);
    HASH_CLEAR(hh, p->seen);
    p->n_ops = 0;
    p->is_overflow = false;
}

static void posting_end(struct posting *p, int code, const struct err *err)
{
    struct batch *x = p->batch;
    chunk_reset(p);
    buf_fini(&p->key);
    tenant_budgets_unref(p->budgets);
    mem_free(p->ops);
    arena_fini(&p->scratch);
    mem_free(p);
    batch_part_done(x, code, err);
}

/* --- building a commit --- */

static void op_push(struct posting *p, struct store_op op)
{
    if (p->n_ops == p->cap_ops) {
        p->cap_ops = p->cap_ops > 0 ? p->cap_ops * 2 : 512;
        p->ops = mem_realloc(p->ops, p->cap_ops * sizeof(*p->ops));
    }
    p->ops[p->n_ops++] = op;
}

/* Sums up what one counter gets in this commit. */
static void add_push(struct posting *p, struct slice key, i128 amount, int64_t window_end_ms)
{
    struct add *a;
    HASH_FIND(hh, p->adds, key.p, key.n, a);
    if (a == NULL) {
        a = ARENA_NEW(&p->scratch, struct add);
        a->key = arena_slice(&p->scratch, key);
        a->window_end_ms = window_end_ms;
        HASH_ADD_KEYPTR(hh, p->adds, a->key.p, a->key.n, a);
    }
    if (a->window_end_ms <= 0)
        a->window_end_ms = window_end_ms;
    if (i128_add(a->amount, amount, &a->amount) != 0)
        p->is_overflow = true;
}

static struct seen *seen_find(struct posting *p, struct slice key)
{
    struct seen *s;
    HASH_FIND(hh, p->seen, key.p, key.n, s);
    return s;
}

static void seen_push(struct posting *p, struct slice key, const struct event *e, struct outcome o)
{
    struct seen *s = ARENA_NEW(&p->scratch, struct seen);
    s->key = key;
    s->event = e;
    s->outcome = o;
    HASH_ADD_KEYPTR(hh, p->seen, s->key.p, s->key.n, s);
}

static struct outcome rejected(const char *code, const char *detail)
{
    return (struct outcome){OUTCOME_REJECTED, code, detail};
}

/* An entry about to be appended. */
struct entry {
    const struct event *event;
    const struct owner *owner;
    const struct event_cost *cost;
    struct slice adjusts; /* the entry that it corrects, "2026-11/17"; n 0: none */
    bool is_reversal;     /* takes back what stood: all of it with the other sign */
};

static struct slice signed_text(const struct entry *n, i128 v, unsigned scale, char out[I128_TEXT_MAX])
{
    return slice_of(out, i128_format(n->is_reversal ? -v : v, scale, out));
}

/* The entry as it stays in the log; its number is the log's. */
static struct slice entry_write(struct posting *p, const struct entry *n)
{
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    char number[I128_TEXT_MAX];
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_ktime(&w, "posted_at", p->batch->received_ms);
    event_write(&w, n->event, n->owner);
    jsonw_kslice(&w, "price_version", n->cost->price_version);
    jsonw_kstr(&w, "currency", price_currency(p->batch->book->prices));
    if (n->adjusts.n > 0) {
        jsonw_kstr(&w, "adjustment", n->is_reversal ? "reversal" : "correction");
        jsonw_kslice(&w, "adjusts", n->adjusts);
    }
    jsonw_key(&w, "lines");
    jsonw_array(&w);
    for (size_t i = 0; i < n->cost->n_lines; i++) {
        const struct event_line *line = &n->cost->lines[i];
        jsonw_object(&w);
        jsonw_kstr(&w, "kind", token_kind_names[line->kind]);
        jsonw_key(&w, "quantity");
        jsonw_raw(&w, signed_text(n, (i128)line->quantity, 0, number));
        jsonw_kslice(&w, "unit_price", slice_of(number, i128_format(line->unit_price, AMOUNT_SCALE, number)));
        jsonw_kslice(&w, "amount", signed_text(n, line->amount, AMOUNT_SCALE, number));
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_kslice(&w, "amount", signed_text(n, n->cost->amount, AMOUNT_SCALE, number));
    jsonw_object_end(&w);
    must(!text.is_full); /* every part of it is bounded */
    struct slice out = arena_slice(&p->scratch, buf_view(&text));
    buf_fini(&text);
    return out;
}

/* usage/<day>/<namespace>/<workspace id>/<model>/<kind>/{q|c}: what queries add up, so that none reads the
 * log. */
static void usage_adds(struct posting *p, const struct entry *n)
{
    char day[DAY_TEXT_MAX];
    struct buf *k = &p->key;
    const i128 sign = n->is_reversal ? -1 : 1;
    day_of(n->event->time_ms, day);
    buf_reset(k);
    (void)buf_printf(k, "usage/%s/", day);
    (void)key_escape(k, n->owner->namespace);
    (void)buf_byte(k, '/');
    (void)key_escape(k, n->owner->workspace_id);
    (void)buf_byte(k, '/');
    (void)key_escape(k, n->event->model);
    size_t stem = k->n;
    for (size_t i = 0; i < n->cost->n_lines; i++) {
        const struct event_line *line = &n->cost->lines[i];
        k->n = stem;
        (void)buf_printf(k, "/%s/q", token_kind_names[line->kind]);
        must(!k->is_full); /* names and models are bounded */
        add_push(p, buf_view(k), sign * (i128)line->quantity, 0);
        k->p[k->n - 1] = 'c';
        if (line->amount != 0)
            add_push(p, buf_view(k), sign * line->amount, 0);
    }
}

/* The amount in every budget that the namespace falls under. With `out`, notes what was added, for taking it
 * back. */
static void budget_adds(struct posting *p, struct slice namespace, i128 amount, int64_t at_ms,
                        const char *what, struct suspense_count *out, size_t *ret_n)
{
    size_t n = 0;
    for (size_t i = 0; amount != 0 && p->budgets != NULL && i < p->budgets->n; i++) {
        int64_t window_end;
        buf_reset(&p->key);
        must(budget_counter(&p->budgets->items[i], namespace, at_ms, &p->key, &window_end) == 0);
        (void)buf_str(&p->key, what);
        must(!p->key.is_full);
        add_push(p, buf_view(&p->key), amount, window_end);
        if (out != NULL)
            out[n++] = (struct suspense_count){arena_slice(&p->scratch, buf_view(&p->key)), amount};
    }
    if (ret_n != NULL)
        *ret_n = n;
}

/* Once by each process, while its owner is remembered: neither name nor user ever changes. */
static void billed_put(struct posting *p, const struct owner *o)
{
    if (o->is_billed || o->workspace_id.n == 0)
        return;
    struct store_op op = billed_op(&p->scratch, o->namespace, o->workspace, o->workspace_id, o->user);
    if (seen_find(p, op.key) != NULL)
        return;
    op_push(p, op);
    seen_push(p, op.key, NULL, (struct outcome){OUTCOME_NONE, NULL, NULL});
}

/* The entry, and every counter that it moves: those of its own time. */
static void entry_push(struct posting *p, const struct entry *n)
{
    char period[PERIOD_TEXT_MAX];
    i128 amount = n->is_reversal ? -n->cost->amount : n->cost->amount;
    period_of(n->event->time_ms, period);
    op_push(p, store_append(slice_str(arena_printf(&p->scratch, "ledger/%s", period)), entry_write(p, n)));
    if (amount != 0)
        add_push(p, slice_str(arena_printf(&p->scratch, "period/%s", period)), amount, 0);
    if (n->event->status == EVENT_SUCCESS)
        usage_adds(p, n);
    billed_put(p, n->owner);
    budget_adds(p, n->owner->namespace, amount, n->event->time_ms, "spent", NULL, NULL);
}

/* What a suspense record had counted. Which window that was in is unknown here: the mirror takes the value
 * only if it has such a row. */
static void take_back(struct posting *p, const struct known *k)
{
    for (size_t i = 0; i < k->n_counts; i++)
        add_push(p, k->counts[i].counter, -k->counts[i].amount, WINDOW_UNKNOWN);
}

static void event_post(struct posting *p, const struct item *it, const struct known *k,
                       const struct event_cost *cost)
{
    const struct event *e = it->event;
    char period[PERIOD_TEXT_MAX];
    period_of(e->time_ms, period);
    op_push(p, store_expect(e->dedupe_key, 0));
    op_push(p, store_expect(e->suspense_key, k != NULL ? k->suspense_version : 0));
    struct store_op dedupe =
        store_put(e->dedupe_key, slice_str(arena_printf(&p->scratch, "1 %s %s", e->facts, period)));
    dedupe.expires_at_ms = e->time_ms + DEDUPE_MS;
    op_push(p, dedupe);
    entry_push(p, &(struct entry){.event = e, .owner = it->owner, .cost = cost});
    if (k != NULL && k->reason.p != NULL) {
        op_push(p, store_delete(e->suspense_key));
        take_back(p, k);
    }
}

/* Into the tenant's suspense. What has a price counts against the budgets as unsettled: a call that was made
 * is never free because its report is odd. The same report again, for the same reason, changes nothing. */
static void event_suspend(struct posting *p, const struct item *it, const struct known *k, struct outcome o,
                          const struct event_cost *cost, bool is_posted)
{
    const struct event *e = it->event;
    if (k != NULL && k->reason.p != NULL && slice_eq_str(k->reason, o.code))
        return;
    if (k != NULL && k->reason.p != NULL)
        take_back(p, k);
    struct suspense_count counts[BUDGETS_PER_TENANT_MAX];
    struct suspense_record r = {.reason = o.code,
                                .detail = o.detail,
                                .received_ms = p->batch->received_ms,
                                .event = e,
                                .owner = it->owner,
                                .currency = price_currency(p->batch->book->prices),
                                .has_amount = cost != NULL,
                                .amount = cost != NULL ? cost->amount : 0,
                                .counts = counts};
    /* A report from the future counts now: its clock is wrong, but the call was made. */
    int64_t at = e->time_ms < p->batch->received_ms ? e->time_ms : p->batch->received_ms;
    if (cost != NULL)
        budget_adds(p, it->owner->namespace, cost->amount, at, "unsettled", counts, &r.n_counts);
    if (!is_posted)
        op_push(p, store_expect(e->dedupe_key, 0));
    op_push(p, store_expect(e->suspense_key, k != NULL ? k->suspense_version : 0));
    op_push(p, store_put(e->suspense_key, suspense_write(&p->scratch, &r)));
}

/* The first instant of the oldest month that is still accepted. */
static int64_t horizon_ms(int64_t now_ms)
{
    int year, month, day;
    time_civil(now_ms, &year, &month, &day);
    int months = year * 12 + month - 1 - HORIZON_MONTHS;
    return time_from_civil(months / 12, months % 12 + 1, 1);
}

/* --- what a person decided --- */

/* Out of suspense, with what it counted; its identity keeps `dedupe` from now on. */
static void suspense_leave(struct posting *p, const struct item *it, const struct known *k,
                           const char *dedupe)
{
    const struct event *e = it->event;
    int64_t now = p->batch->received_ms;
    op_push(p, store_expect(e->dedupe_key, k->dedupe_version));
    op_push(p, store_expect(e->suspense_key, k->suspense_version));
    struct store_op put = store_put(e->dedupe_key, slice_str(dedupe));
    put.expires_at_ms = (e->time_ms > now ? e->time_ms : now) + DEDUPE_MS;
    if (put.expires_at_ms < k->dedupe_expires_ms)
        put.expires_at_ms = k->dedupe_expires_ms;
    op_push(p, put);
    op_push(p, store_delete(e->suspense_key));
    take_back(p, k);
}

static struct outcome event_dismiss(struct posting *p, const struct item *it, const struct known *k)
{
    const struct dedupe *d = &k->dedupe;
    const char *facts = it->event->facts, *dedupe;
    if (d->facts.p == NULL)
        dedupe = arena_printf(&p->scratch, "1 %s " DEDUPE_DISMISSED, facts);
    else
        dedupe = arena_printf(&p->scratch, "1 %.*s %.*s%s%.*s %s", SL_ARG(d->facts), SL_ARG(d->where),
                              d->decided.n > 0 ? " " : "", SL_ARG(d->decided), facts);
    suspense_leave(p, it, k, dedupe);
    return (struct outcome){OUTCOME_DISMISSED, NULL, NULL};
}

static struct outcome event_adjust(struct posting *p, const struct item *it, const struct known *k)
{
    const struct event *e = it->event;
    const struct standing *s = it->standing;
    const struct dedupe *d = &k->dedupe;
    struct event_cost cost;
    const char *missing = NULL;
    char period[PERIOD_TEXT_MAX];
    bool is_dismissed = slice_eq_str(d->where, DEDUPE_DISMISSED);
    if (d->facts.p == NULL || (s == NULL) != is_dismissed ||
        (s != NULL && !slice_eq_str(d->facts, s->event.facts)))
        return rejected("changed", "what stands for this event has changed meanwhile: look at it again");
    int rc = event_price(e, p->batch->book->prices, &cost, &missing);
    if (rc != 0)
        return rc == E_OVERFLOW ? rejected("overflow", "its cost is beyond what can be counted")
                                : rejected("unpriced", "it has no price");
    if (e->extra.n > 0)
        return rejected("unpriced", "no price covers all that was used");
    if (e->time_ms < horizon_ms(p->batch->received_ms) ||
        e->time_ms > p->batch->received_ms + HORIZON_AHEAD_MS)
        return rejected("out_of_horizon", "it is dated outside of what is kept exactly");
    period_of(e->time_ms, period);
    suspense_leave(p, it, k,
                   arena_printf(&p->scratch, "1 %s %s %.*s%s%.*s", e->facts, period, SL_ARG(d->facts),
                                d->decided.n > 0 ? " " : "", SL_ARG(d->decided)));
    if (s != NULL)
        entry_push(p, &(struct entry){&s->event, &s->owner, &s->cost, s->original, true});
    entry_push(p, &(struct entry){e, it->owner, &cost, s != NULL ? s->original : SLICE_EMPTY, false});
    return (struct outcome){OUTCOME_POSTED, NULL, NULL};
}

static struct outcome event_verdict(struct posting *p, const struct item *it, const struct known *k)
{
    if (k->reason.p == NULL)
        return rejected("changed", "it was decided meanwhile");
    if (it->is_overflow)
        return rejected("overflow", "a sum with it is beyond what can be counted");
    if (dedupe_decided(&k->dedupe) >= DEDUPE_DECIDED_MAX)
        return rejected("too_many", "more reports of one event were decided than can be kept");
    return it->verdict == VERDICT_DISMISS ? event_dismiss(p, it, k) : event_adjust(p, it, k);
}

/* What is to become of an item, and its ops. `k` is NULL as long as nothing was read: then it is taken for
 * new, and the commit's expectations find out. */
static struct outcome event_decide(struct posting *p, const struct item *it, const struct known *k)
{
    const struct event *e = it->event;
    const struct seen *same = seen_find(p, e->suspense_key), *other = seen_find(p, e->dedupe_key);
    if (same != NULL) /* the same report twice in one commit */
        return same->outcome.kind == OUTCOME_POSTED ? (struct outcome){OUTCOME_DUPLICATE, NULL, NULL}
                                                    : same->outcome;
    if (k != NULL && dedupe_has(&k->dedupe, e->facts))
        return (struct outcome){OUTCOME_DUPLICATE, NULL, NULL};

    struct event_cost cost;
    const char *missing = NULL;
    int rc = event_price(e, p->batch->book->prices, &cost, &missing);
    struct outcome o = {OUTCOME_POSTED, NULL, NULL};
    int64_t now = p->batch->received_ms;
    bool is_posted = other != NULL || (k != NULL && k->dedupe.facts.p != NULL);
    if (is_posted)
        o = rejected("conflict",
                     "posted before with other facts; it waits in suspense and counts against the budgets");
    else if (it->is_overflow || rc == E_OVERFLOW)
        o = rejected("overflow", "its cost is beyond what can be counted");
    else if (e->time_ms > now + HORIZON_AHEAD_MS)
        o = rejected("out_of_horizon", "dated more than an hour ahead of the clock here");
    else if (e->time_ms < horizon_ms(now))
        o = rejected("out_of_horizon", "dated before the 13 months that are kept exactly");
    else if (rc == E_NOT_FOUND)
        o = rejected("unpriced",
                     strcmp(missing, "model") == 0
                         ? "the price file has no such model"
                         : arena_printf(&p->batch->arena, "the model has no price for %s", missing));
    else if (e->extra.n > 0)
        o = rejected("unpriced", arena_printf(&p->batch->arena, "no price covers: %.*s", SL_ARG(e->extra)));
    /* What lacks one price of several is counted as far as the others go: else a caller who sees to it that
     * something unpriced is in each of its calls would spend nothing. */
    bool is_countable = (rc == 0 || (rc == E_NOT_FOUND && cost.n_lines > 0)) && !it->is_overflow;
    if (o.kind == OUTCOME_POSTED) {
        event_post(p, it, k, &cost);
        seen_push(p, e->dedupe_key, e, o);
    } else {
        event_suspend(p, it, k, o, is_countable ? &cost : NULL, is_posted);
    }
    seen_push(p, e->suspense_key, e, o);
    return o;
}

static void chunk_build(struct posting *p)
{
    chunk_reset(p);
    arena_reset(&p->scratch);
    size_t limit = p->known != NULL ? p->known_end : p->n;
    if (limit - p->next > p->chunk_max)
        limit = p->next + p->chunk_max;
    p->outcomes = arena_zalloc(&p->batch->arena, (limit - p->next + 1) * sizeof(*p->outcomes));
    size_t i = p->next;
    for (; i < limit; i++) {
        if (p->n_ops + HASH_COUNT(p->adds) + OPS_OF_EVENT_MAX > STORE_OPS_MAX)
            break;
        const struct item *it = p->items[i];
        const struct known *k = p->known != NULL ? &p->known[i - p->next] : NULL;
        struct outcome *o = &p->outcomes[i - p->next];
        *o = it->verdict != VERDICT_NONE ? event_verdict(p, it, k) : event_decide(p, it, k);
        for (size_t x = 0;
             x < p->batch->n_extra && (o->kind == OUTCOME_POSTED || o->kind == OUTCOME_DISMISSED); x++)
            op_push(p, p->batch->extra[x]);
    }
    p->end = i;
    for (struct add *a = p->adds; a != NULL; a = a->hh.next)
        op_push(p, store_add(a->key, a->amount));
}

/* --- committing it --- */

/* The counters' new values, in the order in which chunk_build pushed them: the last ops. */
static void mirror_take(struct posting *p, const struct store_op_result *results)
{
    struct billing *b = p->batch->billing;
    int64_t now = billing_now_ms(b);
    size_t at = p->n_ops - HASH_COUNT(p->adds);
    b->mirror.turn++;
    for (struct add *a = p->adds; a != NULL; a = a->hh.next, at++) {
        if (a->window_end_ms > now || a->window_end_ms == WINDOW_UNKNOWN)
            mirror_set(&b->mirror, slice_str(p->tenant->id), a->key, results[at].counter, a->window_end_ms,
                       0);
    }
}

static void chunk_accept(struct posting *p)
{
    for (size_t i = p->next; i < p->end; i++) {
        p->items[i]->outcome = p->outcomes[i - p->next];
        if (p->items[i]->outcome.kind == OUTCOME_POSTED)
            p->items[i]->owner->is_billed = true;
    }
    p->next = p->end;
    p->attempts = 0;
    p->known = NULL;
}

static void on_known(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct posting *p = data;
    (void)has_more; /* an answer to get is whole */
    if (code != 0) {
        posting_end(p, code, err);
        return;
    }
    struct arena *a = &p->batch->arena;
    p->known = arena_zalloc(a, (n / 2 + 1) * sizeof(*p->known));
    p->known_end = p->next + n / 2;
    for (size_t i = 0; i < n / 2; i++) {
        const struct store_record *dedupe = &r[2 * i], *suspense = &r[2 * i + 1];
        struct known *k = &p->known[i];
        if (dedupe->version > 0)
            k->dedupe = dedupe_read(arena_slice(a, dedupe->value));
        k->dedupe_version = dedupe->version;
        k->dedupe_expires_ms = dedupe->expires_at_ms;
        k->suspense_version = suspense->version;
        if (suspense->version > 0 &&
            suspense_read(a, suspense->value, &k->reason, &k->counts, &k->n_counts) != 0)
            k->reason = SLICE_EMPTY; /* damaged: it is there, for a reason nobody can read */
    }
    posting_step(p);
}

/* Some of the chunk was here before: what exactly? */
static void known_read(struct posting *p)
{
    size_t n = p->end - p->next;
    struct slice *keys = arena_alloc(&p->batch->arena, (2 * n + 1) * sizeof(*keys));
    for (size_t i = 0; i < n; i++) {
        keys[2 * i] = p->items[p->next + i]->event->dedupe_key;
        keys[2 * i + 1] = p->items[p->next + i]->event->suspense_key;
    }
    store_get(p->batch->billing->store, slice_str(p->tenant->id), keys, 2 * n, on_known, p);
}

/* A sum does not fit: one by one, until the guilty event stands alone. */
static void on_overflow(struct posting *p)
{
    if (p->end - p->next == 1)
        p->items[p->next]->is_overflow = true;
    p->chunk_max = 1;
    p->known_end = p->next + 1;
    posting_step(p);
}

static void on_commit(const struct store_commit_answer *a, void *data)
{
    struct posting *p = data;
    if (a->code == 0) {
        mirror_take(p, a->results);
        chunk_accept(p);
        posting_step(p);
    } else if (a->code == E_CONFLICT && ++p->attempts < ATTEMPTS_MAX && !p->batch->billing->is_closing) {
        known_read(p);
    } else if (a->code == E_OVERFLOW && !p->items[p->next]->is_overflow) {
        on_overflow(p);
    } else {
        posting_end(p, a->code, a->err);
    }
}

static void posting_step(struct posting *p)
{
    for (;;) {
        if (p->batch->billing->is_closing) {
            posting_end(p, E_CANCELLED, NULL);
            return;
        }
        if (p->next == p->n) {
            posting_end(p, 0, NULL);
            return;
        }
        chunk_build(p);
        if (p->n_ops > 0)
            break;
        chunk_accept(p); /* nothing but duplicates: all of it is durable already */
    }
    if (p->is_overflow) {
        on_overflow(p);
        return;
    }
    store_commit(p->batch->billing->store, slice_str(p->tenant->id), p->ops, p->n_ops, on_commit, p);
}

void posting_start(struct batch *x, const struct config_tenant *tenant, struct item **items, size_t n)
{
    struct posting *p = MEM_NEW(struct posting);
    p->batch = x;
    p->tenant = tenant;
    p->budgets = tenant_budgets_ref(budget_set_find(x->book->budgets, slice_str(tenant->id)));
    p->items = items;
    p->n = n;
    p->chunk_max = CHUNK_EVENTS;
    p->scratch = ARENA_INIT;
    buf_init(&p->key, STORE_KEY_MAX);
    for (size_t i = 0; p->budgets != NULL && i < p->budgets->n; i++)
        budget_follow(x->billing, &p->budgets->items[i]);
    if (items[0]->verdict == VERDICT_NONE) {
        posting_step(p);
        return;
    }
    p->end = n; /* a verdict is about what is there */
    known_read(p);
}
