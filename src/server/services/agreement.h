/* SPDX-License-Identifier: Apache-2.0 */
/* Agreements, tenants and policies as the SLA services see them: plain data, parsed and checked
 * elsewhere. */
#ifndef WEIR_SERVER_SERVICES_AGREEMENT_H
#define WEIR_SERVER_SERVICES_AGREEMENT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "qos/gate.h"
#include "server/services/week.h"

#define AGREEMENT_MAX_OBJECTIVES 8u
#define AGREEMENT_MAX_WINDOWS 16u
#define AGREEMENT_WEIGHT 100u /* when none is said */
#define TENANT_MAX_MEMBERS 64u
#define POLICY_MAX_PROTECTED 64u
#define POLICY_MAX_FREEZES 16u

/* Who: patterns (*, ?, [..]); "" matches all. A stream must match every one. */
struct selector {
    char tenant[NAME_SIZE], host[NAME_SIZE], volume[NAME_SIZE], target[NAME_SIZE];
};

/* "quantile of latency <= latency while demand <= while_iops". */
struct objective {
    uint32_t percentile_ppm; /* 990000 is p99; 0: the mean */
    uint64_t latency_us;
    uint64_t while_iops;     /* UNITS_UNLIMITED: at any demand */
};

/* Whether numbers hold for all selected streams together or for each alone. */
enum agreement_per { AGREEMENT_PER_GROUP, AGREEMENT_PER_STREAM };

/* A limit that grows with the size of what is selected: so much for each GiB, but not less than
 * the least; agreed limits stay above it. 0: none. */
struct per_gib {
    uint64_t iops, least_iops;
    uint64_t bytes_s, least_bytes_s;
};

struct agreement {
    char name[NAME_SIZE];
    uint64_t version;            /* of the store; grows with each change */
    struct selector applies_to;
    bool fallback;               /* only for streams that no other agreement selects */
    enum agreement_per per;
    struct objective objective[AGREEMENT_MAX_OBJECTIVES]; /* ascending while_iops */
    size_t objective_count;
    uint64_t reservation_iops;   /* 0: no such promise */
    uint64_t reservation_bytes_s;/* 0: no such promise */
    uint64_t reservation_read_iops, reservation_write_iops;       /* 0: no such promise */
    uint64_t reservation_read_bytes_s, reservation_write_bytes_s; /* 0: no such promise */
    struct gate_limits limits;   /* rate 0: no limit of that kind */
    struct per_gib per_gib;
    uint32_t weight;             /* default AGREEMENT_WEIGHT */
    int32_t priority;            /* default 0; higher is dearer */
    uint32_t compliance_target_ppm; /* 0: none */
    uint64_t compliance_window_ns;  /* default 10 s */
    uint64_t compliance_over_ns;    /* default 30 d */
    struct week_window schedule[AGREEMENT_MAX_WINDOWS]; /* in force then; none: always */
    size_t schedule_count;
};

struct tenant {
    char name[NAME_SIZE];
    uint64_t version;
    struct selector
        member[TENANT_MAX_MEMBERS]; /* a stream matching any belongs to it (member.tenant unused) */
    size_t member_count;
    struct gate_limits limits;   /* for all of it together */
};

/* Who wins when reservations together exceed what a target can do: the higher priority is served
 * whole before the lower, or all give in the same proportion. */
enum collisions { COLLISIONS_PRIORITY, COLLISIONS_SHARE };

/* Rules on what may be done to whom. All policies hold at once; the strictest wins. */
struct policy {
    char name[NAME_SIZE];
    uint64_t version;
    struct selector applies_to;
    bool observe;                 /* analyse, name, record; send nothing planned */
    bool enforce;                 /* plan for these although the server only observes */
    bool protect;                 /* never throttle these streams */
    uint64_t floor_iops;          /* never throttle below; 0: the built-in floor */
    uint64_t floor_bytes_s;
    uint32_t max_cut_ppm;         /* largest cut in one period; 0: built-in 20 % */
    enum collisions collisions;
    struct week_window freeze[POLICY_MAX_FREEZES]; /* no new throttle then */
    size_t freeze_count;
};

#endif
