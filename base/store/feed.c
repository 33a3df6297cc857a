/* feed: changes of records, in order, to those who watch.
 *
 * Happy path: feed_watch; in a later turn the watch gets what the ring has after its version; from then on
 * each feed_publish reaches it directly. Failure path: the ring does not reach back that far: one resync,
 * then as before. Callbacks may watch and unwatch: while a publication runs, ended watches are only marked.
 */
#include "base/store/feed.h"

#include <string.h>
#include <utlist.h>

#include "base/core/mem.h"
#include "base/core/hash.h"

struct feed_entry {
    struct feed_entry *prev, *next;           /* in the ring */
    struct feed_entry *part_prev, *part_next; /* among those of its partition, by version */
    struct feed_partition *partition;
    struct store_change change; /* its slices point into `bytes` */
    size_t size;
    char bytes[];
};

struct feed_watch {
    struct store_watch watch; /* first: the caller's view */
    struct feed_watch *prev, *next;
    struct feed_partition *partition;
    struct feed *feed;
    char *prefix;
    size_t prefix_n;
    uint64_t after; /* the last version it need not hear of */
    store_watch_cb cb;
    void *data;
    bool is_started; /* has caught up */
    bool is_ended;
    bool is_deferred; /* the loop holds a pointer */
};

struct feed_partition {
    UT_hash_handle hh;
    struct feed_entry *entries;
    struct feed_watch *watches;
    uint64_t floor; /* changes up to this version are not in the ring */
    bool has_ended; /* some watch is marked to go */
    size_t name_n;
    char name[];
};

void feed_init(struct feed *f, struct store *store)
{
    *f = (struct feed){.store = store};
}

static struct feed_partition *feed_partition(struct feed *f, struct slice name)
{
    struct feed_partition *p;

    HASH_FIND(hh, f->partitions, name.p, name.n, p);
    if (p == NULL) {
        p = mem_zalloc(sizeof(*p) + name.n);
        memcpy(p->name, name.p, name.n);
        p->name_n = name.n;
        HASH_ADD(hh, f->partitions, name[0], name.n, p);
    }
    return p;
}

void feed_floor(struct feed *f, struct slice partition, uint64_t version)
{
    feed_partition(f, partition)->floor = version;
}

/* --- the ring --- */

static void feed_entry_drop(struct feed *f, struct feed_entry *e)
{
    e->partition->floor = e->change.version;
    DL_DELETE2(e->partition->entries, e, part_prev, part_next);
    DL_DELETE(f->entries, e);
    f->entry_count--;
    f->bytes -= e->size;
    mem_free(e);
}

static void feed_keep(struct feed *f, struct feed_partition *p, const struct store_change *c)
{
    size_t size = c->key.n + c->value.n;
    struct feed_entry *e = mem_alloc(sizeof(*e) + size);

    e->partition = p;
    e->size = size;
    memcpy(e->bytes, c->key.p, c->key.n);
    if (c->value.n > 0)
        memcpy(e->bytes + c->key.n, c->value.p, c->value.n);
    e->change = *c;
    e->change.key.p = e->bytes;
    e->change.value.p = e->bytes + c->key.n;
    DL_APPEND(f->entries, e);
    DL_APPEND2(p->entries, e, part_prev, part_next);
    f->entry_count++;
    f->bytes += size;
    while (f->entry_count > FEED_CHANGES_MAX || (f->bytes > FEED_BYTES_MAX && f->entry_count > 1))
        feed_entry_drop(f, f->entries);
}

/* --- watches --- */

static void feed_watch_free(struct feed_watch *w)
{
    DL_DELETE(w->partition->watches, w);
    mem_free(w->prefix);
    mem_free(w);
}

static void feed_sweep(struct feed *f, struct feed_partition *p)
{
    struct feed_watch *w, *next;

    if (f->publishing > 0 || !p->has_ended)
        return;
    p->has_ended = false;
    DL_FOREACH_SAFE (p->watches, w, next) {
        if (w->is_ended && !w->is_deferred)
            feed_watch_free(w);
    }
}

static bool feed_watch_wants(const struct feed_watch *w, const struct store_change *c)
{
    return c->version > w->after && slice_starts(c->key, slice_of(w->prefix, w->prefix_n));
}

/* Gives the watch what it wants of these; the array is scratch of the same size. */
static void feed_watch_tell(struct feed_watch *w, const struct store_change *changes, size_t n,
                            struct store_change *scratch)
{
    size_t wanted = 0;

    for (size_t i = 0; i < n; i++) {
        if (feed_watch_wants(w, &changes[i]))
            scratch[wanted++] = changes[i];
    }
    if (wanted > 0)
        w->cb(scratch, wanted, false, w->data);
}

static void feed_watch_catch_up(struct feed *f, struct feed_watch *w)
{
    struct feed_partition *p = w->partition;
    struct store_change *known, *scratch;
    struct feed_entry *e;
    size_t n = 0;

    w->is_started = true;
    if (w->after < p->floor) {
        w->after = p->entries == NULL ? p->floor : p->entries->part_prev->change.version;
        w->cb(NULL, 0, true, w->data);
        return;
    }
    DL_FOREACH2(p->entries, e, part_next)
    n++;
    if (n == 0)
        return;
    /* Copies of the views only: entries stay while the callback runs, as publishing is what drops them. */
    known = mem_alloc(2 * n * sizeof(*known));
    scratch = known + n;
    n = 0;
    DL_FOREACH2(p->entries, e, part_next)
    known[n++] = e->change;
    f->publishing++;
    feed_watch_tell(w, known, n, scratch);
    f->publishing--;
    mem_free(known);
}

static void on_watch_deferred(void *data)
{
    struct feed_watch *w = data;
    struct feed_partition *p = w->partition;
    struct feed *f = w->feed;

    f->deferred--;
    w->is_deferred = false;
    if (!w->is_ended)
        feed_watch_catch_up(f, w);
    else
        p->has_ended = true;
    feed_sweep(f, p);
}

struct store_watch *feed_watch(struct feed *f, struct slice partition, struct slice prefix,
                               uint64_t after_version, store_watch_cb cb, void *data)
{
    struct feed_watch *w = MEM_NEW(struct feed_watch);

    w->watch.store = f->store;
    w->feed = f;
    w->partition = feed_partition(f, partition);
    w->prefix = mem_strndup(prefix.n > 0 ? prefix.p : "", prefix.n);
    w->prefix_n = prefix.n;
    w->after = after_version;
    w->cb = cb;
    w->data = data;
    w->is_deferred = true;
    f->deferred++;
    DL_APPEND(w->partition->watches, w);
    loop_defer(f->store->loop, on_watch_deferred, w);
    return &w->watch;
}

void feed_unwatch(struct store_watch *watch)
{
    struct feed_watch *w = (struct feed_watch *)watch;

    must(!w->is_ended);
    w->is_ended = true;
    w->partition->has_ended = true;
    feed_sweep(w->feed, w->partition);
}

void feed_publish(struct feed *f, struct slice partition, const struct store_change *changes, size_t n)
{
    struct feed_partition *p = feed_partition(f, partition);
    struct store_change *scratch = NULL;
    struct feed_watch *w;

    for (size_t i = 0; i < n; i++)
        feed_keep(f, p, &changes[i]);
    if (p->watches == NULL)
        return;
    f->publishing++;
    DL_FOREACH (p->watches, w) {
        if (w->is_ended || !w->is_started)
            continue; /* one that has not started finds them in the ring */
        if (scratch == NULL)
            scratch = mem_alloc(n * sizeof(*scratch));
        feed_watch_tell(w, changes, n, scratch);
    }
    f->publishing--;
    mem_free(scratch);
    feed_sweep(f, p);
}

bool feed_fini(struct feed *f)
{
    struct feed_partition *p, *next;

    must(f->publishing == 0);
    HASH_ITER (hh, f->partitions, p, next) {
        struct feed_watch *w, *after;

        DL_FOREACH_SAFE (p->watches, w, after) {
            w->is_ended = true;
            if (!w->is_deferred)
                feed_watch_free(w);
        }
    }
    if (f->deferred > 0)
        return false;
    while (f->entries != NULL)
        feed_entry_drop(f, f->entries);
    HASH_ITER (hh, f->partitions, p, next) {
        HASH_DEL(f->partitions, p);
        mem_free(p);
    }
    return true;
}
