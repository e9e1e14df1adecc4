/* SPDX-License-Identifier: Apache-2.0 */
/* The performance monitor as it is, with threads that fold and poll in the place of the SLA
 * services.
 *
 * The store's mailboxes are there and nobody answers: the acceptor then knows the local key only,
 * which is what the played gateways prove. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "gw_serve.h"
#include "server/monitor/monitor.h"
#include "server/monitor/session.h"
#include "server/msg.h"
#include "server/services/controls.h"
#include "server/threads.h"

struct pair_server {
    struct serve *serve;
    struct threads threads;
    struct server_config config;
    struct monitor *monitor;
};

struct fold {
    struct pair_server *server;
    struct mailbox *box;
    struct calendar *calendar; /* by slot of the session, as far as this process has it */
    uint64_t *session;         /* by slot; 0: none */
    uint16_t *pair;
    uint32_t *at;
};

static void poll_now(struct fold *f, uint32_t slot, uint64_t now)
{
    const struct threads *t = &f->server->threads;
    struct poll_request p;
    serve_poll(f->server->serve, f->at[slot], now, &p.seq, &p.acked);
    struct msg m = {.kind = MSG_SEND_POLL, .arg = {f->session[slot], p.seq, p.acked}};
    /* When it fails the closed loop of this gateway stops; the figures would show it. */
    (void)mailbox_post(f->box, t->outbound[f->pair[slot]], &m);
}

static void poll_later(struct fold *f, uint32_t slot, uint64_t now)
{
    uint64_t due = serve_due(f->server->serve, f->at[slot], now);
    if (f->calendar == NULL)
        poll_now(f, slot, now);
    else
        calendar_put(f->calendar, slot, due);
}

static void message(struct fold *f, struct msg *m, uint64_t now)
{
    struct serve *s = f->server->serve;
    if (m->kind == MSG_GATEWAY_UP) {
        const struct gateway_hello *h = m->body;
        uint32_t slot = session_slot(h->session);
        f->session[slot] = h->session;
        f->pair[slot] = h->pair;
        f->at[slot] = serve_come(s, slot);
        poll_later(f, slot, now);
    } else if (m->kind == MSG_REPORT) {
        const struct report *r = m->body;
        uint32_t slot = session_slot(r->session);
        if (f->session[slot] != r->session)
            return;
        serve_report(s, f->at[slot], r, now);
        if (f->calendar == NULL)
            poll_later(f, slot, now);
    } else if (m->kind == MSG_GATEWAY_DOWN) {
        uint32_t slot = session_slot(m->arg[0]);
        if (f->session[slot] == m->arg[0])
            serve_gone(s, f->at[slot]);
        f->session[slot] = 0;
    }
}

static void due(struct fold *f, uint64_t now)
{
    int64_t slot;
    while (f->calendar != NULL && (slot = calendar_take(f->calendar, now)) >= 0) {
        if (f->session[slot] == 0)
            continue;
        poll_now(f, (uint32_t)slot, now);
        calendar_put(f->calendar, (uint32_t)slot,
                     serve_due(f->server->serve, f->at[slot], now));
    }
}

static void *fold_main(void *arg)
{
    struct fold *f = arg;
    struct msg m;
    for (;;) {
        mailbox_hold(f->box); /* who posts many wakes once, as inbound does */
        while (mailbox_take(f->box, &m)) {
            message(f, &m, clock_mono_ns());
            msg_release(&m);
        }
        due(f, clock_mono_ns());
        mailbox_let_go(f->box);
        if (mailbox_drained(f->box))
            continue;
        struct pollfd p = {.fd = mailbox_fd(f->box), .events = POLLIN};
        (void)poll(&p, 1, f->calendar != NULL ? 1 : -1);
    }
    return NULL;
}

static struct mailbox *box(struct pair_server *p, const char *name, size_t i, size_t capacity)
{
    char full[32];
    snprintf(full, sizeof(full), "%s[%zu]", name, i);
    struct mailbox *m = mailbox_new(p->threads.set, full, capacity, 64);
    weir_assert(m != NULL);
    return m;
}

static void mailboxes(struct pair_server *p)
{
    struct threads *t = &p->threads;
    t->pairs = p->config.pairs;
    t->services_count = p->config.sla_processes;
    t->readers = 1;
    t->set = mailbox_set_new(64);
    t->main = box(p, "main", 0, 256);
    t->acceptor = box(p, "acceptor", 0, 2048);
    t->app = box(p, "app", 0, 256);
    t->resource = box(p, "resource", 0, 256);
    t->store_writer = box(p, "store.writer", 0, 256);
    t->store_reader[0] = box(p, "store.reader", 0, 256);
    for (size_t i = 0; i < t->pairs; i++) {
        t->inbound[i] = box(p, "inbound", i, 4096);
        t->outbound[i] = box(p, "outbound", i, 16384);
    }
    for (size_t i = 0; i < t->services_count; i++)
        t->services[i] = box(p, "services", i, 16384);
}

static void start(const char *name, size_t i, thread_main *body, void *arg)
{
    pthread_t thread;
    char full[32];
    int e = pthread_create(&thread, NULL, body, arg);
    weir_assert(e == 0);
    snprintf(full, sizeof(full), "%s[%zu]", name, i);
    full[15] = '\0';
    pthread_setname_np(thread, full);
}

static void start_fold(struct pair_server *p, size_t i)
{
    struct fold *f = calloc(1, sizeof(*f));
    uint32_t slots = p->serve->o.gateways;
    weir_assert(f != NULL);
    *f = (struct fold){.server = p,
                       .box = p->threads.services[i],
                       .session = calloc(slots, sizeof(*f->session)),
                       .pair = calloc(slots, sizeof(*f->pair)),
                       .at = calloc(slots, sizeof(*f->at))};
    weir_assert(f->session != NULL && f->pair != NULL && f->at != NULL);
    if (p->serve->o.period_ms > 0)
        f->calendar = calendar_new(slots, p->serve->o.period_ms);
    start("services", i, fold_main, f);
}

int serve_pair(struct serve *s)
{
    static struct pair_server p;
    static struct monitor_thread of[16];
    char words[256] = "";
    p.serve = s;
    server_config_init(&p.config);
    snprintf(p.config.state_dir, sizeof(p.config.state_dir), "%s", s->o.state_dir);
    snprintf(p.config.control_listen[0], sizeof(p.config.control_listen[0]), "%s", s->o.listen);
    p.config.max_gateways = s->o.gateways;
    p.config.pairs = s->o.pairs;
    p.config.sla_processes = s->o.processes;
    mailboxes(&p);
    if (monitor_open(&p.config, &p.threads, &p.monitor, words, sizeof(words)) < 0) {
        fprintf(stderr, "gwserve: %s\n", words);
        return 1;
    }
    s->monitor = p.monitor;
    for (size_t i = 0; i < s->o.pairs; i++) {
        of[i] = (struct monitor_thread){.monitor = p.monitor, .pair = i};
        start("inbound", i, monitor_inbound_main, &of[i]);
        start("outbound", i, monitor_outbound_main, &of[i]);
    }
    for (size_t i = 0; i < s->o.processes; i++)
        start_fold(&p, i);
    start("acceptor", 0, monitor_acceptor_main, &of[0]);
    printf("listening on %s\n", monitor_address(p.monitor));
    fflush(stdout);
    for (;;)
        (void)poll(NULL, 0, -1);
}
