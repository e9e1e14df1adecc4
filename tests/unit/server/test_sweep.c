/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: everybody is looked at once in a while, and never many at once, whoever comes and goes
 * meanwhile. Method: made-up times. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/monitor/sweep.h"

#define MEMBERS  10000u
#define EVERY_NS UINT64_C(1000000000)

struct member {
    struct list in;
    unsigned looks;
};

static struct member member[MEMBERS];

static void join(struct sweep *s, size_t n)
{
    memset(member, 0, sizeof(member));
    sweep_init(s, 0);
    for (size_t i = 0; i < n; i++)
        sweep_join(s, &member[i].in);
}

/* One turn, or those that were missed; the time of the next. */
static uint64_t turn(struct sweep *s, uint64_t now)
{
    size_t n = sweep_turn(s, EVERY_NS, now);
    assert_true(n <= SWEEP_BEHIND * SWEEP_TURN);
    for (; n > 0; n--)
        container_of(sweep_next(s), struct member, in)->looks++;
    assert_true(s->due_ns > now);
    return s->due_ns;
}

static void each_is_looked_at_once_in_a_while_and_few_at_once(void **state)
{
    static const size_t counts[] = {1, 63, 64, 65, 1000, 4097, MEMBERS};
    (void)state;
    for (size_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
        struct sweep s;
        join(&s, counts[k]);
        uint64_t now = 0;
        while (now < 10 * EVERY_NS) {
            assert_true(sweep_turn(&(struct sweep){.count = s.count}, EVERY_NS, 0) <= SWEEP_TURN);
            now = turn(&s, now);
        }
        for (size_t i = 0; i < counts[k]; i++)
            assert_in_range(member[i].looks, 10, 11);
    }
}

/* A loop with long rounds comes to each turn late. */
static void turns_that_come_late_are_made_up_for(void **state)
{
    static const uint64_t rounds_ms[] = {10, 16, 40};
    (void)state;
    for (size_t k = 0; k < sizeof(rounds_ms) / sizeof(rounds_ms[0]); k++) {
        struct sweep s;
        uint64_t round_ns = rounds_ms[k] * 1000000;
        join(&s, MEMBERS);
        for (uint64_t now = 0; now < 10 * EVERY_NS; now += round_ns)
            if (now >= s.due_ns)
                (void)turn(&s, now);
        for (size_t i = 0; i < MEMBERS; i++)
            assert_in_range(member[i].looks, 9, 11);
    }
}

static void a_long_standstill_is_not_made_up_for_at_once(void **state)
{
    (void)state;
    struct sweep s;
    join(&s, MEMBERS);
    assert_int_equal(sweep_turn(&s, EVERY_NS, 100 * EVERY_NS), SWEEP_BEHIND * SWEEP_TURN);
    assert_true(s.due_ns > 100 * EVERY_NS);
    assert_true(s.due_ns < 101 * EVERY_NS);
}

static void nobody_is_there_and_nothing_happens(void **state)
{
    (void)state;
    struct sweep s;
    sweep_init(&s, EVERY_NS);
    assert_int_equal(sweep_turn(&s, EVERY_NS, EVERY_NS), 0);
    assert_null(sweep_next(&s));
    assert_int_equal(s.due_ns, 2 * EVERY_NS);
}

static void who_is_looked_at_may_leave(void **state)
{
    (void)state;
    struct sweep s;
    join(&s, 100);
    struct list *first = sweep_next(&s);
    assert_ptr_equal(first, &member[0].in);
    sweep_leave(&s, first);
    assert_false(list_linked(first));
    /* And another that has not had its turn. */
    sweep_leave(&s, &member[1].in);
    assert_ptr_equal(sweep_next(&s), &member[2].in);
    for (size_t i = 2; i < 100; i++)
        sweep_leave(&s, &member[i].in);
    assert_int_equal(s.count, 0);
    assert_null(sweep_next(&s));
}

static void who_comes_late_has_its_turn_as_well(void **state)
{
    (void)state;
    struct sweep s;
    join(&s, 1000);
    uint64_t now = turn(&s, 0);
    for (size_t i = 1000; i < 2000; i++)
        sweep_join(&s, &member[i].in);
    while (now < 2 * EVERY_NS)
        now = turn(&s, now);
    for (size_t i = 0; i < 2000; i++)
        assert_true(member[i].looks > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_looked_at_once_in_a_while_and_few_at_once),
        cmocka_unit_test(turns_that_come_late_are_made_up_for),
        cmocka_unit_test(a_long_standstill_is_not_made_up_for_at_once),
        cmocka_unit_test(nobody_is_there_and_nothing_happens),
        cmocka_unit_test(who_is_looked_at_may_leave),
        cmocka_unit_test(who_comes_late_has_its_turn_as_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
