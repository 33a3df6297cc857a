/* docker_reply: see docker_reply.h. */
#include "providers/docker_reply.h"

#include <string.h>

#include "base/core/clock.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "providers/host.h"

#define LIST_BYTES_MAX ((size_t)64 << 20)
#define LIST_NODES_MAX ((size_t)4 << 20)
#define TEXT_MAX       300     /* of what is shown of a foreign text */
#define PID_MAX        4194304 /* the kernel's own limit */
#define ENV_MAX        1024
#define FRAME_HEAD     8

static const struct json_limits limits = {.bytes_max = LIST_BYTES_MAX, .nodes_max = LIST_NODES_MAX};

/* One line of plain ASCII, without blanks at the ends. */
static struct slice shown(struct slice s, struct arena *a)
{
    s = slice_trim(s);
    if (s.n > TEXT_MAX)
        s.n = TEXT_MAX;
    char *text = arena_strndup(a, s.p != NULL ? s.p : "", s.n);
    for (char *c = text; c < text + s.n; c++)
        if (*c < ' ' || *c > '~')
            *c = *c == '\n' || *c == '\r' || *c == '\t' ? ' ' : '?';
    return slice_trim(slice_of(text, s.n));
}

static int parse(struct slice body, const char *what, struct json **ret, struct err *err)
{
    struct err why = {0};
    if (json_parse(body, &limits, ret, &why) == 0 && json_type(*ret) == JSON_OBJECT)
        return 0;
    if (why.code == 0) {
        json_free(*ret);
        *ret = NULL;
    }
    return err_set(err, E_UPSTREAM, "the Docker engine's answer (%s) is not understood: %s", what,
                   why.code != 0 ? why.msg : "expected an object");
}

static int incomplete(struct err *err, const char *what, const char *member)
{
    return err_set(err, E_UPSTREAM, "the Docker engine's answer (%s) is not understood: `%s`", what, member);
}

/* --- containers --- */

static struct slice label(const struct json *labels, const char *name, struct arena *a)
{
    struct slice s = json_string(json_get(labels, arena_printf(a, DOCKER_LABEL "%s", name)));
    return s.p != NULL ? arena_slice(a, s) : SLICE_EMPTY;
}

static uint64_t label_number(const struct json *labels, const char *name, struct arena *a)
{
    uint64_t v = 0;
    return slice_u64(label(labels, name, a), &v) == 0 ? v : 0;
}

static void labels_take(const struct json *labels, struct arena *a, struct sandbox_labels *ret)
{
    *ret = (struct sandbox_labels){.controller = label(labels, "controller", a),
                                   .tenant = label(labels, "tenant", a),
                                   .namespace = label(labels, "namespace", a),
                                   .name = label(labels, "name", a),
                                   .workspace = label(labels, "workspace", a),
                                   .generation = label_number(labels, "generation", a),
                                   .attempt = label_number(labels, "attempt", a),
                                   .epoch = label_number(labels, "epoch", a)};
}

/* "/reeve-<id>" to the id. */
static struct slice name_take(struct slice name, struct arena *a)
{
    struct slice prefix = SL("/" DOCKER_NAME_PREFIX);
    if (name.p == NULL || !slice_starts(name, prefix))
        return SLICE_EMPTY;
    struct slice id = slice_from(name, prefix.n);
    return host_id_is_valid(id) ? arena_slice(a, id) : SLICE_EMPTY;
}

static bool engine_id_is_valid(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    return s.n >= 12 && s.n <= 128;
}

static int status_take(struct slice s, enum docker_status *ret)
{
    static const struct {
        const char *text;
        enum docker_status status;
    } all[] = {{"created", DOCKER_CREATED},    {"running", DOCKER_RUNNING}, {"paused", DOCKER_PAUSED},
               {"restarting", DOCKER_RUNNING}, {"exited", DOCKER_EXITED},   {"dead", DOCKER_EXITED},
               {"removing", DOCKER_REMOVING}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (slice_eq_str(s, all[i].text)) {
            *ret = all[i].status;
            return 0;
        }
    return -1;
}

static void mounts_take(const struct json *mounts, struct arena *a, struct docker_container *c)
{
    const struct {
        struct slice target, *source;
    } all[] = {{SL(SANDBOX_HOME), &c->home_source},
               {SL(HOST_INSIDE_INIT), &c->init_source},
               {SL(HOST_INSIDE_AGENT), &c->agent_source},
               {SL(INIT_SOCKET_FOLDER), &c->control_source}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        *all[i].source = SLICE_EMPTY;
    JSON_FOREACH (m, mounts) {
        struct slice source = json_string(json_get(m, "Source")),
                     target = json_string(json_get(m, "Destination"));
        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            if (slice_eq(target, all[i].target) && source.n > 0 && source.p[0] == '/')
                *all[i].source = arena_slice(a, source);
    }
}

static void env_take(const struct json *env, struct arena *a, struct docker_container *c)
{
    size_t n = json_count(env);
    c->env = arena_alloc(a, (n + 1) * sizeof(*c->env));
    JSON_FOREACH (e, env)
        if (json_type(e) == JSON_STRING && c->n_env < ENV_MAX)
            c->env[c->n_env++] = arena_slice(a, json_string(e));
}

static int inspect_take(const struct json *root, struct arena *a, struct docker_container *c, struct err *err)
{
    const struct json *state = json_get(root, "State"), *config = json_get(root, "Config");
    struct slice id = json_string(json_get(root, "Id"));
    int64_t pid = 0;
    if (!engine_id_is_valid(id))
        return incomplete(err, "inspect", "Id");
    if (status_take(json_string(json_get(state, "Status")), &c->status) != 0)
        return incomplete(err, "inspect", "State.Status");
    if (json_i64(json_get(state, "Pid"), &pid) != 0 || pid < 0 || pid > PID_MAX)
        return incomplete(err, "inspect", "State.Pid");
    c->id = arena_slice(a, id);
    c->pid = c->status == DOCKER_RUNNING || c->status == DOCKER_PAUSED ? (pid_t)pid : 0;
    c->name = name_take(json_string(json_get(root, "Name")), a);
    c->is_oom_killed = json_is_true(json_get(state, "OOMKilled"));
    (void)json_i64(json_get(state, "ExitCode"), &c->exit_code); /* absent: 0 */
    c->error = shown(json_string(json_get(state, "Error")), a);
    (void)time_parse(json_string(json_get(root, "Created")), &c->created_at_ms); /* 0 when it is none */
    (void)json_u64(json_get(json_get(root, "HostConfig"), "Memory"), &c->memory_bytes);
    labels_take(json_get(config, "Labels"), a, &c->labels);
    mounts_take(json_get(root, "Mounts"), a, c);
    env_take(json_get(config, "Env"), a, c);
    return 0;
}

int docker_inspect_parse(struct slice body, struct arena *a, struct docker_container *ret, struct err *err)
{
    struct json *root = NULL;
    struct docker_container c = {.error = SLICE_EMPTY, .name = SLICE_EMPTY};
    int rc = parse(body, "inspect", &root, err);
    if (rc == 0)
        rc = inspect_take(root, a, &c, err);
    if (rc == 0)
        *ret = c;
    json_free(root);
    return rc;
}

static int item_take(const struct json *item, struct arena *a, struct docker_container *c, struct err *err)
{
    struct slice id = json_string(json_get(item, "Id"));
    int64_t created = 0;
    if (!engine_id_is_valid(id))
        return incomplete(err, "list", "Id");
    if (status_take(json_string(json_get(item, "State")), &c->status) != 0)
        return incomplete(err, "list", "State");
    c->id = arena_slice(a, id);
    c->name = c->error = SLICE_EMPTY;
    mounts_take(NULL, a, c);
    JSON_FOREACH (n, json_get(item, "Names"))
        if (c->name.n == 0)
            c->name = name_take(json_string(n), a);
    if (json_i64(json_get(item, "Created"), &created) == 0 && created > 0 && created < INT64_MAX / 1000)
        c->created_at_ms = created * 1000;
    labels_take(json_get(item, "Labels"), a, &c->labels);
    return 0;
}

int docker_list_parse(struct slice body, struct arena *a, struct docker_container **ret, size_t *ret_n,
                      struct err *err)
{
    struct json *root = NULL;
    struct err why = {0};
    size_t n = 0;
    int rc = 0;
    if (json_parse(body, &limits, &root, &why) != 0 || json_type(root) != JSON_ARRAY) {
        json_free(root);
        return err_set(err, E_UPSTREAM, "the Docker engine's list is not understood: %s",
                       why.code != 0 ? why.msg : "expected an array");
    }
    struct docker_container *items = arena_zalloc(a, (json_count(root) + 1) * sizeof(*items));
    JSON_FOREACH (item, root) {
        struct docker_container c = {0};
        rc = item_take(item, a, &c, err);
        if (rc != 0)
            break;
        if (c.name.n > 0 && c.labels.controller.n > 0 && c.labels.workspace.n > 0)
            items[n++] = c;
    }
    json_free(root);
    if (rc == 0) {
        *ret = items;
        *ret_n = n;
    }
    return rc;
}

/* --- engine --- */

/* "1.41" to 41. */
static int minor_take(struct slice s, unsigned *ret)
{
    uint64_t v;
    if (s.p == NULL || !slice_starts(s, SL("1.")) || slice_u64(slice_from(s, 2), &v) != 0 || v > 10000)
        return -1;
    *ret = (unsigned)v;
    return 0;
}

int docker_version_parse(struct slice body, unsigned *ret_minor, struct err *err)
{
    struct json *root = NULL;
    unsigned max = 0, min = 0;
    int rc = parse(body, "version", &root, err);
    if (rc == 0 && minor_take(json_string(json_get(root, "ApiVersion")), &max) != 0)
        rc = incomplete(err, "version", "ApiVersion");
    if (rc == 0 && minor_take(json_string(json_get(root, "MinAPIVersion")), &min) != 0)
        min = 0; /* not said: no lower end */
    json_free(root);
    if (rc == 0 && max < DOCKER_API_MINOR_MIN)
        rc = err_set(err, E_UNAVAILABLE,
                     "the Docker engine speaks API versions up to 1.%u: 1.%d or newer is needed", max,
                     DOCKER_API_MINOR_MIN);
    if (rc == 0 && min > DOCKER_API_MINOR_MAX)
        rc = err_set(err, E_UNAVAILABLE,
                     "the Docker engine speaks API versions from 1.%u on: at most 1.%d is known here", min,
                     DOCKER_API_MINOR_MAX);
    if (rc == 0)
        *ret_minor = max < DOCKER_API_MINOR_MAX ? max : DOCKER_API_MINOR_MAX;
    return rc;
}

int docker_info_parse(struct slice body, char ret_note[256], struct err *err)
{
    static const struct {
        const char *member, *note;
    } all[] = {{"MemoryLimit", "memory"},
               {"SwapLimit", "swap"},
               {"CpuCfsQuota", "cpus"},
               {"PidsLimit", "processes"}};
    struct json *root = NULL;
    struct buf note = BUF_INIT(255);
    int rc = parse(body, "info", &root, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        const char *member = all[i].member;
        const struct json *is = json_get(root, member);
        if (is == NULL && slice_eq_str(SL("CpuCfsQuota"), member))
            is = json_get(root, "CPUCfsQuota"); /* as newer engines write it */
        if (json_type(is) == JSON_FALSE)
            (void)buf_printf(&note, "%s%s", note.n > 0 ? ", " : "", all[i].note); /* fits */
    }
    if (note.n > 0)
        (void)buf_str(&note, ": the engine's kernel does not limit them; ");
    (void)buf_str(&note, "disk: not limited");
    memcpy(ret_note, buf_cstr(&note), note.n + 1);
    buf_fini(&note);
    json_free(root);
    return 0;
}

int docker_volume_parse(struct slice body, struct slice home_id, bool *ret_is_ours, struct err *err)
{
    struct json *root = NULL;
    int rc = parse(body, "volume", &root, err);
    if (rc == 0)
        *ret_is_ours =
            slice_eq(json_string(json_get(json_get(root, "Labels"), DOCKER_LABEL "home")), home_id);
    json_free(root);
    return rc;
}

/* --- streams --- */

int docker_event_parse(struct slice line, struct arena *a, struct docker_event *ret, struct err *err)
{
    struct json *root = NULL;
    int rc = parse(line, "event", &root, err);
    if (rc != 0)
        return rc;
    const struct json *attributes = json_get(json_get(root, "Actor"), "Attributes");
    struct slice action = json_string(json_get(root, "Action")),
                 name = json_string(json_get(attributes, "name"));
    struct slice id = SLICE_EMPTY;
    if (name.n > 0) /* without the list's leading '/' */
        id = name_take(slice_str(arena_printf(a, "/%.*s", SL_ARG(name))), a);
    if (action.n == 0) {
        rc = incomplete(err, "event", "Action");
    } else if (id.n == 0) {
        rc = E_NOT_FOUND;
    } else {
        ret->action = arena_slice(a, action);
        ret->sandbox = id;
        ret->workspace = label(attributes, "workspace", a);
    }
    json_free(root);
    return rc;
}

int docker_progress_parse(struct slice line, struct arena *a, struct docker_progress *ret, struct err *err)
{
    struct json *root = NULL;
    int rc = parse(line, "pull", &root, err);
    if (rc != 0)
        return rc;
    const struct json *detail = json_get(root, "progressDetail");
    struct docker_progress p = {.current = 0};
    p.layer = shown(json_string(json_get(root, "id")), a);
    p.status = shown(json_string(json_get(root, "status")), a);
    p.error = shown(json_string(json_get(root, "error")), a);
    if (p.error.n == 0)
        p.error = shown(json_string(json_get(json_get(root, "errorDetail"), "message")), a);
    if (json_u64(json_get(detail, "current"), &p.current) != 0)
        p.current = 0;
    if (json_u64(json_get(detail, "total"), &p.total) != 0)
        p.total = 0;
    *ret = p;
    json_free(root);
    return 0;
}

/* --- texts --- */

struct slice docker_message(struct slice body, struct arena *a)
{
    struct json *root = NULL;
    struct slice text = SLICE_EMPTY;
    if (json_parse(body, &limits, &root, NULL) == 0)
        text = shown(json_string(json_get(root, "message")), a);
    else
        text = shown(body, a);
    json_free(root);
    return text.n > 0 ? text : SL("no reason given");
}

struct slice docker_logs_text(struct slice body, struct arena *a)
{
    struct buf all = BUF_INIT(65536);
    while (body.n >= FRAME_HEAD) {
        const unsigned char *h = (const unsigned char *)body.p;
        size_t n = (size_t)h[4] << 24 | (size_t)h[5] << 16 | (size_t)h[6] << 8 | h[7];
        body = slice_from(body, FRAME_HEAD);
        if (n > body.n)
            n = body.n;
        if (buf_slice(&all, slice_of(body.p, n)) != 0)
            break;
        body = slice_from(body, n);
    }
    struct slice text = buf_view(&all);
    struct slice ret = shown(text.n > TEXT_MAX ? slice_from(text, text.n - TEXT_MAX) : text, a);
    buf_fini(&all);
    return ret;
}
