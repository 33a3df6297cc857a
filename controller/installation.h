/* installation: what makes this data folder one Reeve: its id, the epoch of its starts, the seal key and its
 * check value.
 *
 * Record `meta/installation` in partition `fleet`: {"controller","epoch","seal_check"}. The seal key is made
 * only for an empty store; afterwards a missing or different key is refused, because what is sealed would be
 * lost unseen. */
#ifndef REEVE_CONTROLLER_INSTALLATION_H
#define REEVE_CONTROLLER_INSTALLATION_H

#include "base/core/crypto.h"
#include "base/core/id.h"
#include "base/store/store.h"

struct installation {
    char id[ID_TEXT_MAX];
    uint64_t epoch;
    struct seal_key key;
};
typedef void (*installation_cb)(int code, const struct installation *i, const struct err *err, void *data);
/* Reads or makes it; the epoch is one more than at the last start, durably, before `done`. */
void installation_open(struct loop *l, struct store *s, const char *key_path, installation_cb done,
                       void *data);

#endif
