/* override: budgets set over the API, see override.h.
 *
 * Happy path: a wish is checked as the file is, laid over what is there, and becomes a record; the record is
 * read back here and by every other controller of the store, and put in place of the file's budget. The
 * operator's word replaces all that was set before; the tenant's own stands beside it, in a layer of its own,
 * so that taking it back gives what the operator wanted and never more.
 *
 * Failure paths: a wish that is not legal is refused with the field's name. A record whose file has changed
 * its mind since has no force, and is deleted by the next load (override_store.c). */
#include "billing/override.h"

#include <string.h>

#include "base/core/id.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "base/store/store.h"
#include "billing/amount.h"
#include "config/settings.h"
#include "config/units.h"
#include "config/value.h"

#define FORMAT "1\n"

static const char *const scope_words[] = {[SCOPE_TENANT] = "tenant", [SCOPE_NAMESPACE] = "namespace"};
static const char *const window_words[] = {
    [WINDOW_DAY] = "day", [WINDOW_WEEK] = "week", [WINDOW_MONTH] = "month"};

static int word_find(const char *const *words, size_t n, struct slice word)
{
    for (size_t i = 0; i < n; i++) {
        if (slice_eq_str(word, words[i]))
            return (int)i;
    }
    return -1;
}

static struct slice zone_of(const struct config_budget *c)
{
    return c->timezone.n > 0 ? c->timezone : SL("UTC");
}

static bool same_shape(const struct config_budget *a, const struct config_budget *b)
{
    return a->scope == b->scope && a->window == b->window && slice_eq(zone_of(a), zone_of(b));
}

static bool same_budget(const struct config_budget *a, const struct config_budget *b)
{
    return same_shape(a, b) && a->limit == b->limit && strcmp(a->currency, b->currency) == 0 &&
           a->at_limit == b->at_limit;
}

void override_fingerprint(const struct config_budget *file, char out[SHA256_HEX_SIZE])
{
    char limit[I128_TEXT_MAX];
    struct buf text = BUF_INIT(1024);
    (void)buf_str(&text, FORMAT);
    if (file != NULL) {
        (void)i128_format(file->limit, AMOUNT_SCALE, limit);
        (void)buf_printf(&text, "%s\n%s\n%.*s\n%s %s\n%d", scope_words[file->scope],
                         window_words[file->window], SL_ARG(zone_of(file)), limit, file->currency,
                         (int)file->at_limit);
    }
    must(!text.is_full);
    sha256_hex(buf_view(&text), out);
    buf_fini(&text);
}

bool override_is_stale(const struct override *o, const struct config_budget *file)
{
    char now[SHA256_HEX_SIZE];
    override_fingerprint(file, now);
    return strcmp(now, o->file) != 0;
}

static void budget_copy(struct arena *a, const struct config_budget *from, struct config_budget *to)
{
    *to = *from;
    to->name = arena_slice(a, from->name);
    to->timezone = arena_slice(a, zone_of(from));
}

/* What the operator wants of it; NULL: nothing. */
static const struct config_budget *base_of(const struct override *o, const struct config_budget *file)
{
    return o != NULL && o->operators.is_set ? &o->operators.budget : file;
}

bool override_apply(struct arena *a, const struct override *o, const struct config_budget *file,
                    struct config_budget *ret, bool *ret_is_tenants)
{
    if (o->version == 0 || override_is_stale(o, file))
        return false;
    const struct config_budget *base = base_of(o, file), *own = o->tenants.is_set ? &o->tenants.budget : NULL;
    bool is_own = own != NULL && (base == NULL || (same_shape(base, own) && own->limit < base->limit));
    if (!is_own && !o->operators.is_set)
        return false; /* the tenant's word adds nothing to the file's */
    budget_copy(a, is_own ? own : base, ret);
    *ret_is_tenants = is_own;
    return true;
}

/* --- the record --- */

static void layer_write(struct jsonw *w, const char *key, const struct override_layer *l)
{
    char limit[I128_TEXT_MAX];
    if (!l->is_set)
        return;
    const struct config_budget *c = &l->budget;
    jsonw_key(w, key);
    jsonw_object(w);
    jsonw_kstr(w, "scope", scope_words[c->scope]);
    jsonw_kstr(w, "window", window_words[c->window]);
    jsonw_kslice(w, "timezone", zone_of(c));
    jsonw_kslice(w, "limit", slice_of(limit, i128_format(c->limit, AMOUNT_SCALE, limit)));
    jsonw_kstr(w, "currency", c->currency);
    jsonw_ki64(w, "set_at_ms", l->set_at_ms);
    jsonw_kslice(w, "actor", l->actor);
    jsonw_object_end(w);
}

struct slice override_write(struct arena *a, const struct override *o)
{
    struct buf text = BUF_INIT(STORE_VALUE_MAX);
    struct jsonw w;
    jsonw_init(&w, &text);
    jsonw_object(&w);
    jsonw_kslice(&w, "name", o->name);
    jsonw_kstr(&w, "file", o->file);
    layer_write(&w, "operator", &o->operators);
    layer_write(&w, "tenant", &o->tenants);
    jsonw_object_end(&w);
    must(!text.is_full); /* every part of it is bounded */
    struct slice out = arena_slice(a, buf_view(&text));
    buf_fini(&text);
    return out;
}

struct layer_record {
    struct slice scope, window, timezone, limit, currency, actor;
    int64_t set_at_ms;
};
static const struct json_field layer_rows[] = {
    {"scope", JF_STRING, true, offsetof(struct layer_record, scope)},
    {"window", JF_STRING, true, offsetof(struct layer_record, window)},
    {"timezone", JF_STRING, true, offsetof(struct layer_record, timezone)},
    {"limit", JF_STRING, true, offsetof(struct layer_record, limit)},
    {"currency", JF_STRING, true, offsetof(struct layer_record, currency)},
    {"actor", JF_STRING, true, offsetof(struct layer_record, actor)},
    {"set_at_ms", JF_I64, true, offsetof(struct layer_record, set_at_ms)},
};
struct override_record {
    struct slice name, file;
    const struct json *operators, *tenants;
};
static const struct json_field record_rows[] = {
    {"name", JF_STRING, true, offsetof(struct override_record, name)},
    {"file", JF_STRING, true, offsetof(struct override_record, file)},
    {"operator", JF_OBJECT, false, offsetof(struct override_record, operators)},
    {"tenant", JF_OBJECT, false, offsetof(struct override_record, tenants)},
};

static int layer_read(struct override *o, const struct json *from, struct override_layer *to)
{
    struct layer_record r = {.set_at_ms = 0};
    if (from == NULL)
        return 0;
    if (json_decode(from, "", layer_rows, ARRAY_LEN(layer_rows), &r, NULL) != 0)
        return E_INVALID;
    int scope = word_find(scope_words, ARRAY_LEN(scope_words), r.scope),
        window = word_find(window_words, ARRAY_LEN(window_words), r.window);
    struct config_budget *c = &to->budget;
    if (scope < 0 || window < 0 || r.currency.n != 3 ||
        i128_parse(r.limit, AMOUNT_SCALE, false, &c->limit) != 0)
        return E_INVALID;
    c->name = o->name;
    c->scope = (enum budget_scope)scope;
    c->window = (enum budget_window)window;
    c->timezone = arena_slice(&o->arena, r.timezone);
    c->at_limit = AT_LIMIT_BLOCK;
    memcpy(c->currency, r.currency.p, 3);
    to->actor = arena_slice(&o->arena, r.actor);
    to->set_at_ms = r.set_at_ms;
    to->is_set = true;
    return 0;
}

struct override *override_gone(struct slice name)
{
    struct override *o = MEM_NEW(struct override);
    o->arena = ARENA_INIT;
    o->name = arena_slice(&o->arena, name);
    return o;
}

int override_parse(struct slice value, struct override **ret)
{
    struct json *root = NULL;
    struct override_record r = {.name = SLICE_NULL};
    if (json_parse(value, NULL, &root, NULL) != 0)
        return E_INVALID;
    struct override *o = NULL;
    if (json_type(root) == JSON_OBJECT &&
        json_decode(root, "", record_rows, ARRAY_LEN(record_rows), &r, NULL) == 0 &&
        r.file.n == SHA256_HEX_SIZE - 1) {
        o = override_gone(r.name);
        memcpy(o->file, r.file.p, r.file.n);
        if (layer_read(o, r.operators, &o->operators) != 0 || layer_read(o, r.tenants, &o->tenants) != 0) {
            override_free(o);
            o = NULL;
        }
    }
    json_free(root);
    if (o == NULL)
        return E_INVALID;
    *ret = o;
    return 0;
}

void override_free(struct override *o)
{
    if (o == NULL)
        return;
    arena_fini(&o->arena);
    mem_free(o);
}

/* --- a wish --- */

static void layer_copy(struct override *o, const struct override_layer *from, struct override_layer *to)
{
    *to = *from;
    if (!from->is_set)
        return;
    budget_copy(&o->arena, &from->budget, &to->budget);
    to->actor = arena_slice(&o->arena, from->actor);
}

/* One field by the row that checks it in the file. */
static int field_check(const char *name, struct slice text, struct err *err)
{
    char path[64];
    struct buf b = BUF_INIT(sizeof(path) - 1);
    (void)buf_printf(&b, "tenants.*.budgets[].%s", name);
    int rc = text.p == NULL ? 0 : value_check(setting_find(buf_cstr(&b)), text, err);
    buf_fini(&b);
    if (rc != 0)
        err_prefix(err, "%s", name);
    return rc != 0 ? E_INVALID : 0;
}

static int wish_check(const struct override_wish *w, struct err *err)
{
    if (field_check("name", w->name, err) != 0 || field_check("limit", w->limit, err) != 0 ||
        field_check("scope", w->scope, err) != 0 || field_check("window", w->window, err) != 0 ||
        field_check("timezone", w->timezone, err) != 0 || field_check("at_limit", w->at_limit, err) != 0)
        return E_INVALID;
    return 0;
}

/* The wish laid over what is there; `from` NULL: a new budget. */
static int wish_budget(const struct override_wish *w, const struct config_budget *from, const char *currency,
                       struct config_budget *c, struct err *err)
{
    if (wish_check(w, err) != 0)
        return E_INVALID;
    if (from != NULL)
        *c = *from;
    else if (w->limit.p == NULL || w->scope.p == NULL || w->window.p == NULL)
        return err_set(err, E_INVALID, "%s: is wanted, the budget is a new one",
                       w->limit.p == NULL   ? "limit"
                       : w->scope.p == NULL ? "scope"
                                            : "window");
    c->name = w->name;
    if (w->scope.p != NULL)
        c->scope = (enum budget_scope)word_find(scope_words, ARRAY_LEN(scope_words), w->scope);
    if (w->window.p != NULL)
        c->window = (enum budget_window)word_find(window_words, ARRAY_LEN(window_words), w->window);
    if (w->timezone.p != NULL)
        c->timezone = w->timezone;
    if (w->limit.p != NULL && money_parse(w->limit, &c->limit, c->currency) != 0)
        return err_set(err, E_INVALID, "limit: expected an amount such as `20 USD`");
    if (currency != NULL && strcmp(c->currency, currency) != 0)
        return err_set(err, E_INVALID, "limit: is in %s, but prices are in %s", c->currency, currency);
    return 0;
}

/* An owner may make the operator's budget tighter, not wider, and not another one. */
static int owner_check(const struct config_budget *base, const struct config_budget *c, struct err *err)
{
    char most[I128_TEXT_MAX];
    if (base == NULL)
        return 0;
    if (!same_shape(base, c))
        return err_set(err, E_FORBIDDEN,
                       "%s: the budget is the operator's; an owner may lower its limit only",
                       base->scope != c->scope     ? "scope"
                       : base->window != c->window ? "window"
                                                   : "timezone");
    if (c->limit <= base->limit)
        return 0;
    (void)i128_format(base->limit, AMOUNT_SCALE, most);
    return err_set(err, E_FORBIDDEN, "limit: is above the operator's %s %s; an owner may lower it only", most,
                   base->currency);
}

static int wish_put(const struct override *old, const struct config_budget *file,
                    const struct override_wish *w, const char *currency, struct override *o, struct err *err)
{
    const struct config_budget *base = base_of(old, file);
    const struct config_budget *own = old != NULL && old->tenants.is_set ? &old->tenants.budget : NULL;
    struct config_budget c = {.name = SLICE_NULL};
    int rc = wish_budget(w, base != NULL ? base : own, currency, &c, err);
    if (rc == 0 && !w->is_fleet)
        rc = owner_check(base, &c, err);
    if (rc != 0)
        return rc;
    struct override_layer l = {.is_set = true, .budget = c, .set_at_ms = 0, .actor = w->actor};
    if (w->is_fleet) {
        layer_copy(o, &l, &o->operators);
        return 0;
    }
    if (old != NULL)
        layer_copy(o, &old->operators, &o->operators);
    layer_copy(o, &l, &o->tenants);
    return 0;
}

/* *ret_is_left: the operator's word stays. */
static int wish_delete(const struct override *old, const struct config_budget *file,
                       const struct override_wish *w, struct override *o, bool *ret_is_left, struct err *err)
{
    if (old == NULL && file == NULL)
        return err_set(err, E_NOT_FOUND, "no such budget");
    if (old == NULL && w->is_fleet)
        return err_set(err, E_CONFLICT,
                       "nothing overrides this budget; it is in the configuration file: take it out there");
    if (!w->is_fleet && (old == NULL || !old->tenants.is_set))
        return err_set(err, E_FORBIDDEN, "the budget was set by the operator; an owner takes back its own");
    *ret_is_left = !w->is_fleet && old->operators.is_set;
    if (*ret_is_left)
        layer_copy(o, &old->operators, &o->operators);
    return 0;
}

int override_change(const struct override *old, const struct config_budget *file,
                    const struct override_wish *w, const char *currency, int64_t now_ms,
                    struct override **ret, struct err *err)
{
    struct override *o = override_gone(w->name);
    bool is_left = true;
    override_fingerprint(file, o->file);
    if (old != NULL && override_is_stale(old, file))
        old = NULL;
    int rc =
        w->is_delete ? wish_delete(old, file, w, o, &is_left, err) : wish_put(old, file, w, currency, o, err);
    if (!w->is_delete)
        (w->is_fleet ? &o->operators : &o->tenants)->set_at_ms = now_ms;
    if (rc != 0 || !is_left) {
        override_free(o);
        o = NULL;
    }
    if (rc == 0)
        *ret = o;
    return rc;
}

static bool same_layer(const struct override_layer *a, const struct override_layer *b)
{
    return a->is_set == b->is_set && (!a->is_set || same_budget(&a->budget, &b->budget));
}

bool override_same(const struct override *a, const struct override *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return strcmp(a->file, b->file) == 0 && same_layer(&a->operators, &b->operators) &&
           same_layer(&a->tenants, &b->tenants);
}

/* --- those in memory --- */

static struct override_tenant *tenant_find(const struct override_table *t, const char *tenant_id)
{
    struct override_tenant *row = NULL;
    if (t != NULL)
        HASH_FIND_STR(t->tenants, tenant_id, row);
    return row;
}

const struct override *override_first(const struct override_table *t, const char *tenant_id)
{
    const struct override_tenant *row = tenant_find(t, tenant_id);
    return row != NULL ? row->items : NULL;
}

const struct override *override_find(const struct override_table *t, const char *tenant_id, struct slice name)
{
    const struct override *o = override_first(t, tenant_id);
    while (o != NULL && !slice_eq(o->name, name))
        o = o->next;
    return o;
}

bool override_put(struct override_table *t, const char *tenant_id, struct override *o)
{
    struct override_tenant *row = tenant_find(t, tenant_id);
    if (row == NULL) {
        row = MEM_NEW(struct override_tenant);
        must(strlen(tenant_id) < sizeof(row->id));
        memcpy(row->id, tenant_id, strlen(tenant_id));
        HASH_ADD_STR(t->tenants, id, row);
    }
    struct override **at = &row->items;
    while (*at != NULL && slice_cmp((*at)->name, o->name) < 0)
        at = &(*at)->next;
    struct override *there = *at;
    if (there == NULL || !slice_eq(there->name, o->name)) {
        o->next = there;
        *at = o;
        return true;
    }
    bool is_change = there->version != o->version;
    o->next = there->next;
    *at = o;
    override_free(there);
    return is_change;
}

bool override_retain(struct override_table *t, const char *tenant_id, const struct slice *found, size_t n,
                     uint64_t since)
{
    struct override_tenant *row = tenant_find(t, tenant_id);
    size_t at_found = 0;
    bool is_change = false;
    if (row == NULL)
        return false;
    for (struct override **at = &row->items; *at != NULL;) {
        struct override *o = *at;
        while (at_found < n && slice_cmp(found[at_found], o->name) < 0)
            at_found++;
        if ((at_found < n && slice_eq(found[at_found], o->name)) || o->said_at > since) {
            at = &o->next;
            continue;
        }
        is_change = is_change || o->version > 0;
        *at = o->next;
        override_free(o);
    }
    return is_change;
}

void override_table_fini(struct override_table *t)
{
    struct override_tenant *row, *next;
    HASH_ITER (hh, t->tenants, row, next) {
        HASH_DEL(t->tenants, row);
        while (row->items != NULL) {
            struct override *o = row->items;
            row->items = o->next;
            override_free(o);
        }
        mem_free(row);
    }
}
