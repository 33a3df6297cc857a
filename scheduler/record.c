/* record: a workspace as JSON in the store, and back.
 *
 * Texts of credentials are in it only sealed. `commit` names the process and the commit that wrote the
 * record, so that after a lost answer a record read back tells whether it is ours. A record that cannot be
 * understood is an error that names the field; the caller leaves it and its sandbox alone. */
#include "scheduler/entry.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

#define RECORD_FORM 1

static const char *const wish_names[] = {
    [WISH_RUNNING] = "running", [WISH_SUSPENDED] = "suspended", [WISH_DELETED] = "deleted"};
static const char *const cause_names[] = {[SUSPEND_NONE] = "",
                                          [SUSPEND_IDLE] = "idle",
                                          [SUSPEND_OPERATOR] = "operator",
                                          [SUSPEND_BUDGET] = "budget"};
static const char *const key_names[] = {[KEY_NONE] = "",
                                        [KEY_SENT] = "sent",
                                        [KEY_LIVE] = "live",
                                        [KEY_UNSURE] = "unsure",
                                        [KEY_BLOCKED] = "blocked"};
static const char *const renew_names[] = {
    [RENEW_NO] = "", [RENEW_SANDBOX] = "sandbox", [RENEW_CREDENTIALS] = "credentials"};

void record_key(char out[160], struct slice namespace, struct slice name)
{
    /* both are names of at most 63 bytes */
    (void)snprintf(out, 160, "ws/%.*s/%.*s", SL_ARG(namespace), SL_ARG(name));
}

static void pairs_write(struct jsonw *w, const char *key, const struct workspace_pair *p, size_t n)
{
    jsonw_key(w, key);
    jsonw_object(w);
    for (size_t i = 0; i < n; i++) {
        jsonw_key_slice(w, p[i].name);
        jsonw_slice(w, p[i].value);
    }
    jsonw_object_end(w);
}

static void fact_write(struct jsonw *w, const struct fact *f)
{
    jsonw_kstr(w, "wish", wish_names[f->wish]);
    jsonw_kstr(w, "cause", cause_names[f->cause]);
    jsonw_kstr(w, "state", workspace_state_name(f->state));
    jsonw_kstr(w, "renew", renew_names[f->renew]);
    jsonw_ku64(w, "generation", f->generation);
    jsonw_ku64(w, "attempt", f->attempt);
    jsonw_kslice(w, "provider", f->provider);
    jsonw_kbool(w, "is_pinned", f->is_pinned);
    jsonw_kbool(w, "has_sandbox", f->has_sandbox);
    jsonw_kbool(w, "is_asleep", f->is_asleep);
    jsonw_kbool(w, "is_frozen", f->is_frozen);
    jsonw_kbool(w, "is_final", f->is_final);
    jsonw_kbool(w, "keeps_home", f->keeps_home);
    jsonw_ki64(w, "updated_at_ms", f->updated_at_ms);
    jsonw_ki64(w, "ready_at_ms", f->ready_at_ms);
    jsonw_ki64(w, "retry_at_ms", f->retry_at_ms);
    jsonw_ku64(w, "event_seq", f->event_seq);
    jsonw_kstr(w, "key_state", key_names[f->key_state]);
    jsonw_kslice(w, "key_gateway", f->key_gateway.n > 0 ? f->key_gateway : SLICE_EMPTY);
    jsonw_kslice(w, "old_key_gateway", f->old_key_gateway.n > 0 ? f->old_key_gateway : SLICE_EMPTY);
    jsonw_kstr(w, "old_key_state", key_names[f->old_key_state]);
}

static const char *text_or_empty(const char *s)
{
    return s == NULL ? "" : s;
}

int record_write(const struct entry *e, const struct draft *d, uint64_t commit_seq, struct buf *out)
{
    const struct secrets *x = d->fresh;
    bool has_new_key = x != NULL && x->sealed_key != NULL;
    const char *old_key = e->old_key_hash;
    if (has_new_key && e->ws.llm_key_hash[0] != '\0') {
        old_key = e->ws.llm_key_hash;
    } else if (d->forgets_old_key) {
        old_key = NULL;
    }
    char commit[80];
    (void)snprintf(commit, sizeof commit, "%s-%" PRIu64, e->s->writer, commit_seq);
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_ki64(&w, "form", RECORD_FORM);
    jsonw_kstr(&w, "commit", commit);
    jsonw_kstr(&w, "id", e->ws.id);
    jsonw_kslice(&w, "namespace", e->ws.namespace);
    jsonw_kslice(&w, "name", e->ws.name);
    jsonw_kslice(&w, "template", e->ws.template);
    jsonw_kslice(&w, "provider_asked", e->provider_asked);
    jsonw_kslice(&w, "user", e->ws.user);
    jsonw_kslice(&w, "home_id", e->home_id);
    pairs_write(&w, "labels", e->ws.labels, e->ws.n_labels);
    pairs_write(&w, "env", e->ws.env, e->ws.n_env);
    jsonw_ki64(&w, "created_at_ms", e->ws.created_at_ms);
    jsonw_kstr(&w, "reason", d->reason);
    fact_write(&w, &d->fact);
    jsonw_kstr(&w, "token",
               text_or_empty(x != NULL && x->sealed_token != NULL ? x->sealed_token : e->sealed_token));
    jsonw_kstr(&w, "llm_key", text_or_empty(has_new_key ? x->sealed_key : e->sealed_key));
    jsonw_kstr(&w, "llm_key_hash", has_new_key ? x->llm_key_hash : e->ws.llm_key_hash);
    jsonw_kstr(&w, "old_key_hash", text_or_empty(old_key));
    jsonw_object_end(&w);
    return out->is_full ? E_TOO_LARGE : 0;
}

void state_event_write(const struct entry *e, const struct draft *d, struct buf *out)
{
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_ktime(&w, "time", d->fact.updated_at_ms);
    jsonw_kstr(&w, "state", workspace_state_name(d->is_removal ? WS_ABSENT : d->fact.state));
    jsonw_kstr(&w, "reason", d->is_removal ? "" : d->reason);
    jsonw_object_end(&w);
    (void)e;
}

struct row { /* the record's members as they come */
    int64_t form, created_at_ms, updated_at_ms, ready_at_ms, retry_at_ms;
    uint64_t generation, attempt, event_seq;
    struct slice commit, id, namespace, name, template, provider_asked, user, home_id, reason, wish, cause,
        state, renew, provider, token, llm_key, llm_key_hash, old_key_hash, key_state, key_gateway,
        old_key_gateway, old_key_state;
    const struct json *labels, *env;
    bool is_pinned, has_sandbox, is_asleep, is_final, keeps_home, is_frozen;
};

#define ROW(field, type)                                                                                     \
    {                                                                                                        \
#field, type, true, offsetof(struct row, field)                                                      \
    }
#define ROW_LATER(field, type) /* records of the first version do not have it */                             \
    {                                                                                                        \
#field, type, false, offsetof(struct row, field)                                                     \
    }
static const struct json_field rows[] = {
    ROW(form, JF_I64),
    ROW(commit, JF_STRING),
    ROW(id, JF_STRING),
    ROW(namespace, JF_STRING),
    ROW(name, JF_STRING),
    ROW(template, JF_STRING),
    ROW(user, JF_STRING),
    ROW(provider_asked, JF_STRING),
    ROW(home_id, JF_STRING),
    ROW(labels, JF_OBJECT),
    ROW(env, JF_OBJECT),
    ROW(created_at_ms, JF_I64),
    ROW(reason, JF_STRING),
    ROW(wish, JF_STRING),
    ROW(cause, JF_STRING),
    ROW(state, JF_STRING),
    ROW(renew, JF_STRING),
    ROW(generation, JF_U64),
    ROW(attempt, JF_U64),
    ROW(provider, JF_STRING),
    ROW(is_pinned, JF_BOOL),
    ROW(has_sandbox, JF_BOOL),
    ROW(is_asleep, JF_BOOL),
    ROW(is_final, JF_BOOL),
    ROW(keeps_home, JF_BOOL),
    ROW(updated_at_ms, JF_I64),
    ROW(ready_at_ms, JF_I64),
    ROW(retry_at_ms, JF_I64),
    ROW(event_seq, JF_U64),
    ROW(token, JF_STRING),
    ROW(llm_key, JF_STRING),
    ROW(llm_key_hash, JF_STRING),
    ROW(old_key_hash, JF_STRING),
    ROW_LATER(is_frozen, JF_BOOL),
    ROW_LATER(key_state, JF_STRING),
    ROW_LATER(key_gateway, JF_STRING),
    ROW_LATER(old_key_gateway, JF_STRING),
    ROW_LATER(old_key_state, JF_STRING),
};

static int word_read(const char *const *names, size_t n, struct slice s, const char *field, unsigned *ret,
                     struct err *err)
{
    for (unsigned i = 0; i < n; i++) {
        if (slice_eq_str(s, names[i])) {
            *ret = i;
            return 0;
        }
    }
    return err_set(err, E_INVALID, "%s: unknown word \"%.*s\"", field, SL_ARG(s));
}

static int pairs_read(struct arena *a, const struct json *object, size_t max, const char *field,
                      struct workspace_pair **ret, size_t *ret_n, struct err *err)
{
    size_t n = json_count(object), i = 0;
    if (n > max) {
        return err_set(err, E_INVALID, "%s: more than %zu members", field, max);
    }
    struct workspace_pair *p = arena_zalloc(a, (n + 1) * sizeof *p);
    JSON_FOREACH (it, object) {
        if (json_type(it) != JSON_STRING) {
            return err_set(err, E_INVALID, "%s: a value is not a string", field);
        }
        p[i++] = (struct workspace_pair){json_key(it), json_string(it)};
    }
    *ret = p;
    *ret_n = n;
    return 0;
}

static int fact_read(struct scheduler *s, const struct row *r, struct fact *f, struct err *err)
{
    unsigned wish = 0, cause = 0, renew = 0, key = 0, old_key = 0;
    int code;
    if ((code = word_read(wish_names, ARRAY_LEN(wish_names), r->wish, "wish", &wish, err)) < 0 ||
        (code = word_read(cause_names, ARRAY_LEN(cause_names), r->cause, "cause", &cause, err)) < 0 ||
        (code = word_read(renew_names, ARRAY_LEN(renew_names), r->renew, "renew", &renew, err)) < 0 ||
        (code = word_read(key_names, ARRAY_LEN(key_names), r->key_state, "key_state", &key, err)) < 0 ||
        (code = word_read(key_names, ARRAY_LEN(key_names), r->old_key_state, "old_key_state", &old_key,
                          err)) < 0) {
        return code;
    }
    if (workspace_state_parse(r->state, &f->state) < 0 || f->state == WS_ABSENT) {
        return err_set(err, E_INVALID, "state: unknown word \"%.*s\"", SL_ARG(r->state));
    }
    f->wish = (enum workspace_wish)wish;
    f->cause = (enum suspend_cause)cause;
    f->renew = (enum renewal)renew;
    f->generation = r->generation;
    f->attempt = r->attempt;
    f->provider = scheduler_intern(s, r->provider);
    f->is_pinned = r->is_pinned;
    f->has_sandbox = r->has_sandbox;
    f->is_asleep = r->is_asleep;
    f->is_frozen = r->is_frozen;
    f->is_final = r->is_final;
    f->keeps_home = r->keeps_home;
    f->updated_at_ms = r->updated_at_ms;
    f->ready_at_ms = r->ready_at_ms;
    f->retry_at_ms = r->retry_at_ms;
    f->event_seq = r->event_seq;
    f->key_state = (enum key_state)key;
    f->key_gateway = scheduler_intern(s, r->key_gateway);
    f->old_key_gateway = scheduler_intern(s, r->old_key_gateway);
    f->old_key_state = (enum key_state)old_key;
    return 0;
}

static char *text_or_null(struct slice s)
{
    return s.n == 0 ? NULL : mem_strndup(s.p, s.n);
}

static int row_read(struct tenant *t, const struct row *r, uint64_t version, struct entry **ret,
                    struct err *err)
{
    if (r->form != RECORD_FORM) {
        return err_set(err, E_INVALID, "form: %lld is not known to this version", (long long)r->form);
    }
    if (!id_is_valid(r->id, "ws") || !name_is_valid(r->namespace) || !name_is_valid(r->name)) {
        return err_set(err, E_INVALID, "id, namespace or name: not legal");
    }
    if (r->llm_key_hash.n >= SHA256_HEX_SIZE || r->old_key_hash.n >= SHA256_HEX_SIZE) {
        return err_set(err, E_INVALID, "llm_key_hash: too long");
    }
    struct arena a = ARENA_INIT;
    struct workspace_pair *labels, *env;
    size_t n_labels, n_env;
    struct fact fact = {0};
    int code = pairs_read(&a, r->labels, LABELS_MAX, "labels", &labels, &n_labels, err);
    if (code == 0) {
        code = pairs_read(&a, r->env, ENV_MAX, "env", &env, &n_env, err);
    }
    if (code == 0) {
        code = fact_read(t->s, r, &fact, err);
    }
    if (code < 0) {
        arena_fini(&a);
        return code;
    }
    const struct entry_texts x = {.namespace = r->namespace,
                                  .name = r->name,
                                  .template = r->template,
                                  .user = r->user,
                                  .provider_asked = r->provider_asked,
                                  .home_id = r->home_id,
                                  .labels = labels,
                                  .env = env,
                                  .n_labels = n_labels,
                                  .n_env = n_env};
    struct entry *e = entry_new(t, r->id, &x);
    arena_fini(&a);
    e->fact = fact;
    if (r->key_gateway.p == NULL) {
        e->fact.key_gateway = llm_key_gateway(e, NULL);
    }
    e->ws.version = version;
    e->ws.created_at_ms = r->created_at_ms;
    e->sealed_token = text_or_null(r->token);
    e->sealed_key = text_or_null(r->llm_key);
    e->old_key_hash = text_or_null(r->old_key_hash);
    memcpy(e->ws.llm_key_hash, r->llm_key_hash.p, r->llm_key_hash.n);
    e->is_attempt_used = true; /* whoever wrote this may have called the provider */
    struct buf reason = BUF_INIT(REASON_MAX - 1);
    (void)buf_slice(&reason, r->reason);
    entry_reason(e, buf_cstr(&reason));
    buf_fini(&reason);
    *ret = e;
    return 0;
}

struct entry *record_read(struct tenant *t, struct slice value, uint64_t version, struct err *err)
{
    struct json *j = NULL;
    struct row r = {0};
    struct entry *e = NULL;
    const struct json_limits limits = {.bytes_max = STORE_VALUE_MAX};
    if (json_parse(value, &limits, &j, err) == 0 && json_decode(j, "", rows, ARRAY_LEN(rows), &r, err) == 0) {
        (void)row_read(t, &r, version, &e, err); /* e stays NULL on failure, err has the story */
    }
    json_free(j);
    return e;
}

bool record_is_commit(const struct scheduler *s, struct slice value, uint64_t seq)
{
    struct json *j = NULL;
    const struct json_limits limits = {.bytes_max = STORE_VALUE_MAX};
    if (json_parse(value, &limits, &j, NULL) < 0) {
        return false;
    }
    char commit[80];
    (void)snprintf(commit, sizeof commit, "%s-%" PRIu64, s->writer, seq);
    bool is_ours = slice_eq_str(json_string(json_get(j, "commit")), commit);
    json_free(j);
    return is_ours;
}

void entry_replace(struct entry *e, struct entry *by)
{
    must(strcmp(e->ws.id, by->ws.id) == 0);
    entry_disconnect(e); /* before the provider's name may change */
    e->fact = by->fact;
    e->ws.version = by->ws.version;
    entry_reason(e, by->ws.reason);
    char **mine[] = {&e->sealed_token, &e->sealed_key, &e->old_key_hash};
    char **theirs[] = {&by->sealed_token, &by->sealed_key, &by->old_key_hash};
    for (size_t i = 0; i < ARRAY_LEN(mine); i++) {
        mem_free(*mine[i]);
        *mine[i] = *theirs[i];
        *theirs[i] = NULL;
    }
    memcpy(e->ws.llm_key_hash, by->ws.llm_key_hash, sizeof e->ws.llm_key_hash);
    e->is_key_live = e->is_key_revoked = false;
    mem_wipe(e->ws.server_token, sizeof e->ws.server_token);
    e->is_reached = false;
    e->is_attempt_used = true;
    entry_view(e, true);
}
