/* reach: see reach.h. */
#include "providers/reach.h"

#include "base/core/mem.h"

struct reach_connector {
    struct connector c;
    struct reach *r;
    uint16_t port;
};

struct opening {
    struct reach *r;
    void *request; /* of the link; NULL: there is none */
    struct timer none;
    bool is_cancelled;
    connect_done_cb done;
    void *data;
};

static void reach_unref(struct reach *r)
{
    must(r->n_refs > 0);
    r->n_refs--;
    r->on_unref(r);
}

static void opening_free(void *data)
{
    struct opening *o = data;
    struct reach *r = o->r;
    mem_free(o);
    reach_unref(r);
}

static void on_opened(int code, struct stream *s, const struct err *err, void *data)
{
    struct opening *o = data;
    o->done(code, s, err, o->data);
    timer_close(&o->none, opening_free);
}

static void on_no_link(void *data)
{
    struct opening *o = data;
    struct err err = {0};
    if (o->is_cancelled)
        (void)err_set(&err, E_CANCELLED, "cancelled");
    else
        (void)err_set(&err, E_UNAVAILABLE, "sandbox %s does not run", o->r->id);
    on_opened(err.code, NULL, &err, o);
}

static void *connector_open(const struct connector *c, struct loop *l, int64_t timeout_ms,
                            connect_done_cb done, void *data)
{
    const struct reach_connector *rc = c->data;
    struct opening *o = MEM_NEW(struct opening);
    o->r = rc->r;
    o->r->n_refs++;
    o->done = done;
    o->data = data;
    timer_init(&o->none, l, on_no_link, o);
    if (rc->r->link != NULL)
        o->request = link_connect(rc->r->link, rc->port, timeout_ms, on_opened, o);
    else
        timer_start(&o->none, 0);
    return o;
}

static void connector_cancel(const struct connector *c, void *handle)
{
    struct opening *o = handle;
    (void)c;
    if (o->request != NULL)
        link_connect_cancel(o->request);
    o->is_cancelled = true;
}

struct connector *reach_connector_new(struct reach *r, uint16_t port)
{
    struct reach_connector *rc = MEM_NEW(struct reach_connector);
    rc->r = r;
    r->n_refs++;
    rc->port = port;
    rc->c = (struct connector){.open = connector_open, .cancel = connector_cancel, .data = rc};
    return &rc->c;
}

void reach_connector_release(struct connector *c)
{
    struct reach_connector *rc = c->data;
    struct reach *r = rc->r;
    mem_free(rc);
    reach_unref(r);
}
