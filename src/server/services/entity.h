/* SPDX-License-Identifier: Apache-2.0 */
/* Entity service: the in-memory cache of gateways, targets, streams and agreements, filled by
 * polling.
 *
 * Readable by views; written only inside services/. Bounds: services_config. */
#ifndef WEIR_SERVER_SERVICES_ENTITY_H
#define WEIR_SERVER_SERVICES_ENTITY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "qos/hist.h"
#include "qos/meter.h"
#include "qos/sparse.h"
#include "server/services/agreement.h"
#include "server/services/record.h"
#include "server/services/report.h"

/* Life of a gateway; the state machine is drawn in entity.c. */
#define GATEWAY_STATE_TABLE(X)      \
    X(DISCOVERED, "discovered")     \
    X(PENDING, "pending")           \
    X(ADMITTED, "admitted")         \
    X(UNREACHABLE, "unreachable")   \
    X(LOST, "lost")                 \
    X(RETIRED, "retired")
enum gateway_state {
#define X(name, label) GATEWAY_##name,
    GATEWAY_STATE_TABLE(X)
#undef X
};
const char *gateway_state_name(enum gateway_state s);
/* From the hex form that id_text has; false: it is none. */
bool gateway_id_read(const char *hex, uint8_t ret_id[GATEWAY_ID_SIZE]);

/* Verdict on a stream in the last whole period. */
#define VERDICT_TABLE(X)          \
    X(NONE, "none")               \
    X(MET, "met")                 \
    X(FAILING, "failing")         \
    X(EXEMPT, "exempt")           \
    X(EXCESS, "excess")           \
    X(IDLE, "idle")
enum verdict {
#define X(name, label) VERDICT_##name,
    VERDICT_TABLE(X)
#undef X
};
const char *verdict_name(enum verdict v);

struct entity_gateway {
    struct list link;
    struct gateway_hello hello;
    char id_text[2 * GATEWAY_ID_SIZE + 1];
    enum gateway_state state;
    int64_t first_seen_us, last_seen_us;
    uint64_t last_seen_ns;
    uint64_t poll_seq, acked_seq;          /* last asked; last whole answer */
    uint64_t poll_sent_ns, round_trip_ns;
    uint64_t polls, polls_lost;
    uint64_t epoch_desired, epoch_applied; /* controls */
    int apply_status;
    size_t stream_count;
    bool live;                             /* a session stands */
    bool admitted;                         /* once, by its key or by people; stays */
    bool waits;                            /* for people to admit it: it is not controlled */
    uint64_t counter_faults;               /* counters of one boot that went back */
    uint64_t drain_since;                  /* which draining it shall be in; 0: take hosts */
    int64_t drain_deadline_us;             /* 0: idle connections are left alone */
    bool has_upkeep;                       /* it said the following, as last reported */
    struct report_drain drained;
    struct report_life life;
    int64_t last_death_us;
};

struct entity_target {
    struct list link;
    char name[NAME_SIZE], uri[512];
    struct entity_gateway *gateway;
    uint64_t connections, connects, connect_failures, inflight, errors;
    char last_error[128];
    uint64_t window_milli, parallelism_milli; /* of its scheduler, thousandths; 0: none */
    uint64_t wait_p99_us;
    bool overcommitted;                    /* more is reserved than it can do */
    uint32_t reserved_ppm;                 /* of what it can do; 0: that is not known */
    bool has_health;
    struct target_health health;
};

/* Rates and latency of the last whole period. */
struct entity_window {
    uint64_t duration_ns;
    uint64_t demand_iops;                  /* arrivals per second */
    uint64_t demand_dir_iops[2], demand_dir_bytes_s[2]; /* the same by direction */
    double outstanding[2];                 /* I/Os in progress in the mean, by direction */
    uint64_t read_iops, write_iops,
        iops; /* completions per second; iops: of all that moves or changes data */
    uint64_t read_bytes_s, write_bytes_s;
    uint64_t arrivals, reads, writes,
        others; /* in the period; reads and writes by direction (io_op_direction) */
    uint64_t read_bytes, write_bytes, errors, held;
    uint64_t p50_us[METER_HIST_COUNT], p99_us[METER_HIST_COUNT], max_us[METER_HIST_COUNT],
        mean_us[METER_HIST_COUNT];
    struct sparse_hist hist[METER_HIST_COUNT]; /* held, target, total; reads and writes together */
};

/* The control a stream is under. Desired: decided here. Applied: acknowledged by its gateway. */
struct entity_throttle {
    bool active;
    uint64_t iops, bytes_s;                /* UINT64_MAX: not limited in this unit */
    uint64_t applied_iops, applied_bytes_s;/* as its gateway acknowledged */
    uint64_t since_ns;
    int64_t since_wall_us;
    char victim[STREAM_KEY_SIZE], agreement[NAME_SIZE];
    char reason[384];
    uint64_t epoch;                        /* at which it was sent */
};

struct entity_stream {
    struct list link;
    struct entity_gateway *gateway;
    struct entity_target *target;          /* may be NULL before the target was reported */
    uint32_t index;
    char host[NAME_SIZE], volume[NAME_SIZE], tenant[NAME_SIZE], target_name[NAME_SIZE];
    char key[STREAM_KEY_SIZE];
    uint64_t size;
    uint32_t connections, held_now;
    uint64_t oldest_held_ns, max_hold_hits;
    char held_by[2 * NAME_SIZE];
    bool has_burst;
    uint32_t burst_ppm;
    struct {                               /* cumulative, as last reported */
        struct meter_op op[IO_OP_COUNT];
        struct sparse_hist hist[2][METER_HIST_COUNT]; /* [direction][kind] */
    } now;
    uint64_t cost_served_ns, late;         /* cumulative, of the target's scheduler */
    uint32_t queued_now;                   /* wait for their turn at the target */
    char share[2 * NAME_SIZE];             /* id of the control whose share it has; "" : none */
    struct entity_window window;
    const struct agreement *agreement;     /* whose promise and weight it has, or NULL */
    const struct objective *objective;     /* the one that applies at this demand, or NULL */
    uint64_t judged_latency_us; /* at the objective's percentile, less what own limits held */
    enum verdict verdict;
    uint64_t verdict_since_ns;
    uint32_t harm_ppm; /* as a bully: share of the load that hurts a victim now */
    struct entity_throttle throttle;
};

/* I/Os that arrived and are not answered, as last reported. */
uint64_t entity_stream_inflight(const struct entity_stream *st);

/* An agreement and how it fares. */
struct entity_agreement {
    struct list link;
    struct agreement agreement;
    bool asleep;                           /* outside its schedule: as if it were not there */
    size_t streams;                        /* it covers now */
    int64_t since_wall_us;                 /* this version is in force since */
    enum verdict verdict;
    uint64_t windows, windows_met;         /* judged under this version; compliance_window each */
    uint64_t iops, demand_iops;            /* of all its streams together */
    uint64_t latency_us;                   /* worst judged latency among its streams */
    bool violated;                         /* as reported by events, with hysteresis */
};

struct entities {
    struct list gateways, targets, streams, agreements;
    size_t gateway_count, target_count, stream_count, agreement_count;
    const struct tenant *tenants;
    size_t tenant_count;
    const struct policy *policies;
    size_t policy_count;
    bool enforcing, observe;
    uint64_t polls, polls_lost, stale_reports;
    struct hist round_trip; /* from a poll given to the monitor to its whole answer merged */
};

#endif
