/* resources: what a workspace's sandbox uses of the machine, asked for now.
 *
 * Happy path: its provider reads the kernel's accounts. Failure paths: one that does not run uses nothing:
 * 409; a machine that keeps no account, a provider that is away: 503 with the reason; the client leaves: the
 * answer is dropped. */
#include "base/core/mem.h"
#include "controller/controller.h"
#include "controller/edge/request.h"
#include "controller/edge/route.h"

#define USAGE_MS 10000

static void on_usage(int code, const struct sandbox_usage *u, const struct err *err, void *data)
{
    struct request *rq = request_release(data, NULL);
    struct buf out = BUF_INIT(256);
    struct jsonw w;
    if (rq == NULL)
        return;
    if (code == E_GONE) {
        request_problem(rq, E_CONFLICT, "the workspace does not run");
        return;
    }
    if (code != 0) {
        request_error(rq, err);
        return;
    }
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_ku64(&w, "cpu_ms", u->cpu_ms);
    jsonw_ku64(&w, "memory_bytes", u->memory_bytes);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

static struct provider *provider_of(struct controller *c, struct slice name)
{
    for (size_t i = 0; i < c->n_providers; i++)
        if (slice_eq(c->providers[i]->name, name))
            return c->providers[i];
    return NULL;
}

static void get_resources(struct request *rq)
{
    struct workspace *ws = request_workspace(rq);
    if (ws == NULL)
        return;
    struct provider *p = provider_of(rq->c, ws->provider);
    if (p == NULL || ws->sandbox_id.n == 0) {
        request_problem(rq, E_CONFLICT, "the workspace does not run");
    } else {
        request_own(rq);
        p->ops->usage(p, ws->sandbox_id, USAGE_MS, on_usage, request_hold(rq, NULL));
    }
}

static const struct route rows[] = {
    {"GET", "/v1/workspaces/{namespace}/{name}/resources", ROUTE_TENANT, ROLE_VIEWER, ROUTE_NAMESPACE_FIRST,
     0, get_resources, "CPU time since its sandbox was started, and memory now", NULL, 200},
};
const struct route_set routes_resources = {rows, ARRAY_LEN(rows)};
