/* curl: libcurl's multi interface driven by our loop.
 *
 * Happy path: curl names the sockets it waits for and one point in time; each socket gets a uv_poll, the
 * point one timer. When curl says that a transfer is complete, its call ends and `done` fires.
 *
 * Failure paths: each call has a timer of its own for its deadline, because curl's does not run while a
 * transfer waits for a free connection; the same timer carries what must happen "in a later turn" (cancel,
 * refusal at the start). The threaded resolver is told not to be waited for (CURLOPT_QUICK_EXIT), else a
 * cancel during a slow DNS look-up would block the loop. A call is freed when its timer is closed, the client
 * when all calls, polls and its timer are. */
#include "base/net/curl.h"

#include <string.h>
#include <strings.h>

#include <curl/curl.h>
#include <utlist.h>

#include "base/core/mem.h"
#include "base/net/address.h"
#include "base/net/http.h"

#define TIMEOUT_MS_DEFAULT   30000
#define CONNECT_TIMEOUT_MS   10000
#define ANSWER_MAX_DEFAULT   (1u << 20)
#define HOST_CONNECTIONS_MAX 16L
#define CONNECTIONS_MAX      64L
#define IDLE_CONNECTIONS_MAX 32L
#define RETRY_AFTER_SEC_MAX  (24 * 3600)

struct curl_sock {
    uv_poll_t uv;
    struct curl_client *client;
    curl_socket_t fd;
    struct curl_sock *prev, *next;
};

struct curl_client {
    struct loop *loop;
    CURLM *multi; /* NULL once cleaned up */
    struct timer timer;
    struct curl_sock *socks; /* those that curl waits for */
    struct curl_call *calls; /* not yet ended */
    size_t n_calls;          /* not yet freed */
    size_t n_handles;        /* polls and the timer, not yet closed */
    bool is_closing;
    void (*closed)(void *data);
    void *closed_data;
};

struct curl_call {
    struct curl_client *client;
    CURL *easy;
    bool is_added; /* to the multi */
    struct timer timer;
    int early_code; /* set: the timer ends the call with it instead of E_TIMEOUT */
    struct err early_err;
    bool was_refused; /* an address that is not public was met */
    char *what;       /* "GET https://host/path", for messages: without query, which can hold secrets */
    char *body;       /* owned copy */
    size_t body_n;
    struct curl_slist *headers;
    struct buf answer;
    char error[CURL_ERROR_SIZE];
    curl_done_cb done;
    void *data;
    struct curl_call *prev, *next;
};

/* --- the end of a client --- */

static void on_handle_closed(struct curl_client *c)
{
    must(c->n_handles > 0);
    if (--c->n_handles > 0)
        return;
    void (*closed)(void *data) = c->closed;
    void *data = c->closed_data;
    mem_free(c);
    if (closed != NULL)
        closed(data);
}

static void on_sock_closed(uv_handle_t *h)
{
    struct curl_sock *s = h->data;
    struct curl_client *c = s->client;
    mem_free(s);
    on_handle_closed(c);
}

static void sock_close(struct curl_sock *s)
{
    DL_DELETE(s->client->socks, s);
    (void)uv_poll_stop(&s->uv); /* never fails */
    uv_close((uv_handle_t *)&s->uv, on_sock_closed);
}

static void on_timer_closed(void *data)
{
    on_handle_closed(data);
}

static void client_maybe_end(struct curl_client *c)
{
    if (!c->is_closing || c->n_calls > 0)
        return;
    (void)curl_multi_cleanup(c->multi); /* fails for a bad handle only */
    struct curl_sock *s, *next;
    DL_FOREACH_SAFE (c->socks, s, next)
        sock_close(s);
    timer_close(&c->timer, on_timer_closed);
}

/* --- the end of a call --- */

static void on_call_closed(void *data)
{
    struct curl_call *call = data;
    struct curl_client *c = call->client;
    curl_easy_cleanup(call->easy);
    for (struct curl_slist *h = call->headers; h != NULL; h = h->next)
        mem_wipe(h->data, strlen(h->data)); /* credentials */
    curl_slist_free_all(call->headers);
    mem_wipe(call->body, call->body_n);
    mem_free(call->body);
    mem_free(call->what);
    buf_wipe(&call->answer);
    mem_free(call);
    c->n_calls--;
    client_maybe_end(c);
}

static void call_remove(struct curl_call *call)
{
    if (call->is_added)
        (void)curl_multi_remove_handle(call->client->multi, call->easy); /* fails for a bad handle only */
    call->is_added = false;
}

static int64_t retry_after_ms(CURL *easy)
{
    struct curl_header *h;
    curl_off_t sec = 0; /* curl reads both forms: seconds and a date */
    if (curl_easy_header(easy, "Retry-After", 0, CURLH_HEADER, -1, &h) != CURLHE_OK ||
        curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &sec) != CURLE_OK || sec < 0)
        return -1;
    return (sec > RETRY_AFTER_SEC_MAX ? RETRY_AFTER_SEC_MAX : (int64_t)sec) * 1000;
}

static bool call_maybe_sent(const struct curl_call *call)
{
    long n = 0;
    (void)curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &n); /* stays 0 if it fails */
    return n > 0;
}

/* The only place where `done` fires. */
static void call_end(struct curl_call *call, int code, const struct err *err)
{
    struct curl_answer answer = {.retry_after_ms = -1, .body = SLICE_EMPTY};
    long status = 0;
    answer.maybe_sent = call_maybe_sent(call);
    if (code == 0) {
        (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status); /* as above */
        answer.status = (int)status;
        answer.retry_after_ms = retry_after_ms(call->easy);
        if (call->answer.n > 0)
            answer.body = buf_view(&call->answer);
    }
    call_remove(call);
    DL_DELETE(call->client->calls, call);
    call->done(code, &answer, err, call->data);
    timer_close(&call->timer, on_call_closed);
}

static void on_call_timer(void *data)
{
    struct curl_call *call = data;
    if (call->early_code == 0)
        err_set(&call->early_err, E_TIMEOUT, "%s: no whole answer before the deadline", call->what);
    struct err err = call->early_err;
    call_end(call, err.code, &err);
}

/* Lets the call end in a later turn. */
static void call_end_later(struct curl_call *call, int code, const char *why)
{
    if (call->early_code != 0)
        return;
    call->early_code = err_set(&call->early_err, code, "%s: %s", call->what, why);
    call_remove(call);
    timer_start(&call->timer, 0);
}

void curl_call_cancel(struct curl_call *call)
{
    call_end_later(call, E_CANCELLED, "cancelled");
}

static void call_complete(struct curl_call *call, CURLcode result)
{
    if (result == CURLE_OK) {
        call_end(call, 0, NULL);
        return;
    }
    struct err err;
    const char *why = call->error[0] != '\0' ? call->error : curl_easy_strerror(result);
    int code = E_UPSTREAM;
    if (call->was_refused) {
        code = E_FORBIDDEN;
        why = "the name leads to an address that is not public";
    } else if (call->answer.is_full) {
        code = E_TOO_LARGE;
        why = "the answer is larger than allowed";
    } else if (result == CURLE_OPERATION_TIMEDOUT) {
        code = E_TIMEOUT;
    } else if (result == CURLE_URL_MALFORMAT || result == CURLE_LOGIN_DENIED ||
               (result == CURLE_UNSUPPORTED_PROTOCOL && !call_maybe_sent(call))) { /* also: "HTTP/0.9" came */
        code = E_INVALID;
    }
    err_set(&err, code, "%s: %s", call->what, why);
    call_end(call, code, &err);
}

/* Ends the calls whose transfers are complete. Not from within a callback of curl. */
static void client_collect(struct curl_client *c)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(c->multi, &left)) != NULL) {
        struct curl_call *call = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode result = m->data.result; /* m dies with the removal of its handle */
        must(curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &call) == CURLE_OK && call != NULL);
        call_complete(call, result);
    }
}

/* --- what curl asks of the loop --- */

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct curl_sock *s = h->data;
    struct curl_client *c = s->client; /* `s` can go in socket_action */
    int flags = 0, running;
    if (status < 0)
        flags = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    (void)curl_multi_socket_action(c->multi, s->fd, flags,
                                   &running); /* failures of transfers come as messages */
    client_collect(c);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *sock)
{
    (void)easy;
    struct curl_client *c = data;
    struct curl_sock *s = sock;
    if (what == CURL_POLL_REMOVE) {
        if (s != NULL)
            sock_close(s);
        return 0;
    }
    if (s == NULL) {
        s = MEM_NEW(struct curl_sock);
        s->client = c;
        s->fd = fd;
        if (uv_poll_init_socket(&c->loop->uv, &s->uv, fd) != 0) { /* the kernel's limit of watches */
            mem_free(s);
            return -1;
        }
        s->uv.data = s;
        c->n_handles++;
        DL_APPEND(c->socks, s);
        (void)curl_multi_assign(c->multi, fd, s); /* fails for a socket that curl does not know */
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    (void)uv_poll_start(&s->uv, events, on_poll); /* fails for a closing handle only */
    return 0;
}

static int on_curl_timer(CURLM *multi, long after_ms, void *data)
{
    (void)multi;
    struct curl_client *c = data;
    if (after_ms < 0)
        timer_stop(&c->timer);
    else
        timer_start(&c->timer, after_ms); /* 0 too: in the next turn, never from in here */
    return 0;
}

static void on_client_timer(void *data)
{
    struct curl_client *c = data;
    int running;
    (void)curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running); /* as in on_poll */
    client_collect(c);
}

static size_t on_curl_write(char *p, size_t size, size_t n, void *data)
{
    struct curl_call *call = data;
    return buf_append(&call->answer, p, size * n) == 0 ? size * n : 0; /* short: curl ends the transfer */
}

static curl_socket_t on_curl_open(void *data, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct curl_call *call = data;
    if (purpose != CURLSOCKTYPE_IPCXN || !address_is_public(&a->addr)) {
        call->was_refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->protocol);
}

/* --- starting --- */

int curl_client_new(struct loop *l, struct curl_client **ret, struct err *err)
{
    static bool
        is_ready; /* all clients live on loop threads of one process; the first call is before any other */
    if (!is_ready && curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
        return err_set(err, E_INTERNAL, "curl: cannot initialise");
    is_ready = true;
    CURLM *multi = curl_multi_init();
    if (multi == NULL)
        return err_set(err, E_INTERNAL, "curl: cannot make a multi handle");
    struct curl_client *c = MEM_NEW(struct curl_client);
    c->loop = l;
    c->multi = multi;
    timer_init(&c->timer, l, on_client_timer, c);
    c->n_handles = 1;
    (void)curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket); /* known options do not fail */
    (void)curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, c);
    (void)curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    (void)curl_multi_setopt(multi, CURLMOPT_TIMERDATA, c);
    (void)curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, HOST_CONNECTIONS_MAX);
    (void)curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, CONNECTIONS_MAX);
    (void)curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, IDLE_CONNECTIONS_MAX);
    *ret = c;
    return 0;
}

void curl_client_close(struct curl_client *c, void (*closed)(void *data), void *data)
{
    must(!c->is_closing);
    c->is_closing = true;
    c->closed = closed;
    c->closed_data = data;
    struct curl_call *call;
    DL_FOREACH (c->calls, call)
        call_end_later(call, E_CANCELLED, "closing");
    client_maybe_end(c);
}

/* "GET https://host/path" */
static char *describe(const struct curl_options *o)
{
    size_t n = strcspn(o->url, "?#");
    struct buf b = BUF_INIT(512);
    if (buf_printf(&b, "%s %.*s", o->method, (int)(n < 400 ? n : 400), o->url) != 0)
        (void)buf_str(&b, "call"); /* an absurd method: refused later */
    return buf_take(&b, NULL);
}

/* A proxy of the environment is for the outside world, not for sockets and ports of this machine. */
static bool is_local(const struct curl_options *o)
{
    static const char *const hosts[] = {"http://127.",       "https://127.", "http://localhost",
                                        "https://localhost", "http://[::1]", "https://[::1]"};
    if (o->unix_socket != NULL)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
        if (strncasecmp(o->url, hosts[i], strlen(hosts[i])) == 0)
            return true;
    return false;
}

static bool header_is_valid(const char *text)
{
    struct slice value = slice_str(text), name;
    return slice_cut(&value, ':', &name) && http_is_token(name) && http_value_is_valid(value);
}

static int headers_set(struct curl_call *call, const char *const *headers)
{
    /* no "Expect: 100-continue": it costs a round trip and a second where the server does not know it */
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    must(list != NULL);
    call->headers = list;
    for (size_t i = 0; headers != NULL && headers[i] != NULL; i++) {
        if (!header_is_valid(headers[i]))
            return E_INVALID;
        must(curl_slist_append(list, headers[i]) != NULL);
    }
    return curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, list) == CURLE_OK ? 0 : E_INVALID;
}

#define SET(call, option, value)                                                                             \
    do {                                                                                                     \
        if (curl_easy_setopt((call)->easy, option, value) != CURLE_OK)                                       \
            return E_INVALID;                                                                                \
    } while (0)

static int body_set(struct curl_call *call, const struct curl_options *o)
{
    if (o->body.p != NULL) {
        call->body = mem_strndup(o->body.p, o->body.n);
        call->body_n = o->body.n;
        SET(call, CURLOPT_POST, 1L);
        SET(call, CURLOPT_POSTFIELDS, call->body);
        SET(call, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)o->body.n);
    } else if (strcmp(o->method, "HEAD") == 0) {
        SET(call, CURLOPT_NOBODY, 1L);
    } else if (strcmp(o->method, "POST") == 0) {
        SET(call, CURLOPT_POST, 1L);
        SET(call, CURLOPT_POSTFIELDS, "");
        SET(call, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
    }
    SET(call, CURLOPT_CUSTOMREQUEST, o->method);
    return 0;
}

/* A reload may free the text while the call goes on: curl copies it. */
static int ca_set(struct curl_call *call, struct slice ca_pem)
{
    struct curl_blob blob = {(void *)(uintptr_t)ca_pem.p, ca_pem.n, CURL_BLOB_COPY};
    SET(call, CURLOPT_CAINFO_BLOB, &blob);
    SET(call, CURLOPT_CAPATH, NULL); /* else the system's folder counts as well */
    return 0;
}

static int options_set(struct curl_call *call, const struct curl_options *o, int64_t timeout_ms)
{
    int rc = 0;
    if (!http_is_token(slice_str(o->method)))
        return E_INVALID;
    SET(call, CURLOPT_PRIVATE, call);
    SET(call, CURLOPT_ERRORBUFFER, call->error);
    SET(call, CURLOPT_NOSIGNAL, 1L);
    SET(call, CURLOPT_QUICK_EXIT, 1L);
    SET(call, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(call, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2); /* or newer */
    SET(call, CURLOPT_FOLLOWLOCATION, 0L);
    SET(call, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(call, CURLOPT_URL, o->url);
    SET(call, CURLOPT_USERAGENT, "reeve");
    SET(call, CURLOPT_WRITEFUNCTION, on_curl_write);
    SET(call, CURLOPT_WRITEDATA, call);
    SET(call, CURLOPT_CONNECTTIMEOUT_MS,
        (long)(timeout_ms < CONNECT_TIMEOUT_MS ? timeout_ms : CONNECT_TIMEOUT_MS));
    if (o->unix_socket != NULL)
        SET(call, CURLOPT_UNIX_SOCKET_PATH, o->unix_socket);
    if (o->ca_pem.n > 0)
        rc = ca_set(call, o->ca_pem);
    if (rc != 0)
        return rc;
    if (o->is_public_only || is_local(o))
        SET(call, CURLOPT_PROXY, "");
    if (o->is_public_only) {
        SET(call, CURLOPT_OPENSOCKETFUNCTION, on_curl_open);
        SET(call, CURLOPT_OPENSOCKETDATA, call);
        SET(call, CURLOPT_FRESH_CONNECT, 1L); /* a kept connection was perhaps made without the check */
    }
    rc = body_set(call, o);
    return rc != 0 ? rc : headers_set(call, o->headers);
}

struct curl_call *curl_call_start(struct curl_client *c, const struct curl_options *o, curl_done_cb done,
                                  void *data)
{
    int64_t timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : TIMEOUT_MS_DEFAULT;
    struct curl_call *call = MEM_NEW(struct curl_call);
    call->client = c;
    call->done = done;
    call->data = data;
    call->what = describe(o);
    call->easy = curl_easy_init();
    must(call->easy != NULL);
    buf_init(&call->answer, o->answer_max > 0 ? o->answer_max : ANSWER_MAX_DEFAULT);
    timer_init(&call->timer, c->loop, on_call_timer, call);
    timer_start(&call->timer, timeout_ms);
    DL_APPEND(c->calls, call);
    c->n_calls++;
    if (c->is_closing)
        call_end_later(call, E_CANCELLED, "closing");
    else if (c->n_calls > CURL_CALLS_MAX)
        call_end_later(call, E_UNAVAILABLE, "too many calls at once");
    else if (options_set(call, o, timeout_ms) != 0)
        call_end_later(call, E_INVALID, "a method, URL, header or option that cannot be sent");
    else if (curl_multi_add_handle(c->multi, call->easy) != CURLM_OK)
        call_end_later(call, E_UPSTREAM, "curl does not take the call");
    else
        call->is_added = true;
    return call;
}
