/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/setup.h"

#include <config.h> /* the build's; "config.h" would be the gateway's */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

/* Timers of a held I/O should fire when they are due, not 50 us later (the kernel's default
 * slack). */
#define TIMER_SLACK_NS 1000ul
/* Descriptors beside two a connection: listeners, the link, local clients, and some to spare. */
#define DESCRIPTORS_SPARE 256u

/* --- state directory --- */

/* Make @path (0700) if need be; whether it is ours and can be written. */
static bool dir_usable(const char *path, bool must_be_private)
{
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return false;
    if (lstat(path, &st) < 0 || access(path, W_OK | X_OK) < 0)
        return false;
    /* In a folder that everybody can write, a stranger may have been here first. */
    return !must_be_private ||
           (S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 0077) == 0);
}

/* A place of the user's own: @ret_path, made if need be. */
static bool dir_of_user(bool lasting, char *ret_path, size_t size)
{
    const char *base = getenv(lasting ? "XDG_STATE_HOME" : "XDG_RUNTIME_DIR");
    const char *home = getenv("HOME");
    int n;
    if (base && base[0] == '/') {
        n = snprintf(ret_path, size, "%s/weir-gateway", base);
        if (n > 0 && (size_t)n < size && dir_usable(ret_path, false))
            return true;
    }
    if (lasting) {
        if (!home || home[0] != '/')
            return false;
        n = snprintf(ret_path, size, "%s/.local/state/weir-gateway", home);
        return n > 0 && (size_t)n < size && dir_usable(ret_path, false);
    }
    n = snprintf(ret_path, size, "/tmp/weir-gateway-%u", (unsigned)geteuid());
    return n > 0 && (size_t)n < size && dir_usable(ret_path, true);
}

/* Settle where state and the local socket go. 0, or -1 after saying why not. */
static int state_dir_settle(struct gateway_config *c, const struct options *o)
{
    bool is_default = !o->state_dir && strcmp(c->state_dir, GATEWAY_STATE_DIR) == 0;
    if (!dir_usable(c->state_dir, false)) {
        int error = errno;
        char other[sizeof(c->state_dir)];
        bool lasting = c->server_count > 0 || c->server_listen.len > 0;
        if (!is_default || !dir_of_user(lasting, other, sizeof(other))) {
            fprintf(stderr,
                    "weir-gateway: state directory %s: %s. Choose one that this user can write "
                    "with --state-dir DIR\n",
                    c->state_dir, weir_strerror(-error));
            return -1;
        }
        log_info("%s cannot be written; %s is used instead", c->state_dir, other);
        if (strcmp(c->socket_path, GATEWAY_STATE_DIR "/gateway.sock") == 0)
            c->socket_path[0] = '\0';
        memcpy(c->state_dir, other, sizeof(other));
    }
    if (c->socket_path[0])
        return 0;
    int n = snprintf(c->socket_path, sizeof(c->socket_path), "%s/gateway.sock", c->state_dir);
    if (n < 0 || (size_t)n >= sizeof(c->socket_path)) {
        fputs("weir-gateway: the state directory's path is too long; give --socket PATH\n", stderr);
        return -1;
    }
    return 0;
}

/* --- limits of the process --- */

static void descriptors_raise(const struct gateway_config *c)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    uint64_t need = 2 * (uint64_t)c->max_connections + DESCRIPTORS_SPARE;
    if (limit.rlim_cur < need)
        log_warning("max-connections %u may need %llu descriptors, the system allows %llu",
                    c->max_connections, (unsigned long long)need,
                    (unsigned long long)limit.rlim_cur);
}

int setup_process(struct gateway_config *c, const struct options *o)
{
    if (state_dir_settle(c, o) < 0)
        return -ENOENT;
    descriptors_raise(c);
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

int setup_worker(pid_t manager)
{
    /* Nobody serves without a manager: what it held would be lost with the next death. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -errno;
    if (getppid() != manager)
        return -ESRCH;
    /* Ctrl-C is for the manager, which then tells the worker. */
    (void)setpgid(0, 0);
    return 0;
}

/* --- the service manager --- */

void setup_notify(const char *state)
{
#if HAVE_SYSTEMD
    (void)sd_notify(0, state);
#else
    (void)state;
#endif
}

uint64_t setup_watchdog_ns(void)
{
#if HAVE_SYSTEMD
    uint64_t us = 0;
    if (sd_watchdog_enabled(0, &us) > 0)
        return us * NS_PER_US / 2;
#endif
    return 0;
}

void setup_sandbox_resume(void)
{
    if (sandbox_is_built())
        (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

void setup_sandbox(enum sandbox_role role)
{
    char words[160];
    if (sandbox_enter(role, words, sizeof(words)) < 0)
        log_warning("no sandbox: %s", words);
    else
        log_debug("%s", sandbox_is_built() ? "in the sandbox" : "a sanitizer: no sandbox");
}
