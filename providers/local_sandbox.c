/* local_sandbox: what a sandbox is on disk, and the lock that tells whether it runs.
 *
 * Happy path: a folder is made under a .new-* name and renamed to its id, so it exists whole or not at all;
 * the record in it is replaced by write, fsync, rename, fsync of the folder. Removing renames to .gone-*
 * first. Failure paths: a crash leaves .new-* and .gone-* folders, removed at the next start. What is inside
 * a home is hostile: removal works by descriptors, follows no link, and stays flat however deep the tree is.
 */
#include "providers/local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/id.h"
#include "base/core/json.h"
#include "base/core/mem.h"

#define RECORD_BYTES_MAX 16384
#define REMOVE_DEPTH_MAX 64 /* deeper folders are moved up first: bounded descriptors and stack */

static atomic_uint gone_counter;

static int fail(struct err *err, const char *what, const char *path)
{
    int e = errno;
    return err_set(err, err_from_errno(e), "%s %s: %s", what, path, strerror(e));
}

/* --- files --- */

int local_folder_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(err, "cannot open", path);
    int rc = fsync(fd) == 0 ? 0 : fail(err, "cannot sync", path);
    close(fd);
    return rc;
}

static int write_all(int fd, struct slice s)
{
    while (s.n > 0) {
        ssize_t n = write(fd, s.p, s.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        s = slice_from(s, (size_t)n);
    }
    return 0;
}

int local_file_write(const char *folder, const char *name, struct slice content, mode_t mode, bool is_durable,
                     struct err *err)
{
    struct arena a = ARENA_INIT;
    char *path = arena_printf(&a, "%s/%s", folder, name),
         *temp = arena_printf(&a, "%s/.%s.new", folder, name);
    int rc = 0, fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        rc = fail(err, "cannot write", temp);
    else if (fchmod(fd, mode) != 0 || write_all(fd, content) != 0 || (is_durable && fsync(fd) != 0))
        rc = fail(err, "cannot write", temp);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && rename(temp, path) != 0)
        rc = fail(err, "cannot replace", path);
    if (rc == 0 && is_durable)
        rc = local_folder_sync(folder, err);
    arena_fini(&a);
    return rc;
}

int local_file_read(const char *path, size_t max, struct buf *out, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return fail(err, "cannot read", path);
    for (;;) {
        char bytes[4096];
        ssize_t n = read(fd, bytes, sizeof(bytes));
        if (n < 0 && errno == EINTR)
            continue;
        int rc = n < 0                      ? fail(err, "cannot read", path)
                 : out->n + (size_t)n > max ? err_set(err, E_TOO_LARGE, "%s is too large", path)
                 : n > 0 && buf_append(out, bytes, (size_t)n) != 0
                     ? err_set(err, E_TOO_LARGE, "%s is too large", path)
                     : 0;
        if (rc != 0 || n == 0) {
            close(fd);
            return rc;
        }
    }
}

int local_folders_make(const char *root, struct err *err)
{
    struct arena a = ARENA_INIT;
    int rc = host_root_make(root, err);
    if (rc == 0)
        rc = host_folder_make(arena_printf(&a, "%s/sandboxes", root), 0700, err);
    if (rc == 0)
        rc = host_folder_make(arena_printf(&a, "%s/homes", root), 0700, err);
    if (rc == 0)
        rc = local_folder_sync(root, err);
    arena_fini(&a);
    return rc;
}

/* --- removal --- */

struct removal {
    int top;   /* the folder whose content goes; deep folders are moved here */
    dev_t dev; /* never leaves this file system */
    unsigned n_moved;
    const atomic_bool *stop;
};

static int folder_clear(struct removal *m, int fd, unsigned depth);

/* Clears and removes the folder `name` in `parent`. */
static int folder_remove(struct removal *m, int parent, const char *name, unsigned depth)
{
    if (depth >= REMOVE_DEPTH_MAX) {
        char to[32];
        do {                                                          /* the tenant may have taken the name */
            (void)snprintf(to, sizeof(to), ".deep-%u", m->n_moved++); /* fits */
            if (renameat(parent, name, m->top, to) == 0)
                return 0;
        } while (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR);
        return -errno;
    }
    if (fchmodat(parent, name, 0700, 0) != 0) /* its owner may have locked it; nobody races, it is no link */
        return -errno;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = folder_clear(m, fd, depth + 1); /* closes fd */
    if (rc != 0)
        return rc;
    return unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

/* Removes everything in `fd` and closes it. 0, -ECANCELED or another -errno. */
static int folder_clear(struct removal *m, int fd, unsigned depth)
{
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        int e = errno;
        close(fd);
        return -e;
    }
    int rc = 0;
    for (;;) {
        if (m->stop != NULL && atomic_load(m->stop)) {
            rc = -ECANCELED;
            break;
        }
        errno = 0;
        struct dirent *it = readdir(d);
        if (it == NULL) {
            rc = -errno;
            break;
        }
        struct stat st;
        if (strcmp(it->d_name, ".") == 0 || strcmp(it->d_name, "..") == 0)
            continue;
        if (fstatat(fd, it->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            rc = errno == ENOENT ? 0 : -errno;
        } else if (S_ISDIR(st.st_mode)) {
            rc = st.st_dev == m->dev ? folder_remove(m, fd, it->d_name, depth) : -EXDEV;
        } else if (unlinkat(fd, it->d_name, 0) != 0 && errno != ENOENT) {
            rc = -errno;
        }
        if (rc != 0)
            break;
    }
    closedir(d);
    return rc;
}

int local_tree_remove(const char *parent, const char *name, const atomic_bool *stop, struct err *err)
{
    struct removal m = {.stop = stop};
    struct stat st;
    int up = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (up < 0)
        return fail(err, "cannot open", parent);
    m.top = fchmodat(up, name, 0700, 0) != 0
                ? -1
                : openat(up, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc = m.top < 0 || fstat(m.top, &st) != 0 ? -errno : 0;
    m.dev = rc == 0 ? st.st_dev : 0;
    unsigned moved_before;
    do { /* again while deep folders were moved up */
        moved_before = m.n_moved;
        int fd = rc == 0 ? openat(up, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (rc == 0)
            rc = fd < 0 ? -errno : folder_clear(&m, fd, 0);
    } while (rc == 0 && m.n_moved != moved_before);
    if (rc == 0 && unlinkat(up, name, AT_REMOVEDIR) != 0)
        rc = -errno;
    if (m.top >= 0)
        close(m.top);
    close(up);
    if (rc == 0 || rc == -ENOENT)
        return 0;
    if (rc == -ECANCELED)
        return err_set(err, E_CANCELLED, "removing %s/%s goes on at the next start", parent, name);
    return err_set(err, err_from_errno(-rc), "cannot remove %s/%s: %s", parent, name, strerror(-rc));
}

int local_tree_retire(const char *parent, const char *name, char ret_name[HOST_ID_MAX + 64], struct err *err)
{
    struct arena a = ARENA_INIT;
    int rc = 0;
    for (;;) { /* the counter begins anew with every process: names may be taken */
        (void)snprintf(ret_name, HOST_ID_MAX + 64, ".gone-%s-%ld-%u", name, (long)getpid(),
                       atomic_fetch_add(&gone_counter, 1)); /* fits: a name is an id */
        char *from = arena_printf(&a, "%s/%s", parent, name),
             *to = arena_printf(&a, "%s/%s", parent, ret_name);
        if (rename(from, to) == 0)
            break;
        if (errno == ENOTEMPTY || errno == EEXIST)
            continue;
        rc = errno == ENOENT ? err_set(err, E_NOT_FOUND, "%s does not exist", from)
                             : fail(err, "cannot retire", from);
        break;
    }
    if (rc == 0)
        rc = local_folder_sync(parent, err);
    arena_fini(&a);
    return rc;
}

struct names {
    struct arena *a;
    struct slice *v;
    size_t n, room;
};

static void names_add(struct names *s, const char *name)
{
    if (s->n == s->room) {
        s->room = s->room == 0 ? 64 : s->room * 2;
        struct slice *more = arena_alloc(s->a, s->room * sizeof(*more));
        if (s->n > 0)
            memcpy(more, s->v, s->n * sizeof(*more));
        s->v = more;
    }
    s->v[s->n++] = slice_str(arena_strdup(s->a, name));
}

/* Calls `each` with every name in the folder but "." and "..". */
static int folder_read(const char *path, void (*each)(const char *name, void *data), void *data,
                       struct err *err)
{
    DIR *d = opendir(path);
    struct dirent *it;
    if (d == NULL)
        return fail(err, "cannot list", path);
    while (errno = 0, (it = readdir(d)) != NULL)
        if (strcmp(it->d_name, ".") != 0 && strcmp(it->d_name, "..") != 0)
            each(it->d_name, data);
    int rc = errno != 0 ? fail(err, "cannot list", path) : 0;
    closedir(d);
    return rc;
}

struct leftovers {
    struct names gone, new;
    const char *kind;
};

static void leftover_add(const char *name, void *data)
{
    struct leftovers *o = data;
    if (strncmp(name, ".new-", 5) == 0)
        names_add(&o->new, name);
    else if (strncmp(name, ".gone-", 6) == 0)
        names_add(&o->gone, arena_printf(o->gone.a, "%s/%s", o->kind, name));
}

int local_leftovers_list(const struct local_place *w, struct arena *a, struct slice **ret, size_t *ret_n,
                         struct err *err)
{
    static const char *const kinds[] = {"sandboxes", "homes"};
    struct leftovers o = {.gone = {.a = a}, .new = {.a = a}};
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(kinds) && rc == 0; i++) {
        char *parent = arena_printf(a, "%s/%s", w->root, kinds[i]);
        o.kind = kinds[i];
        o.new.n = 0;
        rc = folder_read(parent, leftover_add, &o, err);
        for (size_t k = 0; k < o.new.n &&rc == 0; k++)
            rc = local_tree_remove(parent, o.new.v[k].p, NULL, err);
    }
    *ret = o.gone.v;
    *ret_n = o.gone.n;
    return rc;
}

/* --- the record --- */

static const char *const wish_names[] = {"created", "started", "suspended"};

static void record_format(const struct local_record *r, struct buf *out)
{
    struct jsonw j;
    jsonw_init(&j, out);
    jsonw_object(&j);
    jsonw_ku64(&j, "version", 1);
    jsonw_kslice(&j, "id", r->id);
    jsonw_kslice(&j, "home", r->home_id);
    jsonw_kstr(&j, "wish", wish_names[r->wish]);
    jsonw_ki64(&j, "created_at_ms", r->created_at_ms);
    jsonw_ku64(&j, "cpus_milli", r->cpus_milli);
    jsonw_ku64(&j, "memory_bytes", r->memory_bytes);
    jsonw_ku64(&j, "disk_bytes", r->disk_bytes);
    jsonw_ku64(&j, "processes", r->processes);
    jsonw_key(&j, "labels");
    jsonw_object(&j);
    jsonw_kslice(&j, "controller", r->labels.controller);
    jsonw_kslice(&j, "tenant", r->labels.tenant);
    jsonw_kslice(&j, "namespace", r->labels.namespace);
    jsonw_kslice(&j, "name", r->labels.name);
    jsonw_kslice(&j, "workspace", r->labels.workspace);
    jsonw_ku64(&j, "generation", r->labels.generation);
    jsonw_ku64(&j, "attempt", r->labels.attempt);
    jsonw_ku64(&j, "epoch", r->labels.epoch);
    jsonw_object_end(&j);
    jsonw_object_end(&j);
    (void)buf_byte(out, '\n'); /* is_full is looked at by the caller */
}

char *local_sandbox_folder(const struct local_place *w, struct slice id, struct arena *a)
{
    return arena_printf(a, "%s/sandboxes/%.*s", w->root, SL_ARG(id));
}

static int record_write_in(const char *folder, const struct local_record *r, struct err *err)
{
    struct buf text = BUF_INIT(RECORD_BYTES_MAX);
    record_format(r, &text);
    int rc = text.is_full ? err_set(err, E_TOO_LARGE, "the sandbox's labels are too long")
                          : local_file_write(folder, "sandbox.json", buf_view(&text), 0600, true, err);
    buf_fini(&text);
    return rc;
}

int local_sandbox_write(const struct local_place *w, const struct local_record *r, struct err *err)
{
    struct arena a = ARENA_INIT;
    int rc = record_write_in(local_sandbox_folder(w, r->id, &a), r, err);
    arena_fini(&a);
    return rc;
}

struct raw_record {
    uint64_t version;
    struct slice id, home, wish;
    int64_t created_at_ms;
    uint64_t cpus_milli, memory_bytes, disk_bytes, processes;
    const struct json *labels;
};

#define ROW(name, type)                                                                                      \
    {                                                                                                        \
#name, type, true, offsetof(struct raw_record, name)                                                 \
    }
static const struct json_field record_rows[] = {
    ROW(version, JF_U64),       ROW(id, JF_STRING),      ROW(home, JF_STRING),      ROW(wish, JF_STRING),
    ROW(created_at_ms, JF_I64), ROW(cpus_milli, JF_U64), ROW(memory_bytes, JF_U64), ROW(disk_bytes, JF_U64),
    ROW(processes, JF_U64),     ROW(labels, JF_OBJECT),
};
#undef ROW
#define ROW(name, type)                                                                                      \
    {                                                                                                        \
#name, type, true, offsetof(struct sandbox_labels, name)                                             \
    }
static const struct json_field label_rows[] = {
    ROW(controller, JF_STRING), ROW(tenant, JF_STRING),  ROW(namespace, JF_STRING), ROW(name, JF_STRING),
    ROW(workspace, JF_STRING),  ROW(generation, JF_U64), ROW(attempt, JF_U64),      ROW(epoch, JF_U64),
};
#undef ROW

static int record_parse(struct slice text, struct slice id, struct arena *a, struct local_record *ret,
                        struct err *err)
{
    struct json *root = NULL;
    struct raw_record raw = {0};
    struct local_record r = {0};
    int rc = json_parse(text, NULL, &root, err);
    if (rc == 0)
        rc = json_decode(root, "", record_rows, ARRAY_LEN(record_rows), &raw, err);
    if (rc == 0)
        rc = json_decode(raw.labels, "labels", label_rows, ARRAY_LEN(label_rows), &r.labels, err);
    size_t wish = 0;
    while (rc == 0 && wish < ARRAY_LEN(wish_names) && !slice_eq_str(raw.wish, wish_names[wish]))
        wish++;
    if (rc == 0 && (raw.version != 1 || !slice_eq(raw.id, id) || wish == ARRAY_LEN(wish_names) ||
                    !host_id_is_valid(raw.home)))
        rc = err_set(err, E_INVALID, "not a sandbox record of this version");
    if (rc == 0) {
        struct sandbox_labels *l = &r.labels;
        r.id = arena_slice(a, raw.id);
        r.home_id = arena_slice(a, raw.home);
        l->controller = arena_slice(a, l->controller);
        l->tenant = arena_slice(a, l->tenant);
        l->namespace = arena_slice(a, l->namespace);
        l->name = arena_slice(a, l->name);
        l->workspace = arena_slice(a, l->workspace);
        r.created_at_ms = raw.created_at_ms;
        r.cpus_milli = raw.cpus_milli;
        r.memory_bytes = raw.memory_bytes;
        r.disk_bytes = raw.disk_bytes;
        r.processes = raw.processes;
        r.wish = (enum local_wish)wish;
        *ret = r;
    }
    json_free(root);
    return rc;
}

int local_sandbox_read(const struct local_place *w, struct slice id, struct arena *a,
                       struct local_record *ret, struct err *err)
{
    struct buf text = BUF_INIT(RECORD_BYTES_MAX);
    char *path = arena_printf(a, "%s/sandboxes/%.*s/sandbox.json", w->root, SL_ARG(id));
    int rc = local_file_read(path, RECORD_BYTES_MAX, &text, err);
    if (rc == 0) {
        rc = record_parse(buf_view(&text), id, a, ret, err);
        if (rc != 0)
            (void)err_prefix(err, "%s", path);
    }
    buf_fini(&text);
    return rc;
}

/* --- the folder --- */

int local_sandbox_create(const struct local_place *w, const struct local_record *r, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *parent = arena_printf(&a, "%s/sandboxes", w->root),
         *name = arena_printf(&a, ".new-%.*s", SL_ARG(r->id));
    char *folder = arena_printf(&a, "%s/%s", parent, name), *path = local_sandbox_folder(w, r->id, &a);
    struct stat st;
    int rc = 0;
    if (lstat(path, &st) == 0)
        rc = err_set(err, E_EXISTS, "sandbox %.*s exists", SL_ARG(r->id));
    if (rc == 0)
        rc = local_tree_remove(parent, name, NULL, err); /* from a create that died */
    if (rc == 0)
        rc = host_folder_make(folder, 0700, err);
    if (rc == 0)
        rc = host_folder_make(arena_printf(&a, "%s/control", folder), 0755, err);
    if (rc == 0)
        rc = host_folder_make(arena_printf(&a, "%s/etc", folder), 0755, err);
    if (rc == 0)
        rc = record_write_in(folder, r, err);
    if (rc == 0 && rename(folder, path) != 0)
        rc = errno == ENOTEMPTY || errno == EEXIST
                 ? err_set(err, E_EXISTS, "sandbox %.*s exists", SL_ARG(r->id))
                 : fail(err, "cannot make", path);
    if (rc == 0)
        rc = local_folder_sync(parent, err);
    arena_fini(&a);
    return rc;
}

int local_sandbox_remove(const struct local_place *w, struct slice id, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *parent = arena_printf(&a, "%s/sandboxes", w->root), gone[HOST_ID_MAX + 64];
    int rc = local_tree_retire(parent, arena_printf(&a, "%.*s", SL_ARG(id)), gone, err);
    if (rc == 0)
        (void)local_tree_remove(parent, gone, NULL,
                                NULL); /* it does not exist any more; the next start clears up */
    arena_fini(&a);
    return rc == E_NOT_FOUND ? 0 : rc;
}

/* The workspace's name where it can be one. */
struct slice local_hostname(const struct local_record *r)
{
    return name_is_valid(r->labels.name) ? r->labels.name : SL("sandbox");
}

int local_sandbox_prepare(const struct local_place *w, const struct local_record *r, uid_t uid,
                          struct err *err)
{
    struct arena a = ARENA_INIT;
    char *path = local_sandbox_folder(w, r->id, &a), *etc = arena_printf(&a, "%s/etc", path);
    char *host = arena_printf(&a, "%.*s", SL_ARG(local_hostname(r)));
    unsigned id = w->is_root ? (unsigned)uid : 1000;
    struct {
        const char *name, *text;
    } files[] = {
        {"passwd", arena_printf(&a,
                                "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:%u:%u:agent:" INIT_HOME
                                ":/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
                                id, id)},
        {"group", arena_printf(&a, "root:x:0:\nagent:x:%u:\nnogroup:x:65534:\n", id)},
        {"hosts", arena_printf(&a, "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 %s\n", host)},
        {"hostname", arena_printf(&a, "%s\n", host)},
        {"nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"},
        {"resolv.conf", "# no network but loopback\n"},
    };
    int rc = host_folder_make(etc, 0755, err);
    for (size_t i = 0; i < ARRAY_LEN(files) && rc == 0; i++)
        rc = local_file_write(etc, files[i].name, slice_str(files[i].text), 0644, false, err);
    if (rc == 0)
        rc = host_folder_make(arena_printf(&a, "%s/control", path), 0755, err);
    arena_fini(&a);
    return rc;
}

static void id_add(const char *name, void *data)
{
    if (host_id_is_valid(slice_str(name)))
        names_add(data, name);
}

int local_sandbox_ids(const struct local_place *w, struct arena *a, struct slice **ret, size_t *ret_n,
                      struct err *err)
{
    struct names ids = {.a = a};
    int rc = folder_read(arena_printf(a, "%s/sandboxes", w->root), id_add, &ids, err);
    *ret = ids.v;
    *ret_n = ids.n;
    return rc;
}

/* --- life --- */

int local_life_probe(const struct local_place *w, struct slice id, struct local_life *ret, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *path = arena_printf(&a, "%s/sandboxes/%.*s/life", w->root, SL_ARG(id));
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), rc = 0;
    *ret = (struct local_life){0};
    if (fd < 0) {
        rc = errno == ENOENT ? 0 : fail(err, "cannot open", path);
        arena_fini(&a);
        return rc;
    }
    struct flock life = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = INIT_LOCK_BYTE_LIFE, .l_len = 1};
    struct flock pid = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = INIT_LOCK_BYTE_PID, .l_len = 1};
    /* The process first: one that ends in between is then seen as "held, no pid", never as a stale pid. */
    if (fcntl(fd, F_GETLK, &pid) != 0 || fcntl(fd, F_OFD_GETLK, &life) != 0)
        rc = fail(err, "cannot look at the lock", path);
    close(fd);
    if (rc == 0) {
        ret->is_held = life.l_type != F_UNLCK;
        ret->pid = ret->is_held && pid.l_type != F_UNLCK && pid.l_pid > 0 ? pid.l_pid : 0;
    }
    arena_fini(&a);
    return rc;
}
