/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler of one target.
 *
 * Problem: a target has room for so many I/Os at once; beyond that its queue only makes all wait,
 * and gives most of itself to whoever asks most. The queue must stand here, where it can be served
 * in an order that keeps reservations and weights.
 *
 * Model: mClock (Gulati et al., OSDI'10) without its limits, which the gate keeps, over a window as
 * in SFQ(D) (Jin et al., 2004). A share with something queued stands in two heaps (sched_share.c):
 * by R, when its reservation is next due, and by P, the device time that it had over its weight.
 * Whoever is due goes first, else the least P. Where what is due is a reservation of reads, or of
 * writes, the first of these goes.
 *
 * What a window has beyond whole slots, a part p of one, is kept by time: after one more than the
 * whole was in flight for a time l, no more than the whole go by weight for l x (1/p - 1), so that
 * the target has one more in hand for that part of the time. Gateways that share a target so have
 * just what they are owed, be that half a slot.
 * Reservations do not wait for that, and may go beyond the window by SCHED_OVER: they are bounded
 * by admission, and the share of the window that they take is not given to others meanwhile.
 *
 * Invariants:
 *  1. queued > 0 only while the window is on; with room and no pace to keep, sched_poll leaves
 *     nothing queued.
 *  2. Queues are first in, first out. A FLUSH at the head of its queue is moved to `ready` at once.
 *  3. A flow is in its share's lists exactly when it has something queued there: `waiting` and, by
 *     direction, `waiting_dir`; the share counts the same in `queued` and `queued_dir`.
 *
 * An operation costs O(log shares). What may fail: memory, at sched_new. */
#include "qos/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "qos/sched_private.h"

/* Reservations may go beyond the window by a quarter of it; where nobody divides it, to eight times
 * of it. */
#define SCHED_OVER      4u
#define SCHED_UNDIVIDED 8u
/* What is left of a pace when the window changes, at most. */
#define PACE_KEPT_NS UINT64_C(100000000)
/* Reservations may have held more than the whole for long: that is not held against the others. */
#define PACE_NS_MAX UINT64_C(1000000000)

/* ---- life ------------------------------------------------------------------------------------ */

static bool heap_init(struct sched_heap *h, size_t n)
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

static uint32_t room_of(uint64_t slots_milli)
{
    return (uint32_t)((slots_milli + 999) / 1000);
}

/* The window that holds now: as set, or a lower one. */
static void window_hold(struct sched *s, uint64_t milli, uint64_t now_ns)
{
    (void)sched_account(s, now_ns);
    s->hold_milli = milli;
    s->room = room_of(milli);
    s->whole = (uint32_t)(milli / 1000);
    s->part_ns = now_ns;
    if (s->pace_ns > now_ns + PACE_KEPT_NS)
        s->pace_ns = now_ns + PACE_KEPT_NS; /* of a smaller part, before */
}

/* Reservations may go beyond the window by a quarter, where that is not a queue of its own before a
 * device of few servers. */
static void reserved_hold(struct sched *s, uint64_t milli)
{
    uint32_t room = room_of(milli);
    s->room_reserved = s->undivided ? room * SCHED_UNDIVIDED : room + room / SCHED_OVER;
}

void sched_set_undivided(struct sched *s, bool undivided)
{
    s->undivided = undivided;
    reserved_hold(s, s->slots_milli);
}

void sched_set_window(struct sched *s, uint64_t slots_milli, uint64_t now_ns)
{
    s->slots_milli = slots_milli;
    reserved_hold(s, slots_milli);
    window_hold(s, slots_milli, now_ns);
}

void sched_set_low(struct sched *s, uint64_t slots_milli, bool all, uint64_t now_ns)
{
    bool low = slots_milli > 0 && slots_milli < s->slots_milli;
    uint64_t milli = low ? slots_milli : s->slots_milli;
    reserved_hold(s, all ? milli : s->slots_milli);
    if (milli != s->hold_milli)
        window_hold(s, milli, now_ns);
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

/* ---- flows ----------------------------------------------------------------------------------- */

void sched_flow_init(struct sched *s, struct sched_flow *f, uint64_t now_ns)
{
    memset(f, 0, sizeof *f);
    list_init(&f->link);
    for (int d = 0; d < 2; d++) {
        list_init(&f->dir_link[d]);
        list_init(&f->queue[d].ios);
    }
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

/* Behind the others of its share, where it has something queued, and nowhere else. */
static void flow_line_up(struct sched_flow *f)
{
    list_remove(&f->link);
    if (f->queued > 0)
        list_push_back(&f->share->waiting, &f->link);
    for (int d = 0; d < 2; d++) {
        list_remove(&f->dir_link[d]);
        if (f->queue[d].length > 0)
            list_push_back(&f->share->waiting_dir[d], &f->dir_link[d]);
    }
}

static void share_count(struct sched_share *sh, const struct sched_flow *f, bool in)
{
    sh->queued = in ? sh->queued + f->queued : sh->queued - f->queued;
    for (int d = 0; d < 2; d++) {
        uint32_t n = f->queue[d].length;
        sh->queued_dir[d] = in ? sh->queued_dir[d] + n : sh->queued_dir[d] - n;
    }
}

void sched_flow_join(struct sched_flow *f, struct sched_share *sh, uint64_t now_ns)
{
    struct sched_share *to = sh != NULL ? sh : &f->own, *from = f->share;
    if (to == from)
        return;
    weir_assert(to->sched == from->sched);
    from->flows--;
    to->flows++;
    f->share = to;
    if (f->queued == 0)
        return;
    share_count(from, f, false);
    if (from->queued == 0)
        sched_share_leave(from);
    else
        sched_share_rekey(from);
    bool first = to->queued == 0;
    share_count(to, f, true);
    flow_line_up(f);
    if (first)
        sched_share_enter(to, now_ns);
    else
        sched_share_rekey(to);
}

/* ---- I/Os ------------------------------------------------------------------------------------ */

const struct sched_counts *sched_account(struct sched *s, uint64_t now_ns)
{
    if (now_ns > s->accounted_ns) {
        uint64_t passed = now_ns - s->accounted_ns;
        s->counts.busy_ns += passed * s->inflight;
        s->counts.weighed_busy_ns += passed * s->weighed;
        if (s->queued > 0)
            s->counts.full_ns += passed;
        s->accounted_ns = now_ns;
    }
    return &s->counts;
}

static void slot_take(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    if (s->room > 0)
        (void)sched_account(s, now_ns);
    io->slot = true;
    io->dispatched_ns = now_ns;
    s->weighed += io->weighed;
    if (s->inflight++ == s->whole)
        s->part_ns = now_ns;
}

static void slot_give(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    weir_assert(s->inflight > 0);
    if (s->room > 0)
        (void)sched_account(s, now_ns);
    io->slot = false;
    s->weighed -= io->weighed;
    uint64_t part = s->hold_milli % 1000;
    if (s->inflight-- != s->whole + 1 || part == 0)
        return;
    uint64_t held = now_ns - s->part_ns, most = PACE_NS_MAX * part / (1000 - part);
    s->pace_ns = now_ns + (held < most ? held : most) * (1000 - part) / part;
}

/* @weighed: by its share's weight, and not because a reservation is due. */
static void io_goes(struct sched *s, struct sched_io *io, bool weighed, uint64_t now_ns)
{
    io->weighed = weighed;
    io->flow->inflight++;
    slot_take(s, io, now_ns);
}

static enum io_direction queue_dir(enum io_op op)
{
    enum io_direction dir = io_op_direction(op);
    return dir == IO_DIR_NONE ? IO_DIR_WRITE : dir; /* FLUSH keeps its place behind writes */
}

static void queue_remove(struct sched *s, struct sched_queue *q, struct sched_io *io)
{
    list_remove(&io->link);
    list_remove(&io->age_link);
    q->length--;
    io->queued = false;
    io->flow->queued--;
    io->flow->share->queued--;
    io->flow->share->queued_dir[queue_dir(io->op)]--;
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
    return &io->flow->queue[queue_dir(io->op)];
}

/* Take @io, the head of its queue or to be cancelled, out; keeps share and flow where they belong.
 */
static void io_take(struct sched *s, struct sched_io *io)
{
    struct sched_flow *f = io->flow;
    struct sched_queue *q = queue_of(io);
    queue_remove(s, q, io);
    queue_settle(s, q);
    flow_line_up(f);
    if (f->share->queued == 0)
        sched_share_leave(f->share);
    else
        sched_share_rekey(f->share);
}

static void io_wait(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    struct sched_flow *f = io->flow;
    struct sched_share *sh = f->share;
    enum io_direction dir = queue_dir(io->op);
    struct sched_queue *q = &f->queue[dir];
    list_push_back(&q->ios, &io->link);
    list_push_back(&s->ages, &io->age_link);
    io->queued = true;
    s->queued++;
    if (q->length++ == 0)
        list_push_back(&sh->waiting_dir[dir], &f->dir_link[dir]);
    if (f->queued++ == 0)
        list_push_back(&sh->waiting, &f->link);
    bool newly = sh->queued_dir[dir]++ == 0;
    if (sh->queued++ == 0)
        sched_share_enter(sh, now_ns);
    else if (newly && sh->directed)
        sched_share_rekey(sh);
}

static bool window_open(const struct sched *s, uint64_t now_ns)
{
    return s->inflight < s->whole || (s->inflight < s->room && s->pace_ns <= now_ns);
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
            io_goes(s, io, false, now_ns);
            return true;
        }
        if (s->queued == 0 && window_open(s, now_ns)) {
            sched_share_activate(f->share, now_ns);
            bool due = sched_share_pay(f->share, io, now_ns);
            s->v = f->share->p; /* nobody waits: whoever comes next starts level */
            io_goes(s, io, !due, now_ns);
            return true;
        }
    }
    (void)sched_account(s, now_ns);
    io_wait(s, io, now_ns);
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
    bool due = sched_share_pay(sh, io, now_ns);
    io_take(s, io);
    io_goes(s, io, !due, now_ns);
    return io;
}

/* The next of a share of which a reservation is due: of either direction, or of the one for which
 * it is. */
static struct sched_io *share_head_due(struct sched_share *sh)
{
    int dir;
    (void)sched_share_due_ns(sh, &dir);
    if (dir == SCHED_TOTAL)
        return share_head(sh);
    weir_assert(!list_empty(&sh->waiting_dir[dir]));
    const struct sched_flow *f =
        container_of(sh->waiting_dir[dir].next - dir, struct sched_flow, dir_link[0]);
    struct sched_io *io = flow_head(f, (uint32_t)dir);
    weir_assert(io != NULL);
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

static bool window_reserved(const struct sched *s)
{
    return s->inflight < s->room_reserved;
}

/* When the next reservation is due; UINT64_MAX: none. */
static uint64_t reserved_ns(const struct sched *s)
{
    int dir;
    return s->r.size > 0 ? sched_share_due_ns(s->r.at[1], &dir) : UINT64_MAX;
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
    if (window_reserved(s) && reserved_ns(s) <= now_ns)
        return io_dispatch(s, share_head_due(s->r.at[1]), now_ns);
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
    if (s->inflight < s->whole)
        next = 0;
    else if (s->inflight < s->room && s->pace_ns < next)
        next = s->pace_ns;
    if (window_reserved(s) && reserved_ns(s) < next)
        next = reserved_ns(s);
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
    s->counts.weighed_ios += io->weighed;
    s->counts.weighed_bytes += io->weighed ? io->bytes : 0;
    s->counts.latency_ns += took;
    uint64_t objective = f->share->terms.latency_us * 1000;
    if (objective > 0)
        flow_judge(f, judged_ns > objective);
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
    weir_assert(s->weighed >= run->weighed);
    s->inflight -= run->n;
    s->weighed -= run->weighed;
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
    slot_give(s, io, now_ns);
    io->suspended = true;
}

void sched_resume(struct sched *s, struct sched_io *io, uint64_t now_ns)
{
    if (!io->suspended)
        return;
    io->suspended = false;
    slot_take(s, io, now_ns);
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
