/* amount: exact money. A signed 128-bit count of 1e-18 currency units. Overflow is an error, never a wrap. */
#ifndef REEVE_BILLING_AMOUNT_H
#define REEVE_BILLING_AMOUNT_H

#include "base/core/err.h"
#include "base/core/i128.h"
#include "base/core/json.h"

#define AMOUNT_SCALE 18

struct amount {
    i128 v;
    char currency[4]; /* ISO 4217 letters, NUL-terminated */
};

int amount_of(struct slice decimal, struct slice currency, struct amount *ret, struct err *err);
int amount_add(struct amount a, struct amount b,
               struct amount *ret); /* E_INVALID for two currencies, E_OVERFLOW */
int amount_sub(struct amount a, struct amount b, struct amount *ret);
int amount_times(struct amount unit, uint64_t quantity, struct amount *ret);
int amount_cmp(struct amount a, struct amount b);               /* same currency: an assertion */
size_t amount_format(struct amount a, char out[I128_TEXT_MAX]); /* the number alone */
void jsonw_amount(struct jsonw *w, const char *key,
                  struct amount a); /* {"amount":"12.345","currency":"USD"} */

#endif
