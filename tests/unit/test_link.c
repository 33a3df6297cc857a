/* link: Reeve's end of the control connection, against an init that lies. The test plays init: a plain
 * socket. */
#include "providers/link.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/mem.h"

#define WAIT_MS 5000

struct world {
    struct loop loop;
    struct timer late;
    bool is_late, is_init, closes_on_down;
    char folder[64], path[96];
    struct link *k;
    int sock;     /* init's end */
    int listener; /* something to connect to */
    uint16_t port;
    unsigned n_up, n_down, n_door;
    struct link_state state;
};

struct answer {
    bool is_done;
    int code;
    struct err err;
};

static void on_late(void *data)
{
    ((struct world *)data)->is_late = true;
}

#define UNTIL(w, condition)                                                                                  \
    do {                                                                                                     \
        (w)->is_late = false;                                                                                \
        timer_start(&(w)->late, WAIT_MS);                                                                    \
        while (!(condition) && !(w)->is_late)                                                                \
            uv_run(&(w)->loop.uv, UV_RUN_ONCE);                                                              \
        timer_stop(&(w)->late);                                                                              \
        assert_true(condition);                                                                              \
    } while (0)

static bool is_init(const struct fdpass_peer *peer, void *data)
{
    assert_int_equal(peer->pid, getpid());
    return ((struct world *)data)->is_init;
}

static void on_up(struct link *k, void *data)
{
    (void)k;
    ((struct world *)data)->n_up++;
}

static void on_down(struct link *k, void *data)
{
    struct world *w = data;
    w->n_down++;
    if (w->closes_on_down) {
        link_close(k);
        w->k = NULL;
    }
}

static void on_state(struct link *k, const struct link_state *state, void *data)
{
    (void)k;
    ((struct world *)data)->state = *state;
}

static void on_door(struct link *k, struct stream *s, void *data)
{
    (void)k;
    ((struct world *)data)->n_door++;
    stream_close(s);
}

static const struct link_events events = {
    .is_init = is_init, .on_up = on_up, .on_down = on_down, .on_state = on_state, .on_door = on_door};

static int tcp_listen(uint32_t address, uint16_t *ret_port)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t n = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    at.sin_addr.s_addr = htonl(address);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

static int tcp_connect(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static int setup(void **state)
{
    struct world *w = MEM_NEW(struct world);
    struct err err = {0};
    (void)snprintf(w->folder, sizeof(w->folder), "/tmp/reeve-link-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    (void)snprintf(w->path, sizeof(w->path), "%s/control", w->folder);
    assert_int_equal(loop_init(&w->loop, &clock_system, &rnd_system), 0);
    timer_init(&w->late, &w->loop, on_late, w);
    w->sock = -1;
    w->is_init = true;
    w->listener = tcp_listen(INADDR_LOOPBACK, &w->port);
    assert_int_equal(link_new(&w->loop, w->path, &events, w, &w->k, &err), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    link_close(w->k);
    timer_close(&w->late, NULL);
    loop_fini(&w->loop);
    if (w->sock >= 0)
        close(w->sock);
    close(w->listener);
    assert_int_equal(rmdir(w->folder), 0);
    mem_free(w);
    return 0;
}

/* --- init's side --- */

static void init_connect(struct world *w)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (w->sock >= 0)
        close(w->sock);
    w->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "%s", w->path);
    assert_int_equal(connect(w->sock, (struct sockaddr *)&to, sizeof(to)), 0);
}

static void init_send(struct world *w, uint8_t type, const void *payload, size_t n, int fd)
{
    char bytes[256], room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
    uint32_t len = (uint32_t)n + 1;
    for (int i = 0; i < 4; i++)
        bytes[i] = (char)(len >> (8 * i));
    bytes[4] = (char)type;
    if (n > 0)
        memcpy(bytes + 5, payload, n);
    struct iovec v = {.iov_base = bytes, .iov_len = n + 5};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = room;
        m.msg_controllen = sizeof(room);
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &fd, sizeof(int));
    }
    assert_int_equal(sendmsg(w->sock, &m, MSG_NOSIGNAL), n + 5);
}

static void init_hello(struct world *w)
{
    unsigned char hello[18] = {INIT_PROTOCOL_VERSION, INIT_SERVER_RUNNING};
    unsigned before = w->n_up;
    init_connect(w);
    init_send(w, INIT_HELLO, hello, sizeof(hello), -1);
    UNTIL(w, w->n_up == before + 1);
}

/* Reads frames until one of that type; its request number. */
static uint32_t init_read(struct world *w, uint8_t type)
{
    for (;;) {
        unsigned char head[9], rest[4096];
        bool has = false;
        UNTIL(w, (has = recv(w->sock, head, sizeof(head), MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof(head)));
        assert_true(has);
        size_t n = (size_t)head[0] | (size_t)head[1] << 8;
        assert_true(n + 4 <= sizeof(rest));
        assert_int_equal(recv(w->sock, rest, n + 4, MSG_WAITALL), n + 4);
        if (head[4] == type)
            return (uint32_t)head[5] | (uint32_t)head[6] << 8;
    }
}

static void init_answer(struct world *w, uint32_t request, uint32_t error, int fd)
{
    unsigned char p[8] = {(unsigned char)request, (unsigned char)(request >> 8), 0, 0, (unsigned char)error};
    init_send(w, INIT_DONE, p, sizeof(p), fd);
}

static void on_done(int code, const struct err *err, void *data)
{
    struct answer *a = data;
    assert_false(a->is_done);
    a->is_done = true;
    a->code = code;
    if (err != NULL)
        a->err = *err;
}

static void on_stream(int code, struct stream *s, const struct err *err, void *data)
{
    on_done(code, err, data);
    assert_true((s != NULL) == (code == 0));
    if (s != NULL)
        stream_close(s);
}

/* --- tests --- */

static void test_connect(void **state)
{
    struct world *w = *state;
    struct answer a = {0}, b = {0};
    (void)link_connect(w->k, w->port, WAIT_MS, on_stream, &a); /* waits for init */
    assert_false(link_is_up(w->k));
    init_hello(w);
    uint32_t request = init_read(w, INIT_CONNECT);
    int fd = tcp_connect(w->port);
    init_answer(w, request, 0, fd);
    UNTIL(w, a.is_done);
    assert_int_equal(a.code, 0);
    close(fd);
    /* The channel breaks under a request: it is asked again. */
    (void)link_connect(w->k, w->port, WAIT_MS, on_stream, &b);
    (void)init_read(w, INIT_CONNECT);
    init_hello(w);
    assert_int_equal(w->n_down, 1);
    init_answer(w, init_read(w, INIT_CONNECT), ECONNREFUSED, -1);
    UNTIL(w, b.is_done);
    assert_int_equal(b.code, E_UNAVAILABLE);
}

static void lie(struct world *w, int fd, const char *about)
{
    struct answer a = {0};
    (void)link_connect(w->k, w->port, WAIT_MS, on_stream, &a);
    init_answer(w, init_read(w, INIT_CONNECT), 0, fd);
    UNTIL(w, a.is_done);
    assert_int_equal(a.code, E_SYNTAX);
    if (strstr(a.err.msg, about) == NULL)
        fail_msg("\"%s\" does not speak of \"%s\"", a.err.msg, about);
    close(fd);
}

static void test_descriptors_that_lie(void **state)
{
    struct world *w = *state;
    uint16_t other_port;
    int pair[2], other = tcp_listen(INADDR_LOOPBACK, &other_port);
    init_hello(w);
    lie(w, open("/dev/null", O_RDWR | O_CLOEXEC), "not a TCP socket");
    lie(w, socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "not a TCP socket");
    lie(w, socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), "not a TCP socket");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    lie(w, pair[0], "not a TCP socket");
    close(pair[1]);
    lie(w, dup(w->listener), "listens");
    lie(w, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "bound elsewhere");
    lie(w, tcp_connect(other_port), "connected elsewhere");
    close(other);
    assert_int_equal(w->n_down, 0);
}

/* What must end the channel: a descriptor nobody asked for, none where one was promised, nonsense. */
static void test_protocol_broken(void **state)
{
    struct world *w = *state;
    struct answer a = {0};
    unsigned char state_bytes[21] = {0};
    init_hello(w);
    init_send(w, INIT_STATE, state_bytes, sizeof(state_bytes), w->listener); /* with a descriptor */
    UNTIL(w, w->n_down == 1);
    init_hello(w);
    link_restart(w->k, WAIT_MS, on_done, &a);
    init_answer(w, init_read(w, INIT_RESTART), 0, w->listener);
    UNTIL(w, w->n_down == 2);
    init_hello(w);
    init_answer(w, init_read(w, INIT_RESTART), 0, -1); /* asked again */
    UNTIL(w, a.is_done);
    assert_int_equal(a.code, 0);
    a = (struct answer){0};
    (void)link_connect(w->k, w->port, 200, on_stream, &a);
    init_answer(w, init_read(w, INIT_CONNECT), 0, -1);
    UNTIL(w, w->n_down == 3);
    UNTIL(w, a.is_done);
    assert_int_equal(a.code, E_TIMEOUT);
    init_hello(w);
    init_send(w, INIT_HELLO, "\1", 1, -1); /* twice */
    UNTIL(w, w->n_down == 4);
    init_hello(w);
    init_send(w, 99, "", 0, -1);
    UNTIL(w, w->n_down == 5);
    init_hello(w);
    state_bytes[17] = 255; /* a tail longer than the frame */
    init_send(w, INIT_STATE, state_bytes, sizeof(state_bytes), -1);
    UNTIL(w, w->n_down == 6);
    /* Late answers to what nobody waits for any more are no offence; their descriptors are closed. */
    init_hello(w);
    init_answer(w, 60000, 0, w->listener);
    state_bytes[17] = 0;
    state_bytes[4] = INIT_SERVER_WAITING;
    init_send(w, INIT_STATE, state_bytes, sizeof(state_bytes), -1);
    UNTIL(w, w->state.server == INIT_SERVER_WAITING);
    assert_int_equal(w->n_down, 6);
}

static void test_refused(void **state)
{
    struct world *w = *state;
    char c;
    w->is_init = false;
    init_connect(w);
    UNTIL(w, recv(w->sock, &c, 1, MSG_DONTWAIT) == 0);
    assert_int_equal(w->n_up, 0);
    /* It does not disturb the true one. */
    w->is_init = true;
    init_hello(w);
    int real = w->sock;
    w->sock = -1;
    w->is_init = false;
    init_connect(w);
    UNTIL(w, recv(w->sock, &c, 1, MSG_DONTWAIT) == 0);
    close(w->sock);
    w->sock = real;
    assert_int_equal(w->n_down, 0);
    assert_true(link_is_up(w->k));
}

static void test_close(void **state)
{
    struct world *w = *state;
    struct answer a[3] = {{0}};
    init_hello(w);
    void *handle = link_connect(w->k, 1, WAIT_MS, on_stream, &a[0]);
    link_connect_cancel(handle);
    assert_false(a[0].is_done);
    UNTIL(w, a[0].is_done);
    assert_int_equal(a[0].code, E_CANCELLED);
    (void)link_connect(w->k, 1, WAIT_MS, on_stream, &a[1]);
    link_stop(w->k, 1000, WAIT_MS, on_done, &a[2]);
    link_close(w->k);
    w->k = NULL;
    assert_false(a[1].is_done);
    UNTIL(w, a[1].is_done && a[2].is_done);
    assert_int_equal(a[1].code, E_CANCELLED);
    assert_int_equal(a[2].code, E_CANCELLED);
}

/* Init comes again, and the owner lets go when it hears of the old channel: the new one does not stay
 * behind. */
static void test_close_in_down(void **state)
{
    struct world *w = *state;
    char c;
    init_hello(w);
    int old = w->sock;
    w->sock = -1;
    w->closes_on_down = true;
    init_connect(w);
    UNTIL(w, recv(w->sock, &c, 1, MSG_DONTWAIT) == 0);
    close(old);
    assert_null(w->k);
    assert_int_equal(w->n_down, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_connect),         TEST(test_descriptors_that_lie),
                                       TEST(test_protocol_broken), TEST(test_refused),
                                       TEST(test_close),           TEST(test_close_in_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
