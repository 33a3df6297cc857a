/* standby: a provider that does not open at first. The test owns the clock, the opening and the provider
 * behind. */
#include "providers/standby.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/mem.h"
#include "base/net/stream.h"

#define TURNS_MAX 100

/* What the provider behind was asked last. */
struct behind {
    struct provider p;
    struct world *w;
    const char *op;
    char id[64];
    int64_t timeout_ms;
    const void *arg;
    struct connector connector;
    unsigned released, closes;
};

struct world {
    struct loop loop;
    struct clock_manual clock;
    unsigned opens, fails, frees; /* `fails`: openings that will fail still */
    int64_t open_ms;              /* how long an opening takes */
    struct behind behind;
    struct provider *p;
    bool is_closed;
    /* what came back */
    unsigned answers;
    int code;
    char msg[ERR_MSG_MAX];
    bool had_info;
    size_t n_items;
    unsigned doors, events, resets;
    char last[128];
    struct stream stream;
};

static void turn(struct world *w)
{
    (void)uv_run(&w->loop.uv, UV_RUN_NOWAIT);
}

/* --- the provider behind: notes what it is asked and answers 0 in a later turn --- */
struct later {
    struct behind *b;
    provider_done_cb done;
    provider_info_cb info;
    provider_list_cb list;
    provider_usage_cb usage;
    void *data;
};

static void on_later(void *data)
{
    struct later *x = data;
    const struct sandbox_info info = {.id = slice_str(x->b->id), .state = SANDBOX_RUNNING};
    const struct sandbox_usage usage = {.cpu_ms = 1};
    if (x->done != NULL)
        x->done(0, NULL, x->data);
    else if (x->info != NULL)
        x->info(0, &info, NULL, x->data);
    else if (x->list != NULL)
        x->list(0, &info, 1, NULL, x->data);
    else
        x->usage(0, &usage, NULL, x->data);
    mem_free(x);
}

static struct later *asked(struct provider *p, const char *op, struct slice id, int64_t timeout_ms,
                           void *data)
{
    struct behind *b = (struct behind *)(void *)p;
    struct later *x = MEM_NEW(struct later);
    b->op = op;
    b->timeout_ms = timeout_ms;
    b->arg = NULL;
    (void)snprintf(b->id, sizeof b->id, "%.*s", SL_ARG(id));
    x->b = b;
    x->data = data;
    loop_defer(&b->w->loop, on_later, x);
    return x;
}

static const struct provider_caps behind_caps = {.has_client_name = true, .limits_note = ""};

static const struct provider_caps *behind_get_caps(struct provider *p)
{
    (void)p;
    return &behind_caps;
}
static void behind_create(struct provider *p, const struct sandbox_spec *spec, int64_t timeout_ms,
                          provider_done_cb done, void *data)
{
    asked(p, "create", spec->id, timeout_ms, data)->done = done;
    ((struct behind *)(void *)p)->arg = spec;
}
static void behind_describe(struct provider *p, struct slice id, int64_t timeout_ms, provider_info_cb done,
                            void *data)
{
    asked(p, "describe", id, timeout_ms, data)->info = done;
}
static void behind_list(struct provider *p, struct slice controller, int64_t timeout_ms,
                        provider_list_cb done, void *data)
{
    asked(p, "list", controller, timeout_ms, data)->list = done;
}
static void behind_start(struct provider *p, struct slice id, const struct sandbox_server *server,
                         int64_t timeout_ms, provider_done_cb done, void *data)
{
    asked(p, "start", id, timeout_ms, data)->done = done;
    ((struct behind *)(void *)p)->arg = server;
}
static void behind_resume(struct provider *p, struct slice id, const struct sandbox_server *server,
                          int64_t timeout_ms, provider_done_cb done, void *data)
{
    asked(p, "resume", id, timeout_ms, data)->done = done;
    ((struct behind *)(void *)p)->arg = server;
}
static void behind_usage(struct provider *p, struct slice id, int64_t timeout_ms, provider_usage_cb done,
                         void *data)
{
    asked(p, "usage", id, timeout_ms, data)->usage = done;
}
static void behind_suspend(struct provider *p, struct slice id, enum suspend_kind kind, int64_t timeout_ms,
                           provider_done_cb done, void *data)
{
    assert_int_equal(kind, SUSPEND_STOP);
    asked(p, "suspend", id, timeout_ms, data)->done = done;
}
static void behind_destroy(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                           void *data)
{
    asked(p, "destroy", id, timeout_ms, data)->done = done;
}
static void behind_destroy_home(struct provider *p, struct slice id, int64_t timeout_ms,
                                provider_done_cb done, void *data)
{
    asked(p, "destroy_home", id, timeout_ms, data)->done = done;
}
static struct connector *behind_connector(struct provider *p, struct slice id, uint16_t port)
{
    struct behind *b = (struct behind *)(void *)p;
    assert_true(slice_eq_str(id, "ws-1"));
    assert_int_equal(port, SANDBOX_SERVER_PORT);
    return &b->connector;
}
static void behind_connector_release(struct provider *p, struct connector *c)
{
    struct behind *b = (struct behind *)(void *)p;
    assert_ptr_equal(c, &b->connector);
    b->released++;
}
struct closing {
    void (*closed)(void *data);
    void *data;
};
static void on_behind_closed(void *data)
{
    struct closing *x = data;
    x->closed(x->data);
    mem_free(x);
}
static void behind_close(struct provider *p, void (*closed)(void *data), void *data)
{
    struct behind *b = (struct behind *)(void *)p;
    struct closing *x = MEM_NEW(struct closing);
    b->closes++;
    assert_int_equal(b->w->frees, 0); /* its options live as long as it does */
    *x = (struct closing){closed, data};
    loop_defer(&b->w->loop, on_behind_closed, x);
}
static const struct provider_ops behind_ops = {.caps = behind_get_caps,
                                               .create = behind_create,
                                               .describe = behind_describe,
                                               .list = behind_list,
                                               .start = behind_start,
                                               .suspend = behind_suspend,
                                               .resume = behind_resume,
                                               .destroy = behind_destroy,
                                               .destroy_home = behind_destroy_home,
                                               .usage = behind_usage,
                                               .connector = behind_connector,
                                               .connector_release = behind_connector_release,
                                               .close = behind_close};

/* --- the world --- */
static int scripted_open(struct loop *l, void *data, struct provider **ret, struct err *err)
{
    struct world *w = data;
    assert_ptr_equal(l, &w->loop);
    assert_int_equal(w->frees, 0);
    w->opens++;
    clock_manual_advance(&w->clock, w->open_ms);
    if (w->fails > 0) {
        w->fails--;
        return err_set(err, E_INVALID, "bwrap is missing (try %u)", w->opens);
    }
    w->behind.p.ops = &behind_ops;
    w->behind.p.name = SL("behind");
    w->behind.w = w;
    *ret = &w->behind.p;
    return 0;
}
static void scripted_free(void *data)
{
    ((struct world *)data)->frees++;
}
static void on_door(struct slice sandbox_id, struct slice workspace_id, struct stream *s, void *data)
{
    struct world *w = data;
    assert_ptr_equal(s, &w->stream);
    (void)snprintf(w->last, sizeof w->last, "%.*s %.*s", SL_ARG(sandbox_id), SL_ARG(workspace_id));
    w->doors++;
}
static void on_event(struct slice sandbox_id, struct slice workspace_id, const char *what, void *data)
{
    struct world *w = data;
    (void)snprintf(w->last, sizeof w->last, "%.*s %.*s %s", SL_ARG(sandbox_id), SL_ARG(workspace_id), what);
    w->events++;
}
static void on_reset(struct stream *s)
{
    ((struct world *)s->data)->resets++;
}
static const struct stream_ops stream_scripted = {.reset = on_reset};

/* `fails` openings fail first; the first one is made at once. */
static struct world *world_new(unsigned fails)
{
    struct world *w = MEM_NEW(struct world);
    struct err err;
    clock_manual_init(&w->clock, 1700000000000);
    assert_int_equal(loop_init(&w->loop, &w->clock.clock, &rnd_system), 0);
    w->fails = fails;
    w->stream = (struct stream){.ops = &stream_scripted, .data = w, .loop = &w->loop};
    (void)err_set(&err, E_INTERNAL, "left from before");
    w->p = provider_standby_new(&w->loop, SL("one"), scripted_open, scripted_free, w, &err);
    assert_true(slice_eq_str(w->p->name, "one"));
    assert_int_equal(w->opens, 1);
    assert_int_equal(err.code, fails > 0 ? E_INVALID : 0);
    assert_int_equal(strcmp(err.msg, fails > 0 ? "bwrap is missing (try 1)" : ""), 0);
    w->p->on_door = on_door;
    w->p->on_event = on_event;
    w->p->data = w;
    return w;
}
static void on_closed(void *data)
{
    struct world *w = data;
    assert_false(w->is_closed);
    assert_int_equal(w->frees, 1);
    w->is_closed = true;
}
static void world_free(struct world *w)
{
    w->p->ops->close(w->p, on_closed, w);
    assert_false(w->is_closed);
    for (int i = 0; i < TURNS_MAX && !w->is_closed; i++)
        turn(w);
    assert_true(w->is_closed);
    turn(w);
    assert_int_equal(w->frees, 1);
    loop_fini(&w->loop);
    mem_free(w);
}

/* --- answers --- */
static void took(struct world *w, int code, const struct err *err)
{
    w->answers++;
    w->code = code;
    assert_true((code == 0) == (err == NULL));
    if (err != NULL)
        assert_int_equal(err->code, code);
    (void)snprintf(w->msg, sizeof w->msg, "%s", err != NULL ? err->msg : "");
}
static void on_done(int code, const struct err *err, void *data)
{
    took(data, code, err);
}
static void on_info(int code, const struct sandbox_info *info, const struct err *err, void *data)
{
    struct world *w = data;
    w->had_info = info != NULL;
    took(w, code, err);
}
static void on_list(int code, const struct sandbox_info *items, size_t n, const struct err *err, void *data)
{
    struct world *w = data;
    w->n_items = n;
    assert_true(n == 0 || items != NULL);
    took(w, code, err);
}

static void on_usage(int code, const struct sandbox_usage *u, const struct err *err, void *data)
{
    assert_true((code == 0) == (u != NULL));
    took(data, code, err);
}

static const struct sandbox_spec spec = {.id = {"ws-1", 4}};
static const struct sandbox_server server = {.port = SANDBOX_SERVER_PORT};
static const char *const op_names[] = {"create", "describe", "list",         "start", "suspend",
                                       "resume", "destroy",  "destroy_home", "usage"};

static void call(struct world *w, size_t op)
{
    struct provider *p = w->p;
    struct slice id = SL("ws-1");
    int64_t ms = 100 + (int64_t)op;
    unsigned answers = w->answers;
    switch (op) {
    case 0:
        p->ops->create(p, &spec, ms, on_done, w);
        break;
    case 1:
        p->ops->describe(p, id, ms, on_info, w);
        break;
    case 2:
        p->ops->list(p, id, ms, on_list, w);
        break;
    case 3:
        p->ops->start(p, id, &server, ms, on_done, w);
        break;
    case 4:
        p->ops->suspend(p, id, SUSPEND_STOP, ms, on_done, w);
        break;
    case 5:
        p->ops->resume(p, id, &server, ms, on_done, w);
        break;
    case 6:
        p->ops->destroy(p, id, ms, on_done, w);
        break;
    case 7:
        p->ops->destroy_home(p, id, ms, on_done, w);
        break;
    default:
        p->ops->usage(p, id, ms, on_usage, w);
        break;
    }
    assert_int_equal(w->answers, answers); /* never inside the call */
    for (int i = 0; i < TURNS_MAX && w->answers == answers; i++)
        turn(w);
    assert_int_equal(w->answers, answers + 1);
    turn(w);
    assert_int_equal(w->answers, answers + 1); /* once */
}
static void call_refused(struct world *w, size_t op, const char *why)
{
    w->behind.op = NULL;
    call(w, op);
    assert_int_equal(w->code, E_UNAVAILABLE);
    assert_string_equal(w->msg, why);
    assert_false(w->had_info);
    assert_int_equal(w->n_items, 0);
    assert_null(w->behind.op);
}

static void test_refuses(void **state)
{
    (void)state;
    struct world *w = world_new(3);
    const struct provider_caps *caps = w->p->ops->caps(w->p);
    assert_string_equal(caps->limits_note, "the provider is not available");
    for (size_t i = 0; i < ARRAY_LEN(op_names); i++) {
        w->had_info = i == 1; /* what the answer has to clear */
        w->n_items = i == 2 ? 9 : 0;
        call_refused(w, i, "bwrap is missing (try 1)");
    }
    assert_int_equal(w->opens, 1);
    world_free(w);
}

static void test_retries(void **state)
{
    (void)state;
    struct world *w = world_new(3);
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS - 1);
    call_refused(w, 1, "bwrap is missing (try 1)");
    assert_int_equal(w->opens, 1);
    clock_manual_advance(&w->clock, 1);
    for (size_t i = 0; i < 100; i++) /* a crowd is one try */
        call_refused(w, i % ARRAY_LEN(op_names), "bwrap is missing (try 2)");
    assert_int_equal(w->opens, 2);
    clock_manual_advance(&w->clock, 10 * (int64_t)STANDBY_RETRY_MS); /* nobody asks: nobody tries */
    turn(w);
    assert_int_equal(w->opens, 2);
    call_refused(w, 0, "bwrap is missing (try 3)");
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS);
    call(w, 0); /* the call that opens it gets through itself */
    assert_int_equal(w->code, 0);
    assert_int_equal(w->opens, 4);
    assert_string_equal(w->behind.op, "create");
    clock_manual_advance(&w->clock, 10 * (int64_t)STANDBY_RETRY_MS); /* open is open */
    call(w, 1);
    assert_int_equal(w->opens, 4);
    world_free(w);
}

/* An opening blocks the loop: one that takes long is not tried every few seconds. */
static void test_slow_open(void **state)
{
    (void)state;
    struct world *w = world_new(3);
    w->open_ms = 2000;
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS);
    call_refused(w, 1, "bwrap is missing (try 2)");
    clock_manual_advance(&w->clock, 4 * (int64_t)STANDBY_RETRY_MS);
    call_refused(w, 1, "bwrap is missing (try 2)");
    assert_int_equal(w->opens, 2);
    w->open_ms = 0;
    clock_manual_advance(&w->clock, 60000);
    call_refused(w, 1, "bwrap is missing (try 3)");
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS); /* quick again: soon again */
    call(w, 1);
    assert_int_equal(w->code, 0);
    world_free(w);
}

/* The reason that a refusal carries is that of its time, though it is told later. */
static void test_opens_before_answer(void **state)
{
    (void)state;
    struct world *w = world_new(1);
    w->p->ops->suspend(w->p, SL("ws-1"), SUSPEND_STOP, 10, on_done, w);
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS);
    w->p->ops->describe(w->p, SL("ws-1"), 10, on_info, w);
    assert_int_equal(w->opens, 2);
    for (int i = 0; i < TURNS_MAX && w->answers < 1; i++)
        turn(w);
    for (int i = 0; i < TURNS_MAX && w->answers < 2; i++)
        turn(w);
    assert_int_equal(w->answers, 2); /* one refused, one told by the provider behind */
    assert_int_equal(w->code, 0);
    assert_true(w->had_info);
    world_free(w);
}

static void test_passes_through(void **state)
{
    (void)state;
    struct world *w = world_new(0);
    assert_ptr_equal(w->p->ops->caps(w->p), &behind_caps);
    for (size_t i = 0; i < ARRAY_LEN(op_names); i++) {
        call(w, i);
        assert_int_equal(w->code, 0);
        assert_string_equal(w->behind.op, op_names[i]);
        assert_string_equal(w->behind.id, "ws-1");
        assert_int_equal(w->behind.timeout_ms, 100 + i);
        const void *arg = i == 0 ? (const void *)&spec : i == 3 || i == 5 ? (const void *)&server : NULL;
        assert_ptr_equal(w->behind.arg, arg);
    }
    assert_true(w->had_info);
    assert_int_equal(w->n_items, 1);
    struct connector *c = w->p->ops->connector(w->p, SL("ws-1"), SANDBOX_SERVER_PORT);
    assert_ptr_equal(c, &w->behind.connector);
    w->p->ops->connector_release(w->p, c);
    assert_int_equal(w->behind.released, 1);
    assert_int_equal(w->opens, 1);
    world_free(w);
}

static void test_door_and_events(void **state)
{
    (void)state;
    struct world *w = world_new(1);
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS);
    call(w, 1); /* opens, with the receivers that were set while it was closed */
    struct provider *b = &w->behind.p;
    b->on_door(SL("ws-1"), SL("id-1"), &w->stream, b->data);
    assert_int_equal(w->doors, 1);
    assert_string_equal(w->last, "ws-1 id-1");
    b->on_event(SL("ws-1"), SL("id-1"), "exited", b->data);
    assert_int_equal(w->events, 1);
    assert_string_equal(w->last, "ws-1 id-1 exited");
    assert_int_equal(w->resets, 0);
    w->p->on_door = NULL; /* nobody there: the connection is broken off, not kept */
    w->p->on_event = NULL;
    b->on_door(SL("ws-1"), SL("id-1"), &w->stream, b->data);
    b->on_event(SL("ws-1"), SL("id-1"), "exited", b->data);
    assert_int_equal(w->resets, 1);
    assert_true(w->doors == 1 && w->events == 1);
    world_free(w);
}

static void test_close(void **state)
{
    (void)state;
    struct world *w = world_new(0);
    w->p->ops->close(w->p, on_closed, w);
    assert_int_equal(w->behind.closes, 1);
    assert_false(w->is_closed);
    for (int i = 0; i < TURNS_MAX && !w->is_closed; i++)
        turn(w);
    assert_true(w->is_closed);
    assert_int_equal(w->frees, 1);
    loop_fini(&w->loop);
    mem_free(w);
    /* one that never opened; a refusal is still to be told */
    w = world_new(5);
    w->p->ops->destroy(w->p, SL("ws-1"), 10, on_done, w);
    clock_manual_advance(&w->clock, STANDBY_RETRY_MS);
    w->p->ops->close(w->p, on_closed, w);
    w->p->ops->describe(w->p, SL("ws-1"), 10, on_info, w); /* nothing is opened that nobody would close */
    assert_int_equal(w->opens, 1);
    assert_false(w->is_closed);
    for (int i = 0; i < TURNS_MAX && (!w->is_closed || w->answers < 2); i++)
        turn(w);
    assert_true(w->is_closed);
    assert_int_equal(w->answers, 2);
    assert_int_equal(w->code, E_UNAVAILABLE);
    assert_int_equal(w->behind.closes, 0);
    assert_int_equal(w->frees, 1);
    loop_fini(&w->loop);
    mem_free(w);
}

static void test_close_without_owner(void **state)
{
    (void)state;
    struct world *w = world_new(2);
    struct err err;
    w->opens = 0;
    struct provider *p = provider_standby_new(&w->loop, SL("two"), scripted_open, NULL, w, &err);
    assert_int_equal(err.code, E_INVALID);
    p->ops->close(p, NULL, NULL); /* nothing to free, nobody to tell */
    turn(w);
    assert_int_equal(w->frees, 0);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_retries),
        cmocka_unit_test(test_opens_before_answer),
        cmocka_unit_test(test_passes_through),
        cmocka_unit_test(test_door_and_events),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_close_without_owner),
        cmocka_unit_test(test_slow_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
