/* listeners: where clients connect, and the certificates that are shown there. */
#ifndef REEVE_CONTROLLER_LISTENERS_H
#define REEVE_CONTROLLER_LISTENERS_H

#include "base/net/server.h"
#include "config/tenancy.h"

struct listeners;

struct listeners_stats {
    uint64_t certificates_applied, certificates_refused; /* since the start, without those of the start */
    int64_t expires_s; /* Unix time when the first of the certificates in force expires; 0: there is none */
};

/* Opens all of the configuration on `server`. 0, or the first that cannot be opened. */
int listeners_open(struct loop *l, struct server *server, const struct tenancy *t, struct listeners **ret,
                   struct err *err);
/* After a reload: certificates of listeners that are there are put in force; addresses need a restart. */
void listeners_apply(struct listeners *ls, const struct tenancy *t);
const struct listeners_stats *listeners_stats(const struct listeners *ls);
/* After the server is closed. NULL is fine. */
void listeners_free(struct listeners *ls);

#endif
