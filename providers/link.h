/* link: Reeve's end of the control connection to one sandbox's reeve-init.
 *
 * Happy path: listens on a unix socket in the folder that the sandbox sees read-only; its init connects and
 * says hello; requests go out, answers come back, with a socket from inside where one was asked for; the door
 * is fetched once and its connections are handed up. Failure paths: a connection from any process but init is
 * closed at once; a channel that breaks the protocol is closed, init comes again; requests wait for init
 * within their own deadline, and are sent anew when the channel broke under them (each is safe to repeat);
 * what arrives as a descriptor is checked before use. One link per sandbox; used by all sealed providers. */
#ifndef REEVE_PROVIDERS_LINK_H
#define REEVE_PROVIDERS_LINK_H

#include "base/net/client.h"
#include "base/net/fdpass.h"
#include "base/net/stream.h"
#include "providers/init/protocol.h"
#include "providers/provider.h"

struct link;

struct link_state { /* what init last said of its server; the texts are from inside: hostile */
    enum init_server_state server;
    uint32_t starts;      /* of the server's process since the sandbox began */
    uint32_t wait_status; /* wait(2) status of the last one that ended */
    struct slice tail;    /* the end of its output */
};

struct link_events {
    /* Is this process the sandbox's init? Asked for every connection; must not call back into the link. */
    bool (*is_init)(const struct fdpass_peer *peer, void *data);
    void (*on_up)(struct link *k, void *data); /* init said hello */
    void (*on_down)(struct link *k,
                    void *data); /* the connection is gone; init will come again if it lives */
    void (*on_state)(struct link *k, const struct link_state *state,
                     void *data);                                  /* the server died, runs again ... */
    void (*on_door)(struct link *k, struct stream *s, void *data); /* the stream is the receiver's */
};

int link_new(struct loop *l, const char *socket_path, const struct link_events *events, void *data,
             struct link **ret, struct err *err);
/* Requests end with E_CANCELLED, in a later turn; no event fires any more; frees when all is closed. */
void link_close(struct link *k);
bool link_is_up(const struct link *k);
const struct link_state *link_state_last(const struct link *k); /* valid until the next event */

/* Answers exactly once, never before the call has returned. */
typedef void (*link_done_cb)(int code, const struct err *err, void *data);
/* Copies what it needs (and wipes the copy). `argv` and `env` become the server's; a running server is left
 * alone. */
void link_start(struct link *k, const struct slice *argv, size_t n_argv, const struct sandbox_env *env,
                size_t n_env, int64_t timeout_ms, link_done_cb done, void *data);
void link_restart(struct link *k, int64_t timeout_ms, link_done_cb done, void *data);
void link_stop(struct link *k, int64_t grace_ms, int64_t timeout_ms, link_done_cb done, void *data);

/* A stream to 127.0.0.1:port inside. The handle is for link_connect_cancel, valid until `done`. */
void *link_connect(struct link *k, uint16_t port, int64_t timeout_ms, connect_done_cb done, void *data);
void link_connect_cancel(void *handle);

/* 0, or E_SYNTAX saying what is wrong with a descriptor that should be a TCP socket on the sandbox's
 * loopback: listening on `port`, or connected to it. */
int link_socket_check(int fd, bool is_listening, uint16_t port, struct err *err);

#endif
