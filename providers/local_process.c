/* local_process: the command line that makes a sandbox, and checking that this machine can.
 *
 * What is inside: /usr read-only from the host with its links, a handful of files in /etc, /proc, a minimal
 * /dev, tmpfs where programs expect to write, the home, and two files of ours. Everything else of the host is
 * absent, also when a folder above the root cannot be entered by the sandbox's uid: bubblewrap binds as us,
 * before privileges go. As root there is no user namespace: bubblewrap keeps three capabilities for init,
 * which takes the sandbox's own uid and drops them before anything else runs. As an ordinary user bubblewrap
 * makes a user namespace with uid 1000. */
#include "providers/local.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/clock.h"
#include "base/core/mem.h"

#define INSIDE_UID  "1000"
#define TMPFS_MAX   ((uint64_t)1 << 30)
#define TMPFS_SMALL ((uint64_t)16 << 20)
#define COMMAND_MAX 256
#define CHECK_MS    10000

struct command {
    char **v;
    size_t n;
    struct arena *a;
};

static void put(struct command *c, const char *word)
{
    must(c->n + 1 < COMMAND_MAX);
    c->v[c->n++] = arena_strdup(c->a, word);
}

static void put2(struct command *c, const char *one, const char *two)
{
    put(c, one);
    put(c, two);
}

static void put3(struct command *c, const char *one, const char *two, const char *three)
{
    put(c, one);
    put2(c, two, three);
}

static void put_isolation(struct command *c, const struct local_place *w)
{
    /* --unshare-all would make a user namespace also for root, whose mounts below need none. */
    put(c, "--unshare-ipc");
    put(c, "--unshare-pid");
    put(c, "--unshare-net");
    put(c, "--unshare-uts");
    put(c, "--unshare-cgroup-try");
    if (w->is_root) {
        put2(c, "--cap-drop", "ALL");
        put2(c, "--cap-add", "CAP_SETUID");
        put2(c, "--cap-add", "CAP_SETGID");
        put2(c, "--cap-add", "CAP_SETPCAP");
    } else {
        put(c, "--unshare-user");
        put2(c, "--uid", INSIDE_UID);
        put2(c, "--gid", INSIDE_UID);
    }
    put(c, "--as-pid-1");
    put(c, "--new-session");
    put(c, "--clearenv");
}

/* /bin, /lib ... as the host has them: links into /usr, or folders of their own. */
static void put_system(struct command *c)
{
    static const char *const roots[] = {"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};
    static const char *const etc[] = {"/etc/ld.so.cache",  "/etc/ld.so.conf", "/etc/ld.so.conf.d",
                                      "/etc/alternatives", "/etc/ssl",        "/etc/ca-certificates",
                                      "/etc/pki",          "/etc/localtime",  "/etc/mime.types",
                                      "/etc/protocols",    "/etc/services"};
    /* Folders that bubblewrap makes by itself can be entered by root only. */
    static const char *const folders[] = {"/etc",         "/etc/ssl",          "/etc/pki",
                                          "/etc/pki/tls", "/etc/pki/ca-trust", "/var",
                                          "/opt",         "/opt/reeve",        "/home"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        put2(c, "--perms", "0755");
        put2(c, "--dir", folders[i]);
    }
    put3(c, "--ro-bind", "/usr", "/usr");
    for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
        char to[256];
        struct stat st;
        ssize_t n = readlink(roots[i], to, sizeof(to) - 1);
        if (n > 0) {
            to[n] = '\0';
            put3(c, "--symlink", to, roots[i]);
        } else if (lstat(roots[i], &st) == 0 && S_ISDIR(st.st_mode)) {
            put3(c, "--ro-bind", roots[i], roots[i]);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(etc); i++)
        if (strcmp(etc[i], "/etc/ssl") == 0) { /* its private keys stay outside */
            put3(c, "--ro-bind-try", "/etc/ssl/certs", "/etc/ssl/certs");
            put3(c, "--ro-bind-try", "/etc/ssl/openssl.cnf", "/etc/ssl/openssl.cnf");
        } else if (strcmp(etc[i], "/etc/pki") == 0) {
            put3(c, "--ro-bind-try", "/etc/pki/tls/certs", "/etc/pki/tls/certs");
            put3(c, "--ro-bind-try", "/etc/pki/ca-trust/extracted", "/etc/pki/ca-trust/extracted");
        } else {
            put3(c, "--ro-bind-try", etc[i], etc[i]);
        }
}

static void put_tmpfs(struct command *c, const char *perms, uint64_t bytes, const char *where)
{
    put2(c, "--perms", perms);
    put2(c, "--size", arena_printf(c->a, "%llu", (unsigned long long)bytes));
    put2(c, "--tmpfs", where);
}

static void put_inside(struct command *c, const struct local_place *w, const struct local_record *r)
{
    static const char *const etc[] = {"passwd", "group", "hosts", "hostname", "nsswitch.conf", "resolv.conf"};
    uint64_t scratch =
        r->memory_bytes > 0 && r->memory_bytes / 2 < TMPFS_MAX ? r->memory_bytes / 2 : TMPFS_MAX;
    char *folder = arena_printf(c->a, "%s/sandboxes/%.*s", w->root, SL_ARG(r->id));
    put_system(c);
    for (size_t i = 0; i < ARRAY_LEN(etc); i++)
        put3(c, "--ro-bind", arena_printf(c->a, "%s/etc/%s", folder, etc[i]),
             arena_printf(c->a, "/etc/%s", etc[i]));
    put2(c, "--proc", "/proc");
    put2(c, "--dev", "/dev");
    put_tmpfs(c, "1777", scratch, "/dev/shm");
    put_tmpfs(c, "1777", scratch, "/tmp");
    put_tmpfs(c, "1777", scratch, "/var/tmp");
    put_tmpfs(c, "1777", TMPFS_SMALL, "/run");
    put3(c, "--ro-bind", w->init_path, HOST_INSIDE_INIT);
    put3(c, "--ro-bind", w->agent_binary, HOST_INSIDE_AGENT);
    put3(c, "--ro-bind", arena_printf(c->a, "%s/control", folder), INIT_SOCKET_FOLDER);
    put3(c, "--bind", arena_printf(c->a, "%s/homes/%.*s/volume", w->root, SL_ARG(r->home_id)), INIT_HOME);
    put2(c, "--remount-ro", "/dev");
    put2(c, "--remount-ro", "/");
    put2(c, "--hostname", arena_printf(c->a, "%.*s", SL_ARG(local_hostname(r))));
    put2(c, "--chdir", "/");
}

char **local_command(const struct local_place *w, const struct local_limits *m, const struct local_record *r,
                     uid_t uid, const char *const *cgroups, size_t n_cgroups, struct arena *a)
{
    struct command c = {.v = arena_zalloc(a, COMMAND_MAX * sizeof(char *)), .a = a};
    char *number = arena_printf(a, "%u", (unsigned)uid);
    put2(&c, w->init_path, "enter");
    put2(&c, "--lock", arena_printf(a, "%s/sandboxes/%.*s/life", w->root, SL_ARG(r->id)));
    for (size_t i = 0; i < n_cgroups; i++)
        put2(&c, "--cgroup", cgroups[i]);
    put2(&c, "--", w->bwrap);
    put_isolation(&c, w);
    put_inside(&c, w, r);
    put3(&c, "--", HOST_INSIDE_INIT, "run");
    put2(&c, "--lock", "3"); /* where `enter` left it */
    if (w->is_root) {
        put2(&c, "--uid", number);
        put2(&c, "--gid", number);
    }
    if (local_limits_nproc(m, r) > 0)
        put2(&c, "--nproc", arena_printf(a, "%llu", (unsigned long long)local_limits_nproc(m, r)));
    if (local_limits_data(m, r) > 0)
        put2(&c, "--data", arena_printf(a, "%llu", (unsigned long long)local_limits_data(m, r)));
    put(&c, arena_printf(a, "%.*s", SL_ARG(r->id)));
    return c.v;
}

/* --- the machine --- */

static char *program_find(const char *name)
{
    static const char *const folders[] = {"/usr/bin", "/usr/local/bin", "/bin"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        struct arena a = ARENA_INIT;
        char *path = arena_printf(&a, "%s/%s", folders[i], name);
        char *found = access(path, X_OK) == 0 ? mem_strdup(path) : NULL;
        arena_fini(&a);
        if (found != NULL)
            return found;
    }
    return NULL;
}

/* Waits for the end of the output and of the process; kills it at the deadline. The wait(2) status. */
static int check_wait(pid_t pid, int output, struct buf *said)
{
    int64_t until = clock_mono_ms(&clock_system) + CHECK_MS;
    for (;;) {
        struct pollfd p = {.fd = output, .events = POLLIN};
        int64_t left = until - clock_mono_ms(&clock_system);
        char bytes[512];
        if (left <= 0) {
            kill(pid, SIGKILL);
            break;
        }
        if (poll(&p, 1, (int)left) <= 0)
            continue;
        ssize_t n = read(output, bytes, sizeof(bytes));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        (void)buf_append(said, bytes, (size_t)n); /* the first lines are enough */
    }
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static int check_run(char *const *argv, struct buf *said, struct err *err)
{
    int out[2], status;
    pid_t pid;
    char *no_env[] = {NULL};
    if (pipe2(out, O_CLOEXEC) != 0)
        return err_set(err, err_from_errno(errno), "pipe: %s", strerror(errno));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, out[1], 2);
    int e = posix_spawn(&pid, argv[0], &actions, NULL, argv, no_env);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    if (e != 0) {
        close(out[0]);
        return err_set(err, E_UNAVAILABLE, "cannot run %s: %s", argv[0], strerror(e));
    }
    status = check_wait(pid, out[0], said);
    close(out[0]);
    if (status == 0)
        return 0;
    struct slice text = slice_trim(buf_view(said));
    while (text.n > 0 && text.p[text.n - 1] == '\n')
        text.n--;
    return err_set(err, E_UNAVAILABLE, "bubblewrap cannot make sandboxes on this machine: %.*s",
                   SL_ARG(text));
}

int local_machine_check(const struct local_place *w, char **ret_bwrap, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct command c = {.v = arena_zalloc(&a, COMMAND_MAX * sizeof(char *)), .a = &a};
    struct buf said = BUF_INIT(512);
    char *bwrap = program_find("bwrap");
    int rc = 0, fd;
    if (bwrap == NULL)
        rc = err_set(err, E_UNAVAILABLE, "bwrap is not installed (Debian package bubblewrap)");
    else if (access(w->init_path, X_OK) != 0)
        rc = err_set(err, E_UNAVAILABLE, "reeve-init %s: %s", w->init_path, strerror(errno));
    else if (access(w->agent_binary, X_OK) != 0)
        rc = err_set(err, E_UNAVAILABLE, "the sandbox-agent server %s: %s", w->agent_binary, strerror(errno));
    else if ((fd = host_pidfd_open(getpid())) < 0)
        rc = err_set(err, E_UNAVAILABLE, "this kernel has no pidfd_open: Linux 5.3 or newer is needed");
    else
        close(fd);
    if (rc == 0) {
        put(&c, bwrap);
        put(&c, "--die-with-parent"); /* when it hangs and is killed, nothing of it stays */
        put_isolation(&c, w);
        put3(&c, "--ro-bind", "/usr", "/usr");
        put2(&c, "--proc", "/proc");
        put2(&c, "--dev", "/dev");
        put3(&c, "--ro-bind", w->init_path, HOST_INSIDE_INIT);
        put3(&c, "--", HOST_INSIDE_INIT, "probe");
        rc = check_run(c.v, &said, err);
    }
    if (rc == 0)
        *ret_bwrap = bwrap;
    else
        mem_free(bwrap);
    buf_fini(&said);
    arena_fini(&a);
    return rc;
}
