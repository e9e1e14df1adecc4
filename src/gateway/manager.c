/* SPDX-License-Identifier: Apache-2.0 */
/* The manager.
 *
 * Problem: whatever brings the data path down, hosts must find it again at once, at the same
 * address, with the same limits and the same counters, and people must learn why it went.
 *
 * Model: this process touches no I/O. It holds what must not be lost (listening sockets, the
 * ledger's memory, the configuration as it was read) and forks the worker, which is ready some
 * milliseconds later; meanwhile hosts wait in the sockets' backlog. Configuration, certificates and
 * keys are not read again for a new worker, so that a file that was spoilt since does no harm.
 *
 *            fork             READY                   told to stop
 *   (none) --------> STARTING ------> RUNNING -----------------------------> STOPPING
 *      ^                |                |  silent for worker-timeout: SIGKILL   |
 *      +----------------+----------------+---------------------------------------+
 *        its death: say why, put the ledger right, start another after a pause
 *
 * The pause: none after a worker that lived STEADY_NS, nor after the first that did not; then
 * 100 ms doubling to 10 s, half of it jitter. A first worker that ends before it was ever ready
 * ends the program: its reasons are the configuration's or the machine's, and were said.
 *
 * There is a place for a second worker: the one that retires while an upgrade's serves
 * (manager_upgrade.c). Each counts in its own bank of the ledger.
 *
 * Hangs are found by the worker's heartbeat, counted in looks of ours, not in time that passed: if
 * the whole machine, or this process along with the worker, stood still, one look was missed, no
 * more. A worker that is STARTING has START_PATIENCE_NS, or worker-timeout if that is longer: a
 * machine that is too busy to start one soon would only be busier with another.
 *
 * The service manager hears of this process only: READY with the first worker's, then its watchdog,
 * which tells that the manager goes round; the worker's is the heartbeat.
 *
 * What may fail: everything before the first READY. After it fork may: it is tried again like after
 * a death. */
#include "gateway/manager.h"

#include <config.h> /* the build's; "config.h" would be the gateway's */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "gateway/certs.h"
#include "gateway/handover.h"
#include "gateway/ledger.h"
#include "gateway/local.h"
#include "gateway/manager_private.h"
#include "gateway/relay.h"
#include "gateway/setup.h"
#include "gateway/worker.h"

#define STEADY_NS (10 * NS_PER_S)
#define PAUSE_FIRST_NS (100 * NS_PER_MS)
#define PAUSE_MAX_NS (10 * NS_PER_S)
#define PAUSE_DOUBLINGS 7u
/* Looks at the heartbeat within worker-timeout. */
#define LOOKS 10u
#define START_PATIENCE_NS (15 * NS_PER_S)
/* Told to stop, a worker has this long (its own bound is 5 s). */
#define STOP_NS (10 * NS_PER_S)

/* --- sockets --- */

int manager_listen(const struct gateway_config *config, int *ret_listeners, int *ret_local)
{
    for (size_t i = 0; i < config->listener_count; i++) {
        ret_listeners[i] = relay_listener_open(&config->listeners[i]);
        if (ret_listeners[i] < 0) {
            log_error("listener %s: %s: %s", config->listeners[i].name,
                      config->listeners[i].addr.text, weir_strerror(ret_listeners[i]));
            return ret_listeners[i];
        }
    }
    *ret_local = local_open(config);
    if (*ret_local < 0)
        log_error("local socket %s: %s; another gateway may use it, --socket names another",
                  config->socket_path, weir_strerror(*ret_local));
    return *ret_local < 0 ? *ret_local : 0;
}

void manager_announce(const struct gateway_config *config, const int *listeners)
{
    for (size_t i = 0; i < config->listener_count; i++) {
        char text[ADDR_TEXT_SIZE];
        if (addr_local_text(listeners[i], text, sizeof(text)) == 0)
            printf("weir-gateway: listening on %s for target %s\n", text,
                   config->listeners[i].target->name);
    }
    fflush(stdout);
}

static void manager_unlisten(struct manager *m)
{
    for (size_t i = 0; i < m->config->listener_count; i++) {
        if (m->listeners[i] < 0)
            continue;
        close(m->listeners[i]);
        m->listeners[i] = -1;
        relay_listener_unlink(&m->config->listeners[i]);
    }
    if (m->local >= 0) {
        close(m->local);
        local_unlink(m->config);
    }
    m->local = -1;
}

/* --- a worker's birth --- */

static void manager_hang_up(struct child *c)
{
    if (c->control >= 0)
        close(c->control);
    c->control = -1;
}

/* In the child. Does not return. */
static void manager_become_worker(struct manager *m, pid_t parent, int control, uint32_t bank)
{
    int listeners[CONFIG_MAX_LISTENERS];
    close(m->signals);
    for (size_t i = 0; i < LEDGER_BANKS; i++)
        manager_hang_up(&m->child[i]);
    if (setup_worker(parent) < 0)
        _exit(1);
    memcpy(listeners, m->listeners, sizeof(listeners));
    ledger_take_bank(m->ledger, bank);
    const struct worker_start start = {
        .options = m->options,
        .config = m->config,
        .ledger = m->ledger,
        .listeners = listeners,
        .local = m->local,
        .control = control,
    };
    int status = worker_run(&start);
    close(control);
    exit(status);
}

int manager_pair(int *ret_here, int *ret_there)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    *ret_here = pair[0];
    *ret_there = pair[1];
    return 0;
}

static void manager_start_worker(struct manager *m)
{
    struct child *c = &m->child[m->serving];
    struct ledger_life *life = ledger_life(m->ledger);
    uint64_t now = clock_mono_ns();
    int here, there, err = manager_pair(&here, &there);
    pid_t self = getpid(), pid = -1;
    if (err == 0) {
        life->worker_started_ns = now;
        if (life->started_ns == 0)
            life->started_ns = now;
        fflush(NULL);
        pid = fork();
        err = pid < 0 ? -errno : 0;
        if (pid == 0) {
            close(here);
            manager_become_worker(m, self, there, c->bank);
        }
        close(there);
        if (pid < 0)
            close(here);
    }
    if (err < 0) {
        log_error("cannot start a worker: %s; trying again", weir_strerror(err));
        m->start_at = now + PAUSE_FIRST_NS;
        return;
    }
    m->start_at = 0;
    *c = (struct child){
        .life = LIFE_STARTING,
        .pid = pid,
        .control = here,
        .bank = c->bank,
        .started_ns = now,
        .beat = life->heartbeat[c->bank],
    };
    life->worker_pid = (uint32_t)pid;
}

void manager_tell(struct child *c, enum worker_word word)
{
    const unsigned char byte = (unsigned char)word;
    if (c->control >= 0)
        (void)!send(c->control, &byte, sizeof(byte), MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* --- a worker's end --- */

void manager_reason(const struct manager *m, const struct child *c, int status,
                    char out[LEDGER_REASON_SIZE])
{
    if (c->hung) {
        snprintf(out, LEDGER_REASON_SIZE, "hung for %.1f s, was killed",
                 (double)m->config->worker_timeout_ns / (double)NS_PER_S);
    } else if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(out, LEDGER_REASON_SIZE, "SIG%s%s", name ? name : "?",
                 WTERMSIG(status) == SIGKILL ? " (killed by somebody, or for want of memory)"
                 : WTERMSIG(status) == SIGABRT ? " (a failed assertion; see the line before)"
                                               : "");
    } else {
        snprintf(out, LEDGER_REASON_SIZE, "exit status %d", WEXITSTATUS(status));
    }
}

/* How long the next worker has to wait. */
static uint64_t manager_pause(struct manager *m, uint64_t lived_ns)
{
    m->failures = lived_ns >= STEADY_NS ? 0 : m->failures + 1;
    if (m->failures < 2)
        return 0;
    unsigned doublings = m->failures - 2 < PAUSE_DOUBLINGS ? m->failures - 2 : PAUSE_DOUBLINGS;
    uint64_t pause = PAUSE_FIRST_NS << doublings;
    if (pause > PAUSE_MAX_NS)
        pause = PAUSE_MAX_NS;
    return pause / 2 + rng_below(&m->rng, pause / 2);
}

/* A death that nobody asked for: count it, say why, have another worker start. */
static void manager_child_lost(struct manager *m, const struct child *c, const char *reason)
{
    struct ledger_life *life = ledger_life(m->ledger);
    uint64_t now = clock_mono_ns();
    bool was_serving = c->bank == m->serving && !manager_upgrade_bears(m);
    uint64_t pause = was_serving ? manager_pause(m, now - c->started_ns) : 0;
    life->deaths++;
    life->hangs += c->hung;
    life->last_death_ns = now;
    memcpy(life->last_reason, reason, LEDGER_REASON_SIZE);
    char when[32] = "at once";
    if (pause > 0)
        snprintf(when, sizeof(when), "in %.1f s", (double)pause / (double)NS_PER_S);
    log_error("worker %ld died after %.1f s: %s; another %s %s (%llu deaths so far)", (long)c->pid,
              (double)(now - c->started_ns) / (double)NS_PER_S, reason,
              was_serving ? "starts" : "serves already,", when, (unsigned long long)life->deaths);
    if (was_serving)
        m->start_at = now + pause;
}

static void manager_child_died(struct manager *m, struct child *c, int status)
{
    char reason[LEDGER_REASON_SIZE] = "";
    bool in_order = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    ledger_repair_bank(m->ledger, c->bank);
    manager_hang_up(c);
    manager_reason(m, c, status, reason);
    if (m->ending || !m->ready) {
        m->ending = true;
        m->status = in_order ? m->status : 1;
    } else {
        struct child was = *c;
        c->life = LIFE_NONE;
        if (was.bank == m->serving)
            ledger_life(m->ledger)->worker_pid = 0;
        if (!manager_upgrade_died(m, &was, reason))
            manager_child_lost(m, &was, reason);
    }
    *c = (struct child){.control = -1, .bank = c->bank};
}

static void manager_reap(struct manager *m)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        for (size_t i = 0; i < LEDGER_BANKS; i++)
            if (m->child[i].life != LIFE_NONE && pid == m->child[i].pid)
                manager_child_died(m, &m->child[i], status);
}

/* --- signs of life --- */

static void manager_look(struct manager *m, struct child *c)
{
    uint64_t beat = ledger_life(m->ledger)->heartbeat[c->bank];
    if (c->life == LIFE_NONE || c->life == LIFE_PREPARING || c->hung)
        return;
    c->silent = beat == c->beat ? c->silent + 1 : 0;
    c->beat = beat;
    if (c->silent < LOOKS + 1)
        return;
    if (c->life == LIFE_STARTING && clock_mono_ns() - c->started_ns < START_PATIENCE_NS)
        return;
    log_error("worker %ld has been silent for %.1f s: killing it", (long)c->pid,
              (double)m->config->worker_timeout_ns / (double)NS_PER_S);
    c->hung = true;
    (void)kill(c->pid, SIGKILL);
}

static void manager_child_ready(struct manager *m, struct child *c)
{
    c->life = LIFE_RUNNING;
    if (m->ready) {
        log_info("worker %ld serves", (long)c->pid);
        return;
    }
    m->ready = true;
    if (m->config->sandbox) /* holds for workers to come as well, and over exec */
        setup_sandbox(SANDBOX_SUPERVISOR);
    manager_announce(m->config, m->listeners);
    setup_notify("READY=1");
}

static void manager_hear(struct manager *m, struct child *c)
{
    unsigned char word;
    while (c->control >= 0 &&
           recv(c->control, &word, sizeof(word), MSG_DONTWAIT) == (ssize_t)sizeof(word)) {
        if (word == WORKER_READY && c->life == LIFE_STARTING)
            manager_child_ready(m, c);
        else
            manager_upgrade_hear(m, c, word);
    }
}

/* --- signals --- */

/* Read the file again; NULL after saying why nothing of it is taken. */
static struct gateway_config *manager_reload_read(struct manager *m)
{
    const char *path = m->options->config;
    struct text errors;
    char words[1024];
    text_init(&errors, OPTIONS_ERRORS_MAX);
    struct gateway_config *fresh = options_config(m->options, &errors);
    if (!fresh) {
        log_error("SIGHUP: %s has errors; everything stays as it was", path);
        log_lines(LOG_LEVEL_ERROR, errors.data);
    } else if (!certs_take(m->config, fresh, words, sizeof(words))) {
        log_error("SIGHUP: %s; everything stays as it was", words);
        options_config_free(fresh);
        fresh = NULL;
    }
    text_fini(&errors);
    return fresh;
}

/* The file's new limits, certificates and keys, for workers to come. The worker of now reads them
 * itself, and is told only when they are taken here. A file that changes in the milliseconds
 * between is known to one of them only, until the next SIGHUP. */
static void manager_reload(struct manager *m)
{
    struct gateway_config *fresh = m->options->config ? manager_reload_read(m) : NULL;
    if (m->options->config && !fresh)
        return;
    if (fresh) {
        struct limit_config *limits = m->config->limits;
        size_t count = m->config->limit_count;
        m->config->limits = fresh->limits;
        m->config->limit_count = fresh->limit_count;
        m->config->max_hold_ns = fresh->max_hold_ns;
        m->config->log_level = fresh->log_level;
        fresh->limits = limits;
        fresh->limit_count = count;
        log_set_level((enum log_level)m->config->log_level);
        options_config_free(fresh);
    }
    for (size_t i = 0; i < LEDGER_BANKS; i++)
        manager_tell(&m->child[i], WORKER_RELOAD);
}

static void manager_end(struct manager *m, uint32_t signo)
{
    log_info("%s: ending", signo == SIGTERM ? "SIGTERM" : "SIGINT");
    if (!m->ending) {
        setup_notify("STOPPING=1");
        m->ending = true;
        m->stop_by = clock_mono_ns() + STOP_NS;
        manager_unlisten(m);
    }
    for (size_t i = 0; i < LEDGER_BANKS; i++) {
        manager_tell(&m->child[i], WORKER_STOP);
        if (m->child[i].life != LIFE_NONE)
            m->child[i].life = LIFE_STOPPING;
    }
}

static void manager_signals(struct manager *m)
{
    struct signalfd_siginfo info;
    while (read(m->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP)
            manager_reload(m);
        else if (info.ssi_signo == SIGUSR2 && !m->ending)
            manager_upgrade_begin(m);
        else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            manager_end(m, info.ssi_signo);
    }
    manager_reap(m); /* SIGCHLD, or any */
}

static int manager_signals_start(struct manager *m)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    m->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return m->signals < 0 ? -errno : 0;
}

/* --- the loop --- */

static bool manager_alone(const struct manager *m)
{
    for (size_t i = 0; i < LEDGER_BANKS; i++)
        if (m->child[i].life != LIFE_NONE)
            return false;
    return true;
}

static void manager_looks(struct manager *m, uint64_t now)
{
    for (size_t i = 0; i < LEDGER_BANKS; i++) {
        struct child *c = &m->child[i];
        if (now >= m->look_at)
            manager_look(m, c);
        if (c->life == LIFE_STOPPING && now >= m->stop_by)
            (void)kill(c->pid, SIGKILL);
    }
    if (now >= m->look_at)
        m->look_at = now + m->config->worker_timeout_ns / LOOKS;
}

/* Do what is due; how long nothing else will be. */
static uint64_t manager_due(struct manager *m)
{
    uint64_t now = clock_mono_ns();
    manager_looks(m, now);
    manager_upgrade_due(m, now);
    uint64_t next = m->look_at;
    if (m->child[m->serving].life == LIFE_NONE && !m->ending && !manager_upgrade_bears(m)) {
        if (now >= m->start_at)
            manager_start_worker(m);
        if (m->start_at > 0 && m->start_at < next)
            next = m->start_at;
    }
    if (m->watchdog_ns > 0) {
        if (now >= m->watchdog_at) {
            setup_notify("WATCHDOG=1");
            m->watchdog_at = now + m->watchdog_ns;
        }
        next = m->watchdog_at < next ? m->watchdog_at : next;
    }
    return next > now ? next - now : 0;
}

static void manager_loop(struct manager *m)
{
    while (!m->ending || !manager_alone(m)) {
        uint64_t wait = manager_due(m);
        struct pollfd fds[1 + LEDGER_BANKS] = {{.fd = m->signals, .events = POLLIN}};
        for (size_t i = 0; i < LEDGER_BANKS; i++) /* -1 is left out */
            fds[1 + i] = (struct pollfd){.fd = m->child[i].control, .events = POLLIN};
        if (poll(fds, 1 + LEDGER_BANKS, (int)(wait / NS_PER_MS) + 1) < 0 && errno != EINTR) {
            log_error("waiting for events: %s", weir_strerror(-errno));
            m->status = 1;
            return;
        }
        for (size_t i = 0; i < LEDGER_BANKS; i++) {
            if (fds[1 + i].revents & POLLIN)
                manager_hear(m, &m->child[i]);
            else if (fds[1 + i].revents & (POLLHUP | POLLERR))
                manager_hang_up(&m->child[i]); /* its death follows */
        }
        manager_signals(m);
    }
}

/* What an upgrade starts: the file that this process was started from, whatever is in it then. */
static void manager_find_program(struct manager *m)
{
    ssize_t n = readlink("/proc/self/exe", m->program, sizeof(m->program) - 1);
    m->program[n > 0 ? n : 0] = '\0';
    char *gone = strstr(m->program, " (deleted)");
    if (gone)
        *gone = '\0';
}

/* This image was started by the one before, in its process. */
static int manager_take_over(struct manager *m)
{
    struct handover h;
    char why[HANDOVER_WHY];
    int ret = handover_take(&h, m->config, why);
    if (ret == 0)
        ret = ledger_open(m->config, h.ledger, &m->ledger);
    if (ret < 0) {
        log_error("upgrade: %s: %s", why, weir_strerror(ret));
        return ret;
    }
    memcpy(m->listeners, h.listeners, sizeof(m->listeners));
    m->local = h.local;
    m->serving = h.bank;
    m->ready = true;
    for (size_t i = 0; i < LEDGER_BANKS; i++) {
        struct child *c = &m->child[i];
        if (h.child[i].pid == 0)
            continue;
        c->life = h.child[i].retiring ? LIFE_RETIRING : LIFE_RUNNING;
        c->pid = h.child[i].pid;
        c->control = h.child[i].control;
        c->started_ns = h.child[i].started_ns;
        c->beat = ledger_life(m->ledger)->heartbeat[i];
    }
    if (m->config->sandbox)
        setup_sandbox_resume();
    log_info("upgrade: the manager is weir-gateway " WEIR_VERSION " now");
    return 0;
}

static int manager_begin_anew(struct manager *m)
{
    int ret = ledger_new(m->config, &m->ledger);
    if (ret < 0) {
        log_error("not enough memory for %u streams; lower max-streams", m->config->max_streams);
        return ret;
    }
    ledger_life(m->ledger)->manager_pid = (uint32_t)getpid();
    return manager_listen(m->config, m->listeners, &m->local);
}

static int manager_begin(struct manager *m)
{
    int ret = setup_process(m->config, m->options);
    manager_find_program(m);
    if (ret == 0)
        ret = handover_role() == HANDOVER_MANAGER ? manager_take_over(m) : manager_begin_anew(m);
    if (ret < 0)
        return ret;
    ret = manager_signals_start(m);
    if (ret < 0)
        log_error("cannot start: %s", weir_strerror(ret));
    return ret;
}

int manager_run(struct options *options, struct gateway_config *config)
{
    struct manager m = {
        .options = options,
        .config = config,
        .local = -1,
        .signals = -1,
        .child = {{.control = -1, .bank = 0}, {.control = -1, .bank = 1}},
    };
    uint64_t seed;
    memset(m.listeners, 0xff, sizeof(m.listeners)); /* all -1 */
    rng_system(&seed, sizeof(seed));
    rng_seed(&m.rng, seed);
    m.watchdog_ns = setup_watchdog_ns();
    m.status = manager_begin(&m) < 0 ? 1 : 0;
    if (m.status == 0)
        manager_loop(&m);
    manager_unlisten(&m);
    if (m.signals >= 0)
        close(m.signals);
    ledger_free(m.ledger);
    options_config_free(m.config);
    return m.status;
}
