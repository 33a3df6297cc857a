/* redis_route: which server has a partition.
 *
 * Happy path: one server, or a cluster whose redirections were learned: the slot of the key names the link.
 *
 * Failure paths: MOVED teaches the slot's new server and the call goes there; ASK sends this one call there,
 * behind an ASKING. Neither was run where it was refused, so sending again is safe for commits too. A call
 * that is sent around too often, or to more servers than we take, ends with the server's own words (an error
 * reply), which its caller reads as "not done". */
#include "base/store/redis_route.h"

#include <stdio.h>
#include <string.h>

#include <hiredis/hiredis.h>

#include "base/core/mem.h"

#define SLOTS         16384
#define REDIRECTS_MAX 5

struct node {
    struct redis_login login; /* credentials are the first one's */
    struct redis_link *link;
};

struct redis_route {
    struct loop *loop;
    struct node nodes[REDIS_NODES_MAX];
    size_t n_nodes;
    unsigned char slots[SLOTS]; /* index of the node */
    redis_state_cb on_state;
    void *state_data;
    size_t n_open;
    void (*closed)(void *data);
    void *closed_data;
};

struct route_call {
    struct redis_route *route;
    unsigned slot;
    const struct slice *argv;
    size_t argc;
    bool is_safe;
    unsigned redirects;
    redis_reply_cb cb;
    void *data;
};

/* CRC-16/XMODEM, as the cluster specification has it. */
static unsigned crc16(struct slice s)
{
    unsigned crc = 0;
    for (size_t i = 0; i < s.n; i++) {
        crc ^= (unsigned)(unsigned char)s.p[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 0x8000 ? (crc << 1 ^ 0x1021) & 0xffff : crc << 1 & 0xffff;
    }
    return crc;
}

unsigned redis_slot(struct slice key)
{
    size_t open = slice_find(key, '{');
    if (open != SIZE_MAX) {
        struct slice tag = slice_from(key, open + 1);
        size_t close = slice_find(tag, '}');
        if (close != SIZE_MAX && close > 0)
            key = slice_of(tag.p, close);
    }
    return crc16(key) % SLOTS;
}

/* Index of the node at that place, made when it is new; SIZE_MAX when there are too many. */
static size_t node_at(struct redis_route *r, const struct endpoint *to)
{
    for (size_t i = 0; i < r->n_nodes; i++)
        if (r->nodes[i].login.to.port == to->port && strcmp(r->nodes[i].login.to.host, to->host) == 0)
            return i;
    if (r->n_nodes == REDIS_NODES_MAX)
        return SIZE_MAX;
    struct node *n = &r->nodes[r->n_nodes];
    if (r->n_nodes > 0)
        n->login = r->nodes[0].login;
    n->login.to = *to;
    n->link = redis_link_new(r->loop, &n->login, r->on_state, r->state_data);
    r->n_open++;
    return r->n_nodes++;
}

/* "MOVED 3999 127.0.0.1:6381" or "ASK …": the place; an empty host is the one that answered. */
static bool redirection_read(const struct redis_route *r, const char *text, struct endpoint *ret)
{
    const char *at = strrchr(text, ' '), *colon = strrchr(text, ':');
    uint64_t port;
    if (at == NULL || colon == NULL || colon < at || slice_u64(slice_str(colon + 1), &port) != 0 ||
        port == 0 || port > 65535)
        return false;
    size_t n = (size_t)(colon - at - 1);
    *ret = r->nodes[0].login.to;
    ret->port = (uint16_t)port;
    if (n >= sizeof(ret->host))
        return false;
    if (n > 0) {
        memcpy(ret->host, at + 1, n);
        ret->host[n] = '\0';
    }
    return true;
}

static void on_route_reply(int code, const redisReply *p, const struct err *err, void *data);

static int call_send(struct route_call *c, size_t node)
{
    return redis_link_call(c->route->nodes[node].link, c->argv, c->argc, c->is_safe, on_route_reply, c);
}

static void on_asking(int code, const redisReply *p, const struct err *err, void *data)
{
    (void)code; /* if it was lost, the call behind it is redirected again, or lost too */
    (void)p;
    (void)err;
    (void)data;
}

/* True when the call was sent to another server. */
static bool call_redirect(struct route_call *c, const char *text)
{
    bool is_moved = strncmp(text, "MOVED ", 6) == 0, is_ask = strncmp(text, "ASK ", 4) == 0;
    const struct slice asking = SL("ASKING");
    struct endpoint to;
    if ((!is_moved && !is_ask) || c->redirects++ == REDIRECTS_MAX || !redirection_read(c->route, text, &to))
        return false;
    size_t node = node_at(c->route, &to);
    if (node == SIZE_MAX)
        return false;
    if (is_moved)
        c->route->slots[c->slot] = (unsigned char)node;
    else if (redis_link_call(c->route->nodes[node].link, &asking, 1, false, on_asking, NULL) != 0)
        return false;
    return call_send(c, node) == 0;
}

static void on_route_reply(int code, const redisReply *p, const struct err *err, void *data)
{
    struct route_call *c = data;
    if (code == 0 && p->type == REDIS_REPLY_ERROR && call_redirect(c, p->str))
        return;
    c->cb(code, p, err, c->data);
    mem_free(c);
}

int redis_route_call(struct redis_route *r, struct slice key, const struct slice *argv, size_t argc,
                     bool is_safe, redis_reply_cb cb, void *data)
{
    struct route_call *c = MEM_NEW(struct route_call);
    *c = (struct route_call){.route = r,
                             .slot = redis_slot(key),
                             .argv = argv,
                             .argc = argc,
                             .is_safe = is_safe,
                             .cb = cb,
                             .data = data};
    int rc = call_send(c, r->slots[c->slot]);
    if (rc != 0)
        mem_free(c);
    return rc;
}

const char *redis_route_sha(const struct redis_route *r, enum redis_script s)
{
    return redis_link_sha(r->nodes[0].link, s); /* the digest of the text: the same everywhere */
}

struct redis_route *redis_route_new(struct loop *l, const struct redis_login *login, redis_state_cb on_state,
                                    void *data)
{
    struct redis_route *r = MEM_NEW(struct redis_route);
    r->loop = l;
    r->on_state = on_state;
    r->state_data = data;
    r->nodes[0].login = *login;
    (void)node_at(r, &login->to);
    return r;
}

static void on_link_closed(void *data)
{
    struct redis_route *r = data;
    if (--r->n_open > 0)
        return;
    void (*closed)(void *data) = r->closed;
    void *closed_data = r->closed_data;
    mem_free(r);
    closed(closed_data);
}

void redis_route_close(struct redis_route *r, void (*closed)(void *data), void *data)
{
    r->closed = closed;
    r->closed_data = data;
    for (size_t i = 0; i < r->n_nodes; i++)
        redis_link_close(r->nodes[i].link, on_link_closed, r);
}
