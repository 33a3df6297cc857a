/* docker_engine: calls to one Docker engine over its unix socket, in a version of the API that both speak.
 *
 * The version is asked for before the first call and again whenever docker_engine_reset says that the engine
 * may be another one. Calls wait meanwhile, within their own deadlines. */
#ifndef REEVE_PROVIDERS_DOCKER_ENGINE_H
#define REEVE_PROVIDERS_DOCKER_ENGINE_H

#include "base/core/arena.h"
#include "base/core/err.h"
#include "base/core/slice.h"
#include "base/net/loop.h"

struct docker_engine;
struct docker_call;

struct docker_request {
    const char *method;
    const char *target; /* "/containers/json?all=1": without the version */
    struct slice body;  /* JSON; empty: none */
    int64_t timeout_ms; /* of the whole call; 0: none, for streams */
    size_t answer_max;  /* of a whole body; 0: 4 MiB */
    /* A stream: each line of a 200's body as it comes (at most DOCKER_LINE_MAX bytes, else the call fails),
     * before that on_open. May cancel the call. NULL: the body is gathered. */
    void (*on_open)(void *data);
    void (*on_line)(struct slice line, void *data);
};
#define DOCKER_LINE_MAX 65536

struct docker_answer {
    int status;
    struct slice body; /* valid during the callback; of a 200's stream: empty */
};

/* Once, never before docker_call_start has returned, never after docker_call_cancel. code 0 for any status;
 * E_UNAVAILABLE (nothing was done), E_TIMEOUT (a look), E_UNKNOWN_OUTCOME, E_UPSTREAM (not understood). */
typedef void (*docker_done_cb)(int code, const struct docker_answer *a, const struct err *err, void *data);

struct docker_engine *docker_engine_new(struct loop *l, const char *socket_path);
/* All its calls have ended or are cancelled; `closed` fires in a later turn. */
void docker_engine_close(struct docker_engine *g, void (*closed)(void *data), void *data);
void docker_engine_reset(struct docker_engine *g);
/* Copies what it needs but the functions. The handle is valid until `done` fires. */
struct docker_call *docker_call_start(struct docker_engine *g, const struct docker_request *r,
                                      docker_done_cb done, void *data);
void docker_call_cancel(struct docker_call *c);

/* For a status that is no success: the code and the engine's words. E_NOT_FOUND (404), E_BUSY (409),
 * E_INVALID (400), E_AUTH (401, 403), E_NO_SPACE, E_GONE (this container's processes could not be made),
 * E_UPSTREAM (500 and what else). */
int docker_answer_error(const struct docker_answer *a, struct err *err);

#endif
