/* source: the file being read, as its readers see it: where it is, and where to report what is wrong. */
#ifndef REEVE_CONFIG_SOURCE_H
#define REEVE_CONFIG_SOURCE_H

#include "base/core/err.h"
#include "config/hint.h"
#include "config/yaml.h"

struct source {
    const char *file; /* as the user named it */
    struct slice dir; /* its folder, absolute, without '/' at the end (empty for the root folder) */
    struct config_problems *problems;
    size_t complaints;
};

/* A problem at the node (its value), or at its key. */
void source_complain(struct source *s, const struct yaml_node *at, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void source_complain_key(struct source *s, const struct yaml_node *at, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* What a message may quote: at most 60 bytes of it; a text that may be a credential (the forms of our keys,
 * of LLM keys, of URLs with a password) as "(not shown)". */
#define SHOW_MAX 80
const char *slice_show(struct slice s, char out[SHOW_MAX]);
#define SHOW(s) slice_show((s), (char[SHOW_MAX]){0})
bool slice_may_be_secret(struct slice s);

/* "did you mean `x`?", or NULL when nothing is near. */
const char *hint_text(const struct hint *h, char out[SHOW_MAX + 32]);
#define HINT(h) hint_text((h), (char[SHOW_MAX + 32]){0})

/* Relative to the file's folder, made absolute. */
struct slice source_path(const struct source *s, struct arena *a, struct slice path);
/* The whole of a regular file of at most `max` bytes. 0; or E_* with the reason alone ("No such file or
 * directory"). */
int source_read(const char *path, size_t max, struct buf *out, struct err *err);

#endif
