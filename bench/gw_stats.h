/* SPDX-License-Identifier: Apache-2.0 */
/* The counters of one gateway that is only played: they grow at each poll and are said as a real
 * gateway says them. One thread. */
#ifndef WEIR_BENCH_GW_STATS_H
#define WEIR_BENCH_GW_STATS_H
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "control/frame.h"

#define GW_BUCKETS 6u      /* buckets that one stream's latencies fall into */
#define GW_FRAME_STREAMS 256u /* streams of a gateway at most, so of a frame */

struct gw_stream {
    uint64_t ios, born_seq, changed_seq;
    uint32_t bucket[GW_BUCKETS];
    bool surging; /* made by gw_stats_surge */
};

struct gw_stats {
    uint32_t number; /* of the gateway: its names are made from it */
    uint32_t streams, room, base_streams;
    uint32_t active, cursor; /* streams that move between two polls, and where the next ones are */
    uint64_t sent_seq, acked_seq, epoch;
    uint8_t boot[16];
    struct gw_stream *stream;
};

/* What frames are built in; one for all gateways of a thread. */
struct gw_scratch;
struct gw_scratch *gw_scratch_new(void);
void gw_scratch_free(struct gw_scratch *s);

/* @streams from the start, room for @extra that surge. 0 or -ENOMEM. */
int gw_stats_init(struct gw_stats *g, uint32_t number, uint32_t streams, uint32_t active,
                  uint32_t extra);
void gw_stats_fini(struct gw_stats *g);
/* A new boot: all counters begin at 0. */
void gw_stats_boot(struct gw_stats *g);
/* A stream of host "surge-..." appears. False: no room for more. */
bool gw_stats_surge(struct gw_stats *g);

/* Move the counters on and append the answer to a poll: what changed since @acked, or everything.
 * As frame_append. */
int gw_stats_answer(struct gw_stats *g, struct gw_scratch *s, uint64_t seq, uint64_t acked,
                    uint64_t mono_ns, struct text *out);

#endif
