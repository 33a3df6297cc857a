/* http: a strict HTTP/1.1 codec without I/O: heads and chunks. RFC 9112, refusing where it allows leniency.
 *
 * For an authorising proxy the parser is the security boundary: it closes rather than repairs, and every head
 * that is forwarded is written anew from parsed parts. Zero copy: slices point into the caller's bytes. */
#ifndef REEVE_BASE_NET_HTTP_H
#define REEVE_BASE_NET_HTTP_H

#include "base/core/buf.h"
#include "base/core/err.h"
#include "base/core/slice.h"

#define HTTP_HEADERS_MAX      100
#define HTTP_HEAD_BYTES_MAX   65536
#define HTTP_TARGET_BYTES_MAX 16384

struct http_header {
    struct slice name;  /* as received */
    struct slice value; /* without blanks around */
};

struct http_request {
    struct slice method;
    struct slice target; /* origin-form "/path?query" byte-exact; "*" for OPTIONS; absolute-form and
                            authority-form only where the parser was told to take them */
    struct slice path;   /* target before '?', undecoded */
    struct slice query;  /* after '?', undecoded; SLICE_NULL when there is no '?' */
    int minor;           /* 0 or 1 */
    struct http_header headers[HTTP_HEADERS_MAX];
    size_t n_headers;
    /* decoded from the headers: */
    struct slice host;
    bool is_chunked;
    bool has_length;
    uint64_t length; /* Content-Length; 0 when there is no body */
    bool is_keepalive;
    bool wants_upgrade;    /* Connection: upgrade and an Upgrade header */
    struct slice upgrade;  /* e.g. "websocket" */
    bool expects_continue; /* Expect: 100-continue */
};

struct http_response {
    int status;
    struct slice reason;
    int minor;
    struct http_header headers[HTTP_HEADERS_MAX];
    size_t n_headers;
    bool is_chunked;
    bool has_length;
    uint64_t length;
    bool is_keepalive;
    bool has_no_body;     /* by status (1xx, 204, 304), or because the request was HEAD */
    bool is_until_close;  /* neither length nor chunked: the body ends with the connection */
    struct slice upgrade; /* with status 101 */
};

/* Flags of http_parse_request */
#define HTTP_ALLOW_ABSOLUTE 1u /* "GET http://h/p" */
#define HTTP_ALLOW_CONNECT  2u /* "CONNECT h:443" */

/* Parses a head from the start of `in`. Gives 0 and *ret_n (bytes of the head with its blank line), E_AGAIN
 * when more bytes are needed, or an error to answer with (err_http_status) before closing: E_SYNTAX (400),
 * E_HEADERS_TOO_LARGE (431), E_NOT_IMPLEMENTED (501: an unknown transfer coding), E_HTTP_VERSION (505).
 * `scanned` remembers how far a former call has looked, so that a slow head costs linear time: start with 0,
 * keep it between calls on the same head. May be NULL. On failure *ret is undefined. Further codes: E_METHOD
 * (405: CONNECT where it is not allowed), E_EXPECTATION (417: an Expect other than 100-continue). With
 * absolute-form and CONNECT, `host` is the target's and `path` what is behind it ("/" when empty; "" for
 * CONNECT); the Host field is checked and otherwise ignored, as RFC 9112 section 3.2.2 has it. */
int http_parse_request(struct slice in, unsigned flags, size_t *scanned, struct http_request *ret,
                       size_t *ret_n, struct err *err);
/* `is_head`: the request was HEAD. Informational heads (1xx) are returned like others, has_no_body set. */
int http_parse_response(struct slice in, bool is_head, size_t *scanned, struct http_response *ret,
                        size_t *ret_n, struct err *err);

/* First header of that name (case-insensitive); SLICE_NULL when absent. */
struct slice http_find(const struct http_header *h, size_t n, const char *name);
size_t http_count(const struct http_header *h, size_t n, const char *name);
/* True when a comma-separated list header contains the token (case-insensitive), over all its occurrences. */
bool http_list_has(const struct http_header *h, size_t n, const char *name, const char *token);
bool http_is_hop_by_hop(const struct http_header *all, size_t n,
                        struct slice name); /* fixed set + named in Connection */
bool http_is_token(struct slice s);
bool http_value_is_valid(struct slice s); /* no CR, LF, NUL or other control byte but tab */

/* Chunked decoder. Feed bytes; it hands out spans of data. */
struct http_chunks {
    int state;
    uint64_t left;
    unsigned line_bytes; /* of the present size line or trailer: bounded */
    unsigned digits;
    unsigned name_n; /* of the present trailer's name: bytes seen, counted to one above the room */
    char name[20];   /* its beginning, to know the refused ones */
};
void http_chunks_init(struct http_chunks *c);
/* Takes a prefix of `in`: *ret_used bytes; *ret_data is the span of body bytes in it (may be empty). Returns
 * 0: call again with the rest (all used: wait for more), 1: the body is complete, the rest is not its,
 * E_SYNTAX: close. Trailer fields are checked and dropped; framing and routing fields among them are
 * E_SYNTAX. */
int http_chunks_feed(struct http_chunks *c, struct slice in, size_t *ret_used, struct slice *ret_data,
                     struct err *err);
/* Writes "<hex>\r\n" of a chunk of n bytes; at most HTTP_CHUNK_HEAD_MAX bytes. Data and "\r\n" follow. */
#define HTTP_CHUNK_HEAD_MAX 20
size_t http_chunk_head(size_t n, char out[HTTP_CHUNK_HEAD_MAX]);
#define HTTP_LAST_CHUNK "0\r\n\r\n"

/* Writers of heads. Names and values are checked (E_INVALID): nothing unchecked reaches the wire. The caller
 * ends with http_write_end. */
int http_write_request(struct buf *out, struct slice method, struct slice target);
int http_write_status(struct buf *out, int status, const char *reason); /* NULL: the usual phrase */
int http_write_header(struct buf *out, struct slice name, struct slice value);
int http_write_header_str(struct buf *out, const char *name, const char *value);
int http_write_header_u64(struct buf *out, const char *name, uint64_t value);
int http_write_end(struct buf *out);
const char *http_reason(int status);

/* %XX decoding of a path segment or query value ('+' is a blank only where plus_is_blank); strict: E_INVALID
 * for broken escapes and NUL. */
int url_decode(struct slice in, bool plus_is_blank, struct buf *out);
int url_encode(struct slice in, struct buf *out); /* all but unreserved */
/* Value of the first query parameter of that name, undecoded; SLICE_NULL when absent. */
struct slice query_find(struct slice query, const char *name);
/* Appends the query without any parameter of that name, all else byte-exact. */
int query_without(struct slice query, const char *name, struct buf *out);

#endif
