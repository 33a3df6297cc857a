/* redis_link: one connection to a Redis server that comes back: pipelined calls with deadlines, each answered
 * once. */
#ifndef REEVE_BASE_STORE_REDIS_LINK_H
#define REEVE_BASE_STORE_REDIS_LINK_H

#include "base/core/err.h"
#include "base/net/stream.h"
#include "base/store/redis_script.h"

#define REDIS_CALLS_MAX      65536u       /* waiting or in flight on one link */
#define REDIS_CALL_BYTES_MAX (256u << 20) /* of commands kept for them */
#define REDIS_TIMEOUT_MS     10000        /* for the connection to come, and again for the answer */

struct redisReply;
struct redis_link;

struct redis_login {
    struct endpoint to;
    char *user;     /* may be NULL */
    char *password; /* may be NULL */
    unsigned db;
};

/* The outcome of each attempt to connect: 0 when the server is there and its settings are right; else why not
 * (E_INVALID: a setting is wrong; E_AUTH; E_AGAIN: it is still loading its data; E_UNAVAILABLE and others),
 * and the link tries again after a while. */
typedef void (*redis_state_cb)(int code, const struct err *err, void *data);

/* `login` is the caller's and stays until `closed`. */
struct redis_link *redis_link_new(struct loop *l, const struct redis_login *login, redis_state_cb on_state,
                                  void *data);
/* Calls that are left fail, in a later turn; then `closed`. */
void redis_link_close(struct redis_link *l, void (*closed)(void *data), void *data);

/* code 0: a reply (an error of Redis is one too), valid during the call. E_STORE: sent, and the connection
 * was lost: outcome unknown. E_UNAVAILABLE: never sent. E_CANCELLED: the link was closed. */
typedef void (*redis_reply_cb)(int code, const struct redisReply *reply, const struct err *err, void *data);

/* Copies the arguments. is_safe: may be sent a second time when the connection is lost. 0, or E_UNAVAILABLE
 * when too much is waiting: then `cb` never fires. */
int redis_link_call(struct redis_link *l, const struct slice *argv, size_t argc, bool is_safe,
                    redis_reply_cb cb, void *data);
/* The server's name for a script; "" before the first connection was ready. */
const char *redis_link_sha(const struct redis_link *l, enum redis_script s);

#endif
