/* price_field: what the fields of LiteLLM's price list mean, by their names. The names are LiteLLM's own
 * (model_prices_and_context_window.json of release 1.106). */
#ifndef REEVE_BILLING_PRICE_FIELD_H
#define REEVE_BILLING_PRICE_FIELD_H

#include "base/core/slice.h"
#include "billing/price.h"

enum price_variant {
    PRICE_STANDARD,
    PRICE_HOUR,      /* written to a cache for an hour, not for five minutes */
    PRICE_REASONING, /* output that is thought, not said */
    PRICE_PRIORITY,  /* service tier `priority` */
    PRICE_VARIANTS
};

struct price_field {
    enum token_kind kind;
    enum price_variant variant;
    uint64_t above; /* tokens of prompt */
};

/* "cache_read_input_token_cost_above_200k_tokens_priority" → cache_read, priority, 200000. False: it is not a
 * rate for tokens of text. */
bool price_field_read(struct slice field, struct price_field *ret);

/* What kind of token a rate is for, whatever makes it differ from the standard one
 * ("input_cost_per_audio_token" → input); false: not for tokens. */
bool price_field_kind(struct slice field, enum token_kind *ret);
bool price_field_is_cost(struct slice field);   /* the name of some price */
bool price_field_is_always(struct slice field); /* one that every call is charged, beside its tokens */
/* For every other price: why it is left out, and whether calls that use it are then priced too low. */
const char *price_field_extra(struct slice field, bool *ret_is_undercount);

#endif
