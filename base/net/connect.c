/* connect: opening a stream to an endpoint, and the endpoint's text form.
 *
 * A numeric address or a unix path is tried at once; a name is resolved on libuv's pool and its addresses are
 * tried one after another, all within one deadline. `done` fires exactly once, always from a later turn.
 * Failure: the last address's error, E_TIMEOUT at the deadline, E_CANCELLED after connect_cancel. The
 * operation is freed when `done` has fired and the resolver and the timer have let go of it. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/core/mem.h"
#include "base/net/stream_uv.h"

enum { CONNECT_ADDRESSES_MAX = 8 };

struct connect_op {
    struct loop *loop;
    struct endpoint to;
    connect_done_cb done;
    void *data;
    struct timer deadline;
    uv_getaddrinfo_t resolve_req;
    bool is_resolving, has_timer, is_done, is_finish_deferred;
    int code; /* what `done` will say */
    struct err err;
    struct sockaddr_storage addresses[CONNECT_ADDRESSES_MAX];
    size_t n_addresses, at;
    struct connect_try *attempt; /* the one in flight */
    struct stream *stream;       /* the result */
};

/* One attempt has a life of its own: libuv ends its request only when the handle closes. */
struct connect_try {
    uv_connect_t req;
    struct connect_op *op; /* NULL: nobody waits any more */
    struct stream_uv *stream;
};

static void connect_next(struct connect_op *op);

static void op_maybe_free(struct connect_op *op)
{
    if (op->is_done && !op->is_resolving && !op->has_timer)
        mem_free(op);
}

static void on_deadline_closed(void *data)
{
    struct connect_op *op = data;

    op->has_timer = false;
    op_maybe_free(op);
}

static void on_finish(void *data)
{
    struct connect_op *op = data;

    op->done(op->code, op->code == 0 ? op->stream : NULL, op->code == 0 ? NULL : &op->err, op->data);
    op->is_done = true;
    timer_close(&op->deadline, on_deadline_closed);
}

static void attempt_drop(struct connect_op *op)
{
    struct connect_try *attempt = op->attempt;

    if (attempt == NULL)
        return;
    op->attempt = NULL;
    attempt->op = NULL;
    stream_close(&attempt->stream->base); /* on_connected comes with UV_ECANCELED and frees the attempt */
}

/* Settles the result; `done` gets it in a later turn. */
static void op_finish(struct connect_op *op, int code)
{
    if (op->is_finish_deferred) {
        if (op->stream != NULL && code != 0) { /* cancelled between success and its telling */
            stream_close(op->stream);
            op->stream = NULL;
            op->code = err_set(&op->err, code, "cancelled");
        }
        return;
    }
    op->is_finish_deferred = true;
    op->code = code;
    timer_stop(&op->deadline);
    attempt_drop(op);
    if (op->is_resolving)
        (void)uv_cancel((uv_req_t *)&op->resolve_req); /* a running look-up ends by itself */
    loop_defer(op->loop, on_finish, op);
}

static void on_connected(uv_connect_t *req, int status)
{
    struct connect_try *attempt = req->data;
    struct connect_op *op = attempt->op;
    struct stream_uv *s = attempt->stream;
    uv_os_fd_t fd;

    mem_free(attempt);
    if (op == NULL)
        return;
    op->attempt = NULL;
    if (status == 0 && uv_fileno(&s->u.handle, &fd) == 0) {
        s->fd = fd;
        if (!s->is_unix)
            stream_uv_tune(fd);
        op->stream = &s->base;
        op_finish(op, 0);
        return;
    }
    stream_close(&s->base);
    /* EAGAIN is a unix socket's full queue of connections here. */
    (void)err_set(&op->err, status == UV_EAGAIN ? E_UNAVAILABLE : err_from_uv(status), "%s",
                  uv_strerror(status));
    connect_next(op);
}

static void connect_next(struct connect_op *op)
{
    struct connect_try *attempt;
    int rc = 0;

    if (op->at >= op->n_addresses) {
        op_finish(op, op->err.code);
        return;
    }
    attempt = MEM_NEW(struct connect_try);
    attempt->op = op;
    attempt->stream = stream_uv_new(op->loop, op->to.is_unix);
    attempt->req.data = attempt;
    op->attempt = attempt;
    if (op->to.is_unix)
        uv_pipe_connect(&attempt->req, &attempt->stream->u.pipe, op->to.host, on_connected);
    else
        rc = uv_tcp_connect(&attempt->req, &attempt->stream->u.tcp,
                            (const struct sockaddr *)&op->addresses[op->at], on_connected);
    op->at++;
    if (rc != 0) {
        op->attempt = NULL;
        stream_close(&attempt->stream->base);
        mem_free(attempt);
        (void)err_set(&op->err, err_from_uv(rc), "%s", uv_strerror(rc));
        connect_next(op); /* at most CONNECT_ADDRESSES_MAX deep */
    }
}

static void on_deadline(void *data)
{
    struct connect_op *op = data;

    op_finish(op, err_set(&op->err, E_TIMEOUT, "no connection within the deadline"));
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct connect_op *op = req->data;
    struct addrinfo *a;

    op->is_resolving = false;
    if (op->is_finish_deferred) {
        uv_freeaddrinfo(list);
        op_maybe_free(op);
        return;
    }
    for (a = list; status == 0 && a != NULL && op->n_addresses < CONNECT_ADDRESSES_MAX; a = a->ai_next) {
        if (a->ai_addrlen <= sizeof(op->addresses[0])) {
            memcpy(&op->addresses[op->n_addresses], a->ai_addr, a->ai_addrlen);
            op->n_addresses++;
        }
    }
    uv_freeaddrinfo(list);
    if (status == 0)
        (void)err_set(&op->err, E_UPSTREAM, "the name has no address");
    else
        (void)err_set(&op->err, E_UPSTREAM, "cannot resolve: %s", uv_strerror(status));
    connect_next(op);
}

static void resolve_start(struct connect_op *op)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC, .ai_flags = AI_ADDRCONFIG};
    char port[8];
    int rc;

    (void)snprintf(port, sizeof(port), "%u", (unsigned)op->to.port);
    op->resolve_req.data = op;
    rc = uv_getaddrinfo(&op->loop->uv, &op->resolve_req, on_resolved, op->to.host, port, &hints);
    if (rc != 0)
        op_finish(op, err_set(&op->err, E_UPSTREAM, "cannot resolve: %s", uv_strerror(rc)));
    else
        op->is_resolving = true;
}

struct connect_op *stream_connect(struct loop *l, const struct endpoint *to, int64_t timeout_ms,
                                  connect_done_cb done, void *data)
{
    struct connect_op *op = MEM_NEW(struct connect_op);

    op->loop = l;
    op->to = *to;
    op->done = done;
    op->data = data;
    op->has_timer = true;
    timer_init(&op->deadline, l, on_deadline, op);
    timer_start(&op->deadline, timeout_ms);
    if (to->is_unix) {
        if (strlen(to->host) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
            op_finish(op, err_set(&op->err, E_INVALID, "the path of the unix socket is too long"));
        } else {
            op->n_addresses = 1;
            connect_next(op);
        }
    } else if (uv_ip4_addr(to->host, to->port, (struct sockaddr_in *)&op->addresses[0]) == 0 ||
               uv_ip6_addr(to->host, to->port, (struct sockaddr_in6 *)&op->addresses[0]) == 0) {
        op->n_addresses = 1;
        connect_next(op);
    } else {
        resolve_start(op);
    }
    return op;
}

void connect_cancel(struct connect_op *op)
{
    op_finish(op, err_set(&op->err, E_CANCELLED, "cancelled"));
}

/* --- endpoint --- */

static int endpoint_port(struct slice text, struct endpoint *ret, struct err *err)
{
    uint64_t port;

    if (slice_u64(text, &port) != 0 || port > 65535)
        return err_set(err, E_INVALID, "port \"%.*s\" is not a number from 0 to 65535", SL_ARG(text));
    ret->port = (uint16_t)port;
    return 0;
}

int endpoint_parse(struct slice text, struct endpoint *ret, struct err *err)
{
    struct endpoint e = {.is_unix = slice_starts(text, SL("unix:"))};
    struct slice host = text, port = SLICE_NULL;
    size_t at, i;
    int rc;

    if (e.is_unix) {
        host = slice_from(text, 5);
        if (host.n >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
            return err_set(err, E_INVALID, "the path of the unix socket is too long");
    } else if (text.n > 0 && text.p[0] == '[') {
        at = slice_find(text, ']');
        if (at == SIZE_MAX || at + 1 >= text.n || text.p[at + 1] != ':')
            return err_set(err, E_INVALID, "\"%.*s\" is not [address]:port", SL_ARG(text));
        host = slice_of(text.p + 1, at - 1);
        port = slice_from(text, at + 2);
    } else {
        at = slice_find(text, ':');
        if (at == SIZE_MAX || slice_find(slice_from(text, at + 1), ':') != SIZE_MAX)
            return err_set(err, E_INVALID, "\"%.*s\" is not host:port, [address]:port or unix:/path",
                           SL_ARG(text));
        host = slice_of(text.p, at);
        port = slice_from(text, at + 1);
    }
    if (host.n == 0 || host.n >= sizeof(e.host))
        return err_set(err, E_INVALID, "\"%.*s\" names no host or path, or one that is too long",
                       SL_ARG(text));
    for (i = 0; i < host.n; i++)
        if ((unsigned char)host.p[i] <= ' ' || host.p[i] == 0x7f)
            return err_set(err, E_INVALID, "\"%.*s\" contains blanks or control bytes", SL_ARG(text));
    if (!e.is_unix) {
        rc = endpoint_port(port, &e, err);
        if (rc != 0)
            return rc;
    }
    memcpy(e.host, host.p, host.n);
    *ret = e;
    return 0;
}
