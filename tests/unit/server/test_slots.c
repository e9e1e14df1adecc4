/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a storage's window is divided among its gateways as slots.c promises: nothing where one
 * gateway can do it alone, where nobody has a share, or where only watching is allowed; else the
 * parts of those that wait, and what the others use, are the window; by what is owed; and an early
 * warning divides anew without learning.
 * Method: played gateways that say what each test wants of their target, on a virtual clock; the
 * slots are those that are sent to them. What is random is so over many seeds; a failure prints
 * its seed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "server/services/state.h"

#define S        UINT64_C(1000000000)
#define WALL     INT64_C(1795413600000000)
#define GATEWAYS 6u
#define STREAMS  2u
/* Periods until what was reported is a whole window and its division is sent. */
#define SETTLED  5u

struct played_stream {
    char volume[NAME_SIZE]; /* "": none */
    double ios;             /* served a second */
    bool waits;             /* more of it waits for its turn */
    uint64_t count, cost_ns;
};

struct played {
    struct gateway_hello hello;
    bool up, asked;
    uint64_t seq, epoch, at_ns;
    double use, full; /* in flight in the mean; part of the time with work waiting */
    uint64_t io_ns;   /* device time of one I/O as the gateway reckons */
    struct report_target target;
    struct played_stream stream[STREAMS];
    uint64_t slots_milli; /* as sent; 0: it finds its own */
};

struct stage {
    struct services *services;
    struct played gateway[GATEWAYS];
    uint64_t now, session;
};

static struct played *by_session(struct stage *g, uint64_t session)
{
    for (size_t i = 0; i < GATEWAYS; i++) {
        if (g->gateway[i].up && g->gateway[i].hello.session == session)
            return &g->gateway[i];
    }
    return NULL;
}

static int sink_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct played *g = by_session(ctx, session);
    (void)pair;
    if (g == NULL)
        return 0;
    g->asked = true;
    g->seq = p->seq;
    return 0;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct played *g = by_session(ctx, session);
    (void)pair;
    for (size_t i = 0; g != NULL && i < u->item_count; i++) {
        const struct control_item *item = &u->item[i];
        if (strncmp(item->id, "target/", 7) == 0)
            g->slots_milli = item->remove ? 0 : item->plan.slots_milli;
    }
    if (g != NULL)
        g->epoch = u->epoch;
    control_update_free(u);
    return 0;
}

static void stage_begin(struct stage *g)
{
    memset(g, 0, sizeof(*g));
    g->now = 100 * S;
    struct services_config c = {.period_ns = S, .lease_ns = 10 * S, .max_gateways = GATEWAYS,
                                .max_streams = 2 * GATEWAYS * STREAMS, .processes = 1,
                                .first_epoch = 1};
    struct services_sink sink = {.ctx = g,
                                 .poll = sink_poll,
                                 .controls = sink_controls};
    g->services = services_new(&c, &sink);
    assert_non_null(g->services);
    services_loaded(g->services, g->now, WALL);
}

static void answer(struct stage *g, struct played *p)
{
    double seconds = (double)(g->now - p->at_ns) / 1e9;
    struct report_stream st[STREAMS];
    struct report r = {.session = p->hello.session, .seq = p->seq, .mono_ns = g->now,
                       .epoch = p->epoch, .stream = st, .target = &p->target, .target_count = 1};
    memcpy(r.boot, p->hello.boot, GATEWAY_ID_SIZE);
    memset(st, 0, sizeof(st));
    for (size_t i = 0; i < STREAMS && p->stream[i].volume[0] != '\0'; i++) {
        struct played_stream *s = &p->stream[i];
        uint64_t n = (uint64_t)(s->ios * seconds);
        s->count += n;
        s->cost_ns += n * p->io_ns;
        p->target.served_ios += n;
        p->target.served_bytes += n * 4096;
        p->target.cost_served_ns += n * p->io_ns;
        struct report_stream *out = &st[r.stream_count++];
        out->index = (uint32_t)i + 1;
        out->has_info = true;
        out->connections = 1;
        out->op_count = 1;
        out->op[0] = (struct report_op){
            .op = IO_READ, .counts = {.arrivals = s->count, .completions = s->count}};
        out->cost_arrived_ns = out->cost_served_ns = s->cost_ns;
        out->queued_now = s->waits ? 8 : 0;
        snprintf(out->host, NAME_SIZE, "h%u", p->hello.id[0]);
        snprintf(out->volume, NAME_SIZE, "%s", s->volume);
        snprintf(out->target, NAME_SIZE, "array");
    }
    p->target.busy_ns += (uint64_t)(p->use * seconds * 1e9);
    p->target.full_ns += (uint64_t)(p->full * seconds * 1e9);
    p->at_ns = g->now;
    services_report(g->services, &r, g->now, WALL);
    services_ack(g->services, p->hello.session, p->epoch, 0, g->now, WALL);
}

static void answers(struct stage *g)
{
    for (size_t i = 0; i < GATEWAYS; i++) {
        struct played *p = &g->gateway[i];
        if (!p->asked)
            continue;
        p->asked = false;
        answer(g, p);
    }
}

static void run(struct stage *g, uint64_t seconds)
{
    uint64_t end = g->now + seconds * S;
    while (services_next_ns(g->services) <= end) {
        uint64_t next = services_next_ns(g->services);
        g->now = next > g->now ? next : g->now;
        services_tick(g->services, g->now, WALL);
        answers(g);
    }
    g->now = end;
}

/* A gateway before the storage, which has found a parallelism of 8. */
static struct played *gateway_up(struct stage *g, size_t i)
{
    struct played *p = &g->gateway[i];
    p->up = true;
    p->at_ns = g->now;
    p->io_ns = 1000000;
    p->hello.id[0] = (uint8_t)(i + 1);
    p->hello.boot[0]++;
    p->hello.session = ++g->session;
    snprintf(p->hello.name, NAME_SIZE, "gw%zu", i);
    p->target = (struct report_target){.connections = 1, .parallelism_milli = 8000,
                                       .cost = {{992000, 992000}, {8000, 8000}}};
    snprintf(p->target.name, NAME_SIZE, "array");
    snprintf(p->target.uri, sizeof(p->target.uri), "nbd://array/");
    services_gateway_up(g->services, &p->hello, g->now, WALL);
    answers(g);
    return p;
}

static void gateway_down(struct stage *g, struct played *p)
{
    p->up = p->asked = false;
    services_gateway_down(g->services, p->hello.session, "cut", g->now, WALL);
}

/* A closed loop of so many I/Os a second, more of which waits. */
static void wait_for(struct played *p, size_t i, const char *volume, double ios)
{
    p->stream[i] = (struct played_stream){.ios = ios, .waits = true};
    snprintf(p->stream[i].volume, NAME_SIZE, "%s", volume);
    p->full = 1;
}

static void agree(struct stage *g, const char *volume, uint32_t weight, uint64_t reservation)
{
    struct agreement a = {.version = 1, .per = AGREEMENT_PER_GROUP, .weight = weight,
                          .reservation_iops = reservation, .compliance_window_ns = 10 * S,
                          .compliance_over_ns = 30 * 86400 * S};
    char why[256];
    snprintf(a.name, NAME_SIZE, "%s", volume);
    snprintf(a.applies_to.volume, NAME_SIZE, "%s", volume);
    if (services_agreement_put(g->services, &a, g->now, WALL, why, sizeof(why)) != 0)
        fail_msg("%s", why);
}

static const struct storage *storage(const struct stage *g)
{
    assert_false(list_empty(&g->services->storages));
    return container_of(g->services->storages.next, struct storage, link);
}

static double window(const struct stage *g)
{
    return (double)storage(g)->knee.slots_milli / 1000;
}

static double slots(const struct played *p)
{
    return (double)p->slots_milli / 1000;
}

/* Two gateways that wait, 4 in flight each, with weights 200 and 600. */
static void two_wait(struct stage *g)
{
    stage_begin(g);
    agree(g, "a", 200, 0);
    agree(g, "b", 600, 0);
    wait_for(gateway_up(g, 0), 0, "a", 4000);
    wait_for(gateway_up(g, 1), 0, "b", 4000);
    g->gateway[0].use = g->gateway[1].use = 4;
}

static void one_gateway_finds_its_own_window(void **state)
{
    struct stage g;
    (void)state;
    stage_begin(&g);
    agree(&g, "a", 200, 0);
    wait_for(gateway_up(&g, 0), 0, "a", 4000);
    g.gateway[0].use = 8;
    run(&g, 5);
    assert_int_equal(g.gateway[0].slots_milli, 0);
    services_free(g.services);
}

/* The most device time, in nanoseconds, that any gateway is said to serve in a second. */
static double most_served(const struct stage *g)
{
    double most = 0;
    list_for_each(it, &services_entities(g->services)->gateways) {
        const struct gateway *one = container_of(it, struct gateway, e.link);
        list_for_each(in, &one->targets)
            most = fmax(most, container_of(in, struct target, link)->served);
    }
    return most;
}

/* What the first one served while it was alone is not of the second in which there are two. */
static void one_that_was_alone_for_long_is_divided_by_what_it_does_now(void **state)
{
    struct stage g;
    (void)state;
    stage_begin(&g);
    agree(&g, "a", 200, 0);
    agree(&g, "b", 600, 0);
    wait_for(gateway_up(&g, 0), 0, "a", 4000);
    g.gateway[0].use = 4;
    run(&g, 100);
    wait_for(gateway_up(&g, 1), 0, "b", 4000);
    g.gateway[1].use = 4;
    double most = 0;
    for (int i = 0; i < 10; i++) {
        run(&g, 1);
        most = fmax(most, most_served(&g));
    }
    assert_true(most > 3.5e9 && most < 4.5e9);
    services_free(g.services);
}

static const struct target_health *health_at(const struct stage *g, size_t i)
{
    const struct entity_target *t[1];
    list_for_each(it, &services_entities(g->services)->gateways) {
        const struct entity_gateway *e = container_of(it, struct entity_gateway, link);
        if (memcmp(e->hello.id, g->gateway[i].hello.id, GATEWAY_ID_SIZE) == 0 &&
            services_gateway_targets(e, t, 1) == 1)
            return t[0]->has_health ? &t[0]->health : NULL;
    }
    return NULL;
}

/* A gateway of before says nbd where TLS is required, one of now nbds: while all of them are
 * upgraded, one after the other, they share their window all the same. What a probe sees without
 * TLS is of those who go there without. */
static void a_storage_is_one_with_tls_and_without(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    snprintf(g.gateway[1].target.uri, sizeof(g.gateway[1].target.uri), "nbds://array/");
    run(&g, SETTLED);
    assert_ptr_equal(g.services->storages.next, g.services->storages.prev);
    assert_true(g.gateway[0].slots_milli > 0 && g.gateway[1].slots_milli > 0);
    assert_true(slots(&g.gateway[0]) + slots(&g.gateway[1]) <= window(&g) + 0.01);
    struct target_health h = {.reachable = false};
    snprintf(h.target, sizeof(h.target), "array");
    snprintf(h.uri, sizeof(h.uri), "nbd://array/");
    services_target_health(g.services, &h, g.now);
    assert_non_null(health_at(&g, 0));
    assert_null(health_at(&g, 1));
    h.reachable = true;
    snprintf(h.uri, sizeof(h.uri), "nbds://array/");
    services_target_health(g.services, &h, g.now);
    assert_false(health_at(&g, 0)->reachable);
    assert_true(health_at(&g, 1)->reachable);
    services_free(g.services);
}

static void where_nobody_has_a_share_nothing_is_divided(void **state)
{
    struct stage g;
    (void)state;
    stage_begin(&g);
    wait_for(gateway_up(&g, 0), 0, "a", 4000);
    wait_for(gateway_up(&g, 1), 0, "b", 4000);
    run(&g, 5);
    assert_int_equal(g.gateway[0].slots_milli, 0);
    assert_int_equal(g.gateway[1].slots_milli, 0);
    services_free(g.services);
}

static void those_that_wait_share_the_window_by_weight(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    run(&g, SETTLED);
    double a = slots(&g.gateway[0]), b = slots(&g.gateway[1]);
    assert_true(fabs(a + b - window(&g)) <= 1.0);
    assert_true(fabs(b - 3 * a) <= 2.0);
    assert_true(a >= 1);
    services_free(g.services);
}

static void what_is_reserved_comes_before_weight(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    run(&g, SETTLED);
    double by_weight = slots(&g.gateway[0]);
    agree(&g, "a", 200, 3000); /* of 8000 a second that are served in all */
    run(&g, SETTLED);
    assert_true(slots(&g.gateway[0]) > by_weight);
    assert_true(slots(&g.gateway[0]) >= 3);
    services_free(g.services);
}

static void room_for_what_is_calm_does_not_take_what_is_reserved(void **state)
{
    struct stage g;
    (void)state;
    stage_begin(&g);
    agree(&g, "a", 200, 0);
    agree(&g, "b", 200, 1000);
    for (size_t i = 0; i < 2; i++)
        gateway_up(&g, i)->target.parallelism_milli = 2000;
    struct played *calm = &g.gateway[0], *reserved = &g.gateway[1];
    wait_for(calm, 0, "a", 1000);
    wait_for(calm, 1, "c", 1000);
    calm->stream[1].waits = false;
    calm->use = 2;
    wait_for(reserved, 0, "b", 1000);
    reserved->use = 1;
    run(&g, SETTLED);
    /* What is calm has one slot in the mean, and room for three: more than there is. */
    assert_true(window(&g) < 4);
    assert_true(slots(reserved) >= 1);
    assert_true(slots(calm) >= 1);
    services_free(g.services);
}

static void who_crowds_keeps_what_is_reserved(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    agree(&g, "a", 200, 3000);
    struct played *calm = &g.gateway[0];
    calm->stream[0].waits = false;
    calm->stream[0].ios = 3000;
    calm->full = 0;
    calm->use = 6; /* of 16 in flight in all, where the window is 9: nothing of it waits, but it
                      counts as if */
    g.gateway[1].use = 10;
    run(&g, SETTLED);
    assert_true(slots(calm) >= window(&g) / 2);
    services_free(g.services);
}

static void what_is_owed_where_nothing_was_served_is_not_nothing(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    agree(&g, "a", 200, 2000);
    g.gateway[0].stream[0].ios = 0;
    g.gateway[0].use = 0;
    g.gateway[1].use = 8; /* 2 slots a millisecond of device time */
    run(&g, SETTLED);
    assert_true(slots(&g.gateway[0]) >= 4);
    services_free(g.services);
}

static void what_a_stall_made_an_operation_cost_is_forgotten(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    agree(&g, "a", 400, 2000);
    agree(&g, "b", 400, 2000);
    run(&g, SETTLED);
    g.gateway[0].io_ns = 100000000;
    run(&g, 20);
    g.gateway[0].io_ns = 1000000;
    run(&g, 10);
    assert_true(fabs(slots(&g.gateway[0]) - slots(&g.gateway[1])) <= 1.0);
    services_free(g.services);
}

static void where_little_waits_there_is_room_and_the_rest_is_for_others(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    struct played *calm = gateway_up(&g, 2);
    wait_for(calm, 0, "c", 1000);
    calm->stream[0].waits = false;
    calm->full = 0;
    calm->use = 1;
    run(&g, SETTLED);
    double waiting = slots(&g.gateway[0]) + slots(&g.gateway[1]);
    assert_true(fabs(waiting + calm->use - window(&g)) <= 2.0);
    assert_true(slots(calm) >= calm->use + 1);
    services_free(g.services);
}

static void a_gateway_that_goes_leaves_its_part_to_the_others(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    wait_for(gateway_up(&g, 2), 0, "b", 4000);
    g.gateway[2].use = 4;
    run(&g, SETTLED);
    double before = slots(&g.gateway[0]) + slots(&g.gateway[1]);
    gateway_down(&g, &g.gateway[2]);
    run(&g, SETTLED);
    double after = slots(&g.gateway[0]) + slots(&g.gateway[1]);
    assert_true(after > before);
    assert_true(fabs(after - window(&g)) <= 1.0);
    gateway_down(&g, &g.gateway[1]);
    run(&g, SETTLED);
    assert_int_equal(g.gateway[0].slots_milli, 0); /* alone: it finds its own */
    g.gateway[1].stream[0].count = g.gateway[1].stream[0].cost_ns = 0; /* a new boot */
    gateway_up(&g, 1);
    run(&g, SETTLED);
    assert_true(g.gateway[0].slots_milli > 0 && g.gateway[1].slots_milli > 0);
    services_free(g.services);
}

static void who_may_only_watch_sends_no_slots(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    run(&g, SETTLED);
    assert_true(g.gateway[0].slots_milli > 0);
    services_enforcement(g.services, false, g.now, WALL);
    run(&g, SETTLED);
    assert_int_equal(g.gateway[0].slots_milli, 0);
    assert_int_equal(g.gateway[1].slots_milli, 0);
    services_enforcement(g.services, true, g.now, WALL);
    run(&g, SETTLED);
    assert_true(g.gateway[0].slots_milli > 0);
    struct policy p = {.version = 1, .observe = true};
    snprintf(p.name, NAME_SIZE, "watch");
    snprintf(p.applies_to.target, NAME_SIZE, "array");
    assert_int_equal(services_policy_put(g.services, &p, g.now, WALL), 0);
    run(&g, SETTLED);
    assert_int_equal(g.gateway[0].slots_milli, 0);
    services_free(g.services);
}

static void an_early_warning_divides_anew_and_learns_nothing(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    struct played *moves = gateway_up(&g, 2);
    wait_for(moves, 0, "a", 0);
    moves->stream[0].waits = false;
    moves->full = 0;
    run(&g, SETTLED);
    struct knee before = storage(&g)->knee;
    double had = slots(moves);
    /* The load of gw0 comes through gw2 from now on. */
    moves->stream[0].ios = 4000;
    moves->stream[0].waits = true;
    moves->full = 1;
    moves->use = 4;
    g.gateway[0].stream[0].waits = false;
    g.gateway[0].stream[0].ios = g.gateway[0].full = g.gateway[0].use = 0;
    g.now += 100000000;
    for (size_t i = 0; i < 3; i++) {
        services_surge(g.services, g.gateway[i].hello.session, g.now, WALL);
        answers(&g);
    }
    assert_true(slots(moves) != had);
    assert_true(memcmp(&storage(&g)->knee, &before, sizeof(before)) == 0);
    services_free(g.services);
}

/* As when a part goes while slots are divided: the plan begins anew, in the same period. */
static void a_storage_learns_once_a_period_however_often_it_is_divided(void **state)
{
    struct stage g;
    (void)state;
    two_wait(&g);
    run(&g, SETTLED);
    struct storage *t = container_of(g.services->storages.next, struct storage, link);
    t->useful.due_ns = 0; /* it would ask for another look */
    t->useful.awaited = false;
    uint64_t asked = t->useful.asked_ns;
    g.services->now_ns += 50 * S;
    slots_storage(g.services, t);
    assert_int_equal(t->useful.due_ns, 0);
    assert_int_equal(t->useful.asked_ns, asked);
    g.services->period.whole_number++;
    slots_storage(g.services, t);
    assert_true(t->useful.due_ns != 0 || t->useful.asked_ns != asked);
    services_free(g.services);
}

static void random_gateway(struct stage *g, struct rng *r, size_t i)
{
    struct played *p = gateway_up(g, i);
    p->full = rng_below(r, 3) == 0 ? 0 : rng_unit(r);
    p->use = rng_unit(r) * 8;
    for (size_t k = 0; k < STREAMS; k++) {
        char volume[NAME_SIZE];
        snprintf(volume, sizeof(volume), "v%llu", (unsigned long long)rng_below(r, 5));
        bool twice = k > 0 && strcmp(p->stream[0].volume, volume) == 0;
        double full = p->full;
        wait_for(p, k, twice ? "v9" : volume, rng_unit(r) * 3000);
        p->stream[k].waits = rng_below(r, 2) == 0;
        p->full = full;
    }
}

/* Those that wait have something; what they have and what the others use is the window, within a
 * slot each and a tenth of it that is not worth a message. */
static void check_division(const struct stage *g, size_t n, uint64_t seed)
{
    double sum = 0, use = 0, most = window(g) * 1.1;
    for (size_t i = 0; i < n; i++)
        use += g->gateway[i].use;
    for (size_t i = 0; i < n; i++) {
        const struct played *p = &g->gateway[i];
        bool waits = p->full > 0.1, crowded = use > window(g);
        if (p->slots_milli == 0)
            fail_msg("seed %llu: gateway %zu has no slots", (unsigned long long)seed, i);
        if (waits && slots(p) < fmin(0.24, 0.49 * window(g) / (double)n))
            fail_msg("seed %llu: gateway %zu is left with nothing", (unsigned long long)seed, i);
        if (!waits && !crowded && slots(p) < p->use)
            fail_msg("seed %llu: gateway %zu has less than it uses", (unsigned long long)seed, i);
        sum += waits ? slots(p) : 0;
        most += 1;
    }
    if (sum > most)
        fail_msg("seed %llu: %.1f slots of a window of %.1f", (unsigned long long)seed, sum,
                 window(g));
}

static void whatever_waits_no_more_than_the_window_is_given(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct stage g;
        struct rng r;
        rng_seed(&r, seed);
        stage_begin(&g);
        for (uint32_t v = 0; v < 5; v++) {
            char volume[NAME_SIZE];
            snprintf(volume, sizeof(volume), "v%u", v);
            agree(&g, volume, 1 + (uint32_t)rng_below(&r, 1000),
                  rng_below(&r, 3) == 0 ? rng_below(&r, 2000) : 0);
        }
        size_t n = 2 + rng_below(&r, GATEWAYS - 1);
        for (size_t i = 0; i < n; i++)
            random_gateway(&g, &r, i);
        run(&g, SETTLED);
        bool speaks = storage(&g)->slots_on;
        for (size_t i = 0; !speaks && i < n; i++)
            assert_int_equal(g.gateway[i].slots_milli, 0);
        if (speaks)
            check_division(&g, n, seed);
        services_free(g.services);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_gateway_finds_its_own_window),
        cmocka_unit_test(one_that_was_alone_for_long_is_divided_by_what_it_does_now),
        cmocka_unit_test(where_nobody_has_a_share_nothing_is_divided),
        cmocka_unit_test(a_storage_is_one_with_tls_and_without),
        cmocka_unit_test(those_that_wait_share_the_window_by_weight),
        cmocka_unit_test(what_is_reserved_comes_before_weight),
        cmocka_unit_test(room_for_what_is_calm_does_not_take_what_is_reserved),
        cmocka_unit_test(who_crowds_keeps_what_is_reserved),
        cmocka_unit_test(what_is_owed_where_nothing_was_served_is_not_nothing),
        cmocka_unit_test(what_a_stall_made_an_operation_cost_is_forgotten),
        cmocka_unit_test(where_little_waits_there_is_room_and_the_rest_is_for_others),
        cmocka_unit_test(a_gateway_that_goes_leaves_its_part_to_the_others),
        cmocka_unit_test(who_may_only_watch_sends_no_slots),
        cmocka_unit_test(an_early_warning_divides_anew_and_learns_nothing),
        cmocka_unit_test(a_storage_learns_once_a_period_however_often_it_is_divided),
        cmocka_unit_test(whatever_waits_no_more_than_the_window_is_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
