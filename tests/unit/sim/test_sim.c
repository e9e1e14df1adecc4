/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the simulator is what it says: the same seed is the same run, a device does what queueing
 * theory says, others' schemes differ, and hundreds of gateways fit.
 * Method: small worlds whose answers are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static void hundreds_of_gateways_fit(void **state)
{
    (void)state;
    enum { MANY = 400 };
    struct small w;
    struct sim_result r;
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
    assert_true(r.ios > 3 * MANY);
    sim_result_fini(&r);
    free(load);
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
        cmocka_unit_test(a_limit_holds_a_closed_loop_to_its_rate),
        cmocka_unit_test(hundreds_of_gateways_fit),
        cmocka_unit_test(what_does_not_exist_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
