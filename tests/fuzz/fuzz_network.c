/* An entry of an allow list: what is taken has ports and a meaning, and nothing is let through by accident.
 */
#include <string.h>

#include "base/core/mem.h"
#include "config/network_rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct arena a = ARENA_INIT;
    struct network_rule r;
    struct address loopback, public;
    struct err err = {0};
    must(address_parse(SL("127.0.0.1"), &loopback) == 0 && address_parse(SL("1.1.1.1"), &public) == 0);
    if (network_rule_parse(&a, slice_of(data, n), &r, &err) == 0) {
        must(r.n_ports > 0 && r.n_ports <= NETWORK_PORTS_MAX && !network_rule_has_port(&r, 0));
        for (size_t i = 0; i < r.n_ports; i++)
            must(r.ports[i].first > 0 && r.ports[i].first <= r.ports[i].last);
        bool is_name = r.kind == NETWORK_NAME || r.kind == NETWORK_SUFFIX;
        must(is_name == (r.name.n > 0));
        must(!is_name ||
             (!network_rule_has_address(&r, &loopback) && !network_rule_has_address(&r, &public)));
        must(is_name || !network_rule_has_name(&r, SL("example.org")));
        must(r.kind != NETWORK_NAME || network_rule_has_name(&r, r.name));
        must(r.kind != NETWORK_SUFFIX || !network_rule_has_name(&r, slice_from(r.name, 1)));
        must(r.kind != NETWORK_PUBLIC || !network_rule_has_address(&r, &loopback));
        must(r.kind != NETWORK_RANGE || network_rule_has_address(&r, &r.range.net));
    } else {
        must(err.msg[0] != '\0');
    }
    arena_fini(&a);
    return 0;
}
