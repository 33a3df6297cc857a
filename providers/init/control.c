/* control: the connection from reeve-init to Reeve, and what Reeve asks for over it.
 *
 * Happy path: connect to the socket in the read-only folder, say hello, answer requests one by one; a
 * connected socket is sent and our copy closed at once, the door's copy stays here for ever. Failure paths:
 * whenever the connection is gone (Reeve restarts, refuses, breaks off) connects under way are dropped and
 * connecting is tried again, 5 ms to 1 s apart; the server inside does not notice. A frame that breaks the
 * protocol ends the connection. What cannot be queued (Reeve stopped reading) ends it too. */
#include "providers/init/init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_FIRST_MS 5
#define RETRY_MAX_MS   1000
#define OUT_MAX        256
#define OUT_BYTES      (32 + INIT_TAIL_MAX)
#define CONNECT_MAX_MS 60000

struct out_frame {
    struct out_frame *next;
    int fd; /* closed once sent, unless it is the door; -1: none */
    size_t n, sent;
    unsigned char bytes[OUT_BYTES];
};

struct attempt {
    int fd; /* -1: free */
    uint32_t request;
    uint16_t port;
    int64_t until_ms;
};

struct control {
    const char *path;
    int door_fd;
    struct server *server;
    int fd; /* -1: not connected */
    int64_t retry_at_ms;
    int64_t retry_pause_ms;
    unsigned char *in; /* grows to a frame's size */
    size_t in_bytes, in_cap;
    struct out_frame *out_first, *out_last;
    size_t n_out;
    struct attempt attempts[INIT_CONNECTS_MAX];
};

static uint32_t get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_u32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

struct control *control_new(const char *path, int door_fd, struct server *server)
{
    struct control *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->path = path;
    c->door_fd = door_fd;
    c->server = server;
    c->fd = -1;
    c->retry_pause_ms = RETRY_FIRST_MS;
    for (size_t i = 0; i < INIT_CONNECTS_MAX; i++)
        c->attempts[i].fd = -1;
    return c;
}

static void out_drop_first(struct control *c)
{
    struct out_frame *o = c->out_first;
    c->out_first = o->next;
    if (c->out_first == NULL)
        c->out_last = NULL;
    c->n_out--;
    if (o->fd >= 0 && o->fd != c->door_fd)
        close(o->fd);
    free(o);
}

static void disconnect(struct control *c)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    if (c->in != NULL)
        explicit_bzero(c->in, c->in_cap);
    free(c->in);
    c->in = NULL;
    c->in_bytes = c->in_cap = 0;
    while (c->out_first != NULL)
        out_drop_first(c);
    for (size_t i = 0; i < INIT_CONNECTS_MAX; i++) {
        if (c->attempts[i].fd >= 0)
            close(c->attempts[i].fd);
        c->attempts[i].fd = -1;
    }
    c->retry_at_ms = now_ms() + c->retry_pause_ms;
    c->retry_pause_ms = c->retry_pause_ms * 2 < RETRY_MAX_MS ? c->retry_pause_ms * 2 : RETRY_MAX_MS;
}

/* 0: sent whole; 1: later; -1: disconnected. */
static int out_send(struct control *c, struct out_frame *o)
{
    char room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    struct iovec v = {.iov_base = o->bytes + o->sent, .iov_len = o->n - o->sent};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (o->fd >= 0 && o->sent == 0) {
        memset(room, 0, sizeof(room));
        m.msg_control = room;
        m.msg_controllen = sizeof(room);
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &o->fd, sizeof(int));
    }
    ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 1;
    if (n < 0) {
        disconnect(c);
        return -1;
    }
    o->sent += (size_t)n;
    return o->sent == o->n ? 0 : 1;
}

static void out_flush(struct control *c)
{
    while (c->fd >= 0 && c->out_first != NULL) {
        if (out_send(c, c->out_first) != 0)
            return;
        out_drop_first(c);
    }
}

/* Takes `fd` over (unless it is the door or -1). */
static void out_frame(struct control *c, uint8_t type, const void *payload, size_t n, int fd)
{
    struct out_frame *o = c->n_out < OUT_MAX && n + 5 <= OUT_BYTES ? calloc(1, sizeof(*o)) : NULL;
    if (o == NULL) {
        if (fd >= 0 && fd != c->door_fd)
            close(fd);
        disconnect(c); /* Reeve will ask again */
        return;
    }
    put_u32(o->bytes, (uint32_t)n + 1);
    o->bytes[4] = type;
    memcpy(o->bytes + 5, payload, n);
    o->n = n + 5;
    o->fd = fd;
    if (c->out_last != NULL)
        c->out_last->next = o;
    else
        c->out_first = o;
    c->out_last = o;
    c->n_out++;
    out_flush(c);
}

static void answer(struct control *c, uint32_t request, int error, int fd)
{
    unsigned char payload[8];
    put_u32(payload, request);
    put_u32(payload + 4, (uint32_t)error);
    out_frame(c, INIT_DONE, payload, sizeof(payload), fd);
}

static size_t state_write(const struct server *s, unsigned char *p)
{
    *p = (unsigned char)s->state;
    put_u32(p + 1, (uint32_t)s->pid);
    put_u32(p + 5, s->starts);
    put_u32(p + 9, s->last_status);
    put_u32(p + 13, (uint32_t)s->tail_bytes);
    memcpy(p + 17, s->tail, s->tail_bytes);
    return 17 + s->tail_bytes;
}

static void state_send(struct control *c, uint32_t request)
{
    unsigned char payload[OUT_BYTES];
    put_u32(payload, request);
    out_frame(c, INIT_STATE, payload, 4 + state_write(c->server, payload + 4), -1);
}

void control_report(struct control *c)
{
    if (c->fd >= 0)
        state_send(c, 0);
}

/* The sandbox's folder was deleted on the host (not by Reeve, which ends the sandbox first): no controller
 * can ever find this sandbox again. As the first process we take everything with us. */
static bool folder_is_removed(void)
{
    struct stat st;
    return stat(INIT_SOCKET_FOLDER, &st) == 0 && st.st_nlink == 0;
}

static void try_connect(struct control *c)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(c->path) >= sizeof(to.sun_path))
        return;
    memcpy(to.sun_path, c->path, strlen(c->path) + 1);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        if (errno == ENOENT && folder_is_removed())
            _exit(0);
        if (c->fd >= 0)
            disconnect(c);
        else
            c->retry_at_ms = now_ms() + RETRY_MAX_MS;
        return;
    }
    unsigned char hello[OUT_BYTES];
    hello[0] = INIT_PROTOCOL_VERSION;
    out_frame(c, INIT_HELLO, hello, 1 + state_write(c->server, hello + 1), -1);
}

/* --- connect --- */

static void attempt_end(struct control *c, struct attempt *a, int error)
{
    int fd = a->fd;
    a->fd = -1;
    struct sockaddr_in me, peer;
    socklen_t n = sizeof(me), m = sizeof(peer);
    if (error == 0 && (getsockname(fd, (struct sockaddr *)&me, &n) != 0 ||
                       getpeername(fd, (struct sockaddr *)&peer, &m) != 0))
        error = errno;
    if (error == 0 && me.sin_port == peer.sin_port) /* nobody listens, and TCP met itself */
        error = ECONNREFUSED;
    if (error != 0) {
        close(fd);
        fd = -1;
    }
    answer(c, a->request, error, fd);
}

static void on_connect(struct control *c, uint32_t request, uint16_t port, uint32_t timeout_ms)
{
    struct attempt *a = NULL;
    for (size_t i = 0; i < INIT_CONNECTS_MAX && a == NULL; i++)
        if (c->attempts[i].fd < 0)
            a = &c->attempts[i];
    if (a == NULL) {
        answer(c, request, EAGAIN, -1);
        return;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (fd < 0) {
        answer(c, request, errno, -1);
        return;
    }
    *a = (struct attempt){.fd = fd, .request = request, .port = port};
    a->until_ms = now_ms() + (timeout_ms < CONNECT_MAX_MS ? timeout_ms : CONNECT_MAX_MS);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
        attempt_end(c, a, 0);
    else if (errno != EINPROGRESS)
        attempt_end(c, a, errno);
}

/* --- requests --- */

/* Cuts the strings of INIT_START into argv and envp; 0 or an errno. */
static int strings_cut(const unsigned char *p, size_t n, uint32_t n_argv, uint32_t n_env, char ***argv,
                       char ***envp, char **strings)
{
    char *text = malloc(n + 1), **a = calloc(n_argv + 1u, sizeof(char *)),
         **e = calloc(n_env + 1u, sizeof(char *));
    char *to = text;
    int error = text == NULL || a == NULL || e == NULL ? ENOMEM : 0;
    for (uint32_t i = 0; error == 0 && i < n_argv + n_env; i++) {
        uint32_t len = n >= 4 ? get_u32(p) : 0;
        if (n < 4 || len > n - 4 || memchr(p + 4, 0, len) != NULL) {
            error = EINVAL;
            break;
        }
        memcpy(to, p + 4, len); /* the NUL takes room of the length word before it */
        to[len] = '\0';
        *(i < n_argv ? &a[i] : &e[i - n_argv]) = to;
        to += len + 1;
        p += 4 + len;
        n -= 4 + len;
    }
    if (error == 0 && n != 0)
        error = EINVAL;
    if (error != 0) {
        free(text);
        free(a);
        free(e);
        return error;
    }
    *argv = a;
    *envp = e;
    *strings = text;
    return 0;
}

static void on_start(struct control *c, uint32_t request, const unsigned char *p, size_t n)
{
    uint32_t n_argv = n >= 8 ? get_u32(p) : 0, n_env = n >= 8 ? get_u32(p + 4) : 0;
    if (n_argv == 0 || n_argv > INIT_STRINGS_MAX || n_env > INIT_STRINGS_MAX) {
        answer(c, request, EINVAL, -1);
        return;
    }
    char **argv, **envp, *strings;
    int e = strings_cut(p + 8, n - 8, n_argv, n_env, &argv, &envp, &strings);
    if (e == 0)
        e = server_start(c->server, argv, envp, strings, n - 8);
    answer(c, request, e, -1);
}

/* One whole frame; false when it breaks the protocol. */
static bool on_frame(struct control *c, uint8_t type, const unsigned char *p, size_t n)
{
    if (n < 4)
        return false;
    uint32_t request = get_u32(p);
    c->retry_pause_ms = RETRY_FIRST_MS; /* Reeve took us */
    switch (type) {
    case INIT_START:
        on_start(c, request, p + 4, n - 4);
        return true;
    case INIT_CONNECT:
        if (n != 10)
            return false;
        on_connect(c, request, (uint16_t)(p[4] | p[5] << 8), get_u32(p + 6));
        return true;
    case INIT_DOOR:
        answer(c, request, c->door_fd >= 0 ? 0 : ENOTSUP, c->door_fd);
        return true;
    case INIT_STATUS:
        state_send(c, request);
        return true;
    case INIT_RESTART:
        server_restart(c->server);
        answer(c, request, 0, -1);
        return true;
    case INIT_STOP:
        if (n != 8)
            return false;
        answer(c, request, 0, -1);
        server_stop(c->server, get_u32(p + 4) < 60000 ? (int64_t)get_u32(p + 4) : 60000);
        return true;
    default:
        return false;
    }
}

/* Makes room for the frame whose first bytes are there; false: no memory or too large. */
static bool in_grow(struct control *c)
{
    size_t want = 4096;
    if (c->in_bytes >= 4) {
        uint32_t len = get_u32(c->in);
        if (len == 0 || len > INIT_FRAME_MAX)
            return false;
        if (len + 4u > want)
            want = len + 4u;
    }
    if (want <= c->in_cap)
        return true;
    unsigned char *p = calloc(1, want);
    if (p == NULL)
        return false;
    if (c->in != NULL) {
        memcpy(p, c->in, c->in_bytes);
        explicit_bzero(c->in, c->in_cap);
        free(c->in);
    }
    c->in = p;
    c->in_cap = want;
    return true;
}

static void on_readable(struct control *c)
{
    for (int turn = 0; turn < 64 && c->fd >= 0; turn++) {
        if (!in_grow(c)) {
            disconnect(c);
            return;
        }
        ssize_t n = recv(c->fd, c->in + c->in_bytes, c->in_cap - c->in_bytes, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            disconnect(c);
            return;
        }
        c->in_bytes += (size_t)n;
        while (c->fd >= 0 && c->in_bytes >= 5) {
            size_t len = get_u32(c->in);
            if (len == 0 || len > INIT_FRAME_MAX) {
                disconnect(c);
                return;
            }
            if (c->in_bytes < len + 4)
                break;
            if (!on_frame(c, c->in[4], c->in + 5, len - 1)) {
                disconnect(c);
                return;
            }
            if (c->fd < 0)
                return;
            explicit_bzero(c->in, len + 4);
            memmove(c->in, c->in + len + 4, c->in_bytes - len - 4);
            c->in_bytes -= len + 4;
        }
    }
}

/* --- the loop's view --- */

size_t control_polls(struct control *c, struct pollfd *polls)
{
    if (c->fd < 0)
        return 0;
    size_t n = 0;
    polls[n++] =
        (struct pollfd){.fd = c->fd, .events = (short)(POLLIN | (c->out_first != NULL ? POLLOUT : 0))};
    for (size_t i = 0; i < INIT_CONNECTS_MAX; i++)
        if (c->attempts[i].fd >= 0)
            polls[n++] = (struct pollfd){.fd = c->attempts[i].fd, .events = POLLOUT};
    return n;
}

void control_on_polls(struct control *c, const struct pollfd *polls, size_t n)
{
    for (size_t i = 1; i < n; i++) { /* before the connection: it may drop them all */
        if (polls[i].revents == 0)
            continue;
        for (size_t k = 0; k < INIT_CONNECTS_MAX; k++) {
            struct attempt *a = &c->attempts[k];
            if (a->fd != polls[i].fd)
                continue;
            int error = 0;
            socklen_t len = sizeof(error);
            if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
                error = errno;
            attempt_end(c, a, error);
            break;
        }
    }
    if (n == 0 || c->fd != polls[0].fd)
        return;
    if (polls[0].revents & POLLOUT)
        out_flush(c);
    if (c->fd >= 0 && (polls[0].revents & (POLLIN | POLLHUP | POLLERR)))
        on_readable(c);
}

void control_on_time(struct control *c)
{
    int64_t now = now_ms();
    if (c->fd < 0) {
        if (now >= c->retry_at_ms)
            try_connect(c);
        return;
    }
    for (size_t i = 0; i < INIT_CONNECTS_MAX && c->fd >= 0; i++)
        if (c->attempts[i].fd >= 0 && now >= c->attempts[i].until_ms)
            attempt_end(c, &c->attempts[i], ETIMEDOUT);
}

int64_t control_due(const struct control *c)
{
    if (c->fd < 0)
        return c->retry_at_ms;
    int64_t due = INT64_MAX;
    for (size_t i = 0; i < INIT_CONNECTS_MAX; i++)
        if (c->attempts[i].fd >= 0 && c->attempts[i].until_ms < due)
            due = c->attempts[i].until_ms;
    return due;
}
