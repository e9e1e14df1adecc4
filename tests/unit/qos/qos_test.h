/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of qos/: cmocka with what it wants before it, and seeds that are printed. */
#ifndef WEIR_TESTS_QOS_TEST_H
#define WEIR_TESTS_QOS_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"

/* A new seed each run, or the one in WEIR_SEED; printed so that a failure can be replayed. */
/* WEIR_SEED where it is given, else @usual: for what holds of most seeds, not of all. */
static inline uint64_t test_seed_or(uint64_t usual)
{
    const char *given = getenv("WEIR_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : usual;
    printf("seed: WEIR_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

/* Another one each time: for what holds of every seed. */
static inline uint64_t test_seed(void)
{
    uint64_t seed;
    rng_system(&seed, sizeof seed);
    return test_seed_or(seed);
}

/* Log-uniform in [low, high]: every order of magnitude alike. */
static inline uint64_t test_rng_log(struct rng *r, uint64_t low, uint64_t high)
{
    uint64_t octaves = 64u - (uint64_t)__builtin_clzll(high / low);
    uint64_t v = low << rng_below(r, octaves);
    v += rng_below(r, v);
    return v > high ? high : v;
}

#endif
