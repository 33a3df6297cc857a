/* json_scan: RFC 8259 to the letter, in one pass without recursion.
 *
 * cJSON is lenient (leading zeros, "1.", raw control characters, bad \u escapes) and turns numbers into
 * doubles. So the text is read here first, by the grammar, and cJSON gets a copy in which every number is "0"
 * followed by blanks: it then never sees a number, has nothing to be lenient about, and only builds the tree.
 * Where numbers and keys began is noted, for json.c to attach the numbers' texts and to place the complaint
 * about a key that occurs twice. The first fault ends the scan, with its line and column. */
#include "base/core/json_scan.h"

#include <string.h>

#include "base/core/mem.h"

enum { BYTES_MAX_DEFAULT = 1024 * 1024, DEPTH_MAX_DEFAULT = 32, NODES_MAX_DEFAULT = 100000 };

static void places_init(struct json_places *l)
{
    l->at = l->first;
    l->n = 0;
    l->cap = ARRAY_LEN(l->first);
}

static void places_fini(struct json_places *l)
{
    if (l->at != l->first)
        mem_free(l->at);
}

static void places_add(struct json_places *l, size_t at)
{
    if (l->n == l->cap) {
        size_t bytes = l->cap * 2 * sizeof(*l->at);

        if (l->at == l->first)
            l->at = memcpy(mem_alloc(bytes), l->first, sizeof(l->first));
        else
            l->at = mem_realloc(l->at, bytes);
        l->cap *= 2;
    }
    l->at[l->n++] = (uint32_t)at;
}

int json_scan_error(struct slice text, size_t at, int code, const char *what, struct err *err)
{
    size_t line = 1, column = 1;

    for (size_t i = 0; i < at && i < text.n; i++) {
        if (text.p[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text.p[i] & 0xc0) != 0x80) {
            column++; /* characters, not bytes */
        }
    }
    return err_set(err, code, "line %zu column %zu: %s", line, column, what);
}

void json_key_show(struct slice key, char out[JSON_SHOWN_MAX])
{
    size_t n = key.n > 64 ? 64 : key.n;

    while (n > 0 && n < key.n && ((unsigned char)key.p[n] & 0xc0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)key.p[i];

        out[i] = c < 0x20 || c == 0x7f ? '?' : key.p[i];
    }
    memcpy(out + n, "\xe2\x80\xa6", 4);
    if (n == key.n)
        out[n] = '\0';
}

static bool scan_fail_code(struct json_scan *s, int code, const char *what)
{
    s->code = code;
    s->what = what;
    return false;
}

static bool scan_fail(struct json_scan *s, const char *what)
{
    return scan_fail_code(s, E_SYNTAX, what);
}

/* The byte at hand; 0 at the end, which no rule accepts (a NUL in the text is refused by the same rules). */
static char scan_peek(const struct json_scan *s)
{
    return s->at < s->text.n ? s->text.p[s->at] : '\0';
}

static void scan_blanks(struct json_scan *s)
{
    while (s->at < s->text.n) {
        char c = s->text.p[s->at];

        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            break;
        s->at++;
    }
}

static size_t count_digits(struct slice s, size_t at)
{
    size_t n = 0;

    while (at + n < s.n && s.p[at + n] >= '0' && s.p[at + n] <= '9')
        n++;
    return n;
}

size_t json_number_bytes(struct slice s)
{
    size_t at = s.n > 0 && s.p[0] == '-', digits = count_digits(s, at);

    if (digits == 0)
        return 0;
    if (s.p[at] == '0')
        digits = 1; /* "01": what follows is refused by whoever looks there */
    at += digits;
    if (at < s.n && s.p[at] == '.') {
        digits = count_digits(s, at + 1);
        if (digits == 0)
            return 0;
        at += 1 + digits;
    }
    if (at < s.n && (s.p[at] == 'e' || s.p[at] == 'E')) {
        size_t sign = at + 1 < s.n && (s.p[at + 1] == '+' || s.p[at + 1] == '-');

        digits = count_digits(s, at + 1 + sign);
        if (digits == 0)
            return 0;
        at += 1 + sign + digits;
    }
    return at;
}

static bool scan_number(struct json_scan *s)
{
    size_t n = json_number_bytes(slice_from(s->text, s->at));

    if (n == 0)
        return scan_fail(s, "malformed number");
    places_add(&s->numbers, s->at);
    memset(s->copy + s->at, ' ', n);
    s->copy[s->at] = '0';
    s->at += n;
    if (s->at < s->text.n && s->text.p[s->at] >= '0' && s->text.p[s->at] <= '9')
        return scan_fail(s, "a number must not begin with a zero");
    return true;
}

/* The four hex digits of "\uXXXX" at `at`; -1 when they are not. */
static int scan_hex4(const struct json_scan *s, size_t at)
{
    int v = 0;

    if (s->text.n - at < 4)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = s->text.p[i];

        if (c >= '0' && c <= '9')
            v = v * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            v = v * 16 + (c - 'A' + 10);
        else
            return -1;
    }
    return v;
}

/* At the 'u' of "\u". A pair of surrogates is one character; half a pair is none. */
static bool scan_unicode_escape(struct json_scan *s)
{
    int unit = scan_hex4(s, s->at + 1);

    if (unit < 0)
        return scan_fail(s, "\\u needs four hexadecimal digits");
    if (unit == 0)
        return scan_fail(s, "U+0000 is not accepted");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return scan_fail(s, "half a surrogate pair");
    s->at += 5;
    if (unit < 0xd800 || unit > 0xdbff)
        return true;
    if (s->text.n - s->at < 6 || s->text.p[s->at] != '\\' || s->text.p[s->at + 1] != 'u')
        return scan_fail(s, "half a surrogate pair");
    unit = scan_hex4(s, s->at + 2);
    if (unit < 0xdc00 || unit > 0xdfff)
        return scan_fail(s, "half a surrogate pair");
    s->at += 6;
    return true;
}

/* At the opening quote. That the text is UTF-8 is known already. */
static bool scan_string(struct json_scan *s)
{
    s->at++;
    while (s->at < s->text.n) {
        unsigned char c = (unsigned char)s->text.p[s->at];

        if (c == '"') {
            s->at++;
            return true;
        }
        if (c < 0x20)
            return scan_fail(s, "control character in a string: write it as an escape");
        s->at++;
        if (c != '\\')
            continue;
        c = (unsigned char)scan_peek(s);
        if (c == 'u') {
            if (!scan_unicode_escape(s))
                return false;
        } else if (c != '\0' && strchr("\"\\/bfnrt", c) != NULL) {
            s->at++;
        } else {
            return scan_fail(s, "unknown escape in a string");
        }
    }
    return scan_fail(s, "the string does not end");
}

static bool scan_word(struct json_scan *s, struct slice word)
{
    if (!slice_starts(slice_from(s->text, s->at), word))
        return scan_fail(s, "expected a value");
    s->at += word.n;
    return true;
}

static bool scan_key(struct json_scan *s)
{
    scan_blanks(s);
    if (scan_peek(s) != '"')
        return scan_fail(s, "expected a key in double quotes");
    places_add(&s->keys, s->at);
    if (!scan_string(s))
        return false;
    scan_blanks(s);
    if (scan_peek(s) != ':')
        return scan_fail(s, "expected ':'");
    s->at++;
    return true;
}

/* One value, of a container its opening and, when there is one, its first key. *ret_is_open: the next thing
 * is the first value inside. */
static bool scan_value(struct json_scan *s, bool *ret_is_open)
{
    char c = scan_peek(s);

    *ret_is_open = false;
    if (++s->nodes > s->limits.nodes_max)
        return scan_fail_code(s, E_TOO_LARGE, "more values than the limit");
    switch (c) {
    case '{':
    case '[':
        if (s->depth == s->limits.depth_max)
            return scan_fail_code(s, E_TOO_LARGE, "nested deeper than the limit");
        s->at++;
        scan_blanks(s);
        if (scan_peek(s) == (c == '{' ? '}' : ']')) {
            s->at++;
            return true;
        }
        s->open[s->depth++] = c;
        *ret_is_open = true;
        return c == '[' || scan_key(s);
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, SL("true"));
    case 'f':
        return scan_word(s, SL("false"));
    case 'n':
        return scan_word(s, SL("null"));
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return scan_number(s);
        return scan_fail(s,
                         s->at == s->text.n ? "the text ends where a value should be" : "expected a value");
    }
}

/* After a value: closes what closes here. False without s->what: the end of the text, as it should be. */
static bool scan_after_value(struct json_scan *s)
{
    for (;;) {
        char c, open;

        scan_blanks(s);
        if (s->depth == 0) {
            if (s->at < s->text.n)
                return scan_fail(s, "unexpected text after the value");
            return false;
        }
        c = scan_peek(s);
        open = s->open[s->depth - 1];
        if (c == ',') {
            s->at++;
            return open == '[' || scan_key(s);
        }
        if (c != (open == '{' ? '}' : ']'))
            return scan_fail(s, open == '{' ? "expected ',' or '}'" : "expected ',' or ']'");
        s->at++;
        s->depth--;
    }
}

static void scan_run(struct json_scan *s)
{
    bool is_open;

    do {
        scan_blanks(s);
        if (!scan_value(s, &is_open))
            return;
    } while (is_open || scan_after_value(s));
}

int json_scan(struct json_scan *s, struct slice text, const struct json_limits *limits, struct err *err)
{
    struct json_limits l = {0};
    if (limits != NULL)
        l = *limits;
    size_t good;

    l.bytes_max = l.bytes_max == 0 ? BYTES_MAX_DEFAULT : l.bytes_max;
    l.depth_max = l.depth_max == 0 ? DEPTH_MAX_DEFAULT : l.depth_max;
    l.nodes_max = l.nodes_max == 0 ? NODES_MAX_DEFAULT : l.nodes_max;
    l.bytes_max = l.bytes_max > JSON_SCAN_BYTES_CAP ? JSON_SCAN_BYTES_CAP : l.bytes_max;
    l.depth_max = l.depth_max > JSON_SCAN_DEPTH_CAP ? JSON_SCAN_DEPTH_CAP : l.depth_max;

    s->limits = l;
    s->text = text;
    s->copy = NULL;
    s->at = 0;
    s->nodes = 0;
    s->depth = 0;
    s->what = NULL;
    s->code = 0;
    places_init(&s->numbers);
    places_init(&s->keys);
    if (text.n > l.bytes_max)
        return err_set(err, E_TOO_LARGE, "%zu bytes of JSON; the limit is %zu", text.n, l.bytes_max);
    good = slice_utf8_prefix(text);
    if (good < text.n)
        return json_scan_error(text, good, E_SYNTAX, "invalid UTF-8", err);
    s->copy = mem_strndup(text.p, text.n);
    scan_run(s);
    return s->what == NULL ? 0 : json_scan_error(text, s->at, s->code, s->what, err);
}

void json_scan_fini(struct json_scan *s)
{
    places_fini(&s->numbers);
    places_fini(&s->keys);
    if (s->copy != NULL)
        mem_wipe(s->copy, s->text.n); /* bodies carry keys and tokens */
    mem_free(s->copy);
    s->copy = NULL;
}
