/* log: an event becomes one line and one write(2), so that lines of several processes do not mix.
 *
 * The line is built in a buffer on the stack; what does not fit is cut and the line says "truncated". A line
 * that cannot be written is lost (stderr is all we have to complain on). Strings are escaped in both forms:
 * a hostile value cannot start a line of its own or send terminal codes. */
#include "base/core/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/core/mem.h"

enum {
    LOG_LINE_MAX = 8192,
    LOG_TAIL_MAX = 24,    /* kept free for what closes a cut line */
    LOG_VALUE_MAX = 2048, /* most bytes of one string value */
};

static struct {
    enum log_level least;
    bool is_human;
    int fd;
    const struct clock *clock;
    bool is_set;
} g_log = {LOG_INFO, false, STDERR_FILENO, &clock_system, false};

static const char *const LEVEL_NAMES[] = {"debug", "info", "warn", "error"};

struct log_line {
    char text[LOG_LINE_MAX];
    size_t n;
    bool is_cut;
};

void log_setup(enum log_level least, enum log_form form, int fd, const struct clock *clock)
{
    g_log.least = least;
    g_log.fd = fd;
    g_log.clock = clock == NULL ? &clock_system : clock;
    g_log.is_human = form == LOG_FORM_HUMAN || (form == LOG_FORM_AUTO && isatty(fd) == 1);
    g_log.is_set = true;
}

bool log_is_on(enum log_level level)
{
    return level >= g_log.least;
}

/* All or nothing; the first that does not fit ends the line. */
static void line_put(struct log_line *l, const char *p, size_t n)
{
    if (l->is_cut || n > sizeof(l->text) - LOG_TAIL_MAX - l->n) {
        l->is_cut = true;
        return;
    }
    memcpy(l->text + l->n, p, n);
    l->n += n;
}

static void line_str(struct log_line *l, const char *s)
{
    line_put(l, s, strlen(s));
}

static void line_escape(struct log_line *l, unsigned char c)
{
    char text[8];
    int n = snprintf(text, sizeof(text), "\\u%04x", c);

    line_put(l, text, (size_t)n);
}

/* The inside of a JSON string. Bytes that are not UTF-8 become U+FFFD one by one. */
static void line_escaped(struct log_line *l, struct slice s)
{
    bool is_long = s.n > LOG_VALUE_MAX;

    if (is_long) {
        s.n = LOG_VALUE_MAX;
        while (s.n > 0 && ((unsigned char)s.p[s.n] & 0xc0) == 0x80)
            s.n--;
    }
    while (s.n > 0 && !l->is_cut) {
        size_t good = slice_utf8_prefix(s), plain = 0;

        while (plain < good) {
            unsigned char c = (unsigned char)s.p[plain];

            if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f || c == 0xc2)
                break;
            plain++;
        }
        line_put(l, s.p, plain);
        s = slice_from(s, plain);
        if (s.n == 0)
            break;
        if (plain == good) {
            line_str(l, "\xef\xbf\xbd");
            s = slice_from(s, 1);
        } else if ((unsigned char)s.p[0] == 0xc2) {
            /* U+0080 to U+009F are control codes to a terminal as well; the rest of 0xC2 is text. */
            if ((unsigned char)s.p[1] < 0xa0)
                line_escape(l, (unsigned char)s.p[1]);
            else
                line_put(l, s.p, 2);
            s = slice_from(s, 2);
        } else {
            if (s.p[0] == '\n')
                line_str(l, "\\n");
            else if (s.p[0] == '"' || s.p[0] == '\\')
                line_put(l, (char[]){'\\', s.p[0]}, 2);
            else
                line_escape(l, (unsigned char)s.p[0]);
            s = slice_from(s, 1);
        }
    }
    if (is_long)
        line_str(l, "\xe2\x80\xa6");
}

static void line_quoted(struct log_line *l, struct slice s)
{
    line_str(l, "\"");
    line_escaped(l, s);
    line_str(l, "\"");
}

/* For people: words without blanks and quotes need no quotes. */
static void line_plain(struct log_line *l, struct slice s)
{
    bool is_plain = s.n > 0;

    for (size_t i = 0; i < s.n && is_plain; i++) {
        unsigned char c = (unsigned char)s.p[i];

        is_plain = c > 0x20 && c < 0x7f && c != '"' && c != '\\' && c != '=';
    }
    if (is_plain)
        line_escaped(l, s);
    else
        line_quoted(l, s);
}

static void line_value(struct log_line *l, const struct log_field *f, bool is_human)
{
    struct slice s = f->kind == LOG_STR ? slice_str(f->str) : (struct slice){f->str, f->n};
    char number[24];

    switch (f->kind) {
    case LOG_STR:
    case LOG_SLICE:
        if (s.p == NULL)
            line_str(l, is_human ? "-" : "null");
        else if (is_human)
            line_plain(l, s);
        else
            line_quoted(l, s);
        return;
    case LOG_INT:
        (void)snprintf(number, sizeof(number), "%lld", (long long)f->i);
        line_str(l, number);
        return;
    case LOG_BOOL:
        line_str(l, f->i != 0 ? "true" : "false");
        return;
    case LOG_END:
        break;
    }
    die("log field \"%s\" has kind %d", f->name, (int)f->kind);
}

static void line_json(struct log_line *l, enum log_level level, const char *event, const struct log_field *f,
                      const char *ts)
{
    line_str(l, "{\"ts\":\"");
    line_str(l, ts);
    line_str(l, "\",\"level\":\"");
    line_str(l, LEVEL_NAMES[level]);
    line_str(l, "\",\"event\":");
    line_quoted(l, slice_str(event));
    for (; f->kind != LOG_END; f++) {
        size_t before = l->n;

        line_str(l, ",");
        line_quoted(l, slice_str(f->name));
        line_str(l, ":");
        line_value(l, f, false);
        if (l->is_cut) {
            static const char MARK[] = ",\"truncated\":true";

            l->n = before; /* half a field would not be JSON */
            memcpy(l->text + l->n, MARK, sizeof(MARK) - 1);
            l->n += sizeof(MARK) - 1;
            break;
        }
    }
    memcpy(l->text + l->n, "}\n", 2);
    l->n += 2;
}

static void line_human(struct log_line *l, enum log_level level, const char *event, const struct log_field *f,
                       const char *ts)
{
    static const char *const SHOWN[] = {"DEBUG ", "INFO  ", "WARN  ", "ERROR "};
    struct slice rest = slice_str(ts), date;

    (void)slice_cut(&rest, 'T', &date); /* a terminal shows the time of day, UTC */
    line_put(l, rest.p, rest.n);
    line_str(l, " ");
    line_str(l, SHOWN[level]);
    line_escaped(l, slice_str(event));
    for (; f->kind != LOG_END && !l->is_cut; f++) {
        line_str(l, "  ");
        line_escaped(l, slice_str(f->name));
        line_str(l, "=");
        line_value(l, f, true);
    }
    if (l->is_cut) {
        static const char MARK[] = " (truncated)";

        memcpy(l->text + l->n, MARK, sizeof(MARK) - 1);
        l->n += sizeof(MARK) - 1;
    }
    l->text[l->n++] = '\n';
}

void log_fields(enum log_level level, const char *event, const struct log_field *fields)
{
    struct log_line l;
    char ts[TIME_TEXT_MAX];
    int errno_kept = errno;

    if (!log_is_on(level))
        return;
    if (!g_log.is_set)
        log_setup(LOG_INFO, LOG_FORM_AUTO, STDERR_FILENO, &clock_system);
    l.n = 0;
    l.is_cut = false;
    time_format(clock_wall_ms(g_log.clock), ts);
    if (g_log.is_human)
        line_human(&l, level, event, fields, ts);
    else
        line_json(&l, level, event, fields, ts);
    while (write(g_log.fd, l.text, l.n) < 0 && errno == EINTR)
        ;
    errno = errno_kept;
}
