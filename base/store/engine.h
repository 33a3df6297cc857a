/* engine: what the engines of this process (memory, SQLite) share.
 *
 * A call becomes a request: a copy of what was asked, later with the answer in it. The engine's `submit`
 * takes it, works it off where it likes, and gives it back on the loop thread to engine_answer, which tells
 * the watches, calls the caller and frees it. What cannot even be taken is refused with engine_refuse, in a
 * later turn of the loop. */
#ifndef REEVE_BASE_STORE_ENGINE_H
#define REEVE_BASE_STORE_ENGINE_H

#include "base/core/arena.h"
#include "base/store/feed.h"
#include "base/store/store.h"

enum request_kind { REQUEST_COMMIT, REQUEST_GET, REQUEST_SCAN, REQUEST_COUNTERS, REQUEST_LOG };

union request_cb {
    store_commit_cb commit;
    store_records_cb records; /* get and scan */
    store_counters_cb counters;
    store_log_cb log;
};

struct request {
    struct request *next; /* in whatever queue holds it */
    enum request_kind kind;
    union request_cb cb;
    void *data;
    struct arena arena; /* owns all that follows */
    size_t bytes;       /* about what it costs to keep, for the limits of queues */
    int64_t now_ms;     /* the store's time of the call: decides what is expired */
    struct slice partition;
    struct store_op *ops;            /* commit */
    struct store_op_result *results; /* commit: one per op */
    struct slice *keys;              /* get */
    size_t n;                        /* of ops or keys */
    struct slice low, high;          /* scan, counters: keys >= low and < high */
    struct slice log;                /* log_read */
    uint64_t after;                  /* log_read: entries with a higher number */
    size_t limit;                    /* scan, counters, log_read */
    /* the answer */
    int code;
    struct err *err; /* NULL unless request_fail was called */
    size_t failed_op;
    uint64_t found_version;
    i128 found_counter;
    struct store_record *records; /* get: n of them */
    struct store_counter *counters;
    struct store_entry *entries;
    size_t items; /* of the three arrays above */
    size_t answer_bytes;
    bool has_more;
};

/* Sets the answer to a failure; returns `code`. */
int request_fail(struct request *r, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Whether n more bytes fit into the answer; counts them if so. The first item always fits. */
bool request_has_room(struct request *r, size_t n);
/* The sum a counter would have. 0, or E_OVERFLOW / E_BOUND with the answer set to that failure of op `i`. */
int request_add(struct request *r, size_t i, i128 counter, i128 *ret_sum);
/* The answer to op `i`, an expect that met `found`. Returns E_CONFLICT. */
int request_conflict(struct request *r, size_t i, uint64_t found);
void request_free(struct request *r);

/* First in, first out. Engines bound it by `n` and `bytes`. */
struct request_queue {
    struct request *head, *tail;
    size_t n, bytes;
};

static inline void request_push(struct request_queue *q, struct request *r)
{
    r->next = NULL;
    if (q->head == NULL)
        q->head = r;
    else
        q->tail->next = r;
    q->tail = r;
    q->n++;
    q->bytes += r->bytes;
}

/* NULL when empty. */
static inline struct request *request_pop(struct request_queue *q)
{
    struct request *r = q->head;

    if (r != NULL) {
        q->head = r->next;
        q->n--;
        q->bytes -= r->bytes;
    }
    return r;
}

struct engine {
    struct store store; /* first: the caller's view */
    struct feed feed;
    void (*submit)(struct engine *e, struct request *r); /* takes over r; must not answer before it returns */
    bool is_closing;                                     /* nothing new is taken */
};

/* The members of store_ops that only need `submit` and the feed. */
void engine_commit(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                   store_commit_cb cb, void *data);
void engine_get(struct store *s, struct slice partition, const struct slice *keys, size_t n,
                store_records_cb cb, void *data);
void engine_scan(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                 size_t limit, store_records_cb cb, void *data);
void engine_counters(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                     size_t limit, store_counters_cb cb, void *data);
void engine_log_read(struct store *s, struct slice partition, struct slice log, uint64_t after, size_t limit,
                     store_log_cb cb, void *data);
struct store_watch *engine_watch(struct store *s, struct slice partition, struct slice prefix,
                                 uint64_t after_version, store_watch_cb cb, void *data);
void engine_unwatch(struct store_watch *w);

void engine_answer(struct engine *e, struct request *r);
/* Answers `r` with a failure in a later turn of the loop. The engine may be gone by then. */
void engine_refuse(struct loop *l, struct request *r);

/* For store.c: an answer in a later turn without a request; code 0 is an answer to what asked nothing. */
void engine_reply(struct loop *l, enum request_kind kind, union request_cb cb, void *data, int code,
                  const char *fmt, ...) __attribute__((format(printf, 6, 7)));

#endif
