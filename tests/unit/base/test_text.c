/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: buffers keep their bound, copies never overrun, shown text cannot steer a terminal, and a
 * file is replaced whole or not at all. Method: bounds from both sides; hostile strings; a folder
 * of its own for files. */
#include <errno.h>
#include <limits.h>
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
#include "base/err.h"
#include "base/text.h"

static void a_text_grows_to_its_bound_and_no_further(void **state)
{
    (void)state;
    struct text t;
    text_init(&t, 10);
    assert_string_equal(t.data, "");
    text_append(&t, "12345", 5);
    text_append_str(&t, "67890");
    assert_false(t.failed);
    assert_string_equal(t.data, "1234567890");
    text_append(&t, "x", 1);
    assert_true(t.failed);
    assert_string_equal(t.data, "1234567890");
    assert_int_equal(t.len, 10);
    text_clear(&t);
    assert_false(t.failed);
    assert_string_equal(t.data, "");
    text_printf(&t, "%d-%s", 42, "abc");
    assert_string_equal(t.data, "42-abc");
    text_printf(&t, "%s", "too long");
    assert_true(t.failed);
    assert_string_equal(t.data, "42-abc");
    text_fini(&t);
    text_fini(&t);
}

static void long_formats_are_complete(void **state)
{
    (void)state;
    char long_one[3000];
    memset(long_one, 'q', sizeof(long_one) - 1);
    long_one[sizeof(long_one) - 1] = '\0';
    struct text t;
    text_init(&t, 10000);
    text_printf(&t, "<%s>", long_one);
    assert_int_equal(t.len, sizeof(long_one) + 1);
    assert_int_equal(t.data[t.len - 1], '>');
    assert_int_equal(t.data[t.len], '\0');
    text_fini(&t);
}

static void consuming_takes_from_the_front(void **state)
{
    (void)state;
    struct text t;
    text_init(&t, 100);
    text_consume(&t, 0);
    text_append_str(&t, "hello world");
    text_consume(&t, 6);
    assert_string_equal(t.data, "world");
    text_consume(&t, 5);
    assert_string_equal(t.data, "");
    text_append(&t, "\0x", 2);
    assert_int_equal(t.len, 2);
    text_fini(&t);
}

static void copies_fit_or_are_refused(void **state)
{
    (void)state;
    char dst[4];
    assert_int_equal(text_copy(dst, sizeof(dst), "abc"), 0);
    assert_string_equal(dst, "abc");
    assert_int_equal(text_copy(dst, sizeof(dst), "abcd"), WEIR_E_TOO_LARGE);
    assert_string_equal(dst, "");
}

static const char *shown(const char *s, char *out, size_t size)
{
    text_escape(out, size, s, strlen(s));
    return out;
}

static void shown_text_cannot_steer_a_terminal(void **state)
{
    (void)state;
    char out[64];
    assert_string_equal(shown("plain text", out, sizeof(out)), "plain text");
    assert_string_equal(shown("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\x9f", out, sizeof(out)),
                        "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\x9f");
    assert_string_equal(shown("\x1b[31m\r\n\t", out, sizeof(out)), "\\x1b[31m\\x0d\\x0a\\x09");
    assert_string_equal(shown("\x7f", out, sizeof(out)), "\\x7f");
    assert_string_equal(shown("\xc2\x9b" "2J", out, sizeof(out)), "\\xc2\\x9b2J"); /* C1 CSI */
    assert_string_equal(shown("\x9b", out, sizeof(out)), "\\x9b");
    assert_string_equal(shown("\xe2\x80\xae", out, sizeof(out)), "\\xe2\\x80\\xae"); /* RLO */
    assert_string_equal(shown("\xc0\xaf", out, sizeof(out)), "\\xc0\\xaf");     /* overlong */
    assert_string_equal(shown("\xed\xa0\x80", out, sizeof(out)), "\\xed\\xa0\\x80"); /* surrogate */
    assert_string_equal(shown("\xe2\x82", out, sizeof(out)), "\\xe2\\x82");     /* cut off */
}

static void escapes_are_cut_between_characters(void **state)
{
    (void)state;
    char out[8];
    assert_string_equal(shown("abcdef\xe2\x82\xac", out, sizeof(out)), "abcdef");
    assert_string_equal(shown("abc\n\n", out, sizeof(out)), "abc\\x0a");
    assert_string_equal(shown("abcd\n", out, sizeof(out)), "abcd");
}

static void long_text_is_escaped_in_pieces_without_breaking_characters(void **state)
{
    (void)state;
    char in[3001], *p = in;
    for (int i = 0; i < 1000; i++, p += 3)
        memcpy(p, "\xe2\x82\xac", 3);
    *p = '\0';
    struct text t;
    text_init(&t, 100000);
    for (size_t skip = 0; skip < 3; skip++) {
        text_clear(&t);
        text_append(&t, "ab", skip);
        text_append_escaped(&t, in);
        assert_int_equal(t.len, skip + 3000);
    }
    text_fini(&t);
}

struct place {
    char dir[128], file[192];
};

static int make_place(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    if (!folder_make(p->dir, sizeof(p->dir), "text"))
        return -1;
    snprintf(p->file, sizeof(p->file), "%s/file", p->dir);
    *state = p;
    return 0;
}

static int drop_place(void **state)
{
    struct place *p = *state;
    unlink(p->file);
    int r = rmdir(p->dir); /* fails when a temporary file was left behind */
    free(p);
    return r;
}

static void files_are_replaced_whole(void **state)
{
    struct place *p = *state;
    char *data;
    size_t len;
    assert_int_equal(text_write_file_atomic(p->file, "one", 3, 0600), 0);
    assert_int_equal(text_read_file(p->file, 100, &data, &len), 0);
    assert_string_equal(data, "one");
    free(data);
    struct stat st;
    assert_int_equal(stat(p->file, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);

    /* A reader that opened the old file goes on reading the old one. */
    FILE *old = fopen(p->file, "r");
    assert_non_null(old);
    assert_int_equal(text_write_file_atomic(p->file, "two\0x", 5, 0640), 0);
    char was[4] = "";
    assert_int_equal(fread(was, 1, 3, old), 3);
    assert_string_equal(was, "one");
    fclose(old);
    assert_int_equal(text_read_file(p->file, 5, &data, &len), 0);
    assert_int_equal(len, 5);
    assert_memory_equal(data, "two\0x", 6);
    free(data);
    assert_int_equal(stat(p->file, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
}

static void reading_refuses_what_is_too_large_or_no_file(void **state)
{
    struct place *p = *state;
    char *data = NULL;
    size_t len;
    assert_int_equal(text_write_file_atomic(p->file, "123456", 6, 0600), 0);
    assert_int_equal(text_read_file(p->file, 5, &data, &len), WEIR_E_TOO_LARGE);
    assert_int_equal(text_read_file(p->dir, 5, &data, &len), -EISDIR);
    unlink(p->file);
    assert_int_equal(text_read_file(p->file, 5, &data, &len), -ENOENT);
    assert_null(data);
    assert_int_equal(text_write_file_atomic(p->file, "", 0, 0600), 0);
    assert_int_equal(text_read_file(p->file, 5, &data, &len), 0);
    assert_string_equal(data, "");
    free(data);
}

static void a_failed_replacement_leaves_nothing_behind(void **state)
{
    struct place *p = *state;
    char bad[256];
    snprintf(bad, sizeof(bad), "%s/nowhere/file", p->dir);
    assert_int_equal(text_write_file_atomic(bad, "x", 1, 0600), -ENOENT);
    /* A folder in the place of the file: the rename fails, the temporary file goes. */
    assert_int_equal(mkdir(p->file, 0700), 0);
    assert_true(text_write_file_atomic(p->file, "x", 1, 0600) < 0);
    assert_int_equal(rmdir(p->file), 0);
}

static void nothing_escaped_is_an_empty_text(void **state)
{
    (void)state;
    struct text t;
    text_init(&t, 64);
    text_append_escaped(&t, "");
    assert_non_null(t.data);
    assert_int_equal(t.data[0], '\0'); /* memory fresh from the heap is not (MALLOC_PERTURB_) */
    text_fini(&t);
}

static void hexadecimal_digits_are_valued_and_nothing_else_is(void **state)
{
    (void)state;
    int digits = 0;
    for (int c = CHAR_MIN; c <= CHAR_MAX; c++) {
        int value = text_hex_value((char)c);
        if (value < 0)
            continue;
        char as_text[2] = {(char)c, '\0'};
        assert_int_equal(value, strtol(as_text, NULL, 16));
        digits++;
    }
    assert_int_equal(digits, 10 + 6 + 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_escaped_is_an_empty_text),
        cmocka_unit_test(a_text_grows_to_its_bound_and_no_further),
        cmocka_unit_test(long_formats_are_complete),
        cmocka_unit_test(consuming_takes_from_the_front),
        cmocka_unit_test(copies_fit_or_are_refused),
        cmocka_unit_test(hexadecimal_digits_are_valued_and_nothing_else_is),
        cmocka_unit_test(shown_text_cannot_steer_a_terminal),
        cmocka_unit_test(escapes_are_cut_between_characters),
        cmocka_unit_test(long_text_is_escaped_in_pieces_without_breaking_characters),
        cmocka_unit_test_setup_teardown(files_are_replaced_whole, make_place, drop_place),
        cmocka_unit_test_setup_teardown(reading_refuses_what_is_too_large_or_no_file, make_place,
                                        drop_place),
        cmocka_unit_test_setup_teardown(a_failed_replacement_leaves_nothing_behind, make_place,
                                        drop_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
