/* sqlite_reader: gets, scans and log reads, on a connection and a thread of their own. */
#ifndef REEVE_BASE_STORE_SQLITE_READER_H
#define REEVE_BASE_STORE_SQLITE_READER_H

#include "base/store/sqlite_lane.h"

#define READER_BATCH_MAX   64u
#define READER_BATCH_BYTES (1u << 20) /* of the questions */

/* The functions of the reader's lane; l->db is open. */
void reader_init(struct lane *l);

#endif
