/* SPDX-License-Identifier: Apache-2.0 */
/* What is due once a period over everything that this process knows, in pieces.
 *
 * Problem: dividing limits, planning reservations, dividing slots and telling gateways takes tens
 * of milliseconds where there are a hundred thousand streams. An early warning must not wait so
 * long.
 *
 * Model: a list of stages, each of which walks one list. A piece takes as many elements of it as
 * cost about PIECE_COST, then returns; messages are handled between pieces. What one element costs
 * is counted in parts of claims touched, which are about half a microsecond each.
 *
 *   RESTS --> DIRTY -> SPLIT -> BEGIN -> ASK -> STORAGES -> SHARED -> TARGETS -> WAITING -> SLOTS
 *     ^                           ^                                                           |
 *     |       (period_broken) ----+      (documents) -> SEND_ALL -> SEND                      |
 *     +-----------------------------------------------------------<--+------------------------+
 *
 * The walk survives whatever happens between two pieces: an element that goes is stepped over
 * first (period_leaves), what comes is put at the end. What a plan keeps of parts does not survive
 * that a part goes: the plan begins anew. Where that, or people who change documents, would keep it
 * from ever ending, the RESTARTS_MAX-th time is not cut in pieces.
 *
 * Not cut: one claim (its division needs all its parts), the scaling of one storage, one gateway's
 * controls, and who waits for slots: each is bounded by the streams that a process holds.
 *
 * Invariants: (1) a plan that ends was made of parts that were all there; (2) between pieces no
 * pointer to what may go is kept but those above; (3) where config.in_pieces is not set nothing is
 * under way when a call from outside returns. */
#include "base/assert.h"
#include "server/services/state.h"

#define PIECE_COST   1000u
#define RESTARTS_MAX 3u
/* Of telling one gateway, without its streams, and with them. */
#define TELL_COST        40u
#define TELL_COST_STREAM 20u

typedef size_t walk_one(struct services *s, struct list *at);

/* Walk @head from where it stopped; true at its end. */
static bool walk(struct services *s, const struct list *head, walk_one *one, size_t *left)
{
    struct period *p = &s->period;
    if (p->at == NULL)
        p->at = head->next;
    while (p->at != head && *left > 0) {
        struct list *at = p->at;
        p->at = at->next; /* it may go, or be taken out, by what is done to it */
        size_t cost = one(s, at);
        *left -= cost < *left ? cost : *left;
    }
    return p->at == head;
}

static size_t split_dirty(struct services *s, struct list *at)
{
    struct claim *c = container_of(at, struct claim, in_dirty);
    size_t cost = 2 * c->part_count + 1;
    claim_split(s, c);
    return cost;
}

static size_t split_spanning(struct services *s, struct list *at)
{
    struct claim *c = container_of(at, struct claim, in_spanning);
    claim_split(s, c);
    return 2 * c->part_count + 1;
}

static size_t begin(struct services *s, struct list *at)
{
    struct storage *t = container_of(at, struct storage, link);
    (void)s;
    size_t cost = 1;
    plan_storage_begin(t);
    list_for_each(it, &t->targets)
        cost++;
    return cost;
}

static size_t ask(struct services *s, struct list *at)
{
    struct claim *c = container_of(at, struct claim, in_spanning);
    plan_claim_ask(s, c);
    return 2 * c->part_count + 1;
}

static size_t share(struct services *s, struct list *at)
{
    struct claim *c = container_of(at, struct claim, in_spanning);
    plan_claim_shared(s, c);
    return 2 * c->part_count + 1;
}

static size_t target(struct services *s, struct list *at)
{
    plan_target(s, container_of(at, struct target, e.link));
    return 1;
}

static size_t slots(struct services *s, struct list *at)
{
    struct storage *t = container_of(at, struct storage, link);
    size_t cost = 1;
    slots_storage(s, t);
    list_for_each(it, &t->targets)
        cost += 2;
    return cost;
}

static size_t tell(struct services *s, struct gateway *g)
{
    dispatch_gateway(s, g);
    return TELL_COST + TELL_COST_STREAM * g->e.stream_count;
}

static size_t tell_changed(struct services *s, struct list *at)
{
    struct gateway *g = container_of(at, struct gateway, in_changed);
    list_remove(at);
    return tell(s, g);
}

static size_t tell_one(struct services *s, struct list *at)
{
    return tell(s, container_of(at, struct gateway, e.link));
}

/* --- reservations against capacity: storages, and the targets of each ------------------- */

/* The targets of @t from where it stopped; true at their end. */
static bool walk_targets(struct services *s, struct storage *t, size_t *left)
{
    struct period *p = &s->period;
    if (p->target == NULL)
        p->target = t->targets.next;
    while (p->target != &t->targets && *left > 0) {
        struct target *one = container_of(p->target, struct target, in_storage);
        p->target = p->target->next;
        if (p->step == STORAGE_GATHER)
            plan_target_gather(one);
        else
            plan_target_alone(s, one, p->anew);
        size_t cost = one->gateway->e.stream_count + 1;
        *left -= cost < *left ? cost : *left;
    }
    return p->target == &t->targets;
}

static void storage_step(struct services *s, enum storage_step step)
{
    s->period.step = step;
    s->period.target = NULL;
}

/* True: it is done. */
static bool storage_plan(struct services *s, struct storage *t, size_t *left)
{
    struct period *p = &s->period;
    if (p->step == STORAGE_OPEN) {
        bool was = t->over;
        t->plan.owed = plan_storage_open(t) || was || t->plan.owed;
        storage_step(s, STORAGE_GATHER);
    }
    if (p->step == STORAGE_GATHER) {
        if (t->over && !walk_targets(s, t, left))
            return false;
        plan_storage_close(s, t);
        storage_step(s, STORAGE_ALONE);
    }
    if (t->plan.owed || p->anew) {
        if (!walk_targets(s, t, left))
            return false;
        t->plan.owed = false;
    }
    storage_step(s, STORAGE_OPEN);
    return true;
}

static bool storages(struct services *s, size_t *left)
{
    struct period *p = &s->period;
    if (p->at == NULL)
        p->at = s->storages.next;
    while (p->at != &s->storages && *left > 0) {
        if (!storage_plan(s, container_of(p->at, struct storage, link), left))
            return false;
        p->at = p->at->next;
        *left -= 1 < *left ? 1 : *left;
    }
    return p->at == &s->storages;
}

/* --- stages ----------------------------------------------------------------------------- */

static void plan_begins(struct services *s)
{
    struct period *p = &s->period;
    p->number++;
    p->anew = p->anew || s->planned_generation != s->generation || s->planned_touched != s->touched;
    s->planned_generation = s->generation;
    s->planned_touched = s->touched;
    storage_step(s, STORAGE_OPEN);
}

/* True: it is done with. */
static bool stage_run(struct services *s, size_t *left)
{
    switch (s->period.stage) {
    case PERIOD_RESTS:
        return true;
    case PERIOD_DIRTY:
        return walk(s, &s->dirty, split_dirty, left);
    case PERIOD_SPLIT:
        return walk(s, &s->spanning, split_spanning, left);
    case PERIOD_BEGIN:
        if (s->period.at == NULL)
            plan_begins(s);
        return walk(s, &s->storages, begin, left);
    case PERIOD_ASK:
        return walk(s, &s->spanning, ask, left);
    case PERIOD_STORAGES:
        return storages(s, left);
    case PERIOD_SHARED:
        return walk(s, &s->spanning, share, left);
    case PERIOD_TARGETS:
        return walk(s, &s->e.targets, target, left);
    case PERIOD_WAITING:
        slots_waiting(s);
        return true;
    case PERIOD_SLOTS:
        return walk(s, &s->storages, slots, left);
    case PERIOD_SEND_ALL:
        return walk(s, &s->e.gateways, tell_one, left);
    case PERIOD_SEND:
        return walk(s, &s->changed, tell_changed, left);
    }
    weir_unreachable("a stage out of its enum");
}

static enum period_stage stage_after(struct services *s)
{
    struct period *p = &s->period;
    switch (p->stage) {
    case PERIOD_RESTS:
    case PERIOD_SEND:
        return PERIOD_RESTS;
    case PERIOD_SPLIT: /* before documents are here nothing is planned */
        return s->loaded ? PERIOD_BEGIN : PERIOD_WAITING;
    case PERIOD_TARGETS:
        p->anew = false;
        return p->whole ? PERIOD_WAITING : PERIOD_SEND_ALL;
    case PERIOD_SLOTS:
        return p->all ? PERIOD_SEND_ALL : PERIOD_SEND;
    case PERIOD_DIRTY:
    case PERIOD_BEGIN:
    case PERIOD_ASK:
    case PERIOD_STORAGES:
    case PERIOD_SHARED:
    case PERIOD_WAITING:
    case PERIOD_SEND_ALL:
        return p->stage + 1;
    }
    weir_unreachable("a stage out of its enum");
}

static void stage_set(struct services *s, enum period_stage stage)
{
    s->period.stage = stage;
    s->period.at = NULL;
}

bool period_step(struct services *s)
{
    struct period *p = &s->period;
    size_t left = p->restarts >= RESTARTS_MAX ? SIZE_MAX : PIECE_COST;
    while (p->stage != PERIOD_RESTS && left > 0) {
        if (!stage_run(s, &left))
            continue; /* nothing is left of the piece */
        stage_set(s, stage_after(s));
    }
    if (p->stage != PERIOD_RESTS)
        return true;
    if (p->whole)
        quota_period(s);
    p->whole = p->all = false;
    p->restarts = 0;
    return false;
}

static void plan_anew(struct services *s)
{
    s->period.restarts++;
    stage_set(s, s->loaded ? PERIOD_BEGIN : PERIOD_WAITING);
}

void period_ask(struct services *s, enum period_what what)
{
    struct period *p = &s->period;
    bool sending = p->stage == PERIOD_SEND || p->stage == PERIOD_SEND_ALL;
    switch (what) {
    case PERIOD_WHOLE:
        weir_assert(p->stage == PERIOD_RESTS);
        p->whole = true;
        p->whole_number++;
        stage_set(s, PERIOD_DIRTY);
        break;
    case PERIOD_PLAN:
        p->all = true;
        if (!s->loaded)
            what = PERIOD_TELL; /* nothing is planned yet */
        else if (p->stage == PERIOD_RESTS || p->stage >= PERIOD_BEGIN)
            plan_anew(s);
        break;
    case PERIOD_TELL:
        p->all = true;
        break;
    }
    if (what == PERIOD_TELL && (p->stage == PERIOD_RESTS || sending))
        stage_set(s, PERIOD_SEND_ALL);
    while (!s->config.in_pieces && period_step(s))
        continue;
}

void period_leaves(struct services *s, const struct list *l)
{
    struct period *p = &s->period;
    if (s->place == l)
        s->place = l->next;
    if (p->target == l)
        p->target = l->next;
    if (p->at != l)
        return;
    p->at = l->next;
    storage_step(s, STORAGE_OPEN);
}

void period_broken(struct services *s)
{
    if (s->period.stage >= PERIOD_BEGIN && s->period.stage <= PERIOD_SLOTS)
        plan_anew(s);
}
