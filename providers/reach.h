/* reach: connectors to TCP ports inside a sealed sandbox, over whatever link it has at the time. */
#ifndef REEVE_PROVIDERS_REACH_H
#define REEVE_PROVIDERS_REACH_H

#include "providers/link.h"

/* A sandbox as its connectors see it; part of the provider's entry, which lives while n_refs > 0. */
struct reach {
    const char *id;
    struct link *link;                 /* NULL: it does not run */
    unsigned n_refs;                   /* connectors, and openings under way */
    void (*on_unref)(struct reach *r); /* one less: the entry may be freed */
};

struct connector *reach_connector_new(struct reach *r, uint16_t port);
void reach_connector_release(struct connector *c);

#endif
