/* call: one request of the client and its response.
 *
 * Happy path: the head waits for the first body bytes, or the end of the present turn, and goes out with them
 * in one write; the response is parsed from the connection's bytes and told as it comes; when it is complete
 * the connection is given back before on_end is told. Failure paths: a reused connection that dies before the
 * first byte of the response is replaced once by a fresh one, where repeating is harmless (call_may_repeat).
 * A server that answers early and stops reading (413) still gets its answer heard: after a failed write
 * reading goes on for a few seconds, further body bytes are dropped, and the connection is not used again.
 * Every other failure ends the call with on_error and closes the connection. */
#include <string.h>
#include <utlist.h>

#include "base/core/mem.h"
#include "base/net/client_pool.h"

static void call_free(struct http_call *c)
{
    if (c->is_kicked)
        c->is_gone = true;
    else
        pool_call_give(c->pool, c);
}

/* Takes the call out of everything; its memory stays until call_free. */
static void call_detach(struct http_call *c)
{
    struct http_pool *p = c->pool;

    DL_DELETE(p->calls, c);
    if (c->is_queued) {
        DL_DELETE2(p->queue, c, queue_prev, queue_next);
        c->is_queued = false;
        p->n_queued--;
    }
}

void call_fail(struct http_call *c, int code, const struct err *err)
{
    struct http_pool *p = c->pool;
    struct client_conn *k = c->conn;

    c->conn = NULL;
    call_detach(c);
    if (k != NULL)
        client_conn_drop(k);
    c->events->on_error(c, code, err, c->data);
    call_free(c);
    pool_serve_queue(p);
}

static void call_fail_text(struct http_call *c, int code, const char *text)
{
    struct err err;

    (void)err_set(&err, code, "%s", text);
    call_fail(c, code, &err);
}

static void call_deadline(struct http_call *c, int64_t in_ms)
{
    c->deadline_ms = in_ms > 0 ? pool_now(c->pool) + in_ms : 0;
    if (c->deadline_ms != 0)
        pool_arm(c->pool, c->deadline_ms);
}

/* --- the request --- */

static bool call_is_on_wire(const struct http_call *c)
{
    return c->conn != NULL && c->conn->state == CLIENT_BUSY;
}

/* The wait for the response's head begins. */
static void call_request_ended(struct http_call *c)
{
    if (!c->has_head && !c->is_write_broken)
        call_deadline(c, c->head_timeout_ms);
}

/* Gives the memory of the request back when it cannot be needed again. */
static void call_out_forget(struct http_call *c)
{
    if (!c->is_out_pending)
        pool_head_give(c->pool, &c->out);
}

/* Writes what waits (head, early body) and the pieces behind it. */
static int call_send(struct http_call *c, const struct slice *pieces, size_t n)
{
    struct slice v[5];
    size_t at = 0, i;
    bool is_first = c->is_out_pending;
    int rc;

    if (is_first)
        v[at++] = buf_view(&c->out);
    for (i = 0; i < n; i++)
        v[at++] = pieces[i];
    if (at == 0)
        return 0;
    rc = stream_write(c->conn->stream, v, at);
    c->is_out_pending = false;
    if (rc != 0 && rc != E_AGAIN) {
        c->is_unsent = is_first;
        return rc;
    }
    if (c->conn->uses == 0 || c->is_body_sent)
        call_out_forget(c);
    return rc;
}

static void on_kick(void *data)
{
    struct http_call *c = data;
    struct client_conn *k;

    c->is_kicked = false;
    if (c->is_gone) {
        pool_call_give(c->pool, c);
        return;
    }
    if (c->fail_code != 0) {
        call_fail_text(c, c->fail_code, c->fail_text);
        return;
    }
    k = c->conn;
    if (!call_is_on_wire(c))
        return;
    if (c->is_out_pending)
        (void)call_send(c, NULL, 0); /* broken: call_write_broken comes */
    if (c->owes_drain && !c->is_write_broken && stream_queued(k->stream) == 0) {
        call_kick(c); /* for what is below: the call may be gone after on_drain */
        call_drained(c);
        return;
    }
    if (!c->is_paused && (k->in.n > 0 || k->is_eof || (c->has_head && c->mode == CALL_BODY_NONE)))
        client_conn_resume(k);
}

void call_kick(struct http_call *c)
{
    if (c->is_kicked)
        return;
    c->is_kicked = true;
    loop_defer(c->pool->loop, on_kick, c);
}

void call_fail_later(struct http_call *c, int code, const char *text)
{
    if (c->fail_code == 0) {
        c->fail_code = code;
        c->fail_text = text;
    }
    call_kick(c);
}

void call_attach(struct http_call *c, struct client_conn *k)
{
    k->call = c;
    k->head_scanned = 0;
    c->conn = k;
    c->deadline_ms = 0;
    if (c->is_request_ended || c->is_body_sent)
        (void)call_send(c, NULL,
                        0); /* E_AGAIN: owes_drain is set already where somebody waits; broken: told later */
    if (c->is_request_ended)
        call_request_ended(c);
    else
        call_kick(
            c); /* the head goes with the first body bytes, if they come in this turn; or on_drain is owed */
}

static bool method_is_idempotent(struct slice m) /* RFC 9110 section 9.2.2 */
{
    static const char *const names[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(names); i++)
        if (slice_eq_str(m, names[i]))
            return true;
    return false;
}

static bool header_is_ours(struct slice name)
{
    switch (name.n) {
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

static int call_head_write(struct http_call *c, const struct http_call_options *o)
{
    struct buf *out = &c->out;
    int rc = http_write_request(out, o->method, o->target);
    size_t i;

    for (i = 0; rc == 0 && i < o->n_headers; i++)
        if (!header_is_ours(o->headers[i].name))
            rc = http_write_header(out, o->headers[i].name, o->headers[i].value);
    if (rc == 0 && c->has_body && c->is_chunked)
        rc = http_write_header(out, SL("Transfer-Encoding"), SL("chunked"));
    else if (rc == 0 && c->has_body)
        rc = http_write_header_u64(out, "Content-Length", o->body.n > 0 ? o->body.n : o->length);
    if (rc == 0 && o->is_upgrade)
        rc = http_write_header(out, SL("Connection"), SL("Upgrade"));
    else if (rc == 0 && o->is_single)
        rc = http_write_header(out, SL("Connection"), SL("close"));
    if (rc == 0)
        rc = http_write_end(out);
    return rc == 0 && o->body.n > 0 ? buf_slice(out, o->body) : rc;
}

struct http_call *http_call_start(struct http_pool *p, const struct http_call_options *o,
                                  const struct http_call_events *events, void *data)
{
    struct http_call *c = pool_call_take(p);
    int rc;

    must(!p->is_closing && !p->is_retiring);
    c->events = events;
    c->data = data;
    c->is_head = slice_eq(o->method, SL("HEAD"));
    c->is_idempotent = method_is_idempotent(o->method);
    c->is_upgrade = o->is_upgrade;
    c->is_single = o->is_single;
    c->has_body = o->has_body || o->body.n > 0;
    c->is_chunked = o->body.n == 0 && o->length == HTTP_CALL_CHUNKED;
    c->left = o->body.n > 0 || c->is_chunked || !o->has_body ? 0 : o->length;
    c->is_request_ended = o->body.n > 0 || !o->has_body;
    c->connect_timeout_ms = o->connect_timeout_ms > 0 ? o->connect_timeout_ms : 5000;
    c->head_timeout_ms = o->head_timeout_ms;
    c->idle_timeout_ms = o->idle_timeout_ms;
    c->is_out_pending = true;
    DL_APPEND(p->calls, c);
    pool_head_take(p, &c->out);
    rc = call_head_write(c, o);
    if (rc != 0) {
        call_fail_later(c, rc, "the request's head cannot be written: an invalid or too large field");
        return c;
    }
    call_deadline(c, c->connect_timeout_ms);
    pool_place(p, c);
    return c;
}

/* Body bytes that wait for a connection. */
static int call_keep(struct http_call *c, const struct slice *v, size_t n)
{
    size_t i;

    if (c->out.n > CLIENT_EARLY_BODY_MAX) {
        call_fail_later(c, E_TOO_LARGE, "too much of the body was written before there was a connection");
        return E_TOO_LARGE;
    }
    for (i = 0; i < n; i++)
        must(buf_slice(&c->out, v[i]) == 0); /* CLIENT_OUT_MAX is far above, unless one write is that large */
    c->is_body_sent = true;
    c->owes_drain = true;
    return E_AGAIN;
}

int http_call_write(struct http_call *c, struct slice bytes)
{
    char size[HTTP_CHUNK_HEAD_MAX];
    struct slice v[3] = {bytes, SLICE_EMPTY, SLICE_EMPTY};
    size_t n = 1;
    int rc;

    must(c->has_body && !c->is_request_ended);
    if (c->fail_code != 0)
        return c->fail_code;
    if (bytes.n == 0)
        return 0;
    if (c->is_write_broken)
        return E_AGAIN; /* dropped: the answer or on_error comes */
    if (c->is_chunked) {
        v[0] = slice_of(size, http_chunk_head(bytes.n, size));
        v[1] = bytes;
        v[2] = SL("\r\n");
        n = 3;
    } else if (bytes.n > c->left) {
        call_fail_later(c, E_INVALID, "more body was written than was announced");
        return E_INVALID;
    } else {
        c->left -= bytes.n;
    }
    if (!call_is_on_wire(c))
        return call_keep(c, v, n);
    c->is_body_sent = true;
    rc = call_send(c, v, n);
    if (rc == 0)
        return 0;
    c->owes_drain = rc == E_AGAIN;
    return E_AGAIN; /* also when it broke: an early answer may be there to be read */
}

void http_call_end(struct http_call *c)
{
    struct slice last = SL(HTTP_LAST_CHUNK);

    if (c->is_request_ended)
        return;
    c->is_request_ended = true;
    c->owes_drain = false;
    if (c->fail_code != 0 || c->is_write_broken)
        return;
    if (c->left > 0) {
        call_fail_later(c, E_INVALID, "less body was written than was announced");
        return;
    }
    if (!call_is_on_wire(c)) {
        if (c->is_chunked)
            must(buf_slice(&c->out, last) == 0);
        return;
    }
    (void)call_send(c, &last, c->is_chunked ? 1 : 0); /* broken: call_write_broken comes */
    call_request_ended(c);
}

void call_drained(struct http_call *c)
{
    if (!c->owes_drain)
        return;
    c->owes_drain = false;
    if (c->events->on_drain != NULL && !c->is_request_ended)
        c->events->on_drain(c, c->data);
}

void call_write_broken(struct http_call *c, int code)
{
    (void)code; /* the reading side tells how it ends */
    c->is_write_broken = true;
    if (c->deadline_ms == 0 || c->deadline_ms > pool_now(c->pool) + CLIENT_EARLY_ANSWER_MS)
        call_deadline(c, CLIENT_EARLY_ANSWER_MS);
}

/* --- the response --- */

static void call_complete(struct http_call *c, bool is_clean)
{
    struct client_conn *k = c->conn;
    /* The last byte of a sized body ends the request, whether or not the caller has said so yet. */
    bool is_request_whole = c->is_request_ended || (!c->is_chunked && c->left == 0);
    bool is_reusable = is_clean && c->is_keepalive && is_request_whole && !c->is_single && !c->is_upgrade &&
                       !c->is_write_broken && !c->is_out_pending && !k->is_eof &&
                       stream_queued(k->stream) == 0;

    c->conn = NULL;
    call_detach(c);
    client_conn_release(k, is_reusable);
    c->events->on_end(c, c->data);
    call_free(c);
}

static void call_bad_response(struct http_call *c, const char *text)
{
    call_fail_text(c, E_UPSTREAM, text);
}

static void call_switch(struct http_call *c, struct client_conn *k, const struct http_response *r)
{
    struct slice rest = k->window;
    struct stream *s;

    if (!c->is_upgrade || c->events->on_upgrade == NULL) {
        call_bad_response(c, "an upgrade that was not asked for");
        return;
    }
    c->conn = NULL;
    call_detach(c);
    s = client_conn_give_away(k);
    c->events->on_upgrade(c, r, s, rest, c->data);
    pool_serve_queue(c->pool);
    call_free(c);
}

static bool call_informational(struct http_call *c, struct client_conn *k, const struct http_response *r)
{
    if (r->status == 101) {
        call_switch(c, k, r);
        return true;
    }
    if (++c->informational > CLIENT_INFORMATIONAL_MAX)
        call_bad_response(c, "too many informational responses");
    else if (r->status == 100 && c->events->on_continue != NULL)
        c->events->on_continue(c, c->data);
    return true;
}

static bool call_step_head(struct http_call *c, struct client_conn *k)
{
    struct http_response *r = &c->pool->response;
    struct err err;
    size_t n = 0;
    int rc;

    if (k->window.n == 0)
        return false;
    if (!c->has_bytes) {
        c->has_bytes = true;
        call_out_forget(c);
    }
    rc = http_parse_response(k->window, c->is_head, &k->head_scanned, r, &n, &err);
    if (rc == E_AGAIN)
        return false;
    if (rc != 0) {
        (void)err_prefix(&err, "malformed response");
        err.code = E_UPSTREAM; /* their mistake, not our caller's */
        call_fail(c, E_UPSTREAM, &err);
        return true;
    }
    k->window = slice_from(k->window, n);
    k->head_scanned = 0;
    if (r->status < 200)
        return call_informational(c, k, r);
    c->has_head = true;
    c->is_keepalive = r->is_keepalive;
    c->body_left = r->length;
    if (r->has_no_body || (r->has_length && r->length == 0)) {
        c->mode = CALL_BODY_NONE;
    } else if (r->is_chunked) {
        c->mode = CALL_BODY_CHUNKED;
        http_chunks_init(&c->chunks);
    } else {
        c->mode = r->has_length ? CALL_BODY_SIZED : CALL_BODY_UNTIL_CLOSE;
    }
    call_deadline(c, c->mode == CALL_BODY_NONE ? 0 : c->idle_timeout_ms);
    c->events->on_head(c, r, c->data);
    return true;
}

static bool call_step_body(struct http_call *c, struct client_conn *k)
{
    struct slice data = k->window;
    struct err err;
    bool is_done = false;
    size_t used = data.n;
    int rc;

    if (c->is_paused)
        return false;
    if (c->mode == CALL_BODY_NONE) {
        call_complete(c, true);
        return true;
    }
    if (data.n == 0)
        return false;
    if (c->mode == CALL_BODY_CHUNKED) {
        rc = http_chunks_feed(&c->chunks, k->window, &used, &data, &err);
        if (rc < 0) {
            (void)err_prefix(&err, "malformed response body");
            err.code = E_UPSTREAM;
            call_fail(c, E_UPSTREAM, &err);
            return true;
        }
        is_done = rc == 1;
    } else if (c->mode == CALL_BODY_SIZED) {
        used = c->body_left < data.n ? (size_t)c->body_left : data.n;
        data.n = used;
        c->body_left -= used;
        is_done = c->body_left == 0;
    }
    k->window = slice_from(k->window, used);
    if (is_done)
        c->mode = CALL_BODY_NONE; /* completed by the next step, if the reader does not pause or cancel */
    else if (c->idle_timeout_ms > 0)
        call_deadline(c, c->idle_timeout_ms);
    if (data.n > 0)
        c->events->on_body(c, data, c->data);
    return true;
}

bool call_step(struct http_call *c, struct client_conn *k)
{
    return c->has_head ? call_step_body(c, k) : call_step_head(c, k);
}

/* --- the end of the connection --- */

/* Repeating must not do anything twice (RFC 9110 section 9.2.2): the server saw nothing at all, or the method
 * is idempotent, or it saw a head whose body never came; and the request must still be here. */
static bool call_may_repeat(const struct http_call *c)
{
    if (c->is_repeated || c->has_bytes || c->conn->uses == 0 || c->out.n == 0 || c->pool->is_closing)
        return false;
    if (c->is_body_sent)
        return false;
    return c->is_unsent || c->is_idempotent || (c->has_body && !c->is_request_ended);
}

void call_connection_lost(struct http_call *c, int code)
{
    struct client_conn *k = c->conn;

    if (c->has_head && (c->mode == CALL_BODY_NONE || (c->mode == CALL_BODY_UNTIL_CLOSE && code == E_EOF))) {
        call_complete(c, false);
        return;
    }
    if (call_may_repeat(c)) {
        c->conn = NULL;
        client_conn_drop(k);
        c->is_repeated = true;
        c->is_out_pending = true;
        c->is_unsent = false;
        c->is_write_broken = false;
        call_deadline(c, c->connect_timeout_ms);
        pool_connect(c->pool, c);
        return;
    }
    if (c->has_head)
        call_fail_text(c, E_UPSTREAM, "the connection ended within the response");
    else
        call_fail_text(c, E_UPSTREAM, "the connection ended before the response");
}

/* --- the caller's other wishes --- */

void http_call_pause(struct http_call *c)
{
    c->is_paused = true;
    if (c->deadline_ms != 0 && c->has_head)
        c->deadline_ms = 0; /* our own pause is not the server's silence */
}

void http_call_resume(struct http_call *c)
{
    if (!c->is_paused)
        return;
    c->is_paused = false;
    if (!call_is_on_wire(c))
        return;
    if (c->has_head && c->mode != CALL_BODY_NONE)
        call_deadline(c, c->idle_timeout_ms);
    if (c->conn->in.n > 0 || c->conn->is_eof || (c->has_head && c->mode == CALL_BODY_NONE))
        call_kick(c);
}

void http_call_cancel(struct http_call *c)
{
    struct http_pool *p = c->pool;
    struct client_conn *k = c->conn;

    c->conn = NULL;
    call_detach(c);
    if (k != NULL)
        client_conn_drop(k);
    call_free(c);
    pool_serve_queue(p);
}
