/* command: the commands of the one binary, as a table. `--help` and the usage text come from the rows.
 *
 * Exit codes: 0 done; 1 refused or failed (the problem is on stderr); 2 used wrongly; 3 the controller (or,
 * for images, the engine) cannot be reached. */
#ifndef REEVE_CONTROLLER_CLI_COMMAND_H
#define REEVE_CONTROLLER_CLI_COMMAND_H

#include "base/core/json.h"

#include <stdbool.h>
#include <stdio.h>

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3 };

struct option_row {
    const char *name;  /* "--wait" */
    const char *value; /* "DURATION"; NULL: a flag */
    const char *help;
};
/* What every command has that shows an answer: see command_wants_json. */
#define OPTION_JSON                                                                                          \
    {                                                                                                        \
        "--json", NULL, "print what the controller answered"                                                 \
    }
#define OPTIONS_MAX   12
#define ARGUMENTS_MAX 8

struct command {
    const char *name, *sub; /* "workspace", "create"; sub NULL: none */
    const char *arguments;  /* "NAMESPACE/NAME" */
    const char *help;
    int least_arguments, most_arguments;
    const struct option_row *options; /* ends with {NULL} */
    int (*run)(const struct command *cmd);
};

/* What was given, for the running command. */
const char *command_argument(int i);          /* NULL when not given */
const char *command_option(const char *name); /* the value; "" for a flag; NULL when absent */
bool command_wants_json(void);                /* --json was given */
int command_usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

int command_main(int argc, char **argv);

struct command_set {
    const struct command *rows;
    size_t n;
};
extern const struct command_set commands_serve, commands_workspace, commands_billing, commands_budget,
    commands_suspense, commands_top, commands_prices, commands_key, commands_image, commands_egress;

/* --- the API, from a command --- */
struct api_answer {
    int status;
    struct buf body;
    struct json *json; /* NULL when the body is not JSON */
};
/* Calls REEVE_URL (default http://127.0.0.1:8700) with REEVE_KEY. Returns EXIT_DONE for a 2xx answer; else
 * the problem was printed and the exit code is returned. */
int api_call(const char *method, const char *path, struct slice body, struct api_answer *ret);
/* The same without a word on stderr: *err says what was wrong, E_NOT_FOUND, E_CANCELLED, … */
struct api_request {
    const char *method, *path;
    const char *tenant; /* whom a fleet key acts for; NULL: REEVE_TENANT */
    struct slice body;
    long deadline_ms;                /* 0: above the longest wait that can be asked for */
    bool (*should_stop)(void *data); /* asked about once a second while waiting; NULL: never */
    void *data;
};
int api_try(const struct api_request *rq, struct api_answer *ret, struct err *err);
/* Every page of a list; `path` may have a query of its own. on_page gets each answer; with --json the answers
 * are printed as they are instead, a line each. */
int api_pages(const char *path, unsigned limit, void (*on_page)(const struct json *page, void *data),
              void *data);
/* The same, the body streamed to stdout. */
int api_download(const char *path);
/* "/v1/workspaces/<namespace>/<name><tail>" of the first argument; false: printed why not. */
bool api_workspace_path(struct buf *path, const char *tail);
/* "?name=value" or "&name=value" with the value encoded; nothing for NULL. */
void api_query_add(struct buf *path, const char *name, const char *value);
void api_answer_fini(struct api_answer *a);
/* Writes the answer's JSON to stdout as it is, with a newline. */
void api_print_json(const struct api_answer *a);

/* {"amount":"12.5","currency":"USD"} as "12.5 USD"; empty when it is none. */
#define MONEY_TEXT_MAX 96
struct slice money_text(const struct json *amount, char out[MONEY_TEXT_MAX]);

/* --- words of others on a terminal --- */
/* Is the byte there part of a control character (C0, DEL, or C1 such as U+009B), which drives terminals? */
bool text_drives(struct slice text, size_t at);
void text_print(FILE *f, struct slice text); /* with '?' for these */

/* --- tables --- */
#define TABLE_COLUMNS_MAX 10
struct table {
    size_t columns, rows;
    const char *heads[TABLE_COLUMNS_MAX];
    char **cells; /* rows × columns, owned texts; NULL: empty */
    size_t cap;
};
void table_init(struct table *t, const char *const *heads, size_t n);
void table_cell(struct table *t, size_t column,
                struct slice text); /* of the newest row; control bytes become '?' */
void table_row(struct table *t);
void table_print(struct table *t); /* and frees */
void table_fini(struct table *t);
/* After api_pages: prints it when all pages came and --json has not printed them already; frees. Gives `code`
 * back. */
int table_end(struct table *t, int code);

#endif
