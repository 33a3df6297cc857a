/* json_scan: the strict reading that decides whether a text is JSON, before cJSON builds the tree.
 * Only json.c needs this. */
#ifndef REEVE_BASE_CORE_JSON_SCAN_H
#define REEVE_BASE_CORE_JSON_SCAN_H

#include "base/core/err.h"
#include "base/core/json.h"
#include "base/core/slice.h"

/* cJSON's own CJSON_NESTING_LIMIT, and the length that its ints can hold. */
#define JSON_SCAN_DEPTH_CAP 1000
#define JSON_SCAN_BYTES_CAP ((size_t)INT32_MAX)

/* Where things begin in the text, in document order. */
struct json_places {
    uint32_t *at; /* `first` or allocated */
    size_t n, cap;
    uint32_t first[64];
};

struct json_scan {
    struct json_limits limits; /* none is 0 */
    struct slice text;
    char *copy; /* of text, NUL-terminated, every number replaced by "0" and blanks; or NULL */
    struct json_places numbers, keys;

    size_t at, nodes;
    unsigned depth;
    const char *what; /* is wrong at `at` */
    int code;
    char open[JSON_SCAN_DEPTH_CAP]; /* '{' or '[' */
};

/* 0; E_SYNTAX or E_TOO_LARGE with the place in `err`. To be ended with json_scan_fini either way. */
int json_scan(struct json_scan *s, struct slice text, const struct json_limits *limits, struct err *err);
void json_scan_fini(struct json_scan *s);

size_t json_number_bytes(struct slice at); /* of the well-formed number at the front; 0 when there is none */
/* Sets "line L column C: what" for a byte of the text; returns `code`. */
int json_scan_error(struct slice text, size_t at, int code, const char *what, struct err *err);

/* A key to show to a person: at most 64 bytes, no control characters. */
#define JSON_SHOWN_MAX 72
void json_key_show(struct slice key, char out[JSON_SHOWN_MAX]);

#endif
