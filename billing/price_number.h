/* price_number: a number of somebody else's price list, written by a program that counts in floating point,
 * as the decimal that was meant. */
#ifndef REEVE_BILLING_PRICE_NUMBER_H
#define REEVE_BILLING_PRICE_NUMBER_H

#include "base/core/i128.h"

enum number_fate {
    NUMBER_EXACT,
    NUMBER_MENDED,  /* the digits at the end were an artefact of floating point: 1.8000000000000002e-07 */
    NUMBER_ROUNDED, /* a division that does not end: half-even at 1e-18 */
};

/* JSON's number text to a count of 1e-18. 0; E_INVALID for a negative number, for one that is not 0 but less
 * than half of 1e-18, and for what is no number; E_OVERFLOW beyond 128 bits or 64 digits. */
int price_number_read(struct slice text, i128 *ret, enum number_fate *ret_fate);

#endif
