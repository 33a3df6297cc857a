/* build: from the checked tree to the structures of a tenancy. Private to config/. */
#ifndef REEVE_CONFIG_BUILD_H
#define REEVE_CONFIG_BUILD_H

#include "config/index.h"
#include "config/source.h"

struct build {
    struct tenancy *t;
    struct source *source;
    const struct yaml_node *root;
    struct slice currency;      /* of the price file; empty when unknown */
    const char *prices_display; /* how messages call the price file */
};

/* All readers below take what the schema has checked: what is not of its kind is skipped in silence, because
 * it was reported and the tenancy will not be used. Each reports what only it can see. */
void build_all(struct build *b);    /* in the order of the arrows between sections */
void build_listen(struct build *b); /* and public_url */
void build_prices(struct build *b); /* reads and parses the price file */
void build_tenants(struct build *b);
/* network.c: the way out. Sets and exemptions come before the templates that refer to them. */
void build_egress(struct build *b);
void build_template_network(struct build *b, const struct yaml_node *network, struct config_template *t);
void build_tenant_network(struct build *b, const struct yaml_node *network, struct config_tenant *t);
void build_keys(struct build *b, const struct yaml_node *list, const char *pattern,
                const struct config_tenant *tenant, struct config_key **ret, size_t *ret_n);

/* Reports the entry's `name` when one before it in the list has it. */
void build_unique_name(struct build *b, const struct yaml_node *list, const struct yaml_node *entry);

/* The child by the last part of `path` when it is of that kind; NULL otherwise. */
const struct yaml_node *node_child(const struct yaml_node *map, const char *path, enum yaml_kind kind);
/* The text of the file that the node names, in the arena (wipe it where it is secret); SLICE_NULL when the
 * node is absent, or after a problem. */
struct slice build_file(struct build *b, const struct yaml_node *n, const char *path, size_t max);
/* The child's text, else the row's default, else SLICE_NULL. */
struct slice node_text(const struct yaml_node *map, const char *path);
uint64_t node_count(const struct yaml_node *map, const char *path); /* 0 when absent */
/* Looks a reference up; a problem with a hint when it leads nowhere and the section itself is sound. */
const void *build_reference(struct build *b, const struct yaml_node *at, const char *section,
                            const char *noun, struct name_entry *const *table);

#endif
