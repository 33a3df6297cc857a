/* verdict: see verdict.h. What is refused by nature (metadata, Reeve itself, addresses that are not public)
 * is looked at before the lists, so that the reason is the true one and no list can be in the way of it. */
#include "controller/edge/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

static void refuse(struct verdict *v, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void refuse(struct verdict *v, const char *reason, const char *fmt, ...)
{
    va_list ap;
    v->is_allowed = false;
    v->reason = reason;
    va_start(ap, fmt);
    (void)vsnprintf(v->text, sizeof v->text, fmt, ap);
    va_end(ap);
}

const char *verdict_rule_text(const struct network_rule *r, char *out, size_t size)
{
    out[0] = '\0';
    if (r != NULL && r->set.n > 0)
        (void)snprintf(out, size, " (rule `%.*s` of set `%.*s`, line %u of the configuration)",
                       SL_ARG(r->text), SL_ARG(r->set), r->line);
    else if (r != NULL)
        (void)snprintf(out, size, " (rule `%.*s`, line %u of the configuration)", SL_ARG(r->text), r->line);
    return out;
}

/* The names under which clouds offer what address_is_metadata has. */
static bool is_metadata_name(const char *host)
{
    static const char *const names[] = {"metadata",
                                        "metadata.google.internal",
                                        "metadata.goog",
                                        "instance-data",
                                        "instance-data.ec2.internal",
                                        "metadata.azure.internal",
                                        "metadata.azure.com",
                                        "metadata.tencentyun.com",
                                        "metadata.platformequinix.com",
                                        "metadata.packet.net",
                                        "metadata.oraclecloud.com",
                                        "metadata.aliyuncs.com"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(host, names[i]) == 0)
            return true;
    return false;
}

/* Could the list let it through, as far as the name tells? *ret_rule: the rule that names it, if one does. */
static bool list_may(const struct network_rules *l, const struct target *t,
                     const struct network_rule **ret_rule)
{
    bool may = false;
    *ret_rule = NULL;
    for (size_t i = 0; i < l->n; i++) {
        const struct network_rule *r = &l->items[i];
        if (!network_rule_has_port(r, t->port))
            continue;
        if (!t->is_address && network_rule_has_name(r, slice_str(t->host))) {
            *ret_rule = r;
            return true;
        }
        may = may || (t->is_address ? network_rule_has_address(r, &t->address)
                                    : r->kind == NETWORK_RANGE || r->kind == NETWORK_PUBLIC);
    }
    return may;
}

/* Does the list let it through with all these addresses? */
static bool list_has(const struct network_rules *l, const struct target *t, const struct address *a, size_t n,
                     const struct network_rule **ret_rule)
{
    if (!list_may(l, t, ret_rule))
        return false;
    if (*ret_rule != NULL)
        return true;
    for (size_t i = 0; i < n; i++) {
        const struct network_rule *found = NULL;
        for (size_t k = 0; k < l->n && found == NULL; k++)
            if (network_rule_has_port(&l->items[k], t->port) && network_rule_has_address(&l->items[k], &a[i]))
                found = &l->items[k];
        if (found == NULL)
            return false;
        *ret_rule = found;
    }
    return true;
}

static const struct reserved *reserved_find(const struct verdict_rules *rules, const struct address *a,
                                            uint16_t port)
{
    struct address inner;
    bool has_inner = address_inside(a, &inner);
    for (size_t i = 0; i < rules->n_reserved; i++) {
        const struct reserved *r = &rules->reserved[i];
        if (r->port != port)
            continue;
        if (r->has_address && (address_eq(a, &r->address) || (has_inner && address_eq(&inner, &r->address))))
            return r;
        if (!r->is_local)
            continue;
        const char *kind = address_special(a);
        if (kind != NULL && (strcmp(kind, "loopback") == 0 || strcmp(kind, "unspecified") == 0))
            return r;
        for (size_t k = 0; k < rules->n_local; k++)
            if (address_eq(a, &rules->local[k]) || (has_inner && address_eq(&inner, &rules->local[k])))
                return r;
    }
    return NULL;
}

static bool is_exempt(const struct verdict_rules *rules, const struct address *a, uint16_t port)
{
    for (size_t i = 0; i < rules->exempt->n; i++)
        if (network_rule_has_port(&rules->exempt->items[i], port) &&
            network_rule_has_address(&rules->exempt->items[i], a))
            return true;
    return false;
}

static void refuse_unlisted(const struct verdict_rules *rules, const struct target *t, struct verdict *v)
{
    refuse(v, "not_listed",
           "%s is not on the list `network.allow` of template `%.*s` (line %u of the configuration)", t->text,
           SL_ARG(rules->template), rules->allow_line);
}

static void refuse_narrowed(const struct verdict_rules *rules, const struct target *t, struct verdict *v)
{
    refuse(v, "narrowed",
           "%s is on the template's list, but not on the tenant's `network.allow` (line %u of the "
           "configuration)",
           t->text, rules->narrow_line);
}

bool verdict_name(const struct verdict_rules *rules, const struct target *t, struct verdict *ret)
{
    const struct network_rule *rule;
    *ret = (struct verdict){.reason = "allowed"};
    if (t->is_address) {
        verdict_addresses(rules, t, &t->address, 1, ret);
        return ret->is_allowed;
    }
    if (is_metadata_name(t->host)) {
        refuse(ret, "metadata", "%s is a cloud's metadata service, which no sandbox may reach", t->text);
        return false;
    }
    for (size_t i = 0; i < rules->n_reserved; i++) {
        const struct reserved *r = &rules->reserved[i];
        if (r->port == t->port && r->name[0] != '\0' && strcmp(r->name, t->host) == 0) {
            refuse(ret, "reserved", "%s is %s, which no sandbox may reach", t->text, r->what);
            return false;
        }
    }
    if (!list_may(rules->allow, t, &rule)) {
        refuse_unlisted(rules, t, ret);
        return false;
    }
    ret->rule = rule;
    if (rules->narrow != NULL && !list_may(rules->narrow, t, &rule)) {
        refuse_narrowed(rules, t, ret);
        return false;
    }
    return true;
}

static bool address_is_good(const struct verdict_rules *rules, const struct target *t,
                            const struct address *a, struct verdict *ret)
{
    char text[ADDRESS_TEXT_MAX], of[TARGET_TEXT_MAX + 32] = "";
    const struct reserved *r = reserved_find(rules, a, t->port);
    const char *kind = address_special(a);
    address_format(a, text);
    if (!t->is_address)
        (void)snprintf(of, sizeof of, ", an address of %s,", t->host);
    if (address_is_metadata(a))
        refuse(ret, "metadata", "%s%s is a cloud's metadata service, which no sandbox may reach", text, of);
    else if (r != NULL)
        refuse(ret, "reserved", "%s%s port %u is %s, which no sandbox may reach", text, of, (unsigned)t->port,
               r->what);
    else if (kind != NULL && !is_exempt(rules, a, t->port))
        refuse(ret, "private_address",
               "%s%s is not public (%s), and `egress.allow_private` has it not for port %u", text, of, kind,
               (unsigned)t->port);
    else
        return true;
    return false;
}

void verdict_addresses(const struct verdict_rules *rules, const struct target *t, const struct address *a,
                       size_t n, struct verdict *ret)
{
    const struct network_rule *rule;
    must(n > 0);
    *ret = (struct verdict){.reason = "allowed"};
    bool is_listed = list_has(rules->allow, t, a, n, &rule);
    ret->rule = is_listed ? rule : NULL;
    for (size_t i = 0; i < n; i++)
        if (!address_is_good(rules, t, &a[i], ret))
            return;
    if (!is_listed) {
        refuse_unlisted(rules, t, ret);
        return;
    }
    const struct network_rule *narrow;
    if (rules->narrow != NULL && !list_has(rules->narrow, t, a, n, &narrow)) {
        refuse_narrowed(rules, t, ret);
        return;
    }
    char where[400];
    ret->is_allowed = true;
    (void)snprintf(ret->text, sizeof ret->text, "%s is allowed%s", t->text,
                   verdict_rule_text(rule, where, sizeof where));
}
