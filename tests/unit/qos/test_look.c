/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a look lowers the window for its time, takes nothing from reservations, counts the target
 * at both windows apart, and happens once; a gateway's own search takes nothing from them either;
 * and where nobody divides the target any more they go beyond the window.
 * Method: a target of the gateway before a made-up device of eight servers and constant service; a
 * virtual clock; one stream that always has work, one with a reservation that asks for less. */
#include <string.h>

#include "qos_test.h"

#include "qos/target.h"

#define IOS     64u
#define SERVERS 8u
#define SERVICE UINT64_C(1000000)
#define STEP    UINT64_C(50000)

struct bench {
    struct target t;
    struct sched_flow bulk, gold;
    struct sched_share share[2];
    struct sched_io io[IOS];
    uint64_t done[IOS]; /* when it is answered; 0: it is not at the device */
    bool used[IOS];
    uint64_t now, gold_next, gold_asked, gold_served, gold_most;
    uint64_t free_at[SERVERS]; /* when each server is */
    uint64_t others;           /* what waits in the device before one of ours */
    uint32_t depth;            /* that bulk has outstanding at most */
};

static uint32_t at_device(const struct bench *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < IOS; i++)
        n += b->done[i] > 0;
    return n;
}

static void goes(struct bench *b, struct sched_io *io)
{
    uint32_t i = (uint32_t)(io - b->io), first = 0;
    for (uint32_t n = 1; n < SERVERS; n++)
        first = b->free_at[n] < b->free_at[first] ? n : first;
    uint64_t begins = b->free_at[first] > b->now ? b->free_at[first] : b->now;
    b->free_at[first] = begins + SERVICE;
    b->done[i] = b->free_at[first] + b->others;
}

static void ask(struct bench *b, struct sched_flow *f)
{
    for (uint32_t i = 0; i < IOS; i++) {
        if (b->used[i])
            continue;
        b->used[i] = true;
        b->io[i] = (struct sched_io){.op = IO_READ, .bytes = 4096};
        if (sched_submit(b->t.sched, f, &b->io[i], b->now))
            goes(b, &b->io[i]);
        return;
    }
    fail_msg("out of I/Os");
}

static void step(struct bench *b)
{
    b->now += STEP;
    for (uint32_t i = 0; i < IOS; i++) {
        if (b->done[i] == 0 || b->done[i] > b->now)
            continue;
        struct sched_io *io = &b->io[i];
        if (io->flow == &b->gold) {
            uint64_t took = b->now - io->submitted_ns;
            b->gold_served++;
            b->gold_most = took > b->gold_most ? took : b->gold_most;
        }
        target_complete(&b->t, io, b->now - io->submitted_ns, b->now);
        b->done[i] = 0;
        b->used[i] = false;
    }
    while (b->bulk.queued < 2 && b->bulk.queued + b->bulk.inflight < b->depth)
        ask(b, &b->bulk);
    if (b->now >= b->gold_next) {
        b->gold_next += SERVICE;
        b->gold_asked++;
        ask(b, &b->gold);
    }
    if (b->now % TARGET_TICK_NS < STEP)
        target_tick(&b->t, b->now);
    for (struct sched_io *io; (io = sched_poll(b->t.sched, b->now)) != NULL;)
        goes(b, io);
}

static void run(struct bench *b, uint64_t ns)
{
    for (uint64_t end = b->now + ns; b->now < end;)
        step(b);
}

static struct bench *bench_new(void)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->now = NS_PER_S;
    b->depth = 40;
    b->gold_next = b->now;
    assert_int_equal(target_init(&b->t, 8, 10 * NS_PER_S), 0);
    const struct sched_terms terms[] = {{.weight = 100}, {.weight = 100, .reserve_iops = 1200}};
    sched_flow_init(b->t.sched, &b->bulk, b->now);
    sched_flow_init(b->t.sched, &b->gold, b->now);
    for (int i = 0; i < 2; i++) {
        sched_share_init(b->t.sched, &b->share[i], &terms[i], b->now);
        target_share_add(&b->t, b->now);
    }
    sched_flow_join(&b->bulk, &b->share[0], b->now);
    sched_flow_join(&b->gold, &b->share[1], b->now);
    return b;
}

static void bench_free(struct bench *b)
{
    target_plan(&b->t, NULL, b->now);
    for (int i = 0; i < 2; i++)
        target_share_remove(&b->t, b->now);
    for (struct sched_io *io; (io = sched_poll(b->t.sched, b->now)) != NULL;)
        goes(b, io);
    for (uint32_t i = 0; i < IOS; i++)
        if (b->used[i])
            target_complete(&b->t, &b->io[i], 0, b->now);
    sched_flow_fini(&b->bulk);
    sched_flow_fini(&b->gold);
    for (int i = 0; i < 2; i++)
        sched_share_fini(&b->share[i]);
    target_fini(&b->t);
    free(b);
}

static void plan(struct bench *b, uint32_t id, uint64_t low_milli)
{
    struct window_plan p = {.slots_milli = 12000,
                            .look = {.id = id, .ms = 200, .slots_milli = low_milli}};
    target_plan(&b->t, &p, b->now);
}

static struct look_result result(struct bench *b)
{
    struct look_result r;
    look_result(&b->t.look, b->t.sched, b->now, &r);
    return r;
}

static double rate(const struct look_sample *s)
{
    return (double)s->ios * 1e9 / (double)s->ns;
}

static void a_look_counts_both_windows_apart(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    plan(b, 0, 0);
    run(b, NS_PER_S);
    assert_int_equal(result(b).id, 0);
    plan(b, 7, 4000);
    run(b, 150 * NS_PER_MS);
    assert_int_equal(result(b).id, 0); /* not over */
    assert_in_range(at_device(b), 4, 5);
    run(b, 850 * NS_PER_MS);
    struct look_result r = result(b);
    assert_int_equal(r.id, 7);
    assert_in_range(r.low.ns, 140 * NS_PER_MS, 160 * NS_PER_MS);
    assert_in_range(r.since.ns, 700 * NS_PER_MS, 760 * NS_PER_MS);
    assert_in_range(r.low.busy_ns / r.low.ns, 3, 5);
    assert_in_range(r.since.busy_ns / r.since.ns, 11, 13);
    assert_true(rate(&r.low) > 3600 && rate(&r.low) < 5100);
    assert_true(rate(&r.since) > 7800 && rate(&r.since) < 8100);
    assert_true(r.low.full_ns > r.low.ns / 2);
    assert_int_equal(r.low.bytes, r.low.ios * 4096);
    run(b, NS_PER_S);
    struct look_result later = result(b);
    assert_memory_equal(&later.low, &r.low, sizeof r.low);
    assert_true(later.since.ns > r.since.ns);
    bench_free(b);
}

static void what_is_reserved_does_not_feel_it(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    plan(b, 0, 0);
    run(b, NS_PER_S);
    b->gold_asked = b->gold_served = b->gold_most = 0;
    plan(b, 1, 1000);
    run(b, 200 * NS_PER_MS);
    assert_true(b->gold_served + 4 >= b->gold_asked);
    /* Its service, one of what was in flight before it, and what a batch is late. */
    assert_true(b->gold_most <= 3 * SERVICE);
    bench_free(b);
}

static void it_is_begun_once_and_ends_with_the_plan(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    plan(b, 3, 4000);
    run(b, NS_PER_S);
    plan(b, 3, 4000); /* renewed */
    run(b, 20 * NS_PER_MS);
    assert_int_equal(b->t.look.state, LOOK_OVER);
    plan(b, 4, 4000);
    run(b, 20 * NS_PER_MS);
    assert_int_equal(look_slots_milli(&b->t.look), 4000);
    target_plan(&b->t, NULL, b->now);
    assert_int_equal(look_slots_milli(&b->t.look), 0);
    assert_int_equal(result(b).id, 0);
    plan(b, 5, 4000);
    struct window_plan observe = {.slots_milli = 12000, .observe = true};
    target_plan(&b->t, &observe, b->now);
    assert_int_equal(result(b).id, 0);
    run(b, 100 * NS_PER_MS);
    assert_int_equal(target_window(&b->t), 0);
    bench_free(b);
}

static void a_lower_window_that_is_none_lowers_nothing(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    plan(b, 9, 20000); /* above the window */
    run(b, 100 * NS_PER_MS);
    assert_in_range(at_device(b), 11, 13);
    run(b, NS_PER_S);
    assert_int_equal(result(b).id, 9); /* answered all the same: others may look */
    bench_free(b);
}

static void it_begins_as_late_as_the_plan_says_and_may_hold_what_is_reserved(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    struct window_plan p = {
        .slots_milli = 12000,
        .look = {.id = 2, .ms = 200, .after_ms = 300, .slots_milli = 500, .all = true}};
    plan(b, 0, 0);
    run(b, NS_PER_S);
    target_plan(&b->t, &p, b->now);
    run(b, 250 * NS_PER_MS);
    assert_in_range(at_device(b), 11, 14);
    run(b, 100 * NS_PER_MS);
    for (int i = 0; i < 130; i++) {
        run(b, NS_PER_MS);
        assert_in_range(at_device(b), 0, 1); /* without all, one more */
    }
    run(b, NS_PER_S);
    struct look_result r = result(b);
    assert_int_equal(r.id, 2);
    /* Half a slot is kept by time; what went by weight is counted apart. */
    assert_true(r.low.busy_ns < r.low.ns * 11 / 10);
    assert_true(r.since.weighed_ios < r.since.ios);
    assert_true(r.since.weighed_ios > r.since.ios / 2);
    assert_int_equal(r.since.weighed_bytes, r.since.weighed_ios * 4096);
    bench_free(b);
}

static void where_nobody_divides_any_more_what_is_reserved_goes_beyond_the_window(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    struct window_plan p = {.slots_milli = 2000};
    b->depth = 2;
    target_plan(&b->t, &p, b->now);
    run(b, NS_PER_S);
    assert_in_range(at_device(b), 1, 2);
    b->others = 8 * NS_PER_MS; /* gold takes nine in flight now to have its thousand a second */
    run(b, 20 * NS_PER_MS);
    assert_in_range(at_device(b), 1, 2);
    target_plan_expire(&b->t, b->now);
    run(b, 60 * NS_PER_MS);
    b->gold_asked = b->gold_served = 0;
    run(b, 40 * NS_PER_MS);
    assert_true(b->gold_served + 3 >= b->gold_asked);
    target_plan(&b->t, &p, b->now); /* somebody does again */
    run(b, 20 * NS_PER_MS);
    assert_in_range(at_device(b), 1, 2);
    /* And who divides may say that there is nothing to divide: that is no lease that ended. */
    target_plan(&b->t, NULL, b->now);
    run(b, 40 * NS_PER_MS);
    assert_in_range(at_device(b), 1, 3);
    /* Who comes back without a plan is waited for, but not for ever. */
    target_plan(&b->t, &p, b->now);
    target_plan_expire(&b->t, b->now);
    target_plan(&b->t, NULL, b->now);
    run(b, 60 * NS_PER_MS);
    assert_true(at_device(b) > 4);
    b->t.undivided_until_ns = b->now + 1; /* its ten seconds are over */
    target_tick(&b->t, b->now + 2);
    run(b, 20 * NS_PER_MS);
    assert_in_range(at_device(b), 1, 4);
    b->others = 0;
    bench_free(b);
}

static void a_search_of_its_own_does_not_hold_what_is_reserved(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    const struct window *w = &b->t.window;
    for (int i = 0; w->phase != WINDOW_LOW; i++) {
        assert_true(i < 10000);
        run(b, NS_PER_MS);
    }
    assert_true(w->slots_milli < w->high_milli);
    assert_int_equal(target_window(&b->t), w->high_milli); /* reservations may use all of it */
    assert_false(w->low_all);
    run(b, 20 * NS_PER_MS);
    assert_true(at_device(b) <= (w->slots_milli + 999) / 1000 + 2);
    bench_free(b);
}

static void where_a_lower_window_lowers_nothing_the_next_holds_all(void **state)
{
    (void)state;
    struct window w;
    window_init(&w, 8000);
    struct window_sample s = {.interval_ns = TARGET_TICK_NS, .full_ns = TARGET_TICK_NS,
                              .cost_ns = 800 * NS_PER_MS, .ios = 800};
    for (int search = 0, seen = 0; seen < 3; search++) {
        bool was_low = w.phase == WINDOW_LOW;
        /* All is reserved at first, then all goes by weight. */
        s.busy_ns = TARGET_TICK_NS * (seen == 0 ? 9 : w.slots_milli / 1000);
        window_learn(&w, &s);
        assert_true(search < 1000);
        if (!was_low || w.phase == WINDOW_LOW)
            continue;
        assert_int_equal(w.low_all, seen == 0);
        seen++;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_look_counts_both_windows_apart),
        cmocka_unit_test(what_is_reserved_does_not_feel_it),
        cmocka_unit_test(it_is_begun_once_and_ends_with_the_plan),
        cmocka_unit_test(a_lower_window_that_is_none_lowers_nothing),
        cmocka_unit_test(it_begins_as_late_as_the_plan_says_and_may_hold_what_is_reserved),
        cmocka_unit_test(where_nobody_divides_any_more_what_is_reserved_goes_beyond_the_window),
        cmocka_unit_test(a_search_of_its_own_does_not_hold_what_is_reserved),
        cmocka_unit_test(where_a_lower_window_lowers_nothing_the_next_holds_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
