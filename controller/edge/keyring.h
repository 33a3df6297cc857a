/* keyring: service keys made over the API. Stored as hashes in their tenant's partition, held in memory by
 * hash. */
#ifndef REEVE_CONTROLLER_EDGE_KEYRING_H
#define REEVE_CONTROLLER_EDGE_KEYRING_H

#include "base/core/crypto.h"
#include "base/core/hash.h"
#include "base/core/id.h"
#include "base/core/json.h"
#include "base/store/store.h"
#include "config/tenancy.h"

#define KEYRING_NAMESPACES_MAX 32
#define KEYRING_KEYS_MAX       10000 /* of one tenant */

struct keyring_key {
    char id[TOKEN_ID_MAX];
    char tenant_id[16];
    char *name;
    enum role role;
    struct slice namespaces[KEYRING_NAMESPACES_MAX]; /* into `text` of its own */
    size_t n_namespaces;
    unsigned char hash[SHA256_BYTES];
    int64_t created_at_ms;
    UT_hash_handle by_hash;
};

struct keyring;
typedef void (*keyring_done_cb)(int code, const struct err *err, void *data);

struct keyring *keyring_new(struct loop *l, struct store *s);
void keyring_free(struct keyring *k);
/* Loads the keys of every tenant. Again after a reload with new tenants: known ones are kept. */
void keyring_load(struct keyring *k, const struct tenancy *t, keyring_done_cb done, void *data);
const struct keyring_key *keyring_find(const struct keyring *k, const unsigned char hash[SHA256_BYTES]);
/* Durable before `done`; the text is made here and written to text_out before the call returns; its bearer
 * can use it only after `done` said 0. */
void keyring_create(struct keyring *k, const struct config_tenant *t, struct slice name, enum role role,
                    const struct slice *namespaces, size_t n_namespaces, char text_out[TOKEN_TEXT_MAX],
                    char id_out[TOKEN_ID_MAX], keyring_done_cb done, void *data);
/* Takes effect in memory at once when durable. E_NOT_FOUND. */
void keyring_revoke(struct keyring *k, const struct config_tenant *t, struct slice id, keyring_done_cb done,
                    void *data);
/* The tenant's keys in order of id; returns how many were written. */
size_t keyring_list(const struct keyring *k, const struct config_tenant *t, const struct keyring_key **out,
                    size_t max);
void keyring_key_json(const struct keyring_key *key, struct jsonw *w);

#endif
