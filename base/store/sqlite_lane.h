/* sqlite_lane: a worker thread with a queue in and a queue out. The store has two: one writes, one reads. */
#ifndef REEVE_BASE_STORE_SQLITE_LANE_H
#define REEVE_BASE_STORE_SQLITE_LANE_H

#include <uv.h>

#include "base/store/engine.h"
#include "base/store/sqlite_db.h"

#define LANE_REQUESTS_MAX 16384u       /* taken and not yet answered */
#define LANE_BYTES_MAX    (256u << 20) /* what they hold */
#define LANE_ANSWERS_MAX                                                                                     \
    (64u << 20) /* bytes of answers that wait for the loop: the thread pauses above it                       \
                 */

struct lane {
    /* set before lane_start */
    struct db db;                                       /* the thread's alone while it runs */
    size_t batch_max;                                   /* requests worked off at once */
    size_t batch_bytes;                                 /* ends a batch early */
    void (*run)(struct lane *l, struct request *batch); /* on the thread: answers all of them */
    void (*rest)(struct lane *l); /* on the thread, after the answers went out; may be NULL */
    void (*fini)(struct lane *l); /* on the thread, at its end; closes db */
    uv_async_t *async;            /* told when answers are there, and at the end */
    /* shared, under the mutex */
    uv_mutex_t mutex;
    uv_cond_t wake;
    struct request_queue todo, done;
    size_t done_bytes; /* of the answers in `done` */
    bool is_stopping;  /* end when `todo` is empty */
    bool has_ended;
    /* the loop's alone */
    uv_thread_t thread;
    size_t taken, taken_bytes;
};

/* 0 or E_UNAVAILABLE (no thread to be had). */
int lane_start(struct lane *l);
void lane_submit(struct lane *l, struct engine *e, struct request *r); /* refuses when full */
/* The loop's side: takes the answered ones. True when the thread has ended and nothing is left. */
bool lane_collect(struct lane *l, struct request_queue *out);
void lane_answered(struct lane *l, size_t bytes); /* one was given back to its caller */
void lane_stop(struct lane *l);
void lane_join(struct lane *l); /* after lane_stop */

#endif
