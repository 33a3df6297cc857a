/* price_import: LiteLLM's price list (model_prices_and_context_window.json) to a Reeve price file, with a
 * word on everything that was not taken as it stands. What is taken and what is not: docs/prices.md. */
#ifndef REEVE_BILLING_PRICE_IMPORT_H
#define REEVE_BILLING_PRICE_IMPORT_H

#include "base/core/err.h"
#include "base/core/json.h"
#include "billing/price.h"

#define PRICE_LIST_BYTES_MAX ((size_t)32 * 1024 * 1024)

struct price_import_options {
    struct slice version; /* of the file to be written; empty: made from the list's own bytes */
    bool is_free_taken;   /* a price of 0 is free; else a model whose prices are 0 is left unpriced */
    bool is_write_1h;     /* cache_write at the rate of an hour where that is dearer than that of 5 minutes */
    bool is_priority_priced; /* at the rates of service tier `priority` where they are dearer */
};

enum price_note_kind {
    NOTE_MENDED,   /* an artefact of floating point: what was meant is taken */
    NOTE_ROUNDED,  /* a fraction without end: half-even at 1e-18 */
    NOTE_DEAREST,  /* one kind here, several rates there: the dearest is taken */
    NOTE_FILLED,   /* the list says nothing (or 0): another rate is taken, or none */
    NOTE_LEFT_OUT, /* a rate that Reeve has no kind for */
    NOTE_UNPRICED, /* the model is not in the file */
    PRICE_NOTE_KINDS
};
extern const char *const price_note_names[PRICE_NOTE_KINDS]; /* "mended" */

struct price_note {
    enum price_note_kind kind;
    struct slice model, field;
    struct slice found;        /* as the list has it; "" when it is not one number */
    char taken[I128_TEXT_MAX]; /* per token; "" when nothing was */
    const char *why;
    bool is_undercount; /* calls that use it cost more than they are priced at */
    struct price_note *next;
};

struct price_import;

/* 0; E_SYNTAX, E_TOO_LARGE or E_INVALID when the text as a whole is no such list. */
int price_import_litellm(struct slice text, const struct price_import_options *o, struct price_import **ret,
                         struct err *err);
void price_import_free(struct price_import *x); /* NULL is fine */

struct slice price_import_version(const struct price_import *x);
size_t price_import_listed(const struct price_import *x); /* entries of the list */
const struct price_model *price_import_models(const struct price_import *x, size_t *ret_n);
const struct price_note *price_import_notes(const struct price_import *x); /* in the list's order */
size_t price_import_count(const struct price_import *x, enum price_note_kind kind);

/* The price file, and all that is known of the import as JSON. Both are whole unless the buf is_full. */
void price_import_write(const struct price_import *x, struct buf *out);
void price_import_report(const struct price_import *x, struct buf *out);

#endif
