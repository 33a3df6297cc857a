/* sieve: lets a few members of JSON objects through while the text streams by, and forgets the rest.
 *
 * For bodies that carry much that must not be kept (prompts, answers) around little that is wanted. The text
 * is one object, an array of them, or objects one after the other (lines). Each value at the top becomes one
 * line of JSON in `out`, in order: an object with the wanted members that it has, or `null` for anything
 * else. What is let through still has to be parsed and checked; what is not is only followed as far as
 * finding its end needs: it may be as deep, as long and as odd as it likes. */
#ifndef REEVE_BASE_CORE_SIEVE_H
#define REEVE_BASE_CORE_SIEVE_H

#include "base/core/buf.h"
#include "base/core/err.h"

#define SIEVE_LEVELS_MAX  6  /* of tables below one another */
#define SIEVE_NAME_MAX    48 /* bytes of a wanted member's name */
#define SIEVE_LITERAL_MAX 64 /* bytes of a number */
#define SIEVE_TOO_LONG    "(too long)"

/* Tables end with a row without a name. A member whose name is written with escapes is not recognised. */
struct sieve_row {
    const char *name;
    size_t max; /* bytes of a string as written; a longer one becomes SIEVE_TOO_LONG. 0: SIEVE_LITERAL_MAX */
    const struct sieve_row *below; /* the members wanted of an object. NULL: a scalar is wanted */
};

enum sieve_expect { SIEVE_KEY_OR_END, SIEVE_KEY, SIEVE_COLON, SIEVE_VALUE, SIEVE_COMMA_OR_END };
enum sieve_top { SIEVE_ANY, SIEVE_FIRST_ELEMENT, SIEVE_ELEMENT, SIEVE_COMMA, SIEVE_DONE };

struct sieve_level {
    const struct sieve_row *rows, *row; /* row: of the present member; NULL: not wanted */
    enum sieve_expect expect;
    bool has_output;
};

struct sieve {
    const struct sieve_row *rows;
    struct buf out;
    size_t n, n_max; /* lines */
    /* state */
    uint64_t offset;
    enum sieve_top top;
    struct sieve_level levels[SIEVE_LEVELS_MAX];
    unsigned level;    /* objects whose members are looked at; 0: at the top */
    uint64_t skipping; /* brackets open inside a value that is not wanted */
    bool in_string, is_escaped, in_literal;
    bool is_key;               /* the string is a member's name */
    bool is_kept, is_too_long; /* the string or literal is wanted; but longer than its row says */
    size_t text_at;            /* where it began in out */
    char text[SIEVE_LITERAL_MAX];
    size_t n_text; /* of a name or literal; more than fit: SIZE_MAX */
};

void sieve_init(struct sieve *s, const struct sieve_row *rows, size_t n_max, size_t out_max);
void sieve_fini(struct sieve *s);
/* 0; E_SYNTAX with the offset; E_TOO_LARGE: more values than n_max, or more to keep than out_max. After an
 * error nothing more may be fed. */
int sieve_feed(struct sieve *s, struct slice bytes, struct err *err);
/* The text has ended: 0, or E_SYNTAX when it is empty or cut off. */
int sieve_end(struct sieve *s, struct err *err);

#endif
