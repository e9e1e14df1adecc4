/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: lines are whole, escaped, levelled and bounded in number.
 * Method: standard error is a file of ours while a test runs. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"

struct capture {
    char path[64];
    int saved;
};

static int begin(void **state)
{
    struct capture *c = calloc(1, sizeof(*c));
    strcpy(c->path, "/tmp/weir-log-XXXXXX");
    int fd = mkstemp(c->path);
    if (fd < 0)
        return -1;
    c->saved = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
    *state = c;
    return 0;
}

static int end(void **state)
{
    struct capture *c = *state;
    dup2(c->saved, STDERR_FILENO);
    close(c->saved);
    unlink(c->path);
    free(c);
    return 0;
}

static char *captured(const struct capture *c)
{
    char *data;
    size_t len;
    assert_int_equal(text_read_file(c->path, 10 * 1024 * 1024, &data, &len), 0);
    return data;
}

static size_t count_lines(const char *s)
{
    size_t n = 0;
    for (; (s = strchr(s, '\n')); s++)
        n++;
    return n;
}

/* Start in a fresh second, so that what other tests wrote does not count. */
static void wait_for_a_new_second(void)
{
    uint64_t second = clock_mono_ns() / NS_PER_S;
    while (clock_mono_ns() / NS_PER_S == second)
        usleep(1000);
}

static void levels_beyond_the_chosen_one_are_silent(void **state)
{
    unsetenv("JOURNAL_STREAM");
    log_init("weir-test", LOG_LEVEL_WARNING);
    log_error("one");
    log_warning("two %d", 2);
    log_info("three");
    log_debug("four");
    char *s = captured(*state);
    assert_int_equal(count_lines(s), 2);
    assert_non_null(strstr(s, " weir-test error: one\n"));
    assert_non_null(strstr(s, " weir-test warning: two 2\n"));
    free(s);
}

static void control_characters_are_escaped_and_lines_cut(void **state)
{
    log_init("weir-test", LOG_LEVEL_INFO);
    char big[10000];
    memset(big, '\n', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_info("evil \x1b[2J\nforged");
    log_info("%s", big);
    char *s = captured(*state);
    assert_int_equal(count_lines(s), 2);
    assert_non_null(strstr(s, "evil \\x1b[2J\\x0aforged\n"));
    assert_true(strlen(s) < 8300);
    free(s);
}

static void under_systemd_lines_carry_their_priority(void **state)
{
    setenv("JOURNAL_STREAM", "8:1", 1);
    log_init("weir-test", LOG_LEVEL_DEBUG);
    unsetenv("JOURNAL_STREAM");
    log_error("e");
    log_debug("d");
    char *s = captured(*state);
    assert_string_equal(s, "<3>e\n<7>d\n");
    free(s);
}

static void a_storm_is_cut_and_counted(void **state)
{
    log_init("weir-test", LOG_LEVEL_INFO);
    wait_for_a_new_second();
    uint64_t second = clock_mono_ns() / NS_PER_S;
    for (int i = 0; i < 1000; i++)
        log_info("line %d", i);
    bool within = clock_mono_ns() / NS_PER_S == second;
    wait_for_a_new_second();
    log_info("after");
    char *s = captured(*state);
    assert_non_null(strstr(s, "more lines were left out\n"));
    assert_non_null(strstr(s, "after\n"));
    if (within) {
        assert_int_equal(count_lines(s), 202);
        assert_non_null(strstr(s, ": 800 more lines were left out\n"));
    }
    free(s);
}

static void levels_are_parsed_by_name(void **state)
{
    (void)state;
    enum log_level l = LOG_LEVEL_ERROR;
    assert_int_equal(log_level_parse("debug", &l), 0);
    assert_int_equal(l, LOG_LEVEL_DEBUG);
    assert_int_equal(log_level_parse("loud", &l), WEIR_E_INVALID);
    assert_int_equal(l, LOG_LEVEL_DEBUG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels_beyond_the_chosen_one_are_silent, begin, end),
        cmocka_unit_test_setup_teardown(control_characters_are_escaped_and_lines_cut, begin, end),
        cmocka_unit_test_setup_teardown(under_systemd_lines_carry_their_priority, begin, end),
        cmocka_unit_test_setup_teardown(a_storm_is_cut_and_counted, begin, end),
        cmocka_unit_test(levels_are_parsed_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
