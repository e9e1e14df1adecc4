/* SPDX-License-Identifier: Apache-2.0 */
/* Who gets how much of a capacity: reservations first, the rest by weight; pure.
 *
 * All figures share one unit (I/Os, bytes or device time a second). */
#ifndef WEIR_SERVER_SERVICES_ALLOCATE_H
#define WEIR_SERVER_SERVICES_ALLOCATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/services/agreement.h"

struct allocate_claim {
    double demand;      /* what it asks for; INFINITY: all it can get */
    double reservation; /* 0: none */
    double limit;       /* INFINITY: none */
    double weight;      /* above 0 */
    int32_t priority;   /* higher is dearer */
    double reserved;    /* out: of its reservation, as far as it asks for it */
    double given;       /* out */
};

/* Fill reserved and given of all @n. Returns the part of the reservations asked for that fits: 1,
 * or less when they exceed @capacity. Then who keeps what is decided by @collisions: the higher
 * priority whole before the lower (equals in proportion), or all in proportion.
 *
 * Promises: given sums to at most @capacity, and to all of it while somebody asks for more; no
 * claim is given more than it asks for or its limit; none less than its reservation (as far as it
 * asks for it) while all reservations fit; a greater weight never gives less. Beyond reservations
 * it is max-min fair in given over weight. */
double allocate(struct allocate_claim *c, size_t n, double capacity, enum collisions collisions);

/* Only the first part of that: fill reserved, and return what allocate would. For who needs no
 * more: it walks the claims a few times, the search for the level dozens of times. */
double allocate_reserve(struct allocate_claim *c, size_t n, double capacity,
                        enum collisions collisions);

#endif
