/* create: findOrCreate. From memory when the workspace is known; else one commit makes it, for one of those
 * who ask.
 *
 * Happy path: the hash of the new LLM key is recorded in `fleet`; one commit in the tenant's partition
 * expects the name to be free, puts the record, appends the first event and moves the quotas' counters;
 * everybody who asked meanwhile waits for that commit and only its maker hears `is_created`. Failure paths:
 * another controller was faster: its record is read and taken, and the requests are made again on it; the
 * answer was lost: the record is read back, and while even that fails the name stays doubtful and is looked
 * at again; a quota is reached: nothing was made. */
#include "scheduler/entry.h"

#include <string.h>

#include "base/core/log.h"
#include "base/core/mem.h"

#define DOUBT_MS 1000 /* between two looks at a record whose commit was not answered */

struct creation {
    struct scheduler *s;
    struct entry *e;
    struct draft d;
    uint64_t seq;
    size_t home_op;        /* index of the op that takes up a home; 0: none */
    const char *bounds[8]; /* per op: which quota it is */
    int code;              /* of the commit, while the record is read back */
    struct err err;
};

/* --- compare a request with what is there --- */
static bool pairs_equal(const struct workspace_pair *a, size_t n_a, const struct workspace_pair *b,
                        size_t n_b)
{
    if (n_a != n_b) {
        return false;
    }
    for (size_t i = 0; i < n_a; i++) {
        bool is_found = false;
        for (size_t k = 0; k < n_b && !is_found; k++) {
            is_found = slice_eq(a[i].name, b[k].name) && slice_eq(a[i].value, b[k].value);
        }
        if (!is_found) {
            return false;
        }
    }
    return true; /* names are distinct on both sides */
}

static int compare(const struct entry *e, const struct workspace_request *r, struct err *err)
{
    const struct workspace *ws = &e->ws;
    const struct {
        const char *field;
        struct slice asked, stored;
    } texts[] = {{"template", r->template, ws->template},
                 {"provider", r->provider, e->fact.provider},
                 {"user", r->user, ws->user}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (texts[i].asked.n > 0 && !slice_eq(texts[i].asked, texts[i].stored)) {
            return err_set(err, E_CONFLICT, "%s: the workspace has `%.*s`, the request says `%.*s`",
                           texts[i].field, SL_ARG(texts[i].stored), SL_ARG(texts[i].asked));
        }
    }
    if (r->has_labels && !pairs_equal(r->labels, r->n_labels, ws->labels, ws->n_labels)) {
        return err_set(err, E_CONFLICT, "labels: differ from those of the workspace");
    }
    if (r->has_env && !pairs_equal(r->env, r->n_env, ws->env, ws->n_env)) {
        return err_set(err, E_CONFLICT, "env: differs from that of the workspace");
    }
    return 0;
}

static int refuse_budget(struct err *err)
{
    return err_set(err, E_BUDGET, "the budget is used up: workspaces are neither made nor woken");
}

static int take_existing(struct entry *e, const struct workspace_request *r, struct workspace_wait *w,
                         struct err *err)
{
    if (e->fact.wish == WISH_DELETED) {
        if (r->no_make) {
            return refuse_budget(err);
        }
        wait_keep_request(w, r);
        wait_attach(w, e, WAIT_GONE);
        return 0;
    }
    int code = compare(e, r, err);
    if (code < 0) {
        return code;
    }
    if (e->is_new) {
        wait_keep_request(w, r);
        wait_attach(w, e, WAIT_COMMIT);
        return 0;
    }
    e->touched_ms = now_mono(e->s);
    edit_fn edit = NULL;
    if (e->fact.wish == WISH_SUSPENDED) {
        edit = edit_run;
    } else if (e->fact.state == WS_FAILED && r->retry) {
        edit = edit_retry;
    }
    if (edit == NULL) {
        wait_attach(w, e, WAIT_SETTLE);
        if (e->ws.state != WS_READY && e->retry_ms == 0) {
            reconcile_kick(e); /* its turn after a start may not have come yet */
        }
        return 0;
    }
    if (r->no_make) {
        return refuse_budget(err);
    }
    wait_attach(w, e, WAIT_COMMIT);
    wait_pin(w);
    entry_change(e, edit, NULL, on_wait_saved, w);
    return 0;
}

/* --- the end of a creation --- */
static void creation_free(struct creation *c)
{
    struct scheduler *s = c->s;
    mem_free(c);
    scheduler_idle(s);
}

static void entry_discard(struct entry *e)
{
    due_clear(e);
    roster_drop(e);
    waits_gone(e);
    entry_free(e);
}

static void create_failed(struct creation *c, bool is_known, int code, const struct err *err)
{
    struct entry *e = c->e;
    if (is_known) {
        llm_key_forget(e, e->ws.llm_key_hash);
    }
    if (e->home != NULL) {
        e->home->is_taken = false;
    }
    waits_fail(e, WAIT_COMMIT, code, err);
    entry_discard(e);
    creation_free(c);
}

static void home_drop(struct entry *e)
{
    struct home *h = e->home;
    e->home = NULL;
    if (h != NULL) {
        HASH_DEL(e->tenant->homes, h);
        mem_free(h->key);
        mem_free(h->id);
        mem_free(h);
    }
}

static void create_made(struct creation *c, uint64_t version)
{
    struct entry *e = c->e;
    e->is_new = false;
    e->is_doubtful = false;
    e->fact = c->d.fact;
    e->ws.version = version;
    e->is_attempt_used = false;
    home_drop(e);
    creation_free(c);
    entry_view(e, true);
    struct workspace_wait *w, *next;
    DL_FOREACH_SAFE (e->waits, w, next) {
        if (w->phase == WAIT_COMMIT) {
            wait_attach(w, e, WAIT_SETTLE);
        }
    }
    reconcile_kick(e);
}

/* Another controller has made it: its workspace takes the place of ours. */
static void create_lost(struct creation *c, const struct store_record *r)
{
    struct entry *e = c->e;
    struct scheduler *s = c->s;
    struct err err = {0};
    s->stats.conflicts++;
    struct entry *by = record_read(e->tenant, r->value, r->version, &err);
    if (by == NULL) {
        (void)err_prefix(&err, "the workspace's record cannot be understood");
        create_failed(c, true, E_INTERNAL, &err);
        return;
    }
    llm_key_forget(e, e->ws.llm_key_hash);
    due_clear(e);
    roster_drop(e);
    roster_add(by);
    entry_view(by, true);
    if (e->home != NULL) {
        home_drop(e); /* the winner has taken it up */
    }
    waits_again(e, WAIT_COMMIT);
    (void)err_set(&err, E_CONFLICT, "another controller has made a workspace of this name; ask again");
    waits_fail(e, WAIT_COMMIT, E_CONFLICT, &err);
    waits_gone(e);
    entry_free(e);
    creation_free(c);
    reconcile_kick(by);
}

static void create_doubtful(struct creation *c)
{
    struct entry *e = c->e;
    struct err err = {0};
    (void)err_set(&err, E_STORE, "store: the outcome is not known yet; ask again: %s", c->err.msg);
    e->is_doubtful = true;
    e->commit_seq = c->seq;
    waits_fail(e, WAIT_COMMIT, E_STORE, &err);
    due_set(e, now_mono(e->s) + DOUBT_MS);
    creation_free(c);
}

static void on_reread(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct creation *c = data;
    (void)has_more;
    (void)err;
    if (code != 0 || n != 1) {
        create_doubtful(c);
    } else if (r[0].version == 0 && c->code == E_CONFLICT) {
        (void)err_set(&c->err, E_UNAVAILABLE, "the name was taken and given back at this moment; ask again");
        create_failed(c, true, E_UNAVAILABLE, &c->err);
    } else if (r[0].version == 0) {
        create_failed(c, false, E_STORE, &c->err); /* the key's hash stays: the commit might yet arrive */
    } else if (record_is_commit(c->s, r[0].value, c->seq)) {
        create_made(c, r[0].version);
    } else {
        create_lost(c, &r[0]);
    }
}

static void create_reread(struct creation *c)
{
    char key[160];
    record_key(key, c->e->ws.namespace, c->e->ws.name);
    struct slice k = slice_str(key);
    store_get(c->s->store, slice_str(c->e->tenant->id), &k, 1, on_reread, c);
}

void create_look_again(struct entry *e)
{
    struct creation *c = MEM_NEW(struct creation);
    c->s = e->s;
    c->e = e;
    c->seq = e->commit_seq;
    c->code = E_STORE;
    (void)err_set(&c->err, E_STORE, "the store did not answer");
    entry_draft(e, &c->d);
    scheduler_busy(c->s);
    create_reread(c);
}

/* --- the commit --- */
static void on_home_reread(int code, const struct store_record *r, size_t n, bool has_more,
                           const struct err *err, void *data)
{
    struct creation *c = data;
    (void)has_more;
    (void)err;
    struct home *h = c->e->home;
    if (code == 0 && n == 1 && r[0].version == 0) {
        home_drop(c->e); /* taken up or removed by another controller */
    } else if (code == 0 && n == 1) {
        h->version = r[0].version;
    }
    struct err e = {0};
    (void)err_set(&e, E_UNAVAILABLE, "the kept home of this name has just changed; ask again");
    create_failed(c, true, E_UNAVAILABLE, &e);
}

static void home_reread(struct creation *c)
{
    struct buf key = BUF_INIT(256);
    (void)buf_printf(&key, "home/%s", c->e->home->key);
    struct slice k = buf_view(&key);
    store_get(c->s->store, slice_str(c->e->tenant->id), &k, 1, on_home_reread, c);
    buf_fini(&key);
}

static void on_committed(const struct store_commit_answer *a, void *data)
{
    struct creation *c = data;
    struct err err = {0};
    const char *story = a->err != NULL && a->err->msg[0] != '\0' ? a->err->msg : err_title(a->code);
    if (a->code == 0) {
        create_made(c, a->results[1].version);
    } else if (a->code == E_CONFLICT && c->home_op != 0 && a->failed_op == c->home_op) {
        home_reread(c);
    } else if (a->code == E_CONFLICT || a->code == E_STORE) {
        c->code = a->code;
        (void)err_set(&c->err, a->code, "store: %s", story);
        create_reread(c);
    } else if (a->code == E_BOUND && a->failed_op < ARRAY_LEN(c->bounds) && c->bounds[a->failed_op] != NULL) {
        char found[I128_TEXT_MAX];
        (void)i128_format(a->found_counter, 0, found);
        (void)err_set(&err, E_QUOTA, "quota `%s` reached: %s now", c->bounds[a->failed_op], found);
        create_failed(c, true, E_QUOTA, &err);
    } else {
        (void)err_set(&err, a->code, "store: %s", story);
        create_failed(c, true, a->code, &err);
    }
}

struct create_ops {
    struct store_op ops[10];
    size_t n;
};

static void quota_op(struct creation *c, struct create_ops *o, const char *key, uint64_t quota,
                     const char *what)
{
    struct store_op op = store_add(slice_str(key), 1);
    if (quota > 0) {
        op.has_bound = true;
        op.bound = (i128)quota;
        c->bounds[o->n] = what;
    }
    o->ops[o->n++] = op;
}

static void create_commit(struct creation *c)
{
    struct entry *e = c->e;
    const struct config_tenant *t = e->tenant->config;
    bool is_bounded = t != NULL && c->d.fact.wish == WISH_RUNNING;
    struct create_ops o = {.n = 0};
    struct arena a = ARENA_INIT;
    struct buf record = BUF_INIT(STORE_VALUE_MAX), event = BUF_INIT(8192);
    char key[160], log[WORKSPACE_EVENTS_MAX];
    record_key(key, e->ws.namespace, e->ws.name);
    workspace_events_log(&e->ws, log);
    c->seq = ++c->s->commits;
    int code = record_write(e, &c->d, c->seq, &record);
    must(code == 0); /* labels and environment are bounded far below a value's maximum */
    state_event_write(e, &c->d, &event);
    o.ops[o.n++] = store_expect(slice_str(key), 0);
    o.ops[o.n++] = store_put(slice_str(key), buf_view(&record));
    o.ops[o.n++] = store_append(slice_str(log), buf_view(&event));
    quota_op(c, &o, "count/workspaces", is_bounded ? t->quota_workspaces : 0, "workspaces");
    if (c->d.fact.wish == WISH_RUNNING) {
        const char *of_namespace = arena_printf(&a, "count/running/%.*s", SL_ARG(e->ws.namespace));
        quota_op(c, &o, "count/running", is_bounded ? t->quota_running : 0, "running");
        quota_op(c, &o, of_namespace, is_bounded ? t->quota_namespace_running : 0, "namespace: running");
    }
    if (e->home != NULL) {
        const char *home = arena_printf(&a, "home/%s", e->home->key);
        c->home_op = o.n;
        o.ops[o.n++] = store_expect(slice_str(home), e->home->version);
        o.ops[o.n++] = store_delete(slice_str(home));
    }
    store_commit(c->s->store, slice_str(e->tenant->id), o.ops, o.n, on_committed, c);
    buf_fini(&record);
    buf_fini(&event);
    arena_fini(&a);
}

static void on_key_recorded(struct entry *e, int code, const struct err *err, void *data)
{
    struct creation *c = data;
    (void)e;
    if (code != 0) {
        create_failed(c, true, code, err);
    } else {
        create_commit(c);
    }
}

/* --- a new one --- */
static int check_request(struct tenant *t, const struct workspace_request *r,
                         const struct config_template **ret, struct err *err)
{
    const struct config_template *template = tenant_template(t->config, r->template);
    if (template == NULL && r->template.n == 0) {
        return err_set(err, E_INVALID, "template: the tenant has none");
    }
    if (template == NULL) {
        return err_set(err, E_INVALID, "template: `%.*s` is not one of the tenant's", SL_ARG(r->template));
    }
    if (r->user.n > USER_MAX || !slice_is_utf8(r->user) || slice_find(r->user, '\0') != SIZE_MAX) {
        return err_set(err, E_INVALID, "user: must be at most %d bytes of UTF-8", USER_MAX);
    }
    bool is_listed = r->provider.n == 0;
    for (size_t i = 0; i < template->n_providers && !is_listed; i++) {
        is_listed = slice_eq(template->providers[i]->name, r->provider);
    }
    if (!is_listed) {
        return err_set(err, E_INVALID, "provider: `%.*s` is not one of template `%.*s`", SL_ARG(r->provider),
                       SL_ARG(template->name));
    }
    *ret = template;
    int code = labels_check(r->labels, r->n_labels, err);
    return code < 0 ? code : env_check(r->env, r->n_env, err);
}

/* What can be refused before anything is written. Takes a token of the tenant's rate. */
static int check_limits(struct tenant *t, struct err *err)
{
    struct scheduler *s = t->s;
    const struct config_tenant *c = t->config;
    if (c->quota_workspaces > 0 && t->n >= c->quota_workspaces) {
        return err_set(err, E_QUOTA, "quota `workspaces` reached: %zu of %llu", t->n,
                       (unsigned long long)c->quota_workspaces);
    }
    if (s->n_queued >= START_QUEUE_MAX) {
        return err_set(err, E_CAPACITY, "%zu sandboxes are waiting to be started; try again later",
                       s->n_queued);
    }
    if (c->quota_creates_per_minute > 0) {
        int64_t now = now_mono(s), full = (int64_t)c->quota_creates_per_minute * 1000;
        int64_t since = now - t->bucket_ms > 60000 ? 60000 : now - t->bucket_ms;
        t->bucket_milli += since * (int64_t)c->quota_creates_per_minute / 60;
        t->bucket_milli = t->bucket_milli > full ? full : t->bucket_milli;
        t->bucket_ms = now;
        if (t->bucket_milli < 1000) {
            return err_set(err, E_RATE, "quota `creates_per_minute` reached: %llu a minute",
                           (unsigned long long)c->quota_creates_per_minute);
        }
        t->bucket_milli -= 1000;
    }
    return 0;
}

static struct home *home_find(struct tenant *t, struct slice namespace, struct slice name)
{
    struct buf key = BUF_INIT(160);
    (void)buf_printf(&key, "%.*s/%.*s", SL_ARG(namespace), SL_ARG(name));
    struct home *h;
    HASH_FIND(hh, t->homes, key.p, key.n, h);
    buf_fini(&key);
    return h;
}

static struct entry *entry_begin(struct tenant *t, struct entry_texts *x, struct home *home,
                                 struct slice provider)
{
    struct scheduler *s = t->s;
    char id[ID_TEXT_MAX];
    id_new(s->loop->rnd, "ws", id);
    x->home_id = home != NULL ? slice_str(home->id) : slice_str(id);
    struct entry *e = entry_new(t, slice_str(id), x);
    e->is_new = true;
    e->ws.created_at_ms = now_wall(s);
    e->touched_ms = now_mono(s);
    e->home = home;
    e->fact = (struct fact){.generation = 1,
                            .attempt = 1,
                            .provider = scheduler_intern(s, provider),
                            .is_pinned = home != NULL,
                            .updated_at_ms = e->ws.created_at_ms,
                            .event_seq = 1};
    if (home != NULL) {
        home->is_taken = true;
    }
    return e;
}

static struct creation *creation_new(struct entry *e)
{
    struct creation *c = MEM_NEW(struct creation);
    c->s = e->s;
    c->e = e;
    entry_draft(e, &c->d);
    scheduler_busy(c->s);
    return c;
}

static int make(struct tenant *t, const struct workspace_request *r, struct workspace_wait *w,
                struct err *err)
{
    const struct config_template *template = NULL;
    if (r->no_make) {
        return refuse_budget(err);
    }
    int code = check_request(t, r, &template, err);
    if (code < 0) {
        return code;
    }
    struct home *home = home_find(t, r->namespace, r->name);
    if (home != NULL && r->provider.n > 0 && !slice_eq(r->provider, home->provider)) {
        return err_set(err, E_CONFLICT, "provider: the kept home of this name is at `%.*s`",
                       SL_ARG(home->provider));
    }
    struct slice provider;
    if (home != NULL) {
        provider = home->provider;
    } else {
        const struct place *p = place_choose(t->s, template, r->provider, SLICE_EMPTY, err);
        if (p == NULL) {
            return err->code;
        }
        provider = p->name;
    }
    code = check_limits(t, err);
    if (code < 0) {
        return code;
    }
    struct entry_texts x = {.namespace = r->namespace,
                            .name = r->name,
                            .template = template->name,
                            .user = r->user,
                            .provider_asked = r->provider,
                            .labels = r->labels,
                            .env = r->env,
                            .n_labels = r->n_labels,
                            .n_env = r->n_env};
    struct entry *e = entry_begin(t, &x, home, provider);
    e->fact.wish = WISH_RUNNING;
    e->fact.state = WS_PROVISIONING;
    bool is_managed;
    e->fact.key_gateway = llm_key_gateway(e, &is_managed);
    e->fact.key_state = is_managed ? KEY_SENT : KEY_NONE;
    struct secrets *secrets = secrets_new(e, true, true);
    entry_secrets_take(e, secrets);
    secrets_free(secrets);
    roster_add(e);
    w->is_creator = true;
    wait_keep_request(w, r);
    wait_attach(w, e, WAIT_COMMIT);
    struct creation *c = creation_new(e);
    llm_key_record(e, e->ws.llm_key_hash, on_key_recorded, c);
    return 0;
}

int find_or_create(struct scheduler *s, const struct workspace_request *r, struct workspace_wait *w,
                   struct err *err)
{
    if (s->is_closing) {
        return err_set(err, E_DRAINING, "the controller is shutting down");
    }
    struct tenant *t = tenant_find(s, r->tenant);
    if (t == NULL || t->config == NULL) {
        return err_set(err, E_NOT_FOUND, "tenant `%.*s` is not configured", SL_ARG(r->tenant));
    }
    if (!t->is_loaded) {
        return err_set(err, E_UNAVAILABLE, "the tenant's workspaces are still being loaded");
    }
    if (!name_is_valid(r->namespace)) {
        return err_set(err, E_INVALID,
                       "namespace: must be 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'");
    }
    if (!name_is_valid(r->name)) {
        return err_set(err, E_INVALID,
                       "name: must be 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'");
    }
    struct entry *e = roster_find(t, r->namespace, r->name);
    return e != NULL ? take_existing(e, r, w, err) : make(t, r, w, err);
}

struct workspace_wait *scheduler_find_or_create(struct scheduler *s, const struct workspace_request *r,
                                                workspace_answer_cb cb, void *data)
{
    struct workspace_wait *w = wait_new(s, WAIT_FIND, r->wait_ms, cb, data);
    struct err err = {0};
    int code = find_or_create(s, r, w, &err);
    if (code != 0) {
        wait_decide(w, code, &err);
    }
    return wait_begun(w);
}

bool home_delete(struct tenant *t, struct slice namespace, struct slice name, struct workspace_wait *w)
{
    struct home *home = home_find(t, namespace, name);
    if (home == NULL || home->is_taken) {
        return false;
    }
    struct entry_texts x = {.namespace = namespace,
                            .name = name,
                            .template = SLICE_EMPTY,
                            .user = SLICE_EMPTY,
                            .provider_asked = SLICE_EMPTY};
    struct entry *e = entry_begin(t, &x, home, home->provider);
    e->fact.wish = WISH_DELETED;
    e->fact.state = WS_DELETING;
    roster_add(e);
    wait_attach(w, e, WAIT_COMMIT);
    create_commit(creation_new(e));
    return true;
}
