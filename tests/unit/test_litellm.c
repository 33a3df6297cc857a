/* litellm: LiteLLM's payloads as events, and what becomes of them in the ledger.
 *
 * The shapes are those of the proxy 1.106.2, as it sends them for OpenAI and Anthropic, streamed and not. */
#include "tests/unit/billing_fixture.h"

#include "base/core/sieve.h"
#include "billing/event.h"

#define HASH  "0a213498c9ef93345d8cfd6b5bc8e6a43dfeaa92c441e430e362128205e1b727"
#define TIME  "1795227047.266172"
#define FRONT "{\"status\":\"success\",\"litellm_call_id\":\"a\""

/* An event: some members in front, some in its metadata. The prompt is as odd as an agent can make it. */
static void event_put(struct buf *out, const char *members, const char *usage)
{
    (void)buf_printf(
        out,
        "{\"id\":\"msg_1\",\"litellm_call_id\":\"call-1\",\"call_type\":\"acompletion\",\"status\":"
        "\"success\",\"endTime\":" TIME ",\"model\":\"openai/gpt-5\",\"model_group\":\"gpt-5\","
        "\"custom_llm_provider\":\"openai\",%s\"messages\":[{\"content\":\"secret \\ud800 \\u0000 }]\"}],"
        "\"metadata\":{\"requester_metadata\":{\"user_api_key_hash\":\"evil\"},\"user_api_key_hash\":\"" HASH
        "\",\"usage_object\":%s},\"response\":{\"choices\":[{\"x\":NaN}]},\"trace_id\":\"t\"}",
        members, usage);
}

struct parsed {
    struct arena arena;
    struct sieve sieve;
    struct event_batch batch;
};

static void parse(struct parsed *p, struct slice text)
{
    struct err err = {0};
    p->arena = ARENA_INIT;
    sieve_init(&p->sieve, litellm_dialect.rows, litellm_dialect.events_max, litellm_dialect.kept_max);
    if (sieve_feed(&p->sieve, text, &err) != 0 || sieve_end(&p->sieve, &err) != 0)
        fail_msg("%s", err.msg);
    assert_null(strstr(buf_cstr(&p->sieve.out), "secret"));
    assert_int_equal(litellm_dialect.parse(&p->arena, SL("lite"), buf_view(&p->sieve.out), &p->batch, &err),
                     0);
}

static void parsed_fini(struct parsed *p)
{
    sieve_fini(&p->sieve);
    arena_fini(&p->arena);
}

/* --- tokens --- */

static const struct {
    const char *usage;
    uint64_t tokens[TOKEN_KINDS]; /* input, output, cache_read, cache_write */
    const char *extra;
} good[] = {
    {"{\"prompt_tokens\":135,\"completion_tokens\":15,\"total_tokens\":150}", {135, 15, 0, 0}, ""},
    /* OpenAI, from the cache; with the nulls that LiteLLM writes */
    {"{\"completion_tokens\":15,\"prompt_tokens\":135,\"total_tokens\":150,"
     "\"completion_tokens_details\":null,"
     "\"prompt_tokens_details\":{\"audio_tokens\":null,\"cached_tokens\":100}}",
     {35, 15, 100, 0},
     ""},
    /* Anthropic: 25 input, 10 written, 100 read */
    {"{\"completion_tokens\":15,\"prompt_tokens\":135,\"total_tokens\":150,"
     "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"text_tokens\":15},"
     "\"prompt_tokens_details\":{\"audio_tokens\":null,\"cache_write_tokens\":10,\"cached_tokens\":100,"
     "\"text_tokens\":25,\"cache_creation_tokens\":10},\"cache_creation_input_tokens\":10,"
     "\"cache_read_input_tokens\":100,\"iterations\":null,\"inference_geo\":null,\"speed\":null,"
     "\"service_tier\":null}",
     {25, 15, 100, 10},
     ""},
    {"{\"prompt_tokens\":135,\"completion_tokens\":15,\"cache_creation_input_tokens\":35,"
     "\"cache_read_input_tokens\":100}",
     {0, 15, 100, 35},
     ""},
    /* reasoning is part of the answer */
    {"{\"prompt_tokens\":8,\"completion_tokens\":500,\"completion_tokens_details\":{\"reasoning_tokens\":"
     "500}}",
     {8, 500, 0, 0},
     ""},
    {"{\"prompt_tokens\":8,\"completion_tokens\":null,\"total_tokens\":8,\"service_tier\":\"default\"}",
     {8, 0, 0, 0},
     ""},
    {"{\"prompt_tokens\":1000000000000,\"completion_tokens\":1000000000000}",
     {1000000000000, 1000000000000, 0, 0},
     ""},
    /* members of a later release */
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"new\":{\"prompt_tokens\":9},\"prompt_tokens_details\":"
     "{\"text_tokens\":8,\"image_tokens\":4}}",
     {8, 1, 0, 0},
     ""},
    /* what tokens do not pay */
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"server_tool_use\":{\"web_search_requests\":2,"
     "\"web_fetch_requests\":3}}",
     {8, 1, 0, 0},
     "web_search_requests 2"},
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"server_tool_use\":{\"web_search_requests\":0}}",
     {8, 1, 0, 0},
     ""},
    {"{\"prompt_tokens\":8,\"completion_tokens\":9,\"prompt_tokens_details\":{\"audio_tokens\":3},"
     "\"completion_tokens_details\":{\"audio_tokens\":4}}",
     {8, 9, 0, 0},
     "audio_tokens 3, audio_tokens 4"},
    {"{\"prompt_tokens\":80,\"completion_tokens\":9,\"cache_creation_input_tokens\":7,"
     "\"prompt_tokens_details\":{\"cache_creation_tokens\":7,\"cache_creation_token_details\":{"
     "\"ephemeral_5m_input_tokens\":0,\"ephemeral_1h_input_tokens\":7}}}",
     {73, 9, 0, 7},
     "ephemeral_1h_input_tokens 7"},
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"service_tier\":\"priority\"}",
     {8, 1, 0, 0},
     "service_tier priority"},
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"speed\":\"fast\",\"inference_geo\":\"us\"}",
     {8, 1, 0, 0},
     "speed fast, inference_geo us"},
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"total_tokens\":20}",
     {8, 1, 0, 0},
     "total_tokens beyond those of prompt and answer"},
    {"{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}", {0, 0, 0, 0}, "call without tokens"},
    /* parts that are more than their whole */
    {"{\"prompt_tokens\":8,\"prompt_tokens_details\":{\"cached_tokens\":9}}",
     {8, 0, 9, 0},
     "prompt_tokens_details beyond the prompt"},
    {"{\"prompt_tokens\":8,\"prompt_tokens_details\":{\"cached_tokens\":5,\"cache_creation_tokens\":4}}",
     {8, 0, 5, 4},
     "prompt_tokens_details beyond the prompt"},
    {"{\"prompt_tokens\":8,\"completion_tokens\":1,\"completion_tokens_details\":{\"reasoning_tokens\":2}}",
     {8, 2, 0, 0},
     "reasoning_tokens beyond the answer"},
    /* two versions of one figure: the dearer reading */
    {"{\"prompt_tokens\":80,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":50},"
     "\"cache_read_input_tokens\":40}",
     {40, 1, 40, 0},
     "cache_read_input_tokens in two versions"},
    {"{\"prompt_tokens\":80,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cache_write_tokens\":50},"
     "\"cache_creation_input_tokens\":40}",
     {30, 1, 0, 50},
     "cache_creation_input_tokens in two versions"},
};

static void test_tokens(void **state)
{
    struct buf text = BUF_INIT(10000);
    struct parsed p;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        buf_reset(&text);
        event_put(&text, "", good[i].usage);
        parse(&p, buf_view(&text));
        assert_int_equal(p.batch.n, 1);
        const struct event *e = &p.batch.events[0];
        if (e->invalid != NULL)
            fail_msg("%s: %s", good[i].usage, e->invalid);
        for (int k = 0; k < TOKEN_KINDS; k++)
            if (e->tokens[k] != good[i].tokens[k])
                fail_msg("%s: %s is %llu", good[i].usage, token_kind_names[k],
                         (unsigned long long)e->tokens[k]);
        if (!slice_eq_str(e->extra, good[i].extra))
            fail_msg("%s: extra is %.*s", good[i].usage, SL_ARG(e->extra));
        assert_string_equal(e->key_hash, HASH);
        assert_true(slice_eq_str(e->id, "call-1") && slice_eq_str(e->model, "openai/gpt-5") &&
                    slice_eq_str(e->model_group, "gpt-5") && slice_eq_str(e->provider, "openai") &&
                    slice_eq_str(e->call_type, "acompletion"));
        assert_true(e->time_ms == 1795227047266);
        assert_false(e->is_estimated);
        parsed_fini(&p);
    }
    buf_fini(&text);
}

/* --- what is refused, with its field's name --- */

static const struct {
    const char *usage; /* of an event that is well otherwise; or NULL: */
    const char *event;
    const char *invalid;
} bad[] = {
    {NULL, "null", "expected an object"},
    {NULL, "{}", "status: expected `success` or `failure`"},
    {NULL, "{\"status\":\"success\",\"status\":\"success\"}", "duplicate"},
    {NULL, "{\"status\":\"maybe\"}", "status: expected `success` or `failure`"},
    {NULL, "{\"status\":true}", "status: expected a string"},
    {NULL, "{\"status\":\"success\",\"cache_hit\":\"no\"}", "cache_hit: expected a boolean"},
    {NULL, "{\"status\":\"success\"}", "endTime: expected seconds"},
    {NULL, "{\"status\":\"success\",\"litellm_call_id\":7}", "litellm_call_id: expected a string, found 7"},
    {NULL, FRONT ",\"model\":[]}", "model: expected a string, found array"},
    {NULL, FRONT "}", "endTime: expected seconds since 1970, found absent"},
    {NULL, FRONT ",\"endTime\":\"1795227047\"}", "endTime: expected seconds"},
    {NULL, FRONT ",\"endTime\":1.7e9}", "endTime: expected seconds"},
    {NULL, FRONT ",\"endTime\":-1.5}", "endTime: expected seconds"},
    {NULL, FRONT ",\"endTime\":253402300800}", "endTime: expected seconds"},
    {NULL, FRONT ",\"endTime\":1,\"metadata\":7}", "metadata: expected an object"},
    {NULL, FRONT ",\"endTime\":1,\"metadata\":{\"usage_object\":{\"prompt_tokens\":1}}}", "model: missing"},
    {"[]", NULL, "metadata.usage_object: expected an object, found array"},
    {"null", NULL, "prompt_tokens: missing"},
    {"{}", NULL, "metadata.usage_object.prompt_tokens: missing"},
    {"{\"prompt_tokens\":\"8\"}", NULL, "metadata.usage_object.prompt_tokens: expected an integer"},
    {"{\"prompt_tokens\":-8}", NULL, "prompt_tokens: expected an integer from 0 to 1e12, found -8"},
    {"{\"prompt_tokens\":8.0}", NULL, "found 8.0"},
    {"{\"prompt_tokens\":1000000000001}", NULL, "found 1000000000001"},
    {"{\"prompt_tokens\":8,\"server_tool_use\":{\"web_search_requests\":\"many\"}}", NULL,
     "metadata.usage_object.server_tool_use.web_search_requests: expected a count"},
    {"{\"prompt_tokens\":8,\"service_tier\":1}", NULL, "service_tier: expected a string"},
};

static void test_invalid(void **state)
{
    struct buf text = BUF_INIT(10000);
    struct parsed p;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        buf_reset(&text);
        (void)buf_str(&text, "[");
        if (bad[i].event != NULL)
            (void)buf_str(&text, bad[i].event);
        else
            event_put(&text, "", bad[i].usage);
        (void)buf_str(&text, ",");
        event_put(&text, "", "{\"prompt_tokens\":8}");
        (void)buf_str(&text, "]");
        parse(&p, buf_view(&text));
        assert_int_equal(p.batch.n, 2);
        const char *said = p.batch.events[0].invalid;
        if (said == NULL || strstr(said, bad[i].invalid) == NULL)
            fail_msg("%s: %s", bad[i].invalid, said != NULL ? said : "valid");
        assert_null(p.batch.events[1].invalid); /* its neighbour does not suffer */
        parsed_fini(&p);
    }
    buf_fini(&text);
}

/* --- kinds of calls --- */

static const struct event *only(struct parsed *p, const char *members, const char *usage)
{
    struct buf text = BUF_INIT(10000);
    event_put(&text, members, usage);
    parse(p, buf_view(&text));
    buf_fini(&text);
    assert_int_equal(p->batch.n, 1);
    if (p->batch.events[0].invalid != NULL)
        fail_msg("%s", p->batch.events[0].invalid);
    return &p->batch.events[0];
}

#define TOKENS "{\"prompt_tokens\":8,\"completion_tokens\":6}"

static void test_kinds_of_calls(void **state)
{
    struct parsed p;
    const struct event *e;
    (void)state;
    /* a client that left */
    e = only(&p, "\"error_str\":\"Client disconnected the request\",\"response_cost\":8e-05,", TOKENS);
    assert_true(e->is_estimated);
    assert_true(slice_eq_str(e->reported_cost, "8e-05"));
    assert_true(e->tokens[TOKENS_OUTPUT] == 6);
    parsed_fini(&p);
    /* LiteLLM's own cache answered */
    e = only(&p, "\"cache_hit\":true,\"response_cost\":0.00036250000000000003,", TOKENS);
    assert_true(e->tokens[TOKENS_INPUT] == 0 && e->tokens[TOKENS_OUTPUT] == 0 && e->extra.n == 0);
    assert_true(slice_eq_str(e->reported_cost, "0.00036250000000000003"));
    parsed_fini(&p);
    /* no usage object, but counts at the top; what the gateway says it spent on tools */
    e = only(&p,
             "\"prompt_tokens\":8,\"completion_tokens\":2,\"response_cost\":null,"
             "\"cost_breakdown\":{\"tool_usage_cost\":0.01,\"service_tier\":\"flex\"},",
             "null");
    assert_true(e->tokens[TOKENS_INPUT] == 8 && e->reported_cost.n == 0);
    assert_true(slice_eq_str(e->extra, "tool_usage_cost 0.01, service_tier flex"));
    parsed_fini(&p);
    e = only(&p, "\"cost_breakdown\":{\"tool_usage_cost\":0.0},", TOKENS);
    assert_true(e->extra.n == 0);
    parsed_fini(&p);
    /* what the provider's tools did */
    e = only(&p, "\"reeve_provider_tools\":null,", TOKENS);
    assert_true(e->extra.n == 0);
    parsed_fini(&p);
    e = only(&p, "\"reeve_provider_tools\":\"code_interpreter_call 1, shell_call 2\",", TOKENS);
    assert_true(slice_eq_str(e->extra, "reeve_provider_tools code_interpreter_call 1, shell_call 2"));
    parsed_fini(&p);
    struct buf many = BUF_INIT(1000);
    (void)buf_printf(&many, "\"reeve_provider_tools\":\"%0200d\",", 7);
    e = only(&p, buf_cstr(&many), TOKENS);
    assert_true(slice_eq_str(e->extra, "reeve_provider_tools (too long)"));
    parsed_fini(&p);
    buf_fini(&many);
}

/* A failure needs neither tokens nor a model, and does not stand in the way of the attempt that then works.
 */
static void test_failures(void **state)
{
    struct buf text = BUF_INIT(10000);
    struct parsed p;
    (void)state;
    (void)buf_str(&text, "{\"status\":\"failure\",\"litellm_call_id\":\"call-1\",\"endTime\":" TIME
                         ",\"metadata\":{\"user_api_key_hash\":\"" HASH
                         "\",\"usage_object\":{\"prompt_tokens\":\"?\"}},\"model\":\"\"}\n");
    event_put(&text, "", TOKENS);
    parse(&p, buf_view(&text));
    assert_int_equal(p.batch.n, 2);
    const struct event *failed = &p.batch.events[0], *worked = &p.batch.events[1];
    assert_null(failed->invalid);
    assert_null(worked->invalid);
    assert_int_equal(failed->status, EVENT_FAILURE);
    assert_true(slice_eq_str(failed->id, "call-1#failed@1795227047266"));
    assert_true(slice_eq_str(failed->model, "unknown"));
    assert_false(slice_eq(failed->identity, worked->identity));
    parsed_fini(&p);
    buf_fini(&text);
}

/* What is there instead of the hash of a key of ours: two of them are not one. */
static void test_other_keys(void **state)
{
    struct parsed p;
    char hash[SHA256_HEX_SIZE];
    (void)state;
    parse(&p, SL("{\"status\":\"failure\",\"litellm_call_id\":\"a\",\"endTime\":1,\"metadata\":{"
                 "\"user_api_key_hash\":\"litellm_proxy_master_key\"}}\n"
                 "{\"status\":\"failure\",\"litellm_call_id\":\"a\",\"endTime\":1,\"metadata\":{}}"));
    sha256_hex(SL("litellm_proxy_master_key"), hash);
    assert_string_equal(p.batch.events[0].key_hash, hash);
    assert_string_not_equal(p.batch.events[1].key_hash, hash);
    assert_null(p.batch.events[1].invalid);
    parsed_fini(&p);
}

/* A call id that is longer than an event's may be: two that differ at their end stay two. */
static void test_long_id(void **state)
{
    struct buf text = BUF_INIT(10000);
    struct parsed p;
    (void)state;
    for (int i = 0; i < 2; i++)
        (void)buf_printf(&text,
                         "{\"status\":\"success\",\"litellm_call_id\":\"%0300d\",\"endTime\":1.5,"
                         "\"model\":\"m\",\"metadata\":{\"usage_object\":{\"prompt_tokens\":1}}}\n",
                         i);
    parse(&p, buf_view(&text));
    assert_int_equal(p.batch.n, 2);
    assert_null(p.batch.events[0].invalid);
    assert_true(slice_starts(p.batch.events[0].id, SL("sha256:")));
    assert_false(slice_eq(p.batch.events[0].id, p.batch.events[1].id));
    assert_true(p.batch.events[0].time_ms == 1500);
    parsed_fini(&p);
    buf_fini(&text);
}

/* A call id that is nobody's: the caller has chosen it so, and does not call for free. */
static void test_odd_ids(void **state)
{
    static const char *const odd[] = {"", "\"litellm_call_id\":null,", "\"litellm_call_id\":\"\",",
                                      "\"litellm_call_id\":\"(too long)\",",
                                      "\"litellm_call_id\":\"%01100d\","};
    struct buf text = BUF_INIT(10000);
    struct parsed p;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
        buf_reset(&text);
        for (int call = 0; call < 3; call++) { /* the last is the one before, said in another order */
            (void)buf_str(&text, call < 2 ? "{\"status\":\"success\"," : "{\"model\":\"m\",");
            if (strchr(odd[i], '%') != NULL)
                (void)buf_printf(&text, "\"litellm_call_id\":\"%01100d\",", 0);
            else
                (void)buf_str(&text, odd[i]);
            (void)buf_printf(
                &text, "%s\"endTime\":1.00000%d,\"metadata\":{\"usage_object\":{\"prompt_tokens\":1}}}\n",
                call < 2 ? "\"model\":\"m\"," : "\"status\":\"success\",", call > 0);
        }
        parse(&p, buf_view(&text));
        const struct event *e = p.batch.events;
        assert_int_equal(p.batch.n, 3);
        for (int call = 0; call < 3; call++)
            if (e[call].invalid != NULL)
                fail_msg("%s: %s", odd[i], e[call].invalid);
        assert_false(slice_eq(e[0].identity, e[1].identity));
        assert_true(slice_eq(e[1].identity, e[2].identity));
        assert_string_equal(e[1].facts, e[2].facts);
        parsed_fini(&p);
    }
    buf_fini(&text);
}

/* --- in the ledger --- */

/* A call with key 0, at 2026-11-05T12:00:00.25Z. */
static void call(struct buf *out, const char *id, const char *model, const char *more, const char *usage)
{
    char hash[SHA256_HEX_SIZE];
    key_hash(0, hash);
    (void)buf_printf(out,
                     "%s{\"litellm_call_id\":\"%s\",\"call_type\":\"acompletion\",\"status\":\"success\","
                     "\"endTime\":1793880000.25,\"model\":\"%s\",%s\"messages\":[{\"content\":\"[{\"}],"
                     "\"metadata\":{\"user_api_key_hash\":\"%s\",\"usage_object\":%s}}",
                     out->n > 0 ? "," : "[", id, model, more, hash, usage);
}

static void send_all(struct fixture *f, struct buf *body)
{
    (void)buf_str(body, "]");
    post_start(f, "lite", buf_view(body));
    until(f, &f->is_done);
    buf_reset(body);
}

static void assert_month(struct fixture *f, const char *spent, const char *unsettled)
{
    struct billing_budget_view v[8];
    char text[I128_TEXT_MAX];
    size_t n = billing_budgets(f->billing, SL("acme"), v, ARRAY_LEN(v)), i = 0;
    while (i < n && !slice_eq_str(v[i].name, "month"))
        i++;
    assert_true(i < n);
    (void)amount_format(v[i].spent, text);
    assert_string_equal(text, spent);
    (void)amount_format(v[i].unsettled, text);
    assert_string_equal(text, unsettled);
}

static void test_ledger(void **state)
{
    struct fixture *f = *state;
    struct buf body = BUF_INIT(100000);
    static const char anthropic[] =
        "{\"prompt_tokens\":135,\"completion_tokens\":15,\"prompt_tokens_details\":{\"cached_tokens\":100,"
        "\"cache_creation_tokens\":10}}";
    key_put(f, 0, "lite");
    /* (25 × 3 + 15 × 15 + 100 × 0.30 + 10 × 3.75 and 8 × 1.25 + 6 × 10) / 1000000 */
    call(&body, "a", "claude-sonnet-4-5", "\"response_cost\":0.0003675,", anthropic);
    call(&body, "b", "openai/gpt-5", "", TOKENS);
    send_all(f, &body);
    assert_answer(f, 2, 0, "");
    assert_month(f, "0.0004375", "0");
    /* again; altered; of a model without a price; with a search */
    call(&body, "a", "claude-sonnet-4-5", "\"response_cost\":1,", anthropic);
    call(&body, "b", "openai/gpt-5", "", "{\"prompt_tokens\":8,\"completion_tokens\":7}");
    call(&body, "c", "openai/dall-e", "", TOKENS);
    call(&body, "d", "openai/gpt-5", "",
         "{\"prompt_tokens\":8,\"completion_tokens\":6,\"server_tool_use\":{\"web_search_requests\":1}}");
    send_all(f, &body);
    assert_answer(f, 0, 1, "conflict unpriced unpriced");
    /* what is unsettled: 8 × 1.25 + 7 × 10, and the tokens of the search's call */
    assert_month(f, "0.0004375", "0.00015");
    /* a name that only the caller's has a price for */
    call(&body, "e", "azure/gpt-5-2025", "\"model_group\":\"openai/gpt-5\",", "{\"prompt_tokens\":8}");
    send_all(f, &body);
    assert_answer(f, 1, 0, "");
    assert_month(f, "0.0004475", "0.00015");
    buf_fini(&body);
}

static void test_bodies(void **state)
{
    struct fixture *f = *state;
    key_put(f, 0, "lite");
    post_text(f, "lite", "[]");
    assert_answer(f, 0, 0, "");
    post_text(f, "lite", "[{\"status\":\"success\"}]");
    assert_answer(f, 0, 0, "invalid");
    post_text(f, "lite", "");
    assert_int_equal(f->batch.code, E_INVALID);
    post_text(f, "lite", "[{\"status\":\"success\"}");
    assert_int_equal(f->batch.code, E_INVALID);
    post_text(f, "lite", "{\"status\":\"success\"}\n{\"status\":7}\n");
    assert_answer(f, 0, 0, "invalid invalid");
    struct buf body = BUF_INIT(100000);
    for (int i = 0; i < 2001; i++)
        (void)buf_str(&body, i == 0 ? "[{}" : ",{}");
    (void)buf_str(&body, "]");
    post_text(f, "lite", buf_cstr(&body));
    assert_int_equal(f->batch.code, E_TOO_LARGE);
    buf_fini(&body);
}

/* The largest report there may be, of a key that is not known yet, and again once it is. */
static void test_many_unknown(void **state)
{
    enum { MANY = 2000 };
    struct fixture *f = *state;
    struct buf body = BUF_INIT(4u << 20);
    for (int known = 0; known < 2; known++) {
        for (int i = 0; i < MANY; i++) {
            char id[16];
            (void)snprintf(id, sizeof(id), "c%d", i);
            call(&body, id, "openai/gpt-5", "", TOKENS);
        }
        send_all(f, &body);
        if (f->batch.code != 0)
            fail_msg("%s", f->batch.err.msg);
        assert_int_equal(f->batch.n_rejected, known ? 0 : MANY);
        assert_int_equal(f->batch.accepted, known ? MANY : 0);
        assert_int_equal(suspense(f, "", 1000), known ? 0 : 1000);
        key_put(f, 0, "lite");
    }
    assert_month(f, "0.14", "0"); /* each 8 × 1.25 + 6 × 10 */
    buf_fini(&body);
}

/* Calls that the gateway refused for their key: anybody can make them, and nothing is kept of them. */
static void test_refused_calls(void **state)
{
    struct fixture *f = *state;
    size_t commits = f->store.commits;
    post_text(f, "lite",
              "{\"status\":\"failure\",\"litellm_call_id\":\"a\",\"endTime\":1793880000.25,\"model\":\"m\","
              "\"metadata\":{\"user_api_key_hash\":\"" HASH "\"}}");
    assert_answer(f, 0, 0, "unknown_key");
    assert_int_equal(f->store.commits, commits);
    assert_int_equal(suspense(f, "", 1000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_kinds_of_calls),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_other_keys),
        cmocka_unit_test(test_long_id),
        cmocka_unit_test(test_odd_ids),
        cmocka_unit_test_setup_teardown(test_ledger, setup_memory, teardown),
        cmocka_unit_test_setup_teardown(test_bodies, setup_memory, teardown),
        ON_BOTH(test_many_unknown),
        ON_BOTH(test_refused_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
