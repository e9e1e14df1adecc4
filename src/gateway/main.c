/* SPDX-License-Identifier: Apache-2.0 */
/* weir-gateway: from options, file and environment to a running gateway; signals; the service
 * manager.
 *
 * Life: options -> file -> checks -> state directory -> descriptors' limit -> reactor, streams,
 * relay, link, local socket -> "listening on" lines, READY -> rounds until SIGTERM or SIGINT ->
 * STOPPING, no more requests, rounds until the targets have answered (5 s at most, or a second
 * signal: some targets die of a connection that ends under their answer) -> all closed in the
 * opposite order. SIGHUP reads the file again and checks it; see
 * gateway_reload.
 *
 * What may fail: everything before READY, each with one line that says what to do. After READY only
 * epoll itself can end the program. */
#include <config.h> /* the build's; "config.h" would be the gateway's */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/reactor.h"
#include "base/text.h"
#include "gateway/config.h"
#include "gateway/link.h"
#include "gateway/local.h"
#include "gateway/options.h"
#include "gateway/relay.h"
#include "gateway/stream.h"

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

/* The link's and the local socket's sources and timers, and some to spare. */
#define REACTOR_SPARE 128u
/* Timers of a held I/O should fire when they are due, not 50 us later (the kernel's default
 * slack). */
#define TIMER_SLACK_NS 1000ul
#define ERRORS_MAX (256u * 1024u)
/* At the end targets may take so long for their last answers. */
#define STOP_NS (5 * NS_PER_S)

struct gateway {
    struct options options;
    struct gateway_config *config;
    struct reactor *reactor;
    struct stream_table *streams;
    struct relay *relay;
    struct link *link;
    struct local *local;
    struct reactor_source signals;
    struct reactor_timer watchdog;
    uint64_t watchdog_ns;
    bool at_once; /* asked twice to end */
    bool ending;
};

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
        if (!is_default || !dir_of_user(c->server_count > 0, other, sizeof(other))) {
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

/* --- signals and the service manager --- */

static void notify(const char *state)
{
#if HAVE_SYSTEMD
    (void)sd_notify(0, state);
#else
    (void)state;
#endif
}

static void gateway_watchdog_fire(struct reactor_timer *t, uint64_t now_ns)
{
    struct gateway *g = container_of(t, struct gateway, watchdog);
    notify("WATCHDOG=1");
    reactor_timer_set(g->reactor, t, now_ns + g->watchdog_ns);
}

static void gateway_watchdog_start(struct gateway *g)
{
#if HAVE_SYSTEMD
    uint64_t us = 0;
    if (sd_watchdog_enabled(0, &us) <= 0)
        return;
    g->watchdog_ns = us * NS_PER_US / 2;
    g->watchdog.fire = gateway_watchdog_fire;
    reactor_timer_set(g->reactor, &g->watchdog, reactor_now_fresh(g->reactor) + g->watchdog_ns);
#else
    (void)g;
    (void)gateway_watchdog_fire;
#endif
}

/* Log what is wrong with a file, a line an entry. */
static void log_lines(char *lines)
{
    char *rest = NULL;
    for (char *l = strtok_r(lines, "\n", &rest); l; l = strtok_r(NULL, "\n", &rest))
        log_error("%s", l);
}

/* SIGHUP: read the file again. Limits, max-hold, log-level and what the certificate and key files
 * of listeners and targets hold change, all or none; listeners,
 * targets, volumes and servers carry connections, and change with a restart only. */
static void gateway_reload(struct gateway *g)
{
    struct text errors;
    if (!g->options.config) {
        log_info("SIGHUP: there is no file to read again");
        return;
    }
    text_init(&errors, ERRORS_MAX);
    struct gateway_config *fresh = options_config(&g->options, &errors);
    if (!fresh) {
        log_error("SIGHUP: %s has errors; everything stays as it was", g->options.config);
        log_lines(errors.data);
        text_fini(&errors);
        return;
    }
    text_fini(&errors);
    char words[1024];
    int ret = relay_tls_load(g->relay, fresh, words, sizeof(words));
    if (ret < 0) {
        log_error("SIGHUP: %s; everything stays as it was", words);
        options_config_free(fresh);
        return;
    }
    ret = stream_limits_reload(g->streams, fresh->limits, fresh->limit_count,
                                   reactor_now_fresh(g->reactor));
    if (ret < 0) {
        log_error("SIGHUP: limits: %s; everything stays as it was", weir_strerror(ret));
    } else {
        g->config->max_hold_ns = fresh->max_hold_ns;
        g->config->log_level = fresh->log_level;
        gate_set_max_hold(stream_gate(g->streams), fresh->max_hold_ns);
        log_init("weir-gateway", (enum log_level)fresh->log_level);
        relay_kick(g->relay);
        log_info("SIGHUP: %zu limits, max-hold, log-level, certificates and keys of %s are in "
                 "force; anything else changed there takes a restart",
                 fresh->limit_count, g->options.config);
    }
    options_config_free(fresh);
}

static void gateway_signal(struct reactor_source *s, uint32_t epoll_events)
{
    struct gateway *g = container_of(s, struct gateway, signals);
    struct signalfd_siginfo info;
    (void)epoll_events;
    while (read(s->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            gateway_reload(g);
        } else {
            log_info("%s: ending", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
            notify("STOPPING=1");
            g->at_once = g->ending;
            g->ending = true;
            reactor_stop(g->reactor);
        }
    }
}

static int gateway_signals_start(struct gateway *g)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    g->signals.fd = fd;
    g->signals.ready = gateway_signal;
    return reactor_add(g->reactor, &g->signals, EPOLLIN);
}

/* --- start and end --- */

static void descriptors_raise(const struct gateway_config *c)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    uint64_t need = 2 * (uint64_t)c->max_connections + REACTOR_SPARE;
    if (limit.rlim_cur < need)
        log_warning("max-connections %u may need %llu descriptors, the system allows %llu",
                    c->max_connections, (unsigned long long)need,
                    (unsigned long long)limit.rlim_cur);
}

static int gateway_start(struct gateway *g)
{
    const struct gateway_config *c = g->config;
    const char *where = "";
    size_t sources = 2 * (size_t)c->max_connections + CONFIG_MAX_LISTENERS + REACTOR_SPARE;
    g->reactor = reactor_new(sources, (size_t)c->max_connections + CONFIG_MAX_LISTENERS +
                                          REACTOR_SPARE);
    int ret = g->reactor ? gateway_signals_start(g) : -ENOMEM;
    if (ret < 0) {
        log_error("cannot start: %s", weir_strerror(ret));
        return ret;
    }
    g->streams = stream_table_new(c, reactor_now_fresh(g->reactor));
    if (!g->streams) {
        log_error("not enough memory for %u streams; lower max-streams", c->max_streams);
        return -ENOMEM;
    }
    ret = relay_new(g->reactor, c, g->streams, &g->relay, &where);
    if (ret < 0) {
        log_error("listener %s: %s", where, weir_strerror(ret));
        return ret;
    }
    ret = link_new(g->reactor, c, g->streams, g->relay, &g->link, &where);
    if (ret < 0) {
        log_error("link to the server: %s: %s", where, weir_strerror(ret));
        return ret;
    }
    ret = local_new(g->reactor, c, g->streams, g->relay, g->link, &g->local);
    if (ret < 0)
        log_error("local socket %s: %s; another gateway may use it, --socket names another",
                  c->socket_path, weir_strerror(ret));
    return ret;
}

static int gateway_announce(struct gateway *g)
{
    for (size_t i = 0; i < g->config->listener_count; i++) {
        char text[ADDR_TEXT_SIZE];
        int ret = relay_listener_text(g->relay, i, text, sizeof(text));
        if (ret < 0)
            return ret;
        printf("weir-gateway: listening on %s for target %s\n", text,
               g->config->listeners[i].target->name);
    }
    fflush(stdout);
    notify("READY=1");
    gateway_watchdog_start(g);
    return 0;
}

static void gateway_end(struct gateway *g)
{
    local_free(g->local);
    if (g->link)
        link_free(g->link);
    relay_free(g->relay);
    if (g->streams)
        stream_table_free(g->streams);
    if (g->reactor) {
        if (g->signals.slot) {
            reactor_remove(g->reactor, &g->signals);
            close(g->signals.fd);
        }
        reactor_timer_clear(g->reactor, &g->watchdog);
        reactor_free(g->reactor);
    }
    options_config_free(g->config);
}

/* Rounds until the last answers are here; see the essay above. */
static int gateway_drain(struct gateway *g)
{
    uint64_t now = reactor_now_fresh(g->reactor), until = now + STOP_NS;
    int ret = 0;
    relay_stop(g->relay);
    while (ret == 0 && !g->at_once && relay_counts(g->relay)->active > 0 && now < until) {
        ret = reactor_round(g->reactor, until - now);
        now = reactor_now_fresh(g->reactor);
    }
    return ret;
}

static int gateway_run(struct gateway *g)
{
    log_init("weir-gateway", (enum log_level)g->config->log_level);
    if (state_dir_settle(g->config, &g->options) < 0)
        return -ENOENT;
    descriptors_raise(g->config);
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    int ret = gateway_start(g);
    if (ret == 0)
        ret = gateway_announce(g);
    if (ret < 0)
        return ret;
    ret = reactor_run(g->reactor);
    if (ret == 0)
        ret = gateway_drain(g);
    if (ret < 0)
        log_error("waiting for events: %s", weir_strerror(ret));
    return ret;
}

int main(int argc, char **argv)
{
    struct gateway g = {.signals.fd = -1};
    int ret = options_parse(&g.options, argc, argv);
    if (ret != 0)
        return ret < 0 ? 2 : 0;
    log_init("weir-gateway", LOG_LEVEL_INFO);
    struct text errors;
    text_init(&errors, ERRORS_MAX);
    g.config = options_config(&g.options, &errors);
    if (!g.config)
        fprintf(stderr, "weir-gateway: %s", errors.data);
    text_fini(&errors);
    if (!g.config)
        return 2;
    if (g.options.check) {
        puts("weir-gateway: the configuration is sound");
        options_config_free(g.config);
        return 0;
    }
    ret = gateway_run(&g);
    gateway_end(&g);
    return ret < 0 ? 1 : 0;
}
