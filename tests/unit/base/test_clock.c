/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: instants are written as RFC 3339 says, and the monotonic clock does not go back.
 * Method: known instants, on both sides of 1970 and of four-digit years. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"

static void instants_are_written_in_utc_with_milliseconds(void **state)
{
    (void)state;
    static const struct {
        int64_t us;
        const char *text;
    } known[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {INT64_C(1795415826123456), "2026-11-23T06:37:06.123Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {INT64_C(951782400000000), "2000-02-29T00:00:00.000Z"},
        {INT64_C(-30610224000000000), "1000-01-01T00:00:00.000Z"},
        {INT64_C(-30610224000000001), "0999-12-31T23:59:59.999Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999Z"},
        {INT64_MIN, "0000-01-01T00:00:00.000Z"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        char text[32];
        clock_format_wall(known[i].us, text, sizeof(text));
        assert_string_equal(text, known[i].text);
    }
}

static void what_was_written_is_read_to_the_second_and_nothing_else(void **state)
{
    (void)state;
    assert_int_equal(clock_parse_wall_s("2026-11-23T06:37:06.123Z"), 1795415826);
    assert_int_equal(clock_parse_wall_s("2000-02-29T00:00:00Z"), 951782400);
    assert_int_equal(clock_parse_wall_s("1969-12-31T23:59:59Z"), -1);
    static const char *const wrong[] = {"", "2026", "2026-11-23", "2026-11-23T06:37:06",
                                        "2026-11-23T06:37:06+01:00", "now"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_true(clock_parse_wall_s(wrong[i]) == INT64_MIN);
}

static void the_monotonic_clock_does_not_go_back(void **state)
{
    (void)state;
    uint64_t before = clock_mono_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = clock_mono_ns();
        assert_true(now >= before);
        before = now;
    }
    assert_true(clock_wall_us() > INT64_C(1577836800000000)); /* this code is from after 2020 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instants_are_written_in_utc_with_milliseconds),
        cmocka_unit_test(what_was_written_is_read_to_the_second_and_nothing_else),
        cmocka_unit_test(the_monotonic_clock_does_not_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
