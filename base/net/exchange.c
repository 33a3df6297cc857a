/* exchange: one request and its answer, as handlers see it.
 *
 * Happy path: exchange_head writes the head into a spare buffer, the first exchange_write sends head and
 * bytes in one system call, exchange_end hands the connection back. Failure paths: an answer shorter than
 * promised breaks the connection, so that nobody takes it for complete; when the client leaves, the owner's
 * on_abort fires; without an owner the exchange lives on without a connection until the handler ends it, and
 * what it writes is dropped. */
#include <string.h>

#include "base/core/mem.h"
#include "base/net/server_conn.h"

static void exchange_free(struct exchange *ex)
{
    if (ex->head.p != NULL)
        server_head_give(ex->server, &ex->head);
    server_exchange_give(ex->server, ex);
}

/* --- request side --- */

const struct http_request *exchange_request(const struct exchange *ex)
{
    return &ex->request;
}

struct arena *exchange_arena(struct exchange *ex)
{
    return &ex->arena;
}

struct server *exchange_server(struct exchange *ex)
{
    return ex->server;
}

void *exchange_server_data(struct exchange *ex)
{
    return ex->server->data;
}

struct slice exchange_peer(struct exchange *ex)
{
    if (ex->conn != NULL)
        return slice_str(server_conn_peer(ex->conn));
    return ex->peer; /* kept when the client left */
}

struct slice exchange_tag(struct exchange *ex)
{
    return slice_str(ex->tag != NULL ? ex->tag : "");
}

/* The owner came after the client had left. */
static void on_late_abort(void *data)
{
    struct exchange *ex = data;

    ex->is_abort_deferred = false;
    if (ex->is_ended)
        exchange_free(ex);
    else
        exchange_client_left(ex);
}

void exchange_own(struct exchange *ex, const struct exchange_events *events, void *data)
{
    ex->events = events;
    ex->data = data;
    if (ex->conn == NULL && !ex->is_aborting && !ex->is_abort_deferred) {
        ex->is_abort_deferred = true;
        loop_defer(ex->server->loop, on_late_abort, ex);
    }
}

void exchange_client_left(struct exchange *ex)
{
    exchange_body_cb collect = ex->collect;

    ex->is_aborting = true;
    if (collect != NULL) {
        ex->collect = NULL;
        collect(ex, E_CANCELLED, SLICE_EMPTY, ex->collect_data);
        exchange_free(ex);
    } else if (ex->events != NULL && ex->events->on_abort != NULL) {
        ex->events->on_abort(ex, ex->data);
        exchange_free(ex);
    } else {
        ex->is_aborting = false; /* nobody to tell: lives until the handler ends it */
    }
}

static void continue_send(struct exchange *ex)
{
    struct slice v = SL("HTTP/1.1 100 Continue\r\n\r\n");

    if (ex->is_continue_sent || !ex->request.expects_continue || ex->has_head || ex->conn->is_body_done ||
        server_conn_waiting(ex->conn).n > 0)
        return;
    ex->is_continue_sent = true;
    (void)stream_write(ex->conn->stream, &v, 1); /* broken: on_abort comes */
}

void exchange_body_start(struct exchange *ex)
{
    struct server_conn *c = ex->conn;

    if (c == NULL || ex->wants_body)
        return;
    ex->wants_body = true;
    c->active_ms = server_now(ex->server);
    continue_send(ex);
    if (c->is_processing)
        return; /* the machine goes on when the handler has returned */
    if (c->in.n > 0 || c->is_body_done || c->is_eof)
        server_conn_kick(c);
}

void exchange_body_stop(struct exchange *ex)
{
    ex->wants_body = false;
}

void exchange_body_collect(struct exchange *ex, size_t max, exchange_body_cb done, void *data)
{
    struct server_conn *c = ex->conn;

    ex->collect = done;
    ex->collect_data = data;
    ex->collect_max = max;
    ex->events = NULL;
    if (c == NULL) {
        if (!ex->is_abort_deferred) {
            ex->is_abort_deferred = true;
            loop_defer(ex->server->loop, on_late_abort, ex);
        }
        return;
    }
    buf_init(&ex->body, max < SIZE_MAX ? max : SIZE_MAX - 1);
    if (!c->is_body_chunked && c->body_left > max) {
        ex->is_refused = true;
        if (!c->is_processing)
            server_conn_kick(c);
        return;
    }
    exchange_body_start(ex);
}

static void collect_finish(struct exchange *ex, int code)
{
    exchange_body_cb done = ex->collect;

    ex->collect = NULL;
    ex->wants_body = false;
    if (code != 0)
        buf_fini(&ex->body);
    done(ex, code, code == 0 ? buf_view(&ex->body) : SLICE_EMPTY, ex->collect_data);
}

void exchange_deliver(struct exchange *ex, struct slice bytes)
{
    if (ex->collect != NULL) {
        if (buf_slice(&ex->body, bytes) != 0)
            collect_finish(ex, E_TOO_LARGE);
        return;
    }
    if (ex->events != NULL && ex->events->on_body != NULL)
        ex->events->on_body(ex, bytes, ex->data);
}

void exchange_deliver_end(struct exchange *ex)
{
    ex->is_body_end_told = true;
    if (ex->collect != NULL)
        collect_finish(ex, 0);
    else if (ex->events != NULL && ex->events->on_body_end != NULL)
        ex->events->on_body_end(ex, ex->data);
}

void exchange_deliver_refusal(struct exchange *ex)
{
    ex->is_refused = false;
    collect_finish(ex, E_TOO_LARGE);
}

/* --- answer side --- */

static bool header_is_ours(struct slice name)
{
    switch (name.n) {
    case 4:
        return slice_ieq(name, SL("Date"));
    case 10:
        return slice_ieq(name, SL("Connection"));
    case 14:
        return slice_ieq(name, SL("Content-Length"));
    case 17:
        return slice_ieq(name, SL("Transfer-Encoding"));
    default:
        return false;
    }
}

/* How the body is framed; decides about closing too. */
static void answer_frame(struct exchange *ex, int status, uint64_t length)
{
    const struct http_request *r = &ex->request;
    const struct server_conn *c = ex->conn;

    ex->left = 0;
    if (slice_eq(r->method, SL("HEAD")) || status < 200 || status == 204 || status == 304) {
        ex->mode = ANSWER_NONE;
    } else if (length != EXCHANGE_LENGTH_UNKNOWN) {
        ex->mode = ANSWER_SIZED;
        ex->left = length;
    } else if (r->minor == 0) {
        ex->mode = ANSWER_UNTIL_CLOSE;
        ex->is_close = true;
    } else {
        ex->mode = ANSWER_CHUNKED;
    }
    if (ex->server->is_draining)
        ex->is_close = true;
    /* A body that was never asked for: the client may send it or not, and we cannot know where the next
     * request begins; or it is too much to read just to keep the connection. */
    if (!c->is_body_done && !ex->wants_body &&
        ((r->expects_continue && !ex->is_continue_sent) ||
         (!c->is_body_chunked && c->body_left > SERVER_SKIP_MAX)))
        ex->is_close = true;
}

static int head_write(struct exchange *ex, int status, const struct http_header *h, size_t n, uint64_t length)
{
    struct buf *out = &ex->head;
    int rc = http_write_status(out, status, ex->reason);
    size_t i;

    for (i = 0; rc == 0 && i < n; i++)
        if (!header_is_ours(h[i].name))
            rc = http_write_header(out, h[i].name, h[i].value);
    if (rc == 0)
        rc = http_write_header(out, SL("Date"), server_date(ex->server));
    if (rc == 0 && length != EXCHANGE_LENGTH_UNKNOWN && status >= 200 && status != 204 && status != 304)
        rc = http_write_header_u64(out, "Content-Length", length);
    if (rc == 0 && ex->mode == ANSWER_CHUNKED)
        rc = http_write_header(out, SL("Transfer-Encoding"), SL("chunked"));
    if (rc == 0 && ex->is_close)
        rc = http_write_header(out, SL("Connection"), SL("close"));
    else if (rc == 0 && ex->request.minor == 0)
        rc = http_write_header(out, SL("Connection"), SL("keep-alive"));
    return rc == 0 ? http_write_end(out) : rc;
}

int exchange_head(struct exchange *ex, int status, const struct http_header *h, size_t n, uint64_t length)
{
    int rc;

    must(!ex->has_head);
    if (ex->conn == NULL) {
        ex->has_head = true;
        return 0; /* dropped, like all that follows */
    }
    answer_frame(ex, status, length);
    server_head_take(ex->server, &ex->head);
    rc = head_write(ex, status, h, n, length);
    if (rc != 0) {
        server_head_give(ex->server, &ex->head);
        return rc;
    }
    ex->has_head = true;
    ex->is_head_pending = true;
    return 0;
}

/* Writes the kept head, if any, and the pieces behind it. */
static int answer_write(struct exchange *ex, const struct slice *pieces, size_t n)
{
    struct slice v[5];
    size_t at = 0, i;
    int rc;

    if (ex->is_head_pending)
        v[at++] = buf_view(&ex->head);
    for (i = 0; i < n; i++)
        v[at++] = pieces[i];
    if (at == 0)
        return 0;
    rc = stream_write(ex->conn->stream, v, at);
    if (ex->is_head_pending) {
        ex->is_head_pending = false;
        server_head_give(ex->server, &ex->head);
    }
    return rc;
}

void exchange_reason(struct exchange *ex, const char *reason)
{
    ex->reason = reason != NULL ? arena_strdup(&ex->arena, reason) : NULL;
    for (char *p = ex->reason; p != NULL && *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
            *p = '?';
}

void exchange_endless(struct exchange *ex)
{
    ex->is_endless = true;
    if (ex->conn == NULL || !ex->conn->is_eof)
        return;
    ex->conn->is_expired = true; /* it left before; told in a later turn */
    server_conn_kick(ex->conn);
}

void exchange_flush(struct exchange *ex)
{
    if (ex->conn != NULL && ex->is_head_pending)
        (void)answer_write(ex, NULL, 0); /* broken: on_abort comes */
}

int exchange_write(struct exchange *ex, struct slice bytes)
{
    char size[HTTP_CHUNK_HEAD_MAX];

    must(ex->has_head);
    if (ex->conn == NULL)
        return E_CANCELLED;
    if (bytes.n == 0 || ex->mode == ANSWER_NONE)
        return 0;
    if (ex->mode == ANSWER_CHUNKED) {
        const struct slice v[] = {slice_of(size, http_chunk_head(bytes.n, size)), bytes, SL("\r\n")};

        return answer_write(ex, v, 3);
    }
    if (ex->mode == ANSWER_SIZED) {
        if (bytes.n >
            ex->left) { /* more than the head promised: the rest would be taken for another answer */
            ex->is_broken = true;
            return E_INVALID;
        }
        ex->left -= bytes.n;
    }
    return answer_write(ex, &bytes, 1);
}

/* Takes the exchange off its connection. */
static struct server_conn *exchange_detach(struct exchange *ex)
{
    struct server_conn *c = ex->conn;

    c->ex = NULL;
    ex->conn = NULL;
    return c;
}

/* The handler is done with it. */
static void exchange_release(struct exchange *ex)
{
    if (ex->is_aborting)
        return; /* freed when on_abort has returned */
    if (ex->is_abort_deferred)
        ex->is_ended = true;
    else
        exchange_free(ex);
}

void exchange_end(struct exchange *ex)
{
    bool is_close = ex->is_close;
    struct server_conn *c;

    if (ex->conn == NULL) {
        exchange_release(ex);
        return;
    }
    if (!ex->has_head || ex->is_broken || (ex->mode == ANSWER_SIZED && ex->left > 0)) {
        exchange_abort(ex);
        return;
    }
    if (ex->mode == ANSWER_CHUNKED) {
        struct slice last = SL(HTTP_LAST_CHUNK);

        (void)answer_write(ex, &last, 1); /* broken: the connection's on_error closes it */
    } else {
        (void)answer_write(ex, NULL, 0); /* likewise */
    }
    c = exchange_detach(ex);
    exchange_free(ex);
    server_conn_answered(c, is_close);
}

void exchange_send(struct exchange *ex, int status, const struct http_header *h, size_t n, struct slice body)
{
    int rc = exchange_head(ex, status, h, n, body.n);

    if (rc != 0) {
        exchange_abort(ex);
        return;
    }
    (void)exchange_write(ex, body); /* broken: nothing more to do */
    exchange_end(ex);
}

void exchange_abort(struct exchange *ex)
{
    if (ex->conn != NULL)
        server_conn_close(exchange_detach(ex), true);
    exchange_release(ex);
}

bool exchange_has_head(const struct exchange *ex)
{
    return ex->has_head;
}

void exchange_close_after(struct exchange *ex)
{
    ex->is_close = true;
}

struct stream *exchange_upgrade(struct exchange *ex, struct slice head, struct slice *ret_rest)
{
    struct server_conn *c = ex->conn;
    struct stream *stream;
    struct slice rest;
    char *copy;

    *ret_rest = SLICE_EMPTY;
    if (c == NULL) {
        exchange_release(ex);
        return NULL;
    }
    stream = c->stream;
    rest = server_conn_waiting(c);
    if (rest.n > 0) { /* the bytes lie in buffers that the next event uses again */
        copy = mem_alloc(rest.n);
        memcpy(copy, rest.p, rest.n);
        loop_defer(ex->server->loop, mem_free, copy);
        *ret_rest = slice_of(copy, rest.n);
    }
    (void)stream_write(stream, &head, 1); /* broken: the new owner's on_error comes */
    stream_read_stop(stream);
    c->stream = NULL;
    server_conn_close(exchange_detach(ex), false);
    exchange_release(ex);
    return stream;
}
