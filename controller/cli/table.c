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

static char *cell_at(const struct table *t, size_t row, size_t column)
{
    return t->cells + (row * t->columns + column) * TABLE_CELL_MAX;
}

void table_row(struct table *t)
{
    if (t->rows == t->cap) {
        t->cap = t->cap == 0 ? 16 : t->cap * 2;
        t->cells = mem_realloc(t->cells, t->cap * t->columns * TABLE_CELL_MAX);
    }
    memset(cell_at(t, t->rows, 0), 0, t->columns * TABLE_CELL_MAX);
    t->rows++;
}

void table_cell(struct table *t, size_t column, struct slice text)
{
    char *cell = cell_at(t, t->rows - 1, column);
    (void)snprintf(cell, TABLE_CELL_MAX, "%.*s", (int)text.n, text.n > 0 ? text.p : "");
    for (; *cell != '\0'; cell++)
        if ((unsigned char)*cell < 0x20 || *cell == 0x7f)
            *cell = '?';
}

static size_t width_of(const struct table *t, size_t column)
{
    size_t width = strlen(t->heads[column]);
    for (size_t r = 0; r < t->rows; r++)
        if (strlen(cell_at(t, r, column)) > width)
            width = strlen(cell_at(t, r, column));
    return width;
}

void table_print(struct table *t)
{
    for (size_t r = 0; r <= t->rows; r++) {
        for (size_t i = 0; i < t->columns; i++) {
            const char *text = r == 0 ? t->heads[i] : cell_at(t, r - 1, i);
            if (i + 1 == t->columns)
                (void)printf("%s\n", text);
            else
                (void)printf("%-*s  ", (int)width_of(t, i), text);
        }
    }
    table_fini(t);
}

void table_fini(struct table *t)
{
    mem_free(t->cells);
    t->cells = NULL;
}
