/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: with limits in force, judging an I/O and paying for it costs more instructions than all
 * else that is done for it, and all but the first of a batch find what the one before left.
 *
 * Model: a bucket lets an I/O go while it is not in debt, whatever the I/O's size. So of a batch at
 * one time the k-th goes exactly if what those before it took is no more than the bucket held at
 * first: its credit and what is left of its burst, and its pace if it has a burst (bucket.c). That
 * is worked out once, in whole units, for each bucket; of those of one kind the least counts.
 *
 * Invariants:
 *  1. What goes is what gate_submit would let go one by one, and what is paid is the same
 *     (test_pass.c holds both against each other).
 *  2. A newcomer goes past nobody: a queue that is not empty, or a place where someone is parked,
 *     leaves nothing.
 *  3. No more than PASS_MOST bytes and one I/O are taken of a bucket, far below what it takes at
 *     once (BUCKET_UNITS_MAX).
 *  4. Everything is paid before any of it is sent. A process killed before has let nothing go.
 *
 * Nothing here can fail. */
#include "qos/pass.h"

#include "base/assert.h"

/* Beyond what any batch asks for. */
#define PASS_MOST (INT64_C(1) << 39)

_Static_assert(PASS_READ == (int)IO_DIR_READ, "a direction is its way");
_Static_assert(PASS_WRITE == (int)IO_DIR_WRITE, "a direction is its way");

static enum pass_way pass_way_of(enum gate_kind k)
{
    switch (k) {
    case GATE_IOPS_READ:
    case GATE_BYTES_READ:
        return PASS_READ;
    case GATE_IOPS_WRITE:
    case GATE_BYTES_WRITE:
        return PASS_WRITE;
    case GATE_IOPS_TOTAL:
    case GATE_BYTES_TOTAL:
        return PASS_TOTAL;
    case GATE_KIND_COUNT:
        break;
    }
    weir_unreachable("a kind out of its enum");
}

static bool pass_is_iops(enum gate_kind k)
{
    return k == GATE_IOPS_READ || k == GATE_IOPS_WRITE || k == GATE_IOPS_TOTAL;
}

void pass_open(struct pass *p, struct gate_flow *f, uint64_t now_ns)
{
    *p = (struct pass){.flow = f, .now_ns = now_ns};
    for (int w = 0; w < PASS_WAYS; w++)
        p->ios[w] = p->bytes[w] = PASS_MOST;
    for (int d = 0; d < 2; d++)
        if (f->queue[d].length > 0)
            p->ios[d] = -1;
    for (uint32_t i = 0; i < f->cover_count; i++) {
        struct gate_rule *r = f->cover[i];
        for (unsigned mask = r->in_force; mask != 0; mask &= mask - 1u) {
            enum gate_kind k = (enum gate_kind)__builtin_ctz(mask);
            int64_t left = r->place[k].heap_index != 0 ? -1 : bucket_left(&r->bucket[k], now_ns);
            int64_t *least = pass_is_iops(k) ? &p->ios[pass_way_of(k)] : &p->bytes[pass_way_of(k)];
            if (left < *least)
                *least = left;
        }
    }
}

void pass_close(struct pass *p)
{
    const struct gate_flow *f = p->flow;
    const uint64_t ios[PASS_WAYS] = {p->took_ios[0], p->took_ios[1],
                                     p->took_ios[0] + p->took_ios[1]};
    const uint64_t bytes[PASS_WAYS] = {p->took_bytes[0], p->took_bytes[1],
                                       p->took_bytes[0] + p->took_bytes[1]};
    for (uint32_t i = 0; i < f->cover_count; i++) {
        struct gate_rule *r = f->cover[i];
        for (unsigned mask = r->in_force; mask != 0; mask &= mask - 1u) {
            enum gate_kind k = (enum gate_kind)__builtin_ctz(mask);
            uint64_t units = pass_is_iops(k) ? ios[pass_way_of(k)] : bytes[pass_way_of(k)];
            if (units > 0)
                bucket_take(&r->bucket[k], units, p->now_ns);
        }
    }
}
