/* egress_meter: the bytes of each workspace into the ledger's usage, once a minute while some pass.
 *
 * Happy path: what passed since the last posting becomes one usage event. Failure paths: what could not be
 * posted is sent again under the same identity, so that nothing counts twice; a crash loses the bytes of at
 * most the last minute. */
#include "controller/edge/egress.h"

#include "base/core/log.h"
#include "base/core/mem.h"

#define METER_MS ((int64_t)60 * 1000)

struct posting {
    struct egress_meter *meter;
    struct account *account;
};

static void on_posted(int code, const struct err *err, void *data)
{
    struct posting *p = data;
    struct egress_meter *m = p->meter;
    struct account *a = p->account;
    mem_free(p);
    m->n_posting--;
    a->is_posting = false;
    if (code == 0 || code == E_NOT_FOUND) { /* the tenant is gone: nobody is left to count for */
        a->posted_in += a->posting_in;
        a->posted_out += a->posting_out;
        a->metered_ms = a->posting_to_ms;
        a->has_posting = false;
    } else {
        log_warn("egress.meter_failed", LF_STR("workspace", a->key), LF_STR("detail", err->msg));
        egress_meter_moved(m); /* again in a minute */
    }
    egress_settled(m->egress, a);
}

bool egress_meter_is_settled(const struct account *a)
{
    return !a->is_posting && a->posted_in == a->bytes_in && a->posted_out == a->bytes_out;
}

void egress_meter_post(struct egress_meter *m, struct account *a)
{
    if (a->is_posting || egress_meter_is_settled(a) || a->tenant == NULL)
        return;
    if (!a->has_posting) {
        a->posting_in = a->bytes_in - a->posted_in;
        a->posting_out = a->bytes_out - a->posted_out;
        a->posting_from_ms = a->metered_ms;
        a->posting_to_ms = clock_wall_ms(m->loop->clock);
        a->has_posting = true;
    }
    struct posting *p = MEM_NEW(struct posting);
    *p = (struct posting){m, a};
    struct billing_egress e = {.tenant = slice_str(a->tenant),
                               .namespace = slice_str(a->namespace),
                               .workspace = slice_str(a->workspace),
                               .workspace_id = slice_str(a->key),
                               .user = slice_str(a->user),
                               .bytes_in = a->posting_in,
                               .bytes_out = a->posting_out,
                               .from_ms = a->posting_from_ms,
                               .to_ms = a->posting_to_ms};
    a->is_posting = true;
    m->n_posting++;
    billing_egress_post(m->billing, &e, on_posted, p);
}

static void post_all(struct egress_meter *m)
{
    struct account *a, *tmp;
    HASH_ITER (hh, *m->accounts, a, tmp)
        egress_meter_post(m, a);
}

static void on_timer(void *data)
{
    post_all(data);
}

void egress_meter_init(struct egress_meter *m, struct egress *e, struct controller *c,
                       struct account **accounts)
{
    *m = (struct egress_meter){
        .egress = e, .billing = c->billing, .loop = &c->loop, .accounts = accounts, .has_timer = true};
    timer_init(&m->timer, m->loop, on_timer, m);
}

void egress_meter_moved(struct egress_meter *m)
{
    if (m->has_timer && !timer_is_active(&m->timer))
        timer_start(&m->timer, METER_MS);
}

static void on_timer_closed(void *data)
{
    struct egress_meter *m = data;
    m->n_posting--;
    egress_settled(m->egress, NULL);
}

void egress_meter_close(struct egress_meter *m)
{
    if (!m->has_timer)
        return;
    m->has_timer = false;
    m->n_posting++; /* the timer's end counts as one */
    post_all(m);
    timer_close(&m->timer, on_timer_closed);
}
