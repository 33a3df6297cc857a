/* sqlite_writer: group commit. Everything that waits becomes one transaction with one fsync.
 *
 * Happy path, per commit: first check it whole (expects against the file, adds against the counters as the
 * commits before it left them), then write it. So a commit that fails its check has changed nothing, and the
 * others of its group go on without it. Counters, the partitions' last versions and the logs' last numbers
 * are kept in memory between commits; the changed ones are written once per group, before COMMIT.
 *
 * Failure path: when SQLite fails anywhere, COMMIT included, the group is rolled back, everything remembered
 * is forgotten, and each commit of the group gets the error. The next group starts clean. */
#include "base/store/sqlite_writer.h"

#include <string.h>

#include "base/core/mem.h"
#include "base/core/hash.h"

#define WRITER_SLOTS_MAX 16384u /* of each kind kept between groups */
#define COUNTER_BYTES    16u    /* as i128_store writes them */

struct partition_slot {
    UT_hash_handle hh;
    struct partition_slot *next_dirty;
    bool is_dirty;
    int64_t id;
    uint64_t seq; /* the last version given */
    char name[];
};

/* Counters and logs are found by the partition's id (8 bytes, as in memory) and their key. */
struct slot_key {
    size_t n;
    char bytes[sizeof(int64_t) + STORE_KEY_MAX];
};

struct counter_slot {
    UT_hash_handle hh;
    struct counter_slot *next_dirty;
    bool is_dirty;
    i128 value;
    i128 pending;            /* as commit `pending_commit` would leave it */
    uint64_t pending_commit; /* 0: none */
    size_t n;
    char key[];
};

struct log_slot {
    UT_hash_handle hh;
    int64_t id;
    uint64_t last; /* the last number given */
    char key[];
};

static void slot_key_set(struct slot_key *k, int64_t part, struct slice name)
{
    memcpy(k->bytes, &part, sizeof(part));
    memcpy(k->bytes + sizeof(part), name.p, name.n);
    k->n = sizeof(part) + name.n;
}

/* --- what is remembered --- */

static void counters_forget(struct writer *w)
{
    struct counter_slot *c, *next;

    HASH_ITER (hh, w->counters, c, next) {
        HASH_DEL(w->counters, c);
        mem_free(c);
    }
}

static void logs_forget(struct writer *w)
{
    struct log_slot *l, *next;

    HASH_ITER (hh, w->logs, l, next) {
        HASH_DEL(w->logs, l);
        mem_free(l);
    }
}

static void partitions_forget(struct writer *w)
{
    struct partition_slot *p, *next;

    HASH_ITER (hh, w->partitions, p, next) {
        HASH_DEL(w->partitions, p);
        mem_free(p);
    }
}

static void writer_forget(struct writer *w)
{
    w->dirty_counters = NULL;
    w->dirty_partitions = NULL;
    counters_forget(w);
    logs_forget(w);
    partitions_forget(w);
}

/* Between groups nothing is dirty, so that each kind can go by itself. */
static void writer_trim(struct writer *w)
{
    must(w->dirty_counters == NULL && w->dirty_partitions == NULL);
    if (HASH_COUNT(w->counters) > WRITER_SLOTS_MAX)
        counters_forget(w);
    if (HASH_COUNT(w->logs) > WRITER_SLOTS_MAX)
        logs_forget(w);
    if (HASH_COUNT(w->partitions) > WRITER_SLOTS_MAX)
        partitions_forget(w);
}

/* The partition as the file has it; id 0: not there. */
static int partition_load(struct writer *w, struct slice name, bool make, int64_t *ret_id, uint64_t *ret_seq)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_PARTITION_FIND);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    db_bind_blob(st, 1, name);
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    *ret_id = has_row ? sqlite3_column_int64(st, 0) : 0;
    *ret_seq = has_row ? (uint64_t)sqlite3_column_int64(st, 1) : 0;
    db_done(st);
    if (has_row || !make)
        return 0;
    st = db_prepare(d, SQL_PARTITION_MAKE);
    if (st == NULL)
        return d->err.code;
    db_bind_blob(st, 1, name);
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    db_done(st);
    *ret_id = sqlite3_last_insert_rowid(d->sqlite);
    return 0;
}

/* *ret is NULL when there is no such partition and none is to be made. */
static int partition_get(struct writer *w, struct slice name, bool make, struct partition_slot **ret)
{
    struct partition_slot *p;
    uint64_t seq = 0;
    int64_t id = 0;
    int rc;

    HASH_FIND(hh, w->partitions, name.p, name.n, p);
    if (p == NULL) {
        if ((rc = partition_load(w, name, make, &id, &seq)) != 0)
            return rc;
        if (id != 0) {
            p = mem_zalloc(sizeof(*p) + name.n);
            memcpy(p->name, name.p, name.n);
            p->id = id;
            p->seq = seq;
            HASH_ADD(hh, w->partitions, name[0], name.n, p);
        }
    }
    *ret = p;
    return 0;
}

static uint64_t partition_next_version(struct writer *w, struct partition_slot *p)
{
    if (!p->is_dirty) {
        p->is_dirty = true;
        p->next_dirty = w->dirty_partitions;
        w->dirty_partitions = p;
    }
    return ++p->seq;
}

/* *ret is NULL when what the file holds is no counter. */
static int counter_get(struct writer *w, int64_t part, struct slice key, struct counter_slot **ret)
{
    struct db *d = &w->lane.db;
    struct counter_slot *c;
    struct slot_key k;
    sqlite3_stmt *st;
    struct slice v;
    bool has_row;
    int rc;

    slot_key_set(&k, part, key);
    HASH_FIND(hh, w->counters, k.bytes, k.n, c);
    if (c != NULL) {
        *ret = c;
        return 0;
    }
    st = db_prepare(d, SQL_COUNTER_GET);
    if (st == NULL)
        return d->err.code;
    db_bind_i64(st, 1, part);
    db_bind_blob(st, 2, key);
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    v = has_row ? db_blob(st, 0) : SLICE_EMPTY;
    if (has_row && v.n != COUNTER_BYTES) {
        db_done(st);
        *ret = NULL;
        return 0;
    }
    c = mem_zalloc(sizeof(*c) + k.n);
    c->value = has_row ? i128_load((const unsigned char *)v.p) : 0;
    c->n = k.n;
    memcpy(c->key, k.bytes, k.n);
    HASH_ADD(hh, w->counters, key[0], k.n, c);
    db_done(st);
    *ret = c;
    return 0;
}

static void counter_set(struct writer *w, struct counter_slot *c, i128 value)
{
    c->value = value;
    if (!c->is_dirty) {
        c->is_dirty = true;
        c->next_dirty = w->dirty_counters;
        w->dirty_counters = c;
    }
}

/* The log's id and last number from the file; makes the log. */
static int log_load(struct writer *w, int64_t part, struct slice name, int64_t *ret_id, uint64_t *ret_last)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st;
    bool has_row;
    int rc;

    *ret_last = 0;
    if ((st = db_prepare(d, SQL_LOG_FIND)) == NULL)
        return d->err.code;
    db_bind_i64(st, 1, part);
    db_bind_blob(st, 2, name);
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    *ret_id = has_row ? sqlite3_column_int64(st, 0) : 0;
    db_done(st);
    if ((st = db_prepare(d, has_row ? SQL_LOG_LAST : SQL_LOG_MAKE)) == NULL)
        return d->err.code;
    if (has_row) {
        db_bind_i64(st, 1, *ret_id);
    } else {
        db_bind_i64(st, 1, part);
        db_bind_blob(st, 2, name);
    }
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    if (has_row)
        *ret_last = (uint64_t)sqlite3_column_int64(st, 0); /* NULL, of an empty log, reads as 0 */
    else
        *ret_id = sqlite3_last_insert_rowid(d->sqlite);
    db_done(st);
    return 0;
}

static int log_get(struct writer *w, int64_t part, struct slice name, struct log_slot **ret)
{
    struct log_slot *l;
    struct slot_key k;
    uint64_t last = 0;
    int64_t id = 0;
    int rc;

    slot_key_set(&k, part, name);
    HASH_FIND(hh, w->logs, k.bytes, k.n, l);
    if (l == NULL) {
        if ((rc = log_load(w, part, name, &id, &last)) != 0)
            return rc;
        l = mem_zalloc(sizeof(*l) + k.n);
        l->id = id;
        l->last = last;
        memcpy(l->key, k.bytes, k.n);
        HASH_ADD(hh, w->logs, key[0], k.n, l);
    }
    *ret = l;
    return 0;
}

/* --- one commit --- */

/* The version that a reader would see; 0: absent or expired. */
static int record_version(struct writer *w, int64_t part, struct slice key, int64_t now_ms, uint64_t *ret)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_RECORD_VERSION);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    db_bind_i64(st, 1, part);
    db_bind_blob(st, 2, key);
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    *ret = 0;
    if (has_row) {
        int64_t expires_at_ms = sqlite3_column_int64(st, 1);

        if (expires_at_ms == 0 || expires_at_ms > now_ms)
            *ret = (uint64_t)sqlite3_column_int64(st, 0);
    }
    db_done(st);
    return 0;
}

static int commit_check_add(struct writer *w, int64_t part, struct request *r, size_t i, bool *ret_refused)
{
    struct counter_slot *c;
    i128 sum;
    int rc = counter_get(w, part, r->ops[i].key, &c);

    if (rc != 0)
        return rc;
    if (c == NULL) {
        (void)request_fail(r, E_STORE, "store %s: counter %.*s is damaged", w->lane.db.path,
                           SL_ARG(r->ops[i].key)); /* the request keeps the reason */
        *ret_refused = true;
        return 0;
    }
    if (request_add(r, i, c->pending_commit == w->commits ? c->pending : c->value, &sum) != 0) {
        *ret_refused = true;
        return 0;
    }
    c->pending = sum;
    c->pending_commit = w->commits;
    r->results[i].counter = sum;
    return 0;
}

/* 0 when SQLite did its part; *ret_refused says that the commit is not to be, and `r` has the reason. */
static int commit_check(struct writer *w, const struct partition_slot *p, struct request *r,
                        bool *ret_refused)
{
    *ret_refused = false;
    w->commits++;
    for (size_t i = 0; i < r->n && !*ret_refused; i++) {
        const struct store_op *op = &r->ops[i];
        uint64_t found = 0;
        int rc = 0;

        if (op->kind == STORE_EXPECT) {
            if (p != NULL)
                rc = record_version(w, p->id, op->key, r->now_ms, &found);
            if (rc == 0 && found != op->version) {
                (void)request_conflict(r, i, found); /* the request keeps the reason */
                *ret_refused = true;
            }
        } else if (op->kind == STORE_ADD) {
            rc = commit_check_add(w, p->id, r, i, ret_refused);
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int commit_put(struct writer *w, struct partition_slot *p, const struct store_op *op,
                      struct store_op_result *result)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_RECORD_PUT);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    result->version = partition_next_version(w, p);
    db_bind_i64(st, 1, p->id);
    db_bind_blob(st, 2, op->key);
    db_bind_blob(st, 3, op->value);
    db_bind_i64(st, 4, (int64_t)result->version);
    db_bind_i64(st, 5, op->expires_at_ms);
    if ((rc = db_step(d, st, &has_row)) == 0)
        db_done(st);
    return rc;
}

static int commit_delete(struct writer *w, struct partition_slot *p, const struct store_op *op,
                         struct store_op_result *result)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_RECORD_DELETE);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    db_bind_i64(st, 1, p->id);
    db_bind_blob(st, 2, op->key);
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    db_done(st);
    if (sqlite3_changes(d->sqlite) > 0)
        result->version = partition_next_version(w, p);
    return 0;
}

static int commit_append(struct writer *w, const struct partition_slot *p, const struct store_op *op,
                         struct store_op_result *result)
{
    struct db *d = &w->lane.db;
    struct log_slot *l;
    sqlite3_stmt *st;
    bool has_row;
    int rc;

    if ((rc = log_get(w, p->id, op->key, &l)) != 0)
        return rc;
    if ((st = db_prepare(d, SQL_LOG_APPEND)) == NULL)
        return d->err.code;
    result->version = ++l->last;
    db_bind_i64(st, 1, l->id);
    db_bind_i64(st, 2, (int64_t)result->version);
    db_bind_blob(st, 3, op->value);
    if ((rc = db_step(d, st, &has_row)) == 0)
        db_done(st);
    return rc;
}

static int commit_apply(struct writer *w, struct partition_slot *p, struct request *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct store_op *op = &r->ops[i];
        struct counter_slot *c;
        int rc = 0;

        switch (op->kind) {
        case STORE_EXPECT:
            break;
        case STORE_PUT:
            rc = commit_put(w, p, op, &r->results[i]);
            break;
        case STORE_DELETE:
            rc = commit_delete(w, p, op, &r->results[i]);
            break;
        case STORE_ADD:
            rc = counter_get(w, p->id, op->key, &c);
            if (rc == 0) {
                must(c != NULL); /* commit_check has loaded it */
                counter_set(w, c, r->results[i].counter);
            }
            break;
        case STORE_APPEND:
            rc = commit_append(w, p, op, &r->results[i]);
            break;
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int commit_run(struct writer *w, struct request *r)
{
    struct partition_slot *p;
    bool is_writing = false, is_refused;
    int rc;

    for (size_t i = 0; i < r->n && !is_writing; i++)
        is_writing = r->ops[i].kind != STORE_EXPECT;
    if ((rc = partition_get(w, r->partition, is_writing, &p)) != 0 ||
        (rc = commit_check(w, p, r, &is_refused)) != 0)
        return rc;
    return is_refused || !is_writing ? 0 : commit_apply(w, p, r);
}

/* --- one group --- */

/* Somebody else's writing makes what we remember wrong. */
static int group_check_foreign(struct writer *w)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_DATA_VERSION);
    int64_t version;
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    if ((rc = db_step(d, st, &has_row)) != 0)
        return rc;
    version = has_row ? sqlite3_column_int64(st, 0) : 0;
    db_done(st);
    if (version != w->data_version)
        writer_forget(w);
    w->data_version = version;
    return 0;
}

static int group_sweep(struct writer *w, int64_t now_ms)
{
    struct db *d = &w->lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_RECORD_SWEEP);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    db_bind_i64(st, 1, now_ms);
    if ((rc = db_step(d, st, &has_row)) == 0)
        db_done(st);
    return rc;
}

static int group_write_counters(struct writer *w)
{
    struct db *d = &w->lane.db;

    while (w->dirty_counters != NULL) {
        struct counter_slot *c = w->dirty_counters;
        sqlite3_stmt *st = db_prepare(d, SQL_COUNTER_PUT);
        unsigned char value[COUNTER_BYTES];
        int64_t part;
        bool has_row;
        int rc;

        if (st == NULL)
            return d->err.code;
        memcpy(&part, c->key, sizeof(part));
        i128_store(c->value, value);
        db_bind_i64(st, 1, part);
        db_bind_blob(st, 2, slice_of(c->key + sizeof(part), c->n - sizeof(part)));
        db_bind_blob(st, 3, slice_of(value, sizeof(value)));
        if ((rc = db_step(d, st, &has_row)) != 0)
            return rc;
        db_done(st);
        c->is_dirty = false;
        w->dirty_counters = c->next_dirty;
    }
    return 0;
}

static int group_write_partitions(struct writer *w)
{
    struct db *d = &w->lane.db;

    while (w->dirty_partitions != NULL) {
        struct partition_slot *p = w->dirty_partitions;
        sqlite3_stmt *st = db_prepare(d, SQL_PARTITION_SEQ);
        bool has_row;
        int rc;

        if (st == NULL)
            return d->err.code;
        db_bind_i64(st, 1, p->id);
        db_bind_i64(st, 2, (int64_t)p->seq);
        if ((rc = db_step(d, st, &has_row)) != 0)
            return rc;
        db_done(st);
        p->is_dirty = false;
        w->dirty_partitions = p->next_dirty;
    }
    return 0;
}

static int group_run(struct writer *w, struct request *group)
{
    struct db *d = &w->lane.db;
    int64_t now_ms = 0;
    int rc;

    if ((rc = db_run(d, SQL_BEGIN_WRITE)) != 0 || (rc = group_check_foreign(w)) != 0)
        return rc;
    for (struct request *r = group; r != NULL; r = r->next) {
        if ((rc = commit_run(w, r)) != 0)
            return rc;
        now_ms = r->now_ms;
    }
    if ((rc = group_sweep(w, now_ms)) != 0 || (rc = group_write_counters(w)) != 0 ||
        (rc = group_write_partitions(w)) != 0)
        return rc;
    return db_run(d, SQL_COMMIT);
}

static void on_writer_batch(struct lane *l, struct request *group)
{
    struct writer *w = (struct writer *)l;
    int rc = group_run(w, group);

    if (rc != 0) {
        db_rollback(&l->db);
        writer_forget(w);
        for (struct request *r = group; r != NULL; r = r->next) {
            r->failed_op = 0;
            (void)request_fail(r, rc, "%s", l->db.err.msg); /* returns rc */
        }
    }
    writer_trim(w);
}

/* Moving pages into the file takes a while: done when the answers are out. */
static void on_writer_rest(struct lane *l)
{
    db_checkpoint(&l->db);
}

static void on_writer_end(struct lane *l)
{
    writer_forget((struct writer *)l);
    db_close(&l->db);
}

void writer_init(struct writer *w)
{
    w->lane.batch_max = WRITER_BATCH_MAX;
    w->lane.batch_bytes = WRITER_BATCH_BYTES;
    w->lane.run = on_writer_batch;
    w->lane.rest = on_writer_rest;
    w->lane.fini = on_writer_end;
    w->data_version = -1;
}
