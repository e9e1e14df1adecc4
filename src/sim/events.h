/* SPDX-License-Identifier: Apache-2.0 */
/* What will happen, in order of time; at one time, in the order in which it was decided. */
#ifndef WEIR_SIM_EVENTS_H
#define WEIR_SIM_EVENTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim;

struct event {
    uint64_t at_ns, order;
    void (*fire)(struct sim *s, const struct event *e);
    void *what;
    uint64_t number;
};

struct events {
    struct event *heap; /* from 1 */
    size_t count, capacity;
    uint64_t order;
};

void events_fini(struct events *q);
/* Memory that runs out ends the process: a simulation without it has no meaning. */
void events_add(struct events *q, uint64_t at_ns, void (*fire)(struct sim *, const struct event *),
                void *what, uint64_t number);
/* False: nothing will happen any more. */
bool events_next(struct events *q, struct event *ret);

#endif
