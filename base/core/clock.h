/* Time and randomness behind vtables, so that a test owns them. */
#ifndef REEVE_BASE_CORE_CLOCK_H
#define REEVE_BASE_CORE_CLOCK_H

#include "base/core/slice.h"

struct clock {
    int64_t (*wall_ms)(const struct clock *c); /* milliseconds since 1970-01-01 UTC */
    int64_t (*mono_ms)(const struct clock *c); /* never goes back */
};

struct rnd {
    void (*fill)(const struct rnd *r, void *p, size_t n); /* never fails */
};

extern const struct clock clock_system;
extern const struct rnd rnd_system; /* getrandom(2) */

static inline int64_t clock_wall_ms(const struct clock *c)
{
    return c->wall_ms(c);
}
static inline int64_t clock_mono_ms(const struct clock *c)
{
    return c->mono_ms(c);
}
static inline void rnd_fill(const struct rnd *r, void *p, size_t n)
{
    r->fill(r, p, n);
}
uint64_t rnd_below(const struct rnd *r, uint64_t bound); /* uniform in [0, bound); bound > 0 */

/* A clock that a test sets and moves. */
struct clock_manual {
    struct clock clock;
    int64_t wall_ms, mono_ms;
};
void clock_manual_init(struct clock_manual *m, int64_t wall_ms);
void clock_manual_advance(struct clock_manual *m, int64_t ms);

/* A seeded generator (SplitMix64) for tests. */
struct rnd_seeded {
    struct rnd rnd;
    uint64_t state;
};
void rnd_seeded_init(struct rnd_seeded *r, uint64_t seed);

/* RFC 3339 in UTC with 'Z', milliseconds only when not zero: "2026-11-01T12:00:00Z". */
#define TIME_TEXT_MAX 32
void time_format(int64_t wall_ms, char out[TIME_TEXT_MAX]);
/* RFC 3339 with 'Z' or a numeric offset; up to 9 digits of fraction (cut to ms). 0 or E_INVALID. */
int time_parse(struct slice s, int64_t *ret_wall_ms);
/* Civil date of a UTC instant and back (proleptic Gregorian). month 1..12, day 1..31. */
void time_civil(int64_t wall_ms, int *ret_year, int *ret_month, int *ret_day);
int64_t time_from_civil(int year, int month, int day); /* 00:00:00Z of that day in ms */
/* "15m", "24h", "30s", "500ms", "7d", sums like "1h30m". 0 or E_INVALID / E_OVERFLOW. */
int duration_parse(struct slice s, int64_t *ret_ms);

#endif
