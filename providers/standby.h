/* standby: stands in front of a provider that may not work on this machine yet: its program is missing, the
 * kernel refuses, its folder is in use.
 *
 * Until the provider opens, every call answers E_UNAVAILABLE with the reason, so that workspaces show it and
 * are retried; each call tries again to open it, at most every STANDBY_RETRY_MS. Once open, calls go straight
 * through. */
#ifndef REEVE_PROVIDERS_STANDBY_H
#define REEVE_PROVIDERS_STANDBY_H

#include "providers/provider.h"

#define STANDBY_RETRY_MS 3000

/* Opens the provider behind it: 0 and the provider, or an error. Called on the loop thread. `data` is freed
 * by the standby with `free_data` when it closes. */
typedef int (*standby_open)(struct loop *l, void *data, struct provider **ret, struct err *err);
/* Tries once at once; *ret_err says why when it does not open (code 0: it did). */
struct provider *provider_standby_new(struct loop *l, struct slice name, standby_open open,
                                      void (*free_data)(void *data), void *data, struct err *ret_err);

#endif
