/* SPDX-License-Identifier: Apache-2.0 */
/* Problem. Some gateways may not open connections outward; the server comes to them. server.conf
 * lists their addresses, or they are announced on the network, by whom nobody knows.
 *
 * Model. Each address is one of
 *
 *   WAITING --time is up--> CONNECTING --connected--> HANDSHAKE --it stands--> SESSION
 *      ^                        | refused, 10 s           | failed               | over
 *      +------------------------+-------------------------+----------------------+
 *
 * In HANDSHAKE and SESSION the connection is a handshake's, then a session's, exactly as if the
 * gateway had dialled: roles, proofs and bounds are the same (over TLS it is the gateway that
 * begins it). The wait is 0.5 s, doubled by each try of which no session came, up to 10 s for those
 * that are listed and a minute for those that are announced. While no handshake is free the
 * connection waits for the next try.
 *
 * An announced address takes a free place, and gives it back when it is announced no longer: at
 * once, or when its handshake or session is over (the session of a gateway that proved its key does
 * not end because an announcement did). One that is listed too is dialled once, as listed.
 *
 * Invariants:
 *  1. A dial is in HANDSHAKE or SESSION from handshake_begin until dialler_over is called for it,
 *     once.
 *  2. At most FOUND_AT_ONCE of the announced ones connect or shake hands: however many strangers
 *     announce themselves and say nothing, the handshakes of others find room.
 *  3. Off loopback what was dialled begins with TLS, as what dials in from there does. */
#include "server/monitor/dialler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "server/monitor/acceptor.h"
#include "server/monitor/found.h"

#define FIRST_NS (500 * NS_PER_MS)
#define DOUBLINGS 7u
#define MOST_NS (10 * NS_PER_S)
#define FOUND_MOST_NS (60 * NS_PER_S)
#define FOUND_AT_ONCE 16u
#define TURN_NS NS_PER_S
#define CONNECT_NS (10 * NS_PER_S)
#define DEFAULT_PORT 7401u

#define DIAL_STATE_TABLE(X)                                                                        \
    X(FREE, "free")                                                                                \
    X(WAITING, "waiting")                                                                          \
    X(CONNECTING, "connecting")                                                                    \
    X(HANDSHAKE, "handshake")                                                                      \
    X(SESSION, "session")

enum dial_state {
#define X(name, label) DIAL_##name,
    DIAL_STATE_TABLE(X)
#undef X
};

static const char *const state_names[] = {
#define X(name, label) label,
    DIAL_STATE_TABLE(X)
#undef X
};

struct dial {
    struct dialler *dialler;
    struct addr addr;
    enum dial_state state;
    struct reactor_source source;
    struct reactor_timer timer;
    unsigned failures;
    bool said;            /* that it cannot be reached, since it last could */
    bool found;           /* announced; its place is free when it is so no longer */
    bool announced;       /* now */
    char name[NAME_SIZE]; /* as announced */
};

struct dialler {
    struct acceptor *acceptor;
    size_t count;
    size_t found_busy; /* of those announced: connecting or shaking hands */
    struct dial dial[];
};

/* Announced ones that keep a socket without having proved anything are counted. */
static void set_state(struct dial *d, enum dial_state to)
{
    bool was = d->state == DIAL_CONNECTING || d->state == DIAL_HANDSHAKE;
    bool is = to == DIAL_CONNECTING || to == DIAL_HANDSHAKE;
    if (d->found && was && !is)
        d->dialler->found_busy--;
    if (d->found && is && !was)
        d->dialler->found_busy++;
    weir_assert(d->dialler->found_busy <= FOUND_AT_ONCE);
    d->state = to;
}

static void drop_socket(struct dial *d)
{
    if (d->source.fd < 0)
        return;
    reactor_remove(d->dialler->acceptor->reactor, &d->source);
    close(d->source.fd);
    d->source.fd = -1;
}

/* Nobody announces it any more. */
static void give_back(struct dial *d)
{
    weir_assert(d->found);
    drop_socket(d);
    reactor_timer_clear(d->dialler->acceptor->reactor, &d->timer);
    set_state(d, DIAL_FREE);
    d->found = false;
    monitor_count_down(d->dialler->acceptor->m, found_now);
}

static void wait_for_next(struct dial *d)
{
    struct reactor *r = d->dialler->acceptor->reactor;
    if (d->found && !d->announced) {
        give_back(d);
        return;
    }
    uint64_t wait = FIRST_NS << (d->failures < DOUBLINGS ? d->failures : DOUBLINGS);
    uint64_t most = d->found ? FOUND_MOST_NS : MOST_NS;
    d->failures++;
    set_state(d, DIAL_WAITING);
    reactor_timer_set(r, &d->timer, reactor_now(r) + (wait < most ? wait : most));
}

static void failed(struct dial *d, const char *why)
{
    struct acceptor *a = d->dialler->acceptor;
    drop_socket(d);
    monitor_count(a->m, dial_failures);
    /* Of those announced anybody can make any number: `weir get dials` shows them. */
    if (!d->said && !d->found)
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
    set_state(d, DIAL_HANDSHAKE);
    if (addr_peer_host(fd, address, sizeof(address)) < 0)
        snprintf(address, sizeof(address), "%s", d->addr.text);
    struct handshake *h = container_of(a->free.next, struct handshake, link);
    h->dial = (size_t)(d - d->dialler->dial) + 1;
    handshake_begin(h, fd, address, !addr_is_local(&d->addr));
}

static void begin(struct dial *d)
{
    struct acceptor *a = d->dialler->acceptor;
    if (d->found && d->dialler->found_busy == FOUND_AT_ONCE) {
        reactor_timer_set(a->reactor, &d->timer, reactor_now(a->reactor) + TURN_NS);
        return;
    }
    monitor_count(a->m, dials);
    set_state(d, DIAL_CONNECTING);
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
    weir_assert(d->state == DIAL_WAITING || d->state == DIAL_CONNECTING);
    if (d->state == DIAL_WAITING)
        begin(d);
    else
        failed(d, "no answer within 10 s");
}

static struct dial *dial_at(struct dialler *d, size_t dial)
{
    weir_assert(dial <= d->count);
    return &d->dial[dial - 1];
}

void dialler_stands(struct dialler *d, size_t dial)
{
    if (dial == 0)
        return;
    struct dial *it = dial_at(d, dial);
    weir_assert(it->state == DIAL_HANDSHAKE);
    set_state(it, DIAL_SESSION);
    it->failures = 0;
    it->said = false;
}

void dialler_over(struct dialler *d, size_t dial)
{
    if (dial == 0)
        return;
    struct dial *it = dial_at(d, dial);
    weir_assert(it->state == DIAL_HANDSHAKE || it->state == DIAL_SESSION);
    wait_for_next(it);
}

size_t dialler_places(const struct server_config *c)
{
    return c->gateway_count + (c->dns_sd ? FOUND_MAX : 0);
}

static void dial_begin(struct dial *d, const char *address)
{
    struct reactor *r = d->dialler->acceptor->reactor;
    const char *expected;
    int e = addr_parse(address, DEFAULT_PORT, &d->addr, &expected);
    weir_assert(e == 0); /* server_config_check has tried it, or found_address written it */
    d->failures = 0;
    d->said = false;
    d->state = DIAL_WAITING;
    reactor_timer_set(r, &d->timer, reactor_now(r));
}

static struct dial *dial_of(struct dialler *d, const char *address, struct dial **ret_free)
{
    *ret_free = NULL;
    for (size_t i = 0; i < d->count; i++) {
        struct dial *it = &d->dial[i];
        if (it->state == DIAL_FREE)
            *ret_free = it;
        else if (strcmp(it->addr.text, address) == 0)
            return it;
    }
    return NULL;
}

void dialler_found(struct dialler *d, const struct found_list *list)
{
    weir_assert(d->acceptor->m->config->dns_sd);
    for (size_t i = 0; i < d->count; i++)
        d->dial[i].announced = false;
    for (size_t i = 0; i < list->count; i++) {
        const struct found *f = &list->item[i];
        struct dial *room, *it = dial_of(d, f->address, &room);
        if (it == NULL && room == NULL)
            continue; /* sessions of some announced no longer stand; the next change finds room */
        if (it == NULL) {
            it = room;
            it->found = true;
            dial_begin(it, f->address);
            monitor_count_add(d->acceptor->m, found_now, 1);
        }
        it->announced = true;
        memcpy(it->name, f->name, sizeof(it->name));
    }
    for (size_t i = 0; i < d->count; i++) {
        struct dial *it = &d->dial[i];
        if (it->found && !it->announced && it->state != DIAL_HANDSHAKE &&
            it->state != DIAL_SESSION)
            give_back(it);
    }
}

struct dialler *dialler_new(struct acceptor *a)
{
    const struct server_config *c = a->m->config;
    size_t places = dialler_places(c);
    struct dialler *d = calloc(1, sizeof(*d) + places * sizeof(d->dial[0]));
    if (d == NULL)
        return NULL;
    d->acceptor = a;
    d->count = places;
    for (size_t i = 0; i < places; i++) {
        struct dial *it = &d->dial[i];
        it->dialler = d;
        it->source = (struct reactor_source){.fd = -1, .ready = ready};
        it->timer.fire = timer;
        if (i < c->gateway_count)
            dial_begin(it, c->gateways[i]);
    }
    return d;
}

json_t *dialler_json(const struct dialler *d)
{
    json_t *all = json_array();
    for (size_t i = 0; i < d->count; i++) {
        const struct dial *it = &d->dial[i];
        if (it->state == DIAL_FREE)
            continue;
        json_array_append_new(
            all, json_pack("{s:s, s:s, s:s?, s:s, s:i}", "address", it->addr.text, "source",
                           it->found ? "discovered" : "listed", "name",
                           it->name[0] != '\0' ? it->name : NULL, "state",
                           state_names[it->state], "failures", (int)it->failures));
    }
    return all;
}

void dialler_free(struct dialler *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < d->count; i++) {
        reactor_timer_clear(d->acceptor->reactor, &d->dial[i].timer);
        drop_socket(&d->dial[i]);
    }
    free(d);
}
