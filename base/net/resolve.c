/* resolve: see resolve.h.
 *
 * Happy path: a fresh answer in the cache, or a query whose sockets c-ares opens and this file polls; the
 * answer goes to everybody who waits, in a later turn. Failure paths: too many look-ups in flight are refused
 * at once, silence ends at the deadline, a failure is remembered for a moment so that it cannot be repeated
 * at will. An answer with more addresses than can be judged is a failure: what is not looked at must not
 * count as good. */
#include "base/net/resolve.h"

#include <ares.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "base/core/hash.h"
#include "base/core/mem.h"

enum { TICK_MS = 100, TRIES = 2, NAME_BYTES_MAX = 253, FIRST_TRIES_MS_MIN = 50 };

struct resolved {
    struct resolver *r;
    char name[NAME_BYTES_MAX + 1];
    bool is_pending;    /* asked, no answer yet */
    bool is_orphan;     /* pushed out of the cache while waiters are told: freed by that */
    bool is_telling;    /* on_tell is due */
    int64_t expires_ms; /* monotonic */
    struct err err;     /* code 0: good */
    struct address addresses[RESOLVE_ADDRESSES_MAX];
    size_t n;
    struct resolve_op *ops; /* who waits */
    UT_hash_handle hh;
};

struct resolve_op {
    struct resolved *of;
    resolve_done_cb done;
    void *data;
    struct resolve_op *prev, *next;
};

struct socket_poll {
    uv_poll_t poll;
    struct resolver *r;
    int fd;
    struct socket_poll *prev, *next;
};

struct resolver {
    struct loop *loop;
    struct resolver_options o;
    ares_channel channel;
    struct resolved *names; /* oldest first */
    struct socket_poll *polls;
    size_t n_polls; /* not yet closed */
    struct timer tick;
    bool has_tick, is_closing;
    size_t n_telling;
    void (*closed)(void *data);
    void *closed_data;
    struct resolver_stats stats;
};

static int64_t now_of(const struct resolver *r)
{
    return clock_mono_ms(r->loop->clock);
}

static void resolver_maybe_free(struct resolver *r)
{
    if (!r->is_closing || r->n_polls > 0 || r->has_tick || r->n_telling > 0)
        return;
    void (*closed)(void *) = r->closed;
    void *data = r->closed_data;
    mem_free(r);
    if (closed != NULL)
        closed(data);
}

/* --- sockets --- */

static void on_poll_closed(uv_handle_t *handle)
{
    struct socket_poll *p = handle->data;
    struct resolver *r = p->r;
    mem_free(p);
    r->n_polls--;
    resolver_maybe_free(r);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct socket_poll *p = handle->data;
    bool is_broken = status < 0; /* c-ares reads the error from the socket */
    ares_process_fd(p->r->channel, is_broken || (events & UV_READABLE) != 0 ? p->fd : ARES_SOCKET_BAD,
                    is_broken || (events & UV_WRITABLE) != 0 ? p->fd : ARES_SOCKET_BAD);
}

static void on_socket_state(void *data, ares_socket_t fd, int is_readable, int is_writable)
{
    struct resolver *r = data;
    struct socket_poll *p;
    DL_FOREACH (r->polls, p)
        if (p->fd == fd)
            break;
    if (!is_readable && !is_writable) {
        if (p == NULL)
            return;
        DL_DELETE(r->polls, p);
        uv_close((uv_handle_t *)&p->poll, on_poll_closed);
        return;
    }
    if (p == NULL) {
        p = MEM_NEW(struct socket_poll);
        p->r = r;
        p->fd = fd;
        if (uv_poll_init_socket(&r->loop->uv, &p->poll, fd) != 0) {
            mem_free(p); /* the look-up ends at its deadline */
            return;
        }
        p->poll.data = p;
        DL_APPEND(r->polls, p);
        r->n_polls++;
    }
    (void)uv_poll_start(&p->poll, (is_readable ? UV_READABLE : 0) | (is_writable ? UV_WRITABLE : 0), on_poll);
}

static void on_tick(void *data)
{
    struct resolver *r = data;
    ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD); /* deadlines and repetitions */
    if (r->stats.inflight == 0)
        timer_stop(&r->tick);
}

/* --- answers --- */

static void resolved_free(struct resolved *x)
{
    must(x->ops == NULL && !x->is_telling);
    mem_free(x);
}

static void on_tell(void *data)
{
    struct resolved *x = data;
    struct resolver *r = x->r;
    struct resolve_answer a = {x->err.code, x->addresses, x->n, x->err.code != 0 ? &x->err : NULL};
    while (x->ops != NULL) {
        struct resolve_op *op = x->ops;
        DL_DELETE(x->ops, op);
        resolve_done_cb done = op->done;
        void *done_data = op->data;
        mem_free(op);
        done(&a, done_data);
    }
    x->is_telling = false;
    r->n_telling--;
    if (x->is_orphan)
        resolved_free(x);
    resolver_maybe_free(r);
}

static void tell_later(struct resolved *x)
{
    if (x->is_telling)
        return;
    x->is_telling = true;
    x->r->n_telling++;
    loop_defer(x->r->loop, on_tell, x);
}

static void answer_failed(struct resolved *x, int status)
{
    if (status == ARES_ENOTFOUND || status == ARES_ENODATA)
        (void)err_set(&x->err, E_NOT_FOUND, "%s",
                      status == ARES_ENODATA ? "the name has no address" : "no such name");
    else if (status == ARES_ETIMEOUT)
        (void)err_set(&x->err, E_TIMEOUT, "the name servers do not answer");
    else if (status == ARES_EDESTRUCTION || status == ARES_ECANCELLED)
        (void)err_set(&x->err, E_CANCELLED, "cancelled");
    else
        (void)err_set(&x->err, E_UPSTREAM, "cannot resolve: %s", ares_strerror(status));
    x->r->stats.failed++;
    x->expires_ms = now_of(x->r) + x->r->o.failed_ms;
}

static void answer_take(struct resolved *x, const struct ares_addrinfo *list)
{
    int64_t ttl_ms = x->r->o.ttl_max_ms;
    bool is_too_many = false;
    x->n = 0;
    for (const struct ares_addrinfo_node *n = list->nodes; n != NULL; n = n->ai_next) {
        struct address a;
        if (address_from_sockaddr(n->ai_addr, &a) != 0)
            continue;
        if (x->n < RESOLVE_ADDRESSES_MAX)
            x->addresses[x->n++] = a;
        else
            is_too_many = true;
        if ((int64_t)n->ai_ttl * 1000 < ttl_ms)
            ttl_ms = (int64_t)n->ai_ttl * 1000;
    }
    if (is_too_many)
        (void)err_set(&x->err, E_UPSTREAM, "the name has more than %d addresses", RESOLVE_ADDRESSES_MAX);
    else if (x->n == 0)
        (void)err_set(&x->err, E_NOT_FOUND, "the name has no address");
    x->expires_ms = now_of(x->r) + (ttl_ms < x->r->o.ttl_min_ms ? x->r->o.ttl_min_ms : ttl_ms);
}

static void on_answer(void *data, int status, int timeouts, struct ares_addrinfo *list)
{
    struct resolved *x = data;
    (void)timeouts;
    x->is_pending = false;
    x->r->stats.inflight--;
    if (status == ARES_SUCCESS && list != NULL)
        answer_take(x, list);
    else
        answer_failed(x, status);
    ares_freeaddrinfo(list);
    tell_later(x);
}

/* --- asking --- */

/* Only what nobody waits for can go. */
static void cache_trim(struct resolver *r)
{
    struct resolved *x, *tmp;
    if (r->stats.names < r->o.names_max)
        return;
    HASH_ITER (hh, r->names, x, tmp) {
        if (x->is_pending || x->is_telling)
            continue;
        HASH_DEL(r->names, x);
        r->stats.names--;
        resolved_free(x);
        return;
    }
}

static struct resolved *resolved_new(struct resolver *r, struct slice name)
{
    struct resolved *x = MEM_NEW(struct resolved);
    cache_trim(r);
    x->r = r;
    (void)snprintf(x->name, sizeof x->name, "%.*s", SL_ARG(name));
    HASH_ADD_STR(r->names, name, x);
    r->stats.names++;
    return x;
}

static void ask(struct resolved *x)
{
    struct resolver *r = x->r;
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    err_clear(&x->err);
    x->n = 0;
    if (r->stats.inflight >= r->o.inflight_max) {
        (void)err_set(&x->err, E_UNAVAILABLE, "too many names are being looked up");
        r->stats.refused++;
        x->expires_ms = 0;
        tell_later(x);
        return;
    }
    r->stats.asked++;
    r->stats.inflight++;
    x->is_pending = true;
    if (!timer_is_active(&r->tick))
        timer_repeat(&r->tick, TICK_MS);
    ares_getaddrinfo(r->channel, x->name, NULL, &hints, on_answer, x); /* on_answer may have fired */
}

struct resolve_op *resolver_lookup(struct resolver *r, struct slice name, resolve_done_cb done, void *data)
{
    struct resolve_op *op = MEM_NEW(struct resolve_op);
    char key[NAME_BYTES_MAX + 1];
    struct resolved *x;
    must(name.n > 0 && name.n <= NAME_BYTES_MAX && !r->is_closing);
    (void)snprintf(key, sizeof key, "%.*s", SL_ARG(name));
    HASH_FIND_STR(r->names, key, x);
    bool is_fresh = x != NULL && (x->is_pending || x->is_telling || now_of(r) < x->expires_ms);
    if (x == NULL)
        x = resolved_new(r, name);
    *op = (struct resolve_op){.of = x, .done = done, .data = data};
    DL_APPEND(x->ops, op);
    if (!is_fresh) {
        ask(x);
    } else if (!x->is_pending) {
        r->stats.cached++;
        tell_later(x);
    }
    return op;
}

void resolve_cancel(struct resolve_op *op)
{
    DL_DELETE(op->of->ops, op);
    mem_free(op);
}

/* --- life --- */

/* The whole of the tries is to end at the deadline: c-ares goes over all servers twice, and doubles the wait
 * for the second round. */
static int channel_open(struct resolver *r, size_t for_servers, size_t *ret_servers)
{
    char lookups[] = "b";
    struct ares_options a = {.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES,
                             .timeout = (int)(r->o.timeout_ms / 3 / (int64_t)for_servers),
                             .tries = TRIES,
                             .lookups = lookups,
                             .sock_state_cb = on_socket_state,
                             .sock_state_cb_data = r};
    struct ares_addr_port_node *servers = NULL;
    if (a.timeout < FIRST_TRIES_MS_MIN)
        a.timeout = FIRST_TRIES_MS_MIN;
    int rc = ares_init_options(&r->channel, &a,
                               ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS |
                                   ARES_OPT_SOCK_STATE_CB);
    if (rc != ARES_SUCCESS)
        return rc;
    if (r->o.servers != NULL && r->o.servers[0] != '\0')
        rc = ares_set_servers_ports_csv(r->channel, r->o.servers);
    if (rc == ARES_SUCCESS)
        rc = ares_get_servers_ports(r->channel, &servers);
    if (rc != ARES_SUCCESS) {
        ares_destroy(r->channel);
        return rc;
    }
    *ret_servers = 0;
    for (const struct ares_addr_port_node *s = servers; s != NULL; s = s->next)
        ++*ret_servers;
    ares_free_data(servers);
    return 0;
}

int resolver_new(struct loop *l, const struct resolver_options *o, struct resolver **ret, struct err *err)
{
    struct resolver *r = MEM_NEW(struct resolver);
    r->loop = l;
    if (o != NULL)
        r->o = *o;
    r->o.timeout_ms = r->o.timeout_ms != 0 ? r->o.timeout_ms : 5000;
    r->o.inflight_max = r->o.inflight_max != 0 ? r->o.inflight_max : 256;
    r->o.names_max = r->o.names_max != 0 ? r->o.names_max : 4096;
    r->o.ttl_min_ms = r->o.ttl_min_ms != 0 ? r->o.ttl_min_ms : 1000;
    r->o.ttl_max_ms = r->o.ttl_max_ms != 0 ? r->o.ttl_max_ms : (int64_t)300 * 1000;
    r->o.failed_ms = r->o.failed_ms != 0 ? r->o.failed_ms : 1000;
    int rc = ares_library_init(ARES_LIB_INIT_ALL);
    size_t n_servers = 1;
    if (rc == ARES_SUCCESS)
        rc = channel_open(r, 1, &n_servers);
    if (rc == ARES_SUCCESS && n_servers > 1) { /* known only now; nothing was asked yet */
        ares_destroy(r->channel);
        rc = channel_open(r, n_servers, &n_servers);
    }
    if (rc != ARES_SUCCESS) {
        mem_free(r);
        return err_set(err, E_INVALID, "name servers: %s", ares_strerror(rc));
    }
    r->o.servers = NULL; /* the caller's */
    timer_init(&r->tick, l, on_tick, r);
    r->has_tick = true;
    *ret = r;
    return 0;
}

static void on_tick_closed(void *data)
{
    struct resolver *r = data;
    r->has_tick = false;
    resolver_maybe_free(r);
}

void resolver_close(struct resolver *r, void (*closed)(void *data), void *data)
{
    struct resolved *x, *tmp;
    r->is_closing = true;
    r->closed = closed;
    r->closed_data = data;
    ares_destroy(r->channel); /* on_answer for all in flight, their sockets are let go */
    HASH_ITER (hh, r->names, x, tmp) {
        HASH_DEL(r->names, x);
        if (x->is_telling)
            x->is_orphan = true;
        else
            resolved_free(x);
    }
    r->stats.names = 0;
    timer_close(&r->tick, on_tick_closed);
}

const struct resolver_stats *resolver_stats(const struct resolver *r)
{
    return &r->stats;
}
