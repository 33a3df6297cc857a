/* gateway_keys: see gateway_keys.h. The scheduler knows names; here they become gateways of the present
 * configuration, and their dialects. */
#include "controller/gateway_keys.h"

#include "base/core/mem.h"
#include "billing/litellm_keys.h"
#include "controller/controller.h"

static bool is_managed(const struct config_gateway *g)
{
    return g != NULL && g->kind == GATEWAY_LITELLM && g->admin_key.n > 0;
}

static struct slice of_tenant(void *data, struct slice tenant, bool *ret_is_managed)
{
    const struct controller *c = data;
    const struct config_tenant *t = tenancy_tenant(c->tenancy, tenant);
    const struct config_gateway *g = t != NULL ? t->gateway : NULL;
    *ret_is_managed = is_managed(g);
    return g != NULL ? g->name : SLICE_EMPTY;
}

static void act(void *data, enum gateway_key_act what, const struct gateway_key *key,
                gateway_key_done_cb done, void *done_data)
{
    static const enum litellm_key_act acts[] = {[GATEWAY_KEY_MAKE] = LITELLM_KEY_MAKE,
                                                [GATEWAY_KEY_BLOCK] = LITELLM_KEY_BLOCK,
                                                [GATEWAY_KEY_UNBLOCK] = LITELLM_KEY_UNBLOCK,
                                                [GATEWAY_KEY_REVOKE] = LITELLM_KEY_REVOKE};
    struct controller *c = data;
    const struct litellm_key k = {.hash = key->hash,
                                  .text = key->text,
                                  .tenant = key->tenant,
                                  .namespace = key->namespace,
                                  .workspace = key->workspace,
                                  .workspace_id = key->workspace_id,
                                  .user = key->user,
                                  .generation = key->generation};
    litellm_keys_act(c->litellm_keys, key->gateway, tenancy_gateway(c->tenancy, key->gateway), acts[what], &k,
                     done, done_data);
}

int gateway_keys_open(struct controller *c, struct gateway_keys *ret, struct err *err)
{
    *ret = (struct gateway_keys){.of_tenant = of_tenant, .act = act, .data = c};
    return litellm_keys_new(&c->loop, &c->litellm_keys, err);
}
