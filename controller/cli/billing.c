/* billing: reeve usage, export. */
#include "controller/cli/command.h"

#include "base/core/clock.h"
#include "base/core/mem.h"
#include "base/net/http.h"

#include <stdio.h>
#include <string.h>

struct slice money_text(const struct json *amount, char out[MONEY_TEXT_MAX])
{
    struct slice n = json_string(json_get(amount, "amount")),
                 currency = json_string(json_get(amount, "currency"));
    if (n.p == NULL)
        return SLICE_EMPTY;
    (void)snprintf(out, MONEY_TEXT_MAX, "%.*s %.*s", SL_ARG(n), SL_ARG(currency));
    return slice_str(out);
}

static struct slice count(const struct json *j)
{
    struct slice n = json_number_text(j);
    return n.p != NULL ? n : SLICE_EMPTY;
}

/* The table of one grouping: a column for each name that an item has, then what was used. */
struct usage_table {
    struct table table;
    const char *groups[4];
    size_t n_groups;
    bool by_kind; /* tokens of one kind in each row */
};

static const char *const kinds[] = {"input", "output", "cache_read", "cache_write"};

/* Tokens, or bytes of the way out. */
static struct slice quantity(const struct json *it)
{
    static const char *const bytes[] = {"egress_in_bytes", "egress_out_bytes"};
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
        if (json_get(it, bytes[i]) != NULL && slice_eq_str(count(json_get(it, "tokens")), "0"))
            return count(json_get(it, bytes[i]));
    }
    return count(json_get(it, "tokens"));
}

static void usage_row(struct usage_table *t, const struct json *it, bool is_total)
{
    char text[MONEY_TEXT_MAX];
    size_t at = t->n_groups;
    table_row(&t->table);
    for (size_t i = 0; i < t->n_groups; i++)
        table_cell(&t->table, i, is_total ? SLICE_EMPTY : json_string(json_get(it, t->groups[i])));
    if (is_total)
        table_cell(&t->table, 0, SL("total"));
    if (t->by_kind)
        table_cell(&t->table, at++, quantity(it));
    for (size_t i = 0; i < ARRAY_LEN(kinds) && !t->by_kind; i++)
        table_cell(&t->table, at++, count(json_get(it, kinds[i])));
    table_cell(&t->table, at, money_text(json_get(it, "cost"), text));
}

static void on_usage(const struct json *page, void *data)
{
    struct usage_table *t = data;
    JSON_FOREACH (it, json_get(page, "items"))
        usage_row(t, it, false);
    if (json_string(json_get(page, "next")).p == NULL) /* of all pages */
        usage_row(t, json_get(page, "total"), true);
}

/* What it is called in an answer; a workspace stands with its namespace. */
static void group_add(struct usage_table *t, const char *name)
{
    for (size_t i = 0; i < t->n_groups; i++) {
        if (strcmp(t->groups[i], name) == 0)
            return;
    }
    t->groups[t->n_groups++] = name;
}

static void usage_table_init(struct usage_table *t, const char *by)
{
    static const char *const names[] = {"model", "kind", "day", "user", "namespace", "workspace"};
    static const char *const titles[] = {"MODEL", "KIND", "DAY", "USER", "NAMESPACE", "WORKSPACE"};
    const char *heads[TABLE_COLUMNS_MAX];
    size_t n = 0;
    struct slice rest = slice_str(by), one;
    *t = (struct usage_table){.n_groups = 0};
    for (int i = 0; i < 2 && rest.n > 0;
         i++) { /* what is none of them, or too much, the controller refuses */
        (void)slice_cut(&rest, ',', &one);
        if (slice_eq_str(one, "workspace"))
            group_add(t, "namespace");
        for (size_t k = 0; k < ARRAY_LEN(names); k++) {
            if (slice_eq_str(one, names[k]))
                group_add(t, names[k]);
        }
        t->by_kind = t->by_kind || slice_eq_str(one, "kind");
    }
    for (; n < t->n_groups; n++) {
        size_t k = 0;
        while (strcmp(names[k], t->groups[n]) != 0)
            k++;
        heads[n] = titles[k];
    }
    if (n == 0) { /* a place for the word "total" */
        t->groups[t->n_groups++] = "";
        heads[n++] = "";
    }
    static const char *const all[] = {"INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE"};
    if (t->by_kind)
        heads[n++] = "QUANTITY";
    for (size_t i = 0; i < ARRAY_LEN(all) && !t->by_kind; i++)
        heads[n++] = all[i];
    heads[n++] = "COST";
    table_init(&t->table, heads, n);
}

static int usage(const struct command *cmd)
{
    (void)cmd;
    static const char *const filters[] = {"--from", "--to", "--model", "--kind"}, *const wide[] = {
                                                                                      "--namespace",
                                                                                      "--workspace",
                                                                                      "--user"};
    struct buf path = BUF_INIT(8192);
    const char *by = command_option("--by"), *of = command_argument(0);
    if (of != NULL) {
        if (!api_workspace_path(&path, "/usage"))
            return EXIT_USAGE;
    } else {
        (void)buf_str(&path, "/v1/usage");
        for (size_t i = 0; i < ARRAY_LEN(wide); i++)
            api_query_add(&path, wide[i] + 2, command_option(wide[i]));
    }
    api_query_add(&path, of != NULL ? "by" : "group_by", by);
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        api_query_add(&path, filters[i] + 2, command_option(filters[i]));
    struct usage_table t;
    usage_table_init(&t, by != NULL ? by : "");
    int code = api_pages(buf_cstr(&path), 5000, on_usage, &t);
    buf_fini(&path);
    return table_end(&t.table, code);
}

static int export(const struct command *cmd)
{
    (void)cmd;
    struct buf path = BUF_INIT(1024);
    char present[16];
    int year, month, day;
    const char *period = command_argument(0);
    if (period == NULL) {
        time_civil(clock_wall_ms(&clock_system), &year, &month, &day);
        (void)snprintf(present, sizeof present, "%04d-%02d", year, month);
        period = present;
    }
    (void)buf_str(&path, "/v1/periods/");
    (void)url_encode(slice_str(period), &path);
    (void)buf_str(&path, "/export");
    api_query_add(&path, "format", command_option("--format"));
    int code = api_download(buf_cstr(&path));
    buf_fini(&path);
    return code;
}

static const struct option_row usage_options[] = {
    {"--by", "GROUP", "model, kind, day, namespace, workspace or user; or two: day,model"},
    {"--from", "DAY", "first day (UTC), 2026-11-01; default: of this month"},
    {"--to", "DAY", "the day after the last; default: tomorrow"},
    {"--namespace", "NAME", "only this namespace"},
    {"--workspace", "NAME", "only workspaces of this name"},
    {"--model", "NAME", "only this model"},
    {"--kind", "KIND", "only tokens of this kind"},
    {"--user", "TEXT", "only workspaces of this user"},
    OPTION_JSON,
    {NULL, NULL, NULL}};
static const struct option_row export_options[] = {{"--format", "FORMAT", "csv (default) or jsonl"},
                                                   {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"usage", NULL, "[NAMESPACE/NAME]", "what was used, and its cost", 0, 1, usage_options, usage},
    {"export", NULL, "[PERIOD]", "the ledger of a month (2026-11) to stdout", 0, 1, export_options, export},
};
const struct command_set commands_billing = {rows, ARRAY_LEN(rows)};
