/* streams: how many long-lived answers a workspace has open. They share the connections to its server with
 * ordinary calls, so that without a limit a reader could stop everybody else. */
#ifndef REEVE_CONTROLLER_EDGE_STREAMS_H
#define REEVE_CONTROLLER_EDGE_STREAMS_H

#include "controller/controller.h"

#define STREAMS_MAX 192 /* of one workspace; its server has 256 connections (base/net/client.h) */

bool streams_enter(struct controller *c, const char *workspace_id); /* false: too many; nothing was counted */
void streams_leave(struct controller *c, const char *workspace_id);

#endif
