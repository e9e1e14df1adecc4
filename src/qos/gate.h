/* SPDX-License-Identifier: Apache-2.0 */
/* The gate: holds each I/O until every limit that covers it lets it go.
 *
 * A *rule* is one set of limits (IOPS and bytes/s, each for read, write and total). A *flow* is a
 * stream's place in the gate: the rules that cover it, and two queues, reads and writes, so that
 * reads may pass held writes. An I/O goes when every bucket of every covering rule is out of debt;
 * then it pays into all of them. One that must wait parks at the first bucket that refused it;
 * queues parked at a bucket are served in the order they parked, one I/O a turn, so that no flow of
 * a group starves, and no newcomer goes before them. FLUSH enters the write queue behind the writes
 * before it and pays nothing. An I/O that has waited max_hold_ns in the gate goes whatever the
 * limits say, pays, and is counted.
 *
 * Pure: no clock, no socket, no allocation after gate_new. Owner thread only. Bounds:
 * GATE_MAX_COVER rules a flow. With no rule in force gate_submit costs a few counters and nothing
 * else. */
#ifndef WEIR_QOS_GATE_H
#define WEIR_QOS_GATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "qos/bucket.h"
#include "qos/meter.h"

enum gate_kind {
    GATE_IOPS_READ,
    GATE_IOPS_WRITE,
    GATE_IOPS_TOTAL,
    GATE_BYTES_READ,
    GATE_BYTES_WRITE,
    GATE_BYTES_TOTAL,
    GATE_KIND_COUNT,
};

/* "iops-read", "iops-write", "iops", "bandwidth-read", "bandwidth-write", "bandwidth". */
const char *gate_kind_name(enum gate_kind k);

/* Limits as configured; rate 0 in a member: no limit of that kind. */
struct gate_limits {
    struct bucket_rate rate[GATE_KIND_COUNT];
};

/* At most so many rules may cover one flow (stream, volume, tenant, target; agreed and planned;
 * file). */
#define GATE_MAX_COVER 16u
/* WRITE_ZEROES pays its length up to this cap, TRIM this many bytes. */
#define GATE_WRITE_ZEROES_BYTES_MAX (1024u * 1024u)
#define GATE_TRIM_BYTES 4096u

struct gate;

/* Where queues wait for one bucket of a rule. */
struct gate_place {
    struct list parked; /* struct gate_queue, in the order they parked */
    uint64_t wake_ns;   /* when the first may try again */
    size_t heap_index;  /* in the gate's heap of places; 0: nothing parked */
};

/* What of a rule counts on over its process's death: debts, credit, a counter. */
struct gate_credit {
    struct bucket bucket[GATE_KIND_COUNT];
    uint64_t held_total; /* I/Os that ever parked here */
};

/* Embedded in its owner; fields are the gate's. */
struct gate_rule {
    struct gate *gate;
    struct bucket *bucket;      /* credit->bucket */
    struct gate_credit *credit; /* &own, or kept elsewhere */
    struct gate_place place[GATE_KIND_COUNT];
    uint8_t in_force;    /* bit mask of kinds with a rate */
    void *owner;         /* for the owner: who this rule is */
    struct gate_credit own;
};

struct gate_flow;

struct gate_queue {
    struct gate_flow *flow;
    struct list ios;         /* struct gate_io, in order */
    struct gate_rule *at;    /* where parked; NULL: nothing held, or to be judged in gate_poll */
    enum gate_kind at_kind;
    struct list park_link;   /* in the place where it is parked, or in the gate's ready list */
    uint32_t length;
};

struct gate_flow {
    struct gate_rule *cover[GATE_MAX_COVER];
    uint32_t cover_count;
    struct gate_queue queue[2]; /* IO_DIR_READ, IO_DIR_WRITE */
    void *owner;
};

/* Embedded in the owner's request. */
struct gate_io {
    enum io_op op;
    bool queued;
    bool was_held;
    uint64_t bytes;
    uint64_t arrived_ns;
    /* Not set by a pass (pass.h). */
    uint64_t released_ns;    /* when it was let go; held = released - arrived */
    struct gate_flow *flow;
    /* The rest has a meaning only for those that were held. */
    bool hit_max_hold;
    uint16_t parked_at;      /* covering rules that counted it, as a bit mask */
    uint64_t submitted_ns;   /* when it came to the gate: max-hold counts from here */
    struct list link;
    struct list age_link;    /* the gate's: all held I/Os, longest held first */
};

/* @max_rules bounds rules that can be parked at. NULL: no memory. */
struct gate *gate_new(size_t max_rules, uint64_t max_hold_ns);
void gate_free(struct gate *g);
void gate_set_max_hold(struct gate *g, uint64_t max_hold_ns);

void gate_rule_init(struct gate *g, struct gate_rule *r, const struct gate_limits *l,
                    uint64_t now_ns);
/* The same with the credit kept in @credit, which outlives @r: it goes on from what it finds there
 * (all zero: begins anew). */
void gate_rule_adopt(struct gate *g, struct gate_rule *r, const struct gate_limits *l,
                     struct gate_credit *credit, uint64_t now_ns);
/* Live change; parked I/Os are looked at again at the next gate_poll. */
void gate_rule_change(struct gate_rule *r, const struct gate_limits *l, uint64_t now_ns);
/* Nobody may be covered by it any more (asserted: nothing parked). */
void gate_rule_fini(struct gate_rule *r);

void gate_flow_init(struct gate *g, struct gate_flow *f);
/* Replace the rules that cover @f (one named twice counts once); what it holds parks anew. 0 or
 * WEIR_E_FULL (then nothing changed). */
int gate_flow_cover(struct gate *g, struct gate_flow *f, struct gate_rule *const *rules,
                    size_t count, uint64_t now_ns);
/* True when nothing is held. */
bool gate_flow_idle(const struct gate_flow *f);

/* @io->op, bytes and arrived_ns set by the caller. True: it goes now (paid). False: held. FLUSH
 * goes now when no write of the flow is held, BLOCK_STATUS and IO_OTHER always go. */
bool gate_submit(struct gate *g, struct gate_flow *f, struct gate_io *io, uint64_t now_ns);

/* The next held I/O that may go at @now_ns, paid and taken out of its queue, or NULL. */
struct gate_io *gate_poll(struct gate *g, uint64_t now_ns);

/* When gate_poll may next have something: UINT64_MAX when nothing is held. */
uint64_t gate_next_ns(const struct gate *g);

/* Take a held I/O out unpaid (its host vanished). It must be held (asserted). */
void gate_cancel(struct gate *g, struct gate_io *io, uint64_t now_ns);

/* Bring the visible credit of @r up to @now_ns. */
void gate_rule_refill(struct gate_rule *r, uint64_t now_ns);

/* Why the head of a queue waits: the rule and the kind, or NULL when nothing waits. */
const struct gate_rule *gate_queue_blocked_by(const struct gate_queue *q, enum gate_kind *ret_kind);
/* Arrival time of the oldest I/O held in the flow, or UINT64_MAX. */
uint64_t gate_flow_oldest_ns(const struct gate_flow *f);

#endif
