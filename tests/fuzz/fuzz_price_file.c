/* fuzz_price_file: any bytes as a price file, with one behind it.
 *
 * Holds: no crash, no leak; a table exactly when there is no problem; each model and each group is found by
 * its name and has rates for a call of any length, none below zero, a group's never below those of a member.
 */
#include "billing/price.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct price_model *find(const struct price_table *t, struct slice name)
{
    const struct price_query q = {.model = name};
    return price_find(t, &q, NULL);
}

static void check_rates(const struct price_model *m, const struct price_model *member)
{
    for (size_t i = 0; i < m->n_tiers + (member != NULL ? member->n_tiers : 0); i++) {
        uint64_t above = i < m->n_tiers ? m->tiers[i].above : member->tiers[i - m->n_tiers].above;
        const uint64_t tokens[TOKEN_KINDS] = {[TOKENS_CACHE_READ] = above + 1};
        const struct price_rates *r = price_rates(m, tokens);
        const struct price_rates *of = member != NULL ? price_rates(member, tokens) : r;
        for (int k = 0; k < TOKEN_KINDS; k++) {
            must(!of->has[k] || (r->has[k] && r->unit[k] >= of->unit[k] && of->unit[k] >= 0));
            if (r->has[k])
                (void)price_residue(m, r, (enum token_kind)k);
        }
    }
}

static void check_table(const struct price_table *t, const struct yaml_node *root)
{
    const struct yaml_node *models = yaml_get(root, "models"), *groups = yaml_get(root, "groups");
    YAML_FOREACH (it, models) {
        const struct price_model *m = find(t, it->key);
        must(m != NULL && slice_eq(m->name, it->key));
        check_rates(m, NULL);
    }
    for (const struct yaml_node *g = groups != NULL ? groups->first : NULL; g != NULL; g = g->next) {
        const struct price_model *m = find(t, g->key);
        must(m != NULL && m->is_group);
        YAML_FOREACH (it, g) {
            const struct price_model *member = find(t, it->text);
            check_rates(m, member != NULL && !member->is_group ? member : NULL);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char base[] =
        "currency: USD\nversion: base\nmodels: {base: {provider: p, input: 1, output: 2}}\n";
    struct config_price_file files[2] = {{.path = SL("prices.yaml")}, {.path = SL("base.yaml")}};
    const struct config_prices prices = {.files = files, .n_files = 2};
    struct config_problems problems;
    struct price_table *table = NULL;
    struct arena arena = ARENA_INIT;
    config_problems_init(&problems);
    must(yaml_parse(&arena, "base.yaml", SL(base), &problems, &files[1].root) == 0);
    if (yaml_parse(&arena, "prices.yaml", slice_of(data, size), &problems, &files[0].root) == 0) {
        int rc = price_table_new(&prices, &problems, &table);
        must((rc == 0) == (table != NULL) && (rc == 0) == (problems.n == 0));
        if (table != NULL)
            check_table(table, files[0].root);
    }
    price_table_free(table);
    config_problems_fini(&problems);
    arena_fini(&arena);
    return 0;
}
