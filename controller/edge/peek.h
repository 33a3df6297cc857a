/* peek: finds the `model` of a model call in its streaming JSON body, without keeping the body.
 *
 * It sees every byte, so that what it found cannot be changed later: a second `model`, or a member name
 * written with escapes, is an error, because another parser might take that one. */
#ifndef REEVE_CONTROLLER_EDGE_PEEK_H
#define REEVE_CONTROLLER_EDGE_PEEK_H

#include "base/core/err.h"
#include "base/core/slice.h"

#define PEEK_MODEL_MAX 256

struct peek {
    unsigned depth;
    bool in_string, is_escaped;
    bool wants_key; /* at depth 1: the next string is a member's name */
    bool is_key;    /* the present string is one */
    bool is_model;  /* the next or present string is the model */
    bool is_odd;    /* the present name or model has an escape, or is too long */
    char name[16];
    size_t n_name;
    char model[PEEK_MODEL_MAX];
    size_t n_model;
    bool has_model;
};

/* 0; E_INVALID: the call must not be passed on (any further). */
int peek_feed(struct peek *p, struct slice bytes, struct err *err);
struct slice peek_model(const struct peek *p); /* SLICE_NULL until it is whole */

#endif
