/* tenancy: one immutable, validated picture of the configuration file, with its look-ups.
 *
 * Happy path: the file is read, parsed, checked against the rows of settings, and built; the caller gets one
 * reference. A reload builds a new one beside it. Failure paths: any problem at all, and nothing is given but
 * the problems; a half-built tenancy is wiped and freed like a whole one. */
#include "config/tenancy.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "config/build.h"
#include "config/schema.h"

#define FILE_MAX (8u << 20)

/* --- words --- */

static const char *const role_names[] = {
    [ROLE_NONE] = "none", [ROLE_VIEWER] = "viewer", [ROLE_MEMBER] = "member", [ROLE_OWNER] = "owner"};

const char *role_name(enum role r)
{
    must((size_t)r < ARRAY_LEN(role_names));
    return role_names[r];
}

int role_parse(struct slice s, enum role *ret)
{
    for (size_t i = ROLE_VIEWER; i < ARRAY_LEN(role_names); i++)
        if (slice_eq_str(s, role_names[i])) {
            *ret = (enum role)i;
            return 0;
        }
    return E_INVALID;
}

const char *provider_kind_name(enum provider_kind k)
{
    static const char *const names[] = {[PROVIDER_LOCAL] = "local",
                                        [PROVIDER_DOCKER] = "docker",
                                        [PROVIDER_E2B] = "e2b",
                                        [PROVIDER_DAYTONA] = "daytona"};
    must((size_t)k < ARRAY_LEN(names));
    return names[k];
}

bool env_name_is_valid(struct slice name)
{
    if (name.n == 0 || name.n > 256 || (name.p[0] >= '0' && name.p[0] <= '9'))
        return false;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'))
            return false;
    }
    return true;
}

const char *env_name_refused(struct slice name)
{
    if (!env_name_is_valid(name))
        return "expected the name of a variable: letters, digits and `_`, not beginning with a digit";
    if (slice_starts(name, SL("LD_")))
        return "`LD_*` may not be set: it would change what the server's process loads";
    if (slice_starts(name, SL("REEVE_")))
        return "`REEVE_*` may not be set: these are Reeve's own";
    if (slice_ends(name, SL("_API_KEY")) || slice_ends(name, SL("_BASE_URL")))
        return "`*_API_KEY` and `*_BASE_URL` may not be set: Reeve gives each workspace its own";
    return NULL;
}

/* --- life --- */

/* A text in the tenancy's own arena, or none. */
static void secret_wipe(struct slice s)
{
    if (s.p != NULL)
        mem_wipe((void *)(uintptr_t)s.p, s.n);
}

static void tenancy_free(struct tenancy *t)
{
    for (size_t i = 0; i < t->n_gateways; i++) {
        secret_wipe(t->gateways[i].secret);
        secret_wipe(t->gateways[i].admin_key);
    }
    for (size_t i = 0; i < t->n_listen; i++)
        for (size_t k = 0; k < t->listen[i].n_tls; k++)
            secret_wipe(t->listen[i].tls[k].key_pem);
    tenancy_index_fini(t->index);
    arena_fini(&t->arena);
    mem_free(t);
}

struct tenancy *tenancy_ref(struct tenancy *t)
{
    must(t->refs > 0);
    t->refs++;
    return t;
}

void tenancy_unref(struct tenancy *t)
{
    if (t == NULL)
        return;
    must(t->refs > 0);
    if (--t->refs == 0)
        tenancy_free(t);
}

/* The file's folder, absolute, as the path says it (a symbolic link to the file does not move it). */
static struct slice folder_of(struct arena *a, const char *path)
{
    char cwd[PATH_MAX];
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    const char *slash = strrchr(path, '/');
    struct slice dir = {path, slash == NULL ? 0 : (size_t)(slash - path)};
    if (path[0] == '/')
        return arena_slice(a, dir);
    if (getcwd(cwd, sizeof(cwd)) == NULL)
        cwd[0] = '\0'; /* the folder is gone: what is looked for in it will not be found, and is reported */
    if (strcmp(cwd, "/") == 0)
        cwd[0] = '\0';
    return slice_str(dir.n == 0 ? arena_strdup(a, cwd) : arena_printf(a, "%s/%.*s", cwd, SL_ARG(dir)));
}

int tenancy_parse(const char *path, struct slice text, struct config_problems *problems, struct tenancy **ret)
{
    struct tenancy *t = MEM_NEW(struct tenancy);
    t->refs = 1;
    t->arena = ARENA_INIT;
    t->index = ARENA_NEW(&t->arena, struct tenancy_index);
    t->file = slice_str(arena_strdup(&t->arena, path));
    struct source source = {t->file.p, folder_of(&t->arena, path), problems, 0};
    struct yaml_node *root = NULL;
    bool is_good = yaml_parse(&t->arena, path, text, problems, &root) == 0;
    if (root != NULL)
        schema_check(&source, root);
    if (root != NULL && root->kind == YAML_MAP) {
        struct build b = {.t = t, .source = &source, .root = root, .currency = SLICE_EMPTY};
        build_all(&b);
    }
    if (!is_good || source.complaints > 0) {
        tenancy_unref(t);
        return E_INVALID;
    }
    *ret = t;
    return 0;
}

int tenancy_load(const char *path, struct config_problems *problems, struct tenancy **ret)
{
    struct buf text;
    struct err err = {0};
    if (source_read(path, FILE_MAX, &text, &err) != 0) {
        config_problem_add(problems, path, 0, 0, NULL, "cannot read it: %s", err.msg);
        return E_INVALID;
    }
    int r = tenancy_parse(path, buf_view(&text), problems, ret);
    buf_wipe(&text); /* someone may have written a secret into it against all advice */
    return r;
}

/* --- look-ups --- */

bool tenancy_index_add(struct arena *a, struct name_entry **table, struct slice name, const void *item)
{
    struct name_entry *e = NULL;
    HASH_FIND(hh, *table, name.p, name.n, e);
    if (e != NULL)
        return false;
    e = ARENA_NEW(a, struct name_entry);
    e->name = name;
    e->item = item;
    HASH_ADD_KEYPTR(hh, *table, e->name.p, e->name.n, e);
    return true;
}

const void *tenancy_index_find(struct name_entry *const *table, struct slice name)
{
    struct name_entry *e = NULL;
    if (name.n > 0)
        HASH_FIND(hh, *table, name.p, name.n, e);
    return e == NULL ? NULL : e->item;
}

void tenancy_index_fini(struct tenancy_index *x)
{
    HASH_CLEAR(hh, x->providers);
    HASH_CLEAR(hh, x->gateways);
    HASH_CLEAR(hh, x->templates);
    HASH_CLEAR(hh, x->tenants);
    HASH_CLEAR(hh, x->tenant_ids);
    HASH_CLEAR(hh, x->network_sets);
    HASH_CLEAR(hh, x->keys);
}

const struct config_tenant *tenancy_tenant(const struct tenancy *t, struct slice name)
{
    return tenancy_index_find(&t->index->tenants, name);
}

const struct config_tenant *tenancy_tenant_by_id(const struct tenancy *t, struct slice id)
{
    return tenancy_index_find(&t->index->tenant_ids, id);
}

const struct config_gateway *tenancy_gateway(const struct tenancy *t, struct slice name)
{
    return tenancy_index_find(&t->index->gateways, name);
}

const struct config_provider *tenancy_provider(const struct tenancy *t, struct slice name)
{
    return tenancy_index_find(&t->index->providers, name);
}

const struct config_template *tenancy_template(const struct tenancy *t, struct slice name)
{
    return tenancy_index_find(&t->index->templates, name);
}

const struct config_template *tenant_template(const struct config_tenant *t, struct slice name)
{
    if (name.n == 0)
        return t->n_templates > 0 ? t->templates[0] : NULL;
    for (size_t i = 0; i < t->n_templates; i++)
        if (slice_eq(t->templates[i]->name, name))
            return t->templates[i];
    return NULL;
}

const struct config_key *tenancy_key(const struct tenancy *t, const unsigned char hash[SHA256_BYTES],
                                     const struct config_tenant **ret_tenant)
{
    struct key_entry *e = NULL;
    HASH_FIND(hh, t->index->keys, hash, SHA256_BYTES, e);
    if (e == NULL)
        return NULL;
    *ret_tenant = e->tenant;
    return e->key;
}

/* --- reload --- */

static void say(struct buf *out, const char *what)
{
    (void)buf_printf(out, "%s%s: takes effect after a restart", out->n == 0 ? "" : "\n",
                     what); /* full says so itself */
}

static bool listen_differs(const struct tenancy *a, const struct tenancy *b)
{
    if (a->n_listen != b->n_listen)
        return true;
    for (size_t i = 0; i < a->n_listen; i++)
        if (!slice_eq(a->listen[i].address, b->listen[i].address) ||
            a->listen[i].probes != b->listen[i].probes ||
            (a->listen[i].n_tls > 0) != (b->listen[i].n_tls > 0))
            return true;
    return false;
}

static void diff_providers(const struct tenancy *old, const struct tenancy *now, struct buf *out)
{
    char text[160];
    for (size_t i = 0; i < now->n_providers; i++) {
        const struct config_provider *p = &now->providers[i], *was = tenancy_provider(old, p->name);
        const char *what = was == NULL                                     ? "is new"
                           : was->kind != p->kind                          ? "has another `kind`"
                           : !slice_eq(was->agent_binary, p->agent_binary) ? "has another `agent_binary`"
                           : !slice_eq(was->endpoint, p->endpoint)         ? "has another `endpoint`"
                           : was->uid_first != p->uid_first || was->uid_count != p->uid_count
                               ? "has another `uid_range`"
                               : NULL;
        if (what == NULL)
            continue;
        (void)snprintf(text, sizeof(text), "provider `%.*s` %s", SL_ARG(p->name), what);
        say(out, text);
    }
    for (size_t i = 0; i < old->n_providers; i++) {
        struct slice name = old->providers[i].name;
        if (tenancy_provider(now, name) != NULL)
            continue;
        (void)snprintf(text, sizeof(text), "provider `%.*s` is gone", SL_ARG(name));
        say(out, text);
    }
}

void tenancy_restart_diff(const struct tenancy *old, const struct tenancy *now, struct buf *out)
{
    if (listen_differs(old, now))
        say(out, "`listen` changed");
    if (!slice_eq(old->data_dir, now->data_dir))
        say(out, "`data_dir` changed");
    if (!slice_eq(old->store, now->store))
        say(out, "`store` changed");
    if (!slice_eq(old->seal_key_file, now->seal_key_file))
        say(out, "`seal_key` changed");
    diff_providers(old, now, out);
}
