/* loop: libuv's loop with what everybody here needs beside it: deferred calls, timers, a watchdog.
 *
 * A turn is what happens between two waits for events: the watchdog takes the time from one prepare phase to
 * the next and subtracts what the kernel slept in between. Deferred calls run in the check phase, right
 * behind the events of the same poll, so that deferring costs no wake-up of its own; what they defer runs a
 * turn later, after other events had their chance. Failure: none but lack of descriptors at the start. */
#include "base/net/loop.h"

#include <errno.h>
#include <signal.h>

#include "base/core/err.h"
#include "base/core/log.h"
#include "base/core/mem.h"

enum { LOOP_SLOW_TURN_MS = 20, LOOP_DEFERRED_SPARE_MAX = 256 };

struct loop_deferred {
    struct loop_deferred *next;
    void (*cb)(void *data);
    void *data;
};

static void on_turn_prepare(uv_prepare_t *handle)
{
    struct loop *l = handle->data;
    uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(&l->uv);

    if (l->turn_started_ns != 0) {
        uint64_t all = now - l->turn_started_ns, slept = idle - l->turn_idle_ns;
        uint64_t busy_ms = all > slept ? (all - slept) / 1000000 : 0;

        if (busy_ms > LOOP_SLOW_TURN_MS) {
            l->turns_slow++;
            log_debug("loop.slow_turn", LF_INT("ms", busy_ms));
        }
    }
    l->turn_started_ns = now;
    l->turn_idle_ns = idle;
}

static void deferred_put_back(struct loop *l, struct loop_deferred *d)
{
    if (l->deferred_spare_n >= LOOP_DEFERRED_SPARE_MAX) {
        mem_free(d);
        return;
    }
    d->next = l->deferred_spare;
    l->deferred_spare = d;
    l->deferred_spare_n++;
}

static void on_turn_check(uv_check_t *handle)
{
    struct loop *l = handle->data;
    struct loop_deferred *d = l->deferred_first;

    l->deferred_first = NULL;
    l->deferred_last = NULL;
    while (d != NULL) {
        struct loop_deferred *next = d->next;
        void (*cb)(void *) = d->cb;
        void *data = d->data;

        deferred_put_back(l, d);
        cb(data);
        d = next;
    }
    if (l->deferred_first == NULL)
        (void)uv_idle_stop(&l->deferred_idle); /* cannot fail */
}

/* Its being active is the point: poll does not sleep. */
static void on_deferred_idle(uv_idle_t *handle)
{
    (void)handle;
}

void loop_defer(struct loop *l, void (*cb)(void *data), void *data)
{
    struct loop_deferred *d = l->deferred_spare;

    if (d != NULL) {
        l->deferred_spare = d->next;
        l->deferred_spare_n--;
    } else {
        d = MEM_NEW(struct loop_deferred);
    }
    d->next = NULL;
    d->cb = cb;
    d->data = data;
    if (l->deferred_last == NULL)
        l->deferred_first = d;
    else
        l->deferred_last->next = d;
    l->deferred_last = d;
    must(uv_idle_start(&l->deferred_idle, on_deferred_idle) == 0);
}

int loop_init(struct loop *l, const struct clock *clock, const struct rnd *rnd)
{
    int rc;

    *l = (struct loop){.clock = clock, .rnd = rnd};
    rc = uv_loop_init(&l->uv);
    if (rc != 0)
        return err_from_uv(rc);
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail for a valid signal */
    must(uv_loop_configure(&l->uv, UV_METRICS_IDLE_TIME) == 0);
    l->uv.data = l;
    l->read_buf = mem_alloc(LOOP_READ_BYTES);
    must(uv_prepare_init(&l->uv, &l->turn_prepare) == 0);
    must(uv_check_init(&l->uv, &l->turn_check) == 0);
    must(uv_idle_init(&l->uv, &l->deferred_idle) == 0);
    l->turn_prepare.data = l;
    l->turn_check.data = l;
    must(uv_prepare_start(&l->turn_prepare, on_turn_prepare) == 0);
    must(uv_check_start(&l->turn_check, on_turn_check) == 0);
    uv_unref((uv_handle_t *)&l->turn_prepare);
    uv_unref((uv_handle_t *)&l->turn_check);
    return 0;
}

void loop_run(struct loop *l)
{
    l->turn_started_ns = 0;
    (void)uv_run(&l->uv, UV_RUN_DEFAULT); /* tells only whether something is left */
}

void loop_stop(struct loop *l)
{
    uv_stop(&l->uv);
}

void loop_fini(struct loop *l)
{
    /* What others closed before has its close callbacks and deferred calls pending: they come first. */
    (void)uv_run(&l->uv, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&l->turn_prepare, NULL);
    uv_close((uv_handle_t *)&l->turn_check, NULL);
    uv_close((uv_handle_t *)&l->deferred_idle, NULL);
    (void)uv_run(&l->uv, UV_RUN_DEFAULT);
    must(uv_loop_close(&l->uv) == 0);
    while (l->deferred_spare != NULL) {
        struct loop_deferred *d = l->deferred_spare;

        l->deferred_spare = d->next;
        mem_free(d);
    }
    mem_free(l->read_buf);
    l->read_buf = NULL;
}

/* --- timer --- */

static void on_timer(uv_timer_t *handle)
{
    struct timer *t = handle->data;

    t->cb(t->data);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct timer *t = handle->data;

    if (t->closed != NULL)
        t->closed(t->data);
}

void timer_init(struct timer *t, struct loop *l, timer_cb cb, void *data)
{
    must(uv_timer_init(&l->uv, &t->uv) == 0);
    t->uv.data = t;
    t->cb = cb;
    t->data = data;
    t->closed = NULL;
}

void timer_start(struct timer *t, int64_t after_ms)
{
    must(uv_timer_start(&t->uv, on_timer, after_ms < 0 ? 0 : (uint64_t)after_ms, 0) == 0);
}

void timer_repeat(struct timer *t, int64_t every_ms)
{
    uint64_t ms = every_ms < 1 ? 1 : (uint64_t)every_ms;

    must(uv_timer_start(&t->uv, on_timer, ms, ms) == 0);
}

void timer_stop(struct timer *t)
{
    (void)uv_timer_stop(&t->uv); /* always 0 */
}

bool timer_is_active(const struct timer *t)
{
    return uv_is_active((const uv_handle_t *)&t->uv) != 0;
}

void timer_close(struct timer *t, void (*closed)(void *data))
{
    t->closed = closed;
    uv_close((uv_handle_t *)&t->uv, on_timer_closed);
}

struct timer *timer_new(struct loop *l, timer_cb cb, void *data)
{
    struct timer *t = MEM_NEW(struct timer);
    timer_init(t, l, cb, data);
    return t;
}

static void on_free_closed(void *data)
{
    mem_free(data);
}

void timer_free(struct timer *t)
{
    if (t == NULL)
        return;
    t->data = t;
    timer_close(t, on_free_closed);
}
