/* Where a request of the forward proxy wants to go: one spelling, one meaning. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "controller/edge/target.h"

static void what_is_one(void **state)
{
    (void)state;
    static const struct {
        const char *text, *meaning;
    } rows[] = {
        {"example.org:443", "example.org:443"},
        {"EXAMPLE.org.:1", "example.org:1"},
        {"a:65535", "a:65535"},
        {"xn--mnchen-3ya.example:443", "xn--mnchen-3ya.example:443"},
        {"_srv.example.org:443", "_srv.example.org:443"},
        {"192.0.2.1:80", "192.0.2.1:80"},
        {"[::1]:80", "[::1]:80"},
        {"[0:0:0:0:0:0:0:1]:80", "[::1]:80"},
        {"[2001:DB8::1]:443", "[2001:db8::1]:443"},
        {"[::ffff:127.0.0.1]:80", "127.0.0.1:80"},
        {"[::ffff:7f00:1]:80", "127.0.0.1:80"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct target t;
        struct err err = {0};
        if (target_parse(slice_str(rows[i].text), 0, &t, &err) != 0 || strcmp(t.text, rows[i].meaning) != 0)
            fail_msg("%s: %s %s", rows[i].text, t.text, err.msg);
    }
}

static void what_is_none(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        ":443",
        "example.org",
        "example.org:",
        "example.org:0",
        "a:65536",
        "a:99999999999",
        "a:+80",
        "a:80 ",
        "a:0x50",
        "a:080",
        "a..b:80",
        ".a:80",
        "a.b..:80",
        "..:80",
        ".:80",
        "-a:80",
        "a b:80",
        "a@b:80",
        "a/b:80",
        "a%2eb:80",
        "a\\b:80",
        "*.example:80",
        "m\xc3\xbcnchen:80",
        "0x7f.1:80",
        "0x7f000001:80",
        "2130706433:80",
        "017700000001:80",
        "127.1:80",
        "127.0.1:80",
        "0177.0.0.1:80",
        "127.0.0.1.:80",
        "127.0.0.256:80",
        "1.2.3.4.5:80",
        "1.2.3:80",
        "0:80",
        "a.0x7f:80",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[::1:80",
        "[]:80",
        "[127.0.0.1]:80",
        "[::1%25lo]:80",
        "[fe80::1%eth0]:80",
        "[v1.a]:80",
        "[::ffff:0x7f.1]:80",
        "[:::1]:80",
        "[1::2::3]:80",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct target t;
        struct err err = {0};
        if (target_parse(slice_str(bad[i]), 0, &t, &err) != E_INVALID || err.msg[0] == '\0')
            fail_msg("`%s` was taken for %s", bad[i], t.text);
    }
    char text[300];
    memset(text, 'a', sizeof text);
    for (size_t i = 40; i < 254; i += 40)
        text[i] = '.';
    memcpy(text + 254, ":80", 3);
    struct target t;
    assert_int_equal(target_parse(slice_of(text, 257), 0, &t, NULL), E_INVALID); /* 254 bytes */
    memcpy(text + 253, ":80", 3);
    assert_int_equal(target_parse(slice_of(text, 256), 0, &t, NULL), 0);
}

static int of_text(const char *head, struct target *t, struct err *err)
{
    struct http_request r;
    size_t n;
    int rc = http_parse_request(slice_str(head), HTTP_ALLOW_ABSOLUTE | HTTP_ALLOW_CONNECT, NULL, &r, &n, err);
    return rc != 0 ? rc : target_of_request(&r, t, err);
}

static void requests(void **state)
{
    (void)state;
    static const struct {
        const char *head, *meaning; /* NULL: refused */
    } rows[] = {
        {"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", "example.org:443"},
        {"CONNECT example.org:443 HTTP/1.1\r\nHost: EXAMPLE.org.\r\n\r\n", "example.org:443"},
        {"CONNECT example.org:443 HTTP/1.0\r\n\r\n", "example.org:443"},
        {"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n", "[::1]:443"},
        {"GET http://example.org/x HTTP/1.1\r\nHost: example.org\r\n\r\n", "example.org:80"},
        {"GET http://example.org HTTP/1.1\r\nHost: example.org:80\r\n\r\n", "example.org:80"},
        {"GET HTTP://example.org:8080?q HTTP/1.1\r\nHost: example.org:8080\r\n\r\n", "example.org:8080"},
        /* another place in Host */
        {"CONNECT example.org:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n", NULL},
        {"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:80\r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\nHost: other.test\r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\nHost: example.org:8080\r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\nHost: \r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nHost: example.org\r\n\r\n", NULL},
        /* other schemes, credentials, spellings */
        {"GET https://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET ftp://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http://user:pass@example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http://example.org@127.0.0.1/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http:example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http:///x HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http://example.org\\@evil/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http://example.org#@evil/ HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http://example.org:0/ HTTP/1.1\r\nHost: example.org:0\r\n\r\n", NULL},
        {"GET http://0x7f.1/ HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", NULL},
        {"CONNECT example.org HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"CONNECT example.org:65536 HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"CONNECT http://example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"CONNECT example.org:443/x HTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        /* smuggling */
        {"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nContent-Length: 5\r\n\r\n", NULL},
        {"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nTransfer-Encoding: chunked\r\n\r\n",
         NULL},
        {"POST http://example.org/ HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\nTransfer-Encoding: "
         "chunked\r\n\r\n",
         NULL},
        {"POST http://example.org/ HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\nContent-Length: "
         "6\r\n\r\n",
         NULL},
        {"GET http://example.org/\tHTTP/1.1\r\nHost: example.org\r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nX: a\nY: b\r\n\r\n", NULL},
        {"GET http://example.org/ HTTP/1.1\r\nHost : example.org\r\n\r\n", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct target t = {.text = ""};
        struct err err = {0};
        int rc = of_text(rows[i].head, &t, &err);
        if (rows[i].meaning == NULL ? rc == 0 : rc != 0 || strcmp(t.text, rows[i].meaning) != 0)
            fail_msg("%.60s: %s %s", rows[i].head, t.text, err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_one), cmocka_unit_test(what_is_none),
                                       cmocka_unit_test(requests)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
