/* owner: whose LLM key is it? Records in partition `fleet`, and a bounded cache of those already asked for.
 */
#ifndef REEVE_BILLING_OWNER_H
#define REEVE_BILLING_OWNER_H

#include "base/core/crypto.h"
#include "base/core/hash.h"
#include "billing/billing.h"

#define OWNERS_MAX 100000

/* Attribution of a key never changes (a workspace keeps its names and its user), so it can be kept. Whether
 * the key was revoked is not: a late report of a revoked key is still its tenant's. */
struct owner {
    unsigned refs;
    char key_hash[SHA256_HEX_SIZE];
    struct slice tenant, namespace, workspace, workspace_id, user, gateway; /* in `texts` */
    char *texts;       /* owned: one block for all of them */
    bool had_suspense; /* events of this key may sit in the fleet's suspense */
    bool is_billed;    /* its tenant's partition has the record of its workspace's name */
    UT_hash_handle hh;
};

struct owner_cache {
    struct owner *rows; /* oldest first */
};

struct owner *owner_new(const char *key_hash, const struct billing_key_owner *k); /* one reference; copied */
struct owner *owner_ref(struct owner *o);
void owner_unref(struct owner *o);                                           /* NULL is fine */
struct owner *owner_cache_find(struct owner_cache *c, const char *key_hash); /* no reference taken */
/* Reads the record of a key and keeps it. NULL when the record is damaged. No reference taken. */
struct owner *owner_cache_add(struct owner_cache *c, const char *key_hash, struct slice record,
                              bool had_suspense);
void owner_cache_fini(struct owner_cache *c);

/* A mark in `fleet` that events of this key went to suspense there, so that nobody has to look when none did.
 */
void owner_mark_name(const char *key_hash, char out[128]); /* "suspended-key/<hex>" */

/* billed/<workspace id> in the tenant's partition: what a workspace is called and whose it is, once something
 * of it is counted, for questions about usage. It outlives the workspace. */
#define BILLED_PREFIX "billed/"
struct store_op billed_op(struct arena *a, struct slice namespace, struct slice workspace,
                          struct slice workspace_id, struct slice user);

#endif
