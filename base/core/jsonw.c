/* jsonw: JSON straight into a buf. The writer knows only where commas go; that brackets match is the caller's
 * doing. When the buf is full nothing more goes in, and who sends the text looks at buf.is_full once. */
#include "base/core/json.h"

#include <stdio.h>
#include <string.h>

#include "base/core/clock.h"
#include "base/core/mem.h"

/* The buf's fullness is sticky and looked at by the owner, so single results need no look. */
static void put(struct buf *b, const char *p, size_t n)
{
    (void)buf_append(b, p, n);
}

static void put_escape(struct buf *b, unsigned char c)
{
    static const char SHORT[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    char text[8];
    int n;

    if (c == '"' || c == '\\') {
        put(b, (char[]){'\\', (char)c}, 2);
    } else if (c < sizeof(SHORT) && SHORT[c] != '\0') {
        put(b, (char[]){'\\', SHORT[c]}, 2);
    } else {
        n = snprintf(text, sizeof(text), "\\u%04x", c);
        put(b, text, (size_t)n);
    }
}

static void put_string(struct buf *b, struct slice s)
{
    put(b, "\"", 1);
    while (s.n > 0) {
        size_t good = slice_utf8_prefix(s), from = 0;

        for (size_t i = 0; i < good; i++) {
            unsigned char c = (unsigned char)s.p[i];

            if (c >= 0x20 && c != '"' && c != '\\')
                continue;
            put(b, s.p + from, i - from);
            put_escape(b, c);
            from = i + 1;
        }
        put(b, s.p + from, good - from);
        s = slice_from(s, good);
        if (s.n > 0) {
            put(b, "\xef\xbf\xbd", 3); /* U+FFFD for each byte that is no character */
            s = slice_from(s, 1);
        }
    }
    put(b, "\"", 1);
}

/* As deep as the parsed text was nested, which its limits bounded. */
static void put_value(struct buf *b, const struct json *j)
{
    enum json_type type = json_type(j);
    struct slice number = json_number_text(j);
    bool is_first = true;

    switch (type) {
    case JSON_NULL:
        put(b, "null", 4);
        return;
    case JSON_FALSE:
        put(b, "false", 5);
        return;
    case JSON_TRUE:
        put(b, "true", 4);
        return;
    case JSON_NUMBER:
        put(b, number.p, number.n);
        return;
    case JSON_STRING:
        put_string(b, json_string(j));
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    put(b, type == JSON_OBJECT ? "{" : "[", 1);
    JSON_FOREACH (it, j) {
        if (!is_first)
            put(b, ",", 1);
        is_first = false;
        if (type == JSON_OBJECT) {
            put_string(b, json_key(it));
            put(b, ":", 1);
        }
        put_value(b, it);
    }
    put(b, type == JSON_OBJECT ? "}" : "]", 1);
}

void jsonw_init(struct jsonw *w, struct buf *out)
{
    *w = (struct jsonw){.out = out};
}

/* Before a value or a key. */
static void begin(struct jsonw *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth == 0)
        return;
    if (w->has_item[w->depth - 1])
        put(w->out, ",", 1);
    w->has_item[w->depth - 1] = true;
}

static void open_with(struct jsonw *w, const char *bracket)
{
    begin(w);
    must(w->depth < JSONW_DEPTH_MAX);
    w->has_item[w->depth++] = false;
    put(w->out, bracket, 1);
}

static void close_with(struct jsonw *w, const char *bracket)
{
    must(w->depth > 0 && !w->after_key);
    w->depth--;
    put(w->out, bracket, 1);
}

void jsonw_object(struct jsonw *w)
{
    open_with(w, "{");
}

void jsonw_object_end(struct jsonw *w)
{
    close_with(w, "}");
}

void jsonw_array(struct jsonw *w)
{
    open_with(w, "[");
}

void jsonw_array_end(struct jsonw *w)
{
    close_with(w, "]");
}

void jsonw_key(struct jsonw *w, const char *key)
{
    jsonw_key_slice(w, slice_str(key));
}

void jsonw_key_slice(struct jsonw *w, struct slice key)
{
    must(w->depth > 0 && !w->after_key);
    begin(w);
    put_string(w->out, key);
    put(w->out, ":", 1);
    w->after_key = true;
}

void jsonw_str(struct jsonw *w, const char *s)
{
    jsonw_slice(w, slice_str(s));
}

void jsonw_slice(struct jsonw *w, struct slice s)
{
    begin(w);
    if (s.p == NULL)
        put(w->out, "null", 4);
    else
        put_string(w->out, s);
}

void jsonw_i64(struct jsonw *w, int64_t v)
{
    begin(w);
    (void)buf_printf(w->out, "%lld", (long long)v);
}

void jsonw_u64(struct jsonw *w, uint64_t v)
{
    begin(w);
    (void)buf_printf(w->out, "%llu", (unsigned long long)v);
}

void jsonw_bool(struct jsonw *w, bool v)
{
    begin(w);
    put(w->out, v ? "true" : "false", v ? 4 : 5);
}

void jsonw_null(struct jsonw *w)
{
    begin(w);
    put(w->out, "null", 4);
}

void jsonw_raw(struct jsonw *w, struct slice json)
{
    if (json.n == 0) {
        jsonw_null(w); /* nothing is not JSON */
        return;
    }
    begin(w);
    put(w->out, json.p, json.n);
}

void jsonw_value(struct jsonw *w, const struct json *j)
{
    begin(w);
    put_value(w->out, j);
}

void jsonw_kstr(struct jsonw *w, const char *key, const char *s)
{
    jsonw_key(w, key);
    jsonw_str(w, s);
}

void jsonw_kslice(struct jsonw *w, const char *key, struct slice s)
{
    jsonw_key(w, key);
    jsonw_slice(w, s);
}

void jsonw_ki64(struct jsonw *w, const char *key, int64_t v)
{
    jsonw_key(w, key);
    jsonw_i64(w, v);
}

void jsonw_ku64(struct jsonw *w, const char *key, uint64_t v)
{
    jsonw_key(w, key);
    jsonw_u64(w, v);
}

void jsonw_kbool(struct jsonw *w, const char *key, bool v)
{
    jsonw_key(w, key);
    jsonw_bool(w, v);
}

void jsonw_ktime(struct jsonw *w, const char *key, int64_t wall_ms)
{
    char text[TIME_TEXT_MAX];

    jsonw_key(w, key);
    if (wall_ms == 0) {
        jsonw_null(w);
        return;
    }
    time_format(wall_ms, text);
    jsonw_str(w, text);
}
