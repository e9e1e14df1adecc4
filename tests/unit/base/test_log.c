/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: lines are whole, escaped, levelled and bounded in number, and no reader makes us wait.
 * Method: standard error is a file, a pipe or a socket of ours while a test runs. A writer that
 * waited would be ended by the test runner's time-out. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "../folder.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"

struct capture {
    char folder[128], path[192];
    int saved;
};

static int begin(void **state)
{
    struct capture *c = calloc(1, sizeof(*c));
    if (!folder_make(c->folder, sizeof(c->folder), "log"))
        return -1;
    snprintf(c->path, sizeof(c->path), "%s/log", c->folder);
    int fd = open(c->path, O_RDWR | O_CREAT, 0600);
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
    rmdir(c->folder);
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

/* Fill what standard error is now, then empty @from: the lines in between are lost, and told of. */
static void a_full_one_costs_lines_and_no_time(int from, int to, bool whole)
{
    int saved = dup(STDERR_FILENO);
    dup2(to, STDERR_FILENO);
    log_init("weir-test", LOG_LEVEL_INFO);
    uint64_t before = log_dropped();
    char big[2000], *got = calloc(1, 8u << 20);
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    size_t len = 0, logged = 0;
    for (; log_dropped() == before && logged < 1000; logged++) {
        if (logged % 100 == 0)
            wait_for_a_new_second();
        log_info("%s", big);
    }
    wait_for_a_new_second();
    for (int i = 0; i < 9; i++)
        log_info("%s", big);
    uint64_t lost = log_dropped() - before;
    assert_in_range(lost, 2, 10);
    if (whole)
        assert_int_equal(lost, 10);
    assert_int_equal(fcntl(from, F_SETFL, O_NONBLOCK), 0);
    for (ssize_t n; (n = read(from, got + len, (8u << 20) - len - 1)) > 0;)
        len += (size_t)n;
    log_info("after");
    for (ssize_t n; (n = read(from, got + len, (8u << 20) - len - 1)) > 0;)
        len += (size_t)n;
    dup2(saved, STDERR_FILENO);
    close(saved);
    log_init("weir-test", LOG_LEVEL_INFO);
    char expected[64];
    snprintf(expected, sizeof(expected), " warning: %u lines were lost", (unsigned)lost);
    assert_non_null(strstr(got, expected));
    assert_non_null(strstr(got, " info: after\n"));
    assert_int_equal(log_dropped() - before, lost);
    /* The description that others share is as it was. */
    assert_int_equal(fcntl(to, F_GETFL) & O_NONBLOCK, 0);
    free(got);
    close(from);
    close(to);
}

static void a_pipe_that_nobody_reads_costs_lines_and_no_time(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    a_full_one_costs_lines_and_no_time(ends[0], ends[1], true);
}

static void a_socket_that_nobody_reads_costs_lines_and_no_time(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    a_full_one_costs_lines_and_no_time(ends[0], ends[1], false);
}

static void a_pipe_that_has_lost_its_reader_costs_lines_only(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_init("weir-test", LOG_LEVEL_INFO);
    close(ends[0]);
    uint64_t before = log_dropped();
    log_info("to nobody");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    log_init("weir-test", LOG_LEVEL_INFO);
    assert_int_equal(log_dropped() - before, 1);
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

/* Other threads may be writing a line to what is open. */
static void another_level_leaves_what_is_open_as_it_is(void **state)
{
    struct capture *c = *state;
    int pipe_ends[2], before = dup(STDERR_FILENO);
    char got[4096] = "";
    unsetenv("JOURNAL_STREAM");
    assert_int_equal(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
    dup2(pipe_ends[1], STDERR_FILENO);
    log_init("weir-test", LOG_LEVEL_WARNING); /* a description of its own of the pipe */
    dup2(before, STDERR_FILENO);
    log_info("one");
    log_set_level(LOG_LEVEL_INFO);
    log_info("two");
    assert_true(read(pipe_ends[0], got, sizeof(got) - 1) > 0);
    assert_null(strstr(got, "one"));
    assert_non_null(strstr(got, " weir-test info: two\n"));
    char *s = captured(c);
    assert_string_equal(s, "");
    free(s);
    log_init("weir-test", LOG_LEVEL_INFO);
    close(before);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels_beyond_the_chosen_one_are_silent, begin, end),
        cmocka_unit_test_setup_teardown(control_characters_are_escaped_and_lines_cut, begin, end),
        cmocka_unit_test_setup_teardown(under_systemd_lines_carry_their_priority, begin, end),
        cmocka_unit_test_setup_teardown(a_storm_is_cut_and_counted, begin, end),
        cmocka_unit_test(levels_are_parsed_by_name),
        cmocka_unit_test_setup_teardown(another_level_leaves_what_is_open_as_it_is, begin, end),
        cmocka_unit_test_setup_teardown(a_pipe_that_nobody_reads_costs_lines_and_no_time, begin,
                                        end),
        cmocka_unit_test_setup_teardown(a_socket_that_nobody_reads_costs_lines_and_no_time, begin,
                                        end),
        cmocka_unit_test_setup_teardown(a_pipe_that_has_lost_its_reader_costs_lines_only, begin,
                                        end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
