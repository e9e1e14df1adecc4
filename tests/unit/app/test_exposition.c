/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no name can break out of its label, and histograms are cumulative to +Inf.
 * Method: hostile label values, compared with the text that the format's document asks for. */
#include "server/app/exposition.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void labels_are_escaped_and_bounded(void **state)
{
    (void)state;
    struct text out;
    text_init(&out, 65536);
    const struct label hostile[] = {{"stream", "a\\b\"} 1\nweir_x"}, {NULL, NULL}};
    exposition_count(&out, "weir_x", hostile, 7);
    assert_string_equal(out.data, "weir_x{stream=\"a\\\\b\\\"} 1\\nweir_x\"} 7\n");
    text_clear(&out);

    char name[400];
    memset(name, 'x', sizeof(name));
    memcpy(name + 255, "\xc3\xa4", 2); /* a character across the bound */
    name[399] = '\0';
    const struct label wide[] = {{"stream", name}, {NULL, NULL}};
    exposition_count(&out, "weir_x", wide, 7);
    assert_int_equal(out.len, strlen("weir_x{stream=\"\"} 7\n") + 255);
    text_fini(&out);
}

static void values_without_labels_have_no_braces(void **state)
{
    (void)state;
    struct text out;
    text_init(&out, 4096);
    exposition_family(&out, "weir_x", "gauge", "Words.");
    exposition_value(&out, "weir_x", NULL, 0.25);
    assert_string_equal(out.data, "# HELP weir_x Words.\n# TYPE weir_x gauge\nweir_x 0.25\n");
    text_fini(&out);
}

static void a_histogram_ends_in_infinity_sum_and_count(void **state)
{
    (void)state;
    struct text out;
    uint64_t cumulative[EXPOSITION_BUCKETS];
    for (size_t i = 0; i < EXPOSITION_BUCKETS; i++)
        cumulative[i] = i;
    text_init(&out, 65536);
    const struct label labels[] = {{"op", "read"}, {NULL, NULL}};
    exposition_histogram(&out, "weir_h_seconds", labels, cumulative, 99, 1.5);
    static const char first[] = "weir_h_seconds_bucket{op=\"read\",le=\"5e-05\"} 0\n";
    assert_memory_equal(out.data, first, sizeof(first) - 1);
    assert_non_null(strstr(out.data, "weir_h_seconds_bucket{op=\"read\",le=\"0.005\"} 6\n"));
    assert_non_null(strstr(
        out.data, "weir_h_seconds_bucket{op=\"read\",le=\"+Inf\"} 99\n"
                  "weir_h_seconds_sum{op=\"read\"} 1.5\nweir_h_seconds_count{op=\"read\"} 99\n"));
    text_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_escaped_and_bounded),
        cmocka_unit_test(values_without_labels_have_no_braces),
        cmocka_unit_test(a_histogram_ends_in_infinity_sum_and_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
