/* units: sizes and money from the text people write, exactly or not at all.
 *
 * Happy path: number and unit are split, the number is read as an exact decimal, the product must be whole.
 * Failure paths: a missing or unknown unit, a fraction of a byte, more than 64 bits: an error code, never a
 * rounded value. */
#include "config/units.h"

#include <stdio.h>

#include "base/core/err.h"
#include "base/core/mem.h"

static const struct size_unit {
    const char *name;
    uint64_t bytes;
} size_units[] = {
    {"TiB", 1ull << 40},
    {"GiB", 1ull << 30},
    {"MiB", 1ull << 20},
    {"KiB", 1ull << 10},
    {"TB", 1000000000000ull},
    {"GB", 1000000000},
    {"MB", 1000000},
    {"kB", 1000},
    {"B", 1},
};

#define SIZE_FRACTION_DIGITS 6

int size_parse(struct slice s, uint64_t *ret_bytes)
{
    size_t n = 0;
    while (n < s.n && ((s.p[n] >= '0' && s.p[n] <= '9') || s.p[n] == '.'))
        n++;
    struct slice number = {s.p, n}, unit = slice_from(s, n);
    if (slice_starts(unit, SL(" ")))
        unit = slice_from(unit, 1);
    for (size_t i = 0; i < ARRAY_LEN(size_units); i++) {
        if (!slice_eq_str(unit, size_units[i].name))
            continue;
        i128 v, product;
        int r = i128_parse(number, SIZE_FRACTION_DIGITS, false, &v);
        if (r == 0)
            r = i128_mul(v, (i128)size_units[i].bytes, &product);
        if (r != 0)
            return r;
        if (product % 1000000 != 0)
            return E_INVALID;
        product /= 1000000;
        if (product > (i128)UINT64_MAX)
            return E_OVERFLOW;
        *ret_bytes = (uint64_t)product;
        return 0;
    }
    return E_INVALID;
}

size_t size_format(uint64_t bytes, char out[SIZE_TEXT_MAX])
{
    size_t i = 0;
    while (i < 4 && (bytes == 0 || bytes % size_units[i].bytes != 0))
        i++;
    const struct size_unit *u = &size_units[i < 4 ? i : ARRAY_LEN(size_units) - 1];
    int n = snprintf(out, SIZE_TEXT_MAX, "%llu%s", (unsigned long long)(bytes / u->bytes), u->name);
    must(n > 0 && n < SIZE_TEXT_MAX);
    return (size_t)n;
}

int money_parse(struct slice s, i128 *ret_amount, char ret_currency[4])
{
    struct slice number, currency = s;
    if (!slice_cut(&currency, ' ', &number) || currency.n != 3)
        return E_INVALID;
    for (size_t i = 0; i < 3; i++)
        if (currency.p[i] < 'A' || currency.p[i] > 'Z')
            return E_INVALID;
    i128 v;
    int r = i128_parse(number, 18, false, &v);
    if (r != 0)
        return r;
    *ret_amount = v;
    for (size_t i = 0; i < 3; i++)
        ret_currency[i] = currency.p[i];
    ret_currency[3] = '\0';
    return 0;
}
