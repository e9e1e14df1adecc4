/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: nothing planned leaves against a policy. Method: each rule alone, then random sets of
 * policies against the three promises of a ruling: never up, never below floor or entitlement,
 * never deeper than the largest cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "server/services/policy.h"

/* 2026-11-23 is a Monday. */
#define MONDAY INT64_C(1795392000000000)
#define HOUR INT64_C(3600000000)

static struct proposal proposal(double from, double to)
{
    return (struct proposal){.tenant = "acme",
                             .host = "10.0.0.9",
                             .volume = "batch",
                             .target = "array1",
                             .from_iops = from,
                             .to_iops = to};
}

static struct ruling rule(const struct policy *p, size_t n, struct proposal q, int64_t wall_us)
{
    struct ruling r;
    policy_check(p, n, true, false, &q, wall_us, &r);
    return r;
}

static void without_policies_a_cut_is_sent_and_bounded_by_half(void **state)
{
    (void)state;
    struct ruling r = rule(NULL, 0, proposal(8000, 6400), MONDAY);
    assert_true(r.allowed);
    assert_int_equal(r.decision, DECISION_SENT);
    assert_true(r.to_iops == 6400);
    r = rule(NULL, 0, proposal(8000, 100), MONDAY);
    assert_true(r.allowed && r.to_iops == 4000);
}

static void a_stream_with_a_contract_is_cut_by_a_fifth_at_most(void **state)
{
    (void)state;
    struct proposal p = proposal(1000, 10);
    p.contract = true;
    struct ruling r = rule(NULL, 0, p, MONDAY);
    assert_true(r.allowed && r.to_iops == 800);
}

static void nobody_is_cut_below_the_built_in_floor_or_its_own_reservation(void **state)
{
    (void)state;
    struct ruling r = rule(NULL, 0, proposal(60, 30), MONDAY);
    assert_true(r.allowed && r.to_iops == POLICY_FLOOR_IOPS);
    assert_int_equal(r.decision, DECISION_FLOOR);
    r = rule(NULL, 0, proposal(40, 20), MONDAY);
    assert_false(r.allowed);
    struct proposal p = proposal(1000, 500);
    p.entitled_iops = 900;
    r = rule(NULL, 0, p, MONDAY);
    assert_true(r.allowed && r.to_iops == 900);
}

static void a_protected_stream_is_never_cut_and_the_rule_is_named(void **state)
{
    (void)state;
    struct policy p[2] = {{.name = "lenient"}, {.name = "keep-batch", .protect = true}};
    snprintf(p[1].applies_to.volume, NAME_SIZE, "bat*");
    struct ruling r = rule(p, 2, proposal(8000, 4000), MONDAY);
    assert_false(r.allowed);
    assert_int_equal(r.decision, DECISION_PROTECTED);
    assert_string_equal(r.policy->name, "keep-batch");
    snprintf(p[1].applies_to.volume, NAME_SIZE, "other");
    assert_true(rule(p, 2, proposal(8000, 4000), MONDAY).allowed);
}

static void observe_stops_what_it_would_have_sent_and_keeps_the_rate(void **state)
{
    (void)state;
    struct proposal q = proposal(8000, 6000);
    struct ruling r;
    policy_check(NULL, 0, true, true, &q, MONDAY, &r);
    assert_false(r.allowed);
    assert_int_equal(r.decision, DECISION_OBSERVE);
    assert_true(r.to_iops == 6000);
    policy_check(NULL, 0, false, true, &q, MONDAY, &r);
    assert_int_equal(r.decision, DECISION_ENFORCEMENT_OFF);
}

static void enforce_lifts_the_servers_observe_mode_but_no_policys(void **state)
{
    (void)state;
    struct policy p[2] = {{.name = "go", .enforce = true}, {.name = "look", .observe = true}};
    snprintf(p[0].applies_to.target, NAME_SIZE, "array1");
    struct proposal here = {.tenant = "", .host = "h", .volume = "v", .target = "array1",
                            .from_iops = 1000, .to_iops = 800};
    struct proposal there = here;
    there.target = "array2";
    struct ruling r;
    policy_check(p, 1, true, true, &here, 0, &r);
    assert_true(r.allowed);
    policy_check(p, 1, true, true, &there, 0, &r);
    assert_false(r.allowed);
    assert_int_equal(r.decision, DECISION_OBSERVE);
    policy_check(p, 2, true, true, &here, 0, &r);
    assert_false(r.allowed);
    assert_string_equal(r.policy->name, "look");
    policy_check(p, 1, false, true, &here, 0, &r);
    assert_int_equal(r.decision, DECISION_ENFORCEMENT_OFF);
}

static void a_freeze_window_stops_new_cuts_on_its_days_and_hours_only(void **state)
{
    (void)state;
    struct policy p = {.name = "office", .freeze_count = 1};
    p.freeze[0].day_mask = 1; /* Monday */
    p.freeze[0].from_min = 8 * 60;
    p.freeze[0].to_min = 18 * 60;
    assert_int_equal(rule(&p, 1, proposal(800, 600), MONDAY + 8 * HOUR).decision, DECISION_FROZEN);
    assert_true(rule(&p, 1, proposal(800, 600), MONDAY + 8 * HOUR - 1).allowed);
    assert_true(rule(&p, 1, proposal(800, 600), MONDAY + 18 * HOUR).allowed);
    assert_true(rule(&p, 1, proposal(800, 600), MONDAY + 33 * HOUR).allowed);
}

static void a_freeze_past_midnight_belongs_to_the_day_it_starts(void **state)
{
    (void)state;
    struct policy p = {.name = "night", .freeze_count = 1};
    p.freeze[0].day_mask = 1;
    p.freeze[0].from_min = 22 * 60;
    p.freeze[0].to_min = 6 * 60;
    assert_true(policy_frozen(&p, MONDAY + 23 * HOUR));
    assert_true(policy_frozen(&p, MONDAY + 29 * HOUR));
    assert_false(policy_frozen(&p, MONDAY + 5 * HOUR));
    assert_false(policy_frozen(&p, MONDAY + 30 * HOUR));
}

static void a_time_before_1970_is_no_trap(void **state)
{
    (void)state;
    struct policy p = {.name = "wednesday", .freeze_count = 1};
    p.freeze[0].day_mask = 4; /* 1969-12-31 was a Wednesday */
    p.freeze[0].from_min = 23 * 60;
    p.freeze[0].to_min = 24 * 60;
    assert_true(policy_frozen(&p, -1));
    assert_false(policy_frozen(&p, -2 * HOUR));
}

static struct policy random_policy(struct rng *r)
{
    struct policy p = {.name = "p"};
    if (rng_below(r, 2))
        snprintf(p.applies_to.volume, NAME_SIZE, "%s", rng_below(r, 2) ? "batch" : "db");
    p.floor_iops = rng_below(r, 3) == 0 ? rng_below(r, 5000) : 0;
    p.max_cut_ppm = rng_below(r, 3) == 0 ? (uint32_t)rng_below(r, 1000001) : 0;
    p.protect = rng_below(r, 8) == 0;
    p.observe = rng_below(r, 8) == 0;
    return p;
}

static void no_set_of_policies_breaks_the_promises_of_a_ruling(void **state)
{
    (void)state;
    const uint64_t seed = 20261123;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng;
    rng_seed(&rng, seed);
    for (int i = 0; i < 20000; i++) {
        struct policy p[6];
        size_t n = rng_below(&rng, 7);
        double floor = 0, cut = 1.0;
        bool any_cut = false, forbidden = false;
        for (size_t k = 0; k < n; k++) {
            p[k] = random_policy(&rng);
            if (strcmp(p[k].applies_to.volume, "db") == 0)
                continue;
            floor = (double)p[k].floor_iops > floor ? (double)p[k].floor_iops : floor;
            if (p[k].max_cut_ppm != 0 && (double)p[k].max_cut_ppm / 1e6 < cut)
                cut = (double)p[k].max_cut_ppm / 1e6;
            any_cut = any_cut || p[k].max_cut_ppm != 0;
            forbidden = forbidden || p[k].protect || p[k].observe;
        }
        double from = 1.0 + (double)rng_below(&rng, 20000);
        struct proposal q = proposal(from, from * rng_unit(&rng));
        q.entitled_iops = (double)rng_below(&rng, 2000);
        struct ruling r = rule(p, n, q, MONDAY);
        floor = floor > 0 ? floor : POLICY_FLOOR_IOPS;
        floor = q.entitled_iops > floor ? q.entitled_iops : floor;
        cut = any_cut ? cut : 0.5;
        assert_true(r.to_iops <= from);
        assert_true(r.to_iops >= from * (1 - cut) - 1e-6);
        assert_true(r.to_iops >= floor - 1e-6 || r.to_iops == from);
        assert_true(!(forbidden && r.allowed));
        assert_true(!r.allowed || r.to_iops <= from - 1.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_policies_a_cut_is_sent_and_bounded_by_half),
        cmocka_unit_test(a_stream_with_a_contract_is_cut_by_a_fifth_at_most),
        cmocka_unit_test(nobody_is_cut_below_the_built_in_floor_or_its_own_reservation),
        cmocka_unit_test(a_protected_stream_is_never_cut_and_the_rule_is_named),
        cmocka_unit_test(observe_stops_what_it_would_have_sent_and_keeps_the_rate),
        cmocka_unit_test(enforce_lifts_the_servers_observe_mode_but_no_policys),
        cmocka_unit_test(a_freeze_window_stops_new_cuts_on_its_days_and_hours_only),
        cmocka_unit_test(a_freeze_past_midnight_belongs_to_the_day_it_starts),
        cmocka_unit_test(a_time_before_1970_is_no_trap),
        cmocka_unit_test(no_set_of_policies_breaks_the_promises_of_a_ruling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
