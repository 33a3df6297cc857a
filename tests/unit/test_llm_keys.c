/* LLM keys at gateways with a key API: made before a server starts, blocked while it sleeps, renewed with its
 * process, moved with the tenant, and revoked for certain, however the gateway behaves. */
#include "tests/unit/scheduler_world.h"

#include "base/core/crypto.h"
#include "base/core/log.h"

static struct world *managed_world(uint64_t seed)
{
    struct world *w = world_new(seed);
    w->gw.name = "litellm";
    w->gw.is_managed = true;
    return w;
}

static struct fake_key *key_of(struct world *w, const struct workspace *ws)
{
    return fake_key_find(&w->gw, w->gw.name, ws->llm_key_hash);
}

static bool is_ready(struct world *w, void *data)
{
    struct workspace *ws = find(w, "alice", data);
    return ws != NULL && ws->state == WS_READY && ws->reason[0] == '\0';
}
static bool is_blocked(struct world *w, void *data)
{
    struct workspace *ws = find(w, "alice", data);
    struct fake_key *k = ws != NULL ? key_of(w, ws) : NULL;
    return ws != NULL && ws->state == WS_SUSPENDED && (k == NULL || k->is_blocked) && ws->reason[0] == '\0';
}
static bool has_keys(struct world *w, void *data)
{
    return fake_keys_at(&w->gw, "litellm") == *(size_t *)data;
}
static bool has_nothing_to_revoke(struct world *w, void *data)
{
    (void)data;
    struct scheduler_stats s;
    scheduler_stats(w->s, &s);
    return read_scan(w, "fleet", "revoke/").n == 0 && s.keys_to_revoke == 0;
}
static bool has_reason(struct world *w, void *data)
{
    struct workspace *ws = find(w, "alice", "dev");
    return ws != NULL && strstr(ws->reason, data) != NULL;
}
static void keys_are(struct world *w, size_t n)
{
    run_while(w, has_keys, &n);
}
static void to_suspend(struct world *w, const char *name)
{
    struct answer a = {.w = w};
    (void)scheduler_suspend(w->s, find(w, "alice", name), SUSPEND_OPERATOR, 5000, on_answer, &a);
    run_until(w, &a.is_done);
    assert_int_equal(a.code, 0);
}
static struct answer to_resume(struct world *w, const char *name)
{
    struct answer a = {.w = w};
    (void)scheduler_resume(w->s, find(w, "alice", name), 5000, on_answer, &a);
    run_until(w, &a.is_done);
    return a;
}

static void test_life(void **state)
{
    (void)state;
    struct world *w = managed_world(1);
    assert_int_equal(put(w, "alice", "dev").state, WS_READY);
    struct workspace *ws = find(w, "alice", "dev");
    assert_non_null(key_of(w, ws));
    assert_int_equal(w->gw.acts[GATEWAY_KEY_MAKE], 1);
    assert_non_null(
        strstr(read_record(w, tenant_id(w, "acme"), "ws/alice/dev").text, "\"key_state\":\"live\""));
    world_crash(w); /* a sandbox that runs is adopted without a word to the gateway */
    run_while(w, is_ready, "dev");
    assert_int_equal(w->gw.acts[GATEWAY_KEY_MAKE], 1);
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, 0);
    keys_are(w, 0);
    run_while(w, has_nothing_to_revoke, NULL);
    assert_int_equal(w->gw.acts[GATEWAY_KEY_REVOKE], 1);
    world_free(w);
}

static void test_sleeps(void **state)
{
    (void)state;
    for (int keeps = 0; keeps < 2; keeps++) {
        struct world *w = managed_world(2);
        w->p[0].keeps_memory = w->p[1].keeps_memory = keeps != 0;
        (void)put(w, "alice", "dev");
        struct workspace *ws = find(w, "alice", "dev");
        char hash[SHA256_HEX_SIZE];
        memcpy(hash, ws->llm_key_hash, sizeof hash);
        to_suspend(w, "dev");
        run_while(w, is_blocked, "dev");
        assert_non_null(key_of(w, ws));
        world_crash(w);
        ws = find(w, "alice", "dev");
        assert_int_equal(ws->state, WS_SUSPENDED);
        assert_int_equal(to_resume(w, "dev").state, WS_READY);
        assert_int_equal(ws->generation, 1);
        assert_false(key_of(w, ws)->is_blocked);
        assert_int_equal(strcmp(hash, ws->llm_key_hash) == 0, keeps); /* a new process, a new key */
        run_while(w, has_nothing_to_revoke, NULL);
        keys_are(w, 1);
        sha256_hex(slice_str(sandbox_of(w, ws)->key), hash);
        assert_string_equal(hash, ws->llm_key_hash);
        world_free(w);
    }
}

static void test_renews(void **state)
{
    (void)state;
    struct world *w = managed_world(3);
    (void)put(w, "alice", "dev");
    struct workspace *ws = find(w, "alice", "dev");
    char first[SHA256_HEX_SIZE];
    memcpy(first, ws->llm_key_hash, sizeof first);
    struct answer a = {.w = w};
    (void)scheduler_restart(w->s, ws, 5000, on_answer, &a);
    run_until(w, &a.is_done);
    assert_int_equal(a.state, WS_READY);
    assert_string_not_equal(ws->llm_key_hash, first);
    keys_are(w, 1);
    assert_non_null(key_of(w, ws));
    /* a sandbox that died gets a new one, and with it a new key */
    memcpy(first, ws->llm_key_hash, sizeof first);
    sandbox_of(w, ws)->state = SANDBOX_EXITED;
    scheduler_on_provider_event(w->s, ws->sandbox_id, slice_str(ws->id), "exited");
    while (ws->generation < 3 || ws->state != WS_READY) {
        run_ms(w, 1);
    }
    assert_string_not_equal(ws->llm_key_hash, first);
    keys_are(w, 1);
    run_while(w, has_nothing_to_revoke, NULL);
    world_free(w);
}

static void test_gateway_refuses(void **state)
{
    (void)state;
    struct world *w = managed_world(4);
    w->gw.fail_times[GATEWAY_KEY_MAKE] = 3;
    w->gw.acts_anyway = true; /* the answer is lost: made all the same */
    struct answer a = put(w, "alice", "dev");
    assert_int_equal(a.state, WS_READY);
    assert_int_equal(w->gw.acts[GATEWAY_KEY_MAKE], 4);
    keys_are(w, 1);
    assert_int_equal(w->p[0].calls[F_CREATE], 1);
    /* for good: the reason says who refuses what; no sandbox is made meanwhile */
    w->gw.fail_times[GATEWAY_KEY_MAKE] = -1;
    w->gw.acts_anyway = false;
    a = put(w, "alice", "two");
    assert_int_equal(a.state, WS_FAILED);
    assert_string_equal(find(w, "alice", "two")->reason, "gateway litellm: key/generate: 401 scripted");
    assert_int_equal(w->p[0].calls[F_CREATE], 1);
    w->gw.fail_times[GATEWAY_KEY_MAKE] = 0; /* tried again by itself */
    run_while(w, is_ready, "two");
    /* to block: it sleeps at once, and says what is missing */
    w->gw.fail_times[GATEWAY_KEY_BLOCK] = 2;
    to_suspend(w, "dev");
    run_while(w, has_reason, "gateway litellm: key/block: 401 scripted");
    run_while(w, is_blocked, "dev");
    world_free(w);
}

static void test_lost_at_gateway(void **state)
{
    (void)state;
    struct world *w = managed_world(5);
    w->p[0].keeps_memory = true;
    (void)put(w, "alice", "dev");
    to_suspend(w, "dev");
    run_while(w, is_blocked, "dev");
    fake_key_drop(&w->gw, w->gw.keys); /* somebody deleted it there */
    assert_int_equal(to_resume(w, "dev").state, WS_READY);
    keys_are(w, 1);
    assert_false(key_of(w, find(w, "alice", "dev"))->is_blocked);
    world_free(w);
}

static void test_woken_while_blocking(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        struct world *w = managed_world(600 + (uint64_t)i);
        w->p[0].keeps_memory = i % 2 == 0;
        (void)put(w, "alice", "dev");
        struct workspace *ws = find(w, "alice", "dev");
        w->gw.fail_times[GATEWAY_KEY_BLOCK] = i % 4 < 2 ? 1 : 0;
        w->gw.acts_anyway = true;
        struct answer s = {.w = w};
        (void)scheduler_suspend(w->s, ws, SUSPEND_OPERATOR, 0, on_answer, &s);
        run_ms(w, i % 7);
        assert_int_equal(to_resume(w, "dev").state, WS_READY);
        run_until(w, &s.is_done);
        assert_false(key_of(w, ws)->is_blocked);
        run_while(w, has_nothing_to_revoke, NULL);
        keys_are(w, 1);
        world_free(w);
    }
}

static void test_delete_while_away(void **state)
{
    (void)state;
    struct world *w = managed_world(7);
    (void)put(w, "alice", "dev");
    (void)put(w, "alice", "two");
    w->gw.away = "litellm";
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, 0); /* holds up nothing */
    assert_null(find(w, "alice", "dev"));
    run_ms(w, 30);
    keys_are(w, 2);
    struct scheduler_stats s;
    scheduler_stats(w->s, &s);
    assert_int_equal(s.keys_to_revoke, 1);
    assert_true(s.key_failures > 0);
    world_crash(w);
    run_ms(w, 10);
    scheduler_stats(w->s, &s);
    assert_int_equal(s.keys_to_revoke, 1);
    w->gw.away = NULL;
    keys_are(w, 1);
    run_while(w, has_nothing_to_revoke, NULL);
    assert_non_null(key_of(w, find(w, "alice", "two")));
    world_free(w);
}

/* Asked for, not answered, deleted meanwhile; and then the gateway makes it after all. */
static void test_made_too_late(void **state)
{
    (void)state;
    struct world *w = managed_world(11);
    w->timing.late_ms = 3000;
    world_stop(w);
    world_start(w);
    w->gw.fail_times[GATEWAY_KEY_MAKE] = -1;
    w->gw.late_ms = 60;
    struct workspace_request r = request("acme", "alice", "dev");
    r.wait_ms = 0;
    (void)put_request(w, &r);
    run_while(w, has_reason, "gateway litellm: key/generate: 401 scripted");
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, 0);
    keys_are(w, 1); /* there it is */
    w->gw.fail_times[GATEWAY_KEY_MAKE] = 0;
    w->gw.late_ms = 0;
    keys_are(w, 0);
    run_while(w, has_nothing_to_revoke, NULL);
    assert_true(w->gw.acts[GATEWAY_KEY_REVOKE] >= 2);
    world_free(w);
}

static void on_many_put(const struct store_commit_answer *a, void *data);

/* Recorded before a round began, committed after that had read its page: it was not in that round. */
static void test_committed_late(void **state)
{
    (void)state;
    struct world *w = managed_world(12);
    char key[160], text[128];
    (void)put(w, "alice", "dev");
    (void)put(w, "alice", "two");
    int64_t since_ms = clock_wall_ms(w->loop.clock);
    run_ms(w, 20);
    assert_int_equal(del(w, "alice", "two", false, 5000).code, 0);
    run_while(w, has_nothing_to_revoke, NULL); /* a round that saw nothing of it */
    struct fake_act make = {.what = GATEWAY_KEY_MAKE, .gateway = "litellm"};
    sha256_hex(SL("late"), make.hash);
    (void)fake_act_do(&w->gw, &make);
    (void)snprintf(key, sizeof key, "revoke/litellm/%s", make.hash);
    (void)snprintf(text, sizeof text, "{\"since_ms\":%lld,\"again_ms\":%lld}", (long long)since_ms,
                   (long long)since_ms + 60000);
    const struct store_op op = store_put(slice_str(key), slice_str(text));
    store_commit(w->memory, SL("fleet"), &op, 1, on_many_put, NULL);
    run_ms(w, 5);
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, 0);
    keys_are(w, 0); /* at once, not when it is due again */
    world_free(w);
}

static void on_many_put(const struct store_commit_answer *a, void *data)
{
    (void)data;
    assert_int_equal(a->code, 0);
}

/* However many: a page in memory, a few in flight, all gone in the end, and another gateway is not held up.
 */
static void test_many(void **state)
{
    (void)state;
    struct world *w = managed_world(8);
    enum { MANY = 3000 };
    struct store_op ops[1000];
    static char keys[MANY][160];
    for (size_t i = 0; i < MANY; i += ARRAY_LEN(ops)) {
        for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
            char hash[SHA256_HEX_SIZE], seed[32];
            (void)snprintf(seed, sizeof seed, "%zu", i + k);
            sha256_hex(slice_str(seed), hash);
            struct fake_act make = {.what = GATEWAY_KEY_MAKE};
            (void)snprintf(make.gateway, sizeof make.gateway, "%s", (i + k) % 3 == 0 ? "away" : "litellm");
            memcpy(make.hash, hash, sizeof hash);
            (void)fake_act_do(&w->gw, &make);
            (void)snprintf(keys[i + k], sizeof keys[0], "revoke/%s/%s", make.gateway, hash);
            ops[k] = store_put(slice_str(keys[i + k]), SL("{}"));
        }
        store_commit(w->memory, SL("fleet"), ops, ARRAY_LEN(ops), on_many_put, NULL);
    }
    run_ms(w, 5);
    w->gw.away = "away";
    w->gw.faults = 5;
    world_crash(w); /* a new process finds them */
    keys_are(w, 0);
    assert_int_equal(fake_keys_at(&w->gw, "away"), MANY / 3);
    assert_true(w->gw.most_in_flight <= 16);
    w->gw.away = NULL;
    w->gw.faults = 0;
    run_while(w, has_nothing_to_revoke, NULL);
    assert_int_equal(fake_keys_at(&w->gw, "away"), 0);
    world_free(w);
}

static void test_moves(void **state)
{
    (void)state;
    struct world *w = managed_world(9);
    w->p[0].keeps_memory = true;
    (void)put(w, "alice", "dev");
    (void)put(w, "alice", "two");
    struct workspace *ws = find(w, "alice", "dev");
    char hash[SHA256_HEX_SIZE];
    memcpy(hash, ws->llm_key_hash, sizeof hash);
    to_suspend(w, "two");
    run_while(w, is_blocked, "two");
    w->gw.name = "other";
    w->gw.fail_times[GATEWAY_KEY_MAKE] = 2; /* ready it stays, and says what it waits for */
    scheduler_reload(w->s, w->tenancy);
    run_while(w, has_reason, "gateway other: key/generate: 401 scripted");
    assert_int_equal(ws->state, WS_READY);
    run_while(w, is_ready, "dev");
    run_while(w, has_nothing_to_revoke, NULL);
    assert_non_null(key_of(w, ws));
    assert_string_equal(ws->llm_key_hash, hash); /* the process has this one */
    assert_int_equal(fake_keys_at(&w->gw, "litellm"), 0);
    assert_int_equal(to_resume(w, "two").state, WS_READY);
    assert_int_equal(fake_keys_at(&w->gw, "other"), 2);
    /* to a gateway that knows keys by other means, and back while the revocation is still to come */
    w->gw.away = "other";
    w->gw.name = "plain";
    w->gw.is_managed = false;
    scheduler_reload(w->s, w->tenancy);
    run_ms(w, 20);
    w->gw.name = "other";
    w->gw.is_managed = true;
    scheduler_reload(w->s, w->tenancy);
    run_while(w, has_reason, "gateway other: the key is still being revoked there");
    w->gw.away = NULL;
    run_while(w, is_ready, "dev");
    run_while(w, is_ready, "two");
    run_while(w, has_nothing_to_revoke, NULL);
    assert_int_equal(fake_keys_at(&w->gw, "other"), 2);
    world_free(w);
}

/* The file gets the gateway's admin key later: keys that are in use are made there then. */
static void test_admin_key_comes_and_goes(void **state)
{
    (void)state;
    struct world *w = world_new(10);
    w->gw.name = "litellm";
    (void)put(w, "alice", "dev");
    assert_int_equal(w->gw.acts[GATEWAY_KEY_MAKE], 0);
    w->gw.is_managed = true;
    scheduler_reload(w->s, w->tenancy);
    keys_are(w, 1);
    run_while(w, is_ready, "dev");
    w->gw.is_managed = false;
    scheduler_reload(w->s, w->tenancy);
    w->gw.away = "litellm";
    assert_int_equal(del(w, "alice", "dev", false, 5000).code, 0);
    run_ms(w, 20);
    keys_are(w, 1);
    w->gw.away = NULL;
    keys_are(w, 0);
    world_free(w);
}

int main(void)
{
    log_setup(LOG_ERROR, LOG_FORM_AUTO, STDERR_FILENO, &clock_system);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_sleeps),
        cmocka_unit_test(test_renews),
        cmocka_unit_test(test_gateway_refuses),
        cmocka_unit_test(test_lost_at_gateway),
        cmocka_unit_test(test_woken_while_blocking),
        cmocka_unit_test(test_delete_while_away),
        cmocka_unit_test(test_made_too_late),
        cmocka_unit_test(test_committed_late),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_admin_key_comes_and_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
