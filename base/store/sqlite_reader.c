/* sqlite_reader: a batch of reads in one read transaction.
 *
 * The transaction begins after the reads were asked, so it sees every commit whose answer had been given
 * before; and the records of one get are of one moment. Failure path: a read that SQLite fails is answered
 * with its error, the others of the batch go on. Rows are copied into the request. */
#include "base/store/sqlite_reader.h"

#include <string.h>

static int read_fail(struct lane *l, struct request *r)
{
    return request_fail(r, l->db.err.code, "%s", l->db.err.msg);
}

static int read_one(struct lane *l, struct request *r, sqlite3_stmt *st, size_t i)
{
    struct store_record *record = &r->records[i];
    bool has_row;

    record->key = r->keys[i];
    db_bind_blob(st, 2, record->key);
    if (db_step(&l->db, st, &has_row) != 0)
        return read_fail(l, r);
    if (has_row) {
        int64_t expires_at_ms = sqlite3_column_int64(st, 2);
        struct slice value = db_blob(st, 0);

        if (expires_at_ms == 0 || expires_at_ms > r->now_ms) {
            if (!request_has_room(r, value.n)) {
                db_done(st);
                return request_fail(r, E_TOO_LARGE, "the records asked for hold more than %u bytes",
                                    STORE_BYTES_MAX);
            }
            record->value = arena_slice(&r->arena, value);
            record->version = (uint64_t)sqlite3_column_int64(st, 1);
            record->expires_at_ms = expires_at_ms;
        }
    }
    db_done(st);
    return 0;
}

static int read_get(struct lane *l, struct request *r)
{
    sqlite3_stmt *st = db_prepare(&l->db, SQL_READ_RECORD);
    int rc;

    if (st == NULL)
        return read_fail(l, r);
    r->records = arena_zalloc(&r->arena, r->n * sizeof(*r->records));
    db_bind_blob(st, 1, r->partition);
    for (size_t i = 0; i < r->n; i++) {
        if ((rc = read_one(l, r, st, i)) != 0)
            return rc;
    }
    r->items = r->n;
    return 0;
}

static void add_record(struct request *r, sqlite3_stmt *st)
{
    r->records[r->items] = (struct store_record){.key = arena_slice(&r->arena, db_blob(st, 0)),
                                                 .value = arena_slice(&r->arena, db_blob(st, 1)),
                                                 .version = (uint64_t)sqlite3_column_int64(st, 2),
                                                 .expires_at_ms = sqlite3_column_int64(st, 3)};
}

static void add_entry(struct request *r, sqlite3_stmt *st)
{
    r->entries[r->items] = (struct store_entry){.number = (uint64_t)sqlite3_column_int64(st, 0),
                                                .value = arena_slice(&r->arena, db_blob(st, 1))};
}

static void add_counter(struct request *r, sqlite3_stmt *st)
{
    unsigned char value[16] = {0};
    struct slice stored = db_blob(st, 1);

    if (stored.n == sizeof(value)) {
        memcpy(value, stored.p, sizeof(value));
        r->counters[r->items] =
            (struct store_counter){.key = arena_slice(&r->arena, db_blob(st, 0)), .value = i128_load(value)};
    } else {
        struct slice key = db_blob(st, 0);

        (void)request_fail(r, E_STORE, "counter %.*s is damaged", SL_ARG(key)); /* the request has it */
    }
}

/* The rows of a statement that asks for one more than the limit; `bytes_of` is how large the two blobs are.
 */
static int read_rows(struct lane *l, struct request *r, sqlite3_stmt *st,
                     void (*add)(struct request *, sqlite3_stmt *))
{
    bool has_row;

    for (;;) {
        if (db_step(&l->db, st, &has_row) != 0)
            return read_fail(l, r);
        if (!has_row)
            break;
        if (r->items == r->limit ||
            !request_has_room(r, (size_t)sqlite3_column_bytes(st, 0) + (size_t)sqlite3_column_bytes(st, 1))) {
            r->has_more = true;
            break;
        }
        add(r, st);
        if (r->code != 0)
            break;
        r->items++;
    }
    db_done(st);
    return r->code;
}

static int read_range(struct lane *l, struct request *r)
{
    bool is_scan = r->kind == REQUEST_SCAN;
    sqlite3_stmt *st = db_prepare(&l->db, is_scan ? SQL_READ_RECORDS : SQL_READ_COUNTERS);

    if (st == NULL)
        return read_fail(l, r);
    db_bind_blob(st, 1, r->partition);
    db_bind_blob(st, 2, r->low);
    db_bind_blob(st, 3, r->high);
    if (is_scan) {
        r->records = arena_alloc(&r->arena, r->limit * sizeof(*r->records));
        db_bind_i64(st, 4, r->now_ms);
    } else {
        r->counters = arena_alloc(&r->arena, r->limit * sizeof(*r->counters));
    }
    db_bind_i64(st, is_scan ? 5 : 4, (int64_t)r->limit + 1);
    return read_rows(l, r, st, is_scan ? add_record : add_counter);
}

static int read_log(struct lane *l, struct request *r)
{
    sqlite3_stmt *st = db_prepare(&l->db, SQL_READ_LOG);

    if (st == NULL)
        return read_fail(l, r);
    r->entries = arena_alloc(&r->arena, r->limit * sizeof(*r->entries));
    db_bind_blob(st, 1, r->partition);
    db_bind_blob(st, 2, r->log);
    db_bind_i64(st, 3, r->after > INT64_MAX ? INT64_MAX : (int64_t)r->after);
    db_bind_i64(st, 4, (int64_t)r->limit + 1);
    return read_rows(l, r, st, add_entry);
}

static void on_reader_batch(struct lane *l, struct request *batch)
{
    bool is_open = db_run(&l->db, SQL_BEGIN_READ) == 0;

    for (struct request *r = batch; r != NULL; r = r->next) {
        if (!is_open) {
            (void)read_fail(l, r); /* the request has it */
            continue;
        }
        switch (r->kind) {
        case REQUEST_GET:
            (void)read_get(l, r); /* the request has the outcome, here and below */
            break;
        case REQUEST_SCAN:
        case REQUEST_COUNTERS:
            (void)read_range(l, r);
            break;
        case REQUEST_LOG:
            (void)read_log(l, r);
            break;
        case REQUEST_COMMIT:
            break;
        }
    }
    db_rollback(&l->db); /* nothing to undo: it only lets go of the snapshot */
}

static void on_reader_end(struct lane *l)
{
    db_close(&l->db);
}

void reader_init(struct lane *l)
{
    l->batch_max = READER_BATCH_MAX;
    l->batch_bytes = READER_BATCH_BYTES;
    l->run = on_reader_batch;
    l->fini = on_reader_end;
}
