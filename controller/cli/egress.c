/* egress: reeve egress ls|why. */
#include "controller/cli/command.h"

#include "base/core/mem.h"

#include <stdio.h>

static int list(const struct command *cmd)
{
    static const char *const heads[] = {"LAST", "DECISION", "COUNT", "TARGET", "REASON", "DETAIL"};
    static const char *const fields[] = {"last_at", "decision", NULL, "target", "reason", "detail"};
    struct buf path = BUF_INIT(4096);
    struct api_answer a;
    struct table t;
    (void)cmd;
    if (!api_workspace_path(&path, "/egress"))
        return EXIT_USAGE;
    int code = api_call("GET", buf_cstr(&path), SLICE_NULL, &a);
    buf_fini(&path);
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json()) {
        api_print_json(&a);
    } else {
        table_init(&t, heads, ARRAY_LEN(heads));
        JSON_FOREACH (it, json_get(a.json, "items")) {
            table_row(&t);
            for (size_t i = 0; i < ARRAY_LEN(fields); i++)
                table_cell(&t, i,
                           fields[i] != NULL ? json_string(json_get(it, fields[i]))
                                             : json_number_text(json_get(it, "count")));
        }
        table_print(&t);
    }
    api_answer_fini(&a);
    return EXIT_DONE;
}

/* Names and details may come from outside: nothing of them drives the terminal. */
static void say(const char *head, struct slice text)
{
    (void)printf("%-10s ", head);
    text_print(stdout, text);
    (void)putchar('\n');
}

static void print_why(const struct json *j)
{
    const struct json *rule = json_get(j, "rule");
    char text[600];
    say("target", json_string(json_get(j, "target")));
    say("decision", json_string(json_get(j, "decision")));
    say("because", json_string(json_get(j, "detail")));
    if (rule != NULL) {
        (void)snprintf(
            text, sizeof text, "%.*s (line %.*s%s%.*s)", SL_ARG(json_string(json_get(rule, "entry"))),
            SL_ARG(json_number_text(json_get(rule, "line"))), json_get(rule, "set") != NULL ? ", set " : "",
            (int)json_string(json_get(rule, "set")).n,
            json_get(rule, "set") != NULL ? json_string(json_get(rule, "set")).p : "");
        say("rule", slice_str(text));
    }
    JSON_FOREACH (it, json_get(j, "addresses")) {
        (void)snprintf(text, sizeof text, "%.*s (%.*s)", SL_ARG(json_string(json_get(it, "address"))),
                       SL_ARG(json_string(json_get(it, "kind"))));
        say("address", slice_str(text));
    }
}

static int why(const struct command *cmd)
{
    struct buf path = BUF_INIT(4096);
    struct api_answer a;
    (void)cmd;
    if (!api_workspace_path(&path, "/egress/why"))
        return EXIT_USAGE;
    api_query_add(&path, "target", command_argument(1));
    int code = api_call("GET", buf_cstr(&path), SLICE_NULL, &a);
    buf_fini(&path);
    if (code != EXIT_DONE)
        return code;
    bool is_allowed = slice_eq_str(json_string(json_get(a.json, "decision")), "allowed");
    if (command_wants_json())
        api_print_json(&a);
    else
        print_why(a.json);
    api_answer_fini(&a);
    return is_allowed ? EXIT_DONE : EXIT_REFUSED;
}

static const struct option_row options[] = {OPTION_JSON, {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"egress", "ls", "NAMESPACE/NAME", "what it reached lately, and what it was refused", 1, 1, options,
     list},
    {"egress", "why", "NAMESPACE/NAME HOST:PORT", "why it may or may not reach a target", 2, 2, options, why},
};
const struct command_set commands_egress = {rows, ARRAY_LEN(rows)};
