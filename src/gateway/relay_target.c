/* SPDX-License-Identifier: Apache-2.0 */
/* Transmission, target to host: replies pass in place, in order, and are never held.
 *
 * All connections read to memory they are lent for the turn, which therefore stays in the
 * processor's cache: as a rule all of it is sent at once, or put off to the end of the round, and
 * next to nothing is left when the pump ends. What is left is copied to the connection's own
 * buffer; with something to send in it, that is read into until it is empty again.
 *
 * One linear buffer: [start, parsed) goes to the host, [parsed, end) is not yet walked. Walking a
 * reply puts the host's own cookie back into its header and counts its payload through; payload is
 * never looked at. When the host does not read, the buffer fills, the target is not read any more,
 * and its own back-pressure begins. A request is complete for the meter when the header of the
 * target's last word on it is here, not when the host has taken it: a host that does not read its
 * replies makes no target look slow.
 *
 * The target is as little trusted as the host: a cookie that names no dispatched request, a header
 * that the agreed form forbids, each closes this connection alone. */
#include <string.h>

#include "base/assert.h"
#include "gateway/relay_batch.h"
#include "gateway/relay_conn.h"

static void relay_reply_move(struct relay_conn *c, uint8_t *to)
{
    size_t start = c->reply_start;
    weir_assert(start <= c->reply_parsed);
    weir_assert(c->reply_parsed <= c->reply_end);
    memcpy(to, c->reply + start, c->reply_end - start);
    c->reply = to;
    c->reply_start = 0;
    c->reply_parsed -= start;
    c->reply_end -= start;
}

/* With nothing to send left over, read to what is lent; the part of a header comes along. */
static void relay_reply_borrow(struct relay_conn *c)
{
    weir_assert(c->reply == c->reply_own);
    if (c->target.readable && c->reply_start == c->reply_parsed &&
        c->reply_end - c->reply_parsed < NBD_REPLY_MAX_SIZE)
        relay_reply_move(c, relay_lend(c->relay));
}

/* What was lent is the next connection's: take along what is left. */
static void relay_reply_keep(struct relay_conn *c)
{
    if (c->reply != c->reply_own)
        relay_reply_move(c, c->reply_own);
}

void relay_target_unsent(struct relay_conn *c, const uint8_t *data, size_t n)
{
    size_t left = c->reply_end - c->reply_start;
    weir_assert(c->reply == c->reply_own);
    weir_assert(c->reply_start == c->reply_parsed);
    weir_assert(n <= RELAY_REPLY_SIZE - left);
    memmove(c->reply_own + n, c->reply_own + c->reply_start, left);
    memcpy(c->reply_own, data, n);
    c->reply_start = 0;
    c->reply_parsed = n;
    c->reply_end = n + left;
}

/* Room behind reply_end, once everything walked has been sent. */
static size_t relay_reply_room(struct relay_conn *c)
{
    weir_assert(c->reply_start <= c->reply_parsed);
    weir_assert(c->reply_parsed <= c->reply_end);
    size_t left = c->reply_end - c->reply_parsed;
    /* Walking stops at the part of a header only, so there is little to move. */
    if (c->reply_start == c->reply_parsed && left < NBD_REPLY_MAX_SIZE) {
        memmove(c->reply, c->reply + c->reply_parsed, left);
        c->reply_start = c->reply_parsed = 0;
        c->reply_end = left;
    }
    return RELAY_REPLY_SIZE - c->reply_end;
}

static struct relay_slot *relay_reply_slot(struct relay_conn *c, uint64_t cookie)
{
    uint32_t index = (uint32_t)cookie & (RELAY_SLOTS - 1);
    if (index >= c->slot_high)
        return NULL;
    struct relay_slot *s = &c->slots[index];
    return s->state == RELAY_SLOT_DISPATCHED && s->cookie == cookie ? s : NULL;
}

static void relay_reply_complete(struct relay_conn *c, struct relay_slot *s, uint64_t now_ns)
{
    uint64_t held = s->io.was_held ? s->io.released_ns - s->io.arrived_ns : 0;
    meter_complete(c->stream->meter, s->io.op, s->io.bytes, s->error, held,
                   now_ns - s->dispatched_ns, now_ns - s->io.arrived_ns);
    target_complete(c->stream->port, &s->turn, now_ns - s->io.arrived_ns - held, now_ns);
    c->stats->errors += s->error;
    relay_slot_put(c, s);
}

/* The target broke the protocol. Returns -1. */
static int relay_target_guilty(struct relay_conn *c, struct relay_answers *a, const char *words)
{
    relay_answers_settle(a, c);
    relay_conn_close(c, RELAY_CLOSE_TARGET_PROTOCOL, words);
    return -1;
}

/* Walk one reply header at reply_parsed. 1: walked, 0: more bytes needed, -1: @c is gone. */
static int relay_reply_header(struct relay_conn *c, struct relay_answers *a)
{
    uint8_t *p = c->reply + c->reply_parsed;
    struct nbd_reply reply;
    int size = nbd_reply_parse(p, c->reply_end - c->reply_parsed, c->mode, &reply);
    if (size == 0)
        return 0;
    if (size < 0)
        return relay_target_guilty(c, a, "target sent a bad reply header");
    struct relay_slot *s = relay_reply_slot(c, reply.cookie);
    if (!s)
        return relay_target_guilty(c, a, "target answered what nobody asked");
    bool data = reply.form == NBD_FORM_SIMPLE && reply.error == 0 && s->cmd == NBD_CMD_READ;
    if (data && c->mode != NBD_MODE_SIMPLE)
        return relay_target_guilty(
            c, a, "target answered a read with a simple reply in structured mode");
    nbd_reply_set_cookie(p, s->host_cookie);
    s->error |= reply.is_error;
    c->reply_left = data ? s->length : reply.length;
    c->reply_parsed += (size_t)size;
    if (reply.done && !relay_answers_take(a, c, s))
        relay_reply_complete(c, s, a->now_ns);
    return 1;
}

static bool relay_reply_walk(struct relay_conn *c, uint64_t now_ns)
{
    struct relay_answers answers;
    if (c->reply_parsed == c->reply_end)
        return true;
    relay_answers_begin(&answers, c, now_ns);
    while (c->reply_parsed < c->reply_end) {
        size_t left = c->reply_end - c->reply_parsed;
        if (c->reply_left > 0) {
            size_t n = left < c->reply_left ? left : (size_t)c->reply_left;
            c->reply_parsed += n;
            c->reply_left -= n;
            continue;
        }
        int ret = relay_reply_header(c, &answers);
        if (ret < 0)
            return false;
        if (ret == 0)
            break;
    }
    relay_answers_settle(&answers, c);
    return true;
}

/* As relay_target_pump, in whichever buffer. */
static bool relay_reply_pump(struct relay_conn *c, uint64_t now_ns, bool *ret_progress)
{
    size_t room = relay_reply_room(c);
    size_t n = room > 0 ? relay_side_read(&c->target, c->reply + c->reply_end, room) : 0;
    if (n > 0) {
        c->reply_end += n;
        c->target_heard_ns = now_ns;
        c->stream->last_io_ns = now_ns;
        *ret_progress = true;
    }
    if (!relay_reply_walk(c, now_ns))
        return false;
    if (c->reply_start == c->reply_parsed)
        return true;
    const struct iovec iov = {
        .iov_base = c->reply + c->reply_start,
        .iov_len = c->reply_parsed - c->reply_start,
    };
    bool at_once = iov.iov_len >= RELAY_REPLY_AT_ONCE && reactor_alone(c->relay->reactor);
    if (!at_once && c->reply != c->reply_own && c->state == RELAY_TRANSMITTING &&
        !c->target.hangup && relay_side_put_off(&c->host, iov.iov_base, iov.iov_len)) {
        relay_lent(c->relay, c->reply_parsed);
        c->reply_start = c->reply_parsed;
        return true;
    }
    size_t sent = relay_side_send(&c->host, &iov, 1);
    if (c->host.dead) {
        sent = iov.iov_len;
        c->sunk += sent;
    }
    c->reply_start += sent;
    *ret_progress |= sent > 0;
    return true;
}

bool relay_target_pump(struct relay_conn *c, uint64_t now_ns, bool *ret_progress)
{
    relay_reply_borrow(c);
    if (!relay_reply_pump(c, now_ns, ret_progress))
        return false;
    relay_reply_keep(c);
    return true;
}
