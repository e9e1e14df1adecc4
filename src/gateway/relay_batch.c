/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: to count an I/O so that a killed worker leaves whole counters, to judge it, to charge it
 * and to tell the scheduler of it costs some 900 instructions, nearly all of them the same for each
 * of the I/Os that came in one read.
 *
 * Model: while a walk goes through what was read it adds up, and the ledger sees the sums once:
 *
 *   requests   gate:  a pass (qos/pass.c) lets READs and WRITEs go, and pays at its end; none
 *                     where no limit covers the stream
 *              meter: arrivals, one change for reads and one for writes
 *   answers    meter: those asked and dispatched at the same times are one change
 *   both       scheduler: while there is no window it only counts
 *
 * Whatever is not plain is told by itself as before: other operations, what the pass does not let
 * go, what was held, what failed, everything while the target has a window.
 *
 * Invariants:
 *  1. Settled before it is sent: a worker killed at any instruction has let nothing reach a target
 *     that was not charged, nor a host that was not counted.
 *  2. While the pass is open nothing else asks the gate, and no other worker touches its buckets.
 *  3. An arrival is told to the meter before its answer is: an answer comes in a later walk. */
#include "gateway/relay_batch.h"

#include "base/assert.h"

_Static_assert(IO_READ == 0, "arrays of reads and writes");
_Static_assert(IO_WRITE == 1, "arrays of reads and writes");
_Static_assert(IO_READ == (int)IO_DIR_READ, "READ and WRITE are their directions");
_Static_assert(IO_WRITE == (int)IO_DIR_WRITE, "READ and WRITE are their directions");

/* --- requests --- */

void relay_batch_begin(struct relay_batch *b, struct relay_conn *c, uint64_t now_ns)
{
    b->now_ns = now_ns;
    b->counts_only = target_counts_only(c->stream->port, &c->stream->turn);
    b->single = b->passing = false;
    b->free = pass_needless(&c->stream->flow);
    b->dispatched = 0;
    b->arrived[IO_READ] = b->arrived[IO_WRITE] = 0;
    b->bytes[IO_READ] = b->bytes[IO_WRITE] = 0;
    b->cost_op = IO_OP_COUNT;
    b->cost_bytes = 0;
    b->went = (struct sched_run){0};
}

void relay_batch_open(struct relay_batch *b, struct relay_conn *c)
{
    if (b->single)
        return;
    b->entered = ledger_enter(c->relay->share, c->relay->bank);
    pass_open(&b->pass, &c->stream->flow, b->now_ns);
    b->passing = true;
}

static void relay_batch_close(struct relay_batch *b, struct relay_conn *c)
{
    if (!b->passing)
        return;
    pass_close(&b->pass);
    ledger_leave(c->relay->share, b->entered);
    b->passing = false;
}

bool relay_batch_ask(struct relay_batch *b, struct relay_conn *c, struct gate_io *io)
{
    if (io->op > IO_WRITE)
        meter_arrive(c->stream->meter, io->op, io->bytes);
    else
        b->single = true; /* what comes behind one that is held is held too, as a rule */
    relay_batch_close(b, c);
    bool entered = ledger_enter(c->relay->share, c->relay->bank);
    bool goes = gate_submit(c->relay->gate, &c->stream->flow, io, b->now_ns);
    ledger_leave(c->relay->share, entered);
    return goes;
}

void relay_batch_price(struct relay_batch *b, struct relay_conn *c, enum io_op op, uint64_t bytes)
{
    b->cost_op = op;
    b->cost_bytes = bytes;
    b->cost_ns = cost_of(sched_cost(c->stream->port->sched), op, bytes);
}

void relay_batch_settle(struct relay_batch *b, struct relay_conn *c)
{
    relay_batch_close(b, c);
    for (int op = IO_READ; op <= IO_WRITE; op++) {
        if (b->arrived[op] > 0)
            meter_arrive_many(c->stream->meter, (enum io_op)op, b->arrived[op], b->bytes[op]);
        b->arrived[op] = 0;
        b->bytes[op] = 0;
    }
    if (b->went.n > 0)
        sched_submit_run(c->stream->port->sched, &c->stream->turn, &b->went);
    b->went = (struct sched_run){0};
    c->stats->inflight += b->dispatched;
    b->dispatched = 0;
}

/* --- answers --- */

void relay_answers_begin(struct relay_answers *a, struct relay_conn *c, uint64_t now_ns)
{
    *a = (struct relay_answers){
        .now_ns = now_ns,
        .counts_only = target_counts_only(c->stream->port, &c->stream->turn),
    };
}

void relay_answers_count(struct relay_answers *a, struct relay_conn *c, enum io_op op)
{
    struct relay_answers_run *run = &a->run[op];
    if (run->n > 0)
        meter_complete_many(c->stream->meter, op, run->n, run->bytes,
                            a->now_ns - run->dispatched_ns, a->now_ns - run->arrived_ns);
    run->n = 0;
    run->bytes = 0;
}

void relay_answers_settle(struct relay_answers *a, struct relay_conn *c)
{
    relay_answers_count(a, c, IO_READ);
    relay_answers_count(a, c, IO_WRITE);
    if (a->served.n == 0)
        return;
    sched_complete_run(c->stream->port->sched, &c->stream->turn, &a->served);
    weir_assert(c->stats->inflight >= a->served.n);
    c->stats->inflight -= a->served.n;
    a->served = (struct sched_run){0};
}
