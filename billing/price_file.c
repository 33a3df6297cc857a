/* price_file: price files to the rows of a price table.
 *
 * Happy path: each price, decimal text per million tokens, is an integer count of 1e-12; that is the same
 * integer as the price of one token in 1e-18, so nothing is divided. A file's factor is folded in here, once,
 * rounded half-even at 1e-18. Groups come last, when all rows are there: each becomes a row of its own.
 *
 * Failure paths: every problem is collected with its place, none stops the reading of the rest. More than 12
 * digits after the point are the mark of a number that went through floating point (0.18000000000000002), and
 * are refused: only the operator knows what was meant. */
#include "billing/price_table.h"

#include <string.h>

#include "base/core/mem.h"

#define TIER_ABOVE_MAX UINT64_C(1000000000000)

struct reader {
    struct price_table *table;
    struct config_problems *problems;
    const char *file;
    struct slice version;
    i128 factor; /* in 1e-6 */
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

static i128 factor_one(void)
{
    i128 one = 1;
    for (int i = 0; i < PRICE_FACTOR_SCALE; i++)
        one *= 10;
    return one;
}

/* --- the file's own lines --- */

static void on_currency(struct reader *r, const struct yaml_node *n)
{
    bool ok = n->kind == YAML_SCALAR && n->text.n == 3;
    for (size_t i = 0; ok && i < 3; i++)
        ok = n->text.p[i] >= 'A' && n->text.p[i] <= 'Z';
    if (!ok) {
        PROBLEM(r, n->line, n->column, "for example USD", "currency: expected three capital letters");
        return;
    }
    if (r->table->version.n > 0 && memcmp(r->table->currency, n->text.p, 3) != 0)
        PROBLEM(r, n->line, n->column, NULL, "currency: %.*s, but the first price file is in %s",
                SL_ARG(n->text), r->table->currency);
    memcpy(r->table->currency, n->text.p, 3);
}

static void on_version(struct reader *r, const struct yaml_node *n)
{
    if (n->kind != YAML_SCALAR || n->text.n == 0 || n->text.n > PRICE_VERSION_MAX) {
        PROBLEM(r, n->line, n->column, "for example \"2026-11-01\"",
                "version: expected 1 to %d characters of text", PRICE_VERSION_MAX);
        return;
    }
    r->version = arena_slice(&r->table->arena, n->text);
    if (r->table->version.n == 0)
        r->table->version = r->version;
}

static void on_factor(struct reader *r, const struct yaml_node *n)
{
    i128 v = 0;
    if (n->kind != YAML_SCALAR || i128_parse(n->text, PRICE_FACTOR_SCALE, false, &v) != 0 || v <= 0 ||
        v > factor_one() * PRICE_FACTOR_MAX) {
        PROBLEM(
            r, n->line, n->column, "for example 0.85: every price of this file at 85 %",
            "factor: expected a decimal number above 0, at most %d, with at most %d digits after the point",
            PRICE_FACTOR_MAX, PRICE_FACTOR_SCALE);
        return;
    }
    r->factor = v;
}

/* --- models --- */

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

/* listed × factor, half-even at 1e-18. 0 or E_OVERFLOW. */
static int fold(i128 listed, i128 factor, i128 *ret)
{
    i128 product, one = factor_one();
    if (factor == one) {
        *ret = listed;
        return 0;
    }
    if (i128_mul(listed, factor, &product) != 0 || product > I128_MAX - one) /* room to round up */
        return E_OVERFLOW;
    i128 whole = product / one, twice = product % one * 2;
    if (twice > one || (twice == one && whole % 2 != 0))
        whole++;
    *ret = whole;
    return 0;
}

static void on_price(struct reader *r, const struct yaml_node *n, const char *kind_name,
                     struct price_rates *m, int kind)
{
    if (n->kind != YAML_SCALAR) {
        PROBLEM(r, n->line, n->column, "for example 0.30", "%s: expected a decimal number", kind_name);
        return;
    }
    i128 v = 0;
    int rc = i128_parse(n->text, PRICE_FRACTION_MAX, false, &v);
    if (rc == 0 && v >= 0)
        rc = fold(v, r->factor, &m->unit[kind]);
    if (rc == E_OVERFLOW) {
        PROBLEM(r, n->line, n->column, NULL, "%s: `%.*s` is too large", kind_name, shown(n->text), n->text.p);
    } else if (rc != 0 && fraction_digits(n->text) > PRICE_FRACTION_MAX) {
        PROBLEM(r, n->line, n->column, "write the exact price, as the vendor publishes it",
                "%s: `%.*s` has more than %d digits after the point: a rounding artefact of floating point?",
                kind_name, shown(n->text), n->text.p, PRICE_FRACTION_MAX);
    } else if (rc != 0) {
        PROBLEM(r, n->line, n->column, "for example 0.30; no exponent, no sign, no unit",
                "%s: `%.*s` is not a decimal number", kind_name, shown(n->text),
                n->text.n > 0 ? n->text.p : "");
    } else if (v < 0) {
        PROBLEM(r, n->line, n->column, NULL, "%s: a price cannot be negative", kind_name);
    } else {
        m->listed[kind] = v;
        m->has[kind] = true;
    }
}

static int kind_of(struct slice key)
{
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (slice_eq_str(key, token_kind_names[k]))
            return k;
    }
    return -1;
}

static void unknown_kind(struct reader *r, const struct yaml_node *n, const char *hint)
{
    PROBLEM(r, n->key_line, n->key_column, hint, "unknown kind of price `%.*s`", shown(n->key), n->key.p);
}

/* One step of `tiers`: what it does not say is as in the step before. */
static void on_tier(struct reader *r, const struct yaml_node *n, struct price_model *m)
{
    const struct yaml_node *above = yaml_get(n, "above");
    uint64_t v = 0;
    if (n->kind != YAML_MAP || above == NULL || above->kind != YAML_SCALAR ||
        slice_u64(above->text, &v) != 0 || v == 0 || v > TIER_ABOVE_MAX || n->count < 2) {
        PROBLEM(r, n->line, n->column, "for example {above: 200000, input: 6, output: 22.50}",
                "tiers: expected `above`, a number of tokens, and prices");
        return;
    }
    if (v <= m->tiers[m->n_tiers - 1].above) {
        PROBLEM(r, above->line, above->column, NULL, "above: the tiers must ascend");
        return;
    }
    if (m->n_tiers == PRICE_TIERS_MAX) {
        PROBLEM(r, n->line, n->column, NULL, "tiers: more than %d", PRICE_TIERS_MAX - 1);
        return;
    }
    struct price_tier *tier = &m->tiers[m->n_tiers];
    *tier = m->tiers[m->n_tiers - 1];
    tier->above = v;
    m->n_tiers++;
    YAML_FOREACH (it, n) {
        int kind = kind_of(it->key);
        if (it == above)
            continue;
        if (kind < 0)
            unknown_kind(r, it, "one of above, input, output, cache_read, cache_write");
        else
            on_price(r, it, token_kind_names[kind], &tier->rates, kind);
    }
}

static void on_provider(struct reader *r, const struct yaml_node *n, struct price_model *m)
{
    if (n->kind != YAML_SCALAR || n->text.n == 0 || n->text.n > PROVIDER_NAME_MAX)
        PROBLEM(r, n->line, n->column, "for example openai", "provider: expected a name of 1 to %d bytes",
                PROVIDER_NAME_MAX);
    else
        m->provider = arena_slice(&r->table->arena, n->text);
}

static void read_model(struct reader *r, const struct yaml_node *n, struct price_model *m)
{
    const struct yaml_node *tiers = NULL;
    m->n_tiers = 1;
    YAML_FOREACH (it, n) {
        int kind = kind_of(it->key);
        if (slice_eq_str(it->key, "provider"))
            on_provider(r, it, m);
        else if (slice_eq_str(it->key, "tiers"))
            tiers = it;
        else if (kind < 0)
            unknown_kind(r, it, "one of input, output, cache_read, cache_write");
        else
            on_price(r, it, token_kind_names[kind], &m->tiers[0].rates, kind);
    }
    if (tiers != NULL && (tiers->kind != YAML_LIST || tiers->count == 0))
        PROBLEM(r, tiers->line, tiers->column, "for example [{above: 200000, input: 6, output: 22.50}]",
                "tiers: expected a list");
    else if (tiers != NULL)
        YAML_FOREACH (it, tiers)
            on_tier(r, it, m);
}

static bool name_is_fit(struct reader *r, const struct yaml_node *n, const char *section)
{
    if (n->key.n > 0 && n->key.n <= MODEL_NAME_MAX)
        return true;
    PROBLEM(r, n->key_line, n->key_column, NULL, "%s: a name has 1 to %d bytes", section, MODEL_NAME_MAX);
    return false;
}

static struct price_row *row_new(struct reader *r, struct slice name)
{
    struct price_row *row = ARENA_NEW(&r->table->arena, struct price_row);
    row->model = (struct price_model){.name = arena_slice(&r->table->arena, name),
                                      .provider = SLICE_EMPTY,
                                      .version = r->version,
                                      .factor = r->factor};
    return row;
}

static void on_model(struct reader *r, const struct yaml_node *n)
{
    if (!name_is_fit(r, n, "models"))
        return;
    if (n->kind != YAML_MAP || n->count == 0) {
        PROBLEM(r, n->line, n->column, "for example {input: 3, output: 15}",
                "models.%.*s: expected prices per million tokens", shown(n->key), n->key.p);
        return;
    }
    struct price_row *row = row_new(r, n->key);
    read_model(r, n, &row->model);
    if (price_row_find(r->table->rows, row->model.name) == NULL) /* else an earlier file has it */
        HASH_ADD_KEYPTR(hh, r->table->rows, row->model.name.p, row->model.name.n, row);
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

/* --- groups --- */

static void rates_raise(struct price_rates *to, const struct price_rates *from)
{
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (from->has[k] && (!to->has[k] || from->unit[k] > to->unit[k])) {
            to->unit[k] = to->listed[k] = from->unit[k];
            to->has[k] = true;
        }
    }
}

/* The dearest rate of each kind, from each point on where some member's rates change. False: more such points
 * than a row holds. */
static bool group_add(struct price_model *g, const struct price_model *m)
{
    uint64_t steps[2 * PRICE_TIERS_MAX];
    struct price_model old = *g;
    size_t n = 0, i = 0, k = 0;
    while (i < old.n_tiers || k < m->n_tiers) {
        uint64_t a = i < old.n_tiers ? old.tiers[i].above : UINT64_MAX,
                 b = k < m->n_tiers ? m->tiers[k].above : UINT64_MAX;
        steps[n++] = a < b ? a : b;
        i += a <= b;
        k += b <= a;
    }
    if (n > PRICE_TIERS_MAX)
        return false;
    g->n_tiers = n;
    for (size_t s = 0; s < n; s++) {
        uint64_t tokens[TOKEN_KINDS] = {[TOKENS_INPUT] = steps[s] + 1};
        struct price_rates rates = {.has = {false}};
        if (old.n_tiers > 0)
            rates_raise(&rates, price_rates(&old, tokens));
        rates_raise(&rates, price_rates(m, tokens));
        g->tiers[s] = (struct price_tier){steps[s], rates};
    }
    return true;
}

static void on_group(struct reader *r, const struct yaml_node *n)
{
    if (!name_is_fit(r, n, "groups"))
        return;
    if (n->kind != YAML_LIST || n->count == 0 || n->count > PRICE_GROUP_MEMBERS_MAX) {
        PROBLEM(r, n->line, n->column, "for example [claude-sonnet-4-5, openai/gpt-5]",
                "groups.%.*s: expected 1 to %d names of models", shown(n->key), n->key.p,
                PRICE_GROUP_MEMBERS_MAX);
        return;
    }
    struct price_row *row = row_new(r, n->key);
    row->model.is_group = true;
    row->model.factor = factor_one();
    YAML_FOREACH (it, n) {
        const struct price_row *member =
            it->kind == YAML_SCALAR ? price_row_find(r->table->rows, it->text) : NULL;
        if (member == NULL)
            PROBLEM(r, it->line, it->column, "a member is named as `models` names it",
                    "groups.%.*s: no price file has a model `%.*s`", shown(n->key), n->key.p, shown(it->text),
                    it->text.n > 0 ? it->text.p : "");
        else if (!group_add(&row->model, &member->model))
            PROBLEM(r, it->line, it->column, NULL,
                    "groups.%.*s: its members have more than %d tiers together", shown(n->key), n->key.p,
                    PRICE_TIERS_MAX - 1);
    }
    if (price_row_find(r->table->groups, row->model.name) == NULL)
        HASH_ADD_KEYPTR(hh, r->table->groups, row->model.name.p, row->model.name.n, row);
}

static void on_groups(struct reader *r, const struct yaml_node *n)
{
    if (n->kind != YAML_MAP || n->count > PRICE_GROUPS_MAX) {
        PROBLEM(r, n->line, n->column, "for example groups: {fast: [claude-haiku-4-5, openai/gpt-5-mini]}",
                "groups: expected at most %d names, each with a list of models", PRICE_GROUPS_MAX);
        return;
    }
    YAML_FOREACH (it, n)
        on_group(r, it);
}

/* --- files --- */

/* In the order in which they are read, wherever they stand. */
static const struct file_key {
    const char *name;
    bool is_required;
    void (*on)(struct reader *r, const struct yaml_node *n);
} file_keys[] = {{"currency", true, on_currency},
                 {"version", true, on_version},
                 {"factor", false, on_factor},
                 {"models", true, on_models}};

static bool key_is_known(struct slice key)
{
    for (size_t k = 0; k < ARRAY_LEN(file_keys); k++) {
        if (slice_eq_str(key, file_keys[k].name))
            return true;
    }
    return slice_eq_str(key, "groups");
}

static void read_file(struct reader *r, const struct yaml_node *root)
{
    if (root->kind != YAML_MAP) {
        PROBLEM(r, root->line, root->column, NULL, "expected currency, version and models");
        return;
    }
    YAML_FOREACH (it, root) {
        if (!key_is_known(it->key))
            PROBLEM(r, it->key_line, it->key_column,
                    "a price file has currency, version, models, and may have factor and groups",
                    "unknown key `%.*s`", shown(it->key), it->key.p);
    }
    for (size_t k = 0; k < ARRAY_LEN(file_keys); k++) {
        const struct yaml_node *n = yaml_get(root, file_keys[k].name);
        if (n != NULL)
            file_keys[k].on(r, n);
        else if (file_keys[k].is_required)
            PROBLEM(r, root->line, root->column, NULL, "missing key `%s`", file_keys[k].name);
    }
}

int price_files_read(struct price_table *p, const struct config_prices *prices,
                     struct config_problems *problems)
{
    size_t n_problems = 0;
    struct reader *readers = mem_zalloc((prices->n_files + 1) * sizeof(*readers));
    for (size_t i = 0; i < prices->n_files; i++) {
        readers[i] = (struct reader){p, problems, prices->files[i].path.p, SLICE_EMPTY, factor_one(), 0};
        read_file(&readers[i], prices->files[i].root);
    }
    for (size_t i = 0; i < prices->n_files; i++) {
        const struct yaml_node *groups = yaml_get(prices->files[i].root, "groups");
        if (groups != NULL)
            on_groups(&readers[i], groups);
        n_problems += readers[i].n_problems;
    }
    mem_free(readers);
    return n_problems > 0 ? E_INVALID : 0;
}
