/* sieve: see sieve.h. A byte goes to the string or literal it belongs to, else to the brackets being skipped,
 * else to the innermost object whose members are looked at, else to the top. Nothing recurses, so no text can
 * be too deep. */
#include "base/core/sieve.h"

#include <string.h>

#include "base/core/json_scan.h"
#include "base/core/mem.h"

#define STRING_MAX(row) ((row)->max > 0 ? (row)->max : SIEVE_LITERAL_MAX)

void sieve_init(struct sieve *s, const struct sieve_row *rows, size_t n_max, size_t out_max)
{
    *s = (struct sieve){.rows = rows, .n_max = n_max, .out = BUF_INIT(out_max)};
}

void sieve_fini(struct sieve *s)
{
    buf_fini(&s->out);
}

/* The buf's fullness is sticky, and looked at once for each piece that is fed. */
static void put(struct sieve *s, const char *text)
{
    (void)buf_str(&s->out, text);
}

static int fail(const struct sieve *s, const char *what, struct err *err)
{
    return err_set(err, E_SYNTAX, "byte %llu: %s", (unsigned long long)s->offset, what);
}

static struct sieve_level *innermost(struct sieve *s)
{
    return s->level > 0 ? &s->levels[s->level - 1] : NULL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* --- values --- */

/* "name": in front of what is kept. */
static void put_name(struct sieve *s, struct sieve_level *l)
{
    if (l->has_output)
        put(s, ",");
    l->has_output = true;
    put(s, "\"");
    put(s, l->row->name);
    put(s, "\":");
}

static void value_end(struct sieve *s)
{
    struct sieve_level *l = innermost(s);
    if (l != NULL)
        l->expect = SIEVE_COMMA_OR_END;
    else
        s->top = s->top == SIEVE_ANY ? SIEVE_ANY : SIEVE_COMMA;
}

static void level_push(struct sieve *s, const struct sieve_row *rows)
{
    must(s->level < SIEVE_LEVELS_MAX);
    s->levels[s->level++] = (struct sieve_level){.rows = rows, .expect = SIEVE_KEY_OR_END};
    put(s, "{");
}

static void level_pop(struct sieve *s)
{
    s->level--;
    put(s, s->level == 0 ? "}\n" : "}");
    value_end(s);
}

static void string_begin(struct sieve *s, bool is_key, bool is_kept)
{
    s->in_string = true;
    s->is_escaped = false;
    s->is_key = is_key;
    s->is_kept = is_kept;
    s->is_too_long = false;
    s->n_text = 0;
    s->text_at = s->out.n;
    if (is_kept)
        put(s, "\"");
}

static void literal_begin(struct sieve *s, bool is_kept)
{
    s->in_literal = true;
    s->is_kept = is_kept;
    s->n_text = 0;
}

/* The first byte of a member's value. */
static int member_begin(struct sieve *s, char c, struct err *err)
{
    struct sieve_level *l = innermost(s);
    const struct sieve_row *row = l->row;
    if (row != NULL)
        put_name(s, l);
    if (c == '{' && row != NULL && row->below != NULL) {
        level_push(s, row->below);
    } else if (c == '{' || c == '[') {
        if (row != NULL)
            put(s, c == '{' ? "{}" : "[]"); /* of another kind than wanted: that is all one must know */
        s->skipping = 1;
    } else if (c == '"') {
        string_begin(s, false, row != NULL && row->below == NULL);
        if (row != NULL && row->below != NULL)
            put(s, "\"\"");
    } else if (c == '}' || c == ']' || c == ',' || c == ':') {
        return fail(s, "a value is missing", err);
    } else {
        literal_begin(s, row != NULL);
        s->text[s->n_text++] = c;
    }
    return 0;
}

static int top_begin(struct sieve *s, char c, struct err *err)
{
    if (s->n >= s->n_max)
        return err_set(err, E_TOO_LARGE, "more than %zu events", s->n_max);
    s->n++;
    if (c == '{') {
        level_push(s, s->rows);
        return 0;
    }
    put(s, "null\n");
    if (c == '[')
        s->skipping = 1;
    else if (c == '"')
        string_begin(s, false, false);
    else
        literal_begin(s, false);
    return 0;
}

/* --- where a byte can be --- */

static int at_top(struct sieve *s, char c, struct err *err)
{
    if (is_blank(c))
        return 0;
    switch (s->top) {
    case SIEVE_ANY:
        if (c == '[' && s->n == 0)
            s->top = SIEVE_FIRST_ELEMENT;
        else if (c == '{' || (s->n > 0 && c != '[' && c != ']' && c != '}' && c != ',' && c != ':'))
            return top_begin(s, c, err);
        else
            return fail(s, "expected an object, or an array of objects", err);
        return 0;
    case SIEVE_FIRST_ELEMENT:
    case SIEVE_ELEMENT:
        if (c == ']' && s->top == SIEVE_FIRST_ELEMENT) {
            s->top = SIEVE_DONE;
            return 0;
        }
        if (c == ']' || c == '}' || c == ',' || c == ':')
            return fail(s, "an element is missing", err);
        s->top = SIEVE_ELEMENT;
        return top_begin(s, c, err);
    case SIEVE_COMMA:
        if (c != ',' && c != ']')
            return fail(s, "expected `,` or `]`", err);
        s->top = c == ',' ? SIEVE_ELEMENT : SIEVE_DONE;
        return 0;
    case SIEVE_DONE:
    default:
        return fail(s, "something follows the end", err);
    }
}

static int in_object(struct sieve *s, struct sieve_level *l, char c, struct err *err)
{
    if (is_blank(c))
        return 0;
    switch (l->expect) {
    case SIEVE_KEY_OR_END:
    case SIEVE_KEY:
        if (c == '}' && l->expect == SIEVE_KEY_OR_END)
            level_pop(s);
        else if (c == '"')
            string_begin(s, true, false);
        else
            return fail(s, "expected a member's name", err);
        return 0;
    case SIEVE_COLON:
        if (c != ':')
            return fail(s, "expected `:`", err);
        l->expect = SIEVE_VALUE;
        return 0;
    case SIEVE_VALUE:
        return member_begin(s, c, err);
    case SIEVE_COMMA_OR_END:
    default:
        if (c == '}')
            level_pop(s);
        else if (c == ',')
            l->expect = SIEVE_KEY;
        else
            return fail(s, "expected `,` or `}`", err);
        return 0;
    }
}

static void key_end(struct sieve *s)
{
    struct sieve_level *l = innermost(s);
    const struct sieve_row *row = l->rows;
    struct slice name = slice_of(s->text, s->n_text == SIZE_MAX ? 0 : s->n_text);
    while (row->name != NULL && !slice_eq_str(name, row->name))
        row++;
    l->row = row->name != NULL ? row : NULL;
    l->expect = SIEVE_COLON;
}

static void string_end(struct sieve *s)
{
    s->in_string = false;
    if (s->skipping > 0)
        return;
    if (s->is_key) {
        key_end(s);
        return;
    }
    if (s->is_kept)
        put(s, s->is_too_long ? SIEVE_TOO_LONG "\"" : "\"");
    value_end(s);
}

/* A run of a string's bytes without its end. */
static void string_bytes(struct sieve *s, struct slice run)
{
    if (s->skipping > 0 || s->out.is_full)
        return;
    if (s->is_key) {
        if (s->n_text == SIZE_MAX || s->n_text + run.n > SIEVE_NAME_MAX) {
            s->n_text = SIZE_MAX;
            return;
        }
        memcpy(s->text + s->n_text, run.p, run.n);
        s->n_text += run.n;
    } else if (s->is_kept && !s->is_too_long) {
        if (s->out.n - s->text_at - 1 + run.n > STRING_MAX(innermost(s)->row)) {
            s->is_too_long = true;
            s->out.n = s->text_at + 1;
        } else if (buf_slice(&s->out, run) == 0) {
            /* No string of JSON has a line break: let the parser refuse another control character for it. */
            for (size_t i = s->out.n - run.n; i < s->out.n; i++)
                s->out.p[i] = s->out.p[i] == '\n' ? '\t' : s->out.p[i];
        }
    }
}

/* Takes what belongs to the string; returns how many bytes that was. Quotes are looked for, and then how many
 * backslashes stand in front: an odd number of them makes the quote part of the string. */
static size_t in_string(struct sieve *s, struct slice bytes)
{
    size_t from = s->is_escaped ? 1 : 0, end; /* from: no backslash in front of it counts */
    for (;; from = end + 1) {
        const char *quote = from < bytes.n ? memchr(bytes.p + from, '"', bytes.n - from) : NULL;
        end = quote != NULL ? (size_t)(quote - bytes.p) : bytes.n;
        size_t run = 0;
        while (end - run > from && bytes.p[end - run - 1] == '\\')
            run++;
        s->is_escaped = run % 2 == 1;
        if (!s->is_escaped || end == bytes.n)
            break;
    }
    string_bytes(s, slice_of(bytes.p, end));
    if (end == bytes.n)
        return end;
    string_end(s);
    return end + 1;
}

/* What is neither number nor true, false, null (NaN: there are writers that know it) is kept as null. */
static void literal_end(struct sieve *s)
{
    struct slice t = slice_of(s->text, s->n_text == SIZE_MAX ? 0 : s->n_text);
    s->in_literal = false;
    if (s->is_kept && s->n_text == SIZE_MAX)
        put(s, "\"" SIEVE_TOO_LONG "\"");
    else if (s->is_kept && (slice_eq_str(t, "true") || slice_eq_str(t, "false") ||
                            (t.n > 0 && json_number_bytes(t) == t.n)))
        (void)buf_slice(&s->out, t);
    else if (s->is_kept)
        put(s, "null");
    value_end(s);
}

static bool is_delimiter(char c)
{
    return is_blank(c) || c == ',' || c == '}' || c == ']' || c == '{' || c == '[' || c == '"' || c == ':';
}

static int outside(struct sieve *s, char c, struct err *err)
{
    if (s->in_literal && !is_delimiter(c)) {
        if (s->n_text < sizeof s->text)
            s->text[s->n_text++] = c;
        else
            s->n_text = SIZE_MAX;
        return 0;
    }
    if (s->in_literal)
        literal_end(s);
    if (s->skipping > 0) {
        if (c == '"')
            string_begin(s, false, false);
        else if (c == '{' || c == '[')
            s->skipping++;
        else if ((c == '}' || c == ']') && --s->skipping == 0)
            value_end(s);
        return 0;
    }
    struct sieve_level *l = innermost(s);
    return l != NULL ? in_object(s, l, c, err) : at_top(s, c, err);
}

int sieve_feed(struct sieve *s, struct slice bytes, struct err *err)
{
    size_t i = 0;
    while (i < bytes.n) {
        if (s->in_string) {
            size_t n = in_string(s, slice_from(bytes, i));
            i += n;
            s->offset += n;
            continue;
        }
        int code = outside(s, bytes.p[i], err);
        if (code != 0)
            return code;
        i++;
        s->offset++;
    }
    if (s->out.is_full)
        return err_set(err, E_TOO_LARGE, "more to keep than %zu bytes", s->out.max);
    return 0;
}

int sieve_end(struct sieve *s, struct err *err)
{
    if (s->in_literal)
        literal_end(s);
    bool is_whole = s->level == 0 && s->skipping == 0 && !s->in_string &&
                    (s->top == SIEVE_DONE || (s->top == SIEVE_ANY && s->n > 0));
    if (!is_whole)
        return fail(s, s->offset == 0 ? "it is empty" : "it ends in the middle", err);
    if (s->out.is_full)
        return err_set(err, E_TOO_LARGE, "more to keep than %zu bytes", s->out.max);
    return 0;
}
