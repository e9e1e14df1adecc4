/* SPDX-License-Identifier: Apache-2.0 */
/* Log-linear histogram.
 *
 * Problem: latencies span nanoseconds to a minute; percentiles must be right to a few per cent, add
 * up over streams, gateways and time, and cost one increment per I/O. Averaged percentiles mean
 * nothing, so the counts themselves travel.
 *
 * Model: as in HdrHistogram, values below 2^12 ns lie in 64 buckets of 64 ns, and each octave above
 * is cut into 64 equal buckets. A bucket is thus never wider than 1/64 of its lower bound from
 * 4,096 ns on.
 *
 * Invariants:
 *   1. hist_bucket_low(i) <= v < hist_bucket_high(i) for i = hist_index(v), the last bucket aside,
 *      which has no upper bound.
 *   2. Buckets touch: hist_bucket_high(i) == hist_bucket_low(i + 1).
 *   3. count is the sum of all buckets; no count ever falls, save by hist_clear.
 *   4. Merging two histograms gives what recording into one would have given.
 * Nothing here can fail. */
#include "qos/hist.h"

#include <assert.h>
#include <string.h>

#include "base/assert.h"

#define HIST_LAST (HIST_BUCKETS - 1u)
#define HIST_SUBS (1u << HIST_SUB_BITS)

static_assert(HIST_BUCKETS == 1601, "64 linear, 24 octaves of 64, one for all above");

void hist_clear(struct hist *h)
{
    memset(h, 0, sizeof *h);
}

uint64_t hist_bucket_low(uint32_t index)
{
    weir_assert(index < HIST_BUCKETS);
    if (index < HIST_SUBS)
        return (uint64_t)index << (HIST_LINEAR_BITS - HIST_SUB_BITS);
    uint32_t octave = HIST_LINEAR_BITS + (index - HIST_SUBS) / HIST_SUBS;
    uint64_t sub = (index - HIST_SUBS) % HIST_SUBS;
    return (HIST_SUBS + sub) << (octave - HIST_SUB_BITS);
}

uint64_t hist_bucket_high(uint32_t index)
{
    weir_assert(index < HIST_BUCKETS);
    return index == HIST_LAST ? UINT64_MAX : hist_bucket_low(index + 1);
}

void hist_merge(struct hist *into, const struct hist *from)
{
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
}

void hist_subtract(struct hist *out, const struct hist *now, const struct hist *before)
{
    weir_assert(now->count >= before->count);
    weir_assert(now->sum_ns >= before->sum_ns);
    uint64_t max_ns = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        weir_assert(now->bucket[i] >= before->bucket[i]);
        out->bucket[i] = now->bucket[i] - before->bucket[i];
        if (out->bucket[i] > 0)
            max_ns = hist_bucket_high(i) - 1;
    }
    out->count = now->count - before->count;
    out->sum_ns = now->sum_ns - before->sum_ns;
    out->max_ns = max_ns < now->max_ns ? max_ns : now->max_ns;
}

/* A product that is a whole number but for the last bits of the double must not be rounded up to
 * the next rank. */
uint64_t hist_rank(double q, uint64_t count)
{
    double exact = q * (double)count * (1.0 - 1e-12);
    if (exact >= (double)count)
        return count;
    uint64_t rank = (uint64_t)exact;
    if ((double)rank < exact)
        rank++;
    if (rank > count)
        rank = count;
    return rank > 0 ? rank : 1;
}

uint64_t hist_quantile(const struct hist *h, double q)
{
    weir_assert(q > 0.0);
    weir_assert(q <= 1.0);
    if (h->count == 0)
        return 0;
    uint64_t rank = hist_rank(q, h->count), seen = 0;
    for (uint32_t i = 0; i < HIST_LAST; i++) {
        seen += h->bucket[i];
        if (seen >= rank)
            return hist_bucket_high(i) - 1;
    }
    return h->max_ns;
}

uint64_t hist_count_above(const struct hist *h, uint64_t ns)
{
    uint64_t above = 0;
    for (uint32_t i = hist_index(ns) + 1; i < HIST_BUCKETS; i++)
        above += h->bucket[i];
    return above;
}

uint64_t hist_mean(const struct hist *h)
{
    return h->count > 0 ? h->sum_ns / h->count : 0;
}
