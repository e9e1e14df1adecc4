/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: rows that wait come out as they went in, memory stays in its bound, and what is dropped is
 * the oldest samples first, and counted.
 * Method: random rows in, compared on the way out; small bounds; damaged blobs. Seeds are printed
 * (WEIR_SEED). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "server/store/blob.h"
#include "server/store/pending.h"
#include "store_fixture.h"

static struct rng seeded(void)
{
    struct rng r;
    const char *given = getenv("WEIR_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : clock_mono_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&r, seed);
    return r;
}

static void random_name(struct rng *r, char name[NAME_SIZE])
{
    size_t n = rng_below(r, NAME_SIZE);
    memset(name, 'a' + (int)rng_below(r, 26), n);
    name[n] = '\0';
}

static void random_sample(struct rng *r, struct sample_record *s)
{
    memset(s, 0, sizeof(*s));
    s->wall_us = (int64_t)(rng_u64(r) >> 1);
    s->interval_ms = (uint32_t)rng_u64(r);
    random_name(r, s->gateway);
    random_name(r, s->host);
    random_name(r, s->volume);
    random_name(r, s->tenant);
    random_name(r, s->target);
    for (uint64_t *n = &s->read_ops; n <= &s->target_p99_us; n++)
        *n = rng_u64(r);
    s->inflight = (uint32_t)rng_u64(r);
    s->held_now = (uint32_t)rng_u64(r);
    uint32_t index = 0;
    for (uint32_t i = 0; i < rng_below(r, SAMPLE_MAX_BUCKETS + 1) && index < HIST_BUCKETS; i++) {
        s->bucket[s->bucket_count].index = (uint16_t)index;
        s->bucket[s->bucket_count++].count = (uint32_t)rng_u64(r);
        index += 1 + (uint32_t)rng_below(r, 40);
    }
}

static void a_sample_comes_out_as_it_went_in(void **state)
{
    (void)state;
    struct rng r = seeded();
    for (int i = 0; i < 2000; i++) {
        struct pending p;
        struct store_batch *b = store_batch_new(1, 0, 0, 0);
        struct sample_record out;
        memset(&out, 0, sizeof(out));
        random_sample(&r, &b->sample[0]);
        pending_init(&p, PENDING_MAX_BYTES, PENDING_MAX_ROWS);
        pending_add(&p, b);
        assert_int_equal(pending_rows(&p), 1);
        pending_sample(container_of(p.bulk.next, struct pending_row, link), &out);
        assert_memory_equal(&out, &b->sample[0], sizeof(out));
        pending_done_bulk(&p, 1);
        assert_int_equal(p.bytes, 0);
        pending_fini(&p);
        store_batch_free(b);
    }
}

static void the_default_bounds_hold_some_hundred_thousand_ordinary_samples(void **state)
{
    (void)state;
    struct pending p;
    struct store_batch *b = store_batch_new(1, 0, 0, 0);
    pending_init(&p, PENDING_MAX_BYTES, PENDING_MAX_ROWS);
    fixture_sample(&b->sample[0], "10.0.0.7", 1, 1000, 900);
    b->sample[0].bucket_count = 40;
    for (uint16_t i = 0; i < 40; i++) {
        b->sample[0].bucket[i].index = (uint16_t)(200 + i * 3);
        b->sample[0].bucket[i].count = 25;
    }
    while (p.dropped_bulk == 0)
        pending_add(&p, b);
    assert_true(pending_rows(&p) >= 150000);
    assert_true(pending_rows(&p) <= PENDING_MAX_ROWS);
    assert_true(p.bytes <= PENDING_MAX_BYTES);
    pending_fini(&p);
    store_batch_free(b);
}

static void the_oldest_samples_go_first_and_actions_last(void **state)
{
    (void)state;
    struct pending p;
    pending_init(&p, PENDING_MAX_BYTES, 100);
    struct store_batch *b = store_batch_new(90, 3, 2, 0);
    for (int i = 0; i < 90; i++)
        fixture_sample(&b->sample[i], "h", i, 1, 900);
    for (int i = 0; i < 3; i++)
        fixture_action(&b->action[i], (uint64_t)i + 1);
    for (int i = 0; i < 2; i++)
        fixture_event(&b->event[i], i, i);
    pending_add(&p, b);
    assert_int_equal(p.dropped_bulk, 0);
    store_batch_free(b);
    b = store_batch_new(20, 0, 0, 0);
    for (int i = 0; i < 20; i++)
        fixture_sample(&b->sample[i], "h", 1000 + i, 1, 900);
    pending_add(&p, b);
    store_batch_free(b);
    assert_int_equal(p.dropped_bulk, 15); /* 90 + 5 + 20 - 100 */
    struct sample_record s;
    pending_sample(container_of(p.bulk.next, struct pending_row, link), &s);
    assert_int_equal(s.wall_us, 15);
    b = store_batch_new(0, 0, 120, 0);
    for (int i = 0; i < 120; i++)
        fixture_event(&b->event[i], i, 100 + i);
    pending_add(&p, b);
    store_batch_free(b);
    assert_int_equal(p.bulk_rows, 0);
    assert_int_equal(p.dropped_bulk, 110);
    assert_int_equal(p.dropped_kept, 25);
    assert_int_equal(p.kept_rows, 100);
    assert_string_equal(pending_event(container_of(p.kept.next, struct pending_row, link))->text,
                        "event 120");
    pending_fini(&p);
}

static void bytes_are_bounded_too(void **state)
{
    (void)state;
    struct pending p;
    struct rng r = seeded();
    pending_init(&p, 20000, PENDING_MAX_ROWS);
    uint64_t given = 0;
    for (int i = 0; i < 500; i++) {
        struct store_batch *b =
            store_batch_new(rng_below(&r, 5), rng_below(&r, 2), rng_below(&r, 3), rng_below(&r, 2));
        for (size_t k = 0; k < b->sample_count; k++)
            random_sample(&r, &b->sample[k]);
        given += b->sample_count + b->action_count + b->event_count + b->health_count;
        pending_add(&p, b);
        assert_true(p.bytes <= 20000);
        assert_int_equal(given, pending_rows(&p) + p.dropped_bulk + p.dropped_kept);
        store_batch_free(b);
    }
    assert_true(p.dropped_bulk > 0);
    pending_fini(&p);
}

static void a_histogram_survives_its_blob(void **state)
{
    (void)state;
    struct rng r = seeded();
    struct hist *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
    uint8_t *blob = malloc(BLOB_MAX);
    for (int i = 0; i < 200; i++) {
        hist_clear(a);
        hist_clear(b);
        for (uint64_t n = rng_below(&r, 5000); n > 0; n--)
            hist_record(a, rng_below(&r, UINT64_C(1) << (1 + rng_below(&r, 38))));
        a->bucket[rng_below(&r, HIST_BUCKETS)] += (uint64_t)i << 40; /* large counts too */
        size_t n = blob_from_hist(a, blob);
        assert_true(n <= BLOB_MAX);
        assert_int_equal(blob_merge(b, blob, n), 0);
        assert_memory_equal(a->bucket, b->bucket, sizeof(a->bucket));
        assert_int_equal(blob_merge(b, blob, n), 0);
        for (size_t k = 0; k < HIST_BUCKETS; k++)
            assert_int_equal(b->bucket[k], 2 * a->bucket[k]);
    }
    for (size_t k = 0; k < HIST_BUCKETS; k++)
        a->bucket[k] = UINT64_MAX;
    assert_true(blob_from_hist(a, blob) <= BLOB_MAX);
    free(blob);
    free(a);
    free(b);
}

static void a_damaged_blob_is_refused_within_its_bytes(void **state)
{
    (void)state;
    struct rng r = seeded();
    struct hist *h = calloc(1, sizeof(*h));
    assert_int_equal(blob_merge(h, "", 0), WEIR_E_PARSE);
    assert_int_equal(blob_merge(h, "\x02\x01\x01", 3), WEIR_E_PARSE);
    assert_int_equal(blob_merge(h, "\x01\x01", 2), WEIR_E_PARSE);
    assert_int_equal(blob_merge(h, "\x01\xff\xff\xff\xff\x0f\x01", 7), WEIR_E_PARSE);
    assert_int_equal(blob_merge(h, "\x01\x05\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13),
                     WEIR_E_PARSE);
    assert_int_equal(blob_merge(h, "\x01", 1), 0);
    for (int i = 0; i < 20000; i++) {
        struct sample_record s;
        size_t n = 1 + rng_below(&r, 60);
        uint8_t *bytes = malloc(n); /* its own block, so that a read beyond it is seen */
        for (size_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)(rng_below(&r, 3) ? rng_below(&r, 4) : rng_u64(&r));
        bytes[0] = 1;
        int rc = blob_merge(h, bytes, n), rc2 = blob_to_sample(&s, bytes, n);
        assert_true(rc == 0 || rc == WEIR_E_PARSE);
        assert_true(rc2 == 0 || rc2 == WEIR_E_PARSE || rc2 == WEIR_E_TOO_LARGE);
        free(bytes);
    }
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sample_comes_out_as_it_went_in),
        cmocka_unit_test(the_default_bounds_hold_some_hundred_thousand_ordinary_samples),
        cmocka_unit_test(the_oldest_samples_go_first_and_actions_last),
        cmocka_unit_test(bytes_are_bounded_too),
        cmocka_unit_test(a_histogram_survives_its_blob),
        cmocka_unit_test(a_damaged_blob_is_refused_within_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
