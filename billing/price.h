/* price: price files as exact amounts per token, and the row that a model's name leads to. */
#ifndef REEVE_BILLING_PRICE_H
#define REEVE_BILLING_PRICE_H

#include "billing/amount.h"
#include "config/tenancy.h"

/* What tokens are counted as. The names are those of events, price files, queries and exports. */
enum token_kind { TOKENS_INPUT, TOKENS_OUTPUT, TOKENS_CACHE_READ, TOKENS_CACHE_WRITE, TOKEN_KINDS };
extern const char *const token_kind_names[TOKEN_KINDS];

#define PRICE_MODELS_MAX        20000 /* in one file */
#define PRICE_GROUPS_MAX        2000  /* in one file */
#define PRICE_GROUP_MEMBERS_MAX 100
#define PRICE_TIERS_MAX         8
#define MODEL_NAME_MAX          200 /* bytes */
#define PROVIDER_NAME_MAX       64
#define PRICE_FRACTION_MAX      12 /* digits after the point, per million tokens: 1e-18 per token is exact */
#define PRICE_VERSION_MAX       64
#define PRICE_FACTOR_SCALE      6 /* digits after a factor's point */
#define PRICE_FACTOR_MAX        1000

struct price_rates {
    i128 unit[TOKEN_KINDS];   /* 1e-18 currency units per token, the file's factor folded in */
    i128 listed[TOKEN_KINDS]; /* the same as the file says it, before the factor */
    bool has[TOKEN_KINDS];
};

/* The rates of calls whose prompt (input, cache_read and cache_write together) has more than `above` tokens.
 */
struct price_tier {
    uint64_t above;
    struct price_rates rates;
};

struct price_model {
    struct slice name;     /* the row's, or the group's */
    struct slice provider; /* whose calls alone it prices; "": everybody's */
    struct slice version;  /* of the file that it stands in */
    i128 factor;           /* of that file, in 1e-6; of a group 1: its members' factors are folded in */
    bool is_group;         /* made of its members' dearest rates */
    size_t n_tiers;        /* at least one; ascending, the first one from 0 */
    struct price_tier tiers[PRICE_TIERS_MAX];
};

/* A model's name as it is known: to a caller only one name, to LiteLLM three. What was not said is empty. */
struct price_query {
    struct slice model;    /* "openai/gpt-4o" */
    struct slice group;    /* the name that the caller used: LiteLLM's model_group */
    struct slice provider; /* LiteLLM's custom_llm_provider */
};

struct price_table;

/* Reads the files, of which it keeps nothing. No price file gives an empty table: everything is unpriced. 0,
 * or E_INVALID with every problem of the files added. */
int price_table_new(const struct config_prices *prices, struct config_problems *problems,
                    struct price_table **ret);
void price_table_free(struct price_table *p); /* NULL is fine */

/* What prices the model, by the precedence of docs/prices.md; NULL: unpriced. *ret_how (may be NULL) says in
 * words which name matched. Never the cheaper of two: each step has one name that it looks for. */
const struct price_model *price_find(const struct price_table *p, const struct price_query *q,
                                     const char **ret_how);
/* The rates that hold for a call of so many tokens. */
const struct price_rates *price_rates(const struct price_model *m, const uint64_t tokens[TOKEN_KINDS]);
/* What folding the factor in has rounded off: exact price less unit price, in 1e-24. */
i128 price_residue(const struct price_model *m, const struct price_rates *r, enum token_kind kind);

const char *price_currency(const struct price_table *p); /* "USD" for an empty table */
struct slice price_version(const struct price_table *p); /* of the first file; "" for an empty table */
bool price_is_given(const struct price_table *p);        /* false: there is no price file */
size_t price_count(const struct price_table *p);         /* rows, groups not counted */

#endif
