/* metrics: figures in Prometheus' text form, from a table of rows. */
#ifndef REEVE_CONTROLLER_API_METRICS_H
#define REEVE_CONTROLLER_API_METRICS_H

#include "controller/controller.h"

void metrics_write(struct controller *c, struct buf *out);

#endif
