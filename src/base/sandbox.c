/* SPDX-License-Identifier: Apache-2.0 */
/* Sandbox.
 *
 * Problem. These daemons read bytes of strangers. Should one of them be led astray by such bytes,
 * the system should have little to offer it.
 *
 * Model. A seccomp filter with a list of the system calls that the program, its libraries and glibc
 * use. What is not on the list fails with EPERM: a library of another version that tries something
 * new is told no, as in many containers, and storage goes on. What only an intruder would do (start
 * a program, load a module, trace, mount, change namespaces) ends the process at once, and with it
 * whatever began it. Sockets are of the internet, of Unix and of netlink (which getaddrinfo asks
 * for the addresses of this machine) only.
 *
 * Names that this machine's libseccomp does not know are passed over: then the kernel's call is
 * not on the list. The filter goes with exec, so a supervisor's list holds all of the others'. */
#include "base/sandbox.h"

#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/err.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const char *const allowed[] = {
    /* bytes */
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "lseek",
    "recvfrom", "sendto", "recvmsg", "sendmsg", "recvmmsg", "sendmmsg", "sendfile", "sendfile64",
    "splice", "tee",
    /* sockets; "socket" itself below */
    "connect", "bind", "listen", "accept", "accept4", "getsockname", "getpeername", "getsockopt",
    "setsockopt", "shutdown", "socketpair",
    /* waiting */
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
    "poll", "ppoll", "select", "pselect6", "eventfd2", "timerfd_create", "timerfd_settime",
    "timerfd_gettime", "signalfd4", "io_uring_enter", "io_uring_register", "nanosleep",
    "clock_nanosleep", "restart_syscall",
    /* files */
    "open", "openat", "close", "close_range", "stat", "lstat", "fstat", "newfstatat", "fstatat64",
    "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2", "fsync", "fdatasync",
    "ftruncate", "truncate", "fallocate", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "mkdir", "mkdirat", "rmdir", "getdents64", "readlink", "readlinkat", "fcntl", "flock", "chmod",
    "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "chown", "umask", "getcwd", "dup",
    "dup2", "dup3", "pipe", "pipe2", "utimensat", "link", "linkat", "symlink", "symlinkat",
    "fadvise64", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "memfd_create",
    /* memory */
    "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "msync", "mincore", "mlock", "mlock2",
    "munlock", "membarrier",
    /* threads and signals; clone is told from fork below */
    "futex", "futex_waitv", "set_robust_list", "get_robust_list", "rseq", "set_tid_address",
    "arch_prctl", "prctl", "sched_yield", "sched_getaffinity", "sched_setaffinity",
    "sched_getparam", "sched_getscheduler", "getcpu", "gettid", "getpid", "getppid", "getpgrp",
    "getpgid", "getsid", "tgkill", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack", "exit", "exit_group",
    /* clocks, chance, who and where */
    "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "getrandom", "getuid",
    "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "uname", "sysinfo",
    "getrusage", "getrlimit", "setrlimit", "prlimit64", "getpriority",
};

/* For who starts programs and looks after them. */
static const char *const supervising[] = {
    "clone", "clone3", "fork", "vfork", "execve", "execveat", "wait4", "waitid", "kill",
    "pidfd_open", "pidfd_send_signal", "rt_sigqueueinfo", "setpgid", "setsid", "setpriority",
    "io_uring_setup", "seccomp", "getitimer", "setitimer", "alarm", "pause",
};

/* Nothing of ours does it, whatever the library: the end. The second part not for supervisors. */
static const char *const fatal[] = {
    "ptrace", "process_vm_readv", "process_vm_writev", "init_module", "finit_module",
    "delete_module", "kexec_load", "kexec_file_load", "bpf", "perf_event_open", "userfaultfd",
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "pivot_root", "chroot", "setns",
    "unshare", "add_key", "request_key", "keyctl", "swapon", "swapoff", "reboot", "iopl", "ioperm",
    "open_by_handle_at", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
    "personality",
};
static const char *const fatal_unless_supervising[] = {"execve", "execveat", "fork", "vfork"};

/* Settings of terminals and devices are none of our business. */
static const uint64_t ioctls[] = {FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TCGETS, TIOCGWINSZ};
static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

/* 0, or the first failure. */
static int add(scmp_filter_ctx f, uint32_t action, const char *const names[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int nr = seccomp_syscall_resolve_name(names[i]);
        if (nr == __NR_SCMP_ERROR)
            continue;
        int r = seccomp_rule_add(f, action, nr, 0);
        if (r < 0 && r != -EDOM) /* a call that this machine does not have */
            return r;
    }
    return 0;
}

static int add_by_argument(scmp_filter_ctx f, enum sandbox_role role)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < COUNT(families); i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0));
    for (size_t i = 0; r == 0 && i < COUNT(ioctls); i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, ioctls[i], 0));
    if (r < 0 || role == SANDBOX_SUPERVISOR)
        return r;
    /* A thread shares its memory; a process does not. clone3 keeps its flags where no filter can
     * see them: glibc falls back to clone when the kernel does not have it. */
    const scmp_datum_t thread = 0x00010000; /* CLONE_THREAD */
    r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return r;
}

static int fill(scmp_filter_ctx f, enum sandbox_role role)
{
    bool supervisor = role == SANDBOX_SUPERVISOR;
    int r = add(f, SCMP_ACT_ALLOW, allowed, COUNT(allowed));
    if (r == 0)
        r = add_by_argument(f, role);
    if (r == 0)
        r = add(f, SCMP_ACT_KILL_PROCESS, fatal, COUNT(fatal));
    if (r == 0 && supervisor)
        r = add(f, SCMP_ACT_ALLOW, supervising, COUNT(supervising));
    if (r == 0 && !supervisor)
        r = add(f, SCMP_ACT_KILL_PROCESS, fatal_unless_supervising,
                COUNT(fatal_unless_supervising));
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    /* A tree of tests instead of a chain: the relay makes many calls a second. */
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    return r == 0 ? seccomp_load(f) : r;
}

bool sandbox_is_built(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
    return false;
#else
    return true;
#endif
#else
    return true;
#endif
}

int sandbox_enter(enum sandbox_role role, char *words, size_t size)
{
    const struct rlimit none = {0};
    if (!sandbox_is_built())
        return 0;
    /* Keys are in this memory: it goes to no file, and to no other process of this user. */
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = f == NULL ? -ENOMEM : fill(f, role);
    if (f != NULL)
        seccomp_release(f);
    if (r < 0)
        snprintf(words, size, "the kernel takes no filter of system calls: %s", weir_strerror(r));
    return r;
}
