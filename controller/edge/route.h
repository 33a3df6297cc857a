/* route: the table of the API. One row says path, least role, authority, what the body is and what answers;
 * dispatch, the 405 answer, the OpenAPI document and the docs come from the rows. */
#ifndef REEVE_CONTROLLER_EDGE_ROUTE_H
#define REEVE_CONTROLLER_EDGE_ROUTE_H

#include "controller/edge/request.h"

enum route_authority {
    ROUTE_OPEN,    /* no credential */
    ROUTE_TENANT,  /* a tenant's principal, or the fleet's acting for one (Reeve-Tenant) */
    ROUTE_FLEET,   /* the fleet's */
    ROUTE_EITHER,  /* any service key; rq->who.tenant may be NULL */
    ROUTE_GATEWAY, /* the gateway named by the path's first parameter */
};

enum route_flags {
    ROUTE_BODY_JSON = 1,       /* collected and parsed */
    ROUTE_BODY_OPTIONAL = 2,   /* may be empty */
    ROUTE_BODY_STREAM = 4,     /* taken by the handler, piece by piece (intake.h) */
    ROUTE_NAMESPACE_FIRST = 8, /* the first parameter is a namespace, the second a workspace's name: checked,
                                  and 404 when the principal may not touch the namespace */
};

struct route {
    const char *method;
    const char *pattern; /* "/v1/workspaces/{namespace}/{name}" */
    enum route_authority authority;
    enum role least;
    unsigned flags;
    size_t body_max; /* 0: 256 KiB */
    void (*handle)(struct request *rq);
    const char *summary;
    const char *query; /* names of query parameters, blank-separated; NULL: none. Others are refused */
    int ok_status;     /* usual status, for OpenAPI */
};

/* A file of controller/api gives its rows. */
struct route_set {
    const struct route *rows;
    size_t n;
};
extern const struct route_set routes_workspaces, routes_egress, routes_resources, routes_gateways,
    routes_admission, routes_billing, routes_budgets, routes_suspense, routes_keys, routes_fleet;

/* All sets; ends with {NULL, 0}. */
extern const struct route_set *const route_sets[];

/* Entry of the listener: on_request of struct server_handler. */
void route_request(struct exchange *ex, void *controller);
void route_bad_request(int code, const struct err *err, struct buf *out, void *controller);
/* Matches a pattern against a path: literal segments and {parameters}; parameters are undecoded. */
bool route_match(const char *pattern, struct slice path, struct slice params[REQUEST_PARAMS_MAX]);

#endif
