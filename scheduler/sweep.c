/* sweep: removes sandboxes that no record wants: what a lost answer or a crash has left.
 *
 * Every so often each provider is asked for all sandboxes of this installation. One that no workspace wants
 * becomes a suspect; when it was a suspect in two complete lists, for longer than the grace, a direct look-up
 * still finds it with the same labels, and the record in the store does not want it either, it is destroyed,
 * and the audit hears of it. If it was never started (a create that arrived after the workspace had been
 * deleted or had gone elsewhere), the empty home that came with it goes too; a home that was in use never
 * goes this way. A list that failed changes nothing; what is missing from a list is only forgotten as a
 * suspect. Sandboxes of a tenant that is not configured, not loaded, or has a record that could not be read,
 * are left alone. */
#include "scheduler/entry.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/core/log.h"
#include "base/core/mem.h"

#define SUSPECTS_MAX      10000
#define REMOVED_PER_ROUND 100
#define HOME_TRIES        20 /* rounds in which an orphan's home is tried */

struct suspect {
    UT_hash_handle hh; /* by place and sandbox id */
    struct place *place;
    char *id;
    char *tenant, *namespace, *name, *workspace;
    uint64_t generation;
    bool was_started, takes_home;
    bool is_gone;   /* only its home is left to remove */
    unsigned tries; /* … so often already */
    int64_t since_ms;
    unsigned seen;  /* complete lists in a row */
    uint64_t round; /* the last one */
    char key[];
};

struct sweep {
    struct scheduler *s;
    struct timer timer;
    struct suspect *suspects;
    size_t n_suspects;
    size_t at; /* the provider being listed */
    uint64_t round;
    unsigned removed;    /* in this round */
    struct suspect *now; /* being removed */
    bool is_closing;
};

static void round_next(struct sweep *w);
static void remove_next(struct sweep *w);

static void suspect_free(struct sweep *w, struct suspect *x)
{
    HASH_DEL(w->suspects, x);
    w->n_suspects--;
    mem_free(x->id);
    mem_free(x->tenant);
    mem_free(x->namespace);
    mem_free(x->name);
    mem_free(x->workspace);
    mem_free(x);
}

/* Does what we hold in memory want this sandbox, or must we leave it alone? */
static bool is_wanted(struct scheduler *s, const struct place *p, struct slice tenant_id,
                      struct slice workspace, uint64_t generation)
{
    struct tenant *t;
    HASH_FIND(hh_id, s->tenants_by_id, tenant_id.p, tenant_id.n, t);
    if (t == NULL || t->config == NULL || !t->is_loaded || t->has_unread) {
        return true;
    }
    struct entry *e;
    HASH_FIND(hh, s->by_id, workspace.p, workspace.n, e);
    return e != NULL &&
           (e->is_new || (e->fact.generation == generation && slice_eq(e->fact.provider, p->name)));
}

static bool are_labels_legal(const struct sandbox_labels *l)
{
    return id_is_valid(l->workspace, "ws") && name_is_valid(l->namespace) && name_is_valid(l->name) &&
           l->tenant.n > 0;
}

static void suspect_see(struct sweep *w, struct place *p, const struct sandbox_info *i)
{
    struct suspect *x;
    struct buf key = BUF_INIT(1024);
    (void)buf_printf(&key, "%.*s/%.*s", SL_ARG(p->name), SL_ARG(i->id));
    HASH_FIND(hh, w->suspects, key.p, key.n, x);
    if (x == NULL && w->n_suspects < SUSPECTS_MAX && !key.is_full) {
        x = mem_zalloc(sizeof *x + key.n + 1);
        memcpy(x->key, key.p, key.n);
        x->place = p;
        x->id = mem_strndup(i->id.p, i->id.n);
        x->tenant = mem_strndup(i->labels.tenant.p, i->labels.tenant.n);
        x->namespace = mem_strndup(i->labels.namespace.p, i->labels.namespace.n);
        x->name = mem_strndup(i->labels.name.p, i->labels.name.n);
        x->workspace = mem_strndup(i->labels.workspace.p, i->labels.workspace.n);
        x->generation = i->labels.generation;
        x->since_ms = now_mono(w->s);
        HASH_ADD(hh, w->suspects, key, key.n, x);
        w->n_suspects++;
    }
    if (x != NULL) {
        if (x->is_gone) { /* another late create has brought it back */
            x->is_gone = false;
            x->seen = 0;
            x->since_ms = now_mono(w->s);
        }
        x->seen++;
        x->round = w->round;
    }
    buf_fini(&key);
}

/* The list was complete: who is no longer in it is no suspect. */
static void suspects_forget(struct sweep *w, const struct place *p)
{
    struct suspect *x, *next;
    HASH_ITER (hh, w->suspects, x, next) {
        if (x->place == p && x->round != w->round && !x->is_gone) {
            suspect_free(w, x);
        }
    }
}

static void on_list(int code, const struct sandbox_info *items, size_t n, const struct err *err, void *data)
{
    struct sweep *w = data;
    struct scheduler *s = w->s;
    struct place *p = &s->places[w->at];
    if (code == 0 && !s->is_closing) {
        for (size_t i = 0; i < n; i++) {
            const struct sandbox_labels *l = &items[i].labels;
            if (slice_eq_str(l->controller, s->controller) && are_labels_legal(l) &&
                !is_wanted(s, p, l->tenant, l->workspace, l->generation)) {
                suspect_see(w, p, &items[i]);
            }
        }
        suspects_forget(w, p);
    } else {
        log_debug("sweep.list_failed", LF_SLICE("provider", p->name),
                  LF_STR("error", err != NULL ? err->msg : ""));
    }
    w->at++;
    round_next(w);
    scheduler_idle(s);
}

/* Lists one provider after the other, then removes, then sleeps. */
static void round_next(struct sweep *w)
{
    struct scheduler *s = w->s;
    if (s->is_closing) {
        return;
    }
    if (w->at < s->n_places) {
        struct provider *p = s->places[w->at].p;
        scheduler_busy(s);
        p->ops->list(p, slice_str(s->controller), s->o.timing.call_ms, on_list, w);
        return;
    }
    w->removed = 0;
    remove_next(w);
}

static void orphan_done(struct sweep *w)
{
    struct suspect *x = w->now;
    w->now = NULL;
    suspect_free(w, x);
    remove_next(w);
}

static void on_orphan_home_destroyed(int code, const struct err *err, void *data)
{
    struct sweep *w = data;
    struct scheduler *s = w->s;
    struct suspect *x = w->now;
    if (code == 0 || code == E_NOT_FOUND || x->tries >= HOME_TRIES) {
        orphan_done(w);
    } else {
        log_debug("sweep.home_stays", LF_STR("home", x->workspace),
                  LF_STR("error", err != NULL ? err->msg : ""));
        x->round = w->round; /* again in the next round */
        w->now = NULL;
        remove_next(w);
    }
    scheduler_idle(s);
}

static void home_destroy(struct sweep *w)
{
    struct suspect *x = w->now;
    struct provider *p = x->place->p;
    x->is_gone = true;
    x->tries++;
    scheduler_busy(w->s);
    p->ops->destroy_home(p, slice_str(x->workspace), w->s->o.timing.call_long_ms, on_orphan_home_destroyed,
                         w);
}

static void on_orphan_destroyed(int code, const struct err *err, void *data)
{
    struct sweep *w = data;
    struct scheduler *s = w->s;
    struct suspect *x = w->now;
    bool is_gone = code == 0 || code == E_NOT_FOUND;
    if (is_gone) {
        s->stats.orphans_removed++;
        log_warn("sandbox.orphan_removed", LF_STR("sandbox", x->id), LF_STR("workspace", x->workspace),
                 LF_SLICE("provider", x->place->name));
        if (s->o.on_audit != NULL) {
            struct tenant *t;
            HASH_FIND(hh_id, s->tenants_by_id, x->tenant, strlen(x->tenant), t);
            char detail[256];
            (void)snprintf(detail, sizeof detail, "workspace %s generation %" PRIu64 " at provider %.*s",
                           x->workspace, x->generation, SL_ARG(x->place->name));
            s->o.on_audit("sandbox.orphan_removed", t != NULL ? slice_str(t->name) : slice_str(x->tenant),
                          slice_str(x->id), slice_str(detail), s->o.data);
        }
    } else {
        log_warn("sandbox.orphan_stays", LF_STR("sandbox", x->id),
                 LF_STR("error", err != NULL ? err->msg : ""));
    }
    if (is_gone && x->takes_home && !s->is_closing) {
        home_destroy(w);
    } else {
        orphan_done(w);
    }
    scheduler_idle(s);
}

/* Does anybody have, or may anybody come back to, the home named like the suspect's workspace? `e`: the
 * workspace of that name now, `kept`: the record of a kept home. Once nobody does, nobody ever will: ids do
 * not return. */
static bool is_home_wanted(const struct suspect *x, const struct entry *e, const struct store_record *kept)
{
    if (e != NULL && (strcmp(e->ws.id, x->workspace) == 0 || slice_eq_str(e->home_id, x->workspace))) {
        return true;
    }
    if (kept->version == 0) {
        return false;
    }
    struct json *j = NULL;
    bool is_other = json_parse(kept->value, NULL, &j, NULL) == 0 &&
                    !slice_eq_str(json_string(json_get(j, "home_id")), x->workspace);
    json_free(j);
    return !is_other;
}

/* The store has the last word: another controller may want what we do not know. */
static void on_record(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct sweep *w = data;
    struct scheduler *s = w->s;
    struct suspect *x = w->now;
    (void)has_more;
    (void)err;
    bool is_free = code == 0 && n == 2 && !s->is_closing;
    if (is_free) {
        struct tenant *t;
        struct entry *e = NULL;
        HASH_FIND(hh_id, s->tenants_by_id, x->tenant, strlen(x->tenant), t);
        if (t != NULL && r[0].version != 0) {
            e = record_read(t, r[0].value, r[0].version, NULL);
            is_free =
                e != NULL && (strcmp(e->ws.id, x->workspace) != 0 || e->fact.generation != x->generation ||
                              !slice_eq(e->fact.provider, x->place->name));
        }
        x->takes_home = is_free && !x->was_started && !is_home_wanted(x, e, &r[1]);
        entry_free(e);
    }
    if (is_free && !is_wanted(s, x->place, slice_str(x->tenant), slice_str(x->workspace), x->generation)) {
        struct provider *p = x->place->p;
        scheduler_busy(s);
        p->ops->destroy(p, slice_str(x->id), s->o.timing.call_long_ms, on_orphan_destroyed, w);
    } else {
        orphan_done(w);
    }
    scheduler_idle(s);
}

static void on_orphan_described(int code, const struct sandbox_info *i, const struct err *err, void *data)
{
    struct sweep *w = data;
    struct scheduler *s = w->s;
    struct suspect *x = w->now;
    (void)err;
    if (code != 0 || s->is_closing || i->state == SANDBOX_ABSENT ||
        !slice_eq_str(i->labels.controller, s->controller) ||
        !slice_eq_str(i->labels.workspace, x->workspace) || i->labels.generation != x->generation) {
        orphan_done(w);
    } else {
        char key[160], home[160];
        record_key(key, slice_str(x->namespace), slice_str(x->name));
        (void)snprintf(home, sizeof home, "home/%s/%s", x->namespace, x->name);
        const struct slice keys[] = {slice_str(key), slice_str(home)};
        x->was_started = i->state != SANDBOX_CREATED;
        scheduler_busy(s);
        store_get(s->store, slice_str(x->tenant), keys, 2, on_record, w);
    }
    scheduler_idle(s);
}

static void remove_next(struct sweep *w)
{
    struct scheduler *s = w->s;
    if (s->is_closing) {
        return;
    }
    struct suspect *x, *next;
    HASH_ITER (hh, w->suspects, x, next) {
        if (x->is_gone && x->round != w->round) {
            w->now = x;
            home_destroy(w);
            return;
        }
        if (!x->is_gone && w->removed < REMOVED_PER_ROUND && x->seen >= 2 &&
            now_mono(s) - x->since_ms >= s->o.orphan_grace_ms) {
            w->removed++;
            w->now = x;
            struct provider *p = x->place->p;
            scheduler_busy(s);
            p->ops->describe(p, slice_str(x->id), s->o.timing.call_ms, on_orphan_described, w);
            return;
        }
    }
    timer_start(&w->timer, s->o.sweep_every_ms);
}

static void on_timer(void *data)
{
    struct sweep *w = data;
    w->round++;
    w->at = 0;
    load_missing(w->s); /* a tenant whose loading has failed is tried again */
    round_next(w);
}

struct sweep *sweep_new(struct scheduler *s)
{
    struct sweep *w = MEM_NEW(struct sweep);
    w->s = s;
    timer_init(&w->timer, s->loop, on_timer, w);
    return w;
}

void sweep_start(struct sweep *w)
{
    timer_start(&w->timer, w->s->o.sweep_every_ms);
}

static void on_closed(void *data)
{
    struct sweep *w = data;
    scheduler_idle(w->s);
}

void sweep_close(struct sweep *w)
{
    scheduler_busy(w->s);
    timer_close(&w->timer, on_closed);
}

void sweep_free(struct sweep *w)
{
    struct suspect *x, *next;
    HASH_ITER (hh, w->suspects, x, next) {
        suspect_free(w, x);
    }
    mem_free(w);
}
