/* tls_client: whom we believe, and the connector that shakes hands with a server.
 *
 * Happy path: the connector below opens a stream, the handshake verifies the chain and the name, the pool
 * gets a TLS stream. A session that the server gave is offered to the next connection, at most an hour after
 * the server last showed its certificate: a resumed handshake shows none. Failure paths: on_verified writes
 * down, at the moment it fails, whose certificate is refused and why; everything else is told by
 * tls_stream.c. */
#include "base/net/tls_stream.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "base/core/certificate.h"
#include "base/core/mem.h"

#define SYSTEM_CA_FILE  "/etc/ssl/certs/ca-certificates.crt"
#define SESSION_AGE_MS  ((int64_t)3600 * 1000)
#define CHAIN_DEPTH_MAX 8
#define CLIENT_CIPHERS  "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"
#define HOSTS_SHOWN_MAX 300

struct tls_trust {
    X509_STORE *store;
    bool is_system;
    struct stat seen; /* of the system's list, when it was read */
};

struct tls_client {
    SSL_CTX *ctx;
    char *host;
    SSL_SESSION *session; /* to be resumed; NULL: none */
    int64_t verified_ms;  /* when a certificate was last looked at for it */
};

/* One connection being made. */
struct tls_open {
    struct connector below;
    struct loop *loop;
    SSL *ssl; /* until the handshake has it */
    char *host;
    void *connecting; /* the handle below */
    struct tls_handshake *handshake;
    uint64_t deadline_ms; /* of the loop */
    connect_done_cb done;
    void *data;
};

/* --- whom we believe --- */

static int trust_fill(X509_STORE *store, struct slice ca_pem, struct err *err)
{
    STACK_OF(X509) *all = NULL;
    int rc = certificates_parse(ca_pem, &all, err);
    int i;

    for (i = 0; rc == 0 && i < sk_X509_num(all); i++)
        if (X509_STORE_add_cert(store, sk_X509_value(all, i)) != 1)
            rc = err_set(err, E_INVALID, "certificate %d of it cannot be used", i + 1);
    certificates_free(all);
    return rc;
}

/* The whole list is read now, unless the environment names another: a look-up by hash during a handshake
 * would read files in the loop. */
static void trust_fill_system(X509_STORE *store)
{
    const char *file = getenv(X509_get_default_cert_file_env()),
               *dir = getenv(X509_get_default_cert_dir_env());

    if (file != NULL || dir != NULL)
        (void)X509_STORE_set_default_paths(store); /* nothing there: nobody is believed, and it is said */
    else if (X509_STORE_load_file(store, SYSTEM_CA_FILE) != 1)
        (void)X509_STORE_set_default_paths(store); /* likewise */
    ERR_clear_error();
}

static void system_look(struct stat *ret)
{
    const char *file = getenv(X509_get_default_cert_file_env()),
               *dir = getenv(X509_get_default_cert_dir_env());

    memset(ret, 0, sizeof(*ret)); /* not there: as good as any other state of it */
    (void)stat(file != NULL ? file : dir != NULL ? dir : SYSTEM_CA_FILE, ret);
}

bool tls_trust_is_current(const struct tls_trust *t)
{
    struct stat now;

    if (!t->is_system)
        return true;
    system_look(&now);
    return now.st_dev == t->seen.st_dev && now.st_ino == t->seen.st_ino && now.st_size == t->seen.st_size &&
           now.st_mtim.tv_sec == t->seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == t->seen.st_mtim.tv_nsec;
}

int tls_trust_new(struct slice ca_pem, struct tls_trust **ret, struct err *err)
{
    X509_STORE *store = X509_STORE_new();
    struct stat seen;
    int rc = 0;

    must(store != NULL);
    /* An intermediate of a private authority may be the anchor. */
    must(X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST) == 1);
    system_look(&seen);
    if (ca_pem.n > 0)
        rc = trust_fill(store, ca_pem, err);
    else
        trust_fill_system(store);
    if (rc != 0) {
        X509_STORE_free(store);
        return rc;
    }
    *ret = MEM_NEW(struct tls_trust);
    **ret = (struct tls_trust){.store = store, .is_system = ca_pem.n == 0, .seen = seen};
    return 0;
}

void tls_trust_free(struct tls_trust *t)
{
    if (t == NULL)
        return;
    X509_STORE_free(t->store);
    mem_free(t);
}

/* --- why a certificate is refused --- */

static void refusal_hosts(X509 *cert, const char *host, struct err *err)
{
    struct buf hosts = BUF_INIT(HOSTS_SHOWN_MAX);

    certificate_hosts(cert, &hosts);
    if (hosts.n == 0)
        (void)err_set(err, E_UPSTREAM,
                      "certificate of %s: it names no host (subjectAltName; a common name does not count)",
                      host);
    else
        (void)err_set(err, E_UPSTREAM, "certificate of %s: it is for other names: %s%s", host,
                      buf_cstr(&hosts), hosts.is_full ? " …" : "");
    buf_fini(&hosts);
}

static void refusal_write(X509_STORE_CTX *ctx, const char *host, struct err *err)
{
    X509 *cert = X509_STORE_CTX_get_current_cert(ctx);
    int code = X509_STORE_CTX_get_error(ctx), depth = X509_STORE_CTX_get_error_depth(ctx);
    char name[CERTIFICATE_NAME_MAX], when[CERTIFICATE_TIME_MAX], whose[CERTIFICATE_NAME_MAX + 64] = "";

    if (cert == NULL)
        cert = X509_STORE_CTX_get0_cert(ctx);
    if (depth > 0 && cert != NULL) {
        certificate_subject(cert, name);
        (void)snprintf(whose, sizeof(whose), "the authority %s in its chain ", name);
    }
    switch (cert != NULL ? code : X509_V_ERR_UNSPECIFIED) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        certificate_time(X509_get0_notAfter(cert), when);
        (void)err_set(err, E_UPSTREAM, "certificate of %s: %sexpired on %s", host, whose, when);
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        certificate_time(X509_get0_notBefore(cert), when);
        (void)err_set(err, E_UPSTREAM, "certificate of %s: %sis valid only from %s", host, whose, when);
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        refusal_hosts(cert, host, err);
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        (void)err_set(err, E_UPSTREAM, "certificate of %s: it is self-signed and not among the known ones",
                      host);
        break;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        certificate_subject(cert, name);
        (void)err_set(err, E_UPSTREAM, "certificate of %s: issued by an unknown authority: %s", host, name);
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        certificate_issuer(cert, name);
        (void)err_set(err, E_UPSTREAM,
                      "certificate of %s: issued by an unknown authority: %s (neither known here nor sent by "
                      "the server)",
                      host, name);
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        (void)err_set(err, E_UPSTREAM, "certificate of %s: %sis not made for servers", host, whose);
        break;
    default:
        (void)err_set(err, E_UPSTREAM, "certificate of %s: %s%s", host, whose,
                      X509_verify_cert_error_string(code));
    }
}

static int on_verified(int is_ok, X509_STORE_CTX *ctx)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct err *err = ssl != NULL ? tls_handshake_err(ssl) : NULL;

    if (!is_ok && err != NULL && err->code == 0)
        refusal_write(ctx, tls_handshake_host(ssl), err);
    return is_ok;
}

/* --- one server --- */

static void session_drop(struct tls_client *c)
{
    SSL_SESSION_free(c->session);
    c->session = NULL;
}

static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls_client *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const struct tls_stream *stream = SSL_get_app_data(ssl);

    if (c == NULL) /* the connector is gone, its connections live on */
        return 0;
    session_drop(c);
    c->session = session;
    if (!SSL_session_reused(ssl))
        c->verified_ms = clock_mono_ms(stream->base.loop->clock);
    return 1; /* it is ours now */
}

static bool is_address(const char *host)
{
    unsigned char a[16];

    return inet_pton(AF_INET, host, a) == 1 || inet_pton(AF_INET6, host, a) == 1;
}

static struct tls_client *client_new(const struct tls_trust *trust, const char *host)
{
    struct tls_client *c = MEM_NEW(struct tls_client);
    size_t n = strlen(host);
    X509_VERIFY_PARAM *param;

    c->host = mem_strndup(host, n > 0 && host[n - 1] == '.' ? n - 1 : n); /* certificates name no root dot */
    c->ctx = SSL_CTX_new(TLS_client_method());
    must(c->ctx != NULL);
    tls_context_tune(c->ctx);
    must(SSL_CTX_set_cipher_list(c->ctx, CLIENT_CIPHERS) == 1);
    SSL_CTX_set1_cert_store(c->ctx, trust->store);
    SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, on_verified);
    SSL_CTX_set_verify_depth(c->ctx, CHAIN_DEPTH_MAX);
    (void)SSL_CTX_set_session_cache_mode(c->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(c->ctx, on_session);
    SSL_CTX_set_app_data(c->ctx, c);
    must(SSL_CTX_set_alpn_protos(c->ctx, (const unsigned char *)"\x08http/1.1", 9) == 0);
    param = SSL_CTX_get0_param(c->ctx);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (is_address(c->host))
        must(X509_VERIFY_PARAM_set1_ip_asc(param, c->host) == 1);
    else
        must(X509_VERIFY_PARAM_set1_host(param, c->host, 0) == 1);
    return c;
}

static void client_free(struct tls_client *c)
{
    if (c == NULL)
        return;
    SSL_CTX_set_app_data(c->ctx, NULL);
    SSL_SESSION_free(c->session);
    SSL_CTX_free(c->ctx);
    mem_free(c->host);
    mem_free(c);
}

static SSL *client_ssl(struct tls_client *c, const struct clock *clock)
{
    SSL *ssl = SSL_new(c->ctx);

    must(ssl != NULL);
    SSL_set_connect_state(ssl);
    if (!is_address(c->host)) /* RFC 6066 section 3: no addresses */
        must(SSL_set_tlsext_host_name(ssl, c->host) == 1);
    if (c->session != NULL) {
        bool is_young = clock_mono_ms(clock) - c->verified_ms < SESSION_AGE_MS;

        if (is_young)
            (void)SSL_set_session(ssl, c->session); /* refused: a full handshake */
        if (!is_young || SSL_SESSION_get_protocol_version(c->session) >= TLS1_3_VERSION)
            session_drop(c); /* RFC 8446 appendix C.4: a ticket is used once */
    }
    return ssl;
}

/* --- the connector --- */

static void open_end(struct tls_open *o, int code, struct stream *s, const struct err *err)
{
    connect_done_cb done = o->done;
    void *data = o->data;

    SSL_free(o->ssl);
    mem_free(o->host);
    mem_free(o);
    done(code, s, err, data);
}

static void on_shaken(int code, struct stream *s, const struct err *err, void *data)
{
    open_end(data, code, s, err);
}

static void on_below(int code, struct stream *s, const struct err *err, void *data)
{
    struct tls_open *o = data;
    SSL *ssl = o->ssl;
    uint64_t now = uv_now(&o->loop->uv);

    o->connecting = NULL;
    if (code != 0) {
        open_end(o, code, NULL, err);
        return;
    }
    o->ssl = NULL;
    o->handshake = tls_handshake_start(
        ssl, s, o->host, o->deadline_ms > now ? (int64_t)(o->deadline_ms - now) : 0, on_shaken, o);
}

static void *tls_open(const struct connector *c, struct loop *l, int64_t timeout_ms, connect_done_cb done,
                      void *data)
{
    const struct connector_tls *t = c->data;
    struct tls_open *o = MEM_NEW(struct tls_open);

    o->below = t->below;
    o->loop = l;
    o->ssl = client_ssl(t->client, l->clock);
    o->host = mem_strdup(t->client->host);
    o->deadline_ms = uv_now(&l->uv) + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);
    o->done = done;
    o->data = data;
    o->connecting = o->below.open(&o->below, l, timeout_ms, on_below, o);
    return o;
}

static void tls_cancel(const struct connector *c, void *handle)
{
    struct tls_open *o = handle;

    (void)c;
    if (o->handshake != NULL)
        tls_handshake_cancel(o->handshake);
    else
        o->below.cancel(&o->below, o->connecting);
}

void connector_tls_init(struct connector_tls *c, const struct connector *below, const struct tls_trust *trust,
                        const char *host)
{
    c->connector = (struct connector){tls_open, tls_cancel, c};
    c->below = *below;
    c->client = client_new(trust, host);
}

void connector_tls_trust(struct connector_tls *c, const struct tls_trust *trust)
{
    SSL_CTX_set1_cert_store(c->client->ctx, trust->store);
    session_drop(c->client); /* the old list vouched for it */
}

void connector_tls_fini(struct connector_tls *c)
{
    client_free(c->client);
    c->client = NULL;
}
