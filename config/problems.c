/* problems: what is wrong with a file, all of it, in order of position.
 *
 * Happy path: whoever finds a mistake adds it and goes on looking; the person sees all of them at once. A
 * problem's text may quote what the file says, so control characters are made harmless here, in one place.
 * Failure path: more than CONFIG_PROBLEMS_MAX are counted but not kept, and the count is shown. */
#include "config/yaml.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

#define TEXT_MAX 1000

void config_problems_init(struct config_problems *p)
{
    *p = (struct config_problems){.arena = ARENA_INIT};
}

void config_problems_fini(struct config_problems *p)
{
    arena_fini(&p->arena);
    mem_free(p->items);
    config_problems_init(p);
}

/* A terminal must not be driven by a configuration file: C0, DEL and C1 (C2 80..9F in UTF-8) become '?'. */
static void disarm(char *s)
{
    for (unsigned char *c = (unsigned char *)s; *c != 0; c++) {
        if (*c < 0x20 || *c == 0x7f)
            *c = ' ';
        else if (*c == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f)
            c[0] = c[1] = '?';
    }
}

/* Files stand in the order of their first problem, within a file by position, equals in the order they were
 * found. */
static size_t place_of(const struct config_problems *p, const char *file, unsigned line, unsigned column)
{
    size_t at = p->n;
    while (at > 0 && strcmp(p->items[at - 1].file, file) != 0)
        at--;
    if (at == 0)
        return p->n;
    while (at > 0 && strcmp(p->items[at - 1].file, file) == 0) {
        const struct config_problem *x = &p->items[at - 1];
        if (x->line < line || (x->line == line && x->column <= column))
            break;
        at--;
    }
    return at;
}

void config_problem_add(struct config_problems *p, const char *file, unsigned line, unsigned column,
                        const char *hint, const char *fmt, ...)
{
    if (p->n == CONFIG_PROBLEMS_MAX) {
        p->dropped++;
        return;
    }
    if (p->n == p->cap) {
        p->cap = p->cap == 0 ? 16 : p->cap * 2;
        p->items = mem_realloc(p->items, p->cap * sizeof(*p->items));
    }
    char text[TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    must(len >= 0);
    size_t at = place_of(p, file, line, column);
    memmove(&p->items[at + 1], &p->items[at], (p->n - at) * sizeof(*p->items));
    p->n++;
    struct config_problem *x = &p->items[at];
    x->file = arena_strdup(&p->arena, file);
    x->line = line;
    x->column = column;
    x->text = arena_strdup(&p->arena, text);
    x->hint = hint == NULL ? NULL : arena_strdup(&p->arena, hint);
    disarm(x->file);
    disarm(x->text);
    if (x->hint != NULL)
        disarm(x->hint);
}

void config_problems_print(const struct config_problems *p, struct buf *out)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct config_problem *x = &p->items[i];
        (void)buf_str(out, x->file); /* a full buffer says so itself */
        if (x->line != 0)
            (void)buf_printf(out, ":%u:%u", x->line, x->column);
        (void)buf_printf(out, ": %s", x->text);
        if (x->hint != NULL)
            (void)buf_printf(out, "; %s", x->hint);
        (void)buf_byte(out, '\n');
    }
    if (p->dropped > 0)
        (void)buf_printf(out, "and %zu more problems\n", p->dropped);
}
