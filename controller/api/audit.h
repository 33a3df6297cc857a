/* audit: who did what, when: log `audit` in the tenant's partition, or `fleet`'s. */
#ifndef REEVE_CONTROLLER_API_AUDIT_H
#define REEVE_CONTROLLER_API_AUDIT_H

#include "controller/edge/request.h"

/* An act of the request's principal. Durable soon after; a store that fails is logged. */
void audit_request(struct request *rq, const char *action, struct slice subject);
/* The entry that says so, in the request's arena: for a commit that writes it together with the act. */
struct slice audit_entry(struct request *rq, const char *action, struct slice subject, struct slice detail);
/* An act of Reeve itself (the sweep, a reload). tenant_id NULL: the fleet's log. */
void audit_self(struct controller *c, const char *tenant_id, const char *action, struct slice subject,
                struct slice detail);

/* workspaces.c: a state change is durable; streams of its events look again. */
void workspace_events_notify(struct controller *c, const struct workspace *ws);

#endif
