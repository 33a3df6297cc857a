/* zone: when a day, a week or a month begins in an IANA time zone.
 *
 * Reads the system's compiled zone files (TZif, RFC 9636) itself, because the C library only knows the zone
 * of the whole process. Past and present come from the file's table, the future from the rule in its footer.
 */
#ifndef REEVE_BILLING_ZONE_H
#define REEVE_BILLING_ZONE_H

#include "base/core/err.h"
#include "base/core/slice.h"
#include "config/tenancy.h"

#define ZONE_NAME_MAX 100

struct zone;

/* "Europe/Berlin"; "UTC" and "" need no file. 0; E_INVALID for a name that cannot be one, E_NOT_FOUND for one
 * that the system does not know, E_SYNTAX for a damaged file. Blocks (a small local file): at start and on
 * reload only. */
int zone_load(struct slice name, struct zone **ret, struct err *err);
/* The same from the bytes of a TZif file, or from a POSIX TZ rule alone ("EST5EDT,M3.2.0,M11.1.0"). */
int zone_parse(struct slice tzif, struct zone **ret, struct err *err);
int zone_of_rule(struct slice rule, struct zone **ret, struct err *err);
void zone_free(struct zone *z);

/* Seconds to add to UTC for local time at that instant (seconds since 1970). */
int32_t zone_offset(const struct zone *z, int64_t utc_s);

/* The window that holds the instant: from the first instant of its first local day to the first of the next
 * window. Windows of one zone follow each other without gap or overlap. Milliseconds since 1970. */
void zone_window(const struct zone *z, enum budget_window window, int64_t wall_ms, int64_t *ret_start_ms,
                 int64_t *ret_end_ms);

#endif
