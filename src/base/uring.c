/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a system call costs about as much as everything else that is done for a small I/O, and
 * after each that wakes a peer the kernel may run the peer first.
 *
 * Model (io_uring(7), io_uring_enter(2)): two rings in memory shared with the kernel. We write
 * requests and move the tail of one; the kernel writes completions and moves the tail of the
 * other. One io_uring_enter submits all that is queued and waits for the first completion.
 *
 * The ring is made with SINGLE_ISSUER and DEFER_TASKRUN: completions appear only while this thread
 * is inside io_uring_enter, so nothing interrupts the work on a batch. That there is something to
 * complete shows in a flag of the ring (TASKRUN_FLAG), which can be looked at from outside.
 *
 * Invariants:
 *  1. tail - *sq_head <= sq_entries; requests from *sq_head to tail are queued.
 *  2. Each slot of the ring of requests stands for the request of the same number, so that one
 *     array suffices.
 *
 * What may fail: making the ring. Later the kernel may be short of memory for a moment; then
 * submitting is tried again. */
#include "base/uring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

#define URING_FEATURES                                                                         \
    (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG |                      \
     IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_CQE_SKIP)

/* Looks at the ring between two at the clock. */
#define URING_LOOKS 8

struct uring {
    int fd;
    uint32_t tail; /* of requests: ours, told to the kernel when submitting */
    _Atomic uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail;
    uint32_t sq_entries, sq_mask, cq_mask;
    struct io_uring_sqe *requests;
    struct io_uring_cqe *completions;
    uint8_t *rings;
    size_t rings_size, requests_size;
};

static void *uring_map(int fd, size_t size, uint64_t what)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)what);
    return p == MAP_FAILED ? NULL : p;
}

/* A place in the mapped rings. */
static void *uring_place(const struct uring *u, uint32_t offset)
{
    return u->rings + offset;
}

static int uring_map_all(struct uring *u, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    u->rings_size = sq > cq ? sq : cq;
    u->requests_size = p->sq_entries * sizeof(struct io_uring_sqe);
    u->rings = uring_map(u->fd, u->rings_size, IORING_OFF_SQ_RING);
    u->requests = uring_map(u->fd, u->requests_size, IORING_OFF_SQES);
    if (!u->rings || !u->requests)
        return -ENOMEM;
    u->sq_entries = p->sq_entries;
    u->sq_mask = p->sq_entries - 1;
    u->cq_mask = p->cq_entries - 1;
    u->sq_head = uring_place(u, p->sq_off.head);
    u->sq_tail = uring_place(u, p->sq_off.tail);
    u->sq_flags = uring_place(u, p->sq_off.flags);
    u->cq_head = uring_place(u, p->cq_off.head);
    u->cq_tail = uring_place(u, p->cq_off.tail);
    u->completions = uring_place(u, p->cq_off.cqes);
    uint32_t *array = uring_place(u, p->sq_off.array);
    for (uint32_t i = 0; i < p->sq_entries; i++)
        array[i] = i;
    return 0;
}

int uring_new(uint32_t requests, uint32_t completions, struct uring **ret)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
        .cq_entries = completions,
    };
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->fd = (int)syscall(SYS_io_uring_setup, requests, &p);
    int err = u->fd < 0 ? -errno : 0;
    if (err == 0 && (p.features & URING_FEATURES) != URING_FEATURES)
        err = -EOPNOTSUPP;
    if (err == 0)
        err = uring_map_all(u, &p);
    if (err < 0) {
        uring_free(u);
        return err;
    }
    *ret = u;
    return 0;
}

void uring_free(struct uring *u)
{
    if (!u)
        return;
    if (u->rings)
        munmap(u->rings, u->rings_size);
    if (u->requests)
        munmap(u->requests, u->requests_size);
    if (u->fd >= 0)
        close(u->fd);
    free(u);
}

static uint32_t uring_queued(const struct uring *u)
{
    return u->tail - atomic_load_explicit(u->sq_head, memory_order_acquire);
}

struct io_uring_sqe *uring_request(struct uring *u)
{
    if (uring_queued(u) == u->sq_entries)
        uring_submit(u);
    struct io_uring_sqe *q = &u->requests[u->tail++ & u->sq_mask];
    memset(q, 0, sizeof(*q));
    return q;
}

/* One io_uring_enter; -errno when it did nothing. */
static int uring_enter(struct uring *u, uint32_t wait_for, uint32_t flags,
                       const struct io_uring_getevents_arg *arg)
{
    atomic_store_explicit(u->sq_tail, u->tail, memory_order_release);
    long n = syscall(SYS_io_uring_enter, u->fd, uring_queued(u), wait_for, flags, arg,
                     arg ? sizeof(*arg) : 0);
    return n < 0 ? -errno : 0;
}

void uring_submit(struct uring *u)
{
    while (uring_queued(u) > 0) {
        int err = uring_enter(u, 0, 0, NULL);
        weir_assert(err == 0 || err == -EINTR || err == -EAGAIN || err == -EBUSY);
    }
}

int uring_wait(struct uring *u, uint64_t wait_ns)
{
    struct __kernel_timespec ts = {
        .tv_sec = (int64_t)(wait_ns / NS_PER_S),
        .tv_nsec = (long long)(wait_ns % NS_PER_S),
    };
    const struct io_uring_getevents_arg arg = {.ts = (uintptr_t)&ts};
    int err = uring_enter(u, wait_ns > 0, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg);
    /* The wait came to nothing, or the kernel had no memory to begin with. */
    if (err == -ETIME || err == -EINTR || err == -EAGAIN || err == -EBUSY)
        err = 0;
    uring_submit(u);
    return err;
}

void uring_look(struct uring *u, uint64_t look_ns)
{
    uring_submit(u);
    uint64_t end = clock_mono_ns() + look_ns;
    do {
        for (int i = 0; i < URING_LOOKS; i++) {
            uint32_t flags = atomic_load_explicit(u->sq_flags, memory_order_relaxed);
            if ((flags & IORING_SQ_TASKRUN) || uring_first(u) != uring_end(u))
                return;
            clock_pause();
        }
    } while (clock_mono_ns() < end);
}

uint32_t uring_first(const struct uring *u)
{
    return atomic_load_explicit(u->cq_head, memory_order_relaxed);
}

uint32_t uring_end(const struct uring *u)
{
    return atomic_load_explicit(u->cq_tail, memory_order_acquire);
}

struct io_uring_cqe *uring_at(const struct uring *u, uint32_t count)
{
    return &u->completions[count & u->cq_mask];
}

void uring_drop(struct uring *u, uint32_t count)
{
    atomic_store_explicit(u->cq_head, count, memory_order_release);
}
