/* local: the parts of the local provider. local.c holds the calls, local_sandbox.c what is on disk,
 * local_home.c the homes and who owns them, local_process.c starting and finding processes, local_limits.c
 * control groups.
 *
 * On disk, under the root (mode 0700):
 *   lock                          held while a controller uses the root
 *   sandboxes/<id>/sandbox.json   what it is; the folder appears whole, by rename
 *   sandboxes/<id>/life           the lock that says whether it runs, and which process its init is
 * (protocol.h) sandboxes/<id>/control/       the folder seen inside; in it Reeve's socket sandboxes/<id>/etc/
 * the few files of its /etc homes/<home_id>/home.json     the uid that owns the home homes/<home_id>/volume/
 * the home itself
 *   .../.new-*, .../.gone-*       being made, being removed: cleared at the next start
 * Functions that block say so; they run on libuv's threads and touch only their arguments. */
#ifndef REEVE_PROVIDERS_LOCAL_H
#define REEVE_PROVIDERS_LOCAL_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "providers/host.h"
#include "providers/link.h"
#include "providers/provider.h"

#include <stdatomic.h>
#include <sys/types.h>

/* Never changes after open: shared with the threads. */
struct local_place {
    char *root;
    char *init_path, *agent_binary, *bwrap;
    bool is_root;      /* sandboxes get uids of their own */
    uid_t user;        /* ours, when not root */
    atomic_bool *stop; /* long removals give up; the next start finishes them */
};

/* --- local_sandbox.c (all of it blocks) --- */
enum local_wish { LOCAL_CREATED, LOCAL_STARTED, LOCAL_SUSPENDED };
struct local_record { /* texts live in the arena it was read with */
    struct slice id, home_id;
    struct sandbox_labels labels;
    int64_t created_at_ms;
    uint64_t cpus_milli, memory_bytes, disk_bytes, processes;
    enum local_wish wish;
};
int local_folders_make(const char *root, struct err *err);
int local_sandbox_create(const struct local_place *w, const struct local_record *r,
                         struct err *err); /* E_EXISTS */
/* E_NOT_FOUND: there is none. */
int local_sandbox_read(const struct local_place *w, struct slice id, struct arena *a,
                       struct local_record *ret, struct err *err);
int local_sandbox_write(const struct local_place *w, const struct local_record *r, struct err *err);
int local_sandbox_remove(const struct local_place *w, struct slice id,
                         struct err *err); /* absent is success */
struct slice local_hostname(const struct local_record *r);
/* /etc of the sandbox and the control folder, anew. */
int local_sandbox_prepare(const struct local_place *w, const struct local_record *r, uid_t uid,
                          struct err *err);
char *local_sandbox_folder(const struct local_place *w, struct slice id, struct arena *a);
/* Ids of all sandboxes, in the arena. */
int local_sandbox_ids(const struct local_place *w, struct arena *a, struct slice **ret, size_t *ret_n,
                      struct err *err);
/* Is it alive, and which process is its init? *ret_pid is 0 while it is being started or ended. Cheap. */
struct local_life {
    bool is_held;
    pid_t pid;
};
int local_life_probe(const struct local_place *w, struct slice id, struct local_life *ret, struct err *err);
/* What a crash left: removes .new-* at once (they are small), and lists .gone-* ("homes/.gone-...") for
 * later. */
int local_leftovers_list(const struct local_place *w, struct arena *a, struct slice **ret, size_t *ret_n,
                         struct err *err);

/* Files, for the parts. */
int local_file_write(const char *folder, const char *name, struct slice content, mode_t mode, bool is_durable,
                     struct err *err);
int local_file_read(const char *path, size_t max, struct buf *out,
                    struct err *err); /* E_NOT_FOUND, E_TOO_LARGE */
int local_folder_sync(const char *path, struct err *err);
/* Removes a folder and what is in it, never following a link; 0, E_CANCELLED when *stop, else an error. */
int local_tree_remove(const char *parent, const char *name, const atomic_bool *stop, struct err *err);
/* Renames parent/name to a .gone-* name there (durably), and gives that name. E_NOT_FOUND. */
int local_tree_retire(const char *parent, const char *name, char ret_name[HOST_ID_MAX + 64], struct err *err);

/* --- local_home.c (blocks, but for the uid table) --- */
/* Makes the home owned by `uid` when there is none; *ret_uid is whose it is. */
int local_home_ensure(const struct local_place *w, struct slice home_id, uid_t uid, uid_t *ret_uid,
                      struct err *err);
int local_home_uid(const struct local_place *w, struct slice home_id, uid_t *ret_uid,
                   struct err *err); /* E_GONE */
/* Retires it: it does not exist any more when this returns; the content is removed by local_home_clear. */
int local_home_retire(const struct local_place *w, struct slice home_id, char ret_name[HOST_ID_MAX + 64],
                      uid_t *ret_uid, struct err *err);
int local_home_clear(const struct local_place *w, const char *retired_name, struct err *err);
struct local_uids {
    uint32_t first, count, next, n_used;
    unsigned char *used; /* a bit each */
};
int local_uids_load(const struct local_place *w, uint32_t first, uint32_t count, struct local_uids *ret,
                    struct err *err);                                  /* blocks */
int local_uid_take(struct local_uids *u, uid_t *ret, struct err *err); /* E_CAPACITY */
void local_uid_give(struct local_uids *u, uid_t uid);
void local_uids_fini(struct local_uids *u);

/* --- local_limits.c --- */
#define LOCAL_CGROUPS_MAX 4
struct local_limits;
/* Looks at what this machine can enforce (blocks). Never fails: the note says what is missing. */
struct local_limits *local_limits_new(const struct local_place *w);
void local_limits_free(struct local_limits *m);
const char *local_limits_note(const struct local_limits *m);
/* Makes the sandbox's groups, sets its limits and notes the groups in the sandbox's folder (blocks). The
 * paths are written to the arena. */
int local_limits_prepare(const struct local_limits *m, const char *folder, const struct local_record *r,
                         struct arena *a, const char *ret_paths[LOCAL_CGROUPS_MAX], size_t *ret_n,
                         struct err *err);
int local_limits_remove(const char *folder, struct err *err);                           /* blocks */
uint64_t local_limits_oom_kills(const char *folder);                                    /* blocks */
int local_limits_usage(const char *folder, struct sandbox_usage *ret, struct err *err); /* blocks */
/* What rlimits must do because no group does: 0 for what needs none. */
uint64_t local_limits_nproc(const struct local_limits *m, const struct local_record *r);
uint64_t local_limits_data(const struct local_limits *m, const struct local_record *r);

/* --- local_process.c --- */
/* Finds bubblewrap and tries a sandbox that does nothing (blocks, at most 10 s). *ret_bwrap is the caller's.
 */
int local_machine_check(const struct local_place *w, char **ret_bwrap, struct err *err);
/* The whole command line that starts a sandbox, NULL-terminated, in the arena. */
char **local_command(const struct local_place *w, const struct local_limits *m, const struct local_record *r,
                     uid_t uid, const char *const *cgroups, size_t n_cgroups, struct arena *a);

#endif
