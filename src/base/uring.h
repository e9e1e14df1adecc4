/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of io_uring: requests in, completions out, by raw system calls.
 *
 * For one thread, which is also the one that made the ring. Knows nothing of what it carries. */
#ifndef WEIR_BASE_URING_H
#define WEIR_BASE_URING_H
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdint.h>

struct uring;

/* A ring for at least @requests queued at once and @completions not yet seen. 0 or -errno: the
 * kernel lacks io_uring or a feature of it that is used here (Linux 6.1 has all), or forbids it. */
int uring_new(uint32_t requests, uint32_t completions, struct uring **ret);
void uring_free(struct uring *u);

/* The next request to fill in, all zero. Submits what is queued when there is no room. */
struct io_uring_sqe *uring_request(struct uring *u);
/* Hand over all that is queued; whatever completes without waiting has completed afterwards. */
void uring_submit(struct uring *u);
/* The same, then wait for a completion, but at most @wait_ns. 0 or -errno. */
int uring_wait(struct uring *u, uint64_t wait_ns);

/* Hand over all that is queued, then look for at most @look_ns, without a system call, whether
 * there is something for uring_wait to bring. Takes the processor meanwhile. */
void uring_look(struct uring *u, uint64_t look_ns);

/* Completions not yet dropped have the counts from uring_first up to, without, uring_end. */
uint32_t uring_first(const struct uring *u);
uint32_t uring_end(const struct uring *u);
struct io_uring_cqe *uring_at(const struct uring *u, uint32_t count);
/* Forget completions before @count. */
void uring_drop(struct uring *u, uint32_t count);

#endif
