/* secret: a secret stands in the environment or in a file of its own, never in the configuration.
 *
 * Happy path: the reference is resolved once, at load; the value lives in the tenancy's arena, is wiped with
 * it, and nothing prints it. Failure paths: a variable that is not set, a file that cannot be read, an empty
 * value, one with control characters in it (it could not travel in a header): a problem that names the
 * reference. */
#include "config/secret.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/mem.h"
#include "config/tenancy.h"

#define SECRET_MAX 65536

int secret_split(struct slice text, enum secret_kind *ret_kind, struct slice *ret_rest, struct err *err)
{
    if (slice_starts(text, SL("env:"))) {
        struct slice name = slice_from(text, 4);
        if (!env_name_is_valid(name))
            return err_set(err, E_INVALID, "expected the name of an environment variable after `env:`");
        *ret_kind = SECRET_ENV;
        *ret_rest = name;
        return 0;
    }
    if (slice_starts(text, SL("file:"))) {
        struct slice path = slice_from(text, 5);
        if (path.n == 0 || path.n > 1024 || path.p[path.n - 1] == '/')
            return err_set(err, E_INVALID, "expected the path of a file after `file:`");
        *ret_kind = SECRET_FILE;
        *ret_rest = path;
        return 0;
    }
    return err_set(err, E_INVALID,
                   "expected a reference, `env:NAME` or `file:path`: a secret does not stand in this file");
}

static int check_value(struct source *s, const struct yaml_node *node, struct slice value)
{
    if (value.n == 0) {
        source_complain(s, node, NULL, "`%s` is empty: expected a secret in it", SHOW(node->text));
        return E_INVALID;
    }
    for (size_t i = 0; i < value.n; i++) {
        unsigned char c = (unsigned char)value.p[i];
        if (c <= 0x20 || c >= 0x7f) {
            source_complain(s, node, NULL,
                            "`%s` holds a blank, a line break or a character beyond ASCII: expected one word",
                            SHOW(node->text));
            return E_INVALID;
        }
    }
    return 0;
}

static int resolve_env(struct source *s, const struct yaml_node *node, struct slice name, struct arena *a,
                       struct slice *ret)
{
    const char *value = getenv(arena_strndup(a, name.p, name.n));
    if (value == NULL) {
        source_complain(s, node, NULL, "`%s`: this environment variable is not set", SHOW(node->text));
        return E_INVALID;
    }
    int r = check_value(s, node, slice_str(value));
    if (r == 0)
        *ret = arena_slice(a, slice_str(value));
    return r;
}

static int resolve_file(struct source *s, const struct yaml_node *node, struct slice path, struct arena *a,
                        struct slice *ret)
{
    struct buf text = BUF_INIT(SECRET_MAX);
    struct err err = {0};
    if (source_read(source_path(s, a, path).p, SECRET_MAX, &text, &err) != 0) {
        source_complain(s, node, NULL, "cannot read `%s`: %s", SHOW(node->text), err.msg);
        return E_INVALID;
    }
    struct slice value = buf_view(&text);
    if (slice_ends(value, SL("\n")))
        value.n--;
    if (slice_ends(value, SL("\r")))
        value.n--;
    int r = check_value(s, node, value);
    if (r == 0)
        *ret = arena_slice(a, value);
    buf_wipe(&text);
    return r;
}

int secret_resolve(struct source *s, const struct yaml_node *node, struct arena *a, struct slice *ret)
{
    enum secret_kind kind;
    struct slice rest;
    if (secret_split(node->text, &kind, &rest, NULL) != 0)
        return E_INVALID; /* the check of the form has said so */
    return kind == SECRET_ENV ? resolve_env(s, node, rest, a, ret) : resolve_file(s, node, rest, a, ret);
}
