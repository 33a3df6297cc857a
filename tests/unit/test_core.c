/* core: errors, slices, buffers, arenas, clocks and times, durations, log lines. */
#include "base/core/arena.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <uv.h>

#include "base/core/buf.h"
#include "base/core/clock.h"
#include "base/core/err.h"
#include "base/core/json.h"
#include "base/core/log.h"
#include "base/core/mem.h"

enum { SEED = 99 };

/* --- err --- */

static void test_err(void **state)
{
    struct err err = {0};

    (void)state;
    assert_int_equal(err_set(&err, E_NOT_FOUND, "no %s", "image"), E_NOT_FOUND);
    assert_int_equal(err_prefix(&err, "create"), E_NOT_FOUND);
    assert_int_equal(err_prefix(&err, "workspace %s/%s", "alice", "dev"), E_NOT_FOUND);
    assert_string_equal(err.msg, "workspace alice/dev: create: no image");
    assert_int_equal(err_set(NULL, E_BUSY, "x"), E_BUSY);
    assert_int_equal(err_prefix(NULL, "x"), E_INTERNAL);
    assert_int_equal(err_set(&err, E_IO, "again: %s", err.msg), E_IO); /* its own message as argument */
    assert_string_equal(err.msg, "again: workspace alice/dev: create: no image");
    err_clear(&err);
    assert_int_equal(err.code, 0);
    assert_string_equal(err.msg, "");
    assert_int_equal(err_prefix(&err, "x"), E_INTERNAL);
}

static void test_err_is_cut_at_a_character(void **state)
{
    char text[3 * ERR_MSG_MAX + 1];
    struct err err = {0};

    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 4 < sizeof(text); i += 4)
            memcpy(text + i, "\xf0\x9f\x98\x80", 5);
        (void)err_set(&err, E_INVALID, "%s", text);
        assert_true(slice_is_utf8(slice_str(err.msg)));
        assert_true(slice_ends(slice_str(err.msg), SL("\xe2\x80\xa6")));
        (void)err_prefix(&err, "%.*s", (int)(11 + shift), "prefix prefix");
        assert_true(slice_is_utf8(slice_str(err.msg)));
        assert_true(slice_ends(slice_str(err.msg), SL("\xe2\x80\xa6")));
        assert_true(slice_starts(slice_str(err.msg), SL("prefix")));
        (void)err_prefix(&err, "%s", text);
        assert_true(slice_is_utf8(slice_str(err.msg)));
        assert_true(strlen(err.msg) < ERR_MSG_MAX);
    }
}

static void test_err_tables(void **state)
{
    (void)state;
    assert_int_equal(err_http_status(E_BUDGET), 402);
    assert_string_equal(err_name(E_BUDGET), "budget_exceeded");
    assert_string_equal(err_title(E_BUDGET), "Budget exceeded");
    assert_string_equal(err_name(0), "ok");
    assert_int_equal(err_http_status(E_IO), 500);
    assert_int_equal(err_http_status(-9999), 500);
    assert_int_equal(err_http_status(3), 500);
    assert_string_equal(err_name(-9999), "internal");
    assert_int_equal(err_from_errno(ENOENT), E_NOT_FOUND);
    assert_int_equal(err_from_errno(ENOSPC), E_NO_SPACE);
    assert_int_equal(err_from_errno(0), 0);
    assert_int_equal(err_from_errno(12345), E_IO);
    assert_int_equal(err_from_uv(UV_EOF), E_EOF);
    assert_int_equal(err_from_uv(UV_ETIMEDOUT), E_TIMEOUT);
    assert_int_equal(err_from_uv(UV_ECONNREFUSED), E_UNAVAILABLE);
    assert_int_equal(err_from_uv(UV_EAI_NONAME), E_UNAVAILABLE);
    assert_int_equal(err_from_uv(UV_ECANCELED), E_CANCELLED);
    assert_int_equal(err_from_uv(0), 0);
}

/* --- slice --- */

static void test_slice_compare(void **state)
{
    (void)state;
    assert_true(slice_eq(SLICE_NULL, SLICE_EMPTY));
    assert_true(slice_eq_str(SL("abc"), "abc"));
    assert_false(slice_eq_str(SL("abc"), "abcd"));
    assert_true(slice_ieq_str(SL("Content-LENGTH"), "content-length"));
    assert_false(slice_ieq(SL("@"), SL("`")));
    assert_false(slice_ieq(SL("["), SL("{")));
    assert_true(slice_cmp(SL("a"), SL("b")) < 0);
    assert_true(slice_cmp(SL("a"), SL("ab")) < 0);
    assert_true(slice_cmp(SL("\xff"), SL("a")) > 0); /* bytes are unsigned */
    assert_int_equal(slice_cmp(SLICE_NULL, SLICE_EMPTY), 0);
    assert_true(slice_starts(SL("abc"), SL("ab")));
    assert_true(slice_starts(SLICE_NULL, SLICE_EMPTY));
    assert_false(slice_starts(SL("a"), SL("ab")));
    assert_true(slice_ends(SL("abc"), SL("bc")));
    assert_false(slice_ends(SL("c"), SL("bc")));
}

static void test_slice_cut(void **state)
{
    struct slice s = SL("a,,b"), head;

    (void)state;
    assert_true(slice_cut(&s, ',', &head));
    assert_true(slice_eq_str(head, "a"));
    assert_true(slice_cut(&s, ',', &head));
    assert_int_equal(head.n, 0);
    assert_false(slice_cut(&s, ',', &head));
    assert_true(slice_eq_str(head, "b"));
    assert_int_equal(s.n, 0);
    s = SLICE_NULL;
    assert_false(slice_cut(&s, ',', &head));
    assert_true(slice_eq_str(slice_trim(SL(" \t a b \t")), "a b"));
    assert_int_equal(slice_trim(SL(" \t ")).n, 0);
    assert_int_equal(slice_from(SL("abc"), 9).n, 0);
    assert_true(slice_eq_str(slice_from(SL("abc"), 1), "bc"));
    assert_true(slice_find(SL("abc"), 'c') == 2);
    assert_true(slice_find(SLICE_NULL, 'c') == SIZE_MAX);
}

static void test_slice_numbers(void **state)
{
    static const char *const BAD[] = {
        "", "-", "+1", "01", "1 ", " 1", "1.0", "0x1", "1e3", "00", "99999999999999999999x"};
    uint64_t u = 7;
    int64_t i = 7;

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(BAD); k++) {
        assert_int_equal(slice_u64(slice_str(BAD[k]), &u), E_INVALID);
        assert_int_equal(slice_i64(slice_str(BAD[k]), &i), E_INVALID);
    }
    assert_int_equal(slice_u64(SL("18446744073709551616"), &u), E_OVERFLOW);
    assert_int_equal(slice_i64(SL("9223372036854775808"), &i), E_OVERFLOW);
    assert_int_equal(slice_i64(SL("-9223372036854775809"), &i), E_OVERFLOW);
    assert_int_equal(slice_u64(SL("-1"), &u), E_INVALID);
    assert_int_equal(u, 7);
    assert_int_equal(i, 7);
    assert_int_equal(slice_u64(SL("18446744073709551615"), &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(slice_i64(SL("-9223372036854775808"), &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(slice_i64(SL("9223372036854775807"), &i), 0);
    assert_true(i == INT64_MAX);
    assert_int_equal(slice_u64(SL("0"), &u), 0);
    assert_int_equal(u, 0);
}

static void test_utf8(void **state)
{
    static const char *const GOOD[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const BAD[] = {"\x80",
                                      "\xc0\xaf",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf5",
                                      "\xf4\x90\x80\x80",
                                      "\xe2\x82",
                                      "\xf0\x9f\x98",
                                      "\xff",
                                      "\xfe",
                                      "\xc2\xc2",
                                      "\xe2\x28\xa1",
                                      "\xf0\x28\x8c\xbc",
                                      "\xf8\x88\x80\x80\x80"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(GOOD); i++)
        assert_true(slice_is_utf8(slice_str(GOOD[i])));
    for (size_t i = 0; i < ARRAY_LEN(BAD); i++)
        assert_false(slice_is_utf8(slice_str(BAD[i])));
    assert_int_equal(slice_utf8_prefix(SL("ab\xc3\xa9\xff")), 4);
    /* not read past the view */
    assert_false(slice_is_utf8(slice_of("\xc3\xa9", 1)));
}

/* --- buf --- */

static void test_buf(void **state)
{
    struct buf b = BUF_INIT(1000);
    size_t n;
    char *p;

    (void)state;
    assert_string_equal(buf_cstr(&b), "");
    assert_int_equal(buf_view(&b).n, 0);
    assert_int_equal(buf_append(&b, NULL, 0), 0);
    assert_int_equal(buf_str(&b, "abc"), 0);
    assert_int_equal(buf_byte(&b, 'd'), 0);
    assert_int_equal(buf_slice(&b, SL("ef")), 0);
    assert_int_equal(buf_printf(&b, "%d-%s", 12, "x"), 0);
    assert_string_equal(buf_cstr(&b), "abcdef12-x");
    buf_consume(&b, 3);
    assert_string_equal(buf_cstr(&b), "def12-x");
    assert_int_equal(buf_reserve(&b, 2), 0);
    b.p[b.n] = 'Y';
    b.n++;
    assert_string_equal(buf_cstr(&b), "def12-xY");
    p = buf_take(&b, &n);
    assert_int_equal(n, 8);
    assert_string_equal(p, "def12-xY");
    mem_free(p);
    assert_int_equal(b.n, 0);
    p = buf_take(&b, NULL);
    assert_string_equal(p, "");
    mem_free(p);
    assert_int_equal(buf_printf(&b, "%0600d", 7), 0); /* longer than what is tried on the stack */
    assert_int_equal(b.n, 600);
    assert_int_equal(b.p[599], '7');
    buf_wipe(&b);
    assert_null(b.p);
    assert_int_equal(b.max, 1000);
}

static void test_buf_full_is_sticky(void **state)
{
    struct buf b = BUF_INIT(5);

    (void)state;
    assert_int_equal(buf_str(&b, "abc"), 0);
    assert_int_equal(buf_str(&b, "def"), E_TOO_LARGE);
    assert_string_equal(buf_cstr(&b), "abc");
    assert_true(b.is_full);
    assert_int_equal(buf_byte(&b, 'd'), E_TOO_LARGE); /* would fit, but something is missing before it */
    assert_int_equal(buf_printf(&b, "%s", ""), E_TOO_LARGE);
    buf_reset(&b);
    assert_int_equal(buf_str(&b, "abcde"), 0);
    assert_int_equal(buf_printf(&b, "%d", 1), E_TOO_LARGE);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), E_TOO_LARGE);
    assert_string_equal(buf_cstr(&b), "abcde");
    buf_fini(&b);
}

static void test_buf_grows_to_its_maximum(void **state)
{
    struct buf b = BUF_INIT(10000);

    (void)state;
    for (int i = 0; i < 10000; i++)
        assert_int_equal(buf_byte(&b, (char)('a' + i % 26)), 0);
    assert_int_equal(buf_byte(&b, 'x'), E_TOO_LARGE);
    assert_true(b.cap <= 10001);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(b.p[i], 'a' + i % 26);
    assert_int_equal(b.p[10000], 0);
    buf_fini(&b);
}

/* --- arena --- */

static void test_arena(void **state)
{
    struct arena a = ARENA_INIT;
    struct rnd_seeded r;

    (void)state;
    print_message("seed %d\n", SEED);
    rnd_seeded_init(&r, SEED);
    for (int round = 0; round < 3; round++) {
        unsigned char *parts[500];
        size_t sizes[500];

        for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
            sizes[i] = rnd_below(&r.rnd, i % 50 == 0 ? 20000 : 200);
            parts[i] = arena_alloc(&a, sizes[i]);
            assert_int_equal((uintptr_t)parts[i] % 16, 0);
            memset(parts[i], (int)(i & 0xff), sizes[i]);
        }
        for (size_t i = 0; i < ARRAY_LEN(parts); i++)
            for (size_t k = 0; k < sizes[i]; k++)
                assert_int_equal(parts[i][k], i & 0xff); /* nobody wrote over it */
        arena_reset(&a);
    }
    arena_fini(&a);
    arena_reset(&a);
    assert_string_equal(arena_printf(&a, "%s-%d", "a", 5), "a-5");
    assert_string_equal(arena_strdup(&a, "dup"), "dup");
    assert_string_equal(arena_strndup(&a, "dup", 2), "du");
    assert_string_equal(arena_slice(&a, slice_of("view", 3)).p, "vie");
    assert_null(arena_slice(&a, SLICE_NULL).p);
    assert_int_equal(*ARENA_NEW(&a, uint64_t), 0);
    assert_true(arena_alloc(&a, 0) != arena_alloc(&a, 0));
    arena_fini(&a);
}

/* --- clock --- */

static void assert_time(const char *text, int64_t ms, const char *printed)
{
    char out[TIME_TEXT_MAX];
    int64_t got = -1;

    if (time_parse(slice_str(text), &got) != 0)
        fail_msg("refused: %s", text);
    assert_int_equal(got, ms);
    time_format(ms, out);
    assert_string_equal(out, printed);
}

static void test_time(void **state)
{
    static const char *const BAD[] = {
        "",
        "2026-11-01",
        "2026-11-01T12:00:00",
        "2026-11-01 12:00:00Z",
        "2026-11-01T12:00Z",
        "2026-11-01T24:00:00Z",
        "2026-11-01T12:60:00Z",
        "2026-11-01T12:00:60Z",
        "2026-13-01T12:00:00Z",
        "2026-00-01T12:00:00Z",
        "2026-11-31T12:00:00Z",
        "2026-11-00T12:00:00Z",
        "2026-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "26-11-01T12:00:00Z",
        "2026-11-01T12:00:00.Z",
        "2026-11-01T12:00:00.1234567890Z",
        "2026-11-01T12:00:00+24:00",
        "2026-11-01T12:00:00+01:60",
        "2026-11-01T12:00:00+0100",
        "2026-11-01T12:00:00ZZ",
        "2026-11-01T12:00:00Z ",
        " 2026-11-01T12:00:00Z",
        "2026-1-01T12:00:00Z",
        "2026-11-01T12:00:00,5Z",
        "+2026-11-01T12:00:00Z",
        "2026-11-01T1a:00:00Z",
    };
    int64_t ms;

    (void)state;
    assert_time("2026-11-01T12:00:00Z", 1793534400000, "2026-11-01T12:00:00Z");
    assert_time("2026-11-01T12:00:00.5Z", 1793534400500, "2026-11-01T12:00:00.500Z");
    assert_time("2026-11-01t12:00:00.0019999z", 1793534400001, "2026-11-01T12:00:00.001Z");
    assert_time("2026-11-01T13:30:00+01:30", 1793534400000, "2026-11-01T12:00:00Z");
    assert_time("2026-10-31T23:00:00-13:00", 1793534400000, "2026-11-01T12:00:00Z");
    assert_time("2026-11-01T12:00:00-00:00", 1793534400000, "2026-11-01T12:00:00Z");
    assert_time("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z");
    assert_time("1969-12-31T23:59:59.999Z", -1, "1969-12-31T23:59:59.999Z");
    assert_time("2000-02-29T00:00:00Z", 951782400000, "2000-02-29T00:00:00Z");
    assert_time("9999-12-31T23:59:59.999Z", 253402300799999, "9999-12-31T23:59:59.999Z");
    assert_time("0001-01-01T00:00:00Z", -62135596800000, "0001-01-01T00:00:00Z");
    for (size_t i = 0; i < ARRAY_LEN(BAD); i++)
        if (time_parse(slice_str(BAD[i]), &ms) != E_INVALID)
            fail_msg("accepted: %s", BAD[i]);
}

static void test_time_extremes_do_not_break(void **state)
{
    char out[TIME_TEXT_MAX];

    (void)state;
    time_format(INT64_MAX, out);
    assert_string_equal(out, "9999-12-31T23:59:59.999Z");
    time_format(INT64_MIN, out);
    assert_string_equal(out, "0001-01-01T00:00:00Z");
}

static void test_civil(void **state)
{
    int year = 1, month = 1, day = 1;

    (void)state;
    /* Every day of 400 years follows the one before. */
    for (int64_t ms = time_from_civil(1799, 12, 31); ms <= time_from_civil(2200, 1, 1); ms += 86400000) {
        int y, m, d;

        time_civil(ms + 86399999, &y, &m, &d);
        if (year != 1)
            assert_true((y == year && m == month && d == day + 1) ||
                        (y == year && m == month + 1 && d == 1) || (y == year + 1 && m == 1 && d == 1));
        assert_int_equal(time_from_civil(y, m, d), ms);
        year = y;
        month = m;
        day = d;
    }
}

static void test_duration(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } GOOD[] = {{"15m", 900000},    {"24h", 86400000}, {"30s", 30000},
                {"500ms", 500},     {"7d", 604800000}, {"1h30m", 5400000},
                {"1m500ms", 60500}, {"0s", 0},         {"1d1h1m1s1ms", 90061001}};
    static const char *const BAD[] = {"",      "5",    "m",   "-5m", "+5m",  "1.5h", "5 m", "5m ",  "1m1m",
                                      "30m1h", "1h30", "05m", "5M",  "5min", "5us",  "1hm", "5ms5s"};
    int64_t ms;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(GOOD); i++) {
        assert_int_equal(duration_parse(slice_str(GOOD[i].text), &ms), 0);
        assert_int_equal(ms, GOOD[i].ms);
    }
    for (size_t i = 0; i < ARRAY_LEN(BAD); i++)
        if (duration_parse(slice_str(BAD[i]), &ms) != E_INVALID)
            fail_msg("accepted: %s", BAD[i]);
    assert_int_equal(duration_parse(SL("99999999999999d"), &ms), E_OVERFLOW);
    assert_int_equal(duration_parse(SL("9999999999999999999999s"), &ms), E_OVERFLOW);
    assert_int_equal(duration_parse(SL("9223372036854775807ms"), &ms), 0);
    assert_int_equal(duration_parse(SL("1s9223372036854775807ms"), &ms), E_OVERFLOW);
}

static void test_clocks_and_randomness(void **state)
{
    struct clock_manual m;
    struct rnd_seeded a, b;
    uint64_t va, vb, seen = 0;

    (void)state;
    clock_manual_init(&m, 1000);
    clock_manual_advance(&m, 5);
    assert_int_equal(clock_wall_ms(&m.clock), 1005);
    assert_int_equal(clock_mono_ms(&m.clock), 5);
    assert_true(clock_wall_ms(&clock_system) > 1700000000000);
    rnd_seeded_init(&a, 1234567);
    rnd_seeded_init(&b, 1234567);
    rnd_fill(&a.rnd, &va, sizeof(va));
    rnd_fill(&b.rnd, &vb, sizeof(vb));
    assert_true(va == vb && va == UINT64_C(6457827717110365317)); /* SplitMix64's published first value */
    for (int i = 0; i < 2000; i++) {
        va = rnd_below(&a.rnd, 10);
        assert_true(va < 10);
        seen |= UINT64_C(1) << va;
    }
    assert_int_equal(seen, 0x3ff);
    assert_int_equal(rnd_below(&rnd_system, 1), 0);
    (void)rnd_below(&rnd_system, UINT64_MAX);
}

/* --- log: a datagram socket shows each write(2) apart --- */

static struct clock_manual g_clock;

static int log_socket(enum log_level least, enum log_form form)
{
    static int pair[2] = {-1, -1};

    if (pair[0] >= 0) {
        (void)close(pair[0]);
        (void)close(pair[1]);
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    clock_manual_init(&g_clock, 1793534400123);
    log_setup(least, form, pair[1], &g_clock.clock);
    return pair[0];
}

static const char *log_read(int fd)
{
    static char line[65536];
    ssize_t n = recv(fd, line, sizeof(line) - 1, 0);

    if (n < 0)
        return NULL;
    line[n] = '\0';
    return line;
}

static void test_log_json(void **state)
{
    int fd = log_socket(LOG_INFO, LOG_FORM_AUTO); /* not a terminal: JSON */

    (void)state;
    log_info("plain.event");
    assert_string_equal(
        log_read(fd), "{\"ts\":\"2026-11-01T12:00:00.123Z\",\"level\":\"info\",\"event\":\"plain.event\"}\n");
    log_error("x.y", LF_STR("s", "a\"b\\\n\x1b\x7f"), LF_STR("none", NULL), LF_SLICE("v", SL("\xc3\xa9\xff")),
              LF_INT("i", -5), LF_BOOL("b", true));
    assert_string_equal(log_read(fd),
                        "{\"ts\":\"2026-11-01T12:00:00.123Z\",\"level\":\"error\",\"event\":\"x.y\","
                        "\"s\":\"a\\\"b\\\\\\n\\u001b\\u007f\",\"none\":null,\"v\":\"\xc3\xa9\xef\xbf\xbd\","
                        "\"i\":-5,\"b\":true}\n");
    log_debug("too.low");
    assert_null(log_read(fd));
    assert_false(log_is_on(LOG_DEBUG));
    assert_true(log_is_on(LOG_WARN));
}

static void test_log_keeps_errno(void **state)
{
    (void)log_socket(LOG_INFO, LOG_FORM_JSON);
    (void)state;
    log_setup(LOG_INFO, LOG_FORM_JSON, -1, NULL);
    errno = ENOENT;
    log_info("lost");
    assert_int_equal(errno, ENOENT);
}

static void test_log_long_line_stays_json(void **state)
{
    int fd = log_socket(LOG_INFO, LOG_FORM_JSON);
    char text[5000];
    struct json *j;
    struct slice line;

    (void)state;
    memset(text, '\x01', sizeof(text));
    log_warn("long", LF_SLICE("a", slice_of(text, 900)), LF_SLICE("b", slice_of(text, sizeof(text))),
             LF_INT("c", 1));
    line = slice_str(log_read(fd));
    assert_true(line.n < 8192 && line.p[line.n - 1] == '\n');
    assert_int_equal(json_parse(line, NULL, &j, NULL), 0);
    assert_true(json_is_true(json_get(j, "truncated")));
    assert_int_equal(json_string(json_get(j, "a")).n, 900);
    assert_null(json_get(j, "b"));
    json_free(j);

    memset(text, 'x', sizeof(text));
    log_warn("long", LF_SLICE("a", slice_of(text, sizeof(text))), LF_INT("c", 1));
    line = slice_str(log_read(fd));
    assert_int_equal(json_parse(line, NULL, &j, NULL), 0);
    assert_true(slice_ends(json_string(json_get(j, "a")), SL("xx\xe2\x80\xa6")));
    assert_int_equal(json_type(json_get(j, "c")), JSON_NUMBER);
    json_free(j);
}

static void test_log_human(void **state)
{
    int fd = log_socket(LOG_DEBUG, LOG_FORM_HUMAN);

    (void)state;
    log_debug("a.b", LF_STR("tenant", "acme"), LF_STR("why", "no such file"), LF_INT("n", 3),
              LF_STR("esc", "\x1b[2J"));
    assert_string_equal(
        log_read(fd),
        "12:00:00.123Z DEBUG a.b  tenant=acme  why=\"no such file\"  n=3  esc=\"\\u001b[2J\"\n");
    log_setup(LOG_WARN, LOG_FORM_JSON, STDERR_FILENO, NULL);
}

/* --- mem --- */

static void test_die_says_why(void **state)
{
    char text[256] = "";
    int out[2], status = 0;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(out), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(out[1], STDERR_FILENO);
        die("reason %d", 5);
    }
    (void)close(out[1]);
    assert_true(read(out[0], text, sizeof(text) - 1) > 0);
    (void)close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
    assert_true(slice_starts(slice_str(text), SL("reason 5\n")));
}

static void test_mem(void **state)
{
    AUTO_FREE char *copy = mem_strndup("abcdef", 3);
    char *grown = mem_strdup("x");

    (void)state;
    assert_string_equal(copy, "abc");
    grown = mem_realloc(grown, 100);
    assert_string_equal(grown, "x");
    mem_wipe(grown, 100);
    assert_int_equal(grown[0], 0);
    mem_free(grown);
    mem_free(NULL);
    mem_free(mem_alloc(0));
    grown = mem_strndup(NULL, 0);
    assert_string_equal(grown, "");
    mem_free(grown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_err_is_cut_at_a_character),
        cmocka_unit_test(test_err_tables),
        cmocka_unit_test(test_slice_compare),
        cmocka_unit_test(test_slice_cut),
        cmocka_unit_test(test_slice_numbers),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_buf_full_is_sticky),
        cmocka_unit_test(test_buf_grows_to_its_maximum),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_time_extremes_do_not_break),
        cmocka_unit_test(test_civil),
        cmocka_unit_test(test_duration),
        cmocka_unit_test(test_clocks_and_randomness),
        cmocka_unit_test(test_log_json),
        cmocka_unit_test(test_log_keeps_errno),
        cmocka_unit_test(test_log_long_line_stays_json),
        cmocka_unit_test(test_log_human),
        cmocka_unit_test(test_die_says_why),
        cmocka_unit_test(test_mem),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
