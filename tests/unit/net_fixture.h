/* net_fixture: what tests of base/net share: a loop, waiting for an event with a deadline, a raw peer. */
#ifndef REEVE_TESTS_NET_FIXTURE_H
#define REEVE_TESTS_NET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/buf.h"
#include "base/core/mem.h"
#include "base/net/stream.h"

static struct loop loop;
static struct timer guard; /* wakes the loop when nothing else does */

static void on_guard(void *data)
{
    (void)data;
}

/* Runs the loop until the condition holds; fails the test after ten seconds. */
#define WAIT_FOR(cond)                                                                                       \
    do {                                                                                                     \
        int64_t wait_end = clock_mono_ms(&clock_system) + 10000;                                             \
        timer_repeat(&guard, 100);                                                                           \
        while (!(cond)) {                                                                                    \
            if (clock_mono_ms(&clock_system) > wait_end)                                                     \
                fail_msg("waited in vain for: %s", #cond);                                                   \
            uv_run(&loop.uv, UV_RUN_ONCE);                                                                   \
        }                                                                                                    \
        timer_stop(&guard);                                                                                  \
    } while (0)

/* Lets `ms` pass while the loop runs: for showing that something does NOT happen. */
static inline void run_for(int64_t ms)
{
    int64_t end = clock_mono_ms(&clock_system) + ms;

    timer_repeat(&guard, 2);
    while (clock_mono_ms(&clock_system) < end)
        uv_run(&loop.uv, UV_RUN_ONCE);
    timer_stop(&guard);
}

static inline int fixture_setup(void **state)
{
    (void)state;
    (void)alarm(120); /* a failed test may leave handles that the teardown waits for */
    if (loop_init(&loop, &clock_system, &rnd_system) != 0)
        return -1;
    timer_init(&guard, &loop, on_guard, NULL);
    return 0;
}

static inline int fixture_teardown(void **state)
{
    (void)state;
    timer_close(&guard, NULL);
    loop_fini(&loop); /* would hang or die when a handle was left behind */
    return 0;
}

/* A peer that remembers all it hears. */
struct peer {
    struct stream *stream; /* NULL: not connected, or closed */
    struct buf in;
    uint64_t in_all; /* bytes, also when they are not kept */
    bool keeps_nothing;
    bool is_connected, is_eof, is_drained;
    int error, connect_code;
};

static inline void peer_on_read(struct stream *s, struct slice bytes, void *data)
{
    struct peer *p = data;

    (void)s;
    p->in_all += bytes.n;
    if (!p->keeps_nothing)
        assert_int_equal(buf_slice(&p->in, bytes), 0);
}

static inline void peer_on_eof(struct stream *s, void *data)
{
    struct peer *p = data;

    (void)s;
    assert_false(p->is_eof);
    p->is_eof = true;
}

static inline void peer_on_error(struct stream *s, int code, void *data)
{
    struct peer *p = data;

    (void)s;
    assert_int_equal(p->error, 0);
    p->error = code;
}

static inline void peer_on_drain(struct stream *s, void *data)
{
    struct peer *p = data;

    (void)s;
    p->is_drained = true;
}

static const struct stream_events peer_events = {
    .on_read = peer_on_read, .on_eof = peer_on_eof, .on_error = peer_on_error, .on_drain = peer_on_drain};

static inline void peer_adopt(struct peer *p, struct stream *s, bool reads)
{
    *p = (struct peer){.stream = s, .is_connected = true};
    buf_init(&p->in, (size_t)256 << 20);
    stream_own(s, &peer_events, p);
    if (reads)
        stream_read_start(s);
}

static inline void peer_on_connected(int code, struct stream *s, const struct err *err, void *data)
{
    struct peer *p = data;

    p->connect_code = code;
    if (code == 0)
        peer_adopt(p, s, true);
    else
        assert_true(err != NULL && err->msg[0] != '\0');
    p->is_connected = true;
}

static inline struct endpoint local_endpoint(uint16_t port)
{
    struct endpoint e = {.port = port};

    (void)snprintf(e.host, sizeof(e.host), "127.0.0.1");
    return e;
}

static inline void peer_connect(struct peer *p, uint16_t port)
{
    struct endpoint e = local_endpoint(port);

    *p = (struct peer){0};
    (void)stream_connect(&loop, &e, 5000, peer_on_connected, p);
    assert_false(p->is_connected); /* never before it returned */
    WAIT_FOR(p->is_connected);
    assert_int_equal(p->connect_code, 0);
}

static inline int peer_say_n(struct peer *p, const void *bytes, size_t n)
{
    struct slice v = slice_of(bytes, n);

    return stream_write(p->stream, &v, 1);
}

static inline void peer_say(struct peer *p, const char *text)
{
    int rc = peer_say_n(p, text, strlen(text));

    assert_true(rc == 0 || rc == E_AGAIN);
}

static inline bool peer_heard(struct peer *p, const char *text)
{
    return strstr(buf_cstr(&p->in), text) != NULL;
}

static inline size_t peer_count(struct peer *p, const char *text)
{
    size_t n = 0;
    const char *at = buf_cstr(&p->in);

    while ((at = strstr(at, text)) != NULL) {
        n++;
        at += strlen(text);
    }
    return n;
}

static inline void peer_fini(struct peer *p)
{
    if (p->stream != NULL)
        stream_reset(p->stream);
    p->stream = NULL;
    buf_fini(&p->in);
}

static inline void on_flag(void *data)
{
    *(bool *)data = true;
}

#endif
