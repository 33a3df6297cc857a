/* redis: the store's contract on Redis, for several controllers on one state.
 *
 * Happy path: a request becomes one call of a script (redis_script.c) with the partition's keys; its reply is
 * turned into the answer. Watches read the change streams on a connection of their own (redis_watch.c).
 *
 * Failure paths: the server must keep what it acknowledged (appendonly yes, appendfsync always, no eviction):
 * checked at each connection, else opening fails and nothing is sent. A commit whose connection was lost is
 * E_STORE: it may or may not have happened. One that was never sent is E_UNAVAILABLE. Reads are sent again. A
 * server that forgot the scripts gets their text. Closing waits for all answers; each has a deadline. */
#include "base/store/store.h"

#include <string.h>

#include <hiredis/hiredis.h>

#include "base/core/buf.h"
#include "base/core/mem.h"
#include "base/store/engine.h"
#include "base/store/redis_route.h"
#include "base/store/redis_watch.h"

#define OPEN_MS        30000 /* while the server loads its data */
#define AMOUNT_HEX     36    /* digits of an amount: 144 bits */
#define PARTITION_KEYS 7     /* that the commit script takes before the logs */
#define FIRST_KEY      3     /* in the arguments of a script's call */

struct redis {
    struct engine engine; /* first */
    struct redis_login login;
    struct redis_route *route;
    struct redis_watches *watches;
    size_t n_ops;            /* not yet answered */
    unsigned open;           /* of route, watches and timer */
    struct timer open_timer; /* the deadline of opening */
    store_opened_cb opened;  /* NULL once called */
    void *opened_data;
    int open_code; /* the answer to give when a failed opening is closed */
    struct err open_err;
    bool is_close_deferred;
    void (*closed)(void *data);
    void *closed_data;
};

/* One request in flight. Lives in the request's arena. */
struct redis_op {
    struct redis *s;
    struct request *r;
    enum redis_script script;
    struct slice *argv;
    size_t argc;
    bool is_full_text; /* EVAL instead of EVALSHA */
};

/* --- amounts: 36 hexadecimal digits, two's complement --- */

static struct slice amount_text(struct arena *a, i128 v)
{
    u128 u = (u128)v;
    return slice_str(arena_printf(a, "%s%016llx%016llx", v < 0 ? "ffff" : "0000",
                                  (unsigned long long)(u >> 64), (unsigned long long)u));
}

static bool amount_read(const redisReply *r, i128 *ret)
{
    u128 u = 0;
    if (r->type != REDIS_REPLY_STRING || r->len != AMOUNT_HEX)
        return false;
    for (size_t i = 0; i < AMOUNT_HEX; i++) {
        char c = r->str[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return false;
        u = u << 4 | (unsigned)digit; /* the sign's extra 16 bits fall out */
    }
    *ret = (i128)u;
    return true;
}

/* --- requests as calls --- */

static struct slice key_text(struct request *r, const char *what, struct slice name)
{
    struct buf b = BUF_INIT(REDIS_KEY_MAX);
    redis_key(&b, r->partition, what, name);
    struct slice copy = arena_slice(&r->arena, buf_view(&b));
    buf_fini(&b);
    return copy;
}

static struct slice u64_text(struct arena *a, uint64_t v)
{
    return slice_str(arena_printf(a, "%llu", (unsigned long long)v));
}

static void arg(struct redis_op *op, struct slice s)
{
    op->argv[op->argc++] = s;
}

/* Room for n arguments behind EVALSHA, the script and the number of keys. */
static void args_start(struct redis_op *op, enum redis_script script, size_t n_keys, size_t n)
{
    op->script = script;
    op->argv = arena_alloc(&op->r->arena, (3 + n_keys + n) * sizeof(*op->argv));
    arg(op, SL("EVALSHA"));
    arg(op, slice_str(redis_route_sha(op->s->route, script)));
    arg(op, u64_text(&op->r->arena, n_keys));
}

/* kind, key, a, b: see the script. */
static void arg_op(struct redis_op *op, const struct store_op *o, size_t *log)
{
    struct arena *a = &op->r->arena;
    struct slice v[4] = {SLICE_EMPTY, o->key, SLICE_EMPTY, SLICE_EMPTY};
    switch (o->kind) {
    case STORE_EXPECT:
        v[0] = SL("e");
        v[2] = u64_text(a, o->version);
        break;
    case STORE_PUT:
        v[0] = SL("p");
        v[2] = o->value;
        v[3] = u64_text(a, (uint64_t)o->expires_at_ms);
        break;
    case STORE_DELETE:
        v[0] = SL("d");
        break;
    case STORE_ADD:
        v[0] = SL("a");
        v[2] = amount_text(a, o->amount);
        if (o->has_bound)
            v[3] = amount_text(a, o->bound);
        break;
    case STORE_APPEND:
        v[0] = SL("l");
        v[1] = u64_text(a, ++*log);
        v[2] = o->value;
        break;
    }
    for (size_t i = 0; i < 4; i++)
        arg(op, v[i]);
}

static void args_commit(struct redis_op *op)
{
    static const char *const names[PARTITION_KEYS] = {"seq", "rec", "key", "exp", "cnt", "cix", "chg"};
    struct request *r = op->r;
    size_t n_logs = 0, log = PARTITION_KEYS;
    for (size_t i = 0; i < r->n; i++)
        n_logs += r->ops[i].kind == STORE_APPEND;
    args_start(op, SCRIPT_COMMIT, PARTITION_KEYS + n_logs, 4 * r->n);
    for (size_t i = 0; i < PARTITION_KEYS; i++)
        arg(op, key_text(r, names[i], SLICE_EMPTY));
    for (size_t i = 0; i < r->n; i++)
        if (r->ops[i].kind == STORE_APPEND)
            arg(op, key_text(r, "log:", r->ops[i].key));
    for (size_t i = 0; i < r->n; i++)
        arg_op(op, &r->ops[i], &log);
}

static void args_get(struct redis_op *op)
{
    struct request *r = op->r;
    args_start(op, SCRIPT_GET, 1, 1 + r->n);
    arg(op, key_text(r, "rec", SLICE_EMPTY));
    arg(op, u64_text(&r->arena, STORE_BYTES_MAX));
    for (size_t i = 0; i < r->n; i++)
        arg(op, r->keys[i]);
}

static void args_range(struct redis_op *op, enum redis_script script, const char *hash, const char *set)
{
    struct request *r = op->r;
    args_start(op, script, 2, 4);
    arg(op, key_text(r, hash, SLICE_EMPTY));
    arg(op, key_text(r, set, SLICE_EMPTY));
    arg(op, r->low);
    arg(op, r->high);
    arg(op, u64_text(&r->arena, r->limit));
    arg(op, u64_text(&r->arena, STORE_BYTES_MAX));
}

static void args_log(struct redis_op *op)
{
    struct request *r = op->r;
    args_start(op, SCRIPT_LOG, 1, 3);
    arg(op, key_text(r, "log:", r->log));
    arg(op, u64_text(&r->arena, r->after == UINT64_MAX ? r->after : r->after + 1));
    arg(op, u64_text(&r->arena, r->limit));
    arg(op, u64_text(&r->arena, STORE_BYTES_MAX));
}

/* --- replies as answers --- */

static int malformed(struct request *r)
{
    return request_fail(r, E_STORE, "redis: an answer of another shape than ours");
}

/* What the script said in its first element; -1 when it is no such reply. */
static long long reply_head(const redisReply *p)
{
    if (p->type != REDIS_REPLY_ARRAY || p->elements == 0 || p->element[0]->type != REDIS_REPLY_INTEGER)
        return -1;
    return p->element[0]->integer;
}

static void commit_refused(struct request *r, const redisReply *p, long long why)
{
    if (p->elements != 3 || p->element[1]->type != REDIS_REPLY_INTEGER || p->element[1]->integer < 0 ||
        (uint64_t)p->element[1]->integer >= r->n) {
        (void)malformed(r);
        return;
    }
    size_t i = (size_t)p->element[1]->integer;
    const redisReply *found = p->element[2];
    i128 counter, sum;
    if (why == 1 && found->type == REDIS_REPLY_INTEGER) {
        (void)request_conflict(r, i, (uint64_t)found->integer);
        return;
    }
    if (why == 1 || !amount_read(found, &counter) || request_add(r, i, counter, &sum) == 0)
        (void)malformed(r); /* request_add finds the same fault and says it */
}

static void commit_read(struct request *r, const redisReply *p)
{
    long long head = reply_head(p);
    if (head > 0) {
        commit_refused(r, p, head);
        return;
    }
    if (head != 0 || p->elements != r->n + 1) {
        (void)malformed(r);
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        const redisReply *e = p->element[i + 1];
        if (r->ops[i].kind == STORE_ADD) {
            if (!amount_read(e, &r->results[i].counter)) {
                (void)malformed(r);
                return;
            }
        } else if (e->type != REDIS_REPLY_INTEGER || e->integer < 0) {
            (void)malformed(r);
            return;
        } else {
            r->results[i].version = (uint64_t)e->integer;
        }
    }
}

/* "<version>:<expires_at_ms>:<value>" */
static bool record_read(const redisReply *e, struct store_record *ret)
{
    struct slice rest, version, expires;
    if (e->type != REDIS_REPLY_STRING)
        return false;
    rest = slice_of(e->str, e->len);
    bool is_whole = slice_cut(&rest, ':', &version);
    is_whole &= slice_cut(&rest, ':', &expires);
    if (!is_whole || slice_u64(version, &ret->version) != 0 || slice_i64(expires, &ret->expires_at_ms) != 0)
        return false;
    ret->value = rest;
    return true;
}

static void get_read(struct request *r, const redisReply *p)
{
    if (reply_head(p) == 1) {
        (void)request_fail(r, E_TOO_LARGE, "the records asked for hold more than %u bytes", STORE_BYTES_MAX);
        return;
    }
    r->records = arena_zalloc(&r->arena, r->n * sizeof(*r->records));
    r->items = r->n;
    if (reply_head(p) != 0 || p->elements != r->n + 1) {
        (void)malformed(r);
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        r->records[i].key = r->keys[i];
        if (p->element[i + 1]->type != REDIS_REPLY_NIL && !record_read(p->element[i + 1], &r->records[i])) {
            (void)malformed(r);
            return;
        }
    }
}

/* {has more, a, b, a, b…}: true when the reply is that, with the number of pairs. */
static bool pairs_begin(struct request *r, const redisReply *p)
{
    long long head = reply_head(p);
    if ((head != 0 && head != 1) || p->elements % 2 != 1 || p->elements / 2 > r->limit) {
        (void)malformed(r);
        return false;
    }
    for (size_t i = 1; i < p->elements; i++) {
        if (p->element[i]->type != REDIS_REPLY_STRING) {
            (void)malformed(r);
            return false;
        }
    }
    r->has_more = head == 1;
    r->items = p->elements / 2;
    return true;
}

static struct slice reply_slice(const redisReply *e)
{
    return slice_of(e->str, e->len);
}

static void scan_read(struct request *r, const redisReply *p)
{
    if (!pairs_begin(r, p))
        return;
    r->records = arena_zalloc(&r->arena, r->items * sizeof(*r->records));
    for (size_t i = 0; i < r->items; i++) {
        r->records[i].key = reply_slice(p->element[2 * i + 1]);
        if (!record_read(p->element[2 * i + 2], &r->records[i])) {
            (void)malformed(r);
            return;
        }
    }
}

static void counters_read(struct request *r, const redisReply *p)
{
    if (!pairs_begin(r, p))
        return;
    r->counters = arena_zalloc(&r->arena, r->items * sizeof(*r->counters));
    for (size_t i = 0; i < r->items; i++) {
        r->counters[i].key = reply_slice(p->element[2 * i + 1]);
        if (!amount_read(p->element[2 * i + 2], &r->counters[i].value)) {
            (void)malformed(r);
            return;
        }
    }
}

static void log_read(struct request *r, const redisReply *p)
{
    if (!pairs_begin(r, p))
        return;
    r->entries = arena_zalloc(&r->arena, r->items * sizeof(*r->entries));
    for (size_t i = 0; i < r->items; i++) {
        r->entries[i].value = reply_slice(p->element[2 * i + 2]);
        if (slice_u64(reply_slice(p->element[2 * i + 1]), &r->entries[i].number) != 0 ||
            r->entries[i].number != r->after + 1 + i) {
            (void)malformed(r);
            return;
        }
    }
}

static void reply_read(struct request *r, const redisReply *p)
{
    switch (r->kind) {
    case REQUEST_COMMIT:
        commit_read(r, p);
        break;
    case REQUEST_GET:
        get_read(r, p);
        break;
    case REQUEST_SCAN:
        scan_read(r, p);
        break;
    case REQUEST_COUNTERS:
        counters_read(r, p);
        break;
    case REQUEST_LOG:
        log_read(r, p);
        break;
    }
}

/* Refusals that come before anything was done; all else leaves the outcome open. */
static int error_code(const char *text)
{
    static const char *const before[] = {"LOADING",  "READONLY", "MASTERDOWN", "CLUSTERDOWN",
                                         "TRYAGAIN", "BUSY",     "MOVED",      "NOREPLICAS",
                                         "ASK",      "NOAUTH",   "NOPERM",     "CROSSSLOT"};
    if (strncmp(text, "OOM", 3) == 0)
        return E_NO_SPACE;
    if (strncmp(text, "MISCONF", 7) == 0) /* the append-only file cannot be written */
        return E_NO_SPACE;
    for (size_t i = 0; i < ARRAY_LEN(before); i++)
        if (strncmp(text, before[i], strlen(before[i])) == 0)
            return E_UNAVAILABLE;
    return E_STORE;
}

/* --- the way of a request --- */

static void redis_maybe_end(struct redis *s);

static void op_answer(struct redis_op *op)
{
    struct redis *s = op->s;
    engine_answer(&s->engine, op->r);
    must(s->n_ops > 0);
    s->n_ops--;
    redis_maybe_end(s);
}

static int op_send(struct redis_op *op);

static void on_reply(int code, const redisReply *p, const struct err *err, void *data)
{
    struct redis_op *op = data;
    if (code == 0 && p->type == REDIS_REPLY_ERROR && strncmp(p->str, "NOSCRIPT", 8) == 0 &&
        !op->is_full_text) {
        op->is_full_text =
            true; /* it was not run: the server was restarted, or somebody flushed its scripts */
        op->argv[0] = SL("EVAL");
        op->argv[1] = slice_str(redis_scripts[op->script]);
        if (op_send(op) == 0)
            return;
        (void)request_fail(op->r, E_UNAVAILABLE, "redis: too many requests waiting");
    } else if (code != 0) {
        (void)request_fail(op->r, code, "%s", err->msg);
    } else if (p->type == REDIS_REPLY_ERROR) {
        (void)request_fail(op->r, error_code(p->str), "redis: %s", p->str);
    } else {
        reply_read(op->r, p);
    }
    op_answer(op);
}

static int op_send(struct redis_op *op)
{
    return redis_route_call(op->s->route, op->argv[FIRST_KEY], op->argv, op->argc,
                            op->r->kind != REQUEST_COMMIT, on_reply, op);
}

static void redis_submit(struct engine *e, struct request *r)
{
    struct redis *s = (struct redis *)e;
    struct redis_op *op = arena_zalloc(&r->arena, sizeof(*op));
    op->s = s;
    op->r = r;
    switch (r->kind) {
    case REQUEST_COMMIT:
        args_commit(op);
        break;
    case REQUEST_GET:
        args_get(op);
        break;
    case REQUEST_SCAN:
        args_range(op, SCRIPT_SCAN, "rec", "key");
        break;
    case REQUEST_COUNTERS:
        args_range(op, SCRIPT_COUNTERS, "cnt", "cix");
        break;
    case REQUEST_LOG:
        args_log(op);
        break;
    }
    if (op_send(op) != 0) {
        (void)request_fail(r, E_UNAVAILABLE, "redis: too many requests waiting");
        engine_refuse(e->store.loop, r);
        return;
    }
    s->n_ops++;
}

static struct store_watch *redis_watch(struct store *st, struct slice partition, struct slice prefix,
                                       uint64_t after_version, store_watch_cb cb, void *data)
{
    struct redis *s = (struct redis *)st;
    must(!s->engine.is_closing);
    return redis_watches_add(s->watches, partition, prefix, after_version, cb, data);
}

/* --- closing --- */

static void login_fini(struct redis_login *g)
{
    if (g->password != NULL)
        mem_wipe(g->password, strlen(g->password));
    mem_free(g->password);
    mem_free(g->user);
}

static void redis_free(void *data)
{
    struct redis *s = data;
    if (!feed_fini(&s->engine.feed)) {
        loop_defer(s->engine.store.loop, redis_free, s);
        return;
    }
    void (*closed)(void *data) = s->closed;
    void *closed_data = s->closed_data;
    store_opened_cb opened = s->opened;
    void *opened_data = s->opened_data;
    struct err err = s->open_err;
    int code = s->open_code;
    login_fini(&s->login);
    mem_free(s);
    if (opened != NULL)
        opened(code, NULL, &err, opened_data);
    else if (closed != NULL)
        closed(closed_data);
}

static void on_part_closed(void *data)
{
    struct redis *s = data;
    if (--s->open == 0)
        redis_free(s);
}

static void redis_end(struct redis *s)
{
    s->open = 3;
    redis_route_close(s->route, on_part_closed, s);
    redis_watches_close(s->watches, on_part_closed, s);
    timer_close(&s->open_timer, on_part_closed);
}

static void redis_maybe_end(struct redis *s)
{
    if (s->engine.is_closing && s->n_ops == 0 && s->open == 0 && !s->is_close_deferred)
        redis_end(s);
}

/* In a later turn: the store may be closed from within the callback of a watch. */
static void on_close_turn(void *data)
{
    struct redis *s = data;
    s->is_close_deferred = false;
    redis_maybe_end(s);
}

static void redis_close(struct store *st, void (*closed)(void *data), void *data)
{
    struct redis *s = (struct redis *)st;
    must(!s->engine.is_closing);
    s->engine.is_closing = true;
    s->closed = closed;
    s->closed_data = data;
    s->is_close_deferred = true;
    loop_defer(st->loop, on_close_turn, s);
}

/* --- opening --- */

static const struct store_ops redis_ops = {
    .commit = engine_commit,
    .get = engine_get,
    .scan = engine_scan,
    .counters = engine_counters,
    .log_read = engine_log_read,
    .watch = redis_watch,
    .unwatch = redis_watches_remove,
    .close = redis_close,
};

/* `opened` is called when all is closed again. */
static void open_fail(struct redis *s, int code, const char *why)
{
    s->engine.is_closing = true;
    s->open_code = err_set(&s->open_err, code, "store: %s", why);
    redis_maybe_end(s);
}

static void on_link_state(int code, const struct err *err, void *data)
{
    struct redis *s = data;
    if (s->opened == NULL || s->engine.is_closing)
        return; /* later losses show in the answers */
    if (code == 0) {
        store_opened_cb opened = s->opened;
        s->opened = NULL;
        timer_stop(&s->open_timer);
        opened(0, &s->engine.store, NULL, s->opened_data);
    } else if (code != E_AGAIN) { /* that is: loading its data */
        open_fail(s, code, err->msg);
    }
}

static void on_open_deadline(void *data)
{
    open_fail(data, E_TIMEOUT, "redis is still loading its data");
}

/* %XX in a user name or password. NULL when broken. */
static char *unescape(struct slice in)
{
    char *out = mem_alloc(in.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < in.n; i++) {
        unsigned v = (unsigned char)in.p[i];
        if (v == '%') {
            char pair[2] = {i + 2 < in.n ? in.p[i + 1] : 'x', i + 2 < in.n ? in.p[i + 2] : 'x'};
            v = 0;
            for (size_t k = 0; k < 2; k++) {
                char c = pair[k];
                unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                                 : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                                 : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                        : 256;
                v = v << 4 | digit;
            }
            i += 2;
        }
        if (v == 0 || v > 255) {
            mem_free(out);
            return NULL;
        }
        out[n++] = (char)v;
    }
    out[n] = '\0';
    return out;
}

/* redis://[[user]:password@]host[:port][/db] */
static int login_parse(const char *url, struct redis_login *g, struct err *err)
{
    static const char form[] = "must be redis://[:password@]host:port[/db]";
    struct slice rest = slice_str(url), who, host;
    uint64_t db = 0;
    size_t at = SIZE_MAX;
    if (!slice_starts(rest, SL("redis://")))
        return err_set(err, E_INVALID, "store: the address %s", form);
    rest = slice_from(rest, strlen("redis://"));
    for (size_t i = 0; i < rest.n; i++)
        if (rest.p[i] == '@')
            at = i;
    if (at != SIZE_MAX) {
        struct slice user;
        who = slice_of(rest.p, at);
        rest = slice_from(rest, at + 1);
        if (!slice_cut(&who, ':', &user))
            return err_set(err, E_INVALID, "store: no ':' before the password; the address %s", form);
        g->user = user.n > 0 ? unescape(user) : NULL;
        g->password = unescape(who);
        if (g->password == NULL || (user.n > 0 && g->user == NULL))
            return err_set(err, E_INVALID, "store: a broken %%XX before '@'; the address %s", form);
    }
    bool has_db = slice_cut(&rest, '/', &host);
    if (has_db && rest.n > 0 && (slice_u64(rest, &db) != 0 || db > 1000000))
        return err_set(err, E_INVALID, "store: the number behind '/' is no database; the address %s", form);
    g->db = (unsigned)db;
    struct buf text = BUF_INIT(512);
    bool has_port = slice_ends(host, SL("]")) ? false : slice_find(host, ':') != SIZE_MAX;
    (void)buf_printf(&text, "%.*s%s", SL_ARG(host), has_port ? "" : ":6379"); /* too long: refused below */
    int rc = host.n == 0 ? E_INVALID : endpoint_parse(buf_view(&text), &g->to, NULL);
    buf_fini(&text);
    if (rc != 0 || g->to.is_unix)
        return err_set(err, E_INVALID, "store: no host and port in it; the address %s", form);
    return 0;
}

struct failed_open {
    store_opened_cb opened;
    void *data;
    struct err err;
};

static void on_failed_open(void *data)
{
    struct failed_open *f = data;
    f->opened(f->err.code, NULL, &f->err, f->data);
    mem_free(f);
}

void store_redis_open(struct loop *l, const char *url, store_opened_cb opened, void *data)
{
    struct redis *s = MEM_NEW(struct redis);
    struct err err;
    if (login_parse(url, &s->login, &err) != 0) {
        struct failed_open *f = MEM_NEW(struct failed_open);
        *f = (struct failed_open){opened, data, err};
        login_fini(&s->login);
        mem_free(s);
        loop_defer(l, on_failed_open, f);
        return;
    }
    s->engine.store.ops = &redis_ops;
    s->engine.store.loop = l;
    s->engine.submit = redis_submit;
    feed_init(&s->engine.feed, &s->engine.store);
    s->opened = opened;
    s->opened_data = data;
    timer_init(&s->open_timer, l, on_open_deadline, s);
    timer_start(&s->open_timer, OPEN_MS);
    s->watches = redis_watches_new(&s->engine.store, &s->login);
    s->route = redis_route_new(l, &s->login, on_link_state, s);
}
