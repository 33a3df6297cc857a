/* url: percent-encoding (RFC 3986 §2.1) and the parameters of a query. Strict: a broken escape is an error,
 * never passed through, because what one side decodes leniently the other side may have judged literally. */
#include "base/net/http.h"

#include <string.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Takes one byte, decoded, off the front of `in` (not empty); -1 when it is a broken escape or a NUL. */
static int byte_take(struct slice *in, bool plus_is_blank)
{
    int c = (unsigned char)in->p[0];
    size_t used = 1;
    if (c == '%') {
        int high = in->n >= 3 ? hex_value(in->p[1]) : -1;
        int low = in->n >= 3 ? hex_value(in->p[2]) : -1;
        if (high < 0 || low < 0)
            return -1;
        c = high << 4 | low;
        used = 3;
    } else if (c == '+' && plus_is_blank) {
        c = ' ';
    }
    *in = slice_from(*in, used);
    return c == 0 ? -1 : c;
}

int url_decode(struct slice in, bool plus_is_blank, struct buf *out)
{
    size_t before = out->n;
    int rc = buf_reserve(out, in.n);
    if (rc != 0)
        return rc;
    char *at = out->p + before;
    while (in.n > 0) {
        int c = byte_take(&in, plus_is_blank);
        if (c < 0) {
            out->p[before] = '\0';
            return E_INVALID;
        }
        *at++ = (char)c;
    }
    *at = '\0';
    out->n = (size_t)(at - out->p);
    return 0;
}

static bool is_unreserved(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

int url_encode(struct slice in, struct buf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        unsigned char c = (unsigned char)in.p[i];
        char escape[3] = {'%', "0123456789ABCDEF"[c >> 4], "0123456789ABCDEF"[c & 15]};
        int rc = is_unreserved(c) ? buf_byte(out, (char)c) : buf_append(out, escape, 3);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Names are compared decoded: "access%5Ftoken" is access_token for whoever reads the query behind us. */
static bool parameter_is(struct slice parameter, struct slice name, struct slice *ret_value)
{
    struct slice rest = parameter, raw;
    bool has_value = slice_cut(&rest, '=', &raw);
    size_t at = 0;
    while (raw.n > 0) {
        int c = byte_take(&raw, true);
        if (c < 0 || at == name.n || c != (unsigned char)name.p[at])
            return false;
        at++;
    }
    if (at != name.n)
        return false;
    if (ret_value != NULL)
        *ret_value = has_value ? rest : SLICE_EMPTY;
    return true;
}

struct slice query_find(struct slice query, const char *name)
{
    struct slice parameter, value, want = slice_str(name);
    bool has_more;
    do {
        has_more = slice_cut(&query, '&', &parameter);
        if (parameter_is(parameter, want, &value))
            return value;
    } while (has_more);
    return SLICE_NULL;
}

int query_without(struct slice query, const char *name, struct buf *out)
{
    struct slice parameter, want = slice_str(name);
    bool has_more, is_first = true;
    do {
        has_more = slice_cut(&query, '&', &parameter);
        if (parameter_is(parameter, want, NULL))
            continue;
        int rc = is_first ? 0 : buf_byte(out, '&');
        if (rc == 0)
            rc = buf_slice(out, parameter);
        if (rc != 0)
            return rc;
        is_first = false;
    } while (has_more);
    return 0;
}
