/* proxied: the table of the sandbox server's routes: what of it may be reached through Reeve, and by which
 * role. What is not in it is refused. Source: the server's OpenAPI document, version 0.4.2. */
#ifndef REEVE_CONTROLLER_EDGE_PROXIED_H
#define REEVE_CONTROLLER_EDGE_PROXIED_H

#include "base/net/http.h"
#include "config/tenancy.h"

enum proxied_kind {
    PROXIED_PLAIN,
    PROXIED_HEALTH,    /* 503 + Retry-After while the workspace is not ready: the SDK waits for it */
    PROXIED_WEBSOCKET, /* only as an upgrade */
    PROXIED_ACP_LIST,
    PROXIED_ACP, /* one server id: GET (SSE), POST, DELETE */
};

struct proxied_route {
    const char *method;
    const char *pattern;
    enum role least;
    enum proxied_kind kind;
    unsigned flags;
};
enum {
    PROXIED_HOME_ONLY = 1, /* a viewer: only paths under the home, said by ?path= */
    PROXIED_NO_CONFIG = 2, /* a viewer: not with ?config= (it starts the agent) */
};

/* Everything below /w/{ns}/{name}, with its leading '/'. Gives the row, or NULL: not proxied. *ret_param: the
 * path's first parameter. */
const struct proxied_route *proxied_find(struct slice method, struct slice path, struct slice *ret_param);
/* 0, or E_FORBIDDEN with the reason. */
int proxied_authorise(const struct proxied_route *row, enum role role, struct slice query, struct err *err);

#endif
