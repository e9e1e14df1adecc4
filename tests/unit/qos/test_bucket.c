/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a bucket gives its rate, no less and no more: to 0.1 % over time, to 1 % and one I/O in the
 * first second, and in no interval whatever more than rate x time + credit + one I/O.
 * Method: a virtual clock; rates from 1 to 500,000 IOPS and 1 B/s to 100 GB/s, I/Os from one byte
 * to 4 GiB; greedy, paced and idle clients; wake-ups up to 10 ms late; seeds are printed. */
#include "qos_test.h"

#include "qos/bucket.h"

typedef __int128 wide;

static struct bucket bucket_of(uint64_t rate)
{
    struct bucket b;
    bucket_init(&b, &(struct bucket_rate){.rate = rate}, 0);
    return b;
}

static wide credit_max(uint64_t rate)
{
    wide slack = (wide)rate * (10 * (wide)NS_PER_MS);
    return slack > (wide)NS_PER_S ? slack : (wide)NS_PER_S;
}

/* A client with more to do than the bucket lets it: woken up to @late_ns late, sends whatever goes.
 * Returns the units that went in [@from_ns, @to_ns), and the largest I/O in *@ret_last. */
static uint64_t greedy(struct bucket *b, struct rng *rng, uint64_t units_max, uint64_t late_ns,
                       uint64_t from_ns, uint64_t to_ns)
{
    uint64_t now = from_ns, sent = 0;
    for (;;) {
        uint64_t wait = bucket_wait_ns(b, now);
        if (wait == 0) {
            uint64_t units = units_max > 1 ? 1 + rng_below(rng, units_max) : 1;
            bucket_take(b, units, now);
            sent += units;
            continue;
        }
        if (wait >= to_ns - now)
            return sent;
        now += wait + (late_ns > 0 ? rng_below(rng, late_ns + 1) : 0);
        if (now >= to_ns)
            return sent;
    }
}

/* How long to watch @rate so that one I/O and the slack are below 0.01 %, within reason. */
static uint64_t watch_ns(uint64_t rate)
{
    return rate < 100 ? UINT64_C(20000) * NS_PER_S
                      : (UINT64_C(1000000) / rate + 25) * NS_PER_S;
}

static void check_steady(uint64_t rate, uint64_t late_ns, struct rng *rng)
{
    struct bucket b = bucket_of(rate);
    /* Past the start, so that neither initial nor slack credit counts. */
    uint64_t start = 50 * NS_PER_S, end = start + watch_ns(rate);
    greedy(&b, rng, 1, late_ns, 0, start);
    uint64_t sent = greedy(&b, rng, 1, late_ns, start, end);
    double exact = (double)rate * (double)(end - start) / 1e9;
    double off = ((double)sent - exact) / exact;
    if (off < -0.001 || off > 0.001)
        fail_msg("rate %llu, late %llu ns: off by %.4f %%", (unsigned long long)rate,
                 (unsigned long long)late_ns, off * 100);
}

static void the_steady_rate_is_kept_to_a_tenth_of_a_per_cent_from_1_to_500000_iops(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    static const uint64_t rates[] = {1, 2, 3, 7, 10, 99, 100, 101, 333, 1000, 2000, 4999, 20000};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++)
        check_steady(rates[i], 0, &rng);
    check_steady(500000, 0, &rng);
    for (int i = 0; i < 20; i++)
        check_steady(test_rng_log(&rng, 1, 50000), 0, &rng);
}

static void wake_ups_ten_milliseconds_late_lose_nothing(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    static const uint64_t rates[] = {1, 50, 100, 150, 2000, 100000};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++)
        check_steady(rates[i], 10 * NS_PER_MS, &rng);
    check_steady(500000, 10 * NS_PER_MS, &rng);
}

static void bytes_are_held_to_their_rate_whatever_the_size_of_the_ios(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int i = 0; i < 200; i++) {
        uint64_t rate = test_rng_log(&rng, 1, UINT64_C(100000000000));
        uint64_t size = test_rng_log(&rng, 1, UINT64_C(1) << 32);
        struct bucket b = bucket_of(rate);
        /* Some 20,000 I/Os of the mean size, whatever that takes. */
        double seconds = 20000.0 * (double)size / 2 / (double)rate;
        if (seconds < 10)
            seconds = 10;
        if (seconds * (double)rate / (double)size > 200000 || seconds > 1e9)
            continue;
        uint64_t end = (uint64_t)(seconds * 1e9);
        uint64_t sent = greedy(&b, &rng, size, 10 * NS_PER_MS, 0, end);
        double exact = (double)rate * seconds;
        assert_true((double)sent >= exact * 0.999 - (double)rate * 0.011);
        assert_true((double)sent <= exact * 1.001 + (double)size);
    }
}

/* A second from the first I/O on, of a bucket that was made just now and of one long idle. */
static void the_first_second_is_within_one_per_cent_and_one_io(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int i = 0; i < 300; i++) {
        uint64_t rate = i < 120 ? (uint64_t)i + 1 : test_rng_log(&rng, 1, 500000);
        uint64_t late = rng_below(&rng, 2) * 5 * NS_PER_MS;
        struct bucket fresh = bucket_of(rate), idle = bucket_of(rate);
        uint64_t first = greedy(&fresh, &rng, 1, late, 0, NS_PER_S);
        uint64_t woken = greedy(&idle, &rng, 1, late, 100 * NS_PER_S, 101 * NS_PER_S);
        assert_true((double)first <= (double)rate * 1.01 + 1);
        assert_true((double)woken <= (double)rate * 1.01 + 1);
        assert_true((double)first >= (double)rate * 0.985 - 1);
    }
}

static void a_fresh_bucket_does_not_begin_with_a_clump(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, 1);
    static const uint64_t rates[] = {1, 100, 2000, 500000};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        struct bucket b = bucket_of(rates[i]);
        assert_int_equal(greedy(&b, &rng, 1, 0, 0, 1), 1);
    }
}

static void at_depth_one_ios_are_evenly_spaced(void **state)
{
    (void)state;
    struct bucket b = bucket_of(2000);
    uint64_t now = 0;
    /* An idle start spends its 10 ms of credit first, then every gap is half a millisecond. */
    now = NS_PER_S;
    for (int i = 0; i < 21; i++) {
        assert_int_equal(bucket_wait_ns(&b, now), 0);
        bucket_take(&b, 1, now);
    }
    for (int i = 0; i < 10000; i++) {
        uint64_t wait = bucket_wait_ns(&b, now);
        assert_int_equal(wait, 500000);
        now += wait;
        bucket_take(&b, 1, now);
    }
}

#define GRANTS 120

/* All pairs of grants: no interval, wherever it begins and ends, holds more than its due. */
static void check_all_intervals(uint64_t rate, const uint64_t *at, const uint64_t *units, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        wide paid = 0;
        for (size_t j = i; j < n; j++) {
            wide due = (wide)rate * (at[j] - at[i]) + credit_max(rate);
            assert_true(paid <= due); /* before the last I/O: it is the one that may go on top */
            paid += (wide)units[j] * NS_PER_S;
        }
    }
}

static void no_interval_holds_more_than_rate_times_time_plus_credit_plus_one_io(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int round = 0; round < 400; round++) {
        uint64_t rate = test_rng_log(&rng, 1, round % 2 ? 500000 : UINT64_C(100000000000));
        uint64_t size = round % 2 ? 1 : test_rng_log(&rng, 1, UINT64_C(1) << 32);
        if (size > rate * 1000000)
            size = rate * 1000000; /* or the virtual clock would run over */
        struct bucket b = bucket_of(rate);
        uint64_t at[GRANTS], units[GRANTS], now = rng_below(&rng, 20 * NS_PER_MS);
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
            if (rng_below(&rng, 4) == 0)
                now += rng_below(&rng, 30 * NS_PER_MS); /* the client thinks */
        }
        check_all_intervals(rate, at, units, GRANTS);
    }
}

static void the_wait_that_is_told_is_exact(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int i = 0; i < 20000; i++) {
        struct bucket b = bucket_of(test_rng_log(&rng, 1, UINT64_C(100000000000)));
        uint64_t now = rng_below(&rng, NS_PER_S);
        assert_int_equal(bucket_wait_ns(&b, now), 0);
        bucket_take(&b, (UINT64_C(1) << 24) + rng_below(&rng, UINT64_C(1) << 32), now);
        uint64_t wait = bucket_wait_ns(&b, now);
        if (wait == 0)
            continue;
        struct bucket early = b, late = b;
        assert_true(bucket_wait_ns(&early, now + wait - 1) == 1);
        assert_int_equal(bucket_wait_ns(&late, now + wait), 0);
        assert_int_equal(bucket_wait_ns(&late, now), 0); /* going back stands still */
    }
}

static void a_demand_below_the_rate_is_never_held(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int round = 0; round < 50; round++) {
        uint64_t rate = test_rng_log(&rng, 1, 500000);
        struct bucket b = bucket_of(rate);
        uint64_t gap = NS_PER_S / rate + 1, now = 0;
        for (int i = 0; i < 2000; i++) {
            assert_int_equal(bucket_wait_ns(&b, now), 0);
            bucket_take(&b, 1, now);
            now += gap;
        }
    }
}

static void one_byte_a_second_and_four_gigabytes_at_once_stay_exact(void **state)
{
    (void)state;
    struct bucket b = bucket_of(1);
    uint64_t size = UINT64_C(1) << 32;
    bucket_take(&b, size, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), size * NS_PER_S);
    assert_int_equal(bucket_wait_ns(&b, size * NS_PER_S - 1), 1);
    assert_int_equal(bucket_wait_ns(&b, size * NS_PER_S), 0);
    b = bucket_of(UINT64_C(100000000000));
    bucket_take(&b, size, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), 42949673); /* 2^32 / 10^11 s, rounded up */
    assert_int_equal(bucket_wait_ns(&b, UINT64_MAX), 0);
}

static void ios_forced_through_make_debt_that_is_paid_back_within_a_minute(void **state)
{
    (void)state;
    struct bucket b = bucket_of(10);
    for (int i = 0; i < 50; i++)
        bucket_take(&b, 1, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), 5 * NS_PER_S);
    for (int i = 0; i < 100000; i++)
        bucket_take(&b, 1, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), 60 * NS_PER_S);
    /* One I/O that alone costs more keeps its whole cost. */
    b = bucket_of(1000);
    bucket_take(&b, 100000, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), 100 * NS_PER_S);
    bucket_take(&b, 1, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), 100 * NS_PER_S);
}

static void a_change_of_rate_keeps_the_debt_in_units(void **state)
{
    (void)state;
    struct bucket b = bucket_of(100);
    bucket_take(&b, 300, 0);
    assert_int_equal(bucket_wait_ns(&b, 0), 3 * NS_PER_S);
    bucket_change(&b, &(struct bucket_rate){.rate = 1000}, NS_PER_S);
    assert_int_equal(bucket_wait_ns(&b, NS_PER_S), 200 * NS_PER_MS);
    bucket_change(&b, &(struct bucket_rate){.rate = 1}, NS_PER_S);
    assert_int_equal(bucket_wait_ns(&b, NS_PER_S), 200 * NS_PER_S);
    bucket_change(&b, &(struct bucket_rate){.rate = 0}, NS_PER_S);
    assert_int_equal(bucket_wait_ns(&b, NS_PER_S), 0);
    bucket_change(&b, &(struct bucket_rate){.rate = 7}, NS_PER_S);
    assert_int_equal(bucket_wait_ns(&b, NS_PER_S), 0);
}

static void changing_the_rate_over_and_over_grants_no_more_than_the_highest(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    struct bucket b = bucket_of(1000);
    uint64_t now = 0, sent = 0, due = 0;
    uint64_t rate = 1000;
    for (int i = 0; i < 2000; i++) {
        uint64_t end = now + rng_below(&rng, 20 * NS_PER_MS);
        sent += greedy(&b, &rng, 1, 0, now, end);
        due += rate * (end - now);
        now = end;
        rate = test_rng_log(&rng, 100, 10000);
        bucket_change(&b, &(struct bucket_rate){.rate = rate}, now);
    }
    assert_true(sent * NS_PER_S <= due + (uint64_t)credit_max(10000) + NS_PER_S);
    assert_true((double)sent * 1e9 >= (double)due * 0.99);
}

static void no_rate_is_no_limit(void **state)
{
    (void)state;
    struct bucket b = bucket_of(0);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(bucket_wait_ns(&b, 0), 0);
        bucket_take(&b, UINT64_MAX, 0);
    }
    assert_int_equal(bucket_burst_ppm(&b), 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_steady_rate_is_kept_to_a_tenth_of_a_per_cent_from_1_to_500000_iops),
        cmocka_unit_test(wake_ups_ten_milliseconds_late_lose_nothing),
        cmocka_unit_test(bytes_are_held_to_their_rate_whatever_the_size_of_the_ios),
        cmocka_unit_test(the_first_second_is_within_one_per_cent_and_one_io),
        cmocka_unit_test(a_fresh_bucket_does_not_begin_with_a_clump),
        cmocka_unit_test(at_depth_one_ios_are_evenly_spaced),
        cmocka_unit_test(no_interval_holds_more_than_rate_times_time_plus_credit_plus_one_io),
        cmocka_unit_test(the_wait_that_is_told_is_exact),
        cmocka_unit_test(a_demand_below_the_rate_is_never_held),
        cmocka_unit_test(one_byte_a_second_and_four_gigabytes_at_once_stay_exact),
        cmocka_unit_test(ios_forced_through_make_debt_that_is_paid_back_within_a_minute),
        cmocka_unit_test(a_change_of_rate_keeps_the_debt_in_units),
        cmocka_unit_test(changing_the_rate_over_and_over_grants_no_more_than_the_highest),
        cmocka_unit_test(no_rate_is_no_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
