/* SPDX-License-Identifier: Apache-2.0 */
/* What a stream did: counters per operation and three histograms for reads and for writes. */
#ifndef WEIR_QOS_METER_H
#define WEIR_QOS_METER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "qos/hist.h"

/* The operations every block protocol has. */
enum io_op {
    IO_READ,
    IO_WRITE,
    IO_FLUSH,
    IO_TRIM,
    IO_WRITE_ZEROES,
    IO_CACHE,
    IO_BLOCK_STATUS,
    IO_OTHER,
    IO_OP_COUNT,
};

/* "read", "write", "flush", "trim", "write_zeroes", "cache", "block_status", "other". */
const char *io_op_name(enum io_op op);

/* Which direction an operation is charged to: READ, CACHE read; WRITE, TRIM, WRITE_ZEROES write. */
enum io_direction { IO_DIR_READ, IO_DIR_WRITE, IO_DIR_NONE };
/* A table of two bits an operation, since every request asks for it several times. */
#define IO_OP_DIRECTIONS                                                                       \
    ((unsigned)IO_DIR_READ << 2 * IO_READ | (unsigned)IO_DIR_READ << 2 * IO_CACHE |            \
     (unsigned)IO_DIR_WRITE << 2 * IO_WRITE | (unsigned)IO_DIR_WRITE << 2 * IO_TRIM |          \
     (unsigned)IO_DIR_WRITE << 2 * IO_WRITE_ZEROES | (unsigned)IO_DIR_NONE << 2 * IO_FLUSH |   \
     (unsigned)IO_DIR_NONE << 2 * IO_BLOCK_STATUS | (unsigned)IO_DIR_NONE << 2 * IO_OTHER)
static inline enum io_direction io_op_direction(enum io_op op)
{
    weir_assert(op < IO_OP_COUNT);
    return (enum io_direction)(IO_OP_DIRECTIONS >> 2 * op & 3u);
}

/* Cumulative; in flight = arrivals - completions - dropped. */
struct meter_op {
    uint64_t arrivals;       /* requests that came from the host */
    uint64_t completions;    /* answered by the target, with or without error */
    uint64_t errors;         /* answered with an error */
    uint64_t bytes;          /* of completions: length; 0 where an op moves none */
    uint64_t bytes_arrived;  /* of arrivals */
    uint64_t held;           /* requests that had to wait for a limit */
    uint64_t held_ns;        /* time those spent waiting */
    uint64_t dropped;        /* arrived and never dispatched (host vanished), or target gone */
};

enum meter_hist { METER_HELD, METER_TARGET, METER_TOTAL, METER_HIST_COUNT };
const char *meter_hist_name(enum meter_hist h); /* "held", "target", "total" */

enum meter_change { METER_STANDS, METER_ARRIVING, METER_COMPLETING };

/* What was before the change under way; see meter.c. */
struct meter_undo {
    uint32_t change;         /* enum meter_change */
    uint32_t op;
    uint32_t count;          /* I/Os counted at once */
    uint32_t bucket[METER_HIST_COUNT];
    struct meter_op was;
    uint64_t sum_ns[METER_HIST_COUNT];
};

/* One a stream: 77 KiB. Histograms are kept for IO_DIR_READ and IO_DIR_WRITE. Owner thread only.
 * It may lie in memory that outlives its process: see meter_repair. */
struct meter {
    struct meter_undo undo;
    struct meter_op op[IO_OP_COUNT];
    struct hist hist[2][METER_HIST_COUNT]; /* [direction][kind] */
    uint64_t max_hold_hits; /* I/Os let go because they reached max-hold */
};

void meter_arrive(struct meter *m, enum io_op op, uint64_t bytes);
/* The target answered: @held_ns waiting for limits, @target_ns from dispatch to the first byte of
 * the last reply, @total_ns from arrival. */
void meter_complete(struct meter *m, enum io_op op, uint64_t bytes, bool error, uint64_t held_ns,
                    uint64_t target_ns, uint64_t total_ns);
/* @n I/Os of one batch as one change, @bytes together. Those answered were not held and did not
 * fail, and their times are the same. */
void meter_arrive_many(struct meter *m, enum io_op op, uint32_t n, uint64_t bytes);
void meter_complete_many(struct meter *m, enum io_op op, uint32_t n, uint64_t bytes,
                         uint64_t target_ns, uint64_t total_ns);
void meter_drop(struct meter *m, enum io_op op);
uint64_t meter_inflight(const struct meter *m, enum io_op op);

/* The process that counted in @m was killed, between any two instructions: an I/O that was half
 * counted is taken back, and what was in flight is counted as dropped. May be killed and repeated
 * itself. */
void meter_repair(struct meter *m);
/* Whether anything ever arrived. */
bool meter_used(const struct meter *m);
/* into += from, both at rest; of two meters of one stream. */
void meter_merge_ops(struct meter_op into[IO_OP_COUNT], const struct meter *from);
void meter_merge(struct meter *into, const struct meter *from);

#endif
