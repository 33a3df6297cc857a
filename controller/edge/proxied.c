/* proxied: see proxied.h. The match is made on the raw path: a path with empty, "." or ".." segments, encoded
 * slashes or backslashes matches nothing, so that what was authorised is what the server inside will route.
 */
#include "controller/edge/proxied.h"

#include "base/core/mem.h"
#include "controller/edge/route.h"
#include "providers/provider.h"

#include <string.h>

static const struct proxied_route rows[] = {
    {"GET", "/v1/health", ROLE_VIEWER, PROXIED_HEALTH, 0},
    {"GET", "/v1/acp", ROLE_VIEWER, PROXIED_ACP_LIST, 0},
    {"GET", "/v1/acp/{server_id}", ROLE_MEMBER, PROXIED_ACP, 0},
    {"POST", "/v1/acp/{server_id}", ROLE_MEMBER, PROXIED_ACP, 0},
    {"DELETE", "/v1/acp/{server_id}", ROLE_MEMBER, PROXIED_ACP, 0},
    {"GET", "/v1/agents", ROLE_VIEWER, PROXIED_PLAIN, PROXIED_NO_CONFIG},
    {"GET", "/v1/agents/{agent}", ROLE_VIEWER, PROXIED_PLAIN, PROXIED_NO_CONFIG},
    {"POST", "/v1/agents/{agent}/install", ROLE_OWNER, PROXIED_PLAIN, 0},
    {"GET", "/v1/config/mcp", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"PUT", "/v1/config/mcp", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"DELETE", "/v1/config/mcp", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/config/skills", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"PUT", "/v1/config/skills", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"DELETE", "/v1/config/skills", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/fs/entries", ROLE_VIEWER, PROXIED_PLAIN, PROXIED_HOME_ONLY},
    {"GET", "/v1/fs/file", ROLE_VIEWER, PROXIED_PLAIN, PROXIED_HOME_ONLY},
    {"GET", "/v1/fs/stat", ROLE_VIEWER, PROXIED_PLAIN, PROXIED_HOME_ONLY},
    {"PUT", "/v1/fs/file", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"DELETE", "/v1/fs/entry", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/fs/mkdir", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/fs/move", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/fs/upload-batch", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/processes", ROLE_VIEWER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/processes/config", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes/config", ROLE_OWNER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes/run", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/processes/{id}", ROLE_VIEWER, PROXIED_PLAIN, 0},
    {"DELETE", "/v1/processes/{id}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/processes/{id}/logs", ROLE_VIEWER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes/{id}/stop", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes/{id}/kill", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes/{id}/input", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/processes/{id}/terminal/resize", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/processes/{id}/terminal/ws", ROLE_MEMBER, PROXIED_WEBSOCKET, 0},
    {"GET", "/v1/desktop/status", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/start", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/stop", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/screenshot", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/screenshot/region", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/mouse/position", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/mouse/{action}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/keyboard/{action}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/display/info", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/windows", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/windows/focused", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/windows/{id}/{action}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/clipboard", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/clipboard", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/launch", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/open", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/recording/{action}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/recordings", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/recordings/{id}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"DELETE", "/v1/desktop/recordings/{id}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/recordings/{id}/download", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"POST", "/v1/desktop/stream/{action}", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/stream/status", ROLE_MEMBER, PROXIED_PLAIN, 0},
    {"GET", "/v1/desktop/stream/signaling", ROLE_MEMBER, PROXIED_WEBSOCKET, 0},
};

/* Segments that mean something else to whoever decodes or normalises. */
static bool path_is_plain(struct slice path)
{
    struct slice segment;
    bool more = slice_cut(&path, '/', &segment); /* the part before the first '/' is empty */
    if (segment.n != 0)
        return false;
    while (more) {
        more = slice_cut(&path, '/', &segment);
        if (segment.n == 0 || slice_eq_str(segment, ".") || slice_eq_str(segment, ".."))
            return false;
        for (size_t i = 0; i < segment.n; i++)
            if (segment.p[i] == '%' || segment.p[i] == '\\' || segment.p[i] == ';')
                return false;
    }
    return true;
}

const struct proxied_route *proxied_find(struct slice method, struct slice path, struct slice *ret_param)
{
    struct slice params[REQUEST_PARAMS_MAX] = {{0}};
    if (!path_is_plain(path))
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (slice_eq_str(method, rows[i].method) && route_match(rows[i].pattern, path, params)) {
            *ret_param = params[0];
            return &rows[i];
        }
    }
    return NULL;
}

/* Under the home, by text: relative (the server takes it from the home), or below SANDBOX_HOME; no ".."
 * anywhere. */
static bool path_is_in_home(struct slice path)
{
    struct slice rest = path, segment;
    bool more = true;
    while (more) {
        more = slice_cut(&rest, '/', &segment);
        if (slice_eq_str(segment, ".."))
            return false;
    }
    if (path.n == 0 || path.p[0] != '/')
        return true;
    return slice_eq_str(path, SANDBOX_HOME) || slice_starts(path, SL(SANDBOX_HOME "/"));
}

int proxied_authorise(const struct proxied_route *row, enum role role, struct slice query, struct err *err)
{
    if (role < row->least)
        return err_set(err, E_FORBIDDEN, "role %s is wanted for this, this key has %s", role_name(row->least),
                       role_name(role));
    if (role > ROLE_VIEWER)
        return 0;
    if ((row->flags & PROXIED_NO_CONFIG) != 0 && query_find(query, "config").p != NULL)
        return err_set(err, E_FORBIDDEN, "a viewer may not ask with ?config: it starts the agent");
    if ((row->flags & PROXIED_HOME_ONLY) != 0) {
        struct buf path = BUF_INIT(HTTP_TARGET_BYTES_MAX);
        struct slice raw = query_find(query, "path");
        bool is_ok = raw.p != NULL && url_decode(raw, true, &path) == 0 && path_is_in_home(buf_view(&path));
        size_t n_path = 0; /* a second `path` could be the one that the server takes */
        struct slice left = query, pair;
        for (bool more = true; more;) {
            struct slice name;
            more = slice_cut(&left, '&', &pair);
            (void)slice_cut(&pair, '=', &name);
            struct buf plain = BUF_INIT(HTTP_TARGET_BYTES_MAX);
            if (url_decode(name, true, &plain) == 0 && slice_eq_str(buf_view(&plain), "path"))
                n_path++;
            buf_fini(&plain);
        }
        buf_fini(&path);
        if (!is_ok || n_path != 1)
            return err_set(err, E_FORBIDDEN,
                           "a viewer reads files under " SANDBOX_HOME " only: one ?path= below it");
    }
    return 0;
}
