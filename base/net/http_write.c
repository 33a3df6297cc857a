/* http_write: writers of heads. Nothing unchecked reaches the wire: a name or a value with a line end in it
 * is E_INVALID and leaves the buffer as it was, so that no caller can be talked into writing a second head.
 */
#include "base/net/http.h"

#include <string.h>

static char *put(char *at, struct slice s)
{
    if (s.n > 0)
        memcpy(at, s.p, s.n);
    return at + s.n;
}

/* The pieces one behind another, or nothing. */
static int write_all(struct buf *out, const struct slice *v, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += v[i].n;
    int rc = buf_reserve(out, bytes);
    if (rc != 0)
        return rc;
    char *at = out->p + out->n;
    for (size_t i = 0; i < n; i++)
        at = put(at, v[i]);
    out->n += bytes;
    *at = '\0';
    return 0;
}

int http_write_request(struct buf *out, struct slice method, struct slice target)
{
    if (!http_is_token(method) || target.n == 0)
        return E_INVALID;
    for (size_t i = 0; i < target.n; i++) {
        unsigned char c = (unsigned char)target.p[i];
        if (c <= 0x20 || c >= 0x7f || c == '#')
            return E_INVALID;
    }
    const struct slice v[] = {method, SL(" "), target, SL(" HTTP/1.1\r\n")};
    return write_all(out, v, 4);
}

int http_write_status(struct buf *out, int status, const char *reason)
{
    struct slice text = slice_str(reason != NULL ? reason : http_reason(status));
    if (status < 100 || status > 599 || !http_value_is_valid(text))
        return E_INVALID;
    char digits[3] = {(char)('0' + status / 100), (char)('0' + status / 10 % 10), (char)('0' + status % 10)};
    const struct slice v[] = {SL("HTTP/1.1 "), slice_of(digits, 3), SL(" "), text, SL("\r\n")};
    return write_all(out, v, 5);
}

int http_write_header(struct buf *out, struct slice name, struct slice value)
{
    if (!http_is_token(name) || !http_value_is_valid(value))
        return E_INVALID;
    const struct slice v[] = {name, SL(": "), value, SL("\r\n")};
    return write_all(out, v, 4);
}

int http_write_header_str(struct buf *out, const char *name, const char *value)
{
    return http_write_header(out, slice_str(name), slice_str(value));
}

int http_write_header_u64(struct buf *out, const char *name, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    return http_write_header(out, slice_str(name), slice_of(digits + at, sizeof(digits) - at));
}

int http_write_end(struct buf *out)
{
    return buf_slice(out, SL("\r\n"));
}

const char *http_reason(int status)
{
    /* RFC 9110 §15 and the IANA registry */
    switch (status) {
    case 100:
        return "Continue";
    case 101:
        return "Switching Protocols";
    case 103:
        return "Early Hints";
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 202:
        return "Accepted";
    case 203:
        return "Non-Authoritative Information";
    case 204:
        return "No Content";
    case 205:
        return "Reset Content";
    case 206:
        return "Partial Content";
    case 300:
        return "Multiple Choices";
    case 301:
        return "Moved Permanently";
    case 302:
        return "Found";
    case 303:
        return "See Other";
    case 304:
        return "Not Modified";
    case 307:
        return "Temporary Redirect";
    case 308:
        return "Permanent Redirect";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 402:
        return "Payment Required";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 406:
        return "Not Acceptable";
    case 407:
        return "Proxy Authentication Required";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 410:
        return "Gone";
    case 411:
        return "Length Required";
    case 412:
        return "Precondition Failed";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 415:
        return "Unsupported Media Type";
    case 416:
        return "Range Not Satisfiable";
    case 417:
        return "Expectation Failed";
    case 421:
        return "Misdirected Request";
    case 422:
        return "Unprocessable Content";
    case 426:
        return "Upgrade Required";
    case 428:
        return "Precondition Required";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 499:
        return "Client Closed Request";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    case 505:
        return "HTTP Version Not Supported";
    case 507:
        return "Insufficient Storage";
    case 508:
        return "Loop Detected";
    case 511:
        return "Network Authentication Required";
    default:
        return "Status";
    }
}
