/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of a target, and what one tells the others.
 *
 *   plan: slots ---------------------------> scheduler
 *   scheduler: counts --> window: slots ---> scheduler   (without a plan, or a plan without slots)
 *   answers --> cost model ----------------> scheduler   (without one in the plan)
 *   answers --> waits (latency less cost) -> window: bound
 *
 * A round of the cost model ends when the search changes its phase, or a look at a lower window
 * begins or ends to be counted: there little waits, so that latencies are service times.
 *
 * The p99 of a tick's waits is one bad I/O in a hundred, and a stall of the device makes a whole
 * tick bad; the median over ticks forgets both, and sees what lasts. A tick in which the device
 * answered nothing though it had work is a stall, and the window is told so. */
#include "qos/target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define WAITS_LEAST 20u
#define ROUND_NS    UINT64_C(1000000000)
/* While a plan says the slots: looks are up to 20 s apart, and their rounds must be among the
 * remembered ones. */
#define ROUND_TOLD_NS UINT64_C(8000000000)

int target_init(struct target *t, size_t max_shares, uint64_t max_wait_ns)
{
    memset(t, 0, sizeof *t);
    t->sched = sched_new(max_shares, max_wait_ns);
    t->waits = calloc(1, sizeof *t->waits);
    window_init(&t->window, 0);
    cost_learn_init(&t->learn);
    if (t->sched != NULL && t->waits != NULL)
        return 0;
    target_fini(t);
    return -ENOMEM;
}

void target_fini(struct target *t)
{
    sched_free(t->sched);
    free(t->waits);
    t->sched = NULL;
    t->waits = NULL;
}

static void costs_set(struct target *t)
{
    if (t->planned && cost_is_set(&t->plan.cost))
        sched_set_cost(t->sched, &t->plan.cost);
    else
        sched_set_cost(t->sched, &t->learn.found);
}

static void window_apply(struct target *t, uint64_t now_ns)
{
    bool on = (t->shares > 0 || t->planned) && !(t->planned && t->plan.observe);
    if (on && !t->on) {
        t->before = *sched_account(t->sched, now_ns);
        t->tick_ns = t->round_ns = now_ns;
    }
    t->on = on;
    uint64_t slots = 0;
    bool told = on && t->planned && t->plan.slots_milli > 0;
    if (on)
        slots = told ? t->plan.slots_milli : t->window.high_milli;
    if (!told)
        look_end(&t->look);
    /* Its own search goes lower for a while, too; as in looks, what is reserved need not. */
    uint64_t low = told ? look_slots_milli(&t->look) : t->window.slots_milli;
    if (slots != sched_window(t->sched))
        sched_set_window(t->sched, slots, now_ns);
    sched_set_low(t->sched, low, told ? t->look.order.all : t->window.low_all, now_ns);
}

void target_share_add(struct target *t, uint64_t now_ns)
{
    t->shares++;
    window_apply(t, now_ns);
}

void target_share_remove(struct target *t, uint64_t now_ns)
{
    weir_assert(t->shares > 0);
    t->shares--;
    window_apply(t, now_ns);
}

static void undivided_set(struct target *t, uint64_t until_ns)
{
    if ((until_ns > 0) != (t->undivided_until_ns > 0))
        sched_set_undivided(t->sched, until_ns > 0);
    t->undivided_until_ns = until_ns;
}

void target_plan(struct target *t, const struct window_plan *plan, uint64_t now_ns)
{
    bool was_planned = t->planned, had_slots = was_planned && t->plan.slots_milli > 0;
    uint64_t last = sched_window(t->sched);
    t->planned = plan != NULL;
    t->plan = plan != NULL ? *plan : (struct window_plan){.slots_milli = 0};
    window_bound(&t->window, t->plan.wait_us * 1000);
    if (had_slots && t->plan.slots_milli == 0 && last > 0) /* go on from there, and find out */
        window_init(&t->window, last * 10 / 11);
    if (was_planned || t->planned)
        undivided_set(t, 0);
    else if (t->undivided_until_ns == UINT64_MAX)
        t->undivided_until_ns = now_ns + TARGET_UNDIVIDED_NS;
    costs_set(t);
    look_begin(&t->look, &t->plan.look, now_ns);
    window_apply(t, now_ns);
}

void target_plan_expire(struct target *t, uint64_t now_ns)
{
    bool had_slots = t->planned && t->plan.slots_milli > 0;
    if (!t->planned)
        return;
    target_plan(t, NULL, now_ns);
    undivided_set(t, had_slots ? UINT64_MAX : 0);
}

void target_undivided(struct target *t, uint64_t until_ns, uint64_t now_ns)
{
    if (!t->planned)
        undivided_set(t, until_ns > now_ns ? until_ns : 0);
}

static void costs_round(struct target *t, uint64_t now_ns)
{
    t->round_ns = now_ns;
    if (cost_learn_round(&t->learn))
        costs_set(t);
}

static void costs_close(struct target *t, uint64_t now_ns)
{
    bool told = t->planned && t->plan.slots_milli > 0;
    if (t->phase == t->window.phase && now_ns - t->round_ns < (told ? ROUND_TOLD_NS : ROUND_NS))
        return;
    t->phase = t->window.phase;
    costs_round(t, now_ns);
}

static void target_look(struct target *t, uint64_t now_ns)
{
    enum look_state was = t->look.state;
    if (was == LOOK_NONE || was == LOOK_OVER)
        return;
    if (look_step(&t->look, t->sched, now_ns))
        window_apply(t, now_ns);
    if (was != t->look.state && (was == LOOK_SETTLES || was == LOOK_COUNTS))
        costs_round(t, now_ns);
}

void target_complete(struct target *t, struct sched_io *io, uint64_t judged_ns, uint64_t now_ns)
{
    bool slot = io->slot; /* suspended: answered before all of it was sent */
    sched_complete(t->sched, io, judged_ns, now_ns);
    if (!t->on || !slot || judged_ns == 0)
        return;
    uint64_t took = now_ns > io->dispatched_ns ? now_ns - io->dispatched_ns : 0;
    cost_learn_answer(&t->learn, io->op, io->bytes, took);
    hist_record(t->waits, took > io->cost_ns ? took - io->cost_ns : 0);
    target_look(t, now_ns);
}

static int order(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void waits_close(struct target *t)
{
    if (t->waits->count < WAITS_LEAST)
        return;
    t->wait_p99[t->wait_at % TARGET_WAITS] = hist_quantile(t->waits, 0.99);
    t->wait_at++;
    hist_clear(t->waits);
    uint64_t sorted[TARGET_WAITS];
    size_t n = t->wait_at < TARGET_WAITS ? t->wait_at : TARGET_WAITS;
    memcpy(sorted, t->wait_p99, n * sizeof sorted[0]);
    qsort(sorted, n, sizeof sorted[0], order);
    t->wait_p99_ns = sorted[n / 2];
}

void target_tick(struct target *t, uint64_t now_ns)
{
    if (!t->on || now_ns <= t->tick_ns)
        return;
    target_look(t, now_ns);
    const struct sched_counts *c = sched_account(t->sched, now_ns), *b = &t->before;
    struct window_sample s = {
        .interval_ns = now_ns - t->tick_ns,
        .busy_ns = c->busy_ns - b->busy_ns,
        .full_ns = c->full_ns - b->full_ns,
        .cost_ns = c->cost_served_ns - b->cost_served_ns,
        .ios = c->served_ios - b->served_ios,
        .wait_p99_ns = t->wait_p99_ns,
    };
    s.stalled = s.ios == 0 && s.busy_ns > 0;
    t->before = *c;
    t->tick_ns = now_ns;
    waits_close(t);
    if (!t->planned || t->plan.slots_milli == 0)
        window_learn(&t->window, &s);
    if (now_ns >= t->undivided_until_ns)
        undivided_set(t, 0);
    costs_close(t, now_ns);
    window_apply(t, now_ns);
}

uint64_t target_window(const struct target *t)
{
    return sched_window(t->sched);
}
