/* SPDX-License-Identifier: Apache-2.0 */
/* The problem. The server's threads must talk without any of them ever waiting for another, in
 * bounded memory, and with answers that find their way back.
 *
 * The model. Three rings (ring.c) per mailbox: replies, urgent, the rest. Tickets live in a table
 * that only the owner of the mailbox changes: it asks, it takes the reply, it expires. The
 * responder sees a ticket as a number in the message that it hands back, and may look (`live`)
 * whether it is still waited for.
 *
 *      FREE --ask--> WAITING --reply taken--> FREE
 *                       |  \--cancel------> DEAD --late reply taken--> FREE
 *                       \---expired-------> DEAD
 *
 * Invariants.
 *  1. The ring of replies has at least as many cells as there are tickets, each ticket that is not
 *     FREE has at most one reply in it, and a ticket that expired or was cancelled is not free
 *     before its late reply was taken. So a reply always finds a free cell. A responder that never
 *     answers costs its asker that ticket for ever: each request that wants a reply is answered.
 *  2. A reply is believed when its number is that of a ticket that waits. Numbers carry a
 *     generation of 48 bits, so one that was used before is not taken for a newer.
 *  3. Nobody sleeps on a ring that is not empty. The consumer stores asleep = 1, then looks at the
 *     next cell of each ring; a producer stores the cell's turn, then looks at asleep. All four are
 *     sequentially consistent, so in their single order either the consumer's look comes after the
 *     producer's store, and it finds the message, or the producer's look comes after the
 *     consumer's store, and it finds 1. Weaker orders would allow both to miss (each store may lie
 *     in its processor's buffer while the other's old value is read).
 *  4. Of the producers that find 1, the one whose exchange gets the 1 writes the eventfd; the
 *     others need not: wakes are coalesced. The eventfd's own counter keeps a write that comes
 *     before the read in mailbox_drained from being lost: asleep is stored after that read, so the
 *     1 that was exchanged for that write belongs to an earlier sleep, and the look at the rings
 *     follows.
 *  5. `once`: the producer exchanges it with true before it posts; the consumer stores false after
 *     it has copied the message and before anybody acts on it. So what the producer knew when it
 *     found true was known before that message is handled. Release and acquire on the flag order
 *     this.
 *  6. `live` of a ticket is its number while it waits and 0 else: a single relaxed word, advice
 *     only.
 *  7. Between mailbox_hold and mailbox_let_go the look of 3 is put off, never left out: a producer
 *     that holds notes whom it has posted to and looks at each later. It is as if it had been slow
 *     between its two steps, which every interleaving of the model has. What is urgent, and whom
 *     there is no note for, is looked at at once.
 *
 * What may fail. A full ring (WEIR_E_FULL, nothing taken); no memory or descriptors when it is
 * made. */
#include "server/mailbox/mailbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/mailbox/gauge.h"
#include "server/mailbox/ring.h"

#define SET_MAX 256u
/* Receivers whose wake may be put off at once. */
#define HELD_MAX 16u

enum ticket_state { TICKET_FREE, TICKET_WAITING, TICKET_DEAD };

struct ticket {
    enum ticket_state state;
    _Atomic uint64_t live; /* see invariant 6 */
    uint64_t generation;   /* 48 bits travel */
    uint64_t deadline_ns;
    uint64_t tag;
    uint16_t kind;
    uint32_t next_free;
};

struct mailbox {
    struct ring normal, urgent, replies;
    _Alignas(RING_CACHE_LINE) _Atomic int asleep;
    /* Producers write these, seldom. */
    _Atomic uint64_t refused, coalesced, wakes;
    /* Fixed. */
    _Alignas(RING_CACHE_LINE) struct mailbox_set *set;
    uint16_t id;
    int fd;
    char name[32];
    /* The owner's alone. */
    struct ticket *tickets;
    uint32_t ticket_count, ticket_free, expire_cursor, urgent_run;
    uint16_t busy_kind;
    bool holding;
    uint32_t held_count, held_posts;
    struct mailbox *held[HELD_MAX];
    uint64_t taken_posted_ns; /* of the message taken last */
    /* Gauges of the owner. */
    _Atomic uint64_t tickets_out, expired, owned;
    _Atomic uint64_t busy_ns_max, busy_kind_max, busy_since_ns, busy_ns_total, latency_ns_max;
    struct wait_hist waits;
};

struct mailbox_set {
    size_t max, count;
    struct mailbox *box[SET_MAX];
};

#define NO_TICKET UINT32_MAX
#define TICKET_INDEX_BITS 16u
#define GENERATION_MASK ((UINT64_C(1) << 48) - 1)

struct mailbox_set *mailbox_set_new(size_t max_mailboxes)
{
    weir_assert(max_mailboxes > 0);
    weir_assert(max_mailboxes <= SET_MAX);
    struct mailbox_set *set = calloc(1, sizeof(*set));
    if (set != NULL)
        set->max = max_mailboxes;
    return set;
}

static void mailbox_release(struct mailbox *m)
{
    if (m->fd >= 0)
        close(m->fd);
    ring_fini(&m->normal);
    ring_fini(&m->urgent);
    ring_fini(&m->replies);
    free(m->tickets);
    free(m);
}

void mailbox_set_drain(struct mailbox_set *set)
{
    struct msg left;
    for (size_t i = 0; i < set->count; i++) {
        while (mailbox_take(set->box[i], &left))
            msg_release(&left);
    }
}

void mailbox_set_free(struct mailbox_set *set)
{
    if (set == NULL)
        return;
    mailbox_set_drain(set);
    for (size_t i = 0; i < set->count; i++)
        mailbox_release(set->box[i]);
    free(set);
}

static size_t power_of_two(size_t at_least)
{
    size_t n = 2;
    while (n < at_least)
        n *= 2;
    return n;
}

static struct mailbox *mailbox_alloc(size_t capacity, size_t tickets)
{
    struct mailbox *m = aligned_alloc(RING_CACHE_LINE, sizeof(*m));
    if (m == NULL)
        return NULL;
    memset(m, 0, sizeof(*m));
    m->tickets = calloc(tickets + 1, sizeof(*m->tickets));
    m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->tickets == NULL || m->fd < 0 || ring_init(&m->normal, capacity) < 0 ||
        ring_init(&m->urgent, power_of_two(capacity / 8)) < 0 ||
        ring_init(&m->replies, power_of_two(tickets)) < 0) {
        mailbox_release(m);
        return NULL;
    }
    return m;
}

struct mailbox *mailbox_new(struct mailbox_set *set, const char *name, size_t capacity,
                            size_t tickets)
{
    weir_assert(set->count < set->max);
    weir_assert(tickets < (1u << TICKET_INDEX_BITS));
    struct mailbox *m = mailbox_alloc(capacity, tickets);
    if (m == NULL)
        return NULL;
    strncpy(m->name, name, sizeof(m->name) - 1);
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

/* --- step one ------------------------------------------------------------------------------ */

/* After a message was put: invariants 3 and 4. */
static void wake(struct mailbox *to)
{
    if (atomic_load(&to->asleep) == 0 || atomic_exchange(&to->asleep, 0) == 0)
        return;
    uint64_t one = 1;
    gauge_add(&to->wakes, 1);
    ssize_t n = write(to->fd, &one, sizeof(one));
    weir_assert(n == sizeof(one) || errno == EAGAIN);
}

/* Invariant 7. */
static void wake_later(struct mailbox *from, struct mailbox *to)
{
    uint32_t i = 0;
    while (i < from->held_count && from->held[i] != to)
        i++;
    if (!from->holding || i == HELD_MAX) {
        wake(to);
        return;
    }
    from->held[i] = to;
    from->held_count += i == from->held_count;
    if (++from->held_posts >= MAILBOX_HOLD_POSTS) {
        mailbox_let_go(from);
        from->holding = true;
    }
}

void mailbox_hold(struct mailbox *m)
{
    m->holding = true;
}

void mailbox_let_go(struct mailbox *m)
{
    uint32_t n = m->held_count;
    m->holding = false;
    m->held_count = m->held_posts = 0;
    for (uint32_t i = 0; i < n; i++)
        wake(m->held[i]);
}

static int request_put(struct mailbox *from, struct mailbox *to, struct ring *lane,
                       struct msg *m, uint64_t spare)
{
    m->from = from->id;
    m->is_reply = false;
    m->posted_ns = clock_mono_ns();
    if (!ring_put(lane, m, spare)) {
        gauge_add(&to->refused, 1);
        return WEIR_E_FULL;
    }
    m->body = NULL;
    m->body_free = NULL;
    if (lane == &to->urgent)
        wake(to);
    else
        wake_later(from, to);
    return 0;
}

int mailbox_post(struct mailbox *from, struct mailbox *to, struct msg *m)
{
    m->ticket = 0; /* status passes: an acknowledgement carries the gateway's */
    m->once = NULL;
    return request_put(from, to, &to->normal, m, 0);
}

int mailbox_post_bulk(struct mailbox *from, struct mailbox *to, struct msg *m)
{
    m->ticket = 0;
    m->once = NULL;
    return request_put(from, to, &to->normal, m, (to->normal.mask + 1) / 4);
}

int mailbox_post_urgent(struct mailbox *from, struct mailbox *to, struct msg *m)
{
    m->ticket = 0;
    m->once = NULL;
    return request_put(from, to, &to->urgent, m, 0);
}

int mailbox_post_once(struct mailbox *from, struct mailbox *to, struct msg *m, atomic_bool *once)
{
    m->ticket = 0;
    m->once = once;
    if (atomic_exchange_explicit(once, true, memory_order_acq_rel)) {
        gauge_add(&to->coalesced, 1);
        return WEIR_E_EXISTS;
    }
    int r = request_put(from, to, &to->urgent, m, 0);
    if (r < 0)
        atomic_store_explicit(once, false, memory_order_release);
    return r;
}

/* --- tickets -------------------------------------------------------------------------------- */

static void ticket_release(struct mailbox *m, uint32_t i)
{
    struct ticket *t = &m->tickets[i];
    weir_assert(t->state != TICKET_FREE);
    t->state = TICKET_FREE;
    gauge_write(&t->live, 0);
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

static uint32_t ticket_index(uint64_t number)
{
    return (uint32_t)(number & ((1u << TICKET_INDEX_BITS) - 1));
}

/* The live or dead ticket that @number names, or NULL. */
static struct ticket *ticket_find(struct mailbox *m, uint64_t number)
{
    uint32_t i = ticket_index(number);
    if (number == 0 || i >= m->ticket_count || m->tickets[i].state == TICKET_FREE ||
        ticket_number(m, i) != number)
        return NULL;
    return &m->tickets[i];
}

static void ticket_die(struct ticket *t)
{
    t->state = TICKET_DEAD;
    gauge_write(&t->live, 0);
}

int mailbox_ask(struct mailbox *from, struct mailbox *to, struct msg *m, uint64_t timeout_ns,
                uint64_t now_ns, uint64_t *ret_ticket)
{
    uint32_t i = from->ticket_free;
    if (i == NO_TICKET) {
        gauge_add(&to->refused, 1);
        return WEIR_E_FULL;
    }
    struct ticket *t = &from->tickets[i];
    uint64_t number = ticket_number(from, i), tag = m->tag;
    uint16_t kind = m->kind;
    m->ticket = number;
    m->status = 0;
    m->once = NULL;
    gauge_write(&t->live, number);
    int r = request_put(from, to, &to->normal, m, 0);
    if (r < 0) {
        gauge_write(&t->live, 0);
        return r;
    }
    from->ticket_free = t->next_free;
    t->state = TICKET_WAITING;
    t->deadline_ns = now_ns + timeout_ns;
    t->tag = tag;
    t->kind = kind;
    gauge_add_own(&from->tickets_out, 1);
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
        .arg = {request->arg[0], request->arg[1], request->arg[2]},
        .posted_ns = clock_mono_ns(),
        .body = body,
        .body_free = body_free,
    };
    struct mailbox *to = self->set->box[request->from];
    /* Invariant 1: there is room. A miss means that one request was answered twice. */
    bool put = ring_put(&to->replies, &m, 0);
    weir_assert(put);
    wake(to);
}

bool mailbox_wanted(const struct mailbox *self, const struct msg *request)
{
    if (request->ticket == 0)
        return true;
    weir_assert(request->from < self->set->count);
    const struct mailbox *asker = self->set->box[request->from];
    uint32_t i = ticket_index(request->ticket);
    weir_assert(i < asker->ticket_count);
    return gauge_read(&asker->tickets[i].live) == request->ticket;
}

void mailbox_cancel(struct mailbox *m, uint64_t ticket)
{
    struct ticket *t = ticket_find(m, ticket);
    if (t != NULL)
        ticket_die(t);
}

bool mailbox_take_expired(struct mailbox *m, uint64_t now_ns, struct msg *ret)
{
    if (gauge_read(&m->tickets_out) == 0)
        return false;
    for (; m->expire_cursor < m->ticket_count; m->expire_cursor++) {
        struct ticket *t = &m->tickets[m->expire_cursor];
        if (t->state != TICKET_WAITING || t->deadline_ns > now_ns)
            continue;
        ticket_die(t);
        gauge_add_own(&m->expired, 1);
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

/* --- the owner's side --------------------------------------------------------------------- */

void msg_release(struct msg *m)
{
    if (m->body != NULL && m->body_free != NULL)
        m->body_free(m->body);
    m->body = NULL;
    m->body_free = NULL;
}

/* The next reply that somebody still waits for. */
static bool take_reply(struct mailbox *m, struct msg *ret)
{
    while (ring_take(&m->replies, ret)) {
        const struct ticket *t = ticket_find(m, ret->ticket);
        weir_assert(t != NULL); /* else: answered twice */
        bool wanted = t->state == TICKET_WAITING;
        ticket_release(m, ticket_index(ret->ticket));
        if (wanted)
            return true;
        msg_release(ret);
    }
    return false;
}

static bool take_urgent(struct mailbox *m, struct msg *ret)
{
    if (!ring_take(&m->urgent, ret))
        return false;
    if (ret->once != NULL)
        atomic_store_explicit(ret->once, false, memory_order_release);
    m->urgent_run++;
    return true;
}

bool mailbox_take(struct mailbox *m, struct msg *ret)
{
    bool got = take_reply(m, ret) ||
               (m->urgent_run < MAILBOX_URGENT_RUN && take_urgent(m, ret));
    if (!got) {
        got = ring_take(&m->normal, ret);
        m->urgent_run = 0;
    }
    got = got || take_urgent(m, ret);
    if (got)
        m->taken_posted_ns = ret->posted_ns;
    return got;
}

bool mailbox_drained(struct mailbox *m)
{
    uint64_t n;
    ssize_t got = read(m->fd, &n, sizeof(n));
    weir_assert(got == sizeof(n) || errno == EAGAIN || errno == EINTR);
    gauge_write(&m->owned, 1);
    atomic_store(&m->asleep, 1);
    if (!ring_ready(&m->replies) && !ring_ready(&m->urgent) && !ring_ready(&m->normal))
        return false;
    atomic_store(&m->asleep, 0);
    return true;
}

void mailbox_busy(struct mailbox *m, uint16_t kind, uint64_t now_ns)
{
    mailbox_idle(m, now_ns);
    m->busy_kind = kind;
    gauge_write(&m->busy_since_ns, now_ns);
    if (m->taken_posted_ns == 0)
        return; /* work that did not come by mail */
    uint64_t waited = now_ns > m->taken_posted_ns ? now_ns - m->taken_posted_ns : 0;
    gauge_max(&m->latency_ns_max, waited);
    wait_hist_add(&m->waits, waited);
    m->taken_posted_ns = 0;
}

void mailbox_idle(struct mailbox *m, uint64_t now_ns)
{
    uint64_t since = gauge_read(&m->busy_since_ns);
    if (since == 0)
        return;
    uint64_t took = now_ns > since ? now_ns - since : 0;
    gauge_add_own(&m->busy_ns_total, took);
    if (took > gauge_read(&m->busy_ns_max)) {
        gauge_write(&m->busy_ns_max, took);
        gauge_write(&m->busy_kind_max, m->busy_kind);
    }
    gauge_write(&m->busy_since_ns, 0);
}

/* --- the thread map ----------------------------------------------------------------------- */

size_t mailbox_set_count(const struct mailbox_set *set)
{
    return set->count;
}

struct mailbox *mailbox_set_at(const struct mailbox_set *set, size_t i)
{
    weir_assert(i < set->count);
    return set->box[i];
}

uint64_t mailbox_busy_since(const struct mailbox *m)
{
    return gauge_read(&m->busy_since_ns);
}

static uint64_t taken_count(const struct mailbox *m)
{
    return ring_taken_count(&m->normal) + ring_taken_count(&m->urgent) +
           ring_taken_count(&m->replies);
}

uint64_t mailbox_still_ns(const struct mailbox *m, struct mailbox_watch *w, uint64_t now_ns)
{
    uint64_t taken = taken_count(m), busy = mailbox_busy_since(m);
    bool waits = ring_depth(&m->normal) + ring_depth(&m->urgent) + ring_depth(&m->replies) > 0;
    if (!waits)
        w->since_ns = 0;
    else if (taken != w->taken || w->since_ns == 0)
        w->since_ns = now_ns;
    w->taken = taken;
    uint64_t since = busy != 0 && (w->since_ns == 0 || busy < w->since_ns) ? busy : w->since_ns;
    return since != 0 && now_ns > since ? now_ns - since : 0;
}

void mailbox_stats(const struct mailbox_set *set, size_t i, struct mailbox_stats *ret)
{
    const struct mailbox *m = mailbox_set_at(set, i);
    uint64_t urgent = ring_put_count(&m->urgent);
    *ret = (struct mailbox_stats){
        .id = m->id,
        .owned = gauge_read(&m->owned) != 0,
        .capacity = (size_t)m->normal.mask + 1,
        .depth = ring_depth(&m->normal),
        .depth_max = (size_t)gauge_read(&m->normal.depth_max),
        .urgent_depth = ring_depth(&m->urgent),
        .urgent_depth_max = (size_t)gauge_read(&m->urgent.depth_max),
        .posted = ring_put_count(&m->normal) + urgent + ring_put_count(&m->replies),
        .refused = gauge_read(&m->refused),
        .taken = taken_count(m),
        .replies = ring_taken_count(&m->replies),
        .expired = gauge_read(&m->expired),
        .urgent = urgent,
        .coalesced = gauge_read(&m->coalesced),
        .wakes = gauge_read(&m->wakes),
        .tickets_out = gauge_read(&m->tickets_out),
        .busy_ns_max = gauge_read(&m->busy_ns_max),
        .busy_kind_max = (uint16_t)gauge_read(&m->busy_kind_max),
        .busy_since_ns = gauge_read(&m->busy_since_ns),
        .latency_ns_max = gauge_read(&m->latency_ns_max),
        .wait_p50_ns = wait_hist_quantile(&m->waits, 500000),
        .wait_p99_ns = wait_hist_quantile(&m->waits, 990000),
        .busy_ns_total = gauge_read(&m->busy_ns_total),
    };
    memcpy(ret->name, m->name, sizeof(ret->name));
}
