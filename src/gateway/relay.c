/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: hosts speak NBD to listeners of ours as if these were their storage; each of their I/Os
 * must be metered, held when a limit says so, and otherwise cost next to nothing.
 *
 * Model: one host connection is joined to one target connection. This file owns what connections
 * share: listeners, the pool, the timer of the gate. Inside a round of the reactor, callbacks only
 * note what is ready; each connection's work then runs once, at the end of the round, with all that
 * came (drain, batch, act). docs/hot-path.md says what that work may and may not do.
 *
 * Invariants:
 *  1. A connection is in `live` from accept to relay_conn_close, then in `warm` or unmapped.
 *  2. The gate's timer is armed for gate_next_ns() whenever the loop waits.
 *  3. Nothing here waits: not for a target, a host, the link or a file.
 *
 * Memory, bounded by max_connections:
 *    sizeof(struct relay_conn)      1.3 MiB of address space, of which a connection touches
 *                                   what it uses: buffers (input, reply 320 KiB, hold 256),
 *                                   slots 1,024 x 320 B, runs 32 KiB, headers 32 KiB
 *  + while it negotiates            4 texts: 2 x 128 KiB in, 2 x 1 MiB out, at most
 *  = 1,024 connections (default)    at most 1.3 GiB, about 70 KiB each when idle,
 *  + hold-memory                    256 MiB: larger rings for the payload of held writes
 *  + once                           1.25 MiB that is read to and sent from (relay_lend).
 * After a connection ends its memory stays warm for the next one (RELAY_POOL_WARM of them) or goes
 * back to the system.
 *
 * What may fail: listening (at start only), accepting for want of descriptors (tried again in
 * 100 ms; the host waits in the backlog), memory for a connection (that host is closed). */
#include "gateway/relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/ledger.h"
#include "gateway/relay_conn.h"

#define RELAY_BACKLOG 1024
/* Hosts accepted by one listener in one round. */
#define RELAY_ACCEPT_BATCH 64
#define RELAY_ACCEPT_RETRY_NS (100 * NS_PER_MS)

static const char *const relay_close_labels[] = {
#define X(name, label, words) label,
    RELAY_CLOSE_TABLE(X)
#undef X
};

const char *relay_close_label(enum relay_close c)
{
    weir_assert((unsigned)c < RELAY_CLOSE_COUNT);
    return relay_close_labels[c];
}

/* --- pool --- */

static struct relay_conn *relay_conn_get(struct relay *r)
{
    struct list *l = list_pop_front(&r->warm);
    if (l) {
        r->warm_count--;
        struct relay_conn *c = container_of(l, struct relay_conn, link);
        memset(c, 0, offsetof(struct relay_conn, free_slots));
        return c;
    }
    void *p = mmap(NULL, sizeof(struct relay_conn), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    /* Idle connections touch a few small pages; huge ones would multiply them by 30. */
    (void)madvise(p, sizeof(struct relay_conn), MADV_NOHUGEPAGE);
    return p;
}

void relay_conn_put(struct relay *r, struct relay_conn *c)
{
    weir_assert(c->state == RELAY_CLOSED);
    list_remove(&c->link);
    weir_assert(r->counts->active > 0);
    r->counts->active--;
    if (r->warm_count < RELAY_POOL_WARM) {
        r->warm_count++;
        list_push_front(&r->warm, &c->link);
    } else {
        munmap(c, sizeof(*c));
    }
}

/* --- what is lent --- */

uint8_t *relay_lend(struct relay *r)
{
    if (r->lent_used > RELAY_LENT_SIZE - RELAY_REPLY_SIZE)
        reactor_flush(r->reactor);
    if (!reactor_sending(r->reactor))
        r->lent_used = 0;
    return r->lent + r->lent_used;
}

void relay_lent(struct relay *r, size_t n)
{
    weir_assert(n <= RELAY_REPLY_SIZE);
    r->lent_used += (n + 63) & ~(size_t)63;
}

/* --- the gate's timer --- */

void relay_gate_rearm(struct relay *r)
{
    uint64_t next = gate_next_ns(r->gate);
    /* Nothing waits for its turn while no window is on; then the tick's timer is not set either. */
    for (uint32_t i = 0; r->tick_timer.heap_index && i < r->config->target_count; i++) {
        uint64_t turn = sched_next_ns(stream_port(r->streams, i)->sched);
        next = turn < next ? turn : next;
    }
    if (next == UINT64_MAX)
        reactor_timer_clear(r->reactor, &r->gate_timer);
    else if (!r->gate_timer.heap_index || r->gate_timer.at_ns != next)
        reactor_timer_set(r->reactor, &r->gate_timer, next);
}

void relay_turns_run(struct relay *r, struct target *port, uint64_t now_ns)
{
    (void)r;
    if (!sched_pending(port->sched))
        return;
    for (struct sched_io *io; (io = sched_poll(port->sched, now_ns)) != NULL;)
        relay_host_release(container_of(io, struct relay_slot, turn));
}

static void relay_gate_run(struct relay *r)
{
    uint64_t now = reactor_now_fresh(r->reactor);
    bool entered = ledger_enter(r->share, r->bank);
    for (struct gate_io *io; (io = gate_poll(r->gate, now)) != NULL;)
        relay_host_pass_gate(container_of(io, struct relay_slot, io), now);
    ledger_leave(r->share, entered);
    bool on = false;
    for (uint32_t i = 0; i < r->config->target_count; i++) {
        struct target *port = stream_port(r->streams, i);
        relay_turns_run(r, port, now);
        on = on || port->on;
    }
    if (on && !r->tick_timer.heap_index)
        reactor_timer_set(r->reactor, &r->tick_timer, now + TARGET_TICK_NS);
    relay_gate_rearm(r);
}

/* Targets whose window is on learn; what it then has room for goes. */
static void relay_tick(struct reactor_timer *t, uint64_t now_ns)
{
    struct relay *r = container_of(t, struct relay, tick_timer);
    for (uint32_t i = 0; i < r->config->target_count; i++)
        target_tick(stream_port(r->streams, i), now_ns);
    relay_gate_run(r);
}

static void relay_gate_fire(struct reactor_timer *t, uint64_t now_ns)
{
    (void)now_ns;
    relay_gate_run(container_of(t, struct relay, gate_timer));
}

static void relay_kick_run(struct reactor_work *w)
{
    relay_gate_run(container_of(w, struct relay, kick));
}

void relay_kick(struct relay *r)
{
    reactor_defer(r->reactor, &r->kick);
}

/* --- listeners --- */

/* FNV-1a. */
static uint64_t relay_hash(const char *s)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *s; s++)
        h = (h ^ (uint8_t)*s) * UINT64_C(1099511628211);
    return h;
}

/* Connections of one host now. A walk, since accepting is rare beside I/O. */
static uint32_t relay_host_connections(const struct relay *r, const char *host, uint64_t hash)
{
    uint32_t n = 0;
    list_for_each(l, &r->live)
    {
        const struct relay_conn *c = container_of(l, struct relay_conn, link);
        n += c->host_hash == hash && strcmp(c->host_name, host) == 0;
    }
    return n;
}

static void relay_refuse(struct relay *r, int fd, enum relay_close why, const char *host)
{
    close(fd);
    r->counts->closed[why]++;
    log_info("connection of host %s refused: %s", host, relay_close_label(why));
}

static void relay_accepted(struct relay *r, const struct listener_config *l, int fd)
{
    char peer[NAME_SIZE], host[NAME_SIZE];
    r->counts->accepted++;
    if (addr_peer_host(fd, peer, sizeof(peer)) < 0) {
        /* It was reset between its arrival and now. */
        close(fd);
        r->counts->closed[RELAY_CLOSE_HOST_RESET]++;
        return;
    }
    name_escape(peer, strlen(peer), host);
    if (r->draining) {
        relay_refuse(r, fd, RELAY_CLOSE_DRAINING, host);
        return;
    }
    uint64_t hash = relay_hash(host);
    if (r->counts->active >= r->config->max_connections) {
        relay_refuse(r, fd, RELAY_CLOSE_CONNECTION_LIMIT, host);
        return;
    }
    if (relay_host_connections(r, host, hash) >= r->config->max_connections_per_host) {
        relay_refuse(r, fd, RELAY_CLOSE_HOST_CONNECTION_LIMIT, host);
        return;
    }
    struct relay_conn *c = relay_conn_get(r);
    if (!c) {
        relay_refuse(r, fd, RELAY_CLOSE_NO_MEMORY, host);
        return;
    }
    c->id = ++r->next_id;
    list_push_back(&r->live, &c->link);
    r->counts->active++;
    relay_conn_start(r, c, l, fd, host, hash);
}

static void relay_listener_work(struct reactor_work *w)
{
    struct relay_listener *l = container_of(w, struct relay_listener, work);
    struct relay *r = l->relay;
    for (int i = 0; i < RELAY_ACCEPT_BATCH; i++) {
        int fd = accept4(l->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            relay_accepted(r, l->config, fd);
            continue;
        }
        if (errno == EAGAIN)
            return;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warning("listener %s: cannot accept: %s; trying again", l->config->name,
                        weir_strerror(-errno));
            reactor_timer_set(r->reactor, &l->retry,
                              reactor_now_fresh(r->reactor) + RELAY_ACCEPT_RETRY_NS);
            return;
        }
        /* Anything else is the fate of that one connection (accept(2)). */
    }
    reactor_defer(r->reactor, &l->work);
}

static void relay_listener_ready(struct reactor_source *s, uint32_t epoll_events)
{
    struct relay_listener *l = container_of(s, struct relay_listener, source);
    (void)epoll_events;
    reactor_defer(l->relay->reactor, &l->work);
}

static void relay_listener_retry(struct reactor_timer *t, uint64_t now_ns)
{
    struct relay_listener *l = container_of(t, struct relay_listener, retry);
    (void)now_ns;
    reactor_defer(l->relay->reactor, &l->work);
}

int relay_listener_watch(struct relay_listener *l)
{
    if (relay_listener_pausable(l->config) && listen(l->source.fd, RELAY_BACKLOG) < 0)
        return -errno;
    return reactor_add(l->relay->reactor, &l->source, EPOLLIN);
}

void relay_listener_forget(struct relay_listener *l)
{
    reactor_remove(l->relay->reactor, &l->source);
    reactor_work_cancel(&l->work);
    reactor_timer_clear(l->relay->reactor, &l->retry);
}

void relay_listener_refuse_all(struct relay_listener *l)
{
    weir_assert(l->relay->draining);
    for (int i = 0; i < RELAY_BACKLOG; i++) {
        int fd = accept4(l->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        relay_accepted(l->relay, l->config, fd);
    }
}

int relay_listener_open(const struct listener_config *config)
{
    return addr_listen(&config->addr, RELAY_BACKLOG, config->unix_mode);
}

void relay_listener_unlink(const struct listener_config *config)
{
    if (!addr_is_unix(&config->addr))
        return;
    /* Leave no file behind that nobody answers. */
    const struct sockaddr_un *un = (const void *)&config->addr.ss;
    if (un->sun_path[0])
        (void)unlink(un->sun_path);
}

/* @fd: a listening socket (taken), or -1: open one. */
static int relay_listen(struct relay *r, const struct listener_config *config, int fd)
{
    struct relay_listener *l = &r->listeners[r->listener_count];
    l->relay = r;
    l->config = config;
    l->source.ready = relay_listener_ready;
    l->retry.fire = relay_listener_retry;
    reactor_work_init(&l->work, relay_listener_work);
    l->own = fd < 0;
    if (fd < 0)
        fd = relay_listener_open(config);
    if (fd < 0)
        return fd;
    l->source.fd = fd;
    l->paused = r->draining && relay_listener_pausable(config);
    int ret = l->paused ? 0 : relay_listener_watch(l);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    l->listening = true;
    r->listener_count++;
    return 0;
}

static void relay_unlisten(struct relay_listener *l)
{
    if (!l->listening)
        return;
    l->listening = false;
    relay_listener_forget(l);
    close(l->source.fd);
    l->source.fd = -1;
    if (l->own)
        relay_listener_unlink(l->config);
}

/* --- the relay --- */

int relay_new(struct reactor *r, const struct gateway_config *config, struct stream_table *streams,
              struct relay **ret, const char **ret_where)
{
    return relay_new_over(r, config, streams, NULL, ret, ret_where);
}

int relay_new_over(struct reactor *r, const struct gateway_config *config,
                   struct stream_table *streams, const int *listeners, struct relay **ret,
                   const char **ret_where)
{
    weir_assert(config->listener_count <= CONFIG_MAX_LISTENERS);
    struct relay *relay = aligned_alloc(_Alignof(struct relay), sizeof(*relay));
    if (!relay) {
        *ret_where = "";
        return -ENOMEM;
    }
    memset(relay, 0, sizeof(*relay));
    relay->reactor = r;
    relay->config = config;
    relay->streams = streams;
    relay->gate = stream_gate(streams);
    struct ledger *ledger = stream_ledger(streams);
    relay->counts = ledger_counts(ledger);
    relay->share = ledger_share(ledger);
    relay->bank = ledger_bank(ledger);
    uint64_t deadline;
    relay->draining = ledger_drain(ledger, &deadline) != 0;
    list_init(&relay->live);
    list_init(&relay->warm);
    relay->gate_timer.fire = relay_gate_fire;
    relay->tick_timer.fire = relay_tick;
    reactor_work_init(&relay->kick, relay_kick_run);
    reactor_work_init(&relay->handshake_round, relay_handshake_round);
    char words[1024];
    int loaded = relay_tls_load(relay, config, words, sizeof(words));
    if (loaded < 0) {
        log_error("TLS: %s", words);
        *ret_where = "";
        relay_free(relay);
        return loaded;
    }
    for (size_t i = 0; i < config->listener_count; i++) {
        int err = relay_listen(relay, &config->listeners[i], listeners ? listeners[i] : -1);
        if (err < 0) {
            *ret_where = config->listeners[i].name;
            relay_free(relay);
            return err;
        }
    }
    relay_peer_start(relay);
    certs_start(&relay->certs, r);
    *ret = relay;
    return 0;
}

void relay_retire(struct relay *r)
{
    for (size_t i = 0; i < r->listener_count; i++)
        relay_unlisten(&r->listeners[i]);
}

size_t relay_negotiating(const struct relay *r)
{
    size_t n = 0;
    list_for_each(l, &r->live)
    {
        const struct relay_conn *c = container_of(l, struct relay_conn, link);
        n += c->state == RELAY_CONNECTING || c->state == RELAY_NEGOTIATING;
    }
    return n;
}

void relay_close_negotiating(struct relay *r)
{
    list_for_each_safe(l, &r->live)
    {
        struct relay_conn *c = container_of(l, struct relay_conn, link);
        if (c->state == RELAY_CONNECTING || c->state == RELAY_NEGOTIATING)
            relay_conn_close(c, RELAY_CLOSE_DRAINED, NULL);
    }
}

void relay_stop(struct relay *r)
{
    for (size_t i = 0; i < r->listener_count; i++)
        relay_unlisten(&r->listeners[i]);
    list_for_each_safe(l, &r->live)
        relay_conn_stop(container_of(l, struct relay_conn, link));
}

void relay_free(struct relay *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->listener_count; i++)
        relay_unlisten(&r->listeners[i]);
    list_for_each_safe(l, &r->live)
        relay_conn_close(container_of(l, struct relay_conn, link), RELAY_CLOSE_SHUTDOWN, NULL);
    weir_assert(list_empty(&r->live));
    weir_assert(r->hold_memory == 0);
    for (struct list *l; (l = list_pop_front(&r->warm)) != NULL;)
        munmap(container_of(l, struct relay_conn, link), sizeof(struct relay_conn));
    reactor_timer_clear(r->reactor, &r->gate_timer);
    reactor_timer_clear(r->reactor, &r->tick_timer);
    relay_peer_stop(r);
    reactor_work_cancel(&r->kick);
    reactor_work_cancel(&r->handshake_round);
    certs_stop(&r->certs);
    relay_tls_free(r);
    free(r);
}

uint64_t relay_hold_memory(const struct relay *r)
{
    return r->hold_memory;
}

const struct relay_counts *relay_counts(const struct relay *r)
{
    return r->counts;
}

const struct certs *relay_certs(const struct relay *r)
{
    return &r->certs;
}

int relay_listener_text(const struct relay *r, size_t i, char *out, size_t size)
{
    weir_assert(i < r->listener_count);
    return addr_local_text(r->listeners[i].source.fd, out, size);
}
