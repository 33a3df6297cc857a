/* peek: see peek.h. Whether the rest is JSON is the gateway's to judge. */
#include "controller/edge/peek.h"

struct slice peek_model(const struct peek *p)
{
    return p->has_model ? slice_of(p->model, p->n_model) : SLICE_NULL;
}

static int string_end(struct peek *p, struct err *err)
{
    p->in_string = false;
    if (p->is_key) {
        p->is_key = false;
        if (p->is_odd && p->n_name == 0)
            return err_set(err, E_INVALID, "body: names of members written with escapes are not passed on");
        p->is_model = !p->is_odd && slice_eq_str(slice_of(p->name, p->n_name), "model");
        if (p->is_model && p->has_model)
            return err_set(err, E_INVALID, "body: `model` is there twice");
    } else if (p->is_model && p->depth == 1) {
        p->is_model = false;
        if (p->is_odd)
            return err_set(err, E_INVALID, "model: escapes or more than %d bytes are not passed on",
                           PEEK_MODEL_MAX);
        p->has_model = true;
    }
    return 0;
}

static void string_byte(struct peek *p, char c)
{
    if (p->is_key && p->n_name < sizeof p->name)
        p->name[p->n_name++] = c;
    else if (p->is_key)
        p->is_odd = true; /* longer than any name that matters */
    else if (p->is_model && p->depth == 1 && p->n_model < sizeof p->model)
        p->model[p->n_model++] = c;
    else if (p->is_model && p->depth == 1)
        p->is_odd = true;
}

static int in_string(struct peek *p, char c, struct err *err)
{
    if (p->is_escaped) {
        p->is_escaped = false;
    } else if (c == '\\') {
        p->is_escaped = true;
        if (p->is_key || (p->is_model && p->depth == 1)) {
            p->is_odd = true;
            p->n_name = 0;
        }
    } else if (c == '"') {
        return string_end(p, err);
    } else if (!p->is_odd) {
        string_byte(p, c);
    }
    return 0;
}

static int outside(struct peek *p, char c, struct err *err)
{
    bool is_blank = c == ' ' || c == '\t' || c == '\r' || c == '\n';
    if (p->depth == 0 && !is_blank && c != '{')
        return err_set(err, E_INVALID, "body: expected one JSON object");
    if (c == '"') {
        p->in_string = true;
        p->is_odd = false;
        p->is_key = p->depth == 1 && p->wants_key;
        p->wants_key = p->wants_key && !p->is_key;
        if (p->is_key)
            p->n_name = 0;
        return 0;
    }
    if (p->is_model && p->depth == 1 && !is_blank && c != ':')
        return err_set(err, E_INVALID, "model: expected a string");
    if (c == '{' || c == '[') {
        p->wants_key = p->depth == 0;
        p->depth++;
    } else if (c == '}' || c == ']') {
        p->depth--; /* above 0: at 0 only '{' comes this far */
    } else if (c == ',' && p->depth == 1) {
        p->wants_key = true;
    }
    return 0;
}

int peek_feed(struct peek *p, struct slice bytes, struct err *err)
{
    for (size_t i = 0; i < bytes.n; i++) {
        int code = p->in_string ? in_string(p, bytes.p[i], err) : outside(p, bytes.p[i], err);
        if (code != 0)
            return code;
    }
    return 0;
}
