/* certificate: X.509 certificates and private keys from PEM text, and what a person calls them. */
#ifndef REEVE_BASE_CORE_CERTIFICATE_H
#define REEVE_BASE_CORE_CERTIFICATE_H

#include "base/core/buf.h"
#include "base/core/err.h"
#include "base/core/slice.h"

#include <openssl/x509.h>

/* The largest file of certificates that is read, and the most certificates of one. The system's own list has
 * about 150 in 220 KiB. */
#define CERTIFICATE_FILE_MAX ((size_t)1 << 20)
#define CERTIFICATES_MAX     1000

/* Every certificate of the text, in order, at least one; text around them (comments) is skipped. The caller
 * frees them. 0, or E_INVALID with a sentence. */
int certificates_parse(struct slice pem, STACK_OF(X509) * *ret, struct err *err);
void certificates_free(STACK_OF(X509) * all); /* NULL is fine */

/* A server's certificate (the first of the text) with its chain, and its key. 0, or E_INVALID with a
 * sentence: nothing readable, a key behind a passphrase, one of another certificate, or too weak (below 112
 * bits). The caller frees both. */
int certificate_pair_parse(struct slice cert_pem, struct slice key_pem, STACK_OF(X509) * *ret_chain,
                           EVP_PKEY **ret_key, struct err *err);
bool certificate_is_expired(const X509 *cert);

/* For messages, cut where too long: its subject ("CN=x, O=y"), its issuer. `out` is never empty. */
#define CERTIFICATE_NAME_MAX 160
void certificate_subject(const X509 *cert, char out[CERTIFICATE_NAME_MAX]);
void certificate_issuer(const X509 *cert, char out[CERTIFICATE_NAME_MAX]);
/* "a.example.org, *.b.example.org, 10.0.0.1": the names that it is for; "" when there are none. */
void certificate_hosts(X509 *cert, struct buf *out);
/* "2026-01-31T12:00:00Z"; "an unreadable time" otherwise. */
#define CERTIFICATE_TIME_MAX 40
void certificate_time(const ASN1_TIME *t, char out[CERTIFICATE_TIME_MAX]);

#endif
