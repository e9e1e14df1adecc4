/* SPDX-License-Identifier: Apache-2.0 */
/* A storage's window, found and divided for all its gateways.
 *
 * Problem: gateways that search for one storage's useful parallelism each on its own disturb each
 * other: what one lets go the other takes, so that both believe the storage to be wider than it
 * is. And a share by weight over gateways needs their slots in proportion to what is owed behind
 * each: a scheduler can only divide what its own gateway has.
 *
 * Model: where two or more live gateways are before a storage at which somebody has a share, the
 * planner finds the window once for all (useful.c), and divides it:
 *
 *   a gateway where little waits   has what it uses and room for bursts; of the window it takes
 *                                  what it uses in the mean
 *   the others                     divide what is left in proportion to what is owed behind them
 *
 * What is owed is device time, as allocate.c gives it: room for streams that wait for nothing and
 * what is reserved for claims with something waiting first (less of both where that is more than
 * the window), then max-min by weight. A claim that waits at several gateways is owed at each of
 * them alike, what is reserved for reads or for writes alone where these are. Parts need not be
 * whole slots (qos/sched.c keeps time for what is beyond), but a gateway where something waits has
 * PART_LEAST: what goes by weight must go on, or nothing could be learnt of it.
 *
 * Looks at a lower window (useful.c) are divided as the window is.
 *
 * Where there is only one gateway it finds its own window, ten times as fast; and so do all when
 * the plan's lease is over.
 *
 * Invariants: (1) slots of gateways with something waiting and the mean use of the others add up
 * to the window, within a slot each; (2) an early warning divides anew and learns nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/allocate.h"
#include "server/services/state.h"

#define FULL_LEAST   0.1  /* of the time, for work to count as waiting */
#define LEFT_LEAST   0.3  /* of the window, for those that wait */
#define PART_LEAST   0.25 /* of a slot, or half an even part: where work waits it goes on */
#define STEADY       0.05 /* smaller changes are not sent */
#define CROWDED      1.1  /* of the window, in flight in all */

/* ---- what a gateway says --------------------------------------------------------------------- */

static bool storage_shared(const struct storage *t)
{
    return t != NULL && t->targets.next != t->targets.prev;
}

static struct part *promise_part(const struct stream *st)
{
    for (size_t i = 0; i < st->cover_count; i++)
        if (st->cover[i].agreed == st->agreed)
            return st->cover[i].part;
    return NULL;
}

/* What does not wait, as far as it is reserved: of @p's claim here, of which so much more was
 * served. */
static void calm_gather(struct target *t, struct part *p, double rate)
{
    double reserve = p->reserve_fits * plan_io_cost(p), before = fmin(p->calm, reserve);
    p->calm += rate;
    t->calm_reserve += fmin(p->calm, reserve) - before;
}

static void stream_gather(struct stream *st, double seconds)
{
    struct target *t = st->target;
    double rate = 0;
    if (seconds > 0 && st->e.cost_served_ns >= st->cost_before_ns)
        rate = (double)(st->e.cost_served_ns - st->cost_before_ns) / seconds;
    st->cost_before_ns = st->e.cost_served_ns;
    t->served += rate;
    struct part *p = st->agreed != NULL ? promise_part(st) : NULL;
    bool speaks = p != NULL && precedence_speaks(&st->agreed->e.agreement);
    double weight = speaks ? st->agreed->e.agreement.weight : AGREEMENT_WEIGHT;
    if (st->e.queued_now == 0) {
        t->calm += rate;
        t->calm_weight += rate > 0 ? weight : 0;
        if (speaks)
            calm_gather(t, p, rate);
        return;
    }
    if (!speaks) {
        t->waits_weight += weight;
        return;
    }
    if (p->waiting++ > 0 || p->claim->part_count > 1)
        return; /* once a claim; of those in several places slots_waiting takes account */
    t->waits_weight += weight;
    t->waits_reserve += p->reserve_fits * plan_io_cost(p);
}

void slots_gather(struct gateway *g)
{
    bool any = false;
    list_for_each(it, &g->targets) {
        struct target *t = container_of(it, struct target, link);
        double seconds = (double)(g->whole_mono_ns - t->seen.mono_ns) / 1e9;
        any = any || storage_shared(t->storage);
        t->served = t->calm = t->calm_weight = t->calm_reserve = 0;
        t->waits_weight = t->waits_reserve = 0;
        t->use = t->full = t->ios = t->bytes = 0;
        const struct target_counts *a = &t->seen, *b = &t->now;
        if (a->mono_ns > 0 && seconds > 0 && b->busy_ns >= a->busy_ns && b->ios >= a->ios) {
            t->use = (double)(b->busy_ns - a->busy_ns) / 1e9 / seconds;
            t->full = (double)(b->full_ns - a->full_ns) / 1e9 / seconds;
            t->ios = (double)(b->ios - a->ios) / seconds;
            t->bytes = (double)(b->bytes - a->bytes) / seconds;
        }
        t->seconds = t->seen.mono_ns > 0 ? seconds : 0;
        t->seen = t->now;
        t->seen.mono_ns = g->whole_mono_ns;
    }
    if (!any) { /* nothing to divide; but what was served is of now, whenever there is */
        list_for_each(it, &g->streams) {
            struct stream *st = container_of(it, struct stream, in_gateway);
            st->cost_before_ns = st->e.cost_served_ns;
        }
        return;
    }
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        p->waiting = 0;
        p->calm = 0;
    }
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        if (st->target != NULL)
            stream_gather(st, st->target->seconds);
    }
}

/* ---- the window ------------------------------------------------------------------------------ */

static bool target_live(const struct target *t)
{
    return t->gateway->e.live;
}

/* ---- the division ---------------------------------------------------------------------------- */

/* Slots that so much device time a second takes there; where nothing was served, as at the whole
 * storage, up to an even part of the window (what a gateway learnt of costs may be far from what
 * others did): what is owed where a fault let nothing through is not nothing. */
static double slots_of(const struct target *t, double cost)
{
    const struct storage *all = t->storage;
    if (t->served > 0)
        return cost * t->use / t->served;
    double even = (double)all->knee.slots_milli / 1000 / (double)(all->live > 0 ? all->live : 1);
    return fmin(cost * all->slots_of_cost, even);
}

/* The same for what does not wait, or must not: with room for what arrives unevenly, since with
 * just its mean it would wait without end. */
static double room_of(const struct target *t, double cost)
{
    double slots = slots_of(t, cost);
    return slots + 2 * sqrt(slots);
}

/* Whether its slots are what bounds it: work waits, or so much is in flight in all that the storage
 * is crowded, and it has more than an even part of the window there. */
static bool target_waits(const struct storage *t, const struct target *one)
{
    double window = (double)t->knee.slots_milli / 1000;
    return one->full > FULL_LEAST ||
           (t->inflight > CROWDED * window && one->use > window / (double)t->live);
}

/* What waits, there alone: who crowds waits as well, and keeps what of it is reserved. */
static struct allocate_claim claim_alone(const struct target *one)
{
    double weight = one->waits_weight, reserve = one->waits_reserve;
    if (one->full <= FULL_LEAST) {
        weight += one->calm_weight;
        reserve += one->calm_reserve;
    }
    if (weight <= 0)
        return (struct allocate_claim){.weight = AGREEMENT_WEIGHT}; /* nobody: asks for nothing */
    return (struct allocate_claim){.demand = INFINITY, .limit = INFINITY, .weight = weight,
                                   .reservation = room_of(one, reserve)};
}

static struct allocate_claim claim_spanning(const struct part *p)
{
    double reserve = room_of(p->target, p->reserve_fits * plan_io_cost(p));
    return (struct allocate_claim){.demand = INFINITY, .limit = INFINITY, .reservation = reserve,
                                   .weight = p->claim->agreed->e.agreement.weight};
}

static const enum gate_kind dir_kind[] = {[IO_DIR_READ] = GATE_IOPS_READ,
                                          [IO_DIR_WRITE] = GATE_IOPS_WRITE};

/* @given is owed to the claim of @p: at each place where it waits alike, but what is reserved for
 * reads, or for writes, alone is owed where these are. */
static void owe_spanning(const struct storage *t, const struct part *p, double given)
{
    double here[2] = {0}, part[2] = {0}, rest = 1;
    list_for_each(at, &p->claim->parts) {
        const struct part *q = container_of(at, struct part, in_claim);
        for (int d = 0; d < 2 && q->waiting > 0 && q->target != NULL; d++)
            here[d] += q->target->storage == t ? q->demand[dir_kind[d]] : 0;
    }
    for (int d = 0; d < 2; d++) {
        if (p->reserve <= 0 || here[d] <= 0)
            continue;
        part[d] = fmin(plan_reserve_dir(p, (enum io_direction)d) / p->reserve, rest);
        rest -= part[d];
    }
    list_for_each(at, &p->claim->parts) {
        struct part *q = container_of(at, struct part, in_claim);
        if (q->waiting == 0 || q->target == NULL || q->target->storage != t)
            continue;
        double mine = rest / (double)p->waiting_parts;
        for (int d = 0; d < 2; d++)
            mine += part[d] > 0 ? part[d] * q->demand[dir_kind[d]] / here[d] : 0;
        q->target->owed += given * mine;
    }
}

/* What does not wait at @one though other work does: it is served as it comes. */
static struct allocate_claim claim_calm(const struct target *one)
{
    double room = one->full > FULL_LEAST ? room_of(one, one->calm) : 0;
    return (struct allocate_claim){.demand = room, .limit = room, .weight = AGREEMENT_WEIGHT,
                                   .reservation = room};
}

/* What is owed behind each target where something waits, of @left slots: target.owed. Returns the
 * sum. Room for what is calm comes first, and what is reserved with it; where both together are
 * more than there is, each has less in the same proportion. */
static double owed_find(struct services *s, struct storage *t, double left)
{
    size_t n = 0, i = 0;
    double sum = 0;
    for (const struct part *p = t->waiting; p != NULL; p = p->next_waiting)
        n++;
    struct allocate_claim *c = plan_ask_room(s, n + 2 * t->live + 1);
    if (c == NULL)
        return 0;
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        if (!target_live(one) || !target_waits(t, one))
            continue;
        c[i++] = claim_calm(one);
        c[i++] = claim_alone(one);
    }
    for (const struct part *p = t->waiting; p != NULL; p = p->next_waiting)
        c[i++] = claim_spanning(p);
    allocate(c, i, fmax(left, 0.1), COLLISIONS_SHARE);
    i = 0;
    list_for_each(it, &t->targets) {
        struct target *one = container_of(it, struct target, in_storage);
        one->owed = 0;
        if (!target_live(one) || !target_waits(t, one))
            continue;
        one->owed = c[i].given + c[i + 1].given;
        i += 2;
    }
    for (const struct part *p = t->waiting; p != NULL; p = p->next_waiting, i++)
        owe_spanning(t, p, c[i].given);
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        sum += target_live(one) && target_waits(t, one) ? one->owed : 0;
    }
    return sum;
}

/* Its part of the look at the lower window, as of the window. */
static struct window_look look_part(const struct storage *t, const struct target *one)
{
    struct window_look look = t->useful.look;
    double part = (double)look.slots_milli / (double)t->knee.slots_milli;
    look.slots_milli = (uint64_t)fmax((double)one->slots_milli * part, 1);
    return look;
}

static void target_set(struct services *s, struct storage *t, struct target *one, uint64_t milli)
{
    double was = (double)one->slots_milli, now = (double)milli;
    bool alike = was > 0 && fabs(now - was) <= STEADY * was && t->divided == t->knee.slots_milli;
    one->slots_milli = alike ? one->slots_milli : milli;
    if (one->plan.slots_milli == one->slots_milli && one->plan.look.id == t->useful.look.id)
        return;
    one->plan.slots_milli = one->slots_milli;
    if (one->plan.look.id != t->useful.look.id)
        one->plan.look = look_part(t, one);
    claim_mark(s, one->gateway);
}

static void storage_look(struct storage *t)
{
    double served = 0;
    t->inflight = 0;
    t->live = 0;
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        t->inflight += target_live(one) ? one->use : 0;
        served += target_live(one) ? one->served : 0;
        t->live += target_live(one);
    }
    if (served > 0)
        t->slots_of_cost = t->inflight / served;
}

static void storage_divide(struct services *s, struct storage *t)
{
    double window = (double)t->knee.slots_milli / 1000, left = window;
    storage_look(t);
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        if (target_live(one) && !target_waits(t, one))
            left -= one->use;
    }
    left = fmax(left, LEFT_LEAST * window);
    double owed = owed_find(s, t, left), spare = window / (1 + sqrt((double)t->live));
    double least = fmin(PART_LEAST, 0.5 * window / (double)t->live);
    list_for_each(it, &t->targets) {
        struct target *one = container_of(it, struct target, in_storage);
        if (!target_live(one))
            continue;
        double free_to = fmax(spare, one->use + 3 * sqrt(one->use) + 2);
        if (target_waits(t, one) && owed > 0)
            target_set(s, t, one, (uint64_t)fmax(1000 * fmax(left * one->owed / owed, least), 1));
        else
            target_set(s, t, one, (uint64_t)(1000 * ceil(free_to)));
    }
    t->divided = t->knee.slots_milli;
}

/* ---- when ------------------------------------------------------------------------------------ */

static bool storage_on(const struct services *s, const struct storage *t)
{
    size_t live = 0;
    if (!storage_shared(t) || !t->speaks || !s->e.enforcing)
        return false;
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        if (plan_hands_off(s, one))
            return false;
        live += target_live(one);
    }
    return live > 1;
}

static void storage_off(struct services *s, struct storage *t)
{
    t->slots_on = false;
    list_for_each(it, &t->targets) {
        struct target *one = container_of(it, struct target, in_storage);
        one->slots_milli = 0;
        if (one->plan.slots_milli == 0)
            continue;
        one->plan.slots_milli = 0;
        one->plan.look = (struct window_look){.id = 0};
        claim_mark(s, one->gateway);
    }
}

static void storage_begin(struct storage *t)
{
    useful_begin(t);
    t->slots_on = true;
}

/* Claims at several places that wait somewhere: one part of each, at each storage. */
void slots_waiting(struct services *s)
{
    list_for_each(it, &s->storages)
        container_of(it, struct storage, link)->waiting = NULL;
    list_for_each(it, &s->spanning) {
        struct claim *c = container_of(it, struct claim, in_spanning);
        if (c->agreed == NULL)
            continue;
        list_for_each(at, &c->parts) {
            struct part *p = container_of(at, struct part, in_claim);
            if (p->waiting == 0 || p->target == NULL || p->target->storage == NULL)
                continue;
            struct storage *t = p->target->storage;
            if (t->waiting != NULL && t->waiting->claim == c) {
                t->waiting->waiting_parts++;
                continue;
            }
            p->waiting_parts = 1;
            p->next_waiting = t->waiting;
            t->waiting = p;
        }
    }
}

void slots_storage(struct services *s, struct storage *t)
{
    if (!storage_on(s, t)) {
        storage_off(s, t);
        return;
    }
    if (!t->slots_on)
        storage_begin(t);
    if (t->learnt != s->period.whole_number)
        useful_learn(s, t); /* once a period, though its plan may begin anew */
    t->learnt = s->period.whole_number;
    storage_divide(s, t);
}

void slots_resplit(struct services *s, struct gateway *g)
{
    slots_waiting(s);
    list_for_each(it, &g->targets) {
        struct storage *t = container_of(it, struct target, link)->storage;
        if (t != NULL && t->slots_on && storage_on(s, t))
            storage_divide(s, t);
    }
}
