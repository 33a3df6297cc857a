/* llmkey: whose LLM key is it, and is it good for anything right now? What a gateway asks. */
#ifndef REEVE_CONTROLLER_EDGE_LLMKEY_H
#define REEVE_CONTROLLER_EDGE_LLMKEY_H

#include "controller/edge/request.h"

struct llmkey {
    bool is_known;                  /* it was made here, for this gateway */
    bool is_active;                 /* and its workspace is there and uses it */
    struct billing_key_owner owner; /* when it is known; in the arena of the request */
};

/* Looks a key up by its hash (64 hex digits, copied) for the gateway that asks. `done` fires in a later turn,
 * unless the request is gone by then; code is not 0 when the store could not tell. */
typedef void (*llmkey_cb)(struct request *rq, int code, const struct llmkey *key, const struct err *err,
                          void *data);
void llmkey_find(struct request *rq, const char *hash, llmkey_cb done, void *data);

#endif
