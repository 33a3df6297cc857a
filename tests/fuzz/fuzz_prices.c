/* fuzz_prices: any bytes as LiteLLM's price list, the first one choosing the options.
 *
 * Holds: no crash, no leak; what is written is a price file that a controller takes, with the very rates that
 * the import has; every entry of the list is either priced or said to be unpriced; the report is JSON. */
#include "billing/price_import.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TEXT_MAX ((size_t)16 << 20)

static void check_model(const struct price_table *table, const struct price_model *m)
{
    const struct price_query q = {.model = m->name};
    const struct price_model *read = price_find(table, &q, NULL);
    must(read != NULL && slice_eq(read->name, m->name) && slice_eq(read->provider, m->provider));
    for (size_t i = 0; i < m->n_tiers; i++) {
        const uint64_t tokens[TOKEN_KINDS] = {[TOKENS_INPUT] = m->tiers[i].above + 1};
        const struct price_rates *a = price_rates(read, tokens), *b = &m->tiers[i].rates;
        must(price_rates(m, tokens) == b);
        for (int k = 0; k < TOKEN_KINDS; k++)
            must(a->has[k] == b->has[k] && (!a->has[k] || (a->unit[k] == b->unit[k] && a->unit[k] >= 0)));
    }
}

static void check_file(const struct price_import *x)
{
    struct config_price_file file = {.path = SL("imported.yaml")};
    struct config_prices prices = {.files = &file, .n_files = 1};
    struct config_problems problems;
    struct price_table *table = NULL;
    struct arena arena = ARENA_INIT;
    struct buf text = BUF_INIT(TEXT_MAX);
    size_t n;
    const struct price_model *models = price_import_models(x, &n);
    config_problems_init(&problems);
    price_import_write(x, &text);
    must(!text.is_full);
    must(yaml_parse(&arena, "imported.yaml", buf_view(&text), &problems, &file.root) == 0);
    must(price_table_new(&prices, &problems, &table) == 0);
    must(price_count(table) == n && slice_eq(price_version(table), price_import_version(x)));
    for (size_t i = 0; i < n; i++)
        check_model(table, &models[i]);
    price_table_free(table);
    config_problems_fini(&problems);
    arena_fini(&arena);
    buf_fini(&text);
}

static void check_report(const struct price_import *x)
{
    const struct json_limits limits = {TEXT_MAX, 0, 10000000};
    struct buf text = BUF_INIT(TEXT_MAX);
    struct json *root = NULL;
    size_t n_models, n = 0;
    (void)price_import_models(x, &n_models);
    price_import_report(x, &text);
    must(!text.is_full && json_parse(buf_view(&text), &limits, &root, NULL) == 0);
    for (int k = 0; k < PRICE_NOTE_KINDS; k++)
        n += price_import_count(x, (enum price_note_kind)k);
    must(json_count(json_get(root, "notes")) == n);
    must(price_import_listed(x) == n_models + price_import_count(x, NOTE_UNPRICED));
    json_free(root);
    buf_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536)
        return 0;
    const struct price_import_options o = {.version =
                                               (data[0] & 8) != 0 ? SL("\xc3\xbc \"1\" # x") : SLICE_EMPTY,
                                           .is_free_taken = (data[0] & 1) != 0,
                                           .is_write_1h = (data[0] & 2) != 0,
                                           .is_priority_priced = (data[0] & 4) != 0};
    struct price_import *x = NULL;
    struct err err = {0};
    int rc = price_import_litellm(slice_of(data + 1, size - 1), &o, &x, &err);
    must((rc == 0) == (x != NULL) && (rc == 0) == (err.msg[0] == '\0'));
    if (x != NULL) {
        check_file(x);
        check_report(x);
    }
    price_import_free(x);
    return 0;
}
