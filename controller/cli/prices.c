/* prices: reeve prices import, explain: price files made from a list, and what they say of one model. Both
 * work on files alone; no controller is asked. */
#include "controller/cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/mem.h"
#include "billing/event.h"
#include "billing/price_import.h"
#include "config/source.h"

#define WRITTEN_MAX ((size_t)64 * 1024 * 1024)
#define REASONS_MAX 64

/* --- import --- */

static void print_mended(FILE *f, const struct price_import *x)
{
    for (const struct price_note *n = price_import_notes(x); n != NULL; n = n->next) {
        if (n->kind != NOTE_MENDED && n->kind != NOTE_ROUNDED)
            continue;
        (void)fprintf(f, "  ");
        text_print(f, n->model);
        (void)fprintf(f, " ");
        text_print(f, n->field);
        (void)fprintf(f, ": ");
        text_print(f, n->found);
        (void)fprintf(f, " taken as %s\n", n->taken);
    }
}

/* Everything else by its reason: how many, and one to look at. */
static void print_reasons(FILE *f, const struct price_import *x, enum price_note_kind kind)
{
    struct {
        const char *why;
        const struct price_note *first;
        size_t n, undercounts;
    } reasons[REASONS_MAX];
    size_t n_reasons = 0;
    for (const struct price_note *n = price_import_notes(x); n != NULL; n = n->next) {
        size_t i = 0;
        if (n->kind != kind)
            continue;
        while (i < n_reasons && strcmp(reasons[i].why, n->why) != 0)
            i++;
        must(i < REASONS_MAX); /* they are texts of ours */
        if (i == n_reasons) {
            reasons[i].why = n->why;
            reasons[i].first = n;
            reasons[i].n = reasons[i].undercounts = 0;
            n_reasons++;
        }
        reasons[i].n++;
        reasons[i].undercounts += n->is_undercount;
    }
    for (size_t i = 0; i < n_reasons; i++) {
        (void)fprintf(f, "  %zu: %s", reasons[i].n, reasons[i].why);
        if (reasons[i].undercounts > 0)
            (void)fprintf(f, "; %zu dearer than what is priced", reasons[i].undercounts);
        (void)fprintf(f, " (");
        text_print(f, reasons[i].first->model);
        (void)fprintf(f, reasons[i].first->field.n > 0 ? " " : "");
        text_print(f, reasons[i].first->field);
        (void)fprintf(f, reasons[i].n > 1 ? ", …)\n" : ")\n");
    }
}

static void print_report(FILE *f, const struct price_import *x)
{
    static const char *const titles[PRICE_NOTE_KINDS] = {"artefacts of floating point, mended",
                                                         "fractions without end, rounded",
                                                         "several rates for one kind, the dearest taken",
                                                         "rates that the list does not give",
                                                         "rates left out",
                                                         "left unpriced: calls of these are refused"};
    size_t n;
    (void)price_import_models(x, &n);
    (void)fprintf(f, "version ");
    text_print(f, price_import_version(x));
    (void)fprintf(f, ": %zu listed, %zu priced, %zu left unpriced\n", price_import_listed(x), n,
                  price_import_count(x, NOTE_UNPRICED));
    for (int k = 0; k < PRICE_NOTE_KINDS; k++) {
        size_t count = price_import_count(x, (enum price_note_kind)k);
        if (count == 0)
            continue;
        (void)fprintf(f, "%s: %zu\n", titles[k], count);
        if (k == NOTE_MENDED || k == NOTE_ROUNDED)
            continue;
        print_reasons(f, x, (enum price_note_kind)k);
    }
    print_mended(f, x);
    (void)fprintf(f, "--json lists each one.\n");
}

/* A file of other words than ours is a person's: it is not replaced unless asked for. */
static bool may_replace(const char *path)
{
    static const char mark[] = "# Imported from ";
    char head[sizeof(mark) - 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT;
    ssize_t n = read(fd, head, sizeof(head));
    (void)close(fd); /* read only: nothing can be lost */
    return n == 0 || (n == (ssize_t)sizeof(head) && memcmp(head, mark, sizeof(head)) == 0);
}

/* Whole or not at all: what a controller reloads is never half a file. */
static int file_replace(const char *path, struct slice text, struct err *err)
{
    struct buf tmp = BUF_INIT(4096);
    if (buf_printf(&tmp, "%s.XXXXXX", path) != 0)
        return err_set(err, E_INVALID, "its name is too long");
    int fd = mkostemp(tmp.p, O_CLOEXEC);
    if (fd < 0) {
        (void)err_set(err, E_IO, "%s", strerror(errno));
        buf_fini(&tmp);
        return err->code;
    }
    bool is_ok = true;
    for (size_t at = 0; is_ok && at < text.n;) {
        ssize_t n = write(fd, text.p + at, text.n - at);
        is_ok = n > 0 || (n < 0 && errno == EINTR);
        at += n > 0 ? (size_t)n : 0;
    }
    is_ok = is_ok && fchmod(fd, 0644) == 0 && fsync(fd) == 0;
    if (!is_ok)
        (void)err_set(err, E_IO, "%s", strerror(errno));
    if (close(fd) != 0 && err->code == 0)
        (void)err_set(err, E_IO, "%s", strerror(errno));
    if (err->code == 0 && rename(tmp.p, path) != 0)
        (void)err_set(err, E_IO, "%s", strerror(errno));
    if (err->code != 0)
        (void)unlink(tmp.p); /* an attempt: the error that counts is the one above */
    buf_fini(&tmp);
    return err->code;
}

static int import_write(const struct price_import *x, const char *path)
{
    struct buf text = BUF_INIT(WRITTEN_MAX);
    struct err err = {0};
    int code = EXIT_DONE;
    price_import_write(x, &text);
    if (text.is_full)
        (void)err_set(&err, E_TOO_LARGE, "larger than %zu bytes", WRITTEN_MAX);
    else if (strcmp(path, "-") == 0)
        (void)printf("%.*s", (int)text.n, text.p);
    else if (command_option("--force") == NULL && !may_replace(path))
        (void)err_set(&err, E_EXISTS, "is there already and was not imported; --force replaces it");
    else
        (void)file_replace(path, buf_view(&text), &err);
    if (err.code != 0) {
        (void)fprintf(stderr, "reeve: %s: %s\n", path, err.msg);
        code = EXIT_REFUSED;
    }
    buf_fini(&text);
    return code;
}

/* --name one|other: *ret_is_other. 0 or EXIT_USAGE. */
static int option_choice(const char *name, const char *one, const char *other, bool *ret_is_other)
{
    const char *value = command_option(name);
    if (value != NULL && strcmp(value, one) != 0 && strcmp(value, other) != 0)
        return command_usage_error("%s: expected %s or %s, found `%s`", name, one, other, value);
    *ret_is_other = value != NULL && strcmp(value, other) == 0;
    return 0;
}

static int import_finish(const struct price_import *x, const char *out)
{
    size_t n;
    FILE *to = out != NULL && strcmp(out, "-") == 0 ? stderr : stdout;
    (void)price_import_models(x, &n);
    if (n == 0) {
        (void)fprintf(stderr, "reeve: %s: no model of it can be priced\n", command_argument(0));
        return EXIT_REFUSED;
    }
    int code = out != NULL ? import_write(x, out) : EXIT_DONE;
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json()) {
        struct buf text = BUF_INIT(WRITTEN_MAX);
        price_import_report(x, &text);
        (void)fprintf(to, "%s\n", buf_cstr(&text));
        buf_fini(&text);
    } else {
        print_report(to, x);
    }
    if (fflush(to) == 0)
        return EXIT_DONE;
    (void)fprintf(stderr, "reeve: the report cannot be written\n");
    return EXIT_REFUSED;
}

static int import(const struct command *cmd)
{
    (void)cmd;
    const char *path = command_argument(0), *version = command_option("--version");
    struct price_import_options o = {.version = version != NULL ? slice_str(version) : SLICE_EMPTY,
                                     .is_free_taken = command_option("--free") != NULL};
    struct price_import *x = NULL;
    struct err err = {0};
    struct buf text;
    int code = option_choice("--cache-write", "5m", "1h", &o.is_write_1h);
    if (code == 0)
        code = option_choice("--service-tier", "standard", "priority", &o.is_priority_priced);
    if (code != 0)
        return code;
    if (version != NULL && (o.version.n == 0 || o.version.n > PRICE_VERSION_MAX || !slice_is_utf8(o.version)))
        return command_usage_error("--version: expected 1 to %d characters", PRICE_VERSION_MAX);
    if (source_read(path, PRICE_LIST_BYTES_MAX, &text, &err) != 0) {
        (void)fprintf(stderr, "reeve: %s: %s\n", path, err.msg);
        return EXIT_REFUSED;
    }
    if (price_import_litellm(buf_view(&text), &o, &x, &err) != 0) {
        (void)fprintf(stderr, "reeve: %s: %s\n", path, err.msg);
        code = EXIT_REFUSED;
    } else {
        code = import_finish(x, command_option("-o"));
    }
    price_import_free(x);
    buf_fini(&text);
    return code;
}

/* --- explain --- */

/* One price file without a configuration around it. */
static int prices_read(const char *file, struct arena *a, struct config_problems *problems,
                       struct price_table **ret)
{
    struct config_price_file one = {.path = slice_str(file)};
    struct config_prices prices = {.files = &one, .n_files = 1};
    struct buf text;
    struct err err = {0};
    if (source_read(file, PRICE_LIST_BYTES_MAX, &text, &err) != 0) {
        config_problem_add(problems, file, 0, 0, NULL, "cannot read it: %s", err.msg);
        return E_INVALID;
    }
    int rc = yaml_parse(a, file, buf_view(&text), problems, &one.root);
    buf_fini(&text);
    return rc != 0 ? rc : price_table_new(&prices, problems, ret);
}

/* The price files of the configuration, or the one that --prices names. 0 or EXIT_REFUSED. */
static int prices_load(struct price_table **ret)
{
    struct config_problems problems;
    struct tenancy *t = NULL;
    struct arena a = ARENA_INIT;
    const char *config = command_option("-c"), *file = command_option("--prices");
    struct buf out = BUF_INIT((size_t)256 * 1024);
    config_problems_init(&problems);
    int rc = file != NULL ? prices_read(file, &a, &problems, ret)
                          : tenancy_load(config != NULL ? config : "reeve.yaml", &problems, &t);
    if (rc == 0 && file == NULL)
        rc = price_table_new(&t->prices, &problems, ret);
    config_problems_print(&problems, &out);
    (void)fputs(buf_cstr(&out), stderr);
    buf_fini(&out);
    config_problems_fini(&problems);
    tenancy_unref(t);
    arena_fini(&a);
    return rc == 0 ? EXIT_DONE : EXIT_REFUSED;
}

/* "input=1200,output=310" */
static int tokens_read(const char *text, uint64_t tokens[TOKEN_KINDS])
{
    struct slice rest = slice_str(text), part, kind;
    for (bool more = true; more;) {
        more = slice_cut(&rest, ',', &part);
        int k = TOKEN_KINDS;
        if (slice_cut(&part, '=', &kind))
            for (k = 0; k < TOKEN_KINDS && !slice_eq_str(kind, token_kind_names[k]); k++)
                ;
        if (k == TOKEN_KINDS || slice_u64(part, &tokens[k]) != 0 || tokens[k] > EVENT_TOKENS_MAX)
            return command_usage_error("--tokens: expected for example input=1200,output=310, found `%s`",
                                       text);
    }
    return 0;
}

struct explained {
    struct event event;
    const struct price_table *table;
    const struct price_model *model;
    const char *how;
    bool has_tokens;
    int rc; /* of pricing the tokens */
    struct event_cost cost;
    const char *missing;
};

static struct slice decimal(i128 v, unsigned scale, char out[I128_TEXT_MAX])
{
    return slice_of(out, i128_format(v, scale, out));
}

static void rates_json(struct jsonw *w, const struct price_model *m, const struct price_tier *tier)
{
    char text[I128_TEXT_MAX];
    jsonw_object(w);
    jsonw_ku64(w, "above", tier->above);
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (!tier->rates.has[k])
            continue;
        jsonw_key(w, token_kind_names[k]);
        jsonw_object(w);
        jsonw_kslice(w, "per_million", decimal(tier->rates.listed[k], PRICE_FRACTION_MAX, text));
        jsonw_kslice(w, "unit_price", decimal(tier->rates.unit[k], AMOUNT_SCALE, text));
        i128 residue = price_residue(m, &tier->rates, (enum token_kind)k);
        jsonw_kslice(w, "residue", decimal(residue, AMOUNT_SCALE + PRICE_FACTOR_SCALE, text));
        jsonw_object_end(w);
    }
    jsonw_object_end(w);
}

static void explain_json(const struct explained *x)
{
    struct buf out = BUF_INIT(65536);
    struct jsonw w;
    char text[I128_TEXT_MAX];
    const struct price_model *m = x->model;
    jsonw_init(&w, &out);
    jsonw_object(&w);
    jsonw_kslice(&w, "model", x->event.model);
    jsonw_kstr(&w, "matched_by", m != NULL ? x->how : NULL);
    jsonw_kslice(&w, m != NULL && m->is_group ? "group" : "row", m != NULL ? m->name : SLICE_NULL);
    if (m != NULL) {
        jsonw_kslice(&w, "provider", m->provider.n > 0 ? m->provider : SLICE_NULL);
        jsonw_kslice(&w, "version", m->version);
        jsonw_kstr(&w, "currency", price_currency(x->table));
        jsonw_kslice(&w, "factor", decimal(m->factor, PRICE_FACTOR_SCALE, text));
        jsonw_key(&w, "tiers");
        jsonw_array(&w);
        for (size_t i = 0; i < m->n_tiers; i++)
            rates_json(&w, m, &m->tiers[i]);
        jsonw_array_end(&w);
    }
    if (x->has_tokens && x->rc == 0)
        jsonw_kslice(&w, "cost", decimal(x->cost.amount, AMOUNT_SCALE, text));
    jsonw_object_end(&w);
    (void)printf("%s\n", buf_cstr(&out));
    buf_fini(&out);
}

static void explain_table(const struct explained *x)
{
    static const char *const heads[] = {"PROMPTS ABOVE", "KIND", "A MILLION TOKENS", "ONE TOKEN", "RESIDUE"};
    const struct price_model *m = x->model;
    struct table t;
    char text[I128_TEXT_MAX];
    (void)printf("%s `", m->is_group ? "group" : "row");
    text_print(stdout, m->name);
    (void)printf("`, found as %s\n", x->how);
    if (m->provider.n > 0) {
        (void)printf("provider ");
        text_print(stdout, m->provider);
        (void)printf(", ");
    }
    (void)printf("version ");
    text_print(stdout, m->version);
    (void)printf(", currency %s", price_currency(x->table));
    (void)printf(", factor %.*s\n", SL_ARG(decimal(m->factor, PRICE_FACTOR_SCALE, text)));
    table_init(&t, heads, ARRAY_LEN(heads));
    for (size_t i = 0; i < m->n_tiers; i++) {
        const struct price_rates *r = &m->tiers[i].rates;
        for (int k = 0; k < TOKEN_KINDS; k++) {
            if (!r->has[k])
                continue;
            table_row(&t);
            table_cell(&t, 0, decimal((i128)m->tiers[i].above, 0, text));
            table_cell(&t, 1, slice_str(token_kind_names[k]));
            table_cell(&t, 2, decimal(r->listed[k], PRICE_FRACTION_MAX, text));
            table_cell(&t, 3, decimal(r->unit[k], AMOUNT_SCALE, text));
            table_cell(
                &t, 4,
                decimal(price_residue(m, r, (enum token_kind)k), AMOUNT_SCALE + PRICE_FACTOR_SCALE, text));
        }
    }
    table_print(&t);
    if (x->has_tokens && x->rc == 0)
        (void)printf("cost %.*s %s\n", SL_ARG(decimal(x->cost.amount, AMOUNT_SCALE, text)),
                     price_currency(x->table));
}

static struct slice option_text(const char *name)
{
    const char *value = command_option(name);
    return value != NULL ? slice_str(value) : SLICE_EMPTY;
}

static int explain(const struct command *cmd)
{
    (void)cmd;
    struct explained x = {.event = {.model = slice_str(command_argument(0)),
                                    .model_group = option_text("--group"),
                                    .provider = option_text("--provider")}};
    struct price_table *table = NULL;
    const char *tokens = command_option("--tokens");
    x.has_tokens = tokens != NULL;
    if (tokens != NULL && tokens_read(tokens, x.event.tokens) != 0)
        return EXIT_USAGE;
    int code = prices_load(&table);
    if (code != EXIT_DONE)
        return code;
    const struct price_query query = {x.event.model, x.event.model_group, x.event.provider};
    x.table = table;
    x.model = price_find(table, &query, &x.how);
    x.rc = event_price(&x.event, table, &x.cost, &x.missing);
    if (command_wants_json())
        explain_json(&x);
    else if (x.model != NULL)
        explain_table(&x);
    if (x.model == NULL)
        (void)fprintf(stderr, "reeve: unpriced: %s\n", x.how);
    else if (x.has_tokens && x.rc != 0)
        (void)fprintf(stderr, "reeve: unpriced: %s%s\n",
                      x.rc == E_OVERFLOW ? "the cost is beyond what can be counted" : "no price for ",
                      x.rc == E_OVERFLOW ? "" : x.missing);
    price_table_free(table);
    return x.model != NULL && (!x.has_tokens || x.rc == 0) ? EXIT_DONE : EXIT_REFUSED;
}

static const struct option_row import_options[] = {
    {"-o", "FILE", "the price file to write; `-` is stdout; without it only the report"},
    {"--version", "TEXT", "of the file; default: made from the list's bytes"},
    {"--cache-write", "5m|1h", "which rate prices cache_write; default 5m"},
    {"--service-tier", "TIER", "standard (default), or priority where it is dearer"},
    {"--free", NULL, "take prices of 0 as free; else they are left unpriced"},
    {"--force", NULL, "replace a file that was not imported"},
    {"--json", NULL, "the whole report"},
    {NULL, NULL, NULL}};
static const struct option_row explain_options[] = {
    {"-c", "FILE", "the configuration; default reeve.yaml"},
    {"--prices", "FILE", "this price file alone, no configuration"},
    {"--provider", "NAME", "as a gateway reports it"},
    {"--group", "NAME", "the name that the caller used for the model"},
    {"--tokens", "LIST", "what a call costs: input=1200,output=310"},
    {"--json", NULL, "for programs"},
    {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"prices", "import", "FILE", "make a price file from LiteLLM's price list", 1, 1, import_options, import},
    {"prices", "explain", "MODEL", "which row prices a model, and what a token costs", 1, 1, explain_options,
     explain},
};
const struct command_set commands_prices = {rows, ARRAY_LEN(rows)};
