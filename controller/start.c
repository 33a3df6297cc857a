/* start: see start.h. Each step is a function that ends by calling the next, or start_fail. */
#include "controller/start.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "billing/litellm_keys.h"
#include "controller/api/audit.h"
#include "controller/edge/acp.h"
#include "controller/edge/door.h"
#include "controller/edge/egress.h"
#include "controller/edge/keyring.h"
#include "controller/edge/proxy.h"
#include "controller/edge/route.h"
#include "controller/gateway_keys.h"
#include "controller/installation.h"
#include "controller/listeners.h"
#include "providers/standby.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct start {
    struct controller *c;
    start_cb ready;
    struct err err;
};

static void start_fail(struct start *s, const char *what, const struct err *err)
{
    struct controller *c = s->c;
    start_cb ready = s->ready;
    struct err told = {0};
    if (err != NULL)
        told = *err;
    (void)err_prefix(&told, "%s", what);
    c->start = NULL;
    mem_free(s);
    ready(told.code != 0 ? told.code : E_INTERNAL, &told, c);
}

/* --- 7: listen --- */

static const struct server_handler handler = {.on_request = route_request,
                                              .on_bad_request = route_bad_request};

static void listen_all(struct start *s)
{
    struct controller *c = s->c;
    struct server_limits limits = {.body_timeout_ms = 120000};
    c->server = server_new(&c->loop, &limits, &handler, c);
    if (listeners_open(&c->loop, c->server, c->tenancy, &c->listeners, &s->err) != 0) {
        start_fail(s, "listen", &s->err);
        return;
    }
    start_cb ready = s->ready;
    c->is_ready = true;
    c->start = NULL;
    mem_free(s);
    ready(0, NULL, c);
}

/* --- 6: keys --- */

static void on_keys(int code, const struct err *err, void *data)
{
    struct start *s = data;
    if (code != 0)
        start_fail(s, "service keys", err);
    else
        listen_all(s);
}

static void load_keys(struct start *s)
{
    s->c->keyring = keyring_new(&s->c->loop, s->c->store);
    keyring_load(s->c->keyring, s->c->tenancy, on_keys, s);
}

/* --- 5: scheduler --- */

static struct store_op llm_key_op(struct arena *a, const char *hash_hex, struct slice gateway,
                                  const struct workspace *ws, bool is_revoked, void *data)
{
    struct controller *c = data;
    struct billing_key_owner owner = {.tenant = ws->tenant,
                                      .namespace = ws->namespace,
                                      .workspace = ws->name,
                                      .workspace_id = slice_str(ws->id),
                                      .user = ws->user,
                                      .gateway = gateway,
                                      .is_revoked = is_revoked,
                                      .made_at_ms = clock_wall_ms(c->loop.clock)};
    return billing_key_op(a, hash_hex, &owner);
}

static void on_change(const struct workspace *ws, void *data)
{
    struct controller *c = data;
    const struct config_tenant *t = tenancy_tenant(c->tenancy, ws->tenant);
    log_info("workspace.state", LF_SLICE("tenant", ws->tenant), LF_SLICE("namespace", ws->namespace),
             LF_SLICE("workspace", ws->name), LF_STR("id", ws->id),
             LF_STR("state", workspace_state_name(ws->state)), LF_STR("reason", ws->reason));
    workspace_events_notify(c, ws);
    if (ws->state == WS_ABSENT && t != NULL && c->acp != NULL)
        acp_workspace_gone(c->acp, t->id, ws->id);
    if (ws->state == WS_ABSENT && c->door != NULL)
        door_workspace_gone(c->door, ws->id);
    if (ws->state == WS_ABSENT && c->egress != NULL)
        egress_workspace_gone(c->egress, ws->id);
}

static void on_audit(const char *what, struct slice tenant, struct slice subject, struct slice detail,
                     void *data)
{
    struct controller *c = data;
    const struct config_tenant *t = tenancy_tenant(c->tenancy, tenant);
    log_info("audit", LF_STR("action", what), LF_SLICE("tenant", tenant), LF_SLICE("subject", subject),
             LF_SLICE("detail", detail));
    audit_self(c, t != NULL ? t->id : NULL, what, subject, detail);
}

static void on_scheduler(int code, const struct err *err, void *data)
{
    struct start *s = data;
    if (code != 0)
        start_fail(s, "workspaces", err);
    else
        load_keys(s);
}

static void open_scheduler(struct start *s)
{
    struct controller *c = s->c;
    struct scheduler_options o = {.loop = &c->loop,
                                  .store = c->store,
                                  .tenancy = c->tenancy,
                                  .seal_key = &c->seal_key,
                                  .controller = slice_str(c->id),
                                  .epoch = c->epoch,
                                  .providers = c->providers,
                                  .n_providers = c->n_providers,
                                  .llm_key_op = llm_key_op,
                                  .gateway_keys = &c->gateway_keys,
                                  .on_change = on_change,
                                  .on_audit = on_audit,
                                  .data = c};
    c->door = door_new(c);
    c->egress = egress_new(c);
    c->acp = acp_new(c);
    if (gateway_keys_open(c, &c->gateway_keys, &s->err) != 0 ||
        scheduler_new(&o, &c->scheduler, &s->err) != 0) {
        start_fail(s, "scheduler", &s->err);
        return;
    }
    scheduler_start(c->scheduler, on_scheduler, s);
}

/* --- 4: providers --- */

static void on_door(struct slice sandbox_id, struct slice workspace_id, struct stream *stream, void *data)
{
    struct controller *c = data;
    (void)sandbox_id;
    if (c->is_draining || c->door == NULL)
        stream_reset(stream);
    else
        door_accept(c->door, workspace_id, stream);
}

static void on_provider_event(struct slice sandbox_id, struct slice workspace_id, const char *what,
                              void *data)
{
    struct controller *c = data;
    if (c->scheduler != NULL)
        scheduler_on_provider_event(c->scheduler, sandbox_id, workspace_id, what);
}

static void on_provider_progress(struct slice sandbox_id, struct slice workspace_id, const char *text,
                                 void *data)
{
    struct controller *c = data;
    if (c->scheduler != NULL)
        scheduler_on_provider_progress(c->scheduler, sandbox_id, workspace_id, text);
}

char *beside_binary(const char *name)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0)
        return mem_strdup(name);
    exe[n] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(exe, '/');
        if (slash == NULL)
            break;
        *slash = '\0';
        struct buf path = BUF_INIT(PATH_MAX);
        (void)buf_printf(&path, "%s/%s", exe, name);
        if (access(buf_cstr(&path), X_OK) == 0 || up == 1) {
            char *found = mem_strdup(buf_cstr(&path));
            buf_fini(&path);
            return found;
        }
        buf_fini(&path);
    }
    return mem_strdup(name);
}

/* What a provider is opened with, as long as it may have to be tried again. */
struct provider_place {
    char *name, *root, *init, *agent, *endpoint;
    uint32_t uid_first, uid_count;
};

static int open_local(struct loop *l, void *data, struct provider **ret, struct err *err)
{
    const struct provider_place *at = data;
    struct local_options o = {.name = slice_str(at->name),
                              .root = at->root,
                              .init_path = at->init,
                              .agent_binary = at->agent,
                              .uid_first = at->uid_first,
                              .uid_count = at->uid_count};
    return provider_local_open(l, &o, ret, err);
}

static int open_docker(struct loop *l, void *data, struct provider **ret, struct err *err)
{
    const struct provider_place *at = data;
    struct docker_options o = {.name = slice_str(at->name),
                               .endpoint = at->endpoint,
                               .root = at->root,
                               .init_path = at->init,
                               .agent_binary = at->agent};
    return provider_docker_open(l, &o, ret, err);
}

static void provider_place_free(void *data)
{
    struct provider_place *at = data;
    mem_free(at->endpoint);
    mem_free(at->name);
    mem_free(at->root);
    mem_free(at->init);
    mem_free(at->agent);
    mem_free(at);
}

static void open_provider(struct controller *c, const struct config_provider *p)
{
    struct err err = {0};
    struct buf root = BUF_INIT(PATH_MAX);
    struct provider_place *at = MEM_NEW(struct provider_place);
    (void)buf_printf(&root, "%.*s/%.*s", SL_ARG(c->tenancy->data_dir), SL_ARG(p->name));
    at->name = mem_strndup(p->name.p, p->name.n);
    at->root = mem_strdup(buf_cstr(&root));
    at->init = beside_binary("reeve-init");
    at->agent = p->agent_binary.n > 0 ? mem_strndup(p->agent_binary.p, p->agent_binary.n)
                                      : beside_binary("sandbox-agent");
    at->endpoint = p->endpoint.n > 0 ? mem_strndup(p->endpoint.p, p->endpoint.n) : NULL;
    at->uid_first = p->uid_first;
    at->uid_count = p->uid_count;
    buf_fini(&root);
    struct provider *made =
        provider_standby_new(&c->loop, p->name, p->kind == PROVIDER_DOCKER ? open_docker : open_local,
                             provider_place_free, at, &err);
    made->on_door = on_door;
    made->on_event = on_provider_event;
    made->on_progress = on_provider_progress;
    made->data = c;
    c->providers[c->n_providers++] = made;
    const char *note = made->ops->caps(made)->limits_note;
    if (err.code != 0)
        log_error("provider.unavailable", LF_SLICE("provider", p->name), LF_STR("detail", err.msg));
    else if (note[0] != '\0')
        log_warn("provider.limits_not_enforced", LF_SLICE("provider", p->name), LF_STR("detail", note));
}

/* A provider that cannot work here stops nothing: its workspaces wait, say why, and are tried again. */
static void open_providers(struct start *s)
{
    struct controller *c = s->c;
    c->providers = mem_zalloc((c->tenancy->n_providers + 1) * sizeof(struct provider *));
    for (size_t i = 0; i < c->tenancy->n_providers; i++)
        open_provider(c, &c->tenancy->providers[i]);
    open_scheduler(s);
}

/* --- 3: billing --- */

static void on_billing(int code, const struct err *err, void *data)
{
    struct start *s = data;
    if (code != 0)
        start_fail(s, "billing", err);
    else
        open_providers(s);
}

static void open_billing(struct start *s)
{
    struct config_problems problems;
    config_problems_init(&problems);
    int code = billing_open(&s->c->loop, s->c->store, s->c->tenancy, &problems, &s->c->billing);
    if (code != 0) {
        struct buf out = BUF_INIT((size_t)256 * 1024);
        config_problems_print(&problems, &out);
        err_set(&s->err, code, "%s", buf_cstr(&out));
        buf_fini(&out);
    }
    config_problems_fini(&problems);
    if (code != 0)
        start_fail(s, "prices", &s->err);
    else
        billing_start(s->c->billing, on_billing, s);
}

/* --- 2: installation --- */

static void on_installation(int code, const struct installation *i, const struct err *err, void *data)
{
    struct start *s = data;
    if (code != 0) {
        start_fail(s, "installation", err);
        return;
    }
    (void)snprintf(s->c->id, sizeof s->c->id, "%s", i->id);
    s->c->epoch = i->epoch;
    s->c->seal_key = i->key;
    open_billing(s);
}

/* --- 1: folder and store --- */

static int make_folder(const char *path, struct err *err)
{
    AUTO_FREE char *copy = mem_strdup(path);
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char kept = *p;
        *p = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            return err_set(err, err_from_errno(errno), "data_dir %s: %s", path, strerror(errno));
        *p = kept;
        if (kept == '\0')
            return 0;
    }
}

void start_begin(struct controller *c, start_cb ready)
{
    struct start *s = MEM_NEW(struct start);
    s->c = c;
    s->ready = ready;
    c->start = s;
    AUTO_FREE char *data_dir = mem_strndup(c->tenancy->data_dir.p, c->tenancy->data_dir.n);
    AUTO_FREE char *key_path = mem_strndup(c->tenancy->seal_key_file.p, c->tenancy->seal_key_file.n);
    struct buf path = BUF_INIT(PATH_MAX);
    (void)buf_printf(&path, "%s/reeve.db", data_dir);
    int code = make_folder(data_dir, &s->err);
    if (code == 0)
        code = store_sqlite_open(&c->loop, buf_cstr(&path), &c->store, &s->err);
    buf_fini(&path);
    if (code != 0)
        start_fail(s, "store", &s->err);
    else
        installation_open(&c->loop, c->store, key_path, on_installation, s);
}

/* --- down again --- */

static void undo_store(void *data)
{
    struct controller *c = data;
    acp_free(c->acp); /* what waited for the store has had its answer */
    c->acp = NULL;
    keyring_free(c->keyring);
    c->keyring = NULL;
    loop_stop(&c->loop);
}

static void undo_billing(struct controller *c)
{
    if (c->billing != NULL)
        billing_close(c->billing);
    c->billing = NULL;
    if (c->store != NULL)
        store_close(c->store, undo_store, c);
    else
        undo_store(c);
}

static void undo_provider(void *data)
{
    struct controller *c = data;
    if (c->n_providers == 0) {
        undo_billing(c);
        return;
    }
    struct provider *p = c->providers[--c->n_providers];
    p->ops->close(p, undo_provider, c);
}

static void undo_keys(void *data)
{
    struct controller *c = data;
    c->litellm_keys = NULL;
    if (c->scheduler == NULL)
        undo_provider(c);
}

static void undo_scheduler(void *data)
{
    struct controller *c = data;
    c->scheduler = NULL;
    if (c->litellm_keys == NULL)
        undo_provider(c);
}

static void undo_egress(void *data)
{
    struct controller *c = data;
    c->egress = NULL;
    acp_close(c->acp);
    bool has_keys = c->litellm_keys != NULL, has_scheduler = c->scheduler != NULL;
    if (has_scheduler) /* first: it takes what the gateways' calls end with for the shutdown that it is */
        scheduler_close(c->scheduler, undo_scheduler, c);
    if (has_keys)
        litellm_keys_close(c->litellm_keys, undo_keys, c);
    if (!has_keys && !has_scheduler)
        undo_provider(c);
}

static void undo_door(void *data)
{
    struct controller *c = data;
    c->door = NULL;
    if (c->egress != NULL)
        egress_close(c->egress, undo_egress, c);
    else
        undo_egress(c);
}

static void undo_tunnels(void *data)
{
    struct controller *c = data;
    c->on_tunnels_closed = NULL;
    if (c->door != NULL)
        door_close(c->door, undo_door, c);
    else
        undo_door(c);
}

static void undo_server(void *data)
{
    struct controller *c = data;
    c->server = NULL;
    listeners_free(c->listeners);
    c->listeners = NULL;
    proxy_close(c, undo_tunnels);
}

void start_undo(struct controller *c)
{
    if (c->server != NULL)
        server_close(c->server, undo_server, c);
    else
        undo_server(c);
}
