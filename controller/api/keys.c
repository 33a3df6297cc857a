/* keys: service keys over the API, and who one is. */
#include "base/core/mem.h"
#include "controller/api/audit.h"
#include "controller/edge/keyring.h"
#include "controller/edge/route.h"

#include <stdio.h>
#include <string.h>

static void whoami(struct request *rq)
{
    const struct principal *p = &rq->who;
    struct buf out = BUF_INIT(65536);
    struct jsonw w;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kstr(&w, "subject", p->subject);
    jsonw_kstr(&w, "role", role_name(p->role));
    jsonw_kstr(&w, "authority", p->is_fleet ? "fleet" : "tenant");
    if (p->tenant != NULL)
        jsonw_kslice(&w, "tenant", p->tenant->name);
    jsonw_key(&w, "namespaces");
    jsonw_array(&w);
    for (size_t i = 0; i < p->n_namespaces; i++)
        jsonw_slice(&w, p->namespaces[i]);
    if (p->n_namespaces == 0)
        jsonw_str(&w, "*");
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

/* Keys reach over the whole tenant: who manages them must too. */
static bool has_all_namespaces(struct request *rq)
{
    if (principal_has_namespace(&rq->who, SL("*")))
        return true;
    request_problem(rq, E_FORBIDDEN, "a key with all namespaces is wanted");
    return false;
}

static void list_keys(struct request *rq)
{
    if (!has_all_namespaces(rq))
        return;
    const struct keyring_key **keys = arena_zalloc(request_arena(rq), KEYRING_KEYS_MAX * sizeof *keys);
    size_t n = keyring_list(rq->c->keyring, rq->who.tenant, keys, KEYRING_KEYS_MAX);
    struct buf out = BUF_INIT((size_t)16 * 1024 * 1024);
    struct jsonw w;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_key(&w, "items");
    jsonw_array(&w);
    for (size_t i = 0; i < n; i++)
        keyring_key_json(keys[i], &w);
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    request_json(rq, 200, buf_view(&out), NULL, 0);
    buf_fini(&out);
}

struct made {
    char text[TOKEN_TEXT_MAX], id[TOKEN_ID_MAX];
};

static void on_created(int code, const struct err *err, void *data)
{
    void *arg;
    struct request *rq = request_release(data, &arg);
    struct made *m = arg;
    if (rq != NULL && code != 0) {
        request_error(rq, err);
    } else if (rq != NULL) {
        struct buf out = BUF_INIT(1024);
        struct jsonw w;
        jsonw_init(&w, &out);
        jsonw_object(&w);
        jsonw_kstr(&w, "id", m->id);
        jsonw_kstr(&w, "key", m->text);
        jsonw_object_end(&w);
        audit_request(rq, "key.create", slice_str(m->id));
        request_json(rq, 201, buf_view(&out), NULL, 0);
        buf_wipe(&out);
    }
    mem_wipe(m, sizeof *m);
    mem_free(m);
}

static void create_key(struct request *rq)
{
    struct {
        struct slice name, role;
        const struct json *namespaces;
    } in = {SLICE_NULL, SLICE_NULL, NULL};
    static const struct json_field rows[] = {{"name", JF_STRING, true, 0},
                                             {"role", JF_STRING, true, sizeof(struct slice)},
                                             {"namespaces", JF_ARRAY, false, 2 * sizeof(struct slice)}};
    struct err err = {0};
    enum role role;
    struct slice namespaces[KEYRING_NAMESPACES_MAX];
    size_t n = 0;
    if (json_decode(rq->json, "", rows, ARRAY_LEN(rows), &in, &err) != 0) {
        request_error(rq, &err);
        return;
    }
    if (!name_is_valid(in.name)) {
        request_problem(rq, E_INVALID, "name: expected [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?");
        return;
    }
    if (role_parse(in.role, &role) != 0 || role == ROLE_NONE) {
        request_problem(rq, E_INVALID, "role: expected owner, member or viewer, found `%.*s`",
                        SL_ARG(in.role));
        return;
    }
    if (role > rq->who.role) {
        request_problem(rq, E_FORBIDDEN, "role: above your own");
        return;
    }
    JSON_FOREACH (it, in.namespaces) {
        struct slice ns = json_string(it);
        if (n == KEYRING_NAMESPACES_MAX || (!slice_eq_str(ns, "*") && !name_is_valid(ns))) {
            request_problem(rq, E_INVALID, "namespaces[%zu]: expected at most %d legal names, or \"*\"", n,
                            KEYRING_NAMESPACES_MAX);
            return;
        }
        if (!principal_has_namespace(&rq->who, ns)) {
            request_problem(rq, E_FORBIDDEN, "namespaces[%zu]: outside your own", n);
            return;
        }
        namespaces[n++] = ns;
    }
    if (n == 0 && !principal_has_namespace(&rq->who, SL("*"))) {
        request_problem(rq, E_FORBIDDEN, "namespaces: are wanted, your key has not all of them");
        return;
    }
    const struct keyring_key **have = arena_zalloc(request_arena(rq), KEYRING_KEYS_MAX * sizeof *have);
    if (keyring_list(rq->c->keyring, rq->who.tenant, have, KEYRING_KEYS_MAX) == KEYRING_KEYS_MAX) {
        request_problem(rq, E_QUOTA, "the tenant has %d keys: revoke some", KEYRING_KEYS_MAX);
        return;
    }
    struct made *m = MEM_NEW(struct made);
    keyring_create(rq->c->keyring, rq->who.tenant, in.name, role, namespaces, n, m->text, m->id, on_created,
                   request_hold(rq, m));
}

static void on_revoked(int code, const struct err *err, void *data)
{
    struct request *rq = request_release(data, NULL);
    if (rq == NULL)
        return;
    if (code != 0) {
        request_error(rq, err);
        return;
    }
    audit_request(rq, "key.revoke", rq->params[0]);
    request_empty(rq, 204);
}

static void revoke_key(struct request *rq)
{
    if (!has_all_namespaces(rq))
        return;
    keyring_revoke(rq->c->keyring, rq->who.tenant, rq->params[0], on_revoked, request_hold(rq, NULL));
}

static const struct route rows[] = {
    {"GET", "/v1/whoami", ROUTE_EITHER, ROLE_VIEWER, 0, 0, whoami, "Who is this key?", NULL, 200},
    {"GET", "/v1/keys", ROUTE_TENANT, ROLE_OWNER, 0, 0, list_keys, "Service keys made over the API", NULL,
     200},
    {"POST", "/v1/keys", ROUTE_TENANT, ROLE_OWNER, ROUTE_BODY_JSON, 0, create_key,
     "Make a service key; its text is shown once", NULL, 201},
    {"DELETE", "/v1/keys/{id}", ROUTE_TENANT, ROLE_OWNER, 0, 0, revoke_key, "Revoke a service key", NULL,
     204},
};
const struct route_set routes_keys = {rows, ARRAY_LEN(rows)};
