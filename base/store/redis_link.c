/* redis_link: hiredis as a codec over our streams.
 *
 * Happy path: connect; greet (login, look at the settings, load the scripts); then calls go out in their
 * order, all of one turn in one write, and replies come back in the same order.
 *
 * Failure paths: a connection that breaks, talks nonsense or is silent past a call's time is dropped. What
 * was not sent waits for the next connection; what was sent is sent again once if that is safe, else fails as
 * E_STORE, outcome unknown. Reconnecting backs off from 50 ms to 2 s with jitter. A call that waits too long
 * for a connection fails as E_UNAVAILABLE. Every connection is greeted anew: settings may have changed,
 * scripts may be gone. */
#include "base/store/redis_link.h"

#include <stdio.h>
#include <string.h>

#include <hiredis/hiredis.h>
#include <utlist.h>

#include "base/core/buf.h"
#include "base/core/mem.h"

#define TICK_MS          100
#define CONNECT_MS       5000
#define GREETING_MS      5000
#define BACKOFF_FIRST_MS 50u
#define BACKOFF_MAX_MS   2000u
#define WRITE_CALLS_MAX  256
#define WRITE_BYTES_MAX  (1u << 20)

struct redis_call {
    struct redis_call *prev, *next;
    char *cmd; /* NULL once sent, unless is_safe */
    size_t n;
    bool is_safe, was_sent;
    uint64_t since_ms; /* in its list */
    redis_reply_cb cb;
    void *data;
};

enum link_state { LINK_RESTING, LINK_CONNECTING, LINK_GREETING, LINK_READY, LINK_CLOSED };

enum greeting { /* the replies that are awaited, in this order; some are left out */
                GREET_AUTH,
                GREET_SELECT,
                GREET_PING,
                GREET_APPENDONLY,
                GREET_APPENDFSYNC,
                GREET_MAXMEMORY,
                GREET_POLICY,
                GREET_SCRIPT, /* SCRIPT_COUNT of them */
                GREET_END = GREET_SCRIPT + SCRIPT_COUNT
};

struct redis_link {
    struct loop *loop;
    const struct redis_login *login;
    enum link_state state;
    uint64_t state_since_ms;
    struct connect_op *connecting;
    struct stream *stream;
    redisReader *reader;
    unsigned greeting;     /* the next reply, enum greeting */
    bool has_memory_limit; /* maxmemory is not 0 */
    char sha[SCRIPT_COUNT][41];
    struct redis_call *waiting, *sent;
    size_t n_calls, bytes;
    bool is_full; /* the stream wants no more for now */
    unsigned attempts;
    char last_why[256]; /* why the latest connection ended or did not come */
    struct timer tick, rest;
    unsigned holds; /* timers, deferred calls, the connect: the link lives while there are any */
    bool is_flush_deferred;
    redis_state_cb on_state;
    void *state_data;
    void (*closed)(void *data);
    void *closed_data;
};

static void link_connect(struct redis_link *l);
static void link_drop(struct redis_link *l, int code, const char *why);

static uint64_t now_ms(const struct redis_link *l)
{
    return uv_now(&l->loop->uv); /* the loop's own time: a clock that a test holds must not stop deadlines */
}

static void link_release(struct redis_link *l)
{
    must(l->holds > 0);
    if (--l->holds > 0)
        return;
    void (*closed)(void *data) = l->closed;
    void *data = l->closed_data;
    mem_free(l);
    if (closed != NULL)
        closed(data);
}

static void on_hold_closed(void *data)
{
    link_release(data);
}

static void link_move(struct redis_link *l, enum link_state to)
{
    l->state = to;
    l->state_since_ms = now_ms(l);
}

/* --- calls --- */

static void call_free(struct redis_call *c)
{
    mem_free(c->cmd);
    mem_free(c);
}

static void call_end(struct redis_link *l, struct redis_call *c, int code, const redisReply *reply,
                     const char *why)
{
    struct err err;
    l->n_calls--;
    l->bytes -= c->n;
    if (code != 0)
        err_set(&err, code, "redis: %s", why);
    c->cb(code, reply, code != 0 ? &err : NULL, c->data);
    call_free(c);
}

static void calls_fail(struct redis_link *l, struct redis_call *list, int code, const char *why)
{
    struct redis_call *c, *next;
    DL_FOREACH_SAFE (list, c, next) /* the list is ours alone: callbacks cannot reach it */
        call_end(l, c, code, NULL, why);
}

/* Sends what waits, in one write. Failures to write come back as on_error. */
static void link_flush(struct redis_link *l)
{
    while (l->state == LINK_READY && !l->is_full && l->waiting != NULL) {
        struct slice v[WRITE_CALLS_MAX];
        struct redis_call *batch[WRITE_CALLS_MAX], *c;
        size_t n = 0, bytes = 0;
        DL_FOREACH (l->waiting, c) {
            if (n == WRITE_CALLS_MAX || (n > 0 && bytes + c->n > WRITE_BYTES_MAX))
                break;
            v[n] = slice_of(c->cmd, c->n);
            bytes += c->n;
            batch[n++] = c;
        }
        l->is_full = stream_write(l->stream, v, n) != 0;
        for (size_t i = 0; i < n; i++) {
            c = batch[i];
            DL_DELETE(l->waiting, c);
            DL_APPEND(l->sent, c);
            c->since_ms = now_ms(l);
            if (!c->is_safe || c->was_sent) {
                mem_free(c->cmd);
                c->cmd = NULL;
            }
            c->was_sent = true;
        }
    }
}

static void on_flush(void *data)
{
    struct redis_link *l = data;
    l->is_flush_deferred = false;
    link_flush(l);
    link_release(l);
}

static void flush_later(struct redis_link *l)
{
    if (l->is_flush_deferred)
        return;
    l->is_flush_deferred = true;
    l->holds++;
    loop_defer(l->loop, on_flush, l);
}

/* A command in Redis' form, in memory of ours. */
static char *format(const struct slice *argv, size_t argc, size_t *ret_n)
{
    const char **texts = mem_alloc(argc * sizeof(*texts));
    size_t *lengths = mem_alloc(argc * sizeof(*lengths));
    char *cmd, *copy;
    for (size_t i = 0; i < argc; i++) {
        texts[i] = argv[i].n > 0 ? argv[i].p : "";
        lengths[i] = argv[i].n;
    }
    int n = redisFormatCommandArgv(&cmd, (int)argc, texts, lengths);
    must(n > 0); /* fails for lack of memory only; arguments are bounded by the store's limits */
    copy = mem_alloc((size_t)n);
    memcpy(copy, cmd, (size_t)n);
    redisFreeCommand(cmd);
    mem_free(texts);
    mem_free(lengths);
    *ret_n = (size_t)n;
    return copy;
}

static void tick_start(struct redis_link *l)
{
    if (!timer_is_active(&l->tick))
        timer_repeat(&l->tick, TICK_MS);
}

int redis_link_call(struct redis_link *l, const struct slice *argv, size_t argc, bool is_safe,
                    redis_reply_cb cb, void *data)
{
    if (l->state == LINK_CLOSED || l->n_calls >= REDIS_CALLS_MAX || l->bytes >= REDIS_CALL_BYTES_MAX)
        return E_UNAVAILABLE;
    struct redis_call *c = MEM_NEW(struct redis_call);
    c->cmd = format(argv, argc, &c->n);
    c->is_safe = is_safe;
    c->since_ms = now_ms(l);
    c->cb = cb;
    c->data = data;
    l->n_calls++;
    l->bytes += c->n;
    DL_APPEND(l->waiting, c);
    tick_start(l);
    if (l->state == LINK_READY)
        flush_later(l);
    return 0;
}

const char *redis_link_sha(const struct redis_link *l, enum redis_script s)
{
    return l->sha[s];
}

/* --- time --- */

static void on_tick(void *data)
{
    struct redis_link *l = data;
    uint64_t now = now_ms(l);
    if (l->state == LINK_GREETING && now - l->state_since_ms > GREETING_MS)
        link_drop(l, E_TIMEOUT, "no answer to the greeting");
    else if (l->sent != NULL && now - l->sent->since_ms > REDIS_TIMEOUT_MS)
        link_drop(l, E_TIMEOUT, "no answer in time");
    struct redis_call *late = NULL;
    while (l->waiting != NULL && now - l->waiting->since_ms > REDIS_TIMEOUT_MS) {
        struct redis_call *c = l->waiting;
        DL_DELETE(l->waiting, c);
        DL_APPEND(late, c);
    }
    if (l->n_calls == 0 && l->state == LINK_READY)
        timer_stop(&l->tick);
    char why[sizeof(l->last_why) + 32];
    (void)snprintf(why, sizeof(why), "no connection in time: %s", l->last_why); /* as above */
    calls_fail(l, late, E_UNAVAILABLE, why);
}

static void on_rest_over(void *data)
{
    link_connect(data);
}

/* --- a connection ends --- */

static void rest(struct redis_link *l)
{
    uint64_t ms = (uint64_t)BACKOFF_FIRST_MS << (l->attempts < 6 ? l->attempts : 6);
    if (ms > BACKOFF_MAX_MS)
        ms = BACKOFF_MAX_MS;
    l->attempts++;
    link_move(l, LINK_RESTING);
    timer_start(&l->rest, (int64_t)(ms / 2 + rnd_below(l->loop->rnd, ms / 2 + 1)));
    tick_start(l);
}

/* What was sent goes to the front of what waits if that is safe, else to *ret_lost. */
static void take_back(struct redis_link *l, struct redis_call **ret_lost)
{
    while (l->sent != NULL) {
        struct redis_call *c = l->sent->prev; /* the last one */
        DL_DELETE(l->sent, c);
        if (c->cmd != NULL) {
            c->since_ms = now_ms(l);
            DL_PREPEND(l->waiting, c);
        } else {
            DL_PREPEND(*ret_lost, c);
        }
    }
}

static void connection_end(struct redis_link *l)
{
    if (l->stream != NULL)
        stream_reset(l->stream);
    l->stream = NULL;
    if (l->reader != NULL)
        redisReaderFree(l->reader);
    l->reader = NULL;
    l->is_full = false;
}

static void link_drop(struct redis_link *l, int code, const char *why)
{
    struct redis_call *lost = NULL;
    bool was_ready = l->state == LINK_READY;
    struct err err;
    connection_end(l);
    take_back(l, &lost);
    if (was_ready)
        l->attempts = 0;
    rest(l);
    err_set(&err, code, "redis %s:%u: %s", l->login->to.host, l->login->to.port, why);
    (void)snprintf(l->last_why, sizeof(l->last_why), "%s", why); /* cut: it is for people */
    l->holds++;                                                  /* callbacks may close the link */
    calls_fail(l, lost, E_STORE, "connection lost, outcome unknown");
    if (l->state != LINK_CLOSED)
        l->on_state(code, &err, l->state_data);
    link_release(l);
}

/* --- greeting --- */

static void greet(struct buf *out, const struct slice *argv, size_t argc)
{
    size_t n;
    char *cmd = format(argv, argc, &n);
    must(buf_append(out, cmd, n) == 0); /* our own scripts and a bounded login */
    mem_wipe(cmd, n);
    mem_free(cmd);
}

#define GREET(out, ...)                                                                                      \
    greet((out), (const struct slice[]){__VA_ARGS__},                                                        \
          sizeof((const struct slice[]){__VA_ARGS__}) / sizeof(struct slice))

static void link_greet(struct redis_link *l)
{
    struct buf out = BUF_INIT(1 << 20);
    const struct redis_login *g = l->login;
    char db[16];
    link_move(l, LINK_GREETING);
    l->greeting = g->password != NULL ? GREET_AUTH : g->db > 0 ? GREET_SELECT : GREET_PING;
    if (g->password != NULL && g->user != NULL)
        GREET(&out, SL("AUTH"), slice_str(g->user), slice_str(g->password));
    else if (g->password != NULL)
        GREET(&out, SL("AUTH"), slice_str(g->password));
    snprintf(db, sizeof(db), "%u", g->db);
    if (g->db > 0)
        GREET(&out, SL("SELECT"), slice_str(db));
    GREET(&out, SL("PING"));
    GREET(&out, SL("CONFIG"), SL("GET"), SL("appendonly"));
    GREET(&out, SL("CONFIG"), SL("GET"), SL("appendfsync"));
    GREET(&out, SL("CONFIG"), SL("GET"), SL("maxmemory"));
    GREET(&out, SL("CONFIG"), SL("GET"), SL("maxmemory-policy"));
    for (size_t i = 0; i < SCRIPT_COUNT; i++)
        GREET(&out, SL("SCRIPT"), SL("LOAD"), slice_str(redis_scripts[i]));
    struct slice v = buf_view(&out);
    (void)stream_write(l->stream, &v,
                       1); /* failures come as on_error; nothing else is written before the replies */
    buf_wipe(&out);
}

/* A CONFIG GET must have answered with this value. */
static int setting_check(const redisReply *r, const char *name, const char *want, struct err *err)
{
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 2 || r->element[1]->type != REDIS_REPLY_STRING)
        return err_set(err, E_INVALID,
                       "CONFIG GET %s is not answered: the settings that keep data safe cannot be seen",
                       name);
    if (strcmp(r->element[1]->str, want) != 0)
        return err_set(
            err, E_INVALID,
            "%s is \"%s\", must be \"%s\": set it in redis.conf (or CONFIG SET %s %s, CONFIG REWRITE)", name,
            r->element[1]->str, want, name, want);
    return 0;
}

static int greeting_check(struct redis_link *l, const redisReply *r, struct err *err)
{
    unsigned step = l->greeting;
    if (r->type == REDIS_REPLY_ERROR) {
        if (strncmp(r->str, "LOADING", 7) == 0)
            return err_set(err, E_AGAIN, "%s", r->str);
        return err_set(err, step == GREET_AUTH || strncmp(r->str, "NOAUTH", 6) == 0 ? E_AUTH : E_INVALID,
                       "%s", r->str);
    }
    switch (step) {
    case GREET_AUTH:
    case GREET_SELECT:
    case GREET_PING:
        return 0;
    case GREET_APPENDONLY:
        return setting_check(r, "appendonly", "yes", err);
    case GREET_APPENDFSYNC:
        return setting_check(r, "appendfsync", "always", err);
    case GREET_MAXMEMORY:
        l->has_memory_limit = setting_check(r, "maxmemory", "0", NULL) != 0;
        return 0;
    case GREET_POLICY: /* with a limit of memory, any other policy throws our data away */
        return l->has_memory_limit ? setting_check(r, "maxmemory-policy", "noeviction", err) : 0;
    default:
        if (r->type != REDIS_REPLY_STRING || strlen(r->str) != 40)
            return err_set(err, E_UNAVAILABLE, "SCRIPT LOAD gave no name");
        memcpy(l->sha[step - GREET_SCRIPT], r->str, 41);
        return 0;
    }
}

static void on_greeting_reply(struct redis_link *l, const redisReply *r)
{
    struct err err;
    int rc = greeting_check(l, r, &err);
    if (rc != 0) {
        char why[ERR_MSG_MAX];
        snprintf(why, sizeof(why), "%s", err.msg);
        link_drop(l, rc, why);
        return;
    }
    l->greeting++;
    if (l->greeting == GREET_SELECT && l->login->db == 0)
        l->greeting++;
    if (l->greeting < GREET_END)
        return;
    link_move(l, LINK_READY);
    l->attempts = 0;
    l->on_state(0, NULL, l->state_data);
    if (l->state == LINK_READY && l->waiting != NULL)
        flush_later(l);
}

/* --- the stream --- */

static void on_stream_read(struct stream *s, struct slice bytes, void *data)
{
    struct redis_link *l = data;
    if (redisReaderFeed(l->reader, bytes.p, bytes.n) != REDIS_OK) {
        link_drop(l, E_UPSTREAM, "the answer cannot be kept");
        return;
    }
    l->holds++; /* callbacks may close the link */
    while (l->stream == s) {
        void *reply = NULL;
        if (redisReaderGetReply(l->reader, &reply) != REDIS_OK) {
            link_drop(l, E_UPSTREAM, "the answer is not in Redis' protocol");
            break;
        }
        if (reply == NULL)
            break;
        if (l->state == LINK_GREETING) {
            on_greeting_reply(l, reply);
        } else if (l->sent == NULL) {
            link_drop(l, E_UPSTREAM, "an answer that nobody asked for");
        } else {
            struct redis_call *c = l->sent;
            DL_DELETE(l->sent, c);
            call_end(l, c, 0, reply, NULL);
        }
        freeReplyObject(reply);
    }
    link_release(l);
}

static void on_stream_eof(struct stream *s, void *data)
{
    (void)s;
    link_drop(data, E_EOF, "the server closed the connection");
}

static void on_stream_error(struct stream *s, int code, void *data)
{
    (void)s;
    link_drop(data, code, "the connection broke");
}

static void on_stream_drain(struct stream *s, void *data)
{
    struct redis_link *l = data;
    (void)s;
    l->is_full = false;
    link_flush(l);
}

static const struct stream_events link_events = {
    .on_read = on_stream_read,
    .on_eof = on_stream_eof,
    .on_error = on_stream_error,
    .on_drain = on_stream_drain,
};

static void on_connected(int code, struct stream *s, const struct err *err, void *data)
{
    struct redis_link *l = data;
    l->connecting = NULL;
    if (l->state == LINK_CLOSED) {
        if (code == 0)
            stream_reset(s);
    } else if (code != 0) {
        link_drop(l, code, err != NULL && err->msg[0] != '\0' ? err->msg : err_title(code));
    } else {
        l->stream = s;
        l->reader = redisReaderCreate();
        must(l->reader != NULL);
        stream_own(s, &link_events, l);
        stream_read_start(s);
        link_greet(l);
    }
    link_release(l);
}

static void link_connect(struct redis_link *l)
{
    link_move(l, LINK_CONNECTING);
    l->holds++;
    l->connecting = stream_connect(l->loop, &l->login->to, CONNECT_MS, on_connected, l);
}

/* --- life --- */

struct redis_link *redis_link_new(struct loop *loop, const struct redis_login *login, redis_state_cb on_state,
                                  void *data)
{
    struct redis_link *l = MEM_NEW(struct redis_link);
    l->loop = loop;
    l->login = login;
    l->on_state = on_state;
    l->state_data = data;
    timer_init(&l->tick, loop, on_tick, l);
    timer_init(&l->rest, loop, on_rest_over, l);
    l->holds = 2;
    link_connect(l);
    tick_start(l);
    return l;
}

static void on_close(void *data)
{
    struct redis_link *l = data;
    struct redis_call *lost = NULL, *unsent = l->waiting;
    while (l->sent != NULL) {
        struct redis_call *c = l->sent;
        DL_DELETE(l->sent, c);
        DL_APPEND(lost, c);
    }
    l->waiting = NULL;
    calls_fail(l, lost, E_CANCELLED, "closed");
    calls_fail(l, unsent, E_CANCELLED, "closed");
    timer_close(&l->tick, on_hold_closed);
    timer_close(&l->rest, on_hold_closed);
    link_release(l);
}

void redis_link_close(struct redis_link *l, void (*closed)(void *data), void *data)
{
    must(l->state != LINK_CLOSED);
    link_move(l, LINK_CLOSED);
    l->closed = closed;
    l->closed_data = data;
    timer_stop(&l->tick);
    timer_stop(&l->rest);
    if (l->connecting != NULL)
        connect_cancel(l->connecting);
    connection_end(l);
    l->holds++;
    loop_defer(l->loop, on_close, l);
}
