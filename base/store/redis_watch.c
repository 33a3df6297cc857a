/* redis_watch: reading the change streams.
 *
 * Happy path: a watch is checked once against the newest change of its partition; then XREAD over all watched
 * partitions blocks for a moment and gives what is new; each watch gets what it has not had, under its
 * prefix. One command is in flight at any time; a new watch waits for the present read to come back.
 *
 * Failure paths: entries of a stream are numbered without gaps (each version is one change), so a watch sees
 * when entries that it needed were trimmed: it is moved to the newest change and told to resync. The same
 * when the newest change is older than what the watch knew (the data was lost). After a lost connection every
 * watch is checked anew. Redis Cluster refuses to read streams of several slots at once: then they are polled
 * one by one. */
#include "base/store/redis_watch.h"

#include <string.h>

#include <hiredis/hiredis.h>
#include <utlist.h>

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "base/core/mem.h"
#include "base/core/hash.h"
#include "base/store/redis_route.h"

#define BLOCK_TEXT  "100" /* ms that Redis waits for news */
#define READ_TEXT   "100" /* changes per stream and answer */
#define READ_COUNT  100
#define REST_MS     200 /* after a refusal */
#define POLL_MS     50  /* between rounds where streams are polled one by one */
#define STREAMS_MAX 512 /* of one read */

struct watched; /* a partition with watches */

struct redis_watch {
    struct store_watch watch; /* first: the caller's view */
    struct redis_watch *prev, *next;
    struct redis_watches *set;
    struct watched *partition;
    char *prefix;
    size_t prefix_n;
    uint64_t after; /* the last version it need not hear of */
    store_watch_cb cb;
    void *data;
    bool needs_check;  /* compare with the newest change */
    bool needs_resync; /* entries that it needed are gone */
    bool is_ended;
};

struct watched {
    UT_hash_handle hh;
    struct redis_watch *watches;
    size_t key_n;
    char key[]; /* of its stream */
};

struct redis_watches {
    struct store *store;
    const struct redis_login *login;
    struct redis_route *route; /* from the first watch on */
    struct arena arena;        /* the arguments of the command in flight */
    struct watched *partitions;
    struct watched *checking; /* whose newest change was asked for; NULL: it is gone, or none was */
    struct watched *reading[STREAMS_MAX]; /* of the read in flight; NULL: gone */
    size_t n_reading, turn;
    unsigned telling; /* depth: watches are not freed */
    bool is_busy;     /* a command is in flight, or `rest` runs */
    bool is_one_by_one;
    bool is_closing;
    struct timer rest;
    unsigned open; /* of route and timer */
    void (*closed)(void *data);
    void *closed_data;
};

static void watches_step(struct redis_watches *ws);

void redis_key(struct buf *out, struct slice partition, const char *what, struct slice name)
{
    (void)buf_str(out, "reeve:{"); /* appends within REDIS_KEY_MAX cannot fail */
    for (size_t i = 0; i < partition.n; i++) {
        char c = partition.p[i];
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                        c == '-' || c == '_' || c == '.';
        if (is_plain)
            (void)buf_byte(out, c);
        else /* a brace would end the hash tag */
            (void)buf_printf(out, "%%%02x", (unsigned)(unsigned char)c);
    }
    (void)buf_printf(out, "}:%s", what);
    (void)buf_slice(out, name);
    must(!out->is_full);
}

/* --- freeing --- */

static void watched_sweep(struct redis_watches *ws, struct watched *p)
{
    struct redis_watch *w, *next;
    if (ws->telling > 0)
        return;
    DL_FOREACH_SAFE (p->watches, w, next) {
        if (!w->is_ended)
            continue;
        DL_DELETE(p->watches, w);
        mem_free(w->prefix);
        mem_free(w);
    }
    if (p->watches != NULL)
        return;
    if (ws->checking == p)
        ws->checking = NULL;
    for (size_t i = 0; i < ws->n_reading; i++)
        if (ws->reading[i] == p)
            ws->reading[i] = NULL;
    HASH_DEL(ws->partitions, p);
    mem_free(p);
}

static void watches_sweep(struct redis_watches *ws)
{
    struct watched *p, *next;
    HASH_ITER (hh, ws->partitions, p, next)
        watched_sweep(ws, p);
}

/* --- what a watch is told --- */

/* The version of an entry's id "<version>-0"; 0 when it is none. */
static uint64_t entry_version(const redisReply *id)
{
    uint64_t v;
    struct slice text, head;
    if (id->type != REDIS_REPLY_STRING)
        return 0;
    text = slice_of(id->str, id->len);
    (void)slice_cut(&text, '-', &head);
    return slice_u64(head, &v) == 0 ? v : 0;
}

/* One entry: [id, ["k", key, "v", value]] or [id, ["k", key]]. */
static bool change_read(const redisReply *e, struct store_change *ret)
{
    if (e->type != REDIS_REPLY_ARRAY || e->elements != 2 || e->element[1]->type != REDIS_REPLY_ARRAY)
        return false;
    const redisReply *f = e->element[1];
    if (f->elements != 2 && f->elements != 4)
        return false;
    for (size_t i = 0; i < f->elements; i++)
        if (f->element[i]->type != REDIS_REPLY_STRING)
            return false;
    ret->version = entry_version(e->element[0]);
    ret->key = slice_of(f->element[1]->str, f->element[1]->len);
    ret->is_delete = f->elements == 2;
    ret->value = ret->is_delete ? SLICE_EMPTY : slice_of(f->element[3]->str, f->element[3]->len);
    return ret->version > 0;
}

static void watch_tell(struct redis_watch *w, const struct store_change *c, size_t n)
{
    struct store_change wanted[READ_COUNT];
    size_t k = 0, first = 0;
    while (first < n && c[first].version <= w->after)
        first++;
    if (first == n || w->is_ended || w->needs_check)
        return;
    if (c[first].version != w->after + 1) {
        w->needs_resync = true;
        return;
    }
    for (size_t i = first; i < n; i++)
        if (slice_starts(c[i].key, slice_of(w->prefix, w->prefix_n)))
            wanted[k++] = c[i];
    w->after = c[n - 1].version;
    if (k > 0)
        w->cb(wanted, k, false, w->data);
}

static bool stream_tell(struct redis_watches *ws, struct watched *p, const redisReply *entries)
{
    struct store_change changes[READ_COUNT];
    struct redis_watch *w;
    if (entries->type != REDIS_REPLY_ARRAY || entries->elements > READ_COUNT)
        return false;
    for (size_t i = 0; i < entries->elements; i++)
        if (!change_read(entries->element[i], &changes[i]))
            return false;
    ws->telling++;
    DL_FOREACH (p->watches, w)
        watch_tell(w, changes, entries->elements);
    ws->telling--;
    return true;
}

/* `newest` is the version of the last change of the partition. */
static void check_tell(struct redis_watches *ws, struct watched *p, uint64_t newest)
{
    struct redis_watch *w;
    ws->telling++;
    DL_FOREACH (p->watches, w) {
        bool is_resync = w->needs_resync || w->after > newest;
        if (w->is_ended || (!w->needs_check && !w->needs_resync))
            continue;
        w->needs_check = w->needs_resync = false;
        if (!is_resync)
            continue;
        w->after = newest;
        w->cb(NULL, 0, true, w->data);
    }
    ws->telling--;
}

/* --- commands and their answers --- */

static void watches_rest(struct redis_watches *ws, int64_t ms)
{
    ws->is_busy = true;
    timer_start(&ws->rest, ms);
}

static void on_rest_over(void *data)
{
    struct redis_watches *ws = data;
    ws->is_busy = false;
    watches_step(ws);
}

/* Nothing is known of what happened meanwhile. */
static void watches_check_all(struct redis_watches *ws)
{
    struct watched *p, *next;
    struct redis_watch *w;
    HASH_ITER (hh, ws->partitions, p, next) {
        DL_FOREACH (p->watches, w)
            w->needs_check = true;
    }
}

/* What any answer can be: true when it is one to work with. */
static bool answer_is_good(struct redis_watches *ws, int code, const redisReply *r)
{
    ws->is_busy = false;
    if (ws->is_closing)
        return false;
    if (code != 0) {
        watches_check_all(ws);
        watches_rest(ws, REST_MS);
        return false;
    }
    if (r->type != REDIS_REPLY_ERROR)
        return true;
    if (strncmp(r->str, "CROSSSLOT", 9) == 0)
        ws->is_one_by_one = true;
    watches_rest(ws, REST_MS);
    return false;
}

static void on_newest(int code, const redisReply *r, const struct err *err, void *data)
{
    struct redis_watches *ws = data;
    struct watched *p = ws->checking;
    (void)err;
    ws->checking = NULL;
    if (!answer_is_good(ws, code, r))
        return;
    if (p != NULL && r->type == REDIS_REPLY_ARRAY) {
        const redisReply *e = r->elements > 0 ? r->element[0] : NULL;
        bool is_entry = e != NULL && e->type == REDIS_REPLY_ARRAY && e->elements > 0;
        check_tell(ws, p, is_entry ? entry_version(e->element[0]) : 0);
    }
    watches_sweep(ws);
    watches_step(ws);
}

static struct watched *reading_find(struct redis_watches *ws, const redisReply *key)
{
    for (size_t i = 0; i < ws->n_reading && key->type == REDIS_REPLY_STRING; i++) {
        struct watched *p = ws->reading[i];
        if (p != NULL && slice_eq(slice_of(p->key, p->key_n), slice_of(key->str, key->len)))
            return p;
    }
    return NULL;
}

static void on_changes(int code, const redisReply *r, const struct err *err, void *data)
{
    struct redis_watches *ws = data;
    (void)err;
    if (!answer_is_good(ws, code, r)) {
        ws->n_reading = 0;
        return;
    }
    bool is_empty = r->type != REDIS_REPLY_ARRAY || r->elements == 0;
    for (size_t i = 0; !is_empty && i < r->elements; i++) {
        const redisReply *s = r->element[i]; /* [key, entries] */
        bool is_stream = s->type == REDIS_REPLY_ARRAY && s->elements == 2;
        struct watched *p = is_stream ? reading_find(ws, s->element[0]) : NULL;
        if (p != NULL && !stream_tell(ws, p, s->element[1])) {
            struct redis_watch *w; /* not an entry of ours: somebody else wrote there */
            DL_FOREACH (p->watches, w)
                w->needs_resync = true;
        }
    }
    ws->n_reading = 0;
    watches_sweep(ws);
    if (ws->is_closing || ws->is_busy)
        return;
    if (ws->turn == 0 && is_empty && HASH_COUNT(ws->partitions) > (ws->is_one_by_one ? 1 : STREAMS_MAX))
        watches_rest(ws, POLL_MS);
    else
        watches_step(ws);
}

/* `argv` is in the arena. One command at a time: never too many. */
static void call(struct redis_watches *ws, struct slice key, const struct slice *argv, size_t argc,
                 redis_reply_cb cb)
{
    ws->is_busy = true;
    must(redis_route_call(ws->route, key, argv, argc, true, cb, ws) == 0);
}

static void newest_ask(struct redis_watches *ws, struct watched *p)
{
    arena_reset(&ws->arena);
    struct slice key = arena_slice(&ws->arena, slice_of(p->key, p->key_n));
    const struct slice words[] = {SL("XREVRANGE"), key, SL("+"), SL("-"), SL("COUNT"), SL("1")};
    struct slice *argv = arena_alloc(&ws->arena, sizeof(words));
    memcpy(argv, words, sizeof(words));
    ws->checking = p;
    call(ws, key, argv, ARRAY_LEN(words), on_newest);
}

/* Where to go on: behind the watch that has had least. */
static uint64_t watched_after(const struct watched *p)
{
    uint64_t least = UINT64_MAX;
    const struct redis_watch *w;
    DL_FOREACH (p->watches, w)
        if (w->after < least)
            least = w->after;
    return least;
}

static void changes_ask(struct redis_watches *ws)
{
    size_t n = 0, argc = 0, at = 0, most = ws->is_one_by_one ? 1 : STREAMS_MAX,
           count = HASH_COUNT(ws->partitions);
    struct watched *p, *next;
    arena_reset(&ws->arena);
    struct slice *argv = arena_alloc(&ws->arena, (2 * most + 6) * sizeof(*argv));
    if (ws->turn >= count)
        ws->turn = 0;
    HASH_ITER (hh, ws->partitions, p, next) {
        if (at++ >= ws->turn && n < most)
            ws->reading[n++] = p;
    }
    ws->n_reading = n;
    ws->turn = ws->turn + n >= count ? 0 : ws->turn + n;
    argv[argc++] = SL("XREAD");
    argv[argc++] = SL("COUNT");
    argv[argc++] = SL(READ_TEXT);
    if (count <= most) {
        argv[argc++] = SL("BLOCK");
        argv[argc++] = SL(BLOCK_TEXT);
    }
    argv[argc++] = SL("STREAMS");
    size_t first = argc;
    for (size_t i = 0; i < n; i++)
        argv[argc++] = arena_slice(&ws->arena, slice_of(ws->reading[i]->key, ws->reading[i]->key_n));
    for (size_t i = 0; i < n; i++)
        argv[argc++] =
            slice_str(arena_printf(&ws->arena, "%llu-0", (unsigned long long)watched_after(ws->reading[i])));
    call(ws, argv[first], argv, argc, on_changes);
}

static void watches_step(struct redis_watches *ws)
{
    struct watched *p, *next;
    struct redis_watch *w;
    if (ws->is_busy || ws->is_closing || ws->partitions == NULL)
        return;
    HASH_ITER (hh, ws->partitions, p, next) {
        DL_FOREACH (p->watches, w) {
            if (!w->is_ended && (w->needs_check || w->needs_resync)) {
                newest_ask(ws, p);
                return;
            }
        }
    }
    changes_ask(ws);
}

static void on_link_state(int code, const struct err *err, void *data)
{
    (void)err; /* the store's own link says what is wrong */
    if (code == 0)
        watches_check_all(data);
}

/* --- life --- */

struct redis_watches *redis_watches_new(struct store *s, const struct redis_login *login)
{
    struct redis_watches *ws = MEM_NEW(struct redis_watches);
    ws->store = s;
    ws->login = login;
    ws->open = 1;
    ws->arena = ARENA_INIT;
    timer_init(&ws->rest, s->loop, on_rest_over, ws);
    return ws;
}

struct store_watch *redis_watches_add(struct redis_watches *ws, struct slice partition, struct slice prefix,
                                      uint64_t after_version, store_watch_cb cb, void *data)
{
    struct redis_watch *w = MEM_NEW(struct redis_watch);
    struct buf key = BUF_INIT(REDIS_KEY_MAX);
    struct watched *p;
    redis_key(&key, partition, "chg", SLICE_EMPTY);
    HASH_FIND(hh, ws->partitions, key.p, key.n, p);
    if (p == NULL) {
        p = mem_zalloc(sizeof(*p) + key.n);
        memcpy(p->key, key.p, key.n);
        p->key_n = key.n;
        HASH_ADD(hh, ws->partitions, key[0], p->key_n, p);
    }
    buf_fini(&key);
    *w = (struct redis_watch){.watch.store = ws->store,
                              .set = ws,
                              .partition = p,
                              .prefix = mem_strndup(prefix.n > 0 ? prefix.p : "", prefix.n),
                              .prefix_n = prefix.n,
                              .after = after_version,
                              .cb = cb,
                              .data = data,
                              .needs_check = true};
    DL_APPEND(p->watches, w);
    if (ws->route == NULL) {
        ws->route = redis_route_new(ws->store->loop, ws->login, on_link_state, ws);
        ws->open++;
    }
    watches_step(ws);
    return &w->watch;
}

void redis_watches_remove(struct store_watch *watch)
{
    struct redis_watch *w = (struct redis_watch *)watch;
    must(!w->is_ended);
    w->is_ended = true;
    watched_sweep(w->set, w->partition);
}

static void on_part_closed(void *data)
{
    struct redis_watches *ws = data;
    if (--ws->open > 0)
        return;
    void (*closed)(void *data) = ws->closed;
    void *closed_data = ws->closed_data;
    arena_fini(&ws->arena);
    mem_free(ws);
    closed(closed_data);
}

void redis_watches_close(struct redis_watches *ws, void (*closed)(void *data), void *data)
{
    struct watched *p, *next;
    struct redis_watch *w;
    must(ws->telling == 0); /* it is closed in a turn of its own */
    ws->is_closing = true;
    ws->closed = closed;
    ws->closed_data = data;
    HASH_ITER (hh, ws->partitions, p, next) {
        DL_FOREACH (p->watches, w)
            w->is_ended = true;
        watched_sweep(ws, p);
    }
    timer_close(&ws->rest, on_part_closed);
    if (ws->route != NULL)
        redis_route_close(ws->route, on_part_closed, ws);
}
