/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the promises of allocate.h and split.h hold for any figures.
 * Method: random claims over many seeds, each promise checked on all of them; and a few cases
 * worked out by hand. A failing run prints its seed. */
#include "server/services/allocate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "server/services/split.h"

#define SEEDS 3000u
#define CLAIMS 40u
/* Of the capacity: rounding of doubles. */
#define EPSILON 1e-6

static double pick(struct rng *r, double most)
{
    return rng_below(r, 5) == 0 ? 0 : rng_unit(r) * most;
}

static size_t random_claims(struct rng *r, struct allocate_claim *c, double *ret_capacity)
{
    size_t n = 1 + rng_below(r, CLAIMS);
    *ret_capacity = pick(r, 10000);
    for (size_t i = 0; i < n; i++)
        c[i] = (struct allocate_claim){
            .demand = rng_below(r, 4) == 0 ? INFINITY : pick(r, 2000),
            .reservation = rng_below(r, 2) == 0 ? 0 : pick(r, 700),
            .limit = rng_below(r, 3) == 0 ? pick(r, 1500) : INFINITY,
            .weight = 1 + (double)rng_below(r, 1000),
            .priority = (int32_t)rng_below(r, 5) - 2,
        };
    return n;
}

static double asked(const struct allocate_claim *c)
{
    double most = fmin(c->demand, c->limit);
    return fmin(c->reservation, most);
}

static void check_bounds(const struct allocate_claim *c, size_t n, double capacity, double fits,
                         uint64_t seed)
{
    double sum = 0, wanted = 0, reservations = 0, slack = EPSILON * (1 + capacity);
    for (size_t i = 0; i < n; i++) {
        sum += c[i].given;
        wanted += fmin(fmin(c[i].demand, c[i].limit), capacity + 1);
        reservations += asked(&c[i]);
        if (c[i].given > fmin(c[i].demand, c[i].limit) + slack)
            fail_msg("seed %llu: more than asked for or allowed", (unsigned long long)seed);
        if (c[i].given < c[i].reserved - slack || c[i].reserved > asked(&c[i]) + slack)
            fail_msg("seed %llu: less than reserved", (unsigned long long)seed);
    }
    if (sum > capacity + slack)
        fail_msg("seed %llu: %f of %f given", (unsigned long long)seed, sum, capacity);
    if (sum < fmin(capacity, wanted) - slack)
        fail_msg("seed %llu: idle while asked for: %f of %f", (unsigned long long)seed, sum,
                 fmin(capacity, wanted));
    assert_true(fits > 0 || capacity == 0);
    for (size_t i = 0; i < n && reservations <= capacity; i++) {
        assert_true(fits == 1.0);
        if (c[i].reserved < asked(&c[i]) - slack)
            fail_msg("seed %llu: a reservation that fits is starved", (unsigned long long)seed);
    }
    if (reservations > capacity * (1 + EPSILON) && fits >= 1.0)
        fail_msg("seed %llu: overcommitted and not said", (unsigned long long)seed);
}

/* Beyond reservations nobody has less for its weight than another, unless it has all it wants. */
static void check_fair(const struct allocate_claim *c, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        bool sated = c[i].given >= fmin(c[i].demand, c[i].limit) * (1 - EPSILON) - EPSILON;
        for (size_t k = 0; k < n && !sated; k++) {
            bool floor = c[k].given <= c[k].reserved * (1 + EPSILON) + EPSILON;
            if (!floor && c[k].given / c[k].weight > c[i].given / c[i].weight * (1 + 1e-4) + 1e-4)
                fail_msg("seed %llu: %zu has more for its weight than %zu, which wants more",
                         (unsigned long long)seed, k, i);
        }
    }
}

static void whatever_is_claimed_the_promises_of_an_allocation_hold(void **state)
{
    (void)state;
    struct allocate_claim c[CLAIMS];
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rng r;
        double capacity;
        rng_seed(&r, seed);
        size_t n = random_claims(&r, c, &capacity);
        enum collisions how = rng_below(&r, 2) ? COLLISIONS_SHARE : COLLISIONS_PRIORITY;
        double fits = allocate(c, n, capacity, how);
        check_bounds(c, n, capacity, fits, seed);
        check_fair(c, n, seed);
    }
}

static void a_greater_weight_never_gives_less(void **state)
{
    (void)state;
    struct allocate_claim c[CLAIMS], d[CLAIMS];
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rng r;
        double capacity;
        rng_seed(&r, seed);
        size_t n = random_claims(&r, c, &capacity), i = rng_below(&r, n);
        memcpy(d, c, sizeof(d));
        d[i].weight *= 1 + rng_unit(&r) * 10;
        allocate(c, n, capacity, COLLISIONS_PRIORITY);
        allocate(d, n, capacity, COLLISIONS_PRIORITY);
        if (d[i].given < c[i].given - EPSILON * (1 + capacity))
            fail_msg("seed %llu: %f became %f", (unsigned long long)seed, c[i].given, d[i].given);
    }
}

static void when_reservations_collide_the_dearer_is_served_whole(void **state)
{
    (void)state;
    struct allocate_claim c[3] = {
        {.demand = 900, .reservation = 500, .limit = INFINITY, .weight = 1, .priority = 0},
        {.demand = 900, .reservation = 500, .limit = INFINITY, .weight = 1, .priority = 10},
        {.demand = 900, .reservation = 250, .limit = INFINITY, .weight = 1, .priority = 0},
    };
    double fits = allocate(c, 3, 800, COLLISIONS_PRIORITY);
    assert_true(fabs(fits - 0.64) < 1e-9);
    assert_true(fabs(c[1].given - 500) < 1e-3);
    assert_true(fabs(c[0].given - 200) < 1e-3 && fabs(c[2].given - 100) < 1e-3);
    fits = allocate(c, 3, 800, COLLISIONS_SHARE);
    assert_true(fabs(c[0].given - 320) < 1e-3 && fabs(c[1].given - 320) < 1e-3);
    assert_true(fabs(c[2].given - 160) < 1e-3);
}

/* --- splits ---------------------------------------------------------------------------- */

static size_t random_parts(struct rng *r, struct split_part *p, uint64_t *ret_total)
{
    size_t n = 1 + rng_below(r, CLAIMS);
    *ret_total = 1 + rng_below(r, rng_below(r, 3) == 0 ? 100 : 1000000000);
    for (size_t i = 0; i < n; i++)
        p[i] = (struct split_part){.demand = pick(r, (double)*ret_total * 2),
                                   .stake = 1,
                                   .wanting = rng_below(r, 3) ? 0 : (double)rng_below(r, 9)};
    return n;
}

static void parts_add_up_exactly_and_none_is_without(void **state)
{
    (void)state;
    struct split_part p[CLAIMS];
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rng r;
        uint64_t total, sum = 0, burst = 0;
        rng_seed(&r, seed);
        size_t n = random_parts(&r, p, &total);
        split_rate(total, p, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(p[i].rate >= 1);
            sum += p[i].rate;
            /* A stake everywhere. */
            if ((double)p[i].rate < (double)total / (double)(n * SPLIT_STAKE) * 0.9 - 2)
                fail_msg("seed %llu: part %zu is %llu of %llu", (unsigned long long)seed, i,
                         (unsigned long long)p[i].rate, (unsigned long long)total);
        }
        if (sum != (total < n ? n : total))
            fail_msg("seed %llu: %llu of %llu", (unsigned long long)seed, (unsigned long long)sum,
                     (unsigned long long)total);
        split_like(total * 3, p, n);
        for (size_t i = 0; i < n; i++)
            burst += p[i].rate;
        assert_true(burst == total * 3);
    }
}

static void parts_follow_demand_and_those_who_are_held_back(void **state)
{
    (void)state;
    struct split_part quiet[2] = {{.stake = 1}, {5000, 0, 1, 4, 0, 0}};
    split_rate(1000, quiet, 2);
    assert_in_range(quiet[0].rate, 9, 12); /* its stake: a fiftieth of half */
    assert_int_equal(quiet[0].rate + quiet[1].rate, 1000);
    struct split_part even[2] = {{100, 0, 1, 3, 0, 0}, {900, 0, 1, 3, 0, 0}};
    split_rate(1000, even, 2); /* both could do more: what arrived says nothing */
    assert_in_range(even[0].rate, 495, 505);
    struct split_part calm[2] = {{100, 0, 1, 0, 0, 0}, {300, 0, 1, 0, 0, 0}};
    split_rate(1000, calm, 2); /* room for all: in proportion */
    assert_in_range(calm[0].rate, 230, 290);
    struct split_part third[2] = {{300, 0, 1, 0, 0, 0}, {900, 0, 1, 2, 0, 0}};
    split_rate(1000, third, 2); /* the one that is not held has what it asks for, and a tenth */
    assert_in_range(third[0].rate, 325, 335);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_claimed_the_promises_of_an_allocation_hold),
        cmocka_unit_test(a_greater_weight_never_gives_less),
        cmocka_unit_test(when_reservations_collide_the_dearer_is_served_whole),
        cmocka_unit_test(parts_add_up_exactly_and_none_is_without),
        cmocka_unit_test(parts_follow_demand_and_those_who_are_held_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
