/* listener: accepting connections.
 *
 * The listening descriptor is watched by uv_poll and accepted from in rounds of at most ACCEPT_ROUND, so that
 * a flood of connections does not starve those that are served. Failure: without descriptors or memory
 * accepting pauses (the clients wait in the kernel's queue) and one line is logged per bout; a descriptor
 * that cannot listen any more (the sandbox behind a door is gone) stops for good: listener_is_broken. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/log.h"
#include "base/core/mem.h"
#include "base/net/stream_uv.h"

enum { ACCEPT_ROUND = 64, ACCEPT_PAUSE_MS = 100, LISTEN_BACKLOG = 4096 };

struct listener {
    struct loop *loop;
    uv_poll_t poll;
    struct timer pause;
    int fd, handles;                               /* handles: not closed yet */
    bool is_unix, is_closing, is_broken, is_short; /* is_short: the present bout was logged */
    uint16_t port;
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; /* to remove; "" for TCP and adopted ones */
    listener_cb on_stream;
    void *data;
    void (*closed)(void *data);
    void *closed_data;
};

static void on_poll(uv_poll_t *handle, int status, int events);

static void accept_failed(struct listener *l, int errnum)
{
    (void)uv_poll_stop(&l->poll); /* always 0 */
    if (errnum == EMFILE || errnum == ENFILE || errnum == ENOBUFS || errnum == ENOMEM) {
        if (!l->is_short)
            log_warn("listener.short", LF_STR("error", strerror(errnum)),
                     LF_STR("action", "accepting pauses until descriptors are free"));
        l->is_short = true;
        timer_start(&l->pause, ACCEPT_PAUSE_MS);
        return;
    }
    l->is_broken = true;
    log_error("listener.broken", LF_STR("error", strerror(errnum)));
}

static bool accept_is_passing(int errnum)
{
    switch (errnum) { /* accept(2): errors of that one connection */
    case EINTR:
    case ECONNABORTED:
    case EPERM:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return true;
    default:
        return false;
    }
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct listener *l = handle->data;
    int i;

    (void)events;
    if (status < 0) {
        accept_failed(l, -status);
        return;
    }
    for (i = 0; i < ACCEPT_ROUND && !l->is_closing; i++) {
        struct sockaddr_storage from;
        socklen_t from_n = sizeof(from);
        int fd = accept4(l->fd, (struct sockaddr *)&from, &from_n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct stream_uv *s;

        if (fd < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                return;
            if (accept_is_passing(errno))
                continue;
            accept_failed(l, errno);
            return;
        }
        l->is_short = false;
        s = stream_uv_new(l->loop, l->is_unix);
        if (stream_uv_open(s, fd) != 0) {
            stream_close(&s->base);
            (void)close(fd); /* nothing can be done about its failure */
            continue;
        }
        if (!l->is_unix && from_n <= sizeof(s->peer))
            memcpy(&s->peer, &from, from_n);
        l->on_stream(l, &s->base, l->data);
    }
}

static void on_pause_end(void *data)
{
    struct listener *l = data;

    must(uv_poll_start(&l->poll, UV_READABLE, on_poll) == 0);
}

static int listener_start(struct loop *loop, int fd, bool is_unix, listener_cb on_stream, void *data,
                          struct listener **ret, struct err *err)
{
    struct listener *l;
    struct sockaddr_storage a;
    socklen_t n = sizeof(a);
    int rc;

    if (listen(fd, LISTEN_BACKLOG) != 0)
        return err_set(err, err_from_errno(errno), "listen: %s", strerror(errno));
    if (!is_unix)
        stream_uv_tune(fd);
    l = MEM_NEW(struct listener);
    rc = uv_poll_init(&loop->uv, &l->poll, fd);
    if (rc != 0) {
        mem_free(l);
        return err_set(err, err_from_uv(rc), "listen: %s", uv_strerror(rc));
    }
    l->loop = loop;
    l->fd = fd;
    l->is_unix = is_unix;
    l->on_stream = on_stream;
    l->data = data;
    l->handles = 2;
    l->poll.data = l;
    timer_init(&l->pause, loop, on_pause_end, l);
    memset(&a, 0, sizeof(a));
    if (getsockname(fd, (struct sockaddr *)&a, &n) == 0) {
        if (a.ss_family == AF_INET)
            l->port = ntohs(((struct sockaddr_in *)&a)->sin_port);
        else if (a.ss_family == AF_INET6)
            l->port = ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    }
    must(uv_poll_start(&l->poll, UV_READABLE, on_poll) == 0);
    *ret = l;
    return 0;
}

/* A name that nobody listens on any more (a crash left it) is removed; a live one is not taken away. */
static int unix_name_free(const struct sockaddr_un *a, struct err *err)
{
    struct stat st;
    int fd, rc;

    if (lstat(a->sun_path, &st) != 0)
        return errno == ENOENT ? 0
                               : err_set(err, err_from_errno(errno), "%s: %s", a->sun_path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, E_EXISTS, "%s exists and is not a socket", a->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, err_from_errno(errno), "socket: %s", strerror(errno));
    rc = connect(fd, (const struct sockaddr *)a, sizeof(*a));
    rc = rc != 0 && errno == ECONNREFUSED ? 0 : E_EXISTS;
    (void)close(fd); /* nothing was written */
    if (rc != 0)
        return err_set(err, rc, "%s: another process listens there", a->sun_path);
    if (unlink(a->sun_path) != 0 && errno != ENOENT)
        return err_set(err, err_from_errno(errno), "%s: %s", a->sun_path, strerror(errno));
    return 0;
}

static int listener_open_unix(struct loop *loop, const struct endpoint *at, listener_cb on_stream, void *data,
                              struct listener **ret, struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd, rc;

    if (strlen(at->host) >= sizeof(a.sun_path))
        return err_set(err, E_INVALID, "the path of the unix socket is too long");
    memcpy(a.sun_path, at->host, strlen(at->host) + 1);
    rc = unix_name_free(&a, err);
    if (rc != 0)
        return rc;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, err_from_errno(errno), "socket: %s", strerror(errno));
    /* The name gets the mode that the socket has when it is bound: nobody else, also in between. */
    if (fchmod(fd, 0660) != 0 || bind(fd, (const struct sockaddr *)&a, sizeof(a)) != 0) {
        rc = err_set(err, err_from_errno(errno), "%s: %s", a.sun_path, strerror(errno));
        (void)close(fd); /* the first error counts */
        return rc;
    }
    rc = listener_start(loop, fd, true, on_stream, data, ret, err);
    if (rc != 0) {
        (void)unlink(a.sun_path); /* the first error counts */
        (void)close(fd);
        return rc;
    }
    memcpy((*ret)->path, a.sun_path, sizeof(a.sun_path));
    return 0;
}

static int listener_open_tcp(struct loop *loop, const struct endpoint *at, listener_cb on_stream, void *data,
                             struct listener **ret, struct err *err)
{
    struct sockaddr_storage a;
    const char *host = strcmp(at->host, "*") == 0           ? "0.0.0.0"
                       : strcmp(at->host, "localhost") == 0 ? "127.0.0.1"
                                                            : at->host;
    int fd, on = 1, rc;
    bool is_v6 = false;

    memset(&a, 0, sizeof(a));
    if (uv_ip4_addr(host, at->port, (struct sockaddr_in *)&a) != 0) {
        is_v6 = true;
        if (uv_ip6_addr(host, at->port, (struct sockaddr_in6 *)&a) != 0)
            return err_set(err, E_INVALID, "listen: \"%s\" is not an address, localhost or *", at->host);
    }
    fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, err_from_errno(errno), "socket: %s", strerror(errno));
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, (const struct sockaddr *)&a,
             is_v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) != 0) {
        rc = err_set(err, err_from_errno(errno), "listen on %s port %u: %s", at->host, (unsigned)at->port,
                     strerror(errno));
        goto fail;
    }
    rc = listener_start(loop, fd, false, on_stream, data, ret, err);
    if (rc != 0)
        goto fail;
    return 0;
fail:
    (void)close(fd); /* the first error counts */
    return rc;
}

int listener_open(struct loop *l, const struct endpoint *at, listener_cb on_stream, void *data,
                  struct listener **ret, struct err *err)
{
    return at->is_unix ? listener_open_unix(l, at, on_stream, data, ret, err)
                       : listener_open_tcp(l, at, on_stream, data, ret, err);
}

int listener_from_fd(struct loop *l, int fd, listener_cb on_stream, void *data, struct listener **ret,
                     struct err *err)
{
    int type = 0, domain = 0, rc;
    socklen_t n = sizeof(type);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) != 0) {
        rc = err_set(err, err_from_errno(errno), "descriptor %d: %s", fd, strerror(errno));
    } else if (type != SOCK_STREAM || (domain != AF_INET && domain != AF_INET6 && domain != AF_UNIX)) {
        rc = err_set(err, E_INVALID, "descriptor %d is not a TCP or unix stream socket", fd);
    } else {
        rc = listener_start(l, fd, domain == AF_UNIX, on_stream, data, ret, err);
    }
    if (rc != 0)
        (void)close(fd); /* the first error counts */
    return rc;
}

uint16_t listener_port(const struct listener *l)
{
    return l->port;
}

bool listener_is_broken(const struct listener *l)
{
    return l->is_broken;
}

static void listener_handle_gone(struct listener *l)
{
    void (*closed)(void *) = l->closed;
    void *data = l->closed_data;

    if (--l->handles > 0)
        return;
    mem_free(l);
    if (closed != NULL)
        closed(data);
}

static void on_poll_closed(uv_handle_t *handle)
{
    listener_handle_gone(handle->data);
}

static void on_pause_closed(void *data)
{
    listener_handle_gone(data);
}

void listener_close(struct listener *l, void (*closed)(void *data), void *data)
{
    must(!l->is_closing);
    l->is_closing = true;
    l->closed = closed;
    l->closed_data = data;
    uv_close((uv_handle_t *)&l->poll, on_poll_closed); /* the descriptor is out of the poll set now */
    timer_close(&l->pause, on_pause_closed);
    if (l->path[0] != '\0')
        (void)unlink(l->path); /* somebody may have removed it already */
    (void)close(l->fd);        /* nothing can be done about its failure */
}
