/* index: look-ups of a tenancy by name, id and hash. Private to config/. */
#ifndef REEVE_CONFIG_INDEX_H
#define REEVE_CONFIG_INDEX_H

#include "base/core/hash.h"
#include "config/tenancy.h"

struct name_entry {
    struct slice name;
    const void *item;
    UT_hash_handle hh;
};
struct key_entry {
    const struct config_key *key;
    const struct config_tenant *tenant; /* NULL: the fleet's */
    unsigned line;
    UT_hash_handle hh;
};
struct tenancy_index { /* the entries are the arena's, the tables are freed by tenancy_index_fini */
    struct name_entry *providers, *gateways, *templates, *tenants, *tenant_ids, *network_sets;
    struct key_entry *keys;
};

/* false when the name is there already (and stays what it was). */
bool tenancy_index_add(struct arena *a, struct name_entry **table, struct slice name, const void *item);
const void *tenancy_index_find(struct name_entry *const *table, struct slice name);
void tenancy_index_fini(struct tenancy_index *x);

#endif
