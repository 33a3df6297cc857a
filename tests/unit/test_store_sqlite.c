/* What only the SQLite engine promises: one process at a time, a file that is ours, no harm from a full or
 * broken disk, and nothing acknowledged lost to kill -9. The contract itself is tested by test_store.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "base/net/loop.h"
#include "base/store/store.h"

/* --- a disk that fails when told to: a layer over SQLite's own file functions --- */

enum fault_mode { FAULT_OFF, FAULT_ONCE, FAULT_STAYS };

static _Atomic int fault_mode, fault_countdown, fault_code, fault_hits;
static _Atomic int disk_syncs; /* that succeeded */

static void fault_set(enum fault_mode mode, int nth, int code)
{
    fault_hits = 0;
    fault_countdown = nth;
    fault_code = code;
    fault_mode = (int)mode;
}

/* Whether this write or sync is to fail. */
static bool fault_strikes(void)
{
    if (fault_mode == FAULT_OFF || atomic_fetch_sub(&fault_countdown, 1) > 1)
        return false;
    if (fault_mode == FAULT_ONCE)
        fault_mode = FAULT_OFF;
    fault_hits++;
    return true;
}

struct fault_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind this struct */
};

#define REAL(f) (((struct fault_file *)(f))->real)

static int fault_close(sqlite3_file *f)
{
    return REAL(f)->pMethods->xClose(REAL(f));
}
static int fault_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    return REAL(f)->pMethods->xRead(REAL(f), p, n, at);
}
static int fault_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    /* Half of it may be there, as when a disk fills up. */
    if (fault_strikes()) {
        if (n > 1)
            (void)REAL(f)->pMethods->xWrite(REAL(f), p, n / 2, at);
        return fault_code;
    }
    return REAL(f)->pMethods->xWrite(REAL(f), p, n, at);
}
static int fault_truncate(sqlite3_file *f, sqlite3_int64 n)
{
    return REAL(f)->pMethods->xTruncate(REAL(f), n);
}
static int fault_sync(sqlite3_file *f, int flags)
{
    if (fault_strikes())
        return fault_code == SQLITE_FULL ? SQLITE_FULL : SQLITE_IOERR_FSYNC;
    disk_syncs++;
    return REAL(f)->pMethods->xSync(REAL(f), flags);
}
static int fault_size(sqlite3_file *f, sqlite3_int64 *n)
{
    return REAL(f)->pMethods->xFileSize(REAL(f), n);
}
static int fault_lock(sqlite3_file *f, int how)
{
    return REAL(f)->pMethods->xLock(REAL(f), how);
}
static int fault_unlock(sqlite3_file *f, int how)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), how);
}
static int fault_check_lock(sqlite3_file *f, int *out)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out);
}
static int fault_control(sqlite3_file *f, int op, void *arg)
{
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}
static int fault_sector(sqlite3_file *f)
{
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}
static int fault_device(sqlite3_file *f)
{
    return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}
static int fault_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out)
{
    return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, out);
}
static int fault_shm_lock(sqlite3_file *f, int at, int n, int flags)
{
    return REAL(f)->pMethods->xShmLock(REAL(f), at, n, flags);
}
static void fault_shm_barrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}
static int fault_shm_unmap(sqlite3_file *f, int remove_it)
{
    return REAL(f)->pMethods->xShmUnmap(REAL(f), remove_it);
}

static const sqlite3_io_methods fault_methods = {
    .iVersion = 2,
    .xClose = fault_close,
    .xRead = fault_read,
    .xWrite = fault_write,
    .xTruncate = fault_truncate,
    .xSync = fault_sync,
    .xFileSize = fault_size,
    .xLock = fault_lock,
    .xUnlock = fault_unlock,
    .xCheckReservedLock = fault_check_lock,
    .xFileControl = fault_control,
    .xSectorSize = fault_sector,
    .xDeviceCharacteristics = fault_device,
    .xShmMap = fault_shm_map,
    .xShmLock = fault_shm_lock,
    .xShmBarrier = fault_shm_barrier,
    .xShmUnmap = fault_shm_unmap,
};

static sqlite3_vfs *fault_below;
static sqlite3_vfs fault_vfs;

static int fault_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    struct fault_file *ff = (struct fault_file *)f;
    int rc;

    (void)vfs;
    ff->real = (sqlite3_file *)(ff + 1);
    rc = fault_below->xOpen(fault_below, name, ff->real, flags, out);
    ff->base.pMethods = rc == SQLITE_OK ? &fault_methods : NULL;
    return rc;
}

static void fault_install(void)
{
    fault_below = sqlite3_vfs_find(NULL);
    fault_vfs = *fault_below;
    fault_vfs.zName = "fault";
    fault_vfs.szOsFile = fault_below->szOsFile + (int)sizeof(struct fault_file);
    fault_vfs.xOpen = fault_open;
    must(sqlite3_vfs_register(&fault_vfs, 1) == SQLITE_OK);
}

/* --- a folder, a loop and a store --- */

struct place {
    char dir[64], path[96];
    struct clock_manual clock;
    struct loop loop;
    struct store *s;
};

static int place_setup(void **state)
{
    struct place *p = MEM_NEW(struct place);

    fault_set(FAULT_OFF, 0, 0);
    (void)snprintf(p->dir, sizeof(p->dir), "/tmp/reeve-sqlite-XXXXXX");
    if (mkdtemp(p->dir) == NULL)
        return -1;
    (void)snprintf(p->path, sizeof(p->path), "%s/store.db", p->dir);
    clock_manual_init(&p->clock, 1793491200000);
    *state = p;
    return loop_init(&p->loop, &p->clock.clock, &rnd_system);
}

static int on_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void until(struct place *p, const bool *flag)
{
    uint64_t end = uv_hrtime() + (uint64_t)30 * 1000000000;

    while (!*flag) {
        assert_true(uv_hrtime() < end);
        (void)uv_run(&p->loop.uv, UV_RUN_NOWAIT);
    }
}

static void on_flag(void *data)
{
    *(bool *)data = true;
}

static void place_close(struct place *p)
{
    bool is_closed = false;

    if (p->s == NULL)
        return;
    store_close(p->s, on_flag, &is_closed);
    until(p, &is_closed);
    p->s = NULL;
}

static int place_teardown(void **state)
{
    struct place *p = *state;

    fault_set(FAULT_OFF, 0, 0);
    place_close(p);
    loop_fini(&p->loop);
    (void)nftw(p->dir, on_remove, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(p);
    return 0;
}

static int place_open(struct place *p, struct err *err)
{
    return store_sqlite_open(&p->loop, p->path, &p->s, err);
}

static void place_must_open(struct place *p)
{
    struct err err;

    if (place_open(p, &err) != 0)
        fail_msg("%s", err.msg);
}

struct answer {
    bool is_done;
    int code;
    uint64_t version;
    i128 counter;
    char msg[ERR_MSG_MAX];
};

static void on_answer(const struct store_commit_answer *a, void *data)
{
    struct answer *w = data;

    w->is_done = true;
    w->code = a->code;
    if (a->code == 0) {
        w->version = a->results[0].version;
        w->counter = a->results[0].counter;
    } else {
        memcpy(w->msg, a->err->msg, sizeof(w->msg));
    }
}

static struct answer commit(struct place *p, const struct store_op *ops, size_t n)
{
    struct answer w = {0};

    store_commit(p->s, SL("p"), ops, n, on_answer, &w);
    until(p, &w.is_done);
    return w;
}

static struct answer commit_one(struct place *p, struct store_op op)
{
    return commit(p, &op, 1);
}

struct found {
    bool is_done;
    int code;
    size_t n;
    bool has_more;
    uint64_t versions[STORE_SCAN_MAX];
    char keys[STORE_SCAN_MAX][24];
    i128 counter;
};

static void on_records(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                       void *data)
{
    struct found *f = data;

    (void)err;
    f->is_done = true;
    f->code = code;
    f->n = n;
    f->has_more = has_more;
    for (size_t i = 0; i < n; i++) {
        f->versions[i] = r[i].version;
        (void)snprintf(f->keys[i], sizeof(f->keys[i]), "%.*s", SL_ARG(r[i].key));
    }
}

static void on_counters(int code, const struct store_counter *c, size_t n, bool has_more,
                        const struct err *err, void *data)
{
    struct found *f = data;

    (void)has_more;
    (void)err;
    f->is_done = true;
    f->code = code;
    f->counter = n > 0 ? c[0].value : 0;
}

static void on_entries(int code, const struct store_entry *e, size_t n, bool has_more, const struct err *err,
                       void *data)
{
    struct found *f = data;

    (void)err;
    f->is_done = true;
    f->code = code;
    f->n = n;
    f->has_more = has_more;
    for (size_t i = 0; i < n; i++) {
        f->versions[i] = e[i].number;
        (void)snprintf(f->keys[i], sizeof(f->keys[i]), "%.*s", SL_ARG(e[i].value));
    }
}

static i128 counter_of(struct place *p, struct slice key)
{
    struct found *f = MEM_NEW(struct found);
    i128 v;

    store_counters(p->s, SL("p"), key, SLICE_EMPTY, 1, on_counters, f);
    until(p, &f->is_done);
    assert_int_equal(f->code, 0);
    v = f->counter;
    mem_free(f);
    return v;
}

static sqlite3 *other_open(struct place *p)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(p->path, &db), SQLITE_OK);
    return db;
}

static void other_run(sqlite3 *db, const char *sql)
{
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
}

/* --- the file --- */

static void test_second_opener(void **state)
{
    struct place *p = *state;
    struct store *second = NULL;
    struct stat st;
    struct err err;
    char pid[32];

    place_must_open(p);
    assert_int_equal(store_sqlite_open(&p->loop, p->path, &second, &err), E_BUSY);
    (void)snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    assert_non_null(strstr(err.msg, pid));
    assert_non_null(strstr(err.msg, p->path));
    assert_null(second);
    assert_int_equal(commit_one(p, store_put(SL("k"), SL("v"))).code, 0); /* the first is not disturbed */
    assert_int_equal(stat(p->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    place_close(p);
    place_must_open(p);
}

static void test_no_folder(void **state)
{
    struct place *p = *state;
    struct err err;

    (void)snprintf(p->path, sizeof(p->path), "%s/none/store.db", p->dir);
    assert_int_equal(place_open(p, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.msg, p->path));
    assert_null(p->s);
}

static void test_newer_schema(void **state)
{
    struct place *p = *state;
    struct err err;
    sqlite3 *db;

    place_must_open(p);
    assert_int_equal(commit_one(p, store_put(SL("k"), SL("v"))).code, 0);
    place_close(p);
    db = other_open(p);
    other_run(db, "PRAGMA user_version = 999");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(place_open(p, &err), E_STORE);
    assert_non_null(strstr(err.msg, "999"));
    db = other_open(p);
    other_run(db, "PRAGMA user_version = 1");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    place_must_open(p); /* it was not touched */
    assert_int_equal(commit_one(p, store_expect(SL("k"), 0)).code, E_CONFLICT);
}

static void test_foreign_files(void **state)
{
    struct place *p = *state;
    struct err err;
    sqlite3 *db = other_open(p);
    char text[4096];
    FILE *f;

    other_run(db, "CREATE TABLE precious (x)");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(place_open(p, &err), E_STORE);
    assert_non_null(strstr(err.msg, "another program"));
    memset(text, 'x', sizeof(text));
    f = fopen(p->path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, sizeof(text), f), sizeof(text));
    assert_int_equal(fclose(f), 0);
    assert_int_equal(place_open(p, &err), E_STORE);
    assert_null(p->s);
}

/* An operator's own hand in the file is noticed: nothing remembered from before is used. */
static void test_foreign_write(void **state)
{
    struct place *p = *state;
    struct store_op ops[] = {store_add(SL("n"), 5), store_append(SL("l"), SL("x")),
                             store_put(SL("k"), SL("v"))};
    sqlite3 *db;
    struct answer w;

    place_must_open(p);
    assert_int_equal(commit(p, ops, 3).code, 0);
    db = other_open(p);
    other_run(db, "UPDATE counter SET value = x'64000000000000000000000000000000';"
                  "INSERT INTO log_entry (log, number, value) VALUES (1, 2, x'61');"
                  "UPDATE partition SET seq = 100");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    w = commit(p, ops, 3);
    assert_int_equal(w.code, 0);
    assert_true(w.counter == 105);
    assert_true(commit_one(p, store_append(SL("l"), SL("x"))).version == 4);
    assert_true(commit_one(p, store_put(SL("k"), SL("v"))).version == 102);
}

/* A statement that cannot even be made, in the middle of a group: what went before it in the group is undone.
 */
static void test_foreign_schema(void **state)
{
    struct place *p = *state;
    struct store_op ops[] = {store_put(SL("k"), SL("v")), store_add(SL("n"), 1),
                             store_append(SL("l"), SL("x"))};
    struct answer w;
    sqlite3 *db;

    place_must_open(p);
    assert_int_equal(commit_one(p, store_add(SL("n"), 1)).code, 0);
    db = other_open(p);
    other_run(db, "ALTER TABLE log_entry RENAME TO lost");
    w = commit(p, ops, 3);
    assert_int_equal(w.code, E_STORE);
    assert_non_null(strstr(w.msg, "log_entry"));
    assert_int_equal(commit_one(p, store_add(SL("n"), 1)).code, 0); /* others go on */
    other_run(db, "ALTER TABLE lost RENAME TO log_entry");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(commit_one(p, store_expect(SL("k"), 0)).code, 0);
    assert_true(counter_of(p, SL("n")) == 2);
    w = commit(p, ops, 3);
    assert_int_equal(w.code, 0);
    assert_true(commit_one(p, store_append(SL("l"), SL("x"))).version == 2);
}

/* Damage to one counter is an error for those who use it, and for nobody else. */
static void test_damaged_counter(void **state)
{
    struct place *p = *state;
    struct store_op bad[] = {store_put(SL("k"), SL("v")), store_add(SL("n"), 1)};
    struct answer w[2] = {0};
    struct found *f = MEM_NEW(struct found);
    sqlite3 *db;

    place_must_open(p);
    assert_int_equal(commit_one(p, store_add(SL("n"), 1)).code, 0);
    db = other_open(p);
    other_run(db, "UPDATE counter SET value = x'0102'");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    store_commit(p->s, SL("p"), bad, 2, on_answer, &w[0]);
    store_commit(p->s, SL("p"), &(struct store_op){.kind = STORE_ADD, .key = SL("m"), .amount = 7}, 1,
                 on_answer, &w[1]);
    until(p, &w[1].is_done);
    assert_int_equal(w[0].code, E_STORE);
    assert_non_null(strstr(w[0].msg, "damaged"));
    assert_int_equal(w[1].code, 0);
    assert_true(counter_of(p, SL("m")) == 7);
    store_counters(p->s, SL("p"), SL("n"), SLICE_EMPTY, 1, on_counters, f);
    until(p, &f->is_done);
    assert_int_equal(f->code, E_STORE); /* never read as some number */
    mem_free(f);
    assert_int_equal(commit_one(p, store_expect(SL("k"), 0)).code, 0);
}

/* Somebody who holds the file's lock for ever costs a bounded wait and an error, not the store. */
static void test_foreign_lock(void **state)
{
    struct place *p = *state;
    struct answer w;
    sqlite3 *db;

    place_must_open(p);
    assert_int_equal(commit_one(p, store_add(SL("n"), 1)).code, 0);
    db = other_open(p);
    other_run(db, "BEGIN IMMEDIATE");
    w = commit_one(p, store_add(SL("n"), 1));
    assert_int_equal(w.code, E_STORE);
    assert_non_null(strstr(w.msg, "locked"));
    assert_true(counter_of(p, SL("n")) == 1); /* reads go on */
    other_run(db, "ROLLBACK");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    w = commit_one(p, store_add(SL("n"), 1));
    assert_int_equal(w.code, 0);
    assert_true(w.counter == 2);
}

static void test_sweep(void **state)
{
    struct place *p = *state;
    struct store_op ops[1000];
    char names[1000][8];
    sqlite3_stmt *st;
    sqlite3 *db;

    place_must_open(p);
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        (void)snprintf(names[i], sizeof(names[i]), "k%03zu", i);
        ops[i] = store_put(slice_str(names[i]), SL("v"));
        ops[i].expires_at_ms = i % 10 == 0 ? 0 : p->clock.wall_ms + 1000;
    }
    assert_int_equal(commit(p, ops, ARRAY_LEN(ops)).code, 0);
    clock_manual_advance(&p->clock, 1000);
    for (int i = 0; i < 6; i++)
        assert_int_equal(commit_one(p, store_add(SL("n"), 1)).code, 0);
    db = other_open(p);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM record", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), 100);
    assert_int_equal(sqlite3_finalize(st), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

struct flood {
    size_t answered, good, refused, sent;
    bool is_done;
};

static void on_flood(const struct store_commit_answer *a, void *data)
{
    struct flood *f = data;

    if (a->code == 0) {
        f->good++;
    } else {
        assert_int_equal(a->code, E_UNAVAILABLE);
        f->refused++;
    }
    f->answered++;
    f->is_done = f->answered == f->sent;
}

/* 100,000 commits at once: what does not fit into the queue is refused, the rest is done. */
static void test_flood(void **state)
{
    struct place *p = *state;
    struct flood f = {.sent = 100000};
    struct store_op op = store_add(SL("n"), 1);

    place_must_open(p);
    for (size_t i = 0; i < f.sent; i++)
        store_commit(p->s, SL("p"), &op, 1, on_flood, &f);
    assert_int_equal(f.answered, 0);
    until(p, &f.is_done);
    assert_true(f.refused > 0 && f.good > 0);
    assert_true(counter_of(p, SL("n")) == (i128)f.good);
    assert_int_equal(commit_one(p, op).code, 0);
}

/* No answer before the disk has confirmed; and what only expects costs no sync. */
static void test_synced_before_answer(void **state)
{
    struct place *p = *state;
    int before;

    place_must_open(p);
    for (int i = 0; i < 20; i++) {
        before = disk_syncs;
        assert_int_equal(commit_one(p, store_add(SL("n"), 1)).code, 0);
        assert_true(disk_syncs > before);
    }
    before = disk_syncs;
    assert_int_equal(commit_one(p, store_expect(SL("k"), 0)).code, 0);
    assert_int_equal(disk_syncs, before);
}

struct grouped {
    size_t good, conflicts, answered;
    bool is_done;
};

static void on_grouped(const struct store_commit_answer *a, void *data)
{
    struct grouped *g = data;

    g->good += a->code == 0 ? 1 : 0;
    g->conflicts += a->code == E_CONFLICT ? 1 : 0;
    g->answered++;
    g->is_done = g->answered == 2000;
}

/* Commits that wait share a sync; one that fails its check takes no other with it. */
static void test_group_commit(void **state)
{
    struct place *p = *state;
    struct grouped g = {0};
    struct store_op good[] = {store_add(SL("n"), 1), store_append(SL("l"), SL("x"))};
    struct store_op bad[] = {store_add(SL("n"), 1000), store_put(SL("k"), SL("v")),
                             store_expect(SL("none"), 9)};
    int before;

    place_must_open(p);
    before = disk_syncs;
    for (int i = 0; i < 1000; i++) {
        store_commit(p->s, SL("p"), good, 2, on_grouped, &g);
        store_commit(p->s, SL("p"), bad, 3, on_grouped, &g);
    }
    until(p, &g.is_done);
    assert_int_equal(g.good, 1000);
    assert_int_equal(g.conflicts, 1000);
    assert_true(counter_of(p, SL("n")) == 1000);
    assert_true(disk_syncs - before < 200);
}

/* --- a disk that fails --- */

enum { FAULT_COMMITS = 12 };

struct fault_run {
    struct answer answers[FAULT_COMMITS];
    size_t answered;
    bool is_done;
};

/* What was acknowledged is there and nothing else, each commit whole, the log without gaps. */
static void fault_check(struct place *p, const bool *is_acked)
{
    struct found *f = MEM_NEW(struct found);
    size_t acked = 0, at = 0;
    char name[24];

    for (size_t i = 0; i < FAULT_COMMITS; i++)
        acked += is_acked[i] ? 1 : 0;
    store_scan(p->s, SL("p"), SL("k"), SLICE_EMPTY, STORE_SCAN_MAX, on_records, f);
    until(p, &f->is_done);
    assert_int_equal(f->code, 0);
    assert_int_equal(f->n, acked);
    for (size_t i = 0; i < FAULT_COMMITS; i++) {
        (void)snprintf(name, sizeof(name), "k%02zu", i);
        if (is_acked[i])
            assert_string_equal(f->keys[at++], name);
    }
    f->is_done = false;
    store_log_read(p->s, SL("p"), SL("l"), 0, STORE_SCAN_MAX, on_entries, f);
    until(p, &f->is_done);
    assert_int_equal(f->n, acked);
    at = 0;
    for (size_t i = 0; i < FAULT_COMMITS; i++) {
        (void)snprintf(name, sizeof(name), "k%02zu", i);
        if (is_acked[i]) {
            assert_true(f->versions[at] == at + 1);
            assert_string_equal(f->keys[at++], name);
        }
    }
    mem_free(f);
    assert_true(counter_of(p, SL("n")) == (i128)acked);
}

/* Commits from `from` on, one after the other in twos, so that groups of two fail together. */
static void fault_commits(struct place *p, size_t from, size_t to, bool *is_acked, int code)
{
    for (size_t i = from; i < to; i += 2) {
        struct answer w[2] = {0};
        char name[2][24];

        for (size_t k = 0; k < 2; k++) {
            struct slice key = (struct slice){name[k], 3};
            struct store_op ops[] = {store_put(key, SL("v")), store_add(SL("n"), 1),
                                     store_append(SL("l"), key)};

            (void)snprintf(name[k], sizeof(name[k]), "k%02zu", i + k);
            store_commit(p->s, SL("p"), ops, 3, on_answer, &w[k]);
        }
        for (size_t k = 0; k < 2; k++) {
            until(p, &w[k].is_done);
            is_acked[i + k] = w[k].code == 0;
            if (w[k].code != 0)
                assert_int_equal(w[k].code, code);
        }
    }
}

/* The n-th write or sync fails, for every n until none does. */
static void fault_loop(struct place *p, enum fault_mode mode, int sqlite_code, int code)
{
    int nth = 1, hits = 1;

    for (; hits > 0; nth++) {
        bool is_acked[FAULT_COMMITS] = {0};
        struct err err = {0};
        size_t started = 0;

        (void)snprintf(p->path, sizeof(p->path), "%s/%d-%d-%d.db", p->dir, (int)mode, sqlite_code, nth);
        fault_set(mode, nth, sqlite_code);
        if (place_open(p, &err) == 0) {
            started = FAULT_COMMITS / 2;
            fault_commits(p, 0, started, is_acked, code);
        } else {
            assert_int_equal(err.code, code);
            assert_null(p->s);
        }
        hits = fault_hits;
        fault_set(FAULT_OFF, 0, 0); /* the disk is well again */
        if (p->s == NULL)
            place_must_open(p);
        fault_check(p, is_acked);
        fault_commits(p, started, FAULT_COMMITS, is_acked, code);
        for (size_t i = started; i < FAULT_COMMITS; i++)
            assert_true(is_acked[i]);
        fault_check(p, is_acked);
        place_close(p);
        place_must_open(p);
        fault_check(p, is_acked);
        place_close(p);
    }
    assert_true(nth > 10); /* else the faults did not reach it */
}

static void test_full_disk_once(void **state)
{
    fault_loop(*state, FAULT_ONCE, SQLITE_FULL, E_NO_SPACE);
}

static void test_full_disk_stays(void **state)
{
    fault_loop(*state, FAULT_STAYS, SQLITE_FULL, E_NO_SPACE);
}

static void test_broken_disk_once(void **state)
{
    fault_loop(*state, FAULT_ONCE, SQLITE_IOERR_WRITE, E_STORE);
}

static void test_broken_disk_stays(void **state)
{
    fault_loop(*state, FAULT_STAYS, SQLITE_IOERR_WRITE, E_STORE);
}

/* --- kill -9 --- */

struct ack {
    uint64_t id, version;
};

struct victim {
    struct place *p;
    uint64_t next;
    int fd;
};

struct victim_commit {
    struct victim *v;
    uint64_t id;
};

static void victim_send(struct victim *v);

static void on_victim(const struct store_commit_answer *a, void *data)
{
    struct victim_commit *c = data;
    struct victim *v = c->v;
    struct ack ack;

    if (a->code != 0)
        _exit(3);
    ack = (struct ack){c->id, a->results[0].version};
    if (write(v->fd, &ack, sizeof(ack)) != (ssize_t)sizeof(ack))
        _exit(4);
    mem_free(c);
    victim_send(v);
}

static void victim_send(struct victim *v)
{
    struct victim_commit *c = MEM_NEW(struct victim_commit);
    char a[24], b[24];
    struct store_op ops[4];

    c->v = v;
    c->id = v->next++;
    (void)snprintf(a, sizeof(a), "a/%010" PRIu64, c->id);
    (void)snprintf(b, sizeof(b), "b/%010" PRIu64, c->id);
    ops[0] = store_put(slice_str(a), SL("v"));
    ops[1] = store_append(SL("l"), slice_str(a + 2));
    ops[2] = store_add(SL("n"), 1);
    ops[3] = store_put(slice_str(b), SL("v"));
    store_commit(v->p->s, SL("p"), ops, 4, on_victim, c);
}

/* Commits until it is killed. */
static void victim_run(struct place *p, uint64_t first, int fd)
{
    struct victim v = {.p = p, .next = first, .fd = fd};
    struct loop loop;
    struct err err;

    if (loop_init(&loop, &clock_system, &rnd_system) != 0 ||
        store_sqlite_open(&loop, p->path, &p->s, &err) != 0)
        _exit(2);
    for (int i = 0; i < 6; i++)
        victim_send(&v);
    loop_run(&loop);
    _exit(5);
}

/* All records under a prefix, page by page; checks against `acks` (sorted by id). Returns how many there are.
 */
static size_t survivors(struct place *p, const char *prefix, const struct ack *acks, size_t n,
                        uint64_t *max_version)
{
    struct found *f = MEM_NEW(struct found);
    char after[24] = "";
    size_t total = 0, at = 0;

    do {
        f->is_done = false;
        store_scan(p->s, SL("p"), slice_str(prefix), slice_str(after), STORE_SCAN_MAX, on_records, f);
        until(p, &f->is_done);
        assert_int_equal(f->code, 0);
        for (size_t i = 0; i < f->n; i++) {
            uint64_t id = strtoull(f->keys[i] + 2, NULL, 10);

            if (at < n && acks[at].id == id) {
                if (prefix[0] == 'a')
                    assert_true(f->versions[i] == acks[at].version);
                at++;
            }
            if (f->versions[i] > *max_version)
                *max_version = f->versions[i];
        }
        total += f->n;
        if (f->n > 0)
            memcpy(after, f->keys[f->n - 1], sizeof(after));
    } while (f->has_more);
    assert_int_equal(at, n); /* every acknowledged one */
    mem_free(f);
    return total;
}

static size_t log_length(struct place *p)
{
    struct found *f = MEM_NEW(struct found);
    uint64_t last = 0;

    do {
        f->is_done = false;
        store_log_read(p->s, SL("p"), SL("l"), last, STORE_SCAN_MAX, on_entries, f);
        until(p, &f->is_done);
        assert_int_equal(f->code, 0);
        for (size_t i = 0; i < f->n; i++)
            assert_true(f->versions[i] == ++last);
    } while (f->has_more);
    mem_free(f);
    return last;
}

enum { KILL_ACKS_MAX = 200000 };

/* One victim, killed after `enough` acknowledgements or so; adds what it acknowledged. */
static void kill_round(struct place *p, uint64_t first, size_t enough, struct ack *acks, size_t *n)
{
    size_t got = 0, upto = *n;
    bool is_killed = false;
    int fds[2], status;
    ssize_t r;
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)close(fds[0]);
        victim_run(p, first, fds[1]);
    }
    (void)close(fds[1]);
    while (upto < KILL_ACKS_MAX && (r = read(fds[0], &acks[upto], sizeof(acks[0]))) > 0) {
        assert_int_equal(r, sizeof(acks[0])); /* such short writes to a pipe are whole */
        upto++;
        got++;
        if (got >= enough && !is_killed) {
            assert_int_equal(kill(pid, SIGKILL), 0);
            is_killed = true;
        }
    }
    (void)close(fds[0]);
    if (!is_killed)
        (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    *n = upto;
}

static void test_kill(void **state)
{
    struct place *p = *state;
    const char *wanted = getenv("REEVE_ROUNDS");
    uint64_t rounds = 6, seed = uv_hrtime(), max_version = 0, first = 1;
    struct ack *acks = mem_alloc(KILL_ACKS_MAX * sizeof(*acks));
    struct rnd_seeded rnd;
    size_t n = 0;

    if (wanted != NULL)
        assert_int_equal(slice_u64(slice_str(wanted), &rounds), 0);
    print_message("seed %" PRIu64 "\n", seed);
    rnd_seeded_init(&rnd, seed);
    for (uint64_t round = 0; round < rounds && n < KILL_ACKS_MAX / 2; round++) {
        uint64_t before = max_version;
        size_t known = n, a, b;
        struct answer w;

        kill_round(p, first, 1 + (size_t)rnd_below(&rnd.rnd, 1500), acks, &n);
        for (size_t i = known; i < n; i++)
            assert_true(acks[i].version > before); /* no version of an earlier life */
        place_must_open(p);
        a = survivors(p, "a/", acks, n, &max_version);
        b = survivors(p, "b/", acks, n, &max_version);
        assert_int_equal(a, b); /* all or nothing */
        assert_true(counter_of(p, SL("n")) == (i128)a);
        assert_int_equal(log_length(p), a);
        w = commit_one(p, store_put(SL("probe"), SL("v")));
        assert_true(w.version > max_version);
        max_version = w.version;
        first = acks[n - 1].id + 1000; /* beyond what was in flight */
        place_close(p);
    }
    mem_free(acks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_second_opener, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_no_folder, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_newer_schema, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_files, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_write, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_schema, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_damaged_counter, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_lock, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_sweep, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_flood, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_synced_before_answer, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_group_commit, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_full_disk_once, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_full_disk_stays, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_broken_disk_once, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_broken_disk_stays, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_kill, place_setup, place_teardown),
    };

    fault_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
