/* client_hello: reads the first message of a TLS client, to learn which server it means (RFC 8446 section
 * 4.1.2, RFC 6066 section 3). Nothing is decrypted. */
#ifndef REEVE_BASE_NET_CLIENT_HELLO_H
#define REEVE_BASE_NET_CLIENT_HELLO_H

#include "base/core/err.h"
#include "base/core/slice.h"

/* A message larger than this, or in more bytes of records, is refused; real ones have 200 to 3,000 bytes. */
#define CLIENT_HELLO_BYTES_MAX   16384
#define CLIENT_HELLO_RECORDS_MAX 32768

struct client_hello {
    bool has_name;
    char name[256]; /* server_name as sent: not checked, but without NUL */
    size_t n_bytes; /* of `in`, with its records; they hold nothing else */
};

/* `in`: all bytes that the client has sent so far, at most CLIENT_HELLO_RECORDS_MAX of them matter. 0;
 * E_AGAIN: more are needed; E_INVALID: this is not TLS; E_SYNTAX, E_TOO_LARGE: it begins like TLS, and then
 * does not hold to it. */
int client_hello_parse(struct slice in, struct client_hello *ret, struct err *err);
/* The second one, after a server's HelloRetryRequest. `in`: what came behind the first: records that a server
 * passes over (change_cipher_spec, early data) may stand before it. Else as client_hello_parse. */
int client_hello_parse_second(struct slice in, struct client_hello *ret, struct err *err);

/* Does the server ask for a second ClientHello (RFC 8446 section 4.1.4)? `in`: all that it has sent so far,
 * of which SERVER_HELLO_BYTES matter. 0, or E_AGAIN: more are needed. */
#define SERVER_HELLO_BYTES 43
int server_hello_parse(struct slice in, bool *ret_is_retry);

#endif
