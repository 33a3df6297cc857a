/* client_hello: see client_hello.h.
 *
 * Happy path: the handshake message is gathered from its records, however it is split, then walked once.
 * Failure paths: lengths that do not fit into each other, extensions that stand twice, names that are none.
 */
#include "base/net/client_hello.h"

#include <string.h>

enum {
    RECORD_CHANGE_CIPHER_SPEC = 20,
    RECORD_HANDSHAKE = 22,
    RECORD_APPLICATION_DATA = 23,
    RECORD_HEAD_BYTES = 5,
    RECORD_BYTES_MAX = 16384,
    MESSAGE_CLIENT_HELLO = 1,
    MESSAGE_SERVER_HELLO = 2,
    MESSAGE_HEAD_BYTES = 4,
    EXTENSION_SERVER_NAME = 0,
    NAME_HOST = 0,
    EXTENSIONS_MAX = 256,
    SKIPPED_MAX = 64
};

/* A walk over bytes; once something did not fit, it stays bad. */
struct reader {
    const unsigned char *p;
    size_t n;
    bool is_bad;
};

static uint32_t take(struct reader *r, size_t bytes)
{
    uint32_t v = 0;
    if (r->is_bad || r->n < bytes) {
        r->is_bad = true;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++)
        v = v << 8 | r->p[i];
    r->p += bytes;
    r->n -= bytes;
    return v;
}

static struct reader take_part(struct reader *r, size_t bytes)
{
    struct reader part = {r->p, bytes, false};
    if (r->is_bad || r->n < bytes) {
        r->is_bad = true;
        return (struct reader){r->p, 0, true};
    }
    r->p += bytes;
    r->n -= bytes;
    return part;
}

/* The list has one name of each type; only host names exist. */
static bool server_name_parse(struct reader ext, struct client_hello *ret)
{
    struct reader list = take_part(&ext, take(&ext, 2));
    if (ext.is_bad || ext.n != 0 || list.n == 0)
        return false;
    while (!list.is_bad && list.n > 0) {
        uint32_t type = take(&list, 1);
        struct reader name = take_part(&list, take(&list, 2));
        if (list.is_bad || type != NAME_HOST || ret->has_name || name.n == 0 || name.n >= sizeof ret->name ||
            memchr(name.p, 0, name.n) != NULL)
            return false;
        memcpy(ret->name, name.p, name.n);
        ret->name[name.n] = '\0';
        ret->has_name = true;
    }
    return true;
}

static bool extensions_parse(struct reader all, struct client_hello *ret)
{
    uint16_t seen[EXTENSIONS_MAX];
    size_t n_seen = 0;
    while (all.n > 0) {
        uint32_t type = take(&all, 2);
        struct reader ext = take_part(&all, take(&all, 2));
        if (all.is_bad || n_seen == EXTENSIONS_MAX)
            return false;
        for (size_t i = 0; i < n_seen; i++)
            if (seen[i] == type)
                return false; /* which of the two would the server take? */
        seen[n_seen++] = (uint16_t)type;
        if (type == EXTENSION_SERVER_NAME && !server_name_parse(ext, ret))
            return false;
    }
    return true;
}

static bool hello_parse(struct reader r, struct client_hello *ret)
{
    (void)take(&r, 2);                                      /* legacy_version */
    (void)take_part(&r, 32);                                /* random */
    struct reader session = take_part(&r, take(&r, 1));     /* legacy_session_id */
    struct reader suites = take_part(&r, take(&r, 2));      /* cipher_suites */
    struct reader compression = take_part(&r, take(&r, 1)); /* legacy_compression_methods */
    if (r.is_bad || session.n > 32 || suites.n < 2 || suites.n % 2 != 0 || compression.n < 1)
        return false;
    if (r.n == 0)
        return true; /* no extensions: TLS 1.2 of old */
    struct reader extensions = take_part(&r, take(&r, 2));
    return !r.is_bad && r.n == 0 && extensions_parse(extensions, ret);
}

/* How many bytes the message has with its head, once its head is there; else 0. */
static size_t message_bytes(const unsigned char *m, size_t n)
{
    return n < MESSAGE_HEAD_BYTES ? 0 : MESSAGE_HEAD_BYTES + ((size_t)m[1] << 16 | (size_t)m[2] << 8 | m[3]);
}

int client_hello_parse(struct slice in, struct client_hello *ret, struct err *err)
{
    unsigned char message[MESSAGE_HEAD_BYTES + CLIENT_HELLO_BYTES_MAX];
    struct reader r = {(const unsigned char *)in.p, in.n, false};
    size_t have = 0;
    *ret = (struct client_hello){.has_name = false};
    if (r.n > 0 && r.p[0] != RECORD_HANDSHAKE)
        return err_set(err, E_INVALID, "it does not begin with a TLS handshake");
    while (r.n >= RECORD_HEAD_BYTES) {
        uint32_t type = take(&r, 1), version = take(&r, 2), length = take(&r, 2);
        if (type != RECORD_HANDSHAKE || version >> 8 != 3)
            return err_set(err, have == 0 ? E_INVALID : E_SYNTAX, "no TLS record where one is expected");
        if (length == 0 || length > RECORD_BYTES_MAX)
            return err_set(err, E_SYNTAX, "a TLS record of %u bytes", (unsigned)length);
        size_t n = length < r.n ? length : r.n;
        if (n > sizeof message - have)
            n = sizeof message - have; /* the rest is not of this message, or it is too large: told below */
        memcpy(message + have, r.p, n);
        have += n;
        if (have > 0 && message[0] != MESSAGE_CLIENT_HELLO)
            return err_set(err, E_SYNTAX, "the first TLS message is no ClientHello");
        size_t all = message_bytes(message, have);
        if (all > sizeof message)
            return err_set(err, E_TOO_LARGE, "a ClientHello of %zu bytes", all);
        if (all != 0 && have - n + length > all) /* a second hello, perhaps */
            return err_set(err, E_SYNTAX, "something behind the ClientHello in its record");
        if (all != 0 && have >= all) {
            ret->n_bytes = in.n - r.n + length;
            struct reader body = {message + MESSAGE_HEAD_BYTES, all - MESSAGE_HEAD_BYTES, false};
            return hello_parse(body, ret) ? 0 : err_set(err, E_SYNTAX, "a malformed ClientHello");
        }
        (void)take_part(&r, length < r.n ? length : r.n);
    }
    return in.n >= CLIENT_HELLO_RECORDS_MAX
               ? err_set(err, E_TOO_LARGE, "no whole ClientHello in %d bytes", CLIENT_HELLO_RECORDS_MAX)
               : E_AGAIN;
}

int client_hello_parse_second(struct slice in, struct client_hello *ret, struct err *err)
{
    struct reader r = {(const unsigned char *)in.p, in.n, false};
    for (int i = 0; r.n > 0 && (r.p[0] == RECORD_CHANGE_CIPHER_SPEC || r.p[0] == RECORD_APPLICATION_DATA);
         i++) {
        if (i == SKIPPED_MAX)
            return err_set(err, E_TOO_LARGE, "more than %d records in front of it", SKIPPED_MAX);
        (void)take(&r, 3);
        (void)take_part(&r, take(&r, 2));
        if (r.is_bad)
            return E_AGAIN;
    }
    int rc = client_hello_parse(slice_from(in, in.n - r.n), ret, err);
    ret->n_bytes += in.n - r.n;
    return rc;
}

int server_hello_parse(struct slice in, bool *ret_is_retry)
{
    /* SHA-256 of "HelloRetryRequest", where the random stands */
    static const unsigned char retry[32] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c,
                                            0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb,
                                            0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};
    const unsigned char *p = (const unsigned char *)in.p;
    *ret_is_retry = false;
    if ((in.n > 0 && p[0] != RECORD_HANDSHAKE) ||
        (in.n > RECORD_HEAD_BYTES && p[RECORD_HEAD_BYTES] != MESSAGE_SERVER_HELLO))
        return 0;
    if (in.n < SERVER_HELLO_BYTES)
        return E_AGAIN;
    *ret_is_retry = memcmp(p + SERVER_HELLO_BYTES - sizeof retry, retry, sizeof retry) == 0;
    return 0;
}
