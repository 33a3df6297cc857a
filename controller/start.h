/* start: brings a controller up, floor by floor, and takes it down again. */
#ifndef REEVE_CONTROLLER_START_H
#define REEVE_CONTROLLER_START_H

#include "controller/controller.h"

/* `ready` fires once: code 0 when the listeners are open; else what failed, and nothing is left to serve. */
typedef void (*start_cb)(int code, const struct err *err, struct controller *c);
void start_begin(struct controller *c, start_cb ready);
/* After the drain: closes what start opened, in reverse, then stops the loop. Safe on a half-started
 * controller. */
void start_undo(struct controller *c);

/* The path of a file beside the running binary, or one folder up: where `make` leaves them. The caller's. */
char *beside_binary(const char *name);

#endif
