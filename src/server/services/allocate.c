/* SPDX-License-Identifier: Apache-2.0 */
/* Allocation.
 *
 * Model: at level x claim i gets g_i(x) = clamp(w_i x, reserved_i, most_i), as mClock's tags do in
 * the long run: a reservation is a floor under the share by weight, not something beside it. The
 * sum of g_i grows with x, so the level at which it meets the capacity is found by Newton's method
 * between brackets: the sum is piecewise linear, and a step is exact once the right piece is met.
 *
 * Invariants: (1) reserved_i <= most_i; (2) the sum at the level is never above the capacity
 * (the lower bracket is taken). */
#include "server/services/allocate.h"

#include <math.h>

#include "base/assert.h"

#define STEPS_MAX 200
#define CLOSE 1e-12

static double at_most(const struct allocate_claim *c)
{
    return c->demand < c->limit ? c->demand : c->limit;
}

static double wanted_reserve(const struct allocate_claim *c)
{
    double most = at_most(c);
    return c->reservation < most ? c->reservation : most;
}

/* The next lower priority than @below that asks for a reservation; false: none. */
static bool next_priority(const struct allocate_claim *c, size_t n, int64_t below, int64_t *ret)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (c[i].priority < below && wanted_reserve(&c[i]) > 0 &&
            (!any || c[i].priority > *ret)) {
            *ret = c[i].priority;
            any = true;
        }
    }
    return any;
}

static void scale(struct allocate_claim *c, size_t n, int64_t priority, bool all, double factor)
{
    for (size_t i = 0; i < n; i++) {
        if (all || c[i].priority == priority)
            c[i].reserved = wanted_reserve(&c[i]) * factor;
    }
}

/* Reservations do not fit: the higher priority whole before the lower. */
static void reserve_by_priority(struct allocate_claim *c, size_t n, double capacity)
{
    int64_t priority = INT64_MAX;
    double left = capacity;
    while (next_priority(c, n, priority, &priority)) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += c[i].priority == priority ? wanted_reserve(&c[i]) : 0;
        double factor = sum <= left ? 1.0 : left / sum;
        scale(c, n, priority, false, factor);
        left -= sum * factor;
        if (left <= 0)
            return; /* the rest keep 0 */
    }
}

double allocate_reserve(struct allocate_claim *c, size_t n, double capacity,
                        enum collisions collisions)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        c[i].reserved = 0;
        sum += wanted_reserve(&c[i]);
    }
    if (sum <= capacity) {
        scale(c, n, 0, true, 1.0);
        return 1.0;
    }
    switch (collisions) {
    case COLLISIONS_PRIORITY:
        reserve_by_priority(c, n, capacity);
        break;
    case COLLISIONS_SHARE:
        scale(c, n, 0, true, capacity / sum);
        break;
    }
    return capacity / sum;
}

static double given_at(const struct allocate_claim *c, double level)
{
    double most = at_most(c), g = c->weight * level;
    if (g > most)
        g = most;
    return g > c->reserved ? g : c->reserved;
}

/* The sum at @level and how fast it grows there. */
static double sum_at(const struct allocate_claim *c, size_t n, double level, double *ret_slope)
{
    double sum = 0, slope = 0;
    for (size_t i = 0; i < n; i++) {
        double g = c[i].weight * level;
        sum += given_at(&c[i], level);
        slope += g >= c[i].reserved && g < at_most(&c[i]) ? c[i].weight : 0;
    }
    *ret_slope = slope;
    return sum;
}

/* A level at which everybody has all it may have, or the capacity is surely exceeded. */
static double level_above(const struct allocate_claim *c, size_t n, double capacity)
{
    double level = 0;
    for (size_t i = 0; i < n; i++) {
        double most = at_most(&c[i]) < capacity ? at_most(&c[i]) : capacity;
        if (most / c[i].weight > level)
            level = most / c[i].weight;
    }
    return level;
}

static double find_level(const struct allocate_claim *c, size_t n, double capacity)
{
    double slope, low = 0, high = level_above(c, n, capacity), level = high;
    if (sum_at(c, n, high, &slope) <= capacity)
        return high;
    for (int step = 0; step < STEPS_MAX && high - low > CLOSE * high; step++) {
        double sum = sum_at(c, n, level, &slope);
        if (sum <= capacity)
            low = level;
        else
            high = level;
        if (sum <= capacity && capacity - sum <= CLOSE * capacity)
            return level;
        level = slope > 0 ? level + (capacity - sum) / slope : low;
        if (level <= low || level >= high)
            level = (low + high) / 2;
    }
    return low;
}

double allocate(struct allocate_claim *c, size_t n, double capacity, enum collisions collisions)
{
    weir_assert(capacity >= 0 && isfinite(capacity));
    for (size_t i = 0; i < n; i++) {
        weir_assert(c[i].weight > 0 && c[i].demand >= 0);
        weir_assert(c[i].reservation >= 0 && c[i].limit >= 0);
    }
    double fits = allocate_reserve(c, n, capacity, collisions);
    double level = find_level(c, n, capacity);
    for (size_t i = 0; i < n; i++)
        c[i].given = given_at(&c[i], level);
    return fits;
}
