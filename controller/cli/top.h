/* top: what `reeve top` knows at one moment (top_read.c) and how that looks (top_view.c). */
#ifndef REEVE_CONTROLLER_CLI_TOP_H
#define REEVE_CONTROLLER_CLI_TOP_H

#include "base/core/arena.h"
#include "base/core/i128.h"
#include "controller/cli/command.h"

#define TOP_TENANTS_MAX    1000
#define TOP_WORKSPACES_MAX 10000 /* of all tenants together; more are said, not shown */
#define TOP_BUDGETS_MAX    1000

struct top_workspace {
    struct slice tenant, id, namespace, name, state, provider, reason;
    i128 today, month; /* 1e-18, UTC */
    bool is_spending;  /* more than in the snapshot before */
};

struct top_budget {
    struct slice tenant, name, resets_at;
    i128 limit, spent, unsettled;
    bool is_spending;
};

struct top_tenant {
    struct slice name;
    size_t ready, suspended, failed, others;
    i128 today, month;
    bool is_spending;
};

struct top_snapshot {
    struct arena arena;
    struct top_tenant *tenants;
    struct top_workspace *workspaces;
    struct top_budget *budgets;
    size_t n_tenants, n_workspaces, n_budgets;
    bool is_fleet;    /* every tenant's, not one's */
    bool is_cut;      /* there are more than the limits */
    char currency[4]; /* "" while nothing says one */
    int64_t at_ms;    /* wall clock */
};

/* Asks the controller. `should_stop` (may be NULL) is asked while waiting. EXIT_DONE, or another exit code
 * with *err; E_CANCELLED in it after should_stop. */
int top_read(struct top_snapshot *ret, bool (*should_stop)(void *data), void *data, struct err *err);
void top_snapshot_fini(struct top_snapshot *s);
/* Marks what has grown since `before`. */
void top_compare(struct top_snapshot *s, const struct top_snapshot *before);

enum top_order { TOP_BY_SPEND, TOP_BY_NAME, TOP_BY_STATE, TOP_ORDERS };
extern const char *const top_order_names[TOP_ORDERS];
void top_sort(struct top_snapshot *s, enum top_order order);

/* --- how it looks --- */
struct top_screen {
    size_t columns, rows; /* of the terminal; rows 0: as long as it needs, and no escape sequences */
    size_t first;         /* workspace at the top of the list */
    size_t first_max;     /* the last one that may be: set by top_draw */
    enum top_order order;
    const char *message; /* NULL, or what is wrong at the moment */
};
/* One frame; sets screen->first_max and clamps screen->first. */
void top_draw(const struct top_snapshot *s, struct top_screen *screen, struct buf *out);
void top_json(const struct top_snapshot *s, struct buf *out);

#endif
