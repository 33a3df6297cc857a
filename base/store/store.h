/* store: all durable state, as records, counters and logs in partitions. One contract, several engines.
 *
 * Called from the loop thread, answers on the loop thread, never before the call has returned. A commit's
 * answer comes only after the data is durable. All slices passed in are copied before the call returns; all
 * slices in an answer are valid during the callback only.
 *
 * - A record has a key, a value, a version and optionally an expiry (by the store's clock; an expired record
 * is gone for reads and for "expect absent", swept or not).
 * - A version is a number > 0 that its partition never gives twice, also after delete and re-create; it
 * grows.
 * - A counter is a signed 128-bit amount under a key of its own space; 0 when never added to.
 * - A log is an append-only list under a name; entries are numbered 1, 2, 3… without gaps. */
#ifndef REEVE_BASE_STORE_STORE_H
#define REEVE_BASE_STORE_STORE_H

#include "base/core/err.h"
#include "base/core/i128.h"
#include "base/core/slice.h"
#include "base/net/loop.h"

#define STORE_KEY_MAX   1024       /* bytes of a key, a log's or a partition's name; no NUL byte */
#define STORE_VALUE_MAX (1u << 20) /* bytes of a value or a log entry */
#define STORE_OPS_MAX   4096       /* of one commit */
#define STORE_SCAN_MAX  1000       /* items of one answer */
#define STORE_BYTES_MAX                                                                                      \
    (32u << 20) /* keys and values of one commit, or of one answer: a commit above it is                     \
                   E_INVALID, a get E_TOO_LARGE; the others stop early with has_more */

struct store;

enum store_op_kind { STORE_EXPECT, STORE_PUT, STORE_DELETE, STORE_ADD, STORE_APPEND };

struct store_op {
    enum store_op_kind kind;
    struct slice key;      /* record, counter, or log name */
    struct slice value;    /* put, append */
    uint64_t version;      /* expect: this version; 0: absent */
    int64_t expires_at_ms; /* put: wall time; 0: never */
    i128 amount;           /* add */
    bool has_bound;        /* add: the sum must not be above `bound` (checked only when amount > 0) */
    i128 bound;
};

static inline struct store_op store_expect(struct slice key, uint64_t version)
{
    return (struct store_op){.kind = STORE_EXPECT, .key = key, .version = version};
}
static inline struct store_op store_put(struct slice key, struct slice value)
{
    return (struct store_op){.kind = STORE_PUT, .key = key, .value = value};
}
static inline struct store_op store_delete(struct slice key)
{
    return (struct store_op){.kind = STORE_DELETE, .key = key}; /* deleting what is absent is fine */
}
static inline struct store_op store_add(struct slice key, i128 amount)
{
    return (struct store_op){.kind = STORE_ADD, .key = key, .amount = amount};
}
static inline struct store_op store_append(struct slice log, struct slice value)
{
    return (struct store_op){.kind = STORE_APPEND, .key = log, .value = value};
}

struct store_op_result {
    uint64_t version; /* put: the new version; append: the entry's number */
    i128 counter;     /* add: the new value */
};

struct store_commit_answer {
    int code; /* 0; E_CONFLICT (expect), E_BOUND, E_OVERFLOW (add), E_INVALID (our call), E_STORE, E_NO_SPACE,
                 E_UNAVAILABLE (queue full). E_STORE on a lost connection means: outcome unknown */
    size_t failed_op;       /* index of the op that failed; only for E_CONFLICT, E_BOUND, E_OVERFLOW */
    uint64_t found_version; /* E_CONFLICT: what is there (0: absent) */
    i128 found_counter;     /* E_BOUND: the counter as it is */
    const struct store_op_result *results; /* one per op when code is 0 */
    const struct err *err;
};
typedef void (*store_commit_cb)(const struct store_commit_answer *a, void *data);

struct store_record {
    struct slice key, value;
    uint64_t version; /* 0: absent (only from get) */
    int64_t expires_at_ms;
};
typedef void (*store_records_cb)(int code, const struct store_record *r, size_t n, bool has_more,
                                 const struct err *err, void *data);

struct store_counter {
    struct slice key;
    i128 value;
};
typedef void (*store_counters_cb)(int code, const struct store_counter *c, size_t n, bool has_more,
                                  const struct err *err, void *data);

struct store_entry {
    uint64_t number;
    struct slice value;
};
typedef void (*store_log_cb)(int code, const struct store_entry *e, size_t n, bool has_more,
                             const struct err *err, void *data);

struct store_change {
    struct slice key, value;
    uint64_t version; /* of the change: a delete has one too */
    bool is_delete;
};
/* Every engine's watch begins with this (store_unwatch finds its engine by it). */
struct store_watch {
    struct store *store;
};
/* changes in commit order (expiry is no change); is_resync: some may have been missed: scan anew (n is 0),
 * the watch goes on from there. */
typedef void (*store_watch_cb)(const struct store_change *c, size_t n, bool is_resync, void *data);

struct store_ops {
    void (*commit)(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                   store_commit_cb cb, void *data);
    void (*get)(struct store *s, struct slice partition, const struct slice *keys, size_t n,
                store_records_cb cb, void *data);
    void (*scan)(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                 size_t limit, store_records_cb cb, void *data);
    void (*counters)(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                     size_t limit, store_counters_cb cb, void *data);
    void (*log_read)(struct store *s, struct slice partition, struct slice log, uint64_t after, size_t limit,
                     store_log_cb cb, void *data);
    struct store_watch *(*watch)(struct store *s, struct slice partition, struct slice prefix,
                                 uint64_t after_version, store_watch_cb cb, void *data);
    void (*unwatch)(struct store_watch *w);
    void (*close)(struct store *s, void (*closed)(void *data), void *data);
};

/* Every engine's object begins with this. Engines get checked arguments only: store.c refuses the others (in
 * a later turn of the loop, E_INVALID) and answers calls that ask nothing (n == 0) by itself. */
struct store {
    const struct store_ops *ops;
    struct loop *loop; /* where it is called and answers; set by the engine's open */
};

/* All or nothing, in order: expects see the state before the commit; adds see earlier adds of the same
 * commit. */
void store_commit(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                  store_commit_cb cb, void *data);
/* One answer with n records in the order of the keys; absent ones have version 0. n <= STORE_OPS_MAX */
void store_get(struct store *s, struct slice partition, const struct slice *keys, size_t n,
               store_records_cb cb, void *data);
/* Keys that start with `prefix` and are > `after` (empty: from the start), in byte order. limit <=
 * STORE_SCAN_MAX */
void store_scan(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                size_t limit, store_records_cb cb, void *data);
/* The same over counters; a whole key as prefix reads one (absent: n 0). */
void store_counters(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                    size_t limit, store_counters_cb cb, void *data);
void store_log_read(struct store *s, struct slice partition, struct slice log, uint64_t after, size_t limit,
                    store_log_cb cb, void *data);
/* Changes of records under the prefix with a version > after_version. */
struct store_watch *store_watch(struct store *s, struct slice partition, struct slice prefix,
                                uint64_t after_version, store_watch_cb cb, void *data);
void store_unwatch(struct store_watch *w);
/* Waits for commits in flight; all answers come before `closed`. Watches that are left end without a word. */
void store_close(struct store *s, void (*closed)(void *data), void *data);

/* --- engines --- */
/* In memory, for simulation: loses all at the end of the process. */
struct store *store_memory_open(struct loop *l);
/* SQLite 3 at `path` (WAL, synchronous=FULL); takes an exclusive lock: a second opener gets E_BUSY. */
int store_sqlite_open(struct loop *l, const char *path, struct store **ret, struct err *err);
/* redis://[:password@]host:port[/db]. Asynchronous: `opened` fires once, after the server's settings were
 * checked (appendonly yes, appendfsync always), else E_INVALID with what to change. */
typedef void (*store_opened_cb)(int code, struct store *s, const struct err *err, void *data);
void store_redis_open(struct loop *l, const char *url, store_opened_cb opened, void *data);

#endif
