/* audit: see audit.h. */
#include "controller/api/audit.h"

#include "base/core/log.h"
#include "base/core/mem.h"

#define ENTRY_MAX 16384

static void on_written(const struct store_commit_answer *a, void *data)
{
    (void)data;
    if (a->code != 0)
        log_error("audit.write_failed", LF_STR("detail", a->err != NULL ? a->err->msg : err_title(a->code)));
}

static void entry_write(struct buf *out, int64_t now_ms, const char *actor, const char *action,
                        struct slice subject, struct slice detail, const char *request_id)
{
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_ktime(&w, "time", now_ms);
    jsonw_kstr(&w, "actor", actor);
    jsonw_kstr(&w, "action", action);
    jsonw_kslice(&w, "subject", subject);
    if (detail.n > 0)
        jsonw_kslice(&w, "detail", detail);
    if (request_id != NULL)
        jsonw_kstr(&w, "request_id", request_id);
    jsonw_object_end(&w);
}

static void audit_write(struct controller *c, const char *tenant_id, const char *actor, const char *action,
                        struct slice subject, struct slice detail, const char *request_id)
{
    struct buf out = BUF_INIT(ENTRY_MAX);
    entry_write(&out, clock_wall_ms(c->loop.clock), actor, action, subject, detail, request_id);
    struct store_op op = store_append(SL("audit"), buf_view(&out));
    store_commit(c->store, tenant_id != NULL ? slice_str(tenant_id) : SL("fleet"), &op, 1, on_written, NULL);
    buf_fini(&out);
}

struct slice audit_entry(struct request *rq, const char *action, struct slice subject, struct slice detail)
{
    struct buf out = BUF_INIT(ENTRY_MAX);
    entry_write(&out, clock_wall_ms(rq->c->loop.clock), rq->who.subject, action, subject, detail, rq->id);
    must(!out.is_full); /* what it is made of is bounded */
    struct slice text = arena_slice(request_arena(rq), buf_view(&out));
    buf_fini(&out);
    return text;
}

void audit_request(struct request *rq, const char *action, struct slice subject)
{
    audit_write(rq->c, rq->who.tenant != NULL ? rq->who.tenant->id : NULL, rq->who.subject, action, subject,
                SLICE_EMPTY, rq->id);
}

void audit_self(struct controller *c, const char *tenant_id, const char *action, struct slice subject,
                struct slice detail)
{
    audit_write(c, tenant_id, "reeve", action, subject, detail, NULL);
}
