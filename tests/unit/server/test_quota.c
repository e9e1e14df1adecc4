/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a limit whose gateways are at several SLA processes holds as one sum, whatever is late,
 * stands still, moves or changes; and where the demand is there the limit goes.
 * Method: real services, three processes of them, on a virtual clock; messages between them and to
 * gateways wait in queues for random times, find no room at random, processes stand still. After
 * each step all tokens are counted wherever they are, and each gateway's limit in force is added
 * up: also while gateways move, acknowledgements are lost and the server starts anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quota_fleet.h"

static void no_token_is_made_or_lost_whatever_happens(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct quota_fleet *f = fleet_new(seed, seed % 2 * 200000);
        f->moves = true;
        for (size_t i = 0; i < GATEWAYS; i++)
            fleet_gateway_up(f, &f->gateway[i]);
        for (int i = 0; i < 3000; i++) {
            fleet_step(f);
            if (i % 3 == 0)
                fleet_something(f);
        }
        fleet_settle(f);
        assert_true(fleet_in_force(f, false) <= f->limit + GATEWAYS);
        assert_true(fleet_in_force(f, true) <= 2 * f->limit + GATEWAYS);
        if (f->limit > 10 * GATEWAYS)
            assert_true(fleet_in_force(f, false) + GATEWAYS >= f->limit);
        fleet_free(f);
    }
}

/* A unit for each gateway, since none has nothing, and one for what rounding adds at each. */
static void step_within_the_limit(struct quota_fleet *f)
{
    fleet_step(f);
    uint64_t sum = fleet_in_force(f, false), tenant = fleet_in_force(f, true);
    if (sum > LIMIT + 2 * GATEWAYS || tenant > 2 * LIMIT + 2 * GATEWAYS)
        fail_msg("%llu and %llu are in force", (unsigned long long)sum, (unsigned long long)tenant);
}

static void something_but_other_limits(struct quota_fleet *f)
{
    struct played *g = &f->gateway[rng_below(&f->rng, GATEWAYS)];
    uint64_t n = rng_below(&f->rng, 40);
    if (n < 10) {
        g->demand = rng_below(&f->rng, 2) * rng_below(&f->rng, 2 * LIMIT);
    } else if (n == 10) {
        f->process[rng_below(&f->rng, PROCESSES)].stalled_until_ns =
            f->now + rng_below(&f->rng, 6) * S;
    } else if (n < 20 && f->moves) {
        fleet_depart(f, g, (int)rng_below(&f->rng, PROCESSES));
    } else if (n == 20 && g->up && g->process >= 0) {
        services_gateway_down(f->process[g->process].services, g->hello.session, "cut", f->now,
                              fleet_wall(f));
        g->up = false;
    } else if (n < 30 && !g->up && g->process >= 0) {
        fleet_gateway_up(f, g);
    }
}

static void the_sum_in_force_never_exceeds_the_limit(void **state)
{
    (void)state;
    for (uint64_t seed = 11; seed <= 22; seed++) {
        struct quota_fleet *f = fleet_new(seed, seed % 2 * 200000);
        f->lost_ppm = (uint32_t)(seed % 3) * 200000;
        f->moves = seed > 16;
        for (size_t i = 0; i < GATEWAYS; i++) {
            fleet_gateway_up(f, &f->gateway[i]);
            f->gateway[i].demand = i * LIMIT;
        }
        for (int i = 0; i < 4000; i++) {
            step_within_the_limit(f);
            if (i % 5 == 0)
                something_but_other_limits(f);
        }
        fleet_settle(f);
        assert_true(fleet_in_force(f, false) + 2 * GATEWAYS >= LIMIT);
        fleet_free(f);
    }
}

/* They return in any order, some while others have not been heard for long, and ask for more. */
static void the_sum_holds_over_starts_of_the_server(void **state)
{
    (void)state;
    for (uint64_t seed = 101; seed <= 112; seed++) {
        struct quota_fleet *f = fleet_new(seed, seed % 2 * 200000);
        f->tell = true;
        for (size_t i = 0; i < GATEWAYS; i++) {
            fleet_gateway_up(f, &f->gateway[i]);
            f->gateway[i].demand = i * LIMIT;
        }
        fleet_run(f, 10);
        for (int start = 0; start < 6; start++) {
            fleet_restart(f);
            for (int i = 0; i < 1000; i++) {
                struct played *g = &f->gateway[rng_below(&f->rng, GATEWAYS)];
                if (i % 50 == 0 && !g->up)
                    fleet_gateway_up(f, g);
                if (i % 20 == 0)
                    g->demand = rng_below(&f->rng, 2) * rng_below(&f->rng, 5 * LIMIT);
                step_within_the_limit(f);
            }
        }
        fleet_settle(f);
        assert_true(fleet_in_force(f, false) + 2 * GATEWAYS >= LIMIT);
        fleet_free(f);
    }
}

/* Nor is anything divided anew while it is waited for: that would be a write to disks each time. */
static void one_that_does_not_follow_is_waited_for_but_not_for_ever(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(131, 0);
    struct played *deaf = &f->gateway[0], *other = &f->gateway[3]; /* at one process */
    fleet_gateway_up(f, deaf);
    fleet_gateway_up(f, other);
    deaf->demand = 5 * LIMIT;
    fleet_run(f, 10);
    uint64_t had = deaf->cap, stake = other->cap;
    assert_true(had > LIMIT * 9 / 10);
    deaf->deaf = true;
    other->demand = 5 * LIMIT;
    other->orders = 0;
    for (uint64_t begin = f->now; f->now < begin + 55 * S;)
        step_within_the_limit(f);
    assert_int_equal(deaf->cap, had);
    assert_true(other->orders <= 4);
    fleet_run(f, 15);
    assert_true(other->cap > 4 * stake);
    deaf->deaf = false;
    fleet_run(f, 10);
    step_within_the_limit(f);
    fleet_free(f);
}

/* Nothing of it changes, but all streams are covered anew. */
static void another_agreement_over_its_streams_gives_nobody_more_at_once(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(141, 0);
    struct agreement other = {.version = 1,
                              .weight = AGREEMENT_WEIGHT,
                              .per = AGREEMENT_PER_GROUP,
                              .compliance_window_ns = 10 * S};
    char why[256];
    snprintf(other.name, NAME_SIZE, "other");
    snprintf(other.applies_to.host, NAME_SIZE, "h-*");
    other.limits.rate[GATE_IOPS_TOTAL].rate = 100 * LIMIT;
    fleet_gateway_up(f, &f->gateway[0]);
    fleet_gateway_up(f, &f->gateway[3]); /* at the same process */
    f->gateway[0].demand = 5 * LIMIT;
    fleet_run(f, 10);
    assert_true(f->gateway[0].cap > LIMIT * 9 / 10);
    for (int times = 0; times < 10; times++) {
        for (size_t i = 0; i < PROCESSES; i++) {
            struct services *s = f->process[i].services;
            int r = times % 2 == 0
                        ? services_agreement_put(s, &other, f->now, fleet_wall(f), why, sizeof(why))
                        : services_document_remove(s, "Agreement", "other", f->now, fleet_wall(f));
            assert_int_equal(r, 0);
        }
        for (int i = 0; i < 20; i++)
            step_within_the_limit(f);
        assert_true(f->gateway[0].cap > LIMIT * 9 / 10);
    }
    fleet_free(f);
}

/* The next order comes before it is known that one was refused, and is carried out. */
static void an_order_that_is_refused_is_not_followed_by_following_the_next(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(171, 0);
    struct played *one = &f->gateway[0], *other = &f->gateway[3]; /* at one process */
    fleet_gateway_up(f, one);
    fleet_gateway_up(f, other);
    one->demand = 5 * LIMIT;
    fleet_run(f, 10);
    assert_true(one->cap > LIMIT * 9 / 10);
    one->refuses = true;
    other->demand = 5 * LIMIT;
    struct services *s = f->process[0].services;
    bool more = false;
    for (int i = 0; i < 400 && one->refuses; i++) {
        step_within_the_limit(f);
        for (size_t k = 0; k < one->letters && !more; k++) {
            const struct letter *l = &one->letter[(one->head + k) % QUEUE];
            if (l->update == NULL)
                continue;
            struct tenant t = {.version = 2, .member_count = 1};
            snprintf(t.name, NAME_SIZE, "acme");
            snprintf(t.member[0].host, NAME_SIZE, "h-*");
            t.limits.rate[GATE_IOPS_TOTAL].rate = 2 * LIMIT - 10;
            assert_int_equal(services_tenant_put(s, &t, f->now, fleet_wall(f)), 0);
            more = true;
        }
    }
    assert_true(more);
    assert_false(one->refuses);
    for (int i = 0; i < 1500; i++)
        step_within_the_limit(f);
    assert_true(other->cap > LIMIT * 4 / 10);
    fleet_free(f);
}

/* Also where they were the last that a process had. */
static void what_lost_gateways_had_goes_to_another_process(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(151, 0);
    for (size_t i = 0; i < 2; i++) {
        fleet_gateway_up(f, &f->gateway[i]);
        f->gateway[i].demand = 5 * LIMIT;
    }
    fleet_run(f, 20);
    struct played *g = &f->gateway[1];
    assert_true(g->cap > LIMIT * 4 / 10);
    services_gateway_down(f->process[1].services, g->hello.session, "cut", f->now, fleet_wall(f));
    g->up = false;
    fleet_run(f, 50);
    assert_true(f->gateway[0].cap < LIMIT * 6 / 10);
    fleet_run(f, 25);
    assert_in_range(f->gateway[0].cap, LIMIT - 2 * GATEWAYS, LIMIT);
    fleet_free(f);
}

/* Its session stands, and so it is not lost; but nothing is heard of what it has in force. */
static void one_that_returns_and_does_not_answer_is_waited_for_a_minute(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(161, 0);
    f->tell = true;
    struct played *one = &f->gateway[0], *mute = &f->gateway[3]; /* at one process */
    fleet_gateway_up(f, one);
    fleet_gateway_up(f, mute);
    one->demand = mute->demand = 5 * LIMIT;
    fleet_run(f, 20);
    fleet_restart(f);
    mute->mute = true;
    fleet_gateway_up(f, one);
    fleet_gateway_up(f, mute);
    for (uint64_t begin = f->now; f->now < begin + 50 * S;)
        step_within_the_limit(f);
    assert_true(one->cap < LIMIT * 6 / 10);
    fleet_run(f, 20);
    assert_in_range(one->cap, LIMIT - 2, LIMIT);
    fleet_free(f);
}

/* One that never returns is waited for as long as one that is lost. */
static void what_one_had_who_does_not_return_goes_to_the_others(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(121, 0);
    f->tell = true;
    for (size_t i = 0; i < 2; i++) {
        fleet_gateway_up(f, &f->gateway[i]);
        f->gateway[i].demand = 5 * LIMIT;
    }
    fleet_run(f, 20);
    uint64_t had = f->gateway[0].cap;
    assert_true(had > LIMIT * 4 / 10 && had < LIMIT * 6 / 10);
    fleet_restart(f);
    fleet_gateway_up(f, &f->gateway[0]);
    for (uint64_t begin = f->now; f->now < begin + 50 * S;) {
        step_within_the_limit(f);
        assert_true(f->gateway[0].cap <= had + 2);
        if (f->now > begin + 3 * S)
            assert_true(f->gateway[0].cap + 2 >= had);
    }
    fleet_run(f, 20);
    assert_in_range(f->gateway[0].cap, LIMIT - 2, LIMIT);
    fleet_free(f);
}

static void the_limit_goes_where_the_demand_is(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(21, 0);
    fleet_gateway_up(f, &f->gateway[0]);
    fleet_gateway_up(f, &f->gateway[1]);
    fleet_gateway_up(f, &f->gateway[2]);
    f->gateway[1].demand = 5 * LIMIT;
    fleet_run(f, 20);
    assert_true(f->gateway[1].cap > LIMIT * 9 / 10);
    f->gateway[1].demand = 0;
    f->gateway[2].demand = 5 * LIMIT;
    fleet_run(f, 20);
    assert_true(f->gateway[2].cap > LIMIT * 9 / 10);
    f->gateway[0].demand = 5 * LIMIT;
    fleet_run(f, 20);
    assert_true(f->gateway[0].cap > LIMIT * 4 / 10 && f->gateway[2].cap > LIMIT * 4 / 10);
    fleet_free(f);
}

static void one_that_is_alone_has_all_of_it_to_the_unit(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(31, 0);
    fleet_gateway_up(f, &f->gateway[1]);
    fleet_run(f, 5);
    assert_int_equal(f->gateway[1].cap, LIMIT);
    /* And takes it along. */
    fleet_depart(f, &f->gateway[1], 2);
    for (int i = 0; i < 500; i++) {
        fleet_step(f);
        assert_int_equal(f->gateway[1].cap, LIMIT);
    }
    fleet_free(f);
}

static void one_that_stands_still_keeps_its_part_and_the_others_divide_the_rest(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(41, 0);
    for (size_t i = 0; i < 2; i++) {
        fleet_gateway_up(f, &f->gateway[i]);
        f->gateway[i].demand = 5 * LIMIT;
    }
    fleet_run(f, 20);
    uint64_t kept = f->gateway[1].cap;
    assert_true(kept > LIMIT * 4 / 10);
    f->process[1].stalled_until_ns = f->now + 1000 * S;
    fleet_gateway_up(f, &f->gateway[2]);
    f->gateway[2].demand = 5 * LIMIT;
    fleet_run(f, 20);
    assert_int_equal(f->gateway[1].cap, kept);
    uint64_t rest = LIMIT - kept;
    assert_true(f->gateway[0].cap > rest * 4 / 10 && f->gateway[2].cap > rest * 4 / 10);
    assert_true(fleet_in_force(f, false) <= LIMIT + PROCESSES);
    /* A new claim while nobody coordinates: even parts at once. */
    f->process[0].stalled_until_ns = f->now + 1000 * S;
    fleet_free(f);
    f = fleet_new(42, 0);
    f->process[0].stalled_until_ns = f->now + 1000 * S;
    fleet_gateway_up(f, &f->gateway[1]);
    fleet_run(f, 5);
    assert_in_range(f->gateway[1].cap, LIMIT / 3 - 1, LIMIT / 3);
    f->process[0].stalled_until_ns = 0;
    fleet_run(f, 5);
    assert_int_equal(f->gateway[1].cap, LIMIT);
    fleet_free(f);
}

static void what_nobody_uses_is_forgotten(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(51, 0);
    for (size_t i = 0; i < GATEWAYS; i++) {
        fleet_gateway_up(f, &f->gateway[i]);
        f->gateway[i].demand = 1000 * i;
    }
    fleet_run(f, 10);
    assert_int_equal(coordinator_count(f->process[0].services->coordinator), 2);
    for (size_t i = 0; i < PROCESSES; i++) {
        assert_int_equal(services_document_remove(f->process[i].services, "Agreement", "cap",
                                                  f->now, fleet_wall(f)),
                         0);
        assert_int_equal(services_document_remove(f->process[i].services, "Tenant", "acme", f->now,
                                                  fleet_wall(f)),
                         0);
    }
    fleet_run(f, 5);
    assert_int_equal(coordinator_count(f->process[0].services->coordinator), 0);
    for (size_t i = 0; i < PROCESSES; i++) {
        const struct table *t = &f->process[i].services->by_quota;
        for (size_t k = 0; k <= t->mask; k++)
            assert_true(list_empty(&t->slot[k]));
    }
    fleet_free(f);
}

/* The coordinator orders a process that has no streams to lend all it has; before the order is
 * there, streams are. They were not known of, so the order counts for nothing. */
static void an_order_that_crosses_news_is_not_followed(void **state)
{
    (void)state;
    struct quota_fleet *f = fleet_new(61, 0);
    fleet_run(f, 1); /* what is said after a start is said */
    fleet_gateway_up(f, &f->gateway[0]);
    f->gateway[0].demand = 5 * LIMIT;
    for (int i = 0; f->posts[0][1] == 0; i++) {
        assert_true(i < 1000);
        fleet_step(f);
    }
    fleet_hold_posts(f, 0, 1, true);
    fleet_gateway_up(f, &f->gateway[1]);
    for (int i = 0; f->gateway[1].cap == 0; i++) {
        assert_true(i < 1000);
        fleet_step(f);
        fleet_hold_posts(f, 0, 1, true);
    }
    uint32_t even = share_default(1, PROCESSES);
    const struct quota *q = fleet_quota(&f->process[1], AGREEMENT);
    assert_non_null(q);
    assert_int_equal(q->own[GATE_IOPS_TOTAL], even);
    /* The orders of before, and nothing else: the coordinator has not heard of the streams. */
    bool ordered = false;
    for (size_t i = 0; i < f->posts[0][1]; i++) {
        const struct share_batch *b = f->post[0][1][(f->first[0][1] + i) % QUEUE].batch;
        for (size_t k = 0; k < b->grants; k++)
            ordered |= fleet_same_key(b->grant[k].key, fleet_key(AGREEMENT)) &&
                       b->grant[k].keep[GATE_IOPS_TOTAL] == 0;
    }
    assert_true(ordered);
    struct post first = f->post[0][1][f->first[0][1]];
    assert_true(first.batch->grants > 0);
    f->first[0][1] = (f->first[0][1] + 1) % QUEUE;
    f->posts[0][1]--;
    services_share(f->process[1].services, first.batch, f->now, fleet_wall(f));
    free(first.batch);
    assert_int_equal(q->own[GATE_IOPS_TOTAL], even);
    assert_int_equal(q->held[GATE_IOPS_TOTAL], 0);
    assert_in_range(f->gateway[1].cap, LIMIT / 3 - 1, LIMIT / 3);
    fleet_hold_posts(f, 0, 1, false);
    fleet_settle(f);
    assert_true(fleet_in_force(f, false) <= LIMIT + GATEWAYS);
    assert_true(fleet_in_force(f, false) + GATEWAYS >= LIMIT);
    fleet_free(f);
}

/* What is ordered away is still in force at a gateway that has not followed yet; when it moves it
 * takes along what covers that, so that nobody else may use it. */
static void one_that_moves_while_tokens_are_given_back_takes_what_it_uses(void **state)
{
    (void)state;
    size_t seen = 0;
    for (uint64_t seed = 71; seed <= 90; seed++) {
        struct quota_fleet *f = fleet_new(seed, 0);
        struct played *g = &f->gateway[1]; /* and 4, at the same process */
        fleet_gateway_up(f, g);
        fleet_gateway_up(f, &f->gateway[4]);
        g->demand = 5 * LIMIT;
        fleet_run(f, 20);
        assert_true(g->cap > LIMIT / 2);
        fleet_gateway_up(f, &f->gateway[0]);
        f->gateway[0].demand = 5 * LIMIT;
        const struct quota *q = fleet_quota(&f->process[1], AGREEMENT);
        assert_non_null(q);
        for (int i = 0; i < 3000 && q->held[GATE_IOPS_TOTAL] == 0; i++)
            fleet_step(f);
        if (q->held[GATE_IOPS_TOTAL] == 0) {
            fleet_free(f);
            continue;
        }
        seen++;
        uint64_t used = g->cap; /* it has not heard yet, or has just */
        uint64_t before = (uint64_t)q->own[GATE_IOPS_TOTAL] + q->held[GATE_IOPS_TOTAL];
        fleet_depart(f, g, 2);
        const struct gateway *moving = (const struct gateway *)g->parcel;
        uint64_t carried = 0;
        for (size_t k = 0; k < moving->carried_count; k++) {
            if (fleet_same_key(moving->carried[k].key, fleet_key(AGREEMENT)))
                carried += moving->carried[k].tokens[GATE_IOPS_TOTAL];
        }
        q = fleet_quota(&f->process[1], AGREEMENT);
        assert_non_null(q);
        assert_int_equal(carried + q->own[GATE_IOPS_TOTAL] + q->held[GATE_IOPS_TOTAL], before);
        assert_true(carried * LIMIT / SHARE_ONE + 1 >= used);
        fleet_check_tokens(f, AGREEMENT);
        fleet_check_tokens(f, TENANT);
        f->gateway[4].demand = LIMIT;
        fleet_settle(f);
        assert_int_equal(g->process, 2);
        assert_true(fleet_in_force(f, false) <= LIMIT + GATEWAYS);
        assert_true(fleet_in_force(f, false) + GATEWAYS >= LIMIT);
        fleet_free(f);
    }
    assert_true(seen > 10);
}

/* A member that says how it stands to a coordinator of two. */
struct member {
    struct share_note note;
};

/* It asks for so much; what it is told is followed at once, and said with the next word. */
static void says(struct coordinator *c, struct member *m, uint32_t i, double demand, uint64_t now)
{
    m[i].note.demand[GATE_IOPS_TOTAL] = demand;
    m[i].note.wanting[GATE_IOPS_TOTAL] = demand > 500;
    coordinator_note(c, i, &m[i].note, now);
    m[i].note.returned[GATE_IOPS_TOTAL] = 0;
    coordinator_run(c, now);
}

static bool somebody_is_ordered(struct coordinator *c, struct member *m)
{
    bool ordered = false;
    for (uint32_t i = 0; i < 2; i++) {
        struct share_grant g[4];
        size_t n = coordinator_take(c, i, g, 4);
        for (size_t k = 0; k < n; k++) {
            struct share_note *note = &m[i].note;
            uint32_t own = note->own[GATE_IOPS_TOTAL] + g[k].granted[GATE_IOPS_TOTAL];
            uint32_t keep = g[k].keep[GATE_IOPS_TOTAL];
            uint32_t back = own > keep ? own - keep : 0;
            note->own[GATE_IOPS_TOTAL] = own - back;
            note->returned[GATE_IOPS_TOTAL] += back;
            ordered |= back > 0;
        }
    }
    return ordered;
}

/* Both say how they stand: together they ask for 1100. True: one was ordered to keep less. */
static bool both_say(struct coordinator *c, struct member *m, double first, uint64_t now)
{
    says(c, m, 0, first, now);
    says(c, m, 1, 1100 - first, now);
    return somebody_is_ordered(c, m);
}

static void members_are_ordered_once_in_half_a_period_or_for_a_cause(void **state)
{
    (void)state;
    struct coordinator *c = coordinator_new(2, S);
    assert_non_null(c);
    struct member m[2];
    uint64_t now = 100 * S;
    for (uint32_t i = 0; i < 2; i++) {
        m[i].note =
            (struct share_note){.key = {1, 2}, .seq = 1, .member = true, .connected = true};
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            m[i].note.own[k] = share_default(i, 2);
        m[i].note.limit[GATE_IOPS_TOTAL] = 1000;
    }
    assert_true(both_say(c, m, 1000, now)); /* they are new */
    assert_false(both_say(c, m, 1000, now + 50 * MS)); /* what came back is given on */
    assert_false(both_say(c, m, 1000, now + 100 * MS));
    assert_true(m[0].note.own[GATE_IOPS_TOTAL] > 2 * m[1].note.own[GATE_IOPS_TOTAL]);
    /* Demand changes sides: it is worth an order, but not yet. */
    for (uint64_t ms = 150; ms < 500; ms += 50)
        assert_false(both_say(c, m, 100, now + ms * MS));
    assert_true(both_say(c, m, 100, now + 510 * MS));
    assert_false(both_say(c, m, 100, now + 560 * MS));
    assert_false(both_say(c, m, 100, now + 610 * MS));
    assert_true(m[1].note.own[GATE_IOPS_TOTAL] > 2 * m[0].note.own[GATE_IOPS_TOTAL]);
    /* And back, with a cause: another limit. */
    assert_false(both_say(c, m, 1000, now + 660 * MS));
    m[0].note.limit[GATE_IOPS_TOTAL] = m[1].note.limit[GATE_IOPS_TOTAL] = 900;
    assert_true(both_say(c, m, 1000, now + 710 * MS));
    coordinator_free(c);
}

/* Who is alone with a claim that gets its limit later has all of it, too. */
static void those_without_streams_lend_of_a_limit_that_comes_later(void **state)
{
    (void)state;
    struct coordinator *c = coordinator_new(2, S);
    assert_non_null(c);
    struct share_note note = {.key = {1, 2}, .seq = 1, .member = true, .connected = true};
    struct share_grant g;
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        note.own[k] = share_default(0, 2);
    coordinator_note(c, 0, &note, 100 * S);
    coordinator_run(c, 100 * S);
    for (size_t n = coordinator_take(c, 1, &g, 1); n > 0; n = coordinator_take(c, 1, &g, 1))
        assert_int_equal(g.keep[GATE_IOPS_TOTAL], SHARE_ONE); /* nothing is wanted of it */
    note.limit[GATE_IOPS_TOTAL] = 1000;
    note.seq = 2;
    coordinator_note(c, 0, &note, 101 * S);
    coordinator_run(c, 101 * S);
    assert_int_equal(coordinator_take(c, 1, &g, 1), 1);
    assert_int_equal(g.keep[GATE_IOPS_TOTAL], 0);
    assert_int_equal(g.keep[GATE_IOPS_READ], SHARE_ONE);
    coordinator_run(c, 102 * S);
    assert_int_equal(coordinator_take(c, 1, &g, 1), 0); /* it was asked once */
    coordinator_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_that_crosses_news_is_not_followed),
        cmocka_unit_test(one_that_moves_while_tokens_are_given_back_takes_what_it_uses),
        cmocka_unit_test(no_token_is_made_or_lost_whatever_happens),
        cmocka_unit_test(the_sum_in_force_never_exceeds_the_limit),
        cmocka_unit_test(the_sum_holds_over_starts_of_the_server),
        cmocka_unit_test(one_that_does_not_follow_is_waited_for_but_not_for_ever),
        cmocka_unit_test(what_one_had_who_does_not_return_goes_to_the_others),
        cmocka_unit_test(another_agreement_over_its_streams_gives_nobody_more_at_once),
        cmocka_unit_test(an_order_that_is_refused_is_not_followed_by_following_the_next),
        cmocka_unit_test(what_lost_gateways_had_goes_to_another_process),
        cmocka_unit_test(one_that_returns_and_does_not_answer_is_waited_for_a_minute),
        cmocka_unit_test(the_limit_goes_where_the_demand_is),
        cmocka_unit_test(one_that_is_alone_has_all_of_it_to_the_unit),
        cmocka_unit_test(one_that_stands_still_keeps_its_part_and_the_others_divide_the_rest),
        cmocka_unit_test(what_nobody_uses_is_forgotten),
        cmocka_unit_test(members_are_ordered_once_in_half_a_period_or_for_a_cause),
        cmocka_unit_test(those_without_streams_lend_of_a_limit_that_comes_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
