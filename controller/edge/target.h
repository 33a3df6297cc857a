/* target: where a request of the forward proxy wants to go. One spelling, one meaning: what could be read in
 * two ways is refused, because the rules would judge one reading and the connection use the other. */
#ifndef REEVE_CONTROLLER_EDGE_TARGET_H
#define REEVE_CONTROLLER_EDGE_TARGET_H

#include "base/net/address.h"
#include "base/net/http.h"
#include "config/network_rules.h"

#define TARGET_TEXT_MAX (HOST_NAME_MAX_BYTES + 10)

struct target {
    char host[HOST_NAME_MAX_BYTES +
              1]; /* in lower case, without a dot at its end; an address in its one form */
    bool is_address;
    struct address address; /* when is_address */
    uint16_t port;
    char text[TARGET_TEXT_MAX]; /* "example.org:443", "[2001:db8::1]:443" */
};

/* "host:port", "192.0.2.1:80", "[2001:db8::1]:443". `fallback_port` 0: the port must be there. 0, or
 * E_INVALID with a sentence. */
int target_parse(struct slice authority, uint16_t fallback_port, struct target *ret, struct err *err);
/* The target of CONNECT or of an absolute-form request with http://. The Host field must name the same. 0;
 * E_INVALID; E_NOT_IMPLEMENTED for other schemes. */
int target_of_request(const struct http_request *r, struct target *ret, struct err *err);

#endif
