/* LiteLLM's key API as it answers, does not answer, and answers something else:
 * what is taken for a confirmation, what is asked again, what a person is told.
 */
#include "billing/litellm_keys.h"

#include "tests/unit/net_fixture.h"

#include "base/core/crypto.h"
#include "base/core/log.h"
#include "base/net/address.h"
#include "base/net/server.h"
#include "config/tenancy.h"

#define TEXT  "sk-reeve-of-the-test-0123456789"
#define ADMIN "sk-admin-of-the-test"

enum { PATHS = 5 };
static const char *const paths[PATHS] = {"/key/generate", "/key/block", "/key/unblock", "/key/delete",
                                         "/key/info"};

static struct fixture {
    struct server *server;
    struct litellm_keys *keys;
    struct config_gateway gateway;
    char url[64], hash[SHA256_HEX_SIZE];
    int status[PATHS]; /* 0: no answer at all */
    char answer[PATHS][512];
    unsigned asked[PATHS], open, most;
    char body[1024]; /* the last one that came */
    bool is_held;    /* answers wait */
    struct exchange *held[64];
    bool is_closed;
    unsigned n_done;
    int code;
    char said[ERR_MSG_MAX];
} f;

static int path_of(struct slice target)
{
    for (int i = 0; i < PATHS; i++) {
        struct slice rest = target, path;
        (void)slice_cut(&rest, '?', &path);
        if (slice_eq_str(path, paths[i]))
            return i;
    }
    fail_msg("asked for %.*s", SL_ARG(target));
    return 0;
}

static void answer(struct exchange *ex)
{
    int i = path_of(exchange_request(ex)->target);
    f.open--;
    if (f.status[i] == 0)
        exchange_abort(ex);
    else
        exchange_send(ex, f.status[i], NULL, 0, slice_str(f.answer[i]));
}

static void on_body(struct exchange *ex, int code, struct slice body, void *data)
{
    (void)data;
    assert_int_equal(code, 0);
    if (body.n > 0)
        (void)snprintf(f.body, sizeof(f.body), "%.*s", SL_ARG(body));
    f.asked[path_of(exchange_request(ex)->target)]++;
    f.most = ++f.open > f.most ? f.open : f.most;
    if (f.is_held) {
        assert_true(f.open <= ARRAY_LEN(f.held));
        f.held[f.open - 1] = ex;
    } else {
        answer(ex);
    }
}

static void on_request(struct exchange *ex, void *data)
{
    (void)data;
    struct slice who =
        http_find(exchange_request(ex)->headers, exchange_request(ex)->n_headers, "authorization");
    assert_true(slice_eq_str(who, "Bearer " ADMIN));
    exchange_body_collect(ex, 4096, on_body, NULL);
}

static const struct server_handler handler = {.on_request = on_request};

static int setup(void **state)
{
    struct endpoint at;
    uint16_t port = 0;
    memset(&f, 0, sizeof(f));
    if (fixture_setup(state) != 0)
        return -1;
    sha256_hex(SL(TEXT), f.hash);
    f.server = server_new(&loop, NULL, &handler, NULL);
    assert_int_equal(endpoint_parse(SL("127.0.0.1:0"), &at, NULL), 0);
    assert_int_equal(server_listen(f.server, &at, &port, NULL), 0);
    (void)snprintf(f.url, sizeof(f.url), "http://127.0.0.1:%u", port);
    f.gateway = (struct config_gateway){
        .name = SL("lite"), .kind = GATEWAY_LITELLM, .url = slice_str(f.url), .admin_key = SL(ADMIN)};
    return litellm_keys_new(&loop, &f.keys, NULL);
}

static int teardown(void **state)
{
    bool is_closed = false, is_server_closed = false;
    (void)state;
    if (!f.is_closed) {
        litellm_keys_close(f.keys, on_flag, &is_closed);
        WAIT_FOR(is_closed);
    }
    server_close(f.server, on_flag, &is_server_closed);
    WAIT_FOR(is_server_closed);
    timer_close(&guard, NULL);
    loop_fini(&loop);
    return 0;
}

static void set(int path, int status, const char *text)
{
    f.status[path] = status;
    (void)snprintf(f.answer[path], sizeof(f.answer[path]), "%s", text);
}

static void on_acted(int code, const struct err *err, void *data)
{
    (void)data;
    f.n_done++;
    f.code = code;
    f.said[0] = '\0';
    assert_int_equal(code == 0, err == NULL);
    if (err != NULL)
        (void)snprintf(f.said, sizeof(f.said), "%s", err->msg);
    assert_null(strstr(f.said, TEXT));
    assert_null(strstr(f.said, ADMIN));
}

static void act_start(enum litellm_key_act what, const struct config_gateway *gateway)
{
    const struct litellm_key key = {.hash = f.hash,
                                    .text = TEXT,
                                    .tenant = SL("acme"),
                                    .namespace = SL("alice"),
                                    .workspace = SL("dev"),
                                    .workspace_id = SL("ws_1"),
                                    .user = SL("u \"1\""),
                                    .generation = 3};
    litellm_keys_act(f.keys, SL("lite"), gateway, what, &key, on_acted, NULL);
}

static int act(enum litellm_key_act what)
{
    unsigned before = f.n_done;
    act_start(what, &f.gateway);
    assert_int_equal(f.n_done, before); /* never before the call has returned */
    WAIT_FOR(f.n_done > before);
    assert_int_equal(f.n_done, before + 1);
    return f.code;
}

enum { GENERATE, BLOCK, UNBLOCK, DELETE, INFO };
static char row[256];
static const char *row_of(const char *more)
{
    (void)snprintf(row, sizeof(row), "{\"token\":\"%s\"%s}", f.hash, more);
    return row;
}

static void test_made(void **state)
{
    (void)state;
    char expected[1024];
    set(GENERATE, 200, row_of(",\"key\":\"other\""));
    assert_int_equal(act(LITELLM_KEY_MAKE), 0);
    (void)snprintf(
        expected, sizeof(expected),
        "{\"key\":\"" TEXT "\",\"key_alias\":\"ws_1-g3-%.8s\",\"allowed_routes\":["
        "\"/v1/chat/completions\",\"/v1/completions\",\"/v1/embeddings\",\"/v1/messages\","
        "\"/v1/responses\"],\"metadata\":{\"reeve_tenant\":\"acme\",\"reeve_namespace\":\"alice\","
        "\"reeve_workspace\":\"dev\",\"reeve_workspace_id\":\"ws_1\",\"reeve_user\":\"u \\\"1\\\"\"}}",
        f.hash);
    assert_string_equal(f.body, expected);
    set(GENERATE, 200, "{\"key\":\"" TEXT "\"}");
    assert_int_equal(act(LITELLM_KEY_MAKE), 0);
    assert_int_equal(f.asked[INFO], 0);
}

static void test_made_before(void **state)
{
    (void)state;
    set(GENERATE, 400, "{\"error\":{\"message\":\"Key with alias 'ws_1' already exists.\"}}");
    set(INFO, 200, "{\"info\":{\"blocked\":null,\"status\":\"active\"}}");
    assert_int_equal(act(LITELLM_KEY_MAKE), 0);
    set(INFO, 200, "{\"info\":{\"blocked\":true,\"status\":\"revoked\"}}");
    set(UNBLOCK, 200, row_of(",\"blocked\":false"));
    assert_int_equal(act(LITELLM_KEY_MAKE), 0);
    assert_int_equal(f.asked[UNBLOCK], 1);
    /* the alias is another key's, or ours was deleted: the first answer is the
     * story */
    set(INFO, 404, "{\"error\":{\"message\":\"Key not found in database\"}}");
    assert_int_equal(act(LITELLM_KEY_MAKE), E_UPSTREAM);
    assert_string_equal(f.said, "key/generate: 400: Key with alias 'ws_1' already exists.");
    set(INFO, 200, "{\"info\":{\"status\":\"deleted\"}}");
    assert_int_equal(act(LITELLM_KEY_MAKE), E_UPSTREAM);
    set(INFO, 200, "{\"info\":{\"status\":\"expired\"}}");
    assert_int_equal(act(LITELLM_KEY_MAKE), E_UPSTREAM);
}

/* A page of somebody else's confirms nothing. */
static void test_garbage(void **state)
{
    (void)state;
    static const char *const pages[] = {
        "<html>", "", "null", "[]", "{}", "{\"key\":\"sk-other\"}", "{\"deleted_keys\":[]}"};
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        for (int k = 0; k < PATHS; k++)
            set(k, 200, pages[i]);
        for (int what = LITELLM_KEY_MAKE; what <= LITELLM_KEY_REVOKE; what++)
            assert_int_equal(act((enum litellm_key_act)what), E_UPSTREAM);
        for (int k = 0; k < PATHS; k++)
            set(k, 404, i % 2 == 0 ? "{\"detail\":\"Not Found\"}" : "<h1>404</h1>"); /* a wrong address */
        for (int what = LITELLM_KEY_MAKE; what <= LITELLM_KEY_REVOKE; what++)
            assert_int_equal(act((enum litellm_key_act)what), E_UPSTREAM);
    }
}

static void test_blocked(void **state)
{
    (void)state;
    set(BLOCK, 200, row_of(",\"blocked\":true"));
    assert_int_equal(act(LITELLM_KEY_BLOCK), 0);
    set(UNBLOCK, 200, row_of(",\"blocked\":false"));
    assert_int_equal(act(LITELLM_KEY_UNBLOCK), 0);
    assert_int_equal(f.asked[INFO], 0);
    set(BLOCK, 200, "null"); /* the document allows it */
    set(INFO, 200, "{\"info\":{\"blocked\":true}}");
    assert_int_equal(act(LITELLM_KEY_BLOCK), 0);
    set(INFO, 200, "{\"info\":{\"blocked\":false}}");
    assert_int_equal(act(LITELLM_KEY_BLOCK), E_UPSTREAM);
    set(BLOCK, 404, "{\"error\":{\"message\":\"Key not found.\"}}");
    assert_int_equal(act(LITELLM_KEY_BLOCK), 0); /* what is not there is good for nothing */
    set(UNBLOCK, 404, "{\"error\":{\"message\":\"Key not found.\"}}");
    assert_int_equal(act(LITELLM_KEY_UNBLOCK), E_NOT_FOUND);
}

static void test_revoked(void **state)
{
    (void)state;
    (void)snprintf(f.answer[DELETE], sizeof(f.answer[DELETE]), "{\"deleted_keys\":[\"%s\"]}", f.hash);
    f.status[DELETE] = 200;
    assert_int_equal(act(LITELLM_KEY_REVOKE), 0);
    assert_non_null(strstr(f.body, f.hash));
    assert_null(strstr(f.body, TEXT));
    set(DELETE, 404, "{\"detail\":{\"error\":\"No keys found\"}}");
    assert_int_equal(act(LITELLM_KEY_REVOKE), 0);
    set(DELETE, 400, "{\"detail\":{\"error\":\"Not all keys passed in were deleted.\"}}");
    set(INFO, 200, "{\"info\":{\"status\":\"deleted\"}}");
    assert_int_equal(act(LITELLM_KEY_REVOKE), 0);
    set(INFO, 200, "{\"info\":{\"status\":\"active\"}}");
    assert_int_equal(act(LITELLM_KEY_REVOKE), E_UPSTREAM);
    assert_string_equal(f.said, "key/delete: 400: Not all keys passed in were deleted.");
}

static void test_refused(void **state)
{
    (void)state;
    set(GENERATE, 401, "{\"error\":{\"message\":\"Received API Key = " ADMIN "\"}}");
    assert_int_equal(act(LITELLM_KEY_MAKE), E_UPSTREAM);
    assert_string_equal(f.said, "key/generate: 401: it refuses our `admin_key`");
    set(GENERATE, 400, "{\"error\":{\"message\":\"bad key " TEXT "\"}}");
    set(INFO, 404, "{\"error\":{}}");
    assert_int_equal(act(LITELLM_KEY_MAKE), E_UPSTREAM);
    assert_string_equal(f.said, "key/generate: 400");
    set(GENERATE, 400, "{\"detail\":\"two\\nlines \\u00e9\"}");
    assert_int_equal(act(LITELLM_KEY_MAKE), E_UPSTREAM);
    assert_string_equal(f.said, "key/generate: 400: two lines   ");
    act_start(LITELLM_KEY_REVOKE, NULL);
    WAIT_FOR(f.code == E_UNAVAILABLE);
    assert_string_equal(f.said, "key/delete: the gateway is not configured any more");
    f.gateway.admin_key.n = 0;
    assert_int_equal(act(LITELLM_KEY_REVOKE), E_UNAVAILABLE);
    assert_string_equal(f.said, "key/delete: the gateway is not configured with an `admin_key`");
}

/* One that fails in a row is left alone, and tried again. */
static void test_left_alone(void **state)
{
    (void)state;
    set(DELETE, 500, "Internal Server Error");
    for (int i = 0; i < 3; i++)
        assert_int_equal(act(LITELLM_KEY_REVOKE), E_UPSTREAM);
    assert_int_equal(act(LITELLM_KEY_REVOKE), E_UNAVAILABLE);
    assert_string_equal(f.said, "key/delete: 500 (left alone for a while after 3 failures)");
    assert_int_equal(f.asked[DELETE], 3);
    set(DELETE, 404, "{\"detail\":{\"error\":\"No keys found\"}}");
    int64_t end = clock_mono_ms(&clock_system) + 10000;
    while (act(LITELLM_KEY_REVOKE) != 0) {
        assert_true(clock_mono_ms(&clock_system) < end);
        run_for(50);
    }
    assert_int_equal(f.asked[DELETE], 4);
    assert_int_equal(act(LITELLM_KEY_REVOKE), 0);
    set(DELETE, 0, ""); /* no answer */
    assert_int_equal(act(LITELLM_KEY_REVOKE), E_UPSTREAM);
}

static void test_many(void **state)
{
    (void)state;
    set(DELETE, 404, "{\"detail\":{\"error\":\"No keys found\"}}");
    f.is_held = true;
    for (int i = 0; i < 200; i++)
        act_start(LITELLM_KEY_REVOKE, &f.gateway);
    WAIT_FOR(f.open == 16);
    run_for(50);
    assert_int_equal(f.open, 16);
    f.is_held = false;
    while (f.open > 0)
        answer(f.held[f.open - 1]);
    WAIT_FOR(f.n_done == 200);
    assert_int_equal(f.code, 0);
    assert_int_equal(f.asked[DELETE], 200);
    assert_true(f.most <= 16);
}

static void test_closed(void **state)
{
    (void)state;
    f.is_held = true;
    for (int i = 0; i < 40; i++)
        act_start(LITELLM_KEY_MAKE, &f.gateway);
    WAIT_FOR(f.open == 16);
    litellm_keys_close(f.keys, on_flag, &f.is_closed);
    assert_int_equal(f.n_done, 0);
    act_start(LITELLM_KEY_MAKE, &f.gateway); /* too late */
    WAIT_FOR(f.is_closed);
    assert_int_equal(f.n_done, 41);
    assert_int_equal(f.code, E_CANCELLED);
    while (f.open > 0)
        exchange_abort(f.held[--f.open]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    log_setup(LOG_ERROR, LOG_FORM_AUTO, STDERR_FILENO, &clock_system);
    const struct CMUnitTest tests[] = {
        TEST(test_made),       TEST(test_made_before), TEST(test_garbage),
        TEST(test_blocked),    TEST(test_revoked),     TEST(test_refused),
        TEST(test_left_alone), TEST(test_many),        TEST(test_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
