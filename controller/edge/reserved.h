/* reserved: the addresses that no rule and no exemption opens to sandboxes: Reeve's own listeners, what it
 * keeps its records in, its gateways, its engines.
 *
 * Names among them are looked up as Reeve's own connections do, at each reload and once a minute. Only
 * private addresses that come out are reserved: behind a public one may be half of the internet (a content
 * network), and there the names decide. */
#ifndef REEVE_CONTROLLER_EDGE_RESERVED_H
#define REEVE_CONTROLLER_EDGE_RESERVED_H

#include "controller/controller.h"
#include "controller/edge/verdict.h"

struct reserved_set;

/* `changed`: in a later turn, when a name stands for other addresses than before; what is open is to be
 * judged anew. */
struct reserved_set *reserved_set_new(struct controller *c, void (*changed)(void *data), void *data);
/* From the controller's present tenancy. */
void reserved_set_reload(struct reserved_set *s);
/* Fills in what is reserved and this machine's addresses; valid until the loop's next turn. */
void reserved_set_view(struct reserved_set *s, struct verdict_rules *ret);
void reserved_set_close(struct reserved_set *s, void (*closed)(void *data), void *data);

#endif
