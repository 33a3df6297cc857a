/* budget: reeve budget ls|show|set|rm. */
#include "controller/cli/command.h"

#include "base/core/id.h"
#include "base/core/mem.h"
#include "base/net/http.h"

static const char *const heads[] = {"BUDGET", "SCOPE",     "WINDOW", "LIMIT",
                                    "SPENT",  "REMAINING", "RESETS", "SET BY"};
static const char *const instance_heads[] = {"NAMESPACE", "LIMIT",     "SPENT",
                                             "UNSETTLED", "REMAINING", "RESETS"};

static void row_of(struct table *t, const struct json *it)
{
    char text[MONEY_TEXT_MAX];
    static const char *const words[] = {"name", "scope", "window"}, *const sums[] = {"limit", "spent",
                                                                                     "remaining"};
    table_row(t);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        table_cell(t, i, json_string(json_get(it, words[i])));
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        table_cell(t, 3 + i, money_text(json_get(it, sums[i]), text));
    table_cell(t, 6, json_string(json_get(it, "resets_at")));
    table_cell(t, 7, json_string(json_get(it, "set_by")));
}

static void on_instances(const struct json *page, void *data)
{
    static const char *const sums[] = {"limit", "spent", "unsettled", "remaining"};
    struct table *t = data;
    char text[MONEY_TEXT_MAX];
    JSON_FOREACH (it, json_get(page, "items")) {
        table_row(t);
        table_cell(t, 0, json_string(json_get(it, "namespace")));
        for (size_t i = 0; i < ARRAY_LEN(sums); i++)
            table_cell(t, 1 + i, money_text(json_get(it, sums[i]), text));
        table_cell(t, 5, json_string(json_get(it, "resets_at")));
    }
}

/* An answer with one budget, or without any. */
static int print_one(int code, struct api_answer *a)
{
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json() && a->body.n > 0) {
        api_print_json(a);
    } else if (a->json != NULL) {
        struct table t;
        table_init(&t, heads, ARRAY_LEN(heads));
        row_of(&t, a->json);
        table_print(&t);
    }
    api_answer_fini(a);
    return EXIT_DONE;
}

/* "/v1/budgets/<name><tail>"; false: printed why not. */
static bool path_of(struct buf *path, const char *tail)
{
    const char *name = command_argument(0);
    if (!name_is_valid(slice_str(name))) {
        (void)command_usage_error("expected a budget's name, found `%s`", name);
        return false;
    }
    (void)buf_printf(path, "/v1/budgets/%s%s", name, tail);
    return true;
}

static int list(const struct command *cmd)
{
    (void)cmd;
    struct api_answer a;
    int code = api_call("GET", "/v1/budgets", SLICE_NULL, &a);
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json()) {
        api_print_json(&a);
    } else {
        struct table t;
        table_init(&t, heads, ARRAY_LEN(heads));
        JSON_FOREACH (it, json_get(a.json, "items"))
            row_of(&t, it);
        table_print(&t);
    }
    api_answer_fini(&a);
    return EXIT_DONE;
}

static int show(const struct command *cmd)
{
    (void)cmd;
    struct buf path = BUF_INIT(1024);
    struct api_answer a;
    struct table t;
    if (!path_of(&path, ""))
        return EXIT_USAGE;
    int code = 0;
    if (command_option("--instances") == NULL) {
        code = api_call("GET", buf_cstr(&path), SLICE_NULL, &a);
        buf_fini(&path);
        return print_one(code, &a);
    }
    (void)buf_str(&path, "/instances");
    table_init(&t, instance_heads, ARRAY_LEN(instance_heads));
    code = api_pages(buf_cstr(&path), 400, on_instances, &t);
    buf_fini(&path);
    return table_end(&t, code);
}

static int set(const struct command *cmd)
{
    (void)cmd;
    static const char *const options[] = {"--scope", "--window", "--timezone"};
    struct buf path = BUF_INIT(1024), body = BUF_INIT(4096);
    struct jsonw w;
    struct api_answer a;
    if (!path_of(&path, ""))
        return EXIT_USAGE;
    jsonw_init(&w, &body);
    jsonw_object(&w);
    jsonw_kstr(&w, "limit", command_argument(1));
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        if (command_option(options[i]) != NULL)
            jsonw_kstr(&w, options[i] + 2, command_option(options[i]));
    }
    jsonw_object_end(&w);
    int code = api_call("PUT", buf_cstr(&path), buf_view(&body), &a);
    buf_fini(&path);
    buf_fini(&body);
    return print_one(code, &a);
}

static int take_back(const struct command *cmd)
{
    (void)cmd;
    struct buf path = BUF_INIT(1024);
    struct api_answer a;
    if (!path_of(&path, ""))
        return EXIT_USAGE;
    int code = api_call("DELETE", buf_cstr(&path), SLICE_NULL, &a);
    buf_fini(&path);
    return print_one(code, &a);
}

static const struct option_row json_options[] = {OPTION_JSON, {NULL, NULL, NULL}};
static const struct option_row show_options[] = {
    {"--instances", NULL, "one row for each namespace"}, OPTION_JSON, {NULL, NULL, NULL}};
static const struct option_row set_options[] = {
    {"--scope", "SCOPE", "tenant or namespace; a new one wants it"},
    {"--window", "WINDOW", "day, week or month; a new one wants it"},
    {"--timezone", "ZONE", "where windows begin; default UTC"},
    OPTION_JSON,
    {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"budget", "ls", "", "budgets: limit, spent, remaining", 0, 0, json_options, list},
    {"budget", "show", "NAME", "one budget", 1, 1, show_options, show},
    {"budget", "set", "NAME LIMIT", "set a budget, to `20 USD` for example", 2, 2, set_options, set},
    {"budget", "rm", "NAME", "take back what was set; the file's comes back", 1, 1, json_options, take_back},
};
const struct command_set commands_budget = {rows, ARRAY_LEN(rows)};
