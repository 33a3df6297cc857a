/* request: see request.h. Answers are built here and nowhere else, so that every one carries its request id
 * and every refusal is a problem document. */
#include "controller/edge/request.h"

#include "base/core/log.h"
#include "base/core/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define PROBLEM_BYTES_MAX 16384

struct request_hold {
    struct request *rq; /* NULL once the request is gone */
    void *data;
    struct request_hold *next;
};

static void on_abort(struct exchange *ex, void *data)
{
    (void)ex;
    struct request *rq = data;
    if (rq->on_gone != NULL)
        rq->on_gone(rq, rq->data);
    request_gone(rq);
}

static const struct exchange_events waiting_events = {.on_abort = on_abort};

struct request *request_new(struct controller *c, struct exchange *ex)
{
    struct request *rq = ARENA_NEW(exchange_arena(ex), struct request);
    rq->c = c;
    rq->ex = ex;
    rq->tenancy = tenancy_ref(c->tenancy);
    /* unique without a system call: a random prefix per process and a counter */
    (void)snprintf(rq->id, sizeof rq->id, "%s-%llx", c->request_prefix, (unsigned long long)++c->request_seq);
    DL_PREPEND(c->requests, rq);
    c->n_requests++;
    request_own(rq);
    return rq;
}

void request_own(struct request *rq)
{
    exchange_own(rq->ex, &waiting_events, rq);
}

void request_gone(struct request *rq)
{
    DL_DELETE(rq->c->requests, rq);
    rq->c->n_requests--;
    for (struct request_hold *h = rq->holds; h != NULL; h = h->next)
        h->rq = NULL;
    rq->holds = NULL;
    json_free(rq->json);
    rq->json = NULL;
    tenancy_unref(rq->tenancy);
    rq->tenancy = NULL;
}

struct request_hold *request_hold(struct request *rq, void *data)
{
    struct request_hold *h = MEM_NEW(struct request_hold);
    h->rq = rq;
    h->data = data;
    LL_PREPEND(rq->holds, h);
    return h;
}

struct request *request_release(struct request_hold *h, void **ret_data)
{
    struct request *rq = h->rq;
    if (rq != NULL)
        LL_DELETE(rq->holds, h);
    if (ret_data != NULL)
        *ret_data = h->data;
    mem_free(h);
    return rq;
}

size_t request_headers(const struct request *rq, struct http_header *h)
{
    h[0] = (struct http_header){SL("X-Request-Id"), slice_str(rq->id)};
    h[1] = (struct http_header){SL("X-Content-Type-Options"), SL("nosniff")};
    return 2;
}

/* Ends the request with a whole answer. `body` lives in the arena or is static. */
static void answer(struct request *rq, int status, const char *content_type, struct slice body,
                   const struct http_header *extra, size_t n_extra)
{
    struct http_header h[REQUEST_HEADERS_MAX + 8];
    size_t n = request_headers(rq, h);
    if (content_type != NULL)
        h[n++] = (struct http_header){SL("Content-Type"), slice_str(content_type)};
    h[n++] = (struct http_header){SL("Cache-Control"), SL("no-store")};
    for (size_t i = 0; i < n_extra && n < ARRAY_LEN(h); i++)
        h[n++] = extra[i];
    struct controller *c = rq->c;
    struct exchange *ex = rq->ex;
    c->requests_total[status / 100 % 6]++;
    request_gone(rq);
    exchange_send(ex, status, h, n, body);
}

void problem_write(struct buf *out, int code, struct slice detail, const char *request_id)
{
    struct jsonw w;
    char type[96];
    (void)snprintf(type, sizeof type, "urn:reeve:error:%s", err_name(code));
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_kstr(&w, "type", type);
    jsonw_kstr(&w, "title", err_title(code));
    jsonw_ki64(&w, "status", err_http_status(code));
    if (detail.n > 0)
        jsonw_kslice(&w, "detail", detail);
    jsonw_kstr(&w, "code", err_name(code));
    if (request_id != NULL)
        jsonw_kstr(&w, "request_id", request_id);
    jsonw_object_end(&w);
}

static void problem(struct request *rq, int code, struct slice detail)
{
    struct buf out = BUF_INIT(PROBLEM_BYTES_MAX);
    problem_write(&out, code, detail, rq->id);
    struct slice body = arena_slice(request_arena(rq), buf_view(&out));
    buf_fini(&out);
    struct http_header extra[2];
    size_t n = 0;
    if (code == E_UNAUTHENTICATED)
        extra[n++] = (struct http_header){SL("WWW-Authenticate"), SL("Bearer realm=\"reeve\"")};
    if (code == E_UNAVAILABLE || code == E_DRAINING || code == E_STORE || code == E_RATE ||
        code == E_CAPACITY || code == E_NO_SPACE)
        extra[n++] = (struct http_header){SL("Retry-After"), SL("1")};
    answer(rq, err_http_status(code), "application/problem+json", body, extra, n);
}

void request_problem(struct request *rq, int code, const char *fmt, ...)
{
    va_list ap;
    char text[ERR_MSG_MAX];
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : ((size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    problem(rq, code, slice_of(text, len));
}

void request_error(struct request *rq, const struct err *err)
{
    problem(rq, err->code != 0 ? err->code : E_INTERNAL, slice_str(err->msg));
}

void request_json(struct request *rq, int status, struct slice json, const struct http_header *extra,
                  size_t n_extra)
{
    answer(rq, status, "application/json", arena_slice(request_arena(rq), json), extra, n_extra);
}

void request_empty(struct request *rq, int status)
{
    answer(rq, status, NULL, SLICE_EMPTY, NULL, 0);
}

void request_text(struct request *rq, int status, const char *content_type, struct slice text)
{
    answer(rq, status, content_type, arena_slice(request_arena(rq), text), NULL, 0);
}

void request_on_json(int code, struct slice json, const struct err *err, void *hold)
{
    struct request *rq = request_release(hold, NULL);
    if (rq == NULL)
        return;
    if (code != 0)
        request_error(rq, err);
    else
        request_json(rq, 200, json, NULL, 0);
}

bool request_parse_json(struct request *rq, bool is_optional)
{
    struct err err = {0};
    struct slice body = rq->body;
    if (body.n == 0 && is_optional)
        body = SL("{}");
    struct json_limits limits = {.bytes_max = body.n + 1};
    if (json_parse(body, &limits, &rq->json, &err) != 0) {
        request_problem(rq, E_INVALID, "body: %s", err.msg);
        return false;
    }
    if (json_type(rq->json) != JSON_OBJECT) {
        request_problem(rq, E_INVALID, "body: expected an object, found %s", json_type_name(rq->json));
        return false;
    }
    return true;
}

bool request_query(struct request *rq, const char *name, struct slice *ret)
{
    struct slice raw = query_find(exchange_request(rq->ex)->query, name);
    *ret = SLICE_NULL;
    if (raw.p == NULL)
        return true;
    struct buf out = BUF_INIT(HTTP_TARGET_BYTES_MAX);
    if (url_decode(raw, true, &out) != 0 || !slice_is_utf8(buf_view(&out))) {
        buf_fini(&out);
        request_problem(rq, E_INVALID, "query parameter `%s`: broken percent-encoding or not UTF-8", name);
        return false;
    }
    *ret = arena_slice(request_arena(rq), buf_view(&out));
    buf_fini(&out);
    return true;
}

struct workspace *request_workspace(struct request *rq)
{
    struct workspace *ws =
        scheduler_find(rq->c->scheduler, rq->who.tenant->name, rq->params[0], rq->params[1]);
    if (ws == NULL)
        request_problem(rq, E_NOT_FOUND, "no such workspace");
    return ws;
}

bool request_duration(struct request *rq, const char *name, int64_t max_ms, int64_t *ret_ms)
{
    struct slice text;
    *ret_ms = 0;
    if (!request_query(rq, name, &text))
        return false;
    if (text.p == NULL)
        return true;
    if (duration_parse(text, ret_ms) != 0 || *ret_ms < 0) {
        request_problem(rq, E_INVALID, "query parameter `%s`: expected a duration like 30s, found `%.*s`",
                        name, SL_ARG(text));
        return false;
    }
    if (*ret_ms > max_ms)
        *ret_ms = max_ms;
    return true;
}

bool request_paging(struct request *rq, size_t max, size_t *ret_limit, struct slice *ret_after)
{
    struct slice text;
    if (!request_query(rq, "limit", &text) || !request_query(rq, "after", ret_after))
        return false;
    uint64_t limit = max;
    if (text.p != NULL && (slice_u64(text, &limit) != 0 || limit < 1 || limit > max)) {
        request_problem(rq, E_INVALID, "query parameter `limit`: expected 1 to %zu, found `%.*s`", max,
                        SL_ARG(text));
        return false;
    }
    *ret_limit = (size_t)limit;
    return true;
}

bool request_day(struct request *rq, const char *name, int64_t absent, bool is_end, int64_t *ret)
{
    struct slice text;
    char full[32];
    if (!request_query(rq, name, &text))
        return false;
    *ret = absent;
    if (text.p == NULL)
        return true;
    (void)snprintf(full, sizeof full, "%.*sT00:00:00Z", text.n == 10 ? 10 : 0, text.p);
    if (time_parse(text.n == 10 ? slice_str(full) : text, ret) != 0) {
        request_problem(rq, E_INVALID, "query parameter `%s`: expected a day like 2026-11-01, found `%.*s`",
                        name, SL_ARG(text));
        return false;
    }
    int64_t day = 24 * 3600 * 1000, rest = *ret % day;
    *ret += rest == 0 ? 0 : (is_end ? day - rest : -rest);
    return true;
}
