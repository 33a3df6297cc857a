/* docker_image: images that are not there yet: pulled once for all who want them.
 *
 * Happy path: the first create that misses an image begins the pull; whoever wants it is told how far it is,
 * and in the end that it is there. Failure paths: a pull that fails is told with the engine's words to all
 * who come within FAILED_MS, then it is tried again; one that says nothing for SILENT_MS is given up. */
#include <stdio.h>
#include <string.h>

#include <utlist.h>

#include "base/core/mem.h"
#include "base/net/http.h"
#include "providers/docker.h"

#define IMAGES_MAX  64
#define WAITERS_MAX 10000
#define LAYERS_MAX  256
#define FAILED_MS   30000
#define SILENT_MS   300000
#define TELL_MS     1000

struct layer {
    char id[32];
    uint64_t current, total;
    bool is_done;
};

struct waiter {
    struct waiter *next;
    char *id, *workspace;
};

struct docker_image {
    UT_hash_handle hh;
    struct docker *d;
    char *name;
    struct docker_call *call; /* the pull; NULL: it failed */
    struct waiter *waiters;
    size_t n_waiters;
    struct layer layers[LAYERS_MAX];
    size_t n_layers;
    struct err err;      /* how the pull ended, or what it said last of an error */
    int64_t retry_at_ms; /* of one that failed */
    int64_t told_ms, heard_ms;
    struct timer timer;  /* silence; later, forgetting the failure */
    struct timer teller; /* what came too soon after the last word of progress */
    unsigned n_handles;
};

static void on_timer_closed(void *data)
{
    struct docker_image *m = data;
    struct docker *d = m->d;
    if (--m->n_handles > 0)
        return;
    mem_free(m->name);
    mem_free(m);
    d->n_handles--;
    docker_maybe_closed(d);
}

static void waiters_free(struct docker_image *m)
{
    struct waiter *w, *next;
    LL_FOREACH_SAFE (m->waiters, w, next) {
        mem_free(w->id);
        mem_free(w->workspace);
        mem_free(w);
    }
    m->waiters = NULL;
    m->n_waiters = 0;
}

static void image_free(struct docker_image *m)
{
    struct docker *d = m->d;
    HASH_DEL(d->images, m);
    if (m->call != NULL)
        docker_call_cancel(m->call);
    waiters_free(m);
    d->n_handles++;
    timer_close(&m->timer, on_timer_closed);
    timer_close(&m->teller, on_timer_closed);
}

/* --- how far it is --- */

static void progress_text(const struct docker_image *m, struct buf *out)
{
    uint64_t current = 0, total = 0;
    size_t done = 0;
    for (size_t i = 0; i < m->n_layers; i++) {
        done += m->layers[i].is_done;
        current += m->layers[i].current;
        total += m->layers[i].total;
    }
    (void)buf_printf(out, "image %.200s is being pulled", m->name); /* fits */
    if (m->n_layers > 0)
        (void)buf_printf(out, ": %zu of %zu layers", done, m->n_layers);
    if (total > 0)
        (void)buf_printf(out, ", %llu of %llu MiB", (unsigned long long)(current >> 20),
                         (unsigned long long)((total >> 20) + 1));
}

static void on_teller(void *data)
{
    struct docker_image *m = data;
    struct docker *d = m->d;
    struct buf text = BUF_INIT(400);
    struct waiter *w;
    if (d->p.on_progress == NULL || m->call == NULL)
        return;
    m->told_ms = clock_mono_ms(d->loop->clock);
    progress_text(m, &text);
    LL_FOREACH (m->waiters, w)
        d->p.on_progress(slice_str(w->id), slice_str(w->workspace), buf_cstr(&text), d->p.data);
    buf_fini(&text);
}

static void progress_tell(struct docker_image *m)
{
    int64_t since = clock_mono_ms(m->d->loop->clock) - m->told_ms;
    if (!timer_is_active(&m->teller))
        timer_start(&m->teller, since < TELL_MS ? TELL_MS - since : 0);
}

static struct layer *layer_of(struct docker_image *m, struct slice id)
{
    for (size_t i = 0; i < m->n_layers; i++)
        if (slice_eq_str(id, m->layers[i].id))
            return &m->layers[i];
    if (id.n == 0 || id.n >= sizeof(m->layers[0].id) || m->n_layers == LAYERS_MAX)
        return NULL;
    struct layer *l = &m->layers[m->n_layers++];
    memcpy(l->id, id.p, id.n);
    return l;
}

static void on_line(struct slice line, void *data)
{
    struct docker_image *m = data;
    struct arena a = ARENA_INIT;
    struct docker_progress p;
    m->heard_ms = clock_mono_ms(m->d->loop->clock);
    if (docker_progress_parse(line, &a, &p, NULL) == 0) {
        if (p.error.n > 0)
            (void)err_set(&m->err, E_UNAVAILABLE, "%.*s", SL_ARG(p.error));
        bool is_done = slice_eq_str(p.status, "Pull complete") || slice_eq_str(p.status, "Already exists");
        bool is_load = slice_eq_str(p.status, "Downloading");
        bool is_layer = is_done || is_load || slice_eq_str(p.status, "Pulling fs layer") ||
                        slice_eq_str(p.status, "Waiting");
        struct layer *l = is_layer ? layer_of(m, p.layer) : NULL;
        if (l != NULL && is_load && p.total >= p.current && p.total < (uint64_t)1 << 50) {
            l->current = p.current;
            l->total = p.total;
        }
        if (l != NULL && is_done) {
            l->current = l->total;
            l->is_done = true;
        }
        progress_tell(m);
    }
    arena_fini(&a);
}

/* --- the end --- */

static void waiters_tell(struct docker_image *m)
{
    struct docker *d = m->d;
    struct waiter *all = m->waiters, *w, *next;
    m->waiters = NULL; /* what they do next may come back here */
    m->n_waiters = 0;
    LL_FOREACH_SAFE (all, w, next) {
        if (d->p.on_event != NULL && !d->is_closing)
            d->p.on_event(slice_str(w->id), slice_str(w->workspace), PROVIDER_EVENT_AGAIN, d->p.data);
        mem_free(w->id);
        mem_free(w->workspace);
        mem_free(w);
    }
}

static void pull_failed(struct docker_image *m)
{
    m->retry_at_ms = clock_mono_ms(m->d->loop->clock) + FAILED_MS;
    timer_start(&m->timer, FAILED_MS);
    waiters_tell(m);
}

/* What the engine's words mean for who wants the image. */
static int failure_code(int status, struct slice said)
{
    static const char *const never[] = {"not found", "manifest unknown", "does not exist", "access denied",
                                        "invalid reference"};
    if (status == 404 || status == 400)
        return E_INVALID;
    for (size_t i = 0; i < ARRAY_LEN(never); i++)
        if (memmem(said.p, said.n, never[i], strlen(never[i])) != NULL)
            return E_INVALID;
    return E_BUSY; /* says nothing about the engine: other images may be there */
}

static void on_pulled(int code, const struct docker_answer *a, const struct err *err, void *data)
{
    struct docker_image *m = data;
    struct err why = {0};
    m->call = NULL;
    if (code != 0) {
        why = *err;
        why.code = code == E_UPSTREAM ? E_BUSY : E_UNAVAILABLE; /* too long a line; else the engine went */
    } else if (a->status != 200) {
        (void)docker_answer_error(a, &why);
        why.code = failure_code(a->status, slice_str(why.msg));
    } else if (m->err.code != 0) {
        why = m->err;
        why.code = failure_code(a->status, slice_str(why.msg));
    }
    if (why.code == 0 ||
        why.code == E_UNAVAILABLE) { /* it is there; or the engine is away, and says so itself */
        waiters_tell(m);
        image_free(m);
        return;
    }
    m->err = why;
    (void)err_prefix(&m->err, "image %.200s cannot be pulled", m->name);
    pull_failed(m);
}

static void on_timer(void *data)
{
    struct docker_image *m = data;
    int64_t silent = clock_mono_ms(m->d->loop->clock) - m->heard_ms;
    if (m->call == NULL) {
        image_free(m);
    } else if (silent < SILENT_MS) {
        timer_start(&m->timer, SILENT_MS - silent);
    } else {
        docker_call_cancel(m->call);
        m->call = NULL;
        (void)err_set(&m->err, E_BUSY, "image %.200s cannot be pulled: nothing is heard of the pull",
                      m->name);
        pull_failed(m);
    }
}

/* --- the beginning --- */

/* A tag stands behind the last '/'; without tag and digest it is `latest` (the engine would pull all). */
static void target_write(struct slice name, struct buf *out)
{
    size_t at = name.n;
    while (at > 0 && name.p[at - 1] != '/')
        at--;
    struct slice last = slice_from(name, at);
    size_t colon = slice_find(last, ':');
    bool has_digest = slice_find(last, '@') != SIZE_MAX;
    struct slice tag = SL("latest");
    if (!has_digest && colon != SIZE_MAX) {
        tag = slice_from(last, colon + 1);
        name.n = at + colon;
    }
    (void)buf_str(out, "/images/create?fromImage=");
    (void)url_encode(name, out);
    if (!has_digest) {
        (void)buf_str(out, "&tag=");
        (void)url_encode(tag, out);
    }
}

static struct docker_image *pull_begin(struct docker *d, struct slice name)
{
    struct docker_image *m = MEM_NEW(struct docker_image);
    struct buf target = BUF_INIT(8192);
    m->d = d;
    m->name = mem_strndup(name.p, name.n);
    m->heard_ms = clock_mono_ms(d->loop->clock);
    HASH_ADD_KEYPTR(hh, d->images, m->name, name.n, m);
    timer_init(&m->timer, d->loop, on_timer, m);
    timer_start(&m->timer, SILENT_MS);
    timer_init(&m->teller, d->loop, on_teller, m);
    m->n_handles = 2;
    target_write(name, &target);
    const struct docker_request r = {
        .method = "POST", .target = buf_cstr(&target), .body = SLICE_EMPTY, .on_line = on_line};
    m->call = docker_call_start(d->engine, &r, on_pulled, m);
    buf_fini(&target);
    return m;
}

static void waiter_add(struct docker_image *m, struct slice id, struct slice workspace)
{
    struct waiter *w;
    LL_FOREACH (m->waiters, w)
        if (slice_eq_str(id, w->id))
            return;
    if (m->n_waiters >= WAITERS_MAX)
        return; /* it comes again by itself, later */
    w = MEM_NEW(struct waiter);
    w->id = mem_strndup(id.p, id.n);
    w->workspace = mem_strndup(workspace.p, workspace.n);
    LL_PREPEND(m->waiters, w);
    m->n_waiters++;
}

int docker_image_want(struct docker *d, struct slice image, struct slice id, struct slice workspace,
                      struct err *err)
{
    struct docker_image *m = NULL;
    struct buf text = BUF_INIT(400);
    HASH_FIND(hh, d->images, image.p, image.n, m);
    if (m != NULL && m->call == NULL && clock_mono_ms(d->loop->clock) < m->retry_at_ms) {
        *err = m->err;
        return err->code;
    }
    if (m != NULL && m->call == NULL) {
        image_free(m);
        m = NULL;
    }
    if (m == NULL && HASH_COUNT(d->images) >= IMAGES_MAX)
        return err_set(err, E_BUSY, "too many images are being pulled");
    if (m == NULL)
        m = pull_begin(d, image);
    waiter_add(m, id, workspace);
    progress_text(m, &text);
    (void)err_set(err, E_AGAIN, "%s", buf_cstr(&text));
    buf_fini(&text);
    return E_AGAIN;
}

void docker_images_close(struct docker *d)
{
    struct docker_image *m, *next;
    HASH_ITER (hh, d->images, m, next)
        image_free(m);
}
