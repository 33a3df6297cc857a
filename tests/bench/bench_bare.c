/* bench_bare: how long a server in a bare bubblewrap takes from fork to its first healthy answer, in ms.
 *
 *   bench_bare SERVER-BINARY
 *
 * The peer of a cold start: the namespaces, /usr and certificates of the local provider (the server reads
 * those at its start), a home in memory, no control groups, nothing else. The server listens inside a
 * network namespace of its own, so a child of ours enters that and asks there, every half millisecond.
 * Fails after 30 s. Whatever was started ends with this program. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "base/core/slice.h"

enum { BARE_PORT = 2468, BARE_TRIES = 60000, BARE_ARGV_MAX = 64 };

static double now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail */
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void pause_briefly(void)
{
    (void)nanosleep(&(struct timespec){0, 500000}, NULL); /* shorter is fine */
}

static pid_t spawn_bwrap(const char *binary, int info_fd)
{
    char fd_text[16];
    (void)snprintf(fd_text, sizeof fd_text, "%d", info_fd);
    const char *const argv[BARE_ARGV_MAX] = {"bwrap",
                                             "--info-fd",
                                             fd_text,
                                             "--unshare-ipc",
                                             "--unshare-pid",
                                             "--unshare-net",
                                             "--unshare-uts",
                                             "--unshare-cgroup-try",
                                             "--die-with-parent",
                                             "--new-session",
                                             "--clearenv",
                                             "--ro-bind",
                                             "/usr",
                                             "/usr",
                                             "--symlink",
                                             "usr/bin",
                                             "/bin",
                                             "--symlink",
                                             "usr/lib",
                                             "/lib",
                                             "--symlink",
                                             "usr/lib64",
                                             "/lib64",
                                             "--ro-bind-try",
                                             "/etc/ld.so.cache",
                                             "/etc/ld.so.cache",
                                             "--ro-bind-try",
                                             "/etc/ssl",
                                             "/etc/ssl",
                                             "--proc",
                                             "/proc",
                                             "--dev",
                                             "/dev",
                                             "--tmpfs",
                                             "/tmp",
                                             "--dir",
                                             "/home/agent",
                                             "--ro-bind",
                                             binary,
                                             "/opt/sandbox-agent",
                                             "--setenv",
                                             "HOME",
                                             "/home/agent",
                                             "--setenv",
                                             "PATH",
                                             "/usr/bin:/bin",
                                             "--chdir",
                                             "/home/agent",
                                             "/opt/sandbox-agent",
                                             "--no-token",
                                             "server",
                                             "--host",
                                             "127.0.0.1",
                                             "--port",
                                             "2468",
                                             "--no-telemetry",
                                             NULL};
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail with these arguments */
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
        _exit(126);
    execvp("bwrap", (char *const *)argv);
    _exit(127);
}

/* The first process inside, as seen from outside: bwrap writes {"child-pid": N, …}. */
static pid_t child_pid(int fd)
{
    char text[1024];
    size_t n = 0;
    for (ssize_t got; n < sizeof text - 1 && (got = read(fd, text + n, sizeof text - 1 - n)) > 0;) {
        n += (size_t)got;
        if (memchr(text, '}', n) != NULL)
            break;
    }
    text[n] = '\0';
    const char *at = strstr(text, "\"child-pid\":");
    uint64_t pid = 0;
    if (at == NULL)
        die("bwrap did not start: %s", text);
    at += strlen("\"child-pid\":");
    at += strspn(at, " ");
    if (slice_u64(slice_of(at, strspn(at, "0123456789")), &pid) != 0)
        die("bwrap's info: %s", text);
    return (pid_t)pid;
}

static void namespace_enter(pid_t pid, const char *which, int type)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, which);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, type) != 0)
        die("%s: %s", path, strerror(errno));
    (void)close(fd);
}

static bool is_healthy(void)
{
    static const char ask[] = "GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(BARE_PORT)};
    char answer[16] = "";
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    /* a SYN that meets an interface which is only just coming up is lost, and repeated after a second */
    const struct timeval patience = {.tv_usec = 5000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0 ||
                    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0))
        die("socket timeouts: %s", strerror(errno));
    bool yes = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
               write(fd, ask, sizeof ask - 1) == (ssize_t)sizeof ask - 1 && read(fd, answer, 12) == 12 &&
               memcmp(answer, "HTTP/1.1 200", 12) == 0;
    if (fd >= 0)
        (void)close(fd);
    return yes;
}

static int ask_inside(pid_t inside)
{
    if (geteuid() != 0)
        namespace_enter(inside, "user", CLONE_NEWUSER);
    namespace_enter(inside, "net", CLONE_NEWNET);
    for (int i = 0; i < BARE_TRIES; i++) {
        if (is_healthy())
            return 0;
        pause_briefly();
    }
    return 1;
}

int main(int argc, char **argv)
{
    int info[2], status = 0;
    if (argc != 2)
        die("usage: bench_bare SERVER-BINARY");
    if (pipe(info) != 0)
        die("pipe: %s", strerror(errno));
    double from = now_ms();
    pid_t bwrap = spawn_bwrap(argv[1], info[1]);
    if (bwrap < 0)
        die("fork: %s", strerror(errno));
    (void)close(info[1]);
    pid_t inside = child_pid(info[0]);
    pid_t asker = fork();
    if (asker == 0)
        _exit(ask_inside(inside));
    if (asker < 0 || waitpid(asker, &status, 0) != asker)
        die("the asking process: %s", strerror(errno));
    double took = now_ms() - from;
    (void)kill(bwrap, SIGKILL); /* the server goes with it: --die-with-parent */
    (void)waitpid(bwrap, NULL, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        die("the server was not healthy in time");
    (void)printf("%.2f\n", took);
    return 0;
}
