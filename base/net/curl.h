/* curl: control calls to providers and gateways by libcurl multi on our loop. Never the data path.
 * Only http and https; the answer is bounded; every call has a deadline. */
#ifndef REEVE_BASE_NET_CURL_H
#define REEVE_BASE_NET_CURL_H

#include "base/core/buf.h"
#include "base/core/err.h"
#include "base/net/loop.h"

struct curl_client;
struct curl_call;

int curl_client_new(struct loop *l, struct curl_client **ret, struct err *err);
void curl_client_close(struct curl_client *c, void (*closed)(void *data),
                       void *data); /* calls end E_CANCELLED */

struct curl_options {
    const char *method, *url;
    const char *unix_socket;    /* NULL: TCP */
    struct slice ca_pem;        /* who may vouch for the server, and no others; empty: the system's */
    const char *const *headers; /* "Name: value", NULL-terminated; may be NULL */
    struct slice body;          /* SLICE_NULL: none */
    int64_t timeout_ms;         /* whole call; 0: 30 s */
    size_t answer_max;          /* 0: 1 MiB; more is E_TOO_LARGE */
    bool is_public_only; /* the URL is influenced by a tenant or caller: connect to public addresses only,
                            judged after DNS resolution on the very address that is connected to; no proxy */
};
struct curl_answer {
    int status;
    struct slice body;      /* valid during the callback */
    int64_t retry_after_ms; /* from Retry-After; -1 when absent */
    bool maybe_sent;        /* some of the request went out: after a failure the outcome is unknown */
};
/* code 0 for any HTTP answer, whatever its status; else E_TIMEOUT, E_UPSTREAM, E_CANCELLED, E_TOO_LARGE,
 * E_INVALID (URL or header), E_FORBIDDEN (is_public_only), E_UNAVAILABLE (more than CURL_CALLS_MAX calls).
 * `answer` is never NULL; after a failure only maybe_sent means something. Redirects are answers, not
 * followed. */
#define CURL_CALLS_MAX 1024
typedef void (*curl_done_cb)(int code, const struct curl_answer *answer, const struct err *err, void *data);
struct curl_call *curl_call_start(struct curl_client *c, const struct curl_options *o, curl_done_cb done,
                                  void *data);
void curl_call_cancel(struct curl_call *call); /* done still fires, with E_CANCELLED, in a later turn */

#endif
