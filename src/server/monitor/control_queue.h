/* SPDX-License-Identifier: Apache-2.0 */
/* Controls that wait to be sent to one gateway, in packed form; a newer one replaces the older of
 * its id. Pure. */
#ifndef WEIR_SERVER_MONITOR_CONTROL_QUEUE_H
#define WEIR_SERVER_MONITOR_CONTROL_QUEUE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "server/services/controls.h"

/* Packed bytes that may wait for one gateway: some ten thousand controls; what a gateway keeps of a
 * set (4 MiB) is more. A gateway that lets them lie for MONITOR_SLOW_NS is ended. */
#define CONTROL_QUEUE_MAX (3u * 1024u * 1024u)

struct queued_control;
struct slab;

/* All zero: empty. Any one thread at a time. */
struct control_queue {
    struct queued_control *by_id, *first, *last;
    size_t bytes, count;
    bool any;  /* something waits, be it only a renewal */
    bool full; /* the first thing to be sent replaces all that the gateway has */
    uint64_t epoch;
    uint32_t lease_ms;
};

/* Add @u (borrowed), in blocks of @slab (of this thread; it outlives the queue) or, where that is
 * used up or NULL, of the heap. Adds the number of replaced controls to *@ret_replaced. 0,
 * WEIR_E_FULL (beyond CONTROL_QUEUE_MAX), WEIR_E_TOO_LARGE (one control fits no frame) or -ENOMEM;
 * after a failure the queue is only good for control_queue_clear. */
int control_queue_add(struct control_queue *q, const struct control_update *u, struct slab *slab,
                      size_t *ret_replaced);

/* Append everything to @out as frames of @session, the last without `more`, and empty the queue.
 * Returns the number of frames or -ENOMEM. */
int control_queue_pack(struct control_queue *q, uint64_t session, struct text *out);

void control_queue_clear(struct control_queue *q);

#endif
