/* stream: sockets behind the stream vtable, on libuv.
 *
 * Writing: uv_try_write first; what the socket does not take is copied into `next` and handed to one uv_write
 * at a time (`flying`), so that many small writes to a slow peer leave as few large ones. Both buffers are
 * freed as soon as they are empty: an idle stream holds nothing but its handle. Reading: into the loop's one
 * buffer. Stopping is lazy: the kernel is told only when bytes come that nobody wants, so that stop and start
 * between two requests cost no system call. Failure: a write error is told in a later turn (never inside
 * stream_write), by on_write_error, or on_error for owners that do not care; reading can go on. Closing
 * writes what is queued for at most five seconds. */
#include "base/net/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/mem.h"
#include "base/net/stream_uv.h"

enum { STREAM_CLOSE_FLUSH_MS = 5000, STREAM_SLICES_MAX = 1024 };

static const struct stream_ops stream_uv_ops;

static void deferred_run(void *data);
static void queue_send(struct stream_uv *s);

/* A reset is not an end: only a clean end of the peer's half is E_EOF here. */
static int code_of(int uverr)
{
    int code = err_from_uv(uverr);

    return code == E_EOF ? E_IO : code;
}

/* Frees when the handles are closed and no deferred call refers to it. */
static void stream_maybe_free(struct stream_uv *s)
{
    if (!s->is_handle_closed || s->is_deferred || s->has_timer)
        return;
    buf_fini(&s->flying);
    buf_fini(&s->next);
    mem_free(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct stream_uv *s = handle->data;

    s->is_handle_closed = true;
    stream_maybe_free(s);
}

static void on_flush_timer_closed(void *data)
{
    struct stream_uv *s = data;

    s->has_timer = false;
    stream_maybe_free(s);
}

static void handle_close(struct stream_uv *s)
{
    if (s->is_handle_closing)
        return;
    s->is_handle_closing = true;
    s->is_reading = false;
    if (s->has_timer)
        timer_close(&s->flush_timer, on_flush_timer_closed);
    uv_close(&s->u.handle, on_handle_closed);
}

static void stream_defer(struct stream_uv *s)
{
    if (s->is_deferred)
        return;
    s->is_deferred = true;
    loop_defer(s->base.loop, deferred_run, s);
}

/* --- reading --- */

static void end_tell(struct stream_uv *s)
{
    const struct stream_events *events = s->base.events;

    s->told_events = events;
    s->told_data = s->base.data;
    if (events == NULL)
        return;
    if (s->end_code == E_EOF)
        events->on_eof(&s->base, s->base.data);
    else
        events->on_error(&s->base, s->end_code, s->base.data);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct stream_uv *s = handle->data;

    (void)suggested;
    if (!s->wants_read) /* on_uv_read gets UV_ENOBUFS and stops for real */
        *buf = uv_buf_init(NULL, 0);
    else
        *buf = uv_buf_init(s->base.loop->read_buf, LOOP_READ_BYTES);
}

static void on_uv_read(uv_stream_t *handle, ssize_t n, const uv_buf_t *buf)
{
    struct stream_uv *s = handle->data;

    if (n == 0 || s->is_closing)
        return;
    if (n > 0) {
        s->base.events->on_read(&s->base, slice_of(buf->base, (size_t)n), s->base.data);
        return;
    }
    (void)uv_read_stop(handle); /* always 0 */
    s->is_reading = false;
    if (n == UV_ENOBUFS && !s->wants_read)
        return;
    s->wants_read = false;
    s->end_code = n == UV_EOF ? E_EOF : code_of((int)n);
    end_tell(s);
}

static void stream_uv_read_start(struct stream *base)
{
    struct stream_uv *s = (struct stream_uv *)base;

    if (s->is_closing)
        return;
    if (s->end_code != 0) {
        if (s->told_events != base->events || s->told_data != base->data)
            stream_defer(s);
        return;
    }
    s->wants_read = true;
    if (s->is_reading)
        return;
    s->is_reading = uv_read_start(&s->u.stream, on_alloc, on_uv_read) == 0;
    if (!s->is_reading) { /* not connected any more, as far as libuv knows */
        s->end_code = E_IO;
        s->told_events = NULL;
        stream_defer(s);
    }
}

static void stream_uv_read_stop(struct stream *base)
{
    ((struct stream_uv *)base)->wants_read = false;
}

/* --- writing --- */

static void on_uv_written(uv_write_t *req, int status)
{
    struct stream_uv *s = req->data;

    s->is_flying = false;
    buf_fini(&s->flying);
    if (s->is_handle_closing)
        return;
    if (status < 0) {
        buf_fini(&s->next);
        if (s->is_closing) {
            handle_close(s);
            return;
        }
        if (s->write_code == 0) {
            s->write_code = code_of(status);
            stream_defer(s);
        }
        return;
    }
    if (s->next.n > 0) {
        queue_send(s);
        return;
    }
    if (s->wants_shutdown)
        (void)shutdown(s->fd, SHUT_WR); /* the peer may be gone; reading tells */
    if (s->is_closing) {
        handle_close(s);
        return;
    }
    if (s->owes_drain) {
        s->owes_drain = false;
        s->base.events->on_drain(&s->base, s->base.data);
    }
}

static void write_break(struct stream_uv *s, int code)
{
    s->write_code = code;
    buf_fini(&s->next);
    if (s->is_closing)
        handle_close(s);
    else
        stream_defer(s);
}

static void queue_send(struct stream_uv *s)
{
    uv_buf_t b;
    int rc;

    s->flying = s->next;
    s->next = BUF_INIT(SIZE_MAX - 1);
    b.base = s->flying.p;
    b.len = s->flying.n;
    s->write_req.data = s;
    rc = uv_write(&s->write_req, &s->u.stream, &b, 1, on_uv_written);
    if (rc != 0) {
        buf_fini(&s->flying);
        write_break(s, code_of(rc));
        return;
    }
    s->is_flying = true;
}

/* Tries the socket; *ret_sent is what it took. */
static int write_try(struct stream_uv *s, const struct slice *v, size_t n, size_t *ret_sent)
{
    uv_buf_t small[8], *bufs = small;
    size_t i;
    int rc;

    if (n > ARRAY_LEN(small))
        bufs = mem_alloc(n * sizeof(*bufs));
    for (i = 0; i < n; i++) {
        bufs[i].base = (char *)(uintptr_t)v[i].p; /* libuv does not write to it */
        bufs[i].len = v[i].n;
    }
    rc = uv_try_write(&s->u.stream, bufs, (unsigned)n);
    if (bufs != small)
        mem_free(bufs);
    *ret_sent = rc > 0 ? (size_t)rc : 0;
    return rc >= 0 || rc == UV_EAGAIN ? 0 : rc;
}

static int stream_uv_write(struct stream *base, const struct slice *v, size_t n)
{
    struct stream_uv *s = (struct stream_uv *)base;
    size_t all = 0, sent = 0, i;
    int rc;

    must(n <= STREAM_SLICES_MAX && !s->is_closing && !s->wants_shutdown);
    if (s->write_code != 0)
        return s->write_code;
    for (i = 0; i < n; i++)
        all += v[i].n;
    if (all == 0)
        return s->is_flying ? E_AGAIN : 0;
    if (!s->is_flying) {
        rc = write_try(s, v, n, &sent);
        if (rc != 0) {
            write_break(s, code_of(rc));
            return s->write_code;
        }
        if (sent == all)
            return 0;
    } else if (s->flying.n + s->next.n > STREAM_QUEUE_MAX) {
        write_break(s, E_TOO_LARGE);
        return E_TOO_LARGE;
    }
    for (i = 0; i < n; i++) {
        size_t skip = sent < v[i].n ? sent : v[i].n;

        sent -= skip;
        must(buf_append(&s->next, v[i].p + skip, v[i].n - skip) == 0);
    }
    s->owes_drain = true;
    if (!s->is_flying)
        queue_send(s);
    return s->write_code != 0 ? s->write_code : E_AGAIN;
}

static void stream_uv_shutdown(struct stream *base)
{
    struct stream_uv *s = (struct stream_uv *)base;

    if (s->wants_shutdown || s->is_closing)
        return;
    s->wants_shutdown = true;
    if (!s->is_flying)
        (void)shutdown(s->fd, SHUT_WR); /* the peer may be gone; reading tells */
}

static size_t stream_uv_queued(const struct stream *base)
{
    const struct stream_uv *s = (const struct stream_uv *)base;

    return (s->is_flying ? uv_stream_get_write_queue_size(&s->u.stream) : 0) + s->next.n;
}

/* What may not happen inside the owner's call: errors of writing, an end told again. */
static void deferred_run(void *data)
{
    struct stream_uv *s = data;

    s->is_deferred = false;
    if (s->is_handle_closed) {
        stream_maybe_free(s);
        return;
    }
    if (s->is_closing)
        return;
    if (s->write_code != 0 && !s->is_write_told) {
        s->is_write_told = true;
        if (s->base.events->on_write_error != NULL) {
            s->is_deferred = true; /* holds the object over the call */
            s->base.events->on_write_error(&s->base, s->write_code, s->base.data);
            s->is_deferred = false;
            if (s->is_handle_closed || s->is_closing) {
                stream_maybe_free(s);
                return;
            }
        } else if (s->end_code == 0 || s->end_code == E_EOF) {
            (void)uv_read_stop(&s->u.stream); /* always 0 */
            s->is_reading = false;
            s->wants_read = false;
            s->end_code = s->write_code;
            s->told_events = NULL; /* also after an end that was told: now it is broken both ways */
            s->told_data = NULL;
        }
    }
    if (s->end_code != 0 && (s->told_events != s->base.events || s->told_data != s->base.data))
        end_tell(s);
}

/* --- the end --- */

static void on_flush_timeout(void *data)
{
    handle_close(data);
}

static void stream_uv_close(struct stream *base)
{
    struct stream_uv *s = (struct stream_uv *)base;

    if (s->is_closing)
        return;
    s->is_closing = true;
    s->wants_read = false;
    if (!s->is_flying) {
        handle_close(s);
        return;
    }
    if (s->is_reading)
        (void)uv_read_stop(&s->u.stream); /* always 0 */
    s->is_reading = false;
    s->has_timer = true;
    timer_init(&s->flush_timer, s->base.loop, on_flush_timeout, s);
    timer_start(&s->flush_timer, STREAM_CLOSE_FLUSH_MS);
}

static void stream_uv_reset(struct stream *base)
{
    struct stream_uv *s = (struct stream_uv *)base;
    struct linger linger = {1, 0};

    if (s->is_closing)
        return;
    s->is_closing = true;
    if (!s->is_unix)
        (void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)); /* else a plain close */
    handle_close(s);
}

/* --- who is there --- */

static void stream_uv_peer(const struct stream *base, char out[STREAM_PEER_MAX])
{
    const struct stream_uv *s = (const struct stream_uv *)base;
    struct sockaddr_storage a;
    socklen_t n = sizeof(a);
    char host[INET6_ADDRSTRLEN];

    (void)snprintf(out, STREAM_PEER_MAX, "%s", s->is_unix ? "unix" : "unknown");
    memset(&a, 0, sizeof(a));
    if (s->peer.sin6_family != 0)
        memcpy(&a, &s->peer, sizeof(s->peer));
    else if (s->is_unix || getpeername(s->fd, (struct sockaddr *)&a, &n) != 0)
        return;
    if (a.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a;

        if (inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host)) != NULL)
            (void)snprintf(out, STREAM_PEER_MAX, "%s:%u", host, (unsigned)ntohs(in->sin_port));
    } else if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a;

        if (inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host)) != NULL)
            (void)snprintf(out, STREAM_PEER_MAX, "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
    }
}

void stream_peer(const struct stream *s, char out[STREAM_PEER_MAX])
{
    if (s->ops->peer != NULL)
        s->ops->peer(s, out);
    else
        (void)snprintf(out, STREAM_PEER_MAX, "unknown");
}

static const struct stream_ops stream_uv_ops = {
    .read_start = stream_uv_read_start,
    .read_stop = stream_uv_read_stop,
    .write = stream_uv_write,
    .shutdown = stream_uv_shutdown,
    .close = stream_uv_close,
    .reset = stream_uv_reset,
    .queued = stream_uv_queued,
    .peer = stream_uv_peer,
};

void stream_own(struct stream *s, const struct stream_events *events, void *data)
{
    s->events = events;
    s->data = data;
}

/* --- making one --- */

struct stream_uv *stream_uv_new(struct loop *l, bool is_unix)
{
    struct stream_uv *s = MEM_NEW(struct stream_uv);

    s->base.ops = &stream_uv_ops;
    s->base.loop = l;
    s->is_unix = is_unix;
    s->fd = -1;
    buf_init(&s->flying, SIZE_MAX - 1);
    buf_init(&s->next, SIZE_MAX - 1);
    if (is_unix)
        must(uv_pipe_init(&l->uv, &s->u.pipe, 0) == 0);
    else
        must(uv_tcp_init(&l->uv, &s->u.tcp) == 0);
    s->u.handle.data = s;
    return s;
}

int stream_uv_open(struct stream_uv *s, int fd)
{
    int rc = s->is_unix ? uv_pipe_open(&s->u.pipe, fd) : uv_tcp_open(&s->u.tcp, fd);

    if (rc == 0)
        s->fd = fd;
    return rc == 0 ? 0 : err_from_uv(rc);
}

void stream_uv_tune(int fd)
{
    int on = 1, idle_s = 60, every_s = 15, count = 4;

    /* Each is a wish: a socket that refuses them still works. The keep-alive finds peers that vanished
     * without a word while nothing is sent (idle event streams): gone after two minutes. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

int stream_from_fd(struct loop *l, int fd, struct stream **ret, struct err *err)
{
    int type = 0, domain = 0, rc;
    socklen_t n = sizeof(type);
    struct stream_uv *s;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) != 0) {
        rc = err_set(err, err_from_errno(errno), "descriptor %d: %s", fd, strerror(errno));
        goto fail;
    }
    if (type != SOCK_STREAM || (domain != AF_INET && domain != AF_INET6 && domain != AF_UNIX)) {
        rc = err_set(err, E_INVALID, "descriptor %d is not a TCP or unix stream socket", fd);
        goto fail;
    }
    s = stream_uv_new(l, domain == AF_UNIX);
    rc = stream_uv_open(s, fd);
    if (rc != 0) {
        stream_close(&s->base);
        (void)err_set(err, rc, "descriptor %d: cannot be adopted", fd);
        goto fail;
    }
    if (domain != AF_UNIX)
        stream_uv_tune(fd);
    *ret = &s->base;
    return 0;
fail:
    (void)close(fd); /* nothing can be done about its failure */
    return rc;
}
