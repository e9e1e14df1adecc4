/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every code has words and a machine name, and a failed assertion ends the process.
 * Method: walk the table; fork a child that fails. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "base/err.h"

static void every_code_has_its_own_words_and_name(void **state)
{
    (void)state;
    static const int codes[] = {
#define X(name, code, words) WEIR_E_##name,
        WEIR_ERR_TABLE(X)
#undef X
    };
    size_t n = sizeof(codes) / sizeof(codes[0]);
    for (size_t i = 0; i < n; i++) {
        assert_true(codes[i] < -4095); /* beyond every errno */
        assert_string_not_equal(weir_err_name(codes[i]), "errno");
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(weir_err_name(codes[i]), weir_err_name(codes[k]));
            assert_string_not_equal(weir_strerror(codes[i]), weir_strerror(codes[k]));
        }
    }
    assert_string_equal(weir_err_name(WEIR_E_TOO_LARGE), "too-large");
}

static void errno_keeps_the_words_of_the_machine(void **state)
{
    (void)state;
    assert_string_equal(weir_strerror(-ENOENT), strerror(ENOENT));
    assert_string_equal(weir_err_name(-ENOENT), "errno");
    assert_string_equal(weir_strerror(0), "success");
    assert_string_equal(weir_strerror(-123456), "unknown error");
}

static void a_failed_assertion_aborts(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        weir_assert(pid != 0);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_its_own_words_and_name),
        cmocka_unit_test(errno_keeps_the_words_of_the_machine),
        cmocka_unit_test(a_failed_assertion_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
