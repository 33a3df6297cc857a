/* reserved: see reserved.h. The real ports of the listeners are asked for each time: a configuration that was
 * reloaded may name others that take effect only after a restart. */
#include "controller/edge/reserved.h"

#include "base/core/mem.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>

#define LOCAL_FRESH_MS 5000 /* addresses of this machine */
#define LOCAL_MAX      256
#define LOOK_EVERY_MS  60000
#define PORTS_MAX      16
#define ADDRESSES_MAX  16 /* of one name */

/* A name that stands for private addresses, perhaps. */
struct lookup {
    struct reserved_set *set;
    uv_getaddrinfo_t req;
    char name[HOST_NAME_MAX_BYTES + 1];
    uint16_t port;
    const char *what;
    struct address addresses[ADDRESSES_MAX];
    size_t n;
    bool is_asking;
    bool is_dropped; /* by a reload, while it was asking: freed by its answer */
    struct lookup *next;
};

struct reserved_set {
    struct controller *c;
    struct reserved *fixed; /* of the configuration */
    size_t n_fixed;
    struct lookup *lookups;
    size_t n_asking; /* look-ups under way, dropped ones as well */
    struct reserved *view;
    struct address local[LOCAL_MAX];
    size_t n_local;
    int64_t local_ms;
    struct timer timer;
    bool has_timer, is_closing;
    void (*changed)(void *data);
    void *changed_data;
    void (*closed)(void *data);
    void *closed_data;
};

static bool is_own_kind(const struct address *a)
{
    const char *kind = address_special(a);
    return kind != NULL && (strcmp(kind, "unspecified") == 0 || strcmp(kind, "loopback") == 0);
}

static void set_maybe_free(struct reserved_set *s)
{
    if (!s->is_closing || s->has_timer || s->n_asking > 0)
        return;
    void (*closed)(void *) = s->closed;
    void *data = s->closed_data;
    mem_free(s->fixed);
    mem_free(s->view);
    mem_free(s);
    closed(data);
}

/* --- names --- */

static void on_addresses(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct lookup *k = req->data;
    struct reserved_set *s = k->set;
    struct lookup before = *k;
    s->n_asking--;
    k->is_asking = false;
    if (status == 0)
        k->n = 0; /* a failure leaves what was known */
    for (struct addrinfo *a = list; status == 0 && a != NULL && k->n < ADDRESSES_MAX; a = a->ai_next)
        if (address_from_sockaddr(a->ai_addr, &k->addresses[k->n]) == 0 &&
            address_special(&k->addresses[k->n]) != NULL)
            k->n++;
    uv_freeaddrinfo(list);
    bool is_changed =
        k->n != before.n || memcmp(k->addresses, before.addresses, k->n * sizeof k->addresses[0]) != 0;
    if (is_changed && !k->is_dropped && !s->is_closing)
        s->changed(s->changed_data);
    if (k->is_dropped)
        mem_free(k);
    set_maybe_free(s);
}

static void look(struct lookup *k)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    if (k->is_asking)
        return;
    k->req.data = k;
    k->is_asking = uv_getaddrinfo(&k->set->c->loop.uv, &k->req, on_addresses, k->name, NULL, &hints) == 0;
    k->set->n_asking += k->is_asking;
}

static void on_timer(void *data)
{
    struct reserved_set *s = data;
    for (struct lookup *k = s->lookups; k != NULL; k = k->next)
        look(k);
}

static void lookups_drop(struct lookup *list)
{
    while (list != NULL) {
        struct lookup *k = list;
        list = k->next;
        if (k->is_asking)
            k->is_dropped = true;
        else
            mem_free(k);
    }
}

/* Until a name is looked up again it stands for what it stood for before. */
static void lookups_inherit(struct reserved_set *s, const struct lookup *before)
{
    for (struct lookup *k = s->lookups; k != NULL; k = k->next)
        for (const struct lookup *b = before; b != NULL && k->n == 0; b = b->next)
            if (strcmp(k->name, b->name) == 0) {
                memcpy(k->addresses, b->addresses, sizeof k->addresses);
                k->n = b->n;
            }
}

/* --- from the configuration --- */

static void reserve(struct reserved_set *s, const char *host, uint16_t port, const char *what,
                    bool is_listener)
{
    struct reserved *r = &s->fixed[s->n_fixed++];
    *r = (struct reserved){.port = port, .what = what};
    if (address_parse(slice_str(host), &r->address) == 0) {
        r->has_address = true;
        /* a listener on loopback is met by every spelling of loopback, one on 0.0.0.0 by every address */
        r->is_local = is_listener && is_own_kind(&r->address);
        return;
    }
    (void)snprintf(r->name, sizeof r->name, "%s", host);
    r->is_local = is_listener || strcmp(host, "localhost") == 0;
    struct lookup *k = MEM_NEW(struct lookup);
    k->set = s;
    k->port = port;
    k->what = what;
    (void)snprintf(k->name, sizeof k->name, "%s", host);
    k->next = s->lookups;
    s->lookups = k;
}

/* "scheme://host[:port]/…" */
static void reserve_url(struct reserved_set *s, struct slice url, uint16_t port, const char *what)
{
    struct slice rest = url, scheme, authority;
    struct target t;
    if (!slice_cut(&rest, ':', &scheme) || !slice_starts(rest, SL("//")))
        return;
    rest = slice_from(rest, 2);
    (void)slice_cut(&rest, '/', &authority);
    if (target_parse(authority, slice_eq_str(scheme, "https") ? 443 : port, &t, NULL) == 0)
        reserve(s, t.host, t.port, what, false);
}

void reserved_set_reload(struct reserved_set *s)
{
    const struct tenancy *t = s->c->tenancy;
    struct lookup *before = s->lookups;
    s->lookups = NULL;
    mem_free(s->fixed);
    s->fixed = mem_zalloc((t->n_listen + t->n_gateways + t->n_providers + 2) * sizeof *s->fixed);
    s->n_fixed = 0;
    for (size_t i = 0; i < t->n_listen; i++) {
        struct endpoint at;
        if (endpoint_parse(t->listen[i].address, &at, NULL) == 0 && !at.is_unix)
            reserve(s, at.host, at.port, "Reeve itself", true);
    }
    reserve_url(s, t->public_url, 80, "Reeve itself");
    for (size_t i = 0; i < t->n_gateways; i++)
        reserve_url(s, t->gateways[i].url, 80, "a gateway of model calls");
    for (size_t i = 0; i < t->n_providers; i++)
        reserve_url(s, t->providers[i].endpoint, 2375, "an engine of containers");
    reserve_url(s, t->store, 6379, "Reeve's store");
    s->local_ms = 0;
    lookups_inherit(s, before);
    lookups_drop(before);
    on_timer(s);
}

static void local_look(struct reserved_set *s)
{
    uv_interface_address_t *list;
    int64_t now = clock_mono_ms(s->c->loop.clock);
    int n = 0;
    if (s->local_ms != 0 && now - s->local_ms < LOCAL_FRESH_MS)
        return;
    s->local_ms = now;
    if (uv_interface_addresses(&list, &n) != 0)
        return; /* what was known stays */
    s->n_local = 0;
    for (int i = 0; i < n && s->n_local < LOCAL_MAX; i++)
        if (address_from_sockaddr((const struct sockaddr *)&list[i].address, &s->local[s->n_local]) == 0)
            s->n_local++;
    uv_free_interface_addresses(list, n);
}

void reserved_set_view(struct reserved_set *s, struct verdict_rules *ret)
{
    uint16_t ports[PORTS_MAX];
    size_t n_ports = s->c->server != NULL ? server_ports(s->c->server, ports, PORTS_MAX) : 0;
    size_t most = s->n_fixed + n_ports, n = s->n_fixed;
    local_look(s);
    for (struct lookup *k = s->lookups; k != NULL; k = k->next)
        most += k->n;
    s->view = mem_realloc(s->view, (most + 1) * sizeof *s->view);
    memcpy(s->view, s->fixed, s->n_fixed * sizeof *s->view);
    for (size_t i = 0; i < n_ports; i++)
        s->view[n++] = (struct reserved){.is_local = true, .port = ports[i], .what = "Reeve itself"};
    for (struct lookup *k = s->lookups; k != NULL; k = k->next)
        for (size_t i = 0; i < k->n; i++)
            s->view[n++] = (struct reserved){
                .has_address = true, .address = k->addresses[i], .port = k->port, .what = k->what};
    ret->reserved = s->view;
    ret->n_reserved = n;
    ret->local = s->local;
    ret->n_local = s->n_local;
}

/* --- life --- */

struct reserved_set *reserved_set_new(struct controller *c, void (*changed)(void *data), void *data)
{
    struct reserved_set *s = MEM_NEW(struct reserved_set);
    s->c = c;
    s->changed = changed;
    s->changed_data = data;
    timer_init(&s->timer, &c->loop, on_timer, s);
    s->has_timer = true;
    timer_repeat(&s->timer, LOOK_EVERY_MS);
    reserved_set_reload(s);
    return s;
}

static void on_timer_closed(void *data)
{
    struct reserved_set *s = data;
    s->has_timer = false;
    set_maybe_free(s);
}

void reserved_set_close(struct reserved_set *s, void (*closed)(void *data), void *data)
{
    s->is_closing = true;
    s->closed = closed;
    s->closed_data = data;
    for (struct lookup *k = s->lookups; k != NULL; k = k->next)
        if (k->is_asking)
            (void)uv_cancel((uv_req_t *)&k->req); /* one that runs ends by itself */
    lookups_drop(s->lookups);
    s->lookups = NULL;
    timer_close(&s->timer, on_timer_closed);
}
