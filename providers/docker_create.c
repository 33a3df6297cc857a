/* docker_create: the hardened container of a sandbox, and its home volume.
 *
 * Happy path: the folder that is seen inside, the volume (there already is fine), the container. Failure
 * paths: the name is taken: E_EXISTS, and the caller looks whose it is; the image is not there: it is pulled,
 * and the caller comes again; a crash in between leaves a volume that the next attempt takes. Nothing secret
 * is in what the engine is told here. */
#include <sys/sysinfo.h>

#include "base/core/id.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "providers/docker.h"

#define SCRATCH_MAX  ((uint64_t)1 << 30) /* of a tmpfs */
#define RUN_BYTES    ((uint64_t)16 << 20)
#define BODY_MAX     65536
#define LOG_SIZE     "1m"
#define STOP_GRACE_S 3

/* --- what the engine is told --- */

static void strings_write(struct jsonw *w, const char *key, const char *const *v, size_t n)
{
    jsonw_key(w, key);
    jsonw_array(w);
    for (size_t i = 0; i < n; i++)
        jsonw_str(w, v[i]);
    jsonw_array_end(w);
}

/* Of files and core dumps init takes care: the engine may not be allowed to raise them. */
static void limits_write(struct jsonw *w, const struct sandbox_spec *s)
{
    int64_t cpus = (int64_t)s->cpus_milli, here = (int64_t)get_nprocs() * 1000;
    if (s->memory_bytes > 0) {
        jsonw_ku64(w, "Memory", s->memory_bytes);
        jsonw_ku64(w, "MemorySwap", s->memory_bytes); /* both together: no swap */
    }
    if (cpus > 0) /* the engine refuses more than there are */
        jsonw_ki64(w, "NanoCpus", (cpus < here ? cpus : here) * 1000000);
    if (s->processes > 0)
        jsonw_ku64(w, "PidsLimit", s->processes);
}

static void tmpfs_write(struct jsonw *w, const struct sandbox_spec *s, struct arena *a)
{
    uint64_t scratch =
        s->memory_bytes > 0 && s->memory_bytes / 2 < SCRATCH_MAX ? s->memory_bytes / 2 : SCRATCH_MAX;
    /* The mode of a folder that the image has stands before this one: ours by owner too. */
    const char *own = arena_printf(a, "rw,nosuid,nodev,mode=1777,uid=%d,gid=%d", DOCKER_UID, DOCKER_UID);
    const char *options = arena_printf(a, "%s,exec,size=%llu", own, (unsigned long long)scratch);
    jsonw_key(w, "Tmpfs");
    jsonw_object(w);
    jsonw_kstr(w, "/tmp", options);
    jsonw_kstr(w, "/var/tmp", options);
    jsonw_kstr(w, "/run", arena_printf(a, "%s,size=%llu", own, (unsigned long long)RUN_BYTES));
    jsonw_object_end(w);
    jsonw_ku64(w, "ShmSize", scratch);
}

static void mount_write(struct jsonw *w, const char *type, const char *source, const char *target,
                        bool is_readonly)
{
    jsonw_object(w);
    jsonw_kstr(w, "Type", type);
    jsonw_kstr(w, "Source", source);
    jsonw_kstr(w, "Target", target);
    jsonw_kbool(w, "ReadOnly", is_readonly);
    jsonw_object_end(w);
}

static void mounts_write(struct jsonw *w, const struct docker *d, const struct sandbox_spec *s,
                         struct arena *a)
{
    jsonw_key(w, "Mounts");
    jsonw_array(w);
    mount_write(w, "bind", d->init_path, HOST_INSIDE_INIT, true);
    mount_write(w, "bind", d->agent_binary, HOST_INSIDE_AGENT, true);
    mount_write(w, "bind", arena_printf(a, "%s/sandboxes/%.*s/control", d->root, SL_ARG(s->id)),
                INIT_SOCKET_FOLDER, true);
    mount_write(w, "volume", arena_printf(a, DOCKER_HOME_PREFIX "%.*s", SL_ARG(s->home_id)), SANDBOX_HOME,
                false);
    jsonw_array_end(w);
}

/* Init is silent but for why it could not begin. */
static void log_write(struct jsonw *w)
{
    jsonw_key(w, "LogConfig");
    jsonw_object(w);
    jsonw_kstr(w, "Type", "local");
    jsonw_key(w, "Config");
    jsonw_object(w);
    jsonw_kstr(w, "max-size", LOG_SIZE);
    jsonw_kstr(w, "max-file", "1");
    jsonw_kstr(w, "compress", "false");
    jsonw_object_end(w);
    jsonw_object_end(w);
}

static void host_config_write(struct jsonw *w, const struct docker *d, const struct sandbox_spec *s,
                              struct arena *a)
{
    static const char *const all[] = {"ALL"}, *const security[] = {"no-new-privileges"};
    jsonw_key(w, "HostConfig");
    jsonw_object(w);
    jsonw_kstr(w, "NetworkMode", "none");
    jsonw_kstr(w, "IpcMode", "private");
    jsonw_kstr(w, "CgroupnsMode", "private"); /* else, on older hosts, it would see the host's groups */
    jsonw_kbool(w, "ReadonlyRootfs", true);
    jsonw_kbool(w, "Privileged", false);
    jsonw_kbool(w, "Init", false); /* reeve-init is the first process, whatever the engine's default */
    jsonw_kbool(w, "AutoRemove", false);
    strings_write(w, "CapDrop", all, 1);
    strings_write(w, "SecurityOpt", security, 1); /* seccomp: the engine's own profile */
    jsonw_key(w, "RestartPolicy");
    jsonw_object(w);
    jsonw_kstr(w, "Name", "no");
    jsonw_object_end(w);
    log_write(w);
    limits_write(w, s);
    tmpfs_write(w, s, a);
    mounts_write(w, d, s, a);
    jsonw_object_end(w);
}

static void number_write(struct jsonw *w, const char *label, uint64_t v, struct arena *a)
{
    jsonw_kstr(w, label, arena_printf(a, "%llu", (unsigned long long)v));
}

static void labels_write(struct jsonw *w, const struct sandbox_spec *s, struct arena *a)
{
    const struct sandbox_labels *l = &s->labels;
    jsonw_key(w, "Labels");
    jsonw_object(w);
    jsonw_kslice(w, DOCKER_LABEL "controller", l->controller);
    jsonw_kslice(w, DOCKER_LABEL "tenant", l->tenant);
    jsonw_kslice(w, DOCKER_LABEL "namespace", l->namespace);
    jsonw_kslice(w, DOCKER_LABEL "name", l->name);
    jsonw_kslice(w, DOCKER_LABEL "workspace", l->workspace);
    jsonw_kslice(w, DOCKER_LABEL "home", s->home_id);
    number_write(w, DOCKER_LABEL "generation", l->generation, a);
    number_write(w, DOCKER_LABEL "attempt", l->attempt, a);
    number_write(w, DOCKER_LABEL "epoch", l->epoch, a);
    jsonw_object_end(w);
}

static void container_write(struct buf *out, const struct docker *d, const struct sandbox_spec *s,
                            struct arena *a)
{
    static const char *const entry[] = {HOST_INSIDE_INIT}, *const none[] = {"NONE"};
    const char *const command[] = {"run", arena_strndup(a, s->id.p, s->id.n)};
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_kslice(&w, "Image", s->image);
    strings_write(&w, "Entrypoint", entry, 1);
    strings_write(&w, "Cmd", command, 2);
    jsonw_kstr(&w, "User", arena_printf(a, "%d:%d", DOCKER_UID, DOCKER_UID));
    jsonw_kstr(&w, "WorkingDir", "/");
    jsonw_kslice(&w, "Hostname", name_is_valid(s->labels.name) ? s->labels.name : SL("sandbox"));
    jsonw_kstr(&w, "StopSignal", "SIGTERM");
    jsonw_ki64(&w, "StopTimeout", STOP_GRACE_S);
    jsonw_key(&w, "Healthcheck"); /* an image's own would run processes inside, beside init */
    jsonw_object(&w);
    strings_write(&w, "Test", none, 1);
    jsonw_object_end(&w);
    labels_write(&w, s, a);
    host_config_write(&w, d, s, a);
    jsonw_object_end(&w);
}

/* --- the steps --- */

static void on_container(struct docker_job *j)
{
    struct err err = {0};
    int status = j->code == 0 ? j->answer.status : 0;
    if (status == 201) {
        docker_job_end(j, 0, NULL);
    } else if (status == 409) {
        (void)err_set(&err, E_EXISTS, "container " DOCKER_NAME_PREFIX "%.*s exists", SL_ARG(j->id));
        docker_job_end(j, err.code, &err);
    } else if (status == 404) { /* no such image */
        (void)docker_image_want(j->d, j->spec.image, j->id, j->spec.labels.workspace, &err);
        docker_job_end(j, err.code, &err);
    } else {
        docker_job_end_refused(j);
    }
}

static void on_volume(struct docker_job *j)
{
    struct buf body = BUF_INIT(BODY_MAX);
    if (j->code != 0 || (j->answer.status != 201 && j->answer.status != 200)) {
        docker_job_end_refused(j);
        return;
    }
    container_write(&body, j->d, &j->spec, &j->arena);
    if (body.is_full) {
        (void)err_set(&j->err, E_INVALID, "the sandbox's labels or paths are too long");
        docker_job_end(j, E_INVALID, &j->err);
    } else {
        char *target =
            arena_printf(&j->arena, "/containers/create?name=" DOCKER_NAME_PREFIX "%.*s", SL_ARG(j->id));
        docker_job_call(j, "POST", target, buf_view(&body), on_container);
    }
    buf_fini(&body);
}

/* Blocks: what the container binds must be there. */
static void prepare_do(struct docker_job *j)
{
    j->code = docker_place_prepare(j->d->root, j->id, &j->err);
}

static void on_prepared(struct docker_job *j)
{
    struct buf body = BUF_INIT(BODY_MAX);
    struct jsonw w;
    if (j->code != 0 || docker_job_is_over(j)) {
        docker_job_end(j, j->code != 0 ? j->code : E_CANCELLED, &j->err);
        return;
    }
    jsonw_init(&w, &body);
    jsonw_object(&w);
    jsonw_kstr(&w, "Name", arena_printf(&j->arena, DOCKER_HOME_PREFIX "%.*s", SL_ARG(j->spec.home_id)));
    labels_write(&w, &j->spec, &j->arena);
    jsonw_object_end(&w);
    docker_job_call(j, "POST", "/volumes/create", buf_view(&body), on_volume);
    buf_fini(&body);
}

void docker_create_begin(struct docker_job *j)
{
    if (j->spec.image.n == 0) {
        (void)err_set(&j->err, E_INVALID, "the template has no `image`, which Docker needs");
        docker_job_end(j, E_INVALID, &j->err);
        return;
    }
    docker_job_work(j, prepare_do, on_prepared);
}
