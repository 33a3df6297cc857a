/* workspace: reeve workspace ls|create|show|delete|suspend|resume|restart. */
#include "controller/cli/command.h"

#include "base/core/mem.h"

#include <stdio.h>
#include <string.h>

static void row_of(struct table *t, const struct json *ws)
{
    static const char *const fields[] = {"namespace", "name",       "state", "provider",
                                         "template",  "created_at", "reason"};
    table_row(t);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        table_cell(t, i, json_string(json_get(ws, fields[i])));
}

static const char *const heads[] = {"NAMESPACE", "NAME",    "STATE", "PROVIDER",
                                    "TEMPLATE",  "CREATED", "REASON"};

static int show_one(const char *method, const char *path, struct slice body)
{
    struct api_answer a;
    struct table t;
    int code = api_call(method, path, body, &a);
    if (code != EXIT_DONE)
        return code;
    bool is_failed = slice_eq_str(json_string(json_get(a.json, "state")), "failed");
    if (command_wants_json()) {
        api_print_json(&a);
    } else if (a.json != NULL) {
        table_init(&t, heads, ARRAY_LEN(heads));
        row_of(&t, a.json);
        table_print(&t);
    }
    api_answer_fini(&a);
    return is_failed ? EXIT_REFUSED : EXIT_DONE;
}

static void on_workspaces(const struct json *page, void *data)
{
    JSON_FOREACH (ws, json_get(page, "items"))
        row_of(data, ws);
}

static int list(const struct command *cmd)
{
    (void)cmd;
    struct table t;
    struct buf path = BUF_INIT(4096);
    table_init(&t, heads, ARRAY_LEN(heads));
    (void)buf_str(&path, "/v1/workspaces");
    api_query_add(&path, "namespace", command_option("--namespace"));
    api_query_add(&path, "state", command_option("--state"));
    api_query_add(&path, "label", command_option("--label"));
    int code = api_pages(buf_cstr(&path), 500, on_workspaces, &t);
    buf_fini(&path);
    return table_end(&t, code);
}

static int create(const struct command *cmd)
{
    (void)cmd;
    struct buf path = BUF_INIT(4096), body = BUF_INIT(65536);
    struct jsonw w;
    if (!api_workspace_path(&path, ""))
        return EXIT_USAGE;
    api_query_add(&path, "wait", command_option("--wait") != NULL ? command_option("--wait") : "60s");
    api_query_add(&path, "retry", command_option("--retry") != NULL ? "1" : NULL);
    jsonw_init(&w, &body);
    jsonw_object(&w);
    if (command_option("--template") != NULL)
        jsonw_kstr(&w, "template", command_option("--template"));
    if (command_option("--user") != NULL)
        jsonw_kstr(&w, "user", command_option("--user"));
    jsonw_object_end(&w);
    int code = show_one("PUT", buf_cstr(&path), buf_view(&body));
    buf_fini(&path);
    buf_fini(&body);
    return code;
}

static int act(const char *method, const char *tail)
{
    struct buf path = BUF_INIT(4096);
    if (!api_workspace_path(&path, tail))
        return EXIT_USAGE;
    api_query_add(&path, "wait", command_option("--wait"));
    int code = show_one(method, buf_cstr(&path), SLICE_NULL);
    buf_fini(&path);
    return code;
}

static int show(const struct command *cmd)
{
    (void)cmd;
    return act("GET", "");
}

static int delete (const struct command *cmd)
{
    (void)cmd;
    return act("DELETE", "");
}

static int verb(const struct command *cmd)
{
    char tail[32];
    (void)snprintf(tail, sizeof tail, "/%s", cmd->sub);
    return act("POST", tail);
}

static const struct option_row list_options[] = {{"--namespace", "NAME", "only this namespace"},
                                                 {"--state", "STATE", "only this state"},
                                                 {"--label", "NAME=VALUE", "only those with this label"},
                                                 OPTION_JSON,
                                                 {NULL, NULL, NULL}};
static const struct option_row create_options[] = {{"--template", "NAME", "default: the tenant's first"},
                                                   {"--user", "TEXT", "whose usage it will be"},
                                                   {"--wait", "DURATION", "for ready; default 60s"},
                                                   {"--retry", NULL, "try again when it has failed"},
                                                   OPTION_JSON,
                                                   {NULL, NULL, NULL}};
static const struct option_row json_options[] = {OPTION_JSON, {NULL, NULL, NULL}};
static const struct option_row wait_options[] = {
    {"--wait", "DURATION", "until it is done"}, OPTION_JSON, {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"workspace", "ls", "", "list workspaces", 0, 0, list_options, list},
    {"workspace", "create", "NAMESPACE/NAME", "find or create a workspace", 1, 1, create_options, create},
    {"workspace", "show", "NAMESPACE/NAME", "one workspace", 1, 1, json_options, show},
    {"workspace", "delete", "NAMESPACE/NAME", "delete a workspace and its home", 1, 1, wait_options, delete},
    {"workspace", "suspend", "NAMESPACE/NAME", "put it to sleep; the home stays", 1, 1, wait_options, verb},
    {"workspace", "resume", "NAMESPACE/NAME", "wake it", 1, 1, wait_options, verb},
    {"workspace", "restart", "NAMESPACE/NAME", "start the server in it anew", 1, 1, wait_options, verb},
};
const struct command_set commands_workspace = {rows, ARRAY_LEN(rows)};
