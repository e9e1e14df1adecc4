/* SPDX-License-Identifier: Apache-2.0 */
/* Which stream is worth an early warning to the server, and why. Pure. */
#ifndef WEIR_GATEWAY_SURGE_H
#define WEIR_GATEWAY_SURGE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "gateway/stream.h"

/* How often streams are looked over; at most one is told of a look, which keeps the protocol's
 * bound of one in 5 ms. */
#define SURGE_LOOK_NS (20 * NS_PER_MS)

/* What is remembered of one slot of the stream table; all zero at first. */
struct surge_watch {
    uint32_t index;                   /* of the stream this is about */
    bool used, backlog, late, queued; /* the last three: told of, not yet over */
    bool has_before;
    uint64_t new_until_ns; /* no answer to a poll can have told of it before */
    uint64_t new_again_ns; /* not to be told before */
    uint64_t told_ns;
    uint64_t window_ns; /* when the running second began */
    uint64_t at_window; /* arrivals then */
    uint64_t before;    /* arrivals in the second before it */
};

/* Of a stream that was there when the session began, and is in its first answer. */
void surge_known(struct surge_watch *w, const struct stream *st, uint64_t now);
/* "backlog", "demand", "late", "queued", "new", or "": nothing to tell. What is returned counts as
 * told. */
const char *surge_why(struct surge_watch *w, const struct stream *st, uint64_t now);
/* Age of its oldest I/O that waits, for a limit or for its turn. */
uint64_t surge_oldest_ns(const struct stream *st, uint64_t now);

#endif
