/* sandbox_world: a provider under test with its loop, its calls made waiting, and HTTP to what runs inside.
 * For the tests of providers whose sandboxes are real. */
#ifndef REEVE_TESTS_UNIT_SANDBOX_WORLD_H
#define REEVE_TESTS_UNIT_SANDBOX_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/buf.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "providers/provider.h"

#define OP_MS    20000
#define CLOSE_MS 10000 /* whatever is under way, and however long that may take */
#define TOKEN    "test-token-8c1f"
#define CONTROL  "ctl_test"

struct world {
    struct loop loop;
    struct provider *p;
    char root[64];
    const char *image; /* of the sandboxes that are made; NULL: none */
    bool is_late;
    struct timer late;
    unsigned n_events, n_doors;
    char last_event[32];
    struct listener *outside[2];
    struct buf door_text;
};

static inline const char *program(const char *env, const char *otherwise)
{
    const char *v = getenv(env);
    return v != NULL && *v != '\0' ? v : otherwise;
}

static inline void on_late(void *data)
{
    ((struct world *)data)->is_late = true;
}

/* A root of the test's own, named after `pattern` (for mkdtemp), and a loop; no provider yet. */
static inline void world_init(struct world *w, const char *pattern)
{
    (void)snprintf(w->root, sizeof(w->root), "%s", pattern);
    assert_non_null(mkdtemp(w->root));
    assert_int_equal(loop_init(&w->loop, &clock_system, &rnd_system), 0);
    timer_init(&w->late, &w->loop, on_late, w);
    buf_init(&w->door_text, 65536);
}

/* Once the provider is shut; the root is left to the caller. */
static inline void world_fini(struct world *w)
{
    timer_close(&w->late, NULL);
    loop_fini(&w->loop);
    buf_fini(&w->door_text);
}

/* Why the test is skipped; where everything has to be there, that fails it. */
static inline void say_skipped(const char *why)
{
    const char *require = getenv("REEVE_REQUIRE");
    print_message("skipped: %s\n", why);
    if (require != NULL && strcmp(require, "all") == 0)
        fail_msg("%s", why);
}

static inline bool is_true(const bool *flag)
{
    return *(const volatile bool *)flag;
}

/* Runs the loop until the flag is set; fails the test after ms. */
static inline void wait_for(struct world *w, const bool *flag, int64_t ms, const char *what)
{
    w->is_late = false;
    timer_start(&w->late, ms);
    while (!is_true(flag) && !w->is_late)
        uv_run(&w->loop.uv, UV_RUN_ONCE);
    timer_stop(&w->late);
    if (!is_true(flag))
        fail_msg("not in time: %s", what);
}

static inline void pass_ms(struct world *w, int64_t ms)
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
    struct sandbox_usage usage;
    size_t n;
    char ids[512];
};

static inline void answer_take(struct answer *a, int code, const struct err *err)
{
    assert_false(a->is_done); /* exactly once */
    a->is_done = true;
    a->code = code;
    if (err != NULL)
        a->err = *err;
    if (code != 0)
        assert_non_null(err);
}

static inline void on_done(int code, const struct err *err, void *data)
{
    answer_take(data, code, err);
}

static inline void on_info(int code, const struct sandbox_info *info, const struct err *err, void *data)
{
    struct answer *a = data;
    answer_take(a, code, err);
    if (code != 0)
        return;
    a->state = info->state;
    (void)snprintf(a->reason, sizeof(a->reason), "%.*s", SL_ARG(info->reason));
}

static inline void on_list(int code, const struct sandbox_info *items, size_t n, const struct err *err,
                           void *data)
{
    struct answer *a = data;
    answer_take(a, code, err);
    a->n = n;
    for (size_t i = 0; i < n; i++) {
        size_t at = strlen(a->ids);
        (void)snprintf(a->ids + at, sizeof(a->ids) - at, "%.*s ", SL_ARG(items[i].id));
    }
}

static inline void on_door_read(struct stream *s, struct slice bytes, void *data)
{
    struct world *w = data;
    (void)buf_slice(&w->door_text, bytes);
    struct slice answer = SL("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nfrom-door");
    (void)stream_write(s, &answer, 1);
}

static inline void on_door_end(struct stream *s, void *data)
{
    (void)data;
    stream_close(s);
}

static inline void on_door_error(struct stream *s, int code, void *data)
{
    (void)code;
    (void)data;
    stream_close(s);
}

static const struct stream_events door_events = {
    .on_read = on_door_read, .on_eof = on_door_end, .on_error = on_door_error};

static inline void on_door(struct slice sandbox, struct slice workspace, struct stream *s, void *data)
{
    struct world *w = data;
    assert_true(sandbox.n > 0);
    assert_true(slice_eq_str(workspace, "ws-one"));
    w->n_doors++;
    stream_own(s, &door_events, w);
    stream_read_start(s);
}

static inline void on_event(struct slice sandbox, struct slice workspace, const char *what, void *data)
{
    struct world *w = data;
    (void)sandbox;
    (void)workspace;
    w->n_events++;
    (void)snprintf(w->last_event, sizeof(w->last_event), "%s", what);
}

/* After the provider was opened: what it tells comes here. */
static inline void provider_listen(struct world *w)
{
    w->p->on_door = on_door;
    w->p->on_event = on_event;
    w->p->data = w;
}

static inline void on_closed(void *data)
{
    *(bool *)data = true;
}

static inline void provider_shut(struct world *w)
{
    bool closed = false;
    w->p->ops->close(w->p, on_closed, &closed);
    wait_for(w, &closed, CLOSE_MS, "close");
    w->p = NULL;
}

static inline struct answer destroy(struct world *w, const char *id)
{
    struct answer a = {0};
    w->p->ops->destroy(w->p, slice_str(id), OP_MS, on_done, &a);
    assert_false(a.is_done); /* never inside the call */
    wait_for(w, &a.is_done, 2 * OP_MS, "destroy");
    return a;
}

/* --- the calls, waiting --- */

static inline struct answer create(struct world *w, const char *id, const char *home)
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
                             .image = w->image != NULL ? slice_str(w->image) : SLICE_NULL,
                             .cpus_milli = 1500,
                             .memory_bytes = (uint64_t)512 << 20,
                             .processes = 64};
    w->p->ops->create(w->p, &s, OP_MS, on_done, &a);
    assert_false(a.is_done);
    wait_for(w, &a.is_done, OP_MS, "create");
    return a;
}

static inline struct answer start(struct world *w, const char *id)
{
    struct answer a = {0};
    struct sandbox_env env[] = {{SL("ANTHROPIC_API_KEY"), SL("sk-test-1")}, {SL("LANG"), SL("C")}};
    struct sandbox_server s = {.env = env, .n_env = 2, .token = SL(TOKEN), .port = 2468};
    w->p->ops->start(w->p, slice_str(id), &s, OP_MS, on_done, &a);
    assert_false(a.is_done);
    wait_for(w, &a.is_done, OP_MS, "start");
    return a;
}

static inline void on_usage(int code, const struct sandbox_usage *u, const struct err *err, void *data)
{
    struct answer *a = data;
    answer_take(a, code, err);
    if (code == 0)
        a->usage = *u;
}

static inline struct answer usage_of(struct world *w, const char *id)
{
    struct answer a = {0};
    w->p->ops->usage(w->p, slice_str(id), OP_MS, on_usage, &a);
    wait_for(w, &a.is_done, OP_MS, "usage");
    return a;
}

static inline struct answer suspend_as(struct world *w, const char *id, enum suspend_kind kind)
{
    struct answer a = {0};
    w->p->ops->suspend(w->p, slice_str(id), kind, OP_MS, on_done, &a);
    wait_for(w, &a.is_done, 2 * OP_MS, "suspend");
    return a;
}

static inline struct answer suspend(struct world *w, const char *id)
{
    return suspend_as(w, id, SUSPEND_STOP);
}

static inline struct answer describe(struct world *w, const char *id)
{
    struct answer a = {0};
    w->p->ops->describe(w->p, slice_str(id), OP_MS, on_info, &a);
    wait_for(w, &a.is_done, OP_MS, "describe");
    return a;
}

static inline struct answer list(struct world *w)
{
    struct answer a = {0};
    w->p->ops->list(w->p, SL(CONTROL), OP_MS, on_list, &a);
    wait_for(w, &a.is_done, OP_MS, "list");
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

static inline void on_head(struct http_call *c, const struct http_response *r, void *data)
{
    (void)c;
    ((struct exchange_result *)data)->status = r->status;
}

static inline void on_body(struct http_call *c, struct slice bytes, void *data)
{
    (void)c;
    (void)buf_slice(&((struct exchange_result *)data)->body, bytes);
}

static inline void on_end(struct http_call *c, void *data)
{
    (void)c;
    ((struct exchange_result *)data)->is_done = true;
}

static inline void on_http_error(struct http_call *c, int code, const struct err *err, void *data)
{
    struct exchange_result *r = data;
    (void)c;
    r->code = code;
    r->err = *err;
    r->is_done = true;
}

static const struct http_call_events http_events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_http_error};

static inline void http_do(struct world *w, struct connector *c, const char *method, const char *target,
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

static inline void healthy(struct world *w, const char *id)
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
static inline int inside(struct world *w, const char *id, const char *script, char *out, size_t n)
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

/* Descriptors of this process. */
static inline unsigned n_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;
    assert_non_null(d);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static inline void wait_event(struct world *w, const char *what)
{
    for (int i = 0; i < 500 && strcmp(w->last_event, what) != 0; i++)
        pass_ms(w, 10);
    assert_string_equal(w->last_event, what);
}

static inline void on_stream(int code, struct stream *s, const struct err *err, void *data)
{
    answer_take(data, code, err);
    if (s != NULL)
        stream_close(s);
}

/* Its accounts move with what it does. Skips where the machine keeps none. */
static inline void usage_moves(struct world *w, const char *id)
{
    char out[256];
    struct answer before = usage_of(w, id), after;
    if (before.code == E_UNAVAILABLE)
        return;
    OK(before);
    assert_true(before.usage.memory_bytes > 1 << 20);
    assert_int_equal(
        inside(w, id,
               "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; dd if=/dev/zero of=/tmp/much "
               "bs=1048576 count=64 2>/dev/null",
               out, sizeof(out)),
        0);
    after = usage_of(w, id);
    OK(after);
    assert_true(after.usage.cpu_ms >= before.usage.cpu_ms + 30);
    assert_true(after.usage.memory_bytes >= before.usage.memory_bytes + (60 << 20));
}

#endif
