/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: reservations that each fit through a limit are refused exactly when, at some minute of the
 * week, all that surely lie within it exceed it; with every name and number, whatever their order.
 * Method: cases worked out by hand; then random sets with schedules, against adding up at every
 * minute. */
#include "server/services/agreement_sum.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

#define WEEK_MIN 10080

static struct agreement agreement(const char *name, const char *host, const char *volume,
                                  uint64_t iops)
{
    struct agreement a = {.weight = 100, .reservation_iops = iops};
    strcpy(a.name, name);
    strcpy(a.applies_to.host, host);
    strcpy(a.applies_to.volume, volume);
    return a;
}

static struct tenant acme(uint64_t iops)
{
    struct tenant t = {.member_count = 1};
    strcpy(t.name, "acme");
    strcpy(t.member[0].volume, "db-*");
    t.limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return t;
}

static void reservations_above_a_tenants_limit_are_told_with_names_and_numbers(void **state)
{
    (void)state;
    struct agreement gold = agreement("gold", "", "db-1", 600);
    struct agreement silver = agreement("silver", "", "db-2", 400);
    struct agreement other = agreement("other", "", "web", 5000); /* another tenant's */
    struct agreement none = agreement("none", "", "db-3", 0);
    const struct agreement *all[] = {&silver, &other, &none, &gold}, *turned[] = {&gold, &none,
                                                                               &silver, &other};
    struct tenant t = acme(1000);
    struct text words, again;
    text_init(&words, 4096);
    text_init(&again, 4096);
    assert_false(agreement_sum_beyond_tenant(&t, all, 4, &words));
    assert_int_equal(words.len, 0);
    silver.reservation_iops = 401;
    assert_true(agreement_sum_beyond_tenant(&t, all, 4, &words));
    assert_string_equal(words.data,
                        "2 agreements together reserve 1001 I/Os a second, and tenant acme, which "
                        "covers all their streams, lets 1000 through: raise that limit or lower a "
                        "reservation\n"
                        "agreement gold reserves 600 I/Os a second\n"
                        "agreement silver reserves 401 I/Os a second\n");
    assert_true(agreement_sum_beyond_tenant(&t, turned, 4, &again));
    assert_string_equal(words.data, again.data);
    t.limits.rate[GATE_IOPS_TOTAL].rate = 0;
    assert_false(agreement_sum_beyond_tenant(&t, all, 4, &again));
    text_fini(&words);
    text_fini(&again);
}

static void a_wide_agreement_counts_its_own_reservation_and_those_within(void **state)
{
    (void)state;
    struct agreement wide = agreement("wide", "", "db", 500);
    struct agreement a = agreement("a", "10.0.0.1", "db", 300);
    struct agreement b = agreement("b", "10.0.0.2", "db", 200);
    const struct agreement *all[] = {&wide, &a, &b};
    struct text words;
    text_init(&words, 4096);
    wide.limits.rate[GATE_IOPS_TOTAL].rate = 1000;
    assert_false(agreement_sum_beyond(&wide, all, 3, &words));
    b.reservation_read_iops = b.reservation_write_iops = 101; /* together more than the total */
    assert_true(agreement_sum_beyond(&wide, all, 3, &words));
    assert_non_null(strstr(words.data, "reserve 1002 I/Os"));
    assert_non_null(strstr(words.data, "agreement b reserves 202 "));
    assert_non_null(strstr(words.data, "agreement wide reserves 500 "));
    strcpy(b.applies_to.volume, "d*"); /* other volumes too */
    assert_false(agreement_sum_beyond(&wide, all, 3, &words));
    strcpy(b.applies_to.volume, "db");
    wide.per = AGREEMENT_PER_STREAM; /* each stream has one promise */
    assert_false(agreement_sum_beyond(&wide, all, 3, &words));
    /* One alone is told of by another rule. */
    wide.per = AGREEMENT_PER_GROUP;
    wide.reservation_iops = a.reservation_iops = 0;
    b.reservation_iops = 2000;
    assert_false(agreement_sum_beyond(&wide, all, 3, &words));
    text_fini(&words);
}

static void some_schedule(struct rng *rng, struct agreement *a)
{
    a->schedule_count = rng_below(rng, 3);
    for (size_t i = 0; i < a->schedule_count; i++)
        a->schedule[i] = (struct week_window){.day_mask = (int32_t)(1 + rng_below(rng, 127)),
                                              .from_min = (uint32_t)rng_below(rng, 1440),
                                              .to_min = (uint32_t)rng_below(rng, 1441)};
}

static bool is_open(const struct agreement *a, int minute)
{
    return a->schedule_count == 0 ||
           week_open(a->schedule, a->schedule_count, minute * INT64_C(60000000));
}

static bool ever_beyond(const struct agreement *all, size_t n, uint64_t most)
{
    for (int minute = 0; minute < WEEK_MIN; minute++) {
        uint64_t sum = 0;
        size_t some = 0;
        for (size_t i = 0; i < n; i++) {
            bool counts = is_open(&all[i], minute) && all[i].reservation_write_bytes_s > 0;
            sum += counts ? all[i].reservation_write_bytes_s : 0;
            some += counts;
        }
        if (is_open(&all[0], minute) && some > 1 && sum > most)
            return true;
    }
    return false;
}

static void random_schedules_agree_with_adding_up_at_every_minute(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, 20261126);
    unsigned found = 0;
    for (int round = 0; round < 150; round++) {
        struct agreement all[5];
        const struct agreement *ptr[5];
        struct text words;
        text_init(&words, 4096);
        for (size_t i = 0; i < 5; i++) {
            char name[8], host[16];
            snprintf(name, sizeof(name), "a%zu", i);
            snprintf(host, sizeof(host), "10.0.0.%zu", i);
            all[i] = agreement(name, i == 0 ? "" : host, "db", 0);
            all[i].reservation_write_bytes_s = rng_below(&rng, 4) * 100;
            some_schedule(&rng, &all[i]);
            ptr[i] = &all[i];
        }
        uint64_t most = 1 + rng_below(&rng, 800);
        all[0].limits.rate[GATE_BYTES_WRITE].rate = most;
        bool beyond = ever_beyond(all, 5, most);
        found += beyond;
        assert_int_equal(agreement_sum_beyond(&all[0], ptr, 5, &words), beyond);
        assert_int_equal(words.len > 0, beyond);
        text_fini(&words);
    }
    assert_in_range(found, 20, 130); /* both happen often */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reservations_above_a_tenants_limit_are_told_with_names_and_numbers),
        cmocka_unit_test(a_wide_agreement_counts_its_own_reservation_and_those_within),
        cmocka_unit_test(random_schedules_agree_with_adding_up_at_every_minute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
