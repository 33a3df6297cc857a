/* http: parses the heads of requests and responses. Chunks are in http_chunk.c, writers in http_write.c, URLs
 * in url.c.
 *
 * Happy path: one hop over the line feeds finds the blank line that ends the head, then one pass over the
 * bytes splits it, each byte looked up once in a table of classes. Nothing is allocated and nothing is
 * copied.
 *
 * Failure paths: whatever two parsers could read differently (RFC 9112 §11.2) is refused with a code that
 * maps to a status, and the caller closes: bare CR or LF, folded lines, blanks before a colon, several or
 * ambiguous lengths, a transfer coding other than exactly "chunked", control bytes, several Host fields. A
 * wrong line feed is refused as soon as it is seen, not when the head is complete: a head that never ends
 * must not be waited for. */
#include "base/net/http.h"

#include <string.h>

#include "base/core/mem.h"

/* --- classes of bytes --- */

enum {
    IS_TOKEN = 1, /* RFC 9110 §5.6.2 tchar */
    IS_VALUE = 2, /* field-vchar, blank, tab; bytes above 0x7f are opaque */
    IS_PATH = 4,  /* of a target before '?' */
    IS_QUERY = 8, /* of a target behind '?': browsers and curl send more than RFC 3986 has, harmless there */
    IS_METHOD = 16, /* upper case only: a second spelling of GET is a second opinion about who may do what */
    IS_HOST = 32,   /* of a registered name or an IPv4 address */
    IS_IPV6 = 64    /* between brackets */
};

#define IS_UPPER(c) ((c) >= 'A' && (c) <= 'Z')
#define IS_LOWER(c) ((c) >= 'a' && (c) <= 'z')
#define IS_DIGIT(c) ((c) >= '0' && (c) <= '9')
#define IS_ALNUM(c) (IS_UPPER(c) || IS_LOWER(c) || IS_DIGIT(c))
#define IS_MARK(c)                                                                                           \
    ((c) == '!' || (c) == '#' || (c) == '$' || (c) == '%' || (c) == '&' || (c) == '\'' || (c) == '*' ||      \
     (c) == '+' || (c) == '-' || (c) == '.' || (c) == '^' || (c) == '_' || (c) == '`' || (c) == '|' ||       \
     (c) == '~')
#define IS_VCHAR(c) ((c) > 0x20 && (c) < 0x7f)
#define CLASS(c)                                                                                             \
    (unsigned char)((IS_ALNUM(c) || IS_MARK(c) ? IS_TOKEN : 0) |                                             \
                    ((c) == '\t' || ((c) >= 0x20 && (c) != 0x7f) ? IS_VALUE : 0) |                           \
                    (IS_VCHAR(c) && (c) != '#' && (c) != '"' && (c) != '<' && (c) != '>' && (c) != '\\' &&   \
                             (c) != '?'                                                                      \
                         ? IS_PATH                                                                           \
                         : 0) |                                                                              \
                    (IS_VCHAR(c) && (c) != '#' ? IS_QUERY : 0) |                                             \
                    (IS_UPPER(c) || IS_DIGIT(c) || (c) == '-' || (c) == '_' ? IS_METHOD : 0) |               \
                    (IS_ALNUM(c) || (c) == '.' || (c) == '-' || (c) == '_' ? IS_HOST : 0) |                  \
                    (IS_DIGIT(c) || ((c) >= 'a' && (c) <= 'f') || ((c) >= 'A' && (c) <= 'F') ||              \
                             (c) == ':' || (c) == '.'                                                        \
                         ? IS_IPV6                                                                           \
                         : 0))
#define CLASS4(c)  CLASS(c), CLASS((c) + 1), CLASS((c) + 2), CLASS((c) + 3)
#define CLASS16(c) CLASS4(c), CLASS4((c) + 4), CLASS4((c) + 8), CLASS4((c) + 12)
#define CLASS64(c) CLASS16(c), CLASS16((c) + 16), CLASS16((c) + 32), CLASS16((c) + 48)

static const unsigned char class_of[256] = {CLASS64(0), CLASS64(64), CLASS64(128), CLASS64(192)};

/* First byte at or behind `p` that is not of the class. No class has CR, and every head ends with one: no
 * bound. */
static const char *skip(const char *p, unsigned class)
{
    while (class_of[(unsigned char)*p] & class)
        p++;
    return p;
}

static bool is_all(struct slice s, unsigned class)
{
    for (size_t i = 0; i < s.n; i++)
        if (!(class_of[(unsigned char)s.p[i]] & class))
            return false;
    return true;
}

bool http_is_token(struct slice s)
{
    return s.n > 0 && is_all(s, IS_TOKEN);
}

bool http_value_is_valid(struct slice s)
{
    return is_all(s, IS_VALUE);
}

/* --- the fields of a head --- */

struct slice http_find(const struct http_header *h, size_t n, const char *name)
{
    struct slice want = slice_str(name);
    for (size_t i = 0; i < n; i++)
        if (slice_ieq(h[i].name, want))
            return h[i].value;
    return SLICE_NULL;
}

size_t http_count(const struct http_header *h, size_t n, const char *name)
{
    struct slice want = slice_str(name);
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += slice_ieq(h[i].name, want);
    return count;
}

static bool list_has(struct slice list, struct slice token)
{
    struct slice item;
    bool has_more;
    do {
        has_more = slice_cut(&list, ',', &item);
        if (slice_ieq(slice_trim(item), token))
            return true;
    } while (has_more);
    return false;
}

static bool lists_have(const struct http_header *h, size_t n, struct slice name, struct slice token)
{
    for (size_t i = 0; i < n; i++)
        if (slice_ieq(h[i].name, name) && list_has(h[i].value, token))
            return true;
    return false;
}

bool http_list_has(const struct http_header *h, size_t n, const char *name, const char *token)
{
    return lists_have(h, n, slice_str(name), slice_str(token));
}

bool http_is_hop_by_hop(const struct http_header *all, size_t n, struct slice name)
{
    /* RFC 9110 §7.6.1 and the proxy's own of RFC 9110 §11.7; Proxy-Connection is an old mistake still sent */
    static const struct slice fixed[] = {{"connection", 10},
                                         {"keep-alive", 10},
                                         {"te", 2},
                                         {"transfer-encoding", 17},
                                         {"upgrade", 7},
                                         {"trailer", 7},
                                         {"trailers", 8},
                                         {"proxy-connection", 16},
                                         {"proxy-authenticate", 18},
                                         {"proxy-authorization", 19}};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        if (slice_ieq(name, fixed[i]))
            return true;
    return lists_have(all, n, SL("connection"), name);
}

/* --- what both kinds of heads share --- */

/* What the fields say about framing, gathered while they are split. */
struct fields {
    struct slice host, length, coding, upgrade, expect;
    unsigned n_host, n_length, n_coding, n_upgrade, n_expect;
    bool has_connection;
};

/* Finds the end of the head: the blank line. *ret_n is the number of bytes up to and with it. */
static int head_find_end(struct slice in, size_t *scanned, size_t *ret_n, struct err *err)
{
    size_t n = in.n < HTTP_HEAD_BYTES_MAX ? in.n : HTTP_HEAD_BYTES_MAX;
    size_t at = scanned != NULL ? *scanned : 0;
    must(at <= in.n);
    while (at < n) {
        const char *lf = memchr(in.p + at, '\n', n - at);
        if (lf == NULL)
            break;
        at = (size_t)(lf - in.p);
        if (at == 0 || in.p[at - 1] != '\r')
            return err_set(err, E_SYNTAX, "head: a line ends with LF alone, CR LF is required");
        if (at == 1)
            return err_set(err, E_SYNTAX, "head: empty line before the start line");
        if (in.p[at - 2] == '\n') {
            *ret_n = at + 1;
            return 0;
        }
        at++;
    }
    if (in.n >= HTTP_HEAD_BYTES_MAX)
        return err_set(err, E_HEADERS_TOO_LARGE, "head: longer than %d bytes", HTTP_HEAD_BYTES_MAX);
    if (scanned != NULL)
        *scanned = in.n;
    return E_AGAIN;
}

static void fields_note(struct fields *f, const struct http_header *h)
{
    /* by length first: few fields are of interest, and most have no length in common with these */
    switch (h->name.n) {
    case 4:
        if (slice_ieq(h->name, SL("host")) && f->n_host++ == 0)
            f->host = h->value;
        break;
    case 6:
        if (slice_ieq(h->name, SL("expect")) && f->n_expect++ == 0)
            f->expect = h->value;
        break;
    case 7:
        if (slice_ieq(h->name, SL("upgrade")) && f->n_upgrade++ == 0)
            f->upgrade = h->value;
        break;
    case 10:
        if (slice_ieq(h->name, SL("connection")))
            f->has_connection = true;
        break;
    case 14:
        if (slice_ieq(h->name, SL("content-length")) && f->n_length++ == 0)
            f->length = h->value;
        break;
    case 17:
        if (slice_ieq(h->name, SL("transfer-encoding")) && f->n_coding++ == 0)
            f->coding = h->value;
        break;
    default:
        break;
    }
}

#define NAME_ARG(s) (int)((s).n < 64 ? (s).n : 64), (s).p /* of a checked token, for messages */

/* Splits the lines from `p` to the blank line. `p` is at the start of a line. */
static int fields_parse(const char *p, struct http_header *headers, size_t *ret_n, struct fields *f,
                        struct err *err)
{
    size_t n = 0;
    while (*p != '\r') {
        if (n == HTTP_HEADERS_MAX)
            return err_set(err, E_HEADERS_TOO_LARGE, "head: more than %d fields", HTTP_HEADERS_MAX);
        struct http_header *h = &headers[n++];
        const char *start = p;
        p = skip(p, IS_TOKEN);
        h->name = slice_of(start, (size_t)(p - start));
        if (h->name.n == 0 && (*p == ' ' || *p == '\t'))
            return err_set(err, E_SYNTAX, "head: folded line (RFC 9112 section 5.2)");
        if (h->name.n == 0 || *p != ':')
            return err_set(err, E_SYNTAX,
                           "head: field %zu: bad byte 0x%02x in the name or no colon behind it", n,
                           (unsigned)(unsigned char)*p);
        start = ++p;
        p = skip(p, IS_VALUE);
        if (p[0] != '\r' || p[1] != '\n')
            return err_set(err, E_SYNTAX, "head: field %.*s: control byte 0x%02x in the value",
                           NAME_ARG(h->name), (unsigned)(unsigned char)*p);
        h->value = slice_trim(slice_of(start, (size_t)(p - start)));
        p += 2;
        fields_note(f, h);
    }
    if (p[1] != '\n')
        return err_set(err, E_SYNTAX, "head: a line starts with CR alone");
    *ret_n = n;
    return 0;
}

/* Content-Length and Transfer-Encoding (RFC 9112 §6): at most one of them, once, unambiguous. */
static int framing_parse(const struct fields *f, int minor, bool *is_chunked, bool *has_length,
                         uint64_t *length, struct err *err)
{
    *is_chunked = false;
    *has_length = false;
    *length = 0;
    if (f->n_length > 1)
        return err_set(err, E_SYNTAX, "Content-Length: %u times, once is allowed", f->n_length);
    if (f->n_coding > 1)
        return err_set(err, E_SYNTAX, "Transfer-Encoding: %u times, once is allowed", f->n_coding);
    if (f->n_coding > 0 && f->n_length > 0)
        return err_set(err, E_SYNTAX, "Content-Length together with Transfer-Encoding");
    if (f->n_coding > 0) {
        if (minor == 0)
            return err_set(err, E_SYNTAX, "Transfer-Encoding: not in HTTP/1.0");
        if (f->coding.n == 0)
            return err_set(err, E_SYNTAX, "Transfer-Encoding: empty");
        if (!slice_ieq(f->coding, SL("chunked")))
            return err_set(err, E_NOT_IMPLEMENTED, "Transfer-Encoding: only \"chunked\" is understood");
        *is_chunked = true;
    }
    if (f->n_length > 0) {
        uint64_t v;
        if (slice_u64(f->length, &v) != 0 || v > INT64_MAX)
            return err_set(err, E_SYNTAX, "Content-Length: not a plain decimal number below 2^63");
        *has_length = true;
        *length = v;
    }
    return 0;
}

/* The Connection fields: tokens only, and none that would take framing or routing away from the next hop. */
static int connection_parse(const struct http_header *h, size_t n, int minor, bool *is_keepalive,
                            bool *is_upgrade, struct err *err)
{
    static const struct slice kept[] = {{"content-length", 14}, {"transfer-encoding", 17}, {"host", 4}};
    bool has_close = false, has_keepalive = false;
    *is_upgrade = false;
    for (size_t i = 0; i < n; i++) {
        if (!slice_ieq(h[i].name, SL("connection")))
            continue;
        struct slice list = h[i].value, item;
        bool has_more;
        do {
            has_more = slice_cut(&list, ',', &item);
            item = slice_trim(item);
            if (item.n == 0)
                continue; /* RFC 9110 §5.6.1.2: empty elements are allowed */
            if (!http_is_token(item))
                return err_set(err, E_SYNTAX, "Connection: not a list of tokens");
            for (size_t k = 0; k < ARRAY_LEN(kept); k++)
                if (slice_ieq(item, kept[k]))
                    return err_set(err, E_SYNTAX, "Connection: names %s, which is not of one hop", kept[k].p);
            has_close |= slice_ieq(item, SL("close"));
            has_keepalive |= slice_ieq(item, SL("keep-alive"));
            *is_upgrade |= slice_ieq(item, SL("upgrade"));
        } while (has_more);
    }
    *is_keepalive = !has_close && (minor == 1 || has_keepalive);
    return 0;
}

/* "HTTP/1.0" or "HTTP/1.1" at p; 8 bytes are there. */
static int version_parse(const char *p, int *ret_minor, struct err *err)
{
    if (memcmp(p, "HTTP/", 5) != 0 || !IS_DIGIT(p[5]) || p[6] != '.' || !IS_DIGIT(p[7]))
        return err_set(err, E_SYNTAX, "head: no HTTP version where one is expected");
    if (p[5] != '1' || p[7] > '1')
        return err_set(err, E_HTTP_VERSION, "HTTP/%c.%c: only 1.0 and 1.1 are spoken here", p[5], p[7]);
    *ret_minor = p[7] - '0';
    return 0;
}

/* --- requests --- */

/* host or host:port, the host a name, an IPv4 address or an IPv6 address in brackets. */
static bool authority_is_valid(struct slice s, bool needs_port)
{
    struct slice port;
    if (s.n > 0 && s.p[0] == '[') {
        size_t end = slice_find(s, ']');
        if (end == SIZE_MAX || end < 3 || !is_all(slice_of(s.p + 1, end - 1), IS_IPV6))
            return false;
        port = slice_from(s, end + 1);
        if (port.n > 0 && port.p[0] != ':')
            return false;
    } else {
        size_t end = slice_find(s, ':');
        struct slice host = end == SIZE_MAX ? s : slice_of(s.p, end);
        if (host.n == 0 || host.n > 255 || !is_all(host, IS_HOST))
            return false;
        port = slice_from(s, host.n);
    }
    if (port.n == 0)
        return !needs_port;
    uint64_t v;
    return slice_u64(slice_from(port, 1), &v) == 0 && v <= 65535;
}

/* Splits the path and the query of "/path?query" that ends at `end`. */
static int origin_form_parse(struct slice s, struct http_request *r, struct err *err)
{
    struct slice rest = s;
    bool has_query = slice_cut(&rest, '?', &r->path);
    r->query = has_query ? rest : SLICE_NULL;
    if (!is_all(r->path, IS_PATH) || (has_query && !is_all(r->query, IS_QUERY)))
        return err_set(err, E_SYNTAX, "target: a byte that a target cannot have; percent-encode it");
    return 0;
}

/* "http://host/path?query" (RFC 9112 §3.2.2): the authority here is the host, whatever the Host field says.
 */
static int absolute_form_parse(struct http_request *r, struct err *err)
{
    size_t scheme =
        slice_ieq(slice_of(r->target.p, r->target.n < 7 ? r->target.n : 7), SL("http://")) ? 7 : 8;
    struct slice rest = slice_from(r->target, scheme);
    size_t end = 0;
    while (end < rest.n && rest.p[end] != '/' && rest.p[end] != '?')
        end++;
    r->host = slice_of(rest.p, end);
    if (!authority_is_valid(r->host, false))
        return err_set(err, E_SYNTAX, "target: bad host");
    int rc = origin_form_parse(slice_from(rest, end), r, err);
    if (rc == 0 && r->path.n == 0)
        r->path = SL("/");
    return rc;
}

static bool target_is_absolute(struct slice t)
{
    return (t.n > 7 && slice_ieq(slice_of(t.p, 7), SL("http://"))) ||
           (t.n > 8 && slice_ieq(slice_of(t.p, 8), SL("https://")));
}

/* The four forms of RFC 9112 §3.2. Leaves the host alone unless the target has it. */
static int target_parse(struct http_request *r, unsigned flags, struct err *err)
{
    r->path = r->target;
    r->query = SLICE_NULL;
    if (r->target.n > HTTP_TARGET_BYTES_MAX)
        return err_set(err, E_HEADERS_TOO_LARGE, "target: longer than %d bytes", HTTP_TARGET_BYTES_MAX);
    if (slice_eq(r->method, SL("CONNECT"))) {
        if (!(flags & HTTP_ALLOW_CONNECT))
            return err_set(err, E_METHOD, "CONNECT: not served here");
        if (!authority_is_valid(r->target, true))
            return err_set(err, E_SYNTAX, "CONNECT: the target must be host:port");
        r->host = r->target;
        r->path = SLICE_EMPTY;
        return 0;
    }
    if (r->target.p[0] == '/')
        return origin_form_parse(r->target, r, err);
    if (slice_eq(r->target, SL("*"))) {
        if (!slice_eq(r->method, SL("OPTIONS")))
            return err_set(err, E_SYNTAX, "target: \"*\" is for OPTIONS only");
        return 0;
    }
    if ((flags & HTTP_ALLOW_ABSOLUTE) && target_is_absolute(r->target))
        return absolute_form_parse(r, err);
    return err_set(err, E_SYNTAX, "target: must start with \"/\"");
}

/* "METHOD target HTTP/1.1\r\n" at the start of a whole head. The version is judged before the target, so that
 * a client of another protocol ("PRI * HTTP/2.0") hears 505. */
static int request_line_parse(const char *p, struct http_request *r, const char **ret_next, struct err *err)
{
    const char *start = p;
    p = skip(p, IS_METHOD);
    r->method = slice_of(start, (size_t)(p - start));
    if (r->method.n == 0 || r->method.n > 32 || *p != ' ')
        return err_set(err, E_SYNTAX, "method: not 1 to 32 upper-case letters and a blank");
    start = ++p;
    p = skip(p, IS_QUERY);
    r->target = slice_of(start, (size_t)(p - start));
    if (r->target.n == 0 || *p != ' ')
        return err_set(err, E_SYNTAX, "target: empty, or byte 0x%02x in it, or no version behind it",
                       (unsigned)(unsigned char)*p);
    start = ++p;
    p = skip(p, IS_QUERY);
    if (p - start != 8 || p[0] != '\r' || p[1] != '\n')
        return err_set(err, E_SYNTAX, "head: the request line must end with the HTTP version");
    *ret_next = p + 2;
    return version_parse(start, &r->minor, err);
}

static int request_fields_check(const struct fields *f, struct http_request *r, struct err *err)
{
    if (f->n_host > 1 || (f->n_host == 0 && r->minor == 1))
        return err_set(err, E_SYNTAX, "Host: %u times, exactly once is required", f->n_host);
    if (f->n_host == 1 && !authority_is_valid(f->host, false))
        return err_set(err, E_SYNTAX, "Host: not a host or host:port");
    if (r->host.p == NULL)
        r->host = f->host;
    int rc = framing_parse(f, r->minor, &r->is_chunked, &r->has_length, &r->length, err);
    if (rc != 0)
        return rc;
    bool is_upgrade = false;
    r->is_keepalive = r->minor == 1;
    if (f->has_connection)
        rc = connection_parse(r->headers, r->n_headers, r->minor, &r->is_keepalive, &is_upgrade, err);
    if (rc != 0)
        return rc;
    if (f->n_upgrade > 1)
        return err_set(err, E_SYNTAX, "Upgrade: %u times, once is allowed", f->n_upgrade);
    r->wants_upgrade = is_upgrade && f->upgrade.n > 0 && r->minor == 1; /* RFC 9110 §7.8: not in HTTP/1.0 */
    r->upgrade = r->wants_upgrade ? f->upgrade : SLICE_NULL;
    if (f->n_expect > 0 && r->minor == 1) { /* RFC 9110 §10.1.1: a 1.0 client cannot expect */
        if (f->n_expect > 1 || !slice_ieq(f->expect, SL("100-continue")))
            return err_set(err, E_EXPECTATION, "Expect: only 100-continue is understood");
        r->expects_continue = r->is_chunked || r->length > 0;
    }
    if (slice_eq(r->method, SL("CONNECT")) && (r->is_chunked || r->length > 0))
        return err_set(err, E_SYNTAX, "CONNECT: with a body");
    return 0;
}

int http_parse_request(struct slice in, unsigned flags, size_t *scanned, struct http_request *ret,
                       size_t *ret_n, struct err *err)
{
    /* Another protocol on this port (TLS, say) may never send a line feed: the first byte tells. */
    if (in.n > 0 && !IS_UPPER(in.p[0]) && in.p[0] != '\r' && in.p[0] != '\n')
        return err_set(err, E_SYNTAX, "method: starts with byte 0x%02x, not with an upper-case letter",
                       (unsigned)(unsigned char)in.p[0]);
    size_t n;
    int rc = head_find_end(in, scanned, &n, err);
    if (rc != 0)
        return rc;
    const char *p = in.p;
    struct fields f = {0};
    ret->host = SLICE_NULL;
    ret->expects_continue = false;
    rc = request_line_parse(p, ret, &p, err);
    if (rc == 0)
        rc = target_parse(ret, flags, err);
    if (rc == 0)
        rc = fields_parse(p, ret->headers, &ret->n_headers, &f, err);
    if (rc == 0)
        rc = request_fields_check(&f, ret, err);
    if (rc == 0)
        *ret_n = n;
    return rc;
}

/* --- responses --- */

/* "HTTP/1.1 200 Reason\r\n" at the start of a whole head. The blank before an empty reason is often missing
 * in the wild; that is taken, because nothing else can be meant. */
static int status_line_parse(const char *p, struct http_response *r, const char **ret_next, struct err *err)
{
    const char *start = p;
    p = skip(p, IS_QUERY);
    if (p - start != 8 || *p != ' ')
        return err_set(err, E_SYNTAX, "status line: does not start with an HTTP version");
    int rc = version_parse(start, &r->minor, err);
    if (rc != 0)
        return rc;
    start = ++p;
    p = skip(p, IS_QUERY);
    if (p - start != 3 || start[0] < '1' || start[0] > '5' || !IS_DIGIT(start[1]) || !IS_DIGIT(start[2]))
        return err_set(err, E_SYNTAX, "status line: the status is not a number from 100 to 599");
    r->status = (start[0] - '0') * 100 + (start[1] - '0') * 10 + (start[2] - '0');
    r->reason = SLICE_EMPTY;
    if (*p == ' ') {
        start = ++p;
        p = skip(p, IS_VALUE);
        r->reason = slice_of(start, (size_t)(p - start));
    }
    if (p[0] != '\r' || p[1] != '\n')
        return err_set(err, E_SYNTAX, "status line: control byte 0x%02x in it", (unsigned)(unsigned char)*p);
    *ret_next = p + 2;
    return 0;
}

static int response_fields_check(const struct fields *f, bool is_head, struct http_response *r,
                                 struct err *err)
{
    int rc = framing_parse(f, r->minor, &r->is_chunked, &r->has_length, &r->length, err);
    if (rc != 0)
        return rc;
    bool is_upgrade = false;
    r->is_keepalive = r->minor == 1;
    if (f->has_connection)
        rc = connection_parse(r->headers, r->n_headers, r->minor, &r->is_keepalive, &is_upgrade, err);
    if (rc != 0)
        return rc;
    if (f->n_upgrade > 1 && r->status == 101)
        return err_set(err, E_SYNTAX, "Upgrade: %u times, once is allowed", f->n_upgrade);
    r->upgrade = r->status == 101 && f->n_upgrade == 1 ? f->upgrade : SLICE_NULL;
    bool never_has_body = r->status < 200 || r->status == 204;
    if (never_has_body && (r->is_chunked || r->length > 0)) /* RFC 9112 §6: two readings, so none */
        return err_set(err, E_SYNTAX, "status %d: with a body", r->status);
    r->has_no_body = never_has_body || r->status == 304 || is_head;
    r->is_until_close = !r->has_no_body && !r->is_chunked && !r->has_length;
    if (r->is_until_close)
        r->is_keepalive = false;
    return 0;
}

int http_parse_response(struct slice in, bool is_head, size_t *scanned, struct http_response *ret,
                        size_t *ret_n, struct err *err)
{
    static const char start[] = "HTTP/";
    size_t known = in.n < sizeof(start) - 1 ? in.n : sizeof(start) - 1;
    if (known > 0 && memcmp(in.p, start, known) != 0)
        return err_set(err, E_SYNTAX, "status line: does not start with an HTTP version");
    size_t n;
    int rc = head_find_end(in, scanned, &n, err);
    if (rc != 0)
        return rc;
    const char *p = in.p;
    struct fields f = {0};
    rc = status_line_parse(p, ret, &p, err);
    if (rc == 0)
        rc = fields_parse(p, ret->headers, &ret->n_headers, &f, err);
    if (rc == 0)
        rc = response_fields_check(&f, is_head, ret, err);
    if (rc == 0)
        *ret_n = n;
    return rc;
}
