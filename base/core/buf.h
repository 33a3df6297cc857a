/* buf: bytes that grow, with a maximum from birth. Reaching it is an error, sticky until buf_reset. */
#ifndef REEVE_BASE_CORE_BUF_H
#define REEVE_BASE_CORE_BUF_H

#include "base/core/slice.h"

#include <stdarg.h>

struct buf {
    char *p;      /* owned; NULL while nothing was written; always followed by a NUL when not NULL */
    size_t n;     /* bytes in use */
    size_t cap;   /* bytes allocated, the NUL included */
    size_t max;   /* most bytes that n may reach */
    bool is_full; /* an append did not fit: the content is incomplete */
};

#define BUF_INIT(max_bytes) ((struct buf){NULL, 0, 0, (max_bytes), false})

void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);  /* frees; the buf is empty and usable again */
void buf_wipe(struct buf *b);  /* as buf_fini, for secrets; growing leaves copies behind, so reserve first */
void buf_reset(struct buf *b); /* n = 0, keeps memory */
/* Appends: 0 or E_TOO_LARGE (nothing of that append is in). */
int buf_append(struct buf *b, const void *p, size_t n);
int buf_slice(struct buf *b, struct slice s);
int buf_str(struct buf *b, const char *s);
int buf_byte(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_vprintf(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
/* Room for n more bytes to write at b->p + b->n (then add to b->n); 0 or E_TOO_LARGE. */
int buf_reserve(struct buf *b, size_t n);
void buf_consume(struct buf *b, size_t n);    /* drops n bytes at the front */
struct slice buf_view(const struct buf *b);   /* valid until the next change */
const char *buf_cstr(struct buf *b);          /* "" when empty */
char *buf_take(struct buf *b, size_t *ret_n); /* the memory is the caller's (mem_free); b is empty */

#endif
