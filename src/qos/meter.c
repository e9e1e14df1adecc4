/* SPDX-License-Identifier: Apache-2.0 */
/* The meter of a stream.
 *
 * Problem: counters must grow over a worker's death as if nothing had happened, yet one I/O changes
 * a dozen of them, and SIGKILL comes between any two instructions.
 *
 * Model: the meter lies in memory that another process can map. Before a change, `undo` says which
 * I/O it is and what the counters were that cannot be worked out afterwards; `undo.change` is set
 * last and taken back when the change is complete. Whoever takes the meter over and finds it set
 * takes the change back (meter_repair).
 *
 * Why that is enough: a process dies between two instructions, those before carried out wholly and
 * in the order of the program, those behind not at all; only the compiler might reorder, and the
 * fences forbid it. Each store is one aligned word, so a counter is never half written.
 *   - Killed before `change` is set: no counter was touched.
 *   - Killed while it is set: the counters of the operation and the sums are put back from `undo`.
 *     A histogram's count and bucket follow from invariant 1: if the buckets add up to more than
 *     the completions, by as many I/Os as `undo` says, then the bucket that it names was raised and
 *     is lowered again.
 *   - Killed after it is taken back: the change is complete.
 * A batch whose I/Os share operation and times is one change (meter_arrive_many,
 * meter_complete_many), counted before any of it goes on.
 * All of the repair may be done twice, hence may be interrupted as well. Only max_ns, which never
 * falls, may keep the value of an I/O that was taken back; its answer did come.
 *
 * Invariants, while no change is under way:
 *   1. Of each direction, each histogram's count and the sum of its buckets are the completions of
 *      all operations of that direction.
 *   2. completions + dropped <= arrivals.
 *
 * test_kill.c stops a process after every single instruction. */
#include "qos/meter.h"

#include <stdatomic.h>

#include "base/assert.h"

/* Nothing may be moved across by the compiler; costs nothing else. */
static inline void meter_fence(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void meter_begin(struct meter *m, enum meter_change change)
{
    meter_fence();
    m->undo.change = (uint32_t)change;
    meter_fence();
}

static inline void meter_end(struct meter *m)
{
    meter_fence();
    m->undo.change = METER_STANDS;
    meter_fence();
}

const char *io_op_name(enum io_op op)
{
    switch (op) {
    case IO_READ:
        return "read";
    case IO_WRITE:
        return "write";
    case IO_FLUSH:
        return "flush";
    case IO_TRIM:
        return "trim";
    case IO_WRITE_ZEROES:
        return "write_zeroes";
    case IO_CACHE:
        return "cache";
    case IO_BLOCK_STATUS:
        return "block_status";
    case IO_OTHER:
        return "other";
    case IO_OP_COUNT:
        break;
    }
    weir_assert(!"an operation out of its enum");
    return "";
}

_Static_assert(2 * IO_OP_COUNT <= 32, "IO_OP_DIRECTIONS has two bits for each operation");

const char *meter_hist_name(enum meter_hist h)
{
    switch (h) {
    case METER_HELD:
        return "held";
    case METER_TARGET:
        return "target";
    case METER_TOTAL:
        return "total";
    case METER_HIST_COUNT:
        break;
    }
    weir_assert(!"a histogram out of its enum");
    return "";
}

/* Bytes that an operation moves for its host; the others carry a length but move nothing. */
static bool meter_moves_bytes(enum io_op op)
{
    return io_op_direction(op) != IO_DIR_NONE;
}

void meter_arrive_many(struct meter *m, enum io_op op, uint32_t n, uint64_t bytes)
{
    weir_assert(op < IO_OP_COUNT);
    struct meter_op *c = &m->op[op];
    if (!meter_moves_bytes(op)) {
        c->arrivals += n;
        return;
    }
    m->undo.op = (uint32_t)op;
    m->undo.was.arrivals = c->arrivals;
    m->undo.was.bytes_arrived = c->bytes_arrived;
    meter_begin(m, METER_ARRIVING);
    c->arrivals += n;
    c->bytes_arrived += bytes;
    meter_end(m);
}

void meter_arrive(struct meter *m, enum io_op op, uint64_t bytes)
{
    meter_arrive_many(m, op, 1, bytes);
}

/* @n answers; if it is one, @error and @held_ns are its own. */
static inline void meter_count_completion(struct meter_op *c, enum io_op op, uint32_t n,
                                          uint64_t bytes, bool error, uint64_t held_ns)
{
    c->completions += n;
    weir_assert(c->completions + c->dropped <= c->arrivals);
    if (error)
        c->errors++;
    if (meter_moves_bytes(op))
        c->bytes += bytes;
    if (held_ns > 0) {
        c->held++;
        c->held_ns += held_ns;
    }
}

/* Note what was, so that the change can be taken back. */
static inline void meter_note(struct meter *m, enum io_op op, uint32_t n, uint64_t held_ns,
                              uint64_t target_ns, uint64_t total_ns)
{
    enum io_direction dir = io_op_direction(op);
    m->undo.op = (uint32_t)op;
    m->undo.was = m->op[op];
    if (dir == IO_DIR_NONE)
        return;
    const struct hist *h = m->hist[dir];
    m->undo.count = n;
    m->undo.bucket[METER_HELD] = hist_index(held_ns);
    m->undo.bucket[METER_TARGET] = hist_index(target_ns);
    /* As a rule it was not held, and both are the same. */
    m->undo.bucket[METER_TOTAL] =
        total_ns == target_ns ? m->undo.bucket[METER_TARGET] : hist_index(total_ns);
    m->undo.sum_ns[METER_HELD] = h[METER_HELD].sum_ns;
    m->undo.sum_ns[METER_TARGET] = h[METER_TARGET].sum_ns;
    m->undo.sum_ns[METER_TOTAL] = h[METER_TOTAL].sum_ns;
}

static inline void meter_answered(struct meter *m, enum io_op op, uint32_t n, uint64_t bytes,
                                  bool error, uint64_t held_ns, uint64_t target_ns,
                                  uint64_t total_ns)
{
    weir_assert(op < IO_OP_COUNT);
    enum io_direction dir = io_op_direction(op);
    meter_note(m, op, n, held_ns, target_ns, total_ns);
    meter_begin(m, METER_COMPLETING);
    meter_count_completion(&m->op[op], op, n, bytes, error, held_ns);
    if (dir != IO_DIR_NONE) {
        struct hist *h = m->hist[dir];
        hist_record_at(&h[METER_HELD], m->undo.bucket[METER_HELD], n, held_ns);
        hist_record_at(&h[METER_TARGET], m->undo.bucket[METER_TARGET], n, target_ns);
        hist_record_at(&h[METER_TOTAL], m->undo.bucket[METER_TOTAL], n, total_ns);
    }
    meter_end(m);
}

void meter_complete(struct meter *m, enum io_op op, uint64_t bytes, bool error, uint64_t held_ns,
                    uint64_t target_ns, uint64_t total_ns)
{
    meter_answered(m, op, 1, bytes, error, held_ns, target_ns, total_ns);
}

void meter_complete_many(struct meter *m, enum io_op op, uint32_t n, uint64_t bytes,
                         uint64_t target_ns, uint64_t total_ns)
{
    weir_assert(n > 0);
    meter_answered(m, op, n, bytes, false, 0, target_ns, total_ns);
}

void meter_drop(struct meter *m, enum io_op op)
{
    weir_assert(op < IO_OP_COUNT);
    m->op[op].dropped++;
    weir_assert(m->op[op].completions + m->op[op].dropped <= m->op[op].arrivals);
}

uint64_t meter_inflight(const struct meter *m, enum io_op op)
{
    weir_assert(op < IO_OP_COUNT);
    const struct meter_op *c = &m->op[op];
    return c->arrivals - c->completions - c->dropped;
}

/* ---- after a death --------------------------------------------------------------------------- */

static uint64_t meter_completions(const struct meter *m, enum io_direction dir)
{
    uint64_t n = 0;
    for (int i = 0; i < IO_OP_COUNT; i++)
        n += io_op_direction((enum io_op)i) == dir ? m->op[i].completions : 0;
    return n;
}

/* Take an I/O back that was counted in part. */
static void meter_undo_hist(struct meter *m, enum io_direction dir, enum meter_hist kind)
{
    struct hist *h = &m->hist[dir][kind];
    uint32_t at = m->undo.bucket[kind];
    uint64_t count = meter_completions(m, dir), sum = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        sum += h->bucket[i];
    uint64_t n = m->undo.count;
    if (sum == count + n && at < HIST_BUCKETS && h->bucket[at] >= n)
        h->bucket[at] -= n;
    h->sum_ns = m->undo.sum_ns[kind];
    h->count = count;
}

static void meter_undo(struct meter *m)
{
    struct meter_op *c = &m->op[m->undo.op];
    if (m->undo.change == METER_ARRIVING) {
        c->arrivals = m->undo.was.arrivals;
        c->bytes_arrived = m->undo.was.bytes_arrived;
        return;
    }
    *c = m->undo.was;
    enum io_direction dir = io_op_direction((enum io_op)m->undo.op);
    for (int k = 0; k < METER_HIST_COUNT && dir != IO_DIR_NONE; k++)
        meter_undo_hist(m, dir, (enum meter_hist)k);
}

void meter_repair(struct meter *m)
{
    if (m->undo.change != METER_STANDS && m->undo.op < IO_OP_COUNT)
        meter_undo(m);
    meter_end(m);
    for (int i = 0; i < IO_OP_COUNT; i++) {
        struct meter_op *c = &m->op[i];
        /* Never so unless the dead process wrote where it should not have. */
        if (c->completions > c->arrivals)
            c->arrivals = c->completions;
        c->dropped = c->arrivals - c->completions;
    }
}

bool meter_used(const struct meter *m)
{
    for (int i = 0; i < IO_OP_COUNT; i++)
        if (m->op[i].arrivals > 0)
            return true;
    return false;
}

void meter_merge_ops(struct meter_op into[IO_OP_COUNT], const struct meter *from)
{
    for (int i = 0; i < IO_OP_COUNT; i++) {
        into[i].arrivals += from->op[i].arrivals;
        into[i].completions += from->op[i].completions;
        into[i].errors += from->op[i].errors;
        into[i].bytes += from->op[i].bytes;
        into[i].bytes_arrived += from->op[i].bytes_arrived;
        into[i].held += from->op[i].held;
        into[i].held_ns += from->op[i].held_ns;
        into[i].dropped += from->op[i].dropped;
    }
}

void meter_merge(struct meter *into, const struct meter *from)
{
    meter_merge_ops(into->op, from);
    for (int d = 0; d < 2; d++)
        for (int k = 0; k < METER_HIST_COUNT; k++)
            if (from->hist[d][k].count > 0)
                hist_merge(&into->hist[d][k], &from->hist[d][k]);
    into->max_hold_hits += from->max_hold_hits;
}
