/* json: the tree behind the façade is cJSON's; struct json is a cJSON node and nobody else knows.
 *
 * A text passes the strict scan first (json_scan.h), cJSON builds the tree, and one walk in document order
 * then attaches the numbers' texts (in valuestring, so that cJSON_Delete frees them), notes the lengths of
 * strings and numbers (in valueint), and refuses objects with a key twice: two readers of one text must not
 * see two things. Keys are compared unescaped. Large objects are sorted for that, not hashed: no choice of
 * keys makes it slow. */
#include "base/core/json.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/core/json_scan.h"
#include "base/core/mem.h"

enum { KEYS_FEW = 12 }; /* up to here every pair is compared */

struct json_key_at {
    const char *key;
    size_t place; /* index into the scan's keys */
};

/* The walk's state. `keys` is a stack: an object's keys lie together on top while it is walked. */
struct json_walk {
    const struct json_scan *scan;
    size_t numbers_at, keys_at;
    struct json_key_at *keys;
    size_t keys_n, keys_cap;
    struct err *err;
};

static const cJSON *node_of(const struct json *j)
{
    return (const cJSON *)(const void *)j;
}

static const struct json *json_of(const cJSON *node)
{
    return (const struct json *)(const void *)node;
}

static void cjson_hooks_set(void)
{
    /* With these cJSON cannot run out of memory half-way: see mem.h. */
    cJSON_Hooks hooks = {mem_alloc, mem_free};

    cJSON_InitHooks(&hooks);
}

static void walk_push_key(struct json_walk *w, const char *key)
{
    if (w->keys_n == w->keys_cap) {
        w->keys_cap = w->keys_cap == 0 ? 32 : w->keys_cap * 2;
        w->keys = mem_realloc(w->keys, w->keys_cap * sizeof(*w->keys));
    }
    w->keys[w->keys_n++] = (struct json_key_at){key, w->keys_at++};
}

static int key_at_cmp(const void *pa, const void *pb)
{
    const struct json_key_at *a = pa, *b = pb;
    int c = strcmp(a->key, b->key);

    return c != 0 ? c : a->place < b->place ? -1 : a->place > b->place;
}

/* The second of two equal keys among `n`, or NULL. May reorder them. */
static const struct json_key_at *keys_find_double(struct json_key_at *keys, size_t n)
{
    if (n <= KEYS_FEW) {
        for (size_t i = 1; i < n; i++)
            for (size_t k = 0; k < i; k++)
                if (strcmp(keys[i].key, keys[k].key) == 0)
                    return &keys[i];
        return NULL;
    }
    qsort(keys, n, sizeof(*keys), key_at_cmp);
    for (size_t i = 1; i < n; i++)
        if (strcmp(keys[i].key, keys[i - 1].key) == 0)
            return &keys[i];
    return NULL;
}

static int walk_check_keys(struct json_walk *w, size_t first)
{
    char shown[JSON_SHOWN_MAX], what[JSON_SHOWN_MAX + 32];
    const struct json_key_at *k;

    if (w->keys_n == first)
        return 0; /* no keys: there may be no stack yet either */
    k = keys_find_double(w->keys + first, w->keys_n - first);
    w->keys_n = first;
    if (k == NULL)
        return 0;
    json_key_show(slice_str(k->key), shown);
    (void)snprintf(what, sizeof(what), "duplicate key `%s`", shown); /* fits */
    return json_scan_error(w->scan->text, w->scan->keys.at[k->place], E_SYNTAX, what, w->err);
}

/* Recursion as deep as the text is nested, which the scan has limited. */
static int walk_value(struct json_walk *w, cJSON *node)
{
    bool is_object = cJSON_IsObject(node);
    size_t first = w->keys_n;

    if (cJSON_IsNumber(node)) {
        struct slice rest = slice_from(w->scan->text, w->scan->numbers.at[w->numbers_at++]);
        size_t n = json_number_bytes(rest);

        node->valuestring = mem_strndup(rest.p, n);
        node->valueint = (int)n;
        return 0;
    }
    if (cJSON_IsString(node)) {
        node->valueint = (int)strlen(node->valuestring);
        return 0;
    }
    for (cJSON *child = node->child; child != NULL; child = child->next) {
        int rc;

        if (is_object)
            walk_push_key(w, child->string);
        rc = walk_value(w, child);
        if (rc != 0)
            return rc;
    }
    return is_object ? walk_check_keys(w, first) : 0;
}

static int tree_build(const struct json_scan *scan, cJSON **ret, struct err *err)
{
    struct json_walk w = {.scan = scan, .err = err};
    cJSON *root = cJSON_ParseWithLengthOpts(scan->copy, scan->text.n + 1, NULL, true);
    int rc;

    if (root == NULL)
        return err_set(err, E_SYNTAX, "line 1 column 1: text that the tree builder does not accept");
    rc = walk_value(&w, root);
    mem_free(w.keys);
    if (rc != 0) {
        cJSON_Delete(root);
        return rc;
    }
    *ret = root;
    return 0;
}

int json_parse(struct slice text, const struct json_limits *limits, struct json **ret, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct json_scan scan;
    cJSON *root = NULL;
    int rc;

    must(pthread_once(&once, cjson_hooks_set) == 0);
    rc = json_scan(&scan, text, limits, err);
    if (rc == 0)
        rc = tree_build(&scan, &root, err);
    json_scan_fini(&scan);
    if (rc == 0)
        *ret = (struct json *)(void *)root;
    return rc;
}

void json_free(struct json *root)
{
    cJSON_Delete((cJSON *)(void *)root);
}

enum json_type json_type(const struct json *j)
{
    switch (j == NULL ? cJSON_NULL : node_of(j)->type & 0xff) {
    case cJSON_False:
        return JSON_FALSE;
    case cJSON_True:
        return JSON_TRUE;
    case cJSON_Number:
        return JSON_NUMBER;
    case cJSON_String:
        return JSON_STRING;
    case cJSON_Array:
        return JSON_ARRAY;
    case cJSON_Object:
        return JSON_OBJECT;
    default:
        return JSON_NULL;
    }
}

const char *json_type_name(const struct json *j)
{
    static const char *const NAMES[] = {
        [JSON_NULL] = "null",     [JSON_FALSE] = "boolean", [JSON_TRUE] = "boolean",
        [JSON_NUMBER] = "number", [JSON_STRING] = "string", [JSON_ARRAY] = "array",
        [JSON_OBJECT] = "object",
    };

    return j == NULL ? "absent" : NAMES[json_type(j)];
}

const struct json *json_get(const struct json *object, const char *key)
{
    if (json_type(object) != JSON_OBJECT)
        return NULL;
    return json_of(cJSON_GetObjectItemCaseSensitive(node_of(object), key));
}

size_t json_count(const struct json *j)
{
    size_t n = 0;

    JSON_FOREACH (it, j)
        n++;
    return n;
}

const struct json *json_first(const struct json *j)
{
    return j == NULL ? NULL : json_of(node_of(j)->child);
}

const struct json *json_next(const struct json *j)
{
    return j == NULL ? NULL : json_of(node_of(j)->next);
}

struct slice json_key(const struct json *member)
{
    return member == NULL ? SLICE_NULL : slice_str(node_of(member)->string);
}

static struct slice node_text(const struct json *j, enum json_type type)
{
    if (json_type(j) != type)
        return SLICE_NULL;
    return (struct slice){node_of(j)->valuestring, (size_t)node_of(j)->valueint};
}

struct slice json_string(const struct json *j)
{
    return node_text(j, JSON_STRING);
}

struct slice json_number_text(const struct json *j)
{
    return node_text(j, JSON_NUMBER);
}

int json_i64(const struct json *j, int64_t *ret)
{
    return slice_i64(json_number_text(j), ret);
}

int json_u64(const struct json *j, uint64_t *ret)
{
    return slice_u64(json_number_text(j), ret);
}

bool json_is_true(const struct json *j)
{
    return json_type(j) == JSON_TRUE;
}
