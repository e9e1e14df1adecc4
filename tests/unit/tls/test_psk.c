/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a file of pre-shared keys gives exactly its keys, or says which line is wrong and why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "tls/psk.h"

#define KEY "00112233445566778899aAbBcCdDeEfF"

static int parse(const char *text, struct psk_table *t, size_t *line, const char **expected)
{
    return psk_parse(text, strlen(text), t, line, expected);
}

static void the_keys_of_a_file_are_found_by_identity(void **state)
{
    (void)state;
    struct psk_table t;
    size_t line;
    const char *expected;
    assert_int_equal(parse("# hosts\n\nalice:" KEY "\r\nbob b:" KEY KEY " \ncarol:" KEY, &t, &line,
                           &expected),
                     0);
    assert_int_equal(t.count, 3);
    const struct psk_entry *e = psk_find(&t, "alice", 5);
    assert_non_null(e);
    assert_int_equal(e->key_size, 16);
    static const uint8_t key[] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                  0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
    assert_memory_equal(e->key, key, sizeof(key));
    e = psk_find(&t, "bob b", 5);
    assert_non_null(e);
    assert_int_equal(e->key_size, 32);
    assert_non_null(psk_find(&t, "carol", 5));
    assert_null(psk_find(&t, "carol", 4));
    assert_null(psk_find(&t, "dave", 4));
    psk_free(&t);
    assert_int_equal(t.count, 0);
}

static void refuse(const char *text, size_t want_line)
{
    struct psk_table t;
    size_t line = 0;
    const char *expected = NULL;
    assert_int_equal(parse(text, &t, &line, &expected), WEIR_E_PARSE);
    assert_int_equal(line, want_line);
    assert_non_null(expected);
    assert_int_equal(t.count, 0);
    assert_null(t.entry);
}

static void what_is_wrong_is_told_with_its_line(void **state)
{
    (void)state;
    refuse("", 0);
    refuse("# nobody\n", 1);
    refuse("alice\n", 1);
    refuse("alice:" KEY "\n:" KEY "\n", 2);
    refuse("alice:" KEY "\nbob:0011\n", 2);       /* too short to be a secret */
    refuse("alice:" KEY "0\n", 1);                /* half a byte */
    refuse("alice:" KEY KEY KEY KEY KEY "\n", 1); /* too long */
    refuse("alice:0011223344556677889xaabbccddeeff\n", 1);
    refuse("alice:" KEY "\nalice:" KEY "\n", 2);
}

static void the_number_of_keys_is_bounded(void **state)
{
    (void)state;
    static char text[(PSK_KEYS_MAX + 1) * 48];
    size_t n = 0;
    for (unsigned i = 0; i <= PSK_KEYS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "host%u:" KEY "\n", i);
    refuse(text, PSK_KEYS_MAX + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_keys_of_a_file_are_found_by_identity),
        cmocka_unit_test(what_is_wrong_is_told_with_its_line),
        cmocka_unit_test(the_number_of_keys_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
