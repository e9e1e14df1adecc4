/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every form of a quantity that people may write means what it says, and every other is
 * refused. Method: tables of forms; random values through each formatter and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "../seed.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/units.h"

#define REFUSED 0 /* in the tables below: the parser must refuse */

struct form {
    const char *text;
    uint64_t value;
};

typedef int parse(const char *text, uint64_t *ret, const char **ret_expected);

static void check_forms(parse *f, const struct form *forms, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t v = 77;
        const char *expected = NULL;
        int r = f(forms[i].text, &v, &expected);
        if (forms[i].value == REFUSED) {
            if (r != WEIR_E_INVALID || !expected || v != 77)
                fail_msg("\"%s\" was not refused cleanly", forms[i].text);
        } else if (r != 0 || v != forms[i].value) {
            fail_msg("\"%s\" gave %llu (%d)", forms[i].text, (unsigned long long)v, r);
        }
        /* The words are optional. */
        assert_int_equal(f(forms[i].text, &v, NULL), r);
    }
}
#define CHECK(f, forms) check_forms(f, forms, sizeof(forms) / sizeof((forms)[0]))

static void iops_are_whole_numbers_without_prefixes(void **state)
{
    (void)state;
    static const struct form forms[] = {
        {"1", 1},           {"4000", 4000},       {"4000/s", 4000},
        {"1000000000", 1000000000},               {"unlimited", UNITS_UNLIMITED},
        {"0", REFUSED},     {"4k", REFUSED},      {"4000 /s", REFUSED},
        {"", REFUSED},      {"-1", REFUSED},      {"1.5", REFUSED},
        {"4000.0", REFUSED},{"1000000001", REFUSED}, {"Unlimited", REFUSED},
        {" 1", REFUSED},    {"1 ", REFUSED},      {"99999999999999999999", REFUSED},
        {"+5", REFUSED},    {"0x10", REFUSED},    {"1e3", REFUSED},
    };
    CHECK(units_parse_iops, forms);
}

static void bandwidths_name_binary_or_decimal_units(void **state)
{
    (void)state;
    static const struct form forms[] = {
        {"400MiB/s", 419430400}, {"50MB/s", 50000000},    {"1048576B/s", 1048576},
        {"1048576", 1048576},    {"unlimited", UNITS_UNLIMITED}, {"1KiB/s", 1024},
        {"1kB/s", 1000},         {"2GiB/s", UINT64_C(2147483648)}, {"1.5KiB/s", 1536},
        {"3 MiB/s", 3145728},    {"1TiB/s", UINT64_C(1099511627776)},
        {"12.34MiB/s", 12939428},
        {"0", REFUSED},          {"0MiB/s", REFUSED},     {"400M", REFUSED},
        {"400K/s", REFUSED},     {"1G", REFUSED},         {"400MiB", REFUSED},
        {"400mib/s", REFUSED},   {"KB/s", REFUSED},       {"1KB/s", REFUSED},
        {"1.5", REFUSED},        {"18446744073709551615", REFUSED}, {"17000000TiB/s", REFUSED},
        {"0.1B/s", REFUSED},     {"1MiB/s ", REFUSED},    {"1  MiB/s", REFUSED},
        {"/s", REFUSED},         {"1/s", REFUSED},
    };
    CHECK(units_parse_bandwidth, forms);
}

static void sizes_may_be_zero_and_bare_prefixes_are_refused(void **state)
{
    (void)state;
    static const struct form forms[] = {
        {"4KiB", 4096},   {"256 KiB", 262144}, {"512", 512},        {"512B", 512},
        {"10MB", 10000000}, {"1GB", 1000000000}, {"1.5GiB", 1610612736},
        {"4K", REFUSED},  {"4M", REFUSED},     {"4G", REFUSED},     {"4kib", REFUSED},
        {"", REFUSED},    {"KiB", REFUSED},    {"4KiB/s", REFUSED}, {"1.KiB", REFUSED},
        {".5KiB", REFUSED},
    };
    CHECK(units_parse_size, forms);
    uint64_t v = 1;
    assert_int_equal(units_parse_size("0", &v, NULL), 0);
    assert_int_equal(v, 0);
}

static void latencies_need_their_unit(void **state)
{
    (void)state;
    static const struct form forms[] = {
        {"5ms", 5000},  {"800us", 800},  {"1.5s", 1500000}, {"0.25ms", 250}, {"20 ms", 20000},
        {"5", REFUSED}, {"0ms", REFUSED}, {"0.0001us", REFUSED}, {"5m", REFUSED},
        {"5ns", REFUSED}, {"ms", REFUSED}, {"-5ms", REFUSED}, {"5MS", REFUSED},
    };
    CHECK(units_parse_latency_us, forms);
}

static void durations_come_in_words_or_iso_8601(void **state)
{
    (void)state;
    static const struct form forms[] = {
        {"10s", 10 * NS_PER_S},   {"5m", 300 * NS_PER_S},  {"2h", 7200 * NS_PER_S},
        {"30d", UINT64_C(2592000) * NS_PER_S},             {"250ms", 250 * NS_PER_MS},
        {"10us", 10000},          {"7ns", 7},              {"1.5s", 1500 * NS_PER_MS},
        {"PT10S", 10 * NS_PER_S}, {"P30D", UINT64_C(2592000) * NS_PER_S},
        {"PT5M", 300 * NS_PER_S}, {"PT1H30M", 5400 * NS_PER_S}, {"P1DT1S", 86401 * NS_PER_S},
        {"P2W", UINT64_C(1209600) * NS_PER_S},             {"PT0.25S", 250 * NS_PER_MS},
        {"10", REFUSED},  {"0s", REFUSED},  {"PT0S", REFUSED}, {"P", REFUSED}, {"PT", REFUSED},
        {"P1M", REFUSED}, {"P1Y", REFUSED}, {"PT1D", REFUSED}, {"P1S", REFUSED},
        {"PT1S1M", REFUSED}, {"PT1S1S", REFUSED}, {"PT1.5M", REFUSED}, {"P1DT", REFUSED},
        {"PTT1S", REFUSED}, {"10 s ", REFUSED}, {"1w", REFUSED}, {"300000000000d", REFUSED},
        {"P99999999999W", REFUSED}, {"pt10s", REFUSED}, {"PT10", REFUSED},
    };
    CHECK(units_parse_duration_ns, forms);
}

static void percentages_are_parts_per_million(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int r;
        uint32_t ppm;
    } forms[] = {
        {"99.9%", 0, 999000}, {"99.9", 0, 999000}, {"100%", 0, 1000000}, {"0", 0, 0},
        {"99.99 %", 0, 999900}, {"0.0001%", 0, 1},
        {"100.1%", WEIR_E_INVALID, 0}, {"-1%", WEIR_E_INVALID, 0}, {"%", WEIR_E_INVALID, 0},
        {"99,9%", WEIR_E_INVALID, 0}, {"99%%", WEIR_E_INVALID, 0}, {"0.00001", WEIR_E_INVALID, 0},
        {"99 ", WEIR_E_INVALID, 0},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        uint32_t ppm = 0;
        assert_int_equal(units_parse_percent_ppm(forms[i].text, &ppm, NULL), forms[i].r);
        assert_int_equal(ppm, forms[i].ppm);
    }
}

static void booleans_are_words(void **state)
{
    (void)state;
    static const char *const yes[] = {"on", "yes", "true"}, *const no[] = {"off", "no", "false"};
    for (size_t i = 0; i < 3; i++) {
        int v = -1;
        assert_int_equal(units_parse_bool(yes[i], &v, NULL), 0);
        assert_int_equal(v, 1);
        assert_int_equal(units_parse_bool(no[i], &v, NULL), 0);
        assert_int_equal(v, 0);
    }
    int v = -1;
    const char *expected = NULL;
    assert_int_equal(units_parse_bool("1", &v, &expected), WEIR_E_INVALID);
    assert_int_equal(units_parse_bool("On", &v, &expected), WEIR_E_INVALID);
    assert_int_equal(v, -1);
    assert_non_null(expected);
}

static void formatters_write_what_people_read(void **state)
{
    (void)state;
    char out[64];
    assert_string_equal(units_format_count(0, out, sizeof(out)), "0");
    assert_string_equal(units_format_count(950, out, sizeof(out)), "950");
    assert_string_equal(units_format_count(12345, out, sizeof(out)), "12.3k");
    assert_string_equal(units_format_count(123456, out, sizeof(out)), "123k");
    assert_string_equal(units_format_count(999999, out, sizeof(out)), "1.0M");
    assert_string_equal(units_format_count(1200000, out, sizeof(out)), "1.2M");
    assert_string_equal(units_format_bandwidth(419430400, out, sizeof(out)), "400MiB/s");
    assert_string_equal(units_format_bandwidth(UNITS_UNLIMITED, out, sizeof(out)), "unlimited");
    assert_string_equal(units_format_bandwidth(1536, out, sizeof(out)), "1.50KiB/s");
    assert_string_equal(units_format_size(4096, out, sizeof(out)), "4KiB");
    assert_string_equal(units_format_size(0, out, sizeof(out)), "0B");
    assert_string_equal(units_format_latency_us(812, out, sizeof(out)), "812us");
    assert_string_equal(units_format_latency_us(5250, out, sizeof(out)), "5.25ms");
    assert_string_equal(units_format_latency_us(1200000, out, sizeof(out)), "1.20s");
    assert_string_equal(units_format_latency_us(999600, out, sizeof(out)), "1.00s");
    assert_string_equal(units_format_duration_ns(10 * NS_PER_S, out, sizeof(out)), "10s");
    assert_string_equal(units_format_duration_ns(300 * NS_PER_S, out, sizeof(out)), "5m");
    assert_string_equal(units_format_duration_ns(UINT64_C(2592000) * NS_PER_S, out, sizeof(out)),
                        "30d");
    assert_string_equal(units_format_duration_ns(0, out, sizeof(out)), "0s");
    assert_string_equal(units_format_duration_iso(10 * NS_PER_S, out, sizeof(out)), "PT10S");
    assert_string_equal(units_format_duration_iso(UINT64_C(2592000) * NS_PER_S, out, sizeof(out)),
                        "P30D");
    assert_string_equal(units_format_duration_iso(5400 * NS_PER_S, out, sizeof(out)), "PT1H30M");
    assert_string_equal(units_format_duration_iso(250 * NS_PER_MS, out, sizeof(out)), "PT0.25S");
    assert_string_equal(units_format_duration_iso(0, out, sizeof(out)), "PT0S");
}

static uint64_t any_magnitude(struct rng *r)
{
    return (rng_u64(r) >> rng_below(r, 56)) | 1;
}

static void what_is_formatted_parses_back(void **state)
{
    (void)state;
    struct rng r;
    rng_seed(&r, test_seed());
    for (int i = 0; i < 20000; i++) {
        char out[64];
        uint64_t v = any_magnitude(&r) >> 1 | 1, back = 0; /* below 20 digits */
        /* Durations are exact. */
        assert_int_equal(units_parse_duration_ns(units_format_duration_ns(v, out, sizeof(out)),
                                                 &back, NULL), 0);
        assert_true(back == v);
        assert_int_equal(units_parse_duration_ns(units_format_duration_iso(v, out, sizeof(out)),
                                                 &back, NULL), 0);
        assert_true(back == v);
        /* The others keep three digits. */
        v >>= 7;
        v |= 1;
        assert_int_equal(units_parse_bandwidth(units_format_bandwidth(v, out, sizeof(out)), &back,
                                               NULL), 0);
        assert_true(back <= v + v / 190 && back >= v - v / 190);
        assert_int_equal(units_parse_size(units_format_size(v, out, sizeof(out)), &back, NULL), 0);
        assert_true(back <= v + v / 190 && back >= v - v / 190);
        assert_int_equal(units_parse_latency_us(units_format_latency_us(v, out, sizeof(out)), &back,
                                                NULL), 0);
        assert_true(back <= v + v / 190 && back >= v - v / 190);
    }
}

static void formatters_stay_inside_small_buffers(void **state)
{
    (void)state;
    char out[6];
    memset(out, 'x', sizeof(out));
    units_format_bandwidth(UINT64_C(123456789012), out, 5);
    assert_int_equal(strlen(out), 4);
    assert_int_equal(out[5], 'x');
    units_format_duration_iso(UINT64_MAX - 1, out, 5);
    assert_int_equal(strlen(out), 4);
    assert_int_equal(out[5], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(iops_are_whole_numbers_without_prefixes),
        cmocka_unit_test(bandwidths_name_binary_or_decimal_units),
        cmocka_unit_test(sizes_may_be_zero_and_bare_prefixes_are_refused),
        cmocka_unit_test(latencies_need_their_unit),
        cmocka_unit_test(durations_come_in_words_or_iso_8601),
        cmocka_unit_test(percentages_are_parts_per_million),
        cmocka_unit_test(booleans_are_words),
        cmocka_unit_test(formatters_write_what_people_read),
        cmocka_unit_test(what_is_formatted_parses_back),
        cmocka_unit_test(formatters_stay_inside_small_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
