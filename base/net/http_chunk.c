/* http_chunk: the chunked transfer coding (RFC 9112 §7.1), in and out.
 *
 * Happy path: the decoder is a state machine over bytes that hands out one span of data per call, without
 * copying.
 *
 * Failure paths: anything but "<hex>[;extension] CR LF data CR LF" is E_SYNTAX, and stays so: the caller
 * closes. Extensions are skipped and trailers dropped, both checked and bounded; a trailer that would have
 * steered framing, routing or identity, had it been a header, is refused. */
#include "base/net/http.h"

#include "base/core/mem.h"

#define LINE_BYTES_MAX    1024 /* of a size line with its extensions */
#define TRAILER_BYTES_MAX 8192 /* of all trailers together */
#define SIZE_DIGITS_MAX   16

enum state {
    AT_SIZE,      /* before the first digit */
    IN_SIZE,      /* behind a digit */
    IN_EXTENSION, /* behind ';' */
    SIZE_LF,      /* behind the CR of a size line */
    IN_DATA,      /* `left` bytes to come */
    DATA_CR,      /* behind the data */
    DATA_LF,      /* behind that CR */
    AT_TRAILER,   /* at the start of a line behind the last chunk */
    IN_NAME,      /* in a trailer's name */
    IN_VALUE,     /* behind its colon */
    TRAILER_LF,   /* behind the CR of a trailer */
    LAST_LF,      /* behind the CR of the blank line */
    COMPLETE,
    BROKEN
};

void http_chunks_init(struct http_chunks *c)
{
    *c = (struct http_chunks){.state = AT_SIZE};
}

static int hex_value(unsigned char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    ch |= 0x20;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

static int broken(struct http_chunks *c, struct err *err, const char *what)
{
    c->state = BROKEN;
    return err_set(err, E_SYNTAX, "chunked body: %s", what);
}

static bool trailer_is_refused(const struct http_chunks *c)
{
    static const struct slice refused[] = {{"content-length", 14},
                                           {"transfer-encoding", 17},
                                           {"host", 4},
                                           {"connection", 10},
                                           {"upgrade", 7},
                                           {"te", 2},
                                           {"trailer", 7},
                                           {"expect", 6},
                                           {"content-encoding", 16},
                                           {"content-type", 12},
                                           {"content-range", 13},
                                           {"authorization", 13},
                                           {"cookie", 6},
                                           {"proxy-authorization", 19},
                                           {"set-cookie", 10},
                                           {"keep-alive", 10}};
    if (c->name_n > sizeof(c->name))
        return false; /* longer than all of these */
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        if (slice_ieq(slice_of(c->name, c->name_n), refused[i]))
            return true;
    return false;
}

/* One byte of a size line. */
static int on_size_byte(struct http_chunks *c, unsigned char ch, struct err *err)
{
    int digit = c->state == IN_EXTENSION ? -1 : hex_value(ch);
    if (++c->line_bytes > LINE_BYTES_MAX)
        return broken(c, err, "size line too long");
    if (digit >= 0) {
        if (++c->digits > SIZE_DIGITS_MAX || c->left > (uint64_t)INT64_MAX >> 4)
            return broken(c, err, "chunk size too large");
        c->left = c->left << 4 | (unsigned)digit;
        c->state = IN_SIZE;
        return 0;
    }
    if (c->state == AT_SIZE)
        return broken(c, err, "no hexadecimal chunk size");
    if (ch == '\r') {
        c->state = SIZE_LF;
        return 0;
    }
    if (c->state == IN_SIZE && ch != ';')
        return broken(c, err, "bad byte behind the chunk size");
    if (!http_value_is_valid(slice_of(&ch, 1)))
        return broken(c, err, "control byte in a chunk extension");
    c->state = IN_EXTENSION;
    return 0;
}

/* One byte of the trailers, from the start of a line to its CR. */
static int on_trailer_byte(struct http_chunks *c, unsigned char ch, struct err *err)
{
    if (++c->line_bytes > TRAILER_BYTES_MAX)
        return broken(c, err, "trailers too long");
    if (c->state == AT_TRAILER && ch == '\r') {
        c->state = LAST_LF;
        return 0;
    }
    if (c->state == AT_TRAILER) {
        c->name_n = 0;
        c->state = IN_NAME;
    }
    if (c->state == IN_VALUE) {
        if (ch == '\r')
            c->state = TRAILER_LF;
        else if (!http_value_is_valid(slice_of(&ch, 1)))
            return broken(c, err, "control byte in a trailer");
        return 0;
    }
    if (ch == ':' && c->name_n > 0) {
        if (trailer_is_refused(c))
            return broken(c, err, "a trailer that steers framing or routing");
        c->state = IN_VALUE;
        return 0;
    }
    if (!http_is_token(slice_of(&ch, 1)))
        return broken(c, err, "bad byte in a trailer's name");
    if (c->name_n < sizeof(c->name))
        c->name[c->name_n] = (char)ch;
    if (c->name_n <= sizeof(c->name))
        c->name_n++;
    return 0;
}

/* One byte that is not data. */
static int on_byte(struct http_chunks *c, unsigned char ch, struct err *err)
{
    switch ((enum state)c->state) {
    case AT_SIZE:
    case IN_SIZE:
    case IN_EXTENSION:
        return on_size_byte(c, ch, err);
    case SIZE_LF:
        if (ch != '\n')
            return broken(c, err, "CR without LF behind the chunk size");
        c->state = c->left > 0 ? IN_DATA : AT_TRAILER;
        c->line_bytes = 0;
        c->digits = 0;
        return 0;
    case DATA_CR:
        if (ch != '\r')
            return broken(c, err, "no CR LF behind the data of a chunk");
        c->state = DATA_LF;
        return 0;
    case DATA_LF:
        if (ch != '\n')
            return broken(c, err, "no CR LF behind the data of a chunk");
        c->state = AT_SIZE;
        return 0;
    case AT_TRAILER:
    case IN_NAME:
    case IN_VALUE:
        return on_trailer_byte(c, ch, err);
    case TRAILER_LF:
    case LAST_LF:
        if (ch != '\n')
            return broken(c, err, "CR without LF in the trailers");
        c->state = c->state == LAST_LF ? COMPLETE : AT_TRAILER;
        return 0;
    case IN_DATA:
    case COMPLETE:
    case BROKEN:
        break;
    }
    die("http_chunks: state %d", c->state);
}

int http_chunks_feed(struct http_chunks *c, struct slice in, size_t *ret_used, struct slice *ret_data,
                     struct err *err)
{
    size_t at = 0;
    *ret_used = 0;
    *ret_data = SLICE_EMPTY;
    if (c->state == BROKEN)
        return broken(c, err, "broken before");
    while (c->state != IN_DATA && c->state != COMPLETE) {
        if (at == in.n) {
            *ret_used = at;
            return 0;
        }
        int rc = on_byte(c, (unsigned char)in.p[at++], err);
        if (rc != 0)
            return rc;
    }
    if (c->state == IN_DATA) {
        size_t n = in.n - at;
        if (n > c->left)
            n = (size_t)c->left;
        *ret_data = slice_of(in.p + at, n);
        at += n;
        c->left -= n;
        if (c->left == 0)
            c->state = DATA_CR;
    }
    *ret_used = at;
    return c->state == COMPLETE ? 1 : 0;
}

size_t http_chunk_head(size_t n, char out[HTTP_CHUNK_HEAD_MAX])
{
    char digits[16];
    size_t k = 0, at = 0;
    do {
        digits[k++] = "0123456789abcdef"[n & 15];
        n >>= 4;
    } while (n > 0);
    while (k > 0)
        out[at++] = digits[--k];
    out[at++] = '\r';
    out[at++] = '\n';
    return at;
}
