/* SPDX-License-Identifier: Apache-2.0 */
/* The worker.
 *
 * Life: reactor, streams (those of the ledger are there again), relay, link, local socket -> READY
 * -> rounds until told to stop -> no more requests, rounds until the targets have answered (5 s at
 * most, or told twice: some targets die of a connection that ends under their answer) -> all closed
 * in the opposite order.
 *
 * It is told by its manager, over a socket; without one (--single-process) by signals. SIGTERM to a
 * worker ends it in order in either case; the manager then starts another. Every round that is due
 * it says that it goes round (ledger_life.heartbeat); a worker that does not is killed.
 *
 * Replaced by an upgrade, it retires: no more hosts; those that negotiate have a second to finish;
 * the link and the local socket are the other worker's from then on. The connections that are here
 * go on, metered and held as before, until the last has ended or drain-timeout is over; then it
 * ends as above.
 *
 * What may fail: everything before READY, each with one line that says what to do. After READY only
 * epoll itself can end it. */
#include "gateway/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/reactor.h"
#include "base/text.h"
#include "gateway/drain.h"
#include "gateway/link.h"
#include "gateway/local.h"
#include "gateway/relay.h"
#include "gateway/setup.h"
#include "gateway/stream.h"

/* The link's and the local socket's sources and timers, 64 of them guests', and some to spare. */
#define REACTOR_SPARE 256u
/* At the end targets may take so long for their last answers. */
#define STOP_NS (5 * NS_PER_S)
/* Retiring: hosts that still negotiate may take so long; how often it looks. */
#define RETIRE_NEGOTIATE_NS NS_PER_S
#define RETIRE_LOOK_NS (20 * NS_PER_MS)
/* Heartbeats within the time after which a silent worker is killed. */
#define BEATS 20u

struct worker {
    const struct worker_start *start;
    struct gateway_config *config;
    struct reactor *reactor;
    struct stream_table *streams;
    struct relay *relay;
    struct link *link;
    struct local *local;
    struct reactor_source signals, control;
    struct reactor_timer beat, watchdog, retire;
    struct drain drain;
    uint64_t watchdog_ns;
    uint64_t retire_by; /* when it no longer waits for what it waits for */
    bool retired;       /* said so */
    bool at_once;       /* asked twice to end */
    bool ending;
    bool reload; /* told so while it stood by */
};

/* --- what it is told --- */

/* Take limits, certificates and keys of @fresh, all or none. Limits are staged first: what may fail
 * of them fails before certificates are taken, and what is staged is forgotten if those are not. */
static int worker_take(struct worker *w, const struct gateway_config *fresh, char *words,
                       size_t size)
{
    int ret = stream_limits_stage(w->streams, fresh->limits, fresh->limit_count);
    if (ret < 0) {
        snprintf(words, size, "limits: %s", weir_strerror(ret));
        return ret;
    }
    ret = relay_tls_load(w->relay, fresh, words, size);
    if (ret < 0)
        stream_limits_unstage(w->streams);
    else
        stream_limits_commit(w->streams, reactor_now_fresh(w->reactor));
    return ret;
}

/* Read the file again. Limits, max-hold, log-level and what the certificate and key files of
 * listeners and targets hold change, all or none; listeners, targets, volumes and servers carry
 * connections, and change with a restart only. */
static void worker_reload(struct worker *w)
{
    const struct options *options = w->start->options;
    struct text errors;
    if (!options->config) {
        log_info("SIGHUP: there is no file to read again");
        return;
    }
    text_init(&errors, OPTIONS_ERRORS_MAX);
    struct gateway_config *fresh = options_config(options, &errors);
    if (!fresh) {
        log_error("SIGHUP: %s has errors; everything stays as it was", options->config);
        log_lines(LOG_LEVEL_ERROR, errors.data);
        text_fini(&errors);
        return;
    }
    text_fini(&errors);
    char words[1024];
    if (worker_take(w, fresh, words, sizeof(words)) < 0) {
        log_error("SIGHUP: %s; everything stays as it was", words);
    } else {
        w->config->max_hold_ns = fresh->max_hold_ns;
        w->config->log_level = fresh->log_level;
        gate_set_max_hold(stream_gate(w->streams), fresh->max_hold_ns);
        log_set_level((enum log_level)fresh->log_level);
        relay_kick(w->relay);
        log_lines(LOG_LEVEL_WARNING, fresh->warnings.data);
        log_info("SIGHUP: %zu limits, max-hold, log-level, certificates and keys of %s are in "
                 "force; anything else changed there takes a restart",
                 fresh->limit_count, options->config);
    }
    options_config_free(fresh);
}

static void worker_stop(struct worker *w)
{
    w->at_once = w->ending;
    w->ending = true;
    reactor_stop(w->reactor);
}

static void worker_say(struct worker *w, enum worker_word word)
{
    const unsigned char byte = (unsigned char)word;
    (void)!send(w->control.fd, &byte, sizeof(byte), MSG_NOSIGNAL);
}

static void worker_retire_look(struct reactor_timer *t, uint64_t now_ns)
{
    struct worker *w = container_of(t, struct worker, retire);
    bool over = now_ns >= w->retire_by;
    if (w->retired && (over || relay_counts(w->relay)->active == 0)) {
        log_info("retired worker: %llu connections are left; ending",
                 (unsigned long long)relay_counts(w->relay)->active);
        worker_stop(w);
        return;
    }
    reactor_timer_set(w->reactor, t, now_ns + RETIRE_LOOK_NS);
    if (w->retired || (!over && relay_negotiating(w->relay) > 0))
        return;
    relay_close_negotiating(w->relay);
    link_retire(w->link);
    local_free(w->local);
    w->local = NULL;
    w->retired = true;
    w->retire_by = now_ns + w->config->drain_timeout_ns;
    worker_say(w, WORKER_RETIRE);
}

static void worker_retire(struct worker *w)
{
    if (w->retire.fire || w->ending)
        return;
    relay_retire(w->relay);
    w->retire.fire = worker_retire_look;
    w->retire_by = reactor_now_fresh(w->reactor) + RETIRE_NEGOTIATE_NS;
    worker_retire_look(&w->retire, reactor_now(w->reactor));
}

static void worker_signal(struct reactor_source *s, uint32_t epoll_events)
{
    struct worker *w = container_of(s, struct worker, signals);
    struct signalfd_siginfo info;
    (void)epoll_events;
    while (read(s->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            worker_reload(w);
        } else {
            log_info("%s: ending", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
            if (w->control.fd < 0)
                setup_notify("STOPPING=1");
            worker_stop(w);
        }
    }
}

static void worker_control(struct reactor_source *s, uint32_t epoll_events)
{
    struct worker *w = container_of(s, struct worker, control);
    unsigned char word;
    (void)epoll_events;
    while (recv(s->fd, &word, sizeof(word), MSG_DONTWAIT) == (ssize_t)sizeof(word)) {
        if (word == WORKER_RELOAD)
            worker_reload(w);
        else if (word == WORKER_STOP)
            worker_stop(w);
        else if (word == WORKER_RETIRE)
            worker_retire(w);
    }
}

/* Managed workers leave SIGINT and SIGHUP to the manager. */
static int worker_signals_start(struct worker *w)
{
    sigset_t set, fatal;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_SETMASK, &set, NULL) < 0)
        return -errno;
    sigemptyset(&fatal);
    sigaddset(&fatal, SIGTERM);
    int fd = signalfd(-1, w->control.fd < 0 ? &set : &fatal, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    w->signals.fd = fd;
    w->signals.ready = worker_signal;
    return reactor_add(w->reactor, &w->signals, EPOLLIN);
}

/* --- signs of life --- */

static void worker_beat(struct reactor_timer *t, uint64_t now_ns)
{
    struct worker *w = container_of(t, struct worker, beat);
    struct ledger *ledger = w->start->ledger;
    ledger_life(ledger)->heartbeat[ledger_bank(ledger)]++;
    reactor_timer_set(w->reactor, t, now_ns + w->config->worker_timeout_ns / BEATS);
}

static void worker_watchdog_fire(struct reactor_timer *t, uint64_t now_ns)
{
    struct worker *w = container_of(t, struct worker, watchdog);
    setup_notify("WATCHDOG=1");
    reactor_timer_set(w->reactor, t, now_ns + w->watchdog_ns);
}

static void worker_timers_start(struct worker *w)
{
    w->beat.fire = worker_beat;
    worker_beat(&w->beat, reactor_now_fresh(w->reactor));
    w->watchdog_ns = w->control.fd < 0 ? setup_watchdog_ns() : 0;
    if (w->watchdog_ns == 0)
        return;
    w->watchdog.fire = worker_watchdog_fire;
    reactor_timer_set(w->reactor, &w->watchdog, reactor_now(w->reactor) + w->watchdog_ns);
}

/* --- start and end --- */

static int worker_engine_start(struct worker *w)
{
    enum config_engine engine = (enum config_engine)w->config->io_engine;
    reactor_look(w->reactor, w->config->busy_poll_ns);
    if (engine == CONFIG_ENGINE_EPOLL)
        return 0;
    int ret = reactor_use_uring(w->reactor);
    if (ret == 0 || engine == CONFIG_ENGINE_AUTO) {
        log_debug("the data path uses %s%s%s", ret == 0 ? "io_uring" : "epoll",
                  ret == 0 ? "" : ", io_uring: ", ret == 0 ? "" : weir_strerror(ret));
        return 0;
    }
    log_error("io-engine = io_uring, but this system does not offer it");
    return ret;
}

static int worker_reactor_start(struct worker *w)
{
    const struct gateway_config *c = w->config;
    size_t sources = 2 * (size_t)c->max_connections + CONFIG_MAX_LISTENERS + REACTOR_SPARE;
    w->reactor = reactor_new(sources, (size_t)c->max_connections + CONFIG_MAX_LISTENERS +
                                          REACTOR_SPARE);
    int ret = w->reactor ? worker_engine_start(w) : -ENOMEM;
    if (ret == 0)
        ret = worker_signals_start(w);
    if (ret == 0 && w->control.fd >= 0) {
        w->control.ready = worker_control;
        ret = reactor_add(w->reactor, &w->control, EPOLLIN);
    }
    if (ret < 0)
        log_error("cannot start: %s", weir_strerror(ret));
    return ret;
}

static int worker_begin(struct worker *w)
{
    const struct gateway_config *c = w->config;
    const char *where = "";
    int ret = worker_reactor_start(w);
    if (ret < 0)
        return ret;
    w->streams = stream_table_attach(c, w->start->ledger, reactor_now_fresh(w->reactor));
    if (!w->streams) {
        log_error("not enough memory for %u streams; lower max-streams", c->max_streams);
        return -ENOMEM;
    }
    ret = relay_new_over(w->reactor, c, w->streams, w->start->listeners, &w->relay, &where);
    if (ret < 0) {
        log_error("listener %s: %s", where, weir_strerror(ret));
        return ret;
    }
    ret = link_new(w->reactor, c, w->streams, w->relay, &w->link, &where);
    if (ret < 0) {
        log_error("link to the server: %s: %s", where, weir_strerror(ret));
        return ret;
    }
    ret = local_new(w->reactor, c, w->streams, w->relay, w->link, w->start->local, &w->local);
    if (ret < 0) {
        log_error("local socket: %s", weir_strerror(ret));
        return ret;
    }
    drain_start(&w->drain, w->reactor, w->start->ledger, w->relay);
    ledger_cells_sweep(w->start->ledger); /* every rule of before has its credit again */
    return 0;
}

static void worker_end(struct worker *w)
{
    drain_stop(&w->drain);
    local_free(w->local);
    if (w->link)
        link_free(w->link);
    relay_free(w->relay);
    if (w->streams)
        stream_table_free(w->streams);
    if (!w->reactor)
        return;
    reactor_remove(w->reactor, &w->signals);
    reactor_remove(w->reactor, &w->control);
    if (w->signals.fd >= 0)
        close(w->signals.fd);
    reactor_timer_clear(w->reactor, &w->beat);
    reactor_timer_clear(w->reactor, &w->watchdog);
    reactor_timer_clear(w->reactor, &w->retire);
    reactor_free(w->reactor);
}

/* Rounds until the last answers are here; see the essay above. */
static int worker_drain(struct worker *w)
{
    uint64_t now = reactor_now_fresh(w->reactor), until = now + STOP_NS;
    int ret = 0;
    relay_stop(w->relay);
    while (ret == 0 && !w->at_once && relay_counts(w->relay)->active > 0 && now < until) {
        ret = reactor_round(w->reactor, until - now);
        now = reactor_now_fresh(w->reactor);
    }
    return ret;
}

/* Wait to be told. False: it is not wanted. */
static bool worker_stand_by(struct worker *w)
{
    unsigned char word = 0;
    ssize_t n;
    worker_say(w, WORKER_PREPARED);
    do {
        n = recv(w->control.fd, &word, sizeof(word), 0);
        w->reload = w->reload || (n > 0 && word == WORKER_RELOAD);
    } while ((n < 0 && errno == EINTR) || (n > 0 && word == WORKER_RELOAD));
    return n > 0 && word == WORKER_GO;
}

int worker_run(const struct worker_start *start)
{
    struct worker w = {
        .start = start,
        .config = start->config,
        .signals.fd = -1,
        .control.fd = start->control,
    };
    if (start->stand_by && !worker_stand_by(&w))
        return 0;
    int ret = worker_begin(&w);
    if (ret == 0) {
        if (w.config->sandbox) /* everything is open */
            setup_sandbox(SANDBOX_GATEWAY);
        worker_timers_start(&w);
        if (start->control >= 0)
            worker_say(&w, WORKER_READY);
        else
            setup_notify("READY=1");
        if (w.reload)
            worker_reload(&w);
        ret = reactor_run(w.reactor);
        if (ret == 0)
            ret = worker_drain(&w);
        if (ret < 0)
            log_error("waiting for events: %s", weir_strerror(ret));
    }
    worker_end(&w);
    return ret < 0 ? 1 : 0;
}
