/* revoke: keys that are still to be revoked at their gateways. A record in partition `fleet` names each one,
 * written in the commit that marks the key as revoked, and removed only when the gateway has confirmed.
 *
 * Happy path: the commit kicks the key's gateway here; its records are read a page at a time, REVOKE_PARALLEL
 * are asked for together, each record goes when its key is gone. Failure paths: a gateway that refuses us or
 * is away is asked again after a backoff, one key at a time, always the next one, so that a single bad key
 * holds up no other; what failed comes again in the next round. A key of which the gateway never said that it
 * made it is revoked again after a while, because a lost request may take effect after all. Each gateway has
 * its own pace. On start and every SURVEY_MS all records are counted, which finds those of a former process
 * too. In memory is one page of each gateway, however many there are. */
#include "scheduler/entry.h"

#include <stdio.h>
#include <string.h>

#include "base/core/log.h"
#include "base/core/mem.h"

#define REVOKE_PARALLEL 8 /* asked of one gateway together */
#define REVOKE_PAGE     32
#define SURVEY_MS       60000
#define PAUSE_MAX_MS    15000 /* between two tries at a gateway that fails: a key that lives is worth a call */
#define SURVEY_PAGE     STORE_SCAN_MAX
#define COMMIT_MS       10000 /* so long after its time a record may become visible; a second call does no harm */
#define GATEWAYS_MAX    1024 /* with something to revoke; more wait for the next survey */
#define PREFIX          "revoke/"

struct row { /* a key to be revoked */
    char hash[SHA256_HEX_SIZE];
    int64_t since_ms, again_ms; /* wall; again_ms 0: once is enough */
};

struct outlet { /* a gateway */
    struct revoker *r;
    struct slice name; /* interned */
    char after[REVOKE_KEY_MAX];
    struct row rows[REVOKE_PAGE];
    size_t n, next; /* of the page: read, begun */
    unsigned in_flight;
    bool is_reading, is_last;   /* page of the round */
    bool is_wanted, has_failed; /* another round: there is a new one; one of this round has failed */
    unsigned failures;          /* in a row */
    int64_t retry_ms;           /* monotonic: nothing is asked before */
    int64_t round_ms, asked_ms; /* wall: when this round began, and the last one that failed in nothing */
    int64_t again_ms;           /* monotonic: when the next key is to be revoked again; 0: none */
    size_t pending, n_surveyed;
    struct outlet *next_outlet;
};

struct revocation {
    struct outlet *o;
    struct row row;
};

struct revoker {
    struct scheduler *s;
    struct outlet *outlets;
    size_t n_outlets;
    struct timer timer;
    int64_t survey_ms; /* monotonic: when the next one is due */
    char survey_after[REVOKE_KEY_MAX];
    bool is_surveying, is_started;
};

static void outlet_pump(struct outlet *o);

void revoke_key(char out[REVOKE_KEY_MAX], struct slice gateway, const char *hash)
{
    (void)snprintf(out, REVOKE_KEY_MAX, PREFIX "%.*s/%.64s", SL_ARG(gateway), hash); /* names: 63 bytes */
}

static struct outlet *outlet_find(struct revoker *r, struct slice gateway)
{
    for (struct outlet *o = r->outlets; o != NULL; o = o->next_outlet) {
        if (slice_eq(o->name, gateway)) {
            return o;
        }
    }
    if (r->n_outlets >= GATEWAYS_MAX) {
        return NULL;
    }
    struct outlet *o = MEM_NEW(struct outlet);
    o->r = r;
    o->name = scheduler_intern(r->s, gateway);
    o->is_last = true;
    o->next_outlet = r->outlets;
    r->outlets = o;
    r->n_outlets++;
    return o;
}

/* --- time --- */
static void timer_arm(struct revoker *r)
{
    int64_t now = now_mono(r->s), at = r->survey_ms;
    if (r->s->is_closing) {
        return;
    }
    for (struct outlet *o = r->outlets; o != NULL; o = o->next_outlet) {
        int64_t due = o->retry_ms > now ? o->retry_ms : o->again_ms;
        if (due > now && due < at) { /* what is overdue waits for something else than time */
            at = due;
        }
    }
    timer_start(&r->timer, at > now ? at - now : 1); /* 0 would fire within the same turn, for ever */
}

/* --- one key --- */
static void outlet_failed(struct outlet *o, const char *why)
{
    struct scheduler *s = o->r->s;
    o->has_failed = true;
    s->stats.key_failures++;
    if (o->retry_ms > now_mono(s)) {
        return; /* several were under way: one failure of the gateway */
    }
    o->failures += o->failures < UINT16_MAX;
    int64_t pause = work_backoff_ms(s, o->failures);
    o->retry_ms = now_mono(s) + (pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS);
    if ((o->failures & (o->failures - 1)) == 0) { /* the first, then ever less often */
        log_warn("llm_key.revocation_delayed", LF_SLICE("gateway", o->name), LF_INT("pending", o->pending),
                 LF_INT("failures", o->failures), LF_STR("error", why));
    }
    timer_arm(o->r);
}

static void on_record_removed(const struct store_commit_answer *a, void *data)
{
    struct revocation *v = data;
    struct outlet *o = v->o;
    struct scheduler *s = o->r->s;
    o->in_flight--;
    if (a->code != 0) { /* asked once more: the gateway will say that it does not know it */
        outlet_failed(o, a->err != NULL ? a->err->msg : err_title(a->code));
    } else {
        o->pending -= o->pending > 0;
        s->stats.keys_revoked++;
        log_info("llm_key.revoked", LF_SLICE("gateway", o->name), LF_STR("key_hash", v->row.hash));
    }
    mem_free(v);
    outlet_pump(o);
    scheduler_idle(s);
}

/* A request to make it may still be under way. A clock that went back does not make it wait for ever. */
static bool is_early(const struct outlet *o, const struct row *row)
{
    int64_t now = now_wall(o->r->s);
    return row->since_ms <= now && now < row->again_ms;
}

static void again_later(struct outlet *o, const struct row *row)
{
    int64_t at = now_mono(o->r->s) + row->again_ms - now_wall(o->r->s);
    if (o->again_ms == 0 || at < o->again_ms) {
        o->again_ms = at;
        timer_arm(o->r);
    }
}

static void on_revoked(int code, const struct err *err, void *data)
{
    struct revocation *v = data;
    struct outlet *o = v->o;
    struct scheduler *s = o->r->s;
    if (code != 0) {
        o->in_flight--;
        mem_free(v);
        if (!s->is_closing) {
            outlet_failed(o, err != NULL && err->msg[0] != '\0' ? err->msg : err_title(code));
        }
        outlet_pump(o);
        scheduler_idle(s);
        return;
    }
    if (o->failures > 0) {
        log_info("llm_key.revocation_resumed", LF_SLICE("gateway", o->name), LF_INT("pending", o->pending));
    }
    o->failures = 0;
    o->retry_ms = 0;
    if (is_early(o, &v->row)) {
        again_later(o, &v->row);
        o->in_flight--;
        mem_free(v);
        outlet_pump(o);
        scheduler_idle(s);
        return;
    }
    char key[REVOKE_KEY_MAX];
    revoke_key(key, o->name, v->row.hash);
    const struct store_op op = store_delete(slice_str(key));
    store_commit(s->store, SL("fleet"), &op, 1, on_record_removed, v);
}

static void revocation_start(struct outlet *o, const struct row *row)
{
    struct scheduler *s = o->r->s;
    const struct gateway_keys *g = s->o.gateway_keys;
    struct revocation *v = MEM_NEW(struct revocation);
    v->o = o;
    v->row = *row;
    o->in_flight++;
    scheduler_busy(s);
    const struct gateway_key k = {.gateway = o->name, .hash = v->row.hash};
    g->act(g->data, GATEWAY_KEY_REVOKE, &k, on_revoked, v);
}

/* --- one gateway --- */
static void row_read(struct row *row, struct slice hash, struct slice value)
{
    struct json *j = NULL;
    memset(row, 0, sizeof *row);
    memcpy(row->hash, hash.p, hash.n);
    if (json_parse(value, NULL, &j, NULL) == 0) { /* else it is revoked once, as its name says */
        (void)json_i64(json_get(j, "since_ms"), &row->since_ms);
        (void)json_i64(json_get(j, "again_ms"), &row->again_ms);
    }
    json_free(j);
}

static void on_page(int code, const struct store_record *r, size_t n, bool has_more, const struct err *err,
                    void *data)
{
    struct outlet *o = data;
    struct scheduler *s = o->r->s;
    size_t skip = sizeof PREFIX - 1 + o->name.n + 1;
    o->is_reading = false;
    if (code != 0) {
        o->is_last = true;
        outlet_failed(o, err != NULL ? err->msg : err_title(code));
        scheduler_idle(s);
        return;
    }
    o->n = o->next = 0;
    o->is_last = !has_more;
    for (size_t i = 0; i < n; i++) {
        struct slice hash = slice_from(r[i].key, skip);
        (void)snprintf(o->after, sizeof o->after, "%.*s", SL_ARG(r[i].key));
        if (hash.n == SHA256_HEX_SIZE - 1) {
            row_read(&o->rows[o->n++], hash, r[i].value);
        }
    }
    outlet_pump(o);
    scheduler_idle(s);
}

static void page_read(struct outlet *o)
{
    char prefix[REVOKE_KEY_MAX];
    revoke_key(prefix, o->name, "");
    o->is_reading = true;
    scheduler_busy(o->r->s);
    store_scan(o->r->s->store, SL("fleet"), slice_str(prefix), slice_str(o->after), REVOKE_PAGE, on_page, o);
}

static void outlet_pump(struct outlet *o)
{
    struct scheduler *s = o->r->s;
    if (s->is_closing || !o->r->is_started || o->is_reading || o->retry_ms > now_mono(s)) {
        return;
    }
    unsigned most = o->failures > 0 ? 1 : REVOKE_PARALLEL;
    while (o->next < o->n && o->in_flight < most) {
        const struct row *row = &o->rows[o->next++];
        if (is_early(o, row) && row->since_ms + COMMIT_MS < o->asked_ms) {
            again_later(o, row); /* it was revoked once */
        } else {
            revocation_start(o, row);
        }
    }
    if (o->next < o->n || o->in_flight > 0) {
        return;
    }
    if (o->is_last) { /* the round is over */
        bool is_again = o->again_ms != 0 && o->again_ms <= now_mono(s);
        o->asked_ms = o->has_failed ? o->asked_ms : o->round_ms;
        if (!o->is_wanted && !o->has_failed && !is_again) {
            return;
        }
        o->is_wanted = o->has_failed = false;
        o->again_ms = 0; /* found anew */
        o->round_ms = now_wall(s);
        o->after[0] = '\0';
    }
    page_read(o);
}

/* --- the survey --- */
static void survey_end(struct revoker *r, bool is_whole)
{
    r->is_surveying = false;
    r->survey_ms = now_mono(r->s) + SURVEY_MS;
    for (struct outlet *o = r->outlets; is_whole && o != NULL; o = o->next_outlet) {
        o->pending = o->n_surveyed;
        if (o->pending > 0) {
            o->is_wanted = true;
            outlet_pump(o);
        }
    }
    timer_arm(r);
}

static void survey_next(struct revoker *r);

static void on_survey(int code, const struct store_record *x, size_t n, bool has_more, const struct err *err,
                      void *data)
{
    struct revoker *r = data;
    struct scheduler *s = r->s;
    if (code != 0) {
        log_debug("llm_key.survey_failed", LF_STR("error", err != NULL ? err->msg : err_title(code)));
    }
    for (size_t i = 0; i < n; i++) {
        struct slice rest = slice_from(x[i].key, sizeof PREFIX - 1), name;
        struct outlet *o = slice_cut(&rest, '/', &name) ? outlet_find(r, name) : NULL;
        if (o != NULL) {
            o->n_surveyed++;
        }
        (void)snprintf(r->survey_after, sizeof r->survey_after, "%.*s", SL_ARG(x[i].key));
    }
    if (code == 0 && has_more && n > 0 && !s->is_closing) {
        survey_next(r);
    } else {
        survey_end(r, code == 0);
    }
    scheduler_idle(s);
}

static void survey_next(struct revoker *r)
{
    scheduler_busy(r->s);
    store_scan(r->s->store, SL("fleet"), SL(PREFIX), slice_str(r->survey_after), SURVEY_PAGE, on_survey, r);
}

static void survey_begin(struct revoker *r)
{
    r->is_surveying = true;
    r->survey_after[0] = '\0';
    for (struct outlet *o = r->outlets; o != NULL; o = o->next_outlet) {
        o->n_surveyed = 0;
    }
    survey_next(r);
}

static void on_timer(void *data)
{
    struct revoker *r = data;
    for (struct outlet *o = r->outlets; o != NULL; o = o->next_outlet) {
        outlet_pump(o);
    }
    if (r->survey_ms <= now_mono(r->s) && !r->is_surveying) {
        r->survey_ms = now_mono(r->s) + SURVEY_MS;
        survey_begin(r);
    }
    timer_arm(r);
}

/* --- the revoker --- */
struct revoker *revoker_new(struct scheduler *s)
{
    struct revoker *r = MEM_NEW(struct revoker);
    r->s = s;
    timer_init(&r->timer, s->loop, on_timer, r);
    return r;
}

void revoker_start(struct revoker *r)
{
    if (r->s->o.gateway_keys == NULL) {
        return;
    }
    r->is_started = true;
    r->survey_ms = now_mono(r->s) + SURVEY_MS;
    survey_begin(r);
}

void revoker_kick(struct revoker *r, struct slice gateway)
{
    struct outlet *o = r->is_started ? outlet_find(r, gateway) : NULL;
    if (o == NULL) {
        return; /* the next survey finds it */
    }
    o->pending++;
    o->is_wanted = true;
    outlet_pump(o);
}

void revoker_reload(struct revoker *r)
{
    for (struct outlet *o = r->outlets; o != NULL; o = o->next_outlet) {
        o->retry_ms = 0;
        outlet_pump(o);
    }
}

size_t revoker_pending(const struct revoker *r)
{
    size_t n = 0;
    for (const struct outlet *o = r->outlets; o != NULL; o = o->next_outlet) {
        n += o->pending;
    }
    return n;
}

static void on_closed(void *data)
{
    struct revoker *r = data;
    scheduler_idle(r->s);
}

void revoker_close(struct revoker *r)
{
    scheduler_busy(r->s);
    timer_close(&r->timer, on_closed);
}

void revoker_free(struct revoker *r)
{
    while (r->outlets != NULL) {
        struct outlet *o = r->outlets;
        r->outlets = o->next_outlet;
        mem_free(o);
    }
    mem_free(r);
}
