/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a server of two dozen threads must come up in an order in which nobody writes to one
 * that is not there, and go down so that what was decided is still written.
 *
 * Model: the mailboxes are made first, for as many threads as may ever run; a thread is started
 * with its mailbox and noted with its rank. Order of end: those that bring work in first, the
 * store's writer last. Each stage gets MSG_STOP and answers it; a thread that does not answer in
 * 10 s is named, and the process ends all the same: all that was confirmed is on disk already. The
 * finder has 2 s, and is left inside D-Bus.
 *
 * Invariants:
 *  1. running[0 .. running_count) are started and not joined, but for those that are `stopped`.
 *  2. Pairs and SLA processes that were started stay until the end. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "config.h"
#include "server/daemon.h"
#include "server/msg.h"

#define STOP_TIMEOUT_NS (10 * NS_PER_S)
/* The finder has nothing to put in order, and may be waiting inside D-Bus. */
#define FINDER_STOP_NS (2 * NS_PER_S)
/* A thread that spends longer than this on one message is named in the log, once a minute. */
#define STUCK_NS (5 * NS_PER_S)

/* Capacities: a mailbox holds a burst of one period from everyone who writes to it; the memory is
 * capacity x 104 bytes each, all of it together below 16 MiB at the defaults. Those of outbound
 * and services hold a whole second's polls or answers of ten thousand gateways; more would only be
 * older answers that the next ones say again. */
static struct mailbox *box(struct server *s, const char *name, size_t index, bool numbered,
                           size_t capacity, size_t tickets)
{
    char full[48]; /* cut to what the map shows by mailbox_new */
    if (numbered)
        snprintf(full, sizeof(full), "%s[%zu]", name, index);
    else
        snprintf(full, sizeof(full), "%s", name);
    return mailbox_new(s->threads.set, full, capacity, tickets);
}

int stages_make_mailboxes(struct server *s)
{
    struct threads *t = &s->threads;
    t->queued = calloc(s->config.max_gateways, sizeof(*t->queued));
    t->pairs = s->config.pairs;
    t->services_count = t->services_at_start = s->config.sla_processes;
    t->readers = s->config.readers;
    t->set = mailbox_set_new(THREADS_MAX + 1);
    if (t->set == NULL)
        return -ENOMEM;
    t->trail = trail_new(s->config.max_gateways);
    bool ok = t->trail != NULL && t->queued != NULL;
    ok = ok && (t->main = box(s, "main", 0, false, 256, 128)) != NULL;
    ok = ok && (t->acceptor = box(s, "acceptor", 0, false, 2048, 1024)) != NULL;
#if HAVE_AVAHI
    if (s->config.dns_sd)
        ok = ok && (t->finder = box(s, "finder", 0, false, 16, 2)) != NULL;
#endif
    ok = ok && (t->app = box(s, "app", 0, false, 8192, 2048)) != NULL;
    ok = ok && (t->resource = box(s, "resource", 0, false, 1024, 64)) != NULL;
    ok = ok && (t->store_writer = box(s, "store.writer", 0, false, 8192, 64)) != NULL;
    for (size_t i = 0; ok && i < THREADS_MAX_PAIRS; i++) {
        ok = (t->inbound[i] = box(s, "inbound", i, true, 4096, 64)) != NULL;
        ok = ok && (t->outbound[i] = box(s, "outbound", i, true, 16384, 64)) != NULL;
    }
    for (size_t i = 0; ok && i < THREADS_MAX_SERVICES; i++)
        ok = (t->services[i] = box(s, "services", i, true, 16384, 256)) != NULL;
    for (size_t i = 0; ok && i < t->readers; i++)
        ok = (t->store_reader[i] = box(s, "store.reader", i, true, 1024, 64)) != NULL;
    return ok ? 0 : -ENOMEM;
}

static int start(struct server *s, enum rank rank, struct mailbox *box, thread_main *body,
                 void *arg)
{
    struct running *r = &s->running[s->running_count];
    r->box = box;
    r->rank = rank;
    struct mailbox_stats st;
    mailbox_stats(s->threads.set, mailbox_id(box), &st);
    int e = pthread_create(&r->thread, NULL, body, arg);
    if (e != 0)
        return -e;
    st.name[15] = '\0'; /* what the kernel shows */
    pthread_setname_np(r->thread, st.name);
    s->running_count++;
    return 0;
}

/* @thread was started last; keep it on the processor of its pair. */
static void pin(struct server *s, size_t pair)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;
    if (!s->config.pin || cpus < 1)
        return;
    CPU_ZERO(&set);
    CPU_SET(pair % (size_t)cpus, &set);
    int e = pthread_setaffinity_np(s->running[s->running_count - 1].thread, sizeof(set), &set);
    if (e != 0)
        log_warning("a thread of pair %zu cannot be pinned: %s", pair, weir_strerror(-e));
}

int stages_start_pairs(struct server *s)
{
    struct threads *t = &s->threads;
    int r = 0;
    for (size_t i = s->pairs_started; r == 0 && i < s->config.pairs; i++) {
        s->pair[i] = (struct monitor_thread){.monitor = s->monitor, .pair = i};
        r = start(s, RANK_OUT, t->outbound[i], monitor_outbound_main, &s->pair[i]);
        if (r == 0)
            pin(s, i);
        if (r == 0)
            r = start(s, RANK_IN, t->inbound[i], monitor_inbound_main, &s->pair[i]);
        if (r == 0)
            pin(s, i);
        s->pairs_started += r == 0;
    }
    /* Before they run: what is changed while they read documents is told to them as well. */
    if (s->config.sla_processes > t->services_count)
        t->services_count = s->config.sla_processes;
    for (size_t i = s->sla_started; r == 0 && i < s->config.sla_processes; i++) {
        s->sla[i] = (struct sla_thread){
            .config = &s->config, .threads = t, .index = i,
            .updates = monitor_update_slab(s->monitor, i)};
        r = start(s, RANK_SLA, t->services[i], sla_main, &s->sla[i]);
        if (r == 0)
            pin(s, i % s->config.pairs);
        s->sla_started += r == 0;
    }
    /* Those that are no longer needed stay, and answer that they have nothing. */
    t->pairs = s->pairs_started;
    t->services_count = s->sla_started;
    return r;
}

int stages_start(struct server *s)
{
    struct threads *t = &s->threads;
    s->acceptor = (struct monitor_thread){.monitor = s->monitor};
    int r = start(s, RANK_ACCEPTOR, t->acceptor, monitor_acceptor_main, &s->acceptor);
#if HAVE_AVAHI
    s->finder = s->acceptor;
    if (r == 0 && t->finder != NULL)
        r = start(s, RANK_FINDER, t->finder, monitor_finder_main, &s->finder);
#endif
    s->resource = (struct resource_thread){
        .config = &s->config, .threads = t, .keys = s->probe_keys};
    r = r < 0 ? r : start(s, RANK_RESOURCE, t->resource, resource_main, &s->resource);
    if (r == 0)
        s->probe_keys = NULL; /* the thread's */
    r = r < 0 ? r : stages_start_pairs(s);
    r = r < 0 ? r : start(s, RANK_APP, t->app, app_main, s->app);
    for (size_t i = 0; r == 0 && i < t->readers; i++) {
        s->reader[i] = (struct store_thread){.store = s->store, .threads = t, .index = i};
        r = start(s, RANK_READER, t->store_reader[i], store_reader_main, &s->reader[i]);
    }
    s->writer = (struct store_thread){.store = s->store, .threads = t};
    return r < 0 ? r : start(s, RANK_WRITER, t->store_writer, store_writer_main, &s->writer);
}

static bool wait_stopped(struct server *s, struct running *r, uint64_t ticket, uint64_t deadline)
{
    struct mailbox *me = s->threads.main;
    while (clock_mono_ns() < deadline) {
        struct msg m;
        while (mailbox_take(me, &m)) {
            bool mine = m.is_reply && m.ticket == ticket;
            msg_release(&m);
            if (mine) {
                pthread_join(r->thread, NULL);
                return true;
            }
        }
        if (!mailbox_drained(me)) {
            struct pollfd p = {.fd = mailbox_fd(me), .events = POLLIN};
            poll(&p, 1, 100);
        }
    }
    return false;
}

static bool stop_thread(struct server *s, struct running *r)
{
    struct msg m = {.kind = MSG_STOP};
    uint64_t ticket = 0;
    bool finder = r->rank == RANK_FINDER;
    uint64_t deadline = clock_mono_ns() + (finder ? FINDER_STOP_NS : STOP_TIMEOUT_NS);
    while (mailbox_ask(s->threads.main, r->box, &m, STOP_TIMEOUT_NS, clock_mono_ns(), &ticket) <
               0 &&
           clock_mono_ns() < deadline)
        usleep(1000); /* main has nothing else to do at the end */
    if (ticket != 0 && wait_stopped(s, r, ticket, deadline)) {
        r->stopped = true;
        return true;
    }
    if (finder) {
        log_warning("D-Bus does not answer the finder, which is left behind");
        s->finder_left = true;
        return true;
    }
    struct mailbox_stats st;
    mailbox_stats(s->threads.set, mailbox_id(r->box), &st);
    log_error("thread %s did not end within 10 s", st.name);
    return false;
}

/* One after the other: each may still post to those that end after it. */
bool stages_stop(struct server *s)
{
    bool all = true;
    for (int rank = 0; rank < RANK_COUNT; rank++) {
        for (size_t i = 0; i < s->running_count; i++) {
            if (s->running[i].rank == (enum rank)rank)
                all = stop_thread(s, &s->running[i]) && all;
        }
    }
    return all;
}

void stages_watch(struct server *s, uint64_t now_ns)
{
    if (now_ns - s->stuck_said_ns < 60 * NS_PER_S && s->stuck_said_ns != 0)
        return;
    for (size_t i = 0; i < mailbox_set_count(s->threads.set); i++) {
        struct mailbox_stats st;
        mailbox_stats(s->threads.set, i, &st);
        if (st.busy_since_ns == 0 || st.busy_since_ns + STUCK_NS > now_ns)
            continue;
        log_warning("thread %s has been busy with one message for %llu s; %zu wait", st.name,
                    (unsigned long long)((now_ns - st.busy_since_ns) / NS_PER_S), st.depth);
        s->stuck_said_ns = now_ns;
    }
}
