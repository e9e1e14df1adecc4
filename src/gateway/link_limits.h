/* SPDX-License-Identifier: Apache-2.0 */
/* The agreed limits in force, as an answer to a poll tells them. Used by link_stats.c only. */
#ifndef WEIR_GATEWAY_LINK_LIMITS_H
#define WEIR_GATEWAY_LINK_LIMITS_H
#include <stdbool.h>
#include <stddef.h>

#include "control/frame.h"
#include "gateway/stream.h"

/* Of one frame: below 600 bytes each, so that a frame is far below FRAME_MAX. */
#define LINK_LIMITS_FRAME 256u

/* The protobuf form of one frame's, kept for the link's life. */
struct link_limits {
    Weir__Control__LimitInForce limit[LINK_LIMITS_FRAME], *limit_ptr[LINK_LIMITS_FRAME];
    Weir__Control__Rate rate[LINK_LIMITS_FRAME][GATE_KIND_COUNT];
    Weir__Control__Rate *rate_ptr[LINK_LIMITS_FRAME][GATE_KIND_COUNT];
    size_t count;
    size_t first, seen; /* place of the first; of the one that is looked at */
};

/* The next that are in force from place @first of all on. They borrow from the controls of @t,
 * until those change. */
void link_limits_build(struct link_limits *l, struct stream_table *t, size_t first);

#endif
