/* usage: groups, pairs of groups, filters and pages, against sums that are made here event by event. */
#include "billing/internal.h"

#include "tests/unit/billing_fixture.h"

enum { WORKSPACES = 120, EVENTS = 900 };

struct made {
    char id[16], namespace[8], workspace[8], workspace_id[16], user[8], day[12];
    const char *model;
    uint64_t tokens[TOKEN_KINDS];
};

static struct made made[EVENTS];
static const char *const models[] = {"claude-sonnet-4-5", "tiny", "odd, \"quoted\""};
/* Micro-units are too coarse: these are 1e-18 for one token, as the price file says. */
static const uint64_t units[][TOKEN_KINDS] = {{3000000000000, 15000000000000, 300000000000, 3750000000000},
                                              {1, 2000000000, 3, 7},
                                              {123456789012, 9876543210987, 10000000000, 20000000000}};

static uint64_t seed = 88172645463325252u;
static size_t below(size_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed % n);
}

static void many_key(int key, char out[SHA256_HEX_SIZE])
{
    char text[32];
    (void)snprintf(text, sizeof(text), "sk-many-%d", key);
    sha256_hex(slice_str(text), out);
}

static void workspace_of(int key, struct made *m)
{
    (void)snprintf(m->namespace, sizeof(m->namespace), "n%d", key % 7);
    (void)snprintf(m->workspace, sizeof(m->workspace), "w%d", key % 40); /* also deleted and made again */
    (void)snprintf(m->workspace_id, sizeof(m->workspace_id), "ws_%03d", key);
    m->user[0] = '\0';
    if (key % 11 != 0)
        (void)snprintf(m->user, sizeof(m->user), "u %d", key % 11);
}

static void keys_make(struct fixture *f)
{
    struct arena a = ARENA_INIT;
    struct store_op ops[WORKSPACES];
    for (int i = 0; i < WORKSPACES; i++) {
        struct made m = {.model = NULL};
        char hash[SHA256_HEX_SIZE];
        workspace_of(i, &m);
        many_key(i, hash);
        struct billing_key_owner o = {.tenant = SL("acme"),
                                      .namespace = arena_slice(&a, slice_str(m.namespace)),
                                      .workspace = arena_slice(&a, slice_str(m.workspace)),
                                      .workspace_id = arena_slice(&a, slice_str(m.workspace_id)),
                                      .user = arena_slice(&a, slice_str(m.user)),
                                      .gateway = SL("gw"),
                                      .made_at_ms = f->clock.wall_ms};
        ops[i] = billing_key_op(&a, hash, &o);
    }
    f->is_done = false;
    store_commit(f->engine, SL("fleet"), ops, WORKSPACES, on_commit, f);
    until(f, &f->is_done);
    assert_int_equal(f->code, 0);
    arena_fini(&a);
}

static void events_make(struct fixture *f)
{
    struct buf body = BUF_INIT(4u << 20);
    for (size_t done = 0; done < EVENTS;) {
        size_t n = EVENTS - done < 500 ? EVENTS - done : 500;
        struct jsonw w;
        buf_reset(&body);
        jsonw_init(&w, &body);
        jsonw_object(&w);
        jsonw_key(&w, "events");
        jsonw_array(&w);
        for (size_t i = done; i < done + n; i++) {
            struct made *m = &made[i];
            int key = (int)below(WORKSPACES);
            size_t model = below(ARRAY_LEN(models)), day = below(9);
            char hash[SHA256_HEX_SIZE], time[32];
            workspace_of(key, m);
            many_key(key, hash);
            m->model = models[model];
            (void)snprintf(m->id, sizeof(m->id), "e%zu", i);
            (void)snprintf(m->day, sizeof(m->day), day < 4 ? "2026-10-%02zu" : "2026-11-%02zu",
                           day < 4 ? day + 28 : day - 3);
            (void)snprintf(time, sizeof(time), "%sT%02zu:00:00Z", m->day, below(11));
            jsonw_object(&w);
            jsonw_kstr(&w, "id", m->id);
            jsonw_kstr(&w, "key_hash", hash);
            jsonw_kstr(&w, "model", m->model);
            jsonw_kstr(&w, "time", time);
            jsonw_key(&w, "tokens");
            jsonw_object(&w);
            for (int k = 0; k < TOKEN_KINDS; k++) {
                m->tokens[k] = below(3) == 0 ? 0 : below(100000);
                jsonw_ku64(&w, token_kind_names[k], m->tokens[k]);
            }
            jsonw_object_end(&w);
            jsonw_object_end(&w);
        }
        jsonw_array_end(&w);
        jsonw_object_end(&w);
        post_start(f, "gw", buf_view(&body));
        until(f, &f->is_done);
        assert_answer(f, n, 0, "");
        done += n;
    }
    buf_fini(&body);
}

/* "<part>|<part>" of one event's tokens of one kind, as it is made of an answer's item below. */
static void label(const struct made *m, int kind, const char *const by[2], char *out, size_t max)
{
    char parts[2][64] = {"", ""};
    for (int i = 0; i < 2 && by[i] != NULL; i++) {
        const char *one = strcmp(by[i], "model") == 0       ? m->model
                          : strcmp(by[i], "kind") == 0      ? token_kind_names[kind]
                          : strcmp(by[i], "day") == 0       ? m->day
                          : strcmp(by[i], "namespace") == 0 ? m->namespace
                          : strcmp(by[i], "user") == 0      ? m->user
                                                            : "";
        (void)snprintf(parts[i], sizeof(parts[i]), "%s", one);
        if (strcmp(by[i], "workspace") == 0)
            (void)snprintf(parts[i], sizeof(parts[i]), "%s/%s/%s", m->namespace, m->workspace,
                           m->workspace_id);
    }
    (void)snprintf(out, max, "%s|%s", parts[0], parts[1]);
}

struct expected {
    char label[160];
    i128 cost, tokens;
    bool is_seen;
};
static struct expected rows[6000];
static size_t n_rows;

static bool fits(const struct made *m, int kind, const struct billing_usage_query *q)
{
    return (q->namespace.n == 0 || slice_eq_str(q->namespace, m->namespace)) &&
           (q->workspace.n == 0 || slice_eq_str(q->workspace, m->workspace)) &&
           (q->model.n == 0 || slice_eq_str(q->model, m->model)) &&
           (q->user.p == NULL || slice_eq_str(q->user, m->user)) &&
           (q->kind.n == 0 || slice_eq_str(q->kind, token_kind_names[kind]));
}

static struct expected *row_of(const char *text)
{
    for (size_t i = 0; i < n_rows; i++) {
        if (strcmp(rows[i].label, text) == 0)
            return &rows[i];
    }
    return NULL;
}

static i128 expect(const struct billing_usage_query *q, const char *const by[2])
{
    i128 total = 0;
    n_rows = 0;
    for (size_t i = 0; i < EVENTS; i++) {
        size_t model = 0;
        while (strcmp(models[model], made[i].model) != 0)
            model++;
        for (int k = 0; k < TOKEN_KINDS; k++) {
            char text[160];
            if (made[i].tokens[k] == 0 || !fits(&made[i], k, q))
                continue;
            label(&made[i], k, by, text, sizeof(text));
            struct expected *r = row_of(text);
            if (r == NULL) {
                assert_true(n_rows < ARRAY_LEN(rows));
                r = &rows[n_rows++];
                *r = (struct expected){.cost = 0};
                memcpy(r->label, text, sizeof(text));
            }
            i128 cost = (i128)made[i].tokens[k] * (i128)units[model][k];
            r->cost += cost;
            r->tokens += (i128)made[i].tokens[k];
            total += cost;
        }
    }
    return total;
}

static i128 money(const struct json *j)
{
    i128 v = 0;
    assert_int_equal(i128_parse(json_string(json_get(json_get(j, "cost"), "amount")), 18, false, &v), 0);
    return v;
}

static void item_check(const struct json *it, const char *const by[2])
{
    char parts[2][64] = {"", ""}, text[160];
    for (int i = 0; i < 2 && by[i] != NULL; i++) {
        struct slice one = json_string(json_get(it, by[i]));
        assert_non_null(one.p);
        (void)snprintf(parts[i], sizeof(parts[i]), "%.*s", SL_ARG(one));
        if (strcmp(by[i], "workspace") == 0)
            (void)snprintf(parts[i], sizeof(parts[i]), "%.*s/%.*s/%.*s",
                           SL_ARG(json_string(json_get(it, "namespace"))), SL_ARG(one),
                           SL_ARG(json_string(json_get(it, "workspace_id"))));
    }
    (void)snprintf(text, sizeof(text), "%s|%s", parts[0], parts[1]);
    struct expected *r = row_of(text);
    if (r == NULL || r->is_seen)
        fail_msg("%s: %s", text, r == NULL ? "is not expected" : "stands twice");
    r->is_seen = true;
    assert_true(money(it) == r->cost);
    int64_t tokens = 0;
    assert_int_equal(json_i64(json_get(it, "tokens"), &tokens), 0);
    assert_true((i128)tokens == r->tokens);
}

static void ask(struct fixture *f, struct billing_usage_query q, const char *by)
{
    char first[32], second[32] = "", after[4096] = "";
    const char *names[2] = {by[0] != '\0' ? first : NULL, NULL};
    (void)snprintf(first, sizeof(first), "%s", by);
    char *comma = strchr(first, ',');
    if (comma != NULL) {
        *comma = '\0';
        (void)snprintf(second, sizeof(second), "%s", comma + 1);
        names[1] = second;
    }
    q.tenant = SL("acme");
    q.by = slice_str(by);
    assert_int_equal(time_parse(SL("2026-10-01T00:00:00Z"), &q.from_ms), 0);
    assert_int_equal(time_parse(SL("2026-12-01T00:00:00Z"), &q.to_ms), 0);
    i128 total = expect(&q, names);
    size_t n = 0;
    do {
        struct json *root = NULL;
        struct json_limits big = {.bytes_max = 64u << 20, .nodes_max = 1000000};
        q.after = slice_str(after);
        f->is_done = false;
        billing_usage_query(f->billing, &q, on_json, f);
        until(f, &f->is_done);
        if (f->code != 0)
            fail_msg("%s: %s", by, f->err.msg);
        assert_int_equal(json_parse(buf_view(&f->text), &big, &root, NULL), 0);
        const struct json *items = json_get(root, "items");
        assert_true(q.limit == 0 || json_count(items) <= q.limit);
        JSON_FOREACH (it, items)
            item_check(it, names);
        n += json_count(items);
        assert_true(money(json_get(root, "total")) == total);
        struct slice next = json_string(json_get(root, "next"));
        assert_true(next.p == NULL || json_count(items) == q.limit);
        (void)snprintf(after, sizeof(after), "%.*s", SL_ARG(next));
        json_free(root);
    } while (after[0] != '\0');
    if (by[0] != '\0' && n != n_rows)
        fail_msg("%s: %zu groups, %zu expected", by, n, n_rows);
}

static void test_groups(void **state)
{
    struct fixture *f = *state;
    static const char *const groups[] = {"",
                                         "model",
                                         "kind",
                                         "day",
                                         "namespace",
                                         "workspace",
                                         "user",
                                         "model,day",
                                         "day,model",
                                         "user,kind",
                                         "namespace,workspace",
                                         "workspace,model",
                                         "user,namespace"};
    keys_make(f);
    events_make(f);
    for (int restart = 0; restart < 2; restart++) {
        for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
            ask(f, (struct billing_usage_query){.limit = 0}, groups[i]);
            ask(f, (struct billing_usage_query){.limit = 7}, groups[i]);
        }
        ask(f, (struct billing_usage_query){.limit = 1}, "user");
        ask(f, (struct billing_usage_query){.limit = 50}, "workspace,day");
        billing_down(f);
        billing_up(f);
    }
    const struct billing_usage_query filters[] = {
        {.namespace = SL("n3")},
        {.namespace = SL("n3"), .workspace = SL("w3")},
        {.workspace = SL("w3")},
        {.user = SL("u 4")},
        {.user = SL("")},
        {.user = SL("nobody")},
        {.model = SL("tiny"), .kind = SL("output")},
        {.model = SL("odd, \"quoted\""), .user = SL("u 1"), .limit = 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        ask(f, filters[i], "");
        ask(f, filters[i], "workspace");
        ask(f, filters[i], "model,kind");
    }
}

static void test_bad_groups(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {"colour",         "model,", ",model", "model,model",
                                      "model,day,kind", "Model",  " "};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(billing_usage_by_is_valid(slice_str(bad[i])));
        (void)usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", bad[i]);
        assert_int_equal(f->code, E_INVALID);
    }
    assert_true(billing_usage_by_is_valid(SLICE_NULL));
    assert_true(billing_usage_by_is_valid(SL("day,model")));
}

static void on_one(int code, struct slice json, const struct err *err, void *data)
{
    size_t *counts = data; /* answered, refused */
    (void)json;
    (void)err;
    counts[code == 0 ? 0 : 1]++;
    assert_true(code == 0 || code == E_UNAVAILABLE);
}

/* Many at once: some are told to come again, all are answered. */
static void test_many_questions(void **state)
{
    struct fixture *f = *state;
    size_t counts[2] = {0, 0};
    struct billing_usage_query q = {.tenant = SL("acme"), .to_ms = INT64_C(86400000) * 30};
    for (int i = 0; i < 100; i++)
        billing_usage_query(f->billing, &q, on_one, counts);
    while (counts[0] + counts[1] < 100)
        (void)uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_true(counts[0] > 0 && counts[1] > 0);
    (void)usage(f, "acme", "", "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "");
    assert_int_equal(f->code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ON_BOTH(test_groups), ON_BOTH(test_bad_groups),
                                       ON_BOTH(test_many_questions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
