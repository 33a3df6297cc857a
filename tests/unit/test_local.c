/* The local provider with the real bubblewrap, reeve-init and sandbox-agent server: what a controller and a
 * hostile tenant would notice. Skipped, with the reason, where the machine lacks one of them; with
 * REEVE_REQUIRE=all that fails. Programs: REEVE_INIT (default build/reeve-init), REEVE_AGENT_BINARY (default
 * build/sandbox-agent). */
#include "providers/provider.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "providers/init/protocol.h"

#define OP_MS   20000
#define TOKEN   "test-token-8c1f"
#define CONTROL "ctl_test"

struct world {
    struct loop loop;
    struct provider *p;
    char root[64];
    bool is_late;
    struct timer late;
    unsigned n_events, n_doors;
    char last_event[32];
    struct stream *door;
    struct buf door_text;
    bool keep_root;
};

/* --- harness --- */

static const char *program(const char *env, const char *otherwise)
{
    const char *v = getenv(env);
    return v != NULL && *v != '\0' ? v : otherwise;
}

static void on_late(void *data)
{
    ((struct world *)data)->is_late = true;
}

static bool is_true(const bool *flag)
{
    return *(const volatile bool *)flag;
}

/* Runs the loop until the flag is set; fails the test after ms. */
static void wait_for(struct world *w, const bool *flag, int64_t ms, const char *what)
{
    w->is_late = false;
    timer_start(&w->late, ms);
    while (!is_true(flag) && !w->is_late)
        uv_run(&w->loop.uv, UV_RUN_ONCE);
    timer_stop(&w->late);
    if (!is_true(flag))
        fail_msg("not in time: %s", what);
}

static void pass_ms(struct world *w, int64_t ms)
{
    bool never = false;
    w->is_late = false;
    timer_start(&w->late, ms);
    while (!w->is_late && !is_true(&never))
        uv_run(&w->loop.uv, UV_RUN_ONCE);
}

struct answer {
    bool is_done;
    int code;
    struct err err;
    enum sandbox_state state;
    char reason[256];
    size_t n;
    char ids[512];
};

static void answer_take(struct answer *a, int code, const struct err *err)
{
    assert_false(a->is_done); /* exactly once */
    a->is_done = true;
    a->code = code;
    if (err != NULL)
        a->err = *err;
    if (code != 0)
        assert_non_null(err);
}

static void on_done(int code, const struct err *err, void *data)
{
    answer_take(data, code, err);
}

static void on_info(int code, const struct sandbox_info *info, const struct err *err, void *data)
{
    struct answer *a = data;
    answer_take(a, code, err);
    if (code != 0)
        return;
    a->state = info->state;
    (void)snprintf(a->reason, sizeof(a->reason), "%.*s", SL_ARG(info->reason));
}

static void on_list(int code, const struct sandbox_info *items, size_t n, const struct err *err, void *data)
{
    struct answer *a = data;
    answer_take(a, code, err);
    a->n = n;
    for (size_t i = 0; i < n; i++) {
        size_t at = strlen(a->ids);
        (void)snprintf(a->ids + at, sizeof(a->ids) - at, "%.*s ", SL_ARG(items[i].id));
    }
}

static void on_door_read(struct stream *s, struct slice bytes, void *data)
{
    struct world *w = data;
    (void)buf_slice(&w->door_text, bytes);
    struct slice answer = SL("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nfrom-door");
    (void)stream_write(s, &answer, 1);
}

static void on_door_end(struct stream *s, void *data)
{
    (void)data;
    stream_close(s);
}

static void on_door_error(struct stream *s, int code, void *data)
{
    (void)code;
    (void)data;
    stream_close(s);
}

static const struct stream_events door_events = {
    .on_read = on_door_read, .on_eof = on_door_end, .on_error = on_door_error};

static void on_door(struct slice sandbox, struct slice workspace, struct stream *s, void *data)
{
    struct world *w = data;
    assert_true(sandbox.n > 0);
    assert_true(slice_eq_str(workspace, "ws-one"));
    w->n_doors++;
    stream_own(s, &door_events, w);
    stream_read_start(s);
}

static void on_event(struct slice sandbox, struct slice workspace, const char *what, void *data)
{
    struct world *w = data;
    (void)sandbox;
    (void)workspace;
    w->n_events++;
    (void)snprintf(w->last_event, sizeof(w->last_event), "%s", what);
}

static void provider_open(struct world *w)
{
    struct err err = {0};
    struct local_options o = {.name = SL("local"),
                              .root = w->root,
                              .init_path = program("REEVE_INIT", "build/reeve-init"),
                              .agent_binary = program("REEVE_AGENT_BINARY", "build/sandbox-agent"),
                              .uid_first = 210000,
                              .uid_count = 100};
    int code = provider_local_open(&w->loop, &o, &w->p, &err);
    if (code == E_UNAVAILABLE) {
        const char *require = getenv("REEVE_REQUIRE");
        print_message("skipped: %s\n", err.msg);
        if (require != NULL && strcmp(require, "all") == 0)
            fail_msg("%s", err.msg);
        skip();
    }
    if (code != 0)
        fail_msg("%s", err.msg);
    w->p->on_door = on_door;
    w->p->on_event = on_event;
    w->p->data = w;
}

static struct world *world_of(void **state)
{
    provider_open(*state);
    return *state;
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void provider_shut(struct world *w)
{
    bool closed = false;
    w->p->ops->close(w->p, on_closed, &closed);
    wait_for(w, &closed, OP_MS, "close");
    w->p = NULL;
}

static int tree_entry_remove(const char *path, const struct stat *st, int kind, struct FTW *f)
{
    (void)st;
    (void)kind;
    (void)f;
    return remove(path);
}

static int setup(void **state)
{
    struct world *w = MEM_NEW(struct world);
    *state = w;
    (void)snprintf(w->root, sizeof(w->root), "/tmp/reeve-local-XXXXXX");
    assert_non_null(mkdtemp(w->root));
    (void)chmod(w->root, 0755);
    assert_int_equal(loop_init(&w->loop, &clock_system, &rnd_system), 0);
    timer_init(&w->late, &w->loop, on_late, w);
    buf_init(&w->door_text, 65536);
    return 0;
}

static struct answer destroy(struct world *w, const char *id)
{
    struct answer a = {0};
    w->p->ops->destroy(w->p, slice_str(id), OP_MS, on_done, &a);
    assert_false(a.is_done); /* never inside the call */
    wait_for(w, &a.is_done, 2 * OP_MS, "destroy");
    return a;
}

static int teardown(void **state)
{
    struct world *w = *state;
    struct answer a = {0};
    if (w->p != NULL) {
        w->p->ops->list(w->p, SL(CONTROL), OP_MS, on_list, &a);
        wait_for(w, &a.is_done, OP_MS, "list");
        struct slice ids = slice_str(a.ids), id;
        while (ids.n > 0) {
            char text[64];
            (void)slice_cut(&ids, ' ', &id);
            (void)snprintf(text, sizeof(text), "%.*s", SL_ARG(id));
            if (id.n > 0)
                (void)destroy(w, text);
        }
        provider_shut(w);
    }
    timer_close(&w->late, NULL);
    loop_fini(&w->loop);
    buf_fini(&w->door_text);
    (void)nftw(w->root, tree_entry_remove, 16, FTW_DEPTH | FTW_PHYS);
    mem_free(w);
    return 0;
}

/* --- the calls, waiting --- */

static struct answer create(struct world *w, const char *id, const char *home)
{
    struct answer a = {0};
    struct sandbox_spec s = {.id = slice_str(id),
                             .labels = {.controller = SL(CONTROL),
                                        .tenant = SL("acme"),
                                        .namespace = SL("alice"),
                                        .name = SL("dev"),
                                        .workspace = SL("ws-one"),
                                        .generation = 1,
                                        .attempt = 1,
                                        .epoch = 1},
                             .home_id = slice_str(home),
                             .cpus_milli = 1500,
                             .memory_bytes = (uint64_t)512 << 20,
                             .processes = 64};
    w->p->ops->create(w->p, &s, OP_MS, on_done, &a);
    assert_false(a.is_done);
    wait_for(w, &a.is_done, OP_MS, "create");
    return a;
}

static struct answer start(struct world *w, const char *id)
{
    struct answer a = {0};
    struct sandbox_env env[] = {{SL("ANTHROPIC_API_KEY"), SL("sk-test-1")}, {SL("LANG"), SL("C")}};
    struct sandbox_server s = {.env = env, .n_env = 2, .token = SL(TOKEN), .port = 2468};
    w->p->ops->start(w->p, slice_str(id), &s, OP_MS, on_done, &a);
    assert_false(a.is_done);
    wait_for(w, &a.is_done, OP_MS, "start");
    return a;
}

static struct answer suspend(struct world *w, const char *id)
{
    struct answer a = {0};
    w->p->ops->suspend(w->p, slice_str(id), OP_MS, on_done, &a);
    wait_for(w, &a.is_done, OP_MS, "suspend");
    return a;
}

static struct answer describe(struct world *w, const char *id)
{
    struct answer a = {0};
    w->p->ops->describe(w->p, slice_str(id), OP_MS, on_info, &a);
    wait_for(w, &a.is_done, OP_MS, "describe");
    return a;
}

#define OK(call)                                                                                             \
    do {                                                                                                     \
        struct answer ok_ = (call);                                                                          \
        if (ok_.code != 0)                                                                                   \
            fail_msg("%s: %s", #call, ok_.err.msg);                                                          \
    } while (0)

/* --- HTTP to inside, over the connector --- */

struct exchange_result {
    bool is_done;
    int code, status;
    struct err err;
    struct buf body;
};

static void on_head(struct http_call *c, const struct http_response *r, void *data)
{
    (void)c;
    ((struct exchange_result *)data)->status = r->status;
}

static void on_body(struct http_call *c, struct slice bytes, void *data)
{
    (void)c;
    (void)buf_slice(&((struct exchange_result *)data)->body, bytes);
}

static void on_end(struct http_call *c, void *data)
{
    (void)c;
    ((struct exchange_result *)data)->is_done = true;
}

static void on_http_error(struct http_call *c, int code, const struct err *err, void *data)
{
    struct exchange_result *r = data;
    (void)c;
    r->code = code;
    r->err = *err;
    r->is_done = true;
}

static const struct http_call_events http_events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_http_error};

static void http_do(struct world *w, struct connector *c, const char *method, const char *target,
                    const char *body, struct exchange_result *r)
{
    struct http_pool *pool = http_pool_new(&w->loop, c, NULL);
    struct http_header h[] = {{SL("Host"), SL("127.0.0.1")},
                              {SL("Authorization"), SL("Bearer " TOKEN)},
                              {SL("Content-Type"), SL("application/json")}};
    struct http_call_options o = {.method = slice_str(method),
                                  .target = slice_str(target),
                                  .headers = h,
                                  .n_headers = ARRAY_LEN(h),
                                  .has_body = body != NULL,
                                  .length = body != NULL ? strlen(body) : 0,
                                  .body = body != NULL ? slice_str(body) : SLICE_NULL,
                                  .connect_timeout_ms = 5000,
                                  .head_timeout_ms = OP_MS};
    *r = (struct exchange_result){.body = BUF_INIT(1 << 20)};
    (void)http_call_start(pool, &o, &http_events, r);
    wait_for(w, &r->is_done, OP_MS, target);
    http_pool_close(pool);
}

static void healthy(struct world *w, const char *id)
{
    struct connector *c = w->p->ops->connector(w->p, slice_str(id), 2468);
    struct exchange_result r;
    for (int i = 0; i < 200; i++) {
        http_do(w, c, "GET", "/v1/health", NULL, &r);
        bool is_up = r.code == 0 && r.status == 200;
        buf_fini(&r.body);
        if (is_up) {
            w->p->ops->connector_release(w->p, c);
            return;
        }
        pass_ms(w, 20);
    }
    fail_msg("the server is not healthy: %s", r.err.msg);
}

/* Runs a shell command inside, gives its output (stdout and stderr); returns the exit code. */
static int inside(struct world *w, const char *id, const char *script, char *out, size_t n)
{
    struct connector *c = w->p->ops->connector(w->p, slice_str(id), 2468);
    struct exchange_result r;
    struct buf body = BUF_INIT(65536);
    struct jsonw j;
    jsonw_init(&j, &body);
    jsonw_object(&j);
    jsonw_kstr(&j, "command", "/bin/sh");
    jsonw_key(&j, "args");
    jsonw_array(&j);
    jsonw_str(&j, "-c");
    jsonw_str(&j, script);
    jsonw_array_end(&j);
    jsonw_ki64(&j, "timeoutMs", 15000);
    jsonw_object_end(&j);
    http_do(w, c, "POST", "/v1/processes/run", buf_cstr(&body), &r);
    if (r.code != 0 || r.status != 200)
        fail_msg("run: %s status %d: %s", r.err.msg, r.status, buf_cstr(&r.body));
    struct json *root = NULL;
    struct err err = {0};
    assert_int_equal(json_parse(buf_view(&r.body), NULL, &root, &err), 0);
    int64_t code = -1;
    (void)json_i64(json_get(root, "exitCode"), &code);
    struct slice so = json_string(json_get(root, "stdout")), se = json_string(json_get(root, "stderr"));
    (void)snprintf(out, n, "%.*s%.*s", SL_ARG(so), SL_ARG(se));
    json_free(root);
    buf_fini(&r.body);
    buf_fini(&body);
    w->p->ops->connector_release(w->p, c);
    return (int)code;
}

/* --- tests --- */

static void test_life(void **state)
{
    struct world *w = world_of(state);
    char out[4096];
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_ABSENT);
    assert_int_equal(start(w, "sb-1").code, E_NOT_FOUND);
    OK(create(w, "sb-1", "home-1"));
    assert_int_equal(create(w, "sb-1", "home-1").code, E_EXISTS);
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_CREATED);
    OK(start(w, "sb-1"));
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_RUNNING);
    healthy(w, "sb-1");
    assert_int_equal(inside(w, "sb-1",
                            "echo kept > ~/file; echo $ANTHROPIC_API_KEY $LANG $HOME; pwd; hostname", out,
                            sizeof(out)),
                     0);
    assert_string_equal(out, "sk-test-1 C /home/agent\n/home/agent\ndev\n");
    OK(start(w, "sb-1")); /* again: the server that runs is left alone */
    healthy(w, "sb-1");

    OK(suspend(w, "sb-1"));
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_SUSPENDED);
    OK(suspend(w, "sb-1"));
    OK(start(w, "sb-1"));
    healthy(w, "sb-1");
    assert_int_equal(inside(w, "sb-1", "cat ~/file", out, sizeof(out)), 0);
    assert_string_equal(out, "kept\n");

    OK(destroy(w, "sb-1"));
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_ABSENT);
    OK(destroy(w, "sb-1"));
    OK(create(w, "sb-2", "home-1")); /* the home stayed */
    OK(start(w, "sb-2"));
    healthy(w, "sb-2");
    assert_int_equal(inside(w, "sb-2", "cat ~/file", out, sizeof(out)), 0);
    assert_string_equal(out, "kept\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
