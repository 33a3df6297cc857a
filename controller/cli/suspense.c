/* suspense: reeve suspense ls|attribute|retry|dismiss|adjust. */
#include "controller/cli/command.h"

#include "base/core/mem.h"
#include "base/net/http.h"

#include <stdio.h>

static const char *const heads[] = {"REASON", "TIME", "GATEWAY", "NAMESPACE", "MODEL", "COST", "SUSPENSE ID"};

static void on_items(const struct json *page, void *data)
{
    static const char *const fields[] = {"reason", "time", "gateway", "namespace", "model"};
    struct table *t = data;
    char text[MONEY_TEXT_MAX];
    JSON_FOREACH (it, json_get(page, "items")) {
        table_row(t);
        for (size_t i = 0; i < ARRAY_LEN(fields); i++)
            table_cell(t, i, json_string(json_get(it, fields[i])));
        table_cell(t, 5, money_text(json_get(it, "cost"), text));
        table_cell(t, 6, json_string(json_get(it, "suspense_id")));
    }
}

static int list(const struct command *cmd)
{
    (void)cmd;
    static const char *const filters[][2] = {{"reason", "--reason"},
                                             {"gateway", "--gateway"},
                                             {"key_hash", "--key-hash"},
                                             {"namespace", "--namespace"},
                                             {"model", "--model"},
                                             {"from", "--from"},
                                             {"to", "--to"}};
    struct buf path = BUF_INIT(8192);
    struct table t;
    (void)buf_str(&path, "/v1/suspense");
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        api_query_add(&path, filters[i][0], command_option(filters[i][1]));
    table_init(&t, heads, ARRAY_LEN(heads));
    int code = api_pages(buf_cstr(&path), 500, on_items, &t);
    buf_fini(&path);
    return table_end(&t, code);
}

/* Every option that was given is a member of the body; the last part of the path is the command's name. */
static int decide(const struct command *cmd)
{
    struct buf path = BUF_INIT(8192), body = BUF_INIT(16384);
    struct api_answer a;
    struct jsonw w;
    (void)buf_str(&path, "/v1/suspense/");
    (void)url_encode(slice_str(command_argument(0)), &path);
    (void)buf_printf(&path, "/%s", cmd->sub);
    jsonw_init(&w, &body);
    jsonw_object(&w);
    for (const struct option_row *o = cmd->options; o->name != NULL; o++) {
        if (o->value != NULL && command_option(o->name) != NULL)
            jsonw_kstr(&w, o->name + 2, command_option(o->name));
    }
    jsonw_object_end(&w);
    int code = api_call("POST", buf_cstr(&path), buf_view(&body), &a);
    buf_fini(&path);
    buf_fini(&body);
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json()) {
        api_print_json(&a);
    } else {
        static const char *const one[] = {"DECISION",  "OUTCOME",   "TENANT",
                                          "NAMESPACE", "WORKSPACE", "DETAIL"};
        static const char *const fields[] = {"decision",  "outcome",   "tenant",
                                             "namespace", "workspace", "detail"};
        struct table t;
        table_init(&t, one, ARRAY_LEN(one));
        table_row(&t);
        for (size_t i = 0; i < ARRAY_LEN(fields); i++)
            table_cell(&t, i, json_string(json_get(a.json, fields[i])));
        table_print(&t);
    }
    api_answer_fini(&a);
    return EXIT_DONE;
}

static const struct option_row list_options[] = {{"--reason", "WORD", "unknown_key, unpriced, conflict, …"},
                                                 {"--gateway", "NAME", "of this gateway"},
                                                 {"--key-hash", "HASH", "of this LLM key"},
                                                 {"--namespace", "NAME", "of this namespace"},
                                                 {"--model", "NAME", "of this model"},
                                                 {"--from", "DAY", "first day (UTC), 2026-11-01"},
                                                 {"--to", "DAY", "the day after the last"},
                                                 OPTION_JSON,
                                                 {NULL, NULL, NULL}};
static const struct option_row attribute_options[] = {
    {"--tenant", "NAME", "who pays"},
    {"--namespace", "NAME", "in which of its namespaces"},
    {"--workspace", "NAME", "for which workspace, if any"},
    {"--user", "TEXT", "whose usage it is; default: the workspace's"},
    {"--reason", "TEXT", "why; for the audit log"},
    OPTION_JSON,
    {NULL, NULL, NULL}};
static const struct option_row reason_options[] = {
    {"--reason", "TEXT", "why; for the audit log"}, OPTION_JSON, {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"suspense", "ls", "", "reports that wait for a tenant, a price or a decision", 0, 0, list_options, list},
    {"suspense", "attribute", "ID", "say whose it is", 1, 1, attribute_options, decide},
    {"suspense", "retry", "ID", "post it now, at the present prices", 1, 1, reason_options, decide},
    {"suspense", "dismiss", "ID", "it is not charged; what was posted stands", 1, 1, reason_options, decide},
    {"suspense", "adjust", "ID", "a conflict: adjust what was posted to it", 1, 1, reason_options, decide},
};
const struct command_set commands_suspense = {rows, ARRAY_LEN(rows)};
