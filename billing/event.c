/* event: one metered fact, normalised, see event.h.
 *
 * Happy path: a dialect fills in the fields; event_finish derives identity, facts and the keys under which
 * the event is kept; event_price gives its exact cost. Failure paths: a model or a kind of token without a
 * price, and a product beyond 128 bits, are codes for the caller, who puts the event into suspense. */
#include "billing/event.h"

#include <string.h>

#include "base/core/mem.h"
#include "base/store/store.h"

_Static_assert(EVENT_KEY_MAX < STORE_KEY_MAX, "an event's keys fit the store");

static bool is_key_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~' || c == ':';
}

int key_escape(struct buf *out, struct slice part)
{
    static const char hex[] = "0123456789ABCDEF";
    int rc = buf_reserve(out, part.n * 3);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < part.n; i++) {
        char c = part.p[i];
        if (is_key_byte(c)) {
            out->p[out->n++] = c;
            continue;
        }
        out->p[out->n++] = '%';
        out->p[out->n++] = hex[((unsigned char)c) >> 4];
        out->p[out->n++] = hex[((unsigned char)c) & 15];
    }
    return buf_append(out, "", 0); /* the NUL behind it */
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int key_unescape(struct buf *out, struct slice part)
{
    for (size_t i = 0; i < part.n; i++) {
        char c = part.p[i];
        if (c == '%') {
            int hi = i + 2 < part.n ? hex_value(part.p[i + 1]) : -1;
            int lo = i + 2 < part.n ? hex_value(part.p[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return E_INVALID;
            c = (char)(hi << 4 | lo);
            i += 2;
        }
        int rc = buf_byte(out, c);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The facts as one text, each with its length or a separator that it cannot contain, so that no two sets of
 * facts look alike. What is compared is part of the contract with gateways (docs/billing.md): changing this
 * list makes every repetition of an older event a conflict. */
static void facts_hash(const struct event *e, char out[SHA256_HEX_SIZE])
{
    char text[MODEL_NAME_MAX + EVENT_CALL_TYPE_MAX + EVENT_EXTRA_MAX + 256];
    struct buf b = BUF_INIT(sizeof(text));
    (void)buf_printf(&b, "1\n%zu:%.*s\n%lld\n", e->model.n, SL_ARG(e->model), (long long)e->time_ms);
    for (int k = 0; k < TOKEN_KINDS; k++)
        (void)buf_printf(&b, "%llu\n", (unsigned long long)e->tokens[k]);
    (void)buf_printf(&b, "%d\n%zu:%.*s", (int)e->status, e->call_type.n, SL_ARG(e->call_type));
    if (e->extra.n > 0)
        (void)buf_printf(&b, "\n%zu:%.*s", e->extra.n, SL_ARG(e->extra));
    must(!b.is_full);
    sha256_hex(buf_view(&b), out);
    buf_fini(&b);
}

bool key_hash_is_valid(struct slice s)
{
    if (s.n != SHA256_HEX_SIZE - 1)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    }
    return true;
}

void event_finish(struct arena *a, struct event *e)
{
    facts_hash(e, e->facts);
    struct buf b = BUF_INIT(EVENT_KEY_MAX);
    (void)buf_str(&b, "suspense/");
    size_t at = b.n;
    (void)key_escape(&b, e->gateway);
    (void)buf_printf(&b, "/%s/", e->key_hash);
    (void)key_escape(&b, e->id);
    (void)buf_str(&b, "/" EVENT_KIND);
    size_t identity_end = b.n;
    (void)buf_printf(&b, "/%s", e->facts);
    must(!b.is_full); /* lengths are bounded by the dialect and the configuration */
    struct slice whole = arena_slice(a, buf_view(&b));
    e->suspense_key = whole;
    e->identity = slice_of(whole.p + at, identity_end - at);
    char *key = arena_alloc(a, e->identity.n + 4);
    memcpy(key, "ev/", 3);
    memcpy(key + 3, e->identity.p, e->identity.n);
    key[3 + e->identity.n] = '\0';
    e->dedupe_key = slice_of(key, 3 + e->identity.n);
    buf_fini(&b);
}

static void put_digits(char *out, int v, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        out[i] = (char)('0' + v % 10);
        v /= 10;
    }
}

void day_of(int64_t wall_ms, char out[DAY_TEXT_MAX])
{
    int y, m, d;
    time_civil(wall_ms, &y, &m, &d);
    put_digits(out, y, 4);
    out[4] = '-';
    put_digits(out + 5, m, 2);
    out[7] = '-';
    put_digits(out + 8, d, 2);
    out[10] = '\0';
}

void period_of(int64_t wall_ms, char out[PERIOD_TEXT_MAX])
{
    char day[DAY_TEXT_MAX];
    day_of(wall_ms, day);
    memcpy(out, day, PERIOD_TEXT_MAX - 1);
    out[PERIOD_TEXT_MAX - 1] = '\0';
}

int event_price(const struct event *e, const struct price_table *prices, struct event_cost *ret,
                const char **ret_missing)
{
    struct event_cost cost = {.n_lines = 0, .amount = 0, .price_version = price_version(prices)};
    const struct price_query query = {e->model, e->model_group, e->provider};
    const struct price_model *model = price_find(prices, &query, NULL);
    const struct price_rates *rates = model != NULL ? price_rates(model, e->tokens) : NULL;
    const char *missing = NULL;
    bool is_free = e->status == EVENT_FAILURE;
    if (model == NULL && !is_free) {
        *ret_missing = "model";
        *ret = cost;
        return E_NOT_FOUND;
    }
    for (int k = 0; k < TOKEN_KINDS; k++) {
        if (e->tokens[k] == 0)
            continue;
        if (!is_free && !rates->has[k]) {
            if (missing == NULL)
                missing = token_kind_names[k];
            continue;
        }
        struct event_line *line = &cost.lines[cost.n_lines++];
        *line = (struct event_line){(enum token_kind)k, e->tokens[k], is_free ? 0 : rates->unit[k], 0};
        if (i128_mul(line->unit_price, (i128)line->quantity, &line->amount) != 0 ||
            i128_add(cost.amount, line->amount, &cost.amount) != 0)
            return E_OVERFLOW;
    }
    if (model != NULL)
        cost.price_version = model->version;
    *ret = cost;
    if (missing != NULL)
        *ret_missing = missing;
    return missing == NULL ? 0 : E_NOT_FOUND;
}
