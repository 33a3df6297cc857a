/* upstream: the way to the gateways: a pool of connections to each, for as long as its address and who may
 * vouch for it stay the same. */
#ifndef REEVE_CONTROLLER_EDGE_UPSTREAM_H
#define REEVE_CONTROLLER_EDGE_UPSTREAM_H

#include "base/net/client.h"
#include "config/tenancy.h"

struct upstreams;

struct upstream {
    struct http_pool *pool;
    const char *authority; /* for the Host header */
    const char *base;      /* path in front of /v1/…; "" */
};

struct upstreams *upstreams_new(struct loop *l, const struct tenancy *t);
/* After a reload: gateways that are gone or lead elsewhere lose their pool (calls in flight go on to their
 * end), and the system's list of authorities is
 * read again where it has changed. */
void upstreams_apply(struct upstreams *u, const struct tenancy *t);
/* NULL, with a sentence, when the gateway cannot be used. Valid until the loop's next turn. */
const struct upstream *upstreams_find(const struct upstreams *u, const struct config_gateway *g,
                                      struct err *err);
/* Calls in flight go on to their end. */
void upstreams_free(struct upstreams *u);

#endif
