/* fdpass: framed messages over a unix socket, each with at most one descriptor (SCM_RIGHTS).
 *
 * Frame: u32 length of what follows (little-endian), u8 type, payload. A descriptor travels with the first
 * byte of its frame. What arrives is hostile: a frame over the limit, two descriptors for one frame, a
 * descriptor where the owner did not expect one (it is closed) end the channel. Descriptors arrive
 * close-on-exec. */
#ifndef REEVE_BASE_NET_FDPASS_H
#define REEVE_BASE_NET_FDPASS_H

#include "base/core/err.h"
#include "base/net/loop.h"

#include <sys/types.h>

#define FDPASS_FRAME_MAX (1u << 20)

struct fdpass; /* one connection */

struct fdpass_events {
    /* fd is -1 or the receiver's to close. */
    void (*on_frame)(struct fdpass *p, uint8_t type, struct slice payload, int fd, void *data);
    void (*on_close)(struct fdpass *p, int code,
                     void *data); /* peer gone or broke the rules; once, then free it */
};
struct fdpass_peer { /* as the kernel vouches (SO_PEERCRED) at connect time */
    pid_t pid;
    uid_t uid;
    gid_t gid;
};
struct fdpass_listener;
typedef void (*fdpass_accept_cb)(struct fdpass *p, const struct fdpass_peer *peer, void *data);
/* Binds `path` (an old socket there is replaced), mode as given. Accepted channels read only after
 * fdpass_own. */
int fdpass_listen(struct loop *l, const char *path, unsigned mode, fdpass_accept_cb on_accept, void *data,
                  struct fdpass_listener **ret, struct err *err);
void fdpass_listener_close(struct fdpass_listener *l); /* removes the socket's name too */
void fdpass_own(struct fdpass *p, const struct fdpass_events *events, void *data);
/* Queued, bounded (4 MiB): 0, or E_AGAIN when full. Never a descriptor from us to inside. */
int fdpass_send(struct fdpass *p, uint8_t type, struct slice payload);
void fdpass_close(struct fdpass *p); /* no event any more; frees */

#endif
