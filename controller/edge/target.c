/* target: see target.h. The HTTP parser has checked the bytes; here the meaning is checked. */
#include "controller/edge/target.h"

#include <stdio.h>
#include <string.h>

static int address_target(struct slice host, bool is_bracket, struct target *ret, struct err *err)
{
    if (address_parse(host, &ret->address) != 0 || is_bracket != (slice_find(host, ':') != SIZE_MAX))
        return err_set(err, E_INVALID, "target: %s",
                       is_bracket ? "no IPv6 address between the brackets" : "IPv6 is written in brackets");
    ret->is_address = true;
    address_format(&ret->address, ret->host);
    return 0;
}

int target_parse(struct slice authority, uint16_t fallback_port, struct target *ret, struct err *err)
{
    struct target t = {.port = fallback_port};
    struct slice host, port;
    struct address alone;
    struct err why = {0};
    bool is_bracket = authority.n > 0 && authority.p[0] == '[';
    size_t at = slice_find(authority, is_bracket ? ']' : ':');
    uint64_t v;
    int code;
    if (is_bracket && at == SIZE_MAX)
        return err_set(err, E_INVALID, "target: the bracket is not closed");
    host = is_bracket ? slice_of(authority.p + 1, at - 1)
                      : slice_of(authority.p, at == SIZE_MAX ? authority.n : at);
    port = at == SIZE_MAX ? SLICE_EMPTY : slice_from(authority, is_bracket ? at + 1 : at);
    if (port.n > 0) {
        if (port.p[0] != ':' || slice_u64(slice_from(port, 1), &v) != 0 || v == 0 || v > 65535)
            return err_set(err, E_INVALID, "target: the port must be a number from 1 to 65535");
        t.port = (uint16_t)v;
    }
    if (t.port == 0)
        return err_set(err, E_INVALID, "target: the port is missing");
    if (is_bracket || address_parse(host, &alone) == 0) {
        code = address_target(host, is_bracket, &t, err);
        if (code != 0)
            return code;
    } else if (host_name_parse(host, t.host, &why) != 0) {
        return err_set(err, E_INVALID, "target: %s", why.msg);
    }
    bool is_v6 = t.is_address && !address_is_v4(&t.address);
    (void)snprintf(t.text, sizeof t.text, is_v6 ? "[%s]:%u" : "%s:%u", t.host, (unsigned)t.port);
    *ret = t;
    return 0;
}

static int host_agrees(const struct http_request *r, const struct target *t, struct err *err)
{
    struct slice field = http_find(r->headers, r->n_headers, "host");
    struct target said;
    if (field.p == NULL)
        return 0; /* HTTP/1.0 */
    /* without a port it is that of the target: some clients leave it out in CONNECT */
    if (target_parse(field, t->port, &said, NULL) != 0 || strcmp(said.text, t->text) != 0)
        return err_set(err, E_INVALID, "Host: it names another place than the target, %s", t->text);
    return 0;
}

int target_of_request(const struct http_request *r, struct target *ret, struct err *err)
{
    bool is_connect = slice_eq_str(r->method, "CONNECT");
    size_t scheme = slice_find(r->target, ':');
    if (!is_connect && (scheme == SIZE_MAX || !slice_ieq_str(slice_of(r->target.p, scheme), "http")))
        return err_set(err, E_NOT_IMPLEMENTED,
                       "target: only http:// is forwarded; for https:// a client uses CONNECT");
    int code = target_parse(r->host, is_connect ? 0 : 80, ret, err);
    return code != 0 ? code : host_agrees(r, ret, err);
}
