/* price_number: see price_number.h.
 *
 * Binary floating point of 64 bits holds every decimal of up to 15 digits, and is printed with as few digits
 * as tell it apart from its neighbours, at most 17. So a text of more than 15 digits is either the result of
 * an arithmetic that lost its last bits, or a fraction that no decimal ends. Rounded to 15 digits the first
 * falls back to the few that were meant (2.9999900000000002e-06 to 2.99999e-06); the second does not, and is
 * left alone. Only digits are moved here; nothing is counted in floating point. */
#include "billing/price_number.h"

#include "base/core/err.h"
#include "base/core/mem.h"

#include <string.h>

#define DIGITS_MAX   64
#define DIGITS_SURE  15 /* what floating point keeps of any decimal */
#define DIGITS_MEANT 12 /* nobody quotes a price with more */
#define EXPONENT_MAX 1000
#define NUMBER_SCALE 18

/* digits × 10^power, no zeros at either end; n 0 is zero. */
struct decimal {
    char digits[DIGITS_MAX]; /* values, not characters */
    size_t n;
    int power;
};

static void trim(struct decimal *d)
{
    while (d->n > 0 && d->digits[d->n - 1] == 0) {
        d->n--;
        d->power++;
    }
}

/* The part behind 'e', clamped: beyond the clamp every result is the same. */
static int exponent_read(struct slice s, int *ret)
{
    bool is_negative = s.n > 0 && s.p[0] == '-';
    size_t at = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+');
    int v = 0;
    if (at == s.n)
        return E_INVALID;
    for (; at < s.n; at++) {
        if (s.p[at] < '0' || s.p[at] > '9')
            return E_INVALID;
        if (v < EXPONENT_MAX)
            v = v * 10 + (s.p[at] - '0');
    }
    *ret = is_negative ? -v : v;
    return 0;
}

static int decimal_read(struct slice s, struct decimal *d)
{
    bool has_point = false, has_digit = false;
    size_t at = 0;
    *d = (struct decimal){.n = 0};
    for (; at < s.n && s.p[at] != 'e' && s.p[at] != 'E'; at++) {
        if (s.p[at] == '.' && !has_point) {
            has_point = true;
            continue;
        }
        if (s.p[at] < '0' || s.p[at] > '9')
            return E_INVALID;
        has_digit = true;
        if (has_point)
            d->power--;
        if (d->n == 0 && s.p[at] == '0')
            continue;
        if (d->n == DIGITS_MAX)
            return E_OVERFLOW;
        d->digits[d->n++] = (char)(s.p[at] - '0');
    }
    int exponent = 0;
    if (!has_digit || (at < s.n && exponent_read(slice_from(s, at + 1), &exponent) != 0))
        return E_INVALID;
    d->power += exponent;
    trim(d);
    return 0;
}

/* Keeps the first n digits, half-even. May leave none: the whole was less than half. */
static void round_to(struct decimal *d, size_t n)
{
    if (n >= d->n)
        return;
    size_t rest = d->n - n;
    bool is_up =
        d->digits[n] > 5 || (d->digits[n] == 5 && (rest > 1 || (n > 0 && d->digits[n - 1] % 2 != 0)));
    d->power += (int)rest;
    d->n = n;
    while (is_up && d->n > 0) {
        is_up = d->digits[d->n - 1] == 9;
        if (is_up) {
            d->n--; /* becomes a zero at the end */
            d->power++;
        } else {
            d->digits[d->n - 1]++;
        }
    }
    if (is_up) /* 9.99 to 10 */
        d->digits[d->n++] = 1;
    trim(d);
}

static int units_of(const struct decimal *d, i128 *ret)
{
    i128 v = 0;
    int zeros = d->power + NUMBER_SCALE;
    must(d->n == 0 || zeros >= 0);
    for (size_t i = 0; i < d->n; i++)
        if (i128_mul(v, 10, &v) != 0 || i128_add(v, d->digits[i], &v) != 0)
            return E_OVERFLOW;
    for (int i = 0; i < zeros && d->n > 0; i++)
        if (i128_mul(v, 10, &v) != 0)
            return E_OVERFLOW;
    *ret = v;
    return 0;
}

int price_number_read(struct slice text, i128 *ret, enum number_fate *ret_fate)
{
    struct decimal d, mended;
    enum number_fate fate = NUMBER_EXACT;
    int rc = decimal_read(text, &d);
    if (rc != 0)
        return rc;
    if (d.n > DIGITS_SURE) {
        mended = d;
        round_to(&mended, DIGITS_SURE);
        if (mended.n <= DIGITS_MEANT) {
            d = mended;
            fate = NUMBER_MENDED;
        }
    }
    if (d.n > 0 && d.power < -NUMBER_SCALE) {
        int drop = -NUMBER_SCALE - d.power;
        if (drop > (int)d.n)
            return E_INVALID; /* nothing would be left of it */
        round_to(&d, d.n - (size_t)drop);
        if (d.n == 0)
            return E_INVALID;
        fate = NUMBER_ROUNDED;
    }
    rc = units_of(&d, ret);
    if (rc == 0)
        *ret_fate = fate;
    return rc;
}
