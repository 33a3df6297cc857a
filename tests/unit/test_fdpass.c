/* fdpass: frames and descriptors over a unix socket, against a peer that keeps the rules and one that does
 * not. */
#include "base/net/fdpass.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/buf.h"
#include "base/core/mem.h"

#define WAIT_MS 5000

struct world {
    struct loop loop;
    struct timer late;
    bool is_late;
    char folder[160], path[512];
    struct fdpass_listener *listener;
    struct fdpass *channel;
    struct fdpass_peer peer;
    unsigned n_accepted, n_frames, n_closed;
    int close_code;
    uint8_t type;
    int fd; /* of the last frame */
    unsigned n_fds;
    struct buf got; /* payloads, one after the other */
    bool close_on_frame, refuse;
};

static void on_late(void *data)
{
    ((struct world *)data)->is_late = true;
}

static void on_frame(struct fdpass *p, uint8_t type, struct slice payload, int fd, void *data)
{
    struct world *w = data;
    w->n_frames++;
    w->type = type;
    (void)buf_slice(&w->got, payload);
    if (fd >= 0) {
        assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        if (w->fd >= 0)
            close(w->fd);
        w->fd = fd;
        w->n_fds++;
    }
    if (w->close_on_frame) {
        fdpass_close(p);
        w->channel = NULL;
    }
}

static void on_close(struct fdpass *p, int code, void *data)
{
    struct world *w = data;
    w->n_closed++;
    w->close_code = code;
    fdpass_close(p);
    w->channel = NULL;
}

static const struct fdpass_events events = {.on_frame = on_frame, .on_close = on_close};

static void on_accept(struct fdpass *p, const struct fdpass_peer *peer, void *data)
{
    struct world *w = data;
    w->n_accepted++;
    w->peer = *peer;
    if (w->refuse) {
        fdpass_close(p);
        return;
    }
    w->channel = p;
    fdpass_own(p, &events, w);
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

static int setup(void **state)
{
    struct world *w = MEM_NEW(struct world);
    struct err err = {0};
    char base[] = "/tmp/reeve-fdpass-XXXXXX";
    assert_non_null(mkdtemp(base));
    /* Deeper than a socket address is long. */
    (void)snprintf(w->folder, sizeof(w->folder), "%s/%0120d", base, 7);
    assert_int_equal(mkdir(w->folder, 0700), 0);
    (void)snprintf(w->path, sizeof(w->path), "%s/control", w->folder);
    assert_int_equal(loop_init(&w->loop, &clock_system, &rnd_system), 0);
    timer_init(&w->late, &w->loop, on_late, w);
    buf_init(&w->got, 8u << 20);
    w->fd = -1;
    assert_int_equal(fdpass_listen(&w->loop, w->path, 0600, on_accept, w, &w->listener, &err), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    struct stat st;
    fdpass_close(w->channel);
    fdpass_listener_close(w->listener);
    assert_int_equal(lstat(w->path, &st), -1); /* its name is gone */
    timer_close(&w->late, NULL);
    loop_fini(&w->loop);
    buf_fini(&w->got);
    if (w->fd >= 0)
        close(w->fd);
    assert_int_equal(rmdir(w->folder), 0);
    *strrchr(w->folder, '/') = '\0';
    assert_int_equal(rmdir(w->folder), 0);
    mem_free(w);
    return 0;
}

/* A peer in this process: a plain socket. */
static int peer_open(struct world *w)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int folder = open(w->folder, O_PATH | O_DIRECTORY | O_CLOEXEC),
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(folder >= 0 && fd >= 0);
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d/control", folder);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    close(folder);
    unsigned before = w->n_accepted;
    UNTIL(w, w->n_accepted > before);
    return fd;
}

static void peer_send(int sock, const void *p, size_t n, const int *fds, size_t n_fds)
{
    char room[CMSG_SPACE(sizeof(int) * 16)] __attribute__((aligned(8))) = {0};
    struct iovec v = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (n_fds > 0) {
        m.msg_control = room;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(h), fds, sizeof(int) * n_fds);
    }
    assert_int_equal(sendmsg(sock, &m, MSG_NOSIGNAL), n);
}

static size_t frame(char *out, uint8_t type, const char *payload)
{
    size_t n = strlen(payload);
    uint32_t len = (uint32_t)n + 1;
    for (int i = 0; i < 4; i++)
        out[i] = (char)(len >> (8 * i));
    out[4] = (char)type;
    memcpy(out + 5, payload, n);
    return n + 5;
}

static int some_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static unsigned fds_open(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_frames(void **state)
{
    struct world *w = *state;
    char out[128];
    int sock = peer_open(w);
    assert_int_equal(w->peer.pid, getpid());
    assert_int_equal(w->peer.uid, getuid());
    /* Several in one write, then one byte by byte. */
    size_t n = frame(out, 1, "one");
    n += frame(out + n, 2, "");
    n += frame(out + n, 3, "three");
    peer_send(sock, out, n, NULL, 0);
    UNTIL(w, w->n_frames == 3);
    n = frame(out, 9, "slow");
    for (size_t i = 0; i < n; i++) {
        peer_send(sock, out + i, 1, NULL, 0);
        uv_run(&w->loop.uv, UV_RUN_NOWAIT);
    }
    UNTIL(w, w->n_frames == 4);
    assert_int_equal(w->type, 9);
    assert_string_equal(buf_cstr(&w->got), "onethreeslow");
    /* And the other way. */
    assert_int_equal(fdpass_send(w->channel, 7, SL("back")), 0);
    assert_int_equal(recv(sock, out, sizeof(out), 0), 9);
    assert_memory_equal(out,
                        "\x05\0\0\0\x07"
                        "back",
                        9);
    close(sock);
    UNTIL(w, w->n_closed == 1);
    assert_int_equal(w->close_code, E_EOF);
}

static void test_descriptors(void **state)
{
    struct world *w = *state;
    char out[128];
    int sock = peer_open(w), fd = some_fd();
    struct stat mine, theirs;
    assert_int_equal(fstat(fd, &mine), 0);
    /* A frame without, then one with, both there before the read; then one whose bytes come in two parts. */
    size_t n = frame(out, 1, "plain");
    peer_send(sock, out, n, NULL, 0);
    n = frame(out, 2, "with");
    peer_send(sock, out, n, &fd, 1);
    UNTIL(w, w->n_frames == 2);
    assert_int_equal(w->type, 2);
    assert_int_equal(w->n_fds, 1);
    assert_int_equal(fstat(w->fd, &theirs), 0);
    assert_true(mine.st_ino == theirs.st_ino && mine.st_dev == theirs.st_dev);
    n = frame(out, 3, "parts");
    peer_send(sock, out, 2, &fd, 1);
    UNTIL(w, true);
    uv_run(&w->loop.uv, UV_RUN_NOWAIT);
    peer_send(sock, out + 2, n - 2, NULL, 0);
    UNTIL(w, w->n_frames == 3);
    assert_int_equal(w->n_fds, 2);
    for (int i = 0; i < 100; i++) { /* each with its own frame */
        n = frame(out, 4, "");
        peer_send(sock, out, n, &fd, 1);
        n = frame(out, 5, "");
        peer_send(sock, out, n, NULL, 0);
    }
    UNTIL(w, w->n_frames == 203);
    assert_int_equal(w->n_fds, 102);
    close(fd);
    close(sock);
}

static void breaks(struct world *w, const void *bytes, size_t n, size_t n_fds)
{
    int fds[16];
    unsigned closed = w->n_closed, frames = w->n_frames;
    for (size_t i = 0; i < n_fds; i++)
        fds[i] = some_fd();
    int sock = peer_open(w);
    unsigned before = fds_open();
    peer_send(sock, bytes, n, fds, n_fds);
    UNTIL(w, w->n_closed == closed + 1);
    assert_int_equal(w->close_code, E_SYNTAX);
    assert_int_equal(w->n_frames, frames);
    for (int i = 0; i < 3; i++)
        uv_run(&w->loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(fds_open(), before - 1); /* the channel's socket went, and no descriptor stayed */
    close(sock);
    for (size_t i = 0; i < n_fds; i++)
        close(fds[i]);
}

static void test_rules_broken(void **state)
{
    struct world *w = *state;
    char out[64];
    size_t n = frame(out, 1, "x");
    breaks(w, "\0\0\0\0", 4, 0);         /* an empty frame has no type */
    breaks(w, "\x01\0\x10\0\x01", 5, 0); /* one byte over the maximum */
    breaks(w, "\xff\xff\xff\xff\x01", 5, 0);
    breaks(w, out, n, 2); /* two descriptors */
    breaks(w, out, n, 9); /* more than there is room for */
    /* Two for one frame, one after the other. */
    int sock = peer_open(w), fd = some_fd();
    unsigned closed = w->n_closed;
    peer_send(sock, out, 3, &fd, 1);
    peer_send(sock, out + 3, 1, &fd, 1);
    UNTIL(w, w->n_closed == closed + 1);
    assert_int_equal(w->close_code, E_SYNTAX);
    assert_int_equal(w->n_fds, 0);
    close(sock);
    /* One that comes in the middle of a frame. */
    sock = peer_open(w);
    closed = w->n_closed;
    peer_send(sock, out, 5, NULL, 0);
    UNTIL(w, true);
    for (int i = 0; i < 3; i++)
        uv_run(&w->loop.uv, UV_RUN_NOWAIT);
    peer_send(sock, out + 5, n - 5, &fd, 1);
    UNTIL(w, w->n_closed == closed + 1);
    assert_int_equal(w->close_code, E_SYNTAX);
    close(sock);
    close(fd);
}

static bool is_ended(int sock)
{
    char c;
    ssize_t n = recv(sock, &c, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

static void test_closing(void **state)
{
    struct world *w = *state;
    char out[64];
    int fd = some_fd();
    /* The owner closes from its callback, with more to come. */
    w->close_on_frame = true;
    int sock = peer_open(w);
    size_t n = frame(out, 1, "a");
    n += frame(out + n, 2, "b");
    peer_send(sock, out, n, NULL, 0);
    UNTIL(w, w->n_frames == 1);
    UNTIL(w, is_ended(sock));
    assert_int_equal(w->n_frames, 1);
    assert_int_equal(w->n_closed, 0);
    close(sock);
    /* A descriptor that waits for the rest of its frame when the channel is closed. */
    w->close_on_frame = false;
    unsigned before = fds_open();
    sock = peer_open(w);
    n = frame(out, 1, "a");
    peer_send(sock, out, 3, &fd, 1);
    UNTIL(w, fds_open() == before + 3);
    fdpass_close(w->channel);
    w->channel = NULL;
    UNTIL(w, fds_open() == before + 1);
    close(sock);
    close(fd);
}

static void test_queue_is_bounded(void **state)
{
    struct world *w = *state;
    int sock = peer_open(w), code = 0;
    char *big = mem_zalloc(256 * 1024);
    size_t n = 0, sent = 0, got = 0;
    while (code == 0 && n < 100) {
        code = fdpass_send(w->channel, 1, slice_of(big, 256 * 1024));
        if (code == 0)
            sent += 256 * 1024 + 5;
        n++;
    }
    assert_int_equal(code, E_AGAIN);
    assert_true(sent <= (6u << 20));
    while (got < sent) { /* all that was taken arrives */
        uv_run(&w->loop.uv, UV_RUN_NOWAIT);
        ssize_t k = recv(sock, big, 256 * 1024, MSG_DONTWAIT);
        if (k > 0)
            got += (size_t)k;
    }
    assert_int_equal(fdpass_send(w->channel, 1, SL("again")), 0);
    mem_free(big);
    close(sock);
}

static void test_listener(void **state)
{
    struct world *w = *state;
    struct err err = {0};
    struct fdpass_listener *next = NULL;
    struct stat st;
    assert_int_equal(lstat(w->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    /* A successor replaces the name; the first one must not take it away when it closes. */
    assert_int_equal(fdpass_listen(&w->loop, w->path, 0666, on_accept, w, &next, &err), 0);
    fdpass_listener_close(w->listener);
    w->listener = next;
    int sock = peer_open(w);
    close(sock);
    UNTIL(w, w->n_closed == 1);
    assert_int_equal(fdpass_listen(&w->loop, "/nonexistent/folder/x", 0600, on_accept, w, &next, &err),
                     E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "/nonexistent/folder/x"));
    /* Whoever connects without end is slowed down, and the loop stays free. */
    w->refuse = true;
    w->n_accepted = 0;
    int socks[200];
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int folder = open(w->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d/control", folder);
    unsigned taken = 0;
    for (size_t i = 0; i < 200; i++) {
        socks[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        taken += connect(socks[i], (struct sockaddr *)&to, sizeof(to)) == 0;
        uv_run(&w->loop.uv, UV_RUN_NOWAIT);
    }
    assert_true(w->n_accepted <= 64);
    assert_true(taken < 200);
    unsigned before = w->n_accepted;
    UNTIL(w, w->n_accepted > before); /* the next second */
    for (size_t i = 0; i < 200; i++)
        close(socks[i]);
    close(folder);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_frames),  TEST(test_descriptors),      TEST(test_rules_broken),
        TEST(test_closing), TEST(test_queue_is_bounded), TEST(test_listener),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
