/* client: the pool of connections to one origin.
 *
 * Happy path: a call gets the connection that was used last, or a new one, or waits in a bounded queue; when
 * its exchange is complete on both sides and nothing unread is left, the connection goes to the next in the
 * queue or becomes idle. An idle connection is read from, so that its end, or a byte that nobody asked for,
 * closes it at once. One timer serves all deadlines of all calls: arming one is a store. Failure paths:
 * everything that is not provably complete closes the connection (call.c decides). */
#include "base/net/client.h"

#include <stddef.h>
#include <string.h>
#include <utlist.h>

#include "base/core/mem.h"
#include "base/net/client_pool.h"

/* Sanitized builds use nothing twice, so that use after the end is seen. */
#if defined(__SANITIZE_ADDRESS__)
#define SPARES_ARE_KEPT false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SPARES_ARE_KEPT false
#endif
#endif
#ifndef SPARES_ARE_KEPT
#define SPARES_ARE_KEPT true
#endif

enum { POOL_SPARE_MAX = 64 };
enum { POOL_SPARE_HEAD_BYTES_MAX = 8192, POOL_TIMER_STEP_MS = 5 };

static void pool_settle(struct http_pool *p);

int64_t pool_now(const struct http_pool *p)
{
    return (int64_t)uv_now(&p->loop->uv);
}

/* --- what calls share --- */

void pool_head_take(struct http_pool *p, struct buf *ret)
{
    if (p->n_heads > 0)
        *ret = p->heads[--p->n_heads];
    else
        buf_init(ret, CLIENT_OUT_MAX);
}

void pool_head_give(struct http_pool *p, struct buf *head)
{
    if (head->p == NULL || head->cap > POOL_SPARE_HEAD_BYTES_MAX || p->n_heads >= CLIENT_HEADS_KEPT) {
        buf_fini(head);
        return;
    }
    buf_reset(head);
    p->heads[p->n_heads++] = *head;
    buf_init(head, CLIENT_OUT_MAX);
}

struct http_call *pool_call_take(struct http_pool *p)
{
    struct http_call *c = p->spare;

    if (c != NULL) {
        p->spare = c->next;
        p->n_spare--;
        *c = (struct http_call){0};
    } else {
        c = MEM_NEW(struct http_call);
    }
    c->pool = p;
    buf_init(&c->out, CLIENT_OUT_MAX);
    p->n_calls_held++;
    return c;
}

void pool_call_give(struct http_pool *p, struct http_call *c)
{
    pool_head_give(p, &c->out);
    p->n_calls_held--;
    if (!SPARES_ARE_KEPT || p->n_spare >= POOL_SPARE_MAX || p->is_closing) {
        mem_free(c);
    } else {
        c->next = p->spare;
        p->spare = c;
        p->n_spare++;
    }
    pool_settle(p);
}

/* --- connections --- */

static void conn_maybe_free(struct client_conn *k)
{
    struct http_pool *p = k->pool;

    if (k->state != CLIENT_CLOSED || k->is_processing || k->connecting != NULL)
        return;
    buf_fini(&k->in);
    mem_free(k);
    p->n_conns_held--;
    pool_settle(p);
}

static void conn_unlist(struct client_conn *k)
{
    struct http_pool *p = k->pool;

    if (k->state == CLIENT_IDLE) {
        DL_DELETE(p->idle, k);
        p->n_idle--;
    } else {
        DL_DELETE(p->conns, k);
    }
}

static void conn_close(struct client_conn *k, bool is_reset)
{
    if (k->state == CLIENT_CLOSED)
        return;
    conn_unlist(k);
    k->state = CLIENT_CLOSED;
    k->pool->n_conns--;
    k->window = SLICE_EMPTY;
    k->call = NULL;
    if (k->stream != NULL) {
        if (is_reset)
            stream_reset(k->stream);
        else
            stream_close(k->stream);
        k->stream = NULL;
    }
    if (k->connecting != NULL)
        k->pool->connector.cancel(&k->pool->connector, k->connecting); /* on_connected frees */
    conn_maybe_free(k);
}

void client_conn_drop(struct client_conn *k)
{
    conn_close(k, true);
}

struct stream *client_conn_give_away(struct client_conn *k)
{
    struct stream *s = k->stream;

    stream_read_stop(s);
    k->stream = NULL;
    conn_close(k, false);
    return s;
}

void client_conn_release(struct client_conn *k, bool is_reusable)
{
    struct http_pool *p = k->pool;

    size_t unread = k->is_processing ? k->window.n : k->in.n;

    k->call = NULL;
    if (!is_reusable || p->is_closing || p->is_retiring || unread > 0) {
        conn_close(k, false);
        pool_serve_queue(p);
        return;
    }
    conn_unlist(k);
    k->state = CLIENT_IDLE;
    k->uses++;
    k->head_scanned = 0;
    k->idle_since_ms = pool_now(p);
    DL_PREPEND(p->idle, k);
    p->n_idle++;
    pool_serve_queue(p);
    if (k->state == CLIENT_IDLE) {
        pool_arm(p, k->idle_since_ms + p->limits.idle_timeout_ms);
        if (p->n_idle > p->limits.idle_max)
            conn_close(p->idle->prev, false); /* the one unused for longest */
    }
}

/* Works on the bytes as far as it goes; gives how many are left at their end. */
static size_t conn_process(struct client_conn *k, struct slice bytes)
{
    size_t left;

    k->window = bytes;
    k->is_processing = true;
    for (;;) {
        if (k->state == CLIENT_IDLE && k->window.n > 0)
            conn_close(k, true); /* nobody asked */
        if (k->state != CLIENT_BUSY || !call_step(k->call, k))
            break;
    }
    k->is_processing = false;
    left = k->window.n;
    k->window = SLICE_EMPTY;
    return left;
}

/* After every round: memory and reading follow the state. */
static void conn_after(struct client_conn *k)
{
    if (k->state == CLIENT_CLOSED) {
        conn_maybe_free(k);
        return;
    }
    if (k->in.n == 0 && k->in.p != NULL)
        buf_fini(&k->in);
    if (k->in.n >= CLIENT_IN_HIGH)
        stream_read_stop(k->stream);
    else
        stream_read_start(k->stream);
}

static void conn_process_in(struct client_conn *k)
{
    size_t n = k->in.n, left = conn_process(k, buf_view(&k->in));

    if (k->state != CLIENT_CLOSED)
        buf_consume(&k->in, n - left);
    else
        buf_reset(&k->in);
}

void client_conn_resume(struct client_conn *k)
{
    conn_process_in(k);
    if (k->state == CLIENT_BUSY && k->is_eof && k->in.n == 0) {
        struct http_call *c = k->call;

        call_connection_lost(c, E_EOF);
        return;
    }
    conn_after(k);
}

static void on_read(struct stream *s, struct slice bytes, void *data)
{
    struct client_conn *k = data;

    (void)s;
    if (k->in.n == 0) {
        size_t left = conn_process(k, bytes);

        if (left > 0 && k->state != CLIENT_CLOSED)
            must(buf_slice(&k->in, slice_from(bytes, bytes.n - left)) == 0);
    } else {
        must(buf_slice(&k->in, bytes) == 0); /* reading stops at CLIENT_IN_HIGH */
        conn_process_in(k);
    }
    conn_after(k);
}

static void on_eof(struct stream *s, void *data)
{
    struct client_conn *k = data;

    (void)s;
    if (k->state != CLIENT_BUSY)
        conn_close(k, false);
    else if (k->call->is_paused && k->in.n > 0)
        k->is_eof = true; /* what came before is told first */
    else
        call_connection_lost(k->call, E_EOF);
}

static void on_error(struct stream *s, int code, void *data)
{
    struct client_conn *k = data;

    (void)s;
    if (k->state != CLIENT_BUSY)
        conn_close(k, true);
    else
        call_connection_lost(k->call, code);
}

static void on_write_error(struct stream *s, int code, void *data)
{
    struct client_conn *k = data;

    (void)s;
    if (k->state == CLIENT_BUSY)
        call_write_broken(k->call, code);
    else
        conn_close(k, true);
}

static void on_drain(struct stream *s, void *data)
{
    struct client_conn *k = data;

    (void)s;
    if (k->state == CLIENT_BUSY)
        call_drained(k->call);
}

static const struct stream_events conn_events = {.on_read = on_read,
                                                 .on_eof = on_eof,
                                                 .on_error = on_error,
                                                 .on_drain = on_drain,
                                                 .on_write_error = on_write_error};

static void on_connected(int code, struct stream *s, const struct err *err, void *data)
{
    struct client_conn *k = data;
    struct http_pool *p = k->pool;
    struct http_call *c = k->call;

    k->connecting = NULL;
    p->n_connecting--;
    if (k->state == CLIENT_CLOSED) { /* cancelled */
        if (s != NULL)
            stream_close(s);
        pool_serve_queue(p);
        conn_maybe_free(k);
        return;
    }
    if (code != 0) {
        c->conn = NULL;
        conn_close(k, false);
        call_fail(c, code, err);
        pool_serve_queue(p);
        return;
    }
    k->stream = s;
    stream_own(s, &conn_events, k);
    stream_read_start(s);
    k->state = CLIENT_BUSY; /* in the same list */
    pool_serve_queue(p);
    call_attach(c, k);
}

/* --- placing calls --- */

void pool_connect(struct http_pool *p, struct http_call *c)
{
    struct client_conn *k = MEM_NEW(struct client_conn);

    k->pool = p;
    k->state = CLIENT_CONNECTING;
    k->call = c;
    c->conn = k;
    buf_init(&k->in, CLIENT_IN_HIGH + HTTP_HEAD_BYTES_MAX + LOOP_READ_BYTES);
    DL_APPEND(p->conns, k);
    p->n_conns++;
    p->n_conns_held++;
    p->n_connecting++;
    k->connecting = p->connector.open(&p->connector, p->loop, c->connect_timeout_ms, on_connected, k);
}

static void call_give_idle(struct http_call *c, struct client_conn *k)
{
    conn_unlist(k);
    k->state = CLIENT_BUSY;
    DL_APPEND(k->pool->conns, k);
    call_attach(c, k);
}

static bool may_connect(const struct http_pool *p)
{
    return p->n_conns < p->limits.connections_max && p->n_connecting < p->limits.connecting_max;
}

void pool_place(struct http_pool *p, struct http_call *c)
{
    if (p->idle != NULL) {
        call_give_idle(c, p->idle);
    } else if (may_connect(p)) {
        pool_connect(p, c);
    } else if (p->n_queued < p->limits.queue_max) {
        DL_APPEND2(p->queue, c, queue_prev, queue_next);
        c->is_queued = true;
        p->n_queued++;
    } else {
        call_fail_later(c, E_UNAVAILABLE, "too many calls wait for a connection");
    }
}

void pool_serve_queue(struct http_pool *p)
{
    while (p->queue != NULL && !p->is_closing && (p->idle != NULL || may_connect(p))) {
        struct http_call *c = p->queue;

        DL_DELETE2(p->queue, c, queue_prev, queue_next);
        c->is_queued = false;
        p->n_queued--;
        pool_place(p, c);
    }
}

/* --- deadlines --- */

void pool_arm(struct http_pool *p, int64_t at_ms)
{
    if (p->is_closing || (p->armed_ms != 0 && p->armed_ms <= at_ms))
        return;
    p->armed_ms = at_ms;
    timer_start(&p->timer, at_ms - pool_now(p));
}

static void on_timer(void *data)
{
    struct http_pool *p = data;
    struct http_call *c;
    int64_t now = pool_now(p), next = 0;

    p->armed_ms = 0;
    DL_FOREACH (p->calls, c) { /* marked here, told in a later turn: nothing leaves the list */
        if (c->deadline_ms != 0 && c->deadline_ms <= now) {
            c->deadline_ms = 0;
            call_fail_later(c, E_TIMEOUT,
                            c->conn == NULL || c->conn->state == CLIENT_CONNECTING
                                ? "no connection within the deadline"
                            : c->has_head ? "the rest of the response did not come within the deadline"
                                          : "no response within the deadline");
        } else if (c->deadline_ms != 0 && (next == 0 || c->deadline_ms < next)) {
            next = c->deadline_ms;
        }
    }
    while (p->idle != NULL && p->idle->prev->idle_since_ms + p->limits.idle_timeout_ms <= now)
        conn_close(p->idle->prev, false);
    if (p->idle != NULL) {
        int64_t at = p->idle->prev->idle_since_ms + p->limits.idle_timeout_ms;

        next = next == 0 || at < next ? at : next;
    }
    if (next != 0)
        pool_arm(p, next < now + POOL_TIMER_STEP_MS ? now + POOL_TIMER_STEP_MS : next);
}

/* --- making and closing --- */

struct http_pool *http_pool_new(struct loop *l, const struct connector *c,
                                const struct http_pool_limits *limits)
{
    struct http_pool *p = MEM_NEW(struct http_pool);

    p->loop = l;
    p->connector = *c;
    if (limits != NULL)
        p->limits = *limits;
    if (p->limits.connections_max == 0)
        p->limits.connections_max = 256;
    if (p->limits.queue_max == 0)
        p->limits.queue_max = 1024;
    if (p->limits.connecting_max == 0)
        p->limits.connecting_max = 32;
    if (p->limits.idle_max == 0)
        p->limits.idle_max = 256;
    if (p->limits.idle_timeout_ms == 0)
        p->limits.idle_timeout_ms = 30 * 1000;
    timer_init(&p->timer, l, on_timer, p);
    return p;
}

void http_pool_drop_idle(struct http_pool *p)
{
    while (p->idle != NULL)
        conn_close(p->idle, false);
    pool_serve_queue(p);
}

static void on_pool_timer_closed(void *data)
{
    struct http_pool *p = data;

    while (p->spare != NULL) {
        struct http_call *c = p->spare;

        p->spare = c->next;
        mem_free(c);
    }
    while (p->n_heads > 0)
        buf_fini(&p->heads[--p->n_heads]);
    if (p->retired != NULL)
        p->retired(p->retired_data);
    mem_free(p);
}

static void pool_settle(struct http_pool *p)
{
    if (p->is_retiring && p->n_calls_held == 0)
        p->is_closing = true;
    if (!p->is_closing || p->is_timer_closed || p->n_conns_held > 0 || p->n_calls_held > 0)
        return;
    p->is_timer_closed = true;
    timer_close(&p->timer, on_pool_timer_closed);
}

void http_pool_close(struct http_pool *p)
{
    struct http_call *c;

    must(!p->is_closing && !p->is_retiring);
    p->is_closing = true;
    http_pool_drop_idle(p);
    timer_stop(&p->timer);
    DL_FOREACH (p->calls, c)
        call_fail_later(c, E_CANCELLED, "the pool is closed");
    pool_settle(p);
}

void http_pool_retire(struct http_pool *p, void (*retired)(void *data), void *data)
{
    must(!p->is_closing && !p->is_retiring);
    p->is_retiring = true;
    p->retired = retired;
    p->retired_data = data;
    http_pool_drop_idle(p);
    pool_settle(p);
}

/* --- the usual connector --- */

static void *endpoint_open(const struct connector *c, struct loop *l, int64_t timeout_ms,
                           connect_done_cb done, void *data)
{
    const struct connector_endpoint *e = c->data;

    return stream_connect(l, &e->to, timeout_ms, done, data);
}

static void endpoint_cancel(const struct connector *c, void *handle)
{
    (void)c;
    connect_cancel(handle);
}

void connector_endpoint_init(struct connector_endpoint *c, const struct endpoint *to)
{
    c->connector = (struct connector){endpoint_open, endpoint_cancel, c};
    c->to = *to;
}
