/* resolve: names to addresses, off the loop's back: c-ares on the loop's own sockets, with a bounded cache.
 *
 * DNS alone is asked: no file of hosts, no search domains, one look-up in flight for one name however many
 * wait for it. `done` fires exactly once, never before resolver_lookup has returned. */
#ifndef REEVE_BASE_NET_RESOLVE_H
#define REEVE_BASE_NET_RESOLVE_H

#include "base/net/address.h"
#include "base/net/loop.h"

#define RESOLVE_ADDRESSES_MAX 32

struct resolver;
struct resolve_op;

struct resolver_options {
    const char *servers;            /* "127.0.0.1:53,[::1]:53"; NULL or "": those of the system */
    int64_t timeout_ms;             /* of a look-up as a whole; 0: 5 s */
    size_t inflight_max;            /* 0: 256; beyond: E_UNAVAILABLE */
    size_t names_max;               /* of the cache; 0: 4,096; the oldest goes */
    int64_t ttl_min_ms, ttl_max_ms; /* bounds of what the answers say; 0: 1 s, 5 min */
    int64_t failed_ms;              /* how long a failure is remembered; 0: 1 s */
};

struct resolve_answer {
    int code; /* 0; E_NOT_FOUND: no such name or no address; E_TIMEOUT; E_UPSTREAM; E_UNAVAILABLE;
                 E_CANCELLED: the resolver closes */
    const struct address *addresses; /* valid during the callback */
    size_t n;
    const struct err *err;
};
typedef void (*resolve_done_cb)(const struct resolve_answer *a, void *data);

int resolver_new(struct loop *l, const struct resolver_options *o, struct resolver **ret, struct err *err);
/* `name`: at most 253 bytes, without a dot at its end, in lower case. */
struct resolve_op *resolver_lookup(struct resolver *r, struct slice name, resolve_done_cb done, void *data);
/* Give up waiting: `done` does not fire any more, the op is gone. */
void resolve_cancel(struct resolve_op *op);
/* Who still waits gets E_CANCELLED. `closed` (may be NULL) fires later. */
void resolver_close(struct resolver *r, void (*closed)(void *data), void *data);

/* For /metrics. */
struct resolver_stats {
    uint64_t asked, cached, failed, refused;
    size_t names, inflight;
};
const struct resolver_stats *resolver_stats(const struct resolver *r);

#endif
