/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: only whoever holds a token is its owner, and the administrator's file is kept private.
 * Method: a real state folder in a temporary place; tokens made, loaded as the store gives them,
 * tried and spoiled. */
#include "server/app/access.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../folder.h"
#include "base/err.h"
#include "base/text.h"

static char folder[128], token_path[192];

static int make_folder(void **state)
{
    (void)state;
    if (!folder_make(folder, sizeof(folder), "access"))
        return -1;
    snprintf(token_path, sizeof(token_path), "%s/admin.token", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(token_path);
    return rmdir(folder);
}

static void open_access(struct access *a)
{
    char words[256] = "";
    memset(a, 0, sizeof(*a));
    if (access_open(a, folder, words, sizeof(words)) != 0)
        fail_msg("%s", words);
}

static void the_first_start_makes_a_private_token_and_later_ones_keep_it(void **state)
{
    (void)state;
    struct access a;
    enum role role;
    const char *name;
    char *first, *second;
    size_t n;
    open_access(&a);
    struct stat st;
    assert_int_equal(stat(token_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(text_read_file(token_path, 4096, &first, &n), 0);
    assert_memory_equal(first, "weira_", 6);
    assert_int_equal(n, 6 + 43 + 1);
    first[n - 1] = '\0';
    assert_int_equal(access_check(&a, first, 0, &role, &name), 0);
    assert_int_equal(role, ROLE_ADMIN);
    assert_string_equal(name, "admin");
    first[20] ^= 1;
    access_load(&a, NULL);
    assert_int_equal(access_check(&a, first, 0, &role, &name), WEIR_E_AUTH);
    first[20] ^= 1;
    access_close(&a);

    open_access(&a);
    assert_int_equal(text_read_file(token_path, 4096, &second, &n), 0);
    second[n - 1] = '\0';
    assert_string_equal(first, second);
    assert_int_equal(access_check(&a, second, 0, &role, &name), 0);
    access_close(&a);
    free(first);
    free(second);
}

static void a_token_file_others_may_read_is_refused(void **state)
{
    (void)state;
    struct access a = {0};
    char words[256] = "";
    open_access(&a);
    access_close(&a);
    chmod(token_path, 0644);
    assert_int_equal(access_open(&a, folder, words, sizeof(words)), WEIR_E_REFUSED);
    assert_non_null(strstr(words, "0600"));
    access_close(&a);
    chmod(token_path, 0600);
}

static json_t *row(const char *id, const char *role, const char *hash, int64_t expires_us)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I}", "id", id, "name", "ci", "role", role, "hash",
                     hash, "expires_us", (json_int_t)expires_us);
}

static void stored_tokens_count_until_they_expire_or_are_revoked(void **state)
{
    (void)state;
    struct access a;
    enum role role;
    const char *name;
    char secret[ACCESS_SECRET_SIZE], id[32], hash[2 * ACCESS_HASH_SIZE + 1];
    open_access(&a);
    access_make(secret, id, hash);
    assert_int_equal(access_check(&a, secret, 0, &role, &name), WEIR_E_UNAVAILABLE);
    json_t *rows =
        json_pack("[o, o, o, o]", row("bad", "root", hash, 0), row("short", "viewer", "00", 0),
                  json_null(), row(id, "operator", hash, 1000));
    access_load(&a, rows);
    json_decref(rows);
    assert_int_equal(a.count, 1);
    assert_int_equal(access_check(&a, secret, 999, &role, &name), 0);
    assert_int_equal(role, ROLE_OPERATOR);
    assert_string_equal(name, "ci");
    assert_int_equal(access_check(&a, secret, 1000, &role, &name), WEIR_E_AUTH);
    access_forget(&a, id);
    assert_int_equal(access_check(&a, secret, 999, &role, &name), WEIR_E_AUTH);
    access_close(&a);
}

static void no_two_tokens_are_alike(void **state)
{
    (void)state;
    char a[ACCESS_SECRET_SIZE], b[ACCESS_SECRET_SIZE], id_a[32], id_b[32],
        hash[2 * ACCESS_HASH_SIZE + 1];
    access_make(a, id_a, hash);
    access_make(b, id_b, hash);
    assert_string_not_equal(a, b);
    assert_string_not_equal(id_a, id_b);
    assert_null(strstr(hash, b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            the_first_start_makes_a_private_token_and_later_ones_keep_it, make_folder,
            remove_folder),
        cmocka_unit_test_setup_teardown(a_token_file_others_may_read_is_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(stored_tokens_count_until_they_expire_or_are_revoked,
                                        make_folder, remove_folder),
        cmocka_unit_test(no_two_tokens_are_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
