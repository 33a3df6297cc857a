/* intake: a request's body taken piece by piece, unpacked where it is packed, and never kept as a whole. */
#ifndef REEVE_CONTROLLER_EDGE_INTAKE_H
#define REEVE_CONTROLLER_EDGE_INTAKE_H

#include "controller/edge/request.h"

/* Whichever comes first is the last: on_end (the body is complete; the request is to be answered), or on_gone
 * (it was answered, because on_bytes or the body itself failed, or the client left: give up `data`). */
struct intake_events {
    /* 0, or a code with `err` that the request is answered with. */
    int (*on_bytes)(struct slice bytes, void *data, struct err *err);
    void (*on_end)(struct request *rq, void *data);
    void (*on_gone)(void *data);
};

#define INTAKE_UNPACKED_MAX ((uint64_t)256 * 1024 * 1024) /* bytes of a packed body, unpacked */

/* Takes at most bytes_max as they come, else 413; Content-Encoding may be identity or gzip, else 415.
 * on_bytes and on_end never come before this has returned; on_gone may. */
void intake_start(struct request *rq, uint64_t bytes_max, const struct intake_events *events, void *data);

#endif
