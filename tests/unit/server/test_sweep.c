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
    sweep_init(s);
    for (size_t i = 0; i < n; i++)
        sweep_join(s, &member[i].in);
}

/* One turn; the time of the next. */
static uint64_t turn(struct sweep *s, uint64_t now)
{
    size_t n = sweep_turn(s);
    assert_true(n <= SWEEP_TURN);
    for (; n > 0; n--)
        container_of(sweep_next(s), struct member, in)->looks++;
    return now + sweep_wait_ns(s, EVERY_NS);
}

static void each_is_looked_at_once_in_a_while_and_few_at_once(void **state)
{
    static const size_t counts[] = {1, 63, 64, 65, 1000, 4097, MEMBERS};
    (void)state;
    for (size_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
        struct sweep s;
        join(&s, counts[k]);
        uint64_t now = 0;
        while (now < 10 * EVERY_NS)
            now = turn(&s, now);
        for (size_t i = 0; i < counts[k]; i++)
            assert_in_range(member[i].looks, 10, 11);
    }
}

static void nobody_is_there_and_nothing_happens(void **state)
{
    (void)state;
    struct sweep s;
    sweep_init(&s);
    assert_int_equal(sweep_turn(&s), 0);
    assert_null(sweep_next(&s));
    assert_int_equal(sweep_wait_ns(&s, EVERY_NS), EVERY_NS);
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
        cmocka_unit_test(nobody_is_there_and_nothing_happens),
        cmocka_unit_test(who_is_looked_at_may_leave),
        cmocka_unit_test(who_comes_late_has_its_turn_as_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
