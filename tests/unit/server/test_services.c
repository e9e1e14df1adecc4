/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: promises are kept in a whole, small world. Method: devices with queues, a victim with an
 * agreement and bullies, on a virtual clock and a seeded random source; what hosts saw is compared
 * with what was promised. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "server/services/explain.h"
#include "server/services/policy.h"
#include "world.h"

#define OBJECTIVE_US 8000u
#define PROMISED 1500u
#define DB "10.0.0.1/db"
#define BATCH "10.0.0.2/batch"

struct story {
    struct world w;
    int gateway, victim, bully;
};

static void story_begin(struct story *t, uint64_t seed, bool observe)
{
    print_message("seed %llu\n", (unsigned long long)seed);
    world_init(&t->w, seed, observe);
    world_agree(&t->w, "gold", "db", OBJECTIVE_US, PROMISED);
    t->gateway = world_add_gateway(&t->w, "gw1", 0);
    t->victim = world_add_stream(&t->w, t->gateway, "10.0.0.1", "db");
    t->bully = world_add_stream(&t->w, t->gateway, "10.0.0.2", "batch");
    world_gateway_up(&t->w, t->gateway, true);
    world_open_loop(&t->w, t->victim, 1000);
    world_run(&t->w, 5);
}

static struct story *story_new(uint64_t seed, bool observe)
{
    struct story *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    story_begin(t, seed, observe);
    return t;
}

static void story_free(struct story *t)
{
    world_fini(&t->w);
    free(t);
}

static enum verdict verdict_of(const struct story *t, int stream)
{
    const struct entity_stream *e = world_entity(&t->w, stream);
    assert_non_null(e);
    return e->verdict;
}

/* Periods until the victim's p99 is inside, at most @max. */
static int periods_to_recover(struct story *t, int max)
{
    for (int i = 1; i <= max; i++) {
        world_truth_clear(&t->w);
        world_run(&t->w, 1);
        if (world_p99_us(&t->w, t->victim) <= OBJECTIVE_US)
            return i;
    }
    return max + 1;
}

static void a_victim_alone_is_met_and_nobody_is_throttled(void **state)
{
    (void)state;
    struct story *t = story_new(11, false);
    world_run(&t->w, 10);
    assert_int_equal(verdict_of(t, t->victim), VERDICT_MET);
    assert_int_equal(t->w.actions, 0);
    const struct entities *e = services_entities(t->w.services);
    const struct entity_agreement *a =
        container_of(e->agreements.next, struct entity_agreement, link);
    assert_true(a->windows >= 1);
    assert_int_equal(a->windows, a->windows_met);
    story_free(t);
}

static void a_bully_is_found_cut_and_the_promise_is_kept_again(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct story *t = story_new(seed, false);
        world_closed_loop(&t->w, t->bully, 128, 16384);
        world_run_ns(&t->w, S);
        assert_true(periods_to_recover(t, 6) <= 6);
        assert_true(world_count_actions(&t->w, BATCH, "throttle", true) == 1);
        assert_int_equal(world_count_actions(&t->w, DB, "", true), 0);
        const struct action_record *a = &t->w.action[0];
        assert_string_equal(a->victim, DB);
        assert_string_equal(a->agreement, "gold");
        assert_true(a->victim_latency_us > OBJECTIVE_US && a->harm_share_ppm > 500000);
        assert_non_null(strstr(a->reason, "throttled " BATCH " from "));
        assert_non_null(strstr(a->reason, "against 8 ms"));
        story_free(t);
    }
}

static void after_it_is_cut_the_bully_gets_most_and_the_victim_stays_inside(void **state)
{
    (void)state;
    int bad = 0, periods = 0;
    uint64_t bully_ios = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct story *t = story_new(seed, false);
        world_closed_loop(&t->w, t->bully, 128, 16384);
        world_run(&t->w, 40);
        for (int i = 0; i < 100; i++, periods++) {
            world_truth_clear(&t->w);
            world_run(&t->w, 1);
            bad += world_p99_us(&t->w, t->victim) > OBJECTIVE_US;
            bully_ios += world_ios(&t->w, t->bully);
        }
        story_free(t);
    }
    print_message("outside in %d of %d periods; the bully did %llu of about 7000\n", bad, periods,
                  (unsigned long long)(bully_ios / (uint64_t)periods));
    assert_true(bad * 20 <= periods);
    assert_true(bully_ios / (uint64_t)periods >= 5000);
}

static void a_long_overload_that_may_be_controlled_at_last_never_comes_back(void **state)
{
    (void)state;
    for (uint64_t seed = 21; seed <= 24; seed++) {
        struct story *t = story_new(seed, false);
        services_enforcement(t->w.services, false, t->w.now, world_wall(&t->w));
        world_closed_loop(&t->w, t->bully, 128, 16384);
        world_run(&t->w, 10);
        assert_int_equal(verdict_of(t, t->victim), VERDICT_FAILING);
        services_enforcement(t->w.services, true, t->w.now, world_wall(&t->w));
        world_run(&t->w, 5);
        world_truth_clear(&t->w);
        world_run(&t->w, 20);
        assert_true(world_p99_us(&t->w, t->victim) <= OBJECTIVE_US);
        assert_true(world_ios(&t->w, t->bully) / 20 > 4000);
        story_free(t);
    }
}

static void when_the_bully_ends_its_throttle_is_lifted(void **state)
{
    (void)state;
    struct story *t = story_new(3, false);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 10);
    assert_true(t->w.stream[t->bully].limited);
    world_stop(&t->w, t->bully);
    world_run(&t->w, 15);
    assert_false(t->w.stream[t->bully].limited);
    assert_int_equal(world_count_actions(&t->w, BATCH, "lift", true), 1);
    const struct entity_stream *e = world_entity(&t->w, t->bully);
    assert_false(e->throttle.active);
    assert_true(e->throttle.applied_iops == UINT64_MAX);
    story_free(t);
}

static void when_the_victim_goes_the_throttle_is_lifted(void **state)
{
    (void)state;
    struct story *t = story_new(4, false);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 10);
    assert_true(t->w.stream[t->bully].limited);
    world_stop(&t->w, t->victim);
    world_run(&t->w, 12);
    assert_false(t->w.stream[t->bully].limited);
    assert_int_equal(verdict_of(t, t->victim), VERDICT_IDLE);
    story_free(t);
}

/* The sentence of what holds for @stream now that begins like this; NULL: there is none. */
static const char *explained(const struct story *t, int stream, const char *begin,
                             char line[EXPLAIN_SENTENCES][EXPLAIN_SIZE])
{
    size_t n =
        explain_stream(services_entities(t->w.services), world_entity(&t->w, stream), line);
    for (size_t i = 0; i < n; i++)
        if (strncmp(line[i], begin, strlen(begin)) == 0)
            return line[i];
    return NULL;
}

static void observe_mode_sends_nothing_planned_and_says_what_it_would_do_once(void **state)
{
    (void)state;
    struct story *t = story_new(5, true);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 30);
    assert_int_equal(t->w.planned_controls, 0);
    assert_int_equal(verdict_of(t, t->victim), VERDICT_FAILING);
    assert_int_equal(world_count_actions(&t->w, BATCH, "", true), 0);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", false), 1);
    assert_string_equal(t->w.action[0].decision, "observe");
    assert_true(world_entity(&t->w, t->bully)->harm_ppm > 500000);
    char line[EXPLAIN_SENTENCES][EXPLAIN_SIZE], end[96];
    double from, to;
    const char *said = explained(t, t->bully, "A throttle", line);
    assert_non_null(said);
    assert_int_equal(sscanf(said, "A throttle from %lf to %lf IOPS for", &from, &to), 2);
    assert_true(to >= from / 2 && to < from && from < 20000); /* a half is the deepest cut */
    snprintf(end, sizeof(end), "for the sake of " DB " was wanted and did not leave: observe.");
    assert_non_null(strstr(said, end));
    assert_null(explained(t, t->victim, "A throttle", line));
    story_free(t);
}

static void a_policy_that_protects_lifts_at_once_and_stops_every_later_cut(void **state)
{
    (void)state;
    struct story *t = story_new(6, false);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 5);
    assert_true(t->w.stream[t->bully].limited);
    struct policy p = {.name = "keep-batch", .protect = true};
    snprintf(p.applies_to.volume, NAME_SIZE, "batch");
    services_policy_put(t->w.services, &p, t->w.now, world_wall(&t->w));
    world_run_ns(&t->w, 2 * MS);
    assert_false(t->w.stream[t->bully].limited);
    size_t throttles = world_count_actions(&t->w, BATCH, "throttle", true);
    world_run(&t->w, 20);
    assert_false(t->w.stream[t->bully].limited);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", true), throttles);
    assert_int_equal(world_count_actions(&t->w, BATCH, "throttle", false), 1);
    char line[EXPLAIN_SENTENCES][EXPLAIN_SIZE];
    const char *said = explained(t, t->bully, "A throttle", line);
    assert_non_null(said);
    assert_non_null(strstr(said, "did not leave: protected, by policy keep-batch."));
    assert_int_equal(services_document_remove(t->w.services, "Policy", "keep-batch", t->w.now, 0),
                     0);
    world_run(&t->w, 4);
    assert_true(t->w.stream[t->bully].limited);
    story_free(t);
}

static void no_throttle_goes_below_the_floor_of_a_policy(void **state)
{
    (void)state;
    struct story *t = story_new(7, false);
    struct policy p = {.name = "floor", .floor_iops = 6900};
    services_policy_put(t->w.services, &p, t->w.now, world_wall(&t->w));
    world_closed_loop(&t->w, t->bully, 128, 16384);
    for (int i = 0; i < 30; i++) {
        world_run(&t->w, 1);
        const struct entity_stream *e = world_entity(&t->w, t->bully);
        assert_true(!e->throttle.active || e->throttle.iops >= 6900);
    }
    story_free(t);
}

static void enforcement_off_lifts_all_at_once_and_plans_nothing(void **state)
{
    (void)state;
    struct story *t = story_new(8, false);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 6);
    assert_true(t->w.stream[t->bully].limited);
    services_enforcement(t->w.services, false, t->w.now, world_wall(&t->w));
    world_run_ns(&t->w, 2 * MS);
    assert_false(t->w.stream[t->bully].limited);
    uint64_t planned = t->w.planned_controls;
    world_run(&t->w, 10);
    assert_int_equal(t->w.planned_controls, planned);
    assert_int_equal(verdict_of(t, t->victim), VERDICT_FAILING);
    services_enforcement(t->w.services, true, t->w.now, world_wall(&t->w));
    assert_true(periods_to_recover(t, 6) <= 6);
    story_free(t);
}

static void shares_of_harm_never_sum_to_more_than_the_whole(void **state)
{
    (void)state;
    struct story *t = story_new(9, false);
    services_enforcement(t->w.services, false, t->w.now, world_wall(&t->w));
    int other = world_add_stream(&t->w, t->gateway, "10.0.0.3", "scan");
    world_closed_loop(&t->w, t->bully, 96, 4096);
    world_closed_loop(&t->w, other, 48, 262144);
    for (int i = 0; i < 10; i++) {
        world_run(&t->w, 1);
        uint32_t a = world_entity(&t->w, t->bully)->harm_ppm,
                 b = world_entity(&t->w, other)->harm_ppm;
        assert_true(a + b <= 1000000);
        if (i > 2)
            assert_true(a > 0 && b > a); /* 16 times the bytes for half of the I/Os */
    }
    services_enforcement(t->w.services, true, t->w.now, world_wall(&t->w));
    assert_true(periods_to_recover(t, 6) <= 6);
    assert_true(world_count_actions(&t->w, BATCH, "throttle", true) >= 1);
    assert_true(world_count_actions(&t->w, "10.0.0.3/scan", "throttle", true) >= 1);
    assert_true(world_entity(&t->w, other)->throttle.bytes_s != UINT64_MAX);
    story_free(t);
}

static void a_contract_is_cut_to_no_less_than_what_it_promises(void **state)
{
    (void)state;
    struct story *t = story_new(10, false);
    world_agree(&t->w, "batch-silver", "batch", 100000, 4500);
    world_closed_loop(&t->w, t->bully, 128, 4096);
    for (int i = 0; i < 40; i++) {
        world_run(&t->w, 1);
        const struct entity_stream *e = world_entity(&t->w, t->bully);
        assert_true(!e->throttle.active || e->throttle.iops >= 4500);
        assert_int_not_equal(e->verdict, VERDICT_FAILING); /* what Weir holds back is no breach */
    }
    assert_true(world_count_actions(&t->w, BATCH, "", true) > 0);
    assert_int_equal(verdict_of(t, t->victim), VERDICT_MET);
    story_free(t);
}

static void a_starved_victim_with_hardly_an_io_is_still_seen(void **state)
{
    (void)state;
    struct story *t = story_new(12, false);
    world_stop(&t->w, t->victim);
    world_closed_loop(&t->w, t->bully, 2000, 4096);
    world_run(&t->w, 5);
    world_closed_loop(&t->w, t->victim, 1, 4096); /* four I/Os a second at 250 ms each */
    world_run(&t->w, 3);
    assert_true(t->w.stream[t->bully].limited);
    world_run(&t->w, 5);
    world_truth_clear(&t->w);
    world_run(&t->w, 5);
    assert_true(world_p99_us(&t->w, t->victim) <= OBJECTIVE_US);
    story_free(t);
}

static void a_reservation_that_is_not_given_makes_a_victim(void **state)
{
    (void)state;
    struct story *t = story_new(13, false);
    assert_int_equal(services_document_remove(t->w.services, "Agreement", "gold", t->w.now, 0), 0);
    struct agreement a = {
        .name = "floor", .version = 1, .reservation_iops = 2000, .compliance_window_ns = 10 * S};
    snprintf(a.applies_to.volume, NAME_SIZE, "db");
    char why[128];
    assert_int_equal(services_agreement_put(t->w.services, &a, t->w.now, 0, why, sizeof(why)), 0);
    world_stop(&t->w, t->victim);
    world_closed_loop(&t->w, t->victim, 8, 4096);
    world_closed_loop(&t->w, t->bully, 256, 4096);
    world_run(&t->w, 3);
    assert_true(world_count_actions(&t->w, BATCH, "throttle", true) == 1);
    assert_non_null(strstr(t->w.action[0].reason, "of 2000 reserved IOPS"));
    world_run(&t->w, 10);
    world_truth_clear(&t->w);
    world_run(&t->w, 20);
    assert_true(world_ios(&t->w, t->victim) / 20 >= 1900);
    story_free(t);
}

static void a_lease_is_renewed_before_half_of_it_is_over(void **state)
{
    (void)state;
    struct story *t = story_new(14, false);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 10);
    for (int i = 0; i < 6; i++) {
        uint64_t before = t->w.planned_controls;
        world_run(&t->w, 5);
        assert_true(t->w.planned_controls > before);
    }
    story_free(t);
}

static void a_full_way_keeps_controls_and_sends_them_whole_later(void **state)
{
    (void)state;
    struct story *t = story_new(15, false);
    t->w.controls_full = true;
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 4);
    assert_false(t->w.stream[t->bully].limited);
    t->w.controls_full = false;
    uint64_t full = t->w.full_updates;
    world_run(&t->w, 2);
    assert_true(t->w.stream[t->bully].limited);
    assert_true(t->w.full_updates > full);
    struct services_stats st;
    services_stats(t->w.services, &st);
    assert_true(st.controls_kept > 0);
    story_free(t);
}

static void refused_controls_are_said_and_all_are_sent_again(void **state)
{
    (void)state;
    struct story *t = story_new(16, false);
    t->w.gateway[t->gateway].refuse = WEIR_E_INVALID;
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 4);
    assert_true(world_count_events(&t->w, "control-refused") >= 1);
    const struct entity_stream *e = world_entity(&t->w, t->bully);
    assert_true(e->throttle.active && e->throttle.applied_iops == UINT64_MAX);
    t->w.gateway[t->gateway].refuse = 0;
    world_run(&t->w, 8);
    e = world_entity(&t->w, t->bully);
    assert_true(e->throttle.applied_iops == e->throttle.iops);
    assert_true(t->w.stream[t->bully].limited);
    story_free(t);
}

static void a_gateway_that_starts_anew_gets_its_controls_back(void **state)
{
    (void)state;
    struct story *t = story_new(17, false);
    world_closed_loop(&t->w, t->bully, 128, 16384);
    world_run(&t->w, 8);
    world_gateway_down(&t->w, t->gateway);
    world_run(&t->w, 3);
    t->w.stream[t->bully].limited = false;
    world_gateway_up(&t->w, t->gateway, true);
    world_run_ns(&t->w, 10 * MS);
    assert_true(t->w.stream[t->bully].limited);
    assert_int_equal(world_count_events(&t->w, "gateway-lost"), 1);
    assert_int_equal(world_count_events(&t->w, "gateway-returned"), 1);
    story_free(t);
}

static void the_limit_of_a_group_is_divided_among_the_gateways_that_hold_it(void **state)
{
    (void)state;
    struct story *t = story_new(18, false);
    int g2 = world_add_gateway(&t->w, "gw2", 1);
    int far = world_add_stream(&t->w, g2, "10.0.0.2", "batch");
    struct agreement a = {.name = "cap", .version = 1, .compliance_window_ns = 10 * S};
    snprintf(a.applies_to.volume, NAME_SIZE, "batch");
    a.limits.rate[GATE_IOPS_TOTAL].rate = 1000;
    char why[128];
    assert_int_equal(services_agreement_put(t->w.services, &a, t->w.now, 0, why, sizeof(why)), 0);
    world_closed_loop(&t->w, t->bully, 4, 4096);
    world_run(&t->w, 3);
    assert_int_equal(t->w.stream[t->bully].agreed_iops, 1000);
    world_gateway_up(&t->w, g2, true);
    world_closed_loop(&t->w, far, 4, 4096);
    world_run(&t->w, 6);
    assert_int_equal(t->w.stream[t->bully].agreed_iops, 500);
    assert_int_equal(t->w.stream[far].agreed_iops, 500);
    world_gateway_down(&t->w, g2);
    world_run(&t->w, 30);
    assert_int_equal(t->w.stream[t->bully].agreed_iops, 500); /* it may still work without us */
    world_run(&t->w, 40);
    assert_int_equal(t->w.stream[t->bully].agreed_iops, 1000);
    assert_int_equal(services_document_remove(t->w.services, "Agreement", "cap", t->w.now, 0), 0);
    world_run(&t->w, 2);
    assert_false(t->w.stream[t->bully].agreed);
    story_free(t);
}

static void nothing_is_sent_before_the_documents_are_loaded(void **state)
{
    (void)state;
    struct world *w = calloc(1, sizeof(*w));
    world_init(w, 19, false);
    struct services_config c = {.period_ns = S,
                                .lease_ns = 10 * S,
                                .max_gateways = 4,
                                .max_streams = 8,
                                .processes = 1,
                                .first_epoch = 5};
    services_free(w->services);
    struct services_sink sink = world_sink(w);
    w->services = services_new(&c, &sink);
    int g = world_add_gateway(w, "gw1", 0);
    int v = world_add_stream(w, g, "10.0.0.1", "db");
    world_gateway_up(w, g, true);
    world_open_loop(w, v, 500);
    world_run(w, 5);
    assert_int_equal(w->updates, 0);
    assert_non_null(world_entity(w, v));
    services_loaded(w->services, w->now, world_wall(w));
    assert_int_equal(w->full_updates, 1);
    world_fini(w);
    free(w);
}

static void equal_worlds_come_to_equal_ends(void **state)
{
    (void)state;
    struct story *a = story_new(20, false), *b = story_new(20, false);
    world_closed_loop(&a->w, a->bully, 128, 16384);
    world_closed_loop(&b->w, b->bully, 128, 16384);
    world_run(&a->w, 30);
    world_run(&b->w, 30);
    assert_int_equal(a->w.actions, b->w.actions);
    for (size_t i = 0; i < a->w.actions; i++)
        assert_memory_equal(&a->w.action[i], &b->w.action[i], sizeof(a->w.action[i]));
    story_free(a);
    story_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_victim_alone_is_met_and_nobody_is_throttled),
        cmocka_unit_test(a_bully_is_found_cut_and_the_promise_is_kept_again),
        cmocka_unit_test(after_it_is_cut_the_bully_gets_most_and_the_victim_stays_inside),
        cmocka_unit_test(a_long_overload_that_may_be_controlled_at_last_never_comes_back),
        cmocka_unit_test(when_the_bully_ends_its_throttle_is_lifted),
        cmocka_unit_test(when_the_victim_goes_the_throttle_is_lifted),
        cmocka_unit_test(observe_mode_sends_nothing_planned_and_says_what_it_would_do_once),
        cmocka_unit_test(a_policy_that_protects_lifts_at_once_and_stops_every_later_cut),
        cmocka_unit_test(no_throttle_goes_below_the_floor_of_a_policy),
        cmocka_unit_test(enforcement_off_lifts_all_at_once_and_plans_nothing),
        cmocka_unit_test(shares_of_harm_never_sum_to_more_than_the_whole),
        cmocka_unit_test(a_contract_is_cut_to_no_less_than_what_it_promises),
        cmocka_unit_test(a_starved_victim_with_hardly_an_io_is_still_seen),
        cmocka_unit_test(a_reservation_that_is_not_given_makes_a_victim),
        cmocka_unit_test(a_lease_is_renewed_before_half_of_it_is_over),
        cmocka_unit_test(a_full_way_keeps_controls_and_sends_them_whole_later),
        cmocka_unit_test(refused_controls_are_said_and_all_are_sent_again),
        cmocka_unit_test(a_gateway_that_starts_anew_gets_its_controls_back),
        cmocka_unit_test(the_limit_of_a_group_is_divided_among_the_gateways_that_hold_it),
        cmocka_unit_test(nothing_is_sent_before_the_documents_are_loaded),
        cmocka_unit_test(equal_worlds_come_to_equal_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
