/* owner: whose LLM key is it? See owner.h; the record's functions are declared in billing.h.
 *
 * Happy path: the scheduler commits billing_key_op before a key leaves Reeve; the first event of that key
 * reads the record, the next ones find it in the cache. Failure paths: no record means an unknown key (never
 * cached: it may come); a damaged record counts as unknown too, and its events wait in suspense. */
#include "billing/owner.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"
#include "billing/event.h"

void billing_key_name(const char *hash_hex, char out[128])
{
    (void)snprintf(out, 128, "llmkey/%.64s", hash_hex);
}

void owner_mark_name(const char *key_hash, char out[128])
{
    (void)snprintf(out, 128, "suspended-key/%.64s", key_hash);
}

struct store_op billing_key_op(struct arena *a, const char *hash_hex, const struct billing_key_owner *owner)
{
    char name[128];
    billing_key_name(hash_hex, name);
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kslice(&w, "tenant", owner->tenant);
    jsonw_kslice(&w, "namespace", owner->namespace);
    jsonw_kslice(&w, "workspace", owner->workspace);
    jsonw_kslice(&w, "workspace_id", owner->workspace_id);
    jsonw_kslice(&w, "user", owner->user.p != NULL ? owner->user : SLICE_EMPTY);
    jsonw_kslice(&w, "gateway", owner->gateway.p != NULL ? owner->gateway : SLICE_EMPTY);
    jsonw_kbool(&w, "revoked", owner->is_revoked);
    jsonw_ki64(&w, "made_at_ms", owner->made_at_ms);
    jsonw_object_end(&w);
    must(!text.is_full); /* names are bounded far below a record's size */
    struct store_op op = store_put(slice_str(arena_strdup(a, name)), arena_slice(a, buf_view(&text)));
    buf_fini(&text);
    return op;
}

struct store_op billed_op(struct arena *a, struct slice namespace, struct slice workspace,
                          struct slice workspace_id, struct slice user)
{
    struct buf key = BUF_INIT(STORE_KEY_MAX), text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    (void)buf_str(&key, BILLED_PREFIX);
    (void)key_escape(&key, workspace_id);
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kslice(&w, "namespace", namespace);
    jsonw_kslice(&w, "workspace", workspace);
    jsonw_kslice(&w, "user", user.p != NULL ? user : SLICE_EMPTY);
    jsonw_object_end(&w);
    must(!key.is_full && !text.is_full); /* names are bounded */
    struct store_op op = store_put(arena_slice(a, buf_view(&key)), arena_slice(a, buf_view(&text)));
    buf_fini(&key);
    buf_fini(&text);
    return op;
}

struct key_record {
    struct slice tenant, namespace, workspace, workspace_id, user, gateway;
    bool revoked;
    int64_t made_at_ms;
};

static const struct json_field key_rows[] = {
    {"tenant", JF_STRING, true, offsetof(struct key_record, tenant)},
    {"namespace", JF_STRING, true, offsetof(struct key_record, namespace)},
    {"workspace", JF_STRING, true, offsetof(struct key_record, workspace)},
    {"workspace_id", JF_STRING, true, offsetof(struct key_record, workspace_id)},
    {"user", JF_STRING, true, offsetof(struct key_record, user)},
    {"gateway", JF_STRING, true, offsetof(struct key_record, gateway)},
    {"revoked", JF_BOOL, true, offsetof(struct key_record, revoked)},
    {"made_at_ms", JF_I64, true, offsetof(struct key_record, made_at_ms)},
};

int billing_key_parse(struct arena *a, struct slice record, struct billing_key_owner *ret)
{
    struct json *root = NULL;
    struct key_record r = {0};
    if (json_parse(record, NULL, &root, NULL) != 0)
        return E_INVALID;
    int rc = json_type(root) == JSON_OBJECT ? json_decode(root, "", key_rows, ARRAY_LEN(key_rows), &r, NULL)
                                            : E_INVALID;
    if (rc == 0)
        *ret = (struct billing_key_owner){.tenant = arena_slice(a, r.tenant),
                                          .namespace = arena_slice(a, r.namespace),
                                          .workspace = arena_slice(a, r.workspace),
                                          .workspace_id = arena_slice(a, r.workspace_id),
                                          .user = arena_slice(a, r.user),
                                          .gateway = arena_slice(a, r.gateway),
                                          .is_revoked = r.revoked,
                                          .made_at_ms = r.made_at_ms};
    json_free(root);
    return rc == 0 ? 0 : E_INVALID;
}

bool billing_key_is_at(const struct tenancy *t, struct slice key_gateway, struct slice tenant,
                       struct slice gateway)
{
    const struct config_tenant *now = tenancy_tenant(t, tenant);
    return slice_eq(key_gateway, gateway) ||
           (now != NULL && now->gateway != NULL && slice_eq(now->gateway->name, gateway));
}

struct owner *owner_ref(struct owner *o)
{
    o->refs++;
    return o;
}

void owner_unref(struct owner *o)
{
    if (o == NULL || --o->refs > 0)
        return;
    mem_free(o->texts);
    mem_free(o);
}

struct owner *owner_cache_find(struct owner_cache *c, const char *key_hash)
{
    struct owner *o;
    HASH_FIND(hh, c->rows, key_hash, SHA256_HEX_SIZE - 1, o);
    return o;
}

/* One block for all texts: an arena of its own would cost a hundred thousand owners a page each. */
static void texts_keep(struct owner *o, const struct billing_key_owner *k)
{
    const struct slice from[] = {k->tenant, k->namespace, k->workspace, k->workspace_id, k->user, k->gateway};
    struct slice *to[] = {&o->tenant, &o->namespace, &o->workspace, &o->workspace_id, &o->user, &o->gateway};
    size_t total = 1;
    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        total += from[i].n;
    char *at = o->texts = mem_alloc(total);
    for (size_t i = 0; i < ARRAY_LEN(from); i++) {
        if (from[i].n > 0)
            memcpy(at, from[i].p, from[i].n);
        *to[i] = slice_of(at, from[i].n);
        at += from[i].n;
    }
}

struct owner *owner_new(const char *key_hash, const struct billing_key_owner *k)
{
    struct owner *o = MEM_NEW(struct owner);
    o->refs = 1;
    memcpy(o->key_hash, key_hash, SHA256_HEX_SIZE);
    texts_keep(o, k);
    return o;
}

struct owner *owner_cache_add(struct owner_cache *c, const char *key_hash, struct slice record,
                              bool had_suspense)
{
    struct owner *o = owner_cache_find(c, key_hash);
    if (o != NULL)
        return o;
    struct arena scratch = ARENA_INIT;
    struct billing_key_owner k;
    if (billing_key_parse(&scratch, record, &k) != 0) {
        arena_fini(&scratch);
        return NULL;
    }
    o = owner_new(key_hash, &k);
    o->had_suspense = had_suspense;
    arena_fini(&scratch);
    if (HASH_COUNT(c->rows) >= OWNERS_MAX) {
        struct owner *oldest = c->rows;
        HASH_DEL(c->rows, oldest);
        owner_unref(oldest);
    }
    HASH_ADD(hh, c->rows, key_hash[0], SHA256_HEX_SIZE - 1, o);
    return o;
}

void owner_cache_fini(struct owner_cache *c)
{
    struct owner *o, *next;
    HASH_ITER (hh, c->rows, o, next) {
        HASH_DEL(c->rows, o);
        owner_unref(o);
    }
}
