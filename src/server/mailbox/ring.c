/* SPDX-License-Identifier: Apache-2.0 */
/* The problem. Many threads hand messages to one, in bounded memory, in the order of each sender,
 * and no thread may be held up by another that was stopped in the middle.
 *
 * The model. The bounded queue of D. Vyukov ("Bounded MPMC queue", 1024cores.net) with its
 * consumer's side reduced to one thread. Positions count up for ever; position p lives in cell
 * p & mask, in the lap p & ~mask. Each cell has a `turn`:
 *
 *      turn == lap          free for the producer that claims position p
 *      turn == lap + 1      full: the message of position p
 *      turn == lap + size   taken; that is "free" of the next lap
 *
 * so zeroed memory is an empty ring, and pages of cells that were never used stay untouched.
 *
 * Invariants, and the memory order that keeps each.
 *  1. A position is claimed by one producer: tail only moves by compare-and-swap. Relaxed is
 *     enough, since tail guards no data: whoever claimed a position still looks at the cell's turn
 *     before (acquire), and nobody else may write that cell until this position was taken.
 *  2. The message's bytes are written before turn = lap + 1 is stored and read after that was
 *     seen: store and load make a release-acquire pair on `turn`. The store is even sequentially
 *     consistent, which the mailbox needs to know whom to wake (mailbox.c).
 *  3. The bytes are read before turn = lap + size is stored (release) and written anew only after a
 *     producer saw that (its acquire load in 1): a cell is never overwritten while it is read.
 *  4. turn < lap means that the message of the lap before is still there, or is still being
 *     written: full. turn > lap means that somebody else claimed p meanwhile: look at tail again.
 *     The loop ends: each turn of it means that another producer has made progress.
 *  5. A producer that is stopped between claiming and filling delays what was posted behind it in
 *     this ring, and nothing else. The consumer sees "nothing there" and goes on with its life.
 *  6. Order: of two messages of one thread the first claims the lower position. Of messages of two
 *     threads where the second was put after the first was heard of (by whatever way that
 *     synchronises), the first has the lower position too, by coherence of tail.
 *
 * tests/model/ring.pml checks 1 to 6, with the wake-up, for small sizes and all interleavings. */
#include "server/mailbox/ring.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"

struct ring_cell {
    _Atomic uint64_t turn;
    struct msg msg;
};

int ring_init(struct ring *r, size_t capacity)
{
    weir_assert(capacity >= 2);
    weir_assert((capacity & (capacity - 1)) == 0);
    r->cells = calloc(capacity, sizeof(*r->cells));
    if (r->cells == NULL)
        return -ENOMEM;
    r->mask = capacity - 1;
    r->tail_seen = 0;
    atomic_init(&r->tail, 0);
    atomic_init(&r->head, 0);
    atomic_init(&r->depth_max, 0);
    return 0;
}

void ring_fini(struct ring *r)
{
    free(r->cells);
    r->cells = NULL;
}

/* Whether position @at is free, as far as can be seen. */
static bool cell_free(const struct ring *r, uint64_t at)
{
    return atomic_load_explicit(&r->cells[at & r->mask].turn, memory_order_relaxed) >=
           (at & ~r->mask);
}

bool ring_put(struct ring *r, const struct msg *m, uint64_t spare)
{
    uint64_t at = atomic_load_explicit(&r->tail, memory_order_relaxed);
    struct ring_cell *cell;
    for (;;) {
        cell = &r->cells[at & r->mask];
        uint64_t turn = atomic_load_explicit(&cell->turn, memory_order_acquire);
        uint64_t lap = at & ~r->mask;
        if (turn > lap) {
            at = atomic_load_explicit(&r->tail, memory_order_relaxed);
        } else if (turn < lap || (spare > 0 && !cell_free(r, at + spare))) {
            return false;
        } else if (atomic_compare_exchange_weak_explicit(&r->tail, &at, at + 1,
                                                         memory_order_relaxed,
                                                         memory_order_relaxed)) {
            break;
        }
    }
    cell->msg = *m;
    atomic_store(&cell->turn, (at & ~r->mask) + 1);
    return true;
}

/* What waits now; looked at only when the consumer has caught up with what it saw last, so that it
 * does not pull the producers' cache line to itself for each message. */
static void depth_look(struct ring *r, uint64_t at)
{
    if (at < r->tail_seen)
        return;
    r->tail_seen = atomic_load_explicit(&r->tail, memory_order_relaxed);
    uint64_t depth = r->tail_seen - at;
    if (depth > atomic_load_explicit(&r->depth_max, memory_order_relaxed))
        atomic_store_explicit(&r->depth_max, depth, memory_order_relaxed);
}

bool ring_take(struct ring *r, struct msg *ret)
{
    uint64_t at = atomic_load_explicit(&r->head, memory_order_relaxed);
    struct ring_cell *cell = &r->cells[at & r->mask];
    uint64_t lap = at & ~r->mask;
    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != lap + 1)
        return false;
    depth_look(r, at);
    *ret = cell->msg;
    atomic_store_explicit(&cell->turn, lap + r->mask + 1, memory_order_release);
    atomic_store_explicit(&r->head, at + 1, memory_order_relaxed);
    return true;
}

bool ring_ready(const struct ring *r)
{
    uint64_t at = atomic_load_explicit(&r->head, memory_order_relaxed);
    return atomic_load(&r->cells[at & r->mask].turn) == (at & ~r->mask) + 1;
}

size_t ring_depth(const struct ring *r)
{
    uint64_t head = ring_taken_count(r), tail = ring_put_count(r);
    return tail > head ? (size_t)(tail - head) : 0;
}

uint64_t ring_put_count(const struct ring *r)
{
    return atomic_load_explicit(&r->tail, memory_order_relaxed);
}

uint64_t ring_taken_count(const struct ring *r)
{
    return atomic_load_explicit(&r->head, memory_order_relaxed);
}
