/* plain: Reeve's own JSON dialect for usage, for any gateway that can make an HTTP call (docs/billing.md).
 *
 * Happy path: {"events":[{...}]} becomes as many normalised events, in order. Failure paths: a body of
 * another shape is refused as a whole; one malformed event is marked with what is wrong with which field, and
 * the others go on. */
#include "billing/event.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"
#include "billing/billing.h"

#define BODY_MAX ((size_t)4 << 20)

struct plain_event {
    struct slice id, key_hash, model, time, status, call_type, cost;
    const struct json *tokens;
    bool estimated;
};

static const struct json_field event_rows[] = {
    {"id", JF_STRING, true, offsetof(struct plain_event, id)},
    {"key_hash", JF_STRING, true, offsetof(struct plain_event, key_hash)},
    {"model", JF_STRING, true, offsetof(struct plain_event, model)},
    {"time", JF_STRING, true, offsetof(struct plain_event, time)},
    {"tokens", JF_OBJECT, false, offsetof(struct plain_event, tokens)},
    {"status", JF_STRING, false, offsetof(struct plain_event, status)},
    {"estimated", JF_BOOL, false, offsetof(struct plain_event, estimated)},
    {"call_type", JF_STRING, false, offsetof(struct plain_event, call_type)},
    {"cost", JF_DECIMAL, false, offsetof(struct plain_event, cost)},
};

static const struct json_field token_rows[] = {
    {"input", JF_U64, false, TOKENS_INPUT * sizeof(uint64_t)},
    {"output", JF_U64, false, TOKENS_OUTPUT * sizeof(uint64_t)},
    {"cache_read", JF_U64, false, TOKENS_CACHE_READ * sizeof(uint64_t)},
    {"cache_write", JF_U64, false, TOKENS_CACHE_WRITE * sizeof(uint64_t)},
};

/* Not parsed into an amount: it is kept as the gateway wrote it, for reconciliation, and nothing is computed
 * from it. */
static bool is_number_text(struct slice s)
{
    bool has_digit = false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c >= '0' && c <= '9')
            has_digit = true;
        else if (c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E')
            return false;
    }
    return has_digit && s.n <= EVENT_COST_MAX;
}

static int text_check(const char *path, const char *field, struct slice s, size_t max, struct err *err)
{
    if (s.n == 0 || s.n > max)
        return err_set(err, E_INVALID, "%s.%s: expected 1 to %zu bytes, found %zu", path, field, max, s.n);
    return 0;
}

static int tokens_parse(const char *path, const struct json *tokens, struct event *e, struct err *err)
{
    if (tokens == NULL && e->status == EVENT_FAILURE)
        return 0;
    if (tokens == NULL) /* a call that worked and says no count must not pass as free */
        return err_set(err, E_INVALID, "%s.tokens: missing; only a failure may leave it out", path);
    char below[48];
    (void)snprintf(below, sizeof(below), "%s.tokens", path); /* "events[999].tokens" */
    int rc = json_decode(tokens, below, token_rows, ARRAY_LEN(token_rows), e->tokens, err);
    for (int k = 0; rc == 0 && k < TOKEN_KINDS; k++) {
        if (e->tokens[k] > EVENT_TOKENS_MAX)
            rc = err_set(err, E_INVALID, "%s.tokens.%s: more than %llu", path, token_kind_names[k],
                         (unsigned long long)EVENT_TOKENS_MAX);
    }
    return rc;
}

/* One event's fields; E_INVALID with the path of the field. */
static int event_parse(struct arena *a, const char *path, const struct json *j, struct event *e,
                       struct err *err)
{
    struct plain_event p = {.status = SL("success")};
    if (json_type(j) != JSON_OBJECT)
        return err_set(err, E_INVALID, "%s: expected an object, found %s", path, json_type_name(j));
    int rc = json_decode(j, path, event_rows, ARRAY_LEN(event_rows), &p, err);
    if (rc == 0)
        rc = text_check(path, "id", p.id, EVENT_ID_MAX, err);
    if (rc == 0)
        rc = text_check(path, "model", p.model, MODEL_NAME_MAX, err);
    if (rc == 0 && p.call_type.p != NULL)
        rc = text_check(path, "call_type", p.call_type, EVENT_CALL_TYPE_MAX, err);
    if (rc != 0)
        return rc;
    if (!key_hash_is_valid(p.key_hash))
        return err_set(err, E_INVALID,
                       "%s.key_hash: expected the SHA-256 of the key as 64 lower-case hex digits", path);
    if (time_parse(p.time, &e->time_ms) != 0)
        return err_set(err, E_INVALID, "%s.time: expected RFC 3339 such as 2026-11-05T12:00:00Z", path);
    if (slice_eq_str(p.status, "failure"))
        e->status = EVENT_FAILURE;
    else if (!slice_eq_str(p.status, "success"))
        return err_set(err, E_INVALID, "%s.status: expected `success` or `failure`", path);
    if (p.cost.p != NULL && !is_number_text(p.cost))
        return err_set(err, E_INVALID, "%s.cost: expected a decimal number of at most %d bytes", path,
                       EVENT_COST_MAX);
    if ((rc = tokens_parse(path, p.tokens, e, err)) != 0)
        return rc;
    memcpy(e->key_hash, p.key_hash.p, p.key_hash.n);
    e->id = arena_slice(a, p.id);
    e->model = arena_slice(a, p.model);
    e->call_type = p.call_type.p != NULL ? arena_slice(a, p.call_type) : SLICE_EMPTY;
    e->reported_cost = p.cost.p != NULL ? arena_slice(a, p.cost) : SLICE_EMPTY;
    e->is_estimated = p.estimated;
    event_finish(a, e);
    return 0;
}

static int events_parse(struct arena *a, struct slice gateway, const struct json *list,
                        struct event_batch *ret, struct err *err)
{
    size_t n = json_count(list);
    if (n > BILLING_BATCH_MAX)
        return err_set(err, E_INVALID, "events: %zu are more than the %d of one batch", n, BILLING_BATCH_MAX);
    struct event *events = arena_zalloc(a, (n + 1) * sizeof(*events));
    size_t i = 0;
    JSON_FOREACH (j, list) {
        char path[32];
        (void)snprintf(path, sizeof(path), "events[%zu]", i);
        struct err bad;
        err_clear(&bad);
        events[i].gateway = gateway;
        if (event_parse(a, path, j, &events[i], &bad) != 0)
            events[i].invalid = arena_strdup(a, bad.msg);
        i++;
    }
    *ret = (struct event_batch){events, n};
    return 0;
}

static int plain_parse(struct arena *a, struct slice gateway, struct slice body, struct event_batch *ret,
                       struct err *err)
{
    static const struct json_field rows[] = {{"events", JF_ARRAY, true, 0}};
    static const struct json_limits limits = {.bytes_max = BODY_MAX, .depth_max = 8, .nodes_max = 40000};
    struct json *root = NULL;
    const struct json *list = NULL;
    int rc = json_parse(body, &limits, &root, err);
    if (rc != 0)
        return rc;
    if (json_type(root) != JSON_OBJECT)
        rc = err_set(err, E_INVALID, "expected an object with `events`, found %s", json_type_name(root));
    else
        rc = json_decode(root, "", rows, ARRAY_LEN(rows), &list, err);
    if (rc == 0)
        rc = events_parse(a, gateway, list, ret, err);
    json_free(root);
    return rc;
}

const struct dialect plain_dialect = {NULL, BODY_MAX, BODY_MAX, BILLING_BATCH_MAX, plain_parse};
