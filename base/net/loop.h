/* loop: the one event loop, its clock, its randomness, timers with deadlines, a watchdog for long turns. */
#ifndef REEVE_BASE_NET_LOOP_H
#define REEVE_BASE_NET_LOOP_H

#include "base/core/clock.h"

#include <uv.h>

#define LOOP_READ_BYTES 65536

struct loop {
    uv_loop_t uv;
    const struct clock *clock;
    const struct rnd *rnd;
    char *read_buf; /* one read buffer of LOOP_READ_BYTES shared by all streams: data is used before return */
    uv_prepare_t turn_prepare; /* watchdog: a turn over 20 ms is logged ("loop.slow_turn") */
    uv_check_t turn_check;
    uint64_t turn_started_ns;
    uint64_t turn_idle_ns;   /* time the loop had slept in the kernel when the turn started */
    uint64_t turns_slow;     /* for metrics */
    uv_idle_t deferred_idle; /* active while something is deferred: the loop does not sleep then */
    struct loop_deferred *deferred_first, *deferred_last; /* waiting, oldest first */
    struct loop_deferred *deferred_spare;                 /* entries to use again */
    size_t deferred_spare_n;
};

/* Also ignores SIGPIPE for the whole process: a write to a peer that is gone is an error code here (children
 * started by libuv get the default back). */
int loop_init(struct loop *l, const struct clock *clock, const struct rnd *rnd);
void loop_run(struct loop *l); /* until nothing is left or loop_stop */
void loop_stop(struct loop *l);
void loop_fini(struct loop *l); /* closes the helpers, runs the loop until all handles are gone */

/* One timer. Starting it again moves it. The callback may start it again or free its owner only through
 * timer_close. */
struct timer;
typedef void (*timer_cb)(void *data);
struct timer {
    uv_timer_t uv;
    timer_cb cb;
    void *data;
    void (*closed)(void *data);
};
void timer_init(struct timer *t, struct loop *l, timer_cb cb, void *data);
void timer_start(struct timer *t, int64_t after_ms); /* one shot; negative counts as 0 */
void timer_repeat(struct timer *t, int64_t every_ms);
void timer_stop(struct timer *t);
bool timer_is_active(const struct timer *t);
void timer_close(struct timer *t, void (*closed)(void *data)); /* `closed` (may be NULL) gets t->data */

/* A timer of its own memory: for owners that may be freed in any callback. timer_free: NULL is fine; cb does
 * not fire any more. */
struct timer *timer_new(struct loop *l, timer_cb cb, void *data);
void timer_free(struct timer *t);

/* Runs `cb` in a later turn of the loop, once, in the order of the calls. For "done never fires before start
 * has returned". */
void loop_defer(struct loop *l, void (*cb)(void *data), void *data);

#endif
