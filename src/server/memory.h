/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that unrest among gateways left free goes back to the system.
 *
 * Sessions that end and gateways that move leave holes all over the heaps of the threads that knew
 * them. The C library gives back only what lies at a heap's end, so the holes would stay resident
 * for good. Once a minute after unrest all whole pages of them are given back (decision 0084). Main
 * thread only. */
#ifndef WEIR_SERVER_MEMORY_H
#define WEIR_SERVER_MEMORY_H
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define MEMORY_REST_NS (60 * NS_PER_S)

struct memory {
    uint64_t unrest, since_ns;
};

/* Whether it is time: @unrest, a count of what leaves holes, has grown, and the last time is at
 * least MEMORY_REST_NS ago. Pure. */
bool memory_due(struct memory *m, uint64_t unrest, uint64_t now_ns);
/* Give back what can be. Holds up who allocates meanwhile: milliseconds. */
void memory_give_back(void);

#endif
