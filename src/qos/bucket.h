/* SPDX-License-Identifier: Apache-2.0 */
/* Rate bucket: whether an I/O may go now, and when to ask again.
 *
 * GCRA (virtual scheduling, ITU-T I.371 Annex A) in exact integer arithmetic: no fraction is ever
 * dropped, from 1 to 10^9 units a second and I/Os up to 2^32 units. An I/O goes when no debt is
 * left from those before it (whatever its own size, so that large ones never starve), and then pays
 * in full. Credit saved while idle is bounded by 10 ms at the rate, or by one unit if that is more:
 * a late wake-up loses nothing and an idle second is no burst. A declared burst is a second,
 * explicit store of credit on top: `burst_rate` for at most `burst_ns`, refilled at the base
 * rate. */
#ifndef WEIR_QOS_BUCKET_H
#define WEIR_QOS_BUCKET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bounds of what is reckoned with; larger figures are held to these. */
#define BUCKET_RATE_MAX UINT64_C(1000000000000)         /* 10^12 units a second */
#define BUCKET_BURST_NS_MAX UINT64_C(2592000000000000)  /* 30 days */
#define BUCKET_UNITS_MAX (UINT64_C(1) << 40)            /* of one I/O */
/* Credit that idleness may save: what a wake-up that late would otherwise lose. */
#define BUCKET_SLACK_NS UINT64_C(10000000)
/* I/Os forced through by max-hold deepen a debt to so long a repayment at most (or to their own
 * cost). */
#define BUCKET_DEBT_NS_MAX UINT64_C(60000000000)

/* Rate as configured. rate 0 is "no limit" inside qos/ only; outside it is refused. */
struct bucket_rate {
    uint64_t rate;       /* units per second; 0: unlimited */
    uint64_t burst_rate; /* 0, or > rate: the rate while burst credit lasts */
    uint64_t burst_ns;   /* how long burst_rate can last from full credit */
};

/* What time and payments move. */
struct bucket_state {
    uint64_t last_ns;
    __int128 credit;       /* base credit in unit-nanoseconds (units x 1e9); negative: debt */
    __int128 burst_credit; /* same unit; 0..burst_max */
    __int128 pace;         /* credit of the second bucket that holds bursts to burst_rate */
};

/* Fields are the bucket's own business; embedded so that the hot path sees them. It may lie in
 * memory that outlives its process: a change writes the state that is not in force and then
 * switches, so that a process killed between any two instructions leaves a whole one. */
struct bucket {
    struct bucket_rate cfg;
    uint32_t in_force;     /* of state[] */
    __int128 credit_max;
    __int128 burst_max;    /* (burst_rate - rate) x burst_ns */
    __int128 pace_max;
    struct bucket_state state[2];
};

/* Starts with no base credit (so that the first second begins without a clump) and full burst
 * credit. */
void bucket_init(struct bucket *b, const struct bucket_rate *rate, uint64_t now_ns);

/* Change the rate live: debts stay debts, credit is cut to its new bound, burst credit keeps its
 * share. */
void bucket_change(struct bucket *b, const struct bucket_rate *rate, uint64_t now_ns);

/* Take over a bucket whose process was killed, with @rate in force from now on: debts and credit
 * are as they were, within the new bounds. One that held nothing (all zero) begins anew. */
void bucket_adopt(struct bucket *b, const struct bucket_rate *rate, uint64_t now_ns);

/* Whether @b is known to let an I/O go at @now_ns without another look at the clock: true for all
 * but the first of a batch. False: ask bucket_wait_ns. Inline: twice an I/O. */
static inline bool bucket_ready(const struct bucket *b, uint64_t now_ns)
{
    const struct bucket_state *s = &b->state[b->in_force];
    return now_ns <= s->last_ns && s->credit >= 0 && s->pace >= 0;
}

/* 0 when an I/O may go now, else the nanoseconds until it may (if nothing else is taken). Takes
 * nothing. @now_ns may repeat but not go back; going back is treated as standing still. */
uint64_t bucket_wait_ns(struct bucket *b, uint64_t now_ns);

/* How many units may be taken at @now_ns, by I/Os one after the other, before the next has to wait:
 * each goes while what those before it took is no more than this. Negative: it is in debt. Less
 * than the truth from some 9 x 10^9 on. */
int64_t bucket_left(struct bucket *b, uint64_t now_ns);

/* Bring credit up to @now_ns, for those who look at it while nothing flows. */
void bucket_refill(struct bucket *b, uint64_t now_ns);

/* Pay @units. Only after bucket_wait_ns said 0, or when max-hold forces an I/O through (then
 * debt). */
void bucket_take(struct bucket *b, uint64_t units, uint64_t now_ns);

/* As of the last look at the bucket (bucket_refill brings it up to date):
 * burst credit left as parts per million of full; 1000000 when no burst is declared. */
uint32_t bucket_burst_ppm(const struct bucket *b);
/* Nanoseconds of burst_rate left, and nanoseconds of idling until full. */
uint64_t bucket_burst_left_ns(const struct bucket *b);
uint64_t bucket_burst_full_in_ns(const struct bucket *b);

#endif
