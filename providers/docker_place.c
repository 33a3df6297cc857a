/* docker_place: what the Docker provider keeps on this host: for each sandbox the folder with Reeve's socket,
 * and a mark that we ended it. All of it can be made again, but for the mark: without it a sandbox that
 * sleeps looks as if it had ended by itself, and is made anew with its home. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "providers/docker.h"

#define FOREIGN_UIDS 65536

static int fail(struct err *err, const char *what, const char *path)
{
    int e = errno;
    return err_set(err, err_from_errno(e), "%s %s: %s", what, path, strerror(e));
}

static char *place(struct arena *a, const char *root, struct slice id, const char *rest)
{
    return arena_printf(a, "%s/sandboxes/%.*s%s", root, SL_ARG(id), rest);
}

int docker_place_open(const char *root, struct err *err)
{
    struct arena a = ARENA_INIT;
    int rc = host_root_make(root, err);
    if (rc == 0)
        rc = host_folder_make(arena_printf(&a, "%s/sandboxes", root), 0700, err);
    arena_fini(&a);
    return rc;
}

int docker_place_prepare(const char *root, struct slice id, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *mark = place(&a, root, id, "/suspended");
    int rc = host_folder_make(place(&a, root, id, ""), 0700, err);
    if (rc == 0)
        rc = host_folder_make(place(&a, root, id, "/control"), 0755, err);
    if (rc == 0 && unlink(mark) != 0 && errno != ENOENT)
        rc = fail(err, "cannot remove", mark);
    arena_fini(&a);
    return rc;
}

int docker_place_mark_suspended(const char *root, struct slice id, struct err *err)
{
    struct arena a = ARENA_INIT;
    char *mark = place(&a, root, id, "/suspended");
    int rc = host_folder_make(place(&a, root, id, ""), 0700, err);
    int fd = rc == 0 ? open(mark, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (rc == 0 && (fd < 0 || fsync(fd) != 0))
        rc = fail(err, "cannot write", mark);
    if (fd >= 0)
        close(fd);
    arena_fini(&a);
    return rc;
}

bool docker_place_is_suspended(const char *root, struct slice id)
{
    struct arena a = ARENA_INIT;
    struct stat st;
    bool is = lstat(place(&a, root, id, "/suspended"), &st) == 0;
    arena_fini(&a);
    return is;
}

/* The container is gone: nobody else is in these folders, and nothing of a tenant ever was. */
int docker_place_remove(const char *root, struct slice id, struct err *err)
{
    static const char *const files[] = {"/suspended", "/control/" INIT_SOCKET_NAME};
    static const char *const folders[] = {"/control", ""};
    struct arena a = ARENA_INIT;
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(files) && rc == 0; i++)
        if (unlink(place(&a, root, id, files[i])) != 0 && errno != ENOENT)
            rc = fail(err, "cannot remove", place(&a, root, id, files[i]));
    for (size_t i = 0; i < ARRAY_LEN(folders) && rc == 0; i++)
        if (rmdir(place(&a, root, id, folders[i])) != 0 && errno != ENOENT)
            rc = fail(err, "cannot remove", place(&a, root, id, folders[i]));
    arena_fini(&a);
    return rc;
}

void docker_place_own(const char *folder)
{
    struct stat st;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return; /* not ours to enter: the image must have made it right */
    /* An owner far up is one of a user namespace that the engine uses: then 1000 is somebody else. */
    if (fstat(fd, &st) == 0 && st.st_uid != DOCKER_UID && st.st_uid < FOREIGN_UIDS &&
        fchown(fd, DOCKER_UID, DOCKER_UID) == 0)
        (void)fchmod(fd, 0700); /* where the change of owner went through, so does this */
    close(fd);
}

int docker_place_list(const char *root, struct arena *a, struct slice **ret, size_t *ret_n, struct err *err)
{
    char *path = arena_printf(a, "%s/sandboxes", root);
    size_t n = 0, room = 64;
    struct slice *ids = arena_alloc(a, room * sizeof(*ids));
    DIR *d = opendir(path);
    struct dirent *it;
    if (d == NULL)
        return fail(err, "cannot list", path);
    while ((it = readdir(d)) != NULL) {
        if (!host_id_is_valid(slice_str(it->d_name)))
            continue;
        if (n == room) {
            struct slice *more = arena_alloc(a, 2 * room * sizeof(*more));
            memcpy(more, ids, n * sizeof(*ids));
            ids = more;
            room *= 2;
        }
        ids[n++] = slice_str(arena_strdup(a, it->d_name));
    }
    closedir(d);
    *ret = ids;
    *ret_n = n;
    return 0;
}
