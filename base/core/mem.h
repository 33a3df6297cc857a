/* Memory: allocation that cannot fail (the process ends instead: crash-only, nothing acknowledged is lost).
 */
#ifndef REEVE_BASE_CORE_MEM_H
#define REEVE_BASE_CORE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t n) __attribute__((malloc, returns_nonnull));  /* uninitialised */
void *mem_zalloc(size_t n) __attribute__((malloc, returns_nonnull)); /* zeroed */
void *mem_realloc(void *p, size_t n) __attribute__((returns_nonnull));
char *mem_strdup(const char *s) __attribute__((returns_nonnull));
char *mem_strndup(const char *s, size_t n)
    __attribute__((returns_nonnull)); /* NUL-terminated copy of n bytes */
void mem_free(void *p);               /* NULL is fine */

#define MEM_NEW(type) ((type *)mem_zalloc(sizeof(type)))

/* Overwrites a secret so that the compiler cannot leave it out. */
void mem_wipe(void *p, size_t n);

/* Ends the process with a message on stderr: our own mistake or no memory. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* An assertion that stays in release builds. Never depends on input. */
#define must(cond)                                                                                           \
    do {                                                                                                     \
        if (__builtin_expect(!(cond), 0))                                                                    \
            die("%s:%d: must hold: %s", __FILE__, __LINE__, #cond);                                          \
    } while (0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Clean-up attributes for what a scope owns: `AUTO_FREE char *s = ...`. */
static inline void mem_auto_free(void *p)
{
    mem_free(*(void **)p);
}
#define AUTO_FREE __attribute__((cleanup(mem_auto_free)))

#endif
