/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded slab: blocks for the bodies of messages, taken by one thread, given back by any.
 *
 * One thread owns the slab and takes blocks; whoever was sent a block gives it back with
 * slab_give, from whatever thread, without a lock. All memory is reserved at the start and only
 * pages that are used are ever touched. */
#ifndef WEIR_SERVER_MAILBOX_SLAB_H
#define WEIR_SERVER_MAILBOX_SLAB_H
#include <stddef.h>
#include <stdint.h>

struct slab;

/* @bytes in all. NULL: no memory. */
struct slab *slab_new(size_t bytes);
/* Every block was given back, or will never be used again. */
void slab_free(struct slab *s);

/* A block of at least @size bytes, aligned to 16, with whatever is in it. NULL: the bound is
 * reached, or @size is more than a quarter of it. Owner only. */
void *slab_take(struct slab *s, size_t size);

/* Give back what slab_take gave; NULL is nothing. Any thread; fits msg.body_free. */
void slab_give(void *block);

/* Bytes of blocks that are out, as the owner knows. Owner only. */
size_t slab_used(struct slab *s);

/* Bytes of the region that are in memory. Any thread; not cheap. */
size_t slab_resident(const struct slab *s);

#endif
