/* top: reeve top: tenants, workspaces and spend, live in a terminal.
 *
 * Happy path: the terminal is put into another screen and left as it was found; a snapshot is read, drawn,
 * and read again after a while; keys and a new size of the window are answered at once, also while a read is
 * under way. Failure paths: a controller that cannot be reached at first ends the command; later the last
 * snapshot stays on the screen with the reason. SIGTERM, SIGHUP and ^C end it as `q` does. */
#include "controller/cli/top.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/core/clock.h"
#include "base/core/mem.h"

#define FRAME_MAX   ((size_t)8 * 1024 * 1024)
#define JSON_MAX    ((size_t)64 * 1024 * 1024)
#define EVERY_MS    2000
#define EVERY_LEAST 200
#define SHARE       4 /* a read that takes long is repeated after so many times as long */
#define KEY_POLL_MS 100

static volatile sig_atomic_t ends; /* a signal asked for it */

static void on_end(int number)
{
    (void)number;
    ends = 1;
}

static void on_resize(int number)
{
    (void)number; /* it only has to end the wait */
}

struct terminal {
    struct termios before;
    bool is_raw;
};

struct session {
    struct terminal terminal;
    struct top_screen screen;
    struct top_snapshot now;
    bool has_now, is_over, is_dirty, is_typed; /* is_typed: keys may arrive */
    char message[ERR_MSG_MAX];
};

/* --- the terminal --- */

static void write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(STDOUT_FILENO, p, n);
        if (k < 0 && errno != EINTR)
            return; /* the terminal is gone; SIGHUP follows */
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        }
    }
}

static void terminal_enter(struct terminal *t)
{
    static const char enter[] = "\033[?1049h\033[?25l\033[2J";
    struct termios raw;
    if (tcgetattr(STDIN_FILENO, &t->before) == 0) {
        raw = t->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 0;
        raw.c_cc[VTIME] = 0;
        raw.c_cc[VSUSP] = _POSIX_VDISABLE; /* stopped, it would leave its screen behind */
        t->is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    write_all(enter, sizeof(enter) - 1);
}

static void terminal_leave(struct terminal *t)
{
    static const char leave[] = "\033[0m\033[?25h\033[?1049l";
    write_all(leave, sizeof(leave) - 1);
    if (t->is_raw)
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &t->before); /* nothing better is left to do */
}

static void signals_catch(void)
{
    struct sigaction end = {.sa_handler = on_end}, resize = {.sa_handler = on_resize};
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < ARRAY_LEN(ending); i++)
        must(sigaction(ending[i], &end, NULL) == 0);
    must(sigaction(SIGWINCH, &resize, NULL) == 0);
}

/* --- keys --- */

static void scroll(struct top_screen *screen, bool is_down, size_t rows)
{
    size_t room = is_down ? screen->first_max - screen->first : screen->first;
    if (rows > room)
        rows = room;
    screen->first = is_down ? screen->first + rows : screen->first - rows;
}

static void on_keys(struct session *x, const char *p, size_t n)
{
    static const struct {
        const char *sequence;
        bool is_down, is_page;
    } moves[] = {{"\033[A", false, false}, {"\033[B", true, false},  {"\033OA", false, false},
                 {"\033OB", true, false},  {"\033[5~", false, true}, {"\033[6~", true, true},
                 {"k", false, false},      {"j", true, false},       {"b", false, true},
                 {" ", true, true}};
    while (n > 0) {
        size_t taken = 1, page = x->screen.rows / 2 + 1;
        for (size_t i = 0; i < ARRAY_LEN(moves); i++) {
            size_t length = strlen(moves[i].sequence);
            if (n >= length && memcmp(p, moves[i].sequence, length) == 0) {
                scroll(&x->screen, moves[i].is_down, moves[i].is_page ? page : 1);
                taken = length;
                break;
            }
        }
        if (p[0] == 'q')
            x->is_over = true;
        if (p[0] == 's') {
            x->screen.order = (enum top_order)((x->screen.order + 1) % TOP_ORDERS);
            x->screen.first = 0;
        }
        x->is_dirty = true;
        p += taken;
        n -= taken;
    }
}

/* Waits for a key, a signal, or `ms`. */
static void wait_keys(struct session *x, int ms)
{
    struct pollfd fd = {.fd = x->is_typed ? STDIN_FILENO : -1, .events = POLLIN};
    char keys[64];
    int rc = poll(&fd, 1, ms);
    if (ends)
        x->is_over = true;
    if (rc <= 0 || (fd.revents & (POLLIN | POLLHUP | POLLERR)) == 0)
        return;
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));
    if (n > 0)
        on_keys(x, keys, (size_t)n);
    else if (n == 0 || errno != EINTR)
        x->is_over = true; /* nobody can type `q` any more */
}

/* --- frames --- */

static void measure(struct session *x)
{
    struct winsize size;
    size_t rows = 24, columns = 80;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
        rows = size.ws_row;
        columns = size.ws_col;
    }
    x->is_dirty = x->is_dirty || rows != x->screen.rows || columns != x->screen.columns;
    x->screen.rows = rows;
    x->screen.columns = columns;
}

static void draw(struct session *x)
{
    struct buf frame = BUF_INIT(FRAME_MAX);
    measure(x);
    if (x->is_dirty && x->has_now) {
        x->screen.message = x->message[0] != '\0' ? x->message : NULL;
        top_sort(&x->now, x->screen.order);
        top_draw(&x->now, &x->screen, &frame);
        write_all(frame.p, frame.n);
    }
    x->is_dirty = false;
    buf_fini(&frame);
}

/* Asked while a call is under way. */
static bool is_wanted_no_more(void *data)
{
    struct session *x = data;
    wait_keys(x, 0);
    draw(x);
    return x->is_over;
}

static int refresh(struct session *x)
{
    struct top_snapshot next;
    struct err err = {0};
    int code = top_read(&next, is_wanted_no_more, x, &err);
    x->message[0] = '\0';
    if (code == EXIT_DONE) {
        if (x->has_now)
            top_compare(&next, &x->now);
        if (x->has_now)
            top_snapshot_fini(&x->now);
        x->now = next;
        x->has_now = true;
    } else {
        (void)snprintf(x->message, sizeof(x->message), "%s", err.msg);
    }
    x->is_dirty = true;
    return code;
}

static int watch(int64_t every_ms, enum top_order order)
{
    struct session x = {.is_typed = isatty(STDIN_FILENO) == 1, .screen = {.order = order}};
    int code = refresh(&x); /* before the screen is taken: a wrong key is said in the ordinary way */
    if (code != EXIT_DONE) {
        (void)fprintf(stderr, "reeve: %s\n", x.message);
        return code;
    }
    signals_catch();
    terminal_enter(&x.terminal);
    int64_t due = clock_mono_ms(&clock_system) + every_ms;
    while (!x.is_over) {
        draw(&x);
        int64_t now = clock_mono_ms(&clock_system);
        if (now < due) {
            wait_keys(&x, due - now < KEY_POLL_MS ? (int)(due - now) : KEY_POLL_MS);
            continue;
        }
        (void)refresh(&x); /* the reason is on the screen */
        int64_t took = clock_mono_ms(&clock_system) - now;
        due = now + took + (took * SHARE > every_ms ? took * SHARE : every_ms);
    }
    terminal_leave(&x.terminal);
    top_snapshot_fini(&x.now);
    return EXIT_DONE;
}

/* --- for programs and pipes --- */

static int print_once(enum top_order order)
{
    struct top_snapshot s;
    struct top_screen screen = {.order = order};
    struct err err = {0};
    struct buf out = BUF_INIT(JSON_MAX);
    int code = top_read(&s, NULL, NULL, &err);
    if (code != EXIT_DONE) {
        (void)fprintf(stderr, "reeve: %s\n", err.msg);
        return code;
    }
    top_sort(&s, order);
    if (command_wants_json())
        top_json(&s, &out);
    else
        top_draw(&s, &screen, &out);
    bool is_whole = fwrite(out.p, 1, out.n, stdout) == out.n && fflush(stdout) == 0;
    top_snapshot_fini(&s);
    buf_fini(&out);
    return is_whole ? EXIT_DONE : EXIT_REFUSED;
}

/* A line of JSON each time, until the reader leaves. */
static int print_stream(int64_t every_ms, enum top_order order)
{
    for (;;) {
        int64_t from = clock_mono_ms(&clock_system);
        int code = print_once(order);
        if (code != EXIT_DONE)
            return code;
        int64_t took = clock_mono_ms(&clock_system) - from,
                rest = took * SHARE > every_ms ? took * SHARE : every_ms;
        (void)poll(NULL, 0, (int)rest);
    }
}

static int top(const struct command *cmd)
{
    (void)cmd;
    const char *every = command_option("--every"), *sort = command_option("--sort");
    int64_t every_ms = EVERY_MS;
    int order = 0;
    while (sort != NULL && order < TOP_ORDERS && strcmp(sort, top_order_names[order]) != 0)
        order++;
    if (order == TOP_ORDERS)
        return command_usage_error("--sort: expected spend, name or state, found `%s`", sort);
    if (every != NULL && (duration_parse(slice_str(every), &every_ms) != 0 || every_ms < EVERY_LEAST ||
                          every_ms > 3600 * 1000))
        return command_usage_error("--every: expected a duration from 200ms to 1h, found `%s`", every);
    if (command_option("--once") != NULL || (!command_wants_json() && isatty(STDOUT_FILENO) != 1))
        return print_once((enum top_order)order);
    return command_wants_json() ? print_stream(every_ms, (enum top_order)order)
                                : watch(every_ms, (enum top_order)order);
}

static const struct option_row options[] = {{"--every", "DURATION", "how often to ask; default 2s"},
                                            {"--sort", "ORDER", "spend (default), name or state"},
                                            {"--once", NULL, "print one look and end"},
                                            {"--json", NULL, "for programs; without --once a line each time"},
                                            {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"top", NULL, "", "tenants, workspaces and spend, live", 0, 0, options, top},
};
const struct command_set commands_top = {rows, ARRAY_LEN(rows)};
