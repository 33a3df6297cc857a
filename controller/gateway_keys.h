/* gateway_keys: the scheduler's way to the key APIs of gateways (scheduler/gateway_keys.h). */
#ifndef REEVE_CONTROLLER_GATEWAY_KEYS_H
#define REEVE_CONTROLLER_GATEWAY_KEYS_H

#include "base/core/err.h"
#include "scheduler/gateway_keys.h"

struct controller;

/* Makes c->litellm_keys and fills `ret`, whose functions read the configuration of the moment. */
int gateway_keys_open(struct controller *c, struct gateway_keys *ret, struct err *err);

#endif
