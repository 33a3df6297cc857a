/* door: where model calls come out of a sandbox: HTTP on the sandbox's own 127.0.0.1:8700, served by Reeve.
 *
 * The socket itself says which workspace calls; the key in the request must be that workspace's. POST /v1/…
 * goes to the tenant's gateway, streaming both ways; HEAD / is answered (agents probe it); CONNECT and
 * absolute-form requests are the forward proxy's (forward.h); nothing else exists here. */
#ifndef REEVE_CONTROLLER_EDGE_DOOR_H
#define REEVE_CONTROLLER_EDGE_DOOR_H

#include "controller/controller.h"

struct door *door_new(struct controller *c);
/* A connection that arrived from inside; owns the stream. */
void door_accept(struct door *d, struct slice workspace_id, struct stream *s);
/* The workspace was deleted: its connections end. */
void door_workspace_gone(struct door *d, const char *workspace_id);
/* The configuration changed: gateways that lead elsewhere get new pools. */
void door_reload(struct door *d);
void door_close(struct door *d, void (*closed)(void *data), void *data);

/* For /metrics. */
struct door_stats {
    uint64_t calls, refused, failed;
};
const struct door_stats *door_stats(const struct door *d);

#endif
