/* address: where to listen, and URLs without surprises. */
#ifndef REEVE_CONFIG_ADDRESS_H
#define REEVE_CONFIG_ADDRESS_H

#include "base/core/err.h"
#include "base/core/slice.h"

/* "127.0.0.1:8700", "[::]:443", "localhost:0" or "unix:path". 0, or E_INVALID with a sentence. */
int listen_check(struct slice s, struct err *err);
/* Of an address that passed: only this machine reaches it; it stands for all addresses of the machine. */
bool listen_is_local(struct slice s);
bool listen_is_any(struct slice s);
/* http or https://host[:port][/path] without user, query and fragment. *ret is without '/' at the end. 0, or
 * E_INVALID with a sentence. */
int url_check(struct slice s, struct slice *ret, struct err *err);

#endif
