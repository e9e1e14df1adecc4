/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a daemon file is read exactly, in order with its drop-ins, and every error names file and
 * line. Method: files in a folder of its own. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "../folder.h"
#include "base/conf.h"
#include "base/err.h"

struct place {
    char dir[128], main[192], drop[192];
    struct text errors;
    struct conf *conf;
};

static int make_place(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    if (!folder_make(p->dir, sizeof(p->dir), "conf"))
        return -1;
    snprintf(p->main, sizeof(p->main), "%s/x.conf", p->dir);
    snprintf(p->drop, sizeof(p->drop), "%s/x.conf.d", p->dir);
    text_init(&p->errors, 100000);
    *state = p;
    return 0;
}

static int drop_place(void **state)
{
    struct place *p = *state;
    char command[192];
    conf_free(p->conf);
    text_fini(&p->errors);
    snprintf(command, sizeof(command), "rm -rf %s", p->dir);
    int r = system(command);
    free(p);
    return r;
}

static void put(struct place *p, const char *drop_in, const void *bytes, size_t n)
{
    char path[256];
    if (drop_in) {
        mkdir(p->drop, 0700);
        snprintf(path, sizeof(path), "%s/%s", p->drop, drop_in);
    } else {
        snprintf(path, sizeof(path), "%s", p->main);
    }
    assert_int_equal(text_write_file_atomic(path, bytes, n, 0600), 0);
}

static int load(struct place *p)
{
    conf_free(p->conf);
    p->conf = NULL;
    text_clear(&p->errors);
    return conf_load(p->main, &p->conf, &p->errors);
}

static void check_entry(const struct place *p, size_t i, int line, const char *kind,
                        const char *name, const char *key, const char *value)
{
    const struct conf_entry *e = conf_at(p->conf, i);
    assert_int_equal(e->line, line);
    assert_string_equal(e->kind, kind);
    assert_string_equal(e->name, name);
    assert_string_equal(e->key, key);
    assert_string_equal(e->value, value);
}

static void sections_keys_and_values_are_read_with_their_lines(void **state)
{
    struct place *p = *state;
    static const char file[] = "\xef\xbb\xbf# a comment\n"
                               "top = 1\r\n"
                               "; another\n"
                               "[server]\n"
                               "  address =  127.0.0.1:7400  \n"
                               "address=[::1]:7400\n"
                               "\n"
                               "[listener  web one ]\n"
                               "uri = nbd://host/a=b#c;d";
    put(p, NULL, file, strlen(file));
    assert_int_equal(load(p), 0);
    assert_string_equal(p->errors.data, "");
    assert_int_equal(conf_count(p->conf), 4);
    check_entry(p, 0, 2, "", "", "top", "1");
    check_entry(p, 1, 5, "server", "", "address", "127.0.0.1:7400");
    check_entry(p, 2, 6, "server", "", "address", "[::1]:7400");
    check_entry(p, 3, 9, "listener", "web one", "uri", "nbd://host/a=b#c;d");
    assert_string_equal(conf_at(p->conf, 3)->file, p->main);
}

static void drop_ins_follow_in_order_of_name(void **state)
{
    struct place *p = *state;
    put(p, NULL, "[a]\nk = main\n", 13);
    put(p, "20-b.conf", "[a]\nk = b\n", 10);
    put(p, "10-a.conf", "[a]\nk = a\n", 10);
    put(p, "30.conf.bak", "garbage\n", 8);
    put(p, ".hidden.conf", "garbage\n", 8);
    assert_int_equal(load(p), 0);
    assert_int_equal(conf_count(p->conf), 3);
    check_entry(p, 0, 2, "a", "", "k", "main");
    check_entry(p, 1, 2, "a", "", "k", "a");
    check_entry(p, 2, 2, "a", "", "k", "b");
    assert_non_null(strstr(conf_at(p->conf, 1)->file, "x.conf.d/10-a.conf"));
}

static void every_error_is_found_and_names_its_place(void **state)
{
    struct place *p = *state;
    static const char file[] = "no equals sign\n"
                               "[open\n"
                               "[bad KIND]\n"
                               "[Bad]\n"
                               "Key = 1\n"
                               "empty =\n"
                               "quoted = \"x\"\n"
                               "[a]\n"
                               "good = 1\n"
                               "[a]\n"
                               "esc\x1b = 1\n";
    put(p, NULL, file, strlen(file));
    put(p, "more.conf", "oops\n", 5);
    assert_int_equal(load(p), WEIR_E_PARSE);
    assert_null(p->conf);
    static const int lines[] = {1, 2, 4, 5, 6, 7, 10, 11};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        char where[200];
        snprintf(where, sizeof(where), "%s:%d: ", p->main, lines[i]);
        if (!strstr(p->errors.data, where))
            fail_msg("no error for line %d in:\n%s", lines[i], p->errors.data);
    }
    assert_non_null(strstr(p->errors.data, "more.conf:1: "));
    assert_non_null(strstr(p->errors.data, "was opened on line 8 already"));
    assert_null(strchr(p->errors.data, '\x1b'));
    size_t count = 0;
    for (const char *s = p->errors.data; (s = strchr(s, '\n')); s++)
        count++;
    assert_int_equal(count, 9);
}

static void nul_bytes_are_refused(void **state)
{
    struct place *p = *state;
    put(p, NULL, "[a]\nk = 1\0 2\n", 13);
    assert_int_equal(load(p), WEIR_E_PARSE);
    assert_non_null(strstr(p->errors.data, ":2: holds a NUL byte"));
}

static void missing_and_oversized_files_are_named(void **state)
{
    struct place *p = *state;
    assert_int_equal(load(p), -ENOENT);
    assert_non_null(strstr(p->errors.data, p->main));
    size_t n = 1024 * 1024 + 1;
    char *big = malloc(n);
    memset(big, '\n', n);
    put(p, NULL, big, n);
    assert_int_equal(load(p), WEIR_E_TOO_LARGE);
    assert_non_null(strstr(p->errors.data, p->main));
    put(p, NULL, big, n - 1);
    assert_int_equal(load(p), 0);
    free(big);
}

static void the_number_of_drop_ins_is_bounded(void **state)
{
    struct place *p = *state;
    put(p, NULL, "", 0);
    for (int i = 0; i < 65; i++) {
        char name[32];
        snprintf(name, sizeof(name), "%03d.conf", i);
        put(p, name, "[a]\nk = 1\n", 10);
        if (i == 63)
            assert_int_equal(load(p), 0);
    }
    assert_int_equal(load(p), WEIR_E_TOO_LARGE);
    assert_non_null(strstr(p->errors.data, "expected at most 64"));
}

static void the_number_of_entries_is_bounded(void **state)
{
    struct place *p = *state;
    struct text t;
    text_init(&t, 1024 * 1024);
    for (int i = 0; i < 60000; i++)
        text_append_str(&t, "k=1\n");
    put(p, NULL, t.data, t.len);
    assert_int_equal(load(p), 0);
    put(p, "more.conf", t.data, t.len);
    assert_int_equal(load(p), WEIR_E_PARSE);
    assert_non_null(strstr(p->errors.data, "100000"));
    text_fini(&t);
}

static void wrong_values_and_unknown_keys_are_described(void **state)
{
    struct place *p = *state;
    put(p, NULL, "[limit x]\niops = 4\x1bk\n", 21);
    assert_int_equal(load(p), 0);
    struct text t;
    text_init(&t, 10000);
    const struct conf_entry *e = conf_at(p->conf, 0);
    char expected[512];
    conf_error(&t, e, "a number");
    snprintf(expected, sizeof(expected),
             "%s:2: [limit x] iops: found \"4\\x1bk\", expected a number\n", p->main);
    assert_string_equal(t.data, expected);
    text_clear(&t);
    conf_unknown(&t, e, "a, b");
    snprintf(expected, sizeof(expected),
             "%s:2: [limit x]: unknown key \"iops\"; known here: a, b\n", p->main);
    assert_string_equal(t.data, expected);
    text_fini(&t);
}

#define TEST(a_test_with_a_folder) \
    cmocka_unit_test_setup_teardown(a_test_with_a_folder, make_place, drop_place)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sections_keys_and_values_are_read_with_their_lines),
        TEST(drop_ins_follow_in_order_of_name),
        TEST(every_error_is_found_and_names_its_place),
        TEST(nul_bytes_are_refused),
        TEST(missing_and_oversized_files_are_named),
        TEST(the_number_of_drop_ins_is_bounded),
        TEST(the_number_of_entries_is_bounded),
        TEST(wrong_values_and_unknown_keys_are_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
