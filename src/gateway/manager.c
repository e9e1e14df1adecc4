/* SPDX-License-Identifier: Apache-2.0 */
/* The manager.
 *
 * Problem: whatever brings the data path down, hosts must find it again at once, at the same
 * address, with the same limits and the same counters, and people must learn why it went.
 *
 * Model: this process touches no I/O. It holds what must not be lost (listening sockets, the
 * ledger's memory, the configuration as it was read) and forks the worker, which is ready some
 * milliseconds later; meanwhile hosts wait in the sockets' backlog. The configuration is not
 * read again for a new worker, so that a file that was spoilt since the start does no harm
 * (certificates and keys are).
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
 * Hangs are found by the worker's heartbeat, counted in looks of ours, not in time that passed: if
 * the whole machine, or this process along with the worker, stood still, one look was missed, no
 * more. A worker that is STARTING has worker-timeout as well.
 *
 * The service manager hears of this process only: READY with the first worker's, then its watchdog,
 * which tells that the manager goes round; the worker's is the heartbeat.
 *
 * What may fail: everything before the first READY. After it fork may: it is tried again like after
 * a death. */
#include "gateway/manager.h"

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
#include "gateway/ledger.h"
#include "gateway/local.h"
#include "gateway/relay.h"
#include "gateway/setup.h"
#include "gateway/worker.h"

#define STEADY_NS (10 * NS_PER_S)
#define PAUSE_FIRST_NS (100 * NS_PER_MS)
#define PAUSE_MAX_NS (10 * NS_PER_S)
#define PAUSE_DOUBLINGS 7u
/* Looks at the heartbeat within worker-timeout. */
#define LOOKS 10u
/* Told to stop, a worker has this long (its own bound is 5 s). */
#define STOP_NS (10 * NS_PER_S)

enum life { LIFE_NONE, LIFE_STARTING, LIFE_RUNNING, LIFE_STOPPING };

struct child {
    enum life life;
    pid_t pid;
    int control; /* -1: none */
    uint32_t bank;
    uint64_t started_ns, beat;
    unsigned silent; /* looks without a new heartbeat */
    bool hung;       /* and killed for it */
};

struct manager {
    struct options *options;
    struct gateway_config *config;
    struct ledger *ledger;
    int listeners[CONFIG_MAX_LISTENERS];
    int local, signals;
    struct child child;
    struct rng rng;
    unsigned failures;   /* in a row, of workers that did not live long */
    uint64_t start_at;   /* when the next worker is to be started; 0: now */
    uint64_t look_at, watchdog_at, watchdog_ns;
    uint64_t stop_by;    /* when STOPPING turns into SIGKILL */
    bool ready;          /* the first worker was */
    bool ending;
    int status;
};

/* --- sockets --- */

int manager_listen(const struct gateway_config *config, int *ret_listeners, int *ret_local)
{
    for (size_t i = 0; i < config->listener_count; i++) {
        ret_listeners[i] = relay_listener_open(&config->listeners[i]);
        if (ret_listeners[i] < 0) {
            log_error("listener %s: %s", config->listeners[i].name,
                      weir_strerror(ret_listeners[i]));
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

/* In the child. Does not return. */
static void manager_become_worker(struct manager *m, pid_t parent, int control)
{
    int listeners[CONFIG_MAX_LISTENERS];
    close(m->signals);
    if (setup_worker(parent) < 0)
        _exit(1);
    memcpy(listeners, m->listeners, sizeof(listeners));
    ledger_take_bank(m->ledger, m->child.bank);
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

static void manager_start_worker(struct manager *m)
{
    int pair[2];
    pid_t self = getpid();
    m->start_at = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        log_error("cannot start a worker: %s", weir_strerror(-errno));
        m->start_at = clock_mono_ns() + PAUSE_FIRST_NS;
        return;
    }
    struct ledger_life *life = ledger_life(m->ledger);
    uint64_t now = clock_mono_ns();
    life->worker_started_ns = now;
    if (life->started_ns == 0)
        life->started_ns = now;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        manager_become_worker(m, self, pair[1]);
    }
    close(pair[1]);
    if (pid < 0) {
        log_error("cannot start a worker: %s", weir_strerror(-errno));
        close(pair[0]);
        m->start_at = now + PAUSE_FIRST_NS;
        return;
    }
    m->child = (struct child){
        .life = LIFE_STARTING,
        .pid = pid,
        .control = pair[0],
        .bank = m->child.bank,
        .started_ns = now,
        .beat = life->heartbeat[m->child.bank],
    };
    life->worker_pid = (uint32_t)pid;
}

static void manager_tell(struct manager *m, enum worker_word word)
{
    const unsigned char byte = (unsigned char)word;
    if (m->child.control >= 0)
        (void)!send(m->child.control, &byte, sizeof(byte), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void manager_hang_up(struct manager *m)
{
    if (m->child.control >= 0)
        close(m->child.control);
    m->child.control = -1;
}

/* --- a worker's end --- */

static void manager_reason(const struct manager *m, int status, char out[LEDGER_REASON_SIZE])
{
    if (m->child.hung) {
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

static void manager_child_died(struct manager *m, int status)
{
    struct ledger_life *life = ledger_life(m->ledger);
    uint64_t now = clock_mono_ns();
    uint32_t bank = m->child.bank;
    bool in_order = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    ledger_repair_bank(m->ledger, bank);
    manager_hang_up(m);
    life->worker_pid = 0;
    if (m->ending || !m->ready) {
        m->ending = true;
        m->status = in_order ? m->status : 1;
        m->child = (struct child){.control = -1, .bank = bank};
        return;
    }
    char reason[LEDGER_REASON_SIZE];
    manager_reason(m, status, reason);
    uint64_t pause = manager_pause(m, now - m->child.started_ns);
    life->deaths++;
    life->hangs += m->child.hung;
    life->last_death_ns = now;
    memcpy(life->last_reason, reason, sizeof(reason));
    char when[32] = "at once";
    if (pause > 0)
        snprintf(when, sizeof(when), "in %.1f s", (double)pause / (double)NS_PER_S);
    log_error("worker %ld died after %.1f s: %s; another starts %s (%llu deaths so far)",
              (long)m->child.pid, (double)(now - m->child.started_ns) / (double)NS_PER_S, reason,
              when, (unsigned long long)life->deaths);
    m->child = (struct child){.control = -1, .bank = bank};
    m->start_at = now + pause;
}

static void manager_reap(struct manager *m)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (m->child.life != LIFE_NONE && pid == m->child.pid)
            manager_child_died(m, status);
}

/* --- signs of life --- */

static void manager_look(struct manager *m)
{
    struct child *c = &m->child;
    uint64_t beat = ledger_life(m->ledger)->heartbeat[c->bank];
    if (c->life == LIFE_NONE || c->hung)
        return;
    c->silent = beat == c->beat ? c->silent + 1 : 0;
    c->beat = beat;
    if (c->silent < LOOKS + 1)
        return;
    log_error("worker %ld has been silent for %.1f s: killing it", (long)c->pid,
              (double)m->config->worker_timeout_ns / (double)NS_PER_S);
    c->hung = true;
    (void)kill(c->pid, SIGKILL);
}

static void manager_hear(struct manager *m)
{
    unsigned char word;
    while (m->child.control >= 0 &&
           recv(m->child.control, &word, sizeof(word), MSG_DONTWAIT) == (ssize_t)sizeof(word)) {
        if (word != WORKER_READY || m->child.life != LIFE_STARTING)
            continue;
        m->child.life = LIFE_RUNNING;
        if (m->ready) {
            log_info("worker %ld serves", (long)m->child.pid);
            continue;
        }
        m->ready = true;
        if (m->config->sandbox) /* holds for workers to come as well */
            setup_sandbox(SANDBOX_SUPERVISOR);
        manager_announce(m->config, m->listeners);
        setup_notify("READY=1");
    }
}

/* --- signals --- */

/* The file's new limits, for workers to come; the worker of now reads them itself. */
static void manager_reload(struct manager *m)
{
    struct text errors;
    text_init(&errors, OPTIONS_ERRORS_MAX);
    struct gateway_config *fresh = m->options->config ? options_config(m->options, &errors) : NULL;
    text_fini(&errors);
    if (fresh) {
        struct limit_config *limits = m->config->limits;
        size_t count = m->config->limit_count;
        m->config->limits = fresh->limits;
        m->config->limit_count = fresh->limit_count;
        m->config->max_hold_ns = fresh->max_hold_ns;
        m->config->log_level = fresh->log_level;
        fresh->limits = limits;
        fresh->limit_count = count;
        log_init("weir-gateway", (enum log_level)m->config->log_level);
        options_config_free(fresh);
    }
    manager_tell(m, WORKER_RELOAD);
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
    manager_tell(m, WORKER_STOP);
    if (m->child.life != LIFE_NONE)
        m->child.life = LIFE_STOPPING;
}

static void manager_signals(struct manager *m)
{
    struct signalfd_siginfo info;
    while (read(m->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP)
            manager_reload(m);
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
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    m->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return m->signals < 0 ? -errno : 0;
}

/* --- the loop --- */

/* Do what is due; how long nothing else will be. */
static uint64_t manager_due(struct manager *m)
{
    uint64_t now = clock_mono_ns(), next;
    if (now >= m->look_at) {
        manager_look(m);
        m->look_at = now + m->config->worker_timeout_ns / LOOKS;
    }
    next = m->look_at;
    if (m->child.life == LIFE_NONE && !m->ending) {
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
    if (m->child.life == LIFE_STOPPING && now >= m->stop_by)
        (void)kill(m->child.pid, SIGKILL);
    return next > now ? next - now : 0;
}

static void manager_loop(struct manager *m)
{
    while (!m->ending || m->child.life != LIFE_NONE) {
        uint64_t wait = manager_due(m);
        struct pollfd fds[] = {
            {.fd = m->signals, .events = POLLIN},
            {.fd = m->child.control, .events = POLLIN}, /* -1 is left out */
        };
        if (poll(fds, 2, (int)(wait / NS_PER_MS) + 1) < 0 && errno != EINTR) {
            log_error("waiting for events: %s", weir_strerror(-errno));
            m->status = 1;
            return;
        }
        if (fds[1].revents & POLLIN)
            manager_hear(m);
        else if (fds[1].revents & (POLLHUP | POLLERR))
            manager_hang_up(m); /* its death follows */
        manager_signals(m);
    }
}

static int manager_begin(struct manager *m)
{
    int ret = setup_process(m->config, m->options);
    if (ret < 0)
        return ret;
    ret = ledger_new(m->config, &m->ledger);
    if (ret < 0) {
        log_error("not enough memory for %u streams; lower max-streams", m->config->max_streams);
        return ret;
    }
    ledger_life(m->ledger)->manager_pid = (uint32_t)getpid();
    ret = manager_listen(m->config, m->listeners, &m->local);
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
        .child.control = -1,
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
