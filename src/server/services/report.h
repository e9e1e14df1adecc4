/* SPDX-License-Identifier: Apache-2.0 */
/* What a gateway says of itself, as plain data: hello and statistics, free of the wire's form. */
#ifndef WEIR_SERVER_SERVICES_REPORT_H
#define WEIR_SERVER_SERVICES_REPORT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "qos/cost.h"
#include "qos/gate.h"
#include "qos/look.h"
#include "qos/meter.h"

#define GATEWAY_ID_SIZE 16u

struct gateway_hello {
    uint64_t session;                 /* of this server's life, never repeated */
    uint8_t id[GATEWAY_ID_SIZE], boot[GATEWAY_ID_SIZE];
    char name[NAME_SIZE];             /* escaped */
    char software[64];
    char address[160];                /* of the peer */
    char key_id[80];
    uint16_t pair;                    /* which thread pair carries it */
    uint32_t subgroup;                /* gateways before the same storage have one number */
};

struct report_bucket {
    uint32_t index;
    uint64_t count;                   /* the whole count, not a difference */
};

struct report_hist {
    enum meter_hist kind;
    enum io_direction direction;      /* READ or WRITE */
    uint64_t sum_ns, max_ns;
    struct report_bucket *bucket;
    size_t bucket_count;
};

struct report_op {
    enum io_op op;
    struct meter_op counts;           /* cumulative */
};

struct report_stream {
    uint32_t index;
    bool has_info;
    uint64_t size;
    struct report_op op[IO_OP_COUNT];
    size_t op_count;
    struct report_hist hist[2 * METER_HIST_COUNT];
    size_t hist_count;
    uint32_t connections, held_now;
    uint64_t oldest_held_ns, max_hold_hits;
    bool has_burst;
    uint32_t burst_ppm;
    /* Of the target's scheduler (qos/sched.h); the first four and `late` are cumulative. */
    uint64_t cost_arrived_ns, cost_served_ns, reserved_ios, queued_ns, late;
    uint32_t queued_now;
    uint64_t oldest_queued_ns;
    char share[2 * NAME_SIZE];        /* id of the control whose share it has; "" : none */
    char held_by[2 * NAME_SIZE];
    /* With has_info only: not even cleared without, so they stand last. */
    char host[NAME_SIZE], volume[NAME_SIZE], tenant[NAME_SIZE], target[NAME_SIZE];
};

struct report_target {
    char name[NAME_SIZE], uri[512];
    uint64_t connections, connects, connect_failures, inflight, errors;
    char last_error[128];
    /* Of the window (qos/window.h); from busy_ns to served_bytes cumulative. */
    uint64_t window_milli;            /* 0: no window in force */
    uint64_t parallelism_milli;       /* 0: no estimate yet */
    uint64_t wait_p99_us;
    uint64_t busy_ns, full_ns, cost_served_ns, served_ios, served_bytes;
    uint32_t queued_now;
    struct cost_model cost;
    struct look_result look;
};

/* A limit in force. */
struct report_limit {
    char id[2 * NAME_SIZE];           /* of its control */
    uint64_t rate[GATE_KIND_COUNT];   /* 0: none of that kind */
};

/* How its processes fare, since its boot. */
struct report_life {
    uint64_t deaths, hangs, last_death_ms, upgrades, upgrades_failed;
    char last_death[160], last_upgrade[160];
    char certificate[160]; /* its own that ends first; "": none */
    int64_t certificate_from_s, certificate_until_s;
};

/* Whether it takes hosts. */
struct report_drain {
    uint64_t since;                   /* the draining in force; 0: it does */
    uint64_t connections;             /* of hosts, now */
    uint64_t refused, closed;
};

/* One whole Statistics answer, or one frame of it (more). Freed with report_free (one block). */
struct report {
    uint64_t session;
    uint8_t boot[GATEWAY_ID_SIZE];
    uint64_t seq, base, mono_ns, epoch;
    bool more;
    bool has_upkeep;                  /* life and drain are here */
    struct report_life life;
    struct report_drain drain;
    struct report_stream *stream;
    size_t stream_count;
    struct report_target *target;
    size_t target_count;
    bool limits_said;                 /* the agreed limits in force are told, in the frames of this
                                         answer: here some of them, before its streams */
    struct report_limit *limit;
    size_t limit_count;
};

#endif
