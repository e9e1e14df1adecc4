/* SPDX-License-Identifier: Apache-2.0 */
/* One look at a lower window, at the planner's word, and what the target did then and since.
 *
 * All gateways before a storage take it at once, so that none has what another lets go. Pure;
 * embedded in its target; owner thread only. See look.c. */
#ifndef WEIR_QOS_LOOK_H
#define WEIR_QOS_LOOK_H
#include <stdbool.h>
#include <stdint.h>

#include "qos/sched.h"
#include "qos/window.h"

struct look_sample {
    uint64_t ns;               /* how long; 0: nothing yet */
    uint64_t busy_ns, full_ns; /* as sched_counts, of that time */
    uint64_t ios, bytes;
    /* Of these, what went by weight: what a lower window holds back. */
    uint64_t weighed_busy_ns, weighed_ios, weighed_bytes;
};

/* Of the last look that is over. */
struct look_result {
    uint32_t id; /* 0: none yet */
    struct look_sample low, since;
};

enum look_state { LOOK_NONE, LOOK_WAITS, LOOK_SETTLES, LOOK_COUNTS, LOOK_RECOVERS, LOOK_OVER };

struct look {
    struct window_look order;
    enum look_state state;
    uint64_t begin_ns, base_ns;
    struct sched_counts base; /* at base_ns: where counting began */
    struct look_sample low;
};

/* A plan says so. Nothing if that look was begun already, or is none. */
void look_begin(struct look *l, const struct window_look *order, uint64_t now_ns);
/* After each answer, and each tick: true when the window that is to be in force changed. */
bool look_step(struct look *l, struct sched *s, uint64_t now_ns);
/* Without a window there is nothing to look at. */
void look_end(struct look *l);
/* Slots while its lower window is to be in force; 0: it is not. */
uint64_t look_slots_milli(const struct look *l);
void look_result(const struct look *l, struct sched *s, uint64_t now_ns, struct look_result *ret);

#endif
