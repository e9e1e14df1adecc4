/* SPDX-License-Identifier: Apache-2.0 */
/* The problem. The server's threads must talk without any of them ever waiting for another, in
 * bounded memory, and with answers that find their way back.
 *
 * The model. One ring per mailbox: many producers, one consumer, the bounded queue of D. Vyukov
 * ("Bounded MPMC queue", 1024cores.net) with the consumer's side reduced to one thread. Each cell
 * has a sequence number: equal to its position when free for the producer of that position,
 * position + 1 when full.
 *
 * Tickets live in a table that only the owner of the mailbox touches: it asks, it takes the reply,
 * it expires. The responder sees a ticket only as a number in the message that it hands back.
 *
 *      FREE --ask--> WAITING --reply taken--> FREE
 *                       |  \--cancel------> DEAD --late reply taken--> FREE
 *                       \---expired-------> DEAD
 *
 * Invariants.
 *  1. Requests in a ring number at most capacity - tickets (`requests` is raised before a cell is
 *     claimed and lowered when it is taken), replies at most `tickets`: a ticket that has expired
 * keeps its place until its late reply came. So a reply always finds a free cell.
 *  2. A cell's message is written before its sequence is stored (release) and read after that store
 * was seen (acquire); it is free again when the consumer has stored position + capacity (release)
 * and a producer has seen that (acquire). No other field orders the message's bytes.
 *  3. Nobody sleeps on a ring that is not empty. The consumer stores asleep = 1, then looks at the
 *     sequence of the next cell; a producer stores the sequence, then exchanges asleep with 0. All
 * four are sequentially consistent, so at least one of the two sees the other: either the consumer
 * finds the message, or the producer finds 1 and writes the eventfd.
 *  4. A producer that is stopped between claiming a cell and filling it delays what was posted
 * behind it in that ring until it runs on; it will then wake the consumer itself (3). It holds up
 * nobody else's ring.
 *
 * What may fail. A full ring (WEIR_E_FULL, nothing taken); no memory or descriptors when it is
 * made. */
#include "server/mailbox/mailbox.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"

#define CACHE_LINE 64
#define SET_MAX 256u

struct cell {
    _Atomic uint64_t seq;
    struct msg msg;
};

enum ticket_state { TICKET_FREE, TICKET_WAITING, TICKET_DEAD };

struct ticket {
    enum ticket_state state;
    uint64_t generation; /* 48 bits travel */
    uint64_t deadline_ns;
    uint64_t tag;
    uint16_t kind;
    uint32_t next_free;
};

struct mailbox {
    /* Producers. */
    _Alignas(CACHE_LINE) _Atomic uint64_t tail;
    _Atomic uint64_t requests; /* requests claimed and not yet taken */
    _Alignas(CACHE_LINE) _Atomic int asleep;
    /* Consumer; atomic only so that mailbox_stats may read. */
    _Alignas(CACHE_LINE) _Atomic uint64_t head;
    struct cell *cells;
    uint64_t mask;
    uint64_t request_max;
    struct mailbox_set *set;
    uint16_t id;
    int fd;
    char name[32];
    /* Tickets: the owner's alone. */
    struct ticket *tickets;
    uint32_t ticket_count, ticket_free, expire_cursor;
    /* Gauges: written by the owner (or, refused and posted, by producers), read by anyone. */
    _Atomic uint64_t tickets_out, posted, refused, taken, replies, expired;
    _Atomic uint64_t depth_max, busy_ns_max, busy_kind_max, busy_since_ns, busy_ns_total;
    _Atomic uint64_t latency_ns_max;
    uint16_t busy_kind;
    uint64_t taken_posted_ns; /* of the message taken last */
};

struct mailbox_set {
    size_t max, count;
    struct mailbox *box[SET_MAX];
};

#define NO_TICKET UINT32_MAX
#define TICKET_INDEX_BITS 16u
#define GENERATION_MASK ((UINT64_C(1) << 48) - 1)

static uint64_t gauge_read(const _Atomic uint64_t *g)
{
    return atomic_load_explicit(g, memory_order_relaxed);
}

static void gauge_write(_Atomic uint64_t *g, uint64_t v)
{
    atomic_store_explicit(g, v, memory_order_relaxed);
}

static void gauge_add(_Atomic uint64_t *g, uint64_t v)
{
    atomic_fetch_add_explicit(g, v, memory_order_relaxed);
}

/* Only one thread writes each of these, so read and write need not be one step. */
static void gauge_max(_Atomic uint64_t *g, uint64_t v)
{
    if (v > gauge_read(g))
        gauge_write(g, v);
}

struct mailbox_set *mailbox_set_new(size_t max_mailboxes)
{
    weir_assert(max_mailboxes > 0);
    weir_assert(max_mailboxes <= SET_MAX);
    struct mailbox_set *set = calloc(1, sizeof(*set));
    if (set != NULL)
        set->max = max_mailboxes;
    return set;
}

static void mailbox_free(struct mailbox *m)
{
    struct msg left;
    while (mailbox_take(m, &left))
        msg_release(&left);
    if (m->fd >= 0)
        close(m->fd);
    free(m->cells);
    free(m->tickets);
    free(m);
}

void mailbox_set_free(struct mailbox_set *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->count; i++)
        mailbox_free(set->box[i]);
    free(set);
}

static struct mailbox *mailbox_alloc(size_t capacity, size_t tickets)
{
    struct mailbox *m = aligned_alloc(CACHE_LINE, sizeof(*m));
    if (m == NULL)
        return NULL;
    memset(m, 0, sizeof(*m));
    m->cells = calloc(capacity, sizeof(*m->cells));
    m->tickets = calloc(tickets + 1, sizeof(*m->tickets));
    m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->cells == NULL || m->tickets == NULL || m->fd < 0) {
        if (m->fd >= 0)
            close(m->fd);
        free(m->cells);
        free(m->tickets);
        free(m);
        return NULL;
    }
    return m;
}

struct mailbox *mailbox_new(struct mailbox_set *set, const char *name, size_t capacity,
                            size_t tickets)
{
    weir_assert(set->count < set->max);
    weir_assert(capacity >= 2);
    weir_assert((capacity & (capacity - 1)) == 0);
    weir_assert(tickets <= capacity / 2);
    weir_assert(tickets < (1u << TICKET_INDEX_BITS));
    struct mailbox *m = mailbox_alloc(capacity, tickets);
    if (m == NULL)
        return NULL;
    strncpy(m->name, name, sizeof(m->name) - 1);
    m->mask = capacity - 1;
    m->request_max = capacity - tickets;
    for (size_t i = 0; i < capacity; i++)
        atomic_init(&m->cells[i].seq, i);
    m->ticket_count = (uint32_t)tickets;
    m->ticket_free = tickets > 0 ? 0 : NO_TICKET;
    for (uint32_t i = 0; i < m->ticket_count; i++)
        m->tickets[i].next_free = i + 1 < m->ticket_count ? i + 1 : NO_TICKET;
    atomic_init(&m->asleep, 1);
    m->set = set;
    m->id = (uint16_t)set->count;
    set->box[set->count++] = m;
    return m;
}

uint16_t mailbox_id(const struct mailbox *m)
{
    return m->id;
}

int mailbox_fd(const struct mailbox *m)
{
    return m->fd;
}

/* Put @m into the ring and wake its consumer (invariants 2 and 3). False when there is no free
 * cell. */
static bool ring_put(struct mailbox *to, const struct msg *m)
{
    uint64_t at = atomic_load_explicit(&to->tail, memory_order_relaxed);
    struct cell *cell;
    for (;;) {
        cell = &to->cells[at & to->mask];
        uint64_t seq = atomic_load_explicit(&cell->seq, memory_order_acquire);
        if (seq == at) {
            if (atomic_compare_exchange_weak_explicit(&to->tail, &at, at + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                break;
        } else if (seq < at) {
            return false;
        } else {
            at = atomic_load_explicit(&to->tail, memory_order_relaxed);
        }
    }
    cell->msg = *m;
    atomic_store(&cell->seq, at + 1);
    gauge_add(&to->posted, 1);
    if (atomic_exchange(&to->asleep, 0) == 1) {
        uint64_t one = 1;
        ssize_t n = write(to->fd, &one, sizeof(one));
        weir_assert(n == sizeof(one) || errno == EAGAIN);
    }
    return true;
}

static int request_put(struct mailbox *from, struct mailbox *to, struct msg *m)
{
    m->from = from->id;
    m->is_reply = false;
    m->posted_ns = clock_mono_ns();
    uint64_t before = atomic_fetch_add_explicit(&to->requests, 1, memory_order_relaxed);
    if (before >= to->request_max || !ring_put(to, m)) {
        atomic_fetch_sub_explicit(&to->requests, 1, memory_order_relaxed);
        gauge_add(&to->refused, 1);
        return WEIR_E_FULL;
    }
    m->body = NULL;
    m->body_free = NULL;
    return 0;
}

int mailbox_post(struct mailbox *from, struct mailbox *to, struct msg *m)
{
    m->ticket = 0; /* status passes: an acknowledgement carries the gateway's */
    return request_put(from, to, m);
}

static void ticket_release(struct mailbox *m, uint32_t i)
{
    struct ticket *t = &m->tickets[i];
    weir_assert(t->state != TICKET_FREE);
    t->state = TICKET_FREE;
    t->generation = (t->generation + 1) & GENERATION_MASK;
    t->next_free = m->ticket_free;
    m->ticket_free = i;
    gauge_write(&m->tickets_out, gauge_read(&m->tickets_out) - 1);
}

/* The generation starts at 1 in the number that travels, so that a ticket is never 0. */
static uint64_t ticket_number(const struct mailbox *m, uint32_t i)
{
    return ((m->tickets[i].generation + 1) << TICKET_INDEX_BITS) | i;
}

/* The live or dead ticket that @number names, or NULL. */
static struct ticket *ticket_find(struct mailbox *m, uint64_t number, uint32_t *ret_index)
{
    uint32_t i = (uint32_t)(number & ((1u << TICKET_INDEX_BITS) - 1));
    if (number == 0 || i >= m->ticket_count || m->tickets[i].state == TICKET_FREE ||
        ticket_number(m, i) != number)
        return NULL;
    *ret_index = i;
    return &m->tickets[i];
}

int mailbox_ask(struct mailbox *from, struct mailbox *to, struct msg *m, uint64_t timeout_ns,
                uint64_t now_ns, uint64_t *ret_ticket)
{
    uint32_t i = from->ticket_free;
    if (i == NO_TICKET) {
        gauge_add(&to->refused, 1);
        return WEIR_E_FULL;
    }
    m->ticket = ticket_number(from, i);
    m->status = 0;
    uint64_t number = m->ticket;
    uint64_t tag = m->tag;
    uint16_t kind = m->kind;
    int r = request_put(from, to, m);
    if (r < 0)
        return r;
    struct ticket *t = &from->tickets[i];
    from->ticket_free = t->next_free;
    t->state = TICKET_WAITING;
    t->deadline_ns = now_ns + timeout_ns;
    t->tag = tag;
    t->kind = kind;
    gauge_write(&from->tickets_out, gauge_read(&from->tickets_out) + 1);
    *ret_ticket = number;
    return 0;
}

void mailbox_reply(struct mailbox *self, const struct msg *request, int status, void *body,
                   void (*body_free)(void *))
{
    if (request->ticket == 0) {
        if (body != NULL && body_free != NULL)
            body_free(body);
        return;
    }
    weir_assert(!request->is_reply);
    weir_assert(request->from < self->set->count);
    struct msg m = {
        .kind = request->kind,
        .from = self->id,
        .is_reply = true,
        .status = status,
        .ticket = request->ticket,
        .tag = request->tag,
        .arg = {request->arg[0], request->arg[1]},
        .posted_ns = clock_mono_ns(),
        .body = body,
        .body_free = body_free,
    };
    /* Invariant 1: there is room. A miss means that one request was answered twice. */
    bool put = ring_put(self->set->box[request->from], &m);
    weir_assert(put);
}

void mailbox_cancel(struct mailbox *m, uint64_t ticket)
{
    uint32_t i;
    struct ticket *t = ticket_find(m, ticket, &i);
    if (t != NULL)
        t->state = TICKET_DEAD;
}

void msg_release(struct msg *m)
{
    if (m->body != NULL && m->body_free != NULL)
        m->body_free(m->body);
    m->body = NULL;
    m->body_free = NULL;
}

static bool ring_take(struct mailbox *m, struct msg *ret)
{
    uint64_t at = atomic_load_explicit(&m->head, memory_order_relaxed);
    struct cell *cell = &m->cells[at & m->mask];
    if (atomic_load_explicit(&cell->seq, memory_order_acquire) != at + 1)
        return false;
    *ret = cell->msg;
    m->taken_posted_ns = ret->posted_ns;
    gauge_max(&m->depth_max, atomic_load_explicit(&m->tail, memory_order_relaxed) - at);
    atomic_store_explicit(&cell->seq, at + m->mask + 1, memory_order_release);
    atomic_store_explicit(&m->head, at + 1, memory_order_relaxed);
    return true;
}

bool mailbox_take(struct mailbox *m, struct msg *ret)
{
    while (ring_take(m, ret)) {
        gauge_add(&m->taken, 1);
        if (!ret->is_reply) {
            atomic_fetch_sub_explicit(&m->requests, 1, memory_order_relaxed);
            return true;
        }
        gauge_add(&m->replies, 1);
        uint32_t i;
        const struct ticket *t = ticket_find(m, ret->ticket, &i);
        weir_assert(t != NULL); /* else: answered twice */
        bool wanted = t->state == TICKET_WAITING;
        ticket_release(m, i);
        if (wanted)
            return true;
        msg_release(ret);
    }
    return false;
}

bool mailbox_drained(struct mailbox *m)
{
    uint64_t n;
    ssize_t got = read(m->fd, &n, sizeof(n));
    weir_assert(got == sizeof(n) || errno == EAGAIN || errno == EINTR);
    atomic_store(&m->asleep, 1);
    uint64_t at = atomic_load_explicit(&m->head, memory_order_relaxed);
    if (atomic_load(&m->cells[at & m->mask].seq) != at + 1)
        return false;
    atomic_store(&m->asleep, 0);
    return true;
}

bool mailbox_take_expired(struct mailbox *m, uint64_t now_ns, struct msg *ret)
{
    for (; m->expire_cursor < m->ticket_count; m->expire_cursor++) {
        struct ticket *t = &m->tickets[m->expire_cursor];
        if (t->state != TICKET_WAITING || t->deadline_ns > now_ns)
            continue;
        t->state = TICKET_DEAD;
        gauge_add(&m->expired, 1);
        *ret = (struct msg){
            .kind = t->kind,
            .from = m->id,
            .is_reply = true,
            .status = WEIR_E_TIMEOUT,
            .ticket = ticket_number(m, m->expire_cursor),
            .tag = t->tag,
        };
        return true;
    }
    m->expire_cursor = 0;
    return false;
}

void mailbox_busy(struct mailbox *m, uint16_t kind, uint64_t now_ns)
{
    m->busy_kind = kind;
    gauge_write(&m->busy_since_ns, now_ns);
    if (m->taken_posted_ns != 0 && now_ns > m->taken_posted_ns)
        gauge_max(&m->latency_ns_max, now_ns - m->taken_posted_ns);
    m->taken_posted_ns = 0;
}

void mailbox_idle(struct mailbox *m, uint64_t now_ns)
{
    uint64_t since = gauge_read(&m->busy_since_ns);
    if (since == 0)
        return;
    uint64_t took = now_ns > since ? now_ns - since : 0;
    gauge_write(&m->busy_ns_total, gauge_read(&m->busy_ns_total) + took);
    if (took > gauge_read(&m->busy_ns_max)) {
        gauge_write(&m->busy_ns_max, took);
        gauge_write(&m->busy_kind_max, m->busy_kind);
    }
    gauge_write(&m->busy_since_ns, 0);
}

size_t mailbox_set_count(const struct mailbox_set *set)
{
    return set->count;
}

struct mailbox *mailbox_set_at(const struct mailbox_set *set, size_t i)
{
    weir_assert(i < set->count);
    return set->box[i];
}

void mailbox_stats(const struct mailbox_set *set, size_t i, struct mailbox_stats *ret)
{
    const struct mailbox *m = mailbox_set_at(set, i);
    uint64_t head = atomic_load_explicit(&m->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&m->tail, memory_order_relaxed);
    *ret = (struct mailbox_stats){
        .id = m->id,
        .capacity = (size_t)m->mask + 1,
        .depth = tail > head ? (size_t)(tail - head) : 0,
        .depth_max = (size_t)gauge_read(&m->depth_max),
        .posted = gauge_read(&m->posted),
        .refused = gauge_read(&m->refused),
        .taken = gauge_read(&m->taken),
        .replies = gauge_read(&m->replies),
        .expired = gauge_read(&m->expired),
        .tickets_out = gauge_read(&m->tickets_out),
        .busy_ns_max = gauge_read(&m->busy_ns_max),
        .busy_kind_max = (uint16_t)gauge_read(&m->busy_kind_max),
        .busy_since_ns = gauge_read(&m->busy_since_ns),
        .latency_ns_max = gauge_read(&m->latency_ns_max),
        .busy_ns_total = gauge_read(&m->busy_ns_total),
    };
    memcpy(ret->name, m->name, sizeof(ret->name));
}
