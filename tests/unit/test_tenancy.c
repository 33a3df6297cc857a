/* tenancy: what a valid file gives, every refusal of data/config/bad, secrets that stay secret, reload. */
#include "config/tenancy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/err.h"
#include "base/core/mem.h"
#include "config/settings.h"
#include "config/source.h"
#include "config/starter.h"

#define DATA "tests/unit/data/config/"

struct loaded {
    struct config_problems problems;
    struct buf printed;
    struct tenancy *t;
    int code;
};

static void loaded_check(struct loaded *l)
{
    buf_init(&l->printed, 1 << 20);
    config_problems_print(&l->problems, &l->printed);
    assert_int_equal(l->code == 0, l->problems.n == 0);
    assert_int_equal(l->code == 0, l->t != NULL);
}

static void load(struct loaded *l, const char *path)
{
    l->t = NULL;
    config_problems_init(&l->problems);
    l->code = tenancy_load(path, &l->problems, &l->t);
    loaded_check(l);
}

static void load_text(struct loaded *l, struct slice text)
{
    l->t = NULL;
    config_problems_init(&l->problems);
    l->code = tenancy_parse(DATA "text.yaml", text, &l->problems, &l->t);
    loaded_check(l);
}

static void loaded_fini(struct loaded *l)
{
    tenancy_unref(l->t);
    config_problems_fini(&l->problems);
    buf_fini(&l->printed);
}

/* Without the folder, wherever it stands. */
static void cut_folder(const char *text, const char *folder, struct buf *out)
{
    for (const char *at; (at = strstr(text, folder)) != NULL; text = at + strlen(folder))
        (void)buf_append(out, text, (size_t)(at - text));
    (void)buf_str(out, text);
}

static void load_full(struct loaded *l)
{
    load(l, DATA "full.yaml");
    if (l->code != 0)
        fail_msg("%s", buf_cstr(&l->printed));
}

static void read_text(const char *path, struct buf *out)
{
    struct err err = {0};
    if (source_read(path, 1 << 20, out, &err) != 0)
        fail_msg("%s: %s", path, err.msg);
}

#define assert_slice(s, text)                                                                                \
    assert_string_equal(((s).p == NULL ? "(null)" : arena_slice(&l.t->arena, (s)).p), (text))

static void test_paths_and_listeners(void **state)
{
    (void)state;
    struct loaded l;
    char cwd[4096], want[4200];
    assert_non_null(getcwd(cwd, sizeof(cwd)));
    load_full(&l);
    assert_int_equal(l.t->n_listen, 6);
    assert_slice(l.t->listen[0].address, "127.0.0.1:8700");
    assert_false(l.t->listen[0].probes);
    assert_slice(l.t->listen[1].address, "[::1]:8701");
    assert_true(l.t->listen[1].probes);
    (void)snprintf(want, sizeof(want), "unix:%s/" DATA "reeve.sock", cwd);
    assert_slice(l.t->listen[2].address, want);
    assert_slice(l.t->listen[3].address, "10.0.0.1:443");
    assert_int_equal(l.t->listen[2].n_tls, 0);
    assert_int_equal(l.t->listen[3].n_tls, 1);
    assert_int_equal(l.t->listen[4].n_tls, 2);
    assert_non_null(strstr(l.t->listen[4].tls[1].cert_pem.p, "BEGIN CERTIFICATE"));
    (void)snprintf(want, sizeof(want), "%s/" DATA "listener.key", cwd);
    assert_slice(l.t->listen[4].tls[1].key_file, want);
    assert_slice(l.t->public_url, "https://reeve.example.org/base");
    (void)snprintf(want, sizeof(want), "%s/" DATA "data", cwd);
    assert_slice(l.t->data_dir, want);
    (void)snprintf(want, sizeof(want), "%s/" DATA "keys/seal.key", cwd);
    assert_slice(l.t->seal_key_file, want);
    assert_slice(l.t->store, "sqlite");
    (void)snprintf(want, sizeof(want), "%s/" DATA "prices.yaml", cwd);
    assert_slice(l.t->prices.files[0].path, want);
    assert_false(l.t->prices.deny_unpriced);
    assert_slice(yaml_get(l.t->prices.files[0].root, "currency")->text, "USD");
    loaded_fini(&l);
}

static void test_sections(void **state)
{
    (void)state;
    struct loaded l;
    load_full(&l);
    const struct config_provider *p = tenancy_provider(l.t, SL("local"));
    assert_slice(p->agent_binary, "/opt/sandbox-agent");
    assert_int_equal(p->uid_first, 300000);
    assert_int_equal(p->uid_count, 500);
    p = tenancy_provider(l.t, SL("spare"));
    assert_int_equal(p->uid_first, 200000);
    assert_int_equal(p->uid_count, 1000);
    const struct config_gateway *g = tenancy_gateway(l.t, SL("main"));
    assert_int_equal(g->kind, GATEWAY_PLAIN);
    assert_slice(g->url, "http://127.0.0.1:4000/v1");
    assert_slice(g->secret, "s3cret-of-the-gateway");
    assert_int_equal(g->ca_pem.n, 0);
    g = tenancy_gateway(l.t, SL("outside"));
    assert_slice(g->url, "https://llm.example.org");
    assert_non_null(strstr(g->ca_pem.p, "BEGIN CERTIFICATE"));
    const struct config_template *t = tenancy_template(l.t, SL("coding"));
    assert_int_equal(t->n_providers, 2);
    assert_ptr_equal(t->providers[0], p);
    assert_true(t->cpus_milli == 500);
    assert_int_equal(t->memory_bytes, 3ull << 29);
    assert_int_equal(t->disk_bytes, 10000000000ull);
    assert_int_equal(t->processes, 512);
    assert_slice(t->network_mode, "sealed");
    assert_int_equal(t->n_agents, 2);
    assert_slice(t->agents[1], "codex");
    assert_int_equal(t->n_env, 3);
    assert_slice(t->env[1].value, "no");
    assert_int_equal(t->env[2].value.n, 0);
    assert_int_equal(t->suspend_after_ms, 90 * 60000);
    t = tenancy_template(l.t, SL("bare"));
    assert_true(t->cpus_milli == 0 && t->memory_bytes == 0 && t->suspend_after_ms == 0 && t->n_env == 0);
    assert_slice(t->network_mode, "sealed");
    assert_null(tenancy_template(l.t, SL("nope")));
    assert_null(tenancy_template(l.t, SLICE_EMPTY));
    loaded_fini(&l);
}

static void test_tenants(void **state)
{
    (void)state;
    struct loaded l;
    load_full(&l);
    const struct config_tenant *acme = tenancy_tenant(l.t, SL("acme")),
                               *globex = tenancy_tenant(l.t, SL("globex"));
    assert_ptr_equal(acme->gateway, tenancy_gateway(l.t, SL("main")));
    assert_null(globex->gateway);
    assert_int_equal(strlen(acme->id), 12);
    assert_int_equal(strspn(acme->id, "abcdefghijklmnopqrstuvwxyz234567"), 12);
    assert_ptr_equal(tenancy_tenant_by_id(l.t, slice_str(acme->id)), acme);
    assert_null(tenancy_tenant_by_id(l.t, SL("acme")));
    assert_ptr_equal(tenant_template(acme, SLICE_EMPTY), tenancy_template(l.t, SL("coding")));
    assert_ptr_equal(tenant_template(acme, SL("bare")), tenancy_template(l.t, SL("bare")));
    assert_null(tenant_template(globex, SL("coding")));
    assert_int_equal(acme->quota_workspaces, 500);
    assert_int_equal(acme->quota_running, 50);
    assert_int_equal(acme->quota_creates_per_minute, 60);
    assert_int_equal(acme->quota_namespace_running, 3);
    assert_int_equal(globex->quota_running, 0);
    assert_int_equal(acme->n_budgets, 3);
    char text[I128_TEXT_MAX];
    (void)i128_format(acme->budgets[0].limit, 18, text);
    assert_string_equal(text, "500");
    assert_string_equal(acme->budgets[0].currency, "USD");
    assert_slice(acme->budgets[0].timezone, "Europe/Berlin");
    assert_int_equal(acme->budgets[1].scope, SCOPE_NAMESPACE);
    assert_true(acme->budgets[1].limit == 1);
    assert_int_equal(acme->budgets[1].window, WINDOW_DAY);
    assert_slice(acme->budgets[1].timezone, "UTC");
    assert_int_equal(acme->budgets[2].window, WINDOW_WEEK);
    loaded_fini(&l);
}

static void test_keys(void **state)
{
    (void)state;
    struct loaded l;
    load_full(&l);
    unsigned char hash[SHA256_BYTES] = {0};
    const struct config_tenant *tenant = (const struct config_tenant *)1;
    hash[31] = 1;
    const struct config_key *key = tenancy_key(l.t, hash, &tenant);
    assert_slice(key->name, "operations");
    assert_int_equal(key->role, ROLE_OWNER);
    assert_null(tenant);
    assert_int_equal(key->n_namespaces, 1);
    assert_slice(key->namespaces[0], "*");
    hash[31] = 0xff;
    key = tenancy_key(l.t, hash, &tenant);
    assert_slice(key->name, "alice");
    assert_int_equal(key->role, ROLE_MEMBER);
    assert_ptr_equal(tenant, tenancy_tenant(l.t, SL("acme")));
    assert_int_equal(key->n_namespaces, 2);
    assert_slice(key->namespaces[1], "shared");
    hash[31] = 4;
    key = tenancy_key(l.t, hash, &tenant);
    assert_slice(key->namespaces[0], "*"); /* the default */
    hash[0] = 1;
    assert_null(tenancy_key(l.t, hash, &tenant));
    loaded_fini(&l);
}

/* Each file of bad/ beside the exact text that `reeve check` prints for it. */
static void test_every_problem_at_once(void **state)
{
    (void)state;
    static const char *const names[] = {"docker", "empty",   "everything", "later",      "listen",
                                        "latin1", "network", "numbers",    "references", "sections",
                                        "strict", "tab",     "unclosed"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct loaded l;
        struct buf expected, printed = BUF_INIT(1 << 20);
        char path[256];
        (void)snprintf(path, sizeof(path), DATA "bad/%s.yaml", names[i]);
        load(&l, path);
        (void)snprintf(path, sizeof(path), DATA "bad/%s.expected", names[i]);
        read_text(path, &expected);
        cut_folder(buf_cstr(&l.printed), DATA "bad/", &printed);
        assert_int_equal(l.code, E_INVALID);
        assert_string_equal(buf_cstr(&printed), buf_cstr(&expected));
        assert_null(strstr(buf_cstr(&l.printed), "hunter2")); /* what stands there for a secret */
        buf_fini(&expected);
        buf_fini(&printed);
        loaded_fini(&l);
    }
}

static void test_file_that_cannot_be_read(void **state)
{
    (void)state;
    struct loaded l;
    load(&l, DATA "none.yaml");
    assert_string_equal(buf_cstr(&l.printed), DATA "none.yaml: cannot read it: No such file or directory\n");
    loaded_fini(&l);
    load(&l, "tests/unit/data");
    assert_string_equal(buf_cstr(&l.printed), "tests/unit/data: cannot read it: it is a folder\n");
    loaded_fini(&l);
    load(&l, "/dev/zero");
    assert_string_equal(buf_cstr(&l.printed), "/dev/zero: cannot read it: it is not a regular file\n");
    loaded_fini(&l);
}

#define SMALL(extra)                                                                                         \
    SL("data_dir: /d\nproviders: {l: {kind: local}}\ntemplates: {t: {providers: [l]}}\ntenants: {a: "        \
       "{templates: [t]}}\n" extra)

static void test_defaults(void **state)
{
    (void)state;
    struct loaded l;
    load_text(&l, SMALL(""));
    assert_int_equal(l.code, 0);
    assert_int_equal(l.t->n_listen, 1);
    assert_slice(l.t->listen[0].address, "127.0.0.1:8700");
    assert_slice(l.t->public_url, "http://127.0.0.1:8700");
    assert_slice(l.t->store, "sqlite");
    assert_slice(l.t->data_dir, "/d");
    assert_slice(l.t->seal_key_file, "/d/seal.key");
    assert_true(l.t->prices.deny_unpriced);
    assert_int_equal(l.t->prices.n_files, 0);
    loaded_fini(&l);
}

static void test_listeners(void **state)
{
    (void)state;
    static const struct {
        struct slice text;
        const char *url;
    } good[] = {
        {SMALL("listen: localhost:0\n"), ""},
        {SMALL("listen: [unix:/run/r.sock, \"[::1]:80\"]\n"), "http://[::1]:80"},
        {SMALL("listen: {address: 127.9.9.9:1, probes: true}\n"), "http://127.9.9.9:1"},
        {SMALL("listen: [127.0.0.1:0, 127.0.0.1:0]\n"), ""},
        {SMALL("listen: unix:/run/r.sock\npublic_url: http://h\n"), "http://h"},
        {SMALL("listen: {address: 10.0.0.1:443, tls: {cert: listener.pem, key: listener.key}}\n"),
         "https://10.0.0.1:443"},
        {SMALL("listen: {address: 10.0.0.1:80, plain_http: allowed}\n"), "http://10.0.0.1:80"},
        {SMALL("listen: {address: 0.0.0.0:80, plain_http: allowed}\npublic_url: http://h\n"), "http://h"},
    };
    static const struct slice bad[] = {
        SMALL("listen: 0.0.0.0:80\n"),
        SMALL("listen: \"[::]:80\"\n"),
        SMALL("listen: 10.0.0.1:80\n"),
        SMALL("listen: {address: 0.0.0.0:80, plain_http: allowed}\n"), /* and no public_url */
        SMALL(
            "listen: {address: \"[::]:80\", tls: {cert: listener.pem, key: listener.key}}\n"), /* likewise */
        SMALL("listen: :80\n"),
        SMALL("listen: \"*:80\"\n"),
        SMALL("listen: 127.0.0.1\n"),
        SMALL("listen: 127.0.0.1:\n"),
        SMALL("listen: 127.0.0.1:65536\n"),
        SMALL("listen: 127.1:80\n"),
        SMALL("listen: example.org:80\n"),
        SMALL("listen: 8700\n"),
        SMALL("listen: \"unix:\"\n"),
        SMALL("listen: unix:/r\n"), /* no TCP listener and no public_url */
        SMALL("listen: [127.0.0.1:80, {address: 127.0.0.1:80}]\n"),
        SMALL("listen: [[127.0.0.1:80]]\n"),
        SMALL("listen: \"[::ffff:127.0.0.1]:80\"\n"),
        SMALL("listen: "
              "unix:/"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaa\npublic_url: http://h\n"),
    };
    struct loaded l;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        load_text(&l, good[i].text);
        if (l.code != 0)
            fail_msg("good %zu: %s", i, buf_cstr(&l.printed));
        assert_slice(l.t->public_url, good[i].url);
        loaded_fini(&l);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        load_text(&l, bad[i]);
        if (l.code == 0 || l.problems.n != 1)
            fail_msg("bad %zu: %s", i, buf_cstr(&l.printed));
        loaded_fini(&l);
    }
}

static void test_urls(void **state)
{
    (void)state;
    static const struct slice bad[] = {
        SMALL("public_url: example.org\n"),       SMALL("public_url: http://\n"),
        SMALL("public_url: http://a b\n"),        SMALL("public_url: http://h?x=1\n"),
        SMALL("public_url: \"http://h#x\"\n"),    SMALL("public_url: http://u:p@h\n"),
        SMALL("public_url: http://h:0\n"),        SMALL("public_url: http://h:99999\n"),
        SMALL("public_url: http://h/../x\n"),     SMALL("public_url: \"http://h\\nX: y\"\n"),
        SMALL("public_url: http://-h\n"),         SMALL("public_url: http://h..x\n"),
        SMALL("public_url: \"http://[::1\"\n"),   SMALL("public_url: ws://h\n"),
        SMALL("public_url: \"http://h\\\\x\"\n"),
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct loaded l;
        load_text(&l, bad[i]);
        if (l.code == 0 || l.problems.n != 1)
            fail_msg("bad %zu: %s", i, buf_cstr(&l.printed));
        loaded_fini(&l);
    }
}

static void test_references_to_secrets(void **state)
{
    (void)state;
    struct loaded l;
    load_text(&l, SMALL("gateways: {g: {kind: plain, url: \"http://h\", secret: env:PATH}}\n"));
    if (l.code != 0)
        fail_msg("%s", buf_cstr(&l.printed));
    assert_slice(tenancy_gateway(l.t, SL("g"))->secret, getenv("PATH"));
    loaded_fini(&l);
    load_text(&l, SMALL("gateways: {g: {kind: plain, url: \"http://h\", secret: env:SURELY_NOT_SET_1}}\n"));
    assert_non_null(
        strstr(buf_cstr(&l.printed), ": `env:SURELY_NOT_SET_1`: this environment variable is not set"));
    loaded_fini(&l);
}

static void test_env_names(void **state)
{
    (void)state;
    static const char *const good[] = {"TZ",         "_",       "a1",        "API_KEY_FILE",
                                       "MY_LD_PATH", "API_KEY", "http_proxy"};
    static const char *const bad[] = {"",           "1A",       "A-B",     "A B",
                                      "A=B",        "LD_X",     "REEVE_X", "OPENAI_API_KEY",
                                      "X_BASE_URL", "_API_KEY", "LD_",     "REEVE_"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_null(env_name_refused(slice_str(good[i])));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_non_null(env_name_refused(slice_str(bad[i])));
}

static void starter_load(const struct starter_options *o, struct loaded *l)
{
    char dir[] = "/tmp/reeve-test-XXXXXX", path[64];
    const char *const names[] = {"reeve.yaml", "prices.yaml", "gateway.secret"};
    struct buf texts[3] = {BUF_INIT(1 << 16), BUF_INIT(1 << 16), BUF_INIT(1 << 16)};
    assert_non_null(mkdtemp(dir));
    starter_config(o, &texts[0]);
    starter_prices(&texts[1]);
    (void)buf_str(&texts[2], "secret\r\n");
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_false(texts[i].is_full);
        assert_int_equal(fwrite(texts[i].p, 1, texts[i].n, f), texts[i].n);
        assert_int_equal(fclose(f), 0);
        buf_fini(&texts[i]);
    }
    (void)snprintf(path, sizeof(path), "%s/reeve.yaml", dir);
    load(l, path);
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void test_starter_is_valid(void **state)
{
    (void)state;
    const char *hashes[] = {"sha256:00000000000000000000000000000000000000000000000000000000000000aa",
                            "sha256:00000000000000000000000000000000000000000000000000000000000000bb"};
    struct starter_options o = {"127.0.0.1:8700", "data", "demo", hashes[0], hashes[1], NULL};
    struct loaded l;
    starter_load(&o, &l);
    if (l.code != 0)
        fail_msg("%s", buf_cstr(&l.printed));
    const struct config_tenant *t = tenancy_tenant(l.t, SL("demo")), *of;
    assert_slice(t->gateway->url, "http://127.0.0.1:4000");
    assert_slice(t->gateway->secret, "secret");
    assert_slice(tenant_template(t, SLICE_EMPTY)->name, "coding");
    assert_slice(t->budgets[0].name, "month");
    assert_slice(tenancy_key(l.t, t->keys[0].hash, &of)->name, "backend");
    assert_ptr_equal(of, t);
    loaded_fini(&l);
    /* Texts that need quotes. */
    o = (struct starter_options){"[::1]:8700", "/a b/\"c\\: #", "no",
                                 hashes[0],    hashes[1],       "http://[::1]:4000/x"};
    starter_load(&o, &l);
    if (l.code != 0)
        fail_msg("%s", buf_cstr(&l.printed));
    assert_slice(l.t->data_dir, "/a b/\"c\\: #");
    assert_slice(l.t->listen[0].address, "[::1]:8700");
    loaded_fini(&l);
}

static void test_restart_diff(void **state)
{
    (void)state;
    struct loaded a, b;
    struct buf out = BUF_INIT(4096);
    load_full(&a);
    load_full(&b);
    tenancy_restart_diff(a.t, b.t, &out);
    assert_string_equal(buf_cstr(&out), "");
    loaded_fini(&b);
    load_text(&b, SMALL("listen: 127.0.0.1:1\n"));
    assert_int_equal(b.code, 0);
    tenancy_restart_diff(a.t, b.t, &out);
    assert_string_equal(buf_cstr(&out), "`listen` changed: takes effect after a restart\n"
                                        "`data_dir` changed: takes effect after a restart\n"
                                        "`seal_key` changed: takes effect after a restart\n"
                                        "provider `l` is new: takes effect after a restart\n"
                                        "provider `local` is gone: takes effect after a restart\n"
                                        "provider `spare` is gone: takes effect after a restart");
    buf_reset(&out);
    loaded_fini(&a);
    load_text(&a, SMALL(""));
    loaded_fini(&b);
    load_text(&b, SL("data_dir: /d\nproviders: {l: {kind: local, uid_range: 5000+5}}\ntemplates: {t: "
                     "{providers: [l]}}\n"
                     "tenants: {b: {templates: [t]}}\n"));
    tenancy_restart_diff(a.t, b.t, &out);
    assert_string_equal(buf_cstr(&out), "provider `l` has another `uid_range`: takes effect after a restart");
    loaded_fini(&a);
    loaded_fini(&b);
    buf_fini(&out);
}

static void test_references_are_counted(void **state)
{
    (void)state;
    struct loaded l;
    load_full(&l);
    struct tenancy *mine = tenancy_ref(l.t);
    loaded_fini(&l);
    assert_non_null(tenancy_tenant(mine, SL("acme")));
    tenancy_unref(mine);
    tenancy_unref(NULL);
}

/* Whatever part of a file is there: no crash, no leak, and an answer that agrees with itself. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    struct buf text;
    read_text(DATA "full.yaml", &text);
    for (size_t n = 0; n < text.n; n += 7) {
        struct loaded l;
        load_text(&l, (struct slice){text.p, n});
        loaded_fini(&l);
        load_text(&l, slice_from(buf_view(&text), n));
        loaded_fini(&l);
    }
    buf_fini(&text);
}

static void test_line_missing_or_emptied(void **state)
{
    (void)state;
    struct buf text, part = BUF_INIT(1 << 16);
    read_text(DATA "full.yaml", &text);
    for (size_t skip = 0; skip < 60; skip++) {
        for (int keep_key = 0; keep_key < 2; keep_key++) {
            struct slice rest = buf_view(&text), line;
            buf_reset(&part);
            for (size_t i = 0; rest.n > 0; i++) {
                (void)slice_cut(&rest, '\n', &line);
                size_t colon = slice_find(line, ':');
                if (i == skip && keep_key && colon != SIZE_MAX)
                    (void)buf_printf(&part, "%.*s:\n", (int)colon, line.p);
                else if (i != skip)
                    (void)buf_printf(&part, "%.*s\n", SL_ARG(line));
            }
            struct loaded l;
            load_text(&l, buf_view(&part));
            loaded_fini(&l);
        }
    }
    buf_fini(&part);
    buf_fini(&text);
}

static void test_many_tenants(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(8 << 20);
    (void)buf_str(
        &text, "data_dir: /d\nproviders: {l: {kind: local}}\ntemplates: {t: {providers: [l]}}\ntenants:\n");
    for (unsigned i = 0; i < 5000; i++)
        (void)buf_printf(
            &text, "  t%u: {templates: [t], keys: [{name: k, role: owner, hash: \"sha256:%064x\"}]}\n", i, i);
    struct loaded l;
    load_text(&l, buf_view(&text));
    if (l.code != 0)
        fail_msg("%.400s", buf_cstr(&l.printed));
    unsigned char hash[SHA256_BYTES] = {[30] = 4999 >> 8, [31] = 4999 & 0xff};
    const struct config_tenant *t = NULL;
    assert_non_null(tenancy_key(l.t, hash, &t));
    assert_slice(t->name, "t4999");
    loaded_fini(&l);
    buf_fini(&text);
}

/* Each row can be reached from the root, and its bounds and default make sense. */
static void test_rows(void **state)
{
    (void)state;
    size_t n;
    const struct setting *rows = settings(&n);
    for (size_t i = 0; i < n; i++) {
        char up[128];
        (void)snprintf(up, sizeof(up), "%s", rows[i].path);
        size_t len = strlen(up);
        if (len > 2 && strcmp(up + len - 2, "[]") == 0)
            up[len - 2] = '\0';
        else if (strrchr(up, '.') != NULL)
            *strrchr(up, '.') = '\0';
        else
            up[0] = '\0';
        if (up[0] != '\0' && setting_find(up) == NULL)
            fail_msg("%s has no parent %s", rows[i].path, up);
        assert_ptr_equal(setting_find(rows[i].path), &rows[i]); /* stands once */
        assert_true(rows[i].max == 0 || rows[i].min <= rows[i].max);
        assert_true(rows[i].type != SETTING_CHOICE || rows[i].choices != NULL);
        assert_true(rows[i].help != NULL && rows[i].help[strlen(rows[i].help) - 1] == '.');
    }
}

/* docs/configuration.md holds the table that the rows print. */
static void test_manual_agrees(void **state)
{
    (void)state;
    struct buf manual, table = BUF_INIT(1 << 16);
    read_text("docs/configuration.md", &manual);
    settings_print(true, &table);
    assert_false(table.is_full);
    if (strstr(buf_cstr(&manual), buf_cstr(&table)) == NULL)
        fail_msg("docs/configuration.md does not hold this table:\n%s", buf_cstr(&table));
    buf_fini(&manual);
    buf_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths_and_listeners),
        cmocka_unit_test(test_sections),
        cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_every_problem_at_once),
        cmocka_unit_test(test_file_that_cannot_be_read),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_listeners),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_references_to_secrets),
        cmocka_unit_test(test_env_names),
        cmocka_unit_test(test_starter_is_valid),
        cmocka_unit_test(test_restart_diff),
        cmocka_unit_test(test_references_are_counted),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_line_missing_or_emptied),
        cmocka_unit_test(test_many_tenants),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_manual_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
