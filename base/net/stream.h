/* stream: a two-way byte channel behind a vtable: TCP, unix sockets, adopted descriptors; TLS fits on top.
 *
 * Writing tries the socket at once; what does not fit is copied into the stream's queue and written later.
 * The writer must stop when stream_write says E_AGAIN until on_drain. Reading is pulled: nothing is read
 * until stream_read_start, nothing more after stream_read_stop. Bytes given to on_read are valid during the
 * call only. */
#ifndef REEVE_BASE_NET_STREAM_H
#define REEVE_BASE_NET_STREAM_H

#include "base/core/err.h"
#include "base/core/slice.h"
#include "base/net/loop.h"

#include <sys/socket.h>

struct stream;

struct stream_events {
    void (*on_read)(struct stream *s, struct slice bytes, void *data);
    void (*on_eof)(struct stream *s, void *data); /* peer ended its half; once */
    void (*on_error)(struct stream *s, int code,
                     void *data);                   /* reset, timeout …; once; only close is useful now */
    void (*on_drain)(struct stream *s, void *data); /* the queue is empty again after E_AGAIN */
    /* May be NULL: then on_error comes. A write failed; nothing more can be written, but what the peer sent
     * before (an early answer) can still be read to its end. Once. */
    void (*on_write_error)(struct stream *s, int code, void *data);
};

/* Bytes of stream_peer's text with its NUL. */
#define STREAM_PEER_MAX 64

/* A writer that goes on after E_AGAIN until so much is queued is broken off (E_TOO_LARGE). One write may be
 * of any size. */
#define STREAM_QUEUE_MAX ((size_t)16 << 20)

struct stream_ops {
    void (*read_start)(struct stream *s);
    void (*read_stop)(struct stream *s);
    int (*write)(struct stream *s, const struct slice *v, size_t n);
    void (*shutdown)(struct stream *s);
    void (*close)(struct stream *s);
    void (*reset)(struct stream *s);
    size_t (*queued)(const struct stream *s);
    void (*peer)(const struct stream *s, char out[STREAM_PEER_MAX]); /* may be NULL */
};

struct stream {
    const struct stream_ops *ops;
    const struct stream_events *events; /* the owner's; stream_own sets it */
    void *data;                         /* the owner's */
    struct loop *loop;
};

/* Takes over the events (a connection changes hands on upgrade). An end or error that the former owner was
 * told is told again to the new one when he starts to read. */
void stream_own(struct stream *s, const struct stream_events *events, void *data);
static inline void stream_read_start(struct stream *s)
{
    s->ops->read_start(s);
}
static inline void stream_read_stop(struct stream *s)
{
    s->ops->read_stop(s);
}
/* Writes all slices in order (one writev while the queue is empty). 0; E_AGAIN: taken, but stop until
 * on_drain; another code: broken, on_error comes or has come. Never calls back before it returns. At most
 * 1024 slices. */
static inline int stream_write(struct stream *s, const struct slice *v, size_t n)
{
    return s->ops->write(s, v, n);
}
/* Ends our half after what is queued. */
static inline void stream_shutdown(struct stream *s)
{
    s->ops->shutdown(s);
}
/* No event comes any more; frees the stream later. What is queued is still written, bounded in time (5 s). */
static inline void stream_close(struct stream *s)
{
    s->ops->close(s);
}
/* As close, but at once: drops the queue; TCP sends a reset. */
static inline void stream_reset(struct stream *s)
{
    s->ops->reset(s);
}
static inline size_t stream_queued(const struct stream *s)
{
    return s->ops->queued(s);
}

/* "127.0.0.1:5000", "[::1]:5000", "unix", or "unknown". May be a system call: keep the text. */
void stream_peer(const struct stream *s, char out[STREAM_PEER_MAX]);

/* Adopts a connected, non-blocking or blocking socket descriptor (TCP or unix); owns it from now on, also on
 * error. */
int stream_from_fd(struct loop *l, int fd, struct stream **ret, struct err *err);

/* Connecting: `done` fires exactly once, never before the call returns; code 0 and the stream, or an error.
 * E_CANCELLED after connect_cancel. */
struct connect_op;
typedef void (*connect_done_cb)(int code, struct stream *s, const struct err *err, void *data);
struct endpoint {
    bool is_unix;
    char host[256]; /* name or address, or the path of a unix socket */
    uint16_t port;
};
struct connect_op *stream_connect(struct loop *l, const struct endpoint *to, int64_t timeout_ms,
                                  connect_done_cb done, void *data);
void connect_cancel(struct connect_op *op);
/* "127.0.0.1:80", "[::1]:80", "host:80", "unix:/path". 0 or E_INVALID. */
int endpoint_parse(struct slice text, struct endpoint *ret, struct err *err);

/* Listening. Accepted streams are handed over with reading stopped. */
struct listener;
typedef void (*listener_cb)(struct listener *l, struct stream *s, void *data);
int listener_open(struct loop *l, const struct endpoint *at, listener_cb on_stream, void *data,
                  struct listener **ret, struct err *err);
/* Adopts a listening TCP socket descriptor; owns it from now on, also on error. */
int listener_from_fd(struct loop *l, int fd, listener_cb on_stream, void *data, struct listener **ret,
                     struct err *err);
uint16_t listener_port(const struct listener *l); /* the real one when 0 was asked */
/* True when the listener's descriptor failed for good and it stopped accepting. Lack of descriptors or memory
 * is not that: accepting pauses a moment then, and the waiting clients stay in the kernel's queue. */
bool listener_is_broken(const struct listener *l);
/* Closes the descriptor now (removes a unix socket's name); `closed` (may be NULL) fires in a later turn. */
void listener_close(struct listener *l, void (*closed)(void *data), void *data);

/* A tunnel: copies both ways with back-pressure and half-close until both sides ended or one broke, then
 * closes both and calls `done` once. Owns both streams. `a_first` was already read from a and goes to b
 * first. */
struct tunnel;
struct tunnel *tunnel_start(struct stream *a, struct stream *b, struct slice a_first, struct slice b_first,
                            void (*done)(void *data), void *data);
void tunnel_close(struct tunnel *t); /* ends it; `done` still fires, later */

#endif
