/* i128: checked arithmetic, exact decimal text, and the stored form.
 *
 * The text parser gathers the significant digits and the power of ten apart, so that "7.5e-08" and
 * "0.000000075" are the same number and no step rounds. Values are built with a negative sign as they stand:
 * I128_MIN is reachable, and nothing relies on wrap-around. */
#include "base/core/i128.h"

#include <string.h>

#include "base/core/err.h"
#include "base/core/mem.h"

int i128_add(i128 a, i128 b, i128 *ret)
{
    i128 v;

    if (__builtin_add_overflow(a, b, &v))
        return E_OVERFLOW;
    *ret = v;
    return 0;
}

int i128_sub(i128 a, i128 b, i128 *ret)
{
    i128 v;

    if (__builtin_sub_overflow(a, b, &v))
        return E_OVERFLOW;
    *ret = v;
    return 0;
}

int i128_mul(i128 a, i128 b, i128 *ret)
{
    i128 v;

    if (__builtin_mul_overflow(a, b, &v))
        return E_OVERFLOW;
    *ret = v;
    return 0;
}

static size_t digits_at(struct slice s, size_t at)
{
    size_t n = 0;

    while (at + n < s.n && s.p[at + n] >= '0' && s.p[at + n] <= '9')
        n++;
    return n;
}

/* Reads the exponent behind 'e'. Large ones are clamped: beyond the clamp every result is the same. */
static int exponent_parse(struct slice s, int64_t *ret)
{
    bool is_negative = s.n > 0 && s.p[0] == '-';
    size_t at = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+');
    size_t n = digits_at(s, at);
    int64_t v = 0;

    if (n == 0 || at + n != s.n)
        return E_INVALID;
    for (size_t i = 0; i < n; i++)
        if (v < INT64_C(1) << 40)
            v = v * 10 + (s.p[at + i] - '0');
    *ret = is_negative ? -v : v;
    return 0;
}

/* v = v * 10 - digit: downwards, because the negative side has one value more. */
static bool push_digit(i128 *v, int digit)
{
    return !__builtin_mul_overflow(*v, (i128)10, v) && !__builtin_sub_overflow(*v, (i128)digit, v);
}

int i128_parse(struct slice s, unsigned scale, bool exponent_ok, i128 *ret)
{
    bool is_negative = s.n > 0 && s.p[0] == '-';
    struct slice whole, fraction = SLICE_EMPTY;
    int64_t exponent = 0, power;
    size_t at = is_negative;
    i128 v = 0;

    if (s.n == at)
        return E_INVALID;
    whole = (struct slice){s.p + at, digits_at(s, at)};
    at += whole.n;
    if (whole.n == 0 || (whole.n > 1 && whole.p[0] == '0'))
        return E_INVALID;
    if (at < s.n && s.p[at] == '.') {
        at++;
        fraction = (struct slice){s.p + at, digits_at(s, at)};
        at += fraction.n;
        if (fraction.n == 0)
            return E_INVALID;
    }
    if (at < s.n && exponent_ok && (s.p[at] == 'e' || s.p[at] == 'E')) {
        if (exponent_parse(slice_from(s, at + 1), &exponent) != 0)
            return E_INVALID;
        at = s.n;
    }
    if (at != s.n)
        return E_INVALID;

    /* The value is whole·fraction (one run of digits) times 10^power. Zeros at the end are taken off, so that
     * what is left below the unit is truly a fraction that does not fit. */
    while (fraction.n > 0 && fraction.p[fraction.n - 1] == '0')
        fraction.n--;
    power = exponent + (int64_t)scale - (int64_t)fraction.n;
    if (fraction.n == 0)
        while (whole.n > 0 && whole.p[whole.n - 1] == '0') {
            whole.n--;
            power++;
        }
    if (whole.n == 0) {
        *ret = 0;
        return 0;
    }
    if (power < 0)
        return E_INVALID;
    for (size_t i = 0; i < whole.n + fraction.n; i++)
        if (!push_digit(&v, (i < whole.n ? whole.p[i] : fraction.p[i - whole.n]) - '0'))
            return E_OVERFLOW;
    for (; power > 0; power--)
        if (!push_digit(&v, 0))
            return E_OVERFLOW;
    if (!is_negative && v == I128_MIN)
        return E_OVERFLOW;
    *ret = is_negative ? v : -v;
    return 0;
}

size_t i128_format(i128 v, unsigned scale, char out[I128_TEXT_MAX])
{
    u128 u = v < 0 ? (u128)0 - (u128)v : (u128)v;
    char digits[I128_TEXT_MAX]; /* least first */
    size_t n = 0, len = 0, skip = 0;

    must(scale <= 38);
    do {
        digits[n++] = (char)('0' + (int)(u % 10));
        u /= 10;
    } while (u != 0);
    while (n <= scale)
        digits[n++] = '0';
    while (skip < scale && digits[skip] == '0')
        skip++;
    if (v < 0)
        out[len++] = '-';
    for (size_t i = n; i > skip; i--) {
        if (i == scale)
            out[len++] = '.';
        out[len++] = digits[i - 1];
    }
    out[len] = '\0';
    return len;
}

void i128_store(i128 v, unsigned char out[16])
{
    u128 u = (u128)v;

    for (int i = 0; i < 16; i++) {
        out[i] = (unsigned char)(u & 0xff);
        u >>= 8;
    }
}

i128 i128_load(const unsigned char in[16])
{
    u128 u = 0;

    for (int i = 15; i >= 0; i--)
        u = u << 8 | in[i];
    return (i128)u;
}
