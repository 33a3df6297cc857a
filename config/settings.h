/* settings: the table of every key of the configuration file. Checking, `--help` and the manual come from its
 * rows. */
#ifndef REEVE_CONFIG_SETTINGS_H
#define REEVE_CONFIG_SETTINGS_H

#include "base/core/buf.h"

enum setting_type {
    SETTING_MAP,   /* fixed keys: the rows below it */
    SETTING_TABLE, /* entries named by the user; each is checked as `path.*` */
    SETTING_LIST,  /* elements are checked as `path[]` */
    SETTING_TEXT,
    SETTING_NAME, /* a legal name: [a-z0-9-], at most 63, no '-' at the ends */
    SETTING_BOOL,
    SETTING_COUNT,
    SETTING_CPUS, /* decimal with at most 3 fraction digits */
    SETTING_SIZE,
    SETTING_DURATION,
    SETTING_MONEY,
    SETTING_CHOICE,
    SETTING_LISTEN,         /* an address to listen on */
    SETTING_URL,            /* http or https */
    SETTING_STORE,          /* sqlite, redis://… */
    SETTING_PATH,           /* relative to the configuration file's folder */
    SETTING_REFERENCE,      /* env:NAME or file:path */
    SETTING_FILE_REFERENCE, /* file:path alone: the file may not be there yet */
    SETTING_HASH,           /* sha256:<hex> */
    SETTING_ENGINE,         /* unix:///path of a Docker engine on this host */
    SETTING_UID_RANGE,
    SETTING_ZONE,      /* IANA time zone */
    SETTING_NAMESPACE, /* a legal name or "*" */
    SETTING_ENV,       /* value of an environment variable */
    SETTING_RULE,      /* an entry of an allow list: host:port, *.suffix:port, CIDR:port, any-public:port */
    SETTING_EXEMPTION, /* CIDR:port */
    SETTING_PORT,
    SETTING_SERVER, /* address:port of a name server */
};

enum {
    SETTING_REQUIRED = 1,     /* in its map */
    SETTING_NONEMPTY = 2,     /* lists and tables */
    SETTING_RESTART = 4,      /* a change takes effect after a restart */
    SETTING_SECRET = 8,       /* its text never appears in a message */
    SETTING_UNSUPPORTED = 16, /* a known key that this version refuses */
    SETTING_ONE_OK = 32,      /* one element may stand without a list around it */
};

#define PRICE_FILES_MAX 16

struct setting {
    const char *path; /* dotted; `*` for a name given by the user, `[]` for a list's element */
    enum setting_type type;
    unsigned flags;
    const char *fallback; /* value when the key is absent, as text; NULL: none */
    const char *choices;  /* SETTING_CHOICE: words separated by spaces */
    const char *later;    /* SETTING_CHOICE: words that this version refuses as unsupported */
    uint64_t min, max; /* in `unit`; of the value, the text's length or the number of entries; max 0: none */
    const char *unit;  /* what min and max count: "bytes", "ms", "entries"…; NULL: the value itself */
    const char *help;  /* one sentence for people */
};

const struct setting *settings(size_t *n);
const struct setting *setting_find(const char *path); /* NULL when there is none */
const char *setting_type_name(enum setting_type t);   /* "a size" */
const char *setting_type_sample(enum setting_type t); /* "4GiB"; NULL for containers */
/* The table for people: `path  type  default  help`, one row a line. As a Markdown table when `markdown`. */
void settings_print(bool markdown, struct buf *out);

#endif
