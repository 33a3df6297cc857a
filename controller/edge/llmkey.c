/* llmkey: see llmkey.h. Another gateway's key is as unknown as none: one gateway learns nothing of another's
 * tenants. */
#include "controller/edge/llmkey.h"

#include <string.h>

struct search {
    char *hash; /* in the request's arena */
    llmkey_cb done;
    void *data;
};

static void on_record(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    void *at;
    struct request *rq = request_release(data, &at);
    (void)has_more; /* an answer to get is whole */
    if (rq == NULL)
        return;
    struct search *x = at;
    struct llmkey key = {.is_known = false};
    if (code == 0 && n == 1 && r->version != 0)
        key.is_known =
            billing_key_parse(request_arena(rq), r->value, &key.owner) == 0 &&
            billing_key_is_at(rq->c->tenancy, key.owner.gateway, key.owner.tenant, rq->who.gateway->name);
    struct workspace *ws = key.is_known ? scheduler_find_id(rq->c->scheduler, key.owner.workspace_id) : NULL;
    key.is_active = ws != NULL && !key.owner.is_revoked && ws->state != WS_DELETING &&
                    strcmp(ws->llm_key_hash, x->hash) == 0;
    x->done(rq, code, &key, err, x->data);
}

void llmkey_find(struct request *rq, const char *hash, llmkey_cb done, void *data)
{
    char name[128];
    struct search *x = ARENA_NEW(request_arena(rq), struct search);
    *x = (struct search){arena_strdup(request_arena(rq), hash), done, data};
    billing_key_name(hash, name);
    struct slice keys[] = {slice_str(name)};
    store_get(rq->c->store, SL("fleet"), keys, 1, on_record, request_hold(rq, x));
}
