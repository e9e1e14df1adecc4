/* SPDX-License-Identifier: Apache-2.0 */
/* Seeds of random tests: printed, and taken from WEIR_SEED to play a failure again. */
#ifndef WEIR_TESTS_SEED_H
#define WEIR_TESTS_SEED_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"

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

#endif
