/* gateway_keys: what a gateway's own key API does for the scheduler. Implemented above it: the scheduler does
 * not know the dialects of gateways.
 *
 * The text of a key is made and sealed by Reeve first, so every act may be repeated: making a key that is
 * there already, or blocking, unblocking or revoking one twice, holds. */
#ifndef REEVE_SCHEDULER_GATEWAY_KEYS_H
#define REEVE_SCHEDULER_GATEWAY_KEYS_H

#include "base/core/err.h"
#include "base/core/slice.h"

enum gateway_key_act { GATEWAY_KEY_MAKE, GATEWAY_KEY_BLOCK, GATEWAY_KEY_UNBLOCK, GATEWAY_KEY_REVOKE };

struct gateway_key {
    struct slice gateway; /* its configured name */
    const char *hash;     /* lower-case hex SHA-256 of the text */
    /* for GATEWAY_KEY_MAKE only */
    const char *text;
    struct slice tenant, namespace, workspace, workspace_id, user;
    uint64_t generation;
};

/* 0: the gateway has confirmed it. E_NOT_FOUND: it does not know the key (to unblock; a key that is not there
 * is blocked and revoked). Anything else: not confirmed, the outcome may be unknown; `err` begins with what
 * was asked ("key/generate: 401 …") and never holds a key. */
typedef void (*gateway_key_done_cb)(int code, const struct err *err, void *data);

struct gateway_keys {
    /* The gateway of this tenant's model calls now; empty: none. *ret_is_managed: it has a key API that we
     * may use; else it knows keys by other means, and there is nothing to do. */
    struct slice (*of_tenant)(void *data, struct slice tenant, bool *ret_is_managed);
    /* Texts are copied before it returns; `done` fires once, in a later turn, within a bounded time. */
    void (*act)(void *data, enum gateway_key_act act, const struct gateway_key *key, gateway_key_done_cb done,
                void *done_data);
    void *data;
};

#endif
