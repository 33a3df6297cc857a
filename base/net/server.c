/* server: listeners, deadlines, draining, and what connections share (spare exchanges and head buffers, the
 * date).
 *
 * Happy path: a listener hands over a stream, server_conn.c reads requests from it, exchange.c answers. One
 * coarse timer looks at all connections' deadlines, so that arming one costs a store. Failure paths: over the
 * limit of connections new ones are closed at once; draining lets exchanges end, then resets; the server is
 * freed when all its listeners, connections, timers and exchanges are gone. */
#include "base/net/server.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "base/core/log.h"
#include "base/core/mem.h"
#include "base/net/server_conn.h"

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

enum { SERVER_SPARE_MAX = 64 };
enum { SERVER_SPARE_HEAD_BYTES_MAX = 8192 };

int64_t server_now(const struct server *s)
{
    return (int64_t)uv_now(&s->loop->uv);
}

/* --- shared by connections --- */

struct exchange *server_exchange_take(struct server *s)
{
    struct exchange *ex = s->spare;

    if (ex != NULL) {
        struct arena arena = ex->arena;

        s->spare = ex->next_spare;
        s->n_spare--;
        memset(ex, 0, offsetof(struct exchange, request));
        ex->arena = arena;
    } else {
        ex = mem_alloc(sizeof(*ex));
        memset(ex, 0, offsetof(struct exchange, request));
        ex->arena = ARENA_INIT;
    }
    ex->server = s;
    s->n_exchanges++;
    return ex;
}

void server_exchange_give(struct server *s, struct exchange *ex)
{
    s->n_exchanges--;
    buf_fini(&ex->body);
    if (!SPARES_ARE_KEPT || s->n_spare >= SERVER_SPARE_MAX || s->is_closing) {
        arena_fini(&ex->arena);
        mem_free(ex);
        server_settle(s);
        return;
    }
    arena_reset(&ex->arena);
    ex->next_spare = s->spare;
    s->spare = ex;
    s->n_spare++;
}

void server_head_take(struct server *s, struct buf *ret)
{
    if (s->n_heads > 0)
        *ret = s->heads[--s->n_heads];
    else
        buf_init(ret, SERVER_HEAD_OUT_MAX);
}

void server_head_give(struct server *s, struct buf *head)
{
    if (head->cap > SERVER_SPARE_HEAD_BYTES_MAX || s->n_heads >= SERVER_HEADS_KEPT) {
        buf_fini(head);
        return;
    }
    buf_reset(head);
    s->heads[s->n_heads++] = *head;
    buf_init(head, SERVER_HEAD_OUT_MAX);
}

/* RFC 9110 section 5.6.7, made once a second. */
struct slice server_date(struct server *s)
{
    static const char days[7][4] = {"Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"}; /* from 1970-01-01 */
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t wall_ms = clock_wall_ms(s->loop->clock), now_s = wall_ms / 1000;
    int year, month, day, of_day;

    if (now_s != s->date_s || s->date[0] == '\0') {
        time_civil(wall_ms, &year, &month, &day);
        of_day = (int)(now_s % 86400);
        (void)snprintf(s->date, sizeof(s->date), "%s, %02d %s %04d %02d:%02d:%02d GMT",
                       days[now_s / 86400 % 7], day % 100, months[(month - 1) % 12], year % 10000,
                       of_day / 3600, of_day / 60 % 60, of_day % 60);
        s->date_s = now_s;
    }
    return slice_str(s->date);
}

/* --- deadlines --- */

static void on_sweep(void *data)
{
    struct server *s = data;
    struct server_conn *c;
    int64_t now = server_now(s);

    DL_FOREACH (s->conns, c)
        server_conn_check(c, now); /* at most marks it: nothing leaves the list here */
    if (s->conns == NULL) {
        timer_stop(&s->sweep);
        s->is_sweeping = false;
    }
}

static int64_t sweep_every_ms(const struct server_limits *l)
{
    int64_t least = l->head_timeout_ms;

    if (l->idle_timeout_ms < least)
        least = l->idle_timeout_ms;
    if (l->write_timeout_ms < least)
        least = l->write_timeout_ms;
    if (l->body_timeout_ms < least)
        least = l->body_timeout_ms;
    least /= 8;
    return least < 5 ? 5 : least > 1000 ? 1000 : least;
}

/* --- making, listening --- */

static void on_drain_deadline(void *data);

struct server *server_new(struct loop *l, const struct server_limits *limits,
                          const struct server_handler *handler, void *data)
{
    struct server *s = MEM_NEW(struct server);
    struct server_limits *m = &s->limits;

    s->loop = l;
    if (limits != NULL)
        *m = *limits;
    if (m->head_bytes_max == 0 || m->head_bytes_max > HTTP_HEAD_BYTES_MAX)
        m->head_bytes_max = HTTP_HEAD_BYTES_MAX;
    if (m->connections_max == 0)
        m->connections_max = 10000;
    if (m->head_timeout_ms == 0)
        m->head_timeout_ms = 10 * 1000;
    if (m->idle_timeout_ms == 0)
        m->idle_timeout_ms = 75 * 1000;
    if (m->write_timeout_ms == 0)
        m->write_timeout_ms = 60 * 1000;
    if (m->body_timeout_ms == 0)
        m->body_timeout_ms = 60 * 1000;
    if (m->handshakes_max == 0)
        m->handshakes_max = 512;
    if (m->handshake_timeout_ms == 0)
        m->handshake_timeout_ms = 10 * 1000;
    s->handler = *handler;
    s->data = data;
    timer_init(&s->sweep, l, on_sweep, s);
    timer_init(&s->drain_deadline, l, on_drain_deadline, s);
    s->has_sweep = true;
    return s;
}

void server_serve(struct server *s, struct stream *stream, struct slice tag)
{
    if (s->is_draining || s->is_closing || s->n_conns >= s->limits.connections_max) {
        stream_close(stream);
        return;
    }
    if (!s->is_sweeping) {
        s->is_sweeping = true;
        timer_repeat(&s->sweep, sweep_every_ms(&s->limits));
    }
    server_conn_start(s, stream, tag);
}

/* --- TLS --- */

static void on_shaken(int code, struct stream *stream, const struct err *err, void *data)
{
    struct server_handshake *h = data;
    struct server *s = h->server;

    if (!h->is_given_up)
        DL_DELETE(s->handshakes, h);
    s->n_handshakes--;
    mem_free(h);
    if (code == 0) {
        s->tls_stats.done++;
        server_serve(s, stream, SLICE_EMPTY);
    } else {
        s->tls_stats.failed++;
        log_debug("tls.handshake_failed", LF_STR("detail", err->msg));
    }
    server_settle(s);
}

static void handshake_give_up(struct server_handshake *h)
{
    DL_DELETE(h->server->handshakes, h);
    h->is_given_up = true;
    tls_handshake_cancel(h->handshake); /* on_shaken follows */
}

static void handshakes_give_up(struct server *s)
{
    while (s->handshakes != NULL)
        handshake_give_up(s->handshakes);
}

/* Honest clients need a moment, so of too many the oldest are those that stall. */
static void handshake_begin(struct server *s, struct stream *stream, struct tls_server *tls)
{
    struct server_handshake *h;

    if (s->is_draining || s->is_closing || s->n_conns + s->n_handshakes >= s->limits.connections_max) {
        stream_close(stream);
        return;
    }
    h = MEM_NEW(struct server_handshake);
    h->server = s;
    DL_APPEND(s->handshakes, h);
    s->n_handshakes++;
    h->handshake = tls_server_accept(tls, stream, s->limits.handshake_timeout_ms, on_shaken, h);
    if (s->n_handshakes > s->limits.handshakes_max) {
        s->tls_stats.dropped++;
        handshake_give_up(s->handshakes);
    }
}

const struct server_tls_stats *server_tls_stats(const struct server *s)
{
    return &s->tls_stats;
}

static void on_stream(struct listener *l, struct stream *stream, void *data)
{
    struct server_listener *sl = data;

    (void)l;
    if (sl->tls != NULL)
        handshake_begin(sl->server, stream, sl->tls);
    else
        server_serve(sl->server, stream, SLICE_EMPTY);
}

static void server_add_listener(struct server *s, struct server_listener *sl)
{
    sl->next = s->listeners;
    s->listeners = sl;
    s->n_listeners++;
}

int server_listen(struct server *s, const struct endpoint *at, uint16_t *ret_port, struct err *err)
{
    return server_listen_tls(s, at, NULL, ret_port, err);
}

int server_listen_tls(struct server *s, const struct endpoint *at, struct tls_server *tls, uint16_t *ret_port,
                      struct err *err)
{
    struct server_listener *sl = MEM_NEW(struct server_listener);
    int rc;

    sl->server = s;
    sl->tls = tls;
    rc = listener_open(s->loop, at, on_stream, sl, &sl->listener, err);
    if (rc != 0) {
        mem_free(sl);
        return rc;
    }
    server_add_listener(s, sl);
    if (ret_port != NULL)
        *ret_port = listener_port(sl->listener);
    return 0;
}

int server_listen_fd(struct server *s, int fd, struct err *err)
{
    struct server_listener *sl = MEM_NEW(struct server_listener);
    int rc;

    sl->server = s;
    rc = listener_from_fd(s->loop, fd, on_stream, sl, &sl->listener, err);
    if (rc != 0) {
        mem_free(sl);
        return rc;
    }
    server_add_listener(s, sl);
    return 0;
}

size_t server_ports(const struct server *s, uint16_t *out, size_t max)
{
    size_t n = 0;
    for (const struct server_listener *sl = s->listeners; sl != NULL && n < max; sl = sl->next)
        if (sl->listener != NULL && listener_port(sl->listener) != 0)
            out[n++] = listener_port(sl->listener);
    return n;
}

size_t server_connections(const struct server *s)
{
    return s->n_conns;
}

/* --- the end --- */

static void on_listener_closed(void *data)
{
    struct server_listener *sl = data;
    struct server *s = sl->server;

    s->n_listeners--;
    mem_free(sl);
    server_settle(s);
}

static void listeners_close(struct server *s)
{
    while (s->listeners != NULL) {
        struct server_listener *sl = s->listeners;

        s->listeners = sl->next;
        listener_close(sl->listener, on_listener_closed, sl);
    }
}

static void server_free(void *data)
{
    struct server *s = data;
    void (*closed)(void *) = s->closed;
    void *closed_data = s->closed_data;

    while (s->spare != NULL) {
        struct exchange *ex = s->spare;

        s->spare = ex->next_spare;
        arena_fini(&ex->arena);
        mem_free(ex);
    }
    while (s->n_heads > 0)
        buf_fini(&s->heads[--s->n_heads]);
    mem_free(s);
    if (closed != NULL)
        closed(closed_data);
}

static void on_drain_timer_closed(void *data)
{
    server_free(data);
}

static void on_sweep_closed(void *data)
{
    struct server *s = data;

    timer_close(&s->drain_deadline, on_drain_timer_closed);
}

static void on_settle(void *data)
{
    struct server *s = data;

    s->is_settling = false;
    if (s->drained != NULL && (s->n_conns == 0 || s->is_closing)) {
        void (*drained)(void *) = s->drained;

        s->drained = NULL;
        timer_stop(&s->drain_deadline);
        s->is_settling = true; /* holds the server over the call */
        drained(s->drained_data);
        s->is_settling = false;
    }
    if (s->is_closing && s->has_sweep && s->n_conns_held == 0 && s->n_exchanges == 0 && s->n_listeners == 0 &&
        s->n_handshakes == 0) {
        s->has_sweep = false;
        timer_close(&s->sweep, on_sweep_closed);
    }
}

void server_settle(struct server *s)
{
    if (s->is_settling || (!s->is_closing && s->drained == NULL))
        return;
    s->is_settling = true;
    loop_defer(s->loop, on_settle, s);
}

static void conns_reset(struct server *s)
{
    while (s->conns != NULL) { /* each leaves the list */
        struct server_conn *c = s->conns;
        struct exchange *ex = c->ex;

        if (ex != NULL) {
            ex->peer = arena_slice(&ex->arena, slice_str(server_conn_peer(c)));
            ex->conn = NULL;
            c->ex = NULL;
        }
        server_conn_close(c, true);
        if (ex != NULL)
            exchange_client_left(ex);
    }
}

static void on_drain_deadline(void *data)
{
    conns_reset(data);
}

void server_drain(struct server *s, int64_t deadline_ms, void (*drained)(void *data), void *data)
{
    struct server_conn *c;

    must(s->drained == NULL && !s->is_closing);
    s->is_draining = true;
    s->drained = drained;
    s->drained_data = data;
    listeners_close(s);
    handshakes_give_up(s);
    DL_FOREACH (s->conns, c)
        server_conn_kick(c); /* closes those that wait for a request */
    timer_start(&s->drain_deadline, deadline_ms);
    server_settle(s);
}

void server_close(struct server *s, void (*closed)(void *data), void *data)
{
    must(!s->is_closing);
    s->is_closing = true;
    s->closed = closed;
    s->closed_data = data;
    listeners_close(s);
    timer_stop(&s->sweep);
    timer_stop(&s->drain_deadline);
    handshakes_give_up(s);
    conns_reset(s);
    server_settle(s);
}
