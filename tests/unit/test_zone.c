/* zone: windows against instants computed by another implementation (Python's zoneinfo, minute by minute),
 * rules, damaged files. */
#include "billing/zone.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/buf.h"
#include "base/core/clock.h"
#include "base/core/mem.h"

static const struct {
    const char *zone, *at;
    enum budget_window window;
    const char *start, *end;
} vectors[] = {
    {"America/New_York", "2026-03-08T12:00:00Z", WINDOW_DAY, "2026-03-08T05:00:00Z",
     "2026-03-09T04:00:00Z"}, /* 23 h */
    {"America/New_York", "2026-11-01T12:00:00Z", WINDOW_DAY, "2026-11-01T04:00:00Z",
     "2026-11-02T05:00:00Z"}, /* 25 h */
    {"America/New_York", "2026-03-08T12:00:00Z", WINDOW_WEEK, "2026-03-02T05:00:00Z",
     "2026-03-09T04:00:00Z"}, /* 167 h */
    {"America/New_York", "2026-03-10T12:00:00Z", WINDOW_WEEK, "2026-03-09T04:00:00Z",
     "2026-03-16T04:00:00Z"}, /* 168 h */
    {"America/New_York", "2026-11-01T23:00:00Z", WINDOW_WEEK, "2026-10-26T04:00:00Z",
     "2026-11-02T05:00:00Z"}, /* 169 h */
    {"America/New_York", "2026-11-15T00:00:00Z", WINDOW_MONTH, "2026-11-01T04:00:00Z",
     "2026-12-01T05:00:00Z"}, /* 721 h */
    {"America/New_York", "2026-12-01T04:59:59Z", WINDOW_MONTH, "2026-11-01T04:00:00Z",
     "2026-12-01T05:00:00Z"}, /* 721 h */
    {"America/New_York", "2026-12-01T05:00:00Z", WINDOW_MONTH, "2026-12-01T05:00:00Z",
     "2027-01-01T05:00:00Z"}, /* 744 h */
    {"America/New_York", "2045-03-20T12:00:00Z", WINDOW_MONTH, "2045-03-01T05:00:00Z",
     "2045-04-01T04:00:00Z"}, /* 743 h */
    {"America/New_York", "2045-11-20T12:00:00Z", WINDOW_MONTH, "2045-11-01T04:00:00Z",
     "2045-12-01T05:00:00Z"}, /* 721 h */
    {"Europe/Berlin", "2026-03-29T00:30:00Z", WINDOW_DAY, "2026-03-28T23:00:00Z",
     "2026-03-29T22:00:00Z"}, /* 23 h */
    {"Europe/Berlin", "2026-10-25T00:30:00Z", WINDOW_DAY, "2026-10-24T22:00:00Z",
     "2026-10-25T23:00:00Z"}, /* 25 h */
    {"Europe/Berlin", "2026-10-25T22:30:00Z", WINDOW_DAY, "2026-10-24T22:00:00Z",
     "2026-10-25T23:00:00Z"}, /* 25 h */
    {"Europe/Berlin", "2026-10-25T23:30:00Z", WINDOW_WEEK, "2026-10-25T23:00:00Z",
     "2026-11-01T23:00:00Z"}, /* 168 h */
    {"Europe/Berlin", "2026-10-20T12:00:00Z", WINDOW_WEEK, "2026-10-18T22:00:00Z",
     "2026-10-25T23:00:00Z"}, /* 169 h */
    {"Europe/Berlin", "2026-03-25T12:00:00Z", WINDOW_WEEK, "2026-03-22T23:00:00Z",
     "2026-03-29T22:00:00Z"}, /* 167 h */
    {"Europe/Berlin", "2026-03-15T12:00:00Z", WINDOW_MONTH, "2026-02-28T23:00:00Z",
     "2026-03-31T22:00:00Z"}, /* 743 h */
    {"Europe/Berlin", "2026-10-31T22:59:59Z", WINDOW_MONTH, "2026-09-30T22:00:00Z",
     "2026-10-31T23:00:00Z"}, /* 745 h */
    {"Europe/Berlin", "2026-10-31T23:00:00Z", WINDOW_MONTH, "2026-10-31T23:00:00Z",
     "2026-11-30T23:00:00Z"}, /* 720 h */
    {"Europe/Berlin", "2050-07-15T12:00:00Z", WINDOW_MONTH, "2050-06-30T22:00:00Z",
     "2050-07-31T22:00:00Z"}, /* 744 h */
    {"Asia/Kolkata", "2026-11-05T18:29:59Z", WINDOW_DAY, "2026-11-04T18:30:00Z",
     "2026-11-05T18:30:00Z"}, /* 24 h */
    {"Asia/Kolkata", "2026-11-05T18:30:00Z", WINDOW_DAY, "2026-11-05T18:30:00Z",
     "2026-11-06T18:30:00Z"}, /* 24 h */
    {"Asia/Kolkata", "2026-11-08T18:30:00Z", WINDOW_WEEK, "2026-11-08T18:30:00Z",
     "2026-11-15T18:30:00Z"}, /* 168 h */
    {"Asia/Kolkata", "2026-02-15T00:00:00Z", WINDOW_MONTH, "2026-01-31T18:30:00Z",
     "2026-02-28T18:30:00Z"}, /* 672 h */
    {"Pacific/Apia", "2011-12-30T09:59:00Z", WINDOW_DAY, "2011-12-29T10:00:00Z",
     "2011-12-30T10:00:00Z"}, /* 24 h */
    {"Pacific/Apia", "2011-12-30T10:00:00Z", WINDOW_DAY, "2011-12-30T10:00:00Z",
     "2011-12-31T10:00:00Z"}, /* 24 h */
    {"Pacific/Apia", "2011-12-29T12:00:00Z", WINDOW_WEEK, "2011-12-26T10:00:00Z",
     "2012-01-01T10:00:00Z"}, /* 144 h */
    {"Pacific/Apia", "2011-12-31T12:00:00Z", WINDOW_MONTH, "2011-12-31T10:00:00Z",
     "2012-01-31T10:00:00Z"}, /* 744 h */
    {"Pacific/Apia", "2026-11-05T11:00:00Z", WINDOW_DAY, "2026-11-05T11:00:00Z",
     "2026-11-06T11:00:00Z"}, /* 24 h */
    {"America/Sao_Paulo", "2017-10-15T12:00:00Z", WINDOW_DAY, "2017-10-15T03:00:00Z",
     "2017-10-16T02:00:00Z"}, /* 23 h */
    {"America/Sao_Paulo", "2018-02-18T01:30:00Z", WINDOW_DAY, "2018-02-17T02:00:00Z",
     "2018-02-18T03:00:00Z"}, /* 25 h */
    {"America/Sao_Paulo", "2018-02-18T02:30:00Z", WINDOW_DAY, "2018-02-17T02:00:00Z",
     "2018-02-18T03:00:00Z"}, /* 25 h */
    {"Asia/Beirut", "2026-03-29T12:00:00Z", WINDOW_DAY, "2026-03-28T22:00:00Z",
     "2026-03-29T21:00:00Z"}, /* 23 h */
    {"America/Havana", "2026-11-01T04:30:00Z", WINDOW_DAY, "2026-11-01T04:00:00Z",
     "2026-11-02T05:00:00Z"}, /* 25 h */
    {"Africa/Casablanca", "2026-02-15T12:00:00Z", WINDOW_WEEK, "2026-02-08T23:00:00Z",
     "2026-02-16T00:00:00Z"}, /* 169 h */
    {"Australia/Lord_Howe", "2026-04-05T12:00:00Z", WINDOW_DAY, "2026-04-04T13:00:00Z",
     "2026-04-05T13:30:00Z"}, /* 24.5 h */
    {"America/St_Johns", "2008-11-02T02:15:00Z", WINDOW_DAY, "2008-11-01T02:30:00Z",
     "2008-11-02T02:30:00Z"}, /* 24 h */
    {"America/St_Johns", "2008-11-02T03:00:00Z", WINDOW_DAY, "2008-11-02T02:30:00Z",
     "2008-11-03T03:30:00Z"}, /* 25 h */
    {"Europe/Dublin", "2026-10-25T12:00:00Z", WINDOW_DAY, "2026-10-24T23:00:00Z",
     "2026-10-26T00:00:00Z"}, /* 25 h */
    {"America/Nuuk", "2040-03-25T12:00:00Z", WINDOW_DAY, "2040-03-25T01:00:00Z",
     "2040-03-26T01:00:00Z"},                                                                      /* 24 h */
    {"UTC", "2024-02-29T23:59:59Z", WINDOW_MONTH, "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"}, /* 696 h */
    {"UTC", "2026-11-01T00:00:00Z", WINDOW_WEEK, "2026-10-26T00:00:00Z", "2026-11-02T00:00:00Z"},  /* 168 h */
};

static int64_t at(const char *text)
{
    int64_t ms = 0;
    assert_int_equal(time_parse(slice_str(text), &ms), 0);
    return ms;
}

static void test_windows(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
        struct zone *z = NULL;
        struct err err = {0};
        int64_t start, end;
        char text[TIME_TEXT_MAX];
        if (zone_load(slice_str(vectors[i].zone), &z, &err) != 0)
            fail_msg("%s: %s", vectors[i].zone, err.msg);
        zone_window(z, vectors[i].window, at(vectors[i].at), &start, &end);
        time_format(start, text);
        if (strcmp(text, vectors[i].start) != 0)
            fail_msg("%s at %s: starts %s, not %s", vectors[i].zone, vectors[i].at, text, vectors[i].start);
        time_format(end, text);
        if (strcmp(text, vectors[i].end) != 0)
            fail_msg("%s at %s: ends %s, not %s", vectors[i].zone, vectors[i].at, text, vectors[i].end);
        zone_free(z);
    }
}

/* Whatever the zone does, each instant is in exactly one window, and windows follow each other. */
static void test_windows_are_a_partition(void **state)
{
    static const char *const zones[] = {"UTC",
                                        "America/New_York",
                                        "Europe/Berlin",
                                        "Asia/Kolkata",
                                        "Pacific/Apia",
                                        "America/St_Johns",
                                        "Africa/Casablanca",
                                        "Australia/Lord_Howe",
                                        "America/Sao_Paulo",
                                        "Asia/Tehran"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
        struct zone *z = NULL;
        assert_int_equal(zone_load(slice_str(zones[i]), &z, NULL), 0);
        for (int w = WINDOW_DAY; w <= WINDOW_MONTH; w++) {
            int64_t t = at("2005-01-01T00:00:00Z"), start, end, end_before = 0;
            for (int n = 0; n < 2000 && t < at("2060-01-01T00:00:00Z"); n++) {
                zone_window(z, (enum budget_window)w, t, &start, &end);
                assert_true(start <= t && t < end);
                assert_true(n == 0 || start == end_before);
                int64_t again_start, again_end;
                zone_window(z, (enum budget_window)w, end - 1, &again_start, &again_end);
                assert_true(again_start == start && again_end == end);
                end_before = t = end;
            }
        }
        zone_free(z);
    }
}

static void test_rules(void **state)
{
    static const struct {
        const char *rule, *at;
        int32_t offset_s;
    } rows[] = {
        {"EST5EDT,M3.2.0,M11.1.0", "2026-03-08T06:59:59Z", -5 * 3600},
        {"EST5EDT,M3.2.0,M11.1.0", "2026-03-08T07:00:00Z", -4 * 3600},
        {"EST5EDT,M3.2.0,M11.1.0", "2026-11-01T05:59:59Z", -4 * 3600},
        {"EST5EDT,M3.2.0,M11.1.0", "2026-11-01T06:00:00Z", -5 * 3600},
        {"IST-1GMT0,M10.5.0,M3.5.0/1", "2026-12-01T00:00:00Z", 0},
        {"IST-1GMT0,M10.5.0,M3.5.0/1", "2026-07-01T00:00:00Z", 3600},
        {"<+0330>-3:30", "2026-07-01T00:00:00Z", 12600},
        {"NZST-12NZDT,M9.5.0,M4.1.0/3", "2027-01-01T00:00:00Z", 13 * 3600}, /* summer over the new year */
        {"NZST-12NZDT,M9.5.0,M4.1.0/3", "2026-12-31T23:00:00Z", 13 * 3600},
        {"NZST-12NZDT,M9.5.0,M4.1.0/3", "2026-07-01T00:00:00Z", 12 * 3600},
        {"AAA0BBB,J60/0,J300/0", "2024-02-29T12:00:00Z", 0}, /* J60 is March 1, always */
        {"AAA0BBB,J60/0,J300/0", "2024-03-01T00:00:00Z", 3600},
        {"AAA0BBB,59/0,300/0", "2024-02-29T00:00:00Z", 3600}, /* day 59 is February 29 in a leap year */
        {"XXX3EDT4,0/0,J365/23", "2026-06-01T00:00:00Z", -4 * 3600},
    };
    static const char *const bad[] = {"",
                                      "E5",
                                      "EST",
                                      "EST5EDT",
                                      "EST5EDT,M3.2.0",
                                      "EST5EDT,M13.2.0,M11.1.0",
                                      "EST5EDT,M3.6.0,M11.1.0",
                                      "EST5EDT,M3.2.7,M11.1.0",
                                      "<+03-3",
                                      "EST25",
                                      "EST5EDT,J0,J5",
                                      "EST5EDT,J366,J5",
                                      "EST5EDT,M3.2.0/168,M11.1.0",
                                      "EST5x"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct zone *z = NULL;
        assert_int_equal(zone_of_rule(slice_str(rows[i].rule), &z, NULL), 0);
        if (zone_offset(z, at(rows[i].at) / 1000) != rows[i].offset_s)
            fail_msg("%s at %s: %d", rows[i].rule, rows[i].at, zone_offset(z, at(rows[i].at) / 1000));
        zone_free(z);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct zone *z = NULL;
        if (zone_of_rule(slice_str(bad[i]), &z, NULL) == 0)
            fail_msg("taken: %s", bad[i]);
    }
}

static void test_names(void **state)
{
    static const char *const bad[] = {"../../etc/passwd", "/etc/passwd",    "Europe/../UTC", "Europe/Nowhere",
                                      "Europe",           "Europe/Berlin ", "posixrules.",   "zone.tab",
                                      "iso3166/",         "Europe//../x"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct zone *z = NULL;
        struct err err = {0};
        assert_int_not_equal(zone_load(slice_str(bad[i]), &z, &err), 0);
        assert_true(err.msg[0] != '\0');
    }
}

/* A valid file, then every shorter one, and every one with a byte changed: refused or read, never worse. */
static void test_damaged_files(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(1000);
    unsigned char head[44] = {'T', 'Z', 'i', 'f', '2'};
    head[39] = 1; /* one type */
    head[43] = 4; /* four bytes of names */
    assert_int_equal(buf_append(&b, head, 44), 0);
    assert_int_equal(buf_append(&b, "\0\0\0\0\0\0UTC", 10), 0);
    head[35] = 1; /* one transition */
    head[39] = 2;
    assert_int_equal(buf_append(&b, head, 44), 0);
    assert_int_equal(buf_append(&b, "\0\0\0\0\0\0\0\1\1\0\0\0\0\0\0\0\0\x0e\x10\1\0UTC", 25), 0);
    assert_int_equal(buf_append(&b, "\nUTC0\n", 6), 0);
    struct zone *z = NULL;
    assert_int_equal(zone_parse(buf_view(&b), &z, NULL), 0);
    assert_int_equal(zone_offset(z, 0), 0);
    assert_int_equal(zone_offset(z, 1), 0); /* the footer rules behind the last transition */
    zone_free(z);
    for (size_t n = 0; n < b.n; n++) {
        char *copy = mem_strndup(b.p, n); /* exact size: ASan sees a read behind it */
        z = NULL;
        assert_int_not_equal(zone_parse(slice_of(copy, n), &z, NULL), 0);
        mem_free(copy);
    }
    for (size_t i = 0; i < b.n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            char *copy = mem_alloc(b.n);
            memcpy(copy, b.p, b.n);
            copy[i] = (char)(copy[i] ^ (1 << bit));
            if (zone_parse(slice_of(copy, b.n), &z, NULL) == 0) {
                int64_t start, end;
                zone_window(z, WINDOW_WEEK, at("2026-11-05T00:00:00Z"), &start, &end);
                assert_true(start <= at("2026-11-05T00:00:00Z") && end > at("2026-11-05T00:00:00Z"));
                zone_free(z);
            }
            mem_free(copy);
        }
    }
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),       cmocka_unit_test(test_windows_are_a_partition),
        cmocka_unit_test(test_rules),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_damaged_files),
    };
    if (access("/usr/share/zoneinfo/Europe/Berlin", R_OK) != 0)
        print_message("no time zones are installed here: install tzdata\n");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
