/* crypto: hashes, encodings and sealing on top of libcrypto's EVP interface.
 *
 * Algorithms are fetched once, because a fetch costs more than hashing a token; contexts are made per call,
 * so everything here may be used from any thread. A libcrypto call that fails for other reasons than its
 * input ends the process: there is no sensible way to go on without SHA-256. The encodings are one loop over
 * bits with three alphabets, because libcrypto's own base64 decoder is lenient. */
#include "base/core/crypto.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "base/core/mem.h"

enum { SEAL_VERSION = 1, SEAL_NONCE_BYTES = 12, SEAL_TAG_BYTES = 16 };
enum { SEAL_OVERHEAD = 1 + SEAL_NONCE_BYTES + SEAL_TAG_BYTES };

static const char HEX[] = "0123456789abcdef";

static struct {
    pthread_once_t once;
    EVP_MD *sha256;
    EVP_MAC *hmac;
    EVP_CIPHER *aes_gcm;
} g_algorithms = {.once = PTHREAD_ONCE_INIT};

static void algorithms_fetch(void)
{
    g_algorithms.sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    g_algorithms.hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    g_algorithms.aes_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    if (g_algorithms.sha256 == NULL || g_algorithms.hmac == NULL || g_algorithms.aes_gcm == NULL)
        die("libcrypto offers no SHA-256, HMAC or AES-256-GCM: its configuration is broken");
}

static void algorithms_need(void)
{
    must(pthread_once(&g_algorithms.once, algorithms_fetch) == 0);
}

/* libcrypto takes NULL for "keep what was set before", which an empty view must never mean. */
static const unsigned char *bytes_of(struct slice s)
{
    return (const unsigned char *)(s.p == NULL ? "" : s.p);
}

void sha256(struct slice in, unsigned char out[SHA256_BYTES])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();

    algorithms_need();
    must(c != NULL && EVP_DigestInit_ex2(c, g_algorithms.sha256, NULL) == 1);
    must(EVP_DigestUpdate(c, bytes_of(in), in.n) == 1 && EVP_DigestFinal_ex(c, out, NULL) == 1);
    EVP_MD_CTX_free(c);
}

void sha256_hex(struct slice in, char out[SHA256_HEX_SIZE])
{
    unsigned char digest[SHA256_BYTES];

    sha256(in, digest);
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = HEX[digest[i] >> 4];
        out[2 * i + 1] = HEX[digest[i] & 15];
    }
    out[SHA256_HEX_SIZE - 1] = '\0';
}

void hmac_sha256(struct slice key, struct slice in, unsigned char out[SHA256_BYTES])
{
    char name[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0),
                           OSSL_PARAM_construct_end()};
    EVP_MAC_CTX *c;
    size_t n = 0;

    algorithms_need();
    c = EVP_MAC_CTX_new(g_algorithms.hmac);
    must(c != NULL && EVP_MAC_init(c, bytes_of(key), key.n, params) == 1);
    must(EVP_MAC_update(c, bytes_of(in), in.n) == 1);
    must(EVP_MAC_final(c, out, &n, SHA256_BYTES) == 1 && n == SHA256_BYTES);
    EVP_MAC_CTX_free(c);
}

bool crypto_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

/* --- encodings: RFC 4648 --- */

static const char BASE32[] = "abcdefghijklmnopqrstuvwxyz234567";
static const char BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char BASE64URL[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Appends `in` as characters of `bits` bits each; the last one is filled with zero bits. */
static int bits_encode(struct slice in, const char *alphabet, unsigned bits, struct buf *out)
{
    unsigned held = 0, held_bits = 0;
    size_t chars;
    char *to;

    if (in.n > SIZE_MAX / 16)
        return E_TOO_LARGE;
    chars = (in.n * 8 + bits - 1) / bits;
    if (buf_reserve(out, chars) != 0)
        return E_TOO_LARGE;
    to = out->p + out->n;
    for (size_t i = 0; i < in.n; i++) {
        held = held << 8 | (unsigned char)in.p[i];
        held_bits += 8;
        while (held_bits >= bits) {
            held_bits -= bits;
            *to++ = alphabet[held >> held_bits & ((1U << bits) - 1)];
        }
        held &= (1U << held_bits) - 1;
    }
    if (held_bits > 0)
        *to++ = alphabet[held << (bits - held_bits) & ((1U << bits) - 1)];
    *to = '\0';
    out->n += chars;
    return 0;
}

/* The reverse; refuses foreign characters, a number of characters that no bytes have, and tail bits set. */
static int bits_decode(struct slice in, const char *alphabet, unsigned bits, struct buf *out)
{
    unsigned held = 0, held_bits = 0;
    signed char values[256];
    unsigned char *to;

    if (in.n > SIZE_MAX / 16)
        return E_TOO_LARGE;
    if (in.n * bits % 8 >= bits)
        return E_INVALID;
    if (buf_reserve(out, in.n * bits / 8) != 0)
        return E_TOO_LARGE;
    memset(values, -1, sizeof(values));
    for (unsigned i = 0; i < 1U << bits; i++)
        values[(unsigned char)alphabet[i]] = (signed char)i;
    to = (unsigned char *)out->p + out->n;
    for (size_t i = 0; i < in.n; i++) {
        signed char v = values[(unsigned char)in.p[i]];

        if (v < 0)
            goto fail;
        held = held << bits | (unsigned)v;
        held_bits += bits;
        if (held_bits >= 8) {
            held_bits -= 8;
            *to++ = (unsigned char)(held >> held_bits);
            held &= (1U << held_bits) - 1;
        }
    }
    if (held != 0)
        goto fail;
    out->n = (size_t)((char *)to - out->p);
    out->p[out->n] = '\0';
    return 0;
fail:
    out->p[out->n] = '\0'; /* as before */
    return E_INVALID;
}

int hex_encode(struct slice in, struct buf *out)
{
    return bits_encode(in, HEX, 4, out);
}

int hex_decode(struct slice in, struct buf *out)
{
    return bits_decode(in, HEX, 4, out);
}

int base64url_encode(struct slice in, struct buf *out)
{
    return bits_encode(in, BASE64URL, 6, out);
}

int base64url_decode(struct slice in, struct buf *out)
{
    return bits_decode(in, BASE64URL, 6, out);
}

int base64_encode(struct slice in, struct buf *out)
{
    size_t padding = (3 - in.n % 3) % 3;
    size_t before = out->n;
    int rc = bits_encode(in, BASE64, 6, out);

    if (rc == 0 && padding > 0) {
        rc = buf_append(out, "==", padding);
        if (rc != 0)
            out->n = before;
    }
    return rc;
}

int base64_decode(struct slice in, struct buf *out)
{
    if (in.n % 4 != 0)
        return E_INVALID;
    for (int i = 0; i < 2 && in.n > 0 && in.p[in.n - 1] == '='; i++)
        in.n--;
    return bits_decode(in, BASE64, 6, out);
}

int base32_encode(struct slice in, struct buf *out)
{
    return bits_encode(in, BASE32, 5, out);
}

/* --- sealing: AES-256-GCM, NIST SP 800-38D. Random nonces: fine up to 2^32 values under one key. --- */

int seal(const struct seal_key *k, const struct rnd *r, struct slice context, struct slice plain,
         struct buf *out)
{
    EVP_CIPHER_CTX *c;
    unsigned char *nonce, *text, *tag;
    int n = 0;

    if (plain.n > INT_MAX - SEAL_OVERHEAD || context.n > INT_MAX)
        return E_TOO_LARGE;
    if (buf_reserve(out, plain.n + SEAL_OVERHEAD) != 0)
        return E_TOO_LARGE;
    out->p[out->n] = SEAL_VERSION;
    nonce = (unsigned char *)out->p + out->n + 1;
    text = nonce + SEAL_NONCE_BYTES;
    tag = text + plain.n;
    rnd_fill(r, nonce, SEAL_NONCE_BYTES);

    algorithms_need();
    c = EVP_CIPHER_CTX_new();
    must(c != NULL && EVP_EncryptInit_ex2(c, g_algorithms.aes_gcm, k->bytes, nonce, NULL) == 1);
    must(EVP_EncryptUpdate(c, NULL, &n, bytes_of(context), (int)context.n) == 1);
    must(EVP_EncryptUpdate(c, text, &n, bytes_of(plain), (int)plain.n) == 1 && (size_t)n == plain.n);
    must(EVP_EncryptFinal_ex(c, tag, &n) == 1 && n == 0);
    must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_BYTES, tag) == 1);
    EVP_CIPHER_CTX_free(c); /* wipes the key schedule */
    out->n += plain.n + SEAL_OVERHEAD;
    out->p[out->n] = '\0';
    return 0;
}

int unseal(const struct seal_key *k, struct slice context, struct slice sealed, struct buf *out,
           struct err *err)
{
    unsigned char tag[SEAL_TAG_BYTES], *text;
    EVP_CIPHER_CTX *c;
    struct slice body;
    bool is_good;
    int n = 0;

    if (sealed.n < SEAL_OVERHEAD || sealed.n > INT_MAX || context.n > INT_MAX)
        return err_set(err, E_INVALID, "sealed value: %zu bytes cannot be one", sealed.n);
    if (sealed.p[0] != SEAL_VERSION)
        return err_set(err, E_INVALID, "sealed value: unknown version %d", (unsigned char)sealed.p[0]);
    body = slice_of(sealed.p + 1 + SEAL_NONCE_BYTES, sealed.n - SEAL_OVERHEAD);
    memcpy(tag, body.p + body.n, SEAL_TAG_BYTES);
    if (buf_reserve(out, body.n) != 0)
        return err_set(err, E_TOO_LARGE, "sealed value: %zu bytes do not fit", body.n);
    text = (unsigned char *)out->p + out->n;

    algorithms_need();
    c = EVP_CIPHER_CTX_new();
    must(c != NULL);
    must(EVP_DecryptInit_ex2(c, g_algorithms.aes_gcm, k->bytes, bytes_of(sealed) + 1, NULL) == 1);
    must(EVP_DecryptUpdate(c, NULL, &n, bytes_of(context), (int)context.n) == 1);
    must(EVP_DecryptUpdate(c, text, &n, bytes_of(body), (int)body.n) == 1);
    must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_BYTES, tag) == 1);
    is_good = EVP_DecryptFinal_ex(c, text + body.n, &n) == 1;
    EVP_CIPHER_CTX_free(c);
    if (!is_good) {
        mem_wipe(text, body.n);
        return err_set(err, E_INVALID,
                       "sealed value: it was sealed with another key or for another place, or is damaged");
    }
    out->n += body.n;
    out->p[out->n] = '\0';
    return 0;
}
