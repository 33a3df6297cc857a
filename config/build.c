/* build: paths, providers, gateways and templates of a tenancy.
 *
 * Happy path: section by section, so that what refers finds what it refers to. Failure paths: names that lead
 * nowhere, names and hashes that stand twice, ranges that overlap, secrets that cannot be resolved: a problem
 * each; broken entries stay in place, half-filled, so that references to them are not reported as well. */
#include "config/build.h"

#include <stdio.h>
#include <string.h>

#include "base/core/certificate.h"
#include "base/core/clock.h"
#include "base/core/mem.h"
#include "config/address.h"
#include "config/secret.h"
#include "config/settings.h"
#include "config/units.h"
#include "config/value.h"

static const char *last_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot == NULL ? path : dot + 1;
}

const struct yaml_node *node_child(const struct yaml_node *map, const char *path, enum yaml_kind kind)
{
    const struct yaml_node *n = yaml_get(map, last_part(path));
    return n != NULL && n->kind == kind && !n->is_bad ? n : NULL;
}

struct slice node_text(const struct yaml_node *map, const char *path)
{
    const struct yaml_node *n = yaml_get(map, last_part(path));
    if (n != NULL)
        return n->kind == YAML_SCALAR ? n->text : SLICE_NULL;
    const struct setting *row = setting_find(path);
    must(row != NULL);
    return row->fallback == NULL ? SLICE_NULL : slice_str(row->fallback);
}

uint64_t node_count(const struct yaml_node *map, const char *path)
{
    uint64_t v = 0;
    (void)slice_u64(node_text(map, path), &v); /* absent or reported: 0 */
    return v;
}

struct slice build_file(struct build *b, const struct yaml_node *n, const char *path, size_t max)
{
    struct buf text;
    struct err err = {0};
    if (n == NULL || n->text.n == 0 || n->text.n > setting_find(path)->max)
        return SLICE_NULL; /* absent or reported */
    if (source_read(source_path(b->source, &b->t->arena, n->text).p, max, &text, &err) != 0) {
        source_complain(b->source, n, NULL, "cannot read `%s`: %s", SHOW(n->text), err.msg);
        return SLICE_NULL;
    }
    struct slice kept = arena_slice(&b->t->arena, buf_view(&text));
    buf_wipe(&text); /* it may be a key */
    return kept;
}

const void *build_reference(struct build *b, const struct yaml_node *at, const char *section,
                            const char *noun, struct name_entry *const *table)
{
    const struct yaml_node *all = yaml_get(b->root, section);
    if (at->kind != YAML_SCALAR || at->is_bad || (all != NULL && all->kind != YAML_MAP))
        return NULL;
    const void *item = tenancy_index_find(table, at->text);
    if (item != NULL || (all == NULL && (setting_find(section)->flags & SETTING_REQUIRED)))
        return item;
    struct hint h;
    hint_init(&h, at->text);
    if (all != NULL)
        YAML_FOREACH (n, all)
            hint_offer(&h, n->key);
    source_complain(b->source, at, HINT(&h), "unknown %s `%s`: there is none of that name under `%s`", noun,
                    SHOW(at->text), section);
    return NULL;
}

/* --- paths --- */

static void build_paths(struct build *b)
{
    struct arena *a = &b->t->arena;
    struct slice dir = node_text(b->root, "data_dir"), key = node_text(b->root, "seal_key");
    b->t->data_dir = source_path(b->source, a, dir.p == NULL ? SL(".") : dir);
    while (b->t->data_dir.n > 1 && slice_ends(b->t->data_dir, SL("/")))
        b->t->data_dir.n--;
    b->t->data_dir = arena_slice(a, b->t->data_dir);
    b->t->store = arena_slice(a, node_text(b->root, "store"));
    if (slice_starts(key, SL("file:")))
        b->t->seal_key_file = source_path(b->source, a, slice_from(key, 5));
    else
        b->t->seal_key_file = slice_str(arena_printf(a, "%.*s/seal.key", SL_ARG(b->t->data_dir)));
}

/* --- keys --- */

static void index_key(struct build *b, const struct yaml_node *at, const struct config_key *key,
                      const struct config_tenant *tenant)
{
    struct key_entry *first = NULL;
    HASH_FIND(hh, b->t->index->keys, key->hash, SHA256_BYTES, first);
    if (first != NULL) {
        source_complain(b->source, at, NULL,
                        "this hash stands already in line %u, for key `%s` of %s%s: each key needs its own",
                        first->line, SHOW(first->key->name), first->tenant == NULL ? "the fleet" : "tenant ",
                        first->tenant == NULL ? "" : SHOW(first->tenant->name));
        return;
    }
    first = ARENA_NEW(&b->t->arena, struct key_entry);
    first->key = key;
    first->tenant = tenant;
    first->line = at->line;
    HASH_ADD_KEYPTR(hh, b->t->index->keys, first->key->hash, SHA256_BYTES, first);
}

static void read_namespaces(struct build *b, const struct yaml_node *map, const char *path,
                            struct config_key *key)
{
    const struct yaml_node *list = node_child(map, path, YAML_LIST);
    key->namespaces =
        arena_zalloc(&b->t->arena, ((list == NULL ? 0 : list->count) + 1) * sizeof(struct slice));
    if (list == NULL) {
        key->namespaces[key->n_namespaces++] = SL("*");
        return;
    }
    YAML_FOREACH (n, list) {
        key->namespaces[key->n_namespaces++] = n->text;
        if (slice_eq_str(n->text, "*") && list->count > 1)
            source_complain(b->source, n, NULL, "`*` means all namespaces: expected it to stand alone");
    }
}

void build_unique_name(struct build *b, const struct yaml_node *list, const struct yaml_node *entry)
{
    const struct yaml_node *name = node_child(entry, "name", YAML_SCALAR);
    if (name == NULL)
        return;
    for (const struct yaml_node *before = list->first; before != entry; before = before->next) {
        const struct yaml_node *other = node_child(before, "name", YAML_SCALAR);
        if (other != NULL && slice_eq(other->text, name->text)) {
            source_complain(b->source, name, NULL, "name `%s` stands already in line %u: expected another",
                            SHOW(name->text), other->line);
            return;
        }
    }
}

void build_keys(struct build *b, const struct yaml_node *list, const char *pattern,
                const struct config_tenant *tenant, struct config_key **ret, size_t *ret_n)
{
    size_t n = 0;
    if (list == NULL || list->kind != YAML_LIST || list->count > setting_find(pattern)->max)
        return;
    struct config_key *keys = arena_zalloc(&b->t->arena, (list->count + 1) * sizeof(*keys));
    YAML_FOREACH (it, list) {
        struct config_key *key = &keys[n++];
        key->name = node_text(it, "keys[].name");
        (void)role_parse(node_text(it, "keys[].role"),
                         &key->role); /* reported when it is none, as the hash */
        read_namespaces(b, it, "tenants.*.keys[].namespaces", key);
        build_unique_name(b, list, it);
        const struct yaml_node *hash = node_child(it, "keys[].hash", YAML_SCALAR);
        if (hash != NULL && value_hash(hash->text, key->hash) == 0)
            index_key(b, hash, key, tenant);
    }
    *ret = keys;
    *ret_n = n;
}

/* --- providers --- */

static void check_overlap(struct build *b, const struct yaml_node *at, const struct config_provider *p)
{
    for (const struct config_provider *o = b->t->providers; o < p; o++)
        if (p->uid_count > 0 && o->uid_count > 0 && p->uid_first < o->uid_first + o->uid_count &&
            o->uid_first < p->uid_first + p->uid_count)
            source_complain_key(
                b->source, at, NULL,
                "the uids of provider `%s` (%u+%u) overlap those of `%s` (%u+%u): give each its own "
                "`uid_range`",
                SHOW(p->name), p->uid_first, p->uid_count, SHOW(o->name), o->uid_first, o->uid_count);
}

/* A key that another kind of provider has. */
static void check_foreign_key(struct build *b, const struct yaml_node *provider, const char *key,
                              const char *kind)
{
    const struct yaml_node *n = yaml_get(provider, key);
    if (n != NULL)
        source_complain_key(b->source, n, NULL, "`%s` is a key of providers of kind `%s`: remove it", key,
                            kind);
}

static void build_providers(struct build *b)
{
    const struct yaml_node *all = node_child(b->root, "providers", YAML_MAP);
    if (all == NULL)
        return;
    b->t->providers = arena_zalloc(&b->t->arena, (all->count + 1) * sizeof(*b->t->providers));
    YAML_FOREACH (n, all) {
        struct config_provider *p = &b->t->providers[b->t->n_providers++];
        p->name = n->key;
        (void)tenancy_index_add(&b->t->arena, &b->t->index->providers, p->name,
                                p); /* keys of a map are unique */
        struct slice kind = node_text(n, "providers.*.kind");
        if (slice_eq_str(kind, "local"))
            p->kind = PROVIDER_LOCAL;
        else if (slice_eq_str(kind, "docker"))
            p->kind = PROVIDER_DOCKER;
        else
            continue; /* reported */
        struct slice binary = node_text(n, "providers.*.agent_binary");
        if (binary.p != NULL)
            p->agent_binary = source_path(b->source, &b->t->arena, binary);
        if (p->kind == PROVIDER_DOCKER) {
            p->endpoint = node_text(n, "providers.*.endpoint");
            check_foreign_key(b, n, "uid_range", "local");
            continue;
        }
        check_foreign_key(b, n, "endpoint", "docker");
        if (value_uid_range(node_text(n, "providers.*.uid_range"), &p->uid_first, &p->uid_count) == 0)
            check_overlap(b, n, p);
    }
}

/* --- gateways --- */

static void read_admin_key(struct build *b, const struct yaml_node *n, struct config_gateway *g)
{
    const struct yaml_node *key = node_child(n, "gateways.*.admin_key", YAML_SCALAR);
    if (key == NULL)
        return;
    if (g->kind != GATEWAY_LITELLM)
        source_complain(b->source, key, NULL,
                        "`admin_key` is for `kind: litellm`: this gateway has no key API that Reeve knows");
    else
        (void)secret_resolve(b->source, key, &b->t->arena, &g->admin_key); /* it reports itself */
}

/* The text is kept, so that what was checked is what is used. */
static void read_ca(struct build *b, const struct yaml_node *n, struct config_gateway *g)
{
    struct err err = {0};
    STACK_OF(X509) *all = NULL;
    struct slice pem = build_file(b, n, "gateways.*.ca", CERTIFICATE_FILE_MAX);
    if (n != NULL && slice_starts(g->url, SL("http://")))
        source_complain(b->source, n, NULL, "`ca` is of no use with `http://`: expected an `https://` URL");
    if (pem.p == NULL)
        return; /* absent or reported */
    if (certificates_parse(pem, &all, &err) != 0)
        source_complain(b->source, n, NULL, "`%s`: %s", SHOW(n->text), err.msg);
    else
        g->ca_pem = pem;
    certificates_free(all);
}

static void build_gateways(struct build *b)
{
    const struct yaml_node *all = node_child(b->root, "gateways", YAML_MAP);
    if (all == NULL)
        return;
    b->t->gateways = arena_zalloc(&b->t->arena, (all->count + 1) * sizeof(*b->t->gateways));
    YAML_FOREACH (n, all) {
        struct config_gateway *g = &b->t->gateways[b->t->n_gateways++];
        g->name = n->key;
        (void)tenancy_index_add(&b->t->arena, &b->t->index->gateways, g->name,
                                g); /* keys of a map are unique */
        struct slice kind = node_text(n, "gateways.*.kind");
        if (!slice_eq_str(kind, "plain") && !slice_eq_str(kind, "litellm"))
            continue; /* reported */
        g->kind = slice_eq_str(kind, "litellm") ? GATEWAY_LITELLM : GATEWAY_PLAIN;
        (void)url_check(node_text(n, "gateways.*.url"), &g->url, NULL); /* reported when it is none */
        read_ca(b, node_child(n, "gateways.*.ca", YAML_SCALAR), g);
        const struct yaml_node *secret = node_child(n, "gateways.*.secret", YAML_SCALAR);
        if (secret != NULL)
            (void)secret_resolve(b->source, secret, &b->t->arena, &g->secret); /* it reports itself */
        read_admin_key(b, n, g);
    }
}

/* --- templates --- */

static void read_resources(const struct yaml_node *n, struct config_template *t)
{
    const struct yaml_node *r = node_child(n, "resources", YAML_MAP);
    /* What does not parse was reported, what is absent stays 0: no limit. */
    (void)i128_parse(node_text(r, "templates.*.resources.cpus"), 3, false, &t->cpus_milli);
    (void)size_parse(node_text(r, "templates.*.resources.memory"), &t->memory_bytes);
    (void)size_parse(node_text(r, "templates.*.resources.disk"), &t->disk_bytes);
    t->processes = node_count(r, "templates.*.resources.processes");
}

static void read_server(struct arena *a, const struct yaml_node *n, struct config_template *t)
{
    const struct yaml_node *server = node_child(n, "server", YAML_MAP);
    const struct yaml_node *agents = node_child(server, "agents", YAML_LIST),
                           *env = node_child(server, "env", YAML_MAP);
    if (agents != NULL) {
        t->agents = arena_zalloc(a, (agents->count + 1) * sizeof(*t->agents));
        YAML_FOREACH (it, agents)
            t->agents[t->n_agents++] = it->text;
    }
    if (env != NULL) {
        t->env = arena_zalloc(a, (env->count + 1) * sizeof(*t->env));
        YAML_FOREACH (it, env) {
            t->env[t->n_env].name = it->key;
            t->env[t->n_env++].value = it->text;
        }
    }
}

static void check_image(struct build *b, const struct yaml_node *n, const struct config_template *t)
{
    for (size_t i = 0; i < t->n_providers && t->image.p == NULL; i++)
        if (t->providers[i]->kind == PROVIDER_DOCKER) {
            source_complain_key(b->source, n, NULL,
                                "template `%s` has no `image`, which its provider `%s` (docker) needs",
                                SHOW(t->name), SHOW(t->providers[i]->name));
            return;
        }
}

static void read_template(struct build *b, const struct yaml_node *n, struct config_template *t)
{
    struct arena *a = &b->t->arena;
    const struct yaml_node *providers = node_child(n, "providers", YAML_LIST);
    if (providers != NULL) {
        t->providers = arena_zalloc(a, (providers->count + 1) * sizeof(*t->providers));
        YAML_FOREACH (it, providers) {
            const void *p = build_reference(b, it, "providers", "provider", &b->t->index->providers);
            if (p != NULL)
                t->providers[t->n_providers++] = p;
        }
    }
    t->image = node_text(n, "templates.*.image");
    read_resources(n, t);
    const struct yaml_node *network = node_child(n, "network", YAML_MAP);
    t->network_mode = node_text(network, "templates.*.network.mode");
    t->network_line = network != NULL ? network->key_line : n->key_line;
    build_template_network(b, network, t);
    read_server(a, n, t);
    const struct yaml_node *idle = node_child(n, "idle", YAML_MAP);
    t->suspend_freezes = slice_eq_str(node_text(idle, "templates.*.idle.suspend"), "freeze");
    check_image(b, n, t);
    struct slice after = node_text(idle, "templates.*.idle.suspend_after");
    (void)duration_parse(after, &t->suspend_after_ms); /* absent or reported: 0, never */
}

static void build_templates(struct build *b)
{
    const struct yaml_node *all = node_child(b->root, "templates", YAML_MAP);
    if (all == NULL)
        return;
    b->t->templates = arena_zalloc(&b->t->arena, (all->count + 1) * sizeof(*b->t->templates));
    YAML_FOREACH (n, all) {
        struct config_template *t = &b->t->templates[b->t->n_templates++];
        t->name = n->key;
        (void)tenancy_index_add(&b->t->arena, &b->t->index->templates, t->name,
                                t); /* keys of a map are unique */
        read_template(b, n, t);
    }
}

void build_all(struct build *b)
{
    build_listen(b);
    build_paths(b);
    build_keys(b, yaml_get(b->root, "keys"), "keys", NULL, &b->t->keys, &b->t->n_keys);
    build_providers(b);
    build_gateways(b);
    build_egress(b);
    build_templates(b);
    build_prices(b);
    build_tenants(b);
}
