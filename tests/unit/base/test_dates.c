/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: people hear of a certificate's end in steps, each once, never of one that has time; the
 * words say the date and how far it is. Method: one certificate looked at over its life, an hour at
 * a time; the edges to the second. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/dates.h"

#define DAY INT64_C(86400)

static const struct dates year = {.from_s = 1700000000, .until_s = 1700000000 + 365 * DAY};

static void it_counts_from_its_first_second_to_before_its_last(void **state)
{
    (void)state;
    static const struct dates none = {0};
    assert_false(dates_hold(&year, year.from_s - 1));
    assert_true(dates_hold(&year, year.from_s));
    assert_true(dates_hold(&year, year.until_s - 1));
    assert_false(dates_hold(&year, year.until_s));
    assert_true(dates_hold(&none, 0));
    assert_false(dates_any(&none));
    assert_true(dates_any(&year));
    assert_int_equal(dates_step(&none, INT64_C(1) << 40), 0);
}

static void a_word_is_due_at_30_14_7_3_1_and_0_days_and_never_before(void **state)
{
    (void)state;
    static const int64_t at[] = {30, 14, 7, 3, 1, 0};
    unsigned said = 0, words = 0;
    for (int64_t now = year.from_s; now < year.until_s + 10 * DAY; now += 3600) {
        unsigned step = dates_step(&year, now);
        assert_true(step >= said);
        if (step > said) {
            assert_true(words < 6);
            int64_t due = year.until_s - at[words++] * DAY;
            assert_true(now >= due && now - due < 3600);
        }
        said = step;
    }
    assert_int_equal(words, 6);
    assert_int_equal(dates_step(&year, year.until_s - DATES_WARN_S - 1), 0);
    assert_int_equal(dates_step(&year, year.until_s - DATES_WARN_S), 1);
    /* One that does not count yet is as bad as one that is over. */
    assert_int_equal(dates_step(&year, year.from_s - 1), 6);
}

static void words_say_the_date_and_how_far_it_is(void **state)
{
    (void)state;
    char out[DATES_TEXT];
    const struct dates d = {.from_s = 1700000000, .until_s = 1705000000};
    assert_string_equal(dates_words(&d, d.from_s - 3 * 3600, out, sizeof(out)),
                        "it begins to count on 2023-11-14 22:13:20 UTC, in 3 hours");
    assert_string_equal(dates_words(&d, d.until_s - 9 * DAY - 5, out, sizeof(out)),
                        "it ends on 2024-01-11 19:06:40 UTC, in 9 days");
    assert_string_equal(dates_words(&d, d.until_s, out, sizeof(out)),
                        "it ended on 2024-01-11 19:06:40 UTC, 0 seconds ago");
    assert_string_equal(dates_words(&d, d.until_s + 400 * DAY, out, sizeof(out)),
                        "it ended on 2024-01-11 19:06:40 UTC, 400 days ago");
    const struct dates odd = {.from_s = 0, .until_s = INT64_MAX};
    assert_non_null(strstr(dates_words(&odd, 1, out, sizeof(out)), "no date"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_counts_from_its_first_second_to_before_its_last),
        cmocka_unit_test(a_word_is_due_at_30_14_7_3_1_and_0_days_and_never_before),
        cmocka_unit_test(words_say_the_date_and_how_far_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
