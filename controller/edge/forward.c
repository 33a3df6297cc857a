/* forward: see forward.h.
 *
 * Happy path: the target is parsed, egress opens the way, then CONNECT becomes a tunnel, and an absolute-form
 * request goes out as one call on that connection, streaming both ways with back-pressure. Failure paths: a
 * refusal is a problem document, and its sentence stands in the status line as well: most tools show no body
 * of a CONNECT, but the reason phrase. What breaks later breaks the client's connection, so that half an
 * answer does not look whole. */
#include "controller/edge/forward.h"

#include "base/core/mem.h"
#include "controller/edge/egress.h"
#include "controller/edge/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FORWARD_HEAD_MS  ((int64_t)15 * 60 * 1000) /* the server outside may think so long */
#define FORWARD_BODY_MS  ((int64_t)15 * 60 * 1000)
#define REASON_BYTES_MAX 300

struct forward {
    struct controller *c;
    struct exchange *ex;
    struct egress_open *open; /* under way */
    struct http_pool *pool;   /* of the one call */
    struct http_call *call;
    struct target target;
    bool is_answered;
};

bool forward_is_meant(const struct http_request *r)
{
    return slice_eq_str(r->method, "CONNECT") ||
           (r->target.n > 0 && r->target.p[0] != '/' && r->target.p[0] != '*');
}

static void refuse(struct exchange *ex, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void refuse(struct exchange *ex, int code, const char *fmt, ...)
{
    char detail[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    struct buf out = BUF_INIT(ERR_MSG_MAX * 8);
    struct http_header h[] = {{SL("Content-Type"), SL("application/problem+json")},
                              {SL("Proxy-Status"), SL("reeve; error=http_request_denied")}};
    int status = err_http_status(code);
    char reason[REASON_BYTES_MAX];
    problem_write(&out, code, slice_str(detail), NULL);
    (void)snprintf(reason, sizeof reason, "%s: %.250s", http_reason(status), detail);
    exchange_reason(ex, reason);
    exchange_close_after(ex);
    exchange_send(ex, status, h, code == E_FORBIDDEN ? 2 : 1, buf_view(&out));
    buf_fini(&out);
}

void forward_bad_request(int code, const struct err *err, struct buf *out, void *data)
{
    struct buf body = BUF_INIT(ERR_MSG_MAX * 8);
    int status = err_http_status(code);
    char reason[REASON_BYTES_MAX];
    (void)data;
    problem_write(&body, code, slice_str(err->msg), NULL);
    (void)snprintf(reason, sizeof reason, "%s: %.200s", http_reason(status), err->msg);
    if (http_write_status(out, status, reason) != 0)
        (void)http_write_status(out, status, NULL); /* a message with a control byte in it */
    (void)http_write_header_str(out, "Content-Type", "application/problem+json");
    (void)http_write_header_u64(out, "Content-Length", body.n);
    (void)http_write_header_str(out, "Connection", "close");
    (void)http_write_end(out);
    (void)buf_slice(out, buf_view(&body));
    buf_fini(&body);
}

/* --- the one connection, handed to a pool --- */

struct handover {
    struct stream *stream; /* NULL: given away */
    connect_done_cb done;
    void *data;
    bool is_cancelled;
};

static void on_hand_over(void *data)
{
    struct handover *h = data;
    struct err err = {0};
    struct stream *s = h->stream;
    if (h->is_cancelled) {
        stream_close(s);
        err_set(&err, E_CANCELLED, "cancelled");
    }
    h->done(err.code, h->is_cancelled ? NULL : s, err.code != 0 ? &err : NULL, h->data);
    mem_free(h);
}

static void *handover_open(const struct connector *c, struct loop *l, int64_t timeout_ms,
                           connect_done_cb done, void *data)
{
    struct handover *h = c->data;
    (void)timeout_ms;
    must(h->done == NULL); /* a pool of one call connects once */
    h->done = done;
    h->data = data;
    loop_defer(l, on_hand_over, h);
    return h;
}

static void handover_cancel(const struct connector *c, void *handle)
{
    struct handover *h = handle;
    (void)c;
    h->is_cancelled = true;
}

/* --- absolute-form: one call --- */

static void on_pool_unused(void *data)
{
    http_pool_close(data);
}

/* The call has ended, or is cancelled here: its pool goes when its callbacks have returned. */
static void call_drop(struct forward *f)
{
    if (f->call != NULL)
        http_call_cancel(f->call);
    f->call = NULL;
    if (f->pool != NULL)
        loop_defer(&f->c->loop, on_pool_unused, f->pool);
    f->pool = NULL;
}

static void on_head(struct http_call *call, const struct http_response *r, void *data)
{
    (void)call;
    struct forward *f = data;
    struct http_header h[HTTP_HEADERS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers; i++)
        if (!http_is_hop_by_hop(r->headers, r->n_headers, r->headers[i].name) &&
            !slice_ieq_str(r->headers[i].name, "content-length"))
            h[n++] = r->headers[i];
    f->is_answered = true;
    /* of a HEAD as well: the length that a GET would have */
    (void)exchange_head(f->ex, r->status, h, n, r->has_length ? r->length : EXCHANGE_LENGTH_UNKNOWN);
    exchange_flush(f->ex);
}

static void on_body(struct http_call *call, struct slice bytes, void *data)
{
    struct forward *f = data;
    if (exchange_write(f->ex, bytes) == E_AGAIN)
        http_call_pause(call);
}

static void on_end(struct http_call *call, void *data)
{
    (void)call;
    struct forward *f = data;
    f->call = NULL;
    call_drop(f);
    exchange_end(f->ex);
}

static void on_error(struct http_call *call, int code, const struct err *cause, void *data)
{
    (void)call;
    struct forward *f = data;
    f->call = NULL;
    call_drop(f);
    if (f->is_answered) {
        exchange_abort(f->ex);
        return;
    }
    refuse(f->ex, code == E_TIMEOUT ? E_TIMEOUT : E_UPSTREAM, "%s: %s", f->target.text, cause->msg);
}

static void on_call_drain(struct http_call *call, void *data)
{
    (void)call;
    exchange_body_start(((struct forward *)data)->ex);
}

static const struct http_call_events call_events = {.on_head = on_head,
                                                    .on_body = on_body,
                                                    .on_end = on_end,
                                                    .on_error = on_error,
                                                    .on_drain = on_call_drain};

static void on_request_body(struct exchange *ex, struct slice bytes, void *data)
{
    struct forward *f = data;
    if (f->call != NULL && http_call_write(f->call, bytes) == E_AGAIN)
        exchange_body_stop(ex);
}

static void on_request_end(struct exchange *ex, void *data)
{
    struct forward *f = data;
    (void)ex;
    if (f->call != NULL)
        http_call_end(f->call);
}

/* What is of this hop, and what the proxy writes itself. */
static size_t call_headers(struct forward *f, struct http_header *h)
{
    static const char *const dropped[] = {"host", "content-length", "expect"};
    const struct http_request *r = exchange_request(f->ex);
    struct slice host = slice_str(f->target.text);
    size_t n = 0;
    if (f->target.port == 80)
        host.n -= strlen(":80");
    h[n++] = (struct http_header){SL("Host"), host};
    for (size_t i = 0; i < r->n_headers && n < HTTP_HEADERS_MAX; i++) {
        bool is_dropped = http_is_hop_by_hop(r->headers, r->n_headers, r->headers[i].name);
        for (size_t k = 0; k < ARRAY_LEN(dropped); k++)
            is_dropped = is_dropped || slice_ieq_str(r->headers[i].name, dropped[k]);
        if (!is_dropped)
            h[n++] = r->headers[i];
    }
    return n;
}

static void call_begin(struct forward *f, struct stream *s)
{
    const struct http_request *r = exchange_request(f->ex);
    struct http_header h[HTTP_HEADERS_MAX];
    struct handover *hand = MEM_NEW(struct handover);
    hand->stream = s;
    struct connector connector = {.open = handover_open, .cancel = handover_cancel, .data = hand};
    f->pool = http_pool_new(&f->c->loop, &connector, NULL);
    struct http_call_options o = {
        .method = r->method,
        .target = r->query.p == NULL ? r->path
                                     : slice_str(arena_printf(exchange_arena(f->ex), "%.*s?%.*s",
                                                              SL_ARG(r->path), SL_ARG(r->query))),
        .headers = h,
        .n_headers = call_headers(f, h),
        .has_body = r->is_chunked || r->has_length,
        .length = r->is_chunked ? HTTP_CALL_CHUNKED : r->length,
        .is_single = true,
        .head_timeout_ms = FORWARD_HEAD_MS,
        .idle_timeout_ms = FORWARD_BODY_MS,
    };
    f->call = http_call_start(f->pool, &o, &call_events, f);
    exchange_body_start(f->ex);
}

/* --- both --- */

static void on_client_gone(struct exchange *ex, void *data)
{
    struct forward *f = data;
    (void)ex;
    if (f->open != NULL)
        egress_cancel(f->open);
    f->open = NULL;
    call_drop(f);
}

static void on_client_drain(struct exchange *ex, void *data)
{
    struct forward *f = data;
    (void)ex;
    if (f->call != NULL)
        http_call_resume(f->call);
}

static const struct exchange_events exchange_events = {.on_body = on_request_body,
                                                       .on_body_end = on_request_end,
                                                       .on_abort = on_client_gone,
                                                       .on_drain = on_client_drain};

static void tunnel_begin(struct forward *f, struct stream *upstream)
{
    struct slice first;
    struct stream *client =
        exchange_upgrade(f->ex, SL("HTTP/1.1 200 Connection established\r\n\r\n"), &first);
    must(client != NULL); /* its leaving would have been told by on_abort */
    (void)tunnel_start(client, upstream, first, SLICE_EMPTY, NULL, NULL);
}

static void on_opened(const struct egress_answer *a, void *data)
{
    struct forward *f = data;
    f->open = NULL;
    if (a->code != 0)
        refuse(f->ex, a->code, "%s", a->err->msg);
    else if (slice_eq_str(exchange_request(f->ex)->method, "CONNECT"))
        tunnel_begin(f, a->stream);
    else
        call_begin(f, a->stream);
}

void forward_request(struct controller *c, struct exchange *ex)
{
    const struct http_request *r = exchange_request(ex);
    struct forward *f = ARENA_NEW(exchange_arena(ex), struct forward);
    struct err err = {0};
    f->c = c;
    f->ex = ex;
    if (c->is_draining)
        err_set(&err, E_DRAINING, "this controller shuts down");
    else
        (void)target_of_request(r, &f->target, &err);
    if (err.code != 0) {
        refuse(ex, err.code, "%s", err.msg);
        return;
    }
    exchange_own(ex, &exchange_events, f);
    f->open = egress_open(c->egress, exchange_tag(ex), &f->target, on_opened, f);
}
