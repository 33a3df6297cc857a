/* internal: what the files of the counting-house share. Nobody else includes this. */
#ifndef REEVE_BILLING_INTERNAL_H
#define REEVE_BILLING_INTERNAL_H

#include "base/core/mem.h"
#include "billing/billing.h"
#include "billing/budget.h"
#include "billing/event.h"
#include "billing/override.h"
#include "billing/owner.h"
#include "billing/price.h"

#define FLEET           SL("fleet")
#define SUSPENSE_PREFIX "suspense/"

/* One configuration's view of money: the tenancy, its prices and budgets. A batch keeps the one it began
 * with. */
struct book {
    unsigned refs;
    struct tenancy *tenancy;
    struct price_table *prices;
    struct budget_set *budgets;
};
int book_new(struct tenancy *t, const struct override_table *overrides, int64_t now_ms,
             struct config_problems *problems, struct book **ret);
struct book *book_ref(struct book *k);
void book_unref(struct book *k);

struct billing {
    unsigned refs; /* the owner's and one for each operation in flight */
    bool is_closing;
    struct loop *loop;
    struct store *store;
    struct book *book;
    struct mirror mirror;
    struct override_table overrides;
    struct owner_cache owners;
    struct billing_stats stats;
    size_t n_batches, n_queries;
    struct timer refresh; /* other controllers on the same store spend too */
    bool is_refreshing;
};
struct billing *billing_ref(struct billing *b);
void billing_unref(struct billing *b);
int64_t billing_now_ms(const struct billing *b);
void billing_refresh(struct billing *b); /* reads overrides and counters anew, unless that is under way */

/* What people see of a budget; row NULL: nothing was counted (gate.c). */
struct billing_budget_view budget_view(const struct budget *b, const struct mirror_row *row,
                                       struct slice namespace);

/* --- loading counters into the mirror (load.c) --- */
enum load_what { LOAD_ALL, LOAD_TENANT, LOAD_BUDGET };
/* Reads the counters of present windows: all, one tenant's, or one budget's. `done` may be NULL. */
void load_start(struct billing *b, enum load_what what, struct slice tenant_id, const struct budget *one,
                billing_done_cb done, void *data);
/* Reads the overrides of all tenants of the book, and makes budgets anew where they changed
 * (override_store.c). */
void overrides_load_start(struct billing *b, billing_done_cb done, void *data);
/* Moves the budget's window to now; a new window begins at zero and is read from the store meanwhile. */
void budget_follow(struct billing *b, struct budget *budget);

/* --- bytes of the way out (egress.c), beside tokens in usage --- */
#define EGRESS_MODEL "egress" /* in the place of a model */
#define EGRESS_KINDS 2
extern const char *const egress_kind_names[EGRESS_KINDS];

/* --- a batch on its way (batch.c) --- */
enum outcome_kind { OUTCOME_NONE, OUTCOME_POSTED, OUTCOME_DUPLICATE, OUTCOME_REJECTED, OUTCOME_DISMISSED };
struct outcome {
    enum outcome_kind kind;
    const char *code, *detail; /* rejected */
};

/* What a person decided about a report that waits in the tenant's suspense. */
enum verdict {
    VERDICT_NONE,
    VERDICT_DISMISS, /* it is not charged; what was posted stands */
    VERDICT_ADJUST,  /* it is the truth: what stands is taken back, and it is posted instead */
};

/* The entry that stands for an event: the original, or the last one that was posted in its place. */
struct standing {
    struct slice original; /* the first entry: "2026-11/17", period and number */
    struct event event;
    struct owner owner; /* slices in the finder's arena; not counted */
    struct event_cost cost;
};

struct item {
    const struct event *event;
    struct owner *known;                /* of its key; a reference: the cache may forget it meanwhile */
    struct item *same;                  /* the next one of the same key that was not known */
    struct owner *owner;                /* NULL: not attributed; a reference */
    const struct config_tenant *tenant; /* of the batch's book; NULL with owner NULL */
    const char *orphan;                 /* why it has no tenant */
    struct outcome outcome;
    bool is_overflow; /* the store refused its sum */
    enum verdict verdict;
    const struct standing *standing; /* of VERDICT_ADJUST; NULL: nothing stands, it was dismissed */
};

struct batch {
    struct billing *billing;
    struct book *book;
    struct arena arena;
    struct item *items;
    size_t n;
    int64_t received_ms;
    size_t pending;               /* parts under way */
    struct err err;               /* the first failure */
    bool is_malformed;            /* or refused unread */
    const struct store_op *extra; /* of a decision: in the commit that carries it out */
    size_t n_extra;
    billing_batch_cb cb;
    void *data;
};
/* A report that has come: `kept` is what its dialect kept of it. With refused->code set it is answered with
 * that. */
void batch_start(struct billing *b, const struct dialect *d, struct slice gateway, struct slice kept,
                 const struct err *refused, billing_batch_cb cb, void *data);
/* Posts one event that is here already, for an owner that is known. Everything it points to must live until
 * the answer. */
struct repost {
    const struct event *event;
    const struct billing_key_owner *owner; /* copied */
    const struct config_tenant *tenant;    /* of the billing's present book */
    enum verdict verdict;
    const struct standing *standing;
    const struct store_op *extra;
    size_t n_extra;
};
void batch_repost(struct billing *b, const struct repost *r, billing_batch_cb cb, void *data);
/* A part has ended; code 0 or why the whole batch must be sent again. */
void batch_part_done(struct batch *x, int code, const struct err *err);

/* Posts the tenant's items of the batch (ledger.c), then batch_part_done. */
void posting_start(struct batch *x, const struct config_tenant *tenant, struct item **items, size_t n);
/* Puts items without a tenant into the fleet's suspense (suspense.c), then batch_part_done. */
void fleet_suspend_start(struct batch *x, struct item **items, size_t n);
/* Marks as duplicates those items that a decision has settled in `fleet` (suspense.c), then `then`. */
void fleet_decided_start(struct batch *x, struct item **items, size_t n, void (*then)(struct batch *x));
/* Takes posted items out of the fleet's suspense (suspense.c), then batch_part_done. */
void fleet_resolve_start(struct batch *x, struct item **items, size_t n);

/* --- suspense records (suspense.c) --- */
struct suspense_count {
    struct slice counter; /* "budget/…/unsettled" */
    i128 amount;
};
struct suspense_record {
    const char *reason, *detail;
    int64_t received_ms;
    const struct event *event;
    const struct owner *owner; /* NULL: not attributed */
    const char *currency;
    bool has_amount;
    i128 amount;
    const struct suspense_count *counts; /* what it added to budgets, to be taken back when it is resolved */
    size_t n_counts;
};
struct slice suspense_write(struct arena *a, const struct suspense_record *r);
/* The reason and what it counted; slices in the arena. 0 or E_INVALID. */
int suspense_read(struct arena *a, struct slice record, struct slice *ret_reason, struct suspense_count **ret,
                  size_t *ret_n);
/* The members that entries and suspense records share: time, identity, model, call type, status… */
void event_write(struct jsonw *w, const struct event *e, const struct owner *o);
/* Back from such a text, with tokens or lines; slices in the arena. `ret_owner` (may be NULL) gets namespace,
 * workspace and user; empty when it has none. 0 or E_INVALID. */
int event_read(struct arena *a, const struct json *j, struct event *ret, struct billing_key_owner *ret_owner);

/* --- what became of an identity: the value of its deduplication record --- */
#define DEDUPE_DISMISSED   "dismissed"
#define DEDUPE_DECIDED_MAX 32 /* reports of one event that people decide about */
#define DEDUPE_MONTHS      14 /* kept a month longer than events are accepted */
#define DEDUPE_MS          (DEDUPE_MONTHS * INT64_C(31) * 86400 * 1000)
/* "1 <facts> <where> <facts>…": the facts that stand; the period they were posted in, in `fleet` the tenant's
 * id, or "dismissed"; and what was decided not to stand. */
struct dedupe {
    struct slice facts, where, decided; /* p NULL: there is no record */
};
struct dedupe dedupe_read(struct slice value);
bool dedupe_has(const struct dedupe *d,
                const char *facts);            /* settled: the same report again is a duplicate */
size_t dedupe_decided(const struct dedupe *d); /* how many */

/* --- the entry that stands (standing.c) --- */
/* Looks for it in the log of `period`, from its end; standing NULL with code 0: it is not there. The result
 * lives in the arena. */
typedef void (*standing_cb)(int code, const struct standing *s, const struct err *err, void *data);
void standing_find(struct billing *b, struct arena *a, struct slice tenant_id, struct slice period,
                   const struct event *like, standing_cb cb, void *data);

/* A suspense record's key as people and URLs have it (decision.c). */
void suspense_id_write(struct buf *out, struct slice key);
/* Goes on with decisions that a crash has broken off (decision.c). */
void decisions_resume(struct billing *b);

#endif
