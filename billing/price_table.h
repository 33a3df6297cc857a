/* price_table: what the reader of price files fills and price.c searches. Nobody else includes this. */
#ifndef REEVE_BILLING_PRICE_TABLE_H
#define REEVE_BILLING_PRICE_TABLE_H

#include "base/core/arena.h"
#include "base/core/hash.h"
#include "billing/price.h"

struct price_row {
    struct price_model model;
    UT_hash_handle hh; /* by model.name */
};

struct price_table {
    struct arena arena;
    char currency[4];
    struct slice version;
    bool is_given;
    struct price_row *rows, *groups;
};

struct price_row *price_row_find(struct price_row *rows, struct slice name);

/* Adds the files' rows, the first file that has a name winning, then their groups (price_file.c). 0, or
 * E_INVALID with the problems added. */
int price_files_read(struct price_table *p, const struct config_prices *prices,
                     struct config_problems *problems);

#endif
