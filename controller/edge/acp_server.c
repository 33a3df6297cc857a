/* acp_server: see acp_server.h. */
#include "controller/edge/acp_server.h"

#include "base/core/log.h"
#include "base/core/mem.h"
#include "controller/edge/envelope.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define LATE_BYTES_MAX 65536

static void key_write(char out[sizeof((struct acp_server *)0)->key], const char *workspace_id,
                      struct slice id)
{
    (void)snprintf(out, sizeof((struct acp_server *)0)->key, "%s/%.*s", workspace_id, SL_ARG(id));
}

struct acp_server *acp_server_find(struct acp *a, const char *workspace_id, struct slice id)
{
    char key[sizeof((struct acp_server *)0)->key];
    struct acp_server *s;
    key_write(key, workspace_id, id);
    HASH_FIND_STR(a->servers, key, s);
    return s;
}

struct acp_server *acp_server_get(struct acp *a, const char *tenant_id, const char *workspace_id,
                                  struct slice id)
{
    struct acp_server *s = acp_server_find(a, workspace_id, id);
    if (s != NULL)
        return s;
    s = MEM_NEW(struct acp_server);
    s->acp = a;
    s->late = BUF_INIT(LATE_BYTES_MAX);
    key_write(s->key, workspace_id, id);
    (void)snprintf(s->workspace_id, sizeof s->workspace_id, "%s", workspace_id);
    (void)snprintf(s->tenant_id, sizeof s->tenant_id, "%s", tenant_id);
    (void)snprintf(s->id, sizeof s->id, "%.*s", SL_ARG(id));
    HASH_ADD_STR(a->servers, key, s);
    return s;
}

static bool is_idle(const struct acp_server *s)
{
    return s->busy == 0 && s->streams == NULL && s->posts == NULL && s->pending == NULL;
}

static void server_free(struct acp_server *s)
{
    struct acp_pending *p, *tmp;
    HASH_DEL(s->acp->servers, s);
    DL_FOREACH_SAFE (s->pending, p, tmp) {
        mem_free(p->id);
        mem_free(p);
    }
    buf_fini(&s->late);
    mem_free(s);
}

void acp_server_maybe_free(struct acp_server *s)
{
    /* Nobody's and idle: a GET that no POST followed. Otherwise kept as a cache of its record, up to a
     * number. */
    if (is_idle(s) && (s->subject[0] == '\0' || HASH_COUNT(s->acp->servers) > ACP_SERVERS_MAX))
        server_free(s);
}

/* --- claims --- */

struct claim {
    struct acp *acp;
    char key[sizeof((struct acp_server *)0)->key]; /* the server is looked up again: it may have gone
                                                      meanwhile */
    char workspace_id[40];
    char tenant_id[16];
    char subject[160];
    bool may_take;
    acp_claim_cb done;
    void *data;
};

static void claim_end(struct claim *cl, int code, const char *owner, const struct err *err)
{
    struct acp_server *s;
    struct err other = {0};
    HASH_FIND_STR(cl->acp->servers, cl->key, s);
    if (s != NULL && owner != NULL)
        (void)snprintf(s->subject, sizeof s->subject, "%s", owner);
    if (code == 0 && owner != NULL && strcmp(owner, cl->subject) != 0) {
        err = &other;
        code = err_set(&other, E_FORBIDDEN, "this server id belongs to somebody else");
    }
    cl->done(code, err, cl->data);
    mem_free(cl);
}

static void claim_read(struct claim *cl);

static void claim_key(const struct claim *cl, char out[STORE_KEY_MAX])
{
    (void)snprintf(out, STORE_KEY_MAX, "acp/%s", cl->key);
}

static void on_claimed(const struct store_commit_answer *a, void *data)
{
    struct claim *cl = data;
    struct err many = {0};
    if (a->code == E_BOUND) {
        err_set(&many, E_QUOTA, "the workspace has %d sessions: close some", ACP_IDS_MAX);
        claim_end(cl, E_QUOTA, NULL, &many);
    } else if (a->code == E_CONFLICT && !cl->acp->is_closed)
        claim_read(cl); /* somebody was faster, perhaps ourselves at another controller */
    else
        claim_end(cl, a->code, a->code == 0 ? cl->subject : NULL, a->err);
}

static void on_claim_read(int code, const struct store_record *r, size_t n, bool has_more,
                          const struct err *err, void *data)
{
    (void)has_more;
    struct claim *cl = data;
    char owner[160], key[STORE_KEY_MAX];
    if (cl->acp->is_closed) {
        claim_end(cl, E_CANCELLED, NULL, NULL);
    } else if (code != 0 || n != 1) {
        claim_end(cl, code != 0 ? code : E_INTERNAL, NULL, err);
    } else if (r->version != 0) {
        (void)snprintf(owner, sizeof owner, "%.*s", SL_ARG(r->value));
        claim_end(cl, 0, owner, NULL);
    } else if (!cl->may_take) {
        claim_end(cl, E_NOT_FOUND, NULL, NULL);
    } else {
        claim_key(cl, key);
        char count[64];
        (void)snprintf(count, sizeof count, "acp/%s", cl->workspace_id);
        struct store_op ops[] = {store_expect(slice_str(key), 0),
                                 store_put(slice_str(key), slice_str(cl->subject)),
                                 store_add(slice_str(count), 1)};
        ops[2].has_bound = true;
        ops[2].bound = ACP_IDS_MAX;
        store_commit(cl->acp->c->store, slice_str(cl->tenant_id), ops, ARRAY_LEN(ops), on_claimed, cl);
    }
}

static void claim_read(struct claim *cl)
{
    char key[STORE_KEY_MAX];
    claim_key(cl, key);
    struct slice keys[] = {slice_str(key)};
    store_get(cl->acp->c->store, slice_str(cl->tenant_id), keys, 1, on_claim_read, cl);
}

static void claim_known(void *data)
{
    struct claim *cl = data;
    struct acp_server *s;
    char owner[160] = "";
    HASH_FIND_STR(cl->acp->servers, cl->key, s);
    if (s != NULL)
        (void)snprintf(owner, sizeof owner, "%s", s->subject);
    if (owner[0] != '\0')
        claim_end(cl, 0, owner, NULL);
    else
        claim_read(cl);
}

void acp_server_claim(struct acp *a, const char *tenant_id, const char *workspace_id, struct slice id,
                      const char *subject, bool may_take, acp_claim_cb done, void *data)
{
    struct claim *cl = MEM_NEW(struct claim);
    struct acp_server *s = acp_server_find(a, workspace_id, id);
    cl->acp = a;
    cl->may_take = may_take;
    cl->done = done;
    cl->data = data;
    key_write(cl->key, workspace_id, id);
    (void)snprintf(cl->workspace_id, sizeof cl->workspace_id, "%s", workspace_id);
    (void)snprintf(cl->tenant_id, sizeof cl->tenant_id, "%s", tenant_id);
    (void)snprintf(cl->subject, sizeof cl->subject, "%s", subject);
    if (s != NULL && s->subject[0] != '\0')
        loop_defer(&a->c->loop, claim_known, cl);
    else
        claim_read(cl);
}

static void on_unclaimed(const struct store_commit_answer *a, void *data)
{
    (void)data;
    if (a->code != 0) /* harmless: the id stays its subject's */
        log_warn("acp.unclaim_failed", LF_STR("detail", a->err != NULL ? a->err->msg : ""));
}

void acp_server_unclaim(struct acp *a, const char *tenant_id, const char *workspace_id, struct slice id)
{
    struct acp_server *s = acp_server_find(a, workspace_id, id);
    char key[sizeof((struct acp_server *)0)->key], record[STORE_KEY_MAX], count[64];
    key_write(key, workspace_id, id);
    (void)snprintf(record, sizeof record, "acp/%s", key);
    (void)snprintf(count, sizeof count, "acp/%s", workspace_id);
    struct store_op ops[] = {store_delete(slice_str(record)), store_add(slice_str(count), -1)};
    if (s != NULL)
        s->subject[0] = '\0';
    store_commit(a->c->store, slice_str(tenant_id), ops, ARRAY_LEN(ops), on_unclaimed, NULL);
}

/* --- requests in flight --- */

static struct acp_pending *pending_find(struct acp_server *s, struct slice id)
{
    struct acp_pending *p;
    DL_FOREACH (s->pending, p) {
        if (slice_eq_str(id, p->id))
            return p;
    }
    return NULL;
}

struct acp_pending *acp_pending_add(struct acp_server *s, struct slice id, struct acp_post *post)
{
    if (s->n_pending >= ACP_PENDING_MAX || pending_find(s, id) != NULL)
        return NULL;
    struct acp_pending *p = MEM_NEW(struct acp_pending);
    p->id = mem_strndup(id.p, id.n);
    p->post = post;
    DL_APPEND(s->pending, p);
    s->n_pending++;
    struct workspace *ws = scheduler_find_id(s->acp->c->scheduler, slice_str(s->workspace_id));
    if (ws != NULL)
        scheduler_hold(s->acp->c->scheduler, ws);
    return p;
}

void acp_pending_drop(struct acp_server *s, struct acp_pending *p)
{
    DL_DELETE(s->pending, p);
    s->n_pending--;
    mem_free(p->id);
    mem_free(p);
    scheduler_unhold(s->acp->c->scheduler, slice_str(s->workspace_id));
}

void acp_pending_answered(struct acp_server *s, struct slice id, struct slice envelope)
{
    struct acp_pending *p = pending_find(s, id);
    if (p == NULL)
        return;
    if (p->post != NULL)
        acp_post_answered(p->post, envelope); /* drops p */
    else
        acp_pending_drop(s, p);
}

void acp_server_attached(struct acp_server *s)
{
    for (struct acp_post *p = s->posts, *next; p != NULL; p = next) {
        next = acp_post_next(p);
        acp_post_attached(p);
    }
}

void acp_server_error(struct acp_server *s, struct slice id, const struct err *err)
{
    struct buf event = BUF_INIT(ERR_MSG_MAX * 8);
    bool is_sent = false;
    (void)buf_str(&event, "event: message\ndata: ");
    envelope_error(&event, id, err, NULL);
    (void)buf_str(&event, "\n\n");
    for (struct acp_stream *st = s->streams; st != NULL; st = acp_stream_next(st))
        is_sent = acp_stream_send(st, buf_view(&event)) || is_sent;
    if (!is_sent)
        (void)buf_slice(&s->late,
                        buf_view(&event)); /* full: the client has not come back for 64 KiB of errors */
    buf_fini(&event);
}

void acp_server_fail(struct acp_server *s, const struct err *err)
{
    s->busy++;
    /* First those whose POST still waits: they answer there and leave the list of requests in flight. */
    for (struct acp_post *p = s->posts, *next; p != NULL; p = next) {
        next = acp_post_next(p);
        acp_post_fail(p, err);
    }
    while (s->pending != NULL) {
        AUTO_FREE char *id = mem_strdup(s->pending->id);
        if (s->pending->post != NULL)
            acp_post_answered(s->pending->post, SLICE_NULL); /* was answered 202: nobody waits there */
        else
            acp_pending_drop(s, s->pending);
        acp_server_error(s, slice_str(id), err);
    }
    s->busy--;
    acp_server_maybe_free(s);
}

/* --- the whole --- */

struct acp *acp_new(struct controller *c)
{
    struct acp *a = MEM_NEW(struct acp);
    a->c = c;
    return a;
}

static void server_drop(struct acp_server *s)
{
    acp_stream_free_all(s);
    acp_post_free_all(s);
    while (s->pending != NULL)
        acp_pending_drop(s, s->pending);
    server_free(s);
}

void acp_close(struct acp *a)
{
    struct acp_server *s, *tmp;
    if (a == NULL)
        return;
    HASH_ITER (hh, a->servers, s, tmp) {
        server_drop(s);
    }
    a->is_closed = true;
}

void acp_free(struct acp *a)
{
    mem_free(a);
}

/* Records of a deleted workspace: its id never comes again, so what a crash leaves is dead weight, not a
 * danger. */
struct purge {
    struct acp *acp;
    char tenant_id[16];
    char prefix[64];
};

static void purge_page(struct purge *p);

static void on_purged(const struct store_commit_answer *a, void *data)
{
    struct purge *p = data;
    if (a->code == 0 && !p->acp->is_closed)
        purge_page(p);
    else
        mem_free(p);
}

static void on_purge_page(int code, const struct store_record *r, size_t n, bool has_more,
                          const struct err *err, void *data)
{
    (void)err;
    (void)has_more;
    struct purge *p = data;
    if (code != 0 || n == 0 || p->acp->is_closed) {
        mem_free(p);
        return;
    }
    struct store_op *ops = mem_alloc(n * sizeof *ops);
    for (size_t i = 0; i < n; i++)
        ops[i] = store_delete(r[i].key);
    store_commit(p->acp->c->store, slice_str(p->tenant_id), ops, n, on_purged, p);
    mem_free(ops);
}

static void purge_page(struct purge *p)
{
    store_scan(p->acp->c->store, slice_str(p->tenant_id), slice_str(p->prefix), SLICE_EMPTY, 500,
               on_purge_page, p);
}

void acp_workspace_gone(struct acp *a, const char *tenant_id, const char *workspace_id)
{
    struct acp_server *s, *tmp;
    struct err err = {0};
    if (a->is_closed)
        return;
    err_set(&err, E_GONE, "the workspace was deleted");
    HASH_ITER (hh, a->servers, s, tmp) {
        if (strcmp(s->workspace_id, workspace_id) != 0)
            continue;
        s->subject[0] = '\0';
        acp_server_fail(s, &err); /* forgets it too, when it is idle then */
    }
    struct purge *p = MEM_NEW(struct purge);
    p->acp = a;
    (void)snprintf(p->tenant_id, sizeof p->tenant_id, "%s", tenant_id);
    (void)snprintf(p->prefix, sizeof p->prefix, "acp/%s/", workspace_id);
    purge_page(p);
}
