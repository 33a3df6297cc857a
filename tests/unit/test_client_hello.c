/* The first message of a TLS client: real ones of OpenSSL, split anyhow, and made ones that are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/ssl.h>

#include "base/core/buf.h"
#include "base/core/mem.h"
#include "base/net/client_hello.h"

/* What OpenSSL sends first. */
static struct buf real_hello(const char *name, int version, const char *alpn)
{
    struct buf out = BUF_INIT(65536);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    char *p;
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    assert_int_equal(SSL_set_min_proto_version(ssl, version), 1);
    assert_int_equal(SSL_set_max_proto_version(ssl, version), 1);
    if (name != NULL)
        assert_int_equal(SSL_set_tlsext_host_name(ssl, name), 1);
    if (alpn != NULL)
        assert_int_equal(SSL_set_alpn_protos(ssl, (const unsigned char *)alpn, (unsigned)strlen(alpn)), 0);
    SSL_set_connect_state(ssl);
    (void)SSL_do_handshake(ssl); /* wants the answer */
    long n = BIO_get_mem_data(SSL_get_wbio(ssl), &p);
    assert_int_equal(buf_append(&out, p, (size_t)n), 0);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    return out;
}

static void real_ones(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    static const char *const names[] = {"example.org", "a.b.example.org", NULL};
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        for (size_t i = 0; i < ARRAY_LEN(names); i++) {
            struct buf hello = real_hello(names[i], versions[v], i == 0 ? "\x08http/1.1" : NULL);
            struct client_hello h;
            for (size_t n = 0; n < hello.n; n++) /* arrives byte by byte */
                assert_int_equal(client_hello_parse(slice_of(hello.p, n), &h, NULL), E_AGAIN);
            assert_int_equal(client_hello_parse(buf_view(&hello), &h, NULL), 0);
            assert_int_equal(h.has_name, names[i] != NULL);
            if (names[i] != NULL)
                assert_string_equal(h.name, names[i]);
            size_t alone = hello.n;
            (void)buf_str(&hello, "\x17\x03\x03\x00\x05zzzzz"); /* early data behind it is not looked at */
            assert_int_equal(client_hello_parse(buf_view(&hello), &h, NULL), 0);
            assert_int_equal(h.n_bytes, alone);
            buf_fini(&hello);
        }
    }
}

/* The same message in records of any size. */
static void split_records(void **state)
{
    (void)state;
    struct buf hello = real_hello("example.org", TLS1_3_VERSION, NULL);
    for (size_t size = 1; size < hello.n; size = size < 64 ? size + 1 : size * 2) {
        struct buf out = BUF_INIT(65536);
        struct slice rest = slice_from(buf_view(&hello), 5);
        struct client_hello h;
        while (rest.n > 0) {
            size_t n = size < rest.n ? size : rest.n;
            const char head[5] = {22, 3, 1, (char)(n >> 8), (char)n};
            (void)buf_append(&out, head, 5);
            (void)buf_append(&out, rest.p, n);
            rest = slice_from(rest, n);
        }
        for (size_t n = 0; n < out.n; n += 1 + n / 7)
            assert_int_equal(client_hello_parse(slice_of(out.p, n), &h, NULL), E_AGAIN);
        assert_int_equal(client_hello_parse(buf_view(&out), &h, NULL), 0);
        assert_string_equal(h.name, "example.org");
        buf_fini(&out);
    }
    buf_fini(&hello);
}

static void second_ones(void **state)
{
    (void)state;
    struct buf hello = real_hello("example.org", TLS1_3_VERSION, NULL), out = BUF_INIT(65536);
    struct client_hello h;
    (void)buf_append(&out, "\x14\x03\x03\x00\x01\x01", 6);
    (void)buf_append(&out, "\x17\x03\x03\x00\x05zzzzz", 10);
    (void)buf_slice(&out, buf_view(&hello));
    for (size_t n = 0; n < out.n; n++)
        assert_int_equal(client_hello_parse_second(slice_of(out.p, n), &h, NULL), E_AGAIN);
    assert_int_equal(client_hello_parse_second(buf_view(&out), &h, NULL), 0);
    assert_string_equal(h.name, "example.org");
    assert_int_equal(h.n_bytes, out.n);
    assert_int_equal(client_hello_parse_second(SL("\x15\x03\x03\x00\x02\x01\x00"), &h, NULL), E_INVALID);
    buf_reset(&out);
    for (int i = 0; i < 100; i++)
        (void)buf_append(&out, "\x14\x03\x03\x00\x01\x01", 6);
    assert_int_equal(client_hello_parse_second(buf_view(&out), &h, NULL), E_TOO_LARGE);
    /* one behind it in the same record */
    size_t n = hello.n - 5;
    (void)buf_str(&hello, "\x01");
    hello.p[3] = (char)((n + 1) >> 8);
    hello.p[4] = (char)(n + 1);
    assert_int_equal(client_hello_parse(buf_view(&hello), &h, NULL), E_SYNTAX);
    assert_int_equal(client_hello_parse(slice_of(hello.p, hello.n - 1), &h, NULL), E_SYNTAX);
    buf_fini(&hello);
    buf_fini(&out);
}

/* What OpenSSL answers to a client whose first curve it does not take, and to one whose it takes. */
static void server_hellos(void **state)
{
    (void)state;
    for (int is_retry = 0; is_retry < 2; is_retry++) {
        SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
        struct buf hello = real_hello("example.org", TLS1_3_VERSION, NULL);
        SSL *ssl;
        char *p;
        bool got;
        EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
        X509 *cert = X509_new();
        assert_true(X509_set_pubkey(cert, key) == 1 && X509_sign(cert, key, EVP_sha256()) > 0);
        assert_true(SSL_CTX_use_cert_and_key(ctx, cert, key, NULL, 1) == 1);
        assert_int_equal(SSL_CTX_set1_groups_list(ctx, is_retry ? "P-384" : "X25519"), 1);
        ssl = SSL_new(ctx);
        SSL_set_bio(ssl, BIO_new_mem_buf(hello.p, (int)hello.n), BIO_new(BIO_s_mem()));
        SSL_set_accept_state(ssl);
        (void)SSL_do_handshake(ssl);
        long n = BIO_get_mem_data(SSL_get_wbio(ssl), &p);
        assert_true(n > SERVER_HELLO_BYTES);
        for (size_t i = 0; i < SERVER_HELLO_BYTES; i++)
            assert_int_equal(server_hello_parse(slice_of(p, i), &got), E_AGAIN);
        assert_int_equal(server_hello_parse(slice_of(p, SERVER_HELLO_BYTES), &got), 0);
        assert_int_equal(got, is_retry);
        SSL_free(ssl);
        SSL_CTX_free(ctx);
        X509_free(cert);
        EVP_PKEY_free(key);
        buf_fini(&hello);
    }
    bool got;
    assert_int_equal(server_hello_parse(SL("\x15"), &got), 0); /* an alert */
    assert_false(got);
}

/* A hello of parts; `extensions` as bytes. */
static struct buf made(struct slice extensions, size_t lie)
{
    struct buf body = BUF_INIT(65536), out = BUF_INIT(65536);
    (void)buf_append(&body, "\x03\x03", 2);
    for (int i = 0; i < 32; i++)
        (void)buf_byte(&body, (char)i);
    (void)buf_append(&body, "\x00\x00\x02\x13\x01\x01\x00", 7);
    (void)buf_byte(&body, (char)((extensions.n + lie) >> 8));
    (void)buf_byte(&body, (char)(extensions.n + lie));
    (void)buf_slice(&body, extensions);
    size_t n = body.n + 4;
    const char head[9] = {22, 3, 1, (char)(n >> 8), (char)n, 1, 0, (char)(body.n >> 8), (char)body.n};
    (void)buf_append(&out, head, 9);
    (void)buf_slice(&out, buf_view(&body));
    buf_fini(&body);
    return out;
}

static int code_of(struct slice extensions, size_t lie, struct client_hello *h)
{
    struct buf b = made(extensions, lie);
    int rc = client_hello_parse(buf_view(&b), h, NULL);
    buf_fini(&b);
    return rc;
}

static void made_ones(void **state)
{
    (void)state;
    static const char good[] = "\x00\x00\x00\x0a\x00\x08\x00\x00\x05"
                               "a.com";
    struct client_hello h;
    assert_int_equal(code_of(SL(good), 0, &h), 0);
    assert_string_equal(h.name, "a.com");
    assert_int_equal(code_of(SL("\x00\x0b\x00\x02\x01\x00"), 0, &h), 0);
    assert_false(h.has_name);
    assert_int_equal(code_of(SL(good), 1, &h), E_SYNTAX); /* too long */
    assert_int_equal(code_of(SL("\x00\x00\x00\x0b\x00\x08\x00\x00\x05"
                                "a.com"),
                             0, &h),
                     E_SYNTAX);
    assert_int_equal(code_of(SL("\x00\x00\x00\x0a\x00\x07\x00\x00\x05"
                                "a.com"),
                             0, &h),
                     E_SYNTAX);
    assert_int_equal(code_of(SL("\x00\x00\x00\x0a\x00\x08\x00\x00\x06"
                                "a.com"),
                             0, &h),
                     E_SYNTAX);
    assert_int_equal(code_of(SL("\x00\x00\x00\x0a\x00\x08\x01\x00\x05"
                                "a.com"),
                             0, &h),
                     E_SYNTAX);                                                             /* type 1 */
    assert_int_equal(code_of(SL("\x00\x00\x00\x05\x00\x03\x00\x00\x00"), 0, &h), E_SYNTAX); /* empty name */
    assert_int_equal(code_of(SL("\x00\x00\x00\x02\x00\x00"), 0, &h), E_SYNTAX);             /* empty list */
    assert_int_equal(code_of(SL("\x00\x00\x00\x0a\x00\x08\x00\x00\x05"
                                "a\0com"),
                             0, &h),
                     E_SYNTAX);
    assert_int_equal(code_of(SL("\x00\x00\x00\x0e\x00\x0c\x00\x00\x03"
                                "a.b\x00\x00\x03"
                                "c.d"),
                             0, &h),
                     E_SYNTAX); /* two names */
    assert_int_equal(code_of(SL("\x00\x00\x00\x08\x00\x06\x00\x00\x03"
                                "a.b\x00\x00\x00\x08\x00\x06\x00\x00\x03"
                                "c.d"),
                             0, &h),
                     E_SYNTAX); /* the extension twice */
}

static void what_is_not_tls(void **state)
{
    (void)state;
    struct client_hello h;
    static const struct {
        struct slice in;
        int code;
    } rows[] = {
        {{"", 0}, E_AGAIN},
        {{"\x16", 1}, E_AGAIN},
        {{"\x16\x03\x01\x00", 4}, E_AGAIN},
        {{"GET / HTTP/1.1\r\n", 16}, E_INVALID},
        {{"SSH-2.0-x\r\n", 11}, E_INVALID},
        {{"\x80\x2e\x01\x03\x01", 5}, E_INVALID},         /* SSLv2 */
        {{"\x15\x03\x01\x00\x02\x01\x00", 7}, E_INVALID}, /* an alert */
        {{"\x16\x02\x01\x00\x05", 5}, E_INVALID},
        {{"\x16\x03\x01\x00\x00", 5}, E_SYNTAX},                 /* empty record */
        {{"\x16\x03\x01\x40\x01", 5}, E_SYNTAX},                 /* too large a record */
        {{"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 9}, E_SYNTAX}, /* a ServerHello */
        {{"\x16\x03\x01\x00\x04\x01\x01\x00\x00", 9}, E_TOO_LARGE},
        {{"\x16\x03\x01\x00\x04\x01\x00\x00\x00", 9}, E_SYNTAX},              /* nothing in it */
        {{"\x16\x03\x01\x00\x02\x01\x00\x17\x03\x01\x00\x01", 12}, E_SYNTAX}, /* other data inside */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (client_hello_parse(rows[i].in, &h, NULL) != rows[i].code)
            fail_msg("row %zu: %s", i, err_name(client_hello_parse(rows[i].in, &h, NULL)));
    /* one that never ends */
    char big[CLIENT_HELLO_RECORDS_MAX] = {0};
    for (size_t at = 0; at + 6 <= sizeof big; at += 6)
        memcpy(big + at, "\x16\x03\x01\x00\x01", 5);
    big[5] = 1;
    big[17] = 0x30; /* 12 KiB are promised */
    assert_int_equal(client_hello_parse(slice_of(big, sizeof big), &h, NULL), E_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(real_ones),   cmocka_unit_test(split_records),
                                       cmocka_unit_test(second_ones), cmocka_unit_test(server_hellos),
                                       cmocka_unit_test(made_ones),   cmocka_unit_test(what_is_not_tls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
