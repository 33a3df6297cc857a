/* mem: malloc that either gives memory or ends the process.
 *
 * Memory is bounded by design (every queue and buffer has a maximum), so running out means the machine is
 * lost to us; what was acknowledged is in the store and a restart finds it. die() writes with write(2) alone:
 * it must work when nothing else does. */
#include "base/core/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *mem_checked(void *p, size_t n)
{
    if (p == NULL)
        die("out of memory: %zu bytes", n);
    return p;
}

void *mem_alloc(size_t n)
{
    return mem_checked(malloc(n == 0 ? 1 : n), n);
}

void *mem_zalloc(size_t n)
{
    return mem_checked(calloc(1, n == 0 ? 1 : n), n);
}

void *mem_realloc(void *p, size_t n)
{
    return mem_checked(realloc(p, n == 0 ? 1 : n), n);
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

char *mem_strndup(const char *s, size_t n)
{
    char *p;

    must(n < (size_t)-1);
    p = mem_alloc(n + 1);
    if (n > 0)
        memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

void mem_free(void *p)
{
    free(p);
}

void mem_wipe(void *p, size_t n)
{
    if (n > 0)
        explicit_bzero(p, n);
}

void die(const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    if ((size_t)n > sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    line[n++] = '\n';
    /* Nobody is left to hear that stderr is gone too. */
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(134);
    abort();
}
