/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a draining that people want is said until the gateway says that it is in force, by
 * whichever process has the gateway and whatever was away meanwhile, and never before it is known
 * what people want; deaths of workers are told once each, together when they come fast; the end
 * of a certificate is told once a step. Method: the test is the gateway; each poll and event is
 * looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/services/services.h"

#define S    UINT64_C(1000000000)
#define WALL INT64_C(1700000000000000)
#define ID   "01000000000000000000000000000000"

struct stage {
    struct services *s;
    uint64_t now, session;
    struct poll_request poll; /* the last */
    unsigned polls, events;
    char kind[64][40], text[64][400];
};

static int on_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct stage *t = ctx;
    (void)session;
    (void)pair;
    t->poll = *p;
    t->polls++;
    return 0;
}

static int on_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    (void)ctx;
    (void)session;
    (void)pair;
    control_update_free(u);
    return 0;
}

static void on_event(void *ctx, const struct event_record *e)
{
    struct stage *t = ctx;
    assert_true(t->events < 64);
    snprintf(t->kind[t->events], sizeof(t->kind[0]), "%s", e->kind);
    snprintf(t->text[t->events++], sizeof(t->text[0]), "%s", e->text);
}

static struct stage *stage_new(bool manual)
{
    struct stage *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    t->now = 100 * S;
    const struct services_config c = {.period_ns = S,
                                      .lease_ns = 10 * S,
                                      .max_gateways = 4,
                                      .max_streams = 16,
                                      .processes = 1,
                                      .first_epoch = 10,
                                      .manual_admission = manual};
    const struct services_sink sink = {.ctx = t,
                                       .poll = on_poll,
                                       .controls = on_controls,
                                       .event = on_event};
    t->s = services_new(&c, &sink);
    assert_non_null(t->s);
    return t;
}

static void stage_free(struct stage *t)
{
    services_free(t->s);
    free(t);
}

static int64_t wall(const struct stage *t)
{
    return WALL + (int64_t)(t->now / 1000);
}

static void up(struct stage *t, uint8_t boot)
{
    struct gateway_hello h = {.session = ++t->session, .id = {1}, .boot = {boot}};
    snprintf(h.name, sizeof(h.name), "gw");
    snprintf(h.address, sizeof(h.address), "10.0.0.1");
    services_gateway_up(t->s, &h, t->now, wall(t));
}

/* Answer the last poll. */
static void answer(struct stage *t, uint8_t boot, struct report_drain drain, uint64_t deaths)
{
    struct report r = {.session = t->session,
                       .boot = {boot},
                       .seq = t->poll.seq,
                       .mono_ns = t->now,
                       .has_upkeep = true,
                       .life = {.deaths = deaths, .last_death = "SIGSEGV"},
                       .drain = drain};
    services_report(t->s, &r, t->now, wall(t));
}

static void next_poll(struct stage *t)
{
    unsigned polls = t->polls;
    while (t->polls == polls) {
        t->now = services_next_ns(t->s);
        services_tick(t->s, t->now, wall(t));
    }
}

static unsigned told(const struct stage *t, const char *kind)
{
    unsigned n = 0;
    for (unsigned i = 0; i < t->events; i++)
        n += strcmp(t->kind[i], kind) == 0;
    return n;
}

static int drain(struct stage *t, uint64_t since, int64_t deadline_us)
{
    return services_gateway_drain(t->s, ID, since, deadline_us, t->now, wall(t));
}

static const struct report_drain takes = {.connections = 2};

static void a_draining_is_said_until_it_is_in_force_and_so_is_its_end(void **state)
{
    (void)state;
    struct stage *t = stage_new(false);
    services_loaded(t->s, t->now, wall(t));
    up(t, 1);
    assert_false(t->poll.drain.said);
    answer(t, 1, takes, 0);
    assert_int_equal(drain(t, 77, wall(t) + 60000000), 0);
    assert_true(t->poll.drain.said); /* at once */
    assert_int_equal(t->poll.drain.since, 77);
    assert_true(t->poll.drain.bounded);
    assert_int_equal(t->poll.drain.left_ms, 60000);
    next_poll(t); /* the answer did not come */
    assert_true(t->poll.drain.said);
    assert_true(t->poll.drain.left_ms < 60000);
    answer(t, 1, (struct report_drain){.since = 77, .connections = 2}, 0);
    next_poll(t);
    assert_false(t->poll.drain.said);
    assert_int_equal(told(t, "gateway-draining"), 1);
    assert_int_equal(told(t, "gateway-drained"), 0);
    for (int i = 0; i < 2; i++) {
        answer(t, 1, (struct report_drain){.since = 77}, 0);
        next_poll(t);
    }
    assert_int_equal(told(t, "gateway-drained"), 1);
    assert_int_equal(drain(t, 0, 0), 0);
    next_poll(t);
    assert_true(t->poll.drain.said);
    assert_int_equal(t->poll.drain.since, 0);
    answer(t, 1, takes, 0);
    next_poll(t);
    assert_false(t->poll.drain.said);
    assert_int_equal(told(t, "gateway-undrained"), 1);
    stage_free(t);
}

static void nothing_is_said_before_it_is_known_what_people_want(void **state)
{
    (void)state;
    struct stage *t = stage_new(false);
    const struct report_drain drained = {.since = 77};
    up(t, 1);
    answer(t, 1, drained, 0);
    next_poll(t);
    assert_false(t->poll.drain.said); /* else a server that begins would take it back */
    assert_int_equal(drain(t, 77, 0), 0);
    services_loaded(t->s, t->now, wall(t));
    answer(t, 1, drained, 0);
    next_poll(t);
    assert_false(t->poll.drain.said);
    assert_int_equal(told(t, "gateway-draining") + told(t, "gateway-drained"), 0);
    stage_free(t);
}

static void one_that_is_away_is_neither_forgotten_nor_left_in_its_old_state(void **state)
{
    (void)state;
    struct stage *t = stage_new(false);
    services_loaded(t->s, t->now, wall(t));
    assert_int_equal(drain(t, 77, 0), 0); /* before this process ever saw it */
    up(t, 1);
    answer(t, 1, takes, 0);
    next_poll(t);
    assert_true(t->poll.drain.said);
    assert_false(t->poll.drain.bounded);
    services_gateway_down(t->s, t->session, "gone", t->now, wall(t));
    for (int day = 0; day < 3; day++) {
        t->now += 86400 * S;
        services_tick(t->s, t->now, wall(t));
    }
    assert_int_equal(services_entities(t->s)->gateway_count, 1);
    up(t, 2);
    answer(t, 2, takes, 0);
    next_poll(t);
    assert_int_equal(t->poll.drain.since, 77);
    assert_int_equal(services_document_remove(t->s, "Gateway", ID, t->now, wall(t)), 0);
    up(t, 2);
    answer(t, 2, takes, 0);
    next_poll(t);
    assert_false(t->poll.drain.said); /* retired is forgotten */
    stage_free(t);
}

static void one_that_waits_to_be_admitted_is_told_nothing(void **state)
{
    (void)state;
    struct stage *t = stage_new(true);
    services_loaded(t->s, t->now, wall(t));
    up(t, 1);
    answer(t, 1, takes, 0);
    assert_int_equal(drain(t, 77, 0), 0);
    next_poll(t);
    assert_false(t->poll.drain.said);
    answer(t, 1, takes, 0);
    assert_int_equal(services_gateway_admit(t->s, "gw", t->now, wall(t)), 0);
    next_poll(t);
    assert_int_equal(t->poll.drain.since, 77);
    stage_free(t);
}

static void deaths_are_told_together_and_each_once(void **state)
{
    (void)state;
    struct stage *t = stage_new(false);
    services_loaded(t->s, t->now, wall(t));
    up(t, 1);
    answer(t, 1, takes, 3); /* before this server looked */
    assert_int_equal(told(t, "gateway-worker-died"), 0);
    for (uint64_t deaths = 4; deaths <= 8; deaths++) {
        next_poll(t);
        answer(t, 1, takes, deaths);
    }
    assert_int_equal(told(t, "gateway-worker-died"), 1);
    for (int i = 0; i < 10; i++) {
        next_poll(t);
        answer(t, 1, takes, 8);
    }
    assert_int_equal(told(t, "gateway-worker-died"), 2);
    assert_non_null(strstr(t->text[t->events - 1], "died 4 times"));
    assert_non_null(strstr(t->text[t->events - 1], "SIGSEGV"));
    for (int i = 0; i < 15; i++) {
        next_poll(t);
        answer(t, 1, takes, 8);
    }
    assert_int_equal(told(t, "gateway-worker-died"), 2);
    /* Started anew its count begins at 0. */
    services_gateway_down(t->s, t->session, "gone", t->now, wall(t));
    up(t, 2);
    answer(t, 2, takes, 0);
    next_poll(t);
    answer(t, 2, takes, 1);
    assert_int_equal(told(t, "gateway-worker-died"), 3);
    stage_free(t);
}

/* Answer the next poll with a certificate that ends so many days after the stage's beginning. */
static void shows(struct stage *t, const char *of, int64_t until_day)
{
    next_poll(t);
    struct report r = {.session = t->session,
                       .boot = {1},
                       .seq = t->poll.seq,
                       .mono_ns = t->now,
                       .has_upkeep = true,
                       .life = {.certificate_from_s = 1,
                                .certificate_until_s = WALL / 1000000 + until_day * 86400},
                       .drain = takes};
    snprintf(r.life.certificate, sizeof(r.life.certificate), "%s", of);
    services_report(t->s, &r, t->now, wall(t));
}

static void the_end_of_a_certificate_is_told_once_a_step_and_a_new_one_is_looked_at_anew(
    void **state)
{
    (void)state;
    struct stage *t = stage_new(false);
    services_loaded(t->s, t->now, wall(t));
    up(t, 1);
    shows(t, "listener db", 100);
    shows(t, "listener db", 31);
    assert_int_equal(told(t, "gateway-certificate-ends"), 0);
    shows(t, "listener db", 29);
    shows(t, "listener db", 29);
    shows(t, "listener db", 29);
    assert_int_equal(told(t, "gateway-certificate-ends"), 1);
    assert_non_null(strstr(t->text[t->events - 1],
                           "gateway gw: the certificate of [listener db] in its gateway.conf: it "
                           "ends on 2023-12-13 "));
    /* Another that ends as soon, renewed, and one that does not count any more. */
    shows(t, "target a", 29);
    assert_int_equal(told(t, "gateway-certificate-ends"), 2);
    shows(t, "target a", 365);
    assert_int_equal(told(t, "gateway-certificate-ends"), 2);
    assert_int_equal(told(t, "gateway-certificate-invalid"), 0);
    shows(t, "target a", -3);
    shows(t, "target a", -3);
    assert_int_equal(told(t, "gateway-certificate-invalid"), 1);
    assert_non_null(strstr(t->text[t->events - 1], "it ended on 2023-11-11 "));
    /* Time goes on for one that stays. */
    shows(t, "listener db", 8);
    assert_int_equal(told(t, "gateway-certificate-ends"), 3);
    for (int day = 0; day < 2; day++) {
        for (int i = 0; i < 24; i++) {
            t->now += 3600 * S;
            services_tick(t->s, t->now, wall(t));
        }
        up(t, 1);
        services_tick(t->s, t->now, wall(t));
        shows(t, "listener db", 8);
    }
    assert_int_equal(told(t, "gateway-certificate-ends"), 4);
    stage_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_draining_is_said_until_it_is_in_force_and_so_is_its_end),
        cmocka_unit_test(nothing_is_said_before_it_is_known_what_people_want),
        cmocka_unit_test(one_that_is_away_is_neither_forgotten_nor_left_in_its_old_state),
        cmocka_unit_test(one_that_waits_to_be_admitted_is_told_nothing),
        cmocka_unit_test(deaths_are_told_together_and_each_once),
        cmocka_unit_test(
            the_end_of_a_certificate_is_told_once_a_step_and_a_new_one_is_looked_at_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
