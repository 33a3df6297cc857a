/* sqlite: the store in one SQLite file, for one process.
 *
 * Happy path: calls become requests (engine.c), go to the writer's or the reader's lane, are worked off
 * there, and come back in order through one uv_async to the loop. Failure paths: a lane that is full refuses;
 * an error of SQLite is the answer of the requests it hit. Closing lets both lanes finish, joins them, then
 * lets go of the lock.
 *
 * The file belongs to one process at a time: `<path>.lock` is held with flock, and names the holder. */
#include "base/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/mem.h"
#include "base/store/sqlite_reader.h"
#include "base/store/sqlite_writer.h"

#define SQLITE_ANSWERS_PER_TURN 512u /* then the loop gets to do other things */

struct sqlite {
    struct engine engine; /* first */
    char *path;
    int lock_fd;
    uv_async_t async;
    struct writer writer;
    struct lane reader;
    struct request_queue ready; /* collected, not yet given back */
    bool writer_is_over, reader_is_over;
    void (*closed)(void *data);
    void *closed_data;
};

/* --- the file and its lock --- */

static int lock_refused(int fd, const char *path, struct err *err)
{
    char holder[32];
    ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);

    while (n > 0 && (holder[n - 1] < '0' || holder[n - 1] > '9'))
        n--;
    return err_set(err, E_BUSY, "store %s is in use by %s%.*s", path, n > 0 ? "process " : "another process",
                   n > 0 ? (int)n : 0, holder);
}

static int lock_take(const char *path, int *ret_fd, struct err *err)
{
    AUTO_FREE char *name = NULL;
    struct buf text = BUF_INIT(4096);
    struct slice pid;
    int fd, rc = 0;

    if (buf_printf(&text, "%s.lock", path) != 0) {
        buf_fini(&text);
        return err_set(err, E_INVALID, "store: the path is too long");
    }
    name = buf_take(&text, NULL);
    fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, err_from_errno(errno), "store %s: cannot open the lock file: %s", path,
                       strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK
                 ? lock_refused(fd, path, err)
                 : err_set(err, err_from_errno(errno), "store %s: cannot lock: %s", path, strerror(errno));
        (void)close(fd); /* nothing was written */
        return rc;
    }
    (void)buf_printf(&text, "%ld\n", (long)getpid()); /* fits */
    pid = buf_view(&text);
    /* The name of the holder is a courtesy: a full disk must not keep the store from opening. */
    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.p, pid.n, 0) < 0)
        errno = 0;
    buf_fini(&text);
    *ret_fd = fd;
    return 0;
}

/* Makes an empty file for nobody else's eyes, durably named; SQLite gives its side files the same mode. */
static int file_make(const char *path, struct err *err)
{
    AUTO_FREE char *copy = mem_strdup(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), dir, rc = 0;

    if (fd < 0)
        return err_set(err, err_from_errno(errno), "store %s: %s", path, strerror(errno));
    (void)close(fd); /* nothing was written */
    dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fsync(dir) != 0)
        rc = err_set(err, err_from_errno(errno), "store %s: cannot sync its folder: %s", path,
                     strerror(errno));
    if (dir >= 0)
        (void)close(dir); /* read only */
    return rc;
}

/* --- answers --- */

static void on_sqlite_closed(uv_handle_t *h)
{
    struct sqlite *s = h->data;
    void (*closed)(void *) = s->closed;
    void *closed_data = s->closed_data;

    (void)close(s->lock_fd); /* lets the next one open */
    mem_free(s->path);
    mem_free(s);
    if (closed != NULL)
        closed(closed_data);
}

static void sqlite_maybe_close(struct sqlite *s)
{
    if (!s->writer_is_over || !s->reader_is_over)
        return;
    if (!feed_fini(&s->engine.feed)) {
        must(uv_async_send(&s->async) == 0); /* a watch waits in the loop: come again */
        return;
    }
    lane_join(&s->writer.lane);
    lane_join(&s->reader);
    uv_close((uv_handle_t *)&s->async, on_sqlite_closed);
}

/* Gives back up to `budget` answers; returns what is left of the budget. */
static size_t sqlite_answer(struct sqlite *s, size_t budget)
{
    while (budget > 0 && s->ready.head != NULL) {
        struct request *r = request_pop(&s->ready);

        lane_answered(r->kind == REQUEST_COMMIT ? &s->writer.lane : &s->reader, r->bytes);
        engine_answer(&s->engine, r);
        budget--;
    }
    return budget;
}

static void on_sqlite_async(uv_async_t *h)
{
    struct sqlite *s = h->data;
    size_t budget = sqlite_answer(s, SQLITE_ANSWERS_PER_TURN);

    if (budget > 0 && !s->writer_is_over) {
        s->writer_is_over = lane_collect(&s->writer.lane, &s->ready);
        budget = sqlite_answer(s, budget);
    }
    if (budget > 0 && !s->reader_is_over) {
        s->reader_is_over = lane_collect(&s->reader, &s->ready);
        budget = sqlite_answer(s, budget);
    }
    if (budget == 0)
        must(uv_async_send(h) == 0);
    else
        sqlite_maybe_close(s);
}

static void sqlite_submit(struct engine *e, struct request *r)
{
    struct sqlite *s = (struct sqlite *)e;

    lane_submit(r->kind == REQUEST_COMMIT ? &s->writer.lane : &s->reader, e, r);
}

static void sqlite_close(struct store *store, void (*closed)(void *data), void *data)
{
    struct sqlite *s = (struct sqlite *)store;

    must(!s->engine.is_closing);
    s->engine.is_closing = true;
    s->closed = closed;
    s->closed_data = data;
    lane_stop(&s->writer.lane);
    lane_stop(&s->reader);
}

static const struct store_ops sqlite_ops = {
    .commit = engine_commit,
    .get = engine_get,
    .scan = engine_scan,
    .counters = engine_counters,
    .log_read = engine_log_read,
    .watch = engine_watch,
    .unwatch = engine_unwatch,
    .close = sqlite_close,
};

/* --- open --- */

/* What each partition's last version is: from there on the feed knows all changes. */
static int sqlite_load_floors(struct sqlite *s)
{
    struct db *d = &s->writer.lane.db;
    sqlite3_stmt *st = db_prepare(d, SQL_PARTITIONS);
    bool has_row;
    int rc;

    if (st == NULL)
        return d->err.code;
    while ((rc = db_step(d, st, &has_row)) == 0 && has_row)
        feed_floor(&s->engine.feed, db_blob(st, 0), (uint64_t)sqlite3_column_int64(st, 1));
    if (rc == 0)
        db_done(st);
    return rc;
}

static int sqlite_open_dbs(struct sqlite *s, struct err *err)
{
    int rc;

    if ((rc = db_open(&s->writer.lane.db, s->path, true)) != 0 || (rc = sqlite_load_floors(s)) != 0)
        return err_set(err, rc, "%s", s->writer.lane.db.err.msg);
    if ((rc = db_open(&s->reader.db, s->path, false)) != 0)
        return err_set(err, rc, "%s", s->reader.db.err.msg);
    return 0;
}

/* Starts the lanes; the handle exists already. */
static int sqlite_start(struct sqlite *s, struct err *err)
{
    writer_init(&s->writer);
    reader_init(&s->reader);
    s->writer.lane.async = &s->async;
    s->reader.async = &s->async;
    if (lane_start(&s->writer.lane) != 0)
        return err_set(err, E_UNAVAILABLE, "store %s: cannot start a thread", s->path);
    if (lane_start(&s->reader) != 0) {
        lane_stop(&s->writer.lane);
        lane_join(&s->writer.lane); /* has closed its connection */
        return err_set(err, E_UNAVAILABLE, "store %s: cannot start a thread", s->path);
    }
    return 0;
}

int store_sqlite_open(struct loop *l, const char *path, struct store **ret, struct err *err)
{
    struct sqlite *s = MEM_NEW(struct sqlite);
    int rc;

    s->engine.store.ops = &sqlite_ops;
    s->engine.store.loop = l;
    s->engine.submit = sqlite_submit;
    s->path = mem_strdup(path);
    feed_init(&s->engine.feed, &s->engine.store);
    if ((rc = lock_take(path, &s->lock_fd, err)) != 0)
        goto fail_lock;
    if ((rc = file_make(path, err)) != 0 || (rc = sqlite_open_dbs(s, err)) != 0)
        goto fail_dbs;
    must(uv_async_init(&l->uv, &s->async, on_sqlite_async) == 0);
    s->async.data = s;
    if ((rc = sqlite_start(s, err)) != 0)
        goto fail_start;
    *ret = &s->engine.store;
    return 0;

fail_start:
    db_close(&s->writer.lane.db);
    db_close(&s->reader.db);
    must(feed_fini(&s->engine.feed));
    uv_close((uv_handle_t *)&s->async, on_sqlite_closed); /* frees the rest, in a later turn */
    return rc;
fail_dbs:
    db_close(&s->writer.lane.db);
    db_close(&s->reader.db);
    must(feed_fini(&s->engine.feed));
    (void)close(s->lock_fd); /* nothing was written that matters */
fail_lock:
    mem_free(s->path);
    mem_free(s);
    return rc;
}
