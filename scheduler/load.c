/* load: reads a tenant's workspaces and kept homes from the store, page by page.
 *
 * Happy path: all pages in, sorted, the tenant is open for business. Failure paths: a store that does not
 * answer ends the start of the controller, or (after a reload) is asked again; a record that cannot be
 * understood is logged and left alone, and so is everything of that tenant that the sweep would otherwise
 * remove. */
#include "scheduler/entry.h"

#include "base/core/log.h"
#include "base/core/mem.h"

#define LOAD_PAGE 250 /* records decoded in one turn of the loop */

static void load_next(struct tenant *t);

static void load_end(struct tenant *t, int code, const struct err *err)
{
    struct scheduler *s = t->s;
    t->is_loading = false;
    roster_sort(t);
    t->is_loaded = code == 0;
    load_ended(s, t, code, err);
}

static void home_add(struct tenant *t, const struct store_record *r)
{
    static const struct json_field rows[] = {
        {"home_id", JF_STRING, true, 0},
        {"provider", JF_STRING, true, sizeof(struct slice)},
        {"workspace", JF_STRING, true, 2 * sizeof(struct slice)},
        {"kept_at_ms", JF_ANY, false, 3 * sizeof(struct slice)},
    };
    struct {
        struct slice home_id, provider, workspace;
        const struct json *kept_at;
    } row = {.kept_at = NULL};
    struct json *j = NULL;
    struct err err = {0};
    if (json_parse(r->value, NULL, &j, &err) < 0 ||
        json_decode(j, "", rows, ARRAY_LEN(rows), &row, &err) < 0) {
        log_error("home.unreadable", LF_STR("tenant", t->name), LF_SLICE("key", r->key),
                  LF_STR("error", err.msg));
        json_free(j);
        return;
    }
    struct home *h = MEM_NEW(struct home);
    struct slice key = slice_from(r->key, sizeof "home/" - 1);
    h->key = mem_strndup(key.p, key.n);
    h->id = mem_strndup(row.home_id.p, row.home_id.n);
    h->provider = scheduler_intern(t->s, row.provider);
    h->version = r->version;
    HASH_ADD_KEYPTR(hh, t->homes, h->key, key.n, h);
    json_free(j);
}

static void workspace_add(struct tenant *t, const struct store_record *r)
{
    struct err err = {0};
    struct entry *e = record_read(t, r->value, r->version, &err), *same = NULL;
    if (e != NULL) {
        HASH_FIND_STR(t->s->by_id, e->ws.id, same);
    }
    if (e == NULL || same != NULL) {
        t->has_unread = true;
        log_error("workspace.unreadable", LF_STR("tenant", t->name), LF_SLICE("key", r->key),
                  LF_STR("error", same != NULL ? "its id is also another's" : err.msg));
        entry_free(e);
        return;
    }
    roster_add(e);
    entry_view(e, false);
}

static void on_page(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                    void *data)
{
    struct tenant *t = data;
    struct scheduler *s = t->s;
    if (code != 0 || s->is_closing) {
        load_end(t, code != 0 ? code : E_DRAINING, err);
        scheduler_idle(s);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (t->load_homes) {
            home_add(t, &r[i]);
        } else {
            workspace_add(t, &r[i]);
        }
    }
    mem_free(t->load_after);
    t->load_after = n > 0 ? mem_strndup(r[n - 1].key.p, r[n - 1].key.n) : NULL;
    if (has_more && n > 0) {
        load_next(t);
    } else if (!t->load_homes) {
        t->load_homes = true;
        mem_free(t->load_after);
        t->load_after = NULL;
        load_next(t);
    } else {
        load_end(t, 0, NULL);
    }
    scheduler_idle(s);
}

static void load_next(struct tenant *t)
{
    scheduler_busy(t->s);
    store_scan(t->s->store, slice_str(t->id), t->load_homes ? SL("home/") : SL("ws/"),
               t->load_after != NULL ? slice_str(t->load_after) : SLICE_EMPTY, LOAD_PAGE, on_page, t);
}

void load_tenant(struct tenant *t)
{
    must(!t->is_loading && !t->is_loaded);
    t->is_loading = true;
    load_next(t);
}
