/* server: starts the sandbox's server, starts it again with growing pauses when it dies, ends everything on
 * stop.
 *
 * Its stdout and stderr come through a pipe that is always read; only the last bytes are kept, for the report
 * of why it died. argv and environment stay in this process (not dumpable) for the next start, and are wiped
 * with the process. */
#include "providers/init/init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAUSE_FIRST_MS 100
#define PAUSE_MAX_MS   10000
#define STEADY_MS      30000 /* after running so long the pauses begin anew */
#define OUTPUT_READ    4096

void server_init(struct server *s)
{
    *s = (struct server){.state = INIT_SERVER_IDLE, .output_fd = -1};
}

static void strings_drop(char **argv, char **envp, char *strings, size_t n)
{
    if (strings != NULL)
        explicit_bzero(strings, n);
    free(strings);
    free(argv);
    free(envp);
}

static const char *env_find(char *const *envp, const char *name)
{
    size_t n = strlen(name);
    for (; *envp != NULL; envp++)
        if (strncmp(*envp, name, n) == 0 && (*envp)[n] == '=')
            return *envp + n + 1;
    return NULL;
}

static void nice_to_kill(void)
{
    /* When memory runs out, the server and what it starts go before init does. */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "500", 3); /* a preference, not a need */
        close(fd);
    }
}

static void child_run(const struct server *s, int output, int report)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    nice_to_kill();
    const char *home = env_find(s->envp, "HOME");
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0 && dup2(null, 0) == 0 && dup2(output, 1) == 1 && dup2(output, 2) == 2 &&
        (chdir(home != NULL ? home : "/") == 0 || chdir("/") == 0) && harden_server() == 0)
        execve(s->argv[0], s->argv, s->envp);
    int e = errno;
    (void)!write(report, &e, sizeof(e));
    _exit(127);
}

/* 0 or an errno. */
static int spawn(struct server *s)
{
    int output[2], report[2];
    if (pipe2(output, O_CLOEXEC) != 0)
        return errno;
    if (pipe2(report, O_CLOEXEC) != 0) {
        int e = errno;
        close(output[0]);
        close(output[1]);
        return e;
    }
    pid_t pid = fork();
    if (pid == 0)
        child_run(s, output[1], report[1]);
    int e = pid < 0 ? errno : 0;
    close(output[1]);
    close(report[1]);
    if (pid > 0) { /* the child execs within milliseconds: the pipe ends then, or brings the error */
        int told;
        ssize_t n;
        do
            n = read(report[0], &told, sizeof(told));
        while (n < 0 && errno == EINTR);
        if (n == (ssize_t)sizeof(told))
            e = told;
    }
    close(report[0]);
    if (e != 0) {
        close(output[0]);
        if (pid > 0)
            waitpid(pid, NULL, 0);
        return e;
    }
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    if (s->output_fd >= 0)
        close(s->output_fd);
    s->output_fd = output[0];
    s->tail_bytes = 0;
    s->pid = pid;
    s->starts++;
    s->started_ms = now_ms();
    s->state = INIT_SERVER_RUNNING;
    s->has_changed = true;
    return 0;
}

int server_start(struct server *s, char **argv, char **envp, char *strings, size_t strings_bytes)
{
    if (s->state == INIT_SERVER_RUNNING || s->state == INIT_SERVER_STOPPING) {
        strings_drop(argv, envp, strings, strings_bytes);
        return s->state == INIT_SERVER_RUNNING ? 0 : ESHUTDOWN;
    }
    strings_drop(s->argv, s->envp, s->strings, s->strings_bytes);
    s->argv = argv;
    s->envp = envp;
    s->strings = strings;
    s->strings_bytes = strings_bytes;
    s->failures = 0;
    int e = spawn(s);
    if (e != 0) {
        strings_drop(s->argv, s->envp, s->strings, s->strings_bytes);
        s->argv = s->envp = NULL;
        s->strings = NULL;
        s->strings_bytes = 0;
        s->state = INIT_SERVER_IDLE;
    }
    return e;
}

static void plan_again(struct server *s, int64_t pause_ms)
{
    s->state = INIT_SERVER_WAITING;
    s->due_ms = now_ms() + pause_ms;
    s->has_changed = true;
}

static int64_t pause_next(struct server *s)
{
    int64_t pause = PAUSE_FIRST_MS;
    for (unsigned i = 0; i < s->failures && pause < PAUSE_MAX_MS; i++)
        pause *= 2;
    s->failures++;
    return pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
}

void server_restart(struct server *s)
{
    if (s->state == INIT_SERVER_RUNNING) {
        s->failures = 0;
        s->started_ms = now_ms();
        kill(-s->pid, SIGKILL); /* it has no orderly end (SIGTERM is the same to it) */
        kill(s->pid, SIGKILL);
    } else if (s->state == INIT_SERVER_WAITING) {
        s->failures = 0;
        s->due_ms = now_ms();
    }
}

void server_stop(struct server *s, int64_t grace_ms)
{
    int64_t until = now_ms() + grace_ms;
    if (s->state == INIT_SERVER_STOPPING) {
        if (until < s->due_ms)
            s->due_ms = until;
        return;
    }
    s->state = INIT_SERVER_STOPPING;
    s->due_ms = until;
    s->has_changed = true;
    kill(-1, SIGTERM); /* all but ourselves */
    kill(-1, SIGCONT);
}

void server_signal(struct server *s, int signal)
{
    if (s->state == INIT_SERVER_RUNNING)
        kill(s->pid, signal);
}

void server_on_child(struct server *s, pid_t pid, int status)
{
    if (pid != s->pid)
        return;
    kill(-pid, SIGKILL); /* what it left in its own process group */
    server_on_output(s);
    s->pid = 0;
    s->last_status = (uint32_t)status;
    s->has_changed = true;
    if (s->state != INIT_SERVER_RUNNING)
        return;
    if (now_ms() - s->started_ms >= STEADY_MS)
        s->failures = 0;
    plan_again(s, pause_next(s));
}

void server_on_output(struct server *s)
{
    char bytes[OUTPUT_READ];
    for (int turn = 0; turn < 16 && s->output_fd >= 0; turn++) {
        ssize_t n = read(s->output_fd, bytes, sizeof(bytes));
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            close(s->output_fd);
            s->output_fd = -1;
        }
        if (n <= 0)
            return;
        size_t take = (size_t)n < INIT_TAIL_MAX ? (size_t)n : INIT_TAIL_MAX;
        size_t keep = s->tail_bytes < INIT_TAIL_MAX - take ? s->tail_bytes : INIT_TAIL_MAX - take;
        memmove(s->tail, s->tail + s->tail_bytes - keep, keep);
        memcpy(s->tail + keep, bytes + (size_t)n - take, take);
        s->tail_bytes = keep + take;
    }
}

void server_on_time(struct server *s)
{
    if (now_ms() < server_due(s))
        return;
    if (s->state == INIT_SERVER_STOPPING) {
        kill(-1, SIGKILL);
        _exit(0); /* as pid 1: the kernel ends whatever is left */
    }
    int e = spawn(s);
    if (e != 0) {
        s->last_status = 127u << 8;
        plan_again(s, pause_next(s));
    }
}

int64_t server_due(const struct server *s)
{
    return s->state == INIT_SERVER_WAITING || s->state == INIT_SERVER_STOPPING ? s->due_ms : INT64_MAX;
}
