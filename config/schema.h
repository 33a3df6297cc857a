/* schema: the shape of a file against the rows of settings. */
#ifndef REEVE_CONFIG_SCHEMA_H
#define REEVE_CONFIG_SCHEMA_H

#include "config/settings.h"
#include "config/source.h"

/* Reports everything about `root` that the rows do not allow: unknown, missing and unsupported keys, wrong
 * kinds, values that are not of their type or out of bounds. References between parts are the readers'
 * business. */
void schema_check(struct source *s, const struct yaml_node *root);

#endif
