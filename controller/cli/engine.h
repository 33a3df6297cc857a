/* engine: a command's calls to a container engine over its unix socket (Docker Engine API, 1.41 and newer).
 * Commands may block, so this is libcurl's plain interface; the daemon's own provider is elsewhere. */
#ifndef REEVE_CONTROLLER_CLI_ENGINE_H
#define REEVE_CONTROLLER_CLI_ENGINE_H

#include "base/core/err.h"
#include "base/core/json.h"
#include "controller/cli/tar.h"

struct engine {
    char *socket; /* path; owned */
    char version[16];
    char os[32], architecture[32]; /* of what it runs: "linux", "amd64" */
    void *curl;
};

struct engine_answer {
    int status;
    struct buf body;
    struct json *json; /* NULL when the body is not one JSON text */
};

/* What is sent; at most one of them. */
struct engine_body {
    struct slice json; /* SLICE_NULL: none */
    struct tar *tar;
    const char *file; /* a file's path, as it is */
};

/* `endpoint`: "unix:///path". Finds out whether the engine is there and which version to speak. 0; E_INVALID
 * (not such a text), E_UNAVAILABLE (nobody listens, not permitted), E_NOT_IMPLEMENTED (too old). */
int engine_open(struct engine *e, const char *endpoint, struct err *err);
void engine_close(struct engine *e);
/* 0 for an answer below 400; else the engine's own words with E_NOT_FOUND, E_CONFLICT, E_INVALID, E_NO_SPACE
 * (its disk is full), E_UPSTREAM; E_UNAVAILABLE and E_TIMEOUT when there was none. After 0 the caller calls
 * engine_answer_fini. */
int engine_call(struct engine *e, const char *method, const char *path, const struct engine_body *body,
                struct engine_answer *ret, struct err *err);
void engine_answer_fini(struct engine_answer *a);

#endif
