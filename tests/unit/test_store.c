/* The store's conformance suite against the engines of this process. */
#include "tests/unit/store_conformance.h"

#include <ftw.h>
#include <unistd.h>

#include "base/store/feed.h"

struct place {
    struct clock_manual clock;
    char dir[64];
    char path[80];
};

static void place_setup(void **ret_place, const char **ret_skip)
{
    struct place *p = MEM_NEW(struct place);

    *ret_skip = NULL;
    clock_manual_init(&p->clock, 1793491200000); /* 2026-11-01 */
    (void)snprintf(p->dir, sizeof(p->dir), "/tmp/reeve-store-XXXXXX");
    if (mkdtemp(p->dir) == NULL)
        die("mkdtemp");
    (void)snprintf(p->path, sizeof(p->path), "%s/store.db", p->dir);
    *ret_place = p;
}

static int on_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void place_teardown(void *place)
{
    struct place *p = place;

    (void)nftw(p->dir, on_remove, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(p);
}

static const struct clock *place_clock(void *place)
{
    return &((struct place *)place)->clock.clock;
}

static int64_t place_now(void *place)
{
    return ((struct place *)place)->clock.wall_ms;
}

static void place_pass(void *place, int64_t ms)
{
    clock_manual_advance(&((struct place *)place)->clock, ms);
}

static struct store *memory_place_open(void *place, struct loop *l)
{
    (void)place;
    return store_memory_open(l);
}

static struct store *sqlite_place_open(void *place, struct loop *l)
{
    struct store *s = NULL;
    struct err err;

    if (store_sqlite_open(l, ((struct place *)place)->path, &s, &err) != 0)
        print_error("%s\n", err.msg);
    return s;
}

static const struct conformance_engine memory_engine = {
    .name = "memory",
    .setup = place_setup,
    .teardown = place_teardown,
    .open = memory_place_open,
    .clock = place_clock,
    .now = place_now,
    .pass = place_pass,
    .changes_lost = FEED_CHANGES_MAX,
};

static const struct conformance_engine sqlite_engine = {
    .name = "sqlite",
    .setup = place_setup,
    .teardown = place_teardown,
    .open = sqlite_place_open,
    .clock = place_clock,
    .now = place_now,
    .pass = place_pass,
    .is_durable = true,
    .changes_lost = FEED_CHANGES_MAX,
};

int main(void)
{
    int failed = 0;

    failed += conformance_run(&memory_engine);
    failed += conformance_run(&sqlite_engine);
    return failed == 0 ? 0 : 1;
}
