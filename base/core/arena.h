/* arena: memory that dies together. What a request needs comes from its arena. */
#ifndef REEVE_BASE_CORE_ARENA_H
#define REEVE_BASE_CORE_ARENA_H

#include "base/core/slice.h"

struct arena_block;

struct arena {
    struct arena_block *block; /* newest first */
    char *at, *end;            /* free room in the newest block */
};

#define ARENA_INIT ((struct arena){NULL, NULL, NULL})

void arena_fini(struct arena *a);  /* frees all; usable again */
void arena_reset(struct arena *a); /* forgets all, keeps one block */
void *arena_alloc(struct arena *a, size_t n)
    __attribute__((returns_nonnull)); /* 16-byte aligned, uninitialised */
void *arena_zalloc(struct arena *a, size_t n) __attribute__((returns_nonnull)); /* zeroed */
char *arena_strndup(struct arena *a, const char *p, size_t n);                  /* NUL-terminated */
char *arena_strdup(struct arena *a, const char *s);
struct slice arena_slice(struct arena *a, struct slice s); /* a copy, NUL behind it */
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define ARENA_NEW(a, type) ((type *)arena_zalloc((a), sizeof(type)))

#endif
