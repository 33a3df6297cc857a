/* cgroup: see cgroup.h. */
#include "providers/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/mem.h"

#define NS_PER_MS 1000000u
#define US_PER_MS 1000u

/* --- files --- */

static void file_read(const char *path, struct buf *out)
{
    char bytes[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 1;
    while (fd >= 0 && n > 0) {
        n = read(fd, bytes, sizeof(bytes));
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0 && buf_append(out, bytes, (size_t)n) != 0)
            break;
    }
    if (fd >= 0)
        close(fd);
}

struct slice cgroup_text(const char *path, struct buf *b)
{
    buf_reset(b);
    /* Files of /proc and of control groups: absent is as good as empty. */
    (void)file_read(path, b);
    return buf_view(b);
}

/* Is `word` one of the words of `list`? */
bool cgroup_has_word(struct slice list, char sep, const char *word)
{
    struct slice part;
    while (list.n > 0) {
        (void)slice_cut(&list, sep, &part);
        if (slice_eq_str(part, word))
            return true;
    }
    return false;
}

/* One line of mountinfo: "id parent dev root point options ... - type source superoptions". */
static bool mount_match(struct slice line, const char *type, const char *controller, struct cgroup_mount *ret)
{
    struct slice field[6];
    for (size_t i = 0; i < 6; i++)
        if (!slice_cut(&line, ' ', &field[i]))
            return false;
    struct slice part;
    do {
        if (line.n == 0)
            return false;
        (void)slice_cut(&line, ' ', &part);
    } while (!slice_eq_str(part, "-"));
    (void)slice_cut(&line, ' ', &part);
    if (!slice_eq_str(part, type))
        return false;
    (void)slice_cut(&line, ' ', &part); /* the source */
    *ret = (struct cgroup_mount){.root = field[3], .point = field[4]};
    return controller == NULL || cgroup_has_word(line, ',', controller);
}

bool cgroup_mount_find(struct slice mounts, const char *type, const char *controller,
                       struct cgroup_mount *ret)
{
    struct slice line;
    while (mounts.n > 0) {
        (void)slice_cut(&mounts, '\n', &line);
        if (mount_match(line, type, controller, ret))
            return true;
    }
    return false;
}

/* Our own group in that hierarchy, from /proc/self/cgroup: "id:controllers:path". */
struct slice cgroup_of(struct slice groups, const char *controller)
{
    struct slice line, id, names;
    while (groups.n > 0) {
        (void)slice_cut(&groups, '\n', &line);
        if (!slice_cut(&line, ':', &id) || !slice_cut(&line, ':', &names))
            continue;
        if (controller == NULL ? slice_eq_str(id, "0") && names.n == 0
                               : cgroup_has_word(names, ',', controller))
            return line;
    }
    return SL("/");
}

/* The folder of our own group, or of the mount when it is not visible there. */
char *cgroup_folder(const struct cgroup_mount *m, struct slice own, struct arena *a)
{
    struct stat st;
    if (m->root.n > 1 && slice_starts(own, m->root))
        own = slice_from(own, m->root.n);
    while (own.n > 0 && own.p[own.n - 1] == '/')
        own.n--;
    char *path = arena_printf(a, "%.*s%.*s", SL_ARG(m->point), SL_ARG(own));
    return stat(path, &st) == 0 ? path : arena_printf(a, "%.*s", SL_ARG(m->point));
}

/* --- what was used --- */

/* A file with one number in it. */
static bool number_read(const char *folder, const char *name, struct arena *a, uint64_t *ret)
{
    struct buf b = BUF_INIT(CGROUP_TEXT_MAX);
    struct slice text = cgroup_text(arena_printf(a, "%s/%s", folder, name), &b);
    while (text.n > 0 && text.p[text.n - 1] == '\n')
        text.n--;
    bool is = slice_u64(text, ret) == 0;
    buf_fini(&b);
    return is;
}

/* A file of lines "name number". */
static bool line_read(const char *folder, const char *name, const char *key, struct arena *a, uint64_t *ret)
{
    struct buf b = BUF_INIT(CGROUP_TEXT_MAX);
    struct slice line, word, text = cgroup_text(arena_printf(a, "%s/%s", folder, name), &b);
    bool is = false;
    while (text.n > 0 && !is) {
        (void)slice_cut(&text, '\n', &line);
        is = slice_cut(&line, ' ', &word) && slice_eq_str(word, key) && slice_u64(line, ret) == 0;
    }
    buf_fini(&b);
    return is;
}

int cgroup_usage(const char *const *folders, size_t n, struct sandbox_usage *ret, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct sandbox_usage u = {0};
    bool has_cpu = false, has_memory = false;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = 0;
        if (!has_cpu && line_read(folders[i], "cpu.stat", "usage_usec", &a, &v)) { /* version 2 */
            u.cpu_ms = v / US_PER_MS;
            has_cpu = true;
        }
        if (!has_cpu && number_read(folders[i], "cpuacct.usage", &a, &v)) {
            u.cpu_ms = v / NS_PER_MS;
            has_cpu = true;
        }
        if (!has_memory && (number_read(folders[i], "memory.current", &a, &v) ||
                            number_read(folders[i], "memory.usage_in_bytes", &a, &v))) {
            u.memory_bytes = v;
            has_memory = true;
        }
    }
    arena_fini(&a);
    if (!has_cpu || !has_memory)
        return err_set(err, E_UNAVAILABLE,
                       "this machine keeps no account of its %s: there is no control group",
                       has_cpu      ? "memory"
                       : has_memory ? "CPU time"
                                    : "CPU time and memory");
    *ret = u;
    return 0;
}

/* The whole mount is the account of the whole machine: not of one process, and not when its group has gone.
 */
static void folder_add(const struct cgroup_mount *m, struct slice own, struct arena *a, const char **folders,
                       size_t *n)
{
    char *path = cgroup_folder(m, own, a);
    if (!slice_eq_str(m->point, path))
        folders[(*n)++] = path;
}

int cgroup_usage_of(pid_t pid, struct slice word, struct sandbox_usage *ret, struct err *err)
{
    static const char *const controllers[] = {"cpuacct", "memory"};
    struct arena a = ARENA_INIT;
    struct buf mounts = BUF_INIT(CGROUP_TEXT_MAX), groups = BUF_INIT(CGROUP_TEXT_MAX);
    struct slice mount_text = cgroup_text("/proc/self/mountinfo", &mounts);
    struct slice group_text = cgroup_text(arena_printf(&a, "/proc/%ld/cgroup", (long)pid), &groups);
    struct cgroup_mount at;
    const char *folders[ARRAY_LEN(controllers) + 1];
    size_t n = 0;
    int rc = 0;
    if (group_text.n == 0 || memmem(group_text.p, group_text.n, word.p, word.n) == NULL)
        rc = err_set(err, E_GONE, "process %ld is gone", (long)pid);
    for (size_t i = 0; i < ARRAY_LEN(controllers) && rc == 0; i++)
        if (cgroup_mount_find(mount_text, "cgroup", controllers[i], &at))
            folder_add(&at, cgroup_of(group_text, controllers[i]), &a, folders, &n);
    if (rc == 0 && cgroup_mount_find(mount_text, "cgroup2", NULL, &at))
        folder_add(&at, cgroup_of(group_text, NULL), &a, folders, &n);
    if (rc == 0)
        rc = cgroup_usage(folders, n, ret, err);
    buf_fini(&mounts);
    buf_fini(&groups);
    arena_fini(&a);
    return rc;
}
