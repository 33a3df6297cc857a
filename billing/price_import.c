/* price_import: see price_import.h.
 *
 * Happy path: every member of the list is a model; its rates are gathered as quotes (kind of token, variant,
 * from which length of prompt on), and made into the row's tiers. Failure paths: what cannot be priced whole,
 * or only too low, is left unpriced, so that admission refuses it; what is cheaper than it should be only for
 * calls that ask for more (audio, searches, a faster service) is priced, and said. */
#include "billing/price_import.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/crypto.h"
#include "base/core/mem.h"
#include "billing/price_field.h"
#include "billing/price_number.h"

#define LIST_NODES_MAX  2000000
#define QUOTES_MAX      64
#define STEP_TOKENS_MAX 1000000000

const char *const price_note_names[PRICE_NOTE_KINDS] = {"mended", "rounded",  "dearest",
                                                        "filled", "left_out", "unpriced"};

struct price_import {
    struct arena arena;
    struct slice version;
    struct price_model *models;
    size_t n_models, listed;
    struct price_note *first, **last;
    size_t counts[PRICE_NOTE_KINDS];
};

struct quote {
    struct price_field is;
    i128 unit;
    struct slice field, text;
};

/* One model being read. */
struct reading {
    struct price_import *import;
    const struct price_import_options *options;
    struct slice name;
    bool is_chat; /* both prompt and answer are billed */
    struct quote quotes[QUOTES_MAX];
    size_t n;
    const char *why;           /* it cannot be priced; the first reason stays */
    struct slice field, found; /* that this is about */
};

static struct price_note *note_add(struct reading *r, enum price_note_kind kind, struct slice field,
                                   struct slice found, const char *why)
{
    struct price_import *x = r->import;
    struct price_note *n = ARENA_NEW(&x->arena, struct price_note);
    n->kind = kind;
    n->model = arena_slice(&x->arena, r->name);
    n->field = field.p != NULL ? arena_slice(&x->arena, field) : SLICE_EMPTY;
    n->found = found.p != NULL ? arena_slice(&x->arena, found) : SLICE_EMPTY;
    n->why = why;
    *x->last = n;
    x->last = &n->next;
    x->counts[kind]++;
    return n;
}

static void note_taken(struct reading *r, enum price_note_kind kind, struct slice field, struct slice found,
                       i128 unit, const char *why)
{
    (void)i128_format(unit, AMOUNT_SCALE, note_add(r, kind, field, found, why)->taken);
}

static void refuse(struct reading *r, struct slice field, struct slice found, const char *why)
{
    if (r->why != NULL)
        return;
    r->why = why;
    r->field = field;
    r->found = found;
}

/* --- quotes --- */

static void quote_add(struct reading *r, struct slice field, struct price_field is, const struct json *value)
{
    struct quote q = {.is = is, .field = field, .text = json_number_text(value)};
    enum number_fate fate = NUMBER_EXACT;
    if (json_type(value) == JSON_NULL)
        return;
    if (q.text.p == NULL) {
        refuse(r, field, SLICE_EMPTY, "it is not a number");
        return;
    }
    int rc = price_number_read(q.text, &q.unit, &fate);
    if (rc != 0) {
        refuse(r, field, q.text,
               rc == E_OVERFLOW ? "it is too large" : "it is negative, or too small to count");
        return;
    }
    if (r->n == QUOTES_MAX) {
        refuse(r, field, q.text, "it has more rates than a row here can hold");
        return;
    }
    if (fate == NUMBER_MENDED)
        note_taken(r, NOTE_MENDED, field, q.text, q.unit, "an artefact of floating point");
    if (fate == NUMBER_ROUNDED)
        note_taken(r, NOTE_ROUNDED, field, q.text, q.unit, "rounded half-even at 1e-18");
    r->quotes[r->n++] = q;
}

/* A number that is not 0, or an object with one in it: then it costs something. */
static bool costs(const struct json *value)
{
    struct slice text = json_number_text(value);
    i128 unit = 0;
    enum number_fate fate;
    if (text.p != NULL)
        return price_number_read(text, &unit, &fate) != 0 || unit != 0;
    bool any = false;
    if (json_type(value) == JSON_OBJECT)
        JSON_FOREACH (it, value)
            any = any || (json_type(it) == JSON_NUMBER && costs(it));
    return any;
}

/* The dearest that is quoted for a kind in prompts of any length from 0 on; 0 for none. */
static i128 quoted(const struct reading *r, enum token_kind kind)
{
    i128 unit = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct quote *q = &r->quotes[i];
        if (q->is.kind == kind && q->is.variant == PRICE_STANDARD && q->is.above == 0 && q->unit > unit)
            unit = q->unit;
    }
    return unit;
}

/* A rate of another sort is no loss where the standard one is as dear. */
static bool is_covered(const struct reading *r, struct slice field, const struct json *value)
{
    struct slice text = json_number_text(value);
    enum token_kind kind;
    enum number_fate fate;
    i128 unit = 0;
    return price_field_kind(field, &kind) && text.p != NULL && price_number_read(text, &unit, &fate) == 0 &&
           unit <= quoted(r, kind);
}

static void left_out(struct reading *r, struct slice field, const struct json *value)
{
    if (!costs(value))
        return;
    struct slice found = json_number_text(value);
    bool is_undercount = false;
    if (price_field_is_always(field)) {
        refuse(r, field, found, "it is charged beside the tokens of every call");
        return;
    }
    const char *why = price_field_extra(field, &is_undercount);
    note_add(r, NOTE_LEFT_OUT, field, found, why)->is_undercount =
        is_undercount && !is_covered(r, field, value);
}

/* Steps by the length of the prompt: [{"range": [0, 256000], "input_cost_per_token": …}, …]. */
static void read_steps(struct reading *r, struct slice field, const struct json *steps)
{
    if (json_type(steps) != JSON_ARRAY) {
        refuse(r, field, SLICE_EMPTY, "it is not a list");
        return;
    }
    JSON_FOREACH (step, steps) {
        i128 from = 0;
        struct slice text = json_number_text(json_first(json_get(step, "range")));
        if (text.p == NULL || i128_parse(text, 0, true, &from) != 0 || from < 0 || from > STEP_TOKENS_MAX) {
            refuse(r, field, SLICE_EMPTY, "a step has no range of tokens");
            return;
        }
        JSON_FOREACH (it, step) {
            struct price_field is;
            if (price_field_read(json_key(it), &is) && is.above == 0) {
                is.above = (uint64_t)from;
                quote_add(r, json_key(it), is, it);
            } else if (price_field_is_cost(json_key(it))) {
                left_out(r, json_key(it), it);
            }
        }
    }
}

static bool is_wanted(const struct reading *r, enum price_variant v)
{
    if (v == PRICE_HOUR)
        return r->options->is_write_1h;
    return v != PRICE_PRIORITY || r->options->is_priority_priced;
}

/* --- from quotes to tiers --- */

struct rate_now {
    bool has;
    i128 unit;
};
typedef struct rate_now rates_now[PRICE_VARIANTS][TOKEN_KINDS];

/* Takes the quotes of one step into `now`; the dearer when two say the same. */
static void step_take(struct reading *r, uint64_t above, rates_now now)
{
    bool is_new[PRICE_VARIANTS][TOKEN_KINDS] = {{false}};
    for (size_t i = 0; i < r->n; i++) {
        const struct quote *q = &r->quotes[i];
        struct rate_now *to = &now[q->is.variant][q->is.kind];
        bool *is_seen = &is_new[q->is.variant][q->is.kind];
        if (q->is.above != above || (*is_seen && q->unit <= to->unit))
            continue;
        *to = (struct rate_now){true, q->unit};
        *is_seen = true;
    }
    if (above == 0 || !is_new[PRICE_STANDARD][TOKENS_INPUT])
        return;
    for (int k = 0; k < TOKEN_KINDS; k++) {
        const struct rate_now *of = &now[PRICE_STANDARD][k];
        if (!is_new[PRICE_STANDARD][k] && of->has && of->unit != 0)
            note_add(r, NOTE_LEFT_OUT, slice_str(token_kind_names[k]), SLICE_EMPTY,
                     "long prompts have a rate of their own for input but none for this: that of shorter "
                     "prompts stays")
                ->is_undercount = true;
    }
}

static void raise_variants(struct reading *r, uint64_t above, rates_now now, struct rate_now *taken)
{
    static const char *const why[PRICE_VARIANTS] = {
        [PRICE_HOUR] = "the rate of what is written to a cache for an hour, as asked for",
        [PRICE_REASONING] = "reasoning is part of the output: the dearer rate",
        [PRICE_PRIORITY] = "the rate of service tier priority, as asked for"};
    for (size_t i = 0; i < r->n; i++) {
        const struct quote *q = &r->quotes[i];
        struct rate_now *to = &taken[q->is.kind], *of = &now[q->is.variant][q->is.kind];
        if (q->is.variant == PRICE_STANDARD || !is_wanted(r, q->is.variant) || !of->has || of->unit == 0 ||
            (to->has && to->unit >= of->unit))
            continue;
        *to = *of;
        if (q->is.above == above)
            note_taken(r, NOTE_DEAREST, q->field, q->text, q->unit, why[q->is.variant]);
    }
}

/* The rates that hold from this step on. */
static struct price_rates step_rates(struct reading *r, uint64_t above, rates_now now)
{
    struct price_rates rates = {.has = {false}};
    struct rate_now taken[TOKEN_KINDS];
    bool is_free = r->options->is_free_taken;
    memcpy(taken, now[PRICE_STANDARD], sizeof(taken));
    if (!is_free && taken[TOKENS_CACHE_WRITE].unit == 0)
        taken[TOKENS_CACHE_WRITE].has = false;
    raise_variants(r, above, now, taken);
    if (!taken[TOKENS_CACHE_READ].has || (taken[TOKENS_CACHE_READ].unit == 0 && !is_free))
        taken[TOKENS_CACHE_READ] = taken[TOKENS_INPUT];
    for (int k = 0; k < TOKEN_KINDS; k++) {
        rates.has[k] = taken[k].has;
        rates.unit[k] = rates.listed[k] = taken[k].has ? taken[k].unit : 0;
    }
    return rates;
}

static void note_filled(struct reading *r)
{
    bool has_write = false, has_zero_write = false, has_read = false;
    for (size_t i = 0; i < r->n; i++) {
        const struct quote *q = &r->quotes[i];
        has_read = has_read || (q->is.kind == TOKENS_CACHE_READ && q->unit != 0);
        has_write = has_write || (q->is.kind == TOKENS_CACHE_WRITE && q->unit != 0);
        has_zero_write = has_zero_write || (q->is.kind == TOKENS_CACHE_WRITE && q->unit == 0);
    }
    if (!has_read && r->is_chat)
        note_taken(r, NOTE_FILLED, SL("cache_read"), SLICE_EMPTY, quoted(r, TOKENS_INPUT),
                   "no rate for what is read from a cache: that of input");
    if (!has_write && has_zero_write)
        (void)note_add(r, NOTE_FILLED, SL("cache_write"), SL("0"),
                       "0 beside a price is not taken for free: writing to a cache stays without a price");
}

static int above_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The points from which on rates change, ascending, 0 first; 0 when there are too many. */
static size_t steps_of(const struct reading *r, uint64_t out[PRICE_TIERS_MAX])
{
    uint64_t all[QUOTES_MAX + 1] = {0};
    size_t n = 1, kept = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (is_wanted(r, r->quotes[i].is.variant))
            all[n++] = r->quotes[i].is.above;
    }
    qsort(all, n, sizeof(*all), above_cmp);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && all[i] == all[i - 1])
            continue;
        if (kept == PRICE_TIERS_MAX)
            return 0;
        out[kept++] = all[i];
    }
    return kept;
}

/* Whether what is quoted is a whole price; else it is refused. */
static void check_quotes(struct reading *r)
{
    bool has[TOKEN_KINDS] = {false}, is_any = false;
    for (size_t i = 0; i < r->n; i++) {
        const struct quote *q = &r->quotes[i];
        is_any = is_any || q->unit != 0;
        if (q->is.variant == PRICE_STANDARD && q->is.above == 0)
            has[q->is.kind] = true;
    }
    if (!has[TOKENS_INPUT])
        refuse(r, SLICE_EMPTY, SLICE_EMPTY, "no price for tokens of input");
    else if (r->is_chat && !has[TOKENS_OUTPUT])
        refuse(r, SLICE_EMPTY, SLICE_EMPTY, "no price for tokens of output");
    if (r->options->is_free_taken)
        return;
    if (!is_any)
        refuse(r, SLICE_EMPTY, SL("0"), "every price is 0: free, or not known");
    else if (quoted(r, TOKENS_INPUT) == 0)
        refuse(r, SL("input_cost_per_token"), SL("0"), "0 beside another price is not taken for free");
    else if (r->is_chat && quoted(r, TOKENS_OUTPUT) == 0)
        refuse(r, SL("output_cost_per_token"), SL("0"), "0 beside another price is not taken for free");
}

static void model_take(struct reading *r, struct slice provider)
{
    struct price_import *x = r->import;
    rates_now now = {{{false, 0}}};
    uint64_t steps[PRICE_TIERS_MAX];
    size_t n = steps_of(r, steps);
    if (n == 0) {
        refuse(r, SLICE_EMPTY, SLICE_EMPTY,
               "its rates change at more lengths of prompts than a row can hold");
        return;
    }
    struct price_model *m = &x->models[x->n_models++];
    m->name = arena_slice(&x->arena, r->name);
    m->provider = arena_slice(&x->arena, provider);
    m->version = x->version;
    m->n_tiers = n;
    for (size_t s = 0; s < n; s++) {
        step_take(r, steps[s], now);
        m->tiers[s] = (struct price_tier){steps[s], step_rates(r, steps[s], now)};
    }
    if (!r->options->is_free_taken)
        note_filled(r);
}

/* --- the list --- */

static bool is_plain(struct slice s, size_t max)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < 0x20 || s.p[i] > 0x7e)
            return false;
    }
    return s.n > 0 && s.n <= max;
}

/* Whether models of this mode are billed by tokens of text alone. */
static bool mode_is_text(struct slice mode, bool *ret_is_chat)
{
    static const struct {
        const char *name;
        bool is_chat;
    } modes[] = {{"chat", true},       {"completion", true}, {"responses", true},
                 {"embedding", false}, {"rerank", false},    {"moderation", false}};
    *ret_is_chat = true;
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (!slice_eq_str(mode, modes[i].name))
            continue;
        *ret_is_chat = modes[i].is_chat;
        return true;
    }
    return mode.p == NULL;
}

static void read_fields(struct reading *r, const struct json *model)
{
    struct price_field is;
    JSON_FOREACH (it, model) {
        if (slice_eq_str(json_key(it), "tiered_pricing"))
            read_steps(r, json_key(it), it);
        else if (price_field_read(json_key(it), &is))
            quote_add(r, json_key(it), is, it);
    }
    JSON_FOREACH (it, model) { /* now that it is known what text costs */
        bool is_quote = price_field_read(json_key(it), &is);
        if ((!is_quote && price_field_is_cost(json_key(it))) || (is_quote && !is_wanted(r, is.variant)))
            left_out(r, json_key(it), it);
    }
}

static void read_model(struct reading *r, const struct json *model)
{
    struct slice mode = json_string(json_get(model, "mode")),
                 provider = json_string(json_get(model, "litellm_provider"));
    if (slice_eq_str(r->name, "sample_spec"))
        refuse(r, SLICE_EMPTY, SLICE_EMPTY, "the list's own explanation of its fields");
    else if (json_type(model) != JSON_OBJECT)
        refuse(r, SLICE_EMPTY, SLICE_EMPTY, "it is not an object");
    else if (!mode_is_text(mode, &r->is_chat))
        refuse(r, SL("mode"), mode, "models of this mode are not billed by tokens of text alone");
    else if (!is_plain(r->name, MODEL_NAME_MAX))
        refuse(r, SLICE_EMPTY, SLICE_EMPTY, "its name is too long, or not printable ASCII");
    else if (provider.p != NULL && !is_plain(provider, PROVIDER_NAME_MAX))
        refuse(r, SL("litellm_provider"), SLICE_EMPTY, "it is too long, or not printable ASCII");
    if (r->why != NULL)
        return;
    read_fields(r, model);
    check_quotes(r);
    if (r->why == NULL)
        model_take(r, provider.p != NULL ? provider : SLICE_EMPTY);
}

static void read_list(struct price_import *x, const struct price_import_options *o, const struct json *list)
{
    struct reading *r = MEM_NEW(struct reading);
    JSON_FOREACH (it, list) {
        *r = (struct reading){.import = x, .options = o, .name = json_key(it)};
        read_model(r, it);
        if (r->why != NULL)
            (void)note_add(r, NOTE_UNPRICED, r->field, r->found, r->why);
        x->listed++;
    }
    mem_free(r);
}

int price_import_litellm(struct slice text, const struct price_import_options *o, struct price_import **ret,
                         struct err *err)
{
    const struct json_limits limits = {PRICE_LIST_BYTES_MAX, 16, LIST_NODES_MAX};
    struct json *root = NULL;
    int rc = json_parse(text, &limits, &root, err);
    if (rc != 0)
        return rc;
    if (json_type(root) != JSON_OBJECT)
        rc = err_set(err, E_INVALID, "expected an object of models, found %s", json_type_name(root));
    else if (json_count(root) > PRICE_MODELS_MAX)
        rc = err_set(err, E_TOO_LARGE, "more than %d models", PRICE_MODELS_MAX);
    if (rc != 0) {
        json_free(root);
        return rc;
    }
    struct price_import *x = MEM_NEW(struct price_import);
    char hex[SHA256_HEX_SIZE];
    x->arena = ARENA_INIT;
    x->last = &x->first;
    sha256_hex(text, hex);
    x->version = o->version.n > 0 ? arena_slice(&x->arena, o->version)
                                  : slice_str(arena_printf(&x->arena, "litellm-%.12s", hex));
    x->models = mem_zalloc((json_count(root) + 1) * sizeof(*x->models));
    read_list(x, o, root);
    json_free(root);
    *ret = x;
    return 0;
}

void price_import_free(struct price_import *x)
{
    if (x == NULL)
        return;
    mem_free(x->models);
    arena_fini(&x->arena);
    mem_free(x);
}

struct slice price_import_version(const struct price_import *x)
{
    return x->version;
}

size_t price_import_listed(const struct price_import *x)
{
    return x->listed;
}

const struct price_model *price_import_models(const struct price_import *x, size_t *ret_n)
{
    *ret_n = x->n_models;
    return x->models;
}

const struct price_note *price_import_notes(const struct price_import *x)
{
    return x->first;
}

size_t price_import_count(const struct price_import *x, enum price_note_kind kind)
{
    return x->counts[kind];
}
