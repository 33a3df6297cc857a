/* The listener's side of TLS against a real OpenSSL client, and through the HTTP server: what is shown to
 * whom, what is refused, tickets, certificates that change, handshakes that stall. */
#include "tls_fixture.h"

#include <sys/socket.h>

#include "base/net/curl.h"
#include "base/net/server.h"
#include "base/net/tls.h"

/* --- the cast --- */

static struct cert root, one, two, wild, renewed;
static struct buf root_pem;

static struct cert leaf(const char *name, const char *hosts)
{
    return cert_make(&root, &(struct cert_wish){.name = name, .hosts = hosts});
}

static int group_setup(void **state)
{
    (void)state;
    root = cert_make(NULL, &(struct cert_wish){.name = "Test Root", .is_ca = true});
    one = leaf("one", "DNS:one.example,DNS:localhost,IP:127.0.0.1");
    two = leaf("two", "DNS:two.example");
    wild = leaf("wild", "DNS:*.apps.example");
    renewed = leaf("renewed", "DNS:one.example,DNS:localhost,IP:127.0.0.1");
    buf_init(&root_pem, 65536);
    cert_pem(&root, &root_pem);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    cert_fini(&root);
    cert_fini(&one);
    cert_fini(&two);
    cert_fini(&wild);
    cert_fini(&renewed);
    buf_fini(&root_pem);
    return 0;
}

struct pems {
    struct buf text[2 * 4];
    struct tls_pair pairs[4];
    size_t n;
};

static void pems_add(struct pems *p, const struct cert *c, const struct cert *key_of)
{
    struct buf *cert = &p->text[2 * p->n], *key = &p->text[2 * p->n + 1];

    buf_init(cert, 65536);
    buf_init(key, 65536);
    cert_pem(c, cert);
    key_pem(key_of, key);
    p->pairs[p->n++] = (struct tls_pair){buf_view(cert), buf_view(key)};
}

static void pems_fini(struct pems *p)
{
    size_t i;

    for (i = 0; i < 2 * p->n; i++)
        buf_fini(&p->text[i]);
    p->n = 0;
}

static struct tls_server *server_of(const struct cert *a, const struct cert *b, const struct cert *c)
{
    struct pems p = {.n = 0};
    struct tls_server *s = NULL;
    struct err err;

    pems_add(&p, a, a);
    if (b != NULL)
        pems_add(&p, b, b);
    if (c != NULL)
        pems_add(&p, c, c);
    if (tls_server_new(p.pairs, p.n, &s, &err) != 0)
        fail_msg("%s", err.msg);
    pems_fini(&p);
    return s;
}

static void show(struct tls_server *s, const struct cert *c)
{
    struct pems p = {.n = 0};

    pems_add(&p, c, c);
    assert_int_equal(tls_server_replace(s, p.pairs, p.n, NULL), 0);
    pems_fini(&p);
}

/* --- one client --- */

struct visit {
    struct link link; /* its far end is the client */
    struct tls_handshake *handshake;
    struct peer near;
    bool is_done;
    int code;
    char message[ERR_MSG_MAX];
};

struct client_wish {
    const char *name;    /* SNI; NULL: none */
    const char *alpn;    /* as on the wire; NULL: none */
    const char *ciphers; /* of TLS 1.2 */
    int version;         /* 0: any */
    SSL_SESSION *session;
    size_t piece;
    int64_t timeout_ms;
    bool is_silent;
};

static SSL_CTX *client_ctx;
static SSL_SESSION *latest_session;

static int on_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(latest_session);
    latest_session = session;
    return 1;
}

static int setup(void **state)
{
    client_ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_security_level(client_ctx, 0);
    SSL_CTX_set_min_proto_version(client_ctx, TLS1_VERSION);
    SSL_CTX_set_session_cache_mode(client_ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client_ctx, on_session);
    return fixture_setup(state);
}

static int teardown(void **state)
{
    SSL_SESSION_free(latest_session);
    latest_session = NULL;
    SSL_CTX_free(client_ctx);
    return fixture_teardown(state);
}

static void on_accepted(int code, struct stream *s, const struct err *err, void *data)
{
    struct visit *v = data;

    assert_false(v->is_done);
    v->is_done = true;
    v->code = code;
    if (code == 0)
        peer_adopt(&v->near, s, true);
    else
        (void)snprintf(v->message, sizeof(v->message), "%s", err->msg);
}

static void visit_begin(struct visit *v, struct tls_server *s, const struct client_wish *w)
{
    SSL *ssl = SSL_new(client_ctx);

    *v = (struct visit){0};
    SSL_set_connect_state(ssl);
    if (w->name != NULL)
        SSL_set_tlsext_host_name(ssl, w->name);
    if (w->alpn != NULL)
        SSL_set_alpn_protos(ssl, (const unsigned char *)w->alpn, (unsigned)strlen(w->alpn));
    if (w->ciphers != NULL)
        assert_int_equal(SSL_set_cipher_list(ssl, w->ciphers), 1);
    if (w->version != 0) {
        SSL_set_min_proto_version(ssl, w->version);
        SSL_set_max_proto_version(ssl, w->version);
    }
    if (w->session != NULL)
        SSL_set_session(ssl, w->session);
    link_init(&v->link, ssl);
    v->link.piece = w->piece;
    v->handshake =
        tls_server_accept(s, &v->link.base, w->timeout_ms > 0 ? w->timeout_ms : 20000, on_accepted, v);
    assert_false(v->is_done);
    if (!w->is_silent)
        link_far_step(&v->link);
}

static void visit(struct visit *v, struct tls_server *s, const struct client_wish *w)
{
    visit_begin(v, s, w);
    WAIT_FOR(v->is_done);
}

static void visit_end(struct visit *v)
{
    peer_fini(&v->near);
    link_fini(&v->link);
}

static void exchange_words(struct visit *v)
{
    link_say(&v->link, "question");
    WAIT_FOR(peer_heard(&v->near, "question"));
    peer_say(&v->near, "answer");
    WAIT_FOR(link_heard(&v->link, "answer"));
    buf_fini(&v->link.heard);
    buf_fini(&v->near.in);
}

static void shown_is(struct visit *v, const char *name)
{
    X509 *cert = SSL_get1_peer_certificate(v->link.ssl);
    char text[256];

    assert_non_null(cert);
    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, text, sizeof(text));
    assert_string_equal(text, name);
    X509_free(cert);
}

/* --- versions, suites, names, protocols --- */

static void test_both_versions(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    struct tls_server *s = server_of(&one, NULL, NULL);
    size_t i, piece;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++)
        for (piece = 0; piece <= 1; piece++) {
            struct visit v;

            visit(
                &v, s,
                &(struct client_wish){.version = versions[i], .piece = piece, .alpn = "\x02h2\x08http/1.1"});
            assert_string_equal(v.message, "");
            exchange_words(&v);
            exchange_words(&v);
            shown_is(&v, "one");
            link_close_notify(&v.link);
            WAIT_FOR(v.near.is_eof);
            visit_end(&v);
        }
    tls_server_free(s);
}

static void refused(struct tls_server *s, const struct client_wish *w, const char *why)
{
    struct visit v;

    visit(&v, s, w);
    if (v.code != E_UPSTREAM || strstr(v.message, why) == NULL)
        fail_msg("%d, \"%s\" instead of \"%s\"", v.code, v.message, why);
    assert_int_not_equal(v.link.far_error, 0); /* it was told */
    visit_end(&v);
}

static void test_old_and_weak_clients(void **state)
{
    static const char *const weak[] = {
        "AES128-SHA",       "AES128-GCM-SHA256",    "ECDHE-ECDSA-AES256-SHA",   "ECDHE-ECDSA-AES128-SHA256",
        "AECDH-AES128-SHA", "ECDHE-ECDSA-NULL-SHA", "DHE-RSA-AES128-GCM-SHA256"};
    struct tls_server *s = server_of(&one, NULL, NULL);
    size_t i;

    (void)state;
    refused(s, &(struct client_wish){.version = TLS1_1_VERSION}, "the client speaks no TLS 1.2 or newer");
    refused(s, &(struct client_wish){.version = TLS1_VERSION}, "the client speaks no TLS 1.2 or newer");
    for (i = 0; i < ARRAY_LEN(weak); i++)
        refused(s, &(struct client_wish){.version = TLS1_2_VERSION, .ciphers = weak[i]},
                "the client shares no strong cipher with us");
    tls_server_free(s);
}

static void test_protocols(void **state)
{
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct visit v;
    const unsigned char *chosen;
    unsigned n;

    (void)state;
    visit(&v, s, &(struct client_wish){.alpn = "\x08http/1.1"});
    WAIT_FOR(v.link.is_shaken);
    SSL_get0_alpn_selected(v.link.ssl, &chosen, &n);
    assert_int_equal(n, 8);
    assert_memory_equal(chosen, "http/1.1", 8);
    visit_end(&v);
    visit(&v, s, &(struct client_wish){0});
    assert_int_equal(v.code, 0);
    visit_end(&v);
    refused(s, &(struct client_wish){.alpn = "\x02h2"}, "handshake failed");
    tls_server_free(s);
}

static void test_names(void **state)
{
    static const struct {
        const char *asked, *shown;
    } cases[] = {
        {NULL, "one"},           {"one.example", "one"},     {"two.example", "two"},
        {"TWO.example", "two"},  {"x.apps.example", "wild"}, {"x.y.apps.example", "one"},
        {"apps.example", "one"}, {"unknown.example", "one"},
    };
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    struct tls_server *s = server_of(&one, &two, &wild);
    size_t i, k;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cases); i++)
        for (k = 0; k < ARRAY_LEN(versions); k++) {
            struct visit v;

            visit(&v, s, &(struct client_wish){.name = cases[i].asked, .version = versions[k]});
            assert_int_equal(v.code, 0);
            shown_is(&v, cases[i].shown);
            exchange_words(&v);
            visit_end(&v);
        }
    tls_server_free(s);
}

static void test_pairs_that_do_not_fit(void **state)
{
    struct cert weak = cert_make(&root, &(struct cert_wish){.name = "weak", .rsa_bits = 1024});
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct pems p = {.n = 0};
    struct err err;
    struct visit v;
    struct tls_pair pair;
    BIO *b = BIO_new(BIO_s_mem());
    char *text;

    (void)state;
    pems_add(&p, &two, &two);
    pems_add(&p, &one, &two);
    pems_add(&p, &weak, &weak);
    assert_int_equal(tls_server_replace(s, &p.pairs[1], 1, &err), E_INVALID);
    assert_non_null(strstr(err.msg, "the key is not that of the (first) certificate"));
    assert_int_equal(tls_server_replace(s, &p.pairs[2], 1, &err), E_INVALID);
    assert_non_null(strstr(err.msg, "too weak"));
    assert_int_equal(tls_server_replace(s, p.pairs, 2, &err), E_INVALID); /* the second is bad */
    pair = (struct tls_pair){p.pairs[0].cert_pem, p.pairs[0].cert_pem};
    assert_int_equal(tls_server_replace(s, &pair, 1, &err), E_INVALID);
    assert_non_null(strstr(err.msg, "there is no private key in it"));
    assert_int_equal(
        PEM_write_bio_PrivateKey(b, two.key, EVP_aes_128_cbc(), NULL, 0, NULL, (char[]){"secret"}), 1);
    pair.key_pem.n = (size_t)BIO_get_mem_data(b, &text);
    pair.key_pem.p = text;
    assert_int_equal(tls_server_replace(s, &pair, 1, &err), E_INVALID);
    assert_non_null(strstr(err.msg, "behind a passphrase"));
    BIO_free(b);
    visit(&v, s, &(struct client_wish){0}); /* all is as it was */
    shown_is(&v, "one");
    visit_end(&v);
    pems_fini(&p);
    cert_fini(&weak);
    tls_server_free(s);
}

static void test_chain_is_sent(void **state)
{
    struct cert middle = cert_make(&root, &(struct cert_wish){.name = "middle", .is_ca = true});
    struct cert c = cert_make(&middle, &(struct cert_wish){.name = "c", .hosts = "DNS:c.example"});
    struct pems p = {.n = 0};
    struct tls_server *s;
    struct visit v;

    (void)state;
    pems_add(&p, &c, &c);
    cert_pem(&middle, &p.text[0]);
    p.pairs[0].cert_pem = buf_view(&p.text[0]);
    assert_int_equal(tls_server_new(p.pairs, 1, &s, NULL), 0);
    visit(&v, s, &(struct client_wish){0});
    assert_int_equal(sk_X509_num(SSL_get_peer_cert_chain(v.link.ssl)), 2);
    visit_end(&v);
    tls_server_free(s);
    pems_fini(&p);
    cert_fini(&c);
    cert_fini(&middle);
}

/* --- what clients do later --- */

static void test_client_renegotiation(void **state)
{
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct visit v;

    (void)state;
    visit(&v, s, &(struct client_wish){.version = TLS1_2_VERSION});
    exchange_words(&v);
    assert_int_equal(SSL_renegotiate(v.link.ssl), 1);
    (void)SSL_do_handshake(v.link.ssl);
    link_collect(&v.link);
    WAIT_FOR(v.link.far_error != 0 || v.near.error != 0);
    assert_int_equal(v.link.far_reason, SSL_R_NO_RENEGOTIATION);
    visit_end(&v);
    tls_server_free(s);
}

static void test_key_updates_and_half_close(void **state)
{
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct visit v;
    int i;

    (void)state;
    visit(&v, s, &(struct client_wish){.version = TLS1_3_VERSION});
    for (i = 0; i < 20; i++) {
        assert_int_equal(SSL_key_update(v.link.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        exchange_words(&v);
    }
    link_say(&v.link, "the last request");
    link_close_notify(&v.link);
    WAIT_FOR(v.near.is_eof);
    assert_true(peer_heard(&v.near, "the last request"));
    peer_say(&v.near, "its answer");
    WAIT_FOR(link_heard(&v.link, "its answer"));
    stream_close(v.near.stream);
    v.near.stream = NULL;
    assert_true(v.link.is_closed_well);
    visit_end(&v);
    tls_server_free(s);
}

static void test_client_that_cuts(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    struct tls_server *s = server_of(&one, NULL, NULL);
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++) {
        struct visit v;

        visit(&v, s, &(struct client_wish){.version = versions[i]});
        exchange_words(&v);
        link_say(&v.link, "half a requ");
        link_end(&v.link); /* without close_notify */
        WAIT_FOR(v.near.error != 0);
        assert_int_equal(v.near.error, E_IO);
        assert_false(v.near.is_eof);
        assert_true(peer_heard(&v.near, "half a requ"));
        visit_end(&v);
    }
    tls_server_free(s);
}

/* A client that updates keys without end and takes nothing is not answered without end. */
static void test_key_update_flood(void **state)
{
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct visit v;
    int i;

    (void)state;
    visit(&v, s, &(struct client_wish){.version = TLS1_3_VERSION});
    exchange_words(&v);
    v.link.is_choked = true;
    for (i = 0; i < 2000; i++) {
        assert_int_equal(SSL_key_update(v.link.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(v.link.ssl), 1);
        link_collect(&v.link);
    }
    run_for(20);
    assert_true(v.link.n_writes < 100 || v.near.error != 0);
    visit_end(&v);
    tls_server_free(s);
}

/* --- tickets --- */

static bool is_resumed(struct tls_server *s, int version)
{
    SSL_SESSION *session = latest_session;
    struct visit v;
    bool is;

    latest_session = NULL;
    visit(&v, s, &(struct client_wish){.session = session, .version = version});
    SSL_SESSION_free(session);
    assert_int_equal(v.code, 0);
    exchange_words(&v);
    is = SSL_session_reused(v.link.ssl) != 0;
    if (latest_session == NULL) /* TLS 1.2 gives no new one while the old is good */
        latest_session = SSL_get1_session(v.link.ssl);
    SSL_set_shutdown(v.link.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    visit_end(&v);
    return is;
}

static void test_tickets(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    enum { HOUR_MS = 3600 * 1000 };
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(versions); i++) {
        struct tls_server *s = server_of(&one, NULL, NULL), *other = server_of(&one, NULL, NULL);
        struct clock_manual clock;

        clock_manual_init(&clock, 1000000);
        loop.clock = &clock.clock;
        assert_false(is_resumed(s, versions[i]));
        assert_true(is_resumed(s, versions[i]));
        assert_true(is_resumed(s, versions[i]));
        clock_manual_advance(&clock, 13 * HOUR_MS); /* the keys change; those before still open tickets */
        assert_true(is_resumed(s, versions[i]));
        assert_true(is_resumed(s, versions[i]));
        clock_manual_advance(&clock, 13 * HOUR_MS);
        assert_true(is_resumed(s, versions[i])); /* the ticket was renewed under the second keys */
        clock_manual_advance(&clock, 13 * HOUR_MS);
        assert_false(is_resumed(other, versions[i])); /* another server's tickets are nobody's */
        assert_false(is_resumed(s, versions[i]));
        clock_manual_advance(&clock, 50 * HOUR_MS);
        assert_false(is_resumed(s, versions[i])); /* nobody came for two changes */
        assert_true(is_resumed(s, versions[i]));
        show(s, &renewed); /* other certificates: everybody sees them */
        assert_false(is_resumed(s, versions[i]));
        assert_true(is_resumed(s, versions[i]));
        loop.clock = &clock_system;
        tls_server_free(s);
        tls_server_free(other);
        SSL_SESSION_free(latest_session);
        latest_session = NULL;
    }
}

/* --- certificates that change --- */

static void test_replacing_touches_no_connection(void **state)
{
    struct tls_server *s = server_of(&one, &two, NULL);
    struct visit open, under_way, next;

    (void)state;
    visit(&open, s, &(struct client_wish){.name = "two.example"});
    exchange_words(&open);
    visit_begin(&under_way, s, &(struct client_wish){.name = "one.example", .is_silent = true});
    show(s, &renewed);
    exchange_words(&open);
    link_far_step(&under_way.link);
    WAIT_FOR(under_way.is_done);
    assert_string_equal(under_way.message, "");
    exchange_words(&under_way);
    visit(&next, s, &(struct client_wish){.name = "two.example"});
    shown_is(&next, "renewed");
    exchange_words(&next);
    show(s, &one);
    exchange_words(&open);
    visit_end(&open);
    visit_end(&under_way);
    visit_end(&next);
    tls_server_free(s);
}

/* --- handshakes that stall, and other things than TLS --- */

static void test_deadline_and_cancel(void **state)
{
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct visit v;

    (void)state;
    visit(&v, s, &(struct client_wish){.is_silent = true, .timeout_ms = 50});
    assert_int_equal(v.code, E_TIMEOUT);
    assert_true(v.link.is_near_closed);
    visit_end(&v);
    visit_begin(&v, s, &(struct client_wish){.is_silent = true});
    tls_handshake_cancel(v.handshake);
    assert_false(v.is_done);
    WAIT_FOR(v.is_done);
    assert_int_equal(v.code, E_CANCELLED);
    visit_end(&v);
    tls_server_free(s);
}

static void test_plain_http_is_told(void **state)
{
    struct tls_server *s = server_of(&one, NULL, NULL);
    struct visit v;
    char room[512] = "";

    (void)state;
    visit_begin(&v, s, &(struct client_wish){.is_silent = true});
    SSL_free(v.link.ssl);
    v.link.ssl = NULL;
    link_say_raw(&v.link, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 26);
    WAIT_FOR(v.is_done);
    assert_int_equal(v.code, E_UPSTREAM);
    assert_true(BIO_read(v.link.from_near, room, sizeof(room) - 1) > 0);
    assert_non_null(strstr(room, "HTTP/1.1 400 Bad Request\r\n"));
    assert_non_null(strstr(room, "\r\nContent-Length: 38\r\n"));
    assert_int_equal(strlen(strstr(room, "\r\n\r\n") + 4), 38);
    visit_end(&v);
    visit_begin(&v, s, &(struct client_wish){.is_silent = true}); /* noise gets an alert */
    SSL_free(v.link.ssl);
    v.link.ssl = NULL;
    link_say_raw(&v.link, "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 12);
    WAIT_FOR(v.is_done);
    assert_int_equal(v.code, E_UPSTREAM);
    visit_end(&v);
    tls_server_free(s);
}

/* --- through the HTTP server, over TCP --- */

static void on_request(struct exchange *ex, void *data)
{
    static char large[300000];

    (void)data;
    memset(large, 'x', sizeof(large));
    if (slice_eq_str(exchange_request(ex)->path, "/large"))
        exchange_send(ex, 200, NULL, 0, slice_of(large, sizeof(large)));
    else
        exchange_send(ex, 200, NULL, 0,
                      slice_str(slice_starts(exchange_peer(ex), SL("127.0.0.1:")) ? "ok" : "?"));
}

static const struct server_handler handler = {.on_request = on_request};

struct answer {
    bool is_over;
    int code, status;
    size_t n;
    char message[ERR_MSG_MAX];
};

static void on_answer(int code, const struct curl_answer *a, const struct err *err, void *data)
{
    struct answer *out = data;

    out->is_over = true;
    out->code = code;
    out->status = a->status;
    out->n = code == 0 ? a->body.n : 0;
    if (code != 0)
        (void)snprintf(out->message, sizeof(out->message), "%s", err->msg);
}

static void ask(struct curl_client *c, uint16_t port, const char *path, struct slice ca, struct answer *a)
{
    char url[128];
    struct curl_options o = {.method = "GET", .url = url, .ca_pem = ca};

    (void)snprintf(url, sizeof(url), "https://localhost:%u%s", (unsigned)port, path);
    *a = (struct answer){0};
    (void)curl_call_start(c, &o, on_answer, a);
    WAIT_FOR(a->is_over);
}

struct house {
    struct tls_server *tls;
    struct server *server;
    uint16_t port;
    struct curl_client *curl;
};

static void house_open(struct house *h, const struct server_limits *limits)
{
    struct endpoint at = local_endpoint(0);

    h->tls = server_of(&one, NULL, NULL);
    h->server = server_new(&loop, limits, &handler, NULL);
    assert_int_equal(server_listen_tls(h->server, &at, h->tls, &h->port, NULL), 0);
    assert_int_equal(curl_client_new(&loop, &h->curl, NULL), 0);
}

static void house_close(struct house *h)
{
    bool is_closed = false, is_curl_closed = false;

    curl_client_close(h->curl, on_flag, &is_curl_closed);
    WAIT_FOR(is_curl_closed);
    server_close(h->server, on_flag, &is_closed);
    WAIT_FOR(is_closed);
    tls_server_free(h->tls);
}

static void test_requests(void **state)
{
    struct house h;
    struct answer a;
    struct err err;
    struct peer plain;
    int i;

    (void)state;
    house_open(&h, NULL);
    for (i = 0; i < 3; i++) {
        ask(h.curl, h.port, "/", buf_view(&root_pem), &a);
        assert_string_equal(a.message, "");
        assert_int_equal(a.status, 200);
        assert_int_equal(a.n, 2);
    }
    ask(h.curl, h.port, "/large", buf_view(&root_pem), &a);
    assert_int_equal(a.n, 300000);
    assert_int_equal(server_tls_stats(h.server)->done, 1);
    ask(h.curl, h.port, "/", SLICE_EMPTY, &a); /* nor does the connection of the other list serve this one */
    assert_int_equal(a.code, E_UPSTREAM);
    assert_non_null(strstr(a.message, "certificate"));
    peer_connect(&plain, h.port);
    peer_say(&plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_FOR(plain.is_eof);
    assert_true(peer_heard(&plain, "This port speaks HTTPS"));
    peer_fini(&plain);
    (void)err;
    house_close(&h);
}

static void test_stalled_handshakes_give_way(void **state)
{
    struct server_limits limits = {.handshakes_max = 4, .handshake_timeout_ms = 700};
    struct peer stalled[7];
    struct house h;
    struct answer a;
    size_t i;

    (void)state;
    house_open(&h, &limits);
    for (i = 0; i < ARRAY_LEN(stalled); i++) {
        peer_connect(&stalled[i], h.port);
        peer_say_n(&stalled[i], "\x16\x03\x01\x02", 4);
    }
    WAIT_FOR(stalled[0].is_eof && stalled[1].is_eof && stalled[2].is_eof);
    assert_int_equal(server_tls_stats(h.server)->dropped, 3);
    ask(h.curl, h.port, "/", buf_view(&root_pem), &a);
    assert_int_equal(a.status, 200);
    for (i = 3; i < ARRAY_LEN(stalled); i++)
        WAIT_FOR(stalled[i].is_eof);
    assert_int_equal(server_tls_stats(h.server)->failed, ARRAY_LEN(stalled));
    for (i = 0; i < ARRAY_LEN(stalled); i++)
        peer_fini(&stalled[i]);
    house_close(&h);
}

static void test_drain_with_handshakes_in_progress(void **state)
{
    struct house h;
    struct peer stalled;
    bool is_drained = false;

    (void)state;
    house_open(&h, NULL);
    peer_connect(&stalled, h.port);
    run_for(20);
    server_drain(h.server, 10000, on_flag, &is_drained);
    WAIT_FOR(is_drained);
    WAIT_FOR(stalled.is_eof || stalled.error != 0);
    peer_fini(&stalled);
    house_close(&h);
}

static void test_close_with_handshakes_in_progress(void **state)
{
    struct house h;
    struct peer stalled;

    (void)state;
    house_open(&h, NULL);
    peer_connect(&stalled, h.port);
    run_for(20);
    house_close(&h);
    WAIT_FOR(stalled.is_eof || stalled.error != 0);
    peer_fini(&stalled);
}

/* Our own client against our own server. */
static void on_connected(int code, struct stream *s, const struct err *err, void *data)
{
    struct answer *a = data;

    a->is_over = true;
    a->code = code;
    if (code == 0)
        stream_close(s);
    else
        (void)snprintf(a->message, sizeof(a->message), "%s", err->msg);
}

static void test_both_of_ours(void **state)
{
    enum { CLIENTS = 100 };
    static struct answer answers[CLIENTS];
    struct house h;
    struct endpoint at;
    struct connector_endpoint tcp;
    struct connector_tls tls;
    struct tls_trust *trust;
    size_t i;

    (void)state;
    house_open(&h, NULL);
    at = local_endpoint(h.port);
    assert_int_equal(tls_trust_new(buf_view(&root_pem), &trust, NULL), 0);
    connector_endpoint_init(&tcp, &at);
    connector_tls_init(&tls, &tcp.connector, trust, "127.0.0.1");
    tls_trust_free(trust);
    for (i = 0; i < CLIENTS; i++) { /* all at once: turns have a limit for handshakes, and all get theirs */
        answers[i] = (struct answer){0};
        (void)tls.connector.open(&tls.connector, &loop, 60000, on_connected, &answers[i]);
    }
    for (i = 0; i < CLIENTS; i++) {
        WAIT_FOR(answers[i].is_over);
        assert_string_equal(answers[i].message, "");
    }
    connector_tls_fini(&tls);
    house_close(&h);
}

/* --- conversations at random, over sockets that fill up --- */

struct talker {
    struct stream *stream; /* NULL: not there yet */
    uint64_t said, heard, limit;
    unsigned salt; /* of what it says */
    bool is_blocked, is_shut, is_eof, reads;
    int error;
    const struct talker *other;
};

static char said_at(const struct talker *t, uint64_t at)
{
    return (char)((at * 31 + (at >> 9) + t->salt) & 0xff);
}

static void talker_on_read(struct stream *s, struct slice bytes, void *data)
{
    struct talker *t = data;
    size_t i;

    (void)s;
    assert_true(t->reads && !t->is_eof);
    for (i = 0; i < bytes.n; i++)
        if (bytes.p[i] != said_at(t->other, t->heard + i))
            fail_msg("byte %llu is another", (unsigned long long)(t->heard + i));
    t->heard += bytes.n;
}

static void talker_on_eof(struct stream *s, void *data)
{
    struct talker *t = data;

    (void)s;
    assert_false(t->is_eof);
    t->is_eof = true;
}

static void talker_on_error(struct stream *s, int code, void *data)
{
    (void)s;
    ((struct talker *)data)->error = code;
}

static void talker_on_drain(struct stream *s, void *data)
{
    struct talker *t = data;

    (void)s;
    assert_true(t->is_blocked);
    t->is_blocked = false;
}

static const struct stream_events talker_events = {.on_read = talker_on_read,
                                                   .on_eof = talker_on_eof,
                                                   .on_error = talker_on_error,
                                                   .on_drain = talker_on_drain};

static void talker_on_stream(int code, struct stream *s, const struct err *err, void *data)
{
    struct talker *t = data;

    if (code != 0)
        fail_msg("%s", err->msg);
    t->stream = s;
    stream_own(s, &talker_events, t);
}

static void talker_speak(struct talker *t, uint64_t n)
{
    static char text[3][200001];
    struct slice v[3];
    size_t i, k, parts = 1 + n % 3;
    int rc;

    for (k = 0; k < parts; k++) {
        size_t m = (size_t)(n / parts);

        for (i = 0; i < m; i++)
            text[k][i] = said_at(t, t->said + i);
        t->said += m;
        v[k] = slice_of(text[k], m);
    }
    rc = stream_write(t->stream, v, parts);
    assert_true(rc == 0 || rc == E_AGAIN);
    t->is_blocked = rc == E_AGAIN;
}

static void talker_step(struct talker *t, struct rnd_seeded *r)
{
    uint64_t what = rnd_below(&r->rnd, 10);

    if (what < 5 && !t->is_blocked && t->said < t->limit)
        talker_speak(t, 1 + rnd_below(&r->rnd, what == 0 ? 200000 : 3000));
    else if (what < 8 && !t->is_shut && t->said >= t->limit) {
        stream_shutdown(t->stream);
        t->is_shut = true;
    } else if (what == 8) {
        stream_read_start(t->stream);
        t->reads = true;
    } else if (what == 9) {
        stream_read_stop(t->stream);
        t->reads = false;
    }
}

struct socket_connector {
    struct connector connector;
    int fd;
    connect_done_cb done;
    void *data;
};

static void on_socket(void *data)
{
    struct socket_connector *c = data;
    struct stream *s = NULL;

    assert_int_equal(stream_from_fd(&loop, c->fd, &s, NULL), 0);
    c->done(0, s, NULL, c->data);
}

static void *socket_open(const struct connector *c, struct loop *l, int64_t timeout_ms, connect_done_cb done,
                         void *data)
{
    struct socket_connector *k = c->data;

    (void)timeout_ms;
    k->done = done;
    k->data = data;
    loop_defer(l, on_socket, k);
    return k;
}

static void converse(uint64_t seed, struct tls_server *server, const struct tls_trust *trust)
{
    struct rnd_seeded r;
    struct talker a = {.salt = 1}, b = {.salt = 100, .other = &a};
    struct socket_connector below = {.connector = {socket_open, NULL, &below}};
    struct connector_tls tls;
    struct stream *far = NULL;
    int fds[2], i;
    int64_t end = clock_mono_ms(&clock_system) + 60000;

    a.other = &b;
    rnd_seeded_init(&r, seed);
    a.limit = rnd_below(&r.rnd, 400000);
    b.limit = rnd_below(&r.rnd, 400000);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    below.fd = fds[0];
    connector_tls_init(&tls, &below.connector, trust, "localhost");
    (void)tls.connector.open(&tls.connector, &loop, 60000, talker_on_stream, &a);
    assert_int_equal(stream_from_fd(&loop, fds[1], &far, NULL), 0);
    (void)tls_server_accept(server, far, 60000, talker_on_stream, &b);
    WAIT_FOR(a.stream != NULL && b.stream != NULL);
    while (!a.is_eof || !b.is_eof) {
        if (clock_mono_ms(&clock_system) > end || a.error != 0 || b.error != 0)
            fail_msg("seed %llu: %d %d, %llu of %llu, %llu of %llu", (unsigned long long)seed, a.error,
                     b.error, (unsigned long long)a.heard, (unsigned long long)b.said,
                     (unsigned long long)b.heard, (unsigned long long)a.said);
        for (i = 0; i < 3; i++) {
            talker_step(&a, &r);
            talker_step(&b, &r);
        }
        uv_run(&loop.uv, UV_RUN_NOWAIT);
    }
    assert_int_equal(a.heard, b.said);
    assert_int_equal(b.heard, a.said);
    stream_close(a.stream);
    stream_close(b.stream);
    connector_tls_fini(&tls);
}

static void test_random_conversations(void **state)
{
    struct tls_server *server = server_of(&one, NULL, NULL);
    struct tls_trust *trust;
    uint64_t seed;

    (void)state;
    assert_int_equal(tls_trust_new(buf_view(&root_pem), &trust, NULL), 0);
    for (seed = 1; seed <= 60; seed++)
        converse(seed, server, trust);
    tls_trust_free(trust);
    run_for(5);
    tls_server_free(server);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_both_versions),
        TEST(test_old_and_weak_clients),
        TEST(test_protocols),
        TEST(test_names),
        TEST(test_pairs_that_do_not_fit),
        TEST(test_chain_is_sent),
        TEST(test_client_renegotiation),
        TEST(test_key_updates_and_half_close),
        TEST(test_client_that_cuts),
        TEST(test_key_update_flood),
        TEST(test_tickets),
        TEST(test_replacing_touches_no_connection),
        TEST(test_deadline_and_cancel),
        TEST(test_plain_http_is_told),
        TEST(test_requests),
        TEST(test_stalled_handshakes_give_way),
        TEST(test_drain_with_handshakes_in_progress),
        TEST(test_close_with_handshakes_in_progress),
        TEST(test_both_of_ours),
        TEST(test_random_conversations),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
