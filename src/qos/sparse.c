/* SPDX-License-Identifier: Apache-2.0 */
/* A histogram of the buckets in use.
 *
 * Problem: an SLA process holds twelve histograms a stream of up to 16,384 streams. A whole one is
 * 12.5 KiB, of which a stream uses some tens of buckets.
 *
 * Model: two parallel arrays in one block, counts and then their indices, ascending. Counts of a
 * report come in ascending order too, so each is found a few places after the last; only a bucket
 * that was never met before moves those above it.
 *
 * Invariants: (1) indices ascend strictly and are below HIST_BUCKETS; (2) count is the sum of all
 * buckets, kept by whoever changes one; (3) a bucket in use may hold 0, which changes no answer.
 * What may fail: memory, in sparse_hist_at and sparse_hist_take. */
#include "qos/sparse.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define ROOM_FIRST 6u
#define ROOM_IDLE  64u /* so much of an idle block is kept whatever lay in it */
#define NEAR       8u

static_assert(HIST_BUCKETS <= UINT16_MAX, "an index fits");

static uint16_t *indices(const struct sparse_hist *h)
{
    return (uint16_t *)(void *)(h->n + h->room);
}

void sparse_hist_fini(struct sparse_hist *h)
{
    free(h->n);
    *h = (struct sparse_hist){.n = NULL};
}

void sparse_hist_clear(struct sparse_hist *h)
{
    if (h->room > ROOM_IDLE && h->used < h->room / 4) {
        sparse_hist_fini(h);
        return;
    }
    h->count = h->sum_ns = h->max_ns = 0;
    h->used = 0;
}

void sparse_hist_swap(struct sparse_hist *a, struct sparse_hist *b)
{
    struct sparse_hist t = *a;
    *a = *b;
    *b = t;
}

static bool grow(struct sparse_hist *h, uint32_t least)
{
    uint32_t room = h->room + h->room / 2;
    if (room < ROOM_FIRST)
        room = ROOM_FIRST;
    if (room < least)
        room = least;
    if (room > HIST_BUCKETS)
        room = HIST_BUCKETS;
    weir_assert(room > h->room);
    uint64_t *n = malloc(room * (sizeof(uint64_t) + sizeof(uint16_t)));
    if (n == NULL)
        return false;
    if (h->used > 0) {
        memcpy(n, h->n, h->used * sizeof(*n));
        memcpy(n + room, indices(h), h->used * sizeof(uint16_t));
    }
    free(h->n);
    h->n = n;
    h->room = (uint16_t)room;
    return true;
}

/* The first place whose index is not below @index. */
static uint32_t place(const struct sparse_hist *h, uint32_t index, uint32_t hint)
{
    const uint16_t *at = indices(h);
    uint32_t low = 0, high = h->used;
    if (hint < high && at[hint] <= index) {
        for (low = hint; low < high && low < hint + NEAR; low++) {
            if (at[low] >= index)
                return low;
        }
    }
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (at[mid] < index)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

uint64_t *sparse_hist_at(struct sparse_hist *h, uint32_t index, uint32_t *hint)
{
    weir_assert(index < HIST_BUCKETS);
    uint32_t i = h->used > 0 ? place(h, index, *hint) : 0;
    if (i < h->used && sparse_hist_index(h, i) == index) {
        *hint = i;
        return &h->n[i];
    }
    if (h->used == h->room && !grow(h, h->used + 1u))
        return NULL;
    uint16_t *at = indices(h);
    memmove(h->n + i + 1, h->n + i, (h->used - i) * sizeof(*h->n));
    memmove(at + i + 1, at + i, (h->used - i) * sizeof(*at));
    h->n[i] = 0;
    at[i] = (uint16_t)index;
    h->used++;
    *hint = i;
    return &h->n[i];
}

uint64_t sparse_hist_quantile(const struct sparse_hist *h, double q)
{
    weir_assert(q > 0.0);
    weir_assert(q <= 1.0);
    if (h->count == 0)
        return 0;
    uint64_t rank = hist_rank(q, h->count), seen = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        seen += h->n[i];
        if (seen < rank)
            continue;
        uint32_t index = sparse_hist_index(h, i);
        return index < HIST_BUCKETS - 1 ? hist_bucket_high(index) - 1 : h->max_ns;
    }
    return h->max_ns;
}

uint64_t sparse_hist_count_above(const struct sparse_hist *h, uint64_t ns)
{
    uint64_t above = 0;
    uint32_t from = hist_index(ns);
    for (uint32_t i = h->used; i > 0 && sparse_hist_index(h, i - 1) > from; i--)
        above += h->n[i - 1];
    return above;
}

uint64_t sparse_hist_mean(const struct sparse_hist *h)
{
    return h->count > 0 ? h->sum_ns / h->count : 0;
}

void sparse_hist_merge(struct hist *into, const struct sparse_hist *from)
{
    for (uint32_t i = 0; i < from->used; i++)
        into->bucket[sparse_hist_index(from, i)] += from->n[i];
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
}

bool sparse_hist_take(struct sparse_hist *h, const struct hist *from, uint32_t low, uint32_t high)
{
    uint32_t used = 0, n = 0;
    h->count = h->sum_ns = h->max_ns = 0;
    h->used = 0;
    for (uint32_t i = low; i <= high; i++)
        used += from->bucket[i] != 0;
    if (used > h->room && !grow(h, used))
        return false;
    for (uint32_t i = low; i <= high && used > 0; i++) {
        if (from->bucket[i] == 0)
            continue;
        h->n[n] = from->bucket[i];
        indices(h)[n++] = (uint16_t)i;
    }
    h->used = (uint16_t)n;
    h->count = from->count;
    h->sum_ns = from->sum_ns;
    h->max_ns = from->max_ns;
    return true;
}
