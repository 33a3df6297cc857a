/* price_write: an import as a price file, and as a report. Texts go through the JSON writer: what it quotes,
 * YAML reads the same. */
#include "billing/price_import.h"

static void write_text(struct buf *out, struct slice text)
{
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_slice(&w, text);
}

static void write_rates(struct buf *out, const struct price_rates *r, const struct price_rates *before,
                        const char *separator)
{
    char text[I128_TEXT_MAX];
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (!r->has[k] || (before != NULL && before->has[k] && before->unit[k] == r->unit[k]))
            continue;
        (void)i128_format(r->unit[k], PRICE_FRACTION_MAX, text);
        (void)buf_printf(out, "%s%s: %s", separator, token_kind_names[k], text);
        separator = ", ";
    }
}

/* A tier in which nothing changes would be a tier without a price. */
static bool is_step(const struct price_model *m, size_t i)
{
    const struct price_rates *a = &m->tiers[i - 1].rates, *b = &m->tiers[i].rates;
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (b->has[k] && (!a->has[k] || a->unit[k] != b->unit[k]))
            return true;
    }
    return false;
}

static void write_model(struct buf *out, const struct price_model *m)
{
    (void)buf_str(out, "  ");
    write_text(out, m->name);
    (void)buf_str(out, ": {");
    if (m->provider.n > 0) {
        (void)buf_str(out, "provider: ");
        write_text(out, m->provider);
    }
    write_rates(out, &m->tiers[0].rates, NULL, m->provider.n > 0 ? ", " : "");
    const char *separator = ", tiers: [";
    bool has_tiers = false;
    for (size_t i = 1; i < m->n_tiers; i++) {
        if (!is_step(m, i))
            continue;
        (void)buf_printf(out, "%s{above: %llu", separator, (unsigned long long)m->tiers[i].above);
        write_rates(out, &m->tiers[i].rates, &m->tiers[i - 1].rates, ", ");
        (void)buf_byte(out, '}');
        separator = ", ";
        has_tiers = true;
    }
    (void)buf_str(out, has_tiers ? "]}\n" : "}\n");
}

void price_import_write(const struct price_import *x, struct buf *out)
{
    size_t n;
    const struct price_model *models = price_import_models(x, &n);
    (void)buf_str(
        out, "# Imported from LiteLLM's price list by `reeve prices import`. Prices are for a million\n"
             "# tokens. Do not edit: the next import replaces this file. A file that stands before it in\n"
             "# `prices.file` wins, name by name.\n"
             "currency: USD\n"
             "version: ");
    write_text(out, price_import_version(x));
    (void)buf_str(out, n > 0 ? "\nmodels:\n" : "\nmodels: {}\n");
    for (size_t i = 0; i < n; i++)
        write_model(out, &models[i]);
}

static void write_note(struct jsonw *w, const struct price_note *n)
{
    jsonw_object(w);
    jsonw_kstr(w, "kind", price_note_names[n->kind]);
    jsonw_kslice(w, "model", n->model);
    if (n->field.n > 0)
        jsonw_kslice(w, "field", n->field);
    if (n->found.n > 0)
        jsonw_kslice(w, "found", n->found);
    if (n->taken[0] != '\0')
        jsonw_kstr(w, "taken", n->taken);
    jsonw_kstr(w, "why", n->why);
    if (n->is_undercount)
        jsonw_kbool(w, "undercount", true);
    jsonw_object_end(w);
}

void price_import_report(const struct price_import *x, struct buf *out)
{
    struct jsonw w;
    size_t n;
    (void)price_import_models(x, &n);
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_kslice(&w, "version", price_import_version(x));
    jsonw_ku64(&w, "listed", price_import_listed(x));
    jsonw_ku64(&w, "priced", n);
    for (int k = 0; k < PRICE_NOTE_KINDS; k++)
        jsonw_ku64(&w, price_note_names[k], price_import_count(x, (enum price_note_kind)k));
    jsonw_key(&w, "notes");
    jsonw_array(&w);
    for (const struct price_note *it = price_import_notes(x); it != NULL; it = it->next)
        write_note(&w, it);
    jsonw_array_end(&w);
    jsonw_object_end(&w);
}
