/* tls_fixture: certificates made for a test, and an OpenSSL peer at the other end of an in-memory link, which
 * hands over its bytes in pieces of a chosen size. */
#ifndef REEVE_TESTS_TLS_FIXTURE_H
#define REEVE_TESTS_TLS_FIXTURE_H

#include "net_fixture.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define DAY_S (24 * 3600)

/* --- certificates --- */

struct cert {
    X509 *x509;
    EVP_PKEY *key;
};

struct cert_wish {
    const char *name;  /* common name */
    const char *hosts; /* "DNS:a,IP:1.2.3.4"; NULL: none */
    const char *usage; /* extended key usage; NULL: none */
    const char *more;  /* a comment of any length; NULL: none */
    bool is_ca;
    long from_s, to_s; /* from now; 0: yesterday, tomorrow */
    int rsa_bits;      /* 0: P-256 */
    bool is_sha1;
};

static inline void cert_extend(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *e;

    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(e);
    assert_int_equal(X509_add_ext(x, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* `by` NULL: signed by itself. */
static inline struct cert cert_make(const struct cert *by, const struct cert_wish *w)
{
    static long serial = 1000;
    struct cert c = {.x509 = X509_new()};
    X509_NAME *name = X509_get_subject_name(c.x509);
    X509 *issuer = by != NULL ? by->x509 : c.x509;

    c.key = w->rsa_bits > 0 ? EVP_RSA_gen((unsigned)w->rsa_bits) : EVP_EC_gen("P-256");
    assert_non_null(c.key);
    assert_int_equal(X509_set_version(c.x509, 2), 1);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(c.x509), serial++), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(c.x509), w->from_s != 0 ? w->from_s : -DAY_S));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(c.x509), w->to_s != 0 ? w->to_s : DAY_S));
    assert_int_equal(
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)w->name, -1, -1, 0), 1);
    assert_int_equal(X509_set_issuer_name(c.x509, X509_get_subject_name(issuer)), 1);
    assert_int_equal(X509_set_pubkey(c.x509, c.key), 1);
    cert_extend(c.x509, issuer, NID_basic_constraints, w->is_ca ? "critical,CA:TRUE" : "CA:FALSE");
    cert_extend(c.x509, issuer, NID_subject_key_identifier, "hash");
    if (by != NULL)
        cert_extend(c.x509, issuer, NID_authority_key_identifier, "keyid");
    if (w->hosts != NULL)
        cert_extend(c.x509, issuer, NID_subject_alt_name, w->hosts);
    if (w->usage != NULL)
        cert_extend(c.x509, issuer, NID_ext_key_usage, w->usage);
    if (w->more != NULL)
        cert_extend(c.x509, issuer, NID_netscape_comment, w->more);
    assert_true(X509_sign(c.x509, by != NULL ? by->key : c.key, w->is_sha1 ? EVP_sha1() : EVP_sha256()) > 0);
    return c;
}

static inline void cert_fini(struct cert *c)
{
    X509_free(c->x509);
    EVP_PKEY_free(c->key);
    *c = (struct cert){0};
}

static inline void bio_take(BIO *b, struct buf *out)
{
    char *text;
    long n = BIO_get_mem_data(b, &text);

    assert_int_equal(buf_append(out, text, (size_t)n), 0);
    BIO_free(b);
}

static inline void cert_pem(const struct cert *c, struct buf *out)
{
    BIO *b = BIO_new(BIO_s_mem());

    assert_int_equal(PEM_write_bio_X509(b, c->x509), 1);
    bio_take(b, out);
}

static inline void key_pem(const struct cert *c, struct buf *out)
{
    BIO *b = BIO_new(BIO_s_mem());

    assert_int_equal(PEM_write_bio_PrivateKey(b, c->key, NULL, NULL, 0, NULL, NULL), 1);
    bio_take(b, out);
}

/* --- the link --- */

struct link {
    struct stream base; /* the near end */
    SSL *ssl;           /* the far end; NULL: it says only what link_say_raw is given */
    BIO *from_near, *to_near;
    struct buf out; /* on its way to the near end */
    size_t piece;   /* bytes of one event; 0: all */
    size_t held;    /* so many of `out` at its end are not handed over yet */
    bool reads, is_pending, is_ended, is_end_told, is_near_shut, is_near_closed, is_near_reset;
    bool is_choked; /* takes bytes, but asks the near end to stop */
    bool owes_drain;
    bool is_shaken, is_closed_well; /* the far end: handshake done; close_notify came */
    int far_error, far_reason;      /* of the library: SSL_ERROR_…, SSL_R_… */
    struct buf heard;               /* by the far end, in plain */
    unsigned n_writes;
};

static inline void link_run(void *data);

static inline void link_kick(struct link *k)
{
    if (k->is_pending)
        return;
    k->is_pending = true;
    loop_defer(&loop, link_run, k);
}

/* Takes over what the far end's library wrote. */
static inline void link_collect(struct link *k)
{
    char *p;
    long n = BIO_get_mem_data(k->to_near, &p);

    if (n > 0)
        assert_int_equal(buf_append(&k->out, p, (size_t)n), 0);
    (void)BIO_reset(k->to_near);
    link_kick(k);
}

static inline void link_far_failed(struct link *k, int why)
{
    k->far_error = why;
    k->far_reason = ERR_GET_REASON(ERR_peek_last_error());
}

static inline void link_far_read(struct link *k)
{
    char room[16384];
    int rc;

    while ((rc = SSL_read(k->ssl, room, sizeof(room))) > 0)
        assert_int_equal(buf_append(&k->heard, room, (size_t)rc), 0);
    rc = SSL_get_error(k->ssl, rc);
    if (rc == SSL_ERROR_ZERO_RETURN)
        k->is_closed_well = true;
    else if (rc != SSL_ERROR_WANT_READ)
        link_far_failed(k, rc);
}

static inline void link_far_step(struct link *k)
{
    int rc;

    if (k->ssl == NULL || k->far_error != 0)
        return;
    ERR_clear_error();
    if (!k->is_shaken) {
        rc = SSL_do_handshake(k->ssl);
        k->is_shaken = rc == 1;
        if (rc != 1 && SSL_get_error(k->ssl, rc) != SSL_ERROR_WANT_READ)
            link_far_failed(k, SSL_get_error(k->ssl, rc));
    }
    if (k->is_shaken)
        link_far_read(k);
    link_collect(k);
}

static inline void link_run(void *data)
{
    struct link *k = data;
    struct slice bytes;
    char *copy;

    k->is_pending = false;
    if (k->is_near_closed || !k->reads)
        return;
    bytes = buf_view(&k->out);
    bytes.n -= k->held < bytes.n ? k->held : bytes.n;
    if (bytes.n > 0) {
        if (k->piece > 0 && bytes.n > k->piece)
            bytes.n = k->piece;
        if (bytes.n > LOOP_READ_BYTES)
            bytes.n = LOOP_READ_BYTES;
        copy = mem_alloc(bytes.n); /* exact size: reading beyond is seen */
        memcpy(copy, bytes.p, bytes.n);
        bytes.p = copy;
        buf_consume(&k->out, bytes.n);
        k->base.events->on_read(&k->base, bytes, k->base.data);
        mem_free(copy);
        if (!k->is_near_closed)
            link_kick(k);
    } else if (k->is_ended && k->held == 0 && !k->is_end_told) {
        k->is_end_told = true;
        k->reads = false;
        k->base.events->on_eof(&k->base, k->base.data);
    }
}

static inline void link_read_start(struct stream *s)
{
    struct link *k = (struct link *)s;

    k->reads = true;
    link_kick(k);
}

static inline void link_read_stop(struct stream *s)
{
    ((struct link *)s)->reads = false;
}

static inline int link_write(struct stream *s, const struct slice *v, size_t n)
{
    struct link *k = (struct link *)s;
    size_t i;

    assert_false(k->is_near_shut);
    for (i = 0; i < n; i++)
        if (v[i].n > 0)
            assert_int_equal(BIO_write(k->from_near, v[i].p, (int)v[i].n), (int)v[i].n);
    if (n > 0)
        k->n_writes++;
    link_far_step(k);
    if (k->is_choked)
        k->owes_drain = true;
    return k->is_choked ? E_AGAIN : 0;
}

static inline void link_shutdown(struct stream *s)
{
    ((struct link *)s)->is_near_shut = true;
}

static inline void link_close(struct stream *s)
{
    struct link *k = (struct link *)s;

    k->is_near_closed = true;
    k->reads = false;
}

static inline void link_reset(struct stream *s)
{
    ((struct link *)s)->is_near_reset = true;
    link_close(s);
}

static inline size_t link_queued(const struct stream *s)
{
    return ((const struct link *)s)->is_choked ? 1 : 0;
}

static inline void link_init(struct link *k, SSL *ssl)
{
    static const struct stream_ops ops = {.read_start = link_read_start,
                                          .read_stop = link_read_stop,
                                          .write = link_write,
                                          .shutdown = link_shutdown,
                                          .close = link_close,
                                          .reset = link_reset,
                                          .queued = link_queued};

    *k = (struct link){.base = {.ops = &ops, .loop = &loop}, .ssl = ssl};
    buf_init(&k->out, (size_t)64 << 20);
    buf_init(&k->heard, (size_t)64 << 20);
    k->from_near = BIO_new(BIO_s_mem());
    k->to_near = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(k->from_near, -1);
    if (ssl != NULL) {
        BIO_up_ref(k->from_near);
        BIO_up_ref(k->to_near);
        SSL_set_bio(ssl, k->from_near, k->to_near);
    }
}

static inline void link_fini(struct link *k)
{
    while (k->is_pending)
        uv_run(&loop.uv, UV_RUN_NOWAIT);
    SSL_free(k->ssl);
    BIO_free(k->from_near);
    BIO_free(k->to_near);
    buf_fini(&k->out);
    buf_fini(&k->heard);
}

/* The far end says something, in plain or as it is. */
static inline void link_say_n(struct link *k, const void *p, size_t n)
{
    size_t done = 0;

    ERR_clear_error();
    assert_int_equal(SSL_write_ex(k->ssl, p, n, &done), 1);
    link_collect(k);
}

static inline void link_say(struct link *k, const char *text)
{
    link_say_n(k, text, strlen(text));
}

static inline void link_say_raw(struct link *k, const void *p, size_t n)
{
    assert_int_equal(buf_append(&k->out, p, n), 0);
    link_kick(k);
}

/* Without close_notify. */
static inline void link_end(struct link *k)
{
    k->is_ended = true;
    link_kick(k);
}

static inline void link_close_notify(struct link *k)
{
    (void)SSL_shutdown(k->ssl);
    link_collect(k);
}

static inline void link_unchoke(struct link *k)
{
    k->is_choked = false;
    if (k->owes_drain && !k->is_near_closed) {
        k->owes_drain = false;
        k->base.events->on_drain(&k->base, k->base.data);
    }
}

static inline bool link_heard(struct link *k, const char *text)
{
    return strstr(buf_cstr(&k->heard), text) != NULL;
}

#endif
