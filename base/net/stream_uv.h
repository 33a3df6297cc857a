/* stream_uv: the inside of socket streams, shared by stream.c, connect.c and listener.c only. */
#ifndef REEVE_BASE_NET_STREAM_UV_H
#define REEVE_BASE_NET_STREAM_UV_H

#include <netinet/in.h>

#include "base/core/buf.h"
#include "base/net/stream.h"

struct stream_uv {
    struct stream base;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    int fd; /* the handle's; -1 until connected */
    bool is_unix;
    struct sockaddr_in6 peer; /* as accept told (also an IPv4 one); family 0: ask the kernel */

    bool wants_read;                         /* the owner's wish */
    bool is_reading;                         /* libuv reads */
    int end_code;                            /* reading ended: E_EOF or an error; 0: not yet */
    const struct stream_events *told_events; /* to whom the end was told */
    void *told_data;

    uv_write_t write_req;
    struct buf flying; /* in write_req */
    struct buf next;   /* waits behind it */
    bool is_flying;
    bool owes_drain;
    bool wants_shutdown;
    int write_code; /* writing is broken */
    bool is_write_told;

    struct timer flush_timer; /* bounds the last write after stream_close */
    bool has_timer;
    bool is_deferred; /* deferred_run is pending: not to be freed */
    bool is_closing;  /* the owner is done with it */
    bool is_handle_closing, is_handle_closed;
};

/* A handle without a descriptor yet. */
struct stream_uv *stream_uv_new(struct loop *l, bool is_unix);
/* Gives it a descriptor (owned on success). */
int stream_uv_open(struct stream_uv *s, int fd);
/* No delay, keep-alive. Sockets accepted from a tuned listening socket inherit it. */
void stream_uv_tune(int fd);

#endif
