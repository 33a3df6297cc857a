/* id: random names and credentials as text. Every text has a fixed shape, so that what comes in can be
 * refused before anything is looked up; the check of the shape is no secret and need not be constant-time. */
#include "base/core/id.h"

#include <string.h>

#include "base/core/crypto.h"
#include "base/core/mem.h"

enum {
    ID_RANDOM_BYTES = 16,
    ID_CHARS = 26,
    TOKEN_ID_RANDOM_BYTES = 10,
    TOKEN_ID_CHARS = 16,
    SECRET_RANDOM_BYTES = 32,
    SECRET_CHARS = 43,
};

static const struct slice LLM_KEY_PREFIX = {"sk-reeve-", 9};

/* Writes into memory of the caller as far as `size` goes, with the NUL. */
static void text_put(char *out, size_t size, struct slice s)
{
    size_t at = strlen(out);

    must(s.n < size - at);
    memcpy(out + at, s.p, s.n);
    out[at + s.n] = '\0';
}

typedef int (*encode_fn)(struct slice in, struct buf *out);

static void text_put_random(char *out, size_t size, const struct rnd *r, size_t bytes, encode_fn encode)
{
    unsigned char random[SECRET_RANDOM_BYTES];
    struct buf text = BUF_INIT(64);

    must(bytes <= sizeof(random));
    rnd_fill(r, random, bytes);
    must(encode(slice_of(random, bytes), &text) == 0);
    text_put(out, size, buf_view(&text));
    buf_wipe(&text);
    mem_wipe(random, sizeof(random));
}

static bool is_base32(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!(s.p[i] >= 'a' && s.p[i] <= 'z') && !(s.p[i] >= '2' && s.p[i] <= '7'))
            return false;
    return true;
}

static bool is_base64url(struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];

        if (!(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' &&
            c != '_')
            return false;
    }
    return true;
}

void id_new(const struct rnd *r, const char *prefix, char out[ID_TEXT_MAX])
{
    out[0] = '\0';
    text_put(out, ID_TEXT_MAX, slice_str(prefix));
    text_put(out, ID_TEXT_MAX, SL("_"));
    text_put_random(out, ID_TEXT_MAX, r, ID_RANDOM_BYTES, base32_encode);
}

bool id_is_valid(struct slice s, const char *prefix)
{
    struct slice before = slice_str(prefix), random;

    if (s.n != before.n + 1 + ID_CHARS || !slice_starts(s, before) || s.p[before.n] != '_')
        return false;
    random = slice_from(s, before.n + 1);
    /* The last character carries three bits and two zero bits: every fourth of the alphabet. */
    return is_base32(random) && strchr("aeimquy4", random.p[ID_CHARS - 1]) != NULL;
}

bool name_is_valid(struct slice s)
{
    if (s.n == 0 || s.n > NAME_MAX_BYTES || s.p[0] == '-' || s.p[s.n - 1] == '-')
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (!(s.p[i] >= 'a' && s.p[i] <= 'z') && !(s.p[i] >= '0' && s.p[i] <= '9') && s.p[i] != '-')
            return false;
    return true;
}

void token_id_new(const struct rnd *r, char out[TOKEN_ID_MAX])
{
    out[0] = '\0';
    text_put_random(out, TOKEN_ID_MAX, r, TOKEN_ID_RANDOM_BYTES, base32_encode);
}

void token_new(const struct rnd *r, const char *kind, struct slice id, char out[TOKEN_TEXT_MAX])
{
    must(id.n == TOKEN_ID_CHARS && is_base32(id));
    out[0] = '\0';
    text_put(out, TOKEN_TEXT_MAX, slice_str(kind));
    text_put(out, TOKEN_TEXT_MAX, SL("_"));
    text_put(out, TOKEN_TEXT_MAX, id);
    text_put(out, TOKEN_TEXT_MAX, SL("_"));
    text_put_random(out, TOKEN_TEXT_MAX, r, SECRET_RANDOM_BYTES, base64url_encode);
}

/* By position, not by '_': the secret may contain one. */
int token_split(struct slice text, const char *kind, struct slice *ret_id)
{
    struct slice before = slice_str(kind), id, secret;

    if (text.n != before.n + 1 + TOKEN_ID_CHARS + 1 + SECRET_CHARS || !slice_starts(text, before))
        return E_INVALID;
    if (text.p[before.n] != '_' || text.p[before.n + 1 + TOKEN_ID_CHARS] != '_')
        return E_INVALID;
    id = slice_of(text.p + before.n + 1, TOKEN_ID_CHARS);
    secret = slice_from(text, text.n - SECRET_CHARS);
    if (!is_base32(id) || !is_base64url(secret))
        return E_INVALID;
    *ret_id = id;
    return 0;
}

void llm_key_new(const struct rnd *r, char out[LLM_KEY_TEXT_MAX])
{
    out[0] = '\0';
    text_put(out, LLM_KEY_TEXT_MAX, LLM_KEY_PREFIX);
    text_put_random(out, LLM_KEY_TEXT_MAX, r, SECRET_RANDOM_BYTES, base64url_encode);
}
