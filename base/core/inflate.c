/* inflate: zlib's inflate behind limits, see inflate.h. Several members one after the other are one text, as
 * gunzip has it. */
#include "base/core/inflate.h"

#include <zlib.h>

#include "base/core/mem.h"

#define PIECE_BYTES ((size_t)32 * 1024)
#define RATIO_FREE  (UINT64_C(1024) * 1024)
#define GZIP_BITS   (16 + MAX_WBITS) /* a gzip header is wanted, and its checksum looked at */

struct inflate {
    z_stream z;
    uint64_t in, out, max;
    bool is_member_whole; /* the last member has ended; another may follow */
    unsigned char piece[PIECE_BYTES];
};

struct inflate *inflate_new(uint64_t max)
{
    struct inflate *x = MEM_NEW(struct inflate);
    x->max = max;
    must(inflateInit2(&x->z, GZIP_BITS) == Z_OK);
    return x;
}

void inflate_free(struct inflate *x)
{
    if (x == NULL)
        return;
    (void)inflateEnd(&x->z);
    mem_free(x);
}

static int limits_check(const struct inflate *x, struct err *err)
{
    if (x->out > x->max)
        return err_set(err, E_TOO_LARGE, "gzip: more than %llu bytes come out", (unsigned long long)x->max);
    if (x->out > RATIO_FREE && x->out / INFLATE_RATIO_MAX > x->in)
        return err_set(err, E_TOO_LARGE, "gzip: it grows more than %d times", INFLATE_RATIO_MAX);
    return 0;
}

int inflate_feed(struct inflate *x, struct slice packed, inflate_take take, void *data, struct err *err)
{
    must(packed.n <= UINT32_MAX);
    x->z.next_in = (unsigned char *)(uintptr_t)packed.p; /* zlib does not write there */
    x->z.avail_in = (uInt)packed.n;
    x->in += packed.n;
    for (;;) {
        if (x->is_member_whole && x->z.avail_in == 0)
            return 0;
        if (x->is_member_whole)
            must(inflateReset(&x->z) == Z_OK);
        x->is_member_whole = false;
        x->z.next_out = x->piece;
        x->z.avail_out = PIECE_BYTES;
        int rc = inflate(&x->z, Z_NO_FLUSH);
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
            return err_set(err, E_SYNTAX, "gzip: %s", x->z.msg != NULL ? x->z.msg : "damaged");
        size_t n = PIECE_BYTES - x->z.avail_out;
        x->out += n;
        int code = limits_check(x, err);
        if (code == 0 && n > 0)
            code = take(data, slice_of(x->piece, n), err);
        if (code != 0)
            return code;
        x->is_member_whole = rc == Z_STREAM_END;
        if (rc != Z_STREAM_END && x->z.avail_in == 0 && x->z.avail_out > 0)
            return 0; /* all of it was taken, and nothing more comes of it */
    }
}

int inflate_end(const struct inflate *x, struct err *err)
{
    return x->is_member_whole ? 0 : err_set(err, E_SYNTAX, "gzip: it ends in the middle");
}
