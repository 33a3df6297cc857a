/* identity: who asks. Turns the credentials of a request into a principal, from memory. */
#ifndef REEVE_CONTROLLER_EDGE_IDENTITY_H
#define REEVE_CONTROLLER_EDGE_IDENTITY_H

#include "base/net/http.h"
#include "config/tenancy.h"

struct controller;

enum principal_kind { PRINCIPAL_NONE, PRINCIPAL_KEY, PRINCIPAL_GATEWAY };

struct principal {
    enum principal_kind kind;
    enum role role;
    bool is_fleet; /* authority over the fleet */
    const struct config_tenant
        *tenant; /* whom it acts for; NULL: a fleet key without Reeve-Tenant, or a gateway */
    const struct config_gateway *gateway;
    const struct slice *namespaces; /* that it may touch; n 0, or "*" among them: all */
    size_t n_namespaces;
    char subject[160]; /* "key:tenant/backend": stable over restarts; owner of ACP server ids; actor in audit
                        */
};

/* Finds the principal of a credential's text. 0 or E_UNAUTHENTICATED. What may be revoked meanwhile is copied
 * into `a`. */
int identity_of_key(struct controller *c, struct tenancy *t, struct arena *a, struct slice text,
                    struct principal *ret);
int identity_of_gateway(struct tenancy *t, struct slice gateway, struct slice secret, struct principal *ret);
/* From the request's headers: Authorization: Bearer, x-api-key for gateways; `access_token` of the query only
 * where `is_websocket`. `gateway`: the name in the path when the route is a gateway's, else SLICE_NULL. */
int identity_of_request(struct controller *c, struct tenancy *t, struct arena *a,
                        const struct http_request *r, struct slice gateway, bool is_websocket,
                        struct principal *ret, struct err *err);
bool principal_has_namespace(const struct principal *p, struct slice namespace);

#endif
