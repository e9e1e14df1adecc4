/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what gateways say is counted exactly once, whatever order, doubling, loss or rebirth.
 * Method: hand-made reports against hand-made sums; then seeded random histories against the
 * gateway's own totals. */
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

/* A world without devices: this test is the gateway. */
struct plain {
    struct services *s;
    uint64_t now, session, seq, acked, polls;
    uint64_t reads, arrivals, total_count; /* sums of samples */
    char event[64][40];
    size_t events, ended;
    uint64_t ended_session;
};

static int p_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct plain *t = ctx;
    (void)pair;
    t->session = session;
    t->seq = p->seq;
    t->acked = p->acked;
    t->polls++;
    return 0;
}

static int p_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    (void)ctx;
    (void)session;
    (void)pair;
    control_update_free(u);
    return 0;
}

static void p_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    struct plain *t = ctx;
    (void)pair;
    (void)why;
    t->ended++;
    t->ended_session = session;
}

static void p_sample(void *ctx, const struct sample_record *s)
{
    struct plain *t = ctx;
    t->reads += s->read_ops;
    t->arrivals += s->arrivals;
    uint16_t last = 0;
    assert_true(s->bucket_count <= SAMPLE_MAX_BUCKETS);
    for (uint32_t i = 0; i < s->bucket_count; i++) {
        assert_true(i == 0 || s->bucket[i].index > last);
        last = s->bucket[i].index;
        t->total_count += s->bucket[i].count;
    }
}

static void p_action(void *ctx, const struct action_record *a)
{
    (void)ctx;
    (void)a;
}

static void p_event(void *ctx, const struct event_record *e)
{
    struct plain *t = ctx;
    snprintf(t->event[t->events++ % 64], 40, "%s", e->kind);
}

static void p_target(void *ctx, const char *gateway, const char *target, const char *uri)
{
    (void)ctx;
    (void)gateway;
    (void)target;
    (void)uri;
}

static struct plain *plain_new(uint32_t gateways, uint32_t streams)
{
    struct plain *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    t->now = 100 * S;
    struct services_config c = {.period_ns = S, .lease_ns = 10 * S, .max_gateways = gateways,
                                .max_streams = streams, .processes = 1, .first_epoch = 10};
    struct services_sink sink = {.ctx = t,
                                 .poll = p_poll,
                                 .controls = p_controls,
                                 .session_end = p_end,
                                 .sample = p_sample,
                                 .action = p_action,
                                 .event = p_event,
                                 .target_seen = p_target};
    t->s = services_new(&c, &sink);
    assert_non_null(t->s);
    services_loaded(t->s, t->now, WORLD_WALL0);
    return t;
}

static void plain_free(struct plain *t)
{
    services_free(t->s);
    free(t);
}

static int64_t wall(const struct plain *t)
{
    return WORLD_WALL0 + (int64_t)(t->now / 1000);
}

static void up(struct plain *t, uint8_t id, uint8_t boot, uint64_t session)
{
    struct gateway_hello h = {.session = session, .id = {id}, .boot = {boot}};
    snprintf(h.name, sizeof(h.name), "gw%u", id);
    snprintf(h.address, sizeof(h.address), "10.0.0.%u", id);
    services_gateway_up(t->s, &h, t->now, wall(t));
}

/* One stream's counts as a gateway keeps them. */
struct counts {
    struct meter m;
};
#define NO_COUNTS {.m = {.max_hold_hits = 0}}

static struct report *report_of(const struct plain *t, const struct counts *c, uint32_t streams,
                                uint8_t boot, uint64_t seq, bool more)
{
    struct report *r = calloc(1, sizeof(*r));
    r->session = t->session;
    r->boot[0] = boot;
    r->seq = seq;
    r->mono_ns = t->now;
    r->more = more;
    r->stream = calloc(streams + 1, sizeof(*r->stream));
    for (uint32_t i = 0; i < streams; i++) {
        struct report_stream *st = &r->stream[r->stream_count++];
        st->index = i;
        st->has_info = true;
        snprintf(st->host, NAME_SIZE, "host%u", i);
        snprintf(st->volume, NAME_SIZE, "vol");
        snprintf(st->target, NAME_SIZE, "array1");
        st->connections = 1;
        st->op[0] = (struct report_op){.op = IO_READ, .counts = c[i].m.op[IO_READ]};
        st->op_count = 1;
        const struct hist *h = &c[i].m.hist[IO_DIR_READ][METER_TOTAL];
        st->hist[0] = (struct report_hist){.kind = METER_TOTAL, .direction = IO_DIR_READ,
                                           .sum_ns = h->sum_ns, .max_ns = h->max_ns};
        st->hist[0].bucket = calloc(HIST_BUCKETS, sizeof(struct report_bucket));
        for (uint32_t k = 0; k < HIST_BUCKETS; k++) {
            if (h->bucket[k] > 0)
                st->hist[0].bucket[st->hist[0].bucket_count++] =
                    (struct report_bucket){.index = k, .count = h->bucket[k]};
        }
        st->hist_count = 1;
    }
    r->target = calloc(1, sizeof(*r->target));
    r->target_count = 1;
    snprintf(r->target[0].name, NAME_SIZE, "array1");
    snprintf(r->target[0].uri, sizeof(r->target[0].uri), "nbd://127.0.0.1:10809");
    return r;
}

static void say(struct plain *t, struct report *r)
{
    services_report(t->s, r, t->now, wall(t));
}

static void say_free(struct plain *t, struct report *r)
{
    say(t, r);
    world_report_free(r);
}

/* All of @streams, as the poll under way asks. */
static void answer(struct plain *t, const struct counts *c, uint32_t streams)
{
    say_free(t, report_of(t, c, streams, 1, t->seq, false));
}

/* One gateway in session 7, admitted by its first answer. */
static struct plain *plain_met(const struct counts *c, uint32_t streams)
{
    struct plain *t = plain_new(4, 16);
    up(t, 1, 1, 7);
    answer(t, c, streams);
    return t;
}

static void work(struct counts *c, uint64_t n, uint64_t ns)
{
    for (uint64_t i = 0; i < n; i++) {
        meter_arrive(&c->m, IO_READ, 4096);
        meter_complete(&c->m, IO_READ, 4096, false, 0, ns, ns);
    }
}

/* To the next poll: half a period to one and a half after a session began, a period from then on.
 */
static void next_second(struct plain *t)
{
    t->now = services_next_ns(t->s);
    services_tick(t->s, t->now, wall(t));
}

static const struct entity_gateway *first_gateway(const struct plain *t)
{
    const struct entities *e = services_entities(t->s);
    return container_of(e->gateways.next, struct entity_gateway, link);
}

static const struct entity_stream *first_stream(const struct plain *t)
{
    const struct entities *e = services_entities(t->s);
    return container_of(e->streams.next, struct entity_stream, link);
}

static bool said(const struct plain *t, const char *kind)
{
    for (size_t i = 0; i < t->events; i++) {
        if (strcmp(t->event[i], kind) == 0)
            return true;
    }
    return false;
}

static void a_gateway_is_discovered_admitted_lost_and_returns(void **state)
{
    (void)state;
    struct plain *t = plain_new(4, 16);
    struct counts c = NO_COUNTS;
    up(t, 1, 1, 7);
    assert_int_equal(first_gateway(t)->state, GATEWAY_PENDING);
    assert_int_equal(t->polls, 1);
    assert_int_equal(t->acked, 0);
    answer(t, &c, 1);
    assert_int_equal(first_gateway(t)->state, GATEWAY_ADMITTED);
    services_gateway_down(t->s, 7, "closed", t->now, wall(t));
    assert_int_equal(first_gateway(t)->state, GATEWAY_LOST);
    up(t, 1, 1, 8);
    assert_int_equal(first_gateway(t)->state, GATEWAY_LOST);
    answer(t, &c, 1);
    assert_int_equal(first_gateway(t)->state, GATEWAY_ADMITTED);
    assert_true(said(t, "gateway-discovered") && said(t, "gateway-admitted") &&
                said(t, "gateway-lost") && said(t, "gateway-returned"));
    plain_free(t);
}

static void a_gateway_lost_for_a_day_is_forgotten_with_all_its_streams(void **state)
{
    (void)state;
    struct counts c[3] = {NO_COUNTS};
    struct plain *t = plain_met(c, 3);
    services_gateway_down(t->s, 7, "closed", t->now, wall(t));
    t->now += 86401 * S;
    for (int i = 0; i < 4; i++)
        services_tick(t->s, t->now, wall(t));
    const struct entities *e = services_entities(t->s);
    assert_int_equal(e->gateway_count, 0);
    assert_int_equal(e->stream_count, 0);
    assert_int_equal(e->target_count, 0);
    assert_true(said(t, "gateway-retired"));
    plain_free(t);
}

static void a_second_session_of_a_live_identity_is_ended_and_said(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    up(t, 1, 2, 8);
    assert_int_equal(t->ended_session, 8);
    assert_true(said(t, "gateway-identity-conflict"));
    assert_int_equal(first_gateway(t)->hello.session, 7);
    services_gateway_down(t->s, 8, "ended", t->now, wall(t));
    assert_int_equal(first_gateway(t)->state, GATEWAY_ADMITTED);
    plain_free(t);
}

static void a_silent_session_gives_way_to_a_newcomer(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    for (int i = 0; i < 3; i++)
        next_second(t);
    up(t, 1, 2, 8);
    assert_int_equal(t->ended_session, 7);
    assert_int_equal(first_gateway(t)->hello.session, 8);
    plain_free(t);
}

static void the_same_process_dialling_anew_keeps_its_place_at_once(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    work(&c, 100, 1000000);
    up(t, 1, 1, 8);
    assert_int_equal(t->ended_session, 7);
    assert_false(said(t, "gateway-identity-conflict"));
    t->now += S / 2;
    answer(t, &c, 1);
    assert_int_equal(t->reads, 100); /* what happened meanwhile is not lost */
    plain_free(t);
}

static void the_first_report_says_where_counters_stand_and_is_no_window(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    work(&c, 100000, 1000000);
    struct plain *t = plain_met(&c, 1);
    assert_int_equal(first_stream(t)->window.duration_ns, 0);
    assert_int_equal(t->reads, 0);
    work(&c, 500, 2000000);
    next_second(t);
    answer(t, &c, 1);
    const struct entity_window *w = &first_stream(t)->window;
    assert_int_equal(w->reads, 500);
    assert_int_equal(w->hist[METER_TOTAL].count, 500);
    assert_in_range(w->p99_us[METER_TOTAL], 2000, 2040);
    plain_free(t);
}

static void a_lost_poll_loses_nothing(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    for (int i = 0; i < 3; i++) {
        work(&c, 100, 1000000);
        next_second(t);
    }
    assert_int_equal(first_gateway(t)->polls_lost, 2);
    answer(t, &c, 1);
    assert_int_equal(t->reads, 300);
    assert_in_range(first_stream(t)->window.iops, 300 * 2 / 7 - 1, 300 * 2 / 5 + 1);
    plain_free(t);
}

static void a_late_answer_counts_once_and_an_old_one_not_at_all(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    next_second(t);
    work(&c, 100, 1000000);
    uint64_t first = t->seq;
    struct report *late = report_of(t, &c, 1, 1, first, false);
    next_second(t);
    work(&c, 50, 1000000);
    say(t, late);
    assert_int_equal(t->reads, 100);
    answer(t, &c, 1);
    assert_int_equal(t->reads, 150);
    say_free(t, late);
    assert_int_equal(t->reads, 150);
    assert_true(services_entities(t->s)->stale_reports >= 1);
    plain_free(t);
}

static void an_answer_to_a_poll_never_sent_is_ignored(void **state)
{
    (void)state;
    struct plain *t = plain_new(4, 16);
    struct counts c = NO_COUNTS;
    up(t, 1, 1, 7);
    say_free(t, report_of(t, &c, 1, 1, t->seq + 1, false));
    assert_int_equal(first_gateway(t)->state, GATEWAY_PENDING);
    say_free(t, report_of(t, &c, 1, 9, t->seq, false)); /* another boot's */
    assert_int_equal(first_gateway(t)->state, GATEWAY_PENDING);
    plain_free(t);
}

static void an_answer_in_several_frames_is_one_window(void **state)
{
    (void)state;
    struct counts c[2] = {NO_COUNTS};
    struct plain *t = plain_met(c, 2);
    next_second(t);
    work(&c[0], 100, 1000000);
    say_free(t, report_of(t, c, 1, 1, t->seq, true));
    assert_int_equal(t->reads, 0);
    say_free(t, report_of(t, c, 1, 1, t->seq, true)); /* the same frame again */
    answer(t, c, 2);
    assert_int_equal(t->reads, 100);
    plain_free(t);
}

static void a_new_boot_begins_at_zero_without_negative_rates(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    work(&c, 1000, 1000000);
    struct plain *t = plain_met(&c, 1);
    services_gateway_down(t->s, 7, "closed", t->now, wall(t));
    memset(&c, 0, sizeof(c));
    work(&c, 10, 1000000);
    up(t, 1, 2, 8);
    t->now += S / 10;
    say_free(t, report_of(t, &c, 1, 2, t->seq, false));
    assert_int_equal(t->reads, 0);
    next_second(t);
    work(&c, 20, 1000000);
    say_free(t, report_of(t, &c, 1, 2, t->seq, false));
    assert_int_equal(t->reads, 20);
    assert_int_equal(services_entities(t->s)->stream_count, 1);
    assert_int_equal(first_gateway(t)->counter_faults, 0);
    plain_free(t);
}

static void counters_that_go_back_are_a_fault_and_never_a_huge_rate(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    work(&c, 1000, 1000000);
    struct plain *t = plain_met(&c, 1);
    next_second(t);
    memset(&c, 0, sizeof(c));
    work(&c, 10, 1000000);
    answer(t, &c, 1);
    assert_int_equal(t->reads, 0);
    assert_true(first_gateway(t)->counter_faults > 0);
    assert_int_equal(first_stream(t)->window.iops, 0);
    plain_free(t);
}

static void absurd_counts_and_indices_are_borne(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    next_second(t);
    struct report *r = report_of(t, &c, 1, 1, t->seq, false);
    r->stream[0].op[0].counts.completions = UINT64_MAX;
    r->stream[0].op[0].counts.arrivals = 1;
    r->stream[0].op[0].op = (enum io_op)77;
    r->stream[0].hist[0].bucket[0] = (struct report_bucket){.index = 5000, .count = UINT64_MAX};
    r->stream[0].hist[0].bucket[1] =
        (struct report_bucket){.index = HIST_BUCKETS - 1, .count = UINT64_MAX};
    r->stream[0].hist[0].bucket_count = 2;
    r->epoch = UINT64_MAX;
    r->mono_ns = 0;
    snprintf(r->stream[0].host, NAME_SIZE, "<b>\n\x01");
    say_free(t, r);
    list_for_each(it, &services_entities(t->s)->streams) {
        const struct entity_stream *st = container_of(it, struct entity_stream, link);
        assert_null(strpbrk(st->key, "<>\n\x01"));
        assert_true(st->window.iops <= UINT64_C(1000000000000));
    }
    plain_free(t);
}

static void streams_above_the_bound_are_refused_and_said_once(void **state)
{
    (void)state;
    struct plain *t = plain_new(4, 3);
    struct counts c[8] = {NO_COUNTS};
    up(t, 1, 1, 7);
    for (int i = 0; i < 3; i++) {
        answer(t, c, 8);
        next_second(t);
    }
    assert_int_equal(services_entities(t->s)->stream_count, 3);
    size_t n = 0;
    for (size_t i = 0; i < t->events; i++)
        n += strcmp(t->event[i], "streams-full") == 0;
    assert_int_equal(n, 1);
    plain_free(t);
}

static void the_gateway_lost_longest_makes_room_for_a_new_one(void **state)
{
    (void)state;
    struct plain *t = plain_new(2, 16);
    up(t, 1, 1, 11);
    up(t, 2, 1, 12);
    up(t, 3, 1, 13);
    assert_int_equal(t->ended_session, 13);
    services_gateway_down(t->s, 11, "closed", t->now, wall(t));
    up(t, 3, 1, 14);
    const struct entities *e = services_entities(t->s);
    assert_int_equal(e->gateway_count, 2);
    list_for_each(it, &e->gateways)
        assert_int_not_equal(container_of(it, struct entity_gateway, link)->hello.id[0], 1);
    plain_free(t);
}

static void polls_of_many_gateways_spread_over_the_period(void **state)
{
    (void)state;
    struct plain *t = plain_new(200, 16);
    for (unsigned i = 1; i <= 200; i++)
        up(t, (uint8_t)i, 1, 1000 + i);
    t->now += 2 * S;
    services_tick(t->s, t->now, wall(t));
    unsigned tenth[10] = {0};
    uint64_t start = t->now + S / 2; /* a poll just sent is not sent again sooner */
    while (t->now < start + S) {
        uint64_t before = t->polls;
        uint64_t due = services_next_ns(t->s);
        assert_true(due > t->now);
        t->now = due;
        services_tick(t->s, t->now, wall(t));
        if (t->now < start + S)
            tenth[(t->now - start) / (S / 10)] += (unsigned)(t->polls - before);
    }
    for (int i = 0; i < 10; i++)
        assert_in_range(tenth[i], 5, 50);
    plain_free(t);
}

static void a_warning_while_an_answer_is_awaited_is_asked_for_after_it(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    next_second(t); /* polled, and not answered yet */
    uint64_t polls = t->polls;
    services_surge(t->s, t->session, t->now, wall(t));
    assert_int_equal(t->polls, polls);
    t->now += 1000000;
    say_free(t, report_of(t, &c, 1, 1, t->seq, true));
    assert_int_equal(t->polls, polls); /* not whole */
    answer(t, &c, 1);
    assert_int_equal(t->polls, polls + 1);
    answer(t, &c, 1);
    assert_int_equal(t->polls, polls + 1); /* once */
    plain_free(t);
}

static void warnings_that_follow_too_soon_are_dropped(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_met(&c, 1);
    next_second(t);
    answer(t, &c, 1);
    uint64_t polls = t->polls;
    t->now += S / 10;
    services_surge(t->s, t->session, t->now, wall(t));
    assert_int_equal(t->polls, polls + 1);
    answer(t, &c, 1);
    t->now += S / 25;
    services_surge(t->s, t->session, t->now, wall(t));
    assert_int_equal(t->polls, polls + 1);
    t->now += S / 50;
    services_surge(t->s, t->session, t->now, wall(t));
    assert_int_equal(t->polls, polls + 2);
    plain_free(t);
}

static void a_probe_is_kept_and_told_by_nobody_here(void **state)
{
    (void)state;
    struct counts c = NO_COUNTS;
    struct plain *t = plain_new(4, 16);
    up(t, 1, 1, 7);
    struct report *r = report_of(t, &c, 1, 1, t->seq, false);
    r->target[0] = (struct report_target){.name = "array1", .uri = "nbd://array1"};
    r->target_count = 1;
    say_free(t, r);
    const struct entities *e = services_entities(t->s);
    const struct entity_target *target = container_of(e->targets.next, struct entity_target, link);
    size_t before = t->events;
    struct target_health h = {.reachable = false, .probes = 1};
    snprintf(h.target, sizeof(h.target), "%s", target->name);
    snprintf(h.uri, sizeof(h.uri), "%s", target->uri);
    services_target_health(t->s, &h, t->now);
    assert_true(target->has_health);
    assert_false(target->health.reachable);
    assert_int_equal(t->events, before); /* the prober says it, once for all processes */
    plain_free(t);
}

static void a_recalled_gateway_waits_as_lost_and_is_known_again(void **state)
{
    (void)state;
    struct plain *t = plain_new(4, 16);
    uint8_t id[GATEWAY_ID_SIZE] = {1};
    assert_int_equal(
        services_gateway_recall(t->s, id, "gw1", "weir-gateway 0", "10.0.0.1", 5, 6, true, t->now),
        0);
    assert_int_equal(services_gateway_recall(t->s, id, "gw1", "", "", 5, 6, true, t->now),
                     WEIR_E_EXISTS);
    assert_int_equal(first_gateway(t)->state, GATEWAY_LOST);
    struct counts c = NO_COUNTS;
    up(t, 1, 1, 7);
    answer(t, &c, 1);
    assert_int_equal(first_gateway(t)->state, GATEWAY_ADMITTED);
    assert_int_equal(first_gateway(t)->first_seen_us, 5);
    assert_int_equal(services_document_remove(t->s, "Gateway", "gw1", t->now, wall(t)), 0);
    assert_int_equal(services_entities(t->s)->gateway_count, 0);
    assert_int_equal(t->ended_session, 7);
    plain_free(t);
}

/* Random histories: reports are held back, doubled, reordered, dropped, cut into frames; sessions
 * end and return. Whatever happens, sums of samples never exceed what the gateway counted, and
 * equal it after a clean end. */
static void random_history(uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed);
    struct plain *t = plain_new(4, 16);
    struct counts *c = calloc(3, sizeof(*c));
    struct report *kept[8] = {NULL};
    uint64_t session = 7, done = 0;
    up(t, 1, 1, session);
    answer(t, c, 3);
    for (int i = 0; i < 200; i++) {
        for (int k = 0; k < 3; k++) {
            uint64_t n = rng_below(&rng, 50);
            work(&c[k], n, 1000 + rng_below(&rng, 50000000));
            done += n;
        }
        switch (rng_below(&rng, 8)) {
        case 0: { /* keep it back, for much later */
            size_t at = rng_below(&rng, 8);
            if (kept[at] == NULL)
                kept[at] = report_of(t, c, 3, 1, t->seq, rng_below(&rng, 2));
            break;
        }
        case 1: { /* an old one comes */
            size_t at = rng_below(&rng, 8);
            if (kept[at] != NULL) {
                say_free(t, kept[at]);
                kept[at] = NULL;
            }
            break;
        }
        case 2: /* cut off in the middle by the end of the session */
            say_free(t, report_of(t, c, 2, 1, t->seq, true));
            services_gateway_down(t->s, session, "closed", t->now, wall(t));
            up(t, 1, 1, ++session);
            break;
        case 3: /* lost */
            break;
        default: {
            struct report *r = report_of(t, c, 3, 1, t->seq, false);
            say(t, r);
            if (rng_below(&rng, 2))
                say(t, r);
            world_report_free(r);
        }
        }
        assert_true(t->reads <= done);
        next_second(t);
    }
    answer(t, c, 3);
    assert_int_equal(t->reads, done);
    assert_int_equal(t->arrivals, done);
    assert_int_equal(t->total_count, done);
    for (size_t i = 0; i < 8; i++) {
        if (kept[i] != NULL)
            world_report_free(kept[i]);
    }
    free(c);
    plain_free(t);
}

static void no_history_counts_anything_twice_or_loses_it(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        random_history(seed);
    }
}

static void five_hundred_gateways_with_twenty_streams_each_stay_within_bounds(void **state)
{
    (void)state;
    enum { GATEWAYS = 500, STREAMS = 20 };
    struct plain *t = plain_new(GATEWAYS, GATEWAYS * STREAMS);
    struct counts *c = calloc(STREAMS, sizeof(*c));
    for (int round = 0; round < 3; round++) {
        for (unsigned k = 0; k < STREAMS; k++)
            work(&c[k], 40, 1000000 + 1000 * k);
        for (unsigned g = 0; g < GATEWAYS; g++) {
            if (round == 0) {
                struct gateway_hello h = {
                    .session = 100 + g, .id = {(uint8_t)g, (uint8_t)(g >> 8)}, .boot = {1}};
                snprintf(h.name, sizeof(h.name), "gw%u", g);
                services_gateway_up(t->s, &h, t->now, wall(t));
            }
            t->session = 100 + g;
            say_free(t, report_of(t, c, STREAMS, 1, (uint64_t)round + 1, false));
        }
        t->now += 2 * S; /* each is due once */
        services_tick(t->s, t->now, wall(t));
    }
    const struct entities *e = services_entities(t->s);
    assert_int_equal(e->gateway_count, GATEWAYS);
    assert_int_equal(e->stream_count, GATEWAYS * STREAMS);
    assert_int_equal(t->reads, 2u * 40u * GATEWAYS * STREAMS);
    free(c);
    plain_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gateway_is_discovered_admitted_lost_and_returns),
        cmocka_unit_test(a_gateway_lost_for_a_day_is_forgotten_with_all_its_streams),
        cmocka_unit_test(a_second_session_of_a_live_identity_is_ended_and_said),
        cmocka_unit_test(a_silent_session_gives_way_to_a_newcomer),
        cmocka_unit_test(the_same_process_dialling_anew_keeps_its_place_at_once),
        cmocka_unit_test(the_first_report_says_where_counters_stand_and_is_no_window),
        cmocka_unit_test(a_lost_poll_loses_nothing),
        cmocka_unit_test(a_late_answer_counts_once_and_an_old_one_not_at_all),
        cmocka_unit_test(an_answer_to_a_poll_never_sent_is_ignored),
        cmocka_unit_test(an_answer_in_several_frames_is_one_window),
        cmocka_unit_test(a_new_boot_begins_at_zero_without_negative_rates),
        cmocka_unit_test(counters_that_go_back_are_a_fault_and_never_a_huge_rate),
        cmocka_unit_test(absurd_counts_and_indices_are_borne),
        cmocka_unit_test(streams_above_the_bound_are_refused_and_said_once),
        cmocka_unit_test(the_gateway_lost_longest_makes_room_for_a_new_one),
        cmocka_unit_test(polls_of_many_gateways_spread_over_the_period),
        cmocka_unit_test(a_warning_while_an_answer_is_awaited_is_asked_for_after_it),
        cmocka_unit_test(warnings_that_follow_too_soon_are_dropped),
        cmocka_unit_test(a_probe_is_kept_and_told_by_nobody_here),
        cmocka_unit_test(a_recalled_gateway_waits_as_lost_and_is_known_again),
        cmocka_unit_test(no_history_counts_anything_twice_or_loses_it),
        cmocka_unit_test(five_hundred_gateways_with_twenty_streams_each_stay_within_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
