/* value: one check for each type of scalar.
 *
 * Happy path: the text parses exactly and lies within the row's bounds. Failure paths: a sentence that says
 * what would be right, with an example. It never quotes the text: the caller decides whether it may be shown.
 */
#include "config/value.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/core/clock.h"
#include "base/core/id.h"
#include "base/core/mem.h"
#include "config/address.h"
#include "config/network_rules.h"
#include "config/secret.h"
#include "config/tenancy.h"
#include "config/units.h"

#define ZONE_FOLDER "/usr/share/zoneinfo"
/* More than any budget needs; keeps sums of limits far from the edge of 128 bits. */
#define UNIX_PATH_LEN_MAX 107
#define MONEY_UNITS_MAX   1000000000000000ll

bool choices_have(const char *words, struct slice word)
{
    struct slice rest = slice_str(words), one;
    while (rest.n > 0) {
        (void)slice_cut(&rest, ' ', &one); /* the last word has no space behind it */
        if (slice_eq(one, word))
            return true;
    }
    return false;
}

const char *choices_text(const struct setting *row, char out[CHOICES_MAX])
{
    struct buf text = BUF_INIT(CHOICES_MAX - 1);
    struct slice rest = slice_str(row->choices), one;
    while (rest.n > 0) {
        (void)slice_cut(&rest, ' ', &one); /* the last word has no space behind it */
        (void)buf_printf(&text, "%s`%.*s`", text.n == 0 ? "" : rest.n > 0 ? ", " : " or ", SL_ARG(one));
    }
    (void)snprintf(out, CHOICES_MAX, "%s", buf_cstr(&text));
    buf_fini(&text);
    return out;
}

int value_bool(struct slice s, bool *ret)
{
    if (!slice_eq_str(s, "true") && !slice_eq_str(s, "false"))
        return E_INVALID;
    *ret = slice_eq_str(s, "true");
    return 0;
}

int value_hash(struct slice s, unsigned char ret[SHA256_BYTES])
{
    if (!slice_starts(s, SL("sha256:")) || s.n != 7 + 2 * SHA256_BYTES)
        return E_INVALID;
    struct buf out = BUF_INIT(SHA256_BYTES);
    int r = hex_decode(slice_from(s, 7), &out);
    if (r == 0 && out.n == SHA256_BYTES)
        memcpy(ret, out.p, SHA256_BYTES);
    buf_fini(&out);
    return r;
}

int value_uid_range(struct slice s, uint32_t *ret_first, uint32_t *ret_count)
{
    struct slice count = s, first;
    uint64_t a, n;
    if (!slice_cut(&count, '+', &first) || slice_u64(first, &a) != 0 || slice_u64(count, &n) != 0)
        return E_INVALID;
    /* Below 1000 are the system's, 65534 and 65535 are nobody's, the last two mean "unchanged". */
    if (a < 1000 || n < 1 || n > 1000000 || a + n > UINT32_MAX - 1 || (a <= 65535 && a + n > 65534))
        return E_OVERFLOW;
    *ret_first = (uint32_t)a;
    *ret_count = (uint32_t)n;
    return 0;
}

static bool zone_is_plain(struct slice s)
{
    if (s.n == 0 || s.n > 64)
        return false;
    struct slice rest = s, part;
    bool is_more;
    do {
        is_more = slice_cut(&rest, '/', &part);
        if (part.n == 0)
            return false;
        for (size_t i = 0; i < part.n; i++) {
            char c = part.p[i];
            bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
            if (!is_word && c != '_' && c != '-' && c != '+')
                return false;
        }
    } while (is_more);
    return true;
}

/* zone.tab lists the usual names, the third column of each line. */
static void hint_zone(struct slice s, struct err *err)
{
    struct buf table;
    if (source_read(ZONE_FOLDER "/zone.tab", 1 << 20, &table, NULL) != 0)
        return;
    struct hint h;
    hint_init(&h, s);
    hint_offer(&h, SL("UTC"));
    struct slice rest = buf_view(&table), line, cell;
    while (rest.n > 0) {
        (void)slice_cut(&rest, '\n', &line);
        (void)slice_cut(&line, '\t', &cell);
        (void)slice_cut(&line, '\t', &cell);
        (void)slice_cut(&line, '\t', &cell);
        hint_offer(&h, cell);
    }
    if (h.best.p != NULL)
        (void)err_set(err, E_INVALID, "no such time zone; did you mean `%.*s`?", SL_ARG(h.best));
    buf_fini(&table);
}

int value_zone(struct slice s, struct err *err)
{
    if (slice_eq_str(s, "UTC"))
        return 0;
    if (!zone_is_plain(s) || slice_starts(s, SL("posix/")) || slice_starts(s, SL("right/")) ||
        slice_eq_str(s, "localtime"))
        return err_set(err, E_INVALID, "expected an IANA time zone such as `Europe/Berlin`");
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), ZONE_FOLDER "/%.*s",
                   SL_ARG(s)); /* at most 64 bytes behind the folder */
    struct buf head;
    struct err why = {0};
    if (source_read(path, 1 << 20, &head, &why) == 0) {
        bool is_zone = slice_starts(buf_view(&head), SL("TZif"));
        buf_fini(&head);
        if (is_zone)
            return 0;
    }
    struct buf known;
    if (source_read(ZONE_FOLDER "/UTC", 1 << 20, &known, NULL) != 0)
        return err_set(err, E_INVALID,
                       "cannot be checked: this machine has no time zones in " ZONE_FOLDER
                       " (package tzdata)");
    buf_fini(&known);
    (void)err_set(err, E_INVALID, "no such time zone: expected an IANA name such as `Europe/Berlin`");
    hint_zone(s, err);
    return E_INVALID;
}

static int check_choice(const struct setting *row, struct slice text, struct err *err)
{
    if (choices_have(row->choices, text))
        return 0;
    struct hint h;
    hint_init(&h, text);
    struct slice rest = slice_str(row->choices), one;
    while (rest.n > 0) {
        (void)slice_cut(&rest, ' ', &one); /* the last word has no space behind it */
        hint_offer(&h, one);
    }
    char list[CHOICES_MAX];
    choices_text(row, list);
    if (h.best.p != NULL)
        return err_set(err, E_INVALID, "expected %s; did you mean `%.*s`?", list, SL_ARG(h.best));
    return err_set(err, E_INVALID, "expected %s", list);
}

/* Bounds in the row's unit, said in the form that the user writes. */
static int check_bounds(const struct setting *row, uint64_t v, struct err *err)
{
    if (row->max == 0 || (v >= row->min && v <= row->max))
        return 0;
    bool is_low = v < row->min;
    uint64_t bound = is_low ? row->min : row->max;
    char text[64];
    if (row->type == SETTING_SIZE)
        (void)size_format(bound, text);
    else if (row->type == SETTING_DURATION)
        (void)snprintf(text, sizeof(text), "%llu%s",
                       (unsigned long long)(bound / (bound % 86400000 == 0 ? 86400000 : 1000)),
                       bound % 86400000 == 0 ? "d" : "s");
    else if (row->type == SETTING_CPUS)
        (void)i128_format((i128)bound, 3, text);
    else
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)bound);
    const char *none = row->min == 1 && v == 0 && row->type == SETTING_COUNT && row->fallback == NULL
                           ? " (without the key: no limit)"
                           : "";
    return err_set(err, E_INVALID, "expected at %s `%s`%s", is_low ? "least" : "most", text, none);
}

static int check_number(const struct setting *row, struct slice text, struct err *err)
{
    uint64_t v = 0;
    i128 cpus = 0;
    int64_t ms = 0;
    int r;
    if (row->type == SETTING_SIZE) {
        r = size_parse(text, &v);
    } else if (row->type == SETTING_DURATION) {
        r = duration_parse(text, &ms);
        v = (uint64_t)ms;
    } else if (row->type == SETTING_CPUS) {
        r = i128_parse(text, 3, false, &cpus);
        if (r == 0 && (cpus < 0 || cpus > (i128)UINT64_MAX))
            r = E_INVALID;
        v = (uint64_t)cpus;
    } else {
        r = slice_u64(text, &v);
    }
    if (r == E_OVERFLOW)
        v = UINT64_MAX;
    else if (r != 0)
        return err_set(err, E_INVALID, "expected %s such as `%s`", setting_type_name(row->type),
                       setting_type_sample(row->type));
    return check_bounds(row, v, err);
}

static int check_text(const struct setting *row, struct slice text, struct err *err)
{
    if (row->max != 0 && text.n < row->min)
        return err_set(err, E_INVALID, "expected a text that is not empty");
    if (row->max != 0 && text.n > row->max)
        return err_set(err, E_INVALID, "expected at most %llu bytes", (unsigned long long)row->max);
    if (row->type == SETTING_ENV) {
        bool is_reference = slice_starts(text, SL("env:")) && env_name_is_valid(slice_from(text, 4));
        if (is_reference)
            return err_set(
                err, E_INVALID,
                "values of `env` are taken literally, references are not resolved: a sandbox gets no "
                "secrets from here");
        return 0;
    }
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.p[i] < 0x20 || text.p[i] == 0x7f)
            return err_set(err, E_INVALID, "expected one line without control characters");
    return 0;
}

static int check_money(struct slice text, struct err *err)
{
    i128 v;
    char currency[4];
    if (money_parse(text, &v, currency) != 0)
        return err_set(err, E_INVALID, "expected an amount and its currency such as `500 USD`");
    i128 most = (i128)MONEY_UNITS_MAX * 1000000000 * 1000000000;
    if (v < 0 || v > most)
        return err_set(err, E_INVALID, "expected an amount from 0 to %lld", MONEY_UNITS_MAX);
    return 0;
}

static int check_hash(struct slice text, struct err *err)
{
    unsigned char hash[SHA256_BYTES];
    if (value_hash(text, hash) == 0)
        return 0;
    if (slice_starts(text, SL("rvk_")))
        return err_set(
            err, E_INVALID,
            "this is a key, and it is burnt now: expected its hash, `sha256:` and 64 hex digits (`reeve "
            "key new` prints both)");
    return err_set(err, E_INVALID,
                   "expected `sha256:` and 64 hex digits in lower case (`reeve key new` prints them)");
}

static int check_store(struct slice text, struct err *err)
{
    if (slice_eq_str(text, "sqlite"))
        return 0;
    if (slice_starts(text, SL("redis:")) || slice_starts(text, SL("rediss:")) || slice_eq_str(text, "redis"))
        return err_set(err, E_INVALID, "`redis` is not supported by this version: expected `sqlite`");
    return err_set(err, E_INVALID, "expected `sqlite`");
}

/* Sockets cross the wall by descriptors: the engine must run on this host. */
static int check_engine(struct slice text, struct err *err)
{
    if (!slice_starts(text, SL("unix:/")) || slice_find(text, '\0') != SIZE_MAX)
        return err_set(
            err, E_INVALID,
            "expected `unix:///path`: sealed sandboxes need the engine on this host, by its socket");
    if (text.n - 5 > UNIX_PATH_LEN_MAX)
        return err_set(err, E_INVALID,
                       "expected a path of at most %d bytes: a unix socket's address has no more",
                       UNIX_PATH_LEN_MAX);
    return 0;
}

static int check_uid_range(struct slice text, struct err *err)
{
    uint32_t first, count;
    int r = value_uid_range(text, &first, &count);
    if (r == E_OVERFLOW)
        return err_set(err, E_INVALID,
                       "expected uids from 1000 on, without 65534 and 65535, and at most 1000000 of them");
    return r == 0 ? 0 : err_set(err, E_INVALID, "expected the first uid and how many, such as `200000+1000`");
}

static int check_name(const struct setting *row, struct slice text, struct err *err)
{
    if (name_is_valid(text) || (row->type == SETTING_NAMESPACE && slice_eq_str(text, "*")))
        return 0;
    return err_set(err, E_INVALID,
                   "expected a name of at most 63 of a-z, 0-9 and `-`, without `-` at its ends");
}

static int check_reference(const struct setting *row, struct slice text, struct err *err)
{
    enum secret_kind kind;
    struct slice rest;
    int r = secret_split(text, &kind, &rest, err);
    if (row->type == SETTING_FILE_REFERENCE && (r != 0 || kind != SECRET_FILE))
        return err_set(err, E_INVALID, "expected `file:path`: this key is kept in a file of its own");
    return r;
}

static int check_rule(const struct setting *row, struct slice text, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct network_rule rule;
    int r = row->type == SETTING_RULE ? network_rule_parse(&a, text, &rule, err)
                                      : network_exemption_parse(&a, text, &rule, err);
    arena_fini(&a);
    return r;
}

int value_port(struct slice s, uint16_t *ret)
{
    uint64_t v;
    if (slice_u64(s, &v) != 0 || v == 0 || v > 65535)
        return E_INVALID;
    *ret = (uint16_t)v;
    return 0;
}

static int check_server(struct slice text, struct err *err)
{
    struct arena a = ARENA_INIT;
    struct network_rule at;
    int r = network_rule_parse(&a, text, &at, NULL);
    arena_fini(&a);
    if (r == 0 && at.kind == NETWORK_RANGE && at.range.bits == 128 && at.n_ports == 1 &&
        at.ports[0].first == at.ports[0].last && slice_find(text, '/') == SIZE_MAX)
        return 0;
    return err_set(err, E_INVALID, "expected an address and a port such as `127.0.0.1:53` or `[::1]:53`");
}

int value_check(const struct setting *row, struct slice text, struct err *err)
{
    struct slice url;
    uint16_t port;
    bool flag;
    switch (row->type) {
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_ENV:
        return check_text(row, text, err);
    case SETTING_NAME:
    case SETTING_NAMESPACE:
        return check_name(row, text, err);
    case SETTING_BOOL:
        return value_bool(text, &flag) == 0 ? 0 : err_set(err, E_INVALID, "expected `true` or `false`");
    case SETTING_COUNT:
    case SETTING_CPUS:
    case SETTING_SIZE:
    case SETTING_DURATION:
        return check_number(row, text, err);
    case SETTING_MONEY:
        return check_money(text, err);
    case SETTING_CHOICE:
        return check_choice(row, text, err);
    case SETTING_LISTEN:
        return listen_check(text, err);
    case SETTING_URL:
        return url_check(text, &url, err);
    case SETTING_STORE:
        return check_store(text, err);
    case SETTING_REFERENCE:
    case SETTING_FILE_REFERENCE:
        return check_reference(row, text, err);
    case SETTING_HASH:
        return check_hash(text, err);
    case SETTING_ENGINE:
        return check_engine(text, err);
    case SETTING_UID_RANGE:
        return check_uid_range(text, err);
    case SETTING_ZONE:
        return value_zone(text, err);
    case SETTING_RULE:
    case SETTING_EXEMPTION:
        return check_rule(row, text, err);
    case SETTING_PORT:
        return value_port(text, &port) == 0 ? 0 : err_set(err, E_INVALID, "expected a port from 1 to 65535");
    case SETTING_SERVER:
        return check_server(text, err);
    case SETTING_MAP:
    case SETTING_TABLE:
    case SETTING_LIST:
        break;
    }
    return err_set(err, E_INVALID, "expected %s", setting_type_name(row->type));
}
