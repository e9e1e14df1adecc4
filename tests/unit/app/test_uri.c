/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: request targets are split before they are decoded, decoded once, and refused when they hold
 * what no name has. Method: targets with their parts worked out by hand; then every prefix and
 * every one-byte change of one of them. */
#include "server/app/uri.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

static struct uri *parse(const char *raw, int expected)
{
    struct uri *u = test_malloc(sizeof(*u));
    const char *words = NULL;
    int r = uri_parse(u, raw, &words);
    if (r != expected)
        fail_msg("%s: %d, expected %d", raw, r, expected);
    assert_true(r == 0 || words != NULL);
    return u;
}

static void a_path_is_split_before_it_is_decoded(void **state)
{
    (void)state;
    struct uri *u = parse("/api/v1/streams/10.0.0.7/db%2Fone%252F", 0);
    assert_int_equal(u->segment_count, 5);
    assert_string_equal(u->segment[0], "api");
    assert_string_equal(u->segment[3], "10.0.0.7");
    assert_string_equal(u->segment[4], "db/one%2F");
    test_free(u);
}

static void a_query_is_pairs(void **state)
{
    (void)state;
    struct uri *u = parse("/x?limit=5&cursor=a%26b=c&empty&from=2026-11-23T06:37:06+01:00&&", 0);
    assert_int_equal(u->param_count, 4);
    assert_string_equal(uri_param(u, "limit"), "5");
    assert_string_equal(uri_param(u, "cursor"), "a&b=c");
    assert_string_equal(uri_param(u, "empty"), "");
    assert_string_equal(uri_param(u, "from"), "2026-11-23T06:37:06+01:00");
    assert_null(uri_param(u, "Limit"));
    test_free(u);
}

static void unknown_and_repeated_parameters_are_named(void **state)
{
    (void)state;
    struct uri *u = parse("/x?limit=5&cursor=1", 0);
    assert_null(uri_unknown_param(u, "limit,cursor"));
    assert_string_equal(uri_unknown_param(u, "cursor"), "limit");
    assert_string_equal(uri_unknown_param(u, "limits,cursor"), "limit");
    assert_string_equal(uri_unknown_param(u, ""), "limit");
    test_free(u);
    u = parse("/x?limit=5&limit=6", 0);
    assert_string_equal(uri_unknown_param(u, "limit"), "limit");
    test_free(u);
    u = parse("/x?=6", 0);
    assert_string_equal(uri_unknown_param(u, "limit"), "");
    test_free(u);
}

static void hostile_targets_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "x",
        "*",
        "http://evil/",
        "/%",
        "/%4",
        "/%zz",
        "/a%00b",
        "/a%0Ab",
        "/%7f",
        "/%ff",
        "/%c0%af",
        "/%ed%a0%80",
        "/%f5%80%80%80",
        "/x?%00=1",
        "/x?a=%0d",
        "/1/2/3/4/5/6/7/8/9",
        "/?1=&2=&3=&4=&5=&6=&7=&8=&9=&a=&b=&c=&d=&e=&f=&g=&h=",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        test_free(parse(bad[i], WEIR_E_INVALID));
}

static void a_target_beyond_its_bound_is_too_large(void **state)
{
    (void)state;
    char *raw = test_malloc(URI_MAX + 2);
    memset(raw, 'a', URI_MAX + 1);
    raw[0] = '/';
    raw[URI_MAX + 1] = '\0';
    test_free(parse(raw, WEIR_E_TOO_LARGE));
    raw[URI_MAX] = '\0';
    struct uri *u = parse(raw, 0);
    assert_int_equal(strlen(u->segment[0]), URI_MAX - 1);
    test_free(u);
    test_free(raw);
}

static void no_change_of_a_byte_breaks_the_bounds(void **state)
{
    (void)state;
    static const char good[] = "/api/v1/streams/h%C3%A4st/v%2520?limit=10&cursor=%41%42&x";
    char raw[sizeof(good)];
    struct uri *u = test_malloc(sizeof(*u));
    for (size_t i = 0; i < sizeof(good); i++) {
        for (int c = 0; c < 256; c++) {
            const char *words;
            memcpy(raw, good, sizeof(good));
            raw[i] = (char)c;
            raw[sizeof(good) - 1] = '\0';
            if (uri_parse(u, raw, &words) < 0)
                continue;
            assert_in_range(u->segment_count, 1, URI_MAX_SEGMENTS);
            assert_in_range(u->param_count, 0, URI_MAX_PARAMS);
            for (size_t k = 0; k < u->segment_count; k++)
                assert_in_range(u->segment[k] + strlen(u->segment[k]), u->buffer,
                                u->buffer + sizeof(good));
        }
    }
    test_free(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_is_split_before_it_is_decoded),
        cmocka_unit_test(a_query_is_pairs),
        cmocka_unit_test(unknown_and_repeated_parameters_are_named),
        cmocka_unit_test(hostile_targets_are_refused),
        cmocka_unit_test(a_target_beyond_its_bound_is_too_large),
        cmocka_unit_test(no_change_of_a_byte_breaks_the_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
