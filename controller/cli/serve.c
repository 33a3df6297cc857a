/* serve: reeve serve, check, init: the commands that read or write a configuration file. */
#include "controller/cli/command.h"

#include "base/core/crypto.h"
#include "base/core/id.h"
#include "base/core/log.h"
#include "base/core/mem.h"
#include "billing/billing.h"
#include "config/starter.h"
#include "controller/controller.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *config_path(void)
{
    const char *path = command_option("-c");
    if (path == NULL)
        path = command_argument(0);
    return path != NULL ? path : "reeve.yaml";
}

static int serve(const struct command *cmd)
{
    (void)cmd;
    const char *form = command_option("--log"), *level = command_option("--log-level");
    enum log_form f = LOG_FORM_AUTO;
    enum log_level l = LOG_INFO;
    if (form != NULL && strcmp(form, "json") == 0)
        f = LOG_FORM_JSON;
    else if (form != NULL && strcmp(form, "human") == 0)
        f = LOG_FORM_HUMAN;
    else if (form != NULL)
        return command_usage_error("--log: expected json or human, found `%s`", form);
    if (level != NULL && strcmp(level, "debug") == 0)
        l = LOG_DEBUG;
    else if (level != NULL && strcmp(level, "warn") == 0)
        l = LOG_WARN;
    else if (level != NULL && strcmp(level, "info") != 0)
        return command_usage_error("--log-level: expected debug, info or warn, found `%s`", level);
    log_setup(l, f, STDERR_FILENO, &clock_system);
    return controller_run(config_path());
}

static int check(const struct command *cmd)
{
    (void)cmd;
    struct config_problems problems;
    struct tenancy *t = NULL;
    struct buf out = BUF_INIT((size_t)256 * 1024);
    config_problems_init(&problems);
    int code = tenancy_load(config_path(), &problems, &t);
    if (code == 0)
        code = billing_check(t, &problems);
    config_problems_print(&problems, &out);
    (void)fputs(buf_cstr(&out), stderr);
    buf_fini(&out);
    if (code == 0)
        (void)printf("%s: %zu tenant%s, %zu template%s, %zu provider%s: valid\n", config_path(), t->n_tenants,
                     t->n_tenants == 1 ? "" : "s", t->n_templates, t->n_templates == 1 ? "" : "s",
                     t->n_providers, t->n_providers == 1 ? "" : "s");
    tenancy_unref(t);
    config_problems_fini(&problems);
    return code == 0 ? EXIT_DONE : EXIT_REFUSED;
}

/* --- init --- */

static int write_file(const char *folder, const char *name, mode_t mode, struct slice text)
{
    struct buf path = BUF_INIT(4096);
    (void)buf_printf(&path, "%s/%s", folder, name);
    int fd = open(buf_cstr(&path), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    ssize_t n = fd >= 0 ? write(fd, text.p, text.n) : -1;
    bool is_ok = fd >= 0 && n == (ssize_t)text.n && fsync(fd) == 0;
    if (fd >= 0)
        is_ok = close(fd) == 0 && is_ok;
    if (!is_ok)
        (void)fprintf(stderr, "reeve: %s: %s\n", buf_cstr(&path), strerror(errno));
    buf_fini(&path);
    return is_ok ? EXIT_DONE : EXIT_REFUSED;
}

static void key_make(char text[TOKEN_TEXT_MAX], char hash[SHA256_HEX_SIZE + 8])
{
    char id[TOKEN_ID_MAX], hex[SHA256_HEX_SIZE];
    token_id_new(&rnd_system, id);
    token_new(&rnd_system, "rvk", slice_str(id), text);
    sha256_hex(slice_str(text), hex);
    (void)snprintf(hash, SHA256_HEX_SIZE + 8, "sha256:%s", hex);
}

static int init(const struct command *cmd)
{
    (void)cmd;
    const char *folder = command_argument(0) != NULL ? command_argument(0) : ".";
    char owner[TOKEN_TEXT_MAX], fleet[TOKEN_TEXT_MAX], owner_hash[SHA256_HEX_SIZE + 8],
        fleet_hash[SHA256_HEX_SIZE + 8];
    unsigned char random[24];
    struct buf config = BUF_INIT(65536), prices = BUF_INIT(65536), secret = BUF_INIT(128);
    struct buf owner_line = BUF_INIT(128), fleet_line = BUF_INIT(128);
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        (void)fprintf(stderr, "reeve: %s: %s\n", folder, strerror(errno));
        return EXIT_REFUSED;
    }
    key_make(owner, owner_hash);
    key_make(fleet, fleet_hash);
    rnd_fill(&rnd_system, random, sizeof random);
    (void)hex_encode(slice_of(random, sizeof random), &secret);
    (void)buf_byte(&secret, '\n');
    (void)buf_printf(&owner_line, "%s\n", owner);
    (void)buf_printf(&fleet_line, "%s\n", fleet);
    struct starter_options o = {.listen = command_option("--listen") != NULL ? command_option("--listen")
                                                                             : "127.0.0.1:8700",
                                .data_dir = "data",
                                .tenant = "demo",
                                .owner_hash = owner_hash,
                                .fleet_hash = fleet_hash,
                                .gateway_url = command_option("--gateway")};
    starter_config(&o, &config);
    starter_prices(&prices);
    /* the configuration last: a run that died in between can be repeated after removing what it says is there
     */
    int code = write_file(folder, "gateway.secret", 0600, buf_view(&secret));
    if (code == EXIT_DONE)
        code = write_file(folder, "key", 0600, buf_view(&owner_line));
    if (code == EXIT_DONE)
        code = write_file(folder, "fleet.key", 0600, buf_view(&fleet_line));
    if (code == EXIT_DONE)
        code = write_file(folder, "prices.yaml", 0644, buf_view(&prices));
    if (code == EXIT_DONE)
        code = write_file(folder, "reeve.yaml", 0600, buf_view(&config));
    if (code == EXIT_DONE)
        (void)printf("%s/reeve.yaml, prices.yaml, key (tenant demo, owner), fleet.key and gateway.secret are "
                     "written.\n"
                     "Start it: reeve serve -c %s/reeve.yaml\n",
                     folder, folder);
    mem_wipe(owner, sizeof owner);
    mem_wipe(fleet, sizeof fleet);
    buf_fini(&config);
    buf_fini(&prices);
    buf_wipe(&secret);
    buf_wipe(&owner_line);
    buf_wipe(&fleet_line);
    return code;
}

static const struct option_row serve_options[] = {
    {"-c", "FILE", "the configuration; default reeve.yaml"},
    {"--log", "FORM", "json or human; default: by the terminal"},
    {"--log-level", "LEVEL", "debug, info (default) or warn"},
    {NULL, NULL, NULL}};
static const struct option_row check_options[] = {{"-c", "FILE", "the configuration; default reeve.yaml"},
                                                  {NULL, NULL, NULL}};
static const struct option_row init_options[] = {
    {"--listen", "ADDRESS", "default 127.0.0.1:8700"},
    {"--gateway", "URL", "where the demo tenant's model calls go"},
    {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"serve", NULL, "", "run the controller", 0, 0, serve_options, serve},
    {"check", NULL, "[FILE]", "say everything that is wrong with a configuration", 0, 1, check_options,
     check},
    {"init", NULL, "[FOLDER]", "write a starter configuration with its keys", 0, 1, init_options, init},
};
const struct command_set commands_serve = {rows, ARRAY_LEN(rows)};
