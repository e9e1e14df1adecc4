/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: promises and limits hold over several gateways as if they were one: hosts that move, hosts
 * that use two, gateways that leave and return, several targets behind one are planned right.
 * Method: the world of world.h with two gateways before one device, and what is decided there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/text.h"
#include "world.h"

#define OBJECTIVE_US 8000u

struct two {
    struct world w;
    int gateway[2];
};

static struct two *two_new(uint64_t seed)
{
    struct two *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    print_message("seed %llu\n", (unsigned long long)seed);
    world_init(&t->w, seed, false);
    t->gateway[0] = world_add_gateway(&t->w, "gw1", 0);
    t->gateway[1] = world_add_gateway(&t->w, "gw2", 0);
    world_gateway_up(&t->w, t->gateway[0], true);
    world_gateway_up(&t->w, t->gateway[1], true);
    return t;
}

/* Gateways wait for people here, and none is there yet. */
static struct two *two_new_manual(uint64_t seed)
{
    struct two *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    world_init_manual(&t->w, seed);
    return t;
}

/* As above, with gateway "gw1" known to the world and a stream behind it. */
static struct two *one_waits(uint64_t seed, int *stream)
{
    struct two *t = two_new_manual(seed);
    t->gateway[0] = world_add_gateway(&t->w, "gw1", 0);
    *stream = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "db");
    return t;
}

/* Its first gateway connects and is heard for a while. */
static void comes(struct two *t, bool new_boot)
{
    world_gateway_up(&t->w, t->gateway[0], new_boot);
    world_run(&t->w, 3);
}

static void two_free(struct two *t)
{
    world_fini(&t->w);
    free(t);
}

static void put_limit(struct two *t, const char *name, const char *volume, uint64_t iops,
                      enum agreement_per per)
{
    struct agreement a = {.version = 1, .weight = AGREEMENT_WEIGHT, .per = per,
                          .compliance_window_ns = 10 * S};
    char why[256];
    snprintf(a.name, NAME_SIZE, "%s", name);
    snprintf(a.applies_to.volume, NAME_SIZE, "%s", volume);
    a.limits.rate[GATE_IOPS_TOTAL].rate = iops;
    assert_int_equal(services_agreement_put(t->w.services, &a, t->w.now, world_wall(&t->w), why,
                                            sizeof(why)),
                     0);
}

static uint64_t part(const struct two *t, int stream)
{
    return t->w.stream[stream].agreed ? t->w.stream[stream].agreed_iops : 0;
}

static void a_bully_behind_another_gateway_is_named_and_cut(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct two *t = two_new(seed);
        world_agree(&t->w, "gold", "db", OBJECTIVE_US, 1500);
        int victim = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "db");
        int bully = world_add_stream(&t->w, t->gateway[1], "10.0.0.2", "batch");
        world_open_loop(&t->w, victim, 1000);
        world_run(&t->w, 5);
        world_closed_loop(&t->w, bully, 128, 16384);
        world_run(&t->w, 12);
        assert_int_equal(world_count_actions(&t->w, "10.0.0.2/batch", "throttle", true), 1);
        const struct action_record *a = &t->w.action[0];
        assert_string_equal(a->gateway, "gw2");
        assert_string_equal(a->victim, "10.0.0.1/db");
        assert_true(a->harm_share_ppm > 500000);
        int bad = 0;
        uint64_t ios = 0;
        for (int i = 0; i < 30; i++) {
            world_truth_clear(&t->w);
            world_run(&t->w, 1);
            bad += world_p99_us(&t->w, victim) > OBJECTIVE_US;
            ios += world_ios(&t->w, bully);
        }
        assert_true(bad <= 5);
        assert_true(ios > 30 * 2000);
        two_free(t);
    }
}

static void a_device_of_its_own_makes_no_bully_of_a_neighbour(void **state)
{
    (void)state;
    struct two *t = two_new(4);
    int third = world_add_gateway(&t->w, "gw3", 1);
    world_gateway_up(&t->w, third, true);
    world_agree(&t->w, "gold", "db", OBJECTIVE_US, 9000);
    int victim = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "db");
    int other = world_add_stream(&t->w, third, "10.0.0.2", "batch");
    world_closed_loop(&t->w, other, 128, 16384);
    world_open_loop(&t->w, victim, 8400); /* more than the device can do */
    world_run(&t->w, 15);
    assert_int_equal(world_entity(&t->w, victim)->verdict, VERDICT_FAILING);
    assert_int_equal(world_count_actions(&t->w, "10.0.0.2/batch", "", true), 0);
    assert_int_equal(world_entity(&t->w, other)->harm_ppm, 0);
    two_free(t);
}

static void parts_of_a_limit_follow_the_demand_and_add_up(void **state)
{
    (void)state;
    struct two *t = two_new(5);
    put_limit(t, "cap", "vol*", 1000, AGREEMENT_PER_GROUP);
    int here = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "vol1");
    int there = world_add_stream(&t->w, t->gateway[1], "10.0.0.2", "vol2");
    world_closed_loop(&t->w, here, 4, 4096);
    world_open_loop(&t->w, there, 20);
    world_run(&t->w, 6);
    assert_true(part(t, here) > 900);
    assert_int_equal(part(t, here) + part(t, there), 1000);
    world_stop(&t->w, here);
    world_closed_loop(&t->w, there, 4, 4096);
    world_run(&t->w, 6);
    assert_true(part(t, there) > 900);
    assert_int_equal(part(t, here) + part(t, there), 1000);
    world_closed_loop(&t->w, here, 4, 4096);
    world_run(&t->w, 6);
    assert_in_range(part(t, here), 490, 510);
    assert_int_equal(part(t, here) + part(t, there), 1000);
    uint64_t updates = t->w.updates;
    world_run(&t->w, 20);
    assert_int_equal(t->w.updates, updates); /* nothing is sent for nothing */
    two_free(t);
}

static const struct entity_gateway *gateway_of(const struct two *t, int stream)
{
    return world_entity(&t->w, stream)->gateway;
}

static int admit(struct two *t, const char *name)
{
    return services_gateway_admit(t->w.services, name, t->w.now, world_wall(&t->w));
}

/* One gateway is admitted, then the other: only then is it controlled and counts. */
static void who_waits_for_admission_is_seen_and_neither_controlled_nor_counted(void **state)
{
    (void)state;
    struct two *t = two_new_manual(6);
    world_agree(&t->w, "gold", "db", OBJECTIVE_US, 1500);
    put_limit(t, "cap", "vol*", 1000, AGREEMENT_PER_GROUP);
    for (int i = 0; i < 2; i++) {
        t->gateway[i] = world_add_gateway(&t->w, i == 0 ? "gw1" : "gw2", 0);
        world_gateway_up(&t->w, t->gateway[i], true);
    }
    int victim = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "db");
    int bully = world_add_stream(&t->w, t->gateway[1], "10.0.0.2", "batch");
    int here = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "vol1");
    int there = world_add_stream(&t->w, t->gateway[1], "10.0.0.2", "vol2");
    world_open_loop(&t->w, victim, 1000);
    world_open_loop(&t->w, here, 100);
    world_open_loop(&t->w, there, 100);
    world_closed_loop(&t->w, bully, 128, 16384);
    world_run(&t->w, 10);
    assert_int_equal(gateway_of(t, victim)->state, GATEWAY_PENDING);
    assert_int_equal(gateway_of(t, bully)->state, GATEWAY_PENDING);
    assert_true(world_entity(&t->w, bully)->window.iops > 1000); /* polled and shown */
    assert_null(world_entity(&t->w, victim)->agreement);
    assert_int_equal(t->w.updates, 0);
    assert_int_equal(t->w.actions, 0);

    assert_int_equal(admit(t, "gw3"), WEIR_E_NOT_FOUND);
    assert_int_equal(admit(t, "gw1"), 0);
    assert_int_equal(gateway_of(t, victim)->state, GATEWAY_ADMITTED);
    world_run(&t->w, 15);
    assert_int_equal(world_entity(&t->w, victim)->verdict, VERDICT_FAILING);
    assert_int_equal(world_count_actions(&t->w, "10.0.0.2/batch", "", true), 0);
    assert_int_equal(part(t, here), 1000);
    assert_int_equal(part(t, there), 0);
    assert_int_equal(gateway_of(t, there)->epoch_desired, 0);

    assert_int_equal(admit(t, "gw2"), 0);
    world_run(&t->w, 15);
    assert_int_equal(part(t, here) + part(t, there), 1000);
    assert_true(part(t, there) > 100);
    assert_true(t->w.stream[bully].limited);
    assert_int_equal(world_count_events(&t->w, "gateway-admitted"), 2);
    assert_int_equal(admit(t, "gw2"), 0); /* as it is */
    assert_int_equal(world_count_events(&t->w, "gateway-admitted"), 2);
    two_free(t);
}

static void who_waited_and_was_lost_waits_again_unless_admitted_meanwhile(void **state)
{
    (void)state;
    int stream;
    struct two *t = one_waits(7, &stream);
    comes(t, true);
    world_gateway_down(&t->w, t->gateway[0]);
    assert_int_equal(gateway_of(t, stream)->state, GATEWAY_LOST);
    comes(t, false);
    assert_int_equal(gateway_of(t, stream)->state, GATEWAY_PENDING);
    world_gateway_down(&t->w, t->gateway[0]);
    assert_int_equal(admit(t, gateway_of(t, stream)->id_text), 0);
    assert_int_equal(gateway_of(t, stream)->state, GATEWAY_LOST);
    comes(t, true);
    assert_int_equal(gateway_of(t, stream)->state, GATEWAY_ADMITTED);
    assert_true(t->w.updates > 0);
    two_free(t);
}

static void who_is_recalled_needs_admission_only_if_it_never_had_it(void **state)
{
    (void)state;
    for (int admitted = 0; admitted < 2; admitted++) {
        int stream;
        struct two *t = one_waits(8, &stream);
        assert_int_equal(services_gateway_recall(t->w.services,
                                                 t->w.gateway[t->gateway[0]].hello.id, "gw1", "",
                                                 "", 5, 6, admitted != 0, t->w.now),
                         0);
        comes(t, true);
        assert_int_equal(gateway_of(t, stream)->state,
                         admitted ? GATEWAY_ADMITTED : GATEWAY_PENDING);
        two_free(t);
    }
}

/* It connects before the database has answered, or to a process that did not have it before: that
 * it was admitted is known later, or by id only. */
static void who_comes_before_its_record_does_not_wait_for_people_again(void **state)
{
    (void)state;
    enum { UNKNOWN, IN_TIME, WHILE_IT_REPORTS, RETIRED, CASES };
    for (int how = UNKNOWN; how < CASES; how++) {
        int stream;
        struct two *t = one_waits(9, &stream);
        const uint8_t *id = t->w.gateway[t->gateway[0]].hello.id;
        struct services *s = t->w.services;
        if (how == IN_TIME || how == RETIRED)
            assert_int_equal(services_gateway_admitted(s, id, t->w.now, world_wall(&t->w)), 0);
        comes(t, true);
        bool waited = how == UNKNOWN || how == WHILE_IT_REPORTS;
        assert_int_equal(gateway_of(t, stream)->state, waited ? GATEWAY_PENDING : GATEWAY_ADMITTED);
        if (how == WHILE_IT_REPORTS) {
            assert_int_equal(services_gateway_admitted(s, id, t->w.now, world_wall(&t->w)), 0);
            world_run(&t->w, 3);
        }
        if (how == RETIRED) {
            char name[2 * GATEWAY_ID_SIZE + 1];
            assert_true(text_copy(name, sizeof(name), gateway_of(t, stream)->id_text) == 0);
            assert_int_equal(services_document_remove(s, "Gateway", name, t->w.now,
                                                      world_wall(&t->w)),
                             0);
            comes(t, true);
        }
        bool waits = how == UNKNOWN || how == RETIRED;
        assert_int_equal(gateway_of(t, stream)->state, waits ? GATEWAY_PENDING : GATEWAY_ADMITTED);
        assert_int_equal(t->w.updates > 0, how != UNKNOWN);
        two_free(t);
    }
}

/* It is said to whoever does not have it then, and holds where it arrives. */
static void who_is_admitted_on_the_way_to_another_process_is_so_on_arrival(void **state)
{
    (void)state;
    int stream;
    struct two *t = one_waits(9, &stream);
    comes(t, true);
    char id[2 * GATEWAY_ID_SIZE + 1];
    assert_int_equal(text_copy(id, sizeof(id), gateway_of(t, stream)->id_text), 0);
    struct gateway_parcel *p = services_gateway_export(
        t->w.services, t->w.gateway[t->gateway[0]].hello.id, t->w.now, world_wall(&t->w));
    assert_non_null(p);
    assert_int_equal(admit(t, id), WEIR_E_NOT_FOUND);
    services_gateway_import(t->w.services, p, 0, 0, t->w.now, world_wall(&t->w));
    assert_int_equal(gateway_of(t, stream)->state, GATEWAY_ADMITTED);
    two_free(t);
}

static void a_host_that_uses_two_gateways_has_one_limit(void **state)
{
    (void)state;
    struct two *t = two_new(6);
    put_limit(t, "each", "vol*", 600, AGREEMENT_PER_STREAM);
    int a = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "vol1");
    int b = world_add_stream(&t->w, t->gateway[1], "10.0.0.1", "vol1");
    int other = world_add_stream(&t->w, t->gateway[1], "10.0.0.9", "vol1");
    world_closed_loop(&t->w, a, 4, 4096);
    world_closed_loop(&t->w, b, 4, 4096);
    world_closed_loop(&t->w, other, 4, 4096);
    world_run(&t->w, 8);
    assert_in_range(part(t, a), 290, 310);
    assert_int_equal(part(t, a) + part(t, b), 600);
    assert_int_equal(part(t, other), 600);
    world_stop(&t->w, a); /* it moved */
    world_run(&t->w, 6);
    assert_true(part(t, b) > 590);
    two_free(t);
}

static void a_gateway_that_is_lost_keeps_its_part_and_comes_back_to_it(void **state)
{
    (void)state;
    struct two *t = two_new(7);
    put_limit(t, "cap", "vol*", 1000, AGREEMENT_PER_GROUP);
    int here = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "vol1");
    int there = world_add_stream(&t->w, t->gateway[1], "10.0.0.2", "vol2");
    world_closed_loop(&t->w, here, 4, 4096);
    world_closed_loop(&t->w, there, 4, 4096);
    world_run(&t->w, 6);
    uint64_t kept = part(t, there);
    world_gateway_down(&t->w, t->gateway[1]);
    world_run(&t->w, 30);
    assert_int_equal(part(t, here), 1000 - kept); /* it may still work without us */
    world_run(&t->w, 40);
    assert_int_equal(part(t, here), 1000);
    world_gateway_up(&t->w, t->gateway[1], false);
    world_run(&t->w, 6);
    assert_in_range(part(t, here), 490, 510);
    assert_int_equal(part(t, here) + part(t, there), 1000);
    two_free(t);
}

static void a_changed_limit_is_divided_at_once(void **state)
{
    (void)state;
    struct two *t = two_new(8);
    put_limit(t, "cap", "vol*", 1000, AGREEMENT_PER_GROUP);
    int here = world_add_stream(&t->w, t->gateway[0], "10.0.0.1", "vol1");
    int there = world_add_stream(&t->w, t->gateway[1], "10.0.0.2", "vol2");
    world_closed_loop(&t->w, here, 4, 4096);
    world_closed_loop(&t->w, there, 4, 4096);
    world_run(&t->w, 6);
    put_limit(t, "cap", "vol*", 300, AGREEMENT_PER_GROUP);
    world_run_ns(&t->w, 20 * MS);
    assert_int_equal(part(t, here) + part(t, there), 300);
    two_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bully_behind_another_gateway_is_named_and_cut),
        cmocka_unit_test(a_device_of_its_own_makes_no_bully_of_a_neighbour),
        cmocka_unit_test(parts_of_a_limit_follow_the_demand_and_add_up),
        cmocka_unit_test(who_waits_for_admission_is_seen_and_neither_controlled_nor_counted),
        cmocka_unit_test(who_waited_and_was_lost_waits_again_unless_admitted_meanwhile),
        cmocka_unit_test(who_is_recalled_needs_admission_only_if_it_never_had_it),
        cmocka_unit_test(who_comes_before_its_record_does_not_wait_for_people_again),
        cmocka_unit_test(who_is_admitted_on_the_way_to_another_process_is_so_on_arrival),
        cmocka_unit_test(a_host_that_uses_two_gateways_has_one_limit),
        cmocka_unit_test(a_gateway_that_is_lost_keeps_its_part_and_comes_back_to_it),
        cmocka_unit_test(a_changed_limit_is_divided_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
