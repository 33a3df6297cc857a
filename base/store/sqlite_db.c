/* sqlite_db: how the store's file is opened, checked and spoken to.
 *
 * The file is ours when PRAGMA application_id says so and user_version is one that we know; an empty file
 * becomes ours in one transaction. Durability: WAL and synchronous=FULL, so that COMMIT has fsynced the log
 * when it returns. Failure paths: a full disk is E_NO_SPACE, everything else E_STORE with SQLite's own words
 * and code. */
#include "base/store/sqlite_db.h"

#include <string.h>

#include "base/core/mem.h"

enum {
    DB_APPLICATION_ID = 0x52656576, /* "Reev" */
    DB_BUSY_MS = 2000,              /* how long a foreign lock may hold us up */
    DB_CHECKPOINT_PAGES = 8000,     /* of 4 KiB in the log: move what can be moved */
    DB_RESTART_PAGES = 40000,       /* so many: wait for the readers, to begin the log anew */
};

static const char db_schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE partition (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, seq INTEGER NOT NULL) STRICT;"
    "CREATE TABLE record (part INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version INTEGER NOT "
    "NULL,"
    " expires_at_ms INTEGER NOT NULL, PRIMARY KEY (part, key)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX record_expiry ON record (expires_at_ms) WHERE expires_at_ms > 0;"
    "CREATE TABLE counter (part INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (part, key)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE log (id INTEGER PRIMARY KEY, part INTEGER NOT NULL, name BLOB NOT NULL,"
    " UNIQUE (part, name)) STRICT;"
    "CREATE TABLE log_entry (log INTEGER NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (log, number)) STRICT, WITHOUT ROWID;"
    "PRAGMA application_id = 1382376822;"
    "PRAGMA user_version = 1;"
    "COMMIT;";

static const char db_settings_writer[] = "PRAGMA journal_mode = WAL;"
                                         "PRAGMA synchronous = FULL;"
                                         "PRAGMA journal_size_limit = 67108864;"
                                         "PRAGMA cache_size = -32768;"
                                         "PRAGMA temp_store = MEMORY;"
                                         "PRAGMA trusted_schema = OFF;";
static const char db_settings_reader[] = "PRAGMA query_only = ON;"
                                         "PRAGMA cache_size = -32768;"
                                         "PRAGMA temp_store = MEMORY;"
                                         "PRAGMA trusted_schema = OFF;";

#define PART_BY_NAME "part = (SELECT id FROM partition WHERE name = ?1)"

static const char *const db_sql_text[SQL_END] = {
    [SQL_BEGIN_READ] = "BEGIN",
    [SQL_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_DATA_VERSION] = "PRAGMA data_version",
    [SQL_PARTITIONS] = "SELECT name, seq FROM partition",
    [SQL_PARTITION_FIND] = "SELECT id, seq FROM partition WHERE name = ?1",
    [SQL_PARTITION_MAKE] = "INSERT INTO partition (name, seq) VALUES (?1, 0)",
    [SQL_PARTITION_SEQ] = "UPDATE partition SET seq = ?2 WHERE id = ?1",
    [SQL_RECORD_VERSION] = "SELECT version, expires_at_ms FROM record WHERE part = ?1 AND key = ?2",
    [SQL_RECORD_PUT] =
        "INSERT INTO record (part, key, value, version, expires_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)"
        " ON CONFLICT (part, key) DO UPDATE SET value = excluded.value,"
        " version = excluded.version, expires_at_ms = excluded.expires_at_ms",
    [SQL_RECORD_DELETE] = "DELETE FROM record WHERE part = ?1 AND key = ?2",
    [SQL_RECORD_SWEEP] = "DELETE FROM record WHERE (part, key) IN (SELECT part, key FROM record"
                         " WHERE expires_at_ms > 0 AND expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT 256)",
    [SQL_COUNTER_GET] = "SELECT value FROM counter WHERE part = ?1 AND key = ?2",
    [SQL_COUNTER_PUT] = "INSERT INTO counter (part, key, value) VALUES (?1, ?2, ?3)"
                        " ON CONFLICT (part, key) DO UPDATE SET value = excluded.value",
    [SQL_LOG_FIND] = "SELECT id FROM log WHERE part = ?1 AND name = ?2",
    [SQL_LOG_MAKE] = "INSERT INTO log (part, name) VALUES (?1, ?2)",
    [SQL_LOG_LAST] = "SELECT max(number) FROM log_entry WHERE log = ?1",
    [SQL_LOG_APPEND] = "INSERT INTO log_entry (log, number, value) VALUES (?1, ?2, ?3)",
    [SQL_READ_RECORD] =
        "SELECT value, version, expires_at_ms FROM record WHERE " PART_BY_NAME " AND key = ?2",
    [SQL_READ_RECORDS] = "SELECT key, value, version, expires_at_ms FROM record WHERE " PART_BY_NAME
                         " AND key >= ?2 AND key < ?3 AND (expires_at_ms = 0 OR expires_at_ms > ?4)"
                         " ORDER BY key LIMIT ?5",
    [SQL_READ_COUNTERS] = "SELECT key, value FROM counter WHERE " PART_BY_NAME
                          " AND key >= ?2 AND key < ?3 ORDER BY key LIMIT ?4",
    [SQL_READ_LOG] =
        "SELECT e.number, e.value FROM log_entry e WHERE e.log = (SELECT id FROM log WHERE " PART_BY_NAME
        " AND name = ?2) AND e.number > ?3 ORDER BY e.number LIMIT ?4",
};

static int db_fail(struct db *d, const char *what)
{
    int code = d->sqlite == NULL ? SQLITE_NOMEM : sqlite3_extended_errcode(d->sqlite);
    const char *text = d->sqlite == NULL ? "out of memory" : sqlite3_errmsg(d->sqlite);

    return err_set(&d->err, (code & 0xff) == SQLITE_FULL ? E_NO_SPACE : E_STORE,
                   "store %s: %s: %s (SQLite code %d)", d->path, what, text, code);
}

static int db_exec(struct db *d, const char *sql, const char *what)
{
    return sqlite3_exec(d->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_fail(d, what);
}

/* The one value of a pragma as integer or text. */
static int db_pragma(struct db *d, const char *sql, int64_t *ret_number, char *ret_text, size_t text_size)
{
    sqlite3_stmt *st;
    int rc = 0;

    if (sqlite3_prepare_v2(d->sqlite, sql, -1, &st, NULL) != SQLITE_OK)
        return db_fail(d, sql);
    if (sqlite3_step(st) != SQLITE_ROW) {
        rc = db_fail(d, sql);
    } else {
        const char *text = (const char *)sqlite3_column_text(st, 0);

        *ret_number = sqlite3_column_int64(st, 0);
        if (text_size > 0)
            (void)sqlite3_snprintf((int)text_size, ret_text, "%s", text == NULL ? "" : text);
    }
    (void)sqlite3_finalize(st); /* repeats the step's error */
    return rc;
}

static int db_check_schema(struct db *d)
{
    int64_t version, application, tables;
    int rc;

    if ((rc = db_pragma(d, "PRAGMA user_version", &version, NULL, 0)) != 0 ||
        (rc = db_pragma(d, "PRAGMA application_id", &application, NULL, 0)) != 0 ||
        (rc = db_pragma(d, "SELECT count(*) FROM sqlite_schema", &tables, NULL, 0)) != 0)
        return rc;
    if (version == 0 && application == 0 && tables == 0)
        return db_exec(d, db_schema, "make the tables");
    if (application != DB_APPLICATION_ID)
        return err_set(&d->err, E_STORE, "store %s: this is a database of another program", d->path);
    if (version != SQLITE_DB_SCHEMA)
        return err_set(
            &d->err, E_STORE,
            "store %s: has schema version %lld, this program knows version %d: start the program that "
            "wrote it, or a newer one",
            d->path, (long long)version, SQLITE_DB_SCHEMA);
    return 0;
}

static int on_wal_commit(void *data, sqlite3 *sqlite, const char *name, int pages)
{
    struct db *d = data;

    (void)sqlite;
    (void)name;
    d->wal_pages = pages;
    return SQLITE_OK;
}

int db_open(struct db *d, const char *path, bool is_writer)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    char mode[16];
    int64_t unused;
    int rc;

    memset(d, 0, sizeof(*d));
    d->path = path;
    if (sqlite3_open_v2(path, &d->sqlite, flags, NULL) != SQLITE_OK)
        return db_fail(d, "open");
    (void)sqlite3_busy_timeout(d->sqlite, DB_BUSY_MS); /* fails for no open connection only */
    if (!is_writer)
        return db_exec(d, db_settings_reader, "set up");
    if ((rc = db_exec(d, db_settings_writer, "set up")) != 0 ||
        (rc = db_pragma(d, "PRAGMA journal_mode", &unused, mode, sizeof(mode))) != 0)
        return rc;
    if (strcmp(mode, "wal") != 0)
        return err_set(&d->err, E_STORE,
                       "store %s: SQLite refused a write-ahead log here (journal mode %s): use a local disk",
                       path, mode);
    (void)sqlite3_wal_hook(d->sqlite, on_wal_commit, d); /* gives the previous hook: none */
    return db_check_schema(d);
}

void db_close(struct db *d)
{
    for (size_t i = 0; i < SQL_END; i++)
        (void)sqlite3_finalize(d->stmts[i]); /* repeats an error that was handled */
    memset(d->stmts, 0, sizeof(d->stmts));
    must(sqlite3_close(d->sqlite) == SQLITE_OK); /* else a statement was left */
    d->sqlite = NULL;
}

sqlite3_stmt *db_prepare(struct db *d, enum db_sql which)
{
    if (d->stmts[which] == NULL &&
        sqlite3_prepare_v3(d->sqlite, db_sql_text[which], -1, SQLITE_PREPARE_PERSISTENT, &d->stmts[which],
                           NULL) != SQLITE_OK)
        (void)db_fail(d, db_sql_text[which]); /* the code is in d->err, the statement is NULL */
    return d->stmts[which];
}

void db_bind_i64(sqlite3_stmt *st, int at, int64_t v)
{
    must(sqlite3_bind_int64(st, at, v) == SQLITE_OK);
}

void db_bind_blob(sqlite3_stmt *st, int at, struct slice v)
{
    must(sqlite3_bind_blob64(st, at, v.n == 0 ? "" : v.p, v.n, SQLITE_STATIC) == SQLITE_OK);
}

int db_step(struct db *d, sqlite3_stmt *st, bool *ret_row)
{
    int rc = sqlite3_step(st);

    if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
        *ret_row = rc == SQLITE_ROW;
        return 0;
    }
    rc = db_fail(d, sqlite3_sql(st));
    db_done(st);
    return rc;
}

struct slice db_blob(sqlite3_stmt *st, int column)
{
    const void *p = sqlite3_column_blob(st, column);
    int n = sqlite3_column_bytes(st, column);

    return p == NULL ? SLICE_EMPTY : slice_of(p, (size_t)n);
}

void db_done(sqlite3_stmt *st)
{
    (void)sqlite3_reset(st); /* repeats an error that db_step reported */
}

int db_run(struct db *d, enum db_sql which)
{
    sqlite3_stmt *st = db_prepare(d, which);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    rc = db_step(d, st, &has_row);
    if (rc == 0)
        db_done(st);
    return rc;
}

void db_rollback(struct db *d)
{
    struct err cause = d->err;

    for (size_t i = 0; i < SQL_END; i++) {
        if (d->stmts[i] != NULL)
            db_done(d->stmts[i]);
    }
    /* After some errors SQLite has rolled back by itself; if ours fails, the next BEGIN says so. */
    if (sqlite3_get_autocommit(d->sqlite) == 0)
        (void)db_run(d, SQL_ROLLBACK);
    d->err = cause;
}

void db_checkpoint(struct db *d)
{
    int mode = d->wal_pages >= DB_RESTART_PAGES ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE;

    if (d->wal_pages < DB_CHECKPOINT_PAGES)
        return;
    /* What it could not move stays in the log; a full disk shows at the next commit. */
    (void)sqlite3_wal_checkpoint_v2(d->sqlite, NULL, mode, NULL, NULL);
    d->wal_pages = 0; /* set anew by the next commit */
}
