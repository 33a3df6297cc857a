/* yaml: libyaml's events as a tree that remembers line and column.
 *
 * Stricter than YAML: one document; aliases, anchors, tags, merge keys and duplicate keys are errors; keys
 * are plain strings. Every scalar stays text: what it means is the reader's business. */
#ifndef REEVE_CONFIG_YAML_H
#define REEVE_CONFIG_YAML_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "base/core/slice.h"

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

struct yaml_node {
    enum yaml_kind kind;
    unsigned line, column; /* from 1 */
    struct slice key;      /* in a map: the key's text */
    unsigned key_line, key_column;
    struct slice text; /* scalar */
    bool is_quoted;    /* scalar in quotes: never null */
    bool is_bad;       /* stands for something refused (an alias): reported already, look no further */
    size_t count;      /* children */
    struct yaml_node *first, *next;
};
#define YAML_FOREACH(it, parent) for (const struct yaml_node *it = (parent)->first; it != NULL; it = it->next)

/* All problems of a file, in order of position. */
struct config_problem {
    char *file; /* as given by the user */
    unsigned line, column;
    char *text; /* what was found, what would be right */
    char *hint; /* "did you mean `listen`?"; NULL when none */
};
struct config_problems {
    struct arena arena;
    struct config_problem *items;
    size_t n, cap;
    size_t dropped; /* beyond CONFIG_PROBLEMS_MAX */
};
#define CONFIG_PROBLEMS_MAX 200
void config_problems_init(struct config_problems *p);
void config_problems_fini(struct config_problems *p);
void config_problem_add(struct config_problems *p, const char *file, unsigned line, unsigned column,
                        const char *hint, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* One line each, sorted: "reeve.yaml:12:3: unknown key `lisen`; did you mean `listen`?" */
void config_problems_print(const struct config_problems *p, struct buf *out);

/* The tree lives in the arena. 0 or E_INVALID with the problems added; *ret is then NULL, or a whole tree in
 * which more mistakes can be looked for (but which must not be used). `file` names it in problems. */
int yaml_parse(struct arena *a, const char *file, struct slice text, struct config_problems *problems,
               struct yaml_node **ret);
const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key); /* NULL when absent */

#endif
