/* The words of a workspace's life, its legal moves as a table, and its public JSON. */
#include "scheduler/workspace.h"

#include <stdio.h>

#include "base/core/mem.h"

static const char *const state_names[] = {
    [WS_ABSENT] = "absent", [WS_PROVISIONING] = "provisioning", [WS_BOOTSTRAPPING] = "bootstrapping",
    [WS_READY] = "ready",   [WS_SUSPENDED] = "suspended",       [WS_DELETING] = "deleting",
    [WS_FAILED] = "failed",
};

#define TO(state) (1u << (state))

/* Row: from; bits: to. Staying (a new reason) is always legal but for `absent`, where there is nothing to
 * stay. */
static const unsigned moves[] = {
    [WS_ABSENT] = TO(WS_PROVISIONING) | TO(WS_DELETING), /* the latter: only a kept home is left to remove */
    [WS_PROVISIONING] = TO(WS_BOOTSTRAPPING) | TO(WS_SUSPENDED) | TO(WS_FAILED) | TO(WS_DELETING),
    [WS_BOOTSTRAPPING] =
        TO(WS_READY) | TO(WS_PROVISIONING) | TO(WS_SUSPENDED) | TO(WS_FAILED) | TO(WS_DELETING),
    [WS_READY] =
        TO(WS_BOOTSTRAPPING) | TO(WS_PROVISIONING) | TO(WS_SUSPENDED) | TO(WS_FAILED) | TO(WS_DELETING),
    [WS_SUSPENDED] = TO(WS_PROVISIONING) | TO(WS_DELETING),
    [WS_FAILED] = TO(WS_PROVISIONING) | TO(WS_BOOTSTRAPPING) | TO(WS_SUSPENDED) | TO(WS_DELETING),
    [WS_DELETING] = TO(WS_ABSENT),
};

const char *workspace_state_name(enum workspace_state s)
{
    must((size_t)s < ARRAY_LEN(state_names));
    return state_names[s];
}

int workspace_state_parse(struct slice s, enum workspace_state *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(state_names); i++) {
        if (slice_eq_str(s, state_names[i])) {
            *ret = (enum workspace_state)i;
            return 0;
        }
    }
    return E_INVALID;
}

bool workspace_move_is_legal(enum workspace_state from, enum workspace_state to)
{
    must((size_t)from < ARRAY_LEN(moves) && (size_t)to < ARRAY_LEN(moves));
    return (from == to && from != WS_ABSENT) || (moves[from] & TO(to)) != 0;
}

void workspace_events_log(const struct workspace *ws, char out[WORKSPACE_EVENTS_MAX])
{
    (void)snprintf(out, WORKSPACE_EVENTS_MAX, "events/%s", ws->id); /* an id is shorter than 40 bytes */
}

static const char *suspended_by(const struct workspace *ws)
{
    if (ws->wish != WISH_SUSPENDED) {
        return NULL;
    }
    switch (ws->suspend_cause) {
    case SUSPEND_IDLE:
        return "idle";
    case SUSPEND_BUDGET:
        return "budget";
    case SUSPEND_OPERATOR:
    case SUSPEND_NONE:
        return "operator";
    }
    return "operator";
}

void workspace_json(const struct workspace *ws, struct slice public_url, struct jsonw *w)
{
    struct buf url = BUF_INIT(4096);
    (void)buf_printf(&url, "%.*s/w/%.*s/%.*s", SL_ARG(public_url), SL_ARG(ws->namespace), SL_ARG(ws->name));
    jsonw_object(w);
    jsonw_kstr(w, "id", ws->id);
    jsonw_kslice(w, "tenant", ws->tenant);
    jsonw_kslice(w, "namespace", ws->namespace);
    jsonw_kslice(w, "name", ws->name);
    jsonw_kslice(w, "url", buf_view(&url));
    jsonw_kstr(w, "state", workspace_state_name(ws->state));
    jsonw_kstr(w, "reason", ws->reason[0] != '\0' ? ws->reason : NULL);
    jsonw_kstr(w, "suspended_by", suspended_by(ws));
    jsonw_kslice(w, "template", ws->template);
    jsonw_kslice(w, "provider", ws->provider.n > 0 ? ws->provider : SLICE_NULL);
    jsonw_kslice(w, "user", ws->user.n > 0 ? ws->user : SLICE_NULL);
    jsonw_key(w, "labels");
    jsonw_object(w);
    for (size_t i = 0; i < ws->n_labels; i++) {
        jsonw_key_slice(w, ws->labels[i].name);
        jsonw_slice(w, ws->labels[i].value);
    }
    jsonw_object_end(w);
    jsonw_key(w, "env"); /* names only: a value may be somebody's secret */
    jsonw_array(w);
    for (size_t i = 0; i < ws->n_env; i++) {
        jsonw_slice(w, ws->env[i].name);
    }
    jsonw_array_end(w);
    jsonw_ku64(w, "generation", ws->generation);
    jsonw_ktime(w, "created_at", ws->created_at_ms);
    jsonw_ktime(w, "updated_at", ws->updated_at_ms);
    jsonw_ktime(w, "ready_at", ws->ready_at_ms);
    jsonw_ktime(w, "retry_at", ws->retry_at_ms);
    jsonw_object_end(w);
    buf_fini(&url);
}
