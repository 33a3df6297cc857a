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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "providers/init/protocol.h"
#include "tests/unit/sandbox_world.h"

#define ORDINARY_ID 64999

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
        say_skipped(err.msg);
        skip();
    }
    if (code != 0)
        fail_msg("%s", err.msg);
    provider_listen(w);
}

static struct world *world_of(void **state)
{
    provider_open(*state);
    return *state;
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
    world_init(w, "/tmp/reeve-local-XXXXXX");
    (void)chmod(w->root, 0755);
    return 0;
}

/* Processes that were started for sandboxes under our root: it stands in their command lines. */
static unsigned n_processes(const struct world *w)
{
    DIR *d = opendir("/proc");
    struct dirent *it;
    unsigned n = 0;
    assert_non_null(d);
    while ((it = readdir(d)) != NULL) {
        char path[300], line[32768];
        (void)snprintf(path, sizeof(path), "/proc/%s/cmdline", it->d_name);
        int fd = it->d_name[0] >= '1' && it->d_name[0] <= '9' ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd < 0)
            continue;
        ssize_t got = read(fd, line, sizeof(line));
        close(fd);
        if (got > 0 && memmem(line, (size_t)got, w->root, strlen(w->root)) != NULL)
            n++;
    }
    closedir(d);
    return n;
}

static int teardown(void **state)
{
    struct world *w = *state;
    if (w->p != NULL) {
        struct answer a = list(w);
        struct slice ids = slice_str(a.ids), id;
        while (ids.n > 0) {
            char text[64];
            (void)slice_cut(&ids, ' ', &id);
            (void)snprintf(text, sizeof(text), "%.*s", SL_ARG(id));
            if (id.n > 0)
                (void)destroy(w, text);
        }
        for (int i = 0; i < 200 && n_processes(w) > 0; i++)
            pass_ms(w, 10);
        assert_int_equal(n_processes(w), 0); /* nothing stays behind */
        provider_shut(w);
    }
    for (size_t i = 0; i < ARRAY_LEN(w->outside); i++)
        if (w->outside[i] != NULL)
            listener_close(w->outside[i], NULL, NULL);
    world_fini(w);
    (void)nftw(w->root, tree_entry_remove, 16, FTW_DEPTH | FTW_PHYS);
    mem_free(w);
    return 0;
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

/* Host names are the outside's: nothing of it may be seen or reached. */
static void test_wall(void **state)
{
    struct world *w = world_of(state);
    char out[8192], script[2048];
    struct stat st;
    OK(create(w, "sb-wall", "home-wall"));
    OK(start(w, "sb-wall"));
    healthy(w, "sb-wall");
    const char *id = "sb-wall";

    /* Who it is: no root, no capability, no way back. */
    assert_int_equal(
        inside(w, id, "id -u; id -G; grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status", out, sizeof(out)),
        0);
    char want[512], uid[32];
    (void)snprintf(uid, sizeof(uid), "%d\n", geteuid() == 0 ? 210000 : 1000);
    assert_memory_equal(out, uid, strlen(uid));
    assert_non_null(strstr(out, "CapPrm:\t0000000000000000"));
    assert_non_null(strstr(out, "CapEff:\t0000000000000000"));
    if (geteuid() == 0) {
        (void)snprintf(want, sizeof(want), "%s%s", uid, uid); /* its own group and no other */
        assert_memory_equal(out, want, strlen(want));
        assert_non_null(strstr(out, "CapBnd:\t0000000000000000"));
    }
    assert_non_null(strstr(out, "NoNewPrivs:\t1"));
    assert_non_null(strstr(out, "Seccomp:\t2"));

    /* Files of the host. */
    (void)snprintf(
        script, sizeof(script),
        "ls -d /etc/shadow /root /sys /boot /mnt /srv /work /var/lib /etc/ssl/private %s 2>/dev/null",
        w->root);
    (void)inside(w, id, script, out, sizeof(out));
    assert_string_equal(out, "");
    assert_int_equal(
        inside(w, id,
               "for d in / /etc /usr /usr/bin /dev /home /opt /opt/reeve /run/reeve /var; do "
               "touch $d/x 2>/dev/null && echo writable $d; done; "
               "for d in /tmp /run /var/tmp /dev/shm ~; do touch $d/x || echo not writable $d; done; "
               "rm -f /run/reeve/control 2>/dev/null; ls /run/reeve",
               out, sizeof(out)),
        0);
    assert_string_equal(out, "control\n");
    (void)snprintf(script, sizeof(script), "%s/homes/home-wall/volume/x", w->root);
    assert_int_equal(stat(script, &st), 0);
    assert_int_equal(st.st_uid, geteuid() == 0 ? 210000 : geteuid());

    /* Processes: its own only, and nothing of the first one's. */
    assert_int_equal(
        inside(w, id, "cat /proc/1/cmdline | tr '\\0' ' '; ls /proc | grep -c '^[0-9]'", out, sizeof(out)),
        0);
    assert_memory_equal(out, "/opt/reeve/reeve-init run", 25);
    assert_int_equal(
        inside(w, id,
               "cat /proc/1/environ /proc/1/maps 2>/dev/null; ls /proc/1/fd 2>/dev/null; kill -9 1; kill 1; "
               "kill -STOP 1; kill -HUP 1; unshare -U true 2>/dev/null && echo userns; "
               "unshare -Ur true 2>/dev/null && echo userns; mount -t tmpfs x /mnt 2>/dev/null && echo "
               "mount; true",
               out, sizeof(out)),
        0);
    assert_string_equal(out, "");
    if (inside(w, id, "command -v python3", out, sizeof(out)) == 0) {
        assert_int_equal(
            inside(w, id,
                   "python3 - <<'E'\n"
                   "import ctypes, os, socket\n"
                   "l = ctypes.CDLL(None, use_errno=True)\n"
                   "print(l.ptrace(16, 1, 0, 0), ctypes.get_errno())\n" /* PTRACE_ATTACH: EPERM */
                   "fd = os.pidfd_open(1)\n"
                   "print(l.syscall(438, fd, 3, 0), ctypes.get_errno())\n" /* pidfd_getfd: EPERM */
                   "for family in (40, 38, 17, 31):\n"                     /* vsock, alg, packet, bluetooth */
                   "    try: socket.socket(family, socket.SOCK_STREAM); print('open', family)\n"
                   "    except OSError as e: print(e.errno)\n"
                   "E",
                   out, sizeof(out)),
            0);
        assert_string_equal(out, "-1 1\n-1 1\n97\n97\n97\n97\n");
    }
    healthy(w, id); /* and the first process heard none of those signals */
}

static void on_outside(struct listener *l, struct stream *s, void *data)
{
    (void)l;
    *(bool *)data = true;
    stream_reset(s);
}

static void test_no_network(void **state)
{
    struct world *w = world_of(state);
    char out[8192], script[2048];
    bool was_reached = false;
    struct endpoint at = {.host = "127.0.0.1"}, any = {.host = "0.0.0.0"};
    struct err err = {0};
    assert_int_equal(listener_open(&w->loop, &at, on_outside, &was_reached, &w->outside[0], &err), 0);
    assert_int_equal(listener_open(&w->loop, &any, on_outside, &was_reached, &w->outside[1], &err), 0);
    OK(create(w, "sb-a", "home-a"));
    OK(create(w, "sb-b", "home-b"));
    OK(start(w, "sb-a"));
    OK(start(w, "sb-b"));
    healthy(w, "sb-a");
    healthy(w, "sb-b");

    assert_int_equal(inside(w, "sb-a", "cat /proc/net/dev | grep -c :", out, sizeof(out)), 0);
    assert_string_equal(out, "1\n"); /* lo */
    (void)snprintf(
        script, sizeof(script),
        "for u in http://127.0.0.1:%u http://localhost:%u http://169.254.169.254 http://1.1.1.1 "
        "http://10.0.0.1 "
        "http://192.168.0.1 http://172.17.0.1:%u 'http://[::1]:%u' 'http://[fe80::1]' http://example.org; do "
        "curl -s -m 3 -o /dev/null \"$u\" && echo reached $u; done; "
        "getent hosts example.org; echo done",
        listener_port(w->outside[0]), listener_port(w->outside[1]), listener_port(w->outside[1]),
        listener_port(w->outside[0]));
    assert_int_equal(inside(w, "sb-a", script, out, sizeof(out)), 0);
    assert_string_equal(out, "done\n");
    assert_false(was_reached);

    /* Another sandbox: a server of its own on a port is not the neighbour's; its files and processes neither.
     */
    assert_int_equal(inside(w, "sb-b", "echo secret > ~/s; echo secret > /tmp/s; echo secret > /dev/shm/s",
                            out, sizeof(out)),
                     0);
    (void)inside(w, "sb-a", "cat ~/s /tmp/s /dev/shm/s 2>/dev/null; ps -e -o args 2>/dev/null | grep -c sb-b",
                 out, sizeof(out));
    assert_null(strstr(out, "secret"));
    assert_int_equal(inside(w, "sb-a", "curl -s --unix-socket /run/reeve/control -m 3 http://x/ ; echo $?",
                            out, sizeof(out)),
                     0);
    assert_string_not_equal(out, "0\n");  /* closed on it: an empty answer or a broken pipe, */
    assert_string_not_equal(out, "28\n"); /* and at once */
    healthy(w, "sb-a");
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
    assert_non_null(strstr(buf_cstr(&w->door_text), "GET /llm HTTP/1.1"));
    /* The port cannot be taken, also not while no controller is there. */
    provider_shut(w);
    provider_open(w);
    OK(start(w, "sb-door"));
    if (inside(w, "sb-door", "command -v python3", out, sizeof(out)) == 0) {
        assert_int_equal(
            inside(
                w, "sb-door",
                "python3 -c \"import socket; s=socket.socket(); s.setsockopt(1,15,1); s.setsockopt(1,2,1)\n"
                "try: s.bind(('127.0.0.1',8700)); s.listen(); print('taken')\n"
                "except OSError: print('refused')\"",
                out, sizeof(out)),
            0);
        assert_string_equal(out, "refused\n");
    }
    assert_int_equal(inside(w, "sb-door", "curl -s -m 5 http://127.0.0.1:8700/again", out, sizeof(out)), 0);
    assert_string_equal(out, "from-door");
    assert_int_equal(w->n_doors, 2);
}

/* A controller that goes away and comes back finds the sandbox as it was. */
static void test_adopt(void **state)
{
    struct world *w = world_of(state);
    char before[4096], after[4096];
    const char *who =
        "cat /proc/sys/kernel/random/boot_id; cat /tmp/mark; pgrep -x sandbox-agent; stat -c %Y /proc/1";
    OK(create(w, "sb-keep", "home-keep"));
    OK(start(w, "sb-keep"));
    healthy(w, "sb-keep");
    assert_int_equal(inside(w, "sb-keep", "date +%s%N > /tmp/mark", before, sizeof(before)), 0);
    assert_int_equal(inside(w, "sb-keep", who, before, sizeof(before)), 0);
    for (int i = 0; i < 3; i++) {
        provider_shut(w);
        provider_open(w);
        assert_int_equal(describe(w, "sb-keep").state, SANDBOX_RUNNING);
        assert_string_equal(list(w).ids, "sb-keep ");
        struct connector *c = w->p->ops->connector(w->p, SL("sb-keep"), 2468);
        struct exchange_result r; /* before start has reached init again */
        http_do(w, c, "GET", "/v1/health", NULL, &r);
        assert_int_equal(r.code, E_UNAVAILABLE);
        buf_fini(&r.body);
        w->p->ops->connector_release(w->p, c);
        OK(start(w, "sb-keep"));
        healthy(w, "sb-keep");
        assert_int_equal(inside(w, "sb-keep", who, after, sizeof(after)), 0);
        assert_string_equal(before, after);
    }
    struct answer other = {0};
    w->p->ops->list(w->p, SL("somebody-else"), OP_MS, on_list, &other);
    wait_for(w, &other.is_done, OP_MS, "list");
    assert_int_equal(other.n, 0);
    assert_int_equal(create(w, "sb-keep", "home-keep").code, E_EXISTS);
}

/* Starts in a process of its own that is killed after `after_ms`, wherever it is then. */
static void start_and_die(struct world *w, const char *id, int64_t after_ms)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct world *me = MEM_NEW(struct world);
        struct sandbox_server s = {.token = SL(TOKEN), .port = 2468};
        struct answer a = {0};
        (void)snprintf(me->root, sizeof(me->root), "%s", w->root);
        if (loop_init(&me->loop, &clock_system, &rnd_system) != 0)
            _exit(3);
        timer_init(&me->late, &me->loop, on_late, me);
        provider_open(me);
        me->p->ops->start(me->p, slice_str(id), &s, OP_MS, on_done, &a);
        timer_start(&me->late, after_ms);
        while (!me->is_late)
            uv_run(&me->loop.uv, UV_RUN_ONCE);
        raise(SIGKILL);
        _exit(4);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_killed_anywhere(void **state)
{
    struct world *w = world_of(state);
    char out[256];
    OK(create(w, "sb-crash", "home-crash"));
    provider_shut(w);
    for (int64_t ms = 0; ms <= 30; ms += 3) {
        start_and_die(w, "sb-crash", ms);
        if (ms % 2 == 0)
            start_and_die(w, "sb-crash", 1); /* and again, on what that left */
        provider_open(w);
        enum sandbox_state s = describe(w, "sb-crash").state;
        assert_true(s == SANDBOX_RUNNING || s == SANDBOX_CREATED || s == SANDBOX_SUSPENDED ||
                    s == SANDBOX_EXITED);
        OK(start(w, "sb-crash"));
        healthy(w, "sb-crash");
        assert_int_equal(inside(w, "sb-crash", "pgrep -x -c sandbox-agent", out, sizeof(out)), 0);
        assert_string_equal(out, "1\n");
        OK(suspend(w, "sb-crash"));
        provider_shut(w);
    }
    provider_open(w);
    OK(destroy(w, "sb-crash"));
}

/* The only child processes of ours that are named so belong to that sandbox. */
static pid_t init_pid(struct world *w, const char *id)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/sandboxes/%s/life", w->root, id);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock k = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = INIT_LOCK_BYTE_PID, .l_len = 1};
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETLK, &k), 0);
    close(fd);
    assert_int_equal(k.l_type, F_WRLCK);
    return k.l_pid;
}

static void test_ends_by_itself(void **state)
{
    struct world *w = world_of(state);
    char out[4096];
    OK(create(w, "sb-end", "home-end"));
    OK(start(w, "sb-end"));
    healthy(w, "sb-end");

    /* The server dies: init starts it again, with the same credentials. */
    pass_ms(w, 50);
    w->n_events = 0;
    w->last_event[0] = '\0';
    (void)inside(w, "sb-end", "(sleep 0.1; pkill -9 -x sandbox-agent) >/dev/null 2>&1 &", out, sizeof(out));
    wait_event(w, "server_started");
    assert_true(w->n_events >= 2);
    healthy(w, "sb-end");
    assert_int_equal(inside(w, "sb-end", "echo $ANTHROPIC_API_KEY", out, sizeof(out)), 0);
    assert_string_equal(out, "sk-test-1\n");

    /* Its first process dies: all is over, and it can be started again. */
    assert_int_equal(kill(init_pid(w, "sb-end"), SIGKILL), 0);
    wait_event(w, "exited");
    struct answer a = describe(w, "sb-end");
    assert_int_equal(a.state, SANDBOX_EXITED);
    assert_string_equal(a.reason, "its processes ended");
    OK(start(w, "sb-end"));
    healthy(w, "sb-end");
}

/* A server that cannot stay up is shown as such. */
static void test_server_that_dies(void **state)
{
    struct world *w = world_of(state);
    struct answer a = {0};
    struct sandbox_server s = {.token = SL("--help"),
                               .port = 2468}; /* taken as an option: it prints and ends */
    struct sandbox_env bad[] = {{SL("A B"), SL("x")}};
    struct sandbox_server broken = {.env = bad, .n_env = 1, .token = SL(TOKEN), .port = 2468};
    OK(create(w, "sb-bad", "home-bad"));
    w->p->ops->start(w->p, SL("sb-bad"), &broken, OP_MS, on_done, &a);
    wait_for(w, &a.is_done, OP_MS, "start");
    assert_int_equal(a.code, E_INVALID);
    assert_int_equal(describe(w, "sb-bad").state, SANDBOX_CREATED);
    a = (struct answer){0};
    w->p->ops->start(w->p, SL("sb-bad"), &s, OP_MS, on_done, &a);
    wait_for(w, &a.is_done, OP_MS, "start");
    assert_int_equal(a.code, 0);
    wait_event(w, "server_exited");
    a = describe(w, "sb-bad");
    assert_int_equal(a.state, SANDBOX_RUNNING);
    assert_memory_equal(a.reason, "its server ended with status ", 29);
    struct connector *c = w->p->ops->connector(w->p, SL("sb-bad"), 2468);
    struct exchange_result r;
    http_do(w, c, "GET", "/v1/health", NULL, &r);
    assert_int_equal(r.code, E_UNAVAILABLE);
    assert_non_null(strstr(r.err.msg, "nothing listens on port 2468"));
    buf_fini(&r.body);
    w->p->ops->connector_release(w->p, c);
    OK(destroy(w, "sb-bad"));
}

static void test_connector(void **state)
{
    struct world *w = world_of(state);
    struct answer a = {0}, many[40] = {{0}};
    struct connector *none = w->p->ops->connector(w->p, SL("sb-none"), 80);
    (void)none->open(none, &w->loop, 1000, on_stream, &a);
    assert_false(a.is_done);
    wait_for(w, &a.is_done, OP_MS, "open");
    assert_int_equal(a.code, E_UNAVAILABLE);
    w->p->ops->connector_release(w->p, none);

    OK(create(w, "sb-conn", "home-conn"));
    OK(start(w, "sb-conn"));
    healthy(w, "sb-conn");
    struct connector *c = w->p->ops->connector(w->p, SL("sb-conn"), 2468);
    a = (struct answer){0};
    void *handle = c->open(c, &w->loop, 1000, on_stream, &a);
    c->cancel(c, handle);
    wait_for(w, &a.is_done, OP_MS, "cancel");
    assert_int_equal(a.code, E_CANCELLED);
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        (void)c->open(c, &w->loop, 5000, on_stream, &many[i]);
    for (size_t i = 0; i < ARRAY_LEN(many); i++) {
        wait_for(w, &many[i].is_done, OP_MS, "open");
        assert_int_equal(many[i].code, 0);
    }
    /* One is being opened while the sandbox goes. */
    a = (struct answer){0};
    (void)c->open(c, &w->loop, 5000, on_stream, &a);
    OK(destroy(w, "sb-conn"));
    wait_for(w, &a.is_done, OP_MS, "open");
    w->p->ops->connector_release(w->p, c);
}

static struct answer destroy_home(struct world *w, const char *home)
{
    struct answer a = {0};
    w->p->ops->destroy_home(w->p, slice_str(home), OP_MS, on_done, &a);
    assert_false(a.is_done);
    wait_for(w, &a.is_done, OP_MS, "destroy_home");
    return a;
}

static void test_home_goes(void **state)
{
    struct world *w = world_of(state);
    char out[4096], path[512], script[1024];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/canary", w->root);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    close(fd);
    OK(create(w, "sb-home", "home-x"));
    OK(start(w, "sb-home"));
    healthy(w, "sb-home");
    /* Deep, locked, linked to the outside, with names that the removal itself would like to use. */
    (void)snprintf(
        script, sizeof(script),
        "cd ~; mkdir -p .deep-0/full .deep-1; touch .deep-2; ln -s %s out; ln -s %s/canary file; "
        "mkdir locked; touch locked/x; chmod 0 locked; "
        "p=d; for i in 1 2 3 4 5 6 7 8; do p=$p/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d; mkdir -p $p; done; "
        "cd $p; for i in $(seq 60); do mkdir d; cd d; done; echo bottom > x; chmod 0 ~/.deep-1; echo ok",
        w->root, w->root);
    assert_int_equal(inside(w, "sb-home", script, out, sizeof(out)), 0);
    assert_string_equal(out, "ok\n");
    struct answer busy = destroy_home(w, "home-x");
    assert_int_equal(busy.code, E_BUSY);
    assert_non_null(strstr(busy.err.msg, "sb-home"));
    OK(destroy(w, "sb-home"));
    OK(destroy_home(w, "home-x"));
    OK(destroy_home(w, "home-x"));
    provider_shut(w); /* waits for, or stops, the removal */
    provider_open(w); /* goes on with it */
    (void)snprintf(path, sizeof(path), "%s/homes", w->root);
    for (int i = 0; i < 500 && (stat(path, &st) != 0 || st.st_nlink > 2); i++)
        pass_ms(w, 10);
    assert_int_equal(st.st_nlink, 2);
    (void)snprintf(path, sizeof(path), "%s/canary", w->root);
    assert_int_equal(stat(path, &st), 0);
}

static uint64_t number_of(const char *text)
{
    uint64_t v = UINT64_MAX;
    struct slice s = slice_str(text);
    while (s.n > 0 && s.p[s.n - 1] == '\n')
        s.n--;
    return slice_u64(s, &v) == 0 ? v : UINT64_MAX;
}

static void test_limits(void **state)
{
    struct world *w = world_of(state);
    char out[4096];
    const char *note = w->p->ops->caps(w->p)->limits_note;
    assert_non_null(strstr(note, "disk"));
    OK(create(w, "sb-lim", "home-lim"));
    OK(start(w, "sb-lim"));
    healthy(w, "sb-lim");
    if (strstr(note, "processes") == NULL) {
        (void)inside(w, "sb-lim",
                     "for i in $(seq 200); do sleep 3 & done 2>/dev/null; ls -d /proc/[0-9]* | wc -l; kill "
                     "$(jobs -p) 2>/dev/null",
                     out, sizeof(out));
        healthy(w, "sb-lim"); /* the shell may not even have been able to count */
        pass_ms(w, 100);
        assert_true(inside(w, "sb-lim", "ls -d /proc/[0-9]* | wc -l", out, sizeof(out)) != 0 ||
                    number_of(out) <= 70);
    } else {
        print_message("not enforced here: %s\n", note);
    }
    /* More memory than 512 MiB: killed, and only that. */
    (void)inside(w, "sb-lim", "head -c 900M /dev/zero | tail | wc -c", out, sizeof(out));
    assert_null(strstr(out, "943718400"));
    healthy(w, "sb-lim");
    assert_int_equal(inside(w, "sb-lim",
                            "head -c 2G /dev/zero > /tmp/full 2>/dev/null; rm -f /tmp/full; echo alive", out,
                            sizeof(out)),
                     0);
    assert_string_equal(out, "alive\n");
}

static void test_usage(void **state)
{
    struct world *w = world_of(state);
    assert_int_equal(usage_of(w, "sb-use").code, E_GONE);
    OK(create(w, "sb-use", "home-use"));
    OK(start(w, "sb-use"));
    healthy(w, "sb-use");
    usage_moves(w, "sb-use");
    OK(destroy(w, "sb-use"));
}

static void test_refusals(void **state)
{
    struct world *w = world_of(state);
    struct err err = {0};
    struct provider *other = NULL;
    struct local_options o = {.name = SL("second"),
                              .root = w->root,
                              .init_path = program("REEVE_INIT", "build/reeve-init"),
                              .agent_binary = program("REEVE_AGENT_BINARY", "build/sandbox-agent"),
                              .uid_first = 210000,
                              .uid_count = 100};
    assert_int_equal(provider_local_open(&w->loop, &o, &other, &err), E_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "in use by another controller"));
    o.root = "relative";
    assert_int_equal(provider_local_open(&w->loop, &o, &other, &err), E_INVALID);
    assert_int_equal(create(w, "../x", "home").code, E_INVALID);
    assert_int_equal(create(w, "x", ".").code, E_INVALID);
    assert_int_equal(create(w, "", "home").code, E_INVALID);
    assert_int_equal(destroy(w, "a/b").code, E_INVALID);

    provider_shut(w);
    char root[96];
    (void)snprintf(root, sizeof(root), "%s/other", w->root);
    o.root = root;
    o.agent_binary = "/nonexistent/agent";
    assert_int_equal(provider_local_open(&w->loop, &o, &other, &err), E_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "/nonexistent/agent"));
}

/* Calls that are under way when the controller closes are answered, and nothing is lost. */
static void test_close_in_the_middle(void **state)
{
    struct world *w = world_of(state);
    struct answer a[4] = {{0}};
    struct sandbox_server s = {.token = SL(TOKEN), .port = 2468};
    OK(create(w, "sb-mid", "home-mid"));
    for (int round = 0; round < 6; round++) {
        memset(a, 0, sizeof(a));
        w->p->ops->start(w->p, SL("sb-mid"), &s, OP_MS, on_done, &a[0]);
        w->p->ops->describe(w->p, SL("sb-mid"), OP_MS, on_info, &a[1]);
        w->p->ops->suspend(w->p, SL("sb-mid"), SUSPEND_STOP, OP_MS, on_done, &a[2]);
        w->p->ops->list(w->p, SL(CONTROL), OP_MS, on_list, &a[3]);
        pass_ms(w, round * 5);
        provider_shut(w);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
            assert_true(a[i].is_done);
        provider_open(w);
        OK(start(w, "sb-mid"));
        healthy(w, "sb-mid");
        /* A deadline that has passed: answered in time, and the work is finished in the background. */
        memset(a, 0, sizeof(a));
        w->p->ops->suspend(w->p, SL("sb-mid"), SUSPEND_STOP, 0, on_done, &a[0]);
        wait_for(w, &a[0].is_done, OP_MS, "suspend");
        assert_true(a[0].code == E_TIMEOUT || a[0].code == E_UNKNOWN_OUTCOME);
    }
}

/* A close that comes while a sandbox takes its time to end does not wait for it. */
static void test_close_while_ending(void **state)
{
    struct world *w = world_of(state);
    struct answer a = {0};
    char out[256];
    OK(create(w, "sb-end", "home-end"));
    OK(start(w, "sb-end"));
    healthy(w, "sb-end");
    assert_int_equal(inside(w, "sb-end",
                            "setsid sh -c 'trap \"\" TERM; touch /tmp/deaf; sleep 60' >/dev/null 2>&1 & "
                            "while ! test -e /tmp/deaf; do sleep 0.01; done",
                            out, sizeof(out)),
                     0);
    w->p->ops->suspend(w->p, SL("sb-end"), SUSPEND_STOP, 60000, on_done, &a);
    pass_ms(w, 300); /* init has been told, and gives the deaf one 2 s */
    assert_false(a.is_done);
    provider_shut(w);
    assert_true(a.is_done);
    assert_int_equal(a.code, E_CANCELLED);
    provider_open(w);
    for (int i = 0; i < 500 && (a = describe(w, "sb-end")).state == SANDBOX_RUNNING; i++)
        pass_ms(w, 10);
    assert_int_equal(a.state, SANDBOX_EXITED); /* it ended by itself */
    OK(suspend(w, "sb-end"));
    OK(start(w, "sb-end"));
    healthy(w, "sb-end");
}

/* At whatever moment the close comes: every call is answered, and the close ends. */
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
    assert_true(n_processes(w) > 0);
    provider_shut(w);
    pass_ms(w, 20); /* what it let go is closed a turn or two later */
    unsigned n_fds = n_descriptors();
    provider_open(w);
    for (unsigned round = 0; round < 12; round++) {
        struct answer a[5] = {{0}};
        struct answer made = create(w, "sb-any", "home-any"); /* is there, unless a destroy got that far */
        assert_true(made.code == 0 || made.code == E_EXISTS);
        struct connector *c = w->p->ops->connector(w->p, SL("sb-any"), 2468);
        w->p->ops->start(w->p, SL("sb-any"), &s, OP_MS, on_done, &a[0]);
        if (rnd_below(&rnd.rnd, 2) == 0) {
            wait_for(w, &a[0].is_done, OP_MS, "start");
            assert_true(a[0].code == 0 || a[0].code == E_UNAVAILABLE); /* one of before was still ending */
        }
        (void)c->open(c, &w->loop, OP_MS, on_stream, &a[1]);
        w->p->ops->describe(w->p, SL("sb-any"), OP_MS, on_info, &a[2]);
        if (rnd_below(&rnd.rnd, 2) == 0)
            w->p->ops->suspend(w->p, SL("sb-any"), SUSPEND_STOP, OP_MS, on_done, &a[3]);
        else
            w->p->ops->destroy(w->p, SL("sb-any"), OP_MS, on_done, &a[3]);
        w->p->ops->list(w->p, SL(CONTROL), OP_MS, on_list, &a[4]);
        pass_ms(w, (int64_t)rnd_below(&rnd.rnd, 60));
        w->p->ops->connector_release(w->p, c);
        provider_shut(w);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
            assert_true(a[i].is_done);
        pass_ms(w, 20);
        assert_int_equal(n_descriptors(), n_fds);
        provider_open(w);
    }
}

/* Runs this very program as somebody without rights: other namespaces, another way in. */
static int run_as_ordinary_user(void)
{
    const char *require = getenv("REEVE_REQUIRE");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgroups(0, NULL) != 0 || setresgid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID) != 0 ||
            setresuid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID) != 0)
            _exit(125);
        execl("/proc/self/exe", "test_local", (char *)NULL);
        _exit(126); /* its folder may be closed to others */
    }
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return 1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 126) {
        (void)fprintf(stderr, "skipped: an ordinary user cannot run this test from here\n");
        return require != NULL && strcmp(require, "all") == 0 ? 1 : 0;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(int argc, char **argv)
{
    if (argc > 1) /* only the tests whose name matches */
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        TEST(test_life),
        TEST(test_wall),
        TEST(test_no_network),
        TEST(test_door),
        TEST(test_adopt),
        TEST(test_killed_anywhere),
        TEST(test_ends_by_itself),
        TEST(test_server_that_dies),
        TEST(test_connector),
        TEST(test_home_goes),
        TEST(test_limits),
        TEST(test_usage),
        TEST(test_refusals),
        TEST(test_close_in_the_middle),
        TEST(test_close_while_ending),
        TEST(test_close_at_any_moment),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (geteuid() == 0 && argc == 1)
        failed += run_as_ordinary_user();
    return failed;
}
