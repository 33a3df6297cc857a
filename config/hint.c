/* hint: finds the known word that a mistyped one was most likely meant to be.
 *
 * Happy path: the caller offers every word that would have been right; the nearest by edit distance wins, the
 * first of equals. Failure path: a word that resembles none gets no hint, because a wrong hint costs more
 * than none. */
#include "config/hint.h"

#include <string.h>

#define WORD_MAX 64

static char folded(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    return c == '-' ? '_' : c;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t hint_distance(struct slice a, struct slice b)
{
    size_t rows[3][WORD_MAX + 1]; /* two above, above, present */
    if (a.n > WORD_MAX || b.n > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b.n; j++)
        rows[0][j] = rows[1][j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t *above2 = rows[(i + 1) % 3], *above = rows[(i + 2) % 3], *now = rows[i % 3];
        if (i == 1)
            for (size_t j = 0; j <= b.n; j++)
                above[j] = j;
        now[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            char x = folded(a.p[i - 1]), y = folded(b.p[j - 1]);
            size_t d = above[j - 1] + (x == y ? 0 : 1);
            d = least(d, least(above[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && x == folded(b.p[j - 2]) && folded(a.p[i - 2]) == y)
                d = least(d, above2[j - 2] + 1);
            now[j] = d;
        }
    }
    return a.n == 0 ? b.n : rows[a.n % 3][b.n];
}

void hint_init(struct hint *h, struct slice word)
{
    h->word = word;
    h->best = SLICE_NULL;
    /* One slip in a short word, three in a long one; `distance` is the first that is too far. */
    h->distance = word.n < 6 ? 2 : word.n < 9 ? 3 : 4;
}

void hint_offer(struct hint *h, struct slice candidate)
{
    size_t d = hint_distance(h->word, candidate);
    /* Everything replaced is no resemblance. */
    if (d < h->distance && d < candidate.n && d < h->word.n) {
        h->distance = d;
        h->best = candidate;
    }
}
