/* link: see link.h. Requests live in one list until they are answered; `is_sent` says whether on this
 * channel. */
#include "providers/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utlist.h>

#include "base/core/log.h"
#include "base/core/mem.h"

#define REQUESTS_MAX    1024 /* waiting and under way, of one sandbox */
#define HELLO_BYTES_MIN 18
#define DOOR_RETRY_MS   10000

struct request {
    struct request *prev, *next;
    struct link *link;
    struct timer deadline;
    uint32_t number;
    uint8_t type;
    uint16_t port;
    bool is_sent;
    int early;          /* not 0: ends with this code at the next turn */
    struct buf payload; /* behind the number; credentials, for INIT_START */
    link_done_cb done;
    connect_done_cb connect_done;
    void *data;
};

struct link {
    struct loop *loop;
    const struct link_events *events;
    void *data;
    struct fdpass_listener *listener;
    struct fdpass *channel; /* to init; NULL while there is none */
    bool is_up;             /* init said hello on it */
    struct request *requests;
    size_t n_requests;
    uint32_t number_last;
    struct listener *door;
    struct link_state state;
    char tail[INIT_TAIL_MAX];
    struct timer closer; /* so that freeing is never inside one of our own calls */
    unsigned n_handles;
    bool is_closing;
};

static void requests_send(struct link *k);

static uint32_t get_u32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static int put_u32(struct buf *b, uint32_t v)
{
    unsigned char bytes[4] = {(unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16),
                              (unsigned char)(v >> 24)};
    return buf_append(b, bytes, sizeof(bytes));
}

static void link_maybe_free(struct link *k)
{
    if (!k->is_closing || k->n_handles > 0 || k->n_requests > 0)
        return;
    mem_free(k);
}

/* --- requests --- */

static void on_request_closed(void *data)
{
    struct request *r = data;
    struct link *k = r->link;
    buf_wipe(&r->payload);
    mem_free(r);
    k->n_requests--;
    link_maybe_free(k);
}

static void request_end(struct request *r, int code, struct stream *s, const struct err *err)
{
    DL_DELETE(r->link->requests, r);
    timer_close(&r->deadline, on_request_closed);
    if (r->connect_done != NULL)
        r->connect_done(code, s, err, r->data);
    else
        r->done(code, err, r->data);
}

static void on_request_time(void *data)
{
    struct request *r = data;
    struct err err = {0};
    if (r->early == E_CANCELLED)
        (void)err_set(&err, E_CANCELLED, "cancelled");
    else if (r->early != 0)
        (void)err_set(&err, r->early,
                      r->early == E_TOO_LARGE ? "the server's environment is too large"
                                              : "too many requests wait for this sandbox");
    else
        (void)err_set(&err, E_TIMEOUT,
                      r->link->is_up ? "the sandbox's init did not answer in time"
                                     : "the sandbox's init did not connect in time");
    request_end(r, err.code, NULL, &err);
}

static struct request *request_new(struct link *k, uint8_t type, int64_t timeout_ms, void *data)
{
    struct request *r = MEM_NEW(struct request);
    r->link = k;
    r->type = type;
    if (++k->number_last == 0)
        k->number_last = 1;
    r->number = k->number_last;
    r->data = data;
    r->early = k->is_closing ? E_CANCELLED : k->n_requests >= REQUESTS_MAX ? E_UNAVAILABLE : 0;
    buf_init(&r->payload, INIT_FRAME_MAX - 5);
    timer_init(&r->deadline, k->loop, on_request_time, r);
    timer_start(&r->deadline, r->early != 0 ? 0 : timeout_ms);
    k->n_requests++;
    DL_APPEND(k->requests, r);
    return r;
}

static void request_send(struct request *r)
{
    struct link *k = r->link;
    struct buf frame;
    buf_init(&frame, INIT_FRAME_MAX);
    must(put_u32(&frame, r->number) == 0 && buf_slice(&frame, buf_view(&r->payload)) == 0);
    if (fdpass_send(k->channel, r->type, buf_view(&frame)) == 0)
        r->is_sent = true; /* else the queue is full: at the next answer */
    buf_wipe(&frame);
}

static void requests_send(struct link *k)
{
    struct request *r;
    if (!k->is_up)
        return;
    DL_FOREACH (k->requests, r)
        if (!r->is_sent && r->early == 0)
            request_send(r);
}

/* --- descriptors --- */

static bool is_loopback(const struct sockaddr_storage *a, socklen_t n, uint16_t port)
{
    struct sockaddr_in in;
    if (a->ss_family != AF_INET || n < sizeof(in))
        return false;
    memcpy(&in, a, sizeof(in));
    return in.sin_addr.s_addr == htonl(INADDR_LOOPBACK) && (port == 0 || in.sin_port == htons(port));
}

static int socket_option(int fd, int what)
{
    int v = -1;
    socklen_t n = sizeof(v);
    return getsockopt(fd, SOL_SOCKET, what, &v, &n) == 0 && n == sizeof(v) ? v : -1;
}

int link_socket_check(int fd, bool is_listening, uint16_t port, struct err *err)
{
    struct sockaddr_storage at;
    if (socket_option(fd, SO_DOMAIN) != AF_INET || socket_option(fd, SO_TYPE) != SOCK_STREAM ||
        socket_option(fd, SO_PROTOCOL) != IPPROTO_TCP)
        return err_set(err, E_SYNTAX, "the descriptor from inside is not a TCP socket");
    if (socket_option(fd, SO_ACCEPTCONN) != (is_listening ? 1 : 0))
        return err_set(err, E_SYNTAX, "the socket from inside %s",
                       is_listening ? "does not listen" : "listens");
    socklen_t n = sizeof(at);
    if (getsockname(fd, (struct sockaddr *)&at, &n) != 0 || !is_loopback(&at, n, is_listening ? port : 0))
        return err_set(err, E_SYNTAX, "the socket from inside is bound elsewhere");
    if (is_listening)
        return 0;
    n = sizeof(at);
    if (getpeername(fd, (struct sockaddr *)&at, &n) != 0 || !is_loopback(&at, n, port))
        return err_set(err, E_SYNTAX, "the socket from inside is connected elsewhere");
    return 0;
}

/* --- door --- */

static void on_door_stream(struct listener *l, struct stream *s, void *data)
{
    struct link *k = data;
    (void)l; /* the link has one */
    if (k->is_closing)
        stream_reset(s);
    else
        k->events->on_door(k, s, k->data);
}

static void on_door_answer(int code, const struct err *err, void *data)
{
    (void)data; /* the door itself is set where its descriptor arrives */
    if (code != 0 && code != E_CANCELLED)
        log_warn("sandbox.no_door", LF_STR("reason", err->msg));
}

static int door_take(struct link *k, int fd, struct err *err)
{
    int code = link_socket_check(fd, true, INIT_DOOR_PORT, err);
    if (code != 0 || k->door != NULL) {
        close(fd);
        return code;
    }
    code = listener_from_fd(k->loop, fd, on_door_stream, k, &k->door, err);
    if (code == 0)
        k->n_handles++;
    return code;
}

static void door_ask(struct link *k)
{
    if (k->door != NULL)
        return;
    request_new(k, INIT_DOOR, DOOR_RETRY_MS, NULL)->done = on_door_answer;
}

/* --- the channel --- */

static void channel_drop(struct link *k)
{
    struct request *r;
    bool was_up = k->is_up;
    if (k->channel == NULL)
        return;
    fdpass_close(k->channel);
    k->channel = NULL;
    k->is_up = false;
    DL_FOREACH (k->requests, r)
        r->is_sent = false;
    if (was_up && !k->is_closing)
        k->events->on_down(k, k->data);
}

static int error_of(const struct request *r, uint32_t e, struct err *err)
{
    const char *text = strerror((int)e);
    if (r->type == INIT_CONNECT && e == ECONNREFUSED)
        return err_set(err, E_UNAVAILABLE, "nothing listens on port %u in the sandbox", r->port);
    if (r->type == INIT_CONNECT && e == ETIMEDOUT)
        return err_set(err, E_TIMEOUT, "connecting to port %u in the sandbox timed out", r->port);
    if (e == EAGAIN || e == ESHUTDOWN)
        return err_set(err, E_UNAVAILABLE, "the sandbox's init is busy: %s", text);
    if (r->type == INIT_START && (e == ENOENT || e == EACCES || e == ENOEXEC || e == E2BIG || e == EINVAL))
        return err_set(err, E_INVALID, "the server cannot be started: %s", text);
    return err_set(err, err_from_errno((int)e), "the sandbox's init: %s", text);
}

/* An answer to a connect or door that succeeded. */
static void on_socket(struct link *k, struct request *r, int fd)
{
    struct err err = {0};
    struct stream *s = NULL;
    int code;
    if (r->type == INIT_DOOR) {
        code = door_take(k, fd, &err);
    } else {
        code = link_socket_check(fd, false, r->port, &err);
        if (code != 0)
            close(fd);
        else
            code = stream_from_fd(k->loop, fd, &s, &err);
    }
    request_end(r, code, s, code != 0 ? &err : NULL);
}

/* 0, or E_SYNTAX: the channel ends. Owns fd. */
static int on_done(struct link *k, struct slice p, int fd)
{
    if (p.n != 8) {
        if (fd >= 0)
            close(fd);
        return E_SYNTAX;
    }
    uint32_t number = get_u32(p.p), e = get_u32(p.p + 4);
    struct request *r;
    DL_FOREACH (k->requests, r)
        if (r->number == number && r->is_sent)
            break;
    bool wants_fd = e == 0 && r != NULL && (r->type == INIT_CONNECT || r->type == INIT_DOOR);
    if (r == NULL || r->early != 0) { /* timed out or cancelled meanwhile */
        if (fd >= 0)
            close(fd);
        return 0;
    }
    if (wants_fd != (fd >= 0)) {
        if (fd >= 0)
            close(fd);
        return E_SYNTAX;
    }
    if (wants_fd) {
        on_socket(k, r, fd);
        return 0;
    }
    struct err err = {0};
    int code = e == 0 ? 0 : error_of(r, e, &err);
    request_end(r, code, NULL, code != 0 ? &err : NULL);
    return 0;
}

/* Keeps what init says of its server: "u8 state, u32 pid, u32 starts, u32 status, u32 length, tail". */
static int state_take(struct link *k, struct slice p)
{
    if (p.n < HELLO_BYTES_MIN - 1)
        return E_SYNTAX;
    uint32_t n = get_u32(p.p + 13);
    if ((unsigned char)p.p[0] > INIT_SERVER_STOPPING || n > INIT_TAIL_MAX || p.n != 17 + (size_t)n)
        return E_SYNTAX;
    memcpy(k->tail, p.p + 17, n);
    k->state = (struct link_state){.server = (enum init_server_state)p.p[0],
                                   .starts = get_u32(p.p + 5),
                                   .wait_status = get_u32(p.p + 9),
                                   .tail = slice_of(k->tail, n)};
    return 0;
}

static int on_hello(struct link *k, struct slice p)
{
    if (k->is_up || p.n < HELLO_BYTES_MIN || p.p[0] != INIT_PROTOCOL_VERSION)
        return E_SYNTAX;
    if (state_take(k, slice_from(p, 1)) != 0)
        return E_SYNTAX;
    k->is_up = true;
    door_ask(k);
    requests_send(k);
    k->events->on_up(k, k->data);
    return 0;
}

static void on_frame(struct fdpass *channel, uint8_t type, struct slice p, int fd, void *data)
{
    struct link *k = data;
    int code = E_SYNTAX;
    if (type == INIT_DONE && k->is_up) {
        code = on_done(k, p, fd);
    } else if (fd >= 0) {
        close(fd);
    } else if (type == INIT_HELLO) {
        code = on_hello(k, p);
    } else if (type == INIT_STATE && k->is_up && p.n >= 4) {
        code = state_take(k, slice_from(p, 4));
        if (code == 0)
            k->events->on_state(k, &k->state, k->data);
    }
    if (k->is_closing || k->channel != channel)
        return;
    if (code != 0) {
        log_warn("sandbox.init_protocol", LF_INT("type", type));
        channel_drop(k);
        return;
    }
    requests_send(k);
}

static void on_close(struct fdpass *channel, int code, void *data)
{
    struct link *k = data;
    (void)channel;
    (void)code; /* init connects again, whatever it was */
    channel_drop(k);
}

static const struct fdpass_events channel_events = {.on_frame = on_frame, .on_close = on_close};

static void on_accept(struct fdpass *p, const struct fdpass_peer *peer, void *data)
{
    struct link *k = data;
    if (k->is_closing || !k->events->is_init(peer, k->data)) {
        if (!k->is_closing)
            log_debug("sandbox.control_refused", LF_INT("pid", peer->pid));
        fdpass_close(p);
        return;
    }
    channel_drop(k);     /* init knows best that the old one is gone */
    if (k->is_closing) { /* on_down did that */
        fdpass_close(p);
        return;
    }
    k->channel = p;
    fdpass_own(p, &channel_events, k);
}

/* --- the owner's calls --- */

int link_new(struct loop *l, const char *socket_path, const struct link_events *events, void *data,
             struct link **ret, struct err *err)
{
    struct link *k = MEM_NEW(struct link);
    /* Who may connect is decided by who it is, and outside of the sandbox the folder is closed to others. */
    int code = fdpass_listen(l, socket_path, 0666, on_accept, k, &k->listener, err);
    if (code != 0) {
        mem_free(k);
        return code;
    }
    k->loop = l;
    k->events = events;
    k->data = data;
    timer_init(&k->closer, l, NULL, k);
    k->n_handles = 1;
    *ret = k;
    return 0;
}

static void on_handle_closed(void *data)
{
    struct link *k = data;
    k->n_handles--;
    link_maybe_free(k);
}

void link_close(struct link *k)
{
    struct request *r;
    if (k == NULL || k->is_closing)
        return;
    k->is_closing = true;
    fdpass_listener_close(k->listener);
    channel_drop(k);
    DL_FOREACH (k->requests, r) {
        r->early = E_CANCELLED;
        timer_start(&r->deadline, 0);
    }
    if (k->door != NULL)
        listener_close(k->door, on_handle_closed, k);
    timer_close(&k->closer, on_handle_closed);
}

bool link_is_up(const struct link *k)
{
    return k->is_up;
}

const struct link_state *link_state_last(const struct link *k)
{
    return &k->state;
}

static void put_string(struct buf *b, struct slice name, struct slice value)
{
    size_t n = name.n + (value.p != NULL ? 1 + value.n : 0);
    (void)put_u32(b, (uint32_t)n); /* what does not fit shows as is_full */
    (void)buf_slice(b, name);
    if (value.p == NULL)
        return;
    (void)buf_byte(b, '=');
    (void)buf_slice(b, value);
}

void link_start(struct link *k, const struct slice *argv, size_t n_argv, const struct sandbox_env *env,
                size_t n_env, int64_t timeout_ms, link_done_cb done, void *data)
{
    struct request *r = request_new(k, INIT_START, timeout_ms, data);
    r->done = done;
    size_t room = 16;
    for (size_t i = 0; i < n_argv; i++)
        room += 4 + argv[i].n;
    for (size_t i = 0; i < n_env; i++)
        room += 5 + env[i].name.n + env[i].value.n;
    (void)buf_reserve(&r->payload, room); /* at once: no copy of a credential stays behind in freed memory */
    (void)put_u32(&r->payload, (uint32_t)n_argv);
    (void)put_u32(&r->payload, (uint32_t)n_env);
    for (size_t i = 0; i < n_argv; i++)
        put_string(&r->payload, argv[i], SLICE_NULL);
    for (size_t i = 0; i < n_env; i++)
        put_string(&r->payload, env[i].name, env[i].value.p != NULL ? env[i].value : SLICE_EMPTY);
    if (r->payload.is_full || n_argv > INIT_STRINGS_MAX || n_env > INIT_STRINGS_MAX) {
        r->early = E_TOO_LARGE;
        timer_start(&r->deadline, 0);
        return;
    }
    requests_send(k);
}

void link_restart(struct link *k, int64_t timeout_ms, link_done_cb done, void *data)
{
    request_new(k, INIT_RESTART, timeout_ms, data)->done = done;
    requests_send(k);
}

void link_stop(struct link *k, int64_t grace_ms, int64_t timeout_ms, link_done_cb done, void *data)
{
    struct request *r = request_new(k, INIT_STOP, timeout_ms, data);
    r->done = done;
    must(put_u32(&r->payload, grace_ms < 0            ? 0
                              : grace_ms > UINT32_MAX ? UINT32_MAX
                                                      : (uint32_t)grace_ms) == 0);
    requests_send(k);
}

void *link_connect(struct link *k, uint16_t port, int64_t timeout_ms, connect_done_cb done, void *data)
{
    struct request *r = request_new(k, INIT_CONNECT, timeout_ms, data);
    unsigned char bytes[2] = {(unsigned char)port, (unsigned char)(port >> 8)};
    r->connect_done = done;
    r->port = port;
    must(buf_append(&r->payload, bytes, sizeof(bytes)) == 0);
    must(put_u32(&r->payload,
                 timeout_ms < 0 || timeout_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)timeout_ms) == 0);
    requests_send(k);
    return r;
}

void link_connect_cancel(void *handle)
{
    struct request *r = handle;
    if (r->early != 0)
        return;
    r->early = E_CANCELLED;
    timer_start(&r->deadline, 0);
}
