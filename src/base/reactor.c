/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: one thread watches many descriptors and timers, and whoever reacts may remove any of
 * them, itself included, while the batch of events that names them is still being walked.
 *
 * Model: epoll tells of edges only, so each owner drains until EAGAIN (or a short read). What epoll
 * carries is not a pointer but a slot number and that slot's generation; removing a source moves
 * the generation on, and an event that still names the old one is dropped. With io_uring a
 * multishot poll for each source takes epoll's place, and tells of the same edges; what it saves is
 * the sends: they are queued and carried out by the one call that then waits (see
 * docs/decisions/0008-io-uring.md). Timers are a binary heap
 * that knows each timer's place. Work put off to the end of a round is a list; what is put off
 * while it runs belongs to the next round, which then does not wait.
 *
 * Invariants:
 *  1. slot 0 is never given out, so that slot == 0 means "not added".
 *  2. heap[i]->heap_index == i for 1 <= i <= heap_count; heap[0] is unused.
 *  3. A round fires at most as many timers as were armed when it began to fire: a timer that
 *     re-arms itself in the past cannot keep descriptors waiting.
 *  4. wake_pending is true from the write to the eventfd until just before on_wake runs, so many
 *     wakes cost one write and none is lost: whoever finds it true knows that on_wake has yet to
 *     begin.
 *  5. A source has at most one send put off, so that its bytes cannot overtake each other. A send
 *     that is carried out never waits: what the socket does not take at once comes back as unsent.
 *  6. reactor_remove carries out what its source put off before the owner closes the descriptor.
 *
 * What may fail: only reactor_new and reactor_add (memory, descriptors, bounds), and the wait. */
#include "base/reactor.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/uring.h"

/* Events taken in one wait: enough that a busy loop seldom waits twice, few enough for the
 * cache. */
#define REACTOR_BATCH 128
/* The longest single wait; beyond it the loop just goes round once more. */
#define REACTOR_WAIT_MAX_NS (UINT64_C(3600) * NS_PER_S)
/* Sends carried out together: enough that their call is cheap, few enough that the first does not
 * wait long and that what they send is still in the cache. */
#define REACTOR_SENDS 8u
/* Requests and completions of the ring; more completions than these wait in the kernel. */
#define REACTOR_REQUESTS 256u
#define REACTOR_COMPLETIONS 4096u
/* What a completion is of: a poll (generation and slot, as with epoll), a put-off send (this bit
 * and its number), or nothing that matters. */
#define REACTOR_TOKEN_SEND (UINT64_C(1) << 31)
#define REACTOR_TOKEN_NONE UINT64_MAX

struct reactor_slot {
    struct reactor_source *source; /* NULL: free */
    uint32_t generation;
    union {
        uint32_t next_free;
        uint32_t events; /* in use: for io_uring, to ask again */
    };
};

struct reactor_put_off {
    struct reactor_source *source; /* NULL: it was removed meanwhile */
    const void *data;
    size_t n;
    int ret; /* n, unless the kernel says otherwise */
};

struct reactor {
    int epoll_fd;
    struct reactor_slot *slots; /* 1..slot_count */
    uint32_t slot_count, free_slot;
    struct reactor_timer **heap; /* 1..heap_count */
    size_t heap_count, heap_max;
    struct list works;
    uint32_t deferred, running; /* works: for the end of this round; of the batch that runs */
    uint64_t now_ns;
    bool stopping, no_pwait2;
    bool lively; /* the last round had events */
    uint64_t look_ns;
    struct reactor_source wake_source;
    atomic_bool wake_pending;
    void (*on_wake)(void *arg);
    void *on_wake_arg;
    struct uring *uring; /* NULL: epoll */
    uint32_t scanned;    /* completions up to here were looked at for sends */
    uint32_t send_count;
    struct reactor_put_off sends[REACTOR_SENDS];
    struct epoll_event events[REACTOR_BATCH];
};

static void reactor_wake_ready(struct reactor_source *s, uint32_t epoll_events)
{
    struct reactor *r = container_of(s, struct reactor, wake_source);
    uint64_t count;
    (void)epoll_events;
    while (read(s->fd, &count, sizeof(count)) < 0 && errno == EINTR)
        continue;
    atomic_store(&r->wake_pending, false);
    if (r->on_wake)
        r->on_wake(r->on_wake_arg);
}

static bool reactor_alloc(struct reactor *r, size_t max_sources, size_t max_timers)
{
    /* One slot more than asked for (the eventfd), and the unused entries 0. */
    r->slots = calloc(max_sources + 2, sizeof(*r->slots));
    r->heap = calloc(max_timers + 1, sizeof(struct reactor_timer *));
    if (!r->slots || !r->heap)
        return false;
    r->slot_count = (uint32_t)max_sources + 1;
    for (uint32_t i = 1; i <= r->slot_count; i++)
        r->slots[i].next_free = i < r->slot_count ? i + 1 : 0;
    r->free_slot = 1;
    r->heap_max = max_timers;
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    r->wake_source.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (r->epoll_fd < 0 || r->wake_source.fd < 0)
        return false;
    r->wake_source.ready = reactor_wake_ready;
    return reactor_add(r, &r->wake_source, EPOLLIN) == 0;
}

struct reactor *reactor_new(size_t max_sources, size_t max_timers)
{
    weir_assert(max_sources < REACTOR_TOKEN_SEND - 2);
    weir_assert(max_timers < SIZE_MAX / sizeof(void *) - 1);
    struct reactor *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->epoll_fd = -1;
    r->wake_source.fd = -1;
    list_init(&r->works);
    atomic_init(&r->wake_pending, false);
    r->now_ns = clock_mono_ns();
    if (!reactor_alloc(r, max_sources, max_timers)) {
        reactor_free(r);
        return NULL;
    }
    return r;
}

void reactor_free(struct reactor *r)
{
    if (!r)
        return;
    while (list_pop_front(&r->works))
        continue;
    uring_free(r->uring);
    if (r->wake_source.fd >= 0)
        close(r->wake_source.fd);
    if (r->epoll_fd >= 0)
        close(r->epoll_fd);
    free(r->slots);
    free(r->heap);
    free(r);
}

static uint64_t reactor_token(const struct reactor *r, uint32_t slot)
{
    return (uint64_t)r->slots[slot].generation << 32 | slot;
}

/* --- io_uring --- */

/* Ask to be told of every edge of slot @slot's descriptor. */
static void reactor_uring_poll(struct reactor *r, uint32_t slot, int fd)
{
    uint32_t events = r->slots[slot].events;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16 | events >> 16; /* as io_uring_prep_poll_add(3) */
#endif
    struct io_uring_sqe *q = uring_request(r->uring);
    q->opcode = IORING_OP_POLL_ADD;
    q->fd = fd;
    q->len = IORING_POLL_ADD_MULTI;
    q->poll32_events = events;
    q->user_data = reactor_token(r, slot);
}

/* The poll holds a reference to the file; only without it does the owner's close end it. */
static void reactor_uring_forget(struct reactor *r, struct reactor_source *s)
{
    struct io_uring_sqe *q = uring_request(r->uring);
    /* Not POLL_REMOVE, which fails while an event of the poll is on its way. */
    q->opcode = IORING_OP_ASYNC_CANCEL;
    q->fd = -1;
    q->addr = reactor_token(r, s->slot);
    q->flags = IOSQE_CQE_SKIP_SUCCESS;
    q->user_data = REACTOR_TOKEN_NONE;
    (void)uring_wait(r->uring, 0);
    for (uint32_t i = 0; i < r->send_count; i++) {
        if (r->sends[i].source == s)
            r->sends[i].source = NULL;
    }
    s->sending = false;
}

/* Note what became of put-off sends. Only those that fell short are told of. */
static void reactor_uring_scan(struct reactor *r)
{
    for (uint32_t end = uring_end(r->uring); r->scanned != end; r->scanned++) {
        struct io_uring_cqe *c = uring_at(r->uring, r->scanned);
        if ((c->user_data & REACTOR_TOKEN_SEND) == 0 || c->user_data == REACTOR_TOKEN_NONE)
            continue;
        uint64_t i = c->user_data & ~REACTOR_TOKEN_SEND;
        weir_assert(i < r->send_count);
        r->sends[i].ret = c->res;
        c->user_data = REACTOR_TOKEN_NONE;
    }
}

/* All put-off sends are submitted, and so carried out: tell the owners of what was left. */
static void reactor_uring_settle(struct reactor *r)
{
    reactor_uring_scan(r);
    uint32_t count = r->send_count;
    r->send_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct reactor_put_off *p = &r->sends[i];
        if (!p->source)
            continue;
        p->source->sending = false;
        if (p->ret != (int)p->n)
            p->source->unsent(p->source, p->data, p->n, p->ret);
    }
}

int reactor_use_uring(struct reactor *r)
{
    weir_assert(!r->uring);
    weir_assert(r->wake_source.slot == 1);
    int ret = uring_new(REACTOR_REQUESTS, REACTOR_COMPLETIONS, &r->uring);
    if (ret < 0)
        return ret;
    (void)epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, r->wake_source.fd, NULL);
    reactor_uring_poll(r, r->wake_source.slot, r->wake_source.fd);
    return 0;
}

void reactor_look(struct reactor *r, uint64_t look_ns)
{
    r->look_ns = look_ns;
}

bool reactor_send(struct reactor *r, struct reactor_source *s, const void *data, size_t n)
{
    if (!r->uring || s->sending)
        return false;
    weir_assert(s->unsent != NULL);
    weir_assert(n <= INT32_MAX);
    if (r->send_count == REACTOR_SENDS)
        reactor_flush(r);
    struct io_uring_sqe *q = uring_request(r->uring);
    q->opcode = IORING_OP_SEND;
    q->flags = IOSQE_CQE_SKIP_SUCCESS;
    q->fd = s->fd;
    q->addr = (uintptr_t)data;
    q->len = (uint32_t)n;
    /* DONTWAIT: never kept for later by the kernel. WAITALL: success is all of it. */
    q->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL;
    q->user_data = REACTOR_TOKEN_SEND | r->send_count;
    r->sends[r->send_count++] =
        (struct reactor_put_off){.source = s, .data = data, .n = n, .ret = (int)n};
    s->sending = true;
    return true;
}

bool reactor_sending(const struct reactor *r)
{
    return r->send_count > 0;
}

void reactor_flush(struct reactor *r)
{
    if (r->send_count == 0)
        return;
    uring_submit(r->uring);
    reactor_uring_settle(r);
}

/* --- sources --- */

int reactor_add(struct reactor *r, struct reactor_source *s, uint32_t epoll_events)
{
    weir_assert(s->slot == 0);
    weir_assert(s->ready != NULL);
    uint32_t slot = r->free_slot;
    if (slot == 0)
        return WEIR_E_FULL;
    struct reactor_slot *entry = &r->slots[slot];
    weir_assert(entry->source == NULL);
    uint32_t next_free = entry->next_free;
    entry->events = epoll_events;
    struct epoll_event event = {
        .events = epoll_events | EPOLLET,
        .data.u64 = reactor_token(r, slot),
    };
    if (r->uring)
        reactor_uring_poll(r, slot, s->fd);
    else if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) < 0) {
        entry->next_free = next_free;
        return -errno;
    }
    r->free_slot = next_free;
    entry->source = s;
    s->slot = slot;
    s->sending = false;
    return 0;
}

void reactor_remove(struct reactor *r, struct reactor_source *s)
{
    if (s->slot == 0)
        return;
    weir_assert(s->slot <= r->slot_count);
    struct reactor_slot *entry = &r->slots[s->slot];
    weir_assert(entry->source == s);
    if (r->uring)
        reactor_uring_forget(r, s);
    else /* the owner may have closed it already; then the kernel forgot it by itself */
        (void)epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
    entry->source = NULL;
    entry->generation++;
    entry->next_free = r->free_slot;
    r->free_slot = s->slot;
    s->slot = 0;
}

static void reactor_heap_place(struct reactor *r, size_t i, struct reactor_timer *t)
{
    r->heap[i] = t;
    t->heap_index = i;
}

/* Put @t, which belongs at @i or nearer to the root, in its place. */
static void reactor_heap_up(struct reactor *r, size_t i, struct reactor_timer *t)
{
    while (i > 1 && r->heap[i / 2]->at_ns > t->at_ns) {
        reactor_heap_place(r, i, r->heap[i / 2]);
        i /= 2;
    }
    reactor_heap_place(r, i, t);
}

/* Put @t, which belongs at @i or nearer to the leaves, in its place. */
static void reactor_heap_down(struct reactor *r, size_t i, struct reactor_timer *t)
{
    for (;;) {
        size_t child = 2 * i;
        if (child > r->heap_count)
            break;
        if (child < r->heap_count && r->heap[child + 1]->at_ns < r->heap[child]->at_ns)
            child++;
        if (r->heap[child]->at_ns >= t->at_ns)
            break;
        reactor_heap_place(r, i, r->heap[child]);
        i = child;
    }
    reactor_heap_place(r, i, t);
}

static void reactor_heap_fix(struct reactor *r, size_t i, struct reactor_timer *t)
{
    if (i > 1 && r->heap[i / 2]->at_ns > t->at_ns)
        reactor_heap_up(r, i, t);
    else
        reactor_heap_down(r, i, t);
}

void reactor_timer_set(struct reactor *r, struct reactor_timer *t, uint64_t at_ns)
{
    weir_assert(t->fire != NULL);
    t->at_ns = at_ns;
    if (t->heap_index) {
        weir_assert(r->heap[t->heap_index] == t);
        reactor_heap_fix(r, t->heap_index, t);
        return;
    }
    weir_assert(r->heap_count < r->heap_max);
    r->heap_count++;
    reactor_heap_up(r, r->heap_count, t);
}

void reactor_timer_clear(struct reactor *r, struct reactor_timer *t)
{
    size_t i = t->heap_index;
    if (!i)
        return;
    weir_assert(i <= r->heap_count);
    weir_assert(r->heap[i] == t);
    struct reactor_timer *last = r->heap[r->heap_count--];
    t->heap_index = 0;
    if (last != t)
        reactor_heap_fix(r, i, last);
}

void reactor_work_init(struct reactor_work *w, void (*run)(struct reactor_work *w))
{
    w->run = run;
    list_init(&w->link);
}

void reactor_defer(struct reactor *r, struct reactor_work *w)
{
    weir_assert(w->run != NULL);
    if (list_linked(&w->link))
        return;
    list_push_back(&r->works, &w->link);
    r->deferred++;
}

bool reactor_alone(const struct reactor *r)
{
    return r->running == 1;
}

void reactor_work_cancel(struct reactor_work *w)
{
    if (list_linked(&w->link))
        list_remove(&w->link);
}

uint64_t reactor_now(const struct reactor *r)
{
    return r->now_ns;
}

uint64_t reactor_now_fresh(struct reactor *r)
{
    r->now_ns = clock_mono_ns();
    return r->now_ns;
}

void reactor_on_wake(struct reactor *r, void (*on_wake)(void *arg), void *arg)
{
    r->on_wake = on_wake;
    r->on_wake_arg = arg;
}

void reactor_wake(struct reactor *r)
{
    if (atomic_exchange(&r->wake_pending, true))
        return;
    const uint64_t one = 1;
    while (write(r->wake_source.fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
}

/* How long this round may wait. */
static uint64_t reactor_wait_ns(struct reactor *r, uint64_t timeout_ns)
{
    if (!list_empty(&r->works) || r->stopping || timeout_ns == 0)
        return 0;
    if (timeout_ns > REACTOR_WAIT_MAX_NS)
        timeout_ns = REACTOR_WAIT_MAX_NS;
    if (r->heap_count) {
        uint64_t now = reactor_now_fresh(r), at = r->heap[1]->at_ns;
        uint64_t left = at > now ? at - now : 0;
        if (left < timeout_ns)
            timeout_ns = left;
    }
    return timeout_ns;
}

static int reactor_epoll(struct reactor *r, uint64_t wait_ns)
{
    if (!r->no_pwait2) {
        struct timespec ts = {
            .tv_sec = (time_t)(wait_ns / NS_PER_S),
            .tv_nsec = (long)(wait_ns % NS_PER_S),
        };
        int n = epoll_pwait2(r->epoll_fd, r->events, REACTOR_BATCH, &ts, NULL);
        /* Linux before 5.11 lacks it; some containers' filters answer EPERM. */
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n < 0 ? -errno : n;
        r->no_pwait2 = true;
    }
    /* Rounded up, lest the loop spin through the last part of a millisecond. */
    int ms = (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS);
    int n = epoll_wait(r->epoll_fd, r->events, REACTOR_BATCH, ms);
    return n < 0 ? -errno : n;
}

/* The source that @token names, or NULL when it is gone. */
static struct reactor_source *reactor_source_of(struct reactor *r, uint64_t token)
{
    uint32_t slot = (uint32_t)token;
    weir_assert(slot >= 1);
    weir_assert(slot <= r->slot_count);
    struct reactor_slot *entry = &r->slots[slot];
    return entry->generation == (uint32_t)(token >> 32) ? entry->source : NULL;
}

/* The same, but asked again and again for the first @look_ns. */
static int reactor_epoll_look(struct reactor *r, uint64_t wait_ns, uint64_t look_ns)
{
    uint64_t end = look_ns > 0 ? clock_mono_ns() + look_ns : 0;
    while (look_ns > 0) {
        int n = reactor_epoll(r, 0);
        if (n != 0)
            return n;
        if (clock_mono_ns() >= end)
            break;
        clock_pause();
    }
    return reactor_epoll(r, wait_ns - look_ns);
}

static int reactor_epoll_dispatch(struct reactor *r, uint64_t wait_ns, uint64_t look_ns)
{
    int n = reactor_epoll_look(r, wait_ns, look_ns);
    r->now_ns = clock_mono_ns();
    r->lively = n > 0;
    for (int i = 0; i < n; i++) {
        struct reactor_source *s = reactor_source_of(r, r->events[i].data.u64);
        if (s)
            s->ready(s, r->events[i].events);
    }
    return n < 0 && n != -EINTR ? n : 0;
}

/* A poll has something to say. */
static void reactor_uring_ready(struct reactor *r, uint64_t token, int result, uint32_t flags)
{
    struct reactor_source *s = reactor_source_of(r, token);
    if (!s)
        return;
    /* A descriptor that cannot be watched looks like one that failed, as it does to poll(2). */
    bool failed = result < 0 && result != -ECANCELED;
    if (!(flags & IORING_CQE_F_MORE) && !failed)
        reactor_uring_poll(r, s->slot, s->fd);
    if (result != -ECANCELED)
        s->ready(s, failed ? EPOLLERR | EPOLLHUP : (uint32_t)result);
}

static int reactor_uring_dispatch(struct reactor *r, uint64_t wait_ns, uint64_t look_ns)
{
    if (look_ns > 0)
        uring_look(r->uring, look_ns);
    int ret = uring_wait(r->uring, wait_ns - look_ns);
    r->now_ns = clock_mono_ns();
    reactor_uring_settle(r);
    /* Only what is here now; a callback may submit, and so bring more. */
    uint32_t first = uring_first(r->uring), end = uring_end(r->uring);
    r->lively = first != end;
    for (uint32_t i = first; i != end; i++) {
        const struct io_uring_cqe c = *uring_at(r->uring, i);
        uring_drop(r->uring, i + 1);
        if (c.user_data != REACTOR_TOKEN_NONE)
            reactor_uring_ready(r, c.user_data, c.res, c.flags);
    }
    return ret;
}

static void reactor_fire(struct reactor *r)
{
    for (size_t left = r->heap_count; left > 0 && r->heap_count > 0; left--) {
        struct reactor_timer *t = r->heap[1];
        if (t->at_ns > r->now_ns)
            break;
        reactor_timer_clear(r, t);
        t->fire(t, r->now_ns);
    }
}

static void reactor_run_works(struct reactor *r)
{
    r->running = r->deferred;
    r->deferred = 0;
    if (list_empty(&r->works))
        return;
    /* Moved to a list of its own, so that what is deferred now waits for the next round. */
    struct list batch;
    list_init(&batch);
    batch.next = r->works.next;
    batch.prev = r->works.prev;
    batch.next->prev = &batch;
    batch.prev->next = &batch;
    list_init(&r->works);
    for (struct list *l; (l = list_pop_front(&batch)) != NULL;) {
        struct reactor_work *w = container_of(l, struct reactor_work, link);
        w->run(w);
    }
}

int reactor_round(struct reactor *r, uint64_t timeout_ns)
{
    uint64_t wait_ns = reactor_wait_ns(r, timeout_ns);
    /* Nobody looks for long where nothing goes on: one round without events, and it sleeps. */
    uint64_t look_ns = r->lively ? r->look_ns : 0;
    if (look_ns > wait_ns)
        look_ns = wait_ns;
    int ret = r->uring ? reactor_uring_dispatch(r, wait_ns, look_ns)
                       : reactor_epoll_dispatch(r, wait_ns, look_ns);
    if (ret < 0)
        return ret;
    reactor_fire(r);
    reactor_run_works(r);
    return 0;
}

int reactor_run(struct reactor *r)
{
    int ret = 0;
    while (!r->stopping && ret == 0)
        ret = reactor_round(r, UINT64_MAX);
    r->stopping = false;
    return ret;
}

void reactor_stop(struct reactor *r)
{
    r->stopping = true;
}
