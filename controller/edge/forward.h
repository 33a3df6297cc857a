/* forward: the forward proxy on a sandbox's door: CONNECT, and absolute-form requests with http://. */
#ifndef REEVE_CONTROLLER_EDGE_FORWARD_H
#define REEVE_CONTROLLER_EDGE_FORWARD_H

#include "controller/controller.h"

/* Is it for the proxy, and not a model call at the door? */
bool forward_is_meant(const struct http_request *r);
/* Takes the exchange; its tag is the workspace's id. */
void forward_request(struct controller *c, struct exchange *ex);
/* A whole response for a head that cannot be parsed (on_bad_request of the door's servers). */
void forward_bad_request(int code, const struct err *err, struct buf *out, void *data);

#endif
