/* certificate: see certificate.h. What stands in a certificate is a stranger's text: names are printed with
 * everything that is not plain ASCII escaped, and cut. */
#include "base/core/certificate.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/core/mem.h"

#define SECURITY_BITS_MIN 112

int certificates_parse(struct slice pem, STACK_OF(X509) * *ret, struct err *err)
{
    BIO *in = pem.n > 0 && pem.n <= CERTIFICATE_FILE_MAX ? BIO_new_mem_buf(pem.p, (int)pem.n) : NULL;
    STACK_OF(X509) *all = sk_X509_new_null();
    X509 *cert = NULL;
    int rc = 0;
    must(all != NULL);
    ERR_clear_error();
    if (in == NULL)
        rc = err_set(err, E_INVALID, pem.n == 0 ? "the file is empty" : "the file is too large");
    while (rc == 0 && (cert = PEM_read_bio_X509(in, NULL, NULL, "")) != NULL) {
        if (sk_X509_num(all) >= CERTIFICATES_MAX) {
            X509_free(cert);
            rc = err_set(err, E_INVALID, "more than %d certificates", CERTIFICATES_MAX);
            break;
        }
        must(sk_X509_push(all, cert) > 0);
    }
    unsigned long why = ERR_peek_last_error();
    if (rc == 0 && ERR_GET_REASON(why) != PEM_R_NO_START_LINE)
        rc = err_set(err, E_INVALID, "certificate %d of it cannot be read: %s", sk_X509_num(all) + 1,
                     ERR_reason_error_string(why) != NULL ? ERR_reason_error_string(why) : "malformed");
    else if (rc == 0 && sk_X509_num(all) == 0)
        rc = err_set(err, E_INVALID, "there is no certificate in it (PEM, -----BEGIN CERTIFICATE-----)");
    ERR_clear_error();
    BIO_free(in);
    if (rc == 0)
        *ret = all;
    else
        certificates_free(all);
    return rc;
}

void certificates_free(STACK_OF(X509) * all)
{
    sk_X509_pop_free(all, X509_free);
}

/* Asked for a passphrase: there is none. */
static int on_passphrase(char *out, int size, int is_write, void *was_asked)
{
    (void)out;
    (void)size;
    (void)is_write;
    *(bool *)was_asked = true;
    return -1;
}

static int key_parse(struct slice pem, EVP_PKEY **ret, struct err *err)
{
    bool was_asked = false;
    BIO *in = pem.n > 0 && pem.n <= CERTIFICATE_FILE_MAX ? BIO_new_mem_buf(pem.p, (int)pem.n) : NULL;
    EVP_PKEY *key = in != NULL ? PEM_read_bio_PrivateKey(in, NULL, on_passphrase, &was_asked) : NULL;

    BIO_free(in);
    ERR_clear_error();
    if (key == NULL)
        return err_set(err, E_INVALID,
                       was_asked ? "the key is behind a passphrase: expected one without"
                                 : "there is no private key in it (PEM, -----BEGIN PRIVATE KEY-----)");
    *ret = key;
    return 0;
}

int certificate_pair_parse(struct slice cert_pem, struct slice key_pem, STACK_OF(X509) * *ret_chain,
                           EVP_PKEY **ret_key, struct err *err)
{
    STACK_OF(X509) *chain = NULL;
    EVP_PKEY *key = NULL;
    int rc = certificates_parse(cert_pem, &chain, err);

    if (rc == 0)
        rc = key_parse(key_pem, &key, err);
    if (rc == 0 && X509_check_private_key(sk_X509_value(chain, 0), key) != 1)
        rc = err_set(err, E_INVALID, "the key is not that of the (first) certificate");
    else if (rc == 0 && EVP_PKEY_get_security_bits(key) < SECURITY_BITS_MIN)
        rc = err_set(err, E_INVALID, "the key is too weak: expected RSA of 2048 bits or more, or P-256");
    ERR_clear_error();
    if (rc != 0) {
        certificates_free(chain);
        EVP_PKEY_free(key);
        return rc;
    }
    *ret_chain = chain;
    *ret_key = key;
    return 0;
}

bool certificate_is_expired(const X509 *cert)
{
    return X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0;
}

static void name_print(const X509_NAME *name, char out[CERTIFICATE_NAME_MAX])
{
    BIO *b = BIO_new(BIO_s_mem());
    char *text = NULL;
    must(b != NULL);
    /* RFC 2253 escapes, without its reversed order; control characters and non-ASCII as \XX */
    int n = X509_NAME_print_ex(b, name, 0, XN_FLAG_ONELINE & ~XN_FLAG_SPC_EQ);
    long have = BIO_get_mem_data(b, &text);
    if (n <= 0 || have <= 0)
        (void)snprintf(out, CERTIFICATE_NAME_MAX, "(no name)");
    else if (have < CERTIFICATE_NAME_MAX)
        (void)snprintf(out, CERTIFICATE_NAME_MAX, "%.*s", (int)have, text);
    else
        (void)snprintf(out, CERTIFICATE_NAME_MAX, "%.*s…", CERTIFICATE_NAME_MAX - 5, text);
    BIO_free(b);
}

void certificate_subject(const X509 *cert, char out[CERTIFICATE_NAME_MAX])
{
    name_print(X509_get_subject_name(cert), out);
}

void certificate_issuer(const X509 *cert, char out[CERTIFICATE_NAME_MAX])
{
    name_print(X509_get_issuer_name(cert), out);
}

static void host_add(struct buf *out, const char *text)
{
    if (out->n > 0)
        (void)buf_str(out, ", "); /* a full buffer says so itself */
    for (const char *p = text; *p != '\0'; p++)
        (void)buf_byte(out, *p > ' ' && *p < 0x7f ? *p : '?');
}

void certificate_hosts(X509 *cert, struct buf *out)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        char text[256] = "";
        if (g->type == GEN_DNS)
            (void)snprintf(text, sizeof text, "%.*s", ASN1_STRING_length(g->d.dNSName),
                           (const char *)ASN1_STRING_get0_data(g->d.dNSName));
        else if (g->type == GEN_IPADD && ASN1_STRING_length(g->d.iPAddress) == 4)
            (void)inet_ntop(AF_INET, ASN1_STRING_get0_data(g->d.iPAddress), text, sizeof text);
        else if (g->type == GEN_IPADD && ASN1_STRING_length(g->d.iPAddress) == 16)
            (void)inet_ntop(AF_INET6, ASN1_STRING_get0_data(g->d.iPAddress), text, sizeof text);
        if (text[0] != '\0')
            host_add(out, text);
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
}

void certificate_time(const ASN1_TIME *t, char out[CERTIFICATE_TIME_MAX])
{
    struct tm tm;
    if (ASN1_TIME_to_tm(t, &tm) == 1)
        (void)snprintf(out, CERTIFICATE_TIME_MAX, "%04d-%02d-%02dT%02d:%02d:%02dZ",
                       (tm.tm_year + 1900) % 10000, (tm.tm_mon + 1) % 100, tm.tm_mday % 100, tm.tm_hour % 100,
                       tm.tm_min % 100, tm.tm_sec % 100);
    else
        (void)snprintf(out, CERTIFICATE_TIME_MAX, "an unreadable time");
}
