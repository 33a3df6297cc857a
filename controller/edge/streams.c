/* streams: see streams.h. */
#include "controller/edge/streams.h"

#include "base/core/hash.h"
#include "base/core/mem.h"

#include <stdio.h>

struct stream_count {
    char workspace_id[40];
    unsigned n;
    UT_hash_handle hh;
};

bool streams_enter(struct controller *c, const char *workspace_id)
{
    struct stream_count *sc;
    HASH_FIND_STR(c->stream_counts, workspace_id, sc);
    if (sc == NULL) {
        sc = MEM_NEW(struct stream_count);
        (void)snprintf(sc->workspace_id, sizeof sc->workspace_id, "%s", workspace_id);
        HASH_ADD_STR(c->stream_counts, workspace_id, sc);
    }
    if (sc->n >= STREAMS_MAX)
        return false;
    sc->n++;
    return true;
}

void streams_leave(struct controller *c, const char *workspace_id)
{
    struct stream_count *sc;
    HASH_FIND_STR(c->stream_counts, workspace_id, sc);
    must(sc != NULL && sc->n > 0);
    if (--sc->n > 0)
        return;
    HASH_DEL(c->stream_counts, sc);
    mem_free(sc);
}
