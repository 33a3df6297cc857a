/* Any bytes as a JSON-RPC message from inside a sandbox: the scan stays inside them, and of what the strict
 * parser also takes, both find the same id and method.
 *
 * clang-14 -fsanitize=fuzzer,address,undefined; see `make fuzz-smoke`. */
#include "controller/edge/envelope.h"

#include <string.h>

#include "base/core/json.h"
#include "base/core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct envelope e;
    struct json *j = NULL;
    struct slice in = slice_of(data, n);
    bool is_object = envelope_scan(in, &e);
    must(e.id.p == NULL || (e.id.p >= in.p && e.id.p + e.id.n <= in.p + in.n));
    must(e.method.p == NULL || (e.method.p >= in.p && e.method.p + e.method.n <= in.p + in.n));
    if (json_parse(in, NULL, &j, NULL) != 0)
        return 0;
    must(is_object == (json_type(j) == JSON_OBJECT));
    /* keys with escapes are not looked into: a server that writes them so is not understood, which is safe */
    const struct json *id = json_get(j, "id");
    if (is_object && json_type(id) == JSON_NUMBER && memchr(data, '\\', n) == NULL)
        must(slice_eq(e.id, json_number_text(id)));
    if (is_object && memchr(data, '\\', n) == NULL && json_type(json_get(j, "method")) == JSON_STRING)
        must(slice_eq(e.method, json_string(json_get(j, "method"))));
    json_free(j);
    return 0;
}
