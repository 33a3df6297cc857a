/* host: see host.h. */
#include "providers/host.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/mem.h"

bool host_id_is_valid(struct slice id)
{
    if (id.n == 0 || id.n > HOST_ID_MAX || id.p[0] == '.')
        return false;
    for (size_t i = 0; i < id.n; i++) {
        char c = id.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
              c == '_' || c == '-'))
            return false;
    }
    return true;
}

/* --- folders --- */

static int fail(struct err *err, const char *what, const char *path)
{
    int e = errno;
    return err_set(err, err_from_errno(e), "%s %s: %s", what, path, strerror(e));
}

int host_folder_make(const char *path, mode_t mode, struct err *err)
{
    if (mkdir(path, mode) != 0 && errno != EEXIST)
        return fail(err, "cannot make", path);
    if (chmod(path, mode) != 0) /* whatever the umask */
        return fail(err, "cannot set the mode of", path);
    return 0;
}

int host_root_make(const char *root, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *path = arena_strdup(&a, root);
    int rc = 0;
    for (char *p = strchr(path + 1, '/'); p != NULL && rc == 0; p = strchr(p + 1, '/')) {
        *p = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            rc = fail(err, "cannot make", path);
        *p = '/';
    }
    if (rc == 0)
        rc = host_folder_make(root, 0700, err);
    arena_fini(&a);
    return rc;
}

int host_root_lock(const char *root, int *ret_fd, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *path = arena_printf(&a, "%s/lock", root);
    int rc = 0, fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    if (fd < 0)
        rc = err_set(err, E_UNAVAILABLE, "cannot open %s: %s", path, strerror(errno));
    else if (fcntl(fd, F_OFD_SETLK, &lock) != 0)
        rc = err_set(err, E_UNAVAILABLE, "%s is in use by another controller", root);
    if (rc == 0)
        *ret_fd = fd;
    else if (fd >= 0)
        close(fd);
    arena_fini(&a);
    return rc;
}

/* --- the server --- */

size_t host_server_argv(const struct sandbox_server *s, char port[8], struct slice out[HOST_SERVER_ARGV_MAX])
{
    size_t n = 0;
    (void)snprintf(port, 8, "%u", s->port); /* fits */
    out[n++] = SL(HOST_INSIDE_AGENT);
    if (s->token.n > 0) { /* its only way in; processes inside can read it, nobody else can */
        out[n++] = SL("--token");
        out[n++] = s->token;
    } else {
        out[n++] = SL("--no-token");
    }
    out[n++] = SL("server");
    out[n++] = SL("--host");
    out[n++] = SL("127.0.0.1");
    out[n++] = SL("--port");
    out[n++] = slice_str(port);
    out[n++] = SL("--no-telemetry");
    return n;
}

static const char *const env_always[][2] = {
    {"HOME", INIT_HOME}, /* these stand before an image's own */
    {"USER", "agent"},
    {"LOGNAME", "agent"},
    {"PATH", INIT_HOME "/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    {"SHELL", "/bin/sh"},
    {"LANG", "C.UTF-8"},
    {"TERM", "xterm-256color"},
    {"TMPDIR", "/tmp"},
    {"SANDBOX_AGENT_LOG_STDOUT", "1"}, /* its last lines are kept for the report of why it died */
    {"SANDBOX_AGENT_LOG_HTTP", "0"},
};
#define ENV_OURS 3 /* of them */

static bool env_name_is_valid(struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
              (c >= '0' && c <= '9' && i > 0)))
            return false;
    }
    return s.n > 0;
}

static struct slice secret_copy(struct host_server *h, struct slice s)
{
    size_t at = h->secrets.n;
    must(buf_slice(&h->secrets, s) == 0); /* reserved by the caller */
    return slice_of(h->secrets.p + at, s.n);
}

void host_server_init(struct host_server *h)
{
    *h = (struct host_server){0};
    buf_init(&h->secrets, INIT_FRAME_MAX);
}

int host_server_copy(struct host_server *h, struct arena *a, const struct sandbox_server *s, struct err *err)
{
    size_t bytes = s->token.n + 1;
    for (size_t i = 0; i < s->n_env; i++) {
        if (!env_name_is_valid(s->env[i].name) || slice_find(s->env[i].value, '\0') != SIZE_MAX)
            return err_set(err, E_INVALID, "environment variable %zu has an invalid name or value", i + 1);
        bytes += s->env[i].name.n + s->env[i].value.n;
    }
    if (s->port == 0 || slice_find(s->token, '\0') != SIZE_MAX)
        return err_set(err, E_INVALID, "the server's port or token is invalid");
    if (buf_reserve(&h->secrets, bytes) != 0)
        return err_set(err, E_INVALID, "the server's environment is too large");
    h->server.port = s->port;
    h->server.token = secret_copy(h, s->token);
    h->env = arena_alloc(a, (s->n_env + 1) * sizeof(*h->env));
    for (size_t i = 0; i < s->n_env; i++)
        h->env[h->n_env++] =
            (struct sandbox_env){secret_copy(h, s->env[i].name), secret_copy(h, s->env[i].value)};
    return 0;
}

static void env_default(struct host_server *h, struct slice name, struct slice value)
{
    for (size_t i = 0; i < h->n_env; i++)
        if (slice_eq(h->env[i].name, name))
            return;
    h->env[h->n_env++] = (struct sandbox_env){name, value};
}

void host_server_defaults(struct host_server *h, struct arena *a, const struct slice *image_env,
                          size_t n_image_env)
{
    struct sandbox_env *env = arena_alloc(a, (h->n_env + n_image_env + ARRAY_LEN(env_always)) * sizeof(*env));
    if (h->n_env > 0)
        memcpy(env, h->env, h->n_env * sizeof(*env));
    h->env = env;
    for (size_t i = 0; i < ENV_OURS; i++)
        env_default(h, slice_str(env_always[i][0]), slice_str(env_always[i][1]));
    for (size_t i = 0; i < n_image_env; i++) {
        struct slice value = image_env[i], name;
        if (slice_cut(&value, '=', &name) && env_name_is_valid(name))
            env_default(h, name, value);
    }
    for (size_t i = ENV_OURS; i < ARRAY_LEN(env_always); i++)
        env_default(h, slice_str(env_always[i][0]), slice_str(env_always[i][1]));
}

void host_server_wipe(struct host_server *h)
{
    buf_wipe(&h->secrets);
}

struct slice host_server_reason(const struct link_state *s, struct arena *a)
{
    int status = (int)s->wait_status;
    struct slice tail = s->tail, line = SLICE_EMPTY;
    while (tail.n > 0) {
        struct slice part;
        (void)slice_cut(&tail, '\n', &part);
        if (slice_trim(part).n > 0)
            line = slice_trim(part);
    }
    if (line.n > 160)
        line.n = 160;
    char *text = arena_strndup(a, line.p, line.n);
    for (char *c = text; *c != '\0'; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    const char *how = WIFSIGNALED(status) ? "signal" : "status";
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    return slice_str(arena_printf(a, "its server ended with %s %d and will be started again%s%s", how, number,
                                  *text != '\0' ? ": " : "", text));
}

/* --- processes --- */

int host_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0u); /* close-on-exec by itself */
}

int host_pidfd_kill(int pidfd, int signal)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0u);
}
