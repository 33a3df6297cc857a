/* acp: the Agent Client Protocol routes of the server inside, /v1/acp…, made safe for the stock SDK.
 *
 * The server answers a POST only when the agent has answered, which may be never; the SDK's connection breaks
 * for good on any refusal by status; an agent that dies leaves its prompt hanging. So here:
 * - a POST is answered 202 as soon as an event stream of its server id is attached (the answer comes there),
 * else with the server's own answer; every refusal after authentication is a 200 with a JSON-RPC error;
 * - a GET is held open, with comments, until its server id exists; it is read eagerly, whole events at a
 * time, gaps are healed by asking again from the last event, and it ends cleanly;
 * - requests in flight are remembered: when the agent exits or the server goes, each of them gets a JSON-RPC
 * error, in its POST or on the event stream;
 * - a server id belongs to the (workspace id, subject) that used it first, durably: record acp/<workspace
 * id>/<server id> in the tenant's partition. */
#ifndef REEVE_CONTROLLER_EDGE_ACP_H
#define REEVE_CONTROLLER_EDGE_ACP_H

#include "controller/edge/proxy.h"

struct acp;

struct acp *acp_new(struct controller *c);
/* After the drain: drops what is left. The object stays for answers of the store that are still to come. */
void acp_close(struct acp *a);
void acp_free(struct acp *a); /* after the store was closed */
/* The rows PROXIED_ACP and PROXIED_ACP_LIST. */
void acp_request(struct request *rq, const struct proxy_target *to);
/* Refuses an ACP POST: reads the envelope's id, then a JSON-RPC error in a 200, or 202 for what has no
 * answer. */
void acp_refuse(struct request *rq, const struct err *err);
/* The workspace was deleted: forget its server ids and their records. */
void acp_workspace_gone(struct acp *a, const char *tenant_id, const char *workspace_id);

#endif
