/* SPDX-License-Identifier: Apache-2.0 */
/* A batch of newcomers at the gate: one look at the buckets for all of them, one payment.
 *
 * What comes from one host in one read has one time. A pass asks the buckets once how much they let
 * go, lets READs and WRITEs go as long as gate_submit would, each at the cost of four numbers, and
 * pays for all of them when it is closed. Between open and close nothing else may touch the gate.
 *
 * Of a flow that no limit covers and where nobody waits (pass_needless) everything goes, and there
 * is nothing to ask and nothing to pay: no pass is opened.
 *
 * Pure; owner thread only; never allocates. */
#ifndef WEIR_QOS_PASS_H
#define WEIR_QOS_PASS_H
#include <stdbool.h>
#include <stdint.h>

#include "qos/gate.h"

enum pass_way { PASS_READ, PASS_WRITE, PASS_TOTAL, PASS_WAYS };

struct pass {
    struct gate_flow *flow;
    uint64_t now_ns;
    int64_t ios[PASS_WAYS], bytes[PASS_WAYS]; /* left; the next goes while none is negative */
    uint64_t took_ios[2], took_bytes[2];      /* IO_DIR_READ, IO_DIR_WRITE */
};

/* Whether a pass would let all go and pay nothing. Asked anew for each batch. */
static inline bool pass_needless(const struct gate_flow *f)
{
    unsigned limits = 0;
    for (uint32_t i = 0; i < f->cover_count; i++)
        limits |= f->cover[i]->in_force;
    return limits == 0 && f->queue[IO_DIR_READ].length == 0 && f->queue[IO_DIR_WRITE].length == 0;
}
void pass_open(struct pass *p, struct gate_flow *f, uint64_t now_ns);
/* Whether a READ or WRITE of @bytes goes now. False: ask gate_submit, once the pass is closed. */
static inline bool pass_take(struct pass *p, enum io_direction dir, uint64_t bytes)
{
    if ((p->ios[dir] | p->ios[PASS_TOTAL] | p->bytes[dir] | p->bytes[PASS_TOTAL]) < 0)
        return false;
    p->ios[dir]--;
    p->ios[PASS_TOTAL]--;
    p->bytes[dir] -= (int64_t)bytes;
    p->bytes[PASS_TOTAL] -= (int64_t)bytes;
    p->took_ios[dir]++;
    p->took_bytes[dir] += bytes;
    return true;
}
/* Pay for all that went. */
void pass_close(struct pass *p);

#endif
