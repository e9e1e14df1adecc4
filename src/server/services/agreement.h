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

#define AGREEMENT_MAX_OBJECTIVES 8u
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

struct agreement {
    char name[NAME_SIZE];
    uint64_t version;            /* of the store; grows with each change */
    struct selector applies_to;
    enum agreement_per per;
    struct objective objective[AGREEMENT_MAX_OBJECTIVES]; /* ascending while_iops */
    size_t objective_count;
    uint64_t reservation_iops;   /* 0: no such promise */
    uint64_t reservation_bytes_s;/* 0: no such promise */
    struct gate_limits limits;   /* rate 0: no limit of that kind */
    uint32_t weight;             /* default 100 */
    int32_t priority;            /* default 0; higher is dearer */
    uint32_t compliance_target_ppm; /* 0: none */
    uint64_t compliance_window_ns;  /* default 10 s */
    uint64_t compliance_over_ns;    /* default 30 d */
};

struct tenant {
    char name[NAME_SIZE];
    uint64_t version;
    struct selector
        member[TENANT_MAX_MEMBERS]; /* a stream matching any belongs to it (member.tenant unused) */
    size_t member_count;
    struct gate_limits limits;   /* for all of it together */
};

/* Rules on what may be done to whom. All policies hold at once; the strictest wins. */
struct policy {
    char name[NAME_SIZE];
    uint64_t version;
    struct selector applies_to;
    bool observe;                 /* analyse, name, record; send nothing planned */
    bool protect;                 /* never throttle these streams */
    uint64_t floor_iops;          /* never throttle below; 0: the built-in floor */
    uint64_t floor_bytes_s;
    uint32_t max_cut_ppm;         /* largest cut in one period; 0: built-in 20 % */
    struct {
        int32_t day_mask;
        uint32_t from_min, to_min;
    } freeze[POLICY_MAX_FREEZES]; /* UTC minutes of day: no new throttle */
    size_t freeze_count;
};

#endif
