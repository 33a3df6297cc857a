/* gateways: what a gateway says to us, authenticated by its own secret: usage, and "whose key is this?". */
#include "base/core/mem.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <string.h>

#define USAGE_BODY_MAX ((size_t)4 * 1024 * 1024)

/* --- usage --- */

static void on_posted(const struct billing_batch_answer *a, void *data)
{
    struct request *rq = request_release(data, NULL);
    struct buf out = BUF_INIT((size_t)1024 * 1024);
    struct jsonw w;
    if (rq == NULL) {
        buf_fini(&out);
        return; /* the gateway left; what was posted is posted, its repetition is a duplicate */
    }
    if (a->code != 0) {
        request_error(rq, a->err);
        return;
    }
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_ku64(&w, "accepted", a->accepted);
    jsonw_ku64(&w, "duplicates", a->duplicates);
    jsonw_key(&w, "rejected");
    jsonw_array(&w);
    for (size_t i = 0; i < a->n_rejected; i++) {
        jsonw_object(&w);
        jsonw_ku64(&w, "index", a->rejected[i].index);
        jsonw_kstr(&w, "code", a->rejected[i].code);
        jsonw_kstr(&w, "detail", a->rejected[i].detail);
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void post_usage(struct request *rq)
{
    billing_usage_post(rq->c->billing, rq->who.gateway, rq->body, on_posted, request_hold(rq, NULL));
}

/* --- keys/verify --- */

static void verified(struct request *rq, const struct store_record *record, const char *hash)
{
    struct billing_key_owner owner;
    struct buf out = BUF_INIT(16384);
    struct jsonw w;
    /* another gateway's key is as unknown as none: one gateway learns nothing of another's tenants */
    bool is_known = record->version != 0 &&
                    billing_key_parse(request_arena(rq), record->value, &owner) == 0 &&
                    billing_key_is_at(rq->c->tenancy, owner.gateway, owner.tenant, rq->who.gateway->name);
    struct workspace *ws = is_known ? scheduler_find_id(rq->c->scheduler, owner.workspace_id) : NULL;
    bool is_active =
        ws != NULL && !owner.is_revoked && ws->state != WS_DELETING && strcmp(ws->llm_key_hash, hash) == 0;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kbool(&w, "valid", is_active);
    jsonw_kstr(&w, "key_hash", hash);
    if (is_known) {
        jsonw_kbool(&w, "revoked", owner.is_revoked || !is_active);
        jsonw_kslice(&w, "tenant", owner.tenant);
        jsonw_kslice(&w, "namespace", owner.namespace);
        jsonw_kslice(&w, "workspace", owner.workspace);
        jsonw_kslice(&w, "workspace_id", owner.workspace_id);
        if (owner.user.n > 0)
            jsonw_kslice(&w, "user", owner.user);
    }
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void on_key_record(int code, const struct store_record *r, size_t n, bool has_more,
                          const struct err *err, void *data)
{
    void *hash;
    struct request *rq = request_release(data, &hash);
    (void)has_more;
    if (rq == NULL)
        return;
    if (code != 0 || n != 1)
        request_error(rq, err);
    else
        verified(rq, r, hash);
}

static void verify_key(struct request *rq)
{
    struct {
        struct slice key, key_hash;
    } in = {SLICE_NULL, SLICE_NULL};
    static const struct json_field rows[] = {{"key", JF_STRING, false, 0},
                                             {"key_hash", JF_STRING, false, sizeof(struct slice)}};
    struct err err = {0};
    if (json_decode(rq->json, "", rows, ARRAY_LEN(rows), &in, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    char *hash = arena_zalloc(request_arena(rq), SHA256_HEX_SIZE);
    struct buf raw = BUF_INIT(SHA256_BYTES);
    if ((in.key.p == NULL) == (in.key_hash.p == NULL)) {
        request_problem(rq, E_INVALID,
                        "expected `key` (its text) or `key_hash` (hex SHA-256 of it), one of them");
        return;
    }
    if (in.key.p != NULL) {
        sha256_hex(in.key, hash);
    } else if (hex_decode(in.key_hash, &raw) != 0 || raw.n != SHA256_BYTES) {
        buf_fini(&raw);
        request_problem(rq, E_INVALID, "key_hash: expected 64 lower-case hexadecimal digits");
        return;
    } else {
        memcpy(hash, in.key_hash.p, SHA256_HEX_SIZE - 1);
    }
    buf_fini(&raw);
    char name[128];
    billing_key_name(hash, name);
    struct slice keys[] = {slice_str(name)};
    store_get(rq->c->store, SL("fleet"), keys, 1, on_key_record, request_hold(rq, hash));
}

static const struct route rows[] = {
    {"POST", "/v1/gateways/{gateway}/usage", ROUTE_GATEWAY, ROLE_NONE, ROUTE_BODY_RAW, USAGE_BODY_MAX,
     post_usage, "Report usage in the gateway's own dialect", NULL, 200},
    {"POST", "/v1/gateways/{gateway}/keys/verify", ROUTE_GATEWAY, ROLE_NONE, ROUTE_BODY_JSON, 0, verify_key,
     "Whose LLM key is this?", NULL, 200},
};
const struct route_set routes_gateways = {rows, ARRAY_LEN(rows)};
