/* clock: the system's time and randomness behind vtables, manual and seeded ones for tests, and time as text.
 *
 * Dates are computed, not asked of the C library: no locale, no time zone files, no 1970 or 2038 edges. Text
 * is accepted for years 0001 to 9999. Leap seconds (":60") are refused: they cannot be represented. */
#include "base/core/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/core/err.h"
#include "base/core/mem.h"

enum { DAY_MS = 86400 * 1000 };

static int64_t system_ms(clockid_t id)
{
    struct timespec ts;

    must(clock_gettime(id, &ts) == 0);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t system_wall_ms(const struct clock *c)
{
    (void)c;
    return system_ms(CLOCK_REALTIME);
}

static int64_t system_mono_ms(const struct clock *c)
{
    (void)c;
    return system_ms(CLOCK_MONOTONIC);
}

const struct clock clock_system = {system_wall_ms, system_mono_ms};

static void system_fill(const struct rnd *r, void *p, size_t n)
{
    char *at = p;

    (void)r;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            die("getrandom: %s", strerror(errno));
        at += got;
        n -= (size_t)got;
    }
}

const struct rnd rnd_system = {system_fill};

uint64_t rnd_below(const struct rnd *r, uint64_t bound)
{
    uint64_t v, skip;

    must(bound > 0);
    /* The lowest (2^64 mod bound) values are thrown away, so that the rest divides evenly. */
    skip = (0 - bound) % bound;
    do
        rnd_fill(r, &v, sizeof(v));
    while (v < skip);
    return v % bound;
}

static int64_t manual_wall_ms(const struct clock *c)
{
    return ((const struct clock_manual *)c)->wall_ms;
}

static int64_t manual_mono_ms(const struct clock *c)
{
    return ((const struct clock_manual *)c)->mono_ms;
}

void clock_manual_init(struct clock_manual *m, int64_t wall_ms)
{
    *m = (struct clock_manual){{manual_wall_ms, manual_mono_ms}, wall_ms, 0};
}

void clock_manual_advance(struct clock_manual *m, int64_t ms)
{
    must(ms >= 0);
    m->wall_ms += ms;
    m->mono_ms += ms;
}

/* SplitMix64 (Steele, Lea, Flood 2014). The state moves although the generator is handed out as const: the
 * vtable is shared with the system's generator, which has none. */
static void seeded_fill(const struct rnd *r, void *p, size_t n)
{
    struct rnd_seeded *s = (struct rnd_seeded *)(uintptr_t)r;
    char *at = p;

    while (n > 0) {
        uint64_t z = (s->state += UINT64_C(0x9e3779b97f4a7c15));
        size_t part = n < sizeof(z) ? n : sizeof(z);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        z ^= z >> 31;
        memcpy(at, &z, part);
        at += part;
        n -= part;
    }
}

void rnd_seeded_init(struct rnd_seeded *r, uint64_t seed)
{
    r->rnd.fill = seeded_fill;
    r->state = seed;
}

/* Days since 1970-01-01 and back, in 400-year eras that begin on 1 March (H. Hinnant, "chrono-compatible
 * low-level date algorithms"). */
static int64_t days_from_civil(int64_t year, int month, int day)
{
    int64_t era, year_of_era, day_of_year, day_of_era;

    year -= month <= 2;
    era = (year >= 0 ? year : year - 399) / 400;
    year_of_era = year - era * 400;
    day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static void civil_from_days(int64_t days, int64_t *ret_year, int *ret_month, int *ret_day)
{
    int64_t era, day_of_era, year_of_era, day_of_year, shifted;

    days += 719468;
    era = (days >= 0 ? days : days - 146096) / 146097;
    day_of_era = days - era * 146097;
    year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    shifted = (5 * day_of_year + 2) / 153;
    *ret_day = (int)(day_of_year - (153 * shifted + 2) / 5 + 1);
    *ret_month = (int)(shifted < 10 ? shifted + 3 : shifted - 9);
    *ret_year = year_of_era + era * 400 + (*ret_month <= 2);
}

static int64_t floor_days(int64_t wall_ms)
{
    return wall_ms / DAY_MS - (wall_ms % DAY_MS < 0);
}

void time_civil(int64_t wall_ms, int *ret_year, int *ret_month, int *ret_day)
{
    int64_t year;

    civil_from_days(floor_days(wall_ms), &year, ret_month, ret_day);
    *ret_year = (int)year;
}

int64_t time_from_civil(int year, int month, int day)
{
    return days_from_civil(year, month, day) * DAY_MS;
}

void time_format(int64_t wall_ms, char out[TIME_TEXT_MAX])
{
    int64_t first = time_from_civil(1, 1, 1), last = time_from_civil(10000, 1, 1) - 1;
    int64_t year, days, in_day;
    int month, day, ms, n;

    /* Four-digit years are all that RFC 3339 has. */
    if (wall_ms < first)
        wall_ms = first;
    if (wall_ms > last)
        wall_ms = last;
    days = floor_days(wall_ms);
    in_day = wall_ms - days * DAY_MS;
    civil_from_days(days, &year, &month, &day);
    ms = (int)(in_day % 1000);
    in_day /= 1000;
    n = snprintf(out, TIME_TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d", (int)year, month, day,
                 (int)(in_day / 3600), (int)(in_day / 60 % 60), (int)(in_day % 60));
    must(n > 0 && n < TIME_TEXT_MAX);
    if (ms != 0)
        (void)snprintf(out + n, TIME_TEXT_MAX - (size_t)n, ".%03dZ", ms); /* fits: 20 + 4 bytes */
    else
        memcpy(out + n, "Z", 2);
}

/* Takes `digits` digits and then the byte `then` (0: none) from the front of *s. */
static bool time_take(struct slice *s, size_t digits, char then, int *ret)
{
    size_t n = digits + (then != 0);
    int v = 0;

    if (s->n < n)
        return false;
    for (size_t i = 0; i < digits; i++) {
        if (s->p[i] < '0' || s->p[i] > '9')
            return false;
        v = v * 10 + (s->p[i] - '0');
    }
    if (then != 0 && s->p[digits] != then)
        return false;
    *ret = v;
    *s = slice_from(*s, n);
    return true;
}

static bool time_take_fraction(struct slice *s, int *ret_ms)
{
    int ms = 0;
    size_t i = 1;

    *ret_ms = 0;
    if (s->n == 0 || s->p[0] != '.')
        return true;
    for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++)
        if (i <= 3)
            ms = ms * 10 + (s->p[i] - '0');
    if (i == 1 || i > 10)
        return false;
    for (size_t k = i; k <= 3; k++)
        ms *= 10;
    *s = slice_from(*s, i);
    *ret_ms = ms;
    return true;
}

static bool time_take_offset(struct slice *s, int *ret_minutes)
{
    int hours, minutes, sign;

    if (s->n == 1 && (s->p[0] == 'Z' || s->p[0] == 'z')) {
        *ret_minutes = 0;
        return true;
    }
    if (s->n != 6 || (s->p[0] != '+' && s->p[0] != '-'))
        return false;
    sign = s->p[0] == '-' ? -1 : 1;
    *s = slice_from(*s, 1);
    if (!time_take(s, 2, ':', &hours) || !time_take(s, 2, 0, &minutes) || hours > 23 || minutes > 59)
        return false;
    *ret_minutes = sign * (hours * 60 + minutes);
    return true;
}

static int month_days(int year, int month)
{
    static const int DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return DAYS[month - 1] + (month == 2 && is_leap);
}

int time_parse(struct slice s, int64_t *ret_wall_ms)
{
    int year, month, day, hour, minute, second, ms, offset;

    if (!time_take(&s, 4, '-', &year) || !time_take(&s, 2, '-', &month) || !time_take(&s, 2, 0, &day))
        return E_INVALID;
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > month_days(year, month))
        return E_INVALID;
    if (s.n == 0 || (s.p[0] != 'T' && s.p[0] != 't'))
        return E_INVALID;
    s = slice_from(s, 1);
    if (!time_take(&s, 2, ':', &hour) || !time_take(&s, 2, ':', &minute) || !time_take(&s, 2, 0, &second))
        return E_INVALID;
    if (hour > 23 || minute > 59 || second > 59)
        return E_INVALID;
    if (!time_take_fraction(&s, &ms) || !time_take_offset(&s, &offset))
        return E_INVALID;
    *ret_wall_ms = time_from_civil(year, month, day) +
                   ((int64_t)hour * 3600 + minute * 60 + second - (int64_t)offset * 60) * 1000 + ms;
    return 0;
}

/* The unit at the front of *s in ms, taken off; 0 when there is none. */
static int64_t duration_take_unit(struct slice *s)
{
    static const struct {
        struct slice text;
        int64_t ms;
    } UNITS[] = {/* "ms" before "m" */
                 {{"ms", 2}, 1},
                 {{"s", 1}, 1000},
                 {{"m", 1}, 60 * 1000},
                 {{"h", 1}, 3600 * 1000},
                 {{"d", 1}, DAY_MS}};

    for (size_t i = 0; i < ARRAY_LEN(UNITS); i++)
        if (slice_starts(*s, UNITS[i].text)) {
            *s = slice_from(*s, UNITS[i].text.n);
            return UNITS[i].ms;
        }
    return 0;
}

int duration_parse(struct slice s, int64_t *ret_ms)
{
    int64_t sum = 0, unit_before = INT64_MAX;
    bool is_over = false;

    if (s.n == 0)
        return E_INVALID;
    while (s.n > 0) {
        size_t digits = 0;
        int64_t v, unit;
        int rc;

        while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9')
            digits++;
        rc = slice_i64((struct slice){s.p, digits}, &v);
        if (rc == E_INVALID)
            return rc;
        s = slice_from(s, digits);
        unit = duration_take_unit(&s);
        if (unit == 0 || unit >= unit_before)
            return E_INVALID; /* units go down: "1h30m", never "30m1h" or "1m1m" */
        unit_before = unit;
        if (rc != 0 || __builtin_mul_overflow(v, unit, &v) || __builtin_add_overflow(sum, v, &sum))
            is_over = true;
    }
    if (is_over)
        return E_OVERFLOW;
    *ret_ms = sum;
    return 0;
}
