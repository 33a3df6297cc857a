/* price: the price file as exact amounts per token. */
#ifndef REEVE_BILLING_PRICE_H
#define REEVE_BILLING_PRICE_H

#include "billing/amount.h"
#include "config/tenancy.h"

/* What tokens are counted as. The names are those of events, price files, queries and exports. */
enum token_kind { TOKENS_INPUT, TOKENS_OUTPUT, TOKENS_CACHE_READ, TOKENS_CACHE_WRITE, TOKEN_KINDS };
extern const char *const token_kind_names[TOKEN_KINDS];

#define PRICE_MODELS_MAX   20000
#define MODEL_NAME_MAX     200 /* bytes */
#define PRICE_FRACTION_MAX 12  /* digits after the point, per million tokens: 1e-18 per token is exact */
#define PRICE_VERSION_MAX  64

struct price_model {
    i128 unit[TOKEN_KINDS]; /* 1e-18 currency units per token */
    bool has[TOKEN_KINDS];
};

struct price_table;

/* Reads tenancy->prices.root. No price file gives an empty table: everything is unpriced. 0, or E_INVALID
 * with every problem of the file added. */
int price_table_new(const struct tenancy *t, struct config_problems *problems, struct price_table **ret);
void price_table_free(struct price_table *p);                                          /* NULL is fine */
const struct price_model *price_find(const struct price_table *p, struct slice model); /* NULL: unpriced */
const char *price_currency(const struct price_table *p); /* "USD" for an empty table */
struct slice price_version(const struct price_table *p); /* "" for an empty table */
bool price_is_given(const struct price_table *p);        /* false: there is no price file */

#endif
