/* The store's conformance suite against Redis, and what only Redis can do to us: wrong settings, lost
 * connections, forgotten scripts, other controllers. Each test has a redis-server of its own. */
#include "tests/unit/store_conformance.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hiredis/hiredis.h>

#include "base/core/buf.h"
#include "base/store/redis_route.h"

#define SERVER_START_MS 10000

struct place {
    char dir[64];
    int port;
    pid_t pid; /* 0: not running */
    char url[128];
};

/* --- a server --- */

static bool server_is_missing(void)
{
    const char *path = getenv("PATH");
    struct slice rest = slice_str(path != NULL ? path : ""), dir;
    bool has_more;
    do {
        char file[512];
        has_more = slice_cut(&rest, ':', &dir);
        (void)snprintf(file, sizeof(file), "%.*s/redis-server", SL_ARG(dir));
        if (access(file, X_OK) == 0)
            return false;
    } while (has_more);
    return true;
}

static int port_free(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 &&
         getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    (void)close(fd);
    return ntohs(a.sin_port);
}

static redisContext *server_dial(const struct place *p)
{
    uint64_t end = uv_hrtime() + (uint64_t)SERVER_START_MS * 1000000;
    while (uv_hrtime() < end) {
        redisContext *c = redisConnect("127.0.0.1", p->port);
        if (c != NULL && c->err == 0)
            return c;
        redisFree(c);
        (void)poll(NULL, 0, 5); /* until it listens */
    }
    die("redis-server does not listen on port %d", p->port);
}

static void server_say(const struct place *p, const char *const *argv, int n)
{
    redisContext *c = server_dial(p);
    const char *texts[8];
    for (int i = 0; i < n; i++)
        texts[i] = argv[i];
    redisReply *r = redisCommandArgv(c, n, texts, NULL);
    must(r != NULL && r->type != REDIS_REPLY_ERROR);
    freeReplyObject(r);
    redisFree(c);
}

#define SERVER_SAY(p, ...)                                                                                   \
    server_say((p), (const char *const[]){__VA_ARGS__},                                                      \
               (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

/* Waits until it answers and has loaded its data. */
static void server_wait(const struct place *p)
{
    bool is_ready = false;
    while (!is_ready) {
        redisContext *c = server_dial(p);
        redisReply *r = redisCommand(c, "PING");
        is_ready = r != NULL && (r->type == REDIS_REPLY_STATUS || strncmp(r->str, "NOAUTH", 6) == 0);
        if (r != NULL)
            freeReplyObject(r);
        redisFree(c);
    }
}

/* `more`: further arguments, NULL at the end. */
static void server_start(struct place *p, const char *const *more)
{
    char port[16];
    const char *argv[32] = {"redis-server", "--port",        port,     "--bind",    "127.0.0.1",
                            "--dir",        p->dir,          "--save", "",          "--appendonly",
                            "yes",          "--appendfsync", "always", "--logfile", "log"};
    size_t n = 15;
    (void)snprintf(port, sizeof(port), "%d", p->port);
    for (size_t i = 0; more != NULL && more[i] != NULL; i++)
        argv[n++] = more[i];
    argv[n] = NULL;
    p->pid = fork();
    must(p->pid >= 0);
    if (p->pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        (void)execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    server_wait(p);
}

static void server_kill(struct place *p)
{
    if (p->pid == 0)
        return;
    (void)kill(p->pid, SIGKILL);
    must(waitpid(p->pid, NULL, 0) == p->pid);
    p->pid = 0;
}

static struct place *place_new(const char *const *more)
{
    struct place *p = MEM_NEW(struct place);
    (void)snprintf(p->dir, sizeof(p->dir), "/tmp/reeve-redis-XXXXXX");
    must(mkdtemp(p->dir) != NULL);
    p->port = port_free();
    (void)snprintf(p->url, sizeof(p->url), "redis://127.0.0.1:%d/0", p->port);
    server_start(p, more);
    return p;
}

static int on_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void place_free(void *place)
{
    struct place *p = place;
    server_kill(p);
    (void)nftw(p->dir, on_remove, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(p);
}

/* --- opening --- */

struct opening {
    bool is_done;
    int code;
    struct store *s;
    char msg[ERR_MSG_MAX];
};

static void on_opened(int code, struct store *s, const struct err *err, void *data)
{
    struct opening *o = data;
    assert_false(o->is_done);
    assert_true((code == 0) == (s != NULL) && (code == 0) == (err == NULL));
    o->is_done = true;
    o->code = code;
    o->s = s;
    (void)snprintf(o->msg, sizeof(o->msg), "%s", err != NULL ? err->msg : "");
}

static struct opening opened_at(struct loop *l, const char *url)
{
    struct opening o = {0};
    uint64_t end = uv_hrtime() + (uint64_t)SERVER_START_MS * 1000000;
    store_redis_open(l, url, on_opened, &o);
    assert_false(o.is_done);
    while (!o.is_done) {
        assert_true(uv_hrtime() < end);
        (void)uv_run(&l->uv, UV_RUN_NOWAIT);
    }
    return o;
}

static struct store *place_open(void *place, struct loop *l)
{
    struct opening o = opened_at(l, ((struct place *)place)->url);
    if (o.code != 0)
        print_error("%s\n", o.msg);
    return o.s;
}

static const struct clock *place_clock(void *place)
{
    (void)place;
    return &clock_system;
}

static int64_t place_now(void *place)
{
    (void)place;
    return clock_wall_ms(&clock_system);
}

static void place_pass(void *place, int64_t ms)
{
    (void)place;
    int64_t end = clock_mono_ms(&clock_system) + ms + 2;
    while (clock_mono_ms(&clock_system) < end)
        (void)poll(NULL, 0,
                   (int)(end - clock_mono_ms(&clock_system))); /* the server's clock is the machine's */
}

static void place_setup(void **ret_place, const char **ret_skip)
{
    *ret_skip = NULL;
    *ret_place = place_new(NULL);
}

static const struct conformance_engine redis_engine = {
    .name = "redis",
    .setup = place_setup,
    .teardown = place_free,
    .open = place_open,
    .clock = place_clock,
    .now = place_now,
    .pass = place_pass,
    .is_durable = true,
    .changes_lost = 2 * REDIS_CHANGES_KEPT, /* it trims whole nodes, not exactly */
};

/* --- tests of our own --- */

static void world_init(struct conformance *c, struct place *p)
{
    *c = (struct conformance){.engine = &redis_engine, .place = p};
    assert_int_equal(loop_init(&c->loop, &clock_system, &rnd_system), 0);
}

static void world_fini(struct conformance *c)
{
    if (c->s != NULL)
        conformance_close(c);
    loop_fini(&c->loop);
    if (c->place != NULL)
        place_free(c->place);
}

static void addresses(void **state)
{
    (void)state;
    static const char *const refused[] = {"",
                                          "redis",
                                          "http://127.0.0.1:1",
                                          "redis://",
                                          "redis://:6379",
                                          "redis://secret@127.0.0.1:1",
                                          "redis://:sec%zz@127.0.0.1:1",
                                          "redis://:sec%4@127.0.0.1:1",
                                          "redis://127.0.0.1:1/x",
                                          "redis://127.0.0.1:1/-1",
                                          "redis://127.0.0.1:99999",
                                          "redis://127.0.0.1:x",
                                          "redis://unix:/x"};
    struct conformance c;
    world_init(&c, NULL);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct opening o = opened_at(&c.loop, refused[i]);
        if (o.code != E_INVALID)
            fail_msg("%s: %d %s", refused[i], o.code, o.msg);
        assert_null(strstr(o.msg, "sec"));
    }
    world_fini(&c);
}

static void nobody_there(void **state)
{
    (void)state;
    struct conformance c;
    char url[64];
    world_init(&c, NULL);
    (void)snprintf(url, sizeof(url), "redis://127.0.0.1:%d", port_free());
    struct opening o = opened_at(&c.loop, url);
    assert_true(o.code != 0 && o.code != E_INVALID);
    world_fini(&c);
}

static void wrong_settings(void **state)
{
    (void)state;
    static const struct {
        const char *more[5], *name;
    } rows[] = {{{"--appendonly", "no"}, "appendonly"},
                {{"--appendfsync", "everysec"}, "appendfsync"},
                {{"--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"}, "maxmemory-policy"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct conformance c;
        world_init(&c, place_new(rows[i].more));
        struct opening o = opened_at(&c.loop, ((struct place *)c.place)->url);
        assert_int_equal(o.code, E_INVALID);
        assert_non_null(strstr(o.msg, rows[i].name));
        world_fini(&c);
    }
}

static void passwords(void **state)
{
    (void)state;
    static const char *const more[] = {"--requirepass", "se@cret/1", NULL};
    struct conformance c;
    struct place *p = place_new(more);
    char url[128];
    world_init(&c, p);
    (void)snprintf(url, sizeof(url), "redis://127.0.0.1:%d", p->port);
    assert_int_equal(opened_at(&c.loop, url).code, E_AUTH);
    (void)snprintf(url, sizeof(url), "redis://:wrong@127.0.0.1:%d", p->port);
    assert_int_equal(opened_at(&c.loop, url).code, E_AUTH);
    (void)snprintf(url, sizeof(url), "redis://:se%%40cret%%2F1@127.0.0.1:%d/3", p->port);
    c.s = opened_at(&c.loop, url).s;
    assert_non_null(c.s);
    assert_int_equal(commit_one(&c, store_put(SL("k"), SL("v"))).code, 0);
    conformance_close(&c);
    (void)snprintf(url, sizeof(url), "redis://default:se@cret%%2f1@127.0.0.1:%d/4", p->port);
    c.s = opened_at(&c.loop, url).s; /* another database: empty */
    assert_non_null(c.s);
    assert_true(version_of(&c, SL("k"), NULL) == 0);
    world_fini(&c);
}

static void forgotten_scripts(void **state)
{
    (void)state;
    struct conformance c;
    struct race r = {.won = 50};
    struct store_op op = store_add(SL("n"), 1);
    world_init(&c, place_new(NULL));
    c.s = place_open(c.place, &c.loop);
    SERVER_SAY(c.place, "SCRIPT", "FLUSH");
    for (int i = 0; i < 50; i++)
        store_commit(c.s, SL("p"), &op, 1, on_count, &r);
    conformance_until(&c, &r.is_done);
    assert_true(counter_of(&c, SL("n")) == 50);
    world_fini(&c);
}

struct tally {
    size_t answered, good, unknown, unsent, want;
    bool is_done;
};

static void on_tally(const struct store_commit_answer *a, void *data)
{
    struct tally *t = data;
    t->answered++;
    t->good += a->code == 0;
    t->unknown += a->code == E_STORE;
    t->unsent += a->code == E_UNAVAILABLE;
    t->is_done = t->answered == t->want;
}

/* The server stops in the middle, is killed, and comes back: what was acknowledged is there, what was in
 * flight is unknown, reads are asked again, new commits go through. */
static void killed_in_flight(void **state)
{
    (void)state;
    struct conformance c;
    struct place *p = place_new(NULL);
    struct store_op op = store_add(SL("n"), 1);
    struct tally t = {.want = 100}, later = {.want = 20};
    struct records_wait read = {.arena = ARENA_INIT};
    struct slice key = SL("k");
    world_init(&c, p);
    c.s = place_open(p, &c.loop);
    assert_int_equal(commit_one(&c, store_put(SL("k"), SL("kept"))).code, 0);
    assert_int_equal(commit_one(&c, store_add(SL("n"), 1000)).code, 0);
    (void)kill(p->pid, SIGSTOP);
    for (int i = 0; i < 100; i++)
        store_commit(c.s, SL("p"), &op, 1, on_tally, &t);
    store_get(c.s, SL("p"), &key, 1, on_records_wait, &read);
    for (int i = 0; i < 20; i++)
        (void)uv_run(&c.loop.uv, UV_RUN_NOWAIT); /* they are sent */
    server_kill(p);
    conformance_until(&c, &t.is_done);
    assert_int_equal(t.unknown, 100);
    for (int i = 0; i < 20; i++)
        store_commit(c.s, SL("p"), &op, 1, on_tally, &later); /* wait for the server */
    server_start(p, NULL);
    conformance_until(&c, &later.is_done);
    assert_int_equal(later.good, 20);
    conformance_until(&c, &read.is_done);
    assert_int_equal(read.code, 0);
    assert_true(slice_eq_str(read.r[0].value, "kept"));
    records_fini(&read);
    assert_true(version_of(&c, SL("k"), "kept") > 0);
    i128 n = counter_of(&c, SL("n"));
    assert_true(n >= 1020 && n <= 1120);
    world_fini(&c);
}

/* While the server is away, closing does not hang for ever and every call is answered. */
static void closed_while_away(void **state)
{
    (void)state;
    struct conformance c;
    struct place *p = place_new(NULL);
    struct store_op op = store_add(SL("n"), 1);
    struct tally t = {.want = 10};
    bool is_closed = false;
    world_init(&c, p);
    c.s = place_open(p, &c.loop);
    server_kill(p);
    for (int i = 0; i < 10; i++)
        store_commit(c.s, SL("p"), &op, 1, on_tally, &t);
    store_close(c.s, on_flag, &is_closed);
    c.s = NULL;
    conformance_until(&c, &is_closed);
    assert_true(t.is_done);
    assert_int_equal(t.good, 0);
    assert_int_equal(t.unknown + t.unsent, 10);
    world_fini(&c);
}

/* Two controllers on one server: one winner per version, and each hears of the other's changes. */
static void two_controllers(void **state)
{
    (void)state;
    struct conformance c;
    struct watching x;
    struct tally t = {.want = 200};
    struct store_op ops[] = {store_expect(SL("k"), 0), store_put(SL("k"), SL("x"))};
    struct store *other;
    bool is_closed = false;
    world_init(&c, place_new(NULL));
    other = place_open(c.place, &c.loop);
    c.s = place_open(c.place, &c.loop);
    watch_start(&c, &x, SLICE_EMPTY, 0, 2);
    for (int i = 0; i < 100; i++) {
        store_commit(c.s, SL("p"), ops, 2, on_tally, &t);
        store_commit(other, SL("p"), ops, 2, on_tally, &t);
    }
    conformance_until(&c, &t.is_done);
    assert_int_equal(t.good, 1);
    t = (struct tally){.want = 1};
    ops[0] = store_put(SL("other"), SL("b"));
    store_commit(other, SL("p"), ops, 1, on_tally, &t);
    conformance_until(&c, &x.is_enough);
    assert_string_equal(x.keys[0], "k");
    assert_string_equal(x.values[1], "b");
    store_close(other, on_flag, &is_closed);
    conformance_until(&c, &is_closed);
    world_fini(&c);
}

/* A watch goes on over a restart of the server without loss. */
static void watch_over_restart(void **state)
{
    (void)state;
    struct conformance c;
    struct watching x;
    struct place *p = place_new(NULL);
    world_init(&c, p);
    c.s = place_open(p, &c.loop);
    watch_start(&c, &x, SLICE_EMPTY, 0, 1);
    assert_int_equal(commit_one(&c, store_put(SL("a"), SL("1"))).code, 0);
    conformance_until(&c, &x.is_enough);
    x.want = 2;
    x.is_enough = false;
    server_kill(p);
    server_start(p, NULL);
    struct tally t = {.want = 1};
    struct store_op op = store_put(SL("a"), SL("2"));
    while (t.good == 0) { /* the first may meet the dead connection */
        t = (struct tally){.want = 1};
        store_commit(c.s, SL("p"), &op, 1, on_tally, &t);
        conformance_until(&c, &t.is_done);
    }
    conformance_until(&c, &x.is_enough);
    assert_string_equal(x.values[1], "2");
    assert_int_equal(x.resyncs, 0);
    world_fini(&c);
}

/* The data is gone: who watched must look anew. */
static void watch_over_loss(void **state)
{
    (void)state;
    struct conformance c;
    struct watching x;
    world_init(&c, place_new(NULL));
    c.s = place_open(c.place, &c.loop);
    for (int i = 0; i < 5; i++)
        assert_int_equal(commit_one(&c, store_put(SL("a"), SL("1"))).code, 0);
    SERVER_SAY(c.place, "FLUSHALL");
    watch_start(&c, &x, SLICE_EMPTY, 5, 1);
    conformance_until(&c, &x.is_resynced);
    x.last = 0;
    assert_int_equal(commit_one(&c, store_put(SL("a"), SL("new"))).code, 0);
    conformance_until(&c, &x.is_enough);
    assert_string_equal(x.values[0], "new");
    world_fini(&c);
}

struct closer {
    struct conformance *c;
    bool is_closed;
};

static void on_change_close(const struct store_change *ch, size_t n, bool is_resync, void *data)
{
    struct closer *x = data;
    (void)ch;
    assert_true(n == 1 && !is_resync);
    store_close(x->c->s, on_flag, &x->is_closed);
    x->c->s = NULL;
}

static void closed_by_a_watch(void **state)
{
    (void)state;
    struct conformance c;
    struct closer x = {.c = &c};
    world_init(&c, place_new(NULL));
    c.s = place_open(c.place, &c.loop);
    (void)store_watch(c.s, SL("p"), SLICE_EMPTY, 0, on_change_close, &x);
    assert_int_equal(commit_one(&c, store_put(SL("k"), SL("v"))).code, 0);
    conformance_until(&c, &x.is_closed);
    world_fini(&c);
}

/* Partitions whose names would break a hash tag stay apart. */
static void odd_partitions(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "a}", "{a}", "}", "{", "a:rec", "a%7d", "\xff", " "};
    struct conformance c;
    struct slice key = SL("k");
    world_init(&c, place_new(NULL));
    c.s = place_open(c.place, &c.loop);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct store_op ops[] = {store_expect(key, 0), store_put(key, slice_str(names[i]))};
        assert_int_equal(commit_in(&c, slice_str(names[i]), ops, 2).code, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct records_wait r = get_in(&c, slice_str(names[i]), &key, 1);
        assert_true(slice_eq_str(r.r[0].value, names[i]));
        records_fini(&r);
    }
    world_fini(&c);
}

/* Whatever else is stored under our names is an error, not a crash. */
static void alien_data(void **state)
{
    (void)state;
    struct conformance c;
    struct slice key = SL("k");
    world_init(&c, place_new(NULL));
    c.s = place_open(c.place, &c.loop);
    assert_int_equal(commit_one(&c, store_put(key, SL("v"))).code, 0);
    SERVER_SAY(c.place, "SET", "reeve:{q}:rec", "a string");
    SERVER_SAY(c.place, "HSET", "reeve:{r}:rec", "k", "no version");
    SERVER_SAY(c.place, "HSET", "reeve:{r}:cnt", "k", "12");
    SERVER_SAY(c.place, "ZADD", "reeve:{r}:cix", "0", "k");
    struct records_wait r = get_in(&c, SL("q"), &key, 1);
    assert_int_equal(r.code, E_STORE);
    records_fini(&r);
    r = get_in(&c, SL("r"), &key, 1);
    assert_int_equal(r.code, E_STORE);
    records_fini(&r);
    struct store_op op = store_add(key, 1);
    assert_int_equal(commit_in(&c, SL("r"), &op, 1).code, E_STORE);
    op = store_put(key, SL("x"));
    assert_int_equal(commit_in(&c, SL("q"), &op, 1).code, E_STORE);
    assert_true(version_of(&c, key, "v") > 0);
    world_fini(&c);
}

/* --- what is no Redis --- */

struct stranger {
    const char *text; /* said to whatever comes; NULL: hangs up; "": is silent */
    struct stream *stream;
};

static void on_stranger_read(struct stream *s, struct slice bytes, void *data)
{
    struct stranger *x = data;
    (void)bytes;
    if (x->text == NULL) {
        stream_close(s);
        x->stream = NULL;
    } else if (x->text[0] != '\0') {
        struct slice text = slice_str(x->text);
        (void)stream_write(s, &text, 1); /* the other side may be gone */
    }
}

static void on_stranger_end(struct stream *s, void *data)
{
    struct stranger *x = data;
    stream_close(s);
    x->stream = NULL;
}

static void on_stranger_error(struct stream *s, int code, void *data)
{
    (void)code;
    on_stranger_end(s, data);
}

static void on_stranger(struct listener *l, struct stream *s, void *data)
{
    static const struct stream_events events = {
        .on_read = on_stranger_read, .on_eof = on_stranger_end, .on_error = on_stranger_error};
    struct stranger *x = data;
    (void)l;
    if (x->stream != NULL)
        stream_close(x->stream);
    x->stream = s;
    stream_own(s, &events, x);
    stream_read_start(s);
}

static void strangers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
    } rows[] = {{NULL, E_EOF},
                {"HTTP/1.1 400 Bad Request\r\n\r\n", E_UPSTREAM},
                {"-ERR unknown command\r\n", E_INVALID},
                {"+PONG\r\n*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n:1\r\n", E_INVALID},
                {"+PONG\r\n*0\r\n", E_INVALID},
                {"", E_TIMEOUT}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct conformance c;
        struct stranger x = {.text = rows[i].text};
        struct endpoint at;
        struct listener *l;
        char url[64];
        bool is_closed = false;
        world_init(&c, NULL);
        assert_int_equal(endpoint_parse(SL("127.0.0.1:0"), &at, NULL), 0);
        assert_int_equal(listener_open(&c.loop, &at, on_stranger, &x, &l, NULL), 0);
        (void)snprintf(url, sizeof(url), "redis://127.0.0.1:%d", listener_port(l));
        struct opening o = opened_at(&c.loop, url);
        if (o.code != rows[i].code)
            fail_msg("row %zu: %s: %s", i, err_name(o.code), o.msg);
        if (x.stream != NULL)
            stream_close(x.stream);
        listener_close(l, on_flag, &is_closed);
        conformance_until(&c, &is_closed);
        world_fini(&c);
    }
}

/* --- a line that breaks after so many bytes, on either way --- */

#define CUT_NEVER SIZE_MAX

struct relay {
    struct loop *loop;
    struct endpoint to;
    struct listener *listener;
    struct relay_pair *pairs;
    size_t cut_up, cut_down; /* bytes left until the break: to the server, from it */
    unsigned n_cuts;
};

struct relay_pair {
    struct relay *relay;
    struct relay_pair *next;
    struct stream *client, *server; /* server: NULL until connected, NULL both: dead */
    struct connect_op *connecting;
    struct buf early; /* from the client, before the server was there */
};

static void pair_break(struct relay_pair *p)
{
    if (p->client != NULL)
        stream_reset(p->client);
    if (p->server != NULL)
        stream_reset(p->server);
    if (p->connecting != NULL)
        connect_cancel(p->connecting);
    p->client = p->server = NULL;
}

/* Passes on what may pass, then breaks the line. */
static void relay_pass(struct relay_pair *p, struct stream *to, struct slice bytes, size_t *cut)
{
    size_t n = bytes.n < *cut ? bytes.n : *cut;
    struct slice part = slice_of(bytes.p, n);
    if (n > 0 && to != NULL)
        (void)stream_write(to, &part, 1); /* the peer may be gone: then its end comes */
    else if (n > 0)
        must(buf_slice(&p->early, part) == 0);
    if (*cut != CUT_NEVER)
        *cut -= n;
    if (n == bytes.n)
        return;
    *cut = CUT_NEVER;
    p->relay->n_cuts++;
    pair_break(p);
}

static void on_relay_read(struct stream *s, struct slice bytes, void *data)
{
    struct relay_pair *p = data;
    if (s == p->client)
        relay_pass(p, p->server, bytes, &p->relay->cut_up);
    else
        relay_pass(p, p->client, bytes, &p->relay->cut_down);
}

static void on_relay_end(struct stream *s, void *data)
{
    (void)s;
    pair_break(data);
}

static void on_relay_error(struct stream *s, int code, void *data)
{
    (void)s;
    (void)code;
    pair_break(data);
}

static const struct stream_events relay_events = {
    .on_read = on_relay_read, .on_eof = on_relay_end, .on_error = on_relay_error};

static void on_relay_connected(int code, struct stream *s, const struct err *err, void *data)
{
    struct relay_pair *p = data;
    (void)err;
    p->connecting = NULL;
    if (p->client == NULL || code != 0) {
        if (code == 0)
            stream_reset(s);
        pair_break(p);
        return;
    }
    p->server = s;
    stream_own(s, &relay_events, p);
    stream_read_start(s);
    struct slice early = buf_view(&p->early);
    if (early.n > 0)
        (void)stream_write(s, &early, 1); /* as above */
}

static void on_relay_client(struct listener *l, struct stream *s, void *data)
{
    struct relay *r = data;
    struct relay_pair *p = MEM_NEW(struct relay_pair);
    (void)l;
    p->relay = r;
    p->client = s;
    p->next = r->pairs;
    r->pairs = p;
    buf_init(&p->early, 1 << 20);
    stream_own(s, &relay_events, p);
    stream_read_start(s);
    p->connecting = stream_connect(r->loop, &r->to, 5000, on_relay_connected, p);
}

static void relay_init(struct relay *r, struct conformance *c, int port, char url[64])
{
    struct endpoint at;
    char text[32];
    *r = (struct relay){.loop = &c->loop, .cut_up = CUT_NEVER, .cut_down = CUT_NEVER};
    (void)snprintf(text, sizeof(text), "127.0.0.1:%d", port);
    assert_int_equal(endpoint_parse(slice_str(text), &r->to, NULL), 0);
    assert_int_equal(endpoint_parse(SL("127.0.0.1:0"), &at, NULL), 0);
    assert_int_equal(listener_open(&c->loop, &at, on_relay_client, r, &r->listener, NULL), 0);
    (void)snprintf(url, 64, "redis://127.0.0.1:%d", listener_port(r->listener));
}

static void relay_fini(struct relay *r, struct conformance *c)
{
    bool is_closed = false;
    struct relay_pair *p;
    listener_close(r->listener, on_flag, &is_closed);
    for (p = r->pairs; p != NULL; p = p->next)
        pair_break(p);
    conformance_until(c, &is_closed);
    while (r->pairs != NULL) {
        p = r->pairs;
        while (p->connecting != NULL)
            (void)uv_run(&c->loop.uv, UV_RUN_ONCE);
        r->pairs = p->next;
        buf_fini(&p->early);
        mem_free(p);
    }
}

/* Posts event `i` once, however often the line breaks: as an event is posted to the ledger. */
static void post_once(struct conformance *c, int i)
{
    char key[32];
    (void)snprintf(key, sizeof(key), "event/%d", i);
    for (;;) {
        struct commit_wait w = COMMIT(c, store_expect(slice_str(key), 0), store_put(slice_str(key), SL("1")),
                                      store_add(SL("n"), 1), store_append(SL("l"), SL("entry")));
        if (w.code == 0 || w.code == E_CONFLICT) /* done now, or by the try whose answer was lost */
            return;
        assert_true(w.code == E_STORE || w.code == E_UNAVAILABLE);
    }
}

/* The fault loop: the line breaks after every number of bytes that a commit and its answer have; nothing is
 * lost and nothing counted twice; the watch misses nothing. */
static void broken_lines(void **state)
{
    (void)state;
    struct conformance c;
    struct place *p = place_new(NULL);
    struct relay r;
    struct watching x;
    char url[64];
    int i = 0;
    world_init(&c, p);
    relay_init(&r, &c, p->port, url);
    c.s = opened_at(&c.loop, url).s;
    assert_non_null(c.s);
    watch_start(&c, &x, SLICE_EMPTY, 0, 0);
    for (size_t cut = 0; cut < 120; cut += 3) {
        r.cut_down = cut;
        post_once(&c, i++);
        post_once(&c, i++);
    }
    for (size_t cut = 0; cut < 600; cut += 19) {
        r.cut_up = cut;
        post_once(&c, i++);
        post_once(&c, i++);
    }
    r.cut_up = r.cut_down = CUT_NEVER;
    assert_true(r.n_cuts > 20);
    assert_true(counter_of(&c, SL("n")) == i);
    struct log_wait l = log_in(&c, SL("l"), 0, 1000);
    assert_int_equal(l.n, i);
    arena_fini(&l.arena);
    x.want = (size_t)i;
    x.is_enough = x.n >= x.want;
    conformance_until(&c, &x.is_enough);
    assert_int_equal(x.n, i);
    assert_int_equal(x.resyncs, 0);
    conformance_close(&c);
    relay_fini(&r, &c);
    world_fini(&c);
}

/* --- a cluster --- */

static void slots(void **state)
{
    (void)state;
    assert_int_equal(redis_slot(SL("123456789")), 0x31c3); /* the specification's own example */
    assert_int_equal(redis_slot(SL("reeve:{acme}:rec")), redis_slot(SL("reeve:{acme}:log:x{y}")));
    assert_int_equal(redis_slot(SL("{acme}")), redis_slot(SL("acme")));
    assert_true(redis_slot(SL("{}a")) != redis_slot(SL("{}b")));
}

static struct place *cluster_node(const char *first, const char *last, const char *epoch)
{
    char bus[16];
    const char *const more[] = {
        "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "5000", NULL};
    (void)snprintf(bus, sizeof(bus), "%d", port_free());
    struct place *p = place_new(more);
    SERVER_SAY(p, "CLUSTER", "SET-CONFIG-EPOCH", epoch);
    SERVER_SAY(p, "CLUSTER", "ADDSLOTSRANGE", first, last);
    return p;
}

static void cluster_meet(const struct place *a, const struct place *b)
{
    char port[16], bus[16];
    redisContext *c = server_dial(b);
    redisReply *r = redisCommand(c, "CONFIG GET cluster-port");
    must(r != NULL && r->elements == 2);
    (void)snprintf(bus, sizeof(bus), "%s", r->element[1]->str);
    (void)snprintf(port, sizeof(port), "%d", b->port);
    freeReplyObject(r);
    redisFree(c);
    SERVER_SAY(a, "CLUSTER", "MEET", "127.0.0.1", port, bus);
}

static void cluster_wait(const struct place *p)
{
    uint64_t end = uv_hrtime() + 3 * (uint64_t)SERVER_START_MS * 1000000;
    redisContext *c = server_dial(p);
    bool is_ready = false;
    while (!is_ready) {
        redisReply *r = redisCommand(c, "CLUSTER INFO");
        must(r != NULL && uv_hrtime() < end);
        is_ready =
            strstr(r->str, "cluster_state:ok") != NULL && strstr(r->str, "cluster_slots_ok:16384") != NULL;
        freeReplyObject(r);
        (void)poll(NULL, 0, is_ready ? 0 : 20); /* until gossip has come around */
    }
    redisFree(c);
}

/* A watch of any partition. */
static void watch_in(struct conformance *c, struct watching *x, const char *partition, size_t want)
{
    memset(x, 0, sizeof(*x));
    x->want = want;
    x->w = store_watch(c->s, slice_str(partition), SLICE_EMPTY, 0, on_watching, x);
}

/* Partitions live on both servers; the address of one is enough. */
static void a_cluster(void **state)
{
    (void)state;
    enum { TENANTS = 12 };
    struct place *a = cluster_node("0", "8191", "1"), *b = cluster_node("8192", "16383", "2");
    struct conformance c;
    struct watching x[TENANTS];
    char names[TENANTS][16];
    size_t on_a = 0;
    cluster_meet(a, b);
    cluster_wait(a);
    cluster_wait(b);
    world_init(&c, a);
    c.s = place_open(a, &c.loop);
    assert_non_null(c.s);
    for (size_t i = 0; i < TENANTS; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "tenant-%zu", i);
        on_a += redis_slot(slice_str(names[i])) < 8192;
        watch_in(&c, &x[i], names[i], 2);
    }
    assert_true(on_a > 0 && on_a < TENANTS);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < TENANTS; i++) {
            struct slice t = slice_str(names[i]), key = SL("k");
            struct store_op ops[] = {store_put(key, t), store_add(SL("n"), 5), store_append(SL("l"), t)};
            struct commit_wait w = commit_in(&c, t, ops, 3);
            assert_int_equal(w.code, 0);
            assert_true(w.results[0].version == round + 1 && w.results[2].version == round + 1);
            struct records_wait r = get_in(&c, t, &key, 1);
            assert_true(slice_eq(r.r[0].value, t));
            records_fini(&r);
        }
    }
    for (size_t i = 0; i < TENANTS; i++) {
        conformance_until(&c, &x[i].is_enough);
        assert_string_equal(x[i].values[1], names[i]);
        assert_int_equal(x[i].resyncs, 0);
    }
    world_fini(&c);
    place_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),          cmocka_unit_test(nobody_there),
        cmocka_unit_test(wrong_settings),     cmocka_unit_test(passwords),
        cmocka_unit_test(forgotten_scripts),  cmocka_unit_test(killed_in_flight),
        cmocka_unit_test(closed_while_away),  cmocka_unit_test(two_controllers),
        cmocka_unit_test(watch_over_restart), cmocka_unit_test(watch_over_loss),
        cmocka_unit_test(odd_partitions),     cmocka_unit_test(closed_by_a_watch),
        cmocka_unit_test(alien_data),         cmocka_unit_test(strangers),
        cmocka_unit_test(broken_lines),       cmocka_unit_test(slots),
        cmocka_unit_test(a_cluster),
    };
    if (server_is_missing()) {
        const char *require = getenv("REEVE_REQUIRE");
        print_message("[  SKIPPED ] redis: no redis-server on this machine\n");
        return require != NULL && strcmp(require, "all") == 0;
    }
    int failed = conformance_run(&redis_engine);
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed == 0 ? 0 : 1;
}
