/* inflate: gzip bodies (RFC 1952), piece by piece, with a limit on what becomes of them. */
#ifndef REEVE_BASE_CORE_INFLATE_H
#define REEVE_BASE_CORE_INFLATE_H

#include <stdint.h>

#include "base/core/err.h"
#include "base/core/slice.h"

struct inflate;

/* What comes out is at most `max` bytes, and, beyond the first MiB, at most INFLATE_RATIO_MAX times what went
 * in: texts do not shrink that much, bombs do. */
#define INFLATE_RATIO_MAX 200
struct inflate *inflate_new(uint64_t max);
void inflate_free(struct inflate *z); /* NULL is fine */

/* Gives the plain bytes to `take`, in pieces; ends with its code when that is not 0. 0; E_SYNTAX: not gzip,
 * or damaged; E_TOO_LARGE. */
typedef int (*inflate_take)(void *data, struct slice plain, struct err *err);
int inflate_feed(struct inflate *z, struct slice packed, inflate_take take, void *data, struct err *err);
/* 0, or E_SYNTAX when it is cut off. */
int inflate_end(const struct inflate *z, struct err *err);

#endif
