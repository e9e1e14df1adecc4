/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: memory goes back to the system after unrest, once a minute at most, and not without.
 * Method: a count and a clock of the test's own; and a heap full of holes, looked at from outside.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/memory.h"

static void it_is_time_after_unrest_and_a_minute(void **state)
{
    (void)state;
    struct memory m = {0};
    uint64_t now = 1000 * NS_PER_S;
    assert_false(memory_due(&m, 0, now));
    assert_true(memory_due(&m, 5, now));
    assert_false(memory_due(&m, 6, now + MEMORY_REST_NS - 1));
    assert_true(memory_due(&m, 6, now + MEMORY_REST_NS));
    assert_false(memory_due(&m, 6, now + 10 * MEMORY_REST_NS));
    assert_true(memory_due(&m, 7, now + 10 * MEMORY_REST_NS));
}

static long resident_pages(void)
{
    long size, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &size, &resident), 2);
    fclose(f);
    return resident;
}

static void holes_are_given_back(void **state)
{
    (void)state;
    enum { BLOCKS = 4096, BLOCK = 8192 };
    static char *block[BLOCKS];
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* a heap of their own */
#endif
    for (size_t i = 0; i < BLOCKS; i++) {
        block[i] = malloc(BLOCK);
        assert_non_null(block[i]);
        memset(block[i], 1, BLOCK);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        if (i % 8 != 7) { /* one of eight stays, and the last: nothing ends at the heap's end */
            free(block[i]);
            block[i] = NULL;
        }
    }
    long before = resident_pages(), all = (long)BLOCKS * BLOCK / sysconf(_SC_PAGESIZE);
    memory_give_back();
    assert_true(resident_pages() < before - all / 2);
    for (size_t i = 0; i < BLOCKS; i++)
        free(block[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_time_after_unrest_and_a_minute),
        cmocka_unit_test(holes_are_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
