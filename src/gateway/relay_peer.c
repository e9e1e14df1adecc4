/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that are gone without a word.
 *
 * Problem: a machine that loses its power or its network says nothing. On a silent connection the
 * kernel's keep-alive asks, but not while data is under way: then only the limit of retransmission
 * counts, about a quarter of an hour, for which a host would wait and a slot in the target's queue
 * would be taken. TCP_USER_TIMEOUT is no remedy: it also ends connections of peers that are well
 * but do not read for so long (a host that is paused, a target that is stuck), and theirs is to be
 * waited for.
 *
 * Model: in turn, some connections each quarter of a second so that all are looked at four times
 * within peer-timeout, the kernel is asked what it knows (addr_peer_gone): a peer is gone when it
 * has acknowledged nothing for peer-timeout although asked more than once, by retransmission or by
 * a probe of its closed window. A peer that does not read still answers probes, and so is not gone.
 * The side then ends as with any other error, named host-silent or target-silent.
 *
 * Bounds: one system call a side and look; 4 looks a connection and peer-timeout. */
#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "gateway/relay_conn.h"

#define RELAY_PEER_TICK_NS (250 * NS_PER_MS)
#define RELAY_PEER_LOOKS 4u

static void relay_side_look(struct relay_side *s, uint64_t timeout_ns)
{
    if (!s->open || s->eof || !addr_peer_gone(s->source.fd, timeout_ns))
        return;
    s->error = -ETIMEDOUT;
    s->eof = s->dead = s->hangup = true;
    reactor_defer(s->conn->relay->reactor, &s->conn->work);
}

static void relay_peer_look(struct relay_conn *c)
{
    switch (c->state) {
    case RELAY_TRANSMITTING:
    case RELAY_DRAINING:
        relay_side_look(&c->host, c->relay->config->peer_timeout_ns);
        relay_side_look(&c->target, c->relay->config->peer_timeout_ns);
        return;
    case RELAY_CONNECTING: /* bounded by handshake-timeout */
    case RELAY_NEGOTIATING:
    case RELAY_CLOSED:
    case RELAY_STATE_COUNT:
        return;
    }
}

static void relay_peer_fire(struct reactor_timer *t, uint64_t now_ns)
{
    struct relay *r = container_of(t, struct relay, peer_timer);
    uint64_t ticks = r->config->peer_timeout_ns / RELAY_PEER_LOOKS / RELAY_PEER_TICK_NS;
    uint64_t n = ticks > 0 ? (r->counts->active + ticks - 1) / ticks : r->counts->active;
    for (; n > 0 && !list_empty(&r->live); n--) {
        struct list *l = list_pop_front(&r->live);
        list_push_back(&r->live, l);
        relay_peer_look(container_of(l, struct relay_conn, link));
    }
    reactor_timer_set(r->reactor, t, now_ns + RELAY_PEER_TICK_NS);
}

void relay_peer_start(struct relay *r)
{
    r->peer_timer.fire = relay_peer_fire;
    reactor_timer_set(r->reactor, &r->peer_timer,
                      reactor_now_fresh(r->reactor) + RELAY_PEER_TICK_NS);
}

void relay_peer_stop(struct relay *r)
{
    reactor_timer_clear(r->reactor, &r->peer_timer);
}
