/* price: from a model's name to its rates, see price.h.
 *
 * Happy path: rows and groups lie in two hash tables; a look-up tries one name after the other, from what
 * says most to what says least. Failure paths: what no step finds is unpriced. A row that belongs to one
 * provider never prices another's call: a provider's own price for the same model may be higher. */
#include "billing/price_table.h"

#include <stdio.h>
#include <string.h>

#include "base/core/mem.h"

const char *const token_kind_names[TOKEN_KINDS] = {"input", "output", "cache_read", "cache_write"};

int price_table_new(const struct config_prices *prices, struct config_problems *problems,
                    struct price_table **ret)
{
    struct price_table *p = MEM_NEW(struct price_table);
    p->arena = ARENA_INIT;
    memcpy(p->currency, "USD", 4);
    p->version = SLICE_EMPTY;
    p->is_given = prices->n_files > 0;
    if (price_files_read(p, prices, problems) != 0) {
        price_table_free(p);
        return E_INVALID;
    }
    *ret = p;
    return 0;
}

void price_table_free(struct price_table *p)
{
    if (p == NULL)
        return;
    HASH_CLEAR(hh, p->rows);
    HASH_CLEAR(hh, p->groups);
    arena_fini(&p->arena);
    mem_free(p);
}

struct price_row *price_row_find(struct price_row *rows, struct slice name)
{
    struct price_row *row = NULL;
    if (name.n > 0)
        HASH_FIND(hh, rows, name.p, name.n, row);
    return row;
}

/* --- providers --- */

/* LiteLLM's price file writes some providers otherwise than its reports do (vertex_ai-anthropic_models,
 * bedrock_converse): the same company, the same bill. */
static struct slice provider_plain(struct slice s)
{
    static const struct {
        const char *text, *plain;
    } same[] = {{"bedrock_converse", "bedrock"}, {"cohere_chat", "cohere"}, {"azure_text", "azure"},
                {"vertex_ai_beta", "vertex_ai"}, {"openai_like", "openai"}, {"custom_openai", "openai"},
                {"anthropic_text", "anthropic"}, {"ollama_chat", "ollama"}, {"sagemaker_chat", "sagemaker"}};
    if (slice_starts(s, SL("text-completion-")))
        s = slice_from(s, sizeof("text-completion-") - 1);
    if (slice_starts(s, SL("vertex_ai-")) || slice_starts(s, SL("fireworks_ai-")))
        s.n = slice_find(s, '-');
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        if (slice_eq_str(s, same[i].text))
            return slice_str(same[i].plain);
    }
    return s;
}

/* --- look-ups --- */

struct look_up {
    const struct price_table *table;
    struct slice provider; /* plain; "" when unknown */
};

/* The row of that name, unless it is another provider's. */
static const struct price_model *row_of(const struct look_up *l, struct slice name)
{
    const struct price_row *row = price_row_find(l->table->rows, name);
    if (row == NULL || (l->provider.n > 0 && row->model.provider.n > 0 &&
                        !slice_eq(provider_plain(row->model.provider), l->provider)))
        return NULL;
    return &row->model;
}

static const struct price_model *group_of(const struct look_up *l, struct slice name)
{
    const struct price_row *row = price_row_find(l->table->groups, name);
    return row != NULL ? &row->model : NULL;
}

/* The row "provider/name". */
static const struct price_model *qualified_of(const struct look_up *l, struct slice provider,
                                              struct slice name)
{
    char text[MODEL_NAME_MAX + 1];
    if (provider.n == 0 || name.n == 0 || provider.n + 1 + name.n > MODEL_NAME_MAX)
        return NULL;
    size_t n = (size_t)snprintf(text, sizeof(text), "%.*s/%.*s", SL_ARG(provider), SL_ARG(name));
    return row_of(l, slice_of(text, n));
}

static struct slice without_prefix(struct slice name, struct slice provider)
{
    if (provider.n > 0 && name.n > provider.n && slice_starts(name, provider) && name.p[provider.n] == '/')
        return slice_from(name, provider.n + 1);
    return name;
}

/* All that is known is a name: what a caller asks for, or a gateway that knows no more. It may be an alias
 * for several models, so a group goes first. */
static const struct price_model *find_by_name(struct look_up *l, struct slice name, const char **ret_how)
{
    const struct price_model *m = group_of(l, name);
    struct slice rest = name;
    *ret_how = "the group of this name";
    if (m == NULL) {
        *ret_how = "the row of this name";
        m = row_of(l, name);
    }
    if (m == NULL && slice_cut(&rest, '/', &l->provider) && l->provider.n > 0) {
        *ret_how = "the row of this name without the provider in front";
        l->provider = provider_plain(l->provider);
        m = row_of(l, rest);
    }
    return m;
}

/* A report says what was called, so that goes before the name that the caller used for it. */
static const struct price_model *find_by_report(struct look_up *l, const struct price_query *q,
                                                const char **ret_how)
{
    struct slice said = q->provider, rest = q->model.n > 0 ? q->model : SLICE_EMPTY, bare;
    if (said.n == 0 && !slice_cut(&rest, '/', &said))
        said = SLICE_EMPTY;
    l->provider = provider_plain(said);
    bare = without_prefix(q->model, said);
    if (slice_eq(bare, q->model))
        bare = without_prefix(q->model, l->provider);
    const struct {
        const struct price_model *m;
        const char *how;
    } steps[] = {
        {qualified_of(l, said, bare), "the row of the provider and the model"},
        {qualified_of(l, l->provider, bare), "the row of the provider and the model"},
        {row_of(l, q->model), "the row of the model as it was reported"},
        {row_of(l, bare), "the row of the model without the provider in front"},
        {group_of(l, q->group.n > 0 ? q->group : q->model), "the group that the model was called by"},
        {qualified_of(l, said, q->group),
         "the row of the provider and the name that the model was called by"},
        {row_of(l, q->group), "the row of the name that the model was called by"},
    };
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        *ret_how = steps[i].how;
        if (steps[i].m != NULL)
            return steps[i].m;
    }
    return NULL;
}

const struct price_model *price_find(const struct price_table *p, const struct price_query *q,
                                     const char **ret_how)
{
    struct look_up l = {p, SLICE_EMPTY};
    const char *how = NULL;
    bool is_name_alone = q->group.n == 0 && q->provider.n == 0;
    const struct price_model *m = NULL;
    if (is_name_alone && q->model.n > 0)
        m = find_by_name(&l, q->model, &how);
    else if (q->model.n > 0 || q->group.n > 0)
        m = find_by_report(&l, q, &how);
    if (ret_how != NULL)
        *ret_how = m != NULL ? how : "no name of it is in the price file";
    return m;
}

const struct price_rates *price_rates(const struct price_model *m, const uint64_t tokens[TOKEN_KINDS])
{
    uint64_t prompt = tokens[TOKENS_INPUT] + tokens[TOKENS_CACHE_READ] + tokens[TOKENS_CACHE_WRITE];
    size_t i = m->n_tiers - 1;
    while (i > 0 && prompt <= m->tiers[i].above)
        i--;
    return &m->tiers[i].rates;
}

i128 price_residue(const struct price_model *m, const struct price_rates *r, enum token_kind kind)
{
    i128 exact = 0, taken = 0, unit = 1;
    for (int i = 0; i < PRICE_FACTOR_SCALE; i++)
        unit *= 10;
    if (m->factor == unit)
        return 0;
    /* both fitted when the price was folded */
    must(i128_mul(r->listed[kind], m->factor, &exact) == 0 && i128_mul(r->unit[kind], unit, &taken) == 0);
    return exact - taken;
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

size_t price_count(const struct price_table *p)
{
    return HASH_COUNT(p->rows);
}
