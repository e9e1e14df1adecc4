/* SPDX-License-Identifier: Apache-2.0 */
/* What is written down: samples, actions and events, as plain data of bounded size. */
#ifndef WEIR_SERVER_SERVICES_RECORD_H
#define WEIR_SERVER_SERVICES_RECORD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "qos/hist.h"

/* At most so many distinct buckets of one period's histogram travel; beyond, neighbours are joined.
 */
#define SAMPLE_MAX_BUCKETS 96u

/* One stream (at one gateway), one period. Rates are of this period. */
struct sample_record {
    int64_t wall_us;              /* end of the period */
    uint32_t interval_ms;
    char gateway[NAME_SIZE], host[NAME_SIZE], volume[NAME_SIZE], tenant[NAME_SIZE],
        target[NAME_SIZE];
    uint64_t read_ops, write_ops, other_ops, errors; /* completed in the period */
    uint64_t arrivals;
    uint64_t read_bytes, write_bytes;
    uint64_t held_ops, held_us_sum, target_us_sum, total_us_sum;
    uint64_t p50_us, p99_us, max_us;     /* total latency, reads and writes together */
    uint64_t held_p99_us, target_p99_us;
    uint32_t inflight, held_now;
    uint32_t bucket_count;               /* total latency, sparse: index ascending */
    struct { uint16_t index; uint32_t count; } bucket[SAMPLE_MAX_BUCKETS];
};

/* What the policy manager decided about one proposed action. */
struct action_record {
    uint64_t id; /* unique in the store's life: wall clock us, made strictly growing */
    int64_t wall_us;
    char verb[16];                /* "throttle", "tighten", "release", "lift" */
    bool enforced;                /* false: suppressed or observed only */
    char decision[32]; /* "sent", "observe", "protected", "floor", "frozen", "enforcement-off",
                          "max-cut" */
    char target[NAME_SIZE], gateway[NAME_SIZE];
    char victim[STREAM_KEY_SIZE]; /* "" : none (a release) */
    char bully[STREAM_KEY_SIZE];
    char agreement[NAME_SIZE];    /* the victim's */
    uint64_t agreement_version;
    char policy[NAME_SIZE];       /* the rule that decided, "" : built in */
    uint64_t from_iops, to_iops;  /* the bully's rate before and after; UINT64_MAX: unlimited */
    uint64_t from_bytes_s, to_bytes_s;
    uint64_t victim_latency_us, victim_objective_us; /* at the objective's percentile */
    uint32_t victim_percentile_ppm;
    uint64_t victim_iops, bully_iops;
    uint32_t harm_share_ppm;      /* the bully's part of the load that hurts */
    char reason[384];             /* one sentence with its numbers */
};

enum event_severity { EVENT_INFO, EVENT_WARNING, EVENT_ERROR };

/* For people and documents. */
static inline const char *event_severity_name(enum event_severity s)
{
    switch (s) {
    case EVENT_INFO:
        return "info";
    case EVENT_WARNING:
        return "warning";
    case EVENT_ERROR:
        return "error";
    }
    return "error";
}

struct event_record {
    int64_t wall_us;
    enum event_severity severity;
    char kind[40]; /* "gateway-discovered", "gateway-lost", "agreement-violated", ... */
    char subject[STREAM_KEY_SIZE + 32]; /* "stream/host/vol", "gateway/NAME" */
    char text[384];
};

/* What the storage resource manager found at one target. */
struct target_health {
    char target[NAME_SIZE];
    char uri[512];
    bool reachable;
    int64_t wall_us;
    uint64_t size, block_min, block_preferred, block_max;
    uint64_t probe_latency_us;    /* of the read; 0 when not reachable */
    uint64_t connect_latency_us;
    uint64_t probes, failures;
    char error[160];
};

#endif
