/* redis_route: calls to the right server, be it one Redis or a Redis Cluster. */
#ifndef REEVE_BASE_STORE_REDIS_ROUTE_H
#define REEVE_BASE_STORE_REDIS_ROUTE_H

#include "base/store/redis_link.h"

#define REDIS_NODES_MAX 64

struct redis_route;

/* `login` names the first server and stays until `closed`; the others take the same credentials. `on_state`
 * hears of all connections. */
struct redis_route *redis_route_new(struct loop *l, const struct redis_login *login, redis_state_cb on_state,
                                    void *data);
void redis_route_close(struct redis_route *r, void (*closed)(void *data), void *data);

/* As redis_link_call, to the server that has `key`, which is one of the arguments; follows redirections. The
 * arguments are not copied: they stay until `cb`. */
int redis_route_call(struct redis_route *r, struct slice key, const struct slice *argv, size_t argc,
                     bool is_safe, redis_reply_cb cb, void *data);
const char *redis_route_sha(const struct redis_route *r, enum redis_script s);

/* The hash slot of a key, by its tag. For tests. */
unsigned redis_slot(struct slice key);

#endif
