/* identity: see identity.h. Keys are found by the SHA-256 of their whole text in hash tables, so that the
 * cost of a wrong key is that of a right one, and nothing is compared byte by byte with a secret. */
#include "controller/edge/identity.h"

#include "controller/controller.h"
#include "controller/edge/keyring.h"

#include <stdio.h>

static bool namespaces_are_all(const struct slice *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (slice_eq_str(v[i], "*"))
            return true;
    return n == 0;
}

bool principal_has_namespace(const struct principal *p, struct slice namespace)
{
    if (namespaces_are_all(p->namespaces, p->n_namespaces))
        return true;
    for (size_t i = 0; i < p->n_namespaces; i++)
        if (slice_eq(p->namespaces[i], namespace))
            return true;
    return false;
}

int identity_of_key(struct controller *c, struct tenancy *t, struct arena *a, struct slice text,
                    struct principal *ret)
{
    unsigned char hash[SHA256_BYTES];
    const struct config_tenant *tenant = NULL;
    struct slice id;
    if (token_split(text, "rvk", &id) != 0)
        return E_UNAUTHENTICATED;
    sha256(text, hash);
    *ret = (struct principal){.kind = PRINCIPAL_KEY};
    const struct config_key *key = tenancy_key(t, hash, &tenant);
    if (key != NULL) {
        ret->role = key->role;
        ret->is_fleet = tenant == NULL;
        ret->tenant = tenant;
        ret->namespaces = key->namespaces;
        ret->n_namespaces = key->n_namespaces;
        (void)snprintf(ret->subject, sizeof ret->subject, "key:%.*s/%.*s",
                       SL_ARG(tenant != NULL ? tenant->name : SL("fleet")), SL_ARG(key->name));
        return 0;
    }
    const struct keyring_key *made = keyring_find(c->keyring, hash);
    if (made == NULL)
        return E_UNAUTHENTICATED;
    tenant = tenancy_tenant_by_id(t, slice_str(made->tenant_id));
    if (tenant == NULL)
        return E_UNAUTHENTICATED; /* its tenant is no longer configured */
    ret->role = made->role;
    ret->tenant = tenant;
    struct slice *copy = arena_alloc(a, (made->n_namespaces + 1) * sizeof *copy);
    for (size_t i = 0; i < made->n_namespaces; i++)
        copy[i] = arena_slice(a, made->namespaces[i]);
    ret->namespaces = copy;
    ret->n_namespaces = made->n_namespaces;
    (void)snprintf(ret->subject, sizeof ret->subject, "key:%.*s/%s", SL_ARG(tenant->name), made->id);
    return 0;
}

int identity_of_gateway(struct tenancy *t, struct slice gateway, struct slice secret, struct principal *ret)
{
    const struct config_gateway *g = tenancy_gateway(t, gateway);
    unsigned char want[SHA256_BYTES], got[SHA256_BYTES];
    if (g == NULL || g->secret.n == 0)
        return E_UNAUTHENTICATED;
    /* hashed first: the comparison tells neither length nor content */
    sha256(g->secret, want);
    sha256(secret, got);
    if (!crypto_equal(want, got, sizeof want))
        return E_UNAUTHENTICATED;
    *ret = (struct principal){.kind = PRINCIPAL_GATEWAY, .gateway = g};
    (void)snprintf(ret->subject, sizeof ret->subject, "gateway:%.*s", SL_ARG(g->name));
    return 0;
}

/* The bearer text of the Authorization header, the scheme in any case (RFC 9110 §11.1); SLICE_NULL when there
 * is none. */
static struct slice bearer_of(const struct http_request *r)
{
    struct slice value = http_find(r->headers, r->n_headers, "authorization"), scheme;
    if (value.p == NULL || !slice_cut(&value, ' ', &scheme) || !slice_ieq_str(scheme, "bearer"))
        return SLICE_NULL;
    return slice_trim(value);
}

/* A fleet key says whom it acts for. */
static int act_for(struct tenancy *t, const struct http_request *r, struct principal *p, struct err *err)
{
    struct slice name = http_find(r->headers, r->n_headers, "reeve-tenant");
    if (name.p == NULL)
        return 0;
    if (!p->is_fleet)
        return slice_eq(name, p->tenant->name)
                   ? 0
                   : err_set(err, E_NOT_FOUND, "Reeve-Tenant: no tenant `%.*s`", SL_ARG(name));
    p->tenant = tenancy_tenant(t, name);
    if (p->tenant == NULL)
        return err_set(err, E_NOT_FOUND, "Reeve-Tenant: no tenant `%.*s`", SL_ARG(name));
    return 0;
}

int identity_of_request(struct controller *c, struct tenancy *t, struct arena *a,
                        const struct http_request *r, struct slice gateway, bool is_websocket,
                        struct principal *ret, struct err *err)
{
    struct slice text = bearer_of(r);
    if (http_count(r->headers, r->n_headers, "authorization") > 1)
        return err_set(err, E_UNAUTHENTICATED, "several Authorization headers");
    if (gateway.p != NULL) {
        if (text.p == NULL)
            text = http_find(r->headers, r->n_headers, "x-api-key");
        if (text.p == NULL || identity_of_gateway(t, gateway, text, ret) != 0)
            return err_set(err, E_UNAUTHENTICATED,
                           "the gateway's secret is wanted, as Authorization: Bearer or x-api-key");
        return 0;
    }
    if (text.p == NULL && is_websocket)
        text = query_find(r->query, "access_token");
    if (text.p == NULL)
        return err_set(err, E_UNAUTHENTICATED, "a service key is wanted: Authorization: Bearer rvk_…");
    if (identity_of_key(c, t, a, text, ret) != 0)
        return err_set(err, E_UNAUTHENTICATED, "this key is not known, or was revoked");
    return act_for(t, r, ret, err);
}
