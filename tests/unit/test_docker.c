/* The Docker provider with a real engine, reeve-init and sandbox-agent server: what a controller, an operator
 * and a hostile tenant would notice. The engine is the test's own. Skipped, with the reason, where the
 * machine lacks something; with REEVE_REQUIRE=all that fails. Programs: REEVE_INIT (default
 * build/reeve-init), REEVE_AGENT_BINARY (default build/sandbox-agent). */
#include "tests/unit/sandbox_world.h"

#include "providers/cgroup.h"
#include "providers/docker_reply.h"
#include "providers/init/protocol.h"
#include "tests/unit/docker_engine_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/stat.h>

static struct engine engine;
static const char *missing; /* why there is none; NULL: there is */

static const char *other_init; /* instead of reeve-init; NULL: none */

static void provider_open(struct world *w)
{
    struct err err = {0};
    struct arena a = ARENA_INIT;
    struct docker_options o = {.name = SL("docker"),
                               .endpoint = arena_printf(&a, "unix://%s", engine.socket),
                               .root = w->root,
                               .init_path = other_init != NULL ? other_init
                                                               : program("REEVE_INIT", "build/reeve-init"),
                               .agent_binary = program("REEVE_AGENT_BINARY", "build/sandbox-agent")};
    int code = provider_docker_open(&w->loop, &o, &w->p, &err);
    arena_fini(&a);
    if (code != 0)
        fail_msg("%s", err.msg);
    provider_listen(w);
}

/* Containers, volumes and folders that are left. */
static int folders_of(const struct world *w)
{
    char path[96];
    int n = 0;
    (void)snprintf(path, sizeof(path), "%s/sandboxes", w->root);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *it = readdir(d); it != NULL; it = readdir(d))
        n += it->d_name[0] != '.';
    closedir(d);
    return n;
}

static void assert_nothing_left(struct world *w)
{
    assert_int_equal(engine_shell(&engine, "n=$(curl -sS --unix-socket $ENGINE "
                                           "'http://engine/containers/json?all=1'); [ \"$n\" = '[]' ]"),
                     0);
    assert_int_equal(folders_of(w), 0);
}

static int setup(void **state)
{
    struct world *w = MEM_NEW(struct world);
    *state = w;
    other_init = NULL;
    w->image = ENGINE_IMAGE;
    world_init(w, "/tmp/reeve-unit-root-XXXXXX");
    if (missing == NULL) {
        if (engine.pid == 0)
            assert_true(engine_start(&engine));
        provider_open(w);
        return 0;
    }
    say_skipped(missing);
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
    world_fini(w);
    assert_int_equal(system(arena_printf(&scratch, "rm -rf --one-file-system %s", w->root)), 0);
    arena_fini(&scratch);
    mem_free(w);
    return 0;
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

/* What a tenant's process sees of the wall. */
static void test_wall(void **state)
{
    struct world *w = world_of(state);
    char out[8192];
    const char *id = "sb-wall";
    OK(create(w, id, "home-wall"));
    OK(start(w, id));
    healthy(w, id);
    assert_int_equal(
        inside(w, id, "id -u; id -G; grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status", out, sizeof(out)),
        0);
    assert_memory_equal(out, "1000\n1000\n", 10);
    static const char *const status[] = {"CapInh:\t0000000000000000",
                                         "CapPrm:\t0000000000000000",
                                         "CapEff:\t0000000000000000",
                                         "CapBnd:\t0000000000000000",
                                         "CapAmb:\t0000000000000000",
                                         "NoNewPrivs:\t1",
                                         "Seccomp:\t2"};
    for (size_t i = 0; i < ARRAY_LEN(status); i++)
        assert_non_null(strstr(out, status[i]));
    assert_int_equal(
        inside(w, id,
               "for d in / /etc /bin /home /opt /opt/reeve /run/reeve /var /sys/fs/cgroup; do "
               "touch $d/x 2>/dev/null && echo writable $d; done; "
               "for d in /tmp /run /var/tmp /dev/shm ~; do touch $d/x || echo not writable $d; done; "
               "rm -f /run/reeve/control 2>/dev/null; ls /run/reeve",
               out, sizeof(out)),
        0);
    assert_string_equal(out, "control\n");
    assert_int_equal(
        inside(w, id,
               "cat /proc/1/environ /proc/1/maps 2>/dev/null; ls /proc/1/fd 2>/dev/null; "
               "kill -9 1; kill 1; kill -STOP 1; kill -HUP 1; "
               "unshare -U true 2>/dev/null && echo userns; unshare -Ur true 2>/dev/null && echo userns; "
               "mount -t tmpfs x /tmp 2>/dev/null && echo mount; true",
               out, sizeof(out)),
        0);
    assert_string_equal(out, "");
    assert_int_not_equal(inside(w, id, "grep -v ':/$' /proc/self/cgroup", out, sizeof(out)), 0);
    assert_string_equal(out, ""); /* its control groups are the top of what it sees */
    /* No way out but Reeve's, and no one but init speaks for it. */
    assert_int_equal(inside(w, id, "grep -c : /proc/net/dev", out, sizeof(out)), 0);
    assert_string_equal(out, "1\n"); /* lo */
    assert_int_not_equal(inside(w, id, "curl -s -m 5 http://1.1.1.1", out, sizeof(out)), 0);
    assert_int_not_equal(
        inside(w, id, "curl -s -m 5 --unix-socket /run/reeve/control http://x/", out, sizeof(out)), 0);
    healthy(w, id); /* and the first process heard none of those signals */
    OK(destroy(w, id));
}

static void test_door(void **state)
{
    struct world *w = world_of(state);
    char out[4096];
    OK(create(w, "sb-door", "home-door"));
    OK(start(w, "sb-door"));
    healthy(w, "sb-door");
    assert_int_equal(inside(w, "sb-door", "curl -s -m 5 http://127.0.0.1:8700/llm", out, sizeof(out)), 0);
    assert_string_equal(out, "from-door");
    assert_int_equal(w->n_doors, 1);
    provider_shut(w);
    provider_open(w);
    OK(start(w, "sb-door"));
    healthy(w, "sb-door");
    assert_int_equal(inside(w, "sb-door", "curl -s -m 5 http://127.0.0.1:8700/again", out, sizeof(out)), 0);
    assert_string_equal(out, "from-door");
    assert_int_equal(w->n_doors, 2);
    OK(destroy(w, "sb-door"));
}

/* Whoever may ask the engine finds the limits, and no secret. */
static void test_what_the_engine_shows(void **state)
{
    struct world *w = world_of(state);
    OK(create(w, "sb-show", "home-show"));
    OK(start(w, "sb-show"));
    healthy(w, "sb-show");
    assert_int_equal(
        engine_shell(&engine,
                     "curl -sS --unix-socket $ENGINE http://engine/containers/reeve-sb-show/json "
                     "> $FOLDER/show; curl -sS --unix-socket $ENGINE "
                     "'http://engine/containers/reeve-sb-show/logs?stdout=1&stderr=1' > $FOLDER/logs"),
        0);
    static const char *const there[] = {"\"NetworkMode\":\"none\"", "\"CapDrop\":\\[\"ALL\"\\]",
                                        "\"ReadonlyRootfs\":true",  "\"Memory\":536870912",
                                        "\"MemorySwap\":536870912", "\"PidsLimit\":64",
                                        "no-new-privileges",        "\"User\":\"1000:1000\"",
                                        "\"max-size\":\"1m\"",      "\"reeve.workspace\":\"ws-one\"",
                                        "\"Privileged\":false",     "\"Init\":false"};
    struct arena a = ARENA_INIT;
    for (size_t i = 0; i < ARRAY_LEN(there); i++)
        if (engine_shell(&engine, arena_printf(&a, "grep -q '%s' $FOLDER/show", there[i])) != 0)
            fail_msg("not shown: %s", there[i]);
    assert_int_not_equal(engine_shell(&engine, "grep -qE '" TOKEN "|sk-test' $FOLDER/show $FOLDER/logs"), 0);
    arena_fini(&a);
    OK(destroy(w, "sb-show"));
}

static void test_usage(void **state)
{
    struct world *w = world_of(state);
    assert_int_equal(usage_of(w, "sb-use").code, E_GONE);
    OK(create(w, "sb-use", "home-use"));
    assert_int_equal(usage_of(w, "sb-use").code, E_GONE);
    OK(start(w, "sb-use"));
    healthy(w, "sb-use");
    assert_int_equal(usage_of(w, "sb-use").code, 0);
    usage_moves(w, "sb-use");
    OK(suspend_as(w, "sb-use", SUSPEND_FREEZE));
    assert_int_equal(usage_of(w, "sb-use").code, 0); /* its memory is in use */
    OK(suspend(w, "sb-use"));
    assert_int_equal(usage_of(w, "sb-use").code, E_GONE);
    OK(destroy(w, "sb-use"));
    /* A number that is another process's by now, and one that is in no group of its own. */
    struct sandbox_usage u;
    assert_int_equal(cgroup_usage_of(getpid(), SL("0123456789ab"), &u, NULL), E_GONE);
    assert_int_not_equal(cgroup_usage_of(2, SL("/"), &u, NULL), 0);
}

/* Memory runs out: for something inside, then for all of it. */
static void test_out_of_memory(void **state)
{
    struct world *w = world_of(state);
    char out[1024];
    OK(create(w, "sb-oom", "home-oom"));
    OK(start(w, "sb-oom"));
    healthy(w, "sb-oom");
    assert_int_not_equal(inside(w, "sb-oom", "tail /dev/zero", out, sizeof(out)), 0);
    healthy(w, "sb-oom"); /* the greedy one went, nobody else */
    assert_int_equal(describe(w, "sb-oom").state, SANDBOX_RUNNING);

    /* What ends it later, and has nothing to do with that, is told as what it is. */
    assert_int_equal(engine_shell(&engine, "curl -sS --fail -o /dev/null --unix-socket $ENGINE -X POST "
                                           "'http://engine/containers/reeve-sb-oom/kill?signal=SIGTERM'"),
                     0);
    struct answer a = describe(w, "sb-oom");
    for (int i = 0; i < 1000 && a.state == SANDBOX_RUNNING; i++) {
        pass_ms(w, 20);
        a = describe(w, "sb-oom");
    }
    assert_int_equal(a.state, SANDBOX_EXITED);
    if (strstr(a.reason, "its processes ended") == NULL &&
        strstr(a.reason, "its processes were ended") == NULL)
        fail_msg("it ended by SIGTERM, and is said to be: %s", a.reason);
    OK(start(w, "sb-oom"));
    healthy(w, "sb-oom");

    /* Files in memory are not freed when processes go: nothing can live there any more. */
    struct connector *c = w->p->ops->connector(w->p, SL("sb-oom"), 2468);
    struct exchange_result r;
    http_do(w, c, "POST", "/v1/processes/run",
            "{\"command\":\"/bin/sh\",\"args\":[\"-c\",\"for d in /tmp /var/tmp /dev/shm; do dd if=/dev/zero "
            "of=$d/x bs=1M 2>/dev/null; done\"],\"timeoutMs\":15000}",
            &r);
    buf_fini(&r.body);
    w->p->ops->connector_release(w->p, c);
    for (int i = 0; i < 1000; i++) { /* the server in vain again and again, or all of it */
        a = describe(w, "sb-oom");
        if (strstr(a.reason, "want of memory") != NULL)
            break;
        pass_ms(w, 20);
    }
    assert_non_null(strstr(a.reason, "killed for want of memory (its limit is 512 MiB)"));
    OK(destroy(w, "sb-oom"));
}

static void test_ends_by_itself(void **state)
{
    struct world *w = world_of(state);
    OK(create(w, "sb-end", "home-end"));
    OK(start(w, "sb-end"));
    healthy(w, "sb-end");
    assert_int_equal(engine_shell(&engine, "curl -sS --fail -o /dev/null --unix-socket $ENGINE -X POST "
                                           "http://engine/containers/reeve-sb-end/kill"),
                     0);
    wait_event(w, "exited");
    struct answer a = describe(w, "sb-end");
    assert_int_equal(a.state, SANDBOX_EXITED);
    assert_string_equal(a.reason, "its processes were ended by signal 9");
    struct connector *c = w->p->ops->connector(w->p, SL("sb-end"), 2468);
    struct exchange_result r;
    http_do(w, c, "GET", "/v1/health", NULL, &r);
    assert_int_equal(r.code, E_UNAVAILABLE);
    buf_fini(&r.body);
    w->p->ops->connector_release(w->p, c);
    OK(start(w, "sb-end"));
    healthy(w, "sb-end");
    /* Somebody else removes it. */
    w->last_event[0] = '\0';
    assert_int_equal(engine_shell(&engine, "curl -sS --fail -o /dev/null --unix-socket $ENGINE -X DELETE "
                                           "'http://engine/containers/reeve-sb-end?force=1'"),
                     0);
    for (int i = 0; i < 500 && w->last_event[0] == '\0'; i++)
        pass_ms(w, 10);
    assert_int_equal(describe(w, "sb-end").state, SANDBOX_ABSENT);
    OK(destroy(w, "sb-end"));
    assert_nothing_left(w);
}

/* The name is taken by a container that is not ours. */
/* Another controller's folders: what was made with them cannot be reached, and is over. */
static void test_moved(void **state)
{
    struct world *w = world_of(state);
    char root[64];
    OK(create(w, "sb-moved", "home-moved"));
    OK(start(w, "sb-moved"));
    healthy(w, "sb-moved");
    provider_shut(w);
    memcpy(root, w->root, sizeof(root));
    (void)snprintf(w->root + strlen(w->root), 8, "/x");
    provider_open(w);
    struct answer a = describe(w, "sb-moved");
    assert_int_equal(a.state, SANDBOX_EXITED);
    assert_string_equal(a.reason, "it was made with other folders or programs of Reeve");
    OK(destroy(w, "sb-moved"));
    assert_nothing_left(w);
    provider_shut(w);
    memcpy(w->root, root, sizeof(root));
    provider_open(w); /* the former one's folder has no container any more */
    for (int i = 0; i < 500 && folders_of(w) > 0; i++)
        pass_ms(w, 10);
    assert_nothing_left(w);
}

/* A suspend that got as far as its mark, and then the controller died: the sandbox was wanted again. */
static void test_half_suspended(void **state)
{
    struct world *w = world_of(state);
    char path[128];
    OK(create(w, "sb-half", "home-half"));
    OK(start(w, "sb-half"));
    healthy(w, "sb-half");
    provider_shut(w);
    (void)snprintf(path, sizeof(path), "%s/sandboxes/sb-half/suspended", w->root);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    (void)fclose(f);
    provider_open(w);
    OK(start(w, "sb-half"));
    assert_int_equal(engine_shell(&engine, "curl -sS --fail -o /dev/null --unix-socket $ENGINE -X POST "
                                           "http://engine/containers/reeve-sb-half/kill"),
                     0);
    struct answer a = describe(w, "sb-half");
    for (int i = 0; i < 1000 && a.state == SANDBOX_RUNNING; i++) {
        pass_ms(w, 20);
        a = describe(w, "sb-half");
    }
    assert_int_equal(a.state, SANDBOX_EXITED); /* it died: nobody sent it to sleep */
    OK(destroy(w, "sb-half"));
}

static bool is_listening(const struct world *w, const char *id)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    int n =
        snprintf(to.sun_path, sizeof(to.sun_path), "%s/sandboxes/%s/control/" INIT_SOCKET_NAME, w->root, id);
    assert_in_range(n, 1, sizeof(to.sun_path) - 1);
    bool does = connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;
    close(fd);
    return does;
}

/* Starts that are given up somewhere, and a container that is removed by somebody else: nothing stays here.
 */
static void test_given_up_and_removed(void **state)
{
    struct world *w = world_of(state);
    for (int64_t ms = 2; ms <= 512; ms = 2 * ms) {
        struct answer a = {0}, gone = {0};
        struct sandbox_server s = {.token = SL(TOKEN), .port = 2468};
        OK(create(w, "sb-given-up", "home-given-up"));
        w->p->ops->start(w->p, SL("sb-given-up"), &s, ms, on_done, &a);
        wait_for(w, &a.is_done, OP_MS, "start");
        bool is_gone = false;
        for (int i = 0; i < 500 && !is_gone; i++) { /* again: it may just be being started */
            (void)engine_shell(&engine, "curl -sS -o /dev/null --unix-socket $ENGINE -X DELETE "
                                        "'http://engine/containers/reeve-sb-given-up?force=1'");
            gone = describe(w, "sb-given-up");
            is_gone = gone.code == 0 && gone.state == SANDBOX_ABSENT;
            if (!is_gone)
                pass_ms(w, 20);
        }
        assert_true(is_gone);
        for (int i = 0; i < 500 && is_listening(w, "sb-given-up"); i++)
            pass_ms(w, 20);
        if (is_listening(w, "sb-given-up"))
            fail_msg("still listening for one that was given up after %d ms", (int)ms);
    }
}

static void test_foreign_name(void **state)
{
    struct world *w = world_of(state);
    assert_int_equal(engine_shell(&engine, "curl -sS --fail -o /dev/null --unix-socket $ENGINE -X POST -H "
                                           "'Content-Type: application/json' -d '{\"Image\":\"" ENGINE_IMAGE
                                           "\",\"Cmd\":[\"/bin/sleep\",\"60\"]}' "
                                           "'http://engine/containers/create?name=reeve-sb-theirs'"),
                     0);
    assert_int_equal(create(w, "sb-theirs", "home-theirs").code, E_EXISTS);
    assert_int_equal(describe(w, "sb-theirs").state,
                     SANDBOX_CREATED); /* without our labels: the caller sees */
    assert_int_equal(list(w).n, 0);
}

/* First processes that cannot be what they should. */
static void broken_init(struct world *w, const char *id, const char *content, const char *words)
{
    static char path[160];
    provider_shut(w);
    (void)snprintf(path, sizeof(path), "%s/broken-init", w->root);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    (void)fputs(content, f);
    (void)fclose(f);
    assert_int_equal(chmod(path, 0755), 0);
    other_init = path;
    provider_open(w);
    OK(create(w, id, "home-broken"));
    struct answer a = start(w, id);
    assert_int_equal(a.code, E_GONE);
    if (strstr(a.err.msg, words) == NULL)
        fail_msg("`%s` is not in: %s", words, a.err.msg);
    OK(destroy(w, id));
}

static void test_entry_point_that_cannot(void **state)
{
    struct world *w = world_of(state);
    broken_init(w, "sb-noexec", "not a program", "exec format error");
    broken_init(w, "sb-ends", "#!/bin/sh\necho no way >&2\nexit 3\n",
                "its first process ended at once with status 3: no way");
    /* seen running, and ends while its init is waited for: the engine still says why */
    broken_init(w, "sb-ends-late", "#!/bin/sh\nsleep 1\necho no way >&2\nexit 3\n",
                "its first process ended at once with status 3: no way");
    assert_nothing_left(w);
}

static void test_image_that_is_missing(void **state)
{
    struct world *w = world_of(state);
    w->image = "127.0.0.1:1/nobody/nothing";
    struct answer a = create(w, "sb-pull", "home-pull");
    assert_int_equal(a.code, E_AGAIN);
    assert_string_equal(a.err.msg, "image 127.0.0.1:1/nobody/nothing is being pulled");
    wait_event(w, PROVIDER_EVENT_AGAIN);
    a = create(w, "sb-pull", "home-pull");
    assert_int_equal(a.code, E_BUSY);
    assert_non_null(strstr(a.err.msg, "image 127.0.0.1:1/nobody/nothing cannot be pulled: "));
    assert_non_null(strstr(a.err.msg, "connection refused"));
    w->image = "Not A Name";
    a = create(w, "sb-pull", "home-pull");
    assert_int_equal(a.code, E_INVALID);
    w->image = NULL;
    assert_int_equal(create(w, "sb-pull", "home-pull").code, E_INVALID);
    w->image = ENGINE_IMAGE;
    OK(create(w, "sb-pull", "home-pull"));
    OK(destroy(w, "sb-pull"));
}

/* That is not the image's failure: it is pulled again as soon as the engine is back. */
static void test_engine_that_dies_in_a_pull(void **state)
{
    struct world *w = world_of(state);
    char image[64];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(at);
    int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* a registry that says nothing */
    assert_int_equal(bind(silent, (struct sockaddr *)&at, n), 0);
    assert_int_equal(listen(silent, 16), 0);
    assert_int_equal(getsockname(silent, (struct sockaddr *)&at, &n), 0);
    (void)snprintf(image, sizeof(image), "127.0.0.1:%d/nobody/nothing", ntohs(at.sin_port));
    w->image = image;
    assert_int_equal(create(w, "sb-pull", "home-pull").code, E_AGAIN);
    w->last_event[0] = '\0';
    engine_end(&engine, SIGKILL);
    wait_event(w, PROVIDER_EVENT_AGAIN);
    assert_int_equal(create(w, "sb-pull", "home-pull").code, E_UNAVAILABLE);
    assert_true(engine_start(&engine));
    struct answer a = create(w, "sb-pull", "home-pull");
    for (int i = 0; i < 1000 && a.code == E_UNAVAILABLE; i++) {
        pass_ms(w, 20);
        a = create(w, "sb-pull", "home-pull");
    }
    assert_int_equal(a.code, E_AGAIN);
    close(silent);
    OK(destroy(w, "sb-pull"));
}

static struct answer describe_until_up(struct world *w, const char *id)
{
    struct answer a = {0};
    for (int i = 0; i < 1000; i++) {
        a = describe(w, id);
        if (a.code != E_UNAVAILABLE)
            break;
        pass_ms(w, 20);
    }
    return a;
}

/* The engine goes, in order and by force, and comes back. */
static void test_engine_that_dies(void **state)
{
    struct world *w = world_of(state);
    static const int signals[] = {SIGTERM, SIGKILL};
    OK(create(w, "sb-dead", "home-dead"));
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        OK(start(w, "sb-dead"));
        healthy(w, "sb-dead");
        w->last_event[0] = '\0';
        engine_end(&engine, signals[i]);
        struct answer a = describe(w, "sb-dead");
        assert_int_equal(a.code, E_UNAVAILABLE);
        assert_non_null(strstr(a.err.msg, engine.socket));
        assert_int_equal(start(w, "sb-dead").code, E_UNAVAILABLE);
        assert_true(engine_start(&engine));
        assert_int_equal(describe_until_up(w, "sb-dead").code, 0);
        for (int k = 0; k < 1000 && describe(w, "sb-dead").state != SANDBOX_EXITED; k++)
            pass_ms(w, 20); /* it ends those it finds running when it starts */
        assert_int_equal(describe(w, "sb-dead").state, SANDBOX_EXITED);
        assert_string_not_equal(w->last_event, ""); /* and we were told */
    }
    OK(start(w, "sb-dead"));
    healthy(w, "sb-dead");
    OK(destroy(w, "sb-dead"));
    assert_nothing_left(w);
}

#define CROWD 8
static void test_crowd(void **state)
{
    struct world *w = world_of(state);
    const struct sandbox_server s = {.token = SL(TOKEN), .port = 2468};
    struct answer a[CROWD];
    char id[CROWD][16];
    pass_ms(w, 50);
    unsigned n_fds = n_descriptors();
    for (size_t i = 0; i < CROWD; i++) {
        (void)snprintf(id[i], sizeof(id[i]), "sb-%zu", i);
        OK(create(w, id[i], id[i]));
    }
    memset(a, 0, sizeof(a));
    for (size_t i = 0; i < CROWD; i++)
        w->p->ops->start(w->p, slice_str(id[i]), &s, 3 * OP_MS, on_done, &a[i]);
    for (size_t i = 0; i < CROWD; i++) {
        wait_for(w, &a[i].is_done, 3 * OP_MS, "start");
        if (a[i].code != 0)
            fail_msg("%s", a[i].err.msg);
    }
    for (size_t i = 0; i < CROWD; i++)
        healthy(w, id[i]);
    assert_int_equal(list(w).n, CROWD);
    memset(a, 0, sizeof(a));
    for (size_t i = 0; i < CROWD; i++)
        w->p->ops->destroy(w->p, slice_str(id[i]), 3 * OP_MS, on_done, &a[i]);
    for (size_t i = 0; i < CROWD; i++)
        wait_for(w, &a[i].is_done, 3 * OP_MS, "destroy");
    for (size_t i = 0; i < CROWD; i++)
        OK(destroy_home(w, id[i]));
    assert_nothing_left(w);
    for (int i = 0; i < 500 && n_descriptors() > n_fds + 8; i++)
        pass_ms(w, 20);
    assert_true(n_descriptors() <= n_fds + 8); /* connections to the engine that are kept */
}

static void test_close_at_any_moment(void **state)
{
    struct world *w = world_of(state);
    struct rnd_seeded rnd;
    const struct sandbox_server s = {.token = SL(TOKEN), .port = 2468};
    uint64_t seed = (uint64_t)clock_mono_ms(&clock_system);
    if (getenv("REEVE_TEST_SEED") != NULL)
        assert_int_equal(slice_u64(slice_str(getenv("REEVE_TEST_SEED")), &seed), 0);
    print_message("seed %llu\n", (unsigned long long)seed);
    rnd_seeded_init(&rnd, seed);
    OK(create(w, "sb-any", "home-any"));
    OK(start(w, "sb-any"));
    provider_shut(w);
    pass_ms(w, 20);
    unsigned n_fds = n_descriptors();
    provider_open(w);
    for (unsigned round = 0; round < 10; round++) {
        struct answer a[5] = {{0}};
        struct answer made = create(w, "sb-any", "home-any"); /* is there, unless a destroy got that far */
        assert_true(made.code == 0 || made.code == E_EXISTS);
        struct connector *c = w->p->ops->connector(w->p, SL("sb-any"), 2468);
        w->p->ops->start(w->p, SL("sb-any"), &s, OP_MS, on_done, &a[0]);
        if (rnd_below(&rnd.rnd, 2) == 0)
            wait_for(w, &a[0].is_done, OP_MS,
                     "start"); /* or one of before was still ending or being removed */
        (void)c->open(c, &w->loop, OP_MS, on_stream, &a[1]);
        w->p->ops->describe(w->p, SL("sb-any"), OP_MS, on_info, &a[2]);
        uint64_t how = rnd_below(&rnd.rnd, 3);
        if (how < 2)
            w->p->ops->suspend(w->p, SL("sb-any"), how == 0 ? SUSPEND_STOP : SUSPEND_FREEZE, OP_MS, on_done,
                               &a[3]);
        else
            w->p->ops->destroy(w->p, SL("sb-any"), OP_MS, on_done, &a[3]);
        w->p->ops->list(w->p, SL(CONTROL), OP_MS, on_list, &a[4]);
        pass_ms(w, (int64_t)rnd_below(&rnd.rnd, 400));
        w->p->ops->connector_release(w->p, c);
        provider_shut(w);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
            assert_true(a[i].is_done);
        for (int i = 0; i < 500 && n_descriptors() != n_fds; i++)
            pass_ms(w, 10); /* what it let go is closed a little later */
        assert_int_equal(n_descriptors(), n_fds);
        provider_open(w);
    }
    OK(destroy(w, "sb-any"));
    assert_int_equal(describe(w, "sb-any").state, SANDBOX_ABSENT);
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
    const struct CMUnitTest tests[] = {TEST(test_life),
                                       TEST(test_freeze),
                                       TEST(test_adopt),
                                       TEST(test_wall),
                                       TEST(test_door),
                                       TEST(test_what_the_engine_shows),
                                       TEST(test_usage),
                                       TEST(test_out_of_memory),
                                       TEST(test_ends_by_itself),
                                       TEST(test_moved),
                                       TEST(test_half_suspended),
                                       TEST(test_given_up_and_removed),
                                       TEST(test_foreign_name),
                                       TEST(test_entry_point_that_cannot),
                                       TEST(test_image_that_is_missing),
                                       TEST(test_engine_that_dies_in_a_pull),
                                       TEST(test_engine_that_dies),
                                       TEST(test_crowd),
                                       TEST(test_close_at_any_moment)};
    return cmocka_run_group_tests(tests, engine_open_once, engine_close_once);
}
