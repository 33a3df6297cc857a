/* slice: a view of bytes that somebody else owns. Not NUL-terminated. */
#ifndef REEVE_BASE_CORE_SLICE_H
#define REEVE_BASE_CORE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slice {
    const char *p;
    size_t n;
};

#define SL(literal) ((struct slice){(literal), sizeof(literal) - 1})
#define SLICE_EMPTY ((struct slice){"", 0})
#define SLICE_NULL  ((struct slice){NULL, 0})
#define SL_ARG(s)   (int)(s).n, (s).p /* for "%.*s" */

static inline struct slice slice_of(const void *p, size_t n)
{
    return (struct slice){(const char *)p, n};
}
struct slice slice_str(const char *s); /* NULL gives SLICE_NULL */
bool slice_eq(struct slice a, struct slice b);
bool slice_eq_str(struct slice a, const char *s);
bool slice_ieq(struct slice a, struct slice b); /* ASCII case-insensitive */
bool slice_ieq_str(struct slice a, const char *s);
int slice_cmp(struct slice a, struct slice b); /* bytewise, shorter first */
bool slice_starts(struct slice s, struct slice prefix);
bool slice_ends(struct slice s, struct slice suffix);
struct slice slice_from(struct slice s, size_t at); /* from byte `at` (clamped) to the end */
struct slice slice_trim(struct slice s);            /* without spaces and tabs at both ends */
/* Position of the byte, or SIZE_MAX. */
size_t slice_find(struct slice s, char c);
/* Cuts `s` at the first `sep`: *ret_head gets what is before, *s what is after; false (and *ret_head = all,
 * *s empty) when there is no `sep`. */
bool slice_cut(struct slice *s, char sep, struct slice *ret_head);
/* Decimal digits only, no sign, no blank, no leading zero but "0" itself. 0, E_INVALID or E_OVERFLOW. */
int slice_u64(struct slice s, uint64_t *ret);
/* As slice_u64 with an optional '-'. */
int slice_i64(struct slice s, int64_t *ret);
size_t slice_utf8_prefix(struct slice s); /* how many bytes from the start are well-formed UTF-8 */
bool slice_is_utf8(struct slice s);       /* strict: no surrogates, no overlong forms, <= U+10FFFF */

#endif
