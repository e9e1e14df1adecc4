/* SPDX-License-Identifier: Apache-2.0 */
/* Sweeps: each of many is looked at once in a while, a few at a time; pure.
 *
 * What is due for many at once (a word to each, the end of each) is due for a few at each turn
 * instead, so that whoever else comes meanwhile waits for a few and not for all. Of up to
 * SWEEP_TURN all have the same turn; of more, turns follow each other the faster the more there
 * are, so that it is always once in a while. Where the thread comes late to a turn it makes up for
 * those it missed, up to SWEEP_BEHIND at once; beyond that everybody's is later. */
#ifndef WEIR_SERVER_MONITOR_SWEEP_H
#define WEIR_SERVER_MONITOR_SWEEP_H
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

/* Looked at in one turn, at most; and turns at once. */
#define SWEEP_TURN   64u
#define SWEEP_BEHIND 8u

struct sweep {
    struct list members; /* whoever was looked at longest ago first */
    size_t count;
    uint64_t due_ns; /* the next turn */
};

/* The first turn is at @due_ns. */
void sweep_init(struct sweep *s, uint64_t due_ns);
/* @l is the last to be looked at; it is the owner's, and leaves before it goes. */
void sweep_join(struct sweep *s, struct list *l);
void sweep_leave(struct sweep *s, struct list *l);
/* How many have their turn now, so that each is looked at once in @every_ns. The next one is at
 * due_ns then, after @now_ns. */
size_t sweep_turn(struct sweep *s, uint64_t every_ns, uint64_t now_ns);
/* The next of them, who becomes the last; it may leave, or others, while it is looked at. NULL:
 * nobody is there. */
struct list *sweep_next(struct sweep *s);

#endif
