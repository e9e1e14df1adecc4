/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a stream is worth an early warning for each of its five reasons, once for as long as the
 * reason lasts and once in a second at most; what is steady, little, or new is not.
 * Method: one stream of a table, whose counters, queues and late answers are set, and a virtual
 * clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/surge.h"
#include "stream_stage.h"

#define OBJECTIVE_US 10000u

struct bench {
    struct stream_table *t;
    struct stream *st;
    struct surge_watch watch;
    uint64_t now;
};

static void bench_init(struct bench *b, uint64_t limit)
{
    memset(b, 0, sizeof *b);
    b->t = stage_table();
    b->st = stage_join(b->t, "h", "v");
    assert_non_null(b->st);
    if (limit > 0)
        assert_int_equal(stage_apply(b->t, "agreement/a", RULE_AGREED, limit, "h/v"), 0);
    b->now = 100 * S;
    assert_string_equal(surge_why(&b->watch, b->st, b->now), ""); /* it is new */
}

/* So many arrive evenly within @ms, and it is looked over each 20 ms. The first warning. */
static const char *arrive(struct bench *b, uint64_t ios, uint64_t ms)
{
    const char *why = "";
    for (uint64_t at = 0; at < ms; at += 20) {
        b->st->meter->op[IO_READ].arrivals += ios * (at + 20) / ms - ios * at / ms;
        b->now += 20 * MS;
        const char *now = surge_why(&b->watch, b->st, b->now);
        why = why[0] == '\0' ? now : why;
    }
    return why;
}

static void demand_that_is_steady_or_little_is_no_news(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    for (int i = 0; i < 5; i++)
        assert_string_equal(arrive(&b, 1000, 1000), "");
    assert_string_equal(arrive(&b, 1200, 1000), ""); /* a fifth more */
    stream_table_free(b.t);
    bench_init(&b, 0);
    for (int i = 0; i < 3; i++)
        assert_string_equal(arrive(&b, 100, 20000), "");
    assert_string_equal(arrive(&b, 90, 1000), ""); /* eighteen times as much, but not a hundred */
    stream_table_free(b.t);
}

static void demand_that_grows_is_told_before_its_second_is_over(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    arrive(&b, 2000, 2000);
    assert_string_equal(arrive(&b, 1400, 200), "demand"); /* 1250 of them are enough */
    for (int i = 0; i < 3; i++)
        assert_string_equal(arrive(&b, 7000, 1000), ""); /* it is the new level */
    stream_table_free(b.t);
}

static void demand_that_falls_is_told_when_its_second_is_over(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    arrive(&b, 3000, 3000);
    assert_string_equal(arrive(&b, 0, 900), "");
    assert_string_equal(arrive(&b, 0, 200), "demand");
    stream_table_free(b.t);
}

static void late_answers_are_told_once_until_there_are_fewer(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    b.st->turn.recent[0] = 0x3f;
    assert_string_equal(arrive(&b, 0, 2000), ""); /* it has no objective */
    b.st->turn.share->terms.latency_us = OBJECTIVE_US;
    b.st->turn.recent[0] = 0x1f; /* five */
    assert_string_equal(arrive(&b, 0, 2000), "");
    b.st->turn.recent[0] = 0x3f;
    assert_string_equal(arrive(&b, 0, 20), "late");
    assert_string_equal(arrive(&b, 0, 5000), "");
    b.st->turn.recent[0] = 0;
    assert_string_equal(arrive(&b, 0, 20), "");
    b.st->turn.recent[0] = 0x3f;
    assert_string_equal(arrive(&b, 0, 20), "late");
    b.st->turn.share->terms.latency_us = 0;
    stream_table_free(b.t);
}

static void one_that_waits_for_its_turn_is_told_at_a_quarter_of_its_objective(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    struct sched *s = b.st->port->sched;
    struct sched_io io[2] = {{.op = IO_READ, .bytes = 4096}, {.op = IO_READ, .bytes = 4096}};
    b.st->turn.share->terms.latency_us = 200000;
    sched_set_window(s, 1000, b.now);
    assert_true(sched_submit(s, &b.st->turn, &io[0], b.now));
    assert_false(sched_submit(s, &b.st->turn, &io[1], b.now));
    assert_string_equal(arrive(&b, 0, 40), "");
    assert_int_equal(surge_oldest_ns(b.st, b.now), 40 * MS);
    assert_string_equal(arrive(&b, 0, 40), "queued");
    assert_string_equal(arrive(&b, 0, 3000), "");
    sched_cancel(s, &io[1], b.now);
    sched_complete(s, &io[0], 0, b.now);
    assert_int_equal(surge_oldest_ns(b.st, b.now), 0);
    b.st->turn.share->terms.latency_us = 0;
    sched_set_window(s, 0, b.now);
    stream_table_free(b.t);
}

/* It waits, and has no share: told each 100 ms, in the second after it came; nobody who was there
 * when the session began is told of, nor where no window holds anything back. */
static void one_that_comes_and_waits_without_a_share_is_told_in_its_first_second(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    struct sched *s = b.st->port->sched;
    struct sched_io io[2] = {{.op = IO_READ, .bytes = 4096}, {.op = IO_READ, .bytes = 4096}};
    sched_set_window(s, 1000, b.now);
    assert_true(sched_submit(s, &b.st->turn, &io[0], b.now));
    assert_false(sched_submit(s, &b.st->turn, &io[1], b.now));
    b.now += MS;
    assert_string_equal(surge_why(&b.watch, b.st, b.now), ""); /* it came before the window */
    surge_known(&b.watch, b.st, b.now);
    assert_string_equal(arrive(&b, 0, 2000), "");
    b.watch.used = false; /* it comes now */
    assert_string_equal(surge_why(&b.watch, b.st, b.now), "new");
    uint32_t told = 0;
    for (uint64_t from = b.now; b.now < from + 3 * S;)
        told += strcmp(arrive(&b, 0, 20), "new") == 0;
    assert_int_equal(told, 9); /* and one at once */
    sched_cancel(s, &io[1], b.now);
    b.watch.used = false;
    assert_string_equal(surge_why(&b.watch, b.st, b.now), ""); /* nothing waits */
    sched_complete(s, &io[0], 0, b.now);
    sched_set_window(s, 0, b.now);
    b.watch.used = false;
    assert_string_equal(arrive(&b, 0, 2000), "");
    stream_table_free(b.t);
}

static void a_backlog_is_told_once_until_it_is_gone(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    struct gate *g = stream_gate(b.t);
    for (int i = 0; i < 2; i++) {
        struct gate_io io = {.op = IO_READ, .bytes = 4096, .arrived_ns = b.now};
        for (int n = 0; !stage_holds(b.t, b.st, b.now); n++)
            assert_true(n < 3); /* it went */
        assert_false(gate_submit(g, &b.st->flow, &io, b.now));
        assert_string_equal(arrive(&b, 0, 240), "");
        assert_string_equal(arrive(&b, 0, 60), "backlog");
        assert_string_equal(arrive(&b, 0, 1400), "");
        assert_int_equal(surge_oldest_ns(b.st, b.now), 1700 * MS);
        gate_cancel(g, &io, b.now);
        assert_string_equal(arrive(&b, 0, 600), ""); /* and its second is over */
    }
    stream_table_free(b.t);
}

static void one_stream_warns_once_in_a_second(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    b.st->turn.share->terms.latency_us = OBJECTIVE_US;
    arrive(&b, 2000, 2000);
    b.st->turn.recent[0] = 0x3f;
    assert_string_equal(arrive(&b, 20, 20), "late");
    assert_string_equal(arrive(&b, 3000, 900), ""); /* three times the demand, too soon */
    b.st->turn.share->terms.latency_us = 0;
    stream_table_free(b.t);
}

static void another_stream_in_its_place_begins_anew(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    arrive(&b, 2000, 2000);
    struct stream *other = stage_join(b.t, "other", "v");
    other->meter->op[IO_WRITE].arrivals = 50000;
    assert_string_equal(surge_why(&b.watch, other, b.now), "");
    b.st = other;
    assert_string_equal(arrive(&b, 1000, 1000), ""); /* nothing to compare with */
    assert_string_equal(arrive(&b, 2000, 1000), "demand");
    stream_table_free(b.t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(demand_that_is_steady_or_little_is_no_news, stage_setup),
        cmocka_unit_test_setup(demand_that_grows_is_told_before_its_second_is_over, stage_setup),
        cmocka_unit_test_setup(demand_that_falls_is_told_when_its_second_is_over, stage_setup),
        cmocka_unit_test_setup(late_answers_are_told_once_until_there_are_fewer, stage_setup),
        cmocka_unit_test_setup(one_that_waits_for_its_turn_is_told_at_a_quarter_of_its_objective,
                               stage_setup),
        cmocka_unit_test_setup(one_that_comes_and_waits_without_a_share_is_told_in_its_first_second,
                               stage_setup),
        cmocka_unit_test_setup(a_backlog_is_told_once_until_it_is_gone, stage_setup),
        cmocka_unit_test_setup(one_stream_warns_once_in_a_second, stage_setup),
        cmocka_unit_test_setup(another_stream_in_its_place_begins_anew, stage_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
