/* host: what the providers share that run sandboxes on this host behind reeve-init: their folder's lock, the
 * server's command line and environment, what init says of the server, processes by descriptor. */
#ifndef REEVE_PROVIDERS_HOST_H
#define REEVE_PROVIDERS_HOST_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "providers/link.h"
#include "providers/provider.h"

#include <sys/types.h>

#define HOST_ID_MAX 128

/* Where our two programs are inside. */
#define HOST_INSIDE_INIT  "/opt/reeve/reeve-init"
#define HOST_INSIDE_AGENT "/opt/reeve/sandbox-agent"

bool host_id_is_valid(struct slice id); /* [A-Za-z0-9._-]{1,128}, no leading '.' */

/* Block. A folder that is there already gets the mode too. */
int host_folder_make(const char *path, mode_t mode, struct err *err);
int host_root_make(const char *root, struct err *err); /* mode 0700, with the folders above it */
/* Takes `root`/lock for as long as *ret_fd is open; E_UNAVAILABLE when another controller has it. */
int host_root_lock(const char *root, int *ret_fd, struct err *err);

/* argv of the server; `port` holds one of its words. */
#define HOST_SERVER_ARGV_MAX 10
size_t host_server_argv(const struct sandbox_server *s, char port[8], struct slice out[HOST_SERVER_ARGV_MAX]);

/* A private copy of what the server is started with. */
struct host_server {
    struct buf secrets; /* the caller's texts; wiped by host_server_wipe */
    struct sandbox_env *env;
    size_t n_env;
    struct sandbox_server server; /* token and port */
};
void host_server_init(struct host_server *h);
/* 0; E_INVALID: a variable or the token that cannot be. */
int host_server_copy(struct host_server *h, struct arena *a, const struct sandbox_server *s, struct err *err);
/* Adds "NAME=value" texts of an image, and what the server always has: where the name is not there yet. Our
 * own HOME and user stand before the image's. The texts live in `a`. */
void host_server_defaults(struct host_server *h, struct arena *a, const struct slice *image_env,
                          size_t n_image_env);
void host_server_wipe(struct host_server *h);

/* What its init says of a server that does not stay up; the tail is from inside: one line of plain ASCII. */
struct slice host_server_reason(const struct link_state *s, struct arena *a);

int host_pidfd_open(pid_t pid); /* -1 and errno */
int host_pidfd_kill(int pidfd, int signal);

#endif
