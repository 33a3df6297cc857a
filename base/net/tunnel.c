/* tunnel: copies between two streams, both ways.
 *
 * Each side reads only while the other takes what it gets; the end of one side's half is passed on behind
 * what is queued. When both halves ended, both streams are closed (what is queued still goes out, bounded in
 * time); when one breaks, so does the other. `done` fires once, in a later turn than tunnel_start. An idle
 * tunnel holds no buffer. */
#include "base/core/mem.h"
#include "base/net/stream.h"
#include "base/net/loop.h"

struct tunnel_side {
    struct tunnel *tunnel;
    struct stream *stream;
    struct tunnel_side *other;
    bool is_ended; /* nothing more comes from it */
};

struct tunnel {
    struct loop *loop;
    struct tunnel_side a, b;
    void (*done)(void *data);
    void *data;
    bool is_over;
};

static void on_over(void *data)
{
    struct tunnel *t = data;
    void (*done)(void *) = t->done;
    void *done_data = t->data;

    mem_free(t);
    if (done != NULL)
        done(done_data);
}

/* `broken` is the side that failed, NULL after a clean end: what the other is still owed goes out. */
static void tunnel_finish(struct tunnel *t, struct tunnel_side *broken)
{
    if (t->is_over)
        return;
    t->is_over = true;
    if (broken != NULL) {
        stream_reset(broken->stream);
        stream_close(broken->other->stream);
    } else {
        stream_close(t->a.stream);
        stream_close(t->b.stream);
    }
    loop_defer(t->loop, on_over, t);
}

static void side_write(struct tunnel_side *to, struct slice bytes)
{
    int rc = stream_write(to->stream, &bytes, 1);

    if (rc == E_AGAIN)
        stream_read_stop(to->other->stream);
    /* Another code: on_error follows. */
}

static void on_read(struct stream *s, struct slice bytes, void *data)
{
    struct tunnel_side *side = data;

    (void)s;
    side_write(side->other, bytes);
}

static void on_drain(struct stream *s, void *data)
{
    struct tunnel_side *side = data;

    (void)s;
    if (!side->other->is_ended)
        stream_read_start(side->other->stream);
}

static void on_eof(struct stream *s, void *data)
{
    struct tunnel_side *side = data;

    (void)s;
    side->is_ended = true;
    if (side->other->is_ended)
        tunnel_finish(side->tunnel, NULL);
    else
        stream_shutdown(side->other->stream);
}

static void on_error(struct stream *s, int code, void *data)
{
    struct tunnel_side *side = data;

    (void)s;
    (void)code;
    tunnel_finish(side->tunnel, side);
}

static const struct stream_events side_events = {
    .on_read = on_read, .on_eof = on_eof, .on_error = on_error, .on_drain = on_drain};

struct tunnel *tunnel_start(struct stream *a, struct stream *b, struct slice a_first, struct slice b_first,
                            void (*done)(void *data), void *data)
{
    struct tunnel *t = MEM_NEW(struct tunnel);

    t->loop = a->loop;
    t->a = (struct tunnel_side){t, a, &t->b, false};
    t->b = (struct tunnel_side){t, b, &t->a, false};
    t->done = done;
    t->data = data;
    stream_own(a, &side_events, &t->a);
    stream_own(b, &side_events, &t->b);
    stream_read_start(a);
    stream_read_start(b);
    if (a_first.n > 0)
        side_write(&t->b, a_first);
    if (b_first.n > 0)
        side_write(&t->a, b_first);
    return t;
}

void tunnel_close(struct tunnel *t)
{
    tunnel_finish(t, NULL);
}
