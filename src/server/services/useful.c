/* SPDX-License-Identifier: Apache-2.0 */
/* Finding a storage's useful parallelism with all its gateways at once.
 *
 * Problem: throughput at two windows tells it (qos/knee.c), but a window that is changed by one
 * plan and looked at by the next answers takes two periods a window, costs throughput for all of
 * them, and leaves the promise at a wrong window for the ten steps that a search from nothing is.
 *
 * Model: a plan asks all gateways to look at a lower window for some tenths of a second (look.h),
 * and both counts, of the look and of the time since, come back with the next answers: a pair a
 * period. While k may be far off, and after each change, looks follow each other; a search from
 * nothing takes two to four of them. Once k is known a look is as long as WANTED answers take, and
 * the pauses double while they find nothing new, up to PAUSE_MOST. What is answered at the higher
 * window is compared all the time: if it moved, the next look is soon.
 *
 * Rates are in cost, so that a mix that differs between both windows (what is reserved is not held
 * to the lower one) looks less like throughput; by one line for all, since what gateways learn of
 * costs differs by ten between them while nothing is settled.
 *
 * Nothing is asked while nothing waits; but where a promise is missed then, and nobody is held to a
 * rate, the window is too wide to hold anything back, and goes down until it does. A gateway that
 * knows no looks, or came while one was under way, leaves the pair without an answer: it is given
 * up after PATIENCE. */
#include <math.h>

#include "server/services/state.h"

#define FULL_BOUND   0.5  /* of the time, for the window to be what bounds it */
#define FULL_LEAST   0.1  /* for anything to count as waiting */
#define MOVED        0.12 /* of the rate */
#define LOOK_MS_MIN  100.0
#define LOOK_MS_MAX  600.0 /* a quarter more, and the rest of a period is its other side */
#define AFTER_MS     450u  /* with it came what others served, which one claim waits for first */
#define LOOK_MS_LATE 400.0 /* with that still within the period */
#define PAGE_LEAST   0.005 /* of what an I/O costs beside its pages */
#define PAGE_MOST    0.25
#define RATE_LEAST   50.0 /* answers a second, when none were seen */
#define PAUSE_SOON   3u   /* eight times as long as a look: when the rate moved */
#define PAUSE_LEAST  4u   /* 16 times: between two of them */
#define CALM_MOST    4u   /* and up to eight times that */
#define PAUSE_MOST   UINT64_C(20000000000)
#define HIGH_NS_MOST 1e9 /* for the answers of the higher side */
#define PATIENCE_NS  UINT64_C(4500000000)

/* Of all live gateways. */
struct sum {
    struct knee_seen seen;
    double full; /* the fullest one's part of the time */
    double ns;   /* mean length */
};

/* What an I/O costs, and what a page of it, in the same unit; which does not matter. */
struct line {
    double base, page;
};

static double cost_rate(struct line c, double ios, double bytes)
{
    return c.base * ios + c.page * bytes / COST_PAGE;
}

/* What a gateway reckons for an I/O of its mean size is known best: a line through these points of
 * all. Where all serve one size they have no slope, nor does it matter. */
static struct line line_of(const struct storage *t)
{
    const struct cost_model d = cost_default();
    const double usual = (double)d.page_ns[0] / (double)d.base_ns[0];
    double n = 0, p = 0, c = 0, pp = 0, pc = 0;
    list_for_each(it, &t->targets)
    {
        const struct target *one = container_of(it, struct target, in_storage);
        const struct cost_model *m = &one->cost;
        if (!one->gateway->e.live || one->ios <= 0)
            continue;
        double pages = one->bytes / one->ios / COST_PAGE;
        double base = 0.5 * (double)(m->base_ns[0] + m->base_ns[1]);
        double cost = base + 0.5 * pages * (double)(m->page_ns[0] + m->page_ns[1]);
        n += one->ios;
        p += one->ios * pages;
        c += one->ios * cost;
        pp += one->ios * pages * pages;
        pc += one->ios * pages * cost;
    }
    if (n <= 0)
        return (struct line){1, usual};
    p /= n, c /= n;
    double varies = pp / n - p * p, slope = (pc / n - p * c) / varies;
    if (varies < 1 || !(slope < c / p))
        return (struct line){1, usual};
    double base = c - fmax(slope, 0) * p;
    return (struct line){1, fmin(fmax(slope / base, PAGE_LEAST), PAGE_MOST)};
}

static void sum_look(struct sum *sum, struct line c, const struct look_sample *l)
{
    struct knee_seen *k = &sum->seen;
    double ns = (double)l->ns, seconds = ns / 1e9;
    k->inflight += (double)l->busy_ns / ns;
    k->rate += cost_rate(c, (double)l->ios / seconds, (double)l->bytes / seconds);
    k->weighed_inflight += (double)l->weighed_busy_ns / ns;
    k->weighed_rate +=
        cost_rate(c, (double)l->weighed_ios / seconds, (double)l->weighed_bytes / seconds);
    k->ios += (double)l->ios;
    k->weighed_ios += (double)l->weighed_ios;
    sum->full = fmax(sum->full, (double)l->full_ns / ns);
    sum->ns += ns;
}

/* Both sums of the look that is awaited; false: not all have answered. */
static bool pair_sum(const struct storage *t, struct sum *low, struct sum *high)
{
    *low = *high = (struct sum){.ns = 0};
    const struct line c = line_of(t);
    double gateways = 0;
    list_for_each(it, &t->targets)
    {
        const struct target *one = container_of(it, struct target, in_storage);
        const struct look_result *r = &one->look;
        if (!one->gateway->e.live)
            continue;
        if (r->id != t->useful.look.id || r->low.ns == 0 || r->since.ns == 0)
            return false;
        sum_look(low, c, &r->low);
        sum_look(high, c, &r->since);
        gateways++;
    }
    low->ns /= fmax(gateways, 1);
    high->ns /= fmax(gateways, 1);
    return gateways > 0;
}

bool useful_searches(const struct storage *t)
{
    return t->knee.far || t->knee.calm == 0;
}

static uint64_t pause_ns(const struct storage *t, uint32_t shift)
{
    uint64_t pause = ((uint64_t)t->useful.look.ms << shift) * 1000000;
    return pause < PAUSE_MOST ? pause : PAUSE_MOST;
}

static void pair_learn(struct services *s, struct storage *t, const struct sum *low,
                       const struct sum *high)
{
    struct useful *u = &t->useful;
    double wanted = (double)knee_ios_wanted(&t->knee);
    bool all = t->knee.all;
    if ((all ? high->seen.ios : high->seen.weighed_ios) < wanted && high->ns < HIGH_NS_MOST)
        return; /* later answers will have more */
    knee_pair(&t->knee, &high->seen, &low->seen);
    u->awaited = false;
    u->weighed_part = high->seen.ios > 0 ? high->seen.weighed_ios / high->seen.ios : 1;
    uint32_t calm = t->knee.calm < CALM_MOST ? t->knee.calm : CALM_MOST;
    u->due_ns = s->now_ns + (useful_searches(t) ? 0 : pause_ns(t, PAUSE_LEAST - 1 + calm));
}

static void pair_take(struct services *s, struct storage *t)
{
    struct useful *u = &t->useful;
    struct sum low, high;
    if (!pair_sum(t, &low, &high)) {
        u->awaited = s->now_ns - u->asked_ns < PATIENCE_NS;
    } else if (low.full < FULL_BOUND || high.full < FULL_BOUND) {
        u->awaited = false;
        u->due_ns = s->now_ns;
    } else {
        pair_learn(s, t, &low, &high);
    }
}

/* What all of them do now: a period's answers, also while no look is awaited. */
struct present {
    double inflight, rate, ios, full;
    double reserved; /* in flight, of what waits for nothing */
    uint64_t wait_p99_ns;
};

static struct present present_of(const struct storage *t)
{
    struct present p = {.ios = 0};
    const struct cost_model d = cost_default();
    const struct line c = {(double)d.base_ns[0], (double)d.page_ns[0]};
    list_for_each(it, &t->targets)
    {
        const struct target *one = container_of(it, struct target, in_storage);
        if (!one->gateway->e.live)
            continue;
        p.inflight += one->use;
        if (one->served > 0)
            p.reserved += one->use * one->calm_reserve / one->served;
        p.ios += one->ios;
        p.rate += cost_rate(c, one->ios, one->bytes);
        p.full = fmax(p.full, one->full);
        if (one->ios * one->seconds > 100 && one->e.wait_p99_us * 1000 > p.wait_p99_ns)
            p.wait_p99_ns = one->e.wait_p99_us * 1000;
    }
    return p;
}

static void look_ask(struct services *s, struct storage *t, double ios)
{
    struct useful *u = &t->useful;
    double low = (double)knee_low_milli(&t->knee), high = (double)t->knee.slots_milli;
    double compared = ios * (t->knee.all ? 1 : u->weighed_part);
    double rate = fmax(compared, RATE_LEAST) * fmin(low / high, 1);
    double ms = 1000 * (double)knee_ios_wanted(&t->knee) / rate;
    uint32_t id = (uint32_t)(s->now_ns / 1000000) | 1u; /* another one than before a restart */
    u->look =
        (struct window_look){.id = id == u->look.id ? id + 2 : id,
                             .ms = (uint32_t)fmin(fmax(ms, LOOK_MS_MIN),
                                                  useful_searches(t) ? LOOK_MS_MAX : LOOK_MS_LATE),
                             .after_ms = useful_searches(t) ? 0 : AFTER_MS,
                             .slots_milli = (uint64_t)low,
                             .all = t->knee.all};
    u->asked_ns = s->now_ns;
    u->awaited = true;
}

void useful_begin(struct storage *t)
{
    uint64_t most = 0;
    list_for_each(it, &t->targets)
    {
        const struct target *one = container_of(it, struct target, in_storage);
        most = one->e.parallelism_milli > most ? one->e.parallelism_milli : most;
    }
    knee_init(&t->knee, most);
    t->useful = (struct useful){.weighed_part = 1};
}

void useful_learn(struct services *s, struct storage *t)
{
    struct useful *u = &t->useful;
    const struct present now = present_of(t);
    knee_wait(&t->knee, t->wait_us * 1000, now.wait_p99_ns);
    if (u->awaited)
        pair_take(s, t);
    if (u->awaited)
        return;
    if (now.full < FULL_BOUND) {
        if (t->was_failing && now.full < FULL_LEAST && t->throttles == 0)
            knee_too_wide(&t->knee, now.inflight, now.reserved);
        return;
    }
    bool moved = u->rate > 0 && fabs(now.rate - u->rate) > MOVED * u->rate &&
                 s->now_ns - u->asked_ns >= pause_ns(t, PAUSE_SOON);
    if (moved)
        t->knee.calm = 0;
    if (!moved && s->now_ns < u->due_ns)
        return;
    u->rate = now.rate;
    look_ask(s, t, now.ios);
}
