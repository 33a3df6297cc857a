/* egress_stream: a stream over the connection to the outside that counts what passes and waits for tokens.
 *
 * Happy path: bytes go through as slices, nothing is copied here. When a limit of bytes per second is
 * overdrawn, the source is not read and the sink says E_AGAIN until there are tokens again: that is ordinary
 * back-pressure to both ends. Failure paths: a cut, by a reload or a limit, looks to the owner like a broken
 * connection, told in a later turn. */
#include "controller/edge/egress.h"

#include "base/core/mem.h"

#include <stdio.h>

static struct egress_stream *of(struct stream *s)
{
    return (struct egress_stream *)s;
}

static void on_free(void *data)
{
    struct egress_stream *s = data;
    mem_free(s);
}

static void leave(struct egress_stream *s)
{
    s->is_closed = true;
    egress_ended(s);
    loop_defer(s->base.loop, on_free, s); /* what was deferred before comes before */
}

/* --- what the outside does --- */

static void on_inner_read(struct stream *inner, struct slice bytes, void *data)
{
    struct egress_stream *s = data;
    egress_moved(s, bytes.n, 0);
    if (egress_must_wait(s))
        stream_read_stop(inner);
    s->base.events->on_read(&s->base, bytes, s->base.data);
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
    if (!s->owes_drain || s->inner_is_full || s->is_throttled || s->is_broken)
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

static void es_read_start(struct stream *base)
{
    struct egress_stream *s = of(base);
    s->wants_read = true;
    if (!s->is_throttled && !s->is_broken && !s->is_cut)
        stream_read_start(s->inner);
}

static void es_read_stop(struct stream *base)
{
    of(base)->wants_read = false;
    stream_read_stop(of(base)->inner);
}

static int es_write(struct stream *base, const struct slice *v, size_t n)
{
    struct egress_stream *s = of(base);
    size_t all = 0;
    if (s->is_broken)
        return E_FORBIDDEN;
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

static void es_shutdown(struct stream *base)
{
    stream_shutdown(of(base)->inner);
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
                                        struct stream *inner)
{
    struct egress_stream *s = MEM_NEW(struct egress_stream);
    s->base = (struct stream){.ops = &ops, .loop = inner->loop};
    s->inner = inner;
    s->egress = e;
    s->workspace = workspace;
    s->tenant = tenant;
    s->target = *t;
    s->address = *at;
    s->opened_ms = s->active_ms = clock_mono_ms(inner->loop->clock);
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
    if (s->base.events != NULL)
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
    if (!s->is_throttled || s->is_cut || s->is_broken)
        return;
    s->is_throttled = false;
    if (s->wants_read)
        stream_read_start(s->inner);
    drain(s);
}
