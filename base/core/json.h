/* json: a strict façade over cJSON, and an append-only writer.
 *
 * The reader refuses everything that is not JSON (RFC 8259), and more: invalid UTF-8, U+0000 in strings,
 * duplicate keys, nesting deeper than the limit, texts longer than the limit. Numbers keep their text, so
 * 64-bit integers and decimals are exact; a double is never offered. */
#ifndef REEVE_BASE_CORE_JSON_H
#define REEVE_BASE_CORE_JSON_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "base/core/err.h"
#include "base/core/i128.h"
#include "base/core/slice.h"

struct json; /* one value of a parsed text; lives as long as the root */

struct json_limits {
    size_t bytes_max;   /* 0: 1 MiB; never above 2 GiB */
    unsigned depth_max; /* 0: 32; never above 1,000 */
    size_t nodes_max;   /* 0: 100,000 values */
};

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* 0; E_SYNTAX with "line L column C: what" or E_TOO_LARGE. `limits` may be NULL. The root is the caller's. */
int json_parse(struct slice text, const struct json_limits *limits, struct json **ret, struct err *err);
void json_free(struct json *root); /* NULL is fine */

/* All accessors accept NULL (as "absent"). */
enum json_type json_type(const struct json *j);                          /* JSON_NULL for NULL */
const char *json_type_name(const struct json *j);                        /* "string", "absent", ... */
const struct json *json_get(const struct json *object, const char *key); /* NULL when absent */
size_t json_count(const struct json *j);                                 /* members or elements */
const struct json *json_first(const struct json *j);                     /* first member or element */
const struct json *json_next(const struct json *j);                      /* its successor */
struct slice json_key(const struct json *member);
#define JSON_FOREACH(it, parent)                                                                             \
    for (const struct json *it = json_first(parent); it != NULL; it = json_next(it))

struct slice json_string(const struct json *j);      /* SLICE_NULL when not a string */
struct slice json_number_text(const struct json *j); /* as written; SLICE_NULL when not a number */
int json_i64(const struct json *j, int64_t *ret); /* an integer without '.', 'e'; 0, E_INVALID, E_OVERFLOW */
int json_u64(const struct json *j, uint64_t *ret);
bool json_is_true(const struct json *j);

/* Decoding by rows: every member must be named by a row, required ones must be there, types must fit.
 * The error names the field by its path: "`resources.cpus`: expected a string, found number". */
enum json_field_type { JF_STRING, JF_I64, JF_U64, JF_BOOL, JF_OBJECT, JF_ARRAY, JF_DECIMAL, JF_ANY };
struct json_field {
    const char *name;
    enum json_field_type type;
    bool is_required;
    size_t offset; /* where in *out: struct slice, int64_t, uint64_t, bool; const struct json * for JF_OBJECT,
                      JF_ARRAY, JF_ANY. JF_DECIMAL takes a number or a string and gives a struct slice of its
                      text. Absent: untouched */
};
/* `path` is "" for the root, else the prefix of error messages. At most 64 rows. An explicit null is a null,
 * not an absence: only JF_ANY takes it. 0 or E_INVALID; *out may then be half-written. */
int json_decode(const struct json *object, const char *path, const struct json_field *rows, size_t n,
                void *out, struct err *err);

/* Writer: puts commas by itself (none between values at the top, so that lines of JSON can share one).
 * Strings are escaped; invalid UTF-8 becomes U+FFFD. Errors are the buf's (is_full). */
#define JSONW_DEPTH_MAX 32
struct jsonw {
    struct buf *out;
    unsigned depth;
    bool has_item[JSONW_DEPTH_MAX];
    bool after_key;
};
void jsonw_init(struct jsonw *w, struct buf *out);
void jsonw_object(struct jsonw *w);
void jsonw_object_end(struct jsonw *w);
void jsonw_array(struct jsonw *w);
void jsonw_array_end(struct jsonw *w);
void jsonw_key(struct jsonw *w, const char *key);
void jsonw_key_slice(struct jsonw *w, struct slice key);
void jsonw_str(struct jsonw *w, const char *s);    /* NULL writes null */
void jsonw_slice(struct jsonw *w, struct slice s); /* SLICE_NULL writes null */
void jsonw_i64(struct jsonw *w, int64_t v);
void jsonw_u64(struct jsonw *w, uint64_t v);
void jsonw_bool(struct jsonw *w, bool v);
void jsonw_null(struct jsonw *w);
void jsonw_raw(struct jsonw *w, struct slice json);      /* already JSON */
void jsonw_value(struct jsonw *w, const struct json *j); /* a parsed value, numbers as written */
/* key and value in one call */
void jsonw_kstr(struct jsonw *w, const char *key, const char *s);
void jsonw_kslice(struct jsonw *w, const char *key, struct slice s);
void jsonw_ki64(struct jsonw *w, const char *key, int64_t v);
void jsonw_ku64(struct jsonw *w, const char *key, uint64_t v);
void jsonw_kbool(struct jsonw *w, const char *key, bool v);
void jsonw_ktime(struct jsonw *w, const char *key, int64_t wall_ms); /* RFC 3339; null when 0 */

#endif
