/* litellm_keys: see litellm_keys.h.
 *
 * Happy path: one call, and an answer that names our key. Failure paths: what an answer leaves open (a
 * repetition that is refused because the alias exists, a 200 that says nothing about the key) is settled by
 * /key/info, which is asked by hash. Only LiteLLM's own words count as "there is no such key": a 404 of a
 * wrong address has another shape. A gateway that fails in a row is left alone for a while: its callers
 * hear at once what was wrong last, and one call at a time tries whether it is back. At most CALLS_MAX are
 * under way for each gateway, QUEUE_MAX wait, none longer than WAIT_MS. */
#include "billing/litellm_keys.h"

#include <stdio.h>
#include <string.h>

#include <utlist.h>

#include "base/core/buf.h"
#include "base/core/crypto.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "base/net/curl.h"
#include "config/tenancy.h"

#define CALLS_MAX     16
#define QUEUE_MAX     4096
#define CALL_MS       15000
#define WAIT_MS       60000
#define ANSWER_MAX    ((size_t)256 * 1024)
#define FAILURES_OPEN 3 /* in a row: left alone */
#define OPEN_FIRST_MS 1000
#define OPEN_MAX_MS   30000
#define STORY_MAX     200 /* bytes of the gateway's own words */

struct gate { /* a gateway's pace */
    char *name;
    unsigned in_flight, failures;
    size_t n_waiting;
    int64_t open_until_ms; /* monotonic: left alone until then */
    char last[256];        /* what was wrong */
    struct act *waiting;
    struct gate *next;
};

enum phase { PHASE_ACT, PHASE_INFO, PHASE_UNBLOCK };

struct act {
    struct litellm_keys *k;
    struct gate *gate;
    enum litellm_key_act what;
    enum phase phase;
    char hash[SHA256_HEX_SIZE];
    char *url;        /* the gateway's */
    char *ca_pem;     /* who may vouch for it; "": the system's list */
    char *authorize;  /* "Authorization: Bearer …" */
    char *body;       /* of the first call; holds the key's text */
    char *text;       /* the key's; NULL unless it is made */
    int64_t until_ms; /* waiting */
    bool is_counted;  /* among gate->in_flight */
    int code;         /* the end's */
    struct err err;
    litellm_key_done_cb done;
    void *data;
    struct act *prev, *next;
};

struct litellm_keys {
    struct loop *loop;
    struct curl_client *curl; /* NULL: closed */
    struct gate *gates;
    size_t n_acts;
    bool is_closing;
    void (*closed)(void *data);
    void *closed_data;
};

static const char *const paths[] = {[LITELLM_KEY_MAKE] = "key/generate",
                                    [LITELLM_KEY_BLOCK] = "key/block",
                                    [LITELLM_KEY_UNBLOCK] = "key/unblock",
                                    [LITELLM_KEY_REVOKE] = "key/delete"};

/* What is reported call by call. Other work (batches, files, fine-tuning) is not, and management is nothing
 * for an agent. LiteLLM takes them as prefixes of whole segments. */
static const char *const allowed_routes[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings",
                                             "/v1/messages", "/v1/responses"};

static void gate_pump(struct litellm_keys *k, struct gate *g);

/* --- the end --- */

static void keys_maybe_free(struct litellm_keys *k)
{
    if (!k->is_closing || k->curl != NULL || k->n_acts > 0)
        return;
    while (k->gates != NULL) {
        struct gate *g = k->gates;
        k->gates = g->next;
        mem_free(g->name);
        mem_free(g);
    }
    void (*closed)(void *data) = k->closed;
    void *data = k->closed_data;
    mem_free(k);
    closed(data);
}

static void secret_free(char *s)
{
    if (s != NULL)
        mem_wipe(s, strlen(s));
    mem_free(s);
}

static void act_end(void *data)
{
    struct act *a = data;
    struct litellm_keys *k = a->k;
    a->done(a->code, a->code != 0 ? &a->err : NULL, a->data);
    mem_free(a->url);
    mem_free(a->ca_pem);
    secret_free(a->authorize);
    secret_free(a->body);
    secret_free(a->text);
    mem_free(a);
    k->n_acts--;
    keys_maybe_free(k);
}

/* In a later turn: callers are never called from inside their own call. */
static void act_finish(struct act *a, int code)
{
    struct gate *g = a->gate;
    a->code = code;
    if (a->is_counted) {
        a->is_counted = false;
        g->in_flight--;
    }
    loop_defer(a->k->loop, act_end, a);
    if (g != NULL)
        gate_pump(a->k, g);
}

/* --- pace --- */

static struct gate *gate_find(struct litellm_keys *k, struct slice name)
{
    for (struct gate *g = k->gates; g != NULL; g = g->next) {
        if (slice_eq_str(name, g->name))
            return g;
    }
    struct gate *g = MEM_NEW(struct gate);
    g->name = mem_strndup(name.p, name.n);
    g->next = k->gates;
    k->gates = g;
    return g;
}

/* It answered us, whatever it was. */
static void gate_well(struct gate *g)
{
    g->failures = 0;
    g->open_until_ms = 0;
}

static void gate_ill(struct litellm_keys *k, struct gate *g, const char *why)
{
    int64_t now = clock_mono_ms(k->loop->clock), ms = OPEN_FIRST_MS;
    (void)snprintf(g->last, sizeof g->last, "%.250s", why);
    if (g->open_until_ms > now)
        return; /* several were under way: one failure */
    g->failures += g->failures < UINT16_MAX;
    if (g->failures < FAILURES_OPEN)
        return;
    for (unsigned i = FAILURES_OPEN; i < g->failures && ms < OPEN_MAX_MS; i++)
        ms *= 2;
    g->open_until_ms = now + (ms > OPEN_MAX_MS ? OPEN_MAX_MS : ms);
}

static void act_call(struct act *a);

static void gate_pump(struct litellm_keys *k, struct gate *g)
{
    int64_t now = clock_mono_ms(k->loop->clock);
    while (g->waiting != NULL) {
        struct act *a = g->waiting;
        bool is_open = g->open_until_ms > now, is_late = a->until_ms <= now;
        unsigned most = g->failures >= FAILURES_OPEN ? 1 : CALLS_MAX;
        if (!k->is_closing && !is_open && !is_late && g->in_flight >= most)
            return;
        DL_DELETE(g->waiting, a);
        g->n_waiting--;
        if (k->is_closing) {
            loop_defer(k->loop, act_end, a); /* E_CANCELLED, as it was born */
        } else if (is_open) {
            a->code = err_set(&a->err, E_UNAVAILABLE, "%s (left alone for a while after %u failures)",
                              g->last, g->failures);
            loop_defer(k->loop, act_end, a);
        } else if (is_late) {
            a->code = err_set(&a->err, E_TIMEOUT, "%s: waited too long for others", paths[a->what]);
            loop_defer(k->loop, act_end, a);
        } else {
            g->in_flight++;
            a->is_counted = true;
            a->err = (struct err){0};
            act_call(a);
        }
    }
}

/* --- what an answer says --- */

static bool has_text(struct slice s, const char *secret)
{
    size_t n = strlen(secret);
    for (size_t i = 0; n > 0 && i + n <= s.n; i++) {
        if (memcmp(s.p + i, secret, n) == 0)
            return true;
    }
    return false;
}

/* {"error":{"message":…}}, {"detail":{"error":…}}, {"detail":"…"}, {"error":"…"} */
static struct slice message_of(const struct json *root)
{
    const struct json *error = json_get(root, "error"), *detail = json_get(root, "detail");
    const struct json *said[] = {json_get(error, "message"), json_get(detail, "error"), detail, error};
    for (size_t i = 0; i < ARRAY_LEN(said); i++) {
        struct slice s = json_string(said[i]);
        if (s.p != NULL)
            return s;
    }
    return SLICE_NULL;
}

static const char *path_of(const struct act *a)
{
    return a->phase == PHASE_INFO ? "key/info" : a->phase == PHASE_UNBLOCK ? "key/unblock" : paths[a->what];
}

static void story_set(struct act *a, const struct curl_answer *answer, const struct json *root)
{
    const char *path = path_of(a);
    struct buf words = BUF_INIT(STORY_MAX);
    struct slice said = message_of(root);
    if (answer->status == 401 || answer->status == 403) { /* its words can hold parts of the key it refuses */
        (void)err_set(&a->err, E_UPSTREAM, "%s: %d: it refuses our `admin_key`", path, answer->status);
    } else if (said.n == 0 || has_text(said, a->authorize + sizeof "Authorization: Bearer " - 1) ||
               (a->text != NULL && has_text(said, a->text))) {
        (void)err_set(&a->err, E_UPSTREAM, "%s: %d", path, answer->status);
    } else {
        for (size_t i = 0; i < said.n && i < STORY_MAX; i++) {
            char c = said.p[i];
            if (c < ' ' || c > 126)
                c = ' ';
            (void)buf_append(&words, &c, 1);
        }
        (void)err_set(&a->err, E_UPSTREAM, "%s: %d: %s", path, answer->status, buf_cstr(&words));
    }
    buf_fini(&words);
}

/* LiteLLM says that it has no such key. {"detail":"Not Found"} is said of an address that it does not serve.
 */
static bool is_absent(const struct curl_answer *answer, const struct json *root)
{
    return answer->status == 404 && (json_type(json_get(root, "error")) == JSON_OBJECT ||
                                     json_type(json_get(root, "detail")) == JSON_OBJECT);
}

static bool is_text(const struct json *object, const char *key, const char *text)
{
    return slice_eq_str(json_string(json_get(object, key)), text);
}

static bool is_blocked(const struct json *object, bool wanted)
{
    const struct json *b = json_get(object, "blocked");
    return b != NULL && (json_type(b) == JSON_TRUE) == wanted;
}

/* Does this 200 say that it is done, of our key? */
static bool is_confirmed(const struct act *a, const struct json *root)
{
    switch (a->what) {
    case LITELLM_KEY_MAKE:
        return is_text(root, "key", a->text) || is_text(root, "token", a->hash);
    case LITELLM_KEY_BLOCK:
        return is_text(root, "token", a->hash) && is_blocked(root, true);
    case LITELLM_KEY_UNBLOCK:
        return is_text(root, "token", a->hash) && is_blocked(root, false);
    case LITELLM_KEY_REVOKE:
        JSON_FOREACH (it, json_get(root, "deleted_keys")) {
            if (slice_eq_str(json_string(it), a->hash))
                return true;
        }
        return false;
    }
    return false;
}

/* --- the calls --- */

static void act_again(struct act *a, enum phase phase)
{
    a->phase = phase;
    act_call(a);
}

static void info_read(struct act *a, const struct curl_answer *answer, const struct json *root)
{
    const struct json *info = json_get(root, "info");
    /* Deleted keys are served from an archive. */
    bool is_gone = is_absent(answer, root) || is_text(info, "status", "deleted");
    if (!is_gone && (answer->status != 200 || json_type(info) != JSON_OBJECT)) {
        if (a->err.code == 0) /* else what the first call said is the better story */
            story_set(a, answer, root);
        act_finish(a, E_UPSTREAM);
        return;
    }
    bool is_bad = json_type(json_get(info, "blocked")) == JSON_TRUE;
    int code = E_UPSTREAM;
    switch (a->what) {
    case LITELLM_KEY_MAKE:
        if (!is_gone && is_bad) {
            act_again(a, PHASE_UNBLOCK);
            return;
        }
        code = is_gone || is_text(info, "status", "expired") ? E_UPSTREAM : 0;
        break;
    case LITELLM_KEY_BLOCK:
        code = is_gone || is_bad ? 0 : E_UPSTREAM;
        break;
    case LITELLM_KEY_UNBLOCK:
        code = is_gone ? E_NOT_FOUND : is_bad ? E_UPSTREAM : 0;
        break;
    case LITELLM_KEY_REVOKE:
        code = is_gone ? 0 : E_UPSTREAM;
        break;
    }
    if (code == 0)
        gate_well(a->gate);
    else if (a->err.code == 0)
        (void)err_set(&a->err, E_UPSTREAM, "%s: the answer does not confirm it, and key/info denies it",
                      paths[a->what]);
    act_finish(a, code);
}

static void answer_read(struct act *a, const struct curl_answer *answer, const struct json *root)
{
    bool is_ok = answer->status == 200;
    if (is_ok && a->phase == PHASE_UNBLOCK) { /* of a key that was to be made */
        gate_well(a->gate);
        act_finish(a, 0);
    } else if (is_ok && is_confirmed(a, root)) {
        gate_well(a->gate);
        act_finish(a, 0);
    } else if (is_absent(answer, root) && a->phase == PHASE_ACT && a->what != LITELLM_KEY_MAKE) {
        gate_well(a->gate);
        (void)err_set(&a->err, E_NOT_FOUND, "%s: there is no such key", paths[a->what]);
        act_finish(a, a->what == LITELLM_KEY_UNBLOCK ? E_NOT_FOUND : 0);
    } else {
        if (!is_ok)
            story_set(a, answer, root);
        act_again(a, PHASE_INFO);
    }
}

static void on_answer(int code, const struct curl_answer *answer, const struct err *err, void *data)
{
    struct act *a = data;
    struct litellm_keys *k = a->k;
    struct json *root = NULL;
    if (code == E_CANCELLED) {
        act_finish(a, E_CANCELLED);
        return;
    }
    if (code != 0) {
        (void)err_set(&a->err, code, "%s: %s", path_of(a), err != NULL ? err->msg : err_title(code));
        gate_ill(k, a->gate, a->err.msg);
        act_finish(a, code);
        return;
    }
    (void)json_parse(answer->body, NULL, &root, NULL); /* NULL: garbage; it confirms nothing */
    bool is_refusal = answer->status == 401 || answer->status == 403 || answer->status == 429;
    if (is_refusal || answer->status >= 500) {
        story_set(a, answer, root);
        gate_ill(k, a->gate, a->err.msg);
        act_finish(a, E_UPSTREAM);
    } else if (a->phase == PHASE_INFO) {
        info_read(a, answer, root);
    } else {
        answer_read(a, answer, root);
    }
    json_free(root);
}

static void act_call(struct act *a)
{
    struct buf url = BUF_INIT(2048);
    bool is_info = a->phase == PHASE_INFO;
    struct buf body = BUF_INIT(512);
    (void)buf_printf(&url, "%s/%s", a->url, path_of(a));
    if (is_info)
        (void)buf_printf(&url, "?key=%s", a->hash);
    if (a->phase == PHASE_UNBLOCK)
        (void)buf_printf(&body, "{\"key\":\"%s\"}", a->hash);
    const char *headers[] = {a->authorize, "Content-Type: application/json", "Accept: application/json",
                             NULL};
    const struct curl_options o = {.method = is_info ? "GET" : "POST",
                                   .url = buf_cstr(&url),
                                   .headers = headers,
                                   .ca_pem = slice_str(a->ca_pem),
                                   .body = is_info                     ? SLICE_NULL
                                           : a->phase == PHASE_UNBLOCK ? buf_view(&body)
                                                                       : slice_str(a->body),
                                   .timeout_ms = CALL_MS,
                                   .answer_max = ANSWER_MAX};
    (void)curl_call_start(a->k->curl, &o, on_answer, a);
    buf_fini(&url);
    buf_fini(&body);
}

/* --- asked --- */

/* No budget: Reeve's own decide. The alias is unique there; the hash in it makes it so. */
static void generate_write(struct jsonw *w, const struct litellm_key *key)
{
    char alias[128];
    (void)snprintf(alias, sizeof alias, "%.*s-g%llu-%.8s", SL_ARG(key->workspace_id),
                   (unsigned long long)key->generation, key->hash);
    jsonw_kstr(w, "key", key->text);
    jsonw_kstr(w, "key_alias", alias);
    jsonw_key(w, "allowed_routes");
    jsonw_array(w);
    for (size_t i = 0; i < ARRAY_LEN(allowed_routes); i++)
        jsonw_str(w, allowed_routes[i]);
    jsonw_array_end(w);
    jsonw_key(w, "metadata");
    jsonw_object(w);
    jsonw_kslice(w, "reeve_tenant", key->tenant);
    jsonw_kslice(w, "reeve_namespace", key->namespace);
    jsonw_kslice(w, "reeve_workspace", key->workspace);
    jsonw_kslice(w, "reeve_workspace_id", key->workspace_id);
    if (key->user.n > 0)
        jsonw_kslice(w, "reeve_user", key->user);
    jsonw_object_end(w);
}

static char *body_make(enum litellm_key_act what, const struct litellm_key *key)
{
    struct buf out = BUF_INIT(8192);
    struct jsonw w;
    (void)buf_reserve(&out, 4096); /* it holds a secret: no copies left behind by growing */
    jsonw_init(&w, &out);
    jsonw_object(&w);
    if (what == LITELLM_KEY_MAKE) {
        generate_write(&w, key);
    } else if (what == LITELLM_KEY_REVOKE) {
        jsonw_key(&w, "keys");
        jsonw_array(&w);
        jsonw_str(&w, key->hash);
        jsonw_array_end(&w);
    } else {
        jsonw_kstr(&w, "key", key->hash);
    }
    jsonw_object_end(&w);
    must(!out.is_full); /* names and users are bounded far below it */
    char *text = mem_strdup(buf_cstr(&out));
    buf_wipe(&out);
    return text;
}

void litellm_keys_act(struct litellm_keys *k, struct slice name, const struct config_gateway *config,
                      enum litellm_key_act act, const struct litellm_key *key, litellm_key_done_cb done,
                      void *data)
{
    struct act *a = MEM_NEW(struct act);
    a->k = k;
    a->what = act;
    a->done = done;
    a->data = data;
    (void)snprintf(a->hash, sizeof a->hash, "%.64s", key->hash);
    k->n_acts++;
    a->code = err_set(&a->err, E_CANCELLED, "%s: shutting down", paths[act]);
    if (config == NULL || config->kind != GATEWAY_LITELLM || config->admin_key.n == 0) {
        a->code = err_set(&a->err, E_UNAVAILABLE, "%s: the gateway is not configured %s", paths[act],
                          config == NULL ? "any more" : "with an `admin_key`");
        act_finish(a, a->code);
        return;
    }
    struct gate *g = gate_find(k, name);
    if (k->is_closing || g->n_waiting >= QUEUE_MAX) {
        if (!k->is_closing)
            a->code = err_set(&a->err, E_UNAVAILABLE, "%s: %d others wait", paths[act], QUEUE_MAX);
        act_finish(a, a->code);
        return;
    }
    struct buf header = BUF_INIT(16384);
    (void)buf_reserve(&header, config->admin_key.n + 64);
    (void)buf_printf(&header, "Authorization: Bearer %.*s", SL_ARG(config->admin_key));
    a->gate = g;
    a->url = mem_strndup(config->url.p, config->url.n);
    a->ca_pem = mem_strndup(config->ca_pem.n > 0 ? config->ca_pem.p : "", config->ca_pem.n);
    a->authorize = mem_strdup(buf_cstr(&header));
    a->body = body_make(act, key);
    a->text = act == LITELLM_KEY_MAKE ? mem_strdup(key->text) : NULL;
    a->until_ms = clock_mono_ms(k->loop->clock) + WAIT_MS;
    buf_wipe(&header);
    DL_APPEND(g->waiting, a);
    g->n_waiting++;
    gate_pump(k, g);
}

int litellm_keys_new(struct loop *l, struct litellm_keys **ret, struct err *err)
{
    struct curl_client *curl;
    int rc = curl_client_new(l, &curl, err);
    if (rc != 0)
        return rc;
    struct litellm_keys *k = MEM_NEW(struct litellm_keys);
    k->loop = l;
    k->curl = curl;
    *ret = k;
    return 0;
}

static void on_curl_closed(void *data)
{
    struct litellm_keys *k = data;
    k->curl = NULL;
    keys_maybe_free(k);
}

void litellm_keys_close(struct litellm_keys *k, void (*closed)(void *data), void *data)
{
    must(!k->is_closing);
    k->is_closing = true;
    k->closed = closed;
    k->closed_data = data;
    for (struct gate *g = k->gates; g != NULL; g = g->next)
        gate_pump(k, g);
    curl_client_close(k->curl, on_curl_closed, k);
}
