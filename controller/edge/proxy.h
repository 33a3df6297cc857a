/* proxy: the road of workspace traffic, /w/{namespace}/{name}/… to the server inside the sandbox.
 *
 * Happy path: authenticate, find the workspace, authorise by the table of proxied routes, wake it where it
 * sleeps, strip what is the caller's or hop-by-hop, add the sandbox's secret, stream both ways with
 * back-pressure. Failure paths: refusals are problem documents, but on an ACP POST a JSON-RPC error in a 200
 * (acp.h); a client that leaves closes the upstream call; an upstream that dies ends an event stream cleanly
 * and aborts any other answer. */
#ifndef REEVE_CONTROLLER_EDGE_PROXY_H
#define REEVE_CONTROLLER_EDGE_PROXY_H

#include "controller/edge/proxied.h"
#include "controller/edge/request.h"

/* Bodies that the server inside takes (its framework's limit, answered by a bare 413 and a close). */
#define PROXY_BODY_MAX ((uint64_t)2 * 1024 * 1024)

/* Anything below /w/. */
void proxy_request(struct request *rq);

/* What ACP handling shares with the plain road. */
struct proxy_target {
    const struct proxied_route *row;
    struct workspace *ws; /* valid until the next turn: look it up again by id after waiting */
    char workspace_id[40];
    struct slice path;  /* below /w/{ns}/{name}, with its '/' */
    struct slice param; /* first parameter of the path */
};
/* Headers towards the server inside: the caller's without credentials and hop-by-hop ones, Host and
 * Authorization of the sandbox. `h` has room for HTTP_HEADERS_MAX. */
size_t proxy_upstream_headers(struct request *rq, const struct workspace *ws, bool is_upgrade,
                              struct http_header *h);
/* Headers of the sandbox's answer that may leave: `h` has room for HTTP_HEADERS_MAX + REQUEST_HEADERS_MAX. */
size_t proxy_answer_headers(struct request *rq, const struct http_response *r, struct http_header *h);
/* Ends event streams cleanly and closes tunnels: the drain. */
void proxy_drain(struct controller *c);
/* When no exchange is left: closes what tunnels there are, then calls `closed`, in a later turn. */
void proxy_close(struct controller *c, void (*closed)(void *controller));

#endif
