/* sqlite_lane: the store's only threads.
 *
 * Happy path: lane_submit queues a request; the thread takes what waits, up to a batch, works it off, queues
 * the answers and wakes the loop, which collects them in order. Failure paths: a full lane refuses; lane_stop
 * lets the thread finish its queue and end. */
#include "base/store/sqlite_lane.h"

#include <pthread.h>
#include <signal.h>

#include "base/core/mem.h"

/* Waits for work. The batch, oldest first, or NULL at the end. */
static struct request *lane_take(struct lane *l)
{
    struct request *first, *last;
    size_t n = 1, bytes;

    uv_mutex_lock(&l->mutex);
    while ((l->todo.head == NULL && !l->is_stopping) ||
           (l->todo.head != NULL && l->done_bytes > LANE_ANSWERS_MAX))
        uv_cond_wait(&l->wake, &l->mutex);
    first = last = request_pop(&l->todo);
    if (first != NULL) {
        bytes = first->bytes;
        while (l->todo.head != NULL && n < l->batch_max && bytes < l->batch_bytes) {
            last->next = request_pop(&l->todo);
            last = last->next;
            bytes += last->bytes;
            n++;
        }
        last->next = NULL;
    }
    uv_mutex_unlock(&l->mutex);
    return first;
}

static void lane_deliver(struct lane *l, struct request *batch)
{
    struct request *r, *next;

    uv_mutex_lock(&l->mutex);
    for (r = batch; r != NULL; r = next) {
        next = r->next;
        request_push(&l->done, r);
        l->done_bytes += r->answer_bytes;
    }
    uv_mutex_unlock(&l->mutex);
    must(uv_async_send(l->async) == 0);
}

static void lane_thread(void *data)
{
    struct lane *l = data;
    struct request *batch;

    while ((batch = lane_take(l)) != NULL) {
        l->run(l, batch);
        lane_deliver(l, batch);
        if (l->rest != NULL)
            l->rest(l);
    }
    l->fini(l);
    uv_mutex_lock(&l->mutex);
    l->has_ended = true;
    /* Sent under the lock: once the loop sees has_ended it may close the handle. */
    must(uv_async_send(l->async) == 0);
    uv_mutex_unlock(&l->mutex);
}

int lane_start(struct lane *l)
{
    sigset_t all, before;
    int rc;

    must(uv_mutex_init(&l->mutex) == 0 && uv_cond_init(&l->wake) == 0);
    /* Signals are the loop's. */
    (void)sigfillset(&all);
    must(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    rc = uv_thread_create(&l->thread, lane_thread, l);
    must(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (rc == 0)
        return 0;
    uv_cond_destroy(&l->wake);
    uv_mutex_destroy(&l->mutex);
    return E_UNAVAILABLE;
}

void lane_submit(struct lane *l, struct engine *e, struct request *r)
{
    if (l->taken >= LANE_REQUESTS_MAX || l->taken_bytes >= LANE_BYTES_MAX) {
        (void)request_fail(r, E_UNAVAILABLE, "the store is overloaded: %zu requests wait for it", l->taken);
        engine_refuse(e->store.loop, r);
        return;
    }
    l->taken++;
    l->taken_bytes += r->bytes;
    uv_mutex_lock(&l->mutex);
    request_push(&l->todo, r);
    uv_cond_signal(&l->wake);
    uv_mutex_unlock(&l->mutex);
}

bool lane_collect(struct lane *l, struct request_queue *out)
{
    bool is_over;

    uv_mutex_lock(&l->mutex);
    *out = l->done;
    l->done = (struct request_queue){0};
    l->done_bytes = 0;
    is_over = l->has_ended;
    uv_cond_signal(&l->wake);
    uv_mutex_unlock(&l->mutex);
    return is_over;
}

void lane_answered(struct lane *l, size_t bytes)
{
    l->taken--;
    l->taken_bytes -= bytes;
}

void lane_stop(struct lane *l)
{
    uv_mutex_lock(&l->mutex);
    l->is_stopping = true;
    uv_cond_signal(&l->wake);
    uv_mutex_unlock(&l->mutex);
}

void lane_join(struct lane *l)
{
    must(uv_thread_join(&l->thread) == 0);
    uv_cond_destroy(&l->wake);
    uv_mutex_destroy(&l->mutex);
}
