/* litellm_keys: LLM keys by LiteLLM's management API (1.106: /key/generate, /key/block, /key/unblock,
 * /key/delete, /key/info), with the gateway's `admin_key`. Every act may be repeated: the text of a key is
 * ours. */
#ifndef REEVE_BILLING_LITELLM_KEYS_H
#define REEVE_BILLING_LITELLM_KEYS_H

#include "base/core/err.h"
#include "base/core/slice.h"
#include "base/net/loop.h"

struct config_gateway;
struct litellm_keys;

/* 0 or why libcurl cannot be had. */
int litellm_keys_new(struct loop *l, struct litellm_keys **ret, struct err *err);
/* What is under way ends E_CANCELLED, and so does what is asked until `closed`, which frees it. */
void litellm_keys_close(struct litellm_keys *k, void (*closed)(void *data), void *data);

enum litellm_key_act { LITELLM_KEY_MAKE, LITELLM_KEY_BLOCK, LITELLM_KEY_UNBLOCK, LITELLM_KEY_REVOKE };
struct litellm_key {
    const char *hash; /* lower-case hex SHA-256 of the text: LiteLLM's `token` */
    /* LITELLM_KEY_MAKE only; shown there as `key_alias` and `metadata` */
    const char *text;
    struct slice tenant, namespace, workspace, workspace_id, user;
    uint64_t generation;
};
/* `done` fires once, in a later turn, after at most about two minutes. 0: the gateway has confirmed that it
 * is so. E_NOT_FOUND: to unblock, and it does not know the key. Else E_TIMEOUT, E_UPSTREAM, E_UNAVAILABLE,
 * E_CANCELLED, E_INVALID: not confirmed, the outcome may be unknown; err begins with the path asked, without
 * '/', and holds no key. */
typedef void (*litellm_key_done_cb)(int code, const struct err *err, void *data);
/* `name`: the gateway's, whose `config` may be NULL (not configured any more) or without `admin_key`; both
 * are E_UNAVAILABLE. Copies what it is given. */
void litellm_keys_act(struct litellm_keys *k, struct slice name, const struct config_gateway *config,
                      enum litellm_key_act act, const struct litellm_key *key, litellm_key_done_cb done,
                      void *data);

#endif
