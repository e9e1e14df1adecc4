/* SPDX-License-Identifier: Apache-2.0 */
/* What the local socket says: streams, targets, controls and status as JSON. Private to local.c. */
#ifndef WEIR_GATEWAY_LOCAL_JSON_H
#define WEIR_GATEWAY_LOCAL_JSON_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/config.h"
#include "gateway/ledger.h"
#include "gateway/link.h"
#include "gateway/relay.h"
#include "gateway/stream.h"

/* What a client saw of a histogram: buckets with counts only. Counts are kept modulo 2^32, which is
 * enough for differences. */
struct local_seen_hist {
    struct local_seen_bucket {
        uint32_t index, count;
    } *buckets;
    uint32_t used;
    uint64_t count, sum_ns;
};

/* What a client saw of a stream in its last request; the next answer is about the time since. */
struct local_seen {
    bool valid;
    uint32_t stream_index;
    uint64_t at_ns;
    struct meter_op op[IO_OP_COUNT];
    struct local_seen_hist hist[METER_HIST_COUNT];
};

void local_seen_fini(struct local_seen *seen);

/* One stream, with what all workers counted in @m; @seen is compared with and then holds what was
 * told. NULL: no memory. */
json_t *local_json_stream(const struct stream *s, const struct meter *m, uint32_t connections,
                          const struct gateway_config *config,
                          struct local_seen *seen, bool histograms, uint64_t now_ns);
json_t *local_json_target(const struct target_config *target, const struct target_stats *stats,
                          const char *gateway);
/* @first_rule may be NULL. */
json_t *local_json_control(const struct control *c, const struct gate_rule *first_rule);
json_t *local_json_status(const struct gateway_config *config, const struct relay *relay,
                          const struct link *link, struct ledger *ledger, uint64_t streams,
                          uint64_t now_ns);

#endif
