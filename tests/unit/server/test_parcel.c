/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a gateway that goes from one SLA process to another loses no count and has none twice,
 * keeps its verdict where the same promise holds and not where another does, gets controls of
 * higher epochs, and finds what people said meanwhile.
 * Method: two worlds are two processes on one clock; the parcel goes between them, and the gateway
 * that is played goes with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "world.h"

struct both {
    struct world from, to;
    int gateway, stream;
};

static struct both *both_new(void)
{
    struct both *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    struct world *w[2] = {&b->from, &b->to};
    for (size_t i = 0; i < 2; i++) {
        world_init(w[i], 5, true);
        b->gateway = world_add_gateway(w[i], "gw1", 0);
        b->stream = world_add_stream(w[i], b->gateway, "10.0.0.1", "db");
    }
    world_gateway_up(&b->from, b->gateway, true);
    return b;
}

static void both_run(struct both *b, uint64_t seconds)
{
    world_run(&b->from, seconds);
    world_run(&b->to, seconds);
    assert_int_equal(b->from.now, b->to.now);
}

static void both_free(struct both *b)
{
    world_fini(&b->from);
    world_fini(&b->to);
    free(b);
}

static const uint8_t *id_of(const struct both *b)
{
    return b->from.gateway[b->gateway].hello.id;
}

static struct gateway_parcel *leave(struct both *b)
{
    struct gateway_parcel *p = services_gateway_export(b->from.services, id_of(b), b->from.now,
                                                       world_wall(&b->from));
    assert_non_null(p);
    assert_null(world_entity(&b->from, b->stream));
    /* The gateway itself, with its counters, is the same one. */
    b->to.gateway[b->gateway] = b->from.gateway[b->gateway];
    b->to.stream[b->stream].meter = b->from.stream[b->stream].meter;
    b->from.gateway[b->gateway].up = false;
    return p;
}

static const struct entity_stream *arrive(struct both *b, struct gateway_parcel *p)
{
    services_gateway_import(b->to.services, p, 0, 7, b->to.now, world_wall(&b->to));
    return world_entity(&b->to, b->stream);
}

static void counters_are_counted_once_over_both_processes(void **state)
{
    (void)state;
    struct both *b = both_new();
    world_open_loop(&b->from, b->stream, 777);
    both_run(b, 5);
    world_stop(&b->from, b->stream);
    world_run_ns(&b->from, 500 * MS); /* what is in flight ends; the window is half over */
    world_run_ns(&b->to, 500 * MS);
    const struct entity_stream *st = arrive(b, leave(b));
    assert_non_null(st);
    assert_int_equal(st->gateway->hello.subgroup, 7);
    world_open_loop(&b->to, b->stream, 555);
    both_run(b, 5);
    world_stop(&b->to, b->stream);
    both_run(b, 4);
    uint64_t reads = b->to.stream[b->stream].meter.op[IO_READ].completions;
    assert_true(b->from.sample_reads > 777);
    assert_true(b->to.sample_reads > 555);
    assert_int_equal(b->from.sample_reads + b->to.sample_reads, reads);
    assert_int_equal(world_entity(&b->to, b->stream)->gateway->counter_faults, 0);
    both_free(b);
}

/* @same: the version of the agreement that the stream was judged by is in force there, too. */
static void judge(bool same)
{
    struct both *b = both_new();
    world_agree(&b->from, "gold", "db", 50000, 1000);
    world_agree(&b->to, same ? "gold" : "silver", "db", 50000, 1000);
    world_open_loop(&b->from, b->stream, 300);
    both_run(b, 6);
    const struct entity_stream *st = world_entity(&b->from, b->stream);
    enum verdict verdict = st->verdict;
    uint64_t since = st->verdict_since_ns;
    assert_int_equal(verdict, VERDICT_MET);
    st = arrive(b, leave(b));
    assert_non_null(st);
    assert_non_null(st->agreement);
    assert_string_equal(st->agreement->name, same ? "gold" : "silver");
    if (same) {
        assert_int_equal(st->verdict, verdict);
        assert_int_equal(st->verdict_since_ns, since);
        assert_non_null(st->objective);
        assert_ptr_equal(st->objective, &st->agreement->objective[0]);
    } else {
        assert_int_not_equal(st->verdict, verdict);
        assert_null(st->objective);
    }
    both_free(b);
}

static void a_verdict_goes_on_under_the_same_promise_and_not_under_another(void **state)
{
    (void)state;
    judge(true);
    judge(false);
}

static void epochs_of_controls_grow_over_the_move(void **state)
{
    (void)state;
    struct both *b = both_new();
    char why[256];
    struct agreement a = {.version = 1, .per = AGREEMENT_PER_STREAM, .weight = 100,
                          .compliance_window_ns = 10 * S, .compliance_over_ns = 30 * 86400 * S};
    snprintf(a.name, sizeof(a.name), "limit");
    snprintf(a.applies_to.volume, sizeof(a.applies_to.volume), "db");
    for (uint64_t i = 1; i <= 5; i++) { /* the process it leaves has said much, the other nothing */
        a.version = i;
        a.limits.rate[GATE_IOPS_TOTAL].rate = 1000 * i;
        assert_int_equal(services_agreement_put(b->from.services, &a, b->from.now,
                                                world_wall(&b->from), why, sizeof(why)), 0);
        both_run(b, 2);
    }
    uint64_t epoch = b->from.gateway[b->gateway].epoch;
    assert_true(epoch >= 5);
    arrive(b, leave(b));
    a.limits.rate[GATE_IOPS_TOTAL].rate = 400;
    assert_int_equal(services_agreement_put(b->to.services, &a, b->to.now, world_wall(&b->to), why,
                                            sizeof(why)), 0);
    both_run(b, 3);
    assert_true(b->to.gateway[b->gateway].epoch > epoch);
    assert_int_equal(b->to.stream[b->stream].agreed_iops, 400);
    both_free(b);
}

static void who_was_retired_on_the_way_is_so_on_arrival(void **state)
{
    (void)state;
    struct both *b = both_new();
    both_run(b, 3);
    struct gateway_parcel *p = leave(b);
    assert_int_equal(services_document_remove(b->to.services, "Gateway", "gw1", b->to.now,
                                              world_wall(&b->to)),
                     WEIR_E_NOT_FOUND);
    assert_null(arrive(b, p));
    assert_int_equal(services_entities(b->to.services)->gateway_count, 0);
    both_free(b);
}

static void one_that_nobody_imports_is_freed_and_one_that_is_not_known_is_none(void **state)
{
    (void)state;
    struct both *b = both_new();
    world_open_loop(&b->from, b->stream, 100);
    both_run(b, 3);
    uint8_t stranger[GATEWAY_ID_SIZE] = {0xEE};
    assert_null(services_gateway_export(b->from.services, stranger, b->from.now,
                                        world_wall(&b->from)));
    services_parcel_free(leave(b)); /* the leak checker watches */
    services_parcel_free(NULL);
    assert_null(services_gateway_export(b->from.services, id_of(b), b->from.now,
                                        world_wall(&b->from)));
    assert_int_equal(services_entities(b->from.services)->gateway_count, 0);
    both_free(b);
}

/* It stopped reading, or read again, while it was nowhere: the one or the other word was lost. */
static void who_reads_again_after_a_move_is_told_all(void **state)
{
    (void)state;
    for (int heard = 0; heard < 2; heard++) {
        struct both *b = both_new();
        world_open_loop(&b->from, b->stream, 100);
        both_run(b, 3);
        uint64_t session = b->from.gateway[b->gateway].hello.session;
        if (heard)
            services_stalled(b->from.services, session, true, b->from.now, world_wall(&b->from));
        arrive(b, leave(b));
        both_run(b, 2);
        uint64_t full = b->to.full_updates;
        services_stalled(b->to.services, session, false, b->to.now, world_wall(&b->to));
        both_run(b, 2);
        assert_true(b->to.full_updates > full);
        assert_int_equal(world_entity(&b->to, b->stream)->gateway->state, GATEWAY_ADMITTED);
        both_free(b);
    }
}

static void one_with_a_session_is_not_forgotten(void **state)
{
    (void)state;
    struct both *b = both_new();
    both_run(b, 3);
    services_gateway_forget(b->from.services, id_of(b));
    assert_int_equal(services_entities(b->from.services)->gateway_count, 1);
    world_gateway_down(&b->from, b->gateway);
    services_gateway_forget(b->from.services, id_of(b));
    assert_int_equal(services_entities(b->from.services)->gateway_count, 0);
    both_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_are_counted_once_over_both_processes),
        cmocka_unit_test(a_verdict_goes_on_under_the_same_promise_and_not_under_another),
        cmocka_unit_test(epochs_of_controls_grow_over_the_move),
        cmocka_unit_test(who_was_retired_on_the_way_is_so_on_arrival),
        cmocka_unit_test(one_that_nobody_imports_is_freed_and_one_that_is_not_known_is_none),
        cmocka_unit_test(who_reads_again_after_a_move_is_told_all),
        cmocka_unit_test(one_with_a_session_is_not_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
