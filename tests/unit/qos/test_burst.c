/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a declared burst gives burst_rate for burst_ns and the base rate after, its credit is seen
 * to fall and to refill at the base rate less demand, and no interval holds more than the two
 * buckets together allow. Method: a virtual clock and clients that are greedy, idle or in between;
 * random bursts against both bounds over all pairs of grants. */
#include "qos_test.h"

#include "qos/bucket.h"

typedef __int128 wide;

/* 1,000 IOPS, bursting to 5,000 for 10 s. */
static const struct bucket_rate burst = {
    .rate = 1000, .burst_rate = 5000, .burst_ns = UINT64_C(10) * NS_PER_S};

static uint64_t greedy(struct bucket *b, uint64_t from_ns, uint64_t to_ns)
{
    uint64_t sent = 0;
    for (uint64_t now = from_ns; now < to_ns;) {
        uint64_t wait = bucket_wait_ns(b, now);
        if (wait == 0) {
            bucket_take(b, 1, now);
            sent++;
        }
        now += wait;
    }
    return sent;
}

/* A client that sends one I/O every @gap_ns and is never held. */
static void paced(struct bucket *b, uint64_t gap_ns, uint64_t from_ns, uint64_t to_ns)
{
    for (uint64_t now = from_ns; now < to_ns; now += gap_ns) {
        assert_int_equal(bucket_wait_ns(b, now), 0);
        bucket_take(b, 1, now);
    }
}

static void assert_near(uint64_t value, uint64_t expected, uint64_t off)
{
    if (value + off < expected || value > expected + off)
        fail_msg("%llu is not within %llu of %llu", (unsigned long long)value,
                 (unsigned long long)off, (unsigned long long)expected);
}

static void a_burst_gives_its_rate_for_its_time_and_then_the_base_rate(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, &burst, 0);
    for (uint64_t s = 0; s < 10; s++) {
        assert_near(bucket_burst_ppm(&b), 1000000 - (uint32_t)s * 100000, 1000);
        assert_near(bucket_burst_left_ns(&b), (10 - s) * NS_PER_S, 10 * NS_PER_MS);
        assert_near(greedy(&b, s * NS_PER_S, (s + 1) * NS_PER_S), 5000, 1);
    }
    assert_near(bucket_burst_ppm(&b), 0, 1000);
    /* What is left of the rounding of the last I/O goes in the next second; after that it is the
     * base rate. */
    assert_near(greedy(&b, 10 * NS_PER_S, 11 * NS_PER_S), 1000, 10);
    for (uint64_t s = 11; s < 30; s++)
        assert_near(greedy(&b, s * NS_PER_S, (s + 1) * NS_PER_S), 1000, 1);
    assert_int_equal(bucket_burst_ppm(&b), 0);
}

static void the_first_second_of_a_burst_keeps_to_the_burst_rate(void **state)
{
    (void)state;
    struct bucket fresh, idle;
    bucket_init(&fresh, &burst, 0);
    bucket_init(&idle, &burst, 0);
    assert_true(greedy(&fresh, 0, NS_PER_S) <= 5001);
    assert_true(greedy(&idle, 50 * NS_PER_S, 51 * NS_PER_S) <= 5051);
}

static void credit_refills_at_the_base_rate_while_idle(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, &burst, 0);
    greedy(&b, 0, 20 * NS_PER_S);
    assert_int_equal(bucket_burst_ppm(&b), 0);
    /* 40,000 units of credit at 1,000 a second. */
    assert_near(bucket_burst_full_in_ns(&b), 40 * NS_PER_S, 20 * NS_PER_MS);
    bucket_refill(&b, 30 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), 250000, 1000);
    bucket_refill(&b, 59 * NS_PER_S);
    assert_true(bucket_burst_ppm(&b) < 1000000);
    bucket_refill(&b, 61 * NS_PER_S);
    assert_int_equal(bucket_burst_ppm(&b), 1000000);
    assert_int_equal(bucket_burst_full_in_ns(&b), 0);
}

static void credit_refills_by_what_demand_leaves_of_the_base_rate(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, &burst, 0);
    greedy(&b, 0, 20 * NS_PER_S);
    /* At 600 IOPS 400 a second are left: 20 s bring 8,000 of 40,000. */
    paced(&b, NS_PER_S / 600 + 1, 20 * NS_PER_S + NS_PER_MS, 40 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), 200000, 2000);
    /* At the base rate nothing is left. */
    uint32_t before = bucket_burst_ppm(&b);
    paced(&b, NS_PER_S / 1000, 40 * NS_PER_S, 60 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), before, 500);
}

static void a_demand_between_base_and_burst_spends_only_the_difference(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, &burst, 0);
    /* 2,000 IOPS take 1,000 a second of 40,000: 40 s. */
    paced(&b, NS_PER_S / 2000, 0, 39 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), 25000, 1000);
    greedy(&b, 39 * NS_PER_S, 41 * NS_PER_S);
    assert_int_equal(bucket_burst_ppm(&b), 0);
}

static void a_burst_of_bytes_with_large_ios_keeps_both_rates(void **state)
{
    (void)state;
    struct bucket b;
    struct bucket_rate r = {
        .rate = 50 << 20, .burst_rate = 200 << 20, .burst_ns = UINT64_C(5) * NS_PER_S};
    bucket_init(&b, &r, 0);
    uint64_t sent = 0, now = 0;
    while (now < 5 * NS_PER_S) {
        uint64_t wait = bucket_wait_ns(&b, now);
        if (wait == 0) {
            bucket_take(&b, 8 << 20, now);
            sent += 8 << 20;
        }
        now += wait;
    }
    assert_near(sent, 5 * (UINT64_C(200) << 20), 8 << 20);
    sent = 0;
    uint64_t start = now;
    while (now < start + 20 * NS_PER_S) {
        uint64_t wait = bucket_wait_ns(&b, now);
        if (wait == 0) {
            bucket_take(&b, 8 << 20, now);
            sent += 8 << 20;
        }
        now += wait;
    }
    assert_near(sent, 20 * (UINT64_C(50) << 20), 16 << 20);
}

#define GRANTS 150

static void no_interval_of_a_burst_holds_more_than_both_buckets_allow(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int round = 0; round < 300; round++) {
        struct bucket_rate r = {.rate = test_rng_log(&rng, 1, 100000)};
        r.burst_rate = r.rate + test_rng_log(&rng, 1, 100000);
        r.burst_ns = test_rng_log(&rng, NS_PER_MS, 2 * NS_PER_S);
        uint64_t size = test_rng_log(&rng, 1, 5000);
        struct bucket b;
        bucket_init(&b, &r, 0);
        uint64_t at[GRANTS], units[GRANTS], now = 0;
        for (size_t n = 0; n < GRANTS;) {
            uint64_t wait = bucket_wait_ns(&b, now);
            if (wait > 0) {
                now += wait + (rng_below(&rng, 3) == 0 ? rng_below(&rng, 10 * NS_PER_MS) : 0);
                continue;
            }
            at[n] = now;
            units[n] = 1 + rng_below(&rng, size);
            bucket_take(&b, units[n], now);
            n++;
            if (rng_below(&rng, 10) == 0)
                now += rng_below(&rng, 100 * NS_PER_MS);
        }
        for (size_t i = 0; i < GRANTS; i++) {
            wide paid = 0;
            for (size_t j = i; j < GRANTS; j++) {
                wide t = at[j] - at[i];
                assert_true(paid <= r.rate * t + b.credit_max + b.burst_max);
                assert_true(paid <= r.burst_rate * t + b.pace_max);
                paid += (wide)units[j] * NS_PER_S;
            }
        }
    }
}

static void a_change_keeps_the_share_of_burst_credit(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, &burst, 0);
    greedy(&b, 0, 4 * NS_PER_S);
    uint32_t share = bucket_burst_ppm(&b);
    assert_near(share, 600000, 1000);
    struct bucket_rate twice = {
        .rate = 2000, .burst_rate = 10000, .burst_ns = UINT64_C(60) * NS_PER_S};
    bucket_change(&b, &twice, 4 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), share, 1);
    bucket_change(&b, &burst, 4 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), share, 2);
    /* Renewed a thousand times with the same figures nothing moves. */
    for (int i = 0; i < 1000; i++)
        bucket_change(&b, &burst, 4 * NS_PER_S);
    assert_near(bucket_burst_ppm(&b), share, 2);
    bucket_change(&b, &(struct bucket_rate){.rate = 1000}, 4 * NS_PER_S);
    assert_int_equal(bucket_burst_ppm(&b), 1000000);
    assert_near(greedy(&b, 5 * NS_PER_S, 6 * NS_PER_S), 1000, 12);
}

static void the_largest_figures_do_not_overflow(void **state)
{
    (void)state;
    struct bucket b;
    struct bucket_rate huge = {
        .rate = UINT64_MAX - 1, .burst_rate = UINT64_MAX, .burst_ns = UINT64_MAX};
    bucket_init(&b, &huge, 0);
    bucket_take(&b, UINT64_MAX, UINT64_MAX - 1);
    assert_true(bucket_wait_ns(&b, UINT64_MAX) < 10 * NS_PER_S);
    struct bucket_rate wide_burst = {
        .rate = 1, .burst_rate = BUCKET_RATE_MAX, .burst_ns = BUCKET_BURST_NS_MAX};
    bucket_init(&b, &wide_burst, 0);
    for (int i = 0; i < 100; i++)
        bucket_take(&b, UINT64_C(1) << 40, 0);
    assert_true(bucket_burst_ppm(&b) <= 1000000);
    struct bucket_rate other = {.rate = 2, .burst_rate = 3, .burst_ns = 1};
    bucket_change(&b, &other, 1);
    bucket_change(&b, &wide_burst, 2);
    assert_true(bucket_burst_ppm(&b) <= 1000000);
    assert_true(bucket_burst_full_in_ns(&b) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_burst_gives_its_rate_for_its_time_and_then_the_base_rate),
        cmocka_unit_test(the_first_second_of_a_burst_keeps_to_the_burst_rate),
        cmocka_unit_test(credit_refills_at_the_base_rate_while_idle),
        cmocka_unit_test(credit_refills_by_what_demand_leaves_of_the_base_rate),
        cmocka_unit_test(a_demand_between_base_and_burst_spends_only_the_difference),
        cmocka_unit_test(a_burst_of_bytes_with_large_ios_keeps_both_rates),
        cmocka_unit_test(no_interval_of_a_burst_holds_more_than_both_buckets_allow),
        cmocka_unit_test(a_change_keeps_the_share_of_burst_credit),
        cmocka_unit_test(the_largest_figures_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
