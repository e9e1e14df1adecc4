/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: each value lies in its bucket, no bucket is wider than 3 %, histograms add and subtract
 * exactly, and a quantile is off by no more than its bucket.
 * Method: every bucket's edges; random values over all magnitudes, against sorted arrays. */
#include <string.h>

#include "qos_test.h"

#include "qos/hist.h"

static void each_value_lies_in_its_bucket(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int i = 0; i < 1000000; i++) {
        uint64_t v = rng_u64(&rng) >> rng_below(&rng, 64);
        uint32_t b = hist_index(v);
        assert_true(b < HIST_BUCKETS);
        assert_true(hist_bucket_low(b) <= v);
        assert_true(v < hist_bucket_high(b) || b == HIST_BUCKETS - 1);
    }
}

static void buckets_touch_and_are_at_most_three_per_cent_wide(void **state)
{
    (void)state;
    assert_int_equal(hist_bucket_low(0), 0);
    for (uint32_t b = 0; b + 1 < HIST_BUCKETS; b++) {
        uint64_t low = hist_bucket_low(b), high = hist_bucket_high(b);
        assert_true(low < high);
        assert_int_equal(high, hist_bucket_low(b + 1));
        assert_int_equal(hist_index(low), b);
        assert_int_equal(hist_index(high - 1), b);
        if (low >= 4096)
            assert_true((double)(high - low) / (double)low <= 1.0 / 64);
        else
            assert_int_equal(high - low, 64);
    }
    assert_int_equal(hist_bucket_low(HIST_BUCKETS - 1), UINT64_C(1) << 36);
    assert_int_equal(hist_index(UINT64_MAX), HIST_BUCKETS - 1);
}

static void record_some(struct hist *h, struct rng *rng, int n, struct hist *also)
{
    for (int i = 0; i < n; i++) {
        uint64_t v = rng_u64(rng) >> (24 + rng_below(rng, 40));
        hist_record(h, v);
        if (also != NULL)
            hist_record(also, v);
    }
}

static void merging_equals_recording_together(void **state)
{
    (void)state;
    static struct hist a, b, together;
    struct rng rng;
    rng_seed(&rng, test_seed());
    hist_clear(&a);
    hist_clear(&b);
    hist_clear(&together);
    record_some(&a, &rng, 5000, &together);
    record_some(&b, &rng, 3000, &together);
    hist_merge(&a, &b);
    assert_memory_equal(&a, &together, sizeof a);
}

static void a_later_reading_less_an_earlier_gives_what_lay_between(void **state)
{
    (void)state;
    static struct hist h, before, between, out;
    struct rng rng;
    rng_seed(&rng, test_seed());
    hist_clear(&h);
    hist_clear(&between);
    record_some(&h, &rng, 4000, NULL);
    before = h;
    record_some(&h, &rng, 2500, &between);
    hist_subtract(&out, &h, &before);
    assert_memory_equal(out.bucket, between.bucket, sizeof out.bucket);
    assert_int_equal(out.count, between.count);
    assert_int_equal(out.sum_ns, between.sum_ns);
    assert_true(out.max_ns >= between.max_ns);
    assert_true(out.max_ns <= h.max_ns);
    hist_subtract(&out, &h, &h);
    assert_int_equal(out.count, 0);
    assert_int_equal(out.max_ns, 0);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void a_quantile_is_off_by_no_more_than_its_bucket(void **state)
{
    (void)state;
    static struct hist h;
    static uint64_t values[10000];
    struct rng rng;
    rng_seed(&rng, test_seed());
    static const double qs[] = {0.0001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0};
    for (int round = 0; round < 20; round++) {
        size_t n = 1 + rng_below(&rng, 10000);
        hist_clear(&h);
        for (size_t i = 0; i < n; i++) {
            values[i] = rng_u64(&rng) >> (29 + rng_below(&rng, 35));
            hist_record(&h, values[i]);
        }
        qsort(values, n, sizeof values[0], compare_u64);
        for (size_t i = 0; i < sizeof qs / sizeof qs[0]; i++) {
            size_t rank = (size_t)(qs[i] * (double)n);
            while ((double)rank < qs[i] * (double)n * (1 - 1e-12))
                rank++;
            uint64_t exact = values[rank > 0 ? rank - 1 : 0];
            uint64_t q = hist_quantile(&h, qs[i]);
            assert_int_equal(q, hist_bucket_high(hist_index(exact)) - 1);
            assert_true(q >= exact);
            assert_true(q - exact <= 63 || (double)(q - exact) <= (double)exact / 64);
        }
    }
}

static void a_quantile_of_round_numbers_is_not_one_rank_too_high(void **state)
{
    (void)state;
    static struct hist h;
    hist_clear(&h);
    for (int i = 0; i < 99; i++)
        hist_record(&h, 1000);
    hist_record(&h, 1000000);
    assert_int_equal(hist_quantile(&h, 0.99), hist_bucket_high(hist_index(1000)) - 1);
    assert_int_equal(hist_quantile(&h, 0.991), hist_bucket_high(hist_index(1000000)) - 1);
}

static void an_empty_histogram_gives_zero(void **state)
{
    (void)state;
    static struct hist h;
    hist_clear(&h);
    assert_int_equal(hist_quantile(&h, 0.5), 0);
    assert_int_equal(hist_mean(&h), 0);
    assert_int_equal(hist_count_above(&h, 0), 0);
}

static void values_beyond_the_last_bound_are_counted_and_keep_their_maximum(void **state)
{
    (void)state;
    static struct hist h;
    hist_clear(&h);
    hist_record(&h, 5);
    hist_record(&h, UINT64_C(90) * NS_PER_S);
    assert_int_equal(h.bucket[HIST_BUCKETS - 1], 1);
    assert_int_equal(hist_quantile(&h, 1.0), UINT64_C(90) * NS_PER_S);
    assert_int_equal(hist_mean(&h), (UINT64_C(90) * NS_PER_S + 5) / 2);
}

static void count_above_leaves_out_the_bucket_of_the_bound(void **state)
{
    (void)state;
    static struct hist h;
    hist_clear(&h);
    for (uint64_t v = 1000; v <= 100000; v += 1000)
        hist_record(&h, v);
    uint64_t expected = 0;
    for (uint64_t v = 1000; v <= 100000; v += 1000)
        expected += hist_index(v) > hist_index(50000);
    assert_int_equal(hist_count_above(&h, 50000), expected);
    assert_int_equal(hist_count_above(&h, UINT64_MAX), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_value_lies_in_its_bucket),
        cmocka_unit_test(buckets_touch_and_are_at_most_three_per_cent_wide),
        cmocka_unit_test(merging_equals_recording_together),
        cmocka_unit_test(a_later_reading_less_an_earlier_gives_what_lay_between),
        cmocka_unit_test(a_quantile_is_off_by_no_more_than_its_bucket),
        cmocka_unit_test(a_quantile_of_round_numbers_is_not_one_rank_too_high),
        cmocka_unit_test(an_empty_histogram_gives_zero),
        cmocka_unit_test(values_beyond_the_last_bound_are_counted_and_keep_their_maximum),
        cmocka_unit_test(count_above_leaves_out_the_bucket_of_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
