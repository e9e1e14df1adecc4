/* SPDX-License-Identifier: Apache-2.0 */
/* How many I/Os a target is given at once: slots, just past the knee of the device.
 *
 * See window.c for the model. Pure; embedded in its owner; one tracker a target: the gateway's own
 * finding when no plan says otherwise, or the planner's over all gateways, fed with sums. */
#ifndef WEIR_QOS_WINDOW_H
#define WEIR_QOS_WINDOW_H
#include <stdbool.h>
#include <stdint.h>

#include "qos/cost.h"

/* An order to look at a lower window for a while; look.h. */
struct window_look {
    uint32_t id; /* 0: none; else it is begun when it differs from the last */
    uint32_t ms, after_ms; /* for how long, and how long after the plan came */
    uint64_t slots_milli;
    bool all; /* what is reserved is held to it as well */
};

#define WINDOW_LOOK_MS_MAX 1000u /* of either time */

/* A plan for one target at one gateway, as the server sends it. */
struct window_plan {
    uint64_t slots_milli;   /* this gateway's part of the window; 0: as the gateway finds */
    uint64_t wait_us;       /* bound of the p99 of the device's wait; 0: none */
    struct cost_model cost; /* all 0: as the gateway finds */
    bool observe;           /* count, hold nothing */
    struct window_look look;
};

/* Field by field: what lies between fields says nothing. */
static inline bool window_plan_same(const struct window_plan *a, const struct window_plan *b)
{
    const struct cost_model *x = &a->cost, *y = &b->cost;
    return a->slots_milli == b->slots_milli && a->wait_us == b->wait_us &&
           a->observe == b->observe && x->base_ns[0] == y->base_ns[0] &&
           x->base_ns[1] == y->base_ns[1] && x->page_ns[0] == y->page_ns[0] &&
           x->page_ns[1] == y->page_ns[1] && a->look.id == b->look.id &&
           a->look.ms == b->look.ms && a->look.after_ms == b->look.after_ms &&
           a->look.slots_milli == b->look.slots_milli &&
           a->look.all == b->look.all;
}

/* What was seen of a target in one interval, by one gateway or summed over all that use it. */
struct window_sample {
    uint64_t interval_ns;
    uint64_t busy_ns;     /* integral of I/Os in flight */
    uint64_t full_ns;     /* time with work waiting (of several gateways: the mean, by slots) */
    uint64_t cost_ns;     /* answered, by the cost model */
    uint64_t ios;         /* answered */
    uint64_t wait_p99_ns; /* of latency less service; 0: not known */
    bool stalled;         /* the device stood still for a time: not to be learnt from */
};

#define WINDOW_SLOTS_MILLI_MIN 1000u
#define WINDOW_SLOTS_MILLI_MAX 4096000u
/* Where nothing is known. */
#define WINDOW_START_MILLI 32000u

enum window_phase { WINDOW_HIGH, WINDOW_LOW };

/* Sums of one phase of the search. */
struct window_sum {
    double ns, busy_ns, cost_ns, ios;
};

struct window {
    uint64_t slots_milli;       /* what to use now: high_milli, or less while LOW lasts */
    uint64_t high_milli;
    bool low_all;               /* LOW holds what is reserved as well */
    uint64_t parallelism_milli; /* k, useful parallelism; 0: not known yet */
    uint64_t wait_bound_ns;     /* 0: none */
    uint32_t bound_ppm;         /* what the latency bound leaves of the window */
    /* The search; window.c. */
    double k;
    enum window_phase phase;
    bool settle;   /* the next sample began before the last change */
    bool far;      /* k may be far off: search coarsely */
    uint32_t calm; /* searches in a row that changed nothing */
    struct window_sum high, low;
    double low_ns;    /* how long the last LOW took */
    double last_rate; /* of the last whole HIGH; 0: none */
};

/* @parallelism_milli: of calibration or an earlier life; 0: not known. */
void window_init(struct window *w, uint64_t parallelism_milli);
/* Bound of the p99 of the wait; 0: none. */
void window_bound(struct window *w, uint64_t wait_ns);
/* Learn from one interval (100 ms to some seconds) in which slots_milli was in force. Changes
 * slots_milli, which is in force from then on. */
void window_learn(struct window *w, const struct window_sample *s);

/* What a bound leaves of a window, in millionths, after a p99 of @seen_ns for @goal_ns (either 0:
 * no change): falls at most by half, rises by at most a tenth, never below the part @least. */
uint32_t window_bound_ppm(uint32_t ppm, double least, uint64_t goal_ns, uint64_t seen_ns);

#endif
