/* units: exact numbers with a unit, as people write them. Durations: duration_parse in base/core/clock.h. */
#ifndef REEVE_CONFIG_UNITS_H
#define REEVE_CONFIG_UNITS_H

#include "base/core/i128.h"
#include "base/core/slice.h"

/* "4GiB", "512MiB", "1.5GiB", "10GB", "4096B": KiB MiB GiB TiB count by 1024, kB MB GB TB by 1000. A fraction
 * must give whole bytes. 0, E_INVALID or E_OVERFLOW. */
int size_parse(struct slice s, uint64_t *ret_bytes);

/* "500 USD": a decimal of at most 18 fraction digits, one space, three capital letters. *ret_amount counts
 * 1e-18. */
int money_parse(struct slice s, i128 *ret_amount, char ret_currency[4]);

/* A size in the largest unit that holds it exactly: "4GiB". Returns the length. */
#define SIZE_TEXT_MAX 32
size_t size_format(uint64_t bytes, char out[SIZE_TEXT_MAX]);

#endif
