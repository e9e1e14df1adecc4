/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what is said, or done, only after some periods in a row counts periods, however many looks
 * warnings bring in each; and who schedules is given time to.
 * Method: a victim and a bully before a device that gets slow, and a warning each 40 ms, each of
 * which is a look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "world.h"

#define DB "10.0.0.1/db"
#define BATCH "10.0.0.2/batch"
#define WARNING_NS (40 * MS)

struct patience {
    struct world w;
    int gateway, victim, bully;
};

static struct patience *patience_new(uint64_t window_milli)
{
    struct patience *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    world_init(&t->w, 5, false);
    t->w.window_milli = window_milli;
    world_agree(&t->w, "gold", "db", 8000, 1500);
    t->gateway = world_add_gateway(&t->w, "gw1", 0);
    t->victim = world_add_stream(&t->w, t->gateway, "10.0.0.1", "db");
    t->bully = world_add_stream(&t->w, t->gateway, "10.0.0.2", "batch");
    world_gateway_up(&t->w, t->gateway, true);
    world_open_loop(&t->w, t->victim, 1000);
    return t;
}

static void patience_free(struct patience *t)
{
    world_fini(&t->w);
    free(t);
}

static enum verdict verdict(const struct patience *t)
{
    const struct entity_stream *e = world_entity(&t->w, t->victim);
    return e != NULL ? e->verdict : VERDICT_NONE;
}

static void warned(struct patience *t, uint64_t ns)
{
    for (uint64_t at = 0; at < ns; at += WARNING_NS) {
        services_surge(t->w.services, t->w.gateway[t->gateway].hello.session, t->w.now,
                       world_wall(&t->w));
        world_run_ns(&t->w, WARNING_NS);
        services_tick(t->w.services, t->w.now, world_wall(&t->w)); /* as after each message */
    }
}

/* Until the verdict is @v; when that was. */
static uint64_t until(struct patience *t, enum verdict v)
{
    for (int i = 0; verdict(t) != v; i++) {
        assert_true(i < 500);
        warned(t, WARNING_NS);
    }
    return t->w.now;
}

static void until_time(struct patience *t, uint64_t at)
{
    if (t->w.now < at)
        warned(t, at - t->w.now);
}

/* The first cut is more than so many periods after @from, and no more than a few above. */
static void assert_cut_after(struct patience *t, uint64_t from, uint64_t periods)
{
    until_time(t, from + periods * S - S / 2);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 0);
    until_time(t, from + (periods + 4) * S);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 1);
}

static void a_violation_is_said_after_two_periods_and_taken_back_after_five(void **state)
{
    (void)state;
    struct patience *t = patience_new(0);
    world_run(&t->w, 5);
    t->w.device[0].fixed_ns = 20e6;
    uint64_t failed = until(t, VERDICT_FAILING), polls = t->w.gateway[t->gateway].polls;
    until_time(t, failed + 700 * MS);
    assert_int_equal(verdict(t), VERDICT_FAILING);
    assert_true(t->w.gateway[t->gateway].polls >= polls + 5); /* so many looks */
    assert_int_equal(world_count_events(&t->w, "agreement-violated"), 0);
    until_time(t, failed + 3 * S);
    assert_int_equal(world_count_events(&t->w, "agreement-violated"), 1);
    t->w.device[0].fixed_ns = 1e6;
    uint64_t met = until(t, VERDICT_MET);
    until_time(t, met + 3 * S);
    assert_int_equal(world_count_events(&t->w, "agreement-restored"), 0);
    until_time(t, met + 8 * S);
    assert_int_equal(world_count_events(&t->w, "agreement-restored"), 1);
    patience_free(t);
}

static void where_gateways_schedule_nobody_is_cut_for_three_periods(void **state)
{
    (void)state;
    struct patience *t = patience_new(32000);
    world_run(&t->w, 8);
    assert_int_equal(verdict(t), VERDICT_MET);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    assert_cut_after(t, until(t, VERDICT_FAILING), 3);
    patience_free(t);
}

static void where_no_gateway_schedules_a_bully_is_cut_at_once(void **state)
{
    (void)state;
    struct patience *t = patience_new(0);
    world_run(&t->w, 8);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    uint64_t failed = until(t, VERDICT_FAILING);
    until_time(t, failed + S);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 1);
    patience_free(t);
}

/* A gateway that came has no window yet: its first plan is on its way. */
static void a_gateway_is_given_three_periods_to_begin_to_schedule(void **state)
{
    (void)state;
    struct patience *t = patience_new(0);
    uint64_t began = t->w.now;
    world_closed_loop(&t->w, t->bully, 128, 16384);
    uint64_t failed = until(t, VERDICT_FAILING);
    assert_true(failed - began < S); /* the plan of its first whole answer was just before */
    until_time(t, failed + 3 * S);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 0);
    until_time(t, failed + 7 * S);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 1);
    patience_free(t);
}

/* Another boot schedules nothing again, and its plan is anew. */
static void one_that_boots_anew_is_given_that_time_again(void **state)
{
    (void)state;
    struct patience *t = patience_new(0);
    world_run(&t->w, 10);
    assert_int_equal(verdict(t), VERDICT_MET);
    world_gateway_down(&t->w, t->gateway);
    world_gateway_up(&t->w, t->gateway, true);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    uint64_t failed = until(t, VERDICT_FAILING);
    until_time(t, failed + S);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 0);
    until_time(t, failed + 6 * S);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), 1);
    patience_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_violation_is_said_after_two_periods_and_taken_back_after_five),
        cmocka_unit_test(where_gateways_schedule_nobody_is_cut_for_three_periods),
        cmocka_unit_test(where_no_gateway_schedules_a_bully_is_cut_at_once),
        cmocka_unit_test(a_gateway_is_given_three_periods_to_begin_to_schedule),
        cmocka_unit_test(one_that_boots_anew_is_given_that_time_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
