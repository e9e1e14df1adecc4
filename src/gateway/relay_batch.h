/* SPDX-License-Identifier: Apache-2.0 */
/* What the pumps of a connection count once a batch instead of once an I/O: private to relay*.c.
 *
 * A batch is what one turn of a pump walks; all of it has one time. Both kinds live on the stack of
 * a walk and are settled before anything of the batch is sent, and before the connection is closed
 * in the middle of it. See relay_batch.c. */
#ifndef WEIR_GATEWAY_RELAY_BATCH_H
#define WEIR_GATEWAY_RELAY_BATCH_H
#include <stdbool.h>
#include <stdint.h>

#include "gateway/relay_conn.h"
#include "qos/pass.h"

/* Requests. */
struct relay_batch {
    uint64_t now_ns;
    bool counts_only; /* no window: the scheduler is told of all at once */
    bool single;      /* the pass lets no more go: ask the gate for each */
    bool free;        /* no limit covers the stream, nobody waits: all go */
    bool passing;     /* the pass is open */
    bool entered;     /* it holds the ledger's lock */
    uint32_t dispatched;
    uint32_t arrived[2]; /* IO_READ, IO_WRITE: not yet told to the meter */
    uint64_t bytes[2];
    enum io_op cost_op; /* what the last one costs */
    uint64_t cost_bytes, cost_ns;
    struct sched_run went;
    struct pass pass;
};

void relay_batch_begin(struct relay_batch *b, struct relay_conn *c, uint64_t now_ns);
/* Tell meter, gate and scheduler. May be gone on with. */
void relay_batch_settle(struct relay_batch *b, struct relay_conn *c);

/* For the inline functions below. */
void relay_batch_open(struct relay_batch *b, struct relay_conn *c);
bool relay_batch_ask(struct relay_batch *b, struct relay_conn *c, struct gate_io *io);
void relay_batch_price(struct relay_batch *b, struct relay_conn *c, enum io_op op, uint64_t bytes);

/* Count the arrival of @io, and ask whether the gate lets it go. */
static inline bool relay_batch_gate(struct relay_batch *b, struct relay_conn *c, struct gate_io *io)
{
    enum io_op op = io->op;
    if (op > IO_WRITE)
        return relay_batch_ask(b, c, io);
    b->arrived[op]++;
    b->bytes[op] += io->bytes;
    if (!b->free) {
        if (!b->passing)
            relay_batch_open(b, c);
        if (b->single || !pass_take(&b->pass, (enum io_direction)op, io->bytes))
            return relay_batch_ask(b, c, io);
    }
    io->queued = io->was_held = false;
    return true;
}

/* Ask whether it is the turn of @turn at the target. */
static inline bool relay_batch_turn(struct relay_batch *b, struct relay_conn *c,
                                    struct sched_io *turn, enum io_op op, uint64_t bytes)
{
    struct sched_flow *f = &c->stream->turn;
    turn->op = op;
    turn->bytes = bytes;
    if (op > IO_WRITE || !b->counts_only)
        return sched_submit(c->stream->port->sched, f, turn, b->now_ns);
    if (b->cost_bytes != bytes || b->cost_op != op)
        relay_batch_price(b, c, op, bytes);
    sched_went(&b->went, f, turn, b->cost_ns, b->now_ns);
    return true;
}

/* Answers that count alike: of one operation, asked and sent at the same times. */
struct relay_answers_run {
    uint32_t n;
    uint64_t bytes, arrived_ns, dispatched_ns;
};

struct relay_answers {
    uint64_t now_ns;
    bool counts_only; /* nothing learns from single answers */
    struct relay_answers_run run[2]; /* IO_READ, IO_WRITE: not yet told to the meter */
    struct sched_run served;
};

void relay_answers_begin(struct relay_answers *a, struct relay_conn *c, uint64_t now_ns);
void relay_answers_settle(struct relay_answers *a, struct relay_conn *c);
void relay_answers_count(struct relay_answers *a, struct relay_conn *c, enum io_op op);

/* Count the last word on @s, and give it back. False, and nothing done: it must be told by
 * itself. */
static inline bool relay_answers_take(struct relay_answers *a, struct relay_conn *c,
                                      struct relay_slot *s)
{
    enum io_op op = s->io.op;
    if (!a->counts_only || op > IO_WRITE || s->error || s->io.was_held || !s->turn.slot)
        return false;
    struct relay_answers_run *run = &a->run[op];
    if (run->arrived_ns != s->io.arrived_ns || run->dispatched_ns != s->dispatched_ns) {
        relay_answers_count(a, c, op);
        run->arrived_ns = s->io.arrived_ns;
        run->dispatched_ns = s->dispatched_ns;
    }
    run->n++;
    run->bytes += s->io.bytes;
    sched_answered(&a->served, &s->turn, a->now_ns);
    relay_slot_answered(c, s);
    return true;
}

#endif
