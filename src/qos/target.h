/* SPDX-License-Identifier: Apache-2.0 */
/* One target as a gateway uses it: scheduler, window, cost model and plan together.
 *
 * It is *off* until a share or a plan is in force: then nothing is queued and nothing is learnt.
 * Pure; owner thread only. */
#ifndef WEIR_QOS_TARGET_H
#define WEIR_QOS_TARGET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qos/cost.h"
#include "qos/hist.h"
#include "qos/look.h"
#include "qos/sched.h"
#include "qos/window.h"

/* How often target_tick wants to be called while the target is on. */
#define TARGET_TICK_NS UINT64_C(100000000)
/* Whoever comes back needs some periods to know what to divide. */
#define TARGET_UNDIVIDED_NS UINT64_C(10000000000)
#define TARGET_WAITS   8u /* ticks whose waits are remembered */

struct target {
    struct sched *sched;
    struct window window;
    struct cost_learn learn;
    struct hist *waits; /* of this tick */
    struct window_plan plan;
    struct look look;
    bool planned, on;
    uint32_t shares; /* in force */
    uint64_t undivided_until_ns; /* 0: it is divided; UINT64_MAX: till somebody comes who plans */
    uint64_t wait_p99[TARGET_WAITS];
    uint32_t wait_at;
    uint64_t wait_p99_ns;       /* median of these */
    uint64_t tick_ns, round_ns; /* last tick; when the round of learning costs began */
    struct sched_counts before; /* at the last tick */
    enum window_phase phase;
};

/* 0 or -ENOMEM. */
int target_init(struct target *t, size_t max_shares, uint64_t max_wait_ns);
void target_fini(struct target *t);
/* One share more or less is in force here. */
void target_share_add(struct target *t, uint64_t now_ns);
void target_share_remove(struct target *t, uint64_t now_ns);
/* @plan NULL: none in force any more; the window that the gateway found, or the plan's last part of
 * one, goes on. */
void target_plan(struct target *t, const struct window_plan *plan, uint64_t now_ns);
/* The plan went with its lease, and nobody divides the target any more: where it had slots, others
 * are before the target, and what is reserved may go beyond the window (sched_set_undivided) until
 * there is a plan again, or for TARGET_UNDIVIDED_NS from when somebody is there who plans. */
void target_plan_expire(struct target *t, uint64_t now_ns);
/* Of a target that was expired by another process, which told how long it holds
 * (undivided_until_ns): as if it had expired here. Nothing where there is a plan. */
void target_undivided(struct target *t, uint64_t until_ns, uint64_t now_ns);
/* What was dispatched is answered, or (@judged_ns 0) never will be; see sched_complete. */
void target_complete(struct target *t, struct sched_io *io, uint64_t judged_ns, uint64_t now_ns);
/* Whether batches of @f may be told to the scheduler together (struct sched_run): nothing learns
 * from single answers. */
static inline bool target_counts_only(const struct target *t, const struct sched_flow *f)
{
    return !t->on && sched_window(t->sched) == 0 && f->share->terms.latency_us == 0;
}
/* Every TARGET_TICK_NS while on: learn, set the window. sched_poll may have something then. */
void target_tick(struct target *t, uint64_t now_ns);
/* Slots in force in thousandths; 0: off. */
uint64_t target_window(const struct target *t);

#endif
