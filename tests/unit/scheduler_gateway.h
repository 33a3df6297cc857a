/* The gateway of the scheduler's tests: keys that it holds, and answers that go wrong as scripted. Included
 * by scheduler_world.h, which has the world around it. */
#ifndef REEVE_TESTS_SCHEDULER_GATEWAY_H
#define REEVE_TESTS_SCHEDULER_GATEWAY_H

#define GATEWAY_ACTS 4

struct fake_key {
    char gateway[32], hash[SHA256_HEX_SIZE];
    bool is_blocked;
    struct fake_key *prev, *next;
};

struct fake_gateway {
    struct world *w;
    struct fake_key *keys;
    const char *name; /* the tenants' gateway now; NULL: none */
    bool is_managed;
    const char *away; /* this gateway answers nothing but failures */
    int faults;       /* percent of acts that go wrong, with their effect or without */
    int fail_times[GATEWAY_ACTS];
    bool acts_anyway; /* … with the effect */
    int64_t late_ms;  /* … which comes so long after the answer */
    unsigned acts[GATEWAY_ACTS], in_flight, most_in_flight;
};

struct fake_act {
    struct world *w;
    enum gateway_key_act what;
    char gateway[32], hash[SHA256_HEX_SIZE];
    uint64_t epoch;
    gateway_key_done_cb done;
    void *data;
    struct timer *timer;
    bool is_late; /* answered; the effect comes still */
};

static inline struct fake_key *fake_key_find(struct fake_gateway *g, const char *gateway, const char *hash)
{
    struct fake_key *k;
    DL_FOREACH (g->keys, k) {
        if (strcmp(k->gateway, gateway) == 0 && strcmp(k->hash, hash) == 0) {
            return k;
        }
    }
    return NULL;
}

static inline size_t fake_keys_at(struct fake_gateway *g, const char *gateway)
{
    size_t n = 0;
    struct fake_key *k;
    DL_FOREACH (g->keys, k) {
        n += strcmp(k->gateway, gateway) == 0;
    }
    return n;
}

static inline void fake_key_drop(struct fake_gateway *g, struct fake_key *k)
{
    DL_DELETE(g->keys, k);
    mem_free(k);
}

static inline int fake_act_do(struct fake_gateway *g, const struct fake_act *a)
{
    struct fake_key *k = fake_key_find(g, a->gateway, a->hash);
    switch (a->what) {
    case GATEWAY_KEY_MAKE:
        if (k == NULL) {
            k = MEM_NEW(struct fake_key);
            memcpy(k->gateway, a->gateway, sizeof k->gateway);
            memcpy(k->hash, a->hash, sizeof k->hash);
            DL_APPEND(g->keys, k);
        }
        k->is_blocked = false;
        return 0;
    case GATEWAY_KEY_BLOCK:
        if (k != NULL) {
            k->is_blocked = true;
        }
        return 0;
    case GATEWAY_KEY_UNBLOCK:
        if (k == NULL) {
            return E_NOT_FOUND;
        }
        k->is_blocked = false;
        return 0;
    case GATEWAY_KEY_REVOKE:
        if (k != NULL) {
            fake_key_drop(g, k);
        }
        return 0;
    }
    return 0;
}

static const char *const act_names[GATEWAY_ACTS] = {"key/generate", "key/block", "key/unblock", "key/delete"};
#endif
