/* keyring: see keyring.h. Records `keys/<id>` in the tenant's partition:
 * {"name","role","namespaces":[…],"hash":"<hex>","created_at":ms}. */
#include "controller/edge/keyring.h"

#include "base/core/json.h"
#include "base/core/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct keyring {
    struct loop *loop;
    struct store *store;
    struct keyring_key *by_hash;
    uint64_t revocations; /* a page that was read before one is read again */
};

struct keyring *keyring_new(struct loop *l, struct store *s)
{
    struct keyring *k = MEM_NEW(struct keyring);
    k->loop = l;
    k->store = s;
    return k;
}

static void key_free(struct keyring_key *key)
{
    for (size_t i = 0; i < key->n_namespaces; i++)
        mem_free((void *)(uintptr_t)key->namespaces[i].p);
    mem_free(key->name);
    mem_free(key);
}

void keyring_free(struct keyring *k)
{
    struct keyring_key *key, *tmp;
    if (k == NULL)
        return;
    HASH_ITER (by_hash, k->by_hash, key, tmp) {
        HASH_DELETE(by_hash, k->by_hash, key);
        key_free(key);
    }
    mem_free(k);
}

const struct keyring_key *keyring_find(const struct keyring *k, const unsigned char hash[SHA256_BYTES])
{
    struct keyring_key *key;
    HASH_FIND(by_hash, k->by_hash, hash, SHA256_BYTES, key);
    return key;
}

/* One that is known is kept as it is: requests in flight look at it. */
static void keyring_put(struct keyring *k, struct keyring_key *key)
{
    if (keyring_find(k, key->hash) != NULL)
        key_free(key);
    else
        HASH_ADD(by_hash, k->by_hash, hash, SHA256_BYTES, key);
}

static void key_add_namespace(struct keyring_key *key, struct slice ns)
{
    if (key->n_namespaces < KEYRING_NAMESPACES_MAX)
        key->namespaces[key->n_namespaces++] = slice_of(mem_strndup(ns.p, ns.n), ns.n);
}

/* --- records --- */

static void record_write(const struct keyring_key *key, struct buf *out)
{
    struct jsonw w;
    struct buf hex = BUF_INIT(SHA256_HEX_SIZE);
    (void)hex_encode(slice_of(key->hash, SHA256_BYTES), &hex); /* fits */
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_kstr(&w, "name", key->name);
    jsonw_kstr(&w, "role", role_name(key->role));
    jsonw_key(&w, "namespaces");
    jsonw_array(&w);
    for (size_t i = 0; i < key->n_namespaces; i++)
        jsonw_slice(&w, key->namespaces[i]);
    jsonw_array_end(&w);
    jsonw_kslice(&w, "hash", buf_view(&hex));
    jsonw_ki64(&w, "created_at", key->created_at_ms);
    jsonw_object_end(&w);
    buf_fini(&hex);
}

static int record_read(struct slice id, struct slice tenant_id, struct slice value, struct keyring_key **ret)
{
    struct json *j = NULL;
    struct buf hash = BUF_INIT(SHA256_BYTES);
    int code = json_parse(value, NULL, &j, NULL);
    if (code != 0)
        return code;
    struct keyring_key *key = MEM_NEW(struct keyring_key);
    struct slice name = json_string(json_get(j, "name"));
    (void)snprintf(key->id, sizeof key->id, "%.*s", SL_ARG(id));
    (void)snprintf(key->tenant_id, sizeof key->tenant_id, "%.*s", SL_ARG(tenant_id));
    key->name = mem_strndup(name.n > 0 ? name.p : "", name.n);
    JSON_FOREACH (ns, json_get(j, "namespaces"))
        key_add_namespace(key, json_string(ns));
    if (role_parse(json_string(json_get(j, "role")), &key->role) != 0 ||
        hex_decode(json_string(json_get(j, "hash")), &hash) != 0 || hash.n != SHA256_BYTES ||
        json_i64(json_get(j, "created_at"), &key->created_at_ms) != 0)
        code = E_INVALID;
    else
        memcpy(key->hash, hash.p, SHA256_BYTES);
    buf_fini(&hash);
    json_free(j);
    if (code != 0)
        key_free(key);
    else
        *ret = key;
    return code;
}

/* --- load --- */

struct load {
    struct keyring *k;
    char (*tenants)[16];
    size_t n, at;
    char after[STORE_KEY_MAX + 1];
    uint64_t revocations; /* when the page was asked for */
    keyring_done_cb done;
    void *data;
};

static void load_next(struct load *ld);

static void load_end(struct load *ld, int code, const struct err *err)
{
    keyring_done_cb done = ld->done;
    void *data = ld->data;
    mem_free(ld->tenants);
    mem_free(ld);
    done(code, err, data);
}

static void on_loaded(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct load *ld = data;
    if (code != 0) {
        load_end(ld, code, err);
        return;
    }
    if (ld->revocations != ld->k->revocations) {
        load_next(ld); /* the page may hold a key that was revoked since */
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct keyring_key *key;
        if (record_read(slice_from(r[i].key, strlen("keys/")), slice_str(ld->tenants[ld->at]), r[i].value,
                        &key) != 0) {
            struct err bad = {0};
            err_set(&bad, E_STORE, "keys of tenant id %s: unreadable record `%.*s`", ld->tenants[ld->at],
                    SL_ARG(r[i].key));
            load_end(ld, E_STORE, &bad);
            return;
        }
        keyring_put(ld->k, key);
        (void)snprintf(ld->after, sizeof ld->after, "%.*s", SL_ARG(r[i].key));
    }
    if (!has_more) {
        ld->at++;
        ld->after[0] = '\0';
    }
    load_next(ld);
}

static void load_none(void *data)
{
    load_end(data, 0, NULL);
}

static void load_next(struct load *ld)
{
    if (ld->at == ld->n) {
        loop_defer(ld->k->loop, load_none, ld);
        return;
    }
    ld->revocations = ld->k->revocations;
    store_scan(ld->k->store, slice_str(ld->tenants[ld->at]), SL("keys/"), slice_str(ld->after),
               STORE_SCAN_MAX, on_loaded, ld);
}

void keyring_load(struct keyring *k, const struct tenancy *t, keyring_done_cb done, void *data)
{
    struct load *ld = MEM_NEW(struct load);
    ld->k = k;
    ld->n = t->n_tenants;
    ld->tenants = mem_zalloc((t->n_tenants + 1) * sizeof *ld->tenants);
    for (size_t i = 0; i < t->n_tenants; i++)
        memcpy(ld->tenants[i], t->tenants[i].id, sizeof ld->tenants[i]);
    ld->done = done;
    ld->data = data;
    load_next(ld);
}

/* --- create, revoke --- */

struct change {
    struct keyring *k;
    struct keyring_key *key; /* create: goes into the table when durable */
    unsigned char revoked[SHA256_BYTES];
    keyring_done_cb done;
    void *data;
};

static void on_created(const struct store_commit_answer *a, void *data)
{
    struct change *ch = data;
    if (a->code == 0)
        keyring_put(ch->k, ch->key);
    else
        key_free(ch->key);
    ch->done(a->code, a->err, ch->data);
    mem_free(ch);
}

void keyring_create(struct keyring *k, const struct config_tenant *t, struct slice name, enum role role,
                    const struct slice *namespaces, size_t n_namespaces, char text_out[TOKEN_TEXT_MAX],
                    char id_out[TOKEN_ID_MAX], keyring_done_cb done, void *data)
{
    struct keyring_key *key = MEM_NEW(struct keyring_key);
    struct buf value = BUF_INIT(STORE_VALUE_MAX), name_key = BUF_INIT(STORE_KEY_MAX);
    token_id_new(k->loop->rnd, key->id);
    token_new(k->loop->rnd, "rvk", slice_str(key->id), text_out);
    sha256(slice_str(text_out), key->hash);
    (void)snprintf(id_out, TOKEN_ID_MAX, "%s", key->id);
    (void)snprintf(key->tenant_id, sizeof key->tenant_id, "%s", t->id);
    key->name = mem_strndup(name.p, name.n);
    key->role = role;
    key->created_at_ms = clock_wall_ms(k->loop->clock);
    for (size_t i = 0; i < n_namespaces; i++)
        key_add_namespace(key, namespaces[i]);
    record_write(key, &value);
    (void)buf_printf(&name_key, "keys/%s", key->id);
    struct store_op ops[] = {store_expect(buf_view(&name_key), 0),
                             store_put(buf_view(&name_key), buf_view(&value))};
    struct change *ch = MEM_NEW(struct change);
    ch->k = k;
    ch->key = key;
    ch->done = done;
    ch->data = data;
    store_commit(k->store, slice_str(key->tenant_id), ops, ARRAY_LEN(ops), on_created, ch);
    buf_fini(&value);
    buf_fini(&name_key);
}

static void on_revoked(const struct store_commit_answer *a, void *data)
{
    struct change *ch = data;
    struct keyring_key *key;
    if (a->code == 0) {
        ch->k->revocations++;
        HASH_FIND(by_hash, ch->k->by_hash, ch->revoked, SHA256_BYTES, key);
        if (key != NULL) {
            HASH_DELETE(by_hash, ch->k->by_hash, key);
            key_free(key);
        }
    }
    ch->done(a->code, a->err, ch->data);
    mem_free(ch);
}

struct late {
    keyring_done_cb done;
    void *data;
};

static void say_not_found(void *data)
{
    struct late *l = data;
    struct err err = {0};
    err_set(&err, E_NOT_FOUND, "no such key");
    l->done(E_NOT_FOUND, &err, l->data);
    mem_free(l);
}

void keyring_revoke(struct keyring *k, const struct config_tenant *t, struct slice id, keyring_done_cb done,
                    void *data)
{
    struct keyring_key *key, *tmp;
    HASH_ITER (by_hash, k->by_hash, key, tmp) {
        if (!slice_eq_str(id, key->id) || strcmp(key->tenant_id, t->id) != 0)
            continue;
        struct buf name_key = BUF_INIT(STORE_KEY_MAX);
        (void)buf_printf(&name_key, "keys/%s", key->id);
        struct store_op op = store_delete(buf_view(&name_key));
        struct change *ch = MEM_NEW(struct change);
        ch->k = k;
        memcpy(ch->revoked, key->hash, SHA256_BYTES);
        ch->done = done;
        ch->data = data;
        store_commit(k->store, slice_str(t->id), &op, 1, on_revoked, ch);
        buf_fini(&name_key);
        return;
    }
    struct late *l = MEM_NEW(struct late);
    *l = (struct late){done, data};
    loop_defer(k->loop, say_not_found, l);
}

static int by_id(const void *a, const void *b)
{
    return strcmp((*(const struct keyring_key *const *)a)->id, (*(const struct keyring_key *const *)b)->id);
}

size_t keyring_list(const struct keyring *k, const struct config_tenant *t, const struct keyring_key **out,
                    size_t max)
{
    struct keyring_key *key, *tmp;
    size_t n = 0;
    HASH_ITER (by_hash, k->by_hash, key, tmp) {
        if (n < max && strcmp(key->tenant_id, t->id) == 0)
            out[n++] = key;
    }
    qsort(out, n, sizeof *out, by_id);
    return n;
}

void keyring_key_json(const struct keyring_key *key, struct jsonw *w)
{
    jsonw_object(w);
    jsonw_kstr(w, "id", key->id);
    jsonw_kstr(w, "name", key->name);
    jsonw_kstr(w, "role", role_name(key->role));
    jsonw_key(w, "namespaces");
    jsonw_array(w);
    for (size_t i = 0; i < key->n_namespaces; i++)
        jsonw_slice(w, key->namespaces[i]);
    jsonw_array_end(w);
    jsonw_ktime(w, "created_at", key->created_at_ms);
    jsonw_object_end(w);
}
