/* egress_stream: a stream over the connection to the outside that counts what passes and waits for tokens.
 *
 * Happy path: bytes go through as slices, nothing is copied here. When a limit of bytes per second is
 * overdrawn, the source is not read and the sink says E_AGAIN until there are tokens again: that is ordinary
 * back-pressure to both ends. What the client sends first is kept until it is known to be no TLS, or a whole
 * ClientHello that names the server that was asked for; that alone is copied. Failure paths: a cut, by a
 * reload or a limit, looks to the owner like a broken connection, told in a later turn. */
#include "controller/edge/egress.h"

#include "base/core/mem.h"
#include "base/net/client_hello.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct egress_stream *of(struct stream *s)
{
    return (struct egress_stream *)s;
}

static void on_free(void *data)
{
    struct egress_stream *s = data;
    buf_fini(&s->hello);
    mem_free(s);
}

static void leave(struct egress_stream *s)
{
    s->is_closed = true;
    egress_ended(s);
    loop_defer(s->base.loop, on_free, s); /* what was deferred before comes before */
}

/* --- what the outside does --- */

static void drain(struct egress_stream *s);
static void answer_take(struct egress_stream *s, struct slice bytes);

static void on_inner_read(struct stream *inner, struct slice bytes, void *data)
{
    struct egress_stream *s = data;
    bool was_answer = s->awaits_answer;
    egress_moved(s, bytes.n, 0);
    if (egress_must_wait(s))
        stream_read_stop(inner);
    if (was_answer)
        answer_take(s, bytes);
    s->base.events->on_read(&s->base, bytes, s->base.data);
    if (was_answer && !s->is_closed)
        drain(s);
}

static void on_inner_eof(struct stream *inner, void *data)
{
    struct egress_stream *s = data;
    (void)inner;
    if (!s->is_broken)
        s->base.events->on_eof(&s->base, s->base.data);
}

static void on_inner_error(struct stream *inner, int code, void *data)
{
    struct egress_stream *s = data;
    (void)inner;
    if (s->is_broken)
        return;
    s->is_broken = true;
    s->base.events->on_error(&s->base, code, s->base.data);
}

static void on_inner_write_error(struct stream *inner, int code, void *data)
{
    struct egress_stream *s = data;
    if (s->is_broken)
        return;
    if (s->base.events->on_write_error != NULL)
        s->base.events->on_write_error(&s->base, code, s->base.data);
    else
        on_inner_error(inner, code, data);
}

static void drain(struct egress_stream *s)
{
    if (!s->owes_drain || s->inner_is_full || s->is_throttled || s->awaits_answer || s->is_broken ||
        s->is_cut)
        return;
    s->owes_drain = false;
    s->base.events->on_drain(&s->base, s->base.data);
}

static void on_inner_drain(struct stream *inner, void *data)
{
    struct egress_stream *s = data;
    (void)inner;
    s->inner_is_full = false;
    drain(s);
}

static const struct stream_events inner_events = {.on_read = on_inner_read,
                                                  .on_eof = on_inner_eof,
                                                  .on_error = on_inner_error,
                                                  .on_drain = on_inner_drain,
                                                  .on_write_error = on_inner_write_error};

/* --- what the owner does --- */

static void on_late_cut(void *data)
{
    struct egress_stream *s = data;
    if (!s->is_closed)
        s->base.events->on_error(&s->base, E_FORBIDDEN, s->base.data);
}

static void es_read_start(struct stream *base)
{
    struct egress_stream *s = of(base);
    s->wants_read = true;
    if (s->is_cut_untold) { /* it was cut on its way to this owner */
        s->is_cut_untold = false;
        loop_defer(base->loop, on_late_cut, s);
    }
    if (!s->is_throttled && !s->is_broken && !s->is_cut)
        stream_read_start(s->inner);
}

static void es_read_stop(struct stream *base)
{
    of(base)->wants_read = false;
    stream_read_stop(of(base)->inner);
}

static int pass_on(struct egress_stream *s, const struct slice *v, size_t n)
{
    size_t all = 0;
    for (size_t i = 0; i < n; i++)
        all += v[i].n;
    int rc = stream_write(s->inner, v, n);
    if (rc != 0 && rc != E_AGAIN)
        return rc;
    s->inner_is_full = rc == E_AGAIN;
    egress_moved(s, 0, all);
    if (egress_must_wait(s))
        rc = E_AGAIN;
    if (rc == E_AGAIN)
        s->owes_drain = true;
    return rc;
}

static int hello_refuse(struct egress_stream *s, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int hello_refuse(struct egress_stream *s, const char *reason, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_fini(&s->hello);
    egress_hello_refused(s, reason, text);
    return E_FORBIDDEN;
}

/* Does the name in the hello agree with the one that was asked for? 0, or refused. An address has no name to
 * agree with: a name that is sent all the same asks for something else than was judged. */
static int hello_judge(struct egress_stream *s, const struct client_hello *h)
{
    char name[HOST_NAME_MAX_BYTES + 1];
    if (!h->has_name) {
        if (s->sni == SNI_ALLOW_MISSING || s->target.is_address)
            return 0;
        return hello_refuse(s, "sni_missing",
                            "%s: the TLS hello names no server, and `network.sni` is `require`",
                            s->target.text);
    }
    if (host_name_parse(slice_str(h->name), name, NULL) != 0)
        return hello_refuse(s, "sni_mismatch", "%s: the TLS hello names a server by no name of DNS",
                            s->target.text);
    if (strcmp(name, s->target.host) != 0)
        return hello_refuse(s, "sni_mismatch", "%s: the TLS hello names %s (`network.sni`)", s->target.text,
                            name);
    return 0;
}

/* The first `n` bytes of what is kept. */
static int held_pass_on(struct egress_stream *s, size_t n)
{
    struct slice first = slice_of(s->hello.p, n);
    int rc = pass_on(s, &first, 1);
    buf_consume(&s->hello, n);
    if (s->hello.n == 0) {
        buf_fini(&s->hello);
    } else if (rc == 0) {
        s->owes_drain = true;
        rc = E_AGAIN;
    }
    return rc;
}

/* Keeps what the client sends until it can be judged. */
static int hello_take(struct egress_stream *s, const struct slice *v, size_t n)
{
    struct client_hello h;
    struct err err = {0};
    for (size_t i = 0; i < n; i++)
        if (buf_slice(&s->hello, v[i]) != 0)
            return hello_refuse(s, "bad_hello", "%s: the TLS hello does not end", s->target.text);
    if (s->hello.n == 0)
        return 0;
    if (s->hello_ms == 0)
        s->hello_ms = clock_mono_ms(s->base.loop->clock);
    int rc = s->is_second ? client_hello_parse_second(buf_view(&s->hello), &h, &err)
                          : client_hello_parse(buf_view(&s->hello), &h, &err);
    if (rc == E_AGAIN)
        return 0;
    if (rc == E_INVALID && s->is_second)
        return hello_refuse(s, "bad_hello", "%s: no second TLS hello where one is due", s->target.text);
    if (rc == E_INVALID && s->is_tls_port)
        return hello_refuse(s, "not_tls", "%s: what is sent is not TLS (`egress.tls_ports`)", s->target.text);
    if (rc != 0 && rc != E_INVALID)
        return hello_refuse(s, "bad_hello", "%s: the TLS hello: %s", s->target.text, err.msg);
    if (rc == 0 && (rc = hello_judge(s, &h)) != 0)
        return rc;
    s->awaits_hello = false;
    s->awaits_answer = rc == 0 && !s->is_second;
    return held_pass_on(s, s->awaits_answer ? h.n_bytes : s->hello.n);
}

/* A server may ask for another hello, and serve the name that this one has. */
static void answer_take(struct egress_stream *s, struct slice bytes)
{
    size_t n = sizeof s->answer - s->n_answer;
    bool is_retry;
    if (n > bytes.n)
        n = bytes.n;
    memcpy(s->answer + s->n_answer, bytes.p, n);
    s->n_answer += n;
    if (server_hello_parse(slice_of(s->answer, s->n_answer), &is_retry) == E_AGAIN)
        return;
    s->awaits_answer = false;
    s->awaits_hello = s->is_second = is_retry;
    s->hello_ms = 0;
    if (s->is_cut || s->hello.n == 0)
        return;
    if (is_retry)
        (void)hello_take(s, NULL, 0);
    else
        (void)held_pass_on(s, s->hello.n);
}

/* Until the server has answered nobody knows whether this is a second hello. */
static int answer_wait(struct egress_stream *s, const struct slice *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (buf_slice(&s->hello, v[i]) != 0)
            return hello_refuse(s, "bad_hello", "%s: too much behind a TLS hello without an answer",
                                s->target.text);
    if (s->hello.n == 0)
        return 0;
    s->owes_drain = true;
    return E_AGAIN;
}

static int es_write(struct stream *base, const struct slice *v, size_t n)
{
    struct egress_stream *s = of(base);
    if (s->is_broken || s->is_cut)
        return E_FORBIDDEN;
    if (s->awaits_hello)
        return hello_take(s, v, n);
    return s->awaits_answer ? answer_wait(s, v, n) : pass_on(s, v, n);
}

static void es_shutdown(struct stream *base)
{
    struct egress_stream *s = of(base);
    if (s->hello.n > 0)
        (void)hello_refuse(s, "bad_hello", "%s: the TLS hello is cut short", s->target.text);
    else
        stream_shutdown(s->inner);
}

static void es_close(struct stream *base)
{
    struct egress_stream *s = of(base);
    if (s->is_closed)
        return;
    stream_close(s->inner);
    leave(s);
}

static void es_reset(struct stream *base)
{
    struct egress_stream *s = of(base);
    if (s->is_closed)
        return;
    stream_reset(s->inner);
    leave(s);
}

static size_t es_queued(const struct stream *base)
{
    return stream_queued(((const struct egress_stream *)base)->inner);
}

static void es_peer(const struct stream *base, char out[STREAM_PEER_MAX])
{
    stream_peer(((const struct egress_stream *)base)->inner, out);
}

static const struct stream_ops ops = {.read_start = es_read_start,
                                      .read_stop = es_read_stop,
                                      .write = es_write,
                                      .shutdown = es_shutdown,
                                      .close = es_close,
                                      .reset = es_reset,
                                      .queued = es_queued,
                                      .peer = es_peer};

struct egress_stream *egress_stream_new(struct egress *e, struct account *workspace, struct account *tenant,
                                        const struct target *t, const struct address *at,
                                        enum network_sni sni, bool is_tls_port, struct stream *inner)
{
    struct egress_stream *s = MEM_NEW(struct egress_stream);
    s->base = (struct stream){.ops = &ops, .loop = inner->loop};
    s->inner = inner;
    s->egress = e;
    s->workspace = workspace;
    s->tenant = tenant;
    s->target = *t;
    s->address = *at;
    s->sni = sni;
    s->is_tls_port = is_tls_port;
    s->awaits_hello = sni != SNI_IGNORE;
    s->hello = BUF_INIT(CLIENT_HELLO_RECORDS_MAX + 2 * LOOP_READ_BYTES); /* one read behind it */
    s->active_ms = clock_mono_ms(inner->loop->clock);
    stream_own(inner, &inner_events, s);
    return s;
}

/* --- from above --- */

static void on_cut(void *data)
{
    struct egress_stream *s = data;
    if (s->is_closed || s->is_broken)
        return;
    s->is_broken = true;
    s->is_cut_untold = s->base.events == NULL;
    if (!s->is_cut_untold)
        s->base.events->on_error(&s->base, E_FORBIDDEN, s->base.data);
}

void egress_stream_cut(struct egress_stream *s)
{
    if (s->is_cut || s->is_closed)
        return;
    s->is_cut = true;
    stream_read_stop(s->inner);
    loop_defer(s->base.loop, on_cut, s);
}

void egress_stream_go_on(struct egress_stream *s)
{
    if (s->is_cut || s->is_broken)
        return;
    if (s->wants_read)
        stream_read_start(s->inner);
    drain(s);
}
