/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: in the sandbox a program still does its work, is told no where it has no business, and ends
 * where only an intruder would go.
 * Method: each case runs in a child of its own, which the filter would not let go again. In builds
 * with a sanitizer there is no sandbox, and so nothing to test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../folder.h"
#include "base/sandbox.h"

static char folder[100]; /* this test's own */

/* How the child ended that did @body in the sandbox of @role. */
static int in_sandbox(enum sandbox_role role, int (*body)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char words[160];
        if (sandbox_enter(role, words, sizeof(words)) < 0)
            _exit(99);
        _exit(body());
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void ends_well(enum sandbox_role role, int (*body)(void))
{
    int status = in_sandbox(role, body);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void is_ended(enum sandbox_role role, int (*body)(void))
{
    int status = in_sandbox(role, body);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static void *nothing(void *arg)
{
    return arg;
}

static int work(void)
{
    struct addrinfo *list = NULL;
    pthread_t thread;
    char path[128];
    snprintf(path, sizeof(path), "%s/XXXXXX", folder);
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, "x", 1) != 1 || fsync(fd) < 0 || unlink(path) < 0)
        return 1;
    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 2;
    if (getaddrinfo("localhost", "1", NULL, &list) != 0)
        return 3;
    freeaddrinfo(list);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return s >= 0 ? 0 : 4;
}

static int told_no(void)
{
    if (sethostname("intruder", 8) == 0 || errno != EPERM)
        return 1;
    if (socket(AF_PACKET, SOCK_RAW, 0) >= 0 || errno != EPERM)
        return 2;
    if (kill(getppid(), 0) == 0 || errno != EPERM)
        return 3;
    return nice(5) == -1 && errno == EPERM ? 0 : 4;
}

static int starts_a_program(void)
{
    char *const argv[] = {(char *)(uintptr_t)"/bin/true", NULL};
    execv("/bin/true", argv);
    return 1;
}

static int forks(void)
{
    return fork() < 0 && errno == EPERM ? 0 : 1;
}

static int traces(void)
{
    return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static int mounts(void)
{
    return mount("none", folder, "tmpfs", 0, NULL);
}

static int supervises(void)
{
    pid_t pid = fork();
    if (pid == 0)
        return starts_a_program();
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)
               ? WEXITSTATUS(status)
               : 1;
}

static void daemons_still_do_their_work(void **state)
{
    (void)state;
    ends_well(SANDBOX_GATEWAY, work);
    ends_well(SANDBOX_SERVER, work);
    ends_well(SANDBOX_SUPERVISOR, work);
}

static void what_is_not_on_the_list_is_told_no(void **state)
{
    (void)state;
    ends_well(SANDBOX_GATEWAY, told_no);
    ends_well(SANDBOX_SERVER, told_no);
    ends_well(SANDBOX_GATEWAY, forks);
}

static void what_only_an_intruder_does_is_the_end(void **state)
{
    (void)state;
    is_ended(SANDBOX_GATEWAY, starts_a_program);
    is_ended(SANDBOX_SERVER, starts_a_program);
    is_ended(SANDBOX_GATEWAY, traces);
    is_ended(SANDBOX_GATEWAY, mounts);
    is_ended(SANDBOX_SUPERVISOR, mounts);
}

static void a_supervisor_starts_programs(void **state)
{
    (void)state;
    ends_well(SANDBOX_SUPERVISOR, supervises);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(daemons_still_do_their_work),
        cmocka_unit_test(what_is_not_on_the_list_is_told_no),
        cmocka_unit_test(what_only_an_intruder_does_is_the_end),
        cmocka_unit_test(a_supervisor_starts_programs),
    };
    if (!sandbox_is_built()) {
        puts("a sanitizer: no sandbox to test");
        return 77;
    }
    if (!folder_make(folder, sizeof(folder), "sandbox")) {
        perror("a folder for this test");
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
