/* The tables of routes: patterns, and what of a sandbox's server which role may reach. */
#include "controller/edge/route.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/core/mem.h"
#include "controller/edge/proxied.h"

static void patterns(void **state)
{
    (void)state;
    struct slice p[REQUEST_PARAMS_MAX];
    assert_true(route_match("/v1/workspaces/{namespace}/{name}", SL("/v1/workspaces/alice/dev"), p));
    assert_true(slice_eq_str(p[0], "alice"));
    assert_true(slice_eq_str(p[1], "dev"));
    assert_false(route_match("/v1/workspaces/{namespace}/{name}", SL("/v1/workspaces/alice/"), p));
    assert_false(route_match("/v1/workspaces/{namespace}/{name}", SL("/v1/workspaces/alice/dev/"), p));
    assert_false(route_match("/v1/workspaces/{namespace}/{name}", SL("/v1/workspaces//dev"), p));
    assert_false(route_match("/v1/workspaces", SL("/v1/workspacesx"), p));
    assert_false(route_match("/v1/workspaces", SL("*"), p));
}

/* No two rows answer the same request: the first would hide the second. */
static void rows_are_unique(void **state)
{
    (void)state;
    for (size_t s = 0; route_sets[s] != NULL; s++)
        for (size_t i = 0; i < route_sets[s]->n; i++)
            for (size_t s2 = s; route_sets[s2] != NULL; s2++)
                for (size_t k = s2 == s ? i + 1 : 0; k < route_sets[s2]->n; k++)
                    assert_false(strcmp(route_sets[s]->rows[i].method, route_sets[s2]->rows[k].method) == 0 &&
                                 strcmp(route_sets[s]->rows[i].pattern, route_sets[s2]->rows[k].pattern) ==
                                     0);
}

static int reach(const char *method, const char *path, const char *query, enum role role)
{
    struct slice param;
    const struct proxied_route *row = proxied_find(slice_str(method), slice_str(path), &param);
    return row == NULL ? E_NOT_FOUND
                       : proxied_authorise(row, role, query != NULL ? slice_str(query) : SLICE_NULL, NULL);
}

static void viewers_only_read(void **state)
{
    (void)state;
    assert_int_equal(reach("GET", "/v1/health", NULL, ROLE_VIEWER), 0);
    assert_int_equal(reach("GET", "/v1/processes/proc_1/logs", "follow=true", ROLE_VIEWER), 0);
    assert_int_equal(reach("GET", "/v1/fs/file", "path=notes%2Fa+b.txt", ROLE_VIEWER), 0);
    assert_int_equal(reach("GET", "/v1/fs/file", "path=/home/agent/x", ROLE_VIEWER), 0);
    static const struct {
        const char *method, *path, *query;
    } refused[] = {
        {"PUT", "/v1/fs/file", "path=x"},
        {"POST", "/v1/processes/run", NULL},
        {"POST", "/v1/acp/a", "agent=mock"},
        {"GET", "/v1/acp/a", NULL},
        {"GET", "/v1/processes/proc_1/terminal/ws", NULL},
        {"GET", "/v1/agents", "config=true"},
        {"GET", "/v1/processes/config", NULL},
        {"GET", "/v1/config/mcp", "directory=x"},
        {"GET", "/v1/fs/file", "path=/proc/1/environ"},
        {"GET", "/v1/fs/file", "path=%2Fproc%2F1%2Fenviron"},
        {"GET", "/v1/fs/file", "path=/home/agent/../../proc/1/environ"},
        {"GET", "/v1/fs/file", "path=..%2F..%2Fproc%2Fself%2Fenviron"},
        {"GET", "/v1/fs/file", "path=/home/agentx/a"},
        {"GET", "/v1/fs/file", "path=a&path=/proc/1/environ"},
        {"GET", "/v1/fs/file", "path=a&%70ath=/proc/1/environ"},
        {"GET", "/v1/fs/file", "path=a%00b"},
        {"GET", "/v1/fs/file", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        assert_int_equal(reach(refused[i].method, refused[i].path, refused[i].query, ROLE_VIEWER),
                         E_FORBIDDEN);
}

static void members_are_not_owners(void **state)
{
    (void)state;
    assert_int_equal(reach("POST", "/v1/processes/run", NULL, ROLE_MEMBER), 0);
    assert_int_equal(reach("GET", "/v1/fs/file", "path=/proc/1/environ", ROLE_MEMBER), 0);
    assert_int_equal(reach("POST", "/v1/processes/config", NULL, ROLE_MEMBER), E_FORBIDDEN);
    assert_int_equal(reach("POST", "/v1/agents/claude/install", NULL, ROLE_MEMBER), E_FORBIDDEN);
    assert_int_equal(reach("POST", "/v1/processes/config", NULL, ROLE_OWNER), 0);
}

/* What is not in the table, or could be routed otherwise inside than it was judged here. */
static void the_rest_is_refused(void **state)
{
    (void)state;
    static const char *const paths[] = {"/",
                                        "/ui/",
                                        "/ui/index.html",
                                        "/opencode/session",
                                        "/v1/unknown",
                                        "//v1/health",
                                        "/v1//health",
                                        "/v1/./health",
                                        "/v1/../v1/health",
                                        "/v1/processes/%63onfig",
                                        "/v1/processes/a%2Fb",
                                        "/v1/processes/a;b",
                                        "/v1/health/"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        assert_int_equal(reach("GET", paths[i], NULL, ROLE_OWNER), E_NOT_FOUND);
    assert_int_equal(reach("TRACE", "/v1/health", NULL, ROLE_OWNER), E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns),
        cmocka_unit_test(rows_are_unique),
        cmocka_unit_test(viewers_only_read),
        cmocka_unit_test(members_are_not_owners),
        cmocka_unit_test(the_rest_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
