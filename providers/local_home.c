/* local_home: home volumes and the uids that own them.
 *
 * Happy path: a home is a folder that appears by rename, with its owner's uid written beside the volume; the
 * uid is the home's for life, and no other home of this root has it. Failure paths: a crash before the rename
 * leaves nothing; a uid is free again only when the last file of a removed home is gone. Without root all
 * homes belong to our own user. */
#include "providers/local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/json.h"
#include "base/core/mem.h"

#define HOME_BYTES_MAX 1024

static int fail(struct err *err, const char *what, const char *path)
{
    int e = errno;
    return err_set(err, err_from_errno(e), "%s %s: %s", what, path, strerror(e));
}

struct raw_home {
    uint64_t version, uid;
    bool is_own; /* the uid is this home's alone, from root's range; else it is a user's */
};
static const struct json_field home_rows[] = {
    {"version", JF_U64, true, offsetof(struct raw_home, version)},
    {"uid", JF_U64, true, offsetof(struct raw_home, uid)},
    {"is_own", JF_BOOL, true, offsetof(struct raw_home, is_own)},
};

static int home_read(const char *folder, uid_t *ret_uid, bool *ret_is_own, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct buf text = BUF_INIT(HOME_BYTES_MAX);
    struct json *root = NULL;
    struct raw_home raw = {0};
    char *path = arena_printf(&a, "%s/home.json", folder);
    int rc = local_file_read(path, HOME_BYTES_MAX, &text, err);
    if (rc == 0) {
        rc = json_parse(buf_view(&text), NULL, &root, err);
        if (rc == 0)
            rc = json_decode(root, "", home_rows, ARRAY_LEN(home_rows), &raw, err);
        if (rc == 0 && (raw.version != 1 || raw.uid == 0 || raw.uid >= UINT32_MAX))
            rc = err_set(err, E_INVALID, "not a home of this version");
        if (rc != 0)
            (void)err_prefix(err, "%s", path);
    }
    if (rc == 0) {
        *ret_uid = (uid_t)raw.uid;
        *ret_is_own = raw.is_own;
    }
    json_free(root);
    buf_fini(&text);
    arena_fini(&a);
    return rc;
}

/* Homes made under another kind of controller cannot be used: their files belong to somebody else. */
static int owner_check(const struct local_place *w, struct slice home_id, uid_t uid, bool is_own,
                       struct err *err)
{
    if (w->is_root ? !is_own : is_own || uid != w->user)
        return err_set(err, E_INVALID, "home %.*s belongs to uid %u; this controller runs as uid %u",
                       SL_ARG(home_id), (unsigned)uid, (unsigned)w->user);
    return 0;
}

static int home_make(const struct local_place *w, const char *parent, const char *name, uid_t uid,
                     struct err *err)
{
    struct arena a = ARENA_INIT;
    char *temp = arena_printf(&a, ".new-%s", name), *folder = arena_printf(&a, "%s/%s", parent, temp);
    char *volume = arena_printf(&a, "%s/volume", folder);
    char *text = arena_printf(&a, "{\"version\":1,\"uid\":%u,\"is_own\":%s}\n", (unsigned)uid,
                              w->is_root ? "true" : "false");
    int rc = local_tree_remove(parent, temp, NULL, err); /* from one that died */
    if (rc == 0 && (mkdir(folder, 0700) != 0 || mkdir(volume, 0700) != 0))
        rc = fail(err, "cannot make", volume);
    if (rc == 0 && w->is_root && lchown(volume, uid, (gid_t)uid) != 0)
        rc = fail(err, "cannot give away", volume);
    if (rc == 0)
        rc = local_file_write(folder, "home.json", slice_str(text), 0600, true, err);
    if (rc == 0 && rename(folder, arena_printf(&a, "%s/%s", parent, name)) != 0)
        rc = fail(err, "cannot make", folder);
    if (rc == 0)
        rc = local_folder_sync(parent, err);
    arena_fini(&a);
    return rc;
}

int local_home_uid(const struct local_place *w, struct slice home_id, uid_t *ret_uid, struct err *err)
{
    struct arena a = ARENA_INIT;
    bool is_own = false;
    int rc = home_read(arena_printf(&a, "%s/homes/%.*s", w->root, SL_ARG(home_id)), ret_uid, &is_own, err);
    if (rc == E_NOT_FOUND)
        rc = err_set(err, E_GONE, "home %.*s is gone", SL_ARG(home_id));
    if (rc == 0)
        rc = owner_check(w, home_id, *ret_uid, is_own, err);
    arena_fini(&a);
    return rc;
}

int local_home_ensure(const struct local_place *w, struct slice home_id, uid_t uid, uid_t *ret_uid,
                      struct err *err)
{
    struct arena a = ARENA_INIT;
    char *parent = arena_printf(&a, "%s/homes", w->root), *name = arena_printf(&a, "%.*s", SL_ARG(home_id));
    int rc = local_home_uid(w, home_id, ret_uid, err);
    if (rc == E_GONE) {
        struct stat st;
        if (lstat(arena_printf(&a, "%s/%s", parent, name), &st) == 0) {
            rc = err_set(err, E_INVALID, "home %s is damaged: it has no home.json", name);
        } else {
            err_clear(err);
            rc = home_make(w, parent, name, uid, err);
            *ret_uid = uid;
        }
    }
    arena_fini(&a);
    return rc;
}

int local_home_retire(const struct local_place *w, struct slice home_id, char ret_name[HOST_ID_MAX + 64],
                      uid_t *ret_uid, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *parent = arena_printf(&a, "%s/homes", w->root), *name = arena_printf(&a, "%.*s", SL_ARG(home_id));
    bool is_own;
    *ret_uid = 0;
    (void)home_read(arena_printf(&a, "%s/%s", parent, name), ret_uid, &is_own,
                    NULL); /* a damaged one goes too */
    int rc = local_tree_retire(parent, name, ret_name, err);
    arena_fini(&a);
    return rc;
}

/* The volume first, home.json with the folder last: until then the uid stays taken. */
int local_home_clear(const struct local_place *w, const char *retired_name, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *parent = arena_printf(&a, "%s/homes", w->root);
    int rc = local_tree_remove(arena_printf(&a, "%s/%s", parent, retired_name), "volume", w->stop, err);
    if (rc == 0)
        rc = local_tree_remove(parent, retired_name, NULL, err);
    arena_fini(&a);
    return rc;
}

/* --- uids --- */

static bool uid_index(const struct local_uids *u, uid_t uid, uint32_t *ret)
{
    if (uid < u->first || uid - u->first >= u->count)
        return false;
    *ret = uid - u->first;
    return true;
}

static void uid_mark(struct local_uids *u, uid_t uid)
{
    uint32_t i;
    if (!uid_index(u, uid, &i) || (u->used[i / 8] & (1u << (i % 8))) != 0)
        return;
    u->used[i / 8] |= (unsigned char)(1u << (i % 8));
    u->n_used++;
}

void local_uid_give(struct local_uids *u, uid_t uid)
{
    uint32_t i;
    if (!uid_index(u, uid, &i) || (u->used[i / 8] & (1u << (i % 8))) == 0)
        return;
    u->used[i / 8] &= (unsigned char)~(1u << (i % 8));
    u->n_used--;
}

int local_uid_take(struct local_uids *u, uid_t *ret, struct err *err)
{
    if (u->n_used >= u->count)
        return err_set(err, E_CAPACITY, "all %u uids of the range from %u are taken by homes", u->count,
                       u->first);
    for (;;) { /* goes round, so that a freed uid rests for as long as possible */
        uint32_t i = u->next;
        u->next = (u->next + 1) % u->count;
        if ((u->used[i / 8] & (1u << (i % 8))) != 0)
            continue;
        *ret = u->first + i;
        uid_mark(u, *ret);
        return 0;
    }
}

int local_uids_load(const struct local_place *w, uint32_t first, uint32_t count, struct local_uids *ret,
                    struct err *err)
{
    struct arena a = ARENA_INIT;
    char *parent = arena_printf(&a, "%s/homes", w->root);
    DIR *d = opendir(parent);
    int rc = d == NULL ? fail(err, "cannot list", parent) : 0;
    *ret = (struct local_uids){.first = first, .count = count};
    ret->used = mem_zalloc(count / 8 + 1);
    struct dirent *it;
    while (rc == 0 && (errno = 0, (it = readdir(d)) != NULL)) { /* also those being made and removed */
        uid_t uid;
        bool is_own;
        if (strcmp(it->d_name, ".") == 0 || strcmp(it->d_name, "..") == 0)
            continue;
        if (home_read(arena_printf(&a, "%s/%s", parent, it->d_name), &uid, &is_own, NULL) == 0)
            uid_mark(ret, uid);
        arena_reset(&a);
        parent = arena_printf(&a, "%s/homes", w->root);
    }
    if (d != NULL)
        closedir(d);
    if (rc != 0)
        local_uids_fini(ret);
    arena_fini(&a);
    return rc;
}

void local_uids_fini(struct local_uids *u)
{
    mem_free(u->used);
    u->used = NULL;
}
