/* SPDX-License-Identifier: Apache-2.0 */
/* The upgrade: going on as the program that is installed now, without a gap.
 *
 *   NONE -- SIGUSR2: fork, exec the new program --> PREPARING
 *   PREPARING -- the new worker has read its configuration and mapped the ledger --> RETIRING
 *   RETIRING -- the old worker takes no more hosts, has let go of link and socket --> STARTING
 *   STARTING -- the new worker serves --> NONE; then the manager itself becomes the new program, by
 *               exec in its own process: same pid, same children, nothing closed.
 *
 * In PREPARING nothing has changed for anybody; whatever goes wrong there (the program is missing,
 * dies, refuses its configuration, lays the ledger out in another way, takes PREPARE_NS) is said,
 * counted, and the old worker goes on. Between RETIRING and NONE, some milliseconds as a rule,
 * arriving hosts wait in the backlog. Should the new worker fail there, a worker of the old program
 * takes its place, in its bank, once the old worker has retired or died: what was told to retire
 * does. In RETIRING and STARTING a death of the old worker starts no other: the new one goes on.
 *
 * From RETIRING until the old worker has ended two workers charge the same rules: ledger_share.both
 * is set before the old one is told, so that both take turns. The old worker counts in its own bank
 * to the end; what is told of a stream is the sum of both. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/handover.h"
#include "gateway/manager_private.h"
#include "gateway/setup.h"

#define PREPARE_NS (15 * NS_PER_S)
/* Its own bound is a second; beyond ours it hangs, and is killed. */
#define RETIRE_NS (5 * NS_PER_S)
#define START_NS (15 * NS_PER_S)

static struct child *serving(struct manager *m)
{
    return &m->child[m->serving];
}

static struct child *coming(struct manager *m)
{
    return &m->child[m->serving ^ 1u];
}

static void upgrade_set(struct manager *m, enum upgrade to, uint64_t within_ns)
{
    m->upgrade = to;
    m->upgrade_by = clock_mono_ns() + within_ns;
}

static void upgrade_failed(struct manager *m, const char *why)
{
    struct ledger_life *life = ledger_life(m->ledger);
    m->upgrade = UPGRADE_NONE;
    snprintf(life->last_upgrade, sizeof(life->last_upgrade), "failed: %.120s; the old goes on",
             why);
    life->upgrades_failed++;
    log_error("upgrade %s", life->last_upgrade);
}

static struct handover handover_of(const struct manager *m)
{
    struct handover h = {
        .manager = getpid(),
        .ledger = ledger_fd(m->ledger),
        .local = m->local,
        .control = -1,
    };
    memcpy(h.listeners, m->listeners, sizeof(h.listeners));
    for (size_t i = 0; i < LEDGER_BANKS; i++)
        h.child[i].control = -1;
    return h;
}

/* In the child: become a worker of the new program. Returns only when that cannot be. */
static void upgrade_exec_worker(struct manager *m, pid_t manager, int control, uint32_t bank)
{
    struct handover h = handover_of(m);
    h.role = HANDOVER_WORKER;
    h.manager = manager;
    h.control = control;
    h.bank = bank;
    if (setup_worker(manager) == 0 && handover_give(&h, m->config) == 0)
        (void)execv(m->program, m->options->argv);
    log_error("upgrade: %s: %s", m->program, weir_strerror(-errno));
}

void manager_upgrade_begin(struct manager *m)
{
    struct child *c = coming(m);
    if (m->upgrade != UPGRADE_NONE || c->life != LIFE_NONE || serving(m)->life != LIFE_RUNNING) {
        /* Not counted as one that failed: the one under way is not done. */
        log_warning("SIGUSR2: an upgrade is under way, its old worker has not ended, or no worker "
                    "serves; try again later");
        snprintf(ledger_life(m->ledger)->last_upgrade, LEDGER_REASON_SIZE,
                 "refused: the last one's old worker still has connections");
        ledger_life(m->ledger)->upgrades_failed++;
        return;
    }
    int here, there, err = manager_pair(&here, &there);
    pid_t self = getpid(), pid = -1;
    m->upgrade_began = clock_mono_ns();
    if (err == 0) {
        fflush(NULL);
        pid = fork();
        err = pid < 0 ? -errno : 0;
        if (pid == 0) {
            upgrade_exec_worker(m, self, there, c->bank);
            _exit(127);
        }
        close(there);
        if (pid < 0)
            close(here);
    }
    if (err < 0) {
        upgrade_failed(m, weir_strerror(err));
        return;
    }
    *c = (struct child){
        .life = LIFE_PREPARING,
        .pid = pid,
        .control = here,
        .bank = c->bank,
        .started_ns = m->upgrade_began,
    };
    upgrade_set(m, UPGRADE_PREPARING, PREPARE_NS);
    log_info("SIGUSR2: upgrade: starting %s", m->program);
}

/* The manager's own turn. Returns when exec failed: the old image goes on, with a new worker. */
static void upgrade_exec_manager(struct manager *m)
{
    struct handover h = handover_of(m);
    h.role = HANDOVER_MANAGER;
    h.bank = m->serving;
    for (size_t i = 0; i < LEDGER_BANKS; i++)
        h.child[i] = (struct handover_child){
            .pid = m->child[i].life != LIFE_NONE ? m->child[i].pid : 0,
            .control = m->child[i].control,
            .started_ns = m->child[i].started_ns,
            .retiring = m->child[i].life == LIFE_RETIRING,
        };
    fflush(NULL);
    int err = handover_give(&h, m->config);
    if (err == 0) {
        (void)execv(m->program, m->options->argv);
        err = -errno;
    }
    handover_keep(&h, m->config);
    log_error("upgrade: the manager stays as it was: %s: %s", m->program, weir_strerror(err));
}

static void upgrade_done(struct manager *m)
{
    struct ledger_life *life = ledger_life(m->ledger);
    struct child *c = coming(m);
    double ms = (double)(clock_mono_ns() - m->upgrade_began) / (double)NS_PER_MS;
    c->life = LIFE_RUNNING;
    c->beat = life->heartbeat[c->bank];
    m->serving = c->bank;
    m->upgrade = UPGRADE_NONE;
    m->failures = 0;
    life->worker_pid = (uint32_t)c->pid;
    life->worker_started_ns = c->started_ns;
    life->upgrades++;
    snprintf(life->last_upgrade, sizeof(life->last_upgrade), "done in %.0f ms", ms);
    log_info("upgrade %s: worker %ld serves", life->last_upgrade, (long)c->pid);
    upgrade_exec_manager(m);
}

/* A worker of this program takes the place of the new one, which died. */
static void upgrade_undo(struct manager *m)
{
    m->upgrade = UPGRADE_NONE;
    m->serving = coming(m)->bank;
    m->start_at = 0;
}

/* The old worker takes no more hosts, or is dead. */
static void upgrade_go(struct manager *m)
{
    if (coming(m)->life == LIFE_NONE) {
        upgrade_undo(m);
        return;
    }
    upgrade_set(m, UPGRADE_STARTING, START_NS);
    manager_tell(coming(m), WORKER_GO);
}

void manager_upgrade_hear(struct manager *m, struct child *c, unsigned char word)
{
    if (m->upgrade == UPGRADE_PREPARING && c == coming(m) && word == WORKER_PREPARED) {
        if (serving(m)->life == LIFE_NONE) { /* it just died: nobody is to be waited for */
            upgrade_go(m);
            return;
        }
        atomic_store(&ledger_share(m->ledger)->both, 1);
        upgrade_set(m, UPGRADE_RETIRING, RETIRE_NS);
        manager_tell(serving(m), WORKER_RETIRE);
    } else if (m->upgrade == UPGRADE_RETIRING && c == serving(m) && word == WORKER_RETIRE) {
        c->life = LIFE_RETIRING;
        upgrade_go(m);
    } else if (m->upgrade == UPGRADE_STARTING && c == coming(m) && word == WORKER_READY) {
        upgrade_done(m);
    }
}

bool manager_upgrade_died(struct manager *m, const struct child *c, const char *reason)
{
    if (c->life == LIFE_RETIRING) {
        atomic_store(&ledger_share(m->ledger)->both, 0);
        log_info("the worker of before the upgrade has ended: %s", reason);
        return strcmp(reason, "exit status 0") == 0;
    }
    if (m->upgrade == UPGRADE_NONE)
        return false;
    if (c->bank != m->serving) {
        enum upgrade at = m->upgrade;
        upgrade_failed(m, reason);
        if (at == UPGRADE_RETIRING) /* told so, the old worker will retire; upgrade_go follows */
            m->upgrade = UPGRADE_RETIRING;
        else if (at == UPGRADE_STARTING)
            upgrade_undo(m);
        return true;
    }
    if (m->upgrade == UPGRADE_RETIRING) {
        atomic_store(&ledger_share(m->ledger)->both, 0);
        upgrade_go(m);
    }
    return false;
}

bool manager_upgrade_bears(const struct manager *m)
{
    return m->upgrade == UPGRADE_RETIRING || m->upgrade == UPGRADE_STARTING;
}

void manager_upgrade_due(struct manager *m, uint64_t now_ns)
{
    if (m->upgrade == UPGRADE_NONE || now_ns < m->upgrade_by)
        return;
    struct child *late = m->upgrade == UPGRADE_RETIRING ? serving(m) : coming(m);
    log_error("upgrade: worker %ld does not get ready: killing it", (long)late->pid);
    upgrade_set(m, m->upgrade, PREPARE_NS); /* its death goes on from here */
    if (late->life != LIFE_NONE)
        (void)kill(late->pid, SIGKILL);
    else
        upgrade_failed(m, "a worker was lost");
}
