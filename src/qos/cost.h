/* SPDX-License-Identifier: Apache-2.0 */
/* Cost of an I/O: the nanoseconds of one server of the device that it takes.
 *
 * cost(op, size) = base[direction] + pages(size) * page[direction], a page being 4 KiB: the linear
 * model of Linux' blk-iocost. Summed over what is answered in a second it is the mean number of
 * busy servers (Little's law), so costs of many gateways add up. Only ratios matter to shares by
 * weight; the absolute figures matter where latency is split into service and wait. */
#ifndef WEIR_QOS_COST_H
#define WEIR_QOS_COST_H
#include <stdbool.h>
#include <stdint.h>

#include "qos/meter.h"

#define COST_PAGE 4096u
/* Of one I/O at most: a minute of a server. */
#define COST_MAX_NS UINT64_C(60000000000)

struct cost_model {
    uint64_t base_ns[2]; /* IO_DIR_READ, IO_DIR_WRITE */
    uint64_t page_ns[2];
};

/* A device of 100 us and 500 MB/s a server, when nothing is known. */
struct cost_model cost_default(void);
bool cost_is_set(const struct cost_model *m);

/* At least 1; IO_DIR_NONE costs a base of a write for FLUSH and 1 for the rest. */
uint64_t cost_of(const struct cost_model *m, enum io_op op, uint64_t bytes);

/* Finds the model from latencies of I/Os that (almost) nobody waited before: for reads and for
 * writes the least mean latency of small and of large I/Os over the last COST_LEARN_ROUNDS rounds.
 * Owner thread only. */
#define COST_LEARN_ROUNDS  8u
#define COST_LEARN_CLASSES 2u /* up to 16 KiB, above */

struct cost_learn_class {
    uint64_t ios, pages, latency_ns; /* of this round */
    struct {
        uint64_t latency_ns, pages; /* means of a round; pages 0: nothing seen */
    } round[COST_LEARN_ROUNDS];
};
struct cost_learn {
    struct cost_learn_class of[2][COST_LEARN_CLASSES];
    uint32_t at;
    struct cost_model found;
    bool any;
};

void cost_learn_init(struct cost_learn *l);
void cost_learn_answer(struct cost_learn *l, enum io_op op, uint64_t bytes, uint64_t latency_ns);
/* Once a second or so: closes the round. True when `found` changed. */
bool cost_learn_round(struct cost_learn *l);

#endif
