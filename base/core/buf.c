/* buf: growth by doubling up to a maximum that was given at birth.
 *
 * An append either goes in whole or not at all; the first that does not fit marks the buf full, and every
 * later append is refused too until buf_reset, so that a writer may check once at the end. */
#include "base/core/buf.h"

#include <stdio.h>
#include <string.h>

#include "base/core/err.h"
#include "base/core/mem.h"

enum { BUF_CAP_FIRST = 64 };

void buf_init(struct buf *b, size_t max)
{
    *b = BUF_INIT(max);
}

void buf_fini(struct buf *b)
{
    mem_free(b->p);
    *b = BUF_INIT(b->max);
}

void buf_wipe(struct buf *b)
{
    if (b->p != NULL)
        mem_wipe(b->p, b->cap);
    buf_fini(b);
}

void buf_reset(struct buf *b)
{
    b->n = 0;
    b->is_full = false;
    if (b->p != NULL)
        b->p[0] = '\0';
}

int buf_reserve(struct buf *b, size_t n)
{
    size_t need, cap;

    if (b->is_full)
        return E_TOO_LARGE;
    if (n > b->max - b->n) {
        b->is_full = true;
        return E_TOO_LARGE;
    }
    must(b->n + n < SIZE_MAX);
    need = b->n + n + 1;
    if (need <= b->cap)
        return 0;
    cap = b->cap < BUF_CAP_FIRST ? BUF_CAP_FIRST : b->cap;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    if (b->max < SIZE_MAX && cap > b->max + 1)
        cap = b->max + 1;
    b->p = mem_realloc(b->p, cap);
    b->cap = cap;
    b->p[b->n] = '\0';
    return 0;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
    int rc = buf_reserve(b, n);

    if (rc != 0)
        return rc;
    if (n > 0)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
    return 0;
}

int buf_slice(struct buf *b, struct slice s)
{
    return buf_append(b, s.p, s.n);
}

int buf_str(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

int buf_byte(struct buf *b, char c)
{
    return buf_append(b, &c, 1);
}

int buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    char small[256];
    va_list again;
    int n, rc;

    va_copy(again, ap);
    n = vsnprintf(small, sizeof(small), fmt, ap);
    must(n >= 0);
    if ((size_t)n < sizeof(small)) {
        rc = buf_append(b, small, (size_t)n);
    } else {
        rc = buf_reserve(b, (size_t)n);
        if (rc == 0) {
            must(vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again) == n);
            b->n += (size_t)n;
        }
    }
    va_end(again);
    return rc;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int rc;

    va_start(ap, fmt);
    rc = buf_vprintf(b, fmt, ap);
    va_end(ap);
    return rc;
}

void buf_consume(struct buf *b, size_t n)
{
    must(n <= b->n);
    if (n == 0)
        return;
    b->n -= n;
    memmove(b->p, b->p + n, b->n);
    b->p[b->n] = '\0';
}

struct slice buf_view(const struct buf *b)
{
    return b->p == NULL ? SLICE_EMPTY : (struct slice){b->p, b->n};
}

const char *buf_cstr(struct buf *b)
{
    if (b->p == NULL)
        return "";
    b->p[b->n] = '\0'; /* after a reserve the caller may have moved n by himself */
    return b->p;
}

char *buf_take(struct buf *b, size_t *ret_n)
{
    char *p = b->p == NULL ? mem_zalloc(1) : b->p;

    p[b->n] = '\0';
    if (ret_n != NULL)
        *ret_n = b->n;
    *b = BUF_INIT(b->max);
    return p;
}
