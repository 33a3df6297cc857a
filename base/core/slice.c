/* slice: looking at bytes without owning them. Pure functions; nothing here allocates. NULL views (p == NULL)
 * have n == 0 and behave as empty ones, so memcmp and friends are never handed NULL. */
#include "base/core/slice.h"

#include <string.h>

#include "base/core/err.h"

struct slice slice_str(const char *s)
{
    return s == NULL ? SLICE_NULL : (struct slice){s, strlen(s)};
}

bool slice_eq(struct slice a, struct slice b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool slice_eq_str(struct slice a, const char *s)
{
    return slice_eq(a, slice_str(s));
}

static unsigned char ascii_lower(char c)
{
    return (unsigned char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
}

bool slice_ieq(struct slice a, struct slice b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}

bool slice_ieq_str(struct slice a, const char *s)
{
    return slice_ieq(a, slice_str(s));
}

int slice_cmp(struct slice a, struct slice b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n == 0 ? 0 : memcmp(a.p, b.p, n);

    if (c != 0)
        return c < 0 ? -1 : 1;
    return a.n < b.n ? -1 : a.n > b.n;
}

bool slice_starts(struct slice s, struct slice prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

bool slice_ends(struct slice s, struct slice suffix)
{
    return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

struct slice slice_from(struct slice s, size_t at)
{
    if (at == 0 || s.n == 0)
        return s;
    if (at > s.n)
        at = s.n;
    return (struct slice){s.p + at, s.n - at};
}

struct slice slice_trim(struct slice s)
{
    while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t')) {
        s.p++;
        s.n--;
    }
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

size_t slice_find(struct slice s, char c)
{
    const char *at = s.n == 0 ? NULL : memchr(s.p, c, s.n);

    return at == NULL ? SIZE_MAX : (size_t)(at - s.p);
}

bool slice_cut(struct slice *s, char sep, struct slice *ret_head)
{
    size_t at = slice_find(*s, sep);

    if (at == SIZE_MAX) {
        *ret_head = *s;
        *s = slice_from(*s, s->n);
        return false;
    }
    *ret_head = (struct slice){s->p, at};
    *s = slice_from(*s, at + 1);
    return true;
}

int slice_u64(struct slice s, uint64_t *ret)
{
    uint64_t v = 0;
    bool is_over = false;

    if (s.n == 0 || (s.n > 1 && s.p[0] == '0'))
        return E_INVALID;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return E_INVALID;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
            is_over = true; /* read on: "99999999999999999999x" is invalid, not too large */
    }
    if (is_over)
        return E_OVERFLOW;
    *ret = v;
    return 0;
}

int slice_i64(struct slice s, int64_t *ret)
{
    bool is_negative = s.n > 0 && s.p[0] == '-';
    uint64_t v;
    int rc = slice_u64(is_negative ? slice_from(s, 1) : s, &v);

    if (rc != 0)
        return rc;
    if (v > (uint64_t)INT64_MAX + (is_negative ? 1 : 0))
        return E_OVERFLOW;
    if (is_negative)
        *ret = v == 0 ? 0 : -(int64_t)(v - 1) - 1;
    else
        *ret = (int64_t)v;
    return 0;
}

/* Length of the well-formed character at p, or 0 (Unicode 15, table 3-7). */
static size_t utf8_char_bytes(const unsigned char *p, size_t n)
{
    unsigned char lo = 0x80, hi = 0xbf; /* what the second byte may be */
    size_t len;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n < len)
        return 0;
    if (p[0] == 0xe0)
        lo = 0xa0;
    else if (p[0] == 0xed)
        hi = 0x9f;
    else if (p[0] == 0xf0)
        lo = 0x90;
    else if (p[0] == 0xf4)
        hi = 0x8f;
    if (p[1] < lo || p[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

size_t slice_utf8_prefix(struct slice s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t at = 0;

    while (at < s.n) {
        size_t len;

        if (p[at] < 0x80) {
            at++;
            continue;
        }
        len = utf8_char_bytes(p + at, s.n - at);
        if (len == 0)
            break;
        at += len;
    }
    return at;
}

bool slice_is_utf8(struct slice s)
{
    return slice_utf8_prefix(s) == s.n;
}
