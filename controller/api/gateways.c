/* gateways: what a gateway says to us, authenticated by its own secret: usage, and "whose key is this?". */
#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/edge/intake.h"
#include "controller/edge/llmkey.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <string.h>

#define ANSWER_MAX ((size_t)16 << 20) /* every event of a batch rejected, at length */

/* --- usage --- */

/* Gateways seldom read the answer, and what is invalid is kept nowhere else. */
static void invalid_note(const struct request *rq, const struct billing_batch_answer *a)
{
    const char *first = NULL;
    size_t n = 0;
    for (size_t i = 0; i < a->n_rejected; i++) {
        if (strcmp(a->rejected[i].code, "invalid") != 0)
            continue;
        first = n++ == 0 ? a->rejected[i].detail : first;
    }
    if (n > 0)
        log_warn("usage.invalid", LF_SLICE("gateway", rq->who.gateway->name), LF_INT("events", n),
                 LF_STR("first", first));
}

static void on_posted(const struct billing_batch_answer *a, void *data)
{
    struct request *rq = request_release(data, NULL);
    struct buf out = BUF_INIT(ANSWER_MAX);
    struct jsonw w;
    if (rq == NULL) {
        buf_fini(&out);
        return; /* the gateway left; what was posted is posted, its repetition is a duplicate */
    }
    if (a->code != 0) {
        request_error(rq, a->err);
        return;
    }
    invalid_note(rq, a);
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

static int on_bytes(struct slice bytes, void *data, struct err *err)
{
    return billing_report_feed(data, bytes, err);
}

static void on_gone(void *data)
{
    billing_report_free(data);
}

static void on_end(struct request *rq, void *data)
{
    billing_report_post(data, on_posted, request_hold(rq, NULL));
}

static const struct intake_events report_events = {on_bytes, on_end, on_gone};

static void post_usage(struct request *rq)
{
    struct billing_report *r = billing_report_new(rq->c->billing, rq->who.gateway);
    intake_start(rq, billing_report_bytes_max(r), &report_events, r);
}

/* --- keys/verify --- */

static void verified(struct request *rq, int code, const struct llmkey *key, const struct err *err,
                     void *data)
{
    struct buf out = BUF_INIT(16384);
    struct jsonw w;
    if (code != 0) {
        request_error(rq, err);
        return;
    }
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kbool(&w, "valid", key->is_active);
    jsonw_kstr(&w, "key_hash", data);
    if (key->is_known) {
        jsonw_kbool(&w, "revoked", !key->is_active);
        jsonw_kslice(&w, "tenant", key->owner.tenant);
        jsonw_kslice(&w, "namespace", key->owner.namespace);
        jsonw_kslice(&w, "workspace", key->owner.workspace);
        jsonw_kslice(&w, "workspace_id", key->owner.workspace_id);
        if (key->owner.user.n > 0)
            jsonw_kslice(&w, "user", key->owner.user);
    }
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
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
    llmkey_find(rq, hash, verified, hash);
}

static const struct route rows[] = {
    {"POST", "/v1/gateways/{gateway}/usage", ROUTE_GATEWAY, ROLE_NONE, ROUTE_BODY_STREAM, 0, post_usage,
     "Report usage in the gateway's own dialect", NULL, 200},
    {"POST", "/v1/gateways/{gateway}/keys/verify", ROUTE_GATEWAY, ROLE_NONE, ROUTE_BODY_JSON, 0, verify_key,
     "Whose LLM key is this?", NULL, 200},
};
const struct route_set routes_gateways = {rows, ARRAY_LEN(rows)};
