/* upstream: see upstream.h.
 *
 * Happy path: every gateway of the configuration gets its pool when the configuration is applied, so that no
 * certificate is read while a call waits. Failure path: a gateway whose certificate authorities cannot be
 * used keeps the reason, and its calls are told. */
#include "controller/edge/upstream.h"

#include "base/core/hash.h"
#include "base/core/log.h"
#include "base/core/mem.h"
#include "base/net/tls.h"

#include <stdio.h>
#include <string.h>

struct entry {
    struct upstream up;
    char *name, *url, *ca_pem; /* what it was made for */
    char *authority, *base;
    char *refusal; /* why it cannot be used; NULL: it can */
    struct connector_endpoint tcp;
    struct connector_tls tls;
    bool is_tls;
    UT_hash_handle hh;
};

struct upstreams {
    struct loop *loop;
    struct entry *entries;    /* by name */
    struct tls_trust *system; /* NULL: nobody needs it */
};

static void entry_free(void *data)
{
    struct entry *e = data;
    if (e->is_tls)
        connector_tls_fini(&e->tls);
    mem_free(e->name);
    mem_free(e->url);
    mem_free(e->ca_pem);
    mem_free(e->authority);
    mem_free(e->base);
    mem_free(e->refusal);
    mem_free(e);
}

/* The connector's data must stay for the calls that still wait for a connection. */
static void entry_drop(struct upstreams *u, struct entry *e)
{
    HASH_DEL(u->entries, e);
    if (e->up.pool != NULL)
        http_pool_retire(e->up.pool, entry_free, e);
    else
        entry_free(e);
}

/* --- making one --- */

/* "https://host:port/base" */
static int url_read(struct entry *e, struct slice url, struct endpoint *to, struct err *err)
{
    struct slice rest = url, authority;
    char text[300];
    e->is_tls = slice_starts(url, SL("https://"));
    rest = slice_from(rest, e->is_tls ? strlen("https://") : strlen("http://"));
    bool has_base = slice_cut(&rest, '/', &authority);
    bool has_port =
        authority.n > 0 && authority.p[authority.n - 1] != ']' && slice_find(authority, ':') != SIZE_MAX;
    e->authority = mem_strndup(authority.p, authority.n);
    e->base = mem_zalloc(rest.n + 2);
    if (has_base && rest.n > 0)
        (void)snprintf(e->base, rest.n + 2, "/%.*s", SL_ARG(rest));
    (void)snprintf(text, sizeof text, "%.*s%s", SL_ARG(authority),
                   has_port    ? ""
                   : e->is_tls ? ":443"
                               : ":80");
    int code = endpoint_parse(slice_str(text), to, err);
    if (code != 0)
        e->is_tls = false;
    return code;
}

static int tls_wrap(struct entry *e, const struct endpoint *to, struct slice ca_pem,
                    const struct tls_trust *system, struct err *err)
{
    struct tls_trust *own = NULL;
    int code = ca_pem.n > 0 ? tls_trust_new(ca_pem, &own, err) : 0;
    if (code != 0) {
        e->is_tls = false;
        return code;
    }
    connector_tls_init(&e->tls, &e->tcp.connector, own != NULL ? own : system, to->host);
    tls_trust_free(own);
    return 0;
}

static void entry_add(struct upstreams *u, const struct config_gateway *g)
{
    struct entry *e = MEM_NEW(struct entry);
    struct endpoint to;
    struct err err = {0};
    e->name = mem_strndup(g->name.p, g->name.n);
    e->url = mem_strndup(g->url.p, g->url.n);
    e->ca_pem = mem_strndup(g->ca_pem.n > 0 ? g->ca_pem.p : "", g->ca_pem.n);
    int code = url_read(e, g->url, &to, &err);
    if (code == 0) {
        connector_endpoint_init(&e->tcp, &to);
        code = e->is_tls ? tls_wrap(e, &to, g->ca_pem, u->system, &err) : 0;
    }
    if (code == 0) {
        e->up.pool = http_pool_new(u->loop, e->is_tls ? &e->tls.connector : &e->tcp.connector, NULL);
        e->up.authority = e->authority;
        e->up.base = e->base;
    } else {
        e->refusal = mem_strdup(err.msg);
        log_error("gateway.unusable", LF_STR("gateway", e->name), LF_STR("detail", err.msg));
    }
    HASH_ADD_KEYPTR(hh, u->entries, e->name, strlen(e->name), e);
}

/* --- all of them --- */

static bool is_same(const struct entry *e, const struct config_gateway *g)
{
    return g != NULL && slice_eq_str(g->url, e->url) &&
           slice_eq_str(g->ca_pem.n > 0 ? g->ca_pem : SLICE_EMPTY, e->ca_pem);
}

static bool wants_system(const struct tenancy *t)
{
    for (size_t i = 0; i < t->n_gateways; i++)
        if (slice_starts(t->gateways[i].url, SL("https://")) && t->gateways[i].ca_pem.n == 0)
            return true;
    return false;
}

/* True when it was read anew: only then does it change anything. */
static bool system_read(struct upstreams *u, bool is_wanted)
{
    if (is_wanted && u->system != NULL && tls_trust_is_current(u->system))
        return false;
    tls_trust_free(u->system);
    u->system = NULL;
    if (is_wanted)
        must(tls_trust_new(SLICE_EMPTY, &u->system, NULL) == 0); /* a list that is not there is empty */
    return is_wanted;
}

void upstreams_apply(struct upstreams *u, const struct tenancy *t)
{
    struct entry *e, *tmp;
    bool is_system_new = system_read(u, wants_system(t));
    HASH_ITER (hh, u->entries, e, tmp) {
        if (!is_same(e, tenancy_gateway(t, slice_str(e->name))))
            entry_drop(u, e);
        else if (is_system_new && e->is_tls && e->ca_pem[0] == '\0')
            connector_tls_trust(&e->tls, u->system);
    }
    for (size_t i = 0; i < t->n_gateways; i++) {
        HASH_FIND(hh, u->entries, t->gateways[i].name.p, t->gateways[i].name.n, e);
        if (e == NULL)
            entry_add(u, &t->gateways[i]);
    }
}

struct upstreams *upstreams_new(struct loop *l, const struct tenancy *t)
{
    struct upstreams *u = MEM_NEW(struct upstreams);
    u->loop = l;
    upstreams_apply(u, t);
    return u;
}

const struct upstream *upstreams_find(const struct upstreams *u, const struct config_gateway *g,
                                      struct err *err)
{
    struct entry *e;
    HASH_FIND(hh, u->entries, g->name.p, g->name.n, e);
    if (e != NULL && e->refusal == NULL)
        return &e->up;
    (void)err_set(err, E_UNAVAILABLE, "gateway %.*s: %s", SL_ARG(g->name),
                  e != NULL ? e->refusal : "it is not configured any more");
    return NULL;
}

void upstreams_free(struct upstreams *u)
{
    struct entry *e, *tmp;
    HASH_ITER (hh, u->entries, e, tmp)
        entry_drop(u, e);
    tls_trust_free(u->system);
    mem_free(u);
}
