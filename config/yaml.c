/* yaml: one strict YAML document becomes a tree that remembers where everything stood.
 *
 * Happy path: libyaml's events are read by recursive descent into nodes of an arena. Failure paths: what YAML
 * allows and a configuration must not contain (aliases, anchors, tags, merge keys, duplicate or structured
 * keys, a second document) is a problem each, and reading goes on, so that all are found; only a syntax
 * error, a text that is not UTF-8, too deep a nesting or too many values end it. Columns count characters,
 * not bytes. */
#include "config/yaml.h"

#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "base/core/err.h"
#include "base/core/mem.h"
#include "base/core/hash.h"

#define DEPTH_MAX 32
#define NODES_MAX 200000

struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    const char *file;
    struct slice text;
    struct config_problems *problems;
    size_t nodes;
    bool is_bad;  /* some problem was added */
    bool is_over; /* reading cannot go on */
};

/* The keys of a map while it is read. */
struct seen_key {
    struct slice key;
    unsigned line;
    UT_hash_handle hh;
};

#define COMPLAIN(r, mark, hint, ...)                                                                         \
    do {                                                                                                     \
        (r)->is_bad = true;                                                                                  \
        config_problem_add((r)->problems, (r)->file, line_of(mark), column_of(mark), (hint), __VA_ARGS__);   \
    } while (0)

static unsigned line_of(yaml_mark_t m)
{
    return (unsigned)m.line + 1;
}

static unsigned column_of(yaml_mark_t m)
{
    return (unsigned)m.column + 1;
}

/* libyaml counts `mark.index` in characters: walks the UTF-8 text. '\0' at the end. */
static char character_at(const struct reader *r, size_t index)
{
    size_t at = 0;
    for (size_t i = 0; at < r->text.n; at++) {
        if (((unsigned char)r->text.p[at] & 0xc0) == 0x80)
            continue;
        if (i++ == index)
            return r->text.p[at];
    }
    return '\0';
}

/* A text that is not UTF-8, or has characters that YAML does not allow: found before libyaml sees it, because
 * its own message has no line. */
static bool text_is_clean(struct reader *r)
{
    yaml_mark_t at = {0, 0, 0};
    for (size_t i = 0; i < r->text.n;) {
        unsigned char c = (unsigned char)r->text.p[i];
        size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        struct slice one = {r->text.p + i, r->text.n - i < n ? r->text.n - i : n};
        if (!slice_is_utf8(one)) {
            COMPLAIN(r, at, NULL, "byte 0x%02x is not UTF-8: the file must be UTF-8 text", c);
            return false;
        }
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
            COMPLAIN(r, at, NULL, "control character 0x%02x: the file must be plain text", c);
            return false;
        }
        at.column++;
        if (c == '\n') {
            at.line++;
            at.column = 0;
        }
        i += n;
    }
    return true;
}

static void complain_syntax(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    const char *hint = NULL;
    yaml_mark_t at = p->problem_mark;
    if (p->error == YAML_READER_ERROR || p->error == YAML_MEMORY_ERROR) {
        at = p->mark;
    } else {
        char c = character_at(r, at.index);
        if (c == '\t')
            hint = "indent with spaces, not tabs";
        else if (c == '@' || c == '`' || c == '%')
            hint = "a text that begins with this character must stand in quotes";
    }
    const char *what = p->problem != NULL ? p->problem : "not YAML";
    if (p->context != NULL)
        COMPLAIN(r, at, hint, "%s (%s that begins in line %u)", what, p->context, line_of(p->context_mark));
    else
        COMPLAIN(r, at, hint, "%s", what);
    r->is_over = true;
}

/* false: reading is over. */
static bool event_next(struct reader *r, yaml_event_t *ev)
{
    if (r->is_over)
        return false;
    if (yaml_parser_parse(&r->parser, ev))
        return true;
    complain_syntax(r);
    return false;
}

/* Their names are not shown: an unquoted secret can look like one. */
static void check_properties(struct reader *r, yaml_mark_t at, const yaml_char_t *anchor,
                             const yaml_char_t *tag)
{
    if (anchor != NULL)
        COMPLAIN(r, at, "quote a text that begins with `&`", "an anchor: anchors are not allowed");
    if (tag != NULL)
        COMPLAIN(r, at, "quote a text that begins with `!`", "a tag: tags are not allowed");
}

static struct yaml_node *node_new(struct reader *r, enum yaml_kind kind, yaml_mark_t at)
{
    struct yaml_node *n = ARENA_NEW(r->arena, struct yaml_node);
    n->kind = kind;
    n->line = line_of(at);
    n->column = column_of(at);
    if (++r->nodes > NODES_MAX && !r->is_over) {
        COMPLAIN(r, at, NULL, "more than %d values: the file is too large", NODES_MAX);
        r->is_over = true;
    }
    return n;
}

static struct slice scalar_text(struct reader *r, const yaml_event_t *ev)
{
    struct slice s = {(const char *)ev->data.scalar.value, ev->data.scalar.length};
    if (memchr(s.p, 0, s.n) != NULL) {
        COMPLAIN(r, ev->start_mark, NULL, "the text contains a NUL character, which is not allowed");
        return SLICE_EMPTY;
    }
    return arena_slice(r->arena, s);
}

static struct yaml_node *read_node(struct reader *r, yaml_event_t *ev, unsigned depth);

static struct yaml_node *read_list(struct reader *r, struct yaml_node *list, unsigned depth)
{
    struct yaml_node **tail = &list->first;
    yaml_event_t ev;
    while (event_next(r, &ev)) {
        if (ev.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&ev);
            break;
        }
        struct yaml_node *n = read_node(r, &ev, depth + 1);
        *tail = n;
        tail = &n->next;
        list->count++;
    }
    return list;
}

/* The key's text in *ret; false when it is none that can be used. Consumes the event. */
static bool read_key(struct reader *r, yaml_event_t *ev, struct seen_key **seen, unsigned depth,
                     struct slice *ret)
{
    yaml_mark_t at = ev->start_mark;
    if (ev->type != YAML_SCALAR_EVENT) {
        bool is_alias = ev->type == YAML_ALIAS_EVENT;
        (void)read_node(r, ev, depth + 1); /* it says what else is wrong inside */
        if (!is_alias && !r->is_over)
            COMPLAIN(r, at, "quote a text that begins with `{` or `[`", "a key must be plain text");
        return false;
    }
    check_properties(r, at, ev->data.scalar.anchor, ev->data.scalar.tag);
    bool is_empty = ev->data.scalar.length == 0;
    *ret = scalar_text(r, ev);
    bool is_plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    yaml_event_delete(ev);
    if (ret->n == 0) {
        if (is_empty) /* else refused already */
            COMPLAIN(r, at, NULL, "a key is empty");
        return false;
    }
    if (is_plain && slice_eq_str(*ret, "<<")) {
        COMPLAIN(r, at, NULL, "merge key `<<`: not allowed; write the keys out");
        return false;
    }
    struct seen_key *first = NULL;
    HASH_FIND(hh, *seen, ret->p, ret->n, first);
    if (first != NULL) {
        COMPLAIN(r, at, NULL, "duplicate key `%.*s`: it stands already in line %u",
                 (int)(ret->n > 80 ? 80 : ret->n), ret->p, first->line);
        return false;
    }
    first = ARENA_NEW(r->arena, struct seen_key);
    first->key = *ret;
    first->line = line_of(at);
    HASH_ADD_KEYPTR(hh, *seen, first->key.p, first->key.n, first);
    return true;
}

static struct yaml_node *read_map(struct reader *r, struct yaml_node *map, unsigned depth)
{
    struct yaml_node **tail = &map->first;
    struct seen_key *seen = NULL;
    yaml_event_t ev;
    while (event_next(r, &ev)) {
        if (ev.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&ev);
            break;
        }
        yaml_mark_t at = ev.start_mark;
        struct slice key = SLICE_EMPTY;
        bool is_usable = read_key(r, &ev, &seen, depth, &key);
        if (!event_next(r, &ev))
            break;
        struct yaml_node *n = read_node(r, &ev, depth + 1);
        if (!is_usable)
            continue;
        n->key = key;
        n->key_line = line_of(at);
        n->key_column = column_of(at);
        *tail = n;
        tail = &n->next;
        map->count++;
    }
    HASH_CLEAR(hh, seen); /* the entries are the arena's */
    return map;
}

/* Consumes the event. Always gives a node, so that the tree is whole whatever was wrong. */
static struct yaml_node *read_node(struct reader *r, yaml_event_t *ev, unsigned depth)
{
    yaml_mark_t at = ev->start_mark;
    struct yaml_node *n;
    if (depth > DEPTH_MAX && !r->is_over) {
        COMPLAIN(r, at, NULL, "nested deeper than %d levels", DEPTH_MAX);
        r->is_over = true;
    }
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        check_properties(r, at, ev->data.scalar.anchor, ev->data.scalar.tag);
        n = node_new(r, YAML_SCALAR, at);
        n->text = scalar_text(r, ev);
        n->is_quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        yaml_event_delete(ev);
        return n;
    case YAML_SEQUENCE_START_EVENT:
        check_properties(r, at, ev->data.sequence_start.anchor, ev->data.sequence_start.tag);
        yaml_event_delete(ev);
        return read_list(r, node_new(r, YAML_LIST, at), depth);
    case YAML_MAPPING_START_EVENT:
        check_properties(r, at, ev->data.mapping_start.anchor, ev->data.mapping_start.tag);
        yaml_event_delete(ev);
        return read_map(r, node_new(r, YAML_MAP, at), depth);
    case YAML_ALIAS_EVENT:
        COMPLAIN(r, at, "quote a text that begins with `*`", "an alias: aliases are not allowed");
        yaml_event_delete(ev);
        n = node_new(r, YAML_SCALAR, at);
        n->text = SLICE_EMPTY;
        n->is_bad = true;
        return n;
    default:
        die("yaml: event %d where a value must stand", (int)ev->type);
    }
}

static struct yaml_node *read_stream(struct reader *r)
{
    struct yaml_node *root = NULL;
    yaml_event_t ev;
    bool is_end = false;
    while (!is_end && event_next(r, &ev)) {
        yaml_mark_t at = ev.start_mark;
        switch (ev.type) {
        case YAML_STREAM_END_EVENT:
            is_end = true;
            yaml_event_delete(&ev);
            break;
        case YAML_DOCUMENT_START_EVENT:
            if (root != NULL) {
                COMPLAIN(r, at, NULL, "a second document begins here: the file must hold one");
                r->is_over = true;
            }
            if (ev.data.document_start.version_directive != NULL ||
                ev.data.document_start.tag_directives.start != ev.data.document_start.tag_directives.end)
                COMPLAIN(r, at, NULL, "a `%%` directive: not allowed");
            yaml_event_delete(&ev);
            break;
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            yaml_event_delete(&ev);
            break;
        default:
            root = read_node(r, &ev, 1);
        }
    }
    return root;
}

int yaml_parse(struct arena *a, const char *file, struct slice text, struct config_problems *problems,
               struct yaml_node **ret)
{
    *ret = NULL;
    struct reader r = {.arena = a, .file = file, .text = text, .problems = problems};
    if (slice_starts(text, SL("\xef\xbb\xbf"))) /* a byte order mark says nothing in UTF-8 */
        r.text = slice_from(text, 3);
    if (!text_is_clean(&r))
        return E_INVALID;
    if (!yaml_parser_initialize(&r.parser))
        die("yaml: no memory");
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)r.text.p, r.text.n);
    struct yaml_node *root = read_stream(&r);
    yaml_parser_delete(&r.parser);
    if (root == NULL && !r.is_bad) {
        r.is_bad = true;
        config_problem_add(problems, file, 1, 1, NULL, "the file is empty");
    }
    *ret = r.is_over ? NULL : root;
    return r.is_bad ? E_INVALID : 0;
}

const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key)
{
    if (map == NULL || map->kind != YAML_MAP)
        return NULL;
    YAML_FOREACH (it, map)
        if (slice_eq_str(it->key, key))
            return it;
    return NULL;
}
