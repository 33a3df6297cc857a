/* redis_watch: the store's watches over the change streams in Redis, so that a controller hears of what
 * another one commits. One connection of its own, as its reads block. */
#ifndef REEVE_BASE_STORE_REDIS_WATCH_H
#define REEVE_BASE_STORE_REDIS_WATCH_H

#include "base/core/buf.h"
#include "base/store/redis_link.h"
#include "base/store/store.h"

struct redis_watches;

/* `login` stays until `closed`. */
struct redis_watches *redis_watches_new(struct store *s, const struct redis_login *login);
struct store_watch *redis_watches_add(struct redis_watches *ws, struct slice partition, struct slice prefix,
                                      uint64_t after_version, store_watch_cb cb, void *data);
void redis_watches_remove(struct store_watch *w);
/* Ends what is left without a word. */
void redis_watches_close(struct redis_watches *ws, void (*closed)(void *data), void *data);

/* "reeve:{<partition, escaped>}:<what><name>": all keys of a partition carry it as hash tag. Appends to
 * `out`. */
void redis_key(struct buf *out, struct slice partition, const char *what, struct slice name);
#define REDIS_KEY_MAX (3 * STORE_KEY_MAX + STORE_KEY_MAX + 32)

#endif
