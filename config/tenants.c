/* tenants: who pays, with keys, quotas and budgets; and the price file, whose currency budgets must share.
 *
 * Happy path: each tenant's references are resolved and its limits read exactly. Failure paths: unknown
 * templates and gateways, names that stand twice, a budget in another currency than the prices: a problem
 * each, at its place. What is in the price file beyond its syntax and currency is checked by billing. */
#include "config/build.h"

#include <string.h>

#include "base/core/mem.h"
#include "config/settings.h"
#include "config/units.h"

#define PRICES_MAX (16u << 20)

/* --- prices --- */

/* As the person would write it: relative to where they stand, like the configuration file itself. */
static const char *display_name(struct build *b, struct slice path)
{
    const char *slash = strrchr(b->source->file, '/');
    if (slash == NULL || slice_starts(path, SL("/")))
        return arena_strndup(&b->t->arena, path.p, path.n);
    return arena_printf(&b->t->arena, "%.*s/%.*s", (int)(slash - b->source->file), b->source->file,
                        SL_ARG(path));
}

static void read_price_file(struct build *b, const struct yaml_node *n)
{
    struct config_prices *prices = &b->t->prices;
    struct config_price_file f = {.root = NULL};
    if (n->kind != YAML_SCALAR || n->text.n == 0 || n->text.n > setting_find("prices.file[]")->max)
        return; /* reported */
    struct buf text;
    struct err err = {0};
    f.path = source_path(b->source, &b->t->arena, n->text);
    if (source_read(f.path.p, PRICES_MAX, &text, &err) != 0) {
        source_complain(b->source, n, NULL, "cannot read `%s`: %s", SHOW(n->text), err.msg);
        return;
    }
    const char *display = display_name(b, n->text);
    if (yaml_parse(&b->t->arena, display, buf_view(&text), b->source->problems, &f.root) != 0)
        b->source->complaints++;
    buf_fini(&text);
    if (f.root == NULL)
        return;
    prices->files[prices->n_files++] = f;
    const struct yaml_node *currency = yaml_get(f.root, "currency");
    if (b->prices_display == NULL) {
        b->prices_display = display;
        if (currency != NULL && currency->kind == YAML_SCALAR && currency->text.n == 3)
            b->currency = currency->text;
    }
}

void build_prices(struct build *b)
{
    const struct yaml_node *map = node_child(b->root, "prices", YAML_MAP), *file = yaml_get(map, "file");
    b->t->prices.deny_unpriced = slice_eq_str(node_text(map, "prices.unpriced"), "deny");
    if (file == NULL || file->count > PRICE_FILES_MAX)
        return; /* absent or reported */
    b->t->prices.files = arena_zalloc(&b->t->arena, (file->count + 1) * sizeof(*b->t->prices.files));
    if (file->kind == YAML_SCALAR)
        read_price_file(b, file);
    else if (file->kind == YAML_LIST)
        YAML_FOREACH (it, file)
            read_price_file(b, it);
}

/* --- budgets --- */

static void check_currency(struct build *b, const struct yaml_node *at, const char currency[4])
{
    if (b->currency.n == 0 || slice_eq_str(b->currency, currency))
        return;
    source_complain(b->source, at, NULL,
                    "`limit` is in %s, but prices are in %s (`%s`): a budget must share the currency",
                    currency, SHOW(b->currency), b->prices_display);
}

static void read_budget(struct build *b, const struct yaml_node *n, struct config_budget *x)
{
    x->name = node_text(n, "tenants.*.budgets[].name");
    x->scope =
        slice_eq_str(node_text(n, "tenants.*.budgets[].scope"), "namespace") ? SCOPE_NAMESPACE : SCOPE_TENANT;
    struct slice window = node_text(n, "tenants.*.budgets[].window");
    x->window = slice_eq_str(window, "day")    ? WINDOW_DAY
                : slice_eq_str(window, "week") ? WINDOW_WEEK
                                               : WINDOW_MONTH;
    x->timezone = node_text(n, "tenants.*.budgets[].timezone");
    x->at_limit = AT_LIMIT_BLOCK;
    const struct yaml_node *limit = node_child(n, "limit", YAML_SCALAR);
    if (limit != NULL && money_parse(limit->text, &x->limit, x->currency) == 0)
        check_currency(b, limit, x->currency);
}

static void read_budgets(struct build *b, const struct yaml_node *tenant, struct config_tenant *t)
{
    const struct yaml_node *list = node_child(tenant, "budgets", YAML_LIST);
    if (list == NULL || list->count > setting_find("tenants.*.budgets")->max)
        return;
    t->budgets = arena_zalloc(&b->t->arena, (list->count + 1) * sizeof(*t->budgets));
    YAML_FOREACH (n, list) {
        struct config_budget *x = &t->budgets[t->n_budgets++];
        read_budget(b, n, x);
        build_unique_name(b, list, n);
    }
}

/* --- tenants --- */

static void read_quotas(const struct yaml_node *tenant, struct config_tenant *t)
{
    const struct yaml_node *quotas = node_child(tenant, "quotas", YAML_MAP);
    t->quota_workspaces = node_count(quotas, "tenants.*.quotas.workspaces");
    t->quota_running = node_count(quotas, "tenants.*.quotas.running");
    t->quota_creates_per_minute = node_count(quotas, "tenants.*.quotas.creates_per_minute");
    t->quota_namespace_running =
        node_count(node_child(quotas, "namespace", YAML_MAP), "tenants.*.quotas.namespace.running");
}

static void read_templates(struct build *b, const struct yaml_node *tenant, struct config_tenant *t)
{
    const struct yaml_node *list = node_child(tenant, "templates", YAML_LIST);
    if (list == NULL || list->count > setting_find("tenants.*.templates")->max)
        return;
    t->templates = arena_zalloc(&b->t->arena, (list->count + 1) * sizeof(*t->templates));
    YAML_FOREACH (n, list) {
        const void *template = build_reference(b, n, "templates", "template", &b->t->index->templates);
        if (template != NULL)
            t->templates[t->n_templates++] = template;
    }
}

/* The id stands in credentials and partitions; it depends on the name alone, so a restart or another machine
 * agrees. */
static void tenant_id(struct slice name, char out[16])
{
    unsigned char hash[SHA256_BYTES];
    struct buf text = BUF_INIT(64);
    sha256(name, hash);
    (void)base32_encode(slice_of(hash, 10), &text); /* 16 characters fit in 64 */
    must(text.n >= 12);
    memcpy(out, text.p, 12);
    out[12] = '\0';
    buf_fini(&text);
}

static void read_tenant(struct build *b, const struct yaml_node *n, struct config_tenant *t)
{
    t->name = n->key;
    tenant_id(t->name, t->id);
    (void)tenancy_index_add(&b->t->arena, &b->t->index->tenants, t->name, t); /* keys of a map are unique */
    if (!tenancy_index_add(&b->t->arena, &b->t->index->tenant_ids, slice_str(t->id), t))
        source_complain_key(b->source, n, NULL,
                            "tenant `%s`: another tenant's name gives the same id: choose another",
                            SHOW(t->name));
    const struct yaml_node *gateway = node_child(n, "gateway", YAML_SCALAR);
    if (gateway != NULL)
        t->gateway = build_reference(b, gateway, "gateways", "gateway", &b->t->index->gateways);
    read_templates(b, n, t);
    build_keys(b, yaml_get(n, "keys"), "tenants.*.keys", t, &t->keys, &t->n_keys);
    read_quotas(n, t);
    const struct yaml_node *network = node_child(n, "network", YAML_MAP);
    t->network_line = network != NULL ? network->key_line : n->key_line;
    build_tenant_network(b, network, t);
    read_budgets(b, n, t);
}

void build_tenants(struct build *b)
{
    const struct yaml_node *all = node_child(b->root, "tenants", YAML_MAP);
    if (all == NULL || all->count > setting_find("tenants")->max)
        return;
    b->t->tenants = arena_zalloc(&b->t->arena, (all->count + 1) * sizeof(*b->t->tenants));
    YAML_FOREACH (n, all)
        read_tenant(b, n, &b->t->tenants[b->t->n_tenants++]);
}
