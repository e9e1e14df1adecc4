/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at a lower window.
 *
 * Problem: useful parallelism shows in throughput at two windows (window.c). With several gateways
 * before a storage all must lower theirs at the same time, or one has what the other lets go; and a
 * planner that lowers them by one plan and raises them by the next needs several periods for one
 * comparison, at a lower throughput all the while.
 *
 * Model: a plan carries the lower window and how long to look. Each gateway begins when the plan
 * arrives, or a while later, when what else came with the plan has settled; that differs by the way
 * of a message, which is short beside the look. What is in flight
 * above the lower window has to drain first, and what begins after it to spread: a quarter of the
 * look is left out before counting, and again after it.
 *
 *   NONE -> WAITS -> SETTLES -> COUNTS -> RECOVERS -> OVER -> WAITS (of the next)
 *   any -> NONE (no window any more)
 *
 * Counts of the low phase stand still once it is over; those since then go on until the next look.
 * Both were under one plan, so whoever asks has the pair, as often as it likes: a lost answer costs
 * nothing. There is no timer: answers of the target and ticks drive it, and without answers there
 * is nothing to count.
 *
 * Reservations are not held to the lower window (sched_set_low): a look takes nothing from those
 * who are promised something, and what they have in flight is counted. */
#include "qos/look.h"

#include "base/assert.h"

#define NS_PER_MS_ UINT64_C(1000000)

void look_begin(struct look *l, const struct window_look *order, uint64_t now_ns)
{
    bool begun = l->state != LOOK_NONE && order->id == l->order.id;
    if (order->id == 0 || begun || order->ms == 0 || order->slots_milli == 0)
        return;
    *l = (struct look){.order = *order, .state = LOOK_WAITS};
    if (l->order.ms > WINDOW_LOOK_MS_MAX)
        l->order.ms = WINDOW_LOOK_MS_MAX;
    if (l->order.after_ms > WINDOW_LOOK_MS_MAX)
        l->order.after_ms = WINDOW_LOOK_MS_MAX;
    l->begin_ns = now_ns + l->order.after_ms * NS_PER_MS_;
    if (l->order.after_ms == 0)
        l->state = LOOK_SETTLES;
}

void look_end(struct look *l)
{
    l->state = LOOK_NONE;
}

uint64_t look_slots_milli(const struct look *l)
{
    return l->state == LOOK_SETTLES || l->state == LOOK_COUNTS ? l->order.slots_milli : 0;
}

static void count_from(struct look *l, enum look_state state, struct sched *s, uint64_t now_ns)
{
    l->state = state;
    l->base = *sched_account(s, now_ns);
    l->base_ns = now_ns;
}

static struct look_sample count_to(const struct look *l, struct sched *s, uint64_t now_ns)
{
    const struct sched_counts *c = sched_account(s, now_ns), *b = &l->base;
    return (struct look_sample){.ns = now_ns - l->base_ns,
                                .busy_ns = c->busy_ns - b->busy_ns,
                                .full_ns = c->full_ns - b->full_ns,
                                .ios = c->served_ios - b->served_ios,
                                .bytes = c->served_bytes - b->served_bytes,
                                .weighed_busy_ns = c->weighed_busy_ns - b->weighed_busy_ns,
                                .weighed_ios = c->weighed_ios - b->weighed_ios,
                                .weighed_bytes = c->weighed_bytes - b->weighed_bytes};
}

bool look_step(struct look *l, struct sched *s, uint64_t now_ns)
{
    uint64_t length = l->order.ms * NS_PER_MS_;
    uint64_t passed = now_ns > l->begin_ns ? now_ns - l->begin_ns : 0;
    switch (l->state) {
    case LOOK_NONE:
    case LOOK_OVER:
        return false;
    case LOOK_WAITS:
        if (now_ns < l->begin_ns)
            return false;
        l->state = LOOK_SETTLES;
        l->begin_ns = now_ns;
        return true;
    case LOOK_SETTLES:
        if (passed >= length / 4)
            count_from(l, LOOK_COUNTS, s, now_ns);
        return false;
    case LOOK_COUNTS:
        if (passed < length)
            return false;
        l->low = count_to(l, s, now_ns);
        l->state = LOOK_RECOVERS;
        return true;
    case LOOK_RECOVERS:
        if (passed >= length + length / 4)
            count_from(l, LOOK_OVER, s, now_ns);
        return false;
    }
    weir_unreachable("a state out of its enum");
}

void look_result(const struct look *l, struct sched *s, uint64_t now_ns, struct look_result *ret)
{
    *ret = (struct look_result){.id = 0};
    if (l->state == LOOK_OVER)
        *ret =
            (struct look_result){.id = l->order.id, .low = l->low, .since = count_to(l, s, now_ns)};
}
