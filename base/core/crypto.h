/* crypto: hashes, encodings, sealing. All of it libcrypto; nothing home-made. */
#ifndef REEVE_BASE_CORE_CRYPTO_H
#define REEVE_BASE_CORE_CRYPTO_H

#include "base/core/buf.h"
#include "base/core/clock.h"
#include "base/core/err.h"
#include "base/core/slice.h"

#define SHA256_BYTES    32
#define SHA256_HEX_SIZE 65 /* with the NUL */

void sha256(struct slice in, unsigned char out[SHA256_BYTES]);
void sha256_hex(struct slice in, char out[SHA256_HEX_SIZE]); /* lower case */
void hmac_sha256(struct slice key, struct slice in, unsigned char out[SHA256_BYTES]);
bool crypto_equal(const void *a, const void *b, size_t n); /* constant time */

/* Encodings append to `out` (0 or E_TOO_LARGE); decodings are strict (E_INVALID). */
int hex_encode(struct slice in, struct buf *out);
int hex_decode(struct slice in, struct buf *out);       /* lower case only */
int base64url_encode(struct slice in, struct buf *out); /* no padding */
int base64url_decode(struct slice in, struct buf *out); /* no padding, zero tail bits */
int base64_encode(struct slice in, struct buf *out);    /* with padding */
int base64_decode(struct slice in, struct buf *out);
int base32_encode(struct slice in, struct buf *out); /* RFC 4648 alphabet in lower case, no padding */

/* Sealing: AES-256-GCM with a random 96-bit nonce. The sealed form is 1 version byte, nonce, ciphertext, tag.
 * `context` is authenticated, not stored: what is sealed for one place cannot be moved to another. */
#define SEAL_KEY_BYTES 32
struct seal_key {
    unsigned char bytes[SEAL_KEY_BYTES];
};
int seal(const struct seal_key *k, const struct rnd *r, struct slice context, struct slice plain,
         struct buf *out);
int unseal(const struct seal_key *k, struct slice context, struct slice sealed, struct buf *out,
           struct err *err);

#endif
