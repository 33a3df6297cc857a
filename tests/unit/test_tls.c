/* The TLS client against a real OpenSSL server: whom it believes, what it says when it does not, and what it
 * makes of servers that fragment, cut, renegotiate, update keys or stay silent. */
#include "tls_fixture.h"

#include <stdlib.h>

#include "base/net/tls.h"

/* --- the cast --- */

static struct cert root, other_root, middle, old_middle, server;
static struct tls_trust *trust;

static int group_setup(void **state)
{
    struct buf pem = BUF_INIT(65536);

    (void)state;
    root = cert_make(NULL, &(struct cert_wish){.name = "Test Root", .is_ca = true});
    other_root = cert_make(NULL, &(struct cert_wish){.name = "Other Root", .is_ca = true});
    middle = cert_make(&root, &(struct cert_wish){.name = "Test Middle", .is_ca = true});
    old_middle = cert_make(
        &root,
        &(struct cert_wish){.name = "Old Middle", .is_ca = true, .from_s = -9 * DAY_S, .to_s = -DAY_S});
    server = cert_make(&root, &(struct cert_wish){.name = "server", .hosts = "DNS:llm.example.org"});
    cert_pem(&root, &pem);
    assert_int_equal(tls_trust_new(buf_view(&pem), &trust, NULL), 0);
    buf_fini(&pem);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    tls_trust_free(trust);
    cert_fini(&root);
    cert_fini(&other_root);
    cert_fini(&middle);
    cert_fini(&old_middle);
    cert_fini(&server);
    return 0;
}

/* --- one meeting of both --- */

struct far_wish {
    const struct cert *cert;  /* NULL: `server` */
    const struct cert *chain; /* sent behind it */
    size_t n_chain;
    int version_max; /* 0: TLS 1.3 */
    SSL_CTX *ctx;    /* NULL: one is made */
    size_t piece;
};

static SSL_CTX *far_ctx(const struct far_wish *w)
{
    const struct cert *c = w->cert != NULL ? w->cert : &server;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    size_t i;

    assert_non_null(ctx);
    SSL_CTX_set_security_level(ctx, 0); /* what is weak shall be the client's to refuse */
    SSL_CTX_set_max_cert_list(ctx, 1 << 20);
    if (w->version_max != 0) {
        SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
        SSL_CTX_set_max_proto_version(ctx, w->version_max);
    }
    assert_int_equal(SSL_CTX_use_certificate(ctx, c->x509), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, c->key), 1);
    for (i = 0; i < w->n_chain; i++)
        assert_int_equal(SSL_CTX_add1_chain_cert(ctx, w->chain[i].x509), 1);
    return ctx;
}

struct meeting {
    struct link link;
    struct connector below;
    struct connector_tls tls;
    void *handle;
    struct peer near; /* owner of the TLS stream */
    bool is_open_done, is_cancelled_below;
    int code;
    char message[ERR_MSG_MAX];
    connect_done_cb done; /* of the connector below */
    void *done_data;
    bool is_paused; /* the near end does not read at first */
};

static void on_below_open(void *data)
{
    struct meeting *m = data;
    struct err err;

    if (m->is_cancelled_below)
        m->done(err_set(&err, E_CANCELLED, "cancelled"), NULL, &err, m->done_data);
    else
        m->done(0, &m->link.base, NULL, m->done_data);
}

static void *below_open(const struct connector *c, struct loop *l, int64_t timeout_ms, connect_done_cb done,
                        void *data)
{
    struct meeting *m = c->data;

    (void)timeout_ms;
    m->done = done;
    m->done_data = data;
    loop_defer(l, on_below_open, m);
    return m;
}

static void below_cancel(const struct connector *c, void *handle)
{
    (void)c;
    ((struct meeting *)handle)->is_cancelled_below = true;
}

static void on_open(int code, struct stream *s, const struct err *err, void *data)
{
    struct meeting *m = data;

    assert_false(m->is_open_done);
    m->is_open_done = true;
    m->code = code;
    if (code == 0)
        peer_adopt(&m->near, s, !m->is_paused);
    else
        (void)snprintf(m->message, sizeof(m->message), "%s", err->msg);
}

static void meeting_begin(struct meeting *m, const struct far_wish *w, const char *host)
{
    SSL_CTX *ctx = w->ctx != NULL ? w->ctx : far_ctx(w);
    SSL *ssl = SSL_new(ctx);

    if (w->ctx == NULL)
        SSL_CTX_free(ctx);
    SSL_set_accept_state(ssl);
    *m = (struct meeting){.below = {below_open, below_cancel, m}};
    link_init(&m->link, ssl);
    m->link.piece = w->piece;
    connector_tls_init(&m->tls, &m->below, trust, host);
}

static void meeting_open(struct meeting *m, int64_t timeout_ms)
{
    m->handle = m->tls.connector.open(&m->tls.connector, &loop, timeout_ms, on_open, m);
    assert_false(m->is_open_done);
}

static void meet(struct meeting *m, const struct far_wish *w, const char *host)
{
    meeting_begin(m, w, host);
    meeting_open(m, 20000);
    WAIT_FOR(m->is_open_done);
}

static void meet_well(struct meeting *m, const struct far_wish *w)
{
    meet(m, w, "llm.example.org");
    if (m->code != 0)
        fail_msg("%s", m->message);
}

static void part(struct meeting *m)
{
    peer_fini(&m->near);
    connector_tls_fini(&m->tls);
    assert_true(m->link.is_near_closed);
    link_fini(&m->link);
}

static void exchange_words(struct meeting *m)
{
    peer_say(&m->near, "question");
    WAIT_FOR(link_heard(&m->link, "question"));
    link_say(&m->link, "answer");
    WAIT_FOR(peer_heard(&m->near, "answer"));
    buf_fini(&m->link.heard);
    buf_fini(&m->near.in);
}

/* --- good servers --- */

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
                   unsigned in_n, void *data)
{
    (void)ssl;
    (void)data;
    assert_int_equal(in_n, 9);
    assert_memory_equal(in, "\x08http/1.1", 9);
    *out = in + 1;
    *n = 8;
    return SSL_TLSEXT_ERR_OK;
}

static void test_speaks_both_versions(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++) {
        struct far_wish w = {.version_max = versions[i]};
        struct meeting m;

        w.ctx = far_ctx(&w);
        SSL_CTX_set_alpn_select_cb(w.ctx, on_alpn, NULL);
        meet_well(&m, &w);
        exchange_words(&m);
        assert_int_equal(SSL_version(m.link.ssl), versions[i]);
        assert_string_equal(SSL_get_servername(m.link.ssl, TLSEXT_NAMETYPE_host_name), "llm.example.org");
        part(&m);
        SSL_CTX_free(w.ctx);
    }
}

static void test_weak_suites_are_not_offered(void **state)
{
    static const char *const weak[] = {"AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256",
                                       "AES256-GCM-SHA384"};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(weak); i++) {
        struct far_wish w = {.version_max = TLS1_2_VERSION};
        struct meeting m;

        w.ctx = far_ctx(&w);
        assert_int_equal(SSL_CTX_set_cipher_list(w.ctx, weak[i]), 1);
        meet(&m, &w, "llm.example.org");
        assert_int_equal(m.code, E_UPSTREAM);
        if (strstr(m.message, "no common ground") == NULL)
            fail_msg("%s", m.message);
        part(&m);
        SSL_CTX_free(w.ctx);
    }
}

/* --- whom it believes --- */

static void refused(const char *what, const struct far_wish *w, const char *host, const char *why)
{
    struct meeting m;

    meet(&m, w, host);
    if (m.code != E_UPSTREAM || strstr(m.message, why) == NULL)
        fail_msg("%s: code %d, \"%s\" instead of \"%s\"", what, m.code, m.message, why);
    assert_null(m.near.stream);
    part(&m);
}

static void believed(const char *what, const struct far_wish *w, const char *host)
{
    struct meeting m;

    meet(&m, w, host);
    if (m.code != 0)
        fail_msg("%s: %s", what, m.message);
    exchange_words(&m);
    part(&m);
}

static struct cert leaf(const struct cert *by, const char *hosts)
{
    return cert_make(by, &(struct cert_wish){.name = "leaf", .hosts = hosts});
}

static void test_times(void **state)
{
    struct cert c;

    (void)state;
    c = cert_make(&root, &(struct cert_wish){
                             .name = "x", .hosts = "DNS:a.example", .from_s = -3 * DAY_S, .to_s = -DAY_S});
    refused("expired", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: expired on 20");
    cert_fini(&c);
    c = cert_make(&root, &(struct cert_wish){
                             .name = "x", .hosts = "DNS:a.example", .from_s = DAY_S, .to_s = 2 * DAY_S});
    refused("not yet", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: is valid only from 20");
    cert_fini(&c);
    c = leaf(&old_middle, "DNS:a.example");
    refused("expired in the chain", &(struct far_wish){.cert = &c, .chain = &old_middle, .n_chain = 1},
            "a.example", "certificate of a.example: the authority CN=Old Middle in its chain expired on 20");
    cert_fini(&c);
}

static void test_issuers(void **state)
{
    struct cert c = cert_make(NULL, &(struct cert_wish){.name = "x", .hosts = "DNS:a.example"});
    struct cert chain[] = {other_root, middle, root};

    (void)state;
    refused("self-signed", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: it is self-signed");
    cert_fini(&c);
    c = leaf(&other_root, "DNS:a.example");
    refused("unknown", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: issued by an unknown authority: CN=Other Root");
    refused("unknown, sent", &(struct far_wish){.cert = &c, .chain = &other_root, .n_chain = 1}, "a.example",
            "certificate of a.example: issued by an unknown authority: CN=Other Root");
    cert_fini(&c);
    c = leaf(&middle, "DNS:a.example");
    refused("no intermediate", &(struct far_wish){.cert = &c}, "a.example",
            "issued by an unknown authority: CN=Test Middle (neither known here nor sent by the server)");
    believed("intermediate", &(struct far_wish){.cert = &c, .chain = &middle, .n_chain = 1}, "a.example");
    believed("out of order, with a stranger and the root",
             &(struct far_wish){.cert = &c, .chain = chain, .n_chain = ARRAY_LEN(chain)}, "a.example");
    cert_fini(&c);
    c = leaf(&server, "DNS:a.example"); /* issued by one that is no authority */
    refused("not an authority", &(struct far_wish){.cert = &c, .chain = &server, .n_chain = 1}, "a.example",
            "certificate of a.example: ");
    cert_fini(&c);
}

static void test_names(void **state)
{
    struct cert c = leaf(&root, "DNS:a.example,DNS:*.b.example,IP:127.0.0.1,IP:::1");
    struct far_wish w = {.cert = &c};
    static const char *const good[] = {"a.example",   "A.EXAMPLE", "a.example.",
                                       "x.b.example", "127.0.0.1", "::1"};
    static const char *const bad[] = {"b.example", "x.y.b.example", "aa.example", "127.0.0.2", "::2", "leaf"};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(good); i++)
        believed(good[i], &w, good[i]);
    for (i = 0; i < ARRAY_LEN(bad); i++)
        refused(bad[i], &w, bad[i], "it is for other names: a.example, *.b.example, 127.0.0.1, ::1");
    cert_fini(&c);
    c = leaf(&root, NULL);
    refused("a common name alone", &w, "leaf", "certificate of leaf: it names no host");
    cert_fini(&c);
    c = leaf(&root, "DNS:127.0.0.1");
    refused("an address as a name", &w, "127.0.0.1", "it is for other names: 127.0.0.1");
    cert_fini(&c);
    c = leaf(&root, "DNS:a.*.example,DNS:w*.c.example");
    refused("a wildcard inside", &w, "a.b.example", "it is for other names");
    refused("half a wildcard", &w, "www.c.example", "it is for other names");
    cert_fini(&c);
}

static void test_addresses_are_not_sent_as_names(void **state)
{
    struct cert c = leaf(&root, "IP:127.0.0.1");
    struct far_wish w = {.cert = &c};
    struct meeting m;

    (void)state;
    meet(&m, &w, "127.0.0.1");
    assert_int_equal(m.code, 0);
    assert_null(SSL_get_servername(m.link.ssl, TLSEXT_NAMETYPE_host_name));
    part(&m);
    cert_fini(&c);
}

static void test_weak_certificates(void **state)
{
    struct cert c;

    (void)state;
    c = cert_make(&root, &(struct cert_wish){.name = "x", .hosts = "DNS:a.example", .usage = "clientAuth"});
    refused("a client's", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: is not made for servers");
    cert_fini(&c);
    c = cert_make(&root, &(struct cert_wish){.name = "x", .hosts = "DNS:a.example", .rsa_bits = 1024});
    refused("1024 bits", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: EE certificate key too weak");
    cert_fini(&c);
    c = cert_make(&root, &(struct cert_wish){.name = "x", .hosts = "DNS:a.example", .is_sha1 = true});
    refused("SHA-1", &(struct far_wish){.cert = &c}, "a.example",
            "certificate of a.example: CA signature digest algorithm too weak");
    cert_fini(&c);
    c = cert_make(&root, &(struct cert_wish){.name = "x", .hosts = "DNS:a.example", .rsa_bits = 2048});
    believed("2048 bits", &(struct far_wish){.cert = &c}, "a.example");
    cert_fini(&c);
}

/* What a meeting with `t` as the list ends with. */
static void meet_trusting(struct tls_trust *t, const struct far_wish *w, const char *host, const char *why)
{
    struct meeting m;

    meeting_begin(&m, w, host);
    connector_tls_trust(&m.tls, t);
    tls_trust_free(t);
    meeting_open(&m, 20000);
    WAIT_FOR(m.is_open_done);
    if (why == NULL)
        assert_string_equal(m.message, "");
    else if (strstr(m.message, why) == NULL)
        fail_msg("\"%s\" instead of \"%s\"", m.message, why);
    part(&m);
}

static void test_lists_of_authorities(void **state)
{
    struct buf pem = BUF_INIT(1 << 20);
    struct tls_trust *t = NULL;
    struct cert c = leaf(&middle, "DNS:a.example");
    struct err err;

    (void)state;
    assert_int_equal(tls_trust_new(SL("nothing of use"), &t, &err), E_INVALID);
    assert_non_null(strstr(err.msg, "there is no certificate in it"));
    assert_int_equal(
        tls_trust_new(SL("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), &t, &err),
        E_INVALID);
    assert_non_null(strstr(err.msg, "certificate 1 of it cannot be read"));
    assert_int_equal(buf_str(&pem, "# comments are fine\n"), 0);
    cert_pem(&other_root, &pem);
    cert_pem(&other_root, &pem); /* twice is no mistake */
    cert_pem(&middle, &pem);     /* an intermediate may be the anchor */
    assert_int_equal(tls_trust_new(buf_view(&pem), &t, NULL), 0);
    meet_trusting(t, &(struct far_wish){.cert = &c}, "a.example", NULL);
    buf_fini(&pem);
    cert_fini(&c);
}

static void test_system_list(void **state)
{
    char path[] = "/tmp/reeve-ca-XXXXXX";
    int fd = mkstemp(path);
    struct buf pem = BUF_INIT(65536);
    struct tls_trust *t = NULL;

    (void)state;
    assert_int_equal(tls_trust_new(SLICE_EMPTY, &t, NULL), 0);
    meet_trusting(t, &(struct far_wish){0}, "llm.example.org",
                  "issued by an unknown authority: CN=Test Root");
    /* What the environment names is the system's list. */
    cert_pem(&root, &pem);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, pem.p, pem.n), (int)pem.n);
    (void)close(fd);
    assert_int_equal(setenv("SSL_CERT_FILE", path, 1), 0);
    assert_int_equal(tls_trust_new(SLICE_EMPTY, &t, NULL), 0);
    assert_true(tls_trust_is_current(t));
    assert_int_equal(truncate(path, (off_t)pem.n - 1), 0);
    assert_false(tls_trust_is_current(t));
    assert_int_equal(unsetenv("SSL_CERT_FILE"), 0);
    assert_int_equal(unlink(path), 0);
    meet_trusting(t, &(struct far_wish){0}, "llm.example.org", NULL);
    buf_fini(&pem);
}

/* --- servers that are old, odd or silent --- */

static void test_old_versions(void **state)
{
    (void)state;
    refused("TLS 1.1", &(struct far_wish){.version_max = TLS1_1_VERSION}, "llm.example.org",
            "TLS with llm.example.org: the server refuses TLS 1.2 and newer");
    refused("TLS 1.0", &(struct far_wish){.version_max = TLS1_VERSION}, "llm.example.org",
            "TLS with llm.example.org: the server refuses TLS 1.2 and newer");
}

/* A peer that says fixed bytes instead of TLS. */
static void not_tls(const char *bytes, size_t n, bool ends, const char *why)
{
    struct meeting m;

    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    SSL_free(m.link.ssl);
    m.link.ssl = NULL;
    link_say_raw(&m.link, bytes, n);
    if (ends)
        link_end(&m.link);
    meeting_open(&m, 20000);
    WAIT_FOR(m.is_open_done);
    if (m.code != E_UPSTREAM || strstr(m.message, why) == NULL)
        fail_msg("code %d, \"%s\" instead of \"%s\"", m.code, m.message, why);
    part(&m);
}

static void test_not_tls(void **state)
{
    static const char http[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    static const char v11[] = "\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02"
                              "0123456789abcdef0123456789abcdef\x00\x00\x2f\x00";
    static const char alert[] = "\x15\x03\x03\x00\x02\x02\x70";
    static const char giant[] = "\x16\x03\x03\xff\xff"
                                "aaaaaaaaaaaa";

    (void)state;
    not_tls(http, sizeof(http) - 1, false, "the server answers in something other than TLS");
    not_tls(v11, sizeof(v11) - 1, false, "the server speaks no TLS 1.2 or newer");
    not_tls(alert, sizeof(alert) - 1, false, "the server does not serve this name");
    not_tls("", 0, true, "the connection was closed within the handshake");
    not_tls("\x16\x03\x03\x02", 4, true, "the connection was closed within the handshake");
    not_tls(giant, sizeof(giant) - 1, false, "the handshake failed");
}

static void test_silence(void **state)
{
    struct meeting m;

    (void)state;
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    m.link.held = SIZE_MAX; /* nothing comes */
    meeting_open(&m, 60);
    WAIT_FOR(m.is_open_done);
    assert_int_equal(m.code, E_TIMEOUT);
    assert_string_equal(m.message, "TLS with llm.example.org: no handshake within the deadline");
    part(&m);
}

static void test_cancel(void **state)
{
    struct meeting m;

    (void)state;
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    m.link.held = SIZE_MAX;
    meeting_open(&m, 20000);
    WAIT_FOR(m.link.n_writes > 0);
    run_for(5);
    assert_false(m.is_open_done);
    m.tls.connector.cancel(&m.tls.connector, m.handle);
    assert_false(m.is_open_done);
    WAIT_FOR(m.is_open_done);
    assert_int_equal(m.code, E_CANCELLED);
    part(&m);
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org"); /* while the connector below is at work */
    meeting_open(&m, 20000);
    m.tls.connector.cancel(&m.tls.connector, m.handle);
    WAIT_FOR(m.is_open_done);
    assert_int_equal(m.code, E_CANCELLED);
    connector_tls_fini(&m.tls);
    link_fini(&m.link);
}

static void cancel_now(void *data)
{
    struct meeting *m = data;

    if (!m->is_open_done)
        m->tls.connector.cancel(&m->tls.connector, m->handle);
}

/* The cancel meets a handshake that has just succeeded, but is not told yet: no stream is lost. */
static void test_cancel_at_the_last_moment(void **state)
{
    struct meeting m;

    (void)state;
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    meeting_open(&m, 20000);
    while (!m.link.is_shaken)
        uv_run(&loop.uv, UV_RUN_ONCE);
    cancel_now(&m); /* the far end has our Finished: our side succeeded within this turn */
    WAIT_FOR(m.is_open_done);
    assert_int_equal(m.code, E_CANCELLED);
    part(&m);
}

/* --- fragments and sizes --- */

static void test_byte_by_byte(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    size_t i, piece;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++)
        for (piece = 1; piece <= 6; piece += 5) {
            struct meeting m;

            meet_well(&m, &(struct far_wish){.version_max = versions[i], .piece = piece});
            exchange_words(&m);
            exchange_words(&m);
            link_close_notify(&m.link);
            WAIT_FOR(m.near.is_eof);
            part(&m);
        }
}

static void test_large_chains(void **state)
{
    enum { STRANGERS = 60 };
    static char filler[2000];
    struct cert one, chain[STRANGERS];
    struct far_wish w = {.chain = chain, .n_chain = 30};
    size_t i;

    (void)state;
    memset(filler, 'x', sizeof(filler) - 1);
    one = cert_make(NULL, &(struct cert_wish){.name = "stranger", .more = filler});
    for (i = 0; i < STRANGERS; i++)
        chain[i] = one;
    believed("70 KiB", &w, "llm.example.org");
    w.piece = 997;
    believed("70 KiB in pieces", &w, "llm.example.org");
    w.version_max = TLS1_2_VERSION;
    believed("70 KiB, TLS 1.2", &w, "llm.example.org");
    w.n_chain = STRANGERS;
    refused("140 KiB, TLS 1.2", &w, "llm.example.org",
            "the server sends a handshake message larger than allowed");
    w.version_max = 0;
    refused("140 KiB", &w, "llm.example.org", "the server sends a handshake message larger than allowed");
    cert_fini(&one);
}

static void pattern_fill(char *p, size_t n)
{
    uint32_t x = 12345;
    size_t i;

    for (i = 0; i < n; i++) {
        x = x * 1103515245u + 12345u;
        p[i] = (char)(x >> 16);
    }
}

static void test_large_data_both_ways(void **state)
{
    enum { BYTES = 3 << 20 };
    static const size_t sizes[] = {1, 5, 16383, 16384, 16385, 40000, 7, 3, 100000};
    char *data = mem_alloc(BYTES);
    struct slice v[3];
    struct meeting m;
    size_t at = 0, i = 0, k;

    (void)state;
    pattern_fill(data, BYTES);
    meet_well(&m, &(struct far_wish){0});
    while (at < BYTES) {
        for (k = 0; k < 3; k++, i++) {
            size_t n = sizes[i % ARRAY_LEN(sizes)];

            n = n < BYTES - at ? n : BYTES - at;
            v[k] = slice_of(data + at, n);
            at += n;
        }
        assert_int_equal(stream_write(m.near.stream, v, 3), 0);
    }
    WAIT_FOR(m.link.heard.n == BYTES);
    assert_memory_equal(m.link.heard.p, data, BYTES);
    buf_fini(&m.link.heard);
    v[0] = slice_of(data, BYTES); /* one write of any size */
    assert_int_equal(stream_write(m.near.stream, v, 1), 0);
    WAIT_FOR(m.link.heard.n == BYTES);
    assert_memory_equal(m.link.heard.p, data, BYTES);
    link_say_n(&m.link, data, BYTES);
    WAIT_FOR(m.near.in.n == BYTES);
    assert_memory_equal(m.near.in.p, data, BYTES);
    part(&m);
    mem_free(data);
}

static void test_small_slices_share_a_record(void **state)
{
    struct slice v[64];
    struct meeting m;
    size_t i;
    unsigned before;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    for (i = 0; i < ARRAY_LEN(v); i++)
        v[i] = SL("abc");
    before = m.link.n_writes;
    assert_int_equal(stream_write(m.near.stream, v, ARRAY_LEN(v)), 0);
    assert_int_equal(m.link.n_writes, before + 1);
    assert_int_equal(m.link.heard.n, 3 * ARRAY_LEN(v));
    part(&m);
}

/* --- ends --- */

static void test_truncated_close(void **state)
{
    struct meeting m;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    link_say(&m.link, "half an ans");
    link_end(&m.link);
    WAIT_FOR(m.near.error != 0);
    assert_int_equal(m.near.error, E_IO);
    assert_false(m.near.is_eof);
    assert_true(peer_heard(&m.near, "half an ans"));
    part(&m);
    /* within a record */
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    m.link.held = 1;
    link_say(&m.link, "half a record");
    run_for(5);
    m.link.out.n--;
    m.link.held = 0;
    link_end(&m.link);
    WAIT_FOR(m.near.error != 0);
    assert_int_equal(m.near.in.n, 0);
    part(&m);
}

static void test_half_close(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++) {
        struct meeting m;

        /* the server ends its half; ours goes on */
        meet_well(&m, &(struct far_wish){.version_max = versions[i]});
        link_say(&m.link, "the last word");
        link_close_notify(&m.link);
        link_end(&m.link);
        WAIT_FOR(m.near.is_eof);
        assert_int_equal(m.near.error, 0);
        assert_true(peer_heard(&m.near, "the last word"));
        peer_say(&m.near, "one more thing");
        WAIT_FOR(link_heard(&m.link, "one more thing"));
        part(&m);
        /* we end ours; the server's goes on */
        meet_well(&m, &(struct far_wish){.version_max = versions[i]});
        exchange_words(&m);
        peer_say(&m.near, "bye");
        stream_shutdown(m.near.stream);
        WAIT_FOR(m.link.is_closed_well);
        assert_true(link_heard(&m.link, "bye"));
        assert_true(m.link.is_near_shut);
        link_say(&m.link, "still here");
        WAIT_FOR(peer_heard(&m.near, "still here"));
        link_close_notify(&m.link);
        WAIT_FOR(m.near.is_eof);
        part(&m);
    }
}

static void test_close_says_farewell(void **state)
{
    struct meeting m;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    stream_close(m.near.stream);
    m.near.stream = NULL;
    assert_true(m.link.is_closed_well);
    part(&m);
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    stream_reset(m.near.stream);
    m.near.stream = NULL;
    assert_false(m.link.is_closed_well);
    assert_true(m.link.is_near_reset);
    part(&m);
}

/* A new owner is told the end again, as with sockets. */
static void test_end_is_told_to_a_new_owner(void **state)
{
    struct meeting m;
    struct peer second;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    link_close_notify(&m.link);
    WAIT_FOR(m.near.is_eof);
    stream_read_start(m.near.stream); /* the same owner: not again */
    run_for(5);
    peer_adopt(&second, m.near.stream, true);
    assert_false(second.is_eof);
    WAIT_FOR(second.is_eof);
    m.near.stream = NULL;
    peer_fini(&second);
    part(&m);
}

static void test_damaged_record(void **state)
{
    struct meeting m;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    m.link.held = SIZE_MAX;
    link_say(&m.link, "what was said");
    run_for(5);
    m.link.out.p[m.link.out.n - 1] ^= 1;
    m.link.held = 0;
    link_kick(&m.link);
    WAIT_FOR(m.near.error != 0);
    assert_int_equal(m.near.error, E_IO);
    assert_int_equal(m.near.in.n, 0);
    assert_int_not_equal(m.link.far_error, 0); /* our alert arrived */
    part(&m);
}

/* --- what a server may do later --- */

static void test_key_updates(void **state)
{
    struct meeting m;
    int i;

    (void)state;
    meet_well(&m, &(struct far_wish){.piece = 3});
    for (i = 0; i < 40; i++) {
        assert_int_equal(
            SSL_key_update(m.link.ssl, i % 2 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        exchange_words(&m);
    }
    part(&m);
}

static void test_renegotiation_is_declined(void **state)
{
    struct meeting m;

    (void)state;
    meet_well(&m, &(struct far_wish){.version_max = TLS1_2_VERSION});
    exchange_words(&m);
    assert_int_equal(SSL_renegotiate(m.link.ssl), 1);
    (void)SSL_do_handshake(m.link.ssl); /* sends HelloRequest */
    link_collect(&m.link);
    WAIT_FOR(m.link.far_error != 0); /* we said no, and this server insists */
    assert_int_equal(m.link.far_reason, SSL_R_NO_RENEGOTIATION);
    WAIT_FOR(m.near.error != 0);
    part(&m);
}

/* Makes tickets of several records. */
static int on_ticket(SSL *ssl, void *data)
{
    static const char filler[2000];

    (void)data;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), filler, sizeof(filler));
}

/* The library cannot write while it has half a session ticket. */
static void test_write_within_a_ticket(void **state)
{
    static const size_t cuts[] = {1, 5, 6, 600, 1100, 1700};
    bool was_stopped = false;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cuts); i++) {
        struct far_wish w = {0};
        struct meeting m;
        int rc;

        w.ctx = far_ctx(&w);
        SSL_CTX_set_num_tickets(w.ctx, 0);
        SSL_CTX_set_max_send_fragment(w.ctx, 512);
        SSL_CTX_set_session_ticket_cb(w.ctx, on_ticket, NULL, NULL);
        meet_well(&m, &w);
        exchange_words(&m);
        m.link.held = SIZE_MAX;
        assert_int_equal(SSL_new_session_ticket(m.link.ssl), 1);
        (void)SSL_do_handshake(m.link.ssl);
        link_collect(&m.link);
        assert_true(m.link.out.n > cuts[i]);
        m.link.held = m.link.out.n - cuts[i];
        link_kick(&m.link);
        run_for(3);
        rc = peer_say_n(&m.near, "in between", 10);
        assert_true(rc == 0 || rc == E_AGAIN);
        assert_int_equal(stream_queued(m.near.stream) > 0, rc == E_AGAIN);
        was_stopped = was_stopped || rc == E_AGAIN;
        stream_read_stop(m.near.stream); /* the write must not depend on the owner's reading */
        (void)peer_say_n(&m.near, " and more", 9);
        stream_shutdown(m.near.stream);
        m.link.held = 0;
        link_kick(&m.link);
        WAIT_FOR(m.link.is_closed_well);
        assert_string_equal(buf_cstr(&m.link.heard), "in between and more");
        part(&m);
        SSL_CTX_free(w.ctx);
    }
    assert_true(was_stopped); /* else the cuts miss the case */
}

/* The connector stays, its peer is a new one. True when the session was resumed. */
static bool meet_again(struct meeting *m, SSL_CTX *ctx)
{
    struct connector_tls tls = m->tls;

    peer_fini(&m->near);
    link_fini(&m->link);
    *m = (struct meeting){.below = {below_open, below_cancel, m}};
    link_init(&m->link, SSL_new(ctx));
    SSL_set_accept_state(m->link.ssl);
    m->tls = tls;
    m->tls.connector.data = &m->tls;
    meeting_open(m, 20000);
    WAIT_FOR(m->is_open_done);
    assert_int_equal(m->code, 0);
    exchange_words(m);
    return SSL_session_reused(m->link.ssl) != 0;
}

static void test_sessions_are_resumed(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++) {
        struct far_wish w = {.version_max = versions[i]};
        struct clock_manual clock;
        struct meeting m;

        clock_manual_init(&clock, 0);
        loop.clock = &clock.clock;
        w.ctx = far_ctx(&w);
        SSL_CTX_set_session_id_context(w.ctx, (const unsigned char *)"t", 1);
        meet_well(&m, &w);
        exchange_words(&m);
        assert_false(SSL_session_reused(m.link.ssl));
        assert_true(meet_again(&m, w.ctx));
        assert_true(meet_again(&m, w.ctx));
        connector_tls_trust(&m.tls, trust); /* who vouched may not count any more */
        assert_false(meet_again(&m, w.ctx));
        clock_manual_advance(&clock, 59 * 60 * 1000);
        assert_true(meet_again(&m, w.ctx));
        clock_manual_advance(&clock,
                             2 * 60 * 1000); /* an hour after the certificate was seen, not the ticket */
        assert_false(meet_again(&m, w.ctx));
        assert_true(meet_again(&m, w.ctx));
        loop.clock = &clock_system;
        part(&m);
        SSL_CTX_free(w.ctx);
    }
}

/* --- back-pressure --- */

static void test_writer_is_told_to_stop(void **state)
{
    struct meeting m;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    m.link.is_choked = true;
    assert_int_equal(peer_say_n(&m.near, "one", 3), E_AGAIN);
    assert_true(stream_queued(m.near.stream) > 0);
    run_for(3);
    assert_false(m.near.is_drained);
    link_unchoke(&m.link);
    assert_true(m.near.is_drained);
    m.near.is_drained = false;
    assert_int_equal(peer_say_n(&m.near, "two", 3), 0);
    run_for(3);
    assert_false(m.near.is_drained);
    part(&m);
}

static void test_reader_who_stops(void **state)
{
    enum { BYTES = 2 << 20 };
    char *data = mem_alloc(BYTES);
    struct meeting m;
    size_t had;

    (void)state;
    pattern_fill(data, BYTES);
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    m.is_paused = true;
    meeting_open(&m, 20000);
    WAIT_FOR(m.is_open_done);
    assert_int_equal(m.code, 0);
    link_say_n(&m.link, data, BYTES);
    had = m.link.out.n;
    run_for(20);
    assert_int_equal(m.near.in_all, 0);
    assert_true(had - m.link.out.n <= LOOP_READ_BYTES); /* what is unread stays outside */
    stream_read_start(m.near.stream);
    assert_int_equal(m.near.in_all, 0); /* never inside the call */
    WAIT_FOR(m.near.in_all > 0);
    stream_read_stop(m.near.stream);
    had = (size_t)m.near.in_all;
    run_for(20);
    assert_int_equal(m.near.in_all, had);
    stream_read_start(m.near.stream);
    WAIT_FOR(m.near.in.n == BYTES);
    assert_memory_equal(m.near.in.p, data, BYTES);
    part(&m);
    mem_free(data);
}

/* --- the stream below breaks --- */

static void test_breaks_within_the_handshake(void **state)
{
    struct meeting m;

    (void)state;
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    m.link.held = SIZE_MAX;
    meeting_open(&m, 20000);
    WAIT_FOR(m.link.n_writes > 0);
    m.link.base.events->on_write_error(&m.link.base, E_IO, m.link.base.data); /* an alert may still come */
    run_for(3);
    assert_false(m.is_open_done);
    m.link.base.events->on_error(&m.link.base, E_IO, m.link.base.data);
    WAIT_FOR(m.is_open_done);
    assert_int_equal(m.code, E_UPSTREAM);
    assert_string_equal(m.message, "TLS with llm.example.org: the connection broke within the handshake");
    part(&m);
}

static void test_breaks_later(void **state)
{
    struct meeting m;

    (void)state;
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    m.link.base.events->on_error(&m.link.base, E_TIMEOUT, m.link.base.data);
    assert_int_equal(m.near.error, E_TIMEOUT);
    part(&m);
    /* Writing breaks: an owner who has no event for that gets on_error, and is not told in his own call. */
    meet_well(&m, &(struct far_wish){0});
    exchange_words(&m);
    m.link.base.events->on_write_error(&m.link.base, E_IO, m.link.base.data);
    assert_int_equal(m.near.error, 0);
    assert_int_equal(peer_say_n(&m.near, "x", 1), E_IO);
    WAIT_FOR(m.near.error != 0);
    assert_int_equal(m.near.error, E_IO);
    part(&m);
}

/* --- through the pool --- */

struct told {
    bool is_over;
    int status, code;
    struct buf body;
};

static void on_head(struct http_call *c, const struct http_response *r, void *data)
{
    (void)c;
    ((struct told *)data)->status = r->status;
}

static void on_body(struct http_call *c, struct slice bytes, void *data)
{
    (void)c;
    assert_int_equal(buf_slice(&((struct told *)data)->body, bytes), 0);
}

static void on_end(struct http_call *c, void *data)
{
    (void)c;
    ((struct told *)data)->is_over = true;
}

static void on_error(struct http_call *c, int code, const struct err *err, void *data)
{
    struct told *t = data;

    (void)c;
    (void)err;
    t->code = code;
    t->is_over = true;
}

static const struct http_call_events call_events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

static void call_start(struct http_pool *pool, struct told *t)
{
    struct http_header host = {SL("Host"), SL("llm.example.org")};
    struct http_call_options o = {.method = SL("GET"), .target = SL("/"), .headers = &host, .n_headers = 1};

    *t = (struct told){.body = BUF_INIT(1 << 20)};
    (void)http_call_start(pool, &o, &call_events, t);
}

/* An answer whose end is the connection's: complete only with a farewell. */
static void answer_until_close(bool is_cut)
{
    struct meeting m;
    struct http_pool *pool;
    struct told t;
    bool is_gone = false;

    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    pool = http_pool_new(&loop, &m.tls.connector, NULL);
    call_start(pool, &t);
    WAIT_FOR(link_heard(&m.link, "\r\n\r\n"));
    link_say(&m.link, "HTTP/1.1 200 OK\r\n\r\nwords");
    if (!is_cut)
        link_close_notify(&m.link);
    link_end(&m.link);
    WAIT_FOR(t.is_over);
    assert_int_equal(t.status, 200);
    assert_int_equal(t.code, is_cut ? E_UPSTREAM : 0);
    assert_string_equal(buf_cstr(&t.body), "words");
    buf_fini(&t.body);
    http_pool_retire(pool, on_flag, &is_gone);
    WAIT_FOR(is_gone);
    part(&m);
}

static void test_answers_until_close(void **state)
{
    (void)state;
    answer_until_close(false);
    answer_until_close(true);
}

static void test_pool_keeps_connections(void **state)
{
    struct meeting m;
    struct http_pool *pool;
    struct told t;
    int i;

    (void)state;
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    pool = http_pool_new(&loop, &m.tls.connector, NULL);
    for (i = 0; i < 3; i++) {
        call_start(pool, &t);
        WAIT_FOR(link_heard(&m.link, "\r\n\r\n"));
        buf_fini(&m.link.heard);
        link_say(&m.link, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        WAIT_FOR(t.is_over);
        assert_int_equal(t.code, 0);
        assert_string_equal(buf_cstr(&t.body), "ok");
        buf_fini(&t.body);
    }
    http_pool_close(pool);
    run_for(3);
    part(&m);
}

/* A pool that retires lets its call end, then goes. */
static void test_pool_retires(void **state)
{
    struct meeting m;
    struct http_pool *pool;
    struct told t;
    bool is_gone = false;

    (void)state;
    meeting_begin(&m, &(struct far_wish){0}, "llm.example.org");
    pool = http_pool_new(&loop, &m.tls.connector, NULL);
    call_start(pool, &t);
    http_pool_retire(pool, on_flag, &is_gone);
    WAIT_FOR(link_heard(&m.link, "\r\n\r\n"));
    run_for(5);
    assert_false(is_gone);
    link_say(&m.link, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    WAIT_FOR(t.is_over);
    assert_int_equal(t.code, 0);
    buf_fini(&t.body);
    WAIT_FOR(is_gone);
    part(&m);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_speaks_both_versions),
        TEST(test_weak_suites_are_not_offered),
        TEST(test_times),
        TEST(test_issuers),
        TEST(test_names),
        TEST(test_addresses_are_not_sent_as_names),
        TEST(test_weak_certificates),
        TEST(test_lists_of_authorities),
        TEST(test_system_list),
        TEST(test_old_versions),
        TEST(test_not_tls),
        TEST(test_silence),
        TEST(test_cancel),
        TEST(test_cancel_at_the_last_moment),
        TEST(test_byte_by_byte),
        TEST(test_large_chains),
        TEST(test_large_data_both_ways),
        TEST(test_small_slices_share_a_record),
        TEST(test_truncated_close),
        TEST(test_half_close),
        TEST(test_close_says_farewell),
        TEST(test_end_is_told_to_a_new_owner),
        TEST(test_damaged_record),
        TEST(test_key_updates),
        TEST(test_renegotiation_is_declined),
        TEST(test_write_within_a_ticket),
        TEST(test_sessions_are_resumed),
        TEST(test_writer_is_told_to_stop),
        TEST(test_reader_who_stops),
        TEST(test_breaks_within_the_handshake),
        TEST(test_breaks_later),
        TEST(test_answers_until_close),
        TEST(test_pool_keeps_connections),
        TEST(test_pool_retires),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
