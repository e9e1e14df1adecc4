/* SPDX-License-Identifier: Apache-2.0 */
/* Hash tables of intrusive lists, sorted arrays, and the binary heap that says which gateway is due
 * next.
 *
 * Invariants of the heap: (1) the parent of entry i, at i / 2, is not due after it; (2) an entry's
 * heap_index is its place; 0 means it is not there. Room for every gateway is taken at the start.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "server/services/state.h"

int table_init(struct table *t, size_t at_least)
{
    size_t n = 16;
    while (n < at_least && n < (SIZE_MAX >> 8))
        n *= 2;
    t->slot = calloc(n, sizeof(*t->slot));
    if (t->slot == NULL)
        return -ENOMEM;
    t->mask = n - 1;
    for (size_t i = 0; i < n; i++)
        list_init(&t->slot[i]);
    return 0;
}

void table_fini(struct table *t)
{
    free(t->slot);
    t->slot = NULL;
}

struct list *table_slot(const struct table *t, uint64_t hash)
{
    weir_assert(t->slot != NULL);
    return &t->slot[(hash ^ (hash >> 32)) & t->mask];
}

uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++) {
        seed ^= p[i];
        seed *= UINT64_C(0x100000001b3);
    }
    return seed;
}

static void heap_place(struct services *s, size_t i, struct gateway *g)
{
    s->heap[i] = g;
    g->heap_index = i;
}

static void heap_up(struct services *s, size_t i)
{
    struct gateway *g = s->heap[i];
    while (i > 1 && s->heap[i / 2]->due_ns > g->due_ns) {
        heap_place(s, i, s->heap[i / 2]);
        i /= 2;
    }
    heap_place(s, i, g);
}

static void heap_down(struct services *s, size_t i)
{
    struct gateway *g = s->heap[i];
    while (2 * i <= s->heap_count) {
        size_t child = 2 * i;
        if (child < s->heap_count && s->heap[child + 1]->due_ns < s->heap[child]->due_ns)
            child++;
        if (s->heap[child]->due_ns >= g->due_ns)
            break;
        heap_place(s, i, s->heap[child]);
        i = child;
    }
    heap_place(s, i, g);
}

void heap_set(struct services *s, struct gateway *g, uint64_t due_ns)
{
    g->due_ns = due_ns;
    if (g->heap_index == 0) {
        weir_assert(s->heap_count < s->config.max_gateways);
        heap_place(s, ++s->heap_count, g);
    }
    heap_up(s, g->heap_index);
    heap_down(s, g->heap_index);
}

void heap_remove(struct services *s, struct gateway *g)
{
    size_t i = g->heap_index;
    if (i == 0)
        return;
    weir_assert(s->heap[i] == g);
    struct gateway *last = s->heap[s->heap_count--];
    g->heap_index = 0;
    if (last == g)
        return;
    heap_place(s, i, last);
    heap_up(s, i);
    heap_down(s, last->heap_index);
}

size_t sorted_place(const void *base, size_t count, size_t size, const void *key,
                    int (*order)(const void *item, const void *key), bool *ret_there)
{
    size_t low = 0, high = count;
    *ret_there = false;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int is = order((const char *)base + middle * size, key);
        if (is == 0) {
            *ret_there = true;
            return middle;
        }
        if (is < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
