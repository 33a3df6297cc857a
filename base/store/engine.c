/* engine: calls as requests, and their way back to the caller.
 *
 * Happy path: engine_commit & co. copy the call into a request and submit it; the engine fills in the answer;
 * engine_answer publishes the changes of a commit to the watches, then calls the caller. Failure paths: a
 * request refused (queue full, closing) or failed has a code and a sentence, and takes the same way. */
#include "base/store/engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

static struct request *request_new(struct store *s, enum request_kind kind, struct slice partition,
                                   union request_cb cb, void *data)
{
    struct request *r = MEM_NEW(struct request);

    r->kind = kind;
    r->cb = cb;
    r->data = data;
    r->arena = ARENA_INIT;
    r->partition = arena_slice(&r->arena, partition);
    r->bytes = sizeof(*r) + partition.n;
    r->now_ms = clock_wall_ms(s->loop->clock);
    return r;
}

void request_free(struct request *r)
{
    if (r == NULL)
        return;
    arena_fini(&r->arena);
    mem_free(r);
}

int request_fail(struct request *r, int code, const char *fmt, ...)
{
    char text[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap); /* a longer text is cut: it is for people */
    va_end(ap);
    if (r->err == NULL)
        r->err = arena_zalloc(&r->arena, sizeof(*r->err));
    r->code = err_set(r->err, code, "%s", text);
    r->items = 0;
    r->has_more = false;
    return code;
}

bool request_has_room(struct request *r, size_t n)
{
    if (r->answer_bytes > 0 && n > STORE_BYTES_MAX - r->answer_bytes)
        return false;
    r->answer_bytes += n;
    return true;
}

int request_add(struct request *r, size_t i, i128 counter, i128 *ret_sum)
{
    const struct store_op *op = &r->ops[i];
    i128 sum;

    if (i128_add(counter, op->amount, &sum) != 0) {
        r->failed_op = i;
        r->found_counter = counter;
        return request_fail(r, E_OVERFLOW, "op %zu: counter %.*s would leave 128 bits", i, SL_ARG(op->key));
    }
    if (op->has_bound && op->amount > 0 && sum > op->bound) {
        r->failed_op = i;
        r->found_counter = counter;
        return request_fail(r, E_BOUND, "op %zu: counter %.*s would pass its bound", i, SL_ARG(op->key));
    }
    *ret_sum = sum;
    return 0;
}

int request_conflict(struct request *r, size_t i, uint64_t found)
{
    const struct store_op *op = &r->ops[i];

    r->failed_op = i;
    r->found_version = found;
    return request_fail(r, E_CONFLICT, "op %zu: record %.*s: expected version %llu, found %llu", i,
                        SL_ARG(op->key), (unsigned long long)op->version, (unsigned long long)found);
}

/* --- calls --- */

static void request_submit(struct store *s, struct request *r)
{
    struct engine *e = (struct engine *)s;

    if (e->is_closing) {
        (void)request_fail(r, E_UNAVAILABLE, "the store is closing");
        engine_refuse(s->loop, r);
        return;
    }
    e->submit(e, r);
}

void engine_commit(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                   store_commit_cb cb, void *data)
{
    struct request *r = request_new(s, REQUEST_COMMIT, partition, (union request_cb){.commit = cb}, data);

    r->n = n;
    r->ops = arena_alloc(&r->arena, n * sizeof(*ops));
    memcpy(r->ops, ops, n * sizeof(*ops));
    r->results = arena_zalloc(&r->arena, n * sizeof(*r->results));
    r->bytes += n * (sizeof(*ops) + sizeof(*r->results));
    for (size_t i = 0; i < n; i++) {
        r->ops[i].key = arena_slice(&r->arena, ops[i].key);
        r->ops[i].value = arena_slice(&r->arena, ops[i].value);
        r->bytes += ops[i].key.n + ops[i].value.n;
    }
    request_submit(s, r);
}

void engine_get(struct store *s, struct slice partition, const struct slice *keys, size_t n,
                store_records_cb cb, void *data)
{
    struct request *r = request_new(s, REQUEST_GET, partition, (union request_cb){.records = cb}, data);

    r->n = n;
    r->keys = arena_alloc(&r->arena, n * sizeof(*keys));
    r->bytes += n * sizeof(*keys);
    for (size_t i = 0; i < n; i++) {
        r->keys[i] = arena_slice(&r->arena, keys[i]);
        r->bytes += keys[i].n;
    }
    request_submit(s, r);
}

/* low: the least key that has the prefix and is > after, which is `after` and a zero byte.
 * high: the least text above all keys with the prefix; without one, more 0xff than a key can have. */
static void request_range(struct request *r, struct slice prefix, struct slice after)
{
    size_t n = prefix.n;
    char *high;

    r->low = arena_slice(&r->arena, prefix);
    if (r->low.p == NULL)
        r->low = SLICE_EMPTY;
    if (after.n > 0 && slice_cmp(after, prefix) >= 0)
        r->low = slice_of(arena_slice(&r->arena, after).p, after.n + 1);
    while (n > 0 && (unsigned char)prefix.p[n - 1] == 0xff)
        n--;
    if (n > 0) {
        high = arena_strndup(&r->arena, prefix.p, n);
        high[n - 1] = (char)((unsigned char)high[n - 1] + 1);
    } else {
        n = STORE_KEY_MAX + 1;
        high = arena_alloc(&r->arena, n);
        memset(high, 0xff, n);
    }
    r->high = slice_of(high, n);
    r->bytes += r->low.n + r->high.n;
}

void engine_scan(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                 size_t limit, store_records_cb cb, void *data)
{
    struct request *r = request_new(s, REQUEST_SCAN, partition, (union request_cb){.records = cb}, data);

    request_range(r, prefix, after);
    r->limit = limit;
    request_submit(s, r);
}

void engine_counters(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                     size_t limit, store_counters_cb cb, void *data)
{
    struct request *r = request_new(s, REQUEST_COUNTERS, partition, (union request_cb){.counters = cb}, data);

    request_range(r, prefix, after);
    r->limit = limit;
    request_submit(s, r);
}

void engine_log_read(struct store *s, struct slice partition, struct slice log, uint64_t after, size_t limit,
                     store_log_cb cb, void *data)
{
    struct request *r = request_new(s, REQUEST_LOG, partition, (union request_cb){.log = cb}, data);

    r->log = arena_slice(&r->arena, log);
    r->bytes += log.n;
    r->after = after;
    r->limit = limit;
    request_submit(s, r);
}

struct store_watch *engine_watch(struct store *s, struct slice partition, struct slice prefix,
                                 uint64_t after_version, store_watch_cb cb, void *data)
{
    return feed_watch(&((struct engine *)s)->feed, partition, prefix, after_version, cb, data);
}

void engine_unwatch(struct store_watch *w)
{
    feed_unwatch(w);
}

/* --- answers --- */

static void request_call(const struct request *r)
{
    switch (r->kind) {
    case REQUEST_COMMIT: {
        struct store_commit_answer a = {.code = r->code,
                                        .failed_op = r->failed_op,
                                        .found_version = r->found_version,
                                        .found_counter = r->found_counter,
                                        .results = r->code == 0 ? r->results : NULL,
                                        .err = r->err};
        r->cb.commit(&a, r->data);
        break;
    }
    case REQUEST_GET:
    case REQUEST_SCAN:
        r->cb.records(r->code, r->records, r->items, r->has_more, r->err, r->data);
        break;
    case REQUEST_COUNTERS:
        r->cb.counters(r->code, r->counters, r->items, r->has_more, r->err, r->data);
        break;
    case REQUEST_LOG:
        r->cb.log(r->code, r->entries, r->items, r->has_more, r->err, r->data);
        break;
    }
}

/* The watches hear of a commit before its answer goes out: a cache fed by a watch is up to date in the
 * callback. */
static void commit_publish(struct engine *e, struct request *r)
{
    struct store_change *changes = arena_alloc(&r->arena, r->n * sizeof(*changes));
    size_t n = 0;

    for (size_t i = 0; i < r->n; i++) {
        const struct store_op *op = &r->ops[i];

        if ((op->kind != STORE_PUT && op->kind != STORE_DELETE) || r->results[i].version == 0)
            continue;
        changes[n++] = (struct store_change){.key = op->key,
                                             .value = op->kind == STORE_PUT ? op->value : SLICE_EMPTY,
                                             .version = r->results[i].version,
                                             .is_delete = op->kind == STORE_DELETE};
    }
    if (n > 0)
        feed_publish(&e->feed, r->partition, changes, n);
}

void engine_answer(struct engine *e, struct request *r)
{
    if (r->kind == REQUEST_COMMIT && r->code == 0)
        commit_publish(e, r);
    request_call(r);
    request_free(r);
}

static void on_refusal(void *data)
{
    struct request *r = data;

    request_call(r);
    request_free(r);
}

void engine_refuse(struct loop *l, struct request *r)
{
    loop_defer(l, on_refusal, r);
}

void engine_reply(struct loop *l, enum request_kind kind, union request_cb cb, void *data, int code,
                  const char *fmt, ...)
{
    struct request *r = MEM_NEW(struct request);
    char text[ERR_MSG_MAX];
    va_list ap;

    r->kind = kind;
    r->cb = cb;
    r->data = data;
    if (code != 0) {
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap); /* a longer text is cut: it is for people */
        va_end(ap);
        (void)request_fail(r, code, "%s", text);
    }
    loop_defer(l, on_refusal, r);
}
