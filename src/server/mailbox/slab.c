/* SPDX-License-Identifier: Apache-2.0 */
/* The problem. A message's body is made by one thread and done with in another. malloc would serve,
 * but it takes a lock now and then, has no bound of its own, and wanders through memory.
 *
 * The model. One reserved region, cut into blocks of powers of two from 1 KiB up. The owner keeps a
 * list of free blocks for each size, newest first, so that the block taken next is one that is in
 * the cache still. Whoever is done with a block pushes it onto `returned`; the owner, when a list
 * is empty, takes that whole stack at once and sorts it into its lists. When a size has none and
 * the region is used up, a larger free block is cut in two.
 *
 * Invariants, and their memory order.
 *  1. A block is in exactly one place: out, on `returned`, in one list of the owner, or not cut
 *     yet.
 *  2. `returned` is only pushed to (compare-and-swap, anybody) and emptied as a whole (exchange,
 *     the owner). So the swap need only say that the head is still what the new block's next says,
 *     and nothing that is pushed meanwhile is lost.
 *  3. The push is a release and the exchange an acquire: what the returning thread read or wrote in
 *     a block happens before the owner writes it anew. Between two pushes the release sequence
 *     continues, since each is a read-modify-write.
 *  4. Blocks are cut but never joined. What was cut small stays small; blocks of all sizes come
 *     from the region as long as it lasts.
 *
 * tests/model/slab.pml checks 1 and 2 for small sizes and all interleavings. */
#include "server/mailbox/slab.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"

#define CLASS_FIRST_BITS 10u /* 1 KiB */
#define CLASS_COUNT 20u      /* up to 512 MiB */

struct slab_block {
    struct slab *slab;
    struct slab_block *next;
    uint32_t class;
    _Alignas(16) unsigned char bytes[];
};

struct slab {
    _Alignas(64) _Atomic(struct slab_block *) returned;
    _Alignas(64) unsigned char *region;
    size_t size, cut, used;
    struct slab_block *free[CLASS_COUNT];
};

static size_t class_size(uint32_t class)
{
    return (size_t)1 << (class + CLASS_FIRST_BITS);
}

struct slab *slab_new(size_t bytes)
{
    weir_assert(bytes >= class_size(0));
    struct slab *s = aligned_alloc(64, sizeof(*s));
    if (s == NULL)
        return NULL;
    *s = (struct slab){.size = bytes};
    atomic_init(&s->returned, NULL);
    s->region = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->region == MAP_FAILED) {
        free(s);
        return NULL;
    }
    return s;
}

void slab_free(struct slab *s)
{
    if (s == NULL)
        return;
    munmap(s->region, s->size);
    free(s);
}

static void list_put(struct slab *s, struct slab_block *b)
{
    b->next = s->free[b->class];
    s->free[b->class] = b;
}

/* Newest first is how they lie on the stack; turning it round keeps the newest on top. */
static void collect(struct slab *s)
{
    struct slab_block *b = atomic_exchange_explicit(&s->returned, NULL, memory_order_acquire);
    struct slab_block *turned = NULL;
    while (b != NULL) {
        struct slab_block *next = b->next;
        b->next = turned;
        turned = b;
        b = next;
    }
    while (turned != NULL) {
        struct slab_block *next = turned->next;
        weir_assert(s->used >= class_size(turned->class));
        s->used -= class_size(turned->class);
        list_put(s, turned);
        turned = next;
    }
}

static struct slab_block *list_get(struct slab *s, uint32_t class)
{
    struct slab_block *b = s->free[class];
    if (b != NULL)
        s->free[class] = b->next;
    return b;
}

static struct slab_block *block_make(struct slab *s, unsigned char *at, uint32_t class)
{
    struct slab_block *b = (struct slab_block *)(void *)at;
    b->slab = s;
    b->class = class;
    return b;
}

size_t slab_resident(const struct slab *s)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (s->size + page - 1) / page, n = 0;
    unsigned char *in = calloc(pages, 1);
    if (in != NULL && mincore(s->region, s->size, in) == 0) {
        for (size_t i = 0; i < pages; i++)
            n += in[i] & 1u;
    }
    free(in);
    return n * page;
}

static struct slab_block *cut_new(struct slab *s, uint32_t class)
{
    if (s->size - s->cut < class_size(class))
        return NULL;
    struct slab_block *b = block_make(s, s->region + s->cut, class);
    s->cut += class_size(class);
    return b;
}

/* Halve the smallest larger block that is free until it fits. */
static struct slab_block *cut_larger(struct slab *s, uint32_t class)
{
    uint32_t from = class + 1;
    while (from < CLASS_COUNT && s->free[from] == NULL)
        from++;
    if (from >= CLASS_COUNT)
        return NULL;
    struct slab_block *b = list_get(s, from);
    while (from > class) {
        from--;
        list_put(s, block_make(s, (unsigned char *)b + class_size(from), from));
    }
    b->class = class;
    return b;
}

void *slab_take(struct slab *s, size_t size)
{
    uint32_t class = 0;
    size += sizeof(struct slab_block);
    if (size > s->size / 4)
        return NULL;
    while (class < CLASS_COUNT && class_size(class) < size)
        class++;
    if (class == CLASS_COUNT)
        return NULL;
    if (s->free[class] == NULL)
        collect(s);
    struct slab_block *b = list_get(s, class);
    if (b == NULL)
        b = cut_new(s, class);
    if (b == NULL)
        b = cut_larger(s, class);
    if (b == NULL)
        return NULL;
    s->used += class_size(class);
    return b->bytes;
}

void slab_give(void *block)
{
    if (block == NULL)
        return;
    struct slab_block *b =
        (struct slab_block *)(void *)((unsigned char *)block - offsetof(struct slab_block, bytes));
    struct slab *s = b->slab;
    b->next = atomic_load_explicit(&s->returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&s->returned, &b->next, b, memory_order_release,
                                                  memory_order_relaxed))
        continue;
}

size_t slab_used(struct slab *s)
{
    collect(s);
    return s->used;
}
