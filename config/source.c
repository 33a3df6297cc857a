/* source: reading files, and saying what is wrong with them without giving secrets away.
 *
 * Happy path: source_read takes a whole regular file. Failure paths: a folder, a device, a pipe that would
 * block, or a file beyond its maximum is refused with the reason; what looks like a credential is never
 * quoted in a message. */
#include "config/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/mem.h"

static void complain_at(struct source *s, unsigned line, unsigned column, const char *hint, const char *fmt,
                        va_list ap) __attribute__((format(printf, 5, 0)));

static void complain_at(struct source *s, unsigned line, unsigned column, const char *hint, const char *fmt,
                        va_list ap)
{
    char text[1000];
    (void)vsnprintf(text, sizeof(text), fmt, ap); /* a longer text is cut */
    s->complaints++;
    config_problem_add(s->problems, s->file, line, column, hint, "%s", text);
}

void source_complain(struct source *s, const struct yaml_node *at, const char *hint, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    complain_at(s, at->line, at->column, hint, fmt, ap);
    va_end(ap);
}

void source_complain_key(struct source *s, const struct yaml_node *at, const char *hint, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    complain_at(s, at->key_line, at->key_column, hint, fmt, ap);
    va_end(ap);
}

bool slice_may_be_secret(struct slice s)
{
    static const char *const starts[] = {"rvk_", "rvs_", "sk-", "sk_", "Bearer ", "eyJ"};
    for (size_t i = 0; i < ARRAY_LEN(starts); i++)
        if (slice_starts(s, slice_str(starts[i])))
            return true;
    return s.n > 3 && memmem(s.p, s.n, "://", 3) != NULL && slice_find(s, '@') != SIZE_MAX;
}

const char *slice_show(struct slice s, char out[SHOW_MAX])
{
    size_t n = s.n;
    if (s.p == NULL) {
        memcpy(out, "(none)", sizeof("(none)"));
        return out;
    }
    if (slice_may_be_secret(s)) {
        memcpy(out, "(not shown)", sizeof("(not shown)"));
        return out;
    }
    if (n > 60) {
        for (n = 60; n > 0 && ((unsigned char)s.p[n] & 0xc0) == 0x80;)
            n--; /* whole characters */
    }
    (void)snprintf(out, SHOW_MAX, "%.*s%s", (int)n, s.p, n < s.n ? "…" : "");
    return out;
}

const char *hint_text(const struct hint *h, char out[SHOW_MAX + 32])
{
    if (h->best.p == NULL)
        return NULL;
    (void)snprintf(out, SHOW_MAX + 32, "did you mean `%s`?", SHOW(h->best));
    return out;
}

struct slice source_path(const struct source *s, struct arena *a, struct slice path)
{
    while (slice_starts(path, SL("./")))
        path = slice_from(path, 2);
    if (slice_starts(path, SL("/")))
        return arena_slice(a, path);
    if (slice_eq_str(path, "."))
        return s->dir.n == 0 ? arena_slice(a, SL("/")) : arena_slice(a, s->dir);
    return slice_str(arena_printf(a, "%.*s/%.*s", SL_ARG(s->dir), SL_ARG(path)));
}

/* Room is taken once, for what the file says it has: a buffer that grows would leave copies of a secret
 * behind. */
static int read_all(int fd, size_t size, size_t max, struct buf *out, struct err *err)
{
    size_t room = size < 4095 ? 4096 : size < max ? size + 1 : max + 1;
    for (;;) {
        if (room > max + 1 - out->n) /* one more than allowed tells a file that is too large */
            room = max + 1 - out->n;
        int r = buf_reserve(out, room);
        if (r != 0)
            return err_set(err, r, "larger than %zu bytes", max);
        ssize_t n = read(fd, out->p + out->n, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, err_from_errno(errno), "%s", strerror(errno));
        if (n == 0)
            return 0;
        out->n += (size_t)n;
        out->p[out->n] = '\0';
        if (out->n > max)
            return err_set(err, E_TOO_LARGE, "larger than %zu bytes", max);
        room = room > (size_t)n ? room - (size_t)n : 65536;
    }
}

int source_read(const char *path, size_t max, struct buf *out, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return err_set(err, err_from_errno(errno), "%s", strerror(errno));
    struct stat st;
    int r;
    buf_init(out, max + 1);
    if (fstat(fd, &st) != 0)
        r = err_set(err, err_from_errno(errno), "%s", strerror(errno));
    else if (S_ISDIR(st.st_mode))
        r = err_set(err, E_INVALID, "it is a folder");
    else if (!S_ISREG(st.st_mode))
        r = err_set(err, E_INVALID, "it is not a regular file");
    else
        r = read_all(fd, (size_t)st.st_size, max, out, err);
    (void)close(fd); /* read only: nothing can be lost */
    if (r != 0)
        buf_wipe(out);
    return r;
}
