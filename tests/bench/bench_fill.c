/* bench_fill: puts many workspaces into a stopped controller's store, to time a start with them.
 *
 *   bench_fill STORE CONFIGURATION TENANT COUNT
 *
 * The first workspace of the tenant that the store has is copied under new names and ids, in namespaces of a
 * hundred; so records are as the scheduler writes them. Its sealed credentials are copied too: they have
 * their true length, but open only for the original. Exits 1 when a commit fails; the store is then of no
 * use.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/crypto.h"
#include "base/core/id.h"
#include "base/core/json.h"
#include "base/core/mem.h"
#include "base/net/loop.h"
#include "base/store/store.h"
#include "config/tenancy.h"

enum { FILL_BATCH = 500, FILL_NAMESPACE = 100, FILL_RECORD_MAX = 65536 };

struct fill {
    struct store *s;
    struct slice partition;
    struct slice model; /* the record that is copied */
    char *id, *namespace, *name, *hash;
    uint64_t count, made;
};

/* A member's text, as it stands in the model. */
static char *member(const struct json *j, const char *name)
{
    struct slice s = json_string(json_get(j, name));
    if (s.p == NULL)
        die("the record to copy has no %s", name);
    return mem_strndup(s.p, s.n);
}

static void replace(struct buf *b, const char *old, const char *new_text)
{
    size_t old_n = strlen(old);
    struct buf out = BUF_INIT(FILL_RECORD_MAX);
    const char *from = buf_cstr(b);
    for (const char *at; (at = strstr(from, old)) != NULL; from = at + old_n) {
        (void)buf_append(&out, from, (size_t)(at - from));
        (void)buf_str(&out, new_text);
    }
    (void)buf_str(&out, from);
    if (out.is_full)
        die("the record to copy is larger than %d bytes", FILL_RECORD_MAX);
    buf_fini(b);
    *b = out;
}

static void replace_member(struct buf *b, const char *name, const char *old, const char *new_text)
{
    char was[256], is[256];
    (void)snprintf(was, sizeof was, "\"%s\":\"%s\"", name, old);
    (void)snprintf(is, sizeof is, "\"%s\":\"%s\"", name, new_text);
    replace(b, was, is);
}

/* The i-th copy: its key and its value. */
static void copy_make(const struct fill *f, uint64_t i, char key[160], struct buf *value)
{
    char id[ID_TEXT_MAX], namespace[64], name[64], hash[SHA256_HEX_SIZE];
    id_new(&rnd_system, "ws", id);
    (void)snprintf(namespace, sizeof namespace, "user-%llu", (unsigned long long)(i / FILL_NAMESPACE));
    (void)snprintf(name, sizeof name, "copy-%llu", (unsigned long long)i);
    (void)snprintf(key, 160, "ws/%s/%s", namespace, name);
    sha256_hex(slice_str(id), hash);
    *value = (struct buf)BUF_INIT(FILL_RECORD_MAX);
    (void)buf_slice(value, f->model);
    replace(value, f->id, id); /* also as the home's id */
    replace_member(value, "namespace", f->namespace, namespace);
    replace_member(value, "name", f->name, name);
    replace_member(value, "llm_key_hash", f->hash, hash);
}

static void fill_next(struct fill *f);

static void on_commit(const struct store_commit_answer *a, void *data)
{
    if (a->code != 0)
        die("commit: %s", a->err->msg);
    fill_next(data);
}

static void fill_next(struct fill *f)
{
    static char keys[FILL_BATCH][160];
    struct buf values[FILL_BATCH];
    struct store_op ops[FILL_BATCH];
    size_t n = 0;
    if (f->made == f->count) {
        store_close(f->s, NULL, NULL);
        return;
    }
    for (; n < FILL_BATCH && f->made < f->count; n++, f->made++) {
        copy_make(f, f->made, keys[n], &values[n]);
        ops[n] = store_put(slice_str(keys[n]), buf_view(&values[n]));
    }
    store_commit(f->s, f->partition, ops, n, on_commit, f);
    for (size_t i = 0; i < n; i++)
        buf_fini(&values[i]);
}

static void on_model(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                     void *data)
{
    struct fill *f = data;
    struct json *j = NULL;
    (void)has_more;
    if (code != 0)
        die("scan: %s", err->msg);
    if (n == 0)
        die("the tenant has no workspace to copy");
    if (json_parse(r[0].value, NULL, &j, NULL) != 0)
        die("the record to copy is not JSON");
    f->model = slice_of(mem_strndup(r[0].value.p, r[0].value.n), r[0].value.n);
    f->id = member(j, "id");
    f->namespace = member(j, "namespace");
    f->name = member(j, "name");
    f->hash = member(j, "llm_key_hash");
    json_free(j);
    fill_next(f);
}

int main(int argc, char **argv)
{
    struct fill f = {0};
    struct loop loop;
    struct err err = {0};
    struct config_problems problems;
    struct tenancy *tenancy;
    if (argc != 5 || slice_u64(slice_str(argv[4]), &f.count) != 0 || f.count == 0)
        die("usage: bench_fill STORE CONFIGURATION TENANT COUNT");
    config_problems_init(&problems);
    if (tenancy_load(argv[2], &problems, &tenancy) != 0)
        die("configuration: %s", problems.n > 0 ? problems.items[0].text : "?");
    const struct config_tenant *tenant = tenancy_tenant(tenancy, slice_str(argv[3]));
    if (tenant == NULL)
        die("no tenant %s", argv[3]);
    f.partition = slice_str(tenant->id);
    must(loop_init(&loop, &clock_system, &rnd_system) == 0);
    if (store_sqlite_open(&loop, argv[1], &f.s, &err) != 0)
        die("%s", err.msg);
    store_scan(f.s, f.partition, SL("ws/"), SLICE_EMPTY, 1, on_model, &f);
    loop_run(&loop);
    loop_fini(&loop);
    mem_free((char *)(uintptr_t)f.model.p);
    mem_free(f.id);
    mem_free(f.namespace);
    mem_free(f.name);
    mem_free(f.hash);
    tenancy_unref(tenancy);
    config_problems_fini(&problems);
    return 0;
}
