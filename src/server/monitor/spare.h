/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers for bytes that wait: half a frame that came, or what a socket did not take.
 *
 * Most sessions have none, so a session holds a pointer only; and a thread keeps a few that were
 * let go of for whoever needs one next, so that in a steady state nothing is allocated. A buffer
 * may be given to another thread's pool than it was taken from. Owning thread only. */
#ifndef WEIR_SERVER_MONITOR_SPARE_H
#define WEIR_SERVER_MONITOR_SPARE_H
#include <stddef.h>

#include "base/text.h"

struct spare {
    struct text text;
    struct spare *next; /* the pool's */
};

/* All zero: empty. */
struct spare_pool {
    struct spare *first;
    size_t count;
};

/* An empty buffer that grows to @max; NULL: no memory. */
struct spare *spare_take(struct spare_pool *p, size_t max);
/* Takes @s (may be NULL): kept, or freed when there are enough or it grew large. */
void spare_give(struct spare_pool *p, struct spare *s);
/* Frees @s, which may be NULL. */
void spare_free(struct spare *s);
void spare_pool_fini(struct spare_pool *p);

#endif
