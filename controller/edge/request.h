/* request: one exchange with what the edge knows of it: who asks, for which tenant, under which route.
 *
 * A request lives in the arena of its exchange and is gone once it was answered or its client left. Work that
 * ends later holds it by a request_hold, which tells whether it is still there. */
#ifndef REEVE_CONTROLLER_EDGE_REQUEST_H
#define REEVE_CONTROLLER_EDGE_REQUEST_H

#include "base/core/json.h"
#include "controller/controller.h"
#include "controller/edge/identity.h"

#define REQUEST_PARAMS_MAX 4
#define REQUEST_ID_SIZE    48

struct route;
struct request_hold;

struct request {
    struct controller *c;
    struct exchange *ex;
    struct tenancy *tenancy; /* a reference: the tenant and keys below stay valid */
    struct principal who;
    const struct route *route;
    struct slice params[REQUEST_PARAMS_MAX]; /* of the route's pattern, in order */
    struct slice body;                       /* collected, when the route wants one */
    struct json *json;                       /* parsed body, freed with the request */
    char id[REQUEST_ID_SIZE];                /* X-Request-Id */
    /* Called when the client leaves (or the drain ends the request): give up what is waited for. The request
     * is gone afterwards. NULL: nothing to give up. */
    void (*on_gone)(struct request *rq, void *data);
    /* The controller drains: an answer without an end of its own ends now, cleanly. NULL: it ends by itself.
     */
    void (*on_drain)(struct request *rq, void *data);
    void *data;
    struct request_hold *holds;
    struct request *prev, *next;
};

struct request *request_new(struct controller *c, struct exchange *ex);
/* The exchange was or is about to be handed elsewhere or is gone: forget the request (does not touch the
 * exchange). */
void request_gone(struct request *rq);

static inline struct arena *request_arena(struct request *rq)
{
    return exchange_arena(rq->ex);
}

/* Takes the exchange's events (back): from here on only the client's leaving matters, told by on_gone. */
void request_own(struct request *rq);

/* Holds for callbacks that may come after the client left. request_release gives the request, or NULL when it
 * is gone. */
struct request_hold *request_hold(struct request *rq, void *data);
struct request *request_release(struct request_hold *h, void **ret_data);

/* --- answers; each ends the request --- */
/* A problem document of the code's status. fmt is the detail sentence. */
void request_problem(struct request *rq, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* As request_problem from an err: its code and message. */
void request_error(struct request *rq, const struct err *err);
void request_json(struct request *rq, int status, struct slice json, const struct http_header *extra,
                  size_t n_extra);
void request_empty(struct request *rq, int status);
void request_text(struct request *rq, int status, const char *content_type, struct slice text);
/* Answers, from a hold, with the JSON that was waited for, or with what was wrong. */
void request_on_json(int code, struct slice json, const struct err *err, void *hold);

/* Writes a whole problem document. `request_id` may be NULL. */
void problem_write(struct buf *out, int code, struct slice detail, const char *request_id);
/* Headers that every answer carries, into h (room for REQUEST_HEADERS_MAX); returns how many. */
#define REQUEST_HEADERS_MAX 4
size_t request_headers(const struct request *rq, struct http_header *h);

/* Parses the body as a JSON object into rq->json; answers the problem itself and returns false when it
 * cannot. An empty body gives an empty object when `is_optional`. */
bool request_parse_json(struct request *rq, bool is_optional);
/* The tenant's workspace that a route with ROUTE_NAMESPACE_FIRST names; NULL when it answered that there is
 * none. */
struct workspace *request_workspace(struct request *rq);
/* "?wait=30s": 0 when absent; false when it answered a problem. Bounded by max. */
bool request_duration(struct request *rq, const char *name, int64_t max_ms, int64_t *ret_ms);
/* "?from=2026-11-01" or a whole RFC 3339 time, as whole UTC days: the first instant of its day or, with
 * is_end, of the next one unless it is midnight. `absent` when absent; false when it answered a problem. */
bool request_day(struct request *rq, const char *name, int64_t absent, bool is_end, int64_t *ret);
/* A query parameter, decoded into the arena; SLICE_NULL when absent; false when it answered a problem. */
bool request_query(struct request *rq, const char *name, struct slice *ret);
/* "?limit=&after=": limit 1..max. */
bool request_paging(struct request *rq, size_t max, size_t *ret_limit, struct slice *ret_after);

#endif
