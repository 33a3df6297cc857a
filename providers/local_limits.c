/* local_limits: control groups for sandboxes: version 2 where it offers the controllers, else version 1, else
 * rlimits.
 *
 * Happy path: one group per sandbox under reeve-<tag> (from the root's path, so that controllers on one
 * machine do not meet), below our own group where that may have children, else at the top. The sandbox's
 * first process enters it before bubblewrap runs; memory counts tmpfs too, and swap is off. The note says in
 * plain words what this machine does not enforce; disk is never enforced here. Without groups: RLIMIT_NPROC,
 * where it counts the sandbox alone, and RLIMIT_DATA, which bounds each process, not their sum (RLIMIT_AS
 * would break every program that reserves address space). */
#include "providers/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/core/crypto.h"
#include "base/core/mem.h"
#include "providers/cgroup.h"

#define GROUPS_TEXT_MAX ((size_t)16384)
#define CPU_PERIOD_US   100000u
#define CPU_QUOTA_MIN   1000u
#define RMDIR_TRIES     100
#define RMDIR_WAIT_MS   10

enum controller { MEMORY, PIDS, CPU, CPUACCT, N_CONTROLLERS }; /* the last: of version 1, limits nothing */
static const char *const controller_names[N_CONTROLLERS] = {"memory", "pids", "cpu", "cpuacct"};

struct local_limits {
    bool is_v2;
    char *base[N_CONTROLLERS]; /* folder that holds the sandboxes' groups; NULL: none; all the same in version
                                  2 */
    bool nproc_counts_alone;   /* RLIMIT_NPROC counts this sandbox's processes only */
    char note[320];
};

static int value_write(const char *folder, const char *name, const char *value)
{
    char path[4096];
    int n = snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t w = write(fd, value, strlen(value));
    int e = errno;
    close(fd);
    errno = e;
    return w == (ssize_t)strlen(value) ? 0 : -1;
}

/* --- where groups are --- */

/* Makes the folder of all our sandboxes' groups there; NULL when we may not. */
static char *base_make(const char *parent, const char *tag, struct arena *a)
{
    char *path = arena_printf(a, "%s/reeve-%s", parent, tag);
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return NULL;
    return access(arena_printf(a, "%s/cgroup.procs", path), W_OK) == 0 ? path : NULL;
}

/* --- version 1 --- */

static void v1_open(struct local_limits *m, struct slice mounts, struct slice groups, const char *tag,
                    struct arena *a)
{
    for (size_t i = 0; i < N_CONTROLLERS; i++) {
        struct cgroup_mount at;
        if (!cgroup_mount_find(mounts, "cgroup", controller_names[i], &at))
            continue;
        char *base = base_make(cgroup_folder(&at, cgroup_of(groups, controller_names[i]), a), tag, a);
        if (base != NULL)
            m->base[i] = mem_strdup(base);
    }
}

/* --- version 2 --- */

/* A group with processes cannot give controllers to children: ours moves into a leaf. */
static bool controller_enable(const char *folder, const char *word, struct arena *a)
{
    if (value_write(folder, "cgroup.subtree_control", word) == 0)
        return true;
    if (errno != EBUSY)
        return false;
    struct buf b = BUF_INIT(CGROUP_TEXT_MAX);
    struct slice procs = cgroup_text(arena_printf(a, "%s/cgroup.procs", folder), &b);
    bool is_only_us = slice_eq_str(procs, arena_printf(a, "%ld\n", (long)getpid()));
    buf_fini(&b);
    if (!is_only_us) /* others stay where they are */
        return false;
    char *leaf = arena_printf(a, "%s/reeve-controller", folder);
    if (mkdir(leaf, 0755) != 0 && errno != EEXIST)
        return false;
    return value_write(leaf, "cgroup.procs", "0") == 0 &&
           value_write(folder, "cgroup.subtree_control", word) == 0;
}

static bool v2_open_in(struct local_limits *m, const char *parent, const char *tag, struct arena *a)
{
    struct buf b = BUF_INIT(CGROUP_TEXT_MAX);
    struct slice there = slice_trim(cgroup_text(arena_printf(a, "%s/cgroup.controllers", parent), &b));
    char *base = NULL;
    if (there.n > 0 && there.p[there.n - 1] == '\n')
        there.n--;
    for (size_t i = 0; i < N_CONTROLLERS; i++) {
        char *word = arena_printf(a, "+%s", controller_names[i]);
        if (!cgroup_has_word(there, ' ', controller_names[i]) || !controller_enable(parent, word, a))
            continue;
        if (base == NULL)
            base = base_make(parent, tag, a);
        if (base != NULL && value_write(base, "cgroup.subtree_control", word) == 0)
            m->base[i] = mem_strdup(base);
    }
    buf_fini(&b);
    m->is_v2 = m->base[MEMORY] != NULL || m->base[PIDS] != NULL || m->base[CPU] != NULL;
    return m->is_v2;
}

static bool v2_open(struct local_limits *m, const struct local_place *w, struct slice mounts,
                    struct slice groups, const char *tag, struct arena *a)
{
    struct cgroup_mount at;
    if (!cgroup_mount_find(mounts, "cgroup2", NULL, &at))
        return false;
    char *own = cgroup_folder(&at, cgroup_of(groups, NULL), a),
         *top = arena_printf(a, "%.*s", SL_ARG(at.point));
    if (v2_open_in(m, own, tag, a))
        return true;
    return w->is_root && strcmp(own, top) != 0 && v2_open_in(m, top, tag, a);
}

/* --- what is enforced --- */

/* Since 5.14 RLIMIT_NPROC is counted per user namespace; as root each sandbox has a uid of its own. */
static bool nproc_is_alone(const struct local_place *w)
{
    struct utsname u;
    if (w->is_root)
        return true;
    if (uname(&u) != 0)
        return false;
    struct slice rest = slice_str(u.release), major, minor;
    uint64_t a, b;
    (void)slice_cut(&rest, '.', &major);
    minor = rest;
    minor.n = 0;
    while (minor.n < rest.n && rest.p[minor.n] >= '0' && rest.p[minor.n] <= '9')
        minor.n++;
    return slice_u64(major, &a) == 0 && slice_u64(minor, &b) == 0 && (a > 5 || (a == 5 && b >= 14));
}

static void note_write(struct local_limits *m)
{
    struct buf b = BUF_INIT(sizeof(m->note) - 1);
    (void)buf_str(&b, "disk is not limited"); /* all of it fits: see the size of note */
    if (m->base[CPU] == NULL)
        (void)buf_str(&b, "; cpus are not limited (no cpu control group)");
    if (m->base[MEMORY] == NULL)
        (void)buf_str(&b,
                      "; memory is limited for each process, not for the sandbox (no memory control group)");
    if (m->base[PIDS] == NULL && !m->nproc_counts_alone)
        (void)buf_str(&b, "; processes are not limited (no pids control group)");
    memcpy(m->note, buf_cstr(&b), b.n + 1);
    buf_fini(&b);
}

struct local_limits *local_limits_new(const struct local_place *w)
{
    struct local_limits *m = MEM_NEW(struct local_limits);
    struct arena a = ARENA_INIT;
    struct buf mounts = BUF_INIT(CGROUP_TEXT_MAX), groups = BUF_INIT(CGROUP_TEXT_MAX);
    char tag[SHA256_HEX_SIZE];
    sha256_hex(slice_str(w->root), tag);
    tag[12] = '\0';
    struct slice mount_text = cgroup_text("/proc/self/mountinfo", &mounts);
    struct slice group_text = cgroup_text("/proc/self/cgroup", &groups);
    m->nproc_counts_alone = nproc_is_alone(w);
    if (!v2_open(m, w, mount_text, group_text, tag, &a))
        v1_open(m, mount_text, group_text, tag, &a);
    note_write(m);
    buf_fini(&mounts);
    buf_fini(&groups);
    arena_fini(&a);
    return m;
}

void local_limits_free(struct local_limits *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < N_CONTROLLERS; i++) {
        if (m->base[i] != NULL)
            (void)rmdir(m->base[i]); /* goes when no sandbox is left */
        mem_free(m->base[i]);
    }
    mem_free(m);
}

const char *local_limits_note(const struct local_limits *m)
{
    return m->note;
}

uint64_t local_limits_nproc(const struct local_limits *m, const struct local_record *r)
{
    return m->base[PIDS] == NULL && m->nproc_counts_alone ? r->processes : 0;
}

uint64_t local_limits_data(const struct local_limits *m, const struct local_record *r)
{
    return m->base[MEMORY] == NULL ? r->memory_bytes : 0;
}

/* --- a sandbox's groups --- */

static char *number(struct arena *a, uint64_t v)
{
    return arena_printf(a, "%llu", (unsigned long long)v);
}

static int memory_set(const struct local_limits *m, const char *folder, uint64_t bytes, struct arena *a)
{
    char *value = number(a, bytes);
    if (m->is_v2) {
        (void)value_write(folder, "memory.swap.max",
                          "0"); /* absent where the kernel does no swap accounting */
        return value_write(folder, "memory.max", value);
    }
    if (value_write(folder, "memory.limit_in_bytes", value) != 0)
        return -1;
    (void)value_write(folder, "memory.memsw.limit_in_bytes", value); /* absent likewise */
    return 0;
}

static int cpu_set(const struct local_limits *m, const char *folder, uint64_t milli, struct arena *a)
{
    uint64_t quota = milli > UINT32_MAX ? (uint64_t)UINT32_MAX * 100 : milli * (CPU_PERIOD_US / 1000);
    if (quota < CPU_QUOTA_MIN)
        quota = CPU_QUOTA_MIN;
    if (m->is_v2)
        return value_write(folder, "cpu.max",
                           arena_printf(a, "%llu %u", (unsigned long long)quota, CPU_PERIOD_US));
    if (value_write(folder, "cpu.cfs_period_us", number(a, CPU_PERIOD_US)) != 0)
        return -1;
    return value_write(folder, "cpu.cfs_quota_us", number(a, quota));
}

static int value_set(const struct local_limits *m, enum controller c, const char *folder,
                     const struct local_record *r, struct arena *a)
{
    if (c == MEMORY)
        return r->memory_bytes == 0 ? 0 : memory_set(m, folder, r->memory_bytes, a);
    if (c == CPU)
        return r->cpus_milli == 0 ? 0 : cpu_set(m, folder, r->cpus_milli, a);
    if (c == CPUACCT)
        return 0;
    return r->processes == 0 ? 0 : value_write(folder, "pids.max", number(a, r->processes));
}

/* The groups are remembered beside the record: a controller started elsewhere (another session, another
 * service) would look for them below another group of its own. */
static int groups_write(const char *folder, const char *const *paths, size_t n, struct err *err)
{
    struct buf b = BUF_INIT(GROUPS_TEXT_MAX);
    for (size_t i = 0; i < n; i++)
        (void)buf_printf(&b, "%s\n", paths[i]);
    int rc = b.is_full ? err_set(err, E_TOO_LARGE, "paths of control groups are too long")
                       : local_file_write(folder, "groups", buf_view(&b), 0600, false, err);
    buf_fini(&b);
    return rc;
}

int local_limits_prepare(const struct local_limits *m, const char *folder, const struct local_record *r,
                         struct arena *a, const char *ret_paths[LOCAL_CGROUPS_MAX], size_t *ret_n,
                         struct err *err)
{
    const char *path[N_CONTROLLERS] = {NULL};
    size_t n = 0;
    for (size_t i = 0; i < N_CONTROLLERS; i++) {
        if (m->base[i] == NULL)
            continue;
        path[i] = arena_printf(a, "%s/%.*s", m->base[i], SL_ARG(r->id));
        bool is_new = true;
        for (size_t k = 0; k < n; k++)
            is_new = is_new && strcmp(ret_paths[k], path[i]) != 0;
        if (is_new)
            ret_paths[n++] = path[i];
    }
    int rc = groups_write(folder, ret_paths, n, err); /* before they exist: none is ever forgotten */
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < N_CONTROLLERS; i++) {
        if (path[i] == NULL)
            continue;
        (void)mkdir(m->base[i], 0755); /* somebody may have cleared up an empty one */
        if (mkdir(path[i], 0755) != 0 && errno != EEXIST)
            return err_set(err, E_UNAVAILABLE, "cannot make the control group %s: %s", path[i],
                           strerror(errno));
        if (value_set(m, (enum controller)i, path[i], r, a) != 0)
            return err_set(err, E_UNAVAILABLE, "cannot set the %s limit in %s: %s", controller_names[i],
                           path[i], strerror(errno));
    }
    *ret_n = n;
    return 0;
}

static int group_remove(const char *path, struct err *err)
{
    for (int n = 0; rmdir(path) != 0 && errno != ENOENT; n++) { /* the kernel may still be letting go */
        if (errno != EBUSY || n >= RMDIR_TRIES)
            return err_set(err, E_BUSY, "cannot remove the control group %s: %s", path, strerror(errno));
        nanosleep(&(struct timespec){.tv_nsec = RMDIR_WAIT_MS * 1000000L}, NULL);
    }
    return 0;
}

int local_limits_remove(const char *folder, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct buf b = BUF_INIT(GROUPS_TEXT_MAX);
    struct slice line, text = cgroup_text(arena_printf(&a, "%s/groups", folder), &b);
    int rc = 0;
    while (text.n > 0 && rc == 0) {
        (void)slice_cut(&text, '\n', &line);
        if (line.n > 0)
            rc = group_remove(arena_printf(&a, "%.*s", SL_ARG(line)), err);
    }
    buf_fini(&b);
    arena_fini(&a);
    return rc;
}

static uint64_t oom_kills_in(const char *path, struct arena *a)
{
    struct buf b = BUF_INIT(4096);
    uint64_t v = 0;
    static const char *const files[] = {"memory.events", "memory.oom_control"}; /* version 2, version 1 */
    for (size_t i = 0; i < ARRAY_LEN(files) && v == 0; i++) {
        struct slice line, name, text = cgroup_text(arena_printf(a, "%s/%s", path, files[i]), &b);
        while (text.n > 0) {
            (void)slice_cut(&text, '\n', &line);
            if (slice_cut(&line, ' ', &name) && slice_eq_str(name, "oom_kill") && slice_u64(line, &v) != 0)
                v = 0;
        }
    }
    buf_fini(&b);
    return v;
}

uint64_t local_limits_oom_kills(const char *folder)
{
    struct arena a = ARENA_INIT;
    struct buf b = BUF_INIT(GROUPS_TEXT_MAX);
    struct slice line, text = cgroup_text(arena_printf(&a, "%s/groups", folder), &b);
    uint64_t v = 0;
    while (text.n > 0 && v == 0) {
        (void)slice_cut(&text, '\n', &line);
        if (line.n > 0)
            v = oom_kills_in(arena_printf(&a, "%.*s", SL_ARG(line)), &a);
    }
    buf_fini(&b);
    arena_fini(&a);
    return v;
}

int local_limits_usage(const char *folder, struct sandbox_usage *ret, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct buf b = BUF_INIT(GROUPS_TEXT_MAX);
    struct slice line, text = cgroup_text(arena_printf(&a, "%s/groups", folder), &b);
    const char *path[LOCAL_CGROUPS_MAX];
    size_t n = 0;
    while (text.n > 0 && n < LOCAL_CGROUPS_MAX) {
        (void)slice_cut(&text, '\n', &line);
        if (line.n > 0)
            path[n++] = arena_printf(&a, "%.*s", SL_ARG(line));
    }
    int rc = cgroup_usage(path, n, ret, err);
    buf_fini(&b);
    arena_fini(&a);
    return rc;
}
