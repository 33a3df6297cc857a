/* amount: exact money, see amount.h.
 *
 * Happy path: decimal text becomes an integer count of 1e-18 units, all arithmetic is on integers, and text
 * comes out again without loss. Failure paths: text that is not exactly representable, two currencies in one
 * sum, and every overflow are refused with a code; nothing is rounded, clamped or wrapped. */
#include "billing/amount.h"

#include <string.h>

#include "base/core/mem.h"

static bool currency_is_valid(struct slice s)
{
    if (s.n != 3)
        return false;
    for (size_t i = 0; i < 3; i++) {
        if (s.p[i] < 'A' || s.p[i] > 'Z')
            return false;
    }
    return true;
}

int amount_of(struct slice decimal, struct slice currency, struct amount *ret, struct err *err)
{
    if (!currency_is_valid(currency))
        return err_set(err, E_INVALID, "currency: expected three capital letters such as USD, found `%.*s`",
                       (int)(currency.n < 16 ? currency.n : 16), currency.n > 0 ? currency.p : "");
    struct amount a = {0, {0}};
    int rc = i128_parse(decimal, AMOUNT_SCALE, false, &a.v);
    if (rc == E_OVERFLOW)
        return err_set(err, E_OVERFLOW, "amount: too large");
    if (rc != 0)
        return err_set(err, rc, "amount: expected a decimal number with at most %d digits after the point",
                       AMOUNT_SCALE);
    memcpy(a.currency, currency.p, 3);
    *ret = a;
    return 0;
}

static bool same_currency(struct amount a, struct amount b)
{
    return memcmp(a.currency, b.currency, sizeof(a.currency)) == 0;
}

int amount_add(struct amount a, struct amount b, struct amount *ret)
{
    if (!same_currency(a, b))
        return E_INVALID;
    struct amount sum = a;
    int rc = i128_add(a.v, b.v, &sum.v);
    if (rc == 0)
        *ret = sum;
    return rc;
}

int amount_sub(struct amount a, struct amount b, struct amount *ret)
{
    if (!same_currency(a, b))
        return E_INVALID;
    struct amount difference = a;
    int rc = i128_sub(a.v, b.v, &difference.v);
    if (rc == 0)
        *ret = difference;
    return rc;
}

int amount_times(struct amount unit, uint64_t quantity, struct amount *ret)
{
    struct amount product = unit;
    int rc = i128_mul(unit.v, (i128)quantity, &product.v);
    if (rc == 0)
        *ret = product;
    return rc;
}

int amount_cmp(struct amount a, struct amount b)
{
    must(same_currency(a, b));
    return a.v < b.v ? -1 : a.v > b.v;
}

size_t amount_format(struct amount a, char out[I128_TEXT_MAX])
{
    return i128_format(a.v, AMOUNT_SCALE, out);
}

void jsonw_amount(struct jsonw *w, const char *key, struct amount a)
{
    char text[I128_TEXT_MAX];
    size_t n = amount_format(a, text);
    jsonw_key(w, key);
    jsonw_object(w);
    jsonw_kslice(w, "amount", slice_of(text, n));
    jsonw_kstr(w, "currency", a.currency);
    jsonw_object_end(w);
}
