/* arena: blocks in a chain, newest first; freed together.
 *
 * Small requests are cut from the newest block; one that is larger than half a block gets a block of its own
 * behind the newest, so that a big body does not waste the room that is left. Sizes double up to a limit.
 * Under ASan the unused part is poisoned, so that overruns inside a block are seen. */
#include "base/core/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define arena_hide(p, n) ASAN_POISON_MEMORY_REGION((p), (n))
#define arena_show(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define arena_hide(p, n) ((void)(p), (void)(n))
#define arena_show(p, n) ((void)(p), (void)(n))
#endif

enum { ARENA_ALIGN = 16, ARENA_BLOCK_FIRST = 2048, ARENA_BLOCK_MAX = 256 * 1024 };

struct arena_block {
    struct arena_block *next; /* older */
    size_t bytes;             /* of data */
    _Alignas(ARENA_ALIGN) char data[];
};

static struct arena_block *arena_block_new(size_t bytes)
{
    struct arena_block *b;

    must(bytes < SIZE_MAX / 2);
    b = mem_alloc(sizeof(*b) + bytes);
    b->next = NULL;
    b->bytes = bytes;
    arena_hide(b->data, bytes);
    return b;
}

static void arena_block_free(struct arena_block *b)
{
    arena_show(b->data, b->bytes);
    mem_free(b);
}

void arena_fini(struct arena *a)
{
    while (a->block != NULL) {
        struct arena_block *b = a->block;

        a->block = b->next;
        arena_block_free(b);
    }
    *a = ARENA_INIT;
}

void arena_reset(struct arena *a)
{
    struct arena_block *b = a->block;

    if (b == NULL)
        return;
    while (b->next != NULL) {
        struct arena_block *old = b->next;

        b->next = old->next;
        arena_block_free(old);
    }
    arena_hide(b->data, b->bytes);
    a->at = b->data;
    a->end = b->data + b->bytes;
}

void *arena_alloc(struct arena *a, size_t n)
{
    struct arena_block *b;
    size_t room = (size_t)(a->end - a->at), want;
    char *p;

    must(n < SIZE_MAX / 2);
    want = (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (want == 0)
        want = ARENA_ALIGN; /* two empty objects still have two addresses */
    if (want > room) {
        size_t bytes = a->block == NULL ? ARENA_BLOCK_FIRST : a->block->bytes * 2;

        if (bytes > ARENA_BLOCK_MAX)
            bytes = ARENA_BLOCK_MAX;
        if (want > bytes / 2 && a->block != NULL) {
            b = arena_block_new(want);
            b->next = a->block->next;
            a->block->next = b;
            arena_show(b->data, n);
            return b->data;
        }
        b = arena_block_new(want > bytes ? want : bytes);
        b->next = a->block;
        a->block = b;
        a->at = b->data;
        a->end = b->data + b->bytes;
    }
    p = a->at;
    a->at += want;
    arena_show(p, n);
    return p;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    return memset(arena_alloc(a, n), 0, n);
}

char *arena_strndup(struct arena *a, const char *p, size_t n)
{
    char *copy;

    must(n < SIZE_MAX / 2);
    copy = arena_alloc(a, n + 1);
    if (n > 0)
        memcpy(copy, p, n);
    copy[n] = '\0';
    return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

struct slice arena_slice(struct arena *a, struct slice s)
{
    return s.p == NULL ? SLICE_NULL : (struct slice){arena_strndup(a, s.p, s.n), s.n};
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    char *p;
    int n;

    va_start(ap, fmt);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    must(n >= 0);
    p = arena_alloc(a, (size_t)n + 1);
    must(vsnprintf(p, (size_t)n + 1, fmt, again) == n);
    va_end(again);
    return p;
}
