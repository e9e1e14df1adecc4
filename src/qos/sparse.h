/* SPDX-License-Identifier: Apache-2.0 */
/* A histogram (qos/hist.h) that keeps only the buckets in use: for those who hold very many.
 *
 * Same buckets, same answers. Ten bytes a bucket in use, in one block that grows with them: at most
 * HIST_BUCKETS of them, 16 KiB. All zero is an empty one. Owner thread only. */
#ifndef WEIR_QOS_SPARSE_H
#define WEIR_QOS_SPARSE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qos/hist.h"

struct sparse_hist {
    uint64_t count, sum_ns, max_ns; /* as in struct hist; the owner keeps the last two */
    uint64_t *n;                    /* of each bucket in use, by index; then come the indices */
    uint16_t used, room;
};

/* Frees what it holds; it is empty then. */
void sparse_hist_fini(struct sparse_hist *h);
/* Empty; keeps its block for the next counts unless most of it lay idle. */
void sparse_hist_clear(struct sparse_hist *h);
void sparse_hist_swap(struct sparse_hist *a, struct sparse_hist *b);

/* The count of a bucket, which is in use from now on, perhaps with 0: to be changed before the next
 * call, @h->count with it. @hint: where the last one was, 0 at first; ascending indices are found
 * at once. NULL: no memory, nothing changed. */
uint64_t *sparse_hist_at(struct sparse_hist *h, uint32_t index, uint32_t *hint);

/* The @i-th bucket in use, in ascending order; i < used. */
static inline uint32_t sparse_hist_index(const struct sparse_hist *h, uint32_t i)
{
    return ((const uint16_t *)(const void *)(h->n + h->room))[i];
}
static inline uint64_t sparse_hist_count(const struct sparse_hist *h, uint32_t i)
{
    return h->n[i];
}

/* As hist_quantile, hist_count_above, hist_mean, hist_merge. */
uint64_t sparse_hist_quantile(const struct sparse_hist *h, double q);
uint64_t sparse_hist_count_above(const struct sparse_hist *h, uint64_t ns);
uint64_t sparse_hist_mean(const struct sparse_hist *h);
void sparse_hist_merge(struct hist *into, const struct sparse_hist *from);
/* @h becomes what lies in @from, whose used buckets are in [low, high]; false: no memory, and @h is
 * empty. */
bool sparse_hist_take(struct sparse_hist *h, const struct hist *from, uint32_t low, uint32_t high);

#endif
