/* verdict: may a workspace reach a target? Pure: rules and addresses in, a decision and its reason out.
 *
 * Two steps. verdict_name judges what is known without DNS; what no rule could let through is refused there,
 * so that its name is never asked for. verdict_addresses judges every address that the name has: one bad one
 * among good ones refuses all, because whoever made that answer plays a game. */
#ifndef REEVE_CONTROLLER_EDGE_VERDICT_H
#define REEVE_CONTROLLER_EDGE_VERDICT_H

#include "config/tenancy.h"
#include "controller/edge/target.h"

/* An address and port that no exemption opens: Reeve's own listeners, its gateways, its store. */
struct reserved {
    char name[HOST_NAME_MAX_BYTES + 1]; /* refused by name as well; "" when it has none */
    bool has_address;
    struct address address;
    bool is_local; /* every address of this machine, with that port */
    uint16_t port;
    const char *what; /* "Reeve itself" */
};

struct verdict_rules {
    const struct network_rules *allow;
    const struct network_rules *narrow; /* the tenant's own list; NULL: none */
    struct slice template;              /* whose list it is, for messages */
    unsigned allow_line, narrow_line;   /* where the lists stand in the configuration */
    const struct network_rules *exempt;
    const struct reserved *reserved;
    size_t n_reserved;
    const struct address *local; /* of this machine's interfaces */
    size_t n_local;
};

struct verdict {
    bool is_allowed;
    const char *reason;              /* a fixed word: "allowed", "not_listed", "private_address" … */
    const struct network_rule *rule; /* that let it through, or would have; NULL: none */
    char text[512];                  /* one sentence for people */
};

/* True: go on with its addresses; false: *ret is a refusal. */
bool verdict_name(const struct verdict_rules *rules, const struct target *t, struct verdict *ret);
/* At least one address. */
void verdict_addresses(const struct verdict_rules *rules, const struct target *t, const struct address *a,
                       size_t n, struct verdict *ret);
/* " (rule `*.example.org:443`, line 12 of the configuration)", "" without a rule. */
const char *verdict_rule_text(const struct network_rule *r, char *out, size_t size);

#endif
