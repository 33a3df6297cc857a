/* reeve-init: the first process in a sandbox. Reaps, starts the server and keeps it alive, passes sockets to
 * Reeve.
 *
 *   reeve-init run [--socket PATH] [--lock FD] [--uid N --gid N] [--nproc N] [--data BYTES] NAME
 *   reeve-init enter ...   outside, before bubblewrap (enter.c)
 *   reeve-init probe       does nothing, successfully: can sandboxes be made on this machine?
 *
 * Happy path of `run`: own the door's port before anything else can, tell the kernel who we are (lock), give
 * up every privilege, connect to Reeve, wait for INIT_START, serve. Failure paths: what cannot be set up ends
 * the sandbox with a line on stderr; afterwards nothing ends it but INIT_STOP, a signal from outside, or
 * SIGKILL. Signals from inside the sandbox are ignored. */
#include "providers/init/init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEEP_FD       3 /* the lock; everything above is closed */
#define STOP_GRACE_MS 2000
#define DOOR_BACKLOG  512
#define EXIT_FAILED   125

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void complain(const char *what, const char *detail)
{
    int e = errno;
    dprintf(2, "reeve-init: %s %s%s%s\n", what, detail, e != 0 ? ": " : "", e != 0 ? strerror(e) : "");
}

struct run_options {
    const char *socket;
    int lock_fd;
    struct harden harden;
};

static int number(const char *text, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;
    if (*text == '\0')
        return -1;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || v > (max - (uint64_t)(*text - '0')) / 10)
            return -1;
        v = v * 10 + (uint64_t)(*text - '0');
    }
    *ret = v;
    return 0;
}

static int options_parse(int argc, char **argv, struct run_options *o)
{
    bool has_uid = false, has_gid = false;
    int at = 0;
    for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
        const char *name = argv[at], *text = argv[at + 1];
        uint64_t v = 0;
        if (strcmp(name, "--socket") == 0) {
            o->socket = text;
            continue;
        }
        if (number(text, INT64_MAX, &v) != 0)
            return -1;
        if (strcmp(name, "--lock") == 0 && v == KEEP_FD) {
            o->lock_fd = (int)v;
        } else if (strcmp(name, "--uid") == 0 && v > 0 && v < UINT32_MAX) {
            o->harden.uid = (uid_t)v;
            has_uid = true;
        } else if (strcmp(name, "--gid") == 0 && v > 0 && v < UINT32_MAX) {
            o->harden.gid = (gid_t)v;
            has_gid = true;
        } else if (strcmp(name, "--nproc") == 0) {
            o->harden.nproc = v;
        } else if (strcmp(name, "--data") == 0) {
            o->harden.data_bytes = v;
        } else {
            return -1;
        }
    }
    o->harden.has_ids = has_uid;
    return has_uid == has_gid && at + 1 == argc ? 0 : -1;
}

/* Nothing of the outside stays open but stderr, until all is set up, and the lock. */
static int descriptors_close(const struct run_options *o)
{
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
        return -1;
    unsigned first = o->lock_fd >= 0 ? KEEP_FD + 1 : KEEP_FD;
    if (syscall(SYS_close_range, first, ~0u, 0) != 0)
        for (int fd = (int)first; fd < 65536; fd++)
            close(fd);
    if (o->lock_fd >= 0 && fcntl(o->lock_fd, F_SETFD, FD_CLOEXEC) != 0)
        return -1;
    return 0;
}

static int lock_mark(int fd)
{
    struct flock mine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = INIT_LOCK_BYTE_PID, .l_len = 1};
    return fcntl(fd, F_SETLK, &mine);
}

/* No address or port sharing: who is first has the port, and nothing ran before us. */
static int door_open(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(INIT_DOOR_PORT)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, DOOR_BACKLOG) != 0)
        return -1;
    return fd;
}

static int signals_open(void)
{
    sigset_t all;
    sigfillset(&all);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_SETMASK, &all, NULL) != 0)
        return -1;
    return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void on_signals(int fd, struct server *server)
{
    struct signalfd_siginfo got;
    while (read(fd, &got, sizeof(got)) == (ssize_t)sizeof(got)) {
        if (got.ssi_signo == SIGCHLD)
            continue; /* reaped on every turn */
        if (got.ssi_pid != 0)
            continue; /* from inside: a sender in an outer namespace has no number here */
        if (got.ssi_signo == SIGTERM || got.ssi_signo == SIGINT)
            server_stop(server, STOP_GRACE_MS);
        else if (got.ssi_signo == SIGHUP || got.ssi_signo == SIGUSR1 || got.ssi_signo == SIGUSR2 ||
                 got.ssi_signo == SIGQUIT || got.ssi_signo == SIGWINCH)
            server_signal(server, (int)got.ssi_signo);
    }
}

static void reap(struct server *server)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        server_on_child(server, pid, status);
    if (pid < 0 && errno == ECHILD && server->state == INIT_SERVER_STOPPING)
        _exit(0); /* all have gone in time */
}

static int poll_wait_ms(const struct control *c, const struct server *server)
{
    int64_t due = control_due(c), other = server_due(server), now = now_ms();
    if (other < due)
        due = other;
    if (due == INT64_MAX)
        return -1;
    if (due <= now)
        return 0;
    return due - now > 60000 ? 60000 : (int)(due - now);
}

static void serve(struct control *c, struct server *server, int signal_fd)
{
    struct pollfd polls[2 + CONTROL_POLLS];
    for (;;) {
        control_on_time(c);
        server_on_time(server);
        reap(server);
        if (server->has_changed) {
            server->has_changed = false;
            control_report(c);
        }
        polls[0] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
        polls[1] = (struct pollfd){.fd = server->output_fd, .events = POLLIN}; /* -1 is skipped */
        size_t n = control_polls(c, polls + 2);
        if (poll(polls, 2 + n, poll_wait_ms(c, server)) <= 0)
            continue;
        if (polls[0].revents != 0)
            on_signals(signal_fd, server);
        if (polls[1].revents != 0)
            server_on_output(server);
        control_on_polls(c, polls + 2, n);
    }
}

static int run_main(int argc, char **argv)
{
    struct run_options o = {.socket = INIT_SOCKET_PATH, .lock_fd = -1};
    static struct server server;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NAME, "reeve-init", 0, 0, 0);
    errno = 0;
    if (options_parse(argc, argv, &o) != 0) {
        complain("run: bad option", "");
        return EXIT_FAILED;
    }
    if (descriptors_close(&o) != 0) {
        complain("descriptors", "/dev/null");
        return EXIT_FAILED;
    }
    int door = door_open();
    if (door < 0) {
        complain("door", "127.0.0.1");
        return EXIT_FAILED;
    }
    if (o.lock_fd >= 0 && lock_mark(o.lock_fd) != 0) {
        complain("lock", "");
        return EXIT_FAILED;
    }
    if (harden_process(&o.harden) != 0)
        return EXIT_FAILED;
    int signal_fd = signals_open();
    server_init(&server);
    struct control *c = control_new(o.socket, door, &server);
    if (signal_fd < 0 || c == NULL || dup2(0, 2) < 0) {
        complain("set-up", "");
        return EXIT_FAILED;
    }
    serve(c, &server, signal_fd);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "run") == 0)
        return run_main(argc - 2, argv + 2);
    if (argc >= 2 && strcmp(argv[1], "enter") == 0)
        return enter_main(argc - 2, argv + 2);
    if (argc == 2 && strcmp(argv[1], "probe") == 0)
        return 0;
    dprintf(2, "usage: reeve-init run|enter|probe ...\n");
    return EXIT_FAILED;
}
