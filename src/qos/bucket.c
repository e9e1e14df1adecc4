/* SPDX-License-Identifier: Apache-2.0 */
/* Rate bucket: GCRA in exact integers, with a declared burst on top.
 *
 * Problem: hold a stream to its rate from 1 I/O a second to hundreds of thousands, with I/Os from
 * one byte to gigabytes, woken late and unevenly by a shared processor, and neither lose what it
 * may have nor let idleness grow into a burst nobody declared.
 *
 * Model: the Generic Cell Rate Algorithm (ITU-T I.371, Annex A), written as credit instead of a
 * theoretical arrival time: time adds rate * dt, an I/O of n units takes n * 10^9 (the unit is one
 * unit-nanosecond, so nothing is ever rounded). An I/O goes whenever credit is not negative and
 * then pays in full; its own size never matters to whether it may start, so a large I/O waits no
 * longer than a small one, and those behind it wait for its debt.
 *
 * A burst is three stores. `credit` is the base, as above. What time adds beyond credit_max flows
 * over into `burst_credit`, hence a burst refills at the base rate less demand. A take that would
 * leave the base in debt draws on burst_credit first. `pace` is a bucket of its own at burst_rate
 * that must be out of debt too, hence I/Os pass at burst_rate while burst_credit lasts and at rate
 * after. With demand at burst_rate, burst_credit falls by burst_rate - rate a second: full credit
 * lasts burst_ns.
 *
 * Invariants:
 *   1. credit <= credit_max = max(10 ms at rate, one unit); pace likewise at burst_rate.
 *   2. 0 <= burst_credit <= burst_max; credit < 0 only when burst_credit == 0.
 *   3. Over any interval of length t, what was granted is at most rate * t + credit_max + burst_max
 *      plus one I/O, and at most burst_rate * t + pace_max plus one I/O, forced takes aside.
 *   4. A debt never needs longer to repay than max(60 s, the cost of one I/O): max-hold forces I/Os
 *      through at the rate of demand, and a stream must not be punished for hours for what it was
 *      let do. A debt that stood when the rate was lowered is the exception; it stays what it was.
 *   5. Between any two instructions state[in_force & 1] is a whole state: the one before a change
 *      or the one after. The fence keeps the compiler from moving the switch, and a process dies
 *      between instructions, those before it carried out in the order of the program. A change of
 *      the rate is not one instruction; bucket_adopt trusts the state only and is told the rate.
 *   6. Magnitudes: rate < 2^40, dt < 2^64, burst_max < 2^92, cost < 2^70: all far inside 127 bits.
 *
 * Nothing here can fail. */
#include "qos/bucket.h"

#include <stdatomic.h>

#include "base/assert.h"

#define UNIT ((__int128)1000000000) /* unit-nanoseconds of one unit */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static __int128 max_i128(__int128 a, __int128 b)
{
    return a > b ? a : b;
}

static __int128 min_i128(__int128 a, __int128 b)
{
    return a < b ? a : b;
}

/* ceil(amount / rate) in nanoseconds, saturating. Most amounts fit 64 bits, where division is
 * cheap. */
static uint64_t bucket_time_for(__int128 amount, uint64_t rate)
{
    weir_assert(rate > 0);
    if (amount <= 0)
        return 0;
    if (amount <= (__int128)(UINT64_MAX / 2))
        return ((uint64_t)amount + rate - 1) / rate;
    __int128 t = (amount + rate - 1) / rate;
    return t > (__int128)UINT64_MAX ? UINT64_MAX : (uint64_t)t;
}

/* ---- the two states -------------------------------------------------------------------------- */

static inline const struct bucket_state *bucket_state(const struct bucket *b)
{
    return &b->state[b->in_force & 1u];
}

/* Put @s in force, in one store. */
static inline void bucket_commit(struct bucket *b, const struct bucket_state *s)
{
    uint32_t other = (b->in_force & 1u) ^ 1u;
    b->state[other] = *s;
    atomic_signal_fence(memory_order_seq_cst);
    b->in_force = other;
    atomic_signal_fence(memory_order_seq_cst);
}

static inline bool bucket_has_burst(const struct bucket *b)
{
    return b->cfg.burst_rate > 0;
}

static __int128 bucket_slack(uint64_t rate)
{
    return max_i128((__int128)rate * BUCKET_SLACK_NS, UNIT);
}

/* Take over a configuration and the bounds that follow from it. */
static void bucket_configure(struct bucket *b, const struct bucket_rate *rate)
{
    b->cfg = (struct bucket_rate){.rate = min_u64(rate->rate, BUCKET_RATE_MAX)};
    b->credit_max = bucket_slack(b->cfg.rate);
    b->burst_max = 0;
    b->pace_max = 0;
    uint64_t burst_rate = min_u64(rate->burst_rate, BUCKET_RATE_MAX);
    if (b->cfg.rate == 0 || burst_rate <= b->cfg.rate || rate->burst_ns == 0)
        return;
    b->cfg.burst_rate = burst_rate;
    b->cfg.burst_ns = min_u64(rate->burst_ns, BUCKET_BURST_NS_MAX);
    b->burst_max = (__int128)(burst_rate - b->cfg.rate) * b->cfg.burst_ns;
    b->pace_max = bucket_slack(burst_rate);
}

static struct bucket_state bucket_begin(const struct bucket *b, uint64_t now_ns)
{
    return (struct bucket_state){.last_ns = now_ns, .burst_credit = b->burst_max};
}

void bucket_init(struct bucket *b, const struct bucket_rate *rate, uint64_t now_ns)
{
    b->in_force = 0;
    bucket_configure(b, rate);
    struct bucket_state s = bucket_begin(b, now_ns);
    bucket_commit(b, &s);
}

/* @s, of a bucket whose bounds may have changed, within them. */
static void bucket_clamp(const struct bucket *b, struct bucket_state *s)
{
    s->credit = min_i128(s->credit, b->credit_max);
    s->burst_credit = min_i128(max_i128(s->burst_credit, 0), b->burst_max);
    s->pace = bucket_has_burst(b) ? min_i128(s->pace, b->pace_max) : 0;
}

static void state_refill(const struct bucket *b, struct bucket_state *s, uint64_t now_ns)
{
    uint64_t dt = now_ns - s->last_ns;
    s->last_ns = now_ns;
    s->credit += (__int128)b->cfg.rate * dt;
    if (s->credit > b->credit_max) {
        s->burst_credit = min_i128(s->burst_credit + (s->credit - b->credit_max), b->burst_max);
        s->credit = b->credit_max;
    }
    if (bucket_has_burst(b))
        s->pace = min_i128(s->pace + (__int128)b->cfg.burst_rate * dt, b->pace_max);
}

void bucket_adopt(struct bucket *b, const struct bucket_rate *rate, uint64_t now_ns)
{
    struct bucket_state s = *bucket_state(b);
    bool began = b->cfg.rate != 0;
    bucket_configure(b, rate);
    if (!began)
        s = bucket_begin(b, now_ns);
    else if (b->cfg.rate == 0)
        s = (struct bucket_state){.last_ns = now_ns};
    bucket_clamp(b, &s);
    if (s.last_ns > now_ns)
        s.last_ns = now_ns;
    bucket_commit(b, &s);
}

void bucket_change(struct bucket *b, const struct bucket_rate *rate, uint64_t now_ns)
{
    bucket_refill(b, now_ns);
    if (b->cfg.rate == 0) {
        bucket_init(b, rate, now_ns);
        return;
    }
    __int128 burst_max = b->burst_max;
    bucket_configure(b, rate);
    struct bucket_state s = *bucket_state(b);
    if (b->cfg.rate == 0) {
        s.credit = s.burst_credit = s.pace = 0;
        bucket_commit(b, &s);
        return;
    }
    if (burst_max == 0) {
        /* A burst declared just now starts full, but a debt is not forgiven by it. */
        s.burst_credit = s.credit < 0 ? 0 : b->burst_max;
        s.pace = 0;
    } else if (burst_max != b->burst_max) {
        /* burst_max < 2^92, so 30 bits of share stay inside 127 bits. */
        __int128 share = (s.burst_credit << 30) / burst_max;
        s.burst_credit = (b->burst_max * share) >> 30;
    }
    bucket_clamp(b, &s);
    bucket_commit(b, &s);
}

void bucket_refill(struct bucket *b, uint64_t now_ns)
{
    if (now_ns <= bucket_state(b)->last_ns)
        return;
    struct bucket_state s = *bucket_state(b);
    state_refill(b, &s, now_ns);
    bucket_commit(b, &s);
}

uint64_t bucket_wait_ns(struct bucket *b, uint64_t now_ns)
{
    if (b->cfg.rate == 0)
        return 0;
    bucket_refill(b, now_ns); /* all but the first of a batch share their time */
    const struct bucket_state *s = bucket_state(b);
    if (s->credit >= 0 && s->pace >= 0)
        return 0;
    uint64_t wait = 0;
    if (s->credit < 0)
        wait = bucket_time_for(-s->credit, b->cfg.rate);
    if (s->pace < 0) {
        uint64_t pace_wait = bucket_time_for(-s->pace, b->cfg.burst_rate);
        if (pace_wait > wait)
            wait = pace_wait;
    }
    return wait;
}

int64_t bucket_left(struct bucket *b, uint64_t now_ns)
{
    if (b->cfg.rate == 0)
        return INT64_MAX;
    bucket_refill(b, now_ns);
    const struct bucket_state *s = bucket_state(b);
    if (s->credit < 0 || s->pace < 0)
        return -1;
    __int128 left = s->credit + s->burst_credit;
    if (bucket_has_burst(b))
        left = min_i128(left, s->pace);
    /* Divided in 64 bits, where that is cheap. */
    return (int64_t)min_i128(left, INT64_MAX) / (int64_t)UNIT;
}

/* Pay @cost out of *@credit; see invariant 4. */
static void bucket_pay(__int128 *credit, __int128 cost, uint64_t rate)
{
    __int128 after = *credit - cost;
    if (after >= -cost) { /* almost always: only forced takes go deeper than the cost of one */
        *credit = after;
        return;
    }
    __int128 floor = -max_i128((__int128)rate * BUCKET_DEBT_NS_MAX, cost);
    *credit = after >= floor ? after : min_i128(*credit, floor);
}

void bucket_take(struct bucket *b, uint64_t units, uint64_t now_ns)
{
    if (b->cfg.rate == 0)
        return;
    struct bucket_state s = *bucket_state(b);
    if (now_ns > s.last_ns)
        state_refill(b, &s, now_ns);
    __int128 cost = UNIT * min_u64(units, BUCKET_UNITS_MAX);
    bucket_pay(&s.credit, cost, b->cfg.rate);
    if (bucket_has_burst(b)) {
        bucket_pay(&s.pace, cost, b->cfg.burst_rate);
        if (s.credit < 0 && s.burst_credit > 0) {
            __int128 drawn = min_i128(-s.credit, s.burst_credit);
            s.burst_credit -= drawn;
            s.credit += drawn;
        }
    }
    bucket_commit(b, &s);
}

uint32_t bucket_burst_ppm(const struct bucket *b)
{
    if (!bucket_has_burst(b))
        return 1000000;
    return (uint32_t)(bucket_state(b)->burst_credit * 1000000 / b->burst_max);
}

uint64_t bucket_burst_left_ns(const struct bucket *b)
{
    if (!bucket_has_burst(b))
        return 0;
    return (uint64_t)(bucket_state(b)->burst_credit / (b->cfg.burst_rate - b->cfg.rate));
}

uint64_t bucket_burst_full_in_ns(const struct bucket *b)
{
    const struct bucket_state *s = bucket_state(b);
    if (!bucket_has_burst(b) || s->burst_credit == b->burst_max)
        return 0;
    return bucket_time_for(b->burst_max - s->burst_credit + b->credit_max - s->credit,
                           b->cfg.rate);
}
