/* The scheduler against a scripted provider: what a caller notices, then a long simulation with faults and
 * crashes. */
#include "tests/unit/scheduler_world.h"

#include "base/core/crypto.h"
#include "base/core/log.h"

static bool is_ready(struct world *w, void *data)
{
    struct workspace *ws = find(w, "alice", data);
    return ws != NULL && ws->state == WS_READY;
}
static bool is_asleep(struct world *w, void *data)
{
    struct workspace *ws = find(w, "alice", data);
    return ws != NULL && ws->state == WS_SUSPENDED && ws->reason[0] == '\0';
}
static bool is_failed(struct world *w, void *data)
{
    struct workspace *ws = find(w, "alice", data);
    return ws != NULL && ws->state == WS_FAILED;
}

static void test_create(void **state)
{
    (void)state;
    struct world *w = world_new(1);
    struct answer a = put(w, "alice", "dev");
    assert_int_equal(a.code, 0);
    assert_true(a.is_created && a.is_settled);
    assert_int_equal(a.state, WS_READY);
    struct workspace *ws = find(w, "alice", "dev");
    assert_non_null(ws);
    assert_string_equal(ws->id, a.id);
    assert_ptr_equal(scheduler_find_id(w->s, slice_str(a.id)), ws);
    struct fake_sandbox *x = sandbox_of(w, ws);
    assert_non_null(x);
    assert_string_equal(x->token, ws->server_token);
    assert_int_equal(strnlen(x->token, sizeof x->token), 52);
    assert_string_equal(x->tz, "UTC");
    assert_string_equal(x->home, ws->id);
    assert_int_equal(strncmp(x->id, "ws-", 3), 0);
    /* its key is known to the fleet by its hash only, and appears nowhere in the record */
    char hash[SHA256_HEX_SIZE], key[128];
    sha256_hex(slice_str(x->key), hash);
    assert_string_equal(hash, ws->llm_key_hash);
    (void)snprintf(key, sizeof key, "llmkey/%s", hash);
    struct read r = read_record(w, "fleet", key);
    assert_int_equal(strncmp(r.text, "valid ws_", 9), 0);
    r = read_record(w, tenant_id(w, "acme"), "ws/alice/dev");
    assert_null(strstr(r.text, x->key));
    assert_null(strstr(r.text, x->token));
    assert_string_equal(read_events(w, tenant_id(w, "acme"), a.id).text, "provisioning bootstrapping ready");
    /* again: the same one, made by nobody */
    struct answer b = put(w, "alice", "dev");
    assert_int_equal(b.code, 0);
    assert_false(b.is_created);
    assert_string_equal(a.id, b.id);
    assert_int_equal(w->p[0].calls[F_CREATE], 1);
    struct buf json = BUF_INIT(8192);
    struct jsonw jw;
    jsonw_init(&jw, &json);
    workspace_json(ws, SL("http://x"), &jw);
    assert_non_null(strstr(buf_cstr(&json), "\"url\":\"http://x/w/alice/dev\""));
    assert_null(strstr(buf_cstr(&json), x->token));
    buf_fini(&json);
    world_free(w);
}

static void test_together(void **state)
{
    (void)state;
    struct world *w = world_new(2);
    struct answer a[30];
    memset(a, 0, sizeof a);
    struct workspace_request r = request("acme", "alice", "dev");
    for (size_t i = 0; i < 30; i++) {
        a[i].w = w;
        (void)scheduler_find_or_create(w->s, &r, on_answer, &a[i]);
    }
    unsigned made = 0;
    for (size_t i = 0; i < 30; i++) {
        run_until(w, &a[i].is_done);
        assert_int_equal(a[i].code, 0);
        assert_string_equal(a[i].id, a[0].id);
        made += a[i].is_created;
    }
    assert_int_equal(made, 1);
    assert_int_equal(w->p[0].calls[F_CREATE], 1);
    world_free(w);
}

static void test_no_wait_and_cancel(void **state)
{
    (void)state;
    struct world *w = world_new(3);
    struct workspace_request r = request("acme", "alice", "dev");
    r.wait_ms = 0;
    struct answer a = put_request(w, &r);
    assert_int_equal(a.code, 0);
    assert_true(a.is_created);
    assert_false(a.is_settled);
    struct answer never = {.w = w};
    r.wait_ms = 5000;
    workspace_wait_cancel(scheduler_find_or_create(w->s, &r, on_answer, &never));
    r.name = SL("other");
    workspace_wait_cancel(scheduler_find_or_create(w->s, &r, on_answer, &never));
    run_while(w, is_ready, "dev");
    run_while(w, is_ready, "other"); /* goes on without its caller */
    assert_false(never.is_done);
    world_free(w);
}

static void test_refusals(void **state)
{
    (void)state;
    struct world *w = world_new(4);
    const struct workspace_pair env_ok = {SL("EDITOR"), SL("vi")};
    const struct workspace_pair label = {SL("team"), SL("a")};
    struct workspace_request r = request("acme", "alice", "dev");
    r.env = &env_ok;
    r.n_env = 1;
    r.has_env = true;
    r.user = SL("u1");
    assert_int_equal(put_request(w, &r).code, 0);
    static const char *const bad_names[] = {
        "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "LD_PRELOAD", "REEVE_X", "9A", "A-B"};
    for (size_t i = 0; i < ARRAY_LEN(bad_names); i++) {
        struct workspace_pair bad = {slice_str(bad_names[i]), SL("x")};
        struct workspace_request q = request("acme", "alice", "bad");
        q.env = &bad;
        q.n_env = 1;
        q.has_env = true;
        struct answer a = put_request(w, &q);
        assert_int_equal(a.code, E_INVALID);
        assert_non_null(strstr(a.msg, bad_names[i]));
    }
    struct workspace_request q = request("acme", "Alice", "dev");
    assert_int_equal(put_request(w, &q).code, E_INVALID);
    q = request("acme", "alice", "x/y");
    assert_int_equal(put_request(w, &q).code, E_INVALID);
    q = request("nobody", "alice", "dev");
    assert_int_equal(put_request(w, &q).code, E_NOT_FOUND);
    q = request("acme", "alice", "dev");
    q.template = SL("single");
    struct answer a = put_request(w, &q);
    assert_int_equal(a.code, E_CONFLICT);
    assert_int_equal(strncmp(a.msg, "template:", 9), 0);
    q.template = SL("nothing");
    assert_int_equal(put_request(w, &q).code, E_CONFLICT);
    q = request("acme", "alice", "dev");
    q.user = SL("u2");
    assert_int_equal(strncmp(put_request(w, &q).msg, "user:", 5), 0);
    q = request("acme", "alice", "dev");
    q.labels = &label;
    q.n_labels = 1;
    q.has_labels = true;
    assert_int_equal(strncmp(put_request(w, &q).msg, "labels:", 7), 0);
    q = request("acme", "alice", "dev");
    q.has_env = true;
    assert_int_equal(strncmp(put_request(w, &q).msg, "env:", 4), 0);
    q = request("acme", "alice", "dev"); /* nothing given: nothing compared */
    assert_int_equal(put_request(w, &q).code, 0);
    q = request("acme", "alice", "new");
    q.template = SL("single");
    q.provider = SL("two");
    assert_int_equal(put_request(w, &q).code, E_INVALID);
    q = request("acme", "alice", "new");
    q.no_make = true;
    assert_int_equal(put_request(w, &q).code, E_BUDGET);
    assert_null(find(w, "alice", "new"));
    q = request("acme", "alice", "dev");
    q.no_make = true; /* it runs: nothing is made */
    assert_int_equal(put_request(w, &q).code, 0);
    assert_int_equal(read_scan(w, "fleet", "llmkey/").n, 1);
    world_free(w);
}

static void test_quotas(void **state)
{
    (void)state;
    struct world *w = world_new(5);
    struct workspace_request r = request("small", "n", "a");
    assert_int_equal(put_request(w, &r).code, 0);
    r.name = SL("b");
    assert_int_equal(put_request(w, &r).code, 0);
    r.name = SL("c");
    struct answer a = put_request(w, &r);
    assert_int_equal(a.code, E_QUOTA);
    assert_non_null(strstr(a.msg, "running"));
    assert_null(scheduler_find(w->s, SL("small"), SL("n"), SL("c")));
    run_ms(w, 5);
    assert_int_equal(read_scan(w, "fleet", "llmkey/").n, 2); /* the third key never was */
    struct answer s = {.w = w};
    (void)scheduler_suspend(w->s, scheduler_find(w->s, SL("small"), SL("n"), SL("a")), SUSPEND_OPERATOR, 5000,
                            on_answer, &s);
    run_until(w, &s.is_done);
    assert_int_equal(s.code, 0);
    assert_int_equal(put_request(w, &r).code, 0); /* its place is free */
    struct answer u = {.w = w};
    (void)scheduler_resume(w->s, scheduler_find(w->s, SL("small"), SL("n"), SL("a")), 5000, on_answer, &u);
    run_until(w, &u.is_done);
    assert_int_equal(u.code, E_QUOTA);
    r.name = SL("d");
    a = put_request(w, &r);
    assert_int_equal(a.code, E_QUOTA);
    assert_non_null(strstr(a.msg, "workspaces"));
    assert_int_equal(read_counter(w, tenant_id(w, "small"), "count/workspaces"), 3);
    assert_int_equal(read_counter(w, tenant_id(w, "small"), "count/running"), 2);
    r = request("slow", "n", "a");
    assert_int_equal(put_request(w, &r).code, 0);
    r.name = SL("b");
    assert_int_equal(put_request(w, &r).code, 0);
    r.name = SL("c");
    assert_int_equal(put_request(w, &r).code, E_RATE);
    world_free(w);
}

static void test_delete(void **state)
{
    (void)state;
    struct world *w = world_new(6);
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, E_NOT_FOUND);
    struct answer a = put(w, "alice", "dev");
    char key[128];
    (void)snprintf(key, sizeof key, "llmkey/%s", find(w, "alice", "dev")->llm_key_hash);
    struct answer d = del(w, "alice", "dev", false, 0);
    assert_int_equal(d.code, 0);
    assert_false(d.is_settled);
    assert_int_equal(d.state, WS_DELETING);
    struct answer b = put(w, "alice", "dev"); /* waits for the end of the former */
    assert_int_equal(b.code, 0);
    assert_true(b.is_created);
    assert_string_not_equal(a.id, b.id);
    assert_null(scheduler_find_id(w->s, slice_str(a.id)));
    assert_null(fake_home_find(&w->p[0], a.id));
    assert_int_equal(strncmp(read_record(w, "fleet", key).text, "revoked ", 8), 0);
    assert_string_equal(read_events(w, tenant_id(w, "acme"), a.id).text,
                        "provisioning bootstrapping ready deleting absent");
    d = del(w, "alice", "dev", false, 5000);
    assert_int_equal(d.code, 0);
    assert_true(d.is_settled);
    assert_false(d.had_ws);
    assert_null(w->p[0].sandboxes);
    assert_null(w->p[0].homes);
    assert_int_equal(read_counter(w, tenant_id(w, "acme"), "count/workspaces"), 0);
    assert_int_equal(read_counter(w, tenant_id(w, "acme"), "count/running"), 0);
    assert_int_equal(read_counter(w, tenant_id(w, "acme"), "count/running/alice"), 0);
    world_free(w);
}

static void test_keep_home(void **state)
{
    (void)state;
    struct world *w = world_new(7);
    struct answer a = put(w, "alice", "dev");
    assert_int_equal(del(w, "alice", "dev", true, 5000).code, 0);
    assert_non_null(fake_home_find(&w->p[0], a.id));
    assert_int_equal(read_scan(w, tenant_id(w, "acme"), "home/").n, 1);
    world_crash(w); /* a new start knows it too */
    struct workspace_home homes[2];
    assert_int_equal(scheduler_homes(w->s, SL("acme"), homes, 2), 1);
    assert_true(slice_eq_str(homes[0].namespace, "alice") && slice_eq_str(homes[0].name, "dev"));
    assert_true(slice_eq_str(homes[0].home_id, a.id) && slice_eq_str(homes[0].provider, "one"));
    struct answer b = put(w, "alice", "dev");
    assert_string_not_equal(a.id, b.id);
    assert_string_equal(sandbox_of(w, find(w, "alice", "dev"))->home, a.id);
    assert_int_equal(read_scan(w, tenant_id(w, "acme"), "home/").n, 0);
    assert_int_equal(del(w, "alice", "dev", true, 5000).code, 0);
    assert_non_null(fake_home_find(&w->p[0], a.id));
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, 0); /* only the home is left to delete */
    assert_null(w->p[0].homes);
    assert_int_equal(read_scan(w, tenant_id(w, "acme"), "home/").n, 0);
    assert_int_equal(read_scan(w, tenant_id(w, "acme"), "ws/").n, 0);
    assert_int_equal(read_counter(w, tenant_id(w, "acme"), "count/workspaces"), 0);
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, E_NOT_FOUND);
    world_free(w);
}

static struct answer suspend(struct world *w, const char *name, enum suspend_cause cause)
{
    struct answer a = {.w = w};
    (void)scheduler_suspend(w->s, find(w, "alice", name), cause, 5000, on_answer, &a);
    run_until(w, &a.is_done);
    return a;
}
static struct answer wake(struct world *w, const char *name)
{
    struct answer a = {.w = w};
    (void)scheduler_wake(w->s, find(w, "alice", name), 5000, on_answer, &a);
    run_until(w, &a.is_done);
    return a;
}

static void test_sleep(void **state)
{
    (void)state;
    struct world *w = world_new(8);
    (void)put(w, "alice", "dev");
    struct workspace *ws = find(w, "alice", "dev");
    struct answer a = suspend(w, "dev", SUSPEND_OPERATOR);
    assert_int_equal(a.code, 0);
    assert_true(a.is_settled);
    assert_int_equal(ws->state, WS_SUSPENDED);
    assert_null(ws->server);
    assert_int_equal(sandbox_of(w, ws)->state, SANDBOX_SUSPENDED);
    a = wake(w, "dev"); /* traffic does not wake it */
    assert_int_equal(a.code, E_UNAVAILABLE);
    assert_non_null(strstr(a.msg, "resume"));
    struct answer r = {.w = w};
    (void)scheduler_resume(w->s, ws, 5000, on_answer, &r);
    run_until(w, &r.is_done);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.state, WS_READY);
    assert_int_equal(ws->generation, 1);
    assert_int_equal(suspend(w, "dev", SUSPEND_BUDGET).code, 0);
    a = wake(w, "dev");
    assert_int_equal(a.code, E_UNAVAILABLE);
    assert_non_null(strstr(a.msg, "budget"));
    assert_int_equal(put(w, "alice", "dev").state, WS_READY); /* findOrCreate wakes */
    assert_int_equal(suspend(w, "dev", SUSPEND_IDLE).code, 0);
    a = wake(w, "dev");
    assert_int_equal(a.code, 0);
    assert_int_equal(a.state, WS_READY);
    world_free(w);
}

static void test_idle(void **state)
{
    (void)state;
    struct world *w = world_new(9);
    struct workspace_request r = request("acme", "alice", "dev");
    r.template = SL("sleepy");
    assert_int_equal(put_request(w, &r).code, 0);
    struct workspace *ws = find(w, "alice", "dev");
    scheduler_hold(w->s, ws);
    run_ms(w, 90);
    assert_int_equal(ws->state, WS_READY); /* held */
    scheduler_unhold(w->s, slice_str(ws->id));
    run_while(w, is_asleep, "dev");
    assert_int_equal(ws->suspend_cause, SUSPEND_IDLE);
    assert_int_equal(wake(w, "dev").code, 0);
    for (int i = 0; i < 9; i++) {
        run_ms(w, 10);
        scheduler_touch(w->s, ws);
        assert_int_equal(ws->state, WS_READY);
    }
    run_while(w, is_asleep, "dev");
    world_free(w);
}

static void test_restart(void **state)
{
    (void)state;
    struct world *w = world_new(10);
    (void)put(w, "alice", "dev");
    struct workspace *ws = find(w, "alice", "dev");
    char token[80], key[128];
    (void)snprintf(token, sizeof token, "%s", ws->server_token);
    (void)snprintf(key, sizeof key, "llmkey/%s", ws->llm_key_hash);
    struct answer a = {.w = w};
    (void)scheduler_restart(w->s, ws, 5000, on_answer, &a);
    run_until(w, &a.is_done);
    assert_int_equal(a.code, 0);
    assert_int_equal(a.state, WS_READY);
    assert_int_equal(ws->generation, 2);
    struct fake_sandbox *x = sandbox_of(w, ws);
    assert_string_equal(x->home, ws->id);
    assert_string_not_equal(ws->server_token, token);
    char hash[SHA256_HEX_SIZE];
    sha256_hex(slice_str(x->key), hash);
    assert_string_equal(hash, ws->llm_key_hash);
    assert_non_null(strstr(read_record(w, "fleet", key).text, "revoked"));
    assert_ptr_equal(w->p[0].sandboxes, x);
    assert_null(x->next);
    world_free(w);
}

struct at_generation {
    const char *name;
    uint64_t generation;
};
static bool is_ready_at(struct world *w, void *data)
{
    const struct at_generation *g = data;
    struct workspace *ws = find(w, "alice", g->name);
    return ws != NULL && ws->state == WS_READY && ws->generation == g->generation;
}
static void ready_at(struct world *w, const char *name, uint64_t generation)
{
    struct at_generation g = {name, generation};
    run_while(w, is_ready_at, &g);
}

static void test_sandbox_dies(void **state)
{
    (void)state;
    struct world *w = world_new(11);
    (void)put(w, "alice", "dev");
    struct workspace *ws = find(w, "alice", "dev");
    struct fake_sandbox *x = sandbox_of(w, ws);
    x->state = SANDBOX_EXITED;
    scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "exited");
    assert_int_not_equal(ws->state, WS_READY);
    run_while(w, is_ready, "dev");
    assert_int_equal(ws->generation, 2);
    assert_string_equal(sandbox_of(w, ws)->home, ws->id);
    /* vanished altogether, noticed by the edge */
    fake_sandbox_free(&w->p[0], sandbox_of(w, ws));
    scheduler_suspect(w->s, ws);
    ready_at(w, "dev", 3);
    /* a suspicion that is wrong changes nothing durable */
    uint64_t version = ws->version;
    x = sandbox_of(w, ws);
    scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "server restarted");
    run_while(w, is_ready, "dev");
    assert_int_equal(ws->version, version);
    assert_int_equal(x->starts, 1);
    world_free(w);
}

static void test_failures(void **state)
{
    (void)state;
    struct world *w = world_new(12);
    struct workspace_request r = request("acme", "alice", "dev");
    r.template = SL("single");
    w->p[0].fail_code[F_CREATE] = E_INVALID; /* cannot pass */
    w->p[0].fail_times[F_CREATE] = 1;
    struct answer a = put_request(w, &r);
    assert_int_equal(a.code, 0);
    assert_true(a.is_created && a.is_settled);
    assert_int_equal(a.state, WS_FAILED);
    assert_non_null(strstr(find(w, "alice", "dev")->reason, "provider one: create: scripted"));
    run_ms(w, 60);
    assert_int_equal(w->p[0].calls[F_CREATE], 1);
    assert_int_equal(put_request(w, &r).state, WS_FAILED);
    r.retry = true;
    a = put_request(w, &r);
    assert_int_equal(a.state, WS_READY);
    /* what passes is retried; after some times it is called failed, and still retried */
    r = request("acme", "alice", "two");
    r.template = SL("single");
    w->p[0].fail_code[F_CREATE] = E_CAPACITY;
    w->p[0].fail_times[F_CREATE] = 7;
    a = put_request(w, &r);
    assert_int_equal(a.state, WS_FAILED);
    assert_true(find(w, "alice", "two")->retry_at_ms > 0);
    run_while(w, is_ready, "two");
    assert_int_equal(find(w, "alice", "two")->generation, 1);
    /* lost answers: made all the same, and adopted */
    w->p[0].fail_code[F_CREATE] = E_UNKNOWN_OUTCOME;
    w->p[0].acts_anyway[F_CREATE] = true;
    w->p[0].fail_times[F_CREATE] = 1;
    r.name = SL("three");
    unsigned before = w->p[0].calls[F_CREATE];
    assert_int_equal(put_request(w, &r).state, WS_READY);
    assert_int_equal(w->p[0].calls[F_CREATE], before + 1);
    world_free(w);
}

/* What a create needs is on its way: the workspace waits, says how far it is, and has not failed. */
static void test_waits_for_an_image(void **state)
{
    (void)state;
    struct world *w = world_new(41);
    struct workspace_request r = request("acme", "alice", "dev");
    r.template = SL("single");
    w->p[0].fail_code[F_CREATE] = E_AGAIN;
    w->p[0].fail_times[F_CREATE] = -1;
    r.wait_ms = 150; /* the fallback asks again every 20 ms here */
    struct answer a = put_request(w, &r);
    assert_int_equal(a.code, 0);
    assert_false(a.is_settled);
    struct workspace *ws = find(w, "alice", "dev");
    assert_int_equal(ws->state, WS_PROVISIONING);
    assert_true(w->p[0].calls[F_CREATE] > 5); /* more than make one `failed` */
    assert_non_null(strstr(ws->reason, "provider one: create: scripted"));
    char id[80];
    (void)snprintf(id, sizeof(id), "%s-g1", ws->id);
    id[2] = '-'; /* as sandboxes are called */
    scheduler_on_provider_progress(w->s, slice_str(id), slice_str(ws->id), "2 of 3 layers");
    assert_string_equal(ws->reason, "provider one: create: 2 of 3 layers");
    scheduler_on_provider_progress(w->s, SL("a-former-one"), slice_str(ws->id), "3 of 3 layers");
    assert_string_equal(ws->reason, "provider one: create: 2 of 3 layers");
    w->p[0].fail_times[F_CREATE] = 0;
    scheduler_on_provider_event(w->s, slice_str(id), slice_str(ws->id), PROVIDER_EVENT_AGAIN);
    run_while(w, is_ready, "dev");
    assert_int_equal(ws->generation, 1);
    assert_string_equal(ws->reason, "");
    /* Too late: it is about something that is over. */
    scheduler_on_provider_progress(w->s, slice_str(id), slice_str(ws->id), "4 of 3 layers");
    scheduler_on_provider_event(w->s, slice_str(id), slice_str(ws->id), PROVIDER_EVENT_AGAIN);
    assert_string_equal(ws->reason, "");
    assert_int_equal(ws->state, WS_READY);
    world_free(w);
}

static void test_elsewhere(void **state)
{
    (void)state;
    struct world *w = world_new(13);
    w->p[0].fail_code[F_CREATE] = E_CAPACITY;
    w->p[0].fail_times[F_CREATE] = -1;
    struct answer a = put(w, "alice", "dev");
    assert_int_equal(a.state, WS_READY);
    assert_true(slice_eq_str(find(w, "alice", "dev")->provider, "two"));
    assert_null(w->p[0].sandboxes);
    /* once it has a home there, it waits for it */
    w->p[0].fail_times[F_CREATE] = 0;
    fake_sandbox_free(&w->p[1], sandbox_of(w, find(w, "alice", "dev")));
    w->p[1].fail_code[F_CREATE] = E_CAPACITY;
    w->p[1].fail_times[F_CREATE] = 2;
    scheduler_suspect(w->s, find(w, "alice", "dev"));
    ready_at(w, "dev", 2);
    assert_true(slice_eq_str(find(w, "alice", "dev")->provider, "two"));
    assert_null(w->p[0].sandboxes);
    world_free(w);
}

static void test_breaker(void **state)
{
    (void)state;
    struct world *w = world_new(14);
    w->p[0].fail_code[F_DESCRIBE] = E_UNAVAILABLE;
    w->p[0].fail_times[F_DESCRIBE] = 12;
    struct workspace_request r = request("acme", "alice", "dev");
    r.template = SL("single");
    r.wait_ms = 0;
    (void)put_request(w, &r);
    run_while(w, is_failed, "dev");
    r.name = SL("b"); /* new ones of two providers go to the other */
    r.template = SL("coding");
    r.wait_ms = 5000;
    assert_int_equal(put_request(w, &r).state, WS_READY);
    assert_true(slice_eq_str(find(w, "alice", "b")->provider, "two"));
    run_while(w, is_ready, "dev"); /* and the first comes back */
    world_free(w);
}

static void test_unhealthy(void **state)
{
    (void)state;
    struct world *w = world_new(15);
    world_stop(w);
    w->timing.health_deadline_ms = 60;
    w->p[0].asks = 1000000;
    world_start(w);
    struct workspace_request r = request("acme", "alice", "dev");
    r.template = SL("single");
    r.wait_ms = 100;
    assert_int_equal(put_request(w, &r).code, 0);
    w->p[0].asks = 0;
    run_while(w, is_ready, "dev");
    assert_true(find(w, "alice", "dev")->generation > 1); /* a fresh sandbox, the same home */
    assert_string_equal(sandbox_of(w, find(w, "alice", "dev"))->home, find(w, "alice", "dev")->id);
    world_free(w);
}

static void test_adopts(void **state)
{
    (void)state;
    struct world *w = world_new(16);
    struct answer a = put(w, "alice", "dev");
    (void)put(w, "alice", "asleep");
    assert_int_equal(suspend(w, "asleep", SUSPEND_OPERATOR).code, 0);
    struct fake_sandbox *x = sandbox_of(w, find(w, "alice", "dev"));
    uint64_t version = find(w, "alice", "dev")->version;
    world_crash(w);
    struct workspace *ws = find(w, "alice", "dev");
    assert_int_equal(ws->state, WS_BOOTSTRAPPING); /* not ready before it was seen */
    assert_null(ws->server);
    struct answer b = put(w, "alice", "dev");
    assert_int_equal(b.state, WS_READY);
    assert_string_equal(a.id, b.id);
    assert_ptr_equal(sandbox_of(w, ws), x);
    assert_int_equal(x->starts, 1);
    assert_int_equal(ws->version, version); /* nothing was written */
    assert_string_equal(ws->server_token, x->token);
    assert_int_equal(find(w, "alice", "asleep")->state, WS_SUSPENDED);
    assert_int_equal(scheduler_count(w->s, SL("acme"), WS_READY), 1);
    world_free(w);
}

static struct fake_sandbox *plant(struct world *w, const char *controller, const char *tenant,
                                  const char *name)
{
    char id[ID_TEXT_MAX];
    id_new(&w->rnd.rnd, "ws", id);
    struct fake_sandbox *x = MEM_NEW(struct fake_sandbox);
    x->id = mem_strdup(name);
    x->workspace = mem_strdup(id);
    x->tenant = mem_strdup(tenant);
    x->namespace = mem_strdup("alice");
    x->name = mem_strdup("lost");
    x->home = mem_strdup(id);
    x->controller = mem_strdup(controller);
    x->generation = 1;
    x->state = SANDBOX_RUNNING;
    DL_APPEND(w->p[0].sandboxes, x);
    return x;
}
static bool is_removed(struct world *w, void *data)
{
    return fake_find(&w->p[0], data) == NULL;
}

static void test_orphans(void **state)
{
    (void)state;
    struct world *w = world_new(17);
    (void)put(w, "alice", "dev");
    struct fake_sandbox *mine = sandbox_of(w, find(w, "alice", "dev"));
    plant(w, CONTROLLER, tenant_id(w, "acme"), "orphan-1");
    plant(w, "other-controller", tenant_id(w, "acme"), "others-1");
    plant(w, CONTROLLER, "unknownxxxxx", "stranger-1");
    w->p[0].fail_code[F_LIST] = E_TIMEOUT; /* a list that fails says nothing */
    w->p[0].fail_times[F_LIST] = 3;
    run_ms(w, 20);
    assert_non_null(fake_find(&w->p[0], "orphan-1"));
    run_while(w, is_removed, "orphan-1");
    run_ms(w, 80);
    assert_non_null(fake_find(&w->p[0], "others-1"));
    assert_non_null(fake_find(&w->p[0], "stranger-1"));
    assert_ptr_equal(fake_find(&w->p[0], mine->id), mine);
    assert_int_equal(w->audits, 1);
    assert_string_equal(w->last_audit, "sandbox.orphan_removed orphan-1");
    /* a short list makes nobody an orphan */
    w->p[0].is_list_empty = true;
    run_ms(w, 60);
    assert_int_equal(find(w, "alice", "dev")->state, WS_READY);
    assert_int_equal(w->audits, 1);
    world_free(w);
}

static void test_lost_commits(void **state)
{
    (void)state;
    struct world *w = world_new(18);
    w->store.lose_next = 2; /* applied, the answer lost: read back and found to be ours */
    struct answer a = put(w, "alice", "a");
    assert_int_equal(a.code, 0);
    assert_true(a.is_created);
    w->store.lose_next = 1; /* not applied */
    a = put(w, "alice", "b");
    assert_int_equal(a.code, E_STORE);
    assert_null(find(w, "alice", "b"));
    a = put(w, "alice", "b");
    assert_int_equal(a.code, 0);
    assert_true(a.is_created);
    for (int lose = 1; lose <= 2; lose++) {
        w->store.lose_next = lose;
        a = suspend(w, "a", SUSPEND_OPERATOR);
        if (a.code != 0) {
            assert_int_equal(lose, 1);
            assert_int_equal(find(w, "alice", "a")->state, WS_READY);
        } else {
            assert_int_equal(find(w, "alice", "a")->state, WS_SUSPENDED);
        }
    }
    assert_int_equal(put(w, "alice", "a").state, WS_READY);
    assert_int_equal(read_counter(w, tenant_id(w, "acme"), "count/running"), 2);
    w->store.lose_next = 2;
    assert_int_equal(del(w, "alice", "a", false, 5000).code, 0);
    assert_null(find(w, "alice", "a"));
    assert_int_equal(read_counter(w, tenant_id(w, "acme"), "count/workspaces"), 1);
    /* a store that is away: refused, nothing lost, and it comes back */
    w->store.is_down = true;
    assert_int_equal(put(w, "alice", "c").code, E_STORE);
    a = suspend(w, "b", SUSPEND_OPERATOR);
    assert_int_equal(a.code, E_STORE);
    assert_int_equal(find(w, "alice", "b")->state, WS_READY);
    w->store.is_down = false;
    assert_int_equal(put(w, "alice", "c").state, WS_READY);
    world_free(w);
}

static void on_put(const struct store_commit_answer *a, void *data)
{
    assert_int_equal(a->code, 0);
    *(bool *)data = true;
}

static void test_other_controller(void **state)
{
    (void)state;
    struct world *w = world_new(19);
    struct answer a = put(w, "alice", "dev");
    struct read r = read_record(w, tenant_id(w, "acme"), "ws/alice/dev");
    (void)del(w, "alice", "dev", true, 5000);
    /* the record comes back behind our back, as if another controller had made it */
    bool is_done = false;
    struct store_op op = store_put(SL("ws/alice/dev"), slice_str(r.text));
    store_commit(w->memory, slice_str(tenant_id(w, "acme")), &op, 1, on_put, &is_done);
    run_until(w, &is_done);
    struct answer b = put(w, "alice", "dev");
    assert_int_equal(b.code, 0);
    assert_false(b.is_created);
    assert_string_equal(b.id, a.id);
    assert_int_equal(b.state, WS_READY);
    struct scheduler_stats stats;
    scheduler_stats(w->s, &stats);
    assert_true(stats.conflicts >= 1);
    world_free(w);
}

static void test_limited_starts(void **state)
{
    (void)state;
    struct world *w = world_new(20);
    w->p[0].delay_ms = 5;
    struct answer a[40];
    char names[40][8];
    memset(a, 0, sizeof a);
    for (size_t i = 0; i < 40; i++) {
        (void)snprintf(names[i], sizeof names[i], "w%zu", i);
        struct workspace_request r = request(i < 38 ? "acme" : "slow", "alice", names[i]);
        a[i].w = w;
        (void)scheduler_find_or_create(w->s, &r, on_answer, &a[i]);
    }
    run_until(w, &a[39].is_done); /* another tenant's two do not wait for the thirty-eight */
    unsigned done = 0;
    for (size_t i = 0; i < 38; i++) {
        done += a[i].is_done;
    }
    assert_true(done < 30);
    for (size_t i = 0; i < 40; i++) {
        run_until(w, &a[i].is_done);
        assert_int_equal(a[i].state, WS_READY);
    }
    assert_true(w->p[0].starting_max <= 4);
    /* in order, page by page */
    struct workspace *page[10];
    struct slice ns = SLICE_EMPTY, name = SLICE_EMPTY;
    size_t n, all = 0;
    while ((n = scheduler_list(w->s, SL("acme"), ns, name, NULL, NULL, page, 10)) > 0) {
        for (size_t i = 0; i < n; i++) {
            assert_true(slice_cmp(name, page[i]->name) < 0);
            ns = page[i]->namespace;
            name = page[i]->name;
        }
        all += n;
    }
    assert_int_equal(all, 38);
    world_free(w);
}

static void test_provider_gone(void **state)
{
    (void)state;
    struct world *w = world_new(21);
    struct workspace_request r = request("acme", "alice", "dev");
    r.provider = SL("two");
    assert_int_equal(put_request(w, &r).code, 0);
    world_stop(w);
    w->n_providers = 1;
    world_start(w);
    run_ms(w, 30);
    struct workspace *ws = find(w, "alice", "dev");
    assert_int_equal(ws->state, WS_BOOTSTRAPPING);
    assert_non_null(strstr(ws->reason, "`two` is not configured"));
    world_stop(w);
    w->n_providers = 2;
    world_start(w);
    run_while(w, is_ready, "dev");
    assert_int_equal(find(w, "alice", "dev")->generation, 1);
    /* a template that is gone is final, until a reload brings it back */
    static const char without[] =
        "listen: 127.0.0.1:0\ndata_dir: data\nproviders:\n  one: {kind: local}\n  two: {kind: local, "
        "uid_range: 300000+1000}\n"
        "templates:\n  other: {providers: [one]}\ntenants:\n  acme: {templates: [other]}\n";
    struct tenancy *t = world_tenancy(w, without);
    scheduler_reload(w->s, t);
    tenancy_unref(t);
    struct answer a = {.w = w};
    (void)scheduler_restart(w->s, find(w, "alice", "dev"), 5000, on_answer, &a);
    run_until(w, &a.is_done);
    assert_int_equal(a.state, WS_FAILED);
    scheduler_reload(w->s, w->tenancy);
    run_while(w, is_ready, "dev");
    world_free(w);
}

static void test_dies_while_starting(void **state)
{
    (void)state;
    struct world *w = world_new(22);
    w->p[0].asks = 1000000; /* never healthy */
    struct workspace_request r = request("acme", "alice", "dev");
    r.wait_ms = 0;
    (void)put_request(w, &r);
    run_ms(w, 30);
    struct workspace *ws = find(w, "alice", "dev");
    assert_int_equal(ws->state, WS_BOOTSTRAPPING);
    struct fake_sandbox *x = sandbox_of(w, ws);
    x->state = SANDBOX_EXITED;
    w->p[0].asks = 0;
    scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "exited");
    ready_at(w, "dev", 2); /* long before the deadline of its health */
    world_free(w);
}

/* One second of a sandbox is 10 ms here. */
static struct world *slow_doubts(uint64_t seed)
{
    struct world *w = world_new(seed);
    world_stop(w);
    w->timing.doubt_first_ms = 10;
    w->timing.doubt_max_ms = 300;
    w->timing.settled_after_ms = 600;
    world_start(w);
    assert_int_equal(put(w, "alice", "dev").state, WS_READY);
    return w;
}
static bool is_not_ready(struct world *w, void *data)
{
    return !is_ready(w, data);
}
/* How many looks the pacing allows in so many ms, the first one and one that was under way included. */
static unsigned looks_max(int64_t ms)
{
    unsigned n = 2;
    for (int64_t spacing = 10; ms > 0; spacing = spacing * 2 > 300 ? 300 : spacing * 2, n++) {
        ms -= spacing;
    }
    return n;
}

/* The agent inside kills the server without end, and its own listener answers well each time. */
static void test_flapping(void **state)
{
    (void)state;
    struct world *w = slow_doubts(24);
    struct workspace *ws = find(w, "alice", "dev");
    struct fake_sandbox *x = sandbox_of(w, ws);
    uint64_t version = ws->version;
    unsigned changes = w->changes, starts = w->p[0].calls[F_START];
    int64_t begin = clock_mono_ms(w->loop.clock);
    for (int i = 0; i < 1000; i++) {
        scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "server_exited");
        if (i == 0) { /* the first one is believed at once */
            assert_int_equal(ws->state, WS_BOOTSTRAPPING);
            assert_non_null(strstr(ws->reason, "server_exited"));
        }
        run_ms(w, 1);
    }
    int64_t took = clock_mono_ms(w->loop.clock) - begin;
    run_while(w, is_ready, "dev");
    assert_true(w->changes - changes <= 4);
    assert_true(w->p[0].calls[F_START] - starts >= 3);
    assert_true(w->p[0].calls[F_START] - starts <= looks_max(took));
    assert_int_equal(ws->version, version); /* nothing was written */
    assert_int_equal(read_events(w, tenant_id(w, "acme"), ws->id).n, 3);
    assert_int_equal(ws->generation, 1);
    /* an event in the time of rest is not lost: the sandbox is gone, and nobody else says so */
    x->state = SANDBOX_EXITED;
    scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "exited");
    ready_at(w, "dev", 2);
    /* a new sandbox begins without that past */
    x = sandbox_of(w, ws);
    scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "server_exited");
    assert_int_equal(ws->state, WS_BOOTSTRAPPING);
    run_while(w, is_ready, "dev");
    /* and so does one that stayed well for long enough */
    run_ms(w, 650);
    scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id), "server_exited");
    assert_int_equal(ws->state, WS_BOOTSTRAPPING);
    run_while(w, is_ready, "dev");
    world_free(w);
}

/* It dies each time, before it is healthy and after: states change, but ever less often. */
static void test_crash_loop(void **state)
{
    (void)state;
    struct world *w = slow_doubts(25);
    struct workspace *ws = find(w, "alice", "dev");
    struct fake_sandbox *x = sandbox_of(w, ws);
    uint64_t version = ws->version;
    unsigned changes = w->changes, starts = w->p[0].calls[F_START];
    int64_t begin = clock_mono_ms(w->loop.clock);
    for (int i = 0; i < 600; i++) {
        if (ws->state == WS_READY) {
            x->asks = 3;
        }
        scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(ws->id),
                                    i % 2 == 0 ? "server_exited" : "server_started");
        scheduler_suspect(w->s, ws);
        run_ms(w, 1);
    }
    int64_t took = clock_mono_ms(w->loop.clock) - begin;
    assert_true(w->p[0].calls[F_START] - starts <= looks_max(took));
    assert_true(w->changes - changes <= 2 * looks_max(took));
    assert_int_equal(ws->version, version);
    assert_int_equal(ws->generation, 1);
    x->asks = 0;
    run_while(w, is_ready, "dev");
    world_free(w);
}

static void test_suspect(void **state)
{
    (void)state;
    struct world *w = slow_doubts(26);
    struct workspace *ws = find(w, "alice", "dev");
    struct fake_sandbox *x = sandbox_of(w, ws);
    unsigned changes = w->changes, starts = w->p[0].calls[F_START], asked = x->asked;
    /* a server that is merely busy: looked at, ready all the time, and not at every word */
    int64_t begin = clock_mono_ms(w->loop.clock);
    for (int i = 0; i < 100; i++) {
        scheduler_suspect(w->s, ws);
        scheduler_suspect(w->s, ws);
        assert_int_equal(ws->state, WS_READY);
        run_ms(w, 1);
    }
    int64_t took = clock_mono_ms(w->loop.clock) - begin;
    assert_int_equal(w->changes, changes);
    assert_true(w->p[0].calls[F_START] - starts >= 1);
    assert_true(w->p[0].calls[F_START] - starts <= took / 10 + 2);
    assert_true(x->asked - asked >= 1);
    /* one question that it does not answer in time is asked again */
    run_ms(w, 15);
    asked = x->asked;
    x->is_busy = true;
    scheduler_suspect(w->s, ws);
    while (x->asked == asked) {
        assert_int_equal(ws->state, WS_READY);
        run_ms(w, 1);
    }
    x->is_busy = false;
    run_ms(w, 30);
    assert_int_equal(w->changes, changes);
    assert_int_equal(ws->state, WS_READY);
    /* two are not; it comes back when it answers, in the same sandbox */
    x->is_busy = true;
    scheduler_suspect(w->s, ws);
    run_while(w, is_not_ready, "dev");
    assert_int_equal(ws->state, WS_BOOTSTRAPPING);
    x->is_busy = false;
    run_while(w, is_ready, "dev");
    assert_int_equal(ws->generation, 1);
    /* put to sleep in the middle of a look */
    run_ms(w, 30);
    x->is_busy = true;
    scheduler_suspect(w->s, ws);
    assert_int_equal(suspend(w, "dev", SUSPEND_IDLE).code, 0);
    x->is_busy = false;
    assert_int_equal(wake(w, "dev").code, 0);
    /* a provider that is away says nothing about what runs there: looked at when it is back */
    run_ms(w, 30);
    w->p[0].fail_code[F_DESCRIBE] = E_UNAVAILABLE;
    w->p[0].fail_times[F_DESCRIBE] = 1;
    scheduler_suspect(w->s, ws);
    run_while(w, is_not_ready, "dev");
    assert_non_null(strstr(ws->reason, "provider one: describe"));
    run_while(w, is_ready, "dev");
    assert_int_equal(ws->generation, 1);
    world_free(w);
}

/* Many at rest: how long a start takes. REEVE_SCALE=100000 for the real figure. */
static void test_scale(void **state)
{
    (void)state;
    const char *scale = getenv("REEVE_SCALE");
    size_t n = scale != NULL ? (size_t)strtoull(scale, NULL, 10) : 2000;
    struct world *w = world_new(23);
    struct answer a = put(w, "alice", "dev");
    assert_int_equal(suspend(w, "dev", SUSPEND_OPERATOR).code, 0);
    struct read r = read_record(w, tenant_id(w, "acme"), "ws/alice/dev");
    char *mark = strstr(r.text, "\"namespace\":\"alice\",\"name\":\"dev\"");
    char *id_at = strstr(r.text, a.id), *home_at = strstr(mark, a.id);
    assert_true(id_at != NULL && home_at != NULL);
    for (size_t i = 0; i < n; i++) {
        char id[ID_TEXT_MAX], key[64];
        id_new(&w->rnd.rnd, "ws", id);
        memcpy(id_at, id, strlen(id));
        memcpy(home_at, id, strlen(id));
        struct buf b = BUF_INIT(8192);
        (void)buf_append(&b, r.text, (size_t)(mark - r.text));
        (void)buf_printf(&b, "\"namespace\":\"n%zu\",\"name\":\"w%zu\"%s", i % 100, i,
                         mark + strlen("\"namespace\":\"alice\",\"name\":\"dev\""));
        (void)snprintf(key, sizeof key, "ws/n%zu/w%zu", i % 100, i);
        struct store_op op = store_put(slice_str(key), buf_view(&b));
        bool is_done = false;
        store_commit(w->memory, slice_str(tenant_id(w, "acme")), &op, 1, on_put, &is_done);
        run_until(w, &is_done);
        buf_fini(&b);
    }
    world_stop(w);
    int64_t begin = clock_mono_ms(&clock_system);
    world_start(w);
    print_message("%zu workspaces: started in %lld ms\n", n,
                  (long long)(clock_mono_ms(&clock_system) - begin));
    assert_int_equal(scheduler_count(w->s, SL("acme"), WS_SUSPENDED), n + 1);
    assert_non_null(scheduler_find(w->s, SL("acme"), SL("n1"), SL("w101")));
    begin = clock_mono_ms(&clock_system);
    for (size_t i = 0; i < n; i++) {
        char ns[16], name[32];
        (void)snprintf(ns, sizeof ns, "n%zu", i % 100);
        (void)snprintf(name, sizeof name, "w%zu", i);
        assert_non_null(scheduler_find(w->s, SL("acme"), slice_str(ns), slice_str(name)));
    }
    print_message("%zu look-ups: %lld ms\n", n, (long long)(clock_mono_ms(&clock_system) - begin));
    world_free(w);
}

/* --- the simulation --- */
#define SIM_NAMES 6

static void on_sim_answer(const struct workspace_answer *a, void *data)
{
    struct answer *x = data;
    struct world *w = x->w;
    answer_take(a, x);
    if (a->code == 0 && x->is_delete && a->ws == NULL && x->had_ws == false && x->id[0] == '\0') {
        list_add(w->deleted, &w->n_deleted, x->msg); /* msg holds the id that was to go */
    }
    mem_free(x);
}

static struct answer *sim_answer(struct world *w)
{
    struct answer *x = MEM_NEW(struct answer);
    x->w = w;
    return x;
}

static void sim_step(struct world *w)
{
    char name[16];
    (void)snprintf(name, sizeof name, "w%d", (int)dice(w, SIM_NAMES));
    struct workspace *ws = find(w, "alice", name);
    switch (dice(w, 12)) {
    case 0:
    case 1:
    case 2:
    case 3: {
        struct workspace_request r = request("acme", "alice", name);
        r.wait_ms = (int64_t)dice(w, 40);
        r.retry = dice(w, 2) == 0;
        (void)scheduler_find_or_create(w->s, &r, on_sim_answer, sim_answer(w));
        break;
    }
    case 4:
        if (ws != NULL) {
            struct answer *x = sim_answer(w);
            x->is_delete = true;
            (void)snprintf(x->msg, sizeof x->msg, "%s", ws->id);
            if (!in_list(w->doomed, w->n_doomed, ws->id)) {
                list_add(w->doomed, &w->n_doomed, ws->id);
            }
            (void)scheduler_delete(w->s, SL("acme"), SL("alice"), slice_str(name), false,
                                   (int64_t)dice(w, 60), on_sim_answer, x);
        }
        break;
    case 5:
        if (ws != NULL) {
            static const enum suspend_cause causes[] = {SUSPEND_IDLE, SUSPEND_OPERATOR, SUSPEND_BUDGET};
            (void)scheduler_suspend(w->s, ws, causes[dice(w, 3)], (int64_t)dice(w, 20), on_sim_answer,
                                    sim_answer(w));
        }
        break;
    case 6:
        if (ws != NULL) {
            (void)scheduler_resume(w->s, ws, (int64_t)dice(w, 20), on_sim_answer, sim_answer(w));
        }
        break;
    case 7:
        if (ws != NULL) {
            (void)scheduler_wake(w->s, ws, (int64_t)dice(w, 20), on_sim_answer, sim_answer(w));
        }
        break;
    case 8:
        if (ws != NULL && dice(w, 3) == 0) {
            (void)scheduler_restart(w->s, ws, (int64_t)dice(w, 20), on_sim_answer, sim_answer(w));
        }
        break;
    case 9: { /* a sandbox dies or vanishes */
        struct fake_sandbox *x = w->p[dice(w, 2)].sandboxes;
        if (x != NULL && x->state == SANDBOX_RUNNING && dice(w, 2) == 0) {
            x->state = SANDBOX_EXITED;
            if (dice(w, 2) == 0) {
                scheduler_on_provider_event(w->s, slice_str(x->id), slice_str(x->workspace), "exited");
            }
        }
        break;
    }
    case 10:
        if (ws != NULL) {
            scheduler_suspect(w->s, ws);
        }
        break;
    default:
        run_ms(w, (int64_t)dice(w, 6));
        break;
    }
}

/* What holds at every instant. */
static void sim_check(struct world *w)
{
    struct workspace *all[SIM_NAMES + 1];
    size_t n = scheduler_list(w->s, SL("acme"), SLICE_EMPTY, SLICE_EMPTY, NULL, NULL, all, SIM_NAMES + 1);
    assert_true(n <= SIM_NAMES);
    for (size_t i = 0; i < n; i++) {
        assert_true(fake_running_of(w, all[i]->id) <= 1);
        assert_false(in_list(w->deleted, w->n_deleted, all[i]->id));
    }
    for (size_t i = 0; i < w->n_created; i++) { /* nothing acknowledged is lost */
        if (!in_list(w->doomed, w->n_doomed, w->created[i])) {
            assert_non_null(scheduler_find_id(w->s, slice_str(w->created[i])));
        }
    }
}

static bool sim_is_settled(struct world *w, void *data)
{
    (void)data;
    struct workspace *all[SIM_NAMES + 1];
    size_t n = scheduler_list(w->s, SL("acme"), SLICE_EMPTY, SLICE_EMPTY, NULL, NULL, all, SIM_NAMES + 1);
    size_t wanted = 0, there = 0;
    for (size_t i = 0; i < n; i++) {
        const struct workspace *ws = all[i];
        if (ws->wish == WISH_DELETED || (ws->wish == WISH_RUNNING && ws->state != WS_READY) ||
            (ws->wish == WISH_SUSPENDED && ws->reason[0] != '\0')) {
            return false;
        }
        struct fake_key *k = fake_key_find(&w->gw, "litellm", ws->llm_key_hash);
        bool is_good = k != NULL && !k->is_blocked;
        if (w->gw.is_managed && is_good != (ws->wish == WISH_RUNNING)) {
            return false;
        }
        struct fake_sandbox *x = sandbox_of(w, ws);
        if (ws->wish == WISH_RUNNING && (x == NULL || x->state != SANDBOX_RUNNING)) {
            scheduler_suspect(w->s, all[i]); /* it died and nobody has said so: traffic would */
            return false;
        }
        wanted += x != NULL;
    }
    for (size_t i = 0; i < w->n_providers; i++) {
        struct fake_sandbox *x;
        DL_FOREACH (w->p[i].sandboxes, x) {
            there++;
        }
    }
    return there == wanted && w->outstanding == 0 && fake_keys_at(&w->gw, "litellm") <= n &&
           read_scan(w, "fleet", "revoke/").n == 0;
}

static void sim_end(struct world *w)
{
    w->p[0].faults = w->p[1].faults = w->gw.faults = 0;
    w->store.lose_percent = 0;
    run_ms(w, 20);                      /* what was just asked for gets into the store */
    run_while(w, sim_is_settled, NULL); /* everything gets where it should, no surplus is left */
    sim_check(w);
    const char *id = tenant_id(w, "acme");
    struct workspace *all[SIM_NAMES + 1];
    size_t n = scheduler_list(w->s, SL("acme"), SLICE_EMPTY, SLICE_EMPTY, NULL, NULL, all, SIM_NAMES + 1),
           running = 0;
    for (size_t i = 0; i < n; i++) {
        running += all[i]->wish == WISH_RUNNING;
        char key[128];
        (void)snprintf(key, sizeof key, "llmkey/%s", all[i]->llm_key_hash);
        assert_int_equal(strncmp(read_record(w, "fleet", key).text, "valid", 5), 0);
        if (all[i]->wish == WISH_RUNNING) {
            char hash[SHA256_HEX_SIZE];
            struct fake_sandbox *x = sandbox_of(w, all[i]);
            sha256_hex(slice_str(x->key), hash);
            assert_string_equal(hash, all[i]->llm_key_hash);
            assert_string_equal(x->token, all[i]->server_token);
        }
    }
    assert_int_equal(read_scan(w, id, "ws/").n, n);
    assert_int_equal(read_counter(w, id, "count/workspaces"), n);
    assert_int_equal(read_counter(w, id, "count/running"), running);
    assert_int_equal(read_counter(w, id, "count/running/alice"), running);
    for (size_t i = 0; i < w->n_deleted; i++) { /* an acknowledged delete is gone, home and all */
        for (size_t k = 0; k < w->n_providers; k++) {
            struct fake_sandbox *x;
            DL_FOREACH (w->p[k].sandboxes, x) {
                assert_string_not_equal(x->workspace, w->deleted[i]);
            }
            struct fake_home *h = fake_home_find(&w->p[k], w->deleted[i]);
            assert_true(h == NULL || h->is_late); /* an empty one may stay when a crash comes between */
        }
    }
}

static void simulate(uint64_t seed, int steps)
{
    print_message("seed %llu\n", (unsigned long long)seed);
    struct world *w = world_new(seed);
    w->p[0].asks = 1;
    w->is_simulation = true;
    w->gw.name = "litellm";
    w->gw.is_managed = seed % 3 != 0;
    w->p[0].keeps_memory = seed % 2 == 0;
    for (int i = 0; i < steps; i++) {
        if (i % 50 == 0) {
            w->p[0].faults = (int)dice(w, 4) * 8;
            w->p[1].faults = (int)dice(w, 4) * 8;
            w->store.lose_percent = dice(w, 3) == 0 ? 5 : 0;
            w->gw.faults = (int)dice(w, 4) * 8;
        }
        sim_step(w);
        if (dice(w, 3) == 0) {
            run_ms(w, (int64_t)dice(w, 4));
        }
        if (dice(w, 60) == 0) {
            world_crash(w);
        }
        sim_check(w);
    }
    sim_end(w);
    world_free(w);
}

static void test_simulation(void **state)
{
    (void)state;
    const char *seed = getenv("REEVE_SEED"), *rounds = getenv("REEVE_ROUNDS");
    if (seed != NULL) {
        simulate(strtoull(seed, NULL, 10), 400);
        return;
    }
    uint64_t n = rounds != NULL ? strtoull(rounds, NULL, 10) : 6;
    for (uint64_t i = 0; i < n; i++) {
        simulate(1000 + i, 400);
    }
}

int main(void)
{
    log_setup(LOG_ERROR, LOG_FORM_AUTO, STDERR_FILENO, &clock_system);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_no_wait_and_cancel),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_quotas),
        cmocka_unit_test(test_delete),
        cmocka_unit_test(test_keep_home),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_sandbox_dies),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_waits_for_an_image),
        cmocka_unit_test(test_elsewhere),
        cmocka_unit_test(test_breaker),
        cmocka_unit_test(test_unhealthy),
        cmocka_unit_test(test_adopts),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_lost_commits),
        cmocka_unit_test(test_other_controller),
        cmocka_unit_test(test_limited_starts),
        cmocka_unit_test(test_provider_gone),
        cmocka_unit_test(test_dies_while_starting),
        cmocka_unit_test(test_flapping),
        cmocka_unit_test(test_crash_loop),
        cmocka_unit_test(test_suspect),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_simulation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
