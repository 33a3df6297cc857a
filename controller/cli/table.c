/* table: columns for people, on stdout. What comes from sandboxes and users is printed without control bytes,
 * so that a name cannot drive the terminal. */
#include "controller/cli/command.h"

#include "base/core/mem.h"

#include <stdio.h>
#include <string.h>

void table_init(struct table *t, const char *const *heads, size_t n)
{
    must(n <= TABLE_COLUMNS_MAX);
    *t = (struct table){.columns = n};
    for (size_t i = 0; i < n; i++)
        t->heads[i] = heads[i];
}

static char **cell_at(const struct table *t, size_t row, size_t column)
{
    return &t->cells[row * t->columns + column];
}

void table_row(struct table *t)
{
    if (t->rows == t->cap) {
        t->cap = t->cap == 0 ? 16 : t->cap * 2;
        t->cells = mem_realloc(t->cells, t->cap * t->columns * sizeof *t->cells);
    }
    for (size_t i = 0; i < t->columns; i++)
        *cell_at(t, t->rows, i) = NULL;
    t->rows++;
}

bool text_drives(struct slice text, size_t at)
{
    unsigned char c = (unsigned char)text.p[at];
    unsigned char before = at > 0 ? (unsigned char)text.p[at - 1] : 0;
    unsigned char after = at + 1 < text.n ? (unsigned char)text.p[at + 1] : 0;
    return c < 0x20 || c == 0x7f || (c == 0xc2 && after >= 0x80 && after < 0xa0) ||
           (before == 0xc2 && c >= 0x80 && c < 0xa0);
}

void text_print(FILE *f, struct slice text)
{
    for (size_t i = 0; i < text.n; i++)
        (void)fputc(text_drives(text, i) ? '?' : text.p[i], f);
}

void table_cell(struct table *t, size_t column, struct slice text)
{
    char **cell = cell_at(t, t->rows - 1, column);
    mem_free(*cell);
    *cell = mem_strndup(text.n > 0 ? text.p : "", text.n);
    for (size_t i = 0, n = strlen(*cell); i < n; i++)
        if (text_drives(text, i))
            (*cell)[i] = '?';
}

static const char *text_at(const struct table *t, size_t row, size_t column)
{
    const char *text = row == 0 ? t->heads[column] : *cell_at(t, row - 1, column);
    return text != NULL ? text : "";
}

void table_print(struct table *t)
{
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    for (size_t r = 0; r <= t->rows; r++) {
        for (size_t i = 0; i < t->columns; i++) {
            size_t n = strlen(text_at(t, r, i));
            widths[i] = n > widths[i] ? n : widths[i];
        }
    }
    for (size_t r = 0; r <= t->rows; r++) {
        for (size_t i = 0; i < t->columns; i++) {
            if (i + 1 == t->columns)
                (void)printf("%s\n", text_at(t, r, i));
            else
                (void)printf("%-*s  ", (int)widths[i], text_at(t, r, i));
        }
    }
    table_fini(t);
}

void table_fini(struct table *t)
{
    for (size_t i = 0; i < t->rows * t->columns; i++)
        mem_free(t->cells[i]);
    mem_free(t->cells);
    *t = (struct table){.columns = t->columns};
}

int table_end(struct table *t, int code)
{
    if (code == EXIT_DONE && !command_wants_json())
        table_print(t);
    else
        table_fini(t);
    return code;
}
