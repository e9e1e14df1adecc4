/* SPDX-License-Identifier: Apache-2.0 */
/* Log-linear histogram of durations: at most 1.6 % wide buckets, mergeable, no allocation.
 *
 * Values are nanoseconds. Below 4,096 ns buckets are 64 ns wide; above, each power of two is split
 * in
 * 64. Values of 2^36 ns (68.7 s) and more share the last bucket. Counts never go down, so that two
 * readings subtract and a lost reading loses nothing. */
#ifndef WEIR_QOS_HIST_H
#define WEIR_QOS_HIST_H
#include <stddef.h>
#include <stdint.h>

#define HIST_SUB_BITS 6u
#define HIST_LINEAR_BITS 12u
#define HIST_MAX_BITS 36u
/* 64 linear + 24 octaves x 64 + 1 overflow. */
#define HIST_BUCKETS (64u + (HIST_MAX_BITS - HIST_LINEAR_BITS) * 64u + 1u)

struct hist {
    uint64_t count;  /* of all buckets */
    uint64_t sum_ns; /* exact */
    uint64_t max_ns; /* of all time; an upper bound after hist_subtract */
    uint64_t bucket[HIST_BUCKETS];
};

void hist_clear(struct hist *h);

/* The bucket of a value, and the bucket's bounds: low <= value < high. */
static inline uint32_t hist_index(uint64_t ns)
{
    if (ns < (UINT64_C(1) << HIST_LINEAR_BITS))
        return (uint32_t)(ns >> (HIST_LINEAR_BITS - HIST_SUB_BITS));
    if (ns >= (UINT64_C(1) << HIST_MAX_BITS))
        return HIST_BUCKETS - 1u;
    uint32_t octave = 63u - (uint32_t)__builtin_clzll(ns);
    uint32_t sub = (uint32_t)(ns >> (octave - HIST_SUB_BITS)) & ((1u << HIST_SUB_BITS) - 1u);
    return ((1u + octave - HIST_LINEAR_BITS) << HIST_SUB_BITS) + sub;
}
uint64_t hist_bucket_low(uint32_t index);
uint64_t hist_bucket_high(uint32_t index);

/* @n values, each @ns; @index is that of @ns. */
static inline void hist_record_at(struct hist *h, uint32_t index, uint32_t n, uint64_t ns)
{
    h->bucket[index] += n;
    h->count += n;
    h->sum_ns += n * ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

static inline void hist_record(struct hist *h, uint64_t ns)
{
    hist_record_at(h, hist_index(ns), 1, ns);
}

/* into += from. */
void hist_merge(struct hist *into, const struct hist *from);
/* out = now - before, bucket by bucket; @before is an earlier reading of the same (asserted). */
void hist_subtract(struct hist *out, const struct hist *now, const struct hist *before);

/* Which of @count values in order is the quantile: ceil(q * count), at least 1. */
uint64_t hist_rank(double q, uint64_t count);
/* The smallest bucket bound that at least q (0 < q <= 1) of the values do not exceed (upper edge of
 * the bucket, less one); 0 when empty. */
uint64_t hist_quantile(const struct hist *h, double q);
/* How many values lie in buckets wholly above @ns (a value in the bucket of @ns is not counted). */
uint64_t hist_count_above(const struct hist *h, uint64_t ns);
/* sum/count; 0 when empty. */
uint64_t hist_mean(const struct hist *h);

#endif
