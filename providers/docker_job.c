/* docker_job: the queue of calls, their deadlines and their one answer.
 *
 * Happy path: begin, some steps, docker_job_end. Failure paths: at the deadline the call to the engine that
 * is under way is given up and the job is answered; what runs on a thread ends first. The engine goes on with
 * what it was told, and does one thing after the other for each container: the next job sees what came of it.
 */
#include <utlist.h>

#include "base/core/mem.h"
#include "providers/docker.h"

static int timeout_code(const struct docker_job *j)
{
    bool only_looks =
        j->kind == DOCKER_JOB_DESCRIBE || j->kind == DOCKER_JOB_LIST || j->kind == DOCKER_JOB_USAGE;
    return only_looks || !j->is_begun ? E_TIMEOUT : E_UNKNOWN_OUTCOME;
}

static void on_handle_closed(void *data)
{
    struct docker_job *j = data;
    struct docker *d = j->d;
    if (--j->n_handles > 0)
        return;
    host_server_wipe(&j->server);
    arena_fini(&j->arena);
    DL_DELETE(d->jobs, j);
    d->n_jobs--;
    mem_free(j);
    docker_maybe_closed(d);
}

static void job_answer(struct docker_job *j, int code, const struct err *err)
{
    if (j->is_answered)
        return;
    j->is_answered = true;
    timer_stop(&j->deadline);
    switch (j->kind) {
    case DOCKER_JOB_DESCRIBE:
        j->cb.info(code, code == 0 ? &j->info : NULL, err, j->data);
        break;
    case DOCKER_JOB_LIST:
        j->cb.list(code, code == 0 ? j->items : NULL, code == 0 ? j->n_items : 0, err, j->data);
        break;
    case DOCKER_JOB_USAGE:
        j->cb.usage(code, code == 0 ? &j->usage : NULL, err, j->data);
        break;
    default:
        j->cb.done(code, err, j->data);
        break;
    }
}

static void queue_next(struct docker_entry *e)
{
    struct docker_job *next = e->queue;
    if (next == NULL) {
        docker_entry_maybe_free(e);
    } else if (!next->is_begun && next->is_submitted && !e->d->is_closing) { /* else its own turn comes */
        next->is_begun = true;
        next->begin(next);
    }
}

void docker_job_end(struct docker_job *j, int code, const struct err *err)
{
    struct docker_entry *e = j->e;
    must(!j->is_ended);
    j->is_ended = true;
    if (j->call != NULL)
        docker_call_cancel(j->call);
    j->call = NULL;
    job_answer(j, code, code != 0 ? err : NULL);
    timer_close(&j->deadline, on_handle_closed);
    timer_close(&j->tick, on_handle_closed);
    if (e == NULL)
        return;
    DL_DELETE2(e->queue, j, queue_prev, queue_next);
    j->e = NULL;
    queue_next(e);
}

void docker_job_end_refused(struct docker_job *j)
{
    if (j->code == 0)
        j->code = docker_answer_error(&j->answer, &j->err);
    docker_job_end(j, j->code, &j->err);
}

/* Nothing but a call, or a sleep, is under way: it can end now. Else it ends at its next safe point. */
static void job_give_up(struct docker_job *j, const struct err *err)
{
    if (!j->is_begun || j->call != NULL || timer_is_active(&j->tick))
        docker_job_end(j, err->code, err);
    else
        job_answer(j, err->code, err);
}

static void on_deadline(void *data)
{
    struct docker_job *j = data;
    struct err err = {0};
    (void)err_set(&err, timeout_code(j), "not done in time");
    job_give_up(j, &err);
}

static void on_tick(void *data)
{
    struct docker_job *j = data;
    j->step(j);
}

static void on_submitted(struct docker_job *j)
{
    struct err err = {0};
    j->is_submitted = true;
    if (j->code != 0) {
        docker_job_end(j, j->code, &j->err);
    } else if (j->d->is_closing) {
        (void)err_set(&err, E_CANCELLED, "the provider is being closed");
        docker_job_end(j, err.code, &err);
    } else if (j->e == NULL || j->e->queue == j) {
        j->is_begun = true;
        j->begin(j);
    }
}

struct docker_job *docker_job_new(struct docker *d, enum docker_job_kind kind, bool is_keyed, struct slice id,
                                  int64_t timeout_ms, docker_step begin, void *data)
{
    struct docker_job *j = MEM_NEW(struct docker_job);
    j->d = d;
    j->kind = kind;
    j->begin = begin;
    j->data = data;
    j->id = arena_slice(&j->arena, id);
    j->until_ms = clock_mono_ms(d->loop->clock) + timeout_ms;
    host_server_init(&j->server);
    timer_init(&j->deadline, d->loop, on_deadline, j);
    timer_init(&j->tick, d->loop, on_tick, j);
    j->n_handles = 2;
    j->work.data = j;
    timer_start(&j->deadline, timeout_ms);
    if ((is_keyed || kind == DOCKER_JOB_DESTROY_HOME) && !host_id_is_valid(id))
        j->code = err_set(&j->err, E_INVALID, "'%.*s' is not an id", (int)(id.n < 200 ? id.n : 200), id.p);
    else if (d->n_jobs >= DOCKER_JOBS_MAX)
        j->code = err_set(&j->err, E_BUSY, "too many calls are waiting for the provider");
    DL_APPEND(d->jobs, j);
    d->n_jobs++;
    if (is_keyed && j->code == 0) {
        j->e = docker_entry_get(d, id);
        DL_APPEND2(j->e->queue, j, queue_prev, queue_next);
    }
    return j;
}

void docker_job_submit(struct docker_job *j)
{
    j->step = on_submitted;
    timer_start(&j->tick, 0); /* never an answer inside the call */
}

/* --- steps --- */

static void on_answer(int code, const struct docker_answer *a, const struct err *err, void *data)
{
    struct docker_job *j = data;
    j->call = NULL;
    j->code = code;
    j->answer = *a;
    if (code != 0)
        j->err = *err;
    j->step(j);
}

void docker_job_call(struct docker_job *j, const char *method, const char *target, struct slice body,
                     docker_step step)
{
    /* The job's own deadline ends it first, and says more. */
    const struct docker_request r = {.method = method,
                                     .target = target,
                                     .body = body,
                                     .timeout_ms = docker_job_left_ms(j) + 1000,
                                     .answer_max = j->kind == DOCKER_JOB_LIST ? (size_t)64 << 20 : 0};
    must(j->call == NULL);
    j->code = 0;
    err_clear(&j->err);
    j->step = step;
    j->call = docker_call_start(j->d->engine, &r, on_answer, j);
}

static void on_work(uv_work_t *w)
{
    struct docker_job *j = w->data;
    j->blocking(j);
}

static void on_work_done(uv_work_t *w, int status)
{
    struct docker_job *j = w->data;
    (void)status; /* never cancelled */
    j->step(j);
}

void docker_job_work(struct docker_job *j, docker_step blocking, docker_step step)
{
    j->code = 0;
    err_clear(&j->err);
    j->blocking = blocking;
    j->step = step;
    must(uv_queue_work(&j->d->loop->uv, &j->work, on_work, on_work_done) == 0);
}

void docker_job_tick(struct docker_job *j, int64_t after_ms, docker_step step)
{
    j->step = step;
    timer_start(&j->tick, after_ms);
}

bool docker_job_is_over(const struct docker_job *j)
{
    return j->is_answered || j->d->is_closing;
}

int64_t docker_job_left_ms(const struct docker_job *j)
{
    int64_t left = j->until_ms - clock_mono_ms(j->d->loop->clock);
    return left > 0 ? left : 0;
}

void docker_jobs_cancel(struct docker *d)
{
    struct docker_job *j, *next;
    struct err err = {0};
    (void)err_set(&err, E_CANCELLED, "the provider is being closed");
    DL_FOREACH_SAFE (d->jobs, j, next)
        if (!j->is_ended)
            job_give_up(j, &err);
}

/* --- inspect --- */

char *docker_target(struct docker_job *j, const char *rest)
{
    return arena_printf(&j->arena, "/containers/" DOCKER_NAME_PREFIX "%.*s%s", SL_ARG(j->id), rest);
}

void docker_job_inspect(struct docker_job *j, docker_step step)
{
    docker_job_call(j, "GET", docker_target(j, "/json"), SLICE_EMPTY, step);
}

int docker_job_container(struct docker_job *j)
{
    if (j->code == 0 && j->answer.status == 200)
        j->code = docker_inspect_parse(j->answer.body, &j->arena, &j->container, &j->err);
    else if (j->code == 0)
        j->code = docker_answer_error(&j->answer, &j->err);
    if (j->code == E_NOT_FOUND) {
        (void)err_set(&j->err, E_NOT_FOUND, "sandbox %.*s does not exist", SL_ARG(j->id));
        if (j->e != NULL && j->e->pid == 0) /* a start that was given up has left us listening for it */
            docker_entry_down(j->e);
    }
    return j->code;
}
