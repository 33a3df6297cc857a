/* secret: references to secrets (`env:NAME`, `file:path`) and what they lead to. */
#ifndef REEVE_CONFIG_SECRET_H
#define REEVE_CONFIG_SECRET_H

#include "config/source.h"

enum secret_kind { SECRET_ENV, SECRET_FILE };
/* The form alone. `*ret_rest` is NAME or path. 0, or E_INVALID with a sentence that does not quote the text.
 */
int secret_split(struct slice text, enum secret_kind *ret_kind, struct slice *ret_rest, struct err *err);
/* Resolves the reference in the node; one newline at the end of a file is cut. The value is the arena's (wipe
 * it). 0, or E_INVALID with a problem that names the reference, never the value. */
int secret_resolve(struct source *s, const struct yaml_node *node, struct arena *a, struct slice *ret);

#endif
