/* acp_stream: one event stream of a server id, from the server inside to a client (or to nobody: a watcher,
 * which only looks for the agent's end). See acp.h for the rules it keeps.
 *
 * Events are passed on whole. Reading from the server inside goes on while the client is slow, up to
 * SPOOL_BYTES_MAX in the connection's queue: a reader that stalls loses events there without a word. Lost
 * ones show as gaps in the ids, and asking again from the last one that was passed on brings them back while
 * they are in the server's ring. */
#include "controller/edge/acp_server.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/edge/envelope.h"
#include "controller/edge/streams.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define SPOOL_BYTES_MAX ((size_t)8 * 1024 * 1024)
#define HOLD_MS         30000 /* how long a stream is held open for a server id that does not exist */
#define RETRY_FIRST_MS  20
#define RETRY_LAST_MS   50
#define LOST_TRIES_MAX  5 /* after having been fed: attempts to find the server id again */
#define COMMENT_MS      15000

struct acp_stream {
    struct acp_server *server;
    struct request *rq; /* NULL: a watcher */
    bool was_client;    /* began with a client: counts among the live ones */
    char subject[160];  /* whose stream it is; a watcher's: the owner */
    struct http_call *call;
    struct timer *retry, *comment;
    char last_event_id[24]; /* asked with; "" for the whole ring */
    uint64_t last_id;
    bool has_last;
    bool is_live; /* fed by the server inside */
    bool was_live;
    uint64_t n_lost; /* gaps that could not be healed */
    bool is_healing; /* asked again because of a gap: the next gap is real */
    bool is_paused;
    unsigned busy;    /* inside a callback that still needs it */
    bool is_unwanted; /* freed as soon as it is not busy */
    int tries;
    int status;
    int64_t held_since_ms;
    size_t spooled; /* bytes given to the client's connection since it said stop */
    bool is_stalled;
    struct buf partial; /* of an event that is not whole yet */
    struct acp_stream *prev, *next;
};

struct acp_stream *acp_stream_next(const struct acp_stream *st)
{
    return st->next;
}

bool acp_stream_has_client(const struct acp_stream *st)
{
    return st->rq != NULL;
}

static void stream_ask(struct acp_stream *st);

static void live_set(struct acp_stream *st, bool is_live)
{
    if (st->is_live == is_live)
        return;
    st->is_live = is_live;
    if (!st->was_client)
        return; /* a watcher: no client would see an answer on it */
    if (is_live)
        st->server->n_live++;
    else
        st->server->n_live--;
}

/* Lets go of everything but the exchange. */
static void stream_free(struct acp_stream *st)
{
    live_set(st, false);
    if (st->was_client)
        streams_leave(st->server->acp->c, st->server->workspace_id);
    if (st->call != NULL)
        http_call_cancel(st->call);
    timer_free(st->retry);
    timer_free(st->comment);
    DL_DELETE(st->server->streams, st);
    buf_fini(&st->partial);
    mem_free(st);
}

/* Ends the client's stream cleanly: its reader comes back with Last-Event-ID. */
static void stream_end(struct acp_stream *st)
{
    struct acp_server *s = st->server;
    struct request *rq = st->rq;
    must(st->busy == 0);
    stream_free(st);
    if (rq != NULL) {
        struct exchange *ex = rq->ex;
        request_gone(rq);
        exchange_end(ex);
    }
    acp_server_maybe_free(s);
}

void acp_stream_free_all(struct acp_server *s)
{
    struct acp_stream *st, *tmp;
    DL_FOREACH_SAFE (s->streams, st, tmp) {
        struct request *rq = st->rq;
        stream_free(st);
        if (rq != NULL) {
            struct exchange *ex = rq->ex;
            request_gone(rq);
            exchange_end(ex);
        }
    }
}

/* --- towards the client --- */

static void forward(struct acp_stream *st, struct slice bytes)
{
    if (bytes.n == 0 || st->rq == NULL)
        return;
    if (exchange_write(st->rq->ex, bytes) == E_AGAIN)
        st->is_stalled = true;
    if (!st->is_stalled)
        return;
    st->spooled += bytes.n;
    if (st->spooled > SPOOL_BYTES_MAX && st->call != NULL && !st->is_paused) {
        st->is_paused = true;
        http_call_pause(st->call);
    }
}

bool acp_stream_send(struct acp_stream *st, struct slice event)
{
    if (st->rq == NULL || strcmp(st->subject, st->server->subject) != 0)
        return false;
    forward(st, event);
    return true;
}

static void on_client_drain(struct exchange *ex, void *data)
{
    (void)ex;
    struct acp_stream *st = data;
    st->is_stalled = false;
    st->spooled = 0;
    if (st->is_paused && st->call != NULL) {
        st->is_paused = false;
        http_call_resume(st->call);
    }
}

static void on_client_gone(struct exchange *ex, void *data)
{
    (void)ex;
    struct acp_stream *st = data;
    struct acp_server *s = st->server;
    request_gone(st->rq);
    st->rq = NULL;
    stream_free(st);
    if (s->pending != NULL && s->streams == NULL)
        acp_stream_watch(s); /* the requests in flight still want to know of the agent's end */
    acp_server_maybe_free(s);
}

static const struct exchange_events client_events = {.on_abort = on_client_gone, .on_drain = on_client_drain};

static void on_comment(void *data)
{
    struct acp_stream *st = data;
    if (!st->is_live)
        forward(st, SL(": waiting\n\n"));
}

/* --- events from the server inside --- */

struct event {
    bool has_id;
    uint64_t id;
    struct slice data; /* of its first data line: envelopes are one line */
};

static void event_read(struct slice text, struct event *e)
{
    struct slice line;
    *e = (struct event){false, 0, SLICE_NULL};
    for (bool more = true; more;) {
        more = slice_cut(&text, '\n', &line);
        if (slice_starts(line, SL("id:")))
            e->has_id = slice_u64(slice_trim(slice_from(line, 3)), &e->id) == 0;
        else if (slice_starts(line, SL("data:")) && e->data.p == NULL)
            e->data = slice_trim(slice_from(line, 5));
    }
}

/* The agent's end, and answers to requests in flight. True: the agent exited. */
static bool event_note(struct acp_stream *st, struct slice data)
{
    struct envelope e;
    static const char exited[] = "_adapter/agent_exited";
    bool may_exit = data.n > 0 && memmem(data.p, data.n, exited, sizeof exited - 1) != NULL;
    if (data.n == 0 || (st->server->pending == NULL && !may_exit) || !envelope_scan(data, &e))
        return false;
    if (e.id.p != NULL && e.has_result && e.method.p == NULL)
        acp_pending_answered(st->server, e.id, data);
    return e.id.p == NULL && slice_eq_str(e.method, exited);
}

enum event_fate { EVENT_PASS, EVENT_SKIP, EVENT_GAP };

static enum event_fate event_fate(struct acp_stream *st, const struct event *e)
{
    if (!e->has_id)
        return EVENT_PASS;
    if (st->has_last && e->id <= st->last_id)
        return EVENT_SKIP; /* a repetition after asking again */
    if (st->has_last && e->id > st->last_id + 1) {
        if (!st->is_healing)
            return EVENT_GAP;
        st->n_lost++;
        if ((st->n_lost & (st->n_lost - 1)) ==
            0) /* the 1st, 2nd, 4th, 8th …: a hostile server cannot fill the log */
            log_warn("acp.events_lost", LF_STR("workspace", st->server->workspace_id),
                     LF_STR("server_id", st->server->id), LF_INT("after", st->last_id),
                     LF_INT("found", e->id));
    }
    st->is_healing = false;
    st->has_last = true;
    st->last_id = e->id;
    return EVENT_PASS;
}

static void agent_exited(struct acp_stream *st)
{
    struct err err = {0};
    err_set(&err, E_GONE, "session lost: the agent exited");
    st->server->is_dead = true;
    acp_server_bury(st->server);
    acp_server_fail(st->server, &err);
}

/* Takes whole events from the front of `in`; returns how many bytes it took, or SIZE_MAX when the stream is
 * asked anew (or gone) and the rest is void. */
static size_t events_take(struct acp_stream *st, struct slice in)
{
    size_t at = 0, run = 0; /* [run, at) is passed on in one piece */
    for (;;) {
        const char *end = memmem(in.p + at, in.n - at, "\n\n", 2);
        struct event e;
        if (end == NULL)
            break;
        size_t next = (size_t)(end - in.p) + 2;
        event_read(slice_of(in.p + at, next - at), &e);
        enum event_fate fate = event_fate(st, &e);
        if (fate == EVENT_PASS) {
            if (event_note(st, e.data)) {
                forward(st, slice_of(in.p + run, next - run));
                run = next;
                agent_exited(st);
            }
        } else {
            forward(st, slice_of(in.p + run, at - run));
            run = next;
        }
        at = next;
        if (fate == EVENT_GAP) {
            st->is_healing = true;
            http_call_cancel(st->call);
            st->call = NULL;
            live_set(st, false);
            timer_start(st->retry, RETRY_FIRST_MS); /* not here: asking may end the stream */
            return SIZE_MAX;
        }
    }
    forward(st, slice_of(in.p + run, at - run));
    return at;
}

/* Failing requests may make a watcher unwanted while it is the one that found out. */
static void stream_unbusy(struct acp_stream *st)
{
    struct acp_server *s = st->server;
    if (--st->busy == 0 && st->is_unwanted) {
        stream_free(st);
        acp_server_maybe_free(s);
    }
}

static void on_body(struct http_call *call, struct slice bytes, void *data)
{
    (void)call;
    struct acp_stream *st = data;
    if (st->status != 200)
        return;
    if (st->partial.n > 0 && buf_slice(&st->partial, bytes) != 0) {
        log_warn("acp.event_too_large", LF_STR("workspace", st->server->workspace_id));
        stream_end(st);
        return;
    }
    st->busy++;
    if (st->partial.n > 0) {
        size_t n = events_take(st, buf_view(&st->partial));
        buf_consume(&st->partial, n == SIZE_MAX ? st->partial.n : n);
        if (st->partial.n == 0)
            buf_fini(&st->partial);
    } else {
        size_t n = events_take(st, bytes);
        if (n != SIZE_MAX && n < bytes.n)
            (void)buf_slice(&st->partial, slice_from(bytes, n)); /* at most one read: fits */
    }
    stream_unbusy(st);
}

static void stream_lost(struct acp_stream *st)
{
    struct err err = {0};
    err_set(&err, E_GONE, "session lost: the server in the sandbox does not know this server id any more");
    st->busy++;
    st->server->busy++;
    if (st->was_live)
        acp_server_fail(st->server, &err);
    st->server->busy--;
    st->busy--;
    stream_end(st);
}

static void on_retry(void *data)
{
    stream_ask(data);
}

static void retry_later(struct acp_stream *st)
{
    int64_t now = clock_mono_ms(st->server->acp->c->loop.clock);
    int64_t after = RETRY_FIRST_MS + 10 * st->tries;
    st->tries++;
    if (st->was_live ? st->tries > LOST_TRIES_MAX : now - st->held_since_ms > HOLD_MS) {
        stream_lost(st);
        return;
    }
    timer_start(st->retry, after < RETRY_LAST_MS ? after : RETRY_LAST_MS);
}

static void on_head(struct http_call *call, const struct http_response *r, void *data)
{
    (void)call;
    struct acp_stream *st = data;
    st->status = r->status;
    if (r->status != 200)
        return;
    st->tries = 0;
    st->was_live = true;
    live_set(st, true);
    acp_server_attached(st->server);
}

static void on_end(struct http_call *call, void *data)
{
    (void)call;
    struct acp_stream *st = data;
    st->call = NULL;
    live_set(st, false);
    buf_fini(&st->partial);
    retry_later(st);
}

static void on_error(struct http_call *call, int code, const struct err *err, void *data)
{
    (void)err;
    (void)code;
    on_end(call, data);
}

static const struct http_call_events call_events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

static void stream_ask(struct acp_stream *st)
{
    struct controller *c = st->server->acp->c;
    struct workspace *ws = scheduler_find_id(c->scheduler, slice_str(st->server->workspace_id));
    char target[ACP_SERVER_ID_MAX + 16], bearer[128];
    if (c->is_draining) {
        stream_end(st);
        return;
    }
    if (ws == NULL || (st->server->subject[0] != '\0' && strcmp(st->server->subject, st->subject) != 0)) {
        stream_lost(st); /* deleted, or somebody else was first to use the id */
        return;
    }
    if (st->server->subject[0] == '\0' || ws->state != WS_READY || ws->server == NULL) {
        retry_later(st);
        return;
    }
    if (st->has_last)
        (void)snprintf(st->last_event_id, sizeof st->last_event_id, "%llu", (unsigned long long)st->last_id);
    (void)snprintf(target, sizeof target, "/v1/acp/%s", st->server->id);
    (void)snprintf(bearer, sizeof bearer, "Bearer %s", ws->server_token);
    struct http_header h[] = {{SL("Host"), SL("127.0.0.1")},
                              {SL("Authorization"), slice_str(bearer)},
                              {SL("Accept"), SL("text/event-stream")},
                              {SL("Last-Event-ID"), slice_str(st->last_event_id)}};
    struct http_call_options o = {.method = SL("GET"),
                                  .target = slice_str(target),
                                  .headers = h,
                                  .n_headers = st->last_event_id[0] != '\0' ? 4 : 3,
                                  .is_single = true};
    live_set(st, false);
    st->status = 0;
    st->is_paused = false;
    st->call = http_call_start(ws->server, &o, &call_events, st);
    mem_wipe(bearer, sizeof bearer);
}

/* --- start --- */

static struct acp_stream *stream_new(struct acp_server *s, struct request *rq)
{
    struct acp_stream *st = MEM_NEW(struct acp_stream);
    st->server = s;
    st->rq = rq;
    st->was_client = rq != NULL;
    st->partial = BUF_INIT(ACP_ENVELOPE_MAX);
    st->held_since_ms = clock_mono_ms(s->acp->c->loop.clock);
    st->retry = timer_new(&s->acp->c->loop, on_retry, st);
    DL_APPEND(s->streams, st);
    return st;
}

void acp_stream_watch(struct acp_server *s)
{
    struct acp_stream *st = stream_new(s, NULL);
    (void)snprintf(st->subject, sizeof st->subject, "%s", s->subject);
    timer_start(st->retry, RETRY_FIRST_MS);
}

void acp_stream_unwatch(struct acp_server *s)
{
    struct acp_stream *st, *tmp;
    if (s->pending != NULL)
        return;
    DL_FOREACH_SAFE (s->streams, st, tmp) {
        if (st->rq == NULL && st->busy > 0)
            st->is_unwanted = true;
        else if (st->rq == NULL)
            stream_free(st);
    }
}

static void on_drain(struct request *rq, void *data)
{
    (void)rq;
    stream_end(data);
}

void acp_stream_start(struct request *rq, struct acp_server *s)
{
    struct http_header h[REQUEST_HEADERS_MAX + 3];
    size_t n = request_headers(rq, h);
    struct slice last =
        http_find(exchange_request(rq->ex)->headers, exchange_request(rq->ex)->n_headers, "last-event-id");
    struct acp_stream *st = stream_new(s, rq);
    (void)snprintf(st->subject, sizeof st->subject, "%s", rq->who.subject);
    h[n++] = (struct http_header){SL("Content-Type"), SL("text/event-stream")};
    h[n++] = (struct http_header){SL("Cache-Control"), SL("no-store")};
    h[n++] = (struct http_header){SL("X-Accel-Buffering"),
                                  SL("no")}; /* a buffering proxy in front would break it */
    if (last.p != NULL && slice_u64(last, &st->last_id) == 0) {
        st->has_last = true;
    }
    st->comment = timer_new(&s->acp->c->loop, on_comment, st);
    timer_repeat(st->comment, COMMENT_MS);
    rq->on_drain = on_drain;
    rq->data = st;
    rq->c->requests_total[2]++;
    exchange_own(rq->ex, &client_events, st);
    (void)exchange_head(rq->ex, 200, h, n, EXCHANGE_LENGTH_UNKNOWN);
    exchange_endless(rq->ex);
    forward(st, SL(": reeve\n\n"));
    if (s->late.n > 0 && strcmp(s->subject, st->subject) == 0) {
        forward(st, buf_view(&s->late));
        buf_reset(&s->late);
    }
    stream_ask(st);
}
