/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: parts of the way of a warning are counted where they belong, what is over is not, and
 * nobody needs a trail to walk on. Method: made-up times. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/mailbox/trail.h"

static struct trail_stats of(const struct trail *t, enum trail_part part)
{
    struct trail_stats s;
    trail_read(t, part, &s);
    return s;
}

static void parts_are_counted_each_by_itself(void **state)
{
    (void)state;
    struct trail *t = trail_new(4);
    for (uint64_t i = 1; i <= 100; i++)
        trail_add(t, TRAIL_POLL_WAITS, 1000, 1000 + i * 1000);
    struct trail_stats s = of(t, TRAIL_POLL_WAITS);
    assert_int_equal(s.count, 100);
    assert_int_equal(s.sum_ns, 5050 * 1000);
    assert_int_equal(s.max_ns, 100000);
    assert_in_range(s.p50_ns, 50000, 62500); /* at most a quarter above */
    assert_in_range(s.p99_ns, 99000, 125000);
    assert_in_range(trail_below(t, TRAIL_POLL_WAITS, 50000), 37, 50);
    assert_int_equal(trail_below(t, TRAIL_POLL_WAITS, UINT64_MAX), 100);
    assert_int_equal(of(t, TRAIL_POLL_SENT).count, 0);
    trail_add(t, TRAIL_POLL_SENT, 2000, 1000); /* clocks of two threads: not less than nothing */
    assert_int_equal(of(t, TRAIL_POLL_SENT).max_ns, 0);
    trail_free(t);
}

static void the_whole_ends_once(void **state)
{
    (void)state;
    struct trail *t = trail_new(2);
    trail_answered(t, 1, 500); /* nobody warned */
    trail_warned(t, 1, 100);
    trail_warned(t, 1, 200);
    trail_answered(t, 0, 300);
    assert_int_equal(of(t, TRAIL_WHOLE).count, 0);
    trail_answered(t, 1, 700);
    trail_answered(t, 1, 900);
    assert_int_equal(of(t, TRAIL_WHOLE).count, 1);
    assert_int_equal(of(t, TRAIL_WHOLE).max_ns, 500);
    trail_asked(t, 0, 10);
    trail_heard(t, 0, 30);
    trail_heard(t, 0, 50);
    assert_int_equal(of(t, TRAIL_GATEWAY).sum_ns, 20);
    trail_free(t);
}

static void another_session_does_not_end_it(void **state)
{
    (void)state;
    struct trail *t = trail_new(1);
    trail_warned(t, 0, 100);
    trail_asked(t, 0, 150);
    trail_forget(t, 0);
    trail_heard(t, 0, 200);
    trail_answered(t, 0, 300);
    assert_int_equal(of(t, TRAIL_WHOLE).count, 0);
    assert_int_equal(of(t, TRAIL_GATEWAY).count, 0);
    trail_free(t);
}

static void without_one_nothing_is_kept(void **state)
{
    (void)state;
    trail_add(NULL, TRAIL_WHOLE, 1, 2);
    trail_warned(NULL, 7, 1);
    trail_answered(NULL, 7, 1);
    trail_asked(NULL, 7, 1);
    trail_heard(NULL, 7, 1);
    trail_forget(NULL, 7);
    assert_int_equal(of(NULL, TRAIL_WHOLE).count, 0);
    trail_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_counted_each_by_itself),
        cmocka_unit_test(the_whole_ends_once),
        cmocka_unit_test(another_session_does_not_end_it),
        cmocka_unit_test(without_one_nothing_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
