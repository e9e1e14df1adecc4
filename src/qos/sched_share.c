/* SPDX-License-Identifier: Apache-2.0 */
/* Shares of a scheduler: their tags, and the heaps that order them.
 *
 * Model: mClock's tags (sched.c has the idea). Tag R is when a reservation is next due: each I/O of
 * the phase of reservations moves it on by 1/r, an I/O of the phase of weights does not, so that
 * what a share gets by weight is not held against its reservation. Tag P counts device time over
 * weight for every I/O, whichever phase; V is the least P of those that waited when one went last.
 *
 *   becomes active   R = max(R, now - credit)            P = min(max(P, V), V + ahead)
 *   goes             R = max(R, now - behind) + 1/r     P += cost/w
 *                      if it was due
 *   elsewhere        R += s/r, at most now + 1 s         P += s/w
 *
 * What was owed while less than all reservations could be served is forgotten but for a tenth of a
 * second: a closed loop that always waits would gather seconds of it otherwise, and then take every
 * turn from a share that sleeps in between.
 *
 * A share may have six reservations: I/Os and bytes, of reads, of writes, and of both together. An
 * I/O is due when any of the four that it counts for is; then all four move, those that were not
 * due to one second from now at most, so that a small reservation beside a great one is not ahead
 * for ever. The share stands in the heap of R by the least of those for which it has something
 * queued.
 *
 * Invariants: (1) a share is in the heap of P exactly when it has something queued that takes a
 * slot, in the heap of R exactly when it has a reservation besides; (2) tags P are compared by
 * difference, so that they may wrap; those of active shares lie within AHEAD of V, or behind it.
 *
 * What may fail: memory, at sched_new. */
#include <stdlib.h>

#include "base/assert.h"
#include "qos/sched_private.h"

#define NS_PER_S_ UINT64_C(1000000000)
/* P moves on by cost x P_SCALE / weight. */
#define P_SCALE 1600u
/* Device time (1,000 servers for a second) that a share's P may be ahead of V for: what others
 * served for it can hold it back no longer than that. */
#define AHEAD_NS (1000u * NS_PER_S_)
/* Tag R at most so far ahead, and so far behind. */
#define R_AHEAD_NS  NS_PER_S_
#define R_BEHIND_NS (NS_PER_S_ / 10u)

/* ---- tags ------------------------------------------------------------------------------------ */

static bool tag_reserved(const struct sched_tag *t)
{
    return (t->io_ns | t->byte_ps) != 0;
}

static uint64_t tag_due_ns(const struct sched_tag *t)
{
    uint64_t io = t->io_ns > 0 ? t->io : UINT64_MAX;
    uint64_t bytes = t->byte_ps > 0 ? t->bytes : UINT64_MAX;
    return io < bytes ? io : bytes;
}

uint64_t sched_share_due_ns(const struct sched_share *sh, int *ret_dir)
{
    uint64_t due = tag_due_ns(&sh->tag[SCHED_TOTAL]);
    *ret_dir = SCHED_TOTAL;
    for (int d = 0; sh->directed && d < 2; d++) {
        uint64_t at = tag_due_ns(&sh->tag[d]);
        if (sh->queued_dir[d] == 0 || at >= due)
            continue;
        due = at;
        *ret_dir = d;
    }
    return due;
}

static uint64_t share_r(const struct sched_share *sh)
{
    int dir;
    return sh->directed ? sched_share_due_ns(sh, &dir) : tag_due_ns(&sh->tag[SCHED_TOTAL]);
}

static bool share_reserved(const struct sched_share *sh)
{
    return sh->directed || tag_reserved(&sh->tag[SCHED_TOTAL]);
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

static uint64_t byte_step(const struct sched_tag *t, uint64_t bytes)
{
    /* bytes < 2^40 and picoseconds a byte < 10^12: in two parts so that nothing overflows. */
    return bytes / 1000 * t->byte_ps + bytes % 1000 * t->byte_ps / 1000;
}

/* ---- heaps ----------------------------------------------------------------------------------- */

static inline bool heap_before(const struct sched_share *a, const struct sched_share *b, bool is_r)
{
    return is_r ? r_before(a, b) : p_before(a, b);
}

static inline void heap_place(struct sched_heap *h, uint32_t i, struct sched_share *sh, bool is_r)
{
    h->at[i] = sh;
    if (is_r)
        sh->r_index = i;
    else
        sh->p_index = i;
}

static void heap_up(struct sched_heap *h, uint32_t i, struct sched_share *sh, bool is_r)
{
    for (; i > 1 && heap_before(sh, h->at[i / 2], is_r); i /= 2)
        heap_place(h, i, h->at[i / 2], is_r);
    heap_place(h, i, sh, is_r);
}

static void heap_down(struct sched_heap *h, uint32_t i, struct sched_share *sh, bool is_r)
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

static void heap_insert(struct sched_heap *h, struct sched_share *sh, bool is_r)
{
    weir_assert(h->size < h->capacity);
    heap_up(h, ++h->size, sh, is_r);
}

static void heap_remove(struct sched_heap *h, struct sched_share *sh, bool is_r)
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
void sched_share_rekey(struct sched_share *sh)
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

static void tag_set(struct sched_tag *t, uint64_t iops, uint64_t bytes_s, uint64_t now_ns)
{
    if (!tag_reserved(t))
        t->io = t->bytes = now_ns;
    t->io_ns = iops == 0 ? 0 : NS_PER_S_ / iops;
    t->byte_ps = bytes_s == 0 ? 0 : NS_PER_S_ * 1000 / bytes_s;
    if (iops > 0 && t->io_ns == 0)
        t->io_ns = 1;
    if (bytes_s > 0 && t->byte_ps == 0)
        t->byte_ps = 1;
}

static void share_set_terms(struct sched_share *sh, const struct sched_terms *t, uint64_t now_ns)
{
    weir_assert(t->weight >= 1);
    weir_assert(t->weight <= SCHED_WEIGHT_MAX);
    sh->terms = *t;
    tag_set(&sh->tag[SCHED_TOTAL], t->reserve_iops, t->reserve_bytes_s, now_ns);
    for (int d = 0; d < 2; d++)
        tag_set(&sh->tag[d], t->reserve_dir_iops[d], t->reserve_dir_bytes_s[d], now_ns);
    sh->directed = tag_reserved(&sh->tag[0]) || tag_reserved(&sh->tag[1]);
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
    list_init(&sh->waiting_dir[0]);
    list_init(&sh->waiting_dir[1]);
    share_set_terms(sh, t, now_ns);
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

static void tag_elsewhere(struct sched_tag *t, uint64_t ios, uint64_t bytes, uint64_t now_ns)
{
    if (ios > 0 && t->io_ns > 0)
        t->io = r_moved(t->io, ios < R_AHEAD_NS ? ios * t->io_ns : R_AHEAD_NS, now_ns);
    if (bytes > 0 && t->byte_ps > 0)
        t->bytes = r_moved(t->bytes, bytes < (UINT64_C(1) << 40) ? byte_step(t, bytes) : R_AHEAD_NS,
                           now_ns);
}

void sched_share_change(struct sched_share *sh, const struct sched_terms *t, uint64_t now_ns)
{
    const struct sched_terms old = sh->terms;
    share_set_terms(sh, t, now_ns);
    tag_elsewhere(&sh->tag[SCHED_TOTAL], added(t->elsewhere_ios, old.elsewhere_ios),
                  added(t->elsewhere_bytes, old.elsewhere_bytes), now_ns);
    for (int d = 0; d < 2; d++)
        tag_elsewhere(&sh->tag[d], added(t->elsewhere_dir_ios[d], old.elsewhere_dir_ios[d]),
                      added(t->elsewhere_dir_bytes[d], old.elsewhere_dir_bytes[d]), now_ns);
    uint64_t cost = added(t->elsewhere_cost_ns, old.elsewhere_cost_ns);
    if (cost > 0) {
        sh->p += p_step(sh, cost);
        uint64_t most = sh->sched->v + p_step(sh, AHEAD_NS);
        if ((int64_t)(sh->p - most) > 0)
            sh->p = most;
    }
    sched_share_rekey(sh);
}

void sched_share_fini(struct sched_share *sh)
{
    weir_assert(sh->flows == 0);
    weir_assert(sh->queued == 0);
    weir_assert(sh->p_index == 0);
    weir_assert(sh->r_index == 0);
    sh->sched = NULL;
}

static void tag_activate(struct sched_tag *t, uint64_t least)
{
    if (t->io < least)
        t->io = least;
    if (t->bytes < least)
        t->bytes = least;
}

void sched_share_activate(struct sched_share *sh, uint64_t now_ns)
{
    struct sched *s = sh->sched;
    uint64_t credit = credit_ns(sh);
    uint64_t least = now_ns > credit ? now_ns - credit : 0;
    tag_activate(&sh->tag[SCHED_TOTAL], least);
    if (sh->directed) {
        tag_activate(&sh->tag[0], least);
        tag_activate(&sh->tag[1], least);
    }
    int64_t ahead = (int64_t)(sh->p - s->v);
    if (ahead < 0)
        sh->p = s->v;
    else if ((uint64_t)ahead > p_step(sh, AHEAD_NS))
        sh->p = s->v + p_step(sh, AHEAD_NS);
}

void sched_share_enter(struct sched_share *sh, uint64_t now_ns)
{
    sched_share_activate(sh, now_ns);
    heap_insert(&sh->sched->p, sh, false);
    if (share_reserved(sh))
        heap_insert(&sh->sched->r, sh, true);
}

void sched_share_leave(struct sched_share *sh)
{
    heap_remove(&sh->sched->p, sh, false);
    heap_remove(&sh->sched->r, sh, true);
}

static void tag_pay(struct sched_tag *t, uint64_t bytes, uint64_t now_ns)
{
    tag_activate(t, now_ns > R_BEHIND_NS ? now_ns - R_BEHIND_NS : 0);
    if (t->io_ns > 0)
        t->io = t->io <= now_ns ? t->io + t->io_ns : r_moved(t->io, t->io_ns, now_ns);
    if (t->byte_ps > 0) {
        uint64_t step = byte_step(t, bytes);
        t->bytes = t->bytes <= now_ns ? t->bytes + step : r_moved(t->bytes, step, now_ns);
    }
}

bool sched_share_pay(struct sched_share *sh, const struct sched_io *io, uint64_t now_ns)
{
    struct sched_tag *total = &sh->tag[SCHED_TOTAL], *own = &sh->tag[io_op_direction(io->op)];
    bool due = tag_due_ns(total) <= now_ns || (sh->directed && tag_due_ns(own) <= now_ns);
    if (due) {
        tag_pay(total, io->bytes, now_ns);
        if (sh->directed)
            tag_pay(own, io->bytes, now_ns);
        sh->reserved_ios++;
        io->flow->reserved_ios++;
    }
    sh->p += p_step(sh, io->cost_ns);
    sh->cost_dispatched_ns += io->cost_ns;
    return due;
}
