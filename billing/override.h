/* override: budgets set over the API: what the operator or the tenant itself wants in place of, or in
 * addition to, what the file says. A record in the tenant's partition for each, and the table of those in
 * memory. */
#ifndef REEVE_BILLING_OVERRIDE_H
#define REEVE_BILLING_OVERRIDE_H

#include "base/core/arena.h"
#include "base/core/crypto.h"
#include "base/core/err.h"
#include "base/core/hash.h"
#include "config/tenancy.h"

#define OVERRIDE_PREFIX  "override/" /* + the budget's name */
#define OVERRIDE_COUNTER "overrides" /* how many there are: bounded */
#define OVERRIDES_MAX    100         /* of one tenant */

/* One side's word about one budget. */
struct override_layer {
    bool is_set;
    struct config_budget budget;
    int64_t set_at_ms;
    struct slice actor;
};

/* The tenant's word can only be lower than the operator's (or the file's), or about a budget of its own. */
struct override {
    struct slice name;
    uint64_t version;           /* of the record; 0: it is gone */
    uint64_t said_at;           /* the table's turn when a commit last said so; 0: a load did */
    char file[SHA256_HEX_SIZE]; /* fingerprint of the file's budget when it was set: with another one there,
                                   this override has no force */
    struct override_layer operators, tenants;
    struct arena arena; /* its texts */
    struct override *next;
};

/* Fingerprint of what the file says of a budget; NULL: that it says nothing. */
void override_fingerprint(const struct config_budget *file, char out[SHA256_HEX_SIZE]);
/* What is in force, texts in the arena. False: the override has no force. */
bool override_apply(struct arena *a, const struct override *o, const struct config_budget *file,
                    struct config_budget *ret, bool *ret_is_tenants);
bool override_is_stale(const struct override *o, const struct config_budget *file);

/* The record, in the arena. */
struct slice override_write(struct arena *a, const struct override *o);
/* 0 and an override of its own, or E_INVALID. */
int override_parse(struct slice value, struct override **ret);
/* That there is none, said as an override of version 0. */
struct override *override_gone(struct slice name);
void override_free(struct override *o); /* NULL is fine */

/* What somebody asks for. Texts that are SLICE_NULL were not given: they stay as they are. */
struct override_wish {
    bool is_fleet; /* the operator; else an owner of the tenant */
    bool is_delete;
    struct slice name, limit, scope, window, timezone, at_limit; /* as the file has them */
    struct slice actor;
};
/* Makes of what is in the store (NULL: nothing) what is to be there: *ret, or *ret NULL for nothing. 0;
 * E_INVALID, E_FORBIDDEN, E_NOT_FOUND or E_CONFLICT with a sentence that names the field. `currency` NULL:
 * any. */
int override_change(const struct override *old, const struct config_budget *file,
                    const struct override_wish *wish, const char *currency, int64_t now_ms,
                    struct override **ret, struct err *err);
/* Do they say the same, whoever said it and when? NULL: nothing. */
bool override_same(const struct override *a, const struct override *b);

/* --- those in memory --- */

struct override_tenant {
    char id[16];
    struct override *items; /* by name */
    UT_hash_handle hh;
};
struct override_table {
    struct override_tenant *tenants;
    uint64_t turn; /* grows with each commit's answer and each load's start */
};
/* All of these accept a NULL table. */
const struct override *override_first(const struct override_table *t, const char *tenant_id);
static inline const struct override *override_next(const struct override *o)
{
    return o->next;
}
const struct override *override_find(const struct override_table *t, const char *tenant_id,
                                     struct slice name);
/* Takes `o` (owned from here on) in place of the one of that name; true when that is a change. */
bool override_put(struct override_table *t, const char *tenant_id, struct override *o);
/* Takes those away that a load begun at `since` did not find; true when there were some. `found` are their
 * names, in order. */
bool override_retain(struct override_table *t, const char *tenant_id, const struct slice *found, size_t n,
                     uint64_t since);
void override_table_fini(struct override_table *t);

#endif
