/* zone: when a day, a week or a month begins in an IANA time zone, see zone.h.
 *
 * Happy path: the file's transitions (64-bit block) are kept as one sorted array of (instant, offset), and
 * the footer's POSIX rule gives what comes after the last of them. A local midnight is found by walking the
 * few stretches of constant offset around it, so that a midnight that does not exist (a jump over it) or
 * exists twice still gives one instant: the first at which the local clock shows that day or a later one.
 *
 * Failure paths: a name with dots or other bytes never reaches the file system; a file that is short, has
 * counts that do not fit its size, or indexes out of range is refused whole. */
#include "billing/zone.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/clock.h"
#include "base/core/mem.h"

#define ZONE_DIR        "/usr/share/zoneinfo/"
#define ZONE_FILE_MAX   (1u << 18)
#define TRANSITIONS_MAX 20000
#define TYPES_MAX       256
#define DAY_S           86400
#define OFFSET_MAX_S    (26 * 3600) /* RFC 9636: no zone is further than this from UTC */
#define SEGMENTS_AROUND 64          /* stretches looked at for one midnight; real zones have at most three */

enum rule_form { RULE_MONTH, RULE_JULIAN, RULE_DAY };

/* One change of a POSIX rule: M<month>.<week>.<day>, J<1..365> without February 29, or <0..365>. */
struct rule_date {
    enum rule_form form;
    int month, week, day;
    int32_t time_s; /* local clock of that moment, -167 h .. 167 h */
};

struct rule {
    bool is_set, has_dst;
    int32_t std_s, dst_s;
    struct rule_date start, end;
};

struct transition {
    int64_t at_s;
    int32_t offset_s; /* from at_s on */
};

struct zone {
    int32_t first_s; /* offset before the first transition */
    struct transition *transitions;
    size_t n;
    struct rule rule; /* after the last transition */
};

/* --- the POSIX rule of the footer --- */

static int64_t days_of(int year, int month, int day)
{
    return time_from_civil(year, month, day) / (INT64_C(1000) * DAY_S);
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* The instant in that year, given the offset in force before it. */
static int64_t rule_date_at(const struct rule_date *d, int year, int32_t offset_s)
{
    int64_t day;
    switch (d->form) {
    case RULE_MONTH: {
        int64_t first = days_of(year, d->month, 1);
        int weekday = (int)(((first + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
        day = first + (d->day - weekday + 7) % 7 + (int64_t)(d->week - 1) * 7;
        int64_t next = d->month == 12 ? days_of(year + 1, 1, 1) : days_of(year, d->month + 1, 1);
        while (day >= next) /* week 5 is the last one */
            day -= 7;
        break;
    }
    case RULE_JULIAN:
        day = days_of(year, 1, 1) + d->day - 1 + (is_leap(year) && d->day >= 60 ? 1 : 0);
        break;
    case RULE_DAY:
    default:
        day = days_of(year, 1, 1) + d->day;
        break;
    }
    return day * DAY_S + d->time_s - offset_s;
}

static int parse_digits(struct slice *s, int max, int *ret)
{
    size_t n = 0;
    int v = 0;
    while (n < s->n && n < 4 && s->p[n] >= '0' && s->p[n] <= '9')
        v = v * 10 + (s->p[n++] - '0');
    if (n == 0 || v > max)
        return E_SYNTAX;
    *s = slice_from(*s, n);
    *ret = v;
    return 0;
}

static bool take(struct slice *s, char c)
{
    if (s->n == 0 || s->p[0] != c)
        return false;
    *s = slice_from(*s, 1);
    return true;
}

/* [+-]hh[:mm[:ss]] in seconds */
static int parse_time(struct slice *s, int hours_max, int32_t *ret)
{
    int sign = 1, h = 0, m = 0, sec = 0;
    if (take(s, '-'))
        sign = -1;
    else
        (void)take(s, '+'); /* a plus sign means nothing */
    if (parse_digits(s, hours_max, &h) != 0)
        return E_SYNTAX;
    if (take(s, ':')) {
        if (parse_digits(s, 59, &m) != 0)
            return E_SYNTAX;
        if (take(s, ':') && parse_digits(s, 59, &sec) != 0)
            return E_SYNTAX;
    }
    *ret = sign * (h * 3600 + m * 60 + sec);
    return 0;
}

static int parse_name(struct slice *s)
{
    size_t n = 0;
    if (take(s, '<')) {
        n = slice_find(*s, '>');
        if (n == SIZE_MAX || n == 0)
            return E_SYNTAX;
        *s = slice_from(*s, n + 1);
        return 0;
    }
    while (n < s->n && ((s->p[n] >= 'A' && s->p[n] <= 'Z') || (s->p[n] >= 'a' && s->p[n] <= 'z')))
        n++;
    if (n < 3)
        return E_SYNTAX;
    *s = slice_from(*s, n);
    return 0;
}

static int parse_rule_date(struct slice *s, struct rule_date *ret)
{
    struct rule_date d = {RULE_DAY, 0, 0, 0, 2 * 3600};
    int rc = 0;
    if (take(s, 'M')) {
        d.form = RULE_MONTH;
        if (parse_digits(s, 12, &d.month) != 0 || !take(s, '.') || parse_digits(s, 5, &d.week) != 0 ||
            !take(s, '.') || parse_digits(s, 6, &d.day) != 0 || d.month == 0 || d.week == 0)
            return E_SYNTAX;
    } else if (take(s, 'J')) {
        d.form = RULE_JULIAN;
        rc = parse_digits(s, 365, &d.day);
        if (rc != 0 || d.day == 0)
            return E_SYNTAX;
    } else {
        rc = parse_digits(s, 365, &d.day);
    }
    if (rc == 0 && take(s, '/'))
        rc = parse_time(s, 167, &d.time_s);
    if (rc == 0)
        *ret = d;
    return rc;
}

static int rule_parse(struct slice s, struct rule *ret)
{
    struct rule r = {0};
    if (parse_name(&s) != 0 || parse_time(&s, 24, &r.std_s) != 0)
        return E_SYNTAX;
    r.std_s = -r.std_s; /* POSIX counts west of Greenwich as positive */
    r.is_set = true;
    if (s.n > 0) {
        if (parse_name(&s) != 0)
            return E_SYNTAX;
        r.has_dst = true;
        r.dst_s = r.std_s + 3600;
        if (s.n > 0 && s.p[0] != ',') {
            if (parse_time(&s, 24, &r.dst_s) != 0)
                return E_SYNTAX;
            r.dst_s = -r.dst_s;
        }
        if (!take(&s, ',') || parse_rule_date(&s, &r.start) != 0 || !take(&s, ',') ||
            parse_rule_date(&s, &r.end) != 0 || s.n > 0)
            return E_SYNTAX;
    }
    *ret = r;
    return 0;
}

/* The offset at an instant by the rule alone, and the next instant at which it changes (INT64_MAX: never). */
static int32_t rule_offset(const struct rule *r, int64_t utc_s, int64_t *ret_until_s)
{
    *ret_until_s = INT64_MAX;
    if (!r->has_dst)
        return r->std_s;
    int year, month, day;
    time_civil((utc_s + r->std_s) * 1000, &year, &month, &day);
    int32_t offset = r->std_s;
    int64_t latest = INT64_MIN;
    /* The changes of the neighbouring years too: where the year begins in summer time, or near its ends. */
    for (int y = year - 1; y <= year + 1; y++) {
        int64_t start = rule_date_at(&r->start, y, r->std_s), end = rule_date_at(&r->end, y, r->dst_s);
        if (start <= utc_s && start >= latest) {
            latest = start;
            offset = r->dst_s;
        }
        if (end <= utc_s && end > latest) {
            latest = end;
            offset = r->std_s;
        }
        if (start > utc_s && start < *ret_until_s)
            *ret_until_s = start;
        if (end > utc_s && end < *ret_until_s)
            *ret_until_s = end;
    }
    return offset;
}

/* --- the file --- */

static uint32_t be32(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

static int64_t be64(const char *p)
{
    uint64_t v = (uint64_t)be32(p) << 32 | be32(p + 4);
    int64_t out;
    memcpy(&out, &v, sizeof(out));
    return out;
}

struct tzif_header {
    size_t isutc, isstd, leap, times, types, chars;
    size_t body_bytes;
};

#define TZIF_HEADER_BYTES 44

static int header_parse(struct slice s, size_t time_bytes, struct tzif_header *ret)
{
    if (s.n < TZIF_HEADER_BYTES || memcmp(s.p, "TZif", 4) != 0)
        return E_SYNTAX;
    struct tzif_header h = {
        be32(s.p + 20), be32(s.p + 24), be32(s.p + 28), be32(s.p + 32), be32(s.p + 36), be32(s.p + 40), 0};
    if (h.isutc > TYPES_MAX || h.isstd > TYPES_MAX || h.leap > 1000 || h.times > TRANSITIONS_MAX ||
        h.types == 0 || h.types > TYPES_MAX || h.chars > 4096)
        return E_SYNTAX;
    h.body_bytes =
        h.times * (time_bytes + 1) + h.types * 6 + h.chars + h.leap * (time_bytes + 4) + h.isstd + h.isutc;
    if (s.n - TZIF_HEADER_BYTES < h.body_bytes)
        return E_SYNTAX;
    *ret = h;
    return 0;
}

static int type_offset(const char *types, size_t i, int32_t *ret)
{
    uint32_t raw = be32(types + i * 6);
    int32_t v;
    memcpy(&v, &raw, sizeof(v));
    if (v > OFFSET_MAX_S || v < -OFFSET_MAX_S)
        return E_SYNTAX;
    *ret = v;
    return 0;
}

/* The 64-bit block: instants, then a type index for each, then the types. */
static int block_parse(struct zone *z, const char *p, const struct tzif_header *h)
{
    const char *indexes = p + h->times * 8, *types = indexes + h->times;
    if (type_offset(types, 0, &z->first_s) != 0)
        return E_SYNTAX;
    z->transitions = h->times > 0 ? mem_alloc(h->times * sizeof(*z->transitions)) : NULL;
    for (size_t i = 0; i < h->times; i++) {
        struct transition *t = &z->transitions[i];
        size_t type = (unsigned char)indexes[i];
        t->at_s = be64(p + i * 8);
        if (type >= h->types || type_offset(types, type, &t->offset_s) != 0 ||
            (i > 0 && t->at_s <= z->transitions[i - 1].at_s))
            return E_SYNTAX;
    }
    z->n = h->times;
    return 0;
}

static int tzif_parse(struct zone *z, struct slice s)
{
    struct tzif_header h;
    if (header_parse(s, 4, &h) != 0 || s.p[4] < '2')
        return E_SYNTAX; /* version 1 has no 64-bit block; nobody ships it any more */
    s = slice_from(s, TZIF_HEADER_BYTES + h.body_bytes);
    if (header_parse(s, 8, &h) != 0 || block_parse(z, s.p + TZIF_HEADER_BYTES, &h) != 0)
        return E_SYNTAX;
    s = slice_from(s, TZIF_HEADER_BYTES + h.body_bytes);
    struct slice footer;
    if (!take(&s, '\n') || !slice_cut(&s, '\n', &footer))
        return E_SYNTAX;
    return footer.n == 0 ? 0 : rule_parse(footer, &z->rule);
}

int zone_parse(struct slice tzif, struct zone **ret, struct err *err)
{
    struct zone *z = MEM_NEW(struct zone);
    if (tzif_parse(z, tzif) != 0) {
        zone_free(z);
        return err_set(err, E_SYNTAX, "not a valid compiled time zone file");
    }
    *ret = z;
    return 0;
}

int zone_of_rule(struct slice rule, struct zone **ret, struct err *err)
{
    struct rule r;
    if (rule_parse(rule, &r) != 0)
        return err_set(err, E_SYNTAX, "not a valid POSIX time zone rule");
    struct zone *z = MEM_NEW(struct zone);
    z->rule = r;
    z->first_s = r.std_s;
    *ret = z;
    return 0;
}

static bool name_is_plausible(struct slice s)
{
    if (s.n == 0 || s.n > ZONE_NAME_MAX || s.p[0] == '/' || s.p[s.n - 1] == '/')
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool is_letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!is_letter && c != '_' && c != '-' && c != '+' && c != '/')
            return false; /* no dot: no way out of the folder */
    }
    return true;
}

static int file_read(const char *path, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return err_from_errno(errno);
    int rc = 0;
    for (;;) {
        char chunk[8192];
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_from_errno(errno);
        else if (n > 0)
            rc = buf_append(out, chunk, (size_t)n);
        if (n <= 0 || rc != 0)
            break;
    }
    (void)close(fd); /* only read from: nothing to lose */
    return rc;
}

int zone_load(struct slice name, struct zone **ret, struct err *err)
{
    if (name.n == 0 || slice_eq_str(name, "UTC") || slice_eq_str(name, "Etc/UTC"))
        return zone_of_rule(SL("UTC0"), ret, err);
    if (!name_is_plausible(name))
        return err_set(err, E_INVALID, "`%.*s` is not the name of a time zone",
                       (int)(name.n < 64 ? name.n : 64), name.p);
    char path[sizeof(ZONE_DIR) + ZONE_NAME_MAX];
    memcpy(path, ZONE_DIR, sizeof(ZONE_DIR) - 1);
    memcpy(path + sizeof(ZONE_DIR) - 1, name.p, name.n);
    path[sizeof(ZONE_DIR) - 1 + name.n] = '\0';
    struct buf bytes = BUF_INIT(ZONE_FILE_MAX);
    int rc = file_read(path, &bytes);
    if (rc != 0)
        err_set(err, E_NOT_FOUND, "time zone `%.*s` is not installed on this system", SL_ARG(name));
    else if ((rc = zone_parse(buf_view(&bytes), ret, err)) != 0)
        err_prefix(err, "time zone `%.*s`", SL_ARG(name));
    buf_fini(&bytes);
    return rc == 0 ? 0 : rc == E_SYNTAX ? E_SYNTAX : E_NOT_FOUND;
}

void zone_free(struct zone *z)
{
    if (z == NULL)
        return;
    mem_free(z->transitions);
    mem_free(z);
}

/* --- questions --- */

/* The offset at an instant and the end of the stretch in which it holds. */
static int32_t segment(const struct zone *z, int64_t utc_s, int64_t *ret_until_s)
{
    size_t lo = 0, hi = z->n; /* the first transition after utc_s */
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (z->transitions[mid].at_s <= utc_s)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == z->n && z->rule.is_set)
        return rule_offset(&z->rule, utc_s, ret_until_s);
    *ret_until_s = lo < z->n ? z->transitions[lo].at_s : INT64_MAX;
    return lo > 0 ? z->transitions[lo - 1].offset_s : z->first_s;
}

int32_t zone_offset(const struct zone *z, int64_t utc_s)
{
    int64_t until;
    return segment(z, utc_s, &until);
}

/* The first instant at which the local clock shows `local_s` (seconds of the civil clock) or later. */
static int64_t first_instant(const struct zone *z, int64_t local_s)
{
    int64_t at = local_s - 2 * DAY_S; /* surely before: offsets are at most 26 h */
    for (int i = 0; i < SEGMENTS_AROUND; i++) {
        int64_t until;
        int32_t offset = segment(z, at, &until);
        int64_t reached = local_s - offset;
        if (reached < at)
            reached = at; /* jumped over: the first instant behind the gap */
        if (reached < until)
            return reached;
        at = until;
    }
    return local_s - zone_offset(z, local_s); /* a table of nonsense: still an answer */
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b < 0 ? q - 1 : q;
}

/* The first day (days since 1970) of the window of that kind that holds the local day; and of the next one.
 */
static int64_t window_first_day(enum budget_window window, int64_t day, int64_t *ret_next)
{
    int year, month, dom;
    int64_t first;
    switch (window) {
    case WINDOW_WEEK:
        first = day - (((day + 3) % 7 + 7) % 7); /* Monday; 1970-01-01 was a Thursday */
        *ret_next = first + 7;
        return first;
    case WINDOW_MONTH:
        time_civil(day * DAY_S * 1000, &year, &month, &dom);
        first = days_of(year, month, 1);
        *ret_next = month == 12 ? days_of(year + 1, 1, 1) : days_of(year, month + 1, 1);
        return first;
    case WINDOW_DAY:
    default:
        *ret_next = day + 1;
        return day;
    }
}

void zone_window(const struct zone *z, enum budget_window window, int64_t wall_ms, int64_t *ret_start_ms,
                 int64_t *ret_end_ms)
{
    int64_t utc_s = floor_div(wall_ms, 1000);
    int64_t next, first = window_first_day(window, floor_div(utc_s + zone_offset(z, utc_s), DAY_S), &next);
    int64_t start = first_instant(z, first * DAY_S), end = first_instant(z, next * DAY_S);
    /* Around a clock that goes back over midnight the local date alone would choose the wrong side: windows
     * are bounded by first instants. A skipped local day makes an empty window, which holds nothing. */
    while (utc_s < start) {
        int64_t unused;
        first = window_first_day(window, first - 1, &unused);
        end = start;
        start = first_instant(z, first * DAY_S);
    }
    while (utc_s >= end) {
        first = next;
        (void)window_first_day(window, first, &next);
        start = end;
        end = first_instant(z, next * DAY_S);
    }
    *ret_start_ms = start * 1000;
    *ret_end_ms = end * 1000;
}
