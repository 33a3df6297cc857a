/* suspense: what awaits attribution, a price or a decision; and deciding. */
#include "base/core/id.h"
#include "base/core/mem.h"
#include "controller/api/audit.h"
#include "controller/edge/route.h"
#include "scheduler/scheduler.h"

#include <string.h>

#define REASON_MAX 500
#define USER_MAX   256

static void get_suspense(struct request *rq)
{
    struct billing_suspense_query q = {.tenant = SLICE_EMPTY};
    const struct {
        const char *name;
        struct slice *to;
    } filters[] = {{"reason", &q.reason},
                   {"gateway", &q.gateway},
                   {"key_hash", &q.key_hash},
                   {"namespace", &q.namespace},
                   {"model", &q.model}};
    if (!request_paging(rq, 500, &q.limit, &q.after) || !request_day(rq, "from", 0, false, &q.from_ms) ||
        !request_day(rq, "to", 0, true, &q.to_ms))
        return;
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        if (!request_query(rq, filters[i].name, filters[i].to))
            return;
    }
    if (rq->who.tenant == NULL && !rq->who.is_fleet) {
        request_problem(rq, E_FORBIDDEN, "a fleet key is wanted here");
        return;
    }
    if (!principal_has_namespace(&rq->who, SL("*"))) {
        request_problem(rq, E_FORBIDDEN, "a key with all namespaces is wanted");
        return;
    }
    if (rq->who.tenant != NULL)
        q.tenant = rq->who.tenant->name;
    billing_suspense(rq->c->billing, &q, request_on_json, request_hold(rq, NULL));
}

struct decision_body {
    struct slice tenant, namespace, workspace, user, reason;
};
static const struct json_field attribute_rows[] = {
    {"tenant", JF_STRING, true, offsetof(struct decision_body, tenant)},
    {"namespace", JF_STRING, true, offsetof(struct decision_body, namespace)},
    {"workspace", JF_STRING, false, offsetof(struct decision_body, workspace)},
    {"user", JF_STRING, false, offsetof(struct decision_body, user)},
    {"reason", JF_STRING, true, offsetof(struct decision_body, reason)},
};
static const struct json_field reason_rows[] = {
    {"reason", JF_STRING, false, offsetof(struct decision_body, reason)},
};

/* The workspace of that name as it is now; when there is none, billing says so, unless it was decided before.
 */
static void owner_fill(struct request *rq, const struct decision_body *in, struct billing_decision *d)
{
    d->to_tenant = in->tenant;
    d->owner =
        (struct billing_key_owner){.namespace = in->namespace, .workspace = in->workspace, .user = in->user};
    if (in->workspace.n == 0)
        return;
    struct workspace *ws = scheduler_find(rq->c->scheduler, in->tenant, in->namespace, in->workspace);
    if (ws == NULL)
        return;
    d->owner.workspace_id = slice_str(ws->id);
    if (in->user.p == NULL)
        d->owner.user = ws->user;
}

static bool body_read(struct request *rq, enum suspense_action kind, struct decision_body *in)
{
    struct err err = {0};
    bool is_attribution = kind == SUSPENSE_ATTRIBUTE;
    if (json_decode(rq->json, "", is_attribution ? attribute_rows : reason_rows,
                    is_attribution ? ARRAY_LEN(attribute_rows) : ARRAY_LEN(reason_rows), in, &err) != 0) {
        request_error(rq, &err);
        return false;
    }
    if (in->reason.n > REASON_MAX || (in->reason.n == 0 && kind != SUSPENSE_RETRY)) {
        request_problem(rq, E_INVALID, "reason: expected why, in 1 to %d bytes", REASON_MAX);
        return false;
    }
    if (in->user.n > USER_MAX) {
        request_problem(rq, E_INVALID, "user: expected at most %d bytes", USER_MAX);
        return false;
    }
    if (in->workspace.n > 0 && !name_is_valid(in->workspace)) {
        request_problem(rq, E_INVALID, "workspace: expected [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?");
        return false;
    }
    return true;
}

static void decide(struct request *rq, enum suspense_action kind, const char *action)
{
    struct decision_body in = {.reason = SLICE_NULL};
    struct buf id = BUF_INIT(2048);
    if (!body_read(rq, kind, &in))
        return;
    if (url_decode(rq->params[0], false, &id) != 0) {
        buf_fini(&id);
        request_problem(rq, E_NOT_FOUND, "nothing waits under this id");
        return;
    }
    struct billing_decision d = {.kind = kind,
                                 .id = arena_slice(request_arena(rq), buf_view(&id)),
                                 .reason = in.reason,
                                 .actor = slice_str(rq->who.subject)};
    buf_fini(&id);
    if (rq->who.tenant != NULL)
        d.tenant = rq->who.tenant->name;
    struct slice detail = in.reason;
    if (kind == SUSPENSE_ATTRIBUTE) {
        owner_fill(rq, &in, &d);
        detail = slice_str(arena_printf(
            request_arena(rq), "to %.*s/%.*s%s%.*s: %.*s", (int)(in.tenant.n < 64 ? in.tenant.n : 64),
            in.tenant.p, (int)(in.namespace.n < 64 ? in.namespace.n : 64), in.namespace.p,
            in.workspace.n > 0 ? "/" : "", SL_ARG(in.workspace), SL_ARG(in.reason)));
    }
    d.audit = audit_entry(rq, action, d.id, detail.p != NULL ? detail : SLICE_EMPTY);
    billing_suspense_decide(rq->c->billing, &d, request_on_json, request_hold(rq, NULL));
}

static void attribute(struct request *rq)
{
    decide(rq, SUSPENSE_ATTRIBUTE, "suspense.attribute");
}

static void retry(struct request *rq)
{
    decide(rq, SUSPENSE_RETRY, "suspense.retry");
}

static void dismiss(struct request *rq)
{
    decide(rq, SUSPENSE_DISMISS, "suspense.dismiss");
}

static void adjust(struct request *rq)
{
    decide(rq, SUSPENSE_ADJUST, "suspense.adjust");
}

static const struct route rows[] = {
    {"GET", "/v1/suspense", ROUTE_EITHER, ROLE_OWNER, 0, 0, get_suspense,
     "What awaits attribution, a price or a decision",
     "limit after reason gateway key_hash namespace model from to", 200},
    {"POST", "/v1/suspense/{id}/attribute", ROUTE_FLEET, ROLE_OWNER, ROUTE_BODY_JSON, 0, attribute,
     "Say whose it is", NULL, 200},
    {"POST", "/v1/suspense/{id}/retry", ROUTE_FLEET, ROLE_OWNER, ROUTE_BODY_JSON | ROUTE_BODY_OPTIONAL, 0,
     retry, "Post it now, at the present prices", NULL, 200},
    {"POST", "/v1/suspense/{id}/dismiss", ROUTE_FLEET, ROLE_OWNER, ROUTE_BODY_JSON, 0, dismiss,
     "It is not charged; what was posted stands", NULL, 200},
    {"POST", "/v1/suspense/{id}/adjust", ROUTE_FLEET, ROLE_OWNER, ROUTE_BODY_JSON, 0, adjust,
     "A conflict: adjust what was posted to it", NULL, 200},
};
const struct route_set routes_suspense = {rows, ARRAY_LEN(rows)};
