/* The store's contract as tests, for any engine. A test file includes this, describes its engine in a
 * `struct conformance_engine` and calls conformance_run; a skipped engine says why.
 *
 * Nothing here looks behind store.h. Every test has an empty place of its own. Times are the store's: `pass`
 * makes them pass, by moving a manual clock or by waiting. */
#ifndef REEVE_TESTS_UNIT_STORE_CONFORMANCE_H
#define REEVE_TESTS_UNIT_STORE_CONFORMANCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/arena.h"
#include "base/core/mem.h"
#include "base/net/loop.h"
#include "base/store/store.h"

struct conformance_engine {
    const char *name;
    /* An empty place for one test; *ret_place goes to the functions below. NULL in *ret_skip, or why not. */
    void (*setup)(void **ret_place, const char **ret_skip);
    void (*teardown)(void *place); /* may be NULL */
    /* Opens the store at the place, running the loop if it must. */
    struct store *(*open)(void *place, struct loop *l);
    /* The clock for the loop. */
    const struct clock *(*clock)(void *place);
    int64_t (*now)(void *place);           /* the store's wall time, ms */
    void (*pass)(void *place, int64_t ms); /* at least `ms` pass on it */
    bool is_durable;                       /* what was committed is there after close and open */
    size_t changes_lost; /* after so many changes a watch from the start is resynced; 0: not tested */
};

struct conformance {
    const struct conformance_engine *engine;
    void *place;
    struct loop loop;
    struct store *s;
    bool is_skipped;
};

#define CONFORMANCE_WAIT_MS 20000

/* Runs the loop until *flag, or fails. */
static void conformance_until(struct conformance *c, const bool *flag)
{
    uint64_t end = uv_hrtime() + (uint64_t)CONFORMANCE_WAIT_MS * 1000000;

    while (!*flag) {
        assert_true(uv_hrtime() < end);
        (void)uv_run(&c->loop.uv, UV_RUN_NOWAIT);
        if (!*flag)
            (void)uv_run(&c->loop.uv, UV_RUN_NOWAIT);
    }
}

/* --- calls that wait for their answer; what they give lives in the arena of the test --- */

struct commit_wait {
    bool is_done;
    int code;
    size_t failed_op;
    uint64_t found_version;
    i128 found_counter;
    size_t n;
    struct store_op_result results[64]; /* of the first ones */
    char msg[ERR_MSG_MAX];
};

static void on_commit_wait(const struct store_commit_answer *a, void *data)
{
    struct commit_wait *w = data;

    assert_false(w->is_done);
    w->is_done = true;
    w->code = a->code;
    w->failed_op = a->failed_op;
    w->found_version = a->found_version;
    w->found_counter = a->found_counter;
    if (a->code == 0 && a->results != NULL) {
        for (size_t i = 0; i < w->n && i < ARRAY_LEN(w->results); i++)
            w->results[i] = a->results[i];
    }
    w->msg[0] = '\0';
    if (a->code != 0) {
        assert_non_null(a->err);
        assert_int_equal(a->err->code, a->code);
        assert_true(a->err->msg[0] != '\0');
        memcpy(w->msg, a->err->msg, sizeof(w->msg));
    }
}

static struct commit_wait commit_in(struct conformance *c, struct slice partition, const struct store_op *ops,
                                    size_t n)
{
    struct commit_wait w = {.n = n};

    store_commit(c->s, partition, ops, n, on_commit_wait, &w);
    assert_false(w.is_done); /* never before the call has returned */
    conformance_until(c, &w.is_done);
    return w;
}

static struct commit_wait commit_one(struct conformance *c, struct store_op op)
{
    return commit_in(c, SL("p"), &op, 1);
}

#define COMMIT(c, ...)                                                                                       \
    commit_in((c), SL("p"), (const struct store_op[]){__VA_ARGS__},                                          \
              sizeof((const struct store_op[]){__VA_ARGS__}) / sizeof(struct store_op))

struct records_wait {
    bool is_done;
    int code;
    size_t n;
    bool has_more;
    struct arena arena;
    struct store_record *r;
};

static void on_records_wait(int code, const struct store_record *r, size_t n, bool has_more,
                            const struct err *err, void *data)
{
    struct records_wait *w = data;

    assert_false(w->is_done);
    assert_true(code == 0 || (err != NULL && err->code == code && err->msg[0] != '\0'));
    w->is_done = true;
    w->code = code;
    w->n = n;
    w->has_more = has_more;
    w->r = arena_zalloc(&w->arena, n * sizeof(*r));
    for (size_t i = 0; i < n; i++) {
        w->r[i] = r[i];
        w->r[i].key = arena_slice(&w->arena, r[i].key);
        w->r[i].value = arena_slice(&w->arena, r[i].value);
    }
}

static void records_fini(struct records_wait *w)
{
    arena_fini(&w->arena);
}

static struct records_wait get_in(struct conformance *c, struct slice partition, const struct slice *keys,
                                  size_t n)
{
    struct records_wait w = {.arena = ARENA_INIT};

    store_get(c->s, partition, keys, n, on_records_wait, &w);
    assert_false(w.is_done);
    conformance_until(c, &w.is_done);
    return w;
}

static struct records_wait scan_in(struct conformance *c, struct slice prefix, struct slice after,
                                   size_t limit)
{
    struct records_wait w = {.arena = ARENA_INIT};

    store_scan(c->s, SL("p"), prefix, after, limit, on_records_wait, &w);
    assert_false(w.is_done);
    conformance_until(c, &w.is_done);
    return w;
}

/* The version of a record, 0 when absent; checks the value when it is there and `value` is not NULL. */
static uint64_t version_of(struct conformance *c, struct slice key, const char *value)
{
    struct records_wait w = get_in(c, SL("p"), &key, 1);
    uint64_t version;

    assert_int_equal(w.code, 0);
    assert_int_equal(w.n, 1);
    assert_true(slice_eq(w.r[0].key, key));
    version = w.r[0].version;
    if (version != 0 && value != NULL)
        assert_true(slice_eq_str(w.r[0].value, value));
    records_fini(&w);
    return version;
}

struct counters_wait {
    bool is_done;
    int code;
    size_t n;
    bool has_more;
    struct store_counter c[32];
    char keys[32][32];
};

static void on_counters_wait(int code, const struct store_counter *c, size_t n, bool has_more,
                             const struct err *err, void *data)
{
    struct counters_wait *w = data;

    assert_false(w->is_done);
    assert_true(code == 0 || (err != NULL && err->code == code));
    w->is_done = true;
    w->code = code;
    w->n = n;
    w->has_more = has_more;
    for (size_t i = 0; i < n && i < ARRAY_LEN(w->c); i++) {
        assert_true(c[i].key.n < sizeof(w->keys[i]));
        memcpy(w->keys[i], c[i].key.p, c[i].key.n);
        w->c[i] = c[i];
        w->c[i].key.p = w->keys[i];
    }
}

static void counters_in(struct conformance *c, struct slice prefix, struct slice after, size_t limit,
                        struct counters_wait *w)
{
    memset(w, 0, sizeof(*w));
    store_counters(c->s, SL("p"), prefix, after, limit, on_counters_wait, w);
    assert_false(w->is_done);
    conformance_until(c, &w->is_done);
}

static i128 counter_of(struct conformance *c, struct slice key)
{
    struct counters_wait w;

    counters_in(c, key, SLICE_EMPTY, 1, &w);
    assert_int_equal(w.code, 0);
    return w.n > 0 && slice_eq(slice_of(w.keys[0], w.c[0].key.n), key) ? w.c[0].value : 0;
}

struct log_wait {
    bool is_done;
    int code;
    size_t n;
    bool has_more;
    struct arena arena;
    struct store_entry *e;
};

static void on_log_wait(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                        void *data)
{
    struct log_wait *w = data;

    assert_false(w->is_done);
    assert_true(code == 0 || (err != NULL && err->code == code));
    w->is_done = true;
    w->code = code;
    w->n = n;
    w->has_more = has_more;
    w->e = arena_zalloc(&w->arena, n * sizeof(*e));
    for (size_t i = 0; i < n; i++) {
        w->e[i].number = e[i].number;
        w->e[i].value = arena_slice(&w->arena, e[i].value);
    }
}

static struct log_wait log_in(struct conformance *c, struct slice log, uint64_t after, size_t limit)
{
    struct log_wait w = {.arena = ARENA_INIT};

    store_log_read(c->s, SL("p"), log, after, limit, on_log_wait, &w);
    assert_false(w.is_done);
    conformance_until(c, &w.is_done);
    return w;
}

static void on_flag(void *data)
{
    *(bool *)data = true;
}

static void conformance_close(struct conformance *c)
{
    bool is_closed = false;

    store_close(c->s, on_flag, &is_closed);
    assert_false(is_closed);
    conformance_until(c, &is_closed);
    c->s = NULL;
}

static void conformance_reopen(struct conformance *c)
{
    conformance_close(c);
    c->s = c->engine->open(c->place, &c->loop);
    assert_non_null(c->s);
}

/* --- the tests --- */

static void test_put_get_delete(struct conformance *c)
{
    struct slice keys[] = {SL("b"), SL("none"), SL("a"), SL("b")};
    struct records_wait r;
    struct commit_wait w;
    uint64_t a, b;

    r = get_in(c, SL("p"), keys, 1); /* of a partition that nobody wrote to */
    assert_int_equal(r.code, 0);
    assert_int_equal(r.n, 1);
    assert_true(r.r[0].version == 0);
    records_fini(&r);

    w = COMMIT(c, store_put(SL("a"), SL("one")), store_put(SL("b"), SLICE_EMPTY));
    assert_int_equal(w.code, 0);
    a = w.results[0].version;
    b = w.results[1].version;
    assert_true(a > 0 && b > a);

    r = get_in(c, SL("p"), keys, 4);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.n, 4);
    assert_true(r.r[0].version == b && r.r[0].value.n == 0 && r.r[1].version == 0);
    assert_true(r.r[2].version == a && slice_eq_str(r.r[2].value, "one") && r.r[3].version == b);
    assert_true(slice_eq_str(r.r[1].key, "none") && r.r[2].expires_at_ms == 0);
    records_fini(&r);

    r = get_in(c, SL("other"), keys, 4); /* partitions share nothing */
    for (size_t i = 0; i < 4; i++)
        assert_true(r.r[i].version == 0);
    records_fini(&r);

    assert_int_equal(commit_one(c, store_delete(SL("a"))).code, 0);
    assert_int_equal(commit_one(c, store_delete(SL("a"))).code, 0); /* what is absent can be deleted */
    assert_true(version_of(c, SL("a"), NULL) == 0);
    assert_true(version_of(c, SL("b"), "") == b);
    w = commit_one(c, store_put(SL("a"), SL("again")));
    assert_true(w.results[0].version > b);
}

/* Two puts of one key in one commit: the last one counts, each has its version. */
static void test_put_twice(struct conformance *c)
{
    struct commit_wait w = COMMIT(c, store_put(SL("k"), SL("1")), store_put(SL("k"), SL("2")),
                                  store_put(SL("gone"), SL("x")), store_delete(SL("gone")));

    assert_int_equal(w.code, 0);
    assert_true(w.results[1].version > w.results[0].version);
    assert_true(version_of(c, SL("k"), "2") == w.results[1].version);
    assert_true(version_of(c, SL("gone"), NULL) == 0);
}

static void test_conflicts(struct conformance *c)
{
    struct commit_wait w = COMMIT(c, store_expect(SL("k"), 0), store_put(SL("k"), SL("1")));
    uint64_t v1, v2;

    assert_int_equal(w.code, 0);
    v1 = w.results[1].version;
    w = COMMIT(c, store_put(SL("other"), SL("x")), store_expect(SL("k"), 0), store_put(SL("k"), SL("2")));
    assert_int_equal(w.code, E_CONFLICT);
    assert_int_equal(w.failed_op, 1);
    assert_true(w.found_version == v1);
    assert_true(version_of(c, SL("other"), NULL) == 0); /* nothing of it happened */
    assert_true(version_of(c, SL("k"), "1") == v1);

    w = COMMIT(c, store_expect(SL("k"), v1), store_put(SL("k"), SL("2")));
    assert_int_equal(w.code, 0);
    v2 = w.results[1].version;
    assert_true(v2 > v1);
    w = COMMIT(c, store_expect(SL("k"), v1), store_delete(SL("k")));
    assert_int_equal(w.code, E_CONFLICT);
    assert_int_equal(w.failed_op, 0);
    assert_true(w.found_version == v2);
    w = commit_one(c, store_expect(SL("none"), 7));
    assert_int_equal(w.code, E_CONFLICT);
    assert_true(w.found_version == 0);
    assert_int_equal(commit_one(c, store_expect(SL("k"), v2)).code, 0);
    assert_int_equal(commit_one(c, store_expect(SL("none"), 0)).code, 0);
}

/* Expects see the state before the commit, wherever they stand in it. */
static void test_expect_sees_before(struct conformance *c)
{
    struct commit_wait w = COMMIT(c, store_put(SL("k"), SL("1")), store_expect(SL("k"), 0));
    uint64_t v = w.results[0].version;

    assert_int_equal(w.code, 0);
    w = COMMIT(c, store_delete(SL("k")), store_expect(SL("k"), v), store_put(SL("k"), SL("2")),
               store_expect(SL("k"), v));
    assert_int_equal(w.code, 0);
    assert_true(version_of(c, SL("k"), "2") == w.results[2].version);
}

static void test_versions_never_again(struct conformance *c)
{
    uint64_t last = 0;

    for (int i = 0; i < 20; i++) {
        struct commit_wait w = commit_one(c, store_put(SL("k"), SL("v")));

        assert_int_equal(w.code, 0);
        assert_true(w.results[0].version > last);
        last = w.results[0].version;
        assert_int_equal(commit_one(c, store_delete(SL("k"))).code, 0);
        if (c->engine->is_durable && i % 5 == 4)
            conformance_reopen(c);
    }
}

static void test_counters(struct conformance *c)
{
    struct commit_wait w = COMMIT(c, store_add(SL("n"), 5), store_add(SL("n"), -7), store_add(SL("m"), 1));

    assert_int_equal(w.code, 0); /* adds see earlier adds of the same commit */
    assert_true(w.results[0].counter == 5 && w.results[1].counter == -2 && w.results[2].counter == 1);
    w = commit_one(c, store_add(SL("n"), 0));
    assert_true(w.results[0].counter == -2);
    assert_true(counter_of(c, SL("n")) == -2 && counter_of(c, SL("m")) == 1 &&
                counter_of(c, SL("never")) == 0);
    assert_true(version_of(c, SL("n"), NULL) == 0); /* counters have a key space of their own */
}

static struct store_op add_bounded(struct slice key, i128 amount, i128 bound)
{
    struct store_op op = store_add(key, amount);

    op.has_bound = true;
    op.bound = bound;
    return op;
}

static void test_bounds(struct conformance *c)
{
    struct commit_wait w = commit_one(c, add_bounded(SL("n"), 10, 10));
    struct counters_wait none;

    assert_int_equal(w.code, 0);
    w = COMMIT(c, store_put(SL("k"), SL("x")), store_add(SL("m"), 3), store_append(SL("l"), SL("x")),
               add_bounded(SL("n"), 1, 10));
    assert_int_equal(w.code, E_BOUND);
    assert_int_equal(w.failed_op, 3);
    assert_true(w.found_counter == 10);
    assert_true(version_of(c, SL("k"), NULL) == 0); /* all or nothing */
    counters_in(c, SL("m"), SLICE_EMPTY, 10, &none);
    assert_int_equal(none.n, 0);
    assert_true(commit_one(c, store_append(SL("l"), SL("y"))).results[0].version == 1);

    w = commit_one(c, add_bounded(SL("n"), -1, -100)); /* going down is never refused */
    assert_int_equal(w.code, 0);
    assert_true(w.results[0].counter == 9);
    w = commit_one(c, add_bounded(SL("n"), 0, -100));
    assert_int_equal(w.code, 0);
    /* earlier adds of the same commit count */
    w = COMMIT(c, store_add(SL("n"), 5), add_bounded(SL("n"), 1, 14));
    assert_int_equal(w.code, E_BOUND);
    assert_int_equal(w.failed_op, 1);
    w = COMMIT(c, store_add(SL("n"), -5), add_bounded(SL("n"), 6, 10));
    assert_int_equal(w.code, 0);
    assert_true(w.results[1].counter == 10);
}

static void test_counters_wide(struct conformance *c)
{
    static const int shifts[] = {31, 32, 52, 53, 62, 63, 64, 95, 96, 126};
    struct commit_wait w;

    /* carries and borrows across every limb an engine may use */
    for (size_t i = 0; i < ARRAY_LEN(shifts); i++) {
        i128 v = (i128)1 << shifts[i];
        char name[16];
        struct slice key;

        (void)snprintf(name, sizeof(name), "w%d", shifts[i]);
        key = slice_str(name);
        w = COMMIT(c, store_add(key, v - 1), store_add(key, 1), store_add(key, -1), store_add(key, -v),
                   store_add(key, 2), store_add(key, -v));
        assert_int_equal(w.code, 0);
        assert_true(w.results[0].counter == v - 1 && w.results[1].counter == v &&
                    w.results[2].counter == v - 1);
        assert_true(w.results[3].counter == -1 && w.results[4].counter == 1 && w.results[5].counter == 1 - v);
        assert_true(counter_of(c, key) == 1 - v);
    }
    w = COMMIT(c, store_add(SL("max"), I128_MAX), store_add(SL("min"), I128_MIN));
    assert_int_equal(w.code, 0);
    assert_true(counter_of(c, SL("max")) == I128_MAX && counter_of(c, SL("min")) == I128_MIN);
    w = COMMIT(c, store_put(SL("k"), SL("x")), store_add(SL("max"), 1));
    assert_int_equal(w.code, E_OVERFLOW);
    assert_int_equal(w.failed_op, 1);
    w = commit_one(c, store_add(SL("min"), -1));
    assert_int_equal(w.code, E_OVERFLOW);
    assert_true(version_of(c, SL("k"), NULL) == 0);
    assert_true(counter_of(c, SL("max")) == I128_MAX && counter_of(c, SL("min")) == I128_MIN);
    w = COMMIT(c, store_add(SL("max"), I128_MIN), store_add(SL("min"), I128_MAX));
    assert_int_equal(w.code, 0);
    assert_true(w.results[0].counter == -1 && w.results[1].counter == -1);
}

static void test_bounds_wide(struct conformance *c)
{
    struct commit_wait w = commit_one(c, add_bounded(SL("n"), I128_MAX, I128_MAX));

    assert_int_equal(w.code, 0);
    w = commit_one(c, add_bounded(SL("m"), I128_MAX, I128_MAX - 1));
    assert_int_equal(w.code, E_BOUND);
    assert_true(w.found_counter == 0);
    w = commit_one(c, store_add(SL("low"), I128_MIN));
    assert_int_equal(w.code, 0);
    w = commit_one(c, add_bounded(SL("low"), 1, I128_MIN));
    assert_int_equal(w.code, E_BOUND);
    assert_true(w.found_counter == I128_MIN);
    w = commit_one(c, add_bounded(SL("low"), 1, I128_MIN + 1));
    assert_int_equal(w.code, 0);
    w = commit_one(c, add_bounded(SL("neg"), 1, -1)); /* a bound below zero */
    assert_int_equal(w.code, E_BOUND);
    w = commit_one(c, add_bounded(SL("two53"), ((i128)1 << 53) + 1, (i128)1 << 53));
    assert_int_equal(w.code, E_BOUND);
    w = commit_one(c, add_bounded(SL("two53"), (i128)1 << 53, (i128)1 << 53));
    assert_int_equal(w.code, 0);
}

static void test_counters_scan(struct conformance *c)
{
    struct counters_wait w;

    assert_int_equal(COMMIT(c, store_add(SL("b/2"), 2), store_add(SL("a"), 1), store_add(SL("b/1"), -1),
                            store_add(SL("b/10"), 10), store_add(SL("c"), 3))
                         .code,
                     0);
    counters_in(c, SL("b/"), SLICE_EMPTY, 10, &w);
    assert_int_equal(w.code, 0);
    assert_int_equal(w.n, 3);
    assert_false(w.has_more);
    assert_true(slice_eq_str(slice_of(w.keys[0], w.c[0].key.n), "b/1") && w.c[0].value == -1);
    assert_true(slice_eq_str(slice_of(w.keys[1], w.c[1].key.n), "b/10") && w.c[1].value == 10);
    assert_true(slice_eq_str(slice_of(w.keys[2], w.c[2].key.n), "b/2") && w.c[2].value == 2);
    counters_in(c, SLICE_EMPTY, SL("a"), 2, &w);
    assert_int_equal(w.n, 2);
    assert_true(w.has_more);
    assert_true(slice_eq_str(slice_of(w.keys[0], w.c[0].key.n), "b/1"));
    counters_in(c, SL("zz"), SLICE_EMPTY, 2, &w);
    assert_int_equal(w.n, 0);
    assert_false(w.has_more);
}

static void test_expiry(struct conformance *c)
{
    int64_t now = c->engine->now(c->place);
    struct store_op lease = store_put(SL("lease"), SL("mine"));
    struct store_op later = store_put(SL("later"), SL("x"));
    struct records_wait r;
    struct commit_wait w;
    uint64_t v;

    lease.expires_at_ms = now + 1500;
    later.expires_at_ms = now + 3600 * 1000;
    w = COMMIT(c, lease, later, store_put(SL("never"), SL("x")));
    assert_int_equal(w.code, 0);
    v = w.results[0].version;
    assert_true(version_of(c, SL("lease"), "mine") == v);
    assert_int_equal(COMMIT(c, store_expect(SL("lease"), 0), store_put(SL("x"), SL("x"))).code, E_CONFLICT);
    r = scan_in(c, SLICE_EMPTY, SLICE_EMPTY, 10);
    assert_int_equal(r.n, 3);
    assert_true(r.r[0].expires_at_ms == later.expires_at_ms);
    assert_true(r.r[1].expires_at_ms == lease.expires_at_ms && r.r[2].expires_at_ms == 0);
    records_fini(&r);

    c->engine->pass(c->place, 1600);
    assert_true(version_of(c, SL("lease"), NULL) == 0);
    r = scan_in(c, SLICE_EMPTY, SLICE_EMPTY, 10);
    assert_int_equal(r.n, 2);
    records_fini(&r);
    w = commit_one(c, store_expect(SL("lease"), v));
    assert_int_equal(w.code, E_CONFLICT);
    assert_true(w.found_version == 0);
    w = COMMIT(c, store_expect(SL("lease"), 0), store_put(SL("lease"), SL("yours")));
    assert_int_equal(w.code, 0);
    assert_true(w.results[1].version > v);
    c->engine->pass(c->place, 10);
    assert_true(version_of(c, SL("lease"), "yours") == w.results[1].version); /* the old expiry is gone */
    /* Many expired ones: whatever sweeps them leaves the others alone. */
    for (int i = 0; i < 40; i++) {
        char name[16];
        struct store_op op;

        (void)snprintf(name, sizeof(name), "e%02d", i);
        op = store_put(slice_str(name), SL("x"));
        op.expires_at_ms = c->engine->now(c->place) + 50;
        assert_int_equal(commit_one(c, op).code, 0);
    }
    c->engine->pass(c->place, 100);
    for (int i = 0; i < 15; i++)
        assert_int_equal(commit_one(c, store_add(SL("n"), 1)).code, 0);
    r = scan_in(c, SLICE_EMPTY, SLICE_EMPTY, 10);
    assert_int_equal(r.n, 3);
    records_fini(&r);
}

static void test_scan(struct conformance *c)
{
    static const char *const keys[] = {"a",          "b",  "b\x01", "b/",        "b/1",   "b/10",
                                       "b/2",        "b0", "b\x7f", "b\xc3\xa9", "b\xff", "b\xff\xff",
                                       "b\xff\xffx", "c",  "\xff",  "\xff\xff"};
    struct store_op ops[ARRAY_LEN(keys)];
    struct records_wait r;
    struct slice after = SLICE_EMPTY;
    char last[64];
    size_t seen = 0;

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) /* in an order that is not the keys' */
        ops[i] =
            store_put(slice_str(keys[(i * 7) % ARRAY_LEN(keys)]), slice_str(keys[(i * 7) % ARRAY_LEN(keys)]));
    assert_int_equal(commit_in(c, SL("p"), ops, ARRAY_LEN(keys)).code, 0);
    assert_int_equal(commit_in(c, SL("p2"), ops, ARRAY_LEN(keys)).code, 0);

    r = scan_in(c, SLICE_EMPTY, SLICE_EMPTY, 100);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.n, ARRAY_LEN(keys));
    assert_false(r.has_more);
    for (size_t i = 0; i < r.n; i++) {
        assert_true(i == 0 || slice_cmp(r.r[i - 1].key, r.r[i].key) < 0);
        assert_true(slice_eq(r.r[i].key, r.r[i].value) && r.r[i].version > 0);
    }
    records_fini(&r);

    do { /* page by page the same */
        r = scan_in(c, SL("b"), after, 3);
        assert_int_equal(r.code, 0);
        for (size_t i = 0; i < r.n; i++) {
            assert_true(slice_starts(r.r[i].key, SL("b")));
            assert_true(slice_cmp(after, r.r[i].key) < 0);
            memcpy(last, r.r[i].key.p, r.r[i].key.n);
            after = slice_of(last, r.r[i].key.n);
        }
        seen += r.n;
        assert_int_equal(r.has_more, seen < 12);
        records_fini(&r);
    } while (seen < 12);

    r = scan_in(c, SL("b\xff"), SLICE_EMPTY, 100);
    assert_int_equal(r.n, 3);
    records_fini(&r);
    r = scan_in(c, SL("\xff"), SLICE_EMPTY, 100);
    assert_int_equal(r.n, 2);
    records_fini(&r);
    r = scan_in(c, SL("b/"), SL("b/10"), 100); /* `after` need not exist nor have the prefix */
    assert_int_equal(r.n, 1);
    records_fini(&r);
    r = scan_in(c, SL("b/"), SL("a"), 100);
    assert_int_equal(r.n, 4);
    records_fini(&r);
    r = scan_in(c, SL("b/"), SL("c"), 100);
    assert_int_equal(r.n, 0);
    assert_false(r.has_more);
    records_fini(&r);
    r = scan_in(c, SL("b/"), SL("b/11"), 100);
    assert_int_equal(r.n, 1);
    records_fini(&r);
    assert_int_equal(commit_one(c, store_delete(SL("b/1"))).code, 0);
    r = scan_in(c, SL("b/"), SLICE_EMPTY, 100);
    assert_int_equal(r.n, 3);
    records_fini(&r);
}

static void test_logs(struct conformance *c)
{
    struct commit_wait w;
    struct log_wait l;
    char text[16];

    l = log_in(c, SL("l"), 0, 10);
    assert_int_equal(l.code, 0);
    assert_int_equal(l.n, 0);
    arena_fini(&l.arena);
    for (uint64_t i = 1; i <= 30; i += 3) {
        w = COMMIT(c, store_append(SL("l"), SL("x")), store_append(SL("l"), SLICE_EMPTY),
                   store_append(SL("l"), SL("z")), store_append(SL("other"), SL("o")));
        assert_int_equal(w.code, 0);
        assert_true(w.results[0].version == i && w.results[1].version == i + 1 &&
                    w.results[2].version == i + 2);
        assert_true(w.results[3].version == i / 3 + 1);
        /* One that fails leaves no gap. */
        w = COMMIT(c, store_append(SL("l"), SL("lost")), store_expect(SL("none"), 1));
        assert_int_equal(w.code, E_CONFLICT);
        if (c->engine->is_durable && i == 13)
            conformance_reopen(c);
    }
    l = log_in(c, SL("l"), 0, 1000);
    assert_int_equal(l.n, 30);
    assert_false(l.has_more);
    for (size_t i = 0; i < l.n; i++) {
        assert_true(l.e[i].number == i + 1);
        (void)snprintf(text, sizeof(text), "%s", i % 3 == 0 ? "x" : i % 3 == 1 ? "" : "z");
        assert_true(slice_eq_str(l.e[i].value, text));
    }
    arena_fini(&l.arena);
    l = log_in(c, SL("l"), 10, 5);
    assert_int_equal(l.n, 5);
    assert_true(l.has_more && l.e[0].number == 11 && l.e[4].number == 15);
    arena_fini(&l.arena);
    l = log_in(c, SL("l"), 25, 5);
    assert_int_equal(l.n, 5);
    assert_false(l.has_more);
    arena_fini(&l.arena);
    l = log_in(c, SL("l"), 30, 5);
    assert_int_equal(l.n, 0);
    arena_fini(&l.arena);
    l = log_in(c, SL("l"), UINT64_MAX, 5);
    assert_int_equal(l.code, 0);
    assert_int_equal(l.n, 0);
    arena_fini(&l.arena);
}

static void test_big_values(struct conformance *c)
{
    size_t n = STORE_VALUE_MAX;
    char *big = mem_alloc(n), key[STORE_KEY_MAX];
    struct slice k = slice_of(key, sizeof(key));
    struct records_wait r;
    struct commit_wait w;
    struct log_wait l;

    for (size_t i = 0; i < n; i++)
        big[i] = (char)(i * 31 + i / 256); /* every byte value, NUL too */
    memset(key, 0xfe, sizeof(key));
    w = COMMIT(c, store_put(k, slice_of(big, n)), store_append(SL("l"), slice_of(big, n)),
               store_append(SL("l"), slice_of(big, n)), store_add(k, 1));
    assert_int_equal(w.code, 0);
    r = get_in(c, SL("p"), &k, 1);
    assert_int_equal(r.code, 0);
    assert_true(r.r[0].version == w.results[0].version && slice_eq(r.r[0].value, slice_of(big, n)));
    records_fini(&r);
    r = scan_in(c, slice_of(key, 10), SLICE_EMPTY, 10);
    assert_int_equal(r.n, 1);
    assert_true(slice_eq(r.r[0].value, slice_of(big, n)) && slice_eq(r.r[0].key, k));
    records_fini(&r);
    l = log_in(c, SL("l"), 0, 10);
    assert_int_equal(l.n, 2);
    assert_true(slice_eq(l.e[1].value, slice_of(big, n)));
    arena_fini(&l.arena);
    mem_free(big);
}

/* An answer that would be too large comes in parts; a get, which has no parts, is refused. */
static void test_big_answers(struct conformance *c)
{
    size_t n = STORE_VALUE_MAX, total = 0, seen = 0;
    char *big = mem_zalloc(n), names[40][8], last[8];
    struct slice keys[40], after = SLICE_EMPTY;
    struct records_wait r;
    bool has_more;

    for (size_t i = 0; i < 40; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "k%02zu", i);
        keys[i] = slice_str(names[i]);
        assert_int_equal(commit_one(c, store_put(keys[i], slice_of(big, n))).code, 0);
    }
    do {
        r = scan_in(c, SLICE_EMPTY, after, 1000);
        assert_int_equal(r.code, 0);
        assert_true(r.n > 0 && r.n < 40);
        total = r.n;
        seen += r.n;
        memcpy(last, r.r[total - 1].key.p, r.r[total - 1].key.n);
        after = slice_of(last, r.r[total - 1].key.n);
        has_more = r.has_more;
        records_fini(&r);
    } while (has_more);
    assert_int_equal(seen, 40);
    r = get_in(c, SL("p"), keys, 40);
    assert_int_equal(r.code, E_TOO_LARGE);
    records_fini(&r);
    r = get_in(c, SL("p"), keys, 20);
    assert_int_equal(r.code, 0);
    records_fini(&r);
    mem_free(big);
}

static void refused(struct conformance *c, struct slice partition, const struct store_op *ops, size_t n)
{
    assert_int_equal(commit_in(c, partition, ops, n).code, E_INVALID);
}

static void test_limits(struct conformance *c)
{
    static struct store_op ops[STORE_OPS_MAX + 1];
    struct store_op op;
    char *big = mem_zalloc(STORE_VALUE_MAX + 1), key[STORE_KEY_MAX + 1];
    struct slice keys[2] = {SL("ok"), SLICE_EMPTY};
    struct records_wait r;
    struct counters_wait cw;
    struct log_wait l;

    memset(key, 'k', sizeof(key));
    op = store_put(slice_of(key, sizeof(key)), SL("x"));
    refused(c, SL("p"), &op, 1);
    op = store_put(SLICE_EMPTY, SL("x"));
    refused(c, SL("p"), &op, 1);
    op = store_add(slice_of("a\0b", 3), 1);
    refused(c, SL("p"), &op, 1);
    op = store_put(SL("k"), slice_of(big, STORE_VALUE_MAX + 1));
    refused(c, SL("p"), &op, 1);
    op = store_append(SL("l"), slice_of(big, STORE_VALUE_MAX + 1));
    refused(c, SL("p"), &op, 1);
    op = store_put(SL("k"), SL("x"));
    op.expires_at_ms = -1;
    refused(c, SL("p"), &op, 1);
    op = store_put(SL("k"), SL("x"));
    refused(c, SLICE_EMPTY, &op, 1);
    refused(c, slice_of(key, sizeof(key)), &op, 1);
    for (size_t i = 0; i < ARRAY_LEN(ops); i++)
        ops[i] = store_put(SL("k"), SL("x"));
    refused(c, SL("p"), ops, STORE_OPS_MAX + 1);
    for (size_t i = 0; i < 40; i++)
        ops[i] = store_put(SL("k"), slice_of(big, STORE_VALUE_MAX));
    refused(c, SL("p"), ops, 40); /* more than STORE_BYTES_MAX */
    assert_true(version_of(c, SL("k"), NULL) == 0);

    r = get_in(c, SL("p"), keys, 2);
    assert_int_equal(r.code, E_INVALID);
    records_fini(&r);
    r = get_in(c, SL("p"), keys, 0); /* nothing asked */
    assert_int_equal(r.code, 0);
    records_fini(&r);
    assert_int_equal(commit_in(c, SL("p"), NULL, 0).code, 0);
    r = scan_in(c, SLICE_EMPTY, SLICE_EMPTY, 0);
    assert_int_equal(r.code, E_INVALID);
    records_fini(&r);
    r = scan_in(c, SLICE_EMPTY, slice_of(key, sizeof(key)), 1);
    assert_int_equal(r.code, E_INVALID);
    records_fini(&r);
    counters_in(c, SLICE_EMPTY, SLICE_EMPTY, STORE_SCAN_MAX + 1, &cw);
    assert_int_equal(cw.code, E_INVALID);
    l = log_in(c, SLICE_EMPTY, 0, 1);
    assert_int_equal(l.code, E_INVALID);
    arena_fini(&l.arena);

    for (size_t i = 0; i < STORE_OPS_MAX; i++)
        ops[i] = i % 2 == 0 ? store_add(SL("n"), 1) : store_append(SL("l"), SL("x"));
    assert_int_equal(commit_in(c, SL("p"), ops, STORE_OPS_MAX).code, 0); /* the largest that is allowed */
    assert_true(counter_of(c, SL("n")) == STORE_OPS_MAX / 2);
    l = log_in(c, SL("l"), STORE_OPS_MAX / 2 - 1, 10);
    assert_int_equal(l.n, 1);
    arena_fini(&l.arena);
    op = store_put(slice_of(key, STORE_KEY_MAX), SL("x"));
    assert_int_equal(commit_in(c, slice_of(key, STORE_KEY_MAX), &op, 1).code, 0);
    mem_free(big);
}

/* What the caller passed may be overwritten as soon as the call has returned. */
static void test_arguments_are_copied(struct conformance *c)
{
    char key[] = "key", value[] = "value", partition[] = "p";
    struct store_op op = store_put(slice_str(key), slice_str(value));
    struct commit_wait w = {.n = 1};
    struct records_wait r = {.arena = ARENA_INIT};
    struct slice k = slice_str(key);

    store_commit(c->s, slice_str(partition), &op, 1, on_commit_wait, &w);
    memset(key, '#', 3);
    memset(value, '#', 5);
    memset(&op, 0, sizeof(op));
    conformance_until(c, &w.is_done);
    assert_true(version_of(c, SL("key"), "value") == w.results[0].version);
    memcpy(key, "key", 3);
    store_get(c->s, slice_str(partition), &k, 1, on_records_wait, &r);
    memset(key, '#', 3);
    memset(partition, '#', 1);
    conformance_until(c, &r.is_done);
    assert_true(r.r[0].version == w.results[0].version);
    records_fini(&r);
}

enum { RACE_COMMITS = 300, RACE_ROUNDS = 5 };

struct race {
    size_t answered, won, lost;
    uint64_t version;
    bool is_done;
};

static void on_race(const struct store_commit_answer *a, void *data)
{
    struct race *r = data;

    r->answered++;
    r->is_done = r->answered == RACE_COMMITS;
    if (a->code == 0) {
        r->won++;
        r->version = a->results[1].version;
    } else {
        assert_int_equal(a->code, E_CONFLICT);
        assert_int_equal(a->failed_op, 0);
        r->lost++;
    }
}

/* Many commits in flight that expect the same version: exactly one wins, each round. */
static void test_one_winner(struct conformance *c)
{
    uint64_t version = 0;

    for (int round = 0; round < RACE_ROUNDS; round++) {
        struct race r = {0};
        struct store_op ops[] = {store_expect(SL("k"), version), store_put(SL("k"), SL("x")),
                                 store_add(SL("wins"), 1)};

        for (int i = 0; i < RACE_COMMITS; i++)
            store_commit(c->s, SL("p"), ops, ARRAY_LEN(ops), on_race, &r);
        conformance_until(c, &r.is_done);
        assert_int_equal(r.won, 1);
        assert_int_equal(r.lost, RACE_COMMITS - 1);
        assert_true(r.version > version);
        version = r.version;
        assert_true(version_of(c, SL("k"), "x") == version);
    }
    assert_true(counter_of(c, SL("wins")) == RACE_ROUNDS);
}

struct order {
    size_t answered, bounds;
    i128 last;
    bool is_done;
};

static void on_order(const struct store_commit_answer *a, void *data)
{
    struct order *o = data;

    o->answered++;
    o->is_done = o->answered == RACE_COMMITS;
    if (a->code == 0) {
        assert_true(a->results[0].counter == o->last + 1); /* answers come in the order of the commits */
        o->last++;
    } else {
        assert_int_equal(a->code, E_BOUND);
        assert_true(a->found_counter == 200);
        o->bounds++;
    }
}

/* A hard limit holds whatever is in flight: of 300 holds of 1 against 200, exactly 200 pass. */
static void test_bound_in_flight(struct conformance *c)
{
    struct store_op op = add_bounded(SL("n"), 1, 200);
    struct order o = {0};

    for (int i = 0; i < RACE_COMMITS; i++)
        store_commit(c->s, SL("p"), &op, 1, on_order, &o);
    conformance_until(c, &o.is_done);
    assert_true(o.last == 200 && o.bounds == RACE_COMMITS - 200);
    assert_true(counter_of(c, SL("n")) == 200);
}

struct read_after {
    struct conformance *c;
    uint64_t version;
    bool is_done;
};

static void on_read_after(int code, const struct store_record *r, size_t n, bool has_more,
                          const struct err *err, void *data)
{
    struct read_after *ra = data;

    (void)has_more;
    (void)err;
    assert_int_equal(code, 0);
    assert_int_equal(n, 1);
    assert_true(r[0].version >= ra->version);
    ra->is_done = true;
}

static void on_commit_then_read(const struct store_commit_answer *a, void *data)
{
    struct read_after *ra = data;
    struct slice key = SL("k");

    assert_int_equal(a->code, 0);
    ra->version = a->results[0].version;
    store_get(ra->c->s, SL("p"), &key, 1, on_read_after, ra);
}

/* A read that is asked after a commit's answer sees that commit. */
static void test_reads_see_commits(struct conformance *c)
{
    struct read_after ra[50];
    struct store_op op = store_put(SL("k"), SL("x"));

    for (size_t i = 0; i < ARRAY_LEN(ra); i++) {
        ra[i] = (struct read_after){.c = c};
        store_commit(c->s, SL("p"), &op, 1, on_commit_then_read, &ra[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(ra); i++)
        conformance_until(c, &ra[i].is_done);
}

/* --- watches --- */

struct watching {
    struct store_watch *w;
    size_t n, resyncs;
    uint64_t last;
    uint64_t versions[64];
    char keys[64][16], values[64][16];
    bool is_delete[64];
    size_t want;
    bool is_enough; /* n reached want */
    bool is_resynced;
    bool ends_itself;
};

static void on_watching(const struct store_change *ch, size_t n, bool is_resync, void *data)
{
    struct watching *x = data;

    assert_non_null(x->w); /* never before store_watch has returned, never after store_unwatch */
    if (is_resync) {
        assert_int_equal(n, 0);
        x->resyncs++;
        x->is_resynced = true;
        return;
    }
    assert_true(n > 0);
    for (size_t i = 0; i < n; i++) {
        size_t at = x->n % ARRAY_LEN(x->versions);

        assert_true(ch[i].version > x->last);
        x->last = ch[i].version;
        x->versions[at] = ch[i].version;
        (void)snprintf(x->keys[at], sizeof(x->keys[at]), "%.*s", SL_ARG(ch[i].key));
        (void)snprintf(x->values[at], sizeof(x->values[at]), "%.*s", SL_ARG(ch[i].value));
        x->is_delete[at] = ch[i].is_delete;
        x->n++;
    }
    x->is_enough = x->n >= x->want;
    if (x->ends_itself) {
        store_unwatch(x->w);
        x->w = NULL;
    }
}

static void watch_start(struct conformance *c, struct watching *x, struct slice prefix, uint64_t after,
                        size_t want)
{
    memset(x, 0, sizeof(*x));
    x->want = want;
    x->w = store_watch(c->s, SL("p"), prefix, after, on_watching, x);
    assert_non_null(x->w);
    assert_true(x->n == 0 && x->resyncs == 0);
}

static void test_watch(struct conformance *c)
{
    struct watching all, some, later;
    struct commit_wait w;
    uint64_t first;

    watch_start(c, &all, SLICE_EMPTY, 0, 6);
    watch_start(c, &some, SL("a/"), 0, 3);
    w = COMMIT(c, store_put(SL("a/1"), SL("one")), store_put(SL("b/1"), SL("x")));
    assert_int_equal(w.code, 0);
    first = w.results[0].version;
    /* What fails, and what is no record, is no change. */
    assert_int_equal(COMMIT(c, store_put(SL("a/9"), SL("x")), store_expect(SL("a/1"), 0)).code, E_CONFLICT);
    assert_int_equal(COMMIT(c, store_add(SL("a/n"), 1), store_append(SL("a/l"), SL("x"))).code, 0);
    assert_int_equal(commit_in(c, SL("q"), (struct store_op[]){store_put(SL("a/1"), SL("q"))}, 1).code, 0);
    assert_int_equal(COMMIT(c, store_put(SL("a/1"), SL("two")), store_put(SL("a/2"), SL("x")),
                            store_put(SL("b/2"), SLICE_EMPTY))
                         .code,
                     0);
    assert_int_equal(commit_one(c, store_delete(SL("b/2"))).code, 0);
    conformance_until(c, &all.is_enough);
    conformance_until(c, &some.is_enough);
    assert_int_equal(all.n, 6);
    assert_int_equal(all.resyncs, 0);
    assert_string_equal(all.keys[0], "a/1");
    assert_string_equal(all.values[0], "one");
    assert_true(all.versions[0] == first);
    assert_string_equal(all.keys[2], "a/1");
    assert_string_equal(all.values[2], "two");
    assert_string_equal(all.keys[4], "b/2");
    assert_string_equal(all.keys[5], "b/2");
    assert_true(!all.is_delete[4] && all.is_delete[5]);
    assert_int_equal(some.n, 3);
    assert_string_equal(some.keys[1], "a/1");
    assert_string_equal(some.keys[2], "a/2");

    watch_start(c, &later, SLICE_EMPTY, all.versions[1], 4); /* goes on after a version it knows */
    conformance_until(c, &later.is_enough);
    assert_int_equal(later.resyncs, 0);
    assert_int_equal(later.n, 4);
    assert_true(later.versions[0] == all.versions[2] && later.last == all.last);
    store_unwatch(all.w);
    all.w = NULL;
    later.want = 5;
    later.is_enough = false;
    assert_int_equal(commit_one(c, store_put(SL("c"), SL("x"))).code, 0);
    conformance_until(c, &later.is_enough);
    store_unwatch(later.w);
    store_unwatch(some.w);
}

/* A watch may end itself in its callback, and may end before it began. */
static void test_watch_ends(struct conformance *c)
{
    struct watching self, never, other;

    watch_start(c, &self, SLICE_EMPTY, 0, 1);
    watch_start(c, &never, SLICE_EMPTY, 0, 1);
    watch_start(c, &other, SLICE_EMPTY, 0, 2);
    self.ends_itself = true;
    store_unwatch(never.w);
    never.w = NULL;
    assert_int_equal(commit_one(c, store_put(SL("a"), SL("1"))).code, 0);
    conformance_until(c, &self.is_enough);
    assert_int_equal(commit_one(c, store_put(SL("a"), SL("2"))).code, 0);
    conformance_until(c, &other.is_enough);
    assert_int_equal(self.n, 1);
    assert_int_equal(never.n, 0);
    assert_int_equal(other.n, 2);
    /* `other` is left open: closing the store ends it. */
}

static void on_count(const struct store_commit_answer *a, void *data)
{
    struct race *r = data;

    assert_int_equal(a->code, 0);
    r->answered++;
    r->is_done = r->answered == r->won; /* `won`: how many were sent */
}

/* Makes n changes of one record. */
static void change_many(struct conformance *c, size_t n)
{
    struct store_op *ops = mem_alloc(1000 * sizeof(*ops));
    struct race r = {0};

    for (size_t i = 0; i < 1000; i++)
        ops[i] = store_put(SL("busy"), SL("x"));
    for (size_t i = 0; i < n; i += 1000)
        r.won++;
    for (size_t i = 0; i < n; i += 1000)
        store_commit(c->s, SL("p"), ops, 1000, on_count, &r);
    conformance_until(c, &r.is_done);
    mem_free(ops);
}

static void test_watch_resync(struct conformance *c)
{
    struct watching x, live;
    struct commit_wait w;
    uint64_t before;

    w = commit_one(c, store_put(SL("a"), SL("1")));
    assert_int_equal(w.code, 0);
    before = w.results[0].version;
    watch_start(c, &live, SL("a"), before, 1);
    change_many(c, c->engine->changes_lost + 1000);
    watch_start(c, &x, SL("a"), before, 1);
    conformance_until(c, &x.is_resynced);
    assert_int_equal(x.n, 0);
    assert_int_equal(commit_one(c, store_put(SL("a"), SL("2"))).code, 0);
    conformance_until(c, &x.is_enough); /* and goes on from there */
    conformance_until(c, &live.is_enough);
    assert_int_equal(x.resyncs, 1);
    assert_string_equal(x.values[0], "2");
    assert_string_equal(live.values[0], "2");
    store_unwatch(x.w);
    store_unwatch(live.w);
}

/* After opening again a watch either goes on without loss or says resync. */
static void test_watch_reopen(struct conformance *c)
{
    struct watching x;
    struct commit_wait w;
    uint64_t v1, v2;

    w = commit_one(c, store_put(SL("a"), SL("1")));
    v1 = w.results[0].version;
    w = commit_one(c, store_put(SL("a"), SL("2")));
    v2 = w.results[0].version;
    assert_true(v2 > v1);
    conformance_reopen(c);
    watch_start(c, &x, SLICE_EMPTY, v1, 2);
    assert_int_equal(commit_one(c, store_put(SL("a"), SL("3"))).code, 0);
    while (!x.is_resynced && !x.is_enough)
        (void)uv_run(&c->loop.uv, UV_RUN_ONCE);
    if (x.is_resynced) {
        x.want = 1;
        x.is_enough = x.n >= 1;
        conformance_until(c, &x.is_enough);
    }
    assert_string_equal(x.values[x.n - 1], "3");
    store_unwatch(x.w);
}

static void test_durable(struct conformance *c)
{
    struct commit_wait w;
    uint64_t v;

    w = COMMIT(c, store_put(SL("k"), SL("kept")), store_add(SL("n"), I128_MIN),
               store_append(SL("l"), SL("x")));
    assert_int_equal(w.code, 0);
    v = w.results[0].version;
    conformance_reopen(c);
    assert_true(version_of(c, SL("k"), "kept") == v && counter_of(c, SL("n")) == I128_MIN);
    w = COMMIT(c, store_expect(SL("k"), v), store_put(SL("k"), SL("more")), store_append(SL("l"), SL("y")));
    assert_int_equal(w.code, 0);
    assert_true(w.results[1].version > v && w.results[2].version == 2);
}

/* Closing waits for what is in flight and answers it. */
static void test_close_answers(struct conformance *c)
{
    struct store_op op = store_add(SL("n"), 1);
    struct race r = {.won = 100};

    for (int i = 0; i < 100; i++)
        store_commit(c->s, SL("p"), &op, 1, on_count, &r);
    conformance_close(c);
    assert_int_equal(r.answered, 100);
    c->s = c->engine->open(c->place, &c->loop);
    assert_non_null(c->s);
    if (c->engine->is_durable)
        assert_true(counter_of(c, SL("n")) == 100);
}

/* --- a random history against a model --- */

enum { MODEL_KEYS = 12, MODEL_STEPS = 1500 };

struct model {
    uint64_t version[MODEL_KEYS];
    uint64_t value[MODEL_KEYS];
    i128 counter[MODEL_KEYS];
    uint64_t log[MODEL_KEYS];
    uint64_t last;
};

static uint64_t model_random(struct rnd_seeded *r, uint64_t below)
{
    return rnd_below(&r->rnd, below);
}

/* One op with its effect on `m`; returns the code that the model foretells for it. */
static int model_step(struct rnd_seeded *r, const struct model *before, struct model *m, struct store_op *op,
                      struct slice key, size_t k, uint64_t *value)
{
    i128 amount = (i128)model_random(r, 1000) - 400, sum;

    switch (model_random(r, 6)) {
    case 0:
        *op = store_expect(key, model_random(r, 4) == 0 ? before->version[k] + 1 : before->version[k]);
        return op->version == before->version[k] ? 0 : E_CONFLICT;
    case 1:
    case 2:
        *value = model_random(r, UINT64_MAX);
        *op = store_put(key, slice_of(value, sizeof(*value)));
        m->value[k] = *value;
        m->version[k] = ++m->last; /* not the number, but that it is there */
        return 0;
    case 3:
        *op = store_delete(key);
        m->version[k] = 0;
        return 0;
    case 4:
        if (model_random(r, 20) == 0)
            amount = model_random(r, 2) == 0 ? I128_MAX - 5 : I128_MIN + 5;
        *op = store_add(key, amount);
        if (i128_add(m->counter[k], amount, &sum) != 0)
            return E_OVERFLOW;
        if (model_random(r, 2) == 0) {
            op->has_bound = true;
            op->bound = 3000;
            if (amount > 0 && sum > op->bound)
                return E_BOUND;
        }
        m->counter[k] = sum;
        return 0;
    default:
        *op = store_append(key, SL("entry"));
        m->log[k]++;
        return 0;
    }
}

static void model_compare(struct conformance *c, const struct model *m, char names[][8])
{
    for (size_t k = 0; k < MODEL_KEYS; k++) {
        struct slice key = slice_str(names[k]);
        struct records_wait r = get_in(c, SL("p"), &key, 1);
        struct log_wait l = log_in(c, key, m->log[k] == 0 ? 0 : m->log[k] - 1, 10);

        assert_true(r.r[0].version == m->version[k]);
        if (m->version[k] != 0)
            assert_memory_equal(r.r[0].value.p, &m->value[k], sizeof(m->value[k]));
        assert_true(counter_of(c, key) == m->counter[k]);
        assert_int_equal(l.n, m->log[k] == 0 ? 0 : 1);
        records_fini(&r);
        arena_fini(&l.arena);
    }
}

static void test_model(struct conformance *c)
{
    struct model m = {0};
    struct rnd_seeded rnd;
    uint64_t seed = (uint64_t)uv_hrtime(), values[8];
    char names[MODEL_KEYS][8];
    int commits_good = 0;

    print_message("seed %llu\n", (unsigned long long)seed);
    rnd_seeded_init(&rnd, seed);
    for (size_t k = 0; k < MODEL_KEYS; k++)
        (void)snprintf(names[k], sizeof(names[k]), "key%zu", k);
    for (int step = 0; step < MODEL_STEPS; step++) {
        struct model next = m;
        struct store_op ops[8];
        size_t n = 1 + model_random(&rnd, 8), key_of[8], failed = 0;
        struct commit_wait w;
        int code = 0;

        for (size_t i = 0; i < n; i++) {
            int rc;

            key_of[i] = model_random(&rnd, MODEL_KEYS);
            rc = model_step(&rnd, &m, &next, &ops[i], slice_str(names[key_of[i]]), key_of[i], &values[i]);
            if (rc != 0 && code == 0) {
                code = rc;
                failed = i;
            }
        }
        w = commit_in(c, SL("p"), ops, n);
        assert_int_equal(w.code, code);
        if (code != 0) {
            assert_int_equal(w.failed_op, failed);
            continue;
        }
        commits_good++;
        next.last = m.last;
        for (size_t i = 0; i < n; i++) {
            if (ops[i].kind == STORE_PUT) {
                assert_true(w.results[i].version > next.last);
                next.last = w.results[i].version;
                if (next.version[key_of[i]] != 0)
                    next.version[key_of[i]] = next.last;
            }
        }
        m = next;
        if (step % 250 == 249) {
            if (c->engine->is_durable)
                conformance_reopen(c);
            model_compare(c, &m, names);
        }
    }
    assert_true(commits_good > MODEL_STEPS / 10);
}

/* --- the frame --- */

struct conformance_test {
    const char *name;
    void (*run)(struct conformance *c);
    bool needs_durable, needs_changes_lost; /* not for engines that promise no such thing */
};

static const struct conformance_test conformance_tests[] = {
    {.name = "put, get, delete", .run = test_put_get_delete},
    {.name = "two puts of one key", .run = test_put_twice},
    {.name = "conflicts", .run = test_conflicts},
    {.name = "expects see the state before", .run = test_expect_sees_before},
    {.name = "versions are never given again", .run = test_versions_never_again},
    {.name = "counters", .run = test_counters},
    {.name = "bounds", .run = test_bounds},
    {.name = "counters of 128 bits", .run = test_counters_wide},
    {.name = "bounds of 128 bits", .run = test_bounds_wide},
    {.name = "scan of counters", .run = test_counters_scan},
    {.name = "expiry", .run = test_expiry},
    {.name = "scan", .run = test_scan},
    {.name = "logs", .run = test_logs},
    {.name = "big values", .run = test_big_values},
    {.name = "big answers", .run = test_big_answers},
    {.name = "limits", .run = test_limits},
    {.name = "arguments are copied", .run = test_arguments_are_copied},
    {.name = "one winner per version", .run = test_one_winner},
    {.name = "a bound holds in flight", .run = test_bound_in_flight},
    {.name = "reads see commits", .run = test_reads_see_commits},
    {.name = "watch", .run = test_watch},
    {.name = "watches end", .run = test_watch_ends},
    {.name = "watch resync", .run = test_watch_resync, .needs_changes_lost = true},
    {.name = "watch after reopening", .run = test_watch_reopen, .needs_durable = true},
    {.name = "what was committed stays", .run = test_durable, .needs_durable = true},
    {.name = "closing answers", .run = test_close_answers},
    {.name = "a random history", .run = test_model},
};

struct conformance_case {
    const struct conformance_engine *engine;
    const struct conformance_test *test;
    struct conformance c;
};

static int conformance_setup(void **state)
{
    struct conformance_case *k = *state;
    const char *skip_reason = NULL;

    memset(&k->c, 0, sizeof(k->c));
    k->c.engine = k->engine;
    k->engine->setup(&k->c.place, &skip_reason);
    if (skip_reason != NULL) {
        print_message("skipped: %s\n", skip_reason);
        k->c.is_skipped = true;
        return 0;
    }
    if (loop_init(&k->c.loop, k->engine->clock(k->c.place), &rnd_system) != 0)
        return -1;
    k->c.s = k->engine->open(k->c.place, &k->c.loop);
    return k->c.s == NULL ? -1 : 0;
}

static void conformance_case_run(void **state)
{
    struct conformance_case *k = *state;

    if (k->c.is_skipped)
        skip();
    k->test->run(&k->c);
}

static int conformance_teardown(void **state)
{
    struct conformance_case *k = *state;
    bool is_closed = false;

    if (k->c.is_skipped)
        return 0;
    if (k->c.s != NULL) {
        store_close(k->c.s, on_flag, &is_closed);
        while (!is_closed)
            (void)uv_run(&k->c.loop.uv, UV_RUN_ONCE);
    }
    loop_fini(&k->c.loop);
    if (k->engine->teardown != NULL)
        k->engine->teardown(k->c.place);
    return 0;
}

/* Runs all of it against one engine; returns the number of failures. */
static int conformance_run(const struct conformance_engine *engine)
{
    static struct conformance_case cases[ARRAY_LEN(conformance_tests)];
    static char names[ARRAY_LEN(conformance_tests)][96];
    struct CMUnitTest tests[ARRAY_LEN(conformance_tests)];

    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(conformance_tests); i++) {
        const struct conformance_test *t = &conformance_tests[i];

        if ((t->needs_durable && !engine->is_durable) || (t->needs_changes_lost && engine->changes_lost == 0))
            continue;
        (void)snprintf(names[n], sizeof(names[n]), "%s: %s", engine->name, t->name);
        cases[n] = (struct conformance_case){.engine = engine, .test = t};
        tests[n] = (struct CMUnitTest){names[n], conformance_case_run, conformance_setup,
                                       conformance_teardown, &cases[n]};
        n++;
    }
    return _cmocka_run_group_tests(engine->name, tests, n, NULL, NULL);
}

#endif
