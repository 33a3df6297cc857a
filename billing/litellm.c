/* litellm: LiteLLM's StandardLoggingPayload as usage (docs/litellm.md; seen with the proxy 1.106.2).
 *
 * A report is a JSON array, lines of JSON, or one object; each event carries the prompt and the answer, which
 * the sieve forgets before anything is looked at. LiteLLM adds members with each release, so members that we
 * do not read are ignored; those we read must be of the right type.
 *
 * Happy path: tokens are taken apart into the ledger's kinds (`prompt_tokens` includes what was read from and
 * written to the cache; `completion_tokens` includes reasoning), the key's hash and the call's id make the
 * identity. Failure paths: a failed attempt is recorded at zero; an impossible breakdown, a wrong type or a
 * missing member makes this one event invalid, naming the field; what is billed by other things than tokens,
 * or by other prices than the usual, is noted as `extra`, so that it is never taken for paid. */
#include "billing/event.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"
#include "base/core/sieve.h"

#define KEPT_MAX   ((size_t)4 << 20)
#define EVENTS_MAX 2000
#define BODY_MAX   ((uint64_t)64 << 20)

static const struct sieve_row write_rows[] = {{"ephemeral_1h_input_tokens", 0, NULL}, {NULL, 0, NULL}};

static const struct sieve_row prompt_rows[] = {
    {"cached_tokens", 0, NULL},        {"cache_creation_tokens", 0, NULL},
    {"cache_write_tokens", 0, NULL},   {"cache_creation_token_details", 0, write_rows},
    {"audio_tokens", 0, NULL},         {"video_tokens", 0, NULL},
    {"web_search_requests", 0, NULL},  {"google_maps_grounding_requests", 0, NULL},
    {"character_count", 0, NULL},      {"image_count", 0, NULL},
    {"query_count", 0, NULL},          {"video_length_seconds", 0, NULL},
    {"audio_length_seconds", 0, NULL}, {NULL, 0, NULL},
};

static const struct sieve_row completion_rows[] = {
    {"reasoning_tokens", 0, NULL}, {"audio_tokens", 0, NULL}, {"image_tokens", 0, NULL},
    {"video_tokens", 0, NULL},     {NULL, 0, NULL},
};

static const struct sieve_row tool_rows[] = {{"web_search_requests", 0, NULL},
                                             {"code_execution_requests", 0, NULL},
                                             {"browser_open_requests", 0, NULL},
                                             {NULL, 0, NULL}};

static const struct sieve_row usage_rows[] = {
    {"prompt_tokens", 0, NULL},
    {"completion_tokens", 0, NULL},
    {"total_tokens", 0, NULL},
    {"prompt_tokens_details", 0, prompt_rows},
    {"completion_tokens_details", 0, completion_rows},
    {"cache_read_input_tokens", 0, NULL},
    {"cache_creation_input_tokens", 0, NULL},
    {"server_tool_use", 0, tool_rows},
    {"num_search_queries", 0, NULL},
    {"service_tier", 0, NULL},
    {"speed", 0, NULL},
    {"inference_geo", 0, NULL},
    {NULL, 0, NULL},
};

static const struct sieve_row metadata_rows[] = {
    {"user_api_key_hash", 256, NULL}, {"usage_object", 0, usage_rows}, {NULL, 0, NULL}};

static const struct sieve_row cost_rows[] = {
    {"tool_usage_cost", 0, NULL}, {"service_tier", 0, NULL}, {NULL, 0, NULL}};

static const struct sieve_row event_rows[] = {
    {"litellm_call_id", 1024, NULL},
    {"call_type", EVENT_CALL_TYPE_MAX, NULL},
    {"cache_hit", 0, NULL},
    {"status", 0, NULL},
    {"endTime", 0, NULL},
    {"model", MODEL_NAME_MAX, NULL},
    {"model_group", MODEL_NAME_MAX, NULL},
    {"custom_llm_provider", 0, NULL},
    {"response_cost", 0, NULL},
    {"cost_breakdown", 0, cost_rows},
    {"prompt_tokens", 0, NULL},
    {"completion_tokens", 0, NULL},
    {"error_str", 0, NULL},
    {"reeve_provider_tools", 120, NULL}, /* deploy/litellm adds it */
    {"metadata", 0, metadata_rows},
    {NULL, 0, NULL},
};

/* --- members: absent and null are the same; another type than the wanted one is an error --- */

#define USAGE      "metadata.usage_object"
#define PROMPT     USAGE ".prompt_tokens_details"
#define COMPLETION USAGE ".completion_tokens_details"

static int wrong(const char *path, const char *name, const char *wanted, const struct json *found,
                 struct err *err)
{
    struct slice number = json_number_text(found);
    if (number.p != NULL)
        return err_set(err, E_INVALID, "%s%s%s: expected %s, found %.*s", path, path[0] != '\0' ? "." : "",
                       name, wanted, SL_ARG(number));
    return err_set(err, E_INVALID, "%s%s%s: expected %s, found %s", path, path[0] != '\0' ? "." : "", name,
                   wanted, json_type_name(found));
}

static int object_of(const struct json *in, const char *path, const char *name, const struct json **ret,
                     struct err *err)
{
    const struct json *j = json_get(in, name);
    *ret = NULL;
    if (json_type(j) == JSON_NULL)
        return 0;
    if (json_type(j) != JSON_OBJECT)
        return wrong(path, name, "an object", j, err);
    *ret = j;
    return 0;
}

/* "" when absent. */
static int text_of(const struct json *in, const char *path, const char *name, struct slice *ret,
                   struct err *err)
{
    const struct json *j = json_get(in, name);
    *ret = SLICE_EMPTY;
    if (json_type(j) == JSON_NULL)
        return 0;
    *ret = json_string(j);
    return ret->p != NULL ? 0 : wrong(path, name, "a string", j, err);
}

static int count_of(const struct json *in, const char *path, const char *name, bool *ret_has, uint64_t *ret,
                    struct err *err)
{
    const struct json *j = json_get(in, name);
    if (json_type(j) == JSON_NULL)
        return 0;
    if (json_u64(j, ret) != 0 || *ret > EVENT_TOKENS_MAX)
        return wrong(path, name, "an integer from 0 to 1e12", j, err);
    if (ret_has != NULL)
        *ret_has = true;
    return 0;
}

static int missing(const char *name, struct err *err)
{
    return err_set(err, E_INVALID, "%s: missing", name);
}

/* Float seconds as text ("1795227046.470884") to milliseconds, cut, without floating point in between. */
static int time_of(const struct json *event, int64_t *ret_ms, struct err *err)
{
    struct slice text = json_number_text(json_get(event, "endTime")), whole;
    uint64_t seconds;
    if (text.p == NULL)
        return wrong("", "endTime", "seconds since 1970", json_get(event, "endTime"), err);
    struct slice fraction = text;
    if (!slice_cut(&fraction, '.', &whole))
        fraction = SLICE_EMPTY;
    /* 253402300800: the year 10000 */
    if (slice_u64(whole, &seconds) != 0 || seconds >= UINT64_C(253402300800))
        return wrong("", "endTime", "seconds since 1970", json_get(event, "endTime"), err);
    int64_t ms = 0;
    for (size_t i = 0; i < 3; i++) {
        char c = i < fraction.n ? fraction.p[i] : '0';
        if (c < '0' || c > '9')
            return wrong("", "endTime", "seconds since 1970", json_get(event, "endTime"), err);
        ms = ms * 10 + (c - '0');
    }
    *ret_ms = (int64_t)seconds * 1000 + ms;
    return 0;
}

/* --- what tokens do not say --- */

static void extra_add(struct buf *out, const char *name, struct slice value)
{
    size_t before = out->n;
    if (before > 0)
        (void)buf_str(out, ", ");
    if (buf_printf(out, "%s %.*s", name, SL_ARG(value)) != 0)
        out->n = before; /* what is already there is reason enough */
}

/* Counts of things that have prices of their own: any number but zero. */
static int extra_counts(const struct json *in, const char *path, const char *const *names, size_t n,
                        struct buf *out, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct json *j = json_get(in, names[i]);
        struct slice text = json_number_text(j);
        if (json_type(j) == JSON_NULL)
            continue;
        if (text.p == NULL || text.p[0] == '-')
            return wrong(path, names[i], "a count", j, err);
        bool is_zero = true;
        for (size_t k = 0; k < text.n && text.p[k] != 'e' && text.p[k] != 'E'; k++)
            is_zero = is_zero && (text.p[k] == '0' || text.p[k] == '.');
        if (!is_zero)
            extra_add(out, names[i], text);
    }
    return 0;
}

/* Other prices than the usual ones: a word that is none of those which mean "as usual". */
static int extra_word(const struct json *in, const char *path, const char *name, struct buf *out,
                      struct err *err)
{
    static const char *const usual[] = {"", "default", "standard", "auto", "global", "not_available"};
    struct slice word;
    int rc = text_of(in, path, name, &word, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(usual); i++) {
        if (slice_eq_str(word, usual[i]))
            return 0;
    }
    if (rc == 0)
        extra_add(out, name, word);
    return rc;
}

static int extras_find(const struct json *event, const struct json *usage, const struct json *prompt,
                       const struct json *completion, struct buf *out, struct err *err)
{
    static const char *const in_prompt[] = {
        "audio_tokens",        "video_tokens", "web_search_requests", "google_maps_grounding_requests",
        "character_count",     "image_count",  "query_count",         "video_length_seconds",
        "audio_length_seconds"};
    static const char *const in_completion[] = {"audio_tokens", "image_tokens", "video_tokens"};
    static const char *const in_tools[] = {"web_search_requests", "code_execution_requests",
                                           "browser_open_requests"};
    static const char *const in_usage[] = {"num_search_queries"};
    static const char *const in_write[] = {"ephemeral_1h_input_tokens"};
    static const char *const in_cost[] = {"tool_usage_cost"};
    const struct json *tools, *write, *cost;
    int rc = object_of(usage, USAGE, "server_tool_use", &tools, err);
    if (rc == 0)
        rc = object_of(prompt, PROMPT, "cache_creation_token_details", &write, err);
    if (rc == 0)
        rc = object_of(event, "", "cost_breakdown", &cost, err);
    if (rc == 0)
        rc = extra_counts(prompt, PROMPT, in_prompt, ARRAY_LEN(in_prompt), out, err);
    if (rc == 0)
        rc = extra_counts(completion, COMPLETION, in_completion, ARRAY_LEN(in_completion), out, err);
    if (rc == 0)
        rc = extra_counts(tools, USAGE ".server_tool_use", in_tools, ARRAY_LEN(in_tools), out, err);
    if (rc == 0)
        rc = extra_counts(usage, USAGE, in_usage, ARRAY_LEN(in_usage), out, err);
    if (rc == 0)
        rc = extra_counts(write, PROMPT ".cache_creation_token_details", in_write, ARRAY_LEN(in_write), out,
                          err);
    if (rc == 0)
        rc = extra_counts(cost, "cost_breakdown", in_cost, ARRAY_LEN(in_cost), out, err);
    if (rc == 0)
        rc = extra_word(usage, USAGE, "service_tier", out, err);
    if (rc == 0 && json_type(json_get(usage, "service_tier")) == JSON_NULL)
        rc = extra_word(cost, "cost_breakdown", "service_tier", out, err);
    if (rc == 0)
        rc = extra_word(usage, USAGE, "speed", out, err);
    if (rc == 0)
        rc = extra_word(usage, USAGE, "inference_geo", out, err);
    if (rc == 0)
        rc = extra_word(event, "", "reeve_provider_tools", out, err);
    return rc;
}

/* --- tokens --- */

/* One figure that LiteLLM may say in several places. When they differ the dearer reading is taken, and the
 * event waits for somebody to look. */
static int agreed(const struct json *prompt, const char *const names[2], const struct json *usage,
                  const char *usage_name, bool is_more_dearer, struct buf *extra, uint64_t *ret,
                  struct err *err)
{
    uint64_t v[3] = {0, 0, 0};
    bool has[3] = {false, false, false}, has_any = false;
    int rc = count_of(prompt, PROMPT, names[0], &has[0], &v[0], err);
    if (rc == 0 && names[1] != NULL)
        rc = count_of(prompt, PROMPT, names[1], &has[1], &v[1], err);
    if (rc == 0)
        rc = count_of(usage, USAGE, usage_name, &has[2], &v[2], err);
    for (int i = 0; rc == 0 && i < 3; i++) {
        if (!has[i])
            continue;
        if (has_any && v[i] != *ret)
            extra_add(extra, usage_name, SL("in two versions"));
        if (!has_any || (v[i] > *ret) == is_more_dearer)
            *ret = v[i];
        has_any = true;
    }
    return rc;
}

static int tokens_parse(const struct json *event, const struct json *usage, struct event *e,
                        struct buf *extra, struct err *err)
{
    static const char *const read_names[2] = {"cached_tokens", NULL};
    static const char *const write_names[2] = {"cache_creation_tokens", "cache_write_tokens"};
    uint64_t all_in = 0, out = 0, read = 0, write = 0, reasoning = 0, total = 0;
    bool has_count = false;
    const struct json *prompt = NULL, *completion = NULL, *counts = usage != NULL ? usage : event;
    const char *path = usage != NULL ? USAGE : "";
    int rc = count_of(counts, path, "prompt_tokens", &has_count, &all_in, err);
    if (rc == 0)
        rc = count_of(counts, path, "completion_tokens", &has_count, &out, err);
    if (rc == 0)
        rc = count_of(usage, USAGE, "total_tokens", NULL, &total, err);
    if (rc == 0)
        rc = object_of(usage, USAGE, "prompt_tokens_details", &prompt, err);
    if (rc == 0)
        rc = object_of(usage, USAGE, "completion_tokens_details", &completion, err);
    if (rc == 0)
        rc = agreed(prompt, read_names, usage, "cache_read_input_tokens", false, extra, &read, err);
    if (rc == 0)
        rc = agreed(prompt, write_names, usage, "cache_creation_input_tokens", true, extra, &write, err);
    if (rc == 0)
        rc = count_of(completion, COMPLETION, "reasoning_tokens", NULL, &reasoning, err);
    if (rc != 0)
        return rc;
    if (!has_count) /* a call that worked and says no count must not pass as free */
        return err_set(err, E_INVALID, USAGE ".prompt_tokens: missing; only a failure may leave it out");
    /* Parts that are more than their whole: nobody knows what was meant, and the call was made all the same.
     * It waits in suspense with the dearest reading: the parts beside the prompt, all of the reasoning. */
    bool has_parts = read <= all_in && write <= all_in - read;
    if (!has_parts)
        extra_add(extra, "prompt_tokens_details", SL("beyond the prompt"));
    if (reasoning > out) {
        extra_add(extra, "reasoning_tokens", SL("beyond the answer"));
        out = reasoning;
    }
    e->tokens[TOKENS_INPUT] = has_parts ? all_in - read - write : all_in;
    e->tokens[TOKENS_CACHE_READ] = read;
    e->tokens[TOKENS_CACHE_WRITE] = write;
    e->tokens[TOKENS_OUTPUT] = out;
    if (total > all_in + out)
        extra_add(extra, "total_tokens", SL("beyond those of prompt and answer"));
    rc = extras_find(event, usage, prompt, completion, extra, err);
    if (rc == 0 && all_in == 0 && out == 0 && extra->n == 0)
        extra_add(extra, "call", SL("without tokens")); /* images, speech, …: priced by other things */
    return rc;
}

/* --- events --- */

/* A name longer than an event's may be is represented by its hash. */
static struct slice id_of(struct arena *a, struct slice s)
{
    if (s.n <= EVENT_ID_MAX)
        return arena_slice(a, s);
    char hash[SHA256_HEX_SIZE];
    sha256_hex(s, hash);
    return slice_str(arena_printf(a, "sha256:%s", hash));
}

/* Calls that no key of ours made, such as those with the master key, have no hash of a key there: the hash of
 * what is there keeps them apart, and nobody's. */
static int key_hash_of(const struct json *metadata, struct event *e, struct err *err)
{
    struct slice text;
    int rc = text_of(metadata, "metadata", "user_api_key_hash", &text, err);
    if (rc == 0 && key_hash_is_valid(text))
        memcpy(e->key_hash, text.p, text.n);
    else if (rc == 0)
        sha256_hex(text, e->key_hash);
    return rc;
}

/* What the event is told apart by. A call id can be the caller's own word: one that is empty or too long must
 * not keep the call out of the ledger, so the instant of its end stands for it, to the microsecond; two calls
 * that share even that are a conflict, which counts. */
static int call_id_of(struct arena *a, const struct json *event, struct slice *ret, struct err *err)
{
    struct slice text, end = json_number_text(json_get(event, "endTime"));
    int rc = text_of(event, "", "litellm_call_id", &text, err);
    if (rc == 0 && (text.n == 0 || slice_eq_str(text, SIEVE_TOO_LONG)))
        text = slice_str(arena_printf(a, "ended@%.*s", SL_ARG(end)));
    *ret = text;
    return rc;
}

static int name_of(struct arena *a, const struct json *event, const char *name, struct slice *ret,
                   struct err *err)
{
    struct slice text;
    int rc = text_of(event, "", name, &text, err);
    if (rc == 0 && slice_eq_str(text, SIEVE_TOO_LONG))
        return err_set(err, E_INVALID, "%s: too long", name);
    *ret = arena_slice(a, text);
    return rc;
}

static int status_of(const struct json *event, struct event *e, struct err *err)
{
    struct slice status, error;
    const struct json *hit = json_get(event, "cache_hit");
    if (json_type(hit) != JSON_NULL && json_type(hit) != JSON_FALSE && !json_is_true(hit))
        return wrong("", "cache_hit", "a boolean", hit, err);
    int rc = text_of(event, "", "status", &status, err);
    if (rc == 0)
        rc = text_of(event, "", "error_str", &error, err);
    if (rc != 0)
        return rc;
    if (slice_eq_str(status, "failure"))
        e->status = EVENT_FAILURE;
    else if (!slice_eq_str(status, "success"))
        return err_set(err, E_INVALID, "status: expected `success` or `failure`");
    /* A client that left in the middle of a stream: LiteLLM counts what it had sent; the provider may have
     * counted more. */
    e->is_estimated = e->status == EVENT_SUCCESS && error.n > 0;
    return 0;
}

static int usage_parse(struct arena *a, const struct json *event, struct event *e, struct err *err)
{
    const struct json *metadata, *usage;
    int rc = object_of(event, "", "metadata", &metadata, err);
    if (rc == 0)
        rc = key_hash_of(metadata, e, err);
    if (rc == 0)
        rc = object_of(metadata, "metadata", "usage_object", &usage, err);
    /* LiteLLM's own cache answered: no provider was asked */
    if (rc != 0 || e->status == EVENT_FAILURE || json_is_true(json_get(event, "cache_hit")))
        return rc;
    struct buf extra = BUF_INIT(EVENT_EXTRA_MAX);
    rc = tokens_parse(event, usage, e, &extra, err);
    if (rc == 0)
        e->extra = arena_slice(a, buf_view(&extra));
    buf_fini(&extra);
    return rc;
}

static int event_parse(struct arena *a, const struct json *j, struct event *e, struct err *err)
{
    struct slice id;
    if (json_type(j) != JSON_OBJECT)
        return err_set(err, E_INVALID, "expected an object");
    int rc = status_of(j, e, err);
    if (rc == 0)
        rc = call_id_of(a, j, &id, err);
    if (rc == 0)
        rc = name_of(a, j, "call_type", &e->call_type, err);
    if (rc == 0)
        rc = name_of(a, j, "model", &e->model, err);
    if (rc == 0)
        rc = name_of(a, j, "model_group", &e->model_group, err);
    if (rc == 0)
        rc = name_of(a, j, "custom_llm_provider", &e->provider, err);
    if (rc == 0)
        rc = time_of(j, &e->time_ms, err);
    if (rc == 0)
        rc = usage_parse(a, j, e, err);
    if (rc != 0)
        return rc;
    if (e->model.n == 0)
        e->model = e->model_group;
    if (e->model.n == 0 && e->status == EVENT_SUCCESS)
        return missing("model", err);
    if (e->model.n == 0) /* a call can fail before its model is known */
        e->model = SL("unknown");
    struct slice cost = json_number_text(json_get(j, "response_cost"));
    e->reported_cost = cost.p != NULL && cost.n <= EVENT_COST_MAX ? arena_slice(a, cost) : SLICE_EMPTY;
    e->may_be_refused = e->status == EVENT_FAILURE; /* it reports these, too */
    /* LiteLLM's retries share the call's id: what failed must not stand in the way of what then worked. */
    e->id = e->status == EVENT_SUCCESS
                ? id_of(a, id)
                : id_of(a, slice_str(arena_printf(a, "%.*s#failed@%lld", SL_ARG(id), (long long)e->time_ms)));
    event_finish(a, e);
    return 0;
}

static int line_parse(struct arena *a, struct slice line, struct event *e, struct err *err)
{
    static const struct json_limits limits = {.bytes_max = 64 * 1024, .depth_max = 8, .nodes_max = 200};
    struct json *root = NULL;
    int rc = json_parse(line, &limits, &root, err);
    if (rc == 0)
        rc = event_parse(a, root, e, err);
    json_free(root);
    return rc;
}

static int litellm_parse(struct arena *a, struct slice gateway, struct slice kept, struct event_batch *ret,
                         struct err *err)
{
    size_t n = 0, i = 0;
    (void)err; /* what was wrong with the body as a whole, the sieve has said */
    for (size_t k = 0; k < kept.n; k++)
        n += kept.p[k] == '\n';
    struct event *events = arena_zalloc(a, (n + 1) * sizeof(*events));
    for (struct slice line; i < n; i++) {
        (void)slice_cut(&kept, '\n', &line);
        struct err bad;
        err_clear(&bad);
        events[i].gateway = gateway;
        if (line_parse(a, line, &events[i], &bad) != 0)
            events[i].invalid = arena_strdup(a, bad.msg);
    }
    *ret = (struct event_batch){events, n};
    return 0;
}

const struct dialect litellm_dialect = {event_rows, BODY_MAX, KEPT_MAX, EVENTS_MAX, litellm_parse};
