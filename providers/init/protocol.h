/* protocol: what Reeve and reeve-init say to each other over the control socket of one sandbox.
 *
 * Frames as in base/net/fdpass.h: u32 length of what follows, u8 type, payload. All numbers are
 * little-endian. Requests (Reeve to init) begin with a u32 request number that the answer repeats; numbers
 * start at 1. Descriptors only go from init to Reeve, one with an INIT_DONE that answers INIT_CONNECT or
 * INIT_DOOR with error 0, and with nothing else. Nothing here is secret to init, but INIT_START carries
 * credentials: both sides wipe it after use. */
#ifndef REEVE_PROVIDERS_INIT_PROTOCOL_H
#define REEVE_PROVIDERS_INIT_PROTOCOL_H

#define INIT_PROTOCOL_VERSION 1

#define INIT_FRAME_MAX    (1u << 20) /* length word's maximum, both ways */
#define INIT_STRINGS_MAX  1024u      /* argv and environment together */
#define INIT_TAIL_MAX     1024u      /* bytes of the server's last output in a state */
#define INIT_CONNECTS_MAX 64u        /* connects under way at once; more are answered EAGAIN */
#define INIT_DOOR_PORT    8700       /* on the sandbox's own 127.0.0.1 */

/* Where things are inside. */
#define INIT_SOCKET_FOLDER "/run/reeve"
#define INIT_SOCKET_NAME   "control"
#define INIT_SOCKET_PATH   INIT_SOCKET_FOLDER "/" INIT_SOCKET_NAME
#define INIT_HOME          "/home/agent"

/* The lock file of a sandbox: one byte says "is being started or runs" (held by an open file description from
 * before bubblewrap until the end), the next is a lock of init's own process, so that the kernel tells who
 * init is. */
#define INIT_LOCK_BYTE_LIFE 0
#define INIT_LOCK_BYTE_PID  1

enum init_frame_type {
    /* Reeve to init. */
    INIT_START = 1, /* u32 request, u32 n_argv, u32 n_env, then each string: u32 length, bytes. A server that
                       runs is left alone (and the strings dropped); the answer is the same. */
    INIT_CONNECT = 2, /* u32 request, u16 port, u32 timeout_ms: a socket connected to 127.0.0.1:port */
    INIT_DOOR = 3,    /* u32 request: the socket that listens on 127.0.0.1:INIT_DOOR_PORT */
    INIT_STATUS = 4,  /* u32 request: answered by INIT_STATE */
    INIT_RESTART = 5, /* u32 request: ends the server; it is started again at once with what it had */
    INIT_STOP =
        6, /* u32 request, u32 grace_ms: SIGTERM to all inside, SIGKILL after the grace, then the end */
    /* init to Reeve. */
    INIT_HELLO =
        64, /* u8 version, then as INIT_STATE behind the request number; the first frame of a connection */
    INIT_DONE = 65, /* u32 request, u32 errno of Linux or 0 */
    INIT_STATE =
        66, /* u32 request (0: by itself, something changed), u8 enum init_server_state, u32 pid inside,
               u32 starts, u32 last wait(2) status, u32 length, the last bytes of the server's output */
};

enum init_server_state {
    INIT_SERVER_IDLE = 0, /* was never started */
    INIT_SERVER_RUNNING = 1,
    INIT_SERVER_WAITING = 2,  /* ended; will be started again after a pause */
    INIT_SERVER_STOPPING = 3, /* everything is being ended */
};

#endif
