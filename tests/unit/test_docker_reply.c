/* What a Docker engine answers, taken apart: samples of an engine 20.10, and answers that are not what they
 * should be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/core/mem.h"
#include "providers/docker_reply.h"

#define ID "f608ab391addf608ab391addf608ab391addf608ab391addf608ab391addaaaa"
#define LABELS                                                                                               \
    "{\"reeve.controller\":\"ctl_a\",\"reeve.workspace\":\"ws_b\",\"reeve.generation\":\"3\",\"x\":\"y\"}"

static struct docker_container inspected(const char *text, struct arena *a)
{
    struct docker_container c = {0};
    struct err err = {0};
    if (docker_inspect_parse(slice_str(text), a, &c, &err) != 0)
        fail_msg("%s", err.msg);
    return c;
}

static void test_inspect(void **state)
{
    struct arena a = ARENA_INIT;
    (void)state;
    struct docker_container c =
        inspected("{\"Id\":\"" ID
                  "\",\"Name\":\"/reeve-ws-b-g3\",\"Created\":\"2026-11-02T09:47:58.123456789Z\",\"State\":{"
                  "\"Status\":\"running\",\"Pid\":4711,\"ExitCode\":0,\"OOMKilled\":false,\"Error\":\"\"},"
                  "\"HostConfig\":{"
                  "\"Memory\":536870912},\"Config\":{\"Labels\":" LABELS
                  ",\"Env\":[\"PATH=/x\",\"A=b=c\"]},\"Mounts\":[{"
                  "\"Destination\":\"/run/reeve\",\"Source\":\"/a\"},{\"Destination\":\"/home/"
                  "agent\",\"Source\":\"/v/_data\"}]}",
                  &a);
    assert_int_equal(c.status, DOCKER_RUNNING);
    assert_int_equal(c.pid, 4711);
    assert_true(slice_eq_str(c.name, "ws-b-g3"));
    assert_true(slice_eq_str(c.labels.controller, "ctl_a") && slice_eq_str(c.labels.workspace, "ws_b"));
    assert_int_equal(c.labels.generation, 3);
    assert_int_equal(c.memory_bytes, 536870912);
    assert_int_equal(c.created_at_ms % 1000, 123);
    assert_int_equal(c.n_env, 2);
    assert_true(slice_eq_str(c.env[1], "A=b=c") && slice_eq_str(c.home_source, "/v/_data"));
    assert_true(slice_eq_str(c.control_source, "/a") && c.init_source.n == 0);

    /* A number of a process that is gone is none; a foreign name is none of ours. */
    c = inspected(
        "{\"Id\":\"" ID
        "\",\"Name\":\"/somebody\",\"State\":{\"Status\":\"exited\",\"Pid\":4711,\"ExitCode\":"
        "137,\"OOMKilled\":true,\"Error\":\"line one\\nline \\u0007two\"},\"Config\":{\"Labels\":null}}",
        &a);
    assert_int_equal(c.pid, 0);
    assert_true(c.is_oom_killed && c.exit_code == 137 && c.name.n == 0 && c.labels.controller.n == 0);
    assert_true(slice_eq_str(c.error, "line one line ?two"));
    arena_fini(&a);
}

static void test_answers_that_are_none(void **state)
{
    static const char *const bad[] = {"",
                                      "nonsense",
                                      "[]",
                                      "{}",
                                      "{\"Id\":\"../../etc\",\"State\":{\"Status\":\"running\",\"Pid\":1}}",
                                      "{\"Id\":\"" ID "\",\"State\":{\"Status\":\"running\",\"Pid\":-1}}",
                                      "{\"Id\":\"" ID
                                      "\",\"State\":{\"Status\":\"running\",\"Pid\":99999999999}}",
                                      "{\"Id\":\"" ID "\",\"State\":{\"Status\":\"running\",\"Pid\":1.5}}",
                                      "{\"Id\":\"" ID "\",\"State\":{\"Status\":\"odd\",\"Pid\":1}}"};
    struct arena a = ARENA_INIT;
    struct docker_container c, *all;
    size_t n;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = {0};
        assert_int_equal(docker_inspect_parse(slice_str(bad[i]), &a, &c, &err), E_UPSTREAM);
        assert_memory_equal(err.msg, "the Docker engine's answer (inspect)", 36);
    }
    assert_int_equal(docker_list_parse(SL("{}"), &a, &all, &n, NULL), E_UPSTREAM);
    assert_int_equal(docker_list_parse(SL("[{\"Id\":\"" ID "\"}]"), &a, &all, &n, NULL), E_UPSTREAM);
    arena_fini(&a);
}

/* Names that are not ours, and ours without labels, are nobody's here. */
static void test_list(void **state)
{
    struct arena a = ARENA_INIT;
    struct docker_container *all = NULL;
    size_t n = 0;
    (void)state;
    assert_int_equal(
        docker_list_parse(SL("[{\"Id\":\"" ID "\",\"Names\":[\"/x\",\"/reeve-one\"],\"State\":\"paused\","
                             "\"Created\":1793612878,\"Labels\":" LABELS "},"
                             "{\"Id\":\"" ID "\",\"Names\":[\"/reeve-two\"],\"State\":\"exited\","
                             "\"Labels\":{}},"
                             "{\"Id\":\"" ID "\",\"Names\":[\"/other\"],\"State\":\"running\","
                             "\"Labels\":" LABELS "}]"),
                          &a, &all, &n, NULL),
        0);
    assert_int_equal(n, 1);
    assert_true(slice_eq_str(all[0].name, "one") && all[0].status == DOCKER_PAUSED);
    assert_int_equal(all[0].created_at_ms, 1793612878000);
    assert_int_equal(docker_list_parse(SL("[]"), &a, &all, &n, NULL), 0);
    assert_int_equal(n, 0);
    arena_fini(&a);
}

/* The highest version that both know; where there is none, which one is needed. */
static void test_version(void **state)
{
    static const struct {
        const char *max, *min;
        unsigned minor; /* 0: refused */
    } all[] = {{"1.41", "1.12", 41}, {"1.47", "1.24", 47}, {"1.56", "1.44", 47},
               {"1.40", "1.12", 0},  {"1.99", "1.48", 0},  {"2.0", "1.12", 0}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct arena a = ARENA_INIT;
        struct err err = {0};
        unsigned minor = 0;
        char *text =
            arena_printf(&a, "{\"ApiVersion\":\"%s\",\"MinAPIVersion\":\"%s\"}", all[i].max, all[i].min);
        int code = docker_version_parse(slice_str(text), &minor, &err);
        assert_int_equal(minor, all[i].minor);
        assert_int_equal(code == 0, all[i].minor != 0);
        arena_fini(&a);
    }
}

static void test_limits_of_the_engine(void **state)
{
    char note[256];
    (void)state;
    assert_int_equal(docker_info_parse(SL("{\"MemoryLimit\":true,\"SwapLimit\":true,\"CpuCfsQuota\":true,"
                                          "\"PidsLimit\":true}"),
                                       note, NULL),
                     0);
    assert_string_equal(note, "disk: not limited");
    assert_int_equal(docker_info_parse(SL("{\"MemoryLimit\":true,\"SwapLimit\":false,\"CPUCfsQuota\":false,"
                                          "\"PidsLimit\":true}"),
                                       note, NULL),
                     0);
    assert_string_equal(note, "swap, cpus: the engine's kernel does not limit them; disk: not limited");
}

static void test_streams(void **state)
{
    struct arena a = ARENA_INIT;
    struct docker_event v;
    struct docker_progress p;
    (void)state;
    assert_int_equal(
        docker_event_parse(SL("{\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"name\":\"reeve-one\","
                              "\"reeve.workspace\":\"ws_b\",\"exitCode\":\"137\"}}}"),
                           &a, &v, NULL),
        0);
    assert_true(slice_eq_str(v.action, "die") && slice_eq_str(v.sandbox, "one") &&
                slice_eq_str(v.workspace, "ws_b"));
    assert_int_equal(
        docker_event_parse(SL("{\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"name\":\"x\"}}}"), &a, &v,
                           NULL),
        E_NOT_FOUND);
    assert_int_equal(docker_event_parse(SL("{\"Actor\":{}}"), &a, &v, NULL), E_UPSTREAM);
    assert_int_equal(
        docker_progress_parse(SL("{\"status\":\"Downloading\",\"progressDetail\":{\"current\":5,\"total\":"
                                 "9},\"id\":\"a2abf6c4d29d\"}"),
                              &a, &p, NULL),
        0);
    assert_true(p.current == 5 && p.total == 9 && slice_eq_str(p.layer, "a2abf6c4d29d") && p.error.n == 0);
    assert_int_equal(docker_progress_parse(SL("{\"errorDetail\":{\"message\":\"no\"}}"), &a, &p, NULL), 0);
    assert_true(slice_eq_str(p.error, "no"));
    arena_fini(&a);
}

static void test_texts(void **state)
{
    struct arena a = ARENA_INIT;
    (void)state;
    assert_true(slice_eq_str(docker_message(SL("{\"message\":\"No such\\nimage\"}"), &a), "No such image"));
    assert_true(slice_eq_str(docker_message(SL("<html>"), &a), "<html>"));
    assert_true(slice_eq_str(docker_message(SLICE_EMPTY, &a), "no reason given"));
    assert_true(slice_eq_str(docker_logs_text(SL("\2\0\0\0\0\0\0\7no way\n\1\0\0\0\0\0\0\5hello"), &a),
                             "no way hello"));
    assert_true(slice_eq_str(docker_logs_text(SL("\2\0\0\0\xff\xff\xff\xffshort"), &a), "short"));
    assert_true(slice_eq_str(docker_logs_text(SL("\2\0\0"), &a), ""));
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_inspect),
                                       cmocka_unit_test(test_answers_that_are_none),
                                       cmocka_unit_test(test_list),
                                       cmocka_unit_test(test_version),
                                       cmocka_unit_test(test_limits_of_the_engine),
                                       cmocka_unit_test(test_streams),
                                       cmocka_unit_test(test_texts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
