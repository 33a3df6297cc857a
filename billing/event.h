/* event: one metered fact from a gateway, normalised: whatever the dialect, the ledger sees only this. */
#ifndef REEVE_BILLING_EVENT_H
#define REEVE_BILLING_EVENT_H

#include "base/core/arena.h"
#include "base/core/buf.h"
#include "base/core/crypto.h"
#include "base/core/json.h"
#include "billing/price.h"

#define EVENT_ID_MAX        200 /* bytes */
#define EVENT_CALL_TYPE_MAX 64
#define EVENT_EXTRA_MAX     200 /* bytes of text */
#define EVENT_TOKENS_MAX    UINT64_C(1000000000000)
#define EVENT_COST_MAX      48 /* bytes of a gateway's own figure */
#define EVENT_KIND          "model_call"
#define EVENT_KEY_MAX       960 /* bytes of the longest store key that an event makes; < STORE_KEY_MAX */
#define PERIOD_TEXT_MAX     8   /* "2026-11" */
#define DAY_TEXT_MAX        11  /* "2026-11-05" */

enum event_status { EVENT_SUCCESS, EVENT_FAILURE };

/* All slices live in the batch's arena. */
struct event {
    const char *invalid; /* NULL, or what is wrong with it: nothing else counts then */
    /* identity: gateway, credential, the source's id, kind (always EVENT_KIND) */
    struct slice gateway;
    char key_hash[SHA256_HEX_SIZE];
    struct slice id;
    /* facts */
    struct slice model; /* as it was called, "openai/gpt-4o" */
    int64_t time_ms;    /* end of the call */
    uint64_t tokens[TOKEN_KINDS];
    enum event_status status;
    struct slice call_type; /* "" when not said */
    /* What was used or asked for beyond tokens at their usual prices ("web_search_requests 2"); "" when
     * nothing. No price covers it, so the event waits in suspense, its tokens counted. */
    struct slice extra;
    /* not facts: said about the event, may differ in a repetition */
    struct slice model_group; /* the name that the caller used for the model; "" when not said */
    struct slice provider;    /* "" when not said */
    bool is_estimated;
    /* A call that the gateway may have refused for its key: it cost nothing, and whoever reaches the gateway
     * can make any number of them. Not kept when the key is unknown. */
    bool may_be_refused;
    struct slice reported_cost; /* the gateway's own figure; "" when not said */
    /* derived by event_finish */
    char facts[SHA256_HEX_SIZE]; /* SHA-256 over the facts */
    struct slice identity;       /* "<gateway>/<key hash>/<id>/model_call", escaped */
    struct slice dedupe_key;     /* "ev/" + identity */
    struct slice suspense_key;   /* "suspense/" + identity + "/" + facts */
};

/* 64 lower-case hex digits. */
bool key_hash_is_valid(struct slice s);

/* Fills in what is derived, once all else is set. */
void event_finish(struct arena *a, struct event *e);

/* Bytes other than letters, digits, '-', '.', '_', '~' and ':' as %XX: one part of a store key. */
int key_escape(struct buf *out, struct slice part);
int key_unescape(struct buf *out, struct slice part); /* 0 or E_INVALID */

void period_of(int64_t wall_ms, char out[PERIOD_TEXT_MAX]); /* the UTC month */
void day_of(int64_t wall_ms, char out[DAY_TEXT_MAX]);       /* the UTC day */

/* Quantity × unit price per kind, exactly; a failed call costs nothing. */
struct event_line {
    enum token_kind kind;
    uint64_t quantity;
    i128 unit_price, amount; /* 1e-18 */
};
struct event_cost {
    struct event_line lines[TOKEN_KINDS];
    size_t n_lines;
    i128 amount;
    struct slice price_version; /* of the file that priced it; lives as long as the table */
};
/* 0; E_NOT_FOUND with the missing price in *ret_missing ("model" or a kind of token) and in *ret what has
 * one; E_OVERFLOW. */
int event_price(const struct event *e, const struct price_table *prices, struct event_cost *ret,
                const char **ret_missing);

/* --- dialects --- */

struct event_batch {
    struct event *events;
    size_t n;
};
/* How one kind of gateway reports. What came of its body (see `rows`) becomes events in `a`, one for each in
 * the body and in its order. parse: 0, or E_INVALID / E_SYNTAX / E_TOO_LARGE for the body as a whole. */
struct sieve_row;
struct dialect {
    const struct sieve_row *rows; /* what is kept of a body, as base/core/sieve.h has it; NULL: all */
    uint64_t bytes_max;           /* of a body as it comes */
    size_t kept_max;              /* bytes */
    size_t events_max;
    int (*parse)(struct arena *a, struct slice gateway, struct slice kept, struct event_batch *ret,
                 struct err *err);
};
extern const struct dialect plain_dialect, litellm_dialect;

#endif
