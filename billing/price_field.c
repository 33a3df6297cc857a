/* price_field: see price_field.h. Tables; a field that no row knows is reported, never guessed at. */
#include "billing/price_field.h"

#include <string.h>

#include "base/core/mem.h"

#define ABOVE_THOUSANDS_MAX 1000000

static const struct {
    const char *stem;
    enum token_kind kind;
    enum price_variant variant;
} stems[] = {
    /* the longer of two that begin alike stands first */
    {"cache_creation_input_token_cost_above_1hr", TOKENS_CACHE_WRITE, PRICE_HOUR},
    {"cache_creation_input_token_cost", TOKENS_CACHE_WRITE, PRICE_STANDARD},
    {"cache_read_input_token_cost", TOKENS_CACHE_READ, PRICE_STANDARD},
    {"input_cost_per_token_cache_hit", TOKENS_CACHE_READ, PRICE_STANDARD},
    {"input_cost_per_token", TOKENS_INPUT, PRICE_STANDARD},
    {"output_cost_per_reasoning_token", TOKENS_OUTPUT, PRICE_REASONING},
    {"output_cost_per_token", TOKENS_OUTPUT, PRICE_STANDARD},
};

static const char *const always[] = {"input_cost_per_request", "input_cost_per_query",
                                     "citation_cost_per_token", "input_cost_per_second",
                                     "output_cost_per_second"};

/* By what a name holds; the first that fits. */
static const struct {
    const char *part;
    bool is_undercount;
    const char *why;
} extras[] = {
    {"_batches", false, "batches are priced at the standard rate"},
    {"_flex", false, "service tier flex is priced at the standard rate"},
    {"_above_1hr", true, "what is written to a cache for an hour is not priced apart"},
    {"_priority", true, "calls of service tier priority are priced at the standard rate"},
    {"_ultrafast", true, "calls of service tier ultrafast are priced at the standard rate"},
    {"_balanced", true, "calls of service tier balanced are priced at the standard rate"},
    {"provider_specific_entry", true, "calls whose region or speed multiplies the price are priced without"},
    {"dbu_cost", false, "the same price in another unit"},
    {"_character", false, "characters: their tokens are priced instead"},
    {"audio", true, "audio in a call is priced as text, or not at all"},
    {"video", true, "video in a call is priced as text, or not at all"},
    {"image", true, "images in a call are priced as text, or not at all"},
    {"pixel", true, "images in a call are priced as text, or not at all"},
    {"grounding", true, "searches that the provider makes are not priced"},
    {"search", true, "searches that the provider makes are not priced"},
    {"code_interpreter", true, "the provider's code interpreter is not priced"},
    {"computer_use", true, "the provider's computer use is not priced"},
    {"vector_store", true, "the provider's stores are not priced"},
    {"per_second", true, "time is not priced"},
    {"explicit_cache", true, "caches that a caller makes by name are priced as others"},
    {"", true, "no kind of price that is known here"},
};

static bool holds(struct slice s, const char *part)
{
    return memmem(s.p, s.n, part, strlen(part)) != NULL;
}

/* Cuts "_above_200k_tokens" off the front and gives its tokens; 0 when that is not there. */
static uint64_t above_cut(struct slice *s)
{
    static const char head[] = "_above_", tail[] = "k_tokens";
    struct slice digits = slice_from(*s, sizeof(head) - 1);
    uint64_t thousands = 0;
    size_t n = slice_find(digits, 'k');
    if (!slice_starts(*s, SL(head)) || n == SIZE_MAX)
        return 0;
    struct slice rest = slice_from(digits, n);
    if (!slice_starts(rest, SL(tail)) || slice_u64(slice_of(digits.p, n), &thousands) != 0 ||
        thousands > ABOVE_THOUSANDS_MAX)
        return 0;
    *s = slice_from(rest, sizeof(tail) - 1);
    return thousands * 1000;
}

bool price_field_read(struct slice field, struct price_field *ret)
{
    size_t i = 0;
    while (i < ARRAY_LEN(stems) && !slice_starts(field, slice_str(stems[i].stem)))
        i++;
    if (i == ARRAY_LEN(stems))
        return false;
    struct slice rest = slice_from(field, strlen(stems[i].stem));
    *ret = (struct price_field){stems[i].kind, stems[i].variant, above_cut(&rest)};
    if (slice_eq_str(rest, "_priority") && ret->variant == PRICE_STANDARD) {
        ret->variant = PRICE_PRIORITY;
        return true;
    }
    return rest.n == 0;
}

bool price_field_kind(struct slice field, enum token_kind *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(stems); i++) {
        if (slice_starts(field, slice_str(stems[i].stem))) {
            *ret = stems[i].kind;
            return true;
        }
    }
    *ret = slice_starts(field, SL("output_")) ? TOKENS_OUTPUT : TOKENS_INPUT;
    return slice_ends(field, SL("_token")) &&
           (slice_starts(field, SL("output_")) || slice_starts(field, SL("input_")));
}

bool price_field_is_cost(struct slice field)
{
    return holds(field, "cost") || slice_eq_str(field, "provider_specific_entry");
}

bool price_field_is_always(struct slice field)
{
    for (size_t i = 0; i < ARRAY_LEN(always); i++) {
        if (slice_eq_str(field, always[i]))
            return true;
    }
    return false;
}

const char *price_field_extra(struct slice field, bool *ret_is_undercount)
{
    size_t i = 0;
    while (!holds(field, extras[i].part))
        i++;
    *ret_is_undercount = extras[i].is_undercount;
    return extras[i].why;
}
