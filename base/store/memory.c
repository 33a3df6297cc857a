/* memory: the store's contract in memory, for simulation and tests. Nothing outlives the process.
 *
 * Records, counters and logs of a partition are arrays sorted by key: lookups bisect, scans walk, inserts in
 * key order are cheap. Each request is worked off in a later turn of the loop, in the order of the calls, so
 * that callers see the same rhythm as with an engine that has a disk. A commit is checked whole before
 * anything changes. */
#include "base/store/store.h"

#include <string.h>

#include "base/core/mem.h"
#include "base/store/engine.h"
#include "base/core/hash.h"

#define MEMORY_QUEUE_MAX   65536u       /* requests waiting for their turn */
#define MEMORY_QUEUE_BYTES (256u << 20) /* what they may hold */
#define MEMORY_SWEEP_STEPS 4u           /* records looked at after each commit: more than most commits make */

/* One record, counter or log, by the table it is in. */
struct item {
    struct slice key; /* owned */
    /* record; version 0: not there (yet) */
    struct slice value; /* owned */
    uint64_t version;
    int64_t expires_at_ms;
    /* counter */
    i128 counter;
    i128 pending;            /* as commit `pending_commit` would leave it */
    uint64_t pending_commit; /* 0: none */
    bool is_counter;         /* was added to */
    /* log */
    struct slice *entries; /* owned, each too */
    size_t entry_count, entry_cap;
};

struct table {
    struct item **items; /* by key */
    size_t n, cap;
};

struct partition {
    UT_hash_handle hh;
    struct table records, counters, logs;
    size_t sweep_at; /* next record to look at for expiry */
    uint64_t seq;    /* the last version given */
    size_t name_n;
    char name[];
};

struct memory {
    struct engine engine; /* first */
    struct partition *partitions;
    struct request_queue queue; /* each has a turn of the loop coming */
    uint64_t commits;           /* numbers them, for `pending_commit` */
    void (*closed)(void *data);
    void *closed_data;
};

/* --- tables --- */

/* Position of the first item with a key >= `key`. */
static size_t table_lower(const struct table *t, struct slice key)
{
    size_t lo = 0, hi = t->n;

    if (t->n > 0 && slice_cmp(t->items[t->n - 1]->key, key) < 0)
        return t->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (slice_cmp(t->items[mid]->key, key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct item *table_find(const struct table *t, struct slice key)
{
    size_t at = table_lower(t, key);

    return at < t->n && slice_eq(t->items[at]->key, key) ? t->items[at] : NULL;
}

static struct item *table_make(struct table *t, struct slice key)
{
    size_t at = table_lower(t, key);
    struct item *it;

    if (at < t->n && slice_eq(t->items[at]->key, key))
        return t->items[at];
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 16 : t->cap * 2;
        t->items = mem_realloc(t->items, t->cap * sizeof(struct item *));
    }
    it = MEM_NEW(struct item);
    it->key = slice_of(mem_strndup(key.p, key.n), key.n);
    memmove(&t->items[at + 1], &t->items[at], (t->n - at) * sizeof(struct item *));
    t->items[at] = it;
    t->n++;
    return it;
}

static void item_free(struct item *it)
{
    for (size_t i = 0; i < it->entry_count; i++)
        mem_free((char *)it->entries[i].p);
    mem_free(it->entries);
    mem_free((char *)it->value.p);
    mem_free((char *)it->key.p);
    mem_free(it);
}

static void table_remove(struct table *t, struct slice key)
{
    size_t at = table_lower(t, key);

    must(at < t->n && slice_eq(t->items[at]->key, key));
    item_free(t->items[at]); /* `key` may have been its own: not used below */
    t->n--;
    memmove(&t->items[at], &t->items[at + 1], (t->n - at) * sizeof(struct item *));
}

static void table_fini(struct table *t)
{
    for (size_t i = 0; i < t->n; i++)
        item_free(t->items[i]);
    mem_free(t->items);
}

static struct partition *memory_partition(struct memory *m, struct slice name, bool make)
{
    struct partition *p;

    HASH_FIND(hh, m->partitions, name.p, name.n, p);
    if (p == NULL && make) {
        p = mem_zalloc(sizeof(*p) + name.n);
        memcpy(p->name, name.p, name.n);
        p->name_n = name.n;
        HASH_ADD(hh, m->partitions, name[0], name.n, p);
    }
    return p;
}

static bool record_is_live(const struct item *it, int64_t now_ms)
{
    return it != NULL && it->version != 0 && (it->expires_at_ms == 0 || it->expires_at_ms > now_ms);
}

/* --- commit --- */

static int commit_check_add(struct memory *m, struct partition *p, struct request *r, size_t i)
{
    struct item *it = table_make(&p->counters, r->ops[i].key);
    i128 sum;
    int rc = request_add(r, i, it->pending_commit == m->commits ? it->pending : it->counter, &sum);

    if (rc != 0)
        return rc;
    it->pending = sum;
    it->pending_commit = m->commits;
    r->results[i].counter = sum;
    return 0;
}

static int commit_check(struct memory *m, struct partition *p, struct request *r)
{
    m->commits++;
    for (size_t i = 0; i < r->n; i++) {
        const struct store_op *op = &r->ops[i];

        if (op->kind == STORE_EXPECT) {
            const struct item *it = table_find(&p->records, op->key);
            uint64_t found = record_is_live(it, r->now_ms) ? it->version : 0;

            if (found != op->version)
                return request_conflict(r, i, found);
        } else if (op->kind == STORE_ADD) {
            int rc = commit_check_add(m, p, r, i);

            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

/* Takes back the counters that commit_check made for a commit that is not to be. */
static void commit_forget(struct partition *p, const struct request *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct item *it = r->ops[i].kind == STORE_ADD ? table_find(&p->counters, r->ops[i].key) : NULL;

        if (it != NULL && !it->is_counter)
            table_remove(&p->counters, r->ops[i].key);
    }
}

static void commit_put(struct partition *p, const struct store_op *op, struct store_op_result *result)
{
    struct item *it = table_make(&p->records, op->key);

    mem_free((char *)it->value.p);
    it->value = slice_of(mem_strndup(op->value.n > 0 ? op->value.p : "", op->value.n), op->value.n);
    it->version = ++p->seq;
    it->expires_at_ms = op->expires_at_ms;
    result->version = it->version;
}

static void commit_append(struct partition *p, const struct store_op *op, struct store_op_result *result)
{
    struct item *it = table_make(&p->logs, op->key);

    if (it->entry_count == it->entry_cap) {
        it->entry_cap = it->entry_cap == 0 ? 8 : it->entry_cap * 2;
        it->entries = mem_realloc(it->entries, it->entry_cap * sizeof(*it->entries));
    }
    it->entries[it->entry_count++] =
        slice_of(mem_strndup(op->value.n > 0 ? op->value.p : "", op->value.n), op->value.n);
    result->version = it->entry_count;
}

static void commit_apply(struct partition *p, struct request *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct store_op *op = &r->ops[i];
        struct item *it;

        switch (op->kind) {
        case STORE_EXPECT:
            break;
        case STORE_PUT:
            commit_put(p, op, &r->results[i]);
            break;
        case STORE_DELETE:
            if (table_find(&p->records, op->key) != NULL) {
                table_remove(&p->records, op->key);
                r->results[i].version = ++p->seq;
            }
            break;
        case STORE_ADD:
            it = table_find(&p->counters, op->key);
            must(it != NULL);
            it->counter = r->results[i].counter;
            it->is_counter = true;
            break;
        case STORE_APPEND:
            commit_append(p, op, &r->results[i]);
            break;
        }
    }
}

/* A clock hand over the records, so that expired ones do not stay for ever. */
static void partition_sweep(struct partition *p, int64_t now_ms)
{
    for (unsigned i = 0; i < MEMORY_SWEEP_STEPS && p->records.n > 0; i++) {
        if (p->sweep_at >= p->records.n)
            p->sweep_at = 0;
        if (record_is_live(p->records.items[p->sweep_at], now_ms))
            p->sweep_at++;
        else
            table_remove(&p->records, p->records.items[p->sweep_at]->key);
    }
}

static void memory_commit(struct memory *m, struct request *r)
{
    struct partition *p = memory_partition(m, r->partition, true);

    if (commit_check(m, p, r) == 0)
        commit_apply(p, r);
    else
        commit_forget(p, r);
    partition_sweep(p, r->now_ms);
}

/* --- reads: the answers point into the tables, which cannot change during the callback --- */

static void memory_get(struct memory *m, struct request *r)
{
    const struct partition *p = memory_partition(m, r->partition, false);

    r->records = arena_zalloc(&r->arena, r->n * sizeof(*r->records));
    r->items = r->n;
    for (size_t i = 0; i < r->n; i++) {
        const struct item *it = p == NULL ? NULL : table_find(&p->records, r->keys[i]);

        r->records[i].key = r->keys[i];
        if (!record_is_live(it, r->now_ms))
            continue;
        if (!request_has_room(r, it->value.n)) {
            (void)request_fail(r, E_TOO_LARGE, "the records asked for hold more than %u bytes",
                               STORE_BYTES_MAX);
            return;
        }
        r->records[i].value = it->value;
        r->records[i].version = it->version;
        r->records[i].expires_at_ms = it->expires_at_ms;
    }
}

static void memory_scan(struct memory *m, struct request *r)
{
    const struct partition *p = memory_partition(m, r->partition, false);

    r->records = arena_alloc(&r->arena, r->limit * sizeof(*r->records));
    if (p == NULL)
        return;
    for (size_t at = table_lower(&p->records, r->low); at < p->records.n; at++) {
        const struct item *it = p->records.items[at];

        if (slice_cmp(it->key, r->high) >= 0)
            break;
        if (!record_is_live(it, r->now_ms))
            continue;
        if (r->items == r->limit || !request_has_room(r, it->key.n + it->value.n)) {
            r->has_more = true;
            break;
        }
        r->records[r->items++] = (struct store_record){
            .key = it->key, .value = it->value, .version = it->version, .expires_at_ms = it->expires_at_ms};
    }
}

static void memory_counters(struct memory *m, struct request *r)
{
    const struct partition *p = memory_partition(m, r->partition, false);

    r->counters = arena_alloc(&r->arena, r->limit * sizeof(*r->counters));
    if (p == NULL)
        return;
    for (size_t at = table_lower(&p->counters, r->low); at < p->counters.n; at++) {
        const struct item *it = p->counters.items[at];

        if (slice_cmp(it->key, r->high) >= 0)
            break;
        if (r->items == r->limit) {
            r->has_more = true;
            break;
        }
        r->counters[r->items++] = (struct store_counter){.key = it->key, .value = it->counter};
    }
}

static void memory_log(struct memory *m, struct request *r)
{
    const struct partition *p = memory_partition(m, r->partition, false);
    const struct item *it = p == NULL ? NULL : table_find(&p->logs, r->log);

    r->entries = arena_alloc(&r->arena, r->limit * sizeof(*r->entries));
    if (it == NULL)
        return;
    for (uint64_t at = r->after; at < it->entry_count; at++) {
        if (r->items == r->limit || !request_has_room(r, it->entries[at].n)) {
            r->has_more = true;
            break;
        }
        r->entries[r->items++] = (struct store_entry){.number = at + 1, .value = it->entries[at]};
    }
}

/* --- the engine --- */

static void on_memory_turn(void *data)
{
    struct memory *m = data;
    struct request *r = request_pop(&m->queue);

    switch (r->kind) {
    case REQUEST_COMMIT:
        memory_commit(m, r);
        break;
    case REQUEST_GET:
        memory_get(m, r);
        break;
    case REQUEST_SCAN:
        memory_scan(m, r);
        break;
    case REQUEST_COUNTERS:
        memory_counters(m, r);
        break;
    case REQUEST_LOG:
        memory_log(m, r);
        break;
    }
    engine_answer(&m->engine, r);
}

static void memory_submit(struct engine *e, struct request *r)
{
    struct memory *m = (struct memory *)e;

    if (m->queue.n >= MEMORY_QUEUE_MAX || m->queue.bytes >= MEMORY_QUEUE_BYTES) {
        (void)request_fail(r, E_UNAVAILABLE, "the store has too many requests waiting");
        engine_refuse(e->store.loop, r);
        return;
    }
    request_push(&m->queue, r);
    loop_defer(e->store.loop, on_memory_turn, m);
}

static void partition_free(struct partition *p)
{
    table_fini(&p->records);
    table_fini(&p->counters);
    table_fini(&p->logs);
    mem_free(p);
}

/* Deferred turns come in order, so what was asked before the close has been answered when this runs. */
static void on_memory_close(void *data)
{
    struct memory *m = data;
    struct partition *p, *next;
    void (*closed)(void *) = m->closed;
    void *closed_data = m->closed_data;

    must(m->queue.n == 0);
    if (!feed_fini(&m->engine.feed)) {
        loop_defer(m->engine.store.loop, on_memory_close, m);
        return;
    }
    HASH_ITER (hh, m->partitions, p, next) {
        HASH_DEL(m->partitions, p);
        partition_free(p);
    }
    mem_free(m);
    if (closed != NULL)
        closed(closed_data);
}

static void memory_close(struct store *s, void (*closed)(void *data), void *data)
{
    struct memory *m = (struct memory *)s;

    must(!m->engine.is_closing);
    m->engine.is_closing = true;
    m->closed = closed;
    m->closed_data = data;
    loop_defer(s->loop, on_memory_close, m);
}

static const struct store_ops memory_ops = {
    .commit = engine_commit,
    .get = engine_get,
    .scan = engine_scan,
    .counters = engine_counters,
    .log_read = engine_log_read,
    .watch = engine_watch,
    .unwatch = engine_unwatch,
    .close = memory_close,
};

struct store *store_memory_open(struct loop *l)
{
    struct memory *m = MEM_NEW(struct memory);

    m->engine.store.ops = &memory_ops;
    m->engine.store.loop = l;
    m->engine.submit = memory_submit;
    feed_init(&m->engine.feed, &m->engine.store);
    return &m->engine.store;
}
