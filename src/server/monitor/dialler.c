/* SPDX-License-Identifier: Apache-2.0 */
/* Problem. Some gateways may not open connections outward; the server comes to them.
 *
 * Model. Each configured address is one of
 *
 *   WAITING --time is up--> CONNECTING --connected--> GIVEN
 *      ^                        | refused, 10 s         | handshake failed, session over
 *      +------------------------+-----------------------+
 *
 * GIVEN: the connection is a handshake's, then a session's, exactly as if the gateway had dialled:
 * roles, proofs and bounds are the same, and beyond this machine it is TLS or nothing (the gateway
 * begins it, whoever dialled). The wait is 0.5 s, doubled up to 10 s by each try of which
 * no session came. While no handshake is free the connection waits for the next try.
 *
 * Invariant: a dial is GIVEN from handshake_begin until dialler_over is called for it, once. */
#include "server/monitor/dialler.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "server/monitor/acceptor.h"

#define FIRST_NS (500 * NS_PER_MS)
#define DOUBLINGS 5u
#define MOST_NS (10 * NS_PER_S)
#define CONNECT_NS (10 * NS_PER_S)
#define DEFAULT_PORT 7401u

enum dial_state { DIAL_WAITING, DIAL_CONNECTING, DIAL_GIVEN };

struct dial {
    struct dialler *dialler;
    struct addr addr;
    enum dial_state state;
    struct reactor_source source;
    struct reactor_timer timer;
    unsigned failures;
    bool said; /* that it cannot be reached, since it last could */
};

struct dialler {
    struct acceptor *acceptor;
    size_t count;
    struct dial dial[];
};

static void wait_for_next(struct dial *d)
{
    struct reactor *r = d->dialler->acceptor->reactor;
    uint64_t wait = FIRST_NS << (d->failures < DOUBLINGS ? d->failures : DOUBLINGS);
    d->failures++;
    d->state = DIAL_WAITING;
    reactor_timer_set(r, &d->timer, reactor_now(r) + (wait < MOST_NS ? wait : MOST_NS));
}

static void failed(struct dial *d, const char *why)
{
    struct acceptor *a = d->dialler->acceptor;
    if (d->source.fd >= 0) {
        reactor_remove(a->reactor, &d->source);
        close(d->source.fd);
        d->source.fd = -1;
    }
    monitor_count(a->m, dial_failures);
    if (!d->said)
        log_warning("monitor: the gateway at %s cannot be reached: %s; it is tried again",
                    d->addr.text, why);
    d->said = true;
    wait_for_next(d);
}

static void ready(struct reactor_source *s, uint32_t events)
{
    struct dial *d = container_of(s, struct dial, source);
    struct acceptor *a = d->dialler->acceptor;
    char address[ADDR_TEXT_SIZE];
    (void)events;
    int r = addr_connect_result(s->fd);
    if (r == 0 && list_empty(&a->free))
        r = WEIR_E_FULL;
    if (r < 0) {
        failed(d, weir_strerror(r));
        return;
    }
    int fd = s->fd;
    reactor_remove(a->reactor, s);
    reactor_timer_clear(a->reactor, &d->timer);
    s->fd = -1;
    d->state = DIAL_GIVEN;
    if (addr_peer_host(fd, address, sizeof(address)) < 0)
        snprintf(address, sizeof(address), "%s", d->addr.text);
    struct handshake *h = container_of(a->free.next, struct handshake, link);
    h->dial = (size_t)(d - d->dialler->dial) + 1;
    handshake_begin(h, fd, address, !addr_is_local(&d->addr));
}

static void begin(struct dial *d)
{
    struct acceptor *a = d->dialler->acceptor;
    monitor_count(a->m, dials);
    d->state = DIAL_CONNECTING;
    d->source.fd = addr_connect(&d->addr);
    if (d->source.fd < 0) {
        int e = d->source.fd;
        d->source.fd = -1;
        failed(d, weir_strerror(e));
        return;
    }
    int r = reactor_add(a->reactor, &d->source, EPOLLOUT);
    if (r < 0)
        failed(d, weir_strerror(r));
    else
        reactor_timer_set(a->reactor, &d->timer, reactor_now(a->reactor) + CONNECT_NS);
}

static void timer(struct reactor_timer *t, uint64_t now)
{
    struct dial *d = container_of(t, struct dial, timer);
    (void)now;
    weir_assert(d->state != DIAL_GIVEN);
    if (d->state == DIAL_WAITING)
        begin(d);
    else
        failed(d, "no answer within 10 s");
}

void dialler_over(struct dialler *d, size_t dial, bool stood)
{
    if (dial == 0)
        return;
    weir_assert(dial <= d->count);
    struct dial *it = &d->dial[dial - 1];
    weir_assert(it->state == DIAL_GIVEN);
    if (stood) {
        it->failures = 0;
        it->said = false;
    }
    wait_for_next(it);
}

struct dialler *dialler_new(struct acceptor *a)
{
    const struct server_config *c = a->m->config;
    struct dialler *d = calloc(1, sizeof(*d) + c->gateway_count * sizeof(d->dial[0]));
    if (d == NULL)
        return NULL;
    d->acceptor = a;
    for (size_t i = 0; i < c->gateway_count; i++) {
        struct dial *it = &d->dial[d->count++];
        const char *expected;
        it->dialler = d;
        it->source = (struct reactor_source){.fd = -1, .ready = ready};
        it->timer.fire = timer;
        int r = addr_parse(c->gateways[i], DEFAULT_PORT, &it->addr, &expected);
        weir_assert(r == 0); /* server_config_check has tried it */
        reactor_timer_set(a->reactor, &it->timer, reactor_now(a->reactor));
    }
    return d;
}

void dialler_free(struct dialler *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < d->count; i++) {
        struct dial *it = &d->dial[i];
        reactor_timer_clear(d->acceptor->reactor, &it->timer);
        if (it->source.fd < 0)
            continue;
        reactor_remove(d->acceptor->reactor, &it->source);
        close(it->source.fd);
    }
    free(d);
}
