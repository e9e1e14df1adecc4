/* SPDX-License-Identifier: Apache-2.0 */
/* How many I/Os a target is given at once: slots, just past the knee of the device.
 *
 * See window.c for the model. Pure; embedded in its owner; one tracker a target (the gateway's own
 * finding when no plan says otherwise, and the planner's over all gateways, fed with sums). */
#ifndef WEIR_QOS_WINDOW_H
#define WEIR_QOS_WINDOW_H
#include <stdbool.h>
#include <stdint.h>

#include "qos/cost.h"

/* A plan for one target at one gateway, as the server sends it. */
struct window_plan {
    uint64_t slots_milli;   /* this gateway's part of the window; 0: as the gateway finds */
    uint64_t wait_us;       /* bound of the p99 of the device's wait; 0: none */
    struct cost_model cost; /* all 0: as the gateway finds */
    bool observe;           /* count, hold nothing */
};

/* What was seen of a target in one interval, by one gateway or summed over all that use it. */
struct window_sample {
    uint64_t interval_ns;
    uint64_t busy_ns;       /* integral of I/Os in flight */
    uint64_t full_ns;       /* time with the window full and work waiting (of several: the mean) */
    uint64_t cost_ns;       /* answered, by the cost model */
    uint64_t ios;           /* answered */
    uint64_t latency_ns;    /* sum over those answered, dispatch to answer; 0: not known */
    uint64_t wait_p99_ns;   /* 0: not known */
    bool stalled;           /* the device stood still for a time: not to be learnt from */
};

#define WINDOW_SLOTS_MILLI_MIN 1000u
#define WINDOW_SLOTS_MILLI_MAX 4096000u

struct window {
    uint64_t slots_milli;       /* what to use now */
    uint64_t parallelism_milli; /* k: useful parallelism; 0: not known yet */
    uint64_t wait_bound_ns;     /* 0: none */
    uint32_t bound_ppm;         /* factor of the latency bound, 1000000: not bounded */
    /* The search; window.c. */
    uint32_t phase, rounds, calm;
    uint64_t base_milli, base_rate, probe_rate;
    uint64_t base_ns, base_ios, probe_ns, probe_ios;
    uint64_t slope_rate;
};

/* @parallelism_milli: of calibration or an earlier life; 0: not known. */
void window_init(struct window *w, uint64_t parallelism_milli);
/* Bound of the p99 of the wait; 0: none. */
void window_bound(struct window *w, uint64_t wait_ns);
/* Learn from one interval (some 100 ms to some seconds). Changes slots_milli. */
void window_learn(struct window *w, const struct window_sample *s);

#endif
