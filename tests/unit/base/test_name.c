/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: outside names become bounded, harmless and distinct; patterns match as a shell's do.
 * Method: known cases, random bytes for the invariants, and an undo of the escaping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../seed.h"
#include "base/name.h"
#include "base/rng.h"

static const char *escape(const char *s, char out[NAME_SIZE])
{
    name_escape(s, strlen(s), out);
    return out;
}

static void plain_names_pass_and_others_do_not(void **state)
{
    (void)state;
    char longest[NAME_SIZE + 1];
    memset(longest, 'a', sizeof(longest));
    longest[NAME_SIZE] = '\0';
    assert_false(name_is_plain(longest));
    longest[NAME_SIZE - 1] = '\0';
    assert_true(name_is_plain(longest));
    static const char *const good[] = {"a", "0", "oltp-gold", "db_1.x", "A-"};
    static const char *const bad[] = {"", "-a", ".a", "_a", "a b", "a/b", "a%", "\xc3\xa4", "a\n"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(name_is_plain(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(name_is_plain(bad[i]));
}

static void outside_bytes_are_escaped(void **state)
{
    (void)state;
    char out[NAME_SIZE];
    assert_string_equal(escape("db-1", out), "db-1");
    assert_string_equal(escape("", out), "default");
    assert_string_equal(escape("a/b", out), "a%2Fb");
    assert_string_equal(escape("100%", out), "100%25");
    assert_string_equal(escape("<b> & \"\\", out), "%3Cb%3E%20%26%20%22%5C");
    assert_string_equal(escape("\x1b[2J", out), "%1B[2J");
    assert_string_equal(escape("\xc3\xa4", out), "%C3%A4");
    name_escape("a\0b", 3, out);
    assert_string_equal(out, "a%00b");
    assert_string_equal(escape("fd00::1", out), "fd00::1");
}

/* Undo %XX; what a full escape must allow. */
static size_t unescape(const char *s, unsigned char *out)
{
    size_t n = 0;
    for (; *s != '\0'; s++) {
        if (*s == '%') {
            char hex[3] = {s[1], s[2], '\0'};
            out[n++] = (unsigned char)strtoul(hex, NULL, 16);
            s += 2;
        } else {
            out[n++] = (unsigned char)*s;
        }
    }
    return n;
}

static void escaped_names_are_bounded_harmless_and_undone(void **state)
{
    (void)state;
    struct rng r;
    rng_seed(&r, test_seed());
    for (int i = 0; i < 20000; i++) {
        unsigned char in[300], back[NAME_SIZE];
        char out[NAME_SIZE];
        size_t n = 1 + rng_below(&r, sizeof(in));
        bool text = rng_below(&r, 2) == 0;
        for (size_t k = 0; k < n; k++)
            in[k] = (unsigned char)(text ? 'a' + rng_below(&r, 26) : rng_below(&r, 256));
        memset(out, 'x', sizeof(out));
        name_escape(in, n, out);
        size_t len = strnlen(out, sizeof(out));
        assert_in_range(len, 1, NAME_SIZE - 1);
        for (size_t k = 0; k < len; k++) {
            assert_true(out[k] > 0x20 && out[k] < 0x7f && !strchr("/\"\\<>&", out[k]));
            if (out[k] == '%') {
                assert_true(k + 2 < len);
                assert_int_equal(strspn(out + k + 1, "0123456789ABCDEF") >= 2, 1);
            }
        }
        bool shortened = len >= NAME_SIZE - 3 && out[len - 9] == '~';
        if (!shortened) {
            assert_int_equal(unescape(out, back), n);
            assert_memory_equal(back, in, n);
        }
    }
}

static void long_names_that_differ_stay_different(void **state)
{
    (void)state;
    char a[4097], x[NAME_SIZE], y[NAME_SIZE];
    memset(a, 'v', sizeof(a));
    a[4096] = '\0';
    escape(a, x);
    a[4095] = 'w';
    escape(a, y);
    assert_string_not_equal(x, y);
    assert_memory_equal(x, y, 100);
    a[127] = '\0';
    escape(a, x);
    assert_string_equal(x, a);
    a[127] = 'v';
    a[128] = '\0';
    escape(a, x);
    assert_int_equal(x[NAME_SIZE - 1 - 9], '~');
}

static void nobody_can_pose_as_a_shortened_name(void **state)
{
    (void)state;
    char a[300], x[NAME_SIZE], y[NAME_SIZE];
    memset(a, 'v', 299);
    a[299] = '\0';
    escape(a, x);
    escape(x, y); /* the result itself, asked for as a name */
    assert_string_not_equal(x, y);
}

static void keys_join_host_and_volume(void **state)
{
    (void)state;
    char key[STREAM_KEY_SIZE], host[NAME_SIZE], volume[NAME_SIZE];
    name_stream_key("10.0.0.7", "db", key);
    assert_string_equal(key, "10.0.0.7/db");
    memset(host, 'h', NAME_SIZE - 1);
    memset(volume, 'v', NAME_SIZE - 1);
    host[NAME_SIZE - 1] = volume[NAME_SIZE - 1] = '\0';
    name_stream_key(host, volume, key);
    assert_int_equal(strlen(key), 2 * (NAME_SIZE - 1) + 1);
}

static void patterns_match_as_in_a_shell(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool match;
    } cases[] = {
        {"*", "", true},          {"*", "x", true},          {"", "", true},
        {"", "x", false},         {"db-*", "db-1", true},    {"db-*", "db", false},
        {"db-*", "xdb-1", false}, {"*-*", "a-b", true},      {"?", "a", true},
        {"?", "", false},         {"?", "ab", false},        {"[abc]", "b", true},
        {"[abc]", "d", false},    {"[a-c]x", "bx", true},    {"[!a-c]", "b", false},
        {"[!a-c]", "d", true},    {"[^a-c]", "d", true},     {"[]]", "]", true},
        {"[", "[", true},         {"[a", "[a", true},        {"a\\*", "a*", true},
        {"a\\*", "ab", false},    {"*a*b*c*", "xxaxxbxxcxx", true},
        {"*a*b*c*", "xxaxxcxxbxx", false},                   {"10.0.0.*", "10.0.0.7", true},
        {"[a-]", "-", true},      {"**", "abc", true},       {"a*", "A", false},
        {"*.*", "10.0", true},    {"host/*", "host/v", true}, {"\\", "\\", true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (name_match(cases[i].pattern, cases[i].name) != cases[i].match)
            fail_msg("\"%s\" against \"%s\"", cases[i].pattern, cases[i].name);
    }
    assert_true(name_match(NULL, "anything"));
}

static void a_hostile_pattern_costs_no_more_than_length_times_length(void **state)
{
    (void)state;
    /* Backtracking over every star would take longer than the age of the universe. */
    char pattern[STREAM_KEY_SIZE], name[STREAM_KEY_SIZE];
    for (size_t i = 0; i + 3 < sizeof(pattern); i += 2)
        memcpy(pattern + i, "a*", 3);
    strcat(pattern, "b");
    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_false(name_match(pattern, name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_names_pass_and_others_do_not),
        cmocka_unit_test(outside_bytes_are_escaped),
        cmocka_unit_test(escaped_names_are_bounded_harmless_and_undone),
        cmocka_unit_test(long_names_that_differ_stay_different),
        cmocka_unit_test(nobody_can_pose_as_a_shortened_name),
        cmocka_unit_test(keys_join_host_and_volume),
        cmocka_unit_test(patterns_match_as_in_a_shell),
        cmocka_unit_test(a_hostile_pattern_costs_no_more_than_length_times_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
