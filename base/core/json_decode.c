/* json_decode: objects into structs, by rows. One loop over the members finds each one's row (what no row
 * names is refused: a misspelt field must not be silently ignored), checks its type and stores it; then the
 * required ones are looked for. Errors name the field by its whole path. */
#include "base/core/json.h"

#include <stdio.h>
#include <string.h>

#include "base/core/json_scan.h"
#include "base/core/mem.h"

enum { ROWS_MAX = 64, PATH_SHOWN_MAX = 512 };

static const char *const TYPE_WANTED[] = {
    [JF_STRING] = "a string",   [JF_I64] = "an integer",   [JF_U64] = "a non-negative integer",
    [JF_BOOL] = "a boolean",    [JF_OBJECT] = "an object", [JF_ARRAY] = "an array",
    [JF_DECIMAL] = "a decimal", [JF_ANY] = "anything",
};

/* "path.name", or what there is of it. */
static void path_print(const char *path, const char *name, char out[PATH_SHOWN_MAX])
{
    const char *dot = path[0] != '\0' && name[0] != '\0' ? "." : "";

    (void)snprintf(out, PATH_SHOWN_MAX, "%.400s%s%.100s", path, dot, name); /* longer ones are cut */
}

static int fail_missing(const char *path, const char *name, struct err *err)
{
    char shown[PATH_SHOWN_MAX];

    path_print(path, name, shown);
    return err_set(err, E_INVALID, "missing field `%s`", shown);
}

static int fail_unknown(const char *path, const struct json *member, struct err *err)
{
    char key[JSON_SHOWN_MAX], shown[PATH_SHOWN_MAX];

    json_key_show(json_key(member), key);
    path_print(path, key, shown);
    return err_set(err, E_INVALID, "unknown field `%s`", shown);
}

static int fail_type(const char *path, const char *name, enum json_field_type type, const struct json *found,
                     struct err *err)
{
    struct slice number = json_number_text(found);
    char shown[PATH_SHOWN_MAX];

    path_print(path, name, shown);
    if (number.p != NULL && (type == JF_I64 || type == JF_U64)) {
        int n = number.n > 40 ? 40 : (int)number.n;
        int64_t i;
        uint64_t u;
        int rc = type == JF_I64 ? json_i64(found, &i) : json_u64(found, &u);

        if (rc == E_OVERFLOW)
            return err_set(err, E_INVALID, "`%s`: %.*s is out of range", shown, n, number.p);
        return err_set(err, E_INVALID, "`%s`: expected %s, found %.*s", shown, TYPE_WANTED[type], n,
                       number.p);
    }
    if (shown[0] == '\0')
        return err_set(err, E_INVALID, "expected %s, found %s", TYPE_WANTED[type], json_type_name(found));
    return err_set(err, E_INVALID, "`%s`: expected %s, found %s", shown, TYPE_WANTED[type],
                   json_type_name(found));
}

/* Stores `v` at `to` when its type fits. */
static bool field_store(const struct json *v, enum json_field_type type, void *to)
{
    struct slice text = json_string(v);
    bool flag = json_is_true(v);

    if (type == JF_DECIMAL && text.p == NULL)
        text = json_number_text(v);
    switch (type) {
    case JF_STRING:
    case JF_DECIMAL:
        if (text.p == NULL)
            return false;
        memcpy(to, &text, sizeof(text));
        return true;
    case JF_I64: {
        int64_t i;

        if (json_i64(v, &i) != 0)
            return false;
        memcpy(to, &i, sizeof(i));
        return true;
    }
    case JF_U64: {
        uint64_t u;

        if (json_u64(v, &u) != 0)
            return false;
        memcpy(to, &u, sizeof(u));
        return true;
    }
    case JF_BOOL:
        if (!flag && json_type(v) != JSON_FALSE)
            return false;
        memcpy(to, &flag, sizeof(flag));
        return true;
    case JF_OBJECT:
    case JF_ARRAY:
        if (json_type(v) != (type == JF_OBJECT ? JSON_OBJECT : JSON_ARRAY))
            return false;
        memcpy(to, &v, sizeof(v));
        return true;
    case JF_ANY:
        memcpy(to, &v, sizeof(v));
        return true;
    }
    die("json field type %d", (int)type);
}

int json_decode(const struct json *object, const char *path, const struct json_field *rows, size_t n,
                void *out, struct err *err)
{
    uint64_t seen = 0;

    must(n <= ROWS_MAX);
    if (json_type(object) != JSON_OBJECT)
        return fail_type(path, "", JF_OBJECT, object, err);
    JSON_FOREACH (member, object) {
        struct slice key = json_key(member);
        size_t i = 0;

        while (i < n && !slice_eq_str(key, rows[i].name))
            i++;
        if (i == n)
            return fail_unknown(path, member, err);
        if (!field_store(member, rows[i].type, (char *)out + rows[i].offset))
            return fail_type(path, rows[i].name, rows[i].type, member, err);
        seen |= UINT64_C(1) << i;
    }
    for (size_t i = 0; i < n; i++)
        if (rows[i].is_required && (seen >> i & 1) == 0)
            return fail_missing(path, rows[i].name, err);
    return 0;
}
