/* The Docker provider with a real engine, reeve-init and sandbox-agent server: what a controller, an operator
 * and a hostile tenant would notice. The engine is the test's own. Skipped, with the reason, where the
 * machine lacks something; with REEVE_REQUIRE=all that fails. Programs: REEVE_INIT (default
 * build/reeve-init), REEVE_AGENT_BINARY (default build/sandbox-agent). */
#include "tests/unit/sandbox_world.h"

#include "providers/docker_reply.h"
#include "providers/init/protocol.h"
#include "tests/unit/docker_engine_fixture.h"

static struct engine engine;
static const char *missing; /* why there is none; NULL: there is */

static void provider_open(struct world *w)
{
    struct err err = {0};
    struct arena a = ARENA_INIT;
    struct docker_options o = {.name = SL("docker"),
                               .endpoint = arena_printf(&a, "unix://%s", engine.socket),
                               .root = w->root,
                               .init_path = program("REEVE_INIT", "build/reeve-init"),
                               .agent_binary = program("REEVE_AGENT_BINARY", "build/sandbox-agent")};
    int code = provider_docker_open(&w->loop, &o, &w->p, &err);
    arena_fini(&a);
    if (code != 0)
        fail_msg("%s", err.msg);
    w->p->on_door = on_door;
    w->p->on_event = on_event;
    w->p->data = w;
}

/* Containers, volumes and folders that are left. */
static void assert_nothing_left(struct world *w)
{
    struct arena a = ARENA_INIT;
    assert_int_equal(engine_shell(&engine, "n=$(curl -sS --unix-socket $ENGINE "
                                           "'http://engine/containers/json?all=1'); [ \"$n\" = '[]' ]"),
                     0);
    assert_int_equal(engine_shell(&engine, arena_printf(&a, "[ -z \"$(ls %s/sandboxes)\" ]", w->root)), 0);
    arena_fini(&a);
}

static int setup(void **state)
{
    struct world *w = MEM_NEW(struct world);
    *state = w;
    w->image = ENGINE_IMAGE;
    (void)snprintf(w->root, sizeof(w->root), "/tmp/reeve-docker-root-XXXXXX");
    assert_non_null(mkdtemp(w->root));
    assert_int_equal(loop_init(&w->loop, &clock_system, &rnd_system), 0);
    timer_init(&w->late, &w->loop, on_late, w);
    buf_init(&w->door_text, 65536);
    const char *require = getenv("REEVE_REQUIRE");
    if (missing == NULL) {
        if (engine.pid == 0)
            assert_true(engine_start(&engine));
        provider_open(w);
        return 0;
    }
    print_message("skipped: %s\n", missing);
    if (require != NULL && strcmp(require, "all") == 0)
        fail_msg("%s", missing);
    return 0;
}

static struct world *world_of(void **state)
{
    struct world *w = *state;
    if (w->p == NULL)
        skip();
    return w;
}

static int teardown(void **state)
{
    struct world *w = *state;
    struct arena scratch = ARENA_INIT;
    if (engine.pid != 0) /* whatever the test has left: all of this engine is the test's */
        (void)engine_shell(
            &engine, "for c in $(curl -sS --unix-socket $ENGINE 'http://engine/containers/json?all=1' | "
                     "grep -o '\"Id\":\"[0-9a-f]*' | cut -d'\"' -f4); do curl -sS -o /dev/null --unix-socket "
                     "$ENGINE -X DELETE \"http://engine/containers/$c?force=1&v=1\"; done; "
                     "curl -sS -o /dev/null --unix-socket $ENGINE -X POST http://engine/volumes/prune");
    if (w->p != NULL)
        provider_shut(w);
    timer_close(&w->late, NULL);
    loop_fini(&w->loop);
    buf_fini(&w->door_text);
    assert_int_equal(system(arena_printf(&scratch, "rm -rf --one-file-system %s", w->root)), 0);
    arena_fini(&scratch);
    mem_free(w);
    return 0;
}

static struct answer list(struct world *w)
{
    struct answer a = {0};
    w->p->ops->list(w->p, SL(CONTROL), OP_MS, on_list, &a);
    wait_for(w, &a.is_done, OP_MS, "list");
    return a;
}

static struct answer destroy_home(struct world *w, const char *home)
{
    struct answer a = {0};
    w->p->ops->destroy_home(w->p, slice_str(home), OP_MS, on_done, &a);
    wait_for(w, &a.is_done, OP_MS, "destroy_home");
    return a;
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
    assert_string_equal(list(w).ids, "sb-1 ");

    OK(suspend(w, "sb-1"));
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_SUSPENDED);
    OK(suspend(w, "sb-1"));
    OK(start(w, "sb-1"));
    healthy(w, "sb-1");
    assert_int_equal(inside(w, "sb-1", "cat ~/file", out, sizeof(out)), 0);
    assert_string_equal(out, "kept\n");

    assert_int_equal(destroy_home(w, "home-1").code, E_BUSY);
    OK(destroy(w, "sb-1"));
    assert_int_equal(describe(w, "sb-1").state, SANDBOX_ABSENT);
    OK(destroy(w, "sb-1"));
    OK(create(w, "sb-2", "home-1")); /* the home stayed */
    OK(start(w, "sb-2"));
    healthy(w, "sb-2");
    assert_int_equal(inside(w, "sb-2", "cat ~/file", out, sizeof(out)), 0);
    assert_string_equal(out, "kept\n");
    OK(destroy(w, "sb-2"));
    OK(destroy_home(w, "home-1"));
    OK(destroy_home(w, "home-1"));
    assert_nothing_left(w);
}

/* Frozen: its memory stays, and it goes on where it was. */
static void test_freeze(void **state)
{
    struct world *w = world_of(state);
    char before[256], after[256];
    OK(create(w, "sb-cold", "home-cold"));
    OK(start(w, "sb-cold"));
    healthy(w, "sb-cold");
    const char *count =
        "echo x >> /tmp/marks; wc -l < /tmp/marks; cat /proc/1/stat | tr ' ' '\\n' | head -22 | tail -1";
    assert_int_equal(inside(w, "sb-cold", count, before, sizeof(before)), 0);
    OK(suspend_as(w, "sb-cold", SUSPEND_FREEZE));
    assert_int_equal(describe(w, "sb-cold").state, SANDBOX_SUSPENDED);
    OK(suspend_as(w, "sb-cold", SUSPEND_FREEZE));
    OK(start(w, "sb-cold"));
    healthy(w, "sb-cold");
    assert_int_equal(inside(w, "sb-cold", count, after, sizeof(after)), 0);
    before[0] = '2'; /* the tmpfs is what it was, the first process begun at the same time */
    assert_string_equal(after, before);

    OK(suspend_as(w, "sb-cold", SUSPEND_FREEZE));
    OK(suspend_as(w, "sb-cold", SUSPEND_STOP)); /* what is frozen can still be ended in order */
    assert_int_equal(describe(w, "sb-cold").state, SANDBOX_SUSPENDED);
    OK(suspend_as(w, "sb-cold", SUSPEND_FREEZE));
    OK(start(w, "sb-cold"));
    healthy(w, "sb-cold");
    OK(suspend_as(w, "sb-cold", SUSPEND_FREEZE));
    OK(destroy(w, "sb-cold"));
    assert_nothing_left(w);
}

/* A controller that went away: the next one finds all as it was, also one that is frozen. */
static void test_adopt(void **state)
{
    struct world *w = world_of(state);
    char out[256];
    OK(create(w, "sb-old", "home-old"));
    OK(start(w, "sb-old"));
    healthy(w, "sb-old");
    assert_int_equal(inside(w, "sb-old", "echo here > /tmp/mark", out, sizeof(out)), 0);
    provider_shut(w);
    provider_open(w);
    assert_int_equal(describe(w, "sb-old").state, SANDBOX_RUNNING);
    OK(start(w, "sb-old"));
    healthy(w, "sb-old");
    OK(suspend_as(w, "sb-old", SUSPEND_FREEZE));
    provider_shut(w);
    provider_open(w);
    assert_int_equal(describe(w, "sb-old").state, SANDBOX_SUSPENDED);
    OK(start(w, "sb-old"));
    healthy(w, "sb-old");
    assert_int_equal(inside(w, "sb-old", "cat /tmp/mark", out, sizeof(out)), 0);
    assert_string_equal(out, "here\n"); /* on a tmpfs: it never ended */
    OK(suspend(w, "sb-old"));
    provider_shut(w);
    provider_open(w);
    assert_int_equal(describe(w, "sb-old").state, SANDBOX_SUSPENDED);
    OK(destroy(w, "sb-old"));
}

static int engine_open_once(void **state)
{
    (void)state;
    missing = engine_missing();
    if (missing == NULL && !engine_open(&engine))
        missing = "dockerd does not come up on this machine";
    return 0;
}

static int engine_close_once(void **state)
{
    (void)state;
    if (engine.folder[0] != '\0')
        engine_close(&engine);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_life), TEST(test_freeze), TEST(test_adopt)};
    return cmocka_run_group_tests(tests, engine_open_once, engine_close_once);
}
