/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what the gateway was told to keep lies on disk in the end, also when the disk failed for a
 * while; and the writer's thread ends when asked, written or not. Method: a folder stands where the
 * file belongs, so that the rename onto it fails for every user, root included; then it goes. */
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
#include "base/text.h"
#include "gateway/link_disk.h"

#define STEP_US 20000
#define STEPS_MAX 1500 /* half a minute */

static char folder[128], path[192];

static int make_folder(void **state)
{
    (void)state;
    if (!folder_make(folder, sizeof(folder), "link-disk"))
        return -1;
    snprintf(path, sizeof(path), "%s/controls", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)remove(path);
    return rmdir(folder);
}

static bool file_says(const char *words)
{
    char *bytes = NULL;
    size_t n = 0;
    if (text_read_file(path, 4096, &bytes, &n) < 0)
        return false;
    bool same = n == strlen(words) && memcmp(bytes, words, n) == 0;
    free(bytes);
    return same;
}

static void wait_for_error(struct link_disk *d, bool wanted)
{
    for (int i = 0; i < STEPS_MAX && (link_disk_error(d) < 0) != wanted; i++)
        usleep(STEP_US);
    assert_int_equal(link_disk_error(d) < 0, wanted);
}

static void what_could_not_be_written_is_written_when_the_disk_is_well_again(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    struct link_disk *d = link_disk_new(path);
    assert_non_null(d);
    link_disk_put(d, strdup("agreed"), strlen("agreed"));
    wait_for_error(d, true);
    assert_int_equal(rmdir(path), 0);
    for (int i = 0; i < STEPS_MAX && !file_says("agreed"); i++)
        usleep(STEP_US);
    assert_true(file_says("agreed"));
    wait_for_error(d, false);
    link_disk_free(d);
}

static void newer_content_takes_the_place_of_what_failed(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    struct link_disk *d = link_disk_new(path);
    assert_non_null(d);
    link_disk_put(d, strdup("old"), strlen("old"));
    wait_for_error(d, true);
    assert_int_equal(rmdir(path), 0);
    link_disk_put(d, strdup("new"), strlen("new"));
    link_disk_free(d);
    assert_true(file_says("new"));
}

static void the_writer_ends_although_the_disk_stays_broken(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    struct link_disk *d = link_disk_new(path);
    assert_non_null(d);
    link_disk_put(d, strdup("agreed"), strlen("agreed"));
    wait_for_error(d, true);
    link_disk_free(d);
    assert_false(file_says("agreed"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            what_could_not_be_written_is_written_when_the_disk_is_well_again, make_folder,
            remove_folder),
        cmocka_unit_test_setup_teardown(newer_content_takes_the_place_of_what_failed, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(the_writer_ends_although_the_disk_stays_broken, make_folder,
                                        remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
