/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the simulator is what it says: the same seed is the same run, a device does what queueing
 * theory says, others' schemes differ, thousands of gateways fit, and rules that break are seen.
 * Method: small worlds whose answers are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "sim/sim.h"

#define S UINT64_C(1000000000)

struct small {
    struct sim_device_config device;
    struct sim_load_config load[2];
    struct agreement agreement;
    struct sim_config config;
};

/* A device of @servers at 1 ms, a database at a fifth of it, and a bully from 2 s on. */
static void small_init(struct small *w, enum sim_scheme scheme, uint32_t servers, bool bully)
{
    memset(w, 0, sizeof *w);
    w->device = (struct sim_device_config){.name = "array",
                                           .servers = servers,
                                           .base_ns = {900000, 900000},
                                           .page_ns = {100000, 100000},
                                           .spread = 1.0};
    w->load[0] = (struct sim_load_config){.host = "h1",
                                          .volume = "db",
                                          .rate = 200.0 * servers,
                                          .bytes = 4096,
                                          .objective_us = 8000,
                                          .percentile_ppm = 990000};
    w->load[1] = (struct sim_load_config){.host = "h2",
                                          .volume = "copy",
                                          .kind = SIM_CLOSED,
                                          .depth = 64,
                                          .bytes = 4096,
                                          .start_ns = 2 * S};
    snprintf(w->agreement.name, sizeof w->agreement.name, "gold");
    snprintf(w->agreement.applies_to.volume, NAME_SIZE, "db");
    w->agreement.version = 1;
    w->agreement.per = AGREEMENT_PER_STREAM;
    w->agreement.weight = 100;
    w->agreement.compliance_window_ns = 10 * S;
    w->agreement.compliance_over_ns = 30 * 86400 * S;
    w->agreement.objective_count = 1;
    w->agreement.objective[0] = (struct objective){990000, 8000, 250 * servers};
    w->config = (struct sim_config){.seed = 7,
                                    .duration_ns = 20 * S,
                                    .warmup_ns = 5 * S,
                                    .scheme = scheme,
                                    .gateways = 1,
                                    .device = &w->device,
                                    .device_count = 1,
                                    .load = w->load,
                                    .load_count = bully ? 2 : 1,
                                    .agreement = &w->agreement,
                                    .agreement_count = 1,
                                    .path_ns = 10000,
                                    .control_ns = 300000};
}

static void run(struct small *w, struct sim_result *r)
{
    struct text why;
    text_init(&why, 65536);
    int e = sim_run(&w->config, r, &why);
    if (e != 0 || r->broken != NULL)
        fail_msg("%.*s%s", (int)why.len, why.len > 0 ? why.data : "", r->broken ? r->broken : "");
    text_fini(&why);
}

static void a_run_is_decided_by_its_seed(void **state)
{
    (void)state;
    struct small w;
    struct sim_result a, b;
    small_init(&w, SIM_OURS, 4, true);
    run(&w, &a);
    run(&w, &b);
    assert_int_equal(a.events, b.events);
    assert_int_equal(a.load[0].latency.sum_ns, b.load[0].latency.sum_ns);
    sim_result_fini(&b);
    w.config.seed = 8;
    run(&w, &b);
    assert_true(a.load[0].latency.sum_ns != b.load[0].latency.sum_ns);
    sim_result_fini(&a);
    sim_result_fini(&b);
}

static void one_server_waits_as_queueing_theory_says(void **state)
{
    (void)state;
    struct small w;
    struct sim_result r;
    small_init(&w, SIM_NONE, 1, false);
    w.load[0].rate = 500;
    w.config.duration_ns = 400 * S;
    run(&w, &r);
    /* M/M/1 at half load: 2 ms on average, and the path there and back. */
    double mean_us = (double)hist_mean(&r.load[0].latency) / 1e3;
    assert_true(mean_us > 1.92e3);
    assert_true(mean_us < 2.12e3);
    assert_true(r.device[0].busy > 0.48);
    assert_true(r.device[0].busy < 0.52);
    sim_result_fini(&r);
}

static void a_promise_is_kept_beside_a_bully_without_a_server(void **state)
{
    (void)state;
    struct small w;
    struct sim_result none, ours;
    small_init(&w, SIM_NONE, 8, true);
    run(&w, &none);
    small_init(&w, SIM_LOCAL, 8, true);
    run(&w, &ours);
    assert_true(none.load[0].windows_met * 10 < none.load[0].windows);
    assert_true(ours.load[0].windows_met * 10 >= ours.load[0].windows * 9);
    /* And the device does as much as before. */
    assert_true(ours.device[0].busy > 0.95 * none.device[0].busy);
    sim_result_fini(&none);
    sim_result_fini(&ours);
}

static void an_oracle_is_a_floor_at_no_loss(void **state)
{
    (void)state;
    struct small w;
    struct sim_result alone, none, ours, oracle;
    small_init(&w, SIM_NONE, 1, false);
    run(&w, &alone);
    small_init(&w, SIM_NONE, 1, true);
    run(&w, &none);
    small_init(&w, SIM_LOCAL, 1, true);
    run(&w, &ours);
    small_init(&w, SIM_ORACLE, 1, true);
    run(&w, &oracle);
    double floor = (double)hist_mean(&oracle.load[0].latency) / 1e3;
    assert_true(oracle.device[0].busy > 0.999 * none.device[0].busy);
    assert_true(floor < (double)hist_mean(&ours.load[0].latency) / 1e3);
    /* M/M/1 with priority at load 0.2, a server that is never idle: 1 ms / 0.8 of waiting. */
    assert_true(floor > 2.1e3);
    assert_true(floor < 2.4e3);
    assert_true(hist_mean(&alone.load[0].latency) < hist_mean(&oracle.load[0].latency));
    sim_result_fini(&alone);
    sim_result_fini(&none);
    sim_result_fini(&ours);
    sim_result_fini(&oracle);
}

static void a_limit_holds_a_closed_loop_to_its_rate(void **state)
{
    (void)state;
    struct small w;
    struct sim_result r;
    small_init(&w, SIM_OURS, 8, true);
    snprintf(w.agreement.applies_to.volume, NAME_SIZE, "copy");
    w.agreement.objective_count = 0;
    w.agreement.limits.rate[GATE_IOPS_TOTAL].rate = 500;
    w.config.warmup_ns = 8 * S;
    run(&w, &r);
    assert_in_range(r.load[1].served, 500 * 12 - 10, 500 * 12 + 10);
    sim_result_fini(&r);
}

/* Each has a ledger of its own, as a gateway has: a file each. */
static void files_for(rlim_t most)
{
    struct rlimit l;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &l), 0);
    if (l.rlim_cur < most)
        l.rlim_cur = l.rlim_max < most ? l.rlim_max : most;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
}

static void thousands_of_gateways_fit(void **state)
{
    (void)state;
    enum { MANY = 2000 };
    struct small w;
    struct sim_result r;
    files_for(MANY + 100);
    small_init(&w, SIM_OURS, 64, false);
    struct sim_load_config *load = calloc(MANY, sizeof *load);
    assert_non_null(load);
    for (uint32_t i = 0; i < MANY; i++) {
        load[i] = (struct sim_load_config){.volume = "db", .gateway = i, .rate = 2, .bytes = 4096};
        snprintf(load[i].host, sizeof load[i].host, "h%u", i);
    }
    w.config.load = load;
    w.config.load_count = w.config.gateways = MANY;
    w.config.duration_ns = 3 * S;
    w.config.warmup_ns = S;
    run(&w, &r);
    assert_true(r.polls >= MANY);
    assert_true(r.controls >= MANY);
    assert_true(r.ios > 3 * MANY);
    sim_result_fini(&r);
    free(load);
}

/* What the rules for promises (sim/promise.c) make of a world without control, and of ours. */
static void a_promise_that_nobody_keeps_is_seen(void **state)
{
    (void)state;
    struct small w;
    struct sim_result none, ours;
    small_init(&w, SIM_NONE, 8, true);
    w.load[0].rate = 800;
    w.agreement.objective[0] = (struct objective){990000, 24000, 1000};
    w.load[1].depth = 256;
    w.config.promises = true;
    run(&w, &none);
    w.config.scheme = SIM_OURS;
    run(&w, &ours);
    assert_true(none.promises_held == 0);
    assert_true(none.promises_missed >= 10);
    assert_true(ours.promises_held >= 10);
    assert_true(ours.promises_missed == 0);
    sim_result_fini(&none);
    sim_result_fini(&ours);
}

/* A run that breaks a rule, whose words have @expected in them; NULL: it breaks none. */
static void run_to_break(struct small *w, const char *expected, struct sim_result *r)
{
    struct text why;
    text_init(&why, 65536);
    assert_int_equal(sim_run(&w->config, r, &why), 0);
    if (expected == NULL && r->broken != NULL)
        fail_msg("%s", r->broken);
    assert_true(expected == NULL || r->broken != NULL);
    if (expected != NULL && strstr(r->broken, expected) == NULL)
        fail_msg("\"%s\" where \"%s\" was expected", r->broken, expected);
    text_fini(&why);
}

/* A gateway that divides by weight alone, nearly all for the bully, since nobody told the server of
 * the promise, or as it should. */
static void with_promise(const struct agreement *gold, bool said, bool unsettled,
                         const char *expected)
{
    struct small w;
    struct sim_result r;
    struct agreement both[2];
    small_init(&w, SIM_OURS, 8, true);
    both[0] = both[1] = w.agreement;
    snprintf(both[0].name, sizeof both[0].name, "bulk");
    snprintf(both[0].applies_to.volume, NAME_SIZE, "copy");
    both[0].weight = 100000;
    both[0].objective_count = 0;
    both[1].objective_count = gold->objective_count;
    both[1].objective[0] = gold->objective[0];
    both[1].reservation_iops = gold->reservation_iops;
    w.load[0].rate = 1500;
    w.config.agreement = both;
    w.config.agreement_count = 2;
    w.config.agreements_unsaid = !said;
    w.config.unsettled = unsettled;
    w.config.promises = true;
    w.config.duration_ns = 30 * S;
    run_to_break(&w, said ? NULL : expected, &r);
    assert_true(!said || r.promises_held >= 10);
    sim_result_fini(&r);
}

static void a_promise_that_the_server_does_not_know_is_seen_to_be_broken(void **state)
{
    (void)state;
    const struct agreement reserved = {.reservation_iops = 1500};
    const struct agreement fast = {.objective_count = 1, .objective = {{990000, 24000, 2000}}};
    with_promise(&reserved, true, false, "");
    with_promise(&reserved, false, false, "1500 owed, with a backlog (agreement gold)");
    with_promise(&fast, true, false, "");
    /* Starved from the beginning: what waits may be late, but as much as arrives is served. */
    with_promise(&fast, false, false, "owed, with a backlog (agreement gold)");
    /* Who never settles is not excused. */
    with_promise(&reserved, false, true, "1500 owed, with a backlog (agreement gold)");
    with_promise(&fast, false, true, "owed, with a backlog (agreement gold)");
    with_promise(&fast, true, true, "");
}

/* A promise that cannot be kept, so that its neighbour is cut again and again, under a policy. */
static void with_policy(const struct policy *p, bool said, const char *expected, bool cuts)
{
    struct small w;
    struct sim_result r;
    small_init(&w, SIM_OURS, 4, true);
    w.agreement.objective[0].latency_us = 1200;
    w.config.duration_ns = 40 * S;
    w.config.policy = p;
    w.config.policy_count = 1;
    w.config.policies_unsaid = !said;
    run_to_break(&w, said ? NULL : expected, &r);
    assert_int_equal(r.cuts > 0, cuts);
    sim_result_fini(&r);
}

static void a_policy_that_the_server_does_not_know_is_seen_to_be_broken(void **state)
{
    (void)state;
    /* A simulation begins on a Monday at 06:00. */
    const struct policy freeze = {.name = "freeze", .version = 1, .freeze_count = 1,
                                  .freeze = {{1, 5 * 60, 7 * 60}}};
    const struct policy over = {.name = "over", .version = 1, .freeze_count = 1,
                                .freeze = {{1, 7 * 60, 5 * 60}}};
    const struct policy slowly = {.name = "slowly", .version = 1, .max_cut_ppm = 20000};
    const struct policy protect = {.name = "protect", .version = 1, .protect = true};
    with_policy(&freeze, true, "", false);
    with_policy(&freeze, false, "freeze freezes it", true);
    with_policy(&over, true, "", true);
    with_policy(&slowly, true, "", true);
    with_policy(&slowly, false, "policy slowly allows 2.0 %", true);
    with_policy(&protect, true, "", false);
    with_policy(&protect, false, "against policy protect", true);
}

/* An open load that asks for more than there is, and waits for max-hold: the promise beside it is
 * held until then, and after that neither held nor missed. */
static void a_promise_that_is_flooded_is_told_from_one_that_is_missed(void **state)
{
    (void)state;
    struct small w;
    struct sim_result r;
    small_init(&w, SIM_OURS, 1, true);
    w.agreement.objective[0] = (struct objective){990000, 40000, 250};
    w.load[1].kind = SIM_OPEN;
    w.load[1].rate = 5000;
    w.config.promises = true;
    w.load[1].start_ns = 10 * S;
    w.config.max_hold_ns = 3600000000; /* 4,096 wait, which is four seconds' work */
    w.config.warmup_ns = S;
    w.config.duration_ns = 30 * S;
    run_to_break(&w, NULL, &r);
    assert_true(r.promises_held >= 1);
    assert_true(r.promises_flooded >= 10);
    assert_true(r.promises_missed <= 2); /* as it begins */
    sim_result_fini(&r);
}

/* Frames in two pieces, and connections that break in the middle of one, each way; and the same
 * where what came of such a frame is kept for the next connection. */
static void what_came_of_a_torn_frame_is_dropped(void **state)
{
    (void)state;
    struct small w;
    struct sim_result r;
    struct sim_change change[] = {
        {.at_ns = 6 * S, .kind = SIM_TEAR},
        {.at_ns = 9 * S, .kind = SIM_TEAR, .value = 1},
        {.at_ns = 12 * S, .kind = SIM_DRIBBLE, .value = 200000000},
        {.at_ns = 14 * S, .kind = SIM_TEAR},
        {.at_ns = 17 * S, .kind = SIM_DRIBBLE},
    };
    small_init(&w, SIM_OURS, 8, true);
    w.config.change = change;
    w.config.change_count = sizeof change / sizeof change[0];
    run_to_break(&w, NULL, &r);
    assert_int_equal(r.torn_frames, 3);
    sim_result_fini(&r);
    w.config.keeps_half = true;
    run_to_break(&w, "a frame was put together from two, at the gateway", &r);
    sim_result_fini(&r);
    change[0].value = 1;
    run_to_break(&w, "a frame was put together from two, at the server", &r);
    sim_result_fini(&r);
}

static void what_does_not_exist_is_refused(void **state)
{
    (void)state;
    struct small w;
    struct sim_result r;
    struct text why;
    text_init(&why, 65536);
    small_init(&w, SIM_OURS, 8, true);
    w.load[1].gateway = 1;
    assert_true(sim_run(&w.config, &r, &why) < 0);
    assert_true(why.len > 0);
    text_fini(&why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_decided_by_its_seed),
        cmocka_unit_test(one_server_waits_as_queueing_theory_says),
        cmocka_unit_test(a_promise_is_kept_beside_a_bully_without_a_server),
        cmocka_unit_test(an_oracle_is_a_floor_at_no_loss),
        cmocka_unit_test(a_limit_holds_a_closed_loop_to_its_rate),
        cmocka_unit_test(thousands_of_gateways_fit),
        cmocka_unit_test(a_promise_that_nobody_keeps_is_seen),
        cmocka_unit_test(a_promise_that_the_server_does_not_know_is_seen_to_be_broken),
        cmocka_unit_test(a_policy_that_the_server_does_not_know_is_seen_to_be_broken),
        cmocka_unit_test(a_promise_that_is_flooded_is_told_from_one_that_is_missed),
        cmocka_unit_test(what_came_of_a_torn_frame_is_dropped),
        cmocka_unit_test(what_does_not_exist_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
