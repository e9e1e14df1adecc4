/* SPDX-License-Identifier: Apache-2.0 */
/* Transmission, host to target: requests are metered, held where a limit says so, and passed on.
 *
 * Each request takes a slot until the target's last word on it; on the wire its cookie is the
 * slot's number below a serial number, so that what the target answers can be told from what it
 * invents. Hosts may use one cookie for many requests; slots do not mind.
 *
 * The gate is asked when the header is here. What goes at once stays where it was read and is sent
 * from there, payload included, as it comes. What is held leaves the stream: its header to its
 * slot, a write's payload to the hold ring, so that later requests may pass it and wait their own
 * time. A payload that the ring cannot be made large enough for (relay_hold.c) stays where it is,
 * and the host is read no further until it may go; then it streams through.
 *
 *   HEADER -- goes, has payload ---------------> PASS ----- all through --> HEADER
 *   HEADER -- held, payload fits the ring -----> HOLD ----- all held -----> HEADER
 *   HEADER -- held, payload does not fit ------> BLOCKED -- room now -----> HOLD
 *   HEADER -- held, payload out of order ------> BLOCKED
 *   HOLD, BLOCKED -- let go before all is here -> PASS (the rest streams through)
 *   HEADER -- DISC ----------------------------> DISC ----- all dispatched -> END
 *
 * Invariants:
 *  1. The bytes of one request are contiguous on the wire: in PASS nothing else is woven in, and
 *     requests the gate lets go meanwhile wait in `released`.
 *  2. At most one request is incomplete, the newest. A host that stalls in the middle of it holds
 *     up its own connection only: the gate's part was over when it let the request go.
 *  3. undispatched == slots HELD + RELEASED; outstanding == slots DISPATCHED.
 *  4. What is in the hold ring leaves it in the order in which it came: only requests of the gate's
 *     write queue put their payload there. In the extended form a host may send a payload with
 *     anything; that of a held READ or CACHE, which overtake writes, waits in the input. */
#include <string.h>

#include "base/assert.h"
#include "gateway/relay_batch.h"
#include "gateway/relay_conn.h"

/* --- slots --- */

static bool relay_slot_ready(const struct relay_conn *c)
{
    return c->slot_free > 0 || c->slot_high < RELAY_SLOTS;
}

/* One must be ready. */
static struct relay_slot *relay_slot_get(struct relay_conn *c)
{
    /* The slot given back last is the warmest; new ones are touched only when needed. */
    uint32_t index = c->slot_free > 0 ? c->free_slots[--c->slot_free] : c->slot_high++;
    struct relay_slot *s = &c->slots[index];
    weir_assert(s->state == RELAY_SLOT_FREE);
    s->cookie = (uint64_t)c->next_cookie++ << 32 | index;
    s->error = false;
    return s;
}

void relay_slot_put(struct relay_conn *c, struct relay_slot *s)
{
    switch ((enum relay_slot_state)s->state) {
    case RELAY_SLOT_HELD:
    case RELAY_SLOT_QUEUED:
    case RELAY_SLOT_RELEASED:
        weir_assert(c->undispatched > 0);
        c->undispatched--;
        break;
    case RELAY_SLOT_DISPATCHED:
        weir_assert(c->outstanding > 0);
        weir_assert(c->stats->inflight > 0);
        c->outstanding--;
        c->stats->inflight--;
        break;
    case RELAY_SLOT_FREE:
        weir_assert(!"a free slot was freed");
    }
    s->state = RELAY_SLOT_FREE;
    weir_assert(c->slot_free < RELAY_SLOTS);
    if (c->passing == s)
        c->passing = NULL;
    c->free_slots[c->slot_free++] = (uint16_t)s->cookie;
}

/* The caller counts it in stats->inflight. */
static void relay_slot_dispatched(struct relay_conn *c, struct relay_slot *s, uint64_t now_ns)
{
    s->state = RELAY_SLOT_DISPATCHED;
    s->dispatched_ns = now_ns;
    c->outstanding++;
}

static void relay_slot_drop(struct relay_conn *c, struct relay_slot *s)
{
    if (s->state == RELAY_SLOT_FREE)
        return;
    uint64_t now_ns = reactor_now(c->relay->reactor);
    if (s->state == RELAY_SLOT_HELD)
        gate_cancel(c->relay->gate, &s->io, now_ns);
    else if (s->state == RELAY_SLOT_QUEUED)
        sched_cancel(c->stream->port->sched, &s->turn, now_ns);
    else
        target_complete(c->stream->port, &s->turn, 0, now_ns);
    if (s->state == RELAY_SLOT_RELEASED)
        list_remove(&s->link);
    meter_drop(c->stream->meter, s->io.op);
    relay_slot_put(c, s);
}

void relay_slots_drop(struct relay_conn *c)
{
    for (uint32_t i = 0; i < c->slot_high; i++)
        relay_slot_drop(c, &c->slots[i]);
    weir_assert(c->undispatched == 0);
    weir_assert(c->outstanding == 0);
}

void relay_host_forget(struct relay_conn *c)
{
    for (uint32_t i = 0; i < c->slot_high; i++) {
        if (c->slots[i].state != RELAY_SLOT_DISPATCHED)
            relay_slot_drop(c, &c->slots[i]);
    }
    weir_assert(c->undispatched == 0);
    weir_assert(list_empty(&c->released));
    if (c->host_mode == RELAY_HOST_PASS)
        c->incomplete = 1;
    c->host_mode = RELAY_HOST_END;
    c->payload_slot = NULL;
}

/* --- letting go --- */

void relay_host_pass_gate(struct relay_slot *s, uint64_t now_ns)
{
    struct stream *stream = s->conn->stream;
    weir_assert(s->state == RELAY_SLOT_HELD);
    s->turn.op = s->io.op;
    s->turn.bytes = s->io.bytes;
    if (sched_submit(stream->port->sched, &stream->turn, &s->turn, now_ns))
        relay_host_release(s);
    else
        s->state = RELAY_SLOT_QUEUED;
}

void relay_host_release(struct relay_slot *s)
{
    struct relay_conn *c = s->conn;
    weir_assert(s->state == RELAY_SLOT_HELD || s->state == RELAY_SLOT_QUEUED);
    s->state = RELAY_SLOT_RELEASED;
    list_push_back(&c->released, &s->link);
    if (s->io.was_held && s->io.hit_max_hold)
        c->stream->meter->max_hold_hits++;
    reactor_defer(c->relay->reactor, &c->work);
}

/* Weave in what the gate let go, as far as invariant 1 and the weave's room allow. */
static void relay_host_dispatch_released(struct relay_conn *c, uint64_t now_ns)
{
    while (!list_empty(&c->released) && c->host_mode != RELAY_HOST_PASS &&
           relay_out_ready(&c->out)) {
        struct relay_slot *s =
            container_of(list_pop_front(&c->released), struct relay_slot, link);
        weir_assert(s->state == RELAY_SLOT_RELEASED);
        relay_out_release(&c->out, s->header, s->header_size, s->held_bytes);
        c->undispatched--;
        relay_slot_dispatched(c, s, now_ns);
        c->stats->inflight++;
        sched_resume(c->stream->port->sched, &s->turn, now_ns);
        if (s == c->payload_slot) {
            c->payload_slot = NULL;
            c->passing = s;
            c->host_mode = RELAY_HOST_PASS;
        }
    }
}

/* --- requests --- */

static enum io_op relay_request_op(uint16_t type)
{
    switch (type) {
    case NBD_CMD_READ:
        return IO_READ;
    case NBD_CMD_WRITE:
        return IO_WRITE;
    case NBD_CMD_FLUSH:
        return IO_FLUSH;
    case NBD_CMD_TRIM:
        return IO_TRIM;
    case NBD_CMD_WRITE_ZEROES:
        return IO_WRITE_ZEROES;
    case NBD_CMD_CACHE:
        return IO_CACHE;
    case NBD_CMD_BLOCK_STATUS:
        return IO_BLOCK_STATUS;
    default: /* a number from the wire, not an enum of ours */
        return IO_OTHER;
    }
}

/* What a request is charged and counted as moving. The target refuses what is larger than the
 * volume; a host that asks for it all the same must not drive those it shares a limit with into
 * debt. */
static uint64_t relay_request_bytes(const struct relay_conn *c, enum io_op op,
                                    const struct nbd_request *q)
{
    if (io_op_direction(op) == IO_DIR_NONE)
        return 0;
    uint64_t bytes = q->length < UINT32_MAX ? q->length : UINT32_MAX;
    return c->stream->size > 0 && bytes > c->stream->size ? c->stream->size : bytes;
}

/* Whether the payload of @s, held, may go to the hold ring now. */
static bool relay_hold_takes(struct relay_conn *c, const struct relay_slot *s)
{
    return io_op_direction(s->io.op) == IO_DIR_WRITE && relay_hold_room(c, c->payload_left);
}

static void relay_request_hold(struct relay_conn *c, struct relay_slot *s, size_t size,
                               uint64_t payload)
{
    const uint8_t *header = c->input.data + c->input.parsed;
    s->conn = c;
    s->held_bytes = 0;
    memcpy(s->header, header, size);
    s->header_size = (uint8_t)size;
    nbd_request_set_cookie(s->header, s->cookie);
    c->undispatched++;
    relay_out_skip(&c->out, size);
    c->payload_left = payload;
    if (payload == 0)
        return;
    c->payload_slot = s;
    c->host_mode = RELAY_HOST_HOLD;
    if (!relay_hold_takes(c, s)) {
        c->host_mode = RELAY_HOST_BLOCKED;
        c->relay->counts->hold_full++;
    }
}

static void relay_request_submit(struct relay_conn *c, struct relay_batch *b,
                                 const struct nbd_request *q, size_t size)
{
    uint8_t *header = c->input.data + c->input.parsed;
    uint64_t payload = nbd_request_payload(q, c->extended);
    struct relay_slot *s = relay_slot_get(c);
    enum io_op op = relay_request_op(q->type);
    uint64_t bytes = relay_request_bytes(c, op, q);
    s->host_cookie = q->cookie;
    s->length = q->length;
    s->cmd = q->type;
    s->io.op = op;
    s->io.bytes = bytes;
    s->io.arrived_ns = b->now_ns;
    if (!relay_batch_gate(b, c, &s->io)) {
        s->state = RELAY_SLOT_HELD;
        relay_request_hold(c, s, size, payload);
        return;
    }
    if (!relay_batch_turn(b, c, &s->turn, op, bytes)) {
        s->state = RELAY_SLOT_QUEUED;
        relay_request_hold(c, s, size, payload);
        return;
    }
    nbd_request_set_cookie(header, s->cookie);
    relay_out_pass(&c->out, size);
    relay_slot_dispatched(c, s, b->now_ns);
    b->dispatched++;
    c->payload_left = payload;
    if (payload > 0) {
        c->host_mode = RELAY_HOST_PASS;
        c->passing = s;
    }
}

/* The host broke the protocol. Returns -1. */
static int relay_host_guilty(struct relay_conn *c, struct relay_batch *b, const char *words)
{
    relay_batch_settle(b, c);
    relay_conn_close(c, RELAY_CLOSE_HOST_PROTOCOL, words);
    return -1;
}

/* One request header at the front of the input. 1: taken, 0: not now, -1: @c is gone. */
static int relay_host_header(struct relay_conn *c, struct relay_batch *b)
{
    if (!list_empty(&c->released))
        relay_host_dispatch_released(c, b->now_ns);
    weir_assert(c->host_mode == RELAY_HOST_HEADER);
    if (!list_empty(&c->released) || !relay_slot_ready(c) ||
        !relay_out_ready(&c->out))
        return 0;
    struct nbd_request q;
    int size = nbd_request_parse(c->input.data + c->input.parsed, c->input.end - c->input.parsed,
                                 c->extended, &q);
    if (size == 0)
        return 0;
    if (size < 0)
        return relay_host_guilty(c, b, "host sent a bad request magic");
    if (q.type != NBD_CMD_DISC) {
        relay_request_submit(c, b, &q, (size_t)size);
        return 1;
    }
    if (nbd_request_payload(&q, c->extended) > 0)
        return relay_host_guilty(c, b, "host sent DISC with a payload");
    c->host_mode = RELAY_HOST_DISC;
    relay_conn_drain(c, RELAY_CLOSE_HOST_DISCONNECTED);
    return 1;
}

/* Payload at the front of the input, in PASS or HOLD. False: nothing moved. */
static bool relay_host_payload(struct relay_conn *c, uint64_t now_ns)
{
    size_t left = c->input.end - c->input.parsed;
    size_t n = left < c->payload_left ? left : (size_t)c->payload_left;
    if (n == 0 || !relay_out_ready(&c->out))
        return false;
    if (c->host_mode == RELAY_HOST_PASS) {
        relay_out_pass(&c->out, n);
    } else {
        weir_assert(c->payload_slot != NULL);
        relay_out_hold(&c->out, n);
        c->payload_slot->held_bytes += (uint32_t)n;
    }
    c->payload_left -= n;
    if (c->payload_left == 0) {
        c->payload_slot = NULL;
        c->host_mode = RELAY_HOST_HEADER;
        if (c->passing != NULL && c->passing->turn.suspended)
            sched_resume(c->stream->port->sched, &c->passing->turn, now_ns);
        c->passing = NULL;
    }
    return true;
}

/* Take the input apart as far as it goes. False: @c is gone. */
static bool relay_host_parse(struct relay_conn *c, struct relay_batch *b)
{
    for (;;) {
        switch (c->host_mode) {
        case RELAY_HOST_HEADER: {
            int ret = relay_host_header(c, b);
            if (ret <= 0)
                return ret == 0;
            break;
        }
        case RELAY_HOST_PASS:
        case RELAY_HOST_HOLD:
            if (!relay_host_payload(c, b->now_ns))
                return true;
            break;
        case RELAY_HOST_BLOCKED:
            if (!relay_hold_takes(c, c->payload_slot))
                return true;
            c->host_mode = RELAY_HOST_HOLD;
            break;
        case RELAY_HOST_DISC:
            if (c->undispatched > 0 || !relay_out_ready(&c->out))
                return true;
            relay_out_pass(&c->out, c->extended ? NBD_REQUEST_EXT_SIZE : NBD_REQUEST_SIZE);
            c->host_mode = RELAY_HOST_END;
            return true;
        case RELAY_HOST_END:
            return true;
        }
    }
}

/* --- the host's end --- */

/* Whether DISC is among the bytes not yet taken apart, all of which are here: the host has
 * closed. */
static bool relay_host_disc_ahead(const struct relay_conn *c)
{
    size_t at = c->input.parsed;
    uint64_t skip = c->payload_left;
    while (skip <= c->input.end - at) {
        struct nbd_request q;
        at += (size_t)skip;
        int size = nbd_request_parse(c->input.data + at, c->input.end - at, c->extended, &q);
        if (size <= 0)
            return false;
        if (q.type == NBD_CMD_DISC)
            return true;
        at += (size_t)size;
        skip = nbd_request_payload(&q, c->extended);
    }
    return false;
}

/* The host's stream has ended, and not by DISC as far as it was taken apart. */
static void relay_host_ended(struct relay_conn *c)
{
    if (c->host.error) {
        c->host.dead = true;
    } else {
        c->disc_ahead = c->disc_ahead || relay_host_disc_ahead(c);
        if (c->disc_ahead)
            return;
    }
    relay_host_forget(c);
    relay_conn_drain(c, relay_close_of_host(&c->host));
}

/* --- the pump --- */

/* The host stalls in the middle of a payload: what cannot be sent before its rest comes takes no
 * part of the target's window. */
static void relay_host_stalled(struct relay_conn *c, uint64_t now_ns)
{
    struct sched *sched = c->stream->port->sched;
    if (c->passing != NULL)
        sched_suspend(sched, &c->passing->turn, now_ns);
    list_for_each(l, &c->released)
        sched_suspend(sched, &container_of(l, struct relay_slot, link)->turn, now_ns);
}

/* With nothing held there is one piece, and it can go together with what others send. */
static bool relay_host_put_off(struct relay_conn *c)
{
    size_t n = relay_out_plain(&c->out);
    if (n == 0 || c->input.data == c->input.own || c->state != RELAY_TRANSMITTING ||
        c->host.hangup ||
        !relay_side_put_off(&c->target, c->input.data + c->input.start, n))
        return false;
    relay_lent(c->relay, c->input.start + n);
    relay_out_sent(&c->out, n);
    return true;
}

static void relay_host_send(struct relay_conn *c, bool *ret_progress)
{
    if (c->out.pending == 0 || relay_host_put_off(c))
        return;
    struct iovec iov[RELAY_OUT_IOV];
    while (c->out.pending > 0 && c->target.writable && !c->target.dead) {
        size_t bytes;
        int count = relay_out_gather(&c->out, iov, &bytes);
        size_t n = relay_side_send(&c->target, iov, count);
        relay_out_sent(&c->out, n);
        *ret_progress |= n > 0;
        if (n < bytes)
            break;
    }
    if (c->hold_more)
        relay_hold_shrink(c);
}

bool relay_host_pump(struct relay_conn *c, uint64_t now_ns, bool *ret_progress)
{
    if (c->state == RELAY_TRANSMITTING && c->host.readable) {
        relay_input_borrow(&c->input, relay_lend(c->relay));
        size_t room = relay_input_room(&c->input);
        size_t n = room > 0 ? relay_side_read(&c->host, c->input.data + c->input.end, room) : 0;
        if (n > 0) {
            c->input.end += n;
            c->stream->last_io_ns = now_ns;
            *ret_progress = true;
        }
    }
    relay_host_dispatch_released(c, now_ns);
    struct relay_batch batch;
    relay_batch_begin(&batch, c, now_ns);
    if (!relay_host_parse(c, &batch))
        return false;
    relay_batch_settle(&batch, c);
    if (c->host_mode == RELAY_HOST_PASS)
        relay_host_stalled(c, now_ns);
    if (c->host.eof && c->state == RELAY_TRANSMITTING) {
        relay_host_ended(c);
        *ret_progress |= c->state == RELAY_DRAINING; /* replies may now go nowhere, at once */
    }
    relay_host_send(c, ret_progress);
    relay_input_keep(&c->input);
    return true;
}
