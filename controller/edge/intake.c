/* intake: see intake.h. */
#include "controller/edge/intake.h"

#include "base/core/inflate.h"

struct intake {
    struct request *rq;
    const struct intake_events *events;
    void *data;
    struct inflate *inflate; /* NULL: the body is not packed */
    uint64_t bytes, bytes_max;
};

static void give_up(struct intake *in)
{
    inflate_free(in->inflate);
    in->events->on_gone(in->data);
}

static void refuse(struct intake *in, const struct err *err)
{
    struct request *rq = in->rq;
    struct err told = *err;
    if (told.code == E_SYNTAX)
        told.code = E_INVALID; /* one word for "the body is not what it should be" */
    (void)err_prefix(&told, "body");
    give_up(in);
    request_own(rq);
    exchange_close_after(rq->ex); /* what is left of the body is not read */
    request_error(rq, &told);
}

static int too_large(const struct intake *in, struct err *err)
{
    return err_set(err, E_TOO_LARGE, "more than %llu bytes", (unsigned long long)in->bytes_max);
}

static int on_plain(void *data, struct slice bytes, struct err *err)
{
    struct intake *in = data;
    return in->events->on_bytes(bytes, in->data, err);
}

static void on_body(struct exchange *ex, struct slice bytes, void *data)
{
    (void)ex;
    struct intake *in = data;
    struct err err = {0};
    in->bytes += bytes.n;
    if (in->bytes > in->bytes_max)
        (void)too_large(in, &err);
    else if (in->inflate != NULL)
        (void)inflate_feed(in->inflate, bytes, on_plain, in, &err);
    else
        (void)on_plain(in, bytes, &err);
    if (err.code != 0)
        refuse(in, &err);
}

static void on_body_end(struct exchange *ex, void *data)
{
    (void)ex;
    struct intake *in = data;
    struct err err = {0};
    if (in->inflate != NULL && inflate_end(in->inflate, &err) != 0) {
        refuse(in, &err);
        return;
    }
    inflate_free(in->inflate);
    request_own(in->rq);
    in->events->on_end(in->rq, in->data);
}

static void on_abort(struct exchange *ex, void *data)
{
    (void)ex;
    struct intake *in = data;
    struct request *rq = in->rq;
    give_up(in);
    request_gone(rq);
}

static const struct exchange_events exchange_events = {
    .on_body = on_body, .on_body_end = on_body_end, .on_abort = on_abort};

void intake_start(struct request *rq, uint64_t bytes_max, const struct intake_events *events, void *data)
{
    const struct http_request *r = exchange_request(rq->ex);
    struct slice encoding = http_find(r->headers, r->n_headers, "content-encoding");
    struct err err = {0};
    bool is_plain = encoding.p == NULL || slice_ieq_str(encoding, "identity");
    bool is_gzip = !is_plain && (slice_ieq_str(encoding, "gzip") || slice_ieq_str(encoding, "x-gzip"));
    struct intake *in = ARENA_NEW(request_arena(rq), struct intake);
    *in = (struct intake){.rq = rq, .events = events, .data = data, .bytes_max = bytes_max};
    if ((!is_plain && !is_gzip) || http_count(r->headers, r->n_headers, "content-encoding") > 1)
        err_set(&err, E_MEDIA_TYPE, "Content-Encoding: expected identity or gzip");
    else if (r->has_length && r->length > bytes_max)
        (void)too_large(in, &err);
    if (err.code != 0) {
        refuse(in, &err);
        return;
    }
    if (is_gzip)
        in->inflate = inflate_new(INTAKE_UNPACKED_MAX);
    exchange_own(rq->ex, &exchange_events, in);
    exchange_body_start(rq->ex);
}
