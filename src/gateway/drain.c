/* SPDX-License-Identifier: Apache-2.0 */
/* A draining is a state, not an event: the ledger says which one is in force, and every worker sees
 * to it that it is so. Thus one that starts after a death, one that takes over in an upgrade and
 * one that retires meanwhile all do the same, each with the connections that it has.
 *
 *   TAKES HOSTS --since != 0--> DRAINED --deadline over--> DRAINED, closing what is idle
 *        ^--------------------------since 0--------------------------+
 *
 * Connections that are busy are never cut: one that is busy all the time stays, and people see how
 * many are left. */
#include "gateway/drain.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"

#define LOOK_NS (250 * NS_PER_MS)
/* While idle connections are being closed: one that pauses between two I/Os shall be met. */
#define CLOSE_NS (20 * NS_PER_MS)

static void drain_change(struct drain *d, uint64_t since)
{
    bool was = d->since != 0;
    d->since = since;
    d->owed = !relay_drain(d->relay, since != 0);
    if (since != 0 && !was)
        log_info("drained: no more hosts are taken, %llu connections go on",
                 (unsigned long long)relay_counts(d->relay)->active);
    else if (since == 0)
        log_info("no longer drained: hosts are taken again");
}

static void drain_look(struct reactor_timer *t, uint64_t now_ns)
{
    struct drain *d = container_of(t, struct drain, timer);
    uint64_t deadline, since = ledger_drain(d->ledger, &deadline), next = now_ns + LOOK_NS;
    if (since != d->since)
        drain_change(d, since);
    else if (d->owed)
        d->owed = !relay_drain(d->relay, since != 0);
    if (since != 0 && deadline != 0) {
        size_t closed = now_ns >= deadline ? relay_close_idle(d->relay) : 0;
        if (closed > 0)
            log_info("drained: %zu idle connections closed, %llu are left", closed,
                     (unsigned long long)relay_counts(d->relay)->active);
        if (now_ns >= deadline && relay_counts(d->relay)->active > 0)
            next = now_ns + CLOSE_NS;
        else if (now_ns < deadline && deadline < next)
            next = deadline;
    }
    reactor_timer_set(d->reactor, t, next);
}

void drain_start(struct drain *d, struct reactor *r, struct ledger *ledger, struct relay *relay)
{
    *d = (struct drain){
        .reactor = r, .ledger = ledger, .relay = relay, .timer = {.fire = drain_look}};
    drain_look(&d->timer, reactor_now_fresh(r));
}

void drain_stop(struct drain *d)
{
    if (d->reactor)
        reactor_timer_clear(d->reactor, &d->timer);
}
