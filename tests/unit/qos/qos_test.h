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

#include "../seed.h"
#include "base/clock.h"
#include "base/rng.h"

/* Log-uniform in [low, high]: every order of magnitude alike. */
static inline uint64_t test_rng_log(struct rng *r, uint64_t low, uint64_t high)
{
    uint64_t octaves = 64u - (uint64_t)__builtin_clzll(high / low);
    uint64_t v = low << rng_below(r, octaves);
    v += rng_below(r, v);
    return v > high ? high : v;
}

#endif
