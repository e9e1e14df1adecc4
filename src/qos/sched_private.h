/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the scheduler: what sched.c (queues, window) and sched_share.c (tags, heaps) share. */
#ifndef WEIR_QOS_SCHED_PRIVATE_H
#define WEIR_QOS_SCHED_PRIVATE_H
#include "qos/sched.h"

struct sched_heap {
    struct sched_share **at; /* from 1 */
    uint32_t size, capacity;
};

struct sched {
    uint64_t max_wait_ns, slots_milli;
    uint64_t hold_milli;    /* what holds: slots_milli, or less for a while */
    uint32_t room;          /* the same in I/Os, rounded up; 0: no window */
    uint32_t whole;         /* and rounded down */
    uint32_t room_reserved; /* those that reservations may use, whatever holds for the others */
    bool undivided;         /* others fill the target whatever this window is */
    uint32_t inflight, weighed, queued; /* weighed: of those in flight, that went by weight */
    uint64_t v;
    uint64_t part_ns; /* since then more than the whole slots are in flight */
    uint64_t pace_ns; /* no more than these by weight before this */
    struct cost_model cost;
    struct list ages;  /* struct sched_io */
    struct list ready; /* struct sched_io: FLUSH whose turn has come */
    struct sched_heap r, p;
    uint64_t accounted_ns;
    struct sched_counts counts;
};

/* When a reservation of @sh is next due, for what it has queued: its key in the heap of R.
 * UINT64_MAX: never. @ret_dir: whose turn it is, SCHED_TOTAL: either's. */
uint64_t sched_share_due_ns(const struct sched_share *sh, int *ret_dir);
/* Its first I/O waits; its last no longer does; a tag, or what decides by which, changed. */
void sched_share_enter(struct sched_share *sh, uint64_t now_ns);
void sched_share_leave(struct sched_share *sh);
void sched_share_rekey(struct sched_share *sh);
/* It asks for something again: idleness saves no more than the credit. */
void sched_share_activate(struct sched_share *sh, uint64_t now_ns);
/* Tags move on for one I/O. Whether a reservation was due for it. */
bool sched_share_pay(struct sched_share *sh, const struct sched_io *io, uint64_t now_ns);

#endif
