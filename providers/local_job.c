/* local_job: the queue of calls, their deadlines and their one answer. */
#include "providers/local_run.h"

#include <utlist.h>

#include "base/core/mem.h"

static int timeout_code(const struct local_job *j)
{
    bool only_looks = j->kind == JOB_DESCRIBE || j->kind == JOB_LIST || j->kind == JOB_USAGE;
    return only_looks || !j->is_begun ? E_TIMEOUT : E_UNKNOWN_OUTCOME;
}

static void on_handle_closed(void *data)
{
    struct local_job *j = data;
    struct local *l = j->l;
    if (--j->n_handles > 0)
        return;
    host_server_wipe(&j->server);
    arena_fini(&j->arena);
    arena_fini(&j->scratch);
    DL_DELETE(l->jobs, j);
    l->n_jobs--;
    mem_free(j);
    local_maybe_closed(l);
}

void local_job_answer(struct local_job *j, int code, const struct err *err)
{
    if (j->is_answered)
        return;
    j->is_answered = true;
    timer_stop(&j->deadline);
    switch (j->kind) {
    case JOB_DESCRIBE:
        j->cb.info(code, code == 0 ? &j->info : NULL, err, j->data);
        break;
    case JOB_LIST:
        j->cb.list(code, code == 0 ? j->items : NULL, code == 0 ? j->n_items : 0, err, j->data);
        break;
    case JOB_USAGE:
        j->cb.usage(code, code == 0 ? &j->usage : NULL, err, j->data);
        break;
    case JOB_SWEEP:
        break;
    default:
        j->cb.done(code, err, j->data);
        break;
    }
}

static void queue_next(struct local_entry *e)
{
    struct local_job *next = e->queue;
    if (next == NULL) {
        local_entry_maybe_free(e);
    } else if (!next->is_begun &&
               next->is_submitted) { /* else its own turn comes, with what was wrong with it */
        next->is_begun = true;
        next->begin(next);
    }
}

void local_job_end(struct local_job *j, int code, const struct err *err)
{
    struct local_entry *e = j->e;
    must(!j->is_ended);
    j->is_ended = true;
    local_job_answer(j, code, code != 0 ? err : NULL);
    timer_close(&j->deadline, on_handle_closed);
    timer_close(&j->tick, on_handle_closed);
    if (e == NULL)
        return;
    DL_DELETE2(e->queue, j, queue_prev, queue_next);
    j->e = NULL;
    queue_next(e);
}

static void on_deadline(void *data)
{
    struct local_job *j = data;
    struct err err = {0};
    (void)err_set(&err, timeout_code(j), "not done in time");
    if (j->is_begun)
        local_job_answer(j, err.code, &err); /* it ends at its next safe point */
    else
        local_job_end(j, err.code, &err);
}

static void on_tick(void *data)
{
    struct local_job *j = data;
    j->step(j);
}

static void on_submitted(struct local_job *j)
{
    struct err err = {0};
    j->is_submitted = true;
    if (j->code != 0) {
        local_job_end(j, j->code, &j->err);
    } else if (j->l->is_closing) {
        (void)err_set(&err, E_CANCELLED, "the provider is being closed");
        local_job_end(j, err.code, &err);
    } else if (j->e == NULL || j->e->queue == j) {
        j->is_begun = true;
        j->begin(j);
    }
}

struct local_job *local_job_new(struct local *l, enum local_job_kind kind, const char *key_prefix,
                                struct slice key, int64_t timeout_ms, local_step begin, void *data)
{
    struct local_job *j = MEM_NEW(struct local_job);
    j->l = l;
    j->kind = kind;
    j->begin = begin;
    j->data = data;
    j->id = arena_slice(&j->arena, key);
    j->until_ms = clock_mono_ms(l->loop->clock) + timeout_ms;
    host_server_init(&j->server);
    timer_init(&j->deadline, l->loop, on_deadline, j);
    timer_init(&j->tick, l->loop, on_tick, j);
    j->n_handles = 2;
    j->work.data = j;
    if (timeout_ms >= 0)
        timer_start(&j->deadline, timeout_ms);
    if (key_prefix != NULL && !host_id_is_valid(key))
        j->code = err_set(&j->err, E_INVALID, "'%.*s' is not an id", (int)(key.n < 200 ? key.n : 200), key.p);
    else if (l->n_jobs >= LOCAL_JOBS_MAX)
        j->code = err_set(&j->err, E_BUSY, "too many calls are waiting for the provider");
    DL_APPEND(l->jobs, j);
    l->n_jobs++;
    if (key_prefix != NULL && j->code == 0) {
        j->e = local_entry_get(l, key_prefix, key);
        DL_APPEND2(j->e->queue, j, queue_prev, queue_next);
    }
    return j;
}

void local_job_submit(struct local_job *j)
{
    j->step = on_submitted;
    timer_start(&j->tick, 0); /* never an answer inside the call */
}

static void on_work(uv_work_t *w)
{
    struct local_job *j = w->data;
    j->blocking(j);
}

static void on_work_done(uv_work_t *w, int status)
{
    struct local_job *j = w->data;
    (void)status; /* never cancelled */
    j->step(j);
}

void local_job_work(struct local_job *j, local_step blocking, local_step step)
{
    j->code = 0;
    err_clear(&j->err);
    j->blocking = blocking;
    j->step = step;
    must(uv_queue_work(&j->l->loop->uv, &j->work, on_work, on_work_done) == 0);
}

void local_job_tick(struct local_job *j, int64_t after_ms, local_step step)
{
    j->step = step;
    timer_start(&j->tick, after_ms);
}

bool local_job_is_over(const struct local_job *j)
{
    return j->is_answered || j->l->is_closing;
}

int64_t local_job_left_ms(const struct local_job *j)
{
    int64_t left = j->until_ms - clock_mono_ms(j->l->loop->clock);
    return left > 0 ? left : 0;
}

void local_jobs_cancel(struct local *l)
{
    struct local_job *j, *next;
    struct err err = {0};
    (void)err_set(&err, E_CANCELLED, "the provider is being closed");
    DL_FOREACH_SAFE (l->jobs, j, next) {
        if (j->is_ended)
            continue;
        if (!j->is_begun) {
            local_job_end(j, err.code, &err);
            continue;
        }
        local_job_answer(j, err.code, &err); /* it ends at its next safe point ... */
        if (timer_is_active(&j->tick)) /* ... which is now when it sleeps: what would wake it is let go */
            timer_start(&j->tick, 0);
    }
}
