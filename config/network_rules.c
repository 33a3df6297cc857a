/* network_rules: the allow list's entries.
 *
 * Happy path: the text is split at its last ':' outside of brackets; in front of it a name, a suffix, a range
 * or a word, behind it ports. Failure paths: whatever could be read in two ways is refused with what would be
 * right: addresses in odd notations, `*` elsewhere than in front, names that are not of DNS. */
#include "config/network_rules.h"

#include <string.h>

#include "base/core/mem.h"

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

/* The last label is a number, in decimal or hexadecimal: some program will take the whole for an IPv4
 * address (WHATWG URL section 3.5, "ends in a number"). */
static bool ends_in_number(const char *name)
{
    const char *last = strrchr(name, '.');
    last = last != NULL ? last + 1 : name;
    if (last[0] == '0' && last[1] == 'x')
        return strspn(last + 2, "0123456789abcdef") == strlen(last + 2);
    return strspn(last, "0123456789") == strlen(last);
}

int host_name_parse(struct slice text, char out[HOST_NAME_MAX_BYTES + 1], struct err *err)
{
    struct slice s = text, rest, label;
    if (s.n > 0 && s.p[s.n - 1] == '.')
        s.n--;
    if (s.n == 0)
        return err_set(err, E_INVALID, "the name is empty");
    if (s.n > HOST_NAME_MAX_BYTES)
        return err_set(err, E_INVALID, "the name has %zu bytes, %d are the most", s.n, HOST_NAME_MAX_BYTES);
    rest = s;
    for (bool more = true; more;) {
        more = slice_cut(&rest, '.', &label);
        if (label.n == 0)
            return err_set(err, E_INVALID, "the name has an empty part between two dots");
        if (label.n > 63)
            return err_set(err, E_INVALID, "a part of the name has %zu bytes, 63 are the most", label.n);
        for (size_t i = 0; i < label.n; i++) {
            char c = lower(label.p[i]);
            if ((unsigned char)c >= 0x80)
                return err_set(err, E_INVALID, "international names are written in their `xn--` form");
            if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_')
                return err_set(err, E_INVALID, "a name is of letters, digits, `-` and dots");
        }
        if (label.p[0] == '-' || label.p[label.n - 1] == '-')
            return err_set(err, E_INVALID, "a part of a name does not begin or end with `-`");
    }
    for (size_t i = 0; i < s.n; i++)
        out[i] = lower(s.p[i]);
    out[s.n] = '\0';
    if (ends_in_number(out))
        return err_set(
            err, E_INVALID,
            "an address in an odd notation: write IPv4 as four decimal numbers such as `192.0.2.1`");
    return 0;
}

static int port_parse(struct slice s, uint16_t *ret)
{
    uint64_t v;
    if (slice_u64(s, &v) != 0 || v == 0 || v > 65535)
        return E_INVALID;
    *ret = (uint16_t)v;
    return 0;
}

static int ports_parse(struct slice s, struct network_rule *r, struct err *err)
{
    struct slice item;
    r->n_ports = 0;
    for (bool more = true; more;) {
        struct slice last, first;
        more = slice_cut(&s, ',', &item);
        last = item;
        bool is_range = slice_cut(&last, '-', &first);
        if (r->n_ports == NETWORK_PORTS_MAX)
            return err_set(err, E_INVALID, "expected at most %d ports or ranges of ports", NETWORK_PORTS_MAX);
        struct network_ports *p = &r->ports[r->n_ports++];
        if (port_parse(first, &p->first) != 0 || port_parse(is_range ? last : first, &p->last) != 0)
            return err_set(err, E_INVALID,
                           "expected ports from 1 to 65535 such as `443`, `80,443` or `8000-8010`");
        if (p->first > p->last)
            return err_set(err, E_INVALID, "the range of ports ends before it begins");
    }
    return 0;
}

/* Host and ports: at the ':' behind the brackets, or the only one. */
static int split(struct slice text, struct slice *ret_host, struct slice *ret_ports, bool *ret_bracket,
                 struct err *err)
{
    static const char want[] =
        "expected `host:port`, `*.suffix:port`, `CIDR:port` or `any-public:port`, such as `example.org:443`";
    size_t at;
    *ret_bracket = text.n > 0 && text.p[0] == '[';
    if (*ret_bracket) {
        at = slice_find(text, ']');
        if (at == SIZE_MAX || at + 1 >= text.n || text.p[at + 1] != ':')
            return err_set(err, E_INVALID, "expected `[address]:port`");
        *ret_host = slice_of(text.p + 1, at - 1);
        *ret_ports = slice_from(text, at + 2);
        return 0;
    }
    at = slice_find(text, ':');
    if (at == SIZE_MAX)
        return err_set(err, E_INVALID, "the port is missing: %s", want);
    *ret_host = slice_of(text.p, at);
    *ret_ports = slice_from(text, at + 1);
    if (slice_find(*ret_ports, '/') != SIZE_MAX || slice_find(*ret_ports, ':') != SIZE_MAX)
        return err_set(err, E_INVALID,
                       slice_starts(*ret_ports, SL("//"))
                           ? "this is a URL: expected the host and the port alone, such as `example.org:443`"
                           : "IPv6 is written in brackets, such as `[2001:db8::/32]:443`");
    return 0;
}

static int range_parse(struct slice host, bool is_bracket, struct network_rule *r, struct err *err)
{
    int code = address_range_parse(host, &r->range, err);
    r->kind = NETWORK_RANGE;
    if (code == 0 && is_bracket && slice_find(host, ':') == SIZE_MAX)
        return err_set(err, E_INVALID, "brackets are for IPv6");
    return code;
}

int network_rule_parse(struct arena *a, struct slice text, struct network_rule *ret, struct err *err)
{
    struct network_rule r = {.text = text, .set = SLICE_EMPTY};
    struct slice host, ports;
    struct address alone;
    char name[HOST_NAME_MAX_BYTES + 1];
    bool is_bracket;
    int code = split(text, &host, &ports, &is_bracket, err);
    if (code == 0)
        code = ports_parse(ports, &r, err);
    if (code != 0)
        return code;
    if (is_bracket || slice_find(host, '/') != SIZE_MAX || address_parse(host, &alone) == 0) {
        code = range_parse(host, is_bracket, &r, err);
    } else if (slice_ieq_str(host, "any-public")) {
        r.kind = NETWORK_PUBLIC;
    } else if (slice_starts(host, SL("any-")) && slice_find(host, '.') == SIZE_MAX) {
        return err_set(err, E_INVALID, "the only word of this kind is `any-public`");
    } else if (slice_starts(host, SL("*."))) {
        r.kind = NETWORK_SUFFIX;
        code = host_name_parse(slice_from(host, 2), name, err);
        if (code == 0)
            r.name = slice_str(arena_printf(a, ".%s", name));
    } else if (slice_find(host, '*') != SIZE_MAX) {
        return err_set(err, E_INVALID,
                       "`*` stands for whole parts in front of a name only: `*.example.org:443`");
    } else {
        r.kind = NETWORK_NAME;
        code = host_name_parse(host, name, err);
        if (code == 0)
            r.name = slice_str(arena_strdup(a, name));
    }
    if (code == 0)
        *ret = r;
    return code;
}

int network_exemption_parse(struct arena *a, struct slice text, struct network_rule *ret, struct err *err)
{
    struct network_rule r;
    int code = network_rule_parse(a, text, &r, err);
    if (code == 0 && r.kind != NETWORK_RANGE)
        return err_set(err, E_INVALID, "expected a range of addresses and ports such as `10.20.0.0/16:5432`");
    if (code == 0)
        *ret = r;
    return code;
}

bool network_rule_has_port(const struct network_rule *r, uint16_t port)
{
    for (size_t i = 0; i < r->n_ports; i++)
        if (port >= r->ports[i].first && port <= r->ports[i].last)
            return true;
    return false;
}

bool network_rule_has_name(const struct network_rule *r, struct slice name)
{
    if (r->kind == NETWORK_NAME)
        return slice_eq(r->name, name);
    return r->kind == NETWORK_SUFFIX && name.n > r->name.n && slice_ends(name, r->name);
}

bool network_rule_has_address(const struct network_rule *r, const struct address *a)
{
    if (r->kind == NETWORK_RANGE)
        return address_range_has(&r->range, a);
    return r->kind == NETWORK_PUBLIC && address_special(a) == NULL;
}
