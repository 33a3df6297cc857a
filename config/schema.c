/* schema: walks the tree beside the rows of settings and reports what does not fit.
 *
 * Happy path: every key has a row, every value is of its row's kind and type. Failure paths: each mistake is
 * a problem at its own position, with the nearest known key or the place where the key belongs as a hint; the
 * walk goes on. Keys of later versions are refused by name, never silently ignored. */
#include "config/schema.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"
#include "config/tenancy.h"
#include "config/value.h"

#define PATTERN_MAX    128
#define DUPLICATES_MAX 1000 /* longer lists are refused anyway */

/* Where we are, for messages: "tenants.acme.budgets[0]". */
struct place {
    const struct place *up;
    const struct yaml_node *node; /* with its key, or an element */
    size_t index;
    bool is_element;
};

struct walk {
    struct source *source;
};

static void walk_node(struct walk *w, const struct setting *row, const char *pattern, const struct place *at);

static void place_print(const struct place *at, struct buf *out)
{
    if (at->up == NULL)
        return;
    place_print(at->up, out);
    if (at->is_element)
        (void)buf_printf(out, "[%zu]", at->index);
    else
        (void)buf_printf(out, "%s%s", out->n == 0 ? "" : ".", SHOW(at->node->key));
}

/* The name of a place in a message: its last key, or "element 2 of `agents`". */
static const char *place_name(const struct place *at, char out[2 * SHOW_MAX])
{
    if (!at->is_element)
        (void)snprintf(out, 2 * SHOW_MAX, "`%s`", SHOW(at->node->key));
    else if (at->up != NULL && at->up->up != NULL)
        (void)snprintf(out, 2 * SHOW_MAX, "element %zu of `%s`", at->index + 1, SHOW(at->up->node->key));
    else
        (void)snprintf(out, 2 * SHOW_MAX, "element %zu", at->index + 1);
    return out;
}
#define NAME(at) place_name((at), (char[2 * SHOW_MAX]){0})

static bool is_null(const struct yaml_node *n)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    if (n->kind != YAML_SCALAR || n->is_quoted)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(nulls); i++)
        if (slice_eq_str(n->text, nulls[i]))
            return true;
    return false;
}

static const char *found(const struct yaml_node *n)
{
    if (is_null(n))
        return "nothing";
    return n->kind == YAML_MAP ? "a map" : n->kind == YAML_LIST ? "a list" : "text";
}

static void complain_kind(struct walk *w, const struct setting *row, const struct place *at)
{
    const char *sample = row->type == SETTING_BOOL ? NULL : setting_type_sample(row->type);
    char such[64] = "";
    if (sample != NULL)
        (void)snprintf(such, sizeof(such), " such as `%s`", sample);
    source_complain(w->source, at->node, NULL, "%s: found %s, expected %s%s", NAME(at), found(at->node),
                    setting_type_name(row->type), such);
}

/* A row of the map `pattern` by the last part of its path; NULL when there is none. */
static const struct setting *row_of(const char *pattern, struct slice key, char path[PATTERN_MAX])
{
    if (slice_find(key, '.') != SIZE_MAX || slice_find(key, '[') != SIZE_MAX || slice_eq_str(key, "*") ||
        key.n > 40)
        return NULL;
    (void)snprintf(path, PATTERN_MAX, "%s%s%.*s", pattern, *pattern == '\0' ? "" : ".", SL_ARG(key));
    return setting_find(path);
}

/* Is the row directly below the map `pattern`? Then its own name. */
static const char *name_below(const char *pattern, const struct setting *row)
{
    size_t n = strlen(pattern);
    if (n > 0 && (strncmp(row->path, pattern, n) != 0 || row->path[n] != '.'))
        return NULL;
    const char *name = n == 0 ? row->path : row->path + n + 1;
    return strpbrk(name, ".*[") == NULL ? name : NULL;
}

/* The key exists elsewhere in the same section: "it belongs in `idle`". */
static bool hint_elsewhere(const char *pattern, struct slice key, char out[SHOW_MAX + 32])
{
    size_t n, top = strcspn(pattern, ".[");
    const struct setting *rows = settings(&n);
    for (size_t i = 0; i < n; i++) {
        const char *last = strrchr(rows[i].path, '.');
        if (last == NULL || !slice_eq_str(key, last + 1) || (rows[i].flags & SETTING_UNSUPPORTED))
            continue;
        if (*pattern != '\0' && strncmp(rows[i].path, pattern, top + 1) != 0)
            continue;
        (void)snprintf(out, SHOW_MAX + 32, "it belongs in `%.*s`", (int)(last - rows[i].path), rows[i].path);
        return true;
    }
    return false;
}

static void complain_unknown(struct walk *w, const char *pattern, const struct place *at)
{
    size_t n;
    const struct setting *rows = settings(&n);
    struct hint h;
    hint_init(&h, at->node->key);
    struct buf known = BUF_INIT(400);
    (void)buf_str(&known, "known here: ");
    bool is_first = true;
    for (size_t i = 0; i < n; i++) {
        const char *name = name_below(pattern, &rows[i]);
        if (name == NULL || (rows[i].flags & SETTING_UNSUPPORTED))
            continue;
        hint_offer(&h, slice_str(name));
        (void)buf_printf(&known, "%s`%s`", is_first ? "" : ", ", name);
        is_first = false;
    }
    char elsewhere[SHOW_MAX + 32];
    const char *hint = HINT(&h);
    if (hint == NULL && hint_elsewhere(pattern, at->node->key, elsewhere))
        hint = elsewhere;
    if (hint == NULL)
        hint = buf_cstr(&known);
    source_complain_key(w->source, at->node, hint, "unknown key `%s`", SHOW(at->node->key));
    buf_fini(&known);
}

/* An entry whose `kind` (or the like) this version does not serve: one problem, not one for each of its other
 * keys. */
static bool refuse_kind(struct walk *w, const char *pattern, const struct yaml_node *map)
{
    char path[PATTERN_MAX];
    const struct setting *row = row_of(pattern, SL("kind"), path);
    const struct yaml_node *kind = yaml_get(map, "kind");
    if (row == NULL || kind == NULL || kind->kind != YAML_SCALAR || !choices_have(row->later, kind->text))
        return false;
    source_complain(w->source, kind, NULL, "`kind: %s` is not supported by this version", SHOW(kind->text));
    return true;
}

static void complain_missing(struct walk *w, const struct setting *row, const char *name,
                             const struct place *at)
{
    struct buf where = BUF_INIT(400);
    char in[420] = "", list[CHOICES_MAX];
    place_print(at, &where);
    if (where.n > 0)
        (void)snprintf(in, sizeof(in), " in `%s`", buf_cstr(&where));
    buf_fini(&where);
    if ((row->flags & SETTING_ONE_OK) != 0) { /* one will do, so that is what to write */
        char element[PATTERN_MAX];
        (void)snprintf(element, sizeof(element), "%s[]", row->path);
        row = setting_find(element);
    }
    const char *sample = setting_type_sample(row->type);
    if (row->type == SETTING_CHOICE)
        source_complain(w->source, at->node, NULL, "`%s` is missing%s: expected %s", name, in,
                        choices_text(row, list));
    else if (sample != NULL)
        source_complain(w->source, at->node, NULL, "`%s` is missing%s: expected %s such as `%s`", name, in,
                        setting_type_name(row->type), sample);
    else
        source_complain(w->source, at->node, NULL, "`%s` is missing%s: expected %s", name, in,
                        setting_type_name(row->type));
}

static void check_required(struct walk *w, const char *pattern, const struct place *at)
{
    size_t n;
    const struct setting *rows = settings(&n);
    for (size_t i = 0; i < n; i++) {
        const char *name = (rows[i].flags & SETTING_REQUIRED) ? name_below(pattern, &rows[i]) : NULL;
        if (name != NULL && yaml_get(at->node, name) == NULL)
            complain_missing(w, &rows[i], name, at);
    }
}

static void walk_map(struct walk *w, const char *pattern, const struct place *at)
{
    if (refuse_kind(w, pattern, at->node))
        return;
    YAML_FOREACH (n, at->node) {
        struct place here = {at, n, 0, false};
        char path[PATTERN_MAX];
        const struct setting *row = row_of(pattern, n->key, path);
        if (row == NULL)
            complain_unknown(w, pattern, &here);
        else if (row->flags & SETTING_UNSUPPORTED)
            source_complain_key(w->source, n, NULL, "`%s` is not supported by this version", SHOW(n->key));
        else
            walk_node(w, row, path, &here);
    }
    check_required(w, pattern, at);
}

static bool check_count(struct walk *w, const struct setting *row, const struct place *at)
{
    if (at->node->count == 0 && (row->flags & SETTING_NONEMPTY)) {
        source_complain(w->source, at->node, NULL, "%s is empty: expected at least one entry", NAME(at));
        return false;
    }
    if (row->max != 0 && at->node->count > row->max) {
        source_complain(w->source, at->node, NULL, "%s has %zu entries: expected at most %llu", NAME(at),
                        at->node->count, (unsigned long long)row->max);
        return false;
    }
    return true;
}

static void walk_table(struct walk *w, const struct setting *row, const char *pattern, const struct place *at)
{
    if (!check_count(w, row, at))
        return;
    char path[PATTERN_MAX];
    (void)snprintf(path, sizeof(path), "%s.*", pattern);
    const struct setting *entry = setting_find(path);
    must(entry != NULL);
    static const struct setting name = {.type = SETTING_NAME};
    YAML_FOREACH (n, at->node) {
        struct place here = {at, n, 0, false};
        struct err err = {0};
        const char *refused = entry->type == SETTING_ENV ? env_name_refused(n->key) : NULL;
        if (refused != NULL)
            source_complain_key(w->source, n, NULL, "`%s`: %s", SHOW(n->key), refused);
        else if (entry->type != SETTING_ENV && value_check(&name, n->key, &err) != 0)
            source_complain_key(w->source, n, NULL, "`%s`: %s", SHOW(n->key), err.msg);
        walk_node(w, entry, path, &here);
    }
}

static void check_twice(struct walk *w, const struct place *at)
{
    if (at->node->count > DUPLICATES_MAX)
        return;
    YAML_FOREACH (n, at->node) {
        if (n->kind != YAML_SCALAR)
            continue;
        for (const struct yaml_node *before = at->node->first; before != n; before = before->next)
            if (before->kind == YAML_SCALAR && slice_eq(before->text, n->text)) {
                source_complain(w->source, n, NULL, "`%s` stands twice in %s", SHOW(n->text), NAME(at));
                break;
            }
    }
}

/* An element that is a map where its row's type is a scalar: the rows below it say what it may hold
 * (`listen[]`). */
static void walk_element(struct walk *w, const struct setting *row, const char *pattern,
                         const struct place *at)
{
    if (row->type == SETTING_LISTEN && at->node->kind == YAML_MAP)
        walk_map(w, pattern, at);
    else
        walk_node(w, row, pattern, at);
}

static void walk_list(struct walk *w, const struct setting *row, const char *pattern, const struct place *at)
{
    char path[PATTERN_MAX];
    (void)snprintf(path, sizeof(path), "%s[]", pattern);
    const struct setting *element = setting_find(path);
    must(element != NULL);
    if (at->node->kind != YAML_LIST) {
        walk_element(w, element, path, at);
        return;
    }
    if (!check_count(w, row, at))
        return;
    size_t i = 0;
    YAML_FOREACH (n, at->node) {
        struct place here = {at, n, i++, true};
        walk_element(w, element, path, &here);
    }
    if (element->type != SETTING_LISTEN) /* their reader compares resolved addresses */
        check_twice(w, at);
}

static void check_scalar(struct walk *w, const struct setting *row, const struct place *at)
{
    const struct yaml_node *n = at->node;
    struct err err = {0};
    if (row->type == SETTING_CHOICE && choices_have(row->later, n->text)) {
        source_complain(w->source, n, NULL, "%s: `%s` is not supported by this version", NAME(at),
                        SHOW(n->text));
        return;
    }
    if (value_check(row, n->text, &err) == 0)
        return;
    bool is_hidden = (row->flags & SETTING_SECRET) || row->type == SETTING_ENV ||
                     row->type == SETTING_STORE || slice_may_be_secret(n->text);
    if (is_hidden)
        source_complain(w->source, n, NULL, "%s: %s", NAME(at), err.msg);
    else
        source_complain(w->source, n, NULL, "%s is `%s`: %s", NAME(at), SHOW(n->text), err.msg);
}

static void walk_node(struct walk *w, const struct setting *row, const char *pattern, const struct place *at)
{
    const struct yaml_node *n = at->node;
    if (n->is_bad)
        return;
    switch (row->type) {
    case SETTING_MAP:
        if (n->kind == YAML_MAP)
            walk_map(w, pattern, at);
        else
            complain_kind(w, row, at);
        break;
    case SETTING_TABLE:
        if (n->kind == YAML_MAP)
            walk_table(w, row, pattern, at);
        else
            complain_kind(w, row, at);
        break;
    case SETTING_LIST:
        if (n->kind == YAML_LIST || ((row->flags & SETTING_ONE_OK) && !is_null(n)))
            walk_list(w, row, pattern, at);
        else
            complain_kind(w, row, at);
        break;
    default:
        /* An empty value of a variable is a value. */
        if (n->kind != YAML_SCALAR || (is_null(n) && (row->type != SETTING_ENV || n->text.n != 0)))
            complain_kind(w, row, at);
        else
            check_scalar(w, row, at);
    }
}

void schema_check(struct source *s, const struct yaml_node *root)
{
    struct walk w = {s};
    struct place at = {NULL, root, 0, false};
    if (root->kind != YAML_MAP) {
        source_complain(s, root, NULL,
                        "found %s, expected a map of settings such as `listen: 127.0.0.1:8700`", found(root));
        return;
    }
    walk_map(&w, "", &at);
}
