/* feed: the changes of one store, told to its watches in commit order.
 *
 * A watch that has started gets each commit's changes when the engine publishes them, so it can never fall
 * behind. The feed also keeps the latest changes (a bounded ring over all partitions), so that a new watch
 * can go on after a version it knows; what the ring no longer has is answered with one resync. */
#ifndef REEVE_BASE_STORE_FEED_H
#define REEVE_BASE_STORE_FEED_H

#include "base/store/store.h"

#define FEED_CHANGES_MAX 4096u
#define FEED_BYTES_MAX   (4u << 20) /* of keys and values kept */

struct feed_partition;
struct feed_entry;

struct feed {
    struct store *store;
    struct feed_partition *partitions; /* by name */
    struct feed_entry *entries;        /* the ring, oldest first */
    size_t entry_count, bytes;
    unsigned deferred;   /* watches whose start or end waits in the loop */
    unsigned publishing; /* depth: watches must not be freed */
};

void feed_init(struct feed *f, struct store *store);
/* What a partition's last version was when the feed began. */
void feed_floor(struct feed *f, struct slice partition, uint64_t version);
void feed_publish(struct feed *f, struct slice partition, const struct store_change *changes, size_t n);
struct store_watch *feed_watch(struct feed *f, struct slice partition, struct slice prefix,
                               uint64_t after_version, store_watch_cb cb, void *data);
void feed_unwatch(struct store_watch *w);
/* False while the loop still holds something of ours: come again in a later turn. Afterwards all is freed. */
bool feed_fini(struct feed *f);

#endif
