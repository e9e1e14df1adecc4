/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded ring of messages: many producers, one consumer, no lock, nobody waits.
 *
 * Inside of the mailbox (mailbox.c); the essay on memory order is in ring.c. Waking the consumer is
 * the caller's matter: after a successful ring_put it looks whether the consumer sleeps. */
#ifndef WEIR_SERVER_MAILBOX_RING_H
#define WEIR_SERVER_MAILBOX_RING_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/mailbox/mailbox.h"

#define RING_CACHE_LINE 64

struct ring_cell;

struct ring {
    /* Producers. */
    _Alignas(RING_CACHE_LINE) _Atomic uint64_t tail; /* messages ever put */
    /* Consumer; atomic only so that gauges may read. */
    _Alignas(RING_CACHE_LINE) _Atomic uint64_t head; /* messages ever taken */
    uint64_t tail_seen;                              /* tail when the consumer looked last */
    _Atomic uint64_t depth_max;                      /* most that it ever saw waiting */
    /* Fixed. */
    _Alignas(RING_CACHE_LINE) struct ring_cell *cells;
    uint64_t mask;
};

/* @capacity is a power of two, at least 2. Cells are zero pages until they are used. 0, -ENOMEM. */
int ring_init(struct ring *r, size_t capacity);
/* Empty it first. */
void ring_fini(struct ring *r);

/* Any thread. Copy @m in; false when full, or when fewer than @spare cells would stay free behind
 * it (as far as can be seen now: @spare is for shedding load, not for promises). */
bool ring_put(struct ring *r, const struct msg *m, uint64_t spare);

/* Consumer only. */
bool ring_take(struct ring *r, struct msg *ret);
/* Consumer only: whether ring_take would find something; sequentially consistent, for the step
 * between saying "asleep" and sleeping. */
bool ring_ready(const struct ring *r);

/* Any thread, of about now. */
size_t ring_depth(const struct ring *r);
uint64_t ring_put_count(const struct ring *r);
uint64_t ring_taken_count(const struct ring *r);

#endif
