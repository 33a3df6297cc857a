/* hint: the nearest known word, for "did you mean". */
#ifndef REEVE_CONFIG_HINT_H
#define REEVE_CONFIG_HINT_H

#include "base/core/slice.h"

/* A search over candidates: offer them one by one, then read `best` (p NULL: nothing is near enough). */
struct hint {
    struct slice word;
    struct slice best;
    size_t distance;
};
void hint_init(struct hint *h, struct slice word);
void hint_offer(struct hint *h, struct slice candidate);
/* Insertions, deletions, substitutions and swaps of neighbours that lead from a to b, ignoring ASCII case and
 * the difference of '-' and '_'; SIZE_MAX when either is longer than 64 bytes. */
size_t hint_distance(struct slice a, struct slice b);

#endif
