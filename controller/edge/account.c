/* account: see account.h. */
#include "controller/edge/account.h"

#include <stdio.h>
#include <string.h>

#include "base/core/clock.h"
#include "base/core/mem.h"

#define AUDITS_AT_ONCE 10
#define AUDIT_EVERY_MS 30000

static const char *const kind_names[DECISION_KINDS] = {[DECISION_ALLOWED] = "allowed",
                                                       [DECISION_REFUSED] = "refused",
                                                       [DECISION_FAILED] = "failed",
                                                       [DECISION_CUT] = "cut"};

const char *decision_name(enum decision_kind k)
{
    must((size_t)k < ARRAY_LEN(kind_names));
    return kind_names[k];
}

/* Whole tokens per second, at most `most` of them saved. */
static void bucket_fill(struct bucket *b, uint64_t per_second, uint64_t most, int64_t now_ms)
{
    int64_t cap = (int64_t)most * 1000, passed = now_ms - b->at_ms;
    if (!b->is_used)
        b->left = cap;
    else /* at most 2^40 a second, for at most an hour: no overflow */
        b->left += (passed < 3600000 ? passed : 3600000) * (int64_t)per_second;
    if (b->left > cap)
        b->left = cap;
    b->is_used = true;
    b->at_ms = now_ms;
}

/* --- limits --- */

static void window_turn(struct account *a, int64_t wall_ms)
{
    int64_t at = a->limits.window_ms > 0 ? wall_ms / a->limits.window_ms : 0;
    if (at == a->window_at)
        return;
    a->window_at = at;
    a->window_bytes = 0;
}

bool account_is_exhausted(struct account *a, int64_t wall_ms)
{
    window_turn(a, wall_ms);
    return a->limits.window_bytes != 0 && a->window_bytes >= a->limits.window_bytes;
}

int account_open(struct account *a, const char *whose, unsigned line, int64_t mono_ms, int64_t wall_ms,
                 const char **ret_reason, struct err *err)
{
    const struct config_egress_limits *l = &a->limits;
    if (account_is_exhausted(a, wall_ms)) {
        char until[TIME_TEXT_MAX];
        time_format((wall_ms / l->window_ms + 1) * l->window_ms, until);
        *ret_reason = "window_bytes";
        return err_set(
            err, E_QUOTA,
            "%s has used the %llu bytes of this window, which ends %s (`network.limits.bytes`, line %u of "
            "the configuration)",
            whose, (unsigned long long)l->window_bytes, until, line);
    }
    if (l->tunnels != 0 && a->n_open >= l->tunnels) {
        *ret_reason = "tunnels";
        return err_set(
            err, E_RATE,
            "%s has %zu connections open, the limit is %llu (`network.limits.tunnels`, line %u of the "
            "configuration)",
            whose, a->n_open, (unsigned long long)l->tunnels, line);
    }
    if (l->new_per_second != 0) {
        bucket_fill(&a->opens, l->new_per_second, 2 * l->new_per_second, mono_ms);
        if (a->opens.left < 1000) {
            *ret_reason = "new_per_second";
            return err_set(
                err, E_RATE,
                "%s opens connections too fast, the limit is %llu (`network.limits.new_per_second`, "
                "line %u of the configuration)",
                whose, (unsigned long long)l->new_per_second, line);
        }
        a->opens.left -= 1000;
    }
    a->n_open++;
    return 0;
}

void account_closed(struct account *a)
{
    must(a->n_open > 0);
    a->n_open--;
}

void account_charge(struct account *a, size_t bytes, int64_t mono_ms, int64_t wall_ms)
{
    window_turn(a, wall_ms);
    a->window_bytes += bytes;
    if (a->limits.bytes_per_second == 0)
        return;
    bucket_fill(&a->bytes, a->limits.bytes_per_second, a->limits.bytes_per_second, mono_ms);
    a->bytes.left -= (int64_t)bytes * 1000;
}

bool account_is_overdrawn(struct account *a, int64_t mono_ms)
{
    if (a->limits.bytes_per_second == 0)
        return false;
    bucket_fill(&a->bytes, a->limits.bytes_per_second, a->limits.bytes_per_second, mono_ms);
    return a->bytes.left < 0;
}

/* --- what was decided --- */

/* The same target, kind and rule again only counts: a loop of refused attempts does not push out the rest. */
static struct decision *decision_place(struct account *a, enum decision_kind kind, const char *target,
                                       const char *reason, unsigned line)
{
    struct decision *oldest;
    if (a->decisions == NULL)
        a->decisions = mem_zalloc(DECISIONS_MAX * sizeof *a->decisions);
    for (size_t i = 0; i < a->n_decisions; i++) {
        struct decision *d = &a->decisions[i];
        if (d->kind == kind && d->line == line && strcmp(d->target, target) == 0 &&
            strcmp(d->reason, reason) == 0)
            return d;
    }
    if (a->n_decisions < DECISIONS_MAX)
        return &a->decisions[a->n_decisions++];
    oldest = &a->decisions[0];
    for (size_t i = 1; i < a->n_decisions; i++)
        if (a->decisions[i].last_ms < oldest->last_ms)
            oldest = &a->decisions[i];
    memset(oldest, 0, sizeof *oldest);
    return oldest;
}

static bool audit_take(struct account *a, int64_t mono_ms)
{
    struct bucket *b = &a->audits;
    int64_t more = (mono_ms - b->at_ms) / AUDIT_EVERY_MS;
    if (!b->is_used || b->left + more >= AUDITS_AT_ONCE) {
        b->left = AUDITS_AT_ONCE;
        b->at_ms = mono_ms;
        b->is_used = true;
    } else {
        b->left += more;
        b->at_ms += more * AUDIT_EVERY_MS;
    }
    if (b->left == 0)
        return false;
    b->left--;
    return true;
}

bool account_note(struct account *a, enum decision_kind kind, const struct target *t, const struct verdict *v,
                  int64_t mono_ms, int64_t wall_ms, uint64_t *ret_left_out)
{
    unsigned line = v->rule != NULL ? v->rule->line : 0;
    struct decision *d = decision_place(a, kind, t->text, v->reason, line);
    bool is_new = d->count == 0;
    a->by_kind[kind]++;
    if (is_new) {
        d->first_ms = wall_ms;
        d->kind = kind;
        d->line = line;
        (void)snprintf(d->target, sizeof d->target, "%s", t->text);
        (void)snprintf(d->reason, sizeof d->reason, "%s", v->reason);
        if (v->rule != NULL)
            (void)snprintf(d->rule, sizeof d->rule, "%.*s", SL_ARG(v->rule->text));
    }
    (void)snprintf(d->text, sizeof d->text, "%s", v->text);
    d->last_ms = wall_ms;
    d->count++;
    if (kind == DECISION_ALLOWED || kind == DECISION_FAILED)
        return false;
    if (!is_new || !audit_take(a, mono_ms)) {
        a->audits_left_out++;
        return false;
    }
    *ret_left_out = a->audits_left_out;
    a->audits_left_out = 0;
    return true;
}

void account_fini(struct account *a)
{
    mem_free(a->decisions);
    mem_free(a->tenant);
    mem_free(a->namespace);
    mem_free(a->workspace);
    mem_free(a->user);
}
