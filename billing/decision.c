/* decision: what a person decides about a report that waits in suspense. Every decision is repeatable: the
 * same one again gives the same answer, from its record; another one is a conflict.
 *
 * In a tenant's partition a decision is one commit (ledger.c): retry posts it at the present prices, dismiss
 * lets what was posted stand, adjust puts it in the place of what was posted. In `fleet`, where the tenant is
 * unknown, dismiss is one commit, and attribution three steps under the event's own id:
 *   1. fleet: whose it is to be (attributing/…), the identity's record, and the audit entry;
 *   2. tenant: the event is posted like any other, once; or waits in the tenant's suspense;
 *   3. fleet: the record and the mark of step 1 go, the decision's record comes.
 * Retry does 2 and 3 for the key's own tenant. Failure paths: dead between the steps, the next start goes on
 * where attributing/… says, or the same call does. A commit that finds something else begins anew. */
#include "billing/internal.h"

#include <string.h>

#include "base/core/id.h"
#include "base/core/log.h"

#define ATTEMPTS_MAX       6
#define DECISION_PREFIX    "decision/"
#define ATTRIBUTING_PREFIX "attributing/"
#define AUDIT_LOG          SL("audit")

static const char *const names[] = {[SUSPENSE_RETRY] = "retry",
                                    [SUSPENSE_DISMISS] = "dismiss",
                                    [SUSPENSE_ADJUST] = "adjust",
                                    [SUSPENSE_ATTRIBUTE] = "attribute"};

enum { AT_SUSPENSE, AT_DECISION, AT_DEDUPE, AT_MARK, AT_KEY, AT_N };

struct deciding {
    struct billing *billing;
    struct book *book;
    struct arena arena;
    struct billing_decision d;          /* texts in the arena */
    const struct config_tenant *tenant; /* of the book: whose suspense; NULL: the fleet's */
    struct slice partition;
    struct slice keys[AT_N];
    uint64_t versions[AT_N];
    struct dedupe dedupe;
    bool is_marked; /* step 1 is done */
    struct event event;
    struct billing_key_owner owner; /* who pays */
    const struct config_tenant *payer;
    struct slice text;        /* the answer */
    struct store_op extra[2]; /* of a tenant's: the decision's record and the audit entry */
    struct repost repost;
    unsigned attempts;
    struct err err;
    billing_json_cb cb;
    void *data;
};

static void decide_read(void *data);

static void decide_end(struct deciding *x, int code, const struct err *err)
{
    struct billing *b = x->billing;
    x->cb(code, code == 0 ? x->text : SLICE_EMPTY, err != NULL ? err : &x->err, x->data);
    arena_fini(&x->arena);
    book_unref(x->book);
    mem_free(x);
    billing_unref(b);
}

/* With a message that is set already. */
static void decide_refuse(struct deciding *x)
{
    decide_end(x, x->err.code, &x->err);
}

/* A commit found something else than was read. False: that happened too often, and it was ended. */
static void decide_again(struct deciding *x)
{
    if (++x->attempts < ATTEMPTS_MAX && !x->billing->is_closing) {
        decide_read(x);
        return;
    }
    err_set(&x->err, E_BUSY, "it changes all the time: try again");
    decide_refuse(x);
}

/* --- the decision's record, which is the answer --- */

static void text_make(struct deciding *x, const char *outcome, const char *code, const char *detail)
{
    const struct billing_decision *d = &x->d;
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kslice(&w, "suspense_id", d->id);
    jsonw_kstr(&w, "decision", names[d->kind]);
    jsonw_kstr(&w, "outcome", outcome);
    if (code != NULL)
        jsonw_kstr(&w, "code", code);
    if (detail != NULL)
        jsonw_kstr(&w, "detail", detail);
    if (x->payer != NULL) {
        jsonw_kslice(&w, "tenant", x->payer->name);
        jsonw_kslice(&w, "namespace", x->owner.namespace);
        jsonw_kslice(&w, "workspace", x->owner.workspace);
        jsonw_kslice(&w, "user", x->owner.user);
    }
    jsonw_kslice(&w, "reason", d->reason);
    jsonw_kslice(&w, "by", d->actor);
    jsonw_ktime(&w, "decided_at", billing_now_ms(x->billing));
    jsonw_object_end(&w);
    must(!text.is_full); /* every part of it is bounded */
    x->text = arena_slice(&x->arena, buf_view(&text));
    buf_fini(&text);
}

static struct store_op text_op(struct deciding *x)
{
    struct store_op op = store_put(x->keys[AT_DECISION], x->text);
    op.expires_at_ms = billing_now_ms(x->billing) + DEDUPE_MS;
    return op;
}

static bool same_text(struct slice asked, const struct json *j, const char *name)
{
    struct slice was = json_string(json_get(j, name));
    return slice_eq(asked.p != NULL ? asked : SLICE_EMPTY, was.p != NULL ? was : SLICE_EMPTY);
}

/* It was decided before: the same again, or another thing? */
static void decided_answer(struct deciding *x, struct slice record)
{
    struct json *j = NULL;
    const struct billing_decision *d = &x->d;
    if (json_parse(record, NULL, &j, NULL) != 0) {
        err_set(&x->err, E_INTERNAL, "the decision's record cannot be read");
        decide_refuse(x);
        return;
    }
    struct slice by = json_string(json_get(j, "by")), decision = json_string(json_get(j, "decision")),
                 at = json_string(json_get(j, "decided_at"));
    bool is_same = slice_eq_str(decision, names[d->kind]);
    if (is_same && d->kind == SUSPENSE_ATTRIBUTE)
        is_same = same_text(d->to_tenant, j, "tenant") && same_text(d->owner.namespace, j, "namespace") &&
                  same_text(d->owner.workspace, j, "workspace");
    if (is_same)
        x->text = arena_slice(&x->arena, record);
    else
        err_set(&x->err, E_CONFLICT, "it was decided already: %.*s by %.*s at %.*s", SL_ARG(decision),
                SL_ARG(by), SL_ARG(at));
    json_free(j);
    decide_end(x, x->err.code, &x->err);
}

/* --- a tenant's --- */

static void on_tenant_posted(const struct billing_batch_answer *a, void *data)
{
    struct deciding *x = data;
    if (a->code != 0) {
        decide_end(x, a->code, a->err);
        return;
    }
    if (a->n_rejected > 0 && strcmp(a->rejected[0].code, "changed") == 0) {
        decide_again(x);
        return;
    }
    if (a->n_rejected > 0) {
        err_set(&x->err, E_CONFLICT, "it stays in suspense: %s: %s", a->rejected[0].code,
                a->rejected[0].detail);
        decide_refuse(x);
        return;
    }
    decide_end(x, 0, NULL);
}

static void tenant_post(struct deciding *x, enum verdict verdict, const struct standing *standing)
{
    static const char *const outcomes[] = {
        [VERDICT_NONE] = "posted", [VERDICT_DISMISS] = "dismissed", [VERDICT_ADJUST] = "adjusted"};
    text_make(x, outcomes[verdict], NULL, NULL);
    x->extra[0] = text_op(x);
    x->extra[1] = store_append(AUDIT_LOG, x->d.audit);
    x->repost = (struct repost){.event = &x->event,
                                .owner = &x->owner,
                                .tenant = x->payer,
                                .verdict = verdict,
                                .standing = standing,
                                .extra = x->extra,
                                .n_extra = ARRAY_LEN(x->extra)};
    batch_repost(x->billing, &x->repost, on_tenant_posted, x);
}

static void on_standing(int code, const struct standing *s, const struct err *err, void *data)
{
    struct deciding *x = data;
    if (code != 0) {
        decide_end(x, code, err);
    } else if (s == NULL) {
        err_set(&x->err, E_INTERNAL, "the entry that stands for it is not in the ledger of %.*s",
                SL_ARG(x->dedupe.where));
        decide_refuse(x);
    } else {
        tenant_post(x, VERDICT_ADJUST, s);
    }
}

static void tenant_decide(struct deciding *x, struct slice why)
{
    x->payer = x->tenant;
    bool is_conflict = slice_eq_str(why, "conflict");
    if (x->d.kind == SUSPENSE_DISMISS) {
        tenant_post(x, VERDICT_DISMISS, NULL);
    } else if (x->d.kind == SUSPENSE_ATTRIBUTE) {
        err_set(&x->err, E_CONFLICT,
                "it is the tenant's: only what is in the fleet's suspense wants a tenant");
        decide_refuse(x);
    } else if (is_conflict != (x->d.kind == SUSPENSE_ADJUST)) {
        err_set(&x->err, E_CONFLICT,
                is_conflict ? "it is a conflict with what was posted: dismiss it, or adjust what was posted"
                            : "nothing was posted that could be adjusted: retry or dismiss it");
        decide_refuse(x);
    } else if (!is_conflict) {
        tenant_post(x, VERDICT_NONE, NULL);
    } else if (slice_eq_str(x->dedupe.where, DEDUPE_DISMISSED)) {
        tenant_post(x, VERDICT_ADJUST, NULL);
    } else {
        standing_find(x->billing, &x->arena, x->partition, x->dedupe.where, &x->event, on_standing, x);
    }
}

/* --- the fleet's --- */

static void on_fleet_end(const struct store_commit_answer *a, void *data)
{
    struct deciding *x = data;
    if (a->code == E_CONFLICT)
        decide_again(x);
    else
        decide_end(x, a->code, a->err);
}

static void fleet_dismiss(struct deciding *x)
{
    const struct dedupe *d = &x->dedupe;
    const char *value;
    int64_t now = billing_now_ms(x->billing);
    if (dedupe_decided(d) >= DEDUPE_DECIDED_MAX) {
        err_set(&x->err, E_QUOTA, "more reports of one event were decided than can be kept");
        decide_refuse(x);
        return;
    }
    if (d->facts.p == NULL)
        value = arena_printf(&x->arena, "1 %s " DEDUPE_DISMISSED, x->event.facts);
    else
        value = arena_printf(&x->arena, "1 %.*s %.*s%s%.*s %s", SL_ARG(d->facts), SL_ARG(d->where),
                             d->decided.n > 0 ? " " : "", SL_ARG(d->decided), x->event.facts);
    text_make(x, "dismissed", NULL, NULL);
    struct store_op ops[] = {store_expect(x->keys[AT_SUSPENSE], x->versions[AT_SUSPENSE]),
                             store_expect(x->keys[AT_MARK], 0),
                             store_expect(x->keys[AT_DEDUPE], x->versions[AT_DEDUPE]),
                             store_put(x->keys[AT_DEDUPE], slice_str(value)),
                             store_delete(x->keys[AT_SUSPENSE]),
                             text_op(x),
                             store_append(AUDIT_LOG, x->d.audit)};
    ops[3].expires_at_ms = now + DEDUPE_MS;
    store_commit(x->billing->store, FLEET, ops, ARRAY_LEN(ops), on_fleet_end, x);
}

/* Step 3. */
static void on_fleet_posted(const struct billing_batch_answer *a, void *data)
{
    struct deciding *x = data;
    if (a->code != 0) {
        decide_end(x, a->code, a->err);
        return;
    }
    bool is_posted = a->n_rejected == 0; /* now, or by whoever was here before */
    text_make(x, is_posted ? "posted" : "suspended", is_posted ? NULL : a->rejected[0].code,
              is_posted ? NULL : a->rejected[0].detail);
    struct store_op ops[4] = {store_delete(x->keys[AT_SUSPENSE]), store_delete(x->keys[AT_MARK]), text_op(x)};
    size_t n = 3;
    if (!x->is_marked) /* a retry: step 1 has not written it */
        ops[n++] = store_append(AUDIT_LOG, x->d.audit);
    store_commit(x->billing->store, FLEET, ops, n, on_fleet_end, x);
}

/* Step 2. */
static void fleet_post(struct deciding *x)
{
    x->extra[0] = store_append(AUDIT_LOG, x->d.audit); /* who pays is told why, too */
    x->repost = (struct repost){
        .event = &x->event, .owner = &x->owner, .tenant = x->payer, .extra = x->extra, .n_extra = 1};
    batch_repost(x->billing, &x->repost, on_fleet_posted, x);
}

static void on_marked(const struct store_commit_answer *a, void *data)
{
    struct deciding *x = data;
    if (a->code == E_CONFLICT) {
        decide_again(x);
    } else if (a->code != 0) {
        decide_end(x, a->code, a->err);
    } else {
        x->is_marked = true;
        fleet_post(x);
    }
}

static struct slice mark_write(struct deciding *x)
{
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kslice(&w, "suspense_id", x->d.id);
    jsonw_kslice(&w, "tenant", x->payer->name);
    jsonw_kslice(&w, "namespace", x->owner.namespace);
    jsonw_kslice(&w, "workspace", x->owner.workspace);
    jsonw_kslice(&w, "workspace_id", x->owner.workspace_id);
    jsonw_kslice(&w, "user", x->owner.user);
    jsonw_kslice(&w, "reason", x->d.reason);
    jsonw_kslice(&w, "by", x->d.actor);
    jsonw_kslice(&w, "audit", x->d.audit);
    jsonw_object_end(&w);
    must(!text.is_full); /* every part of it is bounded */
    struct slice out = arena_slice(&x->arena, buf_view(&text));
    buf_fini(&text);
    return out;
}

/* Takes the target of a mark that is there; false when it cannot be read. */
static bool mark_read(struct arena *a, struct slice mark, struct billing_decision *d)
{
    struct json *j = NULL;
    if (json_parse(mark, NULL, &j, NULL) != 0)
        return false;
    const struct {
        const char *name;
        struct slice *to;
    } rows[] = {{"suspense_id", &d->id},
                {"tenant", &d->to_tenant},
                {"namespace", &d->owner.namespace},
                {"workspace", &d->owner.workspace},
                {"workspace_id", &d->owner.workspace_id},
                {"user", &d->owner.user},
                {"reason", &d->reason},
                {"by", &d->actor},
                {"audit", &d->audit}};
    bool is_whole = true;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct slice text = json_string(json_get(j, rows[i].name));
        is_whole = is_whole && text.p != NULL;
        *rows[i].to = text.p != NULL ? arena_slice(a, text) : SLICE_EMPTY;
    }
    json_free(j);
    return is_whole;
}

/* The tenant of the key, now that it is known; NULL: it is not, or not for this gateway. */
static const struct config_tenant *key_payer(struct deciding *x, struct slice record,
                                             struct billing_key_owner *ret)
{
    if (record.p == NULL || billing_key_parse(&x->arena, record, ret) != 0 ||
        (ret->gateway.n > 0 &&
         !billing_key_is_at(x->book->tenancy, ret->gateway, ret->tenant, x->event.gateway)))
        return NULL;
    return tenancy_tenant(x->book->tenancy, ret->tenant);
}

/* Step 1, or on with what it said before. */
static void attribute_start(struct deciding *x, bool is_key_known)
{
    const struct billing_decision *d = &x->d;
    x->payer = tenancy_tenant(x->book->tenancy, d->to_tenant);
    x->owner = d->owner;
    x->owner.tenant = d->to_tenant;
    if (x->payer == NULL)
        err_set(&x->err, E_INVALID, "tenant: no such tenant is configured");
    else if (is_key_known && !x->is_marked)
        err_set(&x->err, E_CONFLICT, "its key is known by now: retry it");
    else if (x->dedupe.facts.p != NULL && !slice_eq_str(x->dedupe.where, x->payer->id) &&
             !slice_eq_str(x->dedupe.where, DEDUPE_DISMISSED))
        err_set(&x->err, E_CONFLICT, "tenant: another report of this event was attributed to another tenant");
    else if (!x->is_marked && !name_is_valid(d->owner.namespace))
        err_set(&x->err, E_INVALID, "namespace: expected [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?");
    else if (!x->is_marked && d->owner.workspace.n > 0 && d->owner.workspace_id.n == 0)
        err_set(&x->err, E_NOT_FOUND, "workspace: there is none of that name; without it the namespace pays");
    else if (dedupe_decided(&x->dedupe) >= DEDUPE_DECIDED_MAX)
        err_set(&x->err, E_QUOTA, "more reports of one event were decided than can be kept");
    if (x->err.code != 0) {
        decide_refuse(x);
        return;
    }
    if (x->is_marked) {
        fleet_post(x);
        return;
    }
    const struct dedupe *was = &x->dedupe;
    const char *value =
        was->facts.p == NULL
            ? arena_printf(&x->arena, "1 %s %s", x->event.facts, x->payer->id)
            : arena_printf(&x->arena, "1 %s %s %.*s%s%.*s", x->event.facts, x->payer->id, SL_ARG(was->facts),
                           was->decided.n > 0 ? " " : "", SL_ARG(was->decided));
    struct store_op ops[] = {store_expect(x->keys[AT_SUSPENSE], x->versions[AT_SUSPENSE]),
                             store_expect(x->keys[AT_MARK], 0),
                             store_expect(x->keys[AT_DEDUPE], x->versions[AT_DEDUPE]),
                             store_expect(x->keys[AT_KEY], x->versions[AT_KEY]),
                             store_put(x->keys[AT_MARK], mark_write(x)),
                             store_put(x->keys[AT_DEDUPE], slice_str(value)),
                             store_append(AUDIT_LOG, d->audit)};
    ops[5].expires_at_ms = billing_now_ms(x->billing) + DEDUPE_MS;
    store_commit(x->billing->store, FLEET, ops, ARRAY_LEN(ops), on_marked, x);
}

static void fleet_decide(struct deciding *x, struct slice mark, struct slice key)
{
    struct billing_key_owner owner;
    const struct config_tenant *payer = key_payer(x, key, &owner);
    struct billing_decision marked = {.kind = SUSPENSE_ATTRIBUTE};
    if (mark.p != NULL && !mark_read(&x->arena, mark, &marked)) {
        err_set(&x->err, E_INTERNAL, "the mark of its attribution cannot be read");
        decide_refuse(x);
        return;
    }
    x->is_marked = mark.p != NULL;
    if (x->is_marked) {
        const struct billing_decision *d = &x->d;
        bool is_same = d->kind == SUSPENSE_ATTRIBUTE && slice_eq(d->to_tenant, marked.to_tenant) &&
                       slice_eq(d->owner.namespace, marked.owner.namespace) &&
                       slice_eq(d->owner.workspace, marked.owner.workspace);
        if (!is_same) {
            err_set(&x->err, E_CONFLICT, "it is being attributed to %.*s/%.*s by %.*s",
                    SL_ARG(marked.to_tenant), SL_ARG(marked.owner.namespace), SL_ARG(marked.actor));
            decide_refuse(x);
            return;
        }
        x->d.owner = marked.owner;
        x->d.reason = marked.reason;
        x->d.actor = marked.actor;
        x->d.audit = marked.audit;
    }
    if (x->d.kind == SUSPENSE_DISMISS) {
        fleet_dismiss(x);
    } else if (x->d.kind == SUSPENSE_ATTRIBUTE) {
        attribute_start(x, payer != NULL);
    } else if (x->d.kind == SUSPENSE_ADJUST || payer == NULL) {
        err_set(&x->err, E_CONFLICT, "its key is unknown: attribute or dismiss it");
        decide_refuse(x);
    } else {
        x->payer = payer;
        x->owner = owner;
        fleet_post(x);
    }
}

/* --- what is there? --- */

static void on_found(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct deciding *x = data;
    struct json *record = NULL;
    (void)has_more; /* an answer to get is whole */
    if (code == 0 && x->billing->is_closing)
        code = err_set(&x->err, E_DRAINING, "shutting down");
    if (code != 0) {
        decide_end(x, code, err);
        return;
    }
    struct slice mark = SLICE_NULL, key = SLICE_NULL;
    for (size_t i = 0; i < n; i++)
        x->versions[i] = r[i].version;
    x->dedupe = (struct dedupe){SLICE_NULL, SLICE_NULL, SLICE_NULL};
    if (r[AT_DEDUPE].version > 0)
        x->dedupe = dedupe_read(arena_slice(&x->arena, r[AT_DEDUPE].value));
    if (n > AT_MARK && r[AT_MARK].version > 0)
        mark = arena_slice(&x->arena, r[AT_MARK].value);
    if (n > AT_KEY && r[AT_KEY].version > 0)
        key = arena_slice(&x->arena, r[AT_KEY].value);
    if (r[AT_DECISION].version > 0 && (r[AT_SUSPENSE].version == 0 || mark.p == NULL)) {
        decided_answer(x, r[AT_DECISION].value);
        return;
    }
    if (r[AT_SUSPENSE].version == 0) {
        err_set(&x->err, E_NOT_FOUND, "nothing waits under this id");
        decide_refuse(x);
        return;
    }
    struct slice why = SLICE_NULL;
    if (json_parse(r[AT_SUSPENSE].value, NULL, &record, NULL) != 0 ||
        event_read(&x->arena, record, &x->event, &x->owner) != 0 ||
        !slice_eq(x->event.suspense_key, x->keys[AT_SUSPENSE]))
        err_set(&x->err, E_INTERNAL, "the record cannot be read");
    else
        why = arena_slice(&x->arena, json_string(json_get(record, "reason")));
    json_free(record);
    if (x->err.code != 0)
        decide_refuse(x);
    else if (x->tenant != NULL)
        tenant_decide(x, why);
    else
        fleet_decide(x, mark, key);
}

static void decide_read(void *data)
{
    struct deciding *x = data;
    if (x->err.code != 0) {
        decide_refuse(x);
        return;
    }
    store_get(x->billing->store, x->partition, x->keys, x->tenant != NULL ? AT_MARK : AT_N, on_found, x);
}

/* --- ids: the record's key in letters that need no escaping in a URL --- */

void suspense_id_write(struct buf *out, struct slice key)
{
    struct slice rest = slice_from(key, strlen(SUSPENSE_PREFIX));
    for (size_t i = 0; i < rest.n; i++)
        (void)buf_byte(out, rest.p[i] == '/' ? ',' : rest.p[i] == '%' ? '=' : rest.p[i]);
}

/* The keys of everything about it: false when it cannot be an id. */
static bool keys_make(struct deciding *x, struct slice id)
{
    static const struct slice none = {"", 0};
    char *rest = arena_strndup(&x->arena, id.p != NULL ? id.p : none.p, id.n);
    struct slice parts[5], at = slice_of(rest, id.n);
    char name[128];
    if (id.n == 0 || id.n > EVENT_KEY_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        if (rest[i] == '/' || rest[i] == '%' || rest[i] == '\0')
            return false;
        rest[i] = rest[i] == ',' ? '/' : rest[i] == '=' ? '%' : rest[i];
    }
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) { /* gateway, key hash, id, kind, facts */
        if (slice_cut(&at, '/', &parts[i]) != (i + 1 < ARRAY_LEN(parts)) || parts[i].n == 0)
            return false;
    }
    if (parts[1].n != SHA256_HEX_SIZE - 1)
        return false;
    size_t identity = (size_t)(parts[4].p - rest) - 1;
    billing_key_name(parts[1].p, name);
    x->keys[AT_SUSPENSE] = slice_str(arena_printf(&x->arena, SUSPENSE_PREFIX "%s", rest));
    x->keys[AT_DECISION] = slice_str(arena_printf(&x->arena, DECISION_PREFIX "%s", rest));
    x->keys[AT_DEDUPE] = slice_str(arena_printf(&x->arena, "ev/%.*s", (int)identity, rest));
    x->keys[AT_MARK] = slice_str(arena_printf(&x->arena, ATTRIBUTING_PREFIX "%s", rest));
    x->keys[AT_KEY] = slice_str(arena_strdup(&x->arena, name));
    return true;
}

void billing_suspense_decide(struct billing *b, const struct billing_decision *d, billing_json_cb cb,
                             void *data)
{
    struct deciding *x = MEM_NEW(struct deciding);
    x->billing = billing_ref(b);
    x->book = book_ref(b->book);
    x->arena = ARENA_INIT;
    x->d = *d;
    struct slice *texts[] = {&x->d.tenant,
                             &x->d.id,
                             &x->d.reason,
                             &x->d.actor,
                             &x->d.audit,
                             &x->d.to_tenant,
                             &x->d.owner.namespace,
                             &x->d.owner.workspace,
                             &x->d.owner.workspace_id,
                             &x->d.owner.user};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        *texts[i] = arena_slice(&x->arena, texts[i]->p != NULL ? *texts[i] : SLICE_EMPTY);
    x->cb = cb;
    x->data = data;
    x->partition = FLEET;
    if (d->tenant.n > 0) {
        x->tenant = tenancy_tenant(x->book->tenancy, d->tenant);
        if (x->tenant != NULL)
            x->partition = slice_str(x->tenant->id);
    }
    if (d->tenant.n > 0 && x->tenant == NULL)
        err_set(&x->err, E_NOT_FOUND, "no such tenant");
    else if (!keys_make(x, x->d.id))
        err_set(&x->err, E_NOT_FOUND, "nothing waits under this id");
    loop_defer(b->loop, decide_read, x);
}

/* --- after a crash --- */

struct resuming {
    struct billing *billing;
    struct buf after;
};

static void resume_next(struct resuming *x);

static void resume_end(struct resuming *x)
{
    struct billing *b = x->billing;
    buf_fini(&x->after);
    mem_free(x);
    billing_unref(b);
}

static void on_resumed(int code, struct slice json, const struct err *err, void *data)
{
    struct resuming *x = data;
    (void)json;
    if (code != 0)
        log_warn("suspense.attribution_waits", LF_SLICE("mark", buf_view(&x->after)),
                 LF_STR("detail", err->msg));
    resume_next(x);
}

static void on_marks(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct resuming *x = data;
    (void)has_more; /* one at a time */
    (void)err;
    if (code != 0 || n == 0 || x->billing->is_closing) {
        resume_end(x);
        return;
    }
    struct arena a = ARENA_INIT;
    struct billing_decision d = {.kind = SUSPENSE_ATTRIBUTE};
    buf_reset(&x->after);
    (void)buf_slice(&x->after, r[0].key);
    if (mark_read(&a, r[0].value, &d)) {
        billing_suspense_decide(x->billing, &d, on_resumed, x);
    } else {
        log_error("suspense.mark_damaged", LF_SLICE("key", r[0].key));
        resume_next(x);
    }
    arena_fini(&a);
}

static void resume_next(struct resuming *x)
{
    if (x->billing->is_closing)
        resume_end(x);
    else
        store_scan(x->billing->store, FLEET, SL(ATTRIBUTING_PREFIX), buf_view(&x->after), 1, on_marks, x);
}

void decisions_resume(struct billing *b)
{
    struct resuming *x = MEM_NEW(struct resuming);
    x->billing = billing_ref(b);
    buf_init(&x->after, STORE_KEY_MAX);
    resume_next(x);
}
