/* server_conn: one HTTP/1.1 connection of the server: bytes in, requests and bodies out.
 *
 * Happy path: a whole head is parsed where it lies in the loop's read buffer, its bytes are copied to the
 * exchange's arena, the handler runs, and the connection waits for the next head. Only what cannot be used at
 * once (a partial head, pipelined requests, a body nobody wants yet) is kept in `in`, which is freed when
 * empty. Reading goes on while a handler works, to learn that the client left; it stops when 64 KiB wait. A
 * client that ends its half while its request is in progress counts as gone (browsers and SDKs never
 * half-close; a stream of events must not go on for nobody), unless the request said it is the last of the
 * connection (Connection: close, or HTTP/1.0): then it is answered until a write fails. Failure paths: a bad
 * head or body is answered once and the connection closed, lingering so that no reset eats the answer;
 * deadlines end it without an answer. */
#include "base/net/server_conn.h"

#include <string.h>
#include <utlist.h>

#include "base/core/mem.h"

static void conn_after(struct server_conn *c);

static void conn_maybe_free(struct server_conn *c)
{
    struct server *s = c->server;

    if (c->state != CONN_CLOSED || c->is_processing || c->is_kicked)
        return;
    buf_fini(&c->in);
    mem_free(c->peer);
    mem_free(c->tag);
    mem_free(c);
    s->n_conns_held--;
    server_settle(s);
}

void server_conn_close(struct server_conn *c, bool is_reset)
{
    if (c->state == CONN_CLOSED)
        return;
    must(c->ex == NULL);
    c->state = CONN_CLOSED;
    c->window = SLICE_EMPTY;
    if (c->stream != NULL) {
        if (is_reset)
            stream_reset(c->stream);
        else
            stream_close(c->stream);
        c->stream = NULL;
    }
    DL_DELETE(c->server->conns, c);
    c->server->n_conns--;
    conn_maybe_free(c);
}

/* The exchange in progress cannot go on: the client left, stalled, or broke the rules. */
static void conn_abort(struct server_conn *c, bool is_reset)
{
    struct exchange *ex = c->ex;

    if (ex != NULL) {
        ex->peer = arena_slice(&ex->arena, slice_str(server_conn_peer(c)));
        ex->conn = NULL;
        c->ex = NULL;
    }
    server_conn_close(c, is_reset);
    if (ex != NULL)
        exchange_client_left(ex);
}

/* Closes after what is queued; lingering where the client may still be sending. */
static void conn_finish(struct server_conn *c, bool must_linger)
{
    c->must_linger = must_linger && !c->is_eof;
    if (stream_queued(c->stream) > 0) {
        c->state = CONN_FLUSHING;
        return;
    }
    if (!c->must_linger) {
        server_conn_close(c, false);
        return;
    }
    c->state = CONN_LINGERING;
    c->since_ms = server_now(c->server);
    stream_shutdown(c->stream);
}

static void conn_answer_bad(struct server_conn *c, int code, const struct err *err)
{
    struct server *s = c->server;
    struct buf out;
    struct slice v;
    const char *text = err_title(code);

    buf_init(&out, SERVER_HEAD_OUT_MAX);
    if (s->handler.on_bad_request != NULL) {
        s->handler.on_bad_request(code, err, &out, s->data);
    } else {
        (void)http_write_status(&out, err_http_status(code), NULL); /* ours: valid */
        (void)http_write_header_str(&out, "Content-Type", "text/plain");
        (void)http_write_header_u64(&out, "Content-Length", strlen(text));
        (void)http_write_header_str(&out, "Connection", "close");
        (void)http_write_end(&out);
        (void)buf_str(&out, text);
    }
    v = buf_view(&out);
    if (v.n > 0)
        (void)stream_write(c->stream, &v, 1); /* broken: on_error closes */
    buf_fini(&out);
    conn_finish(c, true);
}

/* --- the head --- */

static void slice_move(struct slice *s, struct slice from, const char *to)
{
    if (s->p != NULL && s->p >= from.p && s->p <= from.p + from.n)
        s->p = to + (s->p - from.p);
}

/* The parsed slices point into bytes that will be overwritten: gives them a home in the arena. */
static void request_settle(struct exchange *ex, struct slice head)
{
    struct http_request *r = &ex->request;
    char *home = arena_alloc(&ex->arena, head.n);
    size_t i;

    memcpy(home, head.p, head.n);
    slice_move(&r->method, head, home);
    slice_move(&r->target, head, home);
    slice_move(&r->path, head, home);
    slice_move(&r->query, head, home);
    slice_move(&r->host, head, home);
    slice_move(&r->upgrade, head, home);
    for (i = 0; i < r->n_headers; i++) {
        slice_move(&r->headers[i].name, head, home);
        slice_move(&r->headers[i].value, head, home);
    }
}

static bool conn_step_head(struct server_conn *c)
{
    struct server *s = c->server;
    struct exchange *ex;
    const struct http_request *r;
    struct err err;
    size_t n = 0;
    int rc;

    if (c->window.n == 0 || stream_queued(c->stream) > 0) /* one answer at a time: on_drain goes on */
        return false;
    if (c->n_turn >= SERVER_HEADS_PER_TURN) { /* the others' turn; the kick goes on */
        server_conn_kick(c);
        return false;
    }
    if (c->since_ms == 0)
        c->since_ms = server_now(s);
    ex = server_exchange_take(s);
    rc = http_parse_request(c->window, s->limits.parse_flags, &c->head_scanned, &ex->request, &n, &err);
    if (rc == E_AGAIN ? c->window.n >= s->limits.head_bytes_max : rc == 0 && n > s->limits.head_bytes_max)
        rc =
            err_set(&err, E_HEADERS_TOO_LARGE, "the head is larger than %zu bytes", s->limits.head_bytes_max);
    if (rc != 0) {
        server_exchange_give(s, ex);
        if (rc == E_AGAIN)
            return false;
        conn_answer_bad(c, rc, &err);
        return true;
    }
    request_settle(ex, slice_of(c->window.p, n));
    r = &ex->request;
    c->window = slice_from(c->window, n);
    c->head_scanned = 0;
    c->since_ms = 0;
    c->is_body_chunked = r->is_chunked;
    c->body_left = r->is_chunked ? 0 : r->length;
    c->is_body_done = !r->is_chunked && r->length == 0;
    if (r->is_chunked)
        http_chunks_init(&c->chunks);
    c->n_turn++;
    c->state = CONN_EXCHANGE;
    c->ex = ex;
    ex->conn = c;
    ex->is_close = !r->is_keepalive;
    if (c->tag != NULL)
        ex->tag = arena_strdup(&ex->arena, c->tag);
    s->handler.on_request(ex, s->data);
    return true;
}

/* --- the body --- */

static void conn_body_broken(struct server_conn *c, int code, const struct err *err)
{
    struct exchange *ex = c->ex;
    bool is_virgin = ex != NULL && !ex->has_head;

    if (ex == NULL) { /* skipping */
        conn_finish(c, true);
        return;
    }
    ex->peer = arena_slice(&ex->arena, slice_str(server_conn_peer(c)));
    ex->conn = NULL;
    c->ex = NULL;
    if (is_virgin)
        conn_answer_bad(c, code, err);
    else
        server_conn_close(c, true); /* the answer cannot be completed: the client must see that */
    exchange_client_left(ex);
}

/* Takes body bytes from the window. */
static bool conn_body_take(struct server_conn *c, struct slice *ret_data)
{
    struct err err;
    size_t used;
    int rc;

    if (c->is_body_chunked) {
        rc = http_chunks_feed(&c->chunks, c->window, &used, ret_data, &err);
        if (rc < 0) {
            conn_body_broken(c, rc, &err);
            return false;
        }
        c->is_body_done = rc == 1;
    } else {
        used = c->body_left < c->window.n ? (size_t)c->body_left : c->window.n;
        *ret_data = slice_of(c->window.p, used);
        c->body_left -= used;
        c->is_body_done = c->body_left == 0;
    }
    c->window = slice_from(c->window, used);
    return true;
}

static bool conn_step_exchange(struct server_conn *c)
{
    struct exchange *ex = c->ex;
    struct slice data;

    if (ex->is_refused) {
        exchange_deliver_refusal(ex);
        return true;
    }
    if (!ex->wants_body)
        return false;
    if (c->is_body_done) {
        if (ex->is_body_end_told)
            return false;
        exchange_deliver_end(ex);
        return true;
    }
    if (c->window.n == 0) {
        if (c->is_eof) /* the body will never be complete */
            conn_abort(c, false);
        return false;
    }
    if (conn_body_take(c, &data) && data.n > 0)
        exchange_deliver(ex, data);
    return true;
}

static void conn_next(struct server_conn *c)
{
    c->state = CONN_WAITING;
    c->head_scanned = 0;
    c->since_ms = 0;
    c->active_ms = server_now(c->server);
    if (c->is_eof || c->server->is_draining)
        conn_finish(c, false);
}

static bool conn_step_skip(struct server_conn *c)
{
    struct slice data;

    if (c->is_body_done) {
        conn_next(c);
        return true;
    }
    if (c->window.n == 0)
        return false;
    if (!conn_body_take(c, &data))
        return true;
    if (data.n > c->skip_left) {
        conn_finish(c, true);
        return true;
    }
    c->skip_left -= data.n;
    return true;
}

void server_conn_answered(struct server_conn *c, bool is_close)
{
    bool was_processing = c->is_processing;

    c->is_processing = true; /* a hold over what may close it */
    if (!c->is_body_done && (is_close || (!c->is_body_chunked && c->body_left > SERVER_SKIP_MAX))) {
        conn_finish(c, true);
    } else if (!c->is_body_done) {
        c->state = CONN_SKIPPING;
        c->skip_left = SERVER_SKIP_MAX;
        c->since_ms = server_now(c->server);
    } else if (is_close) {
        conn_finish(c, false);
    } else {
        conn_next(c);
    }
    c->is_processing = was_processing;
    if (was_processing)
        return; /* the machine goes on by itself */
    if (c->state != CONN_CLOSED && c->in.n > 0)
        server_conn_kick(c); /* not the next request inside the handler's call */
    conn_after(c);
}

/* --- the machine --- */

static bool conn_step(struct server_conn *c)
{
    switch (c->state) {
    case CONN_WAITING:
        return conn_step_head(c);
    case CONN_EXCHANGE:
        return conn_step_exchange(c);
    case CONN_SKIPPING:
        return conn_step_skip(c);
    case CONN_FLUSHING:
    case CONN_LINGERING:
    case CONN_CLOSED:
        c->window = SLICE_EMPTY; /* dropped */
        return false;
    }
    return false;
}

/* Works on the bytes as far as it goes; gives how many are left at their end. */
static size_t conn_process(struct server_conn *c, struct slice bytes)
{
    size_t left;

    c->window = bytes;
    c->is_processing = true;
    while (conn_step(c)) {
    }
    c->is_processing = false;
    left = c->window.n;
    c->window = SLICE_EMPTY;
    return left;
}

static void conn_process_in(struct server_conn *c)
{
    size_t n = c->in.n, left = conn_process(c, buf_view(&c->in));

    if (c->state == CONN_CLOSED)
        return;
    buf_consume(&c->in, n - left);
}

/* After every round: memory and reading follow the state. */
static void conn_after(struct server_conn *c)
{
    if (c->state == CONN_CLOSED) {
        conn_maybe_free(c);
        return;
    }
    if (c->in.n == 0 && c->in.p != NULL)
        buf_fini(&c->in);
    if (c->in.n >= SERVER_IN_HIGH || (c->is_kicked && c->in.n > 0))
        stream_read_stop(c->stream);
    else if (!c->is_eof)
        stream_read_start(c->stream);
}

struct slice server_conn_waiting(const struct server_conn *c)
{
    return c->is_processing ? c->window : buf_view(&c->in);
}

static void on_kick(void *data)
{
    struct server_conn *c = data;

    c->is_kicked = false;
    c->n_turn = 0; /* a keep-alive client pays a kick in so many requests */
    if (c->state != CONN_CLOSED && c->is_expired) {
        conn_abort(c, c->state != CONN_WAITING && c->state != CONN_LINGERING);
        return;
    }
    if (c->state != CONN_CLOSED) {
        c->is_processing = true; /* a hold over what may close it */
        if (c->state == CONN_WAITING && c->in.n == 0 && c->server->is_draining)
            conn_finish(c, false);
        c->is_processing = false;
        if (c->state != CONN_CLOSED)
            conn_process_in(c);
    }
    conn_after(c);
}

void server_conn_kick(struct server_conn *c)
{
    if (c->is_kicked || c->state == CONN_CLOSED)
        return;
    c->is_kicked = true;
    loop_defer(c->server->loop, on_kick, c);
}

/* --- the stream's events --- */

static void on_read(struct stream *stream, struct slice bytes, void *data)
{
    struct server_conn *c = data;

    (void)stream;
    c->active_ms = server_now(c->server);
    c->is_expired = false; /* they came between the sweep and its kick: the next sweep judges anew */
    if (c->in.n == 0) {
        size_t left = conn_process(c, bytes);

        if (left > 0 && c->state != CONN_CLOSED)
            must(buf_slice(&c->in, slice_from(bytes, bytes.n - left)) == 0);
    } else {
        must(buf_slice(&c->in, bytes) == 0); /* reading stops at SERVER_IN_HIGH */
        conn_process_in(c);
    }
    conn_after(c);
}

static void on_eof(struct stream *stream, void *data)
{
    struct server_conn *c = data;

    (void)stream;
    c->is_eof = true;
    if (c->state == CONN_EXCHANGE && (c->ex->request.is_keepalive || c->ex->is_endless)) {
        conn_abort(c, false);
    } else if (c->state == CONN_EXCHANGE) {
        server_conn_kick(c); /* a body that is not complete now never will be */
    } else if (c->state == CONN_FLUSHING || stream_queued(c->stream) > 0) {
        c->state = CONN_FLUSHING; /* the answer may still be read */
        c->must_linger = false;
    } else {
        server_conn_close(c, false);
    }
}

static void on_error(struct stream *stream, int code, void *data)
{
    (void)stream;
    (void)code;
    conn_abort(data, true);
}

static void on_drain(struct stream *stream, void *data)
{
    struct server_conn *c = data;
    struct exchange *ex = c->ex;

    (void)stream;
    if (c->state == CONN_FLUSHING) {
        conn_finish(c, c->must_linger);
    } else if (c->state == CONN_EXCHANGE) {
        if (ex->events != NULL && ex->events->on_drain != NULL)
            ex->events->on_drain(ex, ex->data);
    } else if (c->state == CONN_WAITING && c->in.n > 0) {
        server_conn_kick(c);
    }
}

static const struct stream_events conn_events = {
    .on_read = on_read, .on_eof = on_eof, .on_error = on_error, .on_drain = on_drain};

void server_conn_start(struct server *s, struct stream *stream, struct slice tag)
{
    struct server_conn *c = MEM_NEW(struct server_conn);

    c->server = s;
    c->stream = stream;
    c->state = CONN_WAITING;
    c->active_ms = server_now(s);
    if (tag.n > 0)
        c->tag = mem_strndup(tag.p, tag.n < 63 ? tag.n : 63);
    buf_init(&c->in, SERVER_IN_HIGH + HTTP_HEAD_BYTES_MAX + LOOP_READ_BYTES);
    DL_APPEND(s->conns, c);
    s->n_conns++;
    s->n_conns_held++;
    stream_own(stream, &conn_events, c);
    stream_read_start(stream);
}

/* --- deadlines --- */

/* Only marks and kicks: the sweep walks the list. */
void server_conn_check(struct server_conn *c, int64_t now)
{
    const struct server_limits *l = &c->server->limits;
    size_t queued = stream_queued(c->stream);
    bool is_over = false;

    if (queued == 0 || queued != c->queued_seen) {
        c->queued_seen = queued;
        c->queued_ms = now;
    } else {
        is_over = now - c->queued_ms > l->write_timeout_ms;
    }
    switch (c->state) {
    case CONN_WAITING:
        if (queued > 0)
            break;
        is_over = c->since_ms != 0 ? now - c->since_ms > l->head_timeout_ms
                                   : now - c->active_ms > l->idle_timeout_ms;
        break;
    case CONN_EXCHANGE:
        if (c->ex->wants_body && !c->is_body_done && now - c->active_ms > l->body_timeout_ms)
            is_over = true;
        break;
    case CONN_SKIPPING:
    case CONN_LINGERING:
        if (now - c->since_ms > SERVER_LINGER_MS)
            is_over = true;
        break;
    case CONN_FLUSHING:
    case CONN_CLOSED:
        break;
    }
    if (is_over) {
        c->is_expired = true;
        server_conn_kick(c);
    }
}

const char *server_conn_peer(struct server_conn *c)
{
    char text[STREAM_PEER_MAX];

    if (c->peer == NULL) {
        stream_peer(c->stream, text);
        c->peer = mem_strdup(text);
    }
    return c->peer;
}
