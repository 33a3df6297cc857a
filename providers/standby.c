/* standby: see standby.h. */
#include "providers/standby.h"

#include "base/core/log.h"
#include "base/core/mem.h"

/* Opening blocks the loop; where it hangs until it gives up, it is tried so many times more rarely. */
#define RETRY_PAUSES 20

struct standby {
    struct provider p;
    struct loop *loop;
    char *name;
    standby_open open;
    void (*free_data)(void *data);
    void *data;
    struct provider *real; /* NULL until it opened */
    struct err err;        /* why not */
    int64_t retry_at_ms;
    bool is_closing;
    void (*closed)(void *data);
    void *closed_data;
};

static const struct provider_caps caps_unknown = {.is_sealed = true,
                                                  .limits_note = "the provider is not available"};

static struct standby *of(struct provider *p)
{
    return (struct standby *)(void *)p; /* first member */
}

static void on_door(struct slice sandbox_id, struct slice workspace_id, struct stream *s, void *data)
{
    struct standby *b = data;
    if (b->p.on_door != NULL)
        b->p.on_door(sandbox_id, workspace_id, s, b->p.data);
    else
        stream_reset(s);
}

static void on_event(struct slice sandbox_id, struct slice workspace_id, const char *what, void *data)
{
    struct standby *b = data;
    if (b->p.on_event != NULL)
        b->p.on_event(sandbox_id, workspace_id, what, b->p.data);
}

static void on_progress(struct slice sandbox_id, struct slice workspace_id, const char *text, void *data)
{
    struct standby *b = data;
    if (b->p.on_progress != NULL)
        b->p.on_progress(sandbox_id, workspace_id, text, b->p.data);
}

/* True when the provider is there. */
static bool is_open(struct standby *b)
{
    int64_t now = clock_mono_ms(b->loop->clock);
    if (b->real != NULL)
        return true;
    if (now < b->retry_at_ms || b->is_closing) /* nobody would close it again */
        return false;
    err_clear(&b->err);
    if (b->open(b->loop, b->data, &b->real, &b->err) != 0) {
        int64_t after = clock_mono_ms(b->loop->clock), pause = (after - now) * RETRY_PAUSES;
        b->retry_at_ms = after + (pause > STANDBY_RETRY_MS ? pause : STANDBY_RETRY_MS);
        b->real = NULL;
        return false;
    }
    b->real->on_door = on_door;
    b->real->on_event = on_event;
    b->real->on_progress = on_progress;
    b->real->data = b;
    return true;
}

/* --- answers while it is not there --- */

struct refusal {
    struct err err;
    provider_done_cb done;
    provider_info_cb info;
    provider_list_cb list;
    provider_usage_cb usage;
    void *data;
};

static void on_refuse(void *data)
{
    struct refusal *r = data;
    if (r->done != NULL)
        r->done(r->err.code, &r->err, r->data);
    else if (r->info != NULL)
        r->info(r->err.code, NULL, &r->err, r->data);
    else if (r->list != NULL)
        r->list(r->err.code, NULL, 0, &r->err, r->data);
    else
        r->usage(r->err.code, NULL, &r->err, r->data);
    mem_free(r);
}

static struct refusal *refusal_new(struct standby *b, void *data)
{
    struct refusal *r = MEM_NEW(struct refusal);
    r->err = b->err;
    r->err.code = E_UNAVAILABLE; /* it passes when somebody mends the machine */
    r->data = data;
    loop_defer(b->loop, on_refuse, r);
    return r;
}

static void refuse(struct standby *b, provider_done_cb done, provider_info_cb info, provider_list_cb list,
                   void *data)
{
    struct refusal *r = refusal_new(b, data);
    r->done = done;
    r->info = info;
    r->list = list;
}

/* --- calls --- */

static const struct provider_caps *op_caps(struct provider *p)
{
    struct standby *b = of(p);
    return b->real != NULL ? b->real->ops->caps(b->real) : &caps_unknown;
}

static void op_create(struct provider *p, const struct sandbox_spec *spec, int64_t timeout_ms,
                      provider_done_cb done, void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->create(b->real, spec, timeout_ms, done, data);
    else
        refuse(b, done, NULL, NULL, data);
}

static void op_describe(struct provider *p, struct slice id, int64_t timeout_ms, provider_info_cb done,
                        void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->describe(b->real, id, timeout_ms, done, data);
    else
        refuse(b, NULL, done, NULL, data);
}

static void op_list(struct provider *p, struct slice controller, int64_t timeout_ms, provider_list_cb done,
                    void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->list(b->real, controller, timeout_ms, done, data);
    else
        refuse(b, NULL, NULL, done, data);
}

static void op_start(struct provider *p, struct slice id, const struct sandbox_server *server,
                     int64_t timeout_ms, provider_done_cb done, void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->start(b->real, id, server, timeout_ms, done, data);
    else
        refuse(b, done, NULL, NULL, data);
}

static void op_suspend(struct provider *p, struct slice id, enum suspend_kind kind, int64_t timeout_ms,
                       provider_done_cb done, void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->suspend(b->real, id, kind, timeout_ms, done, data);
    else
        refuse(b, done, NULL, NULL, data);
}

static void op_resume(struct provider *p, struct slice id, const struct sandbox_server *server,
                      int64_t timeout_ms, provider_done_cb done, void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->resume(b->real, id, server, timeout_ms, done, data);
    else
        refuse(b, done, NULL, NULL, data);
}

static void op_destroy(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                       void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->destroy(b->real, id, timeout_ms, done, data);
    else
        refuse(b, done, NULL, NULL, data);
}

static void op_destroy_home(struct provider *p, struct slice home_id, int64_t timeout_ms,
                            provider_done_cb done, void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->destroy_home(b->real, home_id, timeout_ms, done, data);
    else
        refuse(b, done, NULL, NULL, data);
}

static void op_usage(struct provider *p, struct slice id, int64_t timeout_ms, provider_usage_cb done,
                     void *data)
{
    struct standby *b = of(p);
    if (is_open(b))
        b->real->ops->usage(b->real, id, timeout_ms, done, data);
    else
        refusal_new(b, data)->usage = done;
}

static struct connector *op_connector(struct provider *p, struct slice id, uint16_t port)
{
    struct standby *b = of(p);
    must(b->real != NULL); /* a sandbox was started before */
    return b->real->ops->connector(b->real, id, port);
}

static void op_connector_release(struct provider *p, struct connector *c)
{
    struct standby *b = of(p);
    must(b->real != NULL);
    b->real->ops->connector_release(b->real, c);
}

static void on_real_closed(void *data)
{
    struct standby *b = data;
    void (*closed)(void *) = b->closed;
    void *closed_data = b->closed_data;
    if (b->free_data != NULL)
        b->free_data(b->data);
    mem_free(b->name);
    mem_free(b);
    if (closed != NULL)
        closed(closed_data);
}

static void op_close(struct provider *p, void (*closed)(void *data), void *data)
{
    struct standby *b = of(p);
    b->is_closing = true;
    b->closed = closed;
    b->closed_data = data;
    if (b->real != NULL)
        b->real->ops->close(b->real, on_real_closed, b);
    else
        loop_defer(b->loop, on_real_closed, b);
}

static const struct provider_ops standby_ops = {.caps = op_caps,
                                                .create = op_create,
                                                .describe = op_describe,
                                                .list = op_list,
                                                .start = op_start,
                                                .suspend = op_suspend,
                                                .resume = op_resume,
                                                .destroy = op_destroy,
                                                .destroy_home = op_destroy_home,
                                                .usage = op_usage,
                                                .connector = op_connector,
                                                .connector_release = op_connector_release,
                                                .close = op_close};

struct provider *provider_standby_new(struct loop *l, struct slice name, standby_open open,
                                      void (*free_data)(void *data), void *data, struct err *ret_err)
{
    struct standby *b = MEM_NEW(struct standby);
    b->loop = l;
    b->name = mem_strndup(name.p, name.n);
    b->p.ops = &standby_ops;
    b->p.name = slice_str(b->name);
    b->open = open;
    b->free_data = free_data;
    b->data = data;
    b->retry_at_ms = INT64_MIN;
    if (is_open(b))
        err_clear(ret_err);
    else
        *ret_err = b->err;
    return &b->p;
}
