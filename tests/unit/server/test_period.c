/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what a period asks for is made in pieces, each of them small, comes out as if it had been
 * made at once, and survives whatever happens between two pieces. Method: gateways and their
 * reports made up, before storages whose capacity is exceeded; one process works in pieces and one
 * does not, or gateways come, go and change their storage between pieces, by chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "server/services/state.h"

#define GATEWAYS 48u
#define STREAMS  12u
#define SHARED   4u /* of the streams: of volumes that all gateways have */
#define STORAGES 3u
/* More gateways than are told in one piece, and less than all. */
#define PIECE_MESSAGES 32u

struct stage {
    struct services *s;
    uint64_t now_ns, seq[GATEWAYS], session[GATEWAYS], sessions;
    uint64_t epoch[GATEWAYS]; /* controls are in force as soon as they are sent */
    unsigned storage[GATEWAYS];
    bool up[GATEWAYS];
    unsigned polls, messages;
    uint64_t polled; /* session that was polled last */
};

static int sink_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct stage *t = ctx;
    (void)pair;
    t->polls++;
    t->polled = session;
    for (unsigned g = 0; g < GATEWAYS; g++)
        if (t->session[g] == session)
            t->seq[g] = p->seq;
    return 0;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct stage *t = ctx;
    (void)pair;
    t->messages++;
    for (unsigned g = 0; g < GATEWAYS; g++)
        if (t->session[g] == session)
            t->epoch[g] = u->epoch;
    control_update_free(u);
    return 0;
}

static void agree(struct stage *t, const char *name, const char *volume, enum agreement_per per,
                  uint64_t reservation)
{
    struct agreement a = {.weight = 200, .version = 1, .per = per,
                          .reservation_iops = reservation,
                          .compliance_window_ns = 10 * NS_PER_S};
    char why[256];
    snprintf(a.name, sizeof(a.name), "%s", name);
    snprintf(a.applies_to.volume, sizeof(a.applies_to.volume), "%s", volume);
    a.limits.rate[GATE_IOPS_TOTAL].rate = per == AGREEMENT_PER_GROUP ? 100000 : 500;
    a.objective[0] = (struct objective){990000, 5000, 1000};
    a.objective_count = 1;
    assert_int_equal(services_agreement_put(t->s, &a, t->now_ns, 0, why, sizeof(why)), 0);
}

static void up(struct stage *t, unsigned g)
{
    struct gateway_hello h = {.session = ++t->sessions};
    h.id[0] = (uint8_t)(g + 1);
    h.boot[0] = (uint8_t)(t->sessions);
    h.boot[1] = (uint8_t)(t->sessions >> 8);
    snprintf(h.name, sizeof(h.name), "gw%u", g);
    t->session[g] = h.session;
    t->up[g] = true;
    services_gateway_up(t->s, &h, t->now_ns, 0);
}

static void down(struct stage *t, unsigned g)
{
    t->up[g] = false;
    services_gateway_down(t->s, t->session[g], "away", t->now_ns, 0);
}

static void retire(struct stage *t, unsigned g)
{
    char name[32];
    snprintf(name, sizeof(name), "gw%u", g);
    t->up[g] = false;
    (void)services_document_remove(t->s, "Gateway", name, t->now_ns, 0);
}

static void stream_fill(struct report_stream *r, unsigned g, unsigned i, uint64_t ios)
{
    *r = (struct report_stream){.index = i, .has_info = true, .connections = 1, .op_count = 1,
                                .size = UINT64_C(1) << 34, .cost_served_ns = ios * 100000};
    snprintf(r->host, sizeof(r->host), "host%u", g);
    snprintf(r->volume, sizeof(r->volume), i < SHARED ? "shared%u" : "own%u", i);
    snprintf(r->target, sizeof(r->target), "array");
    r->op[0] = (struct report_op){.op = IO_READ,
                                  .counts = {.arrivals = ios, .completions = ios,
                                             .bytes = ios * 4096}};
}

/* The answer to the poll that is outstanding. */
static void report(struct stage *t, unsigned g)
{
    struct report_stream streams[STREAMS];
    struct report_target target;
    memset(&target, 0, sizeof(target));
    struct report r = {.session = t->session[g], .seq = t->seq[g], .mono_ns = t->now_ns,
                       .epoch = t->epoch[g], .target_count = 1, .stream_count = STREAMS,
                       .stream = streams, .target = &target};
    r.boot[0] = (uint8_t)(t->session[g]);
    r.boot[1] = (uint8_t)(t->session[g] >> 8);
    for (unsigned i = 0; i < STREAMS; i++)
        stream_fill(&streams[i], g, i, t->seq[g] * (50 + (uint64_t)g * 7 + i));
    snprintf(target.name, sizeof(target.name), "array");
    snprintf(target.uri, sizeof(target.uri), "nbd://10.0.0.%u", t->storage[g]);
    target.parallelism_milli = 1000;
    target.busy_ns = target.full_ns = t->now_ns;
    services_report(t->s, &r, t->now_ns, 0);
}

static void stage_begin(struct stage *t, bool in_pieces)
{
    memset(t, 0, sizeof(*t));
    struct services_config c = {.period_ns = NS_PER_S, .lease_ns = 10 * NS_PER_S,
                                .max_gateways = GATEWAYS, .max_streams = GATEWAYS * STREAMS,
                                .processes = 1, .in_pieces = in_pieces, .first_epoch = 1};
    struct services_sink sink = {.ctx = t, .poll = sink_poll, .controls = sink_controls};
    char name[32];
    t->now_ns = 1000 * NS_PER_S;
    t->s = services_new(&c, &sink);
    assert_non_null(t->s);
    for (unsigned i = 0; i < SHARED; i++) {
        snprintf(name, sizeof(name), "shared%u", i);
        agree(t, name, name, AGREEMENT_PER_GROUP, 400);
    }
    agree(t, "each", "own*", AGREEMENT_PER_STREAM, 30);
    services_loaded(t->s, t->now_ns, 0);
    for (unsigned g = 0; g < GATEWAYS; g++) {
        t->storage[g] = g % STORAGES;
        up(t, g);
    }
}

static void finish(struct stage *t)
{
    unsigned steps = 0;
    while (services_step(t->s, t->now_ns, 0))
        assert_true(++steps < 100000);
}

/* A second goes by: all are polled, all answer, and a period is begun; @ended: and made. */
static void second(struct stage *t, bool ended)
{
    for (unsigned n = 0; n < 10; n++) {
        t->now_ns += NS_PER_S / 10;
        services_tick(t->s, t->now_ns, 0);
        if (ended)
            finish(t);
    }
    for (unsigned g = 0; g < GATEWAYS; g++)
        if (t->up[g])
            report(t, g);
}

static void stage_end(struct stage *t)
{
    services_free(t->s);
}

static void same_parts(const struct gateway *a, const struct gateway *b)
{
    const struct list *y = b->parts.next;
    list_for_each(x, &a->parts) {
        const struct part *p = container_of(x, struct part, in_gateway);
        const struct part *q = container_of(y, const struct part, in_gateway);
        assert_string_equal(p->claim->id, q->claim->id);
        assert_true(sched_terms_same(&p->share, &q->share));
        assert_true(sched_terms_same(&p->planned, &q->planned));
        assert_memory_equal(&p->limits, &q->limits, sizeof(p->limits));
        y = y->next;
    }
    assert_true(y == &b->parts);
}

static void pieces_come_out_as_the_whole(void **state)
{
    struct stage a, b;
    (void)state;
    stage_begin(&a, false);
    stage_begin(&b, true);
    finish(&b);
    for (unsigned n = 0; n < 4; n++) {
        second(&a, true);
        second(&b, true);
    }
    unsigned scaled = 0;
    const struct list *y = b.s->e.gateways.next;
    list_for_each(x, &a.s->e.gateways) {
        same_parts(container_of(x, struct gateway, e.link),
                   container_of(y, const struct gateway, e.link));
        list_for_each(p, &container_of(x, struct gateway, e.link)->parts)
            scaled += container_of(p, struct part, in_gateway)->planned.weight > 0;
        y = y->next;
    }
    assert_true(scaled > GATEWAYS); /* the dearest case is what was compared */
    stage_end(&a);
    stage_end(&b);
}

static void no_piece_tells_many_gateways(void **state)
{
    struct stage t;
    (void)state;
    stage_begin(&t, true);
    finish(&t);
    second(&t, false);
    finish(&t);
    second(&t, false);
    agree(&t, "each", "own*", AGREEMENT_PER_STREAM, 31); /* all are told anew */
    unsigned pieces = 0, all = 0;
    bool more = true;
    while (more) {
        t.messages = 0;
        more = services_step(t.s, t.now_ns, 0);
        assert_true(t.messages <= PIECE_MESSAGES);
        all += t.messages;
        pieces++;
    }
    assert_true(all >= GATEWAYS);
    assert_true(pieces > all / PIECE_MESSAGES);
    stage_end(&t);
}

static void a_warning_between_pieces_is_asked_at_once(void **state)
{
    struct stage t;
    (void)state;
    stage_begin(&t, true);
    finish(&t);
    second(&t, false);
    agree(&t, "each", "own*", AGREEMENT_PER_STREAM, 31);
    assert_true(services_step(t.s, t.now_ns, 0));
    t.polls = 0;
    services_surge(t.s, t.session[7], t.now_ns, 0);
    assert_int_equal(t.polls, 1);
    assert_int_equal(t.polled, t.session[7]);
    assert_true(services_step(t.s, t.now_ns, 0)); /* the rest is still to come */
    finish(&t);
    stage_end(&t);
}

/* All that is agreed is given out, and everybody was told. */
static void settled(struct stage *t)
{
    assert_true(list_empty(&t->s->changed));
    list_for_each(it, &t->s->claims) {
        const struct claim *c = container_of(it, struct claim, link);
        struct gate_limits limits;
        uint64_t sum = 0;
        unsigned holders = 0;
        claim_limits(t->s, c, &limits);
        list_for_each(at, &c->parts) {
            const struct part *p = container_of(at, struct part, in_claim);
            if (!p->first || !entity_gateway_holds(p->gateway))
                continue;
            sum += p->limits.rate[GATE_IOPS_TOTAL].rate;
            holders++;
        }
        if (holders > 0)
            assert_int_equal(sum, limits.rate[GATE_IOPS_TOTAL].rate);
    }
    list_for_each(it, &t->s->storages) {
        const struct storage *at = container_of(it, struct storage, link);
        assert_true(at->capacity > 0);
        assert_true(at->reserved > 0);
    }
}

static void happen(struct stage *t, struct rng *rng)
{
    unsigned g = (unsigned)rng_below(rng, GATEWAYS);
    switch (rng_below(rng, 6)) {
    case 0:
        if (t->up[g])
            down(t, g);
        break;
    case 1:
        retire(t, g);
        break;
    case 2:
        if (!t->up[g])
            up(t, g);
        break;
    case 3: /* before other storage from its next boot on */
        if (t->up[g])
            down(t, g);
        t->storage[g] = (unsigned)rng_below(rng, STORAGES + 2);
        up(t, g);
        break;
    case 4:
        if (rng_below(rng, 8) == 0)
            agree(t, "each", "own*", AGREEMENT_PER_STREAM, 20 + rng_below(rng, 20));
        break;
    default:
        if (t->up[g])
            services_surge(t->s, t->session[g], t->now_ns, 0);
        break;
    }
    if (t->up[g])
        report(t, g);
}

static void anything_may_happen_between_pieces(void **state)
{
    uint64_t seed = clock_mono_ns();
    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (unsigned round = 0; round < 4; round++) {
        struct rng rng;
        struct stage t;
        rng_seed(&rng, seed + round);
        stage_begin(&t, true);
        for (unsigned n = 0; n < 12; n++) {
            second(&t, false);
            /* So much that parts go in nearly every piece, and still the plan ends. */
            for (unsigned steps = 0; services_step(t.s, t.now_ns, 0); steps++) {
                assert_true(steps < 1000);
                for (uint64_t k = rng_below(&rng, 4); k > 0; k--)
                    happen(&t, &rng);
                t.now_ns += NS_PER_S / 1000;
                services_tick(t.s, t.now_ns, 0);
            }
        }
        for (unsigned g = 0; g < GATEWAYS; g++)
            if (!t.up[g])
                up(&t, g);
        for (unsigned n = 0; n < 4; n++) {
            second(&t, false);
            finish(&t);
        }
        settled(&t);
        stage_end(&t);
    }
}

static bool stands(const struct stage *t, const struct list *at)
{
    list_for_each(it, &t->s->e.streams)
        if (it == at)
            return true;
    return at == &t->s->e.streams;
}

static void a_walk_in_pieces_keeps_its_place(void **state)
{
    uint64_t seed = clock_mono_ns();
    struct rng rng;
    struct stage t;
    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    stage_begin(&t, true);
    second(&t, true);
    for (unsigned round = 0; round < 8; round++) {
        const struct list *head = &t.s->e.streams;
        size_t seen = 0, most = t.s->e.stream_count + 1000 * (size_t)STREAMS;
        services_place_set(t.s, head->next);
        while (services_place(t.s) != head) {
            const struct list *at = services_place(t.s);
            assert_true(stands(&t, at)); /* and what stood there may go now */
            services_place_set(t.s, at->next);
            assert_true(++seen < most);
            if (rng_below(&rng, 8) == 0)
                happen(&t, &rng);
        }
        services_place_set(t.s, NULL);
        second(&t, true);
    }
    stage_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_come_out_as_the_whole),
        cmocka_unit_test(no_piece_tells_many_gateways),
        cmocka_unit_test(a_warning_between_pieces_is_asked_at_once),
        cmocka_unit_test(anything_may_happen_between_pieces),
        cmocka_unit_test(a_walk_in_pieces_keeps_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
