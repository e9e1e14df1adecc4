/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler of one target: which I/O goes next when more are asked for than the target should
 * have at once.
 *
 * A *share* is what one stream, or a group of streams, is owed: a reservation (I/Os a second, bytes
 * a second, of reads, of writes or of both together) that comes first, and a weight by which the
 * rest is divided in device time (cost.h).
 * A *flow* is a stream's place: two queues, reads and writes, as in the gate. An I/O goes at once
 * while the window has room and nothing waits. When the window is full it waits; whenever a slot
 * becomes free the next goes: a share whose reservation is due (least tag R), else the one with the
 * least tag P (mClock, OSDI'10). FLUSH keeps its place behind earlier writes of its flow and takes
 * no slot; BLOCK_STATUS and the like go at once.
 *
 * Promises, each held by a test: nothing waits while the window has room; a reservation that the
 * target can carry is kept whatever the others do; without reservations device time is divided by
 * weight among those that want it; a share gains nothing by hiding, splitting or saving up its load
 * beyond its credit; no I/O waits longer than max_wait_ns (it then goes, window or not).
 *
 * Off (no window): sched_submit and sched_complete cost counters, nothing waits, no tag moves.
 *
 * Pure: no clock, no socket, no allocation after sched_new. Owner thread only. */
#ifndef WEIR_QOS_SCHED_H
#define WEIR_QOS_SCHED_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "qos/cost.h"
#include "qos/meter.h"

#define SCHED_WEIGHT_MAX     100000u
#define SCHED_WEIGHT_DEFAULT 100u
/* Reservation that idleness may save, when terms do not say: bursts of a few I/Os keep first turn.
 */
#define SCHED_CREDIT_NS UINT64_C(2500000)

/* What an agreement, or the planner, says a share is owed. Numbers hold for all members together,
 * at all gateways together: what others served comes back in `elsewhere` (batched dmClock).
 *
 * reserve_*: first turn up to these rates; each kept in its own unit, whichever lags is served. For
 * a share with an objective it should be at least 1.1 times the last while_iops, so that no plan
 * has to follow its demand; where reservations exceed the target the planner scales them, by
 * priority, before it sends them. */
struct sched_terms {
    uint64_t reserve_iops, reserve_bytes_s; /* of reads and writes together; 0: none */
    /* Beside that, of each direction alone (IO_DIR_READ, IO_DIR_WRITE). */
    uint64_t reserve_dir_iops[2], reserve_dir_bytes_s[2];
    uint32_t weight;                        /* 1..SCHED_WEIGHT_MAX; 0: no terms at all */
    int32_t priority;                       /* for people and plans; not for the scheduler */
    uint64_t latency_us;                    /* objective; 0: none. Counted (late), and warned of */
    uint32_t percentile_ppm;                /* 0: the mean */
    uint64_t while_iops;                    /* 0: at any demand */
    uint64_t credit_us;                     /* 0: SCHED_CREDIT_NS */
    /* Cumulative; going back: begun anew. */
    uint64_t elsewhere_cost_ns, elsewhere_ios, elsewhere_bytes;
    uint64_t elsewhere_dir_ios[2], elsewhere_dir_bytes[2];
};

static inline bool sched_terms_same_dir(const struct sched_terms *a, const struct sched_terms *b,
                                        int dir)
{
    return a->reserve_dir_iops[dir] == b->reserve_dir_iops[dir] &&
           a->reserve_dir_bytes_s[dir] == b->reserve_dir_bytes_s[dir] &&
           a->elsewhere_dir_ios[dir] == b->elsewhere_dir_ios[dir] &&
           a->elsewhere_dir_bytes[dir] == b->elsewhere_dir_bytes[dir];
}

/* Field by field: what lies between fields says nothing. */
static inline bool sched_terms_same(const struct sched_terms *a, const struct sched_terms *b)
{
    return a->reserve_iops == b->reserve_iops && a->reserve_bytes_s == b->reserve_bytes_s &&
           a->weight == b->weight && a->priority == b->priority && a->latency_us == b->latency_us &&
           a->percentile_ppm == b->percentile_ppm && a->while_iops == b->while_iops &&
           a->credit_us == b->credit_us && a->elsewhere_cost_ns == b->elsewhere_cost_ns &&
           a->elsewhere_ios == b->elsewhere_ios && a->elsewhere_bytes == b->elsewhere_bytes &&
           sched_terms_same_dir(a, b, 0) && sched_terms_same_dir(a, b, 1);
}

struct sched;
struct sched_flow;

/* Tag R of one reservation, per unit. */
struct sched_tag {
    uint64_t io_ns, byte_ps; /* steps: nanoseconds an I/O, picoseconds a byte; 0: not reserved */
    uint64_t io, bytes;      /* due at this time, nanoseconds */
};

#define SCHED_TOTAL 2 /* beside IO_DIR_READ and IO_DIR_WRITE: a tag for both together */

/* Embedded in its owner; fields are the scheduler's. */
struct sched_share {
    struct sched *sched;
    struct sched_terms terms;
    struct sched_tag tag[3]; /* IO_DIR_READ, IO_DIR_WRITE, SCHED_TOTAL */
    bool directed;           /* one of the first two is reserved */
    uint64_t p;              /* tag P: device time over weight */
    struct list waiting;     /* struct sched_flow with something queued, served in turn */
    struct list waiting_dir[2]; /* those with something in this queue, likewise */
    uint32_t flows;             /* that belong to it */
    uint32_t queued, queued_dir[2];
    uint32_t r_index, p_index; /* in the scheduler's heaps; 0: not in */
    uint64_t cost_dispatched_ns, reserved_ios;
    void *owner;
};

struct sched_queue {
    struct list ios; /* struct sched_io, in order */
    uint32_t length;
};

/* Embedded in its owner (a stream at one target). */
struct sched_flow {
    struct sched_share *share;   /* the one given, or own */
    struct sched_share own;      /* of a flow that nobody gave a share */
    struct sched_queue queue[2]; /* IO_DIR_READ, IO_DIR_WRITE */
    struct list link;            /* in share->waiting */
    struct list dir_link[2];     /* in share->waiting_dir */
    uint32_t turn;               /* which queue is next */
    uint32_t queued, inflight;
    uint64_t cost_arrived_ns, cost_served_ns, reserved_ios, queued_ns, late, overdue;
    uint8_t recent[16]; /* of the last 128 answers: late or not */
    uint32_t recent_at;
};

/* Embedded in the owner's request. */
struct sched_io {
    struct sched_flow *flow;
    enum io_op op;
    bool queued;    /* waits */
    bool slot;      /* has a slot (between dispatch and answer) */
    bool suspended; /* let go, its slot given back for now */
    bool weighed;   /* went by weight, not because a reservation was due */
    uint64_t bytes, cost_ns;
    uint64_t submitted_ns, dispatched_ns;
    struct list link;     /* in its queue */
    struct list age_link; /* the scheduler's: all that wait, in order of submission */
};

/* I/Os of one flow that go in one batch, or are answered in one, while there is no window. */
struct sched_run {
    uint32_t n, weighed;
    uint64_t cost_ns;
    uint64_t bytes, latency_ns; /* of those answered */
};

/* Cumulative, of one target. */
struct sched_counts {
    uint64_t busy_ns, full_ns; /* as of the last sched_account */
    uint64_t cost_served_ns, served_ios, served_bytes, latency_ns;
    uint64_t overdue; /* let go because they had waited max_wait_ns */
    uint64_t weighed_busy_ns, weighed_ios, weighed_bytes; /* of these: what went by weight */
};

/* @max_shares: shares with something queued at most (flows count with their own). NULL: no memory.
 */
struct sched *sched_new(size_t max_shares, uint64_t max_wait_ns);
void sched_free(struct sched *s);
void sched_set_max_wait(struct sched *s, uint64_t max_wait_ns);

/* The window: @slots_milli thousandths of a slot; 0: off, and whatever waits may go. What is beyond
 * whole slots is paced, so that the target has one more in hand for that part of the time.
 */
void sched_set_window(struct sched *s, uint64_t slots_milli, uint64_t now_ns);
uint64_t sched_window(const struct sched *s);
/* For a while: a lower window for what is not reserved, or for @all; 0: the window as set. */
void sched_set_low(struct sched *s, uint64_t slots_milli, bool all, uint64_t now_ns);
/* Whether others may fill the target beside this window, which nobody divides: what is let go of
 * they take. What is reserved then goes beyond the window, to eight times of it. */
void sched_set_undivided(struct sched *s, bool undivided);
/* From now on; what waits or is in flight keeps its cost. */
void sched_set_cost(struct sched *s, const struct cost_model *m);
const struct cost_model *sched_cost(const struct sched *s);

void sched_share_init(struct sched *s, struct sched_share *sh, const struct sched_terms *t,
                      uint64_t now_ns);
/* Live change: tags stay, and take what was served elsewhere since the last change. */
void sched_share_change(struct sched_share *sh, const struct sched_terms *t, uint64_t now_ns);
/* No flow may belong to it any more (asserted). */
void sched_share_fini(struct sched_share *sh);

void sched_flow_init(struct sched *s, struct sched_flow *f, uint64_t now_ns);
/* Nothing may be queued or in flight (asserted). */
void sched_flow_fini(struct sched_flow *f);
/* Give @f the share @sh, or (NULL) its own of default weight; what it has queued moves along. */
void sched_flow_join(struct sched_flow *f, struct sched_share *sh, uint64_t now_ns);

/* @io->op and bytes set by the caller. True: it goes now. False: it waits. */
bool sched_submit(struct sched *s, struct sched_flow *f, struct sched_io *io, uint64_t now_ns);
/* The next that may go, or NULL. To be called after an answer, a change, and at sched_next_ns. */
struct sched_io *sched_poll(struct sched *s, uint64_t now_ns);
/* When sched_poll may next have something though nothing was answered; UINT64_MAX: never. */
uint64_t sched_next_ns(const struct sched *s);
/* The target answered (or never will) what sched_submit or sched_poll let go. @judged_ns: how long
 * it took as its objective sees it; 0: it is not to be judged (dropped). */
void sched_complete(struct sched *s, struct sched_io *io, uint64_t judged_ns, uint64_t now_ns);
/* With no window in force a batch of READs and WRITEs is told together: sched_went of each, then
 * sched_submit_run; sched_answered of each that holds a slot, then sched_complete_run. What that
 * leaves is what sched_submit and sched_complete of each would; of a flow without an objective. */
static inline void sched_went(struct sched_run *run, struct sched_flow *f, struct sched_io *io,
                              uint64_t cost_ns, uint64_t now_ns)
{
    io->flow = f;
    io->queued = io->suspended = io->weighed = false;
    io->slot = true;
    io->cost_ns = cost_ns;
    io->submitted_ns = io->dispatched_ns = now_ns;
    run->n++;
    run->cost_ns += cost_ns;
}
static inline void sched_answered(struct sched_run *run, struct sched_io *io, uint64_t now_ns)
{
    io->slot = false;
    run->n++;
    run->weighed += io->weighed; /* it went while there was a window */
    run->cost_ns += io->cost_ns;
    run->bytes += io->bytes;
    run->latency_ns += now_ns > io->dispatched_ns ? now_ns - io->dispatched_ns : 0;
}
void sched_submit_run(struct sched *s, struct sched_flow *f, const struct sched_run *run);
void sched_complete_run(struct sched *s, struct sched_flow *f, const struct sched_run *run);
/* Let go, but its bytes are not all here: it gives its slot back until they are. A host that stalls
 * in the middle of a write thus takes nothing of the window. Both may be repeated. */
void sched_suspend(struct sched *s, struct sched_io *io, uint64_t now_ns);
void sched_resume(struct sched *s, struct sched_io *io, uint64_t now_ns);
/* Take one out that waits. */
void sched_cancel(struct sched *s, struct sched_io *io, uint64_t now_ns);

uint32_t sched_inflight(const struct sched *s); /* slots taken */
uint32_t sched_queued(const struct sched *s);
/* Whether sched_poll need be asked at all. */
bool sched_pending(const struct sched *s);
/* Bring busy_ns and full_ns up to @now_ns. */
const struct sched_counts *sched_account(struct sched *s, uint64_t now_ns);
/* When the oldest that waits in @f came; UINT64_MAX: nothing waits. */
uint64_t sched_flow_oldest_ns(const struct sched_flow *f);
/* Of the flow's last 128 answers, how many were late. */
uint32_t sched_flow_late_recent(const struct sched_flow *f);

#endif
