/* bench_store: how fast usage events become durable on SQLite.
 *
 *   bench_store [events] [batch] [in flight] [folder]
 *
 * One event is what posting one costs: expect that its deduplication record is absent, put it, append the
 * ledger entry. A commit has `batch` events and ten counters. Prints one line; exits 1 when a commit fails.
 */
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "base/net/loop.h"
#include "base/store/store.h"

enum { BENCH_COUNTERS = 10, BENCH_ENTRY_BYTES = 300, BENCH_LATENCIES_MAX = 1 << 20 };

struct bench {
    struct store *s;
    uint64_t events, batch, in_flight_max;   /* what to do */
    uint64_t sent, done;                     /* events */
    uint64_t latencies[BENCH_LATENCIES_MAX]; /* ns of each commit */
    size_t commits;
    struct store_op *ops;
    char (*keys)[40];
    char counters[BENCH_COUNTERS][40];
    bool is_failed;
};

struct bench_commit {
    struct bench *b;
    uint64_t started_ns, events;
};

static void bench_send(struct bench *b);

static void on_commit(const struct store_commit_answer *a, void *data)
{
    struct bench_commit *c = data;
    struct bench *b = c->b;

    if (a->code != 0) {
        (void)fprintf(stderr, "commit: %s\n", a->err->msg);
        b->is_failed = true;
    }
    if (b->commits < BENCH_LATENCIES_MAX)
        b->latencies[b->commits++] = uv_hrtime() - c->started_ns;
    b->done += c->events;
    mem_free(c);
    if (b->sent < b->events && !b->is_failed)
        bench_send(b);
    else if (b->done == b->sent)
        store_close(b->s, NULL, NULL);
}

static void bench_send(struct bench *b)
{
    static const char text[BENCH_ENTRY_BYTES] = "{\"entry\":\"of about the size of a ledger entry\"}";
    struct bench_commit *c = MEM_NEW(struct bench_commit);
    size_t n = 0;

    c->b = b;
    c->events = b->events - b->sent < b->batch ? b->events - b->sent : b->batch;
    for (uint64_t i = 0; i < c->events; i++) {
        struct slice key;

        /* identities come in no order: the multiplication scatters them over the tree */
        (void)snprintf(b->keys[i], sizeof(b->keys[i]), "event/%016" PRIx64,
                       (b->sent + i + 1) * 0x9e3779b97f4a7c15u);
        key = slice_str(b->keys[i]);
        b->ops[n++] = store_expect(key, 0);
        b->ops[n++] = store_put(key, slice_of(text, 48));
        b->ops[n++] = store_append(SL("ledger/2026-11"), slice_of(text, sizeof(text)));
    }
    for (size_t i = 0; i < BENCH_COUNTERS; i++)
        b->ops[n++] = store_add(slice_str(b->counters[i]), (i128)1000000007 * (i128)c->events);
    b->sent += c->events;
    c->started_ns = uv_hrtime();
    store_commit(b->s, SL("acme"), b->ops, n, on_commit, c);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static int on_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static uint64_t argument(int argc, char **argv, int at, uint64_t otherwise)
{
    uint64_t v = otherwise;

    if (argc > at && (slice_u64(slice_str(argv[at]), &v) != 0 || v == 0))
        die("usage: bench_store [events] [batch, at most 1000] [commits in flight] [folder]");
    return v;
}

static double cpu_seconds(void)
{
    struct rusage u;

    if (getrusage(RUSAGE_SELF, &u) != 0)
        return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
    struct bench *b = MEM_NEW(struct bench);
    struct loop loop;
    struct err err;
    char dir[256], path[300];
    uint64_t start;
    double seconds;

    b->events = argument(argc, argv, 1, 200000);
    b->batch = argument(argc, argv, 2, 100);
    b->in_flight_max = argument(argc, argv, 3, 8);
    if (b->batch > 1000)
        die("a batch has at most 1000 events");
    (void)snprintf(dir, sizeof(dir), "%s/reeve-bench-XXXXXX", argc > 4 ? argv[4] : "/tmp");
    if (mkdtemp(dir) == NULL)
        die("mkdtemp %s", dir);
    (void)snprintf(path, sizeof(path), "%s/store.db", dir);
    b->ops = mem_alloc((3 * b->batch + BENCH_COUNTERS) * sizeof(*b->ops));
    b->keys = mem_alloc(b->batch * sizeof(*b->keys));
    for (size_t i = 0; i < BENCH_COUNTERS; i++)
        (void)snprintf(b->counters[i], sizeof(b->counters[i]), "usage/2026-11-21/counter%zu", i);
    must(loop_init(&loop, &clock_system, &rnd_system) == 0);
    if (store_sqlite_open(&loop, path, &b->s, &err) != 0)
        die("%s", err.msg);
    start = uv_hrtime();
    for (uint64_t i = 0; i < b->in_flight_max && b->sent < b->events; i++)
        bench_send(b);
    loop_run(&loop);
    seconds = (double)(uv_hrtime() - start) / 1e9;
    qsort(b->latencies, b->commits, sizeof(b->latencies[0]), by_value);
    (void)printf("%" PRIu64 " events in commits of %" PRIu64 ", %" PRIu64 " in flight: %.0f events/s, "
                 "%.1f us CPU per event, commit p50 %.1f ms, p99 %.1f ms\n",
                 b->done, b->batch, b->in_flight_max, (double)b->done / seconds,
                 cpu_seconds() / (double)b->done * 1e6, (double)b->latencies[b->commits / 2] / 1e6,
                 (double)b->latencies[b->commits - b->commits / 100 - 1] / 1e6);
    loop_fini(&loop);
    (void)nftw(dir, on_remove, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(b->ops);
    mem_free(b->keys);
    start = b->is_failed ? 1 : 0;
    mem_free(b);
    return (int)start;
}
