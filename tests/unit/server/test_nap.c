/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a thread naps only where messages come densely, never longer than its bound, and stops when
 * they stop. Method: made-up times. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/monitor/nap.h"

/* The nap after @looks looks in which @messages come to each, one by one. */
static uint64_t nap_of(struct nap *n, uint64_t *now, uint64_t messages, int looks)
{
    uint64_t ns = 0, each = NAP_LOOK_NS / messages;
    for (uint64_t i = 0; i < messages * (uint64_t)looks; i++) {
        *now += each;
        ns = nap_next(n, 1, *now);
        assert_true(ns <= NAP_MAX_NS);
    }
    return ns;
}

static void who_is_seldom_woken_never_naps(void **state)
{
    (void)state;
    struct nap n;
    uint64_t now = 5 * NS_PER_S;
    nap_init(&n, now);
    assert_int_equal(nap_next(&n, 0, now), 0);
    assert_int_equal(nap_of(&n, &now, 1, 20), 0);
    assert_int_equal(nap_of(&n, &now, NAP_LOOK_NS / NAP_MAX_NS * NAP_LEAST / 2, 20), 0);
    /* A burst after silence is over before it counts for dense. */
    assert_int_equal(nap_next(&n, 1000, now + NS_PER_S), 0);
}

static void a_nap_is_for_some_messages_and_bounded(void **state)
{
    (void)state;
    struct nap n;
    uint64_t now = 0;
    nap_init(&n, now);
    assert_int_equal(nap_of(&n, &now, 2 * NAP_LOOK_NS / NAP_MAX_NS * NAP_LEAST, 3), NAP_MAX_NS);
    /* At 2 million a second 32 of them are there in 16 us. */
    assert_in_range(nap_of(&n, &now, 4000, 3), 15 * NS_PER_US, 17 * NS_PER_US);
}

static void who_finds_as_many_as_a_nap_is_for_looks_on_at_once(void **state)
{
    (void)state;
    struct nap n;
    uint64_t now = 0;
    nap_init(&n, now);
    assert_true(nap_of(&n, &now, 200, 3) > 0);
    assert_int_equal(nap_next(&n, NAP_MESSAGES, now), 0);
    assert_true(nap_next(&n, NAP_MESSAGES - 1, now) > 0);
    now += NAP_LOOK_NS;
    assert_int_equal(nap_next(&n, 1000, now), 0);
    assert_true(nap_next(&n, 1, now) > 0);
}

static void naps_end_with_the_load(void **state)
{
    (void)state;
    struct nap n;
    uint64_t now = 0;
    nap_init(&n, now);
    assert_true(nap_of(&n, &now, 200, 3) > 0);
    now += NAP_LOOK_NS;
    assert_int_equal(nap_next(&n, 1, now), 0);
    assert_true(nap_of(&n, &now, 200, 3) > 0);
    now += NS_PER_S;
    assert_int_equal(nap_next(&n, 0, now), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_seldom_woken_never_naps),
        cmocka_unit_test(a_nap_is_for_some_messages_and_bounded),
        cmocka_unit_test(who_finds_as_many_as_a_nap_is_for_looks_on_at_once),
        cmocka_unit_test(naps_end_with_the_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
