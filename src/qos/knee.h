/* SPDX-License-Identifier: Apache-2.0 */
/* A storage's useful parallelism, found from pairs: what it did at its window and, shortly before,
 * at a lower one that all its gateways looked at together.
 *
 * See knee.c for the model; window.h is the same for a gateway alone. Pure; embedded in its owner.
 */
#ifndef WEIR_QOS_KNEE_H
#define WEIR_QOS_KNEE_H
#include <stdbool.h>
#include <stdint.h>

#include "qos/window.h"

/* One side of a pair, over all gateways. `weighed`: of it, what no reservation sent. */
struct knee_seen {
    double inflight, rate; /* mean; answered a second, by a cost that is the same on both sides */
    double weighed_inflight, weighed_rate;
    double ios, weighed_ios; /* answers that were counted */
};

struct knee {
    uint64_t slots_milli;       /* the window to use */
    uint64_t parallelism_milli; /* k */
    bool all;                   /* the next look is to hold what is reserved as well */
    bool far;                   /* k may be far off */
    uint32_t calm;              /* pairs in a row that changed nothing */
    /* Inside. */
    double k, known; /* as believed now, and as a pair last found it; 0: none has */
    bool doubted;    /* the last pair wanted less, and was not believed yet */
    uint64_t wait_bound_ns;
    uint32_t bound_ppm;
};

/* @parallelism_milli: a first guess; 0: none. */
void knee_init(struct knee *k, uint64_t parallelism_milli);
/* The lower window to look at next. */
uint64_t knee_low_milli(const struct knee *k);
/* How many answers each side of a pair should have. */
uint64_t knee_ios_wanted(const struct knee *k);
/* A pair, looked at as `all` says. */
void knee_pair(struct knee *k, const struct knee_seen *high, const struct knee_seen *low);
/* A promise is missed and nothing waits at a gateway, with @inflight in the mean, @reserved of that
 * by reservations: what waits does so in the device. */
void knee_too_wide(struct knee *k, double inflight, double reserved);
/* Bound of the p99 of the wait (0: none), and that p99 as last seen (0: not known). */
void knee_wait(struct knee *k, uint64_t bound_ns, uint64_t wait_p99_ns);

#endif
