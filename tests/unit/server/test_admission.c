/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a reservation that does not fit is found out, with what the storage can do, who holds what
 * and what would fit; where nothing is known nothing is refused.
 * Method: the world of world.h, two gateways before one device whose gateways say what it can do;
 * its I/Os take 100 us, so that one at once is 10,000 a second. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "world.h"

static struct world *w;
static struct admission found;

static int begin(void **state)
{
    (void)state;
    w = calloc(1, sizeof(*w));
    world_init(w, 5, false);
    world_add_gateway(w, "gw1", 0);
    world_add_gateway(w, "gw2", 0);
    world_gateway_up(w, 0, true);
    world_gateway_up(w, 1, true);
    w->parallelism_milli = 1000;
    return 0;
}

static int end(void **state)
{
    (void)state;
    world_fini(w);
    free(w);
    return 0;
}

static struct agreement reserving(const char *name, const char *volume, uint64_t iops)
{
    struct agreement a = {.weight = AGREEMENT_WEIGHT, .version = 1, .reservation_iops = iops,
                          .compliance_window_ns = 10 * S};
    snprintf(a.name, NAME_SIZE, "%s", name);
    snprintf(a.applies_to.volume, NAME_SIZE, "%s", volume);
    return a;
}

static void put(const struct agreement *a)
{
    char why[512];
    if (services_agreement_put(w->services, a, w->now, world_wall(w), why, sizeof(why)) != 0)
        fail_msg("%s", why);
}

static const struct admission *ask(const struct agreement *a)
{
    services_admission(w->services, a, &found, w->now, world_wall(w));
    return &found;
}

static void stream(int gateway, const char *volume)
{
    int st = world_add_stream(w, gateway, "10.0.0.1", volume);
    world_open_loop(w, st, 100);
}

static void what_fits_is_granted_and_what_does_not_is_refused_with_the_numbers(void **state)
{
    (void)state;
    stream(0, "db");
    stream(1, "batch");
    world_run(w, 4);
    struct agreement gold = reserving("gold", "db", 6000);
    assert_int_equal(ask(&gold)->refused, 0);
    assert_int_equal(found.count, 1);
    put(&gold);
    world_run(w, 3);
    struct agreement more = reserving("more", "batch", 3000);
    const struct admission_target *t = &ask(&more)->target[0];
    assert_int_equal(found.refused, 1);
    assert_false(t->fits);
    assert_string_equal(t->name, "array1");
    assert_true(fabs(t->capacity - 1.0) < 0.001);
    assert_true(fabs(t->held - 0.6) < 0.05);
    assert_true(fabs(t->asked - 0.3) < 0.05);
    assert_int_equal(t->asked_iops, 3000);
    assert_in_range(t->largest_iops, 2000, 2900); /* 0.85 - 0.6 of 10,000 */
    assert_int_equal(t->holder_count, 1);
    assert_string_equal(t->holder[0].agreement, "gold");
    /* What it says would fit does; a little more does not. */
    more.reservation_iops = t->largest_iops;
    uint64_t largest = t->largest_iops;
    assert_int_equal(ask(&more)->refused, 0);
    more.reservation_iops = largest + largest / 50;
    assert_int_equal(ask(&more)->refused, 1);
}

static void latency_and_bytes_reserve_too(void **state)
{
    (void)state;
    stream(0, "db");
    world_run(w, 4);
    struct agreement a = reserving("gold", "db", 0);
    a.objective[0] = (struct objective){990000, 5000, 9000}; /* 9,900 with its margin */
    a.objective_count = 1;
    assert_int_equal(ask(&a)->refused, 1);
    a.objective[0].while_iops = 5000;
    assert_int_equal(ask(&a)->refused, 0);
    a.objective_count = 0;
    a.reservation_bytes_s = UINT64_C(4096) * 9000;
    assert_int_equal(ask(&a)->refused, 1);
    a.reservation_bytes_s = UINT64_C(4096) * 5000;
    assert_int_equal(ask(&a)->refused, 0);
}

static void a_group_over_two_gateways_asks_once_and_each_of_many_streams_for_itself(void **state)
{
    (void)state;
    stream(0, "db1");
    stream(1, "db2");
    world_run(w, 4);
    struct agreement a = reserving("gold", "db*", 6000);
    assert_int_equal(ask(&a)->refused, 0);
    assert_int_equal(found.target[0].asked_iops, 6000);
    a.per = AGREEMENT_PER_STREAM;
    assert_int_equal(ask(&a)->refused, 1);
    assert_int_equal(found.target[0].asked_iops, 12000);
}

static void nothing_is_refused_where_nothing_is_known(void **state)
{
    (void)state;
    struct agreement a = reserving("gold", "db", 900000);
    assert_int_equal(ask(&a)->refused, 0); /* no stream of it anywhere */
    assert_int_equal(found.count, 0);
    w->parallelism_milli = 0;
    stream(0, "db");
    world_run(w, 4);
    assert_int_equal(ask(&a)->refused, 0);
    assert_int_equal(found.count, 1);
    assert_true(found.target[0].capacity == 0);
}

static void an_agreement_that_asks_no_more_may_change_while_it_does_not_fit(void **state)
{
    (void)state;
    stream(0, "db");
    world_run(w, 4);
    struct agreement a = reserving("gold", "db", 20000);
    assert_int_equal(ask(&a)->refused, 1);
    services_admission_say(w->services, &a, &found, NULL);
    assert_int_equal(world_count_events(w, "agreement-refused"), 1);
    services_admission_say(w->services, &a, &found, "alice");
    assert_int_equal(world_count_events(w, "agreement-forced"), 1);
    assert_non_null(strstr(w->event[w->events - 1].text, "alice"));
    put(&a);
    world_run(w, 3);
    a.version = 2;
    a.weight = 300;
    assert_int_equal(ask(&a)->refused, 0);
    a.reservation_iops = 21000;
    assert_int_equal(ask(&a)->refused, 1);
}

static void streams_that_change_hands_no_longer_count_for_who_had_them(void **state)
{
    (void)state;
    stream(0, "db1");
    stream(1, "db2");
    world_run(w, 4);
    struct agreement each = reserving("each", "db*", 4000);
    each.per = AGREEMENT_PER_STREAM;
    put(&each);
    world_run(w, 3);
    struct agreement one = reserving("one", "db1", 4000); /* of one of the two, by host as well */
    snprintf(one.applies_to.host, NAME_SIZE, "*");
    assert_int_equal(ask(&one)->refused, 0);
    assert_true(fabs(found.target[0].held - 0.4) < 0.05);
}

#define WITH(a_test_name) cmocka_unit_test_setup_teardown(a_test_name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(what_fits_is_granted_and_what_does_not_is_refused_with_the_numbers),
        WITH(latency_and_bytes_reserve_too),
        WITH(a_group_over_two_gateways_asks_once_and_each_of_many_streams_for_itself),
        WITH(nothing_is_refused_where_nothing_is_known),
        WITH(an_agreement_that_asks_no_more_may_change_while_it_does_not_fit),
        WITH(streams_that_change_hands_no_longer_count_for_who_had_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
