/* store: the calls every engine answers, with their arguments checked once, here.
 *
 * A call outside the limits is our own mistake or an input that nobody bounded: it is refused with E_INVALID
 * and a sentence, in a later turn like any answer; the engine never sees it. A call that asks nothing is
 * answered so too. */
#include "base/store/store.h"

#include <string.h>

#include "base/core/mem.h"
#include "base/store/engine.h"

/* NULL, or what is wrong with a partition, key or log name. */
static const char *name_fault(struct slice s)
{
    if (s.n == 0)
        return "is empty";
    if (s.n > STORE_KEY_MAX)
        return "is longer than 1024 bytes";
    if (memchr(s.p, '\0', s.n) != NULL)
        return "contains a NUL byte";
    return NULL;
}

/* The same for what may be empty: prefixes, cursors. */
static const char *part_fault(struct slice s)
{
    return s.n == 0 ? NULL : name_fault(s);
}

static const char *op_fault(const struct store_op *op, const char **ret_field)
{
    const char *fault = name_fault(op->key);

    *ret_field = "key";
    if (fault != NULL)
        return fault;
    switch (op->kind) {
    case STORE_PUT:
        *ret_field = "expires_at_ms";
        if (op->expires_at_ms < 0)
            return "is negative";
        __attribute__((fallthrough));
    case STORE_APPEND:
        *ret_field = "value";
        return op->value.n > STORE_VALUE_MAX ? "is longer than 1 MiB" : NULL;
    case STORE_EXPECT:
    case STORE_DELETE:
    case STORE_ADD:
        return NULL;
    }
    *ret_field = "kind";
    return "is unknown";
}

void store_commit(struct store *s, struct slice partition, const struct store_op *ops, size_t n,
                  store_commit_cb cb, void *data)
{
    union request_cb rcb = {.commit = cb};
    const char *fault = name_fault(partition), *field = NULL;
    size_t bytes = 0;

    must(s->loop != NULL && cb != NULL);
    if (fault != NULL) {
        engine_reply(s->loop, REQUEST_COMMIT, rcb, data, E_INVALID, "partition %s", fault);
        return;
    }
    if (n > STORE_OPS_MAX) {
        engine_reply(s->loop, REQUEST_COMMIT, rcb, data, E_INVALID,
                     "%zu operations in one commit, at most %d", n, STORE_OPS_MAX);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        fault = op_fault(&ops[i], &field);
        if (fault != NULL) {
            engine_reply(s->loop, REQUEST_COMMIT, rcb, data, E_INVALID, "op %zu: %s %s", i, field, fault);
            return;
        }
        bytes += ops[i].key.n + ops[i].value.n;
    }
    if (bytes > STORE_BYTES_MAX)
        engine_reply(s->loop, REQUEST_COMMIT, rcb, data, E_INVALID, "%zu bytes in one commit, at most %u",
                     bytes, STORE_BYTES_MAX);
    else if (n == 0)
        engine_reply(s->loop, REQUEST_COMMIT, rcb, data, 0, "nothing asked");
    else
        s->ops->commit(s, partition, ops, n, cb, data);
}

void store_get(struct store *s, struct slice partition, const struct slice *keys, size_t n,
               store_records_cb cb, void *data)
{
    union request_cb rcb = {.records = cb};
    const char *fault = name_fault(partition);

    must(s->loop != NULL && cb != NULL);
    if (fault != NULL) {
        engine_reply(s->loop, REQUEST_GET, rcb, data, E_INVALID, "partition %s", fault);
        return;
    }
    if (n > STORE_OPS_MAX) {
        engine_reply(s->loop, REQUEST_GET, rcb, data, E_INVALID, "%zu keys in one get, at most %d", n,
                     STORE_OPS_MAX);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        fault = name_fault(keys[i]);
        if (fault != NULL) {
            engine_reply(s->loop, REQUEST_GET, rcb, data, E_INVALID, "key %zu %s", i, fault);
            return;
        }
    }
    if (n == 0)
        engine_reply(s->loop, REQUEST_GET, rcb, data, 0, "nothing asked");
    else
        s->ops->get(s, partition, keys, n, cb, data);
}

/* What scan, counters and log_read check alike; true when the call was refused. `name` is the prefix or the
 * log. */
static bool is_refused(struct store *s, enum request_kind kind, union request_cb cb, void *data,
                       struct slice partition, const char *name_fault_text, struct slice after, size_t limit)
{
    const char *fault = name_fault(partition);

    must(s->loop != NULL);
    if (fault != NULL)
        engine_reply(s->loop, kind, cb, data, E_INVALID, "partition %s", fault);
    else if (name_fault_text != NULL)
        engine_reply(s->loop, kind, cb, data, E_INVALID, "%s %s", kind == REQUEST_LOG ? "log" : "prefix",
                     name_fault_text);
    else if (part_fault(after) != NULL)
        engine_reply(s->loop, kind, cb, data, E_INVALID, "after %s", part_fault(after));
    else if (limit == 0 || limit > STORE_SCAN_MAX)
        engine_reply(s->loop, kind, cb, data, E_INVALID, "limit %zu is not in 1..%d", limit, STORE_SCAN_MAX);
    else
        return false;
    return true;
}

void store_scan(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                size_t limit, store_records_cb cb, void *data)
{
    must(cb != NULL);
    if (!is_refused(s, REQUEST_SCAN, (union request_cb){.records = cb}, data, partition, part_fault(prefix),
                    after, limit))
        s->ops->scan(s, partition, prefix, after, limit, cb, data);
}

void store_counters(struct store *s, struct slice partition, struct slice prefix, struct slice after,
                    size_t limit, store_counters_cb cb, void *data)
{
    must(cb != NULL);
    if (!is_refused(s, REQUEST_COUNTERS, (union request_cb){.counters = cb}, data, partition,
                    part_fault(prefix), after, limit))
        s->ops->counters(s, partition, prefix, after, limit, cb, data);
}

void store_log_read(struct store *s, struct slice partition, struct slice log, uint64_t after, size_t limit,
                    store_log_cb cb, void *data)
{
    must(cb != NULL);
    if (!is_refused(s, REQUEST_LOG, (union request_cb){.log = cb}, data, partition, name_fault(log),
                    SLICE_EMPTY, limit))
        s->ops->log_read(s, partition, log, after, limit, cb, data);
}

struct store_watch *store_watch(struct store *s, struct slice partition, struct slice prefix,
                                uint64_t after_version, store_watch_cb cb, void *data)
{
    must(s->loop != NULL && cb != NULL);
    must(name_fault(partition) == NULL && part_fault(prefix) == NULL);
    return s->ops->watch(s, partition, prefix, after_version, cb, data);
}

void store_unwatch(struct store_watch *w)
{
    if (w != NULL)
        w->store->ops->unwatch(w);
}

void store_close(struct store *s, void (*closed)(void *data), void *data)
{
    s->ops->close(s, closed, data);
}
