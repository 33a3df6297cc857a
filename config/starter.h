/* starter: the file that `reeve init` writes: small, commented, valid; and what `make run` uses. */
#ifndef REEVE_CONFIG_STARTER_H
#define REEVE_CONFIG_STARTER_H

#include "base/core/buf.h"

struct starter_options {
    const char *listen;     /* "127.0.0.1:8700" */
    const char *data_dir;   /* relative to the file's folder or absolute */
    const char *tenant;     /* "demo" */
    const char *owner_hash; /* "sha256:…" */
    const char *fleet_hash;
    const char *gateway_url; /* NULL: an example address */
};
/* Writes the YAML of reeve.yaml; the prices file's text by starter_prices. */
void starter_config(const struct starter_options *o, struct buf *out);
void starter_prices(struct buf *out);

#endif
