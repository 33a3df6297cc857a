/* command: see command.h. */
#include "controller/cli/command.h"

#include "base/core/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command_set *const sets[] = {
    &commands_serve, &commands_workspace, &commands_billing, &commands_budget, &commands_suspense,
    &commands_top,   &commands_prices,    &commands_key,     &commands_image,  &commands_egress};

static struct {
    const struct command *command;
    const char *arguments[ARGUMENTS_MAX];
    int n_arguments;
    const char *names[OPTIONS_MAX], *values[OPTIONS_MAX];
    int n_options;
} given;

const char *command_argument(int i)
{
    return i < given.n_arguments ? given.arguments[i] : NULL;
}

const char *command_option(const char *name)
{
    for (int i = 0; i < given.n_options; i++)
        if (strcmp(given.names[i], name) == 0)
            return given.values[i];
    return NULL;
}

bool command_wants_json(void)
{
    return command_option("--json") != NULL;
}

static void print_line(FILE *f, const struct command *c)
{
    char left[96];
    (void)snprintf(left, sizeof left, "reeve %s%s%s%s%s", c->name, c->sub != NULL ? " " : "",
                   c->sub != NULL ? c->sub : "", c->arguments[0] != '\0' ? " " : "", c->arguments);
    (void)fprintf(f, "  %-44s %s\n", left, c->help);
}

static void print_all(FILE *f)
{
    (void)fprintf(f, "Reeve runs a fleet of AI-agent sandboxes, meters them, and keeps their budgets.\n\n");
    for (size_t s = 0; s < ARRAY_LEN(sets); s++)
        for (size_t i = 0; i < sets[s]->n; i++)
            print_line(f, &sets[s]->rows[i]);
    (void)fprintf(
        f, "\nCommands that talk to a controller read REEVE_URL (http://127.0.0.1:8700) and REEVE_KEY;\n"
           "REEVE_CA names the PEM file of a private authority that vouches for an https:// URL.\n"
           "Every command takes --help; those that print tables take --json.\n"
           "Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 the controller, or the engine, cannot "
           "be reached.\n");
}

static void print_one(FILE *f, const struct command *c)
{
    print_line(f, c);
    for (const struct option_row *o = c->options; o != NULL && o->name != NULL; o++)
        (void)fprintf(f, "    %s %-*s %s\n", o->name, 22 - (int)strlen(o->name),
                      o->value != NULL ? o->value : "", o->help);
}

int command_usage_error(const char *fmt, ...)
{
    va_list ap;
    (void)fprintf(stderr, "reeve: ");
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "\n");
    if (given.command != NULL)
        print_one(stderr, given.command);
    return EXIT_USAGE;
}

static const struct command *find(const char *name, const char *sub, bool *ret_name_is_known)
{
    *ret_name_is_known = false;
    for (size_t s = 0; s < ARRAY_LEN(sets); s++) {
        for (size_t i = 0; i < sets[s]->n; i++) {
            const struct command *c = &sets[s]->rows[i];
            if (strcmp(c->name, name) != 0)
                continue;
            *ret_name_is_known = true;
            if (c->sub == NULL || (sub != NULL && strcmp(c->sub, sub) == 0))
                return c;
        }
    }
    return NULL;
}

static const struct option_row *option_find(const struct command *c, const char *name)
{
    for (const struct option_row *o = c->options; o != NULL && o->name != NULL; o++)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

/* "-c FILE", "--wait 30s", "--wait=30s", arguments in between. 0 or EXIT_USAGE. */
static int read_given(const struct command *c, int argc, char **argv, int at)
{
    for (; at < argc; at++) {
        char *text = argv[at], *equals = strchr(text, '=');
        if (text[0] != '-' || text[1] == '\0') {
            if (given.n_arguments == c->most_arguments)
                return command_usage_error("unexpected argument `%s`", text);
            given.arguments[given.n_arguments++] = text;
            continue;
        }
        if (equals != NULL)
            *equals = '\0';
        const struct option_row *o = option_find(c, text);
        if (o == NULL || given.n_options == OPTIONS_MAX)
            return command_usage_error("unknown option `%s`", text);
        const char *value = "";
        if (o->value != NULL && equals != NULL)
            value = equals + 1;
        else if (o->value != NULL && at + 1 < argc)
            value = argv[++at];
        else if (o->value != NULL || equals != NULL)
            return command_usage_error("option `%s` %s", text,
                                       o->value != NULL ? "wants a value" : "takes no value");
        given.names[given.n_options] = o->name;
        given.values[given.n_options++] = value;
    }
    if (given.n_arguments < c->least_arguments)
        return command_usage_error("missing argument: %s", c->arguments);
    return 0;
}

int command_main(int argc, char **argv)
{
    bool is_known = false;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_all(argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_USAGE : EXIT_DONE;
    }
    const struct command *c = find(argv[1], argc > 2 ? argv[2] : NULL, &is_known);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") != 0)
            continue;
        for (size_t s = 0; s < ARRAY_LEN(sets); s++)
            for (size_t k = 0; k < sets[s]->n; k++)
                if (strcmp(sets[s]->rows[k].name, argv[1]) == 0 && (c == NULL || c == &sets[s]->rows[k]))
                    print_one(stdout, &sets[s]->rows[k]);
        return is_known ? EXIT_DONE : EXIT_USAGE;
    }
    if (c == NULL)
        return command_usage_error("unknown command `%s%s%s`; `reeve --help` lists them", argv[1],
                                   is_known && argc > 2 ? " " : "", is_known && argc > 2 ? argv[2] : "");
    given.command = c;
    int code = read_given(c, argc, argv, c->sub != NULL ? 3 : 2);
    return code != 0 ? code : c->run(c);
}
