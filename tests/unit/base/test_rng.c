/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the generator replays from its seed, agrees with the published algorithm, and is unbiased.
 * Method: first numbers of the reference code from a known state; counts in equal boxes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"

static void numbers_are_those_of_the_reference(void **state)
{
    (void)state;
    /* xoshiro256** from state {1, 2, 3, 4}. */
    static const uint64_t known[] = {
        UINT64_C(11520),
        UINT64_C(0),
        UINT64_C(1509978240),
        UINT64_C(1215971899390074240),
    };
    struct rng r = {.s = {1, 2, 3, 4}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        assert_true(rng_u64(&r) == known[i]);
}

static void a_seed_replays_and_another_differs(void **state)
{
    (void)state;
    struct rng a, b, c;
    rng_seed(&a, 42);
    rng_seed(&b, 42);
    rng_seed(&c, 43);
    int same = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t x = rng_u64(&a);
        assert_true(x == rng_u64(&b));
        same += x == rng_u64(&c);
    }
    assert_int_equal(same, 0);
}

static void bounded_numbers_fill_their_range_evenly(void **state)
{
    (void)state;
    struct rng r;
    rng_seed(&r, 7);
    unsigned box[10] = {0};
    for (int i = 0; i < 100000; i++)
        box[rng_below(&r, 10)]++;
    for (int i = 0; i < 10; i++)
        assert_in_range(box[i], 9500, 10500); /* five standard deviations */
    for (int i = 0; i < 1000; i++)
        assert_true(rng_below(&r, 1) == 0);
    for (int i = 0; i < 1000; i++)
        assert_true(rng_below(&r, (UINT64_C(1) << 63) + 1) <= UINT64_C(1) << 63);
}

static void unit_numbers_lie_in_zero_to_one(void **state)
{
    (void)state;
    struct rng r;
    rng_seed(&r, 9);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double u = rng_unit(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(sum > 49000 && sum < 51000);
}

static void the_system_fills_all_bytes(void **state)
{
    (void)state;
    unsigned char seen[600] = {0}, again[600];
    for (int i = 0; i < 20; i++) {
        rng_system(again, sizeof(again));
        for (size_t k = 0; k < sizeof(again); k++)
            seen[k] |= again[k];
    }
    for (size_t k = 0; k < sizeof(seen); k++)
        assert_int_not_equal(seen[k], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_the_reference),
        cmocka_unit_test(a_seed_replays_and_another_differs),
        cmocka_unit_test(bounded_numbers_fill_their_range_evenly),
        cmocka_unit_test(unit_numbers_lie_in_zero_to_one),
        cmocka_unit_test(the_system_fills_all_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
