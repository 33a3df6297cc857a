/* tls_server: certificates, tickets and names of a listener.
 *
 * Happy path: a new connection gets the front context; when its ClientHello names a host, on_name puts the
 * context of the first certificate for that host in its place. Replacing makes a whole new set first, so that
 * a bad one changes nothing; connections keep the context that they began with. Ticket keys live in memory
 * only: a restart, another set of certificates, or a day of age makes a ticket worth nothing, and the client
 * shakes hands in full. Failure paths: a client whose ALPN does not include http/1.1 is refused (RFC 7301
 * section 3.2); all others end in tls_handshake.c. */
#include "base/net/tls_stream.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "base/core/certificate.h"
#include "base/core/clock.h"
#include "base/core/mem.h"

#define SERVER_CIPHERS   "ECDHE+AESGCM:ECDHE+CHACHA20"
#define SERVER_GROUPS    "X25519:P-256:P-384"
#define TICKET_AGE_S     (12 * 3600)
#define TICKET_ROTATE_MS ((int64_t)TICKET_AGE_S * 1000)

struct ticket_key {
    unsigned char name[16]; /* sent in clear: which key it was */
    unsigned char aes[32], hmac[32];
    int64_t made_ms; /* 0: none */
};

struct tls_server {
    SSL_CTX *shown[TLS_PAIRS_MAX]; /* the first is the front */
    X509 *names[TLS_PAIRS_MAX];    /* the certificate of each */
    size_t n_shown;
    struct ticket_key tickets[2]; /* the present one, and the one before it */
};

/* --- tickets --- */

static void ticket_key_make(struct ticket_key *k, int64_t now)
{
    must(RAND_bytes(k->name, sizeof(k->name)) == 1 && RAND_bytes(k->aes, sizeof(k->aes)) == 1 &&
         RAND_bytes(k->hmac, sizeof(k->hmac)) == 1);
    k->made_ms = now > 0 ? now : 1;
}

static void tickets_rotate(struct tls_server *s, int64_t now)
{
    if (s->tickets[0].made_ms != 0 && now - s->tickets[0].made_ms < TICKET_ROTATE_MS)
        return;
    s->tickets[1] = s->tickets[0];
    if (s->tickets[1].made_ms != 0 && now - s->tickets[1].made_ms >= 2 * TICKET_ROTATE_MS)
        mem_wipe(&s->tickets[1], sizeof(s->tickets[1])); /* nobody came for a day */
    ticket_key_make(&s->tickets[0], now);
}

static void tickets_forget(struct tls_server *s)
{
    mem_wipe(s->tickets, sizeof(s->tickets));
}

static bool ticket_cipher_set(const struct ticket_key *k, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                              EVP_MAC_CTX *mac, bool is_new)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)k->hmac, sizeof(k->hmac)),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()};

    return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, k->aes, iv, is_new ? 1 : 0) == 1 &&
           EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* 1: go on; 2: go on, and give a fresh ticket; 0: not ours, a full handshake; -1: an error. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                     EVP_MAC_CTX *mac, int is_new)
{
    struct tls_server *s = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const struct tls_stream *stream = SSL_get_app_data(ssl);
    size_t i;

    tickets_rotate(s, clock_mono_ms(stream->base.loop->clock));
    if (is_new) {
        memcpy(name, s->tickets[0].name, sizeof(s->tickets[0].name));
        if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1)
            return -1;
        return ticket_cipher_set(&s->tickets[0], iv, cipher, mac, true) ? 1 : -1;
    }
    for (i = 0; i < ARRAY_LEN(s->tickets); i++) {
        const struct ticket_key *k = &s->tickets[i];

        if (k->made_ms == 0 || memcmp(name, k->name, sizeof(k->name)) != 0)
            continue;
        if (!ticket_cipher_set(k, iv, cipher, mac, false))
            return -1;
        return i == 0 && SSL_version(ssl) < TLS1_3_VERSION ? 1 : 2; /* in TLS 1.3 a ticket is used once */
    }
    return 0;
}

/* --- what the client asks for --- */

static int on_name(SSL *ssl, int *alert, void *data)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    struct tls_server *s = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    size_t i;

    (void)alert;
    (void)data;
    if (name == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    for (i = 0; i < s->n_shown; i++)
        if (X509_check_host(s->names[i], name, 0,
                            X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT,
                            NULL) == 1) {
            (void)SSL_set_SSL_CTX(ssl, s->shown[i]); /* fails for lack of memory only */
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_NOACK;
}

static int on_protocols(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
                        unsigned in_n, void *data)
{
    unsigned at;

    (void)ssl;
    (void)data;
    for (at = 0; at < in_n; at += 1u + in[at])
        if (in[at] == 8 && at + 9 <= in_n && memcmp(in + at + 1, "http/1.1", 8) == 0) {
            *out = in + at + 1;
            *out_n = 8;
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* --- what is shown --- */

static SSL_CTX *context_new(struct tls_server *s, const struct tls_pair *pair, X509 **ret_name,
                            struct err *err)
{
    STACK_OF(X509) *chain = NULL;
    EVP_PKEY *key = NULL;
    SSL_CTX *ctx;
    bool is_good;

    if (certificate_pair_parse(pair->cert_pem, pair->key_pem, &chain, &key, err) != 0)
        return NULL;
    ctx = SSL_CTX_new(TLS_server_method());
    must(ctx != NULL);
    tls_context_tune(ctx);
    (void)SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    must(SSL_CTX_set_cipher_list(ctx, SERVER_CIPHERS) == 1 &&
         SSL_CTX_set1_groups_list(ctx, SERVER_GROUPS) == 1);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets alone: no state for strangers */
    must(SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"reeve", 5) == 1);
    (void)SSL_CTX_set_timeout(ctx, TICKET_AGE_S);
    (void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
    (void)SSL_CTX_set_tlsext_servername_callback(ctx, on_name);
    SSL_CTX_set_alpn_select_cb(ctx, on_protocols, NULL);
    SSL_CTX_set_app_data(ctx, s);
    *ret_name = sk_X509_shift(chain);
    is_good = SSL_CTX_use_cert_and_key(ctx, *ret_name, key, chain, 1) == 1;
    if (!is_good) {
        const char *why = ERR_reason_error_string(ERR_peek_last_error());

        (void)err_set(err, E_INVALID, "the certificate cannot be used: %s", why != NULL ? why : "unknown");
        X509_free(*ret_name);
        SSL_CTX_free(ctx);
    }
    ERR_clear_error();
    certificates_free(chain);
    EVP_PKEY_free(key);
    return is_good ? ctx : NULL;
}

static void shown_free(struct tls_server *s)
{
    while (s->n_shown > 0) {
        s->n_shown--;
        SSL_CTX_free(s->shown[s->n_shown]);
        X509_free(s->names[s->n_shown]);
    }
}

int tls_server_replace(struct tls_server *s, const struct tls_pair *pairs, size_t n, struct err *err)
{
    struct tls_server made = {.n_shown = 0};
    size_t i;

    must(n > 0 && n <= TLS_PAIRS_MAX);
    for (i = 0; i < n; i++) {
        made.shown[i] = context_new(s, &pairs[i], &made.names[i], err);
        if (made.shown[i] == NULL) {
            shown_free(&made);
            return E_INVALID;
        }
        made.n_shown++;
    }
    shown_free(s);
    tickets_forget(s);
    memcpy(s->shown, made.shown, sizeof(s->shown));
    memcpy(s->names, made.names, sizeof(s->names));
    s->n_shown = n;
    return 0;
}

int tls_server_new(const struct tls_pair *pairs, size_t n, struct tls_server **ret, struct err *err)
{
    struct tls_server *s = MEM_NEW(struct tls_server);
    int rc = tls_server_replace(s, pairs, n, err);

    if (rc != 0)
        mem_free(s);
    else
        *ret = s;
    return rc;
}

void tls_server_free(struct tls_server *s)
{
    if (s == NULL)
        return;
    shown_free(s);
    tickets_forget(s);
    mem_free(s);
}

struct tls_handshake *tls_server_accept(struct tls_server *s, struct stream *inner, int64_t timeout_ms,
                                        connect_done_cb done, void *data)
{
    SSL *ssl = SSL_new(s->shown[0]);
    char peer[STREAM_PEER_MAX];

    must(ssl != NULL);
    SSL_set_accept_state(ssl);
    stream_peer(inner, peer);
    return tls_handshake_start(ssl, inner, peer, timeout_ms, done, data);
}
