/* reconcile: moves fact to wish, one step at a time for each workspace.
 *
 * A pass looks at what the provider says of the sandbox, takes one action, and looks again; it ends when wish
 * and fact agree. Each step is safe to repeat, so a crash anywhere only means that the next start makes the
 * same pass. A new sandbox (generation + 1) is only ever begun after the provider has said that the former
 * one is absent, because both would share the home. Failure paths: what can pass is retried with backoff, the
 * reason shown; what cannot makes the workspace `failed` until somebody asks again or the configuration is
 * reloaded. Deleting and suspending are retried for ever. */
#include "scheduler/entry.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

static void work_describe(struct work *w);

static void on_attempt_saved(struct entry *e, int code, const struct err *err, void *data)
{
    if (code == 0 && e->fact.wish == WISH_RUNNING) { /* else the edit did nothing */
        e->is_attempt_used = false;
    }
    on_step_saved(e, code, err, data);
}

/* --- start --- */
void on_health(struct work *w, int code, const struct err *err)
{
    struct entry *e = w->e;
    w->is_healing = false;
    if (code != E_CANCELLED) {
        e->healing_ms = 0;
    }
    if (code == E_CANCELLED || e->ws.server == NULL || e->fact.wish != WISH_RUNNING || w->s->is_closing) {
        work_end(w);
    } else if (code != 0) {
        work_fail_renew(w, "server", code, err, RENEW_SANDBOX); /* the next one starts from a fresh sandbox */
    } else if (e->is_reached) {
        work_end(w); /* it was looked at on a doubt, and all is well: nothing has changed */
    } else if (e->fact.state == WS_READY) {
        e->is_reached = true;
        e->ready_ms = e->touched_ms = now_mono(w->s);
        entry_reason(e, "");
        e->fact.retry_at_ms = 0;
        entry_view(e, true);
        waits_look(e);
        work_end(w);
    } else {
        e->touched_ms = now_mono(w->s);
        entry_change(e, edit_ready, NULL, on_step_saved, w);
    }
}

static void connect_server(struct work *w)
{
    struct entry *e = w->e;
    if (e->ws.server != NULL) {
        http_pool_drop_idle(e->ws.server); /* init may have started the server anew */
        return;
    }
    struct provider *p = w->place->p;
    e->connector = p->ops->connector(p, slice_str(e->sandbox_name), SERVER_PORT);
    e->ws.server = http_pool_new(w->s->loop, e->connector, NULL);
}

static void on_started(int code, const struct err *err, void *data)
{
    struct work *w = data;
    struct entry *e = w->e;
    mem_wipe(w->llm_key, sizeof w->llm_key);
    start_release(w);
    place_result(w->s, w->place, code, err);
    if (code != 0) {
        work_fail(w, w->is_resume ? "resume" : "start", code, err);
        return;
    }
    if (w->was_running && !e->is_reached) {
        w->s->stats.adopted++;
    }
    /* Recorded while the server comes up; `ready` is queued behind it. */
    entry_change(e, edit_started, NULL, NULL, NULL);
    if (e->fact.wish != WISH_RUNNING || e->fact.renew != RENEW_NO || w->s->is_closing) {
        work_end(w);
        return;
    }
    connect_server(w);
    health_start(w);
}

static const struct config_template *template_of(const struct entry *e)
{
    const struct config_tenant *t = e->tenant->config;
    return t == NULL ? NULL : tenant_template(t, e->ws.template);
}

static bool may_go_on(struct work *w)
{
    if (w->e->fact.wish == WISH_RUNNING && w->e->fact.renew == RENEW_NO && !w->s->is_closing) {
        return true;
    }
    work_end(w);
    return false;
}

static void on_turn_start(struct work *w)
{
    struct entry *e = w->e;
    struct provider *p = w->place->p;
    struct err err = {0};
    if (!may_go_on(w)) {
        return;
    }
    const struct config_template *t = template_of(e);
    if (t == NULL) {
        (void)err_set(&err, E_INVALID, "`%.*s` is not configured", SL_ARG(e->ws.template));
        w->place = NULL;
        work_fail(w, "template", E_INVALID, &err);
        return;
    }
    if (token_open(e, &err) < 0 || llm_key_open(e, w->llm_key, &err) < 0) {
        w->place = NULL;
        work_fail(w, "credentials", E_INVALID, &err);
        return;
    }
    struct sandbox_server server;
    (void)server_env(e, t, w->llm_key, &w->arena, &server);
    struct slice id = slice_str(e->sandbox_name);
    if (w->is_resume) {
        p->ops->resume(p, id, &server, w->s->o.timing.call_long_ms, on_started, w);
    } else {
        p->ops->start(p, id, &server, w->s->o.timing.call_ms, on_started, w);
    }
}

/* --- create --- */
/* May it still go to another provider of its template? */
static bool may_move(const struct entry *e)
{
    const struct config_template *t = template_of(e);
    return !e->fact.is_pinned && e->provider_asked.n == 0 && t != NULL && t->n_providers > 1;
}

/* A first create that this provider cannot take now may go to another of the template's. */
static bool try_elsewhere(struct work *w, int code)
{
    struct entry *e = w->e;
    bool is_refusal = code == E_CAPACITY || code == E_RATE || code == E_UNAVAILABLE || code == E_NO_SPACE;
    if (!is_refusal || !may_move(e)) {
        return false;
    }
    const struct config_template *t = template_of(e);
    struct place *p = place_choose(w->s, t, SLICE_EMPTY, e->fact.provider, NULL);
    if (p == NULL) {
        return false;
    }
    if (e->failures < UINT16_MAX) {
        e->failures++;
    }
    if (e->failures >= t->n_providers) { /* all have been tried: no hurry any more */
        e->retry_ms = now_mono(w->s) + work_backoff_ms(w->s, e->failures);
    }
    const struct edit x = {.provider = scheduler_intern(w->s, p->name)};
    entry_change(e, edit_move_provider, &x, on_attempt_saved, w);
    return true;
}

static void on_created(int code, const struct err *err, void *data)
{
    struct work *w = data;
    start_release(w);
    place_result(w->s, w->place, code == E_AGAIN ? 0 : code, err);
    if (code == 0) {
        w->s->stats.created++;
        work_describe(w);
    } else if (code == E_EXISTS && !w->has_created) {
        w->has_created = true;
        work_describe(w); /* a former attempt of ours whose answer was lost: adopted if the labels say so */
    } else if (w->s->is_closing) {
        work_end(w);
    } else if (code == E_AGAIN) {
        work_wait(w, err);
    } else if (!try_elsewhere(w, code)) {
        work_fail(w, "create", code, err);
    }
}

static void on_turn_create(struct work *w)
{
    struct entry *e = w->e;
    struct provider *p = w->place->p;
    if (!may_go_on(w)) {
        return;
    }
    const struct config_template *t = template_of(e);
    if (t == NULL) {
        struct err err = {0};
        (void)err_set(&err, E_INVALID, "`%.*s` is not configured", SL_ARG(e->ws.template));
        w->place = NULL;
        work_fail(w, "template", E_INVALID, &err);
        return;
    }
    const struct sandbox_spec spec = {
        .id = slice_str(e->sandbox_name),
        .labels = {.controller = slice_str(w->s->controller),
                   .tenant = slice_str(e->tenant->id),
                   .namespace = e->ws.namespace,
                   .name = e->ws.name,
                   .workspace = slice_str(e->ws.id),
                   .generation = e->fact.generation,
                   .attempt = e->fact.attempt,
                   .epoch = w->s->o.epoch},
        .home_id = e->home_id,
        .image = t->image,
        .cpus_milli = t->cpus_milli,
        .memory_bytes = t->memory_bytes,
        .disk_bytes = t->disk_bytes,
        .processes = t->processes,
    };
    e->is_attempt_used = true;
    p->ops->create(p, &spec, w->s->o.timing.call_long_ms, on_created, w);
}

/* --- a new generation --- */
static void generation_change(struct work *w)
{
    struct edit x = {.secrets = w->fresh};
    w->fresh = NULL; /* the change's now */
    entry_change(w->e, edit_generation, &x, on_attempt_saved, w);
}

static void on_fresh_key_recorded(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    (void)e;
    if (code != 0) {
        w->place = NULL;
        work_fail(w, "record the LLM key", code, err);
        return;
    }
    generation_change(w);
}

static void generation_begin(struct work *w)
{
    struct entry *e = w->e;
    bool is_managed;
    (void)llm_key_gateway(e, &is_managed);
    /* Where keys can be revoked, each server process gets its own. */
    bool with_key = e->fact.renew == RENEW_CREDENTIALS || (is_managed && e->fact.has_sandbox);
    w->fresh = secrets_new(e, true, with_key);
    if (with_key) {
        llm_key_record(e, w->fresh->llm_key_hash, on_fresh_key_recorded, w);
    } else {
        generation_change(w);
    }
}

static void on_destroyed(int code, const struct err *err, void *data)
{
    struct work *w = data;
    place_result(w->s, w->place, code, err);
    if (code != 0 && code != E_NOT_FOUND) {
        work_fail(w, "destroy", code, err);
    } else {
        work_describe(w); /* believed when the provider says that it is absent */
    }
}

/* --- decide --- */
static bool is_ours(const struct work *w, const struct sandbox_info *i)
{
    return slice_eq_str(i->labels.controller, w->s->controller) &&
           slice_eq_str(i->labels.workspace, w->e->ws.id) && i->labels.generation == w->e->fact.generation;
}

static void decide_run(struct work *w, const struct sandbox_info *i)
{
    struct entry *e = w->e;
    struct provider *p = w->place->p;
    struct err err = {0};
    if (i->state == SANDBOX_ABSENT) {
        if (e->fact.renew != RENEW_NO || e->fact.has_sandbox) {
            generation_begin(w);
        } else if (e->is_attempt_used) {
            entry_change(e, edit_attempt, NULL, on_attempt_saved, w);
        } else {
            start_ask(w, on_turn_create);
        }
        return;
    }
    if (!is_ours(w, i)) {
        (void)err_set(&err, E_FORBIDDEN, "a sandbox that is not ours has the name %s", e->sandbox_name);
        work_fail(w, "adopt", E_FORBIDDEN, &err);
        return;
    }
    if (e->fact.renew != RENEW_NO) {
        if (w->has_destroyed) {
            (void)err_set(&err, E_BUSY, "%s is still there", e->sandbox_name);
            work_fail(w, "destroy", E_BUSY, &err);
            return;
        }
        w->has_destroyed = true;
        entry_disconnect(e);
        p->ops->destroy(p, slice_str(e->sandbox_name), w->s->o.timing.call_long_ms, on_destroyed, w);
        return;
    }
    switch (i->state) {
    case SANDBOX_EXITED:
        (void)err_set(&err, E_GONE, "ended by itself%s%.*s", i->reason.n > 0 ? ": " : "", (int)i->reason.n,
                      i->reason.n > 0 ? i->reason.p : "");
        work_fail_renew(w, "sandbox", E_GONE, &err, RENEW_SANDBOX);
        return;
    case SANDBOX_RUNNING:
        w->was_running = true;
        on_turn_start(w); /* reaching it again costs nothing: no turn needed */
        return;
    case SANDBOX_SUSPENDED:
        w->is_resume = true;
        start_ask(w, on_turn_start);
        return;
    case SANDBOX_CREATED:
    case SANDBOX_ABSENT:
        start_ask(w, on_turn_start);
        return;
    }
}

static void on_suspended(int code, const struct err *err, void *data)
{
    struct work *w = data;
    place_result(w->s, w->place, code, err);
    if (code != 0 && code != E_NOT_FOUND && code != E_GONE) {
        work_fail(w, "suspend", code, err);
    } else {
        w->has_suspended = true;
        work_describe(w);
    }
}

static enum suspend_kind suspend_kind_of(const struct work *w)
{
    const struct config_template *t = template_of(w->e);
    bool is_frozen =
        t != NULL && t->suspend_freezes && w->place->p->ops->caps(w->place->p)->suspend_keeps_memory;
    return is_frozen ? SUSPEND_FREEZE : SUSPEND_STOP;
}

static void decide_suspend(struct work *w, const struct sandbox_info *i)
{
    struct entry *e = w->e;
    struct provider *p = w->place->p;
    if (i->state != SANDBOX_RUNNING || !is_ours(w, i)) {
        const struct edit x = {.is_frozen = suspend_kind_of(w) == SUSPEND_FREEZE};
        entry_change(e, edit_asleep, &x, on_step_saved, w);
    } else if (w->has_suspended) {
        struct err err = {0};
        (void)err_set(&err, E_BUSY, "%s is still running", e->sandbox_name);
        work_fail(w, "suspend", E_BUSY, &err);
    } else {
        p->ops->suspend(p, slice_str(e->sandbox_name), suspend_kind_of(w), w->s->o.timing.call_long_ms,
                        on_suspended, w);
    }
}

static void on_described(int code, const struct sandbox_info *info, const struct err *err, void *data)
{
    struct work *w = data;
    place_result(w->s, w->place, code, err);
    if (code != 0) {
        work_fail(w, "describe", code, err);
    } else if (w->s->is_closing || w->e->fact.wish == WISH_DELETED) {
        work_end(w);
    } else if (info->state != SANDBOX_ABSENT && is_ours(w, info) && may_move(w->e)) {
        entry_change(w->e, edit_pinned, NULL, on_step_saved, w); /* before anything is written to its home */
    } else if (w->e->fact.wish == WISH_SUSPENDED) {
        decide_suspend(w, info);
    } else {
        decide_run(w, info);
    }
}

static void work_describe(struct work *w)
{
    struct provider *p = w->place->p;
    if (w->s->is_closing) {
        work_end(w);
        return;
    }
    w->e->wants_look = false;
    p->ops->describe(p, slice_str(w->e->sandbox_name), w->s->o.timing.call_ms, on_described, w);
}

/* --- passes --- */
bool reconcile_is_at_rest(const struct entry *e)
{
    if (e->old_key_hash != NULL ||
        (llm_key_step(e) != KEY_STEP_NONE && !(e->fact.state == WS_FAILED && e->fact.is_final))) {
        return false;
    }
    switch (e->fact.wish) {
    case WISH_RUNNING:
        return (e->fact.state == WS_READY && e->is_reached && e->fact.renew == RENEW_NO) ||
               (e->fact.state == WS_FAILED && e->fact.is_final);
    case WISH_SUSPENDED:
        return e->fact.is_asleep;
    case WISH_DELETED:
        return false;
    }
    return false;
}

int64_t reconcile_idle_after(const struct entry *e)
{
    const struct config_template *t = template_of(e);
    return t == NULL || e->fact.state != WS_READY || e->fact.wish != WISH_RUNNING ? 0 : t->suspend_after_ms;
}

void reconcile_rest(struct entry *e)
{
    int64_t after = reconcile_idle_after(e);
    bool is_idle_due = after > 0 && e->holds == 0;
    if (e->has_doubt && !(is_idle_due && e->touched_ms + after < e->doubt_next_ms)) {
        due_set(e, e->doubt_next_ms);
    } else if (is_idle_due) {
        due_set(e, e->touched_ms + after);
    } else {
        due_clear(e);
    }
    boot_done(e);
}

static void on_old_key_revoked(struct entry *e, int code, const struct err *err, void *data)
{
    struct work *w = data;
    if (code != 0) {
        work_fail(w, "revoke the former LLM key", code, err);
        return;
    }
    entry_change(e, edit_old_key_revoked, NULL, on_step_saved, w);
}

static void wait_for_place(struct entry *e, const char *reason, int64_t after_ms)
{
    entry_note(e, reason);
    waits_look(e);
    due_set(e, now_mono(e->s) + after_ms);
    boot_done(e);
}

static void pass(struct entry *e)
{
    struct scheduler *s = e->s;
    char reason[REASON_MAX];
    int64_t wait_ms = 0;
    bool is_look = e->wants_look && e->is_reached;
    if (reconcile_is_at_rest(e) && !is_look) {
        e->wants_look = false;
        reconcile_rest(e);
        return;
    }
    if (e->retry_ms > now_mono(s)) {
        due_set(e, e->has_doubt && e->doubt_next_ms < e->retry_ms ? e->doubt_next_ms : e->retry_ms);
        boot_done(e);
        return;
    }
    if (e->fact.wish == WISH_DELETED && !e->is_key_revoked) {
        remove_keys(e);
        return;
    }
    if (e->old_key_hash != NULL) { /* its sandbox is gone since the generation began */
        llm_keys_revoke(e, false, on_old_key_revoked, work_new(e, NULL));
        return;
    }
    enum key_step step = llm_key_step(e);
    if (step != KEY_STEP_NONE && !is_look) {
        llm_key_begin(e, step);
        return;
    }
    struct place *p = place_find(s, e->fact.provider);
    if (p == NULL) {
        (void)snprintf(reason, sizeof reason, "provider `%.*s` is not configured; waiting for it",
                       SL_ARG(e->fact.provider));
        wait_for_place(e, reason, s->o.timing.retry_max_ms);
        return;
    }
    if (!place_allows(s, p, &wait_ms)) {
        if (is_look) { /* as far as we know it runs */
            doubt_later(e, wait_ms);
            reconcile_rest(e);
            return;
        }
        (void)snprintf(reason, sizeof reason, "provider %.*s is left alone after repeated failures: %s",
                       SL_ARG(p->name), p->last);
        wait_for_place(e, reason, wait_ms + (int64_t)rnd_below(s->loop->rnd, (uint64_t)wait_ms / 4 + 2));
        return;
    }
    struct work *w = work_new(e, p);
    if (e->fact.wish == WISH_DELETED) {
        remove_begin(w);
    } else {
        work_describe(w);
    }
}

void reconcile_kick(struct entry *e)
{
    struct scheduler *s = e->s;
    if (s->is_closing || !s->is_started || e->is_new) {
        return;
    }
    if (e->work != NULL || e->changes != NULL) {
        e->is_kicked = true;
        if (e->work != NULL && (e->fact.wish != WISH_RUNNING || e->fact.renew != RENEW_NO)) {
            health_stop(e->work);
        }
        return;
    }
    e->is_kicked = false;
    pass(e);
}

void reconcile_due(struct entry *e)
{
    int64_t after = reconcile_idle_after(e);
    if (e->is_doubtful) {
        create_look_again(e);
    } else if (doubt_due(e)) {
        return;
    } else if (e->is_reached && after > 0) {
        if (e->holds == 0 && now_mono(e->s) >= e->touched_ms + after) {
            const struct edit x = {.cause = SUSPEND_IDLE};
            entry_change(e, edit_suspend, &x, NULL, NULL);
        } else if (e->work == NULL && reconcile_is_at_rest(e)) {
            reconcile_rest(e);
        } else {
            reconcile_kick(e);
        }
    } else {
        reconcile_kick(e);
    }
}
