/* health: asks the server inside whether it is up, soon and then ever less often, until it is or the deadline
 * is over.
 *
 * The first questions meet a server that is not listening yet: refused connections are the normal course, not
 * failures. Only a 200 to a request that carries the server's token counts. The questions have a pool of
 * their own: that of the traffic may be full of long streams, and a server is not ill because it is in
 * demand. One that was ready when the questions began (doubt.c) stays so until the second one has failed. */
#include "scheduler/entry.h"

#include "base/core/mem.h"

#define HEALTH_FIRST_MS  5
#define HEALTH_MAX_MS    250
#define HEALTH_ANSWER_MS 2000
#define HEALTH_HOST      "127.0.0.1:2468"
#define HEALTH_TRIES     2 /* failed questions after which one is not ready any more */

static void health_ask(struct work *w);

void health_drop(struct work *w)
{
    if (w->probe != NULL) {
        http_pool_close(w->probe);
        w->probe = NULL;
    }
}

static void health_end(struct work *w, int code, const struct err *err)
{
    timer_stop(&w->timer);
    health_drop(w);
    on_health(w, code, err);
}

static void health_again(struct work *w)
{
    w->call = NULL;
    int64_t now = now_mono(w->s);
    if (w->e->ws.server == NULL) { /* let go meanwhile: the wish has changed */
        health_end(w, E_CANCELLED, NULL);
        return;
    }
    if (++w->health_failures >= HEALTH_TRIES && w->e->is_reached) {
        doubt_failed(w->e, "the server did not answer; looking at the sandbox");
    }
    if (now >= w->health_until_ms) {
        struct err err = {0};
        (void)err_set(&err, E_TIMEOUT, "not healthy within %lld ms: %s",
                      (long long)w->s->o.timing.health_deadline_ms,
                      w->last.msg[0] != '\0' ? w->last.msg : "no answer");
        health_end(w, E_TIMEOUT, &err);
        return;
    }
    timer_start(&w->timer, w->health_delay_ms);
    w->health_delay_ms += (w->health_delay_ms + 1) / 2;
    if (w->health_delay_ms > HEALTH_MAX_MS) {
        w->health_delay_ms = HEALTH_MAX_MS;
    }
}

static void on_head(struct http_call *c, const struct http_response *r, void *data)
{
    struct work *w = data;
    (void)c;
    w->health_status = r->status;
}

static void on_body(struct http_call *c, struct slice bytes, void *data)
{
    (void)c;
    (void)bytes;
    (void)data;
}

static void on_end(struct http_call *c, void *data)
{
    struct work *w = data;
    (void)c;
    w->call = NULL;
    if (w->health_status == 200) {
        health_end(w, 0, NULL);
        return;
    }
    (void)err_set(&w->last, E_UPSTREAM, "GET /v1/health answered %d", w->health_status);
    health_again(w);
}

static void on_call_error(struct http_call *c, int code, const struct err *err, void *data)
{
    struct work *w = data;
    (void)c;
    (void)err_set(&w->last, code, "%s", err != NULL ? err->msg : err_title(code));
    health_again(w);
}

static void health_ask(struct work *w)
{
    struct entry *e = w->e;
    static const struct http_call_events events = {
        .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_call_error};
    struct buf bearer = BUF_INIT(256);
    (void)buf_printf(&bearer, "Bearer %s", e->ws.server_token);
    const struct http_header headers[] = {{SL("Host"), SL(HEALTH_HOST)},
                                          {SL("Authorization"), buf_view(&bearer)}};
    const struct http_call_options o = {.method = SL("GET"),
                                        .target = SL("/v1/health"),
                                        .headers = headers,
                                        .n_headers = ARRAY_LEN(headers),
                                        .connect_timeout_ms = HEALTH_ANSWER_MS,
                                        .head_timeout_ms = HEALTH_ANSWER_MS,
                                        .idle_timeout_ms = HEALTH_ANSWER_MS};
    w->health_status = 0;
    w->call = http_call_start(w->probe, &o, &events, w);
    buf_wipe(&bearer);
}

static void on_timer(void *data)
{
    struct work *w = data;
    if (w->e->ws.server == NULL) {
        health_end(w, E_CANCELLED, NULL);
        return;
    }
    health_ask(w);
}

void health_start(struct work *w)
{
    if (!w->has_timer) {
        w->has_timer = true;
        timer_init(&w->timer, w->s->loop, on_timer, w);
    }
    if (w->e->healing_ms == 0) { /* a second look at the same sandbox does not begin the time anew */
        w->e->healing_ms = now_mono(w->s);
    }
    w->health_until_ms = w->e->healing_ms + w->s->o.timing.health_deadline_ms;
    w->health_delay_ms = HEALTH_FIRST_MS;
    w->health_failures = 0;
    w->is_healing = true;
    w->probe = http_pool_new(w->s->loop, w->e->connector, NULL);
    health_ask(w);
}

void health_stop(struct work *w)
{
    if (!w->is_healing) {
        return;
    }
    if (w->call != NULL) {
        http_call_cancel(w->call);
        w->call = NULL;
    }
    health_end(w, E_CANCELLED, NULL);
}
