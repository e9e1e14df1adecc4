/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a connection.
 *
 *   accept -> CONNECTING --> NEGOTIATING --> TRANSMITTING --> DRAINING
 *                 |               |               |              |
 *                 +---------------+------> CLOSED <--------------+
 *
 * CONNECTING    the target's socket is not connected yet; the host's bytes wait in the kernel.
 * NEGOTIATING   negotiate.h relays the handshake; its end is transmission, ABORT or a fault.
 * TRANSMITTING  requests and replies pass (relay_host.c, relay_target.c).
 * DRAINING      the host's last request is known: it sent DISC, it closed, the target did, or the
 *               gateway ends. What is due still goes out: after DISC held requests and then DISC
 *               itself, always the replies of what was dispatched.
 * CLOSED        both sockets are closed and the memory is back in the pool.
 *
 * One timer: until TRANSMITTING it bounds connect and negotiation, in DRAINING the silence of the
 * target. Every close has a reason from RELAY_CLOSE_TABLE, counted once and logged once.
 *
 * A host that goes without DISC: what was not dispatched is dropped (it was never answered). The
 * target has its say on what was dispatched before it too is closed, so that it is counted, and so
 * that no target is hurt by hosts that die: it never sees a connection end under a reply it is
 * about to send (nbdkit 1.32 aborts on that, and takes all others' connections along). A host that
 * sent DISC and went away keeps its held requests, since DISC promises them (NBD protocol,
 * NBD_CMD_DISC: "the server MUST handle all outstanding requests"). Replies to a host that has gone
 * go nowhere. */
#include "gateway/relay_conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#define STATE_BIT(s) (1u << (s))

static const unsigned relay_state_next[RELAY_STATE_COUNT] = {
    [RELAY_CONNECTING] = STATE_BIT(RELAY_NEGOTIATING) | STATE_BIT(RELAY_CLOSED),
    [RELAY_NEGOTIATING] = STATE_BIT(RELAY_TRANSMITTING) | STATE_BIT(RELAY_CLOSED),
    [RELAY_TRANSMITTING] = STATE_BIT(RELAY_DRAINING) | STATE_BIT(RELAY_CLOSED),
    [RELAY_DRAINING] = STATE_BIT(RELAY_CLOSED),
    [RELAY_CLOSED] = 0,
};

static const char *const relay_state_names[RELAY_STATE_COUNT] = {
#define X(name) #name,
    RELAY_STATE_TABLE(X)
#undef X
};

static void relay_conn_set_state(struct relay_conn *c, enum relay_state to)
{
    weir_assert((unsigned)to < RELAY_STATE_COUNT);
    weir_assert(relay_state_next[c->state] & STATE_BIT(to));
    log_debug("connection %llu: %s -> %s", (unsigned long long)c->id, relay_state_names[c->state],
              relay_state_names[to]);
    c->state = to;
}

/* --- sides --- */

/* Nothing more can be sent; what came before the failure is still read. The kernel tells of a reset
 * once: a later read would only see the end. */
static void relay_side_failed(struct relay_side *s, int error)
{
    if (!s->error)
        s->error = error;
    s->dead = true;
    s->hangup = s->readable = true;
}

static void relay_side_ready(struct reactor_source *source, uint32_t events)
{
    struct relay_side *s = container_of(source, struct relay_side, source);
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        s->hangup = true;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        s->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        s->writable = true;
    reactor_defer(s->conn->relay->reactor, &s->conn->work);
}

static void relay_side_unsent(struct reactor_source *source, const void *data, size_t n, int ret)
{
    struct relay_side *s = container_of(source, struct relay_side, source);
    struct relay_conn *c = s->conn;
    size_t sent = ret > 0 ? (size_t)ret : 0;
    weir_assert(sent < n);
    s->writable = false;
    if (ret < 0 && ret != -EAGAIN && ret != -EINTR)
        relay_side_failed(s, ret);
    if (s == &c->host)
        relay_target_unsent(c, (const uint8_t *)data + sent, n - sent);
    else
        relay_out_unsent(&c->out, (const uint8_t *)data + sent, n - sent);
    reactor_defer(c->relay->reactor, &c->work);
}

bool relay_side_put_off(struct relay_side *s, const uint8_t *data, size_t n)
{
    return s->writable && !s->dead && !s->tls &&
           reactor_send(s->conn->relay->reactor, &s->source, data, n);
}

static int relay_side_open(struct relay_conn *c, struct relay_side *s, int fd)
{
    s->source.fd = fd;
    s->source.ready = relay_side_ready;
    s->source.unsent = relay_side_unsent;
    s->conn = c;
    s->open = true;
    addr_keep_alive(fd);
    return reactor_add(c->relay->reactor, &s->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
}

static void relay_side_close(struct relay_conn *c, struct relay_side *s)
{
    if (!s->open)
        return;
    tls_session_free(s->tls);
    s->tls = NULL;
    reactor_remove(c->relay->reactor, &s->source);
    close(s->source.fd);
    s->open = false;
}

size_t relay_side_read(struct relay_side *s, void *to, size_t room)
{
    weir_assert(room > 0);
    if (!s->readable || s->eof)
        return 0;
    if (s->tls)
        return relay_side_read_tls(s, to, room);
    ssize_t n;
    do
        n = recv(s->source.fd, to, room, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        /* Less than asked for: the socket was empty, and epoll will tell of more. Its end however
         * may have been told already, and must then be read. */
        if ((size_t)n < room && !s->hangup)
            s->readable = false;
        return (size_t)n;
    }
    s->readable = false;
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0)
        s->error = -errno;
    s->eof = true;
    return 0;
}

size_t relay_side_send(struct relay_side *s, const struct iovec *iov, int count)
{
    weir_assert(!s->source.sending);
    if (!s->writable || s->dead)
        return 0;
    if (s->tls)
        return relay_side_send_tls(s, iov, count);
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    ssize_t n;
    do
        n = count == 1 ? send(s->source.fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL)
                       : sendmsg(s->source.fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return (size_t)n;
    s->writable = false;
    if (errno != EAGAIN)
        relay_side_failed(s, -errno);
    return 0;
}

/* --- the end --- */

static bool relay_close_is_failure(enum relay_close why)
{
    switch (why) {
    case RELAY_CLOSE_HOST_DISCONNECTED:
    case RELAY_CLOSE_HOST_VANISHED:
    case RELAY_CLOSE_DRAINING:
    case RELAY_CLOSE_DRAINED:
    case RELAY_CLOSE_SHUTDOWN:
        return false;
    case RELAY_CLOSE_HOST_RESET:
    case RELAY_CLOSE_HOST_PROTOCOL:
    case RELAY_CLOSE_HOST_TLS:
    case RELAY_CLOSE_HOST_TIMEOUT:
    case RELAY_CLOSE_HOST_SILENT:
    case RELAY_CLOSE_TARGET_UNREACHABLE:
    case RELAY_CLOSE_TARGET_TIMEOUT:
    case RELAY_CLOSE_TARGET_CLOSED:
    case RELAY_CLOSE_TARGET_RESET:
    case RELAY_CLOSE_TARGET_TLS:
    case RELAY_CLOSE_TARGET_SILENT:
    case RELAY_CLOSE_TARGET_PROTOCOL:
    case RELAY_CLOSE_CONNECTION_LIMIT:
    case RELAY_CLOSE_HOST_CONNECTION_LIMIT:
    case RELAY_CLOSE_NO_MEMORY:
    case RELAY_CLOSE_WORKER_LOST:
    case RELAY_CLOSE_COUNT:
        return true;
    }
    return true;
}

static void relay_talk_fini(struct relay_talk *t)
{
    negotiate_free(t->negotiation);
    t->negotiation = NULL;
    text_fini(&t->from_host);
    text_fini(&t->to_host);
    text_fini(&t->from_target);
    text_fini(&t->to_target);
}

void relay_conn_close(struct relay_conn *c, enum relay_close why, const char *detail)
{
    struct relay *r = c->relay;
    log_write(relay_close_is_failure(why) ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG,
              "connection %llu of host %s to target %s, volume %s: closed while %s: %s%s%s",
              (unsigned long long)c->id, relay_conn_host(c), c->listener->target->name,
              c->stream ? c->stream->volume : "-", relay_state_names[c->state],
              relay_close_label(why), detail ? ": " : "", detail ? detail : "");
    if (c->stream) {
        struct target *port = c->stream->port;
        relay_slots_drop(c);
        stream_disconnect(r->streams, c->stream, reactor_now(r->reactor));
        c->stream = NULL;
        relay_turns_run(r, port, reactor_now(r->reactor));
    }
    relay_hold_free(c);
    if (c->counted) {
        weir_assert(c->stats->connections > 0);
        c->stats->connections--;
        c->stats->disconnects++;
    }
    relay_talk_fini(&c->talk);
    relay_side_close(c, &c->host);
    relay_side_close(c, &c->target);
    reactor_timer_clear(r->reactor, &c->timer);
    reactor_work_cancel(&c->work);
    relay_conn_set_state(c, RELAY_CLOSED);
    r->counts->closed[why]++;
    relay_conn_put(r, c);
    relay_gate_rearm(r);
}

void relay_conn_drain(struct relay_conn *c, enum relay_close why)
{
    struct reactor *reactor = c->relay->reactor;
    relay_conn_set_state(c, RELAY_DRAINING);
    c->ending = why;
    c->target_heard_ns = reactor_now(reactor);
    reactor_timer_set(reactor, &c->timer, c->target_heard_ns + RELAY_DRAIN_NS);
}

void relay_conn_stop(struct relay_conn *c)
{
    switch (c->state) {
    case RELAY_CONNECTING:
    case RELAY_NEGOTIATING:
        relay_conn_close(c, RELAY_CLOSE_SHUTDOWN, NULL);
        return;
    case RELAY_TRANSMITTING:
        relay_host_forget(c);
        relay_conn_drain(c, RELAY_CLOSE_SHUTDOWN);
        reactor_defer(c->relay->reactor, &c->work);
        return;
    case RELAY_DRAINING:
        return;
    case RELAY_CLOSED:
    case RELAY_STATE_COUNT:
        break;
    }
    weir_unreachable("a closed connection among the living");
}

/* handshake-timeout is over: whose word is missing? */
static void relay_negotiation_timeout(struct relay_conn *c)
{
    const struct relay_talk *t = &c->talk;
    if (!negotiate_awaits_target(t->negotiation) || t->to_host.len > 0) {
        relay_conn_close(c, RELAY_CLOSE_HOST_TIMEOUT, NULL);
        return;
    }
    c->stats->connect_failures++;
    c->stats->last_error = -ETIMEDOUT;
    relay_conn_close(c, RELAY_CLOSE_TARGET_TIMEOUT, NULL);
}

static void relay_conn_timeout(struct reactor_timer *t, uint64_t now_ns)
{
    struct relay_conn *c = container_of(t, struct relay_conn, timer);
    switch (c->state) {
    case RELAY_CONNECTING:
        c->stats->connect_failures++;
        c->stats->last_error = -ETIMEDOUT;
        relay_conn_close(c, RELAY_CLOSE_TARGET_UNREACHABLE, "connecting took too long");
        return;
    case RELAY_NEGOTIATING:
        relay_negotiation_timeout(c);
        return;
    case RELAY_DRAINING:
        if (c->undispatched > 0)
            c->target_heard_ns = now_ns;
        if (now_ns - c->target_heard_ns >= RELAY_DRAIN_NS)
            relay_conn_close(c, c->ending, "the target has been silent too long");
        else
            reactor_timer_set(c->relay->reactor, t, c->target_heard_ns + RELAY_DRAIN_NS);
        return;
    case RELAY_TRANSMITTING:
    case RELAY_CLOSED:
    case RELAY_STATE_COUNT:
        break;
    }
    weir_assert(!"a timer fired that this state does not have");
}

/* --- transmission --- */

enum relay_close relay_close_of_host(const struct relay_side *s)
{
    if (!s->error)
        return RELAY_CLOSE_HOST_VANISHED;
    return s->error == -ETIMEDOUT ? RELAY_CLOSE_HOST_SILENT : RELAY_CLOSE_HOST_RESET;
}

static enum relay_close relay_close_of_target(const struct relay_side *s)
{
    if (!s->error)
        return RELAY_CLOSE_TARGET_CLOSED;
    return s->error == -ETIMEDOUT ? RELAY_CLOSE_TARGET_SILENT : RELAY_CLOSE_TARGET_RESET;
}

/* The target has ended. Held requests have nowhere to go; replies are still passed on. */
static void relay_conn_target_gone(struct relay_conn *c)
{
    enum relay_close why = relay_close_of_target(&c->target);
    bool draining = c->state == RELAY_DRAINING;
    if (c->reply_start == c->reply_parsed || c->host.dead) {
        relay_conn_close(c, draining ? c->ending : why,
                         c->target.error && !draining ? weir_strerror(c->target.error) : NULL);
        return;
    }
    relay_host_forget(c);
    if (!draining)
        relay_conn_drain(c, why);
}

/* See whether the connection's end has come. False: @c is gone, or only its host's replies are
 * left. */
static bool relay_conn_settle(struct relay_conn *c)
{
    if (c->target.dead)
        relay_out_discard(&c->out);
    if (c->target.eof) {
        relay_conn_target_gone(c);
        return false;
    }
    if (c->state == RELAY_TRANSMITTING) {
        if (!c->host.dead)
            return true;
        relay_host_forget(c);
        relay_conn_drain(c, RELAY_CLOSE_HOST_RESET);
    }
    weir_assert(c->state == RELAY_DRAINING);
    bool host_gone =
        c->ending == RELAY_CLOSE_HOST_VANISHED || c->ending == RELAY_CLOSE_HOST_RESET ||
        c->ending == RELAY_CLOSE_HOST_SILENT || c->ending == RELAY_CLOSE_SHUTDOWN;
    bool target_done =
        c->out.pending == 0 && c->outstanding <= c->incomplete && c->reply_left == 0;
    bool host_told = c->reply_start == c->reply_parsed || c->host.dead;
    if ((host_gone && target_done && host_told) ||
        (c->sunk > RELAY_SINK_BYTES && c->undispatched == 0)) {
        relay_conn_close(c, c->ending, NULL);
        return false;
    }
    return true;
}

static void relay_conn_pump(struct relay_conn *c)
{
    struct relay *r = c->relay;
    bool progress = true;
    for (int turn = 0; turn < RELAY_TURN && progress; turn++) {
        uint64_t now = reactor_now_fresh(r->reactor);
        progress = false;
        if (!relay_target_pump(c, now, &progress) || !relay_host_pump(c, now, &progress))
            return;
        if (c->host.source.sending || c->target.source.sending) {
            /* A side has one send put off at most; what else there is to read waits a round. */
            progress = c->host.readable || c->target.readable;
            break;
        }
    }
    struct target *port = c->stream->port;
    bool lives = relay_conn_settle(c);
    relay_turns_run(r, port, reactor_now(r->reactor));
    /* Also when the connection ends: what it held may have stood before others of its stream. */
    relay_gate_rearm(r);
    if (!lives)
        return;
    if (progress)
        reactor_defer(r->reactor, &c->work);
}

/* --- negotiation --- */

/* Negotiation is over and all said: from here on bytes are requests and replies. */
static void relay_conn_transmit(struct relay_conn *c)
{
    struct relay *r = c->relay;
    struct relay_talk *t = &c->talk;
    const struct negotiate_result *result = negotiate_result(t->negotiation);
    const struct target_config *target = c->listener->target;
    char volume[NAME_SIZE];
    const char *tenant = target->tenant;
    if (result->volume) {
        name_escape(result->volume->name, strlen(result->volume->name), volume);
        if (result->volume->tenant[0])
            tenant = result->volume->tenant;
    } else {
        const char *name = result->export_name[0] ? result->export_name : target->export_name;
        name_escape(name, strlen(name), volume);
    }
    c->mode = result->mode;
    c->extended = c->mode == NBD_MODE_EXTENDED;
    c->stream = stream_connect(r->streams, target, relay_conn_host(c), volume, tenant, result->size,
                               reactor_now(r->reactor));
    relay_kick(r); /* a share may have come into force with it */
    relay_input_init(&c->input);
    relay_out_init(&c->out, &c->input, c->hold, c->header, c->runs);
    weir_assert(t->from_host.len <= sizeof(c->input.own));
    weir_assert(t->from_target.len <= sizeof(c->reply_own));
    if (t->from_host.len > 0)
        memcpy(c->input.data, t->from_host.data, t->from_host.len);
    c->input.end = t->from_host.len;
    if (t->from_target.len > 0)
        memcpy(c->reply, t->from_target.data, t->from_target.len);
    c->reply_end = t->from_target.len;
    relay_talk_fini(t);
    reactor_timer_clear(r->reactor, &c->timer);
    relay_conn_set_state(c, RELAY_TRANSMITTING);
    relay_conn_pump(c);
}

/* Read into @to, unless @answers wait to be sent: a peer that does not read is not read from. */
static bool relay_talk_read(struct relay_side *s, struct text *to, const struct text *answers,
                            uint8_t *scratch)
{
    if (to->len >= RELAY_NEGOTIATE_IN_MAX || answers->len >= RELAY_NEGOTIATE_IN_MAX)
        return false;
    size_t n = relay_side_read(s, scratch, RELAY_NEGOTIATE_IN_MAX - to->len);
    if (n > 0)
        text_append(to, scratch, n);
    return n > 0;
}

static bool relay_talk_send(struct relay_side *s, struct text *from)
{
    if (from->len == 0)
        return false;
    const struct iovec iov = {.iov_base = from->data, .iov_len = from->len};
    size_t n = relay_side_send(s, &iov, 1);
    text_consume(from, n);
    return n > 0;
}

/* Let the negotiation see what came. False: @c is gone. */
static bool relay_talk_step(struct relay_conn *c)
{
    struct relay_talk *t = &c->talk;
    if (t->done || t->ended || t->securing)
        return true;
    enum negotiate_state state = negotiate_step(t->negotiation, &t->from_host, &t->to_target,
                                                &t->from_target, &t->to_host);
    if (t->from_host.failed || t->to_target.failed || t->from_target.failed || t->to_host.failed) {
        relay_conn_close(c, RELAY_CLOSE_NO_MEMORY, NULL);
        return false;
    }
    switch (state) {
    case NEGOTIATE_RUNNING:
        return true;
    case NEGOTIATE_HOST_TLS:
        t->securing = &c->host;
        return true;
    case NEGOTIATE_TARGET_TLS:
        t->securing = &c->target;
        return true;
    case NEGOTIATE_DONE:
        t->done = true;
        return true;
    case NEGOTIATE_ENDED:
        t->ended = true;
        return true;
    case NEGOTIATE_FAILED:
        (void)relay_talk_send(&c->host, &t->to_host);
        relay_conn_close(c,
                         negotiate_host_at_fault(t->negotiation) ? RELAY_CLOSE_HOST_PROTOCOL
                                                                 : RELAY_CLOSE_TARGET_PROTOCOL,
                         negotiate_reason(t->negotiation));
        return false;
    }
    return true;
}

/* What follows from the ends of the two sides, once all that came was seen. */
static void relay_talk_settle(struct relay_conn *c)
{
    struct relay_talk *t = &c->talk;
    bool host_told = t->to_host.len == 0 || c->host.dead;
    bool target_told = t->to_target.len == 0 || c->target.dead;
    if (t->securing && !c->host.dead && !c->target.dead) {
        /* The handshake finds out by itself how it ends; the timer, when it does not. */
    } else if (t->ended) {
        if (host_told && target_told)
            relay_conn_close(c, RELAY_CLOSE_HOST_DISCONNECTED, negotiate_reason(t->negotiation));
    } else if (t->done && t->to_host.len == 0 && t->to_target.len == 0) {
        relay_conn_transmit(c);
    } else if (c->host.eof || c->host.dead) {
        relay_conn_close(c, relay_close_of_host(&c->host), NULL);
    } else if (c->target.eof && host_told) {
        relay_conn_close(c, relay_close_of_target(&c->target), NULL);
    }
}

static void relay_conn_unreachable(struct relay_conn *c, int error)
{
    c->stats->connect_failures++;
    c->stats->last_error = error;
    relay_conn_close(c, RELAY_CLOSE_TARGET_UNREACHABLE, weir_strerror(error));
}

/* Connect to the target. False: @c is gone. */
static bool relay_conn_dial(struct relay_conn *c)
{
    int fd = addr_connect(&c->listener->target->addr);
    if (fd < 0) {
        relay_conn_unreachable(c, fd);
        return false;
    }
    if (relay_side_open(c, &c->target, fd) < 0) {
        relay_conn_close(c, RELAY_CLOSE_NO_MEMORY, "the reactor is full");
        return false;
    }
    return true;
}

/* The target has heard what must be forgotten: begin again with a connection that has not. */
static bool relay_conn_redial(struct relay_conn *c)
{
    relay_side_close(c, &c->target);
    c->target = (struct relay_side){0};
    text_clear(&c->talk.to_target);
    text_clear(&c->talk.from_target);
    return relay_conn_dial(c);
}

/* Go on with the TLS handshake that is under way, once its acknowledgement is out, which goes in
 * the clear. False: @c is gone. */
static bool relay_talk_secure(struct relay_conn *c, bool *ret_progress)
{
    struct relay_talk *t = &c->talk;
    const struct text *told = t->securing == &c->host ? &t->to_host : &t->to_target;
    if (told->len > 0)
        return true;
    int r = relay_side_secure(c, t->securing);
    if (r <= 0)
        return r == 0;
    t->securing = NULL;
    *ret_progress = true;
    return !negotiate_secured(t->negotiation) || relay_conn_redial(c);
}

static void relay_conn_negotiate(struct relay_conn *c)
{
    struct relay_talk *t = &c->talk;
    bool progress = true;
    /* Each turn reads or sends something, and both are bounded until transmission. */
    for (int turn = 0; turn < RELAY_TURN && progress; turn++) {
        progress = false;
        if (t->securing) {
            if (!relay_talk_secure(c, &progress))
                return;
        } else if (!t->done && !t->ended) {
            progress |= relay_talk_read(&c->host, &t->from_host, &t->to_host, c->input.own);
            progress |= relay_talk_read(&c->target, &t->from_target, &t->to_host, c->reply);
        }
        if (!relay_talk_step(c))
            return;
        progress |= relay_talk_send(&c->target, &t->to_target);
        progress |= relay_talk_send(&c->host, &t->to_host);
    }
    if (progress)
        reactor_defer(c->relay->reactor, &c->work);
    else
        relay_talk_settle(c);
}

/* --- the beginning --- */

static void relay_conn_connected(struct relay_conn *c)
{
    if (!c->target.writable && !c->target.hangup)
        return;
    int err = addr_connect_result(c->target.source.fd);
    if (err < 0) {
        relay_conn_unreachable(c, err);
        return;
    }
    c->stats->connects++;
    c->stats->connections++;
    c->stats->last_error = 0;
    c->counted = true;
    struct relay_talk *t = &c->talk;
    text_init(&t->from_host, RELAY_NEGOTIATE_IN_MAX);
    text_init(&t->from_target, RELAY_NEGOTIATE_IN_MAX);
    text_init(&t->to_host, RELAY_NEGOTIATE_OUT_MAX);
    text_init(&t->to_target, RELAY_NEGOTIATE_OUT_MAX);
    t->negotiation = negotiate_new(c->listener->target);
    if (!t->negotiation) {
        relay_conn_close(c, RELAY_CLOSE_NO_MEMORY, NULL);
        return;
    }
    negotiate_offer_tls(t->negotiation, c->listener->tls);
    relay_conn_set_state(c, RELAY_NEGOTIATING);
    relay_conn_negotiate(c);
}

static void relay_conn_run(struct reactor_work *w)
{
    struct relay_conn *c = container_of(w, struct relay_conn, work);
    switch (c->state) {
    case RELAY_CONNECTING:
        relay_conn_connected(c);
        return;
    case RELAY_NEGOTIATING:
        relay_conn_negotiate(c);
        return;
    case RELAY_TRANSMITTING:
    case RELAY_DRAINING:
        relay_conn_pump(c);
        return;
    case RELAY_CLOSED:
    case RELAY_STATE_COUNT:
        break;
    }
    weir_assert(!"a closed connection ran");
}

void relay_conn_start(struct relay *r, struct relay_conn *c, const struct listener_config *l,
                      int fd, const char *host, uint64_t host_hash)
{
    const struct target_config *target = l->target;
    c->relay = r;
    c->reply = c->reply_own;
    c->state = RELAY_CONNECTING;
    c->listener = l;
    c->host_hash = host_hash;
    c->stats = stream_target_stats(r->streams, target->index);
    c->timer.fire = relay_conn_timeout;
    reactor_work_init(&c->work, relay_conn_run);
    list_init(&c->released);
    memcpy(c->host_name, host, strnlen(host, sizeof(c->host_name) - 1) + 1);
    c->host_name[sizeof(c->host_name) - 1] = '\0';

    const int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on Unix: fine */
    if (relay_side_open(c, &c->host, fd) < 0) {
        relay_conn_close(c, RELAY_CLOSE_NO_MEMORY, "the reactor is full");
        return;
    }
    if (!relay_conn_dial(c))
        return;
    reactor_timer_set(r->reactor, &c->timer,
                      reactor_now(r->reactor) + r->config->handshake_timeout_ns);
}
