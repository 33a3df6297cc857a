/* tar: a POSIX archive (pax) that is read piece by piece, for the commands that hand files to an engine.
 *
 * First what goes in is named; only then is it read, in that order, so that the length is known before the
 * first byte and memory holds names, never contents. */
#ifndef REEVE_CONTROLLER_CLI_TAR_H
#define REEVE_CONTROLLER_CLI_TAR_H

#include "base/core/err.h"
#include "base/core/slice.h"

#include <sys/types.h>

struct tar;

#define TAR_ENTRIES_MAX 4000000

struct tar *tar_new(void);
void tar_free(struct tar *t); /* NULL is fine */

/* Paths inside are relative, without a leading '/'. Owners and modes as given. */
void tar_folder(struct tar *t, const char *path, unsigned mode, unsigned uid, unsigned gid);
void tar_text(struct tar *t, const char *path, struct slice text, unsigned mode); /* root's; copied */
void tar_symlink(struct tar *t, const char *path, const char *target);            /* root's */
/* One file of this machine; root's. 0, or E_NOT_FOUND, E_FORBIDDEN, E_INVALID (not a file) … */
int tar_file(struct tar *t, const char *path, const char *source, unsigned mode, struct err *err);

enum tar_owner {
    TAR_KEEPS_OWNERS, /* owners and modes as they are on this machine */
    TAR_ROOTS,        /* all root's, readable by everybody, nothing setuid */
};
/* A folder of this machine and all in it, as `path` ("" for the archive's own root). Links are not followed;
 * several names of one file stay one file; sockets, pipes and devices are left out. */
int tar_tree(struct tar *t, const char *path, const char *source, enum tar_owner owner, struct err *err);

uint64_t tar_bytes(const struct tar *t); /* of the whole archive */
/* The next bytes of the archive: how many, 0 at its end, -1 with `err` set (a file that cannot be read, or
 * became shorter in between). */
ssize_t tar_read(struct tar *t, char *to, size_t n, struct err *err);

/* The content of the first file in an archive held in memory: 0, E_INVALID when the first entry is not a
 * plain file, E_SYNTAX. */
int tar_first_file(struct slice archive, struct slice *ret, struct err *err);

#endif
