/* network: allow lists, named sets, the operator's exemptions and the limits of the way out.
 *
 * Happy path: sets and exemptions first, then each template takes its own entries and those of its sets into
 * one list, each with the line where it stands. Failure paths: an unknown set; a range that no public address
 * lies in and that no exemption touches: it could let nothing through, and whoever wrote it expects that it
 * does. */
#include "config/build.h"

#include <string.h>

#include "base/core/clock.h"
#include "base/core/mem.h"
#include "config/settings.h"
#include "config/units.h"
#include "config/value.h"

static const struct setting *row_of(const char *prefix, const char *name)
{
    struct buf path = BUF_INIT(128);
    (void)buf_printf(&path, "%s.%s", prefix, name);
    const struct setting *row = setting_find(buf_cstr(&path));
    buf_fini(&path);
    must(row != NULL);
    return row;
}

/* --- entries --- */

static bool ports_meet(const struct network_rule *a, const struct network_rule *b)
{
    for (size_t i = 0; i < a->n_ports; i++)
        for (size_t k = 0; k < b->n_ports; k++)
            if (a->ports[i].first <= b->ports[k].last && b->ports[k].first <= a->ports[i].last)
                return true;
    return false;
}

static void check_useful(struct build *b, const struct yaml_node *at, const struct network_rule *r)
{
    const struct network_rules *exempt = &b->t->egress.exempt;
    const char *kind = r->kind == NETWORK_RANGE ? address_range_special(&r->range) : NULL;
    if (kind == NULL)
        return;
    for (size_t i = 0; i < exempt->n; i++)
        if (ports_meet(r, &exempt->items[i]) && (address_range_covers(&r->range, &exempt->items[i].range) ||
                                                 address_range_covers(&exempt->items[i].range, &r->range)))
            return;
    source_complain(b->source, at, "name it under `egress.allow_private` as well",
                    "`%s` can let nothing through: these addresses are not public (%s)", SHOW(r->text), kind);
}

static void read_rule(struct build *b, const struct yaml_node *n, struct slice set, struct network_rules *to)
{
    struct network_rule *r = &to->items[to->n];
    if (n->kind != YAML_SCALAR || n->is_bad || network_rule_parse(&b->t->arena, n->text, r, NULL) != 0)
        return; /* reported */
    r->set = set;
    r->line = n->line;
    r->column = n->column;
    to->n++;
}

static size_t count_of(const struct yaml_node *list)
{
    return list != NULL ? list->count : 0;
}

static void read_list(struct build *b, const struct yaml_node *list, struct slice set,
                      struct network_rules *to)
{
    if (list == NULL)
        return;
    YAML_FOREACH (n, list)
        read_rule(b, n, set, to);
}

static struct network_rule *rules_room(struct build *b, size_t n)
{
    return arena_zalloc(&b->t->arena, (n + 1) * sizeof(struct network_rule));
}

/* --- what holds for all --- */

static void read_sets(struct build *b)
{
    const struct yaml_node *all = node_child(b->root, "network_sets", YAML_MAP);
    if (all == NULL)
        return;
    b->t->network_sets = arena_zalloc(&b->t->arena, (all->count + 1) * sizeof(*b->t->network_sets));
    YAML_FOREACH (n, all) {
        struct config_network_set *set = &b->t->network_sets[b->t->n_network_sets++];
        set->name = n->key;
        (void)tenancy_index_add(&b->t->arena, &b->t->index->network_sets, set->name,
                                set); /* keys of a map are unique */
        if (n->kind != YAML_LIST)
            continue; /* reported */
        set->rules.items = rules_room(b, n->count);
        YAML_FOREACH (it, n) {
            size_t before = set->rules.n;
            read_rule(b, it, set->name, &set->rules);
            if (set->rules.n > before)
                check_useful(b, it, &set->rules.items[before]);
        }
    }
}

/* Metadata services give credentials of the machine to whoever asks: there is no good reason. */
static bool is_metadata_alone(const struct network_rule *r)
{
    return r->range.bits == 128 && address_is_metadata(&r->range.net);
}

static void exempt_loopback(struct build *b, const struct yaml_node *n, uint16_t port)
{
    static const char *const ranges[] = {"127.0.0.0/8", "::1"};
    struct network_rules *to = &b->t->egress.exempt;
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        struct network_rule *r = &to->items[to->n++];
        *r = (struct network_rule){.kind = NETWORK_RANGE,
                                   .text = n->text,
                                   .set = SLICE_EMPTY,
                                   .ports = {{port, port}},
                                   .n_ports = 1,
                                   .line = n->line,
                                   .column = n->column};
        int code = address_range_parse(slice_str(ranges[i]), &r->range, NULL);
        must(code == 0);
    }
}

static void read_exemptions(struct build *b, const struct yaml_node *egress)
{
    const struct yaml_node *private = node_child(egress, "egress.allow_private", YAML_LIST),
                           *loopback = node_child(egress, "egress.loopback_exempt_ports", YAML_LIST);
    struct network_rules *to = &b->t->egress.exempt;
    uint16_t port;
    to->items = rules_room(b, count_of(private) + 2 * count_of(loopback));
    if (private != NULL)
        YAML_FOREACH (n, private) {
            size_t before = to->n;
            read_rule(b, n, SLICE_EMPTY, to);
            if (to->n > before && to->items[before].kind != NETWORK_RANGE)
                to->n = before; /* reported */
            else if (to->n > before && is_metadata_alone(&to->items[before]))
                source_complain(b->source, n, NULL, "`%s`: a cloud's metadata service is exempted by nothing",
                                SHOW(n->text));
        }
    if (loopback != NULL)
        YAML_FOREACH (n, loopback)
            if (n->kind == YAML_SCALAR && value_port(n->text, &port) == 0)
                exempt_loopback(b, n, port);
}

static void read_tls_ports(struct build *b, const struct yaml_node *egress)
{
    const struct yaml_node *list = node_child(egress, "egress.tls_ports", YAML_LIST);
    struct config_egress *e = &b->t->egress;
    e->tls_ports = arena_zalloc(&b->t->arena, (count_of(list) + 1) * sizeof(*e->tls_ports));
    if (list == NULL) {
        e->n_tls_ports =
            value_port(slice_str(setting_find("egress.tls_ports")->fallback), &e->tls_ports[0]) == 0;
        return;
    }
    YAML_FOREACH (n, list)
        if (n->kind == YAML_SCALAR && value_port(n->text, &e->tls_ports[e->n_tls_ports]) == 0)
            e->n_tls_ports++;
}

static void read_resolve(struct build *b)
{
    const struct yaml_node *map = node_child(b->root, "resolve", YAML_MAP),
                           *servers = node_child(map, "resolve.servers", YAML_LIST);
    struct buf text = BUF_INIT(1024);
    (void)duration_parse(node_text(map, "resolve.timeout"), &b->t->resolve.timeout_ms); /* or reported */
    if (servers != NULL)
        YAML_FOREACH (n, servers)
            (void)buf_printf(&text, "%s%.*s", text.n > 0 ? "," : "", SL_ARG(n->text)); /* 8 addresses fit */
    b->t->resolve.servers = arena_slice(&b->t->arena, buf_view(&text));
    buf_fini(&text);
}

void build_egress(struct build *b)
{
    const struct yaml_node *egress = node_child(b->root, "egress", YAML_MAP);
    read_exemptions(b, egress);
    read_tls_ports(b, egress);
    read_resolve(b);
    read_sets(b);
}

/* --- templates and tenants --- */

static uint64_t size_of(const struct yaml_node *map, const char *prefix, const char *name)
{
    uint64_t v = 0;
    (void)size_parse(node_text(map, row_of(prefix, name)->path), &v); /* absent or reported: 0 */
    return v;
}

static void read_limits(const struct yaml_node *network, const char *prefix, struct config_egress_limits *l)
{
    const struct yaml_node *map = node_child(network, "limits", YAML_MAP);
    l->tunnels = node_count(map, row_of(prefix, "tunnels")->path);
    l->new_per_second = node_count(map, row_of(prefix, "new_per_second")->path);
    l->bytes_per_second = size_of(map, prefix, "bytes_per_second");
    l->window_bytes = size_of(map, prefix, "bytes");
    (void)duration_parse(node_text(map, row_of(prefix, "window")->path), &l->window_ms); /* or reported */
}

static size_t sets_read(struct build *b, const struct yaml_node *sets, struct network_rules *to)
{
    size_t n = 0;
    if (sets == NULL)
        return 0;
    YAML_FOREACH (it, sets) {
        const struct config_network_set *set =
            to != NULL ? tenancy_index_find(&b->t->index->network_sets, it->text)
                       : build_reference(b, it, "network_sets", "set", &b->t->index->network_sets);
        for (size_t i = 0; set != NULL && i < set->rules.n; i++, n++)
            if (to != NULL)
                to->items[to->n++] = set->rules.items[i];
    }
    return n;
}

void build_template_network(struct build *b, const struct yaml_node *network, struct config_template *t)
{
    const struct yaml_node *allow = node_child(network, "templates.*.network.allow", YAML_LIST),
                           *sets = node_child(network, "templates.*.network.sets", YAML_LIST);
    struct slice sni = node_text(network, "templates.*.network.sni");
    t->network_allow.items = rules_room(b, count_of(allow) + sets_read(b, sets, NULL));
    if (allow != NULL)
        YAML_FOREACH (n, allow) {
            size_t before = t->network_allow.n;
            read_rule(b, n, SLICE_EMPTY, &t->network_allow);
            if (t->network_allow.n > before)
                check_useful(b, n, &t->network_allow.items[before]);
        }
    (void)sets_read(b, sets, &t->network_allow);
    t->sni = slice_eq_str(sni, "ignore")          ? SNI_IGNORE
             : slice_eq_str(sni, "allow-missing") ? SNI_ALLOW_MISSING
                                                  : SNI_REQUIRE;
    read_limits(network, "templates.*.network.limits", &t->egress_limits);
    const struct yaml_node *limits = node_child(network, "limits", YAML_MAP);
    (void)duration_parse(node_text(limits, "templates.*.network.limits.idle"), &t->egress_limits.idle_ms);
}

void build_tenant_network(struct build *b, const struct yaml_node *network, struct config_tenant *t)
{
    const struct yaml_node *allow = node_child(network, "tenants.*.network.allow", YAML_LIST);
    t->narrows_network = allow != NULL;
    t->network_allow.items = rules_room(b, count_of(allow));
    read_list(b, allow, SLICE_EMPTY, &t->network_allow);
    read_limits(network, "tenants.*.network.limits", &t->egress_limits);
}
