/* budget: the configured limits with their windows, and the counters' picture in memory from which the gate
 * answers. */
#ifndef REEVE_BILLING_BUDGET_H
#define REEVE_BILLING_BUDGET_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "base/core/hash.h"
#include "base/core/i128.h"
#include "billing/zone.h"

#define BUDGETS_PER_TENANT_MAX   200 /* 100 of the file, and those set over the API */
#define NAME_BYTES_OF_BUDGET_MAX 100
#define MIRROR_ROWS_MAX          1000000
#define WINDOW_UNKNOWN           INT64_C(-1) /* as a window's end: only a row that is there takes the value */
#define INSTANCE_OF_TENANT       "-"         /* no namespace can be called that */

struct override_table;

/* One budget of one tenant. The window is the present one as of the last budget_turn. */
struct budget {
    struct tenant_budgets *of; /* who keeps it */
    const struct config_tenant *tenant;
    const struct config_budget *config; /* what is in force */
    const struct config_budget *file;   /* what the file says; NULL: not in it */
    bool is_override;                   /* `config` was set over the API */
    bool is_tenants;                    /* ... by the tenant itself */
    struct zone *zone;                  /* of the set */
    int64_t start_ms, end_ms;
    struct buf prefix; /* "<tenant id>/budget/<name>/<window>@<start>/" of that window */
};

/* Counted: the set lets go of it when a budget is set over the API; what is under way goes on with the one it
 * began with. Must not outlive the set. */
struct tenant_budgets {
    unsigned refs;
    const struct config_tenant *tenant;
    struct budget *items;
    size_t n;
    struct arena arena; /* what overrides say */
    UT_hash_handle hh;  /* by tenant id */
};
struct tenant_budgets *tenant_budgets_ref(struct tenant_budgets *t); /* NULL is fine */
void tenant_budgets_unref(struct tenant_budgets *t);                 /* NULL is fine */

/* The file's budget of that name; NULL: it has none. */
const struct config_budget *budget_of_file(const struct config_tenant *t, struct slice name);

struct budget_set;

/* Every budget of the tenancy, as overrides (NULL: none) alter it, windows as of now_ms. 0, or E_INVALID with
 * problems: an unknown time zone, a currency other than the prices' (NULL: any will do), too many. The
 * tenancy must outlive the set. An override that cannot be in force is left out, and logged. */
int budget_set_new(const struct tenancy *t, const struct override_table *overrides, const char *currency,
                   int64_t now_ms, struct config_problems *problems, struct budget_set **ret);
void budget_set_free(struct budget_set *s);
/* Makes a tenant's budgets anew, after its overrides changed. */
void budget_set_replace(struct budget_set *s, const struct config_tenant *tenant,
                        const struct override_table *overrides, int64_t now_ms);
struct tenant_budgets *budget_set_find(struct budget_set *s, struct slice tenant_id); /* NULL: it has none */
struct tenant_budgets *budget_set_first(struct budget_set *s);                        /* next: ->hh.next */

/* Moves to the window of now_ms; true when that is another one than before. */
bool budget_turn(struct budget *b, int64_t now_ms);
/* Appends the counter's key without its last part: "budget/<name>/<window>@<start>/<instance>/", for the
 * window that holds at_ms. Gives the end of that window. 0 or E_TOO_LARGE. */
int budget_counter(const struct budget *b, struct slice namespace, int64_t at_ms, struct buf *out,
                   int64_t *ret_end_ms);

/* --- mirror: what the store's counters say, as far as this process was told --- */

struct mirror_row {
    char *key; /* owned: "<tenant id>/budget/<name>/<window>@<start>/<instance>" */
    struct slice instance;
    i128 spent, unsettled;
    int64_t window_end_ms;
    uint64_t spent_at, unsettled_at; /* mirror.turn when a commit last said so */
    UT_hash_handle hh;
};

struct mirror {
    struct mirror_row *rows;
    uint64_t turn; /* grows with each commit's answer and each load's start */
    bool is_overfull;
};

/* Takes a counter's value ("budget/…/spent" or "…/unsettled") from a commit's answer, or, with loaded_since >
 * 0, from a load that began at that turn: what a commit has said since is newer, and stays. */
void mirror_set(struct mirror *m, struct slice tenant_id, struct slice counter, i128 value,
                int64_t window_end_ms, uint64_t loaded_since);
/* The row of a budget's present window; NULL: nothing was spent. */
struct mirror_row *mirror_find(struct mirror *m, const struct budget *b, struct slice namespace);
void mirror_drop_ended(struct mirror *m, int64_t now_ms);
void mirror_fini(struct mirror *m);

#endif
