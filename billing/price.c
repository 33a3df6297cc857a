/* price: the price file as exact amounts per token, see price.h.
 *
 * Happy path: each price, decimal text per million tokens, is an integer count of 1e-12; that is the same
 * integer as the price of one token in 1e-18, so nothing is divided and nothing rounded. Lookups go through a
 * hash table.
 *
 * Failure paths: every problem is collected with its place, none stops the reading of the rest. More than 12
 * digits after the point are the mark of a number that went through floating point (0.18000000000000002), and
 * are refused: only the operator knows what was meant. */
#include "billing/price.h"

#include <string.h>

#include "base/core/mem.h"
#include "base/core/hash.h"

const char *const token_kind_names[TOKEN_KINDS] = {"input", "output", "cache_read", "cache_write"};

struct price_row {
    struct price_model model;
    struct slice name;
    UT_hash_handle hh;
};

struct price_table {
    struct arena arena;
    char currency[4];
    struct slice version;
    bool is_given;
    struct price_row *rows;
};

struct reader {
    struct price_table *table;
    struct config_problems *problems;
    const char *file;
    size_t n_problems;
};

#define PROBLEM(r, node_line, node_column, hint, ...)                                                        \
    do {                                                                                                     \
        (r)->n_problems++;                                                                                   \
        config_problem_add((r)->problems, (r)->file, (node_line), (node_column), (hint), __VA_ARGS__);       \
    } while (0)

/* As much of a user's text as an error message should repeat. */
static int shown(struct slice s)
{
    return (int)(s.n < 64 ? s.n : 64);
}

static void on_currency(struct reader *r, const struct yaml_node *n)
{
    bool ok = n->kind == YAML_SCALAR && n->text.n == 3;
    for (size_t i = 0; ok && i < 3; i++)
        ok = n->text.p[i] >= 'A' && n->text.p[i] <= 'Z';
    if (!ok) {
        PROBLEM(r, n->line, n->column, "for example USD", "currency: expected three capital letters");
        return;
    }
    memcpy(r->table->currency, n->text.p, 3);
}

static void on_version(struct reader *r, const struct yaml_node *n)
{
    if (n->kind != YAML_SCALAR || n->text.n == 0 || n->text.n > PRICE_VERSION_MAX) {
        PROBLEM(r, n->line, n->column, "for example \"2026-11-01\"",
                "version: expected 1 to %d characters of text", PRICE_VERSION_MAX);
        return;
    }
    r->table->version = arena_slice(&r->table->arena, n->text);
}

/* Digits behind the point, zeros at the end not counted; SIZE_MAX when this is not plain decimal text. */
static size_t fraction_digits(struct slice s)
{
    struct slice head;
    if (!slice_cut(&s, '.', &head))
        return 0;
    while (s.n > 0 && s.p[s.n - 1] == '0')
        s.n--;
    return s.n;
}

static void on_price(struct reader *r, const struct yaml_node *n, struct price_model *m)
{
    int kind = -1;
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (slice_eq_str(n->key, token_kind_names[k]))
            kind = k;
    }
    if (kind < 0) {
        PROBLEM(r, n->key_line, n->key_column, "one of input, output, cache_read, cache_write",
                "unknown kind of price `%.*s`", shown(n->key), n->key.p);
        return;
    }
    if (n->kind != YAML_SCALAR) {
        PROBLEM(r, n->line, n->column, "for example 0.30", "%s: expected a decimal number",
                token_kind_names[kind]);
        return;
    }
    i128 v = 0;
    int rc = i128_parse(n->text, PRICE_FRACTION_MAX, false, &v);
    if (rc == E_OVERFLOW) {
        PROBLEM(r, n->line, n->column, NULL, "%s: `%.*s` is too large", token_kind_names[kind],
                shown(n->text), n->text.p);
    } else if (rc != 0 && fraction_digits(n->text) > PRICE_FRACTION_MAX) {
        PROBLEM(r, n->line, n->column, "write the exact price, as the vendor publishes it",
                "%s: `%.*s` has more than %d digits after the point: a rounding artefact of floating point?",
                token_kind_names[kind], shown(n->text), n->text.p, PRICE_FRACTION_MAX);
    } else if (rc != 0) {
        PROBLEM(r, n->line, n->column, "for example 0.30; no exponent, no sign, no unit",
                "%s: `%.*s` is not a decimal number", token_kind_names[kind], shown(n->text),
                n->text.n > 0 ? n->text.p : "");
    } else if (v < 0) {
        PROBLEM(r, n->line, n->column, NULL, "%s: a price cannot be negative", token_kind_names[kind]);
    } else {
        m->unit[kind] = v;
        m->has[kind] = true;
    }
}

static void on_model(struct reader *r, const struct yaml_node *n)
{
    if (n->key.n == 0 || n->key.n > MODEL_NAME_MAX) {
        PROBLEM(r, n->key_line, n->key_column, NULL, "models: a name has 1 to %d bytes", MODEL_NAME_MAX);
        return;
    }
    if (n->kind != YAML_MAP || n->count == 0) {
        PROBLEM(r, n->line, n->column, "for example {input: 3, output: 15}",
                "models.%.*s: expected prices per million tokens", shown(n->key), n->key.p);
        return;
    }
    struct price_row *row = ARENA_NEW(&r->table->arena, struct price_row);
    row->name = arena_slice(&r->table->arena, n->key);
    YAML_FOREACH (it, n)
        on_price(r, it, &row->model);
    HASH_ADD_KEYPTR(hh, r->table->rows, row->name.p, row->name.n, row);
}

static void on_models(struct reader *r, const struct yaml_node *n)
{
    if (n->kind != YAML_MAP) {
        PROBLEM(r, n->line, n->column, "for example models: {claude-sonnet-4-5: {input: 3, output: 15}}",
                "models: expected names with their prices");
        return;
    }
    if (n->count > PRICE_MODELS_MAX) {
        PROBLEM(r, n->line, n->column, NULL, "models: more than %d", PRICE_MODELS_MAX);
        return;
    }
    YAML_FOREACH (it, n)
        on_model(r, it);
}

static void read_root(struct reader *r, const struct yaml_node *root)
{
    if (root->kind != YAML_MAP) {
        PROBLEM(r, root->line, root->column, NULL, "expected currency, version and models");
        return;
    }
    static const struct {
        const char *key;
        void (*on)(struct reader *r, const struct yaml_node *n);
    } keys[] = {{"currency", on_currency}, {"version", on_version}, {"models", on_models}};
    bool found[ARRAY_LEN(keys)] = {false};
    YAML_FOREACH (it, root) {
        size_t k = 0;
        while (k < ARRAY_LEN(keys) && !slice_eq_str(it->key, keys[k].key))
            k++;
        if (k == ARRAY_LEN(keys)) {
            PROBLEM(r, it->key_line, it->key_column, "a price file has currency, version and models",
                    "unknown key `%.*s`", shown(it->key), it->key.p);
            continue;
        }
        found[k] = true;
        keys[k].on(r, it);
    }
    for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
        if (!found[k])
            PROBLEM(r, root->line, root->column, NULL, "missing key `%s`", keys[k].key);
    }
}

int price_table_new(const struct tenancy *t, struct config_problems *problems, struct price_table **ret)
{
    struct price_table *p = MEM_NEW(struct price_table);
    p->arena = ARENA_INIT;
    memcpy(p->currency, "USD", 4);
    p->version = SLICE_EMPTY;
    if (t->prices.root != NULL) {
        AUTO_FREE char *file = mem_strndup(t->prices.file.n > 0 ? t->prices.file.p : "prices",
                                           t->prices.file.n > 0 ? t->prices.file.n : 6);
        struct reader r = {p, problems, file, 0};
        p->is_given = true;
        read_root(&r, t->prices.root);
        if (r.n_problems > 0) {
            price_table_free(p);
            return E_INVALID;
        }
    }
    *ret = p;
    return 0;
}

void price_table_free(struct price_table *p)
{
    if (p == NULL)
        return;
    HASH_CLEAR(hh, p->rows);
    arena_fini(&p->arena);
    mem_free(p);
}

const struct price_model *price_find(const struct price_table *p, struct slice model)
{
    struct price_row *row = NULL;
    if (model.n > 0)
        HASH_FIND(hh, p->rows, model.p, model.n, row);
    return row != NULL ? &row->model : NULL;
}

const char *price_currency(const struct price_table *p)
{
    return p->currency;
}

struct slice price_version(const struct price_table *p)
{
    return p->version;
}

bool price_is_given(const struct price_table *p)
{
    return p->is_given;
}
