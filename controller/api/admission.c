/* admission: may this call be made? Asked by a gateway before the call, in the gateway's own dialect.
 *
 * LiteLLM's: the guardrail API that its `generic_guardrail_api` speaks (docs/litellm.md). Happy path: the
 * key's hash leads to the workspace, no budget above it is spent, the model has a price: {"action":"NONE"}.
 * Failure paths: a call that must not be made is {"action":"BLOCKED"} with the reason that its caller is to
 * read; what is no question at all is 400, what cannot be answered now is 503, and LiteLLM, told to fail
 * closed, refuses then. Of the body, which has the whole prompt in it, four members are kept. */
#include "base/core/mem.h"
#include "base/core/sieve.h"
#include "controller/edge/intake.h"
#include "controller/edge/llmkey.h"
#include "controller/edge/route.h"

#define KEPT_MAX     4096
#define QUESTION_MAX ((uint64_t)64 * 1024 * 1024) /* as the door has it for calls */

static const struct sieve_row data_rows[] = {{"user_api_key_hash", 256, NULL}, {NULL, 0, NULL}};
static const struct sieve_row rows_kept[] = {
    {"input_type", 0, NULL}, {"model", 256, NULL}, {"request_data", 0, data_rows}, {NULL, 0, NULL}};

static void answer(struct request *rq, const char *reason)
{
    struct buf out = BUF_INIT(ERR_MSG_MAX * 8);
    struct jsonw w;
    rq->c->admissions_total++;
    rq->c->admissions_blocked_total += reason != NULL ? 1 : 0;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kstr(&w, "action", reason == NULL ? "NONE" : "BLOCKED");
    if (reason != NULL)
        jsonw_kstr(&w, "blocked_reason", reason);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static void on_key(struct request *rq, int code, const struct llmkey *key, const struct err *cause,
                   void *data)
{
    struct err err = {0};
    struct slice *model = data;
    struct billing_budget_view view;
    if (code != 0) {
        request_error(rq, cause);
        return;
    }
    if (!key->is_known)
        err_set(&err, E_FORBIDDEN, "this key is not known here: the call was not made");
    else if (!key->is_active)
        err_set(&err, E_FORBIDDEN, "this key was revoked, or its workspace is gone: the call was not made");
    else if (billing_gate(rq->c->billing, key->owner.tenant, key->owner.namespace, &view, &err) == 0)
        (void)billing_admit_model(rq->c->billing, *model, &err);
    if (err.code == 0 || err.code == E_BUDGET || err.code == E_FORBIDDEN)
        answer(rq, err.code == 0 ? NULL : err.msg);
    else
        request_error(rq, &err);
}

/* A member of the question; "" when absent or null. False: answered. */
static bool member(struct request *rq, const struct json *in, const char *name, struct slice *ret)
{
    const struct json *j = json_get(in, name);
    *ret = json_type(j) == JSON_NULL ? SLICE_EMPTY : json_string(j);
    if (ret->p != NULL)
        return true;
    request_problem(rq, E_INVALID, "body: `%s`: expected a string, found %s", name, json_type_name(j));
    return false;
}

static void judge(struct request *rq)
{
    const struct json *data = json_get(rq->json, "request_data");
    struct slice type, hash, *model = ARENA_NEW(request_arena(rq), struct slice);
    if (!member(rq, rq->json, "input_type", &type) || !member(rq, rq->json, "model", model) ||
        !member(rq, data, "user_api_key_hash", &hash))
        return;
    if (slice_eq_str(type, "response")) { /* the call was made: there is nothing to admit */
        answer(rq, NULL);
        return;
    }
    if (!slice_eq_str(type, "request")) {
        request_problem(rq, E_INVALID, "body: `input_type`: expected `request` or `response`");
        return;
    }
    struct buf raw = BUF_INIT(SHA256_BYTES);
    bool is_hash = hash.n == SHA256_HEX_SIZE - 1 && hex_decode(hash, &raw) == 0;
    buf_fini(&raw);
    if (!is_hash) { /* the gateway's own master key, or none */
        answer(rq, "the call was not made: it has no key of a workspace");
        return;
    }
    llmkey_find(rq, arena_slice(request_arena(rq), hash).p, on_key, model);
}

/* --- the body --- */

static int on_bytes(struct slice bytes, void *data, struct err *err)
{
    return sieve_feed(data, bytes, err);
}

static void on_gone(void *data)
{
    sieve_fini(data);
}

static void on_end(struct request *rq, void *data)
{
    struct sieve *s = data;
    struct err err = {0};
    int code = sieve_end(s, &err);
    if (code == 0 && s->top != SIEVE_ANY)
        code = err_set(&err, E_INVALID, "expected an object, found array");
    if (code == 0)
        code = json_parse(buf_view(&s->out), NULL, &rq->json, &err);
    sieve_fini(s);
    if (code == 0)
        judge(rq);
    else
        request_problem(rq, E_INVALID, "body: %s", err.msg);
}

static const struct intake_events events = {on_bytes, on_end, on_gone};

static void admit_litellm(struct request *rq)
{
    if (rq->who.gateway->kind != GATEWAY_LITELLM) {
        request_problem(rq, E_NOT_FOUND, "gateway %.*s is not of kind litellm",
                        SL_ARG(rq->who.gateway->name));
        return;
    }
    struct sieve *s = ARENA_NEW(request_arena(rq), struct sieve);
    sieve_init(s, rows_kept, 1, KEPT_MAX);
    intake_start(rq, QUESTION_MAX, &events, s);
}

static const struct route rows[] = {
    {"POST", "/v1/gateways/{gateway}/admission/beta/litellm_basic_guardrail_api", ROUTE_GATEWAY, ROLE_NONE,
     ROUTE_BODY_STREAM, 0, admit_litellm, "May this call be made? In LiteLLM's guardrail dialect", NULL, 200},
};
const struct route_set routes_admission = {rows, ARRAY_LEN(rows)};
