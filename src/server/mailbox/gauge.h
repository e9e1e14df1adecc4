/* SPDX-License-Identifier: Apache-2.0 */
/* Gauges: numbers that one thread writes and any thread reads, and a histogram of waiting times.
 *
 * Everything here is relaxed: a gauge orders nothing, its reader gets a value of about now. */
#ifndef WEIR_SERVER_MAILBOX_GAUGE_H
#define WEIR_SERVER_MAILBOX_GAUGE_H
#include <stdatomic.h>
#include <stdint.h>

static inline uint64_t gauge_read(const _Atomic uint64_t *g)
{
    return atomic_load_explicit(g, memory_order_relaxed);
}

static inline void gauge_write(_Atomic uint64_t *g, uint64_t v)
{
    atomic_store_explicit(g, v, memory_order_relaxed);
}

/* One writer: read and write need not be one step. */
static inline void gauge_add_own(_Atomic uint64_t *g, uint64_t v)
{
    gauge_write(g, gauge_read(g) + v);
}

static inline void gauge_max(_Atomic uint64_t *g, uint64_t v)
{
    if (v > gauge_read(g))
        gauge_write(g, v);
}

/* Many writers. */
static inline void gauge_add(_Atomic uint64_t *g, uint64_t v)
{
    atomic_fetch_add_explicit(g, v, memory_order_relaxed);
}

/* Four buckets an octave of nanoseconds: the upper bound of a bucket is at most a quarter above
 * what lies in it. */
#define WAIT_HIST_BUCKETS 160u
struct wait_hist {
    _Atomic uint64_t bucket[WAIT_HIST_BUCKETS];
};

static inline uint32_t wait_hist_index(uint64_t ns)
{
    if (ns < 4)
        return (uint32_t)ns;
    uint32_t octave = 63u - (uint32_t)__builtin_clzll(ns);
    uint32_t i = (octave - 1u) * 4u + (uint32_t)(ns >> (octave - 2u) & 3u);
    return i < WAIT_HIST_BUCKETS ? i : WAIT_HIST_BUCKETS - 1u;
}

/* The first value above bucket @i. */
static inline uint64_t wait_hist_bound(uint32_t i)
{
    if (i < 4)
        return i + 1u;
    return (UINT64_C(5) + i % 4u) << (i / 4u - 1u);
}

/* Owner only. */
static inline void wait_hist_add(struct wait_hist *h, uint64_t ns)
{
    gauge_add_own(&h->bucket[wait_hist_index(ns)], 1);
}

/* The bound below which @ppm parts of a million lie; 0: nothing was added. */
static inline uint64_t wait_hist_quantile(const struct wait_hist *h, uint32_t ppm)
{
    uint64_t total = 0, below = 0;
    for (uint32_t i = 0; i < WAIT_HIST_BUCKETS; i++)
        total += gauge_read(&h->bucket[i]);
    uint64_t wanted = (total * ppm + 999999u) / 1000000u;
    for (uint32_t i = 0; total > 0 && i < WAIT_HIST_BUCKETS; i++) {
        below += gauge_read(&h->bucket[i]);
        if (below >= wanted)
            return wait_hist_bound(i);
    }
    return 0;
}

#endif
