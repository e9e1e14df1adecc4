/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: tables line up, CSV parses, and no object can steer the terminal it is shown on.
 * Method: small objects with known output; hostile text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "cli/table.h"

static const struct table_column columns[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"VERDICT", "status.verdict", TABLE_VERDICT, false},
    {"IOPS", "iops", TABLE_COUNT, false},
    {"SUM", "a+b", TABLE_RATE, true},
};

static json_t *object(const char *text)
{
    json_error_t error;
    json_t *o = json_loads(text, 0, &error);
    assert_non_null(o);
    return o;
}

static void check(enum table_style style, bool headers, bool color, const char *const *objects,
                  const char *expected)
{
    struct table *t = table_new(columns, 4, style, 0);
    for (; *objects; objects++) {
        json_t *o = object(*objects);
        table_add(t, o);
        json_decref(o);
    }
    struct text out;
    text_init(&out, 100000);
    table_print(t, headers, color, &out);
    assert_string_equal(out.data, expected);
    text_fini(&out);
    table_free(t);
}

static const char *const two[] = {"{\"name\":\"long-name\",\"status\":{\"verdict\":\"met\"},"
                                  "\"iops\":12345,\"a\":1024,\"b\":1024}",
                                  "{\"name\":\"x\",\"iops\":7}", NULL};

static void columns_line_up_and_what_is_missing_is_a_dash(void **state)
{
    (void)state;
    check(TABLE_STYLE_NARROW, true, false, two,
          "NAME       VERDICT   IOPS\n"
          "long-name  met      12.3k\n"
          "x          -            7\n");
    check(TABLE_STYLE_WIDE, false, false, two,
          "long-name  met  12.3k  2KiB/s\n"
          "x          -        7       -\n");
}

static void colours_are_only_there_when_asked_for(void **state)
{
    (void)state;
    check(TABLE_STYLE_NARROW, false, true, two,
          "long-name  \033[32mmet\033[0m  12.3k\n"
          "x          -        7\n");
}

static void csv_is_canonical_and_quoted_when_needed(void **state)
{
    (void)state;
    static const char *const hostile[] = {
        "{\"name\":\"a,\\\"b\\\"\",\"iops\":12345,\"a\":1,\"b\":2}",
        "{\"name\":null,\"iops\":true}", NULL};
    check(TABLE_STYLE_CSV, true, false, hostile,
          "name,status.verdict,iops,a+b\r\n"
          "\"a,\"\"b\"\"\",,12345,3\r\n"
          ",,true,\r\n");
}

static void hostile_text_is_escaped(void **state)
{
    (void)state;
    static const char *const hostile[] = {"{\"name\":\"\\u001b[2J\\n\\u009b\\u202e\"}", NULL};
    check(TABLE_STYLE_NARROW, false, true, hostile,
          "\\x1b[2J\\x0a\\xc2\\x9b\\xe2\\x80\\xae  -  -\n");
    check(TABLE_STYLE_CSV, false, false, hostile, "\\x1b[2J\\x0a\\xc2\\x9b\\xe2\\x80\\xae,,,\r\n");
}

static void width_counts_characters_and_not_bytes(void **state)
{
    (void)state;
    static const char *const names[] = {"{\"name\":\"\\u00fc\\u00fc\"}", "{\"name\":\"abc\"}",
                                        NULL};
    check(TABLE_STYLE_NARROW, false, false, names,
          "\xc3\xbc\xc3\xbc   -  -\nabc  -  -\n");
}

static void values_are_shown_in_peoples_units(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum table_format format;
        const char *text;
    } cases[] = {
        {"null", TABLE_COUNT, "-"},          {"5250", TABLE_LATENCY, "5.25ms"},
        {"419430400", TABLE_RATE, "400MiB/s"}, {"1073741824", TABLE_SIZE, "1GiB"},
        {"99.9", TABLE_PERCENT, "99.9%"},    {"100", TABLE_PERCENT, "100%"},
        {"0", TABLE_PERCENT, "0%"},          {"12345", TABLE_EXACT, "12345"},
        {"[1,2,3]", TABLE_LENGTH, "3"},      {"[\"a\",\"b\"]", TABLE_LIST, "a,b"},
        {"true", TABLE_TEXT, "yes"},         {"false", TABLE_TEXT, "no"},
        {"\"1970-01-01T00:00:00.000Z\"", TABLE_AGE, "100s"},
        {"\"1969-12-31T23:00:00Z\"", TABLE_AGE, "61m"},
        {"\"1969-12-29T00:00:00Z\"", TABLE_AGE, "3d"},
        {"\"soon\"", TABLE_AGE, "soon"},     {"{}", TABLE_TEXT, "?"},
        {"-5", TABLE_COUNT, "0"},            {"1e300", TABLE_COUNT, "18.4E"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *v = json_loads(cases[i].json, JSON_DECODE_ANY, NULL);
        struct text out;
        text_init(&out, 1000);
        table_format_value(v, cases[i].format, 100000000, &out);
        assert_string_equal(out.data, cases[i].text);
        text_fini(&out);
        json_decref(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_line_up_and_what_is_missing_is_a_dash),
        cmocka_unit_test(colours_are_only_there_when_asked_for),
        cmocka_unit_test(csv_is_canonical_and_quoted_when_needed),
        cmocka_unit_test(hostile_text_is_escaped),
        cmocka_unit_test(width_counts_characters_and_not_bytes),
        cmocka_unit_test(values_are_shown_in_peoples_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
