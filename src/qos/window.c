/* SPDX-License-Identifier: Apache-2.0 */
/* Tracking a device's useful parallelism.
 *
 * Problem: a window below the knee wastes the device, one above it only makes a queue, in which a
 * stranger's I/O waits. The knee, k, is not known, differs between devices by three orders of
 * magnitude, and moves: servers of the device are lost and come back, and all become slower or
 * faster without any change of k. Latency cannot tell the two apart at one window: with n in flight
 * on k servers of service time S it is n S / k either way.
 *
 * Model: throughput at two windows can. While work waits at the gateway, so that the window is what
 * bounds it, x(n) = min(n, k) / S. The window stands at n = 1.1 k (HIGH), and now and then for a
 * short while at 0.7 of that (LOW), which is 0.77 k if k is right. With the rates of both:
 *
 *   x(low) >= 0.96 x(high)        both above the knee: k is below n(low); step down, look again
 *   x / n alike within 5 %        both below the knee: k is above n(high); step up, look again
 *   between                       k = n(low) x(high) / x(low)
 *
 * S cancels out, so slower servers change nothing and fewer servers show. Nor is a cost model
 * needed: costs only even out a changing mix of sizes. n is the measured mean in flight, not the
 * slots asked for, so that a part of the gateways without work does no harm.
 *
 * LOW holds back what goes by weight; what is reserved goes on as if at HIGH, or a search at few
 * slots would break promises. Where that left too little to compare, the next LOW holds all.
 *
 * A search costs a tenth of the throughput for as long as LOW lasts. It is made often while it
 * finds something new, and rarely once it does not; a rate that moves by more than 12 % between
 * two HIGH phases makes it look at once.
 *
 * The latency bound stands on top as a factor: it falls by bound / p99, at most by half, when the
 * wait's p99 is above the bound, and rises by at most a tenth when it is below 0.77 of it. It
 * never takes the window below k, where nothing waits in the device; both phases then lie at
 * most at the knee, k rises, and the next search finds it again.
 *
 * Invariants: MIN <= slots_milli <= MAX; k is positive; a sample that was not bounded by the window
 * (full less than half the time), or that saw a stall, changes nothing. */
#include "qos/window.h"

#include <string.h>

#include "base/assert.h"

/* Just past the knee: by a tenth, and by half a slot where a tenth is none. In the simulator a
 * margin of a quarter cost a stranger's p99 5 % more at k = 8 and gained no throughput; a tenth
 * alone lost 5 % of the throughput at k = 4. */
/* The latency bound never takes more than down to this part of k. */
#define KNEE          1.0
#define MARGIN        1.1
#define MARGIN_SLOTS  0.6
#define LOW_SHARE     0.7
#define LOW_SHARE_FAR 0.4 /* while k may be far off */
/* Two slots and three are alike on one server as on two: when the rate has moved, and now and then,
 * LOW is one. */
#define DEEP_EVERY    8u
#define FLAT          0.96
#define LINEAR        0.05
#define STEP_UP       1.2   /* of what was in flight at HIGH */
#define STEP_UP_FAR   1.6   /* while k may be far off */
#define STEP_DOWN     0.9   /* of what was in flight at LOW */
#define IOS_LEAST     400.0 /* answers that a phase wants */
#define IOS_LEAST_FAR 150.0
#define LOW_NS_MIN    100e6
#define PHASE_NS_MAX  4e9 /* and how long it waits for them at most */
#define HIGH_NS_MIN   300e6
#define CALM_LEAST    4.0 /* lengths of LOW that HIGH lasts at the least, once k is known roughly */
#define CALM_MAX      32u /* lengths of LOW that HIGH lasts when nothing moves */
#define MOVED         0.12
#define K_MIN         0.8
#define K_MAX         ((double)WINDOW_SLOTS_MILLI_MAX / 1000.0)

static uint64_t milli_of(double slots)
{
    double n = slots * 1000.0;
    return n < WINDOW_SLOTS_MILLI_MIN   ? WINDOW_SLOTS_MILLI_MIN
           : n > WINDOW_SLOTS_MILLI_MAX ? WINDOW_SLOTS_MILLI_MAX
                                        : (uint64_t)n;
}

static void window_set(struct window *w)
{
    double n = w->k * MARGIN + MARGIN_SLOTS;
    n = n < 2.0 ? 2.0 : n; /* one in service, one behind it; else there is no LOW */
    n *= (double)w->bound_ppm / 1e6;
    w->high_milli = milli_of(n);
    if (w->phase == WINDOW_LOW) {
        double low = n * (w->far ? LOW_SHARE_FAR : LOW_SHARE);
        n = low < n - 1.0 ? low : n - 1.0;
        n = n < 2.0 && w->calm % DEEP_EVERY == 0 ? 1.0 : n;
    }
    uint64_t milli = milli_of(n);
    if (milli != w->slots_milli)
        w->settle = true;
    w->slots_milli = milli;
}

void window_init(struct window *w, uint64_t parallelism_milli)
{
    memset(w, 0, sizeof *w);
    w->bound_ppm = 1000000;
    w->parallelism_milli = parallelism_milli;
    w->k = parallelism_milli > 0 ? (double)parallelism_milli / 1000.0
                                 : (double)WINDOW_START_MILLI / 1000.0 / MARGIN;
    w->far = parallelism_milli == 0;
    window_set(w);
    w->settle = false;
}

void window_bound(struct window *w, uint64_t wait_ns)
{
    w->wait_bound_ns = wait_ns;
    if (wait_ns == 0 && w->bound_ppm != 1000000) {
        w->bound_ppm = 1000000;
        window_set(w);
    }
}

uint32_t window_bound_ppm(uint32_t ppm, double least, uint64_t goal_ns, uint64_t seen_ns)
{
    double goal = (double)goal_ns, seen = (double)seen_ns;
    if (goal_ns == 0 || seen_ns == 0 || (seen <= goal && seen >= 0.77 * goal))
        return ppm;
    double factor = goal / seen;
    factor = factor < 0.5 ? 0.5 : factor > 1.1 ? 1.1 : factor;
    double next = (double)ppm * factor;
    next = next < 1e6 * least ? 1e6 * least : next;
    return next > 1e6 ? 1000000 : (uint32_t)next;
}

static void bound_learn(struct window *w, const struct window_sample *s)
{
    /* With no more in flight than k nothing waits in the device: less would only cost throughput.
     * What is left of the wait then is the spread of the service. */
    double floor = w->k * KNEE > 1 ? w->k * KNEE : 1;
    double least = floor / (w->k * MARGIN + MARGIN_SLOTS);
    w->bound_ppm = window_bound_ppm(w->bound_ppm, least, w->wait_bound_ns, s->wait_p99_ns);
}

static void sum_add(struct window_sum *m, const struct window_sample *s)
{
    m->ns += (double)s->interval_ns;
    m->busy_ns += (double)s->busy_ns;
    m->cost_ns += (double)s->cost_ns;
    m->ios += (double)s->ios;
}

static bool sum_enough(const struct window *w, const struct window_sum *m, double least_ns)
{
    double ios = w->far ? IOS_LEAST_FAR : IOS_LEAST;
    return m->ns >= least_ns && (m->ios >= ios || m->ns >= PHASE_NS_MAX);
}

static double sum_rate(const struct window_sum *m)
{
    return m->cost_ns / m->ns;
}

static double sum_inflight(const struct window_sum *m)
{
    return m->busy_ns / m->ns;
}

/* A search has both rates: believe them. */
static void search_end(struct window *w)
{
    double x_high = sum_rate(&w->high), x_low = sum_rate(&w->low);
    double n_high = sum_inflight(&w->high), n_low = sum_inflight(&w->low);
    double k = w->k;
    bool far = false, lower = n_high > n_low * 1.1;
    w->low_all = !lower; /* what is reserved went on, and there was too little else */
    if (x_low > 0 && n_low > 0 && lower) {
        double linear = (x_high / n_high) / (x_low / n_low);
        if (x_low >= FLAT * x_high) {
            k = n_low * STEP_DOWN;
            far = n_low >= 2.5;
        } else if (linear > 1 - LINEAR) {
            k = (n_high > w->k ? n_high : w->k) * (w->far ? STEP_UP_FAR : STEP_UP);
            far = w->far;
        } else {
            k = n_low * x_high / x_low;
        }
    }
    w->far = far;
    k = k < K_MIN ? K_MIN : k > K_MAX ? K_MAX : k;
    double off = k > w->k ? k - w->k : w->k - k;
    bool moved = off > 0.1 * w->k && off > 0.6;
    /* Small corrections by half, so that noise is evened out. */
    w->k = moved ? k : 0.5 * (w->k + k);
    w->parallelism_milli = (uint64_t)(w->k * 1000.0);
    w->calm = moved ? 0 : w->calm + 1;
}

static void phase_begin(struct window *w, enum window_phase phase)
{
    w->phase = phase;
    if (phase == WINDOW_HIGH)
        memset(&w->high, 0, sizeof w->high);
    memset(&w->low, 0, sizeof w->low);
    window_set(w);
}

/* HIGH lasts longer the calmer it is: then searches cost next to nothing. */
static bool high_over(const struct window *w)
{
    double calm = w->calm < 5 ? (double)(1u << w->calm) : (double)CALM_MAX;
    double least = HIGH_NS_MIN > w->low_ns ? HIGH_NS_MIN : w->low_ns;
    calm = calm < CALM_LEAST && !w->far ? CALM_LEAST : calm;
    least *= calm < CALM_MAX ? calm : CALM_MAX;
    return sum_enough(w, &w->high, least);
}

static void high_learn(struct window *w)
{
    double rate = sum_rate(&w->high);
    bool early = sum_enough(w, &w->high, HIGH_NS_MIN) && w->last_rate > 0 &&
                 (rate > w->last_rate * (1 + MOVED) || rate < w->last_rate * (1 - MOVED));
    if (early)
        w->calm = 0;
    if (!high_over(w))
        return;
    w->last_rate = rate;
    phase_begin(w, WINDOW_LOW);
}

void window_learn(struct window *w, const struct window_sample *s)
{
    weir_assert(s->interval_ns > 0);
    if (s->stalled)
        return;
    bound_learn(w, s);
    if (w->settle) {
        w->settle = false;
        return;
    }
    if (2 * s->full_ns < s->interval_ns) {
        if (w->phase == WINDOW_LOW)
            phase_begin(w, WINDOW_HIGH);
        else
            window_set(w);
        return;
    }
    if (w->phase == WINDOW_HIGH) {
        sum_add(&w->high, s);
        high_learn(w);
    } else {
        sum_add(&w->low, s);
        if (sum_enough(w, &w->low, LOW_NS_MIN)) {
            w->low_ns = w->low.ns;
            search_end(w);
            phase_begin(w, WINDOW_HIGH);
            return;
        }
    }
    window_set(w);
}
