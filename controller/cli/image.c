/* image: reeve image build: the image that containers of agents start from.
 *
 * Happy path: a base image of the engine, or a root file system given as a folder or an archive and imported
 * first; a container made of it and never started; into that one archive with the server, the agents and a
 * user; the container committed, the image named, the container removed.
 * Failure paths: what was made on the way is removed again, whichever step fails; the name is moved last
 * and at once, so it never stands for half an image. What a killed build left is removed by a later one. */
#include "controller/cli/command.h"
#include "controller/cli/engine.h"
#include "controller/cli/image_agent.h"

#include "base/core/clock.h"
#include "base/core/id.h"
#include "base/core/mem.h"
#include "base/net/http.h"
#include "config/tenancy.h"
#include "controller/start.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define AGENT_USER     "agent"
#define AGENT_UID      1000u
#define AGENT_HOME     "home/" AGENT_USER
#define NAME_PREFIX    "reeve-image-build-"
#define LEFTOVER_AGE_S (6 * 3600)
#define TAG_DEFAULT    "reeve/agent:latest"
#define DOCKER_SOCKET  "unix:///var/run/docker.sock"

struct build {
    struct engine engine;
    const char *base, *rootfs;
    const char *name; /* of the new image, as given */
    struct slice repository, tag;
    const char *endpoint;
    char *template_image, *template_endpoint; /* owned */
    char *server;                             /* the sandbox-agent binary; owned */
    struct image_agent agents[IMAGE_AGENTS_MAX];
    size_t n_agents;
    char *image;          /* what the container is made of: an image's id; owned */
    bool is_imported;     /* by us: goes when the build fails */
    char container[64];   /* its name; "": none */
    char id[80];          /* of the image that was made */
    uint64_t image_bytes; /* its size */
};

static void progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void progress(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
}

/* --- the base --- */

static int base_find(struct build *b, struct err *err)
{
    struct engine_answer a;
    struct buf path = BUF_INIT(2048);
    (void)buf_str(&path, "/images/");
    (void)url_encode(slice_str(b->base), &path);
    (void)buf_str(&path, "/json");
    int code = engine_call(&b->engine, "GET", buf_cstr(&path), NULL, &a, err);
    buf_fini(&path);
    if (code == E_NOT_FOUND)
        return err_set(err, code, "base %s is not in the engine at unix://%s; pull or load it first", b->base,
                       b->engine.socket);
    if (code != 0)
        return err_prefix(err, "base %s", b->base);
    struct slice id = json_string(json_get(a.json, "Id")), os = json_string(json_get(a.json, "Os")),
                 architecture = json_string(json_get(a.json, "Architecture"));
    if (!slice_eq_str(os, "linux") || !slice_eq_str(architecture, "amd64"))
        code =
            err_set(err, E_INVALID, "base %s is for %.*s/%.*s; the sandbox-agent server is for linux/amd64",
                    b->base, SL_ARG(os), SL_ARG(architecture));
    else
        b->image = mem_strndup(id.p, id.n);
    engine_answer_fini(&a);
    return code;
}

/* The last line of an import's progress, {"status":"sha256:…"}; a line {"error":…} is its failure. */
static int import_result(struct slice lines, char **ret_id, struct err *err)
{
    struct slice line;
    int code = err_set(err, E_UPSTREAM, "the engine did not say which image it made");
    while (lines.n > 0) {
        struct json *j = NULL;
        (void)slice_cut(&lines, '\n', &line);
        if (json_parse(slice_trim(line), NULL, &j, NULL) != 0)
            continue;
        struct slice status = json_string(json_get(j, "status")), error = json_string(json_get(j, "error"));
        if (error.p != NULL) {
            code = err_set(err, E_UPSTREAM, "%.*s", SL_ARG(error));
            lines.n = 0;
        } else if (slice_starts(status, SL("sha256:"))) {
            mem_free(*ret_id);
            *ret_id = mem_strndup(status.p, status.n);
            code = 0;
        }
        json_free(j);
    }
    return code;
}

static int rootfs_import(struct build *b, struct err *err)
{
    struct engine_answer a;
    struct engine_body body = {.json = SLICE_NULL};
    struct stat st;
    int code = 0;
    if (stat(b->rootfs, &st) != 0)
        return err_set(err, err_from_errno(errno), "%s: %s", b->rootfs, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        body.tar = tar_new();
        code = tar_tree(body.tar, "", b->rootfs, TAR_KEEPS_OWNERS, err);
        if (code == 0)
            progress("importing %s: %" PRIu64 " MiB", b->rootfs, tar_bytes(body.tar) >> 20);
    } else {
        body.file = b->rootfs;
        progress("importing %s: %" PRIu64 " MiB", b->rootfs, (uint64_t)st.st_size >> 20);
    }
    if (code == 0)
        code = engine_call(&b->engine, "POST", "/images/create?fromSrc=-", &body, &a, err);
    tar_free(body.tar);
    if (code == 0) {
        code = import_result(buf_view(&a.body), &b->image, err);
        b->is_imported = b->image != NULL;
        engine_answer_fini(&a);
    }
    return code == 0 ? 0 : err_prefix(err, "import of %s", b->rootfs);
}

/* --- the container --- */

static int container_make(struct build *b, struct err *err)
{
    struct buf path = BUF_INIT(256), json = BUF_INIT(4096);
    struct engine_answer a;
    struct jsonw w;
    char id[ID_TEXT_MAX];
    id_new(&rnd_system, "x", id);
    (void)snprintf(b->container, sizeof b->container, NAME_PREFIX "%s", id + 2);
    (void)buf_printf(&path, "/containers/create?name=%s", b->container);
    jsonw_init(&w, &json);
    jsonw_object(&w);
    jsonw_kstr(&w, "Image", b->image);
    jsonw_key(&w, "Cmd"); /* never run; an image may have none, and there must be one */
    jsonw_array(&w);
    jsonw_str(&w, "/usr/local/bin/sandbox-agent");
    jsonw_array_end(&w);
    jsonw_key(&w, "HostConfig");
    jsonw_object(&w);
    jsonw_kstr(&w, "NetworkMode", "none");
    jsonw_object_end(&w);
    jsonw_object_end(&w);
    struct engine_body body = {.json = buf_view(&json)};
    int code = engine_call(&b->engine, "POST", buf_cstr(&path), &body, &a, err);
    if (code == 0)
        engine_answer_fini(&a);
    buf_fini(&path);
    buf_fini(&json);
    return code;
}

static void remove_quietly(struct build *b, const char *what, const char *name)
{
    struct engine_answer a;
    struct buf path = BUF_INIT(512);
    struct err err;
    (void)buf_printf(&path, "/%s/", what);
    (void)url_encode(slice_str(name), &path);
    (void)buf_str(&path, "?force=1&v=1");
    int code = engine_call(&b->engine, "DELETE", buf_cstr(&path), NULL, &a, &err);
    if (code == 0)
        engine_answer_fini(&a);
    else if (code != E_NOT_FOUND)
        progress("reeve: %s %s could not be removed: %s", what, name, err.msg);
    buf_fini(&path);
}

/* What builds that were killed left, long ago. */
static void leftovers_remove(struct build *b)
{
    struct buf path = BUF_INIT(512);
    struct engine_answer a;
    int64_t created_s, now_s = clock_wall_ms(&clock_system) / 1000;
    (void)buf_str(&path, "/containers/json?all=1&filters=");
    (void)url_encode(SL("{\"name\":[\"^/?" NAME_PREFIX "\"]}"), &path);
    int code = engine_call(&b->engine, "GET", buf_cstr(&path), NULL, &a, NULL);
    buf_fini(&path);
    if (code != 0)
        return;
    JSON_FOREACH (it, a.json) {
        char name[128];
        struct slice id = json_string(json_get(it, "Id"));
        (void)snprintf(name, sizeof name, "%.*s", SL_ARG(id));
        if (json_i64(json_get(it, "Created"), &created_s) == 0 && now_s - created_s > LEFTOVER_AGE_S)
            remove_quietly(b, "containers", name);
    }
    engine_answer_fini(&a);
}

/* --- what goes in --- */

/* A file of the image; E_NOT_FOUND when it has none, E_INVALID when it is no plain file. */
static int file_read(struct build *b, const char *file, struct buf *content, struct err *err)
{
    struct buf path = BUF_INIT(512);
    struct engine_answer a;
    struct slice text;
    (void)buf_printf(&path, "/containers/%s/archive?path=%s", b->container, file);
    int code = engine_call(&b->engine, "GET", buf_cstr(&path), NULL, &a, err);
    buf_fini(&path);
    if (code != 0)
        return code;
    code = tar_first_file(buf_view(&a.body), &text, err);
    if (code == 0)
        code = buf_slice(content, text);
    engine_answer_fini(&a);
    return code;
}

/* Whether a line of passwd or group has that third field. */
static bool has_id(struct slice text, unsigned id)
{
    struct slice line, field;
    uint64_t n;
    while (text.n > 0) {
        (void)slice_cut(&text, '\n', &line);
        for (int i = 0; i < 3; i++)
            (void)slice_cut(&line, ':', &field);
        if (slice_u64(field, &n) == 0 && n == id)
            return true;
    }
    return false;
}

/* One more line in passwd or group, where nobody has that id: programs ask who they are. */
static int account_add(struct build *b, struct tar *t, const char *file, const char *root, const char *line,
                       struct err *err)
{
    struct buf text = BUF_INIT((size_t)1024 * 1024);
    int code = file_read(b, file, &text, err);
    bool is_left_alone = code == E_INVALID; /* a link, say: who made it so knows why */
    if (code == E_NOT_FOUND)
        code = buf_str(&text, root);
    if (code == 0 && !has_id(buf_view(&text), AGENT_UID)) {
        if (text.n > 0 && text.p[text.n - 1] != '\n')
            (void)buf_byte(&text, '\n');
        (void)buf_str(&text, line);
        tar_text(t, file + 1, buf_view(&text), 0644);
    }
    buf_fini(&text);
    return code == 0 || is_left_alone ? 0 : err_prefix(err, "%s of the base", file);
}

static int shell_check(struct build *b, struct err *err)
{
    struct buf path = BUF_INIT(512);
    struct engine_answer a;
    bool needs_one = false;
    for (size_t i = 0; i < b->n_agents; i++)
        needs_one = needs_one || b->agents[i].folder != NULL;
    if (!needs_one)
        return 0;
    (void)buf_printf(&path, "/containers/%s/archive?path=/bin/sh", b->container);
    int code = engine_call(&b->engine, "HEAD", buf_cstr(&path), NULL, &a, err);
    buf_fini(&path);
    if (code == E_NOT_FOUND)
        return err_set(err, E_INVALID, "the base has no /bin/sh; agents cannot be started without");
    if (code == 0)
        engine_answer_fini(&a);
    return code;
}

static int fill(struct build *b, struct err *err)
{
    struct buf path = BUF_INIT(256);
    struct engine_answer a;
    struct tar *t = tar_new();
    int code = shell_check(b, err);
    if (code == 0)
        code = tar_file(t, "usr/local/bin/sandbox-agent", b->server, 0755, err);
    for (size_t i = 0; code == 0 && i < b->n_agents; i++)
        code = image_agent_add(&b->agents[i], t, err);
    if (code == 0)
        code = account_add(b, t, "/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n",
                           AGENT_USER ":x:1000:1000::/" AGENT_HOME ":/bin/sh\n", err);
    if (code == 0)
        code = account_add(b, t, "/etc/group", "root:x:0:\n", AGENT_USER ":x:1000:\n", err);
    if (code == 0) {
        tar_folder(t, AGENT_HOME, 0700, AGENT_UID, AGENT_UID);
        progress("copying %" PRIu64 " MiB", tar_bytes(t) >> 20);
        (void)buf_printf(&path, "/containers/%s/archive?path=/&noOverwriteDirNonDir=1", b->container);
        struct engine_body body = {.tar = t};
        code = engine_call(&b->engine, "PUT", buf_cstr(&path), &body, &a, err);
        if (code == 0)
            engine_answer_fini(&a);
        buf_fini(&path);
    }
    tar_free(t);
    return code;
}

/* --- the image --- */

static void query_add(struct buf *path, const char *name, struct slice value)
{
    (void)buf_printf(path, "&%s=", name);
    (void)url_encode(value, path);
}

/* An image of the container as it is now; not named yet. */
static int commit(struct build *b, struct err *err)
{
    struct buf path = BUF_INIT(8192), labels = BUF_INIT(2048);
    struct engine_answer a;
    (void)buf_str(&labels, "LABEL dev.reeve.agents=");
    for (size_t i = 0; i < b->n_agents; i++)
        (void)buf_printf(&labels, "%s%s", i > 0 ? "," : "", b->agents[i].name);
    (void)buf_printf(&path, "/commit?container=%s&pause=0", b->container);
    query_add(&path, "changes", SL("ENTRYPOINT [\"/usr/local/bin/sandbox-agent\"]"));
    query_add(&path, "changes", SL("CMD [\"--help\"]"));
    query_add(&path, "changes", SL("WORKDIR /" AGENT_HOME));
    query_add(&path, "changes", buf_view(&labels));
    struct engine_body body = {.json = SL("{}")};
    int code = engine_call(&b->engine, "POST", buf_cstr(&path), &body, &a, err);
    if (code == 0) {
        struct slice id = json_string(json_get(a.json, "Id"));
        (void)snprintf(b->id, sizeof b->id, "%.*s", SL_ARG(id));
        engine_answer_fini(&a);
    }
    buf_fini(&path);
    buf_fini(&labels);
    return code == 0 ? 0 : err_prefix(err, "commit");
}

static int name(struct build *b, struct err *err)
{
    struct buf path = BUF_INIT(4096);
    struct engine_answer a;
    (void)buf_printf(&path, "/images/%s/tag?repo=", b->id);
    (void)url_encode(b->repository, &path);
    query_add(&path, "tag", b->tag);
    int code = engine_call(&b->engine, "POST", buf_cstr(&path), NULL, &a, err);
    if (code == 0)
        engine_answer_fini(&a);
    buf_fini(&path);
    return code == 0 ? 0 : err_prefix(err, "image %s", b->name);
}

static void measure(struct build *b)
{
    struct buf path = BUF_INIT(512);
    struct engine_answer a;
    (void)buf_printf(&path, "/images/%s/json", b->id);
    if (engine_call(&b->engine, "GET", buf_cstr(&path), NULL, &a, NULL) == 0) {
        (void)json_u64(json_get(a.json, "Size"), &b->image_bytes); /* stays 0 */
        engine_answer_fini(&a);
    }
    buf_fini(&path);
}

static int make(struct build *b, struct err *err)
{
    int code = 0;
    for (size_t i = 0; code == 0 && i < b->n_agents; i++) {
        if (b->agents[i].folder == NULL)
            progress("agent %s", b->agents[i].name);
        code = image_agent_prepare(&b->agents[i], err);
    }
    leftovers_remove(b);
    if (code == 0)
        code = b->rootfs != NULL ? rootfs_import(b, err) : base_find(b, err);
    if (code == 0)
        code = container_make(b, err);
    if (code == 0)
        code = fill(b, err);
    if (code == 0)
        code = commit(b, err);
    if (code == 0)
        code = name(b, err);
    if (b->container[0] != '\0')
        remove_quietly(b, "containers", b->container);
    if (code != 0 && b->id[0] != '\0')
        remove_quietly(b, "images", b->id);
    if (code != 0 && b->is_imported)
        remove_quietly(b, "images", b->image);
    if (code == 0)
        measure(b);
    return code;
}

static void print_result(const struct build *b)
{
    if (!command_wants_json()) {
        (void)printf("%s  %s  %" PRIu64 " MiB\n", b->name, b->id, b->image_bytes >> 20);
        return;
    }
    struct buf out = BUF_INIT(4096);
    struct jsonw w;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kstr(&w, "image", b->name);
    jsonw_kstr(&w, "id", b->id);
    jsonw_ku64(&w, "bytes", b->image_bytes);
    jsonw_key(&w, "agents");
    jsonw_array(&w);
    for (size_t i = 0; i < b->n_agents; i++)
        jsonw_str(&w, b->agents[i].name);
    jsonw_array_end(&w);
    jsonw_object_end(&w);
    (void)printf("%s\n", buf_cstr(&out));
    buf_fini(&out);
}

/* "team/agent:1.2" in its two parts; without a tag it is "latest". What else a registry's name must be, the
 * engine says; here, before anything is fetched, only that it can be one. */
static int tag_parse(struct build *b, const char *name, struct err *err)
{
    const char *colon = strrchr(name, ':'), *slash = strrchr(name, '/');
    b->name = name;
    b->repository = slice_str(name);
    b->tag = SL("latest");
    if (colon != NULL && (slash == NULL || colon > slash)) {
        b->repository.n = (size_t)(colon - name);
        b->tag = slice_str(colon + 1);
    }
    if (b->repository.n == 0 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-/:") < b->repository.n ||
        b->tag.n == 0 ||
        b->tag.p[strspn(b->tag.p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] !=
            '\0')
        return err_set(err, E_INVALID, "--tag `%s`: expected a name in lower case, such as " TAG_DEFAULT,
                       name);
    return 0;
}

static int agents_parse(struct build *b, struct slice list, struct err *err)
{
    struct slice one;
    while (list.n > 0) {
        (void)slice_cut(&list, ',', &one);
        if (b->n_agents == IMAGE_AGENTS_MAX)
            return err_set(err, E_INVALID, "more than %d agents", IMAGE_AGENTS_MAX);
        int code = image_agent_parse(one, &b->agents[b->n_agents], err);
        if (code != 0)
            return code;
        b->n_agents++;
    }
    return 0;
}

/* What a template says, where no option says otherwise: its image's name, its agents, its engine. */
static int template_read(struct build *b, const struct tenancy *t, const char *wanted, struct err *err)
{
    const struct config_template *it = tenancy_template(t, slice_str(wanted));
    if (it == NULL)
        return err_set(err, E_NOT_FOUND, "%.*s has no template `%s`", SL_ARG(t->file), wanted);
    if (it->image.n > 0 && b->name == NULL)
        b->name = b->template_image = mem_strndup(it->image.p, it->image.n);
    for (size_t i = 0; i < it->n_providers && b->endpoint == NULL; i++)
        if (it->providers[i]->kind == PROVIDER_DOCKER)
            b->endpoint = b->template_endpoint =
                mem_strndup(it->providers[i]->endpoint.p, it->providers[i]->endpoint.n);
    for (size_t i = 0; i < it->n_agents; i++) {
        bool is_given = false; /* from a folder, say */
        for (size_t k = 0; k < b->n_agents; k++)
            is_given = is_given || slice_eq_str(it->agents[i], b->agents[k].name);
        int code = is_given ? 0 : agents_parse(b, it->agents[i], err);
        if (code != 0)
            return err_prefix(err, "template %s", wanted);
    }
    return 0;
}

static int template_apply(struct build *b, const char *wanted, struct err *err)
{
    const char *path = command_option("-c") != NULL ? command_option("-c") : "reeve.yaml";
    struct config_problems problems;
    struct tenancy *t = NULL;
    config_problems_init(&problems);
    int code = tenancy_load(path, &problems, &t);
    if (code == 0) {
        code = template_read(b, t, wanted, err);
        tenancy_unref(t);
    } else {
        struct buf out = BUF_INIT((size_t)256 * 1024);
        config_problems_print(&problems, &out);
        (void)fputs(buf_cstr(&out), stderr);
        buf_fini(&out);
        (void)err_set(err, code, "%s is not valid", path);
    }
    config_problems_fini(&problems);
    return code;
}

/* What is to be made, from the options, the template, the environment, in this order. */
static int wish_read(struct build *b, struct err *err)
{
    const char *agents = command_option("--agents"), *server = command_option("--server"),
               *template = command_option("--template");
    b->name = command_option("--tag");
    b->endpoint = command_option("--endpoint");
    b->server = server != NULL ? mem_strdup(server) : beside_binary("sandbox-agent");
    int code = agents_parse(b, agents != NULL ? slice_str(agents) : SLICE_EMPTY, err);
    if (code == 0 && template != NULL)
        code = template_apply(b, template, err);
    if (b->endpoint == NULL)
        b->endpoint = getenv("DOCKER_HOST");
    if (b->endpoint == NULL || b->endpoint[0] == '\0')
        b->endpoint = DOCKER_SOCKET;
    if (code == 0)
        code = tag_parse(b, b->name != NULL ? b->name : TAG_DEFAULT, err);
    if (code == 0 && access(b->server, R_OK) != 0)
        code = err_set(err, E_NOT_FOUND, "the sandbox-agent server %s: %s", b->server, strerror(errno));
    return code;
}

static int build(const struct command *cmd)
{
    (void)cmd;
    struct build b = {.base = command_option("--base"), .rootfs = command_option("--rootfs")};
    struct err err = {0};
    if ((b.base == NULL) == (b.rootfs == NULL))
        return command_usage_error("exactly one of --base and --rootfs says what to build on");
    if (command_option("-c") != NULL && command_option("--template") == NULL)
        return command_usage_error("-c says where the template of --template is");
    int code = wish_read(&b, &err);
    if (code == 0)
        code = engine_open(&b.engine, b.endpoint, &err);
    if (code == 0)
        code = make(&b, &err);
    if (code == 0)
        print_result(&b);
    else
        (void)fprintf(stderr, "reeve: %s\n", err.msg);
    for (size_t i = 0; i < b.n_agents; i++)
        image_agent_fini(&b.agents[i]);
    engine_close(&b.engine);
    mem_free(b.server);
    mem_free(b.image);
    mem_free(b.template_image);
    mem_free(b.template_endpoint);
    return code == 0 ? EXIT_DONE : code == E_UNAVAILABLE ? EXIT_UNREACHABLE : EXIT_REFUSED;
}

static const struct option_row build_options[] = {
    {"--base", "IMAGE", "an image that the engine has"},
    {"--rootfs", "PATH", "instead of --base: a root file system, a folder or a tar archive"},
    {"--template", "NAME", "the agents, the image's name and the engine that a template names"},
    {"-c", "FILE", "the configuration with that template; default reeve.yaml"},
    {"--tag", "NAME[:TAG]", "the new image's name; default " TAG_DEFAULT},
    {"--agents", "A,B=FOLDER", "agents to put in, fetched by npm or from a folder"},
    {"--server", "FILE", "the sandbox-agent server; default: beside the `reeve` binary"},
    {"--endpoint", "unix:///PATH", "the engine; default: DOCKER_HOST, else " DOCKER_SOCKET},
    {"--json", NULL, "the result as JSON"},
    {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"image", "build", "", "make the image that containers of agents start from", 0, 0, build_options, build},
};
const struct command_set commands_image = {rows, ARRAY_LEN(rows)};
