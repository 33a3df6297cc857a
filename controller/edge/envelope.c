/* envelope: see envelope.h. */
#include "controller/edge/envelope.h"

#include "base/core/json.h"

static void skip_blanks(struct slice *s)
{
    while (s->n > 0 && (s->p[0] == ' ' || s->p[0] == '\t' || s->p[0] == '\r' || s->p[0] == '\n'))
        *s = slice_from(*s, 1);
}

static struct slice trim_end(struct slice s)
{
    while (s.n > 0 &&
           (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t' || s.p[s.n - 1] == '\r' || s.p[s.n - 1] == '\n'))
        s.n--;
    return s;
}

/* At a '"': takes the string, gives what is between the quotes; false when it is cut off. */
static bool take_string(struct slice *s, struct slice *ret)
{
    for (size_t i = 1; i < s->n; i++) {
        if (s->p[i] == '\\') {
            i++;
        } else if (s->p[i] == '"') {
            *ret = slice_of(s->p + 1, i - 1);
            *s = slice_from(*s, i + 1);
            return true;
        }
    }
    return false;
}

/* Takes one value of any kind, gives its text; false when it is cut off. */
static bool take_value(struct slice *s, struct slice *ret)
{
    struct slice at = *s, inner;
    size_t depth = 0;
    while (s->n > 0) {
        char c = s->p[0];
        if (c == '"') {
            if (!take_string(s, &inner))
                return false;
        } else if (c == '{' || c == '[') {
            depth++;
            *s = slice_from(*s, 1);
        } else if (c == '}' || c == ']') {
            if (depth == 0)
                break; /* the end of the outer object */
            depth--;
            *s = slice_from(*s, 1);
        } else if (depth == 0 && c == ',') {
            break;
        } else {
            *s = slice_from(*s, 1);
            if (depth > 0 || (s->n > 0 && s->p[0] != ',' && s->p[0] != '}'))
                continue;
        }
        if (depth == 0)
            break;
    }
    *ret = slice_of(at.p, at.n - s->n);
    return s->n > 0;
}

bool envelope_scan(struct slice json, struct envelope *ret)
{
    struct slice s = json, key, value;
    *ret = (struct envelope){SLICE_NULL, SLICE_NULL, false};
    skip_blanks(&s);
    if (s.n == 0 || s.p[0] != '{')
        return false;
    s = slice_from(s, 1);
    for (;;) {
        skip_blanks(&s);
        if (s.n == 0 || s.p[0] != '"' || !take_string(&s, &key))
            return true;
        skip_blanks(&s);
        if (s.n == 0 || s.p[0] != ':')
            return true;
        s = slice_from(s, 1);
        skip_blanks(&s);
        bool is_whole = take_value(&s, &value);
        if (slice_eq_str(key, "result") || slice_eq_str(key, "error"))
            ret->has_result = true;
        if (!is_whole)
            return true;
        value = trim_end(value);
        if (slice_eq_str(key, "id") && !slice_eq_str(value, "null"))
            ret->id = value;
        else if (slice_eq_str(key, "method") && value.n >= 2 && value.p[0] == '"')
            ret->method = slice_of(value.p + 1, value.n - 2);
        skip_blanks(&s);
        if (s.n == 0 || s.p[0] != ',')
            return true;
        s = slice_from(s, 1);
    }
}

int envelope_error_code(int code)
{
    switch (code) {
    case E_SYNTAX:
        return -32700;
    case E_INVALID:
        return -32600;
    case E_FORBIDDEN:
        return -32003;
    case E_NOT_FOUND:
        return -32004;
    case E_QUOTA:
    case E_RATE:
    case E_BUSY:
        return -32005;
    case E_BUDGET:
        return -32010;
    case E_GONE:
        return -32011;
    case E_TOO_LARGE:
        return -32013;
    case E_UNAVAILABLE:
    case E_DRAINING:
    case E_STORE:
    case E_TIMEOUT:
        return -32000;
    default:
        return -32603;
    }
}

void envelope_error(struct buf *out, struct slice id, const struct err *err, const char *request_id)
{
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object(&w);
    jsonw_kstr(&w, "jsonrpc", "2.0");
    jsonw_key(&w, "id");
    jsonw_raw(&w, id.p != NULL ? id : SL("null"));
    jsonw_key(&w, "error");
    jsonw_object(&w);
    jsonw_ki64(&w, "code", envelope_error_code(err->code));
    jsonw_kstr(&w, "message", err->msg);
    jsonw_key(&w, "data");
    jsonw_object(&w);
    jsonw_kstr(&w, "code", err_name(err->code));
    jsonw_ki64(&w, "status", err_http_status(err->code));
    if (request_id != NULL)
        jsonw_kstr(&w, "request_id", request_id);
    jsonw_object_end(&w);
    jsonw_object_end(&w);
    jsonw_object_end(&w);
}
