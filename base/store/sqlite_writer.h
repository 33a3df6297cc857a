/* sqlite_writer: turns a batch of commits into one SQLite transaction. */
#ifndef REEVE_BASE_STORE_SQLITE_WRITER_H
#define REEVE_BASE_STORE_SQLITE_WRITER_H

#include "base/store/sqlite_lane.h"

#define WRITER_BATCH_MAX   256u
#define WRITER_BATCH_BYTES (16u << 20)

struct partition_slot;
struct counter_slot;
struct log_slot;

/* What the file holds, or will hold when the transaction that is open commits. Emptied when it does not, when
 * somebody else wrote to the file, and when it has grown large. */
struct writer {
    struct lane lane; /* first */
    struct partition_slot *partitions;
    struct counter_slot *counters;
    struct log_slot *logs;
    struct partition_slot *dirty_partitions; /* to be written at the end of the transaction */
    struct counter_slot *dirty_counters;
    int64_t data_version; /* of SQLite: changes when another connection has written */
    uint64_t commits;     /* numbers them, for a counter's `pending` */
};

/* The functions of the writer's lane; w->lane.db is open. */
void writer_init(struct writer *w);

#endif
