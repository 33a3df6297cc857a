/* fdpass: raw sendmsg/recvmsg over uv_poll, because "exactly one descriptor, with this frame" can be checked
 * there.
 *
 * Happy path: bytes are collected until a frame is whole, then handed over. The kernel ends a read behind the
 * bytes that a descriptor came with, and a sender puts each frame into one sendmsg, so a descriptor belongs
 * to the last frame that begins in the read it arrived with. Failure paths: all of them end the channel once,
 * by on_close: the peer is gone (E_EOF), it broke the framing or the rules about descriptors (E_SYNTAX), the
 * socket failed (E_IO). Descriptors that nobody took are closed. */
#include "base/net/fdpass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/mem.h"

#define READ_STEP    16384
#define READS_A_TURN 16
#define QUEUE_MAX    (4u << 20)
#define FDS_SEEN_MAX 8 /* room to notice that there were too many */
/* Whoever can connect can do so in a loop: more than this in a second wait for the next one. */
#define ACCEPTS_A_SECOND 64
#define BACKLOG          16

struct fdpass {
    uv_poll_t poll;
    struct loop *loop;
    int sock;
    const struct fdpass_events *events;
    void *data;
    struct buf in;
    struct buf out;
    uint64_t in_taken; /* bytes of the stream before in.p[0] */
    int fd;            /* arrived, not yet handed over; -1: none */
    uint64_t fd_frame; /* position in the stream where its frame begins */
    int events_now;    /* what the poll waits for */
    bool is_closing;
    bool has_ended; /* on_close was called */
};

struct fdpass_listener {
    uv_poll_t poll;
    struct timer pause;
    struct loop *loop;
    int sock;
    char *path;
    dev_t dev;
    ino_t ino;
    fdpass_accept_cb on_accept;
    void *data;
    int64_t second_began_ms;
    unsigned n_second;
    unsigned n_handles;
    bool is_closing;
};

static void on_poll(uv_poll_t *poll, int status, int events);

static uint32_t get_u32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void poll_want(struct fdpass *p)
{
    if (p->is_closing || p->has_ended)
        return;
    int want = (p->events != NULL ? UV_READABLE : 0) | (p->out.n > 0 ? UV_WRITABLE : 0);
    if (want == p->events_now)
        return;
    p->events_now = want;
    if (want == 0)
        uv_poll_stop(&p->poll);
    else
        must(uv_poll_start(&p->poll, want, on_poll) == 0);
}

static void channel_end(struct fdpass *p, int code)
{
    if (p->has_ended || p->is_closing)
        return;
    p->has_ended = true;
    uv_poll_stop(&p->poll);
    if (p->fd >= 0) {
        close(p->fd);
        p->fd = -1;
    }
    if (p->events != NULL)
        p->events->on_close(p, code, p->data);
}

static void on_closed(uv_handle_t *h)
{
    struct fdpass *p = h->data;
    close(p->sock);
    buf_wipe(&p->in);
    buf_wipe(&p->out);
    mem_free(p);
}

void fdpass_close(struct fdpass *p)
{
    if (p == NULL || p->is_closing)
        return;
    p->is_closing = true;
    if (p->fd >= 0) {
        close(p->fd);
        p->fd = -1;
    }
    uv_close((uv_handle_t *)&p->poll, on_closed);
}

/* --- writing --- */

static void out_flush(struct fdpass *p)
{
    while (p->out.n > 0) {
        ssize_t n = send(p->sock, p->out.p, p->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break; /* EAGAIN: later; a broken socket shows when it is read */
        buf_consume(&p->out, (size_t)n);
    }
    if (p->out.n == 0)
        buf_wipe(&p->out); /* credentials go this way */
    poll_want(p);
}

int fdpass_send(struct fdpass *p, uint8_t type, struct slice payload)
{
    must(payload.n < FDPASS_FRAME_MAX);
    if (p->is_closing || p->has_ended)
        return 0; /* on_close says it */
    uint32_t n = (uint32_t)payload.n + 1;
    unsigned char head[5] = {(unsigned char)n, (unsigned char)(n >> 8), (unsigned char)(n >> 16),
                             (unsigned char)(n >> 24), type};
    if (p->out.n + sizeof(head) + payload.n > QUEUE_MAX)
        return E_AGAIN;
    must(buf_append(&p->out, head, sizeof(head)) == 0 && buf_slice(&p->out, payload) == 0);
    out_flush(p);
    return 0;
}

/* --- reading --- */

/* Takes the descriptors of one read: 0 or 1, else an error; *ret is -1 when there is none. */
static int fds_take(struct msghdr *m, int *ret)
{
    int fds[FDS_SEEN_MAX];
    size_t n = 0;
    *ret = -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h != NULL; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < k; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
            if (n < FDS_SEEN_MAX)
                fds[n++] = fd;
            else
                close(fd);
        }
    }
    if (n == 1 && !(m->msg_flags & MSG_CTRUNC)) {
        *ret = fds[0];
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
    return n == 0 && !(m->msg_flags & MSG_CTRUNC) ? 0 : E_SYNTAX;
}

/* Where the last frame begins that begins in in.p[from..n): 0 and *ret, or E_SYNTAX when none does. */
static int frame_last(const struct fdpass *p, size_t from, size_t *ret)
{
    int code = E_SYNTAX;
    for (size_t at = 0; at < p->in.n;) {
        if (at >= from) {
            *ret = at;
            code = 0;
        }
        if (p->in.n - at < 4)
            break;
        at += 4 + (size_t)get_u32(p->in.p + at);
    }
    return code;
}

/* Hands over the whole frames; 0 or E_SYNTAX. Stops when the owner closes. */
static int frames_give(struct fdpass *p)
{
    size_t at = 0;
    int code = 0;
    while (p->in.n - at >= 4) {
        uint32_t n = get_u32(p->in.p + at);
        if (n == 0 || n > FDPASS_FRAME_MAX) {
            code = E_SYNTAX;
            break;
        }
        if (p->in.n - at - 4 < n)
            break;
        int fd = -1;
        if (p->fd >= 0 && p->fd_frame == p->in_taken + at) {
            fd = p->fd;
            p->fd = -1;
        }
        p->events->on_frame(p, (uint8_t)p->in.p[at + 4], slice_of(p->in.p + at + 5, n - 1), fd, p->data);
        at += 4 + (size_t)n;
        if (p->is_closing)
            return 0;
    }
    p->in_taken += at;
    buf_consume(&p->in, at);
    return code;
}

static int read_once(struct fdpass *p)
{
    char room[CMSG_SPACE(sizeof(int) * FDS_SEEN_MAX)] __attribute__((aligned(8)));
    if (buf_reserve(&p->in, READ_STEP) != 0)
        return E_SYNTAX; /* a frame over the maximum is refused earlier: this cannot be */
    struct iovec v = {.iov_base = p->in.p + p->in.n, .iov_len = READ_STEP};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    ssize_t n = recvmsg(p->sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? E_AGAIN : E_IO;
    int fd, code = fds_take(&m, &fd);
    if (code == 0 && n == 0)
        code = E_EOF;
    size_t from = p->in.n, at = 0;
    p->in.n += (size_t)n;
    if (code == 0 && fd >= 0)
        code = p->fd >= 0 ? E_SYNTAX : frame_last(p, from, &at);
    if (code != 0) {
        if (fd >= 0)
            close(fd);
        return code;
    }
    if (fd >= 0) {
        p->fd = fd;
        p->fd_frame = p->in_taken + at;
    }
    return frames_give(p);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct fdpass *p = poll->data;
    if (status < 0) {
        channel_end(p, E_IO);
        return;
    }
    if (events & UV_WRITABLE)
        out_flush(p);
    if (!(events & UV_READABLE) || p->events == NULL)
        return;
    for (int turn = 0; turn < READS_A_TURN && !p->is_closing && !p->has_ended; turn++) {
        int code = read_once(p);
        if (p->is_closing || code == E_AGAIN)
            return;
        if (code != 0)
            channel_end(p, code);
    }
}

void fdpass_own(struct fdpass *p, const struct fdpass_events *events, void *data)
{
    p->events = events;
    p->data = data;
    poll_want(p);
}

/* --- listening --- */

static struct fdpass *channel_new(struct loop *l, int sock)
{
    struct fdpass *p = MEM_NEW(struct fdpass);
    p->loop = l;
    p->sock = sock;
    p->fd = -1;
    buf_init(&p->in, FDPASS_FRAME_MAX + 4 + 2 * READ_STEP);
    buf_init(&p->out, QUEUE_MAX);
    must(uv_poll_init(&l->uv, &p->poll, sock) == 0);
    p->poll.data = p;
    return p;
}

static void accept_one(struct fdpass_listener *l, int sock)
{
    struct ucred who;
    socklen_t n = sizeof(who);
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &n) != 0 || n != sizeof(who) || who.pid <= 0) {
        close(sock);
        return;
    }
    struct fdpass_peer peer = {.pid = who.pid, .uid = who.uid, .gid = who.gid};
    l->on_accept(channel_new(l->loop, sock), &peer, l->data);
}

static void on_listener_poll(uv_poll_t *poll, int status, int events)
{
    struct fdpass_listener *l = poll->data;
    (void)events;     /* only readable is asked for */
    if (status < 0) { /* libuv has stopped it: not for good */
        timer_start(&l->pause, 1000);
        return;
    }
    for (;;) {
        int64_t now = clock_mono_ms(l->loop->clock);
        if (now - l->second_began_ms >= 1000 || now < l->second_began_ms) {
            l->second_began_ms = now;
            l->n_second = 0;
        }
        if (l->n_second >= ACCEPTS_A_SECOND) {
            uv_poll_stop(&l->poll);
            timer_start(&l->pause, l->second_began_ms + 1000 - now);
            return;
        }
        int sock = accept4(l->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (sock < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            l->n_second = ACCEPTS_A_SECOND; /* out of descriptors: not in a busy loop */
            continue;
        }
        if (sock < 0)
            return;
        l->n_second++;
        accept_one(l, sock);
        if (l->is_closing)
            return;
    }
}

static void on_pause_over(void *data)
{
    struct fdpass_listener *l = data;
    must(uv_poll_start(&l->poll, UV_READABLE, on_listener_poll) == 0);
}

/* sun_path holds 108 bytes, folders may be deeper: the name is bound through a descriptor of its folder. */
static int bind_at(int sock, int folder, const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int n = snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof(at.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (unlinkat(folder, name, 0) != 0 && errno != ENOENT)
        return -1;
    return bind(sock, (struct sockaddr *)&at, sizeof(at));
}

static int socket_make(const char *path, unsigned mode, int *ret_sock, struct stat *ret_st)
{
    const char *slash = strrchr(path, '/');
    AUTO_FREE char *folder_path = mem_strndup(path, slash == NULL ? 0 : (size_t)(slash - path) + 1);
    const char *name = slash == NULL ? path : slash + 1;
    int folder = open(slash == NULL ? "." : folder_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return -1;
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0 || bind_at(sock, folder, name) != 0 || fchmodat(folder, name, (mode_t)mode, 0) != 0 ||
        fstatat(folder, name, ret_st, AT_SYMLINK_NOFOLLOW) != 0 || listen(sock, BACKLOG) != 0) {
        int e = errno;
        if (sock >= 0)
            close(sock);
        close(folder);
        errno = e;
        return -1;
    }
    close(folder);
    *ret_sock = sock;
    return 0;
}

int fdpass_listen(struct loop *loop, const char *path, unsigned mode, fdpass_accept_cb on_accept, void *data,
                  struct fdpass_listener **ret, struct err *err)
{
    struct stat st;
    int sock;
    if (socket_make(path, mode, &sock, &st) != 0)
        return err_set(err, err_from_errno(errno), "control socket %s: %s", path, strerror(errno));
    struct fdpass_listener *l = MEM_NEW(struct fdpass_listener);
    l->loop = loop;
    l->sock = sock;
    l->path = mem_strdup(path);
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    l->on_accept = on_accept;
    l->data = data;
    must(uv_poll_init(&loop->uv, &l->poll, sock) == 0);
    l->poll.data = l;
    timer_init(&l->pause, loop, on_pause_over, l);
    l->n_handles = 2;
    must(uv_poll_start(&l->poll, UV_READABLE, on_listener_poll) == 0);
    *ret = l;
    return 0;
}

static void listener_maybe_free(struct fdpass_listener *l)
{
    if (--l->n_handles > 0)
        return;
    close(l->sock);
    mem_free(l->path);
    mem_free(l);
}

static void on_listener_closed(uv_handle_t *h)
{
    listener_maybe_free(h->data);
}

static void on_pause_closed(void *data)
{
    listener_maybe_free(data);
}

void fdpass_listener_close(struct fdpass_listener *l)
{
    if (l == NULL || l->is_closing)
        return;
    l->is_closing = true;
    struct stat st;
    if (lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino) /* not a successor's */
        (void)unlink(l->path);                                                  /* gone already is as good */
    uv_close((uv_handle_t *)&l->poll, on_listener_closed);
    timer_close(&l->pause, on_pause_closed);
}
