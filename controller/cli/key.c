/* key: reeve key new (offline: for the configuration file), create, ls, revoke (over the API). */
#include "controller/cli/command.h"

#include "base/core/crypto.h"
#include "base/core/id.h"
#include "base/core/mem.h"

#include <stdio.h>
#include <string.h>

static int new_key(const struct command *cmd)
{
    (void)cmd;
    char id[TOKEN_ID_MAX], text[TOKEN_TEXT_MAX], hash[SHA256_HEX_SIZE];
    const char *name = command_argument(0) != NULL ? command_argument(0) : "backend";
    const char *role = command_option("--role") != NULL ? command_option("--role") : "owner";
    token_id_new(&rnd_system, id);
    token_new(&rnd_system, "rvk", slice_str(id), text);
    sha256_hex(slice_str(text), hash);
    if (command_wants_json())
        (void)printf("{\"key\":\"%s\",\"hash\":\"sha256:%s\"}\n", text, hash);
    else
        (void)printf(
            "%s\n\n# its line under `keys:` in reeve.yaml\n- {name: %s, role: %s, hash: \"sha256:%s\"}\n",
            text, name, role, hash);
    mem_wipe(text, sizeof text);
    return EXIT_DONE;
}

static int create(const struct command *cmd)
{
    (void)cmd;
    struct buf body = BUF_INIT(16384);
    struct jsonw w;
    struct api_answer a;
    const char *namespaces = command_option("--namespaces");
    jsonw_init(&w, &body);
    jsonw_object(&w);
    jsonw_kstr(&w, "name", command_argument(0));
    jsonw_kstr(&w, "role", command_option("--role") != NULL ? command_option("--role") : "member");
    if (namespaces != NULL) {
        struct slice rest = slice_str(namespaces), one;
        jsonw_key(&w, "namespaces");
        jsonw_array(&w);
        for (bool more = true; more;) {
            more = slice_cut(&rest, ',', &one);
            jsonw_slice(&w, one);
        }
        jsonw_array_end(&w);
    }
    jsonw_object_end(&w);
    int code = api_call("POST", "/v1/keys", buf_view(&body), &a);
    buf_fini(&body);
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json())
        api_print_json(&a);
    else
        (void)printf("%.*s\n", SL_ARG(json_string(json_get(a.json, "key"))));
    api_answer_fini(&a);
    return EXIT_DONE;
}

static int list(const struct command *cmd)
{
    (void)cmd;
    static const char *const heads[] = {"ID", "NAME", "ROLE", "NAMESPACES", "CREATED"};
    struct api_answer a;
    int code = api_call("GET", "/v1/keys", SLICE_NULL, &a);
    if (code != EXIT_DONE)
        return code;
    if (command_wants_json()) {
        api_print_json(&a);
    } else {
        struct table t;
        table_init(&t, heads, ARRAY_LEN(heads));
        JSON_FOREACH (it, json_get(a.json, "items")) {
            struct buf all = BUF_INIT(4096);
            JSON_FOREACH (ns, json_get(it, "namespaces")) {
                (void)buf_printf(&all, "%s%.*s", all.n > 0 ? "," : "", SL_ARG(json_string(ns)));
            }
            table_row(&t);
            table_cell(&t, 0, json_string(json_get(it, "id")));
            table_cell(&t, 1, json_string(json_get(it, "name")));
            table_cell(&t, 2, json_string(json_get(it, "role")));
            table_cell(&t, 3, all.n > 0 ? buf_view(&all) : SL("*"));
            table_cell(&t, 4, json_string(json_get(it, "created_at")));
            buf_fini(&all);
        }
        table_print(&t);
    }
    api_answer_fini(&a);
    return EXIT_DONE;
}

static int revoke(const struct command *cmd)
{
    (void)cmd;
    struct api_answer a;
    char path[128];
    (void)snprintf(path, sizeof path, "/v1/keys/%s", command_argument(0));
    int code = api_call("DELETE", path, SLICE_NULL, &a);
    if (code == EXIT_DONE)
        api_answer_fini(&a);
    return code;
}

static const struct option_row new_options[] = {{"--role", "ROLE", "in the printed line; default owner"},
                                                {"--json", NULL, "key and hash as JSON"},
                                                {NULL, NULL, NULL}};
static const struct option_row create_options[] = {{"--role", "ROLE", "owner, member (default) or viewer"},
                                                   {"--namespaces", "A,B", "only these; default: all"},
                                                   OPTION_JSON,
                                                   {NULL, NULL, NULL}};
static const struct option_row json_options[] = {OPTION_JSON, {NULL, NULL, NULL}};

static const struct command rows[] = {
    {"key", "new", "[NAME]", "make a key for the configuration file, offline", 0, 1, new_options, new_key},
    {"key", "create", "NAME", "make a key of the tenant; shown once", 1, 1, create_options, create},
    {"key", "ls", "", "keys made over the API", 0, 0, json_options, list},
    {"key", "revoke", "ID", "revoke a key", 1, 1, NULL, revoke},
};
const struct command_set commands_key = {rows, ARRAY_LEN(rows)};
