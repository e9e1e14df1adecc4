/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler of one target.
 *
 * Problem: a target has room for so many I/Os at once; beyond that its queue only makes all wait,
 * and gives most of itself to whoever asks most. The queue must stand here, where it can be served
 * in an order that keeps reservations and weights.
 *
 * Model: mClock (Gulati et al., OSDI'10) without its limits, which the gate keeps, over a window as
 * in SFQ(D) (Jin et al., 2004). A share with something queued stands in two heaps. Tag R is when
 * its reservation is next due: each I/O of the phase of reservations moves it on by 1/r, an I/O of
 * the phase of weights does not, so that what a share gets by weight is not held against its
 * reservation. Tag P counts device time over weight for every I/O, whichever phase; V is the least
 * P of those that waited when one went last.
 *
 *   becomes active   R = max(R, now - credit)            P = min(max(P, V), V + ahead)
 *   goes             R += 1/r  if it was due             P += cost/w
 *   elsewhere        R += s/r, at most now + 1 s         P += s/w
 *
 * A share with both reservations (I/Os and bytes) has two tags R; the lesser decides, both move.
 *
 * A window below one slot is kept by time: after an answer that took l, nothing by weight goes for
 * l x (1/slots - 1), so that the target has this gateway's I/O in hand for that part of the time.
 * Reservations do not wait for that, and may go beyond the window by SCHED_OVER: they are bounded
 * by admission, and the share of the window that they take is not given to others meanwhile.
 *
 * Invariants:
 *  1. queued > 0 only while the window is on; with room and no pace to keep, sched_poll leaves
 *     nothing queued.
 *  2. A share is in the heap of P exactly when it has something queued that takes a slot, in the
 *     heap of R exactly when it has a reservation besides.
 *  3. Queues are first in, first out. A FLUSH at the head of its queue is moved to `ready` at once.
 *  4. Tags P are compared by difference, so that they may wrap; those of active shares lie within
 *     AHEAD of V, or behind it.
 *
 * An operation costs O(log shares). What may fail: memory, at sched_new. */
#include "qos/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define NS_PER_S_ UINT64_C(1000000000)
/* P moves on by cost x P_SCALE / weight. */
#define P_SCALE 1600u
/* Device time (1,000 servers for a second) that a share's P may be ahead of V for: what others
 * served for it can hold it back no longer than that. */
#define AHEAD_NS (1000u * NS_PER_S_)
/* Tag R at most so far ahead. */
#define R_AHEAD_NS NS_PER_S_
/* Reservations may go beyond the window by a quarter of it. */
#define SCHED_OVER 4u

struct heap {
    struct sched_share **at; /* from 1 */
    uint32_t size, capacity;
};

struct sched {
    uint64_t max_wait_ns, slots_milli;
    uint32_t room; /* slots in whole I/Os; 0: no window */
    uint32_t inflight, queued;
    uint64_t v;
    uint64_t pace_ns; /* nothing by weight before this */
    struct cost_model cost;
    struct list ages;  /* struct sched_io */
    struct list ready; /* struct sched_io: FLUSH whose turn has come */
    struct heap r, p;
    uint64_t accounted_ns;
    struct sched_counts counts;
};

/* ---- tags ------------------------------------------------------------------------------------ */

static uint64_t share_r(const struct sched_share *sh)
{
    if (sh->r_io_ns == 0)
        return sh->r_bytes;
    if (sh->r_byte_ps == 0)
        return sh->r_io;
    return sh->r_io < sh->r_bytes ? sh->r_io : sh->r_bytes;
}

static bool share_reserved(const struct sched_share *sh)
{
    return (sh->r_io_ns | sh->r_byte_ps) != 0;
}

static bool r_before(const struct sched_share *a, const struct sched_share *b)
{
    return share_r(a) < share_r(b);
}

static bool p_before(const struct sched_share *a, const struct sched_share *b)
{
    return (int64_t)(a->p - b->p) < 0;
}

static uint64_t p_step(const struct sched_share *sh, uint64_t cost_ns)
{
    uint64_t bound = cost_ns < AHEAD_NS ? cost_ns : AHEAD_NS;
    uint64_t step = bound * P_SCALE / sh->terms.weight;
    return step > 0 ? step : 1;
}

static uint64_t r_byte_step(const struct sched_share *sh, uint64_t bytes)
{
    /* bytes < 2^40 and picoseconds a byte < 10^12: in two parts so that nothing overflows. */
    return bytes / 1000 * sh->r_byte_ps + bytes % 1000 * sh->r_byte_ps / 1000;
}

/* ---- heaps ----------------------------------------------------------------------------------- */

static inline bool heap_before(const struct sched_share *a, const struct sched_share *b, bool is_r)
{
    return is_r ? r_before(a, b) : p_before(a, b);
}

static inline void heap_place(struct heap *h, uint32_t i, struct sched_share *sh, bool is_r)
{
    h->at[i] = sh;
    if (is_r)
        sh->r_index = i;
    else
        sh->p_index = i;
}

static void heap_up(struct heap *h, uint32_t i, struct sched_share *sh, bool is_r)
{
    for (; i > 1 && heap_before(sh, h->at[i / 2], is_r); i /= 2)
        heap_place(h, i, h->at[i / 2], is_r);
    heap_place(h, i, sh, is_r);
}

static void heap_down(struct heap *h, uint32_t i, struct sched_share *sh, bool is_r)
{
    for (;;) {
        uint32_t child = 2 * i;
        if (child > h->size)
            break;
        if (child < h->size && heap_before(h->at[child + 1], h->at[child], is_r))
            child++;
        if (!heap_before(h->at[child], sh, is_r))
            break;
        heap_place(h, i, h->at[child], is_r);
        i = child;
    }
    heap_place(h, i, sh, is_r);
}

static void heap_insert(struct heap *h, struct sched_share *sh, bool is_r)
{
    weir_assert(h->size < h->capacity);
    heap_up(h, ++h->size, sh, is_r);
}

static void heap_remove(struct heap *h, struct sched_share *sh, bool is_r)
{
    uint32_t i = is_r ? sh->r_index : sh->p_index;
    if (i == 0)
        return;
    weir_assert(h->at[i] == sh);
    struct sched_share *last = h->at[h->size--];
    if (is_r)
        sh->r_index = 0;
    else
        sh->p_index = 0;
    if (last == sh)
        return;
    if (i > 1 && heap_before(last, h->at[i / 2], is_r))
        heap_up(h, i, last, is_r);
    else
        heap_down(h, i, last, is_r);
}

/* After a tag moved, in either way. */
static void share_rekey(struct sched_share *sh)
{
    struct sched *s = sh->sched;
    if (sh->p_index == 0)
        return;
    heap_remove(&s->p, sh, false);
    heap_insert(&s->p, sh, false);
    heap_remove(&s->r, sh, true);
    if (share_reserved(sh))
        heap_insert(&s->r, sh, true);
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool heap_init(struct heap *h, size_t n)
{
    h->at = calloc(n + 1, sizeof h->at[0]);
    h->capacity = (uint32_t)n;
    return h->at != NULL;
}

struct sched *sched_new(size_t max_shares, uint64_t max_wait_ns)
{
    weir_assert(max_shares < UINT32_MAX / 4);
    struct sched *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->max_wait_ns = max_wait_ns;
    s->cost = cost_default();
    list_init(&s->ages);
    list_init(&s->ready);
    if (heap_init(&s->r, max_shares) && heap_init(&s->p, max_shares))
        return s;
    sched_free(s);
    return NULL;
}

void sched_free(struct sched *s)
{
    if (s == NULL)
        return;
    weir_assert(s->queued == 0);
    free(s->r.at);
    free(s->p.at);
    free(s);
}

void sched_set_max_wait(struct sched *s, uint64_t max_wait_ns)
{
    s->max_wait_ns = max_wait_ns;
}

void sched_set_window(struct sched *s, uint64_t slots_milli, uint64_t now_ns)
{
    (void)sched_account(s, now_ns);
    s->slots_milli = slots_milli;
    s->room = slots_milli == 0 ? 0 : (uint32_t)((slots_milli + 500) / 1000);
    if (slots_milli > 0 && s->room == 0)
        s->room = 1;
    if (slots_milli >= 1000)
        s->pace_ns = 0;
}

uint64_t sched_window(const struct sched *s)
{
    return s->slots_milli;
}

void sched_set_cost(struct sched *s, const struct cost_model *m)
{
    s->cost = *m;
}

const struct cost_model *sched_cost(const struct sched *s)
{
    return &s->cost;
}

/* ---- shares ---------------------------------------------------------------------------------- */

static void share_set_terms(struct sched_share *sh, const struct sched_terms *t)
{
    weir_assert(t->weight >= 1);
    weir_assert(t->weight <= SCHED_WEIGHT_MAX);
    sh->terms = *t;
    sh->r_io_ns = t->reserve_iops == 0 ? 0 : NS_PER_S_ / t->reserve_iops;
    sh->r_byte_ps = t->reserve_bytes_s == 0 ? 0 : NS_PER_S_ * 1000 / t->reserve_bytes_s;
    if (t->reserve_iops > 0 && sh->r_io_ns == 0)
        sh->r_io_ns = 1;
    if (t->reserve_bytes_s > 0 && sh->r_byte_ps == 0)
        sh->r_byte_ps = 1;
}

static uint64_t credit_ns(const struct sched_share *sh)
{
    return sh->terms.credit_us > 0 ? sh->terms.credit_us * 1000 : SCHED_CREDIT_NS;
}

void sched_share_init(struct sched *s, struct sched_share *sh, const struct sched_terms *t,
                      uint64_t now_ns)
{
    *sh = (struct sched_share){.sched = s, .p = s->v};
    list_init(&sh->waiting);
    share_set_terms(sh, t);
    sh->r_io = sh->r_bytes = now_ns;
}

static uint64_t added(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

static uint64_t r_moved(uint64_t tag, uint64_t by, uint64_t now_ns)
{
    uint64_t most = now_ns + R_AHEAD_NS;
    if (tag >= most)
        return tag;
    return by < most - tag ? tag + by : most;
}

void sched_share_change(struct sched_share *sh, const struct sched_terms *t, uint64_t now_ns)
{
    const struct sched_terms old = sh->terms;
    bool was_reserved = share_reserved(sh);
    share_set_terms(sh, t);
    if (!was_reserved)
        sh->r_io = sh->r_bytes = now_ns;
    uint64_t ios = added(t->elsewhere_ios, old.elsewhere_ios);
    uint64_t bytes = added(t->elsewhere_bytes, old.elsewhere_bytes);
    uint64_t cost = added(t->elsewhere_cost_ns, old.elsewhere_cost_ns);
    if (ios > 0 && sh->r_io_ns > 0)
        sh->r_io = r_moved(sh->r_io, ios < R_AHEAD_NS ? ios * sh->r_io_ns : R_AHEAD_NS, now_ns);
    if (bytes > 0 && sh->r_byte_ps > 0)
        sh->r_bytes = r_moved(
            sh->r_bytes, bytes < (UINT64_C(1) << 40) ? r_byte_step(sh, bytes) : R_AHEAD_NS, now_ns);
    if (cost > 0) {
        sh->p += p_step(sh, cost);
        uint64_t most = sh->sched->v + p_step(sh, AHEAD_NS);
        if ((int64_t)(sh->p - most) > 0)
            sh->p = most;
    }
    share_rekey(sh);
}

void sched_share_fini(struct sched_share *sh)
{
    weir_assert(sh->flows == 0);
    weir_assert(sh->queued == 0);
    weir_assert(sh->p_index == 0);
    weir_assert(sh->r_index == 0);
    sh->sched = NULL;
}

/* Its first I/O waits. */
static void share_activate(struct sched_share *sh, uint64_t now_ns)
{
    struct sched *s = sh->sched;
    uint64_t credit = credit_ns(sh);
    uint64_t least = now_ns > credit ? now_ns - credit : 0;
    if (sh->r_io < least)
        sh->r_io = least;
    if (sh->r_bytes < least)
        sh->r_bytes = least;
    int64_t ahead = (int64_t)(sh->p - s->v);
    if (ahead < 0)
        sh->p = s->v;
    else if ((uint64_t)ahead > p_step(sh, AHEAD_NS))
        sh->p = s->v + p_step(sh, AHEAD_NS);
}

static void share_enter(struct sched_share *sh, uint64_t now_ns)
{
    share_activate(sh, now_ns);
    heap_insert(&sh->sched->p, sh, false);
    if (share_reserved(sh))
        heap_insert(&sh->sched->r, sh, true);
}

static void share_leave(struct sched_share *sh)
{
    heap_remove(&sh->sched->p, sh, false);
    heap_remove(&sh->sched->r, sh, true);
}

static bool share_due(const struct sched_share *sh, uint64_t now_ns)
{
    return share_reserved(sh) && share_r(sh) <= now_ns;
}

/* Tags move on for one I/O. True: it was in the phase of reservations. */
static bool share_pay(struct sched_share *sh, const struct sched_io *io, uint64_t now_ns)
{
    bool due = share_due(sh, now_ns);
    if (due) {
        sh->r_io += sh->r_io_ns;
        sh->r_bytes += r_byte_step(sh, io->bytes);
        sh->reserved_ios++;
        io->flow->reserved_ios++;
    }
    sh->p += p_step(sh, io->cost_ns);
    sh->cost_dispatched_ns += io->cost_ns;
    return due;
}

/* ---- flows ----------------------------------------------------------------------------------- */

void sched_flow_init(struct sched *s, struct sched_flow *f, uint64_t now_ns)
{
    memset(f, 0, sizeof *f);
    list_init(&f->link);
    list_init(&f->queue[0].ios);
    list_init(&f->queue[1].ios);
    const struct sched_terms plain = {.weight = SCHED_WEIGHT_DEFAULT};
    sched_share_init(s, &f->own, &plain, now_ns);
    f->own.flows = 1;
    f->share = &f->own;
}

void sched_flow_fini(struct sched_flow *f)
{
    weir_assert(f->queued == 0);
    weir_assert(f->inflight == 0);
    f->share->flows--;
    f->share = NULL;
    f->own.sched = NULL;
}

static void flow_wait(struct sched_flow *f, uint64_t now_ns)
{
    struct sched_share *sh = f->share;
    if (sh->queued == f->queued)
        share_enter(sh, now_ns);
    list_push_back(&sh->waiting, &f->link);
}

void sched_flow_join(struct sched_flow *f, struct sched_share *sh, uint64_t now_ns)
{
    struct sched_share *to = sh != NULL ? sh : &f->own, *from = f->share;
    if (to == from)
        return;
    weir_assert(to->sched == from->sched);
    if (f->queued > 0) {
        list_remove(&f->link);
        from->queued -= f->queued;
        if (from->queued == 0)
            share_leave(from);
    }
    from->flows--;
    to->flows++;
    f->share = to;
    if (f->queued > 0) {
        to->queued += f->queued;
        flow_wait(f, now_ns);
    }
}

/* ---- I/Os ------------------------------------------------------------------------------------ */

const struct sched_counts *sched_account(struct sched *s, uint64_t now_ns)
{
    if (now_ns > s->accounted_ns) {
        uint64_t passed = now_ns - s->accounted_ns;
        s->counts.busy_ns += passed * s->inflight;
        if (s->queued > 0)
            s->counts.full_ns += passed;
        s->accounted_ns = now_ns;
    }
    return &s->counts;
}

static void io_goes(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    if (s->room > 0)
        (void)sched_account(s, now_ns);
    io->slot = true;
    io->dispatched_ns = now_ns;
    io->flow->inflight++;
    s->inflight++;
}

static void queue_remove(struct sched *s, struct sched_queue *q, struct sched_io *io)
{
    list_remove(&io->link);
    list_remove(&io->age_link);
    q->length--;
    io->queued = false;
    io->flow->queued--;
    io->flow->share->queued--;
    s->queued--;
}

/* Those at the front that take no slot are ready now. */
static void queue_settle(struct sched *s, struct sched_queue *q)
{
    while (!list_empty(&q->ios)) {
        struct sched_io *io = container_of(q->ios.next, struct sched_io, link);
        if (io_op_direction(io->op) != IO_DIR_NONE)
            return;
        queue_remove(s, q, io);
        list_push_back(&s->ready, &io->link);
    }
}

static struct sched_queue *queue_of(struct sched_io *io)
{
    enum io_direction dir = io_op_direction(io->op);
    return &io->flow->queue[dir == IO_DIR_NONE ? IO_DIR_WRITE : dir];
}

/* Take @io, the head of its queue or to be cancelled, out; keeps share and flow where they belong.
 */
static void io_take(struct sched *s, struct sched_io *io)
{
    struct sched_flow *f = io->flow;
    struct sched_queue *q = queue_of(io);
    queue_remove(s, q, io);
    queue_settle(s, q);
    list_remove(&f->link);
    if (f->queued > 0)
        list_push_back(&f->share->waiting, &f->link);
    if (f->share->queued == 0)
        share_leave(f->share);
}

static bool window_open(const struct sched *s, uint64_t now_ns)
{
    return s->inflight < s->room && s->pace_ns <= now_ns;
}

bool sched_submit(struct sched *s, struct sched_flow *f, struct sched_io *io, uint64_t now_ns)
{
    io->flow = f;
    io->queued = io->slot = io->suspended = false;
    io->submitted_ns = now_ns;
    enum io_direction dir = io_op_direction(io->op);
    if (dir == IO_DIR_NONE) {
        io->cost_ns = 0;
        if (io->op != IO_FLUSH || f->queue[IO_DIR_WRITE].length == 0) {
            io->dispatched_ns = now_ns;
            return true;
        }
    } else {
        io->cost_ns = cost_of(&s->cost, io->op, io->bytes);
        f->cost_arrived_ns += io->cost_ns;
        if (s->room == 0) {
            io_goes(s, io, now_ns);
            return true;
        }
        if (s->queued == 0 && window_open(s, now_ns)) {
            share_activate(f->share, now_ns);
            (void)share_pay(f->share, io, now_ns);
            s->v = f->share->p; /* nobody waits: whoever comes next starts level */
            io_goes(s, io, now_ns);
            return true;
        }
    }
    (void)sched_account(s, now_ns);
    struct sched_queue *q = queue_of(io);
    list_push_back(&q->ios, &io->link);
    list_push_back(&s->ages, &io->age_link);
    io->queued = true;
    q->length++;
    f->queued++;
    f->share->queued++;
    s->queued++;
    if (f->queued == 1)
        flow_wait(f, now_ns);
    return false;
}

static struct sched_io *flow_head(const struct sched_flow *f, uint32_t dir)
{
    const struct sched_queue *q = &f->queue[dir];
    return q->length > 0 ? container_of(q->ios.next, struct sched_io, link) : NULL;
}

/* The next of a share: its flows in turn, reads and writes of a flow in turn. */
static struct sched_io *share_head(struct sched_share *sh)
{
    weir_assert(!list_empty(&sh->waiting));
    struct sched_flow *f = container_of(sh->waiting.next, struct sched_flow, link);
    struct sched_io *io = flow_head(f, f->turn);
    if (io == NULL)
        io = flow_head(f, f->turn ^ 1u);
    weir_assert(io != NULL);
    return io;
}

static struct sched_io *io_dispatch(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    struct sched_flow *f = io->flow;
    struct sched_share *sh = f->share;
    (void)sched_account(s, now_ns);
    f->queued_ns += now_ns - io->submitted_ns;
    f->turn = io_op_direction(io->op) == IO_DIR_READ ? IO_DIR_WRITE : IO_DIR_READ;
    if (s->p.size > 0 && (int64_t)(s->p.at[1]->p - s->v) > 0)
        s->v = s->p.at[1]->p;
    (void)share_pay(sh, io, now_ns);
    io_take(s, io);
    share_rekey(sh);
    io_goes(s, io, now_ns);
    return io;
}

/* The one that has waited longest, when that is too long, or when there is no window any more. */
static struct sched_io *poll_oldest(struct sched *s, uint64_t now_ns)
{
    if (list_empty(&s->ages))
        return NULL;
    struct sched_io *io = container_of(s->ages.next, struct sched_io, age_link);
    bool overdue = now_ns - io->submitted_ns >= s->max_wait_ns && now_ns >= io->submitted_ns;
    if (s->room > 0 && !overdue)
        return NULL;
    weir_assert(queue_of(io)->ios.next == &io->link);
    if (s->room > 0) {
        s->counts.overdue++;
        io->flow->overdue++;
    }
    return io_dispatch(s, io, now_ns);
}

/* Room that reservations alone may use: beyond the window by a quarter, where that is not a queue
 * of its own before a device of few servers. */
static bool window_reserved(const struct sched *s)
{
    uint32_t over = s->room >= SCHED_OVER ? s->room / SCHED_OVER : 0;
    return s->inflight < s->room + over;
}

struct sched_io *sched_poll(struct sched *s, uint64_t now_ns)
{
    struct list *l = list_pop_front(&s->ready);
    if (l != NULL) {
        struct sched_io *io = container_of(l, struct sched_io, link);
        io->flow->queued_ns += now_ns - io->submitted_ns;
        io->dispatched_ns = now_ns;
        return io;
    }
    if (s->queued == 0)
        return NULL;
    struct sched_io *io = poll_oldest(s, now_ns);
    if (io != NULL)
        return io;
    if (s->r.size > 0 && window_reserved(s) && share_r(s->r.at[1]) <= now_ns)
        return io_dispatch(s, share_head(s->r.at[1]), now_ns);
    if (!window_open(s, now_ns))
        return NULL;
    return io_dispatch(s, share_head(s->p.at[1]), now_ns);
}

uint64_t sched_next_ns(const struct sched *s)
{
    if (!list_empty(&s->ready))
        return 0;
    if (s->queued == 0)
        return UINT64_MAX;
    if (s->room == 0)
        return 0;
    const struct sched_io *io = container_of(s->ages.next, struct sched_io, age_link);
    uint64_t next = s->max_wait_ns < UINT64_MAX - io->submitted_ns
                        ? io->submitted_ns + s->max_wait_ns
                        : UINT64_MAX;
    if (s->inflight < s->room && s->pace_ns < next)
        next = s->pace_ns;
    if (s->r.size > 0 && window_reserved(s) && share_r(s->r.at[1]) < next)
        next = share_r(s->r.at[1]);
    return next;
}

static void flow_judge(struct sched_flow *f, bool late)
{
    uint8_t bit = (uint8_t)(1u << (f->recent_at & 7u));
    uint8_t *byte = &f->recent[f->recent_at >> 3];
    *byte = late ? *byte | bit : (uint8_t)(*byte & ~bit);
    f->recent_at = (f->recent_at + 1) & 127u;
    f->late += late;
}

void sched_complete(struct sched *s, struct sched_io *io, uint64_t judged_ns, uint64_t now_ns)
{
    weir_assert(!io->queued);
    if (!io->slot && !io->suspended)
        return;
    sched_suspend(s, io, now_ns);
    io->suspended = false;
    struct sched_flow *f = io->flow;
    weir_assert(f->inflight > 0);
    f->inflight--;
    if (judged_ns == 0)
        return;
    uint64_t took = now_ns > io->dispatched_ns ? now_ns - io->dispatched_ns : 0;
    f->cost_served_ns += io->cost_ns;
    s->counts.cost_served_ns += io->cost_ns;
    s->counts.served_ios++;
    s->counts.served_bytes += io->bytes;
    s->counts.latency_ns += took;
    uint64_t objective = f->share->terms.latency_us * 1000;
    if (objective > 0)
        flow_judge(f, judged_ns > objective);
    if (s->slots_milli > 0 && s->slots_milli < 1000)
        s->pace_ns = now_ns + took * (1000 - s->slots_milli) / s->slots_milli;
}

void sched_submit_run(struct sched *s, struct sched_flow *f, const struct sched_run *run)
{
    weir_assert(s->room == 0);
    f->cost_arrived_ns += run->cost_ns;
    f->inflight += run->n;
    s->inflight += run->n;
}

void sched_complete_run(struct sched *s, struct sched_flow *f, const struct sched_run *run)
{
    weir_assert(s->room == 0);
    weir_assert(s->inflight >= run->n);
    weir_assert(f->inflight >= run->n);
    weir_assert(f->share->terms.latency_us == 0);
    s->inflight -= run->n;
    f->inflight -= run->n;
    f->cost_served_ns += run->cost_ns;
    s->counts.cost_served_ns += run->cost_ns;
    s->counts.served_ios += run->n;
    s->counts.served_bytes += run->bytes;
    s->counts.latency_ns += run->latency_ns;
}

void sched_suspend(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    if (!io->slot)
        return;
    weir_assert(s->inflight > 0);
    if (s->room > 0)
        (void)sched_account(s, now_ns);
    s->inflight--;
    io->slot = false;
    io->suspended = true;
}

void sched_resume(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    if (!io->suspended)
        return;
    if (s->room > 0)
        (void)sched_account(s, now_ns);
    s->inflight++;
    io->slot = true;
    io->suspended = false;
    io->dispatched_ns = now_ns;
}

void sched_cancel(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    (void)sched_account(s, now_ns);
    if (!io->queued) {
        list_remove(&io->link); /* in ready */
        return;
    }
    io_take(s, io);
}

uint32_t sched_inflight(const struct sched *s)
{
    return s->inflight;
}

uint32_t sched_queued(const struct sched *s)
{
    return s->queued;
}

bool sched_pending(const struct sched *s)
{
    return s->queued > 0 || !list_empty(&s->ready);
}

uint64_t sched_flow_oldest_ns(const struct sched_flow *f)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t dir = 0; dir < 2; dir++) {
        const struct sched_io *io = flow_head(f, dir);
        if (io != NULL && io->submitted_ns < oldest)
            oldest = io->submitted_ns;
    }
    return oldest;
}

uint32_t sched_flow_late_recent(const struct sched_flow *f)
{
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof f->recent; i++)
        n += (uint32_t)__builtin_popcount(f->recent[i]);
    return n;
}
