/* inflate: gzip bodies in pieces, damaged ones, bombs. */
#include "base/core/inflate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>

#include "base/core/buf.h"
#include "base/core/mem.h"

static struct buf packed_of(struct slice plain)
{
    struct buf out = BUF_INIT((size_t)1 << 20);
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(
        buf_reserve(&out, deflateBound(&z, plain.n) < out.max ? deflateBound(&z, plain.n) : out.max), 0);
    z.next_in = (unsigned char *)(uintptr_t)plain.p;
    z.avail_in = (uInt)plain.n;
    z.next_out = (unsigned char *)out.p;
    z.avail_out = (uInt)(out.cap - 1);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    out.n = z.total_out;
    assert_int_equal(deflateEnd(&z), Z_OK);
    return out;
}

static int take(void *data, struct slice plain, struct err *err)
{
    return buf_slice(data, plain) == 0 ? 0 : err_set(err, E_TOO_LARGE, "full");
}

static int run(struct slice packed, size_t piece, uint64_t max, struct buf *out, struct err *err)
{
    struct inflate *z = inflate_new(max);
    int code = 0;
    buf_reset(out);
    while (code == 0 && packed.n > 0) {
        struct slice part = slice_of(packed.p, packed.n < piece ? packed.n : piece);
        code = inflate_feed(z, part, take, out, err);
        packed = slice_from(packed, part.n);
    }
    if (code == 0)
        code = inflate_end(z, err);
    inflate_free(z);
    return code;
}

static void test_pieces(void **state)
{
    struct buf plain = BUF_INIT((size_t)1 << 20), out = BUF_INIT((size_t)4 << 20);
    struct err err = {0};
    (void)state;
    for (int i = 0; i < 30000; i++)
        (void)buf_printf(&plain, "%d,", i * 7919 % 65537);
    struct buf packed = packed_of(buf_view(&plain));
    static const size_t pieces[] = {1, 7, 1000, (size_t)1 << 20};
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        assert_int_equal(run(buf_view(&packed), pieces[i], 1u << 20, &out, &err), 0);
        assert_true(slice_eq(buf_view(&out), buf_view(&plain)));
    }
    assert_int_equal(run(buf_view(&packed), 4096, plain.n, &out, &err), 0);
    assert_int_equal(run(buf_view(&packed), 4096, plain.n - 1, &out, &err), E_TOO_LARGE);
    /* cut off, damaged, and not gzip at all */
    assert_int_equal(run(slice_of(packed.p, packed.n - 1), 4096, 1u << 20, &out, &err), E_SYNTAX);
    packed.p[packed.n / 2] = (char)~packed.p[packed.n / 2];
    assert_int_equal(run(buf_view(&packed), 4096, 1u << 20, &out, &err), E_SYNTAX);
    assert_int_equal(run(SL("[{\"id\": 1}]"), 4096, 1u << 20, &out, &err), E_SYNTAX);
    assert_int_equal(run(SLICE_EMPTY, 4096, 1u << 20, &out, &err), E_SYNTAX);
    buf_fini(&packed);
    buf_fini(&plain);
    buf_fini(&out);
}

static void test_members(void **state)
{
    struct buf out = BUF_INIT(1000), two = packed_of(SL("one ")), second = packed_of(SL("two"));
    struct err err = {0};
    (void)state;
    (void)buf_slice(&two, buf_view(&second));
    for (size_t piece = 1; piece < 60; piece++) {
        assert_int_equal(run(buf_view(&two), piece, 1000, &out, &err), 0);
        assert_string_equal(buf_cstr(&out), "one two");
    }
    buf_fini(&two);
    buf_fini(&second);
    buf_fini(&out);
}

static void test_bomb(void **state)
{
    size_t size = (size_t)16 << 20;
    struct buf plain = BUF_INIT(size), out = BUF_INIT(2 * size);
    struct err err = {0};
    (void)state;
    assert_int_equal(buf_reserve(&plain, size), 0);
    memset(plain.p, ' ', size);
    plain.n = size;
    struct buf packed = packed_of(buf_view(&plain));
    assert_int_equal(run(buf_view(&packed), 4096, 256u << 20, &out, &err), E_TOO_LARGE);
    assert_true(out.n < size / 2); /* it was not unpacked to its end */
    buf_fini(&packed);
    buf_fini(&plain);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_members),
                                       cmocka_unit_test(test_bomb)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
