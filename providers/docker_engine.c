/* docker_engine: see docker_engine.h.
 *
 * Happy path: the version is known; a call goes out over a kept-alive connection, its body is gathered or
 * handed on line by line, `done` gets status and body. Failure paths: what never reached the engine is
 * E_UNAVAILABLE with the reason; a call that may have acted and was not answered is E_UNKNOWN_OUTCOME; an
 * answer that is too long or breaks HTTP ends the call. */
#include "providers/docker_engine.h"

#include <stdio.h>
#include <string.h>

#include <utlist.h>

#include "base/core/json.h"
#include "base/core/mem.h"
#include "base/net/client.h"
#include "providers/docker_reply.h"

#define ANSWER_MAX      ((size_t)4 << 20)
#define VERSION_MS      10000
#define CONNECTIONS_MAX 64
#define QUEUE_MAX       20000

struct docker_call {
    struct docker_engine *g;
    struct docker_call *prev, *next;
    struct http_call *http; /* NULL: waits for the version, or is over */
    char *method, *target;
    struct buf body;
    struct timer deadline;
    int64_t until_ms; /* 0: none */
    int status;
    struct buf answer; /* or the line that is not complete yet */
    void (*on_open)(void *data);
    void (*on_line)(struct slice line, void *data);
    docker_done_cb done;
    void *data;
    bool is_version; /* the engine's own question */
    bool is_over;
};

struct docker_engine {
    struct loop *loop;
    char *path;
    struct connector_endpoint connector;
    struct http_pool *pool;
    struct docker_call *calls;
    size_t n_calls; /* not yet freed */
    unsigned minor; /* of the API's version; 0: not known */
    struct docker_call *asking;
    bool is_closing;
    void (*closed)(void *data);
    void *closed_data;
};

static void call_send(struct docker_call *c);

/* --- ends --- */

static void engine_maybe_free(struct docker_engine *g)
{
    if (!g->is_closing || g->n_calls > 0)
        return;
    void (*closed)(void *) = g->closed;
    void *data = g->closed_data;
    mem_free(g->path);
    mem_free(g);
    if (closed != NULL)
        closed(data);
}

static void on_engine_closed(void *data)
{
    struct docker_engine *g = data;
    g->is_closing = true;
    engine_maybe_free(g);
}

static void on_call_closed(void *data)
{
    struct docker_call *c = data;
    struct docker_engine *g = c->g;
    mem_free(c->method);
    mem_free(c->target);
    buf_fini(&c->body);
    buf_fini(&c->answer);
    mem_free(c);
    g->n_calls--;
    engine_maybe_free(g);
}

/* Nothing of it fires any more. */
static void call_retire(struct docker_call *c)
{
    must(!c->is_over);
    c->is_over = true;
    DL_DELETE(c->g->calls, c);
    if (c->g->asking == c)
        c->g->asking = NULL;
    timer_close(&c->deadline, on_call_closed);
}

static void call_end(struct docker_call *c, int code, const struct err *err)
{
    struct docker_answer a = {.status = c->status, .body = SLICE_EMPTY};
    if (code == 0 && (c->on_line == NULL || c->status != 200))
        a.body = buf_view(&c->answer);
    c->http = NULL;
    call_retire(c); /* freed in a later turn */
    c->done(code, &a, err, c->data);
}

void docker_call_cancel(struct docker_call *c)
{
    if (c->http != NULL)
        http_call_cancel(c->http);
    c->http = NULL;
    call_retire(c);
}

static bool is_look(const struct docker_call *c)
{
    return strcmp(c->method, "GET") == 0;
}

/* --- one exchange --- */

static void call_break(struct docker_call *c, int code, const char *text)
{
    struct err err = {0};
    (void)err_set(&err, code, "the Docker engine at %s: %s", c->g->path, text);
    if (c->http != NULL)
        http_call_cancel(c->http);
    call_end(c, code, &err);
}

static void on_deadline(void *data)
{
    struct docker_call *c = data;
    call_break(c, c->http == NULL || is_look(c) ? E_TIMEOUT : E_UNKNOWN_OUTCOME, "no answer in time");
}

static void on_head(struct http_call *h, const struct http_response *r, void *data)
{
    struct docker_call *c = data;
    (void)h;
    c->status = r->status;
    if (r->status == 200 && c->on_open != NULL)
        c->on_open(c->data);
}

static void lines_tell(struct docker_call *c)
{
    for (;;) {
        struct slice all = buf_view(&c->answer);
        size_t at = slice_find(all, '\n');
        if (at == SIZE_MAX)
            return;
        struct slice line = slice_trim(slice_of(all.p, at));
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        if (line.n > 0)
            c->on_line(line, c->data);
        if (c->is_over) /* the line's reader cancelled it */
            return;
        buf_consume(&c->answer, at + 1);
    }
}

static void on_body(struct http_call *h, struct slice bytes, void *data)
{
    struct docker_call *c = data;
    (void)h;
    bool is_stream = c->on_line != NULL && c->status == 200;
    while (bytes.n > 0) {
        size_t take = is_stream && bytes.n > DOCKER_LINE_MAX ? DOCKER_LINE_MAX : bytes.n;
        if (buf_slice(&c->answer, slice_of(bytes.p, take)) != 0) {
            call_break(c, E_UPSTREAM, "its answer is too long");
            return;
        }
        bytes = slice_from(bytes, take);
        if (is_stream)
            lines_tell(c);
        if (c->is_over)
            return;
    }
}

static void on_end(struct http_call *h, void *data)
{
    (void)h;
    call_end(data, 0, NULL);
}

static void on_error(struct http_call *h, int code, const struct err *err, void *data)
{
    struct docker_call *c = data;
    bool may_have_acted = code == E_UPSTREAM || code == E_EOF || code == E_IO;
    (void)h;
    c->http = NULL;
    call_break(c, !may_have_acted ? E_UNAVAILABLE : is_look(c) ? E_UNAVAILABLE : E_UNKNOWN_OUTCOME, err->msg);
}

static const struct http_call_events http_events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};

static void call_send(struct docker_call *c)
{
    struct docker_engine *g = c->g;
    struct arena a = ARENA_INIT;
    char *target =
        c->is_version ? arena_strdup(&a, c->target) : arena_printf(&a, "/v1.%u%s", g->minor, c->target);
    const struct http_header headers[] = {{SL("Host"), SL("docker")},
                                          {SL("Content-Type"), SL("application/json")}};
    struct http_call_options o = {.method = slice_str(c->method),
                                  .target = slice_str(target),
                                  .headers = headers,
                                  .n_headers = c->body.n > 0 ? 2 : 1,
                                  .has_body = c->body.n > 0,
                                  .length = c->body.n,
                                  .body = buf_view(&c->body)};
    if (c->until_ms != 0) {
        int64_t left = c->until_ms - clock_mono_ms(g->loop->clock);
        o.connect_timeout_ms = left > 1 ? left : 1;
    }
    c->http = http_call_start(g->pool, &o, &http_events, c);
    arena_fini(&a);
}

static struct docker_call *call_new(struct docker_engine *g, const struct docker_request *r,
                                    docker_done_cb done, void *data)
{
    struct docker_call *c = MEM_NEW(struct docker_call);
    c->g = g;
    c->method = mem_strdup(r->method);
    c->target = mem_strdup(r->target);
    buf_init(&c->body, (size_t)1 << 20);
    must(buf_slice(&c->body, r->body) == 0); /* ours: bounded by what it is made of */
    buf_init(&c->answer, r->on_line != NULL   ? 2 * (size_t)DOCKER_LINE_MAX
                         : r->answer_max != 0 ? r->answer_max
                                              : ANSWER_MAX);
    c->on_open = r->on_open;
    c->on_line = r->on_line;
    c->done = done;
    c->data = data;
    timer_init(&c->deadline, g->loop, on_deadline, c);
    if (r->timeout_ms > 0) {
        c->until_ms = clock_mono_ms(g->loop->clock) + r->timeout_ms;
        timer_start(&c->deadline, r->timeout_ms);
    }
    g->n_calls++;
    DL_APPEND(g->calls, c);
    return c;
}

/* --- version --- */

static bool waits_for_version(const struct docker_call *c)
{
    return c->http == NULL && !c->is_version;
}

/* The callbacks may start and cancel calls: begins anew after each. */
static void waiting_fail(struct docker_engine *g, const struct err *err)
{
    struct docker_call *c, *first = NULL;
    do {
        first = NULL;
        DL_FOREACH (g->calls, c)
            if (waits_for_version(c) && first == NULL)
                first = c;
        if (first != NULL)
            call_end(first, err->code, err);
    } while (first != NULL && g->asking == NULL);
}

static void on_version(int code, const struct docker_answer *a, const struct err *err, void *data)
{
    struct docker_engine *g = data;
    struct docker_call *c;
    struct err why = {0};
    if (code == 0 && a->status != 200)
        code = docker_answer_error(a, &why);
    else if (code == 0)
        code = docker_version_parse(a->body, &g->minor, &why);
    else
        why = *err;
    if (code != 0) {
        why.code = E_UNAVAILABLE;
        waiting_fail(g, &why);
        return;
    }
    DL_FOREACH (g->calls, c) /* sending calls nobody back */
        if (waits_for_version(c))
            call_send(c);
}

static void version_ask(struct docker_engine *g)
{
    const struct docker_request r = {
        .method = "GET", .target = "/version", .body = SLICE_EMPTY, .timeout_ms = VERSION_MS};
    if (g->asking != NULL)
        return;
    g->asking = call_new(g, &r, on_version, g);
    g->asking->is_version = true;
    call_send(g->asking);
}

/* --- the owner's calls --- */

struct docker_call *docker_call_start(struct docker_engine *g, const struct docker_request *r,
                                      docker_done_cb done, void *data)
{
    must(!g->is_closing);
    struct docker_call *c = call_new(g, r, done, data);
    if (g->minor != 0)
        call_send(c);
    else
        version_ask(g);
    return c;
}

struct docker_engine *docker_engine_new(struct loop *l, const char *socket_path)
{
    struct docker_engine *g = MEM_NEW(struct docker_engine);
    const struct http_pool_limits limits = {.connections_max = CONNECTIONS_MAX, .queue_max = QUEUE_MAX};
    struct endpoint to = {.is_unix = true};
    (void)snprintf(to.host, sizeof(to.host), "%s", socket_path);
    g->loop = l;
    g->path = mem_strdup(socket_path);
    connector_endpoint_init(&g->connector, &to);
    g->pool = http_pool_new(l, &g->connector.connector, &limits);
    return g;
}

void docker_engine_reset(struct docker_engine *g)
{
    g->minor = 0;
    http_pool_drop_idle(g->pool);
}

void docker_engine_close(struct docker_engine *g, void (*closed)(void *data), void *data)
{
    if (g->asking != NULL)
        docker_call_cancel(g->asking);
    must(g->calls == NULL && !g->is_closing);
    g->closed = closed;
    g->closed_data = data;
    http_pool_close(g->pool);
    loop_defer(g->loop, on_engine_closed, g);
}

int docker_answer_error(const struct docker_answer *a, struct err *err)
{
    struct arena scratch = ARENA_INIT;
    struct slice text = docker_message(a->body, &scratch);
    char *cstr = arena_strndup(&scratch, text.p, text.n);
    int code = a->status == 404                         ? E_NOT_FOUND
               : a->status == 409                       ? E_BUSY
               : a->status == 400                       ? E_INVALID
               : a->status == 401 || a->status == 403   ? E_AUTH
               : strstr(cstr, "no space left") != NULL  ? E_NO_SPACE
               : strstr(cstr, "OCI runtime") != NULL    ? E_GONE
               : strstr(cstr, "container init") != NULL ? E_GONE
                                                        : E_UPSTREAM;
    (void)err_set(err, code, "the Docker engine says (%d): %s", a->status, cstr);
    arena_fini(&scratch);
    return code;
}
