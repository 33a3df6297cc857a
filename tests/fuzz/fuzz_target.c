/* The target of a proxy request: what is taken means the same when it is read again from its own text. */
#include <string.h>

#include "base/core/mem.h"
#include "controller/edge/target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(const struct target *t)
{
    struct target again;
    must(t->port != 0 && strlen(t->host) <= HOST_NAME_MAX_BYTES && strlen(t->host) > 0);
    must(target_parse(slice_str(t->text), 0, &again, NULL) == 0);
    must(strcmp(again.text, t->text) == 0 && again.is_address == t->is_address && again.port == t->port);
    must(!t->is_address || address_eq(&again.address, &t->address));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct target t;
    struct http_request r;
    struct err err = {0};
    size_t used;
    if (target_parse(slice_of(data, n), 0, &t, &err) == 0)
        check(&t);
    else
        must(err.msg[0] != '\0');
    if (http_parse_request(slice_of(data, n), HTTP_ALLOW_ABSOLUTE | HTTP_ALLOW_CONNECT, NULL, &r, &used,
                           NULL) == 0 &&
        (slice_eq_str(r.method, "CONNECT") || r.target.p[0] != '/') && target_of_request(&r, &t, NULL) == 0)
        check(&t);
    return 0;
}
