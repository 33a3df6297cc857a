/* Errors: one list for the whole program.
 *
 * A fallible function returns 0 or a negative E_* code. Where a person will need the story it also takes a
 * `struct err *err` (may be NULL) and leaves the code and one sentence there; each layer on the way up adds a
 * short prefix, outermost first: "workspace alice/dev: provider local: create: no such file". */
#ifndef REEVE_BASE_CORE_ERR_H
#define REEVE_BASE_CORE_ERR_H

#include <stddef.h>

/* name, HTTP status, stable API string (`urn:reeve:error:<string>`), title */
#define ERR_LIST(X)                                                                                          \
    X(INVALID, 400, "invalid_request", "Invalid request")                                                    \
    X(SYNTAX, 400, "syntax_error", "Malformed input")                                                        \
    X(UNAUTHENTICATED, 401, "unauthenticated", "Authentication required")                                    \
    X(BUDGET, 402, "budget_exceeded", "Budget exceeded")                                                     \
    X(FORBIDDEN, 403, "forbidden", "Not allowed")                                                            \
    X(NOT_FOUND, 404, "not_found", "Not found")                                                              \
    X(METHOD, 405, "method_not_allowed", "Method not allowed")                                               \
    X(CONFLICT, 409, "conflict", "Conflict")                                                                 \
    X(EXISTS, 409, "already_exists", "Already exists")                                                       \
    X(BOUND, 409, "limit_reached", "Limit reached")                                                          \
    X(GONE, 410, "gone", "Gone")                                                                             \
    X(TOO_LARGE, 413, "too_large", "Too large")                                                              \
    X(MEDIA_TYPE, 415, "unsupported_media_type", "Unsupported media type")                                   \
    X(EXPECTATION, 417, "expectation_failed", "Expectation failed")                                          \
    X(QUOTA, 429, "quota_exceeded", "Quota exceeded")                                                        \
    X(RATE, 429, "rate_limited", "Too many requests")                                                        \
    X(HEADERS_TOO_LARGE, 431, "headers_too_large", "Request header fields too large")                        \
    X(INTERNAL, 500, "internal", "Internal error")                                                           \
    X(NOT_IMPLEMENTED, 501, "unsupported", "Not supported here")                                             \
    X(UPSTREAM, 502, "upstream_error", "Upstream error")                                                     \
    X(UNAVAILABLE, 503, "unavailable", "Unavailable")                                                        \
    X(CAPACITY, 503, "no_capacity", "No capacity")                                                           \
    X(DRAINING, 503, "draining", "Shutting down")                                                            \
    X(STORE, 503, "store_unavailable", "Store unavailable")                                                  \
    X(NO_SPACE, 503, "no_space", "No space left")                                                            \
    X(TIMEOUT, 504, "timeout", "Timed out")                                                                  \
    X(HTTP_VERSION, 505, "http_version", "HTTP version not supported")                                       \
    X(OVERFLOW, 422, "overflow", "Number out of range")                                                      \
    X(AUTH, 502, "provider_auth", "Provider refused the credentials")                                        \
    X(UNKNOWN_OUTCOME, 502, "unknown_outcome", "Outcome unknown")                                            \
    X(BUSY, 409, "busy", "Busy with another change")                                                         \
    X(CANCELLED, 499, "cancelled", "Cancelled")                                                              \
    X(AGAIN, 503, "again", "Would block")                                                                    \
    X(EOF, 502, "eof", "Connection ended early")                                                             \
    X(IO, 500, "io_error", "Input/output error")

enum {
    ERR_INDEX_OK,
#define X(name, http, api, title) ERR_INDEX_##name,
    ERR_LIST(X)
#undef X
        ERR_INDEX_END
};

enum err_code {
    E_OK = 0,
#define X(name, http, api, title) E_##name = -ERR_INDEX_##name,
    ERR_LIST(X)
#undef X
};

/* The longest message kept; what is longer is cut, visibly ("…"). */
#define ERR_MSG_MAX 1024

struct err {
    int code;              /* E_* or 0 */
    char msg[ERR_MSG_MAX]; /* UTF-8, NUL-terminated; "" when no error */
};

/* Sets code and message; returns `code`, so that `return err_set(err, E_X, ...)` works. `err` may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before the message; returns err->code (or E_INTERNAL when err is NULL or unset). */
int err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void err_clear(struct err *err);

int err_http_status(int code);   /* 500 for what is not in the list */
const char *err_name(int code);  /* stable API string: "budget_exceeded"; "ok" for 0 */
const char *err_title(int code); /* "Budget exceeded" */
int err_from_errno(int errnum);  /* errno (positive) to the nearest E_* */
int err_from_uv(int uverr);      /* libuv status (negative) to the nearest E_* */

#endif
