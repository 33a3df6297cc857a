/* save: every change of a workspace's record, one at a time, durable before it is seen.
 *
 * Happy path: the edit makes a draft, the draft is committed on the expectation of the version we know, with
 * its event and the counters it moves; then it is taken into memory and `done` is called. Failure paths:
 * another controller was faster (E_CONFLICT): its record is read and taken; the answer was lost (E_STORE):
 * the record is read back and says whether the commit is ours; anything else leaves memory as it was and
 * tells the caller. */
#include "scheduler/entry.h"

#include <stdio.h>
#include <string.h>

#include "base/core/log.h"
#include "base/core/mem.h"

struct save { /* one commit */
    struct entry *e;
    struct scheduler *s;
    struct draft d;
    uint64_t seq;
    const char *bounds[8]; /* per op: which quota it is */
    int code;              /* why the record is read back */
    struct err err;
};

static void changes_pump(struct entry *e);
static void record_reread(struct save *v);

static void change_free(struct change *c)
{
    mem_free(c->args.reason);
    secrets_free(c->args.secrets);
    mem_free(c);
}

/* The first change has ended. */
static void change_done(struct entry *e, int code, const struct err *err)
{
    struct change *c = e->changes;
    LL_DELETE(e->changes, c);
    if (c->done != NULL) {
        c->done(e, code, err, c->data);
    }
    change_free(c);
}

void entry_change(struct entry *e, edit_fn edit, const struct edit *args, saved_fn done, void *data)
{
    struct change *c = MEM_NEW(struct change);
    c->edit = edit;
    if (args != NULL) {
        c->args = *args;
        c->args.reason = args->reason == NULL ? NULL : mem_strdup(args->reason);
    }
    c->done = done;
    c->data = data;
    LL_APPEND(e->changes, c);
    if (e->changes == c) {
        changes_pump(e);
    }
}

void changes_fail(struct entry *e, int code, const char *why)
{
    struct err err;
    (void)err_set(&err, code, "%s", why);
    while (e->changes != NULL) {
        change_done(e, code, &err);
    }
}

struct commit { /* being put together */
    struct store_op ops[10];
    size_t n;
    struct arena arena;
    struct buf record, event;
};

static void counter_op(struct save *v, struct commit *c, const char *key, int amount, uint64_t quota,
                       const char *what)
{
    struct store_op op = store_add(slice_str(key), amount);
    if (amount > 0 && v->d.is_bounded && quota > 0) {
        op.has_bound = true;
        op.bound = (i128)quota;
        v->bounds[c->n] = what;
    }
    c->ops[c->n++] = op;
}

static void counters(struct save *v, struct commit *c)
{
    const struct entry *e = v->e;
    const struct config_tenant *t = e->tenant->config;
    bool was = e->fact.wish == WISH_RUNNING, is = !v->d.is_removal && v->d.fact.wish == WISH_RUNNING;
    if (was != is) {
        char *key = arena_printf(&c->arena, "count/running/%.*s", SL_ARG(e->ws.namespace));
        counter_op(v, c, "count/running", is ? 1 : -1, t == NULL ? 0 : t->quota_running, "running");
        counter_op(v, c, key, is ? 1 : -1, t == NULL ? 0 : t->quota_namespace_running, "namespace: running");
    }
    if (v->d.is_removal) {
        counter_op(v, c, "count/workspaces", -1, 0, NULL);
    }
}

static void home_keep(struct save *v, struct commit *c)
{
    const struct entry *e = v->e;
    struct buf *b = &c->record; /* free: a removal writes no record */
    struct jsonw w;
    jsonw_init(&w, b);
    jsonw_object(&w);
    jsonw_kslice(&w, "home_id", e->home_id);
    jsonw_kslice(&w, "provider", e->fact.provider);
    jsonw_kstr(&w, "workspace", e->ws.id);
    jsonw_ki64(&w, "kept_at_ms", now_wall(e->s));
    jsonw_object_end(&w);
    char *key = arena_printf(&c->arena, "home/%.*s/%.*s", SL_ARG(e->ws.namespace), SL_ARG(e->ws.name));
    c->ops[c->n++] = store_put(slice_str(key), buf_view(b));
}

static void home_kept(const struct entry *e, uint64_t version)
{
    struct tenant *t = e->tenant;
    struct buf key = BUF_INIT(160);
    (void)buf_printf(&key, "%.*s/%.*s", SL_ARG(e->ws.namespace), SL_ARG(e->ws.name));
    struct home *h;
    HASH_FIND(hh, t->homes, key.p, key.n, h);
    if (h == NULL) {
        h = MEM_NEW(struct home);
        size_t n;
        h->key = buf_take(&key, &n);
        HASH_ADD_KEYPTR(hh, t->homes, h->key, n, h);
    }
    buf_fini(&key);
    mem_free(h->id);
    h->id = mem_strndup(e->home_id.p, e->home_id.n);
    h->provider = e->fact.provider;
    h->version = version;
}

static void on_saved(const struct store_commit_answer *a, void *data);

static void save_send(struct save *v)
{
    struct entry *e = v->e;
    struct commit c = {.arena = ARENA_INIT, .record = BUF_INIT(STORE_VALUE_MAX), .event = BUF_INIT(8192)};
    char key[160], log[WORKSPACE_EVENTS_MAX];
    record_key(key, e->ws.namespace, e->ws.name);
    workspace_events_log(&e->ws, log);
    c.ops[c.n++] = store_expect(slice_str(key), e->ws.version);
    if (v->d.is_removal) {
        c.ops[c.n++] = store_delete(slice_str(key));
        if (e->fact.keeps_home) {
            home_keep(v, &c);
        }
    } else {
        int code = record_write(e, &v->d, v->seq, &c.record);
        must(code == 0); /* its parts are bounded far below a value's maximum */
        c.ops[c.n++] = store_put(slice_str(key), buf_view(&c.record));
    }
    if (v->d.fact.event_seq != e->fact.event_seq) {
        state_event_write(e, &v->d, &c.event);
        c.ops[c.n++] = store_append(slice_str(log), buf_view(&c.event));
    }
    counters(v, &c);
    store_commit(e->s->store, slice_str(e->tenant->id), c.ops, c.n, on_saved, v);
    buf_fini(&c.record);
    buf_fini(&c.event);
    arena_fini(&c.arena);
}

/* Starts commits until one is under way or nothing is left. */
static void changes_pump(struct entry *e)
{
    struct scheduler *s = e->s;
    while (e->changes != NULL && !e->is_saving) {
        struct change *c = e->changes;
        struct err err = {0};
        struct save *v = MEM_NEW(struct save);
        v->e = e;
        v->s = s;
        entry_draft(e, &v->d);
        int code = s->is_closing ? err_set(&err, E_DRAINING, "the controller is shutting down")
                                 : c->edit(e, &v->d, &c->args, &err);
        if (code != 0) {
            mem_free(v);
            change_done(e, code == EDIT_NOTHING ? 0 : code, &err);
            continue;
        }
        must(v->d.is_removal || workspace_move_is_legal(e->fact.state, v->d.fact.state));
        v->d.fact.updated_at_ms = now_wall(s);
        if (v->d.is_removal || v->d.fact.state != e->fact.state || strcmp(v->d.reason, e->ws.reason) != 0) {
            v->d.fact.event_seq++;
        }
        v->seq = ++s->commits;
        e->is_saving = true;
        scheduler_busy(s);
        save_send(v);
    }
    if (e->changes == NULL && e->is_kicked) {
        reconcile_kick(e);
    }
}

static void save_end(struct save *v, int code, const struct err *err)
{
    struct entry *e = v->e;
    struct scheduler *s = v->s;
    e->is_saving = false;
    bool is_gone = v->d.is_removal && code == 0;
    struct err story = {0}; /* `err` may lie in what is freed now */
    if (err != NULL) {
        story = *err;
    }
    mem_free(v);
    if (is_gone) {
        struct change *c = e->changes;
        LL_DELETE(e->changes, c);
        saved_fn done = c->done;
        void *data = c->data;
        change_free(c);
        changes_fail(e, E_NOT_FOUND, "the workspace was deleted");
        done(e, 0, NULL, data); /* frees it */
    } else {
        change_done(e, code, &story);
        waits_look(e);
        changes_pump(e);
    }
    scheduler_idle(s);
}

static void save_took(struct save *v, uint64_t version)
{
    struct entry *e = v->e;
    if (v->d.is_removal) {
        if (e->fact.keeps_home) {
            home_kept(e, version);
        }
    } else {
        entry_take(e, &v->d, version);
        e->is_kicked = true; /* the reconciler looks at what has become of it */
    }
    save_end(v, 0, NULL);
}

static void on_saved(const struct store_commit_answer *a, void *data)
{
    struct save *v = data;
    if (a->code == 0) {
        /* op 1 is the put; of a removal with a kept home, op 2 puts the home */
        save_took(v, a->results[v->d.is_removal && v->e->fact.keeps_home ? 2 : 1].version);
        return;
    }
    struct err err = {0};
    if (a->code == E_BOUND && a->failed_op < ARRAY_LEN(v->bounds) && v->bounds[a->failed_op] != NULL) {
        char found[I128_TEXT_MAX];
        (void)i128_format(a->found_counter, 0, found);
        (void)err_set(&err, E_QUOTA, "quota `%s` reached: %s now", v->bounds[a->failed_op], found);
        save_end(v, E_QUOTA, &err);
    } else if (a->code == E_CONFLICT || a->code == E_STORE) {
        v->code = a->code;
        (void)err_set(&v->err, a->code, "%s", a->err != NULL ? a->err->msg : "the store did not answer");
        record_reread(v);
    } else {
        (void)err_set(&err, a->code, "store: %s", a->err != NULL ? a->err->msg : err_title(a->code));
        save_end(v, a->code, &err);
    }
}

/* What another controller left there counts. */
static void take_theirs(struct save *v, const struct store_record *r)
{
    struct entry *e = v->e;
    struct err err = {0};
    struct entry *by = record_read(e->tenant, r->value, r->version, &err);
    v->s->stats.conflicts++;
    if (by != NULL && strcmp(by->ws.id, e->ws.id) == 0) {
        entry_replace(e, by);
    } else if (by != NULL) {
        log_warn("workspace.replaced", LF_STR("workspace", e->ws.id), LF_STR("by", by->ws.id));
    }
    entry_free(by);
    (void)err_set(&err, E_CONFLICT, "another controller changed the workspace at the same time; try again");
    e->is_kicked = true;
    save_end(v, E_CONFLICT, &err);
}

static void on_reread(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct save *v = data;
    (void)has_more;
    if (code != 0 || n != 1) {
        struct err e = {0};
        (void)err_set(&e, E_STORE, "store: outcome unknown: %s", err != NULL ? err->msg : v->err.msg);
        save_end(v, E_STORE, &e); /* the next commit's expectation finds out */
        return;
    }
    if (r[0].version == 0) {
        if (v->d.is_removal) {
            save_took(v, 0);
            return;
        }
        struct err e = {0};
        (void)err_set(&e, E_STORE, "the workspace's record is gone from the store");
        save_end(v, E_STORE, &e);
    } else if (r[0].version == v->e->ws.version) {
        save_end(v, E_STORE, &v->err); /* not applied */
    } else if (!v->d.is_removal && record_is_commit(v->s, r[0].value, v->seq)) {
        save_took(v, r[0].version);
    } else {
        take_theirs(v, &r[0]);
    }
}

static void record_reread(struct save *v)
{
    char key[160];
    record_key(key, v->e->ws.namespace, v->e->ws.name);
    struct slice k = slice_str(key);
    store_get(v->s->store, slice_str(v->e->tenant->id), &k, 1, on_reread, v);
}
