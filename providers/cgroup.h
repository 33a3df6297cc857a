/* cgroup: where control groups are on this machine, versions 1 and 2, and what a group has used. All of it
 * blocks (small files of the kernel). */
#ifndef REEVE_PROVIDERS_CGROUP_H
#define REEVE_PROVIDERS_CGROUP_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "providers/provider.h"

#include <sys/types.h>

#define CGROUP_TEXT_MAX ((size_t)1 << 20) /* of /proc/self/mountinfo and the like */

struct cgroup_mount {
    struct slice root, point; /* what of the hierarchy is mounted, and where */
};
/* Of mountinfo's text: the hierarchy of that type ("cgroup", "cgroup2") and controller (NULL: any). */
bool cgroup_mount_find(struct slice mounts, const char *type, const char *controller,
                       struct cgroup_mount *ret);
/* The group in that hierarchy (controller NULL: version 2) of a process, from its /proc/…/cgroup; "/" when it
 * is in none. */
struct slice cgroup_of(struct slice groups, const char *controller);
/* The folder of that group, or of the mount when it is not visible there. */
char *cgroup_folder(const struct cgroup_mount *m, struct slice group, struct arena *a);
/* The file's content, into b; absent is as good as empty. */
struct slice cgroup_text(const char *path, struct buf *b);
/* Is `word` one of the words of `list`? */
bool cgroup_has_word(struct slice list, char sep, const char *word);

/* What these groups together tell of one sandbox; 0, or E_UNAVAILABLE: CPU or memory is in none of them. */
int cgroup_usage(const char *const *folders, size_t n, struct sandbox_usage *ret, struct err *err);
/* Of the groups that this process is in, if their names hold `word`. E_GONE: there is no such process, or its
 * number has come to mean another one. */
int cgroup_usage_of(pid_t pid, struct slice word, struct sandbox_usage *ret, struct err *err);

#endif
