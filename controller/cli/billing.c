/* billing: reeve usage, export. */
#include "controller/cli/command.h"

#include "base/core/clock.h"
#include "base/core/id.h"
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

static void usage_row(struct table *t, struct slice group, const struct json *it)
{
    static const char *const kinds[] = {"input", "output", "cache_read", "cache_write"};
    char text[MONEY_TEXT_MAX];
    table_row(t);
    table_cell(t, 0, group);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        table_cell(t, i + 1, count(json_get(it, kinds[i])));
    table_cell(t, 5, money_text(json_get(it, "cost"), text));
}

static int usage(const struct command *cmd)
{
    (void)cmd;
    static const char *const heads[] = {"", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "COST"};
    struct buf path = BUF_INIT(4096);
    struct api_answer a;
    const char *by = command_option("--by"), *of = command_argument(0);
    if (of != NULL) {
        struct slice name = slice_str(of), ns;
        if (!slice_cut(&name, '/', &ns) || !name_is_valid(ns) || !name_is_valid(name)) {
            buf_fini(&path);
            return command_usage_error("expected NAMESPACE/NAME, found `%s`", of);
        }
        (void)buf_printf(&path, "/v1/workspaces/%.*s/%.*s/usage", SL_ARG(ns), SL_ARG(name));
    } else {
        (void)buf_str(&path, "/v1/usage");
        api_query_add(&path, "namespace", command_option("--namespace"));
    }
    api_query_add(&path, of != NULL ? "by" : "group_by", by);
    api_query_add(&path, "from", command_option("--from"));
    api_query_add(&path, "to", command_option("--to"));
    int code = api_call("GET", buf_cstr(&path), SLICE_NULL, &a);
    buf_fini(&path);
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json()) {
        api_print_json(&a);
    } else {
        struct table t;
        table_init(&t, heads, ARRAY_LEN(heads));
        JSON_FOREACH (it, json_get(a.json, "items")) {
            usage_row(&t, by != NULL ? json_string(json_get(it, by)) : SLICE_EMPTY, it);
        }
        usage_row(&t, SL("total"), json_get(a.json, "total"));
        table_print(&t);
    }
    api_answer_fini(&a);
    return EXIT_DONE;
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
    {"--by", "GROUP", "model, kind, day, namespace or workspace"},
    {"--from", "DAY", "first day (UTC), 2026-11-01; default: of this month"},
    {"--to", "DAY", "the day after the last; default: tomorrow"},
    {"--namespace", "NAME", "only this namespace"},
    {"--json", NULL, "print what the controller answered"},
    {NULL, NULL, NULL}};
static const struct option_row export_options[] = {{"--format", "FORMAT", "csv (default) or jsonl"},
                                                   {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"usage", NULL, "[NAMESPACE/NAME]", "what was used, and its cost", 0, 1, usage_options, usage},
    {"export", NULL, "[PERIOD]", "the ledger of a month (2026-11) to stdout", 0, 1, export_options, export},
};
const struct command_set commands_billing = {rows, ARRAY_LEN(rows)};
