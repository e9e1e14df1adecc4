/* SPDX-License-Identifier: Apache-2.0 */
/* What SLA processes tell each other of limits that span them, as plain data: a member's notes to
 * the coordinator, and what that grants. The idea is in coordinator.c. */
#ifndef WEIR_SERVER_SERVICES_SHARE_H
#define WEIR_SERVER_SERVICES_SHARE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qos/gate.h"

/* A limit is SHARE_ONE tokens; who has some of them may let so much of it be used. */
#define SHARE_ONE (UINT32_C(1) << 30)
/* SLA processes at most. */
#define SHARE_PEERS 16u
/* Notes or grants in one message. */
#define SHARE_BATCH 256u

/* Two hashes of a claim's id. */
struct share_key {
    uint64_t a, b;
};

/* A member to the coordinator: this is how it stands here. */
struct share_note {
    struct share_key key;
    uint64_t seq;                       /* grows with each change that the coordinator must know
                                           before it may take something away */
    bool member;                        /* it has streams of the claim */
    bool connected;                     /* some of them have a host */
    uint32_t own[GATE_KIND_COUNT];      /* tokens that it has */
    uint32_t returned[GATE_KIND_COUNT]; /* tokens that it gives back herewith */
    uint64_t limit[GATE_KIND_COUNT];    /* of the whole claim; 0: none of that kind */
    double demand[GATE_KIND_COUNT];
    double room[GATE_KIND_COUNT];
    uint32_t wanting[GATE_KIND_COUNT];
    double iops;                        /* of those that have its promise */
    uint64_t bytes;                     /* of its volumes; 0 when nothing depends on it */
};

/* The coordinator to a member. */
struct share_grant {
    struct share_key key;
    uint64_t seq;                       /* of its last note that counts in this */
    bool spans;                         /* others have streams too: say each period how it stands */
    uint32_t granted[GATE_KIND_COUNT];  /* tokens that it gets herewith */
    uint32_t keep[GATE_KIND_COUNT];     /* what it has beyond is to be given back */
    double others_iops;
    uint64_t others_bytes;
};

/* Between two processes; freed with free(). One of the counts is 0, or both. */
struct share_batch {
    uint32_t from, to;
    bool heard;                         /* after a start, @from waits for none of its gateways; to
                                           the coordinator. From it: nobody does */
    size_t notes, grants;
    union {
        struct share_note note[SHARE_BATCH];
        struct share_grant grant[SHARE_BATCH];
    };
};

/* What process @i of @base, as many as there were when the server began, has of any claim that was
 * never spoken of. One that began later has nothing. */
static inline uint32_t share_default(uint32_t i, uint32_t base)
{
    if (i >= base)
        return 0;
    return SHARE_ONE / base + (i == 0 ? SHARE_ONE % base : 0);
}

#endif
