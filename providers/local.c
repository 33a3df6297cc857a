/* local: sandboxes under bubblewrap on this host.
 *
 * Happy path: open checks the machine and takes the root's lock; each call becomes a job on the loop, its
 * file work runs on libuv's threads. What a sandbox is stands in its folder, whether it runs in the kernel (a
 * lock that its init holds): nothing is decided from memory, so a controller that was killed finds everything
 * again. Failure paths: what the machine lacks is said at open; a root in use by another controller is
 * refused; a call that outlasts its deadline is answered E_UNKNOWN_OUTCOME and finished in the background. */
#include "providers/local_run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utlist.h>

#include "base/core/log.h"
#include "base/core/mem.h"

#define UID_COUNT_MAX 1000000u

static struct local *of(struct provider *p)
{
    return (struct local *)(void *)((char *)p - offsetof(struct local, p));
}

static const struct provider_caps *op_caps(struct provider *p)
{
    return &of(p)->caps;
}

/* --- create --- */

static void labels_copy(struct arena *a, const struct sandbox_labels *from, struct sandbox_labels *to)
{
    *to = *from;
    to->controller = arena_slice(a, from->controller);
    to->tenant = arena_slice(a, from->tenant);
    to->namespace = arena_slice(a, from->namespace);
    to->name = arena_slice(a, from->name);
    to->workspace = arena_slice(a, from->workspace);
}

/* Blocks. On return j->uid is the home's, 0 when there is no home. */
static void create_do(struct local_job *j)
{
    const struct local_place *w = &j->l->place;
    uid_t uid = j->uid;
    j->uid = 0;
    j->code = local_home_ensure(w, j->record.home_id, uid, &j->uid, &j->err);
    if (j->code == 0)
        j->code = local_sandbox_create(w, &j->record, &j->err);
    else if (local_home_uid(w, j->record.home_id, &j->uid, NULL) != 0)
        j->uid = 0;
}

static void create_done(struct local_job *j)
{
    if (j->l->place.is_root && j->uid != j->uid_taken)
        local_uid_give(&j->l->uids, j->uid_taken); /* the home had its own */
    local_job_end(j, j->code, &j->err);
}

static void create_begin(struct local_job *j)
{
    struct local *l = j->l;
    if (l->place.is_root) {
        int code = local_uid_take(&l->uids, &j->uid_taken, &j->err);
        if (code != 0) {
            local_job_end(j, code, &j->err);
            return;
        }
    } else {
        j->uid_taken = l->place.user;
    }
    j->uid = j->uid_taken;
    j->record.created_at_ms = clock_wall_ms(l->loop->clock);
    local_job_work(j, create_do, create_done);
}

/* Limits beyond what the kernel's files take are no limits; a negative one cannot be. */
static int spec_take(struct local_job *j, const struct sandbox_spec *s, struct err *err)
{
    struct local_record *r = &j->record;
    if (!host_id_is_valid(s->home_id))
        return err_set(err, E_INVALID, "home '%.*s' is not an id",
                       (int)(s->home_id.n < 200 ? s->home_id.n : 200), s->home_id.p);
    if (s->cpus_milli < 0 || s->cpus_milli > INT64_MAX || s->memory_bytes > INT64_MAX ||
        s->processes > INT32_MAX)
        return err_set(err, E_INVALID, "resources out of range");
    r->id = j->id;
    r->home_id = arena_slice(&j->arena, s->home_id);
    labels_copy(&j->arena, &s->labels, &r->labels);
    r->cpus_milli = (uint64_t)s->cpus_milli;
    r->memory_bytes = s->memory_bytes;
    r->disk_bytes = s->disk_bytes;
    r->processes = s->processes;
    r->wish = LOCAL_CREATED;
    return 0;
}

static void op_create(struct provider *p, const struct sandbox_spec *spec, int64_t timeout_ms,
                      provider_done_cb done, void *data)
{
    struct local_job *j = local_job_new(of(p), JOB_CREATE, "", spec->id, timeout_ms, create_begin, data);
    j->cb.done = done;
    if (j->code == 0)
        j->code = spec_take(j, spec, &j->err);
    local_job_submit(j);
}

/* --- describe, list --- */

static enum sandbox_state state_of(const struct local_record *r, const struct local_life *life)
{
    if (life->is_held)
        return SANDBOX_RUNNING;
    return r->wish == LOCAL_CREATED     ? SANDBOX_CREATED
           : r->wish == LOCAL_SUSPENDED ? SANDBOX_SUSPENDED
                                        : SANDBOX_EXITED;
}

/* Blocks: record and life of one sandbox as an answer. */
static int info_read(struct local_job *j, struct slice id, struct sandbox_info *ret)
{
    const struct local_place *w = &j->l->place;
    struct local_record r = {0};
    struct local_life life;
    int code = local_sandbox_read(w, id, &j->arena, &r, &j->err);
    if (code == 0)
        code = local_life_probe(w, id, &life, &j->err);
    if (code != 0)
        return code;
    *ret = (struct sandbox_info){.id = r.id,
                                 .labels = r.labels,
                                 .state = state_of(&r, &life),
                                 .reason = SLICE_EMPTY,
                                 .created_at_ms = r.created_at_ms};
    if (ret->state == SANDBOX_EXITED)
        ret->reason = local_limits_oom_kills(local_sandbox_folder(w, id, &j->arena)) > 0
                          ? SL("its processes ended, some of them killed for want of memory")
                          : SL("its processes ended");
    return 0;
}

/* Blocks. */
static void describe_do(struct local_job *j)
{
    j->code = info_read(j, j->id, &j->info);
    if (j->code != E_NOT_FOUND)
        return;
    j->code = 0;
    j->info = (struct sandbox_info){.id = j->id, .state = SANDBOX_ABSENT, .reason = SLICE_EMPTY};
    j->info.labels =
        (struct sandbox_labels){SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, SLICE_EMPTY, 0, 0, 0};
}

static void describe_done(struct local_job *j)
{
    const struct local_entry *e = j->e;
    if (j->code == 0 && j->info.state == SANDBOX_RUNNING && e->reach.link != NULL &&
        link_is_up(e->reach.link) && link_state_last(e->reach.link)->server == INIT_SERVER_WAITING)
        j->info.reason = host_server_reason(link_state_last(e->reach.link), &j->arena);
    local_job_end(j, j->code, &j->err);
}

static void describe_begin(struct local_job *j)
{
    local_job_work(j, describe_do, describe_done);
}

static void op_describe(struct provider *p, struct slice id, int64_t timeout_ms, provider_info_cb done,
                        void *data)
{
    struct local_job *j = local_job_new(of(p), JOB_DESCRIBE, "", id, timeout_ms, describe_begin, data);
    j->cb.info = done;
    local_job_submit(j);
}

/* Blocks. A record that cannot be read is no reason to hide the others; its describe says what is wrong. */
static void list_do(struct local_job *j)
{
    struct slice *ids;
    size_t n;
    j->code = local_sandbox_ids(&j->l->place, &j->arena, &ids, &n, &j->err);
    if (j->code != 0)
        return;
    j->items = arena_alloc(&j->arena, (n + 1) * sizeof(*j->items));
    for (size_t i = 0; i < n && !atomic_load(j->l->place.stop); i++) {
        struct sandbox_info info;
        if (info_read(j, ids[i], &info) == 0 && slice_eq(info.labels.controller, j->controller))
            j->items[j->n_items++] = info;
    }
}

static void list_done(struct local_job *j)
{
    local_job_end(j, j->code, &j->err);
}

static void list_begin(struct local_job *j)
{
    local_job_work(j, list_do, list_done);
}

static void op_list(struct provider *p, struct slice controller, int64_t timeout_ms, provider_list_cb done,
                    void *data)
{
    struct local_job *j = local_job_new(of(p), JOB_LIST, NULL, SLICE_EMPTY, timeout_ms, list_begin, data);
    j->cb.list = done;
    j->controller = arena_slice(&j->arena, controller);
    local_job_submit(j);
}

/* --- start, suspend, resume, destroy --- */

static void op_start(struct provider *p, struct slice id, const struct sandbox_server *server,
                     int64_t timeout_ms, provider_done_cb done, void *data)
{
    struct local_job *j = local_job_new(of(p), JOB_START, "", id, timeout_ms, local_start_begin, data);
    j->cb.done = done;
    if (j->code == 0)
        j->code = host_server_copy(&j->server, &j->arena, server, &j->err);
    if (j->code == 0)
        host_server_defaults(&j->server, &j->arena, NULL, 0);
    local_job_submit(j);
}

static void stop_submit(struct provider *p, enum local_job_kind kind, struct slice id, int64_t timeout_ms,
                        provider_done_cb done, void *data)
{
    struct local_job *j = local_job_new(of(p), kind, "", id, timeout_ms, local_stop_begin, data);
    j->cb.done = done;
    local_job_submit(j);
}

static void op_suspend(struct provider *p, struct slice id, enum suspend_kind kind, int64_t timeout_ms,
                       provider_done_cb done, void *data)
{
    (void)kind; /* as suspend_keeps_memory says */
    stop_submit(p, JOB_SUSPEND, id, timeout_ms, done, data);
}

static void op_destroy(struct provider *p, struct slice id, int64_t timeout_ms, provider_done_cb done,
                       void *data)
{
    stop_submit(p, JOB_DESTROY, id, timeout_ms, done, data);
}

/* --- homes --- */

/* Blocks: may it go? Retires it. */
static void home_retire_do(struct local_job *j)
{
    const struct local_place *w = &j->l->place;
    struct slice *ids;
    size_t n;
    j->code = local_sandbox_ids(w, &j->arena, &ids, &n, &j->err);
    for (size_t i = 0; i < n && j->code == 0; i++) {
        struct local_record r;
        struct local_life life;
        if (atomic_load(w->stop)) /* with very many sandboxes the search takes a while */
            j->code = err_set(&j->err, E_CANCELLED, "the provider is being closed");
        else if (local_sandbox_read(w, ids[i], &j->arena, &r, NULL) == 0 && slice_eq(r.home_id, j->id) &&
                 local_life_probe(w, ids[i], &life, NULL) == 0 && life.is_held)
            j->code = err_set(&j->err, E_BUSY, "home %.*s is in use by sandbox %.*s", SL_ARG(j->id),
                              SL_ARG(ids[i]));
    }
    if (j->code == 0)
        j->code = local_home_retire(w, j->id, j->retired, &j->uid, &j->err);
}

/* Blocks. */
static void home_clear_do(struct local_job *j)
{
    j->code = local_home_clear(&j->l->place, j->retired, &j->err);
}

static void home_cleared(struct local_job *j)
{
    if (j->code == 0 && j->l->place.is_root)
        local_uid_give(&j->l->uids, j->uid);
    else if (j->code != 0 && j->code != E_CANCELLED)
        log_warn("home.not_cleared", LF_STR("reason", j->err.msg)); /* the next start tries again */
    local_job_end(j, 0, NULL);
}

static void home_retired(struct local_job *j)
{
    if (j->code != 0) {
        local_job_end(j, j->code == E_NOT_FOUND ? 0 : j->code, &j->err);
        return;
    }
    local_job_answer(j, 0, NULL); /* it does not exist any more; removing its files may take long */
    local_job_work(j, home_clear_do, home_cleared);
}

static void home_begin(struct local_job *j)
{
    local_job_work(j, home_retire_do, home_retired);
}

static void op_destroy_home(struct provider *p, struct slice home_id, int64_t timeout_ms,
                            provider_done_cb done, void *data)
{
    struct local_job *j =
        local_job_new(of(p), JOB_DESTROY_HOME, "home:", home_id, timeout_ms, home_begin, data);
    j->cb.done = done;
    local_job_submit(j);
}

/* --- usage --- */

/* Blocks. */
static void usage_do(struct local_job *j)
{
    const struct local_place *w = &j->l->place;
    struct local_life life;
    j->code = local_life_probe(w, j->id, &life, &j->err);
    if (j->code == 0 && !life.is_held)
        j->code = err_set(&j->err, E_GONE, "sandbox %.*s does not run", SL_ARG(j->id));
    if (j->code == 0)
        j->code = local_limits_usage(local_sandbox_folder(w, j->id, &j->arena), &j->usage, &j->err);
}

static void usage_done(struct local_job *j)
{
    local_job_end(j, j->code, &j->err);
}

static void usage_begin(struct local_job *j)
{
    local_job_work(j, usage_do, usage_done);
}

static void op_usage(struct provider *p, struct slice id, int64_t timeout_ms, provider_usage_cb done,
                     void *data)
{
    struct local_job *j = local_job_new(of(p), JOB_USAGE, "", id, timeout_ms, usage_begin, data);
    j->cb.usage = done;
    local_job_submit(j);
}

/* --- connectors --- */

static struct connector *op_connector(struct provider *p, struct slice id, uint16_t port)
{
    return reach_connector_new(&local_entry_get(of(p), "", id)->reach, port);
}

static void op_connector_release(struct provider *p, struct connector *c)
{
    (void)p;
    reach_connector_release(c);
}

/* --- open, close --- */

static void local_free(struct local *l)
{
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    local_uids_fini(&l->uids);
    arena_fini(&l->leftovers_arena);
    local_limits_free(l->limits);
    mem_free(l->place.root);
    mem_free(l->place.init_path);
    mem_free(l->place.agent_binary);
    mem_free(l->place.bwrap);
    mem_free(l->name);
    mem_free(l);
}

static void on_all_closed(void *data)
{
    struct local *l = data;
    void (*closed)(void *) = l->closed;
    void *closed_data = l->closed_data;
    local_free(l);
    if (closed != NULL)
        closed(closed_data);
}

void local_maybe_closed(struct local *l)
{
    if (!l->is_closing || l->jobs != NULL || l->entries != NULL || l->closed_once)
        return;
    l->closed_once = true;
    loop_defer(l->loop, on_all_closed, l);
}

static void op_close(struct provider *p, void (*closed)(void *data), void *data)
{
    struct local *l = of(p);
    struct local_entry *e, *next;
    must(!l->is_closing);
    l->is_closing = true;
    l->closed = closed;
    l->closed_data = data;
    atomic_store(&l->stop, true);
    local_jobs_cancel(l);
    local_outers_close(l);
    HASH_ITER (hh, l->entries, e, next) {
        local_entry_down(e);
        local_entry_maybe_free(e);
    }
    local_maybe_closed(l);
}

static const struct provider_ops local_ops = {.caps = op_caps,
                                              .create = op_create,
                                              .describe = op_describe,
                                              .list = op_list,
                                              .start = op_start,
                                              .suspend = op_suspend,
                                              .resume = op_start,
                                              .destroy = op_destroy,
                                              .destroy_home = op_destroy_home,
                                              .usage = op_usage,
                                              .connector = op_connector,
                                              .connector_release = op_connector_release,
                                              .close = op_close};

/* Blocks. */
static void sweep_do(struct local_job *j)
{
    const struct local_place *w = &j->l->place;
    for (size_t i = 0; i < j->l->n_leftovers && !atomic_load(w->stop);
         i++) { /* what stays waits for the next start */
        struct slice name = j->l->leftovers[i];
        if (slice_starts(name, SL("homes/")))
            (void)local_home_clear(w, name.p + sizeof("homes/") - 1, NULL);
        else
            (void)local_tree_remove(w->root, name.p, w->stop, NULL);
    }
}

static void sweep_done(struct local_job *j)
{
    local_job_end(j, 0, NULL);
}

static void sweep_begin(struct local_job *j)
{
    local_job_work(j, sweep_do, sweep_done);
}

static int options_check(const struct local_options *o, struct err *err)
{
    if (o->root == NULL || o->root[0] != '/' || o->init_path == NULL || o->agent_binary == NULL)
        return err_set(err, E_INVALID, "root must be an absolute path, init and server must be given");
    if (geteuid() == 0 && (o->uid_first < 1000 || o->uid_count == 0 || o->uid_count > UID_COUNT_MAX ||
                           o->uid_first > UINT32_MAX - 1 - o->uid_count))
        return err_set(
            err, E_INVALID,
            "as root, sandboxes need a range of uids of their own: first at least 1000, count 1 to %u",
            UID_COUNT_MAX);
    return 0;
}

static char *path_absolute(const char *path)
{
    char *real = realpath(path, NULL); /* bubblewrap runs in another folder */
    char *ret = mem_strdup(real != NULL ? real : path);
    free(real);
    return ret;
}

static int local_setup(struct local *l, const struct local_options *o, struct err *err)
{
    struct local_place *w = &l->place;
    int rc = local_folders_make(o->root, err);
    if (rc == 0) {
        w->root = path_absolute(o->root);
        rc = host_root_lock(w->root, &l->lock_fd, err);
    }
    if (rc == 0)
        rc = local_machine_check(w, &w->bwrap, err);
    if (rc == 0 && w->is_root)
        rc = local_uids_load(w, o->uid_first, o->uid_count, &l->uids, err);
    if (rc == 0)
        rc = local_leftovers_list(w, &l->leftovers_arena, &l->leftovers, &l->n_leftovers, err);
    if (rc == 0)
        l->limits = local_limits_new(w);
    return rc;
}

int provider_local_open(struct loop *loop, const struct local_options *o, struct provider **ret,
                        struct err *err)
{
    int rc = options_check(o, err);
    if (rc != 0)
        return err_prefix(err, "provider %.*s", SL_ARG(o->name));
    struct local *l = MEM_NEW(struct local);
    l->loop = loop;
    l->lock_fd = -1;
    l->name = mem_strndup(o->name.p, o->name.n);
    l->place.is_root = geteuid() == 0;
    l->place.user = geteuid();
    l->place.stop = &l->stop;
    l->place.init_path = path_absolute(o->init_path);
    l->place.agent_binary = path_absolute(o->agent_binary);
    rc = local_setup(l, o, err);
    if (rc != 0) {
        local_free(l);
        return err_prefix(err, "provider %.*s", SL_ARG(o->name));
    }
    l->p.ops = &local_ops;
    l->p.name = slice_str(l->name);
    l->caps = (struct provider_caps){.has_client_name = true,
                                     .suspend_keeps_memory = false,
                                     .is_list_consistent = true,
                                     .is_sealed = true,
                                     .outlives_controller = true,
                                     .limits_note = local_limits_note(l->limits)};
    local_job_submit(local_job_new(l, JOB_SWEEP, NULL, SLICE_EMPTY, -1, sweep_begin, NULL));
    *ret = &l->p;
    return 0;
}
