/* sqlite_db: one connection to the store's SQLite file, its statements and its errors. Used by one thread at
 * a time. */
#ifndef REEVE_BASE_STORE_SQLITE_DB_H
#define REEVE_BASE_STORE_SQLITE_DB_H

#include <sqlite3.h>

#include "base/core/err.h"
#include "base/core/slice.h"

#define SQLITE_DB_SCHEMA 1 /* PRAGMA user_version that this program reads and writes */

enum db_sql {
    SQL_BEGIN_READ,
    SQL_BEGIN_WRITE,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_DATA_VERSION,
    SQL_PARTITIONS,
    SQL_PARTITION_FIND,
    SQL_PARTITION_MAKE,
    SQL_PARTITION_SEQ,
    SQL_RECORD_VERSION,
    SQL_RECORD_PUT,
    SQL_RECORD_DELETE,
    SQL_RECORD_SWEEP,
    SQL_COUNTER_GET,
    SQL_COUNTER_PUT,
    SQL_LOG_FIND,
    SQL_LOG_MAKE,
    SQL_LOG_LAST,
    SQL_LOG_APPEND,
    SQL_READ_RECORD,
    SQL_READ_RECORDS,
    SQL_READ_COUNTERS,
    SQL_READ_LOG,
    SQL_END
};

struct db {
    sqlite3 *sqlite;
    const char *path;             /* the owner's; for messages */
    sqlite3_stmt *stmts[SQL_END]; /* made at first use, kept */
    int wal_pages;                /* in the log after the last commit */
    struct err err;               /* of the last function that failed */
};

/* The writer's connection makes or checks the schema. 0; E_STORE, E_NO_SPACE, E_IO. */
int db_open(struct db *d, const char *path, bool is_writer);
void db_close(struct db *d); /* fine on a zeroed or half-opened one */

/* The statement, ready for db_bind_* and db_step; NULL: see d->err. */
sqlite3_stmt *db_prepare(struct db *d, enum db_sql which);
/* Bindings are views: the bytes must stay until the next db_done. They cannot fail but by our own mistake. */
void db_bind_i64(sqlite3_stmt *st, int at, int64_t v);
void db_bind_blob(sqlite3_stmt *st, int at, struct slice v);
/* 0 with *ret_row saying whether there is a row to read; or an error, and the statement is reset. */
int db_step(struct db *d, sqlite3_stmt *st, bool *ret_row);
struct slice db_blob(sqlite3_stmt *st, int column); /* until the next step */
void db_done(sqlite3_stmt *st);                     /* resets */
/* db_prepare without parameters, db_step and db_done. */
int db_run(struct db *d, enum db_sql which);
/* Ends the transaction, if there is one, undoing it. */
void db_rollback(struct db *d);
/* Moves pages from the log into the file when enough have gathered. Failing is no harm: the log only grows.
 */
void db_checkpoint(struct db *d);

#endif
