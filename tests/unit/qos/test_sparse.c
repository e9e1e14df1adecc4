/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a histogram that keeps only the buckets in use answers as the whole one does.
 * Method: random counts into both, by ascending and by any order of buckets, cleared, swapped and
 * filled again; every answer compared. */
#include <string.h>

#include "qos_test.h"

#include "qos/sparse.h"

static void record(struct sparse_hist *h, struct hist *whole, uint64_t ns, uint64_t n,
                   uint32_t *hint)
{
    uint64_t *at = sparse_hist_at(h, hist_index(ns), hint);
    assert_non_null(at);
    *at += n;
    h->count += n;
    h->sum_ns += n * ns;
    h->max_ns = ns > h->max_ns ? ns : h->max_ns;
    hist_record_at(whole, hist_index(ns), (uint32_t)n, ns);
}

static void same(const struct sparse_hist *h, const struct hist *whole, struct rng *rng)
{
    assert_int_equal(h->count, whole->count);
    assert_int_equal(sparse_hist_mean(h), hist_mean(whole));
    for (int i = 0; i < 20; i++) {
        double q = ((double)rng_below(rng, 1000000) + 1) / 1e6;
        assert_int_equal(sparse_hist_quantile(h, q), hist_quantile(whole, q));
        uint64_t ns = rng_u64(rng) >> rng_below(rng, 64);
        assert_int_equal(sparse_hist_count_above(h, ns), hist_count_above(whole, ns));
    }
    assert_int_equal(sparse_hist_quantile(h, 1.0), hist_quantile(whole, 1.0));
    for (uint32_t i = 1; i < h->used; i++)
        assert_true(sparse_hist_index(h, i - 1) < sparse_hist_index(h, i));
    static struct hist sum;
    hist_clear(&sum);
    sparse_hist_merge(&sum, h);
    assert_memory_equal(&sum, whole, sizeof(sum));
}

static uint64_t some_ns(struct rng *rng, bool wide)
{
    return wide ? rng_u64(rng) >> rng_below(rng, 64) : 100000 + rng_below(rng, 400000);
}

static void a_sparse_histogram_answers_as_a_whole_one(void **state)
{
    (void)state;
    static struct hist whole;
    struct rng rng;
    rng_seed(&rng, test_seed());
    struct sparse_hist h = {.n = NULL}, other = {.n = NULL};
    for (int round = 0; round < 60; round++) {
        hist_clear(&whole);
        sparse_hist_clear(&h);
        same(&h, &whole, &rng);
        size_t n = rng_below(&rng, round % 7 == 0 ? 20000 : 60);
        uint32_t hint = (uint32_t)rng_below(&rng, 3000); /* whatever it was */
        for (size_t i = 0; i < n; i++)
            record(&h, &whole, some_ns(&rng, round % 2 == 0), 1 + rng_below(&rng, 100), &hint);
        same(&h, &whole, &rng);
        sparse_hist_swap(&h, &other);
        same(&other, &whole, &rng);
        assert_true(sparse_hist_take(&h, &whole, 0, HIST_BUCKETS - 1));
        same(&h, &whole, &rng);
    }
    sparse_hist_fini(&h);
    sparse_hist_fini(&other);
}

static void every_bucket_has_room(void **state)
{
    (void)state;
    struct sparse_hist h = {.n = NULL};
    uint32_t hint = 0;
    for (uint32_t i = HIST_BUCKETS; i > 0; i--)
        *sparse_hist_at(&h, i - 1, &hint) += 1; /* downwards: each moves all others */
    assert_int_equal(h.used, HIST_BUCKETS);
    hint = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        assert_int_equal(*sparse_hist_at(&h, i, &hint), 1);
    assert_int_equal(h.used, HIST_BUCKETS);
    assert_true(h.room <= HIST_BUCKETS);
    sparse_hist_clear(&h);
    assert_int_equal(h.room, HIST_BUCKETS); /* it was all in use */
    sparse_hist_clear(&h);
    assert_int_equal(h.room, 0);            /* it was not */
    sparse_hist_fini(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sparse_histogram_answers_as_a_whole_one),
        cmocka_unit_test(every_bucket_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
