/* crypto and id: published vectors, strict decoding, sealing that notices every change, shapes of
 * credentials. */
#include "base/core/crypto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/id.h"
#include "base/core/mem.h"

enum { SEED = 4242 };

static void test_sha256(void **state)
{
    char hex[SHA256_HEX_SIZE];

    (void)state; /* FIPS 180-4 examples */
    sha256_hex(SL("abc"), hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_hex(SLICE_NULL, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_hex(SL("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void assert_hmac(struct slice key, struct slice in, const char *hex)
{
    unsigned char mac[SHA256_BYTES];
    struct buf b = BUF_INIT(64);

    hmac_sha256(key, in, mac);
    assert_int_equal(hex_encode(slice_of(mac, sizeof(mac)), &b), 0);
    assert_string_equal(buf_cstr(&b), hex);
    buf_fini(&b);
}

static void test_hmac(void **state)
{
    char key[131];

    (void)state; /* RFC 4231 cases 2 and 6, and empty inputs */
    memset(key, 0xaa, sizeof(key));
    assert_hmac(SL("Jefe"), SL("what do ya want for nothing?"),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_hmac(slice_of(key, sizeof(key)), SL("Test Using Larger Than Block-Size Key - Hash Key First"),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    assert_hmac(SLICE_EMPTY, SLICE_NULL, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

typedef int (*codec)(struct slice in, struct buf *out);

static void assert_codec(codec f, struct slice in, const char *expected)
{
    struct buf b = BUF_INIT(256);

    assert_int_equal(f(in, &b), 0);
    assert_string_equal(buf_cstr(&b), expected);
    buf_fini(&b);
}

static void assert_refused(codec f, const char *in)
{
    struct buf b = BUF_INIT(256);

    assert_int_equal(buf_str(&b, "kept"), 0);
    if (f(slice_str(in), &b) != E_INVALID)
        fail_msg("accepted: \"%s\"", in);
    assert_string_equal(buf_cstr(&b), "kept");
    buf_fini(&b);
}

static void test_encodings(void **state)
{
    static const char *const PLAIN[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const B64[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    static const char *const B64URL[] = {"", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"};
    static const char *const B32[] = {"", "my", "mzxq", "mzxw6", "mzxw6yq", "mzxw6ytb", "mzxw6ytboi"};

    (void)state; /* RFC 4648 section 10 */
    for (size_t i = 0; i < ARRAY_LEN(PLAIN); i++) {
        assert_codec(base64_encode, slice_str(PLAIN[i]), B64[i]);
        assert_codec(base64_decode, slice_str(B64[i]), PLAIN[i]);
        assert_codec(base64url_encode, slice_str(PLAIN[i]), B64URL[i]);
        assert_codec(base64url_decode, slice_str(B64URL[i]), PLAIN[i]);
        assert_codec(base32_encode, slice_str(PLAIN[i]), B32[i]);
    }
    assert_codec(base64url_encode, SL("\xfb\xff\xfe"), "-__-");
    assert_codec(base64_encode, SL("\xfb\xff\xfe"), "+//+");
    assert_codec(hex_encode, SL("\x00\xff\x1a"), "00ff1a");
    assert_codec(hex_decode, SL("7061"), "pa");
}

static void test_strict_decoding(void **state)
{
    static const char *const BAD64[] = {"Z",    "Zg",       "Zg=",  "Zh==",  "Zg===", "=",
                                        "==",   "====",     "Zm9=", "Zm9v=", "Zm 9v", "Zm9v\n",
                                        "Z-9v", "Zm8=Zm8=", "A===", "=AAA"};
    static const char *const BADURL[] = {"Z", "Zh", "Zg==", "Zm9", "Z+9v", "Zm9vY", "Zm9v ", "Zm\xc3\xa9"};
    static const char *const BADHEX[] = {"0", "0g", "FF", "0x00", " 00", "000"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(BAD64); i++)
        assert_refused(base64_decode, BAD64[i]);
    for (size_t i = 0; i < ARRAY_LEN(BADURL); i++)
        assert_refused(base64url_decode, BADURL[i]);
    for (size_t i = 0; i < ARRAY_LEN(BADHEX); i++)
        assert_refused(hex_decode, BADHEX[i]);
}

static void test_encodings_round_trip(void **state)
{
    struct rnd_seeded r;

    (void)state;
    print_message("seed %d\n", SEED);
    rnd_seeded_init(&r, SEED);
    for (int i = 0; i < 3000; i++) {
        static const codec PAIRS[][2] = {
            {hex_encode, hex_decode}, {base64_encode, base64_decode}, {base64url_encode, base64url_decode}};
        const codec *pair = PAIRS[i % 3];
        unsigned char bytes[70];
        size_t n = rnd_below(&r.rnd, sizeof(bytes) + 1);
        struct buf text = BUF_INIT(1000), back = BUF_INIT(1000);

        rnd_fill(&r.rnd, bytes, n);
        assert_int_equal(pair[0](slice_of(bytes, n), &text), 0);
        assert_int_equal(pair[1](buf_view(&text), &back), 0);
        assert_true(slice_eq(buf_view(&back), slice_of(bytes, n)));
        buf_fini(&text);
        buf_fini(&back);
    }
}

static void test_encoding_respects_the_maximum(void **state)
{
    struct buf b = BUF_INIT(3);

    (void)state;
    assert_int_equal(base64_encode(SL("f"), &b), E_TOO_LARGE);
    assert_int_equal(b.n, 0);
    buf_fini(&b);
}

static void test_equal(void **state)
{
    (void)state;
    assert_true(crypto_equal("abc", "abc", 3));
    assert_false(crypto_equal("abc", "abd", 3));
    assert_true(crypto_equal("a", "b", 0));
}

static void test_seal(void **state)
{
    struct seal_key key, other;
    struct buf sealed = BUF_INIT(1000), again = BUF_INIT(1000), plain = BUF_INIT(1000);
    struct err err = {0};

    (void)state;
    rnd_fill(&rnd_system, key.bytes, sizeof(key.bytes));
    rnd_fill(&rnd_system, other.bytes, sizeof(other.bytes));
    assert_int_equal(seal(&key, &rnd_system, SL("tenant/a"), SL("secret"), &sealed), 0);
    assert_int_equal(seal(&key, &rnd_system, SL("tenant/a"), SL("secret"), &again), 0);
    assert_int_equal(sealed.n, 1 + 12 + 6 + 16);
    assert_false(slice_eq(buf_view(&sealed), buf_view(&again)));
    assert_int_equal(unseal(&key, SL("tenant/a"), buf_view(&sealed), &plain, &err), 0);
    assert_string_equal(buf_cstr(&plain), "secret");
    buf_reset(&plain);

    assert_int_equal(unseal(&other, SL("tenant/a"), buf_view(&sealed), &plain, &err), E_INVALID);
    assert_int_equal(unseal(&key, SL("tenant/b"), buf_view(&sealed), &plain, &err), E_INVALID);
    assert_non_null(strstr(err.msg, "sealed value"));
    for (size_t i = 0; i < sealed.n; i++) {
        sealed.p[i] = (char)(sealed.p[i] ^ 1);
        assert_int_equal(unseal(&key, SL("tenant/a"), buf_view(&sealed), &plain, NULL), E_INVALID);
        sealed.p[i] = (char)(sealed.p[i] ^ 1);
    }
    for (size_t n = 0; n < sealed.n; n++)
        assert_int_equal(unseal(&key, SL("tenant/a"), slice_of(sealed.p, n), &plain, NULL), E_INVALID);
    assert_int_equal(plain.n, 0);
    buf_fini(&sealed);
    buf_fini(&again);
    buf_wipe(&plain);
}

static void test_seal_empty(void **state)
{
    struct seal_key key = {{7}};
    struct buf sealed = BUF_INIT(100), plain = BUF_INIT(0);

    (void)state;
    assert_int_equal(seal(&key, &rnd_system, SLICE_NULL, SLICE_NULL, &sealed), 0);
    assert_int_equal(unseal(&key, SLICE_EMPTY, buf_view(&sealed), &plain, NULL), 0);
    assert_int_equal(plain.n, 0);
    assert_int_equal(unseal(&key, SL("x"), buf_view(&sealed), &plain, NULL), E_INVALID);
    buf_fini(&sealed);
    buf_fini(&plain);
}

static void test_id(void **state)
{
    char a[ID_TEXT_MAX], b[ID_TEXT_MAX];

    (void)state;
    id_new(&rnd_system, "ws", a);
    id_new(&rnd_system, "ws", b);
    assert_int_equal(strlen(a), 3 + 26);
    assert_string_not_equal(a, b);
    assert_true(id_is_valid(slice_str(a), "ws"));
    assert_false(id_is_valid(slice_str(a), "w"));
    assert_false(id_is_valid(slice_str(a), "sb"));
    assert_false(id_is_valid(slice_of(a, strlen(a) - 1), "ws"));
    assert_false(id_is_valid(SLICE_NULL, "ws"));
    assert_true(id_is_valid(SL("ws_aaaaaaaaaaaaaaaaaaaaaaaaaa"), "ws"));
    assert_false(id_is_valid(SL("ws_aaaaaaaaaaaaaaaaaaaaaaaaab"), "ws")); /* padding bits */
    assert_false(id_is_valid(SL("ws_aaaaaaaaaaaaaaaaaaaaaaaaA"), "ws"));
    assert_false(id_is_valid(SL("ws_aaaaaaaaaaaa/aaaaaaaaaaaaa"), "ws"));
}

static void test_name(void **state)
{
    static const char *const GOOD[] = {
        "a", "0", "a-b", "a--b", "alice", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    static const char *const BAD[] = {"",
                                      "-",
                                      "-a",
                                      "a-",
                                      "A",
                                      "a_b",
                                      "a.b",
                                      "a b",
                                      "../x",
                                      "\xc3\xa9",
                                      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(GOOD); i++)
        assert_true(name_is_valid(slice_str(GOOD[i])));
    for (size_t i = 0; i < ARRAY_LEN(BAD); i++)
        assert_false(name_is_valid(slice_str(BAD[i])));
    assert_false(name_is_valid(slice_of("a\0b", 3)));
}

static void test_token(void **state)
{
    char id[TOKEN_ID_MAX], text[TOKEN_TEXT_MAX];
    struct rnd_seeded r;
    struct slice got;

    (void)state;
    rnd_seeded_init(&r, SEED);
    for (int i = 0; i < 300; i++) { /* secrets with '_' and '-' among them */
        token_id_new(&r.rnd, id);
        token_new(&r.rnd, "rvs", slice_str(id), text);
        assert_int_equal(strlen(text), 3 + 1 + 16 + 1 + 43);
        assert_int_equal(token_split(slice_str(text), "rvs", &got), 0);
        assert_true(slice_eq_str(got, id));
        assert_int_equal(token_split(slice_str(text), "rvk", &got), E_INVALID);
    }
    for (size_t n = 0; n < strlen(text); n++)
        assert_int_equal(token_split(slice_of(text, n), "rvs", &got), E_INVALID);
    text[10] = '_';
    assert_int_equal(token_split(slice_str(text), "rvs", &got), E_INVALID);
    text[10] = 'a';
    text[40] = ' ';
    assert_int_equal(token_split(slice_str(text), "rvs", &got), E_INVALID);
    assert_int_equal(token_split(SLICE_NULL, "rvs", &got), E_INVALID);
}

static void test_llm_key(void **state)
{
    char a[LLM_KEY_TEXT_MAX], b[LLM_KEY_TEXT_MAX];

    (void)state;
    llm_key_new(&rnd_system, a);
    llm_key_new(&rnd_system, b);
    assert_int_equal(strlen(a), 9 + 43);
    assert_true(slice_starts(slice_str(a), SL("sk-reeve-")));
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_encodings),
        cmocka_unit_test(test_strict_decoding),
        cmocka_unit_test(test_encodings_round_trip),
        cmocka_unit_test(test_encoding_respects_the_maximum),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_seal),
        cmocka_unit_test(test_seal_empty),
        cmocka_unit_test(test_id),
        cmocka_unit_test(test_name),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_llm_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
