/* docker_engine_fixture: a real Docker engine of the test's own, in a folder of its own, with one small
 * image. Ends with the test's process, whatever happens to it. */
#ifndef REEVE_TESTS_UNIT_DOCKER_ENGINE_FIXTURE_H
#define REEVE_TESTS_UNIT_DOCKER_ENGINE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/core/clock.h"

#define ENGINE_UP_MS    60000
#define ENGINE_DOWN_MS  60000
#define ENGINE_IMAGE    "reeve-test"
#define ENGINE_PATH_MAX 256

struct engine {
    char folder[64], socket[96];
    pid_t pid; /* 0: it does not run */
};

static inline void engine_nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

/* NULL, or why it cannot run here. */
static inline const char *engine_missing(void)
{
    static const char *const programs[] = {"/usr/sbin/dockerd", "/usr/bin/dockerd"};
    if (geteuid() != 0)
        return "a Docker engine needs root";
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
        if (access(programs[i], X_OK) == 0)
            return NULL;
    return "dockerd is not installed (Debian package docker.io)";
}

static inline bool engine_answers(const struct engine *g)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "%s", g->socket);
    bool does = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;
    if (fd >= 0)
        close(fd);
    return does;
}

static inline void engine_child(const struct engine *g)
{
    char data[ENGINE_PATH_MAX], run[ENGINE_PATH_MAX], host[ENGINE_PATH_MAX], pid[ENGINE_PATH_MAX],
        log[ENGINE_PATH_MAX];
    (void)snprintf(data, sizeof(data), "%s/data", g->folder);
    (void)snprintf(run, sizeof(run), "%s/run", g->folder);
    (void)snprintf(host, sizeof(host), "unix://%s", g->socket);
    (void)snprintf(pid, sizeof(pid), "%s/pid", g->folder);
    (void)snprintf(log, sizeof(log), "%s/log", g->folder);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)dup2(fd, 1);
    (void)dup2(fd, 2);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* an orderly end: it takes its helpers with it */
    (void)unlink(pid);                /* of one that was killed; its number may be another's by now */
    (void)snprintf(pid, sizeof(pid), "%s/run/containerd/containerd.pid", g->folder);
    (void)unlink(pid); /* killed with it, and perhaps nobody has asked for its end */
    (void)snprintf(pid, sizeof(pid), "%s/pid", g->folder);
    execlp("dockerd", "dockerd", "--data-root", data, "--exec-root", run, "-H", host, "-p", pid,
           "--iptables=false", "--bridge=none", "--ip-masq=false", (char *)NULL);
    _exit(127);
}

static inline bool engine_start(struct engine *g)
{
    g->pid = fork();
    if (g->pid == 0)
        engine_child(g);
    int64_t until = clock_mono_ms(&clock_system) + ENGINE_UP_MS;
    while (!engine_answers(g)) {
        if (waitpid(g->pid, NULL, WNOHANG) == g->pid || clock_mono_ms(&clock_system) > until) {
            char command[2 * ENGINE_PATH_MAX];
            (void)snprintf(command, sizeof(command), "tail -5 %s/log >&2", g->folder);
            (void)!system(command);
            if (clock_mono_ms(&clock_system) > until) {
                kill(g->pid, SIGKILL);
                (void)waitpid(g->pid, NULL, 0);
            }
            g->pid = 0;
            return false;
        }
        engine_nap();
    }
    return true;
}

static inline void engine_end(struct engine *g, int signal)
{
    int64_t until = clock_mono_ms(&clock_system) + ENGINE_DOWN_MS;
    if (g->pid == 0)
        return;
    kill(g->pid, signal);
    while (waitpid(g->pid, NULL, WNOHANG) != g->pid) {
        if (clock_mono_ms(&clock_system) > until)
            kill(g->pid, SIGKILL);
        engine_nap();
    }
    g->pid = 0;
}

/* A shell command; its exit status. $ENGINE is the socket, $FOLDER the engine's folder. */
static inline int engine_shell(const struct engine *g, const char *command)
{
    setenv("ENGINE", g->socket, 1);
    setenv("FOLDER", g->folder, 1);
    return system(command);
}

/* false: dockerd does not come up here; its last words are on stderr. */
static inline bool engine_open(struct engine *g)
{
    *g = (struct engine){.folder = "/tmp/reeve-unit-docker-XXXXXX"};
    assert_non_null(mkdtemp(g->folder));
    (void)snprintf(g->socket, sizeof(g->socket), "%s/engine", g->folder);
    if (!engine_start(g))
        return false;
    int rc =
        engine_shell(g, "set -e; tests/unit/docker_rootfs.sh $FOLDER/rootfs; tar -C $FOLDER/rootfs -cf "
                        "$FOLDER/image.tar .; curl -sS --fail -o /dev/null --unix-socket $ENGINE -X POST -H "
                        "'Content-Type: application/x-tar' -T $FOLDER/image.tar "
                        "'http://engine/images/create?fromSrc=-&repo=" ENGINE_IMAGE "&tag=latest'");
    assert_int_equal(rc, 0);
    return true;
}

/* Unmounts what a killed engine has left, and removes the folder. */
static inline void engine_close(struct engine *g)
{
    engine_end(g, SIGTERM);
    FILE *f = fopen("/proc/self/mounts", "re");
    char line[4096], path[1024];
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "%*s %1023s", path) == 1 && strncmp(path, g->folder, strlen(g->folder)) == 0)
            (void)umount2(path, MNT_DETACH);
    if (f != NULL)
        (void)fclose(f);
    assert_int_equal(engine_shell(g, "rm -rf --one-file-system \"$FOLDER\""), 0);
}

#endif
