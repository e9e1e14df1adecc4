/* SPDX-License-Identifier: Apache-2.0 */
#include "qos/meter.h"

#include "base/assert.h"

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

void meter_arrive(struct meter *m, enum io_op op, uint64_t bytes)
{
    weir_assert(op < IO_OP_COUNT);
    struct meter_op *c = &m->op[op];
    c->arrivals++;
    if (meter_moves_bytes(op))
        c->bytes_arrived += bytes;
}

void meter_complete(struct meter *m, enum io_op op, uint64_t bytes, bool error, uint64_t held_ns,
                    uint64_t target_ns, uint64_t total_ns)
{
    weir_assert(op < IO_OP_COUNT);
    struct meter_op *c = &m->op[op];
    c->completions++;
    weir_assert(c->completions + c->dropped <= c->arrivals);
    if (error)
        c->errors++;
    if (meter_moves_bytes(op))
        c->bytes += bytes;
    if (held_ns > 0) {
        c->held++;
        c->held_ns += held_ns;
    }
    enum io_direction dir = io_op_direction(op);
    if (dir == IO_DIR_NONE)
        return;
    hist_record(&m->hist[dir][METER_HELD], held_ns);
    hist_record(&m->hist[dir][METER_TARGET], target_ns);
    hist_record(&m->hist[dir][METER_TOTAL], total_ns);
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
