/* 128-bit integers and exact decimal text. No floating point comes near. */
#ifndef REEVE_BASE_CORE_I128_H
#define REEVE_BASE_CORE_I128_H

#include "base/core/slice.h"

__extension__ typedef __int128 i128;
__extension__ typedef unsigned __int128 u128;

#define I128_MAX ((i128)(((u128)1 << 127) - 1))
#define I128_MIN (-I128_MAX - 1)

/* 0 or E_OVERFLOW; *ret is written only on success. */
int i128_add(i128 a, i128 b, i128 *ret);
int i128_sub(i128 a, i128 b, i128 *ret);
int i128_mul(i128 a, i128 b, i128 *ret);

/* Decimal text to value * 10^scale: optional '-', digits, optionally '.' and digits; optionally an exponent
 * ("7.5e-08") when `exponent_ok`. No '+', no blanks, no empty parts, no leading zeros but one before '.'.
 * More fraction digits than `scale` can hold exactly (other than zeros) is E_INVALID. 0, E_INVALID,
 * E_OVERFLOW. */
int i128_parse(struct slice s, unsigned scale, bool exponent_ok, i128 *ret);

/* value / 10^scale as decimal text without trailing zeros ("12.345", "-0.5", "0"); needs I128_TEXT_MAX bytes.
 * Returns the length; NUL-terminated. */
#define I128_TEXT_MAX 64
size_t i128_format(i128 v, unsigned scale, char out[I128_TEXT_MAX]);

/* 16 bytes, little-endian two's complement: the stored form. */
void i128_store(i128 v, unsigned char out[16]);
i128 i128_load(const unsigned char in[16]);

#endif
