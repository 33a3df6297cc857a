/* report: a gateway's body on its way in.
 *
 * Happy path: each piece goes through the dialect's sieve, or is kept as it is for a dialect that has none;
 * posted, what was kept becomes a batch. Failure paths: the first error stays and is what the batch is
 * answered with; pieces after it are not looked at. */
#include "billing/internal.h"

#include "base/core/sieve.h"

struct billing_report {
    struct billing *billing;
    const struct config_gateway *gateway;
    const struct dialect *dialect; /* NULL: this kind of gateway does not report */
    struct sieve sieve;            /* without rows only its buf is used */
    struct err err;
};

static const struct dialect *dialect_of(const struct config_gateway *g)
{
    switch (g->kind) {
    case GATEWAY_BUILTIN: /* Reeve's own gateway reports in Reeve's own dialect, from inside */
    case GATEWAY_PLAIN:
        return &plain_dialect;
    case GATEWAY_LITELLM:
        return &litellm_dialect;
    default:
        return NULL;
    }
}

struct billing_report *billing_report_new(struct billing *b, const struct config_gateway *g)
{
    struct billing_report *r = MEM_NEW(struct billing_report);
    r->billing = billing_ref(b);
    r->gateway = g;
    r->dialect = dialect_of(g);
    if (r->dialect != NULL)
        sieve_init(&r->sieve, r->dialect->rows, r->dialect->events_max, r->dialect->kept_max);
    else
        err_set(&r->err, E_NOT_IMPLEMENTED, "gateway %.*s: reports of its kind are not understood",
                SL_ARG(g->name));
    return r;
}

void billing_report_free(struct billing_report *r)
{
    if (r == NULL)
        return;
    sieve_fini(&r->sieve);
    billing_unref(r->billing);
    mem_free(r);
}

uint64_t billing_report_bytes_max(const struct billing_report *r)
{
    return r->dialect != NULL ? r->dialect->bytes_max : 0;
}

int billing_report_feed(struct billing_report *r, struct slice bytes, struct err *err)
{
    if (r->err.code == 0 && r->dialect->rows != NULL)
        (void)sieve_feed(&r->sieve, bytes, &r->err);
    else if (r->err.code == 0 && buf_slice(&r->sieve.out, bytes) != 0)
        err_set(&r->err, E_TOO_LARGE, "more than %zu bytes", r->dialect->kept_max);
    if (r->err.code != 0 && err != NULL)
        *err = r->err;
    return r->err.code;
}

void billing_report_post(struct billing_report *r, billing_batch_cb cb, void *data)
{
    if (r->err.code == 0 && r->dialect->rows != NULL)
        (void)sieve_end(&r->sieve, &r->err);
    batch_start(r->billing, r->dialect, r->gateway->name, buf_view(&r->sieve.out), &r->err, cb, data);
    billing_report_free(r);
}

void billing_usage_post(struct billing *b, const struct config_gateway *g, struct slice body,
                        billing_batch_cb cb, void *data)
{
    struct billing_report *r = billing_report_new(b, g);
    (void)billing_report_feed(r, body, NULL); /* what is wrong is what the post is answered with */
    billing_report_post(r, cb, data);
}
