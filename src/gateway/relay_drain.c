/* SPDX-License-Identifier: Apache-2.0 */
/* Taking no hosts.
 *
 * Problem: a gateway that people take out of service shall send its hosts elsewhere at once, and
 * end what is left without an I/O that was asked for and never answered.
 *
 * Model. A TCP listener stops to listen, with its port still bound: hosts and the checks of load
 * balancers find the port closed and go elsewhere at once, which a connection that is accepted and
 * closed would not tell them. It is the kernel that refuses, so nobody can count these. What the
 * kernel had accepted for us already is taken and closed, as draining. The same socket listens
 * again later; other processes that hold it (the manager, a worker to come) need not be told, and
 * nothing is bound anew, for which the rights may be gone. A Unix socket cannot listen twice, and
 * one of port 0 would get another port, so these accept and close, named and counted as draining.
 *
 * A connection is idle when it is between two requests: all that came from its host is answered,
 * down to the last byte, and nothing waits to be read from either side. Only these are closed. What
 * a host sends in the very moment of the close meets a closed connection, as it would if the
 * network failed there; hosts that come back (libnbd's retry, qemu's reconnect-delay) ask again.
 *
 * What may fail: listening again, when another program took the port meanwhile; said, and tried
 * again at each look. */
#include <errno.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/relay_conn.h"

bool relay_listener_pausable(const struct listener_config *config)
{
    const struct sockaddr *sa = (const void *)&config->addr.ss;
    if (sa->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)sa)->sin_port != 0;
    if (sa->sa_family == AF_INET6)
        return ((const struct sockaddr_in6 *)(const void *)sa)->sin6_port != 0;
    return false;
}

static void relay_listener_pause(struct relay_listener *l)
{
    if (!l->listening || l->paused || !relay_listener_pausable(l->config))
        return;
    relay_listener_refuse_all(l);
    relay_listener_forget(l);
    (void)shutdown(l->source.fd, SHUT_RD);
    l->paused = true;
}

static void relay_listener_resume(struct relay_listener *l)
{
    if (!l->listening || !l->paused)
        return;
    int ret = relay_listener_watch(l);
    if (ret == 0)
        l->paused = l->said = false;
    else if (!l->said)
        log_error("listener %s: cannot listen again: %s; trying again", l->config->name,
                  weir_strerror(ret));
    l->said = ret < 0;
}

bool relay_drain(struct relay *r, bool on)
{
    bool all = true;
    r->draining = on;
    for (size_t i = 0; i < r->listener_count; i++) {
        if (on)
            relay_listener_pause(&r->listeners[i]);
        else
            relay_listener_resume(&r->listeners[i]);
        all = all && (on || !r->listeners[i].paused);
    }
    return all;
}

static bool relay_side_silent(const struct relay_side *s)
{
    int n = 0;
    return s->open && !s->eof && !s->hangup && !s->dead && !s->source.sending &&
           ioctl(s->source.fd, FIONREAD, &n) == 0 && n == 0;
}

/* Whether nothing is under way on it; see above. */
static bool relay_conn_idle(const struct relay_conn *c)
{
    return c->state == RELAY_TRANSMITTING && c->undispatched == 0 && c->outstanding == 0 &&
           c->host_mode == RELAY_HOST_HEADER && c->input.start == c->input.end &&
           c->out.pending == 0 && c->reply_left == 0 && c->reply_start == c->reply_end &&
           relay_side_silent(&c->host) && relay_side_silent(&c->target);
}

size_t relay_close_idle(struct relay *r)
{
    size_t closed = 0;
    list_for_each_safe(l, &r->live)
    {
        struct relay_conn *c = container_of(l, struct relay_conn, link);
        if (!relay_conn_idle(c))
            continue;
        relay_conn_close(c, RELAY_CLOSE_DRAINED, NULL);
        closed++;
    }
    return closed;
}
