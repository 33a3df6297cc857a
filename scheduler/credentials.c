/* credentials: what the server inside is started with: its own token, the workspace's LLM key, its
 * environment.
 *
 * Both secrets are made here, sealed for exactly this workspace and field, and kept sealed in the record; the
 * token is also in memory, because every proxied request carries it. The LLM key is opened for a start and
 * wiped after it. Its hash is recorded in partition `fleet` before the key can leave, and marked revoked when
 * a new one takes its place or the workspace goes; the same commit says at which gateway it is still to be
 * revoked (revoke.c). What becomes of it at the gateway before that: llm_key.c. */
#include "scheduler/entry.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

#define DOOR_URL     "http://127.0.0.1:8700" /* inside the sandbox */
#define DIRECT_HOSTS "localhost,127.0.0.1,::1"

static const char *const reserved_suffixes[] = {"_API_KEY", "_BASE_URL"};
static const char *const reserved_prefixes[] = {"LD_", "REEVE_"};

static bool is_variable_name(struct slice s)
{
    if (s.n == 0 || s.n > PAIR_NAME_MAX || (s.p[0] >= '0' && s.p[0] <= '9')) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_')) {
            return false;
        }
    }
    return true;
}

static bool is_reserved(struct slice name)
{
    for (size_t i = 0; i < ARRAY_LEN(reserved_suffixes); i++) {
        size_t n = strlen(reserved_suffixes[i]);
        if (name.n >= n && slice_ieq_str(slice_from(name, name.n - n), reserved_suffixes[i])) {
            return true;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(reserved_prefixes); i++) {
        size_t n = strlen(reserved_prefixes[i]);
        if (name.n >= n && slice_ieq_str(slice_of(name.p, n), reserved_prefixes[i])) {
            return true;
        }
    }
    return false;
}

static int pairs_check(const char *field, const struct workspace_pair *p, size_t n, size_t max,
                       struct err *err)
{
    if (n > max) {
        return err_set(err, E_INVALID, "%s: %zu entries, at most %zu are allowed", field, n, max);
    }
    for (size_t i = 0; i < n; i++) {
        struct slice name = p[i].name, value = p[i].value;
        if (name.n == 0 || name.n > PAIR_NAME_MAX || !slice_is_utf8(name) ||
            slice_find(name, '\0') != SIZE_MAX) {
            return err_set(err, E_INVALID, "%s: a name must be 1 to %d bytes of UTF-8", field, PAIR_NAME_MAX);
        }
        if (value.n > PAIR_VALUE_MAX || !slice_is_utf8(value) || slice_find(value, '\0') != SIZE_MAX) {
            return err_set(err, E_INVALID, "%s.%.*s: a value must be at most %d bytes of UTF-8", field,
                           SL_ARG(name), PAIR_VALUE_MAX);
        }
        for (size_t k = 0; k < i; k++) {
            if (slice_eq(p[k].name, name)) {
                return err_set(err, E_INVALID, "%s.%.*s: given twice", field, SL_ARG(name));
            }
        }
    }
    return 0;
}

int labels_check(const struct workspace_pair *labels, size_t n, struct err *err)
{
    return pairs_check("labels", labels, n, LABELS_MAX, err);
}

int env_check(const struct workspace_pair *env, size_t n, struct err *err)
{
    int code = pairs_check("env", env, n, ENV_MAX, err);
    for (size_t i = 0; code == 0 && i < n; i++) {
        if (!is_variable_name(env[i].name)) {
            code = err_set(err, E_INVALID, "env.%.*s: not a variable's name: letters, digits and '_' only",
                           SL_ARG(env[i].name));
        } else if (is_reserved(env[i].name)) {
            code = err_set(err, E_INVALID,
                           "env.%.*s: *_API_KEY, *_BASE_URL, LD_* and REEVE_* cannot be set here",
                           SL_ARG(env[i].name));
        }
    }
    return code;
}

static void context_make(const struct entry *e, const char *field, char out[96])
{
    (void)snprintf(out, 96, "workspace/%s/%s", e->ws.id, field);
}

static char *sealed_text(const struct entry *e, const char *field, const char *plain)
{
    char context[96];
    context_make(e, field, context);
    struct buf sealed = BUF_INIT(1024), text = BUF_INIT(2048);
    int code = seal(e->s->o.seal_key, e->s->loop->rnd, slice_str(context), slice_str(plain), &sealed);
    must(code == 0);
    (void)base64url_encode(buf_view(&sealed), &text); /* 1,024 bytes fit */
    buf_fini(&sealed);
    size_t n;
    return buf_take(&text, &n);
}

/* Into out (NUL-terminated, wiped on failure). */
static int sealed_open(const struct entry *e, const char *field, const char *text, char *out, size_t size,
                       struct err *err)
{
    char context[96];
    context_make(e, field, context);
    struct buf sealed = BUF_INIT(2048), plain = BUF_INIT(1024);
    int code = text == NULL ? err_set(err, E_INVALID, "the record has none")
                            : base64url_decode(slice_str(text), &sealed);
    if (code == 0) {
        code = unseal(e->s->o.seal_key, slice_str(context), buf_view(&sealed), &plain, err);
    }
    if (code == 0 && plain.n >= size) {
        code = err_set(err, E_INVALID, "too long");
    }
    if (code == 0) {
        memcpy(out, plain.p, plain.n);
        out[plain.n] = '\0';
    } else {
        (void)err_set(err, E_INVALID, "%s cannot be opened with this seal key", field);
    }
    buf_fini(&sealed);
    buf_wipe(&plain);
    return code == 0 ? 0 : E_INVALID;
}

struct secrets *secrets_new(struct entry *e, bool with_token, bool with_key)
{
    struct secrets *x = MEM_NEW(struct secrets);
    if (with_token) {
        unsigned char random[32];
        rnd_fill(e->s->loop->rnd, random, sizeof random);
        struct buf token = BUF_INIT(sizeof x->token - 1);
        (void)base32_encode(slice_of(random, sizeof random), &token); /* 52 characters */
        memcpy(x->token, token.p, token.n);
        buf_wipe(&token);
        mem_wipe(random, sizeof random);
        x->sealed_token = sealed_text(e, "server_token", x->token);
    }
    if (with_key) {
        llm_key_new(e->s->loop->rnd, x->llm_key);
        sha256_hex(slice_str(x->llm_key), x->llm_key_hash);
        x->sealed_key = sealed_text(e, "llm_key", x->llm_key);
    }
    return x;
}

void secrets_free(struct secrets *x)
{
    if (x == NULL) {
        return;
    }
    mem_free(x->sealed_token);
    mem_free(x->sealed_key);
    mem_wipe(x, sizeof *x);
    mem_free(x);
}

int token_open(struct entry *e, struct err *err)
{
    if (e->ws.server_token[0] != '\0') {
        return 0;
    }
    return sealed_open(e, "server_token", e->sealed_token, e->ws.server_token, sizeof e->ws.server_token,
                       err);
}

int llm_key_open(const struct entry *e, char out[LLM_KEY_TEXT_MAX], struct err *err)
{
    return sealed_open(e, "llm_key", e->sealed_key, out, LLM_KEY_TEXT_MAX, err);
}

static void env_set(struct sandbox_env *env, size_t *n, struct slice name, struct slice value)
{
    for (size_t i = 0; i < *n; i++) {
        if (slice_eq(env[i].name, name)) {
            env[i].value = value; /* the later one wins */
            return;
        }
    }
    env[(*n)++] = (struct sandbox_env){name, value};
}

/* The forward proxy, as the usual tools look for it: curl and git want the lower case, Go, Python, npm and
 * cargo take either, Node.js must be told to look at all. The door itself stays direct. First in the list, so
 * that a template or a workspace may say otherwise. */
static void env_proxy(struct sandbox_env *env, size_t *n)
{
    static const char *const names[] = {"HTTP_PROXY",  "http_proxy", "HTTPS_PROXY",
                                        "https_proxy", "ALL_PROXY",  "all_proxy"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        env_set(env, n, slice_str(names[i]), SL(DOOR_URL));
    env_set(env, n, SL("NO_PROXY"), SL(DIRECT_HOSTS));
    env_set(env, n, SL("no_proxy"), SL(DIRECT_HOSTS));
    env_set(env, n, SL("NODE_USE_ENV_PROXY"), SL("1"));
}
#define ENV_PROXY_N 9

int server_env(struct entry *e, const struct config_template *t, const char *llm_key, struct arena *a,
               struct sandbox_server *ret)
{
    struct sandbox_env *env = arena_zalloc(a, (t->n_env + e->ws.n_env + 8 + ENV_PROXY_N) * sizeof *env);
    size_t n = 0;
    env_proxy(env, &n);
    for (size_t i = 0; i < t->n_env; i++) {
        env_set(env, &n, arena_slice(a, t->env[i].name), arena_slice(a, t->env[i].value));
    }
    for (size_t i = 0; i < e->ws.n_env; i++) {
        env_set(env, &n, e->ws.env[i].name, e->ws.env[i].value);
    }
    struct slice key = slice_str(llm_key);
    env_set(env, &n, SL("ANTHROPIC_API_KEY"), key);
    env_set(env, &n, SL("ANTHROPIC_BASE_URL"), SL(DOOR_URL));
    env_set(env, &n, SL("OPENAI_API_KEY"), key);
    env_set(env, &n, SL("OPENAI_BASE_URL"), SL(DOOR_URL "/v1"));
    env_set(env, &n, SL("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"), SL("1"));
    env_set(env, &n, SL("SANDBOX_AGENT_REQUIRE_PREINSTALL"), SL("1"));
    *ret = (struct sandbox_server){
        .env = env, .n_env = n, .token = slice_str(e->ws.server_token), .port = SERVER_PORT};
    return 0;
}

/* --- the index of LLM keys --- */
struct key_commit {
    struct entry *e;
    struct scheduler *s;
    struct store_op ops[4];
    size_t n;
    struct slice gateways[2]; /* where something is to be revoked now; interned */
    size_t n_gateways;
    key_done_fn done;
    void *data;
};

static void on_keys_recorded(const struct store_commit_answer *a, void *data)
{
    struct key_commit *k = data;
    struct scheduler *s = k->s;
    struct err err = {0};
    if (a->code != 0) {
        (void)err_set(&err, E_STORE, "store: %s", a->err != NULL ? a->err->msg : err_title(a->code));
    }
    for (size_t i = 0; i < k->n_gateways; i++) { /* also after a failure: it may have been a lost answer */
        revoker_kick(s->revoker, k->gateways[i]);
    }
    /* A lost answer is a failure here: recording the same key again is harmless. */
    k->done(k->e, a->code == 0 ? 0 : E_STORE, &err, k->data);
    mem_free(k);
    scheduler_idle(s);
}

static void on_nothing_recorded(void *data)
{
    const struct store_commit_answer a = {.code = 0};
    on_keys_recorded(&a, data);
}

static struct key_commit *key_commit_new(struct entry *e, key_done_fn done, void *data)
{
    struct key_commit *k = MEM_NEW(struct key_commit);
    k->e = e;
    k->s = e->s;
    k->done = done;
    k->data = data;
    scheduler_busy(e->s);
    return k;
}

static void key_op(struct key_commit *k, struct arena *a, const char *hash, struct slice gateway,
                   bool is_revoked)
{
    struct scheduler *s = k->s;
    if (s->o.llm_key_op != NULL && hash != NULL && hash[0] != '\0') {
        k->ops[k->n++] = s->o.llm_key_op(a, hash, gateway, &k->e->ws, is_revoked, s->o.data);
    }
}

static void revoke_op(struct key_commit *k, struct arena *a, const char *hash, struct slice gateway,
                      enum key_state state)
{
    if (state == KEY_NONE) {
        return;
    }
    int64_t now = now_wall(k->s);
    char key[REVOKE_KEY_MAX];
    struct buf text = BUF_INIT(1024);
    struct jsonw w;
    revoke_key(key, gateway, hash);
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kslice(&w, "tenant", k->e->ws.tenant);
    jsonw_kstr(&w, "workspace_id", k->e->ws.id);
    jsonw_ki64(&w, "since_ms", now);
    /* Never confirmed: what was asked may take effect yet, after all that is done now. */
    jsonw_ki64(&w, "again_ms", state == KEY_SENT ? now + k->s->o.timing.late_ms : 0);
    jsonw_object_end(&w);
    k->ops[k->n++] = store_put(slice_str(arena_strdup(a, key)), arena_slice(a, buf_view(&text)));
    k->gateways[k->n_gateways++] = gateway;
    buf_fini(&text);
}

static void key_commit_send(struct key_commit *k)
{
    if (k->n > 0) {
        store_commit(k->s->store, SL("fleet"), k->ops, k->n, on_keys_recorded, k);
    } else {
        loop_defer(k->s->loop, on_nothing_recorded, k);
    }
}

void llm_key_record(struct entry *e, const char *hash, key_done_fn done, void *data)
{
    struct arena a = ARENA_INIT;
    struct key_commit *k = key_commit_new(e, done, data);
    key_op(k, &a, hash, llm_key_gateway(e, NULL), false);
    key_commit_send(k);
    arena_fini(&a);
}

void llm_keys_revoke(struct entry *e, bool all, key_done_fn done, void *data)
{
    struct arena a = ARENA_INIT;
    struct key_commit *k = key_commit_new(e, done, data);
    const struct fact *f = &e->fact;
    if (e->old_key_hash != NULL) {
        key_op(k, &a, e->old_key_hash, f->old_key_gateway, true);
        revoke_op(k, &a, e->old_key_hash, f->old_key_gateway, f->old_key_state);
    }
    if (all && e->ws.llm_key_hash[0] != '\0') {
        key_op(k, &a, e->ws.llm_key_hash, f->key_gateway, true);
        revoke_op(k, &a, e->ws.llm_key_hash, f->key_gateway, f->key_state);
    }
    key_commit_send(k);
    arena_fini(&a);
}

/* The key leaves this gateway, not the workspace: only the gateway is to forget it. */
void llm_key_revoke_there(struct entry *e, key_done_fn done, void *data)
{
    struct arena a = ARENA_INIT;
    struct key_commit *k = key_commit_new(e, done, data);
    revoke_op(k, &a, e->ws.llm_key_hash, e->fact.key_gateway, e->fact.key_state);
    key_commit_send(k);
    arena_fini(&a);
}

static void on_forgotten(const struct store_commit_answer *a, void *data)
{
    (void)a; /* what stays is the hash of a key that nobody ever had */
    scheduler_idle(data);
}

void llm_key_forget(struct entry *e, const char *hash)
{
    struct scheduler *s = e->s;
    if (s->o.llm_key_op == NULL || hash[0] == '\0') {
        return;
    }
    struct arena a = ARENA_INIT;
    struct store_op op = s->o.llm_key_op(&a, hash, SLICE_EMPTY, &e->ws, true, s->o.data);
    op = store_delete(op.key);
    scheduler_busy(s);
    store_commit(s->store, SL("fleet"), &op, 1, on_forgotten, s);
    arena_fini(&a);
}
