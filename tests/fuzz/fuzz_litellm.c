/* Any bytes as a LiteLLM report: whatever the sieve lets through has the events' bounds, pieces make no
 * difference, and no event is both valid and out of its bounds.
 *
 * clang-14 -fsanitize=fuzzer,address,undefined; see `make fuzz-smoke`. */
#include <stdint.h>

#include "base/core/mem.h"
#include "base/core/sieve.h"
#include "billing/event.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int run(struct sieve *s, struct slice in, size_t piece)
{
    int code = 0;
    sieve_init(s, litellm_dialect.rows, litellm_dialect.events_max, litellm_dialect.kept_max);
    while (code == 0 && in.n > 0) {
        struct slice part = slice_of(in.p, in.n < piece ? in.n : piece);
        code = sieve_feed(s, part, NULL);
        in = slice_from(in, part.n);
    }
    return code == 0 ? sieve_end(s, NULL) : code;
}

static void check(const struct event *e)
{
    must(e->id.n > 0 && e->id.n <= EVENT_ID_MAX && e->model.n > 0 && e->model.n <= MODEL_NAME_MAX);
    must(e->call_type.n <= EVENT_CALL_TYPE_MAX && e->extra.n <= EVENT_EXTRA_MAX);
    must(e->reported_cost.n <= EVENT_COST_MAX && e->time_ms >= 0);
    must(key_hash_is_valid(slice_str(e->key_hash)) && e->dedupe_key.n <= EVENT_KEY_MAX);
    for (int k = 0; k < TOKEN_KINDS; k++)
        must(e->tokens[k] <= EVENT_TOKENS_MAX && (e->tokens[k] == 0 || e->status == EVENT_SUCCESS));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sieve whole, pieces;
    struct arena a = ARENA_INIT;
    struct event_batch batch;
    int code = run(&whole, slice_of(data, n), SIZE_MAX);
    must(run(&pieces, slice_of(data, n), 7) == code);
    if (code == 0) {
        must(slice_eq(buf_view(&whole.out), buf_view(&pieces.out)));
        must(litellm_dialect.parse(&a, SL("gateway"), buf_view(&whole.out), &batch, NULL) == 0);
        must(batch.n == whole.n);
        for (size_t i = 0; i < batch.n; i++)
            if (batch.events[i].invalid == NULL)
                check(&batch.events[i]);
    }
    sieve_fini(&whole);
    sieve_fini(&pieces);
    arena_fini(&a);
    return 0;
}
