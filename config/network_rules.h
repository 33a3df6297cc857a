/* network_rules: what a sandbox may reach, as the configuration file says it: `host:port`, `*.suffix:port`,
 * `CIDR:port`, `any-public:port`. */
#ifndef REEVE_CONFIG_NETWORK_RULES_H
#define REEVE_CONFIG_NETWORK_RULES_H

#include "base/core/arena.h"
#include "base/net/address.h"

#define NETWORK_PORTS_MAX   16
#define HOST_NAME_MAX_BYTES 253

struct network_ports {
    uint16_t first, last; /* both inclusive */
};

enum network_kind {
    NETWORK_NAME,   /* exactly this name */
    NETWORK_SUFFIX, /* every name below it, not itself */
    NETWORK_RANGE,  /* every address of a range */
    NETWORK_PUBLIC, /* every public address */
};

struct network_rule {
    enum network_kind kind;
    struct slice text; /* as written */
    struct slice name; /* NETWORK_NAME: "example.org"; NETWORK_SUFFIX: ".example.org"; in lower case */
    struct address_range range;
    struct network_ports ports[NETWORK_PORTS_MAX];
    size_t n_ports;
    struct slice set;      /* of which named set it is; empty: it stands in the list itself */
    unsigned line, column; /* where it stands in the file */
};
struct network_rules {
    struct network_rule *items;
    size_t n;
};

/* One entry. Ports: `443`, `80,443`, `8000-8010`; IPv6 in brackets: `[2001:db8::/32]:443`. Texts go into the
 * arena. 0, or E_INVALID with a sentence that says what would be right. */
int network_rule_parse(struct arena *a, struct slice text, struct network_rule *ret, struct err *err);
/* `CIDR:port` alone, for exemptions. */
int network_exemption_parse(struct arena *a, struct slice text, struct network_rule *ret, struct err *err);

bool network_rule_has_port(const struct network_rule *r, uint16_t port);
/* `name` in lower case, without a dot at its end. False for rules about addresses. */
bool network_rule_has_name(const struct network_rule *r, struct slice name);
/* False for rules about names. */
bool network_rule_has_address(const struct network_rule *r, const struct address *a);

/* A name as DNS has them: labels of 1 to 63 letters, digits, `-` and `_`, at most 253 bytes, one dot at its
 * end allowed; not an address in any notation. Writes it in lower case, without the last dot. 0, or E_INVALID
 * with a sentence. */
int host_name_parse(struct slice text, char out[HOST_NAME_MAX_BYTES + 1], struct err *err);

#endif
